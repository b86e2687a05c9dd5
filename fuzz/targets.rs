//! The readers of bytes that may come from anyone, for the mutation test and for libFuzzer.

use std::{io::Write, path::Path};

use cac::{
    Provider, Result, Scorer,
    arch::Architecture,
    data::{Dataset, Noise, Protocol, Split},
    files::scores,
    image::{self, Input},
    import::{self, ImportOptions},
    method::{Loss, RejectionScore, Variant},
    metrics::{Kind, Stream},
    model::{Inspection, Manifest},
    report::{Group, Page, Report, ReportOptions, RunLog},
    run::{Checkpoint, Device, Event, Facts, Outliers, Recipe},
    weights::Weights,
};

/// A reader by name. It returns whether it accepts the bytes, and must not panic.
pub type Target = (&'static str, fn(&[u8]) -> bool);

/// All readers. The slowest comes first.
pub const TARGETS: &[Target] = &[
    ("model-on-tract", model_on_tract),
    ("checkpoint", |bytes| in_file(bytes, checkpoint)),
    ("cifar", cifar),
    ("class-names", class_names),
    ("image", image),
    ("log", |bytes| in_file(bytes, log)),
    ("manifest", manifest),
    ("model", model),
    ("names", names),
    ("pytorch", |bytes| in_file(bytes, weights)),
    ("safetensors", |bytes| in_file(bytes, weights)),
    ("scores-csv", |bytes| in_file(bytes, scores)),
    ("scores-npz", |bytes| in_file(bytes, scores)),
    ("settings", settings),
];

/// The result of a reader of files on a file of these bytes.
fn in_file(bytes: &[u8], read: fn(&Path) -> Result<()>) -> bool {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(bytes).expect("space for the file");
    read(file.path()).is_ok()
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

/// The test split of CIFAR-10's binary layout, with the names of the classes and the records.
fn cifar_folder(classes: &[u8], records: &[u8]) -> bool {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes);
    write("batches.meta.txt", classes).and(write("test_batch.bin", records)).expect("space for the files");
    let Ok(images) = Dataset::known(folder.path(), Split::Test, 16, 16) else { return false };
    let last = images.len() - 1;
    let _ = (images.name(last), images.encoded(last), images.classes(), images.labels());
    images.pixels(last).is_ok()
}

fn image(bytes: &[u8]) -> bool {
    let Ok(image) = image::from_bytes(bytes) else { return false };
    image::tensor(&image, 8, 8).len() == 3 * 8 * 8
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

/// Everything that is named by text.
fn names(bytes: &[u8]) -> bool {
    let text = &*String::from_utf8_lossy(bytes);
    let _ = Outliers::from(text);
    text.parse::<Device>().is_ok()
        | text.parse::<Group>().is_ok()
        | text.parse::<Noise>().is_ok()
        | text.parse::<Protocol>().is_ok()
        | text.parse::<Provider>().is_ok()
        | text.parse::<RejectionScore>().is_ok()
}

/// Scores, and the metrics of them.
fn scores(path: &Path) -> Result<()> {
    let mut stream = Stream::new(64);
    let (mut known, mut unknown) = (Vec::new(), Vec::new());
    scores::read(path, "score", |entry| {
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
        let _ = (recipe.rates(3, 10), recipe.trimmed_of(7), recipe.outliers_beside(7));
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
