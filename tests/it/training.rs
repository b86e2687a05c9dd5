//! Training, from the command line to the model.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use cac::{
    Error, Provider, Scorer,
    data::{Dataset, Degradation, Split},
    eval::outputs,
    export::{self, ExportOptions},
    method::Anchors,
    model::Inspection,
    run::{Checkpoint, CheckpointKind, Event, RunFolder},
    train::{Outcome, TrainSettings, resume, train},
    weights::Weights,
};
use ndarray::ArrayView1;
use serde_json::{Value, json};

use crate::commands::{error, stderr, stdout, toolkit};

fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/demo")
}

/// Two classes that differ in colour, 32 training and 8 test images each.
fn two_colours(folder: &Path) {
    for (class, colour) in [("red", [200, 30, 30]), ("blue", [30, 30, 200])] {
        images(&folder.join("colours/train"), class, colour, 32);
        // The same image among both could score at the threshold, where rounding decides.
        images(&folder.join("colours/test"), class, colour.map(|value| value + 1), 8);
    }
}

/// Writes striped images of about one colour to a new folder.
fn images(at: &Path, folder: &str, colour: [u8; 3], count: u32) {
    let at = at.join(folder);
    fs::create_dir_all(&at).unwrap();
    for i in 0..count {
        let image = image::RgbImage::from_fn(32, 32, |x, y| {
            image::Rgb(colour.map(|value| value + ((x * 7 + y * 3 + i * 11) % 40) as u8))
        });
        image.save(at.join(format!("{i}.png"))).unwrap();
    }
}

/// A short training run, in float32 on every processor.
const SMALL: [&str; 17] = [
    "train",
    "--known",
    "colours",
    "--unknown",
    "gaussian-noise:16",
    "--depth",
    "10",
    "--widen-factor",
    "1",
    "--batch-size",
    "8",
    "--held-out",
    "0.3",
    "--epochs",
    "3",
    "--precision",
    "f32",
];

fn checkpoint_of(run: &Path) -> Checkpoint {
    Checkpoint::read(&RunFolder::new(run).checkpoint(CheckpointKind::Best)).unwrap()
}

/// The facts in the best checkpoint of a run.
fn facts_of(run: &Path) -> Value {
    serde_json::from_str(&serde_json::to_string(&checkpoint_of(run).facts).unwrap()).unwrap()
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn from_images_to_verdicts() {
    for variant in ["paper", "pytorch-ood"] {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        two_colours(at);
        let output = toolkit(at, &[&SMALL[..], &["--variant", variant]].concat());
        let text = stdout(&output);
        assert!(text.contains("16 known images: accuracy 100.00 %"), "{variant}: {text}");
        assert!(text.ends_with("run: runs/1\n"), "{text}");

        let log = lines(&fs::read_to_string(at.join("runs/1/log.jsonl")).unwrap());
        assert_eq!(
            (&log[0]["event"], &log[0]["images"], &log[0]["steps"]),
            (&"start".into(), &44.into(), &6.into())
        );
        assert_eq!(log[0]["held_out"], json!([0, 20]));
        assert!(log[0].get("untested").is_none() && log[0].get("repeated").is_none());
        assert_eq!(log[0]["score"], facts_of(&at.join("runs/1"))["score"]);
        let epochs: Vec<&Value> = log.iter().filter(|line| line["event"] == "epoch").collect();
        assert_eq!(epochs.len(), 3);
        assert_eq!(epochs[2]["report"]["rows"][0]["name"], "gaussian-noise");
        let losses: Vec<f64> = log
            .iter()
            .filter(|line| line["event"] == "step")
            .map(|line| line["loss"].as_f64().unwrap())
            .collect();
        assert!(losses.len() == 3 && losses[2] < losses[0], "{losses:?}");
        for file in [
            "checkpoint.safetensors",
            "checkpoint-last.safetensors",
            "settings.toml",
            "resolved.json",
            "events.out.tfevents.0.toolkit",
        ] {
            assert!(at.join("runs/1").join(file).is_file(), "{file}");
        }
        let facts = facts_of(&at.join("runs/1"));
        assert_eq!(facts["classes"], json!(["blue", "red"]));
        assert_eq!((&facts["loss"]["variant"], &facts["training"]["seed"]), (&variant.into(), &123.into()));
        assert_eq!(
            (&facts["training"]["images"], &facts["training"]["known"]),
            (&44.into(), &"colours".into())
        );
        let tested = &epochs.iter().rfind(|epoch| epoch["best"] == true).unwrap()["report"]["rows"][0];
        // The table of an epoch has no intervals, the final one does.
        assert!(tested.get("intervals").is_none() && text.contains("95 % interval"), "{text}");

        stdout(&toolkit(at, &["export", "model.onnx"]));
        let verdict =
            toolkit(at, &["score", "model.onnx", "colours/test/red/3.png", "--threshold", "1e9", "--json"]);
        let verdict: Value = serde_json::from_str(stdout(&verdict)).unwrap();
        assert_eq!(verdict["verdict"]["class"], "red", "{variant}");
        // Without data flags a model is evaluated on the data of its training, and agrees with libtorch.
        let evaluation = toolkit(at, &["eval", "model.onnx", "--json"]);
        let evaluation: Value = serde_json::from_str(stdout(&evaluation)).unwrap();
        assert_eq!(evaluation["accuracy"], 1.0);
        for metric in ["auroc", "aupr_in", "fpr95_tpr", "oscr"] {
            assert_eq!(evaluation["rows"][0][metric], tested[metric], "{variant} {metric}");
        }
        // The file holds the table for its own score and threshold.
        let (scores, mirror) = (["cac", "min-distance", "pytorch-ood"], ["--mirror", "--score", "cac"]);
        for score in scores.map(|score| vec!["--score", score]).into_iter().chain([mirror.to_vec()]) {
            let stated = toolkit(at, &[&["export", "other.onnx", "--json"], &score[..]].concat());
            let stated: Value = serde_json::from_str(stdout(&stated)).unwrap();
            assert_eq!(stated.get("averages_views").is_some(), score.contains(&"--mirror"));
            let measured = toolkit(at, &["eval", "other.onnx", "--json"]);
            let measured: Value = serde_json::from_str(stdout(&measured)).unwrap();
            for field in ["accuracy", "known_kept"] {
                assert_eq!(stated["metrics"][field], measured[field], "{variant} {score:?} {field}");
            }
            let row = |report: &Value| (report["auroc"].clone(), report["unknown_caught"].clone());
            assert_eq!(row(&stated["metrics"]["rows"][0]), row(&measured["rows"][0]), "{variant} {score:?}");
        }
    }
}

/// The events of a log without timings.
fn timeless(log: &Path) -> Vec<Value> {
    let mut events = lines(&fs::read_to_string(log).unwrap());
    for event in &mut events {
        event.as_object_mut().unwrap().retain(|key, _| key != "seconds" && key != "images_per_second");
    }
    events
}

// Together, these settings cover everything that is stateful or random.

#[test]
fn a_run_killed_at_any_moment_resumes_to_the_same_weights() {
    resumes_to_the_same_weights(
        "--ema=0.9 --augment=affine --optimizer=sgd --learning-rate=0.01 --schedule=one-cycle \
         --degrade=0.3 --pixmix=0.5 --outliers=scrambled --batch-size=2 --json",
    );
}

#[test]
fn a_killed_run_with_adam_and_dropout_resumes_to_the_same_weights() {
    resumes_to_the_same_weights(
        "--optimizer=adam --schedule=cosine --dropout=0.3 --trim=0.3 --outliers=none --batch-size=4 --json",
    );
}

#[test]
fn a_killed_run_with_frozen_layers_resumes_to_the_same_weights() {
    resumes_to_the_same_weights(
        "--freeze --backbone backbone --ema=0.9 --outliers=scrambled --batch-size=4 --test-every=1 --json",
    );
}

#[test]
fn a_killed_run_with_two_learning_rates_resumes_to_the_same_weights() {
    resumes_to_the_same_weights(
        "--backbone backbone --backbone-rate=0.2 --batch-norm=running --augment=resized-crop --optimizer=muon \
         --batch-size=4 --json",
    );
}

fn resumes_to_the_same_weights(recipe: &str) {
    use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};
    use std::io::{BufRead, BufReader};

    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    two_colours(at);
    if recipe.contains("--backbone") {
        stdout(&toolkit(at, &[&SMALL[..], &["--run", "backbone"]].concat()));
    }
    let args = [&SMALL[..], &recipe.split_whitespace().collect::<Vec<_>>()].concat();
    stdout(&toolkit(at, &[&args[..], &["--run", "whole"]].concat()));
    // The killed run computes its own.
    features_in(&at.join("whole")).iter().for_each(|file| fs::remove_file(file).unwrap());

    let seed = std::process::id();
    let mut random = ChaCha8Rng::seed_from_u64(seed.into());
    let mut kills = 0;
    let mut args = [&args[..], &["--run", "killed", "--save-every", "0"]].concat();
    loop {
        let mut child = Command::new(env!("CARGO_BIN_EXE_toolkit"))
            .args(&args)
            .current_dir(at)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // The run is killed some lines later, at a random moment.
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // The first run may be killed before its first step.
        let count = random.random_range(if kills == 0 { 1..2 } else { 2..6 });
        let read = lines.by_ref().take(count).count();
        if read == count && kills < 8 {
            std::thread::sleep(std::time::Duration::from_millis(random.random_range(0..40)));
            child.kill().unwrap();
            child.wait().unwrap();
            kills += 1;
            // A checkpoint is the old or the new one, never a mixture.
            for file in CheckpointKind::ALL.map(|which| RunFolder::new(at.join("killed")).checkpoint(which)) {
                assert!(!file.exists() || Checkpoint::read(&file).is_ok(), "seed {seed}: {}", file.display());
            }
            args = vec!["train", "--resume", "killed", "--json", "--save-every", "0"];
        } else {
            assert!(lines.all(|line| line.is_ok()) && child.wait().unwrap().success());
            break;
        }
    }
    assert!(kills >= 3, "seed {seed}: {kills} kills");
    for file in ["checkpoint.safetensors", "checkpoint-last.safetensors"] {
        let read = |run: &str| fs::read(at.join(run).join(file)).unwrap();
        assert!(read("whole") == read("killed"), "seed {seed}: {file} after {kills} kills");
    }
    assert_eq!(timeless(&at.join("whole/log.jsonl")), timeless(&at.join("killed/log.jsonl")));
    let states = fs::read_dir(at.join("killed")).unwrap();
    let is_state = |name: &str| name.starts_with("state-");
    assert_eq!(
        states.filter(|file| is_state(file.as_ref().unwrap().file_name().to_str().unwrap())).count(),
        2
    );
    // A finished run has nothing left to do.
    let again = toolkit(at, &["train", "--resume", "killed"]);
    assert!(stdout(&again).contains("accuracy"));
}

