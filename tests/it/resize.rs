//! Models that resize images in the graph.

use std::fs;

use cac::{
    Error, Provider, Scorer,
    export::{ExportOptions, InputForm, ThresholdRule},
    image::{self, Filter, Fit, Input, Resize, RgbImage},
    method::Variant,
    run::Checkpoint,
    scorer::Outputs,
};
use ndarray::Array4;
use prost::Message;
use serde_json::Value;
use tract_onnx::pb::{AttributeProto, ModelProto, NodeProto, TensorProto};

use crate::{
    PROVIDERS, checkpoint,
    commands::{error, images, stderr, stdout, toolkit, trained},
    golden, model_file,
};

fn exported(checkpoint: &Checkpoint, input: InputForm, batch: Option<usize>) -> Vec<u8> {
    let threshold = ThresholdRule::Keep(0.5);
    model_file(checkpoint, &ExportOptions { input, batch, threshold, ..ExportOptions::default() })
}

/// Photographs of many shapes, some of them equal.
fn photographs() -> Vec<RgbImage> {
    let mut photographs = Vec::new();
    for (name, sizes) in [
        ("blotchy_0128.jpg", [(300, 400), (300, 400), (32, 32), (400, 90)]),
        ("bumpy_0176.jpg", [(61, 97), (17, 23), (120, 300), (36, 36)]),
        ("crystalline_0160.jpg", [(97, 61), (5, 200), (200, 5), (1, 1)]),
    ] {
        let whole = image::open(golden("images").join(name)).unwrap();
        let cut = |(width, height): (u32, u32)| {
            RgbImage::from_fn(width, height, |x, y| *whole.get_pixel(x % whole.width(), y % whole.height()))
        };
        photographs.extend(sizes.map(cut));
    }
    photographs
}

/// Images resized by the toolkit.
fn pixels(images: &[RgbImage], input: &Input) -> Array4<u8> {
    let bytes = images.iter().flat_map(|image| image::pixels(image, input)).collect();
    Array4::from_shape_vec((images.len(), 3, input.height, input.width), bytes).unwrap()
}

fn assert_close(found: &Outputs, expected: &Outputs, what: &str) {
    for (found, expected) in found.score.iter().zip(&expected.score) {
        assert!((found - expected).abs() <= 1e-4 * expected.abs().max(1.0), "{what}: {found} {expected}");
    }
    assert_eq!((&found.label, &found.unknown), (&expected.label, &expected.unknown), "{what}");
}

#[test]
fn a_model_that_resizes_agrees_with_the_plain_one() {
    let photographs = photographs();
    for (fit, filter) in [
        (Fit::Stretch, Filter::Bilinear),
        (Fit::Crop { share: 0.875 }, Filter::Bicubic),
        (Fit::Pad, Filter::Bicubic),
    ] {
        let mut checkpoint = checkpoint(2, Variant::Paper);
        let input = Input { resize: Resize { fit, filter }, ..checkpoint.facts.input };
        checkpoint.facts.input = input;
        let plain = exported(&checkpoint, InputForm::Bytes, None);
        let prepared = pixels(&photographs, &input);
        for batch in [None, Some(2)] {
            let model = exported(&checkpoint, InputForm::AnySize, batch);
            for provider in PROVIDERS {
                let what = format!("{fit} {batch:?} {provider}");
                let expected = Scorer::from_bytes(&plain, provider).unwrap().score_u8(prepared.view());
                let expected = expected.unwrap();
                let scorer = Scorer::from_bytes(&model, provider).unwrap();
                let found = scorer.score_originals(&photographs).unwrap();
                assert_close(&found, &expected, &what);
                // The bytes are the same, and tract computes every image in the same way.
                if provider == Provider::Cpu && batch.is_none() {
                    assert_eq!(found, expected, "{what}");
                }
                // Resized images are left as they are.
                assert_close(&scorer.score_u8(prepared.view()).unwrap(), &expected, &what);
                let floats = prepared.mapv(image::unit);
                assert_close(&scorer.score(floats.view()).unwrap(), &expected, &what);
                let verdict = scorer.score_image(&photographs[3]).unwrap();
                assert_eq!(verdict.unknown, expected.unknown[3], "{what}");
                assert_eq!(scorer.score_originals(&[]).unwrap().score.len(), 0);
                assert!(scorer.verify().unwrap() < 1e-4, "{what}");
                scorer.warm_up(3).unwrap();
            }
        }
        // A model that does not resize takes originals too.
        let scorer = Scorer::from_bytes(&plain, Provider::Cpu).unwrap();
        assert_eq!(scorer.score_originals(&photographs).unwrap(), scorer.score_u8(prepared.view()).unwrap());
    }
}

