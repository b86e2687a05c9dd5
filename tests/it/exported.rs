//! The models in `exported/`, one of which is built in.

use std::{fs, path::Path};

use cac::{
    Bytes, Error, Scorer,
    files::sha256,
    model::{Inspection, with_features},
    weights::Weights,
};
use ndarray::Array4;
use serde_json::Value;

use crate::{
    commands::{stdout, toolkit},
    golden,
};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// The built-in model.
const MODEL: &str = "exported/cifar10-cifar-net.onnx";
const MODELS: [&str; 3] =
    [MODEL, "exported/cifar10-wrn-40-2.onnx", "exported/clothes-efficientnet-lite0.onnx"];

#[test]
fn the_cards_match_the_committed_files() {
    let index = fs::read_to_string(Path::new(ROOT).join("exported/README.md")).unwrap();
    for model in MODELS {
        let path = Path::new(ROOT).join(model);
        let card = path.with_extension("md");
        let (bytes, name) = (fs::read(&path).unwrap(), card.file_name().unwrap().to_str().unwrap());
        assert!(index.contains(name), "{name}");
        let card = fs::read_to_string(&card).unwrap();
        assert!(bytes.len() < 10_000_000 && card.contains(&sha256(&bytes)), "{model}: {}", sha256(&bytes));
        let inspection = Inspection::of(&bytes, model).unwrap();
        let threshold = inspection.threshold;
        assert!(card.contains(&format!("| threshold | {threshold},")), "{model}: {threshold}");
        let manifest = inspection.manifest;
        assert!(card.contains(&format!("| score | `{}`,", manifest.decision.score)), "{model}");
        // The card quotes the metrics in the file.
        let report = manifest.history.metrics.unwrap();
        let metrics = &report.rows[0].metrics;
        for value in [report.accuracy.unwrap(), metrics.auroc, metrics.fpr95_tpr] {
            assert!(card.contains(&format!("{:.2}", 100.0 * value)), "{model}: {value}");
        }
    }
}

#[test]
fn features_can_be_added_to_a_model_without_them() {
    let bytes = Bytes::from(fs::read(golden("models/v1.onnx")).unwrap());
    let found = with_features(bytes.clone(), "v1.onnx").unwrap();
    let layer = Inspection::of(&found, "v1.onnx").unwrap().last_layer.unwrap();
    let images =
        Array4::from_shape_fn((3, 3, 32, 32), |(n, c, y, x)| ((n + 2 * c + 3 * y + x) % 9) as f32 / 8.0);
    for provider in crate::PROVIDERS {
        let score = |bytes: &[u8]| Scorer::from_bytes(bytes, provider).unwrap().score(images.view()).unwrap();
        let (before, after) = (score(&bytes), score(&found));
        assert_eq!((before.features, &after.logits), (None, &before.logits), "{provider}");
        let logits = layer.logits(after.features.unwrap().view());
        let difference = (logits - after.logits).iter().fold(0.0_f32, |most, value| most.max(value.abs()));
        assert!(difference < 1e-4, "{provider}: {difference}");
    }
    // A model that has them stays as it is.
    assert_eq!(with_features(found.clone(), "v1.onnx").unwrap(), found);
}

#[test]
fn the_committed_models_reproduce_their_golden_batches() {
    for model in MODELS {
        for provider in crate::PROVIDERS {
            let scorer = Scorer::open(Path::new(ROOT).join(model), provider).unwrap();
            match scorer.verify() {
                Ok(difference) => assert!(difference < 1e-3, "{model} on {provider}: {difference}"),
                // Its version wrote none.
                Err(Error::NoGoldenBatch { .. }) => assert!(model.contains("wrn-40-2"), "{model}"),
                Err(error) => panic!("{model} on {provider}: {error}"),
            }
        }
    }
}

#[test]
fn the_card_of_the_backbone_matches_the_committed_file() {
    let demo = Path::new(ROOT).join("examples/demo");
    let sum = sha256(&fs::read(demo.join("backbone.safetensors")).unwrap());
    assert!(fs::read_to_string(demo.join("README.md")).unwrap().contains(&sum), "{sum}");
}

