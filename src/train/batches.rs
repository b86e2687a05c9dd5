//! The images of a run, and its batches. Random choices for an image depend only on the seed, the epoch and
//! the image, so any number of threads makes the same batches.

use std::{
    collections::{BTreeMap, HashSet},
    ptr,
    sync::atomic::AtomicBool,
};

use ndarray::{Array2, Array4};
use rand::{Rng, RngExt, SeedableRng, rngs::ChaCha8Rng};
use rayon::prelude::*;

pub(super) use super::sets::Set;
use super::{
    Event, TrainSettings,
    augment::{augment, resized_crop},
    degrade::degrade,
    division::{Division, HeldOutCounts},
    features::{FrozenFeatures, View},
    fractal::Fractals,
    pixmix::pixmix,
    scramble::scramble,
    sets::{Contents, Sets},
};
use crate::{
    data::{Dataset, LeftOut, UnknownSet, add_counts, fault_of_class, prefetch, shuffled},
    error::{Error, Result},
    image::{DifferenceHash, Input},
    run::{Augment, Started},
};

/// The images of a run.
pub struct Batches<'a> {
    pub(super) settings: &'a TrainSettings,
    pub(super) known: Dataset,
    /// Training and held-out images, as indices into `known`.
    pub(super) training: Vec<usize>,
    /// Held-out images that choose the epoch and the score.
    pub(super) choosing: Vec<usize>,
    /// Held-out images from which the threshold is chosen.
    pub(super) calibrating: Vec<usize>,
    pub(super) known_test: Dataset,
    /// The classes of the data set that are unknown.
    pub(super) other_classes: Vec<String>,
    pub(super) unknown_tests: Vec<UnknownSet>,
    /// Outliers from a folder.
    outliers: Option<Dataset>,
    /// Fractals to mix into images, if any.
    fractals: Option<Fractals>,
    pub(super) contents: Contents,
    /// What the run trains on and is tested on, without what the backbone has seen.
    pub(super) started: Started,
    /// The [names](Dataset::names_checksum) of the known training images, held-out and unreadable ones included.
    pub(super) train_names: String,
}

/// The images of a step, known images first.
pub struct Batch {
    /// The input of the trained layers.
    pub images: Images,
    /// Labels of the known images; the remaining images are outliers.
    pub labels: Vec<i64>,
    /// Seed of dropout.
    pub seed: u64,
}

/// Images as the trained layers read them.
#[derive(Debug, Clone, PartialEq)]
pub enum Images {
    /// Bytes `[N, 3, H, W]`.
    Pixels(Array4<u8>),
    /// Standardised features of the frozen layers, `[N, features]`.
    Features(Array2<f32>),
}

/// The purpose of random numbers; each has its own stream.
pub(super) enum Purpose {
    /// The order of the images in an epoch.
    Order,
    /// Dropout in a step.
    Network(usize),
    /// The augmentation of a known image, by its index in the data set.
    Known(usize),
    /// An outlier, by its number in the epoch.
    Outlier(usize),
}

