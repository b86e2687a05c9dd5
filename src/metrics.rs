//! Out-of-distribution metrics from scores: exact, over unique thresholds.
//!
//! Everywhere *unknown* is the positive class and a larger score means *more likely unknown*. A picture is
//! flagged at a threshold t where its score is at least t. All functions are pure.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The metrics of one set of known pictures against one set of unknown ones; all within 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Area under the ROC curve; a tie counts one half. Larger is better.
    pub auroc: f64,
    /// Area under precision against recall (trapezoids, ending at recall 0, precision 1) with *known* as the
    /// positive class and the score negated. Larger is better.
    pub aupr_in: f64,
    /// The same with *unknown* as the positive class. Larger is better.
    pub aupr_out: f64,
    /// FPR95TPR of pytorch-ood and OpenOOD: the share of known pictures flagged at the highest threshold that
    /// flags at least 95 % of the unknown. Smaller is better.
    pub fpr95_tpr: f64,
    /// The other convention (`detectors`, ARPL): the share of unknown pictures accepted at the lowest
    /// threshold that keeps at least 95 % of the known. Smaller is better.
    pub fpr_at_95_known_kept: f64,
    /// Open-set classification rate (Dhamija et al., 2018): area under the share of known pictures both
    /// accepted and right against the share of unknown accepted. Equals the accuracy for a perfect detector.
    pub oscr: f64,
    /// The greatest (true positive rate + 1 - false positive rate) / 2 over all thresholds.
    pub detection_accuracy: f64,
}

/// What is flagged at one threshold, as counts.
#[derive(Clone, Copy, Default)]
struct Flagged {
    unknown: u64,
    known: u64,
    known_right: u64,
}

impl Metrics {
    /// Computes all metrics. `right[i]` says whether known picture `i` was given its true class.
    ///
    /// Time is that of sorting the scores; infinite scores are allowed.
    ///
    /// # Errors
    /// [`Error::Scores`] where a side is empty, a score is NaN, or `right` has another length than `known`.
    pub fn new(known: &[f32], right: &[bool], unknown: &[f32]) -> Result<Self> {
        if known.is_empty() || unknown.is_empty() {
            let (known, unknown) = (known.len(), unknown.len());
            return Err(Error::Scores(format!("{known} known and {unknown} unknown pictures")));
        }
        if known.len() != right.len() {
            return Err(Error::Scores(format!("{} known scores, {} verdicts", known.len(), right.len())));
        }
        if known.iter().chain(unknown).any(|score| score.is_nan()) {
            return Err(Error::Scores("a score is not a number (NaN)".to_owned()));
        }
        Ok(Self::from_curve(&flagged(known, right, unknown)))
    }

    /// `curve` runs from nothing flagged to everything flagged.
    fn from_curve(curve: &[Flagged]) -> Self {
        let total = *curve.last().expect("a curve has a first and a last point");
        let (p, n) = (total.unknown as f64, total.known as f64);
        let (mut auroc, mut aupr_in, mut aupr_out, mut oscr) = (0_u128, 0.0, 0.0, 0_u128);
        let mut detection_accuracy = 0.0_f64;
        let precision = |hits: u64, misses: u64| {
            if hits + misses == 0 { 1.0 } else { hits as f64 / (hits + misses) as f64 }
        };
        for pair in curve.windows(2) {
            let (before, after) = (pair[0], pair[1]);
            auroc += u128::from(after.known - before.known) * u128::from(after.unknown + before.unknown);
            // Accepted is what is not flagged; the heights are the known pictures accepted and right.
            let right = |at: Flagged| u128::from(total.known_right - at.known_right);
            oscr += u128::from(after.unknown - before.unknown) * (right(before) + right(after));
            aupr_out += (after.unknown - before.unknown) as f64 / p / 2.0
                * (precision(before.unknown, before.known) + precision(after.unknown, after.known));
            let kept_precision = |at: Flagged| precision(total.known - at.known, total.unknown - at.unknown);
            aupr_in += (after.known - before.known) as f64 / n / 2.0
                * (kept_precision(before) + kept_precision(after));
            detection_accuracy =
                detection_accuracy.max((after.unknown as f64 / p + 1.0 - after.known as f64 / n) / 2.0);
        }
        let caught = curve.iter().find(|at| at.unknown as f64 / p >= 0.95).unwrap_or(&total);
        let kept = curve.iter().rev().find(|at| (total.known - at.known) as f64 / n >= 0.95);
        let kept = kept.unwrap_or(&curve[0]);
        Self {
            auroc: auroc as f64 / (2.0 * p * n),
            aupr_in,
            aupr_out,
            fpr95_tpr: caught.known as f64 / n,
            fpr_at_95_known_kept: (total.unknown - kept.unknown) as f64 / p,
            oscr: oscr as f64 / (2.0 * p * n),
            detection_accuracy: detection_accuracy.max(0.5),
        }
    }
}

