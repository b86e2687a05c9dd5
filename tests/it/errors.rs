//! The errors of the library, provoked; downloads and divergence stand with what they belong to.

use std::{fs, path::Path};

use cac::{
    Error,
    cac::Variant,
    checkpoint::CHECK_LOGITS,
    dataset::{Dataset, Split},
    export::{self, Options, ThresholdRule},
    inspect::Inspection,
    manifest::Precision,
    metrics::Metrics,
    preprocess, score_file,
    scorer::{Provider, Scorer},
    weights::Weights,
};
use ndarray::Array4;

use crate::{checkpoint, golden};

fn model() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    export::export(&checkpoint(1, Variant::Paper), &Options::default(), &path).unwrap();
    fs::read(path).unwrap()
}

#[test]
fn io() {
    let error = Scorer::open("/no/such/model.onnx", Provider::Cpu).unwrap_err();
    assert!(matches!(error, Error::Io { action: "read", .. }));
    assert!(error.to_string().starts_with("cannot read `/no/such/model.onnx`: "), "{error}");
}

#[test]
fn a_folder_in_the_way_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    fs::create_dir(&path).unwrap();
    let error = export::export(&checkpoint(1, Variant::Paper), &Options::default(), &path).unwrap_err();
    assert!(matches!(error, Error::Io { action: "write", .. }), "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn picture() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("picture.png");
    let jpeg = fs::read(golden("pictures/bumpy_0176.jpg")).unwrap();
    let mut png = std::io::Cursor::new(Vec::new());
    image::load_from_memory(&jpeg).unwrap().write_to(&mut png, image::ImageFormat::Png).unwrap();
    let png = png.into_inner();
    let mut cases = vec![b"".to_vec(), b"no picture".to_vec()];
    for whole in [&jpeg, &png] {
        cases.extend([3, 20, 300, whole.len() / 2, whole.len() - 20].map(|length| whole[..length].to_vec()));
    }
    for bytes in cases {
        fs::write(&path, &bytes).unwrap();
        let Err(error) = preprocess::open(&path) else { panic!("{} bytes were taken", bytes.len()) };
        assert!(matches!(error, Error::Picture { .. }), "{error}");
        assert!(error.to_string().contains("picture.png"), "{error}");
    }
    // A small file that would become very large.
    image::RgbImage::new(1, 70_000).save(&path).unwrap();
    assert!(matches!(preprocess::open(&path).unwrap_err(), Error::Picture { .. }));
    fs::write(&path, &jpeg).unwrap();
    assert_eq!(preprocess::open(&path).unwrap().dimensions(), (300, 300), "the content counts, not the name");
}

#[test]
fn dataset() {
    let folder = tempfile::tempdir().unwrap();
    let error = Dataset::known(folder.path(), Split::Test, 32, 32).unwrap_err();
    assert!(matches!(error, Error::Dataset { .. }) && error.hint().is_some(), "{error}");
}

#[test]
fn weights() {
    let error = Weights::read(&golden("make.py")).unwrap_err();
    assert!(matches!(error, Error::Weights { .. }) && error.to_string().contains("make.py"), "{error}");

    let mut other = checkpoint(1, Variant::Paper);
    other.weights.insert("fc.weight", &[2, 64], vec![0.0; 128]);
    let error = export::export(&other, &Options::default(), Path::new("never.onnx")).unwrap_err();
    assert!(error.to_string().contains("`fc.weight` has shape [2, 64], expected [3, 64]"), "{error}");
}

#[test]
fn a_foreign_or_damaged_model() {
    let bytes = model();
    let open = |bytes: &[u8]| Scorer::from_bytes(bytes, Provider::Cpu).unwrap_err();
    for length in [0, 1, 100, bytes.len() / 2, bytes.len() - 1] {
        assert!(matches!(open(&bytes[..length]), Error::Model { .. }), "{length} bytes");
    }
    assert!(matches!(open(&vec![7; 4096]), Error::Model { .. }));
    // An ONNX file of somebody else: this one with our metadata renamed.
    let foreign = replace(&bytes, b"cac.", b"cab.");
    assert!(open(&foreign).to_string().contains("did not write it"));
    // A graph that does not fit its metadata.
    assert!(matches!(open(&replace(&bytes, b"distances", b"distancez")), Error::Model { .. }));
}

