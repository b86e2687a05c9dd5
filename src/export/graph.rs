//! The graph: preprocessing, the layers of [`arch`](crate::arch), and the CAC head, as ONNX nodes that carry
//! the names of the layers.

use ndarray::Array2;

use super::{
    InputForm, Options,
    builder::{Builder, Numbers},
};
use crate::{
    arch::{BATCH_NORM_EPSILON, Layer, Op},
    cac::Score,
    error::Result,
    manifest::Manifest,
    onnx::{Attribute, Graph, element},
    weights::Weights,
};

/// The whole graph of a model.
pub(super) fn graph(
    manifest: &Manifest,
    options: &Options,
    weights: &Weights,
    anchors: &Array2<f32>,
    numbers: Numbers,
) -> Result<Graph> {
    let mut graph = Builder::new(numbers);
    let layers = manifest.architecture.layers(manifest.classes.len())?;
    input(&mut graph, manifest, options);
    network(&mut graph, &layers, weights)?;
    head(&mut graph, manifest, anchors, options.batch);
    Ok(graph.finish("cac"))
}

/// A graph that takes one picture, and gives the least value of each tensor that would become bytes, then the
/// greatest; and the names of these tensors.
pub(super) fn observer(manifest: &Manifest, weights: &Weights) -> Result<(Graph, Vec<String>)> {
    let mut graph = Builder::new(Numbers::Observe(Vec::new()));
    let options = Options { batch: Some(1), ..Options::default() };
    input(&mut graph, manifest, &options);
    network(&mut graph, &manifest.architecture.layers(manifest.classes.len())?, weights)?;
    let tensors = graph.observed().to_vec();
    for op in ["ReduceMin", "ReduceMax"] {
        for tensor in &tensors {
            let name =
                graph.node(op, &format!("{tensor}.{op}"), &[tensor], vec![Attribute::int("keepdims", 0)]);
            graph.output(&name, element::FLOAT, &[]);
        }
    }
    Ok((graph.finish("observer"), tensors))
}

/// The input in its form, and the normalised pictures as `normalized`.
fn input(graph: &mut Builder, manifest: &Manifest, options: &Options) {
    let input = &manifest.input;
    let (height, width) = (Some(input.height), Some(input.width));
    let images = match options.input {
        InputForm::Float => {
            graph.input("images", element::FLOAT, &[options.batch, Some(3), height, width]);
            "images"
        }
        InputForm::Bytes => {
            graph.input("images", element::UINT8, &[options.batch, height, width, Some(3)]);
            graph.node(
                "Cast",
                "images.float",
                &["images"],
                vec![Attribute::int("to", element::FLOAT.into())],
            );
            graph.node(
                "Transpose",
                "images.planes",
                &["images.float"],
                vec![Attribute::ints("perm", &[0, 3, 1, 2])],
            );
            graph.floats("images.range", &[], &[255.0]);
            graph.node("Div", "images.unit", &["images.planes", "images.range"], vec![]);
            "images.unit"
        }
    };
    graph.floats("mean", &[1, 3, 1, 1], &input.mean);
    graph.floats("std", &[1, 3, 1, 1], &input.std);
    graph.node("Sub", "centered", &[images, "mean"], vec![]);
    graph.node("Div", "normalized", &["centered", "std"], vec![]);
}

