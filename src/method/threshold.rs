//! The choice of a threshold, and the verdict.

use crate::error::{Error, Result};

/// The default share of known images that a threshold keeps.
pub const KEEP: f64 = 0.95;

/// The number of held-out images that a threshold for the share `keep` needs, keep / (1 - keep): 19 for 0.95.
/// With fewer, not even the largest of their scores keeps that share of further images.
#[must_use]
pub fn needed(keep: f64) -> usize {
    // The tolerance is that of a share such as 0.9, which has no exact binary form.
    ((keep / (1.0 - keep) - 1e-9).ceil() as usize).max(1)
}

/// The lowest threshold that keeps at least the share `keep` (0 to below 1) of held-out known images, given
/// their scores in ascending order.
///
/// # Errors
/// [`Error::Setting`] if `keep` is out of range, [`Error::TooFewHeldOut`] with fewer scores than
/// [`needed`].
pub fn threshold(ascending: &[f32], keep: f64) -> Result<f32> {
    if !(0.0..1.0).contains(&keep) {
        return Err(Error::setting("keep", keep, "must be at least 0 and below 1"));
    }
    let (found, needed) = (ascending.len(), needed(keep));
    if found < needed {
        return Err(Error::TooFewHeldOut { found, needed, keep });
    }
    let kept = (keep * found as f64).ceil() as usize;
    Ok(ascending[kept.saturating_sub(1)])
}

/// Whether an image is unknown: its score is above the threshold, or either is NaN.
#[must_use]
pub fn is_unknown(score: f32, threshold: f32) -> bool {
    let known = score <= threshold;
    !known
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threshold_keeps_at_least_the_share() {
        let scores: Vec<f32> = (1..=40).map(|i| i as f32).collect();
        for (keep, expected) in [(0.95, 38.0), (0.951, 39.0), (0.0, 1.0), (0.025, 1.0), (0.5, 20.0)] {
            assert_eq!(threshold(&scores, keep).unwrap(), expected, "{keep}");
        }
        for wrong in [1.0, 1.1, -0.1, f64::NAN] {
            assert!(matches!(threshold(&scores, wrong), Err(Error::Setting { name: "keep", .. })), "{wrong}");
        }
        assert!(!is_unknown(19.0, 19.0) && is_unknown(19.1, 19.0) && is_unknown(f32::NAN, 19.0));
    }

    #[test]
    fn a_threshold_needs_enough_images() {
        for (keep, needed) in [(0.0, 1), (0.5, 1), (0.9, 9), (0.95, 19), (0.99, 99), (0.999, 999)] {
            assert_eq!(super::needed(keep), needed, "{keep}");
            assert!(threshold(&vec![0.0; needed], keep).is_ok());
            let error = threshold(&vec![0.0; needed - 1], keep).unwrap_err();
            assert!(matches!(error, Error::TooFewHeldOut { .. }), "{keep}: {error}");
        }
    }
}
