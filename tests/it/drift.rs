//! `toolkit drift` and `eval --require`: exit codes, states, and the forms of a stream.

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
};

use cac::{
    export::{self, ExportOptions, ThresholdRule},
    method::Variant,
    model::Inspection,
    run::TestLogits,
};
use prost::Message;
use rand::{SeedableRng, rngs::ChaCha8Rng, seq::SliceRandom};
use serde_json::Value;
use tract_onnx::pb::ModelProto;

use crate::{
    checkpoint,
    commands::{error, images, stderr, stdout, toolkit, trained, unread},
    golden,
};

/// The exit code of drift, and of an unmet requirement.
const UNMET: i32 = 3;

/// Runs `toolkit drift` with scores on standard input.
fn drift(folder: &Path, args: &[&str], scores: &[f32]) -> Output {
    let lines: String = scores.iter().map(|score| format!("{score}\n")).collect();
    drift_on(folder, args, lines.as_bytes())
}

fn drift_on(folder: &Path, args: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_toolkit"))
        .arg("drift")
        .args(args)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that fails early does not read it.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", stderr(output)))
}

fn built_in() -> Inspection {
    Inspection::open(&golden("../../exported/cifar10-cifar-net.onnx")).unwrap()
}

/// The held-out scores of the built-in model, in random order: a stream without drift.
fn stable_stream() -> Vec<f32> {
    let mut scores = built_in().manifest.decision.threshold.unwrap().held_out_scores;
    scores.shuffle(&mut ChaCha8Rng::seed_from_u64(1));
    scores
}

#[test]
fn drift_exits_with_3_and_no_drift_with_0() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let stable = stable_stream();
    let output = drift(at, &["-"], &stable);
    let text = String::from_utf8_lossy(&output.stdout);
    let count = stable.len();
    for part in [
        &format!("no alarm in {count} images\nmartingale   "),
        ", highest so far ",
        "; alarm at 100\nunknown      ",
        &format!(" of the last {count} images (95 % interval "),
        "); of known images, at most 5.0 % on average, and at most 6.4 % with 95 % confidence\n",
        &format!(
            "\ndifference   0.000 (Kolmogorov-Smirnov, p = 1.00) between these and {count} held-out scores\n"
        ),
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }

    // Models of version 0.1 promise nothing.
    let earlier = golden("../../exported/cifar10-wrn-40-2.onnx");
    let output = drift(at, &[earlier.to_str().unwrap(), "-"], &stable);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("); of the images that the threshold was chosen from, at most 5.0 %\n"), "{text}");
    let note = "note: alpha does not bound the probability of a false alarm: the held-out images also chose the epoch\n";
    assert!(text.ends_with(note), "{text}");
    let output = drift(at, &[earlier.to_str().unwrap(), "-", "--json"], &stable);
    assert_eq!(json(&output)["guaranteed"], false);

    let higher: Vec<f32> = stable.iter().map(|score| score + 2.0).collect();
    let output = drift(at, &["-"], &higher);
    assert_eq!(output.status.code(), Some(UNMET), "{}", stderr(&output));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.starts_with("drift: alarm at image ") && text.contains("alarm at 100\n"), "{text}");
    let expected = "model: the built-in CIFAR-10 model\ndrift: the images no longer resemble";
    assert!(stderr(&output).starts_with(expected), "{}", stderr(&output));
    assert!(!stderr(&output).contains("error:"));

    // Falling scores are drift, too, and a larger alpha detects it sooner.
    let lower: Vec<f32> = stable.iter().map(|score| score - 2.0).collect();
    let alarm = |alpha: &str| {
        let output = drift(at, &["-", "--json", "--alpha", alpha], &lower);
        assert_eq!(output.status.code(), Some(UNMET), "{}", stderr(&output));
        json(&output)["alarm"].as_u64().unwrap()
    };
    assert!(alarm("0.2") < alarm("0.001"));
}

