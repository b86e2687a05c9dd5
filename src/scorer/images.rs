//! Images in the forms that models take.

use ndarray::{Array4, ArrayView4, Axis, Slice};
use rayon::prelude::*;

use crate::image::{self, Input, RgbImage};

/// Images `[N, 3, H, W]` as floats or bytes.
#[derive(Clone, Copy)]
pub(super) enum Images<'a> {
    /// Values in 0..=1.
    Floats(ArrayView4<'a, f32>),
    Bytes(ArrayView4<'a, u8>),
}

impl Images<'_> {
    pub fn shape(&self) -> &[usize] {
        match self {
            Self::Floats(images) => images.shape(),
            Self::Bytes(images) => images.shape(),
        }
    }

    pub fn len(&self) -> usize {
        self.shape()[0]
    }

    /// Up to `count` images from `start` on.
    pub fn part(&self, start: usize, count: usize) -> Images<'_> {
        let part = Slice::from(start..(start + count).min(self.len()));
        match self {
            Self::Floats(images) => Images::Floats(images.slice_axis(Axis(0), part)),
            Self::Bytes(images) => Images::Bytes(images.slice_axis(Axis(0), part)),
        }
    }

    /// The input of a model that takes floats, `[N, 3, H, W]` in 0..=1.
    pub fn to_floats(self) -> Array4<f32> {
        match self {
            Self::Floats(images) => images.as_standard_layout().into_owned(),
            Self::Bytes(images) => images.as_standard_layout().map(|&byte| image::unit(byte)),
        }
    }

    /// The input of a model that takes bytes, `[N, H, W, 3]`.
    pub fn to_bytes(self) -> Array4<u8> {
        match self {
            Self::Floats(images) => {
                images.permuted_axes([0, 2, 3, 1]).as_standard_layout().map(|&value| byte(value))
            }
            Self::Bytes(images) => images.permuted_axes([0, 2, 3, 1]).as_standard_layout().into_owned(),
        }
    }

    /// What resizing returns, `[N, 3, H, W]`: bytes as floats.
    #[cfg(feature = "tract")]
    pub fn to_resized(self) -> Array4<f32> {
        match self {
            Self::Floats(images) => images.as_standard_layout().map(|&value| f32::from(byte(value))),
            Self::Bytes(images) => images.as_standard_layout().map(|&byte| f32::from(byte)),
        }
    }
}

/// The byte of a value in 0..=1.
fn byte(value: f32) -> u8 {
    // `as` saturates to 0..=255.
    (value * 255.0).round() as u8
}

/// Pads images with black ones to whole batches.
pub(super) fn filled<T: Clone + Default>(images: ArrayView4<T>, batch: usize) -> Array4<T> {
    let (count, channels, height, width) = images.dim();
    let shape = (count.next_multiple_of(batch), channels, height, width);
    let mut filled = Array4::from_elem(shape, T::default());
    filled.slice_axis_mut(Axis(0), Slice::from(..count)).assign(&images);
    filled
}

/// Images resized to an input by [`image::pixels`], `[N, 3, height, width]`.
pub(super) fn resized(images: &[RgbImage], input: &Input) -> Array4<u8> {
    let mut pixels = vec![0; images.len() * input.values()];
    let places = pixels.par_chunks_exact_mut(input.values());
    places.zip(images).for_each(|(place, image)| place.copy_from_slice(&image::pixels(image, input)));
    let shape = (images.len(), 3, input.height, input.width);
    Array4::from_shape_vec(shape, pixels).expect("whole images")
}
