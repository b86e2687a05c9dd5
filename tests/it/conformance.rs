//! The same model on every runtime, with the same cases and tolerances.

use std::path::Path;

use cac::{
    Outputs, Provider, Scorer,
    arch::Architecture,
    export::{self, ExportOptions, InputForm, ThresholdRule},
    image::Input,
    import::{self, ImportOptions},
    method::{Activations, Anchors, Loss, RejectionScore, Variant, is_unknown, nearest, p_value},
    model::ModelPrecision,
    run::Checkpoint,
    scorer::load_onnxruntime,
};
use ndarray::{Array2, Array4, Axis};

use crate::{PROVIDERS, checkpoint, filled, model_file};

const SCORES: [&str; 18] = [
    "cac",
    "min-distance",
    "pytorch-ood",
    "msp",
    "max-logit",
    "energy",
    "energy:5",
    "knn:1",
    "knn:10",
    "mahalanobis",
    "unit-mahalanobis",
    "relative-mahalanobis",
    "fdbd",
    "vim",
    "fdbd+knn:10",
    "energy:5+unit-mahalanobis",
    "cac+pytorch-ood",
    "energy+mahalanobis",
];

/// Largest difference of an output, relative if the output is above 1.
const TOLERANCE: f32 = 1e-4;

fn close(a: f32, b: f32) -> bool {
    (a - b).abs() <= TOLERANCE * b.abs().max(1.0)
}

fn all_close<'a>(a: impl IntoIterator<Item = &'a f32>, b: impl IntoIterator<Item = &'a f32>) -> bool {
    let (a, b): (Vec<f32>, Vec<f32>) = (a.into_iter().copied().collect(), b.into_iter().copied().collect());
    a.len() == b.len() && a.iter().zip(b).all(|(&a, b)| close(a, b))
}

/// The golden images, and extreme ones: black, white, one white pixel.
fn images(checkpoint: &Checkpoint) -> Array4<f32> {
    let plane = 3 * 32 * 32;
    let mut values: Vec<f32> = checkpoint.check.images.iter().copied().collect();
    values.extend(std::iter::repeat_n(0.0, plane));
    values.extend(std::iter::repeat_n(1.0, plane));
    values.extend((0..plane).map(|i| if i == 40 { 1.0 } else { 0.0 }));
    Array4::from_shape_vec((values.len() / plane, 3, 32, 32), values).unwrap()
}

fn score(bytes: &[u8], provider: Provider, images: &Array4<f32>) -> Outputs {
    Scorer::from_bytes(bytes, provider).unwrap().score(images.view()).unwrap()
}

#[test]
fn logits_match_pytorch() {
    // With widen factor 1 the first block has no convolution in its shortcut, so nothing folds into the stem.
    for widen_factor in [1, 2] {
        let checkpoint = checkpoint(widen_factor, Variant::Paper);
        let bytes = model_file(&checkpoint, &ExportOptions::default());
        let expected = &checkpoint.check.logits;
        for provider in PROVIDERS {
            let scores = score(&bytes, provider, &images(&checkpoint));
            assert_eq!(scores.logits.dim(), (7, 3));
            assert!(all_close(scores.logits.iter().take(12), expected), "{provider} {}", scores.logits);
        }
    }
}

/// The checkpoint with the features that its network computes from flat images of all colours, with noise.
fn with_own_features(mut checkpoint: Checkpoint) -> Checkpoint {
    let count = 400;
    let images = Array4::from_shape_fn((count, 3, 32, 32), |(image, channel, row, column)| {
        let part = |number: usize| (number * 7919 % 1009) as f32 / 1008.0;
        let (colour, noise) =
            (part(image * 3 + channel), part(image * 31 + channel * 577 + row * 89 + column * 13));
        let contrast = part(image * 17 + 5);
        (1.0 - contrast) * colour + contrast * noise
    });
    let outputs = score(&model_file(&checkpoint, &ExportOptions::default()), Provider::Cpu, &images);
    let own = outputs.features.unwrap();
    let features = checkpoint.features.as_mut().unwrap();
    features.training = own.clone();
    features.labels = (0..count as i64).map(|image| image % 3).collect();
    features.choosing = own.slice_axis(Axis(0), (..40).into()).to_owned();
    features.calibrating = own;
    checkpoint
}

