//! HTML reports: one test for each kind of input.

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use cac::{
    method::Variant,
    run::{Checkpoint, CheckpointKind, RunFolder, TestLogits},
};
use ndarray::Array2;
use serde_json::Value;

use crate::{
    checkpoint,
    commands::{error, stdout, toolkit},
    fill,
};

/// Class folders of images of one colour, and a folder of unknown images.
fn images(folder: &Path) {
    let names = ["known/test/ant/a.png", "known/test/bee/b.png", "known/test/cow/c.png", "other/big <b>.png"];
    for (i, name) in names.into_iter().enumerate() {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let shade = 60 * i as u8;
        image::RgbImage::from_pixel(200, 100 + i as u32, image::Rgb([shade, 200 - shade, 90]))
            .save(path)
            .unwrap();
    }
}

/// A run tested on 60 known and 40 unknown images, with a log.
fn run(folder: &Path) -> RunFolder {
    let run = RunFolder::create_next(&folder.join("runs")).unwrap();
    let mut checkpoint = checkpoint(2, Variant::Paper);
    let logit = |seed: u64| (8.0 * fill::unit(fill::splitmix64(seed))) as f32;
    checkpoint.test = Some(TestLogits {
        known: Array2::from_shape_fn((60, 3), |(i, c)| {
            logit((3 * i + c) as u64) + if i % 3 == c { 9.0 } else { 0.0 }
        }),
        labels: (0..60).map(|i| i % 3).collect(),
        unknown: vec![(
            "far".to_owned(),
            Array2::from_shape_fn((40, 3), |(i, c)| logit((900 + 3 * i + c) as u64)),
        )],
        skipped: 2,
    });
    checkpoint.write(&run.checkpoint(CheckpointKind::Best)).unwrap();
    let report = r#"{"known":60,"accuracy":0.9,"rows":[]}"#;
    let log = [
        r#"{"event":"start","images":128,"steps":2,"epochs":2}"#.to_owned(),
        r#"{"event":"step","epoch":1,"step":1,"loss":2.5,"learning_rate":0.01,"images_per_second":90.0}"#
            .to_owned(),
        r#"{"event":"step","epoch":1,"step":2,"loss":null,"learning_rate":0.1,"images_per_second":91.0}"#
            .to_owned(),
        format!(
            r#"{{"event":"epoch","epoch":1,"held_out_loss":1.5,"best":true,"seconds":3,"report":{report}}}"#
        ),
        r#"{"event":"st"#.to_owned(),
    ];
    fs::write(run.log(), log.join("\n")).unwrap();
    run
}

fn page(folder: &Path, name: &str) -> String {
    let text = fs::read_to_string(folder.join(name)).unwrap();
    assert!(text.starts_with("<!DOCTYPE html>") && text.ends_with("</html>"), "{name}");
    for outside in ["http://", "https://", "<script", "<link", "@import"] {
        // The SVG namespace is not a link.
        assert!(!text.replace("http://www.w3.org/2000/svg", "").contains(outside), "{name}: {outside}");
    }
    text
}

