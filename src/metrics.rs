//! Out-of-distribution metrics from scores: exact, over unique thresholds.
//!
//! Everywhere *unknown* is the positive class and a larger score means *more likely unknown*. A picture is
//! flagged at a threshold t where its score is at least t. All functions are pure.

mod interval;
mod stream;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
pub use interval::{Bootstrap, Interval};
pub(crate) use interval::{Resample, auroc_interval};
pub use stream::{Bounded, Stream};

/// The metrics of one set of known pictures against one set of unknown ones: their values, or with
/// `T = Interval` an interval around each. All are within 0 to 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Metrics<T = f64> {
    /// Area under the ROC curve; a tie counts one half. Larger is better.
    pub auroc: T,
    /// Area under precision against recall (trapezoids, ending at recall 0, precision 1) with *known* as the
    /// positive class and the score negated. Larger is better.
    pub aupr_in: T,
    /// The same with *unknown* as the positive class. Larger is better.
    pub aupr_out: T,
    /// FPR95TPR of pytorch-ood and OpenOOD: the share of known pictures flagged at the highest threshold that
    /// flags at least 95 % of the unknown. Smaller is better.
    pub fpr95_tpr: T,
    /// The other convention (`detectors`, ARPL): the share of unknown pictures accepted at the lowest
    /// threshold that keeps at least 95 % of the known. Smaller is better.
    pub fpr_at_95_known_kept: T,
    /// Open-set classification rate (Dhamija et al., 2018): area under the share of known pictures both
    /// accepted and right against the share of unknown accepted. Equals the accuracy for a perfect detector.
    /// Absent where it is not known which pictures were given their true class.
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    pub oscr: Option<T>,
    /// The greatest (true positive rate + 1 - false positive rate) / 2 over all thresholds.
    pub detection_accuracy: T,
}

fn none<T>() -> Option<T> {
    None
}

/// The share of pictures that both FPR metrics are read at.
const AT: f64 = 0.95;

/// What a picture is to the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Of a known class, and given that class or another one.
    Known {
        /// Whether it was given its true class.
        right: bool,
    },
    /// Of no known class.
    Unknown,
}

/// Numbers of pictures.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Counts {
    unknown: u64,
    known: u64,
    /// Of the known ones.
    right: u64,
}

/// Scores in descending order, as their [`rank`]s in ascending order.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Ranked(Vec<u64>);

/// A whole number that is less for a higher score, and equal for equal ones. Whole numbers sort faster.
fn rank(score: f64) -> u64 {
    // Adding zero makes -0 the same as 0.
    let bits = (score + 0.0).to_bits();
    // The bits of negative scores rise as the score falls, those of positive ones have the sign bit unset.
    if bits >> 63 == 1 { bits } else { !(bits | 1 << 63) }
}

/// Comes after the rank of every score.
const NO_RANK: u64 = u64::MAX;

/// Scores of known pictures in descending order: of those given their true class, and of the others.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RankedKnown {
    right: Ranked,
    wrong: Ranked,
    /// Whether it is known which is which; else all count as right.
    is_judged: bool,
}

impl Metrics {
    /// Computes all metrics. `right[i]` says whether known picture `i` was given its true class; without it
    /// there is no OSCR.
    ///
    /// Time is that of sorting the scores, memory that of a copy of them in double precision; infinite scores
    /// are allowed.
    ///
    /// # Errors
    /// [`Error::Scores`] where a side is empty, a score is NaN, or `right` has another length than `known`.
    pub fn new<S: Copy + Into<f64>>(known: &[S], right: Option<&[bool]>, unknown: &[S]) -> Result<Self> {
        Ok(Self::of(&RankedKnown::new(known, right)?, &Ranked::new(unknown)?))
    }

    /// The metrics of ranked scores.
    pub(crate) fn of(known: &RankedKnown, unknown: &Ranked) -> Self {
        let total = Counts {
            unknown: unknown.len() as u64,
            known: known.len() as u64,
            right: known.right.0.len() as u64,
        };
        Self::from_steps(steps(known, unknown, |_| 1, |_| 1), total).judged(known.is_judged)
    }

