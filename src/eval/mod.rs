//! A model's outputs on whole data sets, from which reports and comparisons are made, and the files
//! of their scores and features.

#[cfg(feature = "export")]
pub mod feature_file;
#[cfg(feature = "files")]
pub mod score_file;
mod test_scores;

#[cfg(feature = "page")]
pub(crate) use test_scores::is_rejected;
pub use test_scores::{ClassCounts, Scored, TestScores, balanced_accuracy, weakest};

use std::iter;

#[cfg(any(feature = "tract", feature = "onnxruntime"))]
use ndarray::Array4;
use ndarray::{Array2, ArrayView2, Axis};

#[cfg(any(feature = "tract", feature = "onnxruntime"))]
use crate::{
    data::{Dataset, Readable, TestImages, prefetch},
    image::{Input, RgbImage},
    scorer::{Outputs, Scorer},
    text::{on_one_line, shown},
};
use crate::{
    data::{KNOWN, UNKNOWN},
    error::{Error, Result},
    method::{self, Activations, FittedScore, RejectionScore},
    report::{Comparison, Report, ReportOptions, ReportScores},
    run::{Checkpoint, TestLogits},
};

/// The maximum number of images of an evaluation whose logits are kept, half of them known.
const SAMPLED: usize = 2000;
/// The maximum number of logits that are kept, 8 MiB.
const KEPT_LOGITS: usize = 1 << 21;

/// The predictions and scores of a model on known and unknown images.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// The rejection scores computed.
    pub scores: Vec<RejectionScore>,
    /// The score that the model decides by, with its threshold.
    pub decision: Option<(RejectionScore, f32)>,
    /// The known images.
    pub known: ScoredSet,
    /// The unknown sets.
    pub unknown: Vec<ScoredSet>,
    /// The number of images that could not be read and are in no set.
    pub skipped: usize,
}

/// A rejection score that is evaluated.
#[derive(Debug, Clone, PartialEq)]
pub enum Evaluated {
    /// The model's own.
    Own,
    /// Another one.
    Other(FittedScore),
}

/// The predictions and scores of a model on one set of images.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ScoredSet {
    /// The set's name.
    pub name: String,
    /// The names of the images, or empty.
    pub images: Vec<String>,
    /// The true classes; negative for unknown images.
    pub truth: Vec<i64>,
    /// The classes of the nearest anchors.
    pub predicted: Vec<usize>,
    /// The values of each score; larger = more likely unknown.
    pub scores: Vec<Vec<f32>>,
    /// The positions in the set of the images whose logits are kept: evenly spaced, ascending.
    pub sampled: Vec<usize>,
    /// The logits of these images, `[S, C]`.
    pub logits: Array2<f32>,
    /// The features of all images, `[N, F]`, if they are kept.
    pub features: Option<Array2<f32>>,
}

/// The agreement of two models or runtimes on the same images.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize)]
pub struct Agreement {
    /// Images compared.
    pub images: usize,
    /// The largest difference of a score, relative for scores above 1.
    pub greatest_score_difference: f32,
    /// Images classified differently.
    pub label_flips: usize,
    /// Images that only one of the two flags as unknown.
    pub unknown_flips: usize,
}

/// The compared outputs of one image.
struct Judgement {
    score: f32,
    label: usize,
    unknown: bool,
}