#[test]
fn tensors_may_be_stored_in_typed_fields() {
    const INT64: i32 = 7;
    let file = exported(&checkpoint(1, Variant::Paper), InputForm::AnySize, None);
    let mut model = ModelProto::decode(&file[..]).unwrap();
    let constants = &mut model.graph.as_mut().unwrap().initializer;
    let mut changed = 0;
    for tensor in
        constants.iter_mut().filter(|tensor| tensor.data_type == INT64 && !tensor.raw_data.is_empty())
    {
        let bytes = std::mem::take(&mut tensor.raw_data);
        tensor.int64_data = bytes.as_chunks().0.iter().map(|&value| i64::from_le_bytes(value)).collect();
        changed += 1;
    }
    assert!(changed > 3, "{changed}");
    let changed = model.encode_to_vec();
    let photographs = &photographs()[..3];
    for provider in PROVIDERS {
        let [expected, found] = [&file, &changed]
            .map(|bytes| Scorer::from_bytes(bytes, provider).unwrap().score_originals(photographs).unwrap());
        assert_close(&found, &expected, &provider.to_string());
    }
}

#[test]
fn a_model_that_resizes_differently_fails_verification() {
    let file = exported(&checkpoint(1, Variant::Paper), InputForm::AnySize, None);
    let mut model = ModelProto::decode(&file[..]).unwrap();
    let constants = &mut model.graph.as_mut().unwrap().initializer;
    // Bytes are rounded down instead of to the nearest; images of the input's size stay as they are.
    let half = constants.iter_mut().find(|tensor| tensor.name == "cac/resize/float/0.5").unwrap();
    half.raw_data = 0.0_f32.to_le_bytes().to_vec();
    let changed = model.encode_to_vec();
    for provider in PROVIDERS {
        assert!(Scorer::from_bytes(&file, provider).unwrap().verify().unwrap() < 1e-4);
        let error = Scorer::from_bytes(&changed, provider).unwrap().verify().unwrap_err();
        assert!(
            matches!(error, Error::Differs { what: "norms of the logits after resizing", .. }),
            "{provider}: {error}"
        );
    }
}

/// A model that fails on images with fewer rows than 40, as it might on very large ones.
fn failing_on_low_images() -> Vec<u8> {
    let file = exported(&checkpoint(1, Variant::Paper), InputForm::AnySize, None);
    let mut model = ModelProto::decode(&file[..]).unwrap();
    let graph = model.graph.as_mut().unwrap();
    let position = graph.node.iter().position(|node| node.name == "cac/input/resized").unwrap();
    graph.node[position].output = vec!["resized".to_owned()];
    let node = |op: &str, inputs: &[&str], output: &str, attribute: Vec<AttributeProto>| NodeProto {
        op_type: op.to_owned(),
        name: format!("added {output}"),
        input: inputs.iter().map(|&input| input.to_owned()).collect(),
        output: vec![output.to_owned()],
        attribute,
        ..NodeProto::default()
    };
    let int = |name: &str, value: i64| AttributeProto {
        name: name.to_owned(),
        r#type: 2,
        i: value,
        ..AttributeProto::default()
    };
    let axes = AttributeProto {
        name: "axes".to_owned(),
        r#type: 7,
        ints: vec![1, 2, 3],
        ..AttributeProto::default()
    };
    let added = [
        node("Gather", &["images", "row"], "row/bytes", vec![int("axis", 1)]),
        node("Cast", &["row/bytes"], "row/floats", vec![int("to", 1)]),
        node("ReduceMax", &["row/floats"], "row/greatest", vec![axes, int("keepdims", 1)]),
        node("Mul", &["row/greatest", "zero"], "row/zero", Vec::new()),
        node("Add", &["resized", "row/zero"], "cac/input/resized", Vec::new()),
    ];
    graph.node.splice(position + 1..position + 1, added);
    let tensor = |name: &str, data_type: i32, dims: Vec<i64>, raw_data: Vec<u8>| TensorProto {
        name: name.to_owned(),
        data_type,
        dims,
        raw_data,
        ..TensorProto::default()
    };
    graph.initializer.push(tensor("row", 7, vec![1], 39_i64.to_le_bytes().to_vec()));
    graph.initializer.push(tensor("zero", 1, vec![], 0.0_f32.to_le_bytes().to_vec()));
    model.encode_to_vec()
}

