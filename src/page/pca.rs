//! Principal component analysis: the plane in which points differ most.

use ndarray::{Array1, Array2, ArrayView2, Axis};
use rand::{SeedableRng, rngs::ChaCha8Rng};
use rand_distr::{Distribution, StandardNormal};

/// The number of directions tracked to find two. Up to this width, the result is exact.
const FOLLOWED: usize = 16;
/// The number of iterations.
const ITERATIONS: usize = 60;

/// The plane through the mean of some points in which they vary most.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plane {
    mean: Array1<f64>,
    /// Two orthonormal axes as columns, `[C, 2]`: the first has the greatest variance. The component of an
    /// axis with the greatest magnitude is positive. An axis without variance is 0.
    axes: Array2<f64>,
    /// The share of the variance that lies in the plane, 0 to 1.
    pub explained: f64,
}

impl Plane {
    /// The plane of points `[N, C]`, all of them finite. The same points give the same plane.
    pub fn through(points: ArrayView2<f64>) -> Option<Self> {
        let mean = points.mean_axis(Axis(0))?;
        let centred = &points - &mean;
        let width = centred.ncols();
        let followed = FOLLOWED.min(width);
        if followed == 0 {
            return None;
        }
        // Subspace iteration (Rutishauser, 1969), and a Rayleigh-Ritz step within the subspace.
        let mut random = ChaCha8Rng::seed_from_u64(0);
        let mut basis =
            Array2::from_shape_simple_fn((width, followed), || StandardNormal.sample(&mut random));
        orthonormalise(&mut basis);
        for _ in 0..if followed == width { 0 } else { ITERATIONS } {
            basis = centred.t().dot(&centred.dot(&basis));
            orthonormalise(&mut basis);
        }
        let within = centred.dot(&basis);
        let (variances, vectors) = eigen(within.t().dot(&within));
        let mut order: Vec<usize> = (0..followed).collect();
        order.sort_by(|&a, &b| variances[b].total_cmp(&variances[a]));
        let total: f64 = centred.iter().map(|value| value * value).sum();
        let mut axes = Array2::zeros((width, 2));
        let mut explained = 0.0;
        for (mut axis, &index) in axes.columns_mut().into_iter().zip(&order) {
            if variances[index] <= 1e-12 * total {
                continue;
            }
            axis.assign(&basis.dot(&vectors.column(index)));
            let greatest =
                axis.iter().fold(0.0, |most: f64, &x| if x.abs() > most.abs() + 1e-9 { x } else { most });
            axis *= greatest.signum();
            explained += variances[index] / total;
        }
        Some(Self { mean, axes, explained })
    }

    /// The coordinates of points `[N, C]` in the plane.
    pub fn project(&self, points: ArrayView2<f64>) -> Vec<[f64; 2]> {
        let coordinates = (&points - &self.mean).dot(&self.axes);
        coordinates.rows().into_iter().map(|row| [row[0], row[1]]).collect()
    }
}

/// Makes columns orthonormal by the Gram-Schmidt process, twice for accuracy. A column that depends on
/// earlier ones becomes 0.
fn orthonormalise(columns: &mut Array2<f64>) {
    for index in 0..columns.ncols() {
        let (before, mut rest) = columns.view_mut().split_at(Axis(1), index);
        let mut column = rest.column_mut(0);
        let length = column.dot(&column).sqrt();
        for _ in 0..2 {
            for other in before.columns() {
                let along = other.dot(&column);
                column.scaled_add(-along, &other);
            }
        }
        let left = column.dot(&column).sqrt();
        column *= if left > 1e-12 * length { left.recip() } else { 0.0 };
    }
}

