//! `toolkit export`, and the file that `toolkit import` writes.

use std::{
    io::Write,
    num::NonZeroUsize,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use cac::{
    Error,
    data::{Dataset, KnownData, Readable, Role, Split, exists},
    eval::Agreement,
    export::{self, InputForm, triton},
    files::check_writable_folder,
    image::{Input, unit},
    model::{ModelPrecision, ResizeCheck},
    run::{Checkpoint, CheckpointKind, RUNS, RunFolder},
    text::shown,
};
use clap::ArgMatches;
use ndarray::Array4;

use super::{check_not_read, check_output, is_same_place, print_json};
use crate::{
    cli::{ExportArgs, FileArgs, first_given, is_model},
    terminal::{Advice, data::dataset, quoted, say, stdout},
};

/// Writes the model of a run, or its weights.
pub fn run(args: &ExportArgs, given: &ArgMatches) -> anyhow::Result<()> {
    let run = match &args.run {
        Some(run) => RunFolder::new(run),
        None => {
            let run = RunFolder::newest(Path::new(RUNS))
                .with_context(|| format!("there is no run in `{RUNS}`; train one, or give --run"))?;
            say(format_args!("run: `{}`, the newest with a checkpoint in `{RUNS}`", shown(run.path())));
            run
        }
    };
    check_outputs(&args.model, &args.file, run.files().iter().map(PathBuf::as_path))?;
    let which = if args.last { CheckpointKind::Last } else { CheckpointKind::Best };
    let file = run.checkpoint(which);
    if which == CheckpointKind::Best && !file.exists() && run.checkpoint(CheckpointKind::Last).exists() {
        bail!("`{}` has no finished epoch; export its last weights with --last", shown(run.path()));
    }
    if !file.exists() && run.is_of_version_0_1() {
        bail!("`{}` is a run of version 0.1; only that version can export it", shown(run.path()));
    }
    if !file.exists() && !run.states()?.is_empty() {
        let message = format!("`{}` has no weights to export yet", shown(run.path()));
        let hint = format!("resume it with `toolkit train --resume {}`", quoted(run.path()));
        return Err(Advice::new(message, hint).into());
    }
    let mut checkpoint = Checkpoint::read(&file)?;
    // The last epoch may be the best one. Only the checkpoint of the best has features.
    if args.last
        && checkpoint.features.is_none()
        && let Ok(best) = Checkpoint::read(&run.checkpoint(CheckpointKind::Best))
        && checkpoint.check == best.check
    {
        checkpoint = best;
    }
    // The features of the best epoch are written at the end.
    if which == CheckpointKind::Best
        && checkpoint.features.is_none()
        && let Some(epoch) = checkpoint.facts.training.as_ref().and_then(|training| training.epoch)
    {
        say(format_args!("the run has not ended; its best network so far is that of epoch {epoch}"));
    }
    if args.model.extension().is_some_and(|end| end.eq_ignore_ascii_case("safetensors")) {
        if let Some(flag) = first_given(given, ["mirror"]).or_else(|| FileArgs::first_given(given)) {
            bail!("{flag} is for a model file, not for weights (`{}`)", shown(&args.model));
        }
        checkpoint.write_weights(&args.model)?;
        writeln!(stdout(), "{}: weights from `{}`", shown(&args.model), shown(run.path()))?;
        return Ok(());
    }
    check_is_model(&args.model)?;
    if args.file.precision == ModelPrecision::Float32 && args.file.data.is_given() {
        bail!("--data is for the calibration images of --precision f16 and int8");
    }
    let checkpoint = if args.mirror { checkpoint.of_both_views()? } else { checkpoint };
    let calibration =
        calibration(&args.file, &args.model, checkpoint.facts.data.as_ref(), &checkpoint.facts.input)?;
    write(&checkpoint, &args.file, calibration, &args.model, run.path())
}

/// Checks the name of a model file, by which other commands tell it from images.
pub fn check_is_model(model: &Path) -> anyhow::Result<()> {
    if !is_model(model) {
        bail!("`{}` is not a model name: it must end in .onnx", shown(model));
    }
    Ok(())
}

/// Checks that the model, and the repository for Triton, can be written, before the work begins.
pub fn check_outputs<'a>(
    model: &Path,
    args: &FileArgs,
    inputs: impl IntoIterator<Item = &'a Path>,
) -> anyhow::Result<()> {
    if args.resize && args.input == InputForm::Floats {
        bail!("--resize cannot be combined with `--input f32`");
    }
    check_output(model, inputs)?;
    match &args.triton {
        Some(repository) => Ok(check_writable_folder(repository)?),
        None => Ok(()),
    }
}

