//! Data sets of known and unknown images.

mod arrays;
mod catalog;
mod cifar;
mod copies;
pub(crate) mod degradation;
#[cfg(feature = "files")]
mod fetch;
mod folder;
mod idx;
mod known;
mod layout;
mod loader;
mod noise;
mod numpy;
mod parquet;
mod protocol;
pub(crate) mod stand_ins;
mod svhn;
mod tiny_imagenet;

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use ndarray::Array4;
use rand::{SeedableRng, rngs::ChaCha8Rng, seq::SliceRandom};
use rayon::prelude::*;
#[cfg(feature = "files")]
use sha2::{Digest, Sha256};

#[cfg(feature = "files")]
use crate::files::checksum;
#[cfg(feature = "files")]
pub use crate::files::download::FetchEvent;
use crate::{
    error::{Error, Result},
    files::atomic::folder_of,
    image::{self, Input, Region},
    text::{few, on_one_line, path_text},
};
use arrays::Arrays;
pub use catalog::{DataFolder, Download, PublishedSet, Role, SETS};
pub(crate) use copies::Copies;
pub use degradation::Degradation;
#[cfg(feature = "files")]
pub use fetch::{Fault, Verified};
#[cfg(feature = "train")]
pub(crate) use folder::add_counts;
pub use folder::{LeftOut, Listing, images_below, is_divided};
pub use known::{KnownData, TestImages};
use layout::{Part, Wanted};
pub use layout::{exists, layouts, unused_splits};
pub use loader::prefetch;
pub use noise::Noise;
pub use protocol::Protocol;
pub use stand_ins::StandIn;

/// The label of images that belong to no known class.
pub const UNKNOWN: i64 = -1;

/// The name of the set of known images.
pub const KNOWN: &str = "known";

/// The row of a report with the mean over the unknown sets.
pub(crate) const MEAN: &str = "mean";
/// The row of all unknown images together.
pub(crate) const ALL: &str = "all";
/// Names that no unknown set and no group may have: those of rows, and that of the known images.
pub(crate) const RESERVED_NAMES: [&str; 3] = [MEAN, ALL, KNOWN];

/// The name of the unknown set made of the classes that a protocol leaves out.
pub(crate) const OTHER_CLASSES: &str = "other-classes";

/// A split of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// The training images.
    Train,
    /// The test images.
    Test,
}

impl Split {
    /// The other split.
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Train => Self::Test,
            Self::Test => Self::Train,
        }
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Train => "training",
            Self::Test => "test",
        })
    }
}

/// The seed for holding out test images, the same for all trainings so that they can be compared.
const HELD_OUT_TEST_SEED: u64 = 0;

/// Labelled images, all resized to one input. An image is decoded at every access unless it is
/// [kept](Dataset::keep).
#[derive(Debug, Clone)]
pub struct Dataset {
    origin: PathBuf,
    classes: Vec<String>,
    labels: Vec<i64>,
    input: Input,
    is_mirrored: bool,
    degradation: Option<Degradation>,
    source: Arc<Source>,
    left_out: Arc<LeftOut>,
    /// The index of each image in the source.
    positions: Vec<usize>,
    /// The decoded pixels of the first images, neither degraded nor mirrored, filled at first access.
    kept: Arc<[OnceLock<Box<[u8]>>]>,
}

#[derive(Debug)]
enum Source {
    Arrays(Arrays),
    Files(Vec<PathBuf>),
    #[cfg(feature = "parquet")]
    Rows(parquet::Rows),
    Noise(Noise),
}

impl Source {
    /// The number of images.
    fn len(&self) -> usize {
        match self {
            Self::Arrays(arrays) => arrays.len(),
            Self::Files(files) => files.len(),
            #[cfg(feature = "parquet")]
            Self::Rows(rows) => rows.len(),
            Self::Noise(noise) => noise.count,
        }
    }
}

/// A set of unknown images and the name of its row in the report.
#[derive(Debug, Clone)]
pub struct UnknownSet {
    /// The row's name.
    pub name: String,
    /// The images, all labelled [`UNKNOWN`].
    pub images: Dataset,
}

/// The images of a batch that can be read.
#[derive(Debug)]
pub struct Readable<T> {
    /// The positions of the images in the batch, ascending.
    pub positions: Vec<usize>,
    /// The images.
    pub images: T,
    /// The errors of the others.
    pub errors: Vec<Error>,
}

impl<T> Readable<Vec<T>> {
    fn of(decoded: Vec<Result<T>>) -> Self {
        let mut readable = Self { positions: Vec::new(), images: Vec::new(), errors: Vec::new() };
        for (position, image) in decoded.into_iter().enumerate() {
            match image {
                Ok(image) => {
                    readable.positions.push(position);
                    readable.images.push(image);
                }
                Err(error) => readable.errors.push(error),
            }
        }
        readable
    }
}

impl<T> Readable<T> {
    /// The same with the images in another form.
    pub(crate) fn map<U>(self, form: impl FnOnce(T) -> U) -> Readable<U> {
        Readable { positions: self.positions, images: form(self.images), errors: self.errors }
    }
}

impl Dataset {
    /// Opens a split of a data set of known classes, in one of the recognised [`layouts`]. Images in arrays
    /// are read into memory; those in files are decoded when they are needed. Data without splits counts as a
    /// test split.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::NoLayout`] and [`Error::NoImages`]; [`Error::Dataset`] if a file is missing or
    /// damaged, or the folder of a class has no images; [`Error::Undivided`] if training images are wanted
    /// from data without splits, or test images from data with only training images.
    pub fn known(path: &Path, split: Split, input: &Input) -> Result<Self> {
        Self::with_classes(path, Wanted::Known(split), input)
    }

    fn with_classes(path: &Path, wanted: Wanted, input: &Input) -> Result<Self> {
        let Part { classes, labels, source, left_out } = layout::open(path, wanted)?;
        let unusable = |reason| Err(Error::Dataset { path: path.to_owned(), reason });
        if classes.len() < 2 {
            return unusable(format!("it has {} classes, expected at least 2", classes.len()));
        }
        let mut indices = HashMap::new();
        for (index, name) in classes.iter().enumerate() {
            if let Some(before) = indices.insert(name, index) {
                return unusable(format!(
                    "its classes {before} and {index} are both called `{}`",
                    on_one_line(name)
                ));
            }
        }
        let dataset = Self::new(path, classes, labels, input, source);
        Ok(Self { left_out: Arc::new(left_out), ..dataset })
    }

