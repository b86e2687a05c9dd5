//! Builds an ONNX graph node by node. A node has one output of the same name; only a split has several.

use std::collections::HashSet;

use super::quantize::{Quantization, Ranges, added_means, by_channel};
use crate::model::proto::{Attribute, Graph, Node, Tensor, Value, element};

/// The largest quantised bias of an int8 convolution, which accumulates in 32 bits.
const BIAS_MAX: f32 = (1 << 30) as f32;

/// The last part of a dequantised tensor's name.
const RESTORED: &str = "restored";

/// The tensor before quantisation.
fn exact(tensor: &str) -> &str {
    tensor.strip_suffix(RESTORED).and_then(|tensor| tensor.strip_suffix('.')).unwrap_or(tensor)
}

/// The number format of a graph.
pub(super) enum Numbers {
    Float32,
    /// Weights are stored as float16; all computation is in float32.
    Float16,
    /// As float32, and records which tensors [`Int8`](Self::Int8) would quantise.
    Observe(Vec<String>),
    /// Convolutions have 8-bit inputs, weights and outputs, in QDQ form.
    Int8(Ranges),
}

/// A graph under construction.
pub(super) struct Builder {
    graph: Graph,
    numbers: Numbers,
}

impl Builder {
    pub(super) fn new(numbers: Numbers) -> Self {
        Self { graph: Graph::default(), numbers }
    }

    /// Adds a node and returns its name, which is also that of its output.
    pub(super) fn node(
        &mut self,
        op: &str,
        name: &str,
        inputs: &[&str],
        attribute: Vec<Attribute>,
    ) -> String {
        self.graph.node.push(Node {
            input: inputs.iter().map(|&input| input.to_owned()).collect(),
            output: vec![name.to_owned()],
            name: name.to_owned(),
            op_type: op.to_owned(),
            attribute,
        });
        name.to_owned()
    }

    /// Adds a node that finds the `count` smallest values of each row, in any order, and returns the name of
    /// their tensor.
    pub(super) fn smallest(&mut self, name: &str, input: &str, count: usize) -> String {
        let [wanted, places] = ["count", "places"].map(|part| format!("{name}/{part}"));
        self.ints(&wanted, &[count as i64]);
        let attributes =
            vec![Attribute::int("axis", 1), Attribute::int("largest", 0), Attribute::int("sorted", 1)];
        self.node("TopK", name, &[input, &wanted], attributes);
        self.graph.node.last_mut().expect("just added").output.push(places);
        name.to_owned()
    }

    /// Adds a node that splits its first input along axis 0 into parts of the lengths in the second.
    pub(super) fn split(&mut self, name: &str, inputs: &[&str; 2], outputs: &[String]) {
        self.node("Split", name, inputs, vec![Attribute::int("axis", 0)]);
        self.graph.node.last_mut().expect("just added").output = outputs.to_vec();
    }

    /// Adds a float32 initializer.
    pub(super) fn floats(&mut self, name: &str, shape: &[usize], values: &[f32]) {
        self.constant(name, shape, element::FLOAT, values, |value| value.to_le_bytes());
    }

    /// Adds an int64 vector as an initializer.
    pub(super) fn ints(&mut self, name: &str, values: &[i64]) {
        self.constant(name, &[values.len()], element::INT64, values, |value| value.to_le_bytes());
    }

    /// Adds an int64 scalar as an initializer.
    pub(super) fn scalar(&mut self, name: &str, value: i64) {
        self.constant(name, &[], element::INT64, &[value], |value| value.to_le_bytes());
    }

    /// Adds an initializer.
    pub(super) fn constant<T: Copy, const SIZE: usize>(
        &mut self,
        name: &str,
        shape: &[usize],
        data_type: i32,
        values: &[T],
        bytes: impl Fn(T) -> [u8; SIZE],
    ) {
        self.graph.initializer.push(Tensor {
            name: name.to_owned(),
            dims: shape.iter().map(|&length| length as i64).collect(),
            data_type,
            raw_data: values.iter().flat_map(|&value| bytes(value)).collect(),
            ..Tensor::default()
        });
    }

    /// Adds the weights of a layer as the float32 tensor `name`.
    pub(super) fn weights(&mut self, name: &str, shape: &[usize], values: &[f32]) {
        if matches!(self.numbers, Numbers::Float16) {
            self.halves(name, shape, values);
        } else {
            self.floats(name, shape, values);
        }
    }

    /// Adds the float32 tensor `name`, which is stored as float16.
    pub(super) fn halves(&mut self, name: &str, shape: &[usize], values: &[f32]) {
        let stored = format!("{name}.half");
        self.constant(&stored, shape, element::FLOAT16, values, |value| {
            half::f16::from_f32(value).to_le_bytes()
        });
        self.node("Cast", name, &[&stored], vec![Attribute::int("to", element::FLOAT.into())]);
    }

