//! Model files of every format version, and files with a history that this version cannot parse.

use std::fs;

use cac::{Error, Provider, Scorer, image, model::FORMAT_VERSION};
use prost::Message;
use serde_json::{Value, json};
use tract_onnx::pb::{ModelProto, StringStringEntryProto};

use crate::{
    commands::{stdout, toolkit},
    golden,
};

/// Asserts that a model scores the golden images as its own version of the toolkit did.
fn assert_scores_as_recorded(bytes: &[u8], version: u32) {
    let recorded = fs::read(golden(&format!("models/v{version}.json"))).unwrap();
    let recorded: serde_json::Map<String, Value> = serde_json::from_slice(&recorded).unwrap();
    assert_eq!(recorded.len(), 4);
    for provider in crate::PROVIDERS {
        let scorer = Scorer::from_bytes(bytes, provider).unwrap();
        assert_eq!(scorer.decision().format_version, version);
        for (name, expected) in &recorded {
            let found = scorer.score_image(&image::open(golden("images").join(name)).unwrap()).unwrap();
            let near =
                |found: f32, expected: &Value| (f64::from(found) - expected.as_f64().unwrap()).abs() < 1e-4;
            assert!(
                near(found.score, &expected["score"]) && near(found.threshold, &expected["threshold"]),
                "{name}"
            );
            assert_eq!(found.class, expected["class"], "v{version} {provider} {name}");
            assert_eq!(found.unknown, expected["unknown"], "v{version} {provider} {name}");
        }
        let mut lenient = Scorer::from_bytes(bytes, provider).unwrap();
        lenient.set_keep(0.9).unwrap();
        assert!(lenient.threshold() > scorer.threshold());
    }
}

fn file(version: u32) -> Vec<u8> {
    fs::read(golden(&format!("models/v{version}.onnx"))).unwrap()
}

#[test]
fn files_of_every_version_score_as_before() {
    for version in 1..=FORMAT_VERSION {
        assert_scores_as_recorded(&file(version), version);
    }
}

#[test]
fn files_of_every_version_can_be_inspected() {
    let folder = tempfile::tempdir().unwrap();
    for version in 1..=FORMAT_VERSION {
        let path = golden(&format!("models/v{version}.onnx"));
        let text = toolkit(folder.path(), &["inspect", path.to_str().unwrap()]);
        let text = stdout(&text);
        for part in [
            &format!("format     {version}, written by cac 0."),
            "network    CAC network with 4 channels\n",
            "loss       CAC of the paper, magnitude 10, anchor weight 0.1\n",
            "score      energy:5; larger = more likely unknown\n",
            "known examples/demo",
            "images 1440,",
            "textures",
            "gaussian-noise",
            "95 % interval",
        ] {
            assert!(text.contains(part), "v{version}, {part}: {text}");
        }
        // Every field is parsed.
        assert_eq!(text.matches('{').count(), 0, "{text}");
    }
}

/// The file of a version with one metadata property replaced.
fn with(version: u32, name: &str, value: &str) -> Vec<u8> {
    replaced(&file(version), name, value)
}

/// A model with one metadata property replaced.
pub fn replaced(model: &[u8], name: &str, value: &str) -> Vec<u8> {
    let mut proto = ModelProto::decode(model).unwrap();
    proto.metadata_props.retain(|entry| entry.key != name);
    proto.metadata_props.push(StringStringEntryProto { key: name.to_owned(), value: value.to_owned() });
    proto.encode_to_vec()
}

