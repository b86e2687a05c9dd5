//! The files that are mutated, for each reader: small golden files, and smaller ones written by this library.

use std::{
    collections::BTreeMap,
    fs,
    io::{Cursor, Read, Write},
    path::Path,
};

use cac::{
    arch::{Architecture, Layer},
    data::{Degradation, LeftOut},
    drift::{Monitor, StateFile, StreamOrigin},
    eval::{Evaluation, ScoredSet, score_file},
    export::{ExportOptions, InputForm, ThresholdRule, export},
    image::Input,
    import::{self, ImportOptions},
    method::{LogitScore, Loss, Variant},
    model::{Inspection, ModelPrecision},
    report::{Report, ReportOptions},
    run::{Checkpoint, Event, Features, HeldOut, Recipe, Started, TestFeatures, TestLogits},
    weights::Weights,
};
use ndarray::{Array2, Array4};

/// The longest golden file that is mutated: short files are mutated fast, and in the places that matter.
const MAX_BYTES: u64 = 40_000;

/// Files that a reader should accept, at least one of which it must, and files that once made it fail.
pub fn of(target: &str) -> Vec<Vec<u8>> {
    let mut files = match target {
        "archive" => archives(),
        "checkpoint" => {
            let file = written(|path| checkpoint().write(path));
            // Also without a checksum, which refuses most changes before anything else is read.
            let sum = file.windows(6).position(|name| name == b"sha256").expect("it has a checksum");
            let mut unsealed = file.clone();
            unsealed[sum] = b'x';
            vec![file, unsealed]
        }
        "cifar-names" => unpacked("pickle-of-names"),
        "cifar-pickle" => unpacked("pickle"),
        "cifar" => vec![[0; 3073].to_vec(), [[1; 3073], [0; 3073]].concat()],
        "class-names" => vec![b"airplane\nautomobile\nbird\n\n".to_vec(), "häschen\r\nhund".into()],
        "drift-state" => vec![written(|path| {
            let monitor = Monitor::new(&[0.0, 1.0], 0.01, 0)?;
            let origin = StreamOrigin { model: "fuzz".to_owned(), score: "cac".to_owned() };
            let (mut file, mut monitor) = StateFile::open(path, origin, monitor)?;
            [0.25, -1.5e-7, 3e38].into_iter().for_each(|score| monitor.push(score));
            file.write(&monitor, None)
        })],
        "idx" => idx(),
        "idx-gz" => idx().into_iter().map(|file| gzip(&file)).collect(),
        "image" => images(),
        "log" => vec![log()],
        "manifest" => vec![manifest("tests/golden/models/v1.onnx"), manifest("tests/golden/models/v2.onnx")],
        "model" => [golden("models"), models()].concat(),
        "model-on-tract" => models(),
        "names" => [
            "cac-2021/3",
            "gaussian-noise:20",
            "cuda:1",
            "near=a,b",
            "neg-max-logit",
            "scrambled",
            "a=cifar10-c:fog:5",
        ]
        .map(|text| text.as_bytes().to_vec())
        .to_vec(),
        "npy" => unpacked("npy"),
        "npy-labels" => vec![
            npy("|u1", "2,", &[0, 1]),
            npy("|u1", "0x100000000, 0x100000000", &[0, 1]),
            npy("|u1", "2, 0x4000000000000001", &[0, 1]),
            npy("<i8", "2, 1", &[0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]),
            npy(">f4", "2,", &[0, 0, 0, 0, 0x3f, 0x80, 0, 0]),
        ],
        "npz" => unpacked("npz"),
        "parquet" => unpacked("parquet"),
        "pytorch" => [golden("checkpoints"), golden("checkpoints/layouts")].concat(),
        "safetensors" => vec![
            read("tests/golden/checkpoints/strided.safetensors"),
            written(|path| checkpoint().write_weights(path)),
        ],
        "scores-csv" => vec![
            written_as("scores.csv", |path| score_file::write(path, &evaluation())),
            b"score;label;prediction\n0.25;1;1\n-1e9;-1;\ninf;0;2\n".to_vec(),
            b"label\tscore\n1\t0.5\n-1\t2\n".to_vec(),
        ],
        "scores-npz" => vec![
            written_as("scores.npz", |path| score_file::write(path, &evaluation())),
            read("tests/golden/scores/column.npz"),
        ],
        "settings" => settings(),
        "svhn" => unpacked("mat"),
        "tiny-imagenet" => vec![b"a.JPEG\tn1\t0\t0\t9\t9\nb.JPEG\tn2\t0\t0\t9\t9\n".to_vec()],
        _ => panic!("`{target}` has no corpus"),
    };
    files.extend(folder(&format!("fuzz/seeds/{target}"), u64::MAX));
    files
}

