//! Data sets of known and unknown pictures, in the layouts that users have.

mod cifar;
mod folder;
mod noise;
mod protocol;

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
};

use ndarray::Array4;
use rand::{SeedableRng, rngs::ChaCha8Rng, seq::SliceRandom};
use rayon::prelude::*;

use crate::{
    error::{Error, Result},
    preprocess, report,
};
pub use noise::Noise;
pub use protocol::Protocol;

/// The label of pictures that belong to no known class.
pub const UNKNOWN: i64 = -1;

/// The name of the unknown set that a protocol leaves.
const OTHER_CLASSES: &str = "other-classes";

/// Which part of a data set of known classes is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// To learn from.
    Train,
    /// To measure on.
    Test,
}

/// Pictures with labels, all brought to one size. Files are decoded when they are asked for, unless
/// [loaded](Dataset::load).
#[derive(Debug, Clone)]
pub struct Dataset {
    origin: PathBuf,
    /// Which part of the origin, where it has parts.
    split: Option<Split>,
    classes: Vec<String>,
    labels: Vec<i64>,
    height: usize,
    width: usize,
    is_mirrored: bool,
    source: Source,
}

#[derive(Debug, Clone)]
enum Source {
    /// Bytes `[N, 3, height, width]`.
    Memory(Vec<u8>),
    Files(Vec<PathBuf>),
    Noise(Noise),
}

/// A set of unknown pictures with the name of its row in the table.
#[derive(Debug, Clone)]
pub struct UnknownSet {
    /// The row's name.
    pub name: String,
    /// The pictures, all labelled [`UNKNOWN`].
    pub pictures: Dataset,
}

impl Dataset {
    /// Opens a data set of known classes: CIFAR-10's binary files (`data_batch_*.bin`, `test_batch.bin`),
    /// `train` and `test` folders with one folder of pictures for each class, or such class folders alone, as
    /// the test split. Class folders are numbered in the order of their names.
    ///
    /// # Errors
    /// [`Error::Io`], and [`Error::Dataset`] where no layout is recognised, a file is truncated, or a class
    /// is empty.
    pub fn known(folder: &Path, split: Split, height: usize, width: usize) -> Result<Self> {
        let (classes, labels, source) = if let Some(root) = cifar::root(folder)? {
            let (classes, labels, pixels) = cifar::read(&root, split, height, width)?;
            (classes, labels, Source::Memory(pixels))
        } else {
            let (classes, labels, files) = folder::known(folder, split)?;
            (classes, labels, Source::Files(files))
        };
        let (origin, split) = (folder.to_owned(), Some(split));
        Ok(Self { origin, split, classes, labels, height, width, is_mirrored: false, source })
    }

    /// Opens pictures of no known class: CIFAR-10's files of a split, or all pictures in a folder and the
    /// folders below it.
    ///
    /// # Errors
    /// [`Error::Io`], and [`Error::Dataset`] where there is no picture.
    pub fn unknown(folder: &Path, split: Split, height: usize, width: usize) -> Result<Self> {
        let source = if let Some(root) = cifar::root(folder)? {
            Source::Memory(cifar::read(&root, split, height, width)?.2)
        } else {
            Source::Files(folder::pictures_below(folder)?)
        };
        let count = match &source {
            Source::Memory(pixels) => pixels.len() / (3 * height * width),
            Source::Files(files) => files.len(),
            Source::Noise(noise) => noise.count,
        };
        Ok(Self::without_classes(folder.to_owned(), Some(split), count, height, width, source))
    }

    /// Pictures of noise, as a set of unknown ones.
    #[must_use]
    pub fn noise(noise: Noise, height: usize, width: usize) -> Self {
        let origin = noise.to_string().into();
        Self::without_classes(origin, None, noise.count, height, width, Source::Noise(noise))
    }

