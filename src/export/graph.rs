//! The ONNX graph: preprocessing, the layers of [`arch`](crate::arch) under their own names, and the
//! [head](Head) that decides.

use super::{ExportOptions, InputForm, head::Head, numbers::Numbers};
use crate::{
    arch::{self, Conv, Layer, Op},
    error::Result,
    image::Input,
    model::{
        builder::Builder,
        file::{FEATURES, LOGIT_MAP, NORMALIZED, RESIZED, VIEWS},
        proto::{Attribute, Graph, element},
        resize::resize,
    },
    run::Checkpoint,
    weights::{self, Weights},
};

/// The whole graph of a model.
pub(super) fn graph(
    checkpoint: &Checkpoint,
    head: &Head,
    options: &ExportOptions,
    mut numbers: Numbers,
) -> Result<Graph> {
    let mut graph = Builder::default();
    let facts = &checkpoint.facts;
    input(&mut graph, &facts.input, options, facts.averages_views);
    let layers = facts.layers()?;
    let before_pooling =
        network(&mut graph, &mut numbers, &layers, &checkpoint.network, facts.averages_views)?;
    head.add_to(&mut graph, options);
    if let (true, Some(map), Some(last)) = (options.logit_map, before_pooling, layers.last()) {
        logit_map(&mut graph, &map, &last.name, options.batch, head.anchors.classes());
    }
    Ok(graph.finish("cac"))
}

/// Adds the last layer at each place of the features before they are averaged, in float32.
fn logit_map(graph: &mut Builder, features: &str, layer: &str, batch: Option<usize>, classes: usize) {
    graph.ints("cac/map/axes", &[2, 3]);
    let weight =
        graph.node("Unsqueeze", "cac/map/weight", &[&format!("{layer}.weight"), "cac/map/axes"], vec![]);
    let window = vec![Attribute::ints("kernel_shape", &[1, 1])];
    graph.node("Conv", LOGIT_MAP, &[features, &weight, &format!("{layer}.bias")], window);
    graph.output(LOGIT_MAP, element::FLOAT, &[batch, Some(classes), None, None]);
}

/// A graph that maps one image to the minima, then the maxima, then the channel means of the tensors that
/// int8 would quantise, over its views; and the names of these tensors.
pub(super) fn observer(checkpoint: &Checkpoint) -> Result<(Graph, Vec<String>)> {
    let mut graph = Builder::default();
    let mut numbers = Numbers::Observe(Vec::new());
    let options = ExportOptions { batch: Some(1), ..ExportOptions::default() };
    let facts = &checkpoint.facts;
    input(&mut graph, &facts.input, &options, facts.averages_views);
    network(&mut graph, &mut numbers, &facts.layers()?, &checkpoint.network, facts.averages_views)?;
    let tensors = numbers.observed().to_vec();
    for (op, axes) in
        [("ReduceMin", [0, 1, 2, 3].as_slice()), ("ReduceMax", &[0, 1, 2, 3]), ("ReduceMean", &[0, 2, 3])]
    {
        for tensor in &tensors {
            let attributes = vec![Attribute::ints("axes", axes), Attribute::int("keepdims", 0)];
            let name = graph.node(op, &format!("{tensor}.{op}"), &[tensor], attributes);
            graph.output(&name, element::FLOAT, if axes.len() == 4 { &[] } else { &[None] });
        }
    }
    Ok((graph.finish("observer"), tensors))
}

