//! The part of the metadata that scoring needs. It is read strictly: a missing or damaged field is an error.

use std::collections::HashSet;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use super::{FORMAT_VERSION, Fault, PREFIX};
use crate::{
    data::fault_of_class,
    image::{Input, SIZES},
    method::{LogitScore, RejectionScore},
    text::composed,
};

/// Everything that scoring needs besides the graph.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Decision {
    /// The format version of the file, at most [`FORMAT_VERSION`].
    pub format_version: u32,
    /// The names of the known classes, in the order of the logits; two or more, all different.
    pub classes: Vec<String>,
    /// Image size and normalisation.
    pub input: Input,
    /// Whether the graph resizes images of any size to this size.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub resizes: bool,
    /// The rejection score that the graph computes.
    pub score: RejectionScore,
    /// The decision threshold and the rule behind it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threshold: Option<Threshold>,
    /// The score of places, in a file with the output `logit_map`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub places: Option<PlaceScore>,
}

/// The score of places of an image, and what it is compared with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlaceScore {
    /// The score.
    pub score: LogitScore,
    /// This score of whole images, the known ones from which thresholds are chosen, in ascending order; one
    /// or more.
    pub held_out_scores: Vec<f32>,
}

/// The decision threshold on the rejection score and the rule behind it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Threshold {
    /// An image is unknown if its score is larger.
    pub value: f32,
    /// The share of new known images that the threshold keeps, 0 to below 1, on average over draws of the
    /// images that it was chosen from; `None` if the value was set by hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep: Option<f64>,
    /// The share of new known images that it keeps with 95 % confidence; `None` without such a
    /// [guarantee](crate::method::threshold).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_at_least: Option<f64>,
    /// Description of the known images from which thresholds are chosen: held-out ones, unless
    /// [`is_from_test`](Self::is_from_test).
    pub data: String,
    /// Whether these are the test images, because the training held none out. The kept share of these then
    /// does not estimate that of new images.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_from_test: bool,
    /// The scores of these images in ascending order, so that another share can be chosen.
    pub held_out_scores: Vec<f32>,
    /// Thresholds per predicted class, `[C]`, on the raw score. The file's score, to which
    /// [`value`](Self::value) applies, is relative to them. `None` if one threshold holds for all classes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes: Option<Vec<f32>>,
    /// Further thresholds, in the order of the output `unknown_at`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub operating_points: Vec<OperatingPoint>,
}

impl Threshold {
    /// The share of new known images that the threshold was chosen to keep; `None` if another threshold is in
    /// use, or if it was set by hand.
    #[must_use]
    pub fn share_kept_by(&self, threshold: f32) -> Option<f64> {
        self.keep.filter(|_| threshold.to_bits() == self.value.to_bits())
    }

    /// What is wrong with it, if anything, in a file with this many classes.
    fn fault(&self, classes: usize) -> Option<String> {
        if !are_ascending(&self.held_out_scores) {
            return Some("has held-out scores that do not ascend".to_owned());
        }
        let points = self.operating_points.iter().map(|point| point.keep);
        if let Some(keep) = self.keep.into_iter().chain(points).find(|keep| !(0.0..1.0).contains(keep)) {
            return Some(format!("keeps a share of {keep}, expected 0 to below 1"));
        }
        if let Some(share) = self.kept_at_least.filter(|share| !(0.0..=1.0).contains(share)) {
            return Some(format!("has `kept_at_least` {share}, expected 0 to 1"));
        }
        let thresholds = self.classes.as_ref().map(Vec::len).filter(|&thresholds| thresholds != classes)?;
        Some(format!("has {thresholds} thresholds for {classes} classes"))
    }
}

/// A threshold and what it keeps.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct OperatingPoint {
    /// The share of new known images that it keeps, as [`Threshold::keep`].
    pub keep: f64,
    /// An image is unknown if its score is larger.
    pub threshold: f32,
}

impl Decision {
    /// The scores of the held-out images from which the threshold was chosen, ascending; empty if none.
    #[must_use]
    pub fn held_out_scores(&self) -> &[f32] {
        self.threshold.as_ref().map_or(&[], |threshold| &threshold.held_out_scores)
    }

    /// Whether there is a threshold for each predicted class. The file's score is then relative to them.
    #[must_use]
    pub fn is_per_class(&self) -> bool {
        self.threshold.as_ref().is_some_and(|threshold| threshold.classes.is_some())
    }

