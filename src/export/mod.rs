//! Writes a checkpoint as one self-contained ONNX file: network, anchors, score, threshold and manifest.
//!
//! The graph uses only opset 17 of `ai.onnx`, without functions or control flow, so that every common runtime
//! can run it. Nodes and tensors are named after the layers.

mod builder;
mod graph;
mod quantize;
mod resize;
pub mod triton;

use std::path::Path;

use ndarray::{Array4, ArrayView1, ArrayView2};
use prost::Message;

use builder::Numbers;
pub(crate) use resize::resizes_to;

use crate::{
    error::{Error, Result},
    eval::{Agreement, Evaluation},
    files::atomic,
    method::{self, RejectionScore},
    metrics::Bootstrap,
    model::{
        Decision, FORMAT_VERSION, History, Manifest, ModelPrecision, Threshold,
        file::max_batch,
        proto::{Graph, Model, Property},
    },
    report::ReportOptions,
    run::{CheckBatch, Checkpoint},
    scorer::{Outputs, Provider, Scorer, greatest_difference, tract::TRACT},
};

/// The largest difference of a logit from the trained network's that the self-check allows, as a share of the image's
/// largest logit or, if that is below 1, of 1.
const fn tolerance(precision: ModelPrecision) -> f64 {
    match precision {
        ModelPrecision::Float32 => 1e-4,
        ModelPrecision::Float16 => 1e-2,
        ModelPrecision::Int8 => 0.5,
    }
}

/// The same for distances and scores, which are compared with the formulas on the file's own logits.
const HEAD_TOLERANCE: f64 = 1e-4;

/// The options of an export.
#[derive(Debug, Clone, PartialEq)]
pub struct ExportOptions {
    /// The rejection score; by default that of the checkpoint.
    pub score: Option<RejectionScore>,
    /// How the threshold is chosen.
    pub threshold: ThresholdRule,
    /// The format of the input.
    pub input: InputForm,
    /// A fixed batch size, for engines that need static shapes; dynamic by default.
    pub batch: Option<usize>,
    /// The precision of the network.
    pub precision: ModelPrecision,
    /// Known images `[N, 3, H, W]` in 0..=1; a few hundred are enough. [`ModelPrecision::Int8`] measures the
    /// ranges of activations on them. Models in other precisions are compared with float32 on them.
    pub calibration: Option<Array4<f32>>,
}

impl Default for ExportOptions {
    fn default() -> Self {
        Self {
            score: None,
            threshold: ThresholdRule::Keep(method::KEEP),
            input: InputForm::Floats,
            batch: None,
            precision: ModelPrecision::default(),
            calibration: None,
        }
    }
}

/// How the threshold is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ThresholdRule {
    /// The lowest threshold that keeps this share, 0 to below 1, of the held-out known images; of the known test
    /// images if the training held none out.
    Keep(f64),
    /// This value.
    Value(f32),
}

/// The input format of a model file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum InputForm {
    /// float32 `[N, 3, H, W]`, values 0..=1.
    #[serde(rename = "f32")]
    Floats,
    /// uint8 `[N, H, W, 3]`, values 0..=255.
    #[serde(rename = "u8")]
    Bytes,
    /// uint8 `[N, H, W, 3]`, values 0..=255, of any height and width: the graph resizes as
    /// [`image::pixels`](crate::image::pixels) does.
    #[serde(rename = "any-size")]
    AnySize,
}

impl InputForm {
    /// All formats.
    pub const ALL: [Self; 3] = [Self::Floats, Self::Bytes, Self::AnySize];
}

/// The result of an export.
#[derive(Debug, Clone, PartialEq)]
pub struct Exported {
    /// The metadata of the file.
    pub manifest: Manifest,
    /// The size of the file in bytes.
    pub bytes: usize,
    /// The largest difference of a logit from the trained network's on the check batch, relative above 1.
    pub difference: f64,
    /// The agreement with the float32 model on the calibration images; `None` for float32 or without images.
    pub agreement: Option<Agreement>,
}

/// Writes the ONNX file after a self-check on tract: the file must reproduce the trained network's logits on
/// the check batch, and the [method]'s distances, scores, labels and verdicts on these logits.
/// If the check fails, nothing is written and `path` is unchanged.
///
/// # Errors
/// [`Error::Weights`] and [`Error::Setting`] if the checkpoint or the options are invalid,
/// [`Error::SelfCheck`] if the check fails, [`Error::Io`] if the file cannot be written.
pub fn export(checkpoint: &Checkpoint, options: &ExportOptions, path: &Path) -> Result<Exported> {
    let (exported, bytes) = build(checkpoint, options)?;
    atomic::write(path, &bytes)?;
    Ok(exported)
}

