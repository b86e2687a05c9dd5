//! Writes a checkpoint as one self-contained ONNX file: network, anchors, score, threshold and manifest.
//!
//! The graph uses only opset 17 of `ai.onnx`, without functions or control flow, so that every common runtime
//! can run it. Nodes and tensors are named after the layers.

mod choose;
mod graph;
mod head;
mod numbers;
mod quantize;
mod recalibrate;
mod resize;
mod self_check;
mod threshold;
pub mod triton;

use std::path::Path;

use ndarray::Array4;
use prost::Message;

use head::Head;
use numbers::Numbers;

pub use self::recalibrate::{RecalibrateOptions, Recalibrated, recalibrate};
pub use crate::model::InputForm;
use crate::{
    arch,
    error::{Error, Result},
    eval::{Agreement, Evaluation},
    files::{atomic, sha256},
    fit::{self, Examples, Fitter},
    image::Input,
    method::{self, FittedScore, LastLayer, RejectionScore, Term, Variant},
    metrics::Bootstrap,
    model::{
        Choice, Decision, FORMAT_VERSION, History, Manifest, ModelPrecision, Threshold,
        file::max_batch,
        proto::{Graph, Model, Property},
    },
    report::ReportOptions,
    run::{Checkpoint, Features, Outliers},
    scorer::{Provider, Scorer, tract::TRACT},
};

/// The options of an export.
#[derive(Debug, Clone, PartialEq)]
pub struct ExportOptions {
    /// The rejection score. By default:
    /// - the one that best separates held-out known images from stand-ins for unknown ones;
    /// - with too few held-out images for that, `knn` if the last layer alone was trained, without outliers;
    /// - otherwise, and without features in the checkpoint, that of the training.
    pub score: Option<RejectionScore>,
    /// The size limit of a feature score's constants, in bytes; see [`fit::fit`].
    pub limit: usize,
    /// Whether features are an output.
    pub features: bool,
    /// Whether the logits of each place are an output, `logit_map`. The network must average its features
    /// over the image, and held-out or test images must have been scored.
    pub logit_map: bool,
    /// Whether each predicted class has its own threshold, which keeps its share of the images of that class.
    pub per_class: bool,
    /// Whether the threshold is an optional input, with the chosen one as its default.
    pub threshold_input: bool,
    /// How the threshold is chosen.
    pub threshold: ThresholdRule,
    /// The format of the input.
    pub input: InputForm,
    /// A fixed batch size, for engines that need static shapes; dynamic by default.
    pub batch: Option<usize>,
    /// The precision of the network.
    pub precision: ModelPrecision,
    /// Known images `[N, 3, H, W]` in 0..=1; a few hundred are enough. [`ModelPrecision::Int8`] measures the
    /// ranges of activations on them. Models in f16 and int8 are compared with float32 on them.
    pub calibration: Option<Array4<f32>>,
}

