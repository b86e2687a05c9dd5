//! The results of a model on a provider, as tables, as JSON and for a page.

use std::{
    collections::{BTreeMap, HashMap},
    io::Write,
    path::{Path, PathBuf},
};

use cac::{
    data::Degradation,
    eval::{Agreement, ClassCounts, Evaluation, TestScores, balanced_accuracy, weakest},
    method::RejectionScore,
    page::{Projection, Provenance, Subject},
    report::{Comparison, Report, ReportOptions},
    text::{on_one_line, per_cent},
};
use serde_json::{Value, json};

use super::{super::print_json, contender::Contender, requirement::Requirement};
use crate::{
    cli::EvaluationArgs,
    terminal::{say, stdout},
};

/// The result of a contender.
pub struct Measured<'a> {
    pub contender: &'a Contender<'a>,
    pub evaluation: &'a Evaluation,
    /// The report of each score.
    pub reports: &'a [cac::Result<Report>],
    /// For each score, the difference from the first contender, if that is another model.
    pub differences: Vec<Option<Comparison>>,
    /// The seconds that scoring took.
    pub seconds: f64,
    /// The operators that ran, by execution provider.
    pub operators: BTreeMap<String, usize>,
    /// The classes of the data set that are unknown.
    pub other_classes: &'a [String],
    /// How the images are degraded.
    pub degraded: Option<Degradation>,
    /// What is odd about the images, each in words.
    pub remarks: Vec<String>,
    /// The first contender and its result, unless this is it.
    pub against: Option<First<'a>>,
}

/// The first contender and its result.
#[derive(Clone, Copy)]
pub struct First<'a> {
    pub contender: &'a Contender<'a>,
    pub evaluation: &'a Evaluation,
    pub reports: &'a [cac::Result<Report>],
}

impl First<'_> {
    /// How much another model differs, for each of its scores: on the same score or, without one, on the scores by
    /// which both decide.
    pub fn differences(
        &self,
        contender: &Contender,
        evaluation: &Evaluation,
        reports: &[cac::Result<Report>],
        options: &ReportOptions,
    ) -> cac::Result<Vec<Option<Comparison>>> {
        let is_other = self.contender.sha256 != contender.sha256;
        let place = |wanted: &dyn Fn(RejectionScore) -> bool| {
            self.evaluation.scores.iter().position(|&score| wanted(score))
        };
        let difference = |(index, report): (usize, &cac::Result<Report>)| {
            let score = evaluation.scores[index];
            let decisive = || place(&|one| self.evaluation.decides_by(one) && evaluation.decides_by(score));
            let of_first = place(&|one| one == score).or_else(decisive).filter(|_| is_other);
            let Some(of_first) = of_first else { return Ok(None) };
            let (Ok(first), Ok(report)) = (&self.reports[of_first], report) else { return Ok(None) };
            Evaluation::comparison((self.evaluation, of_first, first), (evaluation, index, report), options)
        };
        reports.iter().enumerate().map(difference).collect()
    }
}

