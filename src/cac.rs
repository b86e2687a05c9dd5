//! Class Anchor Clustering (Miller et al., WACV 2021, arXiv 2004.02434): anchors, distances, rejection
//! scores, the decision, and the loss as a reference.
//!
//! Shapes: N pictures, C classes; logits, distances and their gradients are `[N, C]`, anchors `[C, C]` with
//! one anchor a row. A larger rejection score means *more likely unknown*.

use std::{fmt, str::FromStr};

use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Zip};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Which definition of the loss and of its own score is meant: one of the two that are published, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum Variant {
    /// The paper and its official code: Euclidean distances, anchors replaced by class means at test.
    Paper,
    /// pytorch-ood 0.4.0, bit-compatible: squared distances, fixed anchors, its tuplet term's quirks.
    PytorchOod,
    /// The cross-entropy of the softmax of the logits, to make a backbone: no clustering. The anchors are fixed,
    /// so the nearest is that of the greatest logit.
    #[cfg_attr(feature = "cli", value(skip))]
    CrossEntropy,
}

/// The loss: `tuplet + weight * anchor`, or the cross-entropy.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Loss {
    /// The definition of both terms.
    pub variant: Variant,
    /// The anchors are this multiple of the unit vectors; positive.
    pub magnitude: f64,
    /// The weight of the anchor term (the paper's lambda, pytorch-ood's alpha); not negative. Cross-entropy has none.
    pub weight: f64,
}

impl Loss {
    /// The variant with its own defaults: the paper's magnitude 10 and weight 0.1, or the pytorch-ood
    /// tutorial's 5 and 2.
    #[must_use]
    pub fn new(variant: Variant) -> Self {
        match variant {
            Variant::Paper => Self { variant, magnitude: 10.0, weight: 0.1 },
            Variant::PytorchOod => Self { variant, magnitude: 5.0, weight: 2.0 },
            Variant::CrossEntropy => Self { variant, magnitude: 10.0, weight: 0.0 },
        }
    }

    /// The mean loss over the samples of known classes; 0 where there is none. Negative labels mark unknown
    /// training pictures and are ignored, as are labels of C and above.
    ///
    /// This is the reference in double precision for the differentiable one of `train`, which is given known
    /// pictures alone.
    #[must_use]
    pub fn value(&self, logits: ArrayView2<f64>, labels: &[i64], anchors: ArrayView2<f64>) -> f64 {
        let classes = anchors.nrows();
        let mut sum = 0.0;
        let mut known = 0_u32;
        for (z, &label) in logits.rows().into_iter().zip(labels) {
            let Some(y) = usize::try_from(label).ok().filter(|&y| y < classes) else { continue };
            let distance = |anchor: ArrayView1<f64>| {
                let squared = Zip::from(z).and(anchor).fold(0.0, |sum, z, a| sum + (z - a) * (z - a));
                if self.variant == Variant::PytorchOod { squared } else { squared.sqrt() }
            };
            let d: Vec<f64> = anchors.rows().into_iter().map(distance).collect();
            sum += match self.variant {
                Variant::Paper => log_one_plus_sum_exp((0..classes).filter(|&j| j != y).map(|j| d[y] - d[j])),
                // The last class is never pushed away from, and y itself is: as published.
                Variant::PytorchOod => {
                    log_one_plus_sum_exp((0..classes - 1).map(|j| (d[y] - d[j]).min(50.0)))
                }
                Variant::CrossEntropy => {
                    log_one_plus_sum_exp((0..classes).filter(|&j| j != y).map(|j| z[j] - z[y]))
                }
            };
            if self.variant != Variant::CrossEntropy {
                sum += self.weight * d[y];
            }
            known += 1;
        }
        if known == 0 { 0.0 } else { sum / f64::from(known) }
    }
}

/// log(1 + sum of exp x), also where an exp alone would be infinite.
fn log_one_plus_sum_exp(xs: impl Iterator<Item = f64> + Clone) -> f64 {
    let greatest = xs.clone().fold(0.0, f64::max);
    greatest + (xs.map(|x| (x - greatest).exp()).sum::<f64>() + (-greatest).exp_m1()).ln_1p()
}

/// Where the anchors that ship with a model come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum AnchorKind {
    /// Magnitude times the identity, as in training.
    Fixed,
    /// The mean logits of the correctly classified training pictures of each class (the paper, section 3.4).
    ClassMeans,
}

impl Variant {
    /// The anchors that the variant uses at test.
    #[must_use]
    pub fn anchor_kind(self) -> AnchorKind {
        match self {
            Self::Paper => AnchorKind::ClassMeans,
            Self::PytorchOod | Self::CrossEntropy => AnchorKind::Fixed,
        }
    }

