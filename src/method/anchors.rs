//! Anchors, one per class, and the distances to them.

use std::ops::AddAssign;

use ndarray::{
    Array1, Array2, ArrayView1, ArrayView2, ArrayViewMut2, Axis, Zip,
    parallel::prelude::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator},
};
use serde::{Deserialize, Serialize};

/// The number of images whose distances are computed together.
const CHUNK: usize = 64;

/// The origin of a model's anchors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AnchorKind {
    /// Magnitude times the identity, as in training.
    Fixed,
    /// The mean logits of the correctly classified training images of each class (the paper, section 3.4).
    ClassMeans,
}

impl AnchorKind {
    /// All kinds.
    pub const ALL: [Self; 2] = [Self::Fixed, Self::ClassMeans];
}

/// The anchors of C classes, one per class, in the space of the logits.
#[derive(Debug, Clone, PartialEq)]
pub enum Anchors {
    /// The unit vectors times a magnitude, as in training. Distances take O(C) time per image.
    Fixed {
        /// C.
        classes: usize,
        /// The length of an anchor.
        magnitude: f32,
    },
    /// Any anchors, one per row: `[C, C]`. Distances take O(C²) time per image, as a product of matrices.
    Rows(Array2<f32>),
}

impl Anchors {
    /// The unit vectors times `magnitude`.
    #[must_use]
    pub fn fixed(classes: usize, magnitude: f64) -> Self {
        Self::Fixed { classes, magnitude: magnitude as f32 }
    }

    /// Anchors given as rows, `[C, C]`: fixed ones if they are the unit vectors times a positive magnitude.
    #[must_use]
    pub fn from_rows(rows: Array2<f32>) -> Self {
        let magnitude = rows.first().copied().unwrap_or_default();
        let is_fixed = rows.indexed_iter().all(|((c, i), &a)| a == if c == i { magnitude } else { 0.0 });
        if is_fixed && rows.is_square() && magnitude > 0.0 {
            return Self::Fixed { classes: rows.nrows(), magnitude };
        }
        Self::Rows(rows)
    }

    /// The anchors as rows, `[C, C]`.
    #[must_use]
    pub fn to_rows(&self) -> Array2<f32> {
        match self {
            &Self::Fixed { classes, magnitude } => Array2::from_diag_elem(classes, magnitude),
            Self::Rows(rows) => rows.clone(),
        }
    }

    /// Whether they are fixed; any others are class means in a network of this toolkit.
    #[must_use]
    pub fn kind(&self) -> AnchorKind {
        match self {
            Self::Fixed { .. } => AnchorKind::Fixed,
            Self::Rows(_) => AnchorKind::ClassMeans,
        }
    }

    /// The number of classes, C.
    #[must_use]
    pub fn classes(&self) -> usize {
        match self {
            Self::Fixed { classes, .. } => *classes,
            Self::Rows(rows) => rows.nrows(),
        }
    }

    /// The Euclidean distances `[N, C]` of logits `[N, C]`, each at least 0.
    ///
    /// # Panics
    /// If the logits have another width.
    #[must_use]
    pub fn distances(&self, logits: ArrayView2<f32>) -> Array2<f32> {
        assert_eq!(logits.ncols(), self.classes(), "logits and anchors must have the same width");
        let mut distances = Array2::zeros(logits.raw_dim());
        match self {
            Self::Fixed { magnitude, .. } => {
                Zip::from(distances.rows_mut()).and(logits.rows()).par_for_each(|mut distances, z| {
                    let squared = squared_to_fixed(z.iter().copied().map(f64::from), (*magnitude).into());
                    distances.iter_mut().zip(squared).for_each(|(d, squared)| *d = squared.sqrt() as f32);
                });
            }
            Self::Rows(rows) => {
                let anchors = rows.mapv(f64::from);
                let lengths = squared_lengths(&anchors);
                let chunks = distances.axis_chunks_iter_mut(Axis(0), CHUNK).into_par_iter();
                chunks.zip(logits.axis_chunks_iter(Axis(0), CHUNK)).for_each(|(distances, z)| {
                    distances_to_rows(&z.mapv(f64::from), &anchors, &lengths, distances);
                });
            }
        }
        distances
    }

    /// The mean logits of the correctly classified images of each class, for logits `[N, C]` and their true
    /// classes `[N]` (the paper, section 3.4). A class without such images keeps its anchor.
    ///
    /// # Panics
    /// If the logits have another width.
    #[must_use]
    pub fn class_means(&self, logits: ArrayView2<f32>, truth: &[i64]) -> Self {
        let mut members = vec![Vec::new(); self.classes()];
        for (row, (label, &truth)) in
            nearest(self.distances(logits).view()).into_iter().zip(truth).enumerate()
        {
            if usize::try_from(truth) == Ok(label) {
                members[label].push(row);
            }
        }
        let mut means = self.to_rows();
        for (mut mean, members) in means.rows_mut().into_iter().zip(members) {
            if members.is_empty() {
                continue;
            }
            let mut sum = Array1::<f64>::zeros(mean.len());
            for &row in &members {
                sum.zip_mut_with(&logits.row(row), |sum, &z| *sum += f64::from(z));
            }
            mean.zip_mut_with(&sum, |mean, sum| *mean = (sum / members.len() as f64) as f32);
        }
        Self::Rows(means)
    }
}

