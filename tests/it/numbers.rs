//! Agreement with other toolkits: `tests/golden/metrics.py` and `method.py` computed the numbers, and state
//! the versions.

use std::{fs, path::Path};

use cac::{
    Scorer,
    arch::Architecture,
    export::{self, ExportOptions, ThresholdRule},
    fit::{Examples, fit},
    image::{self, Input},
    import::{self, ImportOptions},
    method::{Anchors, LastLayer, LogitScore, Loss, RejectionScore, Variant},
    metrics::{Bootstrap, Metrics},
    report::{Report, ReportOptions},
    run::{CheckBatch, Checkpoint, Facts, HeldOut},
    weights::Weights,
};
use ndarray::{Array2, Array4, ArrayView2};
use safetensors::SafeTensors;
use serde_json::Value;

use crate::{checkpoint, fill, filled, golden};

/// The scores of known or of unknown images; infinite ones are written as text.
fn scores(value: &Value) -> Vec<f64> {
    let score = |value: &Value| value.as_f64().unwrap_or_else(|| value.as_str().unwrap().parse().unwrap());
    value.as_array().unwrap().iter().map(score).collect()
}

fn flags(value: &Value) -> Vec<bool> {
    value.as_array().unwrap().iter().map(|value| value.as_bool().unwrap()).collect()
}

/// Known scores, correct flags and unknown scores of a case, which may be a formula.
fn case(case: &Value) -> (Vec<f64>, Vec<bool>, Vec<f64>) {
    let Some(generated) = case.get("generated") else {
        return (scores(&case["known"]), flags(&case["right"]), scores(&case["unknown"]));
    };
    let count = |side: &str| generated[side].as_u64().unwrap();
    let (known, unknown) = (count("known"), count("unknown"));
    let uniform = |i: u64| fill::unit(fill::splitmix64(i));
    let single = |value: f64| f64::from(value as f32);
    (
        (0..known).map(|i| single(uniform(i))).collect(),
        (0..known).map(|i| !fill::splitmix64(i).is_multiple_of(10)).collect(),
        (0..unknown).map(|j| single(uniform(known + j).sqrt())).collect(),
    )
}

fn metrics_file() -> Value {
    serde_json::from_slice(&fs::read(golden("metrics.json")).unwrap()).unwrap()
}

#[test]
fn every_metric_matches_to_the_last_digit() {
    for golden in metrics_file()["cases"].as_array().unwrap() {
        let (known, right, unknown) = case(golden);
        let options = ReportOptions {
            bootstrap: Some(Bootstrap { resamples: 2, seed: 0 }),
            ..ReportOptions::default()
        };
        let report = Report::new(&known, Some(&right), &[("unknown", &unknown)], &options).unwrap();
        let expected = |name: &str| golden["expected"][name].as_f64().unwrap();
        let metrics = report.rows[0].metrics;
        for (name, value) in metrics.named().chain([("accuracy", report.accuracy.unwrap())]) {
            let expected = expected(name);
            assert!((value - expected).abs() <= 1e-12, "{}, {name}: {value}, {expected}", golden["name"]);
        }
        let interval = report.rows[0].intervals.unwrap().metrics.auroc;
        let (auroc, ends) = (metrics.auroc, golden["expected"]["delong"].as_array());
        let normal = 1.959_963_984_540_054_f64.powi(2);
        let fewest = known.len().min(unknown.len()) as f64;
        let [low, high] = match ends.map(|ends| ends[1].as_f64().unwrap() - auroc) {
            // Without a variance of the scores the interval is 0 to 1.
            None => [0.0, 1.0],
            // Wilson's interval, for none or all of the smaller set's images.
            Some(_) if auroc == 0.0 => [0.0, normal / (fewest + normal)],
            Some(_) if auroc == 1.0 => [fewest / (fewest + normal), 1.0],
            // DeLong's normal interval, its reach transformed to the logit by the chain rule.
            Some(reach) => [-1.0, 1.0].map(|side| {
                let odds = auroc / (1.0 - auroc) * (side * reach / (auroc * (1.0 - auroc))).exp();
                odds / (1.0 + odds)
            }),
        };
        let (n, m) = (known.len() as f64, unknown.len() as f64);
        // Newcombe's method 5: an end is as far from the AUROC as its own interval reaches.
        let within = |end: f64| {
            let more = (n + m) / 2.0 - 1.0;
            let factor = 1.0 + more * (1.0 - end) / (2.0 - end) + more * end / (1.0 + end);
            (end - auroc).abs() - (normal * end * (1.0 - end) * factor / (n * m)).sqrt()
        };
        for (found, expected) in [(interval.low, low), (interval.high, high)] {
            // It applies to few images, and an AUROC of neither 0 nor 1 that has a variance.
            let is_wider =
                fewest < 50.0 && fewest > 1.0 && auroc > 0.0 && auroc < 1.0 && within(expected) < 0.0;
            let difference = if is_wider { within(found) } else { found - expected };
            assert!(difference.abs() <= 1e-12, "{}: {interval:?}, {low} to {high}", golden["name"]);
        }
    }
}

