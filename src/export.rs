//! From a training run to one self-contained ONNX file: network, anchors, score, threshold and manifest.
//!
//! The graph uses opset 17 of `ai.onnx` alone, in float32, without functions or control flow, so that every
//! common runtime takes it. Nodes and tensors carry the names of the layers.

mod graph;

use std::path::{Path, PathBuf};

use ndarray::{Array2, Array4, ArrayView2};
use prost::Message;
use tract_onnx::pb::{ModelProto, OperatorSetIdProto, StringStringEntryProto};

use crate::{
    arch::{BATCH_NORM_EPSILON, Layer, Op},
    atomic,
    cac::{self, Score},
    error::{Error, Result},
    manifest::{Manifest, Threshold},
    scorer::{Provider, Scorer},
    weights::{ANCHORS, CHECK_IMAGES, CHECK_LOGITS, HELD_OUT_LOGITS, Weights},
};
use graph::{Attribute, Graph};

const OPSET: i64 = 17;
const IR_VERSION: i64 = 8;

/// The greatest relative difference of a logit that the self-check lets pass; below 1 it is absolute.
const TOLERANCE: f64 = 1e-4;

/// A trained network with its manifest, as training leaves them.
#[derive(Debug)]
pub struct Checkpoint {
    /// What is known about the network.
    pub manifest: Manifest,
    /// Its tensors, the anchors, the held-out logits and the check batch.
    pub weights: Weights,
}

/// What a file can be made of the same network.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// The rejection score; the variant's own by default.
    pub score: Option<Score>,
    /// The rule for the threshold.
    pub threshold: ThresholdRule,
    /// The form of the input.
    pub input: InputForm,
    /// A fixed number of pictures for engines that want static shapes; any number by default.
    pub batch: Option<usize>,
}

impl Default for Options {
    fn default() -> Self {
        Self { score: None, threshold: ThresholdRule::Keep(0.95), input: InputForm::Float, batch: None }
    }
}

/// How the threshold is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ThresholdRule {
    /// The lowest that keeps this share, 0 to 1, of the held-out known pictures.
    Keep(f64),
    /// This value.
    Value(f32),
}

/// The form in which a file takes pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum InputForm {
    /// float32 `[N, 3, H, W]`, values 0..=1.
    #[cfg_attr(feature = "cli", value(name = "f32"))]
    Float,
    /// uint8 `[N, H, W, 3]`, values 0..=255.
    #[cfg_attr(feature = "cli", value(name = "u8"))]
    Bytes,
}

/// What an export wrote.
#[derive(Debug, Clone, PartialEq)]
pub struct Exported {
    /// The manifest that went into the file.
    pub manifest: Manifest,
    /// The file's length in bytes.
    pub bytes: usize,
    /// The greatest difference of a logit to the trained network's on the check batch, relative above 1.
    pub difference: f64,
}

impl Checkpoint {
    /// Opens a run folder: its manifest and the weights of its best epoch, or of its last.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::FormatVersion`], [`Error::Model`] and [`Error::Weights`].
    pub fn open(run: &Path, last: bool) -> Result<Self> {
        let (manifest, weights) = Self::files(run, last);
        Ok(Self { manifest: Manifest::read(&manifest)?, weights: Weights::read(&weights)? })
    }

