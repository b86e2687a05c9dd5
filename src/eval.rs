//! Scores whole data sets with a model and measures the result.

use std::{
    sync::mpsc,
    time::{Duration, Instant},
};

use ndarray::{Array2, Axis};

use crate::{
    cac::{self, Score, Scored},
    dataset::{Dataset, UnknownSet},
    error::Result,
    report::{self, Report},
    scorer::{Scorer, Scores},
};

/// What a model said of known and unknown pictures, measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// What ran the network.
    pub provider: String,
    /// Pictures scored.
    pub pictures: usize,
    /// Reading, resizing and scoring them took this long.
    pub seconds: f64,
    /// One table for each score that was asked for.
    pub tables: Vec<Table>,
}

/// The metrics of one rejection score.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Table {
    /// The score.
    pub score: Score,
    /// The threshold on it; only the model's own score has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f32>,
    /// The metrics.
    #[serde(flatten)]
    pub report: Report,
    /// What the model said of the known pictures, then of each unknown set.
    #[serde(skip)]
    pub scored: Vec<Scored>,
}

/// How far two tables of the same pictures agree.
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

impl Evaluation {
    /// Compares with another evaluation of the same pictures, table by table.
    #[must_use]
    pub fn agreement(&self, other: &Self) -> Vec<Agreement> {
        self.tables.iter().zip(&other.tables).map(|(a, b)| Agreement::between(a, b)).collect()
    }
}

impl Agreement {
    /// Compares two tables of the same pictures, each with its own threshold.
    #[must_use]
    pub fn between(a: &Table, b: &Table) -> Self {
        fn pictures(table: &Table) -> impl Iterator<Item = Judgement> {
            let threshold = table.threshold.unwrap_or(f32::INFINITY);
            let picture = move |(&score, &label)| Judgement {
                score,
                label,
                unknown: cac::is_unknown(score, threshold),
            };
            table.scored.iter().flat_map(|set| set.scores.iter().zip(&set.labels)).map(picture)
        }
        Self::count(pictures(a), pictures(b))
    }

    /// Compares what two models say of the same pictures.
    #[must_use]
    pub fn between_scores(a: &Scores, b: &Scores) -> Self {
        fn pictures(scores: &Scores) -> impl Iterator<Item = Judgement> {
            let picture = |((&score, &label), &unknown)| Judgement { score, label, unknown };
            scores.score.iter().zip(&scores.label).zip(&scores.unknown).map(picture)
        }
        Self::count(pictures(a), pictures(b))
    }

    fn count(a: impl Iterator<Item = Judgement>, b: impl Iterator<Item = Judgement>) -> Self {
        let mut agreement = Self::default();
        for (a, b) in a.zip(b) {
            agreement.pictures += 1;
            let difference = (a.score - b.score).abs() / a.score.abs().max(1.0);
            let difference = if difference.is_nan() { f32::INFINITY } else { difference };
            agreement.greatest_score_difference = agreement.greatest_score_difference.max(difference);
            agreement.label_flips += usize::from(a.label != b.label);
            agreement.unknown_flips += usize::from(a.unknown != b.unknown);
        }
        agreement
    }
}

/// What is compared of a picture.
struct Judgement {
    score: f32,
    label: usize,
    unknown: bool,
}

