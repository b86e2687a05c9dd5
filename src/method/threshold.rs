//! The choice of a threshold, and the verdict.

use crate::error::{Error, Result};

/// The lowest threshold that keeps at least the share `keep` (0 to 1) of held-out known images, given their scores in
/// ascending order.
///
/// # Errors
/// [`Error::Setting`] if `keep` is out of range, [`Error::NoHeldOut`] without scores.
pub fn threshold(ascending: &[f32], keep: f64) -> Result<f32> {
    if !(0.0..=1.0).contains(&keep) {
        return Err(Error::setting("keep", keep, "must be from 0 to 1"));
    }
    let kept = (keep * ascending.len() as f64).ceil() as usize;
    let threshold = ascending.get(kept.saturating_sub(1)).copied();
    threshold.ok_or(Error::NoHeldOut)
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
        let scores: Vec<f32> = (1..=20).map(|i| i as f32).collect();
        for (keep, expected) in [(0.95, 19.0), (0.951, 20.0), (1.0, 20.0), (0.0, 1.0), (0.05, 1.0)] {
            assert_eq!(threshold(&scores, keep).unwrap(), expected, "{keep}");
        }
        assert!(matches!(threshold(&[], 0.95), Err(Error::NoHeldOut)));
        assert!(threshold(&scores, 1.1).unwrap_err().to_string().starts_with("keep = 1.1"));
        assert!(!is_unknown(19.0, 19.0) && is_unknown(19.1, 19.0) && is_unknown(f32::NAN, 19.0));
    }
}
