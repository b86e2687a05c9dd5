//! From a training run to one self-contained ONNX file: network, anchors, score, threshold and manifest.
//!
//! The graph uses opset 17 of `ai.onnx` alone, without functions or control flow, so that every common runtime
//! takes it. Nodes and tensors carry the names of the layers.

mod builder;
mod graph;
mod quantize;

use std::path::Path;

use ndarray::{Array2, Array4};
use prost::Message;

use builder::Numbers;

use crate::{
    atomic,
    cac::{self, Score, Scored},
    checkpoint::{
        ANCHORS, CHECK_IMAGES, CHECK_LOGITS, Checkpoint, HELD_OUT_LOGITS, TEST_KNOWN_LABELS,
        TEST_KNOWN_LOGITS, test_unknown_logits,
    },
    error::{Error, Result},
    eval::Agreement,
    manifest::{Manifest, Precision, Threshold},
    metrics::Bootstrap,
    onnx::{Graph, Model, OperatorSet, Property},
    report::{self, Report},
    scorer::{Provider, Scorer, file::max_batch},
    weights::Weights,
};

const OPSET: i64 = 17;
const IR_VERSION: i64 = 8;

/// The greatest relative difference of a logit that the self-check lets pass; below 1 it is absolute.
const fn tolerance(precision: Precision) -> f64 {
    match precision {
        Precision::Float32 => 1e-4,
        Precision::Float16 => 1e-2,
        Precision::Int8 => 0.5,
    }
}

/// How the file is written.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// The rejection score; by default that of the checkpoint.
    pub score: Option<Score>,
    /// The rule for the threshold.
    pub threshold: ThresholdRule,
    /// The form of the input.
    pub input: InputForm,
    /// A fixed number of pictures for engines that want static shapes; any number by default.
    pub batch: Option<usize>,
    /// The numbers of the network.
    pub precision: Precision,
    /// Known pictures `[N, 3, H, W]` in 0..=1, on which [`Precision::Int8`] measures the range of activations, and
    /// smaller files are compared with the one of float32; some hundred will do.
    pub calibration: Option<Array4<f32>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            score: None,
            threshold: ThresholdRule::Keep(0.95),
            input: InputForm::Float,
            batch: None,
            precision: Precision::default(),
            calibration: None,
        }
    }
}

/// How the threshold is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ThresholdRule {
    /// The lowest that keeps this share, 0 to 1, of the held-out known pictures.
    Keep(f64),
    /// This value.
    Value(f32),
}

/// The form in which a file takes pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum InputForm {
    /// float32 `[N, 3, H, W]`, values 0..=1.
    #[cfg_attr(feature = "cli", value(name = "f32"))]
    Float,
    /// uint8 `[N, H, W, 3]`, values 0..=255.
    #[cfg_attr(feature = "cli", value(name = "u8"))]
    Bytes,
}

/// What an export wrote.
#[derive(Debug, Clone, PartialEq)]
pub struct Exported {
    /// The manifest that went into the file.
    pub manifest: Manifest,
    /// The file's length in bytes.
    pub bytes: usize,
    /// The greatest difference of a logit to the trained network's on the check batch, relative above 1.
    pub difference: f64,
    /// How far a file of another precision agrees with that of float32 on the calibration pictures.
    pub agreement: Option<Agreement>,
}

/// Writes the ONNX file, after tract has read it back and computed the same logits for the check batch as
/// the trained network did. Where that fails nothing is written, and what was at `path` stays.
///
/// # Errors
/// [`Error::Weights`] and [`Error::Setting`] where the checkpoint or the options are not usable,
/// [`Error::SelfCheck`] where the check fails, [`Error::Io`] where the file cannot be written.
pub fn export(checkpoint: &Checkpoint, options: &Options, path: &Path) -> Result<Exported> {
    let (exported, bytes) = build(checkpoint, options)?;
    atomic::write(path, &bytes)?;
    Ok(exported)
}

