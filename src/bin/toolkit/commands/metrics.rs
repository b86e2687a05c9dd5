//! `toolkit metrics`

use std::{io::Write, path::Path};

use anyhow::anyhow;
use cac::{
    eval::{
        feature_file::FeatureFile,
        score_file::{self, Entry, ScoreSets},
    },
    metrics::{Kind, Stream},
    report::Report,
    text::{on_one_line, shown},
};

use super::{eval::fitted, print_json};
use crate::{
    cli::{self, MetricsArgs, ScoreArg},
    terminal::{say, stdout},
};

/// Prints the table of a score file.
pub fn run(args: &MetricsArgs) -> anyhow::Result<()> {
    match (&args.features, &args.file) {
        (Some(features), _) => of_features(features, args),
        (None, Some(file)) => of_scores(file, args),
        (None, None) => unreachable!("one of them is required"),
    }
}

/// Prints a table for each score computed from features.
fn of_features(path: &Path, args: &MetricsArgs) -> anyhow::Result<()> {
    let features = FeatureFile::read(path)?;
    let is_all = args.score.contains(&ScoreArg::All);
    let mut scores = Vec::new();
    for score in cli::scores(&args.score, None) {
        scores.extend(fitted(Some(&features), score, is_all)?);
    }
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

/// Why there is no accuracy.
pub fn without_accuracy(missing: usize) -> String {
    format!("no accuracy or OSCR: {missing} known images have no prediction")
}

fn of_scores(file: &Path, args: &MetricsArgs) -> anyhow::Result<()> {
    let correct = |entry: &Entry| entry.prediction.map(|prediction| prediction == entry.label);
    if let Some(bins) = args.stream {
        let mut stream = Stream::new(bins as usize);
        let (mut judged, mut missing) = (0, 0);
        score_file::read(file, &args.column, |entry| {
            let correct = correct(&entry);
            if entry.label >= 0 {
                *if correct.is_some() { &mut judged } else { &mut missing } += 1;
            }
            let known = Kind::Known { correct: correct.unwrap_or(true) };
            stream.push(entry.score, if entry.label < 0 { Kind::Unknown } else { known })
        })?;
        let bounded = stream.finish(missing == 0)?;
        if judged > 0 && missing > 0 {
            say(without_accuracy(missing));
        }
        return if args.json { print_json(&bounded) } else { Ok(write!(stdout(), "{bounded}")?) };
    }
    let sets = score_file::read_sets(file, &args.column)?;
    let options = args.report.options(args.threshold.map(|given| sets.threshold(given)));
    let ScoreSets { tested, unjudged, .. } = sets;
    let names: Vec<&str> = tested.unknown.iter().map(|set| set.name.as_str()).collect();
    Report::check(&names, &options).map_err(|error| anyhow!("`{}`: {error}", shown(file)))?;
    let report = tested.report(&options)?;
    for row in report.rows.iter().take(names.len()).filter(|row| row.is_reversed()) {
        say(format_args!(
            "the AUROC for `{}` is below 50 %: is the score the right way round? Larger must mean more likely unknown",
            on_one_line(&row.name)
        ));
    }
    if unjudged > 0 {
        say(without_accuracy(unjudged));
    }
    if args.json { print_json(&report) } else { Ok(write!(stdout(), "{report}")?) }
}
