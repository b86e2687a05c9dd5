//! `toolkit report`, and the page that `toolkit eval` writes.

use std::{
    collections::HashMap,
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{anyhow, bail};
use cac::{
    Error,
    data::TestImages,
    eval::{Evaluation, score_file},
    export::{self, ExportOptions, ThresholdRule},
    method::{KEEP, RejectionScore},
    page::{Page, Projection, Provenance, RunLog, Subject, THUMBNAIL, Thumbnail},
    report::Report,
    run::{Checkpoint, CheckpointKind, Event, RunFolder, Started},
    text::{on_one_line, path_text, shown},
};
use clap::ArgMatches;
use serde_json::json;

use super::{
    check_result_files, eval::measure, metrics::without_accuracy, named_or_newest, names_apart, print_json,
    unreadable,
};
use crate::{
    cli::{self, EvaluationArgs, PageArgs, ScoreArg},
    terminal::{say, stdout},
};

/// The flags that apply only to models, by the names of their fields.
const OF_MODELS: [&str; 11] = [
    "provider",
    "data",
    "known",
    "held_out_test",
    "skip_broken",
    "degraded",
    "unknown",
    "protocol",
    "unknown_class",
    "scores",
    "keep_features",
];

/// The kind of an input of the report.
enum Input {
    Model(PathBuf),
    Scores(PathBuf),
    Run(PathBuf),
}

/// Writes a page about models, score files and runs.
pub fn run(args: &PageArgs, given: &ArgMatches) -> anyhow::Result<()> {
    let options = &args.options;
    let (mut models, mut files, mut runs) = (Vec::new(), Vec::new(), Vec::new());
    for input in &args.inputs {
        match kind(input)? {
            Input::Model(path) => models.push(path),
            Input::Scores(path) => files.push(path),
            Input::Run(path) => runs.push(path),
        }
    }
    let has_models = !models.is_empty() || args.inputs.is_empty();
    if has_models {
        models = named_or_newest(&models);
    }
    let of_runs = runs.iter().flat_map(|run| RunFolder::new(run).files());
    let inputs: Vec<PathBuf> = models.iter().chain(&files).cloned().chain(of_runs).collect();
    check_result_files(Some(&args.output), options, &inputs)?;
    if let Some(flag) = cli::first_given(given, OF_MODELS).filter(|_| !has_models) {
        bail!("{flag} needs a model, and none is given");
    }
    if !options.score.is_empty() && !has_models && runs.is_empty() {
        bail!("--score is for models and runs, and none is given; a score file has its own, see --column");
    }
    if let Some(file) = files.first().filter(|_| options.scorer.keep.is_some()) {
        let file = shown(file);
        bail!("--keep needs held-out scores, which the score file `{file}` does not have; give --threshold");
    }
    if args.column.is_some() && files.is_empty() {
        bail!("--column is for score files, and none is given");
    }
    let names = names_apart(&[&models[..], &files, &runs].concat());
    // Before images are scored, which takes long.
    let of_files =
        files.iter().map(|path| of_scores(path, &names[path], args)).collect::<anyhow::Result<Vec<_>>>()?;
    let of_runs =
        runs.iter().map(|path| of_run(path, &names[path], options)).collect::<anyhow::Result<Vec<_>>>()?;
    if options.scorer.threshold.is_some() {
        check_one_score(of_runs.iter().flat_map(|(_, tests)| tests))?;
    }
    let mut subjects = Vec::new();
    let mut images = None;
    if has_models {
        let gather = |measured: super::eval::Measured| {
            subjects.extend(measured.subjects(&names, options));
            Ok(())
        };
        images = Some(measure(&models, &names, options, &[], Some(&args.output), gather)?);
    }
    subjects.extend(of_files);
    let mut logs = Vec::new();
    for (log, tests) in of_runs {
        logs.push(log);
        subjects.extend(tests);
    }
    if options.scorer.threshold.is_some() {
        check_one_score(&subjects)?;
    }
    Subject::compare_images(&mut subjects);
    let results: Vec<Outcome> = subjects.iter().map(Outcome::of).collect();
    write(subjects, logs, images.as_ref(), Some(&args.output), options)?;
    if options.scorer.json {
        return print_json(&json!({ "report": path_text(&args.output), "results": results }));
    }
    let mut out = stdout();
    for Outcome { name, score, verdict, cautions } in &results {
        if results.len() > 1 {
            write!(out, "{}, {score}: ", on_one_line(name))?;
        }
        writeln!(out, "{verdict}")?;
        for caution in cautions {
            writeln!(out, "caution: {caution}")?;
        }
    }
    Ok(writeln!(out, "report: {}", shown(&args.output))?)
}

/// Checks that those of the subjects that a threshold applies to have one score. That of a score file is
/// not known.
fn check_one_score<'a>(subjects: impl IntoIterator<Item = &'a Subject>) -> anyhow::Result<()> {
    let is_judged = |subject: &&Subject| subject.origin.is_some() && subject.threshold.is_some();
    let mut scores = subjects.into_iter().filter(is_judged).map(|subject| &subject.score);
    let Some(first) = scores.next() else { return Ok(()) };
    match scores.find(|score| *score != first) {
        Some(other) => bail!("--threshold is for one score, but there are `{first}` and `{other}`"),
        None => Ok(()),
    }
}

