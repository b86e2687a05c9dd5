//! Feature scores: scores of the vectors that the last layer of a network reads.
//!
//! Shapes: N images, F features, C classes. The constants come from features of training images.

use std::fmt;

use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Axis, Zip};

/// A score of the features f and the logits z. Larger = more likely unknown. As text `knn:K` or, for K = 10,
/// `knn`; `mahalanobis`, `unit-mahalanobis`, `relative-mahalanobis`, `fdbd` or `vim`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FeatureScore {
    /// The distance from f/|f| to the K-th nearest of the training features, also of length 1 (Sun et al.,
    /// ICML 2022); 0 to 2.
    Knn {
        /// K, 1 to 1,000.
        neighbours: usize,
    },
    /// Half the squared Mahalanobis distance to the nearest class mean, with the within-class scatter (Lee et
    /// al., NeurIPS 2018); at least 0.
    Mahalanobis,
    /// The same for f/|f|, with the scatter and the means of features of length 1 (Müller and Hein,
    /// "Mahalanobis++", ICML 2025).
    UnitMahalanobis,
    /// The squared Mahalanobis distance to the nearest class mean, minus that to the mean of all images, with
    /// the total scatter (Ren et al., arXiv 2106.09022).
    RelativeMahalanobis,
    /// The mean distance to the decision boundaries, relative to the distance to the mean feature, negated
    /// (Liu and Qin, ICML 2024); at most 0.
    Fdbd,
    /// The virtual logit minus log sum exp z. The virtual logit is the scaled norm of the residual of f
    /// outside the principal subspace of the training features (Wang et al., CVPR 2022).
    Vim,
}

/// The constants of a feature score.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Constants {
    /// Of `knn`.
    Neighbours {
        /// K, at most M.
        neighbours: usize,
        /// Training features of length 1, `[M, F]`.
        bank: Array2<f32>,
    },
    /// Of `mahalanobis`, `unit-mahalanobis` and, with a background, `relative-mahalanobis`.
    Gaussians {
        /// Whether features are scaled to length 1 first.
        is_unit: bool,
        /// Maps features to D dimensions in which the within-class scatter is the identity.
        within: Affine,
        /// The class means there, `[C, D]`.
        means: Array2<f32>,
        /// Maps features to dimensions in which the scatter of all images is the identity and their mean is
        /// 0.
        background: Option<Affine>,
    },
    /// Of `fdbd`.
    Boundaries {
        /// The distances between the weights of each pair of classes, `[C, C]`; 1 on the diagonal.
        norms: Array2<f32>,
        /// The mean training feature, `[F]`.
        mean: Array1<f32>,
    },
    /// Of `vim`.
    Residual {
        /// Maps features to their residual outside the principal subspace.
        residual: Affine,
        /// The scale of its length.
        alpha: f32,
    },
}

/// The map from x to `matrix x - offset`.
#[derive(Debug, Clone, PartialEq)]
pub struct Affine {
    /// `[D, F]`.
    pub matrix: Array2<f32>,
    /// `[D]`.
    pub offset: Array1<f32>,
}

/// The layer that computes logits from features: weight f + bias.
#[derive(Debug, Clone, PartialEq)]
pub struct LastLayer {
    /// `[C, F]`.
    pub weight: Array2<f32>,
    /// `[C]`.
    pub bias: Vec<f32>,
}

impl LastLayer {
    /// The logits `[N, C]` of features `[N, F]`.
    #[must_use]
    pub fn logits(&self, features: ArrayView2<f32>) -> Array2<f32> {
        features.dot(&self.weight.t()) + ArrayView1::from(&self.bias)
    }
}

impl fmt::Display for FeatureScore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Knn { neighbours } => write!(f, "knn:{neighbours}"),
            Self::Mahalanobis => f.write_str("mahalanobis"),
            Self::UnitMahalanobis => f.write_str("unit-mahalanobis"),
            Self::RelativeMahalanobis => f.write_str("relative-mahalanobis"),
            Self::Fdbd => f.write_str("fdbd"),
            Self::Vim => f.write_str("vim"),
        }
    }
}

