//! Degradations of random strength, after which a known image is still known. A network that has never seen
//! them takes them for signs of unknown images.

use std::ops::{Range, RangeInclusive};

use rand::{Rng, RngExt};

use crate::{
    data::degradation::{add_noise, compress, reduce},
    image::Filter,
};

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

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{SeedableRng, rngs::ChaCha8Rng};

    const HEIGHT: usize = 24;
    const WIDTH: usize = 40;

    fn random(seed: u64) -> ChaCha8Rng {
        ChaCha8Rng::seed_from_u64(seed)
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
}
