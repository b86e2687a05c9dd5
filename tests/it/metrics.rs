//! Tables from score files.

use std::{fmt::Write, fs, path::Path};

use serde_json::Value;

use crate::{
    commands::{error, stderr, stdout, toolkit},
    fill, golden,
};

fn json(folder: &Path, args: &[&str]) -> Value {
    serde_json::from_str(stdout(&toolkit(folder, &[args, &["--json"]].concat()))).unwrap()
}

/// Scores of 3,000 known images and of two unknown sets of 500.
fn scores(folder: &Path) {
    let mut text = "set,label,prediction,score,other\n".to_owned();
    let unit = |i: u64| fill::unit(fill::splitmix64(i));
    for i in 0..3000 {
        writeln!(text, "known,{},{},{},{}", i % 7, if i % 5 == 0 { 0 } else { i % 7 }, unit(i), -unit(i))
            .unwrap();
    }
    for i in 3000..4000 {
        let name = if i % 2 == 0 { "near" } else { "far" };
        let score = unit(i).sqrt() + f64::from(u8::from(name == "far"));
        writeln!(text, "{name},-1,3,{score},{}", -score).unwrap();
    }
    fs::write(folder.join("scores.csv"), text).unwrap();
}

#[test]
fn metrics_prints_a_table_for_a_score_file() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    scores(at);
    let table = json(at, &["metrics", "scores.csv", "--threshold", "0.95", "--group", "both=near,far"]);
    let names: Vec<&str> =
        table["rows"].as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["near", "far", "both", "mean", "all"]);
    assert_eq!((&table["known"], &table["rows"][0]["unknown"]), (&3000.into(), &500.into()));
    assert!((table["known_kept"].as_f64().unwrap() - 0.95).abs() < 0.02);
    let far = &table["rows"][1];
    assert_eq!((&far["auroc"], &far["unknown_caught"]), (&1.0.into(), &1.0.into()));
    for row in table["rows"].as_array().unwrap() {
        for (name, interval) in row["intervals"].as_object().unwrap() {
            let [low, value, high] =
                [&interval[0], &row[name], &interval[1]].map(|value| value.as_f64().unwrap());
            assert!(low <= value && value <= high, "{name}: {low} {value} {high}");
        }
    }
    // Negated scores give the complement of the AUROC.
    let other = json(at, &["metrics", "scores.csv", "--column", "other", "--resamples", "0"]);
    let auroc = |table: &Value, row: usize| table["rows"][row]["auroc"].as_f64().unwrap();
    assert!((auroc(&table, 0) + auroc(&other, 0) - 1.0).abs() < 1e-12);
    assert!(other["rows"][0].get("intervals").is_none());

    let text = stdout(&toolkit(at, &["metrics", "scores.csv"])).to_owned();
    assert!(text.starts_with("3000 known images: accuracy 82.87 % ("), "{text}");
    assert_eq!(text, stdout(&toolkit(at, &["metrics", "scores.csv"])), "the same seed gives the same table");
    assert_ne!(text, stdout(&toolkit(at, &["metrics", "scores.csv", "--resample-seed", "1"])));
}

#[test]
fn stream_bounds_contain_the_exact_metrics() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    scores(at);
    let table = json(at, &["metrics", "scores.csv", "--resamples", "0"]);
    let exact = &table["rows"].as_array().unwrap().last().unwrap();
    for (bins, width) in [("100", 0.3), ("5000", 1e-9)] {
        let bounded = json(at, &["metrics", &format!("--stream={bins}"), "scores.csv"]);
        assert_eq!((&bounded["known"], &bounded["accuracy"]), (&table["known"], &table["accuracy"]));
        for (name, bounds) in bounded["bounds"].as_object().unwrap() {
            let [low, value, high] =
                [&bounds[0], &exact[name], &bounds[1]].map(|value| value.as_f64().unwrap());
            assert!(low - 1e-12 <= value && value <= high + 1e-12, "{name}: {low} {value} {high}");
            assert!(high - low < width, "{name}: {low} {high}");
        }
    }
    let text = stdout(&toolkit(at, &["metrics", "--stream", "scores.csv"])).to_owned();
    assert!(text.starts_with("3000 known images, 1000 unknown\naccuracy "), "{text}");
}