#[test]
fn invalid_input_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let refused = |args: &[&str], input: &[u8], reason: &str| {
        let message = error(&drift_on(at, args, input));
        assert!(message.contains(reason), "{message}, {reason}");
    };
    refused(&["-"], b"1\n\nNaN\n", "line 3 of standard input: `NaN` is not a score");
    refused(&["-"], b"\n", "standard input has no scores");
    refused(&["-", "--alpha", "0"], b"1\n", "alpha = 0: must be above 0 and below 1");
    refused(&["none.csv"], b"", "cannot read `none.csv`");
    refused(&["none", "--provider", "cpu"], b"", "cannot read `none`");
    refused(&["model.onnx"], b"", "give images or scores after the model");
    refused(&["a.csv", "b.csv"], b"", "`a.csv` is not a model file");
    fs::create_dir(at.join("empty")).unwrap();
    refused(&["empty"], b"", "`empty` is not a usable data set");
    fs::write(at.join("a.csv"), "score\n1\nx\n").unwrap();
    refused(&["a.csv"], b"", "line 3: `x` is not a number");
    refused(&["a.csv", "--column", "energy"], b"", "it has no column `energy`, only `score`");
    refused(&["a.csv", "--provider", "cpu"], b"", "--provider is for a folder of images");
    refused(&["-", "--column", "energy"], b"1\n", "--column is for a score file");
    fs::write(at.join("a.csv"), "score\n").unwrap();
    refused(&["a.csv"], b"", "the file has no entries");
    assert_eq!(drift_on(at, &["-", "--window", "0"], b"1\n").status.code(), Some(2));
    assert_eq!(drift_on(at, &[], b"").status.code(), Some(2));

    // A model whose threshold was set by hand may have no scores of held-out images.
    let mut without = checkpoint(1, Variant::Paper);
    let calibrating = &mut without.held_out.calibrating;
    *calibrating = calibrating.slice_axis(ndarray::Axis(0), (..0).into()).to_owned();
    let options = ExportOptions { threshold: ThresholdRule::Value(1.5), ..ExportOptions::default() };
    export::export(&without, &options, &at.join("model.onnx")).unwrap();
    refused(&["model.onnx", "-"], b"1\n", "the model has no scores of held-out images to compare with");
}

#[test]
fn an_edited_threshold_promises_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    export::export(&checkpoint(1, Variant::Paper), &ExportOptions::default(), &at.join("model.onnx"))
        .unwrap();
    let bytes = fs::read(at.join("model.onnx")).unwrap();
    let Inspection { manifest, threshold, .. } = Inspection::of(&bytes, "model").unwrap();
    let scores = manifest.decision.threshold.unwrap().held_out_scores;
    let output = drift(at, &["model.onnx", "-"], &scores);
    assert!(stdout(&output).contains("; of known images, at most 5.0 % on average"), "{}", stdout(&output));
    let mut model = ModelProto::decode(&bytes[..]).unwrap();
    let tensors = &mut model.graph.as_mut().unwrap().initializer;
    let edited = tensors.iter_mut().find(|tensor| tensor.name == "threshold").unwrap();
    edited.raw_data = (threshold + 1.0).to_le_bytes().to_vec();
    fs::write(at.join("model.onnx"), model.encode_to_vec()).unwrap();
    let output = drift(at, &["model.onnx", "-"], &scores);
    assert!(!stdout(&output).contains("at most"), "{}", stdout(&output));
    let output = drift(at, &["model.onnx", "-", "--json"], &scores);
    assert_eq!(json(&output)["keep"], serde_json::Value::Null);
}

#[test]
fn a_model_that_compares_with_test_images_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let mut checkpoint = checkpoint(1, Variant::Paper);
    let known = checkpoint.held_out.calibrating.clone();
    let count = known.nrows();
    checkpoint.held_out.calibrating = known.slice_axis(ndarray::Axis(0), (..0).into()).to_owned();
    checkpoint.test = Some(TestLogits { labels: vec![0; count], known, unknown: Vec::new(), skipped: 0 });
    checkpoint.facts.training = Some(serde_json::from_value(serde_json::json!({ "known": "ants" })).unwrap());
    export::export(&checkpoint, &ExportOptions::default(), &at.join("model.onnx")).unwrap();
    let scores = Inspection::open(&at.join("model.onnx")).unwrap().manifest.decision.threshold.unwrap();
    let output = drift(at, &["model.onnx", "-"], &scores.held_out_scores);
    let note = "note: alpha does not bound the probability of a false alarm: no training images were held out, and the scores are those of test images";
    assert!(stdout(&output).lines().any(|line| line == note), "{}", stdout(&output));
    assert!(!stdout(&output).contains("on average"), "{}", stdout(&output));
    // A model that held out images has no such note.
    assert!(!stdout(&drift(at, &["-"], &stable_stream())).contains("note:"));
}