/// A result in words.
#[derive(serde::Serialize)]
struct Outcome {
    name: String,
    score: String,
    verdict: String,
    cautions: Vec<String>,
}

impl Outcome {
    fn of(subject: &Subject) -> Self {
        let (verdict, cautions) = (subject.verdict(), subject.cautions());
        Self { name: subject.name.clone(), score: subject.score.clone(), verdict, cautions }
    }
}

/// The kind of an input: a folder is a run, and a score file does not begin like an ONNX file. A pipe can
/// be read only once, so it counts as a score file.
fn kind(path: &Path) -> anyhow::Result<Input> {
    if path.is_dir() {
        return Ok(Input::Run(path.to_owned()));
    }
    if cli::is_model(path) {
        return Ok(Input::Model(path.to_owned()));
    }
    let is_model = path.is_file() && cli::begins_as_model(path).map_err(unreadable(path))?;
    Ok(if is_model { Input::Model(path.to_owned()) } else { Input::Scores(path.to_owned()) })
}

/// A score file.
fn of_scores(path: &Path, name: &str, args: &PageArgs) -> anyhow::Result<Subject> {
    let column = args.column.as_deref().unwrap_or(cli::SCORE_COLUMN);
    let sets = score_file::read_sets(path, column)?;
    if sets.unjudged > 0 {
        say(format_args!("{name}: {}", without_accuracy(sets.unjudged)));
    }
    let threshold = args.options.scorer.threshold.map(|given| sets.threshold(given));
    let options = args.options.report.options(threshold);
    let subject = Subject::of_scores(name, column, sets.tested, &options);
    subject.map_err(|error| anyhow!("`{}`: {error}", shown(path)))
}

