//! The command line: parses, calls the library, prints. Every subcommand is one function here.

mod cli;
mod progress;

use std::{
    collections::BTreeMap,
    io::{ErrorKind, Write, stdout},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use anyhow::{Context, bail};
#[cfg(feature = "train")]
use cac::{
    arch::{Architecture, CacNet, WideResNet},
    cac::Variant,
    manifest::Training,
    recipe::Recipe,
};
use cac::{
    cac::{AnchorKind, Loss},
    checkpoint::{Checkpoint, Which},
    dataset::{Dataset, Protocol, UnknownSet, open_test, open_training},
    eval::{self, Agreement, Evaluation},
    export,
    import::{self, Calibration},
    inspect::Inspection,
    manifest::{Input, Manifest, Precision},
    metrics::{Kind, Stream},
    preprocess,
    report::Report,
    score_file::{self, Entry},
    scorer::{Provider, Scorer},
    triton,
    weights::{Published, Weights},
};
use clap::Parser;
use cli::{
    Cli, Command, EvalArgs, ExportArgs, FileArgs, ImportArgs, InspectArgs, MetricsArgs, ProvidersArgs,
    ScoreArgs, ScorerArgs, TrainArgs,
};
#[cfg(feature = "train")]
use cli::{Family, Objective, SettingsArgs};
use ndarray::Array4;
use progress::Progress;

/// The model that is used where none is named.
const MODEL: &[u8] = include_bytes!("../exported/cifar10-wrn-40-2.onnx");

/// Where runs lie unless told otherwise.
const RUNS: &str = "runs";

fn main() -> ExitCode {
    let result = TrainArgs::expand(std::env::args_os().collect()).and_then(|args| run(Cli::parse_from(args)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read our output has had enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let hint = match error.downcast_ref::<cac::Error>() {
                // Its message tells the cause already.
                Some(error) => {
                    eprintln!("error: {error}");
                    error.hint()
                }
                None => {
                    eprintln!("error: {error:#}");
                    None
                }
            };
            if let Some(hint) = hint {
                eprintln!("hint: {hint}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Command::Train(args) => train(&args),
        Command::Import(args) => import_weights(&args),
        Command::Export(args) => export_model(&args),
        Command::Eval(args) => evaluate(&args),
        Command::Metrics(args) => metrics(&args),
        Command::Score(args) => score(&args),
        Command::Inspect(args) => inspect(&args),
        Command::Providers(args) => providers(&args),
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}

#[cfg(not(feature = "train"))]
fn train(_: &TrainArgs) -> anyhow::Result<()> {
    bail!(
        "this toolkit was built without training; `make native`, then `cargo build --release --features train`"
    )
}

#[cfg(feature = "train")]
fn train(args: &TrainArgs) -> anyhow::Result<()> {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering},
        },
        time::Duration,
    };

    use cac::train::{Event, Outcome, Start, train};
    use signal_hook::{
        consts::{SIGINT, SIGTERM},
        iterator::Signals,
    };

    let (settings, run, start, file) = match (&args.resume, &args.settings) {
        (Some(run), _) => (cac::train::settings(run)?, run.clone(), Start::Resume, None),
        (None, None) => bail!("give --known, --config or --resume"),
        (None, Some(given)) => {
            let mut filled = given.clone();
            let settings = resolve(&mut filled)?;
            let run = match &args.run {
                Some(run) => run.clone(),
                None => next_run(),
            };
            if run.join("log.jsonl").exists() {
                bail!("`{}` already holds a run; --resume goes on with it", run.display());
            }
            let file = toml::to_string(&filled)?;
            (settings, run, Start::New, Some(file))
        }
    };

    let stop = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&stop);
    let mut signals = Signals::new([SIGINT, SIGTERM]).context("cannot handle Ctrl-C")?;
    std::thread::spawn(move || {
        for _ in signals.forever() {
            if asked.swap(true, Ordering::Relaxed) {
                std::process::exit(1);
            }
            eprintln!("stopping after this step or test; once more to stop at once");
        }
    });

    let (mut epochs, mut steps) = (0, 0);
    let mut bar: Option<Progress> = None;
    let save_every = Duration::from_secs_f64(args.save_every);
    let mut unwritten = None;
    let outcome = train(&settings, &run, start, save_every, &stop, |event| {
        if args.json {
            let line = serde_json::to_string(event).expect("an event is plain data");
            // Losing the reader must not end the run.
            let _ = writeln!(stdout(), "{line}");
        }
        match event {
            Event::Start { pictures, steps: in_epoch, epochs: all } => {
                (epochs, steps) = (*all, *in_epoch);
                if let Some(file) = &file {
                    unwritten = std::fs::write(run.join("settings.toml"), file).err();
                    // Better now than after hours.
                    stop.fetch_or(unwritten.is_some(), Ordering::Relaxed);
                }
                eprintln!("training on {pictures} pictures, results in `{}`", run.display());
            }
            Event::Step { epoch, step, loss, learning_rate, pictures_per_second } => {
                let current =
                    bar.get_or_insert_with(|| Progress::new(format!("epoch {epoch}/{epochs}"), steps));
                let message =
                    format!("loss {loss:.4}, lr {learning_rate:.2e}, {pictures_per_second:.1} pictures/s");
                current.update(*step, &message);
                // Not every epoch is tested.
                if let Some(bar) = bar.take_if(|_| *step == steps) {
                    bar.finish("");
                }
            }
            Event::Testing { epoch } => eprintln!("epoch {epoch}/{epochs}: testing"),
            Event::Epoch { epoch, held_out_loss, best, seconds, report } => {
                let held_out = held_out_loss.map(|loss| format!(", held-out loss {loss:.4}"));
                let best = if *best { " (best)" } else { "" };
                let held_out = held_out.unwrap_or_default();
                eprintln!("epoch {epoch}/{epochs}: {seconds:.0} s{held_out}{best}\n{report}");
            }
        }
    })?;
    if let Some(bar) = bar {
        bar.finish("");
    }
    if let Some(error) = unwritten {
        return Err(error).with_context(|| format!("cannot write `settings.toml` in `{}`", run.display()));
    }
    match outcome {
        Outcome::Finished(report) if !args.json => {
            writeln!(stdout(), "{report}run: {}", run.display())?;
            Ok(())
        }
        Outcome::Finished(_) => Ok(()),
        Outcome::Interrupted { epoch } => bail!(
            "interrupted in epoch {epoch}; `toolkit train --resume {}` goes on from there, and the weights of that \
             moment are `weights-last.safetensors` in it",
            run.display()
        ),
    }
}

/// What the settings mean to the library; what they leave open is filled in.
#[cfg(feature = "train")]
fn resolve(args: &mut SettingsArgs) -> anyhow::Result<cac::train::Settings> {
    let loss = match args.loss {
        Objective::Cac => {
            let Loss { variant, magnitude, weight } = Loss::new(args.variant);
            let magnitude = *args.magnitude.get_or_insert(magnitude);
            Loss { variant, magnitude, weight: *args.weight.get_or_insert(weight) }
        }
        Objective::CrossEntropy if args.magnitude.is_some() || args.weight.is_some() => {
            bail!("--magnitude and --weight are settings of --loss cac")
        }
        Objective::CrossEntropy => Loss::new(Variant::CrossEntropy),
    };
    args.precision = args.precision.resolved(&args.device);
    let mut input = Input { height: args.size, width: args.size, ..Input::default() };
    let mut found = None;
    if let Some(backbone) = &mut args.backbone {
        (*backbone, input.mean, input.std) = weights_file(backbone)?;
        found = Some(Weights::read(backbone)?.recognize()?.0);
    }
    input.mean = *args.mean.get_or_insert(input.mean);
    input.std = *args.std.get_or_insert(input.std);
    let (mut wide, mut plain) = (WideResNet::default(), CacNet::default());
    let family = match found {
        Some(Architecture::WideResNet(found)) => {
            wide = found;
            Family::WideResnet
        }
        Some(Architecture::CacNet(found)) => {
            plain = found;
            Family::CacNet
        }
        _ => Family::WideResnet,
    };
    let architecture = match args.arch.get_or_insert(family) {
        Family::WideResnet if args.channels.is_some() => bail!("--channels is a setting of cac-net"),
        Family::WideResnet => Architecture::WideResNet(WideResNet {
            depth: *args.depth.get_or_insert(wide.depth),
            widen_factor: *args.widen_factor.get_or_insert(wide.widen_factor),
            dropout: *args.dropout.get_or_insert(wide.dropout),
        }),
        Family::CacNet if args.depth.is_some() || args.widen_factor.is_some() => {
            bail!("--depth and --widen-factor are settings of wide-resnet")
        }
        Family::CacNet => Architecture::CacNet(CacNet {
            channels: *args.channels.get_or_insert(plain.channels),
            size: args.size,
            dropout: *args.dropout.get_or_insert(plain.dropout),
        }),
    };
    let training = Training {
        known: args.known.clone(),
        unknown: args.unknown.clone(),
        protocol: args.protocol.map(|protocol| protocol.to_string()),
        backbone: args.backbone.clone(),
        epochs: args.epochs,
        batch_size: args.batch_size,
        learning_rate: *args.learning_rate.get_or_insert(args.optimizer.learning_rate(loss.variant)),
        seed: args.seed,
        held_out: args.held_out,
        anchor_pictures: args.anchor_pictures,
        device: args.device.clone(),
        recipe: Recipe {
            optimizer: args.optimizer,
            schedule: args.schedule,
            warm_up: args.warm_up,
            weight_decay: args.weight_decay,
            augment: args.augment,
            trim: args.trim,
            average: args.average,
            outliers: args.outliers.clone(),
            outlier_share: args.outlier_share,
            outlier_weight: args.outlier_weight,
        },
        pictures: 0,
        epoch: 0,
    };
    let (precision, test_every) = (args.precision, args.test_every);
    Ok(cac::train::Settings { loss, architecture, input, training, precision, test_every })
}

/// The file of weights that a user means, with the mean and the standard deviation of their pictures: this one with
/// the usual ones or, where there is no such file, the published ones of this name, which are fetched once.
fn weights_file(text: &Path) -> anyhow::Result<(PathBuf, [f32; 3], [f32; 3])> {
    let Input { mean, std, .. } = Input::default();
    let published = text.to_str().filter(|_| !text.exists()).and_then(Published::named);
    let Some(published) = published else {
        if !text.exists() && text.extension().is_none() {
            bail!(
                "`{}` is neither a file nor the name of published weights: {}",
                text.display(),
                cli::published_names()
            );
        }
        return Ok((text.to_owned(), mean, std));
    };
    let mut bar: Option<Progress> = None;
    let file = published.fetch(|done, total| {
        let bar = bar.get_or_insert_with(|| Progress::new(format!("fetching {}", published.name), total));
        bar.update(done, "bytes");
    })?;
    if let Some(bar) = bar {
        bar.finish("");
    }
    Ok((file, published.mean, published.std))
}

fn import_weights(args: &ImportArgs) -> anyhow::Result<()> {
    let (file, mean, std) = weights_file(&args.weights)?;
    let weights = Weights::read(&file)?;
    let size = weights.recognize()?.0.fixed_size().unwrap_or(args.size);
    let named = (!args.classes.is_empty()).then_some(&args.classes);
    let mut known = None;
    if let Some(folder) = &args.known {
        let pictures = open_training(folder, args.protocol.as_ref(), size, size)?;
        known = Some(match named {
            Some(classes) => pictures.align(classes)?,
            None => pictures,
        });
    }
    let defaults = Loss::new(args.variant);
    let settings = import::Settings {
        file: args.weights.clone(),
        classes: known.as_ref().map(Dataset::classes).or(named.map(Vec::as_slice)).map(<[String]>::to_vec),
        input: Input {
            height: size,
            width: size,
            mean: args.mean.unwrap_or(mean),
            std: args.std.unwrap_or(std),
        },
        loss: Loss { magnitude: args.magnitude.unwrap_or(defaults.magnitude), ..defaults },
    };
    let mut checkpoint = import::checkpoint(&weights, &settings)?;
    if let Some(known) = known {
        let count = if args.pictures == 0 { known.len() } else { args.pictures };
        let known = known.pick(&known.draw(count, 0).0)?;
        let calibration = Calibration {
            pictures: &known,
            class_means: args.variant.anchor_kind() == AnchorKind::ClassMeans && !args.keep_anchors,
            mirrored: !args.no_mirror,
            provider: args.provider,
        };
        let passes = if calibration.class_means && calibration.mirrored { 2 } else { 1 };
        let mut bar = Progress::new("calibrating".to_owned(), passes * known.len());
        let mut done = 0;
        import::calibrate(&mut checkpoint, &calibration, |more| {
            done += more;
            bar.update(done, "pictures");
        })?;
        bar.finish("");
    }
    let calibration = match (&args.file.calibrate, &args.known) {
        (Some(folder), _) | (None, Some(folder)) => {
            calibration(&args.file, folder, args.protocol, &checkpoint.manifest)?
        }
        (None, None) => None,
    };
    write_model(&checkpoint, &args.file, calibration, &args.model, &args.weights)
}

fn export_model(args: &ExportArgs) -> anyhow::Result<()> {
    let run = match &args.run {
        Some(run) => run.clone(),
        None => newest_run()?,
    };
    let which = if args.last { Which::Last } else { Which::Best };
    if which == Which::Best && !which.manifest(&run).exists() && Which::Last.manifest(&run).exists() {
        bail!("`{}` has no finished epoch; `--last` takes the weights of its interruption", run.display());
    }
    let checkpoint = Checkpoint::open(&run, which)?;
    let training = checkpoint.manifest.training.as_ref();
    let protocol = training.and_then(|training| training.protocol.as_deref()).map(str::parse).transpose()?;
    let calibration = match (&args.file.calibrate, training.map(|training| &training.known)) {
        (Some(folder), _) => calibration(&args.file, folder, protocol, &checkpoint.manifest)?,
        (None, Some(folder)) if folder.exists() => {
            calibration(&args.file, folder, protocol, &checkpoint.manifest)?
        }
        _ => None,
    };
    write_model(&checkpoint, &args.file, calibration, &args.model, &run)
}

/// The known pictures with which a file of another precision is calibrated.
fn calibration(
    args: &FileArgs,
    folder: &Path,
    protocol: Option<Protocol>,
    manifest: &Manifest,
) -> anyhow::Result<Option<Array4<f32>>> {
    if args.precision == Precision::Float32 {
        return Ok(None);
    }
    let (height, width) = (manifest.input.height, manifest.input.width);
    let pictures = open_training(folder, protocol.as_ref(), height, width)?;
    let drawn = pictures.draw(args.calibration_pictures, 0).0;
    let values: Vec<f32> = pictures.batch(&drawn)?.into_iter().map(preprocess::unit).collect();
    Ok(Some(Array4::from_shape_vec((drawn.len(), 3, height, width), values)?))
}

/// Exports a checkpoint and says what came of it.
fn write_model(
    checkpoint: &Checkpoint,
    args: &FileArgs,
    calibration: Option<Array4<f32>>,
    model: &Path,
    from: &Path,
) -> anyhow::Result<()> {
    let exported = export::export(checkpoint, &args.options(calibration), model)?;
    let published = match &args.triton {
        Some(repository) => Some(triton::publish(model, repository)?),
        None => None,
    };
    if args.json {
        return print_json(&exported.manifest);
    }
    let threshold = exported.manifest.threshold.as_ref().context("an exported model has a threshold")?;
    let rule = threshold
        .keep
        .map_or("set by hand".to_owned(), |keep| format!("keeps {} % of {}", 100.0 * keep, threshold.data));
    writeln!(
        stdout(),
        "{}: {:.1} MB from `{}`\nthreshold {} ({rule})\nself-check with tract: logits within {:.1e} of the \
         original's",
        model.display(),
        exported.bytes as f64 / 1e6,
        from.display(),
        threshold.value,
        exported.difference,
    )?;
    if let Some(Agreement { pictures, label_flips, unknown_flips, .. }) = exported.agreement {
        writeln!(
            stdout(),
            "against f32 on {pictures} training pictures: {label_flips} other classes, {unknown_flips} other verdicts"
        )?;
    }
    if let Some(triton::Published { folder, version, service }) = published {
        writeln!(
            stdout(),
            "for Triton: version {version} in `{}`\nfor KServe: `{}`, whose storageUri must be set",
            folder.display(),
            service.display()
        )?;
    }
    Ok(())
}

fn evaluate(args: &EvalArgs) -> anyhow::Result<()> {
    let models: Vec<Option<&Path>> = match &args.model[..] {
        [] => vec![None],
        models => models.iter().map(|model| Some(model.as_path())).collect(),
    };
    // Whether every model can be read and every provider be used is known before any picture is read.
    let mut runs = Vec::new();
    for &model in &models {
        for &provider in &args.provider {
            let name = match model {
                Some(model) if models.len() > 1 => format!("{} on {provider}", model.display()),
                _ => provider.to_string(),
            };
            runs.push((name, model, open_scorer(model, &args.scorer, provider)?));
        }
    }
    let (first_name, _, scorer) = runs.first().context("no provider")?;
    let manifest = scorer.manifest();
    for (name, _, scorer) in &runs {
        let other = scorer.manifest();
        let size = |manifest: &Manifest| (manifest.input.height, manifest.input.width);
        if other.classes != manifest.classes || size(other) != size(manifest) || other.score != manifest.score
        {
            bail!("{name} has other classes, another size or another score than {first_name}");
        }
    }
    let (height, width) = (manifest.input.height, manifest.input.width);
    // Without data given it is that of the training.
    let training = manifest.training.as_ref().filter(|_| args.known.is_none());
    let known = match (&args.known, training) {
        (Some(known), _) => known,
        (None, Some(training)) if training.known.exists() => &training.known,
        (None, Some(training)) => {
            bail!(
                "the pictures that it was trained on, `{}`, are not here; give --known DIR and --unknown NAME=DIR",
                training.known.display()
            )
        }
        (None, None) => bail!("the model does not tell its training data; give --known"),
    };
    let unknown = match training {
        Some(training) if args.unknown.is_empty() => &training.unknown,
        _ => &args.unknown,
    };
    let trained_protocol = training.and_then(|training| training.protocol.as_deref());
    let protocol = match &args.protocol {
        Some(protocol) => Some(*protocol),
        None => trained_protocol.map(str::parse).transpose()?,
    };
    let own = manifest.score;
    let is_threshold_used = args.score.is_empty() || args.score.contains(&own);
    if (args.scorer.threshold.is_some() || args.scorer.keep.is_some()) && !is_threshold_used {
        bail!("a threshold is for the model's own score, `{own}`, which is not among those of --score");
    }
    if (1..args.score.len()).any(|index| args.score[..index].contains(&args.score[index])) {
        bail!("--score names a score twice");
    }
    let (known, unknown) = open_test(known, unknown, protocol.as_ref(), height, width)?;
    let known = known.align(&manifest.classes)?;
    if unknown.is_empty() {
        eprintln!("without --unknown NAME=DIR only the known pictures are measured");
    }
    let total = known.len() + unknown.iter().map(|set| set.pictures.len()).sum::<usize>();

    let mut first: Option<Evaluation> = None;
    for (name, model, scorer) in &runs {
        let start = Instant::now();
        let mut bar = Progress::new(format!("scoring with {name}"), total);
        let settings = args.report.settings(None);
        let evaluation = eval::evaluate(scorer, &known, &unknown, &args.score, &settings, |done| {
            let rate = done as f64 / start.elapsed().as_secs_f64();
            bar.update(done, &format!("{rate:.0} pictures/s"));
        });
        bar.finish("");
        let evaluation = evaluation?;
        let placement = scorer.placement().unwrap_or_else(|error| {
            eprintln!("it is not known where the operators ran: {error}");
            BTreeMap::new()
        });
        let agreements: Vec<Agreement> =
            first.iter().flat_map(|first| first.agreement(&evaluation)).collect();
        if args.scorer.json {
            for (index, table) in evaluation.tables.iter().enumerate() {
                let mut line = serde_json::to_value(table)?;
                line["model"] = model.map(Path::to_string_lossy).into();
                line["provider"] = evaluation.provider.clone().into();
                line["pictures"] = evaluation.pictures.into();
                line["seconds"] = evaluation.seconds.into();
                line["operators"] = serde_json::to_value(&placement)?;
                if let Some(agreement) = agreements.get(index) {
                    line["agreement"] = serde_json::to_value(agreement)?;
                }
                print_json(&line)?;
            }
        } else {
            print_evaluation(&evaluation, &agreements, first_name, &placement)?;
        }
        first.get_or_insert(evaluation);
    }
    if let (Some(path), Some(evaluation)) = (&args.scores, &first) {
        write_scores(path, evaluation, &known, &unknown)?;
    }
    Ok(())
}

fn print_evaluation(
    evaluation: &Evaluation,
    agreements: &[Agreement],
    first: &str,
    placement: &BTreeMap<String, usize>,
) -> anyhow::Result<()> {
    let Evaluation { provider, pictures, seconds, tables } = evaluation;
    let mut out = stdout();
    for (index, table) in tables.iter().enumerate() {
        let threshold = table.threshold.map_or(String::new(), |threshold| format!(", threshold {threshold}"));
        writeln!(out, "score {}{threshold}\n{}", table.score, table.report)?;
        if let Some(agreement) = agreements.get(index) {
            let Agreement { greatest_score_difference, label_flips, unknown_flips, .. } = agreement;
            writeln!(
                out,
                "against {first}: scores differ by {greatest_score_difference:.1e} at most, {label_flips} \
                 other classes, {unknown_flips} other verdicts"
            )?;
        }
    }
    let rate = *pictures as f64 / seconds;
    writeln!(out, "{pictures} pictures in {seconds:.1} s, {rate:.0} pictures/s, on {provider}")?;
    for (provider, count) in placement {
        writeln!(out, "operators on {provider}: {count}")?;
    }
    writeln!(out)?;
    Ok(())
}

/// Writes the scores of all pictures that an evaluation has seen.
fn write_scores(
    path: &Path,
    evaluation: &Evaluation,
    known: &Dataset,
    unknown: &[UnknownSet],
) -> anyhow::Result<()> {
    let scores: Vec<_> = evaluation.tables.iter().map(|table| table.score).collect();
    let names = ["known"].into_iter().chain(unknown.iter().map(|set| set.name.as_str()));
    let labels = [known].into_iter().chain(unknown.iter().map(|set| &set.pictures)).map(Dataset::labels);
    let sets: Vec<score_file::Set> = names
        .zip(labels)
        .enumerate()
        .map(|(index, (name, labels))| {
            let scored = evaluation.tables.iter().map(|table| &table.scored[index]).collect();
            score_file::Set { name, labels, scored }
        })
        .collect();
    Ok(score_file::write(path, &scores, &sets)?)
}

fn metrics(args: &MetricsArgs) -> anyhow::Result<()> {
    let right = |entry: &Entry| entry.prediction.map(|prediction| prediction == entry.label);
    if let Some(bins) = args.stream {
        let mut stream = Stream::new(bins as usize);
        let mut is_judged = true;
        score_file::read(&args.file, &args.column, |entry| {
            let right = right(&entry);
            is_judged &= right.is_some();
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

fn score(args: &ScoreArgs) -> anyhow::Result<()> {
    let (model, pictures) = args.model_and_pictures();
    if pictures.is_empty() {
        bail!("give pictures behind the model");
    }
    let scorer = open_scorer(model.map(PathBuf::as_path), &args.scorer, args.provider)?;
    for path in pictures {
        let verdict = scorer.score_picture(&preprocess::open(path)?.into())?;
        if args.scorer.json {
            print_json(&serde_json::json!({ "picture": path.to_string_lossy(), "verdict": verdict }))?;
        } else {
            let class = if verdict.unknown { "unknown" } else { &verdict.class };
            let (path, score, threshold) = (path.display(), verdict.score, verdict.threshold);
            writeln!(stdout(), "{path}\t{class}\t{score:.4}\t{threshold:.4}")?;
        }
    }
    Ok(())
}

fn inspect(args: &InspectArgs) -> anyhow::Result<()> {
    let inspection = match &args.model {
        Some(model) => Inspection::open(model)?,
        None => Inspection::of(MODEL, "the model that is built in")?,
    };
    if args.json {
        return print_json(&inspection);
    }
    write!(stdout(), "{inspection}")?;
    Ok(())
}

fn providers(args: &ProvidersArgs) -> anyhow::Result<()> {
    for provider in Provider::ALL {
        let checked = provider.check();
        if args.json {
            let reason = match &checked {
                Err(cac::Error::Provider { reason, .. }) => Some(reason.clone()),
                Err(error) => Some(error.to_string()),
                Ok(_) => None,
            };
            let (available, runtime) = (checked.is_ok(), checked.ok());
            let provider = provider.to_string();
            print_json(&serde_json::json!({
                "provider": provider, "available": available, "runtime": runtime, "reason": reason
            }))?;
        } else {
            let (mark, text) = match checked {
                Ok(runtime) => ("yes", runtime),
                Err(cac::Error::Provider { reason, .. }) => ("no", reason),
                Err(error) => ("no", error.to_string()),
            };
            writeln!(stdout(), "{:<12} {mark:<3}  {text}", provider.to_string())?;
        }
    }
    Ok(())
}

fn open_scorer(model: Option<&Path>, args: &ScorerArgs, provider: Provider) -> cac::Result<Scorer> {
    let scorer = match model {
        Some(model) => Scorer::open(model, provider)?,
        None => Scorer::from_bytes(MODEL, provider)?,
    };
    match (args.keep, args.threshold) {
        (Some(keep), _) => scorer.with_keep(keep),
        (None, Some(threshold)) => scorer.with_threshold(threshold),
        (None, None) => Ok(scorer),
    }
}

fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_string(value)?;
    writeln!(stdout(), "{text}")?;
    Ok(())
}

/// The folder in [`RUNS`] with the next free number.
#[cfg(feature = "train")]
fn next_run() -> PathBuf {
    let runs = Path::new(RUNS);
    let names = runs.read_dir().into_iter().flatten().filter_map(|entry| Some(entry.ok()?.file_name()));
    let last = names.filter_map(|name| name.to_str()?.parse::<u32>().ok()).max();
    runs.join(last.map_or(1, |last| last + 1).to_string())
}

/// The run in [`RUNS`] whose weights were written last, interrupted or not.
fn newest_run() -> anyhow::Result<PathBuf> {
    let written = |run: &PathBuf| {
        let manifests = [Which::Best, Which::Last].map(|which| which.manifest(run));
        manifests.iter().filter_map(|file| file.metadata().ok()?.modified().ok()).max()
    };
    let runs = Path::new(RUNS).read_dir().into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    let newest = runs.filter_map(|run| Some((written(&run)?, run))).max();
    Ok(newest.with_context(|| format!("there is no run in `{RUNS}`; train one, or give --run"))?.1)
}