#[test]
fn a_report_shows_models() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    images(at);
    run(at);
    stdout(&toolkit(at, &["export", "model.onnx"]));
    let of = |name: &str| at.join(name).to_str().unwrap().to_owned();
    let (model, known, other) = (of("model.onnx"), of("known"), format!("other={}", of("other")));
    let data = ["--known", &known, "--unknown", &other, "--unknown", "uniform-noise:3"];
    let printed = toolkit(at, &[&["report", &model, "-o", "a.html", "--plots", "plots"], &data[..]].concat());
    let printed = stdout(&printed).to_owned();
    let text = page(at, "a.html");
    let verdict = printed.lines().next().unwrap();
    assert!(verdict.starts_with("The model classifies ") && verdict.contains(" of other and "), "{verdict}");
    // On the page, numbers stay together with their unit and their interval.
    let words = text.replace("<span class=\"whole\">(", "(").replace(")</span>", ")").replace('\u{a0}', " ");
    assert!(words.contains(&format!("<p class=\"verdict\">{verdict}</p>")), "{verdict}");
    assert!(printed.contains("caution: Few images: 3 known images"), "{printed}");
    assert!(printed.ends_with("report: a.html\n"), "{printed}");
    for part in [
        "Open-set report: model.onnx",
        "uniform-noise",
        "Confusion matrix",
        "Logits in two dimensions",
        "data:image/jpeg;base64,",
        "title=\"ant/a.png\"",
        "big &lt;b&gt;.png",
        "<dt>SHA-256</dt>",
        "WideResNet-10-2",
        "color-scheme",
    ] {
        assert!(text.contains(part), "{part}");
    }
    // A thumbnail of a wide image keeps its proportions.
    assert!(text.contains("width=\"96\" height=\"49\""), "proportions");
    assert!(!text.contains(at.to_str().unwrap()), "a page names no folder of this machine");

    // The plots are the same, with colours of their own.
    let mut plots: Vec<String> = fs::read_dir(at.join("plots"))
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    plots.sort();
    assert_eq!(plots.len(), 2 * text.matches("<figure").count(), "{plots:?}");
    for plot in plots {
        let bytes = fs::read(at.join("plots").join(&plot)).unwrap();
        if plot.ends_with(".png") {
            assert!(image::load_from_memory(&bytes).unwrap().width() >= 600, "{plot}");
        } else {
            let text = String::from_utf8(bytes).unwrap();
            assert!(text.starts_with("<svg ") && !text.contains("var("), "{plot}");
        }
    }

    // `eval` writes the same page; several scores and providers are compared.
    let args = ["eval", &model, "--report", "b.html"];
    assert!(stdout(&toolkit(at, &[&args[..], &data].concat())).contains("AUROC"));
    assert_eq!(page(at, "b.html"), text);
    let args =
        ["eval", "--report", "c.html", "model.onnx", "--score", "cac", "--score", "msp", "--provider", "cpu"];
    stdout(&toolkit(at, &[&args[..], &["--provider", "onnxruntime"], &data].concat()));
    let several = page(at, "c.html");
    for part in ["Comparison", "model.onnx on cpu, cac", "model.onnx on onnxruntime, msp", "other verdicts"] {
        assert!(several.contains(part), "{part}");
    }

    for (args, message) in [
        (&["report", "model.onnx", "-o", "model.onnx"][..], "it is also an input"),
        (&["report", "model.onnx", "-o", "no/such.html"], "there is no folder `no`"),
        (&["report", "none.onnx", "-o", "d.html"], "cannot read `none.onnx`"),
        (&["report", "known", "-o", "d.html"], "it has neither a log nor a checkpoint"),
    ] {
        let message_found = error(&toolkit(at, args));
        assert!(message_found.contains(message), "{message_found}");
        assert!(!at.join("d.html").exists());
    }
}