    /// The metrics of a curve that runs from nothing flagged to everything flagged, as the numbers of
    /// pictures that each lower threshold adds.
    fn from_steps(steps: impl Iterator<Item = Counts>, total: Counts) -> Self {
        let (p, n) = (total.unknown as f64, total.known as f64);
        let (mut auroc, mut oscr) = (0_u128, 0_u128);
        let (mut aupr_in, mut aupr_out) = (0.0, 0.0);
        // The loop is run once for each score, so what can be divided afterwards is.
        let (caught, kept) = (enough(total.unknown), enough(total.known));
        let (mut at_caught, mut at_kept, mut at_best) = (None, Counts::default(), Counts::default());
        let balance = |at: Counts| at.unknown as f64 * n - at.known as f64 * p;
        let mut best = 0.0;
        let mut at = Counts::default();
        for step in steps {
            let before = at;
            at = at.plus(step);
            auroc += u128::from(step.known) * u128::from(before.unknown + at.unknown);
            if step.unknown > 0 {
                // Accepted is what is not flagged; the heights are the known pictures accepted and right.
                let heights = 2 * total.right - before.right - at.right;
                oscr += u128::from(step.unknown) * u128::from(heights);
                aupr_out += step.unknown as f64
                    * (precision(before.unknown, before.known) + precision(at.unknown, at.known));
                if at_caught.is_none() && at.unknown >= caught {
                    at_caught = Some(at);
                }
                if balance(at) > best {
                    (best, at_best) = (balance(at), at);
                }
            }
            if step.known > 0 {
                let kept = |at: Counts| precision(total.known - at.known, total.unknown - at.unknown);
                aupr_in += step.known as f64 * (kept(before) + kept(at));
            }
            if total.known - at.known >= kept {
                at_kept = at;
            }
        }
        Self {
            auroc: auroc as f64 / (2.0 * p * n),
            aupr_in: aupr_in / (2.0 * n),
            aupr_out: aupr_out / (2.0 * p),
            fpr95_tpr: at_caught.unwrap_or(total).known as f64 / n,
            fpr_at_95_known_kept: (total.unknown - at_kept.unknown) as f64 / p,
            oscr: Some(oscr as f64 / (2.0 * p * n)),
            detection_accuracy: (at_best.unknown as f64 / p + 1.0 - at_best.known as f64 / n) / 2.0,
        }
    }
}

impl<T> Metrics<T> {
    /// Without the OSCR, unless it is known which pictures were given their true class.
    fn judged(self, is_judged: bool) -> Self {
        Self { oscr: self.oscr.filter(|_| is_judged), ..self }
    }

    /// Applies a function to each metric.
    #[must_use]
    pub fn map<U>(self, mut f: impl FnMut(T) -> U) -> Metrics<U> {
        Metrics {
            auroc: f(self.auroc),
            aupr_in: f(self.aupr_in),
            aupr_out: f(self.aupr_out),
            fpr95_tpr: f(self.fpr95_tpr),
            fpr_at_95_known_kept: f(self.fpr_at_95_known_kept),
            oscr: self.oscr.map(&mut f),
            detection_accuracy: f(self.detection_accuracy),
        }
    }