#[test]
fn a_resumed_stream_matches_an_uninterrupted_one() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let stream: Vec<f32> =
        stable_stream().iter().take(600).enumerate().map(|(i, score)| score + i as f32 / 400.0).collect();
    let whole = drift(at, &["-", "--json"], &stream);
    let mut last = None;
    for part in stream.chunks(250) {
        last = Some(drift(at, &["-", "--json", "--state", "drift.json"], part));
    }
    let last = last.unwrap();
    assert_eq!((whole.status.code(), last.status.code()), (Some(UNMET), Some(UNMET)));
    let (whole, last) = (json(&whole), json(&last));
    for field in ["images", "log10_martingale", "greatest_log10_martingale", "alarm", "alpha", "drift"] {
        assert_eq!(whole[field], last[field], "{field}");
    }
    assert_eq!((&last["new_images"], &last["recent"]["images"]), (&100.into(), &100.into()));
    // The alarm stays, and the window may reach back beyond this call's images.
    let again =
        drift(at, &["-", "--json", "--state", "drift.json", "--window", "300"], &stable_stream()[..10]);
    assert_eq!(again.status.code(), Some(UNMET));
    assert_eq!(json(&again)["alarm"], last["alarm"]);
    assert_eq!(json(&again)["recent"]["images"], 300);

    // An error leaves the state as it was.
    let before = fs::read(at.join("drift.json")).unwrap();
    let args = ["-", "--state", "drift.json"];
    assert!(error(&drift_on(at, &args, b"1\nx\n")).contains("line 2"));
    assert_eq!(fs::read(at.join("drift.json")).unwrap(), before);
    #[cfg(target_os = "linux")]
    {
        fs::write(at.join("scores.csv"), "score\n1\n").unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_toolkit"))
            .args(["drift", "scores.csv", "--state", "drift.json"])
            .current_dir(at)
            .stdout(fs::OpenOptions::new().write(true).open("/dev/full").unwrap())
            .output()
            .unwrap();
        assert!(
            error(&output).contains("cannot write to standard output: No space left on device"),
            "{}",
            stderr(&output)
        );
        assert_eq!(fs::read(at.join("drift.json")).unwrap(), before);
    }

    // A different seed, a different model, a damaged file.
    let output = drift(at, &[&args[..], &["--seed", "1"]].concat(), &[1.0]);
    assert!(error(&output).contains("cannot continue the stream of `"), "{}", stderr(&output));
    assert!(error(&output).contains("it belongs to the seed 0, expected 1"), "{}", stderr(&output));
    assert!(stderr(&output).contains("hint: continue a stream with the same model"));
    let output = drift(at, &[&args[..], &["--alpha", "0.5"]].concat(), &[1.0]);
    assert!(error(&output).contains("it belongs to the alpha 0.01, expected 0.5"), "{}", stderr(&output));
    export::export(&checkpoint(1, Variant::Paper), &ExportOptions::default(), &at.join("other.onnx"))
        .unwrap();
    let output = drift(at, &[&["other.onnx"], &args[..]].concat(), &[1.0]);
    let expected = format!("it belongs to the model with SHA-256 {}, expected ", built_in().sha256);
    assert!(error(&output).contains(&expected), "{}", stderr(&output));
    // Between two numbers.
    let half = before[..before.len() / 2].iter().rposition(|&byte| byte == b',').unwrap();
    fs::write(at.join("drift.json"), &before[..half]).unwrap();
    let output = drift(at, &args, &[1.0]);
    assert!(error(&output).contains("it is damaged: EOF while parsing"), "{}", stderr(&output));
    let output = drift(at, &["-", "--state", "no/such/drift.json"], &[1.0]);
    assert!(error(&output).contains("cannot write `no/such/drift.json`"), "{}", stderr(&output));
}

#[test]
fn a_state_in_use_by_another_process_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let args = ["-", "--state", "drift.json"];
    let lock = fs::File::create(at.join("drift.json.lock")).unwrap();
    lock.lock().unwrap();
    let output = drift(at, &args, &stable_stream()[..5]);
    assert!(error(&output).ends_with("drift.json` is in use by another process"), "{}", stderr(&output));
    assert!(!at.join("drift.json").exists());
    drop(lock);
    stdout(&drift(at, &args, &stable_stream()[..5]));
}

