//! The choice of score and threshold, and its effects in the file.

use cac::{
    Bytes, Error, Provider, Scorer,
    data::Degradation,
    export::{self, ExportOptions, InputForm, ThresholdRule},
    method::{Variant, kept_at_least},
    model::{Inspection, ModelPrecision, with_features},
    run::{Checkpoint, Features, Mirrored},
    scorer::Outputs,
};
use ndarray::{Array2, Array4, Axis};

use crate::{PROVIDERS, checkpoint, model_file};

/// The example with stand-ins that only the features distinguish from known images: they lie far from all of
/// them in directions that the last layer ignores.
fn with_stand_ins() -> Checkpoint {
    let mut checkpoint = checkpoint(1, Variant::Paper);
    let last_layer = checkpoint.last_layer().unwrap();
    let features = checkpoint.features.as_mut().unwrap();
    let weight = last_layer.weight.mapv(f64::from);
    // The part of a direction that no class reads, by Gram-Schmidt orthogonalisation.
    let mut basis: Vec<ndarray::Array1<f64>> = Vec::new();
    for row in weight.rows() {
        let mut rest = row.to_owned();
        basis.iter().for_each(|axis| rest = &rest - &(axis * rest.dot(axis)));
        basis.push(&rest / rest.dot(&rest).sqrt());
    }
    let mut unread =
        ndarray::Array1::from_shape_fn(weight.ncols(), |place| if place % 2 == 0 { 9.0 } else { -7.0 });
    basis.iter().for_each(|axis| unread = &unread - &(axis * unread.dot(axis)));
    let far = &features.choosing + &unread.mapv(|value| value as f32);
    features.stand_ins = vec![("far".to_owned(), far)];
    checkpoint
}

#[test]
fn the_score_that_best_separates_stand_ins_is_chosen() {
    let checkpoint = with_stand_ins();
    let options = ExportOptions::default();
    let (manifest, score) = export::decide(&checkpoint, &options).unwrap();
    let choice = manifest.history.choice.as_ref().unwrap();
    assert_eq!((choice.stand_ins.as_slice(), choice.images), (&["far".to_owned()][..], 40));
    assert_eq!(
        (choice.candidates[0].score, score.score()),
        (manifest.decision.score, manifest.decision.score)
    );
    assert!(choice.candidates.is_sorted_by(|one, next| one.mean >= next.mean));
    let of = |name: &str| choice.candidates.iter().find(|c| c.score.to_string() == name).unwrap().mean;
    assert!(of("energy+knn:10") > 0.99, "{choice:?}");
    assert!(manifest.decision.score.of_features().next().is_some());
    // The file says so.
    let inspection = Inspection::of(&model_file(&checkpoint, &options), "model").unwrap();
    assert_eq!(inspection.manifest.history.choice.as_ref(), Some(choice));
    assert!(
        inspection
            .to_string()
            .contains("choice     by AUROC of 40 held-out images against stand-ins for unknown ones (far): ")
    );
    // A given score overrides it.
    let given = ExportOptions { score: Some("cac".parse().unwrap()), ..options };
    let (manifest, _) = export::decide(&checkpoint, &given).unwrap();
    assert_eq!((manifest.decision.score.to_string(), manifest.history.choice), ("cac".to_owned(), None));
}

#[test]
fn a_feature_based_score_needs_features() {
    let options = ExportOptions { score: Some("vim".parse().unwrap()), ..ExportOptions::default() };
    let bare = Checkpoint { features: None, ..checkpoint(1, Variant::Paper) };
    let error = export::decide(&bare, &options).unwrap_err().to_string();
    assert!(error.starts_with("score = `vim`: needs features"), "{error}");
    let mut few = checkpoint(1, Variant::Paper);
    let Features { training, labels, .. } = few.features.as_mut().unwrap();
    *training = training.slice_axis(Axis(0), (..6).into()).to_owned();
    labels.truncate(6);
    let options = ExportOptions { score: Some("knn:7".parse().unwrap()), ..ExportOptions::default() };
    let error = export::decide(&few, &options).unwrap_err().to_string();
    assert_eq!(error, "score = `knn:7`: needs at least 7 training images; 6 can be kept");
}

