//! Checkpoints: a trained network with everything that export needs, in one file.
//!
//! The file is a safetensors file. The network's tensors keep their own names, so a checkpoint can serve as
//! a backbone. Everything else has names that begin with `cac/`, which no layer may use.

use std::path::Path;

use ndarray::{Array2, Array4};
use serde::{Deserialize, Serialize};

use crate::{
    arch::{self, Architecture, HEAD_PREFIX, Layer},
    data::{Degradation, KnownData},
    error::{Error, Result},
    image::{Input, SIZES},
    method::{AnchorKind, Anchors, LastLayer, LogitScore, Loss},
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
    /// Logits of held-out known images.
    pub held_out: HeldOut,
    /// Features, from which an export fits scores and chooses one; `None` before the end of a training.
    pub features: Option<Features>,
    /// The same for mirror images; `None` if the training mirrored none, or for an import.
    pub mirrored: Option<Mirrored>,
    /// Logits of the test after training; `None` without a test.
    pub test: Option<TestLogits>,
    /// Images and logits for the self-check of an export.
    pub check: CheckBatch,
}

/// Logits `[M, C]` of held-out known images; M may be 0.
#[derive(Debug, Clone, PartialEq)]
pub struct HeldOut {
    /// Of the images that choose the epoch and the score.
    pub choosing: Array2<f32>,
    /// Of the images from which the threshold is chosen. They influenced nothing else, so the threshold
    /// keeps its [promise](crate::method::threshold).
    pub calibrating: Array2<f32>,
}

/// Features `[M, F]` of some images: the last layer's input.
#[derive(Debug, Clone, PartialEq)]
pub struct Features {
    /// Of training images.
    pub training: Array2<f32>,
    /// The classes of these training images, `[M]`.
    pub labels: Vec<i64>,
    /// Of the held-out images that choose, in the order of their logits.
    pub choosing: Array2<f32>,
    /// Of those from which the threshold is chosen.
    pub calibrating: Array2<f32>,
    /// Name and features of images that stand for unknown ones.
    pub stand_ins: Vec<(String, Array2<f32>)>,
    /// Each degradation with the features of images that calibrate, degraded: of at most 1,000, evenly spaced.
    pub degraded: Vec<(Degradation, Array2<f32>)>,
    /// Of the test images; `None` without a test, or if they would be too large.
    pub test: Option<TestFeatures>,
}

/// Features `[M, F]` of the test images, in the order of their logits.
#[derive(Debug, Clone, PartialEq)]
pub struct TestFeatures {
    /// Of the known test images.
    pub known: Array2<f32>,
    /// Of each unknown test set.
    pub unknown: Vec<Array2<f32>>,
}

impl TestFeatures {
    /// The features of each set, those of the known images first.
    pub fn sets(&self) -> impl Iterator<Item = &Array2<f32>> {
        [&self.known].into_iter().chain(&self.unknown)
    }
}

/// The network's outputs for the mirror images of a checkpoint's images.
#[derive(Debug, Clone, PartialEq)]
pub struct Mirrored {
    /// Their features, in the order of the others.
    pub features: Features,
    /// Logits `[N, C]` for the self-check.
    pub check: Array2<f32>,
}

impl Features {
    /// The shapes of all matrices, in order.
    fn shapes(&self) -> Vec<(usize, usize)> {
        let Self { training, choosing, calibrating, stand_ins, degraded, test, .. } = self;
        let degraded = degraded.iter().map(|(_, features)| features);
        let made = stand_ins.iter().map(|(_, features)| features).chain(degraded);
        let tests = test.iter().flat_map(TestFeatures::sets);
        let all = [training, choosing, calibrating].into_iter().chain(made).chain(tests);
        all.map(Array2::dim).collect()
    }

