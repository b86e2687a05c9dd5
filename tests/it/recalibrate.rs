//! New thresholds for model files.

use std::{fs, path::Path};

use cac::{
    Bytes, Error, Provider, Scorer,
    data::{Dataset, Split},
    eval,
    export::{self, ExportOptions, InputForm, RecalibrateOptions, Recalibrated, ThresholdRule},
    image::Input,
    method::{self, Anchors, Variant, kept_at_least},
    model::{Inspection, ModelPrecision},
    run::TestLogits,
    scorer::Outputs,
};
use ndarray::{Array4, Axis};
use serde_json::Value;

use crate::{
    PROVIDERS, checkpoint,
    commands::{error, stderr, stdout, toolkit, trained},
    errors::with_changed_bias,
    golden, model_file,
};

/// The number of images of [`photographs`].
const COUNT: usize = 60;

/// Different images in a folder for each class.
fn photographs(folder: &Path) {
    for number in 0..COUNT {
        let class = folder.join(["ant", "bee", "cow"][number % 3]);
        fs::create_dir_all(&class).unwrap();
        let shade = |x: u32, y: u32, channel: u32| {
            let wave = (x * (1 + number as u32 % 7) + y * (1 + number as u32 % 5)) * (channel + 2);
            (wave * 5 + 11 * number as u32) as u8
        };
        let image = image::RgbImage::from_fn(32, 32, |x, y| image::Rgb([0, 1, 2].map(|c| shade(x, y, c))));
        image.save(class.join(format!("{number:02}.png"))).unwrap();
    }
}

fn unlabelled(folder: &Path) -> Dataset {
    Dataset::unknown(folder, Split::Test, &Input::default()).unwrap()
}

fn recalibrated(
    model: &[u8],
    images: &Dataset,
    options: RecalibrateOptions,
) -> cac::Result<(Recalibrated, Vec<u8>)> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new.onnx");
    let result = export::recalibrate(Bytes::copy_from_slice(model), "model", images, options, &path, |_| ());
    assert_eq!(path.exists(), result.is_ok());
    Ok((result?, fs::read(path).unwrap()))
}

/// The outputs of a model for all images of a data set.
fn outputs(model: &[u8], provider: Provider, images: &Dataset) -> Outputs {
    let all: Vec<usize> = (0..images.len()).collect();
    let pixels = images.readable_batch(&all).images;
    Scorer::from_bytes(model, provider).unwrap().score_u8(pixels.view()).unwrap()
}

/// The checkpoint with logits of the test, so that exports have metrics.
fn tested() -> cac::run::Checkpoint {
    let mut checkpoint = checkpoint(1, Variant::Paper);
    let logits = checkpoint.held_out.calibrating.clone();
    let labels = (0..logits.nrows()).map(|row| (row % 3) as i64).collect();
    let unknown = vec![("far".to_owned(), logits.clone())];
    checkpoint.test = Some(TestLogits { known: logits, labels, unknown, skipped: 0 });
    checkpoint
}