impl Evaluation {
    /// The test after training, with a rejection score and a threshold on it; `None` without a test, or
    /// without the features that the score needs.
    #[must_use]
    pub fn of_checkpoint(
        checkpoint: &Checkpoint,
        score: &FittedScore,
        threshold: Option<f32>,
    ) -> Option<Self> {
        let TestLogits { known, labels, unknown, skipped } = checkpoint.test.as_ref()?;
        let needs_features = score.score().reads_features();
        let features = checkpoint.features.as_ref().and_then(|features| features.test.as_ref());
        if needs_features && features.is_none() {
            return None;
        }
        let features: Vec<Option<ArrayView2<f32>>> = match features.filter(|_| needs_features) {
            Some(features) => features.sets().map(|set| Some(set.view())).collect(),
            None => vec![None; 1 + unknown.len()],
        };
        let sample = Sample::new(checkpoint.anchors.classes(), unknown.len());
        let set = |name: &str, logits: &Array2<f32>, truth: Vec<i64>, features: Option<ArrayView2<f32>>| {
            let distances = checkpoint.anchors.distances(logits.view());
            let sampled: Vec<usize> = sample.positions(name, logits.nrows()).collect();
            ScoredSet {
                name: name.to_owned(),
                images: Vec::new(),
                truth,
                predicted: method::nearest(distances.view()),
                scores: vec![
                    score
                        .rejection(&Activations {
                            features,
                            logits: logits.view(),
                            distances: distances.view(),
                        })
                        .to_vec(),
                ],
                logits: logits.select(Axis(0), &sampled),
                sampled,
                features: None,
            }
        };
        let known = set(KNOWN, known, labels.clone(), features[0]);
        let unknown = unknown
            .iter()
            .zip(&features[1..])
            .map(|((name, logits), &features)| set(name, logits, vec![UNKNOWN; logits.nrows()], features));
        let unknown = unknown.collect();
        let score = score.score();
        let decision = threshold.map(|threshold| (score, threshold));
        Some(Self { scores: vec![score], decision, known, unknown, skipped: *skipped })
    }

    /// The known images, and then each unknown set.
    pub fn sets(&self) -> impl Iterator<Item = &ScoredSet> {
        iter::once(&self.known).chain(&self.unknown)
    }

    /// Mutable access to the sets, in the same order.
    pub fn sets_mut(&mut self) -> impl Iterator<Item = &mut ScoredSet> {
        iter::once(&mut self.known).chain(&mut self.unknown)
    }

    /// The number of images in all sets.
    #[must_use]
    pub fn images(&self) -> usize {
        self.sets().map(|set| set.truth.len()).sum()
    }

    /// The threshold of a score; `None` unless the model decides by it.
    #[must_use]
    pub fn threshold(&self, score: usize) -> Option<f32> {
        self.decision.filter(|(own, _)| *own == self.scores[score]).map(|(_, threshold)| threshold)
    }

    /// Whether the model decides by a score.
    #[must_use]
    pub fn decides_by(&self, score: RejectionScore) -> bool {
        self.decision.is_some_and(|(own, _)| own == score)
    }

    /// The report for one score. It uses the model's threshold, not that of the options.
    ///
    /// # Errors
    /// [`Error::Scores`] if none of the images of a set can be read; those of [`Report::new`].
    ///
    /// # Panics
    /// If there is no such score.
    pub fn report(&self, score: usize, options: &ReportOptions) -> Result<Report> {
        if let Some(set) = self.sets().find(|set| self.skipped > 0 && set.truth.is_empty()) {
            return Err(Error::Scores(format!("`{}`: none of its images can be read", set.name)));
        }
        let unknown: Vec<(&str, &[f32])> =
            self.unknown.iter().map(|set| (set.name.as_str(), &set.scores[score][..])).collect();
        let options = ReportOptions { threshold: self.threshold(score).map(f64::from), ..options.clone() };
        let Self { known, skipped, .. } = self;
        let report = Report::new(&known.scores[score], Some(&known.correct()), &unknown, &options)?;
        Ok(Report { skipped: *skipped, ..report })
    }