/// The feature files in a run folder.
fn features_in(run: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(run).unwrap().map(|file| file.unwrap().path());
    files.filter(|file| file.extension().is_some_and(|extension| extension == "npy")).collect()
}

/// The tensors of a run's best network, except those of the last layer.
fn backbone_of(run: &Path) -> Vec<(String, Vec<f32>)> {
    let network = checkpoint_of(run).network;
    let names = network.names().filter(|name| !name.starts_with("fc.")).map(str::to_owned);
    names.map(|name| (name.clone(), network.get(&name).unwrap().values.clone())).collect()
}

/// The kinds of the events that a run printed with `--json`.
fn kinds(output: &str) -> Vec<String> {
    lines(output).iter().map(|event| event["event"].as_str().unwrap().to_owned()).collect()
}

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
    // All held-out images calibrate, because they are few.
    assert!(
        stdout(&exported).contains("\ndegraded: 95.0 % of 20 known images are kept; reduced "),
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

#[test]
fn a_backbone_trained_on_held_out_images_voids_the_promise() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    two_colours(at);
    stdout(&toolkit(at, &[&SMALL[..], &["--epochs", "1", "--seed", "1", "--run", "first"]].concat()));
    stdout(&toolkit(at, &["export", "--run", "first", "weights.safetensors"]));
    for (backbone, seed, is_seen) in [
        ("first", "1", false),
        ("first", "2", true),
        ("weights.safetensors", "1", false),
        ("weights.safetensors", "2", true),
    ] {
        let args = ["--epochs", "1", "--seed", seed, "--backbone", backbone, "--run", "second"];
        let output = toolkit(at, &[&SMALL[..], &args].concat());
        stdout(&output);
        let warned = stderr(&output).contains("was trained on images that are now held out");
        stdout(&toolkit(at, &["export", "--run", "second", "m.onnx"]));
        let threshold = Inspection::open(&at.join("m.onnx")).unwrap().manifest.decision.threshold.unwrap();
        assert_eq!((warned, threshold.kept_at_least.is_none()), (is_seen, is_seen), "{backbone} {seed}");
        fs::remove_dir_all(at.join("second")).unwrap();
    }
}

