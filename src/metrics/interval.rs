//! 95 % confidence intervals of the metrics.

use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{Counts, Metrics, OPERATING_RATE, Ranked, RankedKnown, steps};

/// The 97.5 % quantile of the standard normal distribution.
const Z: f64 = 1.959_963_984_540_054;

/// An interval; in JSON `[low, high]`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "[f64; 2]", into = "[f64; 2]")]
pub struct Interval {
    /// The lower end.
    pub low: f64,
    /// The upper end, at least `low`.
    pub high: f64,
}

/// A share measured on some images, as a part of a weighted sum.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Share {
    /// Its weight in the sum.
    pub weight: f64,
    /// The share, 0 to 1.
    pub share: f64,
    /// The number of images, above 0.
    pub images: usize,
}

/// A value with its interval, as a part of a weighted sum whose weights sum to 1.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part {
    /// Its weight in the sum.
    pub weight: f64,
    pub value: f64,
    pub interval: Interval,
}

/// The bootstrap: the known images and each unknown set are resampled with replacement, and the middle 95 %
/// of the results form the interval (Efron's percentile interval).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bootstrap {
    /// The number of resamples.
    pub resamples: u32,
    /// The same seed gives the same intervals, on any number of threads.
    pub seed: u64,
}

impl Default for Bootstrap {
    fn default() -> Self {
        Self { resamples: 1000, seed: 0 }
    }
}

impl From<[f64; 2]> for Interval {
    fn from([low, high]: [f64; 2]) -> Self {
        Self { low, high }
    }
}

impl From<Interval> for [f64; 2] {
    fn from(interval: Interval) -> Self {
        [interval.low, interval.high]
    }
}

impl Interval {
    /// Wilson's 95 % interval of the share `count` of `total`, with `total` above 0.
    pub(crate) fn wilson(count: usize, total: usize) -> Self {
        Self::of_share(count as f64 / total as f64, total as f64)
    }

    /// Wilson's interval of a share among `n` images.
    pub(crate) fn of_share(share: f64, n: f64) -> Self {
        let centre = share + Z * Z / (2.0 * n);
        let reach = Z * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt();
        let at = |value: f64| (value / (1.0 + Z * Z / n)).clamp(0.0, 1.0);
        // At 0 and 1, rounding would exclude the share.
        let low = if share == 0.0 { 0.0 } else { at(centre - reach) };
        Self { low, high: if share == 1.0 { 1.0 } else { at(centre + reach) } }
    }

    /// The interval of a weighted sum of independent shares, whose weights sum to 1, from Wilson's for each.
    pub(crate) fn of_shares(shares: impl IntoIterator<Item = Share>) -> Self {
        Self::of_sum(shares.into_iter().map(|Share { weight, share, images }| Part {
            weight,
            value: share,
            interval: Self::of_share(share, images as f64),
        }))
    }

    /// The interval of a weighted sum of independent values of 0 to 1.
    pub(crate) fn of_sum(parts: impl IntoIterator<Item = Part>) -> Self {
        let Self { low, high } = Self::of_independent(parts);
        Self { low: low.max(0.0), high: high.min(1.0) }
    }

    /// The interval of a weighted sum of independent values (Zou and Donner, 2008): the squares of the distances to
    /// the ends add up.
    pub(crate) fn of_independent(parts: impl IntoIterator<Item = Part>) -> Self {
        let (mut sum, mut below, mut above) = (0.0, 0.0, 0.0);
        for Part { weight, value, interval: Self { low, high } } in parts {
            sum += weight * value;
            below += (weight * (value - low)).powi(2);
            above += (weight * (high - value)).powi(2);
        }
        // The weights of several sets sum to almost 1.
        let sum = if (sum - sum.round()).abs() < 1e-12 { sum.round() } else { sum };
        Self { low: sum - below.sqrt(), high: sum + above.sqrt() }
    }

    /// The interval of a weighted sum of values whose errors do not cancel out: the sum of the ends.
    pub(crate) fn of_ends(parts: impl IntoIterator<Item = Part>) -> Self {
        parts.into_iter().fold(Self::default(), |sum, Part { weight, interval, .. }| Self {
            low: sum.low + weight * interval.low,
            high: sum.high + weight * interval.high,
        })
    }