    /// How much the metrics of a second model differ from those of a first one on the same images, each with one of
    /// its scores and the report of that. What thresholds keep and catch is compared if both decide by their score.
    /// The options are those of both reports; `None` without a bootstrap.
    ///
    /// # Errors
    /// [`Error::Scores`] if a report is not of its evaluation, or the images or metrics differ; those of
    /// [`Report::new`].
    ///
    /// # Panics
    /// If one has no such score.
    pub fn comparison(
        first: (&Self, usize, &Report),
        second: (&Self, usize, &Report),
        options: &ReportOptions,
    ) -> Result<Option<Comparison>> {
        let sides = [first, second];
        let correct = sides.map(|(evaluation, ..)| evaluation.known.correct());
        let mut thresholds = sides.map(|(evaluation, score, _)| evaluation.threshold(score));
        if thresholds.contains(&None) {
            thresholds = [None; 2];
        }
        let scores = |side: usize| {
            let (evaluation, score, _) = sides[side];
            ReportScores {
                known: &evaluation.known.scores[score],
                correct: Some(&correct[side]),
                unknown: evaluation.unknown.iter().map(|set| &set.scores[score][..]).collect(),
                threshold: thresholds[side].map(f64::from),
            }
        };
        Comparison::new((first.2, &scores(0)), (second.2, &scores(1)), options)
    }

    /// Compares a score with that of another evaluation of the same images. Verdicts are compared only if
    /// both decide by the score, each by its own threshold; otherwise none differs. Returns `None` unless both
    /// have the score.
    #[must_use]
    pub fn agreement(&self, other: &Self, score: RejectionScore) -> Option<Agreement> {
        let decide = self.decides_by(score) && other.decides_by(score);
        let judgements = |evaluation: &Self| -> Option<Vec<Judgement>> {
            let index = evaluation.scores.iter().position(|one| *one == score)?;
            let threshold = evaluation.threshold(index).filter(|_| decide).unwrap_or(f32::INFINITY);
            let all = evaluation.sets().flat_map(|set| set.scores[index].iter().zip(&set.predicted));
            let judgement = |(&score, &label): (&f32, &usize)| Judgement {
                score,
                label,
                unknown: method::is_unknown(score, threshold),
            };
            Some(all.map(judgement).collect())
        };
        Some(Agreement::count(judgements(self)?, judgements(other)?))
    }
}

/// How many images of each set keep their logits.
struct Sample {
    known: usize,
    /// In each unknown set.
    unknown: usize,
}

impl Sample {
    fn new(classes: usize, unknown_sets: usize) -> Self {
        let all = SAMPLED.min(KEPT_LOGITS / classes.max(1));
        Self { known: all / 2, unknown: all / 2 / unknown_sets.max(1) }
    }

    /// The positions of the sampled images among `count`.
    fn positions(&self, set: &str, count: usize) -> impl Iterator<Item = usize> {
        let sampled = if set == KNOWN { self.known } else { self.unknown }.min(count);
        (0..count).filter(move |position| position * sampled / count != (position + 1) * sampled / count)
    }
}

impl ScoredSet {
    /// Whether each image was classified correctly.
    #[must_use]
    pub fn correct(&self) -> Vec<bool> {
        let is_correct = |(&predicted, &truth): (&usize, &i64)| i64::try_from(predicted) == Ok(truth);
        self.predicted.iter().zip(&self.truth).map(is_correct).collect()
    }
}

impl Agreement {
    /// Compares the outputs of two models for the same images.
    #[cfg(any(feature = "tract", feature = "onnxruntime"))]
    #[must_use]
    pub fn between(a: &Outputs, b: &Outputs) -> Self {
        let judgements = |outputs: &Outputs| -> Vec<Judgement> {
            let all = outputs.score.iter().zip(&outputs.label).zip(&outputs.unknown);
            all.map(|((&score, &label), &unknown)| Judgement { score, label, unknown }).collect()
        };
        Self::count(judgements(a), judgements(b))
    }

    fn count(a: Vec<Judgement>, b: Vec<Judgement>) -> Self {
        let mut agreement = Self::default();
        for (a, b) in a.into_iter().zip(b) {
            agreement.images += 1;
            let difference = match (a.score - b.score).abs() / a.score.abs().max(1.0) {
                // Both are infinite.
                _ if a.score == b.score => 0.0,
                difference if difference.is_nan() => f32::INFINITY,
                difference => difference,
            };
            agreement.greatest_score_difference = agreement.greatest_score_difference.max(difference);
            agreement.label_flips += usize::from(a.label != b.label);
            agreement.unknown_flips += usize::from(a.unknown != b.unknown);
        }
        agreement
    }
}