#[test]
fn metadata_cannot_inject_lines_or_escapes() {
    let folder = tempfile::tempdir().unwrap();
    let forged = r#""x\u001b[2J\nscore      forged""#;
    for (name, value) in [
        ("producer", forged.to_owned()),
        ("imported", forged.to_owned()),
        ("training", format!(r#"{{"known":{forged},"epochs":3}}"#)),
        ("weather", forged.to_owned()),
        ("weather\nscore      forged", "1".to_owned()),
    ] {
        fs::write(folder.path().join("forged.onnx"), with(FORMAT_VERSION, &format!("cac.{name}"), &value))
            .unwrap();
        let text = toolkit(folder.path(), &["inspect", "forged.onnx"]);
        let text = stdout(&text);
        assert!(text.contains("forged") && !text.contains('\u{1b}'), "{name}: {text}");
        assert_eq!(text.lines().filter(|line| line.starts_with("score ")).count(), 1, "{name}: {text}");
        let recipe = text.lines().find(|line| line.starts_with("recipe "));
        assert!(recipe.is_some_and(|line| line.contains("epochs")), "{name}: {text}");
    }
}

#[test]
fn an_incomplete_golden_batch_is_damaged() {
    let model = file(FORMAT_VERSION);
    for golden in [r#"{"norm":[],"score":[],"label":[]}"#, r#"{"norm":"long"}"#] {
        let model = replaced(&model, "cac.golden", golden);
        let error = Scorer::from_bytes(&model, Provider::Cpu).unwrap().verify().unwrap_err();
        assert!(error.to_string().contains("its `cac.golden` is damaged"), "{golden}: {error}");
    }
}

#[test]
fn an_inconsistent_threshold_is_refused() {
    let model = fs::read(golden("../../exported/clothes-efficientnet-lite0.onnx")).unwrap();
    let properties = ModelProto::decode(&model[..]).unwrap().metadata_props;
    let threshold = properties.iter().find(|entry| entry.key == "cac.threshold").unwrap();
    let whole: Value = serde_json::from_str(&threshold.value).unwrap();
    let scores = whole["held_out_scores"].as_array().unwrap();
    let reversed: Vec<Value> = scores.iter().rev().cloned().collect();
    for (field, value, reason) in [
        ("held_out_scores", json!(reversed), "has held-out scores that do not ascend"),
        ("keep", json!(7.0), "keeps a share of 7, expected 0 to below 1"),
        ("kept_at_least", json!(-3.0), "has `kept_at_least` -3, expected 0 to 1"),
        ("classes", json!([0.5]), "has 1 thresholds for "),
        ("operating_points", json!([{ "keep": 1.5, "threshold": 0.0 }]), "keeps a share of 1.5"),
        (
            "operating_points",
            json!([]),
            "its output `unknown_at` has 3 columns, expected 0 as in its metadata",
        ),
    ] {
        let mut threshold = whole.clone();
        threshold[field] = value;
        let bytes = replaced(&model, "cac.threshold", &threshold.to_string());
        let error = Scorer::from_bytes(&bytes, Provider::Cpu).unwrap_err();
        assert!(matches!(&error, Error::Model { .. }), "{field}: {error}");
        assert!(error.to_string().contains(reason), "{field}: {error}");
    }
    for version in ["2.0", "0", r#""2""#] {
        let bytes = with(FORMAT_VERSION, "cac.format_version", version);
        let error = Scorer::from_bytes(&bytes, Provider::Cpu).unwrap_err().to_string();
        assert!(
            error.ends_with(&format!("`cac.format_version` is {version}, expected 1 to {FORMAT_VERSION}")),
            "{error}"
        );
    }
}

#[test]
fn a_model_with_an_unparsable_history_can_be_used_and_inspected() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("strange.onnx");
    for version in 1..=FORMAT_VERSION {
        for (name, value) in [
            ("architecture", r#"{"family":"transformer","heads":8}"#),
            ("loss", r#"{"variant":"of tomorrow"}"#),
            ("training", r#"["three","days"]"#),
            ("weather", r#"{"rain":true}"#),
        ] {
            let bytes = with(version, &format!("cac.{name}"), value);
            assert_scores_as_recorded(&bytes, version);
            fs::write(&path, bytes).unwrap();
            let text = toolkit(folder.path(), &["inspect", "strange.onnx"]);
            assert!(stdout(&text).contains(&format!("{name:<10} {value}\n")), "{name}: {}", stdout(&text));
        }
        // The decision is read strictly.
        for (name, value) in [("classes", "[]"), ("score", r#""of tomorrow""#), ("input", "{}")] {
            let error =
                Scorer::from_bytes(&with(version, &format!("cac.{name}"), value), Provider::Cpu).unwrap_err();
            assert!(matches!(&error, Error::Model { .. }), "{error}");
            assert!(error.to_string().contains(&format!("`cac.{name}`")), "{error}");
        }
    }
}