#[test]
fn every_score_in_the_graph_matches_its_formula() {
    let checkpoint = with_own_features(checkpoint(2, Variant::Paper));
    let anchors = &checkpoint.anchors;
    for name in SCORES {
        let rule: RejectionScore = name.parse().unwrap();
        let options = ExportOptions {
            score: Some(rule),
            threshold: ThresholdRule::Keep(0.5),
            ..ExportOptions::default()
        };
        let bytes = model_file(&checkpoint, &options);
        for provider in PROVIDERS {
            let scorer = Scorer::from_bytes(&bytes, provider).unwrap();
            let threshold = scorer.decision().threshold.as_ref().unwrap().value;
            assert_eq!(scorer.threshold(), threshold);
            let scores = scorer.score(images(&checkpoint).view()).unwrap();
            let expected = anchors.distances(scores.logits.view());
            assert!(all_close(&scores.distances, &expected), "{provider} {rule:?}");
            let features = scores.features.as_ref().unwrap();
            let logits = checkpoint.last_layer().unwrap().logits(features.view());
            assert!(all_close(&scores.logits, &logits), "{provider} {rule:?}");
            let (_, fitted) = export::decide(&checkpoint, &options).unwrap();
            let expected = fitted.rejection(&Activations {
                features: Some(features.view()),
                logits: scores.logits.view(),
                distances: scores.distances.view(),
            });
            // The distance to a nearly identical neighbour is the square root of a small difference.
            let tolerance = if name.contains("knn") { 3e-3 } else { TOLERANCE };
            let is_close = |(a, b): (&f32, &f32)| (a - b).abs() <= tolerance * b.abs().max(1.0);
            assert!(
                scores.score.iter().zip(&expected).all(is_close),
                "{provider} {rule:?} {} {expected}",
                scores.score
            );
            assert_eq!(scores.label.to_vec(), nearest(scores.distances.view()), "{provider} {rule:?}");
            let flags = scores.score.map(|&score| is_unknown(score, threshold));
            assert_eq!(scores.unknown, flags, "{provider} {rule:?}");
            let held_out = &scorer.decision().threshold.as_ref().unwrap().held_out_scores;
            let p_values = scores.score.map(|&score| p_value(held_out, score));
            assert!(all_close(scores.p_value.as_ref().unwrap(), &p_values), "{provider} {rule:?}");
        }
    }
}

#[test]
fn distances_to_many_anchors_match_their_formula() {
    let classes = 300;
    let architecture = Architecture::new("wide-resnet", &[("depth", 10.0), ("widen_factor", 1.0)]).unwrap();
    let options = ImportOptions {
        name: "filled".to_owned(),
        classes: None,
        input: Input::default(),
        loss: Loss::new(Variant::Paper),
    };
    let fixed = import::checkpoint(&filled(&architecture, classes), &options).unwrap();
    let means = Array2::from_shape_fn((classes, classes), |(c, i)| {
        (if c == i { 10.0 } else { 0.0 }) + ((c * 7 + i * 3) % 11) as f32 / 100.0
    });
    let rows = Checkpoint { anchors: Anchors::Rows(means), ..fixed.clone() };
    let mut sizes = Vec::new();
    for checkpoint in [fixed, rows] {
        let options = ExportOptions { threshold: ThresholdRule::Value(5.0), ..ExportOptions::default() };
        let bytes = model_file(&checkpoint, &options);
        sizes.push(bytes.len());
        for provider in PROVIDERS {
            let found = score(&bytes, provider, &checkpoint.check.images);
            let expected = checkpoint.anchors.distances(found.logits.view());
            assert!(all_close(&found.distances, &expected), "{provider}");
            assert_eq!(found.label.to_vec(), nearest(found.distances.view()), "{provider}");
        }
    }
    assert!(sizes[1] >= sizes[0] + 4 * classes * classes, "fixed anchors need no matrix: {sizes:?}");
}

#[test]
fn runtimes_agree() {
    for variant in [Variant::Paper, Variant::PytorchOod] {
        let checkpoint = checkpoint(2, variant);
        let options = ExportOptions { threshold: ThresholdRule::Keep(0.5), ..ExportOptions::default() };
        let bytes = model_file(&checkpoint, &options);
        let images = images(&checkpoint);
        let (a, b) = (score(&bytes, PROVIDERS[0], &images), score(&bytes, PROVIDERS[1], &images));
        assert!(all_close(&a.score, &b.score), "{variant:?}");
        assert_eq!((a.label, a.unknown), (b.label, b.unknown), "{variant:?}");
    }
}

#[test]
fn bytes_and_fixed_batches_change_nothing() {
    let checkpoint = checkpoint(2, Variant::Paper);
    let images = images(&checkpoint);
    let expected = score(&model_file(&checkpoint, &ExportOptions::default()), Provider::Cpu, &images);
    for input in [InputForm::Floats, InputForm::Bytes] {
        for batch in [None, Some(1), Some(4)] {
            let bytes = model_file(&checkpoint, &ExportOptions { input, batch, ..ExportOptions::default() });
            for provider in PROVIDERS {
                let scores = score(&bytes, provider, &images);
                assert!(all_close(&scores.score, &expected.score), "{provider} {input:?} {batch:?}");
                assert_eq!(scores.label, expected.label);
            }
        }
    }
}