/// The eigenvalues and, as columns, the eigenvectors of a symmetric matrix, by Jacobi rotations.
fn eigen(mut matrix: Array2<f64>) -> (Vec<f64>, Array2<f64>) {
    let size = matrix.nrows();
    let mut vectors = Array2::eye(size);
    let scale: f64 = matrix.iter().map(|value| value * value).sum();
    for _ in 0..50 {
        let off: f64 = matrix
            .indexed_iter()
            .filter(|((row, column), _)| row != column)
            .map(|(_, value)| value * value)
            .sum();
        if off <= 1e-30 * scale {
            break;
        }
        for p in 0..size {
            for q in p + 1..size {
                if matrix[[p, q]] == 0.0 {
                    continue;
                }
                let ratio = (matrix[[q, q]] - matrix[[p, p]]) / (2.0 * matrix[[p, q]]);
                let tangent = ratio.signum() / (ratio.abs() + ratio.hypot(1.0));
                let cosine = tangent.hypot(1.0).recip();
                let sine = tangent * cosine;
                let turn = |a: &mut f64, b: &mut f64| {
                    (*a, *b) = (cosine * *a - sine * *b, sine * *a + cosine * *b);
                };
                for k in 0..size {
                    let (mut a, mut b) = (matrix[[k, p]], matrix[[k, q]]);
                    turn(&mut a, &mut b);
                    (matrix[[k, p]], matrix[[k, q]]) = (a, b);
                }
                for k in 0..size {
                    let (mut a, mut b) = (matrix[[p, k]], matrix[[q, k]]);
                    turn(&mut a, &mut b);
                    (matrix[[p, k]], matrix[[q, k]]) = (a, b);
                    let (mut a, mut b) = (vectors[[k, p]], vectors[[k, q]]);
                    turn(&mut a, &mut b);
                    (vectors[[k, p]], vectors[[k, q]]) = (a, b);
                }
            }
        }
    }
    (matrix.diag().to_vec(), vectors)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::arr2;

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-9
    }

    #[test]
    fn a_case_computed_by_hand() {
        let points = arr2(&[[5.0, 3.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, 1.0], [1.0, -1.0], [-5.0, -3.0]]);
        let points = points + 7.0;
        let plane = Plane::through(points.view()).unwrap();
        let covariance = {
            let centred = &points - 7.0;
            centred.t().dot(&centred)
        };
        // 25 + 1 + 1 + 1 + 1 + 25 = 54, 9 + 4 + 9 = 22, 15 - 4 + 15 = 26.
        assert_eq!(covariance, arr2(&[[54.0, 26.0], [26.0, 22.0]]));
        // Its eigenvalues: 38 +- sqrt(16² + 26²).
        let root = 16_f64.hypot(26.0);
        let (mut values, _) = eigen(covariance);
        values.sort_by(f64::total_cmp);
        assert!(close(values[0], 38.0 - root) && close(values[1], 38.0 + root), "{values:?}");
        assert!(close(plane.explained, 1.0));
        let first = [26.0, 38.0 + root - 54.0].map(|x| x / 26_f64.hypot(38.0 + root - 54.0));
        assert!(close(plane.axes[[0, 0]], first[0]) && close(plane.axes[[1, 0]], first[1]), "{plane:?}");
        let projected = plane.project(arr2(&[[7.0, 7.0], [7.0 + first[0], 7.0 + first[1]]]).view());
        assert!(close(projected[0][0], 0.0) && close(projected[1][0], 1.0) && close(projected[1][1], 0.0));
    }

    #[test]
    fn wide_points_give_the_axes_of_greatest_variance() {
        // 40 dimensions; 7 varies the most, then 31.
        let mut random = ChaCha8Rng::seed_from_u64(3);
        let points = Array2::from_shape_fn((500, 40), |(_, d)| {
            let value: f64 = StandardNormal.sample(&mut random);
            value
                * if d == 7 {
                    90.0
                } else if d == 31 {
                    60.0
                } else {
                    10.0
                }
        });
        let plane = Plane::through(points.view()).unwrap();
        assert!(plane.axes[[7, 0]] > 0.99 && plane.axes[[31, 1]] > 0.99, "{plane:?}");
        assert!(close(plane.axes.column(0).dot(&plane.axes.column(1)), 0.0));
        assert_eq!(Plane::through(points.view()).unwrap(), plane);
    }

    #[test]
    fn points_without_variance_lie_at_the_origin() {
        let points = Array2::from_elem((4, 3), 2.0);
        let plane = Plane::through(points.view()).unwrap();
        assert_eq!((plane.project(points.view()), plane.explained), (vec![[0.0; 2]; 4], 0.0));
        // On a line.
        let line = arr2(&[[0.0, 1.0, 0.0], [0.0, 3.0, 0.0]]);
        let plane = Plane::through(line.view()).unwrap();
        assert_eq!(plane.project(line.view()), [[-1.0, 0.0], [1.0, 0.0]]);
        assert!(Plane::through(Array2::zeros((0, 3)).view()).is_none());
    }
}
