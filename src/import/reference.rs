//! A reference forward pass in double precision: plain loops, and matrix products for convolutions in one
//! group. The self-check of imported weights compares with it, because there are no logits from training.

use ndarray::{
    Array2, ArrayView2, ArrayView3, ArrayView4, ArrayViewMut2, Axis, Slice, linalg::general_mat_mul,
};
use rayon::prelude::*;

use crate::{
    arch::{self, Conv, Layer, Op},
    error::Result,
    image::Input,
    weights::Weights,
};

/// The maximum number of values in a matrix of patches, which a convolution computes at once.
const PATCHES: usize = 1 << 22;

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
    let last_readers = arch::last_readers(layers);
    let mut outputs: Vec<Activation> = Vec::with_capacity(layers.len());
    for (index, layer) in layers.iter().enumerate() {
        let parameters = layer
            .parameters()
            .iter()
            .map(|(name, shape)| weights.values(name, shape))
            .collect::<Result<Vec<_>>>()?;
        let read = |index: usize| &outputs[layer.inputs[index]];
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
            Op::Relu6 => read(0).map(|value| value.clamp(0.0, 6.0)),
            Op::LeakyRelu(slope) => read(0).map(|value| value.max(slope * value)),
            Op::Dropout(_) | Op::DropoutChannels(_) => read(0).clone(),
            Op::Add => {
                let mut sum = read(0).clone();
                sum.values.iter_mut().zip(&read(1).values).for_each(|(sum, value)| *sum += value);
                sum
            }
            Op::MaxPool { kernel, stride, padding } => read(0).pooled(kernel, stride, padding),
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
        for &input in &layer.inputs {
            if last_readers[input] == index {
                outputs[input].values = Vec::new();
            }
        }
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
        let Conv { outputs, kernel, stride, padding: [top, left, bottom, right], .. } = *conv;
        let along = |length: usize, before, after| (length + before + after - kernel) / stride + 1;
        let (height, width) = (along(self.height, top, bottom), along(self.width, left, right));
        let mut sums = Self { height, width, values: vec![0.0; outputs * height * width] };
        let planes = sums.values.par_chunks_exact_mut(height * width).enumerate();
        planes.for_each(|(out, plane)| plane.fill(bias.map_or(0.0, |bias| f64::from(bias[out]))));
        if conv.groups == 1 {
            self.add_products(conv, weights, &mut sums);
        } else {
            self.add_taps(conv, weights, &mut sums);
        }
        sums
    }

    /// Adds a convolution tap by tap.
    fn add_taps(&self, conv: &Conv, weights: &[f32], sums: &mut Self) {
        let Conv { inputs, outputs, kernel, groups, .. } = *conv;
        let (inputs, outputs_of_group) = (inputs / groups, outputs / groups);
        let (area, width) = (self.height * self.width, sums.width);
        let planes = sums.values.par_chunks_exact_mut(sums.height * width).enumerate();
        planes.for_each(|(out, plane)| {
            let sources = &self.values[out / outputs_of_group * inputs * area..][..inputs * area];
            for (channel, source) in sources.chunks_exact(area).enumerate() {
                let kernels = &weights[(out * inputs + channel) * kernel * kernel..][..kernel * kernel];
                for (tap, &weight) in kernels.iter().enumerate() {
                    for (y, sums) in plane.chunks_exact_mut(width).enumerate() {
                        let add = |(sum, value): (&mut f64, f64)| *sum += f64::from(weight) * value;
                        sums.iter_mut().zip(self.tapped(source, conv, tap, y)).for_each(add);
                    }
                }
            }
        });
    }

    /// Adds a convolution in one group: the product of the kernels and the patches under them, band by band.
    fn add_products(&self, conv: &Conv, weights: &[f32], sums: &mut Self) {
        let Conv { inputs, outputs, kernel, stride, padding, .. } = *conv;
        let (area, width) = (self.height * self.width, sums.width);
        let rows = inputs * kernel * kernel;
        let kernels: Vec<f64> = weights.iter().copied().map(f64::from).collect();
        let kernels = ArrayView2::from_shape((outputs, rows), &kernels).expect("the shape was checked");
        let shape = (outputs, sums.height * width);
        let mut sums_of = ArrayViewMut2::from_shape(shape, &mut sums.values).expect("outputs, pixels");
        if (kernel, stride, padding) == (1, 1, [0; 4]) {
            let pixels = ArrayView2::from_shape((inputs, area), &self.values).expect("inputs, pixels");
            return add_product(kernels, pixels, sums_of);
        }
        let band = (PATCHES / (rows * width)).clamp(1, sums.height);
        for first in (0..sums.height).step_by(band) {
            let lines = first..sums.height.min(first + band);
            let mut patches = Array2::zeros((rows, lines.len() * width));
            patches.axis_iter_mut(Axis(0)).into_par_iter().enumerate().for_each(|(row, mut patches)| {
                let (channel, tap) = (row / (kernel * kernel), row % (kernel * kernel));
                let source = &self.values[channel * area..][..area];
                let values = lines.clone().flat_map(|y| self.tapped(source, conv, tap, y).take(width));
                patches.iter_mut().zip(values).for_each(|(patch, value)| *patch = value);
            });
            let columns = Slice::from(lines.start * width..lines.end * width);
            add_product(kernels, patches.view(), sums_of.slice_axis_mut(Axis(1), columns));
        }
    }

    /// The values that a tap of a kernel reads for row `y` of the output, without end; those of the padding
    /// are 0.
    fn tapped<'a>(
        &self,
        source: &'a [f64],
        conv: &Conv,
        tap: usize,
        y: usize,
    ) -> impl Iterator<Item = f64> + use<'a> {
        let Conv { kernel, stride, padding: [top, left, ..], .. } = *conv;
        let row = (y * stride + tap / kernel).checked_sub(top).filter(|&row| row < self.height);
        let row = row.map_or(&[][..], |row| &source[row * self.width..][..self.width]);
        let column = move |x: usize| (x * stride + tap % kernel).wrapping_sub(left);
        (0..).map(move |x| row.get(column(x)).copied().unwrap_or(0.0))
    }

    /// The maximum of each window; padding is never the maximum.
    fn pooled(&self, kernel: usize, stride: usize, padding: usize) -> Self {
        let along = |length: usize| (length + 2 * padding - kernel) / stride + 1;
        let (height, width) = (along(self.height), along(self.width));
        let window = |at: usize, length: usize| {
            let first = at * stride;
            first.saturating_sub(padding)..(first + kernel - padding).min(length)
        };
        let planes = self.values.chunks_exact(self.height * self.width);
        let values = planes.flat_map(|plane| {
            let pixel = move |place: usize| {
                let (rows, columns) = (window(place / width, self.height), window(place % width, self.width));
                rows.flat_map(|row| &plane[row * self.width..][columns.clone()])
                    .fold(f64::NEG_INFINITY, |most, &value| most.max(value))
            };
            (0..height * width).map(pixel)
        });
        Self { height, width, values: values.collect() }
    }
}