#[test]
fn score_constants_stay_below_the_limit() {
    let checkpoint = checkpoint(2, Variant::Paper);
    let size = |score: &str, limit: usize| {
        let options =
            ExportOptions { score: Some(score.parse().unwrap()), limit, ..ExportOptions::default() };
        model_file(&checkpoint, &options).len()
    };
    let plain = size("cac", 0);
    let (small, large) = (size("knn:10", 20_000) - plain, size("knn:10", 1 << 20) - plain);
    assert!(small < 25_000 && large > 100_000, "{small} {large}");
    // 600 features of 128 numbers in 16 bits.
    assert!(large < 600 * 128 * 2 + 5_000, "{large}");
}

#[test]
fn vim_is_refused_if_its_components_exceed_the_limit() {
    let checkpoint = checkpoint(2, Variant::Paper);
    let with = |limit| {
        let score = Some("vim".parse().unwrap());
        export::decide(&checkpoint, &ExportOptions { score, limit, ..ExportOptions::default() }).map(drop)
    };
    // 64 components of 128 features.
    with(64 * 128 * 4).unwrap();
    let error = with(64 * 128 * 4 - 1).unwrap_err().to_string();
    assert_eq!(error, "score = `vim`: can keep 63 of 64 components of 128 features within the limit");
}

#[test]
fn only_class_means_need_training_images_of_every_class() {
    let mut checkpoint = checkpoint(2, Variant::Paper);
    let labels = &mut checkpoint.features.as_mut().unwrap().labels;
    labels.iter_mut().filter(|label| **label == 0).for_each(|label| *label = 1);
    let with = |score: &str| {
        let options = ExportOptions { score: Some(score.parse().unwrap()), ..ExportOptions::default() };
        export::decide(&checkpoint, &options).map(drop).map_err(|error| error.to_string())
    };
    for score in ["knn:10", "fdbd", "vim"] {
        assert_eq!(with(score), Ok(()), "{score}");
    }
    for score in ["mahalanobis", "unit-mahalanobis", "relative-mahalanobis"] {
        let error = format!("score = `{score}`: needs training images of every class");
        assert_eq!(with(score), Err(error));
    }
}