#[test]
fn a_report_shows_scores() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let mut text = "set,image,label,prediction,score\n".to_owned();
    let unit = |i: u64| fill::unit(fill::splitmix64(i));
    for i in 0..400 {
        let prediction = if i % 10 == 0 { 8 } else { i % 7 };
        text += &format!("known,k/{i}.png,{},{prediction},{}\n", i % 7, unit(i));
    }
    for i in 400..600 {
        text += &format!("<i>far</i>,u/{i}.png,-1,3,{}\n", unit(i).sqrt() + 0.2);
    }
    fs::write(at.join("scores.csv"), &text).unwrap();
    let json = toolkit(at, &["report", "scores.csv", "--threshold", "0.95", "--json"]);
    let json: Value = serde_json::from_str(stdout(&json)).unwrap();
    let page_text = page(at, "report.html");
    let result = &json["results"][0];
    assert_eq!((&json["report"], &result["name"]), (&"report.html".into(), &"scores.csv".into()));
    let verdict = result["verdict"].as_str().unwrap();
    let table = toolkit(at, &["metrics", "scores.csv", "--threshold", "0.95", "--json"]);
    let table: Value = serde_json::from_str(stdout(&table)).unwrap();
    for number in [&table["accuracy"], &table["known_kept"], &table["rows"][0]["unknown_caught"]] {
        let number = format!("{:.1} %", 100.0 * number.as_f64().unwrap());
        assert!(verdict.contains(&number), "{number}: {verdict}");
    }
    // A file above the limit of the shell is an error like a full disk.
    #[cfg(unix)]
    {
        let program = env!("CARGO_BIN_EXE_toolkit");
        let command = format!("ulimit -f 20; exec '{program}' report scores.csv --resamples 0 -o large.html");
        let output =
            std::process::Command::new("sh").args(["-c", &command]).current_dir(at).output().unwrap();
        let message = error(&output);
        assert!(message.starts_with("error: cannot write `large.html`: File too large"), "{message}");
        assert!(fs::read_dir(at).unwrap().all(|entry| {
            let name = entry.unwrap().file_name();
            !name.to_string_lossy().starts_with(".unfinished") && name != "large.html"
        }));
    }
    assert!(!page_text.contains(">Logits<"), "there are none");
    for part in ["&lt;i&gt;far&lt;/i&gt;", "images are not available here", "u/4"] {
        assert!(page_text.contains(part), "{part}");
    }

    // A pipe can be read only once.
    #[cfg(unix)]
    {
        let mut report = Command::new(env!("CARGO_BIN_EXE_toolkit"));
        report.args(["report", "/dev/stdin", "-o", "piped.html", "--resamples", "0"]).current_dir(at);
        let mut report = report.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        report.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        assert!(report.wait_with_output().unwrap().status.success());
        assert!(page(at, "piped.html").contains("u/4"));
    }

    // Names from elsewhere are shown relative to their common folder.
    let elsewhere = text.replace(",k/", ",/home/bob/data/k/").replace(",u/", r",C:\Users\bob\u\");
    fs::write(at.join("elsewhere.csv"), elsewhere).unwrap();
    stdout(&toolkit(at, &["report", "elsewhere.csv", "-o", "elsewhere.html", "--resamples", "0"]));
    let elsewhere = page(at, "elsewhere.html");
    assert!(!elsewhere.contains("bob") && elsewhere.contains("title=\"5"), "no folder of another machine");

    // Without predictions, names and a threshold, the rest is still there.
    let bare: String = text
        .lines()
        .map(|line| line.split(',').collect::<Vec<_>>())
        .fold(String::new(), |text, cells| text + &format!("{},{}\n", cells[2], cells[4]));
    fs::write(at.join("bare.csv"), bare).unwrap();
    let printed = toolkit(at, &["report", "bare.csv", "scores.csv", "-o", "bare.html", "--resamples", "0"]);
    assert!(
        stdout(&printed).contains("bare.csv, score: Without a threshold, it separates"),
        "{}",
        stdout(&printed)
    );
    let bare = page(at, "bare.html");
    assert!(
        bare.contains("there is no confusion matrix")
            && bare.contains("OSCR is omitted: it needs a prediction")
    );

    let wrong = error(&toolkit(at, &["report", "scores.csv", "--group", "near=typo", "-o", "none.html"]));
    assert!(wrong.contains("`typo` is not one of the unknown sets"), "{wrong}");
    assert!(!at.join("none.html").exists());
    let wrong = error(&toolkit(at, &["report", "scores.csv", "--keep", "0.9"]));
    assert!(wrong.contains("--keep needs held-out scores"), "{wrong}");
    for flag in [
        &["--known", "data"][..],
        &["--skip-broken"],
        &["--degraded", "noise"],
        &["--provider", "cpu"],
        &["--data", "data"],
        &["--held-out-test", "0.2"],
    ] {
        let wrong = error(&toolkit(at, &[&["report", "scores.csv"], flag].concat()));
        assert!(wrong.contains(&format!("{} needs a model", flag[0])), "{wrong}");
    }
    let column = error(&toolkit(at, &["report", "--column", "score"]));
    assert!(column.contains("--column is for score files, and none is given"), "{column}");
    let wrong = error(&toolkit(at, &["report", "scores.csv", "--score", "energy"]));
    assert!(wrong.contains("--score is for models and runs"), "{wrong}");
}