/// How [`evaluate`] and [`outputs`] treat images.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EvaluateOptions {
    /// Leave out images that cannot be read.
    pub skip_broken: bool,
    /// Keep the features of all images.
    pub keep_features: bool,
}

/// Runs the known images and the unknown sets through the model and computes `scores`. Data sets must be
/// opened with the model's input, and the known one must have its classes (see [`Dataset::align`]). Images
/// that cannot be read are left out if `skip_broken` is set. `progress` receives the number of images of each
/// finished batch.
///
/// # Errors
/// [`Error::BrokenImages`], with all that cannot be read, unless they are left out; [`Error::Classes`] if the
/// classes are others; [`Error::Setting`] if a set was opened with another input, or if the model's own score
/// is to be computed anew, but has a threshold for each class; those of [`Scorer::score`].
#[cfg(any(feature = "tract", feature = "onnxruntime"))]
pub fn evaluate(
    scorer: &Scorer,
    images: &TestImages,
    scores: &[Evaluated],
    options: EvaluateOptions,
    mut progress: impl FnMut(usize),
) -> Result<Evaluation> {
    let (decision, own) = (scorer.decision(), scorer.decision().score);
    let TestImages { known, other_classes, unknown } = images;
    check_classes(known, &decision.classes)?;
    if let Some(class) = other_classes.iter().find(|class| decision.classes.contains(class)) {
        let reason = format!("`{}` is a class of the model, not an unknown one", on_one_line(class));
        return Err(Error::Classes { path: known.origin().to_owned(), reason });
    }
    if decision.is_per_class()
        && scores.iter().any(|score| matches!(score, Evaluated::Other(other) if other.score() == own))
    {
        let reason = "is relative to a threshold for each class in this model";
        return Err(Error::setting("score", format!("`{own}`"), reason));
    }
    let mut errors = Vec::new();
    let classes = decision.classes.len();
    let sample = Sample::new(classes, unknown.len());
    let mut score_all = |name: &str, images: &Dataset| {
        let mut set = ScoredSet {
            name: name.to_owned(),
            scores: scores.iter().map(|_| Vec::with_capacity(images.len())).collect(),
            logits: Array2::zeros((0, classes)),
            ..ScoredSet::default()
        };
        let mut sampled = sample.positions(name, images.len()).peekable();
        run(scorer, images, |batch| {
            for (row, &index) in batch.indices.iter().enumerate() {
                // An image that cannot be read is skipped.
                while sampled.next_if(|&position| position < index).is_some() {}
                if sampled.next_if_eq(&index).is_some() {
                    set.sampled.push(set.truth.len() + row);
                    set.logits.push_row(batch.outputs.logits.row(row)).expect("one logit per class");
                }
            }
            if options.keep_features {
                append(&mut set.features, batch.outputs.features.as_ref());
            }
            let activations = batch.outputs.activations();
            for (values, score) in set.scores.iter_mut().zip(scores) {
                match score {
                    Evaluated::Own => values.extend(&batch.outputs.score),
                    Evaluated::Other(score) => values.extend(score.rejection(&activations)),
                }
            }
            set.predicted.extend(&batch.outputs.label);
            set.images.extend(batch.indices.iter().map(|&index| images.name(index)));
            set.truth.extend(batch.indices.iter().map(|&index| images.labels()[index]));
            progress(batch.indices.len() + batch.errors.len());
            errors.extend(batch.errors);
        })?;
        Ok(set)
    };
    let known = score_all(KNOWN, known)?;
    let unknown = unknown.iter().map(|set| score_all(&set.name, &set.images)).collect::<Result<Vec<_>>>()?;
    if !errors.is_empty() && !options.skip_broken {
        return Err(Error::BrokenImages { errors });
    }
    let scores = scores.iter().map(|score| match score {
        Evaluated::Own => own,
        Evaluated::Other(score) => score.score(),
    });
    let decision = Some((own, scorer.threshold()));
    Ok(Evaluation { scores: scores.collect(), decision, known, unknown, skipped: errors.len() })
}