    fn without_classes(
        origin: PathBuf,
        split: Option<Split>,
        count: usize,
        height: usize,
        width: usize,
        source: Source,
    ) -> Self {
        let labels = vec![UNKNOWN; count];
        Self { origin, split, classes: Vec::new(), labels, height, width, is_mirrored: false, source }
    }

    /// The number of pictures.
    #[must_use]
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is no picture.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The names of the classes; empty for unknown pictures.
    #[must_use]
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// For each picture its index into [`classes`](Self::classes), or [`UNKNOWN`].
    #[must_use]
    pub fn labels(&self) -> &[i64] {
        &self.labels
    }

    /// Whether both take pictures out of one folder, or the same split of CIFAR-10's files; folders are only known as
    /// long as the pictures are not [loaded](Self::load).
    #[cfg_attr(not(feature = "train"), allow(dead_code, reason = "only training asks"))]
    pub(crate) fn shares_pictures_with(&self, other: &Self) -> bool {
        let folders = |dataset: &Self| -> HashSet<PathBuf> {
            let Source::Files(files) = &dataset.source else { return HashSet::new() };
            let named: HashSet<&Path> = files.iter().filter_map(|file| file.parent()).collect();
            named.into_iter().filter_map(|folder| folder.canonicalize().ok()).collect()
        };
        let files = |dataset: &Self| match &dataset.source {
            Source::Memory(_) => {
                Some((cifar::root(&dataset.origin).ok()??.canonicalize().ok()?, dataset.split))
            }
            _ => None,
        };
        files(self).is_some_and(|own| files(other) == Some(own))
            || !folders(self).is_disjoint(&folders(other))
    }

    /// The number of bytes of a picture: 3 x height x width.
    pub(crate) fn picture_len(&self) -> usize {
        3 * self.height * self.width
    }

    /// The bytes `[3, height, width]` of one picture.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Picture`] where its file cannot be read.
    ///
    /// # Panics
    /// Where `index` is not below [`len`](Self::len).
    pub fn pixels(&self, index: usize) -> Result<Vec<u8>> {
        let mut pixels = match &self.source {
            Source::Memory(pixels) => pixels[index * self.picture_len()..][..self.picture_len()].to_vec(),
            Source::Files(files) => {
                preprocess::pixels(&preprocess::open(&files[index])?, self.height, self.width)
            }
            Source::Noise(noise) => noise.pixels(index, self.picture_len()),
        };
        if self.is_mirrored {
            pixels.chunks_exact_mut(self.width).for_each(<[u8]>::reverse);
        }
        Ok(pixels)
    }

    /// The bytes `[N, 3, height, width]` of several pictures, decoded on all threads.
    ///
    /// # Errors
    /// As [`pixels`](Self::pixels).
    ///
    /// # Panics
    /// Where an index is not below [`len`](Self::len).
    pub fn batch(&self, indices: &[usize]) -> Result<Vec<u8>> {
        let length = self.picture_len();
        let mut batch = vec![0; indices.len() * length];
        if let (Source::Memory(pixels), false) = (&self.source, self.is_mirrored) {
            for (picture, &index) in batch.chunks_exact_mut(length).zip(indices) {
                picture.copy_from_slice(&pixels[index * length..][..length]);
            }
        } else {
            batch.par_chunks_exact_mut(length).zip(indices).try_for_each(|(picture, &index)| {
                picture.copy_from_slice(&self.pixels(index)?);
                Ok(())
            })?;
        }
        Ok(batch)
    }

    /// Several pictures as a network takes them, `[N, 3, height, width]` in 0..=1, decoded on all threads.
    ///
    /// # Errors
    /// As [`pixels`](Self::pixels).
    ///
    /// # Panics
    /// Where an index is not below [`len`](Self::len).
    pub fn images(&self, indices: &[usize]) -> Result<Array4<f32>> {
        let values = self.batch(indices)?.into_iter().map(preprocess::unit).collect();
        let shape = (indices.len(), 3, self.height, self.width);
        Ok(Array4::from_shape_vec(shape, values).expect("as many values"))
    }