#[test]
fn a_report_shows_a_run() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let run = run(at);
    let printed = toolkit(at, &["report", "runs/1", "--score", "cac", "--score", "energy"]);
    let printed = stdout(&printed).to_owned();
    assert!(
        printed.contains("1, energy: The model classifies ") && printed.contains("2 images cannot be read"),
        "{printed}"
    );
    let text = page(at, "report.html");
    for part in [
        "Training of <bdi>1</bdi>",
        "Not finished: 1 of 2 epochs tested.",
        "1 line of the log cannot be read.",
        "The best weights are those after epoch 1, with 1.5 on held-out images.",
        "Learning rate",
        "Target and measured",
        "Logits in two dimensions",
    ] {
        assert!(text.contains(part), "{part}");
    }
    let refused =
        error(&toolkit(at, &["report", "runs/1", "--score", "cac", "--score", "energy", "--threshold", "2"]));
    assert!(refused.contains("--threshold is for one score, but there are `cac` and `energy`"), "{refused}");
    stdout(&toolkit(at, &["report", "runs/1", "--score", "energy", "--threshold", "2"]));
    // Only the log.
    fs::remove_file(run.checkpoint(CheckpointKind::Best)).unwrap();
    stdout(&toolkit(at, &["report", "runs/1"]));
    let text = page(at, "report.html");
    assert!(text.contains("Training run: 1") && !text.contains("Confusion matrix"));
}

#[test]
fn results_are_named_by_as_many_folders_as_needed() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    images(at);
    // The test images are training images, which a remark on each model says.
    let file = run(at).checkpoint(CheckpointKind::Best);
    let mut checkpoint = Checkpoint::read(&file).unwrap();
    checkpoint.facts.training =
        Some(serde_json::from_value(serde_json::json!({ "known": "known" })).unwrap());
    checkpoint.write(&file).unwrap();
    for class in ["ant/a", "bee/b", "cow/c"] {
        let [test, train] = ["test", "train"].map(|part| at.join(format!("known/{part}/{class}.png")));
        fs::create_dir_all(train.parent().unwrap()).unwrap();
        fs::copy(test, train).unwrap();
    }
    fs::create_dir_all(at.join("other/runs")).unwrap();
    run(&at.join("other"));
    for folder in ["a/x", "b/x"] {
        fs::create_dir_all(at.join(folder)).unwrap();
    }
    stdout(&toolkit(at, &["export", "a/x/model.onnx"]));
    fs::copy(at.join("a/x/model.onnx"), at.join("b/x/model.onnx")).unwrap();
    fs::copy(at.join("a/x/model.onnx"), at.join("third.onnx")).unwrap();
    let absolute = at.join("b/x/model.onnx");
    let models = ["a/x/model.onnx", absolute.to_str().unwrap(), "third.onnx"];
    let data = ["--known", "known", "--unknown", "uniform-noise:3", "--resamples", "0"];
    stdout(&toolkit(at, &[&["eval", "--report", "a.html"], &models[..], &data[..]].concat()));
    let text = page(at, "a.html");
    assert!(text.contains("Known test images that `b/x/model.onnx` was trained or calibrated on: 3."));
    assert!(!text.contains(at.to_str().unwrap()), "a page names no folder of this machine");
    for name in ["a/x/model.onnx, cac", "b/x/model.onnx, cac", ">third.onnx, cac"] {
        assert!(text.contains(name), "{name}");
    }

    let printed = toolkit(at, &["report", "runs/1", "./other/runs/1", "--resamples", "0"]);
    let printed = stdout(&printed).to_owned();
    let named = |line: &&str| line.contains(", cac: ");
    let names: Vec<&str> =
        printed.lines().filter(named).map(|line| line.split(',').next().unwrap()).collect();
    assert_eq!(names, ["runs/1", "other/runs/1"], "{printed}");
    assert!(page(at, "report.html").contains("Training of <bdi>other/runs/1</bdi>"));
}