/// The faults that `docs/metrics.md` lists: the toolkit's number and the exact one.
#[test]
fn metrics_are_exact_where_other_toolkits_differ() {
    let file = metrics_file();
    let mut seen = 0;
    for fault in file["faults"].as_array().unwrap() {
        let name = fault["metric"].as_str().unwrap();
        let (theirs, exact) = (&fault["theirs"], &fault["exact"]);
        let ours = if let "cac loss" | "score" = name {
            let logits: Vec<Vec<f64>> = serde_json::from_value(fault["case"]["logits"].clone()).unwrap();
            let (rows, classes) = (logits.len(), logits[0].len());
            let logits = Array2::from_shape_vec((rows, classes), logits.concat()).unwrap();
            let magnitude = fault["case"]["magnitude"].as_f64().unwrap();
            let single = logits.mapv(|z| z as f32);
            let distances = Anchors::fixed(classes, magnitude).distances(single.view());
            if name == "score" {
                // Both definitions are available; theirs scores an image further out as more known.
                let of = |score: LogitScore| -> Vec<f64> {
                    score
                        .rejection(single.view(), distances.view())
                        .iter()
                        .map(|&score| score.into())
                        .collect()
                };
                let numbers = |value: &Value| serde_json::from_value::<Vec<f64>>(value.clone()).unwrap();
                let close = |a: &[f64], b: &[f64]| {
                    a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-4 * b.abs().max(1.0))
                };
                assert!(close(&of(LogitScore::PytorchOod), &numbers(theirs)));
                assert!(close(&of(LogitScore::Cac), &numbers(exact)));
                assert!(of(LogitScore::PytorchOod)[1] < of(LogitScore::PytorchOod)[0]);
                assert!(of(LogitScore::MinDistance)[1] > of(LogitScore::MinDistance)[0]);
                seen += 1;
                continue;
            }
            let labels: Vec<i64> = serde_json::from_value(fault["case"]["labels"].clone()).unwrap();
            let weight = fault["case"]["weight"].as_f64().unwrap();
            let loss = Loss { variant: Variant::PytorchOod, magnitude, weight };
            let value = loss.value(logits.view(), &labels);
            assert!((value - theirs.as_f64().unwrap()).abs() < 1e-12, "pytorch-ood's loss");
            // The tuplet term of the paper, on the same squared distances.
            tuplet_of_squares(logits.view(), &labels, magnitude)
        } else {
            let (known, right, unknown) = case(&fault["case"]);
            let metrics = Metrics::new(&known, Some(&right), &unknown).unwrap();
            metrics.named().find(|(other, _)| *other == name).unwrap().1
        };
        let (theirs, exact) = (theirs.as_f64().unwrap(), exact.as_f64().unwrap());
        assert!((ours - exact).abs() <= 1e-12, "{} {name}: {ours}, {exact}", fault["toolkit"]);
        assert!((theirs - exact).abs() > 1e-3, "{} {name} is not a fault", fault["toolkit"]);
        seen += 1;
    }
    assert!(seen >= 16, "{seen} faults");
}

fn tuplet_of_squares(logits: ArrayView2<f64>, labels: &[i64], magnitude: f64) -> f64 {
    let classes = logits.ncols();
    let rows = logits.rows().into_iter().zip(labels).map(|(z, &label)| {
        let square = |c: usize| {
            let parts = z.iter().enumerate().map(|(j, z)| (z - if j == c { magnitude } else { 0.0 }).powi(2));
            parts.sum::<f64>()
        };
        let own = label as usize;
        (0..classes).filter(|&c| c != own).map(|c| (square(own) - square(c)).exp()).sum::<f64>().ln_1p()
    });
    rows.sum::<f64>() / labels.len() as f64
}

/// The tensors of a golden file in their own precision.
struct Golden(Vec<u8>);

impl Golden {
    fn named(file: &str) -> Self {
        Self(fs::read(golden(file)).unwrap())
    }

