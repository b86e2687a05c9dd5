//! Checkpoints: a trained network with everything that export needs, in one file.
//!
//! The file is a safetensors file. The network's tensors keep their own names, so that a checkpoint can be a
//! backbone. Everything else has names that begin with `cac/`, which no layer may use.

use std::path::Path;

use ndarray::{Array2, Array4};
use serde::{Deserialize, Serialize};

use crate::{
    arch::{Architecture, HEAD, Layer},
    data::Protocol,
    error::{Error, Result},
    image::Input,
    method::{AnchorKind, Anchors, Loss, RejectionScore},
    model::Training,
    weights::Weights,
};

/// A trained network with everything that export needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// Everything that is not a tensor.
    pub facts: Facts,
    /// The network's parameters and normalisation statistics.
    pub network: Weights,
    /// Anchors for testing and export.
    pub anchors: Anchors,
    /// Logits of held-out known images, `[M, C]`, from which the threshold is chosen; M may be 0.
    pub held_out: Array2<f32>,
    /// Logits of the test after training; `None` without a test.
    pub test: Option<TestLogits>,
    /// Images and logits for the self-check of an export.
    pub check: CheckBatch,
}

/// Description of a trained network: everything but its tensors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// The names of the known classes, in the order of the logits.
    pub classes: Vec<String>,
    /// Image size and normalisation.
    pub input: Input,
    /// The network.
    pub architecture: Architecture,
    /// The loss that the network was trained with.
    pub loss: Loss,
    /// How the anchors were obtained.
    pub anchors: AnchorKind,
    /// Default rejection score; it depends on the loss and the outliers.
    pub score: RejectionScore,
    /// Name of the weights file, if the network was imported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub imported: Option<String>,
    /// Training record for the model file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training: Option<Training>,
    /// Location of the training data on this machine; never written to a model file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<TrainingData>,
}

impl Facts {
    /// The layers of the network.
    ///
    /// # Errors
    /// [`Error::Setting`] if the facts do not describe a valid network.
    pub fn layers(&self) -> Result<Vec<Layer>> {
        self.architecture.layers(self.classes.len(), self.input.height, self.input.width)
    }
}

/// Location of training data on this machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainingData {
    /// The data set of the known classes: a folder, or the name of a [published one](crate::data::PublishedSet).
    pub known: std::path::PathBuf,
    /// Share of its images that are test images, if it has no test split of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_out_test: Option<f64>,
    /// Protocol that selects the known classes; `None` if all classes are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
}

/// Logits of the test after training. Export computes the metrics of its own score and threshold from them.
#[derive(Debug, Clone, PartialEq)]
pub struct TestLogits {
    /// Logits of the known test images, `[M, C]`.
    pub known: Array2<f32>,
    /// True classes of the known test images, `[M]`.
    pub labels: Vec<i64>,
    /// Name and logits `[M, C]` of each unknown test set.
    pub unknown: Vec<(String, Array2<f32>)>,
    /// The number of test images that could not be read.
    pub skipped: usize,
}

/// A few images and the trained network's logits for them.
#[derive(Debug, Clone, PartialEq)]
pub struct CheckBatch {
    /// Images `[N, 3, H, W]` in 0..=1.
    pub images: Array4<f32>,
    /// Logits `[N, C]`.
    pub logits: Array2<f32>,
}

/// The two checkpoints of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// The best epoch.
    Best,
    /// The last epoch, or the moment of an interruption.
    Last,
}

impl Which {
    /// Both checkpoints.
    pub const ALL: [Self; 2] = [Self::Best, Self::Last];
}

/// Anchors as rows `[C, C]`, or the magnitude `[1]` of fixed ones.
const ANCHORS: &str = "cac/anchors";
const HELD_OUT: &str = "cac/held-out";
const CHECK_IMAGES: &str = "cac/check/images";
const CHECK_LOGITS: &str = "cac/check/logits";
const TEST_KNOWN: &str = "cac/test/known";
const TEST_LABELS: &str = "cac/test/labels";
const TEST_UNKNOWN: &str = "cac/test/unknown/";
const TEST_SKIPPED: &str = "cac/test/skipped";