    /// The interval of a difference of two values, from those of each and the correlation of their errors (Zou,
    /// 2007). For uncorrelated shares with Wilson's intervals it is method 10 of Newcombe (1998).
    pub(crate) fn of_difference(
        (first, of_first): (f64, Self),
        (second, of_second): (f64, Self),
        correlation: f64,
    ) -> Self {
        let reach = |one: f64, other: f64| {
            (one * one + other * other - 2.0 * correlation * one * other).max(0.0).sqrt()
        };
        let difference = second - first;
        Self {
            low: difference - reach(second - of_second.low, of_first.high - first),
            high: difference + reach(of_second.high - second, first - of_first.low),
        }
    }

    /// The interval of the difference of two shares of the same `images` by Bonett and Price (2012), from the numbers
    /// of images that only the first and only the second has. It does not vanish if none differs.
    pub(crate) fn of_paired_shares([first, second]: [usize; 2], images: usize) -> Self {
        let n = images as f64 + 2.0;
        let [p, q] = [first, second].map(|count| (count as f64 + 1.0) / n);
        let (difference, reach) = (q - p, Z * ((p + q - (q - p).powi(2)) / n).sqrt());
        Self { low: difference - reach, high: difference + reach }
    }

    /// The interval of a value with a normal error of this variance, on the logit scale. At 0 or 1, where it has no
    /// variance, it is Wilson's for this number of images.
    fn on_the_logit_scale(value: f64, variance: f64, images: usize) -> Self {
        if is_perfect(value) {
            return Self::of_share(value.clamp(0.0, 1.0), images as f64);
        }
        let (logit, reach) = ((value / (1.0 - value)).ln(), Z * variance.sqrt() / (value * (1.0 - value)));
        let [low, high] = [logit - reach, logit + reach].map(|logit| 1.0 / (1.0 + (-logit).exp()));
        Self { low, high }
    }

    /// The smallest interval that contains both.
    pub(crate) fn hull(self, other: Self) -> Self {
        Self { low: self.low.min(other.low), high: self.high.max(other.high) }
    }
}

/// Whether a value is 0 or 1, but for rounding.
fn is_perfect(value: f64) -> bool {
    value * (1.0 - value) < 1e-12
}

/// The values measured on the resamples, in ascending order.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Draws(Vec<f64>);

impl Draws {
    fn new(mut values: Vec<f64>) -> Self {
        values.sort_unstable_by(f64::total_cmp);
        Self(values)
    }

    /// The variance of the draws.
    pub(crate) fn variance(&self) -> f64 {
        self.0.len() as f64 * variance_of_mean(&self.0)
    }

    /// The middle 95 %, interpolated linearly.
    pub(crate) fn middle(&self) -> Interval {
        let at = |share: f64| {
            let position = share * (self.0.len() - 1) as f64;
            let (below, above) = (self.0[position.floor() as usize], self.0[position.ceil() as usize]);
            below + (above - below) * position.fract()
        };
        Interval { low: at(0.025), high: at(0.975) }
    }

    /// The interval around a value from the standard deviation of the draws, on the logit scale. Closer to 0 or 1
    /// than an image's share, where draws hardly vary, it covers Wilson's for this number of images.
    pub(crate) fn around(&self, value: f64, images: usize) -> Interval {
        let interval = Interval::on_the_logit_scale(value, self.variance(), images);
        let is_extreme = value.min(1.0 - value) < 1.0 / images as f64;
        if is_extreme {
            interval.hull(Interval::of_share(value.clamp(0.0, 1.0), images as f64))
        } else {
            interval
        }
    }
}

/// One resample: how often each known image and each image of every unknown set was drawn, by rank.
pub(crate) struct Resample {
    pub(super) known: Vec<u32>,
    pub(super) unknown: Vec<Vec<u32>>,
}

impl Bootstrap {
    /// Measures every resample and returns the draws of each measured number; empty without resamples.
    pub(crate) fn draws(
        self,
        known: usize,
        unknown: &[usize],
        measure: impl Fn(&Resample) -> Vec<f64> + Sync,
    ) -> impl Iterator<Item = Draws> {
        let rows: Vec<Vec<f64>> = (0..self.resamples)
            .into_par_iter()
            .map(|resample| {
                let mut random = ChaCha8Rng::seed_from_u64(self.seed);
                random.set_stream(u64::from(resample));
                let mut draw = |count: usize| {
                    let mut times = vec![0_u32; count];
                    for _ in 0..count {
                        times[random.random_range(0..count)] += 1;
                    }
                    times
                };
                let known = draw(known);
                measure(&Resample { known, unknown: unknown.iter().map(|&count| draw(count)).collect() })
            })
            .collect();
        let numbers = rows.first().map_or(0, Vec::len);
        (0..numbers).map(move |i| Draws::new(rows.iter().map(|row| row[i]).collect()))
    }
}