#[test]
fn graphs_that_make_no_sense_are_errors() {
    use prost::Message;
    use tract_onnx::pb::{ModelProto, NodeProto};

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
        assert!(matches!(error, Error::Model { .. } | Error::Runtime { .. }), "{op} {name} {value}: {error}");
    }
    let changes: [&dyn Fn(&mut ModelProto); 4] = [
        &|proto| proto.graph = None,
        &|proto| proto.graph.as_mut().unwrap().node.clear(),
        &|proto| proto.graph.as_mut().unwrap().node[9].input[0] = "nowhere".to_owned(),
        &|proto| proto.graph.as_mut().unwrap().initializer.iter_mut().for_each(|tensor| tensor.data_type = 8),
    ];
    // What would need hundreds of gigabytes.
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
    assert!(error.unwrap_err().to_string().contains("more than 5 pictures"));
    // Lengths whose product is no number are looked at all the same.
    let mut endless = ModelProto::decode(&bytes[..]).unwrap();
    endless.graph.as_mut().unwrap().initializer[0].dims = vec![i64::MAX; 3];
    assert_eq!(Inspection::of(&endless.encode_to_vec(), "x").unwrap().parameters, usize::MAX);
    for change in changes {
        let error = open(change).unwrap_err();
        assert!(matches!(error, Error::Model { .. } | Error::Runtime { .. }), "{error}");
    }
}

#[test]
fn runtime() {
    // Metadata with fewer classes than the graph computes.
    let bytes = replace(&model(), br#"["ant","bee","cow"]"#, br#"["ant","bee---cow"]"#);
    let scorer = Scorer::from_bytes(&bytes, Provider::Cpu).unwrap();
    let error = scorer.score(Array4::zeros((1, 3, 32, 32)).view()).unwrap_err();
    assert!(matches!(error, Error::Runtime { runtime: "tract", .. }), "{error}");
    assert!(error.to_string().contains("another number of classes"), "{error}");
}

#[test]
fn single_flipped_bytes_never_panic() {
    let bytes = model();
    let step = bytes.len() / 150;
    for at in (0..2000).step_by(31).chain((0..bytes.len()).step_by(step)) {
        let mut bytes = bytes.clone();
        bytes[at] ^= 0x15;
        // A changed weight is still a model; all else is an error.
        if let Ok(scorer) = Scorer::from_bytes(&bytes, Provider::Cpu) {
            let _ = scorer.score(Array4::zeros((1, 3, 32, 32)).view());
        }
    }
}

#[test]
fn format_version() {
    let newer = replace(&model(), b"cac.format_version\x12\x011", b"cac.format_version\x12\x012");
    let error = Scorer::from_bytes(&newer, Provider::Cpu).unwrap_err();
    assert!(matches!(error, Error::FormatVersion { found: 2, supported: 1, .. }), "{error}");
}

#[test]
fn setting() {
    let checkpoint = checkpoint(1, Variant::Paper);
    for options in [
        Options { threshold: ThresholdRule::Keep(1.5), ..Options::default() },
        Options { threshold: ThresholdRule::Value(f32::NAN), ..Options::default() },
        Options { batch: Some(0), ..Options::default() },
        Options { precision: Precision::Int8, ..Options::default() },
    ] {
        let error = export::export(&checkpoint, &options, Path::new("never.onnx")).unwrap_err();
        assert!(matches!(error, Error::Setting { .. }), "{error}");
    }
}

#[test]
fn shape_and_values() {
    let scorer = Scorer::from_bytes(&model(), Provider::Cpu).unwrap();
    // tract's Relu makes 0 of what is no number, and a verdict of that.
    for value in [f32::NAN, f32::INFINITY] {
        let error = scorer.score(Array4::from_elem((1, 3, 32, 32), value).view()).unwrap_err();
        assert!(matches!(error, Error::Setting { name: "picture", .. }), "{error}");
    }
    let error = scorer.score(Array4::zeros((2, 3, 32, 31)).view()).unwrap_err();
    assert_eq!(error.to_string(), "the batch of pictures has shape [2, 3, 32, 31], expected [N, 3, 32, 32]");
}

#[test]
fn score_file() {
    let error = score_file::read(&golden("metrics.py"), "score", |_| Ok(())).unwrap_err();
    assert!(matches!(error, Error::ScoreFile { .. }) && error.to_string().contains("metrics.py"), "{error}");
    assert!(error.hint().unwrap().contains("`label`"));
}

#[test]
fn scores() {
    assert!(matches!(Metrics::new::<f32>(&[], None, &[1.0]), Err(Error::Scores(_))));
}

#[test]
fn self_check() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    fs::write(&path, "what was there").unwrap();
    let mut wrong = checkpoint(1, Variant::Paper);
    let mut logits = wrong.weights.get(CHECK_LOGITS).unwrap().values.clone();
    logits[5] += 0.01;
    wrong.weights.insert(CHECK_LOGITS, &[4, 3], logits);
    let error = export::export(&wrong, &Options::default(), &path).unwrap_err();
    assert!(matches!(error, Error::SelfCheck { what: "logits", .. }), "{error}");
    assert_eq!(fs::read(&path).unwrap(), b"what was there");
}

#[test]
fn provider() {
    let error = Scorer::from_bytes(&model(), Provider::Cuda(99)).unwrap_err();
    assert!(matches!(error, Error::Provider { .. }), "{error}");
    assert!(error.hint().unwrap().contains("CUDA=1"));
}

/// Replaces every occurrence of a pattern by another of the same length.
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
    assert!(found > 0, "the pattern is not there");
    bytes
}