impl Measured<'_> {
    /// The subjects of a page, one per score. `names` names the models.
    pub fn subjects(&self, names: &HashMap<PathBuf, String>, args: &EvaluationArgs) -> Vec<Subject> {
        let Contender { model, scorer, sha256, anchors, .. } = self.contender;
        let mut name = model.map_or("the built-in model".to_owned(), |model| names[model].clone());
        if args.provider.len() > 1 {
            name = format!("{name} on {}", scorer.provider());
        }
        let manifest = scorer.manifest();
        let subject = |(score, report): (usize, &cac::Result<Report>)| Subject {
            keep: self.evaluation.threshold(score).and(scorer.keep()),
            classes: manifest.decision.classes.clone(),
            // The logits are the same for every score.
            projection: anchors
                .as_ref()
                .filter(|_| score == 0)
                .and_then(|anchors| Projection::new(self.evaluation, anchors)),
            origin: Some(Provenance {
                manifest: manifest.clone(),
                sha256: Some(sha256.clone()),
                provider: Some(scorer.provider()),
            }),
            degradation: self.degraded,
            remarks: self.remarks.clone(),
            agreement: self.agreement(score).map(|(_, agreement)| agreement),
            difference: self.differences[score].clone(),
            ..Subject::of_evaluation(&name, self.evaluation, score, report)
        };
        self.reports.iter().enumerate().map(subject).collect()
    }

    /// The reports, each with the name of its table.
    fn tables(&self) -> impl Iterator<Item = (&cac::Result<Report>, String)> {
        let degraded = self.degraded.map(|degradation| format!(", images degraded: {}", degradation.name()));
        let degraded = degraded.unwrap_or_default();
        let name = move |score| {
            format!("{}, score {}{degraded}", self.contender.name, self.evaluation.scores[score])
        };
        self.reports.iter().enumerate().map(move |(score, report)| (report, name(score)))
    }

    /// Why there are tables without metrics.
    pub fn faults(&self) -> Vec<String> {
        let fault = |(report, table): (&cac::Result<Report>, String)| {
            report.as_ref().err().map(|error| format!("{error} ({table})"))
        };
        self.tables().filter_map(fault).collect()
    }

    /// The unmet requirements of the tables, one sentence each.
    pub fn unmet(&self, required: &[Requirement]) -> Vec<String> {
        let sets = self.evaluation.unknown.len();
        let of = |(report, table): (&cac::Result<Report>, String)| -> Vec<String> {
            let unmet =
                report.iter().flat_map(|report| required.iter().flat_map(|one| one.unmet(report, sets)));
            unmet.map(|fault| format!("{fault} ({table})")).collect()
        };
        self.tables().flat_map(of).collect()
    }

    /// The agreement with the first contender on a score, if both have it.
    fn agreement(&self, score: usize) -> Option<(&str, Agreement)> {
        let First { contender, evaluation, .. } = self.against?;
        Some((&contender.name, evaluation.agreement(self.evaluation, self.evaluation.scores[score])?))
    }

    /// The classes in order, with the counts of a score's verdicts.
    fn by_class(&self, score: usize) -> Vec<(&str, ClassCounts)> {
        let threshold = self.evaluation.threshold(score).map(f64::from);
        let counts = TestScores::of_evaluation(self.evaluation, score).by_class(threshold);
        let classes = self.contender.scorer.decision().classes.iter().zip(0..);
        classes
            .map(|(name, class)| (name.as_str(), counts.get(&class).copied().unwrap_or_default()))
            .collect()
    }

    /// Prints a line of JSON for each score.
    pub fn print_json(&self) -> anyhow::Result<()> {
        let Contender { model, scorer, sha256, .. } = self.contender;
        for (index, report) in self.reports.iter().enumerate() {
            let Ok(report) = report else { continue };
            let score = &self.evaluation.scores[index];
            let mut line = serde_json::to_value(report)?;
            line["score"] = serde_json::to_value(score)?;
            let threshold = self.evaluation.threshold(index);
            if let Some(threshold) = threshold {
                line["threshold"] = serde_json::to_value(threshold)?;
            }
            line["model"] = model.map(Path::to_string_lossy).into();
            line["sha256"] = sha256.as_str().into();
            line["provider"] = scorer.runtime().into();
            line["images"] = self.evaluation.images().into();
            if !self.other_classes.is_empty() {
                line["other_classes"] = self.other_classes.into();
            }
            if let Some(degradation) = self.degraded {
                line["degraded"] = degradation.name().into();
            }
            let classes = self.by_class(index);
            line["balanced_accuracy"] = balanced_accuracy(classes.iter().map(|(_, counts)| counts)).into();
            line["classes"] =
                classes.iter().map(|(name, counts)| of_class(name, counts, threshold)).collect();
            line["seconds"] = self.seconds.into();
            line["operators"] = serde_json::to_value(&self.operators)?;
            if let Some((_, agreement)) = self.agreement(index) {
                line["agreement"] = serde_json::to_value(agreement)?;
            }
            if let Some(comparison) = &self.differences[index] {
                line["difference"] = serde_json::to_value(comparison)?;
            }
            print_json(&line)?;
        }
        Ok(())
    }

    /// Prints whether the threshold keeps fewer known images than it was chosen to keep.
    pub fn say_shortfall(&self) {
        let scorer = &self.contender.scorer;
        // Of degraded images that is to be expected.
        let Some(keep) = scorer.keep().filter(|_| self.degraded.is_none()) else { return };
        let doubt = scorer.doubt_of_held_out();
        let least = scorer.manifest().kept_at_least(keep, doubt).unwrap_or(keep);
        if self.reports.iter().flatten().any(|report| report.keeps_fewer_than(least)) {
            let why = doubt.unwrap_or("the test images may differ from the images that it was chosen from");
            say(format_args!("the threshold keeps fewer known images than it was chosen to keep: {why}"));
        }
    }

    /// Prints a table for each score, and how they were measured.
    pub fn print(&self) -> anyhow::Result<()> {
        let Contender { scorer, sha256, .. } = self.contender;
        let mut out = stdout();
        for (index, report) in self.reports.iter().enumerate() {
            let Ok(report) = report else { continue };
            let score = &self.evaluation.scores[index];
            let threshold = self.evaluation.threshold(index);
            let is_from_test = scorer.decision().threshold.as_ref().is_some_and(|chosen| chosen.is_from_test);
            let of = if is_from_test { "known test images" } else { "known images" };
            let keep = scorer.keep().map(|keep| format!(", chosen to keep {} % of {of}", per_cent(keep)));
            let threshold_text = threshold.map_or_else(String::new, |threshold| {
                format!(", threshold {threshold}{}", keep.unwrap_or_default())
            });
            writeln!(out, "score {score}{threshold_text}\n{report}")?;
            let classes = self.by_class(index);
            let balanced = balanced_accuracy(classes.iter().map(|(_, counts)| counts));
            if let (Some(balanced), Some((class, accuracy, images))) =
                (balanced, weakest(classes.iter().map(|(name, counts)| (*name, counts))))
            {
                let [balanced, accuracy] = [balanced, accuracy].map(|share| 100.0 * share);
                writeln!(
                    out,
                    "balanced accuracy {balanced:.2} %, lowest for `{}`: {accuracy:.2} % of {images} images",
                    on_one_line(class)
                )?;
            }
            if let Some((first, agreement)) = self.agreement(index) {
                let Agreement { greatest_score_difference, label_flips, unknown_flips, .. } = agreement;
                let decide = threshold.is_some()
                    && self.against.is_some_and(|first| first.evaluation.decides_by(*score));
                let classes = if decide {
                    format!("{label_flips} classes and {unknown_flips} verdicts differ")
                } else {
                    format!("{label_flips} classes differ")
                };
                writeln!(
                    out,
                    "compared with {first}: scores differ by at most {greatest_score_difference:.1e}, {classes}"
                )?;
            }
            if let (Some(comparison), Some(first)) = (&self.differences[index], self.against) {
                let first = &first.contender.name;
                write!(out, "difference from {first}, in percentage points: {comparison}")?;
            }
        }
        let (images, seconds, runtime) = (self.evaluation.images(), self.seconds, scorer.runtime());
        let rate = images as f64 / seconds.max(1e-9);
        let degraded = self
            .degraded
            .map_or(String::new(), |degradation| format!(", degraded ({}),", degradation.name()));
        writeln!(out, "{images} images{degraded} in {seconds:.1} s, {rate:.0} images/s, on {runtime}")?;
        writeln!(out, "model with SHA-256 {sha256}")?;
        for (provider, count) in &self.operators {
            writeln!(out, "operators on {provider}: {count}")?;
        }
        Ok(writeln!(out)?)
    }
}

/// A class in JSON. Without a threshold there are no verdicts.
fn of_class(name: &str, counts: &ClassCounts, threshold: Option<f32>) -> Value {
    let &ClassCounts { images, correct, kept, kept_and_correct, unknown_accepted } = counts;
    if threshold.is_none() {
        return json!({ "class": name, "images": images, "correct": correct });
    }
    json!({
        "class": name,
        "images": images,
        "correct": correct,
        "kept": kept,
        "kept_and_correct": kept_and_correct,
        "unknown_accepted": unknown_accepted,
    })
}