    fn values(&self, name: &str) -> Vec<f64> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let tensor = file.tensor(name).unwrap();
        let bytes = tensor.data();
        match tensor.dtype() {
            safetensors::Dtype::F64 => bytes.as_chunks().0.iter().map(|&b| f64::from_le_bytes(b)).collect(),
            safetensors::Dtype::F32 => {
                bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b).into()).collect()
            }
            safetensors::Dtype::I64 => {
                bytes.as_chunks().0.iter().map(|&b| i64::from_le_bytes(b) as f64).collect()
            }
            other => panic!("{name} has type {other:?}"),
        }
    }

    fn matrix(&self, name: &str, columns: usize) -> Array2<f64> {
        let values = self.values(name);
        Array2::from_shape_vec((values.len() / columns, columns), values).unwrap()
    }
}

fn all_close(what: &str, found: impl IntoIterator<Item = f64>, expected: &[f64], tolerance: f64) {
    let found: Vec<f64> = found.into_iter().collect();
    assert_eq!(found.len(), expected.len(), "{what}");
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let difference = (found - expected).abs() / expected.abs().max(1.0);
        assert!(difference <= tolerance, "{what} {index}: {found}, {expected}");
    }
}

#[test]
fn losses_distances_and_scores_match_pytorch() {
    let method = Golden::named("method.safetensors");
    for classes in [2, 5] {
        let of = |name: &str| format!("c{classes}.{name}");
        let logits = method.matrix(&of("logits"), classes);
        let labels: Vec<i64> = method.values(&of("labels")).iter().map(|&label| label as i64).collect();
        for (variant, name) in [(Variant::Paper, "paper"), (Variant::PytorchOod, "pytorch_ood")] {
            let loss = Loss::new(variant);
            let value = loss.value(logits.view(), &labels);
            all_close(&of(name), [value], &method.values(&of(&format!("{name}.loss"))), 1e-12);
            let rows = logits
                .rows()
                .into_iter()
                .zip(&labels)
                .map(|(row, &label)| loss.value(row.insert_axis(ndarray::Axis(0)), &[label]));
            all_close(&of(name), rows, &method.values(&of(&format!("{name}.losses"))), 1e-12);
        }
        let single = logits.mapv(|z| z as f32);
        let found = Anchors::fixed(classes, 10.0).distances(single.view());
        all_close(&of("distances"), found.iter().map(|&d| d.into()), &method.values(&of("distances")), 1e-6);
        for (score, name, magnitude) in [
            (LogitScore::Cac, "cac", 10.0),
            (LogitScore::MinDistance, "min_distance", 10.0),
            (LogitScore::PytorchOod, "pytorch_ood", 5.0),
            (LogitScore::Msp, "msp", 1.0),
            (LogitScore::MaxLogit, "max_logit", 1.0),
            (LogitScore::ENERGY, "energy", 1.0),
            (LogitScore::Energy { temperature: 5.0 }, "energy_5", 1.0),
        ] {
            let distances = Anchors::fixed(classes, magnitude).distances(single.view());
            let found = score.rejection(single.view(), distances.view());
            let expected = method.values(&of(&format!("score.{name}")));
            for (index, (&found, &expected)) in found.iter().zip(&expected).enumerate() {
                let d = distances.row(index).fold(0.0_f32, |most, &d| most.max(d));
                // A distance has seven digits. Far away its error dominates the softmin of two close
                // distances, which is multiplied by the distance.
                let d = f64::from(if score == LogitScore::PytorchOod { d * d } else { d });
                let tolerance = if d < 100.0 { 1e-5 * expected.abs().max(1.0) } else { 1e-7 * d * d };
                let difference = (f64::from(found) - expected).abs();
                assert!(difference <= tolerance, "{} {index}: {found}, {expected}", of(name));
            }
        }
    }
}

#[test]
fn wide_resnet_40_2_logits_match_pytorch() {
    let method = Golden::named("method.safetensors");
    let architecture = Architecture::new("wide-resnet", &[]).unwrap();
    let pixels: Vec<f32> = fill::images(4).into_iter().map(image::unit).collect();
    let logits = method.matrix("wrn.logits.eval", 10).mapv(|value| value as f32);
    let small = checkpoint(1, Variant::Paper);
    let checkpoint = Checkpoint {
        network: filled(&architecture, 10),
        facts: Facts {
            architecture,
            classes: (0..10).map(|class| class.to_string()).collect(),
            ..small.facts
        },
        anchors: Anchors::fixed(10, 10.0),
        held_out: HeldOut { choosing: Array2::zeros((0, 10)), calibrating: Array2::zeros((0, 10)) },
        features: None,
        mirrored: None,
        test: None,
        check: CheckBatch { images: Array4::from_shape_vec((4, 3, 32, 32), pixels.clone()).unwrap(), logits },
    };

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    let options = ExportOptions { threshold: ThresholdRule::Value(1.0), ..ExportOptions::default() };
    export::export(&checkpoint, &options, &path).unwrap();
    let images = Array4::from_shape_vec((4, 3, 32, 32), pixels).unwrap();
    for provider in crate::PROVIDERS {
        let logits = Scorer::open(&path, provider).unwrap().score(images.view()).unwrap().logits;
        let found = logits.iter().map(|&logit| f64::from(logit));
        all_close(&provider.to_string(), found, &method.values("wrn.logits.eval64"), 1e-5);
    }
}

