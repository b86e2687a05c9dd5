//! Synthetic unknown images, for when there are no real ones. They are made from known images, in ways that
//! training does not use: one kind is close to known images, the other far from them.

use image::{Rgb, RgbImage};
use ndarray::{Array4, ArrayView4};
use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};

#[cfg(any(feature = "export", feature = "train"))]
use super::Dataset;
#[cfg(any(feature = "export", feature = "train"))]
use crate::error::Result;
use crate::image::{Filter, Input, Resize, pixels};

/// A kind of stand-in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StandIn {
    /// An image with part of an image of another class pasted at the same place.
    Paste,
    /// Blobs in the colours of an image.
    Blobs,
}

/// The maximum number of images that are combined into stand-ins at a time.
#[cfg(any(feature = "export", feature = "train"))]
const AT_ONCE: usize = 64;
/// The share of height and width that is pasted, in tenths.
const PASTED: usize = 7;
/// The number of blobs along each side.
const BLOBS: u32 = 6;

impl StandIn {
    /// All kinds.
    pub const ALL: [Self; 2] = [Self::Paste, Self::Blobs];

    /// The name in a model file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Paste => "paste",
            Self::Blobs => "blobs",
        }
    }

    /// One stand-in for each of the images, bytes `[N, 3, H, W]` with these classes. The same images and seed
    /// give the same stand-ins. If all images are of one class, parts of any other image are pasted.
    #[must_use]
    pub fn of(self, images: ArrayView4<u8>, labels: &[i64], seed: u64) -> Array4<u8> {
        let mut made = images.to_owned();
        let (count, _, height, width) = images.dim();
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        for (number, mut image) in made.outer_iter_mut().enumerate() {
            match self {
                Self::Paste => {
                    let mut others: Vec<usize> =
                        (0..count).filter(|&other| labels[other] != labels[number]).collect();
                    if others.is_empty() {
                        others = (0..count).filter(|&other| other != number || count == 1).collect();
                    }
                    let other = others[random.random_range(0..others.len())];
                    let (high, wide) = (height * PASTED / 10, width * PASTED / 10);
                    let top = random.random_range(0..=height - high);
                    let left = random.random_range(0..=width - wide);
                    for ((channel, row, column), value) in image.indexed_iter_mut() {
                        if (top..top + high).contains(&row) && (left..left + wide).contains(&column) {
                            *value = images[[other, channel, row, column]];
                        }
                    }
                }
                Self::Blobs => {
                    let colours = RgbImage::from_fn(BLOBS, BLOBS, |_, _| {
                        let (row, column) = (random.random_range(0..height), random.random_range(0..width));
                        Rgb([0, 1, 2].map(|channel| image[[channel, row, column]]))
                    });
                    let resize = Resize { filter: Filter::Bicubic, ..Resize::default() };
                    let blobs = pixels(&colours, &Input { resize, ..Input::of_size(height, width) });
                    image.iter_mut().zip(blobs).for_each(|(value, blob)| *value = blob);
                }
            }
        }
        made
    }
}

/// Splits images into chunks of nearly equal size whose stand-ins are made together: an image alone in a
/// chunk could only be pasted onto itself.
#[cfg(any(feature = "export", feature = "train"))]
pub(crate) fn in_chunks(images: &[usize]) -> impl Iterator<Item = &[usize]> {
    let parts = images.len().div_ceil(AT_ONCE);
    let start = move |part: usize| part * images.len() / parts;
    (0..parts).map(move |part| &images[start(part)..start(part + 1)])
}

#[cfg(any(feature = "export", feature = "train"))]
impl Dataset {
    /// Stand-ins of a kind, `[N, 3, H, W]`, for N images, such as one of [`in_chunks`].
    ///
    /// # Errors
    /// Those of [`batch`](Self::batch).
    pub(crate) fn stand_ins(&self, kind: StandIn, indices: &[usize]) -> Result<Array4<u8>> {
        let labels: Vec<i64> = indices.iter().map(|&index| self.labels[index]).collect();
        let seed = indices.first().map_or(0, |&index| index as u64);
        Ok(kind.of(self.batch(indices)?.view(), &labels, seed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Images of one value each.
    fn flat(count: usize) -> Array4<u8> {
        Array4::from_shape_fn((count, 3, 20, 30), |(number, ..)| 10 * number as u8)
    }

    #[test]
    fn a_part_of_another_class_is_pasted() {
        let images = flat(5);
        let made = StandIn::Paste.of(images.view(), &[0, 1, 0, 1, 0], 3);
        for (number, image) in made.outer_iter().enumerate() {
            let others: Vec<u8> = image.iter().copied().filter(|&value| value != 10 * number as u8).collect();
            // 14 x 21 pixels in three channels, all of one image.
            assert_eq!(others.len(), 3 * 14 * 21);
            assert!(others.iter().all(|&value| value == others[0]));
            assert_ne!(usize::from(others[0]) / 10 % 2, number % 2, "of another class");
        }
        assert_eq!(StandIn::Paste.of(images.view(), &[0, 1, 0, 1, 0], 3), made);
        assert_ne!(StandIn::Paste.of(images.view(), &[0, 1, 0, 1, 0], 4), made);
        // One class, and one image.
        for (number, image) in StandIn::Paste.of(images.view(), &[0; 5], 3).outer_iter().enumerate() {
            assert!(image.iter().any(|&value| value != 10 * number as u8), "{number}: of another image");
        }
        assert_eq!(StandIn::Paste.of(flat(1).view(), &[0], 3), flat(1));
    }

    #[cfg(any(feature = "export", feature = "train"))]
    #[test]
    fn no_chunk_is_too_small() {
        for count in (0..200).chain([6401]) {
            let images: Vec<usize> = (0..count).collect();
            let chunks: Vec<&[usize]> = in_chunks(&images).collect();
            assert_eq!(chunks.concat(), images);
            let smallest = chunks.iter().map(|chunk| chunk.len()).min().unwrap_or_default();
            assert!(smallest >= count.min(32), "{count}: {smallest}");
            assert!(chunks.iter().all(|chunk| chunk.len() <= AT_ONCE));
        }
    }

    #[test]
    fn blobs_have_the_colours_of_their_image() {
        assert_eq!(StandIn::Blobs.of(flat(3).view(), &[0; 3], 0), flat(3));
        let halves = Array4::from_shape_fn((1, 3, 20, 30), |(_, _, row, _)| if row < 10 { 40 } else { 160 });
        let made = StandIn::Blobs.of(halves.view(), &[0], 0);
        // All channels of a pixel come from one place, and the filter rings a little.
        let plane = |channel: usize| made.iter().skip(channel * 600).take(600).copied().collect::<Vec<u8>>();
        let red = plane(0);
        assert_eq!(red, plane(1));
        assert!(red.iter().all(|value| (5..=200).contains(value)));
        assert!(red.iter().any(|&value| value < 60) && red.iter().any(|&value| value > 140));
    }
}
