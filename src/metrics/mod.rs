//! Out-of-distribution metrics from scores: exact, over unique thresholds.
//!
//! *Unknown* is the positive class, and a larger score means *more likely unknown*. An image is flagged at a
//! threshold t if its score is at least t. All functions are pure.

#[cfg(feature = "page")]
pub(crate) mod curve;
mod interval;
mod paired;
mod stream;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
pub use interval::{Bootstrap, Interval};
pub(crate) use interval::{Draws, FprOfFew, Part, Resample, Share, auroc_interval};
pub(crate) use paired::Placed;
pub use stream::{Bounded, Stream};

/// The metrics of known images against one set of unknown images: their values or, with `T = Interval`,
/// intervals. All are in 0..=1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Metrics<T = f64> {
    /// Area under the ROC curve; a tie counts one half. Larger is better.
    pub auroc: T,
    /// Area under precision against recall (trapezoids, ending at recall 0, precision 1) with *known* as the
    /// positive class and the score negated. Larger is better.
    pub aupr_in: T,
    /// The same with *unknown* as the positive class. Larger is better.
    pub aupr_out: T,
    /// FPR95TPR of pytorch-ood and OpenOOD: the share of known images flagged at the highest threshold that
    /// flags at least 95 % of the unknown. Smaller is better.
    pub fpr95_tpr: T,
    /// The other convention (`detectors`, ARPL): the share of unknown images accepted at the lowest
    /// threshold that keeps at least 95 % of the known. Smaller is better.
    pub fpr_at_95_known_kept: T,
    /// Open-set classification rate (Dhamija et al., 2018): area under the share of known images both
    /// accepted and correct against the share of unknown accepted. Equals the accuracy for a perfect
    /// detector. Larger is better. Absent if correctness is not known.
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    pub oscr: Option<T>,
    /// The maximum of (true positive rate + 1 - false positive rate) / 2 over all thresholds. Larger is
    /// better.
    pub detection_accuracy: T,
}

/// A metric of [`Metrics`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields of `Metrics` have the definitions")]
pub enum Metric {
    Auroc,
    AuprIn,
    AuprOut,
    Fpr95Tpr,
    FprAt95KnownKept,
    Oscr,
    DetectionAccuracy,
}

fn none<T>() -> Option<T> {
    None
}

/// Two that are both present, or both absent; `None` if only one is.
pub(crate) fn both<T, U>(one: Option<T>, other: Option<U>) -> Option<Option<(T, U)>> {
    match (one, other) {
        (Some(one), Some(other)) => Some(Some((one, other))),
        (None, None) => Some(None),
        _ => None,
    }
}

/// The share of images at which both FPR metrics are read.
const OPERATING_RATE: f64 = 0.95;

/// Whether an image is known or unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An image of a known class.
    Known {
        /// Whether it was classified correctly.
        correct: bool,
    },
    /// An image of no known class.
    Unknown,
}

/// Numbers of images.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Counts {
    unknown: u64,
    known: u64,
    /// Known images that were classified correctly.
    correct: u64,
}

/// The two shares whose mean is the detection accuracy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Balance {
    /// The share of unknown images caught.
    pub caught: f64,
    /// The share of known images kept.
    pub kept: f64,
}

/// Scores in descending order, stored as ascending [`rank`]s.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Ranked(Vec<u64>);

/// An integer that is smaller for a higher score and equal for equal scores. Integers sort faster.
fn rank(score: f64) -> u64 {
    // Adding zero makes -0 the same as 0.
    let bits = (score + 0.0).to_bits();
    // The bits of a negative score rise as it falls. Those of a positive score are inverted, with the sign
    // bit unset.
    if bits >> 63 == 1 { bits } else { !(bits | 1 << 63) }
}

/// Larger than the rank of every score.
const NO_RANK: u64 = u64::MAX;

/// The scores of correctly and of wrongly classified known images, each in descending order.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RankedKnown {
    correct: Ranked,
    wrong: Ranked,
    /// Whether correctness is known; otherwise all images count as correct.
    is_judged: bool,
}

