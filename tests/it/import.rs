//! Imported weights, from the command line to scores.

use std::fs;

use cac::{
    Provider, Scorer,
    arch::Architecture,
    data::{Dataset, KnownData},
    eval::{EvaluateOptions, outputs},
    export::{ExportOptions, export},
    image::{self, Filter, Fit, Input, Resize},
    import::{self, Calibration, ImportOptions},
    method::{Loss, Variant},
    weights::Weights,
};
use ndarray::{Array2, Array4};
use serde_json::Value;

use crate::{
    commands::{error, stderr, stdout, toolkit},
    fill, golden,
};

fn expected(name: &str, classes: usize) -> (Array4<f32>, Vec<f32>) {
    let expected = Weights::read(&golden("checkpoints/expected.safetensors")).unwrap();
    let images = expected.values("pictures", &[4, 3, 32, 32]).unwrap().to_vec();
    let logits = expected.values(name, &[4, classes]).unwrap().to_vec();
    (Array4::from_shape_vec((4, 3, 32, 32), images).unwrap(), logits)
}

#[test]
fn checkpoints_of_every_layout_become_equivalent_models() {
    let folder = tempfile::tempdir().unwrap();
    for (file, logits, classes) in [
        ("cac-zip.pth", "cac.logits", 6),
        ("cac-legacy.pth", "cac.logits", 6),
        ("cac-zero.pth", "cac.logits", 6),
        ("wrn.pt", "wrn.logits", 3),
        ("wrn-module.pt", "wrn.logits", 3),
        ("wrn-pixmix.pt", "wrn-pixmix.logits", 3),
    ] {
        let path = golden("checkpoints").join(file);
        let args = ["import", path.to_str().unwrap(), "model.onnx", "--threshold", "3.5"];
        let output = toolkit(folder.path(), &args);
        assert!(stdout(&output).contains("threshold 3.5 (set by hand)"), "{file}");
        assert!(!stderr(&output).contains("does not use"), "{file}: {}", stderr(&output));
        let (images, logits) = expected(logits, classes);
        for provider in crate::PROVIDERS {
            let scorer = Scorer::open(folder.path().join("model.onnx"), provider).unwrap();
            let scores = scorer.score(images.view()).unwrap();
            for (found, expected) in scores.logits.iter().zip(&logits) {
                let difference = (found - expected).abs() / expected.abs().max(1.0);
                assert!(difference < 1e-5, "{file} {provider}: {found}, {expected}");
            }
            let manifest = scorer.manifest();
            let names = &manifest.decision.classes;
            assert_eq!((names.len(), names[2].as_str()), (classes, "2"));
            assert_eq!(manifest.history.imported.as_deref(), Some(file));
        }
    }
}

/// The files of `tests/golden/layouts.py`.
#[test]
fn a_network_is_found_in_every_layout() {
    let folder = tempfile::tempdir().unwrap();
    let layouts = golden("checkpoints/layouts");
    let logits = Weights::read(&layouts.join("expected.safetensors")).unwrap();
    let (images, _) = expected("cac.logits", 6);
    for (file, prefix) in [
        ("plain.pt", ""),
        ("compiled.pt", ""),
        ("parallel.pt", ""),
        ("submodule.pt", ""),
        ("lightning.ckpt", "state_dict.model."),
        ("tutorial.pt", "model_state_dict."),
        ("timm.pth.tar", "state_dict."),
        ("averaged.pt", "ema."),
        ("params.pth", "params."),
        ("deep.pt", "trainer.learner.student.backbone."),
        ("objects.pt", "state_dict."),
        ("whole.pt", ""),
        ("whole-legacy.pt", ""),
        ("pair.pt", "0."),
        ("protocol-1.pt", "state_dict."),
        ("protocol-5.pt", "saved.weights."),
        ("malicious.pt", "state_dict."),
        ("encoder.pt", "encoder."),
    ] {
        let path = layouts.join(file);
        let args = ["import", path.to_str().unwrap(), "model.onnx", "--threshold", "1"];
        let output = toolkit(folder.path(), &args);
        stdout(&output);
        let stderr = String::from_utf8(output.stderr).unwrap();
        let named = format!("the weights are those of `{prefix}`");
        assert_eq!(stderr.contains(&named), !prefix.is_empty(), "{file}: {stderr}");
        let (name, classes) = if file == "encoder.pt" { ("encoder.logits", 3) } else { ("logits", 6) };
        let scorer = Scorer::open(folder.path().join("model.onnx"), Provider::Cpu).unwrap();
        let found = scorer.score(images.view()).unwrap().logits;
        for (found, expected) in found.iter().zip(logits.values(name, &[4, classes]).unwrap()) {
            let difference = (found - expected).abs() / expected.abs().max(1.0);
            assert!(difference < 1e-5, "{file}: {found}, {expected}");
        }
    }
}