#[test]
fn folders_files_and_stdin_are_equivalent_streams() {
    let folder = trained();
    let at = folder.path();
    images(at);
    stdout(&toolkit(at, &["export", "model.onnx"]));
    fs::write(at.join("known/test/bee/a.png"), "no image").unwrap();
    fs::write(at.join("known/notes.txt"), "left out").unwrap();
    let output = toolkit(at, &["drift", "model.onnx", "known", "--state", "drift.json"]);
    let refused = stderr(&output);
    assert!(refused.contains("known/test/bee/a.png` is not an image that can be read"), "{refused}");
    assert!(refused.contains("`drift` and `recalibrate` leave them out with --skip-broken"));
    assert!(!at.join("drift.json").exists());
    let output = toolkit(at, &["drift", "model.onnx", "known", "--json", "--skip-broken"]);
    let of_folder: Value = serde_json::from_str(stdout(&output)).unwrap();
    assert_eq!((&of_folder["images"], &of_folder["skipped"]), (&3.into(), &1.into()));
    assert_eq!(of_folder["guaranteed"], true);
    assert!(
        stderr(&output).contains("known/test/bee/a.png` is not an image that can be read"),
        "{}",
        stderr(&output)
    );
    assert!(stderr(&output).contains("skipped files by extension: 1 .txt"), "{}", stderr(&output));
    let text = toolkit(at, &["drift", "model.onnx", "known", "--skip-broken"]);
    assert!(stdout(&text).ends_with("1 image cannot be read and is not counted\n"), "{}", stdout(&text));

    // In int8, the scores differ from the held-out ones.
    fs::rename(at.join("known/test"), at.join("known/train")).unwrap();
    stdout(&toolkit(at, &["export", "int8.onnx", "--precision", "int8", "--calibrate", "known"]));
    fs::rename(at.join("known/train"), at.join("known/test")).unwrap();
    let line = json(&toolkit(at, &["drift", "int8.onnx", "known", "--json", "--skip-broken"]));
    let doubt = "the held-out scores are those of the network in float32, not in int8";
    assert_eq!((&line["guaranteed"], &line["doubt"]), (&false.into(), &doubt.into()));
    let text = toolkit(at, &["drift", "int8.onnx", "known", "--skip-broken"]);
    let note = format!("note: alpha does not bound the probability of a false alarm: {doubt}\n");
    assert!(stdout(&text).ends_with(&note), "{}", stdout(&text));

    // Until these are from the same provider.
    fs::create_dir(at.join("new")).unwrap();
    for number in 0..20_u8 {
        let image = image::RgbImage::from_fn(32, 32, |x, y| {
            image::Rgb([number * 9, x as u8 * 8, number.wrapping_mul(y as u8)])
        });
        image.save(at.join(format!("new/{number:02}.png"))).unwrap();
    }
    let known = ["recalibrate", "int8.onnx", "new.onnx", "--known", "new", "--provider", "onnxruntime"];
    stdout(&toolkit(at, &known));
    let right = ["--provider", "onnxruntime"];
    let drift = |args: &[&str]| {
        toolkit(at, &[&["drift", "new.onnx", "known", "--skip-broken", "--json"], args].concat())
    };
    for (provider, guaranteed) in [(&[][..], false), (&right, true)] {
        assert_eq!(json(&drift(provider))["guaranteed"], guaranteed, "{provider:?}");
    }
    // A stream keeps the scores of another provider.
    let state = ["--state", "int8.json"];
    assert_eq!(json(&drift(&state))["guaranteed"], false);
    assert_eq!(json(&drift(&[&state[..], &right].concat()))["guaranteed"], false);

    // The same images scored by `score`, in the order of their names.
    let files = ["known/test/ant/a.png", "known/test/bee/b.png", "known/test/cow/c.png"];
    let scores = toolkit(at, &[&["score", "model.onnx", "--json"], &files[..]].concat());
    let lines = stdout(&scores).to_owned();
    let scores: Vec<String> = lines
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["verdict"]["score"].to_string())
        .collect();
    let on_stdin = json(&drift_on(at, &["model.onnx", "-", "--json"], scores.join("\n").as_bytes()));
    // Names make a repeated call known.
    let args = ["model.onnx", "-", "--json", "--state", "lines.json"];
    for repeated in [false, true] {
        let output = drift_on(at, &args, lines.as_bytes());
        assert_eq!(json(&output)["log10_martingale"], on_stdin["log10_martingale"]);
        assert_eq!(stderr(&output).contains("the last call counted these images"), repeated);
    }
    let null = lines.replacen(&scores[0], "null", 1);
    assert!(null != lines && json(&drift_on(at, &args[..3], null.as_bytes()))["images"] == 3);
    let broken = format!("{lines}{{\"image\": \"a.png\", \"error\": \"`a.png` is no image\"}}\n");
    let message = error(&drift_on(at, &["model.onnx", "-"], broken.as_bytes()));
    assert!(message.ends_with("line 4 of standard input: `a.png` is no image"), "{message}");
    let output = drift_on(at, &["model.onnx", "-", "--json", "--skip-broken"], broken.as_bytes());
    assert_eq!((&json(&output)["images"], &json(&output)["skipped"]), (&3.into(), &1.into()));
    let message = error(&drift_on(at, &["model.onnx", "-"], format!("{lines}0.5\n").as_bytes()));
    assert!(message.ends_with("standard input has both scores and lines of `score --json`"), "{message}");
    // Labels are optional and ignored.
    let lines: String = scores.iter().map(|score| format!("{score},any\n")).collect();
    fs::write(at.join("a.csv"), format!("mine,label\n{lines}")).unwrap();
    let of_file = toolkit(at, &["drift", "model.onnx", "a.csv", "--column", "mine", "--json"]);
    let of_file: Value = serde_json::from_str(stdout(&of_file)).unwrap();
    for field in ["images", "log10_martingale", "recent", "held_out_images", "keep", "kept_at_least"] {
        assert_eq!(of_folder[field], on_stdin[field], "{field}");
        assert_eq!(of_folder[field], of_file[field], "{field}");
    }
    let npz = toolkit(at, &["drift", golden("scores/plain.npz").to_str().unwrap(), "--json"]);
    assert!(json(&npz)["images"].as_u64().unwrap() > 1, "{}", stderr(&npz));

    fs::remove_dir_all(at.join("known")).unwrap();
    fs::create_dir(at.join("known")).unwrap();
    fs::write(at.join("known/a.png"), "no image").unwrap();
    let none = toolkit(at, &["drift", "model.onnx", "known", "--skip-broken"]);
    assert!(error(&none).contains("none of the 1 images in `known` can be read"), "{}", stderr(&none));
}

