//! `toolkit recalibrate`

use std::{io::Write, path::Path};

use cac::{
    Error,
    data::{DataFolder, Dataset, PublishedSet, Role, Split, is_divided},
    export::{self, RecalibrateOptions, Recalibrated},
    files::check_writable_folder,
    method::{check_enough, needed},
    model::{Inspection, Manifest},
    text::{first_few, not_counted, on_one_line, per_cent, shown},
};
use serde_json::json;

use super::{
    check_not_read, check_output,
    export::{check_is_model, print_published, publish},
    print_json, read_model,
    recorded::{Found, Recorded, recorded},
};
use crate::{
    cli::RecalibrateArgs,
    terminal::{Advice, Progress, data::dataset, say, say_left_out, stdout},
};

/// The share kept by the earlier threshold below which the images may not be of the known classes.
const FEW: f64 = 0.5;

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
    let images = open(&args.known, &folder, &manifest)?;
    say_left_out(images.left_out());
    check_not_read(&args.output, [&images])?;
    let (images, training) = apart(images, &folder, &manifest, &data)?;
    if images.is_empty() {
        let message = format!("no image in `{}` is left to choose the threshold from", shown(&folder));
        return Err(Advice::new(message, "give images that had no other use in the model").into());
    }
    let missing = first_few(images.classes_without_images().map(on_one_line));
    if !missing.is_empty() {
        say(format_args!("classes without images, which the guarantee does not cover: {missing}"));
    }
    let options = RecalibrateOptions {
        keep: args.keep,
        provider: args.provider,
        skip_broken: args.skip_broken,
        compared: training.is_some(),
        alike: None,
    };
    // Before training images are decoded, which takes long.
    check_enough(images.len(), options.share_to_keep(&manifest.decision))?;
    let options = RecalibrateOptions { alike: lookalikes(&images, training.as_ref()), ..options };
    let mut bar = Progress::new(format!("scoring `{}`", shown(&folder)), images.len());
    let recalibrated = export::recalibrate(bytes, &origin, &images, options, &args.output, |more| {
        bar.advance(more, "images");
    });
    bar.finish();
    let recalibrated = recalibrated?;
    if recalibrated.kept_before < FEW {
        say(format_args!(
            "the earlier threshold keeps only {:.1} % of these images: check that they are of the known classes",
            100.0 * recalibrated.kept_before
        ));
    }
    say_lost_points(&manifest, &recalibrated);
    recalibrated.manifest.cautions_of_held_out().iter().for_each(say);
    let published = publish(&args.output, &args.model, args.triton.as_deref())?;
    if args.json {
        let Recalibrated { manifest, images, skipped, kept_before, chose_before, accuracy, sha256, .. } =
            recalibrated;
        return print_json(&json!({
            "sha256": sha256,
            "images": images,
            "skipped": skipped,
            "kept_before": kept_before,
            "chose_before": chose_before,
            "accuracy": accuracy,
            "manifest": manifest,
        }));
    }
    print(args, &recalibrated)?;
    print_published(published.as_ref())
}

/// The images of known classes: with labels, in folders of the model's classes or in a published set; else those
/// of any folder.
fn open(given: &Path, folder: &Path, manifest: &Manifest) -> anyhow::Result<Dataset> {
    let decision = &manifest.decision;
    match Dataset::known(folder, Split::Test, &decision.input) {
        Ok(labelled) => {
            let is_known = |class: &String| decision.classes.contains(class);
            // Other folders are no classes, such as one for each day. Other labels are always of classes.
            let are_folders = || labelled.classes().iter().all(|class| holds_folder(folder, class));
            let is_published = PublishedSet::meant_by(given).is_some();
            if labelled.classes().iter().any(is_known) || is_published || !are_folders() {
                return labelled.align(&decision.classes).map_err(|error| {
                    let hint = "all images must be of known classes: remove the folders of others, or give the \
                                images without class folders";
                    Advice::new(error.to_string(), hint).into()
                });
            }
            let names = first_few(labelled.classes().iter().map(|class| on_one_line(class)));
            say(format_args!(
                "the folders are not named after classes of the model, so the images have no labels: {names}"
            ));
        }
        Err(Error::NoLayout { .. }) => {}
        Err(error @ Error::NoImages { .. }) => say(format_args!("the images have no labels: {error}")),
        Err(error) => return Err(error.into()),
    }
    if is_divided(folder) {
        let message = format!("`{}` is divided into training and test images", shown(folder));
        return Err(Advice::new(message, "give the folder of the new images").into());
    }
    Ok(Dataset::unknown(folder, Split::Test, &decision.input)?)
}