#[test]
fn anchors_come_from_the_file_or_are_fixed() {
    let folder = tempfile::tempdir().unwrap();
    let distances_of = |file: &str, magnitude: &str| {
        let path = golden("checkpoints").join(file);
        let path = path.to_str().unwrap();
        let args = ["import", path, "model.onnx", "--threshold", "1", "--magnitude", magnitude];
        stdout(&toolkit(folder.path(), &args));
        let scorer = Scorer::open(folder.path().join("model.onnx"), Provider::Cpu).unwrap();
        let (images, _) = expected("cac.logits", 6);
        scorer.score(images.view()).unwrap().distances
    };
    // The anchors of cac-zip.pth have noise of up to 1 per value; the magnitude matters only without anchors.
    let (given, legacy) = (distances_of("cac-zip.pth", "10"), distances_of("cac-legacy.pth", "10"));
    assert_ne!(given, legacy);
    assert_eq!(given, distances_of("cac-zip.pth", "3"));
    assert_eq!(legacy, distances_of("cac-zero.pth", "10"));
    assert_ne!(legacy, distances_of("cac-zero.pth", "3"));
    // Fixed anchors from a file have their own magnitude.
    let mut weights = Weights::read(&golden("checkpoints/cac-zero.pth")).unwrap().network().unwrap();
    weights.insert("anchors", &[6, 6], Array2::from_diag_elem(6, 5.0).into_iter().collect());
    let path = folder.path().join("five.safetensors");
    weights.write(&path).unwrap();
    let args = ["import", "five.safetensors", "model.onnx", "--threshold", "1", "--json"];
    let manifest: Value = serde_json::from_str(stdout(&toolkit(folder.path(), &args))).unwrap();
    assert_eq!(manifest["loss"]["magnitude"], 5.0);
    let path = golden("checkpoints/cac-zero.pth");
    for magnitude in ["0", "-5", "NaN"] {
        let args =
            ["import", path.to_str().unwrap(), "other.onnx", "--threshold", "1", "--magnitude", magnitude];
        let refused = error(&toolkit(folder.path(), &args));
        assert_eq!(refused, format!("error: magnitude = {magnitude}: must be 0.01 to 1000000"));
    }
}

#[test]
fn images_are_resized_by_the_rule_of_the_model() {
    let folder = tempfile::tempdir().unwrap();
    let path = golden("checkpoints/wrn.pt");
    let import = |fit: &[&str]| {
        let args = ["import", path.to_str().unwrap(), "model.onnx", "--threshold", "1"];
        toolkit(folder.path(), &[&args, fit].concat())
    };
    let square = image::open(golden("images/blotchy_0128.jpg")).unwrap();
    let image = image::RgbImage::from_fn(300, 200, |x, y| *square.get_pixel(x, y));
    let mut scores = Vec::new();
    for (fit, filter, line) in [
        ("stretch", "bilinear", "resize     bilinear, to 32 x 32 pixels; the aspect ratio is not kept"),
        (
            "crop",
            "bicubic",
            "resize     bicubic, the short side to 36 pixels, then the centre of 32 x 32 pixels",
        ),
        (
            "crop:1",
            "bilinear",
            "resize     bilinear, the short side to 32 pixels, then the centre of 32 x 32 pixels",
        ),
        ("pad", "bicubic", "resize     bicubic, to fit into 32 x 32 pixels, then padded with the mean"),
    ] {
        stdout(&import(&["--fit", fit, "--filter", filter]));
        let inspected = toolkit(folder.path(), &["inspect", "model.onnx"]);
        assert!(stdout(&inspected).contains(line), "{fit} {filter}: {}", stdout(&inspected));
        let scorer = Scorer::open(folder.path().join("model.onnx"), Provider::Cpu).unwrap();
        let pixels = image::pixels(&image, &scorer.decision().input);
        let prepared = Array4::from_shape_vec((1, 3, 32, 32), pixels).unwrap();
        let score = scorer.score_image(&image).unwrap().score;
        assert_eq!(score, scorer.score_u8(prepared.view()).unwrap().score[0], "{fit} {filter}");
        assert!(!scores.contains(&score), "{fit} {filter} is a different rule");
        scores.push(score);
    }
    let refused = import(&["--fit", "crop:2"]);
    assert_eq!(refused.status.code(), Some(2));
    let text = stderr(&refused);
    assert!(text.contains("must be stretch, pad, crop or crop:SHARE"), "{text}");
}