    /// The variant's own rejection score.
    #[must_use]
    pub fn score(self) -> Score {
        match self {
            Self::Paper => Score::Cac,
            Self::PytorchOod => Score::PytorchOod,
            Self::CrossEntropy => Score::ENERGY,
        }
    }
}

/// A rejection score, computed from the logits z and their Euclidean distances d to the anchors. Larger = more
/// likely unknown. As text `cac`, `min-distance`, `pytorch-ood`, `msp`, `max-logit`, `energy` or, with another
/// temperature than 1, `energy:T`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Score {
    /// The paper's: min over c of d_c (1 - softmin(d)_c), at least 0.
    Cac,
    /// The distance to the nearest anchor, at least 0.
    MinDistance,
    /// pytorch-ood's: -max over c of d_c² (1 - softmin(d²)_c), at most 0. Anything with large logits looks
    /// known to it; offered for comparison.
    PytorchOod,
    /// -max softmax(z) (Hendrycks and Gimpel, arXiv 1610.02136), -1 to -1/C; offered for comparison.
    Msp,
    /// -max z (Hendrycks et al., arXiv 1911.11132); offered for comparison.
    MaxLogit,
    /// -T log sum exp z/T, the energy (Liu et al., arXiv 2010.03759). A large temperature weighs all logits, a
    /// small one the greatest.
    Energy {
        /// T; 0.001 to 1,000,000.
        temperature: f32,
    },
}

impl fmt::Display for Score {
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

impl FromStr for Score {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let temperature = |text: &str| text.parse().ok().filter(|t| (1e-3..=1e6).contains(t));
        Ok(match text {
            "cac" => Self::Cac,
            "min-distance" => Self::MinDistance,
            "pytorch-ood" => Self::PytorchOod,
            "msp" => Self::Msp,
            "max-logit" => Self::MaxLogit,
            "energy" => Self::ENERGY,
            _ => match text.strip_prefix("energy:").and_then(temperature) {
                Some(temperature) => Self::Energy { temperature },
                None => {
                    let reason = "must be cac, min-distance, pytorch-ood, msp, max-logit, energy or energy:T with a \
                                  temperature from 0.001 to 1000000";
                    return Err(Error::setting("score", format!("`{text}`"), reason));
                }
            },
        })
    }
}

impl TryFrom<String> for Score {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Score> for String {
    fn from(score: Score) -> Self {
        score.to_string()
    }
}

impl Score {
    /// The energy at temperature 1.
    pub const ENERGY: Self = Self::Energy { temperature: 1.0 };

    /// The score of each row of logits and of their distances: `[N, C]` both, to `[N]`.
    ///
    /// # Panics
    /// Where the two differ in N.
    #[must_use]
    pub fn rejection(self, logits: ArrayView2<f32>, distances: ArrayView2<f32>) -> Array1<f32> {
        let greatest = |values: &ArrayView1<f32>| values.fold(f32::NEG_INFINITY, |most, &v| most.max(v));
        let least = |values: &ArrayView1<f32>| values.fold(f32::INFINITY, |least, &v| least.min(v));
        // The sum of exponentials relative to the greatest, which is at least 1.
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

/// d_c (1 - softmin(d)_c) for every class c.
fn product(d: Array1<f32>) -> Array1<f32> {
    let least = d.fold(f32::INFINITY, |least, &d| least.min(d));
    let exponentials = d.map(|d| (least - d).exp());
    let sum = exponentials.sum();
    Zip::from(&d).and(&exponentials).map_collect(|d, e| d * (1.0 - e / sum))
}

/// What a model says of a set of pictures, one entry a picture.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Scored {
    /// Rejection scores; larger = more likely unknown.
    pub scores: Vec<f32>,
    /// Classes of the nearest anchors.
    pub labels: Vec<usize>,
}

impl Scored {
    /// Scores logits `[N, C]` with anchors `[C, C]`.
    #[must_use]
    pub fn new(logits: ArrayView2<f32>, anchors: ArrayView2<f32>, score: Score) -> Self {
        let distances = distances(logits, anchors);
        let scores = score.rejection(logits, distances.view()).to_vec();
        Self { scores, labels: labels(distances.view()) }
    }

