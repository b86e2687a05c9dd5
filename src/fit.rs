//! Fits the constants of feature scores to training images.

use faer::{Mat, Side};
use ndarray::{Array1, Array2, ArrayView2, Axis};

use crate::{
    data::shuffled,
    error::{Error, Result},
    method::{
        Activations, Affine, Anchors, Constants, FeatureScore, FittedScore, FittedTerm, LastLayer, MIN_NORM,
        RejectionScore, Standardisation, Term,
    },
};

/// The default limit of a score's constants in a file, 4 MiB.
pub const LIMIT: usize = 4 << 20;

/// Added to the diagonal of a scatter matrix before it is inverted, as in pytorch-ood.
const RIDGE: f64 = 1e-6;
/// The number of training features that `knn` keeps. Keeping more gains nothing with ten neighbours.
const BANK: usize = 1024;
/// The number of features above which Mahalanobis distances are measured in principal components.
const WIDE: usize = 512;
/// The number of these components, and the fewest that a residual of `vim` keeps.
const COMPONENTS: usize = 256;
/// The number of training images needed per dimension of a Mahalanobis distance.
const IMAGES_PER_COMPONENT: usize = 2;
/// The minimum mean length of a residual, relative to that of the features: below it, the principal space
/// contains all training images.
const MIN_RESIDUAL: f64 = 1e-5;

/// Training images as a network sees them.
#[derive(Debug, Clone, Copy)]
pub struct Examples<'a> {
    /// Features `[N, F]`.
    pub features: ArrayView2<'a, f32>,
    /// Classes `[N]`, 0 to below C.
    pub labels: &'a [i64],
    /// The layer after the features.
    pub last_layer: &'a LastLayer,
}

/// Fits scores to the features of training images.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fitter<'a> {
    /// The training images.
    pub examples: Examples<'a>,
    /// Features `[M, F]` of further known images, used to standardise the terms of a sum.
    pub known: &'a Array2<f32>,
    /// The anchors.
    pub anchors: &'a Anchors,
    /// The limit of the constants in bytes, as for [`fit`].
    pub limit: Option<usize>,
}

/// Features of images, and what is computed from them.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sample<'a> {
    features: &'a Array2<f32>,
    logits: Array2<f32>,
    distances: Array2<f32>,
}

impl<'a> Sample<'a> {
    /// The logits and distances of features `[N, F]`.
    #[must_use]
    pub fn new(features: &'a Array2<f32>, last_layer: &LastLayer, anchors: &Anchors) -> Self {
        let logits = last_layer.logits(features.view());
        let distances = anchors.distances(logits.view());
        Self { features, logits, distances }
    }

    /// The input of scores.
    #[must_use]
    pub fn activations(&self) -> Activations<'_> {
        let Self { features, logits, distances } = self;
        Activations { features: Some(features.view()), logits: logits.view(), distances: distances.view() }
    }
}

impl Fitter<'_> {
    /// The logits and distances of features `[N, F]`.
    #[must_use]
    pub fn sample<'a>(&self, features: &'a Array2<f32>) -> Sample<'a> {
        Sample::new(features, self.examples.last_layer, self.anchors)
    }

    /// The number of images that `knn` keeps of the class of which it keeps the fewest.
    pub(crate) fn fewest_kept_by_knn(&self) -> usize {
        let mut kept = vec![0; self.examples.last_layer.weight.nrows()];
        for index in kept_by_knn(&self.examples, self.limit) {
            let class = usize::try_from(self.examples.labels[index]).ok();
            // The fit refuses other labels.
            if let Some(count) = class.and_then(|class| kept.get_mut(class)) {
                *count += 1;
            }
        }
        kept.into_iter().min().unwrap_or(0)
    }

    /// A term with its constants.
    pub(crate) fn term(&self, term: Term) -> Result<FittedTerm> {
        Ok(match term {
            Term::Logits(score) => FittedTerm::Logits(score),
            Term::Features(score) => FittedTerm::Features(Box::new(fit(score, &self.examples, self.limit)?)),
        })
    }

    /// A score with its constants.
    ///
    /// # Errors
    /// Those of [`fit`], and [`Error::Unstandardised`].
    pub fn fit(&self, score: RejectionScore) -> Result<FittedScore> {
        let (one, other) = match score {
            RejectionScore::Single(term) => return Ok(FittedScore::Single(self.term(term)?)),
            RejectionScore::Sum(one, other) => (one, other),
        };
        let known = self.sample(self.known);
        let standardised = |term: Term| {
            let term = self.term(term)?;
            let standard = Standardisation::of(&term.rejection(&known.activations()))
                .ok_or_else(|| Error::Unstandardised { score: score.to_string() })?;
            Ok((term, standard))
        };
        Ok(FittedScore::Sum([standardised(one)?, standardised(other)?]))
    }
}

