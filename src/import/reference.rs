//! A reference forward pass in plain loops and double precision. The self-check of imported weights compares
//! with it, because there are no logits from training.

use ndarray::{Array2, ArrayView3, ArrayView4};

use rayon::prelude::*;

use crate::{
    arch::{Conv, Layer, Op},
    error::Result,
    image::Input,
    weights::Weights,
};

/// The activations `[channels, height, width]` of an image; height and width are 1 after pooling or
/// flattening.
#[derive(Clone)]
struct Activation {
    height: usize,
    width: usize,
    values: Vec<f64>,
}

/// The logits `[N, C]` of images `[N, 3, H, W]`, RGB in 0..=1.
///
/// # Errors
/// [`Error::Weights`](crate::Error::Weights) if a tensor is missing, has another shape or a value that is not
/// finite.
pub(super) fn logits(
    layers: &[Layer],
    weights: &Weights,
    input: &Input,
    images: ArrayView4<f32>,
) -> Result<Array2<f32>> {
    let mut rows = Vec::new();
    for image in images.outer_iter() {
        rows.extend(forward(layers, weights, input, image)?.into_iter().map(|logit| logit as f32));
    }
    let shape = (images.dim().0, rows.len() / images.dim().0.max(1));
    Ok(Array2::from_shape_vec(shape, rows).expect("one row per image"))
}

fn forward(layers: &[Layer], weights: &Weights, input: &Input, image: ArrayView3<f32>) -> Result<Vec<f64>> {
    let mut outputs: Vec<Activation> = Vec::with_capacity(layers.len());
    for layer in layers {
        let parameters = layer
            .parameters()
            .iter()
            .map(|(name, shape)| weights.values(name, shape))
            .collect::<Result<Vec<_>>>()?;
        let read = |place: usize| &outputs[layer.inputs[place]];
        let output = match layer.op {
            Op::Input => normalized(input, image),
            Op::Conv(conv) => read(0).convolved(&conv, parameters[0], parameters.get(1).copied()),
            Op::BatchNorm { channels, epsilon, .. } => {
                let mut normed = read(0).clone();
                let area = normed.height * normed.width;
                for (channel, plane) in normed.values.chunks_exact_mut(area).enumerate().take(channels) {
                    let [weight, bias, mean, variance] =
                        [0, 1, 2, 3].map(|parameter: usize| f64::from(parameters[parameter][channel]));
                    let scale = weight / (variance + epsilon).sqrt();
                    plane.iter_mut().for_each(|value| *value = (*value - mean) * scale + bias);
                }
                normed
            }
            Op::Relu => read(0).map(|value| value.max(0.0)),
            Op::LeakyRelu(slope) => read(0).map(|value| value.max(slope * value)),
            Op::Dropout(_) | Op::DropoutChannels(_) => read(0).clone(),
            Op::Add => {
                let mut sum = read(0).clone();
                sum.values.iter_mut().zip(&read(1).values).for_each(|(sum, value)| *sum += value);
                sum
            }
            Op::GlobalAveragePool => {
                let x = read(0);
                let area = x.height * x.width;
                let mean = |plane: &[f64]| plane.iter().sum::<f64>() / area as f64;
                Activation { height: 1, width: 1, values: x.values.chunks_exact(area).map(mean).collect() }
            }
            Op::Flatten => Activation { height: 1, width: 1, values: read(0).values.clone() },
            Op::Linear { inputs, .. } => {
                let dot = |(row, &bias): (&[f32], &f32)| {
                    let products = row.iter().zip(&read(0).values).map(|(&w, &x)| f64::from(w) * x);
                    f64::from(bias) + products.sum::<f64>()
                };
                let values = parameters[0].chunks_exact(inputs).zip(parameters[1]).map(dot).collect();
                Activation { height: 1, width: 1, values }
            }
        };
        outputs.push(output);
    }
    Ok(outputs.pop().map_or_else(Vec::new, |logits| logits.values))
}

fn normalized(input: &Input, image: ArrayView3<f32>) -> Activation {
    let planes = image.outer_iter().zip(input.mean).zip(input.std);
    let values = planes.flat_map(|((plane, mean), std)| {
        let unit = move |&value: &f32| (f64::from(value) - f64::from(mean)) / f64::from(std);
        plane.iter().map(unit).collect::<Vec<_>>()
    });
    Activation { height: input.height, width: input.width, values: values.collect() }
}

impl Activation {
    fn map(&self, f: impl Fn(f64) -> f64) -> Self {
        Self { values: self.values.iter().map(|&value| f(value)).collect(), ..*self }
    }

    fn convolved(&self, conv: &Conv, weights: &[f32], bias: Option<&[f32]>) -> Self {
        let Conv { inputs, outputs, kernel, stride, padding: [top, left, bottom, right], groups, .. } = *conv;
        let along = |length: usize, before, after| (length + before + after - kernel) / stride + 1;
        let (height, width) = (along(self.height, top, bottom), along(self.width, left, right));
        let (inputs, outputs_of_group) = (inputs / groups, outputs / groups);
        let area = self.height * self.width;
        let mut values = vec![0.0; outputs * height * width];
        values.par_chunks_exact_mut(height * width).enumerate().for_each(|(out, plane)| {
            plane.fill(bias.map_or(0.0, |bias| f64::from(bias[out])));
            let sources = &self.values[out / outputs_of_group * inputs * area..][..inputs * area];
            for (channel, source) in sources.chunks_exact(area).enumerate() {
                let kernels = &weights[(out * inputs + channel) * kernel * kernel..][..kernel * kernel];
                for (tap, &weight) in kernels.iter().enumerate() {
                    let (tap_y, tap_x) = (tap / kernel, tap % kernel);
                    for y in 0..height {
                        // Rows and columns of the padding are zero.
                        let Some(row) = (y * stride + tap_y).checked_sub(top) else { continue };
                        let Some(row) = source.chunks_exact(self.width).nth(row) else { continue };
                        let sums = &mut plane[y * width..][..width];
                        for (x, sum) in sums.iter_mut().enumerate() {
                            let at = (x * stride + tap_x).wrapping_sub(left);
                            *sum += f64::from(weight) * row.get(at).copied().unwrap_or(0.0);
                        }
                    }
                }
            }
        });
        Self { height, width, values }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `torch.nn.functional.conv2d(F.pad(x, (1, 2, 0, 1)), w, b, stride=2, groups=2)` of PyTorch 2.13 with
    /// `x = torch.arange(32.).view(1, 2, 4, 4)`, `w = torch.arange(18.).view(2, 1, 3, 3)` and
    /// `b = torch.tensor([1., -1.])`.
    #[test]
    fn groups_bias_and_asymmetric_padding_match_pytorch() {
        let x = Activation { height: 4, width: 4, values: (0..32).map(f64::from).collect() };
        let conv = Conv {
            inputs: 2,
            outputs: 2,
            kernel: 3,
            stride: 2,
            padding: [0, 1, 1, 2],
            groups: 2,
            bias: true,
        };
        let weights: Vec<f32> = (0..18).map(|i| i as f32).collect();
        let y = x.convolved(&conv, &weights, Some(&[1.0, -1.0]));
        assert_eq!((y.height, y.width), (2, 3));
        assert_eq!(y.values, PYTORCH);
    }

    const PYTORCH: [f64; 12] =
        [172.0, 295.0, 88.0, 140.0, 203.0, 46.0, 1709.0, 2651.0, 851.0, 1284.0, 1953.0, 614.0];
}
