//! The images of a run, and its batches. Random choices for an image depend only on the seed, the epoch and
//! the image, so that any number of threads makes the same batches.

use std::collections::HashSet;

use ndarray::Array4;
use rand::{Rng, RngExt, SeedableRng, rngs::ChaCha8Rng};
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::{TrainSettings, augment::augment, scramble::scramble};
use crate::{
    data::{
        Dataset, LeftOut, OTHER_CLASSES, Role, Split, UnknownSet, add_counts, open_both, prefetch, shuffled,
    },
    error::{Error, Result},
    files::checksum,
    image::Input,
    method::{KEEP, needed},
    run::Outliers,
};

/// The images of a run.
pub struct Batches<'a> {
    settings: &'a TrainSettings,
    pub(super) known: Dataset,
    /// Training and held-out images, as indices into `known`.
    pub(super) training: Vec<usize>,
    pub(super) held_out: Vec<usize>,
    pub(super) known_test: Dataset,
    pub(super) unknown_tests: Vec<UnknownSet>,
    /// Outliers from a folder.
    outliers: Option<Dataset>,
    /// The number of images that cannot be read, in all sets and in the test sets.
    pub(super) skipped: usize,
    pub(super) skipped_in_tests: usize,
}

/// The data sets of a run.
struct Sets {
    known: Dataset,
    known_test: Dataset,
    unknown_tests: Vec<UnknownSet>,
    outliers: Option<Dataset>,
}

/// The images of a step.
pub struct Batch {
    /// Images `[N, 3, H, W]`, known images first.
    pub pixels: Array4<u8>,
    /// Labels of the known images; the remaining images are outliers.
    pub labels: Vec<i64>,
    /// Seed of dropout.
    pub seed: u64,
}

/// The purpose of random numbers; each has its own stream.
enum Purpose {
    /// The order of the images in an epoch.
    Order,
    /// Dropout in a step.
    Network(usize),
    /// The augmentation of a known image, by its index in the data set.
    Known(usize),
    /// An outlier, by its number in the epoch.
    Outlier(usize),
}

impl Sets {
    fn open(settings: &TrainSettings) -> Result<Self> {
        let TrainSettings { input, data, recipe, .. } = settings;
        let protocol = settings.protocol.as_ref();
        let folder = data.resolve(&settings.known, &[Role::Known(Split::Train), Role::Known(Split::Test)])?;
        let unknown = data.resolve_unknown(&settings.unknown)?;
        let (known, known_test, unknown_tests) =
            open_both(&folder, settings.held_out_test, &unknown, protocol, input)?;
        let known_test = known_test.align(known.classes())?;
        // With a protocol, the other classes of the training files are unknown.
        for set in unknown_tests.iter().filter(|set| set.name != OTHER_CLASSES) {
            set.check_apart_from(&known)?;
        }
        let outliers = match recipe.outliers.folder() {
            Some(folder) => {
                let place = data.resolve(folder, &[Role::Unknown(Split::Train)])?;
                let outliers = Dataset::unknown(&place, Split::Train, input)?;
                let tests = unknown_tests.iter().map(|set| &set.images);
                if tests.chain([&known, &known_test]).any(|other| outliers.shares_images_with(other)) {
                    let reason = "holds known or test images";
                    return Err(Error::setting("outliers", format!("`{}`", folder.display()), reason));
                }
                Some(outliers)
            }
            None => None,
        };
        Ok(Self { known, known_test, unknown_tests, outliers })
    }

    /// The data sets, the most frequently used first, with a flag for test sets.
    fn each(&mut self) -> impl Iterator<Item = (&mut Dataset, bool)> {
        let training = [Some(&mut self.known), self.outliers.as_mut()].into_iter().flatten();
        let unknown = self.unknown_tests.iter_mut().map(|set| &mut set.images);
        training
            .map(|set| (set, false))
            .chain([&mut self.known_test].into_iter().chain(unknown).map(|set| (set, true)))
    }

    /// Keeps decoded images up to a number of bytes.
    fn keep(&mut self, mut memory: u64) {
        for (set, _) in self.each() {
            *set = set.clone().keep(&mut memory);
        }
    }

    /// Decodes every image, and leaves out those that cannot be read if `skip` is set. Returns their number, in all
    /// sets and in the test sets.
    fn leave_out_broken(&mut self, skip: bool) -> Result<[usize; 2]> {
        let (mut all, mut in_tests) = (Vec::new(), 0);
        for (set, is_test) in self.each() {
            let (indices, errors) = set.readable();
            if !errors.is_empty() {
                *set = set.pick(&indices);
                in_tests += if is_test { errors.len() } else { 0 };
                all.extend(errors);
            }
        }
        if all.is_empty() || skip {
            Ok([all.len(), in_tests])
        } else {
            Err(Error::BrokenImages { errors: all })
        }
    }
}