/// The checked file in memory.
pub(crate) fn build(checkpoint: &Checkpoint, options: &Options) -> Result<(Exported, Vec<u8>)> {
    let most = max_batch(&checkpoint.manifest.input);
    if let Some(batch) = options.batch.filter(|batch| !(1..=most).contains(batch)) {
        return Err(Error::setting("batch", batch, format!("must be 1 to {most}")));
    }
    let anchors = anchors(checkpoint)?;
    let manifest = decide(checkpoint, options, &anchors)?;
    let file = |numbers| onnx(&manifest, options, &checkpoint.weights, &anchors, numbers);
    let bytes = file(numbers(checkpoint, options)?)?;
    let difference = check(checkpoint, &bytes, options.precision)?;
    let mut agreement = None;
    if let Some(pictures) = options.calibration.as_ref().filter(|_| options.precision != Precision::Float32) {
        let score = |bytes: &[u8]| Scorer::from_bytes(bytes, Provider::Cpu)?.score(pictures.view());
        agreement = Some(Agreement::between_scores(&score(&file(Numbers::Float32)?)?, &score(&bytes)?));
    }
    Ok((Exported { manifest, bytes: bytes.len(), difference, agreement }, bytes))
}

/// What the network computes with.
fn numbers(checkpoint: &Checkpoint, options: &Options) -> Result<Numbers> {
    match options.precision {
        Precision::Float32 => Ok(Numbers::Float32),
        Precision::Float16 => Ok(Numbers::Float16),
        Precision::Int8 => {
            let pictures = options.calibration.as_ref().filter(|pictures| !pictures.is_empty());
            let reason = "needs known pictures to measure activations on; give --calibrate";
            let pictures = pictures.ok_or_else(|| Error::setting("precision", options.precision, reason))?;
            let (observer, tensors) = graph::observer(&checkpoint.manifest, &checkpoint.weights)?;
            let observer = model(observer, Vec::new()).encode_to_vec();
            Ok(Numbers::Int8(quantize::ranges(&observer, &tensors, pictures.view())?))
        }
    }
}

/// The manifest with the score and the threshold that go into the file.
fn decide(checkpoint: &Checkpoint, options: &Options, anchors: &Array2<f32>) -> Result<Manifest> {
    let mut manifest = checkpoint.manifest.clone();
    manifest.score = options.score.unwrap_or(manifest.score);
    manifest.precision = options.precision;
    let held_out = logits(checkpoint, HELD_OUT_LOGITS)?;
    let held_out = held_out.map(|logits| Scored::new(logits.view(), anchors.view(), manifest.score));
    let mut scores = held_out.map(|held_out| held_out.scores).unwrap_or_default();
    scores.sort_unstable_by(f32::total_cmp);
    let (value, keep) = match options.threshold {
        ThresholdRule::Value(value) if value.is_finite() => (value, None),
        ThresholdRule::Keep(keep) if (0.0..=1.0).contains(&keep) => {
            let reason = "there are no known pictures to choose a threshold from; train with --held-out, import \
                          with --known, or give --threshold";
            let value = cac::threshold(&scores, keep).ok_or_else(|| Error::setting("keep", keep, reason))?;
            (value, Some(keep))
        }
        ThresholdRule::Value(value) => {
            return Err(Error::setting("threshold", value, "must be finite"));
        }
        ThresholdRule::Keep(keep) => {
            return Err(Error::setting("keep", keep, "must be a share from 0 to 1"));
        }
    };
    let data = match &manifest.training {
        Some(training) => {
            format!("{} held-out training pictures of {}", scores.len(), training.known.display())
        }
        None => format!("{} known pictures given at the import", scores.len()),
    };
    manifest.threshold = Some(Threshold { value, keep, data, held_out_scores: scores });
    manifest.metrics = measured(checkpoint, &manifest, anchors)?;
    Ok(manifest)
}

