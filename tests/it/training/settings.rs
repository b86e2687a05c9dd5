//! The settings of a run: their defaults, files and limits.

use cac::{Error, run::Device, train::check_device};

use super::*;

#[test]
fn backbone_rate_and_batch_norm_control_what_changes() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    two_colours(at);
    stdout(&toolkit(at, &[&SMALL[..], &["--epochs", "1", "--run", "backbone"]].concat()));
    let before = backbone_of(&at.join("backbone"));
    let changed = |settings: &[&str]| {
        let args = ["--backbone", "backbone", "--epochs", "1", "--run", "run"];
        stdout(&toolkit(at, &[&SMALL[..], &args, settings].concat()));
        let after = backbone_of(&at.join("run"));
        fs::remove_dir_all(at.join("run")).unwrap();
        let changed = |is_statistic: bool| {
            before
                .iter()
                .zip(&after)
                .filter(|(before, after)| before.0.contains("running_") == is_statistic && before != after)
                .count()
        };
        [changed(false), changed(true)]
    };
    assert_eq!(changed(&["--backbone-rate", "0", "--batch-norm", "running"]), [0, 0]);
    let [parameters, statistics] = changed(&["--backbone-rate", "0"]);
    assert!(parameters == 0 && statistics > 0);
    let [parameters, statistics] = changed(&["--batch-norm", "running"]);
    assert!(parameters > 0 && statistics == 0);
}

#[test]
fn settings_incompatible_with_frozen_layers_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    two_colours(at);
    let refused = |settings: &[&str]| {
        let output = toolkit(at, &[&SMALL[..], &["--run", "run"], settings].concat());
        assert!(!at.join("run").exists());
        crate::commands::error(&output)
    };
    assert_eq!(
        refused(&["--freeze"]),
        "error: freeze = true: needs starting weights for the layers that are not trained"
    );
    stdout(&toolkit(at, &[&SMALL[..], &["--epochs", "1", "--run", "backbone"]].concat()));
    for (setting, value) in [
        ("augment", "crop"),
        ("degrade", "0.2"),
        ("batch-norm", "batch"),
        ("backbone-rate", "0.5"),
        ("precision", "bf16"),
        ("optimizer", "muon"),
        ("dropout", "0.2"),
    ] {
        let error = refused(&["--freeze", "--backbone", "backbone", &format!("--{setting}"), value]);
        let start = format!("error: {} = {value}: must be ", setting.replace('-', " "));
        assert!(error.starts_with(&start), "{error}");
        assert!(error.ends_with("when only the last layer is trained"), "{error}");
    }
}