/// The bytes of a file in the repository.
fn read(path: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The files in a folder of the repository that are not longer than this, sorted by name.
fn folder(path: &str, longest: u64) -> Vec<Vec<u8>> {
    let Ok(entries) = Path::new(env!("CARGO_MANIFEST_DIR")).join(path).read_dir() else { return Vec::new() };
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.is_file() && path.metadata().unwrap().len() <= longest);
    paths.sort_unstable();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// The golden files in a folder that are models or PyTorch weights.
fn golden(name: &str) -> Vec<Vec<u8>> {
    let mut files = folder(&format!("tests/golden/{name}"), MAX_BYTES);
    let is_meant =
        |bytes: &Vec<u8>| [&b"PK"[..], &[0x80], &[0x08]].iter().any(|start| bytes.starts_with(start));
    files.retain(is_meant);
    files
}

/// The files of a folder of small data sets, which are compressed with gzip.
fn unpacked(name: &str) -> Vec<Vec<u8>> {
    let unpack = |packed: Vec<u8>| {
        let mut bytes = Vec::new();
        flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut bytes).unwrap();
        bytes
    };
    folder(&format!("tests/golden/data/one/{name}"), u64::MAX).into_iter().map(unpack).collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = Vec::new();
    flate2::read::GzEncoder::new(bytes, flate2::Compression::default()).read_to_end(&mut packed).unwrap();
    packed
}

/// Two images of 3x4 pixels.
fn idx() -> Vec<Vec<u8>> {
    vec![[&b"\0\0\x08\x03\0\0\0\x02\0\0\0\x03\0\0\0\x04"[..], &[7; 24]].concat()]
}

/// A NumPy array.
fn npy(kind: &str, shape: &str, values: &[u8]) -> Vec<u8> {
    let text = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': ({shape}), }}\n");
    [b"\x93NUMPY\x01\0", &(text.len() as u16).to_le_bytes()[..], text.as_bytes(), values].concat()
}

/// The file that a writer writes.
fn written(write: impl FnOnce(&Path) -> cac::Result<()>) -> Vec<u8> {
    written_as("file", write)
}

fn written_as(name: &str, write: impl FnOnce(&Path) -> cac::Result<()>) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    write(&path).unwrap();
    fs::read(&path).unwrap()
}

/// A network of 5,000 weights.
fn checkpoint() -> Checkpoint {
    let architecture = Architecture::new("cac-net", &[("channels", 2.0)]).unwrap();
    let mut weights = Weights::new(Path::new("tiny"));
    for (name, shape) in architecture.layers(2, 16, 16).unwrap().iter().flat_map(Layer::parameters) {
        let count = shape.iter().product();
        let values = (0..count).map(|at| ((at * 7 + name.len()) % 11) as f32 / 11.0 - 0.4);
        // Variances are positive.
        let values = values.map(|value| if name.ends_with("var") { 1.0 } else { value }).collect();
        weights.insert(&name, &shape, values);
    }
    let options = ImportOptions {
        name: "tiny".to_owned(),
        classes: Some(vec!["cat".to_owned(), "dog".to_owned()]),
        input: Input { height: 16, width: 16, ..Input::default() },
        loss: Loss::new(Variant::Paper),
    };
    let mut checkpoint = import::checkpoint(&weights, &options).unwrap();
    let rows = |count: usize, columns: usize| {
        Array2::from_shape_fn((count, columns), |(row, column)| (row * column) as f32)
    };
    checkpoint.held_out = HeldOut { choosing: rows(4, 2), calibrating: rows(20, 2) };
    let width = checkpoint.last_layer().unwrap().weight.ncols();
    checkpoint.features = Some(Features {
        training: rows(5, width),
        labels: vec![0, 1, 0, 1, 0],
        choosing: rows(4, width),
        calibrating: rows(20, width),
        stand_ins: vec![("blends".to_owned(), rows(4, width))],
        degraded: vec![(Degradation::Noise, rows(20, width))],
        test: Some(TestFeatures { known: rows(3, width), unknown: vec![rows(2, width)] }),
    });
    checkpoint.test = Some(TestLogits {
        known: Array2::ones((3, 2)),
        labels: vec![0, 1, 1],
        unknown: vec![("noise".to_owned(), Array2::zeros((2, 2)))],
        skipped: 0,
    });
    checkpoint
}

/// Models of every precision and form of input.
fn models() -> Vec<Vec<u8>> {
    let images = || Some(Array4::from_elem((2, 3, 16, 16), 0.5));
    let plain = ExportOptions { threshold: ThresholdRule::Value(1.5), ..ExportOptions::default() };
    let options = [
        ExportOptions { input: InputForm::Bytes, batch: Some(2), ..plain.clone() },
        ExportOptions { input: InputForm::AnySize, ..plain.clone() },
        ExportOptions { precision: ModelPrecision::Float16, ..plain.clone() },
        ExportOptions { precision: ModelPrecision::Int8, calibration: images(), ..plain.clone() },
        plain,
    ];
    let checkpoint = checkpoint();
    options.map(|options| written(|path| export(&checkpoint, &options, path).map(drop))).to_vec()
}