    /// Removes the fields of the decision from all fields. The version is checked first: a newer file may
    /// have fields of another form.
    pub(super) fn take(fields: &mut Map<String, Value>) -> Result<Self, Fault> {
        let found = fields.remove("format_version").ok_or_else(|| {
            Fault::Broken(format!(
                "its metadata has no `{PREFIX}format_version`: it is not a model of this toolkit"
            ))
        })?;
        let version =
            found.as_u64().and_then(|version| u32::try_from(version).ok()).filter(|&version| version > 0);
        let version = version.ok_or_else(|| {
            Fault::Broken(format!("`{PREFIX}format_version` is {found}, expected 1 to {FORMAT_VERSION}"))
        })?;
        if version > FORMAT_VERSION {
            return Err(Fault::Newer(version));
        }
        let mut classes: Vec<String> = needed(fields, "classes")?;
        if classes.len() < 2 {
            return Err(Fault::Broken(format!(
                "`{PREFIX}classes` has {} names, expected at least 2",
                classes.len()
            )));
        }
        let mut names = HashSet::new();
        if let Some(twice) = classes.iter().find(|name| !names.insert(*name)) {
            return Err(Fault::Broken(format!("`{PREFIX}classes` has `{twice}` twice")));
        }
        // In the form of the names of folders, unless an earlier version took two forms for two classes.
        let composed: Vec<String> = classes.iter().map(|name| composed(name)).collect();
        if composed.iter().collect::<HashSet<_>>().len() == classes.len() {
            classes = composed;
        }
        // Version 1 had no such rule.
        if let Some(reason) = classes.iter().find_map(|name| fault_of_class(name)).filter(|_| version > 1) {
            return Err(Fault::Broken(format!("`{PREFIX}classes`: {reason}")));
        }
        let input: Input = needed(fields, "input")?;
        // Files of version 1 may have smaller inputs than today's networks.
        input
            .check(&(1..=*SIZES.end()))
            .map_err(|error| Fault::Broken(format!("`{PREFIX}input`: {error}")))?;
        let resizes = optional(fields, "resizes")?.unwrap_or(false);
        let score = needed(fields, "score")?;
        let mut threshold: Option<Threshold> = optional(fields, "threshold")?;
        if let Some(threshold) = threshold.as_mut().filter(|_| version == 1) {
            threshold.data = without_folders(&threshold.data);
        }
        if let Some(fault) = threshold.as_ref().and_then(|threshold| threshold.fault(classes.len())) {
            return Err(Fault::Broken(format!("`{PREFIX}threshold` {fault}")));
        }
        let places: Option<PlaceScore> = optional(fields, "places")?;
        if places.as_ref().is_some_and(|places| places.held_out_scores.is_empty()) {
            return Err(Fault::Broken(format!("`{PREFIX}places` has no scores to compare with")));
        }
        if places.as_ref().is_some_and(|places| !are_ascending(&places.held_out_scores)) {
            return Err(Fault::Broken(format!("`{PREFIX}places` has held-out scores that do not ascend")));
        }
        Ok(Self { format_version: version, classes, input, resizes, score, threshold, places })
    }
}

/// `1000 training images of a data set`, where version 1 wrote the path of the data set on its machine.
fn without_folders(data: &str) -> String {
    let Some((images, path)) = data.split_once(" of ") else { return data.to_owned() };
    let name = path.trim_end_matches(['/', '\\']).rsplit(['/', '\\']).next().unwrap_or_default();
    format!("{images} of {name}")
}

/// Whether scores are finite and in ascending order.
fn are_ascending(scores: &[f32]) -> bool {
    scores.iter().all(|score| score.is_finite()) && scores.is_sorted()
}

fn needed<T: DeserializeOwned>(fields: &mut Map<String, Value>, name: &str) -> Result<T, Fault> {
    optional(fields, name)?.ok_or_else(|| Fault::Broken(format!("its metadata `{PREFIX}{name}` is missing")))
}

fn optional<T: DeserializeOwned>(fields: &mut Map<String, Value>, name: &str) -> Result<Option<T>, Fault> {
    let Some(value) = fields.remove(name) else { return Ok(None) };
    let read = serde_json::from_value(value);
    read.map(Some)
        .map_err(|error| Fault::Broken(format!("its metadata `{PREFIX}{name}` is damaged: {error}")))
}