#[test]
fn the_committed_model_reproduces_its_metrics_on_the_committed_images() {
    let stated = fs::read_to_string(Path::new(ROOT).join("exported/demo.json")).unwrap();
    let stated: Value = serde_json::from_str(&stated).unwrap();
    let demo = format!("{ROOT}/examples/demo");
    let (unknown, model) = (format!("textures={demo}/textures"), format!("{ROOT}/{MODEL}"));
    // A model in the current folder would be evaluated instead of the built-in one.
    let folder = tempfile::tempdir().unwrap();
    for (provider, model) in [("cpu", None), ("onnxruntime", Some(&*model))] {
        let data = ["--known", &*demo, "--unknown", &*unknown];
        let args = [&["eval"], model.as_slice(), &data, &["--provider", provider, "--json"]].concat();
        let found: Value = serde_json::from_str(stdout(&toolkit(folder.path(), &args))).unwrap();
        assert_eq!((&found["known"], &found["rows"][0]["unknown"]), (&600.into(), &300.into()));
        let compare = |place: &str| {
            let value = |report: &Value| report.pointer(place).and_then(Value::as_f64).unwrap_or(f64::NAN);
            // Runtimes may order near ties differently: at most one image of 300.
            assert!((value(&found) - value(&stated)).abs() < 0.0034, "{provider}: {place}");
        };
        for place in ["/accuracy", "/known_kept", "/rows/0/unknown_caught"] {
            compare(place);
        }
        for metric in ["auroc", "aupr_in", "aupr_out", "fpr95_tpr", "fpr_at_95_known_kept", "oscr"] {
            compare(&format!("/rows/0/{metric}"));
        }
    }
}

#[test]
fn the_built_in_model_computes_the_same_as_in_python() {
    let golden = Weights::read(&Path::new(ROOT).join("exported/golden.safetensors")).unwrap();
    let values = |name: &str, shape: &[usize]| golden.values(name, shape).unwrap();
    let images = Array4::from_shape_vec((8, 3, 32, 32), values("images", &[8, 3, 32, 32]).to_vec()).unwrap();
    for provider in crate::PROVIDERS {
        let scores =
            Scorer::open(Path::new(ROOT).join(MODEL), provider).unwrap().score(images.view()).unwrap();
        let near = |found: &mut dyn Iterator<Item = &f32>, expected: &[f32]| {
            let found: Vec<&f32> = found.collect();
            found.len() == expected.len() && found.iter().zip(expected).all(|(&a, b)| (a - b).abs() < 1e-4)
        };
        assert!(near(&mut scores.logits.iter(), values("logits", &[8, 10])), "{provider}");
        assert!(near(&mut scores.distances.iter(), values("distances", &[8, 10])), "{provider}");
        assert!(near(&mut scores.score.iter(), values("score", &[8])), "{provider}");
        let labels: Vec<f32> = scores.label.iter().map(|&label| label as f32).collect();
        let unknown: Vec<f32> = scores.unknown.iter().map(|&unknown| f32::from(u8::from(unknown))).collect();
        assert_eq!(
            (&labels[..], &unknown[..]),
            (values("label", &[8]), values("unknown", &[8])),
            "{provider}"
        );
    }
}

#[test]
fn the_built_in_model_is_the_default() {
    let image = Path::new(ROOT).join("examples/demo/textures/banded/banded_0011.png");
    let folder = tempfile::tempdir().unwrap();
    let model = Path::new(ROOT).join(MODEL);
    let (image, model) = (image.to_str().unwrap(), model.to_str().unwrap());
    let built_in = toolkit(folder.path(), &["score", image, "--json"]);
    let named = toolkit(folder.path(), &["score", model, image, "--json"]);
    assert_eq!(stdout(&built_in), stdout(&named));
    let none = crate::commands::error(&toolkit(folder.path(), &["score", model]));
    assert!(none.contains("give images after the model"), "{none}");

    // A model without the extension is not mistaken for an image.
    fs::copy(model, folder.path().join("model")).unwrap();
    let refused = crate::commands::error(&toolkit(folder.path(), &["score", "model", image]));
    assert_eq!(refused, "error: `model` is a model; its name must end in .onnx");
    let empty = crate::commands::error(&toolkit(folder.path(), &["score", "."]));
    assert!(empty.contains("it holds no images"), "{empty}");
    // A folder stands for the images in it.
    let at = Path::new(image).parent().unwrap().to_str().unwrap();
    let all = toolkit(folder.path(), &["score", at]);
    let lines: Vec<&str> = stdout(&all).lines().collect();
    assert!(lines.len() > 1 && lines.iter().all(|line| line.starts_with(at)), "{lines:?}");
    assert!(lines.iter().any(|line| line.starts_with(image)), "{lines:?}");
}