    /// Opens unknown images: a split of a data set in one of the [`layouts`] that have splits, or all images
    /// in a folder and its subfolders.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::NoImages`], and [`Error::Dataset`] if a file is damaged.
    pub fn unknown(path: &Path, split: Split, input: &Input) -> Result<Self> {
        let Part { source, left_out, .. } = layout::open(path, Wanted::Unknown(split))?;
        let dataset = Self::without_classes(path, source.len(), input, source);
        Ok(Self { left_out: Arc::new(left_out), ..dataset })
    }

    /// Opens a data set of known classes that has no test split, and divides it into training and test
    /// images. The test images are a random share of all, stratified by class; each class keeps at least one
    /// image for training. Images of equal bytes are on the same side. The test images stay the same as long as
    /// the data does.
    ///
    /// # Errors
    /// Those of [`known`](Self::known); [`Error::Setting`] if the data has a test split of its own, or the
    /// share is not above 0 and below 1; [`Error::EmptiesClass`] if it is too large.
    pub fn divided(path: &Path, share: f64, input: &Input) -> Result<(Self, Self)> {
        if !(share > 0.0 && share < 1.0) {
            return Err(Error::setting("held-out test", share, "must be a share above 0 and below 1"));
        }
        let whole = Self::with_classes(path, Wanted::Divided(share), input)?;
        let copies = whole.copies()?;
        let distinct = copies.distinct();
        let count = ((share * distinct.len() as f64).round() as usize).max(1);
        let emptied = || Error::EmptiesClass { name: "held-out test", value: share.to_string() };
        let drawn = whole.pick(&distinct).hold_out(count, HELD_OUT_TEST_SEED);
        let (test, _) = drawn.map_err(|_| emptied())?;
        let (test, training) = copies.divide(&test.into_iter().map(|index| distinct[index]).collect());
        let (training, test) = (whole.pick(&training), whole.pick(&test));
        // All images of a class may be copies of another's.
        if training.classes_without_images().count() > whole.classes_without_images().count() {
            return Err(emptied());
        }
        Ok((training, test))
    }

    /// Which images have equal [encoded](Self::encoded) bytes. Only files of the same length are read; one that
    /// cannot be read equals no other.
    ///
    /// # Errors
    /// [`Error::Io`] if the system has no memory or open files left.
    fn copies(&self) -> Result<Copies> {
        let length = |&position: &usize| match &*self.source {
            Source::Files(files) => std::fs::metadata(&files[position]).map_or(0, |file| file.len()),
            #[cfg(feature = "parquet")]
            Source::Rows(rows) => rows.encoded(position).len() as u64,
            // The images of arrays have one size.
            Source::Arrays(_) | Source::Noise(_) => 0,
        };
        let lengths: Vec<u64> = self.positions.par_iter().map(length).collect();
        let mut counts: HashMap<u64, usize> = HashMap::new();
        lengths.iter().for_each(|&length| *counts.entry(length).or_default() += 1);
        let digest = |index: usize| {
            if counts[&lengths[index]] == 1 {
                return Ok(None);
            }
            let bytes = match self.encoded(index) {
                Ok(bytes) => bytes,
                Err(error) if error.is_of_the_system() => return Err(error),
                Err(_) => return Ok(None),
            };
            let mut hasher = DefaultHasher::new();
            bytes.hash(&mut hasher);
            Ok(Some((lengths[index], hasher.finish())))
        };
        let digests: Vec<Option<_>> = (0..self.len()).into_par_iter().map(digest).collect::<Result<_>>()?;
        Ok(Copies::of(digests))
    }

    /// Generated noise as unknown images.
    #[must_use]
    pub fn noise(noise: Noise, input: &Input) -> Self {
        let origin = noise.to_string();
        Self::without_classes(Path::new(&origin), noise.count, input, Source::Noise(noise))
    }

    fn without_classes(origin: &Path, count: usize, input: &Input, source: Source) -> Self {
        Self::new(origin, Vec::new(), vec![UNKNOWN; count], input, source)
    }

    fn new(origin: &Path, classes: Vec<String>, labels: Vec<i64>, input: &Input, source: Source) -> Self {
        let (origin, positions) = (origin.to_owned(), (0..labels.len()).collect());
        Self {
            origin,
            classes,
            labels,
            input: *input,
            is_mirrored: false,
            degradation: None,
            source: Arc::new(source),
            left_out: Arc::default(),
            positions,
            kept: Arc::from([]),
        }
    }

    /// The number of images.
    #[must_use]
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are no images.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The names of the classes; empty for unknown images.
    #[must_use]
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// The label of each image: an index into [`classes`](Self::classes), or [`UNKNOWN`].
    #[must_use]
    pub fn labels(&self) -> &[i64] {
        &self.labels
    }

    /// The number of files in its folders without an image extension, and of images next to the class
    /// folders, by extension.
    #[must_use]
    pub fn left_out(&self) -> &LeftOut {
        &self.left_out
    }

    /// The name of an image: its path; `FILE#NUMBER` in a file of several, counted from 0, or
    /// `FILE/ARRAY#NUMBER` if that has several arrays; or `gaussian-noise#NUMBER`.
    ///
    /// # Panics
    /// If `index` is not below [`len`](Self::len).
    #[must_use]
    pub fn name(&self, index: usize) -> String {
        let position = self.positions[index];
        match &*self.source {
            Source::Arrays(arrays) => arrays.name(position),
            Source::Files(files) => path_text(&files[position]),
            #[cfg(feature = "parquet")]
            Source::Rows(rows) => rows.name(position),
            Source::Noise(noise) => format!("{}#{position}", noise.name()),
        }
    }

    /// SHA-256, in hexadecimal, of the names of all images in order, or of their positions in arrays. Paths are
    /// relative to the data set, so it may be moved.
    #[cfg(feature = "files")]
    #[must_use]
    pub fn names_checksum(&self) -> String {
        let mut sum = Sha256::new();
        for &position in &self.positions {
            let name = match &*self.source {
                Source::Files(files) => {
                    path_text(files[position].strip_prefix(&self.origin).unwrap_or(&files[position]))
                }
                _ => position.to_string(),
            };
            sum.update(name);
            sum.update([0]);
        }
        checksum::hexadecimal(sum)
    }