impl FeatureScore {
    /// `knn` with ten neighbours.
    pub const KNN: Self = Self::Knn { neighbours: 10 };

    /// All scores, `knn` with ten neighbours.
    pub const ALL: [Self; 6] = [
        Self::KNN,
        Self::Mahalanobis,
        Self::UnitMahalanobis,
        Self::RelativeMahalanobis,
        Self::Fdbd,
        Self::Vim,
    ];

    /// The score that a text names; `None` if it names none.
    pub(super) fn named(text: &str) -> Option<Self> {
        let neighbours = || {
            let neighbours = text.strip_prefix("knn:")?.parse().ok();
            Some(Self::Knn { neighbours: neighbours.filter(|k| (1..=1000).contains(k))? })
        };
        match text {
            "knn" => Some(Self::KNN),
            _ => Self::ALL.into_iter().find(|score| score.to_string() == text).or_else(neighbours),
        }
    }

    /// The formula as text.
    #[must_use]
    pub fn formula(self) -> String {
        match self {
            Self::Knn { neighbours } => {
                format!("distance from f / |f| to the k-th nearest training feature, k = {neighbours}")
            }
            Self::Mahalanobis => "½ min over c of (f − μ_c)ᵀ S (f − μ_c)".to_owned(),
            Self::UnitMahalanobis => "½ min over c of (f / |f| − μ_c)ᵀ S (f / |f| − μ_c)".to_owned(),
            Self::RelativeMahalanobis => {
                "min over c of (f − μ_c)ᵀ S (f − μ_c) − (f − μ)ᵀ S₀ (f − μ)".to_owned()
            }
            Self::Fdbd => "−mean over c ≠ y of |z_y − z_c| / (|w_y − w_c| |f − μ|), y = argmax z".to_owned(),
            Self::Vim => "α |R (f − u)| − log Σ exp z".to_owned(),
        }
    }
}

/// The smallest norm used as a divisor, as in pytorch-ood.
pub(crate) const MIN_NORM: f32 = 1e-12;
/// The smallest distance to the mean feature used as a divisor, as in pytorch-ood.
pub(crate) const MIN_DISTANCE: f32 = 1e-8;

impl Constants {
    /// The score that they are of.
    #[must_use]
    pub fn score(&self) -> FeatureScore {
        match *self {
            Self::Neighbours { neighbours, .. } => FeatureScore::Knn { neighbours },
            Self::Gaussians { background: Some(_), .. } => FeatureScore::RelativeMahalanobis,
            Self::Gaussians { is_unit: true, .. } => FeatureScore::UnitMahalanobis,
            Self::Gaussians { .. } => FeatureScore::Mahalanobis,
            Self::Boundaries { .. } => FeatureScore::Fdbd,
            Self::Residual { .. } => FeatureScore::Vim,
        }
    }

    /// The scores `[N]` of features `[N, F]` and logits `[N, C]`.
    ///
    /// # Panics
    /// If the shapes do not match.
    #[must_use]
    pub fn rejection(&self, features: ArrayView2<f32>, logits: ArrayView2<f32>) -> Array1<f32> {
        match self {
            Self::Neighbours { neighbours, bank } => {
                let squares = squared_distances(directions(features).view(), bank.view());
                let kth = |row: ArrayView1<f32>| {
                    let mut row = row.to_vec();
                    // Rounding can leave a small square negative.
                    row.select_nth_unstable_by(neighbours - 1, f32::total_cmp).1.abs().sqrt()
                };
                squares.rows().into_iter().map(kth).collect()
            }
            Self::Gaussians { is_unit, within, means, background } => {
                let units = is_unit.then(|| directions(features));
                let features = units.as_ref().map_or(features, |units| units.view());
                let nearest = squared_distances(within.of(features).view(), means.view())
                    .map_axis(Axis(1), |row| row.fold(f32::INFINITY, |least, &square| least.min(square)));
                match background {
                    None => nearest * 0.5,
                    Some(background) => {
                        nearest - background.of(features).map_axis(Axis(1), |row| row.dot(&row))
                    }
                }
            }
            Self::Boundaries { norms, mean } => {
                let score = |feature: ArrayView1<f32>, logits: ArrayView1<f32>| {
                    let (class, most) = greatest(logits);
                    let sum: f32 =
                        logits.iter().zip(norms.row(class)).map(|(z, norm)| (most - z) / norm).sum();
                    let distance = length((&feature - mean).view()).max(MIN_DISTANCE);
                    -sum / ((logits.len() - 1) as f32 * distance)
                };
                Zip::from(features.rows()).and(logits.rows()).map_collect(score)
            }
            Self::Residual { residual, alpha } => {
                let lengths = residual.of(features).map_axis(Axis(1), length);
                let score = |length: &f32, logits: ArrayView1<f32>| {
                    let (_, most) = greatest(logits);
                    let sum: f32 = logits.iter().map(|z| (z - most).exp()).sum();
                    alpha * length - (most + sum.ln())
                };
                Zip::from(&lengths).and(logits.rows()).map_collect(score)
            }
        }
    }
}

