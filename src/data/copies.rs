//! Equal images of data sets.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
};

use rayon::prelude::*;
#[cfg(feature = "files")]
use sha2::{Digest, Sha256};

use super::{Dataset, Source};
#[cfg(feature = "files")]
use crate::files::checksum;
use crate::{error::Result, image::DifferenceHash};

/// How many images are hashed between two calls of `progress`.
const HASHED_AT_ONCE: usize = 256;

/// The length of a digest in hexadecimal digits: of 2^20 images and as many others, two different ones share a
/// digest with a probability of 10^-7.
#[cfg(feature = "files")]
const DIGITS: usize = 16;

/// Which images of a data set are copies of which: for each image, the index of the first one equal to it.
pub(crate) struct Copies(Vec<usize>);

impl Copies {
    /// Images with the same digest are equal; one without a digest equals no other.
    pub fn of<D: Eq + Hash>(digests: impl IntoIterator<Item = Option<D>>) -> Self {
        let mut seen = HashMap::new();
        let first = |(index, digest): (usize, Option<D>)| {
            digest.map_or(index, |digest| *seen.entry(digest).or_insert(index))
        };
        Self(digests.into_iter().enumerate().map(first).collect())
    }

    /// Which images have equal [encoded](Dataset::encoded) bytes. Only files of the same length are read; one
    /// that cannot be read equals no other.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) if the system has no memory or open files left.
    pub fn within(set: &Dataset) -> Result<Self> {
        let lengths = set.encoded_lens();
        let mut counts: HashMap<u64, usize> = HashMap::new();
        lengths.iter().for_each(|&length| *counts.entry(length).or_default() += 1);
        let digest = |(index, length)| if counts[length] == 1 { Ok(None) } else { set.digest(index) };
        let digests = lengths.par_iter().enumerate().map(digest).collect::<Result<Vec<_>>>()?;
        Ok(Self::of(digests))
    }

    /// Whether there are equal images.
    #[cfg(feature = "train")]
    pub fn any(&self) -> bool {
        self.0.iter().enumerate().any(|(index, &first)| index != first)
    }

    /// The first of each set of equal images, ascending.
    pub fn distinct(&self) -> Vec<usize> {
        (0..self.0.len()).filter(|&index| self.0[index] == index).collect()
    }

    /// Divides all images into those equal to one of the given [distinct](Self::distinct) ones, and the rest,
    /// both ascending.
    pub fn divide(&self, distinct: &HashSet<usize>) -> (Vec<usize>, Vec<usize>) {
        (0..self.0.len()).partition(|&index| distinct.contains(&self.0[index]))
    }

    /// Each image whose first equal one has another label, after that one.
    #[cfg(any(feature = "train", test))]
    pub fn across<'a>(&'a self, labels: &'a [i64]) -> impl Iterator<Item = [usize; 2]> + 'a {
        let firsts = self.0.iter().zip(0..);
        firsts.filter(|&(&first, index)| labels[first] != labels[index]).map(|(&first, index)| [first, index])
    }
}

impl Dataset {
    /// The number of images with the [encoded](Self::encoded) bytes of an earlier one.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) if the system has no memory or open files left.
    pub fn repeated_images(&self) -> Result<usize> {
        Ok(self.len() - Copies::within(self)?.distinct().len())
    }