/// Adds the input and its normalisation. With both views the mirror images follow the images.
fn input(graph: &mut Builder, input: &Input, options: &ExportOptions, has_both_views: bool) {
    let (height, width) = (Some(input.height), Some(input.width));
    let to_unit = |graph: &mut Builder, bytes: &str| {
        graph.floats("cac/input/range", &[], &[255.0]);
        graph.node("Div", "cac/input/unit", &[bytes, "cac/input/range"], vec![])
    };
    let images = match options.input {
        InputForm::Floats => {
            graph.input("images", element::FLOAT, &[options.batch, Some(3), height, width]);
            "images".to_owned()
        }
        InputForm::Bytes => {
            graph.input("images", element::UINT8, &[options.batch, height, width, Some(3)]);
            let to_float = vec![Attribute::int("to", element::FLOAT.into())];
            graph.node("Cast", "cac/input/float", &["images"], to_float);
            let order = vec![Attribute::ints("perm", &[0, 3, 1, 2])];
            graph.node("Transpose", "cac/input/planes", &["cac/input/float"], order);
            to_unit(graph, "cac/input/planes")
        }
        InputForm::AnySize => {
            graph.input("images", element::UINT8, &[options.batch, None, None, Some(3)]);
            resize(graph, input);
            to_unit(graph, RESIZED)
        }
    };
    graph.floats("cac/input/mean", &[1, 3, 1, 1], &input.mean);
    graph.floats("cac/input/std", &[1, 3, 1, 1], &input.std);
    graph.node("Sub", "cac/input/centered", &[&images, "cac/input/mean"], vec![]);
    let name = if has_both_views { "cac/input/plain" } else { NORMALIZED };
    graph.node("Div", name, &["cac/input/centered", "cac/input/std"], vec![]);
    if has_both_views {
        let columns: Vec<i64> = (0..input.width as i64).rev().collect();
        graph.ints("cac/input/columns", &columns);
        let along = vec![Attribute::int("axis", 3)];
        let mirrored = graph.node("Gather", "cac/input/mirrored", &[name, "cac/input/columns"], along);
        graph.node("Concat", NORMALIZED, &[name, &mirrored], vec![Attribute::int("axis", 0)]);
    }
}

/// Adds `features`, averaged over images and their mirror images.
fn mean_of_views(graph: &mut Builder, features: &str, width: usize) -> String {
    graph.ints("cac/views/shape", &[2, -1, width as i64]);
    let views = graph.node("Reshape", "cac/views", &[features, "cac/views/shape"], vec![]);
    let mean = vec![Attribute::ints("axes", &[0]), Attribute::int("keepdims", 0)];
    graph.node("ReduceMean", FEATURES, &[&views], mean)
}

/// Adds the layers from the normalised images to `features` and `logits`, with batch normalisation folded
/// into convolutions. With both views, the features are averaged over images and their mirror images. Returns
/// the tensor whose average over the image is the features, if there is one.
fn network(
    graph: &mut Builder,
    numbers: &mut Numbers,
    layers: &[Layer],
    weights: &Weights,
    has_both_views: bool,
) -> Result<Option<String>> {
    let (layers, weights) = &weights::folded(layers, weights)?;
    let mut writer = LayerWriter { graph, numbers, weights };
    let readers = arch::readers(layers);
    let features = arch::features(layers);
    // Convolutions whose output only a ReLU reads.
    let mut rectified = Vec::new();
    // The tensor that holds each layer's output.
    let mut outputs: Vec<String> = Vec::with_capacity(layers.len());
    for (index, layer) in layers.iter().enumerate() {
        let name = match index {
            _ if index + 1 == layers.len() => "logits",
            _ if index == features && has_both_views => VIEWS,
            _ if index == features => FEATURES,
            _ => &layer.name,
        };
        let inputs: Vec<&str> = layer.inputs.iter().map(|&input| outputs[input].as_str()).collect();
        let output = match layer.op {
            Op::Input => NORMALIZED.to_owned(),
            Op::Dropout(_) | Op::DropoutChannels(_) => inputs[0].to_owned(),
            Op::Conv(conv) => {
                let output = writer.convolution(name, &conv, inputs[0])?;
                // If only a ReLU follows, the output of the ReLU is quantised instead.
                let is_rectified = |next: &Layer| next.inputs == [index] && is_rectifier(&next.op);
                if layers.iter().any(is_rectified) && readers[index] == 1 {
                    rectified.push(index);
                    output
                } else {
                    writer.narrow(&output)
                }
            }
            Op::BatchNorm { epsilon, .. } => {
                let epsilon = Attribute::float("epsilon", epsilon as f32);
                writer.with_parameters("BatchNormalization", name, layer, inputs[0], epsilon)?
            }
            Op::Linear { .. } => {
                let transposed = Attribute::int("transB", 1);
                writer.with_parameters("Gemm", name, layer, inputs[0], transposed)?
            }
            Op::Relu | Op::Relu6 => {
                let output = rectifier(writer.graph, name, &layer.op, inputs[0]);
                if rectified.contains(&layer.inputs[0]) { writer.narrow(&output) } else { output }
            }
            Op::LeakyRelu(slope) => {
                writer.graph.node("LeakyRelu", name, &inputs, vec![Attribute::float("alpha", slope as f32)])
            }
            Op::Add => writer.graph.node("Add", name, &inputs, vec![]),
            Op::Flatten => writer.graph.node("Flatten", name, &inputs, vec![Attribute::int("axis", 1)]),
            Op::MaxPool { kernel, stride, padding } => {
                let attributes = vec![
                    Attribute::ints("kernel_shape", &[kernel as i64; 2]),
                    Attribute::ints("strides", &[stride as i64; 2]),
                    Attribute::ints("pads", &[padding as i64; 4]),
                ];
                writer.graph.node("MaxPool", name, &inputs, attributes)
            }
            Op::GlobalAveragePool => {
                let mean = writer.graph.node("GlobalAveragePool", &format!("{name}.mean"), &inputs, vec![]);
                writer.graph.node("Flatten", name, &[&mean], vec![Attribute::int("axis", 1)])
            }
        };
        let is_averaged = index == features && has_both_views;
        let output = if is_averaged {
            mean_of_views(writer.graph, &output, arch::feature_count(layers))
        } else {
            output
        };
        outputs.push(output);
    }
    Ok(arch::averages(layers).then(|| outputs.swap_remove(layers[features].inputs[0])))
}