/// Fits the constants of a score. With a limit in bytes they are reduced: `knn` keeps at most 1,024 features,
/// as 16-bit numbers; Mahalanobis distances of long features, or from few images, are measured in their
/// principal components; `vim` keeps the components of the residual along which training images vary least,
/// 256 or more. Without a limit they are exact.
///
/// # Errors
/// [`Error::Setting`] if there are too few images for the score, the constants do not fit, a label is no class
/// or missing, a feature or a weight is not finite, or `knn` is to have no neighbour.
pub fn fit(score: FeatureScore, examples: &Examples, limit: Option<usize>) -> Result<Constants> {
    let refused = |reason: &str| Error::setting("score", format!("`{score}`"), reason);
    if examples.labels.is_empty() {
        return Err(refused("needs training images"));
    }
    let classes = 0..examples.last_layer.weight.nrows() as i64;
    if examples.labels.len() != examples.features.nrows()
        || examples.labels.iter().any(|label| !classes.contains(label))
    {
        return Err(refused("needs one of the classes as the label of each image"));
    }
    let LastLayer { weight, bias } = examples.last_layer;
    if !examples.features.iter().chain(weight).chain(bias).all(|value| value.is_finite()) {
        return Err(refused("needs finite features and weights"));
    }
    let constants = match score {
        FeatureScore::Knn { neighbours } => neighbours_of(examples, neighbours, limit),
        FeatureScore::Mahalanobis | FeatureScore::UnitMahalanobis | FeatureScore::RelativeMahalanobis => {
            gaussians(examples, score, limit)
        }
        FeatureScore::Fdbd => boundaries(examples, limit),
        FeatureScore::Vim => residual(examples, limit),
    };
    constants.map_err(|reason| refused(&reason))
}

fn neighbours_of(examples: &Examples, neighbours: usize, limit: Option<usize>) -> Result<Constants, String> {
    let kept = kept_by_knn(examples, limit);
    if neighbours == 0 {
        return Err("needs a neighbour".to_owned());
    }
    if kept.len() < neighbours {
        return Err(format!("needs at least {neighbours} training images; {} can be kept", kept.len()));
    }
    let bank = directions(examples.features).select(Axis(0), &kept);
    let rounded = |value: f64| match limit {
        Some(_) => half::f16::from_f64(value).to_f32(),
        None => value as f32,
    };
    Ok(Constants::Neighbours { neighbours, bank: bank.mapv(rounded) })
}

/// Features as vectors of length 1.
fn directions(features: ArrayView2<f32>) -> Array2<f64> {
    let mut directions = features.mapv(f64::from);
    for mut feature in directions.rows_mut() {
        let length = feature.dot(&feature).sqrt().max(MIN_NORM.into());
        feature /= length;
    }
    directions
}

/// The indices of the images that `knn` keeps within a limit in bytes.
fn kept_by_knn(examples: &Examples, limit: Option<usize>) -> Vec<usize> {
    let (count, width) = examples.features.dim();
    let most = limit.map_or(count, |limit| count.min(BANK).min(limit / (width * size_of::<half::f16>())));
    representatives(examples.labels, most, examples.last_layer.weight.nrows())
}

/// The indices of `count` images: of each class at least `count / (2 C)`, or all if it has fewer, the rest in
/// proportion to the classes. With fewer images of a class than neighbours, `knn` finds all of its images far.
fn representatives(labels: &[i64], count: usize, classes: usize) -> Vec<usize> {
    let first = (count / (2 * classes)).max(1) as i32;
    let mut order = shuffled(labels.len(), 0);
    let mut seen = std::collections::HashMap::new();
    // The rank of an image among those of its class, as a share of them, below 0 for the first: the lowest are
    // kept.
    let mut ranks = vec![0.0; labels.len()];
    for &index in &order {
        let rank = seen.entry(labels[index]).or_insert(0);
        ranks[index] = f64::from(*rank - if *rank < first { first } else { 0 });
        *rank += 1;
    }
    for (rank, label) in ranks.iter_mut().zip(labels) {
        *rank /= f64::from(seen[label]);
    }
    order.sort_by(|&a, &b| ranks[a].total_cmp(&ranks[b]));
    order.truncate(count);
    order.sort_unstable();
    order
}