#[test]
fn large_networks_default_to_their_published_input() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    for (family, setting, share, filter) in [
        ("resnet", ("depth", 18.0), 0.875, Filter::Bilinear),
        ("efficientnet-lite", ("member", 1.0), 0.882, Filter::Bicubic),
    ] {
        let architecture = Architecture::new(family, &[setting]).unwrap();
        let mut weights = Weights::new(std::path::Path::new("w"));
        for (name, shape) in
            architecture.layers(3, 64, 64).unwrap().iter().flat_map(|layer| layer.parameters())
        {
            let values = fill::values_scaled(&name, &shape, fill::Scale::Inputs);
            weights.insert(&format!("state_dict.model.{name}"), &shape, values);
        }
        weights.write(&at.join("w.safetensors")).unwrap();
        stdout(&toolkit(
            at,
            &["import", "w.safetensors", "m.onnx", "--threshold", "1", "--classes", "a,b,c"],
        ));
        let input = Scorer::open(at.join("m.onnx"), Provider::Cpu).unwrap().decision().input;
        assert_eq!(input, architecture.default_input());
        assert_eq!(input.resize, Resize { fit: Fit::Crop { share }, filter });
        let args =
            ["import", "w.safetensors", "m.onnx", "--threshold", "1", "--size", "48", "--mean", "0,0.5,1"];
        stdout(&toolkit(at, &args));
        let found = Scorer::open(at.join("m.onnx"), Provider::Cpu).unwrap().decision().input;
        assert_eq!(found, Input { height: 48, width: 48, mean: [0.0, 0.5, 1.0], ..input });
        for flag in [&["--images", "9"][..], &["--provider", "cpu"], &["--keep-anchors"], &["--no-mirror"]] {
            let refused =
                toolkit(at, &[&["import", "w.safetensors", "m.onnx", "--threshold", "1"], flag].concat());
            assert_eq!(refused.status.code(), Some(2), "{flag:?} without --known");
        }
        let data = toolkit(at, &["import", "w.safetensors", "m.onnx", "--threshold", "1", "--data", "sets"]);
        assert!(error(&data).contains("--data is for the images of --known"));
        let refused = toolkit(at, &["import", "w.safetensors", "m.onnx", "--threshold", "1", "--size", "24"]);
        assert!(error(&refused).contains("size = 24x24: must be at least 32"), "{}", error(&refused));
    }
}

/// CIFAR-10's layout with images of the formula: some for training and 20 for testing.
fn small_cifar(folder: &std::path::Path, training: usize) {
    let images = fill::images(training + 20);
    let record = |i: usize| [&[(i % 10) as u8][..], &images[i * 3072..][..3072]].concat();
    let records = |range: std::ops::Range<usize>| range.flat_map(record).collect::<Vec<u8>>();
    fs::write(folder.join("data_batch_1.bin"), records(0..training)).unwrap();
    fs::write(folder.join("test_batch.bin"), records(training..training + 20)).unwrap();
}

