//! Drift: whether the images of a stream are still like those for which a threshold was chosen.
//!
//! A [`Monitor`] takes the rejection score of each image, in order of arrival. It is a conformal test
//! martingale: it bets against the hypothesis that the held-out images of the model and those of the stream
//! are exchangeable. Under that hypothesis, the probability that its capital M, which starts at 1, ever
//! reaches 1 / alpha is at most alpha, whatever the network, the score and the length of the stream (Ville's
//! inequality). That probability is over held-out images and stream together: with few held-out images, those of
//! one model may raise more false alarms, those of another fewer. After a change M grows exponentially.
//!
//! The p-value of an image is (#{s_i > s} + theta #{s_i = s}) / (number of scores), itself included, over the
//! held-out scores and all earlier scores of the stream; theta is uniform on 0 to 1. These p-values are
//! independent and uniform. Those against the held-out scores alone are not, because they share their errors:
//! the promise would not hold. So all scores are kept, in 8 to 16 bytes per image.
//!
//! The bets are those of the simple jumper of Vovk et al., "Retrain or not retrain: conformal test
//! martingales for change-point detection" (COPA 2021), with two additions. The jumper bets that scores rise
//! or fall as a whole, but a new kind of image in a few per cent of the stream hardly shifts them; so a
//! fourth gambler bets on more scores among the highest. And while nothing changes, the capital of a jumper
//! falls exponentially, to about 10^-18 in 10,000 images, and it would have to win all of it back after a
//! change; so it has half of the capital, and the rest is given bit by bit to jumpers that begin later. M is
//! the weighted mean of all these, and a martingale because each of them is. It is never less than half of
//! the jumper that begins first, and falls no faster than 1 / n.

mod state;

use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};
use serde::Serialize;

use crate::{
    error::{Error, Result},
    method::is_unknown,
    metrics::Interval,
};
pub use state::{StateFile, StreamOrigin};

/// The default probability of a false alarm. After a change the martingale grows exponentially, so growing
/// from 20, for a probability of 0.05, to 100 takes only a few more images.
pub const ALPHA: f64 = 0.01;

/// The share of the capital that is redistributed before each bet.
const JUMP: f64 = 0.01;

/// The share of the capital that is kept for jumpers that begin later.
const RESERVE: f64 = 0.5;

/// The number of images after which half of the reserve has been given away.
const HALF_LIFE: f64 = 1000.0;

/// The share of the earlier scores that count as high for the gambler who bets on more of them.
const TAIL: f64 = 0.05;

/// The factor on each gambler's capital after a p-value; its mean over uniform p-values is 1. Three are those
/// of the simple jumper: they bet on higher scores, on nothing, on lower scores. The fourth bets on more
/// scores among the highest, as from a new kind of image.
fn odds(p: f64) -> [f64; 4] {
    let tail = if p <= TAIL { 2.0 } else { (1.0 - 2.0 * TAIL) / (1.0 - TAIL) };
    [1.5 - p, 1.0, 0.5 + p, tail]
}

/// Watches a stream of rejection scores. The same scores, seed and held-out scores give the same numbers, bit
/// for bit.
#[derive(Debug)]
pub struct Monitor {
    alpha: f64,
    seed: u64,
    /// Draws one theta for each image.
    random: ChaCha8Rng,
    /// Ascending.
    held_out: Vec<f32>,
    /// The held-out scores and those of the stream.
    ranks: Ranks,
    scores: Vec<f32>,
    martingale: Martingale<4>,
    /// The natural logarithm of the greatest capital.
    greatest: f64,
    alarm: Option<usize>,
    guaranteed: bool,
}

/// The state of the martingale.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Status {
    /// Images of the stream.
    pub images: usize,
    /// The decimal logarithm of the martingale.
    pub log10_martingale: f64,
    /// The decimal logarithm of its greatest value; at least 0.
    pub greatest_log10_martingale: f64,
    /// The probability of a false alarm: there is an alarm when the martingale reaches 1 / alpha.
    pub alpha: f64,
    /// The number of images at the alarm, which is never withdrawn.
    pub alarm: Option<usize>,
    /// Whether `alpha` bounds the probability of a false alarm; see [`Monitor::withdraw_guarantee`].
    pub guaranteed: bool,
}