    /// Whether these are features of the images whose logits are given, and the labels are those of classes.
    fn fits(&self, held_out: &HeldOut, test: Option<&TestLogits>, classes: usize) -> bool {
        let rows = |matrices: [&Array2<f32>; 2]| matrices.map(Array2::nrows);
        let has_classes = self.labels.iter().all(|&label| (0..classes as i64).contains(&label));
        let has_held_out =
            rows([&self.choosing, &self.calibrating]) == rows([&held_out.choosing, &held_out.calibrating]);
        let has_test = self.test.as_ref().zip(test).is_none_or(|(features, logits)| {
            let logits = [&logits.known].into_iter().chain(logits.unknown.iter().map(|(_, logits)| logits));
            features.sets().map(Array2::nrows).eq(logits.map(Array2::nrows))
        });
        let degraded = self.calibrating.nrows().min(DEGRADED);
        let has_degraded = self.degraded.iter().all(|(_, features)| features.nrows() == degraded);
        has_classes && has_held_out && has_degraded && has_test
    }

    /// The mean of the features of two views of the same images.
    fn mean(&self, other: &Self) -> Self {
        let test = self.test.as_ref().zip(other.test.as_ref()).map(|(one, other)| {
            let unknown = one.unknown.iter().zip(&other.unknown).map(|(one, other)| mean(one, other));
            TestFeatures { known: mean(&one.known, &other.known), unknown: unknown.collect() }
        });
        Self {
            training: mean(&self.training, &other.training),
            labels: self.labels.clone(),
            choosing: mean(&self.choosing, &other.choosing),
            calibrating: mean(&self.calibrating, &other.calibrating),
            stand_ins: means(&self.stand_ins, &other.stand_ins),
            degraded: means(&self.degraded, &other.degraded),
            test,
        }
    }
}

/// The mean of the features of two views.
fn mean(one: &Array2<f32>, other: &Array2<f32>) -> Array2<f32> {
    (one + other) * 0.5
}

/// The same for the features of each kind.
fn means<Kind: Clone>(
    one: &[(Kind, Array2<f32>)],
    other: &[(Kind, Array2<f32>)],
) -> Vec<(Kind, Array2<f32>)> {
    one.iter().zip(other).map(|((kind, one), (_, other))| (kind.clone(), mean(one, other))).collect()
}

/// The most held-out images that are degraded.
const DEGRADED: usize = 1000;

/// Those of the images that calibrate that are degraded, evenly spaced.
#[cfg(any(feature = "export", feature = "train"))]
pub(crate) fn degraded_among(calibrating: &[usize]) -> Vec<usize> {
    let count = calibrating.len().min(DEGRADED);
    (0..count).map(|number| calibrating[number * calibrating.len() / count]).collect()
}

/// The most training images to whose features scores are fitted, at least one of each class; and the most held-out
/// images that choose the epoch and the score, whose features are kept, too.
pub const EXAMPLES: usize = 5000;

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
    /// Whether the features are averaged over an image and its mirror image.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub averages_views: bool,
    /// The logit score for tests in training; it depends on the loss and the outliers.
    pub score: LogitScore,
    /// Name of the weights file, if the network was imported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub imported: Option<String>,
    /// Training record for the model file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training: Option<Training>,
    /// Location of the training data on this machine; never written to a model file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<KnownData>,
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
pub enum CheckpointKind {
    /// The best epoch.
    Best,
    /// The last epoch, or the moment of an interruption.
    Last,
}

impl CheckpointKind {
    /// Both checkpoints.
    pub const ALL: [Self; 2] = [Self::Best, Self::Last];
}