/// The layers from `normalized` to `logits`. A batch normalisation that is the only reader of a convolution
/// is folded into it.
fn network(graph: &mut Builder, layers: &[Layer], weights: &Weights) -> Result<()> {
    let mut readers = vec![0; layers.len()];
    for &input in layers.iter().flat_map(|layer| &layer.inputs) {
        readers[input] += 1;
    }
    let folded_norm = |index: usize| {
        layers.get(index + 1).filter(|next| {
            let is_norm = matches!(next.op, Op::BatchNorm { .. }) && next.inputs == [index];
            is_norm && readers[index] == 1 && matches!(layers[index].op, Op::Conv { .. })
        })
    };
    // The tensor that holds each layer's output.
    let mut outputs: Vec<String> = Vec::with_capacity(layers.len());
    for (index, layer) in layers.iter().enumerate() {
        let name = if index + 1 == layers.len() { "logits" } else { &layer.name };
        let inputs: Vec<&str> = layer.inputs.iter().map(|&input| outputs[input].as_str()).collect();
        let output = match layer.op {
            Op::Input => "normalized".to_owned(),
            Op::Dropout(_) | Op::DropoutChannels(_) => inputs[0].to_owned(),
            Op::BatchNorm { .. } if folded_norm(layer.inputs[0]).is_some() => inputs[0].to_owned(),
            Op::Conv { .. } => {
                let norm = folded_norm(index);
                let output = convolution(graph, name, layer, norm, inputs[0], weights)?;
                // A rectifier that follows makes no difference to what bytes can hold: its output becomes bytes.
                let last = index + usize::from(norm.is_some());
                let is_rectified =
                    layers.iter().any(|next| next.inputs == [last] && matches!(next.op, Op::Relu));
                if is_rectified && readers[last] == 1 { output } else { graph.narrow(&output) }
            }
            Op::BatchNorm { .. } => {
                let epsilon = Attribute::float("epsilon", BATCH_NORM_EPSILON as f32);
                with_parameters(graph, "BatchNormalization", name, layer, inputs[0], weights, epsilon)?
            }
            Op::Linear { .. } => {
                let transposed = Attribute::int("transB", 1);
                with_parameters(graph, "Gemm", name, layer, inputs[0], weights, transposed)?
            }
            Op::Relu => graph.node("Relu", name, &inputs, vec![]),
            Op::LeakyRelu(slope) => {
                graph.node("LeakyRelu", name, &inputs, vec![Attribute::float("alpha", slope as f32)])
            }
            Op::Add => graph.node("Add", name, &inputs, vec![]),
            Op::Flatten => graph.node("Flatten", name, &inputs, vec![Attribute::int("axis", 1)]),
            Op::Pool => {
                let mean = graph.node("GlobalAveragePool", &format!("{name}.mean"), &inputs, vec![]);
                graph.node("Flatten", name, &[&mean], vec![Attribute::int("axis", 1)])
            }
        };
        outputs.push(output);
    }
    Ok(())
}

/// A node with the layer's parameters as its further inputs, in their order.
fn with_parameters(
    graph: &mut Builder,
    op: &str,
    name: &str,
    layer: &Layer,
    input: &str,
    weights: &Weights,
    attribute: Attribute,
) -> Result<String> {
    let parameters = layer.parameters();
    for (name, shape) in &parameters {
        let values = weights.values(name, shape)?;
        if shape.len() > 1 { graph.weights(name, shape, values) } else { graph.floats(name, shape, values) }
    }
    let parameters = parameters.iter().map(|(name, _)| name.as_str());
    let tensors: Vec<&str> = [input].into_iter().chain(parameters).collect();
    Ok(graph.node(op, name, &tensors, vec![attribute]))
}

/// A convolution, scaled and shifted as the batch normalisation after it would do.
fn convolution(
    graph: &mut Builder,
    name: &str,
    layer: &Layer,
    norm: Option<&Layer>,
    input: &str,
    weights: &Weights,
) -> Result<String> {
    let Op::Conv { inputs, outputs, kernel, stride, padding } = layer.op else {
        unreachable!("called for convolutions")
    };
    let (weight, bias) = (format!("{}.weight", layer.name), format!("{}.bias", layer.name));
    let shape = [outputs, inputs, kernel, kernel];
    let mut kernels = weights.values(&weight, &shape)?.to_vec();
    let mut shift = None;
    if let Some(norm) = norm {
        let (scales, shifts) = affine(norm, outputs, weights)?;
        for (kernel, scale) in kernels.chunks_exact_mut(inputs * kernel * kernel).zip(scales) {
            kernel.iter_mut().for_each(|weight| *weight = (f64::from(*weight) * scale) as f32);
        }
        shift = Some(shifts.into_iter().map(|shift| shift as f32).collect::<Vec<_>>());
    }
    let shift = shift.as_deref().map(|shift| (bias.as_str(), shift));
    let [kernel, stride, padding] = [kernel, stride, padding].map(|size| size as i64);
    let attributes = vec![
        Attribute::ints("kernel_shape", &[kernel; 2]),
        Attribute::ints("strides", &[stride; 2]),
        Attribute::ints("pads", &[padding; 4]),
    ];
    Ok(graph.convolution(name, input, (&weight, &shape, &kernels), shift, attributes))
}