impl Checkpoint {
    /// Reads a checkpoint and checks that it is complete.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Weights`] if the file is not a safetensors file, or a tensor is missing,
    /// misshaped or not finite; [`Error::Checkpoint`] if it is not a checkpoint of this version.
    pub fn read(path: &Path) -> Result<Self> {
        let mut file = Weights::read(path)?;
        let broken = |reason: String| Error::Checkpoint { path: path.to_owned(), reason };
        let note = file.note.take().ok_or_else(|| broken("it holds only weights".to_owned()))?;
        let facts: Facts = serde_json::from_str(&note).map_err(|error| broken(error.to_string()))?;
        let layers = facts.layers()?;
        let rows = |name: &str| file.get(name).and_then(|tensor| tensor.shape.first()).copied().unwrap_or(0);
        let logits = |name: &str| file.matrix(name, [rows(name), facts.classes.len()]);
        let test = match file.get(TEST_KNOWN) {
            None => None,
            Some(_) => {
                let labels = file.values(TEST_LABELS, &[rows(TEST_KNOWN)])?;
                let names = file.names().filter(|name| name.starts_with(TEST_UNKNOWN));
                let mut unknown = names
                    .map(|name| {
                        // Tensors are sorted by name: a number keeps the order of the test sets.
                        let (_, set) = name[TEST_UNKNOWN.len()..].split_once('/').unwrap_or_default();
                        Ok((set.to_owned(), logits(name)?))
                    })
                    .collect::<Result<Vec<_>>>()?;
                unknown.retain(|(name, _)| !name.is_empty());
                let labels = labels.iter().map(|&label| label as i64).collect();
                let skipped = match file.get(TEST_SKIPPED) {
                    Some(_) => file.values(TEST_SKIPPED, &[1])?[0] as usize,
                    None => 0,
                };
                Some(TestLogits { known: logits(TEST_KNOWN)?, labels, unknown, skipped })
            }
        };
        let check_shape = [rows(CHECK_IMAGES), 3, facts.input.height, facts.input.width];
        let images = file.values(CHECK_IMAGES, &check_shape)?.to_vec();
        let check = CheckBatch {
            images: Array4::from_shape_vec(check_shape, images).expect("the shape was checked"),
            logits: file.matrix(CHECK_LOGITS, [check_shape[0], facts.classes.len()])?,
        };
        let classes = facts.classes.len();
        let anchors = match file.get(ANCHORS).map(|tensor| &tensor.shape[..]) {
            Some([1]) => Anchors::Fixed { classes, magnitude: file.values(ANCHORS, &[1])?[0] },
            _ => Anchors::Rows(file.matrix(ANCHORS, [classes; 2])?),
        };
        Ok(Self {
            anchors,
            held_out: logits(HELD_OUT)?,
            test,
            check,
            network: file.of_layers(&layers)?,
            facts,
        })
    }