impl Metrics {
    /// Computes all metrics from scores that are larger for images more likely unknown. `correct[i]` says
    /// whether known image `i` was classified correctly; without it there is no OSCR.
    ///
    /// Takes the time of sorting the scores and the memory of a copy in double precision. Infinite scores are
    /// allowed.
    ///
    /// # Errors
    /// [`Error::Scores`] if a side is empty, a score is NaN, or `correct` and `known` differ in length.
    pub fn new<S: Copy + Into<f64>>(known: &[S], correct: Option<&[bool]>, unknown: &[S]) -> Result<Self> {
        Ok(Self::with_balance(&RankedKnown::new(known, correct)?, &Ranked::new(unknown)?).0)
    }

    /// The metrics of ranked scores, and the two shares whose mean is the detection accuracy.
    pub(crate) fn with_balance(known: &RankedKnown, unknown: &Ranked) -> (Self, Balance) {
        let total = Counts {
            unknown: unknown.len() as u64,
            known: known.len() as u64,
            correct: known.correct.0.len() as u64,
        };
        let (metrics, at) = Self::from_steps(steps(known, unknown, |_| 1, |_| 1), total);
        let caught = at.unknown as f64 / total.unknown as f64;
        let kept = (total.known - at.known) as f64 / total.known as f64;
        (metrics.judged(known.is_judged), Balance { caught, kept })
    }

    /// The metrics of a curve from nothing flagged to everything flagged, given the counts that each lower
    /// threshold adds, and the counts at the threshold of the detection accuracy.
    fn from_steps(steps: impl Iterator<Item = Counts>, total: Counts) -> (Self, Counts) {
        let (p, n) = (total.unknown as f64, total.known as f64);
        let (mut auroc, mut oscr) = (0_u128, 0_u128);
        let (mut aupr_in, mut aupr_out) = (0.0, 0.0);
        // The loop runs once per score, so divisions are done after it where possible.
        let (enough_caught, enough_kept) = (enough(total.unknown), enough(total.known));
        let (mut at_caught, mut at_kept, mut at_best) = (None, Counts::default(), Counts::default());
        let balance = |at: Counts| at.unknown as f64 * n - at.known as f64 * p;
        let mut best = 0.0;
        let mut at = Counts::default();
        for step in steps {
            let before = at;
            at = at.plus(step);
            auroc += u128::from(step.known) * u128::from(before.unknown + at.unknown);
            if step.unknown > 0 {
                // Accepted means not flagged; the heights are the known images accepted and correct.
                let heights = 2 * total.correct - before.correct - at.correct;
                oscr += u128::from(step.unknown) * u128::from(heights);
                aupr_out += step.unknown as f64
                    * (precision(before.unknown, before.known) + precision(at.unknown, at.known));
                if at_caught.is_none() && at.unknown >= enough_caught {
                    at_caught = Some(at);
                }
                if balance(at) > best {
                    (best, at_best) = (balance(at), at);
                }
            }
            if step.known > 0 {
                let of_accepted = |at: Counts| precision(total.known - at.known, total.unknown - at.unknown);
                aupr_in += step.known as f64 * (of_accepted(before) + of_accepted(at));
            }
            if total.known - at.known >= enough_kept {
                at_kept = at;
            }
        }
        let metrics = Self {
            auroc: auroc as f64 / (2.0 * p * n),
            aupr_in: aupr_in / (2.0 * n),
            aupr_out: aupr_out / (2.0 * p),
            fpr95_tpr: at_caught.unwrap_or(total).known as f64 / n,
            fpr_at_95_known_kept: (total.unknown - at_kept.unknown) as f64 / p,
            oscr: Some(oscr as f64 / (2.0 * p * n)),
            // One division, so that the result is correctly rounded.
            detection_accuracy: (at_best.unknown as f64 * n + (total.known - at_best.known) as f64 * p)
                / (2.0 * p * n),
        };
        (metrics, at_best)
    }
}

impl<T> Metrics<T> {
    /// Removes the OSCR unless correctness is known.
    fn judged(self, is_judged: bool) -> Self {
        Self { oscr: self.oscr.filter(|_| is_judged), ..self }
    }

    /// Applies a function to each metric, in the order of [`Metric::ALL`].
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