impl<'a> Batches<'a> {
    /// Opens all data sets of a run and decodes every image once. `observe` gets [`Event::Reading`]. Returns
    /// `None` if `stop` is set before all images are read.
    ///
    /// # Errors
    /// Those of opening the data sets; [`Error::Setting`] if a share of the images of a step is less than one,
    /// or an image belongs to two sets that must be disjoint; [`Error::BrokenImages`], with all images that
    /// cannot be read, unless they are left out; [`Error::Dataset`] if a set has no others;
    /// [`Error::HoldsOutTooFew`] and [`Error::EmptiesClass`]; [`Error::Classes`] if a class cannot have its
    /// name.
    pub fn open(
        settings: &'a TrainSettings,
        stop: &AtomicBool,
        mut observe: impl FnMut(&Event),
    ) -> Result<Option<Self>> {
        let mut sets = Sets::open(settings)?;
        if let Some(reason) = sets.known.classes().iter().find_map(|name| fault_of_class(name)) {
            return Err(Error::Classes { path: settings.known.path.clone(), reason: reason.to_owned() });
        }
        let train_names = sets.known.names_checksum();
        // Reading all images may take hours.
        HeldOutCounts::of(&sets.known, settings.recipe.held_out, sets.known.len())?;
        sets.keep(settings.memory, &settings.recipe);
        let Some(contents) = sets.read(settings.skip_broken, stop, &mut observe)? else { return Ok(None) };
        if contents.skipped > 0 {
            sets.keep(settings.memory, &settings.recipe);
        }
        let Sets { known, known_test, other_classes, unknown_tests, outliers } = sets;
        let Division { training, choosing, calibrating } =
            Division::of(&known, &contents.copies, &settings.recipe)?;
        settings.recipe.check_step(training.len().min(settings.recipe.batch_size))?;
        let trained: HashSet<i64> = training.iter().map(|&index| known.labels()[index]).collect();
        if let Some((name, _)) = known.classes().iter().zip(0..).find(|(_, class)| !trained.contains(class)) {
            let readable = if contents.skipped > 0 { " that can be read" } else { "" };
            let but = if contents.copies.any() { ", other than copies of held-out images" } else { "" };
            let reason = format!("class `{name}` has no training image{readable}{but}");
            return Err(Error::Dataset { path: settings.known.path.clone(), reason });
        }
        let mut batches = Self {
            settings,
            known,
            training,
            choosing,
            calibrating,
            known_test,
            other_classes,
            unknown_tests,
            outliers,
            fractals: (settings.recipe.pixmix > 0.0)
                .then(|| Fractals::for_images(settings.input.height, settings.input.width)),
            contents,
            started: Started::default(),
            train_names,
        };
        batches.started = batches.describe();
        Ok(Some(batches))
    }

    /// What the run trains on and is tested on, without what the backbone has seen.
    fn describe(&self) -> Started {
        let Contents { skipped, repeated, learned, also_known, copies, hashes, test_hashes, .. } =
            &self.contents;
        let of = |indices: &[usize]| -> Vec<_> { indices.iter().map(|&index| hashes[index]).collect() };
        let training = of(&self.training);
        let held_out = of(&[&self.choosing[..], &self.calibrating].concat());
        let in_two_classes = copies.across(self.known.labels());
        let [alike_in_tests, alike_held_out] =
            [test_hashes, &held_out].map(|hashes| DifferenceHash::alike(hashes, &training));
        Started {
            images: self.images(),
            steps: self.steps(),
            epochs: self.settings.recipe.epochs,
            score: Some(self.settings.rejection_score()),
            left_out: self.left_out(),
            skipped: *skipped,
            held_out: Some([self.choosing.len(), self.calibrating.len()]),
            other_classes: self.other_classes.clone(),
            untested: self.known_test.classes_without_images().map(str::to_owned).collect(),
            repeated: *repeated,
            alike_in_tests: alike_in_tests.unwrap_or_default(),
            alike_held_out: alike_held_out.unwrap_or_default(),
            uncompared: alike_in_tests.is_none() || alike_held_out.is_none(),
            duplicates: self.known.len() - copies.distinct().len(),
            in_two_classes: in_two_classes.map(|pair| pair.map(|index| self.known.name(index))).collect(),
            learned: learned.clone(),
            also_known: also_known.clone(),
            classes: self.classes(),
            held_out_seen: false,
            unknown_seen: false,
        }
    }

    /// The number of images of each class to train on.
    fn classes(&self) -> BTreeMap<String, usize> {
        let mut counts = vec![0; self.known.classes().len()];
        self.training.iter().for_each(|&index| counts[self.known.labels()[index] as usize] += 1);
        self.known.classes().iter().cloned().zip(counts).collect()
    }

    /// A data set.
    pub(super) fn dataset(&self, set: Set) -> &Dataset {
        match set {
            Set::Known => &self.known,
            Set::Test => &self.known_test,
            Set::Unknown(number) => &self.unknown_tests[number].images,
            Set::Outliers => self.outliers.as_ref().expect("the run has outliers"),
        }
    }

    /// All data sets, the known training images first.
    pub(super) fn sets(&self) -> impl Iterator<Item = Set> {
        let unknown = (0..self.unknown_tests.len()).map(Set::Unknown);
        let outliers = self.outliers.as_ref().map(|_| Set::Outliers);
        [Set::Known, Set::Test].into_iter().chain(unknown).chain(outliers)
    }