impl Resample {
    /// The metrics of the drawn images for one unknown set.
    pub(crate) fn metrics(&self, known: &RankedKnown, set: usize, unknown: &Ranked) -> Metrics {
        let (metrics, _) = Metrics::from_steps(self.steps(known, set, unknown), self.total(known, unknown));
        metrics.judged(known.is_judged)
    }

    /// The counts of drawn images that each unique threshold adds.
    pub(super) fn steps(
        &self,
        known: &RankedKnown,
        set: usize,
        unknown: &Ranked,
    ) -> impl Iterator<Item = Counts> {
        let times = &self.unknown[set];
        steps(known, unknown, |i| u64::from(self.known[i]), |i| u64::from(times[i]))
    }

    /// The number of drawn images.
    pub(super) fn total(&self, known: &RankedKnown, unknown: &Ranked) -> Counts {
        let correct = self.known[..known.correct.0.len()].iter().map(|&times| u64::from(times)).sum();
        Counts { unknown: unknown.0.len() as u64, known: self.known.len() as u64, correct }
    }
}

/// A side with fewer images has too few to estimate a variance.
const FEW: usize = 50;

/// A side whose variance rests on effectively fewer images has too few as well: near 100 %, it rests on those
/// few that are not separated from all images of the other side.
const FEW_MISPLACED: f64 = 20.0;

/// The interval of the mean AUROC over unknown sets that share their known images, with the variance of
/// DeLong et al. (1988) on the logit scale (Pepe, 2003). If a side has fewer than [`FEW`] images, or
/// effectively fewer than [`FEW_MISPLACED`] misplaced ones, it also contains that of
/// [`auroc_interval_of_few`]. If a side has a single image, it is 0..=1, because the variance is undefined.
/// An AUROC of 0 or 1 has no variance: the interval is Wilson's for the number of known images or of images
/// in the smallest set, whichever is smaller.
pub(crate) fn auroc_interval(known: &RankedKnown, sets: &[&Ranked]) -> Interval {
    let count = sets.len() as f64;
    let mut parts = Vec::with_capacity(sets.len());
    // Per known image, the share of unknown images that score higher, averaged over the sets; a tie counts
    // one half.
    let mut known_placements = vec![0.0; known.len()];
    let mut variance = 0.0;
    let mut misplaced = f64::INFINITY;
    for unknown in sets {
        let mut unknown_placements = Vec::with_capacity(unknown.0.len());
        let (n, p) = (known.len() as f64, unknown.0.len() as f64);
        let (mut r, mut w) = (0, known.correct.0.len());
        let (mut flagged, mut caught) = (0, 0);
        for step in steps(known, unknown, |_| 1, |_| 1) {
            let placement = (caught as f64 + step.unknown as f64 / 2.0) / p / count;
            let wrong = step.known - step.correct;
            for (next, more) in [(&mut r, step.correct), (&mut w, wrong)] {
                known_placements[*next..][..more as usize].iter_mut().for_each(|sum| *sum += placement);
                *next += more as usize;
            }
            let placement = 1.0 - (flagged as f64 + step.known as f64 / 2.0) / n;
            unknown_placements.extend(std::iter::repeat_n(placement, step.unknown as usize));
            caught += step.unknown;
            flagged += step.known;
        }
        variance += variance_of_mean(&unknown_placements) / (count * count);
        misplaced = misplaced.min(effective_misplaced(&unknown_placements));
        let auroc = unknown_placements.iter().sum::<f64>() / p;
        let interval = auroc_interval_of_few(auroc, n, p);
        parts.push(Part { weight: 1.0 / count, value: auroc, interval });
    }
    variance += variance_of_mean(&known_placements);
    let auroc = known_placements.iter().sum::<f64>() / known_placements.len() as f64;
    if variance.is_nan() {
        return Interval { low: 0.0, high: 1.0 };
    }
    let images = sets.iter().map(|set| set.len()).fold(known.len(), usize::min);
    let interval = Interval::on_the_logit_scale(auroc, variance, images);
    if is_perfect(auroc) {
        return interval;
    }
    // All sets share the known images, so their errors do not cancel out.
    if known.len() < FEW || effective_misplaced(&known_placements) < FEW_MISPLACED {
        interval.hull(Interval::of_ends(parts))
    } else if images < FEW || misplaced < FEW_MISPLACED {
        interval.hull(Interval::of_sum(parts))
    } else {
        interval
    }
}