impl Default for ExportOptions {
    fn default() -> Self {
        Self {
            score: None,
            limit: fit::LIMIT,
            features: true,
            logit_map: false,
            per_class: false,
            threshold_input: false,
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
    /// The [threshold](method::threshold) that keeps this share, 0 to below 1, of new known images, chosen
    /// from held-out ones; from the known test images if the training held none out.
    Keep(f64),
    /// This value.
    Value(f32),
}

impl ExportOptions {
    /// Checks the options against the network's input. [`export`] repeats this, and checks what depends on the data.
    ///
    /// # Errors
    /// [`Error::Setting`] if the batch is too large, or a graph cannot resize to the input.
    pub fn check(&self, input: &Input) -> Result<()> {
        let most = max_batch(input);
        if let Some(batch) = self.batch.filter(|batch| !(1..=most).contains(batch)) {
            return Err(Error::setting("batch", batch, format!("must be from 1 to {most}")));
        }
        if self.input == InputForm::AnySize { resize::check_input(input) } else { Ok(()) }
    }
}

/// The result of an export.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Exported {
    /// The metadata of the file.
    pub manifest: Manifest,
    /// The size of the file in bytes.
    pub bytes: usize,
    /// SHA-256 of the file, in hexadecimal.
    pub sha256: String,
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
/// [`Error::Weights`] and [`Error::Setting`] if the checkpoint or the options are invalid, those of
/// [`decide`], [`Report::new`](crate::report::Report::new), [`Scorer::from_bytes`] and, for the calibration images,
/// [`Scorer::score`], [`Error::SelfCheck`] if the check fails, [`Error::Runtime`] if tract fails, [`Error::Io`] if the file cannot be written.
pub fn export(checkpoint: &Checkpoint, options: &ExportOptions, path: &Path) -> Result<Exported> {
    let (exported, bytes) = build(checkpoint, options)?;
    atomic::write(path, &bytes)?;
    Ok(exported)
}

/// [`export`] into memory: the result, and the bytes of the file.
///
/// # Errors
/// Those of [`export`], except [`Error::Io`].
pub fn build(checkpoint: &Checkpoint, options: &ExportOptions) -> Result<(Exported, Vec<u8>)> {
    options.check(&checkpoint.facts.input)?;
    let (mut manifest, score) = describe(checkpoint, options)?;
    let threshold = manifest.decision.threshold.clone().expect("an export chooses a threshold");
    let features = arch::feature_count(&checkpoint.facts.layers()?);
    let head = Head { anchors: &checkpoint.anchors, score: &score, threshold: &threshold, features };
    let file = |numbers| -> Result<Model> {
        Ok(model(graph::graph(checkpoint, &head, options, numbers)?, &manifest))
    };
    let open = |model: &Model| match Scorer::from_bytes(&model.encode_to_vec(), Provider::Cpu) {
        Err(Error::Model { reason, .. }) if options.precision == ModelPrecision::Float16 => {
            Err(Error::setting(
                "file precision",
                options.precision,
                format!("does not hold the weights: {reason}"),
            ))
        }
        opened => opened,
    };
    let mut model = file(numbers(checkpoint, options)?)?;
    let scorer = open(&model)?;
    let difference = self_check::check(checkpoint, &head, &scorer, options.precision)?;
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
    let exported = Exported { manifest, bytes: bytes.len(), sha256: sha256(&bytes), difference, agreement };
    Ok((exported, bytes))
}

/// The number format of the network.
fn numbers(checkpoint: &Checkpoint, options: &ExportOptions) -> Result<Numbers> {
    match options.precision {
        ModelPrecision::Float32 => Ok(Numbers::Float32),
        ModelPrecision::Float16 => Ok(Numbers::Float16),
        ModelPrecision::Int8 => {
            let images = options.calibration.as_ref().filter(|images| !images.is_empty());
            let reason = "needs known images for calibration";
            let images = images.ok_or_else(|| Error::setting("file precision", options.precision, reason))?;
            let (observer, tensors) = graph::observer(checkpoint)?;
            let observer = Model::new(observer, Vec::new()).encode_to_vec();
            Ok(Numbers::Int8(quantize::ranges(&observer, &tensors, images.view())?))
        }
    }
}

/// The metadata of the file, decision and history, and its score.
fn describe(checkpoint: &Checkpoint, options: &ExportOptions) -> Result<(Manifest, FittedScore)> {
    let (mut manifest, score) = decide(checkpoint, options)?;
    let threshold = manifest.decision.threshold.as_ref().map(|threshold| threshold.value);
    let report_options = ReportOptions { bootstrap: Some(Bootstrap::default()), ..ReportOptions::default() };
    let mut evaluation = Evaluation::of_checkpoint(checkpoint, &score, threshold);
    if let Some(Threshold { classes: Some(thresholds), .. }) = &manifest.decision.threshold {
        for set in evaluation.iter_mut().flat_map(Evaluation::sets_mut) {
            threshold::relative(&mut set.scores[0], &set.predicted, thresholds);
        }
    }
    manifest.history.metrics =
        evaluation.map(|evaluation| evaluation.report(0, &report_options)).transpose()?;
    Ok((manifest, score))
}

/// Chooses score and threshold. Returns the score, and the metadata that an export writes, without what it
/// measures: metrics, golden batch and the check of resizing.
///
/// # Errors
/// Those of [`without_threshold`]; [`Error::TooFewHeldOut`] and [`Error::Setting`] if the threshold cannot be
/// chosen, [`Error::NotFinite`] if a given threshold is not finite.
pub fn decide(checkpoint: &Checkpoint, options: &ExportOptions) -> Result<(Manifest, FittedScore)> {
    let last_layer = checkpoint.last_layer()?;
    let fitter = fitter(checkpoint, &last_layer, options);
    let (mut manifest, score) = with_score(checkpoint, options, fitter.as_ref())?;
    let Manifest { decision, history } = &mut manifest;
    let threshold = threshold::of_checkpoint(checkpoint, options, &score, fitter.as_ref(), history)?;
    if let (Some(fitter), Some(features)) = (&fitter, &checkpoint.features) {
        history.robustness = threshold::robustness(features, &score, fitter, &threshold);
    }
    decision.threshold = Some(threshold);
    Ok((manifest, score))
}

/// Chooses the score alone, for which there may be images enough even if there are too few for a threshold.
/// Returns the score and the metadata as [`decide`] does, without what depends on the threshold.
///
/// # Errors
/// [`Error::Weights`] if the last layer is missing, those of [`fit::fit`], [`Error::Unstandardised`] if a term of a sum
/// is the same for all images, [`Error::Scores`] if a score of an image is NaN.
pub fn without_threshold(
    checkpoint: &Checkpoint,
    options: &ExportOptions,
) -> Result<(Manifest, FittedScore)> {
    let last_layer = checkpoint.last_layer()?;
    with_score(checkpoint, options, fitter(checkpoint, &last_layer, options).as_ref())
}

/// What fits scores to the training images; `None` without their features.
fn fitter<'a>(
    checkpoint: &'a Checkpoint,
    last_layer: &'a LastLayer,
    options: &ExportOptions,
) -> Option<Fitter<'a>> {
    checkpoint.features.as_ref().map(|Features { training, labels, choosing, .. }| Fitter {
        examples: Examples { features: training.view(), labels, last_layer },
        known: choosing,
        anchors: &checkpoint.anchors,
        limit: Some(options.limit),
    })
}