#[test]
fn bytes_score_like_the_equivalent_floats() {
    let checkpoint = checkpoint(2, Variant::Paper);
    let floats = images(&checkpoint);
    let bytes = floats.mapv(|value| (value * 255.0).round() as u8);
    let floats = bytes.mapv(cac::image::unit);
    for input in InputForm::ALL {
        let model =
            model_file(&checkpoint, &ExportOptions { input, batch: Some(3), ..ExportOptions::default() });
        for provider in PROVIDERS {
            let scorer = Scorer::from_bytes(&model, provider).unwrap();
            let (a, b) = (scorer.score(floats.view()).unwrap(), scorer.score_u8(bytes.view()).unwrap());
            assert_eq!(a, b, "{provider} {input:?}");
        }
    }
}

#[test]
fn an_image_scores_the_same_alone_and_in_a_batch() {
    let checkpoint = checkpoint(1, Variant::PytorchOod);
    let bytes = model_file(&checkpoint, &ExportOptions::default());
    let images = images(&checkpoint);
    for provider in PROVIDERS {
        let scorer = Scorer::from_bytes(&bytes, provider).unwrap();
        let together = scorer.score(images.view()).unwrap();
        for (i, image) in images.axis_chunks_iter(Axis(0), 1).enumerate() {
            let alone = scorer.score(image).unwrap();
            assert!(close(alone.score[0], together.score[i]), "{provider} {i}");
        }
        let none = scorer.score(images.slice_axis(Axis(0), (..0).into())).unwrap();
        assert_eq!(none.logits.dim(), (0, 3));
        let width = |outputs: &Outputs| outputs.features.as_ref().map(Array2::ncols);
        assert_eq!(width(&none), width(&together), "{provider}");
    }
}

#[test]
fn a_process_has_one_library_of_onnxruntime() {
    let runtime = Provider::OnnxRuntime.check().unwrap();
    let loaded = runtime.split('`').nth(1).unwrap();
    load_onnxruntime(Path::new(loaded)).unwrap();
    let error = load_onnxruntime(Path::new("other.so")).unwrap_err().to_string();
    assert!(error.contains("cannot load `other.so`") && error.contains(loaded), "{error}");
}

#[test]
fn the_threshold_can_be_changed_when_scoring() {
    let checkpoint = checkpoint(2, Variant::Paper);
    let bytes = model_file(&checkpoint, &ExportOptions::default());
    let images = images(&checkpoint);
    for provider in PROVIDERS {
        let mut scorer = Scorer::from_bytes(&bytes, provider).unwrap();
        scorer.set_threshold(-1.0).unwrap();
        assert!(scorer.score(images.view()).unwrap().unknown.iter().all(|&unknown| unknown));
        scorer.set_threshold(f32::MAX).unwrap();
        assert!(!scorer.score(images.view()).unwrap().unknown.iter().any(|&unknown| unknown));
        scorer.set_keep(0.5).unwrap();
        let held_out = &scorer.decision().threshold.as_ref().unwrap().held_out_scores;
        let median = held_out[held_out.len() / 2];
        // After an error the threshold is as before.
        assert!(scorer.set_keep(1.0).is_err() && scorer.set_threshold(f32::NAN).is_err());
        assert_eq!((scorer.threshold(), scorer.keep()), (median, Some(0.5)));
    }
}

#[test]
fn lower_precisions_are_close_to_f32() {
    let checkpoint = checkpoint(2, Variant::Paper);
    let images = images(&checkpoint);
    let exact = model_file(&checkpoint, &ExportOptions::default());
    let expected = score(&exact, Provider::Cpu, &images);
    for (precision, share, tolerance) in
        [(ModelPrecision::Float16, 0.6, 0.01), (ModelPrecision::Int8, 0.4, 0.2)]
    {
        for input in [InputForm::Floats, InputForm::Bytes] {
            let calibration = Some(images.clone());
            let bytes = model_file(
                &checkpoint,
                &ExportOptions { precision, calibration, input, batch: Some(2), ..ExportOptions::default() },
            );
            assert!((bytes.len() as f64) < share * exact.len() as f64, "{precision}: {}", bytes.len());
            for provider in PROVIDERS {
                let scorer = Scorer::from_bytes(&bytes, provider).unwrap();
                assert_eq!(scorer.manifest().history.precision, Some(precision));
                let found = scorer.score(images.view()).unwrap();
                assert_eq!(found.label, expected.label, "{precision} {provider}");
                let greatest =
                    found.logits.iter().zip(&expected.logits).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(greatest > 0.0 && greatest < tolerance, "{precision} {provider}: {greatest}");
            }
        }
    }
}

#[test]
fn many_threads_share_one_scorer() {
    let checkpoint = checkpoint(1, Variant::Paper);
    let bytes = model_file(&checkpoint, &ExportOptions::default());
    let images = images(&checkpoint);
    for provider in PROVIDERS {
        let scorer = Scorer::from_bytes(&bytes, provider).unwrap();
        let expected = scorer.score(images.view()).unwrap();
        std::thread::scope(|scope| {
            // More threads than ONNX Runtime sessions.
            for _ in 0..10 {
                scope.spawn(|| assert_eq!(scorer.score(images.view()).unwrap(), expected));
            }
        });
    }
}
