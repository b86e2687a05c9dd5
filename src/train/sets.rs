//! The data sets of a run, read once: every image is decoded, and equal images are found.

use std::{
    collections::{BTreeMap, HashSet},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::{Event, TrainSettings};
use crate::{
    data::{Copies, Dataset, Role, Split, TestImages, UnknownSet},
    error::{Error, Result},
    files::checksum,
    image::DifferenceHash,
    run::{Augment, Recipe},
    text::shown,
};

/// Images read between progress checks.
const READ_AT_ONCE: usize = 256;
/// Time between events while images are read.
const REPORT_READING_EVERY: Duration = Duration::from_secs(1);

/// The SHA-256 of an encoded image.
type ImageDigest = [u8; 32];

/// A data set of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Set {
    /// The known training images, including held-out ones.
    Known,
    /// The known test images.
    Test,
    /// The unknown test set with this number.
    Unknown(usize),
    /// The outliers from a folder.
    Outliers,
}

/// The data sets of a run.
pub(super) struct Sets {
    pub known: Dataset,
    pub known_test: Dataset,
    /// The classes of the data set that are unknown.
    pub other_classes: Vec<String>,
    pub unknown_tests: Vec<UnknownSet>,
    pub outliers: Option<Dataset>,
}

impl Sets {
    pub fn open(settings: &TrainSettings) -> Result<Self> {
        let TrainSettings { known, input, data, recipe, .. } = settings;
        let roles = [Split::Train, Split::Test].map(Role::Known);
        let folder = data.resolve(&known.path, &roles)?;
        let unknown = data.resolve_unknown(&settings.unknown)?;
        let (known, tests) = known.at(&folder).both(&unknown, input)?;
        let TestImages { known: known_test, other_classes, unknown: unknown_tests } = tests;
        let known_test = known_test.align(known.classes())?;
        if settings.known.held_out_test.is_none() && known.shares_images_with(&known_test) {
            let reason = "its training and test images are from the same files".to_owned();
            return Err(Error::Dataset { path: folder, reason });
        }
        let outliers = match recipe.outliers.folder() {
            Some(folder) => {
                let path = data.resolve(folder, &[Role::Unknown(Split::Train)])?;
                let outliers = Dataset::unknown(&path, Split::Train, input)?;
                let tests = unknown_tests.iter().map(|set| &set.images);
                if tests.chain([&known, &known_test]).any(|other| outliers.shares_images_with(other)) {
                    let reason = "holds known or test images";
                    return Err(Error::setting("outliers", format!("`{}`", shown(folder)), reason));
                }
                Some(outliers)
            }
            None => None,
        };
        Ok(Self { known, known_test, other_classes, unknown_tests, outliers })
    }

    /// The data sets, the most frequently used first.
    fn each(&mut self) -> impl Iterator<Item = (Set, &mut Dataset)> {
        let outliers = self.outliers.as_mut().map(|images| (Set::Outliers, images));
        let unknown = self.unknown_tests.iter_mut().enumerate();
        let unknown = unknown.map(|(number, set)| (Set::Unknown(number), &mut set.images));
        let known = [(Set::Known, &mut self.known)];
        known.into_iter().chain(outliers).chain([(Set::Test, &mut self.known_test)]).chain(unknown)
    }

    /// Keeps decoded images up to a number of bytes.
    pub fn keep(&mut self, mut memory: u64, recipe: &Recipe) {
        // With resized crops steps decode the originals anew; scrambled outliers are made of what is kept.
        let are_decoded_anew = recipe.augment == Augment::ResizedCrop && !recipe.outliers.are_scrambled();
        let mut sets: Vec<_> = self.each().collect();
        sets.sort_by_key(|(set, _)| are_decoded_anew && matches!(set, Set::Known | Set::Outliers));
        for (_, set) in sets {
            *set = set.clone().keep(&mut memory);
        }
    }

