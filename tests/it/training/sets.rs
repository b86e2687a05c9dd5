//! The data sets of a training: what is refused, left out or held out.

use super::*;

/// Writes images of different squares to the folder of a class.
fn squares(class: &Path, first: u32, count: u32, brightness: u32) {
    fs::create_dir_all(class).unwrap();
    for number in first..first + count {
        let image = image::RgbImage::from_fn(32, 32, |x, y| {
            let square = (number * 64 + y / 4 * 8 + x / 4).wrapping_mul(0x9e37_79b1) >> 16;
            image::Rgb([0, 20, 40].map(|more| (brightness + more + square % 80) as u8))
        });
        image.save(class.join(format!("{number}-{brightness}.png"))).unwrap();
    }
}

#[test]
fn images_that_look_like_training_images_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let train = |copies: &[u32]| {
        for brightness in copies {
            squares(&at.join("colours/train/a"), 0, 32, *brightness);
            squares(&at.join("colours/train/b"), 32, 32, *brightness);
        }
        let output = toolkit(at, &[&SMALL[..], &["--epochs", "1", "--json"]].concat());
        let start: Value = serde_json::from_str(stdout(&output).lines().next().unwrap()).unwrap();
        (start, stderr(&output).to_owned())
    };
    // The test images are brighter copies of all known images, some of which are held out.
    squares(&at.join("colours/test/a"), 0, 32, 110);
    squares(&at.join("colours/test/b"), 32, 32, 110);
    // An equal image is not one that only looks alike, whether or not it is held out.
    for number in [3, 4, 5, 6] {
        squares(&at.join("colours/test/a"), number, 1, 100);
    }
    let (start, said) = train(&[100]);
    assert_eq!((&start["alike_in_tests"], start.get("alike_held_out")), (&start["images"], None));
    assert_eq!(start["repeated"], 4);
    let images = &start["images"];
    let expected =
        format!("test images that look almost like a training image: {images}; if they are copies");
    assert!(said.contains(&expected), "{said}");

    let (start, said) = train(&[100, 120]);
    assert!(start["alike_held_out"].as_u64().unwrap() > 0, "{start}");
    assert!(said.contains("\nheld-out images that look almost like a training image: "), "{said}");
    let record = &facts_of(&at.join("runs/2"))["training"];
    for (recorded, found) in [("held_out_alike", "alike_held_out"), ("tests_alike", "alike_in_tests")] {
        assert!(
            start[found].as_u64().unwrap() > 0 && record[recorded] == start[found],
            "{recorded}: {record}"
        );
    }
    // What that means for the guarantee travels with the model.
    let alike = &start["alike_held_out"];
    let caution = format!("held-out images that look almost like a training image: {alike}; if they");
    let export = toolkit(at, &["export", "model.onnx"]);
    assert!(stderr(&export).contains(&caution), "{}", stderr(&export));
    let inspected = toolkit(at, &["inspect", "model.onnx"]);
    assert!(stdout(&inspected).contains(&format!("\ncaution    {caution}")), "{}", stdout(&inspected));
    let report = toolkit(at, &["report", "model.onnx", "runs/2"]);
    let caution = "\ncaution: Held-out images that look almost like a training image: ";
    assert_eq!(stdout(&report).matches(caution).count(), 2, "{}", stdout(&report));
    // So does what it means for the accuracy, if the test images are those of the training.
    let of_tests =
        format!("test images that look almost like a training image: {}; if they", start["alike_in_tests"]);
    assert!(stderr(&report).contains(&of_tests), "{}", stderr(&report));
    let eval = |known| stderr(&toolkit(at, &["eval", "model.onnx", "--known", known])).contains(&of_tests);
    fs::create_dir(at.join("others")).unwrap();
    fs::rename(at.join("colours/test"), at.join("others/test")).unwrap();
    assert!(!eval("others"));
    fs::rename(at.join("others/test"), at.join("colours/test")).unwrap();
    assert!(eval("colours"));
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
fn no_class_may_be_called_unknown() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    two_colours(at);
    let mut before = "red";
    for name in ["unknown", "Unknown"] {
        for split in ["train", "test"] {
            let at = at.join("colours").join(split);
            fs::rename(at.join(before), at.join(name)).unwrap();
        }
        before = name;
        let output = toolkit(at, &[&SMALL[..], &["--run", "run"]].concat());
        let refused = error(&output);
        assert!(
            refused.contains("the classes of `colours` do not match: no class may be called `unknown`"),
            "{refused}"
        );
        assert!(stderr(&output).contains("hint: move these images out of the known classes"));
        assert!(!at.join("run").exists());
    }
}