#[test]
fn only_what_depends_on_the_threshold_changes() {
    let folder = tempfile::tempdir().unwrap();
    photographs(folder.path());
    let images = unlabelled(folder.path());
    let pixels = Array4::from_shape_fn((8, 3, 32, 32), |(n, c, y, x)| {
        ((x * (n + 1) + y * (c + 2)) % 256) as f32 / 255.0
    });
    let checkpoint = tested();
    let default = ExportOptions { score: Some("cac".parse().unwrap()), ..ExportOptions::default() };
    for options in [
        default.clone(),
        ExportOptions { score: Some("energy+knn:5".parse().unwrap()), ..default.clone() },
        ExportOptions { features: false, threshold_input: true, ..default.clone() },
        ExportOptions { logit_map: true, input: InputForm::Bytes, batch: Some(7), ..default.clone() },
        ExportOptions { input: InputForm::AnySize, threshold: ThresholdRule::Value(3.0), ..default.clone() },
        ExportOptions { precision: ModelPrecision::Int8, calibration: Some(pixels), ..default.clone() },
    ] {
        let model = model_file(&checkpoint, &options);
        let before = Inspection::of(&model, "before").unwrap();
        for provider in PROVIDERS {
            let asked = RecalibrateOptions { keep: Some(0.9), provider, ..RecalibrateOptions::default() };
            let (found, new) = recalibrated(&model, &images, asked).unwrap();
            let after = Inspection::of(&new, "after").unwrap();
            assert_eq!((found.images, found.skipped, found.accuracy), (COUNT, 0, None));
            assert_eq!((found.bytes, &found.sha256), (new.len(), &after.sha256));
            assert_eq!(found.manifest, after.manifest);

            // The threshold is the k-th smallest score, k = ⌈61 · 0.9⌉.
            let [old, own] = [&model, &new].map(|bytes| outputs(bytes, provider, &images));
            let mut scores = old.score.to_vec();
            scores.sort_unstable_by(f32::total_cmp);
            let threshold = after.manifest.decision.threshold.clone().unwrap();
            assert_eq!((after.threshold, threshold.value), (scores[54], scores[54]), "{options:?}");
            assert_eq!(threshold.held_out_scores, scores);
            assert_eq!((threshold.keep, threshold.is_from_test), (Some(0.9), false));
            assert_eq!(threshold.kept_at_least, Some(kept_at_least(COUNT, 0.9)));
            assert_eq!(after.manifest.doubt_of_held_out(), None);
            let kept = |threshold: f32| scores.iter().filter(|&&score| score <= threshold).count();
            assert_eq!(found.kept_before, kept(before.threshold) as f64 / COUNT as f64);

            // Everything else stays.
            assert_eq!((&own.logits, &own.distances, &own.label), (&old.logits, &old.distances, &old.label));
            assert_eq!(
                (&own.score, &own.features, &own.logit_map),
                (&old.score, &old.features, &old.logit_map)
            );
            assert_eq!(
                (after.outputs, after.batch, after.input),
                (before.outputs.clone(), before.batch, before.input)
            );
            assert_eq!((after.takes_threshold, after.nodes), (before.takes_threshold, before.nodes));
            for (place, &score) in own.score.iter().enumerate() {
                assert_eq!(own.unknown[place], score > scores[54]);
                let p_value = own.p_value.as_ref().unwrap()[place];
                assert!((p_value - method::p_value(&scores, score)).abs() < 1e-6);
                let at = own.unknown_at.as_ref().unwrap();
                assert_eq!((at[[place, 0]], at[[place, 1]]), (score > scores[54], score > scores[57]));
            }
            assert!(Scorer::from_bytes(&new, provider).unwrap().verify().unwrap() < 0.1);

            // Metrics without the earlier threshold.
            let history = &after.manifest.history;
            if let Some(earlier) = &before.manifest.history.metrics {
                let metrics = history.metrics.as_ref().unwrap();
                assert!(earlier.known_kept.is_some() && earlier.rows[0].unknown_caught.is_some());
                assert_eq!((metrics.known_kept, metrics.rows[0].unknown_caught), (None, None));
                assert_eq!(metrics.accuracy, earlier.accuracy);
                assert_eq!(metrics.rows[0].metrics, earlier.rows[0].metrics);
            }
            // The test has no features.
            let reads_features = options.score.unwrap().reads_features();
            assert_eq!(history.metrics.is_none(), reads_features);
            let recalibration = history.recalibration.as_ref().unwrap();
            assert!(recalibration.producer.starts_with("cac "));
            assert_eq!(
                (&recalibration.provider, &recalibration.earlier),
                (&provider.to_string(), &before.sha256)
            );
            // Int8 gives other scores elsewhere.
            for other in PROVIDERS {
                let doubt = Scorer::from_bytes(&new, other).unwrap().doubt_of_held_out();
                let is_int8 = options.precision == ModelPrecision::Int8;
                assert_eq!(doubt.is_some(), is_int8 && other != provider, "{other} {provider} {doubt:?}");
            }
            assert!(Provider::OpenVinoBf16.doubt_of_held_out(&after.manifest).is_some());
        }
    }
}

