//! Dropout. On the CPU libtorch draws random numbers on a single thread, which takes a third of the training
//! time; this implementation draws 16 bits per activation, on all threads.

use half::bf16;
use rand::{Rng, SeedableRng, rngs::Xoshiro256PlusPlus};
use rayon::prelude::*;
use tch::{Device, Kind, TchError, Tensor, kind::Element};

/// Activations per random stream, independent of the number of threads.
const STREAM: usize = 1 << 15;

/// The unit that is dropped as a whole.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Activation,
    /// All activations of a channel of an image.
    Channel,
}

/// Sets a share of the activations `[N, C, H, W]` or `[N, C]` to 0, and divides the rest by 1 - `share`.
///
/// The seed determines the mask. On the CPU the share is rounded to a multiple of 1 / 65536.
pub(super) fn dropout(input: &Tensor, share: f64, unit: Unit, seed: u64) -> Result<Tensor, TchError> {
    let kept = 1.0 / (1.0 - share);
    match (input.device(), input.kind(), unit) {
        (Device::Cpu, Kind::Float, _) => input.f_mul(&mask(input, share, unit, seed, kept as f32)?),
        (Device::Cpu, Kind::BFloat16, _) => {
            // tch would treat a slice of bf16 as f16.
            let kept = bf16::from_f64(kept).to_bits() as i16;
            input.f_mul(&mask(input, share, unit, seed, kept)?.f_view_dtype(Kind::BFloat16)?)
        }
        (.., Unit::Activation) => {
            tch::manual_seed(seed as i64);
            input.f_dropout(share, true)
        }
        (.., Unit::Channel) => {
            tch::manual_seed(seed as i64);
            input.f_feature_dropout(share, true)
        }
    }
}

/// Factors of the activations, 0 or `kept`, channels last in memory like the activations.
fn mask<T: Element + Copy + Send + Sync>(
    input: &Tensor,
    share: f64,
    unit: Unit,
    seed: u64,
    kept: T,
) -> Result<Tensor, TchError> {
    let (images, channels, height, width) = match input.dim() {
        2 => input.size2().map(|(images, channels)| (images, channels, 1, 1)),
        _ => input.size4(),
    }?;
    let (height, width) = if unit == Unit::Channel { (1, 1) } else { (height, width) };
    let least = (share * f64::from(1 << 16)).round() as u64;
    // A table, because a branch would often be mispredicted.
    let choice = [T::ZERO, kept];
    let mut factors = vec![T::ZERO; (images * channels * height * width) as usize];
    factors.par_chunks_mut(STREAM).enumerate().for_each(|(stream, factors)| {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(seed.wrapping_add((stream as u64) << 32));
        for factors in factors.chunks_mut(4) {
            let drawn = random.next_u64();
            for (index, factor) in factors.iter_mut().enumerate() {
                let drawn = drawn >> (16 * index) & 0xFFFF;
                *factor = choice[usize::from(drawn >= least)];
            }
        }
    });
    let factors = Tensor::f_from_slice(&factors)?;
    match input.dim() {
        2 => factors.f_view([images, channels]),
        _ => factors.f_view([images, height, width, channels])?.f_permute([0, 3, 1, 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_is_dropped_and_the_mean_is_kept() {
        for kind in [Kind::Float, Kind::BFloat16] {
            let input = Tensor::ones([64, 32, 16, 16], (kind, Device::Cpu));
            let output = dropout(&input, 0.3, Unit::Activation, 7).unwrap();
            assert_eq!(output.kind(), kind);
            // Over half a million activations the standard deviation is 0.0006.
            let dropped = output.eq(0.0).to_kind(Kind::Double).mean(None::<Kind>).double_value(&[]);
            assert!((dropped - 0.3).abs() < 0.003, "{dropped}");
            let mean = output.to_kind(Kind::Double).mean(None::<Kind>).double_value(&[]);
            assert!((mean - 1.0).abs() < 0.006, "{mean}");
            // Every image, channel and row is dropped equally often.
            for dims in [[1, 2, 3], [0, 2, 3], [0, 1, 3]] {
                let shares = output.eq(0.0).to_kind(Kind::Double).mean_dim(&dims[..], false, None::<Kind>);
                let deviation = shares.std(false).double_value(&[]);
                assert!(deviation < 0.012, "{deviation}");
            }
            assert_eq!(output, dropout(&input, 0.3, Unit::Activation, 7).unwrap());
            assert_ne!(output, dropout(&input, 0.3, Unit::Activation, 8).unwrap());
        }
    }

    #[test]
    fn features_without_spatial_axes_are_dropped() {
        for unit in [Unit::Activation, Unit::Channel] {
            let input = Tensor::ones([64, 1280], (Kind::Float, Device::Cpu));
            let output = dropout(&input, 0.2, unit, 7).unwrap();
            assert_eq!(output.size(), [64, 1280]);
            let dropped = output.eq(0.0).to_kind(Kind::Double).mean(None::<Kind>).double_value(&[]);
            assert!((dropped - 0.2).abs() < 0.01, "{dropped}");
        }
    }

    #[test]
    fn channels_are_dropped_whole() {
        let input = Tensor::ones([64, 128, 4, 4], (Kind::Float, Device::Cpu));
        let output = dropout(&input, 0.2, Unit::Channel, 7).unwrap();
        let shares = output.eq(0.0).to_kind(Kind::Double).mean_dim(&[2_i64, 3][..], false, None::<Kind>);
        let partly = shares.gt(0.0).logical_and(&shares.lt(1.0)).any().int64_value(&[]);
        let dropped = shares.mean(None::<Kind>).double_value(&[]);
        assert!(partly == 0 && (dropped - 0.2).abs() < 0.02, "{partly} {dropped}");
    }

    #[test]
    fn gradients_pass_through_kept_activations() {
        let input = Tensor::rand([4, 8, 4, 4], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let output = dropout(&input, 0.5, Unit::Activation, 3).unwrap();
        output.sum(None::<Kind>).backward();
        assert_eq!(input.grad(), output.ne(0.0).to_kind(Kind::Float) * 2.0);
    }
}
