//! Images that stand for unknown ones where there are none: made of known images, and of kinds that no training here
//! learns from.

use ndarray::{Array4, ArrayView4};
use rand::{Rng, RngExt, SeedableRng, rngs::ChaCha8Rng};

/// A kind of stand-in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StandIn {
    /// Quarters of four images.
    Mosaic,
    /// The mean of two images.
    Blend,
    /// Smooth noise in the colours of an image.
    Clouds,
}

impl StandIn {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Mosaic, Self::Blend, Self::Clouds];

    /// The name in a model file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Mosaic => "mosaics",
            Self::Blend => "blends",
            Self::Clouds => "clouds",
        }
    }

    /// One stand-in for each of some images, as bytes `[N, 3, H, W]`. The same images and seed give the same ones.
    #[must_use]
    pub fn of(self, images: ArrayView4<u8>, seed: u64) -> Array4<u8> {
        let mut made = images.to_owned();
        let (count, _, height, width) = images.dim();
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        for (number, mut image) in made.outer_iter_mut().enumerate() {
            let other = |random: &mut ChaCha8Rng| (number + random.random_range(1..count.max(2))) % count;
            match self {
                Self::Mosaic => {
                    let others = [number, other(&mut random), other(&mut random), other(&mut random)];
                    for ((channel, row, column), value) in image.indexed_iter_mut() {
                        let quarter = 2 * usize::from(2 * row >= height) + usize::from(2 * column >= width);
                        *value = images[[others[quarter], channel, row, column]];
                    }
                }
                Self::Blend => {
                    let other = images.index_axis(ndarray::Axis(0), other(&mut random));
                    image.zip_mut_with(&other, |value, &other| *value = value.midpoint(other));
                }
                Self::Clouds => clouds(&mut image, &mut random),
            }
        }
        made
    }
}

/// Fills an image with noise that is smooth over an eighth of its sides; each channel keeps mean and deviation.
fn clouds(image: &mut ndarray::ArrayViewMut3<u8>, random: &mut impl Rng) {
    const CELLS: usize = 8;
    for mut channel in image.outer_iter_mut() {
        let (height, width) = channel.dim();
        let values = channel.mapv(f32::from);
        let (mean, deviation) = (values.mean().unwrap_or(0.0), values.std(0.0));
        let grid: [[f32; CELLS + 1]; CELLS + 1] =
            std::array::from_fn(|_| std::array::from_fn(|_| random.random_range(-1.0..=1.0)));
        for ((row, column), value) in channel.indexed_iter_mut() {
            let place = |at: usize, size: usize| (at as f32 + 0.5) / size as f32 * CELLS as f32;
            let (y, x) = (place(row, height), place(column, width));
            let (top, left) = (y as usize, x as usize);
            let (down, right) = (y.fract(), x.fract());
            let along = |row: usize| grid[row][left] * (1.0 - right) + grid[row][left + 1] * right;
            let noise = along(top) * (1.0 - down) + along(top + 1) * down;
            // `as` saturates to 0..=255.
            *value = (mean + 2.0 * deviation * noise).round() as u8;
        }
    }
}
