//! Int8 quantisation: the ranges and means of activations on known images, and the scales and biases that
//! follow.
//!
//! Activations become bytes, value / scale + zero point. Weights become -63..=63 with one scale per output
//! channel: seven bits, because processors without VNNI add two products in 16 bits, which 8-bit weights
//! would overflow. What rounding the weights adds to the mean of an output is subtracted from its bias (Nagel
//! et al., arXiv 1906.04721): in depthwise convolutions, which add few products, this is most of the error.

use std::collections::BTreeMap;

use ndarray::{ArrayView4, Axis};
use rayon::prelude::*;
use tract_onnx::prelude::TValue;

use crate::{
    error::{Error, Result},
    scorer::tract::{self, Plan},
};

/// Statistics of tensors `[N, C, H, W]`, by name.
pub(super) type Ranges = BTreeMap<String, Observed>;

/// Statistics of a tensor over images.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Observed {
    pub least: f32,
    pub greatest: f32,
    /// The mean of each channel.
    pub means: Vec<f64>,
}

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
    /// Maps the range of a tensor, extended to include 0, to all 256 bytes.
    pub(super) fn of(observed: &Observed) -> Self {
        let (least, greatest) = (observed.least.min(0.0), observed.greatest.max(0.0));
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

/// What quantised weights `[outputs, inputs of a group, ...]` add to the mean of each output, for inputs with
/// these means.
pub(super) fn added_means(
    weights: &[f32],
    (scales, whole): (&[f32], &[i8]),
    inputs_of_group: usize,
    means: &[f64],
) -> Vec<f64> {
    let of_output = weights.len() / scales.len();
    let taps = of_output / inputs_of_group;
    let outputs_of_group = scales.len() * inputs_of_group / means.len();
    let added = |(output, &scale): (usize, &f32)| {
        let means = &means[output / outputs_of_group * inputs_of_group..][..inputs_of_group];
        let indices = output * of_output..(output + 1) * of_output;
        let errors = weights[indices.clone()].iter().zip(&whole[indices]);
        let errors = errors.map(|(&weight, &whole)| f64::from(scale) * f64::from(whole) - f64::from(weight));
        errors.enumerate().map(|(index, error)| error * means[index / taps]).sum()
    };
    scales.iter().enumerate().map(added).collect()
}

/// Images that are observed in parallel.
const BATCH: usize = 32;

/// Ranges and means of each tensor over all images `[N, 3, H, W]`.
///
/// `observer` is a graph that maps one image to the minima, then the maxima, then the channel means of the
/// tensors.
pub(super) fn ranges(observer: &[u8], tensors: &[String], images: ArrayView4<f32>) -> Result<Ranges> {
    let failed = |reason: String| Error::Runtime { runtime: tract::NAME, reason };
    let (count, channels, height, width) = images.dim();
    let plan = Plan::of_floats(observer, [1, channels, height, width]).map_err(failed)?;
    let of_image = |image: ArrayView4<f32>| -> Result<Vec<Observed>> {
        let outputs = plan.run(image.to_owned().into()).map_err(failed)?;
        let values = |output: &TValue| -> Option<Vec<f32>> {
            let values: Vec<f32> = output.to_plain_array_view::<f32>().ok()?.iter().copied().collect();
            values.iter().all(|value| value.is_finite()).then_some(values)
        };
        let values: Option<Vec<Vec<f32>>> = outputs.iter().map(values).collect();
        let values = values.ok_or_else(|| failed("an activation is not finite".to_owned()))?;
        let tensor = |index: usize| {
            let [least, greatest, means] = [0, 1, 2].map(|part| &values[part * tensors.len() + index]);
            let means = means.iter().map(|&mean| f64::from(mean) / count as f64).collect();
            Observed { least: least[0], greatest: greatest[0], means }
        };
        Ok((0..tensors.len()).map(tensor).collect())
    };
    let images: Vec<_> = images.axis_chunks_iter(Axis(0), 1).collect();
    let mut all: Option<Vec<Observed>> = None;
    for batch in images.chunks(BATCH) {
        // Sums are in the order of the images, whatever the threads do.
        for more in batch.par_iter().map(|image| of_image(*image)).collect::<Result<Vec<_>>>()? {
            match &mut all {
                Some(all) => all.iter_mut().zip(&more).for_each(|(tensor, more)| tensor.widen(more)),
                None => all = Some(more),
            }
        }
    }
    Ok(tensors.iter().cloned().zip(all.unwrap_or_default()).collect())
}

impl Observed {
    /// Adds another image.
    fn widen(&mut self, more: &Self) {
        self.least = self.least.min(more.least);
        self.greatest = self.greatest.max(more.greatest);
        self.means.iter_mut().zip(&more.means).for_each(|(mean, more)| *mean += more);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_span_the_range_and_include_zero() {
        let of = |least, greatest| Quantization::of(&Observed { least, greatest, means: Vec::new() });
        assert_eq!(of(0.0, 25.5), Quantization { scale: 0.1, zero_point: 0 });
        assert_eq!(of(-1.0, 1.55).zero_point, 100);
        // A range on one side of 0 is extended to 0; an empty range gets scale 1.
        assert_eq!(of(2.0, 5.1), of(0.0, 5.1));
        assert_eq!(of(0.0, 0.0), Quantization { scale: 1.0, zero_point: 0 });
    }

    #[test]
    fn rounded_weights_shift_the_mean_by_their_error() {
        // Two outputs in one group, with two inputs and two taps.
        let weights = [1.0, 0.5, -0.25, 2.0, 3.0, 4.0, 5.0, 6.0];
        let quantised = (&[1.0, 2.0][..], &[1, 1, 0, 2, 1, 2, 3, 3][..]);
        assert_eq!(added_means(&weights, quantised, 2, &[2.0, 4.0]), [1.0 + 1.0, -2.0 + 4.0]);
        // The same weights, each output in a group of its own with four taps.
        assert_eq!(added_means(&weights, quantised, 1, &[2.0, 4.0]), [2.0 * 0.75, 0.0]);
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
