//! `toolkit metrics`

use std::io::{Write, stdout};

use cac::{
    metrics::{Kind, Stream},
    report::Report,
    score_file::{self, Entry},
};

use super::print_json;
use crate::cli::MetricsArgs;

/// Prints the table of scores made elsewhere.
pub fn run(args: &MetricsArgs) -> anyhow::Result<()> {
    let right = |entry: &Entry| entry.prediction.map(|prediction| prediction == entry.label);
    if let Some(bins) = args.stream {
        let mut stream = Stream::new(bins as usize);
        let mut is_judged = true;
        score_file::read(&args.file, &args.column, |entry| {
            let right = right(&entry);
            is_judged &= entry.label < 0 || right.is_some();
            let known = Kind::Known { right: right.unwrap_or(true) };
            stream.push(entry.score, if entry.label < 0 { Kind::Unknown } else { known })
        })?;
        let bounded = stream.finish(is_judged)?;
        return if args.json { print_json(&bounded) } else { Ok(write!(stdout(), "{bounded}")?) };
    }
    let (mut known, mut verdicts): (Vec<f64>, Vec<bool>) = (Vec::new(), Vec::new());
    let mut unknown: Vec<(String, Vec<f64>)> = Vec::new();
    score_file::read(&args.file, &args.column, |entry| {
        if entry.label >= 0 {
            known.push(entry.score);
            verdicts.extend(right(&entry));
            return Ok(());
        }
        let name = if entry.set.is_empty() { "unknown" } else { entry.set };
        match unknown.iter_mut().find(|(other, _)| other == name) {
            Some((_, scores)) => scores.push(entry.score),
            None => unknown.push((name.to_owned(), vec![entry.score])),
        }
        Ok(())
    })?;
    let right = (verdicts.len() == known.len()).then_some(&verdicts[..]);
    let unknown: Vec<(&str, &[f64])> =
        unknown.iter().map(|(name, scores)| (&name[..], &scores[..])).collect();
    let report = Report::new(&known, right, &unknown, &args.report.settings(args.threshold))?;
    if args.json { print_json(&report) } else { Ok(write!(stdout(), "{report}")?) }
}
