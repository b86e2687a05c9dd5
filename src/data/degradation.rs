//! Degradations that leave an image recognisable, on bytes `[3, height, width]`: fewer pixels, noise and JPEG
//! compression. A model that takes them for signs of unknown images rejects known ones (full-spectrum OOD
//! detection; Yang et al., arXiv 2204.05306).

use std::fmt;

use image::codecs::jpeg::JpegEncoder;
use rand::{Rng, SeedableRng, rngs::ChaCha8Rng};
use rand_distr::{Distribution, Normal};
use serde::{Deserialize, Serialize};

use crate::image::{self as images, Filter, Input, Region};

/// A degradation of fixed strength, with which a model is tested.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Degradation {
    /// Reduced to three quarters of the height and width (bilinear), and enlarged again (bicubic).
    Reduced,
    /// Normal noise with a standard deviation of 8 of 255, independent for each value.
    Noise,
    /// JPEG compression at quality 40, without chroma subsampling.
    Jpeg,
}

impl Degradation {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Reduced, Self::Noise, Self::Jpeg];

    /// Its name: `reduced`, `noise` or `jpeg`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Reduced => "reduced",
            Self::Noise => "noise",
            Self::Jpeg => "jpeg",
        }
    }

    /// Degrades an image. The same seed gives the same noise.
    pub(super) fn apply(self, pixels: &mut [u8], height: usize, width: usize, seed: u64) {
        match self {
            Self::Reduced => reduce(pixels, height, width, 0.75, [Filter::Bilinear, Filter::Bicubic]),
            Self::Noise => add_noise(pixels, 8.0, &mut ChaCha8Rng::seed_from_u64(seed)),
            Self::Jpeg => compress(pixels, height, width, 40),
        }
    }
}

impl fmt::Display for Degradation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Reduces the image by a scale below 1 and enlarges it again, with a filter for each.
pub(crate) fn reduce(pixels: &mut [u8], height: usize, width: usize, scale: f64, [down, up]: [Filter; 2]) {
    let [low, narrow] = [height, width].map(|size| (scale * size as f64).round() as usize);
    let image = images::of_planes(pixels, height, width);
    let small = images::region(&image, Region::whole(&image), (low, narrow), down);
    let small = images::of_planes(&small, low, narrow);
    pixels.copy_from_slice(&images::region(&small, Region::whole(&small), (height, width), up));
}

/// Adds normal noise, independent for each value.
pub(crate) fn add_noise(pixels: &mut [u8], deviation: f32, random: &mut impl Rng) {
    let noise = Normal::new(0.0, deviation).expect("the standard deviation is finite");
    for value in pixels {
        // `as` saturates to 0..=255.
        *value = (f32::from(*value) + noise.sample(random)).round() as u8;
    }
}