    /// Whether the two have images from the same folder, file or array. A link to a file counts as that file.
    #[must_use]
    pub fn shares_images_with(&self, other: &Self) -> bool {
        let has_links = self.has_links() || other.has_links();
        !self.origins(has_links).is_disjoint(&other.origins(has_links))
            || has_links && !self.image_files().is_disjoint(&other.image_files())
    }

    /// Whether it was opened from this folder or one below it.
    fn lies_in(&self, folder: &Path) -> bool {
        let places = self.origin.canonicalize().and_then(|place| Ok((place, folder.canonicalize()?)));
        places.is_ok_and(|(place, folder)| place.starts_with(folder))
    }

    /// Whether there are links among its image files.
    fn has_links(&self) -> bool {
        match &*self.source {
            Source::Files(files) => self.positions.par_iter().any(|&position| files[position].is_symlink()),
            _ => false,
        }
    }

    /// Its image files, with links resolved.
    fn image_files(&self) -> HashSet<PathBuf> {
        match &*self.source {
            Source::Files(files) => self
                .positions
                .par_iter()
                .filter_map(|&position| files[position].canonicalize().ok())
                .collect(),
            _ => HashSet::new(),
        }
    }

    /// Whether an image file put into this folder, which need not exist, would become one of these images, or
    /// one of another class or split of this data.
    #[must_use]
    pub fn would_read(&self, folder: &Path) -> bool {
        let Source::Files(files) = &*self.source else { return false };
        let place = |folder: PathBuf| {
            let existing = |above: &Path| Some((above.canonicalize().ok()?, above.to_owned()));
            let (real, above) = folder.ancestors().find_map(existing)?;
            Some(real.join(folder.strip_prefix(above).expect("one of its ancestors")))
        };
        let Some(folder) = std::path::absolute(folder).ok().and_then(place) else { return false };
        // A new folder next to class folders would be a class, in the other split too.
        let is_class_of = |root: &Path| {
            let Some(below) = root.canonicalize().ok().and_then(|root| folder.strip_prefix(root).ok()) else {
                return false;
            };
            below.components().next().is_some()
                && !below.components().any(|part| folder::is_hidden(part.as_ref()))
        };
        let splits = [Split::Train, Split::Test].map(|split| folder::splits(&self.origin, split)).concat();
        let mut roots: HashSet<&Path> = self.class_roots(files).collect();
        if !roots.is_empty() {
            roots.extend(splits.iter().map(PathBuf::as_path));
        }
        if roots.into_iter().any(is_class_of) {
            return true;
        }
        // Subfolders of a class are read, and those of a folder of unknown images.
        let whole = self.classes.is_empty().then_some(&*self.origin);
        let folders = self.positions.iter().map(|&position| folder_of(&files[position])).chain(whole);
        let mut folders = folders.collect::<HashSet<_>>().into_iter();
        folders.any(|other| other.canonicalize().is_ok_and(|other| folder.starts_with(other)))
    }

    /// The folders of the class folders that these images are in.
    fn class_roots<'a>(&'a self, files: &'a [PathBuf]) -> impl Iterator<Item = &'a Path> {
        self.positions.iter().zip(&self.labels).filter_map(|(&position, &label)| {
            let class = self.classes.get(usize::try_from(label).ok()?)?;
            let is_of_class = |folder: &&Path| folder.file_name().is_some_and(|name| name == class.as_str());
            folder_of(&files[position]).ancestors().find(is_of_class)?.parent()
        })
    }

    /// Whether images come from this file.
    #[must_use]
    pub fn reads(&self, file: &Path) -> bool {
        let Ok(place) = file.canonicalize() else { return false };
        let is_same = |other: &Path| {
            other.file_name() == file.file_name() && other.canonicalize().is_ok_and(|other| other == place)
        };
        match &*self.source {
            Source::Arrays(arrays) => arrays.places().any(|(path, _)| is_same(path)),
            Source::Files(files) => files.iter().any(|path| is_same(path)),
            #[cfg(feature = "parquet")]
            Source::Rows(rows) => rows.files().any(is_same),
            Source::Noise(_) => false,
        }
    }

    /// The input that images are resized for.
    #[must_use]
    pub fn input(&self) -> &Input {
        &self.input
    }

    /// The folder or file that was opened.
    #[cfg(any(feature = "train", feature = "tract", feature = "onnxruntime"))]
    pub(crate) fn origin(&self) -> &Path {
        &self.origin
    }

    /// The folders and files that the images come from, and the arrays in them. If there are links, the
    /// folders of these do not count.
    fn origins(&self, has_links: bool) -> HashSet<(PathBuf, Option<&str>)> {
        let named: HashSet<(&Path, Option<&str>)> = match &*self.source {
            Source::Arrays(arrays) => arrays.places().collect(),
            Source::Files(files) => {
                let files = self
                    .positions
                    .iter()
                    .map(|&position| &files[position])
                    .filter(|file| !has_links || !file.is_symlink());
                let folders = files.filter_map(|file| file.parent());
                folders.map(|folder| (folder, None)).collect()
            }
            #[cfg(feature = "parquet")]
            Source::Rows(rows) => rows.files().map(|file| (file, None)).collect(),
            Source::Noise(_) => HashSet::new(),
        };
        named.into_iter().filter_map(|(path, array)| Some((path.canonicalize().ok()?, array))).collect()
    }

    /// The number of bytes of an image: 3 x height x width.
    #[must_use]
    pub fn image_len(&self) -> usize {
        self.input.values()
    }