/// The effective number (Kish, 1965) of images that are not separated from all images of the other side, by
/// how far their placements are from 1 or, of a score the wrong way round, from 0.
fn effective_misplaced(placements: &[f64]) -> f64 {
    let effective = |distance: fn(f64) -> f64| {
        let distances = placements.iter().map(|&placement| distance(placement));
        let (sum, squares) = distances.fold((0.0, 0.0), |(sum, squares), d| (sum + d, squares + d * d));
        if squares > 0.0 { sum * sum / squares } else { 0.0 }
    };
    effective(|placement| 1.0 - placement).min(effective(|placement| placement))
}

/// The interval of an AUROC of `n` and `m` images by method 5 of Newcombe (2006): its ends are the
/// values whose own intervals, with the variance of exponential scores, just reach the AUROC.
fn auroc_interval_of_few(auroc: f64, n: f64, m: f64) -> Interval {
    let more = (n + m) / 2.0 - 1.0;
    let reach = |a: f64| {
        let variance = a * (1.0 - a) * (1.0 + more * (1.0 - a) / (2.0 - a) + more * a / (1.0 + a));
        Z * (variance / (n * m)).sqrt()
    };
    let end = |mut outside: f64| {
        let mut inside = auroc;
        for _ in 0..60 {
            let middle = (inside + outside) / 2.0;
            *if (auroc - middle).abs() < reach(middle) { &mut inside } else { &mut outside } = middle;
        }
        outside
    };
    Interval { low: end(0.0), high: end(1.0) }
}

/// A side with fewer images has fewer than eight beyond its 5 % quantile, too few for the bootstrap.
const FEW_BEYOND: usize = 150;

/// The 2.5 % and 97.5 % quantiles of how many of `count` images lie beyond the population's 5 % quantile:
/// those of a binomial distribution.
fn beyond(count: usize) -> [usize; 2] {
    const SHARE: f64 = 1.0 - OPERATING_RATE;
    let mut probability = (1.0 - SHARE).powi(count as i32);
    let mut sum = probability;
    let mut ends = [None; 2];
    for number in 0..=count {
        for (end, least) in ends.iter_mut().zip([0.025, 0.975]) {
            if end.is_none() && sum >= least {
                *end = Some(number);
            }
        }
        probability *= (count - number) as f64 / (number + 1) as f64 * SHARE / (1.0 - SHARE);
        sum += probability;
    }
    ends.map(|end| end.unwrap_or(count))
}

/// The intervals of the two FPR metrics if the threshold is at a quantile of few images; `None` if a side has
/// enough images for the [`Bootstrap`]. The order statistics bound the quantile for any distribution; an end
/// that no image bounds is 0 or 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct FprOfFew {
    pub fpr95_tpr: Option<Interval>,
    pub fpr_at_95_known_kept: Option<Interval>,
}

impl FprOfFew {
    pub(crate) fn new(known: &RankedKnown, unknown: &Ranked) -> Self {
        let (n, m) = (known.len(), unknown.len());
        // The share of known images with at least the score of `rank`.
        let flagged = |rank: u64| (known.correct.to_rank(rank) + known.wrong.to_rank(rank)) as f64 / n as f64;
        let fpr95_tpr = (m < FEW_BEYOND).then(|| {
            let [least, most] = beyond(m);
            Interval {
                low: if most < m { flagged(unknown.0[m - 1 - most]) } else { 0.0 },
                high: if least > 0 { flagged(unknown.0[m - least]) } else { 1.0 },
            }
        });
        // The share of unknown images below the score of `rank`; for `rank - 1`, at or below it.
        let accepted = |rank: u64| (m - unknown.to_rank(rank)) as f64 / m as f64;
        let fpr_at_95_known_kept = (n < FEW_BEYOND).then(|| {
            let [least, most] = beyond(n);
            let known = known.ranked().0;
            Interval {
                low: if most < n { accepted(known[most]) } else { 0.0 },
                high: if least > 0 { accepted(known[least - 1].saturating_sub(1)) } else { 1.0 },
            }
        });
        Self { fpr95_tpr, fpr_at_95_known_kept }
    }
}