/// The calibration images for f16 and int8, from --calibrate or else from the training's data, without its
/// test images; `None` for f32 or without either. The model must not replace one of them. The options of the file are
/// checked first: the images may take long to read.
pub fn calibration(
    args: &FileArgs,
    model: &Path,
    data: Option<&KnownData>,
    input: &Input,
) -> anyhow::Result<Option<Array4<f32>>> {
    args.options(None).check(input)?;
    if args.precision == ModelPrecision::Float32 {
        if args.calibrate.is_some() {
            bail!("--calibrate is for --precision f16 and int8");
        }
        if args.calibration_images.is_some() {
            bail!("--calibration-images is for --precision f16 and int8");
        }
        return Ok(None);
    }
    let (sets, role) = (args.data.folder(), Role::Known(Split::Train));
    let known = data.and_then(|data| sets.resolve(&data.path, &[role]).ok()).filter(|known| exists(known));
    let given = args.calibrate.as_ref().map(|given| dataset(given, &sets, &[role])).transpose()?;
    let Some(folder) = given.as_ref().or(known.as_ref()) else {
        if let Some(data) = data {
            say(format_args!(
                "cannot calibrate or compare on the training images: `{}` not found",
                shown(&data.path)
            ));
        }
        return Ok(None);
    };
    let is_same = known.as_ref().is_some_and(|known| known == folder || is_same_place(known, folder));
    let recorded = data.and_then(|data| data.held_out_test);
    let limited = |images| match data {
        Some(data) => data.without_unknown(images),
        None => images,
    };
    let open = |held_out_test| {
        let whole = KnownData { held_out_test, ..KnownData::new(folder) };
        whole.training(input).map(limited)
    };
    let images = match open(recorded.filter(|_| is_same)) {
        // The same data in another place.
        Err(Error::Undivided { .. }) if recorded.is_some() => open(recorded),
        // Other images need no classes. Without splits, all of them count as test images.
        Err(Error::Undivided { .. }) if !is_same => match Dataset::known(folder, Split::Test, input) {
            Ok(images) => Ok(limited(images)),
            Err(_) => Dataset::unknown(folder, Split::Train, input),
        },
        opened => opened,
    }?;
    check_not_read(model, [&images])?;
    let count = args.calibration_images.map_or(FileArgs::CALIBRATION_IMAGES, NonZeroUsize::get);
    let Readable { images: pixels, errors, .. } = images.readable_batch(&images.draw(count, 0).0);
    if pixels.is_empty() && !errors.is_empty() {
        return Err(Error::BrokenImages { errors }.into());
    }
    if !errors.is_empty() {
        say(format_args!("calibration images that cannot be read and are left out: {}", errors.len()));
    }
    Ok(Some(pixels.mapv(unit)))
}

