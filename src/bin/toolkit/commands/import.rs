//! `toolkit import`

use std::path::PathBuf;

use anyhow::bail;
use cac::{
    data::{Dataset, KnownData, PublishedSet, Role, Split},
    image::Input,
    import::{self, Calibration, ImportOptions},
    method::{AnchorKind, Loss, Variant},
    run::RunFolder,
    text::{first_few, on_one_line},
};

use super::{check_not_read, export};
use crate::{
    cli::ImportArgs,
    terminal::{Advice, Progress, StartingWeights, data::dataset, say, say_left_out},
};

/// Converts weights that were trained elsewhere to a model file.
pub fn run(args: &ImportArgs) -> anyhow::Result<()> {
    let mut inputs = vec![args.weights.clone()];
    if args.weights.is_dir() {
        inputs.extend(RunFolder::new(&args.weights).files());
    }
    export::check_outputs(&args.model, &args.file, inputs.iter().map(PathBuf::as_path))?;
    export::check_is_model(&args.model)?;
    if args.file.data.is_given() && args.known.is_none() && args.file.calibrate.is_none() {
        bail!("--data is for the images of --known and --calibrate, and neither is given");
    }
    let start = StartingWeights::read(&args.weights)?;
    let weights = start.weights.network()?;
    if !weights.prefix().is_empty() {
        say(format_args!("the weights are those of `{}`", on_one_line(weights.prefix())));
    }
    let network = weights.recognize()?;
    let mut input = args.input.applied_to(start.input.unwrap_or(network.architecture.default_input()));
    if let Some(size) = network.size {
        if let Some(given) = args.input.size.filter(|&given| given != size) {
            bail!("--size {given}: the weights fix the size at {size} pixels");
        }
        (input.height, input.width) = (size, size);
    }
    let named = (!args.classes.is_empty()).then_some(&args.classes);
    let data = args.known.as_ref().map(|path| {
        let data =
            KnownData { held_out_test: args.held_out_test, protocol: args.protocol, ..KnownData::new(path) };
        data.with_unknown_classes(&args.unknown_class)
    });
    let is_known = |class: &&String| args.classes.contains(class);
    if let Some(class) = data.as_ref().and_then(|data| data.unknown_classes.iter().find(is_known)) {
        bail!("--unknown-class {class}: it is one of --classes");
    }
    let mut known = None;
    if let Some(data) = &data {
        let folder = dataset(&data.path, &args.file.data.folder(), &[Role::Known(Split::Train)])?;
        let images = data.at(&folder).training(&input)?;
        check_not_read(&args.model, [&images])?;
        say_left_out(images.left_out());
        known = Some(match named {
            Some(classes) => images.align(classes)?,
            None => images,
        });
    }
    let defaults = match args.variant {
        Some(variant) => Loss::new(variant),
        None => {
            let loss = import::probable_loss(&weights)?;
            if loss.variant == Variant::CrossEntropy {
                say("loss: cross-entropy, because the weights have no anchors; for CAC, give --variant");
            }
            loss
        }
    };
    let options = ImportOptions {
        name: args.weights.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        classes: known.as_ref().map(Dataset::classes).or(named.map(Vec::as_slice)).map(<[String]>::to_vec),
        input,
        loss: Loss { magnitude: args.magnitude.unwrap_or(defaults.magnitude), ..defaults },
    };
    let mut checkpoint = import::checkpoint(&weights, &options)?;
    let Input { mean, std, .. } = options.input;
    say(format_args!("images: {}; subtract {mean:?}, divide by {std:?}", options.input.resizing()));
    let unused =
        first_few(import::unused(&start.weights, &weights, &checkpoint).into_iter().map(on_one_line));
    if !unused.is_empty() {
        say(format_args!(
            "tensors that the network does not use: {unused}; if the original computes with them, its results differ"
        ));
    }
    let calibration = export::calibration(&args.file, &args.model, data.as_ref(), &checkpoint.facts.input)?;
    if let Some(known) = known {
        let of_digits = args.known.as_deref().and_then(PublishedSet::meant_by);
        let is_of_digits = of_digits.is_some_and(PublishedSet::is_of_digits);
        let count = if args.images == 0 { known.len() } else { args.images };
        let known = known.pick(&known.draw(count, 0).0);
        let class_means = options.loss.anchor_kind(false) == AnchorKind::ClassMeans && !args.keep_anchors;
        if let Some(class) = known.classes_without_images().next().filter(|_| class_means) {
            let message =
                format!("there are no images of `{}`, whose mean is to be an anchor", on_one_line(class));
            return Err(Advice::new(message, "give images of every class, or --keep-anchors").into());
        }
        let calibration = Calibration {
            images: &known,
            class_means,
            mirrored: !args.no_mirror && !is_of_digits,
            keep: args.file.keep,
            provider: args.provider,
        };
        let mut bar = Progress::new("calibrating".to_owned(), calibration.work());
        let correct = import::calibrate(&mut checkpoint, &calibration, |more| bar.advance(more, "images"))?;
        bar.finish();
        let (count, classes) = (known.len(), known.classes().len());
        say(format_args!("{:.2} % of {count} training images are classified correctly", 100.0 * correct));
        if let Some(doubt) = doubt_of_accuracy(correct, count, classes) {
            say(doubt);
        }
    }
    export::write(&checkpoint, &args.file, calibration, &args.model, &args.weights)
}

/// What an accuracy, 0 to 1, says about the settings of an import, if it is no better than chance.
fn doubt_of_accuracy(correct: f64, images: usize, classes: usize) -> Option<&'static str> {
    let chance = 1.0 / classes as f64;
    // With so many images, chance alone rarely gives half of what it gives on average.
    if correct < 0.5 * chance && images >= 20 * classes {
        return Some(
            "this is far less than chance: the classes are not in the order of the network's outputs (--classes)",
        );
    }
    let is_little_more = correct < (1.5 * chance).min(chance + 0.1 * (1.0 - chance));
    is_little_more.then_some(
        "this is little more than chance: are the classes in the order of the network's outputs (--classes), and the size and the \
         normalisation those of its training (--size, --mean, --std)?",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accuracies_of_chance_are_doubted() {
        let doubts =
            |classes, cases: [f64; 3]| cases.map(|correct| doubt_of_accuracy(correct, 20 * classes, classes));
        for (classes, cases) in [(2, [0.1, 0.5, 0.6]), (10, [0.02, 0.1, 0.2]), (1000, [0.0, 0.001, 0.01])] {
            let [wrong, chance, more] = doubts(classes, cases);
            assert!(wrong.unwrap().contains("far less") && chance.unwrap().contains("little more"));
            assert_eq!(more, None, "{classes}");
            let few = doubt_of_accuracy(0.0, 19 * classes, classes).unwrap();
            assert!(few.contains("little more"), "{classes}");
        }
    }
}