/// The variance of the values' mean; NaN for a single value.
fn variance_of_mean(values: &[f64]) -> f64 {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0) / count
}

#[cfg(test)]
mod tests {
    use rand_distr::{Distribution, StandardNormal};

    use super::*;

    fn ranked(known: &[f64], unknown: &[f64]) -> (RankedKnown, Ranked) {
        let correct: Vec<bool> = (0..known.len()).map(|i| i % 4 != 0).collect();
        (RankedKnown::new(known, Some(&correct)).unwrap(), Ranked::new(unknown).unwrap())
    }

    /// Scores with ties, unknown ones higher by a half on average.
    fn example(known: usize, unknown: usize, seed: u64) -> (RankedKnown, Ranked) {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut side = |count: usize, shift: f64| -> Vec<f64> {
            (0..count).map(|_| ((random.random::<f64>() + shift) * 50.0).floor()).collect()
        };
        let (known, unknown) = (side(known, 0.0), side(unknown, 0.5));
        ranked(&known, &unknown)
    }

    #[test]
    fn drawing_each_image_once_changes_nothing() {
        let (known, unknown) = example(300, 200, 1);
        let once = Resample { known: vec![1; 300], unknown: vec![vec![1; 200]] };
        assert_eq!(once.metrics(&known, 0, &unknown), Metrics::with_balance(&known, &unknown).0);
    }

    #[test]
    fn drawing_an_image_twice_counts_it_twice() {
        let known = [3.0, 1.0, 0.0, 2.0];
        let correct = [true, false, true, true];
        let ranked_known = RankedKnown::new(&known, Some(&correct)).unwrap();
        let unknown = Ranked::new(&[4.0, 2.0]).unwrap();
        // By rank: correct 3, 2, 0 and wrong 1.
        let drawn = Resample { known: vec![2, 0, 1, 1], unknown: vec![vec![0, 2]] };
        let same =
            Metrics::new(&[3.0, 3.0, 0.0, 1.0], Some(&[true, true, true, false]), &[2.0, 2.0]).unwrap();
        assert_eq!(drawn.metrics(&ranked_known, 0, &unknown), same);
    }

    #[test]
    fn delong_and_the_bootstrap_agree() {
        let (known, unknown) = example(400, 300, 2);
        let delong = auroc_interval(&known, &[&unknown]);
        let bootstrap = Bootstrap { resamples: 2000, seed: 3 };
        let drawn = bootstrap.draws(400, &[300], |drawn| vec![drawn.metrics(&known, 0, &unknown).auroc]);
        let drawn: Vec<Interval> = drawn.map(|draws| draws.middle()).collect();
        let width = delong.high - delong.low;
        assert!((delong.low - drawn[0].low).abs() < width / 10.0, "{delong:?} {drawn:?}");
        assert!((delong.high - drawn[0].high).abs() < width / 10.0, "{delong:?} {drawn:?}");
        let auroc = Metrics::with_balance(&known, &unknown).0.auroc;
        let [low, middle, high] = [delong.low, auroc, delong.high].map(|share| (share / (1.0 - share)).ln());
        assert!(((low + high) / 2.0 - middle).abs() < 1e-12);
    }

    #[test]
    fn the_mean_over_sets_accounts_for_shared_known_images() {
        let (known, a) = example(100, 5000, 4);
        let (_, b) = example(100, 5000, 5);
        let width = |sets: &[&Ranked]| {
            let interval = auroc_interval(&known, sets);
            interval.high - interval.low
        };
        // Few known images dominate the variance, so a second set does not help.
        assert!((width(&[&a, &b]) / width(&[&a]) - 1.0).abs() < 0.05);
        // With few unknown images it does.
        let (known, a) = example(5000, 100, 4);
        let (_, b) = example(5000, 100, 5);
        let width = |sets: &[&Ranked]| {
            let interval = auroc_interval(&known, sets);
            interval.high - interval.low
        };
        assert!(width(&[&a, &b]) / width(&[&a]) < 0.8);
    }

    #[test]
    fn a_second_set_does_not_make_up_for_few_known_images() {
        let known: Vec<f64> = (0..20).map(f64::from).collect();
        let a: Vec<f64> = (0..60).map(|i| f64::from(i) + 5.5).collect();
        let (known, a) = ranked(&known, &a);
        // 1095 of 1200 pairs are in order.
        let few = auroc_interval_of_few(0.9125, 20.0, 60.0);
        let mean = auroc_interval(&known, &[&a, &a]);
        assert!(mean.low <= few.low + 1e-12 && few.high <= mean.high + 1e-12, "{mean:?} {few:?}");
    }

