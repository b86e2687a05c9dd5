//! One rejection score of the images of a test, whether from a model, a checkpoint or a score file.

use std::{
    collections::{BTreeMap, HashSet},
    iter,
};

use super::{Evaluation, ScoredSet};
use crate::{
    error::Result,
    method,
    report::{Report, ReportOptions},
};

/// The images of one set with one rejection score, and the classes predicted for them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Scored {
    /// The set's name.
    pub name: String,
    /// The names of the images, each of which may be empty, or none.
    pub images: Vec<String>,
    /// The true classes; negative for unknown images.
    pub truth: Vec<i64>,
    /// The predicted classes, or none.
    pub predicted: Vec<i64>,
    /// The rejection scores; larger = more likely unknown. An image whose score is NaN counts as unknown.
    pub scores: Vec<f64>,
}

/// The known and unknown images of a test with one rejection score.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TestScores {
    /// The known images.
    pub known: Scored,
    /// The unknown sets.
    pub unknown: Vec<Scored>,
}

/// The verdicts on the test images of a class, and on the unknown images taken for it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClassCounts {
    /// Known images of this class.
    pub images: usize,
    /// Those of them that are classified correctly, accepted or not.
    pub correct: usize,
    /// Those of them that are accepted, whatever their predicted class.
    pub kept: usize,
    /// Those of them that are accepted and classified correctly.
    pub kept_and_correct: usize,
    /// Unknown images that are accepted as this class.
    pub unknown_accepted: usize,
}

impl TestScores {
    /// One score of an evaluation.
    ///
    /// # Panics
    /// If there is no such score.
    #[must_use]
    pub fn of_evaluation(evaluation: &Evaluation, score: usize) -> Self {
        let scored = |set: &ScoredSet| Scored {
            name: set.name.clone(),
            images: set.images.clone(),
            truth: set.truth.clone(),
            predicted: set.predicted.iter().map(|&class| class as i64).collect(),
            scores: set.scores[score].iter().map(|&score| score.into()).collect(),
        };
        Self { known: scored(&evaluation.known), unknown: evaluation.unknown.iter().map(scored).collect() }
    }

    /// The known and the unknown images.
    pub fn sets(&self) -> impl Iterator<Item = &Scored> {
        iter::once(&self.known).chain(&self.unknown)
    }

    /// Whether two tests have the same images, as far as their sets and their names say.
    #[must_use]
    pub fn has_images_of(&self, other: &Self) -> bool {
        let is_same = |(one, other): (&Scored, &Scored)| {
            let is_named = [one, other].map(|set| set.images.iter().any(|image| !image.is_empty()));
            let has_same_names =
                || one.images.iter().collect::<HashSet<_>>() == other.images.iter().collect();
            one.name == other.name
                && one.scores.len() == other.scores.len()
                && (is_named != [true; 2] || has_same_names())
        };
        self.unknown.len() == other.unknown.len() && self.sets().zip(other.sets()).all(is_same)
    }

    /// Whether every known image has a prediction.
    #[must_use]
    pub fn is_judged(&self) -> bool {
        self.known.predicted.len() == self.known.scores.len()
    }

    /// Whether each known image was classified correctly; `None` unless all have a prediction.
    #[must_use]
    pub fn correct(&self) -> Option<Vec<bool>> {
        let Scored { truth, predicted, .. } = &self.known;
        let is_correct = |(class, truth): (&i64, &i64)| class == truth;
        self.is_judged().then(|| predicted.iter().zip(truth).map(is_correct).collect())
    }

    /// The report.
    ///
    /// # Errors
    /// Those of [`Report::new`].
    pub fn report(&self, options: &ReportOptions) -> Result<Report> {
        let unknown: Vec<(&str, &[f64])> =
            self.unknown.iter().map(|set| (set.name.as_str(), &set.scores[..])).collect();
        Report::new(&self.known.scores, self.correct().as_deref(), &unknown, options)
    }