fn with_score(
    checkpoint: &Checkpoint,
    options: &ExportOptions,
    fitter: Option<&Fitter>,
) -> Result<(Manifest, FittedScore)> {
    let facts = &checkpoint.facts;
    let (score, choice) = chosen_score(checkpoint, options, fitter)?;
    let history = History {
        producer: Some(producer()),
        architecture: Some(facts.architecture.clone()),
        loss: Some(facts.loss),
        anchors: Some(facts.anchors),
        precision: Some(options.precision),
        averages_views: facts.averages_views.then_some(true),
        checked_with: Some(TRACT.to_owned()),
        imported: facts.imported.clone(),
        training: facts.training.clone(),
        choice,
        ..History::default()
    };
    let decision = Decision {
        format_version: FORMAT_VERSION,
        classes: facts.classes.clone(),
        input: facts.input,
        resizes: options.input == InputForm::AnySize,
        score: score.score(),
        threshold: None,
        places: options.logit_map.then(|| threshold::place_score(checkpoint, &score)).transpose()?,
    };
    Ok((Manifest { decision, history }, score))
}

/// The score that is asked for, or else the one that the measurement chooses, with that measurement.
fn chosen_score(
    checkpoint: &Checkpoint,
    options: &ExportOptions,
    fitter: Option<&Fitter>,
) -> Result<(FittedScore, Option<Choice>)> {
    let facts = &checkpoint.facts;
    Ok(match (options.score, fitter, &checkpoint.features) {
        (Some(RejectionScore::Single(Term::Logits(score))), ..) => (score.into(), None),
        (Some(score), Some(fitter), _) => (fitter.fit(score)?, None),
        (Some(score), None, _) => {
            let images = checkpoint.held_out.calibrating.nrows();
            let reason = match facts.imported {
                Some(_) if images > 0 => {
                    format!("needs more known images: all {images} are used to choose the threshold")
                }
                _ => "needs features, which a training computes at its end and an import from known images"
                    .to_owned(),
            };
            return Err(Error::setting("score", format!("`{score}`"), reason));
        }
        (None, Some(fitter), Some(features)) => {
            let training = facts.training.as_ref();
            let outliers = training.and_then(|training| training.setting::<Outliers>("outliers"));
            let has_outliers = outliers.is_some_and(|outliers| outliers != Outliers::None);
            let is_frozen = training.and_then(|training| training.setting("freeze")) == Some(true);
            match choose::choose(fitter, facts.loss.magnitude, has_outliers, &features.stand_ins)? {
                Some((score, choice)) => (score, Some(choice)),
                None if is_frozen && !has_outliers && !checkpoint.held_out.calibrating.is_empty() => {
                    let unmeasured = choose::without_measurement(fitter);
                    (unmeasured.unwrap_or_else(|| facts.score.into()), None)
                }
                None => (facts.score.into(), None),
            }
        }
        (None, ..) => (facts.score.into(), None),
    })
}

/// Name and version of this toolkit, with the commit if it was built in a git checkout.
fn producer() -> String {
    let commit = option_env!("CAC_COMMIT").map(|commit| format!(" ({commit})")).unwrap_or_default();
    format!("{} {}{commit}", env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"))
}

fn model(graph: Graph, manifest: &Manifest) -> Model {
    let is_cac = manifest.history.loss.is_some_and(|loss| loss.variant != Variant::CrossEntropy);
    let loss = if is_cac { " trained with Class Anchor Clustering" } else { "" };
    Model {
        doc_string: format!(
            "Open-set image classifier{loss}. `images` are RGB in 0..=1 (or bytes); `unknown` is `score` > \
             `threshold`, `label` the nearest anchor."
        ),
        ..Model::new(graph, properties(manifest))
    }
}

fn properties(manifest: &Manifest) -> Vec<Property> {
    manifest.to_properties().into_iter().map(|(key, value)| Property { key, value }).collect()
}
