//! The record of a training run. It is read field by field, as the [history](super::History) is.

use std::{fmt, path::Path};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

use super::history::{tests_alike_in_words, understood};
use crate::data::{KnownData, Protocol, UnknownSource};

/// Defines the record: a struct of optional fields, and how it is read from and written to JSON.
macro_rules! record {
    ($($(#[$about:meta])* $name:ident: $kind:ty,)*) => {
        /// The record of a training run. A field is `None` if it is missing, or if this version cannot parse it; then
        /// `recipe` has it.
        #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
        #[serde(from = "Map<String, Value>", into = "Map<String, Value>")]
        #[non_exhaustive]
        pub struct Training {
            $($(#[$about])* pub $name: Option<$kind>,)*
            /// The settings of the [recipe](crate::run::Recipe), and fields that this version does not know or cannot
            /// parse.
            pub recipe: Map<String, Value>,
        }

        impl From<Map<String, Value>> for Training {
            fn from(mut fields: Map<String, Value>) -> Self {
                Self { $($name: understood(&mut fields, stringify!($name)),)* recipe: fields }
            }
        }

        impl From<Training> for Map<String, Value> {
            fn from(training: Training) -> Self {
                let mut fields = training.recipe;
                $(if let Some(value) = training.$name {
                    fields.insert(stringify!($name).to_owned(), json!(value));
                })*
                fields
            }
        }
    };
}

record! {
    /// What the backbone and those before it were trained on: the split of each. It is for training runs that start
    /// from this one, and is not shown.
    ancestors: Vec<Training>,
    /// The name or file of the starting weights.
    backbone: String,
    /// The device.
    device: String,
    /// The number of finished epochs when the weights were taken.
    epoch: usize,
    /// The number of held-out images that look almost like a training image.
    held_out_alike: usize,
    /// Whether the backbone had learned from held-out images.
    held_out_seen: bool,
    /// The share of the known images that was held out as test images.
    held_out_test: f64,
    /// The number of training images.
    images: usize,
    /// The data set of the known classes.
    known: String,
    /// The version of libtorch.
    libtorch: String,
    /// The number of threads that decode and augment images.
    loader_threads: usize,
    /// The protocol that selects the known classes.
    protocol: Protocol,
    /// The number of images that could not be read.
    skipped: usize,
    /// The number of epochs from one test to the next. The weights are those of a tested epoch.
    test_every: usize,
    /// The number of known test images, if they were held out.
    test_images: usize,
    /// The number of known test images that look almost like a training image, without its bytes.
    tests_alike: usize,
    /// The number of known test images with the bytes of a training image.
    tests_trained_on: usize,
    /// The number of libtorch's threads.
    threads: usize,
    /// The [checksum](crate::data::Dataset::names_checksum) of the names of the known training images, held-out ones
    /// included. By it, data is recognised that was moved, or has changed. It is not shown.
    train_names: String,
    /// The unknown sets.
    unknown: Vec<UnknownSource>,
    /// The classes of the data set that are unknown, without those of the protocol.
    unknown_classes: Vec<String>,
    /// Whether the backbone had learned classes that are unknown here.
    unknown_seen: bool,
}

impl Training {
    /// What it means that [`tests_alike`](Self::tests_alike) test images look almost like a training image, if any do,
    /// in words without a full stop.
    #[must_use]
    pub fn caution_of_tests(&self) -> Option<String> {
        self.tests_alike.filter(|&count| count > 0).map(tests_alike_in_words)
    }

    /// A setting of the recipe, by its name there, if it is recorded and has this type.
    #[must_use]
    pub fn setting<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        T::deserialize(self.recipe.get(name)?).ok()
    }

    /// The fields that identify the training images, with only the last component of `known`. Equal fields
    /// mean the same images if the data sets are the same.
    pub(crate) fn split(&self) -> Self {
        /// What the recipe determines, and what another version may have written otherwise.
        const FURTHER: [&str; 7] =
            ["known", "protocol", "unknown_classes", "held_out_test", "seed", "images", "held_out_seen"];
        let name = |known: &String| Some(Path::new(known).file_name()?.to_str()?.to_owned());
        let mut recipe = self.recipe.clone();
        recipe.retain(|name, _| FURTHER.contains(&name.as_str()));
        Self {
            known: self.known.as_ref().map(|known| name(known).unwrap_or_else(|| known.clone())),
            protocol: self.protocol,
            unknown_classes: self.unknown_classes.clone(),
            held_out_test: self.held_out_test,
            images: self.images,
            held_out_seen: self.held_out_seen,
            recipe,
            ..Self::default()
        }
    }

    /// What a backbone needs of the record: its split, and those of the backbones before it.
    pub(crate) fn of_backbone(&self) -> Self {
        Self { ancestors: self.ancestors.clone(), ..self.split() }
    }

    /// Whether the backbone was trained on classes that this training left out, as far as its file said, and some
    /// of these classes are among them.
    #[must_use]
    pub fn has_unknown_seen(&self, classes: &[String]) -> bool {
        let Some(data) = self.known_data() else { return false };
        // A protocol does not name its classes.
        let is_left_out = |class| data.protocol.is_some() || data.unknown_classes.contains(class);
        self.unknown_seen == Some(true) && classes.iter().any(is_left_out)
    }

    /// The data set of the known classes, if it is recorded.
    #[must_use]
    pub fn known_data(&self) -> Option<KnownData> {
        Some(KnownData {
            path: self.known.as_ref()?.into(),
            held_out_test: self.held_out_test,
            protocol: self.protocol,
            unknown_classes: self.unknown_classes.clone().unwrap_or_default(),
        })
    }

    /// All fields with their values: first those of the data, then those of the recipe.
    pub(crate) fn parts(&self) -> [String; 2] {
        let text = |(name, value): (&String, &Value)| {
            let value = match value {
                Value::String(text) => text.clone(),
                Value::Array(texts) if texts.iter().all(Value::is_string) => {
                    let quoted = |text: &str| {
                        if text.contains([' ', ',']) { format!("`{text}`") } else { text.to_owned() }
                    };
                    texts.iter().filter_map(Value::as_str).map(quoted).collect::<Vec<_>>().join(" ")
                }
                value => value.to_string(),
            };
            format!("{} {value}", name.replace('_', " "))
        };
        let data: Map<String, Value> = Self { recipe: Map::new(), ..self.clone() }.into();
        [&data, &self.recipe].map(|fields| {
            let is_shown = |name: &str| !["ancestors", "train_names"].contains(&name);
            let shown = fields.iter().filter(|(name, value)| is_shown(name) && **value != json!([]));
            shown.map(text).collect::<Vec<_>>().join(", ")
        })
    }
}

impl fmt::Display for Training {
    /// The fields of the data and those of the recipe, one line each.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [data, recipe] = self.parts();
        write!(f, "{data}\n{recipe}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_parsed_is_kept() {
        let fields = json!({
            "known": "cats", "images": "many", "protocol": "of-2030/7", "seed": 3, "ancestors": [{ "known": "dogs" }],
            "train_names": 7,
        });
        let fields = fields.as_object().unwrap();
        let training = Training::from(fields.clone());
        assert_eq!(
            (training.known.as_deref(), training.images, training.protocol),
            (Some("cats"), None, None)
        );
        assert_eq!(training.setting::<u64>("seed"), Some(3));
        assert_eq!(training.ancestors.as_ref().unwrap()[0].known.as_deref(), Some("dogs"));
        assert_eq!(training.parts(), ["known cats", "images many, protocol of-2030/7, seed 3"]);
        assert_eq!(Map::from(training.split()).len(), 4);
        assert_eq!(&Map::from(training), fields);
    }
}