#[test]
fn the_threshold_has_a_bound_and_operating_points() {
    let checkpoint = checkpoint(1, Variant::Paper);
    let n = checkpoint.held_out.calibrating.nrows();
    let bytes = model_file(&checkpoint, &ExportOptions::default());
    let inspection = Inspection::of(&bytes, "model").unwrap();
    let threshold = inspection.manifest.decision.threshold.as_ref().unwrap();
    assert_eq!(threshold.kept_at_least, Some(kept_at_least(n, 0.95)));
    let kept: Vec<f64> = threshold.operating_points.iter().map(|point| point.keep).collect();
    let expected: &[f64] = if n >= 99 { &[0.9, 0.95, 0.99] } else { &[0.9, 0.95] };
    assert_eq!(kept, expected);
    assert_eq!(threshold.operating_points[1].threshold, threshold.value);
    for point in &threshold.operating_points {
        let expected = cac::method::threshold(&threshold.held_out_scores, point.keep).unwrap();
        assert_eq!(point.threshold, expected, "{}", point.keep);
    }
    for provider in PROVIDERS {
        let outputs =
            Scorer::from_bytes(&bytes, provider).unwrap().score(checkpoint.check.images.view()).unwrap();
        let unknown_at = outputs.unknown_at.unwrap();
        assert_eq!(unknown_at.dim(), (outputs.score.len(), expected.len()));
        for ((image, point), &unknown) in unknown_at.indexed_iter() {
            let threshold = threshold.operating_points[point].threshold;
            assert_eq!(unknown, outputs.score[image] > threshold, "{provider}, {image}, {threshold}");
        }
    }
    assert!(inspection.to_string().contains("with 95 % confidence"), "{inspection}");
    // Another share has another bound, and the verdicts are those of another threshold.
    assert_eq!(inspection.manifest.kept_at_least(0.8, None), Some(kept_at_least(n, 0.8)));
    assert_eq!(inspection.manifest.kept_at_least(0.8, Some("bfloat16")), None);
    let mut scorer = Scorer::from_bytes(&bytes, Provider::Cpu).unwrap();
    let outputs = scorer.score(checkpoint.check.images.view()).unwrap();
    scorer.set_threshold(outputs.score[0] - 1.0).unwrap();
    assert!(scorer.verdicts(&outputs)[0].unknown);
    // Set by hand, for other scores, or without held-out images of its own: no promise.
    let by_hand = ExportOptions { threshold: ThresholdRule::Value(1.0), ..ExportOptions::default() };
    let int8 = ExportOptions { precision: ModelPrecision::Int8, ..ExportOptions::default() };
    for (options, of_another) in [(by_hand, Some(kept_at_least(n, 0.8))), (int8, None)] {
        let (manifest, _) = export::decide(&checkpoint, &options).unwrap();
        // The held-out scores hold for another share, unless they are not those of the file.
        assert_eq!(manifest.kept_at_least(0.8, None), of_another);
        assert_eq!(manifest.decision.threshold.unwrap().kept_at_least, None);
    }
    let mut imported = checkpoint;
    imported.facts.imported = Some("w.pt".to_owned());
    let (manifest, _) = export::decide(&imported, &ExportOptions::default()).unwrap();
    assert_eq!(manifest.kept_at_least(0.8, None), None);
    assert_eq!(manifest.decision.threshold.unwrap().kept_at_least, None);
}

#[test]
fn the_file_says_what_becomes_of_degraded_known_images() {
    let mut checkpoint = with_stand_ins();
    let options = ExportOptions::default();
    let of = |checkpoint: &Checkpoint, options: &ExportOptions| {
        export::decide(checkpoint, options).unwrap().0.history.robustness
    };
    assert_eq!(of(&checkpoint, &options), None, "a checkpoint without degraded images");
    let features = checkpoint.features.as_mut().unwrap();
    let known = features.calibrating.clone();
    let far = &known + &(&features.stand_ins[0].1 - &features.choosing).mean_axis(Axis(0)).unwrap();
    let (mut half, rest) = (far.clone(), known.view().split_at(Axis(0), 20).1);
    half.view_mut().split_at(Axis(0), 20).1.assign(&rest);
    let degraded = [half, far, known.clone()];
    features.degraded = Degradation::ALL.into_iter().zip(degraded).collect();
    for (keep, has_classes) in [(0.95, false), (0.5, false), (0.5, true)] {
        let threshold = ThresholdRule::Keep(keep);
        let options = ExportOptions { threshold, per_class: has_classes, ..options.clone() };
        let robustness = of(&checkpoint, &options).unwrap();
        let [half, far, same] = &robustness.degraded[..] else { panic!("{robustness:?}") };
        // A threshold for each class keeps at least its share of each.
        let most = if has_classes { keep + 0.15 } else { keep + 0.03 };
        assert!(robustness.images == 40 && (keep..most).contains(&robustness.kept), "{robustness:?}");
        assert_eq!((far.kept, far.same_class), (0.0, 0.0));
        assert_eq!((same.kept, same.same_class), (robustness.kept, robustness.kept));
        assert!((half.kept - robustness.kept / 2.0).abs() <= 0.1, "{robustness:?}");
        assert_eq!(half.same_class, half.kept);
        let weakness = robustness.weakness().unwrap();
        assert!(
            weakness.contains(" % of known images, but fewer degraded ones in the same class: ")
                && weakness.ends_with(" % reduced and 0.0 % with noise"),
            "{weakness}"
        );
    }
    let inspection = Inspection::of(&model_file(&checkpoint, &options), "model").unwrap();
    assert_eq!(inspection.manifest.history.robustness, of(&checkpoint, &options));
    let text = inspection.to_string();
    assert!(text.contains("robustness 97.5 % of 40 known images are kept; reduced "), "{text}");
    assert!(
        text.contains(
            "; with noise 0.0 %, 0.0 % as the same class; as JPEG 97.5 %, 97.5 % as the same class\n"
        ),
        "{text}"
    );
    // Kept, but of another class.
    let features = checkpoint.features.as_mut().unwrap();
    features.degraded = vec![(Degradation::Reduced, -1.0 * &known)];
    let everything = ExportOptions { threshold: ThresholdRule::Value(1e9), ..options.clone() };
    let robustness = of(&checkpoint, &everything).unwrap();
    assert_eq!((robustness.kept, robustness.degraded[0].kept), (1.0, 1.0));
    assert!(robustness.degraded[0].same_class < 0.7 && robustness.weakness().is_some(), "{robustness:?}");
    // At most 1,000 images are degraded, evenly spaced.
    let features = checkpoint.features.as_mut().unwrap();
    let many: Vec<usize> = (0..2500).map(|index| index % 40).collect();
    features.calibrating = features.calibrating.select(Axis(0), &many);
    checkpoint.held_out.calibrating = checkpoint.held_out.calibrating.select(Axis(0), &many);
    let spaced: Vec<usize> = (0..1000).map(|number| many[number * 2500 / 1000]).collect();
    features.degraded = vec![(Degradation::Noise, known.select(Axis(0), &spaced))];
    let robustness = of(&checkpoint, &options).unwrap();
    assert_eq!((robustness.images, robustness.degraded[0].kept), (1000, robustness.kept));
}

