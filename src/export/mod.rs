//! Writes a checkpoint as one self-contained ONNX file: network, anchors, score, threshold and manifest.
//!
//! The graph uses only opset 17 of `ai.onnx`, without functions or control flow, so that every common runtime
//! can run it. Nodes and tensors are named after the layers.

mod choose;
mod graph;
mod head;
mod numbers;
mod quantize;
mod resize;
pub mod triton;

use std::path::Path;

use ndarray::{Array1, Array2, Array4, ArrayView1, ArrayView2, Axis};
use prost::Message;

use head::Head;
use numbers::Numbers;

pub use crate::model::InputForm;
use crate::{
    arch,
    error::{Difference, Error, Result},
    eval::{Agreement, Evaluation},
    files::{atomic, sha256},
    fit::{self, Examples, Fitter},
    method::{self, Activations, FittedScore, FittedTerm, LastLayer, LogitScore, RejectionScore, Term},
    metrics::Bootstrap,
    model::{
        Choice, Decision, Degraded, FORMAT_VERSION, History, Manifest, ModelPrecision, OperatingPoint,
        PlaceScore, Robustness, Threshold,
        file::max_batch,
        proto::{Graph, Model, Property},
    },
    report::ReportOptions,
    run::{CheckBatch, Checkpoint, Features, Outliers, degraded_among},
    scorer::{Outputs, Provider, Scorer, greatest_difference, tract::TRACT},
    text::per_cent,
};

/// The self-check's tolerance for a logit, relative to the image's largest logit, or to 1 if that is smaller.
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
    /// The rejection score; by default the one that best separates held-out known images from stand-ins for
    /// unknown ones or, without features in the checkpoint, that of its training.
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
/// [`decide`], [`Error::SelfCheck`] if the check fails, [`Error::Io`] if the file cannot be written.
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
    let difference = check(checkpoint, &head, &scorer, options.precision)?;
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
            relative(&mut set.scores[0], &set.predicted, thresholds);
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
    let threshold = threshold(checkpoint, options, &score, fitter.as_ref(), history)?;
    if let (Some(fitter), Some(features)) = (&fitter, &checkpoint.features) {
        history.robustness = robustness(features, &score, fitter, &threshold);
    }
    decision.threshold = Some(threshold);
    Ok((manifest, score))
}

/// Chooses the score alone, for which there may be images enough even if there are too few for a threshold.
/// Returns the score and the metadata as [`decide`] does, without what depends on the threshold.
///
/// # Errors
/// [`Error::Setting`] if the score cannot be chosen, [`Error::Weights`] if the last layer is missing.
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
        places: options.logit_map.then(|| place_score(checkpoint, &score)).transpose()?,
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
            let outliers = training.and_then(|training| training.get::<Outliers>("outliers"));
            let has_outliers = outliers.is_some_and(|outliers| outliers != Outliers::None);
            let is_frozen = training.and_then(|training| training.get("freeze")) == Some(true);
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

/// The shares of known images that operating points keep, if there are enough images for them.
const OPERATING_POINTS: [f64; 3] = [0.9, 0.95, 0.99];

/// The score of places: the image's if it is a logit score, the logit score in a sum, else the energy. Single
/// places have larger logits than the image, their mean, so those of a strong class are far from its anchor:
/// by distance, they would look unknown.
fn place_score(checkpoint: &Checkpoint, score: &FittedScore) -> Result<PlaceScore> {
    let refused = |reason: &str| Err(Error::setting("logit map", true, reason));
    if checkpoint.facts.averages_views {
        return refused("cannot be combined with mirror images");
    }
    if !arch::averages(&checkpoint.facts.layers()?) {
        return refused("needs a network that averages its features over the image");
    }
    let of_logits_alone = |term| match term {
        Term::Logits(score) => Some(score).filter(|&score| score != LogitScore::MinDistance),
        Term::Features(_) => None,
    };
    let score = score.score().terms().find_map(of_logits_alone).unwrap_or(LogitScore::ENERGY);
    let (logits, _) = chosen_from(checkpoint);
    if logits.is_empty() {
        return refused("needs held-out known images, with which places are compared");
    }
    let distances = checkpoint.anchors.distances(logits.view());
    let mut held_out_scores = score.rejection(logits.view(), distances.view()).to_vec();
    held_out_scores.sort_unstable_by(f32::total_cmp);
    Ok(PlaceScore { score, held_out_scores })
}