/// The number of held-out images for a share of the training images: none, or enough for the default threshold.
/// A small share is raised to that number if it is at most a fifth of the images.
fn held_out(share: f64, images: usize) -> Result<usize> {
    let (count, needed) = ((share * images as f64).ceil() as usize, needed(KEEP));
    if count == 0 || count >= needed {
        return Ok(count);
    }
    if 5 * needed <= images {
        return Ok(needed);
    }
    let reason = format!(
        "holds out {count} of {images} images; a threshold that keeps {} % of known images needs {needed}",
        100.0 * KEEP
    );
    Err(Error::setting("held-out", share, reason))
}

impl<'a> Batches<'a> {
    /// Opens all data sets of a run and decodes every image once.
    ///
    /// # Errors
    /// Those of opening the data sets; [`Error::BrokenImages`], with all images that cannot be read, unless they
    /// are left out; [`Error::Setting`] if an image belongs to two sets that must be apart, or the held-out
    /// images are too few or too many.
    pub fn open(settings: &'a TrainSettings) -> Result<Self> {
        let mut sets = Sets::open(settings)?;
        sets.keep(settings.memory);
        let [skipped, skipped_in_tests] = sets.leave_out_broken(settings.skip_broken)?;
        if skipped > 0 {
            sets.keep(settings.memory);
        }
        let Sets { known, known_test, unknown_tests, outliers } = sets;
        let count = held_out(settings.recipe.held_out, known.len())?;
        let (held_out, training) = known.hold_out(count, settings.recipe.seed)?;
        let trained: HashSet<i64> = training.iter().map(|&index| known.labels()[index]).collect();
        if let Some((name, _)) = known.classes().iter().zip(0..).find(|(_, class)| !trained.contains(class)) {
            let reason = format!("class `{name}` has no image that can be read");
            return Err(Error::Dataset { path: settings.known.clone(), reason });
        }
        Ok(Self {
            settings,
            known,
            training,
            held_out,
            known_test,
            unknown_tests,
            outliers,
            skipped,
            skipped_in_tests,
        })
    }

    /// The number of training images per epoch.
    #[must_use]
    pub fn images(&self) -> usize {
        self.training.len()
    }

    /// Files in the folders of all sets that are no images by their extension.
    #[must_use]
    pub fn left_out(&self) -> LeftOut {
        let unknown = self.unknown_tests.iter().map(|set| &set.images);
        let sets = [&self.known, &self.known_test].into_iter().chain(unknown).chain(&self.outliers);
        sets.fold(LeftOut::new(), |mut all, set| {
            add_counts(&mut all, set.left_out());
            all
        })
    }

    /// The number of steps per epoch.
    #[must_use]
    pub fn steps(&self) -> usize {
        self.training.len().div_ceil(self.settings.recipe.batch_size)
    }

    /// The labels of known images.
    pub(super) fn labels(&self, indices: &[usize]) -> Vec<i64> {
        indices.iter().map(|&index| self.known.labels()[index]).collect()
    }

    /// SHA-256, in hexadecimal, of the training data: classes, labels, and the encoded known images and
    /// outliers.
    pub(super) fn checksum(&self) -> Result<String> {
        let mut sum = Sha256::new();
        for dataset in [Some(&self.known), self.outliers.as_ref()].into_iter().flatten() {
            sum.update(dataset.classes().join("\0"));
            let of_image = |index| Ok(Sha256::digest(dataset.encoded(index)?));
            let images = (0..dataset.len()).into_par_iter().map(of_image).collect::<Result<Vec<_>>>()?;
            for (label, image) in dataset.labels().iter().zip(images) {
                sum.update(label.to_le_bytes());
                sum.update(image);
            }
        }
        Ok(checksum::hexadecimal(sum))
    }

    /// Calls `take` with the batches of an epoch from `first_step` on, which are prepared in the background.
    pub fn of_epoch<R>(
        &self,
        epoch: usize,
        first_step: usize,
        take: impl FnOnce(&mut dyn Iterator<Item = Result<Batch>>) -> R,
    ) -> R {
        let order = shuffled(self.training.len(), self.random(epoch, &Purpose::Order).random());
        let make = |step| self.batch(epoch, step, &order);
        prefetch(first_step..self.steps(), make, take)
    }

    fn batch(&self, epoch: usize, step: usize, order: &[usize]) -> Result<Batch> {
        let Input { height, width, .. } = self.settings.input;
        let recipe = &self.settings.recipe;
        let start = step * recipe.batch_size;
        let drawn = &order[start..(start + recipe.batch_size).min(order.len())];
        let known: Vec<usize> = drawn.iter().map(|&place| self.training[place]).collect();
        let first_outlier = step * recipe.outliers_beside(recipe.batch_size);
        let count = known.len() + recipe.outliers_beside(known.len());
        let mut pixels = Array4::zeros((count, 3, height, width));
        let images = pixels.as_slice_mut().expect("a new array is contiguous");
        images.par_chunks_exact_mut(self.known.image_len()).enumerate().try_for_each(|(place, image)| {
            let mut random = match known.get(place) {
                Some(&index) => {
                    image.copy_from_slice(&self.known.pixels(index)?);
                    self.random(epoch, &Purpose::Known(index))
                }
                None => {
                    let mut random =
                        self.random(epoch, &Purpose::Outlier(first_outlier + place - known.len()));
                    self.draw_outlier(image, &mut random)?;
                    random
                }
            };
            augment(recipe.augment, image, height, width, &mut random);
            Ok(())
        })?;
        let seed = self.random(epoch, &Purpose::Network(step)).random();
        Ok(Batch { pixels, labels: self.labels(&known), seed })
    }