    /// The same pictures, all decoded and in memory, for reading them many times.
    ///
    /// # Errors
    /// As [`pixels`](Self::pixels).
    pub fn load(mut self) -> Result<Self> {
        if !matches!(self.source, Source::Memory(_)) {
            let all: Vec<usize> = (0..self.len()).collect();
            self.source = Source::Memory(self.batch(&all)?);
            self.is_mirrored = false;
        }
        Ok(self)
    }

    /// The same pictures, each mirrored left to right; twice gives them back.
    #[must_use]
    pub fn mirrored(mut self) -> Self {
        self.is_mirrored = !self.is_mirrored;
        self
    }

    /// Renumbers the labels for a model whose classes are named, perhaps in another order.
    ///
    /// # Errors
    /// [`Error::Dataset`] where a class of the data set is not one of the model's.
    pub fn align(mut self, classes: &[String]) -> Result<Self> {
        let places: HashMap<&String, i64> = classes.iter().zip(0..).collect();
        let place = |class| {
            places.get(class).copied().ok_or_else(|| Error::Dataset {
                path: self.origin.clone(),
                reason: format!("its class `{class}` is not one of the model's: {}", classes.join(", ")),
            })
        };
        let places = self.classes.iter().map(place).collect::<Result<Vec<i64>>>()?;
        for label in &mut self.labels {
            if let Ok(class) = usize::try_from(*label) {
                *label = places[class];
            }
        }
        self.classes = classes.to_vec();
        Ok(self)
    }

    /// The pictures of a protocol's known classes, renumbered from 0, and those of the others as unknown ones.
    ///
    /// # Errors
    /// [`Error::Setting`] where the data set does not have the ten classes that the protocol divides, and those
    /// of [`pick`](Self::pick).
    pub fn divide(&self, protocol: &Protocol) -> Result<(Self, Self)> {
        if self.classes.len() != protocol::CLASSES {
            let (found, wanted) = (self.classes.len(), protocol::CLASSES);
            let reason = format!("divides {wanted} classes, and `{}` has {found}", self.origin.display());
            return Err(Error::setting("protocol", protocol, reason));
        }
        let place = |label: i64| protocol.known.iter().position(|&class| i64::try_from(class) == Ok(label));
        let places: Vec<Option<usize>> = self.labels.iter().map(|&label| place(label)).collect();
        let indices = |is_known: bool| -> Vec<usize> {
            (0..self.len()).filter(|&index| places[index].is_some() == is_known).collect()
        };
        let mut known = self.pick(&indices(true))?;
        known.labels = places.iter().flatten().map(|&place| place as i64).collect();
        known.classes = protocol.known.iter().map(|&class| self.classes[class].clone()).collect();
        let mut others = self.pick(&indices(false))?;
        others.labels.fill(UNKNOWN);
        others.classes.clear();
        Ok((known, others))
    }

    /// Some of the pictures, in the order of the indices.
    ///
    /// # Errors
    /// As [`pixels`](Self::pixels).
    ///
    /// # Panics
    /// Where an index is not below [`len`](Self::len).
    pub fn pick(&self, indices: &[usize]) -> Result<Self> {
        let (source, is_mirrored) = match &self.source {
            Source::Files(files) => {
                let picked = indices.iter().map(|&index| files[index].clone()).collect();
                (Source::Files(picked), self.is_mirrored)
            }
            _ => (Source::Memory(self.batch(indices)?), false),
        };
        let labels = indices.iter().map(|&index| self.labels[index]).collect();
        let (origin, classes) = (self.origin.clone(), self.classes.clone());
        Ok(Self { origin, classes, labels, source, is_mirrored, ..*self })
    }