#[test]
fn an_image_that_the_runtime_cannot_resize_costs_no_other_verdict() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    fs::write(at.join("model.onnx"), failing_on_low_images()).unwrap();
    for (name, height) in [("a.png", 50), ("b.png", 20), ("c.png", 60), ("d.png", 20)] {
        RgbImage::from_pixel(30, height, ::image::Rgb([90, 20, 200])).save(at.join(name)).unwrap();
    }
    let score = |images: &[&str]| {
        let args = [&["score", "--provider", "onnxruntime", "model.onnx"], images].concat();
        toolkit(at, &args)
    };
    let output = score(&["a.png", "b.png", "c.png", "d.png"]);
    let said = stderr(&output);
    let lines: Vec<&str> = std::str::from_utf8(&output.stdout).unwrap().lines().collect();
    assert!(
        lines.len() == 2 && lines[0].starts_with("a.png\t") && lines[1].starts_with("c.png\t"),
        "{lines:?} {said}"
    );
    assert!(said.contains("`b.png`: ONNX Runtime failed: ") && said.contains("`d.png`: "), "{said}");
    assert!(error(&output).ends_with("2 of 4 images cannot be scored"), "{said}");
    assert!(error(&score(&["b.png"])).ends_with("the image cannot be scored"));
    // Beside one that cannot be read.
    fs::write(at.join("no.png"), "no image").unwrap();
    let output = score(&["no.png", "b.png"]);
    assert!(stderr(&output).contains("`no.png` is not an image") && stderr(&output).contains("`b.png`: "));
    assert!(error(&output).ends_with("2 of 2 images cannot be scored"));
}

#[test]
fn tract_resizes_only_by_the_nodes_of_others() {
    let own = exported(&checkpoint(1, Variant::Paper), InputForm::AnySize, None);
    let resizes = |bytes: &[u8], provider| Scorer::from_bytes(bytes, provider).unwrap().resizes();
    assert!(!resizes(&own, Provider::Cpu) && resizes(&own, Provider::OnnxRuntime));
    assert!(resizes(&failing_on_low_images(), Provider::Cpu));
    let floats = exported(&checkpoint(1, Variant::Paper), InputForm::Floats, None);
    assert!(PROVIDERS.iter().all(|&provider| !resizes(&floats, provider)));
}

#[test]
fn both_orders_of_resizing_are_verified() {
    let file = exported(&checkpoint(1, Variant::Paper), InputForm::AnySize, None);
    // Images of the model's own size take the second branch.
    for (branch, expected) in
        ["norms of the logits after resizing", "norms of the logits"].into_iter().enumerate()
    {
        let mut model = ModelProto::decode(&file[..]).unwrap();
        let nodes = &mut model.graph.as_mut().unwrap().node;
        let joined = nodes.iter().find(|node| node.name == "cac/input/resized").unwrap();
        let resized = joined.input[branch].clone();
        let last = nodes.iter_mut().find(|node| node.output.contains(&resized)).unwrap();
        let order = last.attribute.iter_mut().find(|attribute| attribute.name == "perm").unwrap();
        // Rows become columns.
        order.ints.swap(2, 3);
        let error = Scorer::from_bytes(&model.encode_to_vec(), Provider::Cpu).unwrap().verify().unwrap_err();
        assert!(matches!(error, Error::Differs { what, .. } if what == expected), "{error}");
    }
}

#[test]
fn an_empty_image_is_black() {
    let scorer = |input| {
        let bytes = exported(&checkpoint(1, Variant::Paper), input, None);
        Scorer::from_bytes(&bytes, Provider::Cpu).unwrap()
    };
    let [plain, resizing] = [InputForm::Bytes, InputForm::AnySize].map(scorer);
    let empty = RgbImage::new(0, 5);
    assert_eq!(resizing.score_image(&empty).unwrap().score, plain.score_image(&empty).unwrap().score);
}

