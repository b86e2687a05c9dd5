//! From a training run to one self-contained ONNX file: network, anchors, score, threshold and manifest.
//!
//! The graph uses opset 17 of `ai.onnx` alone, in float32, without functions or control flow, so that every
//! common runtime takes it. Nodes and tensors carry the names of the layers.

mod builder;
mod graph;

use std::path::Path;

use ndarray::{Array2, Array4, ArrayView2};
use prost::Message;
use tract_onnx::pb::{ModelProto, OperatorSetIdProto, StringStringEntryProto};

use crate::{
    atomic,
    cac::{self, Score},
    checkpoint::{ANCHORS, CHECK_IMAGES, CHECK_LOGITS, Checkpoint, HELD_OUT_LOGITS},
    error::{Error, Result},
    manifest::{Manifest, Threshold},
    scorer::{Provider, Scorer},
    weights::Weights,
};

const OPSET: i64 = 17;
const IR_VERSION: i64 = 8;

/// The greatest relative difference of a logit that the self-check lets pass; below 1 it is absolute.
const TOLERANCE: f64 = 1e-4;

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

/// Writes the ONNX file, after tract has read it back and computed the same logits for the check batch as
/// the trained network did. Where that fails nothing is written, and what was at `path` stays.
///
/// # Errors
/// [`Error::Weights`] and [`Error::Setting`] where the checkpoint or the options are not usable,
/// [`Error::SelfCheck`] where the check fails, [`Error::Io`] where the file cannot be written.
pub fn export(checkpoint: &Checkpoint, options: &Options, path: &Path) -> Result<Exported> {
    let anchors = anchors(checkpoint)?;
    let manifest = decide(checkpoint, options, &anchors)?;
    let bytes = onnx(&manifest, options, &checkpoint.weights, &anchors)?.encode_to_vec();
    let difference = check(checkpoint, &bytes)?;
    atomic::write(path, &bytes)?;
    Ok(Exported { manifest, bytes: bytes.len(), difference })
}

/// The manifest with the score and the threshold that go into the file.
fn decide(checkpoint: &Checkpoint, options: &Options, anchors: &Array2<f32>) -> Result<Manifest> {
    let mut manifest = checkpoint.manifest.clone();
    manifest.score = options.score.unwrap_or(manifest.loss.variant.score());
    let mut scores = match checkpoint.weights.get(HELD_OUT_LOGITS) {
        Some(tensor) => {
            let shape = [tensor.shape.first().copied().unwrap_or(0), anchors.nrows()];
            let logits = ArrayView2::from_shape(shape, checkpoint.weights.values(HELD_OUT_LOGITS, &shape)?)
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

fn anchors(checkpoint: &Checkpoint) -> Result<Array2<f32>> {
    let classes = checkpoint.manifest.classes.len();
    let values = checkpoint.weights.values(ANCHORS, &[classes, classes])?;
    Ok(Array2::from_shape_vec((classes, classes), values.to_vec()).expect("the shape was checked"))
}

fn onnx(
    manifest: &Manifest,
    options: &Options,
    weights: &Weights,
    anchors: &Array2<f32>,
) -> Result<ModelProto> {
    if options.batch == Some(0) {
        let (value, reason) = ("0".to_owned(), "must be at least 1".to_owned());
        return Err(Error::Setting { name: "batch", value, reason });
    }
    let entry = |(key, value)| StringStringEntryProto { key, value };
    Ok(ModelProto {
        ir_version: IR_VERSION,
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: OPSET }],
        producer_name: env!("CARGO_PKG_NAME").to_owned(),
        producer_version: env!("CARGO_PKG_VERSION").to_owned(),
        doc_string: "Open-set image classifier trained with Class Anchor Clustering. `images` are RGB in \
                     0..=1 (or bytes); `unknown` is `score` > `threshold`, `label` the nearest anchor."
            .to_owned(),
        graph: Some(graph::graph(manifest, options, weights, anchors)?),
        metadata_props: manifest.to_properties().into_iter().map(entry).collect(),
        ..ModelProto::default()
    })
}

/// The greatest difference between tract's logits and the trained network's on the check batch.
fn check(checkpoint: &Checkpoint, bytes: &[u8]) -> Result<f64> {
    let missing = || checkpoint.weights.error(format!("tensor `{CHECK_IMAGES}` is missing"));
    let images = checkpoint.weights.get(CHECK_IMAGES).ok_or_else(missing)?;
    let &[n, channels, height, width] = &images.shape[..] else {
        return Err(checkpoint.weights.error(format!("tensor `{CHECK_IMAGES}` is not [N, 3, H, W]")));
    };
    let images = Array4::from_shape_vec((n, channels, height, width), images.values.clone())
        .expect("a tensor's values match its shape");
    let expected = checkpoint.weights.values(CHECK_LOGITS, &[n, checkpoint.manifest.classes.len()])?;
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
