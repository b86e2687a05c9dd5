//! The origin of a model, for humans. It is read field by field: a field that cannot be parsed is kept as is
//! and never prevents scoring.

#[cfg(feature = "files")]
use std::collections::HashSet;
use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

use crate::{
    arch::Architecture,
    data::Degradation,
    method::{AnchorKind, Loss, RejectionScore},
    model::{ModelPrecision, Training, golden::GoldenBatch},
    report::Report,
    text::listed,
};
#[cfg(feature = "files")]
use crate::{data::Dataset, error::Result};

/// The loss that is no weakness, as a share of all images: a fifth, and what rounding may add.
const TOLERATED: f64 = 0.2 + 1e-9;

/// The number of candidates that are shown.
const SHOWN: usize = 5;

/// How a model was made. A field is `None` if it is missing, or if this version cannot parse it; then `other`
/// has it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct History {
    /// Name and version of the toolkit that wrote the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub producer: Option<String>,
    /// The network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub architecture: Option<Architecture>,
    /// The loss that the network was trained with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<Loss>,
    /// How the anchors were obtained.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub anchors: Option<AnchorKind>,
    /// The precision of the network in the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub precision: Option<ModelPrecision>,
    /// Whether features are averaged over an image and its mirror image; `None` means no.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub averages_views: Option<bool>,
    /// Name and version of the runtime that the file was checked with when it was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checked_with: Option<String>,
    /// The recalibration that chose the threshold; `None` if the export chose it. That its images had no other use
    /// in the model is the user's statement.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recalibration: Option<Recalibration>,
    /// The comparison of the graph's resizing with [`image::pixels`](crate::image::pixels), if the graph
    /// resizes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resize_check: Option<ResizeCheck>,
    /// Name of the weights file, if the network was imported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub imported: Option<String>,
    /// The training record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub training: Option<Training>,
    /// The outputs for the [golden images](super::golden::images).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub golden: Option<GoldenBatch>,
    /// Why the score was chosen; `None` if it was given, or nothing could be compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub choice: Option<Choice>,
    /// What the threshold keeps of degraded known images; `None` if none were seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub robustness: Option<Robustness>,
    /// Metrics of the test after training, for the score and the threshold of the export, in float32; after a
    /// recalibration without those of the threshold, and `None` with thresholds for each class.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<Report>,
    /// Fields that this version does not know or cannot parse.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

impl History {
    /// Parses the fields that the decision leaves, in a file of format version `version`.
    pub(super) fn take(mut fields: Map<String, Value>, version: u32) -> Self {
        if version == 1 {
            translate_version_1(&mut fields);
        }
        Self {
            producer: understood(&mut fields, "producer"),
            architecture: understood(&mut fields, "architecture"),
            loss: understood(&mut fields, "loss"),
            anchors: understood(&mut fields, "anchors"),
            precision: understood(&mut fields, "precision"),
            averages_views: understood(&mut fields, "averages_views"),
            checked_with: understood(&mut fields, "checked_with"),
            recalibration: understood(&mut fields, "recalibration"),
            resize_check: understood(&mut fields, "resize_check"),
            imported: understood(&mut fields, "imported"),
            training: understood(&mut fields, "training"),
            golden: understood(&mut fields, "golden"),
            choice: understood(&mut fields, "choice"),
            robustness: understood(&mut fields, "robustness"),
            metrics: understood(&mut fields, "metrics"),
            other: fields.into_iter().collect(),
        }
    }

    /// [`Manifest::doubt_of_held_out`](super::Manifest::doubt_of_held_out) of a file of the current format.
    pub(crate) fn doubt_of_held_out(&self) -> Option<&'static str> {
        if self.recalibration.is_some() {
            return None;
        }
        let is_seen = self.training.as_ref().and_then(|training| training.held_out_seen) == Some(true);
        if self.imported.is_some() {
            Some("the network may have learned from the images that were given to `import`")
        } else if is_seen {
            Some("the backbone had learned from the held-out images")
        } else if self.precision == Some(ModelPrecision::Int8) {
            Some("the held-out scores are those of the network in float32, not in int8")
        } else {
            None
        }
    }
}

/// What it means that held-out images look almost like a training image, without a full stop.
pub(crate) fn held_out_alike_in_words(count: usize) -> String {
    format!(
        "held-out images that look almost like a training image: {count}; if they are copies, or frames of one video, \
         {FEWER}"
    )
}

/// What it means that test images look almost like a training image, without a full stop.
pub(crate) fn tests_alike_in_words(count: usize) -> String {
    format!(
        "test images that look almost like a training image: {count}; if they are copies, or frames of one video, the \
         accuracy is too high"
    )
}

/// What happens if held-out images are no independent images of the known classes.
const FEWER: &str = "the threshold keeps fewer new images than guaranteed";

/// A recalibration: a new threshold for an existing file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recalibration {
    /// Name and version of the toolkit.
    pub producer: String,
    /// The provider that computed the held-out scores; those of int8 and bfloat16 differ on others.
    pub provider: String,
    /// The [`Dataset::digests`](crate::data::Dataset::digests) of the images that the threshold was chosen from.
    #[serde(default)]
    pub digests: Vec<String>,
    /// How many of these look almost like another one, or like a training image that is at hand; `None` if that
    /// was not counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alike: Option<usize>,
    /// Whether they were compared with the training images: then none is one of these.
    #[serde(default)]
    pub compared: bool,
    /// SHA-256 of the file with the earlier threshold, in hexadecimal.
    pub earlier: String,
}

impl Recalibration {
    /// How many images of a data set the threshold was chosen from.
    ///
    /// # Errors
    /// Those of [`Dataset::digests`].
    #[cfg(feature = "files")]
    pub fn count_in(&self, images: &Dataset) -> Result<usize> {
        Ok(self.count_among(images.digests()?.iter().flatten()))
    }

