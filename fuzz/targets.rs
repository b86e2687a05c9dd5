//! The readers of untrusted bytes, for the mutation test and for libFuzzer.

use std::{io::Write, path::Path};

use cac::{
    Provider, Result, Scorer,
    arch::Architecture,
    data::{DataFolder, Dataset, Protocol, Role, Split, UnknownSource},
    drift::{Monitor, StateFile, StreamOrigin},
    eval::score_file,
    files::archive,
    image::{self, Input},
    import::{self, ImportOptions},
    method::{Loss, RejectionScore, Variant},
    metrics::{Kind, Stream},
    model::{Inspection, Manifest},
    page::{Page, RunLog},
    report::{Group, Report, ReportOptions},
    run::{Checkpoint, Device, Event, Facts, Outliers, Recipe},
    weights::Weights,
};

/// A reader by name. It returns whether it accepts the bytes, and must not panic.
pub type Target = (&'static str, fn(&[u8]) -> bool);

/// All readers. The slowest comes first.
pub const TARGETS: &[Target] = &[
    ("model-on-tract", model_on_tract),
    ("archive", archive),
    ("checkpoint", |bytes| in_file(bytes, checkpoint)),
    ("cifar", cifar),
    ("cifar-names", |bytes| data_set(&[("batches.meta", bytes), ("test_batch", PICKLE)], "")),
    ("cifar-pickle", |bytes| data_set(&[("test_batch", bytes)], "")),
    ("class-names", class_names),
    ("drift-state", drift_state),
    ("idx", |bytes| data_set(&[("t10k-images-idx3-ubyte", bytes), ("t10k-labels-idx1-ubyte", LABELS)], "")),
    ("idx-gz", |bytes| {
        data_set(&[("t10k-images-idx3-ubyte.gz", bytes), ("t10k-labels-idx1-ubyte", LABELS)], "")
    }),
    ("image", image),
    ("log", |bytes| in_file(bytes, log)),
    ("manifest", manifest),
    ("model", model),
    ("names", names),
    ("npy", |bytes| data_set(&[("a.npy", bytes), ("labels.npy", ARRAY)], "a.npy")),
    ("npy-labels", |bytes| data_set(&[("a.npy", ARRAY_OF_IMAGES), ("labels.npy", bytes)], "a.npy")),
    ("npz", |bytes| data_set(&[("a.npz", bytes)], "a.npz")),
    #[cfg(feature = "parquet")]
    ("parquet", |bytes| data_set(&[("a.parquet", bytes)], "")),
    ("pytorch", |bytes| in_file(bytes, weights)),
    ("safetensors", |bytes| in_file(bytes, weights)),
    ("scores-csv", |bytes| in_file(bytes, scores)),
    ("scores-npz", |bytes| in_file(bytes, scores)),
    ("settings", settings),
    ("svhn", |bytes| data_set(&[("test_32x32.mat", bytes)], "")),
    ("tiny-imagenet", tiny_imagenet),
];

/// A pickle of a dictionary with one image, whose class is 0.
const PICKLE: &[u8] = &pickle();
/// An IDX file with the labels 0 and 1.
const LABELS: &[u8] = b"\0\0\x08\x01\0\0\0\x02\0\x01";
/// A NumPy array of the labels 0 and 1.
const ARRAY: &[u8] =
    b"\x93NUMPY\x01\0\x3a\0{'descr': '|u1', 'fortran_order': False, 'shape': (2,), }\n\0\x01";
/// A NumPy array of two grey images of 2x2 pixels.
const ARRAY_OF_IMAGES: &[u8] =
    b"\x93NUMPY\x01\0\x3f\0{'descr': '|u1', 'fortran_order': False, 'shape': (2, 2, 2), }\nabcdefgh";

const fn pickle() -> [u8; START.len() + 3072 + END.len()] {
    let mut bytes = [0; START.len() + 3072 + END.len()];
    let (start, rest) = bytes.split_at_mut(START.len());
    start.copy_from_slice(START);
    rest.split_at_mut(3072).1.copy_from_slice(END);
    bytes
}

/// What comes before and after the pixels: an array of `[1, 3072]` bytes, and the list of one label.
const START: &[u8] = b"\x80\x02}(U\x04datacnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\0\x85U\x01btR\
    (K\x01K\x01M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\0K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb\x89T\x00\x0c\0\0";
const END: &[u8] = b"tbU\x06labels]K\0au.";

/// Whether a reader of files accepts a file with these bytes.
fn in_file(bytes: &[u8], read: fn(&Path) -> Result<()>) -> bool {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(bytes).expect("space for the file");
    read(file.path()).is_ok()
}

/// Unpacks an archive, and checks that nothing else was written.
fn archive(bytes: &[u8]) -> bool {
    let outer = tempfile::tempdir().expect("a temporary folder");
    let (file, folder) = (outer.path().join("archive"), outer.path().join("inside"));
    let made = std::fs::write(&file, bytes).and_then(|()| std::fs::create_dir(&folder));
    made.expect("space for the file");
    let unpacked = archive::unpack(&file, &folder, &mut |_, _| ());
    let entries = std::fs::read_dir(outer.path()).expect("the folder");
    assert_eq!(entries.count(), 2, "something was written outside of the folder");
    let Ok(contents) = unpacked else { return false };
    let total: u64 = contents.files.iter().map(|file| file.bytes).sum();
    assert!(total <= 16 * bytes.len() as u64 + (1 << 20), "{total} bytes were unpacked");
    contents.files.iter().all(|file| folder.join(&file.path).is_file())
}

/// Everything from a model's weights to a network that is ready for export.
fn weights(path: &Path) -> Result<()> {
    let weights = Weights::read(path)?;
    let _ = (weights.input(), weights.not_finite());
    let Ok(network) = weights.network() else { return Ok(()) };
    let options = ImportOptions {
        name: String::new(),
        classes: None,
        input: Input { height: 16, width: 16, ..Input::default() },
        loss: Loss::new(Variant::Paper),
    };
    let _ = import::checkpoint(&network, &options);
    Ok(())
}

fn checkpoint(path: &Path) -> Result<()> {
    let checkpoint = Checkpoint::read(path)?;
    checkpoint.write(path)?;
    checkpoint.write_weights(path)
}

fn cifar(bytes: &[u8]) -> bool {
    cifar_folder(b"one\ntwo\n", bytes)
}

fn class_names(bytes: &[u8]) -> bool {
    cifar_folder(bytes, &[0; 3073])
}

/// The state of a stream of scores, which is written back.
fn drift_state(bytes: &[u8]) -> bool {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("state");
    std::fs::write(&path, bytes).expect("space for the file");
    let monitor = Monitor::new(&[0.0, 1.0], 0.01, 0).expect("held-out scores");
    let origin = StreamOrigin { model: "fuzz".to_owned(), score: "cac".to_owned() };
    let opened = StateFile::open(&path, origin, monitor);
    opened.is_ok_and(|(mut file, monitor)| file.write(&monitor, None).is_ok())
}

/// The test split of CIFAR-10's binary layout, with the names of the classes and the records.
fn cifar_folder(classes: &[u8], records: &[u8]) -> bool {
    data_set(&[("batches.meta.txt", classes), ("test_batch.bin", records)], "")
}

/// The table of the test split of Tiny ImageNet, next to two images.
fn tiny_imagenet(annotations: &[u8]) -> bool {
    let image = b"P5 1 1 255 a".as_slice();
    data_set(
        &[
            ("wnids.txt", b"n1\nn2\n"),
            ("words.txt", annotations),
            ("val/images/a.JPEG", image),
            ("val/images/b.JPEG", image),
            ("val/val_annotations.txt", annotations),
        ],
        "",
    )
}

/// The test split of a data set of these files, at a place among them: as known classes and as unknown
/// images.
fn data_set(files: &[(&str, &[u8])], place: &str) -> bool {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (name, bytes) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("space for a folder");
        std::fs::write(path, bytes).expect("space for the files");
    }
    let place = folder.path().join(place);
    let use_all = |images: Dataset| {
        let last = images.len() - 1;
        let _ = (images.name(last), images.encoded(last), images.classes(), images.labels());
        images.pixels(0).is_ok() & images.pixels(last).is_ok()
    };
    let unknown = Dataset::unknown(&place, Split::Test, &Input::of_size(16, 16)).map(use_all);
    let known = Dataset::known(&place, Split::Test, &Input::of_size(16, 16)).map(use_all);
    known.is_ok_and(|is_whole| is_whole) && unknown.is_ok()
}

