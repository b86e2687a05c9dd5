//! The pixels of a data set's images.

use std::{borrow::Cow, sync::OnceLock};

use ndarray::Array4;
use rayon::prelude::*;

use super::{Dataset, Degradation, Source};
#[cfg(feature = "train")]
use crate::image::{DifferenceHash, RgbImage};
use crate::{
    error::{Error, Result},
    image::{self, Input, Region},
};

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
    /// The number of bytes of an image: 3 x height x width.
    #[must_use]
    pub(crate) fn image_len(&self) -> usize {
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

    /// Checks that one image can be decoded, and returns its [encoded](Self::encoded) bytes and, if `is_hashed`, its
    /// difference hash. Its pixels are kept if there is room.
    ///
    /// # Errors
    /// Those of [`pixels`](Self::pixels).
    #[cfg(feature = "train")]
    pub(crate) fn checked(
        &self,
        index: usize,
        is_hashed: bool,
    ) -> Result<(Cow<'_, [u8]>, Option<DifferenceHash>)> {
        let hash = |image: &RgbImage| is_hashed.then(|| DifferenceHash::of(image)).flatten();
        let (encoded, position) = (self.encoded(index)?, self.positions[index]);
        let image = match &*self.source {
            Source::Files(files) => image::of_file(&files[position], &encoded)?,
            #[cfg(feature = "parquet")]
            Source::Rows(rows) => rows.image(position)?,
            // They need no decoder.
            Source::Arrays(_) if !is_hashed => return Ok((encoded, None)),
            Source::Arrays(arrays) => return Ok((encoded, hash(&arrays.image(position)))),
            Source::Noise(_) => return Ok((encoded, None)),
        };
        if let Some(kept) = self.kept.get(index) {
            kept.get_or_init(|| image::pixels(&image, &self.input).into_boxed_slice());
        }
        Ok((encoded, hash(&image)))
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Noise, Split, tests::first_bytes};

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
}