#[test]
fn every_command_accepts_a_model_that_resizes() {
    let folder = trained();
    let at = folder.path();
    images(at);
    stdout(&toolkit(at, &["export", "plain.onnx", "--input", "u8", "--threshold", "1.5"]));
    let export = ["export", "any.onnx", "--resize", "--threshold", "1.5", "--triton", "models"];
    let output = toolkit(at, &export);
    let line =
        "resizing with tract: 0 of 27648 values differ from the toolkit's, on 9 images of other sizes\n";
    assert!(stdout(&output).contains(line), "{}", stdout(&output));

    let text = toolkit(at, &["inspect", "any.onnx"]);
    for line in [
        "input      images uint8 [N, H, W, 3], RGB, of any height and width\n",
        "resize     bilinear, to 32 x 32 pixels; the aspect ratio is not kept, in the graph\n",
        "resizing   0 of 27648 values of 9 images differed from the toolkit's\n",
    ] {
        assert!(stdout(&text).contains(line), "{line}: {}", stdout(&text));
    }
    let json = toolkit(at, &["inspect", "any.onnx", "--json"]);
    let json: Value = serde_json::from_str(stdout(&json)).unwrap();
    assert_eq!(json["manifest"]["resizes"], true);
    assert_eq!(json["manifest"]["resize_check"]["differing"], 0);
    assert_eq!(json["input"], "any-size");
    let config = fs::read_to_string(at.join("models/any/config.pbtxt")).unwrap();
    assert!(config.contains("data_type: TYPE_UINT8 dims: [ -1, -1, 3 ]"), "{config}");

    let data = ["--known", "known", "--unknown", "other=other", "--unknown", "uniform-noise:5", "--json"];
    let output = toolkit(at, &[&["eval", "plain.onnx", "any.onnx"], &data[..]].concat());
    let second: Value = serde_json::from_str(stdout(&output).lines().nth(1).unwrap()).unwrap();
    let agreement = &second["agreement"];
    assert_eq!(agreement["greatest_score_difference"], 0.0, "{agreement}");
    assert_eq!((&agreement["label_flips"], &agreement["unknown_flips"]), (&0.into(), &0.into()));

    // A fixed batch is filled with as many images as it takes, and a second input does no harm.
    let export =
        ["export", "open.onnx", "--resize", "--threshold", "1.5", "--threshold-input", "--batch", "64"];
    stdout(&toolkit(at, &export));
    let open = Scorer::open(at.join("open.onnx"), Provider::Cpu).unwrap();
    assert_eq!(open.preferred_batch() % 64, 0);

    let photograph = golden("images/bumpy_0176.jpg");
    let score = |model: &str| {
        let output = toolkit(at, &["score", "--json", model, photograph.to_str().unwrap()]);
        stdout(&output).to_owned()
    };
    assert_eq!(score("any.onnx"), score("plain.onnx"));
    assert_eq!(score("open.onnx"), score("plain.onnx"));
    assert!(stdout(&toolkit(at, &["verify", "any.onnx", "--json"])).contains("\"difference\":0.0"));
    let report = ["report", "any.onnx", "--known", "known", "--unknown", "other=other"];
    stdout(&toolkit(at, &report));
    assert!(fs::read_to_string(at.join("report.html")).unwrap().contains("the graph resizes images"));
}

#[test]
fn invalid_uses_of_resize_are_errors() {
    let folder = trained();
    let at = folder.path();
    let floats = error(&toolkit(at, &["export", "m.onnx", "--resize", "--input", "f32"]));
    assert_eq!(floats, "error: --resize cannot be combined with `--input f32`");
    stdout(&toolkit(at, &["export", "m.onnx", "--resize", "--input", "u8"]));
    // A default value is a mistake, too.
    for flag in ["--resize", "--mirror", "--keep=0.95", "--calibration-images=9"] {
        let weights = error(&toolkit(at, &["export", "w.safetensors", flag]));
        let name = flag.split('=').next().unwrap();
        assert!(weights.contains(&format!("{name} is for a model file, not for weights")), "{weights}");
    }
    let file = golden("checkpoints/wrn.pt");
    let import = ["import", file.to_str().unwrap(), "i.onnx", "--threshold", "1", "--resize"];
    let tiny = error(&toolkit(at, &[&import[..], &["--fit", "crop:0.0001"]].concat()));
    assert_eq!(tiny, "error: crop = 0.0001: enlarges images to more pixels than an image may have");
    assert!(!at.join("i.onnx").exists());

    // The metadata and the graph must agree.
    let model = |input| exported(&checkpoint(1, Variant::Paper), input, None);
    let changed = |bytes: &[u8], change: &dyn Fn(&mut ModelProto)| {
        let mut model = ModelProto::decode(bytes).unwrap();
        change(&mut model);
        match Scorer::from_bytes(&model.encode_to_vec(), Provider::Cpu).unwrap_err() {
            Error::Model { reason, .. } => reason,
            error => panic!("{error}"),
        }
    };
    let any = model(InputForm::AnySize);
    let reason = changed(&any, &|model| model.metadata_props.retain(|entry| entry.key != "cac.resizes"));
    assert!(reason.contains("its input is `images` uint8 [?, ?, ?, 3]"), "{reason}");
    let reason = changed(&model(InputForm::Bytes), &|model| {
        let entry = tract_onnx::pb::StringStringEntryProto {
            key: "cac.resizes".to_owned(),
            value: "true".to_owned(),
        };
        model.metadata_props.push(entry);
    });
    assert!(reason.contains("its input is `images` uint8 [?, 32, 32, 3]"), "{reason}");
    let reason = changed(&any, &|model| {
        let nodes = &mut model.graph.as_mut().unwrap().node;
        let node = nodes.iter_mut().find(|node| node.name == "cac/input/resized").unwrap();
        node.output[0] = "elsewhere".to_owned();
    });
    assert!(reason.contains("no node computes `cac/input/resized`"), "{reason}");
}