/// Anchors as rows `[C, C]`, or the magnitude `[1]` of fixed ones.
const ANCHORS: &str = "cac/anchors";
const CHOOSING: &str = "cac/held-out/choosing";
const CALIBRATING: &str = "cac/held-out/calibrating";
/// From runs whose held-out images all chose the epoch.
const HELD_OUT_BEFORE: &str = "cac/held-out";
/// Prefixes of the features of images and of their mirror images, and what follows them.
const FEATURES: &str = "cac/features/";
const MIRRORED: &str = "cac/mirrored/";
const FEATURES_TRAINING: &str = "training";
const FEATURES_LABELS: &str = "labels";
const FEATURES_CHOOSING: &str = "choosing";
const FEATURES_CALIBRATING: &str = "calibrating";
const FEATURES_STAND_IN: &str = "stand-in/";
const FEATURES_DEGRADED: &str = "degraded/";
const FEATURES_TEST_KNOWN: &str = "test/known";
const FEATURES_TEST_UNKNOWN: &str = "test/unknown/";
const CHECK_IMAGES: &str = "cac/check/images";
const CHECK_LOGITS: &str = "cac/check/logits";
const CHECK_MIRRORED: &str = "cac/check/mirrored";
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
        facts.input.check(&SIZES).map_err(|error| broken(error.to_string()))?;
        let layers = facts.layers()?;
        if file.get(HELD_OUT_BEFORE).is_some() {
            let reason =
                "an earlier version chose epoch and threshold on the same held-out images; train again";
            return Err(broken(reason.to_owned()));
        }
        let rows = |name: &str| file.rows(name);
        let logits = |name: &str| file.matrix(name, [rows(name), facts.classes.len()]);
        let test = match file.get(TEST_KNOWN) {
            None => None,
            Some(_) => {
                let labels = file.values(TEST_LABELS, &[rows(TEST_KNOWN)])?;
                let unknown = file.listed(TEST_UNKNOWN, facts.classes.len())?;
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
        let width = arch::feature_count(&layers);
        let mirrored = match file.features(MIRRORED, width)? {
            Some(features) => {
                let check = file.matrix(CHECK_MIRRORED, [check_shape[0], facts.classes.len()])?;
                Some(Mirrored { features, check })
            }
            None => None,
        };
        let features = file.features(FEATURES, width)?;
        let held_out = HeldOut { choosing: logits(CHOOSING)?, calibrating: logits(CALIBRATING)? };
        if features.as_ref().is_some_and(|features| !features.fits(&held_out, test.as_ref(), classes)) {
            return Err(broken("its features do not match its logits".to_owned()));
        }
        let shapes = |features: Option<&Features>| features.map(Features::shapes);
        if mirrored.is_some() && shapes(mirrored.as_ref().map(|it| &it.features)) != shapes(features.as_ref())
        {
            return Err(broken("the features of mirror images do not match the others".to_owned()));
        }
        Ok(Self {
            anchors,
            held_out,
            features,
            mirrored,
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
        file.insert_matrix(CHOOSING, &self.held_out.choosing);
        file.insert_matrix(CALIBRATING, &self.held_out.calibrating);
        if let Some(features) = &self.features {
            file.insert_features(FEATURES, features);
        }
        if let Some(Mirrored { features, check }) = &self.mirrored {
            file.insert_features(MIRRORED, features);
            file.insert_matrix(CHECK_MIRRORED, check);
        }
        file.insert(CHECK_IMAGES, self.check.images.shape(), self.check.images.iter().copied().collect());
        file.insert_matrix(CHECK_LOGITS, &self.check.logits);
        if let Some(TestLogits { known, labels, unknown, skipped }) = &self.test {
            file.insert(TEST_SKIPPED, &[1], vec![*skipped as f32]);
            file.insert_matrix(TEST_KNOWN, known);
            file.insert(TEST_LABELS, &[labels.len()], labels.iter().map(|&label| label as f32).collect());
            file.insert_listed(TEST_UNKNOWN, unknown.iter().map(|(name, logits)| (name.as_str(), logits)));
        }
        debug_assert!(self.network.names().all(|name| !name.starts_with(HEAD_PREFIX)));
        file
    }

    /// The weight `[C, F]` and the bias `[C]` of the last layer.
    ///
    /// # Errors
    /// [`Error::Weights`] if they are missing or misshaped.
    pub fn last_layer(&self) -> Result<LastLayer> {
        let layers = self.facts.layers()?;
        let last = layers.last().expect("a network has layers");
        let [(weight, shape), (bias, _)] = &last.parameters()[..] else {
            unreachable!("the last layer is linear, with a bias")
        };
        let weight = self.network.matrix(weight, [shape[0], shape[1]])?;
        Ok(LastLayer { weight, bias: self.network.values(bias, &[shape[0]])?.to_vec() })
    }

    /// The checkpoint of a network whose features are averaged over an image and its mirror image. Class-mean
    /// anchors are those of the training images whose features are kept. Without features of the test images it
    /// has no test.
    ///
    /// # Errors
    /// [`Error::Setting`] if there are no features of mirror images, or none from which a threshold could be
    /// chosen, and those of [`last_layer`](Self::last_layer).
    pub fn of_both_views(self) -> Result<Self> {
        let refused = |reason: &str| Error::setting("mirror", true, reason);
        let features = self.features.as_ref();
        let features = features.ok_or_else(|| refused("needs the best epoch of a finished training"))?;
        let mirrored = self.mirrored.as_ref();
        let mirrored =
            mirrored.ok_or_else(|| refused("needs a training whose augmentation mirrors images"))?;
        let features = features.mean(&mirrored.features);
        if features.calibrating.is_empty() && self.test.is_some() && features.test.is_none() {
            return Err(refused(
                "needs held-out images: the features of the test images were too large to keep",
            ));
        }
        let last_layer = self.last_layer()?;
        let logits = |features: &Array2<f32>| last_layer.logits(features.view());
        let anchors = match self.facts.anchors {
            AnchorKind::Fixed => self.anchors,
            AnchorKind::ClassMeans => {
                let fixed = Anchors::fixed(self.facts.classes.len(), self.facts.loss.magnitude);
                fixed.class_means(logits(&features.training).view(), &features.labels)
            }
        };
        let held_out =
            HeldOut { choosing: logits(&features.choosing), calibrating: logits(&features.calibrating) };
        let test = self.test.zip(features.test.as_ref()).map(|(test, TestFeatures { known, unknown })| {
            let names = test.unknown.into_iter().map(|(name, _)| name);
            TestLogits {
                known: logits(known),
                unknown: names.zip(unknown.iter().map(logits)).collect(),
                ..test
            }
        });
        let check =
            CheckBatch { logits: (self.check.logits + &mirrored.check) * 0.5, images: self.check.images };
        Ok(Self {
            facts: Facts { averages_views: true, ..self.facts },
            anchors,
            features: Some(features),
            mirrored: None,
            held_out,
            test,
            check,
            ..self
        })
    }

    /// Writes only the network's weights, as a backbone: no logits, no images and no path. The metadata holds
    /// the input (size and normalisation), the architecture, and which images were trained on: the name of
    /// the data set and how it was divided.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write_weights(&self, path: &Path) -> Result<()> {
        let Facts { input, architecture, training, .. } = &self.facts;
        let training = training.as_ref().map(Training::of_backbone);
        let note = serde_json::json!({ "input": input, "architecture": architecture, "training": training });
        let mut file = self.network.clone();
        file.note = Some(note.to_string());
        file.write(path)
    }
}

impl Weights {
    /// The length of a tensor's first axis; 0 if there is no such tensor.
    fn rows(&self, name: &str) -> usize {
        self.get(name).and_then(|tensor| tensor.shape.first()).copied().unwrap_or(0)
    }

    /// Features of `width` numbers whose names begin with `prefix`, if there are any.
    fn features(&self, prefix: &str, width: usize) -> Result<Option<Features>> {
        let named = |name: &str| format!("{prefix}{name}");
        let matrix = |name: &str| self.matrix(&named(name), [self.rows(&named(name)), width]);
        if self.get(&named(FEATURES_TRAINING)).is_none() {
            return Ok(None);
        }
        let labels = self.values(&named(FEATURES_LABELS), &[self.rows(&named(FEATURES_TRAINING))])?;
        let test = match self.get(&named(FEATURES_TEST_KNOWN)) {
            Some(_) => {
                let unknown = self.listed(&named(FEATURES_TEST_UNKNOWN), width)?;
                Some(TestFeatures {
                    known: matrix(FEATURES_TEST_KNOWN)?,
                    unknown: unknown.into_iter().map(|(_, features)| features).collect(),
                })
            }
            None => None,
        };
        let mut degraded = Vec::new();
        for (name, features) in self.listed(&named(FEATURES_DEGRADED), width)? {
            let degradation = name.parse().map_err(|error| self.error(format!("{error}")))?;
            degraded.push((degradation, features));
        }
        Ok(Some(Features {
            training: matrix(FEATURES_TRAINING)?,
            labels: labels.iter().map(|&label| label as i64).collect(),
            choosing: matrix(FEATURES_CHOOSING)?,
            calibrating: matrix(FEATURES_CALIBRATING)?,
            stand_ins: self.listed(&named(FEATURES_STAND_IN), width)?,
            degraded,
            test,
        }))
    }

    /// Adds features for [`features`](Self::features).
    fn insert_features(&mut self, prefix: &str, features: &Features) {
        let Features { training, labels, choosing, calibrating, stand_ins, degraded, test } = features;
        let named = |name: &str| format!("{prefix}{name}");
        self.insert_matrix(&named(FEATURES_TRAINING), training);
        let numbers = labels.iter().map(|&label| label as f32).collect();
        self.insert(&named(FEATURES_LABELS), &[labels.len()], numbers);
        self.insert_matrix(&named(FEATURES_CHOOSING), choosing);
        self.insert_matrix(&named(FEATURES_CALIBRATING), calibrating);
        let stand_ins = stand_ins.iter().map(|(name, features)| (name.as_str(), features));
        self.insert_listed(&named(FEATURES_STAND_IN), stand_ins);
        let degraded = degraded.iter().map(|(degradation, features)| (degradation.name(), features));
        self.insert_listed(&named(FEATURES_DEGRADED), degraded);
        if let Some(TestFeatures { known, unknown }) = test {
            self.insert_matrix(&named(FEATURES_TEST_KNOWN), known);
            let unknown = unknown.iter().map(|features| ("set", features));
            self.insert_listed(&named(FEATURES_TEST_UNKNOWN), unknown);
        }
    }

    /// The matrices with `columns` columns whose names are `prefix`, a number and a name of their own, in
    /// the order of the numbers.
    fn listed(&self, prefix: &str, columns: usize) -> Result<Vec<(String, Array2<f32>)>> {
        let mut found = Vec::new();
        for name in self.names() {
            if let Some((number, own)) = name.strip_prefix(prefix).and_then(|rest| rest.split_once('/'))
                && let Ok(number) = number.parse::<usize>()
            {
                found.push((number, name, own));
            }
        }
        found.sort_unstable();
        let matrix = |(_, name, own): (usize, &str, &str)| {
            Ok((own.to_owned(), self.matrix(name, [self.rows(name), columns])?))
        };
        found.into_iter().filter(|(.., own)| !own.is_empty()).map(matrix).collect()
    }

    /// Adds matrices for [`listed`](Self::listed).
    fn insert_listed<'a>(
        &mut self,
        prefix: &str,
        matrices: impl Iterator<Item = (&'a str, &'a Array2<f32>)>,
    ) {
        for (number, (name, matrix)) in matrices.enumerate() {
            self.insert_matrix(&format!("{prefix}{number:04}/{name}"), matrix);
        }
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
                averages_views: false,
                score: LogitScore::Cac,
                imported: None,
                training: None,
                data: Some(KnownData { held_out_test: Some(0.2), ..KnownData::new("/somewhere") }),
            },
            network,
            anchors: Anchors::fixed(2, 10.0),
            held_out: HeldOut { choosing: Array2::ones((1, 2)), calibrating: Array2::zeros((0, 2)) },
            features: None,
            mirrored: None,
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
        let width = checkpoint.last_layer().unwrap().weight.ncols();
        let rows = |count: usize| {
            Array2::from_shape_fn((count, width), |(row, column)| (row * width + column) as f32)
        };
        let features = Features {
            training: rows(3),
            labels: vec![1, 0, 1],
            choosing: rows(1),
            calibrating: rows(0),
            stand_ins: vec![("scrambled".to_owned(), rows(2)), ("blended".to_owned(), rows(1))],
            degraded: vec![(Degradation::Noise, rows(0)), (Degradation::Reduced, rows(0))],
            test: Some(TestFeatures { known: rows(3), unknown: vec![rows(1), rows(2)] }),
        };
        let mirrored = Features { choosing: rows(1) * 2.0, ..features.clone() };
        let mirrored = Mirrored { features: mirrored, check: Array2::ones((1, 2)) };
        let untested = Checkpoint {
            test: None,
            anchors: means.clone(),
            features: Some(features.clone()),
            mirrored: Some(mirrored.clone()),
            ..checkpoint
        };
        untested.write(&path).unwrap();
        let read = Checkpoint::read(&path).unwrap();
        assert_eq!((read.test, read.anchors, read.features), (None, means, Some(features.clone())));
        assert_eq!(read.mirrored.as_ref(), Some(&mirrored));
        for other in [
            Features { choosing: rows(2), ..features.clone() },
            Features { stand_ins: Vec::new(), ..features.clone() },
            Features { degraded: Vec::new(), ..features },
        ] {
            let mirrored = Some(Mirrored { features: other, ..mirrored.clone() });
            Checkpoint { mirrored, ..untested.clone() }.write(&path).unwrap();
            let error = Checkpoint::read(&path).unwrap_err().to_string();
            assert!(error.contains("the features of mirror images do not match"), "{error}");
        }
    }

    #[test]
    fn exported_weights_contain_no_images_or_paths() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights.safetensors");
        let record = serde_json::json!({ "known": "somewhere/cats", "unknown": ["a=somewhere"], "seed": 3 });
        let mut checkpoint = example();
        checkpoint.facts.training = Some(Training::from(record.as_object().unwrap().clone()));
        checkpoint.write_weights(&path).unwrap();
        let weights = Weights::read(&path).unwrap();
        assert!(weights.note.as_ref().unwrap().contains(r#""training":{"known":"cats","seed":3}"#));
        assert!(
            weights.names().all(|name| !name.starts_with(HEAD_PREFIX)) && weights.get("fc.weight").is_some()
        );
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
        let width = example().last_layer().unwrap().weight.ncols();
        let rows = |count| Array2::zeros((count, width));
        let fitting = || Features {
            training: rows(2),
            labels: vec![1, 0],
            choosing: rows(1),
            calibrating: rows(0),
            stand_ins: Vec::new(),
            degraded: vec![(Degradation::Noise, rows(0))],
            test: Some(TestFeatures {
                known: rows(3),
                unknown: example().test.unwrap().unknown.iter().map(|(_, z)| rows(z.nrows())).collect(),
            }),
        };
        let read_features = |change: &dyn Fn(&mut Features)| {
            read_with(&|checkpoint| {
                let mut features = fitting();
                change(&mut features);
                checkpoint.features = Some(features);
            })
        };
        for error in [
            read_features(&|features| features.labels[1] = 2),
            read_features(&|features| features.labels[1] = -1),
            read_features(&|features| features.calibrating = rows(1)),
            read_features(&|features| features.degraded[0].1 = rows(2)),
            read_features(&|features| features.test.as_mut().unwrap().unknown.truncate(1)),
            read_features(&|features| features.test.as_mut().unwrap().known = rows(4)),
        ] {
            assert!(error.contains("its features do not match its logits"), "{error}");
        }
        assert!(
            read_with(&|c| c.network.insert("fc.bias", &[3], vec![0.0; 3]))
                .contains("`fc.bias` has shape [3]")
        );
    }
}