    /// Writes the checkpoint to one file, atomically.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, path: &Path) -> Result<()> {
        self.tensors().write(path)
    }

    /// The tensors of the file.
    pub(crate) fn tensors(&self) -> Weights {
        let mut file = self.network.clone();
        file.note = Some(serde_json::to_string(&self.facts).expect("facts are plain data"));
        match &self.anchors {
            Anchors::Fixed { magnitude, .. } => file.insert(ANCHORS, &[1], vec![*magnitude]),
            Anchors::Rows(rows) => file.insert_matrix(ANCHORS, rows),
        }
        file.insert_matrix(HELD_OUT, &self.held_out);
        file.insert(CHECK_IMAGES, self.check.images.shape(), self.check.images.iter().copied().collect());
        file.insert_matrix(CHECK_LOGITS, &self.check.logits);
        if let Some(TestLogits { known, labels, unknown, skipped }) = &self.test {
            file.insert(TEST_SKIPPED, &[1], vec![*skipped as f32]);
            file.insert_matrix(TEST_KNOWN, known);
            file.insert(TEST_LABELS, &[labels.len()], labels.iter().map(|&label| label as f32).collect());
            for (number, (name, logits)) in unknown.iter().enumerate() {
                file.insert_matrix(&format!("{TEST_UNKNOWN}{number:04}/{name}"), logits);
            }
        }
        debug_assert!(self.network.names().all(|name| !name.starts_with(HEAD)));
        file
    }

    /// Writes only the network's weights, as a backbone: no logits, no images and no path. The metadata holds
    /// the input (size and normalisation) and the architecture.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write_weights(&self, path: &Path) -> Result<()> {
        let note = serde_json::json!({ "input": self.facts.input, "architecture": self.facts.architecture });
        let mut file = self.network.clone();
        file.note = Some(note.to_string());
        file.write(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::method::Variant;

    fn example() -> Checkpoint {
        let architecture =
            Architecture::new("wide-resnet", &[("depth", 10.0), ("widen_factor", 1.0)]).unwrap();
        let input = Input { height: 8, width: 16, ..Input::default() };
        let loss = Loss::new(Variant::Paper);
        let mut network = Weights::new(Path::new("example"));
        for (name, shape) in architecture.layers(2, 8, 16).unwrap().iter().flat_map(Layer::parameters) {
            network.insert(&name, &shape, vec![0.5; shape.iter().product()]);
        }
        Checkpoint {
            facts: Facts {
                classes: vec!["cat".to_owned(), "dog \"rex\"".to_owned()],
                input,
                architecture,
                loss,
                anchors: AnchorKind::Fixed,
                score: RejectionScore::Cac,
                imported: None,
                training: None,
                data: Some(TrainingData {
                    known: "/somewhere".into(),
                    held_out_test: Some(0.2),
                    protocol: None,
                }),
            },
            network,
            anchors: Anchors::fixed(2, 10.0),
            held_out: Array2::zeros((0, 2)),
            test: Some(TestLogits {
                known: Array2::from_elem((3, 2), 1.5),
                labels: vec![1, 0, 1],
                // Not sorted by name.
                unknown: vec![
                    ("b/c".to_owned(), Array2::zeros((1, 2))),
                    ("a".to_owned(), Array2::ones((2, 2))),
                ],
                skipped: 3,
            }),
            check: CheckBatch { images: Array4::ones((1, 3, 8, 16)), logits: Array2::zeros((1, 2)) },
        }
    }

    #[test]
    fn checkpoints_survive_a_round_trip() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint.safetensors");
        let checkpoint = example();
        checkpoint.write(&path).unwrap();
        let read = Checkpoint::read(&path).unwrap();
        assert_eq!(read.facts, checkpoint.facts);
        assert_eq!((&read.anchors, &read.held_out), (&checkpoint.anchors, &checkpoint.held_out));
        assert_eq!((&read.test, &read.check), (&checkpoint.test, &checkpoint.check));
        assert_eq!(read.network.get("fc.bias"), checkpoint.network.get("fc.bias"));
        let means = Anchors::Rows(Array2::from_elem((2, 2), 0.5));
        let untested = Checkpoint { test: None, anchors: means.clone(), ..checkpoint };
        untested.write(&path).unwrap();
        let read = Checkpoint::read(&path).unwrap();
        assert_eq!((read.test, read.anchors), (None, means));
    }

    #[test]
    fn exported_weights_hold_no_image_and_no_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights.safetensors");
        example().write_weights(&path).unwrap();
        let weights = Weights::read(&path).unwrap();
        assert!(weights.names().all(|name| !name.starts_with(HEAD)) && weights.get("fc.weight").is_some());
        assert!(!weights.note.as_ref().unwrap().contains("somewhere"));
        let error = Checkpoint::read(&path).unwrap_err();
        assert!(matches!(error, Error::Checkpoint { .. }), "{error}");
    }

    #[test]
    fn incomplete_checkpoints_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint.safetensors");
        let read_with = |change: &dyn Fn(&mut Checkpoint)| {
            let mut checkpoint = example();
            change(&mut checkpoint);
            checkpoint.write(&path).unwrap();
            Checkpoint::read(&path).unwrap_err().to_string()
        };
        assert!(
            read_with(&|c| c.anchors = Anchors::Rows(Array2::ones((3, 3))))
                .contains("`cac/anchors` has shape [3, 3]")
        );
        assert!(read_with(&|c| c.check.logits[[0, 0]] = f32::NAN).contains("`cac/check/logits` holds NaN"));
        assert!(read_with(&|c| c.facts.classes.push("cow".to_owned())).contains("expected"));
        assert!(
            read_with(&|c| c.network.insert("fc.bias", &[3], vec![0.0; 3]))
                .contains("`fc.bias` has shape [3]")
        );
    }
}
