//! Int8 quantisation: the ranges of activations on known images, and the scales that follow.
//!
//! Activations become bytes, value / scale + zero point. Weights become -63..=63 with one scale per output
//! channel: seven bits, because processors without VNNI add two products in 16 bits, which 8-bit weights
//! would overflow.

use std::collections::BTreeMap;

use ndarray::{ArrayView4, Axis};
use rayon::prelude::*;
use tract_onnx::prelude::TValue;

use crate::{
    error::{Error, Result},
    scorer::tract::Plan,
};

/// The minimum and maximum of tensors, by name.
pub(super) type Ranges = BTreeMap<String, (f32, f32)>;

/// The largest quantised weight.
const WEIGHT_MAX: f32 = 63.0;

/// The mapping of a tensor's values to bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Quantization {
    pub scale: f32,
    /// The byte that represents 0.
    pub zero_point: u8,
}

impl Quantization {
    /// Maps a range, extended to include 0, to all 256 bytes.
    pub(super) fn of((least, greatest): (f32, f32)) -> Self {
        let (least, greatest) = (least.min(0.0), greatest.max(0.0));
        let scale = (greatest - least) / 255.0;
        if !scale.is_normal() {
            return Self { scale: 1.0, zero_point: 0 };
        }
        Self { scale, zero_point: (-least / scale).round() as u8 }
    }
}

/// Quantises weights `[channels, ...]`: the scale of each channel, at least `floor(channel)`, and the
/// integers.
pub(super) fn by_channel(
    weights: &[f32],
    channels: usize,
    floor: impl Fn(usize) -> f32,
) -> (Vec<f32>, Vec<i8>) {
    let mut scales = Vec::with_capacity(channels);
    let mut whole = Vec::with_capacity(weights.len());
    for (index, channel) in weights.chunks_exact(weights.len() / channels).enumerate() {
        let greatest = channel.iter().fold(0.0_f32, |greatest, weight| greatest.max(weight.abs()));
        let scale = (greatest / WEIGHT_MAX).max(floor(index));
        let scale = Some(scale).filter(|scale| scale.is_normal()).unwrap_or(1.0);
        scales.push(scale);
        whole.extend(channel.iter().map(|weight| (weight / scale).round() as i8));
    }
    (scales, whole)
}

/// The range of each tensor over all images `[N, 3, H, W]`.
///
/// `observer` is a graph that maps one image to the minima, then the maxima, of the tensors.
pub(super) fn ranges(observer: &[u8], tensors: &[String], images: ArrayView4<f32>) -> Result<Ranges> {
    let failed = |reason: String| Error::Runtime { runtime: "tract", reason };
    let (_, channels, height, width) = images.dim();
    let plan = Plan::of_floats(observer, [1, channels, height, width]).map_err(failed)?;
    let of_image = |image: ArrayView4<f32>| -> Result<Vec<(f32, f32)>> {
        let outputs = plan.run(image.to_owned().into()).map_err(failed)?;
        let value = |output: &TValue| {
            let value = output.to_plain_array_view::<f32>().ok()?.first().copied();
            value.filter(|value| value.is_finite())
        };
        let values: Option<Vec<f32>> = outputs.iter().map(value).collect();
        let values = values.ok_or_else(|| failed("an activation is not finite".to_owned()))?;
        let (least, greatest) = values.split_at(values.len() / 2);
        Ok(least.iter().copied().zip(greatest.iter().copied()).collect())
    };
    let wider = |a: Vec<(f32, f32)>, b: Vec<(f32, f32)>| {
        Ok(a.iter().zip(&b).map(|(a, b)| (a.0.min(b.0), a.1.max(b.1))).collect())
    };
    let images: Vec<_> = images.axis_chunks_iter(Axis(0), 1).collect();
    let none = || vec![(f32::INFINITY, f32::NEG_INFINITY); tensors.len()];
    let ranges = images.into_par_iter().map(of_image).try_reduce(none, wider)?;
    Ok(tensors.iter().cloned().zip(ranges).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_span_the_range_and_include_zero() {
        assert_eq!(Quantization::of((0.0, 25.5)), Quantization { scale: 0.1, zero_point: 0 });
        assert_eq!(Quantization::of((-1.0, 1.55)).zero_point, 100);
        // A range on one side of 0 is extended to 0; an empty range gets scale 1.
        assert_eq!(Quantization::of((2.0, 5.1)), Quantization::of((0.0, 5.1)));
        assert_eq!(Quantization::of((0.0, 0.0)), Quantization { scale: 1.0, zero_point: 0 });
    }

    #[test]
    fn each_channel_has_its_own_scale() {
        let (scales, whole) = by_channel(&[0.4, -1.0, 0.0, 0.0, 12.6, 6.0], 3, |_| 0.0);
        assert_eq!(whole, [25, -63, 0, 0, 63, 30]);
        assert_eq!(scales, [1.0 / 63.0, 1.0, 12.6 / 63.0]);
        let (scales, whole) = by_channel(&[1e-9, 1.0], 2, |channel| [1e-3, 0.0][channel]);
        assert_eq!((scales[0], &whole[..]), (1e-3, &[0, 63][..]));
    }
}