#[test]
fn places_are_compared_with_the_new_images() {
    let folder = tempfile::tempdir().unwrap();
    photographs(folder.path());
    let images = unlabelled(folder.path());
    let checkpoint = checkpoint(1, Variant::Paper);
    let model = model_file(&checkpoint, &ExportOptions { logit_map: true, ..ExportOptions::default() });
    let (found, new) = recalibrated(&model, &images, RecalibrateOptions::default()).unwrap();
    let places = found.manifest.decision.places.unwrap();
    let logits = outputs(&new, Provider::Cpu, &images).logits;
    let distances = checkpoint.anchors.distances(logits.view());
    let mut expected = places.score.rejection(logits.view(), distances.view()).to_vec();
    expected.sort_unstable_by(f32::total_cmp);
    assert_eq!(places.held_out_scores, expected);
}

#[test]
fn each_class_gets_a_new_threshold_if_it_had_one() {
    let folder = tempfile::tempdir().unwrap();
    photographs(folder.path());
    let images = unlabelled(folder.path());
    let mut checkpoint = tested();
    let (plain_options, per_class) =
        (ExportOptions { score: Some("min-distance".parse().unwrap()), ..ExportOptions::default() }, true);
    // Anchors among the logits, so that each class is predicted.
    let logits = outputs(&model_file(&checkpoint, &plain_options), Provider::Cpu, &images).logits;
    checkpoint.anchors = Anchors::Rows(logits.select(Axis(0), &[0, 1, 2]));
    checkpoint.held_out.calibrating = logits;
    let plain = model_file(&checkpoint, &plain_options);
    let options = ExportOptions { per_class, threshold: ThresholdRule::Keep(0.5), ..plain_options };
    let model = model_file(&checkpoint, &options);
    for provider in PROVIDERS {
        let asked = RecalibrateOptions { provider, ..RecalibrateOptions::default() };
        let (found, new) = recalibrated(&model, &images, asked).unwrap();
        let threshold = found.manifest.decision.threshold.clone().unwrap();
        let raw = outputs(&plain, provider, &images);
        let own = outputs(&new, provider, &images);
        assert_eq!((threshold.value, threshold.keep), (0.0, Some(0.5)));
        assert!(threshold.held_out_scores.is_empty() && own.p_value.is_none());
        let mut least = 1.0_f64;
        for (class, &chosen) in threshold.classes.as_ref().unwrap().iter().enumerate() {
            let of_class = |place: &usize| raw.label[*place] == class;
            let places: Vec<usize> = (0..COUNT).filter(of_class).collect();
            let mut scores: Vec<f32> = places.iter().map(|&place| raw.score[place]).collect();
            scores.sort_unstable_by(f32::total_cmp);
            assert_eq!(chosen, method::threshold(&scores, 0.5).unwrap(), "{class}");
            // Each image is compared with the threshold of its class exactly.
            assert!(places.iter().all(|&place| own.unknown[place] == (raw.score[place] > chosen)));
            least = least.min(kept_at_least(scores.len(), 0.5));
        }
        assert_eq!(threshold.kept_at_least, Some(least));
        assert_eq!(found.manifest.history.metrics, None);
        let before = outputs(&model, provider, &images);
        let kept = before.unknown.iter().filter(|&&unknown| !unknown).count();
        assert_eq!(found.kept_before, kept as f64 / COUNT as f64);
    }
    let refused = |keep: f64| {
        let options = RecalibrateOptions { keep: Some(keep), ..RecalibrateOptions::default() };
        recalibrated(&model, &images, options).unwrap_err()
    };
    let too_few = refused(0.98).to_string();
    assert!(too_few.contains("needs 49 images predicted as it to keep 98 %; there are "), "{too_few}");
    // Before anything is scored.
    assert!(matches!(refused(0.99), Error::TooFewHeldOut { found: COUNT, needed: 99, .. }));
    assert!(matches!(refused(1.0), Error::Setting { name: "keep", .. }));
}