/// The last images of a stream, compared with the held-out ones.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Recent {
    /// Images that are compared.
    pub images: usize,
    /// The number of them that are called unknown.
    pub unknown: usize,
    /// Their share.
    pub share_unknown: f64,
    /// Its 95 % interval (Wilson's).
    pub share_unknown_interval: Interval,
    /// The distance between the scores and the held-out scores.
    pub kolmogorov_smirnov: KolmogorovSmirnov,
}

/// The two-sample test of Kolmogorov and Smirnov. Its p-value is for a single look at a stream, not for daily
/// looks.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct KolmogorovSmirnov {
    /// The largest difference between the shares of scores up to a value, 0 to 1.
    pub statistic: f64,
    /// The probability of such a difference between samples of the same distribution, by Kolmogorov's limit,
    /// which is too large for few images and for ties.
    pub p_value: f64,
}

impl Monitor {
    /// A monitor before its first image. `held_out` are the scores of the images from which the threshold was
    /// chosen, in any order; the more there are, the sooner a change is noticed. The probability of ever raising
    /// a false alarm is at most `alpha`, on average over draws of the held-out images, unless these scores are in
    /// doubt, which [`Manifest::doubt_of_held_out`](crate::model::Manifest::doubt_of_held_out) says, and for a
    /// provider `Scorer::doubt_of_held_out`.
    ///
    /// # Errors
    /// [`Error::Setting`] if alpha is not above 0 and below 1, [`Error::NoHeldOutScores`] if there are none.
    pub fn new(held_out: &[f32], alpha: f64, seed: u64) -> Result<Self> {
        if !(alpha > 0.0 && alpha < 1.0) {
            return Err(Error::setting("alpha", alpha, "must be above 0 and below 1"));
        }
        if held_out.is_empty() {
            return Err(Error::NoHeldOutScores);
        }
        let mut held_out: Vec<f32> = held_out.iter().copied().map(finite).collect();
        held_out.sort_unstable_by(f32::total_cmp);
        Ok(Self {
            alpha,
            seed,
            random: ChaCha8Rng::seed_from_u64(seed),
            ranks: Ranks(vec![held_out.clone()]),
            held_out,
            scores: Vec::new(),
            martingale: Martingale::new(RESERVE),
            greatest: 0.0,
            alarm: None,
            guaranteed: true,
        })
    }

    /// Adds the score of the next image. An infinite score counts as the greatest or the least finite one,
    /// NaN as the greatest.
    pub fn push(&mut self, score: f32) {
        let score = finite(score);
        self.scores.push(score);
        self.ranks.insert(score);
        let (above, equal) = self.ranks.above_and_equal(score);
        let theta: f64 = self.random.random();
        let count = self.held_out.len() + self.scores.len();
        self.martingale.bet(odds((above as f64 + theta * equal as f64) / count as f64));
        self.greatest = self.greatest.max(self.martingale.ln);
        if self.alarm.is_none() && self.greatest >= -self.alpha.ln() {
            self.alarm = Some(self.scores.len());
        }
    }

    /// Records that scores of the stream are not like the held-out ones even if the images are, as on a provider
    /// with [doubts](crate::model::Manifest::doubt_of_held_out): `alpha` then bounds nothing in the whole stream.
    pub fn withdraw_guarantee(&mut self) {
        self.guaranteed = false;
    }

    /// The state of the martingale.
    #[must_use]
    pub fn status(&self) -> Status {
        let log10 = |ln: f64| ln * std::f64::consts::LOG10_E;
        Status {
            images: self.scores.len(),
            log10_martingale: log10(self.martingale.ln),
            greatest_log10_martingale: log10(self.greatest),
            alpha: self.alpha,
            alarm: self.alarm,
            guaranteed: self.guaranteed,
        }
    }