    /// The bytes `[3, height, width]` of one image.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Image`] if its file cannot be read.
    ///
    /// # Panics
    /// If `index` is not below [`len`](Self::len).
    pub fn pixels(&self, index: usize) -> Result<Cow<'_, [u8]>> {
        let Some(kept) = self.kept.get(index) else { return Ok(self.altered(self.decode(index)?)) };
        let pixels = match kept.get() {
            Some(pixels) => pixels,
            None => {
                let pixels = self.decode(index)?.into_owned().into_boxed_slice();
                kept.get_or_init(|| pixels)
            }
        };
        Ok(self.altered(Cow::Borrowed(pixels)))
    }

    /// Checks that one image can be decoded, and returns its [encoded](Self::encoded) bytes. Its pixels are
    /// kept if there is room.
    ///
    /// # Errors
    /// Those of [`pixels`](Self::pixels).
    #[cfg(feature = "train")]
    pub(crate) fn checked(&self, index: usize) -> Result<Cow<'_, [u8]>> {
        let encoded = self.encoded(index)?;
        let image = match &*self.source {
            Source::Files(files) => image::of_file(&files[self.positions[index]], &encoded)?,
            #[cfg(feature = "parquet")]
            Source::Rows(rows) => rows.image(self.positions[index])?,
            // They need no decoder.
            Source::Arrays(_) | Source::Noise(_) => return Ok(encoded),
        };
        if let Some(kept) = self.kept.get(index) {
            kept.get_or_init(|| image::pixels(&image, &self.input).into_boxed_slice());
        }
        Ok(encoded)
    }

    /// Whether images are made here instead of being read as they are.
    fn is_made(&self) -> bool {
        self.degradation.is_some() || matches!(&*self.source, Source::Noise(_))
    }

    /// One image as it is in its file, upright; one that is made here, in the size of the input.
    ///
    /// # Errors
    /// Those of [`pixels`](Self::pixels).
    pub(crate) fn original(&self, index: usize) -> Result<image::RgbImage> {
        if self.is_made() {
            return Ok(image::of_planes(&self.pixels(index)?, self.input.height, self.input.width));
        }
        let position = self.positions[index];
        let mut image = match &*self.source {
            Source::Arrays(arrays) => arrays.image(position),
            Source::Files(files) => image::open(&files[position])?,
            #[cfg(feature = "parquet")]
            Source::Rows(rows) => rows.image(position)?,
            Source::Noise(_) => unreachable!("noise is made here"),
        };
        if self.is_mirrored {
            ::image::imageops::flip_horizontal_in_place(&mut image);
        }
        Ok(image)
    }

    /// The images of a batch that can be read, in the size of their files. Decodes on all threads. Images that
    /// are made here, noise and degraded ones, have the size of the input, and a black frame if it crops
    /// images.
    ///
    /// # Panics
    /// If an index is not below [`len`](Self::len).
    #[must_use]
    pub fn readable_originals(&self, indices: &[usize]) -> Readable<Vec<image::RgbImage>> {
        let read = |&index: &usize| {
            let image = self.original(index)?;
            let frame = if self.is_made() { image::Frame::of(&self.input) } else { None };
            Ok(match frame {
                Some(frame) => frame.around(&image),
                None => image,
            })
        };
        Readable::of(indices.par_iter().map(read).collect())
    }

    /// Degrades and mirrors the pixels of an image, as asked for.
    fn altered<'a>(&self, mut pixels: Cow<'a, [u8]>) -> Cow<'a, [u8]> {
        let Input { height, width, .. } = self.input;
        if let Some(degradation) = self.degradation {
            degradation.apply(pixels.to_mut(), height, width);
        }
        if self.is_mirrored {
            pixels.to_mut().chunks_exact_mut(width).for_each(<[u8]>::reverse);
        }
        pixels
    }

    fn decode(&self, index: usize) -> Result<Cow<'_, [u8]>> {
        let (position, input) = (self.positions[index], &self.input);
        Ok(match &*self.source {
            Source::Arrays(arrays) => arrays.pixels(position, input),
            Source::Files(files) => Cow::Owned(image::pixels(&image::open(&files[position])?, input)),
            #[cfg(feature = "parquet")]
            Source::Rows(rows) => Cow::Owned(image::pixels(&rows.image(position)?, input)),
            Source::Noise(noise) => Cow::Owned(noise.pixels(position, self.image_len())),
        })
    }

    /// One image for viewing, upright and in its own proportions; shrunk but never enlarged, so that neither
    /// side has more than `most` pixels.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Image`] if its file cannot be read.
    ///
    /// # Panics
    /// If `index` is not below [`len`](Self::len), or `most` is 0.
    pub fn thumbnail(&self, index: usize, most: usize) -> Result<image::RgbImage> {
        let image = self.original(index)?;
        let (height, width) = (image.height() as usize, image.width() as usize);
        let longest = height.max(width).max(most);
        let short = |side: usize| (side * most / longest).max(1);
        let (height, width) = (short(height), short(width));
        let filter = image::Filter::Bilinear;
        let bytes = image::region(&image, Region::whole(&image), (height, width), filter);
        Ok(image::of_planes(&bytes, height, width))
    }

    /// The bytes of one image as they are in its file, array or Parquet row; for noise, its name. They stay
    /// the same as long as the image does.
    ///
    /// # Errors
    /// [`Error::Io`] if its file cannot be read.
    ///
    /// # Panics
    /// If `index` is not below [`len`](Self::len).
    pub fn encoded(&self, index: usize) -> Result<Cow<'_, [u8]>> {
        let position = self.positions[index];
        Ok(match &*self.source {
            Source::Arrays(arrays) => arrays.record(position),
            #[cfg(feature = "parquet")]
            Source::Rows(rows) => Cow::Borrowed(rows.encoded(position)),
            Source::Files(files) => {
                let file = &files[position];
                Cow::Owned(image::read(file)?)
            }
            Source::Noise(_) => Cow::Owned(self.name(index).into_bytes()),
        })
    }

    /// The bytes `[N, 3, height, width]` of several images, decoded on all threads.
    ///
    /// # Errors
    /// Those of [`pixels`](Self::pixels).
    ///
    /// # Panics
    /// If an index is not below [`len`](Self::len).
    pub fn batch(&self, indices: &[usize]) -> Result<Array4<u8>> {
        let mut batch = vec![0; indices.len() * self.image_len()];
        batch.par_chunks_exact_mut(self.image_len()).zip(indices).try_for_each(|(image, &index)| {
            image.copy_from_slice(&self.pixels(index)?);
            Ok(())
        })?;
        let shape = (indices.len(), 3, self.input.height, self.input.width);
        Ok(Array4::from_shape_vec(shape, batch).expect("the values match the shape"))
    }

    /// The images of a batch that can be read, bytes `[M, 3, height, width]`. Decodes on all threads.
    ///
    /// # Panics
    /// If an index is not below [`len`](Self::len).
    #[must_use]
    pub fn readable_batch(&self, indices: &[usize]) -> Readable<Array4<u8>> {
        let decoded = indices.par_iter().map(|&index| self.pixels(index)).collect();
        Readable::<Vec<Cow<[u8]>>>::of(decoded).map(|images| {
            let shape = (images.len(), 3, self.input.height, self.input.width);
            Array4::from_shape_vec(shape, images.concat()).expect("the values match the shape")
        })
    }

    /// Several images as the network's input, `[N, 3, height, width]` in 0..=1, decoded on all threads.
    ///
    /// # Errors
    /// Those of [`pixels`](Self::pixels).
    ///
    /// # Panics
    /// If an index is not below [`len`](Self::len).
    pub fn images(&self, indices: &[usize]) -> Result<Array4<f32>> {
        Ok(self.batch(indices)?.mapv(image::unit))
    }

    /// Keeps the first images in memory once they are decoded, as far as a budget in bytes allows. Their size
    /// is subtracted from the budget.
    #[must_use]
    pub fn keep(mut self, budget: &mut u64) -> Self {
        // Arrays are in memory already.
        if matches!(&*self.source, Source::Arrays(arrays) if arrays.is_unchanged(&self.input)) {
            return self;
        }
        let each = (self.image_len() + size_of::<OnceLock<Box<[u8]>>>()) as u64;
        let count = (*budget / each).min(self.len() as u64);
        *budget -= count * each;
        self.kept = (0..count).map(|_| OnceLock::new()).collect();
        self
    }

    /// The same images, flipped horizontally; flipping twice restores them.
    #[must_use]
    pub fn mirrored(mut self) -> Self {
        self.is_mirrored = !self.is_mirrored;
        self
    }

    /// The same images, degraded after they are resized to the input, instead of any earlier degradation. The
    /// same image always has the same noise. [Names](Self::name) and [encoded](Self::encoded) bytes are
    /// those of the original.
    #[must_use]
    pub fn degraded(mut self, degradation: Degradation) -> Self {
        self.degradation = Some(degradation);
        self
    }

    /// The names of the classes without images.
    pub fn classes_without_images(&self) -> impl Iterator<Item = &str> {
        let seen: HashSet<i64> = self.labels.iter().copied().collect();
        let named = self.classes.iter().zip(0..);
        named.filter(move |(_, class)| !seen.contains(class)).map(|(name, _)| name.as_str())
    }

    /// Renumbers the labels to index `classes`, the class names of a model.
    ///
    /// # Errors
    /// [`Error::Classes`] if the model lacks a class of the data set.
    pub fn align(mut self, classes: &[String]) -> Result<Self> {
        let class_indices: HashMap<&String, i64> = classes.iter().zip(0..).collect();
        let class_index = |class: &String| {
            class_indices.get(class).copied().ok_or_else(|| Error::Classes {
                path: self.origin.clone(),
                reason: format!(
                    "`{}` is not one of the known classes: {}",
                    on_one_line(class),
                    few(classes.iter().map(String::as_str))
                ),
            })
        };
        let class_indices = self.classes.iter().map(class_index).collect::<Result<Vec<i64>>>()?;
        for label in &mut self.labels {
            if let Ok(class) = usize::try_from(*label) {
                *label = class_indices[class];
            }
        }
        self.classes = classes.to_vec();
        Ok(self)
    }

    /// Splits the images by a protocol: those of its known classes, renumbered from 0, and the rest as
    /// unknown images.
    ///
    /// # Errors
    /// [`Error::Setting`] if the data set does not have ten classes.
    pub fn by_protocol(&self, protocol: &Protocol) -> Result<(Self, Self)> {
        if self.classes.len() != protocol::CLASSES {
            let (found, wanted) = (self.classes.len(), protocol::CLASSES);
            let reason = format!("needs {wanted} classes, `{}` has {found}", self.origin.display());
            return Err(Error::setting("protocol", protocol, reason));
        }
        let class_index =
            |label: i64| protocol.known.iter().position(|&class| i64::try_from(class) == Ok(label));
        let class_indices: Vec<Option<usize>> = self.labels.iter().map(|&label| class_index(label)).collect();
        let indices = |is_known: bool| -> Vec<usize> {
            (0..self.len()).filter(|&index| class_indices[index].is_some() == is_known).collect()
        };
        let mut known = self.pick(&indices(true));
        known.labels = class_indices.iter().flatten().map(|&class_index| class_index as i64).collect();
        known.classes = protocol.known.iter().map(|&class| self.classes[class].clone()).collect();
        let mut others = self.pick(&indices(false));
        others.labels.fill(UNKNOWN);
        others.classes.clear();
        // The known images keep these counts.
        others.left_out = Arc::default();
        Ok((known, others))
    }

    /// The images at these indices, in their order. No decoded image is kept.
    ///
    /// # Panics
    /// If an index is not below [`len`](Self::len).
    #[must_use]
    pub fn pick(&self, indices: &[usize]) -> Self {
        let (labels, positions) =
            indices.iter().map(|&index| (self.labels[index], self.positions[index])).unzip();
        Self { labels, positions, kept: Arc::from([]), ..self.clone() }
    }

    /// Holds out `count` images, drawn at random with a seed and stratified by class; each class keeps at
    /// least one image. Returns their indices and those of the rest, both ascending.
    ///
    /// # Errors
    /// [`Error::EmptiesClass`] if that would leave a class without an image.
    pub fn hold_out(&self, count: usize, seed: u64) -> Result<(Vec<usize>, Vec<usize>)> {
        let mut sizes: HashMap<i64, usize> = HashMap::new();
        for &label in &self.labels {
            *sizes.entry(label).or_default() += 1;
        }
        // All images but one of each class, evenly spaced in 0..1; the first `count` overall are held out.
        let mut drawn: HashMap<i64, usize> = HashMap::new();
        let mut order: Vec<(f64, usize)> = Vec::with_capacity(self.len());
        for index in shuffled(self.len(), seed) {
            let label = self.labels[index];
            let rank = drawn.entry(label).or_default();
            *rank += 1;
            if *rank < sizes[&label] {
                order.push(((*rank as f64 - 0.5) / sizes[&label] as f64, index));
            }
        }
        if count > order.len() {
            let value = format!("{count} of {} images", self.len());
            return Err(Error::EmptiesClass { name: "held-out", value });
        }
        order.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        let is_held_out: HashSet<usize> = order[..count].iter().map(|&(_, index)| index).collect();
        Ok((0..self.len()).partition(|index| is_held_out.contains(index)))
    }

    /// Stand-ins of a kind, `[N, 3, H, W]`, for N images, such as one of [`in_chunks`](stand_ins::in_chunks).
    ///
    /// # Errors
    /// Those of [`batch`](Self::batch).
    #[cfg(any(feature = "export", feature = "train"))]
    pub(crate) fn stand_ins(&self, kind: StandIn, indices: &[usize]) -> Result<Array4<u8>> {
        let labels: Vec<i64> = indices.iter().map(|&index| self.labels[index]).collect();
        let seed = indices.first().map_or(0, |&index| index as u64);
        Ok(kind.of(self.batch(indices)?.view(), &labels, seed))
    }

    /// Draws `count` images at random with a seed, and one of each class that these lack. Returns their
    /// indices, in random order.
    #[must_use]
    pub fn draw_with_classes(&self, count: usize, seed: u64) -> Vec<usize> {
        let mut classes = HashSet::new();
        let order = shuffled(self.len(), seed).into_iter().enumerate();
        order
            .filter(|&(rank, index)| classes.insert(self.labels[index]) || rank < count)
            .map(|(_, index)| index)
            .collect()
    }

    /// Draws `count` images at random with a seed. Returns their indices and those of the rest, both
    /// ascending.
    #[must_use]
    pub fn draw(&self, count: usize, seed: u64) -> (Vec<usize>, Vec<usize>) {
        let mut order = shuffled(self.len(), seed);
        let mut rest = order.split_off(count.min(order.len()));
        order.sort_unstable();
        rest.sort_unstable();
        (order, rest)
    }
}

