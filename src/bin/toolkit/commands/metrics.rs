//! `toolkit metrics`

use std::{
    collections::HashMap,
    io::{Write, stdout},
};

use cac::{
    files::scores::{self, Entry},
    metrics::{Kind, Stream},
    report::Report,
};

use super::print_json;
use crate::cli::MetricsArgs;

/// Prints the table of a file of scores.
pub fn run(args: &MetricsArgs) -> anyhow::Result<()> {
    let correct = |entry: &Entry| entry.prediction.map(|prediction| prediction == entry.label);
    if let Some(bins) = args.stream {
        let mut stream = Stream::new(bins as usize);
        let mut is_judged = true;
        scores::read(&args.file, &args.column, |entry| {
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
    scores::read(&args.file, &args.column, |entry| {
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