    /// Decodes every image once, and leaves out those that cannot be read if `skip` is set and no set loses
    /// all of its images. `None` if asked to stop.
    pub fn read(
        &mut self,
        skip: bool,
        stop: &AtomicBool,
        observe: &mut dyn FnMut(&Event),
    ) -> Result<Option<Contents>> {
        let images = self.each().map(|(_, set)| set.len()).sum();
        let mut reader = Reader { images, done: 0, said: Instant::now(), stop };
        let mut found = Found::default();
        for (kind, set) in self.each() {
            let is_hashed = matches!(kind, Set::Known | Set::Test);
            let Some(seen) = reader.read(set, is_hashed, observe) else { return Ok(None) };
            found.compare(kind, &seen);
            let readable = found.add_to_checksum(kind, set, seen)?;
            if readable.len() < set.len() {
                *set = set.pick(&readable);
            }
        }
        if !found.errors.is_empty() && !skip {
            return Err(Error::BrokenImages { errors: found.errors });
        }
        if let Some(error) = found.emptied {
            return Err(error);
        }
        let [checksum, tests_checksum] = found.checksums.map(checksum::hexadecimal);
        let by_name = |counts: BTreeMap<usize, usize>| {
            let name = |number: usize| self.unknown_tests[number].name.clone();
            counts
                .into_iter()
                .filter(|&(_, count)| count > 0)
                .map(|(number, count)| (name(number), count))
                .collect()
        };
        Ok(Some(Contents {
            skipped: found.errors.len(),
            skipped_in_tests: found.skipped_in_tests,
            repeated: found.repeated,
            learned: by_name(found.learned),
            also_known: by_name(found.also_known),
            copies: Copies::of(found.trained.into_iter().map(Some)),
            hashes: found.hashes,
            test_hashes: found.test_hashes,
            checksum,
            tests_checksum,
        }))
    }
}

/// What reading the images has found so far. The images to learn from are read before those of tests.
#[derive(Default)]
struct Found {
    errors: Vec<Error>,
    skipped_in_tests: usize,
    /// The error of the first set that has lost all of its images.
    emptied: Option<Error>,
    /// The checksums of the training data and of the test sets.
    checksums: [Sha256; 2],
    /// The digests of the known training images, in order and as a set.
    trained: Vec<ImageDigest>,
    known: HashSet<ImageDigest>,
    outliers: HashSet<ImageDigest>,
    /// The digests of the known test images.
    tested: HashSet<ImageDigest>,
    /// How many known test images are known training images.
    repeated: usize,
    /// How many images of each unknown set are images to learn from, and how many are known test images.
    learned: BTreeMap<usize, usize>,
    also_known: BTreeMap<usize, usize>,
    hashes: Vec<Option<DifferenceHash>>,
    test_hashes: Vec<Option<DifferenceHash>>,
}

impl Found {
    /// Compares the readable images of a set with those of the sets before it.
    fn compare(&mut self, kind: Set, seen: &[Result<Seen>]) {
        let readable = || seen.iter().flatten();
        let digests = || readable().map(|seen| seen.digest);
        match kind {
            Set::Known => {
                self.trained.extend(digests());
                self.known.extend(digests());
                self.hashes.extend(readable().map(|seen| seen.hash));
            }
            Set::Outliers => self.outliers.extend(digests()),
            Set::Test => {
                let is_known = |seen: &&Seen| self.known.contains(&seen.digest);
                self.repeated = readable().filter(is_known).count();
                self.test_hashes.extend(readable().filter(|seen| !is_known(seen)).map(|seen| seen.hash));
                self.tested.extend(digests());
            }
            Set::Unknown(number) => {
                let is_learned =
                    |digest: &ImageDigest| self.known.contains(digest) || self.outliers.contains(digest);
                self.learned.insert(number, digests().filter(is_learned).count());
                let is_tested = |digest: &ImageDigest| self.tested.contains(digest);
                self.also_known.insert(number, digests().filter(is_tested).count());
            }
        }
    }

