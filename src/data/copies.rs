//! Equal images of a data set.

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
};

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