#[test]
fn settings_come_from_a_file_and_flags_win() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    two_colours(at);
    let config = "known = 'colours'\nunknown = ['gaussian-noise:16', 'uniform-noise:4']\ndepth = 10\nwiden-factor = 1\n\
                  epochs = 7\nheld-out = 0.3\nvariant = 'pytorch-ood'\nmean = '0.4,0.5,0.6'\nstd = [0.25, 0.25, 0.25]\n";
    fs::write(at.join("run.toml"), config).unwrap();
    let flags = ["--epochs", "1", "--batch-size=8", "--unknown", "uniform-noise:9"];
    stdout(&toolkit(at, &[&["train", "--config", "run.toml", "--run", "a"], &flags[..]].concat()));
    let facts = facts_of(&at.join("a"));
    assert_eq!(
        (&facts["loss"]["variant"], &facts["loss"]["magnitude"]),
        (&"pytorch-ood".into(), &5.0.into())
    );
    assert_eq!(facts["input"]["mean"], json!([0.4, 0.5, 0.6]));
    assert_eq!(facts["input"]["std"], json!([0.25, 0.25, 0.25]));
    let training = &facts["training"];
    assert_eq!((&training["epochs"], &training["unknown"]), (&1.into(), &json!(["uniform-noise:9"])));

    // The run folder holds the settings as given, to repeat the run, and the resolved settings.
    let kept: toml::Table = fs::read_to_string(at.join("a/settings.toml")).unwrap().parse().unwrap();
    let given: toml::Table =
        "known = 'colours'\nunknown = ['uniform-noise:9']\ndepth = 10\nwiden-factor = 1\nepochs = 1\n\
                              batch-size = 8\nheld-out = 0.3\nvariant = 'pytorch-ood'\nmean = '0.4,0.5,0.6'\n\
                              std = [0.25, 0.25, 0.25]\n"
            .parse()
            .unwrap();
    assert_eq!(kept, given);
    let resolved: Value = serde_json::from_slice(&fs::read(at.join("a/resolved.json")).unwrap()).unwrap();
    assert_eq!(
        (&resolved["recipe"]["learning_rate"], &resolved["loss"]["weight"]),
        (&0.002.into(), &2.0.into())
    );
    stdout(&toolkit(at, &["train", "--config=a/settings.toml", "--run", "b"]));
    let bytes = |run: &str| fs::read(at.join(run).join("checkpoint.safetensors")).unwrap();
    assert!(bytes("a") == bytes("b"));

    // Derived defaults follow a changed setting.
    let flags = ["--variant", "paper", "--batch-size", "16", "--unknown", "uniform-noise:9"];
    stdout(&toolkit(at, &[&["train", "--config", "a/settings.toml", "--run", "c"], &flags[..]].concat()));
    let facts = facts_of(&at.join("c"));
    let (loss, training) = (&facts["loss"], &facts["training"]);
    assert_eq!((&loss["magnitude"], &loss["weight"]), (&10.0.into(), &0.1.into()));
    assert_eq!((&training["learning_rate"], &training["batch_size"]), (&0.1.into(), &16.into()));
    assert_eq!(facts["input"]["mean"], json!([0.4, 0.5, 0.6]));

    let outliers = |run: &str, flags: &[&str]| {
        stdout(&toolkit(at, &[flags, &["--epochs", "1", "--run", run]].concat()));
        facts_of(&at.join(run))["training"]["outliers"].as_str().unwrap().to_owned()
    };
    assert_eq!(training["outliers"], "scrambled");
    let config = ["train", "--config=a/settings.toml", "--loss=cross-entropy", "--outliers=scrambled"];
    assert_eq!(outliers("d", &config[..3]), "none");
    assert_eq!(outliers("e", &config), "scrambled");
    // The default anchors depend on the outliers.
    let anchors = |run: &str, flags: &[&str]| {
        let flags = [&["train", "--config=c/settings.toml", "--epochs=1", "--run", run], flags].concat();
        stdout(&toolkit(at, &flags));
        facts_of(&at.join(run))["anchors"].as_str().unwrap().to_owned()
    };
    assert_eq!(facts["anchors"], "fixed");
    assert_eq!(anchors("g", &["--outliers=none"]), "class-means");
    assert_eq!(anchors("h", &["--outliers=none", "--anchors=fixed"]), "fixed");
    assert_eq!(outliers("f", &[&SMALL[..], &["--outlier-share", "0"]].concat()), "none");

    let with = |text: &str, flags: &[&str]| {
        fs::write(at.join("run.toml"), text).unwrap();
        crate::commands::error(&toolkit(
            at,
            &[&["train", "--config", "run.toml", "--known", "colours"], flags].concat(),
        ))
    };
    // A given setting is kept when another one changes.
    assert!(with("learning-rate = -1\n", &["--optimizer", "adam"]).contains("learning rate = -1"));
    assert!(with("dropout = 7\narch = 'cac-net'\n", &[]).contains("dropout = 7"));
    let other = with("depth = 10\n", &["--arch", "cac-net"]);
    assert!(
        other.contains("--depth is a setting of wide-resnet and resnet, but the network is a cac-net"),
        "{other}"
    );

    let refused = |text: &str| {
        fs::write(at.join("run.toml"), text).unwrap();
        crate::commands::error(&toolkit(at, &["train", "--config", "run.toml"]))
    };
    assert!(refused("known = 'colours'\nepoch = 3\n").contains("`run.toml`: `epoch` is not a setting"));
    assert!(refused("seed = 1\nknown = \n").contains("`run.toml` is not TOML: line 2: "));
    assert!(refused("seed = 1\nseed = 2\n").ends_with("is not TOML: line 2: duplicate key"));
    assert!(refused("mean = [1, 2]\n").ends_with("expected three numbers for `mean` and `std`"));
    assert!(
        refused("epochs = -1\n")
            .ends_with("invalid value: integer `-1`, expected a whole number from 0 up in `epochs`")
    );
    assert!(
        refused("epochs = true\n")
            .contains("`run.toml` does not hold usable settings: invalid type: boolean")
    );
    assert!(
        refused("optimizer = 'sdg'\n")
            .contains("unknown variant `sdg`, expected one of `adam`, `sgd`, `muon`")
    );
    assert!(
        crate::commands::error(&toolkit(at, &["train", "--config", "no.toml"]))
            .contains("cannot read `no.toml`")
    );
}

#[test]
fn the_settings_files_in_the_repository_are_valid() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir().unwrap();
    for file in ["examples/tutorial.toml", "exported/cifar10-wrn-40-2.toml"] {
        let config = root.join(file);
        let backbone = demo().join("backbone.safetensors");
        let args = ["--config", config.to_str().unwrap(), "--backbone", backbone.to_str().unwrap()];
        let output = toolkit(folder.path(), &[&["train", "--known", "missing"], &args[..]].concat());
        assert!(
            crate::commands::error(&output)
                .contains("`missing` is neither a path nor one of the published data sets"),
            "{file}"
        );
    }
}