/// Compresses the image as a JPEG file without chroma subsampling, and decodes that.
pub(crate) fn compress(pixels: &mut [u8], height: usize, width: usize, quality: u8) {
    let image = images::of_planes(pixels, height, width);
    let mut file = Vec::new();
    let encoder = JpegEncoder::new_with_quality(&mut file, quality);
    image.write_with_encoder(encoder).expect("an input is no larger than a JPEG file may be");
    let decoded = images::from_bytes(&file).expect("the file was just written");
    pixels.copy_from_slice(&images::pixels(&decoded, &Input::of_size(height, width)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{SeedableRng, rngs::ChaCha8Rng};

    const HEIGHT: usize = 24;
    const WIDTH: usize = 40;

    /// Columns that get brighter from left to right, in three colours.
    fn ramp() -> Vec<u8> {
        let plane = |most: usize| (0..HEIGHT * WIDTH).map(move |i| (i % WIDTH * most / WIDTH) as u8);
        plane(250).chain(plane(120)).chain(plane(60)).collect()
    }

    fn random(seed: u64) -> ChaCha8Rng {
        ChaCha8Rng::seed_from_u64(seed)
    }

    /// The mean and the standard deviation of the differences.
    fn differences(a: &[u8], b: &[u8]) -> (f64, f64) {
        let each = || a.iter().zip(b).map(|(&a, &b)| f64::from(a) - f64::from(b));
        let mean = each().sum::<f64>() / a.len() as f64;
        (mean, (each().map(|value| (value - mean).powi(2)).sum::<f64>() / a.len() as f64).sqrt())
    }

    #[test]
    fn a_degradation_has_a_fixed_strength_and_a_name() {
        for degradation in Degradation::ALL {
            let degraded = |seed| {
                let mut pixels = ramp();
                degradation.apply(&mut pixels, HEIGHT, WIDTH, seed);
                pixels
            };
            assert!(degraded(1) == degraded(1));
            assert_eq!(degraded(1) != degraded(2), degradation == Degradation::Noise);
            let mut pixels = vec![128; 3 * HEIGHT * WIDTH];
            degradation.apply(&mut pixels, HEIGHT, WIDTH, 1);
            let (_, deviation) = differences(&pixels, &[128; 3 * HEIGHT * WIDTH]);
            assert_eq!(deviation.round(), if degradation == Degradation::Noise { 8.0 } else { 0.0 });
            assert_eq!(serde_json::to_value(degradation).unwrap(), degradation.name());
        }
    }

    #[test]
    fn a_reduced_image_loses_detail_and_nothing_else() {
        let image =
            |of: fn(usize) -> usize| (0..3 * HEIGHT * WIDTH).map(of).map(|value| value as u8).collect();
        let columns: Vec<u8> = image(|i| 60 + 120 * (i % WIDTH % 2));
        let rows: Vec<u8> = image(|i| 60 + 120 * (i / WIDTH % 2));
        let reduced = |original: &[u8], scale, filters| {
            let mut pixels = original.to_vec();
            reduce(&mut pixels, HEIGHT, WIDTH, scale, filters);
            pixels
        };
        let contrast = |pixels: &[u8]| differences(&vec![120; pixels.len()], pixels).1;
        for filters in [[Filter::Bilinear; 2], [Filter::Bicubic; 2], [Filter::Bilinear, Filter::Bicubic]] {
            for stripes in [&columns, &rows] {
                let blurred = contrast(&reduced(stripes, 0.65, filters));
                assert!(blurred < 0.5 * contrast(stripes), "{blurred}");
                assert!(reduced(stripes, 1.0, filters) == *stripes);
            }
            let (mean, deviation) = differences(&ramp(), &reduced(&ramp(), 0.65, filters));
            assert!(mean.abs() < 0.5 && deviation < 3.0, "{mean} {deviation}");
        }
    }

    #[test]
    fn noise_has_its_standard_deviation_and_no_mean() {
        let original = vec![128; 100_000];
        let mut pixels = original.clone();
        add_noise(&mut pixels, 10.0, &mut random(1));
        let (mean, deviation) = differences(&pixels, &original);
        assert!(mean.abs() < 0.2 && (deviation - 10.0).abs() < 0.2, "{mean} {deviation}");
        // Neither rows nor channels share it.
        let plane = HEIGHT * WIDTH;
        assert!(pixels[..WIDTH] != pixels[WIDTH..2 * WIDTH] && pixels[..plane] != pixels[plane..2 * plane]);
        for extreme in [0, 255] {
            let mut pixels = vec![extreme; 1000];
            add_noise(&mut pixels, 10.0, &mut random(2));
            assert!(pixels.iter().all(|value| value.abs_diff(extreme) < 60));
        }
    }

    #[test]
    fn compression_keeps_the_image_and_loses_more_at_a_lower_quality() {
        let mut noisy = ramp();
        add_noise(&mut noisy, 10.0, &mut random(3));
        let lost = |quality| {
            let mut pixels = noisy.clone();
            compress(&mut pixels, HEIGHT, WIDTH, quality);
            let (mean, deviation) = differences(&pixels, &noisy);
            assert!(mean.abs() < 1.0, "{mean}");
            deviation
        };
        let (low, high) = (lost(40), lost(95));
        assert!(high > 0.1 && low > high && low < 15.0, "{low} {high}");
    }
}
