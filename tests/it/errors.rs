//! The errors of the library, each provoked by a test; downloads, data sets by name, divergence and
//! signatures are tested with their features.

use std::fs;

use cac::{
    Difference, Error, Provider, Scorer,
    data::{Dataset, Split},
    eval::{self, EvaluateOptions, feature_file::FeatureFile, score_file},
    export::{self, ExportOptions, ThresholdRule},
    image::{self, Input},
    method::Variant,
    metrics::Metrics,
    model::{Inspection, ModelPrecision, golden::GoldenBatch},
    run::{Checkpoint, CheckpointKind, RunFolder},
    weights::Weights,
};
use ndarray::Array4;
use prost::Message;

use crate::{checkpoint, formats::replaced, golden};

fn model() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    export::export(&checkpoint(1, Variant::Paper), &ExportOptions::default(), &path).unwrap();
    fs::read(path).unwrap()
}

#[test]
fn a_missing_file_is_an_io_error() {
    let error = Scorer::open("/no/such/model.onnx", Provider::Cpu).unwrap_err();
    assert!(matches!(error, Error::Io { action: "read", .. }));
    assert!(error.to_string().starts_with("cannot read `/no/such/model.onnx`: "), "{error}");
}

#[test]
fn a_folder_at_the_output_path_is_not_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    fs::create_dir(&path).unwrap();
    let error = export::export(&checkpoint(1, Variant::Paper), &ExportOptions::default(), &path).unwrap_err();
    assert!(matches!(error, Error::Io { action: "write", .. }), "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn truncated_and_oversized_images_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image.png");
    let jpeg = fs::read(golden("images/bumpy_0176.jpg")).unwrap();
    let mut png = std::io::Cursor::new(Vec::new());
    ::image::load_from_memory(&jpeg).unwrap().write_to(&mut png, ::image::ImageFormat::Png).unwrap();
    let png = png.into_inner();
    let mut cases = vec![b"".to_vec(), b"no image".to_vec()];
    for whole in [&jpeg, &png] {
        cases.extend([3, 20, 300, whole.len() / 2, whole.len() - 20].map(|length| whole[..length].to_vec()));
    }
    for bytes in cases {
        fs::write(&path, &bytes).unwrap();
        let Err(error) = image::open(&path) else { panic!("{} bytes were accepted", bytes.len()) };
        assert!(matches!(error, Error::Image { .. }), "{error}");
        assert!(error.to_string().contains("image.png"), "{error}");
    }
    // A small file whose image exceeds the size limit.
    ::image::RgbImage::new(1, 70_000).save(&path).unwrap();
    assert!(matches!(image::open(&path).unwrap_err(), Error::Image { .. }));
    fs::write(&path, &jpeg).unwrap();
    assert_eq!(
        image::open(&path).unwrap().dimensions(),
        (300, 300),
        "the content determines the format, not the name"
    );
}

#[test]
fn unusable_data_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let open =
        |name: &str| Dataset::known(&folder.path().join(name), Split::Test, &Input::default()).unwrap_err();
    fs::create_dir_all(folder.path().join("empty")).unwrap();
    let error = open("empty");
    assert!(matches!(error, Error::NoLayout { .. }), "{error}");
    for class in ["a", "b"] {
        fs::create_dir_all(folder.path().join("classes").join(class)).unwrap();
    }
    let error = open("classes");
    assert!(matches!(error, Error::NoImages { .. }), "{error}");
    fs::write(folder.path().join("file"), "text").unwrap();
    let error = open("file");
    assert!(matches!(error, Error::Dataset { .. }), "{error}");
}

#[test]
fn a_missing_split_is_an_error() {
    let folder = golden("../../examples/demo/textures");
    let error = Dataset::known(&folder, Split::Train, &Input::default()).unwrap_err();
    assert!(matches!(error, Error::Undivided { .. }), "{error}");
    assert!(
        error.to_string().contains("is not divided into training and test images: it has class folders `"),
        "{error}"
    );
}

#[test]
fn a_truncated_archive_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.zip");
    fs::write(&path, b"PK\x03\x04").unwrap();
    let error = cac::files::archive::unpack(&path, folder.path(), &mut |_, _| ()).unwrap_err();
    assert!(matches!(error, Error::Archive { .. }) && error.to_string().contains("a.zip"), "{error}");
}

