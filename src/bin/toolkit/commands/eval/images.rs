//! The images of an evaluation: as given, or as the model records.

use std::path::Path;

use anyhow::bail;
use cac::{
    Error,
    data::{Dataset, KnownData, PublishedSet, Role, Split, TestImages, exists},
    model::{Manifest, Training},
    run::EXAMPLES,
};

use crate::{
    cli::EvaluationArgs,
    terminal::{
        Advice,
        data::{TUTORIAL_KNOWN, TUTORIAL_UNKNOWN, dataset, unknown_datasets},
        say, say_left_out, say_untested, say_unused_splits,
    },
};

/// Where images come from: as given, or as the training recorded.
pub struct Source<'a> {
    data: KnownData,
    /// The record of the training, if its known images are used.
    training: Option<&'a Training>,
    /// Whether they are the images of the tutorial, on which the built-in model was trained.
    is_tutorial: bool,
}

impl<'a> Source<'a> {
    pub fn of(args: &EvaluationArgs, manifest: &'a Manifest, is_built_in: bool) -> anyhow::Result<Self> {
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

    /// The known and unknown test images.
    pub fn test_images(&self, args: &EvaluationArgs, manifest: &Manifest) -> anyhow::Result<TestImages> {
        let &Self { data: ref known, training, is_tutorial } = self;
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
        if args.known.is_some()
            && trained_on(manifest).is_some_and(|trained| trained.shares_images_with(&known))
        {
            say("the model may have been trained on some of these known images");
        }
        let known = known.align(&manifest.decision.classes)?;
        say_untested(known.classes_without_images());
        let images = TestImages { known, unknown };
        images.sets().for_each(|set| say_left_out(set.left_out()));
        Ok(match args.degraded {
            Some(degradation) => images.degraded(degradation),
            None => images,
        })
    }

    /// Training images of the known classes: those beside the test images, or else those that the model records.
    pub fn training_images(&self, args: &EvaluationArgs, manifest: &Manifest) -> anyhow::Result<Dataset> {
        let open = |data: &KnownData| -> anyhow::Result<Dataset> {
            let folder = dataset(&data.path, &args.data.folder(), &[Role::Known(Split::Train)])?;
            Ok(data.at(&folder).training(&manifest.decision.input)?)
        };
        let images = match open(&self.data) {
            Err(error)
                if matches!(error.downcast_ref(), Some(Error::Undivided { .. } | Error::Dataset { .. }))
                    && args.known.is_some() =>
            {
                let recorded = manifest.history.training.as_ref().and_then(Training::known_data);
                let Some(recorded) = recorded.filter(|data| is_found(&data.path)) else {
                    let message = format!(
                        "`{}` has no training images, which scores other than the model's and --keep-features need",
                        self.data.path.display()
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