    /// Compares the last images, or all if there are fewer, with the held-out ones; `None` before the first
    /// image.
    #[must_use]
    pub fn recent(&self, images: usize, threshold: f32) -> Option<Recent> {
        let mut scores = self.scores[self.scores.len().saturating_sub(images)..].to_vec();
        let images = scores.len();
        if images == 0 {
            return None;
        }
        scores.sort_unstable_by(f32::total_cmp);
        let unknown = scores.iter().filter(|&&score| is_unknown(score, threshold)).count();
        Some(Recent {
            images,
            unknown,
            share_unknown: unknown as f64 / images as f64,
            share_unknown_interval: Interval::wilson(unknown, images),
            kolmogorov_smirnov: KolmogorovSmirnov::between(&scores, &self.held_out),
        })
    }

    /// The number of held-out scores.
    #[must_use]
    pub fn held_out(&self) -> usize {
        self.held_out.len()
    }
}

/// The score, or the nearest finite one. JSON has no other.
fn finite(score: f32) -> f32 {
    if score.is_nan() { f32::MAX } else { score.clamp(f32::MIN, f32::MAX) }
}

/// A jumper: several gamblers, each with their own odds. Before each bet they share a part of their capital,
/// and get a part of the reserve. As all bets are shares of a capital, this is as if another jumper began.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Martingale<const GAMBLERS: usize> {
    /// The natural logarithm of the capital, which can become too large for a float.
    ln: f64,
    /// Each gambler's share of it.
    shares: [f64; GAMBLERS],
    /// The reserve's share of it. The reserve itself is [`RESERVE`] / (1 + bets / [`HALF_LIFE`]).
    reserve: f64,
    bets: f64,
}

impl<const GAMBLERS: usize> Martingale<GAMBLERS> {
    fn new(reserve: f64) -> Self {
        Self { ln: 0.0, shares: [(1.0 - reserve) / GAMBLERS as f64; GAMBLERS], reserve, bets: 0.0 }
    }

    fn bet(&mut self, odds: [f64; GAMBLERS]) {
        self.bets += 1.0;
        let given = self.reserve / (HALF_LIFE + self.bets);
        self.reserve -= given;
        let divided = (JUMP * self.shares.iter().sum::<f64>() + given) / GAMBLERS as f64;
        for (share, odds) in self.shares.iter_mut().zip(odds) {
            *share = ((1.0 - JUMP) * *share + divided) * odds;
        }
        let growth = self.reserve + self.shares.iter().sum::<f64>();
        self.ln += growth.ln();
        self.reserve /= growth;
        self.shares.iter_mut().for_each(|share| *share /= growth);
    }
}

/// Scores in sorted runs, each longer than the next, as in a binary counter. Insertions move each score log n
/// times over its lifetime; a count takes log² n comparisons.
#[derive(Debug)]
struct Ranks(Vec<Vec<f32>>);

impl Ranks {
    fn insert(&mut self, score: f32) {
        let mut run = vec![score];
        while let Some(mut longer) = self.0.pop_if(|last| last.len() <= run.len()) {
            longer.append(&mut run);
            // The sort finds the two runs and merges them.
            longer.sort_by(f32::total_cmp);
            run = longer;
        }
        self.0.push(run);
    }

    /// The numbers of scores above and equal to one.
    fn above_and_equal(&self, score: f32) -> (usize, usize) {
        self.0.iter().fold((0, 0), |(above, equal), run| {
            let from = run.partition_point(|&other| other < score);
            let to = from + run[from..].partition_point(|&other| other <= score);
            (above + run.len() - to, equal + to - from)
        })
    }
}

