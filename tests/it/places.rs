//! Maps of logits: which part of an image looks unknown.

use std::{fs, path::Path};

use cac::{
    Provider, Scorer,
    arch::Architecture,
    export::{self, ExportOptions, InputForm, ThresholdRule},
    image::Input,
    import::{self, ImportOptions},
    method::{LogitScore, Loss, Variant, nearest},
    model::{Inspection, ModelPrecision},
    run::{Checkpoint, HeldOut},
    scorer::Outputs,
    weights::Weights,
};
use ndarray::{Array2, Axis};
use serde_json::Value;

use crate::{
    PROVIDERS, checkpoint,
    commands::{error, images, stderr, stdout, toolkit, trained},
    fill, model_file,
};

fn with_map() -> ExportOptions {
    ExportOptions { logit_map: true, threshold: ThresholdRule::Keep(0.5), ..ExportOptions::default() }
}

/// A checkpoint of the default member of a family, with weights from the formula.
fn of_family(family: &str) -> Checkpoint {
    let architecture = Architecture::new(family, &[]).unwrap();
    let mut weights = Weights::new(Path::new("filled"));
    for layer in architecture.layers(3, 64, 64).unwrap() {
        for (name, shape) in layer.parameters() {
            weights.insert(&name, &shape, fill::values_scaled(&name, &shape, fill::Scale::Inputs));
        }
    }
    let options = ImportOptions {
        name: "filled".to_owned(),
        classes: None,
        input: Input::of_size(64, 64),
        loss: Loss::new(Variant::Paper),
    };
    let checkpoint = import::checkpoint(&weights, &options).unwrap();
    let calibrating = checkpoint.check.logits.clone();
    Checkpoint { held_out: HeldOut { choosing: calibrating.clone(), calibrating }, ..checkpoint }
}

fn assert_mean_is_logits(outputs: &Outputs, what: &str) {
    let map = outputs.logit_map.as_ref().unwrap();
    let means = map.mean_axis(Axis(3)).unwrap().mean_axis(Axis(2)).unwrap();
    assert_eq!(means.dim(), outputs.logits.dim());
    for (mean, logit) in means.iter().zip(&outputs.logits) {
        assert!((mean - logit).abs() <= 1e-4 * logit.abs().max(1.0), "{what}: {mean} {logit}");
    }
}

#[test]
fn the_mean_of_the_map_equals_the_logits() {
    let wide = checkpoint(2, Variant::Paper);
    let precisions = [ModelPrecision::Float32, ModelPrecision::Float16, ModelPrecision::Int8];
    for precision in precisions {
        for (input, batch) in [(InputForm::Floats, None), (InputForm::AnySize, Some(3))] {
            let calibration = Some(wide.check.images.clone());
            let options = ExportOptions { precision, calibration, input, batch, ..with_map() };
            let bytes = model_file(&wide, &options);
            for provider in PROVIDERS {
                let scorer = Scorer::from_bytes(&bytes, provider).unwrap();
                let outputs = scorer.score(wide.check.images.view()).unwrap();
                assert_eq!(outputs.logit_map.as_ref().unwrap().dim(), (4, 3, 8, 8), "{provider}");
                assert_mean_is_logits(&outputs, &format!("{precision} {provider}"));
            }
        }
    }
    for family in ["resnet", "efficientnet-lite"] {
        let checkpoint = of_family(family);
        let options = ExportOptions { threshold: ThresholdRule::Value(1.0), ..with_map() };
        let bytes = model_file(&checkpoint, &options);
        for provider in PROVIDERS {
            let scorer = Scorer::from_bytes(&bytes, provider).unwrap();
            let outputs = scorer.score(checkpoint.check.images.view()).unwrap();
            let map = outputs.logit_map.as_ref().unwrap();
            assert_eq!(map.dim().2 * map.dim().3, 4, "{family}");
            assert_mean_is_logits(&outputs, &format!("{family} {provider}"));
        }
    }
}

#[test]
fn places_are_scored_by_a_logit_score() {
    let checkpoint = checkpoint(2, Variant::Paper);
    for (score, expected) in [
        ("msp", LogitScore::Msp),
        ("min-distance", LogitScore::ENERGY),
        ("cac+knn:5", LogitScore::Cac),
        ("knn:5", LogitScore::ENERGY),
    ] {
        let options = ExportOptions { score: Some(score.parse().unwrap()), ..with_map() };
        let scorer = Scorer::from_bytes(&model_file(&checkpoint, &options), Provider::Cpu).unwrap();
        let rule = scorer.decision().places.as_ref().unwrap();
        assert_eq!(rule.score, expected);
        let held_out = &checkpoint.held_out.calibrating;
        assert!(rule.held_out_scores.is_sorted() && rule.held_out_scores.len() == held_out.nrows());
        let outputs = scorer.score(checkpoint.check.images.view()).unwrap();
        let places = scorer.places(&outputs).unwrap();
        assert_eq!((places.len(), places[0].scores.dim()), (4, (8, 8)));
        // An image of only this place would get the same score.
        let map = outputs.logit_map.as_ref().unwrap();
        let logits = Array2::from_shape_fn((1, 3), |(_, class)| map[[2, class, 5, 3]]);
        let distances = checkpoint.anchors.distances(logits.view());
        assert_eq!(places[2].scores[[5, 3]], expected.rejection(logits.view(), distances.view())[0]);
        assert_eq!(places[2].labels[[5, 3]], nearest(distances.view())[0]);
    }
}

