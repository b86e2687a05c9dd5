//! Logit scores: scores of the logits and of their distances to the anchors.

use std::fmt;

use ndarray::{Array1, ArrayView1, ArrayView2, Zip};
use serde::{Deserialize, Serialize};

use super::{RejectionScore, Term, anchors::sums_of_others};
use crate::error::{Error, Result};

/// A score of the logits z and their Euclidean distances d to the anchors. Larger = more likely unknown. As
/// text `cac`, `min-distance`, `pytorch-ood`, `msp`, `max-logit`, `energy` or, for a temperature other than
/// 1, `energy:T`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "RejectionScore", into = "RejectionScore")]
#[non_exhaustive]
pub enum LogitScore {
    /// The paper's score: min over c of d_c (1 - softmin(d)_c), at least 0.
    Cac,
    /// The distance to the nearest anchor, at least 0.
    MinDistance,
    /// pytorch-ood's score: -max over c of d_c² (1 - softmin(d²)_c), at most 0. It takes any image with large
    /// logits for known; offered for comparison.
    PytorchOod,
    /// -max softmax(z) (Hendrycks and Gimpel, arXiv 1610.02136), -1 to -1/C; offered for comparison.
    Msp,
    /// -max z (Hendrycks et al., arXiv 1911.11132); offered for comparison.
    MaxLogit,
    /// The energy: -T log sum exp z/T (Liu et al., arXiv 2010.03759). A high temperature weighs all logits, a
    /// low one the largest.
    Energy {
        /// T, 0.001 to 1,000,000.
        temperature: f32,
    },
}

impl fmt::Display for LogitScore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cac => f.write_str("cac"),
            Self::MinDistance => f.write_str("min-distance"),
            Self::PytorchOod => f.write_str("pytorch-ood"),
            Self::Msp => f.write_str("msp"),
            Self::MaxLogit => f.write_str("max-logit"),
            &Self::ENERGY => f.write_str("energy"),
            Self::Energy { temperature } => write!(f, "energy:{temperature}"),
        }
    }
}

impl TryFrom<RejectionScore> for LogitScore {
    type Error = Error;

    fn try_from(score: RejectionScore) -> Result<Self> {
        match score {
            RejectionScore::Single(Term::Logits(score)) => Ok(score),
            other => Err(Error::setting("score", format!("`{other}`"), "must be a logit score")),
        }
    }
}

impl LogitScore {
    /// The energy at a temperature of half the anchor length, which best detects that all logits are low:
    /// `energy:5` for the default length.
    pub(crate) fn warm_energy(magnitude: f64) -> Self {
        Self::Energy { temperature: (magnitude / 2.0) as f32 }
    }

    /// The energy at temperature 1.
    pub const ENERGY: Self = Self::Energy { temperature: 1.0 };

    /// All scores, the energy at temperature 1.
    pub const ALL: [Self; 6] =
        [Self::Cac, Self::MinDistance, Self::PytorchOod, Self::Msp, Self::MaxLogit, Self::ENERGY];

    /// The score that a text names; `None` if it names none.
    pub(super) fn named(text: &str) -> Option<Self> {
        let temperature = || {
            let temperature = text.strip_prefix("energy:")?.parse().ok();
            Some(Self::Energy { temperature: temperature.filter(|t| (1e-3..=1e6).contains(t))? })
        };
        Self::ALL.into_iter().find(|score| score.to_string() == text).or_else(temperature)
    }

    /// The formula as text, of the logits z, their distances d to the anchors, and a temperature T.
    #[must_use]
    pub fn formula(self) -> String {
        match self {
            Self::Cac => "min over c of d_c (1 − softmin(d)_c)".to_owned(),
            Self::MinDistance => "min d".to_owned(),
            Self::PytorchOod => "−max over c of d_c² (1 − softmin(d²)_c)".to_owned(),
            Self::Msp => "−max softmax(z)".to_owned(),
            Self::MaxLogit => "−max z".to_owned(),
            Self::Energy { temperature } => format!("−T log Σ exp(z / T), T = {temperature}"),
        }
    }

    /// The scores `[N]` of logits and distances, both `[N, C]`.
    ///
    /// # Panics
    /// If the two differ in N.
    #[must_use]
    pub fn rejection(self, logits: ArrayView2<f32>, distances: ArrayView2<f32>) -> Array1<f32> {
        // NaN stays NaN, where `f32::max` would drop it and make an image known.
        let greatest = |values: &ArrayView1<f32>| {
            values.fold(f32::NEG_INFINITY, |most, &v| if v.is_nan() || v > most { v } else { most })
        };
        let least = |values: &ArrayView1<f32>| values.fold(f32::INFINITY, |least, &v| least.min(v));
        // The sum of exponentials relative to the largest; at least 1.
        let exponentials = |z: &ArrayView1<f32>, most: f32| z.fold(0.0, |sum, z| sum + (z - most).exp());
        Zip::from(logits.rows()).and(distances.rows()).map_collect(|z, d| match self {
            Self::Cac => least(&product(d.to_owned()).view()),
            Self::MinDistance => least(&d),
            Self::PytorchOod => -greatest(&product(d.map(|d| d * d)).view()),
            Self::Msp => -1.0 / exponentials(&z, greatest(&z)),
            Self::MaxLogit => -greatest(&z),
            Self::Energy { temperature } => {
                let z = &z / temperature;
                let most = greatest(&z.view());
                -temperature * (most + exponentials(&z.view(), most).ln())
            }
        })
    }
}