    /// Whether each picture was given its true class.
    #[must_use]
    pub fn right(&self, truth: &[i64]) -> Vec<bool> {
        let is_right = |(&label, &truth): (&usize, &i64)| i64::try_from(label) == Ok(truth);
        self.labels.iter().zip(truth).map(is_right).collect()
    }
}

/// The anchors while training: `magnitude` times the identity, `[C, C]`.
#[must_use]
pub fn fixed_anchors(classes: usize, magnitude: f64) -> Array2<f32> {
    Array2::from_diag_elem(classes, magnitude as f32)
}

/// Euclidean distances of logits `[N, D]` to anchors `[C, D]`: `[N, C]`, each at least 0.
///
/// # Panics
/// Where the two disagree in D.
#[must_use]
pub fn distances(logits: ArrayView2<f32>, anchors: ArrayView2<f32>) -> Array2<f32> {
    assert_eq!(logits.ncols(), anchors.ncols(), "logits and anchors must have the same width");
    Array2::from_shape_fn((logits.nrows(), anchors.nrows()), |(n, c)| {
        Zip::from(logits.row(n)).and(anchors.row(c)).fold(0.0, |sum, z, a| sum + (z - a) * (z - a)).sqrt()
    })
}

/// The class of the nearest anchor for each row of distances `[N, C]`; the first of several equally near.
#[must_use]
pub fn labels(distances: ArrayView2<f32>) -> Vec<usize> {
    let nearest =
        |d: ArrayView1<f32>| (1..d.len()).fold(0, |nearest, c| if d[c] < d[nearest] { c } else { nearest });
    distances.rows().into_iter().map(nearest).collect()
}

/// The mean logits of the correctly classified pictures of each class, `[C, C]`; the given anchor of a class
/// of which no picture is classified correctly.
#[must_use]
pub fn class_means(logits: ArrayView2<f32>, truth: &[i64], anchors: ArrayView2<f32>) -> Array2<f32> {
    let mut sums = Array2::<f64>::zeros(anchors.dim());
    let mut counts = vec![0_u32; anchors.nrows()];
    for ((z, &truth), label) in
        logits.rows().into_iter().zip(truth).zip(labels(distances(logits, anchors).view()))
    {
        if usize::try_from(truth) == Ok(label) {
            counts[label] += 1;
            sums.row_mut(label).zip_mut_with(&z, |sum, &z| *sum += f64::from(z));
        }
    }
    let mut means = anchors.to_owned();
    for (class, &count) in counts.iter().enumerate().filter(|&(_, &count)| count > 0) {
        means.row_mut(class).assign(&sums.row(class).map(|sum| (sum / f64::from(count)) as f32));
    }
    means
}

/// The lowest threshold that keeps at least the share `keep` (0 to 1) of the known pictures, whose scores
/// are given in ascending order: `unknown` is `score > threshold`. `None` without scores.
#[must_use]
pub fn threshold(ascending: &[f32], keep: f64) -> Option<f32> {
    let kept = (keep.clamp(0.0, 1.0) * ascending.len() as f64).ceil() as usize;
    ascending.get(kept.saturating_sub(1)).copied()
}

/// Whether a picture with this score is to be called unknown: where the score is above the threshold, or one
/// of both is no number.
#[must_use]
pub fn is_unknown(score: f32, threshold: f32) -> bool {
    let known = score <= threshold;
    !known
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{Axis, arr2, array};

    #[test]
    fn the_scores_of_a_known_point_on_its_anchor() {
        let anchors = fixed_anchors(3, 10.0);
        let z = arr2(&[[10.0, 0.0, 0.0]]);
        let d = distances(z.view(), anchors.view());
        assert_eq!(d, arr2(&[[0.0, 200_f32.sqrt(), 200_f32.sqrt()]]));
        assert_eq!(labels(d.view()), [0]);
        assert_eq!(Score::Cac.rejection(z.view(), d.view()), array![0.0]);
        assert_eq!(Score::MinDistance.rejection(z.view(), d.view()), array![0.0]);
        assert!((Score::PytorchOod.rejection(z.view(), d.view())[0] + 200.0).abs() < 1e-4);
    }

    #[test]
    fn scores_as_text() {
        for text in
            ["cac", "min-distance", "pytorch-ood", "msp", "max-logit", "energy", "energy:5", "energy:0.25"]
        {
            let score: Score = text.parse().unwrap();
            assert_eq!(score.to_string(), text);
            let json = serde_json::to_string(&score).unwrap();
            assert_eq!(json, format!("\"{text}\""));
            assert_eq!(serde_json::from_str::<Score>(&json).unwrap(), score);
        }
        assert_eq!("energy:1".parse::<Score>().unwrap(), Score::ENERGY);
        for text in [
            "",
            "CAC",
            "energy:",
            "energy:0",
            "energy:1e-9",
            "energy:1e9",
            "energy:-1",
            "energy:nan",
            "energy:inf",
            "msp:2",
        ] {
            let error = text.parse::<Score>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("score = `{text}`: must be cac, ")), "{error}");
        }
    }