fn image(bytes: &[u8]) -> bool {
    let Ok(image) = image::from_bytes(bytes) else { return false };
    image::tensor(&image, &Input::of_size(8, 8)).len() == 3 * 8 * 8
}

/// The log of a run, and a page about it.
fn log(path: &Path) -> Result<()> {
    let (events, others) = Event::read_log(path)?;
    let run = RunLog { name: "fuzz".to_owned(), events, others };
    let _ = Page::new(Vec::new(), vec![run], None).html();
    Ok(())
}

/// The metadata of a model, as lines `NAME=VALUE`.
fn manifest(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let properties = text.lines().filter_map(|line| line.split_once('='));
    let Ok(manifest) = Manifest::from_properties(properties, "fuzz") else { return false };
    let history = &manifest.history;
    let _ = history.architecture.as_ref().map(|network| (network.to_string(), network.layers(7, 32, 32)));
    let _ = history.training.as_ref().map(ToString::to_string);
    let _ = history.metrics.as_ref().map(ToString::to_string);
    !manifest.to_properties().is_empty()
}

fn model(bytes: &[u8]) -> bool {
    let Ok(inspection) = Inspection::of(bytes, "fuzz") else { return false };
    !inspection.to_string().is_empty() && serde_json::to_string(&inspection).is_ok()
}

