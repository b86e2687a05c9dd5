//! The choice of a threshold, and the verdict.

use crate::error::{Error, Result};

/// The default share of known images that a threshold keeps.
pub const KEEP: f64 = 0.95;

/// The number of held-out images that a threshold for the share `keep` needs, keep / (1 - keep): 19 for 0.95.
/// With fewer, not even the largest of their scores keeps that share of further images. `keep` is 0 to below 1.
#[must_use]
pub fn needed(keep: f64) -> usize {
    // Rounding may move the quotient, but not below its predecessor.
    let quotient = (keep / (1.0 - keep)) as usize;
    (quotient.saturating_sub(1).max(1)..)
        .find(|&count| rank(count, keep) <= count)
        .expect("a larger count suffices")
}

/// The least number of held-out images of which a third choose the epoch and the score, while the others suffice
/// for a threshold for [`KEEP`]: 57.
#[must_use]
pub fn needed_to_choose() -> usize {
    3 * needed(KEEP)
}

/// The number of held-out images to which a training raises a smaller share, if they are few of all: 58. With
/// [`needed_to_choose`] the threshold would be the largest of their scores.
#[must_use]
pub fn usually_held_out() -> usize {
    needed_to_choose() + 1
}

/// The conformal threshold that keeps a new known image with a probability of at least `keep` (0 to below 1),
/// given the scores of n known images in ascending order: the k-th, k = ⌈(n + 1) keep⌉. The promise holds for
/// any network, if these images and the new one are exchangeable and had no part in its training or in the
/// choice of its epoch and score (split conformal prediction; Vovk et al., 2005).
///
/// # Errors
/// Those of [`check_enough`], and [`Error::Scores`] if a score is NaN or they do not ascend.
pub fn threshold(ascending: &[f32], keep: f64) -> Result<f32> {
    check_enough(ascending.len(), keep)?;
    if ascending.iter().any(|score| score.is_nan()) {
        return Err(Error::Scores("a held-out score is NaN".to_owned()));
    }
    if !ascending.is_sorted() {
        return Err(Error::Scores("the held-out scores do not ascend".to_owned()));
    }
    Ok(ascending[rank(ascending.len(), keep) - 1])
}

/// Checks that a threshold for the share `keep` can be chosen from `count` scores.
///
/// # Errors
/// [`Error::Setting`] if `keep` is not from 0 to below 1, [`Error::TooFewHeldOut`] if `count` is less than
/// [`needed`].
pub fn check_enough(count: usize, keep: f64) -> Result<()> {
    if !(0.0..1.0).contains(&keep) {
        return Err(Error::setting("keep", keep, "must be at least 0 and below 1"));
    }
    match needed(keep) {
        needed if count < needed => Err(Error::TooFewHeldOut { found: count, needed, keep }),
        _ => Ok(()),
    }
}

/// k, from 1.
fn rank(count: usize, keep: f64) -> usize {
    // The tolerance is for shares such as 0.9, which have no exact binary form.
    (((count + 1) as f64 * keep - 1e-9).ceil() as usize).max(1)
}

/// The share of new known images that the [`threshold`] of `count` scores keeps with 95 % confidence:
/// the 5 % quantile of Beta(k, n + 1 - k), for `keep` from 0 to below 1, the distribution of that share over
/// all draws of the n scores.
#[must_use]
pub fn kept_at_least(count: usize, keep: f64) -> f64 {
    let rank = rank(count, keep).min(count);
    // P(Beta(k, n + 1 - k) <= share) is the probability of at least k successes in n.
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..60 {
        let share = f64::midpoint(low, high);
        if binomial_tail(count, rank, share) < 0.05 { low = share } else { high = share }
    }
    low
}

/// The probability of `least` or more successes in `count` trials, each with probability `share`, above 0 and
/// below 1.
fn binomial_tail(count: usize, least: usize, share: f64) -> f64 {
    let odds = (share / (1.0 - share)).ln();
    // The logarithm of the probability of i successes, from i = 0.
    let mut log = count as f64 * (1.0 - share).ln();
    let mut tail = 0.0;
    for successes in 0..=count {
        if successes >= least {
            tail += log.exp();
        }
        log += ((count - successes) as f64 / (successes + 1) as f64).ln() + odds;
    }
    tail
}

/// The p-value of a new image with this score, given the scores of n known images in ascending order: (1 +
/// the number of scores that are not smaller) / (n + 1), above 0 and at most 1. A known image has a p-value
/// of at most a with a probability of at most a.
#[must_use]
pub fn p_value(ascending: &[f32], score: f32) -> f32 {
    debug_assert!(ascending.is_sorted(), "the scores ascend");
    // A NaN is unknown: no score is larger.
    let not_smaller =
        if score.is_nan() { 0 } else { ascending.len() - ascending.partition_point(|&s| s < score) };
    (1 + not_smaller) as f32 / (ascending.len() + 1) as f32
}