impl Constants {
    /// The order of magnitude of the float32 rounding error of each score `[N]` of features `[N, F]`: small
    /// differences of large numbers lose digits.
    #[cfg(feature = "export")]
    pub(crate) fn rounding(&self, features: ArrayView2<f32>) -> Array1<f32> {
        let squares = |points: ArrayView2<f32>| points.map_axis(Axis(1), |row| row.dot(&row));
        match self {
            // The square root of a small difference of squares near 1.
            Self::Neighbours { .. } => Array1::from_elem(features.nrows(), f32::EPSILON.sqrt()),
            Self::Gaussians { is_unit, within, means, background } => {
                let units = is_unit.then(|| directions(features));
                let features = units.as_ref().map_or(features, |units| units.view());
                let largest = squares(means.view()).fold(0.0_f32, |most, &square| most.max(square));
                let mut sum = squares(within.of(features).view()) + largest;
                if let Some(background) = background {
                    sum += &squares(background.of(features).view());
                }
                // The map of features to points loses digits, too.
                let loss = |map: &Affine| {
                    map.matrix.map_axis(Axis(1), length).fold(0.0, |most: f32, &l| most.max(l))
                };
                let scale = squares(features).mapv(f32::sqrt) * loss(within);
                (sum.clone() + &sum.mapv(f32::sqrt) * &scale) * f32::EPSILON
            }
            Self::Boundaries { .. } => Array1::zeros(features.nrows()),
            Self::Residual { alpha, .. } => squares(features).mapv(f32::sqrt) * (alpha.abs() * f32::EPSILON),
        }
    }
}

impl Affine {
    /// The images `[N, D]` of points `[N, F]`.
    fn of(&self, points: ArrayView2<f32>) -> Array2<f32> {
        points.dot(&self.matrix.t()) - &self.offset
    }
}

/// Features as vectors of length 1.
fn directions(features: ArrayView2<f32>) -> Array2<f32> {
    let mut directions = features.to_owned();
    for mut feature in directions.rows_mut() {
        let length = length(feature.view()).max(MIN_NORM);
        feature /= length;
    }
    directions
}

/// The squared distances `[N, M]` between points `[N, D]` and `[M, D]`.
fn squared_distances(points: ArrayView2<f32>, others: ArrayView2<f32>) -> Array2<f32> {
    let squares = |points: ArrayView2<f32>| points.map_axis(Axis(1), |row| row.dot(&row));
    let mut distances = points.dot(&others.t());
    distances *= -2.0;
    distances += &squares(others);
    distances += &squares(points).insert_axis(Axis(1));
    distances
}

fn length(vector: ArrayView1<f32>) -> f32 {
    vector.dot(&vector).sqrt()
}

