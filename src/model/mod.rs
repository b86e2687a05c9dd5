//! A model file: an ONNX graph with metadata in two parts. The [decision](Decision) is all that scoring
//! needs; it is read strictly. The [history](History) is the origin of the model; it is read field by field,
//! and fields that cannot be parsed are kept and shown.

#[cfg(feature = "export")]
pub(crate) mod builder;
mod decision;
#[cfg(any(feature = "tract", feature = "onnxruntime"))]
pub(crate) mod file;
pub mod golden;
mod history;
#[cfg(all(feature = "files", feature = "tract"))]
mod inspect;
#[cfg(any(feature = "tract", feature = "onnxruntime"))]
#[cfg_attr(not(feature = "export"), allow(dead_code, reason = "only an export writes whole models"))]
pub(crate) mod proto;
#[cfg(feature = "export")]
pub(crate) mod resize;
mod training;

#[cfg(any(feature = "tract", feature = "onnxruntime"))]
use prost::bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

#[cfg(any(feature = "tract", feature = "onnxruntime"))]
use crate::files::read_at_most;
use crate::{
    error::{Error, Result},
    method,
    text::per_cent,
};
pub use decision::{Decision, OperatingPoint, PlaceScore, Threshold};
#[cfg(all(feature = "files", feature = "tract"))]
pub use file::with_features;
pub use history::{Candidate, Choice, Degraded, History, Recalibration, ResizeCheck, Robustness};
pub(crate) use history::{held_out_alike_in_words, tests_alike_in_words};
#[cfg(all(feature = "files", feature = "tract"))]
pub use inspect::Inspection;
pub use training::Training;

/// The format version that this toolkit writes, and the newest that it reads.
pub const FORMAT_VERSION: u32 = 2;

/// The threshold of a file for which none was chosen: every image is known.
pub const NO_THRESHOLD: f32 = f32::MAX;

/// The prefix of the metadata properties in an ONNX file, one for each field, with JSON as the value.
pub(crate) const PREFIX: &str = "cac.";

/// The input format of a model file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum InputForm {
    /// float32 `[N, 3, H, W]`, values 0..=1.
    #[serde(rename = "f32")]
    Floats,
    /// uint8 `[N, H, W, 3]`, values 0..=255.
    #[serde(rename = "u8")]
    Bytes,
    /// uint8 `[N, H, W, 3]`, values 0..=255, of any height and width: the graph resizes as
    /// [`image::pixels`](crate::image::pixels) does.
    #[serde(rename = "any-size")]
    AnySize,
}

impl InputForm {
    /// All formats.
    pub const ALL: [Self; 3] = [Self::Floats, Self::Bytes, Self::AnySize];
}

/// The precision of the network in a model file. Anchors, distances and scores are always computed in
/// float32.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ModelPrecision {
    /// float32, as trained.
    #[default]
    #[serde(rename = "f32")]
    Float32,
    /// Weights are stored as float16, half the size; computation is in float32.
    #[serde(rename = "f16")]
    Float16,
    /// Convolutions are quantised to int8, a quarter of the size; faster on ONNX Runtime.
    #[serde(rename = "int8")]
    Int8,
}

impl ModelPrecision {
    /// All precisions.
    pub const ALL: [Self; 3] = [Self::Float32, Self::Float16, Self::Int8];
}

impl std::fmt::Display for ModelPrecision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Float32 => "f32",
            Self::Float16 => "f16",
            Self::Int8 => "int8",
        })
    }
}

/// The maximum length of a model file in bytes, that of a protobuf message.
#[cfg(any(feature = "tract", feature = "onnxruntime"))]
const MAX_FILE: u64 = 2 << 30;

/// The bytes of a model file, unchecked.
///
/// # Errors
/// [`Error::Io`] if it cannot be read, [`Error::Model`] if it is longer than a model can be.
#[cfg(any(feature = "tract", feature = "onnxruntime"))]
pub fn read(path: &std::path::Path) -> Result<Bytes> {
    let bytes = read_at_most(path, MAX_FILE).map_err(Error::io("read", path))?;
    let reason = || format!("it is longer than {MAX_FILE} bytes");
    let bytes =
        bytes.ok_or_else(|| Error::Model { origin: crate::text::path_text(path), reason: reason() })?;
    Ok(bytes.into())
}

