//! The contents of a model file, as text and JSON.

use std::{fmt, path::Path};

use serde::Serialize;

use super::{
    InputForm, Manifest, ModelPrecision, NO_THRESHOLD, ResizeCheck,
    file::{ModelFile, anchors, last_layer},
};
use crate::{
    error::Result,
    files::sha256,
    method::{AnchorKind, Anchors, LastLayer},
    text::{on_one_line, path_text},
};

/// The contents of a model file.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Inspection {
    /// Length of the file in bytes.
    pub bytes: usize,
    /// SHA-256 of the file, in hexadecimal.
    pub sha256: String,
    /// ONNX IR version.
    pub ir_version: i64,
    /// Version of the ONNX operator set.
    pub opset: i64,
    /// Number of nodes in the graph.
    pub nodes: usize,
    /// Number of values in the initializers.
    pub parameters: usize,
    /// Number of images in a batch, if it is fixed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<usize>,
    /// The form of the input.
    pub input: InputForm,
    /// Whether the threshold is an optional input.
    pub takes_threshold: bool,
    /// Threshold in the graph; other tools may have edited it.
    pub threshold: f32,
    /// Metadata of the file.
    pub manifest: Manifest,
    /// Anchors in the graph; `None` unless they have the form that this toolkit writes. Not in JSON.
    #[serde(skip)]
    pub anchors: Option<Anchors>,
    /// Last layer of the graph; `None` unless it has the form that this toolkit writes. Not in JSON.
    #[serde(skip)]
    pub last_layer: Option<LastLayer>,
    /// Names of the outputs.
    pub outputs: Vec<String>,
}

impl Inspection {
    /// Reads a model file without running it.
    ///
    /// # Errors
    /// Those of [`read`](super::read) and [`of`](Self::of).
    pub fn open(path: &Path) -> Result<Self> {
        Self::of(&super::read(path)?, &path_text(path))
    }

    /// Inspects a model in memory; `origin` names it in errors.
    ///
    /// # Errors
    /// [`Error::Model`](crate::Error::Model) and [`Error::FormatVersion`](crate::Error::FormatVersion) if it is
    /// not a valid model of this toolkit.
    pub fn of(bytes: &[u8], origin: &str) -> Result<Self> {
        let (file, model) = ModelFile::parse(bytes, origin)?;
        let graph = model.graph.unwrap_or_default();
        let length = |dims: &[i64]| {
            dims.iter().map(|&dim| usize::try_from(dim).unwrap_or(0)).fold(1, usize::saturating_mul)
        };
        let own = model.opset_import.iter().find(|opset| opset.domain.is_empty());
        Ok(Self {
            bytes: bytes.len(),
            sha256: sha256(bytes),
            ir_version: model.ir_version,
            opset: own.map_or(0, |opset| opset.version),
            nodes: graph.node.len(),
            parameters: graph
                .initializer
                .iter()
                .map(|tensor| length(&tensor.dims))
                .fold(0, usize::saturating_add),
            batch: file.batch,
            input: file.input,
            // The only other input allowed is the threshold.
            takes_threshold: graph.input.len() > 1,
            threshold: file.threshold,
            anchors: anchors(&graph, file.manifest.decision.classes.len()),
            last_layer: last_layer(&graph, file.manifest.decision.classes.len()).map(|(layer, _)| layer),
            outputs: file.outputs,
            manifest: file.manifest,
        })
    }
}