#[test]
fn a_file_can_average_an_image_and_its_mirror_image() {
    let mut plain = with_stand_ins();
    let options = ExportOptions::default();
    let flipped = {
        let mut images = plain.check.images.clone();
        images.invert_axis(Axis(3));
        images.as_standard_layout().into_owned()
    };
    let bytes = model_file(&plain, &options);
    let outputs = |bytes: &[u8], images: &Array4<f32>, provider| {
        Scorer::from_bytes(bytes, provider).unwrap().score(images.view()).unwrap()
    };
    assert!(matches!(plain.clone().of_both_views(), Err(Error::Setting { name: "mirror", .. })));
    let features = plain.features.as_ref().unwrap();
    let shifted = |features: &Array2<f32>| features * 0.5;
    plain.mirrored = Some(Mirrored {
        features: Features {
            training: shifted(&features.training),
            labels: features.labels.clone(),
            choosing: shifted(&features.choosing),
            calibrating: shifted(&features.calibrating),
            stand_ins: features.stand_ins.iter().map(|(name, one)| (name.clone(), shifted(one))).collect(),
            degraded: Vec::new(),
            test: None,
        },
        check: outputs(&bytes, &flipped, Provider::Cpu).logits,
    });
    let calibrating = features.calibrating.mapv(|value| 0.75 * value);
    let logits = plain.last_layer().unwrap().logits(calibrating.view());
    let both = plain.clone().of_both_views().unwrap();
    for (found, expected) in both.held_out.calibrating.iter().zip(&logits) {
        assert!((found - expected).abs() < 1e-4, "{found} {expected}");
    }
    let calibration = Some(plain.check.images.clone());
    let forms = [
        (InputForm::Floats, Some(3), ModelPrecision::Float32, 1e-4),
        (InputForm::Bytes, None, ModelPrecision::Float16, 1e-2),
        (InputForm::AnySize, None, ModelPrecision::Int8, 0.2),
    ];
    for (input, batch, precision, tolerance) in forms {
        let options =
            ExportOptions { input, batch, precision, calibration: calibration.clone(), ..options.clone() };
        let averaged = model_file(&both, &options);
        for provider in PROVIDERS {
            let of = |bytes, images| outputs(bytes, images, provider);
            let views = [of(&bytes, &plain.check.images), of(&bytes, &flipped)];
            for images in [&plain.check.images, &flipped] {
                let found = of(&averaged, images);
                let means = |value: fn(&Outputs) -> &Array2<f32>| {
                    let mean = (value(&views[0]) + value(&views[1])) * 0.5;
                    for (found, expected) in value(&found).iter().zip(&mean) {
                        assert!((found - expected).abs() < tolerance * expected.abs().max(1.0), "{provider}");
                    }
                };
                means(|outputs| &outputs.logits);
                means(|outputs| outputs.features.as_ref().unwrap());
            }
        }
        assert!(Inspection::of(&averaged, "model").unwrap().to_string().contains("mirror image"));
    }
    let map = ExportOptions { logit_map: true, ..options };
    assert!(matches!(export::decide(&both, &map), Err(Error::Setting { name: "logit map", .. })));
}

