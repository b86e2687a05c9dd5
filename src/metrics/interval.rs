//! 95 % confidence intervals of the metrics.

use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{Counts, Metrics, Ranked, RankedKnown, steps};

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

/// A share that was measured on some images, as a part of a weighted sum.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Share {
    /// Its weight in the sum.
    pub weight: f64,
    /// The share, 0 to 1.
    pub share: f64,
    /// The number of images, above 0.
    pub images: usize,
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
    /// The middle 95 % of values, interpolated linearly.
    fn middle(mut values: Vec<f64>) -> Self {
        values.sort_unstable_by(f64::total_cmp);
        let at = |share: f64| {
            let position = share * (values.len() - 1) as f64;
            let (below, above) = (values[position.floor() as usize], values[position.ceil() as usize]);
            below + (above - below) * position.fract()
        };
        Self { low: at(0.025), high: at(0.975) }
    }

    /// Wilson's 95 % interval of a share of which `count` of `total` were found, `total` above 0.
    pub(crate) fn wilson(count: usize, total: usize) -> Self {
        Self::of_share(count as f64 / total as f64, total as f64)
    }

    /// Wilson's interval of a share among `n` images.
    pub(crate) fn of_share(share: f64, n: f64) -> Self {
        let centre = share + Z * Z / (2.0 * n);
        let reach = Z * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt();
        let at = |value: f64| (value / (1.0 + Z * Z / n)).clamp(0.0, 1.0);
        // At 0 and 1 rounding would leave the share out.
        let low = if share == 0.0 { 0.0 } else { at(centre - reach) };
        Self { low, high: if share == 1.0 { 1.0 } else { at(centre + reach) } }
    }

    /// The interval of a weighted sum of independent shares, whose weights sum to 1, from Wilson's of each.
    pub(crate) fn of_shares(shares: impl IntoIterator<Item = Share>) -> Self {
        let parts = shares
            .into_iter()
            .map(|Share { weight, share, images }| (weight, share, Self::of_share(share, images as f64)));
        Self::of_sum(parts)
    }

    /// The interval of a weighted sum of independent values of 0 to 1, whose weights sum to 1, from the value
    /// and the interval of each (Zou and Donner, 2008): the squares of the distances to the ends add up.
    fn of_sum(parts: impl IntoIterator<Item = (f64, f64, Self)>) -> Self {
        let (mut sum, mut below, mut above) = (0.0, 0.0, 0.0);
        for (weight, value, Self { low, high }) in parts {
            sum += weight * value;
            below += (weight * (value - low)).powi(2);
            above += (weight * (high - value)).powi(2);
        }
        // The weights of several sets sum to almost 1.
        let sum = if (sum - sum.round()).abs() < 1e-12 { sum.round() } else { sum };
        Self { low: (sum - below.sqrt()).max(0.0), high: (sum + above.sqrt()).min(1.0) }
    }

    /// The smallest interval that holds both.
    pub(crate) fn hull(self, other: Self) -> Self {
        Self { low: self.low.min(other.low), high: self.high.max(other.high) }
    }
}

/// One resample: how often each known image and each image of every unknown set was drawn, by rank.
pub(crate) struct Resample {
    known: Vec<u32>,
    unknown: Vec<Vec<u32>>,
}