#[cfg(unix)]
#[test]
fn training_images_cannot_be_test_images() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    two_colours(at);
    fs::remove_dir_all(at.join("colours/test")).unwrap();
    std::os::unix::fs::symlink("train", at.join("colours/test")).unwrap();
    let error = error(&toolkit(at, &[&SMALL[..], &["--run", "run"]].concat()));
    assert!(error.contains("its training and test images are from the same files"), "{error}");
}

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
fn a_damaged_state_falls_back_to_the_previous_one() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    two_colours(at);
    stdout(&toolkit(at, &[&SMALL[..], &["--run", "run", "--save-every", "0"]].concat()));
    let expected = fs::read(at.join("run/checkpoint-last.safetensors")).unwrap();
    // The last epoch has to be repeated.
    let mut states: Vec<PathBuf> = fs::read_dir(at.join("run"))
        .unwrap()
        .map(|file| file.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("state-"))
        .collect();
    states.sort();
    let whole = fs::read(&states[1]).unwrap();
    fs::write(&states[1], &whole[..whole.len() / 2]).unwrap();
    fs::remove_file(at.join("run/checkpoint-last.safetensors")).unwrap();
    stdout(&toolkit(at, &["train", "--resume", "run"]));
    assert!(fs::read(at.join("run/checkpoint-last.safetensors")).unwrap() == expected);

    let resume = |folder: &str| crate::commands::error(&toolkit(at, &["train", "--resume", folder]));
    assert!(resume("colours").contains("holds no run that can be resumed"));
    assert!(resume("nowhere").contains("cannot read `nowhere`"));
    assert_eq!(toolkit(at, &["train", "--resume", "run", "--epochs", "9"]).status.code(), Some(2));
    // The same number of images, but one has changed; the best checkpoint has the outputs for the test
    // images.
    for split in ["test", "train"] {
        let red = at.join("colours").join(split).join("red");
        let saved: Vec<(PathBuf, Vec<u8>)> = fs::read_dir(&red)
            .unwrap()
            .map(|file| file.unwrap().path())
            .map(|path| (path.clone(), fs::read(path).unwrap()))
            .collect();
        images(&at.join("colours").join(split), "red", [201, 30, 30], 1);
        let message = resume("run");
        assert!(
            message.contains("its images, classes, outliers or test images have changed"),
            "{split}: {message}"
        );
        saved.into_iter().for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
    }
    // A damaged state is not kept instead of an earlier one.
    let damaged = at.join("run/state-000099-00000000.safetensors");
    fs::write(&damaged, "damaged").unwrap();
    stdout(&toolkit(at, &["train", "--resume", "run"]));
    assert!(!damaged.exists() && states.iter().all(|state| state.exists()));
}

#[test]
fn a_test_image_that_moves_to_the_next_set_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    two_colours(at);
    for (set, colour) in [("near", [200, 30, 200]), ("far", [30, 200, 30])] {
        images(at, set, colour, 4);
    }
    let sets = ["--unknown", "near=near", "--unknown", "far=far", "--epochs", "1", "--run", "run"];
    stdout(&toolkit(at, &[&SMALL[..], &sets].concat()));
    // The last of one set becomes the first of the next.
    fs::rename(at.join("near/3.png"), at.join("far/-1.png")).unwrap();
    let message = error(&toolkit(at, &["train", "--resume", "run"]));
    assert!(message.contains("its images, classes, outliers or test images have changed"), "{message}");
    fs::rename(at.join("far/-1.png"), at.join("near/3.png")).unwrap();
    stdout(&toolkit(at, &["train", "--resume", "run"]));
}

#[test]
fn no_class_may_be_called_unknown() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    two_colours(at);
    for split in ["train", "test"] {
        let at = at.join("colours").join(split);
        fs::rename(at.join("red"), at.join("unknown")).unwrap();
    }
    let refused = error(&toolkit(at, &[&SMALL[..], &["--run", "run"]].concat()));
    assert!(
        refused.contains("the classes of `colours` do not match: no class may be called `unknown`"),
        "{refused}"
    );
    assert!(!at.join("run").exists());
}

#[test]
fn what_the_test_images_lack_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    two_colours(at);
    images(&at.join("colours/train"), "green", [30, 200, 30], 32);
    fs::copy(at.join("colours/train/red/0.png"), at.join("colours/test/red/copy.png")).unwrap();
    let output = toolkit(at, &[&SMALL[..], &["--epochs", "1"]].concat());
    stdout(&output);
    let said = stderr(&output);
    for part in [
        "network WideResNet-10-1, images of 32 x 32 pixels, random weights\n",
        "only 29 images are held out: enough for the threshold, too few to choose an epoch or a score, so the last epoch",
        "known classes without test images: green\n",
        "test images that are also training images: 1\n",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let log = lines(&fs::read_to_string(at.join("runs/1/log.jsonl")).unwrap());
    assert_eq!((&log[0]["untested"], &log[0]["repeated"]), (&json!(["green"]), &json!(1)));

    let output = toolkit(at, &["export", "model.onnx"]);
    assert!(
        stdout(&output).contains("too few images were held out to choose another"),
        "{}",
        stdout(&output)
    );
    let output = toolkit(at, &["eval", "model.onnx", "--known", "colours"]);
    assert!(stderr(&output).contains("known classes without test images: green\n"), "{}", stderr(&output));
    assert!(!stderr(&output).contains("been trained on"), "{}", stderr(&output));
    let output = toolkit(at, &["eval", "model.onnx", "--known", "colours/train"]);
    let said = "the model may have been trained on some of these known images\n";
    assert!(stderr(&output).contains(said), "{}", stderr(&output));
    let output = toolkit(at, &["report", "model.onnx", "--known", "colours"]);
    assert!(stdout(&output).contains("caution: There are no test images of"), "{}", stdout(&output));
}