    /// Writes both files of a run folder.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, run: &Path, last: bool) -> Result<()> {
        let (manifest, weights) = Self::files(run, last);
        self.weights.write(&weights)?;
        self.manifest.write(&manifest)
    }

    fn files(run: &Path, last: bool) -> (PathBuf, PathBuf) {
        let suffix = if last { "-last" } else { "" };
        (run.join(format!("manifest{suffix}.json")), run.join(format!("weights{suffix}.safetensors")))
    }

    /// Writes the ONNX file, after tract has read it back and computed the same logits for the check batch as
    /// the trained network did. Where that fails nothing is written, and what was at `path` stays.
    ///
    /// # Errors
    /// [`Error::Weights`] and [`Error::Setting`] where the checkpoint or the options are not usable,
    /// [`Error::SelfCheck`] where the check fails, [`Error::Io`] where the file cannot be written.
    pub fn export(&self, options: &Options, path: &Path) -> Result<Exported> {
        let manifest = self.decide(options)?;
        let bytes = self.onnx(&manifest, options)?.encode_to_vec();
        let difference = self.check(&bytes)?;
        atomic::write(path, &bytes)?;
        Ok(Exported { manifest, bytes: bytes.len(), difference })
    }

    /// The manifest with the score and the threshold that go into the file.
    fn decide(&self, options: &Options) -> Result<Manifest> {
        let mut manifest = self.manifest.clone();
        manifest.score = options.score.unwrap_or(manifest.loss.variant.score());
        let anchors = self.anchors()?;
        let mut scores = match self.weights.get(HELD_OUT_LOGITS) {
            Some(tensor) => {
                let shape = [tensor.shape.first().copied().unwrap_or(0), anchors.nrows()];
                let logits = ArrayView2::from_shape(shape, self.weights.values(HELD_OUT_LOGITS, &shape)?)
                    .expect("the shape was checked");
                manifest.score.rejection(cac::distances(logits, anchors.view()).view()).to_vec()
            }
            None => Vec::new(),
        };
        scores.sort_unstable_by(f32::total_cmp);
        let (value, keep) = match options.threshold {
            ThresholdRule::Value(value) if value.is_finite() => (value, None),
            ThresholdRule::Keep(keep) if (0.0..=1.0).contains(&keep) => {
                let value = cac::threshold(&scores, keep).ok_or_else(|| Error::Setting {
                    name: "keep",
                    value: keep.to_string(),
                    reason: "the run held out no known picture to choose a threshold from; train with \
                             --held-out, or give --threshold"
                        .to_owned(),
                })?;
                (value, Some(keep))
            }
            ThresholdRule::Value(value) => {
                let (value, reason) = (value.to_string(), "must be finite".to_owned());
                return Err(Error::Setting { name: "threshold", value, reason });
            }
            ThresholdRule::Keep(keep) => {
                let (value, reason) = (keep.to_string(), "must be a share from 0 to 1".to_owned());
                return Err(Error::Setting { name: "keep", value, reason });
            }
        };
        let data = match &manifest.training {
            Some(training) => {
                format!("{} held-out training pictures of {}", scores.len(), training.known.display())
            }
            None => String::new(),
        };
        manifest.threshold = Some(Threshold { value, keep, data, held_out_scores: scores });
        Ok(manifest)
    }

    fn anchors(&self) -> Result<Array2<f32>> {
        let classes = self.manifest.classes.len();
        let values = self.weights.values(ANCHORS, &[classes, classes])?;
        Ok(Array2::from_shape_vec((classes, classes), values.to_vec()).expect("the shape was checked"))
    }

    fn onnx(&self, manifest: &Manifest, options: &Options) -> Result<ModelProto> {
        if options.batch == Some(0) {
            let (value, reason) = ("0".to_owned(), "must be at least 1".to_owned());
            return Err(Error::Setting { name: "batch", value, reason });
        }
        let mut graph = Graph::default();
        let layers = manifest.architecture.layers(manifest.classes.len())?;
        input(&mut graph, manifest, options);
        network(&mut graph, &layers, &self.weights)?;
        head(&mut graph, manifest, &self.anchors()?, options.batch);
        let entry = |(key, value)| StringStringEntryProto { key, value };
        Ok(ModelProto {
            ir_version: IR_VERSION,
            opset_import: vec![OperatorSetIdProto { domain: String::new(), version: OPSET }],
            producer_name: env!("CARGO_PKG_NAME").to_owned(),
            producer_version: env!("CARGO_PKG_VERSION").to_owned(),
            doc_string:
                "Open-set image classifier trained with Class Anchor Clustering. `images` are RGB in \
                         0..=1 (or bytes); `unknown` is `score` > `threshold`, `label` the nearest anchor."
                    .to_owned(),
            graph: Some(graph.finish("cac")),
            metadata_props: manifest.to_properties().into_iter().map(entry).collect(),
            ..ModelProto::default()
        })
    }

    /// The greatest difference between tract's logits and the trained network's on the check batch.
    fn check(&self, bytes: &[u8]) -> Result<f64> {
        let missing = || self.weights.error(format!("tensor `{CHECK_IMAGES}` is missing"));
        let images = self.weights.get(CHECK_IMAGES).ok_or_else(missing)?;
        let &[n, channels, height, width] = &images.shape[..] else {
            return Err(self.weights.error(format!("tensor `{CHECK_IMAGES}` is not [N, 3, H, W]")));
        };
        let images = Array4::from_shape_vec((n, channels, height, width), images.values.clone())
            .expect("a tensor's values match its shape");
        let expected = self.weights.values(CHECK_LOGITS, &[n, self.manifest.classes.len()])?;
        let scores = Scorer::from_bytes(bytes, Provider::Cpu)?.score(images.view())?;
        let mut greatest = 0.0_f64;
        for (&found, &expected) in scores.logits.iter().zip(expected) {
            let difference = f64::from((found - expected).abs() / expected.abs().max(1.0));
            greatest = if difference.is_nan() { f64::INFINITY } else { greatest.max(difference) };
        }
        if n == 0 || greatest > TOLERANCE {
            return Err(Error::SelfCheck { what: "logits", difference: greatest, tolerance: TOLERANCE });
        }
        Ok(greatest)
    }
}

/// The input in its form, and the normalised pictures as `normalized`.
fn input(graph: &mut Graph, manifest: &Manifest, options: &Options) {
    let input = &manifest.input;
    let (height, width) = (Some(input.height), Some(input.width));
    let images = match options.input {
        InputForm::Float => {
            graph.input_floats("images", &[options.batch, Some(3), height, width]);
            "images"
        }
        InputForm::Bytes => {
            graph.input_bytes("images", &[options.batch, height, width, Some(3)]);
            graph.node("Cast", "images.float", &["images"], vec![Attribute::int("to", graph::FLOAT)]);
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
fn network(graph: &mut Graph, layers: &[Layer], weights: &Weights) -> Result<()> {
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
        let add_parameters = |graph: &mut Graph| -> Vec<String> {
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
fn head(graph: &mut Graph, manifest: &Manifest, anchors: &Array2<f32>, batch: Option<usize>) {
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
    let products = |graph: &mut Graph, distances: &str| {
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
    graph.output("logits", graph::FLOAT, &[batch, Some(classes)]);
    graph.output("distances", graph::FLOAT, &[batch, Some(classes)]);
    graph.output("score", graph::FLOAT, &[batch]);
    graph.output("label", graph::INT64, &[batch]);
    graph.output("unknown", graph::BOOL, &[batch]);
}
