//! The images of an evaluation: as given, or as the model records.

use std::path::Path;

use anyhow::bail;
use cac::{
    Error,
    data::{
        Dataset, KnownData, PublishedSet, Role, Split, TestImages, UnknownSource, exists,
        other_classes_in_words,
    },
    model::{Manifest, Training},
    run::EXAMPLES,
    text::{on_one_line, shown},
};

use crate::{
    cli::EvaluationArgs,
    commands::{
        is_same_place,
        recorded::{Found, Recorded, recorded},
    },
    terminal::{
        Advice,
        data::{TUTORIAL_KNOWN, dataset, tutorial_unknown, unknown_datasets},
        quoted, say, say_left_out, say_untested, say_unused_splits,
    },
};

/// The flags of the recorded data, but `--known`.
fn flags(data: &KnownData) -> String {
    let share = data.held_out_test.map(|share| format!(" --held-out-test {share}"));
    let protocol = data.protocol.map(|protocol| format!(" --protocol {protocol}"));
    let class = |class: &String| format!(" --unknown-class={}", quoted(Path::new(class)));
    let classes = data.unknown_classes.iter().map(class);
    share.into_iter().chain(protocol).chain(classes).collect()
}

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
                say(format_args!("known images: `{}`, as recorded in the model", shown(&recorded.path)));
                recorded
            }
            (None, Some(recorded)) => {
                let sets = training.and_then(|training| training.unknown.as_ref());
                let has_sets = sets.is_none_or(|sets| !sets.is_empty());
                bail!(
                    "cannot find the training data of the model, `{}`; give --known DIR{}{}",
                    shown(&recorded.path),
                    flags(&recorded),
                    if has_sets { " and --unknown NAME=DIR" } else { "" }
                )
            }
            (None, None) => bail!("the model does not record its training data; give --known DIR"),
        };
        let data = KnownData {
            held_out_test: args.held_out_test.or(recorded.held_out_test),
            protocol: args.protocol.or(recorded.protocol),
            ..recorded
        };
        let data = match &args.unknown_class[..] {
            [] => data,
            given => data.with_unknown_classes(given),
        };
        // Before a download, which takes long.
        if let Some(class) =
            data.unknown_classes.iter().find(|class| manifest.decision.classes.contains(class))
        {
            bail!("`{}` is a class of the model, so its images are not unknown", on_one_line(class));
        }
        Ok(Self { data, training, is_tutorial })
    }

    /// The known and unknown test images, and what is odd about them, in words.
    pub fn test_images(
        &self,
        args: &EvaluationArgs,
        manifest: &Manifest,
    ) -> anyhow::Result<(TestImages, Vec<String>)> {
        let &Self { data: ref known, training, is_tutorial } = self;
        let unknown = match &args.unknown[..] {
            [] if is_tutorial => vec![tutorial_unknown()],
            [] => recorded_sets(training)?,
            given => given.to_vec(),
        };
        let data = args.data.folder();
        let folder = dataset(&known.path, &data, &[Role::Known(Split::Test)])?;
        say_unused_splits(&folder, Split::Test);
        let unknown = unknown_datasets(&unknown, &data)?;
        let mut images = known.at(&folder).test(&unknown, &manifest.decision.input)?;
        images.known = images.known.align(&manifest.decision.classes)?;
        say_untested(images.known.classes_without_images());
        images.sets().for_each(|set| say_left_out(set.left_out()));
        let remarks: Vec<String> =
            other_classes_in_words(&images.other_classes).into_iter().chain(remarks(&images)?).collect();
        remarks.iter().for_each(say);
        Ok(match args.degraded {
            Some(degradation) => (images.degraded(degradation), remarks),
            None => (images, remarks),
        })
    }

    /// What role a model gave to test images, each in words: those that it was trained on, or look like these, as far as
    /// its training images are there, and those that its threshold was chosen from.
    pub fn remarks_on_model(
        &self,
        args: &EvaluationArgs,
        model: &str,
        manifest: &Manifest,
        images: &TestImages,
    ) -> anyhow::Result<Vec<String>> {
        let mut remarks = self.trained_on(args, model, manifest, images)?;
        let record = manifest.history.training.as_ref();
        if record.is_some_and(|record| record.has_unknown_seen(&images.other_classes)) {
            remarks.push(format!("the backbone of {model} was trained on some of the unknown classes"));
        }
        remarks.extend(chose_threshold(model, manifest, images)?);
        Ok(remarks)
    }

    /// Which test images a model was trained on, or look like training images, each in words, as far as its training
    /// images are there.
    fn trained_on(
        &self,
        args: &EvaluationArgs,
        model: &str,
        manifest: &Manifest,
        images: &TestImages,
    ) -> anyhow::Result<Vec<String>> {
        let record = manifest.history.training.as_ref();
        let Some((record, trained)) = record.and_then(|record| Some((record, record.known_data()?))) else {
            return Ok(Vec::new());
        };
        let (data, input) = (args.data.folder(), &manifest.decision.input);
        let here = data.resolve(&self.data.path, &[Role::Known(Split::Test)])?;
        match recorded(record, &trained, input, &data, &here) {
            Recorded::Lost(why) => {
                Ok(vec![format!("cannot check whether {model} was trained on test images: {why}")])
            }
            Recorded::Found(found) => {
                let Found { training, place, .. } = *found;
                let is_tested = is_same_place(&place, &here);
                let advice = match trained.held_out_test.filter(|_| is_tested) {
                    Some(share) => format!("; `--held-out-test {share}` leaves them out"),
                    None => String::new(),
                };
                let mut remarks = shared(model, &training, images, &advice)?;
                remarks.extend(record.caution_of_tests().filter(|_| is_tested));
                Ok(remarks)
            }
            Recorded::Changed(all) => {
                let remark = || {
                    format!(
                        "`{}` has changed since the training; {model} may have been trained on some of its test images",
                        shown(&trained.path)
                    )
                };
                let is_among = all.copies_in([&images.known])? != [0];
                Ok(is_among.then(remark).into_iter().collect())
            }
        }
    }

    /// Training images of the known classes: those beside the test images, or else those that the model records.
    pub fn training_images(&self, args: &EvaluationArgs, manifest: &Manifest) -> anyhow::Result<Dataset> {
        let open = |data: &KnownData| -> anyhow::Result<Dataset> {
            let folder = dataset(&data.path, &args.data.folder(), &[Role::Known(Split::Train)])?;
            Ok(data.at(&folder).training(&manifest.decision.input)?)
        };
        let images = match open(&self.data) {
            Err(error)
                if error.downcast_ref().is_some_and(Error::is_of_missing_images) && args.known.is_some() =>
            {
                let recorded = manifest.history.training.as_ref().and_then(Training::known_data);
                let Some(recorded) = recorded.filter(|data| is_found(&data.path)) else {
                    let message = format!(
                        "`{}` has no training images, which scores other than the model's and --keep-features need",
                        shown(&self.data.path)
                    );
                    let hint = "give a folder with these images in `train` and the others in `test`";
                    return Err(Advice::new(message, hint).into());
                };
                say(format_args!("training images: `{}`, as recorded in the model", shown(&recorded.path)));
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

/// The unknown sets that a training recorded, which are said: a folder of the same name may be another one.
fn recorded_sets(training: Option<&Training>) -> anyhow::Result<Vec<UnknownSource>> {
    let sets = training.and_then(|training| training.unknown.clone()).unwrap_or_default();
    for source in &sets {
        let Some(folder) = source.path() else { continue };
        let set = on_one_line(source.name());
        if !is_found(folder) {
            let message = format!("cannot find the unknown set `{set}` of the training, `{}`", shown(folder));
            return Err(Advice::new(message, "give all unknown sets with --unknown NAME=DIR").into());
        }
        say(format_args!("unknown images: `{set}` in `{}`, as recorded in the model", shown(folder)));
    }
    Ok(sets)
}

/// Whether recorded data is where the record says, or is published.
fn is_found(known: &Path) -> bool {
    exists(known) || PublishedSet::meant_by(known).is_some()
}

/// How many test images a recalibration chose the threshold from, in words.
fn chose_threshold(model: &str, manifest: &Manifest, images: &TestImages) -> cac::Result<Vec<String>> {
    let Some(recalibration) = &manifest.history.recalibration else { return Ok(Vec::new()) };
    let counts = images.sets().map(|set| recalibration.count_in(set)).collect::<cac::Result<Vec<_>>>()?;
    let that = format!("the threshold of {model} was chosen from");
    let known = (counts[0] > 0).then(|| format!("known test images that {that}: {}", counts[0]));
    Ok(known.into_iter().chain(of_unknown(images, &counts[1..], &that)).collect())
}

/// How many test images are among the training images of a model, in words; `advice` is on the known ones.
fn shared(model: &str, training: &Dataset, images: &TestImages, advice: &str) -> cac::Result<Vec<String>> {
    let counts = training.copies_in(images.sets())?;
    let mut remarks = Vec::new();
    if counts[0] > 0 {
        let count = counts[0];
        remarks.push(format!("known test images that {model} was trained or calibrated on: {count}{advice}"));
    }
    remarks.extend(of_unknown(images, &counts[1..], &format!("{model} was trained or calibrated on")));
    Ok(remarks)
}

/// What is odd about test images, each in words without a full stop.
fn remarks(images: &TestImages) -> cac::Result<Vec<String>> {
    let mut remarks = Vec::new();
    let repeated = images.known.repeated_images()?;
    if repeated > 0 {
        remarks.push(format!("known test images that are copies of others: {repeated}"));
    }
    let counts = images.known.copies_in(images.unknown.iter().map(|set| &set.images))?;
    remarks.extend(of_unknown(images, &counts, "are also known test images"));
    Ok(remarks)
}

/// How many images of each unknown set are odd, in words; `that` says how.
fn of_unknown(images: &TestImages, counts: &[usize], that: &str) -> Vec<String> {
    let odd = images.unknown.iter().zip(counts).filter(|(_, count)| **count > 0);
    odd.map(|(set, count)| {
        format!("images of the unknown set `{}` that {that}: {count}", on_one_line(&set.name))
    })
    .collect()
}
