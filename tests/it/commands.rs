//! The command line: what it prints, to which stream, and its exit codes.

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
};

use cac::{
    data::{Dataset, Degradation, Split},
    eval::feature_file::FeatureFile,
    image::Input,
    method::Variant,
    run::{CheckpointKind, RunFolder},
};
use serde_json::{Value, json};

use crate::{checkpoint, errors::with_changed_bias, golden};

pub fn toolkit(folder: &Path, args: &[&str]) -> Output {
    let (program, args) = match args {
        // What `toolkit` would run: with this feature both load libtorch, which is slow.
        #[cfg(feature = "train")]
        ["train", rest @ ..] => (env!("CARGO_BIN_EXE_toolkit-train"), rest),
        all => (env!("CARGO_BIN_EXE_toolkit"), all),
    };
    Command::new(program).args(args).current_dir(folder).output().unwrap()
}

/// Runs a command whose reader closes the pipe at once.
pub fn unread(command: &mut Command) -> Output {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    child.wait_with_output().unwrap()
}

pub fn stdout(output: &Output) -> &str {
    assert!(output.status.success(), "{}", stderr(output));
    std::str::from_utf8(&output.stdout).unwrap()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The one error line of a command that must fail with exit code 1.
pub fn error(output: &Output) -> String {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    let errors: Vec<&str> = text.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "{text}");
    assert!(!text.contains("panicked"), "{text}");
    errors[0].to_owned()
}

/// A folder with `runs/1`, as if trained.
pub fn trained() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let run = RunFolder::create_next(&folder.path().join("runs")).unwrap();
    checkpoint(2, Variant::Paper).write(&run.checkpoint(CheckpointKind::Best)).unwrap();
    folder
}

/// Class folders of images of one colour, and a folder of unknown images.
pub fn images(folder: &Path) {
    for (i, name) in ["known/test/ant/a.png", "known/test/bee/b.png", "known/test/cow/c.png", "other/d.png"]
        .into_iter()
        .enumerate()
    {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let shade = 60 * i as u8;
        image::RgbImage::from_pixel(40, 20 + i as u32, image::Rgb([shade, 200 - shade, 90]))
            .save(path)
            .unwrap();
    }
}