/// The table of the test after training, for the score and the threshold of the file.
fn measured(checkpoint: &Checkpoint, manifest: &Manifest, anchors: &Array2<f32>) -> Result<Option<Report>> {
    let (Some(tested), Some(known)) = (&manifest.metrics, logits(checkpoint, TEST_KNOWN_LOGITS)?) else {
        return Ok(None);
    };
    let scored = |logits: Array2<f32>| Scored::new(logits.view(), anchors.view(), manifest.score);
    let labels = checkpoint.weights.values(TEST_KNOWN_LABELS, &[known.nrows()])?;
    let truth: Vec<i64> = labels.iter().map(|&label| label as i64).collect();
    let mut unknown = Vec::new();
    for row in &tested.rows {
        if let Some(logits) = logits(checkpoint, &test_unknown_logits(&row.name))? {
            unknown.push((row.name.as_str(), scored(logits)));
        }
    }
    let settings = report::Settings {
        threshold: manifest.threshold.as_ref().map(|threshold| threshold.value.into()),
        bootstrap: Some(Bootstrap::default()),
        ..report::Settings::default()
    };
    Report::of(&scored(known), &truth, &unknown, &settings).map(Some)
}

/// A tensor of logits `[N, C]`, if there is one with this name.
fn logits(checkpoint: &Checkpoint, name: &str) -> Result<Option<Array2<f32>>> {
    let Some(tensor) = checkpoint.weights.get(name) else { return Ok(None) };
    let shape = [tensor.shape.first().copied().unwrap_or(0), checkpoint.manifest.classes.len()];
    checkpoint.weights.matrix(name, shape).map(Some)
}

/// The anchors `[C, C]` of a checkpoint.
pub(crate) fn anchors(checkpoint: &Checkpoint) -> Result<Array2<f32>> {
    let classes = checkpoint.manifest.classes.len();
    checkpoint.weights.matrix(ANCHORS, [classes, classes])
}

/// The file.
fn onnx(
    manifest: &Manifest,
    options: &Options,
    weights: &Weights,
    anchors: &Array2<f32>,
    numbers: Numbers,
) -> Result<Vec<u8>> {
    let graph = graph::graph(manifest, options, weights, anchors, numbers)?;
    let property = |(key, value)| Property { key, value };
    Ok(model(graph, manifest.to_properties().into_iter().map(property).collect()).encode_to_vec())
}

fn model(graph: Graph, metadata_props: Vec<Property>) -> Model {
    Model {
        ir_version: IR_VERSION,
        opset_import: vec![OperatorSet { domain: String::new(), version: OPSET }],
        producer_name: env!("CARGO_PKG_NAME").to_owned(),
        producer_version: env!("CARGO_PKG_VERSION").to_owned(),
        doc_string: "Open-set image classifier trained with Class Anchor Clustering. `images` are RGB in \
                     0..=1 (or bytes); `unknown` is `score` > `threshold`, `label` the nearest anchor."
            .to_owned(),
        graph: Some(graph),
        metadata_props,
    }
}

/// The greatest difference between tract's logits and the trained network's on the check batch.
fn check(checkpoint: &Checkpoint, bytes: &[u8], precision: Precision) -> Result<f64> {
    let missing = || checkpoint.weights.error(format!("tensor `{CHECK_IMAGES}` is missing"));
    let images = checkpoint.weights.get(CHECK_IMAGES).ok_or_else(missing)?;
    let &[n, channels, height, width] = &images.shape[..] else {
        return Err(checkpoint.weights.error(format!("tensor `{CHECK_IMAGES}` is not [N, 3, H, W]")));
    };
    let images = Array4::from_shape_vec((n, channels, height, width), images.values.clone())
        .map_err(|error| checkpoint.weights.error(format!("tensor `{CHECK_IMAGES}`: {error}")))?;
    let expected = checkpoint.weights.values(CHECK_LOGITS, &[n, checkpoint.manifest.classes.len()])?;
    let scores = Scorer::from_bytes(bytes, Provider::Cpu)?.score(images.view())?;
    let mut greatest = 0.0_f64;
    for (&found, &expected) in scores.logits.iter().zip(expected) {
        let difference = f64::from((found - expected).abs() / expected.abs().max(1.0));
        greatest = if difference.is_nan() { f64::INFINITY } else { greatest.max(difference) };
    }
    let tolerance = tolerance(precision);
    if n == 0 || greatest > tolerance {
        return Err(Error::SelfCheck { what: "logits", difference: greatest, tolerance });
    }
    Ok(greatest)
}
