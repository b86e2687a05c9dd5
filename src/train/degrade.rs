//! Degradations after which a known image is still known, on bytes `[3, height, width]`: fewer pixels, noise
//! and JPEG compression. A network that has never seen them takes them for signs of unknown images
//! (full-spectrum OOD detection; Yang et al., arXiv 2204.05306).

use std::ops::{Range, RangeInclusive};

use image::codecs::jpeg::JpegEncoder;
use rand::{Rng, RngExt};
use rand_distr::{Distribution, Normal};

use crate::image::{self as images, Filter, Input, Region};

/// The height and width of a reduced image, relative to the original ones.
const SCALES: Range<f64> = 0.6..1.0;
/// Standard deviations of the noise, in steps of a byte.
const DEVIATIONS: Range<f32> = 0.0..16.0;
/// Qualities of JPEG compression.
const QUALITIES: RangeInclusive<u8> = 40..=95;

/// Degrades an image in each of the three ways with a probability of `share`, 0 to 1.
pub(super) fn degrade(pixels: &mut [u8], height: usize, width: usize, share: f64, random: &mut impl Rng) {
    if random.random_bool(share) {
        reduce(pixels, height, width, random.random_range(SCALES), [filter(random), filter(random)]);
    }
    if random.random_bool(share) {
        add_noise(pixels, random.random_range(DEVIATIONS), random);
    }
    if random.random_bool(share) {
        compress(pixels, height, width, random.random_range(QUALITIES));
    }
}

fn filter(random: &mut impl Rng) -> Filter {
    Filter::ALL[random.random_range(0..Filter::ALL.len())]
}

/// Reduces the image by a scale below 1 and enlarges it again, with a filter for each.
fn reduce(pixels: &mut [u8], height: usize, width: usize, scale: f64, [down, up]: [Filter; 2]) {
    let [low, narrow] = [height, width].map(|size| (scale * size as f64).round() as usize);
    let image = images::of_planes(pixels, height, width);
    let small = images::region(&image, Region::whole(&image), (low, narrow), down);
    let small = images::of_planes(&small, low, narrow);
    pixels.copy_from_slice(&images::region(&small, Region::whole(&small), (height, width), up));
}

/// Adds normal noise, independent for each value.
fn add_noise(pixels: &mut [u8], deviation: f32, random: &mut impl Rng) {
    let noise = Normal::new(0.0, deviation).expect("the standard deviation is finite");
    for value in pixels {
        // `as` saturates to 0..=255.
        *value = (f32::from(*value) + noise.sample(random)).round() as u8;
    }
}

/// Compresses the image as a JPEG file without chroma subsampling, and decodes that.
fn compress(pixels: &mut [u8], height: usize, width: usize, quality: u8) {
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
    fn each_way_has_the_probability_of_the_share() {
        let original: Vec<u8> = (0..3 * HEIGHT * WIDTH).map(|i| (i * 7919 % 251) as u8).collect();
        for share in [0.0, 0.3, 1.0] {
            let mut counts = [0; 3];
            for seed in 0..400 {
                let mut degraded = original.clone();
                degrade(&mut degraded, HEIGHT, WIDTH, share, &mut random(seed));
                // The same random numbers, in the same order.
                let (mut expected, mut random) = (original.clone(), random(seed));
                if random.random_bool(share) {
                    counts[0] += 1;
                    let scale = random.random_range(0.6..1.0);
                    let filters = [filter(&mut random), filter(&mut random)];
                    reduce(&mut expected, HEIGHT, WIDTH, scale, filters);
                }
                if random.random_bool(share) {
                    counts[1] += 1;
                    let deviation = random.random_range(0.0..16.0);
                    add_noise(&mut expected, deviation, &mut random);
                }
                if random.random_bool(share) {
                    counts[2] += 1;
                    compress(&mut expected, HEIGHT, WIDTH, random.random_range(40..=95));
                }
                assert!(degraded == expected, "{seed}");
            }
            // The standard deviation is at most 9.2.
            assert!(
                counts.iter().all(|&count: &i32| count.abs_diff((400.0 * share) as i32) < 35),
                "{counts:?}"
            );
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