/// Builds and checks the file in memory.
pub(crate) fn build(checkpoint: &Checkpoint, options: &ExportOptions) -> Result<(Exported, Vec<u8>)> {
    let most = max_batch(&checkpoint.facts.input);
    if let Some(batch) = options.batch.filter(|batch| !(1..=most).contains(batch)) {
        return Err(Error::setting("batch", batch, format!("must be 1 to {most}")));
    }
    if options.input == InputForm::AnySize {
        resize::check_input(&checkpoint.facts.input)?;
    }
    let mut manifest = describe(checkpoint, options)?;
    let file = |numbers| -> Result<Model> {
        Ok(model(graph::graph(checkpoint, &manifest.decision, options, numbers)?, &manifest))
    };
    let open = |model: &Model| Scorer::from_bytes(&model.encode_to_vec(), Provider::Cpu);
    let mut model = file(numbers(checkpoint, options)?)?;
    let scorer = open(&model)?;
    let difference = check(checkpoint, &manifest.decision, &scorer, options.precision)?;
    let input = &manifest.decision.input;
    let resize_check =
        manifest.decision.resizes.then(|| resize::check(&model, input, options.batch)).transpose()?;
    let mut agreement = None;
    let is_exact = options.precision == ModelPrecision::Float32;
    if let Some(images) = options.calibration.as_ref().filter(|_| !is_exact) {
        let exact = open(&file(Numbers::Float32)?)?.score(images.view())?;
        agreement = Some(Agreement::between(&exact, &scorer.score(images.view())?));
    }
    manifest.history.resize_check = resize_check;
    manifest.history.golden = Some(scorer.golden_batch()?);
    model.metadata_props = properties(&manifest);
    let bytes = model.encode_to_vec();
    Ok((Exported { manifest, bytes: bytes.len(), difference, agreement }, bytes))
}

/// The number format of the network.
fn numbers(checkpoint: &Checkpoint, options: &ExportOptions) -> Result<Numbers> {
    match options.precision {
        ModelPrecision::Float32 => Ok(Numbers::Float32),
        ModelPrecision::Float16 => Ok(Numbers::Float16),
        ModelPrecision::Int8 => {
            let images = options.calibration.as_ref().filter(|images| !images.is_empty());
            let reason = "needs known images for calibration";
            let images = images.ok_or_else(|| Error::setting("precision", options.precision, reason))?;
            let (observer, tensors) = graph::observer(checkpoint)?;
            let observer = Model::new(observer, Vec::new()).encode_to_vec();
            Ok(Numbers::Int8(quantize::ranges(&observer, &tensors, images.view())?))
        }
    }
}

/// The metadata of the file: decision and history.
fn describe(checkpoint: &Checkpoint, options: &ExportOptions) -> Result<Manifest> {
    let mut manifest = manifest(checkpoint, options)?;
    let Decision { score, threshold, .. } = &manifest.decision;
    let evaluation =
        Evaluation::of_checkpoint(checkpoint, *score, threshold.as_ref().map(|threshold| threshold.value));
    let report_options = ReportOptions { bootstrap: Some(Bootstrap::default()), ..ReportOptions::default() };
    manifest.history.metrics =
        evaluation.map(|evaluation| evaluation.report(0, &report_options)).transpose()?;
    Ok(manifest)
}

/// The metadata that an export writes, without what it measures: metrics and golden batch.
///
/// # Errors
/// [`Error::Setting`] and [`Error::TooFewHeldOut`] if the threshold cannot be chosen.
pub fn manifest(checkpoint: &Checkpoint, options: &ExportOptions) -> Result<Manifest> {
    let facts = &checkpoint.facts;
    let score = options.score.unwrap_or(facts.score);
    let decision = Decision {
        format_version: FORMAT_VERSION,
        classes: facts.classes.clone(),
        input: facts.input,
        resizes: options.input == InputForm::AnySize,
        score,
        threshold: Some(threshold(checkpoint, options.threshold, score)?),
    };
    let history = History {
        producer: Some(producer()),
        architecture: Some(facts.architecture.clone()),
        loss: Some(facts.loss),
        anchors: Some(facts.anchors),
        precision: Some(options.precision),
        checked_with: Some(TRACT.to_owned()),
        imported: facts.imported.clone(),
        training: facts.training.clone(),
        ..History::default()
    };
    Ok(Manifest { decision, history })
}

