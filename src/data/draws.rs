//! Random draws of a data set's images, which depend only on a seed.

use std::collections::{HashMap, HashSet};

use rand::{SeedableRng, rngs::ChaCha8Rng, seq::SliceRandom};

use super::Dataset;
use crate::error::{Error, Result};

impl Dataset {
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

/// A permutation of 0..count that depends only on the seed.
#[must_use]
pub(crate) fn shuffled(count: usize, seed: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    order.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        data::{Noise, tests::numbered},
        image::Input,
    };

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
}