impl fmt::Display for Inspection {
    /// One line per part, then fields that could not be parsed, as they are, then the metrics.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Manifest { decision, history } = &self.manifest;
        let input = &decision.input;
        // The file may hold any text.
        let mut line = |name: &str, text: &dyn fmt::Display| {
            writeln!(f, "{:<10} {}", on_one_line(name), on_one_line(&text.to_string()))
        };
        line("file", &format_args!("{:.1} MB, SHA-256 {}", self.bytes as f64 / 1e6, self.sha256))?;
        let producer = history.producer.as_deref().unwrap_or("an unknown program");
        let again = history.recalibration.as_ref();
        let again = again.map_or(String::new(), |again| format!(", recalibrated by {}", again.producer));
        line("format", &format_args!("{}, written by {producer}{again}", decision.format_version))?;
        let (ir, opset, nodes, parameters) = (self.ir_version, self.opset, self.nodes, self.parameters);
        let precision = history.precision.map(|precision| format!(", {precision}")).unwrap_or_default();
        line(
            "graph",
            &format_args!("ONNX IR {ir}, opset {opset}, {nodes} nodes, {parameters} parameters{precision}"),
        )?;
        let batch = self.batch.map_or("N".to_owned(), |batch| batch.to_string());
        let (height, width) = (input.height, input.width);
        let images = match self.input {
            InputForm::AnySize => format!("uint8 [{batch}, H, W, 3], RGB, of any height and width"),
            InputForm::Bytes => format!("uint8 [{batch}, {height}, {width}, 3], RGB"),
            InputForm::Floats => format!("float32 [{batch}, 3, {height}, {width}], RGB, 0 to 1"),
        };
        line("input", &format_args!("images {images}"))?;
        if self.takes_threshold {
            line("", &"threshold float32 [], optional")?;
        }
        let place = if self.input == InputForm::AnySize { ", in the graph" } else { "" };
        line("resize", &format_args!("{}{place}", input.resizing()))?;
        line("normalise", &format_args!("subtract {:?}, divide by {:?}", input.mean, input.std))?;
        line("outputs", &self.outputs.join(", "))?;
        line("classes", &format_args!("{}: {}", decision.classes.len(), decision.classes.join(", ")))?;
        if let Some(architecture) = &history.architecture {
            line("network", architecture)?;
        }
        if history.averages_views == Some(true) {
            line("views", &"each image and its mirror image; their features are averaged")?;
        }
        if let Some(loss) = &history.loss {
            line("loss", loss)?;
        }
        match history.anchors {
            Some(AnchorKind::Fixed) => line("anchors", &"fixed: one axis for each class")?,
            Some(AnchorKind::ClassMeans) => {
                line("anchors", &"mean logits of the correctly classified training images of each class")?;
            }
            None => {}
        }
        line("score", &format_args!("{}; larger = more likely unknown", decision.score))?;
        // The tensor takes precedence.
        let original = decision.threshold.as_ref().map(|rule| rule.value);
        let original = original.filter(|value| value.to_bits() != self.threshold.to_bits());
        let rule = match (original, &decision.threshold) {
            (Some(original), _) => format!(", edited; originally {original}"),
            (None, Some(rule)) => match rule.keep.and_then(|keep| self.manifest.promise(keep, None)) {
                Some(promise) => format!(", keeps {promise}"),
                None => ", set by hand".to_owned(),
            },
            (None, None) => String::new(),
        };
        if self.threshold == NO_THRESHOLD {
            line("threshold", &"none: every image is known")?;
        } else {
            line("threshold", &format_args!("{}{rule}", self.threshold))?;
        }
        if original.is_none() && decision.threshold.as_ref().is_some_and(|rule| rule.keep.is_some()) {
            self.manifest.cautions_of_held_out().iter().try_for_each(|caution| line("caution", caution))?;
        }
        if let Some(choice) = &history.choice {
            line("choice", choice)?;
        }
        let with = original.map_or(String::new(), |original| format!(" with the threshold {original}"));
        if let Some(robustness) = &history.robustness {
            line("robustness", &format_args!("{robustness}{with}"))?;
        }
        if let Some(file) = &history.imported {
            line("imported", &format_args!("from {file}"))?;
        }
        if let Some(training) = &history.training {
            let [data, recipe] = training.parts();
            line("training", &data)?;
            line("recipe", &recipe)?;
        }
        if let Some(runtime) = &history.checked_with {
            line("checked", &format_args!("with {runtime}, when the file was written"))?;
        }
        if let Some(ResizeCheck { images, values, differing, .. }) = &history.resize_check {
            line(
                "resizing",
                &format_args!(
                    "{differing} of {values} values of {images} images differed from the toolkit's"
                ),
            )?;
        }
        if let Some(golden) = &history.golden {
            line("golden", &format_args!("outputs for {} generated images", golden.score.len()))?;
        }
        for (name, value) in &history.other {
            line(name, value)?;
        }
        let Some(report) = &history.metrics else { return Ok(()) };
        let precision = history.precision.filter(|precision| *precision != ModelPrecision::Float32);
        let before = precision.map(|precision| format!(" before conversion to {precision}"));
        let again = history.recalibration.as_ref().map(|_| " before the recalibration");
        if before.is_some() || original.is_some() || again.is_some() {
            write!(f, "\nmetrics{}{}{with}:", before.unwrap_or_default(), again.unwrap_or_default())?;
        }
        write!(f, "\n{report}")
    }
}
