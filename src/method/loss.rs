//! The loss: its definition, its defaults, and its value in double precision.

use std::fmt;

use ndarray::ArrayView2;
use serde::{Deserialize, Serialize};

use super::{AnchorKind, LogitScore, anchors::squared_to_fixed};
use crate::error::{Error, Result};

/// The definition of the loss and of its rejection score.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Variant {
    /// The paper and its official code: Euclidean distances, anchors replaced by class means at test time.
    Paper,
    /// pytorch-ood 0.4.0, bit-compatible: squared distances, fixed anchors, its tuplet term's quirks.
    PytorchOod,
    /// Cross-entropy, to train a backbone without clustering. The anchors are fixed, so the nearest is that
    /// of the largest logit.
    CrossEntropy,
}

/// The loss: `tuplet + weight * anchor`, or the cross-entropy.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Loss {
    /// The definition.
    pub variant: Variant,
    /// The length of the anchors, which are multiples of the unit vectors; positive.
    pub magnitude: f64,
    /// The weight of the anchor term (the paper's lambda, pytorch-ood's alpha); at least 0. Cross-entropy has
    /// none.
    pub weight: f64,
}

impl Loss {
    /// The variant with its defaults: magnitude 10 and weight 0.1 as in the paper, or 5 and 2 as in
    /// pytorch-ood's tutorial.
    #[must_use]
    pub fn new(variant: Variant) -> Self {
        match variant {
            Variant::Paper => Self { variant, magnitude: 10.0, weight: 0.1 },
            Variant::PytorchOod => Self { variant, magnitude: 5.0, weight: 2.0 },
            Variant::CrossEntropy => Self { variant, magnitude: 10.0, weight: 0.0 },
        }
    }

    /// Checks the numbers.
    ///
    /// # Errors
    /// [`Error::Setting`] if the magnitude is not 0.01 to 1,000,000, or the weight is negative or not finite.
    pub fn check(&self) -> Result<()> {
        let Self { magnitude, weight, .. } = *self;
        if !(0.01..=1e6).contains(&magnitude) {
            return Err(Error::setting("magnitude", magnitude, "must be 0.01 to 1000000"));
        }
        if !(weight.is_finite() && weight >= 0.0) {
            return Err(Error::setting("weight", weight, "must be at least 0, and finite"));
        }
        Ok(())
    }

    /// The default rejection score. Training with outliers lowers all of their logits, not only the largest,
    /// which an energy at a high temperature detects best. Without outliers, it is the variant's own score.
    #[must_use]
    pub fn rejection_score(&self, with_outliers: bool) -> LogitScore {
        match self.variant {
            Variant::Paper | Variant::PytorchOod if with_outliers => LogitScore::warm_energy(self.magnitude),
            Variant::Paper => LogitScore::Cac,
            Variant::PytorchOod => LogitScore::PytorchOod,
            Variant::CrossEntropy => LogitScore::ENERGY,
        }
    }

    /// The default anchors for that score. Class means are for the paper's score. The others ignore the
    /// anchors or are defined with fixed ones, whose accuracy is at least as high.
    #[must_use]
    pub fn anchor_kind(&self, with_outliers: bool) -> AnchorKind {
        match self.rejection_score(with_outliers) {
            LogitScore::Cac => AnchorKind::ClassMeans,
            _ => AnchorKind::Fixed,
        }
    }

    /// The mean of the [losses of known images](Self::values); 0 if there are none.
    #[must_use]
    pub fn value(&self, logits: ArrayView2<f64>, labels: &[i64]) -> f64 {
        let losses = self.values(logits, labels);
        if losses.is_empty() { 0.0 } else { losses.iter().sum::<f64>() / losses.len() as f64 }
    }

