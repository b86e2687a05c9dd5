//! Parsers of flag values.

use std::{path::Path, str::FromStr};

use cac::{
    Error,
    data::UnknownSource,
    image::{Filter, Fit, Input, Resize},
    method::{Loss, Variant},
};
use clap::{
    Args,
    builder::{PossibleValuesParser, TypedValueParser},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::quoted;

/// Parses one of several values, by the names that serde gives them.
pub fn one_of<T>(values: &[T]) -> impl TypedValueParser<Value = T> + use<T>
where
    T: Clone + Send + Sync + Serialize + DeserializeOwned + 'static,
{
    PossibleValuesParser::new(values.iter().map(name_of)).try_map(|name| serde_json::from_value(name.into()))
}

/// The name that serde gives a value.
pub fn name_of(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(name)) => name,
        other => unreachable!("a value without a name: {other:?}"),
    }
}

/// Parses a value of the library, whose name clap states.
pub fn setting<T: FromStr<Err = Error>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error| match error {
        Error::Setting { reason, .. } => reason,
        other => other.to_string(),
    })
}

/// Parses unknown images.
pub fn unknown_source(text: &str) -> Result<UnknownSource, String> {
    setting(text).map_err(|reason| {
        if Path::new(text).is_dir() {
            format!("give the folder a name: NAME={}", quoted(Path::new(text)))
        } else {
            format!("{reason}; `toolkit data list` lists the published data sets")
        }
    })
}

/// What a default is for each variant of the loss.
pub fn by_variant(default: impl Fn(&Loss) -> f64) -> String {
    let [paper, pytorch_ood] =
        [Variant::Paper, Variant::PytorchOod].map(|variant| default(&Loss::new(variant)));
    if paper == pytorch_ood {
        return paper.to_string();
    }
    format!("{paper} for paper, {pytorch_ood} for pytorch-ood")
}

/// Parses a height or width.
pub fn pixels(text: &str) -> Result<usize, String> {
    let sizes = cac::image::SIZES;
    let value: Option<usize> = text.parse().ok().filter(|value| sizes.contains(value));
    value.ok_or_else(|| format!("expected {} to {} pixels", sizes.start(), sizes.end()))
}

/// Values for red, green and blue; `R,G,B` on the command line, the same or an array in a file.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "RgbInFile", into = "[f32; 3]")]
struct Rgb(pub [f32; 3]);

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected three numbers for `mean` and `std`")]
enum RgbInFile {
    Values([f32; 3]),
    Text(String),
}

impl TryFrom<RgbInFile> for Rgb {
    type Error = String;

    fn try_from(values: RgbInFile) -> Result<Self, String> {
        match values {
            RgbInFile::Values(values) => Ok(Self(values)),
            RgbInFile::Text(text) => text.parse().map_err(|expected| format!("`{text}`: {expected}")),
        }
    }
}

impl From<Rgb> for [f32; 3] {
    fn from(Rgb(values): Rgb) -> Self {
        values
    }
}

impl FromStr for Rgb {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let values: Option<Vec<f32>> = text.split(',').map(|value| value.trim().parse().ok()).collect();
        let values: Option<[f32; 3]> = values.and_then(|values| values.try_into().ok());
        let values = values.filter(|values| values.iter().all(|value| value.is_finite()));
        values.map(Self).ok_or_else(|| "expected three numbers such as 0.5,0.5,0.5".to_owned())
    }
}

/// A fit; its text on the command line and in a file.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
struct FitText(Fit);

impl FromStr for FitText {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        setting(text).map(Self)
    }
}

impl TryFrom<String> for FitText {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<FitText> for String {
    fn from(FitText(fit): FitText) -> Self {
        fit.to_string()
    }
}

/// The input of a network, where it is not that of its weights.
#[derive(Debug, Clone, Args, Serialize, Deserialize)]
pub struct InputArgs {
    /// Height and width of the images; by default those of the weights, else of the network family. Weights
    /// of the official CAC network fix the size
    #[arg(long, value_name = "PIXELS", value_parser = pixels)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<usize>,
    /// How to fit images of another aspect ratio to the input: stretch distorts them; crop cuts out the
    /// centre, SHARE of the short side (0.875 if not given); pad fills the rest with the mean. By default that
    /// of the weights, else of the network family
    #[arg(long, value_name = "stretch|crop[:SHARE]|pad")]
    #[serde(skip_serializing_if = "Option::is_none")]
    fit: Option<FitText>,
    /// Filter that images are resized with; by default that of the weights, else of the network family
    #[arg(long, value_parser = one_of(&Filter::ALL))]
    #[serde(skip_serializing_if = "Option::is_none")]
    filter: Option<Filter>,
    /// Mean of red, green and blue (0 to 1) for normalisation; by default that of the weights, else of the
    /// network family
    #[arg(long, value_name = "R,G,B")]
    #[serde(skip_serializing_if = "Option::is_none")]
    mean: Option<Rgb>,
    /// Standard deviation of red, green and blue for normalisation; by default that of the weights, else of
    /// the network family
    #[arg(long, value_name = "R,G,B")]
    #[serde(skip_serializing_if = "Option::is_none")]
    std: Option<Rgb>,
}

impl InputArgs {
    /// The input with what was given.
    pub fn applied_to(&self, input: Input) -> Input {
        let Resize { fit, filter } = input.resize;
        Input {
            height: self.size.unwrap_or(input.height),
            width: self.size.unwrap_or(input.width),
            mean: self.mean.map_or(input.mean, Rgb::into),
            std: self.std.map_or(input.std, Rgb::into),
            resize: Resize {
                fit: self.fit.map_or(fit, |FitText(fit)| fit),
                filter: self.filter.unwrap_or(filter),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_values_are_parsed() {
        assert_eq!("0.1, 0.2,0.3".parse(), Ok(Rgb([0.1, 0.2, 0.3])));
        for wrong in ["", "1", "1,2", "1,2,3,4", "a,b,c", "1,x,2,3", "1,2,nan"] {
            assert!(wrong.parse::<Rgb>().is_err(), "{wrong}");
        }
        for text in ["[0.5,0.25,1.0]", "\"0.5,0.25,1\""] {
            assert_eq!(serde_json::from_str::<Rgb>(text).unwrap(), Rgb([0.5, 0.25, 1.0]));
        }
        let wrong = serde_json::from_str::<Rgb>("\"0.5,0.5\"").unwrap_err().to_string();
        assert!(wrong.contains("`0.5,0.5`: expected "), "{wrong}");
    }
}
