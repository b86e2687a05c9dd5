//! Chooses the rejection score without unknown images: the one that best separates held-out known images from
//! stand-ins made from them.

use ndarray::{Array1, Array2};

use crate::{
    error::Result,
    fit::{Fitter, Sample},
    method::{FeatureScore, FittedScore, FittedTerm, LogitScore, RejectionScore, Standardisation, Term},
    metrics::Metrics,
    model::{Candidate, Choice},
};

/// A fitted term, with its standardised scores of the known images and of each kind of stand-in.
struct Compared {
    term: FittedTerm,
    standard: Standardisation,
    known: Array1<f32>,
    stand_ins: Vec<Array1<f32>>,
}

/// Compares the candidates on known images and on stand-ins, given as names and features; `None` without
/// images. `magnitude` is the length of the anchors; `has_outliers` says whether the network learned from
/// outliers.
pub(super) fn choose(
    fitter: &Fitter,
    magnitude: f64,
    has_outliers: bool,
    stand_ins: &[(String, Array2<f32>)],
) -> Result<Option<(FittedScore, Choice)>> {
    if fitter.known.nrows() < 2 || stand_ins.is_empty() {
        return Ok(None);
    }
    let known = fitter.sample(fitter.known);
    let unknown: Vec<Sample> = stand_ins.iter().map(|(_, features)| fitter.sample(features)).collect();
    // A term for which there are too few images, or whose scores do not vary, is in no candidate.
    let compared = |fitter: &Fitter, term: Term| {
        let term = fitter.term(term).ok()?;
        let of_known = term.rejection(&known.activations());
        let standard = Standardisation::of(&of_known)?;
        let of_stand_in = |sample: &Sample| standard.applied_to(term.rejection(&sample.activations()));
        let stand_ins = unknown.iter().map(of_stand_in).collect();
        Some(Compared { known: standard.applied_to(of_known), stand_ins, standard, term })
    };
    let images = fitter.examples.labels.len();
    let (of_classes, of_features) = candidates(magnitude, has_outliers, images, fitter.fewest_kept_by_knn());
    let [of_classes, of_features] = [of_classes, of_features].map(|terms| -> Vec<Compared> {
        terms.into_iter().filter_map(|term| compared(fitter, term)).collect()
    });
    let mut found = Vec::new();
    for other in &of_features {
        for one in &of_classes {
            let auroc = auroc(one, other)?;
            let score = RejectionScore::sum(one.term.term(), other.term.term());
            let mean = mean(&auroc);
            found.push((Candidate { score, mean, auroc }, [one, other]));
        }
    }
    // Ties stay in the order of preference.
    found.sort_by(|(a, _), (b, _)| b.mean.total_cmp(&a.mean));
    let Some((_, best)) = found.first() else { return Ok(None) };
    let score = FittedScore::Sum(best.map(|compared| (compared.term.clone(), compared.standard)));
    let exact = Fitter { limit: None, ..*fitter };
    let unreduced = match best.map(|reduced| compared(&exact, reduced.term.term())) {
        [Some(one), Some(other)] => Some(mean(&auroc(&one, &other)?)),
        _ => None,
    };
    let choice = Choice {
        stand_ins: stand_ins.iter().map(|(name, _)| name.clone()).collect(),
        images: fitter.known.nrows(),
        candidates: found.into_iter().map(|(candidate, _)| candidate).collect(),
        unreduced,
    };
    Ok(Some((score, choice)))
}

/// The AUROC of known images against each kind of stand-in, for the sum of two terms.
fn auroc(one: &Compared, other: &Compared) -> Result<Vec<f64>> {
    let known = (&one.known + &other.known).to_vec();
    let of_stand_in = |(one, other): (&Array1<f32>, &Array1<f32>)| {
        Ok(Metrics::new(&known, None, &(one + other).to_vec())?.auroc)
    };
    one.stand_ins.iter().zip(&other.stand_ins).map(of_stand_in).collect()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The terms of the candidates, in the order of preference: those of classes and those of features, for
/// anchors of this length, this number of training images, and of images of one class that `knn` keeps at
/// least. With more candidates, chance would decide, because stand-ins resemble unknown images only roughly.
///
/// `knn` is no candidate if it keeps no image of some class: all images of that class would look far. `fdbd` is
/// none for a network that learned from outliers: it may separate stand-ins better than the energy does, but
/// unknown images worse (docs/results.md, "Scores").
fn candidates(magnitude: f64, has_outliers: bool, images: usize, fewest: usize) -> (Vec<Term>, Vec<Term>) {
    let warm = LogitScore::warm_energy(magnitude);
    let mut of_classes = vec![Term::from(LogitScore::ENERGY), warm.into()];
    of_classes.dedup();
    if !has_outliers {
        of_classes.push(FeatureScore::Fdbd.into());
    }
    let of_features = knn(images, fewest).into_iter().chain([FeatureScore::UnitMahalanobis]).map(Term::from);
    (of_classes, of_features.collect())
}

/// `knn` for this number of training images, and of images of one class that it keeps at least, if any.
fn knn(images: usize, fewest: usize) -> Option<FeatureScore> {
    let neighbours = (images / IMAGES_PER_NEIGHBOUR).min(fewest / KEPT_PER_NEIGHBOUR).clamp(1, 10);
    (fewest > 0).then_some(FeatureScore::Knn { neighbours })
}

/// The score of a network whose last layer alone was trained, without outliers, where there are too few images to
/// [measure](choose) any: `knn`, which needs none to be standardised (docs/experiments.md, "Too few images to
/// choose a score").
pub(super) fn without_measurement(fitter: &Fitter) -> Option<FittedScore> {
    let knn = knn(fitter.examples.labels.len(), fitter.fewest_kept_by_knn())?;
    fitter.fit(RejectionScore::Single(knn.into())).ok()
}

/// The number of training images per neighbour of `knn`, up to ten.
const IMAGES_PER_NEIGHBOUR: usize = 50;
/// The number of images of a class that `knn` keeps, per neighbour: with more neighbours than images of a
/// class, every image of it has neighbours of other classes.
const KEPT_PER_NEIGHBOUR: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fdbd_is_not_a_candidate_after_outliers() {
        let names = |has_outliers| -> Vec<String> {
            let (of_classes, _) = candidates(10.0, has_outliers, 5000, 10);
            of_classes.iter().map(Term::to_string).collect()
        };
        assert_eq!(names(false), ["energy", "energy:5", "fdbd"]);
        assert_eq!(names(true), ["energy", "energy:5"]);
    }

    #[test]
    fn neighbours_are_fewer_than_images_per_class() {
        for (images, fewest, expected) in [
            (5000, 102, 10),
            (900, 90, 10),
            (280, 56, 5),
            (150, 30, 3),
            (5000, 10, 1),
            (5000, 48, 6),
            (19, 9, 1),
        ] {
            let (_, of_features) = candidates(10.0, false, images, fewest);
            assert_eq!(
                of_features[0],
                FeatureScore::Knn { neighbours: expected }.into(),
                "{images} {fewest}"
            );
        }
        // Without images of some class there is no such score.
        let (_, of_features) = candidates(10.0, false, 5000, 0);
        assert_eq!(of_features, [FeatureScore::UnitMahalanobis.into()]);
    }
}
