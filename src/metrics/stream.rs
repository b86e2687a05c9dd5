//! Metrics of scores that do not fit in memory.

use std::fmt;

use super::{Counts, Interval, Kind, Metrics, OPERATING_RATE, not_a_number, precision};
use crate::error::{Error, Result};

/// Computes the metrics of scores that arrive one by one in any order, in bounded memory.
///
/// Neighbouring scores are merged into at most `capacity` bins with similar numbers of images. The curve is
/// exact at the edges of a bin and bounded by them within it. Every metric comes with the resulting bounds.
/// With at most `capacity` distinct scores, nothing is merged and the metrics are exact.
#[derive(Debug, Clone)]
pub struct Stream {
    capacity: usize,
    /// Disjoint bins in ascending order.
    bins: Vec<Bin>,
    /// New scores, not yet in a bin.
    buffer: Vec<(f64, Kind)>,
}

/// Metrics with guaranteed bounds.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Bounded {
    /// Images of known classes.
    pub known: u64,
    /// Images of no known class.
    pub unknown: u64,
    /// The share of known images classified correctly; exact. Absent if correctness is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// The metrics, with the images of a bin counted as ties.
    #[serde(flatten)]
    pub metrics: Metrics,
    /// Intervals that contain the exact metrics.
    pub bounds: Metrics<Interval>,
}

impl fmt::Display for Bounded {
    /// The metrics in percent, one per line, with their bounds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let images = if self.known == 1 { "image" } else { "images" };
        writeln!(f, "{} known {images}, {} unknown", self.known, self.unknown)?;
        if let Some(accuracy) = self.accuracy {
            writeln!(f, "{:<20} {:>9.4}", "accuracy", 100.0 * accuracy)?;
        }
        for ((name, value), (_, Interval { low, high })) in self.metrics.named().zip(self.bounds.named()) {
            let [value, low, high] = [value, low, high].map(|share| 100.0 * share);
            writeln!(f, "{name:<20} {value:>9.4}  bounds {low:.4} to {high:.4}")?;
        }
        Ok(())
    }
}

/// The images with scores from `low` to `high`.
#[derive(Debug, Clone, Copy)]
struct Bin {
    low: f64,
    high: f64,
    counts: Counts,
}

impl Counts {
    fn of(kind: Kind) -> Self {
        match kind {
            Kind::Unknown => Self { unknown: 1, ..Self::default() },
            Kind::Known { correct } => Self { known: 1, correct: correct.into(), ..Self::default() },
        }
    }

    fn images(self) -> u64 {
        self.known + self.unknown
    }
}

impl Stream {
    /// A stream with at most `capacity` bins, at least 4, of about 250 bytes each.
    ///
    /// For scores in random order the bounds of the AUROC are less than 8 / `capacity` apart.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let capacity = capacity.max(4);
        Self { capacity, bins: Vec::new(), buffer: Vec::new() }
    }

    /// Adds an image's score.
    ///
    /// # Errors
    /// [`Error::Scores`] if it is NaN.
    pub fn push(&mut self, score: f64, kind: Kind) -> Result<()> {
        if score.is_nan() {
            return Err(not_a_number());
        }
        self.buffer.push((score, kind));
        if self.buffer.len() == self.capacity {
            self.absorb();
        }
        Ok(())
    }

    /// The metrics of all scores; accuracy and OSCR only if `judged`, that is, if correctness is known.
    ///
    /// # Errors
    /// [`Error::Scores`] if there are no known or no unknown images.
    pub fn finish(mut self, judged: bool) -> Result<Bounded> {
        self.absorb();
        let total = self.bins.iter().fold(Counts::default(), |total, bin| total.plus(bin.counts));
        let Counts { known, unknown, correct } = total;
        if known == 0 || unknown == 0 {
            return Err(Error::Scores(format!("{known} known and {unknown} unknown images")));
        }
        let descending = || self.bins.iter().rev();
        Ok(Bounded {
            known,
            unknown,
            accuracy: judged.then(|| correct as f64 / known as f64),
            metrics: Metrics::from_steps(descending().map(|bin| bin.counts), total).0.judged(judged),
            bounds: bounds(descending(), total).judged(judged),
        })
    }

    /// Moves the new scores into bins.
    fn absorb(&mut self) {
        self.buffer.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
        let mut bins: Vec<Bin> = Vec::with_capacity(self.bins.len() + self.buffer.len());
        let mut old = self.bins.drain(..).peekable();
        for (score, kind) in self.buffer.drain(..) {
            while let Some(bin) = old.next_if(|bin| bin.low <= score) {
                bins.push(bin);
            }
            match bins.last_mut().filter(|bin| score <= bin.high) {
                Some(bin) => bin.counts = bin.counts.plus(Counts::of(kind)),
                None => bins.push(Bin { low: score, high: score, counts: Counts::of(kind) }),
            }
        }
        bins.extend(old);
        self.bins = bins;
        if self.bins.len() > self.capacity {
            self.merge();
        }
    }

    /// Merges neighbours up to an equal share of the images. Any two left separate hold more than that
    /// share together, which limits the number of bins to about half the capacity.
    fn merge(&mut self) {
        let total: u64 = self.bins.iter().map(|bin| bin.counts.images()).sum();
        let share = total.div_ceil(self.capacity as u64 / 4);
        self.bins.dedup_by(|next, bin| {
            let counts = bin.counts.plus(next.counts);
            let join = counts.images() <= share;
            if join {
                *bin = Bin { low: bin.low, high: next.high, counts };
            }
            join
        });
    }
}