/// Whether quantisation to bytes, the least of which is 0, does what the operation does.
fn is_rectifier(op: &Op) -> bool {
    matches!(op, Op::Relu | Op::Relu6)
}

/// Adds a ReLU or a ReLU6.
fn rectifier(graph: &mut Builder, name: &str, op: &Op, input: &str) -> String {
    if *op == Op::Relu {
        return graph.node("Relu", name, &[input], vec![]);
    }
    let bounds = [("min", 0.0), ("max", 6.0)].map(|(bound, value)| {
        let bound = format!("{name}.{bound}");
        graph.floats(&bound, &[], &[value]);
        bound
    });
    graph.node("Clip", name, &[input, &bounds[0], &bounds[1]], vec![])
}

/// What writes layers with weights.
struct LayerWriter<'a> {
    graph: &'a mut Builder,
    numbers: &'a mut Numbers,
    weights: &'a Weights,
}

impl LayerWriter<'_> {
    /// [`Numbers::narrow`].
    fn narrow(&mut self, tensor: &str) -> String {
        self.numbers.narrow(self.graph, tensor)
    }

    /// Adds a node that reads `input` and the layer's parameters, in order.
    fn with_parameters(
        &mut self,
        op: &str,
        name: &str,
        layer: &Layer,
        input: &str,
        attribute: Attribute,
    ) -> Result<String> {
        let parameters = layer.parameters();
        for (name, shape) in &parameters {
            let values = self.weights.values(name, shape)?;
            if shape.len() > 1 {
                self.numbers.weights(self.graph, name, shape, values)
            } else {
                self.graph.floats(name, shape, values)
            }
        }
        let parameters = parameters.iter().map(|(name, _)| name.as_str());
        let tensors: Vec<&str> = [input].into_iter().chain(parameters).collect();
        Ok(self.graph.node(op, name, &tensors, vec![attribute]))
    }

    /// Adds a convolution. `name` names its output and prefixes its weights.
    fn convolution(&mut self, name: &str, conv: &Conv, input: &str) -> Result<String> {
        let (weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
        let shape = conv.shape();
        let kernels = (&*weight, &shape[..], self.weights.values(&weight, &shape)?);
        let shifts = if conv.bias { Some(self.weights.values(&bias, &[conv.outputs])?) } else { None };
        let mut attributes = vec![
            Attribute::ints("kernel_shape", &[conv.kernel as i64; 2]),
            Attribute::ints("strides", &[conv.stride as i64; 2]),
            Attribute::ints("pads", &conv.padding.map(|size| size as i64)),
        ];
        if conv.groups > 1 {
            attributes.push(Attribute::int("group", conv.groups as i64));
        }
        Ok(self.numbers.convolution(self.graph, name, input, kernels, (&bias, shifts), attributes))
    }
}