/// The log of a run, and its test for each score.
fn of_run(path: &Path, name: &str, args: &EvaluationArgs) -> anyhow::Result<(RunLog, Vec<Subject>)> {
    let run = RunFolder::new(path);
    let has_log = run.log().exists();
    let file = CheckpointKind::ALL.into_iter().map(|which| run.checkpoint(which)).find(|file| file.exists());
    if !has_log && file.is_none() {
        bail!("`{}` is not a run folder: it has neither a log nor a checkpoint", shown(path));
    }
    let (events, others) = if has_log { Event::read_log(&run.log())? } else { (Vec::new(), 0) };
    let started = events.iter().rev().find_map(|event| match event {
        Event::Start(started) => Some(started),
        _ => None,
    });
    let remarks = started.map(Started::remarks).unwrap_or_default();
    let log = RunLog { name: name.to_owned(), events, others };
    let Some(file) = file else {
        say(format_args!("`{}` has no checkpoint: only the curves of the run are shown", shown(path)));
        return Ok((log, Vec::new()));
    };
    let checkpoint = Checkpoint::read(&file)?;
    let Some(test) = &checkpoint.test else {
        say(format_args!("`{}` has no test: only the curves of the run are shown", shown(&file)));
        return Ok((log, Vec::new()));
    };
    let report_options = args.report.options(None);
    Report::check(&test.unknown.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), &report_options)?;
    let mut wanted = args.score.clone();
    if wanted.contains(&ScoreArg::All) {
        // That of an export, then that of the tests.
        let own = [chosen_score(&checkpoint)?, checkpoint.facts.score.into()];
        wanted.splice(0..0, own.map(ScoreArg::One));
    }
    let scores = match &cli::scores(&wanted, None)[..] {
        [] => vec![None],
        given => given.iter().map(|&score| Some(score)).collect(),
    };
    let rule = match (args.scorer.keep, args.scorer.threshold) {
        (Some(keep), _) => ThresholdRule::Keep(keep),
        (None, Some(threshold)) => ThresholdRule::Value(threshold as f32),
        (None, None) => ThresholdRule::Keep(KEEP),
    };
    let mut subjects = Vec::new();
    for &score in &scores {
        let options = ExportOptions { score, threshold: rule, ..ExportOptions::default() };
        // Without enough held-out images there is no threshold, unless one was asked for.
        let is_asked_for = args.scorer.keep.is_some() || args.scorer.threshold.is_some();
        let (manifest, score) = match export::decide(&checkpoint, &options) {
            Ok(decided) => decided,
            Err(Error::TooFewHeldOut { .. }) if !is_asked_for => {
                export::without_threshold(&checkpoint, &options)?
            }
            Err(error) if args.score.contains(&ScoreArg::All) => {
                say(format_args!("{name}: left out: {error}"));
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let threshold = manifest.decision.threshold.as_ref();
        let value = threshold.map(|threshold| threshold.value);
        let Some(evaluation) = Evaluation::of_checkpoint(&checkpoint, &score, value) else {
            let score = score.score();
            say(format_args!(
                "{name}: left out: `{score}` needs features of the test images, too large to keep"
            ));
            continue;
        };
        let report = evaluation.report(0, &report_options);
        subjects.push(Subject {
            keep: threshold.and_then(|threshold| threshold.keep),
            classes: checkpoint.facts.classes.clone(),
            projection: subjects
                .is_empty()
                .then(|| Projection::new(&evaluation, &checkpoint.anchors))
                .flatten(),
            origin: Some(Provenance { manifest, sha256: None, provider: None }),
            remarks: remarks.clone(),
            ..Subject::of_evaluation(name, &evaluation, 0, &report)
        });
    }
    Ok((log, subjects))
}

/// The score that an export chooses.
fn chosen_score(checkpoint: &Checkpoint) -> anyhow::Result<RejectionScore> {
    Ok(export::without_threshold(checkpoint, &ExportOptions::default())?.1.score())
}

/// Writes the page and the plots of some results. Thumbnails are of the images that the models were measured
/// on.
pub fn write(
    subjects: Vec<Subject>,
    runs: Vec<RunLog>,
    images: Option<&TestImages>,
    file: Option<&Path>,
    args: &EvaluationArgs,
) -> anyhow::Result<()> {
    let mut page = Page::new(subjects, runs, args.report.options(None).bootstrap);
    for (name, thumbnail) in images.map_or_else(Vec::new, |images| thumbnails(images, &page)) {
        page.add_thumbnail(&name, thumbnail);
    }
    if let Some(file) = file {
        page.write(file)?;
    }
    if let Some(folder) = &args.plots {
        let count = page.write_plots(folder)?;
        say(format_args!("{count} plots as SVG and PNG: `{}`", shown(folder)));
    }
    Ok(())
}

/// The thumbnails of the images that a page shows. One that can no longer be read has none.
fn thumbnails(images: &TestImages, page: &Page) -> Vec<(String, Thumbnail)> {
    let wanted = page.wanted();
    let mut found = HashMap::new();
    for set in images.sets() {
        for index in 0..set.len() {
            let name = set.name(index);
            if wanted.contains(name.as_str())
                && let Ok(image) = set.thumbnail(index, THUMBNAIL)
            {
                found.insert(name, Thumbnail::new(&image));
            }
        }
    }
    found.into_iter().collect()
}