#[test]
fn known_images_give_names_class_means_and_threshold() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    small_cifar(at, 40);
    let path = golden("checkpoints/cac-legacy.pth");
    let import = |more: &[&str]| {
        let args = [
            "import",
            path.to_str().unwrap(),
            "model.onnx",
            "--known",
            ".",
            "--protocol",
            "cac-2021/0",
            "--json",
        ];
        let manifest: Value =
            serde_json::from_str(stdout(&toolkit(at, &[&args[..], more].concat()))).unwrap();
        manifest
    };
    let manifest = import(&["--images", "0"]);
    assert_eq!(
        manifest["classes"],
        serde_json::json!(["airplane", "automobile", "bird", "deer", "dog", "truck"])
    );
    assert_eq!((&manifest["anchors"], &manifest["threshold"]["keep"]), (&"class-means".into(), &0.95.into()));
    assert_eq!(manifest["threshold"]["held_out_scores"].as_array().unwrap().len(), 24);
    assert_eq!(manifest["threshold"]["data"], "24 known images given at the import");
    assert_eq!(manifest.get("robustness"), None, "all of these few images calibrate");
    let model = || fs::read(at.join("model.onnx")).unwrap();
    let mirrored = model();
    assert_eq!(import(&["--images", "0", "--keep-anchors"])["anchors"], "fixed");
    assert!(model() != mirrored);
    import(&["--images", "0", "--no-mirror"]);
    assert!(model() != mirrored);

    // The other four classes are the first unknown set.
    let by_protocol = ["--protocol", "cac-2021/0"];
    let by_name = ["cat", "frog", "horse", "ship"].map(|class| ["--unknown-class", class]).concat();
    for of_the_others in [&by_protocol[..], &by_name] {
        let args = [&["eval", "model.onnx", "--known", ".", "--json"], of_the_others].concat();
        let evaluation: Value = serde_json::from_str(stdout(&toolkit(at, &args))).unwrap();
        assert_eq!((&evaluation["known"], &evaluation["rows"][0]["unknown"]), (&12.into(), &8.into()));
        assert_eq!(evaluation["rows"][0]["name"], "other-classes");
    }
    let given = import(&[&["--images", "0"][..], &by_name[..]].concat());
    assert_eq!(given["classes"], manifest["classes"], "unknown already by the protocol");
}

#[test]
fn a_plain_classifier_keeps_its_classes() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    small_cifar(at, 140);
    let architecture = Architecture::new("wide-resnet", &[("depth", 10.0), ("widen_factor", 1.0)]).unwrap();
    let mut weights = Weights::new(std::path::Path::new("w"));
    for (name, shape) in architecture.layers(10, 32, 32).unwrap().iter().flat_map(|layer| layer.parameters())
    {
        weights.insert(&name, &shape, fill::values_scaled(&name, &shape, fill::Scale::Inputs));
    }
    // A buffer of this name is no anchors.
    weights.insert("means", &[3, 1, 1], vec![0.5; 3]);
    weights.insert("neck.weight", &[4], vec![1.0; 4]);
    weights.write(&at.join("w.safetensors")).unwrap();
    let import = |more: &[&str]| {
        toolkit(at, &[&["import", "w.safetensors", "m.onnx", "--known", ".", "--json"], more].concat())
    };
    let manifest = |more: &[&str]| -> Value { serde_json::from_str(stdout(&import(more))).unwrap() };
    let plain = manifest(&[]);
    assert_eq!(
        (plain["loss"]["variant"].as_str(), plain["anchors"].as_str()),
        (Some("cross-entropy"), Some("fixed"))
    );
    let scorer = Scorer::open(at.join("m.onnx"), Provider::Cpu).unwrap();
    let images = Array4::from_shape_vec((20, 3, 32, 32), fill::images(20)).unwrap();
    let outputs = scorer.score_u8(images.view()).unwrap();
    for (logits, &label) in outputs.logits.rows().into_iter().zip(&outputs.label) {
        assert!(logits.iter().all(|&logit| logit <= logits[label]), "{label}: {logits}");
    }
    let said = "tensors that the network does not use: means, neck.weight; if the original";
    assert!(stderr(&import(&[])).contains(said));
    assert_eq!(manifest(&["--variant", "paper"])["anchors"], "class-means");
    // Layers beside the network, and a last layer in a `Sequential`.
    let mut within = Weights::new(std::path::Path::new("w"));
    for name in weights.names().collect::<Vec<_>>() {
        let tensor = weights.get(name).unwrap();
        let name = name.replace("fc.", "fc.1.");
        within.insert(&format!("backbone.{name}"), &tensor.shape, tensor.values.clone());
    }
    within.insert("temperature", &[1], vec![2.0]);
    within.insert("optimizer.state.0.exp_avg", &[1], vec![2.0]);
    within.write(&at.join("w.safetensors")).unwrap();
    let imported = import(&[]);
    assert!(
        stderr(&imported).contains("does not use: means, neck.weight, temperature; if"),
        "{}",
        stderr(&imported)
    );
    let again = Scorer::open(at.join("m.onnx"), Provider::Cpu).unwrap();
    assert_eq!(again.score_u8(images.view()).unwrap().logits, outputs.logits);
    // A network with another tensor in one of its layers is another network.
    weights.insert("conv1.bias", &[16], vec![1.0; 16]);
    weights.write(&at.join("w.safetensors")).unwrap();
    let refused = error(&import(&[])).to_owned();
    assert!(refused.contains("`conv1.bias` is not in "), "{refused}");
}

