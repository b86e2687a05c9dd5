//! `toolkit eval`

mod contender;
mod images;
mod measured;
pub mod requirement;

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
};

use anyhow::bail;
use cac::{
    Error,
    data::TestImages,
    eval::{
        EvaluateOptions, Evaluation, ScoredSet,
        feature_file::{self, FeatureFile, FeatureSet},
        score_file,
    },
    fit::LIMIT,
    image::has_extension,
    method::{FittedScore, LogitScore, RejectionScore},
    report::Report,
    text::{on_one_line, shown},
};

pub use self::measured::Measured;
use self::{contender::Contender, images::Source, measured::First, requirement::Requirement};
use super::{Unmet, check_not_read, check_result_files, named_or_newest, names_apart, report};
use crate::{
    cli::{self, EvalArgs, EvaluationArgs, ScoreArg},
    terminal::say,
};

/// Evaluates every model on every provider, and compares each with the first.
pub fn run(args: &EvalArgs) -> anyhow::Result<()> {
    let options = &args.options;
    let models = named_or_newest(&args.model);
    // Report wrong usage before any image is read.
    check_result_files(args.page.as_deref(), options, &models)?;
    let has_page = args.page.is_some() || options.plots.is_some();
    let names = names_apart(&models);
    let (mut subjects, mut faults, mut unmet) = (Vec::new(), Vec::new(), Vec::new());
    let images = measure(&models, &names, options, &args.require, args.page.as_deref(), |measured| {
        if has_page {
            subjects.extend(measured.subjects(&names, options));
        }
        faults.extend(measured.faults());
        unmet.extend(measured.unmet(&args.require));
        measured.say_shortfall();
        if options.scorer.json { measured.print_json() } else { measured.print() }
    })?;
    if has_page {
        report::write(subjects, Vec::new(), Some(&images), args.page.as_deref(), options)?;
    }
    if !faults.is_empty() {
        unmet.iter().for_each(say);
        bail!(faults.join("; "));
    }
    if unmet.is_empty() { Ok(()) } else { Err(Unmet { findings: unmet, hint: None }.into()) }
}

/// Evaluates models on every provider, and passes on each result as it comes. Returns the images. The caller
/// has checked the outputs; what is required is checked here. `names` are those of the models in remarks, which
/// a page shows.
pub fn measure(
    models: &[PathBuf],
    names: &HashMap<PathBuf, String>,
    args: &EvaluationArgs,
    required: &[Requirement],
    page: Option<&Path>,
    mut take: impl FnMut(Measured) -> anyhow::Result<()>,
) -> anyhow::Result<TestImages> {
    let contenders = Contender::open_all(models, args)?;
    let first = contenders.first().expect("--provider has a default");
    let manifest = first.scorer.manifest();
    for contender in &contenders {
        check_thresholds(contender, args, required)?;
        if args.scorer.threshold.is_some() && contender.own_score() != first.own_score() {
            bail!("--threshold is for one score, but those of {} and {} differ", first.name, contender.name);
        }
    }
    let source = Source::of(args, manifest, first.model.is_none())?;
    let (images, remarks) = source.test_images(args, manifest)?;
    check_sets(&images, page, args, required)?;
    let options = args.report.options(None);

    let needs_fit = |contender: &Contender| fits_scores(&args.score, contender.own_score());
    let needs_training = contenders.iter().any(needs_fit) || args.keep_features.is_some();
    let training = needs_training.then(|| source.training_images(args, manifest)).transpose()?;
    for output in outputs(page, args) {
        check_not_read(output, &training)?;
        // It may be of a data set that is not read here.
        if output.exists() && has_extension(output) {
            bail!("cannot write `{}`: it is an image", shown(output));
        }
    }
    let mut of_models: HashMap<Option<&Path>, Vec<String>> = HashMap::new();
    for Contender { model, scorer, .. } in &contenders {
        if !of_models.contains_key(model) {
            let named = model.filter(|_| models.len() > 1);
            let named =
                named.map_or("the model".to_owned(), |model| format!("`{}`", on_one_line(&names[model])));
            let remarks = source.remarks_on_model(args, &named, scorer.manifest(), &images)?;
            remarks.iter().for_each(say);
            of_models.insert(*model, remarks);
        }
    }
    let mut of_first: Option<(Evaluation, Vec<cac::Result<Report>>)> = None;
    for contender in &contenders {
        check_provider(contender);
        let keeps = args.keep_features.as_ref().filter(|_| of_first.is_none());
        let training = training.as_ref().filter(|_| needs_fit(contender) || keeps.is_some());
        let features = training.map(|images| contender.features(images, args.skip_broken)).transpose()?;
        let scores = contender.scores(&args.score, features.as_ref())?;
        let evaluate_options =
            EvaluateOptions { skip_broken: args.skip_broken, keep_features: keeps.is_some() };
        let (mut evaluation, seconds) = contender.evaluate(&images, &scores, evaluate_options)?;
        if let (Some(path), Some(features)) = (keeps, features) {
            keep_features(path, features, &mut evaluation)?;
        }
        if let (Some(path), None) = (&args.scores, &of_first) {
            score_file::write(path, &evaluation)?;
        }
        let operators = contender.scorer.placement().unwrap_or_else(|error| {
            say(format_args!("cannot determine which provider ran the operators: {error}"));
            BTreeMap::new()
        });
        let reports: Vec<_> =
            (0..evaluation.scores.len()).map(|score| evaluation.report(score, &options)).collect();
        let against =
            of_first.as_ref().map(|(evaluation, reports)| First { contender: first, evaluation, reports });
        let differences = match against {
            Some(first) => first.differences(contender, &evaluation, &reports, &options)?,
            None => vec![None; reports.len()],
        };
        take(Measured {
            contender,
            reports: &reports,
            differences,
            evaluation: &evaluation,
            seconds,
            operators,
            degraded: args.degraded,
            other_classes: &images.other_classes,
            remarks: [&remarks[..], &of_models[&contender.model]].concat(),
            against,
        })?;
        of_first.get_or_insert((evaluation, reports));
    }
    Ok(images)
}