/// Whether an image is unknown: its score is above the threshold, or either is NaN.
#[must_use]
pub fn is_unknown<S: PartialOrd>(score: S, threshold: S) -> bool {
    let known = score <= threshold;
    !known
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_threshold_follows_split_conformal_prediction() {
        let scores: Vec<f32> = (1..=39).map(|i| i as f32).collect();
        for (keep, expected) in
            [(0.95, 38.0), (0.951, 39.0), (0.0, 1.0), (0.025, 1.0), (0.5, 20.0), (0.9, 36.0)]
        {
            assert_eq!(threshold(&scores, keep).unwrap(), expected, "{keep}");
        }
        for wrong in [1.0, 1.1, -0.1, f64::NAN] {
            assert!(matches!(threshold(&scores, wrong), Err(Error::Setting { name: "keep", .. })), "{wrong}");
        }
        assert!(!is_unknown(19.0, 19.0) && is_unknown(19.1, 19.0) && is_unknown(f32::NAN, 19.0));
    }

    /// From scipy 1.17.1: `beta.ppf(0.05, k, n + 1 - k)`, with n and the share kept.
    const QUANTILES: [(usize, f64, f64); 7] = [
        (19, 0.95, 0.8541314966877566),
        (39, 0.95, 0.8840478512420759),
        (60, 0.9, 0.8327369235749102),
        (99, 0.9, 0.8467248563426735),
        (500, 0.95, 0.9331567159187898),
        (1000, 0.99, 0.9843474262503935),
        (5000, 0.95, 0.9448413928262448),
    ];

    #[test]
    fn the_bound_is_a_quantile_of_the_beta_distribution() {
        for (count, keep, expected) in QUANTILES {
            let found = kept_at_least(count, keep);
            assert!((found - expected).abs() < 1e-9, "{count} {keep}: {found}");
        }
    }

    #[test]
    fn p_values_count_the_scores_that_are_not_smaller() {
        let scores = [1.0, 2.0, 2.0, 3.0];
        for (score, expected) in [(0.5, 1.0), (1.0, 1.0), (2.0, 0.8), (2.5, 0.4), (3.0, 0.4), (3.1, 0.2)] {
            assert_eq!(p_value(&scores, score), expected, "{score}");
        }
        assert_eq!(p_value(&scores, f32::NAN), 0.2);
        assert_eq!(p_value(&[], 1.0), 1.0);
        // What the threshold keeps has a p-value above 1 - keep.
        let scores: Vec<f32> = (1..=99).map(|i| i as f32).collect();
        for keep in [0.5, 0.9, 0.95] {
            let threshold = threshold(&scores, keep).unwrap();
            for score in [threshold - 0.5, threshold, threshold + 0.5] {
                assert_eq!(
                    is_unknown(score, threshold),
                    f64::from(p_value(&scores, score)) < 1.0 - keep + 1e-6
                );
            }
        }
    }

    /// 2,000 splits of 400 scores into 60 for calibration and 340 new ones.
    #[test]
    fn the_promise_holds_over_random_splits() {
        let keep = 0.9;
        let (count, splits) = (60, 2000);
        // Scores with ties, and far from normal.
        let scores: Vec<f32> =
            (0..400).map(|i| ((i * i) % 97) as f32 * if i % 7 == 0 { 10.0 } else { 1.0 }).collect();
        let bound = kept_at_least(count, keep);
        let mut shares = Vec::new();
        for seed in 0..splits {
            let order = crate::data::shuffled(scores.len(), seed);
            let mut calibrating: Vec<f32> = order[..count].iter().map(|&i| scores[i]).collect();
            calibrating.sort_by(f32::total_cmp);
            let threshold = threshold(&calibrating, keep).unwrap();
            let kept = order[count..].iter().filter(|&&i| !is_unknown(scores[i], threshold)).count();
            shares.push(kept as f64 / (scores.len() - count) as f64);
        }
        let mean = shares.iter().sum::<f64>() / splits as f64;
        let deviation =
            (shares.iter().map(|share| (share - mean).powi(2)).sum::<f64>() / splits as f64).sqrt();
        assert!(mean >= keep - 3.0 * deviation / (splits as f64).sqrt(), "{mean}");
        // Ties only add to what is kept. With finitely many new images, the share varies a little more.
        let below = shares.iter().filter(|&&share| share < bound - 0.01).count() as f64 / splits as f64;
        assert!(below <= 0.05 + 3.0 * (0.05 * 0.95 / splits as f64).sqrt(), "{below}");
    }

    #[test]
    fn a_threshold_needs_enough_images() {
        for (keep, needed) in [
            (0.0, 1),
            (0.5, 1),
            (0.9, 9),
            (0.95, 19),
            (0.99, 99),
            (0.999, 999),
            (0.9999, 9999),
            (0.99999, 99_999),
        ] {
            assert_eq!(super::needed(keep), needed, "{keep}");
            assert!(threshold(&vec![0.0; needed], keep).is_ok());
            let error = threshold(&vec![0.0; needed - 1], keep).unwrap_err();
            assert!(matches!(error, Error::TooFewHeldOut { .. }), "{keep}: {error}");
        }
    }
}