/// The logits of the known images from which thresholds are chosen, and whether these are the test images: a
/// recipe that trains on all images, such as the tutorial's, leaves no others.
fn chosen_from(checkpoint: &Checkpoint) -> (&Array2<f32>, bool) {
    let calibrating = &checkpoint.held_out.calibrating;
    match checkpoint.test.as_ref().filter(|_| calibrating.is_empty()) {
        Some(test) => (&test.known, true),
        None => (calibrating, false),
    }
}

/// Chooses the threshold of a score by a rule.
fn threshold(
    checkpoint: &Checkpoint,
    options: &ExportOptions,
    score: &FittedScore,
    fitter: Option<&Fitter>,
    history: &History,
) -> Result<Threshold> {
    let rule = options.threshold;
    let (logits, is_from_test) = chosen_from(checkpoint);
    let scores = if !score.score().reads_features() {
        of_logits(checkpoint, score, logits)
    } else {
        let features = checkpoint.features.as_ref().and_then(|features| match is_from_test {
            false => Some(&features.calibrating),
            true => features.test.as_ref().map(|features| &features.known),
        });
        let (Some(fitter), Some(features)) = (fitter, features) else {
            let reason = "needs held-out images, or features of the test images";
            return Err(Error::setting("score", format!("`{}`", score.score()), reason));
        };
        score.rejection(&fitter.sample(features).activations())
    };
    let mut scores = scores.to_vec();
    let by_class = if options.per_class {
        let predicted = method::nearest(checkpoint.anchors.distances(logits.view()).view());
        Some(by_class(&checkpoint.facts.classes, rule, &scores, &predicted)?)
    } else {
        None
    };
    scores.sort_unstable_by(f32::total_cmp);
    let (value, keep) = match rule {
        // The score is relative to the threshold of its class.
        ThresholdRule::Keep(keep) if by_class.is_some() => (0.0, Some(keep)),
        ThresholdRule::Value(value) if value.is_finite() => (value, None),
        ThresholdRule::Value(value) => return Err(Error::NotFinite { what: "the threshold", value }),
        ThresholdRule::Keep(keep) => (method::threshold(&scores, keep)?, Some(keep)),
    };
    let training = checkpoint.facts.training.as_ref();
    let known = training.and_then(|training| training.get::<String>("known"));
    let data = match known {
        Some(known) if is_from_test => format!("{} test images of {known}", scores.len()),
        Some(known) => format!("{} held-out training images of {known}", scores.len()),
        None => format!("{} known images given at the import", scores.len()),
    };
    let holds = !is_from_test && history.doubt_of_held_out().is_none();
    let kept_at_least = keep.filter(|_| holds).map(|keep| match &by_class {
        Some(by_class) => by_class.kept_at_least,
        None => method::kept_at_least(scores.len(), keep),
    });
    // A score relative to a threshold that was chosen from it is not distributed like that of a new image.
    let held_out_scores = if by_class.is_some() { Vec::new() } else { scores };
    // Those for which there are enough scores.
    let operating_points = OPERATING_POINTS.into_iter().filter_map(|keep| {
        Some(OperatingPoint { keep, threshold: method::threshold(&held_out_scores, keep).ok()? })
    });
    let operating_points = operating_points.collect();
    Ok(Threshold {
        value,
        keep,
        kept_at_least,
        data,
        is_from_test,
        held_out_scores,
        classes: by_class.map(|by_class| by_class.thresholds),
        operating_points,
    })
}

/// What the threshold keeps of the images that calibrate, as they are and degraded; `None` without degraded
/// ones.
fn robustness(
    features: &Features,
    score: &FittedScore,
    fitter: &Fitter,
    threshold: &Threshold,
) -> Option<Robustness> {
    let undegraded = degraded_among(&(0..features.calibrating.nrows()).collect::<Vec<_>>());
    if undegraded.is_empty() || features.degraded.is_empty() {
        return None;
    }
    // The class of each image that is kept.
    let kept = |features: &Array2<f32>| -> Vec<Option<usize>> {
        let sample = fitter.sample(features);
        let activations = sample.activations();
        let predicted = method::nearest(activations.distances);
        let mut scores = score.rejection(&activations).to_vec();
        if let Some(thresholds) = &threshold.classes {
            relative(&mut scores, &predicted, thresholds);
        }
        let is_kept = |score: f32| !method::is_unknown(score, threshold.value);
        predicted
            .into_iter()
            .zip(scores)
            .map(|(class, score)| Some(class).filter(|_| is_kept(score)))
            .collect()
    };
    let share = |count: usize| count as f64 / undegraded.len() as f64;
    let clean = kept(&features.calibrating.select(Axis(0), &undegraded));
    let degraded = features.degraded.iter().map(|(degradation, features)| {
        let degraded = kept(features);
        let is_same = |(one, clean): &(&Option<usize>, &Option<usize>)| one.is_some() && one == clean;
        Degraded {
            degradation: *degradation,
            kept: share(degraded.iter().flatten().count()),
            same_class: share(degraded.iter().zip(&clean).filter(is_same).count()),
        }
    });
    Some(Robustness {
        images: undegraded.len(),
        kept: share(clean.iter().flatten().count()),
        degraded: degraded.collect(),
    })
}

