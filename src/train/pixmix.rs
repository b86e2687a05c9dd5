//! PixMix: images mixed with fractals (Hendrycks et al., CVPR 2022, arXiv 2112.05135), on bytes
//! `[3, height, width]`. The constants are the paper's.

use std::array;

use rand::{Rng, RngExt};
use rand_distr::{Beta, Distribution};

use super::{augment::View, fractal::Fractals};

/// The most rounds of mixing; the paper's k.
const ROUNDS: usize = 4;
/// The concentration of the weights; the paper's beta.
const BETA: f64 = 3.0;
/// The greatest severity of a distortion, of 10, and the least.
const SEVERITIES: [f32; 2] = [0.1, 3.0];

/// Mixes an image, or a distortion of it, with fractals and with its own distortions.
pub(super) fn pixmix(
    pixels: &mut [u8],
    height: usize,
    width: usize,
    fractals: &Fractals,
    random: &mut impl Rng,
) {
    let original = pixels.to_vec();
    if random.random() {
        distort(pixels, height, width, random);
    }
    let fractal = fractals.draw(random);
    for _ in 0..random.random_range(0..=ROUNDS) {
        let mixture = Mixture::draw(random);
        if random.random() {
            let mut distorted = original.clone();
            distort(&mut distorted, height, width, random);
            mixture.apply(pixels, &distorted);
        } else {
            mixture.apply(pixels, &fractal);
        }
    }
}

/// How two images become one, with values from 0 to 1, clipped to that range.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Mixture {
    /// The weighted sum about middle grey.
    Sum([f32; 2]),
    /// The product of powers, 1 at middle grey.
    Product([f32; 2]),
}

impl Mixture {
    fn draw(random: &mut impl Rng) -> Self {
        let mut beta =
            |a, b| Beta::new(a, b).expect("both parameters are positive").sample(&mut *random) as f32;
        let (large, small) = (beta(BETA, 1.0), beta(1.0, BETA));
        let (more, less) = (beta(1.0, BETA), beta(1.0, BETA));
        let weights = if random.random() { [large, small] } else { [1.0 + more, -less] };
        if random.random() { Self::Sum(weights) } else { Self::Product(weights) }
    }

    fn apply(self, pixels: &mut [u8], others: &[u8]) {
        // What each image gives is a function of a byte.
        let table =
            |of: &dyn Fn(f32) -> f32| -> [f32; 256] { array::from_fn(|value| of(value as f32 / 127.5)) };
        let mix = |pixels: &mut [u8], [first, second]: [[f32; 256]; 2], both: fn(f32, f32) -> f32| {
            for (pixel, &other) in pixels.iter_mut().zip(others) {
                let value = both(first[usize::from(*pixel)], second[usize::from(other)]);
                // `as` saturates to 0..=255.
                *pixel = (value * 127.5).round() as u8;
            }
        };
        match self {
            Self::Sum([a, b]) => {
                mix(pixels, [table(&|x| a * (x - 1.0) + 1.0), table(&|y| b * (y - 1.0))], |x, y| x + y);
            }
            Self::Product([a, b]) => {
                // A negative power of black would be infinite.
                mix(pixels, [table(&|x| x.powf(a)), table(&|y| y.max(1e-37).powf(b))], |x, y| x * y);
            }
        }
    }
}

/// One of AugMix's distortions (Hendrycks et al., arXiv 1912.02781), at random strength.
fn distort(pixels: &mut [u8], height: usize, width: usize, random: &mut impl Rng) {
    let strength = random.random_range(SEVERITIES[0]..SEVERITIES[1]) / 10.0;
    let signed = if random.random() { strength } else { -strength };
    let mut view = |matrix, offset| View { matrix, offset }.take(pixels, height, width);
    const SAME: [[f32; 2]; 2] = [[1.0, 0.0], [0.0, 1.0]];
    let share = |size: usize| (signed * size as f32 / 3.0).trunc();
    match random.random_range(0..9) {
        0 => {
            let (sine, cosine) = (30.0 * signed).to_radians().sin_cos();
            view([[cosine, -sine], [sine, cosine]], [0.0; 2]);
        }
        1 => view([[1.0, 0.3 * signed], [0.0, 1.0]], [0.0; 2]),
        2 => view([[1.0, 0.0], [0.3 * signed, 1.0]], [0.0; 2]),
        3 => view(SAME, [share(width), 0.0]),
        4 => view(SAME, [0.0, share(height)]),
        5 => pixels.chunks_exact_mut(height * width).for_each(stretch),
        6 => pixels.chunks_exact_mut(height * width).for_each(equalize),
        7 => posterize(pixels, 4 - (4.0 * strength) as u32),
        _ => solarize(pixels, 255 - (256.0 * strength) as u8),
    }
}

/// Stretches the values of a channel to the whole range.
fn stretch(channel: &mut [u8]) {
    let (least, most) =
        channel.iter().fold((255, 0), |(least, most), &value| (value.min(least), value.max(most)));
    if least < most {
        let scale = 255.0 / f64::from(most - least);
        channel.iter_mut().for_each(|value| *value = (f64::from(*value - least) * scale) as u8);
    }
}