fn gaussians(examples: &Examples, score: FeatureScore, limit: Option<usize>) -> Result<Constants, String> {
    let is_unit = score == FeatureScore::UnitMahalanobis;
    let is_relative = score == FeatureScore::RelativeMahalanobis;
    let (count, width) = examples.features.dim();
    let classes = examples.last_layer.bias.len();
    if !(0..classes as i64).all(|class| examples.labels.contains(&class)) {
        return Err("needs training images of every class".to_owned());
    }
    let kept = match limit {
        None => width,
        Some(_) => {
            let components = if width > WIDE { COMPONENTS } else { width };
            // The class means take a degree of freedom each, which matters with few images of a class.
            let free = count.saturating_sub(classes);
            components.min((count / IMAGES_PER_COMPONENT).min(2 * free / 3).max(1))
        }
    };
    let maps = if is_relative { 2 } else { 1 };
    if limit.is_some_and(|limit| (maps * width + classes) * kept * size_of::<f32>() > limit) {
        return Err(format!("has a covariance of {width} features and {classes} means, more than the limit"));
    }
    let features = if is_unit { directions(examples.features) } else { examples.features.mapv(f64::from) };
    let mean = features.mean_axis(Axis(0)).expect("there are images");
    let centred = &features - &mean;
    let axes = (kept < width).then(|| principal(&centred, kept));
    let points = axes.as_ref().map_or_else(|| centred.clone(), |axes| centred.dot(&axes.t()));
    let mut means = Array2::<f64>::zeros((classes, points.ncols()));
    let mut counts = vec![0.0; classes];
    for (point, &label) in points.rows().into_iter().zip(examples.labels) {
        let class = label as usize;
        means.row_mut(class).scaled_add(1.0, &point);
        counts[class] += 1.0;
    }
    for (mut mean, count) in means.rows_mut().into_iter().zip(counts) {
        mean /= count;
    }
    let mut apart = points.clone();
    for (mut point, &label) in apart.rows_mut().into_iter().zip(examples.labels) {
        point -= &means.row(label as usize);
    }
    let whitened = |points: &Array2<f64>| {
        let whitening = whitening(points);
        let matrix = axes.as_ref().map_or_else(|| whitening.clone(), |axes| whitening.dot(axes));
        let offset = matrix.dot(&mean);
        (whitening, Affine { matrix: matrix.mapv(|v| v as f32), offset: offset.mapv(|v| v as f32) })
    };
    let (whitening, within) = whitened(&apart);
    let means: Array2<f32> = means.dot(&whitening.t()).mapv(|value| value as f32);
    let background = is_relative.then(|| whitened(&points).1);
    Ok(Constants::Gaussians { is_unit, within, means, background })
}

fn boundaries(examples: &Examples, limit: Option<usize>) -> Result<Constants, String> {
    let weight = &examples.last_layer.weight;
    let classes = weight.nrows();
    if limit.is_some_and(|limit| classes * classes * size_of::<f32>() > limit) {
        return Err(format!("has a constant for each pair of {classes} classes, more than the limit"));
    }
    let weight = weight.mapv(f64::from);
    let norms = Array2::from_shape_fn((classes, classes), |(one, other)| {
        if one == other {
            return 1.0;
        }
        let apart = &weight.row(one) - &weight.row(other);
        (apart.dot(&apart).sqrt() as f32).max(f32::MIN_POSITIVE)
    });
    let mean = examples.features.mapv(f64::from).mean_axis(Axis(0)).expect("there are images");
    Ok(Constants::Boundaries { norms, mean: mean.mapv(|value| value as f32) })
}