#[test]
fn a_run_is_not_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    two_colours(at);
    let args = [&SMALL[..], &["--epochs", "1", "--run", "a run"]].concat();
    stdout(&toolkit(at, &args));
    let files = || {
        let entries = fs::read_dir(at.join("a run")).unwrap().map(|entry| entry.unwrap().path());
        entries.map(|path| (path.clone(), fs::read(path).unwrap())).collect::<BTreeMap<_, _>>()
    };
    let before = files();
    let refused = toolkit(at, &args);
    assert_eq!(error(&refused), "error: `a run` already holds a run");
    let message = stderr(&refused);
    assert!(message.contains("hint: resume it with `toolkit train --resume 'a run'`, or"), "{message}");
    assert!(files() == before);

    // Nor is the log of one whose checkpoints were removed.
    fs::create_dir(at.join("pruned")).unwrap();
    fs::copy(at.join("a run/log.jsonl"), at.join("pruned/log.jsonl")).unwrap();
    let args = [&SMALL[..], &["--epochs", "1", "--run", "pruned"]].concat();
    let refused = toolkit(at, &args);
    assert_eq!(error(&refused), "error: `pruned` already holds a run");
    assert!(stderr(&refused).contains("hint: its log has epochs: remove it, or"), "{}", stderr(&refused));

    // Nor are the settings that it would start with.
    fs::create_dir(at.join("settings")).unwrap();
    fs::write(at.join("settings/settings.toml"), "# mine\nseed = 5\n").unwrap();
    let refused = toolkit(at, &["train", "--config", "settings/settings.toml", "--run", "settings"]);
    assert!(
        error(&refused).ends_with("is the file of --config, and --run would replace it"),
        "{}",
        error(&refused)
    );
    assert_eq!(fs::read_to_string(at.join("settings/settings.toml")).unwrap(), "# mine\nseed = 5\n");

    // Nor by the library.
    let settings: TrainSettings = serde_json::from_slice(&before[&at.join("a run/resolved.json")]).unwrap();
    let run = RunFolder::new(at.join("a run"));
    let refused = train(&settings, "", &run, Duration::from_secs(60), &AtomicBool::new(false), |_| {});
    assert!(matches!(refused, Err(Error::HoldsRun { .. })), "{refused:?}");
    assert!(files() == before);
}

#[test]
fn a_run_stopped_after_its_last_epoch_resumes_with_the_features() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    two_colours(at);
    let known = at.join("colours").display().to_string();
    let args = ["--known", &known, "--epochs", "1", "--held-out", "0.9", "--run", "whole"];
    stdout(&toolkit(at, &[&SMALL[..], &args].concat()));
    let settings = fs::read(at.join("whole/resolved.json")).unwrap();
    let settings: TrainSettings = serde_json::from_slice(&settings).unwrap();
    let run = RunFolder::new(at.join("run"));
    let (stop, save_every) = (AtomicBool::new(false), Duration::from_secs(60));
    let outcome = train(&settings, "", &run, save_every, &stop, |event| {
        if matches!(event, Event::Finishing { .. }) {
            stop.store(true, Ordering::Relaxed);
        }
    });
    assert_eq!(outcome.unwrap(), Outcome::WithoutFeatures);
    let best = || Checkpoint::read(&run.checkpoint(CheckpointKind::Best)).unwrap();
    assert!(best().test.is_some() && best().features.is_none());

    stop.store(false, Ordering::Relaxed);
    let mut finishing = Vec::new();
    let outcome = resume(&run, save_every, &stop, |event| {
        if let Event::Finishing { done, images } = event {
            finishing.push((*done, *images));
        }
    });
    assert!(matches!(outcome, Ok(Outcome::Finished(_))), "{outcome:?}");
    assert!(finishing.last().is_some_and(|(done, images)| done == images), "{finishing:?}");
    let checkpoint = best();
    let features = checkpoint.features.as_ref().unwrap();

    // They are those that the exported model computes from the same images, degraded or not.
    let model = at.join("model.onnx");
    export::export(&checkpoint, &ExportOptions::default(), &model).unwrap();
    let scorer = Scorer::open(&model, Provider::Cpu).unwrap();
    let images = Dataset::known(Path::new(&known), Split::Train, &settings.input).unwrap();
    let computed = |images: &Dataset| outputs(&scorer, images, false, |_| {}).unwrap().features.unwrap();
    let differs = |one: ArrayView1<f32>, other: ArrayView1<f32>| {
        one.iter().zip(other).any(|(one, other)| (one - other).abs() > 1e-4 * other.abs().max(1.0))
    };
    let plain = computed(&images);
    let find = |row| plain.rows().into_iter().position(|other| !differs(row, other)).unwrap();
    let calibrating: Vec<usize> = features.calibrating.rows().into_iter().map(find).collect();
    assert_eq!(calibrating.len(), 39);
    let mirrored = &checkpoint.mirrored.as_ref().unwrap().features.degraded;
    assert_eq!((features.degraded.len(), mirrored.len()), (3, 3));
    for (index, degradation) in Degradation::ALL.into_iter().enumerate() {
        let degraded = images.clone().degraded(degradation);
        let views =
            [(&degraded, &features.degraded[index]), (&degraded.clone().mirrored(), &mirrored[index])];
        for (images, (found_degradation, found)) in views {
            let computed = computed(images);
            assert_eq!((found.nrows(), *found_degradation), (39, degradation));
            for (row, &image) in found.rows().into_iter().zip(&calibrating) {
                assert!(!differs(row, computed.row(image)), "{degradation:?} {image}");
            }
            assert!(calibrating.iter().any(|&image| differs(plain.row(image), computed.row(image))));
        }
    }
}

#[test]
fn an_unwritable_checkpoint_ends_the_run_and_keeps_its_states() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    two_colours(at);
    stdout(&toolkit(at, &[&SMALL[..], &["--run", "run", "--save-every", "0"]].concat()));
    let run = RunFolder::new(at.join("run"));
    let last = run.checkpoint(CheckpointKind::Last);
    let expected = fs::read(&last).unwrap();
    // The last epoch is to be tested again, and its checkpoint cannot replace a folder.
    let newest = run.states().unwrap().pop().unwrap();
    fs::remove_file(newest).unwrap();
    fs::remove_file(&last).unwrap();
    fs::create_dir(&last).unwrap();
    let states = run.states().unwrap();
    let output = toolkit(at, &["train", "--resume", "run"]);
    let message = "error: cannot write `run/checkpoint-last.safetensors`: it exists and is not a file";
    assert_eq!(crate::commands::error(&output), message);
    assert!(!states.is_empty() && run.states().unwrap() == states);
    fs::remove_dir(&last).unwrap();
    stdout(&toolkit(at, &["train", "--resume", "run"]));
    assert!(fs::read(&last).unwrap() == expected);
    // As after a kill between the last save and the removal of older states.
    fs::copy(run.states().unwrap().pop().unwrap(), run.state(1, 1)).unwrap();
    stdout(&toolkit(at, &["train", "--resume", "run"]));
    assert_eq!(run.states().unwrap().len(), 2);
}