    /// `count` pictures drawn at random with a seed, and the rest, as ascending indices.
    #[must_use]
    pub fn draw(&self, count: usize, seed: u64) -> (Vec<usize>, Vec<usize>) {
        let mut order = shuffled(self.len(), seed);
        let mut rest = order.split_off(count.min(order.len()));
        order.sort_unstable();
        rest.sort_unstable();
        (order, rest)
    }
}

impl UnknownSet {
    /// Opens all that a user wrote; the names are the rows of a table, so each must be given once, and not be
    /// that of a row which the table has anyway.
    ///
    /// # Errors
    /// Those of [`open`](Self::open), and [`Error::Setting`] for a name that is taken.
    pub fn open_all(texts: &[String], height: usize, width: usize) -> Result<Vec<Self>> {
        let mut sets: Vec<Self> = Vec::with_capacity(texts.len());
        for text in texts {
            let set = Self::open(text, height, width)?;
            let is_reserved = set.name == OTHER_CLASSES || report::RESERVED.contains(&set.name.as_str());
            if is_reserved || sets.iter().any(|other| other.name == set.name) {
                let reason = format!("the name `{}` is taken", set.name);
                return Err(Error::setting("unknown set", format!("`{text}`"), reason));
            }
            sets.push(set);
        }
        Ok(sets)
    }

    /// Opens what a user wrote: `NAME=FOLDER`, or `gaussian-noise` or `uniform-noise`, with `:COUNT` behind
    /// it for another number of pictures than 1,000.
    ///
    /// # Errors
    /// [`Error::Setting`] where it is neither, and those of [`Dataset::unknown`].
    pub fn open(text: &str, height: usize, width: usize) -> Result<Self> {
        if let Some((name, folder)) = text.split_once('=').filter(|(name, _)| !name.is_empty()) {
            let pictures = Dataset::unknown(Path::new(folder), Split::Test, height, width)?;
            return Ok(Self { name: name.to_owned(), pictures });
        }
        let noise: Noise = text.parse()?;
        Ok(Self { name: noise.name().to_owned(), pictures: Dataset::noise(noise, height, width) })
    }
}

/// Opens what a model is trained on: the training split of the known classes, with a protocol of its known
/// classes alone.
///
/// # Errors
/// Those of [`Dataset::known`] and [`Dataset::divide`].
pub fn open_training(
    known: &Path,
    protocol: Option<&Protocol>,
    height: usize,
    width: usize,
) -> Result<Dataset> {
    let known = Dataset::known(known, Split::Train, height, width)?;
    match protocol {
        Some(protocol) => Ok(known.divide(protocol)?.0),
        None => Ok(known),
    }
}

/// Opens what a model is tested on: the test split of the known classes, and the unknown sets. With a protocol
/// only its known classes are known, and the others are the first unknown set, `other-classes`.
///
/// # Errors
/// Those of [`Dataset::known`], [`Dataset::divide`] and [`UnknownSet::open_all`].
pub fn open_test(
    known: &Path,
    unknown: &[String],
    protocol: Option<&Protocol>,
    height: usize,
    width: usize,
) -> Result<(Dataset, Vec<UnknownSet>)> {
    let mut known = Dataset::known(known, Split::Test, height, width)?;
    let mut sets = Vec::new();
    if let Some(protocol) = protocol {
        let (divided, pictures) = known.divide(protocol)?;
        known = divided;
        sets.push(UnknownSet { name: OTHER_CLASSES.to_owned(), pictures });
    }
    sets.extend(UnknownSet::open_all(unknown, height, width)?);
    Ok((known, sets))
}