/// Those of `indices`, in order, that can be taken if one image of each class must be left.
#[cfg(any(feature = "export", feature = "train"))]
pub(crate) fn leaving_classes(
    labels: &[i64],
    indices: impl IntoIterator<Item = usize>,
) -> impl Iterator<Item = usize> {
    let mut left: HashMap<i64, usize> = HashMap::new();
    labels.iter().for_each(|&label| *left.entry(label).or_default() += 1);
    indices.into_iter().filter(move |&index| {
        let left = left.get_mut(&labels[index]).expect("each label was counted");
        let is_taken = *left > 1;
        *left -= usize::from(is_taken);
        is_taken
    })
}

/// Why a text cannot be the name of a known class, if it cannot.
pub(crate) fn fault_of_class(name: &str) -> Option<&'static str> {
    match name {
        "" => Some("a class needs a name"),
        "unknown" => {
            Some("no class may be called `unknown`: that is the verdict on images of no known class")
        }
        _ => None,
    }
}

impl UnknownSet {
    /// Opens unknown sets as a user wrote them. Their names are rows of the report, so they must be unique
    /// and not reserved.
    ///
    /// # Errors
    /// Those of [`open`](Self::open), and [`Error::Setting`] if a name is taken.
    pub fn open_all(texts: &[String], input: &Input) -> Result<Vec<Self>> {
        let mut sets: Vec<Self> = Vec::with_capacity(texts.len());
        for text in texts {
            let set = Self::open(text, input)?;
            let setting = |reason| Err(Error::setting("set name", format!("`{}`", set.name), reason));
            if set.name.trim() != set.name {
                return setting("begins or ends with a space");
            }
            if set.name == OTHER_CLASSES || RESERVED_NAMES.contains(&set.name.as_str()) {
                return setting("is reserved for a row of the report");
            }
            if sets.iter().any(|other| other.name == set.name) {
                return setting("is the name of another set");
            }
            sets.push(set);
        }
        Ok(sets)
    }