#[cfg(target_os = "linux")]
#[test]
fn a_run_that_cannot_be_saved_ends_before_it_trains() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    // Nobody can create a folder there, not even root. The data does not exist either, which is found later.
    let error = crate::commands::error(&toolkit(at, &["train", "--known", "missing", "--run", "/proc/run"]));
    assert!(error.starts_with("error: cannot write `/proc/run`: "), "{error}");

    two_colours(at);
    // Files are limited to 100 blocks, which is less than a state needs.
    let script = "trap '' XFSZ; ulimit -f 100; exec \"$0\" \"$@\"";
    let output = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_toolkit")])
        .args(SMALL)
        .args(["--run", "run"])
        .current_dir(at)
        .output()
        .unwrap();
    let error = crate::commands::error(&output);
    assert!(error.starts_with("error: cannot write `run/state-000001-00000000.safetensors`: "), "{error}");
    assert!(!stderr(&output).contains("training on"));
    // With enough space, the same command trains.
    stdout(&toolkit(at, &[&SMALL[..], &["--epochs=1", "--run", "run"]].concat()));
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
    // A step of one image has no room for an outlier.
    assert_eq!(outliers("f", &[&SMALL[..], &["--batch-size", "1"]].concat()), "none");

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
    assert!(refused("epochs = -1\n").ends_with("invalid value: integer `-1`, expected usize in `epochs`"));
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
            crate::commands::error(&output).contains("`missing` is neither an existing path nor a published"),
            "{file}"
        );
    }
}

#[test]
fn exported_files_do_not_reveal_where_the_data_was() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    two_colours(at);
    images(at, "seen", [200, 90, 30], 8);
    images(at, "others/green", [30, 200, 30], 8);
    let path = |name: &str| at.join(name).to_str().unwrap().to_owned();
    let (known, unknown, seen) = (path("colours"), format!("other={}", path("others/green")), path("seen"));
    let args = ["train", "--known", &known, "--unknown", &unknown, "--outliers", &seen];
    stdout(&toolkit(at, &[&args, &SMALL[5..], &["--epochs=1"]].concat()));
    for file in ["model.onnx", "weights.safetensors"] {
        stdout(&toolkit(at, &["export", file]));
        let bytes = fs::read(at.join(file)).unwrap();
        let home = at.to_str().unwrap().as_bytes();
        assert!(!bytes.windows(home.len()).any(|window| window == home), "{file}");
    }
    let text = toolkit(at, &["inspect", "model.onnx"]);
    let text = stdout(&text);
    assert!(
        text.contains("known colours,")
            && text.contains("unknown other=green")
            && text.contains("outliers seen,"),
        "{text}"
    );
    // The run folder has the paths.
    assert!(
        stdout(&toolkit(at, &["export", "small.onnx", "--precision", "int8"]))
            .contains("compared with f32 on 64")
    );
}

#[test]
fn cross_entropy_makes_a_backbone() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    two_colours(at);
    let plain = ["--loss=cross-entropy", "--mean=0.25,0.5,0.75", "--test-every=2", "--run=plain", "--json"];
    let resize = ["--fit=pad", "--filter=bicubic"];
    let output = toolkit(at, &[&SMALL[..], &plain, &resize].concat());
    let progress = stderr(&output);
    assert!(
        ["1/3 ", "2/3 ", "3/3 "].iter().all(|epoch| progress.contains(&format!("epoch {epoch}"))),
        "{progress}"
    );
    let events = lines(stdout(&output));
    let tests: Vec<u64> = events
        .iter()
        .filter(|event| event["event"] == "epoch")
        .map(|event| event["epoch"].as_u64().unwrap())
        .collect();
    assert_eq!(tests, [2, 3]);
    let last = events.last().unwrap();
    assert_eq!((&last["event"], &last["report"]["accuracy"]), (&"finished".into(), &1.0.into()));
    assert!(last["report"]["intervals"]["accuracy"].is_array());
    // The run yields a model, with a logit score, and a backbone.
    let exported = toolkit(at, &["export", "plain.onnx", "--run", "plain", "--json"]);
    let exported: Value = serde_json::from_str(stdout(&exported)).unwrap();
    assert_eq!(
        (&exported["loss"]["variant"], &exported["score"]),
        (&"cross-entropy".into(), &"energy".into())
    );
    let verdict =
        toolkit(at, &["score", "plain.onnx", "colours/test/red/3.png", "--threshold", "1e9", "--json"]);
    let verdict: Value = serde_json::from_str(stdout(&verdict)).unwrap();
    assert_eq!(verdict["verdict"]["class"], "red");
    // The backbone is only the weights, their normalisation and resizing.
    stdout(&toolkit(at, &["export", "weights.safetensors", "--run", "plain"]));
    let fine = ["train", "--known", "colours", "--backbone", "weights.safetensors", "--epochs", "1"];
    let fine =
        toolkit(at, &[&fine[..], &["--held-out", "0.3", "--batch-size", "8", "--run", "fine"]].concat());
    assert!(stdout(&fine).contains("16 known images"));
    let facts = facts_of(&at.join("fine"));
    assert_eq!(
        (&facts["architecture"]["depth"], &facts["input"]["mean"]),
        (&10.into(), &json!([0.25, 0.5, 0.75]))
    );
    assert_eq!(facts["input"]["resize"], json!({ "fit": "pad", "filter": "bicubic" }));
    assert_eq!(facts["training"]["backbone"], "weights.safetensors");
}

/// The mean distance of 16 images in `unseen` to the nearest of two anchors after training; the origin is 10
/// away from both.
fn distance_of_unseen(at: &Path, run: &str, outliers: &str) -> f32 {
    let args = ["--unknown", "other=unseen", "--epochs", "6", "--run", run, "--outliers", outliers];
    stdout(&toolkit(at, &[&SMALL[..], &args].concat()));
    let logits = &checkpoint_of(&at.join(run)).test.unwrap().unknown[0].1;
    let distances = Anchors::fixed(2, 10.0).distances(logits.view());
    distances.rows().into_iter().map(|row| row[0].min(row[1])).sum::<f32>() / 16.0
}

#[test]
fn scrambled_known_images_keep_unknown_ones_away_from_the_anchors() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let save = |folder: &str, count: u32, is_bright: &dyn Fn(u32, u32, u32) -> bool| {
        fs::create_dir_all(at.join(folder)).unwrap();
        for i in 0..count {
            let image = image::RgbImage::from_fn(32, 32, |x, y| {
                image::Rgb(
                    [if is_bright(x, y, i) { 200 } else { 60 } + ((x * 7 + y * 3 + i * 11) % 40) as u8; 3],
                )
            });
            image.save(at.join(folder).join(format!("{i}.png"))).unwrap();
        }
    };
    for (split, count) in [("train", 32), ("test", 8)] {
        save(&format!("colours/{split}/beam"), count, &|_, y, _| (12..20).contains(&y));
        save(&format!("colours/{split}/post"), count, &|x, _, _| (12..20).contains(&x));
    }
    // A beam in scattered pieces.
    save("unseen", 16, &|x, y, i| match (x / 8 * 5 + y / 8 * 3 + i) % 4 {
        0 => y % 8 < 4,
        1 => y % 8 >= 4,
        _ => false,
    });
    let with = distance_of_unseen(at, "with", "scrambled");
    let without = distance_of_unseen(at, "without", "none");
    assert!(with > without + 1.0, "{with}, without {without}");
}