    #[test]
    fn the_weakness_of_the_paper_score_and_of_the_pytorch_ood_score() {
        // z = 3 a_0 is far from every anchor, but only the minimum distance says so.
        let (far, near) = (arr2(&[[30.0, 0.0, 0.0]]), arr2(&[[10.0, 0.0, 0.0]]));
        let of = |score: Score, z: &Array2<f32>| {
            score.rejection(z.view(), distances(z.view(), fixed_anchors(3, 10.0).view()).view())[0]
        };
        assert!(of(Score::Cac, &far) < 1e-3);
        assert_eq!(of(Score::MinDistance, &far), 20.0);
        assert!(of(Score::PytorchOod, &far) < of(Score::PytorchOod, &near));
    }

    #[test]
    fn scores_of_logits_alone() {
        let z = arr2(&[[0.0, 3_f32.ln()], [-200.0, 200.0]]);
        let of = |score: Score| score.rejection(z.view(), z.view());
        assert!((of(Score::Msp)[0] + 0.75).abs() < 1e-6 && of(Score::Msp)[1] == -1.0);
        assert_eq!(of(Score::MaxLogit), array![-3_f32.ln(), -200.0]);
        assert!((of(Score::ENERGY)[0] + 4_f32.ln()).abs() < 1e-6 && of(Score::ENERGY)[1] == -200.0);
    }

    #[test]
    fn loss_by_hand() {
        // On its own anchor: tuplet = log(1 + 2 exp(-sqrt 2)), anchor term 0.
        let anchors = Array2::from_diag_elem(3, 1.0);
        let z = arr2(&[[1.0, 0.0, 0.0]]);
        let paper = Loss { variant: Variant::Paper, magnitude: 1.0, weight: 0.1 };
        let expected = (1.0 + 2.0 * (-2_f64.sqrt()).exp()).ln();
        assert!((paper.value(z.view(), &[0], anchors.view()) - expected).abs() < 1e-12);
        // pytorch-ood sums over classes 0 and 1 whatever the label: exp(0) + exp(-2), then exp(2) + exp(2).
        let other = Loss { variant: Variant::PytorchOod, magnitude: 1.0, weight: 2.0 };
        let expected = (1.0 + 1.0 + (-2_f64).exp()).ln();
        assert!((other.value(z.view(), &[0], anchors.view()) - expected).abs() < 1e-12);
        let expected = (1.0 + 2_f64.exp() + 1.0).ln() + 2.0 * 2.0;
        assert!((other.value(z.view(), &[2], anchors.view()) - expected).abs() < 1e-12);
    }

    #[test]
    fn loss_ignores_unknown_labels() {
        let anchors = Array2::from_diag_elem(2, 1.0);
        let z = arr2(&[[1.0, 0.0], [7.0, 7.0], [9.0, 1.0]]);
        let loss = Loss::new(Variant::Paper);
        let alone = loss.value(z.slice_axis(Axis(0), (..1).into()), &[0], anchors.view());
        assert_eq!(loss.value(z.view(), &[0, -1, 2], anchors.view()), alone);
        assert_eq!(loss.value(z.view(), &[-1, -1, -7], anchors.view()), 0.0);
    }

    #[test]
    fn class_means_take_the_correct_pictures_only() {
        let anchors = fixed_anchors(3, 1.0);
        let logits = arr2(&[[2.0, 0.0, 0.0], [4.0, 0.0, 0.0], [0.0, 9.0, 0.0], [0.0, 1.0, 0.0]]);
        let means = class_means(logits.view(), &[0, 0, 0, -1], anchors.view());
        assert_eq!(means, arr2(&[[3.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]));
    }

    #[test]
    fn threshold_keeps_at_least_the_share() {
        let scores: Vec<f32> = (1..=20).map(|i| i as f32).collect();
        for (keep, expected) in [(0.95, 19.0), (0.951, 20.0), (1.0, 20.0), (0.0, 1.0), (0.05, 1.0)] {
            assert_eq!(threshold(&scores, keep), Some(expected), "{keep}");
        }
        assert_eq!(threshold(&[], 0.95), None);
        assert!(!is_unknown(19.0, 19.0) && is_unknown(19.1, 19.0) && is_unknown(f32::NAN, 19.0));
    }
}