    #[test]
    fn coverage_is_about_95_percent() {
        // P(x < y + s) for x, y uniform on 0..1 is 1 - (1 - s)²/2.
        for (known_images, unknown_images, shift, auroc) in [
            (200, 200, 0.5, 0.875),
            (200, 200, 0.8, 0.98),
            (80, 80, 0.5, 0.875),
            (80, 80, 0.8, 0.98),
            (20, 20, 0.5, 0.875),
            (20, 20, 0.8, 0.98),
            (500, 10, 0.5, 0.875),
            (500, 10, 0.8, 0.98),
            (500, 3, 0.8, 0.98),
        ] {
            let mut held = 0;
            for seed in 0..400 {
                let mut random = ChaCha8Rng::seed_from_u64(1000 + seed);
                let mut side = |images: usize, shift: f64| -> Vec<f64> {
                    (0..images).map(|_| random.random::<f64>() + shift).collect()
                };
                let (known, unknown) = (side(known_images, 0.0), side(unknown_images, shift));
                let (known, unknown) = ranked(&known, &unknown);
                let interval = auroc_interval(&known, &[&unknown]);
                held += u32::from(interval.low <= auroc && auroc <= interval.high);
            }
            assert!(
                (364..=397).contains(&held),
                "{held} of 400 with {known_images} and {unknown_images} images at {auroc}"
            );
        }
    }

    #[test]
    fn coverage_is_no_less_where_few_images_are_misplaced() {
        for (known_images, unknown_images, shift, auroc) in [
            (1000, 50, 2.326_348 * 2.0_f64.sqrt(), 0.99),
            (3000, 75, 3.090_232 * 2.0_f64.sqrt(), 0.999),
            (3000, 300, 3.090_232 * 2.0_f64.sqrt(), 0.999),
            (75, 3000, 3.090_232 * 2.0_f64.sqrt(), 0.999),
            (1000, 50, -2.326_348 * 2.0_f64.sqrt(), 0.01),
        ] {
            let mut held = 0;
            for seed in 0..200 {
                let mut random = ChaCha8Rng::seed_from_u64(2000 + seed);
                let mut side = |images: usize, shift: f64| -> Vec<f64> {
                    (0..images)
                        .map(|_| shift + Distribution::<f64>::sample(&StandardNormal, &mut random))
                        .collect()
                };
                let (known, unknown) = (side(known_images, 0.0), side(unknown_images, shift));
                let (known, unknown) = ranked(&known, &unknown);
                let interval = auroc_interval(&known, &[&unknown]);
                held += u32::from(interval.low <= auroc && auroc <= interval.high);
            }
            assert!(held >= 190, "{held} of 200 with {known_images} and {unknown_images} images at {auroc}");
        }
    }

    #[test]
    fn order_statistics_bound_a_quantile_of_few_images() {
        assert_eq!((beyond(20), beyond(71), beyond(72), beyond(100)), ([0, 3], [0, 8], [1, 8], [1, 10]));
        let (known, unknown) = ranked(&[0.0; 150], &[1.0; 150]);
        let none = FprOfFew { fpr95_tpr: None, fpr_at_95_known_kept: None };
        assert_eq!(FprOfFew::new(&known, &unknown), none);
        // Without an image beyond the quantile, the threshold may be anywhere.
        let (known, unknown) = ranked(&[0.0, 1.0, 2.0], &[4.0, 5.0]);
        let whole = Some(Interval { low: 0.0, high: 1.0 });
        let all = FprOfFew { fpr95_tpr: whole, fpr_at_95_known_kept: whole };
        assert_eq!(FprOfFew::new(&known, &unknown), all);
    }

    #[test]
    fn the_fpr_of_few_images_lies_between_order_statistics() {
        // As `beyond(100)` is [1, 10].
        let few: Vec<f64> = (1..=100).map(f64::from).collect();
        let many: Vec<f64> = (0..200).map(|i| f64::from(i) + 0.5).collect();
        let (known, unknown) = ranked(&many, &few);
        // The unknown scores 11 and 1: 189 and 199 of 200 known images have at least these.
        let caught = Some(Interval { low: 0.945, high: 0.995 });
        let found = FprOfFew::new(&known, &unknown);
        assert_eq!(found, FprOfFew { fpr95_tpr: caught, fpr_at_95_known_kept: None });
        let (known, unknown) = ranked(&few, &many);
        // The known scores 90 and 100: 90 and 100 of 200 unknown images score less.
        let kept = Some(Interval { low: 0.45, high: 0.5 });
        let found = FprOfFew::new(&known, &unknown);
        assert_eq!(found, FprOfFew { fpr95_tpr: None, fpr_at_95_known_kept: kept });
    }