fn residual(examples: &Examples, limit: Option<usize>) -> Result<Constants, String> {
    let features = examples.features.mapv(f64::from);
    let width = features.ncols();
    let origin = origin(examples.last_layer);
    let centred = &features - &origin;
    // The dimensions of the paper; with fewer features, half of them, as in pytorch-ood.
    let principal = match width {
        1500.. => 1000,
        768.. => 512,
        _ => width / 2,
    };
    let all = width - principal;
    let kept = limit.map_or(all, |limit| all.min(limit / (width * size_of::<f32>())));
    if kept < all.min(COMPONENTS) {
        return Err(format!("can keep {kept} of {all} components of {width} features within the limit"));
    }
    let (_, vectors) = eigen(&scatter(&centred));
    let matrix = vectors.slice_axis(Axis(1), (..kept).into()).t().to_owned();
    let mean_length = |points: &Array2<f64>| {
        points.rows().into_iter().map(|row| row.dot(&row).sqrt()).sum::<f64>() / points.nrows() as f64
    };
    let length = mean_length(&centred.dot(&matrix.t()));
    if length <= MIN_RESIDUAL * mean_length(&centred) {
        return Err(format!(
            "needs more training images: {} dimensions contain all {}",
            width - kept,
            features.nrows()
        ));
    }
    let logits = examples.last_layer.logits(examples.features);
    let greatest = logits.map_axis(Axis(1), |row| row.fold(f32::MIN, |most, &z| most.max(z)));
    let alpha = greatest.mapv(f64::from).mean().expect("there are images") / length;
    let offset = matrix.dot(&origin).mapv(|value| value as f32);
    let residual = Affine { matrix: matrix.mapv(|value| value as f32), offset };
    Ok(Constants::Residual { residual, alpha: alpha as f32 })
}

/// The point -W⁺ b, at which the logits are nearest to 0.
fn origin(last_layer: &LastLayer) -> Array1<f64> {
    let weight = last_layer.weight.mapv(f64::from);
    let bias: Array1<f64> = last_layer.bias.iter().map(|&value| f64::from(value)).collect();
    // In the space of the classes or of the features, whichever is smaller.
    let has_more_classes = weight.nrows() > weight.ncols();
    let (matrix, point) = if has_more_classes {
        (weight.t().dot(&weight), weight.t().dot(&bias))
    } else {
        (weight.dot(&weight.t()), bias)
    };
    let (values, vectors) = eigen(&matrix);
    let most = values.last().copied().unwrap_or(0.0);
    let mut along = vectors.t().dot(&point);
    for (along, &value) in along.iter_mut().zip(&values) {
        *along = if value > 1e-12 * most { *along / value } else { 0.0 };
    }
    let solved = vectors.dot(&along);
    if has_more_classes { -solved } else { -weight.t().dot(&solved) }
}

/// The axes `[kept, F]` along which points of mean 0 vary most.
fn principal(centred: &Array2<f64>, kept: usize) -> Array2<f64> {
    let (_, vectors) = eigen(&scatter(centred));
    vectors.slice_axis(Axis(1), (-(kept as isize)..).into()).t().to_owned()
}

/// The matrix A for which |A x|² is xᵀ S x, S being the inverse scatter of some points, with the [`RIDGE`].
fn whitening(points: &Array2<f64>) -> Array2<f64> {
    let (values, vectors) = eigen(&scatter(points));
    let mut whitening = vectors.t().to_owned();
    for (mut axis, value) in whitening.rows_mut().into_iter().zip(values) {
        axis /= (value.max(0.0) + RIDGE).sqrt();
    }
    whitening
}

fn scatter(points: &Array2<f64>) -> Array2<f64> {
    points.t().dot(points)
}