/// Name and version of this toolkit, with the commit if it was built in a git checkout.
fn producer() -> String {
    let commit = option_env!("CAC_COMMIT").map(|commit| format!(" ({commit})")).unwrap_or_default();
    format!("{} {}{commit}", env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"))
}

/// Chooses the threshold of a score by a rule.
fn threshold(checkpoint: &Checkpoint, rule: ThresholdRule, score: RejectionScore) -> Result<Threshold> {
    // A recipe that trains on all images, such as the tutorial's, leaves only those of the test.
    let test = checkpoint.test.as_ref().map(|test| &test.known).filter(|_| checkpoint.held_out.is_empty());
    let logits = test.unwrap_or(&checkpoint.held_out);
    let distances = checkpoint.anchors.distances(logits.view());
    let mut scores = score.rejection(logits.view(), distances.view()).to_vec();
    scores.sort_unstable_by(f32::total_cmp);
    let (value, keep) = match rule {
        ThresholdRule::Value(value) if value.is_finite() => (value, None),
        ThresholdRule::Value(value) => return Err(Error::NotFinite { what: "the threshold", value }),
        ThresholdRule::Keep(keep) => (method::threshold(&scores, keep)?, Some(keep)),
    };
    let known = checkpoint.facts.training.as_ref().and_then(|training| training.get::<String>("known"));
    let data = match known {
        Some(known) if test.is_some() => format!("{} test images of {known}", scores.len()),
        Some(known) => format!("{} held-out training images of {known}", scores.len()),
        None => format!("{} known images given at the import", scores.len()),
    };
    Ok(Threshold { value, keep, data, is_from_test: test.is_some(), held_out_scores: scores })
}

fn model(graph: Graph, manifest: &Manifest) -> Model {
    Model {
        doc_string: "Open-set image classifier trained with Class Anchor Clustering. `images` are RGB in \
                     0..=1 (or bytes); `unknown` is `score` > `threshold`, `label` the nearest anchor."
            .to_owned(),
        ..Model::new(graph, properties(manifest))
    }
}

fn properties(manifest: &Manifest) -> Vec<Property> {
    manifest.to_properties().into_iter().map(|(key, value)| Property { key, value }).collect()
}

/// Runs the file on tract and compares its logits with the trained network's, and its other outputs with the
/// method's. Returns the largest difference of a logit.
fn check(
    checkpoint: &Checkpoint,
    decision: &Decision,
    scorer: &Scorer,
    precision: ModelPrecision,
) -> Result<f64> {
    let CheckBatch { images, logits } = &checkpoint.check;
    let found = scorer.score(images.view())?;
    let difference = difference_of_logits(found.logits.view(), logits.view());
    within("logits", if images.is_empty() { f64::INFINITY } else { difference }, tolerance(precision))?;
    check_head(checkpoint, decision, &found)?;
    Ok(difference)
}

/// The largest difference of a logit, as a share of the image's largest one: rounding within a network errs by a share of
/// what it adds up, also where the sum is small.
fn difference_of_logits(found: ArrayView2<f32>, expected: ArrayView2<f32>) -> f64 {
    let of_image = |(found, expected): (ArrayView1<f32>, ArrayView1<f32>)| {
        let largest = expected.fold(1.0_f32, |most, logit| most.max(logit.abs()));
        let apart = found.iter().zip(&expected).map(|(a, b)| f64::from((a - b).abs() / largest));
        apart.fold(0.0, greater)
    };
    found.rows().into_iter().zip(expected.rows()).map(of_image).fold(0.0, greater)
}

/// Compares the outputs that follow from the logits with the method's functions.
fn check_head(checkpoint: &Checkpoint, decision: &Decision, found: &Outputs) -> Result<()> {
    let distances = checkpoint.anchors.distances(found.logits.view());
    within("distances", greatest_difference(&found.distances, &distances), HEAD_TOLERANCE)?;
    let scores = decision.score.rejection(found.logits.view(), found.distances.view());
    let is_of_squares = decision.score == RejectionScore::PytorchOod;
    let differences =
        found.score.iter().zip(&scores).zip(found.distances.rows()).map(|((found, expected), row)| {
            // A float32 distance has seven digits. For a far image, its rounding error decides the softmin of
            // two similar distances, and the softmin is multiplied by the distance.
            let far = row.fold(0.0_f32, |most, &d| most.max(if is_of_squares { d * d } else { d }));
            f64::from((found - expected).abs())
                / f64::from(expected.abs()).max(1e-3 * f64::from(far).powi(2)).max(1.0)
        });
    within("score", differences.fold(0.0, greater), HEAD_TOLERANCE)?;
    let labels = method::nearest(found.distances.view());
    within("label", differing(&found.label, &labels), 0.0)?;
    let threshold = decision.threshold.as_ref().map_or(f32::INFINITY, |threshold| threshold.value);
    let verdicts: Vec<bool> = found.score.iter().map(|&score| method::is_unknown(score, threshold)).collect();
    within("unknown", differing(&found.unknown, &verdicts), 0.0)
}

fn within(what: &'static str, difference: f64, tolerance: f64) -> Result<()> {
    if difference <= tolerance {
        return Ok(());
    }
    Err(Error::SelfCheck { what, difference: greater(0.0, difference), tolerance })
}

/// The larger of two differences; NaN counts as infinite.
fn greater(a: f64, b: f64) -> f64 {
    if b.is_nan() { f64::INFINITY } else { a.max(b) }
}

fn differing<'a, T: PartialEq + 'a>(
    found: impl IntoIterator<Item = &'a T>,
    expected: impl IntoIterator<Item = &'a T>,
) -> f64 {
    found.into_iter().zip(expected).filter(|(found, expected)| found != expected).count() as f64
}