/// The files of `tests/golden/scores.py`, which NumPy wrote, with the AUROC of scikit-learn.
#[test]
fn numpy_files_give_the_auroc_of_scikit_learn() {
    let folder = golden("scores");
    let expected: Value = serde_json::from_slice(&fs::read(folder.join("expected.json")).unwrap()).unwrap();
    let expected = expected.as_object().unwrap();
    assert_eq!(expected.len(), 6);
    for (file, expected) in expected {
        let table = json(&folder, &["metrics", file, "--resamples", "0"]);
        let stream = json(&folder, &["metrics", file, "--stream"]);
        for (name, expected) in expected.as_object().unwrap() {
            let found = table["rows"][0].get(name).unwrap_or(&table[name]);
            for found in [found, &stream[name]] {
                let difference = found.as_f64().unwrap() - expected.as_f64().unwrap();
                assert!(difference.abs() < 1e-12, "{file} {name}: {found}, {expected}");
            }
        }
    }
}

#[test]
fn errors_in_a_score_file_are_reported() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let message = |text: &str, more: &[&str]| {
        fs::write(at.join("a.csv"), text).unwrap();
        error(&toolkit(at, &[&["metrics", "a.csv"], more].concat()))
    };
    assert!(
        message("label,msp\n", &[]).contains("`a.csv` does not hold usable scores: it has no column `score`")
    );
    assert!(message("label,score\n1,2\n", &["--column", "msp"]).contains("no column `msp`"));
    for stream in [&[][..], &["--stream"]] {
        for (text, reason) in [
            (
                "label,score\n-1,2\n",
                "`a.csv` does not hold usable scores: every label is negative: no known images",
            ),
            (
                "label,score\n0,2\n1,3\n",
                "`a.csv` does not hold usable scores: no label is negative: no unknown images",
            ),
            ("label,score\n", "`a.csv` does not hold usable scores: the file has no entries"),
            ("label,score\n1,nan\n-1,2\n", "line 2: a score is NaN"),
            ("label,score\n1,nan\n1,2\n", "line 2: a score is NaN"),
            ("label,score\n1,2\n0.5,2\n", "line 3: `0.5` is not an integer"),
        ] {
            let message = message(text, stream);
            assert!(message.contains(reason), "{message}");
        }
    }
    assert!(
        message("label,score\n1,2\n-1,3\n", &["--group", "g=far"])
            .contains("`far` is not one of the unknown sets")
    );
    assert!(error(&toolkit(at, &["metrics", "none.npz"])).contains("cannot read `none.npz`"));
    assert!(message("label,score,set\n1,2,\n-1,3,mean\n", &[]).contains("set name = `mean`"));
    // A threshold is compared in double precision, as it is written.
    fs::write(at.join("a.csv"), "label,score,prediction\n1.0,0.7,1\n-1.0,0.8,\n").unwrap();
    assert_eq!(json(at, &["metrics", "a.csv", "--threshold", "0.7"])["known_kept"], 1.0);
    // Unknown images need no prediction.
    let [table, stream] =
        [&[][..], &["--stream"]].map(|more| json(at, &[&["metrics", "a.csv"], more].concat()));
    assert_eq!((&table["accuracy"], &stream["accuracy"]), (&1.0.into(), &1.0.into()));
    // A predicted class need not be the label of any image.
    fs::write(at.join("a.csv"), "label,score,prediction\n1,2,7\n-1,3,-1\n").unwrap();
    assert_eq!(json(at, &["metrics", "a.csv"])["accuracy"], 0.0);
    // Without predictions the other metrics are computed.
    fs::write(at.join("a.csv"), "label,score\n1,2\n-1,3\n").unwrap();
    let table = json(at, &["metrics", "a.csv"]);
    assert!(table.get("accuracy").is_none() && table["rows"][0].get("oscr").is_none());
    assert_eq!(table["rows"][0]["auroc"], 1.0);
}

#[test]
fn suspicious_scores_give_warnings() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let warnings = |known: i32, unknown: i32, prediction: &str| {
        let line = |i| format!("1,{},1\n1,{},{prediction}\n-1,{},\n", known + i, known + i, unknown + i);
        let lines: String = (0..40).map(line).collect();
        fs::write(at.join("a.csv"), format!("label,score,prediction\n{lines}")).unwrap();
        let [metrics, report] = ["metrics", "report"].map(|command| toolkit(at, &[command, "a.csv"]));
        assert!(metrics.status.success() && report.status.success());
        let missing = "no accuracy or OSCR";
        assert_eq!(stderr(&metrics).contains(missing), stderr(&report).contains(missing));
        stderr(&metrics)
    };
    assert_eq!(warnings(0, 100, "1"), "");
    assert!(
        warnings(100, 0, "1")
            .starts_with("the AUROC for `unknown` is below 50 %: is the score the right way")
    );
    let expected = "no accuracy or OSCR: 40 known images have no prediction\n";
    assert_eq!(warnings(0, 100, ""), expected);
}
