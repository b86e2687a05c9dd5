//! The choice of the rejection score, without unknown images: held-out known images are told from stand-ins made of them.

use std::collections::HashMap;

use ndarray::{Array1, Array2};

use crate::{
    error::Result,
    fit::{Fitter, Sample},
    method::{FeatureScore, FittedScore, FittedTerm, LogitScore, RejectionScore, Standard, Term},
    metrics::Metrics,
    model::{Candidate, Choice},
};

/// Compares the candidates on known images and stand-ins, whose names and features these are; `None` without images.
/// `magnitude` is the length of the anchors.
pub(super) fn choose(
    fitter: &Fitter,
    magnitude: f64,
    stand_ins: &[(String, Array2<f32>)],
) -> Result<Option<(FittedScore, Choice)>> {
    let choosing = fitter.known;
    if choosing.nrows() < 2 || stand_ins.is_empty() {
        return Ok(None);
    }
    let known = fitter.sample(choosing);
    let unknown: Vec<Sample> = stand_ins.iter().map(|(_, features)| fitter.sample(features)).collect();
    // What one term gives: fitted, with its standardised scores of the known images and of each stand-in.
    let mut terms: HashMap<String, (FittedTerm, Standard, Vec<Array1<f32>>)> = HashMap::new();
    let mut candidates = Vec::new();
    for score in candidate_scores(magnitude, fitter.examples.labels.len()) {
        for term in score.terms().filter(|term| !terms.contains_key(&term.to_string())).collect::<Vec<_>>() {
            // A score for which there are too few images is no candidate.
            let Ok(fitted) = fitter.term(term) else { continue };
            let of_known = fitted.rejection(&known.activations());
            let Some(standard) = Standard::of(&of_known) else { continue };
            let of_unknown = unknown.iter().map(|sample| fitted.rejection(&sample.activations()));
            let all = [of_known].into_iter().chain(of_unknown).map(|scores| standard.applied_to(scores));
            let all: Vec<Array1<f32>> = all.collect();
            terms.insert(term.to_string(), (fitted, standard, all));
        }
        let found: Option<Vec<_>> = score.terms().map(|term| terms.get(&term.to_string())).collect();
        let Some(found) = found else { continue };
        let summed = |set: usize| -> Vec<f32> {
            let none = Array1::zeros(found[0].2[set].len());
            found.iter().fold(none, |sum, (_, _, scores)| sum + &scores[set]).to_vec()
        };
        let of_known = summed(0);
        let auroc = (1..=unknown.len())
            .map(|set| Ok(Metrics::new(&of_known, None, &summed(set))?.auroc))
            .collect::<Result<Vec<f64>>>()?;
        let mean = auroc.iter().sum::<f64>() / auroc.len() as f64;
        candidates.push(Candidate { score, mean, auroc });
    }
    // Equal ones stay in the order of preference.
    candidates.sort_by(|a, b| b.mean.total_cmp(&a.mean));
    let Some(best) = candidates.first() else { return Ok(None) };
    let fitted = match best.score {
        RejectionScore::Single(term) => FittedScore::Single(terms[&term.to_string()].0.clone()),
        RejectionScore::Sum(one, other) => FittedScore::Sum([one, other].map(|term| {
            let (fitted, standard, _) = &terms[&term.to_string()];
            (fitted.clone(), *standard)
        })),
    };
    let stand_ins = stand_ins.iter().map(|(name, _)| name.clone()).collect();
    Ok(Some((fitted, Choice { stand_ins, images: choosing.nrows(), candidates })))
}

/// The scores that are compared, in the order of preference: sums of a score of logits or classes and one of features. More
/// candidates would be chosen by chance: stand-ins resemble unknown images only roughly.
fn candidate_scores(magnitude: f64, images: usize) -> Vec<RejectionScore> {
    let warm = LogitScore::Energy { temperature: (magnitude / 2.0) as f32 };
    let mut of_classes = vec![Term::from(LogitScore::ENERGY), warm.into(), FeatureScore::Fdbd.into()];
    of_classes.dedup();
    let neighbours = (images / IMAGES_PER_NEIGHBOUR).clamp(1, 10);
    let of_features = [FeatureScore::Knn { neighbours }, FeatureScore::UnitMahalanobis];
    let pairs =
        of_features.map(|other| of_classes.iter().map(move |&one| RejectionScore::Sum(one, other.into())));
    pairs.into_iter().flatten().collect()
}

/// The number of training images for each neighbour of `knn`, up to ten.
const IMAGES_PER_NEIGHBOUR: usize = 50;
