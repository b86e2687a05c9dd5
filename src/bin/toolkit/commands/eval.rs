//! `toolkit eval`

use std::{
    collections::{BTreeMap, HashMap},
    io::Write,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::bail;
use cac::{
    Error, Scorer,
    data::{Dataset, Degradation, KnownData, PublishedSet, Role, Split, TestImages, exists},
    eval::{
        self, Agreement, DatasetOutputs, EvaluateOptions, Evaluated, Evaluation, ScoredSet, evaluate,
        feature_file::{self, FeatureFile, FeatureSet},
        score_file,
    },
    fit::LIMIT,
    method::{Anchors, FittedScore, LastLayer, LogitScore, RejectionScore},
    model::{Decision, Inspection, Manifest, Training, with_features},
    page::{Projection, Provenance, Subject},
    report::Report,
    run::EXAMPLES,
    text::per_cent,
};

use super::{
    Unmet, check_not_read, check_result_files, named_or_newest, names_apart, print_json, read_model, report,
    requirement::Requirement, with_threshold,
};
use crate::{
    cli::{self, EvalArgs, EvaluationArgs, ScoreArg, SignatureArgs},
    terminal::{
        Advice, Progress,
        data::{TUTORIAL_KNOWN, TUTORIAL_UNKNOWN, dataset, unknown_datasets},
        say, say_left_out, say_untested, say_unused_splits, stdout,
    },
};

/// A model on a provider.
struct Contender<'a> {
    name: String,
    /// `None` for the built-in model.
    model: Option<&'a Path>,
    /// SHA-256 of the model file.
    sha256: String,
    /// The anchors and the last layer in the file.
    anchors: Option<Anchors>,
    last_layer: Option<LastLayer>,
    scorer: Scorer,
}

/// Evaluates every model on every provider, and compares each with the first.
pub fn run(args: &EvalArgs) -> anyhow::Result<()> {
    let options = &args.options;
    let models = named_or_newest(&args.model);
    // Report wrong usage before any image is read.
    check_result_files(args.page.as_deref(), options, &models)?;
    let has_page = args.page.is_some() || options.plots.is_some();
    let names = names_apart(&models);
    let (mut subjects, mut faults, mut unmet) = (Vec::new(), Vec::new(), Vec::new());
    let images = measure(&models, options, &args.require, args.page.as_deref(), |measured| {
        if has_page {
            subjects.extend(measured.subjects(&names, options));
        }
        faults.extend(measured.faults());
        unmet.extend(measured.unmet(&args.require));
        if options.scorer.json { measured.print_json() } else { measured.print() }
    })?;
    if has_page {
        report::write(subjects, Vec::new(), Some(&images), args.page.as_deref(), options)?;
    }
    if !faults.is_empty() {
        unmet.iter().for_each(say);
        bail!(faults.join("; "));
    }
    if unmet.is_empty() { Ok(()) } else { Err(Unmet(unmet).into()) }
}