    /// Adds a convolution with kernels `[outputs, inputs of a group, k, k]`.
    pub(super) fn convolution(
        &mut self,
        name: &str,
        input: &str,
        (weight, shape, kernels): (&str, &[usize], &[f32]),
        (bias, shifts): (&str, Option<&[f32]>),
        attributes: Vec<Attribute>,
    ) -> String {
        let observed = match &self.numbers {
            Numbers::Int8(ranges) => ranges.get(exact(input)).cloned(),
            _ => None,
        };
        let input = self.narrow(input);
        let mut has_bias = shifts.is_some();
        if let Some(observed) = observed {
            let input_scale = Quantization::of(&observed).scale;
            let shifts = shifts.map_or_else(|| vec![0.0; shape[0]], <[f32]>::to_vec);
            // A channel with tiny weights can still have a large bias, which must fit into 32 bits.
            let floor = |channel: usize| shifts[channel].abs() / input_scale / BIAS_MAX;
            let (scales, bytes) = by_channel(kernels, shape[0], floor);
            self.constant(&format!("{weight}.int8"), shape, element::INT8, &bytes, i8::to_le_bytes);
            self.restored(weight, "int8", &scales, element::INT8);
            let added = added_means(kernels, (&scales, &bytes), shape[1], &observed.means);
            let scales: Vec<f32> = scales.iter().map(|scale| scale * input_scale).collect();
            let whole = shifts.iter().zip(added).zip(&scales).map(|((&shift, added), &scale)| {
                ((f64::from(shift) - added) / f64::from(scale)).round() as i32
            });
            let whole: Vec<i32> = whole.collect();
            let stored = format!("{bias}.int32");
            self.constant(&stored, &[whole.len()], element::INT32, &whole, i32::to_le_bytes);
            self.restored(bias, "int32", &scales, element::INT32);
            has_bias = true;
        } else {
            self.weights(weight, shape, kernels);
            if let Some(shifts) = shifts {
                self.floats(bias, &[shifts.len()], shifts);
            }
        }
        let tensors: Vec<&str> = [&input, weight].into_iter().chain(has_bias.then_some(bias)).collect();
        self.node("Conv", name, &tensors, attributes)
    }

    /// Dequantises the integers `name.suffix` to the float32 tensor `name`, with a scale per index of axis 0.
    fn restored(&mut self, name: &str, suffix: &str, scales: &[f32], data_type: i32) {
        let [stored, scale, zero] = [suffix, "scale", "zero"].map(|part| format!("{name}.{part}"));
        self.floats(&scale, &[scales.len()], scales);
        let size = if data_type == element::INT8 { 1 } else { 4 };
        self.constant(&zero, &[scales.len()], data_type, &vec![0; scales.len() * size], |byte: u8| [byte]);
        self.node("DequantizeLinear", name, &[&stored, &scale, &zero], vec![Attribute::int("axis", 0)]);
    }

    /// Quantises and dequantises an input or output of a convolution if the format is int8. Returns the name
    /// of the result, which is the same for a tensor and for its result.
    pub(super) fn narrow(&mut self, tensor: &str) -> String {
        let tensor = exact(tensor);
        let quantization = match &mut self.numbers {
            Numbers::Observe(tensors) => {
                if !tensors.iter().any(|known| known == tensor) {
                    tensors.push(tensor.to_owned());
                }
                None
            }
            Numbers::Int8(ranges) => ranges.get(tensor).map(Quantization::of),
            Numbers::Float32 | Numbers::Float16 => None,
        };
        let Some(quantization) = quantization else { return tensor.to_owned() };
        let [scale, zero, bytes, restored] =
            ["scale", "zero", "bytes", RESTORED].map(|part| format!("{tensor}.{part}"));
        if self.graph.node.iter().all(|node| node.name != restored) {
            self.floats(&scale, &[], &[quantization.scale]);
            self.constant(&zero, &[], element::UINT8, &[quantization.zero_point], u8::to_le_bytes);
            self.node("QuantizeLinear", &bytes, &[tensor, &scale, &zero], vec![]);
            self.node("DequantizeLinear", &restored, &[&bytes, &scale, &zero], vec![]);
        }
        restored
    }

    /// The tensors that [`Numbers::Observe`] has recorded.
    pub(super) fn observed(&self) -> &[String] {
        match &self.numbers {
            Numbers::Observe(tensors) => tensors,
            _ => &[],
        }
    }

    /// Declares an input; `None` is a dynamic axis.
    pub(super) fn input(&mut self, name: &str, element: i32, shape: &[Option<usize>]) {
        self.graph.input.push(Value::new(name, element, shape));
    }

    /// Declares an output.
    pub(super) fn output(&mut self, name: &str, element: i32, shape: &[Option<usize>]) {
        self.graph.output.push(Value::new(name, element, shape));
    }

    /// The graph.
    ///
    /// # Panics
    /// If two tensors have the same name.
    pub(super) fn finish(self, name: &str) -> Graph {
        let computed = self.graph.node.iter().flat_map(|node| &node.output);
        let mut names = HashSet::new();
        for name in self.graph.initializer.iter().map(|tensor| &tensor.name).chain(computed) {
            assert!(names.insert(name), "two tensors have the name `{name}`");
        }
        Graph { name: name.to_owned(), ..self.graph }
    }
}