/// Thresholds by predicted class.
struct ByClass {
    thresholds: Vec<f32>,
    /// The least share of a class that is kept with a confidence of 95 %.
    kept_at_least: f64,
}

/// Chooses a threshold for each class, from the scores of the images predicted as that class.
fn by_class(classes: &[String], rule: ThresholdRule, scores: &[f32], predicted: &[usize]) -> Result<ByClass> {
    let ThresholdRule::Keep(keep) = rule else {
        return Err(Error::setting("per class", true, "needs a share to keep, not a threshold"));
    };
    let mut least = 1.0_f64;
    let thresholds = classes.iter().enumerate().map(|(class, name)| {
        let own = scores.iter().zip(predicted).filter(|&(_, &predicted)| predicted == class);
        let mut own: Vec<f32> = own.map(|(&score, _)| score).collect();
        own.sort_unstable_by(f32::total_cmp);
        least = least.min(method::kept_at_least(own.len(), keep));
        method::threshold(&own, keep).map_err(|error| match error {
            Error::TooFewHeldOut { found, needed, .. } => {
                let reason = format!(
                    "class `{name}` needs {needed} held-out images to keep {} %, it has {found}",
                    per_cent(keep)
                );
                Error::setting("per class", true, reason)
            }
            error => error,
        })
    });
    Ok(ByClass { thresholds: thresholds.collect::<Result<_>>()?, kept_at_least: least })
}

/// Makes scores relative to the thresholds of the predicted classes.
fn relative(scores: &mut [f32], predicted: &[usize], thresholds: &[f32]) {
    scores.iter_mut().zip(predicted).for_each(|(score, &class)| *score -= thresholds[class]);
}