/// Evaluates models on every provider, and passes on each result as it comes. Returns the images. The
/// anchors are passed on if the results go into a page. The caller has checked the outputs; what is
/// required is checked here.
pub fn measure(
    models: &[PathBuf],
    args: &EvaluationArgs,
    required: &[Requirement],
    page: Option<&Path>,
    mut take: impl FnMut(Measured) -> anyhow::Result<()>,
) -> anyhow::Result<TestImages> {
    let has_page = page.is_some() || args.plots.is_some();
    let contenders = open_contenders(models, args)?;
    let first = contenders.first().expect("--provider has a default");
    let manifest = first.scorer.manifest();
    for contender in &contenders {
        check_thresholds(contender, args, required)?;
        if args.scorer.threshold.is_some() && contender.scorer.decision().score != manifest.decision.score {
            bail!("--threshold is for one score, but those of {} and {} differ", first.name, contender.name);
        }
    }
    let source = Source::of(args, manifest, first.model.is_none())?;
    let images = test_images(&source, args, manifest)?;
    images.sets().for_each(|set| say_left_out(set.left_out()));
    check_sets(&images, page, args, required)?;
    let options = args.report.options(None);
    let total = images.len();

    let needs_fit = |contender: &Contender| fits_scores(&args.score, contender.scorer.decision().score);
    let needs_training = contenders.iter().any(needs_fit) || args.keep_features.is_some();
    let training = needs_training.then(|| training_images(&source, args, manifest)).transpose()?;
    let mut of_first: Option<Evaluation> = None;
    for contender in &contenders {
        let Contender { name, model, sha256, anchors, scorer, .. } = contender;
        let keeps = args.keep_features.as_ref().filter(|_| of_first.is_none());
        check_provider(name, scorer);
        let own = scorer.decision().score;
        let training = training.as_ref().filter(|_| needs_fit(contender) || keeps.is_some());
        let mut features =
            training.map(|images| features_of(contender, images, args.skip_broken)).transpose()?;
        let is_all = args.score.contains(&ScoreArg::All);
        let mut scores = cli::scores(&args.score, Some(own));
        if scores.is_empty() {
            scores.push(own);
        }
        let mut evaluated = Vec::new();
        for score in scores {
            if score == own {
                evaluated.push(Evaluated::Own);
            } else {
                evaluated.extend(fitted(features.as_ref(), score, is_all)?.map(Evaluated::Other));
            }
        }
        let evaluate_options =
            EvaluateOptions { skip_broken: args.skip_broken, keep_features: keeps.is_some() };
        let start = Instant::now();
        let (mut bar, mut done) = (Progress::new(format!("scoring with {name}"), total), 0);
        let evaluation = evaluate(scorer, &images, &evaluated, evaluate_options, |more| {
            done += more;
            let rate = done as f64 / start.elapsed().as_secs_f64();
            bar.update(done, &format!("{rate:.0} images/s"));
        });
        bar.finish();
        let seconds = start.elapsed().as_secs_f64();
        let mut evaluation = evaluation?;
        if let (Some(path), Some(features)) = (keeps, &mut features) {
            let kept = |set: &mut ScoredSet| FeatureSet {
                name: set.name.clone(),
                features: set.features.take().unwrap_or_default(),
                labels: set.truth.clone(),
            };
            features.sets = evaluation.sets.iter_mut().map(kept).collect();
            features.write(path)?;
        }
        if let (Some(path), None) = (&args.scores, &of_first) {
            score_file::write(path, &evaluation)?;
        }
        let operators = scorer.placement().unwrap_or_else(|error| {
            say(format_args!("cannot determine which provider ran the operators: {error}"));
            BTreeMap::new()
        });
        take(Measured {
            name,
            reports: (0..evaluation.scores.len()).map(|score| evaluation.report(score, &options)).collect(),
            evaluation: &evaluation,
            model: *model,
            sha256,
            scorer,
            anchors: anchors.as_ref().filter(|_| has_page),
            seconds,
            operators,
            degraded: args.degraded,
            against: of_first.as_ref().map(|of_first| (first.name.as_str(), of_first)),
        })?;
        of_first.get_or_insert(evaluation);
    }
    Ok(images)
}

/// Whether a model that decides by `own` is measured by a score: without --score, only by its own.
fn is_measured(score: RejectionScore, own: RejectionScore, args: &[ScoreArg]) -> bool {
    match &cli::scores(args, Some(own))[..] {
        [] => score == own,
        scores => scores.contains(&score),
    }
}

