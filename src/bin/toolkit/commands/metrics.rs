//! `toolkit metrics`

use std::{collections::HashMap, io::Write, path::Path};

use cac::{
    eval::Evaluated,
    files::{
        features::FeatureFile,
        scores::{self, Entry},
    },
    method::FittedScore,
    metrics::{Kind, Stream},
    report::Report,
};

use super::{eval::fitted, print_json};
use crate::{
    cli::{self, MetricsArgs, ScoreArg},
    terminal::stdout,
};

/// Prints the table of a file of scores.
pub fn run(args: &MetricsArgs) -> anyhow::Result<()> {
    match (&args.features, &args.file) {
        (Some(features), _) => of_features(features, args),
        (None, Some(file)) => of_scores(file, args),
        (None, None) => unreachable!("one of them is required"),
    }
}

/// Prints a table for each score of features.
fn of_features(path: &Path, args: &MetricsArgs) -> anyhow::Result<()> {
    let features = FeatureFile::read(path)?;
    let is_all = args.score.contains(&ScoreArg::All);
    let scores = fitted(Some(&features), &cli::scores(&args.score, None), None, is_all)?;
    let scores: Vec<FittedScore> = scores
        .into_iter()
        .map(|score| match score {
            Evaluated::Other(score) => score,
            Evaluated::Own => unreachable!("a file of features has no own score"),
        })
        .collect();
    let evaluation = features.evaluation(&scores);
    for (index, score) in evaluation.scores.iter().enumerate() {
        let report = evaluation.report(index, &args.report.options(None))?;
        if args.json {
            let mut line = serde_json::to_value(report)?;
            line["score"] = serde_json::to_value(score)?;
            print_json(&line)?;
        } else {
            writeln!(stdout(), "score {score}\n{report}")?;
        }
    }
    Ok(())
}

fn of_scores(file: &Path, args: &MetricsArgs) -> anyhow::Result<()> {
    let correct = |entry: &Entry| entry.prediction.map(|prediction| prediction == entry.label);
    if let Some(bins) = args.stream {
        let mut stream = Stream::new(bins as usize);
        let mut is_judged = true;
        scores::read(file, &args.column, |entry| {
            let correct = correct(&entry);
            is_judged &= entry.label < 0 || correct.is_some();
            let known = Kind::Known { correct: correct.unwrap_or(true) };
            stream.push(entry.score, if entry.label < 0 { Kind::Unknown } else { known })
        })?;
        let bounded = stream.finish(is_judged)?;
        return if args.json { print_json(&bounded) } else { Ok(write!(stdout(), "{bounded}")?) };
    }
    let (mut known, mut verdicts): (Vec<f64>, Vec<bool>) = (Vec::new(), Vec::new());
    let mut unknown: Vec<(String, Vec<f64>)> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    scores::read(file, &args.column, |entry| {
        if entry.label >= 0 {
            known.push(entry.score);
            verdicts.extend(correct(&entry));
            return Ok(());
        }
        let name = if entry.set.is_empty() { "unknown" } else { entry.set };
        match places.get(name) {
            Some(&place) => unknown[place].1.push(entry.score),
            None => {
                places.insert(name.to_owned(), unknown.len());
                unknown.push((name.to_owned(), vec![entry.score]));
            }
        }
        Ok(())
    })?;
    let correct = (verdicts.len() == known.len()).then_some(&verdicts[..]);
    let unknown: Vec<(&str, &[f64])> =
        unknown.iter().map(|(name, scores)| (&name[..], &scores[..])).collect();
    let report = Report::new(&known, correct, &unknown, &args.report.options(args.threshold))?;
    if args.json { print_json(&report) } else { Ok(write!(stdout(), "{report}")?) }
}