/// The eigenvalues of a symmetric matrix, ascending, and its eigenvectors as columns.
fn eigen(matrix: &Array2<f64>) -> (Vec<f64>, Array2<f64>) {
    let size = matrix.nrows();
    let matrix = Mat::from_fn(size, size, |row, column| matrix[[row, column]]);
    let decomposition =
        matrix.self_adjoint_eigen(Side::Lower).expect("the iteration converges for finite matrices");
    let (vectors, values) = (decomposition.U(), decomposition.S().column_vector());
    (
        (0..size).map(|index| values[index]).collect(),
        Array2::from_shape_fn((size, size), |index| vectors[(index.0, index.1)]),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_principal_axes_span_the_plane_of_the_points() {
        // Points slightly off a plane in six dimensions, oblique to the axes.
        let [along, across] = [[1.0, 2.0, 0.0, -1.0, 0.5, 1.0], [0.0, 1.0, -3.0, 1.0, 1.0, 0.5]];
        let point = |i: usize, feature: usize| {
            let (a, b) = ((i as f64).sin(), (1.7 * i as f64).cos());
            a * along[feature] + b * across[feature] + 1e-4 * ((i * (feature + 3)) as f64).sin()
        };
        let points = Array2::from_shape_fn((200, 6), |(i, feature)| point(i, feature));
        let centred = &points - &points.mean_axis(Axis(0)).unwrap();
        let axes = principal(&centred, 2);
        let back = centred.dot(&axes.t()).dot(&axes);
        assert!((&back - &centred).iter().all(|error| error.abs() < 1e-3));
        let identity = axes.dot(&axes.t()) - Array2::<f64>::eye(2);
        assert!(identity.iter().all(|error| error.abs() < 1e-12), "{identity}");
    }

    #[test]
    fn few_images_of_a_class_leave_few_components() {
        let features =
            Array2::from_shape_fn((20, 30), |(image, feature)| ((image * (feature + 3)) as f32).sin());
        let labels: Vec<i64> = (0..20).map(|i| i % 8).collect();
        let last_layer = LastLayer { weight: Array2::zeros((8, 30)), bias: vec![0.0; 8] };
        let examples = Examples { features: features.view(), labels: &labels, last_layer: &last_layer };
        let fitted = fit(FeatureScore::Mahalanobis, &examples, Some(1 << 20)).unwrap();
        let Constants::Gaussians { within, .. } = fitted else { panic!("{fitted:?}") };
        // Two thirds of 20 - 8, fewer than half of 20.
        assert_eq!(within.matrix.dim(), (8, 30));
    }

    #[test]
    fn features_and_weights_must_be_finite() {
        let labels: Vec<i64> = (0..20).map(|i| i % 2).collect();
        let refused = |weight: f32, feature: f32| {
            let mut features =
                Array2::from_shape_fn((20, 3), |(image, at)| ((image * (at + 3)) as f32).sin());
            features[[7, 1]] = feature;
            let last_layer = LastLayer { weight: Array2::from_elem((2, 3), weight), bias: vec![0.0; 2] };
            let examples = Examples { features: features.view(), labels: &labels, last_layer: &last_layer };
            fit(FeatureScore::Mahalanobis, &examples, None).err().map(|error| error.to_string())
        };
        assert_eq!(refused(1.0, 0.5), None);
        for (weight, feature) in [(1.0, f32::NAN), (f32::INFINITY, 0.5)] {
            let error = refused(weight, feature).unwrap();
            assert!(error.ends_with("needs finite features and weights"), "{error}");
        }
    }

    #[test]
    fn a_limited_residual_keeps_the_axes_of_least_variance() {
        // The features vary along the axes, each more than the one before.
        let features = Array2::from_diag(&Array1::from_iter((1..=600_u16).map(f32::from)));
        let last_layer = LastLayer { weight: Array2::zeros((1, 600)), bias: vec![0.0] };
        let examples = Examples { features: features.view(), labels: &[0; 600], last_layer: &last_layer };
        let fitted = fit(FeatureScore::Vim, &examples, Some(256 * 600 * 4)).unwrap();
        let Constants::Residual { residual, .. } = fitted else { panic!("{fitted:?}") };
        assert_eq!(residual.matrix.dim(), (256, 600));
        let length = |feature: usize| residual.matrix.column(feature).mapv(|v| v * v).sum().sqrt();
        // Of the 300 axes of the whole residual, the last 44 are left out.
        let lengths = [10, 255, 256, 280].map(length);
        let is_near = |(found, expected): (&f32, f32)| (found - expected).abs() < 1e-3;
        assert!(lengths.iter().zip([1.0, 1.0, 0.0, 0.0]).all(is_near), "{lengths:?}");
    }

    #[test]
    fn representatives_keep_the_class_proportions_and_half_an_equal_share() {
        for (every, expected) in [(2, 10), (3, 7), (4, 5), (10, 5), (50, 2)] {
            let labels: Vec<i64> = (0..100).map(|i| i64::from(i % every == 0)).collect();
            let indices = representatives(&labels, 20, 2);
            assert!(indices.len() == 20 && indices.is_sorted());
            let of_class = indices.iter().filter(|&&index| labels[index] == 1).count();
            assert_eq!(of_class, expected, "{every}");
        }
    }
}