    /// Pairs each metric with another's; `None` if one has an OSCR that the other lacks.
    pub(crate) fn zip<U>(self, other: Metrics<U>) -> Option<Metrics<(T, U)>> {
        Some(Metrics {
            auroc: (self.auroc, other.auroc),
            aupr_in: (self.aupr_in, other.aupr_in),
            aupr_out: (self.aupr_out, other.aupr_out),
            fpr95_tpr: (self.fpr95_tpr, other.fpr95_tpr),
            fpr_at_95_known_kept: (self.fpr_at_95_known_kept, other.fpr_at_95_known_kept),
            oscr: both(self.oscr, other.oscr)?,
            detection_accuracy: (self.detection_accuracy, other.detection_accuracy),
        })
    }

    /// A metric; `None` if it is absent.
    pub fn get(self, metric: Metric) -> Option<T> {
        match metric {
            Metric::Auroc => Some(self.auroc),
            Metric::AuprIn => Some(self.aupr_in),
            Metric::AuprOut => Some(self.aupr_out),
            Metric::Fpr95Tpr => Some(self.fpr95_tpr),
            Metric::FprAt95KnownKept => Some(self.fpr_at_95_known_kept),
            Metric::Oscr => self.oscr,
            Metric::DetectionAccuracy => Some(self.detection_accuracy),
        }
    }
}

impl<T: Copy> Metrics<T> {
    /// The metrics that are present, by field name, in the order of [`Metric::ALL`].
    pub fn named(self) -> impl Iterator<Item = (&'static str, T)> {
        Metric::ALL.into_iter().filter_map(move |metric| Some((metric.name(), self.get(metric)?)))
    }
}

impl Metric {
    /// All metrics, in the order of tables.
    pub const ALL: [Self; 7] = [
        Self::Auroc,
        Self::AuprIn,
        Self::AuprOut,
        Self::Fpr95Tpr,
        Self::FprAt95KnownKept,
        Self::Oscr,
        Self::DetectionAccuracy,
    ];

    /// The name of its field in [`Metrics`], as in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Auroc => "auroc",
            Self::AuprIn => "aupr_in",
            Self::AuprOut => "aupr_out",
            Self::Fpr95Tpr => "fpr95_tpr",
            Self::FprAt95KnownKept => "fpr_at_95_known_kept",
            Self::Oscr => "oscr",
            Self::DetectionAccuracy => "detection_accuracy",
        }
    }

    /// The head of its column in tables.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Auroc => "AUROC",
            Self::AuprIn => "AUPR-IN",
            Self::AuprOut => "AUPR-OUT",
            Self::Fpr95Tpr => "FPR95TPR",
            Self::FprAt95KnownKept => "FPR@95%kept",
            Self::Oscr => "OSCR",
            Self::DetectionAccuracy => "det.acc.",
        }
    }

    /// What it measures, as a phrase.
    #[must_use]
    pub fn description(self) -> &'static str {
        match self {
            Self::Auroc => "area under the ROC curve",
            Self::AuprIn => "area under precision and recall, known positive",
            Self::AuprOut => "area under precision and recall, unknown positive",
            Self::Fpr95Tpr => "share of known flagged where 95 % of the unknown are caught",
            Self::FprAt95KnownKept => "share of unknown accepted where 95 % of the known are kept",
            Self::Oscr => "open-set classification rate",
            Self::DetectionAccuracy => "the best mean of the shares caught and kept",
        }
    }

    /// Whether smaller is better.
    #[must_use]
    pub fn is_smaller_better(self) -> bool {
        matches!(self, Self::Fpr95Tpr | Self::FprAt95KnownKept)
    }
}

impl Metrics {
    /// The mean of each metric over several sets; 0 without sets.
    #[must_use]
    pub(crate) fn mean(sets: &[Self]) -> Self {
        let mut sums = sets.first().map_or_else(Self::default, |set| set.map(|_| 0.0));
        for &set in sets {
            sums = sums.zip(set).expect("all sets have an OSCR, or none").map(|(sum, value)| sum + value);
        }
        sums.map(|sum| sum / sets.len().max(1) as f64)
    }
}

impl Counts {
    fn plus(self, more: Self) -> Self {
        Self {
            unknown: self.unknown + more.unknown,
            known: self.known + more.known,
            correct: self.correct + more.correct,
        }
    }
}