#[test]
fn what_the_test_images_lack_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    two_colours(at);
    images(&at.join("colours/train"), "green", [30, 200, 30], 32);
    images(&at.join("colours/train"), "gold", [200, 200, 30], 2);
    images(at, "other", [99, 99, 99], 3);
    fs::copy(at.join("colours/train/red/5.png"), at.join("other/known.png")).unwrap();
    fs::copy(at.join("colours/test/red/1.png"), at.join("other/tested.png")).unwrap();
    fs::copy(at.join("colours/test/blue/0.png"), at.join("colours/test/blue/again.png")).unwrap();
    fs::create_dir(at.join("colours/val")).unwrap();
    images(&at.join("colours/val"), "red", [200, 30, 30], 1);
    fs::copy(at.join("colours/train/red/0.png"), at.join("colours/test/red/copy.png")).unwrap();
    fs::copy(at.join("colours/train/red/1.png"), at.join("colours/train/red/2.png")).unwrap();
    fs::copy(at.join("colours/train/green/3.png"), at.join("colours/train/red/4.png")).unwrap();
    let output = toolkit(at, &[&SMALL[..], &["--epochs", "1", "--unknown", "other=other"]].concat());
    stdout(&output);
    let said = stderr(&output);
    for part in [
        "not used: `colours/val`, because there is another folder of test images\n",
        "images of the unknown set `other` that are also training images: 1\n",
        "images of the unknown set `other` that are also known test images: 1\n",
        "classes with few training images: gold (1); the guarantee of the threshold is for all classes together\n",
        "network WideResNet-10-1, images of 32 x 32 pixels, random weights\n",
        "only 29 images are held out: enough for the threshold, too few to choose an epoch or a score, so the last epoch",
        "known classes without test images: gold, green\n",
        "test images that are also training images: 1\n",
        "training images that are copies of others: 2; copies of held-out images are left out\n",
        "images in two classes: 1, such as `colours/train/green/3.png`, which is also `colours/train/red/4.png`\n",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let log = lines(&fs::read_to_string(at.join("runs/1/log.jsonl")).unwrap());
    assert_eq!((&log[0]["untested"], &log[0]["repeated"]), (&json!(["gold", "green"]), &json!(1)));

    let output = toolkit(at, &["export", "model.onnx"]);
    assert!(
        stdout(&output).contains("too few images were held out to choose by measurement"),
        "{}",
        stdout(&output)
    );
    let record = facts_of(&at.join("runs/1"))["training"].take();
    for (field, value) in [
        ("images", log[0]["images"].clone()),
        ("tests_trained_on", json!(1)),
        ("tests_alike", log[0]["alike_in_tests"].clone()),
        ("held_out_alike", log[0]["alike_held_out"].clone()),
        ("test_every", json!(1)),
        ("skipped", Value::Null),
        ("test_images", Value::Null),
    ] {
        assert_eq!(record[field], value, "{field}: {record}");
    }
    // The test images are too few for a threshold.
    let without = [&SMALL[..], &["--epochs", "1", "--held-out", "0", "--run", "without"]].concat();
    let next = "next: `toolkit export --run without --threshold VALUE model.onnx` writes the model; no images were held out";
    let output = toolkit(at, &without);
    assert!(stderr(&output).contains(next), "{}", stderr(&output));
    let refused = toolkit(at, &["export", "--run", "without", "model.onnx"]);
    assert!(error(&refused).ends_with("needs 19 images to choose from; there are 18"), "{}", error(&refused));
    let export = toolkit(at, &["export", "--run", "without", "--threshold", "3", "by-hand.onnx"]);
    assert!(
        stdout(&export).contains("no images were held out to choose by measurement"),
        "{}",
        stdout(&export)
    );
    // The last epoch is the best one, so its export is the same.
    stdout(&toolkit(at, &["export", "--last", "last.onnx"]));
    assert!(fs::read(at.join("last.onnx")).unwrap() == fs::read(at.join("model.onnx")).unwrap());

    // Other scores are fitted to the images of the training if those that are tested have no others beside them.
    images(at, "fresh/red", [202, 30, 30], 3);
    images(at, "fresh/blue", [30, 30, 202], 3);
    let output = toolkit(at, &["eval", "model.onnx", "--known", "fresh", "--score", "knn:1"]);
    let said = "training images: `colours`, as recorded in the model\n";
    assert!(
        stdout(&output).contains("score knn:1\n") && stderr(&output).contains(said),
        "{}",
        stderr(&output)
    );
    let output = toolkit(at, &["eval", "model.onnx"]);
    assert!(
        stderr(&output).contains("known classes without test images: gold, green\n"),
        "{}",
        stderr(&output)
    );
    for said in [
        "known test images that are copies of others: 1\n",
        "known test images that the model was trained or calibrated on: 1\n",
        "images of the unknown set `other` that the model was trained or calibrated on: 1\n",
    ] {
        assert!(stderr(&output).contains(said), "{}", stderr(&output));
    }
    // So are its training images in another place, by their names.
    fs::rename(at.join("colours"), at.join("moved")).unwrap();
    let output = toolkit(at, &["eval", "model.onnx", "--known", "moved"]);
    let said = "known test images that the model was trained or calibrated on: 1\n";
    assert!(stderr(&output).contains(said), "{}", stderr(&output));
    let lost = "cannot check whether the model was trained on test images: its training images, `colours`, were not found\n";
    let output = toolkit(at, &["eval", "model.onnx", "--known", "moved/test"]);
    assert!(stderr(&output).contains(lost), "{}", stderr(&output));
    fs::rename(at.join("moved"), at.join("colours")).unwrap();
    let output = toolkit(at, &["eval", "model.onnx", "--known", "colours/train"]);
    let said = "known test images that the model was trained or calibrated on: 98\n";
    assert!(stderr(&output).contains(said), "{}", stderr(&output));
    let output = toolkit(at, &["eval", "model.onnx", "--known", "fresh", "--unknown", "a=colours/test/red"]);
    assert!(!stderr(&output).contains("known test images that"), "{}", stderr(&output));

    // What is odd about the images is in the report, too.
    let output =
        toolkit(at, &["report", "model.onnx", "runs/1", "--known", "colours", "--unknown", "other=other"]);
    for caution in [
        "Classes without test images: gold and green.",
        "Known test images that are copies of others: 1.",
        "Known test images that the model was trained or calibrated on: 1.",
        "Images of the unknown set `other` that are also known test images: 1.",
        "Images of the unknown set `other` that are also training images: 1.",
        "Test images that are also training images: 1.",
        "Classes with few training images: gold (1); the guarantee of the threshold is for all classes together.",
        "The test images are not those of `model.onnx`.",
    ] {
        assert!(stdout(&output).contains(&format!("\ncaution: {caution}")), "{caution}: {}", stdout(&output));
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
    let said = "known test images that the model was trained or calibrated on: 64; `--held-out-test 0.2` leaves them out\n";
    assert!(count == 80 && text.contains(said), "{text}");
    // A smaller share is a part of the same test images.
    let (count, text, _) = tested(&["--known", "colours", "--held-out-test", "0.1"]);
    assert_eq!((count, text.contains("trained")), (8, false), "{text}");
    // Also in another place.
    fs::rename(at.join("colours"), at.join("moved")).unwrap();
    let (_, text, _) = tested(&["--known", "moved"]);
    assert!(text.contains(said), "{text}");
    let recalibrated = toolkit(at, &["recalibrate", "m.onnx", "r.onnx", "--known", "moved"]);
    let text = stderr(&recalibrated);
    assert!(
        text.contains("left out training images of the model: 64\ntest images of the model: 16; "),
        "{text}"
    );
    fs::rename(at.join("moved"), at.join("colours")).unwrap();

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
    images(&at.join("new"), "red", [150, 20, 20], 3);
    let add = |new: &str, name: &str| {
        fs::copy(at.join("new/red").join(new), at.join("colours/red").join(name)).unwrap();
    };
    add("0.png", "00.png");
    let (count, text, _) = tested(&[]);
    assert!(count == 16 && text.contains("`colours` has changed since the training"), "{text}");
    add("1.png", "newer.png");
    add("2.png", "newest.png");
    let (count, text, _) = tested(&[]);
    assert!(count == 17 && text.contains("`colours` has changed since the training"), "{text}");
    let changed = toolkit(at, &["train", "--resume", "run"]);
    assert!(stderr(&changed).contains("cannot resume `run`"));

    // The images that were held out cannot be held out again.
    for more in [&[][..], &["--held-out-test", "0.2"]] {
        let (_, text, _) = tested(&[&["--known", "colours"], more].concat());
        let said = "`colours` has changed since the training; the model may have been trained on some of its test images\n";
        assert!(text.contains(said), "{text}");
    }
    // A new model is not concerned, the old one is, in either order.
    let new = ["--epochs", "1", "--held-out-test", "0.2", "--run", "new"];
    stdout(&toolkit(at, &[&SMALL[..], &new].concat()));
    stdout(&toolkit(at, &["export", "--run", "new", "new.onnx"]));
    let both = toolkit(at, &["eval", "new.onnx", "m.onnx"]);
    let text = stderr(&both);
    let said: Vec<&str> = text.lines().filter(|line| line.contains("have been trained on")).collect();
    assert_eq!(
        said,
        [
            "`colours` has changed since the training; `m.onnx` may have been trained on some of its test images"
        ]
    );
}