#[test]
fn weights_that_do_not_fit_are_refused() {
    let error = Weights::read(&golden("make.py")).unwrap_err();
    assert!(matches!(error, Error::Weights { .. }) && error.to_string().contains("make.py"), "{error}");

    let strided = Weights::read(&golden("checkpoints/strided.pt")).unwrap();
    assert!(matches!(strided.recognize(), Err(Error::UnknownNetwork { .. })));

    let mut other = checkpoint(1, Variant::Paper);
    other.network.insert("fc.weight", &[2, 64], vec![0.0; 128]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("never.onnx");
    let error = export::export(&other, &ExportOptions::default(), &path).unwrap_err();
    assert!(error.to_string().contains("`fc.weight` has shape [2, 64], expected [3, 64]"), "{error}");
}

#[test]
fn foreign_and_damaged_models_are_refused() {
    let bytes = model();
    let open = |bytes: &[u8]| Scorer::from_bytes(bytes, Provider::Cpu).unwrap_err();
    for length in [0, 1, 100, bytes.len() / 2, bytes.len() - 1] {
        assert!(matches!(open(&bytes[..length]), Error::Model { .. }), "{length} bytes");
    }
    assert!(matches!(open(&vec![7; 4096]), Error::Model { .. }));
    // A foreign ONNX file: this one with our metadata renamed.
    let foreign = replace(&bytes, b"cac.", b"cab.");
    assert!(open(&foreign).to_string().contains("not a model of this toolkit"));
    // A graph that does not fit its metadata.
    assert!(matches!(open(&replace(&bytes, b"distances", b"distancez")), Error::Model { .. }));
}

#[test]
fn malformed_graphs_are_errors() {
    use tract_onnx::pb::{ModelProto, NodeProto, TensorProto};

    let bytes = model();
    let open = |change: &dyn Fn(&mut ModelProto)| {
        let mut proto = ModelProto::decode(&bytes[..]).unwrap();
        change(&mut proto);
        let bytes = proto.encode_to_vec();
        Scorer::from_bytes(&bytes, Provider::Cpu)
            .and_then(|scorer| scorer.score(Array4::zeros((1, 3, 32, 32)).view()).map(drop))
    };
    open(&|_| ()).unwrap();
    let ints = |op: &'static str, name: &'static str, value: i64| {
        move |proto: &mut ModelProto| {
            let nodes: &mut Vec<NodeProto> = &mut proto.graph.as_mut().unwrap().node;
            let node = nodes.iter_mut().find(|node| node.op_type == op).unwrap();
            let attribute = node.attribute.iter_mut().find(|attribute| attribute.name == name).unwrap();
            attribute.i = value;
            attribute.ints.fill(value);
        }
    };
    for (op, name, value) in [
        ("Conv", "strides", 0),
        ("Conv", "pads", 100_000),
        ("Conv", "kernel_shape", 7),
        ("ArgMin", "axis", 7),
        ("Flatten", "axis", 9),
        ("ReduceMin", "axes", -9),
    ] {
        let error = open(&ints(op, name, value)).unwrap_err();
        assert!(
            matches!(error, Error::Model { .. } | Error::Unsupported { .. } | Error::Runtime { .. }),
            "{op} {name} {value}: {error}"
        );
    }
    let changes: [&dyn Fn(&mut ModelProto); 4] = [
        &|proto| proto.graph = None,
        &|proto| proto.graph.as_mut().unwrap().node.clear(),
        &|proto| proto.graph.as_mut().unwrap().node[9].input[0] = "nowhere".to_owned(),
        &|proto| proto.graph.as_mut().unwrap().initializer.iter_mut().for_each(|tensor| tensor.data_type = 8),
    ];
    // An input that would need hundreds of gigabytes.
    let error = open(&|proto| {
        use tract_onnx::pb::{
            tensor_shape_proto::{Dimension, dimension::Value},
            type_proto,
        };
        let input = &mut proto.graph.as_mut().unwrap().input[0];
        let Some(type_proto::Value::TensorType(tensor)) = &mut input.r#type.as_mut().unwrap().value else {
            panic!()
        };
        let length = |length| Dimension { value: Some(Value::DimValue(length)), ..Dimension::default() };
        tensor.shape.as_mut().unwrap().dim = [4096, 3, 4096, 4096].map(length).to_vec();
        let stated = proto.metadata_props.iter_mut().find(|entry| entry.key == "cac.input").unwrap();
        stated.value = stated.value.replace("32", "4096");
    });
    assert!(error.unwrap_err().to_string().contains("images, more than 5"));
    // The names of axes are not parsed: nested parentheses would overflow the stack.
    open(&|proto| {
        use tract_onnx::pb::{
            TensorShapeProto, TypeProto, ValueInfoProto,
            tensor_shape_proto::{Dimension, dimension::Value},
            type_proto,
        };
        let name = Value::DimParam("(".repeat(200_000));
        let axis = Dimension { value: Some(name), ..Dimension::default() };
        let graph = proto.graph.as_mut().unwrap();
        let inner = graph.node[0].output[0].clone();
        let shape = Some(TensorShapeProto { dim: vec![axis.clone()] });
        let tensor = type_proto::Value::TensorType(type_proto::Tensor { elem_type: 1, shape });
        let r#type = Some(TypeProto { value: Some(tensor), ..TypeProto::default() });
        graph.value_info.push(ValueInfoProto { name: inner, r#type, ..ValueInfoProto::default() });
        for value in graph.input.iter_mut().chain(&mut graph.output) {
            let Some(type_proto::Value::TensorType(tensor)) = &mut value.r#type.as_mut().unwrap().value
            else {
                panic!()
            };
            tensor.shape.as_mut().unwrap().dim[0] = axis.clone();
        }
    })
    .unwrap();
    let threshold_of = |change: &dyn Fn(&mut TensorProto)| {
        open(&|proto| {
            let tensors = &mut proto.graph.as_mut().unwrap().initializer;
            change(tensors.iter_mut().find(|tensor| tensor.name == "threshold").unwrap());
        })
    };
    threshold_of(&|tensor| tensor.raw_data = 2.0_f32.to_le_bytes().to_vec()).unwrap();
    let error = threshold_of(&|tensor| tensor.float_data = vec![2.0]).unwrap_err();
    assert!(error.to_string().contains("has values in `raw_data` and in another field"), "{error}");
    let error = threshold_of(&|tensor| tensor.raw_data = f32::NAN.to_le_bytes().to_vec()).unwrap_err();
    assert!(error.to_string().contains("its tensor `threshold` is NaN"), "{error}");
    // Dimensions whose product overflows can still be inspected.
    let mut endless = ModelProto::decode(&bytes[..]).unwrap();
    endless.graph.as_mut().unwrap().initializer[0].dims = vec![i64::MAX; 3];
    assert_eq!(Inspection::of(&endless.encode_to_vec(), "x").unwrap().parameters, usize::MAX);
    for change in changes {
        let error = open(change).unwrap_err();
        assert!(
            matches!(error, Error::Model { .. } | Error::Unsupported { .. } | Error::Runtime { .. }),
            "{error}"
        );
    }
}

#[test]
fn a_model_with_non_finite_numbers_is_refused() {
    use half::{bf16, f16};
    use tract_onnx::pb::{
        AttributeProto, ModelProto, SparseTensorProto, TensorProto, tensor_proto::DataType,
    };

    let tensor = |kind: DataType, raw_data: &[u8]| TensorProto {
        dims: vec![1],
        data_type: kind.into(),
        name: "odd".to_owned(),
        raw_data: raw_data.to_owned(),
        ..TensorProto::default()
    };
    let bytes = model();
    let refused = |tensor: TensorProto, in_attribute: bool| {
        let mut proto = ModelProto::decode(&bytes[..]).unwrap();
        let graph = proto.graph.as_mut().unwrap();
        if in_attribute {
            graph.node[0].attribute.push(AttributeProto { t: Some(tensor), ..AttributeProto::default() });
        } else {
            graph.initializer.push(tensor);
        }
        for provider in crate::PROVIDERS {
            let error = Scorer::from_bytes(&proto.encode_to_vec(), provider).unwrap_err();
            assert!(matches!(error, Error::Model { .. }), "{error}");
            assert!(error.to_string().contains("its tensor `odd` holds NaN or an infinity"), "{error}");
        }
    };
    let refused_in = |attribute: AttributeProto, reason: &str| {
        let mut proto = ModelProto::decode(&bytes[..]).unwrap();
        proto.graph.as_mut().unwrap().node[0].attribute.push(attribute);
        let error = Scorer::from_bytes(&proto.encode_to_vec(), Provider::Cpu).unwrap_err();
        assert!(matches!(error, Error::Model { .. }) && error.to_string().contains(reason), "{error}");
    };
    let odd = AttributeProto { name: "odd".to_owned(), ..AttributeProto::default() };
    let reason = "its attribute `odd` holds NaN or an infinity";
    refused_in(AttributeProto { f: f32::NAN, ..odd.clone() }, reason);
    refused_in(AttributeProto { floats: vec![1.0, f32::NEG_INFINITY], ..odd.clone() }, reason);
    refused_in(
        AttributeProto { sparse_tensors: vec![SparseTensorProto::default()], ..odd },
        "it has functions, control flow or sparse tensors",
    );
    refused(tensor(DataType::Float, &f32::NAN.to_le_bytes()), false);
    refused(tensor(DataType::Float, &f32::INFINITY.to_le_bytes()), true);
    refused(tensor(DataType::Double, &f64::NEG_INFINITY.to_le_bytes()), false);
    refused(tensor(DataType::Float16, &f16::NAN.to_le_bytes()), false);
    refused(tensor(DataType::Bfloat16, &bf16::INFINITY.to_le_bytes()), false);
    refused(TensorProto { float_data: vec![1.0, f32::NAN], ..tensor(DataType::Float, &[]) }, false);
    refused(TensorProto { double_data: vec![f64::NAN], ..tensor(DataType::Double, &[]) }, false);
    let infinite = i32::from(f16::INFINITY.to_bits());
    refused(TensorProto { int32_data: vec![infinite], ..tensor(DataType::Float16, &[]) }, false);
    // The largest float16 is finite, and integers may have any bits.
    let mut proto = ModelProto::decode(&bytes[..]).unwrap();
    let initializers = &mut proto.graph.as_mut().unwrap().initializer;
    initializers.push(tensor(DataType::Float16, &f16::MAX.to_le_bytes()));
    initializers
        .push(TensorProto { name: "bits".to_owned(), ..tensor(DataType::Int32, &f32::NAN.to_le_bytes()) });
    Scorer::from_bytes(&proto.encode_to_vec(), Provider::OnnxRuntime).unwrap();
}

#[test]
fn external_data_and_subgraphs_are_refused() {
    use tract_onnx::pb::{
        AttributeProto, GraphProto, ModelProto, StringStringEntryProto, TensorProto,
        tensor_proto::DataLocation,
    };

    let bytes = model();
    let open = |change: &dyn Fn(&mut ModelProto, TensorProto)| {
        let mut proto = ModelProto::decode(&bytes[..]).unwrap();
        let mut outside = proto.graph.as_ref().unwrap().initializer[0].clone();
        outside.raw_data.clear();
        outside.data_location = Some(DataLocation::External.into());
        let entry =
            |key: &str, value: &str| StringStringEntryProto { key: key.to_owned(), value: value.to_owned() };
        outside.external_data = vec![entry("location", "Cargo.toml"), entry("offset", "0")];
        change(&mut proto, outside);
        for provider in crate::PROVIDERS {
            let error = Scorer::from_bytes(&proto.encode_to_vec(), provider).unwrap_err();
            assert!(matches!(error, Error::Model { .. }), "{error}");
        }
    };
    open(&|proto, outside| proto.graph.as_mut().unwrap().initializer[0] = outside);
    let with = |proto: &mut ModelProto, attribute: AttributeProto| {
        proto.graph.as_mut().unwrap().node[0].attribute.push(attribute);
    };
    open(&|proto, outside| with(proto, AttributeProto { t: Some(outside), ..AttributeProto::default() }));
    open(&|proto, outside| {
        with(proto, AttributeProto { tensors: vec![outside], ..AttributeProto::default() })
    });
    let graph = || GraphProto::default();
    open(&|proto, _| with(proto, AttributeProto { g: Some(graph()), ..AttributeProto::default() }));
    open(&|proto, _| with(proto, AttributeProto { graphs: vec![graph()], ..AttributeProto::default() }));
}

#[test]
fn a_failing_runtime_is_an_error() {
    // Metadata with fewer classes than the graph computes: refused if the file states the widths.
    let bytes = replace(&model(), br#"["ant","bee","cow"]"#, br#"["ant","bee---cow"]"#);
    let error = Scorer::from_bytes(&bytes, Provider::Cpu).unwrap_err().to_string();
    assert!(error.ends_with("its output `logits` has 3 columns, expected 2 as in its metadata"), "{error}");
    let mut proto = tract_onnx::pb::ModelProto::decode(&bytes[..]).unwrap();
    let outputs = &mut proto.graph.as_mut().unwrap().output;
    let features = outputs.iter().find(|output| output.name == "features").unwrap().clone();
    outputs.iter_mut().for_each(|output| output.r#type = None);
    let error = Scorer::from_bytes(&proto.encode_to_vec(), Provider::Cpu).unwrap_err().to_string();
    assert!(error.ends_with("its output `features` does not state its number of columns"), "{error}");
    let outputs = &mut proto.graph.as_mut().unwrap().output;
    *outputs.iter_mut().find(|output| output.name == "features").unwrap() = features;
    let scorer = Scorer::from_bytes(&proto.encode_to_vec(), Provider::Cpu).unwrap();
    let error = scorer.score(Array4::zeros((1, 3, 32, 32)).view()).unwrap_err();
    assert!(matches!(error, Error::Runtime { runtime: "tract", .. }), "{error}");
    assert!(error.to_string().contains("a different number of classes"), "{error}");
}

#[test]
fn single_flipped_bytes_never_panic() {
    let bytes = model();
    let step = bytes.len() / 150;
    for at in (0..2000).step_by(31).chain((0..bytes.len()).step_by(step)) {
        let mut bytes = bytes.clone();
        bytes[at] ^= 0x15;
        // A changed weight is still a valid model; anything else is an error.
        if let Ok(scorer) = Scorer::from_bytes(&bytes, Provider::Cpu) {
            let _ = scorer.score(Array4::zeros((1, 3, 32, 32)).view());
        }
    }
}

#[test]
fn a_newer_format_version_is_refused() {
    let newer = replace(&model(), b"cac.format_version\x12\x012", b"cac.format_version\x12\x013");
    let error = Scorer::from_bytes(&newer, Provider::Cpu).unwrap_err();
    assert!(matches!(error, Error::FormatVersion { found: 3, supported: 2, .. }), "{error}");
}

#[test]
fn a_setting_out_of_range_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = checkpoint(1, Variant::Paper);
    for options in [
        ExportOptions { threshold: ThresholdRule::Keep(1.5), ..ExportOptions::default() },
        ExportOptions { batch: Some(0), ..ExportOptions::default() },
        ExportOptions { precision: ModelPrecision::Int8, ..ExportOptions::default() },
    ] {
        let error = export::export(&checkpoint, &options, &folder.path().join("never.onnx")).unwrap_err();
        assert!(matches!(error, Error::Setting { .. }), "{error}");
    }
}

#[test]
fn images_of_wrong_shape_or_with_values_out_of_range_are_refused() {
    let scorer = Scorer::from_bytes(&model(), Provider::Cpu).unwrap();
    // tract's Relu turns NaN into 0, which would give a verdict.
    for value in [f32::NAN, f32::INFINITY, 255.0, -2.1] {
        let error = scorer.score(Array4::from_elem((1, 3, 32, 32), value).view()).unwrap_err();
        assert!(matches!(error, Error::PixelRange { .. }), "{error}");
        assert_eq!(error.to_string(), format!("a value of an image is {value}, expected 0 to 1"));
    }
    scorer.score(Array4::from_elem((1, 3, 32, 32), 1.2).view()).unwrap();
    let error = scorer.score(Array4::zeros((2, 3, 32, 31)).view()).unwrap_err();
    assert_eq!(error.to_string(), "the batch of images has shape [2, 3, 32, 31], expected [N, 3, 32, 32]");
}

#[test]
fn a_damaged_feature_file_is_refused() {
    let error = FeatureFile::read(&golden("metrics.py")).unwrap_err();
    assert!(
        matches!(error, Error::FeatureFile { .. }) && error.to_string().contains("metrics.py"),
        "{error}"
    );
}

#[test]
fn a_damaged_score_file_is_refused() {
    let error = score_file::read(&golden("metrics.py"), "score", |_| Ok(())).unwrap_err();
    assert!(matches!(error, Error::ScoreFile { .. }) && error.to_string().contains("metrics.py"), "{error}");
}

#[test]
fn scores_without_known_images_are_refused() {
    assert!(matches!(Metrics::new::<f32>(&[], None, &[1.0]), Err(Error::Scores(_))));
}

#[test]
fn a_failing_self_check_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    fs::write(&path, "what was there").unwrap();
    let mut wrong = checkpoint(1, Variant::Paper);
    wrong.check.logits[[1, 2]] += 0.01;
    let error = export::export(&wrong, &ExportOptions::default(), &path).unwrap_err();
    assert!(matches!(error, Error::SelfCheck { what: "logits", .. }), "{error}");
    assert_eq!(fs::read(&path).unwrap(), b"what was there");
}

/// A model with the outputs of a runtime that computes the last layer wrongly.
pub fn with_changed_bias(model: &[u8]) -> Vec<u8> {
    let mut proto = tract_onnx::pb::ModelProto::decode(model).unwrap();
    let weights = &mut proto.graph.as_mut().unwrap().initializer;
    let bias = weights.iter_mut().find(|tensor| tensor.name == "fc.bias").unwrap();
    bias.raw_data[..4].copy_from_slice(&2.5_f32.to_le_bytes());
    proto.encode_to_vec()
}

#[test]
fn outputs_that_differ_from_the_golden_batch_are_an_error() {
    let bytes = model();
    for provider in crate::PROVIDERS {
        assert!(Scorer::from_bytes(&bytes, provider).unwrap().verify().unwrap() < 1e-4);
    }
    let refused = |bytes: &[u8]| Scorer::from_bytes(bytes, Provider::Cpu).unwrap().verify().unwrap_err();
    let error = refused(&with_changed_bias(&bytes));
    assert!(matches!(error, Error::Differs { what: "norms of the logits", .. }), "{error}");

    let scorer = Scorer::from_bytes(&bytes, Provider::Cpu).unwrap();
    let (runtime, expected) = (scorer.runtime(), scorer.manifest().history.golden.clone().unwrap());
    let refused_with = |change: &dyn Fn(&mut GoldenBatch)| {
        let mut batch = expected.clone();
        change(&mut batch);
        refused(&replaced(&bytes, "cac.golden", &serde_json::to_string(&batch).unwrap()))
    };
    let error = refused_with(&|batch| batch.score[0] += 0.01 * batch.score[0].abs().max(1.0));
    let Error::Differs { what: "scores", difference: Difference::Value(by), .. } = error else {
        panic!("{error}")
    };
    // 0.01, relative to the changed score.
    assert!((0.009..0.011).contains(&by), "{error}");
    let text = format!("scores differ by {by:.1e} for some of its golden images");
    assert_eq!(error.to_string(), format!("`memory` fails its check on {runtime}: {text}"));
    let error = refused_with(&|batch| batch.label[0] = (batch.label[0] + 1) % 3);
    assert!(
        matches!(error, Error::Differs { what: "classes", difference: Difference::Images(1), .. }),
        "{error}"
    );
    let text = "classes differ for 1 of its golden images";
    assert_eq!(error.to_string(), format!("`memory` fails its check on {runtime}: {text}"));
}

#[test]
fn a_missing_golden_batch_is_an_error() {
    let old = fs::read(golden("models/v1.onnx")).unwrap();
    let error = Scorer::from_bytes(&old, Provider::Cpu).unwrap().verify().unwrap_err();
    assert!(matches!(error, Error::NoGoldenBatch { .. }), "{error}");
}

#[test]
fn places_need_a_map() {
    let scorer = Scorer::from_bytes(&model(), Provider::Cpu).unwrap();
    let outputs = scorer.score(Array4::zeros((1, 3, 32, 32)).view()).unwrap();
    let error = scorer.places(&outputs).unwrap_err();
    assert_eq!(error.to_string(), "`memory` has no map of logits");
    assert!(matches!(scorer.check_places(), Err(Error::NoMap { .. })));
}

#[test]
fn broken_images_are_skipped_or_listed() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a/1.png", "a/2.png", "b/1.png"] {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        ::image::RgbImage::new(8, 8).save(path).unwrap();
    }
    for name in ["a/2.png", "b/1.png"] {
        fs::write(folder.path().join(name), "no image").unwrap();
    }
    let scorer = Scorer::from_bytes(&model(), Provider::Cpu).unwrap();
    let images = Dataset::known(folder.path(), Split::Test, &Input::default()).unwrap();
    let outputs = |skip_broken| {
        let options = EvaluateOptions { skip_broken, ..EvaluateOptions::default() };
        eval::outputs(&scorer, &images, options, |_| ())
    };
    assert_eq!(outputs(true).unwrap().indices, [0]);
    let error = outputs(false).unwrap_err();
    assert!(matches!(&error, Error::BrokenImages { errors } if errors.len() == 2), "{error}");
    let text = error.to_string();
    assert!(
        text.starts_with("2 images cannot be read:\n  `") && text.contains("a/2.png` is not an image"),
        "{text}"
    );
}