/// Exports a checkpoint and prints a summary.
pub fn write(
    checkpoint: &Checkpoint,
    args: &FileArgs,
    calibration: Option<Array4<f32>>,
    model: &Path,
    from: &Path,
) -> anyhow::Result<()> {
    let exported = export::export(checkpoint, &args.options(calibration), model)?;
    let published = publish(model, model, args.triton.as_deref())?;
    if exported.manifest.decision.threshold.as_ref().is_some_and(|threshold| threshold.keep.is_some()) {
        exported.manifest.cautions_of_held_out().iter().for_each(say);
    }
    if args.json {
        return print_json(&exported.manifest);
    }
    let threshold =
        exported.manifest.decision.threshold.as_ref().context("an exported model has a threshold")?;
    let rule = match threshold.keep.and_then(|keep| exported.manifest.promise(keep, None)) {
        Some(promise) => format!("keeps {promise}"),
        None => "set by hand".to_owned(),
    };
    let score = exported.manifest.decision.score;
    let choice = exported.manifest.history.choice.as_ref();
    let is_imported = checkpoint.facts.imported.is_some();
    let default = if is_imported { "that of the loss" } else { "that of the training" };
    // An import has no logits of the original to compare with.
    let original = if is_imported {
        format!("those that the toolkit computes for {}", checkpoint.facts.architecture)
    } else {
        "the original's".to_owned()
    };
    let why = match choice {
        Some(choice) => format!(", chosen {choice}"),
        None if args.score.is_none() => match &checkpoint.features {
            None if is_imported => format!(", {default}: too few known images to choose another by"),
            None => format!(", {default}: there are no features to choose another by"),
            Some(features) => {
                let from = if score.reads_features() {
                    "for a last layer trained without outliers"
                } else {
                    default
                };
                let why = if checkpoint.held_out.calibrating.nrows() == 0 {
                    "no images were held out to choose by measurement"
                } else if features.choosing.is_empty() {
                    "too few images were held out to choose by measurement"
                } else {
                    "no other fits"
                };
                format!(", {from}: {why}")
            }
        },
        None => String::new(),
    };
    writeln!(
        stdout(),
        "{}: {:.1} MB from `{}`\nSHA-256 {}\nscore {score}{why}\nthreshold {} ({rule})\nself-check with tract: logits within {:.1e} of \
         {original}; scores, classes and verdicts follow from them",
        shown(model),
        exported.bytes as f64 / 1e6,
        shown(from),
        exported.sha256,
        threshold.value,
        exported.difference,
    )?;
    if let Some(robustness) = &exported.manifest.history.robustness {
        writeln!(stdout(), "degraded: {robustness}")?;
        if let Some(weakness) = robustness.weakness() {
            let can_learn = checkpoint.facts.training.as_ref().is_some_and(|training| {
                training.setting("freeze") == Some(false) && training.setting("degrade") == Some(0.0)
            });
            let advice = if can_learn { "; `train --degrade` may help" } else { "" };
            say(format_args!("{weakness}{advice}"));
        }
    }
    if let Some(ResizeCheck { images, values, differing, .. }) = exported.manifest.history.resize_check {
        writeln!(
            stdout(),
            "resizing with tract: {differing} of {values} values differ from the toolkit's, on {images} images of other sizes"
        )?;
    }
    if let Some(Agreement { images, label_flips, unknown_flips, .. }) = exported.agreement {
        writeln!(
            stdout(),
            "compared with f32 on {images} training images: {label_flips} classes and {unknown_flips} verdicts differ"
        )?;
    }
    print_published(published.as_ref())
}

/// Adds `model` to a Triton model repository, if one is given, under the name of the file `of`.
pub fn publish(
    model: &Path,
    of: &Path,
    repository: Option<&Path>,
) -> anyhow::Result<Option<triton::Published>> {
    let Some(repository) = repository else { return Ok(None) };
    let published = triton::publish_version(model, of, repository);
    if published.is_err() {
        say(format_args!("wrote the model to `{}`", shown(model)));
    }
    Ok(Some(published?))
}

/// Prints where a model was added to a repository.
pub fn print_published(published: Option<&triton::Published>) -> anyhow::Result<()> {
    if let Some(triton::Published { folder, version, service, .. }) = published {
        writeln!(
            stdout(),
            "for Triton: version {version} in `{}`\nfor KServe: `{}`, whose storageUri must be set",
            shown(folder),
            shown(service)
        )?;
    }
    Ok(())
}