#[test]
fn the_image_that_raises_the_alarm_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    fs::create_dir(at.join("new")).unwrap();
    for number in 0..40_u32 {
        let shade = |x: u32, y: u32| ((x * (number + 3) + y * 7) * 37 % 256) as u8;
        let image = image::RgbImage::from_fn(32, 32, |x, y| image::Rgb([shade(x, y), shade(y, x), 90]));
        image.save(at.join(format!("new/{number:02}.png"))).unwrap();
    }
    fs::write(at.join("new/00.png"), "no image").unwrap();
    let drifted = |args: &[&str]| {
        let output = toolkit(at, &[&["drift", "new", "--skip-broken", "--state"], args].concat());
        assert_eq!(output.status.code(), Some(UNMET), "{}", stderr(&output));
        output
    };
    let line = json(&drifted(&["a.json", "--json"]));
    // The first image is not counted.
    let expected = format!("new/{:02}.png", line["alarm"].as_u64().unwrap());
    assert_eq!(line["alarm_image"], expected);
    // The same images are counted once, in one order.
    assert_eq!(json(&drifted(&["a.json", "--json"])), line);
    let output = toolkit(at, &["drift", "new", "--skip-broken", "--state", "a.json", "--shuffle"]);
    assert!(error(&output).contains("counted these images in another order"), "{}", stderr(&output));
    // The alarm was in an earlier call.
    fs::rename(at.join("new/39.png"), at.join("new/40.png")).unwrap();
    let later = json(&drifted(&["a.json", "--json"]));
    assert_eq!((&later["alarm_image"], &later["images"]), (&Value::Null, &(2 * 39).into()));
    let text = drifted(&["b.json"]);
    let text = String::from_utf8_lossy(&text.stdout);
    assert!(
        text.starts_with(&format!("drift: alarm at image {} of 39, `{expected}`\n", line["alarm"])),
        "{text}"
    );
    // The scores are shuffled with their names.
    let shuffled = json(&drifted(&["c.json", "--json", "--shuffle"]));
    let scored = toolkit(at, &["score", "--json", shuffled["alarm_image"].as_str().unwrap()]);
    let score = &serde_json::from_str::<Value>(stdout(&scored)).unwrap()["verdict"]["score"];
    let state: Value = serde_json::from_slice(&fs::read(at.join("c.json")).unwrap()).unwrap();
    let raised = &state["scores"][shuffled["alarm"].as_u64().unwrap() as usize - 1];
    assert!((raised.as_f64().unwrap() - score.as_f64().unwrap()).abs() < 1e-4, "{raised} {score}");
}