    #[test]
    fn draws_around_a_value_are_symmetric_in_logits() {
        let draws = Draws::new((1..100).map(|share| f64::from(share) / 100.0).collect());
        let Interval { low, high } = draws.around(0.5, 9);
        assert!((low + high - 1.0).abs() < 1e-12 && (0.05..0.1).contains(&low), "{low}");
        // Perfect draws are as far away as they are, not infinitely far.
        let perfect = Draws::new(vec![0.97, 0.99, 1.0, 1.0]).around(0.99, 1000);
        assert!((0.8..0.9).contains(&perfect.low) && perfect.high < 1.0, "{perfect:?}");
        assert_eq!(draws.around(1.0, 9), Interval::wilson(9, 9));
        // A result that is a little worse is not far more certain.
        let nearly = Draws::new(vec![0.9999; 9]).around(0.9999, 100);
        assert!((nearly.low - Interval::wilson(100, 100).low).abs() < 1e-3, "{nearly:?}");
    }

    #[test]
    fn a_perfect_result_on_few_images_is_uncertain() {
        let (known, unknown) = ranked(&[0.0, 1.0, 2.0, 3.0], &[4.0, 5.0, 6.0]);
        let interval = auroc_interval(&known, &[&unknown]);
        // Wilson's interval for 3 of 3.
        assert_eq!(interval, Interval::wilson(3, 3));
        assert!((interval.low - 3.0 / (3.0 + Z * Z)).abs() < 1e-12 && interval.high == 1.0);
        let share = |weight, share, images| Share { weight, share, images };
        assert_eq!(Interval::of_shares([share(1.0, 1.0, 3)]), interval);
        let (one, wilson) = (Interval::of_shares([share(1.0, 0.25, 8)]), Interval::wilson(2, 8));
        assert!((one.low - wilson.low).abs() < 1e-15 && (one.high - wilson.high).abs() < 1e-15);
        // Six sixths are not quite 1.
        assert_eq!(Interval::of_shares([share(1.0 / 6.0, 1.0, 300); 6]).high, 1.0);
        // A share lies in its interval.
        for total in 1..200 {
            assert_eq!(
                (Interval::wilson(0, total).low, Interval::wilson(total, total).high),
                (0.0, 1.0),
                "{total}"
            );
        }
        // The distances of two sets from their lower ends add in quadrature.
        let halves = Interval::of_shares([share(0.5, 1.0, 10), share(0.5, 1.0, 10)]);
        let below = 1.0 - Interval::wilson(10, 10).low;
        assert!((halves.low - (1.0 - below / 2.0_f64.sqrt())).abs() < 1e-12 && halves.high == 1.0);
        // A perfect share of few images is uncertain next to one of many.
        let mixed = Interval::of_shares([share(0.5, 1.0, 3), share(0.5, 0.994, 1000)]);
        assert!(mixed.low < 0.997 - below / 2.0, "{mixed:?}");
        let hull = Interval { low: 0.2, high: 0.3 }.hull(Interval { low: 0.1, high: 0.25 });
        assert_eq!(hull, Interval { low: 0.1, high: 0.3 });
    }

    #[test]
    fn intervals_depend_on_the_seed() {
        let (known, unknown) = example(50, 40, 6);
        let of = |seed| {
            let bootstrap = Bootstrap { resamples: 50, seed };
            let mut draws =
                bootstrap.draws(50, &[40], |drawn| vec![drawn.metrics(&known, 0, &unknown).aupr_in]);
            draws.next().unwrap()
        };
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
        assert!(Bootstrap { resamples: 0, seed: 1 }.draws(50, &[40], |_| vec![0.0]).next().is_none());
    }

    #[test]
    fn a_single_image_gives_the_full_interval() {
        let (known, unknown) = ranked(&[1.0], &[2.0, 3.0]);
        assert_eq!(auroc_interval(&known, &[&unknown]), Interval { low: 0.0, high: 1.0 });
    }
}