#[test]
fn a_network_that_flattens_has_no_map() {
    let error = export::decide(&of_family("cac-net"), &with_map()).unwrap_err().to_string();
    assert_eq!(error, "logit map = true: needs a network that averages its features over the image");
    let mut bare = checkpoint(1, Variant::Paper);
    bare.held_out.calibrating = Array2::zeros((0, 3));
    let options = ExportOptions { threshold: ThresholdRule::Value(1.0), ..with_map() };
    let error = export::decide(&bare, &options).unwrap_err().to_string();
    assert!(error.starts_with("logit map = true: needs held-out known images"), "{error}");
}

#[test]
fn score_draws_one_map_or_a_folder_of_maps() {
    let folder = trained();
    let at = folder.path();
    images(at);
    for (name, flag) in [("plain.onnx", None), ("map.onnx", Some("--map")), ("any.onnx", Some("--resize"))] {
        let mut args = vec!["export", name, "--keep", "0.5", "--triton", "models"];
        args.extend(flag);
        args.extend((name == "any.onnx").then_some("--map"));
        stdout(&toolkit(at, &args));
    }
    let inspected = toolkit(at, &["inspect", "map.onnx"]);
    assert!(stdout(&inspected).contains(", features, logit_map\n"), "{}", stdout(&inspected));
    let config = fs::read_to_string(at.join("models/map/config.pbtxt")).unwrap();
    assert!(config.contains("\"logit_map\" data_type: TYPE_FP32 dims: [ 3, -1, -1 ]"), "{config}");

    let picture = |path: &str| image::open(at.join(path)).unwrap().into_rgb8();
    let one = ["score", "--json", "--map", "one.png", "map.onnx", "other/d.png"];
    let output = toolkit(at, &one);
    let json: Value = serde_json::from_str(stdout(&output)).unwrap();
    let map = &json["map"];
    assert_eq!((&map["file"], &map["score"]), (&"one.png".into(), &json_score(at)));
    for rows in ["scores", "p_values", "classes"] {
        let rows = map[rows].as_array().unwrap();
        assert!(rows.len() == 8 && rows.iter().all(|row| row.as_array().unwrap().len() == 8), "{map}");
    }
    assert!(["ant", "bee", "cow"].contains(&map["classes"][7][7].as_str().unwrap()), "{map}");
    assert_eq!(picture("one.png").width(), 2 * 384 + 8);

    // Equal names are kept apart, and a broken image has no map.
    fs::write(at.join("broken.png"), "no image").unwrap();
    fs::copy(at.join("other/d.png"), at.join("known/d.png")).unwrap();
    let output =
        toolkit(at, &["score", "--map", "maps", "any.onnx", "other/d.png", "broken.png", "known/d.png"]);
    assert!(error(&output).ends_with("1 of 3 images cannot be scored"), "{}", error(&output));
    assert_eq!(picture("maps/other/d.png.png"), picture("one.png"));
    assert_eq!(picture("maps/known/d.png.png"), picture("one.png"));
    assert!(!at.join("maps/broken.png.png").exists());

    let refused = |args: &[&str]| {
        let output = toolkit(at, &[&["score", "--map"], args].concat());
        (error(&output), stderr(&output))
    };
    let (message, all) = refused(&["new.png", "plain.onnx", "other/d.png"]);
    assert_eq!(message, "error: `plain.onnx` has no map of logits");
    assert!(all.contains("hint: export the model again with --map"), "{all}");
    let (message, _) = refused(&["new.png", "map.onnx", "other/d.png", "known/d.png"]);
    assert_eq!(message, "error: `new.png` is one file for 2 images; give a folder with --map");
    assert!(refused(&["other/d.png", "map.onnx", "other/d.png"]).0.contains("it is also an input"));
    assert!(refused(&["other", "map.onnx", "other/d.png"]).0.contains("it holds images that are scored"));
    fs::create_dir_all(at.join("other/maps")).unwrap();
    assert!(
        refused(&["other/maps", "map.onnx", "other"]).0.contains("in a folder of images that are scored")
    );
    fs::remove_dir(at.join("other/maps")).unwrap();
    assert!(refused(&["other/new", "map.onnx", "other"]).0.contains("in a folder of images that are scored"));
    assert!(!at.join("other/new").exists());
    assert!(refused(&["none/new.png", "map.onnx", "other/d.png"]).0.contains("there is no folder `none`"));
    assert!(refused(&["map.onnx", "map.onnx", "other/d.png"]).0.contains("is not a folder"));
    assert!(!at.join("new.png").exists() && !at.join("none").exists());
    // If no map can be drawn, the old file stays.
    let before = fs::read(at.join("one.png")).unwrap();
    fs::write(at.join("broken.jpg"), &before[..99]).unwrap();
    assert!(!toolkit(at, &["score", "--map", "one.png", "map.onnx", "broken.jpg"]).status.success());
    assert_eq!(fs::read(at.join("one.png")).unwrap(), before);
}

/// The name of the score of places in `map.onnx`.
fn json_score(at: &Path) -> Value {
    let manifest = Inspection::open(&at.join("map.onnx")).unwrap().manifest;
    serde_json::to_value(manifest.decision.places.unwrap().score).unwrap()
}