impl KolmogorovSmirnov {
    /// Compares two samples, both ascending and not empty.
    fn between(a: &[f32], b: &[f32]) -> Self {
        let (n, m) = (a.len() as f64, b.len() as f64);
        let (mut i, mut j, mut statistic) = (0, 0, 0.0_f64);
        while i < a.len() && j < b.len() {
            let value = a[i].min(b[j]);
            i += a[i..].iter().take_while(|&&other| other <= value).count();
            j += b[j..].iter().take_while(|&&other| other <= value).count();
            statistic = statistic.max((i as f64 / n - j as f64 / m).abs());
        }
        Self { statistic, p_value: kolmogorov((n * m / (n + m)).sqrt() * statistic) }
    }
}

/// The probability that a variable of Kolmogorov's distribution is at least x.
fn kolmogorov(x: f64) -> f64 {
    use std::f64::consts::PI;
    // Each series converges within four terms on its side.
    let terms = 1..=4;
    let p = if x <= 0.0 {
        1.0
    } else if x < 1.0 {
        let odd = terms.map(|k| f64::from(2 * k - 1));
        1.0 - (2.0 * PI).sqrt() / x * odd.map(|odd| (-(odd * PI / x).powi(2) / 8.0).exp()).sum::<f64>()
    } else {
        let sign = |k: i32| if k % 2 == 1 { 2.0 } else { -2.0 };
        terms.map(|k| sign(k) * (-2.0 * (f64::from(k) * x).powi(2)).exp()).sum()
    };
    p.clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    /// The greatest allowed difference from reference values, relative above 1.
    const TOLERANCE: f64 = 1e-12;

    fn golden() -> Value {
        serde_json::from_str(include_str!("../../tests/golden/drift.json")).unwrap()
    }

    fn numbers(value: &Value) -> Vec<f64> {
        value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
    }

    #[track_caller]
    fn assert_close(found: f64, expected: f64) {
        assert!((found - expected).abs() <= TOLERANCE * expected.abs().max(1.0), "{found}, not {expected}");
    }

    fn normal(count: usize, shift: f32, seed: u64) -> Vec<f32> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let distribution = rand_distr::Normal::new(shift, 1.0).unwrap();
        (0..count).map(|_| random.sample(distribution)).collect()
    }

    fn monitor(held_out: &[f32], scores: &[f32]) -> Monitor {
        let mut monitor = Monitor::new(held_out, ALPHA, 0).unwrap();
        scores.iter().for_each(|&score| monitor.push(score));
        monitor
    }

    #[test]
    fn the_simple_jumper_matches_online_cp() {
        for case in golden()["martingales"].as_array().unwrap() {
            let mut martingale = Martingale::new(0.0);
            for (p, log10) in numbers(&case["p_values"]).into_iter().zip(numbers(&case["log10"])) {
                let [higher, nothing, lower, _] = odds(p);
                martingale.bet([higher, nothing, lower]);
                assert_close(martingale.ln / std::f64::consts::LN_10, log10);
            }
        }
    }

    #[test]
    fn no_gambler_gains_from_uniform_p_values() {
        let count = 100_000;
        let mut sums = [0.0; 4];
        for i in 0..count {
            let p = (f64::from(i) + 0.5) / f64::from(count);
            sums.iter_mut().zip(odds(p)).for_each(|(sum, odds)| *sum += odds / f64::from(count));
        }
        sums.into_iter().for_each(|mean| assert!((mean - 1.0).abs() < 1e-9, "{sums:?}"));
    }

    #[test]
    fn the_fourth_gambler_bets_on_the_highest_twentieth() {
        // 0.05 * 2 + 0.95 * (0.9 / 0.95) = 1.
        assert_eq!((odds(0.05)[3], odds(0.06)[3]), (2.0, 0.9 / 0.95));
    }

    #[test]
    fn the_martingale_is_a_mean_of_jumpers() {
        let mut random = ChaCha8Rng::seed_from_u64(5);
        let mut martingale = Martingale::new(RESERVE);
        let mut jumpers = vec![(1.0 - RESERVE, Martingale::new(0.0))];
        let left = |bets: usize| RESERVE / (1.0 + bets as f64 / HALF_LIFE);
        for bets in 1..=400 {
            let p = random.random::<f64>().powi(if bets > 300 { 3 } else { 1 });
            jumpers.push((left(bets - 1) - left(bets), Martingale::new(0.0)));
            jumpers.iter_mut().for_each(|(_, jumper)| jumper.bet(odds(p)));
            martingale.bet(odds(p));
            let begun: f64 = jumpers.iter().map(|(weight, jumper)| weight * jumper.ln.exp()).sum();
            assert_close(martingale.ln, (begun + left(bets)).ln());
        }
        assert!(martingale.ln > 5.0, "{martingale:?}");
    }

    #[test]
    fn kolmogorov_smirnov_and_wilson_match_scipy() {
        for case in golden()["kolmogorov_smirnov"].as_array().unwrap() {
            let [a, b] = ["a", "b"].map(|side| -> Vec<f32> {
                numbers(&case[side]).into_iter().map(|number| number as f32).collect()
            });
            let found = KolmogorovSmirnov::between(&a, &b);
            assert_close(found.statistic, case["statistic"].as_f64().unwrap());
            assert_close(found.p_value, case["p_value"].as_f64().unwrap());
            assert_eq!(KolmogorovSmirnov::between(&b, &a), found);
        }
        for case in golden()["wilson"].as_array().unwrap() {
            let [count, total, low, high] = numbers(case).try_into().unwrap();
            let found = Interval::wilson(count as usize, total as usize);
            assert_close(found.low, low);
            assert_close(found.high, high);
        }
    }

    #[test]
    fn ranks_match_a_sorted_list() {
        let held_out: Vec<f32> = normal(37, 0.0, 1).into_iter().map(|score| (4.0 * score).round()).collect();
        let mut all = held_out.clone();
        let mut sorted = held_out;
        sorted.sort_by(f32::total_cmp);
        let mut ranks = Ranks(vec![sorted]);
        for score in normal(500, 0.0, 2).into_iter().map(|score| (4.0 * score).round()) {
            ranks.insert(score);
            all.push(score);
            let count =
                |test: fn(&f32, &f32) -> bool| all.iter().filter(|&other| test(other, &score)).count();
            assert_eq!(ranks.above_and_equal(score), (count(f32::gt), count(f32::eq)), "{score}");
        }
        assert!(ranks.0.iter().all(|run| run.is_sorted()));
        assert!(ranks.0.windows(2).all(|runs| runs[0].len() > runs[1].len()), "each is longer than the next");
    }

    #[test]
    fn p_values_are_uniform_despite_ties() {
        // All scores are equal: only theta is left.
        let mut monitor = Monitor::new(&[0.0; 50], ALPHA, 3).unwrap();
        let mut thetas = ChaCha8Rng::seed_from_u64(3);
        let mut expected = Martingale::new(RESERVE);
        for _ in 0..100 {
            monitor.push(0.0);
            expected.bet(odds(thetas.random()));
        }
        assert_close(monitor.martingale.ln, expected.ln);
    }

    #[test]
    fn rising_and_falling_scores_raise_a_lasting_alarm() {
        let held_out = normal(1000, 0.0, 1);
        let same = monitor(&held_out, &normal(2000, 0.0, 2)).status();
        assert_eq!((same.images, same.alarm), (2000, None));
        assert!(same.log10_martingale < same.greatest_log10_martingale);
        for shift in [1.0, -1.0] {
            let stream = [normal(500, 0.0, 3), normal(200, shift, 4), normal(5000, 0.0, 5)].concat();
            let status = monitor(&held_out, &stream).status();
            assert!(status.alarm.is_some_and(|alarm| (500..600).contains(&alarm)), "{status:?}");
            assert!(status.greatest_log10_martingale >= 2.0);
            // What comes later changes the capital, not the alarm.
            assert!(status.log10_martingale < status.greatest_log10_martingale - 1.0, "{status:?}");
        }
    }

    #[test]
    fn a_few_images_of_a_new_kind_raise_an_alarm_if_they_score_high() {
        let held_out: Vec<f32> = (0..1000).map(|score| score as f32).collect();
        let stream: Vec<f32> = (0..600)
            .map(|i| if i % 8 == 0 { (2000 + i) as f32 } else { (i * 617 % 1000) as f32 + 0.5 })
            .collect();
        let alarm = |sign: f32| {
            let signed = |scores: &[f32]| -> Vec<f32> { scores.iter().map(|score| sign * score).collect() };
            monitor(&signed(&held_out), &signed(&stream)).status().alarm
        };
        // A simulation in Python says 95 for each of 60 seeds, and none without the fourth gambler's bets.
        assert!(alarm(1.0).is_some_and(|alarm| (80..=110).contains(&alarm)), "{:?}", alarm(1.0));
        assert_eq!(alarm(-1.0), None);
    }

    #[test]
    fn the_capital_neither_overflows_nor_vanishes() {
        let rising: Vec<f32> = (0..20_000).map(|score| score as f32).collect();
        let log10 = monitor(&[0.0; 10], &rising).status().log10_martingale;
        assert!(log10.is_finite() && log10 > 400.0, "{log10}");
        let log10 = monitor(&[0.0; 10], &normal(20_000, 0.0, 1)).status().log10_martingale;
        assert!(log10 > (RESERVE / 21.0).log10(), "{log10}");
    }

    #[test]
    fn non_finite_scores_count_as_the_greatest_or_least() {
        let of = |score: f32| monitor(&[0.0, 1.0], &[score; 9]);
        assert_eq!(of(f32::NAN).status(), of(f32::MAX).status());
        assert_eq!(of(f32::INFINITY).status(), of(f32::MAX).status());
        assert_eq!(of(f32::NEG_INFINITY).status(), of(f32::MIN).status());
        assert_eq!(of(f32::NAN).recent(9, 0.5).unwrap().unknown, 9);
    }

    #[test]
    fn the_most_recent_images_are_compared() {
        let monitor = monitor(&[0.0, 1.0, 2.0, 3.0], &[9.0, 9.0, 0.0, 1.0, 2.0, 3.0]);
        let all = monitor.recent(100, 2.5).unwrap();
        assert_eq!((all.images, all.unknown, all.share_unknown), (6, 3, 0.5));
        let last = monitor.recent(4, 2.5).unwrap();
        assert_eq!((last.images, last.unknown), (4, 1));
        assert_eq!(last.kolmogorov_smirnov, KolmogorovSmirnov { statistic: 0.0, p_value: 1.0 });
        assert!(last.share_unknown_interval.low < 0.25 && last.share_unknown_interval.high > 0.25);
        assert_eq!(monitor.recent(0, 2.5), None);
    }

    /// The promise, on a small scale; `benches/drift.rs` checks it in full.
    #[test]
    fn false_alarms_are_as_rare_as_promised() {
        let (streams, alpha) = (400, 0.05);
        for held_out in [20, 300] {
            let has_alarm = |seed: &u64| {
                let mut monitor = Monitor::new(&normal(held_out, 0.0, 2 * seed), alpha, *seed).unwrap();
                normal(1000, 0.0, 2 * seed + 1).into_iter().for_each(|score| monitor.push(score));
                monitor.status().alarm.is_some()
            };
            let alarms = (0..streams).filter(has_alarm).count() as f64 / streams as f64;
            let error = (alpha * (1.0 - alpha) / streams as f64).sqrt();
            assert!(alarms <= alpha + 3.0 * error, "{held_out}: {alarms}");
        }
    }

    #[test]
    fn alpha_and_the_held_out_scores_are_checked() {
        for alpha in [0.0, 1.0, -1.0, f64::NAN] {
            assert!(
                matches!(Monitor::new(&[0.0], alpha, 0), Err(Error::Setting { name: "alpha", .. })),
                "{alpha}"
            );
        }
        assert!(matches!(Monitor::new(&[], 0.5, 0), Err(Error::NoHeldOutScores)));
    }
}