/// Warns if the provider does not reproduce the model's results at export: the figures are then those of the
/// provider.
fn check_provider(name: &str, scorer: &Scorer) {
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
    let own = contender.scorer.decision().score;
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

/// Checks that no output is an image, and that the unknown sets suit what is asked for.
fn check_sets(
    images: &TestImages,
    page: Option<&Path>,
    args: &EvaluationArgs,
    required: &[Requirement],
) -> anyhow::Result<()> {
    for output in [page, args.scores.as_deref(), args.keep_features.as_deref()].into_iter().flatten() {
        check_not_read(output, images.sets())?;
    }
    if let Some(plots) = args.plots.as_ref().filter(|plots| images.sets().any(|set| set.would_read(plots))) {
        bail!("cannot write plots to `{}`: they would be read as images of this data", plots.display());
    }
    let unknown = &images.unknown;
    let names: Vec<&str> = unknown.iter().map(|set| set.name.as_str()).collect();
    Report::check(&names, &args.report.options(None))?;
    if args.keep_features.is_some() {
        feature_file::check_names(&names)?;
    }
    if let Some(one) = required.iter().find(|one| one.needs_unknown() && unknown.is_empty()) {
        bail!("`{}` is required, but there are no unknown images; give --unknown NAME=DIR", one.metric());
    }
    if unknown.is_empty() {
        say("without --unknown NAME=DIR only known images are evaluated");
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

/// Training images of the known classes: those beside the test images, or else those that the model records.
fn training_images(source: &Source, args: &EvaluationArgs, manifest: &Manifest) -> anyhow::Result<Dataset> {
    let open = |data: &KnownData| -> anyhow::Result<Dataset> {
        let folder = dataset(&data.path, &args.data.folder(), &[Role::Known(Split::Train)])?;
        Ok(data.at(&folder).training(&manifest.decision.input)?)
    };
    let images = match open(&source.data) {
        Err(error)
            if matches!(error.downcast_ref(), Some(Error::Undivided { .. } | Error::Dataset { .. }))
                && args.known.is_some() =>
        {
            let recorded = manifest.history.training.as_ref().and_then(Training::known_data);
            let Some(recorded) = recorded.filter(|data| is_found(&data.path)) else {
                let message = format!(
                    "`{}` has no training images, which scores other than the model's and --keep-features need",
                    source.data.path.display()
                );
                let hint = "give a folder with these images in `train` and the others in `test`";
                return Err(Advice::new(message, hint).into());
            };
            say(format_args!("training images: `{}`, as recorded in the model", recorded.path.display()));
            open(&recorded)
        }
        opened => opened,
    }?;
    let images = images.align(&manifest.decision.classes)?;
    let mut drawn = images.draw_with_classes(EXAMPLES, 0);
    drawn.sort_unstable();
    Ok(images.pick(&drawn))
}

/// The last layer and the anchors of a model, and the features of training images.
fn features_of(contender: &Contender, images: &Dataset, skip_broken: bool) -> anyhow::Result<FeatureFile> {
    let Contender { name, anchors, last_layer, scorer, .. } = contender;
    let (Some(anchors), Some(last_layer)) = (anchors, last_layer) else {
        bail!("the anchors or the last layer of {name} do not have the form that this toolkit writes");
    };
    let mut bar = Progress::new("training images".to_owned(), images.len());
    let mut done = 0;
    let outputs = eval::outputs(scorer, images, skip_broken, |more| {
        done += more;
        bar.update(done, "");
    });
    bar.finish();
    let DatasetOutputs { indices, features, .. } = outputs?;
    if indices.len() < images.len() {
        say(format_args!("left out training images that cannot be read: {}", images.len() - indices.len()));
    }
    let features = features.expect("the features are an output");
    let labels = indices.iter().map(|&index| images.labels()[index]).collect();
    let training = FeatureSet { features, labels, ..FeatureSet::default() };
    Ok(FeatureFile { last_layer: last_layer.clone(), anchors: anchors.clone(), training, sets: Vec::new() })
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

/// Opens every model on every provider, and checks that they can be compared. Models without the output
/// `features` get it if needed.
fn open_contenders<'a>(models: &'a [PathBuf], args: &EvaluationArgs) -> anyhow::Result<Vec<Contender<'a>>> {
    let models: Vec<Option<&Path>> = match models {
        [] => vec![None],
        models => models.iter().map(|model| Some(model.as_path())).collect(),
    };
    let mut contenders: Vec<Contender> = Vec::new();
    for &model in &models {
        let (bytes, origin) = read_model(model, &SignatureArgs::default())?;
        let Inspection { sha256, anchors, last_layer, manifest, .. } = Inspection::of(&bytes, &origin)?;
        // `--keep-features` keeps those of the first.
        let needs_features = (args.keep_features.is_some() && contenders.is_empty())
            || fits_scores(&args.score, manifest.decision.score);
        let bytes = if needs_features { with_features(bytes, &origin)? } else { bytes };
        for &provider in &args.provider {
            let name = match model {
                Some(model) if models.len() > 1 => format!("{} on {provider}", model.display()),
                _ => provider.to_string(),
            };
            let scorer = with_threshold(Scorer::profiled(bytes.clone(), &origin, provider)?, &args.scorer)?;
            if let Some(first) = contenders.first() {
                let (one, other) = (first.scorer.decision(), scorer.decision());
                if let Some(what) = difference(one, other) {
                    bail!("{name} cannot be compared with {}: {what}", first.name);
                }
                // The score that is relative to per-class thresholds.
                let relative = |decision: &Decision| decision.is_per_class().then_some(decision.score);
                let is_compared =
                    |score| [one, other].iter().all(|model| is_measured(score, model.score, &args.score));
                let either = [relative(one), relative(other)].into_iter().flatten();
                if relative(one) != relative(other) && either.into_iter().any(is_compared) {
                    bail!(
                        "only one of {name} and {} has scores relative to a threshold for each class",
                        first.name
                    );
                }
            }
            let (sha256, anchors, last_layer) = (sha256.clone(), anchors.clone(), last_layer.clone());
            contenders.push(Contender { name, model, sha256, anchors, last_layer, scorer });
        }
    }
    Ok(contenders)
}

/// Why two models cannot be compared, if they cannot.
fn difference(one: &Decision, other: &Decision) -> Option<String> {
    if one.classes != other.classes {
        return Some("their classes differ".to_owned());
    }
    if !one.input.has_same_pixels(&other.input) {
        let [one, other] = [one, other].map(|decision| decision.input.resizing());
        return Some(format!("they resize images differently: {other}; {one}"));
    }
    None
}

/// Where images come from: as given, or as the training recorded.
struct Source<'a> {
    data: KnownData,
    /// The record of the training, if its known images are used.
    training: Option<&'a Training>,
    /// Whether they are the images of the tutorial, on which the built-in model was trained.
    is_tutorial: bool,
}

impl<'a> Source<'a> {
    fn of(args: &EvaluationArgs, manifest: &'a Manifest, is_built_in: bool) -> anyhow::Result<Self> {
        let training = manifest.history.training.as_ref().filter(|_| args.known.is_none());
        let is_tutorial = is_built_in && args.known.is_none();
        let recorded = match (&args.known, training.and_then(Training::known_data)) {
            (Some(known), _) => KnownData::new(known),
            (None, recorded) if is_tutorial => match recorded {
                Some(recorded) => recorded.at(Path::new(TUTORIAL_KNOWN)),
                None => KnownData::new(TUTORIAL_KNOWN),
            },
            (None, Some(recorded)) if is_found(&recorded.path) => {
                say(format_args!("known images: `{}`, as recorded in the model", recorded.path.display()));
                recorded
            }
            (None, Some(recorded)) => bail!(
                "cannot find the training data of the model, `{}`; give --known DIR and --unknown NAME=DIR",
                recorded.path.display()
            ),
            (None, None) => bail!("the model does not record its training data; give --known DIR"),
        };
        let data = KnownData {
            held_out_test: args.held_out_test.or(recorded.held_out_test),
            protocol: args.protocol.or(recorded.protocol),
            ..recorded
        };
        Ok(Self { data, training, is_tutorial })
    }
}

/// The known and unknown test images.
fn test_images(source: &Source, args: &EvaluationArgs, manifest: &Manifest) -> anyhow::Result<TestImages> {
    let &Source { data: ref known, training, is_tutorial } = source;
    let unknown = match &args.unknown[..] {
        [] if is_tutorial => vec![TUTORIAL_UNKNOWN.to_owned()],
        [] => training.and_then(|training| training.get("unknown")).unwrap_or_default(),
        given => given.to_vec(),
    };
    let data = args.data.folder();
    let folder = dataset(&known.path, &data, &[Role::Known(Split::Test)])?;
    say_unused_splits(&folder);
    let unknown = unknown_datasets(&unknown, &data)?;
    let trained_without = trained_without(&known.path, manifest);
    if let Some(share) = trained_without.filter(|&share| known.held_out_test != Some(share)) {
        say(format_args!(
            "the model may have been trained on some of these images; `--held-out-test {share}` leaves them out"
        ));
    }
    let TestImages { known, unknown } = known.at(&folder).test(&unknown, &manifest.decision.input)?;
    let tested: Option<String> = training.and_then(|training| training.get("test_names"));
    let is_as_trained = args.held_out_test.is_none() && args.protocol.is_none();
    if is_as_trained && tested.is_some_and(|tested| tested != known.names_checksum()) {
        say(format_args!(
            "`{}` has changed since the training; the model may have been trained on some of its test images",
            folder.display()
        ));
    }
    if args.known.is_some() && trained_on(manifest).is_some_and(|trained| trained.shares_images_with(&known))
    {
        say("the model may have been trained on some of these known images");
    }
    let known = known.align(&manifest.decision.classes)?;
    say_untested(known.classes_without_images());
    let images = TestImages { known, unknown };
    Ok(match args.degraded {
        Some(degradation) => images.degraded(degradation),
        None => images,
    })
}

/// Whether recorded data is where the record says, or is published.
fn is_found(known: &Path) -> bool {
    exists(known) || PublishedSet::meant_by(known).is_some()
}

/// The images that a model was trained on, if they are still where its training found them. The images of
/// data without a test split are those of [`trained_without`], in the same folders.
fn trained_on(manifest: &Manifest) -> Option<Dataset> {
    let recorded = manifest.history.training.as_ref()?.known_data()?;
    if recorded.held_out_test.is_some() {
        return None;
    }
    recorded.training(&manifest.decision.input).ok()
}

/// The share of test images that the training held out of a data set with this name.
fn trained_without(known: &Path, manifest: &Manifest) -> Option<f64> {
    let recorded = manifest.history.training.as_ref()?.known_data()?;
    recorded.held_out_test.filter(|_| recorded.path.file_name() == known.file_name())
}

/// The result of a model on a provider.
pub struct Measured<'a> {
    /// The model and its provider, or the provider alone.
    name: &'a str,
    evaluation: &'a Evaluation,
    /// The report of each score.
    reports: Vec<cac::Result<Report>>,
    model: Option<&'a Path>,
    sha256: &'a str,
    scorer: &'a Scorer,
    anchors: Option<&'a Anchors>,
    seconds: f64,
    operators: BTreeMap<String, usize>,
    /// How the images are degraded.
    degraded: Option<Degradation>,
    /// Name and result of the first contender.
    against: Option<(&'a str, &'a Evaluation)>,
}

