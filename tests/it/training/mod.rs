//! Training, from the command line to the model.

mod frozen;
mod resume;
mod sets;
mod settings;

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
    eval::{EvaluateOptions, outputs},
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

/// The feature files in a run folder.
fn features_in(run: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(run).unwrap().map(|file| file.unwrap().path());
    files.filter(|file| file.extension().is_some_and(|extension| extension == "npy")).collect()
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
fn a_class_left_out_is_tested_on_as_unknown() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    for (class, colour) in [("red", [200, 30, 30]), ("green", [30, 200, 30]), ("blue", [30, 30, 200])] {
        images(&at.join("colours"), class, colour, 20);
    }
    fs::write(at.join("settings.toml"), "unknown-class = [\"green\"]\nheld-out-test = 0.2\n").unwrap();
    let args = ["train", "--config", "settings.toml", "--known", "colours", "--arch", "cac-net"];
    let short = ["--epochs", "1", "--held-out", "0.6", "--run", "run", "--json"];
    let log = toolkit(at, &[&args[..], &short].concat());
    let report = lines(stdout(&log)).pop().unwrap()["report"].take();
    let row = &report["rows"][0];
    assert_eq!(
        (&report["known"], &row["unknown"], &row["name"]),
        (&8.into(), &20.into(), &"other-classes".into())
    );
    stdout(&toolkit(at, &["export", "--run", "run", "model.onnx"]));
    let training = Inspection::open(&at.join("model.onnx")).unwrap().manifest.history.training.unwrap();
    assert_eq!(training.unknown_classes.unwrap(), ["green"]);

    // `eval` finds the same images again, and the class by its name in other data.
    let evaluation = |more: &[&str]| {
        let output = toolkit(at, &[&["eval", "model.onnx", "--json"], more].concat());
        serde_json::from_str::<Value>(stdout(&output)).unwrap()
    };
    let again = evaluation(&[]);
    assert_eq!((&again["known"], &again["rows"][0]["unknown"]), (&8.into(), &20.into()));
    assert_eq!(again["other_classes"], json!(["green"]));
    images(&at.join("new"), "red", [201, 31, 31], 3);
    images(&at.join("new"), "green", [31, 201, 31], 5);
    images(&at.join("new"), "blue", [31, 31, 201], 3);
    let new = evaluation(&["--known", "new", "--unknown-class", "green"]);
    assert_eq!((&new["known"], &new["rows"][0]["unknown"]), (&6.into(), &5.into()));
    let known = toolkit(
        at,
        &["eval", "model.onnx", "--known", "new", "--unknown-class", "green", "--unknown-class", "red"],
    );
    assert!(
        error(&known).contains("`red` is a class of the model, so its images are not unknown"),
        "{}",
        stderr(&known)
    );
    let without = toolkit(at, &["eval", "model.onnx", "--known", "new"]);
    assert!(error(&without).contains("`green` is not one of the known classes: `blue`, `red`"));
    assert!(stderr(&without).contains("--unknown-class CLASS"));

    // Images of the class do not calibrate int8 either.
    let calibrated_on = |folder: &str| {
        let args = ["export", "--run", "run", "--precision", "int8", "--calibrate", folder, "int8.onnx"];
        let output = toolkit(at, &args);
        let text = stdout(&output);
        let (_, count) = text.split_once("compared with f32 on ").unwrap();
        count.split_once(' ').unwrap().0.parse::<usize>().unwrap()
    };
    assert_eq!(calibrated_on("new"), 5, "of six, without one to test on");

    // A backbone that has learned the class is remarked on, also when the model is tested.
    let train = |more: &[&str]| {
        let data = ["train", "--known", "colours", "--held-out-test", "0.2", "--arch", "cac-net"];
        toolkit(at, &[&data[..], &["--epochs", "1", "--held-out", "0.6"], more].concat())
    };
    stdout(&train(&["--run", "all"]));
    let from_all = train(&["--unknown-class", "green", "--backbone", "all", "--run", "from-all"]);
    stdout(&from_all);
    assert!(stderr(&from_all).contains("the images of `other-classes` are those of green"));
    assert!(stderr(&from_all).contains("the backbone was trained on some of the unknown classes"));
    stdout(&toolkit(at, &["export", "--run", "from-all", "from-all.onnx"]));
    let tested = toolkit(at, &["eval", "from-all.onnx"]);
    stdout(&tested);
    assert!(stderr(&tested).contains("the backbone of the model was trained on some of the unknown classes"));
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