    /// Adds the readable images of a set to its checksum; returns their indices.
    ///
    /// # Errors
    /// An error of the system, such as full memory; others are kept.
    fn add_to_checksum(&mut self, kind: Set, set: &Dataset, seen: Vec<Result<Seen>>) -> Result<Vec<usize>> {
        let is_test = matches!(kind, Set::Test | Set::Unknown(_));
        let checksum = &mut self.checksums[usize::from(is_test)];
        checksum.update(set.classes().join("\0"));
        let mut readable = Vec::with_capacity(set.len());
        for (index, seen) in seen.into_iter().enumerate() {
            match seen {
                Ok(Seen { digest, .. }) => {
                    checksum.update(set.labels()[index].to_le_bytes());
                    checksum.update(digest);
                    readable.push(index);
                }
                Err(error) if error.is_of_the_system() => return Err(error),
                Err(error) => {
                    self.skipped_in_tests += usize::from(is_test);
                    self.errors.push(error);
                }
            }
        }
        if is_test {
            // Otherwise an image could move from the end of a set to the start of the next without changing the
            // checksum.
            checksum.update((readable.len() as u64).to_le_bytes());
        }
        if let ([], Some(error), true) = (&readable[..], self.errors.last(), !set.is_empty()) {
            let reason = format!("none of its {} images can be read; {error}", set.len());
            self.emptied.get_or_insert(Error::Dataset { path: set.origin().to_owned(), reason });
        }
        Ok(readable)
    }
}

/// The result of reading all images.
pub(super) struct Contents {
    /// The numbers of images that cannot be read, in all sets and in the test sets.
    pub skipped: usize,
    pub skipped_in_tests: usize,
    /// Known test images with the bytes of a known training image.
    pub repeated: usize,
    /// The number of images of each unknown set with the bytes of a known training image or an outlier.
    pub learned: BTreeMap<String, usize>,
    /// The number of images of each unknown set with the bytes of a known test image.
    pub also_known: BTreeMap<String, usize>,
    /// Known training images with the same bytes.
    pub copies: Copies,
    /// The hashes of the known training images, and of the known test images that are none of them.
    pub hashes: Vec<Option<DifferenceHash>>,
    pub test_hashes: Vec<Option<DifferenceHash>>,
    /// SHA-256, in hexadecimal, of the training data: classes, labels, and the encoded known images and
    /// outliers.
    pub checksum: String,
    /// SHA-256, in hexadecimal, of the test sets: their sizes, labels, and the encoded images.
    pub tests_checksum: String,
}

/// What is kept of an image that was read.
struct Seen {
    digest: ImageDigest,
    hash: Option<DifferenceHash>,
}

/// Reads images for the first time.
struct Reader<'a> {
    /// The number of images in all sets, and how many have been read.
    images: usize,
    done: usize,
    /// The time of the last event.
    said: Instant,
    stop: &'a AtomicBool,
}

impl Reader<'_> {
    /// Decodes the images of a set on all threads, with their difference hashes if `is_hashed`; `None` if asked
    /// to stop.
    fn read(
        &mut self,
        set: &Dataset,
        is_hashed: bool,
        observe: &mut dyn FnMut(&Event),
    ) -> Option<Vec<Result<Seen>>> {
        let indices: Vec<usize> = (0..set.len()).collect();
        let mut all = Vec::with_capacity(set.len());
        for indices in indices.chunks(READ_AT_ONCE) {
            if self.stop.load(Ordering::Relaxed) {
                return None;
            }
            let see = |&index: &usize| {
                let (encoded, hash) = set.checked(index, is_hashed)?;
                Ok(Seen { digest: Sha256::digest(encoded).into(), hash })
            };
            all.par_extend(indices.par_iter().map(see));
            self.done += indices.len();
            if self.said.elapsed() >= REPORT_READING_EVERY {
                self.said = Instant::now();
                observe(&Event::Reading { done: self.done, images: self.images });
            }
        }
        Some(all)
    }
}