    /// For each of other data sets, the number of its images with the [encoded](Self::encoded) bytes of an image of
    /// this one.
    ///
    /// # Errors
    /// Those of [`repeated_images`](Self::repeated_images).
    pub fn copies_in<'a>(&self, others: impl IntoIterator<Item = &'a Self>) -> Result<Vec<usize>> {
        Ok(self.copied_in(others)?.iter().map(Vec::len).collect())
    }

    /// The images whose [encoded](Self::encoded) bytes are not those of an earlier one. Images that cannot be read
    /// are kept.
    ///
    /// # Errors
    /// Those of [`repeated_images`](Self::repeated_images).
    pub fn distinct(&self) -> Result<Self> {
        Ok(self.pick(&Copies::within(self)?.distinct()))
    }

    /// The images whose [encoded](Self::encoded) bytes are not those of an image of another data set. Images that
    /// cannot be read are kept.
    ///
    /// # Errors
    /// Those of [`repeated_images`](Self::repeated_images).
    pub fn without(&self, other: &Self) -> Result<Self> {
        let copies: HashSet<usize> = other.copied_in([self])?.concat().into_iter().collect();
        let kept: Vec<usize> = (0..self.len()).filter(|index| !copies.contains(index)).collect();
        Ok(self.pick(&kept))
    }

    /// The first 16 hexadecimal digits of the SHA-256 of the [encoded](Self::encoded) bytes of each image; `None` for
    /// one that cannot be read.
    ///
    /// # Errors
    /// Those of [`repeated_images`](Self::repeated_images).
    #[cfg(feature = "files")]
    pub fn digests(&self) -> Result<Vec<Option<String>>> {
        let digest = |index| {
            let bytes = self.encoded_if_readable(index)?;
            Ok(bytes.map(|bytes| {
                let mut digest = checksum::hexadecimal(Sha256::new_with_prefix(bytes));
                digest.truncate(DIGITS);
                digest
            }))
        };
        (0..self.len()).into_par_iter().map(digest).collect()
    }

    /// The number of images whose difference hash is close to that of an earlier image or of an image of `others`, as
    /// for changed copies and frames of a video. Images that cannot be read are not counted. `None` for more than
    /// 2^30 pairs of images, which take too long to compare. `progress` receives the number of images of both data
    /// sets that were read since its last call.
    pub fn lookalikes(&self, others: Option<&Self>, mut progress: impl FnMut(usize)) -> Option<usize> {
        let first = others.map_or(0, Self::len);
        if !DifferenceHash::can_compare(self.len(), first + self.len()) {
            return None;
        }
        let mut hashes = Vec::with_capacity(first + self.len());
        for set in others.into_iter().chain([self]) {
            let hash = |&index: &usize| DifferenceHash::of(&set.original(index).ok()?);
            for indices in (0..set.len()).collect::<Vec<_>>().chunks(HASHED_AT_ONCE) {
                hashes.par_extend(indices.par_iter().map(hash));
                progress(indices.len());
            }
        }
        Some(DifferenceHash::repeated(&hashes, first))
    }

    /// For each of `others`, the indices of its images that equal an image of this data set.
    fn copied_in<'a>(&self, others: impl IntoIterator<Item = &'a Self>) -> Result<Vec<Vec<usize>>> {
        let others: Vec<(&Self, Vec<u64>)> =
            others.into_iter().map(|other| (other, other.encoded_lens())).collect();
        let lengths = self.encoded_lens();
        // Images of another length need not be read.
        let digests = |set: &Self, all: &[u64], wanted: &HashSet<u64>| -> Result<Vec<_>> {
            let indices = all.par_iter().enumerate().filter(|(_, length)| wanted.contains(length));
            indices.map(|(index, _)| Ok((index, set.digest(index)?))).collect()
        };
        let of_others: HashSet<u64> = others.iter().flat_map(|(_, lengths)| lengths).copied().collect();
        let own: HashSet<_> =
            digests(self, &lengths, &of_others)?.into_iter().filter_map(|(_, digest)| digest).collect();
        let lengths: HashSet<u64> = lengths.into_iter().collect();
        let copied = |(other, all): &(&Self, Vec<u64>)| {
            let found = digests(other, all, &lengths)?.into_iter();
            let is_own = |digest: Option<_>| digest.is_some_and(|digest| own.contains(&digest));
            Ok(found.filter(|&(_, digest)| is_own(digest)).map(|(index, _)| index).collect())
        };
        others.iter().map(copied).collect()
    }

    /// The length and a checksum of the [encoded](Self::encoded) bytes of an image; `None` if it cannot be read.
    fn digest(&self, index: usize) -> Result<Option<(u64, u64)>> {
        Ok(self.encoded_if_readable(index)?.map(|bytes| {
            let mut hasher = DefaultHasher::new();
            bytes.hash(&mut hasher);
            (bytes.len() as u64, hasher.finish())
        }))
    }

    /// The [encoded](Self::encoded) bytes of an image; `None` if it cannot be read.
    fn encoded_if_readable(&self, index: usize) -> Result<Option<Cow<'_, [u8]>>> {
        match self.encoded(index) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.is_of_the_system() => Err(error),
            Err(_) => Ok(None),
        }
    }

    /// The [lengths](Self::encoded_len) of all images.
    fn encoded_lens(&self) -> Vec<u64> {
        (0..self.len()).into_par_iter().map(|index| self.encoded_len(index)).collect()
    }

    /// The length of the encoded bytes of an image; 0 for those of arrays, which have one length.
    fn encoded_len(&self, index: usize) -> u64 {
        match &*self.source {
            Source::Files(files) => {
                std::fs::metadata(&files[self.positions[index]]).map_or(0, |file| file.len())
            }
            #[cfg(feature = "parquet")]
            Source::Rows(rows) => rows.encoded(self.positions[index]).len() as u64,
            Source::Arrays(_) | Source::Noise(_) => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        data::{Noise, Split},
        image::Input,
    };

    #[test]
    fn equal_images_are_counted_within_and_among_data_sets() {
        let folder = tempfile::tempdir().unwrap();
        let set = |name: &str, shades: &[u8]| {
            let at = folder.path().join(name);
            std::fs::create_dir(&at).unwrap();
            for (index, &shade) in shades.iter().enumerate() {
                let image = image::RgbImage::from_pixel(8, 8, image::Rgb([shade; 3]));
                image.save(at.join(format!("{index}.bmp"))).unwrap();
            }
            Dataset::unknown(&at, Split::Test, &Input::default()).unwrap()
        };
        let (a, b) = (set("a", &[1, 2, 3, 2, 2]), set("b", &[2, 9, 1, 9]));
        assert_eq!([&a, &b].map(|set| set.repeated_images().unwrap()), [2, 1]);
        assert_eq!((b.copies_in([&a, &b]).unwrap(), a.copies_in([&b]).unwrap()), (vec![4, 4], vec![2]));
        #[cfg(feature = "files")]
        {
            let [a, b] = [&a, &b].map(|set| set.digests().unwrap());
            assert_eq!((&a[1], &a[0], &b[1]), (&a[3], &b[2], &b[3]));
            let file = std::fs::read(folder.path().join("a/0.bmp")).unwrap();
            assert_eq!(a[0].as_deref(), Some(&crate::files::sha256(&file)[..16]));
        }
        let noise = Dataset::noise(Noise::uniform(3), &Input::default());
        assert_eq!((noise.repeated_images().unwrap(), a.copies_in([&noise]).unwrap()), (0, vec![0]));
        let shades =
            |set: Dataset| (0..set.len()).map(|index| set.pixels(index).unwrap()[0]).collect::<Vec<_>>();
        assert_eq!(shades(a.distinct().unwrap()), [1, 2, 3]);
        assert_eq!(shades(a.without(&b).unwrap()), [3]);
        // What cannot be read equals nothing.
        std::fs::remove_file(folder.path().join("a/1.bmp")).unwrap();
        assert_eq!((a.repeated_images().unwrap(), a.copies_in([&b]).unwrap()), (1, vec![2]));
        #[cfg(feature = "files")]
        assert_eq!(a.digests().unwrap().iter().position(Option::is_none), Some(1));
    }

    #[test]
    fn equal_images_follow_the_first() {
        let copies =
            Copies::of(["a", "b", "a", "-", "-", "b"].map(|digest| (digest != "-").then_some(digest)));
        assert_eq!(copies.distinct(), [0, 1, 3, 4]);
        assert_eq!(copies.divide(&HashSet::from([1, 4])), (vec![1, 4, 5], vec![0, 2, 3]));
        assert_eq!(copies.across(&[0, 1, 0, 0, 0, 2]).collect::<Vec<_>>(), [[1, 5]]);
    }
}