#[test]
fn features_can_be_left_out_of_the_outputs() {
    let checkpoint = with_stand_ins();
    let images = &checkpoint.check.images;
    let with = model_file(&checkpoint, &ExportOptions::default());
    let without = model_file(&checkpoint, &ExportOptions { features: false, ..ExportOptions::default() });
    for provider in PROVIDERS {
        let outputs =
            |bytes: &[u8]| Scorer::from_bytes(bytes, provider).unwrap().score(images.view()).unwrap();
        let (with, without) = (outputs(&with), outputs(&without));
        assert_eq!(with.features.as_ref().map(|features| features.nrows()), Some(images.dim().0));
        assert_eq!((without.features, without.score), (None, with.score));
    }
    // They can be added back, whatever the form of the file.
    let calibration = Some(images.clone());
    let forms = [
        ExportOptions::default(),
        ExportOptions { precision: ModelPrecision::Float16, ..ExportOptions::default() },
        ExportOptions { precision: ModelPrecision::Int8, calibration, ..ExportOptions::default() },
        ExportOptions { batch: Some(2), input: InputForm::Bytes, ..ExportOptions::default() },
        ExportOptions { input: InputForm::AnySize, ..ExportOptions::default() },
        ExportOptions { logit_map: true, ..ExportOptions::default() },
    ];
    for form in forms {
        let with = model_file(&checkpoint, &form);
        let without = Bytes::from(model_file(&checkpoint, &ExportOptions { features: false, ..form }));
        let added = with_features(without, "model").unwrap();
        for provider in PROVIDERS {
            let outputs = |bytes: &[u8]| {
                Scorer::from_bytes(bytes, provider).unwrap().score(images.view()).unwrap().features.unwrap()
            };
            let (expected, found) = (outputs(&with), outputs(&added));
            assert_eq!(found.dim(), expected.dim());
            let mut pairs = found.iter().zip(&expected);
            assert!(pairs.all(|(a, b)| (a - b).abs() < 1e-4 * b.abs().max(1.0)), "{provider}");
        }
    }
}

#[test]
fn the_threshold_can_be_an_optional_input() {
    let checkpoint = checkpoint(1, Variant::Paper);
    let images = &checkpoint.check.images;
    let plain = model_file(&checkpoint, &ExportOptions::default());
    let open = model_file(&checkpoint, &ExportOptions { threshold_input: true, ..ExportOptions::default() });
    let takes_one = |bytes: &[u8]| Inspection::of(bytes, "model").unwrap().takes_threshold;
    assert_eq!([takes_one(&open), takes_one(&plain)], [true, false]);
    for provider in PROVIDERS {
        let outputs =
            |bytes: &[u8]| Scorer::from_bytes(bytes, provider).unwrap().score(images.view()).unwrap();
        assert_eq!(outputs(&open), outputs(&plain), "{provider}");
    }
}