/// The scores `[N]` of logits `[N, C]`, for a score that reads no features.
fn of_logits(checkpoint: &Checkpoint, score: &FittedScore, logits: &Array2<f32>) -> Array1<f32> {
    let distances = checkpoint.anchors.distances(logits.view());
    score.rejection(&Activations { features: None, logits: logits.view(), distances: distances.view() })
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
fn check(checkpoint: &Checkpoint, head: &Head, scorer: &Scorer, precision: ModelPrecision) -> Result<f64> {
    let CheckBatch { images, logits } = &checkpoint.check;
    let found = scorer.score(images.view())?;
    let difference = difference_of_logits(found.logits.view(), logits.view());
    within("logits", if images.is_empty() { f64::INFINITY } else { difference }, tolerance(precision))?;
    if let Some(map) = &found.logit_map {
        let means = map.mean_axis(Axis(3)).and_then(|means| means.mean_axis(Axis(2))).expect("places");
        within(
            "means of logit maps",
            difference_of_logits(means.view(), found.logits.view()),
            HEAD_TOLERANCE,
        )?;
    }
    check_head(head, &found)?;
    Ok(difference)
}

/// The largest difference of a logit, relative to the image's largest one above 1: rounding errors in a
/// network are proportional to the terms of a sum, even if the sum is small.
fn difference_of_logits(found: ArrayView2<f32>, expected: ArrayView2<f32>) -> f64 {
    let of_image = |(found, expected): (ArrayView1<f32>, ArrayView1<f32>)| {
        let largest = expected.fold(1.0_f32, |most, logit| most.max(logit.abs()));
        let apart = found.iter().zip(&expected).map(|(a, b)| f64::from((a - b).abs() / largest));
        apart.fold(0.0, greater)
    };
    found.rows().into_iter().zip(expected.rows()).map(of_image).fold(0.0, greater)
}

/// Compares the outputs that follow from logits and features with the method's functions.
fn check_head(head: &Head, found: &Outputs) -> Result<()> {
    let distances = head.anchors.distances(found.logits.view());
    within("distances", greatest_difference(&found.distances, &distances), HEAD_TOLERANCE)?;
    let labels = method::nearest(found.distances.view());
    let reads_features = head.score.score().reads_features();
    // Without features as an output there is nothing to compare with.
    if !reads_features || found.features.is_some() {
        let activations = found.activations();
        let mut scores = head.score.rejection(&activations).to_vec();
        if let Some(thresholds) = &head.threshold.classes {
            relative(&mut scores, &labels, thresholds);
        }
        within(
            "scores",
            difference_of_scores(head.score, &activations, &found.score, &scores),
            HEAD_TOLERANCE,
        )?;
    }
    same("labels", &found.label, &labels)?;
    let Threshold { value, held_out_scores, .. } = head.threshold;
    let verdicts: Vec<bool> = found.score.iter().map(|&score| method::is_unknown(score, *value)).collect();
    same("verdicts", &found.unknown, &verdicts)?;
    if let Some(found_at) = &found.unknown_at {
        let points = head.threshold.operating_points.iter().map(|point| point.threshold);
        let at_points = |&score: &f32| points.clone().map(|value| method::is_unknown(score, value)).collect();
        let expected: Vec<Vec<bool>> = found.score.iter().map(at_points).collect();
        let found_at: Vec<Vec<bool>> = found_at.rows().into_iter().map(|row| row.to_vec()).collect();
        same("verdicts at operating points", &found_at, &expected)?;
    }
    // Without held-out scores there is no such output.
    let compared = found.score.iter().filter(|_| !held_out_scores.is_empty());
    let p_values: Vec<f32> = compared.map(|&score| method::p_value(held_out_scores, score)).collect();
    within("p-values", greatest_difference(found.p_value.iter().flatten(), &p_values), HEAD_TOLERANCE)
}

/// The largest difference of a score, relative above 1, beyond what rounding can explain.
fn difference_of_scores(
    score: &FittedScore,
    activations: &Activations,
    found: &Array1<f32>,
    expected: &[f32],
) -> f64 {
    let rounding = match score {
        FittedScore::Single(term) => rounding(term, activations),
        FittedScore::Sum(terms) => {
            let [one, other] = terms
                .each_ref()
                .map(|(term, standard)| rounding(term, activations) / f64::from(standard.deviation));
            one + other
        }
    };
    let differences = found.iter().zip(expected).zip(rounding).map(|((found, expected), rounding)| {
        f64::from((found - expected).abs())
            / f64::from(expected.abs()).max(1.0).max(rounding / HEAD_TOLERANCE)
    });
    differences.fold(0.0, greater)
}

/// How far rounding may move each score.
fn rounding(term: &FittedTerm, activations: &Activations) -> Array1<f64> {
    match term {
        FittedTerm::Features(constants) => {
            constants.rounding(activations.features()).mapv(|error| ROUNDINGS * f64::from(error))
        }
        // A float32 distance has seven digits. For a far image, its rounding error decides the softmin of two
        // similar distances, and the softmin is multiplied by the distance.
        FittedTerm::Logits(score) => activations.distances.map_axis(Axis(1), |row| {
            let is_of_squares = *score == LogitScore::PytorchOod;
            let far = row.fold(0.0_f32, |most, &d| most.max(if is_of_squares { d * d } else { d }));
            1e-3 * f64::from(far).powi(2) * HEAD_TOLERANCE
        }),
    }
}

/// How many rounding errors may add up in one direction.
const ROUNDINGS: f64 = 30.0;

fn within(what: &'static str, difference: f64, tolerance: f64) -> Result<()> {
    if difference <= tolerance {
        return Ok(());
    }
    Err(Error::SelfCheck { what, difference: Difference::Value(greater(0.0, difference)) })
}

/// Checks that no value differs, and that none is missing.
fn same<'a, T: PartialEq + 'a>(
    what: &'static str,
    found: impl IntoIterator<Item = &'a T, IntoIter: ExactSizeIterator>,
    expected: &'a [T],
) -> Result<()> {
    let found = found.into_iter();
    let missing = found.len().abs_diff(expected.len());
    match missing + found.zip(expected).filter(|(found, expected)| found != expected).count() {
        0 => Ok(()),
        differing => Err(Error::SelfCheck { what, difference: Difference::Images(differing) }),
    }
}

/// The larger of two differences; NaN counts as infinite.
fn greater(a: f64, b: f64) -> f64 {
    if b.is_nan() { f64::INFINITY } else { a.max(b) }
}