#[test]
fn invalid_settings_are_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    two_colours(at);
    for (wrong, message) in [
        (["--epochs", "0"], "epochs = 0"),
        (["--batch-size", "0"], "batch size = 0"),
        (["--learning-rate", "-1"], "learning rate = -1"),
        (["--held-out", "1"], "held-out = 1"),
        (["--test-every", "0"], "test every = 0"),
        (["--trim", "1"], "trim = 1"),
        (["--batch-size=1", "--seed=1"], "batch size = 1: must be at least 2 for batch norm = batch"),
        (["--trim", "0.01"], "trim = 0.01: removes less than one of the 64 images in a step"),
        (["--trim", "0.02"], "trim = 0.02: removes less than one of the 44 images in a step"),
        (["--backbone-rate", "0"], "backbone rate = 0: needs starting weights for the layers"),
        (["--batch-norm", "running"], "batch norm = running: needs starting weights, whose statistics"),
        (["--ema", "-0.1"], "EMA = -0.1"),
        (["--degrade", "-0.1"], "degrade = -0.1: must be a share from 0 to 1"),
        (["--pixmix", "1.5"], "pixmix = 1.5: must be a share from 0 to 1"),
        (["--warm-up", "10"], "warm-up = 10"),
        (["--weight-decay", "-1"], "weight decay = -1"),
        (["--outlier-weight", "nan"], "outlier weight = NaN"),
        (["--outlier-weight", "0"], "outlier weight = 0: must be positive if there are outliers"),
        (["--outliers", "missing"], "`missing` is neither a path nor one of the published data sets ("),
        (["--outliers", "colours/test"], "outliers = `colours/test`: holds known or test images"),
        (["--known=CIFAR", "--outliers=CIFAR"], "holds known or test images"),
        (
            ["--outlier-share=0.001", "--outliers=colours"],
            "outlier share = 0.001: adds less than one outlier to a step of 64",
        ),
        (["--outlier-share=1e300", "--outliers=colours"], "must be from 0 to 16"),
        (
            ["--outlier-share=0.001", "--seed=1"],
            "outlier share = 0.001: adds less than one outlier to a step",
        ),
        (["--loss=cross-entropy", "--weight=2"], "--weight requires --loss cac"),
        (["--outliers=none", "--outlier-weight=1"], "--outlier-weight requires --outliers, and this"),
        (["--anchors=fixed", "--anchor-images=9"], "--anchor-images requires --anchors class-means"),
        (["--augment=none", "--no-mirror"], "--no-mirror requires --augment, and this training has none"),
        (["--loss=cross-entropy", "--variant=paper"], "--variant requires --loss cac"),
        (
            ["--outliers=none", "--outlier-share=0.5"],
            "--outlier-share requires --outliers, and this training has none",
        ),
        (["--held-out", "0.99"], "held-out = 64 of 64 images: leaves a class without a training image"),
        (["--held-out", "0.02"], "held-out = 0.02: holds out 2 of 64 images; a threshold that keeps 95 % of"),
        (["--unknown", "red=colours/train/red"], "unknown set = `red=colours/train/red`: holds known images"),
        (["--depth", "11"], "depth = 11"),
        (["--device", "cuda:99"], "device `cuda:99` is not available"),
        (["--unknown=a=./typo", "--backbone=imagenet32"], "cannot read `./typo`"),
        (["--magnitude", "0"], "magnitude = 0"),
        (["--std", "1,0,1"], "std ="),
        (["--backbone", "none.safetensors"], "cannot read `none.safetensors`"),
        (
            ["--backbone", "imagenet23"],
            "not a file, a run folder or the name of published weights\nhint: similar names: imagenet32; ",
        ),
    ] {
        let args: Vec<&str> = ["train", "--known", "colours", "--held-out", "0.3"]
            .into_iter()
            .chain(wrong)
            .chain(["--run", "run"])
            .collect();
        let cifar = demo().display().to_string();
        let args: Vec<String> = args.iter().map(|arg| arg.replace("CIFAR", &cifar)).collect();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let output = toolkit(at, &args);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{wrong:?}: {text}");
        assert!(text.contains(message), "{wrong:?}: {text}");
        assert!(!at.join("run").exists(), "{wrong:?}");
    }
}

#[test]
fn unknown_images_need_a_name() {
    let folder = tempfile::tempdir().unwrap();
    two_colours(folder.path());
    for (wrong, message) in [
        ("colours/test", "give the folder a name: NAME=colours/test"),
        (
            "nothing",
            "must be NAME=DIR, a published data set, gaussian-noise[:COUNT] or uniform-noise[:COUNT], ",
        ),
    ] {
        let output = toolkit(folder.path(), &["train", "--known", "colours", "--unknown", wrong]);
        let text = stderr(&output);
        let start = format!("error: invalid value '{wrong}' for '--unknown <NAME=DIR|NAME>': {message}");
        assert!(output.status.code() == Some(2) && text.starts_with(&start), "{text}");
        // In a file, too.
        fs::write(folder.path().join("file.toml"), format!("known = 'colours'\nunknown = ['{wrong}']"))
            .unwrap();
        let text = stderr(&toolkit(folder.path(), &["train", "--config", "file.toml"]));
        assert!(
            text.contains("file.toml") && text.contains(&format!("`{wrong}`: must be NAME=DIR")),
            "{text}"
        );
    }
}

#[test]
fn an_unavailable_device_is_an_error() {
    let error = check_device(Device::Cuda(99)).unwrap_err();
    // Where there is a GPU, the number is too large.
    assert!(matches!(error, Error::Device { .. } | Error::Setting { name: "device", .. }), "{error}");
}