/// The metadata of a model file; in JSON one object with the fields of both parts.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Manifest {
    /// The part that scoring needs.
    #[serde(flatten)]
    pub decision: Decision,
    /// The origin of the model.
    #[serde(flatten)]
    pub history: History,
}

impl Manifest {
    /// The ONNX metadata properties, `cac.format_version` first.
    #[must_use]
    pub fn to_properties(&self) -> Vec<(String, String)> {
        let Ok(Value::Object(mut fields)) = serde_json::to_value(self) else {
            unreachable!("a manifest is a JSON object")
        };
        let version = fields.remove_entry("format_version");
        let all = version.into_iter().chain(fields);
        all.map(|(name, value)| (format!("{PREFIX}{name}"), value.to_string())).collect()
    }

    /// Parses ONNX metadata properties. Those without the prefix `cac.` are ignored.
    ///
    /// # Errors
    /// [`Error::FormatVersion`] for a newer file, and [`Error::Model`] if a field is there twice, or one of the
    /// decision is missing or damaged; `origin` names the file in them.
    pub fn from_properties<'a>(
        properties: impl IntoIterator<Item = (&'a str, &'a str)>,
        origin: &str,
    ) -> Result<Self> {
        // Text that is not JSON becomes a string: an error in the decision, kept in the history.
        let value =
            |text: &str| serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()));
        let mut fields = Map::new();
        for (name, text) in properties {
            let Some(field) = name.strip_prefix(PREFIX) else { continue };
            // Of equal names, other readers may take the first.
            if fields.insert(field.to_owned(), value(text)).is_some() {
                let reason = format!("its metadata has `{name}` twice");
                return Err(Error::Model { origin: origin.to_owned(), reason });
            }
        }
        let decision = Decision::take(&mut fields).map_err(|fault| fault.of(origin))?;
        let history = History::take(fields, decision.format_version);
        Ok(Self { decision, history })
    }

    /// Why the held-out scores may differ from those of new known images, if so: then neither the threshold
    /// nor [`drift`](crate::drift) has a guarantee.
    #[must_use]
    pub fn doubt_of_held_out(&self) -> Option<&'static str> {
        if self.decision.threshold.as_ref().is_some_and(|threshold| threshold.is_from_test) {
            return Some("no training images were held out, and the scores are those of test images");
        }
        let is_first = self.decision.format_version == 1;
        let chose_epoch = is_first.then_some("the held-out images also chose the epoch");
        self.history.doubt_of_held_out().or(chose_epoch)
    }

    /// What may make the threshold keep fewer new known images than guaranteed, without being a
    /// [reason](Self::doubt_of_held_out) against the guarantee: images that it was chosen from and that look almost
    /// like others, or may be training images. Each is in words without a full stop;
    /// there are none without a guarantee.
    #[must_use]
    pub fn cautions_of_held_out(&self) -> Vec<String> {
        if self.doubt_of_held_out().is_some() {
            return Vec::new();
        }
        if let Some(recalibration) = &self.history.recalibration {
            return recalibration.cautions();
        }
        let alike = self.history.training.as_ref().and_then(|training| training.held_out_alike);
        alike.filter(|&count| count > 0).map(held_out_alike_in_words).into_iter().collect()
    }

    /// The share of new known images that a threshold for the share `keep` keeps at least, with a confidence of
    /// 95 %; `None` without a guarantee. `doubt` is a further reason for none, that of a provider:
    /// `Provider::doubt_of_held_out`.
    #[must_use]
    pub fn kept_at_least(&self, keep: f64, doubt: Option<&str>) -> Option<f64> {
        let rule = self.decision.threshold.as_ref()?;
        // A file that has none for its own share has none for another.
        let is_without = rule.keep.is_some() && rule.kept_at_least.is_none();
        if is_without || doubt.or(self.doubt_of_held_out()).is_some() {
            return None;
        }
        if rule.classes.is_some() || rule.keep == Some(keep) {
            return rule.kept_at_least;
        }
        let scores = rule.held_out_scores.len();
        (scores > 0).then(|| method::kept_at_least(scores, keep))
    }

    /// What a threshold for the share `keep` promises, in words; `None` if the file has no threshold. `doubt`
    /// is that of [`kept_at_least`](Self::kept_at_least).
    #[must_use]
    pub fn promise(&self, keep: f64, doubt: Option<&'static str>) -> Option<String> {
        let rule = self.decision.threshold.as_ref()?;
        let data = &rule.data;
        let (of_class, of_one) = match rule.classes {
            Some(_) => (" of each predicted class", " for each class alone"),
            None => ("", ""),
        };
        let share = per_cent(keep);
        Some(match self.kept_at_least(keep, doubt) {
            Some(bound) => format!(
                "{share} % of new known images{of_class}, and at least {:.1} % with 95 % confidence{of_one}; chosen from {data}",
                100.0 * bound
            ),
            None => {
                let doubt = self.doubt_of_held_out().or(doubt);
                let doubt = doubt.map_or(String::new(), |doubt| format!("; without a guarantee: {doubt}"));
                format!("{share} % of {data}{of_class}{doubt}")
            }
        })
    }
}