fn manifest(model: &str) -> Vec<u8> {
    let properties = Inspection::of(&read(model), model).unwrap().manifest.to_properties();
    properties.iter().map(|(name, value)| format!("{name}={value}\n")).collect::<String>().into_bytes()
}

/// Archives of every format, with long names, links and folders.
fn archives() -> Vec<Vec<u8>> {
    let long = format!("{}/file", "folder".repeat(20));
    let contents: [(&str, &[u8]); 3] = [("set/a.txt", b"one"), ("set/deep/b", b""), (&long, &[7; 700])];
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in contents {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, name, content).unwrap();
    }
    builder.append_link(&mut tar::Header::new_gnu(), "set/link", "a.txt").unwrap();
    let gnu = builder.into_inner().unwrap();
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_pax_extensions([("path", long.as_bytes()), ("mtime", b"1.5")]).unwrap();
    let mut header = tar::Header::new_ustar();
    header.set_path("set/").unwrap();
    header.set_size(0);
    header.set_cksum();
    builder.append(&header, &[][..]).unwrap();
    let pax = builder.into_inner().unwrap();
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let methods = [zip::CompressionMethod::Deflated, zip::CompressionMethod::Stored];
    for ((name, content), method) in contents.into_iter().zip(methods.into_iter().cycle()) {
        let options = zip::write::SimpleFileOptions::default().compression_method(method);
        writer.start_file(name, options).unwrap();
        writer.write_all(content).unwrap();
    }
    let zip = writer.finish().unwrap().into_inner();
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    vec![gzip(&gnu), gzip(&[3; 300]), gzip(&pax), gnu, pax, zip]
}

/// The files of `tests/golden/decode.json`, of every format.
fn images() -> Vec<Vec<u8>> {
    let entries: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(&read("tests/golden/decode.json")).unwrap();
    let bytes = |entry: serde_json::Value| -> Vec<u8> {
        let digits = entry["file"].as_str().unwrap();
        let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
        (0..digits.len()).step_by(2).map(byte).collect()
    };
    entries.into_iter().map(|(_, entry)| bytes(entry)).collect()
}

/// The log of a run of two epochs.
fn log() -> Vec<u8> {
    let known = [0.0, 1.0, 2.0];
    let report =
        Report::new(&known, Some(&[true, true, false]), &[("far", &[1.5, 3.0])], &ReportOptions::default());
    let mut events = vec![Event::Start(Started {
        images: 9,
        steps: 1,
        epochs: 2,
        score: Some(LogitScore::Cac),
        left_out: LeftOut::new(),
        skipped: 1,
        held_out: Some([2, 19]),
        other_classes: vec!["dog".to_owned()],
        untested: vec!["cat".to_owned()],
        repeated: 3,
        alike_in_tests: 2,
        alike_held_out: 1,
        uncompared: true,
        duplicates: 1,
        in_two_classes: vec![["cat/1.png".to_owned(), "dog/2.png".to_owned()]],
        learned: BTreeMap::from([("far".to_owned(), 4)]),
        also_known: BTreeMap::from([("far".to_owned(), 2)]),
        classes: BTreeMap::from([("cat".to_owned(), 9), ("dog".to_owned(), 12)]),
        held_out_seen: false,
        unknown_seen: true,
    })];
    for epoch in 1..3 {
        let loss = 1.0 / epoch as f64;
        events.push(Event::Step { epoch, step: 1, loss, learning_rate: 0.1, images_per_second: 50.0 });
        let report = report.as_ref().unwrap().clone();
        events.push(Event::Epoch { epoch, held_out_loss: Some(loss), best: true, seconds: 1.0, report });
    }
    let lines = events.iter().map(|event| serde_json::to_string(event).unwrap() + "\n");
    lines.collect::<String>().into_bytes()
}

fn evaluation() -> Evaluation {
    let set = |name: &str, truth: &[i64]| ScoredSet {
        name: name.to_owned(),
        images: (0..truth.len()).map(|index| format!("{name}/{index}.jpg")).collect(),
        truth: truth.to_vec(),
        predicted: vec![1; truth.len()],
        scores: vec![(0..truth.len()).map(|index| index as f32 / 7.0).collect()],
        ..ScoredSet::default()
    };
    let (known, unknown) = (set("known", &[0, 1, 1, 0]), vec![set("a \"b\"", &[-1; 3])]);
    Evaluation { scores: vec![LogitScore::Cac.into()], decision: None, known, unknown, skipped: 0 }
}

fn settings() -> Vec<Vec<u8>> {
    let recipe = Recipe::default();
    vec![
        serde_json::to_vec(&recipe).unwrap(),
        toml::to_string(&recipe).unwrap().into_bytes(),
        serde_json::to_vec(&checkpoint().facts).unwrap(),
        serde_json::to_vec(&checkpoint().facts.architecture).unwrap(),
    ]
}
