//! The choice of the threshold, and what it keeps of degraded images.

use ndarray::{Array1, Array2, Axis};

use super::{ExportOptions, ThresholdRule};
use crate::{
    arch,
    error::{Error, Result},
    fit::Fitter,
    method::{self, Activations, Anchors, FittedScore, LogitScore, Term},
    model::{Degraded, History, OperatingPoint, PlaceScore, Robustness, Threshold},
    run::{Checkpoint, Features, degraded_among},
    text::per_cent,
};

/// The shares of known images that operating points keep, if there are enough images for them.
const OPERATING_POINTS: [f64; 3] = [0.9, 0.95, 0.99];

/// The score of places: the image's if it is a logit score, the logit score in a sum, else the energy. Single
/// places have larger logits than the image, their mean, so those of a strong class are far from its anchor:
/// by distance, they would look unknown.
pub(super) fn place_score(checkpoint: &Checkpoint, score: &FittedScore) -> Result<PlaceScore> {
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
    Ok(place_scores(score, &checkpoint.anchors, logits))
}

/// The score of places with its values for whole images.
pub(super) fn place_scores(score: LogitScore, anchors: &Anchors, logits: &Array2<f32>) -> PlaceScore {
    let distances = anchors.distances(logits.view());
    let mut held_out_scores = score.rejection(logits.view(), distances.view()).to_vec();
    held_out_scores.sort_unstable_by(f32::total_cmp);
    PlaceScore { score, held_out_scores }
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

/// Chooses the threshold of a score from the known images of a checkpoint.
pub(super) fn of_checkpoint(
    checkpoint: &Checkpoint,
    options: &ExportOptions,
    score: &FittedScore,
    fitter: Option<&Fitter>,
    history: &History,
) -> Result<Threshold> {
    let (logits, is_from_test) = chosen_from(checkpoint);
    let scores = if !score.score().reads_features() {
        of_logits(checkpoint, score, logits)
    } else {
        let features = checkpoint.features.as_ref().and_then(|features| {
            if is_from_test {
                features.test.as_ref().map(|features| &features.known)
            } else {
                Some(&features.calibrating)
            }
        });
        let (Some(fitter), Some(features)) = (fitter, features) else {
            let reason = "needs held-out images, or features of the test images";
            return Err(Error::setting("score", format!("`{}`", score.score()), reason));
        };
        score.rejection(&fitter.sample(features).activations())
    };
    let predicted =
        options.per_class.then(|| method::nearest(checkpoint.anchors.distances(logits.view()).view()));
    let training = checkpoint.facts.training.as_ref();
    let known = training.and_then(|training| training.known.as_ref());
    let count = scores.len();
    let data = match known {
        Some(known) if is_from_test => format!("{count} test images of {known}"),
        Some(known) => format!("{count} held-out training images of {known}"),
        None => format!("{count} known images given at the import"),
    };
    let is_unseen = !is_from_test && history.doubt_of_held_out().is_none();
    let set = CalibrationSet { scores: scores.to_vec(), predicted, data, is_from_test, is_unseen };
    set.threshold(options.threshold, &checkpoint.facts.classes)
}

/// The known images from which a threshold is chosen.
pub(super) struct CalibrationSet {
    /// Their scores, in any order.
    pub scores: Vec<f32>,
    /// The classes that they are predicted as, if each class gets a threshold.
    pub predicted: Option<Vec<usize>>,
    /// What they are, in words.
    pub data: String,
    /// Whether they are the test images.
    pub is_from_test: bool,
    /// Whether nothing was chosen by them before, so that the threshold has a guarantee.
    pub is_unseen: bool,
}

impl CalibrationSet {
    /// Chooses the threshold by a rule.
    pub fn threshold(self, rule: ThresholdRule, classes: &[String]) -> Result<Threshold> {
        let Self { mut scores, predicted, data, is_from_test, is_unseen } = self;
        // JSON has no such numbers.
        if let Some(&value) = scores.iter().find(|score| !score.is_finite()) {
            return Err(Error::NotFinite { what: "a held-out score", value });
        }
        let by_class = predicted.map(|predicted| by_class(classes, rule, &scores, &predicted)).transpose()?;
        scores.sort_unstable_by(f32::total_cmp);
        let (value, keep) = match rule {
            // The score is relative to the threshold of its class.
            ThresholdRule::Keep(keep) if by_class.is_some() => (0.0, Some(keep)),
            ThresholdRule::Value(value) if value.is_finite() => (value, None),
            ThresholdRule::Value(value) => return Err(Error::NotFinite { what: "the threshold", value }),
            ThresholdRule::Keep(keep) => (method::threshold(&scores, keep)?, Some(keep)),
        };
        let kept_at_least = keep.filter(|_| is_unseen).map(|keep| match &by_class {
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
}

/// What the threshold keeps of the images that calibrate, as they are and degraded; `None` without degraded
/// ones.
pub(super) fn robustness(
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
    /// The least share of a class that is kept with 95 % confidence.
    kept_at_least: f64,
}

/// Chooses a threshold for each class, from the scores of the images predicted as that class.
fn by_class(classes: &[String], rule: ThresholdRule, scores: &[f32], predicted: &[usize]) -> Result<ByClass> {
    let ThresholdRule::Keep(keep) = rule else {
        return Err(Error::setting("per class", true, "needs a share to keep, not a threshold"));
    };
    let mut by_class = vec![Vec::new(); classes.len()];
    scores.iter().zip(predicted).for_each(|(&score, &class)| by_class[class].push(score));
    let mut least = 1.0_f64;
    let thresholds = classes.iter().zip(&mut by_class).map(|(name, own)| {
        own.sort_unstable_by(f32::total_cmp);
        least = least.min(method::kept_at_least(own.len(), keep));
        method::threshold(own, keep).map_err(|error| match error {
            Error::TooFewHeldOut { found, needed, .. } => {
                let images = if needed == 1 { "image" } else { "images" };
                let reason = format!(
                    "class `{name}` needs {needed} {images} predicted as it to keep {} %; there are {found}",
                    per_cent(keep)
                );
                Error::setting("keep", keep, reason)
            }
            error => error,
        })
    });
    Ok(ByClass { thresholds: thresholds.collect::<Result<_>>()?, kept_at_least: least })
}

/// Makes scores relative to the thresholds of the predicted classes.
pub(super) fn relative(scores: &mut [f32], predicted: &[usize], thresholds: &[f32]) {
    scores.iter_mut().zip(predicted).for_each(|(score, &class)| *score -= thresholds[class]);
}

/// The scores `[N]` of logits `[N, C]`, for a score that reads no features.
fn of_logits(checkpoint: &Checkpoint, score: &FittedScore, logits: &Array2<f32>) -> Array1<f32> {
    let distances = checkpoint.anchors.distances(logits.view());
    score.rejection(&Activations { features: None, logits: logits.view(), distances: distances.view() })
}