#[test]
fn enough_known_images_choose_a_score_and_show_what_degradations_do() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    small_cifar(at, 140);
    let path = golden("checkpoints/cac-legacy.pth");
    let args = ["import", path.to_str().unwrap(), "model.onnx", "--known", ".", "--protocol", "cac-2021/0"];
    let output = toolkit(at, &args);
    // A quarter of 84 images chooses, and a quarter calibrates.
    let text = stdout(&output);
    assert!(
        text.contains("\ndegraded: ") && text.contains(" % of 21 known images are kept; reduced "),
        "{text}"
    );
    let inspected = toolkit(at, &["inspect", "model.onnx", "--json"]);
    let inspected: Value = serde_json::from_str(stdout(&inspected)).unwrap();
    let manifest = &inspected["manifest"];
    assert_eq!(
        (&manifest["choice"]["images"], &manifest["robustness"]["images"]),
        (&21.into(), &21.into()),
        "{manifest}"
    );
    let degraded = manifest["robustness"]["degraded"].as_array().unwrap();
    let names: Vec<&str> = degraded.iter().map(|one| one["degradation"].as_str().unwrap()).collect();
    assert_eq!(names, ["reduced", "noise", "jpeg"]);

    // The features are those of the degraded images.
    let weights = Weights::read(&path).unwrap();
    let options = ImportOptions {
        name: "weights".to_owned(),
        classes: None,
        input: Input::default(),
        loss: Loss::new(Variant::Paper),
    };
    let mut checkpoint = import::checkpoint(&weights, &options).unwrap();
    let known = KnownData { protocol: "cac-2021/0".parse().ok(), ..KnownData::new(at) };
    let images = known.training(&checkpoint.facts.input).unwrap();
    let calibration = Calibration {
        images: &images,
        class_means: true,
        mirrored: true,
        keep: 0.95,
        provider: Provider::Cpu,
    };
    let mut done = 0;
    import::calibrate(&mut checkpoint, &calibration, |more| done += more).unwrap();
    assert_eq!(done, calibration.work());
    let model = at.join("again.onnx");
    export(&checkpoint, &ExportOptions::default(), &model).unwrap();
    let scorer = Scorer::open(&model, Provider::Cpu).unwrap();
    let options = EvaluateOptions { keep_features: true, ..EvaluateOptions::default() };
    let computed = |images: &Dataset| outputs(&scorer, images, options, |_| {}).unwrap().features.unwrap();
    let (plain, features) = (computed(&images), checkpoint.features.unwrap());
    for (degradation, found) in &features.degraded {
        let degraded = computed(&images.clone().degraded(*degradation));
        for (row, original) in found.rows().into_iter().zip(features.calibrating.rows()) {
            let index = plain.rows().into_iter().position(|other| other == original).unwrap();
            assert!(row == degraded.row(index) && row != original, "{degradation:?} {index}");
        }
    }
}

