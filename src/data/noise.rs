//! Images of pure noise, as in pytorch-ood.

use std::{fmt, str::FromStr};

use rand::{Rng, RngExt, SeedableRng, rngs::ChaCha8Rng};
use rand_distr::Normal;

use crate::error::{Error, Result};

/// Images of independent random bytes; image `i` is always the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Noise {
    kind: NoiseKind,
    /// The number of images.
    pub count: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NoiseKind {
    /// Mean 128 and standard deviation 128, clipped to 0..=255.
    Gaussian,
    /// All bytes equally likely.
    Uniform,
}

impl Noise {
    /// `count` images of Gaussian noise: mean 128, standard deviation 128, clipped to 0..=255.
    #[must_use]
    pub fn gaussian(count: usize) -> Self {
        Self { kind: NoiseKind::Gaussian, count }
    }

    /// `count` images of uniform noise.
    #[must_use]
    pub fn uniform(count: usize) -> Self {
        Self { kind: NoiseKind::Uniform, count }
    }

    /// `gaussian-noise` or `uniform-noise`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self.kind {
            NoiseKind::Gaussian => "gaussian-noise",
            NoiseKind::Uniform => "uniform-noise",
        }
    }

    /// The bytes of one image.
    pub(super) fn pixels(self, index: usize, length: usize) -> Vec<u8> {
        let mut random = ChaCha8Rng::seed_from_u64(index as u64);
        match self.kind {
            NoiseKind::Gaussian => {
                let normal = Normal::new(128.0_f32, 128.0).expect("a positive deviation");
                // `as` clips to 0..=255.
                (0..length).map(|_| random.sample(normal) as u8).collect()
            }
            NoiseKind::Uniform => {
                let mut bytes = vec![0; length];
                random.fill_bytes(&mut bytes);
                bytes
            }
        }
    }
}

impl fmt::Display for Noise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name(), self.count)
    }
}

impl FromStr for Noise {
    type Err = Error;

    /// `gaussian-noise[:COUNT]` or `uniform-noise[:COUNT]`, with 1,000 images by default.
    fn from_str(text: &str) -> Result<Self> {
        let (name, count) = text.split_once(':').unwrap_or((text, "1000"));
        let count = count.parse().ok().filter(|count| (1..=1_000_000).contains(count));
        match (name, count) {
            ("gaussian-noise", Some(count)) => Ok(Self::gaussian(count)),
            ("uniform-noise", Some(count)) => Ok(Self::uniform(count)),
            _ => {
                let reason = "must be NAME=DIR, a published data set, gaussian-noise[:COUNT] or \
                              uniform-noise[:COUNT], with COUNT from 1 to 1000000";
                Err(Error::setting("unknown set", format!("`{text}`"), reason))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mean_and_share_of_black(noise: Noise) -> (f64, f64) {
        let bytes = noise.pixels(3, 30_000);
        let mean = bytes.iter().map(|&byte| f64::from(byte)).sum::<f64>() / 30_000.0;
        (mean, bytes.iter().filter(|&&byte| byte == 0).count() as f64 / 30_000.0)
    }

    #[test]
    fn noise_has_the_stated_distributions() {
        // Clipping N(128, 128²) leaves 16 % black (below 1) and a mean of 127.5.
        let (mean, black) = mean_and_share_of_black(Noise::gaussian(9));
        assert!((mean - 127.5).abs() < 2.0 && (black - 0.16).abs() < 0.01, "{mean} {black}");
        let (mean, black) = mean_and_share_of_black(Noise::uniform(9));
        assert!((mean - 127.5).abs() < 2.0 && black < 0.01, "{mean} {black}");
    }

    #[test]
    fn images_differ_and_are_reproducible() {
        let noise = Noise::gaussian(9);
        assert_eq!(noise.pixels(1, 100), noise.pixels(1, 100));
        assert_ne!(noise.pixels(1, 100), noise.pixels(2, 100));
    }
}
