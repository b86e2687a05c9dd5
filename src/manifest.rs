//! What travels with the weights: in a training run as `manifest.json`, in an ONNX file as metadata, one
//! property `cac.FIELD` for each field of [`Manifest`] with its JSON as the value.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    arch::Architecture,
    atomic,
    cac::{AnchorKind, Loss, Score},
    dataset::Protocol,
    error::{Error, Result},
    recipe::Recipe,
    report::Report,
};

/// The version that this toolkit writes, and the newest that it reads.
pub const FORMAT_VERSION: u32 = 1;

/// The prefix of the properties in an ONNX file.
const PREFIX: &str = "cac.";

/// All that must be known about a network besides its weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT_VERSION`] of the toolkit that wrote it.
    pub format_version: u32,
    /// The toolkit with its version.
    pub producer: String,
    /// The names of the known classes, in the order of the logits.
    pub classes: Vec<String>,
    /// What the network is fed.
    pub input: Input,
    /// The network.
    pub architecture: Architecture,
    /// The loss that it was trained with.
    pub loss: Loss,
    /// Where the anchors come from.
    pub anchors: AnchorKind,
    /// The rejection score that the file computes.
    pub score: Score,
    /// The numbers of the file's network.
    #[serde(default)]
    pub precision: Precision,
    /// The decision threshold; absent before export.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<Threshold>,
    /// The file of weights that it was imported from, where it was not trained here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub imported: Option<String>,
    /// How it was trained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training: Option<Training>,
    /// What the test after training gave, in float32; in a model file for its score and threshold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<Report>,
}

/// The pictures that a network takes: RGB in 0..=1, normalised inside as (x - mean) / std.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Input {
    /// In pixels.
    pub height: usize,
    /// In pixels.
    pub width: usize,
    /// Of each channel.
    pub mean: [f32; 3],
    /// Of each channel.
    pub std: [f32; 3],
}

impl Default for Input {
    fn default() -> Self {
        Self { height: 32, width: 32, mean: [0.5; 3], std: [0.5; 3] }
    }
}

impl Input {
    /// Whether pictures can be normalised so.
    ///
    /// # Errors
    /// [`Error::Setting`] where a mean is not finite, or a deviation not positive.
    pub(crate) fn check(&self) -> Result<()> {
        if !self.mean.iter().all(|mean| mean.is_finite()) {
            return Err(Error::setting("mean", format!("{:?}", self.mean), "must be numbers"));
        }
        if !self.std.iter().all(|&std| std.is_finite() && std > 0.0) {
            return Err(Error::setting("std", format!("{:?}", self.std), "must be positive"));
        }
        Ok(())
    }
}

/// The numbers of a network in a file. Anchors, distances and scores are always computed in float32.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum Precision {
    /// As trained.
    #[default]
    #[serde(rename = "f32")]
    #[cfg_attr(feature = "cli", value(name = "f32"))]
    Float32,
    /// Weights lie in the file in float16, in half the bytes; it computes in float32.
    #[serde(rename = "f16")]
    #[cfg_attr(feature = "cli", value(name = "f16"))]
    Float16,
    /// Convolutions in whole numbers of eight bits, in a quarter of the bytes; faster on ONNX Runtime.
    #[serde(rename = "int8")]
    #[cfg_attr(feature = "cli", value(name = "int8"))]
    Int8,
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Float32 => "f32",
            Self::Float16 => "f16",
            Self::Int8 => "int8",
        })
    }
}

/// The decision threshold on the rejection score and the rule behind it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Threshold {
    /// A picture is unknown where its score is larger.
    pub value: f32,
    /// The share of held-out known pictures that it was chosen to keep, 0 to 1; absent where a value was
    /// given by hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep: Option<f64>,
    /// The data that the held-out pictures come from.
    pub data: String,
    /// The scores of the held-out known pictures in ascending order, so that another share can be chosen.
    pub held_out_scores: Vec<f32>,
}