fn model_on_tract(bytes: &[u8]) -> bool {
    let Ok(scorer) = Scorer::from_bytes(bytes, Provider::Cpu) else { return false };
    let _ = scorer.verify();
    scorer.score_image(&image::RgbImage::new(20, 16)).is_ok()
}

/// Everything that is parsed from a name.
fn names(bytes: &[u8]) -> bool {
    let text = &*String::from_utf8_lossy(bytes);
    let _ = Outliers::from(text);
    let data = DataFolder::new(Some(Path::new("/no/such/folder")));
    let _ = data.resolve(Path::new(text), &[Role::Known(Split::Test)]);
    let unknown = text.parse::<UnknownSource>().map(|source| data.resolve_unknown(&[source]));
    text.parse::<Device>().is_ok()
        | text.parse::<Group>().is_ok()
        | text.parse::<Protocol>().is_ok()
        | text.parse::<Provider>().is_ok()
        | text.parse::<RejectionScore>().is_ok()
        | unknown.is_ok()
}

/// Scores and their metrics.
fn scores(path: &Path) -> Result<()> {
    let mut stream = Stream::new(64);
    let (mut known, mut unknown) = (Vec::new(), Vec::new());
    score_file::read(path, "score", |entry| {
        let is_known = entry.label >= 0;
        if is_known { &mut known } else { &mut unknown }.push(entry.score);
        let correct = entry.prediction == Some(entry.label);
        stream.push(entry.score, if is_known { Kind::Known { correct } } else { Kind::Unknown })
    })?;
    let _ = stream.finish(true).map(|bounded| bounded.to_string());
    let report = Report::new(&known, None, &[("unknown", &unknown)], &ReportOptions::default());
    let _ = report.map(|report| report.to_string());
    Ok(())
}

/// The settings of runs, as JSON and TOML.
fn settings(bytes: &[u8]) -> bool {
    let text = &*String::from_utf8_lossy(bytes);
    let recipe: Option<Recipe> = serde_json::from_str(text).ok().or_else(|| toml::from_str(text).ok());
    if let Some(recipe) = recipe.as_ref().filter(|recipe| recipe.check().is_ok()) {
        let _ = (recipe.rates(3, 10), recipe.trimmed_of(7), recipe.outliers_per_step(7));
    }
    let architecture: Option<Architecture> = serde_json::from_str(text).ok();
    if let Some(architecture) = &architecture {
        let _ = (architecture.to_string(), architecture.layers(7, 32, 32));
    }
    let facts: Option<Facts> = serde_json::from_str(text).ok();
    if let Some(facts) = &facts {
        let _ = (facts.layers(), serde_json::to_string(facts));
    }
    recipe.is_some() || architecture.is_some() || facts.is_some()
}
