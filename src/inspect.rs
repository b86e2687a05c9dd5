//! What a model file holds, in words.

use std::{fmt, path::Path};

use serde::Serialize;

use crate::{
    arch::Architecture,
    cac::{AnchorKind, Variant},
    error::{Error, Result},
    manifest::{Manifest, Precision, Training},
    scorer::file::{ModelFile, OUTPUTS},
    weights,
};

/// What a model file holds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Inspection {
    /// The length of the file.
    pub bytes: usize,
    /// Its SHA-256, in hexadecimal.
    pub sha256: String,
    /// The version of ONNX's own format.
    pub ir_version: i64,
    /// The version of ONNX's operators.
    pub opset: i64,
    /// The operators of the graph, one for each use.
    pub nodes: usize,
    /// The numbers in its tensors.
    pub parameters: usize,
    /// The number of pictures that it takes, where it is fixed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<usize>,
    /// Whether it takes bytes `[N, H, W, 3]`, and not floats `[N, 3, H, W]`.
    pub takes_bytes: bool,
    /// The threshold in the graph, which other tools may have edited.
    pub threshold: f32,
    /// What else travels in the file.
    pub manifest: Manifest,
}

impl Inspection {
    /// Reads a model file; nothing is run.
    ///
    /// # Errors
    /// [`Error::Io`], and [`Error::Model`] and [`Error::FormatVersion`] where it is no model of this toolkit.
    pub fn open(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
        Self::of(&bytes, &path.display().to_string())
    }

    /// Looks at a model in memory; `origin` names it in errors.
    ///
    /// # Errors
    /// Those of [`open`](Self::open), without [`Error::Io`].
    pub fn of(bytes: &[u8], origin: &str) -> Result<Self> {
        let (file, model) = ModelFile::parse(bytes, origin)?;
        let graph = model.graph.unwrap_or_default();
        let length = |dims: &[i64]| {
            dims.iter().map(|&dim| usize::try_from(dim).unwrap_or(0)).fold(1, usize::saturating_mul)
        };
        let own = model.opset_import.iter().find(|opset| opset.domain.is_empty());
        Ok(Self {
            bytes: bytes.len(),
            sha256: weights::sha256(bytes),
            ir_version: model.ir_version,
            opset: own.map_or(0, |opset| opset.version),
            nodes: graph.node.len(),
            parameters: graph
                .initializer
                .iter()
                .map(|tensor| length(&tensor.dims))
                .fold(0, usize::saturating_add),
            batch: file.batch,
            takes_bytes: file.takes_bytes,
            threshold: file.threshold,
            manifest: file.manifest,
        })
    }
}

impl fmt::Display for Inspection {
    /// A paragraph with a name for each part, and the metrics.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Manifest { classes, input, loss, score, training, .. } = &self.manifest;
        let megabytes = self.bytes as f64 / 1e6;
        writeln!(f, "file       {megabytes:.1} MB, SHA-256 {}", self.sha256)?;
        let (version, producer) = (self.manifest.format_version, &self.manifest.producer);
        writeln!(f, "format     {version}, written by {producer}")?;
        let (ir, opset, nodes, parameters) = (self.ir_version, self.opset, self.nodes, self.parameters);
        let precision = self.manifest.precision;
        writeln!(
            f,
            "graph      ONNX IR {ir}, opset {opset}, {nodes} nodes, {parameters} numbers, {precision}"
        )?;
        let batch = self.batch.map_or("N".to_owned(), |batch| batch.to_string());
        let (height, width) = (input.height, input.width);
        if self.takes_bytes {
            writeln!(f, "input      images uint8 [{batch}, {height}, {width}, 3], RGB")?;
        } else {
            writeln!(f, "input      images float32 [{batch}, 3, {height}, {width}], RGB in 0..=1")?;
        }
        writeln!(f, "inside     minus {:?}, divided by {:?}", input.mean, input.std)?;
        writeln!(f, "outputs    {}", OUTPUTS.join(", "))?;
        writeln!(f, "classes    {}: {}", classes.len(), classes.join(", "))?;
        match &self.manifest.architecture {
            Architecture::WideResNet(network) => {
                writeln!(f, "network    WideResNet-{}-{}", network.depth, network.widen_factor)?;
            }
            Architecture::CacNet(network) => {
                writeln!(f, "network    that of the official CAC code, {} channels", network.channels)?;
            }
        }
        let (magnitude, weight) = (loss.magnitude, loss.weight);
        match loss.variant {
            Variant::Paper => {
                writeln!(f, "loss       CAC of the paper, magnitude {magnitude}, lambda {weight}")?
            }
            Variant::PytorchOod => {
                writeln!(f, "loss       CAC of pytorch-ood, magnitude {magnitude}, alpha {weight}")?;
            }
            Variant::CrossEntropy => writeln!(f, "loss       cross-entropy")?,
        }
        let anchors = match self.manifest.anchors {
            AnchorKind::Fixed => "as in training",
            AnchorKind::ClassMeans => "mean logits of the right training pictures of each class",
        };
        writeln!(f, "anchors    {anchors}")?;
        writeln!(f, "score      {score}; larger = more likely unknown")?;
        write!(f, "threshold  {}", self.threshold)?;
        match &self.manifest.threshold {
            Some(rule) if rule.value.to_bits() != self.threshold.to_bits() => {
                writeln!(f, ", edited; it was written as {}", rule.value)?;
            }
            Some(rule) => match rule.keep {
                Some(keep) => writeln!(f, ", keeps {} % of {}", 100.0 * keep, rule.data)?,
                None => writeln!(f, ", set by hand")?,
            },
            None => writeln!(f)?,
        }
        if let Some(file) = &self.manifest.imported {
            writeln!(f, "imported   from {file}")?;
        }
        if let Some(training) = training {
            let Training {
                pictures,
                epochs,
                epoch,
                batch_size,
                learning_rate,
                seed,
                known,
                backbone,
                recipe,
                ..
            } = training;
            let known = known.display();
            writeln!(f, "training   {pictures} pictures of {known}, epoch {epoch} of {epochs}, seed {seed}")?;
            if let Some(backbone) = backbone {
                writeln!(f, "backbone   {}", backbone.display())?;
            }
            writeln!(f, "recipe     batch {batch_size}, learning rate {learning_rate}, {recipe}")?;
        }
        match &self.manifest.metrics {
            Some(report) if self.manifest.precision == Precision::Float32 => write!(f, "\n{report}"),
            Some(report) => write!(f, "\nbefore the weights became {}:\n{report}", self.manifest.precision),
            None => Ok(()),
        }
    }
}