#[test]
fn files_of_earlier_versions_get_the_outputs_of_today() {
    let folder = tempfile::tempdir().unwrap();
    photographs(folder.path());
    let model = fs::read(golden("../../exported/cifar10-wrn-40-2.onnx")).unwrap();
    let input = Inspection::of(&model, "old").unwrap().manifest.decision.input;
    let images = Dataset::unknown(folder.path(), Split::Test, &input).unwrap();
    let (found, new) = recalibrated(&model, &images, RecalibrateOptions::default()).unwrap();
    let decision = &found.manifest.decision;
    assert_eq!((decision.format_version, found.manifest.doubt_of_held_out()), (2, None));
    // That of the file.
    assert_eq!(decision.threshold.as_ref().unwrap().keep, Some(0.95));
    let own = outputs(&new, Provider::Cpu, &images);
    assert_eq!(own.unknown.iter().filter(|&&unknown| !unknown).count(), 58);
    assert!(own.p_value.is_some() && own.unknown_at.unwrap().ncols() == 2);
    Scorer::from_bytes(&new, Provider::OnnxRuntime).unwrap().verify().unwrap();
}

#[test]
fn what_gives_no_sound_threshold_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    photographs(at);
    let images = unlabelled(at);
    let model = model_file(&checkpoint(1, Variant::Paper), &ExportOptions::default());
    let refused = |model: &[u8], images: &Dataset, options| recalibrated(model, images, options).unwrap_err();
    let options = RecalibrateOptions::default();
    let few = refused(&model, &images.pick(&(0..18).collect::<Vec<_>>()), options);
    assert!(matches!(few, Error::TooFewHeldOut { found: 18, needed: 19, .. }), "{few}");
    let wrong = refused(&model, &images, RecalibrateOptions { keep: Some(1.0), ..options });
    assert!(matches!(wrong, Error::Setting { name: "keep", .. }), "{wrong}");
    let labelled = Dataset::known(at, Split::Test, &Input::default()).unwrap();
    let other = labelled.align(&["bee", "ant", "cow"].map(str::to_owned)).unwrap();
    let other = refused(&model, &other, options);
    assert!(matches!(other, Error::Classes { .. }), "{other}");
    // A damage must not get a golden batch of its own.
    let damaged = refused(&with_changed_bias(&model), &images, options);
    assert!(matches!(damaged, Error::Differs { .. }), "{damaged}");
    let other = Dataset::unknown(at, Split::Test, &Input::of_size(48, 48)).unwrap();
    let other = refused(&model, &other, options);
    assert!(matches!(other, Error::Setting { name: "images", .. }), "{other}");

    fs::write(at.join("ant/00.png"), "no image").unwrap();
    let broken = refused(&model, &images, options);
    assert!(matches!(&broken, Error::BrokenImages { errors } if errors.len() == 1), "{broken}");
    let (found, _) =
        recalibrated(&model, &images, RecalibrateOptions { skip_broken: true, ..options }).unwrap();
    assert_eq!((found.images, found.skipped), (COUNT - 1, 1));
    let held_out = found.manifest.decision.threshold.unwrap().held_out_scores;
    let mut scores = Vec::new();
    let scorer = Scorer::from_bytes(&model, Provider::Cpu).unwrap();
    eval::scores(&scorer, &images, |_, batch, _| scores.extend(batch)).unwrap();
    scores.sort_unstable_by(f32::total_cmp);
    assert_eq!(held_out, scores);
}

/// Replaces the record of the training in a model file.
fn with_training(model: &Path, training: &Value) {
    use prost::Message;
    let mut proto = tract_onnx::pb::ModelProto::decode(&*fs::read(model).unwrap()).unwrap();
    let properties = &mut proto.metadata_props;
    properties.retain(|property| property.key != "cac.training");
    let (key, value) = ("cac.training".to_owned(), training.to_string());
    properties.push(tract_onnx::pb::StringStringEntryProto { key, value });
    fs::write(model, proto.encode_to_vec()).unwrap();
}