    /// The metrics that are there by the names of their fields, in the order of [`map`](Self::map).
    pub fn named(self) -> impl Iterator<Item = (&'static str, T)> {
        [
            ("auroc", Some(self.auroc)),
            ("aupr_in", Some(self.aupr_in)),
            ("aupr_out", Some(self.aupr_out)),
            ("fpr95_tpr", Some(self.fpr95_tpr)),
            ("fpr_at_95_known_kept", Some(self.fpr_at_95_known_kept)),
            ("oscr", self.oscr),
            ("detection_accuracy", Some(self.detection_accuracy)),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
    }
}

impl Metrics {
    /// The mean over several sets, metric by metric; that of none is all 0.
    #[must_use]
    pub(crate) fn mean(sets: &[Self]) -> Self {
        let mut sums = sets.first().map_or_else(Self::default, |set| set.map(|_| 0.0));
        for set in sets {
            let mut values = set.named();
            sums = sums.map(|sum| sum + values.next().map_or(0.0, |(_, value)| value));
        }
        sums.map(|sum| sum / sets.len().max(1) as f64)
    }
}

impl Counts {
    fn plus(self, more: Self) -> Self {
        Self {
            unknown: self.unknown + more.unknown,
            known: self.known + more.known,
            right: self.right + more.right,
        }
    }
}

/// The least number of pictures that are a share of at least 95 % of all.
fn enough(all: u64) -> u64 {
    let about = (AT * all as f64) as u64;
    (about.saturating_sub(1)..=all).find(|&count| count as f64 / all as f64 >= AT).unwrap_or(all)
}

/// The share of hits among what was taken; 1 of nothing, where the curve ends.
fn precision(hits: u64, misses: u64) -> f64 {
    if hits + misses == 0 { 1.0 } else { hits as f64 / (hits + misses) as f64 }
}

impl Ranked {
    /// Sorts the scores of a side, on all threads.
    pub(crate) fn new<S: Copy + Into<f64>>(scores: &[S]) -> Result<Self> {
        if scores.is_empty() {
            return Err(Error::Scores("there is no unknown picture".to_owned()));
        }
        Self::sort(scores.iter().map(|&score| score.into()))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The share of scores above a threshold.
    pub(crate) fn share_above(&self, threshold: f64) -> f64 {
        self.above(threshold) as f64 / self.0.len() as f64
    }

    /// The number of scores above a threshold, which come first.
    fn above(&self, threshold: f64) -> usize {
        self.0.partition_point(|&place| place < rank(threshold))
    }

    fn sort(scores: impl Iterator<Item = f64>) -> Result<Self> {
        // Memory that is not used in the end is never touched.
        let mut ranks = Vec::with_capacity(scores.size_hint().1.unwrap_or(0));
        for score in scores {
            if score.is_nan() {
                return Err(not_a_number());
            }
            ranks.push(rank(score));
        }
        ranks.par_sort_unstable();
        Ok(Self(ranks))
    }
}

impl RankedKnown {
    pub(crate) fn new<S: Copy + Into<f64>>(scores: &[S], right: Option<&[bool]>) -> Result<Self> {
        if scores.is_empty() {
            return Err(Error::Scores("there is no known picture".to_owned()));
        }
        let Some(right) = right else {
            return Ok(Self { right: Ranked::new(scores)?, wrong: Ranked(Vec::new()), is_judged: false });
        };
        if scores.len() != right.len() {
            return Err(Error::Scores(format!("{} known scores, {} verdicts", scores.len(), right.len())));
        }
        let of = |wanted: bool| {
            let chosen = scores.iter().zip(right).filter(|&(_, &right)| right == wanted);
            Ranked::sort(chosen.map(|(&score, _)| score.into()))
        };
        Ok(Self { right: of(true)?, wrong: of(false)?, is_judged: true })
    }

    pub(crate) fn len(&self) -> usize {
        self.right.0.len() + self.wrong.0.len()
    }

    /// The share of scores above a threshold.
    pub(crate) fn share_above(&self, threshold: f64) -> f64 {
        (self.right.above(threshold) + self.wrong.above(threshold)) as f64 / self.len() as f64
    }