    /// The loss of each known image, with fixed anchors. Images with negative labels (unknown), or labels of
    /// C and above, are left out.
    ///
    /// This is the double-precision reference for the differentiable loss of `train`, which receives only
    /// known images.
    #[must_use]
    pub fn values(&self, logits: ArrayView2<f64>, labels: &[i64]) -> Vec<f64> {
        let classes = logits.ncols();
        let mut losses = Vec::with_capacity(labels.len());
        for (z, &label) in logits.rows().into_iter().zip(labels) {
            let Some(y) = usize::try_from(label).ok().filter(|&y| y < classes) else { continue };
            let mut d = squared_to_fixed(z.iter().copied(), self.magnitude);
            if self.variant != Variant::PytorchOod {
                d.iter_mut().for_each(|d| *d = d.sqrt());
            }
            let mut loss = match self.variant {
                Variant::Paper => log_one_plus_sum_exp((0..classes).filter(|&j| j != y).map(|j| d[y] - d[j])),
                // As published: the sum includes y and leaves out the last class.
                Variant::PytorchOod => {
                    log_one_plus_sum_exp((0..classes - 1).map(|j| (d[y] - d[j]).min(50.0)))
                }
                Variant::CrossEntropy => {
                    log_one_plus_sum_exp((0..classes).filter(|&j| j != y).map(|j| z[j] - z[y]))
                }
            };
            if self.variant != Variant::CrossEntropy {
                loss += self.weight * d[y];
            }
            losses.push(loss);
        }
        losses
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { variant, magnitude, weight } = self;
        match variant {
            Variant::Paper => write!(f, "CAC of the paper, magnitude {magnitude}, anchor weight {weight}"),
            Variant::PytorchOod => {
                write!(f, "CAC of pytorch-ood, magnitude {magnitude}, anchor weight {weight}")
            }
            Variant::CrossEntropy => f.write_str("cross-entropy"),
        }
    }
}

/// log(1 + sum of exp x) without overflow.
fn log_one_plus_sum_exp(xs: impl Iterator<Item = f64> + Clone) -> f64 {
    let greatest = xs.clone().fold(0.0, f64::max);
    greatest + (xs.map(|x| (x - greatest).exp()).sum::<f64>() + (-greatest).exp_m1()).ln_1p()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{Axis, arr2};

    #[test]
    fn loss_by_hand() {
        // On its own anchor: tuplet = log(1 + 2 exp(-sqrt 2)), anchor term 0.
        let z = arr2(&[[1.0, 0.0, 0.0]]);
        let paper = Loss { variant: Variant::Paper, magnitude: 1.0, weight: 0.1 };
        let expected = (1.0 + 2.0 * (-2_f64.sqrt()).exp()).ln();
        assert!((paper.value(z.view(), &[0]) - expected).abs() < 1e-12);
        // pytorch-ood sums over classes 0 and 1 whatever the label: exp(0) + exp(-2), then exp(2) + exp(2).
        let other = Loss { variant: Variant::PytorchOod, magnitude: 1.0, weight: 2.0 };
        let expected = (1.0 + 1.0 + (-2_f64).exp()).ln();
        assert!((other.value(z.view(), &[0]) - expected).abs() < 1e-12);
        let expected = (1.0 + 2_f64.exp() + 1.0).ln() + 2.0 * 2.0;
        assert!((other.value(z.view(), &[2]) - expected).abs() < 1e-12);
    }

    #[test]
    fn loss_ignores_unknown_labels() {
        let z = arr2(&[[1.0, 0.0], [7.0, 7.0], [9.0, 1.0]]);
        let loss = Loss { magnitude: 1.0, ..Loss::new(Variant::Paper) };
        let alone = loss.value(z.slice_axis(Axis(0), (..1).into()), &[0]);
        assert_eq!(loss.value(z.view(), &[0, -1, 2]), alone);
        assert_eq!(loss.value(z.view(), &[-1, -1, -7]), 0.0);
        assert_eq!(loss.values(z.view(), &[-1, 1, 2]).len(), 1);
    }

    #[test]
    fn default_scores_and_anchors() {
        use AnchorKind::{ClassMeans, Fixed};
        for (variant, with_outliers, score, anchors) in [
            (Variant::Paper, true, "energy:5", Fixed),
            (Variant::PytorchOod, true, "energy:2.5", Fixed),
            (Variant::CrossEntropy, true, "energy", Fixed),
            (Variant::Paper, false, "cac", ClassMeans),
            (Variant::PytorchOod, false, "pytorch-ood", Fixed),
        ] {
            let loss = Loss::new(variant);
            assert_eq!(
                (&*loss.rejection_score(with_outliers).to_string(), loss.anchor_kind(with_outliers)),
                (score, anchors),
                "{variant:?}"
            );
        }
    }
}