#[test]
fn outliers_are_kept_away_from_the_anchors() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    two_colours(at);
    // Orange images, which only training with outliers separates from red ones.
    images(at, "seen", [200, 90, 30], 32);
    images(at, "unseen", [205, 85, 25], 16);
    let with = distance_of_unseen(at, "with", "seen");
    let without = distance_of_unseen(at, "without", "none");
    assert!(with > without + 1.0, "{with}, without {without}");
    // The default score and anchors depend on the outliers.
    let fixed = Anchors::fixed(2, 10.0);
    for (run, outliers, score, anchors) in
        [("with", "seen", "energy:5", "fixed"), ("without", "none", "cac", "class-means")]
    {
        let facts = facts_of(&at.join(run));
        assert_eq!(facts["training"]["outliers"], outliers);
        assert_eq!((&facts["score"], &facts["anchors"]), (&score.into(), &anchors.into()));
        assert_eq!(checkpoint_of(&at.join(run)).anchors == fixed, anchors == "fixed");
        let exported = toolkit(at, &["export", "model.onnx", "--run", run, "--json"]);
        assert_eq!(serde_json::from_str::<Value>(stdout(&exported)).unwrap()["score"], score);
    }
}

#[test]
fn the_official_network_trains_on_a_protocol() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    for class in 0..10 {
        for (split, count) in [("train", 8), ("test", 2)] {
            images(&at.join("data/colours").join(split), &format!("c{class}"), [20 * class, 100, 60], count);
        }
    }
    let known = at.join("data/colours");
    let args =
        ["train", "--known", known.to_str().unwrap(), "--protocol", "arpl-2021/2", "--arch", "cac-net"];
    let short = ["--epochs", "1", "--held-out", "0.4", "--run", "run", "--json"];
    let log = toolkit(at, &[&args[..], &short].concat());
    let report = lines(stdout(&log)).pop().unwrap();
    let row = &report["report"]["rows"][0];
    // 20 test images of ten classes, six of which are known.
    assert_eq!((&report["report"]["known"], &row["unknown"]), (&12.into(), &8.into()));
    assert_eq!(row["name"], "other-classes");
    stdout(&toolkit(at, &["export", "--run", "run", "model.onnx"]));
    // The model records the name of its data, not the path on this machine.
    let elsewhere = crate::commands::error(&toolkit(at, &["eval", "model.onnx"]));
    assert!(
        elsewhere.contains("cannot find the training data of the model, `colours`; give --known"),
        "{elsewhere}"
    );
    fs::rename(&known, at.join("colours")).unwrap();
    let evaluation = toolkit(at, &["eval", "model.onnx", "--provider", "onnxruntime", "--json"]);
    let evaluation: Value = serde_json::from_str(stdout(&evaluation)).unwrap();
    assert_eq!((&evaluation["known"], &evaluation["accuracy"]), (&12.into(), &report["report"]["accuracy"]));
    let other = toolkit(at, &["train", "--known", "colours", "--arch", "cac-net", "--size", "36"]);
    assert!(crate::commands::error(&other).contains("must be a multiple of 8"));
}

#[test]
fn a_cifar_net_learns_from_random_weights() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    two_colours(at);
    let train = |epochs: &str, more: &[&str]| {
        let args = ["train", "--known", "colours", "--unknown", "gaussian-noise:16", "--arch", "cifar-net"];
        let small = ["--channels", "4", "--epochs", epochs, "--batch-size", "11", "--held-out", "0.3"];
        toolkit(at, &[&args[..], &small, &["--outliers", "none"], more].concat())
    };
    let trained = train("20", &["--run", "run"]);
    assert!(stdout(&trained).contains("16 known images: accuracy 100.00 %"), "{}", stdout(&trained));
    let resolved = fs::read_to_string(at.join("run/resolved.json")).unwrap();
    let recipe = &serde_json::from_str::<Value>(&resolved).unwrap()["recipe"];
    let rate = recipe["learning_rate"].as_f64().unwrap();
    assert!(recipe["optimizer"] == "muon" && (rate - 0.3).abs() < 1e-12, "{recipe}");
    assert_eq!((&recipe["outlier_share"], &recipe["degrade"]), (&0.125.into(), &0.15.into()));

    // Each filter of the first convolution has a counterpart of opposite sign.
    let filters_of =
        |run: &str| checkpoint_of(&at.join(run)).network.get("whiten.weight").unwrap().values.clone();
    let filters = filters_of("run");
    let (half, other) = filters.split_at(12 * 12);
    assert!(half.iter().any(|&value| value.abs() > 1.0) && half.iter().zip(other).all(|(a, b)| *a == -b));
    // They stay as they are, even with other images.
    fs::rename(at.join("colours/train/red"), at.join("colours/train/dark")).unwrap();
    fs::rename(at.join("colours/test/red"), at.join("colours/test/dark")).unwrap();
    images(&at.join("colours/train"), "red", [90, 10, 10], 32);
    images(&at.join("colours/test"), "red", [90, 10, 10], 8);
    stdout(&train("1", &["--backbone", "run", "--run", "other"]));
    assert_eq!(filters_of("other"), filters);

    for precision in ["f32", "f16", "int8"] {
        stdout(&toolkit(at, &["export", "model.onnx", "--run", "run", "--precision", precision, "--map"]));
        for provider in ["cpu", "onnxruntime"] {
            stdout(&toolkit(at, &["verify", "model.onnx", "--provider", provider]));
        }
    }
    let small = train("1", &["--size", "16"]);
    assert!(error(&small).contains("size = 16x16: must be at least 17 for a cifar-net"), "{}", error(&small));
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    two_colours(at);
    for (run, seed) in [("a", "1"), ("b", "1"), ("c", "2")] {
        stdout(&toolkit(at, &[&SMALL[..], &["--epochs=1", "--run", run, "--seed", seed]].concat()));
        stdout(&toolkit(at, &["export", "--run", run, &format!("{run}.onnx")]));
    }
    for file in [".onnx", "/checkpoint.safetensors", "/checkpoint-last.safetensors"] {
        let bytes = |run: &str| fs::read(at.join(format!("{run}{file}"))).unwrap();
        assert!(bytes("a") == bytes("b"), "{file}: equal seeds");
        assert!(bytes("a") != bytes("c"), "{file}: different seeds");
    }
    // The model states what else determines the bits.
    let inspected = toolkit(at, &["inspect", "a.onnx", "--json"]);
    let manifest = &serde_json::from_str::<Value>(stdout(&inspected)).unwrap()["manifest"];
    assert!(manifest["checked_with"].as_str().unwrap().starts_with("tract "), "{manifest}");
    let training = &manifest["training"];
    assert_eq!((&training["seed"], &training["precision"]), (&1.into(), &"f32".into()));
    assert!(training["threads"].as_u64() >= Some(1) && training["loader_threads"].as_u64() >= Some(1));
    assert!(training["libtorch"].is_string(), "{training}");
}