impl Measured<'_> {
    /// The subjects of a page, one per score. `names` names the models.
    pub fn subjects(&self, names: &HashMap<PathBuf, String>, args: &EvaluationArgs) -> Vec<Subject> {
        let mut name = self.model.map_or("the built-in model".to_owned(), |model| names[model].clone());
        if args.provider.len() > 1 {
            name = format!("{name} on {}", self.scorer.provider());
        }
        let manifest = self.scorer.manifest();
        let subject = |(score, report): (usize, &cac::Result<Report>)| Subject {
            keep: self.evaluation.threshold(score).and(self.scorer.keep()),
            classes: manifest.decision.classes.clone(),
            // The logits are the same for every score.
            projection: self
                .anchors
                .filter(|_| score == 0)
                .and_then(|anchors| Projection::new(self.evaluation, anchors)),
            origin: Some(Provenance {
                manifest: manifest.clone(),
                sha256: Some(self.sha256.to_owned()),
                provider: Some(self.scorer.provider()),
            }),
            degradation: self.degraded,
            agreement: self.agreement(score).map(|(first, agreement)| (first.to_owned(), agreement)),
            ..Subject::of_evaluation(&name, self.evaluation, score, report)
        };
        self.reports.iter().enumerate().map(subject).collect()
    }

    /// The reports, each with the name of its table.
    fn tables(&self) -> impl Iterator<Item = (&cac::Result<Report>, String)> {
        let degraded = self.degraded.map(|degradation| format!(", images degraded: {}", degradation.name()));
        let degraded = degraded.unwrap_or_default();
        let name = move |score| format!("{}, score {}{degraded}", self.name, self.evaluation.scores[score]);
        self.reports.iter().enumerate().map(move |(score, report)| (report, name(score)))
    }

    /// Why there are tables without metrics.
    fn faults(&self) -> Vec<String> {
        let fault = |(report, table): (&cac::Result<Report>, String)| {
            report.as_ref().err().map(|error| format!("{error} ({table})"))
        };
        self.tables().filter_map(fault).collect()
    }

    /// The unmet requirements of the tables, one sentence each.
    fn unmet(&self, required: &[Requirement]) -> Vec<String> {
        let sets = self.evaluation.sets.len() - 1;
        let of = |(report, table): (&cac::Result<Report>, String)| -> Vec<String> {
            let unmet =
                report.iter().flat_map(|report| required.iter().flat_map(|one| one.unmet(report, sets)));
            unmet.map(|fault| format!("{fault} ({table})")).collect()
        };
        self.tables().flat_map(of).collect()
    }

    /// The agreement with the first contender on a score, if both have it.
    fn agreement(&self, score: usize) -> Option<(&str, Agreement)> {
        let (name, first) = self.against?;
        Some((name, first.agreement(self.evaluation, self.evaluation.scores[score])?))
    }

    fn print_json(&self) -> anyhow::Result<()> {
        for (index, report) in self.reports.iter().enumerate() {
            let Ok(report) = report else { continue };
            let score = &self.evaluation.scores[index];
            let mut line = serde_json::to_value(report)?;
            line["score"] = serde_json::to_value(score)?;
            if let Some(threshold) = self.evaluation.threshold(index) {
                line["threshold"] = serde_json::to_value(threshold)?;
            }
            line["model"] = self.model.map(Path::to_string_lossy).into();
            line["sha256"] = self.sha256.into();
            line["provider"] = self.scorer.runtime().into();
            line["images"] = self.evaluation.images().into();
            if let Some(degradation) = self.degraded {
                line["degraded"] = degradation.name().into();
            }
            line["seconds"] = self.seconds.into();
            line["operators"] = serde_json::to_value(&self.operators)?;
            if let Some((_, agreement)) = self.agreement(index) {
                line["agreement"] = serde_json::to_value(agreement)?;
            }
            print_json(&line)?;
        }
        Ok(())
    }

    fn print(&self) -> anyhow::Result<()> {
        let mut out = stdout();
        for (index, report) in self.reports.iter().enumerate() {
            let Ok(report) = report else { continue };
            let score = &self.evaluation.scores[index];
            let threshold = self.evaluation.threshold(index);
            let is_from_test =
                self.scorer.decision().threshold.as_ref().is_some_and(|chosen| chosen.is_from_test);
            let of = if is_from_test { "known test images" } else { "known images" };
            let keep =
                self.scorer.keep().map(|keep| format!(", chosen to keep {} % of {of}", per_cent(keep)));
            let threshold_text = threshold.map_or_else(String::new, |threshold| {
                format!(", threshold {threshold}{}", keep.unwrap_or_default())
            });
            writeln!(out, "score {score}{threshold_text}\n{report}")?;
            if let Some((first, agreement)) = self.agreement(index) {
                let Agreement { greatest_score_difference, label_flips, unknown_flips, .. } = agreement;
                let decide =
                    threshold.is_some() && self.against.is_some_and(|(_, first)| first.decides_by(*score));
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
        }
        let (images, seconds, runtime) = (self.evaluation.images(), self.seconds, self.scorer.runtime());
        let rate = images as f64 / seconds.max(1e-9);
        let degraded = self
            .degraded
            .map_or(String::new(), |degradation| format!(", degraded ({}),", degradation.name()));
        writeln!(out, "{images} images{degraded} in {seconds:.1} s, {rate:.0} images/s, on {runtime}")?;
        writeln!(out, "model with SHA-256 {}", self.sha256)?;
        for (provider, count) in &self.operators {
            writeln!(out, "operators on {provider}: {count}")?;
        }
        Ok(writeln!(out)?)
    }
}