/// Runs the known pictures, whose labels count in the order of the model's classes (see
/// [`Dataset::align`]), and the unknown sets through the model once, and measures every score asked for: the
/// model's own where there is none. `progress` is called with the number of pictures done.
///
/// The threshold of the settings is not used: that of the scorer is, for the model's own score.
///
/// # Errors
/// Those of reading the pictures, of [`Scorer::score`] and of [`Report::new`].
pub fn evaluate(
    scorer: &Scorer,
    known: &Dataset,
    unknown: &[UnknownSet],
    scores: &[Score],
    settings: &report::Settings,
    mut progress: impl FnMut(usize),
) -> Result<Evaluation> {
    let names: Vec<&str> = unknown.iter().map(|set| set.name.as_str()).collect();
    Report::check(&names, settings)?;
    let own = scorer.manifest().score;
    let scores = if scores.is_empty() { &[own] } else { scores };
    let start = Instant::now();
    let mut done = 0;
    let mut score_all = |pictures: &Dataset| {
        score(scorer, pictures, scores, |more| {
            done += more;
            progress(done);
        })
    };
    let known_scored = score_all(known)?;
    let unknown_scored = unknown.iter().map(|set| score_all(&set.pictures)).collect::<Result<Vec<_>>>()?;
    let seconds = start.elapsed().max(Duration::from_nanos(1)).as_secs_f64();

    let table = |(index, &score): (usize, &Score)| {
        let known_scored = known_scored[index].clone();
        let sets: Vec<(&str, Scored)> = unknown
            .iter()
            .zip(&unknown_scored)
            .map(|(set, scored)| (&*set.name, scored[index].clone()))
            .collect();
        let threshold = (score == own).then(|| scorer.threshold());
        let settings = report::Settings { threshold: threshold.map(f64::from), ..settings.clone() };
        let report = Report::of(&known_scored, known.labels(), &sets, &settings)?;
        let scored = [known_scored].into_iter().chain(sets.into_iter().map(|(_, set)| set)).collect();
        Ok(Table { score, threshold, report, scored })
    };
    Ok(Evaluation {
        provider: scorer.runtime(),
        pictures: done,
        seconds,
        tables: scores.iter().enumerate().map(table).collect::<Result<Vec<_>>>()?,
    })
}

/// Scores every picture of a data set in its order, once for each of the scores. `progress` is called with the
/// number of pictures of each finished batch.
///
/// # Errors
/// Those of reading the pictures and of [`Scorer::score`].
pub fn score(
    scorer: &Scorer,
    pictures: &Dataset,
    scores: &[Score],
    mut progress: impl FnMut(usize),
) -> Result<Vec<Scored>> {
    let mut scored = vec![Scored::default(); scores.len()];
    run(scorer, pictures, |said| {
        for (scored, &score) in scored.iter_mut().zip(scores) {
            if score == scorer.manifest().score {
                scored.scores.extend(&said.score);
            } else {
                scored.scores.extend(score.rejection(said.logits.view(), said.distances.view()));
            }
            scored.labels.extend(&said.label);
        }
        progress(said.label.len());
    })?;
    Ok(scored)
}

/// The logits `[N, C]` of every picture of a data set in its order; `progress` as for [`score`].
///
/// # Errors
/// Those of reading the pictures and of [`Scorer::score`].
pub fn logits(scorer: &Scorer, pictures: &Dataset, mut progress: impl FnMut(usize)) -> Result<Array2<f32>> {
    let mut logits = Array2::zeros((0, scorer.manifest().classes.len()));
    run(scorer, pictures, |said| {
        logits.append(Axis(0), said.logits.view()).expect("one row a picture");
        progress(said.label.len());
    })?;
    Ok(logits)
}

/// Runs all pictures through a model, batch by batch. They are read and resized on another thread while the
/// network runs.
fn run(scorer: &Scorer, pictures: &Dataset, mut take: impl FnMut(&Scores)) -> Result<()> {
    let indices: Vec<usize> = (0..pictures.len()).collect();
    let batches = indices.chunks(scorer.preferred_batch());
    std::thread::scope(|scope| {
        let (sender, receiver) = mpsc::sync_channel(1);
        scope.spawn(move || {
            for batch in batches {
                let images = pictures.images(batch);
                let is_last = images.is_err();
                // Nobody receives any more after an error of the scorer.
                if sender.send(images).is_err() || is_last {
                    break;
                }
            }
        });
        for images in receiver {
            take(&scorer.score(images?.view())?);
        }
        Ok(())
    })
}