    /// Opens an unknown set as a user wrote it: `NAME=FOLDER`, `gaussian-noise[:COUNT]` or
    /// `uniform-noise[:COUNT]`, with 1,000 images by default.
    ///
    /// # Errors
    /// [`Error::Setting`] for any other text, and those of [`Dataset::unknown`].
    pub fn open(text: &str, input: &Input) -> Result<Self> {
        if let Some((name, folder)) = Self::folder(text) {
            let images = Dataset::unknown(Path::new(folder), Split::Test, input)?;
            return Ok(Self { name: name.to_owned(), images });
        }
        let noise: Noise = text.parse()?;
        Ok(Self { name: noise.name().to_owned(), images: Dataset::noise(noise, input) })
    }

    /// Checks that no image of the set comes from a folder or file of known images.
    ///
    /// # Errors
    /// [`Error::Setting`] if one does.
    pub(crate) fn check_apart_from(&self, known: &Dataset) -> Result<()> {
        if self.images.shares_images_with(known) {
            let origin = self.images.origin.display();
            return Err(Error::setting(
                "unknown set",
                format!("`{}={origin}`", self.name),
                "holds known images",
            ));
        }
        Ok(())
    }

    /// Name and folder, if the text is `NAME=FOLDER`.
    pub(crate) fn folder(text: &str) -> Option<(&str, &str)> {
        text.split_once('=').filter(|(name, folder)| !name.is_empty() && !folder.is_empty())
    }
}

/// A permutation of 0..count that depends only on the seed.
#[must_use]
pub fn shuffled(count: usize, seed: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    order.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    order
}

#[cfg(test)]
mod tests {
    use super::{
        arrays::{Form, Piece},
        *,
    };

    /// 32x32 images whose bytes are all the image's index.
    fn numbered(labels: &[i64], classes: &[&str]) -> Dataset {
        let records = (0..labels.len()).flat_map(|index| vec![index as u8; 3072]).collect();
        let classes = classes.iter().map(|&name| name.to_owned()).collect();
        let piece = Piece { file: "a.bin".into(), array: None, first: 0, count: labels.len() };
        let form = Form::planes(labels.len(), 32, 32).unwrap();
        let source = Source::Arrays(Arrays::new(vec![piece], form, records));
        Dataset::new(Path::new("numbered"), classes, labels.to_vec(), &Input::default(), source)
    }

    fn first_bytes(dataset: &Dataset) -> Vec<u8> {
        (0..dataset.len()).map(|index| dataset.pixels(index).unwrap()[0]).collect()
    }