/// 0..count in an order that depends on the seed alone.
#[must_use]
pub fn shuffled(count: usize, seed: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    order.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_follow_the_model_by_name() {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let dataset = Dataset {
            classes: names(&["a", "b"]),
            labels: vec![0, 1, 1, UNKNOWN],
            ..Dataset::noise(Noise::gaussian(4), 1, 1)
        };
        let aligned = dataset.clone().align(&names(&["b", "c", "a"])).unwrap();
        assert_eq!(aligned.labels(), [2, 0, 0, UNKNOWN]);
        let error = dataset.align(&names(&["b", "c"])).unwrap_err().to_string();
        assert!(error.contains("class `a`") && error.contains("b, c"), "{error}");
    }

    #[test]
    fn a_protocol_divides_ten_classes() {
        let dataset = Dataset {
            classes: (0..10).map(|class| format!("c{class}")).collect(),
            labels: vec![9, 3, 0, 9, 8],
            source: Source::Memory((0..15).collect()),
            ..Dataset::noise(Noise::gaussian(5), 1, 1)
        };
        let protocol = "cac-2021/0".parse().unwrap();
        let (known, others) = dataset.divide(&protocol).unwrap();
        assert_eq!((known.labels(), known.classes()[5].as_str()), (&[5, 0, 5][..], "c9"));
        assert_eq!(
            (known.batch(&[2]).unwrap(), others.batch(&[0, 1]).unwrap()),
            (vec![9, 10, 11], vec![3, 4, 5, 12, 13, 14])
        );
        assert_eq!((others.labels(), others.classes().len()), (&[UNKNOWN; 2][..], 0));
        let error = known.divide(&protocol).unwrap_err().to_string();
        assert!(error.contains("divides 10 classes") && error.contains("has 6"), "{error}");
    }

    #[test]
    fn mirrored_pictures_run_from_right_to_left() {
        let dataset =
            Dataset { source: Source::Memory((0..12).collect()), ..Dataset::noise(Noise::gaussian(2), 1, 2) };
        let mirrored = dataset.clone().mirrored();
        assert_eq!(mirrored.batch(&[1]).unwrap(), [7, 6, 9, 8, 11, 10]);
        assert_eq!(mirrored.pick(&[1]).unwrap().batch(&[0]).unwrap(), [7, 6, 9, 8, 11, 10]);
        assert_eq!(mirrored.mirrored().batch(&[0, 1]).unwrap(), dataset.batch(&[0, 1]).unwrap());
    }

    #[test]
    fn a_draw_is_seeded_and_complete() {
        let dataset = Dataset::noise(Noise::uniform(100), 1, 1);
        let (drawn, rest) = dataset.draw(30, 7);
        assert_eq!((drawn.len(), rest.len()), (30, 70));
        let mut all = [drawn.clone(), rest].concat();
        all.sort_unstable();
        assert_eq!(all, (0..100).collect::<Vec<_>>());
        assert_eq!(dataset.draw(30, 7).0, drawn);
        assert_ne!(dataset.draw(30, 8).0, drawn);
        assert_eq!(dataset.draw(1000, 7).0.len(), 100);
    }

    #[test]
    fn unknown_sets_as_users_write_them() {
        let noise = UnknownSet::open("gaussian-noise:5", 2, 3).unwrap();
        assert_eq!((noise.name.as_str(), noise.pictures.len()), ("gaussian-noise", 5));
        assert_eq!(noise.pictures.pixels(4).unwrap().len(), 18);
        assert_eq!(UnknownSet::open("uniform-noise", 2, 3).unwrap().pictures.len(), 1000);
        for wrong in ["", "noise", "gaussian-noise:0", "gaussian-noise:-3", "=folder"] {
            assert!(matches!(UnknownSet::open(wrong, 2, 3), Err(Error::Setting { .. })), "{wrong}");
        }
        assert!(matches!(UnknownSet::open("a=/no/such", 2, 3), Err(Error::Io { .. })));
        let all = |texts: &[&str]| {
            UnknownSet::open_all(&texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>(), 2, 3)
        };
        assert_eq!(all(&["gaussian-noise:5", "uniform-noise:5"]).unwrap().len(), 2);
        assert!(matches!(all(&["uniform-noise:5", "uniform-noise:6"]), Err(Error::Setting { .. })));
    }
}