/// The smallest number of images that is at least 95 % of all.
fn enough(all: u64) -> u64 {
    let about = (OPERATING_RATE * all as f64) as u64;
    (about.saturating_sub(1)..=all).find(|&count| count as f64 / all as f64 >= OPERATING_RATE).unwrap_or(all)
}

/// hits / (hits + misses); 1 if both are 0, at the end of the curve.
fn precision(hits: u64, misses: u64) -> f64 {
    if hits + misses == 0 { 1.0 } else { hits as f64 / (hits + misses) as f64 }
}

impl Ranked {
    /// Sorts the scores on all threads.
    pub(crate) fn new<S: Copy + Into<f64>>(scores: &[S]) -> Result<Self> {
        if scores.is_empty() {
            return Err(Error::Scores("there are no unknown images".to_owned()));
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
        self.0.partition_point(|&end| end < rank(threshold))
    }

    /// The number of scores at least as high as this [`rank`]'s.
    fn to_rank(&self, rank: u64) -> usize {
        self.0.partition_point(|&other| other <= rank)
    }

    fn sort(scores: impl Iterator<Item = f64>) -> Result<Self> {
        // The upper bound may be too high; unused memory is never touched.
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
    pub(crate) fn new<S: Copy + Into<f64>>(scores: &[S], correct: Option<&[bool]>) -> Result<Self> {
        if scores.is_empty() {
            return Err(Error::Scores("there are no known images".to_owned()));
        }
        let Some(correct) = correct else {
            return Ok(Self { correct: Ranked::new(scores)?, wrong: Ranked(Vec::new()), is_judged: false });
        };
        if scores.len() != correct.len() {
            return Err(Error::Scores(format!(
                "{} known scores, but {} values of `correct`",
                scores.len(),
                correct.len()
            )));
        }
        let of = |wanted: bool| {
            let chosen = scores.iter().zip(correct).filter(|&(_, &correct)| correct == wanted);
            Ranked::sort(chosen.map(|(&score, _)| score.into()))
        };
        Ok(Self { correct: of(true)?, wrong: of(false)?, is_judged: true })
    }

    pub(crate) fn len(&self) -> usize {
        self.correct.0.len() + self.wrong.0.len()
    }

    /// The share of scores that are not above a threshold.
    pub(crate) fn share_kept(&self, threshold: f64) -> f64 {
        (self.len() - self.correct.above(threshold) - self.wrong.above(threshold)) as f64 / self.len() as f64
    }

    /// All scores.
    fn ranked(&self) -> Ranked {
        let mut ranks = [&self.correct.0[..], &self.wrong.0].concat();
        ranks.sort_unstable();
        Ranked(ranks)
    }

    /// The share classified correctly, if correctness is known.
    pub(crate) fn accuracy(&self) -> Option<f64> {
        self.is_judged.then(|| self.correct.0.len() as f64 / self.len() as f64)
    }
}

fn not_a_number() -> Error {
    Error::Scores("a score is NaN".to_owned())
}

/// The counts that each unique threshold adds, from the highest down. An image counts as often as its weight
/// states. Weights are given by rank; wrongly classified images come after the correct ones.
fn steps(
    known: &RankedKnown,
    unknown: &Ranked,
    known_weight: impl Fn(usize) -> u64,
    unknown_weight: impl Fn(usize) -> u64,
) -> impl Iterator<Item = Counts> {
    let (correct, wrong, unknown) = (&known.correct.0[..], &known.wrong.0[..], &unknown.0[..]);
    let (mut r, mut w, mut u) = (0, 0, 0);
    std::iter::from_fn(move || {
        let head = |side: &[u64], at: usize| side.get(at).copied().unwrap_or(NO_RANK);
        let threshold = head(correct, r).min(head(wrong, w)).min(head(unknown, u));
        if threshold == NO_RANK {
            return None;
        }
        let mut step = Counts::default();
        while head(unknown, u) == threshold {
            step.unknown += unknown_weight(u);
            u += 1;
        }
        while head(correct, r) == threshold {
            step.correct += known_weight(r);
            r += 1;
        }
        step.known = step.correct;
        while head(wrong, w) == threshold {
            step.known += known_weight(correct.len() + w);
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
    fn a_perfect_detector_has_perfect_metrics() {
        let m = Metrics::new(&[0.1, 0.2, 0.3], Some(&[true, true, false]), &[0.4, 0.5]).unwrap();
        assert_eq!((m.auroc, m.aupr_in, m.aupr_out), (1.0, 1.0, 1.0));
        assert_eq!((m.fpr95_tpr, m.fpr_at_95_known_kept, m.detection_accuracy), (0.0, 0.0, 1.0));
        assert!(close(m.oscr.unwrap(), 2.0 / 3.0), "the accuracy");
    }

    #[test]
    fn constant_scores() {
        let m = Metrics::new(&[1.0; 8], Some(&[true; 8]), &[1.0; 2]).unwrap();
        assert_eq!((m.auroc, m.fpr95_tpr, m.fpr_at_95_known_kept, m.oscr.unwrap()), (0.5, 1.0, 1.0, 0.5));
        assert_eq!(m.detection_accuracy, 0.5);
        // One step from (0, 1) to (1, prevalence).
        assert!(close(m.aupr_out, (1.0 + 0.2) / 2.0) && close(m.aupr_in, (1.0 + 0.8) / 2.0));
    }

    #[test]
    fn tied_scores_by_hand() {
        // Descending: u 4 | k 3, u 3 | k 1 (wrong) | k 0
        let m = Metrics::new(&[3.0, 1.0, 0.0], Some(&[true, false, true]), &[4.0, 3.0]).unwrap();
        assert!(close(m.auroc, (3.0 + 2.5) / 6.0));
        assert!(close(m.aupr_out, 0.5 * 1.0 + 0.5 * (1.0 + 2.0 / 3.0) / 2.0));
        assert!(close(m.aupr_in, (1.0 + 1.0) / 2.0 * 2.0 / 3.0 + (1.0 + 3.0 / 4.0) / 2.0 / 3.0));
        assert!(close(m.fpr95_tpr, 1.0 / 3.0));
        // 95 % of three known images is all of them, so the tied unknown image is accepted too.
        assert!(close(m.fpr_at_95_known_kept, 0.5));
        // The share of known images accepted and correct falls as 2/3, 1/3 (k 3 is flagged with u 3), that of
        // unknown images as 1, 1/2, 0.
        assert!(close(m.oscr.unwrap(), 0.5 * 2.0 / 3.0 + 0.5 * (2.0 / 3.0 + 1.0 / 3.0) / 2.0));
        assert!(close(m.detection_accuracy, (1.0 + 1.0 - 1.0 / 3.0) / 2.0));
    }

    #[test]
    fn auroc_is_the_probability_that_an_unknown_image_scores_higher() {
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
        assert!(close(m.oscr.unwrap(), m.auroc), "all correct: OSCR is the AUROC");
    }

    #[test]
    fn ranks_fall_as_scores_rise() {
        let ascending = [f64::NEG_INFINITY, -1e300, -2.0, -1e-310, 0.0, 1e-310, 1.0, 1e300, f64::INFINITY];
        let ranks = ascending.map(rank);
        assert!(ranks.is_sorted_by(|a, b| a > b) && ranks[0] < NO_RANK, "{ranks:x?}");
        assert_eq!(rank(-0.0), rank(0.0));
    }

    #[test]
    fn infinities_and_signed_zeros_are_accepted() {
        let m = Metrics::new(&[f32::NEG_INFINITY, -0.0], Some(&[true, true]), &[0.0, f32::INFINITY]).unwrap();
        assert!(close(m.auroc, 3.5 / 4.0));
    }

    #[test]
    fn invalid_scores_are_refused() {
        for (known, correct, unknown) in [
            (&[][..], &[][..], &[1.0][..]),
            (&[1.0], &[true], &[]),
            (&[f32::NAN], &[true], &[1.0]),
            (&[1.0], &[true], &[f32::NAN]),
            (&[1.0, 2.0], &[true], &[1.0]),
        ] {
            assert!(matches!(Metrics::new(known, Some(correct), unknown), Err(Error::Scores(_))));
        }
    }
}