#[test]
fn logits_of_large_networks_match_timm() {
    let golden = Weights::read(&golden("families.safetensors")).unwrap();
    for (name, family, settings, [height, width]) in fill::CASES {
        let architecture = Architecture::new(family, settings).unwrap();
        let mut weights = Weights::new(Path::new(name));
        for (name, shape) in
            architecture.layers(5, height, width).unwrap().iter().flat_map(|layer| layer.parameters())
        {
            weights.insert(&name, &shape, fill::values_scaled(&name, &shape, fill::Scale::Inputs));
        }
        let input = Input { height, width, ..architecture.default_input() };
        let pixels = fill::bytes(2 * input.values()).into_iter().map(image::unit).collect();
        let options =
            ImportOptions { name: name.to_owned(), classes: None, input, loss: Loss::new(Variant::Paper) };
        let checkpoint = import::checkpoint(&weights, &options).unwrap();
        assert_eq!(checkpoint.facts.architecture, architecture);

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.onnx");
        let options = ExportOptions { threshold: ThresholdRule::Value(1.0), ..ExportOptions::default() };
        export::export(&checkpoint, &options, &path).unwrap();
        let images = Array4::from_shape_vec((2, 3, height, width), pixels).unwrap();
        let expected = golden.matrix(&format!("{name}.{height}x{width}"), [2, 5]).unwrap();
        let largest = expected.iter().fold(1.0_f32, |most, logit| most.max(logit.abs()));
        for provider in crate::PROVIDERS {
            let logits = Scorer::open(&path, provider).unwrap().score(images.view()).unwrap().logits;
            let difference =
                (logits - &expected).fold(0.0_f32, |most, apart| most.max(apart.abs())) / largest;
            assert!(difference < 1e-4, "{name} {provider}: {difference}");
        }
    }
}

#[test]
fn a_pytorch_file_gives_the_same_network() {
    let checkpoints = golden("checkpoints");
    let wrn = Weights::read(&checkpoints.join("wrn.pt")).unwrap();
    let found = wrn.recognize().unwrap();
    let (architecture, classes) = (found.architecture, found.classes.unwrap());
    assert_eq!(classes, 3);
    let settings = [("depth", 10.0), ("widen_factor", 1.0)];
    assert_eq!(architecture, Architecture::new("wide-resnet", &settings).unwrap());
    let ours = filled(&architecture, classes);
    for (name, shape) in
        architecture.layers(classes, 32, 32).unwrap().iter().flat_map(|layer| layer.parameters())
    {
        assert_eq!(wrn.values(&name, &shape).unwrap(), ours.values(&name, &shape).unwrap(), "{name}");
    }
}

#[test]
fn feature_based_scores_match_pytorch_ood() {
    let file = Golden::named("detectors.safetensors");
    let matrix = |name: &str, columns: usize| {
        let values: Vec<f32> = file.values(name).iter().map(|&value| value as f32).collect();
        Array2::from_shape_vec((values.len() / columns, columns), values).unwrap()
    };
    let bias: Vec<f32> = file.values("bias").iter().map(|&value| value as f32).collect();
    let width = file.values("weight").len() / bias.len();
    let (training, test) = (matrix("training", width), matrix("test", width));
    let labels: Vec<i64> = file.values("labels").iter().map(|&label| label as i64).collect();
    let last_layer = LastLayer { weight: matrix("weight", width), bias };
    let examples = Examples { features: training.view(), labels: &labels, last_layer: &last_layer };
    let logits = last_layer.logits(test.view());
    for name in ["knn:1", "knn:10", "mahalanobis", "unit-mahalanobis", "relative-mahalanobis", "vim", "fdbd"]
    {
        let score: RejectionScore = name.parse().unwrap();
        let constants = fit(score.of_features().next().unwrap(), &examples, None).unwrap();
        let found = constants.rejection(test.view(), logits.view());
        all_close(name, found.iter().map(|&score| score.into()), &file.values(name), 1e-5);
    }
}