/// Checks that the classes of labelled images are those of a model.
#[cfg(any(feature = "tract", feature = "onnxruntime"))]
pub(crate) fn check_classes(images: &Dataset, classes: &[String]) -> Result<()> {
    if images.classes() == classes {
        return Ok(());
    }
    let reason = "its classes are not those of the model, in their order".to_owned();
    Err(Error::Classes { path: images.origin().to_owned(), reason })
}

/// A network's outputs for N images of a data set, in order.
#[derive(Debug, Clone, PartialEq)]
pub struct DatasetOutputs {
    /// The indices of the images in the data set.
    pub indices: Vec<usize>,
    /// Logits `[N, C]`.
    pub logits: Array2<f32>,
    /// Rejection scores `[N]`; larger = more likely unknown.
    pub score: Vec<f32>,
    /// The classes of the nearest anchors `[N]`.
    pub label: Vec<usize>,
    /// Features `[N, F]`; `None` unless they are kept and an output of the model.
    pub features: Option<Array2<f32>>,
}

/// Runs a data set's images through the model. Images that cannot be read are left out if `skip_broken` is
/// set. `progress` receives the number of images of each finished batch.
///
/// # Errors
/// [`Error::BrokenImages`], with all that cannot be read, unless they are left out and others remain;
/// [`Error::Setting`] if the set was opened with another input than the model's; those of [`Scorer::score`].
#[cfg(any(feature = "tract", feature = "onnxruntime"))]
pub fn outputs(
    scorer: &Scorer,
    images: &Dataset,
    options: EvaluateOptions,
    mut progress: impl FnMut(usize),
) -> Result<DatasetOutputs> {
    let logits = Array2::zeros((0, scorer.decision().classes.len()));
    let mut all =
        DatasetOutputs { indices: Vec::new(), logits, score: Vec::new(), label: Vec::new(), features: None };
    let mut errors = Vec::new();
    run(scorer, images, |batch| {
        all.logits.append(Axis(0), batch.outputs.logits.view()).expect("one row per image");
        all.score.extend(&batch.outputs.score);
        all.label.extend(&batch.outputs.label);
        if options.keep_features {
            append(&mut all.features, batch.outputs.features.as_ref());
        }
        progress(batch.indices.len() + batch.errors.len());
        all.indices.extend(batch.indices);
        errors.extend(batch.errors);
    })?;
    if !errors.is_empty() && (!options.skip_broken || all.indices.is_empty()) {
        return Err(Error::BrokenImages { errors });
    }
    Ok(all)
}

/// Adds the features of further images.
#[cfg(any(feature = "tract", feature = "onnxruntime"))]
fn append(all: &mut Option<Array2<f32>>, further: Option<&Array2<f32>>) {
    if let Some(further) = further {
        let all = all.get_or_insert_with(|| Array2::zeros((0, further.ncols())));
        all.append(Axis(0), further.view()).expect("one row per image");
    }
}

/// The rejection scores of a data set's images, in order, except those that cannot be read. `take` receives
/// the indices and the scores of each finished batch, and the errors of its other images.
///
/// # Errors
/// [`Error::Setting`] if the set was opened with another input than the model's; those of [`Scorer::score`].
#[cfg(any(feature = "tract", feature = "onnxruntime"))]
pub fn scores(
    scorer: &Scorer,
    images: &Dataset,
    mut take: impl FnMut(&[usize], Vec<f32>, Vec<Error>),
) -> Result<()> {
    run(scorer, images, |batch| take(&batch.indices, batch.outputs.score.to_vec(), batch.errors))
}

/// The outputs for the images of a batch that can be read.
#[cfg(any(feature = "tract", feature = "onnxruntime"))]
struct ScoredBatch {
    /// The indices of these images in the data set.
    indices: Vec<usize>,
    outputs: Outputs,
    /// The errors of the other images.
    errors: Vec<Error>,
}

