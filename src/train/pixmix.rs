//! PixMix: images mixed with fractals (Hendrycks et al., CVPR 2022, arXiv 2112.05135), on bytes
//! `[3, height, width]`. Every round is rounded to bytes. Distortions are centred, and their strength is
//! continuous.

use std::{array, ops::Range};

use rand::{Rng, RngExt};
use rand_distr::{Beta, Distribution};

use super::{augment::Warp, fractal::Fractals};

/// The maximum number of mixing rounds; the paper's k.
const ROUNDS: usize = 4;
/// The concentration of the weights; the paper's beta.
const BETA: f64 = 3.0;
/// The strength of a distortion, 1 at AugMix's maximum; the paper's severity of 3.
const STRENGTHS: Range<f32> = 0.01..0.3;

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
        distort(pixels, height, width, Distortion::draw(random));
    }
    // Two images in five need none.
    let mut fractal = None;
    for _ in 0..random.random_range(0..=ROUNDS) {
        let mixture = Mixture::draw(random);
        if random.random() {
            let mut distorted = original.clone();
            distort(&mut distorted, height, width, Distortion::draw(random));
            mixture.apply(pixels, &distorted);
        } else {
            mixture.apply(pixels, fractal.get_or_insert_with(|| fractals.draw(height, width, random)));
        }
    }
}

