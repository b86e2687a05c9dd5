//! The pictures of a run, and its batches, which are made while the network is busy with the one before.

use std::{
    collections::HashSet,
    sync::mpsc::{Receiver, sync_channel},
};

use rand::{Rng, RngExt, SeedableRng, rngs::ChaCha8Rng};
use sha2::{Digest, Sha256};

use super::{Settings, augment::augment, scramble::scramble};
use crate::{
    dataset::{Dataset, Split, UnknownSet, open_test, open_training, shuffled},
    error::{Error, Result},
    manifest::Input,
    weights::hexadecimal,
};

/// So many batches are ready at most.
const AHEAD: usize = 2;

/// All pictures of a run, in memory.
pub(super) struct Data<'a> {
    settings: &'a Settings,
    pub known: Dataset,
    /// The training pictures as indices into `known`, and those kept out of training.
    pub training: Vec<usize>,
    pub held_out: Vec<usize>,
    pub known_test: Dataset,
    pub unknown_tests: Vec<UnknownSet>,
    /// The outliers that come from a folder.
    outliers: Option<Dataset>,
}

/// The pictures of a step.
pub(super) struct Batch {
    /// `[N, 3, H, W]`, known pictures first.
    pub pixels: Vec<u8>,
    /// Of the known pictures; the others are outliers.
    pub labels: Vec<i64>,
    /// Of all else that is random in the step.
    pub seed: u64,
}

impl<'a> Data<'a> {
    /// Reads all pictures.
    pub fn open(settings: &'a Settings) -> Result<Self> {
        let Settings { input: Input { height, width, .. }, training, .. } = settings;
        let protocol = training.protocol.as_ref();
        let known = open_training(&training.known, protocol, *height, *width)?;
        let (known_test, unknown_tests) =
            open_test(&training.known, &training.unknown, protocol, *height, *width)?;
        let known_test = known_test.align(known.classes())?;
        let outliers = match training.recipe.outliers.folder() {
            Some(folder) => {
                let outliers = Dataset::unknown(folder, Split::Train, *height, *width)?;
                let tests = unknown_tests.iter().map(|set| &set.pictures);
                if tests.chain([&known, &known_test]).any(|other| outliers.shares_pictures_with(other)) {
                    let reason = "holds known or test pictures";
                    return Err(Error::setting("outliers", format!("`{}`", folder.display()), reason));
                }
                Some(outliers.load()?)
            }
            None => None,
        };
        let held_out = (training.held_out * known.len() as f64).ceil() as usize;
        let (held_out, training) = known.draw(held_out.min(known.len().saturating_sub(1)), training.seed);
        let trained: HashSet<i64> = training.iter().map(|&index| known.labels()[index]).collect();
        if let Some((name, _)) = known.classes().iter().zip(0..).find(|(_, class)| !trained.contains(class)) {
            let path = settings.training.known.clone();
            let reason =
                format!("class `{name}` has no picture to train on, {} are held out", held_out.len());
            return Err(Error::Dataset { path, reason });
        }
        let (known, known_test) = (known.load()?, known_test.load()?);
        let unknown_tests = unknown_tests
            .into_iter()
            .map(|set| Ok(UnknownSet { pictures: set.pictures.load()?, ..set }))
            .collect::<Result<Vec<_>>>()?;
        Ok(Self { settings, known, training, held_out, known_test, unknown_tests, outliers })
    }

    /// The labels of known pictures.
    pub fn labels(&self, indices: &[usize]) -> Vec<i64> {
        indices.iter().map(|&index| self.known.labels()[index]).collect()
    }

    /// The SHA-256 of all that is learned from, in hexadecimal: pictures, classes and outliers.
    pub fn checksum(&self) -> Result<String> {
        let mut sum = Sha256::new();
        for dataset in [Some(&self.known), self.outliers.as_ref()].into_iter().flatten() {
            sum.update(dataset.classes().join("\0"));
            for index in 0..dataset.len() {
                sum.update(dataset.labels()[index].to_le_bytes());
                sum.update(dataset.batch(&[index])?);
            }
        }
        Ok(hexadecimal(sum))
    }

    /// Steps in an epoch.
    pub fn steps(&self) -> usize {
        self.training.len().div_ceil(self.settings.training.batch_size)
    }

    /// Gives a function the batches of an epoch from a step on, which another thread makes meanwhile.
    pub fn with_batches<T>(
        &self,
        epoch: usize,
        first_step: usize,
        take: impl FnOnce(Receiver<Result<Batch>>) -> T,
    ) -> T {
        let order = shuffled(self.training.len(), self.random(epoch, 0).random());
        std::thread::scope(|scope| {
            let (send, batches) = sync_channel(AHEAD);
            scope.spawn(move || {
                let drawn = order.chunks(self.settings.training.batch_size);
                for (step, drawn) in drawn.enumerate().skip(first_step) {
                    // Whoever takes them may have had enough.
                    if send.send(self.batch(drawn, self.random(epoch, step + 1))).is_err() {
                        break;
                    }
                }
            });
            take(batches)
        })
    }

    fn batch(&self, drawn: &[usize], mut random: impl Rng) -> Result<Batch> {
        let Input { height, width, .. } = self.settings.input;
        let recipe = &self.settings.training.recipe;
        let known: Vec<usize> = drawn.iter().map(|&place| self.training[place]).collect();
        let mut pixels = self.known.batch(&known)?;
        for _ in 0..recipe.outliers_beside(known.len()) {
            pixels.extend(match &self.outliers {
                Some(outliers) => outliers.batch(&[random.random_range(0..outliers.len())])?,
                // Scrambled ones, since without any there is none to draw.
                None => {
                    let drawn = self.training[random.random_range(0..self.training.len())];
                    let mut picture = self.known.batch(&[drawn])?;
                    scramble(&mut picture, height, width, &mut random);
                    picture
                }
            });
        }
        for picture in pixels.chunks_exact_mut(3 * height * width) {
            augment(recipe.augment, picture, height, width, &mut random);
        }
        Ok(Batch { pixels, labels: self.labels(&known), seed: random.random() })
    }

    /// The random numbers of a step of an epoch, or with step 0 of the epoch's order: what is random in a step
    /// depends on nothing before it.
    fn random(&self, epoch: usize, step: usize) -> impl Rng + use<> {
        // Blocks of a cipher: no two runs, epochs or steps have any in common.
        let mut random = ChaCha8Rng::seed_from_u64(self.settings.training.seed);
        random.set_stream(((epoch as u64) << 32) + step as u64);
        random
    }
}
