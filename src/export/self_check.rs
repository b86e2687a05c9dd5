//! The self-check: a file's outputs on tract against the trained network's and the [method](crate::method)'s.

use ndarray::{Array1, ArrayView1, ArrayView2, Axis};

use super::{head::Head, threshold::relative};
use crate::{
    error::{Difference, Error, Result},
    method::{self, Activations, FittedScore, FittedTerm, LogitScore},
    model::{ModelPrecision, Threshold},
    run::{CheckBatch, Checkpoint},
    scorer::{Outputs, Scorer, greatest_difference},
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

/// Runs the file on tract and compares its logits with the trained network's, and its other outputs with the
/// method's. Returns the largest difference of a logit.
pub(super) fn check(
    checkpoint: &Checkpoint,
    head: &Head,
    scorer: &Scorer,
    precision: ModelPrecision,
) -> Result<f64> {
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
    check_verdicts(head.threshold, found)
}

/// Compares the outputs of a file with those before it got this threshold, and with the method's functions.
pub(super) fn check_threshold(threshold: &Threshold, found: &Outputs, before: &Outputs) -> Result<()> {
    let difference = difference_of_logits(found.logits.view(), before.logits.view());
    within("logits", difference, HEAD_TOLERANCE)?;
    same("labels", &found.label, &before.label.to_vec())?;
    within("scores", greatest_difference(&found.score, &before.score), HEAD_TOLERANCE)?;
    check_verdicts(threshold, found)
}

/// Compares the outputs that follow from the score with the method's functions.
fn check_verdicts(threshold: &Threshold, found: &Outputs) -> Result<()> {
    let Threshold { value, held_out_scores, operating_points, .. } = threshold;
    let verdicts: Vec<bool> = found.score.iter().map(|&score| method::is_unknown(score, *value)).collect();
    same("verdicts", &found.unknown, &verdicts)?;
    if let Some(found_at) = &found.unknown_at {
        let points = operating_points.iter().map(|point| point.threshold);
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
        FittedTerm::Logits(score @ (LogitScore::Cac | LogitScore::PytorchOod)) => {
            activations.distances.map_axis(Axis(1), |row| {
                let is_of_squares = *score == LogitScore::PytorchOod;
                let far = row.fold(0.0_f32, |most, &d| most.max(if is_of_squares { d * d } else { d }));
                1e-3 * f64::from(far).powi(2) * HEAD_TOLERANCE
            })
        }
        FittedTerm::Logits(_) => {
            let error = |score: f32| ROUNDINGS * f64::from(f32::EPSILON * score.abs());
            term.rejection(activations).mapv(error)
        }
    }
}

/// How many rounding errors may add up in one direction.
const ROUNDINGS: f64 = 30.0;

pub(super) fn within(what: &'static str, difference: f64, tolerance: f64) -> Result<()> {
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
pub(super) fn greater(a: f64, b: f64) -> f64 {
    if b.is_nan() { f64::INFINITY } else { a.max(b) }
}

#[cfg(test)]
mod tests {
    use ndarray::arr2;

    use super::*;

    #[test]
    fn the_length_of_anchors_allows_no_other_score_than_those_of_distances_to_differ() {
        let (logits, distances) = (arr2(&[[3000.0, 0.0]]), arr2(&[[1.0, 4242.0]]));
        let activations = Activations { features: None, logits: logits.view(), distances: distances.view() };
        for (score, is_tolerated) in [
            (LogitScore::Cac, true),
            (LogitScore::Msp, false),
            (LogitScore::MinDistance, false),
            (LogitScore::ENERGY, false),
        ] {
            let score = FittedScore::Single(FittedTerm::Logits(score));
            let expected = score.rejection(&activations).to_vec();
            let found = Array1::from_vec(expected.iter().map(|score| score + 0.5).collect());
            let difference = difference_of_scores(&score, &activations, &found, &expected);
            assert_eq!(difference <= HEAD_TOLERANCE, is_tolerated, "{score:?}: {difference}");
        }
    }
}