#[test]
fn the_command_says_what_the_earlier_threshold_kept() {
    let folder = trained();
    let at = folder.path();
    photographs(&at.join("new"));
    stdout(&toolkit(at, &["export", "model.onnx", "--score", "cac"]));
    let before = fs::read(at.join("model.onnx")).unwrap();
    let recalibrate = |args: &[&str]| toolkit(at, &[&["recalibrate", "model.onnx"], args].concat());
    let output = recalibrate(&["new.onnx", "--known", "new", "--triton", "models"]);
    let text = stdout(&output);
    for part in [
        "new.onnx: ",
        " MB from `model.onnx`\nSHA-256 ",
        "\naccuracy ",
        " % of 60 images\nearlier threshold: keeps ",
        " % of 60 images\nthreshold ",
        " (keeps 95 % of new known images, and at least 89.9 % with 95 % confidence; chosen from 60 known \
         images given at the recalibration on cpu)\nself-check with tract: ",
        "\nfor Triton: version 1 in `models/model`\n",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(fs::read(at.join("model.onnx")).unwrap(), before);
    let inspected = toolkit(at, &["inspect", "new.onnx"]);
    let caution = "the images of the recalibration were not compared with the training images; if ";
    assert!(stderr(&output).contains(caution), "{}", stderr(&output));
    assert!(stdout(&inspected).contains(&format!("\ncaution    {caution}")), "{}", stdout(&inspected));
    assert!(stdout(&inspected).contains(", recalibrated by cac "), "{}", stdout(&inspected));
    // The image that decides is kept, too.
    let verdicts = toolkit(at, &["score", "new.onnx", "new"]);
    assert_eq!(stdout(&verdicts).lines().filter(|line| line.contains("\tunknown\t")).count(), 2);
    // Wherever the images are now.
    fs::rename(at.join("new"), at.join("moved")).unwrap();
    let eval = |model, known: &[&str]| {
        stderr(&toolkit(at, &[&["eval", model, "--known"], known].concat())).to_owned()
    };
    let chose = "known test images that the threshold of the model was chosen from: 60\n";
    let (before, after) = (eval("model.onnx", &["moved"]), eval("new.onnx", &["moved"]));
    assert!(!before.contains("threshold of") && after.contains(chose), "{before} {after}");
    let of_far = "images of the unknown set `far` that the threshold of the model was chosen from: 60\n";
    crate::commands::images(at);
    let text = eval("new.onnx", &["known", "--unknown", "far=moved"]);
    assert!(text.contains(of_far) && !text.contains("known test images that"), "{text}");
    fs::rename(at.join("moved"), at.join("new")).unwrap();
    let again = recalibrate(&["again.onnx", "--known", "new"]);
    assert!(!stdout(&again).contains("chosen from 60 of them"), "{}", stdout(&again));
    let again = toolkit(at, &["recalibrate", "new.onnx", "again.onnx", "--known", "new"]);
    let said = "earlier threshold: keeps 96.7 % of 60 images; it was chosen from 60 of them\n";
    assert!(stdout(&again).contains(said), "{}", stdout(&again));

    // Labels change nothing, nor do the names of other folders.
    fs::create_dir(at.join("days")).unwrap();
    for (class, day) in [("ant", "monday"), ("bee", "tuesday"), ("cow", "wednesday")] {
        fs::rename(at.join("new").join(class), at.join("days").join(day)).unwrap();
    }
    let line = recalibrate(&["days.onnx", "--known", "days", "--json"]);
    let said = "the folders are not named after classes of the model, so the images have no labels: monday, ";
    assert!(stderr(&line).contains(said), "{}", stderr(&line));
    let line: Value = serde_json::from_str(stdout(&line)).unwrap();
    assert_eq!((&line["images"], &line["skipped"], &line["accuracy"]), (&60.into(), &0.into(), &Value::Null));
    assert!(
        line["kept_before"].is_number() && line["manifest"]["recalibration"]["provider"] == "cpu",
        "{line}"
    );
    assert_eq!(line["sha256"], cac::files::sha256(&fs::read(at.join("days.onnx")).unwrap()));
    let decision = |model: &str| {
        let bytes = fs::read(at.join(model)).unwrap();
        Inspection::of(&bytes, model).unwrap().manifest.decision
    };
    assert_eq!(decision("days.onnx"), decision("new.onnx"));
    // A folder of another class beside those of the model is a mistake.
    fs::rename(at.join("days/monday"), at.join("days/ant")).unwrap();
    let refused = recalibrate(&["x.onnx", "--known", "days"]);
    assert!(error(&refused).contains("`tuesday` is not one of the known classes"), "{}", stderr(&refused));
    let same = error(&recalibrate(&["model.onnx", "--known", "days"]));
    assert_eq!(same, "error: cannot write `model.onnx`: it is also an input");
    let name = error(&recalibrate(&["new.bin", "--known", "days"]));
    assert!(name.contains("it must end in .onnx"), "{name}");
    assert!(!at.join("x.onnx").exists());
}

#[test]
fn copies_and_training_images_are_left_out() {
    let folder = trained();
    let at = folder.path();
    photographs(&at.join("known/train"));
    photographs(&at.join("new"));
    stdout(&toolkit(at, &["export", "model.onnx"]));
    with_training(&at.join("model.onnx"), &serde_json::json!({ "known": "known" }));
    // The model has learned from all but 20 of the images, of which one is there twice.
    for number in 0..20 {
        let class = ["ant", "bee", "cow"][number % 3];
        fs::remove_file(at.join(format!("known/train/{class}/{number:02}.png"))).unwrap();
    }
    fs::copy(at.join("new/ant/00.png"), at.join("new/ant/copy.png")).unwrap();
    let args = ["recalibrate", "model.onnx", "new.onnx", "--known", "new"];
    let output = toolkit(at, &args);
    assert!(stdout(&output).contains("chosen from 20 known images given"), "{}", stdout(&output));
    // Two of the images are also test images of the model.
    for name in ["ant/00.png", "bee/01.png"] {
        let test = at.join("known/test").join(name);
        fs::create_dir_all(test.parent().unwrap()).unwrap();
        fs::copy(at.join("new").join(name), test).unwrap();
    }
    let said = "test images of the model: 2; evaluate the new threshold on others\n";
    assert!(!stderr(&output).contains(said));
    let output = toolkit(at, &args);
    assert!(stderr(&output).contains(said), "{}", stderr(&output));
    let text = stderr(&output);
    assert!(
        text.starts_with("left out copies of other images: 1\nleft out training images of the model: 40\n"),
        "{text}"
    );
    // Training images in another format look like these.
    let bee = image::open(at.join("known/train/bee/22.png")).unwrap();
    bee.save(at.join("new/bee/again.bmp")).unwrap();
    let drift = || {
        let output = toolkit(at, &["drift", "new.onnx", "new", "--shuffle", "--json"]);
        serde_json::from_str::<Value>(stdout(&output)).unwrap()
    };
    let counted = |output: &std::process::Output| -> usize {
        let text = stderr(output);
        let alike = text.split("almost like another one, or like a training image: ").nth(1);
        alike.map_or(0, |rest| rest.split(';').next().unwrap().parse().unwrap())
    };
    let before = counted(&output);
    let output = toolkit(at, &args);
    assert_eq!(counted(&output), before + 1, "{}", stderr(&output));
    let cautions = drift()["cautions"].as_array().unwrap().clone();
    assert_eq!(cautions.len(), 1, "{cautions:?}");
    assert!(stderr(&output).contains(&format!("{}\n", cautions[0].as_str().unwrap())), "{cautions:?}");
    fs::remove_file(at.join("new/bee/again.bmp")).unwrap();
    // Without the training images, they cannot be compared.
    fs::rename(at.join("known"), at.join("moved")).unwrap();
    let output = toolkit(at, &args);
    assert!(stdout(&output).contains("chosen from 60 known images given"));
    let said =
        "cannot leave out training images of the model: its training images, `known`, were not found\n";
    assert!(stderr(&output).contains(said), "{}", stderr(&output));
    // With a part held out as test images that is not that of the training, each of its images may be one.
    let divided =
        serde_json::json!({ "known": "new", "held_out_test": 0.5, "train_names": "of other images" });
    with_training(&at.join("model.onnx"), &divided);
    let output = toolkit(at, &args);
    assert_eq!(error(&output), "error: no image in `new` is left to choose the threshold from");
    let said = "left out images of `new`, which has changed since the training: 60\n";
    assert!(stderr(&output).contains(said), "{}", stderr(&output));
    fs::create_dir(at.join("both")).unwrap();
    fs::rename(at.join("new"), at.join("both/test")).unwrap();
    fs::rename(at.join("moved/train"), at.join("both/train")).unwrap();
    for name in ["test", "train"] {
        for (from, to) in [("ant", "x"), ("bee", "y"), ("cow", "z")] {
            let split = at.join("both").join(name);
            fs::rename(split.join(from), split.join(to)).unwrap();
        }
    }
    let refused = toolkit(at, &["recalibrate", "model.onnx", "new.onnx", "--known", "both"]);
    assert_eq!(error(&refused), "error: `both` is divided into training and test images");
}

#[test]
fn files_that_other_tools_changed_are_read_as_they_are_or_refused() {
    use prost::Message;
    use tract_onnx::pb::{ModelProto, StringStringEntryProto};
    let folder = tempfile::tempdir().unwrap();
    photographs(folder.path());
    let images = unlabelled(folder.path());
    let options = RecalibrateOptions::default();
    // Its threshold was set by hand, so the default share is kept.
    let by_hand = ExportOptions { threshold: ThresholdRule::Value(3.0), ..ExportOptions::default() };
    let model = model_file(&checkpoint(1, Variant::Paper), &by_hand);
    let changed = |change: &dyn Fn(&mut ModelProto)| {
        let mut proto = ModelProto::decode(&*model).unwrap();
        change(&mut proto);
        proto.encode_to_vec()
    };
    let property =
        |key: &str, value: &str| StringStringEntryProto { key: key.to_owned(), value: value.to_owned() };
    let extended = changed(&|proto| {
        let graph = proto.graph.as_mut().unwrap();
        graph.name = "mine".to_owned();
        let threshold = graph.initializer.iter_mut().find(|tensor| tensor.name == "threshold").unwrap();
        threshold.raw_data = f32::NEG_INFINITY.to_le_bytes().to_vec();
        // Fields in forms that this version does not know.
        proto.metadata_props.extend([
            property("author", "somebody"),
            property("cac.recalibration", "true"),
            property("cac.robustness", "[1]"),
            property("cac.weather", "rain"),
        ]);
    });
    let (found, new) = recalibrated(&extended, &images, options).unwrap();
    assert_eq!(
        (found.kept_before, found.manifest.decision.threshold.as_ref().unwrap().keep),
        (0.0, Some(0.95))
    );
    let written = ModelProto::decode(&*new).unwrap();
    assert_eq!(written.graph.unwrap().name, "mine");
    let properties = written.metadata_props;
    let value = |name: &str| properties.iter().find(|one| one.key == name).map(|one| one.value.as_str());
    assert_eq!(
        (value("author"), value("cac.weather"), value("cac.robustness")),
        (Some("somebody"), Some("\"rain\""), None)
    );
    assert_eq!(Inspection::of(&new, "new").unwrap().manifest, found.manifest);
    assert_eq!(found.manifest.doubt_of_held_out(), None);
    // And once more.
    let again = RecalibrateOptions { keep: Some(0.5), ..options };
    let (again, _) = recalibrated(&new, &images, again).unwrap();
    assert_eq!(again.manifest.history.recalibration.unwrap().earlier, found.sha256);
    assert_eq!((again.kept_before, found.chose_before, again.chose_before), (58.0 / 60.0, 0, COUNT));

    let refused = |model: &[u8]| recalibrated(model, &images, options).unwrap_err().to_string();
    let foreign = changed(&|proto| proto.graph.as_mut().unwrap().node[0].domain = "com.example".to_owned());
    assert!(refused(&foreign).contains("com.example"), "{}", refused(&foreign));
    let clash = changed(&|proto| {
        let graph = proto.graph.as_mut().unwrap();
        // The network reads a tensor that has the name of one of the verdict.
        let of = |graph: &mut tract_onnx::pb::GraphProto, name: &str| {
            graph.initializer.iter().position(|tensor| tensor.name == name).unwrap()
        };
        let own = of(graph, "cac/p/own");
        graph.initializer.remove(own);
        let std = of(graph, "cac/input/std");
        graph.initializer[std].name = "cac/p/own".to_owned();
        for (node, input) in [("cac/input/normalized", "cac/p/own"), ("cac/p/rank", "cac/p/count")] {
            graph.node.iter_mut().find(|one| one.output == [node]).unwrap().input[1] = input.to_owned();
        }
        proto.metadata_props.retain(|property| property.key != "cac.golden");
    });
    assert!(
        refused(&clash).contains("`cac/p/own` has the name of one that this toolkit writes"),
        "{}",
        refused(&clash)
    );
}