    /// The number of training images per epoch.
    #[must_use]
    pub fn images(&self) -> usize {
        self.training.len()
    }

    /// Left-out files in the folders of all sets: not images by their extension, or of no class.
    fn left_out(&self) -> LeftOut {
        let unknown = self.unknown_tests.iter().map(|set| &set.images);
        // Parts of one data set share them.
        let test = Some(&self.known_test).filter(|test| !ptr::eq(test.left_out(), self.known.left_out()));
        let sets = [&self.known].into_iter().chain(test).chain(unknown).chain(&self.outliers);
        sets.fold(LeftOut::new(), |mut all, set| {
            add_counts(&mut all, set.left_out());
            all
        })
    }

    /// The number of steps per epoch. A single image left for the last step joins the step before it: batch
    /// normalisation needs the variance of a step, which is undefined for one image if a map is one pixel.
    #[must_use]
    pub fn steps(&self) -> usize {
        (self.training.len() - 1).div_ceil(self.settings.recipe.batch_size)
    }

    /// Training images drawn at random with the seed, and one of each class missing among them.
    pub(super) fn sample(&self, count: usize) -> Vec<usize> {
        let drawn = self.known.pick(&self.training).draw_with_classes(count, self.settings.recipe.seed);
        drawn.into_iter().map(|index| self.training[index]).collect()
    }

    /// The labels of known images.
    pub(super) fn labels(&self, indices: &[usize]) -> Vec<i64> {
        indices.iter().map(|&index| self.known.labels()[index]).collect()
    }

    /// Calls `take` with the batches of an epoch from `first_step` on, prepared in the background.
    pub fn of_epoch<R>(
        &self,
        epoch: usize,
        first_step: usize,
        take: impl FnOnce(&mut dyn Iterator<Item = Result<Batch>>) -> R,
    ) -> R {
        self.of_epoch_from(None, epoch, first_step, take)
    }

    /// [`of_epoch`](Self::of_epoch), of the features of frozen layers if there are any.
    pub(super) fn of_epoch_from<R>(
        &self,
        frozen: Option<&FrozenFeatures>,
        epoch: usize,
        first_step: usize,
        take: impl FnOnce(&mut dyn Iterator<Item = Result<Batch>>) -> R,
    ) -> R {
        let order = shuffled(self.training.len(), self.random(epoch, &Purpose::Order).random());
        let batch = |step| {
            let drawn = self.drawn(step, &order);
            let images = match frozen {
                Some(features) => self.features(features, epoch, step, &drawn)?,
                None => self.pixels(epoch, step, &drawn)?,
            };
            let seed = self.random(epoch, &Purpose::Network(step)).random();
            Ok(Batch { images, labels: self.labels(&drawn), seed })
        };
        prefetch(first_step..self.steps(), batch, take)
    }

    /// The known images of a step.
    fn drawn(&self, step: usize, order: &[usize]) -> Vec<usize> {
        let batch_size = self.settings.recipe.batch_size;
        let start = step * batch_size;
        let end = if step + 1 == self.steps() { order.len() } else { start + batch_size };
        order[start..end].iter().map(|&index| self.training[index]).collect()
    }

    /// The numbers, within the epoch, of the outliers of a step with `known` known images.
    fn outlier_numbers(&self, step: usize, known: usize) -> impl Iterator<Item = usize> + use<> {
        let recipe = &self.settings.recipe;
        let first = step * recipe.outliers_per_step(recipe.batch_size);
        first..first + recipe.outliers_per_step(known)
    }

    /// The folder from which the outlier with this number in the epoch is drawn; `None` for a scrambled
    /// training image.
    fn outliers_for(&self, number: usize) -> Option<&Dataset> {
        let are_scrambled = self.settings.recipe.outliers.are_scrambled();
        self.outliers.as_ref().filter(|_| !are_scrambled || number % 2 == 1)
    }