/// d_c (1 - softmin(d)_c) for every class c. The share of the other classes is summed directly: 1 - softmin
/// would lose all digits near an anchor.
fn product(d: Array1<f32>) -> Array1<f32> {
    let least = d.fold(f32::INFINITY, |least, &d| least.min(d));
    let exponentials = d.map(|d| (least - d).exp());
    let sum = exponentials.sum();
    let others = Array1::from(sums_of_others(&exponentials.to_vec()));
    Zip::from(&d).and(&others).map_collect(|d, others| d * (others / sum))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::method::{self, Anchors, nearest};
    use ndarray::{Array2, arr2, array};

    #[test]
    fn scores_of_a_point_on_its_anchor() {
        let anchors = Anchors::fixed(3, 10.0);
        let z = arr2(&[[10.0, 0.0, 0.0]]);
        let d = anchors.distances(z.view());
        assert_eq!(d, arr2(&[[0.0, 200_f32.sqrt(), 200_f32.sqrt()]]));
        assert_eq!(nearest(d.view()), [0]);
        assert_eq!(LogitScore::Cac.rejection(z.view(), d.view()), array![0.0]);
        assert_eq!(LogitScore::MinDistance.rejection(z.view(), d.view()), array![0.0]);
        assert!((LogitScore::PytorchOod.rejection(z.view(), d.view())[0] + 200.0).abs() < 1e-4);
    }

    #[test]
    fn nan_does_not_become_known() {
        for z in [[f32::NAN, 9.0, 0.0], [9.0, f32::NAN, 0.0], [0.0, 9.0, f32::NAN]] {
            let d = arr2(&[[f32::NAN; 3]]);
            for score in LogitScore::ALL {
                let found = score.rejection(arr2(&[z]).view(), d.view())[0];
                assert!(method::is_unknown(found, 0.0), "{score}: {found}");
            }
        }
    }

    #[test]
    fn the_cac_score_stays_precise_near_long_anchors() {
        // 1 - softmin is 5e-13 at the nearest anchor, far below the resolution of float32 at 1.
        let d = arr2(&[[0.5, 28.8, 28.8]]);
        let expected = 0.5 * (2.0 * (-28.3_f64).exp() / (1.0 + 2.0 * (-28.3_f64).exp()));
        let found = f64::from(LogitScore::Cac.rejection(d.view(), d.view())[0]);
        assert!((found / expected - 1.0).abs() < 1e-5, "{found:e} {expected:e}");
        // Several nearest anchors.
        let d = arr2(&[[2.0, 2.0, 2.0, 2.0]]);
        assert_eq!(LogitScore::Cac.rejection(d.view(), d.view()), array![1.5]);
    }

    #[test]
    fn formulas_name_the_temperature() {
        assert_eq!(LogitScore::MinDistance.formula(), "min d");
        assert_eq!(LogitScore::named("energy:0.25").unwrap().formula(), "−T log Σ exp(z / T), T = 0.25");
    }

    #[test]
    fn weaknesses_of_the_cac_and_pytorch_ood_scores() {
        // z = 3 a_0 is far from every anchor, but only the minimum distance shows it.
        let (far, near) = (arr2(&[[30.0, 0.0, 0.0]]), arr2(&[[10.0, 0.0, 0.0]]));
        let of = |score: LogitScore, z: &Array2<f32>| {
            score.rejection(z.view(), Anchors::fixed(3, 10.0).distances(z.view()).view())[0]
        };
        assert!(of(LogitScore::Cac, &far) < 1e-3);
        assert_eq!(of(LogitScore::MinDistance, &far), 20.0);
        assert!(of(LogitScore::PytorchOod, &far) < of(LogitScore::PytorchOod, &near));
    }

    #[test]
    fn scores_of_logits_alone() {
        let z = arr2(&[[0.0, 3_f32.ln()], [-200.0, 200.0]]);
        let of = |score: LogitScore| score.rejection(z.view(), z.view());
        assert!((of(LogitScore::Msp)[0] + 0.75).abs() < 1e-6 && of(LogitScore::Msp)[1] == -1.0);
        assert_eq!(of(LogitScore::MaxLogit), array![-3_f32.ln(), -200.0]);
        let energy = of(LogitScore::ENERGY);
        assert!((energy[0] + 4_f32.ln()).abs() < 1e-6 && energy[1] == -200.0);
    }
}