/// A batch normalisation in evaluation as x * scale + shift, in double precision.
fn affine(norm: &Layer, channels: usize, weights: &Weights) -> Result<(Vec<f64>, Vec<f64>)> {
    let values = |suffix: &str| weights.values(&format!("{}.{suffix}", norm.name), &[channels]);
    let (weight, bias) = (values("weight")?, values("bias")?);
    let (mean, variance) = (values("running_mean")?, values("running_var")?);
    Ok((0..channels)
        .map(|c| {
            let scale = f64::from(weight[c]) / (f64::from(variance[c]) + BATCH_NORM_EPSILON).sqrt();
            (scale, f64::from(bias[c]) - f64::from(mean[c]) * scale)
        })
        .unzip())
}

/// Distances, score, label and verdict from `logits`.
fn head(graph: &mut Builder, manifest: &Manifest, anchors: &Array2<f32>, batch: Option<usize>) {
    let classes = anchors.nrows();
    let anchors: Vec<f32> = anchors.iter().copied().collect();
    let axis = || Attribute::int("axis", 1);
    let reduced = || vec![Attribute::ints("axes", &[1]), Attribute::int("keepdims", 0)];
    graph.floats("anchors", &[classes, classes], &anchors);
    graph.ints("distances.row", &[1]);
    graph.ints("distances.sum", &[2]);
    graph.node("Unsqueeze", "logits.row", &["logits", "distances.row"], vec![]);
    graph.node("Sub", "offsets", &["logits.row", "anchors"], vec![]);
    graph.node("Mul", "offsets.squared", &["offsets", "offsets"], vec![]);
    graph.node(
        "ReduceSum",
        "distances.squared",
        &["offsets.squared", "distances.sum"],
        vec![Attribute::int("keepdims", 0)],
    );
    graph.node("Sqrt", "distances", &["distances.squared"], vec![]);
    let products = |graph: &mut Builder, distances: &str| {
        graph.floats("one", &[], &[1.0]);
        graph.node("Neg", "closeness", &[distances], vec![]);
        graph.node("Softmax", "softmin", &["closeness"], vec![axis()]);
        graph.node("Sub", "softmin.others", &["one", "softmin"], vec![]);
        graph.node("Mul", "rejection", &[distances, "softmin.others"], vec![]);
    };
    match manifest.score {
        Score::Cac => {
            products(graph, "distances");
            graph.node("ReduceMin", "score", &["rejection"], reduced());
        }
        Score::MinDistance => {
            graph.node("ReduceMin", "score", &["distances"], reduced());
        }
        Score::PytorchOod => {
            products(graph, "distances.squared");
            graph.node("ReduceMax", "rejection.greatest", &["rejection"], reduced());
            graph.node("Neg", "score", &["rejection.greatest"], vec![]);
        }
        Score::Msp => {
            graph.node("Softmax", "softmax", &["logits"], vec![axis()]);
            graph.node("ReduceMax", "softmax.greatest", &["softmax"], reduced());
            graph.node("Neg", "score", &["softmax.greatest"], vec![]);
        }
        Score::MaxLogit => {
            graph.node("ReduceMax", "logits.greatest", &["logits"], reduced());
            graph.node("Neg", "score", &["logits.greatest"], vec![]);
        }
        Score::Energy { temperature } => {
            graph.floats("temperature", &[], &[temperature]);
            graph.node("Div", "logits.cooled", &["logits", "temperature"], vec![]);
            // The greatest log-softmax is the greatest logit less the log of the sum of exponentials.
            graph.node("LogSoftmax", "softmax.log", &["logits.cooled"], vec![axis()]);
            graph.node("ReduceMax", "softmax.log.greatest", &["softmax.log"], reduced());
            graph.node("ReduceMax", "logits.greatest", &["logits.cooled"], reduced());
            graph.node("Sub", "energy", &["softmax.log.greatest", "logits.greatest"], vec![]);
            graph.node("Mul", "score", &["energy", "temperature"], vec![]);
        }
    }
    graph.node("ArgMin", "label", &["distances"], vec![axis(), Attribute::int("keepdims", 0)]);
    // A score that is no number must come out as unknown, so the comparison is the negated one.
    let threshold = manifest.threshold.as_ref().map_or(f32::INFINITY, |threshold| threshold.value);
    graph.floats("threshold", &[], &[threshold]);
    graph.node("LessOrEqual", "known", &["score", "threshold"], vec![]);
    graph.node("Not", "unknown", &["known"], vec![]);
    graph.output("logits", element::FLOAT, &[batch, Some(classes)]);
    graph.output("distances", element::FLOAT, &[batch, Some(classes)]);
    graph.output("score", element::FLOAT, &[batch]);
    graph.output("label", element::INT64, &[batch]);
    graph.output("unknown", element::BOOL, &[batch]);
}