/// The distances of logits `[N, C]` to anchors `[C, C]` with these squared lengths.
fn distances_to_rows(
    logits: &Array2<f64>,
    anchors: &Array2<f64>,
    lengths: &Array1<f64>,
    mut distances: ArrayViewMut2<f32>,
) {
    // |z - a|² = |z|² - 2 z·a + |a|². In double precision its cancellation does not matter.
    let products = logits.dot(&anchors.t());
    for (index, z) in logits.rows().into_iter().enumerate() {
        let (length, mut distances) = (z.dot(&z), distances.row_mut(index));
        if length.is_finite() {
            Zip::from(&mut distances).and(products.row(index)).and(lengths).for_each(|d, product, anchor| {
                *d = (length - 2.0 * product + anchor).max(0.0).sqrt() as f32;
            });
        } else {
            // A difference of infinite sums would be no number.
            Zip::from(&mut distances).and(anchors.rows()).for_each(|d, anchor| {
                let squared = Zip::from(z).and(anchor).fold(0.0, |sum, z, a| sum + (z - a) * (z - a));
                *d = squared.sqrt() as f32;
            });
        }
    }
}

/// The squared length of each row.
fn squared_lengths(rows: &Array2<f64>) -> Array1<f64> {
    rows.map_axis(Axis(1), |row| row.dot(&row))
}

/// The squared distance of the logits z to each fixed anchor: the sum of z² without z_c², plus (z_c - m)².
pub(super) fn squared_to_fixed(z: impl Iterator<Item = f64> + Clone, magnitude: f64) -> Vec<f64> {
    let squares: Vec<f64> = z.clone().map(|z| z * z).collect();
    let mut squared = sums_of_others(&squares);
    squared.iter_mut().zip(z).for_each(|(squared, z)| *squared += (z - magnitude) * (z - magnitude));
    squared
}

/// For each value, the sum of the others: of those before and of those after it. Subtracting the value from
/// the total would cause cancellation if it dominates.
pub(super) fn sums_of_others<T: Copy + Default + AddAssign>(values: &[T]) -> Vec<T> {
    let mut sums = vec![T::default(); values.len()];
    let mut before = T::default();
    for (sum, &value) in sums.iter_mut().zip(values) {
        *sum += before;
        before += value;
    }
    let mut behind = T::default();
    for (sum, &value) in sums.iter_mut().zip(values).rev() {
        *sum += behind;
        behind += value;
    }
    sums
}

/// The class of the nearest anchor for each row of distances `[N, C]`; the first on a tie.
#[must_use]
pub fn nearest(distances: ArrayView2<f32>) -> Vec<usize> {
    let least = |d: ArrayView1<f32>| (1..d.len()).fold(0, |least, c| if d[c] < d[least] { c } else { least });
    distances.rows().into_iter().map(least).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::arr2;

    #[test]
    fn class_means_use_only_correct_images() {
        let logits = arr2(&[[2.0, 0.0, 1.0], [4.0, 0.0, 1.0], [0.0, 9.0, 0.0], [0.0, 1.0, 0.0]]);
        let means = Anchors::fixed(3, 1.0).class_means(logits.view(), &[0, 0, 0, -1]);
        assert_eq!(means, Anchors::Rows(arr2(&[[3.0, 0.0, 1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])));
    }

    #[test]
    fn distances_to_fixed_anchors_match_those_to_their_rows() {
        let fixed = Anchors::fixed(50, 10.0);
        let rows = Anchors::Rows(fixed.to_rows());
        assert_eq!(Anchors::from_rows(fixed.to_rows()), fixed);
        let mut logits = Array2::from_shape_fn((4, 50), |(n, c)| ((n * 31 + c * 17) % 13) as f32 - 5.0);
        // Near an anchor: the difference of sums in single precision would be 0.
        logits.row_mut(3).fill(1e-4);
        logits[[3, 7]] = 10.0;
        let (found, expected) = (fixed.distances(logits.view()), rows.distances(logits.view()));
        assert!((expected[[3, 7]] - 7e-4).abs() < 1e-8);
        Zip::from(&found).and(&expected).for_each(|found, expected| {
            assert!((found - expected).abs() <= 1e-6 * expected, "{found} {expected}");
        });
    }

    #[test]
    fn logits_that_are_not_finite_are_near_no_anchor() {
        let logits = arr2(&[[f32::INFINITY, 0.0], [0.0, f32::NEG_INFINITY], [f32::NAN, 0.0], [3e38, -3e38]]);
        for anchors in [Anchors::fixed(2, 10.0), Anchors::Rows(arr2(&[[1.0, 2.0], [3.0, 5.0]]))] {
            let distances = anchors.distances(logits.view());
            assert!(
                distances.rows().into_iter().take(2).flatten().all(|d| *d == f32::INFINITY),
                "{distances}"
            );
            assert!(distances.row(2).iter().all(|d| d.is_nan()), "{distances}");
            assert!(distances.row(3).iter().all(|&d| d > 3e38), "{distances}");
        }
    }

    #[test]
    fn only_positive_multiples_of_the_unit_vectors_are_fixed() {
        for rows in [
            arr2(&[[1.0, 0.0], [0.0, 2.0]]),
            arr2(&[[1.0, 0.5], [0.0, 1.0]]),
            arr2(&[[-1.0, 0.0], [0.0, -1.0]]),
        ] {
            assert_eq!(Anchors::from_rows(rows.clone()), Anchors::Rows(rows));
        }
    }
}