/// Images as a model takes them.
#[cfg(any(feature = "tract", feature = "onnxruntime"))]
enum Read {
    Pixels(Array4<u8>),
    Originals(Vec<RgbImage>),
}

/// Runs all images through a model in batches. Images are decoded while the network runs.
#[cfg(any(feature = "tract", feature = "onnxruntime"))]
fn run(scorer: &Scorer, images: &Dataset, mut take: impl FnMut(ScoredBatch)) -> Result<()> {
    if !images.input().has_same_pixels(&scorer.decision().input) {
        let [found, expected] = [images.input(), &scorer.decision().input].map(Input::resizing);
        let value = format!("`{}`", shown(images.origin()));
        return Err(Error::setting("images", value, format!("are read {found}; the model needs {expected}")));
    }
    let indices: Vec<usize> = (0..images.len()).collect();
    let batches = indices.chunks(scorer.preferred_batch());
    // Nodes that resize get the images as they are.
    let read = |batch: &[usize]| {
        if scorer.resizes() {
            images.readable_originals(batch).map(Read::Originals)
        } else {
            images.readable_batch(batch).map(Read::Pixels)
        }
    };
    prefetch(
        batches,
        |batch| (batch, read(batch)),
        |decoded| {
            for (batch, Readable { positions, images, mut errors }) in decoded {
                // Such an image may be intact.
                if let Some(position) = errors.iter().position(Error::is_of_the_system) {
                    return Err(errors.swap_remove(position));
                }
                let indices = positions.into_iter().map(|position| batch[position]).collect();
                let outputs = match images {
                    Read::Pixels(pixels) => scorer.score_u8(pixels.view()),
                    Read::Originals(images) => scorer.score_originals(&images),
                };
                take(ScoredBatch { indices, outputs: outputs?, errors });
            }
            Ok(())
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::method::LogitScore;

    #[test]
    fn a_score_is_compared_with_the_same_score() {
        let energy = RejectionScore::Single(LogitScore::ENERGY.into());
        let cac = RejectionScore::Single(LogitScore::Cac.into());
        let of = |scores: &[RejectionScore], values: &[f32]| Evaluation {
            scores: scores.to_vec(),
            decision: None,
            known: ScoredSet {
                truth: vec![0],
                predicted: vec![0],
                scores: values.iter().map(|&value| vec![value]).collect(),
                ..ScoredSet::default()
            },
            unknown: Vec::new(),
            skipped: 0,
        };
        let (both, one) = (of(&[energy, cac], &[0.25, 0.5]), of(&[cac], &[0.75]));
        assert_eq!(both.agreement(&one, cac).unwrap().greatest_score_difference, 0.25);
        assert_eq!(both.agreement(&one, energy), None);
        assert_eq!(one.agreement(&both, energy), None);
    }

    #[test]
    fn images_with_other_classes_or_verdicts_are_counted() {
        let cac = RejectionScore::Single(LogitScore::Cac.into());
        let of = |threshold: f32, predicted: [usize; 5], values: [f32; 5]| Evaluation {
            scores: vec![cac],
            decision: Some((cac, threshold)),
            known: ScoredSet {
                truth: vec![0; 5],
                predicted: predicted.to_vec(),
                scores: vec![values.to_vec()],
                ..ScoredSet::default()
            },
            unknown: Vec::new(),
            skipped: 0,
        };
        // Unknown are the last two, and the first and the last.
        let one = of(1.0, [0, 1, 2, 0, 1], [0.5, 0.75, 0.25, 1.5, 2.0]);
        let other = of(0.75, [0, 1, 2, 0, 2], [0.875, 0.75, 0.25, 0.75, 2.0]);
        let expected =
            Agreement { images: 5, greatest_score_difference: 0.5, label_flips: 1, unknown_flips: 2 };
        assert_eq!(one.agreement(&other, cac), Some(expected));
        let undecided = Evaluation { decision: None, ..other };
        assert_eq!(one.agreement(&undecided, cac), Some(Agreement { unknown_flips: 0, ..expected }));
    }
}