#[test]
fn inspect_shows_the_contents_of_a_model() {
    let folder = trained();
    let at = folder.path();
    stdout(&toolkit(at, &["export", "model.onnx", "--threshold", "1.5", "--input", "u8", "--batch", "4"]));
    let text = toolkit(at, &["inspect", "model.onnx"]);
    let text = stdout(&text);
    for line in [
        "graph      ONNX IR 8, opset 17, ",
        "input      images uint8 [4, 32, 32, 3], RGB\n",
        "classes    3: ant, bee, cow\n",
        "network    WideResNet-10-2\n",
        "loss       CAC of the paper, magnitude 10, anchor weight 0.1\n",
        "threshold  1.5, set by hand\n",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    let json: Value =
        serde_json::from_str(stdout(&toolkit(at, &["inspect", "model.onnx", "--json"]))).unwrap();
    let bytes = fs::read(at.join("model.onnx")).unwrap();
    assert_eq!((&json["bytes"], &json["batch"]), (&bytes.len().into(), &4.into()));
    assert_eq!(json["manifest"]["classes"], serde_json::json!(["ant", "bee", "cow"]));

    // Other tools may edit the tensor, which then differs from the metadata.
    let place = bytes.windows(4).rposition(|window| window == 1.5_f32.to_le_bytes()).unwrap();
    let mut edited = bytes.clone();
    edited[place..place + 4].copy_from_slice(&2.5_f32.to_le_bytes());
    fs::write(at.join("edited.onnx"), edited).unwrap();
    let text = toolkit(at, &["inspect", "edited.onnx"]);
    assert!(stdout(&text).contains("threshold  2.5, edited; originally 1.5\n"), "{}", stdout(&text));

    fs::write(at.join("other.onnx"), "no model").unwrap();
    assert!(error(&toolkit(at, &["inspect", "other.onnx"])).contains("`other.onnx` is not a usable model"));
    assert!(error(&toolkit(at, &["inspect", "none.onnx"])).contains("cannot read `none.onnx`"));
}

#[test]
fn providers_are_checked_and_failures_have_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    let output = toolkit(folder.path(), &["providers", "--json"]);
    let lines: Vec<Value> = stdout(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let found = |name: &str| lines.iter().find(|line| line["provider"] == name).unwrap();
    assert_eq!(lines.len(), 9);
    assert_eq!(
        (&found("cpu")["available"], &found("onnxruntime")["available"]),
        (&true.into(), &true.into())
    );
    // DirectML exists on Windows only, where these tests do not run.
    let reason = found("directml:0")["reason"].as_str().unwrap();
    assert!(reason.contains("was built without directml"), "{reason}");
    let reason = found("openvino:bf16")["reason"].as_str().unwrap();
    assert!(reason.contains("was built without openvino"), "{reason}");
    let text = toolkit(folder.path(), &["providers"]);
    assert!(stdout(&text).starts_with("cpu           yes  tract, "), "{}", stdout(&text));

    let without = Command::new(env!("CARGO_BIN_EXE_toolkit"))
        .args(["providers", "--json"])
        .env("ORT_DYLIB_PATH", "/no/such/library.so")
        .output()
        .unwrap();
    let second: Value = serde_json::from_str(stdout(&without).lines().nth(1).unwrap()).unwrap();
    assert!(second["reason"].as_str().unwrap().contains("cannot load `/no/such/library.so`"), "{second}");
}

#[test]
fn export_eval_and_score() {
    let folder = trained();
    let at = folder.path();
    images(at);
    let text = toolkit(at, &["export", "model.onnx"]);
    let text = stdout(&text);
    assert!(text.contains("runs/1") && text.contains("self-check") && text.contains("keeps 95 %"), "{text}");

    let data = ["--known", "known", "--unknown", "other=other", "--unknown", "uniform-noise:3"];
    let mut reports = Vec::new();
    for provider in ["cpu", "onnxruntime"] {
        let args = [&["eval", "model.onnx", "--provider", provider], &data[..]].concat();
        let table = toolkit(at, &args);
        let table = stdout(&table);
        for part in ["3 known images", "AUROC", "FPR95TPR", "other", "uniform-noise", "all", "images/s"] {
            assert!(table.contains(part), "{part}: {table}");
        }
        let json = toolkit(at, &[&args[..], &["--json"]].concat());
        let mut json: Value = serde_json::from_str(stdout(&json)).unwrap();
        assert!(json["provider"].as_str().unwrap().starts_with(provider), "{json}");
        assert_eq!((&json["images"], &json["rows"][2]["unknown"]), (&7.into(), &4.into()));
        // tract runs all operators itself.
        assert_eq!(json["operators"].as_object().unwrap().is_empty(), provider == "cpu", "{json}");
        json.as_object_mut()
            .unwrap()
            .retain(|key, _| !["seconds", "provider", "operators"].contains(&key.as_str()));
        reports.push(json);
    }
    assert_eq!(reports[0], reports[1]);

    let lines =
        toolkit(at, &["score", "model.onnx", "other/d.png", "known/test/ant/a.png", "--threshold", "-1"]);
    let lines: Vec<Vec<&str>> = stdout(&lines).lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!((lines.len(), lines[0][0], lines[0][1]), (2, "other/d.png", "unknown"));
    let known = toolkit(at, &["score", "model.onnx", "other/d.png", "--threshold", "1e9", "--json"]);
    let known: Value = serde_json::from_str(stdout(&known)).unwrap();
    assert_eq!(known["verdict"]["unknown"], false);
    // Another threshold does not change the p-value, the last column.
    let p_value = known["verdict"]["p_value"].as_f64().unwrap();
    assert_eq!(lines[0][4..], [format!("{p_value:.4}")]);
    assert!(["ant", "bee", "cow"].contains(&known["verdict"]["class"].as_str().unwrap()));
}

#[test]
fn several_scores_are_evaluated_in_one_pass_and_written() {
    let folder = trained();
    let at = folder.path();
    images(at);
    stdout(&toolkit(at, &["export", "model.onnx"]));
    let data = [
        "eval",
        "model.onnx",
        "--known",
        "known",
        "--unknown",
        "other=other",
        "--unknown",
        "uniform-noise:9",
    ];
    let scores = ["--score", "cac", "--score", "energy", "--group", "far=uniform-noise", "--json"];
    let mut tables = Vec::new();
    for file in ["scores.csv", "scores.npz"] {
        let output = toolkit(at, &[&data[..], &scores, &["--scores", file]].concat());
        let lines: Vec<Value> =
            stdout(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let of = |field: &str| [&lines[0][field], &lines[1][field]].map(Value::clone);
        assert_eq!((lines.len(), of("score")), (2, ["cac".into(), "energy".into()]));
        // Only the model's own score has a threshold; the classes do not depend on the score.
        assert!(lines[0]["threshold"].is_number() && lines[1].get("threshold").is_none());
        assert_eq!(lines[0]["accuracy"], lines[1]["accuracy"]);
        assert_eq!(lines[0]["balanced_accuracy"], lines[1]["balanced_accuracy"]);
        check_classes(&lines[0]);
        assert_eq!(
            lines[1]["classes"][0],
            json!({ "class": "ant", "images": 1, "correct": lines[0]["classes"][0]["correct"] })
        );
        tables = lines;
        for (table, column) in tables.iter().zip(["score", "energy"]) {
            let again = toolkit(at, &["metrics", file, "--column", column, "--json"]);
            let again: Value = serde_json::from_str(stdout(&again)).unwrap();
            let (rows, again_rows) = (table["rows"].as_array().unwrap(), again["rows"].as_array().unwrap());
            assert_eq!(table["accuracy"], again["accuracy"], "{file}");
            let all = |rows: &[Value]| {
                let row = rows.last().unwrap();
                ["auroc", "aupr_in", "aupr_out", "fpr95_tpr", "oscr"].map(|metric| row[metric].clone())
            };
            assert_eq!(all(rows), all(again_rows), "{file} {column}");
            if file == "scores.csv" {
                // CSV also names the sets.
                assert_eq!(rows[0]["intervals"]["auroc"], again_rows[0]["intervals"]["auroc"]);
            }
        }
    }
    let balanced = 100.0 * tables[0]["balanced_accuracy"].as_f64().unwrap();
    let text = toolkit(at, &data);
    assert!(
        stdout(&text).contains(&format!("balanced accuracy {balanced:.2} %, lowest for `")),
        "{}",
        stdout(&text)
    );
    let names: Vec<&Value> = tables[0]["rows"].as_array().unwrap().iter().map(|row| &row["name"]).collect();
    assert_eq!(names, ["other", "uniform-noise", "far", "mean", "all"]);
    let unused = toolkit(at, &[&data[..], &["--score", "msp", "--threshold", "1"]].concat());
    assert!(error(&unused).contains("applies to the model's own score, `cac`"));
    let twice = toolkit(at, &[&data[..], &["--score", "msp", "--score", "msp", "--json"]].concat());
    assert_eq!(stdout(&twice).lines().count(), 1);
    let taken = toolkit(at, &["eval", "model.onnx", "--known", "known", "--unknown", "known=other"]);
    assert!(error(&taken).contains("set name = `known`: is reserved for a row of the report"));
    // `--score` gives the same numbers as a file exported with that score.
    stdout(&toolkit(at, &["export", "energy.onnx", "--score", "energy"]));
    let own = toolkit(at, &[&["eval", "energy.onnx"], &data[2..], &["--json"]].concat());
    let own: Value = serde_json::from_str(stdout(&own)).unwrap();
    assert_eq!(own["rows"][0]["auroc"], tables[1]["rows"][0]["auroc"]);
}

/// Checks that the counts of the classes agree with the shares of all images.
fn check_classes(line: &Value) {
    let classes = line["classes"].as_array().unwrap();
    let names: Vec<&Value> = classes.iter().map(|class| &class["class"]).collect();
    assert_eq!(names, ["ant", "bee", "cow"]);
    let counts = |field: &str| classes.iter().map(|class| class[field].as_f64().unwrap()).collect::<Vec<_>>();
    let sum = |field: &str| counts(field).iter().sum::<f64>();
    assert_eq!(sum("images"), line["known"]);
    assert_eq!(sum("correct") / sum("images"), line["accuracy"]);
    assert_eq!(sum("kept") / sum("images"), line["known_kept"]);
    assert!(sum("kept_and_correct") <= sum("kept").min(sum("correct")));
    let all = line["rows"].as_array().unwrap().last().unwrap();
    assert_eq!(all["name"], "all");
    let caught = all["unknown_caught"].as_f64().unwrap() * all["unknown"].as_f64().unwrap();
    assert_eq!(sum("unknown_accepted"), all["unknown"].as_f64().unwrap() - caught.round());
    let accuracies =
        counts("correct").into_iter().zip(counts("images")).map(|(correct, images)| correct / images);
    assert_eq!(accuracies.sum::<f64>() / 3.0, line["balanced_accuracy"]);
}

#[test]
fn eval_degrades_all_test_images() {
    let folder = trained();
    let at = folder.path();
    for (number, place) in ["known/test/ant", "known/test/bee", "known/test/cow", "other"].iter().enumerate()
    {
        let path = at.join(place);
        fs::create_dir_all(&path).unwrap();
        let stripe = |x: u32, y: u32| (x * (7 + number as u32) + y * y * 5) as u8 % 200;
        let image = ::image::RgbImage::from_fn(40, 20, |x, y| ::image::Rgb([stripe(x, y), stripe(y, x), 90]));
        image.save(path.join("a.png")).unwrap();
    }
    stdout(&toolkit(at, &["export", "model.onnx"]));
    stdout(&toolkit(at, &["export", "any-size.onnx", "--resize"]));
    let input = Input::default();
    let known = Dataset::known(&at.join("known"), Split::Test, &input).unwrap();
    let unknown = Dataset::unknown(&at.join("other"), Split::Test, &input).unwrap();
    let degraded = |name: &str, degradation: Degradation| {
        let save = |images: &Dataset, place: &str| {
            let pixels = images.clone().degraded(degradation).pixels(0).unwrap().into_owned();
            let image = ::image::RgbImage::from_fn(32, 32, |column, row| {
                let at = (32 * row + column) as usize;
                ::image::Rgb([pixels[at], pixels[1024 + at], pixels[2048 + at]])
            });
            let path = at.join(format!("{name}-{place}"));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            image.save(path).unwrap();
        };
        for (index, class) in ["ant", "bee", "cow"].iter().enumerate() {
            save(&known.pick(&[index]), &format!("known/test/{class}/a.png"));
        }
        save(&unknown, "other/a.png");
    };
    // The scores in a file, in the order of the images.
    let scores = |args: &[&str]| -> Vec<f64> {
        let output = toolkit(at, &[&["eval"], args, &["--scores", "scores.csv"]].concat());
        stdout(&output);
        let text = fs::read_to_string(at.join("scores.csv")).unwrap();
        let (head, lines) = text.split_once('\n').unwrap();
        let column = head.split(',').position(|name| name == "score").unwrap();
        lines.lines().map(|line| line.split(',').nth(column).unwrap().parse().unwrap()).collect()
    };
    let plain = scores(&["model.onnx", "--known", "known", "--unknown", "other=other"]);
    for degradation in Degradation::ALL {
        let name = degradation.name();
        degraded(name, degradation);
        let (known, other) = (format!("{name}-known"), format!("other={name}-other"));
        let expected = scores(&["model.onnx", "--known", &known, "--unknown", &other]);
        assert!(expected.len() == 4 && expected != plain, "{name}: {expected:?}");
        for model in ["model.onnx", "any-size.onnx"] {
            let found = scores(&[model, "--known", "known", "--unknown", "other=other", "--degraded", name]);
            for (found, expected) in found.iter().zip(&expected) {
                assert!((found - expected).abs() < 1e-5 * expected.abs().max(1.0), "{model} {name}");
            }
        }
    }
    let args = ["eval", "model.onnx", "--known", "known", "--unknown", "other=other", "--degraded", "jpeg"];
    let table = toolkit(at, &args);
    assert!(stdout(&table).contains("4 images, degraded (jpeg), in "), "{}", stdout(&table));
    let json = toolkit(at, &[&args[..], &["--json", "--report", "page.html"]].concat());
    let json: Value = serde_json::from_str(stdout(&json)).unwrap();
    assert_eq!(json["degraded"], "jpeg");
    let page = fs::read_to_string(at.join("page.html")).unwrap();
    assert!(page.contains("All test images are degraded (as JPEG)."));
    let unmet = toolkit(at, &[&args[..], &["--require", "accuracy=1"]].concat());
    assert!(stderr(&unmet).contains("score cac, images degraded: jpeg)"), "{}", stderr(&unmet));
}

#[test]
fn lower_precisions_are_compared_with_f32() {
    let folder = trained();
    let at = folder.path();
    images(at);
    // Training images to calibrate on.
    fs::rename(at.join("known/test"), at.join("known/train")).unwrap();
    stdout(&toolkit(at, &["export", "f32.onnx"]));
    for precision in ["f16", "int8"] {
        let file = format!("{precision}.onnx");
        let export = ["export", &file, "--precision", precision, "--calibrate", "known"];
        let output = toolkit(at, &export);
        assert!(
            stdout(&output).contains("compared with f32 on 3 training images: 0 classes and "),
            "{}",
            stdout(&output)
        );
        assert!(stdout(&toolkit(at, &["inspect", &file])).contains(&format!(" parameters, {precision}\n")));
    }
    let verified = ["verify", "int8.onnx", "--provider", "cpu", "--provider", "onnxruntime"];
    assert_eq!(stdout(&toolkit(at, &verified)).lines().count(), 3);
    // Images that cannot be read are left out, unless all are.
    let broken = at.join("known/train/ant/broken.png");
    fs::write(&broken, "no image").unwrap();
    let output = toolkit(at, &["export", "f16.onnx", "--precision", "f16", "--calibrate", "known"]);
    assert!(stdout(&output).contains("compared with f32 on 3 training images"), "{}", stdout(&output));
    let left_out = "calibration images that cannot be read and are left out: 1\n";
    assert!(stderr(&output).contains(left_out));
    fs::remove_file(broken).unwrap();
    let onto = ["export", "known/train/ant/a.png", "--precision", "f16", "--calibrate", "known"];
    assert!(error(&toolkit(at, &onto)).contains("`known/train/ant/a.png` is not a model name"));
    assert!(error(&toolkit(at, &["export", "x.onnx", "--precision", "int8"])).contains("needs known images"));
    fs::rename(at.join("known/train"), at.join("known/test")).unwrap();
    let data = ["--known", "known", "--unknown", "other=other", "--json"];
    let models =
        ["eval", "f32.onnx", "f16.onnx", "int8.onnx", "--provider", "cpu", "--provider", "onnxruntime"];
    let output = toolkit(at, &[&models[..], &data].concat());
    let lines: Vec<Value> = stdout(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let models: Vec<&str> = lines.iter().map(|line| line["model"].as_str().unwrap()).collect();
    assert_eq!(models, ["f32.onnx", "f32.onnx", "f16.onnx", "f16.onnx", "int8.onnx", "int8.onnx"]);
    // Of models, not of providers.
    let differs: Vec<bool> = lines.iter().map(|line| line["difference"].is_object()).collect();
    assert_eq!(differs, [false, false, true, true, true, true]);
    let differences: Vec<f64> = lines[1..]
        .iter()
        .map(|line| line["agreement"]["greatest_score_difference"].as_f64().unwrap())
        .collect();
    assert!(differences[0] < 1e-4 && differences[1] > differences[0] && differences[3] > differences[1]);
    stdout(&toolkit(at, &["export", "energy.onnx", "--score", "energy"]));
    // Models with different scores are evaluated side by side; only equal scores are compared.
    let lines = |args: &[&str]| -> Vec<Value> {
        let output = toolkit(at, &[&["eval", "f32.onnx", "energy.onnx"], &data[..], args].concat());
        stdout(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let own = lines(&[]);
    assert_eq!((&own[0]["score"], &own[1]["score"]), (&"cac".into(), &"energy".into()));
    assert!(own[1]["agreement"].is_null() && own[1]["threshold"].is_number());
    // Each decides by its own score.
    let difference = &own[1]["difference"];
    for (change, name) in
        [(difference, "accuracy"), (difference, "known_kept"), (&difference["rows"][0], "auroc")]
    {
        let of = |line: &Value| match name {
            "auroc" => line["rows"][0][name].as_f64().unwrap(),
            name => line[name].as_f64().unwrap(),
        };
        let (value, ends) = (change[name]["value"].as_f64().unwrap(), &change[name]["interval"]);
        assert!((value - (of(&own[1]) - of(&own[0]))).abs() < 1e-12, "{difference}");
        assert!(ends[0].as_f64().unwrap() <= value && value <= ends[1].as_f64().unwrap(), "{difference}");
    }
    assert!(own[0]["difference"].is_null());
    assert!(lines(&["--resamples", "0"])[1]["difference"].is_null());
    let with_page = ["eval", "f32.onnx", "energy.onnx", "--report", "page.html"];
    let output = toolkit(at, &[&with_page[..], &data[..4]].concat());
    assert!(fs::read_to_string(at.join("page.html")).unwrap().contains("difference from the first"));
    let text = stdout(&output);
    assert!(
        text.contains("\ndifference from f32.onnx on cpu, in percentage points: accuracy +0.00 ("),
        "{text}"
    );
    let energy = lines(&["--score", "energy"]);
    assert!(energy.iter().all(|line| line["score"] == "energy"));
    let agreement = &energy[1]["agreement"];
    assert!(agreement["greatest_score_difference"].as_f64().unwrap() < 1e-4);
    assert_eq!(agreement["unknown_flips"], 0, "only one decides by the energy");
    let difference = &energy[1]["difference"];
    assert!(difference["known_kept"].is_null() && difference["rows"][0]["oscr"]["value"].is_number());
    let threshold = [&["eval", "f32.onnx", "energy.onnx", "--threshold", "3"], &data[..]].concat();
    let refused = error(&toolkit(at, &threshold)).to_owned();
    assert!(refused.contains("--threshold is for one score, but those of f32.onnx on cpu"), "{refused}");
    stdout(&toolkit(at, &["export", "class.onnx", "--score", "energy", "--per-class", "--keep", "0.5"]));
    for score in ["energy", "cac"] {
        let mixed = [&["eval", "f32.onnx", "class.onnx", "--score", score], &data[..]].concat();
        let output = toolkit(at, &mixed);
        assert_eq!(output.status.success(), score == "cac", "{score}: {output:?}");
    }
}

#[test]
fn export_writes_a_model_repository_for_triton() {
    let folder = trained();
    let at = folder.path();
    let export = ["export", "My model.onnx", "--triton", "models"];
    assert!(stdout(&toolkit(at, &export)).contains("for Triton: version 1 in `models/my-model`"));
    let read = |path: &str| fs::read_to_string(at.join("models").join(path)).unwrap();
    let config = read("my-model/config.pbtxt");
    assert!(config.contains(r#"name: "my-model""#) && config.contains("max_batch_size: 64"), "{config}");
    assert!(config.contains(r#"{ name: "images" data_type: TYPE_FP32 dims: [ 3, 32, 32 ] }"#), "{config}");
    assert!(
        config.contains(r#"name: "score" data_type: TYPE_FP32 dims: [ 1 ] reshape: { shape: [ ] }"#),
        "{config}"
    );
    assert_eq!(read("my-model/labels.txt"), "ant\nbee\ncow\n");
    assert!(read("my-model.yaml").contains("kind: InferenceService\nmetadata:\n  name: my-model\n"));
    let model =
        |version: &str| fs::read(at.join("models/my-model").join(version).join("model.onnx")).unwrap();
    let first = model("1");
    assert_eq!(first, fs::read(at.join("My model.onnx")).unwrap());
    // Another export becomes the next version. The first version stays, and so do a user's changes.
    let tuned = config.replace("max_batch_size: 64", "max_batch_size: 8");
    fs::write(at.join("models/my-model/config.pbtxt"), &tuned).unwrap();
    let again = toolkit(at, &[&export[..], &["--keep", "0.5"]].concat());
    assert!(stdout(&again).contains("version 2"));
    assert!(model("1") == first && model("2") != first);
    assert_eq!(read("my-model/config.pbtxt"), tuned);
    // Also if all versions were removed.
    for version in ["1", "2"] {
        fs::remove_dir_all(at.join("models/my-model").join(version)).unwrap();
    }
    assert!(stdout(&toolkit(at, &export)).contains("version 1"));
    assert_eq!(read("my-model/config.pbtxt"), tuned);
    // All versions share the configuration.
    let bytes = ["--input", "u8", "--batch", "4"];
    let refused = error(&toolkit(at, &[&export[..], &bytes].concat()));
    assert!(
        refused.ends_with("`models/my-model` has versions with other classes, inputs or outputs"),
        "{refused}"
    );
    assert!(!at.join("models/my-model/2").exists());
    // Without versions, that of another model is replaced.
    fs::write(at.join("models/my-model/labels.txt"), "dog\n").unwrap();
    assert!(!toolkit(at, &export).status.success());
    fs::remove_dir_all(at.join("models/my-model/1")).unwrap();
    stdout(&toolkit(at, &export));
    assert_eq!(read("my-model/labels.txt"), "ant\nbee\ncow\n");
    stdout(&toolkit(at, &[&["export", "bytes.onnx", "--triton", "models"][..], &bytes].concat()));
    let config = read("bytes/config.pbtxt");
    assert!(config.contains("max_batch_size: 0") && !config.contains("dynamic_batching"), "{config}");
    assert!(config.contains("data_type: TYPE_UINT8 dims: [ 4, 32, 32, 3 ]"), "{config}");
    assert!(config.contains(r#"name: "unknown" data_type: TYPE_BOOL dims: [ 4 ] }"#), "{config}");
    fs::write(at.join("file"), "").unwrap();
    let failed = error(&toolkit(at, &["export", "x.onnx", "--triton", "file"]));
    assert_eq!(failed, "error: cannot write `file`: `file` is not a folder");
    assert!(!at.join("x.onnx").exists());
}

#[test]
fn invalid_input_gives_one_error_line_and_exit_code_1() {
    let folder = trained();
    let at = folder.path();
    images(at);
    stdout(&toolkit(at, &["export", "model.onnx"]));
    fs::create_dir(at.join("empty")).unwrap();
    let bytes = fs::read(at.join("model.onnx")).unwrap();
    fs::write(at.join("half.onnx"), &bytes[..bytes.len() / 2]).unwrap();
    fs::write(at.join("text.png"), "no image").unwrap();
    let run = |args: &[&str]| error(&toolkit(at, args));

    let missing = "error: cannot read `none.onnx`: No such file or directory (os error 2)";
    assert_eq!(run(&["eval", "none.onnx"]), missing);
    let twice = ["eval", "model.onnx", "--known", "known", "--unknown", "x=other", "--unknown", "x=known"];
    assert!(run(&twice).contains("set name = `x`: is the name of another set"));
    assert!(run(&["eval", "half.onnx", "--known", "known"]).contains("`half.onnx` is not a usable model"));
    assert!(run(&["eval", "model.onnx"]).contains("give --known"));
    assert!(run(&["eval", "model.onnx", "--known", "nowhere"]).contains("`nowhere`"));
    assert!(run(&["eval", "model.onnx", "--known", "empty"]).contains("`empty` is not a usable data set"));
    let unknown_empty = ["eval", "model.onnx", "--known", "known", "--unknown", "x=empty"];
    assert!(run(&unknown_empty).contains("`empty` is not a usable data set: it holds no image"));
    fs::copy(at.join("text.png"), at.join("text.onnx")).unwrap();
    assert!(run(&["score", "text.onnx", "text.png"]).contains("`text.onnx` is not a usable model"));
    assert!(
        run(&["export", "--run", "empty", "x.onnx"]).contains("cannot read `empty/checkpoint.safetensors`")
    );
    // A run that was stopped before its first step.
    fs::create_dir(at.join("begun")).unwrap();
    fs::write(at.join("begun/state-000001-00000000.safetensors"), "").unwrap();
    let begun = toolkit(at, &["export", "--run", "begun", "x.onnx"]);
    assert_eq!(error(&begun), "error: `begun` has no weights to export yet");
    assert!(stderr(&begun).contains("hint: resume it with `toolkit train --resume begun`"));
    // What is wrong with the options is said before any image is read.
    for (command, from) in [("export", "--run=runs/1"), ("import", "weights.safetensors")] {
        stdout(&toolkit(at, &["export", "weights.safetensors"]));
        let args =
            [command, from, "x.onnx", "--batch", "9999999", "--precision", "int8", "--calibrate", "nowhere"];
        assert!(run(&args).contains("batch = 9999999: must be from 1 to "), "{}", run(&args));
    }
    for command in [&["export"][..], &["import", "no.pt"]] {
        let message = run(&[command, &["no/folder/x.onnx"]].concat());
        assert!(
            message.contains("cannot write `no/folder/x.onnx`: there is no folder `no/folder`"),
            "{message}"
        );
    }
    assert!(run(&["export", "--run", "nowhere", "x.onnx"]).contains("nowhere"));
    assert!(run(&["export", "model"]).contains("`model` is not a model name: it must end in .onnx"));
    fs::write(at.join("mean.csv"), "score,label,set\n1,0,\n2,-1,mean\n").unwrap();
    let reserved = run(&["metrics", "mean.csv"]);
    assert!(
        reserved.contains("`mean.csv`: set name = `mean`: is reserved for a row of the report"),
        "{reserved}"
    );
    assert!(run(&["export", "x.onnx", "--calibrate", "known"]).contains("for --precision f16 and int8"));
    let count = run(&["export", "x.onnx", "--calibration-images", "9"]);
    assert!(count.contains("--calibration-images is for --precision f16 and int8"), "{count}");
    let data = run(&["export", "x.onnx", "--data", "known"]);
    assert!(data.contains("--data is for the calibration images"), "{data}");
    let weights = at.join("runs/1/checkpoint.safetensors");
    let whole = fs::read(&weights).unwrap();
    fs::write(&weights, &whole[..whole.len() - 100]).unwrap();
    assert!(run(&["export", "x.onnx"]).contains("checkpoint.safetensors` does not hold usable weights"));
    assert!(!at.join("x.onnx").exists());

    // An output must not replace an input.
    let checkpoint = "runs/1/checkpoint.safetensors";
    assert!(run(&["export", checkpoint]).contains("checkpoint.safetensors`: it is also an input"));
    let onto = ["eval", "model.onnx", "--known", "known", "--scores", "model.onnx"];
    assert!(run(&onto).contains("cannot write `model.onnx`: it is also an input"));
    assert_eq!(fs::read(at.join("model.onnx")).unwrap(), bytes);

    // Wrong usage is reported before anything is scored.
    for (more, message) in [
        (["--group", "near=nowhere"], "`nowhere` is not one of the unknown sets"),
        (["--scores", "no/folder/scores.csv"], "there is no folder `no/folder`"),
    ] {
        let output = toolkit(
            at,
            &[&["eval", "model.onnx", "--known", "known", "--unknown", "x=other"], &more[..]].concat(),
        );
        assert!(error(&output).contains(message));
        assert!(!stderr(&output).contains("scoring"));
    }
}

#[test]
fn a_model_is_verified_with_its_golden_batch_and_its_signature() {
    let folder = trained();
    let at = folder.path();
    for precision in ["f32", "f16"] {
        stdout(&toolkit(at, &["export", "model.onnx", "--precision", precision]));
        let text = toolkit(at, &["verify", "model.onnx", "--provider", "cpu", "--provider", "onnxruntime"]);
        let lines: Vec<&str> = stdout(&text).lines().collect();
        let sum =
            format!("model.onnx: SHA-256 {}", cac::files::sha256(&fs::read(at.join("model.onnx")).unwrap()));
        assert_eq!((lines.len(), lines[0]), (3, &*sum));
        assert!(lines[1].starts_with("cpu: tract") && lines[2].starts_with("onnxruntime: "), "{lines:?}");
    }
    let file = |name: &str| golden(name).to_str().unwrap().to_owned();
    let (model, signature) = (file("models/v2.onnx"), file("signature/v2.onnx.minisig"));
    let image = file("images/bumpy_0176.jpg");
    for (key, message) in
        [("signature/key.pub", ""), ("signature/other.pub", "v2.onnx.minisig` is refused: ")]
    {
        let key = file(key);
        let signed = ["--signature", &signature, "--public-key", &key];
        let score = toolkit(at, &[&["score"], &signed[..], &[&model, &image]].concat());
        // The model predates golden batches.
        let verify = toolkit(at, &[&["verify"], &signed[..], &[&model]].concat());
        if message.is_empty() {
            assert!(stdout(&score).contains("bumpy_0176.jpg"));
            assert!(stderr(&verify).contains("has no golden batch"));
        } else {
            assert!(error(&score).contains(message) && error(&verify).contains(message));
        }
    }
}

#[test]
fn eval_warns_if_a_provider_does_not_reproduce_the_model() {
    let folder = trained();
    let at = folder.path();
    images(at);
    stdout(&toolkit(at, &["export", "model.onnx"]));
    let eval = || toolkit(at, &["eval", "model.onnx", "--known", "known", "--unknown", "other=other"]);
    let whole = eval();
    assert!(!stdout(&whole).is_empty() && !stderr(&whole).contains("reproduce"));
    let model = at.join("model.onnx");
    fs::write(&model, with_changed_bias(&fs::read(&model).unwrap())).unwrap();
    let wrong = eval();
    assert!(!stdout(&wrong).is_empty());
    let text = stderr(&wrong);
    let expected = "cpu does not reproduce the export: `model.onnx` fails its check on cpu: tract";
    assert!(text.contains(expected), "{text}");
}

#[test]
fn one_bad_image_does_not_end_the_run() {
    let folder = trained();
    let at = folder.path();
    images(at);
    stdout(&toolkit(at, &["export", "model.onnx"]));
    for bad in ["known/test/bee/z.png", "other/y.png", "other/photograph.HEIC", "other/README"] {
        fs::write(at.join(bad), "no image").unwrap();
    }
    let names = ["other/y.png", "other/d.png", "none.png", "known/test/ant/a.png"];
    let output = toolkit(at, &[&["score", "model.onnx"], &names[..]].concat());
    assert_eq!(output.status.code(), Some(1));
    let (lines, errors) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    let scored: Vec<&str> = lines.lines().map(|line| line.split('\t').next().unwrap()).collect();
    assert_eq!(scored, [names[1], names[3]]);
    let errors: Vec<&str> = errors.lines().collect();
    assert!(errors[0].starts_with("`other/y.png` is not an image"), "{errors:?}");
    assert!(errors[1].starts_with("cannot read `none.png`"), "{errors:?}");
    assert_eq!(errors[2..], ["error: 2 of 4 images cannot be scored"]);

    let data = ["eval", "model.onnx", "--known", "known", "--unknown", "other=other"];
    let output = toolkit(at, &data);
    let text = stderr(&output);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
    for part in ["error: 2 images cannot be read:\n", "bee/z.png` is not", "other/y.png` is not", "hint: "] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let skipping = [&data[..], &["--skip-broken", "--scores", "scores.csv"]].concat();
    let table = toolkit(at, &skipping);
    let text = stderr(&table);
    assert!(text.contains("skipped files by extension: 1 without an extension, 1 .heic\n"), "{text}");
    let table = stdout(&table);
    assert!(table.contains("2 images cannot be read and are not counted\n"), "{table}");
    let json: Value =
        serde_json::from_str(stdout(&toolkit(at, &[&skipping[..], &["--json"]].concat()))).unwrap();
    assert_eq!((&json["known"], &json["rows"][0]["unknown"]), (&3.into(), &1.into()));
    assert_eq!((&json["skipped"], &json["images"]), (&2.into(), &4.into()));
    assert_eq!(fs::read_to_string(at.join("scores.csv")).unwrap().lines().count(), 5);
    // A set without readable images is named, and the page is still written.
    fs::create_dir_all(at.join("broken")).unwrap();
    fs::write(at.join("broken/x.png"), "no image").unwrap();
    let page = ["--skip-broken", "--unknown", "broken=broken", "--report", "page.html"];
    let table = toolkit(at, &[&data[..], &page].concat());
    assert!(
        error(&table).contains(
            "no metrics for these scores: `broken`: none of its images can be read (cpu, score cac)"
        ),
        "{}",
        error(&table)
    );
    assert!(fs::read_to_string(at.join("page.html")).unwrap().contains("There are no metrics: `broken`"));

    // Training images, to which feature-based scores are fitted.
    for (class, shade) in [("ant", 10), ("bee", 90), ("cow", 200)] {
        let path = at.join("known/train").join(class);
        fs::create_dir_all(&path).unwrap();
        image::RgbImage::from_pixel(32, 32, image::Rgb([shade; 3])).save(path.join("a.png")).unwrap();
    }
    fs::write(at.join("known/train/bee/z.png"), "no image").unwrap();
    let keeping = [&data[..], &["--keep-features", "f.npz"]].concat();
    let broken = toolkit(at, &keeping);
    assert!(error(&broken).contains("1 image cannot be read"), "{}", error(&broken));
    let table = toolkit(at, &[&keeping[..], &["--skip-broken"]].concat());
    let text = stderr(&table);
    assert!(table.status.success(), "{text}");
    assert!(text.contains("left out training images that cannot be read: 1\n"), "{text}");
    let features = FeatureFile::read(&at.join("f.npz")).unwrap();
    assert_eq!((&features.training.labels, features.known.labels.len()), (&vec![0, 1, 2], 3));
    let taken = [&data[..4], &["--unknown", "training=other", "--keep-features", "f.npz"]].concat();
    assert!(error(&toolkit(at, &taken)).contains("set name = `training`"));

    // Features can be kept even if they are not an output of the model.
    stdout(&toolkit(at, &["export", "plain.onnx", "--no-features"]));
    let keeping = ["--skip-broken", "--provider", "onnxruntime", "--keep-features", "plain.npz"];
    stdout(&toolkit(at, &[&["eval", "plain.onnx"], &data[2..], &keeping].concat()));
    let plain = FeatureFile::read(&at.join("plain.npz")).unwrap();
    assert_eq!((plain.last_layer, plain.anchors), (features.last_layer, features.anchors));
    for (plain, set) in [(&plain.known, &features.known), (&plain.unknown[0], &features.unknown[0])] {
        assert_eq!(plain.labels, set.labels);
        assert!(plain.features.iter().zip(&set.features).all(|(a, b)| (a - b).abs() < 1e-4));
    }
}

#[cfg(target_os = "linux")]
#[test]
fn odd_file_names_stay_distinct_and_on_one_line() {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    images(at);
    let names = [b"a\tb\n.png".as_slice(), b"\xea.png", b"\xeb.png"].map(OsStr::from_bytes);
    for name in names {
        fs::copy(at.join("other/d.png"), at.join(name)).unwrap();
    }
    let score = |json: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_toolkit"));
        let output = command.arg("score").args(json).args(names).current_dir(at).output().unwrap();
        stdout(&output).to_owned()
    };
    let printed = score(&[]);
    let shown: Vec<&str> = printed.lines().map(|line| line.split('\t').next().unwrap()).collect();
    assert_eq!(shown, [r"a\tb\n.png", r"\xea.png", r"\xeb.png"]);
    let printed = score(&["--json"]);
    let shown: Vec<Value> = printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        shown.iter().map(|line| &line["image"]).collect::<Vec<_>>(),
        ["a\tb\n.png", r"\xea.png", r"\xeb.png"]
    );
}

#[cfg(target_os = "linux")]
#[test]
fn the_old_file_survives_a_full_disk() {
    let folder = trained();
    let at = folder.path();
    fs::write(at.join("model.onnx"), "what was there").unwrap();
    // Files are limited to 100 blocks, which is less than the model needs.
    let script = "trap '' XFSZ; ulimit -f 100; exec \"$0\" export model.onnx";
    let output = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_toolkit")])
        .current_dir(at)
        .output()
        .unwrap();
    assert!(error(&output).starts_with("error: cannot write `model.onnx`: "));
    assert_eq!(fs::read(at.join("model.onnx")).unwrap(), b"what was there");
    assert_eq!(fs::read_dir(at).unwrap().count(), 2, "the runs and the model, no temporary file");
}

// Nobody can create a file in /proc, not even root.
#[cfg(target_os = "linux")]
#[test]
fn unwritable_outputs_are_found_before_any_work() {
    let folder = tempfile::tempdir().unwrap();
    // The inputs do not exist either, but that would be found later.
    for (args, place) in [
        (&["export", "--run", "missing", "/proc/file"][..], "/proc/file"),
        (&["export", "--run", "missing", "model.onnx", "--triton", "/proc/models"], "/proc/models"),
        (&["import", "missing.pt", "/proc/file"], "/proc/file"),
        (&["import", "missing.pt", "model.onnx", "--triton", "/proc/models"], "/proc/models"),
        (&["eval", "missing.onnx", "--scores", "/proc/file"], "/proc/file"),
    ] {
        let text = error(&toolkit(folder.path(), args));
        assert!(text.starts_with(&format!("error: cannot write `{place}`: ")), "{args:?}: {text}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn leftovers_of_killed_processes_are_removed() {
    let folder = trained();
    let at = folder.path();
    fs::write(at.join(".unfinished-a1B2c3"), "half a model").unwrap();
    fs::create_dir_all(at.join("models/model/.unfinished-d4E5f6")).unwrap();
    fs::write(at.join("models/model/.unfinished-d4E5f6/model.onnx"), "half a model").unwrap();
    stdout(&toolkit(at, &["export", "model.onnx", "--triton", "models"]));
    let names = |folder: &str| {
        let entries = fs::read_dir(at.join(folder)).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert_eq!(names("."), ["model.onnx", "models", "runs"]);
    assert_eq!(names("models/model"), ["1", "config.pbtxt", "labels.txt"]);
}

#[cfg(target_os = "linux")]
#[test]
fn file_names_need_not_be_unicode() {
    use std::os::unix::ffi::OsStringExt;
    let folder = trained();
    let at = folder.path();
    stdout(&toolkit(at, &["export", "model.onnx"]));
    let name = std::ffi::OsString::from_vec(b"b\xff.jpg".to_vec());
    fs::copy(golden("images/bumpy_0176.jpg"), at.join(&name)).unwrap();
    for json in [&[][..], &["--json"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_toolkit"))
            .args(["score", "model.onnx"])
            .arg(&name)
            .args(json)
            .current_dir(at)
            .output()
            .unwrap();
        assert!(stdout(&output).contains(if json.is_empty() { r"b\xff.jpg" } else { r"b\\xff.jpg" }));
    }
}

#[test]
fn keep_changes_the_threshold() {
    let folder = tempfile::tempdir().unwrap();
    let [model, image] =
        ["models/v2.onnx", "images/bumpy_0176.jpg"].map(|name| golden(name).display().to_string());
    for (keep, threshold, unknown) in [("0.5", -11.194_130, true), ("0.9", -10.914_670, false)] {
        let output = toolkit(folder.path(), &["score", &model, &image, "--keep", keep, "--json"]);
        let verdict = &serde_json::from_str::<Value>(stdout(&output)).unwrap()["verdict"];
        let near = |name: &str, expected: f64| (verdict[name].as_f64().unwrap() - expected).abs() < 1e-4;
        assert!(near("score", -10.977_088) && near("threshold", threshold), "{verdict}");
        assert_eq!(verdict["unknown"], unknown, "{verdict}");
    }
}

#[test]
fn usage_errors_exit_with_code_2() {
    let folder = tempfile::tempdir().unwrap();
    for args in [
        &["evaluate"][..],
        &["eval", "m", "--provider", "gpu"],
        &["eval", "--keep", "0.9", "--threshold", "1"],
        &["eval", "--keep", "1"],
        &["recalibrate", "a.onnx", "b.onnx", "--known", "new", "--keep=-0.1"],
        &["export", "model.onnx", "--keep", "nan"],
        &["score", "model.onnx", "image.png", "--threshold", "inf"],
        &["metrics", "scores.csv", "--threshold", "nan"],
        &["import", "w.pt", "model.onnx", "--threshold", "1e39"],
        &["metrics", "scores.csv", "--score", "energy"],
        &["export", "model.onnx", "--score-limit=-1"],
        &["score"],
        &[],
    ] {
        assert_eq!(toolkit(folder.path(), args).status.code(), Some(2), "{args:?}");
    }
}

#[test]
fn an_unavailable_provider_is_an_error_with_a_hint() {
    let folder = trained();
    let at = folder.path();
    stdout(&toolkit(at, &["export", "model.onnx"]));
    let image = golden("images/bumpy_0176.jpg");
    let args = ["score", "model.onnx", image.to_str().unwrap(), "--provider"];
    let output = toolkit(at, &[&args[..], &["cuda:99"]].concat());
    assert!(error(&output).contains("provider `cuda:99` is not available"));
    assert!(stderr(&output).contains("hint: "));

    let output = Command::new(env!("CARGO_BIN_EXE_toolkit"))
        .args(args)
        .arg("onnxruntime")
        .env("ORT_DYLIB_PATH", "/no/such/libonnxruntime.so")
        .current_dir(at)
        .output()
        .unwrap();
    assert!(error(&output).contains("/no/such/libonnxruntime.so"));
    assert!(stderr(&output).contains("hint: run `make build` to put"));
}

#[test]
fn outputs_never_replace_inputs() {
    let folder = trained();
    let at = folder.path();
    images(at);
    stdout(&toolkit(at, &["export", "model.onnx"]));
    let kept = ["runs/1/checkpoint.safetensors", "known/test/ant/a.png", "other/d.png"];
    let before = kept.map(|file| fs::read(at.join(file)).unwrap());
    let data = ["eval", "model.onnx", "--known", "known", "--unknown", "other=other"];
    let [checkpoint, known, unknown] = kept;
    // Training images are read for other scores only.
    fs::create_dir_all(at.join("known/train")).unwrap();
    for class in ["ant/a", "bee/b", "cow/c"] {
        let [test, train] = ["test", "train"].map(|part| at.join(format!("known/{part}/{class}.png")));
        fs::create_dir_all(train.parent().unwrap()).unwrap();
        fs::copy(test, train).unwrap();
    }
    let train = "known/train/bee/b.png";
    for (more, reason) in [
        (&["--score", "max-logit"][..], "it is an image"),
        (&["--score", "mahalanobis"], "it is also an input"),
    ] {
        let message = error(&toolkit(at, &[&data[..], &["--scores", train], more].concat())).to_owned();
        assert_eq!(message, format!("error: cannot write `{train}`: {reason}"));
    }
    for (args, file) in [
        (&["import", "runs/1", checkpoint, "--threshold", "1"][..], checkpoint),
        (&[&data[..], &["--scores", known]].concat(), known),
        (&[&data[..], &["--report", unknown]].concat(), unknown),
        (&["report", "model.onnx", "--known", "known", "-o", known], known),
    ] {
        assert_eq!(error(&toolkit(at, args)), format!("error: cannot write `{file}`: it is also an input"));
    }
    assert!(kept.map(|file| fs::read(at.join(file)).unwrap()) == before);
    let map = ["score", "model.onnx", known, "--map", "map.jpg"];
    assert!(error(&toolkit(at, &map)).contains("cannot write `map.jpg`: maps are PNG files"));
}

#[test]
fn a_closed_pipe_is_not_a_failure() {
    let folder = trained();
    let at = folder.path();
    stdout(&toolkit(at, &["export", "model.onnx"]));
    let image = golden("images/bumpy_0176.jpg");
    let mut score = Command::new(env!("CARGO_BIN_EXE_toolkit"));
    let output = unread(score.args(["score", "model.onnx"]).args(vec![image; 20]).current_dir(at));
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));

    // Nor does it hide one.
    let mut verify = Command::new(env!("CARGO_BIN_EXE_toolkit"));
    verify.args(["verify", "model.onnx", "--provider", "cpu", "--provider", "onnxruntime"]).current_dir(at);
    let output = unread(verify.env("ORT_DYLIB_PATH", "no/such/library.so"));
    assert!(error(&output).contains("provider `onnxruntime` is not available"), "{}", error(&output));
}

#[test]
fn a_closed_stderr_does_not_cause_a_crash() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_toolkit"))
        .args(["inspect", "none.onnx"])
        .current_dir(folder.path())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stderr.take());
    assert_eq!(child.wait().unwrap().code(), Some(1));
}
