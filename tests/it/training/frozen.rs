//! Training of the last layer on features of frozen ones.

use super::*;

#[test]
fn the_last_layer_is_trained_on_features_that_are_computed_once() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    two_colours(at);
    stdout(&toolkit(at, &[&SMALL[..], &["--epochs", "1", "--run", "runs/backbone"]].concat()));
    let backbone = backbone_of(&at.join("runs/backbone"));
    let frozen = |run: &str, settings: &[&str]| {
        let args = ["--freeze", "--backbone", "runs/backbone", "--epochs", "20", "--json", "--run", run];
        stdout(&toolkit(at, &[&SMALL[..], &args, settings].concat())).to_owned()
    };
    let first = frozen("runs/first", &[]);
    let kinds_of_first = kinds(&first);
    assert_eq!(kinds_of_first[..2], ["start", "features"]);
    let report = &lines(&first).pop().unwrap()["report"];
    assert_eq!(report["accuracy"], 1.0, "{report}");
    assert!(backbone_of(&at.join("runs/first")) == backbone);
    let facts = facts_of(&at.join("runs/first"));
    assert_eq!(facts["training"]["freeze"], true);
    assert_eq!(facts["training"]["augment"], "flip");
    // Without mirror images there is nothing to average.
    stdout(&toolkit(at, &["export", "--run", "runs/first", "--mirror", "both.onnx"]));
    frozen("runs/plain", &["--augment", "none"]);
    let refused = toolkit(at, &["export", "--run", "runs/plain", "--mirror", "both.onnx"]);
    assert!(error(&refused).contains("mirror = true: needs a training whose augmentation mirrors images"));
    // Exported, the network computes from images what the last layer computed from features.
    let exported = toolkit(at, &["export", "--run", "runs/first", "model.onnx"]);
    // All held-out images calibrate, because they are few: none measures a score.
    let score = "\nscore knn:1, for a last layer trained without outliers: ";
    assert!(stdout(&exported).contains(score), "{}", stdout(&exported));
    assert!(
        stdout(&exported).contains("\ndegraded: 100.0 % of 20 known images are kept; reduced "),
        "{}",
        stdout(&exported)
    );
    let evaluation = toolkit(at, &["eval", "model.onnx", "--json"]);
    let evaluation: Value = serde_json::from_str(stdout(&evaluation)).unwrap();
    for metric in ["auroc", "oscr"] {
        assert_eq!(evaluation["rows"][0][metric], report["rows"][0][metric], "{metric}");
    }

    // Other settings of the last layer need the same features.
    let other =
        frozen("runs/other", &["--learning-rate", "0.05", "--loss", "cross-entropy", "--held-out", "0.4"]);
    let kinds_of_other = kinds(&other);
    assert!(
        kinds_of_other.contains(&"features-found".to_owned())
            && !kinds_of_other.contains(&"features".to_owned())
    );
    let [own, shared] = ["runs/first", "runs/other"].map(|run| features_in(&at.join(run)));
    assert_eq!(own[0].file_name(), shared[0].file_name());
    // A damaged file is not used.
    fs::remove_file(&own[0]).unwrap();
    let bytes = fs::read(&shared[0]).unwrap();
    let mut changed = bytes.clone();
    changed[bytes.len() / 2] ^= 1;
    fs::write(&shared[0], changed).unwrap();
    assert!(!kinds(&frozen("runs/changed", &[])).contains(&"features-found".to_owned()));
    fs::remove_dir_all(at.join("runs/changed")).unwrap();
    fs::write(&shared[0], &bytes[..bytes.len() - 4]).unwrap();
    let again = frozen("runs/again", &[]);
    assert!(kinds(&again).contains(&"features".to_owned()));
    assert!(fs::read(&features_in(&at.join("runs/again"))[0]).unwrap() == bytes);
    for file in ["checkpoint.safetensors", "checkpoint-last.safetensors"] {
        let read = |run: &str| fs::read(at.join(run).join(file)).unwrap();
        assert!(read("runs/first") == read("runs/again"), "{file}");
    }
    // Other images need other features.
    images(&at.join("colours/train"), "red", [201, 30, 30], 1);
    assert!(kinds(&frozen("runs/changed", &[])).contains(&"features".to_owned()));
}

#[test]
fn outliers_from_a_folder_have_features_too() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    two_colours(at);
    images(at, "green", [30, 200, 30], 12);
    stdout(&toolkit(at, &[&SMALL[..], &["--epochs", "1", "--run", "backbone"]].concat()));
    let args = [
        "--freeze",
        "--backbone",
        "backbone",
        "--unknown",
        "others=elsewhere",
        "--outliers",
        "green",
        "--run",
        "run",
    ];
    images(at, "elsewhere", [40, 180, 40], 8);
    stdout(&toolkit(at, &[&SMALL[..], &args, &["--epochs", "30"]].concat()));
    let facts = facts_of(&at.join("run"));
    assert_eq!((&facts["score"], &facts["training"]["outliers"]), (&"energy:5".into(), &"green".into()));
    let events = lines(&fs::read_to_string(at.join("run/log.jsonl")).unwrap());
    let auroc = events.last().unwrap()["report"]["rows"][0]["auroc"].as_f64().unwrap();
    assert!(auroc > 0.9, "{auroc}");
    let both = args.map(|arg| match arg {
        "green" => "scrambled,green",
        "run" => "both",
        other => other,
    });
    stdout(&toolkit(at, &[&SMALL[..], &both, &["--epochs", "1"]].concat()));
    assert_eq!(facts_of(&at.join("both"))["training"]["outliers"], "scrambled,green");
}