    /// Fills `image` with an outlier, before augmentation.
    fn draw_outlier(&self, image: &mut [u8], random: &mut impl Rng) -> Result<()> {
        let Input { height, width, .. } = self.settings.input;
        match &self.outliers {
            Some(outliers) => {
                image.copy_from_slice(&outliers.pixels(random.random_range(0..outliers.len()))?)
            }
            None => {
                debug_assert_eq!(self.settings.recipe.outliers, Outliers::Scrambled);
                let drawn = self.training[random.random_range(0..self.training.len())];
                image.copy_from_slice(&self.known.pixels(drawn)?);
                scramble(image, height, width, random);
            }
        }
        Ok(())
    }

    /// The random numbers of an epoch for a purpose.
    fn random(&self, epoch: usize, purpose: &Purpose) -> ChaCha8Rng {
        // Streams of ChaCha with different seeds or numbers do not overlap.
        let (kind, number) = match *purpose {
            Purpose::Order => (0, 0),
            Purpose::Network(step) => (1, step),
            Purpose::Known(index) => (2, index),
            Purpose::Outlier(number) => (3, number),
        };
        let mut random = ChaCha8Rng::seed_from_u64(self.settings.recipe.seed);
        random.set_stream(((epoch as u64) << 42) + ((number as u64) << 2) + kind);
        random
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn settings(memory: u64) -> TrainSettings {
        TrainSettings {
            known: Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/demo"),
            // Not the native size of the images, so that resized copies are kept or made again.
            input: Input { height: 16, width: 16, ..Input::default() },
            memory,
            ..TrainSettings::example()
        }
    }

    #[test]
    fn held_out_images_suffice_for_a_threshold_or_are_refused() {
        for (share, images, expected) in
            [(0.0, 5, 0), (0.02, 5000, 100), (0.02, 500, 19), (0.02, 95, 19), (0.6, 36, 22)]
        {
            assert_eq!(held_out(share, images).unwrap(), expected, "{share} of {images}");
        }
        let error = held_out(0.02, 36).unwrap_err().to_string();
        assert!(
            error.contains("held-out = 0.02: holds out 1 of 36 images") && error.ends_with("needs 19"),
            "{error}"
        );
    }

    /// The batches of two steps of an epoch.
    fn made(settings: &TrainSettings) -> Vec<(Array4<u8>, Vec<i64>, u64)> {
        let batches = Batches::open(settings).unwrap();
        let order = shuffled(batches.images(), 7);
        let batch =
            |step| batches.batch(2, step, &order).map(|batch| (batch.pixels, batch.labels, batch.seed));
        [3, 4].map(|step| batch(step).unwrap()).into()
    }

    #[test]
    fn any_number_of_threads_and_any_memory_make_the_same_batches() {
        let on_threads = |count, memory| {
            let threads = rayon::ThreadPoolBuilder::new().num_threads(count).build().unwrap();
            threads.install(|| made(&settings(memory)))
        };
        let expected = on_threads(1, 0);
        assert_eq!((expected[0].0.dim(), expected[0].1.len()), ((80, 3, 16, 16), 64));
        for (threads, memory) in [(4, 0), (4, 1 << 30), (3, 100_000)] {
            assert!(on_threads(threads, memory) == expected, "{threads} threads, {memory} bytes");
        }
    }

    #[test]
    fn a_step_does_not_depend_on_earlier_steps() {
        let settings = settings(0);
        let batches = Batches::open(&settings).unwrap();
        let pixels = |first_step, skipped: usize| {
            batches.of_epoch(1, first_step, |made| made.nth(skipped).unwrap().unwrap().pixels)
        };
        assert!(pixels(0, 2) == pixels(2, 0));
        assert!(pixels(0, 2) != pixels(0, 1));
    }

    #[test]
    fn an_epoch_has_each_training_image_once() {
        let settings = settings(0);
        let batches = Batches::open(&settings).unwrap();
        assert_eq!((batches.images(), batches.held_out.len(), batches.steps()), (1568, 32, 25));
        let (mut labels, mut counts) = (Vec::new(), Vec::new());
        batches.of_epoch(1, 0, |batches| {
            for batch in batches {
                let batch = batch.unwrap();
                counts.push(batch.pixels.dim().0);
                labels.extend(batch.labels);
            }
        });
        assert_eq!(
            (counts.len(), counts[0], counts[24]),
            (25, 80, 40),
            "the last step has 32 known images and 8 outliers"
        );
        let mut expected = batches.labels(&batches.training);
        expected.sort_unstable();
        labels.sort_unstable();
        assert_eq!(labels, expected);
    }
}