#[test]
fn concurrent_runs_use_different_folders() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    two_colours(at);
    let args = [&SMALL[..], &["--epochs", "1"]].concat();
    let runs: Vec<String> = std::thread::scope(|scope| {
        let trainings: Vec<_> = (0..3).map(|_| scope.spawn(|| toolkit(at, &args))).collect();
        let outputs = trainings.into_iter().map(|training| training.join().unwrap());
        outputs.map(|output| stdout(&output).lines().last().unwrap().to_owned()).collect()
    });
    for number in 1..=3 {
        assert!(runs.contains(&format!("run: runs/{number}")), "{runs:?}");
    }
    // A run that cannot start leaves no folder.
    let missing = toolkit(at, &["train", "--known", "missing"]);
    assert!(crate::commands::error(&missing).contains("missing"));
    assert!(!at.join("runs/4").exists());
}

#[test]
fn a_backbone_is_loaded_except_for_its_last_layer() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    two_colours(at);
    let backbone = demo().join("backbone.safetensors");
    let before = Weights::read(&backbone).unwrap();
    let mut prefixed = Weights::new(Path::new("prefixed"));
    prefixed.note = before.note.clone();
    for name in before.names() {
        let tensor = before.get(name).unwrap();
        prefixed.insert(&format!("state_dict.model.{name}"), &tensor.shape, tensor.values.clone());
    }
    prefixed.write(&at.join("lightning.safetensors")).unwrap();
    // One step with a tiny learning rate leaves the backbone unchanged.
    let output = toolkit(
        at,
        &[
            "train",
            "--known",
            "colours",
            "--backbone",
            "lightning.safetensors",
            "--epochs",
            "1",
            "--held-out",
            "0.4",
            "--learning-rate",
            "1e-12",
            "--run",
            "run",
        ],
    );
    assert!(stdout(&output).contains("16 known images"));
    let after = checkpoint_of(&at.join("run")).network;
    for name in ["conv1.weight", "block1.layer.0.convShortcut.weight", "block3.layer.5.bn2.weight"] {
        let (before, after) = (before.get(name).unwrap(), after.get(name).unwrap());
        let moved = before.values.iter().zip(&after.values).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(before.shape == after.shape && moved < 1e-6, "{name}: {moved}");
    }
    assert_eq!(after.get("fc.weight").unwrap().shape, [2, 128]);

    let (colours, backbone) =
        (["train", "--known", "colours", "--held-out", "0.4"], backbone.to_str().unwrap());
    let wrong = toolkit(
        at,
        &[&colours[..], &["--backbone", backbone, "--widen-factor", "4", "--run", "other"]].concat(),
    );
    let text = stderr(&wrong);
    assert!(text.contains("backbone.safetensors` does not hold usable weights: tensor `block1."), "{text}");
    // A shallower network has the first blocks of each group, and the same tensors.
    let shallow =
        toolkit(at, &[&colours[..], &["--backbone", backbone, "--depth", "16", "--run", "other"]].concat());
    let text = stderr(&shallow);
    assert!(text.contains("is not in WideResNet-16-2, which the other tensors match"), "{text}");
    assert!(!at.join("other").exists());

    let mut infinite = before.clone();
    infinite.insert("bn1.bias", &[128], vec![f32::NAN; 128]);
    infinite.write(&at.join("nan.safetensors")).unwrap();
    let wrong = toolkit(at, &[&colours[..], &["--backbone", "nan.safetensors", "--run", "another"]].concat());
    let text = stderr(&wrong);
    assert!(
        text.contains("`nan.safetensors` does not hold usable weights: tensor `bn1.bias` holds NaN"),
        "{text}"
    );
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
        (["--outliers", "missing"], "`missing` is neither an existing path nor a published data set: "),
        (["--outliers", "colours/test"], "outliers = `colours/test`: holds known or test images"),
        (["--known=CIFAR", "--outliers=CIFAR"], "holds known or test images"),
        (
            ["--outlier-share=0.001", "--outliers=colours"],
            "outlier share = 0.001: adds less than one outlier to a step of 64",
        ),
        (["--outlier-share=1e300", "--outliers=colours"], "must be 0 to 16"),
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
        (["--device", "cuda:99"], "provider `cuda:99` is not available"),
        (["--unknown", "nothing"], "unknown set = `nothing`"),
        (["--magnitude", "0"], "magnitude = 0"),
        (["--std", "1,0,1"], "std ="),
        (["--backbone", "none.safetensors"], "cannot read `none.safetensors`"),
        (
            ["--backbone", "imagenet23"],
            "neither a file, a run folder nor the name of published weights\nhint: similar names: imagenet32; ",
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
fn unreadable_images_are_listed_before_training_or_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    two_colours(at);
    let bad = ["train/red/bad.png", "train/blue/bad.png", "test/red/bad.png"];
    for name in bad {
        fs::write(at.join("colours").join(name), "no image").unwrap();
    }
    let args = [&SMALL[..], &["--epochs", "1", "--run", "run"]].concat();
    let output = toolkit(at, &args);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("error: 3 images cannot be read:") && text.contains("--skip-broken"), "{text}");
    assert!(bad.iter().all(|name| text.contains(&format!("{name}` is not an image"))), "{text}");
    assert!(!at.join("run").exists());

    let table = toolkit(at, &[&args[..], &["--skip-broken"]].concat());
    let table = stdout(&table);
    assert!(
        table.contains("16 known images: ") && table.contains("1 image cannot be read and is not"),
        "{table}"
    );
    assert_eq!(facts_of(&at.join("run"))["training"]["skipped"], 3);
    assert_eq!(facts_of(&at.join("run"))["training"]["images"], 44);

    // Something must be left of each set.
    fs::create_dir(at.join("broken")).unwrap();
    fs::write(at.join("broken/bad.png"), "no image").unwrap();
    for of_set in [["--outliers", "broken"], ["--unknown", "other=broken"]] {
        let args = [&SMALL[..], &["--epochs", "1", "--run", "other", "--skip-broken"], &of_set].concat();
        let output = toolkit(at, &args);
        let text = stderr(&output);
        assert!(!output.status.success() && text.contains("broken/bad.png` is not an image"), "{text}");
        assert!(!at.join("other").exists());
    }
}