#[test]
fn too_few_held_out_images_are_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let mut few = checkpoint(1, Variant::Paper);
    few.features = None;
    let calibrating = &mut few.held_out.calibrating;
    *calibrating = calibrating.slice_axis(ndarray::Axis(0), (..18).into()).to_owned();
    let error = export::export(&few, &ExportOptions::default(), &folder.path().join("m.onnx")).unwrap_err();
    assert!(matches!(error, Error::TooFewHeldOut { found: 18, needed: 19, .. }), "{error}");
    assert_eq!(
        error.to_string(),
        "a threshold that keeps 95 % of known images needs 19 images to choose from; there are 18"
    );
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn an_unavailable_provider_is_an_error() {
    let error = Scorer::from_bytes(&model(), Provider::Cuda(99)).unwrap_err();
    assert!(matches!(error, Error::Provider { .. }), "{error}");
}

#[test]
fn a_sum_without_images_to_standardise_it_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let options = ExportOptions { score: Some("energy+knn:1".parse().unwrap()), ..ExportOptions::default() };
    let model = folder.path().join("never.onnx");
    let mut checkpoint = checkpoint(1, Variant::Paper);
    let features = checkpoint.features.as_mut().unwrap();
    features.choosing = features.choosing.slice_axis(ndarray::Axis(0), (..0).into()).to_owned();
    let error = export::export(&checkpoint, &options, &model).unwrap_err();
    assert!(matches!(&error, Error::Unstandardised { score } if score == "energy+knn:1"), "{error}");
}