#[test]
fn each_class_can_have_its_own_threshold() {
    let mut checkpoint = checkpoint(1, Variant::Paper);
    // 30 images of each class near its anchor, at distances that grow with the class.
    let anchors = checkpoint.anchors.to_rows();
    let logits = Array2::from_shape_fn((90, 3), |(row, column)| {
        anchors[[row % 3, column]] + 0.05 * (row % 3 + 1) as f32 * ((row / 3 * 7 + column * 3) % 11) as f32
    });
    checkpoint.held_out.calibrating = logits.clone();
    let score = Some("min-distance".parse().unwrap());
    let options = ExportOptions {
        score,
        per_class: true,
        threshold: ThresholdRule::Keep(0.9),
        ..ExportOptions::default()
    };
    let bytes = model_file(&checkpoint, &options);
    let inspection = Inspection::of(&bytes, "model").unwrap();
    let threshold = inspection.manifest.decision.threshold.clone().unwrap();
    let of_classes = threshold.classes.as_ref().unwrap();
    assert!(of_classes[0] < of_classes[1] && of_classes[1] < of_classes[2], "{of_classes:?}");
    assert_eq!((threshold.value, threshold.kept_at_least), (0.0, Some(kept_at_least(30, 0.9))));
    let promise = inspection.manifest.promise(0.9, None).unwrap();
    assert!(
        promise.starts_with("90 % of new known images of each predicted class, and at least "),
        "{promise}"
    );
    assert!(promise.contains(" with 95 % confidence for each class alone; chosen from "), "{promise}");
    // Scores relative to thresholds that were chosen from them say nothing about new images.
    assert!(threshold.held_out_scores.is_empty() && threshold.operating_points.is_empty());
    // 19 images of a class promise less than 18.
    let sizes = [30, 18, 19];
    let rows: Vec<usize> = (0..90).filter(|row| row / 3 < sizes[row % 3]).collect();
    let mut uneven = checkpoint.clone();
    uneven.held_out.calibrating = logits.select(ndarray::Axis(0), &rows);
    let promised = export::decide(&uneven, &options).unwrap().0.decision.threshold.unwrap().kept_at_least;
    let of_sizes = sizes.map(|size| kept_at_least(size, 0.9));
    assert!(of_sizes[2] < of_sizes[1] && of_sizes[2] < of_sizes[0], "{of_sizes:?}");
    assert_eq!(promised, Some(of_sizes[2]));
    let plain = model_file(&checkpoint, &ExportOptions { per_class: false, ..options.clone() });
    for provider in PROVIDERS {
        let outputs = |bytes: &[u8]| {
            Scorer::from_bytes(bytes, provider).unwrap().score(checkpoint.check.images.view()).unwrap()
        };
        let (own, plain) = (outputs(&bytes), outputs(&plain));
        for place in 0..own.score.len() {
            let expected = plain.score[place] - of_classes[plain.label[place]];
            assert!((own.score[place] - expected).abs() < 1e-5, "{provider}");
        }
    }
    let kept = Scorer::from_bytes(&bytes, Provider::Cpu).unwrap().set_keep(0.5);
    assert!(matches!(kept, Err(Error::Setting { name: "keep", .. })), "{kept:?}");
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("model.onnx"), &bytes).unwrap();
    let error =
        crate::commands::error(&crate::commands::toolkit(folder.path(), &["drift", "model.onnx", "-"]));
    assert!(error.contains("`model.onnx` has a threshold for each class"), "{error}");
    let too_few = ExportOptions { threshold: ThresholdRule::Keep(0.97), ..options.clone() };
    let error = export::decide(&checkpoint, &too_few).unwrap_err();
    assert!(
        error.to_string().contains("class `ant` needs 33 images predicted as it to keep 97 %; there are 30"),
        "{error}"
    );
    let by_hand = ExportOptions { threshold: ThresholdRule::Value(1.0), ..options };
    assert!(matches!(export::decide(&checkpoint, &by_hand), Err(Error::Setting { name: "per class", .. })));
}