/// Gives the values of a channel a uniform distribution, as Pillow's `ImageOps.equalize` does.
fn equalize(channel: &mut [u8]) {
    let mut counts = [0; 256];
    channel.iter().for_each(|&value| counts[usize::from(value)] += 1);
    let greatest = counts.iter().rfind(|&&count| count > 0).copied().unwrap_or(0);
    let step = (channel.len() - greatest) / 255;
    if step == 0 {
        return;
    }
    let mut below = step / 2;
    let table: [u8; 256] = array::from_fn(|value| {
        let level = (below / step).min(255) as u8;
        below += counts[value];
        level
    });
    channel.iter_mut().for_each(|value| *value = table[usize::from(*value)]);
}

/// Keeps the highest bits of each value, 1 to 8.
fn posterize(pixels: &mut [u8], bits: u32) {
    pixels.iter_mut().for_each(|value| *value &= !(0xff >> bits));
}

/// Inverts the values from a threshold on.
fn solarize(pixels: &mut [u8], threshold: u8) {
    pixels.iter_mut().filter(|value| **value >= threshold).for_each(|value| *value = 255 - *value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{SeedableRng, rngs::ChaCha8Rng};
    use serde_json::Value;

    fn golden() -> Value {
        serde_json::from_str(include_str!("../../tests/golden/pixmix.json")).unwrap()
    }

    fn bytes(value: &Value) -> Vec<u8> {
        serde_json::from_value(value.clone()).unwrap()
    }

    #[test]
    fn colours_change_as_in_pillow() {
        let golden = golden();
        let after = |change: &dyn Fn(&mut [u8])| {
            let mut image = bytes(&golden["image"]);
            change(&mut image);
            image
        };
        assert_eq!(after(&stretch), bytes(&golden["stretch"]));
        assert_eq!(after(&equalize), bytes(&golden["equalize"]));
        assert_eq!(after(&|image| posterize(image, 3)), bytes(&golden["posterize"]));
        assert_eq!(after(&|image| solarize(image, 100)), bytes(&golden["solarize"]));
        for change in [stretch, equalize] {
            let mut flat = vec![7; 400];
            change(&mut flat);
            assert_eq!(flat, vec![7; 400]);
        }
    }

    #[test]
    fn images_are_mixed_by_the_formulas_of_the_paper() {
        let golden = golden();
        for mixed in golden["mixtures"].as_array().unwrap() {
            let weights = ["a", "b"].map(|name| mixed[name].as_f64().unwrap() as f32);
            for (mixture, name) in [(Mixture::Sum(weights), "sum"), (Mixture::Product(weights), "product")] {
                let mut image = bytes(&golden["image"]);
                mixture.apply(&mut image, &bytes(&golden["other"]));
                // Half a byte may round the other way.
                let expected = bytes(&mixed[name]);
                assert!(image.iter().zip(&expected).all(|(&a, &b)| a.abs_diff(b) <= 1), "{name}");
                assert!(image.iter().zip(&expected).filter(|(a, b)| a != b).count() < 4, "{name}");
            }
        }
    }

    #[test]
    fn weights_have_the_distribution_of_the_paper() {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let drawn: Vec<Mixture> = (0..4000).map(|_| Mixture::draw(&mut random)).collect();
        let sums = drawn.iter().filter(|mixture| matches!(mixture, Mixture::Sum(_))).count();
        assert!((1800..2200).contains(&sums), "{sums}");
        let weights = drawn.iter().map(|&(Mixture::Sum(weights) | Mixture::Product(weights))| weights);
        let (low, high): (Vec<[f32; 2]>, Vec<_>) = weights.partition(|[a, _]| *a <= 1.0);
        assert!((1800..2200).contains(&low.len()), "{}", low.len());
        let mean = |weights: &[[f32; 2]], of: usize| {
            weights.iter().map(|weights| f64::from(weights[of])).sum::<f64>() / weights.len() as f64
        };
        // The mean of Beta(3, 1) is 3/4, that of Beta(1, 3) 1/4.
        for (weights, of, expected) in [(&low, 0, 0.75), (&low, 1, 0.25), (&high, 0, 1.25), (&high, 1, -0.25)]
        {
            let mean = mean(weights, of);
            assert!((mean - expected).abs() < 0.02, "{mean}");
        }
    }

    #[test]
    fn an_image_is_mixed_reproducibly_and_remains_recognizable() {
        let (height, width) = (32, 48);
        let fractals = Fractals::for_images(height, width);
        let original: Vec<u8> =
            (0..3 * height * width).map(|i| if i % width < 24 { 60 } else { 180 }).collect();
        let mixed = |seed: u64| {
            let mut pixels = original.clone();
            pixmix(&mut pixels, height, width, &fractals, &mut ChaCha8Rng::seed_from_u64(seed));
            pixels
        };
        let all: Vec<Vec<u8>> = (0..300).map(mixed).collect();
        assert_eq!(all[3], mixed(3));
        // No round of mixing and no distortion: one in ten.
        let same = all.iter().filter(|&pixels| *pixels == original).count();
        assert!((12..70).contains(&same), "{same}");
        let is_brighter_right = |pixels: &&Vec<u8>| {
            let halves = [0, 1].map(|half| {
                let of_half = pixels.iter().enumerate().filter(|(i, _)| i % width / 24 == half);
                of_half.map(|(_, &value)| u64::from(value)).sum::<u64>()
            });
            halves[0] < halves[1]
        };
        let kept = all.iter().filter(is_brighter_right).count();
        assert!(kept > 230, "{kept}");
    }
}
