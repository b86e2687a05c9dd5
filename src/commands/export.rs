//! `toolkit export`, and the file that `toolkit import` writes.

use std::{
    io::{Write, stdout},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use cac::{
    checkpoint::{Checkpoint, Which},
    dataset::{Protocol, open_training},
    eval::Agreement,
    export,
    manifest::{Manifest, Precision},
    triton,
};
use ndarray::Array4;

use super::{RUNS, check_folder, print_json};
use crate::cli::{ExportArgs, FileArgs};

/// Writes the model of a run.
pub fn run(args: &ExportArgs) -> anyhow::Result<()> {
    check_folder(&args.model)?;
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
    let protocol = training.and_then(|training| training.protocol);
    let calibration = match (&args.file.calibrate, training.map(|training| &training.known)) {
        (Some(folder), _) => calibration(&args.file, folder, protocol, &checkpoint.manifest)?,
        (None, Some(folder)) if folder.exists() => {
            calibration(&args.file, folder, protocol, &checkpoint.manifest)?
        }
        _ => None,
    };
    write(&checkpoint, &args.file, calibration, &args.model, &run)
}

/// The known pictures with which a file of another precision is calibrated.
pub fn calibration(
    args: &FileArgs,
    folder: &Path,
    protocol: Option<Protocol>,
    manifest: &Manifest,
) -> anyhow::Result<Option<Array4<f32>>> {
    if args.precision == Precision::Float32 {
        if args.calibrate.is_some() {
            bail!("--calibrate is for --precision f16 and int8");
        }
        return Ok(None);
    }
    let (height, width) = (manifest.input.height, manifest.input.width);
    let pictures = open_training(folder, protocol.as_ref(), height, width)?;
    let drawn = pictures.draw(args.calibration_pictures.get(), 0).0;
    Ok(Some(pictures.images(&drawn)?))
}

/// Exports a checkpoint and says what came of it.
pub fn write(
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