#[test]
fn outputs_never_replace_inputs_or_other_outputs() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    images(at);
    let run = run(at);
    stdout(&toolkit(at, &["export", "model.onnx"]));
    let files = || [run.log(), run.checkpoint(CheckpointKind::Best)].map(|file| fs::read(file).unwrap());
    let before = files();
    let data = ["--known", "known", "--unknown", "other=other"];
    let best = run.checkpoint(CheckpointKind::Best);
    for (args, message) in [
        (
            &["report", "runs/1", "-o", "runs/1/log.jsonl"][..],
            "cannot write `runs/1/log.jsonl`: it is also an input",
        ),
        (&["report", "runs/1", "-o", best.to_str().unwrap()], "it is also an input"),
        (&["eval", "model.onnx", "--report", "x", "--scores", "./x"], "`./x`: another output has this name"),
        (&["report", "model.onnx", "-o", "x", "--scores", "x"], "`x`: another output has this name"),
        (&["eval", "model.onnx", "--report", "x", "--plots", "x"], "`x`: another output has this name"),
        (&["eval", "model.onnx", "--plots", "known", "--report", "known/roc-1.svg"], "a plot in `"),
        (&["report", "model.onnx", "--plots", ".", "--scores", "a.png"], "a plot in `"),
        (
            &["eval", "model.onnx", "--plots", "known/test/ant"],
            "ant`: they would be read as images of this data",
        ),
        (&["eval", "model.onnx", "--plots", "other"], "cannot write plots to `other`"),
        (&["eval", "model.onnx", "--plots", "other/new"], "cannot write plots to `other/new`"),
    ] {
        let needs_data = args.contains(&"model.onnx");
        let args = if needs_data { [args, &data].concat() } else { args.to_vec() };
        let message_found = error(&toolkit(at, &args));
        assert!(message_found.contains(message), "{args:?}: {message_found}");
        assert!(!at.join("x").exists() && !at.join("a.png").exists());
    }
    let help = toolkit(at, &["report", "--help"]);
    let help = stdout(&help).split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(help.contains("By default the newest model in the current folder, else"), "{help}");
    // Without a name, the newest model is read.
    let found = error(&toolkit(at, &["report", "-o", "model.onnx"]));
    assert!(found.contains("cannot write `model.onnx`: it is also an input"), "{found}");
    assert!(files() == before);
}

#[test]
fn a_report_on_many_sets_says_what_it_leaves_out() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let unit = |i: u64| fill::unit(fill::splitmix64(i));
    let mut text = "set,label,prediction,score\n".to_owned();
    for i in 0..30 {
        text += &format!("known,{},{},{}\n", i % 3, i % 3, unit(i));
    }
    for i in 0..5000 {
        text += &format!("far {},-1,0,{}\n", i % 2500, 0.4 + unit(100 + i));
    }
    fs::write(at.join("scores.csv"), text).unwrap();
    stdout(&toolkit(at, &["report", "scores.csv", "--threshold", "0.9", "--resamples", "0"]));
    let text = page(at, "report.html");
    assert!(text.contains("The first 200 of 2500 unknown sets."));
    // The rows for all sets together are still there.
    for row in ["mean", "all"] {
        assert!(text.contains(&format!("<th scope=\"row\"><bdi>{row}</bdi></th>")), "{row}");
    }
    assert!(text.contains("The first 200 of 2500 sets."));
    assert!(text.contains("The first 9 of 2500 unknown sets."));
    assert!(text.len() < 1_000_000, "{}", text.len());
}
