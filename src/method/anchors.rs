//! Anchors, one per class, and the distances to them.

use ndarray::{Array2, ArrayView1, ArrayView2, Zip};
use serde::{Deserialize, Serialize};

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

/// The anchors in training: `magnitude` times the identity, `[C, C]`.
#[must_use]
pub fn fixed_anchors(classes: usize, magnitude: f64) -> Array2<f32> {
    Array2::from_diag_elem(classes, magnitude as f32)
}

/// Euclidean distances of logits `[N, D]` to anchors `[C, D]`: `[N, C]`, each at least 0.
///
/// # Panics
/// If the two differ in D.
#[must_use]
pub fn distances(logits: ArrayView2<f32>, anchors: ArrayView2<f32>) -> Array2<f32> {
    assert_eq!(logits.ncols(), anchors.ncols(), "logits and anchors must have the same width");
    Array2::from_shape_fn((logits.nrows(), anchors.nrows()), |(n, c)| {
        Zip::from(logits.row(n)).and(anchors.row(c)).fold(0.0, |sum, z, a| sum + (z - a) * (z - a)).sqrt()
    })
}

/// The class of the nearest anchor for each row of distances `[N, C]`; the first on a tie.
#[must_use]
pub fn nearest(distances: ArrayView2<f32>) -> Vec<usize> {
    let least = |d: ArrayView1<f32>| (1..d.len()).fold(0, |least, c| if d[c] < d[least] { c } else { least });
    distances.rows().into_iter().map(least).collect()
}

/// The mean logits of the correctly classified images of each class, `[C, C]`. A class without such images
/// keeps its anchor.
#[must_use]
pub fn class_means(logits: ArrayView2<f32>, truth: &[i64], anchors: ArrayView2<f32>) -> Array2<f32> {
    let mut sums = Array2::<f64>::zeros(anchors.dim());
    let mut counts = vec![0_u32; anchors.nrows()];
    for ((z, &truth), label) in
        logits.rows().into_iter().zip(truth).zip(nearest(distances(logits, anchors).view()))
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

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::arr2;

    #[test]
    fn class_means_use_only_correct_images() {
        let anchors = fixed_anchors(3, 1.0);
        let logits = arr2(&[[2.0, 0.0, 0.0], [4.0, 0.0, 0.0], [0.0, 9.0, 0.0], [0.0, 1.0, 0.0]]);
        let means = class_means(logits.view(), &[0, 0, 0, -1], anchors.view());
        assert_eq!(means, arr2(&[[3.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]));
    }
}