/// A training run: its settings, resolved, and what they met.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Training {
    /// The data set of the known classes.
    pub known: PathBuf,
    /// The unknown test sets.
    pub unknown: Vec<String>,
    /// The protocol that says which of the classes are known; absent where all are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// The weights that it started from; absent for random ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backbone: Option<PathBuf>,
    /// Passes over the training pictures.
    pub epochs: usize,
    /// Pictures in a step.
    pub batch_size: usize,
    /// The peak learning rate.
    pub learning_rate: f64,
    /// Of the initial weights, the data order, dropout and the choice of held-out pictures.
    pub seed: u64,
    /// The share of the known training pictures kept out of training for the threshold, 0 to below 1.
    pub held_out: f64,
    /// At most this many training pictures give the class means; 0 for all.
    pub anchor_pictures: usize,
    /// `cpu` or `cuda:n`.
    pub device: String,
    /// How the weights are learned.
    pub recipe: Recipe,
    /// Pictures trained on.
    pub pictures: usize,
    /// The epoch after which the weights were taken, from 1.
    pub epoch: usize,
}

/// This toolkit with its version, and with the commit where it was built in a git checkout.
fn producer() -> String {
    let commit = option_env!("CAC_COMMIT").map(|commit| format!(" ({commit})")).unwrap_or_default();
    format!("{} {}{commit}", env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"))
}

impl Manifest {
    /// That of a network as this toolkit makes it: with the score and the kind of anchors that the loss goes with, in
    /// float32, and nothing else known.
    #[must_use]
    pub fn new(classes: Vec<String>, input: Input, architecture: Architecture, loss: Loss) -> Self {
        Self {
            format_version: FORMAT_VERSION,
            producer: producer(),
            classes,
            input,
            architecture,
            anchors: loss.variant.anchor_kind(),
            score: loss.variant.score(),
            loss,
            precision: Precision::default(),
            threshold: None,
            imported: None,
            training: None,
            metrics: None,
        }
    }

    /// Reads `manifest.json` of a training run.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::FormatVersion`] and [`Error::Model`].
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
        let origin = path.display().to_string();
        let fields = serde_json::from_str(&text)
            .map_err(|error| Error::Model { origin: origin.clone(), reason: error.to_string() })?;
        Self::from_fields(fields, &origin)
    }

    /// Writes `manifest.json`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut text = serde_json::to_vec_pretty(self).expect("a manifest is plain data");
        text.push(b'\n');
        atomic::write(path, &text)
    }

    /// The ONNX metadata properties, `cac.format_version` first.
    #[must_use]
    pub fn to_properties(&self) -> Vec<(String, String)> {
        let Ok(Value::Object(mut fields)) = serde_json::to_value(self) else {
            unreachable!("a manifest is a JSON object")
        };
        let version = fields.remove_entry("format_version");
        version
            .into_iter()
            .chain(fields)
            .map(|(name, value)| (format!("{PREFIX}{name}"), value.to_string()))
            .collect()
    }

    /// Reads ONNX metadata properties; those without the prefix are others' and ignored.
    ///
    /// # Errors
    /// [`Error::FormatVersion`] for a newer file and [`Error::Model`] for a foreign or damaged one; `origin`
    /// names the file in them.
    pub fn from_properties<'a>(
        properties: impl IntoIterator<Item = (&'a str, &'a str)>,
        origin: &str,
    ) -> Result<Self> {
        let mut fields = Map::new();
        for (name, text) in properties {
            let Some(name) = name.strip_prefix(PREFIX) else { continue };
            let value = serde_json::from_str(text).map_err(|error| Error::Model {
                origin: origin.to_owned(),
                reason: format!("metadata `{PREFIX}{name}` is not JSON: {error}"),
            })?;
            fields.insert(name.to_owned(), value);
        }
        Self::from_fields(fields, origin)
    }

    /// The version is looked at first: a newer manifest may have fields of other forms.
    fn from_fields(fields: Map<String, Value>, origin: &str) -> Result<Self> {
        let broken = |reason: String| Error::Model { origin: origin.to_owned(), reason };
        let version = fields
            .get("format_version")
            .and_then(Value::as_u64)
            .and_then(|version| u32::try_from(version).ok())
            .ok_or_else(|| broken("it has no `format_version`, so this toolkit did not write it".into()))?;
        if version > FORMAT_VERSION {
            let origin = origin.to_owned();
            return Err(Error::FormatVersion { origin, found: version, supported: FORMAT_VERSION });
        }
        let manifest: Self = serde_json::from_value(Value::Object(fields))
            .map_err(|error| broken(format!("its manifest is damaged: {error}")))?;
        let Input { height, width, .. } = manifest.input;
        if !(1..=4096).contains(&height) || !(1..=4096).contains(&width) {
            return Err(broken(format!("it states an input of {height} x {width} pixels")));
        }
        manifest.input.check().map_err(|error| broken(format!("it states {error}")))?;
        if manifest.classes.len() < 2 {
            return Err(broken(format!("it names {} classes", manifest.classes.len())));
        }
        Ok(manifest)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{arch::WideResNet, cac::Variant};

    pub(crate) fn example() -> Manifest {
        Manifest {
            format_version: FORMAT_VERSION,
            producer: "test".to_owned(),
            classes: vec!["cat".to_owned(), "dog \"rex\"".to_owned(), "häschen".to_owned()],
            input: Input::default(),
            architecture: Architecture::WideResNet(WideResNet::default()),
            loss: Loss::new(Variant::Paper),
            anchors: AnchorKind::ClassMeans,
            score: Score::Cac,
            precision: Precision::Float16,
            threshold: Some(Threshold {
                value: 0.1,
                keep: Some(0.95),
                data: "somewhere".to_owned(),
                held_out_scores: vec![-1.5e-7, 0.1, f32::MAX],
            }),
            imported: None,
            training: None,
            metrics: None,
        }
    }

    #[test]
    fn survives_the_way_through_properties_and_file() {
        let manifest = example();
        let properties = manifest.to_properties();
        assert_eq!(properties[0], ("cac.format_version".to_owned(), "1".to_owned()));
        let borrowed = properties.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let foreign = [("author", "somebody")];
        assert_eq!(Manifest::from_properties(borrowed.chain(foreign), "x").unwrap(), manifest);

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("manifest.json");
        manifest.write(&path).unwrap();
        assert_eq!(Manifest::read(&path).unwrap(), manifest);
    }

    #[test]
    fn newer_foreign_and_damaged_metadata_is_refused() {
        let read = |properties: &[(&str, &str)]| {
            Manifest::from_properties(properties.iter().copied(), "x.onnx").unwrap_err()
        };
        assert!(matches!(
            read(&[("cac.format_version", "2"), ("cac.classes", "\"of another form\"")]),
            Error::FormatVersion { found: 2, supported: 1, .. }
        ));
        assert!(read(&[("author", "somebody")]).to_string().contains("did not write it"));
        assert!(read(&[("cac.format_version", "{")]).to_string().contains("not JSON"));
        assert!(read(&[("cac.format_version", "1")]).to_string().contains("damaged"));
        let broken_input = |input: Input| {
            let properties = Manifest { input, ..example() }.to_properties();
            let borrowed = properties.iter().map(|(name, value)| (name.as_str(), value.as_str()));
            Manifest::from_properties(borrowed, "x.onnx").is_err()
        };
        assert!(broken_input(Input { height: 0, ..Input::default() }));
        assert!(broken_input(Input { width: usize::MAX, ..Input::default() }));
        assert!(broken_input(Input { std: [1.0, 0.0, 1.0], ..Input::default() }));
        let one_class = Manifest { classes: vec!["cat".to_owned()], ..example() }.to_properties();
        let borrowed: Vec<_> =
            one_class.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert!(read(&borrowed).to_string().contains("names 1 classes"));
    }
}