    #[test]
    fn labels_are_aligned_by_class_name() {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let dataset = numbered(&[0, 1, 1, UNKNOWN], &["a", "b"]);
        let aligned = dataset.clone().align(&names(&["b", "c", "a"])).unwrap();
        assert_eq!(aligned.labels(), [2, 0, 0, UNKNOWN]);
        let error = dataset.align(&names(&["b", "c"])).unwrap_err();
        assert!(matches!(error, Error::Classes { .. }), "{error}");
        assert!(error.to_string().contains("`a` is not one of the known classes: `b`, `c`"), "{error}");
    }

    #[test]
    fn a_protocol_divides_ten_classes() {
        let dataset = numbered(&[9, 3, 0, 9, 8], &["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
        let protocol = "cac-2021/0".parse().unwrap();
        let (known, others) = dataset.by_protocol(&protocol).unwrap();
        assert_eq!((known.labels(), known.classes()[5].as_str()), (&[5, 0, 5][..], "9"));
        assert_eq!((first_bytes(&known), first_bytes(&others)), (vec![0, 2, 3], vec![1, 4]));
        assert_eq!((others.labels(), others.classes().len()), (&[UNKNOWN; 2][..], 0));
        let error = known.by_protocol(&protocol).unwrap_err().to_string();
        assert!(error.contains("needs 10 classes, `numbered` has 6"), "{error}");
    }

    #[test]
    fn picked_images_keep_their_names_and_pixels() {
        let dataset = numbered(&[0; 5], &["a"]).pick(&[4, 1, 3]).pick(&[2, 0]);
        assert_eq!((dataset.name(0), dataset.name(1)), ("a.bin#3".to_owned(), "a.bin#4".to_owned()));
        assert_eq!((first_bytes(&dataset), dataset.encoded(1).unwrap()[0]), (vec![3, 4], 4));
        let noise = Dataset::noise(Noise::uniform(9), &Input::of_size(2, 2));
        let picked = noise.pick(&[7]);
        assert_eq!(
            (picked.name(0).as_str(), picked.pixels(0).unwrap()),
            ("uniform-noise#7", noise.pixels(7).unwrap())
        );
    }

    #[test]
    fn mirrored_images_are_flipped_horizontally() {
        let dataset = Dataset::noise(Noise::uniform(2), &Input::of_size(1, 2));
        let mirrored = dataset.clone().mirrored();
        let bytes = dataset.pixels(1).unwrap();
        let reversed = [1, 0, 3, 2, 5, 4].map(|index| bytes[index]);
        assert_eq!(*mirrored.pixels(1).unwrap(), reversed);
        assert_eq!(*mirrored.pick(&[1]).pixels(0).unwrap(), reversed);
        assert_eq!(mirrored.mirrored().batch(&[0, 1]).unwrap(), dataset.batch(&[0, 1]).unwrap());
    }

    #[test]
    fn degraded_images_stay_the_same_however_they_are_read() {
        let input = Input::of_size(16, 24);
        let dataset = Dataset::noise(Noise::uniform(3), &input);
        for degradation in Degradation::ALL {
            let degraded = dataset.clone().degraded(degradation);
            let mut expected = dataset.pixels(2).unwrap().into_owned();
            degradation.apply(&mut expected, 16, 24);
            assert!(*degraded.pixels(2).unwrap() == expected && *dataset.pixels(2).unwrap() != expected);
            assert!(*degraded.pick(&[2]).pixels(0).unwrap() == expected);
            assert!(degraded.original(2).unwrap() == image::of_planes(&expected, 16, 24));
            let mirrored = degraded.mirrored();
            let pixels = mirrored.pixels(2).unwrap().into_owned();
            assert!(pixels.iter().rev().take(24).eq(expected[3 * 16 * 24 - 24..].iter()), "mirrored");
            // Resized by a model, they are the same pixels.
            let read = mirrored.readable_originals(&[2]);
            assert!(image::pixels(&read.images[0], &input) == pixels, "mirrored once");
        }
    }

    #[test]
    fn images_are_kept_up_to_the_budget() {
        let folder = tempfile::tempdir().unwrap();
        for index in 0..4 {
            let path = folder.path().join(format!("{index}.png"));
            ::image::RgbImage::from_pixel(8, 8, ::image::Rgb([index; 3])).save(path).unwrap();
        }
        let each = 3 * 8 * 8 + size_of::<OnceLock<Box<[u8]>>>() as u64;
        let mut budget = 2 * each + 5;
        let dataset =
            Dataset::unknown(folder.path(), Split::Test, &Input::of_size(8, 8)).unwrap().keep(&mut budget);
        assert_eq!(budget, 5);
        assert_eq!(first_bytes(&dataset), [0, 1, 2, 3]);
        std::fs::remove_file(folder.path().join("1.png")).unwrap();
        std::fs::remove_file(folder.path().join("3.png")).unwrap();
        assert_eq!(dataset.pixels(1).unwrap()[0], 1, "kept");
        let noisy = dataset.clone().degraded(Degradation::Noise);
        assert!(noisy.pixels(1).unwrap() != dataset.pixels(1).unwrap(), "kept as it was");
        assert!(dataset.clone().mirrored().pixels(1).unwrap() == dataset.pixels(1).unwrap());
        assert!(dataset.pixels(3).is_err(), "not kept");
    }

    #[test]
    fn a_draw_is_seeded_and_complete() {
        let dataset = Dataset::noise(Noise::uniform(100), &Input::of_size(1, 1));
        let (drawn, rest) = dataset.draw(30, 7);
        assert_eq!((drawn.len(), rest.len()), (30, 70));
        let mut all = [drawn.clone(), rest].concat();
        all.sort_unstable();
        assert_eq!(all, (0..100).collect::<Vec<_>>());
        assert_eq!(dataset.draw(30, 7).0, drawn);
        assert_ne!(dataset.draw(30, 8).0, drawn);
        assert_eq!(dataset.draw(1000, 7).0.len(), 100);
        assert_eq!(dataset.draw_with_classes(30, 7).len(), 30, "one class");

        let labels: Vec<i64> = (0..100).map(|index| i64::from(index == 42)).collect();
        let rare = numbered(&labels, &["a", "b"]);
        for seed in 0..10 {
            let drawn = rare.draw_with_classes(5, seed);
            assert!(drawn.contains(&42) && (5..=6).contains(&drawn.len()), "seed {seed}: {drawn:?}");
        }
    }

    #[test]
    fn held_out_images_are_stratified_by_class() {
        let labels: Vec<i64> = (0..100)
            .map(|i| {
                if i < 60 {
                    0
                } else if i < 90 {
                    1
                } else {
                    2
                }
            })
            .collect();
        let dataset = numbered(&labels, &["a", "b", "c"]);
        for seed in 0..10 {
            let (held_out, rest) = dataset.hold_out(20, seed).unwrap();
            let of_class = |class| held_out.iter().filter(|&&index| labels[index] == class).count();
            assert_eq!([0, 1, 2].map(of_class), [12, 6, 2], "seed {seed}");
            let mut all = [held_out, rest].concat();
            all.sort_unstable();
            assert_eq!(all, (0..100).collect::<Vec<_>>());
        }
        assert_eq!(dataset.hold_out(20, 7).unwrap(), dataset.hold_out(20, 7).unwrap());
        assert_ne!(dataset.hold_out(20, 7).unwrap(), dataset.hold_out(20, 8).unwrap());
    }

    #[test]
    fn equal_images_are_held_out_together() {
        let folder = tempfile::tempdir().unwrap();
        for (class, shade) in [("ants", 0), ("bees", 100)] {
            let class = folder.path().join(class);
            std::fs::create_dir(&class).unwrap();
            for number in 0..40_u8 {
                // The last twenty are copies of the first ten, two of each.
                let value = shade + if number < 20 { number } else { (number - 20) / 2 };
                let image = ::image::RgbImage::from_pixel(8, 8, ::image::Rgb([value; 3]));
                image.save(class.join(format!("{number:02}.bmp"))).unwrap();
            }
        }
        let (training, test) = Dataset::divided(folder.path(), 0.3, &Input::of_size(8, 8)).unwrap();
        assert_eq!(training.len() + test.len(), 80);
        let [training, test] =
            [training, test].map(|set| first_bytes(&set).into_iter().collect::<HashSet<u8>>());
        assert_eq!((training.len(), test.len()), (28, 12), "30 % of the distinct images");
        assert!(training.is_disjoint(&test));

        // The bees have no image of their own.
        for number in 0..40 {
            let image = format!("{number:02}.bmp");
            std::fs::copy(folder.path().join("ants/00.bmp"), folder.path().join("bees").join(image)).unwrap();
        }
        let outcomes: HashSet<bool> = [0.1, 0.5, 0.9]
            .map(|share| match Dataset::divided(folder.path(), share, &Input::of_size(8, 8)) {
                Ok((training, _)) => training.classes_without_images().next().is_none(),
                Err(error) => {
                    assert!(matches!(error, Error::EmptiesClass { .. }), "{error}");
                    false
                }
            })
            .into();
        assert_eq!(outcomes.len(), 2, "refused or with both classes");
    }

    #[test]
    fn no_class_loses_its_last_image() {
        // Forty classes of one image each, and one of ten.
        let labels: Vec<i64> = (0..50).map(|i| if i < 40 { i } else { 40 }).collect();
        let dataset = numbered(&labels, &["a"; 41]);
        for seed in 0..6 {
            let (held_out, rest) = dataset.hold_out(9, seed).unwrap();
            assert!(held_out.iter().all(|&index| labels[index] == 40) && rest.len() == 41);
            let error = dataset.hold_out(10, seed).unwrap_err().to_string();
            assert!(
                error.contains("held-out = 10 of 50 images: leaves a class without a training image"),
                "{error}"
            );
        }
    }

    #[cfg(unix)]
    #[test]
    fn paths_that_are_not_utf_8_stay_distinct() {
        use std::{ffi::OsStr, os::unix::ffi::OsStrExt};
        let text = |bytes: &[u8]| path_text(Path::new(OsStr::from_bytes(bytes)));
        assert_eq!([text(b"a/\xea\xee.png"), text("ü\n".as_bytes())], [r"a/\xea\xee.png", "ü\n"]);
    }

    #[test]
    fn unreadable_images_are_reported_separately() {
        let folder = tempfile::tempdir().unwrap();
        for index in 0..4 {
            let path = folder.path().join(format!("{index}.png"));
            ::image::RgbImage::from_pixel(8, 8, ::image::Rgb([index; 3])).save(path).unwrap();
        }
        std::fs::write(folder.path().join("1.png"), "no image").unwrap();
        let dataset = Dataset::unknown(folder.path(), Split::Test, &Input::of_size(8, 8)).unwrap();
        let Readable { positions, images: pixels, errors } = dataset.readable_batch(&[3, 1, 2]);
        assert_eq!((positions, errors.len()), (vec![0, 2], 1));
        assert_eq!((pixels[[0, 0, 0, 0]], pixels[[1, 0, 0, 0]]), (3, 2));
    }

    #[test]
    fn unknown_sets_are_parsed() {
        let input = Input::of_size(2, 3);
        let noise = UnknownSet::open("gaussian-noise:5", &input).unwrap();
        assert_eq!((noise.name.as_str(), noise.images.len()), ("gaussian-noise", 5));
        assert_eq!(noise.images.pixels(4).unwrap().len(), 18);
        let set = concat!(" a=", env!("CARGO_MANIFEST_DIR"), "/examples/demo/textures").to_owned();
        let error = UnknownSet::open_all(&[set], &input).unwrap_err().to_string();
        assert!(error.ends_with("begins or ends with a space"), "{error}");
        assert_eq!(UnknownSet::open("uniform-noise", &input).unwrap().images.len(), 1000);
        for wrong in ["", "noise", "gaussian-noise:0", "gaussian-noise:-3", "=folder"] {
            assert!(matches!(UnknownSet::open(wrong, &input), Err(Error::Setting { .. })), "{wrong}");
        }
        assert!(matches!(UnknownSet::open("a=/no/such", &input), Err(Error::Io { .. })));
        let all = |texts: &[&str]| {
            UnknownSet::open_all(&texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>(), &input)
        };
        assert_eq!(all(&["gaussian-noise:5", "uniform-noise:5"]).unwrap().len(), 2);
        assert!(matches!(all(&["uniform-noise:5", "uniform-noise:6"]), Err(Error::Setting { .. })));
    }
}