/// How two images are mixed, with values from 0 to 1, clipped to that range.
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
        let (large, small, other) = (beta(BETA, 1.0), beta(1.0, BETA), beta(1.0, BETA));
        let weights = if random.random() { [large, small] } else { [1.0 + other, -small] };
        if random.random() { Self::Sum(weights) } else { Self::Product(weights) }
    }

    fn apply(self, pixels: &mut [u8], others: &[u8]) {
        // Each image's contribution is a function of a byte.
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

/// One of AugMix's distortions (Hendrycks et al., arXiv 1912.02781), with a strength from 0 to 1, or -1 to 1
/// if the direction matters.
#[derive(Debug, Clone, Copy)]
enum Distortion {
    Rotation(f32),
    ShearX(f32),
    ShearY(f32),
    ShiftX(f32),
    ShiftY(f32),
    Stretch,
    Equalization,
    Posterization(f32),
    Solarization(f32),
}

impl Distortion {
    fn draw(random: &mut impl Rng) -> Self {
        let strength = random.random_range(STRENGTHS);
        let signed = if random.random() { strength } else { -strength };
        match random.random_range(0..9) {
            0 => Self::Rotation(signed),
            1 => Self::ShearX(signed),
            2 => Self::ShearY(signed),
            3 => Self::ShiftX(signed),
            4 => Self::ShiftY(signed),
            5 => Self::Stretch,
            6 => Self::Equalization,
            7 => Self::Posterization(strength),
            _ => Self::Solarization(strength),
        }
    }
}

/// Distorts an image. At strength 1 it is rotated by 30 degrees, sheared by 0.3, shifted by a third of the
/// size, posterized to 0 bits, or solarized from 0 on; at 0, posterized to 4 bits, or solarized from 256 on.
fn distort(pixels: &mut [u8], height: usize, width: usize, distortion: Distortion) {
    const SAME: [[f32; 2]; 2] = [[1.0, 0.0], [0.0, 1.0]];
    let third = |strength: f32, size: usize| (strength * size as f32 / 3.0).trunc();
    let (matrix, offset) = match distortion {
        Distortion::Rotation(strength) => {
            let (sine, cosine) = (30.0 * strength).to_radians().sin_cos();
            ([[cosine, -sine], [sine, cosine]], [0.0; 2])
        }
        Distortion::ShearX(strength) => ([[1.0, 0.3 * strength], [0.0, 1.0]], [0.0; 2]),
        Distortion::ShearY(strength) => ([[1.0, 0.0], [0.3 * strength, 1.0]], [0.0; 2]),
        Distortion::ShiftX(strength) => (SAME, [third(strength, width), 0.0]),
        Distortion::ShiftY(strength) => (SAME, [0.0, third(strength, height)]),
        Distortion::Stretch => return pixels.chunks_exact_mut(height * width).for_each(stretch),
        Distortion::Equalization => return pixels.chunks_exact_mut(height * width).for_each(equalize),
        Distortion::Posterization(strength) => return posterize(pixels, 4 - (4.0 * strength) as u32),
        Distortion::Solarization(strength) => return solarize(pixels, 256 - (256.0 * strength) as u16),
    };
    Warp { matrix, offset }.take(pixels, height, width);
}

/// Stretches the values of a channel to the whole range, as Pillow's `ImageOps.autocontrast` does.
fn stretch(channel: &mut [u8]) {
    let (least, most) =
        channel.iter().fold((255, 0), |(least, most), &value| (value.min(least), value.max(most)));
    if least < most {
        let scale = 255.0 / f64::from(most - least);
        let offset = -f64::from(least) * scale;
        // `as` truncates and saturates.
        channel.iter_mut().for_each(|value| *value = (f64::from(*value) * scale + offset) as u8);
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

/// Keeps the highest bits of each value, 0 to 8.
fn posterize(pixels: &mut [u8], bits: u32) {
    let mask = !(0xff_u16 >> bits) as u8;
    pixels.iter_mut().for_each(|value| *value &= mask);
}

/// Inverts the values from a threshold on, 0 to 256.
fn solarize(pixels: &mut [u8], threshold: u16) {
    let bright = pixels.iter_mut().filter(|value| u16::from(**value) >= threshold);
    bright.for_each(|value| *value = 255 - *value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{SeedableRng, rngs::ChaCha8Rng};
    use serde_json::Value;
    use std::{collections::HashMap, mem};

    fn golden() -> Value {
        serde_json::from_str(include_str!("../../tests/golden/pixmix.json")).unwrap()
    }

    fn bytes(value: &Value) -> Vec<u8> {
        serde_json::from_value(value.clone()).unwrap()
    }

    #[test]
    fn colours_change_as_in_pillow() {
        let golden = golden();
        for (distortion, name) in [
            (Distortion::Stretch, "stretch"),
            (Distortion::Equalization, "equalize"),
            (Distortion::Posterization(0.3), "posterize"),
            (Distortion::Solarization(0.3), "solarize"),
        ] {
            let mut image = bytes(&golden["image"]);
            distort(&mut image, 20, 20, distortion);
            assert_eq!(image, bytes(&golden[name]), "{name}");
        }
        for distortion in [Distortion::Stretch, Distortion::Equalization] {
            let mut flat = vec![7; 400];
            distort(&mut flat, 20, 20, distortion);
            assert_eq!(flat, vec![7; 400]);
        }
    }

    #[test]
    fn geometric_distortions_have_the_scales_of_augmix() {
        // The centre of a bright square that was 20 pixels to the right of the image's centre, or below it.
        let moved = |distortion: Distortion, is_below: bool| {
            let (middle, far) = (49..=51, 69..=71);
            let (rows, columns) = if is_below { (far, middle) } else { (middle, far) };
            let places = || (0..101 * 101).map(|i| (i / 101, i % 101));
            let is_bright = |(row, column): (i32, i32)| rows.contains(&row) && columns.contains(&column);
            let plane: Vec<u8> = places().map(|place| if is_bright(place) { 200 } else { 0 }).collect();
            let mut pixels = plane.repeat(3);
            distort(&mut pixels, 101, 101, distortion);
            let weights = || pixels[..plane.len()].iter().map(|&value| f64::from(value));
            let mean = |of: fn((i32, i32)) -> i32| {
                let products = places().zip(weights()).map(|(place, weight)| f64::from(of(place)) * weight);
                products.sum::<f64>() / weights().sum::<f64>() - 50.0
            };
            [mean(|(row, _)| row), mean(|(_, column)| column)]
        };
        // Both directions are drawn equally often.
        let (sine, cosine) = 9.0_f64.to_radians().sin_cos();
        for (distortion, is_below, expected) in [
            (Distortion::Rotation(0.3), false, [20.0 * sine, 20.0 * cosine]),
            (Distortion::ShearX(0.3), true, [20.0, 1.8]),
            (Distortion::ShearY(0.3), false, [1.8, 20.0]),
            (Distortion::ShiftX(0.1), true, [20.0, 3.0]),
            (Distortion::ShiftY(-0.1), false, [3.0, 20.0]),
        ] {
            for (found, expected) in moved(distortion, is_below).into_iter().zip(expected) {
                assert!((found.abs() - expected).abs() < 0.1, "{distortion:?}: {found}, not {expected}");
            }
        }
    }

    #[test]
    fn all_distortions_are_drawn() {
        let mut random = ChaCha8Rng::seed_from_u64(4);
        let mut counts = HashMap::new();
        for _ in 0..900 {
            let distortion = Distortion::draw(&mut random);
            *counts.entry(mem::discriminant(&distortion)).or_insert(0) += 1;
            if let Distortion::Rotation(strength) = distortion {
                assert!((0.01..0.3).contains(&strength.abs()), "{strength}");
            }
        }
        assert!(counts.len() == 9 && counts.values().all(|count| (60..150).contains(count)), "{counts:?}");
    }

    #[test]
    fn images_are_mixed_by_the_formulas_of_the_paper() {
        let golden = golden();
        for mixed in golden["mixtures"].as_array().unwrap() {
            let weights = ["a", "b"].map(|name| mixed[name].as_f64().unwrap() as f32);
            for (mixture, name) in [(Mixture::Sum(weights), "sum"), (Mixture::Product(weights), "product")] {
                let of = |place: &str| bytes(&golden[mixed[place].as_str().unwrap()]);
                let mut image = of("first");
                mixture.apply(&mut image, &of("second"));
                // Halves may round the other way.
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
    fn a_mixed_image_remains_recognisable() {
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
        // No round of mixing, and either no distortion or one without effect.
        let same = all.iter().filter(|&pixels| *pixels == original).count();
        assert!((20..50).contains(&same), "{same}");
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