    /// The pixels of known images, and of outliers.
    fn pixels(&self, epoch: usize, step: usize, known: &[usize]) -> Result<Images> {
        let Input { height, width, .. } = self.settings.input;
        let outliers = self.outlier_numbers(step, known.len()).map(Purpose::Outlier);
        let all: Vec<Purpose> = known.iter().copied().map(Purpose::Known).chain(outliers).collect();
        let mut pixels = Array4::zeros((all.len(), 3, height, width));
        let images = pixels.as_slice_mut().expect("a new array is contiguous");
        images.par_chunks_exact_mut(self.known.image_len()).zip(&all).try_for_each(|(image, purpose)| {
            let mut random = self.random(epoch, purpose);
            match *purpose {
                Purpose::Known(index) => self.draw(&self.known, index, image, &mut random),
                Purpose::Outlier(number) => self.draw_outlier(number, image, &mut random),
                Purpose::Order | Purpose::Network(_) => unreachable!("no image"),
            }
        })?;
        Ok(Images::Pixels(pixels))
    }

    /// Fills `image` with an augmented image of a data set.
    fn draw(&self, dataset: &Dataset, index: usize, image: &mut [u8], random: &mut impl Rng) -> Result<()> {
        let TrainSettings { input, recipe, .. } = self.settings;
        if recipe.augment == Augment::ResizedCrop {
            image.copy_from_slice(&resized_crop(&dataset.original(index)?, input, random));
        } else {
            image.copy_from_slice(&dataset.pixels(index)?);
        }
        self.augment(image, random);
        Ok(())
    }

    /// Fills `image` with the outlier of this number in the epoch, augmented.
    fn draw_outlier(&self, number: usize, image: &mut [u8], random: &mut impl Rng) -> Result<()> {
        if let Some(outliers) = self.outliers_for(number) {
            return self.draw(outliers, random.random_range(0..outliers.len()), image, random);
        }
        debug_assert!(self.settings.recipe.outliers.are_scrambled());
        let Input { height, width, .. } = self.settings.input;
        let drawn = self.training[random.random_range(0..self.training.len())];
        image.copy_from_slice(&self.known.pixels(drawn)?);
        scramble(image, height, width, random);
        self.augment(image, random);
        Ok(())
    }

    /// Augments an image, then may degrade it, then may mix it with fractals.
    fn augment(&self, image: &mut [u8], random: &mut impl Rng) {
        let TrainSettings { input, recipe, .. } = self.settings;
        augment(recipe, image, input.height, input.width, random);
        if recipe.degrade > 0.0 {
            degrade(image, input.height, input.width, recipe.degrade, random);
        }
        if let Some(fractals) = &self.fractals
            && random.random::<f64>() < recipe.pixmix
        {
            pixmix(image, input.height, input.width, fractals, random);
        }
    }

    /// The features of known images, and of outliers.
    fn features(
        &self,
        features: &FrozenFeatures,
        epoch: usize,
        step: usize,
        known: &[usize],
    ) -> Result<Images> {
        let is_flipped = self.settings.recipe.mirrors();
        let view = |random: &mut ChaCha8Rng| {
            if is_flipped && random.random() { View::Mirrored } else { View::Plain }
        };
        let known = known.iter().map(|&index| {
            let mut random = self.random(epoch, &Purpose::Known(index));
            features.row(Set::Known, index, view(&mut random))
        });
        let outliers = self.outlier_numbers(step, known.len()).map(|number| {
            let mut random = self.random(epoch, &Purpose::Outlier(number));
            match self.outliers_for(number) {
                Some(outliers) => {
                    let index = random.random_range(0..outliers.len());
                    features.row(Set::Outliers, index, view(&mut random))
                }
                None => {
                    let drawn = self.training[random.random_range(0..self.training.len())];
                    features.row(Set::Known, drawn, View::Scrambled)
                }
            }
        });
        Ok(Images::Features(features.rows(&known.chain(outliers).collect::<Vec<_>>())?))
    }