    /// How many of the images with these digests the threshold was chosen from.
    #[cfg(feature = "files")]
    pub(crate) fn count_among<'a>(&self, digests: impl IntoIterator<Item = &'a String>) -> usize {
        let chose: HashSet<&String> = self.digests.iter().collect();
        digests.into_iter().filter(|digest| chose.contains(digest)).count()
    }

    /// [`Manifest::cautions_of_held_out`](super::Manifest::cautions_of_held_out).
    pub(super) fn cautions(&self) -> Vec<String> {
        let alike = self.alike.filter(|&count| count > 0).map(|count| {
            format!(
                "images of the recalibration that look almost like another one, or like a training image: {count}; if \
                 they are copies, or frames of one video, {FEWER}"
            )
        });
        let unknown = (!self.compared).then(|| {
            format!(
                "the images of the recalibration were not compared with the training images; if the network was \
                 trained on some of them, {FEWER}"
            )
        });
        alike.into_iter().chain(unknown).collect()
    }
}

/// Removes and returns a field if it can be parsed.
pub(super) fn understood<T: DeserializeOwned>(fields: &mut Map<String, Value>, name: &str) -> Option<T> {
    let read = T::deserialize(fields.get(name)?).ok()?;
    fields.remove(name);
    Some(read)
}

/// Renames the fields of format version 1 to the current names.
fn translate_version_1(fields: &mut Map<String, Value>) {
    if let Some(architecture) = fields.get_mut("architecture").and_then(Value::as_object_mut) {
        if architecture.get("family") == Some(&json!("wide-res-net")) {
            architecture.insert("family".to_owned(), json!("wide-resnet"));
        }
        // The input has it.
        architecture.remove("size");
    }
    if let Some(training) = fields.get_mut("training").and_then(Value::as_object_mut) {
        if let Some(Value::Object(recipe)) = training.remove("recipe") {
            training.extend(recipe);
        }
        for (old, new) in [("pictures", "images"), ("anchor_pictures", "anchor_images"), ("average", "ema")] {
            if let Some(value) = training.remove(old) {
                training.insert(new.to_owned(), value);
            }
        }
    }
}

/// What the choice of a score was based on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// The names of the stand-ins.
    pub stand_ins: Vec<String>,
    /// The number of held-out known images, and of images of each stand-in.
    pub images: usize,
    /// All scores that were compared, the best first.
    pub candidates: Vec<Candidate>,
    /// The mean of the best one with unreduced constants, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unreduced: Option<f64>,
}

/// A score that was compared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// The score.
    pub score: RejectionScore,
    /// The mean of the following, 0 to 1.
    pub mean: f64,
    /// The AUROC of known images against each stand-in, 0 to 1.
    pub auroc: Vec<f64>,
}

impl fmt::Display for Choice {
    /// The best score and the runners-up, in one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (images, stand_ins) = (self.images, self.stand_ins.join(", "));
        write!(f, "by AUROC of {images} held-out images against stand-ins for unknown ones ({stand_ins}): ")?;
        for (index, Candidate { score, mean, .. }) in self.candidates.iter().take(SHOWN).enumerate() {
            write!(f, "{}{score} {:.1} %", if index > 0 { ", " } else { "" }, 100.0 * mean)?;
            let rounded = |share: f64| (1000.0 * share).round();
            if let Some(unreduced) = self.unreduced.filter(|unreduced| rounded(*unreduced) != rounded(*mean))
                && index == 0
            {
                write!(f, " ({:.1} % with all constants)", 100.0 * unreduced)?;
            }
        }
        Ok(())
    }
}

/// What an export keeps of degraded known images, by its threshold and the scores of the network in float32.
/// They are among those from which the threshold was chosen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Robustness {
    /// The number of images.
    pub images: usize,
    /// The share of them that is kept as they are, 0 to 1.
    pub kept: f64,
    /// The same images, degraded.
    pub degraded: Vec<Degraded>,
}

/// What is kept of images with one degradation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Degraded {
    /// The degradation.
    pub degradation: Degradation,
    /// The share of the images that is kept, 0 to 1.
    pub kept: f64,
    /// The share that is kept and of the same class as before.
    pub same_class: f64,
}

impl Robustness {
    /// The degradations under which far fewer images are kept in their class, in a sentence without a full
    /// stop; `None` if there are none.
    #[must_use]
    pub fn weakness(&self) -> Option<String> {
        let is_weak = |one: &&Degraded| self.kept - one.same_class > TOLERATED;
        let in_words =
            |one: &Degraded| format!("{:.1} % {}", 100.0 * one.same_class, one.degradation.in_words());
        let weak: Vec<String> = self.degraded.iter().filter(is_weak).map(in_words).collect();
        let kept = 100.0 * self.kept;
        (!weak.is_empty()).then(|| {
            format!(
                "the model keeps {kept:.1} % of known images, but fewer degraded ones in the same class: {}",
                listed(&weak)
            )
        })
    }
}

impl fmt::Display for Robustness {
    /// The shares, in one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} % of {} known images are kept", 100.0 * self.kept, self.images)?;
        for Degraded { degradation, kept, same_class } in &self.degraded {
            let (kept, same_class) = (100.0 * kept, 100.0 * same_class);
            write!(f, "; {} {kept:.1} %, {same_class:.1} % as the same class", degradation.in_words())?;
        }
        Ok(())
    }
}

/// The comparison of a graph's resizing with the toolkit's, when the file was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResizeCheck {
    /// Images from a formula, in portrait and landscape, smaller and larger than the input.
    pub images: usize,
    /// Values of all resized images.
    pub values: usize,
    /// Values that differ.
    pub differing: usize,
}
