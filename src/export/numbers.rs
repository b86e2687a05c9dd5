//! The number format of a graph, which decides how weights and convolutions are written.

use super::quantize::{Quantization, Ranges, added_means, by_channel};
use crate::model::{
    builder::Builder,
    proto::{Attribute, element},
};

/// The largest quantised bias of an int8 convolution, which accumulates in 32 bits.
const BIAS_MAX: f32 = (1 << 30) as f32;

/// The last part of a dequantised tensor's name.
const RESTORED: &str = "restored";

/// The tensor before quantisation.
fn exact(tensor: &str) -> &str {
    tensor.strip_suffix(RESTORED).and_then(|tensor| tensor.strip_suffix('.')).unwrap_or(tensor)
}

/// A number format.
pub(super) enum Numbers {
    Float32,
    /// Weights are stored as float16; all computation is in float32.
    Float16,
    /// As float32, and records which tensors [`Int8`](Self::Int8) would quantise.
    Observe(Vec<String>),
    /// Convolutions have 8-bit inputs, weights and outputs, in QDQ form.
    Int8(Ranges),
}

impl Numbers {
    /// Adds the weights of a layer as the float32 tensor `name`.
    pub(super) fn weights(&self, graph: &mut Builder, name: &str, shape: &[usize], values: &[f32]) {
        if matches!(self, Self::Float16) {
            graph.halves(name, shape, values);
        } else {
            graph.floats(name, shape, values);
        }
    }

    /// Adds a convolution with kernels `[outputs, inputs of a group, k, k]`.
    pub(super) fn convolution(
        &mut self,
        graph: &mut Builder,
        name: &str,
        input: &str,
        (weight, shape, kernels): (&str, &[usize], &[f32]),
        (bias, shifts): (&str, Option<&[f32]>),
        attributes: Vec<Attribute>,
    ) -> String {
        let observed = match self {
            Self::Int8(ranges) => ranges.get(exact(input)).cloned(),
            _ => None,
        };
        let input = self.narrow(graph, input);
        let mut has_bias = shifts.is_some();
        if let Some(observed) = observed {
            let input_scale = Quantization::of(&observed).scale;
            let shifts = shifts.map_or_else(|| vec![0.0; shape[0]], <[f32]>::to_vec);
            // A channel with tiny weights can still have a large bias, which must fit into 32 bits.
            let floor = |channel: usize| shifts[channel].abs() / input_scale / BIAS_MAX;
            let (scales, bytes) = by_channel(kernels, shape[0], floor);
            graph.constant(&format!("{weight}.int8"), shape, element::INT8, &bytes, i8::to_le_bytes);
            restored(graph, weight, "int8", &scales, element::INT8);
            let added = added_means(kernels, (&scales, &bytes), shape[1], &observed.means);
            let scales: Vec<f32> = scales.iter().map(|scale| scale * input_scale).collect();
            let whole = shifts.iter().zip(added).zip(&scales).map(|((&shift, added), &scale)| {
                ((f64::from(shift) - added) / f64::from(scale)).round() as i32
            });
            let whole: Vec<i32> = whole.collect();
            let stored = format!("{bias}.int32");
            graph.constant(&stored, &[whole.len()], element::INT32, &whole, i32::to_le_bytes);
            restored(graph, bias, "int32", &scales, element::INT32);
            has_bias = true;
        } else {
            self.weights(graph, weight, shape, kernels);
            if let Some(shifts) = shifts {
                graph.floats(bias, &[shifts.len()], shifts);
            }
        }
        let tensors: Vec<&str> = [&input, weight].into_iter().chain(has_bias.then_some(bias)).collect();
        graph.node("Conv", name, &tensors, attributes)
    }

    /// Quantises and dequantises an input or output of a convolution if the format is int8. Returns the name
    /// of the result, also if the tensor is already a result.
    pub(super) fn narrow(&mut self, graph: &mut Builder, tensor: &str) -> String {
        let tensor = exact(tensor);
        let quantization = match self {
            Self::Observe(tensors) => {
                if !tensors.iter().any(|known| known == tensor) {
                    tensors.push(tensor.to_owned());
                }
                None
            }
            Self::Int8(ranges) => ranges.get(tensor).map(Quantization::of),
            Self::Float32 | Self::Float16 => None,
        };
        let Some(quantization) = quantization else { return tensor.to_owned() };
        let [scale, zero, bytes, restored] =
            ["scale", "zero", "bytes", RESTORED].map(|part| format!("{tensor}.{part}"));
        if !graph.has(&restored) {
            graph.floats(&scale, &[], &[quantization.scale]);
            graph.constant(&zero, &[], element::UINT8, &[quantization.zero_point], u8::to_le_bytes);
            graph.node("QuantizeLinear", &bytes, &[tensor, &scale, &zero], vec![]);
            graph.node("DequantizeLinear", &restored, &[&bytes, &scale, &zero], vec![]);
        }
        restored
    }

    /// The tensors that [`Observe`](Self::Observe) has recorded.
    pub(super) fn observed(&self) -> &[String] {
        match self {
            Self::Observe(tensors) => tensors,
            _ => &[],
        }
    }
}

/// Dequantises the integers `name.suffix` to the float32 tensor `name`, with a scale per index of axis 0.
fn restored(graph: &mut Builder, name: &str, suffix: &str, scales: &[f32], data_type: i32) {
    let [stored, scale, zero] = [suffix, "scale", "zero"].map(|part| format!("{name}.{part}"));
    graph.floats(&scale, &[scales.len()], scales);
    let size = if data_type == element::INT8 { 1 } else { 4 };
    graph.constant(&zero, &[scales.len()], data_type, &vec![0; scales.len() * size], |byte: u8| [byte]);
    graph.node("DequantizeLinear", name, &[&stored, &scale, &zero], vec![Attribute::int("axis", 0)]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::quantize::Observed;

    #[test]
    fn what_rounded_weights_add_is_subtracted_from_the_bias() {
        let observed = Observed { least: 0.0, greatest: 25.5, means: vec![0.0, 10.0] };
        let mut numbers = Numbers::Int8([("x".to_owned(), observed)].into());
        let mut graph = Builder::default();
        let kernels = ("w", &[1, 2, 1, 1][..], &[1.0, 0.49][..]);
        numbers.convolution(&mut graph, "conv", "x", kernels, ("b", Some(&[0.5][..])), vec![]);
        let tensors = graph.finish("g").initializer;
        let bias = tensors.iter().find(|tensor| tensor.name == "b.int32").unwrap();
        // In steps of 0.1 / 63 the bias is 315, and 0.49 is 31 in place of 30.87, which adds 0.13 * 100.
        assert_eq!(bias.raw_data[..], 302_i32.to_le_bytes());
    }
}