#[test]
fn unusable_weights_and_data_are_reported() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    small_cifar(at, 40);
    let run = |args: &[&str]| {
        let output = toolkit(at, &[&["import"], args].concat());
        error(&output)
    };
    let file = |name: &str| golden("checkpoints").join(name).to_str().unwrap().to_owned();
    let (legacy, evil, strided) = (file("cac-legacy.pth"), file("evil.pt"), file("strided.pt"));
    assert!(run(&[&legacy, "m.onnx"]).contains("needs 19 images to choose from; there are 0"));
    let refused = run(&[&evil, "m.onnx", "--threshold", "1"]);
    assert!(refused.contains("it holds no tensors, only a call to `posix.system`"), "{refused}");
    let refused = run(&[&file("layouts/script.pt"), "m.onnx", "--threshold", "1"]);
    assert!(refused.contains("it is a TorchScript archive"), "{refused}");
    let refused = run(&[&file("layouts/resnet.pt"), "m.onnx", "--threshold", "1"]);
    assert!(refused.contains("the weights of no known network"), "{refused}");
    assert!(refused.contains("found `state_dict.encoder.bn1.weight`, "), "{refused}");
    fs::create_dir(at.join("empty")).unwrap();
    assert!(run(&["empty", "m.onnx"]).contains("`empty` is a folder without `checkpoint.safetensors`"));
    // Weights that are not finite.
    let mut weights = Weights::read(&golden("checkpoints/wrn.pt")).unwrap();
    let shape = weights.get("bn1.bias").unwrap().shape.clone();
    weights.insert("bn1.bias", &shape, vec![f32::INFINITY; shape[0]]);
    weights.write(&at.join("infinite.safetensors")).unwrap();
    let refused = run(&["infinite.safetensors", "m.onnx", "--threshold", "1"]);
    assert!(refused.contains("tensor `bn1.bias` holds inf"), "{refused}");
    assert!(run(&[&strided, "m.onnx", "--threshold", "1"]).contains("the weights of no known network"));
    assert!(
        run(&[&legacy, "m.onnx", "--threshold", "1", "--classes", "a,b"])
            .contains("the weights are for 6 classes")
    );
    let refused = run(&[&file("cac-zip.pth"), "m.onnx", "--threshold", "1", "--size", "64"]);
    assert!(refused.contains("--size 64: the weights fix the size at 32 pixels"), "{refused}");
    // Ten classes in the data, six in the network.
    assert!(run(&[&legacy, "m.onnx", "--known", "."]).contains("the weights are for 6 classes"));
    assert!(run(&["no.pt", "m.onnx"]).contains("cannot read `no.pt`"));
    let cut = fs::read(&legacy).unwrap();
    fs::write(at.join("cut.pth"), &cut[..cut.len() / 2]).unwrap();
    assert!(run(&["cut.pth", "m.onnx", "--threshold", "1"]).contains("is truncated"));
    assert!(!at.join("m.onnx").exists());
}

#[test]
fn published_weights_are_downloaded_once() {
    use std::{
        io::{Read, Write},
        net::TcpListener,
        process::Command,
    };
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let import = |mirror: &str| {
        Command::new(env!("CARGO_BIN_EXE_toolkit"))
            .args(["import", "cifar10-pixmix", "model.onnx", "--score", "msp", "--threshold", "-0.5"])
            .env("CAC_WEIGHTS_MIRROR", mirror)
            .env("XDG_CACHE_HOME", at.join("cache"))
            .current_dir(at)
            .output()
            .unwrap()
    };
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let read = stream.read(&mut [0; 4096]).unwrap();
        assert!(read > 0);
        let file = fs::read(golden("checkpoints/wrn-pixmix.pt")).unwrap();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", file.len());
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&file).unwrap();
    });
    stdout(&import(&url));
    server.join().unwrap();
    let model = fs::read(at.join("model.onnx")).unwrap();
    // The second import uses the cache.
    stdout(&import(&url));
    assert!(fs::read(at.join("model.onnx")).unwrap() == model);
    fs::remove_dir_all(at.join("cache")).unwrap();
    let output = import("http://127.0.0.1:1");
    assert!(error(&output).contains("cannot fetch `http://127.0.0.1:1/cifar10-pixmix.pt`"));
    assert!(stderr(&output).contains("hint: run the command again"));
}
