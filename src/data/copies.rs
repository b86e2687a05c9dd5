//! Equal images of a data set.

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
    /// Which images have equal [encoded](Self::encoded) bytes. Only files of the same length are read; one that
    /// cannot be read equals no other.
    ///
    /// # Errors
    /// [`Error::Io`] if the system has no memory or open files left.
    pub(super) fn copies(&self) -> Result<Copies> {
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_images_follow_the_first() {
        let copies =
            Copies::of(["a", "b", "a", "-", "-", "b"].map(|digest| (digest != "-").then_some(digest)));
        assert_eq!(copies.distinct(), [0, 1, 3, 4]);
        assert_eq!(copies.divide(&HashSet::from([1, 4])), (vec![1, 4, 5], vec![0, 2, 3]));
        assert_eq!(copies.across(&[0, 1, 0, 0, 0, 2]).collect::<Vec<_>>(), [[1, 5]]);
    }
}
