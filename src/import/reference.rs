//! The network in plain loops in double precision: slow and obvious. What a file of imported weights computes
//! is checked against it, because no training here has left logits to compare with.

use ndarray::{Array2, ArrayView3, ArrayView4};

use crate::{
    arch::{BATCH_NORM_EPSILON, Layer, Op},
    error::Result,
    manifest::Input,
    weights::Weights,
};

/// Channels of equal height and width, one after the other; height and width are 1 after pooling.
#[derive(Clone)]
struct Activation {
    height: usize,
    width: usize,
    values: Vec<f64>,
}

/// The logits `[N, C]` of pictures `[N, 3, H, W]`, RGB in 0..=1.
///
/// # Errors
/// [`Error::Weights`](crate::Error::Weights) where a tensor is missing, has another shape or a value that is
/// not finite.
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
    Ok(Array2::from_shape_vec(shape, rows).expect("one row a picture"))
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
            Op::Conv { inputs, outputs, kernel, stride, padding } => {
                read(0).convolved(parameters[0], inputs, outputs, kernel, stride, padding)
            }
            Op::BatchNorm { channels } => {
                let mut normed = read(0).clone();
                let area = normed.height * normed.width;
                for (channel, plane) in normed.values.chunks_exact_mut(area).enumerate().take(channels) {
                    let [weight, bias, mean, variance] =
                        [0, 1, 2, 3].map(|parameter: usize| f64::from(parameters[parameter][channel]));
                    let scale = weight / (variance + BATCH_NORM_EPSILON).sqrt();
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
            Op::Pool => {
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

    fn convolved(
        &self,
        weights: &[f32],
        inputs: usize,
        outputs: usize,
        kernel: usize,
        stride: usize,
        padding: usize,
    ) -> Self {
        let along = |length: usize| (length + 2 * padding - kernel) / stride + 1;
        let (height, width) = (along(self.height), along(self.width));
        let mut values = vec![0.0; outputs * height * width];
        for (out, plane) in values.chunks_exact_mut(height * width).enumerate() {
            for (channel, source) in self.values.chunks_exact(self.height * self.width).enumerate() {
                let kernels = &weights[(out * inputs + channel) * kernel * kernel..][..kernel * kernel];
                for (tap, &weight) in kernels.iter().enumerate() {
                    let (tap_y, tap_x) = (tap / kernel, tap % kernel);
                    for y in 0..height {
                        // Rows and columns of the padding are zero.
                        let Some(row) = (y * stride + tap_y).checked_sub(padding) else { continue };
                        let Some(row) = source.chunks_exact(self.width).nth(row) else { continue };
                        let sums = &mut plane[y * width..][..width];
                        for (x, sum) in sums.iter_mut().enumerate() {
                            let at = (x * stride + tap_x).wrapping_sub(padding);
                            *sum += f64::from(weight) * row.get(at).copied().unwrap_or(0.0);
                        }
                    }
                }
            }
        }
        Self { height, width, values }
    }
}
