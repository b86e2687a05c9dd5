//! Scores whole data sets with a model and measures the result.

use std::{
    sync::mpsc,
    time::{Duration, Instant},
};

use ndarray::Array4;

use crate::{
    cac,
    dataset::{Dataset, UnknownSet},
    error::Result,
    preprocess,
    report::{Report, Scored},
    scorer::Scorer,
};

/// The table with how it was made.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Evaluation {
    /// The metrics.
    #[serde(flatten)]
    pub report: Report,
    /// What ran the network.
    pub provider: String,
    /// The threshold on the rejection score.
    pub threshold: f32,
    /// Pictures scored.
    pub pictures: usize,
    /// Reading, resizing and scoring them took this long.
    pub seconds: f64,
    /// What the model said of the known pictures, then of each unknown set.
    #[serde(skip)]
    pub scored: Vec<Scored>,
}

/// How far two evaluations of the same pictures agree.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize)]
pub struct Agreement {
    /// Pictures compared.
    pub pictures: usize,
    /// The greatest difference of a score, relative where the score is above 1.
    pub greatest_score_difference: f32,
    /// Pictures that were given different classes.
    pub label_flips: usize,
    /// Pictures that only one of the two calls unknown.
    pub unknown_flips: usize,
}

impl Agreement {
    /// Compares two evaluations of the same pictures, each with its own threshold.
    #[must_use]
    pub fn between(a: &Evaluation, b: &Evaluation) -> Self {
        let pictures = |evaluation: &Evaluation| -> Vec<(f32, usize, bool)> {
            let of_set = |set: &Scored| -> Vec<(f32, usize, bool)> {
                let unknown = |&score: &f32| cac::is_unknown(score, evaluation.threshold);
                set.scores
                    .iter()
                    .zip(&set.labels)
                    .map(|(score, &label)| (*score, label, unknown(score)))
                    .collect()
            };
            evaluation.scored.iter().flat_map(of_set).collect()
        };
        let mut agreement = Self::default();
        for (a, b) in pictures(a).into_iter().zip(pictures(b)) {
            agreement.pictures += 1;
            let difference = (a.0 - b.0).abs() / a.0.abs().max(1.0);
            let difference = if difference.is_nan() { f32::INFINITY } else { difference };
            agreement.greatest_score_difference = agreement.greatest_score_difference.max(difference);
            agreement.label_flips += usize::from(a.1 != b.1);
            agreement.unknown_flips += usize::from(a.2 != b.2);
        }
        agreement
    }
}

/// Scores the known pictures, whose labels count in the order of the model's classes (see
/// [`Dataset::align`]), and the unknown sets; `progress` is called with the number of pictures done.
///
/// # Errors
/// Those of reading the pictures and of [`Scorer::score`].
pub fn evaluate(
    scorer: &Scorer,
    known: &Dataset,
    unknown: &[UnknownSet],
    mut progress: impl FnMut(usize),
) -> Result<Evaluation> {
    let start = Instant::now();
    let mut done = 0;
    let mut run = |pictures: &Dataset| {
        score(scorer, pictures, |more| {
            done += more;
            progress(done);
        })
    };
    let known_scored = run(known)?;
    let unknown_scored =
        unknown.iter().map(|set| Ok((set.name.as_str(), run(&set.pictures)?))).collect::<Result<Vec<_>>>()?;
    let seconds = start.elapsed().max(Duration::from_nanos(1)).as_secs_f64();
    let report = Report::new(&known_scored, known.labels(), &unknown_scored, Some(scorer.threshold()))?;
    let scored = [known_scored].into_iter().chain(unknown_scored.into_iter().map(|(_, set)| set)).collect();
    Ok(Evaluation {
        report,
        scored,
        provider: scorer.runtime(),
        threshold: scorer.threshold(),
        pictures: known.len() + unknown.iter().map(|set| set.pictures.len()).sum::<usize>(),
        seconds,
    })
}

/// Scores every picture of a data set in its order. Pictures are read and resized on another thread while
/// the network runs. `progress` is called with the number of pictures of each finished batch.
///
/// # Errors
/// Those of reading the pictures and of [`Scorer::score`].
pub fn score(scorer: &Scorer, pictures: &Dataset, mut progress: impl FnMut(usize)) -> Result<Scored> {
    let input = scorer.manifest().input;
    let indices: Vec<usize> = (0..pictures.len()).collect();
    let batches = indices.chunks(scorer.preferred_batch());
    let mut scored = Scored::default();
    std::thread::scope(|scope| {
        let (sender, receiver) = mpsc::sync_channel(1);
        scope.spawn(move || {
            for batch in batches {
                let pixels = pictures.batch(batch).map(|pixels| (batch.len(), pixels));
                let is_last = pixels.is_err();
                // Nobody receives any more after an error of the scorer.
                if sender.send(pixels).is_err() || is_last {
                    break;
                }
            }
        });
        for batch in receiver {
            let (length, pixels) = batch?;
            let values = pixels.into_iter().map(preprocess::unit).collect();
            let images = Array4::from_shape_vec((length, 3, input.height, input.width), values)
                .map_err(|_| shape_error(pictures, input.height, input.width))?;
            let scores = scorer.score(images.view())?;
            scored.scores.extend(scores.score);
            scored.labels.extend(scores.label);
            progress(length);
        }
        Ok(scored)
    })
}

fn shape_error(pictures: &Dataset, height: usize, width: usize) -> crate::Error {
    crate::Error::Shape {
        what: "a picture of the data set",
        found: vec![pictures.picture_len()],
        expected: format!("3 x {height} x {width}"),
    }
}