/// Whether a folder holds one of this name, perhaps in another one.
fn holds_folder(folder: &Path, name: &str) -> bool {
    let below = std::fs::read_dir(folder).into_iter().flatten().flatten();
    folder.join(name).is_dir() || below.into_iter().any(|entry| entry.path().join(name).is_dir())
}

/// The images without copies, and without those that the model was trained on, as far as these are where they
/// were; and these. Says what it leaves out, how many are test images of the model, and what it cannot tell.
fn apart(
    images: Dataset,
    folder: &Path,
    manifest: &Manifest,
    data: &DataFolder,
) -> anyhow::Result<(Dataset, Option<Dataset>)> {
    let distinct = images.distinct()?;
    if distinct.len() < images.len() {
        say(format_args!("left out copies of other images: {}", images.len() - distinct.len()));
    }
    let record = manifest.history.training.as_ref();
    let lost = |why: String| say(format_args!("cannot leave out training images of the model: {why}"));
    let Some((record, trained)) = record.and_then(|record| Some((record, record.known_data()?))) else {
        lost("it does not record its training data".to_owned());
        return Ok((distinct, None));
    };
    let (training, test, is_whole, what) =
        match recorded(record, &trained, &manifest.decision.input, data, folder) {
            Recorded::Lost(why) => {
                lost(why);
                return Ok((distinct, None));
            }
            Recorded::Found(found) => {
                let Found { training, test, .. } = *found;
                (training, test, true, "training images of the model".to_owned())
            }
            Recorded::Changed(all) => {
                let path = shown(&trained.path);
                (all, None, false, format!("images of `{path}`, which has changed since the training"))
            }
        };
    let unseen = distinct.without(&training)?;
    if unseen.len() < distinct.len() {
        say(format_args!("left out {what}: {}", distinct.len() - unseen.len()));
    }
    let tested = test.map_or(Ok(0), |test| Ok::<_, Error>(test.copies_in([&unseen])?[0]))?;
    if tested > 0 {
        say(format_args!("test images of the model: {tested}; evaluate the new threshold on others"));
    }
    // Of changed data, training images may be gone.
    Ok((unseen, is_whole.then_some(training)))
}

/// How many images look like others of them or like training images; `None`, with a message, if there are too many to
/// compare.
fn lookalikes(images: &Dataset, training: Option<&Dataset>) -> Option<usize> {
    let all = images.len() + training.map_or(0, Dataset::len);
    let mut bar = Progress::new("comparing images".to_owned(), all);
    let alike = images.lookalikes(training, |more| bar.advance(more, "images"));
    bar.finish();
    if alike.is_none() {
        say("too many images to find those that look alike");
    }
    alike
}

/// Prints which operating points the new images are too few for: the output `unknown_at` loses their columns.
fn say_lost_points(before: &Manifest, recalibrated: &Recalibrated) {
    let shares = |manifest: &Manifest| -> Vec<f64> {
        let points = manifest.decision.threshold.iter().flat_map(|threshold| &threshold.operating_points);
        points.map(|point| point.keep).collect()
    };
    let after = shares(&recalibrated.manifest);
    for keep in shares(before).into_iter().filter(|keep| !after.contains(keep)) {
        say(format_args!(
            "the output `unknown_at` has no column for {} %, which needs {} images",
            per_cent(keep),
            needed(keep)
        ));
    }
}

fn print(args: &RecalibrateArgs, recalibrated: &Recalibrated) -> anyhow::Result<()> {
    let Recalibrated {
        manifest, bytes, sha256, images, skipped, kept_before, chose_before, accuracy, ..
    } = recalibrated;
    let mut out = stdout();
    writeln!(
        out,
        "{}: {:.1} MB from `{}`\nSHA-256 {sha256}",
        shown(&args.output),
        *bytes as f64 / 1e6,
        shown(&args.model)
    )?;
    if let Some(accuracy) = accuracy {
        writeln!(out, "accuracy {:.1} % of {images} images", 100.0 * accuracy)?;
    }
    let chosen_from = match chose_before {
        0 => String::new(),
        chose => format!("; it was chosen from {chose} of them"),
    };
    writeln!(out, "earlier threshold: keeps {:.1} % of {images} images{chosen_from}", 100.0 * kept_before)?;
    if let Some(threshold) = &manifest.decision.threshold {
        let promise = threshold.keep.and_then(|keep| manifest.promise(keep, None)).unwrap_or_default();
        writeln!(out, "threshold {} (keeps {promise})", threshold.value)?;
    }
    writeln!(
        out,
        "self-check with tract: logits and labels are unchanged, and the verdicts follow from the scores"
    )?;
    if let Some(sentence) = not_counted(*skipped) {
        writeln!(out, "{sentence}")?;
    }
    Ok(())
}
