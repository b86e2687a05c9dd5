//! `toolkit recalibrate`

use std::{io::Write, path::Path};

use cac::{
    data::{DataFolder, Dataset, Role, Split},
    export::{self, RecalibrateOptions, Recalibrated},
    files::check_writable_folder,
    model::{Inspection, Manifest},
    text::{not_counted, path_text},
};
use serde_json::json;

use super::{
    check_not_read, check_output,
    export::{check_is_model, print_published, publish},
    print_json, read_model,
};
use crate::{
    cli::RecalibrateArgs,
    terminal::{Progress, data::dataset, say, say_left_out, stdout},
};

/// Writes a model with a threshold that is chosen from other known images.
pub fn run(args: &RecalibrateArgs) -> anyhow::Result<()> {
    check_output(&args.output, [args.model.as_path()])?;
    check_is_model(&args.output)?;
    if let Some(repository) = &args.triton {
        check_writable_folder(repository)?;
    }
    let (bytes, origin) = read_model(Some(&args.model), &args.signature)?;
    let Inspection { manifest, .. } = Inspection::of(&bytes, &origin)?;
    let data = args.data.folder();
    let folder = dataset(&args.known, &data, &[Role::Known(Split::Test)])?;
    let images = open(&folder, &manifest)?;
    say_left_out(images.left_out());
    check_not_read(&args.output, [&images])?;
    let images = without_learned(images, &manifest, &data)?;
    let options =
        RecalibrateOptions { keep: args.keep, provider: args.provider, skip_broken: args.skip_broken };
    let mut bar = Progress::new(format!("scoring `{}`", path_text(&folder)), images.len());
    let mut done = 0;
    let recalibrated = export::recalibrate(bytes, &origin, &images, options, &args.output, |more| {
        done += more;
        bar.update(done, "images");
    });
    bar.finish();
    let recalibrated = recalibrated?;
    let published = publish(args.triton.as_deref(), &args.output)?;
    if args.json {
        let Recalibrated { manifest, images, skipped, kept_before, accuracy, sha256, .. } = recalibrated;
        return print_json(&json!({
            "sha256": sha256,
            "images": images,
            "skipped": skipped,
            "kept_before": kept_before,
            "accuracy": accuracy,
            "manifest": manifest,
        }));
    }
    print(args, &recalibrated)?;
    print_published(published.as_ref())
}

/// The images of known classes: in class folders those of the model, else of any folder.
fn open(folder: &Path, manifest: &Manifest) -> anyhow::Result<Dataset> {
    let decision = &manifest.decision;
    let labelled = Dataset::known(folder, Split::Test, &decision.input).ok().filter(|images| {
        // Other folders are no classes, such as one for each day.
        images.classes().iter().any(|class| decision.classes.contains(class))
    });
    Ok(match labelled {
        Some(images) => images.align(&decision.classes)?,
        None => Dataset::unknown(folder, Split::Test, &decision.input)?,
    })
}

/// The images without copies, and without those that the model learned from, as far as its training images are
/// where they were.
fn without_learned(images: Dataset, manifest: &Manifest, data: &DataFolder) -> anyhow::Result<Dataset> {
    let distinct = images.without_copies(None)?;
    if distinct.len() < images.len() {
        say(format_args!("left out copies of other images: {}", images.len() - distinct.len()));
    }
    let trained = manifest.history.training.as_ref().and_then(|training| training.known_data());
    let training = trained.and_then(|trained| {
        let folder = data.resolve(&trained.path, &[Role::Known(Split::Train)]).ok()?;
        trained.at(&folder).training(&manifest.decision.input).ok()
    });
    let Some(training) = training else { return Ok(distinct) };
    let unseen = distinct.without_copies(Some(&training))?;
    if unseen.len() < distinct.len() {
        say(format_args!("left out training images of the model: {}", distinct.len() - unseen.len()));
    }
    Ok(unseen)
}

fn print(args: &RecalibrateArgs, recalibrated: &Recalibrated) -> anyhow::Result<()> {
    let Recalibrated { manifest, bytes, sha256, images, skipped, kept_before, accuracy, .. } = recalibrated;
    let mut out = stdout();
    writeln!(
        out,
        "{}: {:.1} MB from `{}`\nSHA-256 {sha256}",
        args.output.display(),
        *bytes as f64 / 1e6,
        args.model.display()
    )?;
    if let Some(accuracy) = accuracy {
        writeln!(out, "accuracy {:.1} % of {images} images", 100.0 * accuracy)?;
    }
    writeln!(out, "earlier threshold: keeps {:.1} % of {images} images", 100.0 * kept_before)?;
    if let Some(threshold) = &manifest.decision.threshold {
        let promise = threshold.keep.and_then(|keep| manifest.promise(keep, None)).unwrap_or_default();
        writeln!(out, "threshold {} (keeps {promise})", threshold.value)?;
    }
    writeln!(out, "self-check with tract: verdicts and p-values follow from the scores")?;
    if let Some(sentence) = not_counted(*skipped) {
        writeln!(out, "{sentence}")?;
    }
    Ok(())
}
