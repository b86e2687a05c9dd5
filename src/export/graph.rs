//! The graph: preprocessing, the layers of [`arch`](crate::arch), and the CAC head, as ONNX nodes that carry
//! the names of the layers.

use ndarray::Array2;
use tract_onnx::pb::GraphProto;

use super::{
    InputForm, Options,
    builder::{self, Attribute, Builder},
};
use crate::{
    arch::{BATCH_NORM_EPSILON, Layer, Op},
    cac::Score,
    error::Result,
    manifest::Manifest,
    weights::Weights,
};

/// The whole graph of a model.
pub(super) fn graph(
    manifest: &Manifest,
    options: &Options,
    weights: &Weights,
    anchors: &Array2<f32>,
) -> Result<GraphProto> {
    let mut graph = Builder::default();
    let layers = manifest.architecture.layers(manifest.classes.len())?;
    input(&mut graph, manifest, options);
    network(&mut graph, &layers, weights)?;
    head(&mut graph, manifest, anchors, options.batch);
    Ok(graph.finish("cac"))
}

/// The input in its form, and the normalised pictures as `normalized`.
fn input(graph: &mut Builder, manifest: &Manifest, options: &Options) {
    let input = &manifest.input;
    let (height, width) = (Some(input.height), Some(input.width));
    let images = match options.input {
        InputForm::Float => {
            graph.input_floats("images", &[options.batch, Some(3), height, width]);
            "images"
        }
        InputForm::Bytes => {
            graph.input_bytes("images", &[options.batch, height, width, Some(3)]);
            graph.node("Cast", "images.float", &["images"], vec![Attribute::int("to", builder::FLOAT)]);
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
    // The tensor that holds each layer's output.
    let mut outputs: Vec<String> = Vec::with_capacity(layers.len());
    let mut folded_into: Option<usize> = None;
    for (index, layer) in layers.iter().enumerate() {
        let last = index + 1 == layers.len();
        let output = if last { "logits" } else { &layer.name };
        let inputs: Vec<String> = layer.inputs.iter().map(|&input| outputs[input].clone()).collect();
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let parameters = layer
            .parameters()
            .into_iter()
            .map(|(name, shape)| {
                let values = weights.values(&name, &shape)?;
                Ok((name, shape, values))
            })
            .collect::<Result<Vec<_>>>()?;
        let add_parameters = |graph: &mut Builder| -> Vec<String> {
            for (name, shape, values) in &parameters {
                graph.floats(name, shape, values);
            }
            parameters.iter().map(|(name, ..)| name.clone()).collect()
        };
        let holder = match layer.op {
            Op::Input => "normalized".to_owned(),
            Op::Dropout(_) => inputs[0].to_owned(),
            Op::Conv { outputs: channels, kernel, stride, padding, .. } => {
                let norm = layers.get(index + 1).filter(|next| {
                    matches!(next.op, Op::BatchNorm { .. }) && next.inputs == [index] && readers[index] == 1
                });
                let [(name, shape, values)] = &parameters[..] else { unreachable!("a kernel") };
                let bias = format!("{}.bias", layer.name);
                let mut tensors = vec![inputs[0], name];
                if let Some(norm) = norm {
                    let (scale, shift) = affine(norm, channels, weights)?;
                    let kernel_len = values.len() / channels;
                    let scaled: Vec<f32> = values
                        .chunks_exact(kernel_len)
                        .zip(&scale)
                        .flat_map(|(kernel, &scale)| {
                            kernel.iter().map(move |&w| (f64::from(w) * scale) as f32)
                        })
                        .collect();
                    graph.floats(name, shape, &scaled);
                    graph.floats(&bias, &[channels], &shift.iter().map(|&b| b as f32).collect::<Vec<_>>());
                    tensors.push(&bias);
                    folded_into = Some(index);
                } else {
                    graph.floats(name, shape, values);
                }
                let [kernel, stride, padding] = [kernel, stride, padding].map(|size| size as i64);
                let attributes = vec![
                    Attribute::ints("kernel_shape", &[kernel; 2]),
                    Attribute::ints("strides", &[stride; 2]),
                    Attribute::ints("pads", &[padding; 4]),
                ];
                graph.node("Conv", output, &tensors, attributes)
            }
            Op::BatchNorm { .. } if folded_into == Some(layer.inputs[0]) => inputs[0].to_owned(),
            Op::BatchNorm { .. } => {
                let names = add_parameters(graph);
                let tensors: Vec<&str> =
                    [inputs[0]].into_iter().chain(names.iter().map(String::as_str)).collect();
                let epsilon = Attribute::float("epsilon", BATCH_NORM_EPSILON as f32);
                graph.node("BatchNormalization", output, &tensors, vec![epsilon])
            }
            Op::Relu => graph.node("Relu", output, &inputs, vec![]),
            Op::Add => graph.node("Add", output, &inputs, vec![]),
            Op::Pool => {
                graph.node("GlobalAveragePool", "pool.mean", &inputs, vec![]);
                graph.node("Flatten", output, &["pool.mean"], vec![Attribute::int("axis", 1)])
            }
            Op::Linear { .. } => {
                let names = add_parameters(graph);
                let tensors = [inputs[0], &names[0], &names[1]];
                graph.node("Gemm", output, &tensors, vec![Attribute::int("transB", 1)])
            }
        };
        outputs.push(holder);
    }
    Ok(())
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
    }
    graph.node("ArgMin", "label", &["distances"], vec![axis(), Attribute::int("keepdims", 0)]);
    // A score that is no number must come out as unknown, so the comparison is the negated one.
    let threshold = manifest.threshold.as_ref().map_or(f32::INFINITY, |threshold| threshold.value);
    graph.floats("threshold", &[], &[threshold]);
    graph.node("LessOrEqual", "known", &["score", "threshold"], vec![]);
    graph.node("Not", "unknown", &["known"], vec![]);
    graph.output("logits", builder::FLOAT, &[batch, Some(classes)]);
    graph.output("distances", builder::FLOAT, &[batch, Some(classes)]);
    graph.output("score", builder::FLOAT, &[batch]);
    graph.output("label", builder::INT64, &[batch]);
    graph.output("unknown", builder::BOOL, &[batch]);
}