/// Writes the features of the training images and those that an evaluation kept.
fn keep_features(path: &Path, features: FeatureFile, evaluation: &mut Evaluation) -> cac::Result<()> {
    let kept = |set: &mut ScoredSet| FeatureSet {
        name: set.name.clone(),
        features: set.features.take().unwrap_or_default(),
        labels: set.truth.clone(),
    };
    let known = kept(&mut evaluation.known);
    let unknown = evaluation.unknown.iter_mut().map(kept).collect();
    FeatureFile { known, unknown, ..features }.write(path)
}

/// Whether a model that decides by `own` is measured by a score: without --score, only by its own.
fn is_measured(score: RejectionScore, own: RejectionScore, args: &[ScoreArg]) -> bool {
    match &cli::scores(args, Some(own))[..] {
        [] => score == own,
        scores => scores.contains(&score),
    }
}

/// Warns if the provider does not reproduce the results in the model's file: the figures are then those of the
/// provider.
fn check_provider(Contender { name, scorer, .. }: &Contender) {
    match scorer.verify() {
        Ok(_) | Err(Error::NoGoldenBatch { .. }) => {}
        Err(error) => say(format_args!("{name} does not reproduce the export: {error}")),
    }
}

/// Checks that a threshold is used, and that there is one if a requirement needs it.
fn check_thresholds(
    contender: &Contender,
    args: &EvaluationArgs,
    required: &[Requirement],
) -> anyhow::Result<()> {
    let own = contender.own_score();
    if (args.scorer.threshold.is_some() || args.scorer.keep.is_some()) && !is_measured(own, own, &args.score)
    {
        bail!("a threshold applies to the model's own score, `{own}`, which is not among those of --score");
    }
    if let Some(one) = required.iter().find(|one| one.needs_threshold())
        && cli::scores(&args.score, Some(own)).iter().any(|score| *score != own)
    {
        bail!("`{}` is required, but only the model's own score, `{own}`, has a threshold", one.metric());
    }
    Ok(())
}

/// The files that are written.
fn outputs<'a>(page: Option<&'a Path>, args: &'a EvaluationArgs) -> impl Iterator<Item = &'a Path> {
    [page, args.scores.as_deref(), args.keep_features.as_deref()].into_iter().flatten()
}

/// Checks that no output is an image, and that the unknown sets suit what is asked for.
fn check_sets(
    images: &TestImages,
    page: Option<&Path>,
    args: &EvaluationArgs,
    required: &[Requirement],
) -> anyhow::Result<()> {
    for output in outputs(page, args) {
        check_not_read(output, images.sets())?;
    }
    if let Some(plots) = args.plots.as_ref().filter(|plots| images.sets().any(|set| set.would_read(plots))) {
        bail!("cannot write plots to `{}`: they would be read as images of this data", shown(plots));
    }
    let unknown = &images.unknown;
    let names: Vec<&str> = unknown.iter().map(|set| set.name.as_str()).collect();
    Report::check(&names, &args.report.options(None))?;
    if args.keep_features.is_some() {
        feature_file::check_names(&names)?;
    }
    if let Some(one) = required.iter().find(|one| one.needs_unknown() && unknown.is_empty()) {
        bail!(
            "`{}` is required, but there are no unknown images; give --unknown NAME=DIR or --unknown-class CLASS",
            one.metric()
        );
    }
    if unknown.is_empty() {
        say("without --unknown NAME=DIR or --unknown-class CLASS only known images are evaluated");
        if args.scores.is_some() {
            say("`drift` reads scores of known images only; `metrics` and `report` need unknown ones");
        }
    }
    Ok(())
}

/// Whether scores other than the model's own have constants that are fitted to images.
fn fits_scores(args: &[ScoreArg], own: RejectionScore) -> bool {
    cli::scores(args, Some(own)).into_iter().any(|score| score != own && needs_examples(score))
}

/// Whether a score has constants that are fitted to images.
fn needs_examples(score: RejectionScore) -> bool {
    matches!(score, RejectionScore::Sum(..)) || score.reads_features()
}

/// A score with its constants; without features, one of logits. `None`, with a message, if all were requested
/// and there are too few images for it.
pub fn fitted(
    features: Option<&FeatureFile>,
    score: RejectionScore,
    is_all: bool,
) -> anyhow::Result<Option<FittedScore>> {
    let fitted = match features {
        Some(features) => features.fit(score, Some(LIMIT)),
        None => LogitScore::try_from(score).map(FittedScore::from),
    };
    match fitted {
        Ok(score) => Ok(Some(score)),
        Err(error) if is_all => {
            say(format_args!("left out: {error}"));
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}