/// The first of the largest values, with its index.
fn greatest(values: ArrayView1<f32>) -> (usize, f32) {
    let later = |first: (usize, f32), next: (usize, f32)| if next.1 > first.1 { next } else { first };
    values.iter().copied().enumerate().reduce(later).expect("a network has classes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{arr1, arr2, array};

    #[test]
    fn knn_measures_directions() {
        let bank = arr2(&[[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]);
        let of = |neighbours, features: &Array2<f32>| {
            let constants = Constants::Neighbours { neighbours, bank: bank.clone() };
            constants.rejection(features.view(), Array2::zeros((features.nrows(), 2)).view())
        };
        let features = arr2(&[[5.0, 0.0], [0.0, 0.0], [0.0, -0.5]]);
        assert_eq!(of(1, &features), array![0.0, 1.0, 2_f32.sqrt()]);
        assert_eq!(of(2, &features)[0], 2_f32.sqrt());
        assert_eq!(of(3, &features), array![2.0, 1.0, 2.0]);
        // NaN does not become known.
        assert!(of(1, &arr2(&[[f32::NAN, 1.0]]))[0].is_nan());
        // In any memory order, and of a single feature.
        assert_eq!(of(1, &features.t().as_standard_layout().into_owned().reversed_axes()), of(1, &features));
        let single = Constants::Neighbours { neighbours: 1, bank: arr2(&[[1.0], [1.0]]) };
        let features = arr2(&[[2.0], [-3.0], [0.5]]);
        assert_eq!(single.rejection(features.view(), Array2::zeros((3, 2)).view()), array![0.0, 2.0, 0.0]);
    }

    #[test]
    fn mahalanobis_takes_the_nearest_mean() {
        let within = Affine { matrix: arr2(&[[2.0, 0.0], [0.0, 1.0]]), offset: arr1(&[2.0, 0.0]) };
        let means = arr2(&[[0.0, 0.0], [4.0, 3.0]]);
        let features = arr2(&[[1.0, 0.0], [3.0, 4.0]]);
        let own = |is_unit| Constants::Gaussians {
            is_unit,
            within: within.clone(),
            means: means.clone(),
            background: None,
        };
        assert_eq!(own(false).rejection(features.view(), features.view()), array![0.0, 0.5]);
        // (3, 4) has length 5: (2 x 0.6 - 2)² + 0.8² is 1.28.
        let units = own(true).rejection(features.view(), features.view());
        assert!(units[0].abs() < 1e-6 && (units[1] - 0.64).abs() < 1e-6, "{units}");
        let background = Some(Affine { matrix: arr2(&[[1.0, 1.0]]), offset: arr1(&[2.0]) });
        let relative = Constants::Gaussians { is_unit: false, within, means, background };
        assert_eq!(relative.rejection(features.view(), features.view()), array![-1.0, 1.0 - 25.0]);
    }

    #[test]
    fn fdbd_is_relative_to_the_distance_from_the_mean() {
        let norms = arr2(&[[1.0, 2.0, 4.0], [2.0, 1.0, 1.0], [4.0, 1.0, 1.0]]);
        let constants = Constants::Boundaries { norms, mean: arr1(&[1.0, 1.0]) };
        let features = arr2(&[[4.0, 5.0], [1.0, 1.0]]);
        let logits = arr2(&[[3.0, 1.0, -1.0], [0.0, 0.0, 0.0]]);
        let scores = constants.rejection(features.view(), logits.view());
        assert_eq!(scores, array![-(2.0 / 2.0 + 4.0 / 4.0) / (2.0 * 5.0), 0.0]);
    }

    #[test]
    fn vim_adds_the_residual() {
        let residual = Affine { matrix: arr2(&[[0.0, 1.0]]), offset: arr1(&[0.5]) };
        let constants = Constants::Residual { residual, alpha: 3.0 };
        let (features, logits) = (arr2(&[[9.0, 0.5], [9.0, -1.5]]), arr2(&[[0.0, 0.0], [0.0, 3_f32.ln()]]));
        let scores = constants.rejection(features.view(), logits.view());
        assert!((scores[0] + 2_f32.ln()).abs() < 1e-6 && (scores[1] - (6.0 - 4_f32.ln())).abs() < 1e-6);
    }
}