/// The largest expected rounding error of the sums: bounds and exact metrics are summed in different orders.
const ROUNDING: f64 = 5e-13;

/// The bounds of the metrics of a curve that is known only at the edges of bins, given in descending order.
/// Within a bin, the numbers of flagged images are between those at its edges.
fn bounds<'a>(bins: impl Iterator<Item = &'a Bin>, total: Counts) -> Metrics<Interval> {
    let (p, n) = (total.unknown as f64, total.known as f64);
    let exactly = |value: f64| Interval { low: value, high: value };
    let add = |sum: &mut Interval, weight: f64, low: f64, high: f64| {
        sum.low += weight * low;
        sum.high += weight * high;
    };
    let mut sums = Metrics {
        fpr95_tpr: exactly(1.0),
        fpr_at_95_known_kept: exactly(1.0),
        detection_accuracy: exactly(0.5),
        ..Metrics::default()
    };
    let (caught, flagged) = (|at: Counts| at.unknown as f64 / p, |at: Counts| at.known as f64 / n);
    let (accepted, kept) = (|at: Counts| 1.0 - caught(at), |at: Counts| (total.known - at.known) as f64 / n);
    let correct = |at: Counts| (total.correct - at.correct) as f64 / n;
    let precision_out = |unknown: Counts, known: Counts| precision(unknown.unknown, known.known);
    let precision_in = |known: Counts, unknown: Counts| {
        precision(total.known - known.known, total.unknown - unknown.unknown)
    };
    let mut oscr = Interval::default();
    let mut at = Counts::default();
    for bin in bins {
        let before = at;
        at = at.plus(bin.counts);
        let (known, unknown) = (bin.counts.known as f64 / n, bin.counts.unknown as f64 / p);
        if bin.low == bin.high {
            // A tie: a straight line between the edges.
            let line = |sum: &mut Interval, weight: f64, ends: f64| add(sum, weight, ends / 2.0, ends / 2.0);
            line(&mut sums.auroc, known, caught(before) + caught(at));
            line(&mut oscr, unknown, correct(before) + correct(at));
            line(&mut sums.aupr_out, unknown, precision_out(before, before) + precision_out(at, at));
            line(&mut sums.aupr_in, known, precision_in(before, before) + precision_in(at, at));
        } else {
            add(&mut sums.auroc, known, caught(before), caught(at));
            add(&mut oscr, unknown, correct(at), correct(before));
            add(&mut sums.aupr_out, unknown, precision_out(before, at), precision_out(at, before));
            add(&mut sums.aupr_in, known, precision_in(at, before), precision_in(before, at));
        }
        // The first point of the curve that the bin may contain.
        let first = if bin.low == bin.high { at } else { before };
        if caught(before) < OPERATING_RATE && caught(at) >= OPERATING_RATE {
            sums.fpr95_tpr = Interval { low: flagged(first), high: flagged(at) };
        }
        if kept(at) >= OPERATING_RATE {
            sums.fpr_at_95_known_kept = exactly(accepted(at));
        } else if kept(before) >= OPERATING_RATE && bin.low != bin.high {
            sums.fpr_at_95_known_kept = Interval { low: accepted(at), high: accepted(before) };
        }
        let balance = |caught: f64, flagged: f64| (caught + 1.0 - flagged) / 2.0;
        let best = &mut sums.detection_accuracy;
        best.low = best.low.max(balance(caught(at), flagged(at)));
        best.high = best.high.max(balance(caught(at), flagged(first)));
    }
    Metrics { oscr: Some(oscr), ..sums }.map(|bounds| Interval {
        low: (bounds.low - ROUNDING).max(0.0),
        high: (bounds.high + ROUNDING).min(1.0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng, seq::SliceRandom};

    /// Scores with kinds in random order, and their exact metrics.
    fn example(round: impl Fn(f64) -> f64) -> (Vec<(f64, Kind)>, Metrics) {
        let mut random = ChaCha8Rng::seed_from_u64(9);
        let mut scores: Vec<(f64, Kind)> = (0..40_000)
            .map(|i| match i % 3 {
                0 => (round(random.random::<f64>().sqrt()), Kind::Unknown),
                _ => (round(random.random()), Kind::Known { correct: random.random_bool(0.9) }),
            })
            .collect();
        scores.shuffle(&mut random);
        let of = |wanted: fn(Kind) -> bool| {
            scores.iter().filter(move |(_, kind)| wanted(*kind)).map(|(score, _)| *score)
        };
        let known: Vec<f64> = of(|kind| kind != Kind::Unknown).collect();
        let unknown: Vec<f64> = of(|kind| kind == Kind::Unknown).collect();
        let correct: Vec<bool> = scores
            .iter()
            .filter_map(|(_, kind)| match kind {
                Kind::Known { correct } => Some(*correct),
                Kind::Unknown => None,
            })
            .collect();
        let exact = Metrics::new(&known, Some(&correct), &unknown).unwrap();
        (scores, exact)
    }

    fn measured(scores: &[(f64, Kind)], capacity: usize) -> Bounded {
        let mut stream = Stream::new(capacity);
        for &(score, kind) in scores {
            stream.push(score, kind).unwrap();
            assert!(stream.bins.len() <= capacity && stream.buffer.len() < capacity, "memory is bounded");
        }
        stream.finish(true).unwrap()
    }

    #[test]
    fn memory_is_allocated_on_demand() {
        let mut stream = Stream::new(usize::MAX);
        stream.push(0.0, Kind::Known { correct: true }).unwrap();
        stream.push(1.0, Kind::Unknown).unwrap();
        assert_eq!(stream.finish(true).unwrap().metrics.auroc, 1.0);
    }

    #[test]
    fn bounds_contain_the_exact_metrics_and_are_narrow() {
        let (mut scores, exact) = example(|score| score);
        let by_score = |a: &(f64, Kind), b: &(f64, Kind)| a.0.total_cmp(&b.0);
        for order in ["random", "ascending", "descending"] {
            match order {
                "ascending" => scores.sort_by(by_score),
                "descending" => scores.reverse(),
                _ => {}
            }
            for capacity in [16, 100, 1000] {
                let Bounded { metrics, bounds, known, unknown, .. } = measured(&scores, capacity);
                assert_eq!((known, unknown), (26_666, 13_334));
                let all = exact.named().zip(metrics.named()).zip(bounds.named());
                for (((name, exact), (_, value)), (_, Interval { low, high })) in all {
                    let what = format!("{order} {capacity} {name}: {low} <= {exact}, {value} <= {high}");
                    let holds = |value: f64| low <= value && value <= high;
                    assert!(holds(exact) && holds(value), "{what}");
                    // An AUPR starts from few flagged images, of which a bin is a large part.
                    assert!(high - low < 32.0 / capacity as f64, "{what}");
                }
                if order == "random" {
                    assert!(bounds.auroc.high - bounds.auroc.low < 8.0 / capacity as f64);
                }
            }
        }
    }

    #[test]
    fn few_distinct_scores_are_exact() {
        let (scores, exact) = example(|score| (score * 90.0).floor());
        let Bounded { metrics, bounds, .. } = measured(&scores, 100);
        assert_eq!(metrics, exact);
        for ((name, value), (_, Interval { low, high })) in exact.named().zip(bounds.named()) {
            assert!(
                (low - value).abs() < 1e-12 && (high - value).abs() < 1e-12,
                "{name} {low} {value} {high}"
            );
        }
    }

    #[test]
    fn infinite_scores_are_ranked_and_nan_is_refused() {
        let known = Kind::Known { correct: true };
        let mut stream = Stream::new(8);
        for (score, kind) in
            [(f64::NEG_INFINITY, known), (-0.0, known), (0.0, Kind::Unknown), (f64::INFINITY, Kind::Unknown)]
        {
            stream.push(score, kind).unwrap();
        }
        assert!(stream.push(f64::NAN, known).is_err());
        assert_eq!(stream.finish(true).unwrap().metrics.auroc, 3.5 / 4.0);
        assert!(Stream::new(8).finish(true).is_err());
    }
}