/// Counts of flagged pictures at every unique threshold, from the highest down, led by "nothing flagged".
fn flagged(known: &[f32], right: &[bool], unknown: &[f32]) -> Vec<Flagged> {
    let one_known = |right| Flagged { known: 1, known_right: u64::from(right), unknown: 0 };
    let one_unknown = Flagged { unknown: 1, ..Flagged::default() };
    let mut pictures: Vec<(f32, Flagged)> = known
        .iter()
        .zip(right)
        .map(|(&score, &right)| (score, one_known(right)))
        .chain(unknown.iter().map(|&score| (score, one_unknown)))
        .collect();
    pictures.sort_unstable_by(|a, b| b.0.partial_cmp(&a.0).expect("NaN was refused"));
    let mut curve = vec![Flagged::default()];
    let mut at = Flagged::default();
    for ties in pictures.chunk_by(|a, b| a.0 == b.0) {
        for (_, one) in ties {
            at.unknown += one.unknown;
            at.known += one.known;
            at.known_right += one.known_right;
        }
        curve.push(at);
    }
    curve
}

/// The share of `true`, 0 to 1; 0 of none.
#[must_use]
pub fn share(flags: impl IntoIterator<Item = bool>) -> f64 {
    let (mut hits, mut total) = (0_u64, 0_u64);
    for flag in flags {
        hits += u64::from(flag);
        total += 1;
    }
    if total == 0 { 0.0 } else { hits as f64 / total as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-12
    }

    #[test]
    fn a_perfect_detector() {
        let m = Metrics::new(&[0.1, 0.2, 0.3], &[true, true, false], &[0.4, 0.5]).unwrap();
        assert_eq!((m.auroc, m.aupr_in, m.aupr_out), (1.0, 1.0, 1.0));
        assert_eq!((m.fpr95_tpr, m.fpr_at_95_known_kept, m.detection_accuracy), (0.0, 0.0, 1.0));
        assert!(close(m.oscr, 2.0 / 3.0), "the accuracy");
    }

    #[test]
    fn constant_scores_say_nothing() {
        let m = Metrics::new(&[1.0; 8], &[true; 8], &[1.0; 2]).unwrap();
        assert_eq!((m.auroc, m.fpr95_tpr, m.fpr_at_95_known_kept, m.oscr), (0.5, 1.0, 1.0, 0.5));
        assert_eq!(m.detection_accuracy, 0.5);
        // One step from (0, 1) to (1, prevalence).
        assert!(close(m.aupr_out, (1.0 + 0.2) / 2.0) && close(m.aupr_in, (1.0 + 0.8) / 2.0));
    }

    #[test]
    fn by_hand_with_a_tie_across_the_sides() {
        // Descending: u 4 | k 3, u 3 | k 1 (wrong) | k 0
        let m = Metrics::new(&[3.0, 1.0, 0.0], &[true, false, true], &[4.0, 3.0]).unwrap();
        assert!(close(m.auroc, (3.0 + 2.5) / 6.0));
        assert!(close(m.aupr_out, 0.5 * 1.0 + 0.5 * (1.0 + 2.0 / 3.0) / 2.0));
        assert!(close(m.aupr_in, (1.0 + 1.0) / 2.0 * 2.0 / 3.0 + (1.0 + 3.0 / 4.0) / 2.0 / 3.0));
        assert!(close(m.fpr95_tpr, 1.0 / 3.0));
        // 95 % of three known pictures is all of them, so the tied unknown one comes along.
        assert!(close(m.fpr_at_95_known_kept, 0.5));
        // Accepted and right falls 2/3, 1/3 (k 3 flagged with u 3), while the unknown accepted go 1, 1/2, 0.
        assert!(close(m.oscr, 0.5 * 2.0 / 3.0 + 0.5 * (2.0 / 3.0 + 1.0 / 3.0) / 2.0));
        assert!(close(m.detection_accuracy, (1.0 + 1.0 - 1.0 / 3.0) / 2.0));
    }

    #[test]
    fn auroc_is_the_probability_that_an_unknown_picture_scores_higher() {
        let score = |i: u32, m: u32| (i * 7919 % m) as f32;
        let known: Vec<f32> = (0..150).map(|i| score(i, 31)).collect();
        let unknown: Vec<f32> = (0..90).map(|i| score(i, 41)).collect();
        let mut pairs = 0.0;
        for k in &known {
            for u in &unknown {
                pairs += if u > k {
                    1.0
                } else if u == k {
                    0.5
                } else {
                    0.0
                };
            }
        }
        let m = Metrics::new(&known, &[true; 150], &unknown).unwrap();
        assert!(close(m.auroc, pairs / (150.0 * 90.0)));
        assert!(close(m.oscr, m.auroc), "all right: OSCR is the AUROC");
    }

    #[test]
    fn infinities_and_signed_zeros_are_scores() {
        let m = Metrics::new(&[f32::NEG_INFINITY, -0.0], &[true, true], &[0.0, f32::INFINITY]).unwrap();
        assert!(close(m.auroc, 3.5 / 4.0));
    }

    #[test]
    fn useless_scores_are_refused() {
        for (known, right, unknown) in [
            (&[][..], &[][..], &[1.0][..]),
            (&[1.0], &[true], &[]),
            (&[f32::NAN], &[true], &[1.0]),
            (&[1.0], &[true], &[f32::NAN]),
            (&[1.0, 2.0], &[true], &[1.0]),
        ] {
            assert!(matches!(Metrics::new(known, right, unknown), Err(Error::Scores(_))));
        }
    }
}
