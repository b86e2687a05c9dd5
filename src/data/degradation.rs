//! Degradations that leave an image recognisable, on bytes `[3, height, width]`: fewer pixels, noise and JPEG
//! compression. A model that takes them for signs of unknown images rejects known ones (full-spectrum OOD
//! detection; Yang et al., arXiv 2204.05306).

use std::str::FromStr;

use image::codecs::jpeg::JpegEncoder;
use rand::{Rng, SeedableRng, rngs::ChaCha8Rng};
use rand_distr::{Distribution, Normal};
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    image::{self as images, Filter, Input, Region},
};

/// A degradation of fixed strength, with which a model is tested.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
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

    /// As it follows a number of images: `reduced`, `with noise` or `as JPEG`.
    #[must_use]
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Reduced => "reduced",
            Self::Noise => "with noise",
            Self::Jpeg => "as JPEG",
        }
    }

    /// Degrades an image; the noise depends only on its bytes.
    pub(super) fn apply(self, pixels: &mut [u8], height: usize, width: usize) {
        match self {
            Self::Reduced => reduce(pixels, height, width, 0.75, [Filter::Bilinear, Filter::Bicubic]),
            Self::Noise => add_noise(pixels, 8.0, &mut ChaCha8Rng::seed_from_u64(hash(pixels))),
            Self::Jpeg => compress(pixels, height, width, 40),
        }
    }
}

impl FromStr for Degradation {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|one| one.name() == name);
        found.ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            Error::setting("degradation", format!("`{name}`"), format!("must be one of {names}"))
        })
    }
}

/// FNV-1a.
fn hash(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
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
    use crate::data::{Dataset, Noise};

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
        let degraded = |image: &[u8], degradation: Degradation| {
            let mut pixels = image.to_vec();
            degradation.apply(&mut pixels, HEIGHT, WIDTH);
            pixels
        };
        let (image, grey) = (ramp(), vec![128; 3 * HEIGHT * WIDTH]);
        let mut expected = image.clone();
        reduce(&mut expected, HEIGHT, WIDTH, 0.75, [Filter::Bilinear, Filter::Bicubic]);
        assert!(degraded(&image, Degradation::Reduced) == expected && expected != image);
        expected = image.clone();
        compress(&mut expected, HEIGHT, WIDTH, 40);
        assert!(degraded(&image, Degradation::Jpeg) == expected && expected != image);
        let noisy = degraded(&grey, Degradation::Noise);
        let (mean, deviation) = differences(&noisy, &grey);
        assert!(mean.abs() < 0.3 && (deviation - 8.0).abs() < 0.3, "{mean} {deviation}");
        // The same image has the same noise, and another image another.
        assert!(degraded(&grey, Degradation::Noise) == noisy);
        let other = degraded(&vec![129; grey.len()], Degradation::Noise);
        assert!(differences(&other, &noisy).1 > 8.0);
        for degradation in Degradation::ALL {
            assert_eq!(serde_json::to_value(degradation).unwrap(), degradation.name());
            assert_eq!(degradation.name().parse::<Degradation>().unwrap(), degradation);
        }
        let error = "blur".parse::<Degradation>().unwrap_err().to_string();
        assert!(error.ends_with("`blur`: must be one of reduced, noise, jpeg"), "{error}");
    }

    #[test]
    fn the_noise_is_not_that_of_images_of_noise() {
        let (plain, input) = (Noise::gaussian(4), Input::of_size(HEIGHT, WIDTH));
        let images = Dataset::noise(plain, &input);
        for index in 0..images.len() {
            let [plain, degraded] = [images.clone(), images.clone().degraded(Degradation::Noise)]
                .map(|images| images.pixels(index).unwrap().into_owned());
            let values = plain.iter().zip(&degraded).filter(|&(&plain, _)| (30..=225).contains(&plain));
            let values: Vec<(f64, f64)> = values
                .map(|(&plain, &degraded)| (plain.into(), f64::from(degraded) - f64::from(plain)))
                .collect();
            let mean = |of: fn(&(f64, f64)) -> f64| values.iter().map(of).sum::<f64>() / values.len() as f64;
            let [brightness, noise] = [mean(|value| value.0), mean(|value| value.1)];
            let products = values.iter().map(|value| (value.0 - brightness) * (value.1 - noise));
            let covariance = products.sum::<f64>() / values.len() as f64;
            // Standard deviations of 56 and 8.
            assert!((covariance / (56.0 * 8.0)).abs() < 0.15, "{covariance}");
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