    /// The counts of verdicts for each class, true or predicted. Without a threshold all images are accepted.
    #[must_use]
    pub fn by_class(&self, threshold: Option<f64>) -> BTreeMap<i64, ClassCounts> {
        let mut classes: BTreeMap<i64, ClassCounts> = BTreeMap::new();
        for (index, (&truth, &score)) in self.known.truth.iter().zip(&self.known.scores).enumerate() {
            let counts = classes.entry(truth).or_default();
            let is_correct = self.known.predicted.get(index) == Some(&truth);
            let is_kept = !is_rejected(score, threshold);
            counts.images += 1;
            counts.correct += usize::from(is_correct);
            counts.kept += usize::from(is_kept);
            counts.kept_and_correct += usize::from(is_kept && is_correct);
        }
        for set in &self.unknown {
            for (&class, &score) in set.predicted.iter().zip(&set.scores) {
                if !is_rejected(score, threshold) {
                    classes.entry(class).or_default().unknown_accepted += 1;
                }
            }
        }
        classes
    }
}

impl ClassCounts {
    /// The share of the known images of this class that are classified correctly; `None` without images.
    #[must_use]
    pub fn accuracy(&self) -> Option<f64> {
        (self.images > 0).then(|| self.correct as f64 / self.images as f64)
    }
}

/// The mean of the accuracies of the classes that have images; `None` if none has.
#[must_use]
pub fn balanced_accuracy<'a>(classes: impl IntoIterator<Item = &'a ClassCounts>) -> Option<f64> {
    let accuracies: Vec<f64> = classes.into_iter().filter_map(ClassCounts::accuracy).collect();
    (!accuracies.is_empty()).then(|| accuracies.iter().sum::<f64>() / accuracies.len() as f64)
}

/// The class with the lowest accuracy, that accuracy, and the number of its images; the first of several, `None` if
/// no class has images.
#[must_use]
pub fn weakest<'a, C>(classes: impl IntoIterator<Item = (C, &'a ClassCounts)>) -> Option<(C, f64, usize)> {
    let tested = classes.into_iter().filter_map(|(class, of)| Some((class, of.accuracy()?, of.images)));
    tested.min_by(|(_, a, _), (_, b, _)| a.total_cmp(b))
}

/// Whether an image [is unknown](method::is_unknown); without a threshold, none is.
pub(crate) fn is_rejected(score: f64, threshold: Option<f64>) -> bool {
    threshold.is_some_and(|threshold| method::is_unknown(score, threshold))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scored(truth: &[i64], predicted: &[i64], scores: &[f64]) -> Scored {
        Scored {
            truth: truth.to_vec(),
            predicted: predicted.to_vec(),
            scores: scores.to_vec(),
            ..Scored::default()
        }
    }

    #[test]
    fn verdicts_are_counted_by_class() {
        let nan = f64::NAN;
        let known = scored(&[0, 0, 0, 2, 2], &[0, 0, 2, 2, 1], &[0.0, 2.0, 0.5, 1.0, nan]);
        let unknown = vec![scored(&[-1; 3], &[1, 1, 0], &[1.0, 1.5, 0.0]), scored(&[-1], &[], &[0.0])];
        let tested = TestScores { known, unknown };
        let counts = |images, correct, kept, kept_and_correct, unknown_accepted| ClassCounts {
            images,
            correct,
            kept,
            kept_and_correct,
            unknown_accepted,
        };
        let by_class = tested.by_class(Some(1.0));
        let expected = [(0, counts(3, 2, 2, 1, 1)), (1, counts(0, 0, 0, 0, 1)), (2, counts(2, 1, 1, 1, 0))];
        assert_eq!(by_class, BTreeMap::from(expected));
        assert_eq!(balanced_accuracy(by_class.values()), Some((2.0 / 3.0 + 0.5) / 2.0));
        assert_eq!(balanced_accuracy([&by_class[&1]]), None, "a class without images");
        let all = tested.by_class(None);
        assert_eq!((all[&0].kept, all[&1].unknown_accepted, all[&2].kept), (3, 2, 2));
        assert_eq!(tested.correct(), Some(vec![true, true, false, true, false]));
    }
}