#[test]
fn non_finite_thresholds_are_refused() {
    let mut scorer = Scorer::from_bytes(&model(), Provider::Cpu).unwrap();
    let error = scorer.set_threshold(f32::NAN).unwrap_err();
    assert_eq!(error.to_string(), "the threshold is NaN, expected a finite number");
    let options =
        ExportOptions { threshold: ThresholdRule::Value(f32::INFINITY), ..ExportOptions::default() };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("never.onnx");
    let error = export::export(&checkpoint(1, Variant::Paper), &options, &path).unwrap_err();
    assert!(matches!(error, Error::NotFinite { what: "the threshold", .. }), "{error}");
}

#[test]
fn mismatched_classes_are_refused() {
    let folder = golden("../../examples/demo");
    let demo = Dataset::known(&folder, Split::Test, &Input::default()).unwrap();
    let error = demo.align(&["cat".to_owned(), "dog".to_owned()]).unwrap_err();
    assert!(matches!(error, Error::Classes { .. }), "{error}");
    assert!(
        error.to_string().contains("`airplane` is not one of the known classes: `cat`, `dog`"),
        "{error}"
    );
}

#[test]
fn weights_alone_are_not_a_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let path = RunFolder::new(folder.path()).checkpoint(CheckpointKind::Best);
    fs::copy(golden("wrn-10-1.safetensors"), &path).unwrap();
    let error = Checkpoint::read(&path).unwrap_err();
    assert!(matches!(error, Error::Checkpoint { .. }), "{error}");
    assert!(error.to_string().contains("it holds only weights"), "{error}");
}

/// Replaces every occurrence of a pattern with another of the same length.
fn replace(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut bytes = bytes.to_vec();
    let mut found = 0;
    for at in 0..bytes.len() - from.len() {
        if &bytes[at..at + from.len()] == from {
            bytes[at..at + from.len()].copy_from_slice(to);
            found += 1;
        }
    }
    assert!(found > 0, "the pattern does not occur");
    bytes
}