impl Bootstrap {
    /// Measures every resample and returns an interval for each measured number; empty without resamples.
    pub(crate) fn intervals(
        self,
        known: usize,
        unknown: &[usize],
        measure: impl Fn(&Resample) -> Vec<f64> + Sync,
    ) -> Vec<Interval> {
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
        (0..numbers).map(|i| Interval::middle(rows.iter().map(|row| row[i]).collect())).collect()
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

/// A side with fewer images has too few to estimate a variance from.
const FEW: usize = 50;

/// The interval of the mean AUROC over unknown sets that share their known images, with the variance of
/// DeLong et al. (1988) on the scale of logits (Pepe, 2003). Where a side has fewer than [`FEW`] images it
/// holds at least that of [`auroc_interval_of_few`] too. It is 0..=1 if a side has a single image, because
/// its variance is undefined. An AUROC of 0 or 1 has none: the interval is Wilson's for as many images as the
/// smallest set or the known ones have, whichever are fewer.
pub(crate) fn auroc_interval(known: &RankedKnown, sets: &[&Ranked]) -> Interval {
    let count = sets.len() as f64;
    let mut parts = Vec::with_capacity(sets.len());
    // Per known image, the share of unknown images that score higher, averaged over the sets; a tie counts
    // one half.
    let mut known_placements = vec![0.0; known.len()];
    let mut variance = 0.0;
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
        let auroc = unknown_placements.iter().sum::<f64>() / p;
        parts.push((1.0 / count, auroc, auroc_interval_of_few(auroc, n, p)));
    }
    variance += variance_of_mean(&known_placements);
    let auroc = known_placements.iter().sum::<f64>() / known_placements.len() as f64;
    if variance.is_nan() {
        return Interval { low: 0.0, high: 1.0 };
    }
    let spread = auroc * (1.0 - auroc);
    let images = sets.iter().map(|set| set.len()).fold(known.len(), usize::min);
    // The sum may have been rounded.
    if spread < 1e-12 {
        return Interval::of_share(auroc.clamp(0.0, 1.0), images as f64);
    }
    let (logit, reach) = ((auroc / (1.0 - auroc)).ln(), Z * variance.sqrt() / spread);
    let [low, high] = [logit - reach, logit + reach].map(|logit| 1.0 / (1.0 + (-logit).exp()));
    let interval = Interval { low, high };
    match (known.len(), images) {
        // All sets have the same known images: their errors do not cancel out.
        (..FEW, _) => {
            let mean = |end: fn(&Interval) -> f64| parts.iter().map(|(weight, _, of)| weight * end(of)).sum();
            interval.hull(Interval { low: mean(|of| of.low), high: mean(|of| of.high) })
        }
        (_, ..FEW) => interval.hull(Interval::of_sum(parts)),
        _ => interval,
    }
}

/// The interval of an AUROC of `n` and `m` images by method 5 of Newcombe (2006): its ends are where the
/// AUROC lies on the border of their own intervals, with the variance of exponential scores.
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

/// The variance of the values' mean; NaN for a single value.
fn variance_of_mean(values: &[f64]) -> f64 {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0) / count
}

#[cfg(test)]
mod tests {
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
        let drawn = bootstrap.intervals(400, &[300], |drawn| vec![drawn.metrics(&known, 0, &unknown).auroc]);
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
    fn what_is_perfect_on_few_images_is_not_certain() {
        let (known, unknown) = ranked(&[0.0, 1.0, 2.0, 3.0], &[4.0, 5.0, 6.0]);
        let interval = auroc_interval(&known, &[&unknown]);
        // Wilson's interval of 3 of 3.
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
        // The distances of two sets from their lower ends add up in squares.
        let halves = Interval::of_shares([share(0.5, 1.0, 10), share(0.5, 1.0, 10)]);
        let below = 1.0 - Interval::wilson(10, 10).low;
        assert!((halves.low - (1.0 - below / 2.0_f64.sqrt())).abs() < 1e-12 && halves.high == 1.0);
        // A perfect share of few images is uncertain beside another one of many.
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
            bootstrap.intervals(50, &[40], |drawn| vec![drawn.metrics(&known, 0, &unknown).aupr_in])
        };
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
        assert!(Bootstrap { resamples: 0, seed: 1 }.intervals(50, &[40], |_| vec![0.0]).is_empty());
    }

    #[test]
    fn a_single_image_gives_the_full_interval() {
        let (known, unknown) = ranked(&[1.0], &[2.0, 3.0]);
        assert_eq!(auroc_interval(&known, &[&unknown]), Interval { low: 0.0, high: 1.0 });
    }
}