    /// The share given their true class, where that is known.
    pub(crate) fn accuracy(&self) -> Option<f64> {
        self.is_judged.then(|| self.right.0.len() as f64 / self.len() as f64)
    }
}

fn not_a_number() -> Error {
    Error::Scores("a score is not a number (NaN)".to_owned())
}

/// What each unique threshold adds, from the highest down. Pictures count as often as their weight says,
/// which is given for their rank; the wrong ones are numbered after the right ones.
fn steps(
    known: &RankedKnown,
    unknown: &Ranked,
    known_weight: impl Fn(usize) -> u64,
    unknown_weight: impl Fn(usize) -> u64,
) -> impl Iterator<Item = Counts> {
    let (right, wrong, unknown) = (&known.right.0[..], &known.wrong.0[..], &unknown.0[..]);
    let (mut r, mut w, mut u) = (0, 0, 0);
    std::iter::from_fn(move || {
        let head = |side: &[u64], at: usize| side.get(at).copied().unwrap_or(NO_RANK);
        let threshold = head(right, r).min(head(wrong, w)).min(head(unknown, u));
        if threshold == NO_RANK {
            return None;
        }
        let mut step = Counts::default();
        while head(unknown, u) == threshold {
            step.unknown += unknown_weight(u);
            u += 1;
        }
        while head(right, r) == threshold {
            step.right += known_weight(r);
            r += 1;
        }
        step.known = step.right;
        while head(wrong, w) == threshold {
            step.known += known_weight(right.len() + w);
            w += 1;
        }
        Some(step)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-12
    }

    #[test]
    fn a_perfect_detector() {
        let m = Metrics::new(&[0.1, 0.2, 0.3], Some(&[true, true, false]), &[0.4, 0.5]).unwrap();
        assert_eq!((m.auroc, m.aupr_in, m.aupr_out), (1.0, 1.0, 1.0));
        assert_eq!((m.fpr95_tpr, m.fpr_at_95_known_kept, m.detection_accuracy), (0.0, 0.0, 1.0));
        assert!(close(m.oscr.unwrap(), 2.0 / 3.0), "the accuracy");
    }

    #[test]
    fn constant_scores_say_nothing() {
        let m = Metrics::new(&[1.0; 8], Some(&[true; 8]), &[1.0; 2]).unwrap();
        assert_eq!((m.auroc, m.fpr95_tpr, m.fpr_at_95_known_kept, m.oscr.unwrap()), (0.5, 1.0, 1.0, 0.5));
        assert_eq!(m.detection_accuracy, 0.5);
        // One step from (0, 1) to (1, prevalence).
        assert!(close(m.aupr_out, (1.0 + 0.2) / 2.0) && close(m.aupr_in, (1.0 + 0.8) / 2.0));
    }

    #[test]
    fn by_hand_with_a_tie_across_the_sides() {
        // Descending: u 4 | k 3, u 3 | k 1 (wrong) | k 0
        let m = Metrics::new(&[3.0, 1.0, 0.0], Some(&[true, false, true]), &[4.0, 3.0]).unwrap();
        assert!(close(m.auroc, (3.0 + 2.5) / 6.0));
        assert!(close(m.aupr_out, 0.5 * 1.0 + 0.5 * (1.0 + 2.0 / 3.0) / 2.0));
        assert!(close(m.aupr_in, (1.0 + 1.0) / 2.0 * 2.0 / 3.0 + (1.0 + 3.0 / 4.0) / 2.0 / 3.0));
        assert!(close(m.fpr95_tpr, 1.0 / 3.0));
        // 95 % of three known pictures is all of them, so the tied unknown one comes along.
        assert!(close(m.fpr_at_95_known_kept, 0.5));
        // Accepted and right falls 2/3, 1/3 (k 3 flagged with u 3), while the unknown accepted go 1, 1/2, 0.
        assert!(close(m.oscr.unwrap(), 0.5 * 2.0 / 3.0 + 0.5 * (2.0 / 3.0 + 1.0 / 3.0) / 2.0));
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
        let m = Metrics::new(&known, Some(&[true; 150]), &unknown).unwrap();
        assert!(close(m.auroc, pairs / (150.0 * 90.0)));
        assert!(close(m.oscr.unwrap(), m.auroc), "all right: OSCR is the AUROC");
    }

    #[test]
    fn ranks_are_in_the_order_of_the_scores() {
        let ascending = [f64::NEG_INFINITY, -1e300, -2.0, -1e-310, 0.0, 1e-310, 1.0, 1e300, f64::INFINITY];
        let ranks = ascending.map(rank);
        assert!(ranks.is_sorted_by(|a, b| a > b) && ranks[0] < NO_RANK, "{ranks:x?}");
        assert_eq!(rank(-0.0), rank(0.0));
    }

    #[test]
    fn infinities_and_signed_zeros_are_scores() {
        let m = Metrics::new(&[f32::NEG_INFINITY, -0.0], Some(&[true, true]), &[0.0, f32::INFINITY]).unwrap();
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
            assert!(matches!(Metrics::new(known, Some(right), unknown), Err(Error::Scores(_))));
        }
    }
}