/// Adds a product of matrices, on all threads.
fn add_product(left: ArrayView2<f64>, right: ArrayView2<f64>, mut sums: ArrayViewMut2<f64>) {
    let rows = sums.nrows().div_ceil(4 * rayon::current_num_threads()).max(16);
    let parts = left.axis_chunks_iter(Axis(0), rows).into_par_iter();
    let sums = sums.axis_chunks_iter_mut(Axis(0), rows).into_par_iter();
    parts.zip(sums).for_each(|(left, mut sums)| general_mat_mul(1.0, &left, &right, 1.0, &mut sums));
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use ndarray::Array4;

    use super::*;
    use crate::{arch::Architecture, fill, image};

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

    #[test]
    fn logits_match_timm() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/families.safetensors");
        let golden = Weights::read(&path).unwrap();
        for (name, family, settings, [height, width]) in fill::CASES {
            let architecture = Architecture::new(family, settings).unwrap();
            let layers = architecture.layers(5, height, width).unwrap();
            let mut weights = Weights::new(Path::new(name));
            for (name, shape) in layers.iter().flat_map(Layer::parameters) {
                weights.insert(&name, &shape, fill::values_scaled(&name, &shape, fill::Scale::Inputs));
            }
            let input = Input { height, width, ..architecture.default_input() };
            let pixels = fill::bytes(2 * input.values()).into_iter().map(image::unit).collect();
            let images = Array4::from_shape_vec((2, 3, height, width), pixels).unwrap();
            let found = logits(&layers, &weights, &input, images.view()).unwrap();
            let expected = golden.matrix(&format!("{name}.{height}x{width}"), [2, 5]).unwrap();
            let largest = expected.iter().fold(1.0_f32, |most, logit| most.max(logit.abs()));
            let difference = (found - &expected).fold(0.0_f32, |most, apart| most.max(apart.abs())) / largest;
            assert!(difference < 1e-6, "{name}: {difference}");
        }
    }

    /// The maximum of a window is one of its own values, not of the padding.
    #[test]
    fn windows_at_the_border_are_smaller() {
        let x = Activation { height: 3, width: 4, values: (0..12).map(|i| -f64::from(i)).collect() };
        let y = x.pooled(3, 2, 1);
        assert_eq!((y.height, y.width, y.values), (2, 2, vec![0.0, -1.0, -4.0, -5.0]));
    }

    const PYTORCH: [f64; 12] =
        [172.0, 295.0, 88.0, 140.0, 203.0, 46.0, 1709.0, 2651.0, 851.0, 1284.0, 1953.0, 614.0];
}