    /// The random numbers of an epoch for a purpose.
    pub(super) fn random(&self, epoch: usize, purpose: &Purpose) -> ChaCha8Rng {
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
    use ndarray::ArrayView3;

    use super::*;
    use crate::{
        arch::FAMILIES,
        run::{Outliers, Recipe},
    };
    use std::ops::Range;

    fn settings(memory: u64) -> TrainSettings {
        TrainSettings {
            // Not the native size of the images, so that resized copies are kept or made again.
            input: Input { height: 16, width: 16, ..Input::default() },
            memory,
            ..TrainSettings::new(
                concat!(env!("CARGO_MANIFEST_DIR"), "/examples/demo"),
                FAMILIES[0].default_member(),
            )
        }
    }

    #[test]
    fn copies_of_held_out_images_are_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let image = |class: &str, name: &str, value: u8| {
            let path = folder.path().join("train").join(class).join(format!("{name}.png"));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            ::image::RgbImage::from_pixel(32, 32, ::image::Rgb([value, 7, 9])).save(path).unwrap();
        };
        for number in 0..40_u8 {
            // Half of the images of a class are the first one.
            image("ants", &format!("{number:02}"), if number < 20 { number } else { 0 });
            image("bees", &format!("{number:02}"), 100 + number);
        }
        std::fs::write(folder.path().join("train/ants/00-broken.png"), "no image").unwrap();
        for class in ["ants", "bees"] {
            let test = folder.path().join("test").join(class);
            std::fs::create_dir_all(&test).unwrap();
            ::image::RgbImage::new(32, 32).save(test.join("0.png")).unwrap();
        }
        let mut settings = TrainSettings::new(folder.path(), FAMILIES[0].default_member());
        settings.skip_broken = true;
        settings.recipe.held_out = 0.4;
        settings.recipe.batch_size = 8;
        let batches = open(&settings);
        assert_eq!(
            (batches.contents.skipped, batches.started.duplicates, batches.calibrating.len()),
            (1, 20, 24)
        );
        // Of the copies, one at most calibrates; then none is trained on.
        let is_copy = |index: &&usize| **index == 0 || (20..40).contains(*index);
        let [calibrating, trained] =
            [&batches.calibrating, &batches.training].map(|indices| indices.iter().filter(is_copy).count());
        assert!([(0, 21), (1, 0)].contains(&(calibrating, trained)), "{calibrating} {trained}");
        assert_eq!(batches.calibrating.len() + batches.training.len() + calibrating * 20, 80);
        let seeds = (0..20).map(|seed| {
            let mut other = settings.clone();
            other.recipe.seed = seed;
            open(&other).calibrating.contains(&0)
        });
        assert_eq!(seeds.collect::<HashSet<bool>>().len(), 2, "both happen");

        // With two copies of each image and enough images for both, images that choose have no copies either.
        for number in 0..120_u8 {
            image("ants", &format!("{number:03}"), number / 2);
            image("bees", &format!("{number:03}"), 100 + number / 2);
        }
        settings.recipe.held_out = 0.5;
        let batches = open(&settings);
        assert!(batches.choosing.len() >= 19, "{}", batches.choosing.len());
        let bytes = |indices: &[usize]| -> HashSet<Vec<u8>> {
            indices.iter().map(|&index| batches.known.pixels(index).unwrap().into_owned()).collect()
        };
        let [choosing, calibrating, training] =
            [&batches.choosing, &batches.calibrating, &batches.training].map(|indices| bytes(indices));
        assert_eq!((choosing.len(), calibrating.len()), (batches.choosing.len(), batches.calibrating.len()));
        assert!(choosing.is_disjoint(&training) && calibrating.is_disjoint(&training));
        assert!(choosing.is_disjoint(&calibrating));
        std::fs::remove_dir_all(folder.path().join("train")).unwrap();

        for number in 0..40_u8 {
            image("ants", &format!("{number:02}"), 0);
            image("bees", &format!("{number:02}"), if number < 10 { 100 + number } else { 100 });
        }
        let error = Batches::open(&settings, &AtomicBool::new(false), |_| {}).err().expect("an error");
        assert!(error.to_string().contains("holds out 6 of 11 distinct images; "), "{error}");
    }