#[test]
fn test_images_are_held_out_of_class_folders() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    images(at, "colours/red", [200, 30, 30], 40);
    images(at, "colours/blue", [30, 30, 200], 40);
    let run = |more: &[&str]| toolkit(at, &[&SMALL[..], &["--epochs", "1", "--run", "run"], more].concat());
    let refused = |more: &[&str]| {
        let output = run(more);
        assert!(!output.status.success() && !at.join("run").exists());
        String::from_utf8(output.stderr).unwrap()
    };
    let text = refused(&[]);
    assert!(text.contains("it has class folders `blue`, `red`, but no folder `train`"), "{text}");
    assert!(
        text.contains("hint: hold out a share of each class") && text.contains("`--held-out-test 0.2`"),
        "{text}"
    );
    assert!(
        refused(&["--held-out-test", "0"]).contains("held-out test = 0: must be a share above 0 and below 1")
    );
    let demo = demo().display().to_string();
    let text = refused(&["--known", &demo, "--held-out-test", "0.2"]);
    assert!(
        text.contains("held-out test = 0.2: `") && text.contains("has a test split of its own"),
        "{text}"
    );

    let table = run(&["--held-out-test", "0.2"]);
    assert!(stdout(&table).contains("16 known images: "), "{}", stdout(&table));
    let facts = facts_of(&at.join("run"));
    assert_eq!((&facts["training"]["images"], &facts["training"]["test_images"]), (&44.into(), &16.into()));
    let recorded = [&facts["training"]["held_out_test"], &facts["data"]["held_out_test"]];
    assert_eq!(recorded, [&json!(0.2); 2]);
    let resumed = toolkit(at, &["train", "--resume", "run", "--held-out-test", "0.3"]);
    assert_eq!(resumed.status.code(), Some(2));
    stdout(&toolkit(at, &["train", "--resume", "run"]));

    // An export is calibrated on exactly the images that are not for tests.
    stdout(&toolkit(
        at,
        &["export", "--run", "run", "m.onnx", "--precision", "f16", "--calibration-images", "64"],
    ));
    let eval =
        |more: &[&str]| toolkit(at, &[&["eval", "m.onnx", "--scores", "s.csv", "--json"], more].concat());
    let tested = |more: &[&str]| {
        let output = eval(more);
        let known: Value = serde_json::from_str(stdout(&output).lines().next().unwrap()).unwrap();
        (
            known["known"].as_u64().unwrap(),
            String::from_utf8(output.stderr).unwrap(),
            fs::read_to_string(at.join("s.csv")).unwrap(),
        )
    };
    let (count, text, scores) = tested(&[]);
    assert_eq!((count, text.contains("trained on")), (16, false), "{text}");
    let images_of = |scores: &str| {
        let known = scores.lines().filter(|line| line.starts_with("known,"));
        known.map(|line| line.split(',').nth(1).unwrap().to_owned()).collect::<Vec<_>>()
    };
    let (_, _, again) = tested(&["--known", "colours", "--held-out-test", "0.2"]);
    assert_eq!(images_of(&scores), images_of(&again));
    let (count, text, _) = tested(&["--known", "colours"]);
    assert!(count == 80 && text.contains("trained on some of these images; `--held-out-test 0.2`"), "{text}");

    // Imported weights are calibrated on the remaining images.
    stdout(&toolkit(at, &["export", "--run", "run", "w.safetensors"]));
    let import = |more: &[&str]| {
        toolkit(at, &[&["import", "w.safetensors", "i.onnx", "--known", "colours"], more].concat())
    };
    assert!(!import(&[]).status.success());
    let imported = import(&["--held-out-test", "0.2", "--precision", "f16", "--calibration-images", "99"]);
    let text = stdout(&imported);
    assert!(text.contains("compared with f32 on 64 training images"), "{text}");

    // One more image, and as many test images, but different ones.
    fs::copy(at.join("colours/red/0.png"), at.join("colours/red/00.png")).unwrap();
    let (count, text, _) = tested(&[]);
    assert!(count == 16 && text.contains("`colours` has changed since the training"), "{text}");
    fs::copy(at.join("colours/red/0.png"), at.join("colours/red/newer.png")).unwrap();
    fs::copy(at.join("colours/red/0.png"), at.join("colours/red/newest.png")).unwrap();
    let (count, text, _) = tested(&[]);
    assert!(count == 17 && text.contains("`colours` has changed since the training"), "{text}");
    let changed = toolkit(at, &["train", "--resume", "run"]);
    assert!(stderr(&changed).contains("cannot resume `run`"));
}

#[test]
fn divergence_ends_the_run() {
    let folder = tempfile::tempdir().unwrap();
    two_colours(folder.path());
    // Without held-out images there is no held-out loss, and after few steps the training loss is finite.
    for (run, settings) in [
        ("loss", &["--learning-rate", "1e30"][..]),
        ("weights", &["--learning-rate", "1e38", "--held-out", "0", "--epochs", "1", "--batch-size", "64"]),
    ] {
        let output = toolkit(folder.path(), &[&SMALL[..], settings, &["--run", run]].concat());
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{run}: {text}");
        assert!(text.contains("error: training diverged: ") && text.contains("hint: "), "{run}: {text}");
        assert!(text.contains("of epoch 1, at learning rate "), "{run}: {text}");
        // What was written before is finite.
        let run = RunFolder::new(folder.path().join(run));
        assert!(!run.checkpoint(CheckpointKind::Last).exists());
        for state in run.states().unwrap() {
            assert_eq!(Weights::read(&state).unwrap().not_finite(), None, "{}", state.display());
        }
    }
}

#[cfg(unix)]
#[test]
fn ctrl_c_saves_the_current_weights() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    two_colours(at);
    let args = [&SMALL[..], &["--epochs=100000", "--json"]].concat();
    let mut child = Command::new(env!("CARGO_BIN_EXE_toolkit"))
        .args(args)
        .current_dir(at)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // From this event on, the run can be resumed.
    let mut events = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(events.any(|line| line.unwrap().contains("\"event\":\"start\"")));
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains("error: interrupted in epoch ")
            && text.contains("hint: resume with `toolkit train --resume runs/1`"),
        "{text}"
    );
    // The checkpoint holds as many epochs as were finished.
    let epoch = text.split("error: interrupted in epoch ").nth(1).unwrap().lines().next().unwrap();
    let last = Checkpoint::read(&RunFolder::new(at.join("runs/1")).checkpoint(CheckpointKind::Last)).unwrap();
    let finished: Option<usize> = last.facts.training.unwrap().get("epoch");
    assert_eq!(finished.map(|finished| finished + 1), epoch.parse().ok());
    stdout(&toolkit(at, &["export", "model.onnx", "--last"]));
}