/// Why a decision cannot be read.
enum Fault {
    Newer(u32),
    Broken(String),
}

impl Fault {
    fn of(self, origin: &str) -> Error {
        let origin = origin.to_owned();
        match self {
            Self::Newer(found) => Error::FormatVersion { origin, found, supported: FORMAT_VERSION },
            Self::Broken(reason) => Error::Model { origin, reason },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        data::Degradation,
        image::Input,
        method::{LogitScore, Loss, Variant},
    };

    fn example() -> Manifest {
        let decision = Decision {
            format_version: FORMAT_VERSION,
            classes: vec!["cat".to_owned(), "dog \"rex\"".to_owned(), "häschen".to_owned()],
            input: Input::default(),
            resizes: true,
            score: LogitScore::Cac.into(),
            threshold: Some(Threshold {
                value: 0.1,
                keep: Some(0.95),
                data: "somewhere".to_owned(),
                kept_at_least: Some(0.9),
                is_from_test: false,
                held_out_scores: vec![-1.5e-7, 0.1, f32::MAX],
                classes: Some(vec![0.1, -2.0, 3.5]),
                operating_points: vec![OperatingPoint { keep: 0.5, threshold: 0.1 }],
            }),
            places: Some(PlaceScore { score: LogitScore::ENERGY, held_out_scores: vec![-3.0, 0.1] }),
        };
        let history = History {
            producer: Some("test".to_owned()),
            loss: Some(Loss::new(Variant::Paper)),
            precision: Some(ModelPrecision::Float16),
            robustness: Some(Robustness {
                images: 7,
                kept: 1.0 / 3.0,
                degraded: vec![Degraded { degradation: Degradation::Noise, kept: 0.1, same_class: 0.05 }],
            }),
            ..History::default()
        };
        Manifest { decision, history }
    }

    fn read(properties: &[(String, String)]) -> Result<Manifest> {
        let borrowed = properties.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        Manifest::from_properties(borrowed, "x.onnx")
    }

    /// The example with one property replaced or added.
    fn with(name: &str, value: &str) -> Result<Manifest> {
        let mut properties = example().to_properties();
        properties.retain(|(other, _)| other != name);
        properties.push((name.to_owned(), value.to_owned()));
        read(&properties)
    }

    #[test]
    fn manifests_survive_a_round_trip_through_properties() {
        let properties = example().to_properties();
        assert_eq!(properties[0], ("cac.format_version".to_owned(), "2".to_owned()));
        assert_eq!(read(&properties).unwrap(), example());
        assert_eq!(with("author", "somebody").unwrap(), example());
    }

    #[test]
    fn newer_and_damaged_decisions_are_refused() {
        assert!(matches!(
            read(&[
                ("cac.format_version".into(), "3".into()),
                ("cac.classes".into(), "\"of another form\"".into())
            ]),
            Err(Error::FormatVersion { found: 3, supported: FORMAT_VERSION, .. })
        ));
        let error = |result: Result<Manifest>| result.unwrap_err().to_string();
        assert!(error(read(&[("author".into(), "somebody".into())])).contains("not a model of this toolkit"));
        assert!(
            error(with("cac.format_version", "{")).contains("`cac.format_version` is \"{\", expected 1 to 2")
        );
        assert!(
            error(read(&[("cac.format_version".into(), "1".into())])).contains("`cac.classes` is missing")
        );
        let twice = [example().to_properties(), vec![("cac.classes".into(), "[]".into())]].concat();
        assert!(error(read(&twice)).contains("its metadata has `cac.classes` twice"));
        let first = with("cac.classes", r#"["cat", "unknown", "dog"]"#);
        assert!(error(first).contains("no class may be called `unknown`"));
        let mut first = example().to_properties();
        first.retain(|(name, _)| !["cac.format_version", "cac.classes"].contains(&&**name));
        first.push(("cac.format_version".into(), "1".into()));
        first.push(("cac.classes".into(), r#"["cat", "unknown", "dog"]"#.into()));
        assert_eq!(read(&first).unwrap().decision.classes[1], "unknown");
        for (name, value) in [
            ("cac.classes", "{"),
            ("cac.classes", "[\"cat\"]"),
            ("cac.classes", "[1, 2]"),
            ("cac.classes", r#"["cat", "dog", "cat"]"#),
            ("cac.classes", r#"["cat", "unknown"]"#),
            ("cac.classes", r#"["cat", ""]"#),
            ("cac.score", "\"of tomorrow\""),
            ("cac.resizes", "\"perhaps\""),
            ("cac.input", r#"{"height":0,"width":32,"mean":[0.5,0.5,0.5],"std":[0.5,0.5,0.5]}"#),
            ("cac.input", r#"{"height":32,"width":1e99,"mean":[0.5,0.5,0.5],"std":[0.5,0.5,0.5]}"#),
            ("cac.input", r#"{"height":32,"width":32,"mean":[0.5,0.5,0.5],"std":[0.5,0.0,0.5]}"#),
            ("cac.threshold", r#"{"value":"low"}"#),
            ("cac.places", r#"{"score":"vim","held_out_scores":[1.0]}"#),
            ("cac.places", r#"{"score":"energy","held_out_scores":[]}"#),
        ] {
            let error = error(with(name, value));
            assert!(error.contains(&format!("`{name}`")), "{name} {value}: {error}");
        }
    }

    #[test]
    fn history_that_cannot_be_parsed_is_kept() {
        for (name, value) in [
            ("cac.architecture", r#"{"family":"transformer","heads":8}"#),
            ("cac.loss", r#"{"variant":"of tomorrow"}"#),
            ("cac.weather", r#"["rain"]"#),
            ("cac.note", "no JSON"),
        ] {
            let manifest = with(name, value).unwrap();
            assert_eq!(manifest.decision, example().decision);
            let kept = &manifest.history.other[&name[PREFIX.len()..]];
            let expected = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
            assert_eq!(*kept, expected, "{name}");
            // It survives another round trip.
            assert_eq!(read(&manifest.to_properties()).unwrap(), manifest);
        }
    }

    #[test]
    fn field_names_of_version_1_are_translated() {
        let training = r#"{"known":"data/cifar","pictures":49000,"anchor_pictures":5000,"epoch":10,
            "recipe":{"optimizer":"sgd","average":0.5}}"#;
        let architecture = r#"{"depth":40,"dropout":0.0,"family":"wide-res-net","widen_factor":2}"#;
        let mut properties = example().to_properties();
        properties[0].1 = "1".to_owned();
        properties.extend(
            [("cac.training", training), ("cac.architecture", architecture)]
                .map(|(name, value)| (name.to_owned(), value.to_owned())),
        );
        let history = read(&properties).unwrap().history;
        assert_eq!(history.architecture.unwrap().to_string(), "WideResNet-40-2");
        let training = history.training.unwrap();
        assert_eq!(training.images, Some(49_000));
        assert_eq!(
            (training.setting::<String>("optimizer").as_deref(), training.setting::<f64>("ema")),
            (Some("sgd"), Some(0.5))
        );
        assert_eq!(
            (training.setting::<usize>("anchor_images"), training.setting::<String>("precision")),
            (Some(5000), None)
        );
        assert!(history.other.is_empty());
    }
}