    fn open(settings: &TrainSettings) -> Batches<'_> {
        Batches::open(settings, &AtomicBool::new(false), |_| {}).unwrap().expect("no stop was requested")
    }

    /// The pixels, labels and seed of a batch.
    fn parts(batch: Batch) -> (Array4<u8>, Vec<i64>, u64) {
        let Images::Pixels(pixels) = batch.images else { panic!("no pixels") };
        (pixels, batch.labels, batch.seed)
    }

    /// The batches of two steps of an epoch.
    fn made(settings: &TrainSettings) -> Vec<(Array4<u8>, Vec<i64>, u64)> {
        let batches = open(settings);
        batches.of_epoch(2, 3, |made| made.take(2).map(|batch| parts(batch.unwrap())).collect())
    }

    /// [`made`] on this many threads.
    fn made_on(threads: usize, settings: &TrainSettings) -> Vec<(Array4<u8>, Vec<i64>, u64)> {
        let threads = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        threads.install(|| made(settings))
    }

    #[test]
    fn batches_do_not_depend_on_threads_or_memory() {
        let expected = made_on(1, &settings(0));
        assert_eq!((expected[0].0.dim(), expected[0].1.len()), ((80, 3, 16, 16), 64));
        for (threads, memory) in [(4, 0), (4, 1 << 30), (3, 100_000)] {
            let found = made_on(threads, &settings(memory));
            assert!(found == expected, "{threads} threads, {memory} bytes");
        }
    }

    #[test]
    fn a_share_of_the_images_is_degraded_or_mixed_with_fractals() {
        let made = |degrade, pixmix, threads| {
            let mut settings = settings(1 << 30);
            settings.recipe = Recipe { degrade, pixmix, ..settings.recipe };
            made_on(threads, &settings)
        };
        let plain = made(0.0, 0.0, 4);
        // The augmentation is the same as for the plain images.
        let changed = |batches: &[(Array4<u8>, Vec<i64>, u64)], of: Range<usize>| {
            let images = plain.iter().zip(batches).flat_map(|((plain, ..), (changed, ..))| {
                plain.outer_iter().zip(changed.outer_iter()).skip(of.start).take(of.len())
            });
            images.filter(|(plain, changed)| plain != changed).count()
        };
        // Two steps of 64 known images and 16 outliers each. One image in ten is mixed with nothing.
        for (degrade, pixmix, of_known, of_outliers) in
            [(0.0, 0.5, 40..75, 7..24), (0.2, 0.0, 45..80, 8..24), (0.2, 0.5, 75..110, 15..30)]
        {
            let batches = made(degrade, pixmix, 4);
            assert!(batches == made(degrade, pixmix, 1));
            let (known, outliers) = (changed(&batches, 0..64), changed(&batches, 64..80));
            assert!(of_known.contains(&known) && of_outliers.contains(&outliers), "{known} {outliers}");
        }
    }

    #[test]
    fn resized_crops_are_cut_from_the_original_images() {
        let folder = tempfile::tempdir().unwrap();
        for (class, red) in [("a", 0), ("b", 200)] {
            for split in ["train", "test"] {
                let at = folder.path().join(split).join(class);
                std::fs::create_dir_all(&at).unwrap();
                for n in 0..24 {
                    let image = image::RgbImage::from_fn(60 + n, 48, |x, y| {
                        image::Rgb([red, (3 * x) as u8, (5 * y) as u8])
                    });
                    image.save(at.join(format!("{n}.png"))).unwrap();
                }
            }
        }
        let mut settings = settings(0);
        settings.known.path = folder.path().to_owned();
        settings.recipe =
            Recipe { augment: Augment::ResizedCrop, held_out: 0.0, batch_size: 8, ..settings.recipe };
        let on_threads = |count, memory| made_on(count, &TrainSettings { memory, ..settings.clone() });
        let expected = on_threads(1, 0);
        for (threads, memory) in [(4, 0), (3, 1 << 30), (1, 10_000)] {
            assert!(on_threads(threads, memory) == expected, "{threads} threads, {memory} bytes");
        }
        // The colours of a box change in proportion to its size: less than in the whole image.
        let (pixels, ..) = &expected[0];
        for image in 0..8 {
            let across = i32::from(pixels[[image, 1, 8, 15]]) - i32::from(pixels[[image, 1, 8, 0]]);
            let along = i32::from(pixels[[image, 2, 15, 8]]) - i32::from(pixels[[image, 2, 0, 8]]);
            assert!((85..=240).contains(&across.abs()) && (130..=240).contains(&along), "{across} {along}");
        }
    }

    #[test]
    fn outliers_alternate_between_scrambled_and_folder() {
        let folder = tempfile::tempdir().unwrap();
        let green = [10, 250, 20];
        image::RgbImage::from_pixel(16, 16, image::Rgb(green)).save(folder.path().join("0.png")).unwrap();
        let mut settings = settings(0);
        settings.recipe.outliers = Outliers::ScrambledAndFolder(folder.path().to_owned());
        settings.recipe.augment = Augment::None;
        // An odd number per step: the alternation continues in the next.
        settings.recipe.outlier_share = 3.0 / 64.0;
        let is_green = |image: ArrayView3<u8>| {
            green.iter().zip(image.outer_iter()).all(|(value, channel)| channel.iter().all(|x| x == value))
        };
        let mut found = Vec::new();
        for (pixels, labels, _) in made(&settings) {
            found.extend(pixels.outer_iter().skip(labels.len()).map(is_green));
        }
        // Outliers 9 to 14.
        assert_eq!(found, [true, false, true, false, true, false]);
    }

    #[test]
    fn a_step_does_not_depend_on_earlier_steps() {
        let settings = settings(0);
        let batches = open(&settings);
        let pixels = |first_step, skipped: usize| {
            batches.of_epoch(1, first_step, |made| parts(made.nth(skipped).unwrap().unwrap()).0)
        };
        assert!(pixels(0, 2) == pixels(2, 0));
        assert!(pixels(0, 2) != pixels(0, 1));
    }

    #[test]
    fn an_epoch_has_each_training_image_once() {
        let settings = settings(0);
        let batches = open(&settings);
        let held_out = [batches.choosing.len(), batches.calibrating.len()];
        assert_eq!((batches.images(), held_out, batches.steps()), (1542, [19, 39], 25));
        let all = [&batches.training, &batches.choosing, &batches.calibrating];
        let distinct: HashSet<&usize> = all.into_iter().flatten().collect();
        assert_eq!(distinct.len(), batches.known.len());
        let (mut labels, mut counts) = (Vec::new(), Vec::new());
        batches.of_epoch(1, 0, |batches| {
            for batch in batches {
                let (pixels, more, _) = parts(batch.unwrap());
                counts.push(pixels.dim().0);
                labels.extend(more);
            }
        });
        assert_eq!(
            (counts.len(), counts[0], counts[24]),
            (25, 80, 8),
            "the last step has 6 known images and 2 outliers"
        );
        let mut expected = batches.labels(&batches.training);
        expected.sort_unstable();
        labels.sort_unstable();
        assert_eq!(labels, expected);
    }

    #[test]
    fn no_step_has_a_single_image() {
        let mut settings = settings(0);
        // 1542 images: 23 steps of 67 and one more image, or a step of 2 at the end.
        for (batch_size, steps, last) in
            [(2, 771, 2), (67, 23, 68), (70, 23, 2), (1541, 1, 1542), (1542, 1, 1542)]
        {
            settings.recipe = Recipe { batch_size, outliers: Outliers::None, ..settings.recipe };
            let batches = open(&settings);
            let counts: Vec<usize> =
                batches.of_epoch(1, 0, |made| made.map(|batch| parts(batch.unwrap()).0.dim().0).collect());
            assert_eq!((batches.steps(), counts.len(), counts[steps - 1]), (steps, steps, last));
            assert_eq!(counts.iter().sum::<usize>(), 1542, "{batch_size} at once");
        }
    }

    #[test]
    fn a_sample_has_every_class() {
        let settings = settings(0);
        let batches = open(&settings);
        for (count, expected) in [(0, 10..=10), (3, 10..=12), (1000, 1000..=1000), (usize::MAX, 1542..=1542)]
        {
            let drawn = batches.sample(count);
            let classes: HashSet<i64> = batches.labels(&drawn).into_iter().collect();
            assert_eq!(classes.len(), 10, "{count}");
            assert!(expected.contains(&drawn.len()), "{count}: {}", drawn.len());
        }
    }

    #[test]
    fn reading_stops_on_request() {
        let settings = settings(0);
        assert!(Batches::open(&settings, &AtomicBool::new(true), |_| {}).unwrap().is_none());
    }
}