#[test]
fn shuffling_is_reproducible_and_helps_if_images_are_sorted() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let mut sorted = stable_stream();
    sorted.sort_by(f32::total_cmp);
    let args = ["-", "--json", "--shuffle"];
    assert_eq!(drift(at, &args[..2], &sorted).status.code(), Some(UNMET));
    let [once, again] = [(); 2].map(|()| drift(at, &args, &sorted));
    assert!(once.status.success(), "{}", stderr(&once));
    assert_eq!(once.stdout, again.stdout);
}

#[test]
fn unmet_requirements_exit_with_3() {
    let folder = trained();
    let at = folder.path();
    images(at);
    stdout(&toolkit(at, &["export", "model.onnx"]));
    let eval = |more: &[&str]| {
        let data = ["eval", "model.onnx", "--known", "known", "--unknown", "uniform-noise:9"];
        toolkit(at, &[&data[..], more].concat())
    };
    let table: Value = serde_json::from_str(stdout(&eval(&["--json"]))).unwrap();
    let auroc = table["rows"][0]["auroc"].as_f64().unwrap();
    let met = format!("auroc={},accuracy=0", auroc - 1e-9);
    assert!(stdout(&eval(&["--require", &met])).contains("3 known images"));

    let output = eval(&["--json", "--require", "auroc=1,accuracy=1", "--require", "fpr95_tpr=1"]);
    assert_eq!(output.status.code(), Some(UNMET), "{table}");
    assert_eq!(json(&output)["rows"][0]["auroc"], table["rows"][0]["auroc"]);
    let output = eval(&["--require", "known_kept=0,unknown_caught=1,fpr95_tpr=0", "--threshold", "1e9"]);
    assert_eq!(output.status.code(), Some(UNMET), "{}", stderr(&output));
    let expected = "not met: unknown_caught of uniform-noise is 0.0000 (95 % interval 0.0000 to 0.2991), required: at \
                    least 1 (cpu, score cac)";
    assert!(stderr(&output).lines().any(|line| line == expected), "{}", stderr(&output));

    // Even if nobody reads the tables.
    let required = ["--require", "unknown_caught=1", "--threshold", "1e9", "--report", "page.html"];
    let mut twice = Command::new(env!("CARGO_BIN_EXE_toolkit"));
    twice.args(["eval", "model.onnx", "model.onnx", "--known", "known", "--unknown", "uniform-noise:9"]);
    let output = unread(twice.args(required).current_dir(at));
    assert_eq!(output.status.code(), Some(UNMET), "{}", stderr(&output));
    assert_eq!(stderr(&output).matches("not met: unknown_caught").count(), 2, "{}", stderr(&output));
    assert!(at.join("page.html").exists());

    assert_eq!(eval(&["--require", "auc=0.9"]).status.code(), Some(2));
    assert_eq!(eval(&["--require", "auroc=90"]).status.code(), Some(2));
    let output = eval(&["--require", "unknown_caught=0.5", "--score", "energy"]);
    assert!(
        error(&output).contains("only the model's own score, `cac`, has a threshold"),
        "{}",
        stderr(&output)
    );
    let output = toolkit(at, &["eval", "model.onnx", "--known", "known", "--require", "auroc=0.5"]);
    assert!(
        error(&output).contains("`auroc` is required, but there are no unknown images"),
        "{}",
        stderr(&output)
    );
}
