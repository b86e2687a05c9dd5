//! Equal images of data sets.

use std::{
    collections::{HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
};

use rayon::prelude::*;

use super::{Dataset, Source};
use crate::error::Result;

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
        let lengths: Vec<u64> = (0..set.len()).into_par_iter().map(|index| set.encoded_len(index)).collect();
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

    /// The number of images with the [encoded](Self::encoded) bytes of an image of another data set.
    ///
    /// # Errors
    /// Those of [`repeated_images`](Self::repeated_images).
    pub fn images_also_in(&self, other: &Self) -> Result<usize> {
        let [own, others] = [self, other].map(|set| -> Vec<u64> {
            (0..set.len()).into_par_iter().map(|index| set.encoded_len(index)).collect()
        });
        let [own_lengths, lengths] = [&own, &others].map(|all| all.iter().collect::<HashSet<_>>());
        // Only these can be equal.
        let of_length = |(index, length): (usize, &u64)| {
            (own_lengths.contains(length) && lengths.contains(length)).then_some(index)
        };
        let digests = |set: &Self, all: &[u64]| -> Result<Vec<_>> {
            let indices: Vec<usize> = all.iter().enumerate().filter_map(of_length).collect();
            indices.into_par_iter().map(|index| set.digest(index)).collect()
        };
        let known: HashSet<_> = digests(other, &others)?.into_iter().flatten().collect();
        Ok(digests(self, &own)?.into_iter().flatten().filter(|digest| known.contains(digest)).count())
    }

    /// The length and a checksum of the [encoded](Self::encoded) bytes of an image; `None` if it cannot be read.
    fn digest(&self, index: usize) -> Result<Option<(u64, u64)>> {
        let bytes = match self.encoded(index) {
            Ok(bytes) => bytes,
            Err(error) if error.is_of_the_system() => return Err(error),
            Err(_) => return Ok(None),
        };
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        Ok(Some((bytes.len() as u64, hasher.finish())))
    }

    /// The length of the encoded bytes of an image, which is that of all images of an array.
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
        assert_eq!((a.images_also_in(&b).unwrap(), b.images_also_in(&a).unwrap()), (4, 2));
        let noise = Dataset::noise(Noise::uniform(3), &Input::default());
        assert_eq!((noise.repeated_images().unwrap(), noise.images_also_in(&a).unwrap()), (0, 0));
        // What cannot be read equals nothing.
        std::fs::remove_file(folder.path().join("a/1.bmp")).unwrap();
        assert_eq!((a.repeated_images().unwrap(), b.images_also_in(&a).unwrap()), (1, 2));
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
