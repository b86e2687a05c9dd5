//! Networks as pure data: a table of families, each of which describes a network as an ordered list of
//! layers. Training runs the list on libtorch, export writes it as ONNX, and import checks the export against
//! plain loops over it.
//!
//! A new family is a file here and a row in [`FAMILIES`]; weights, flags, training, export and `inspect`
//! follow the table.

mod builder;
mod cac_net;
mod cifar_net;
mod efficientnet_lite;
mod resnet;
mod wide_resnet;

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, ser::SerializeMap};
use serde_json::{Map, Value};

use crate::{
    error::{Error, Result},
    image::Input,
};
use builder::Builder;
pub(crate) use builder::HEAD_PREFIX;
#[cfg(test)]
pub(crate) use builder::RESERVED;

/// All network families.
pub static FAMILIES: [Family; 5] =
    [wide_resnet::FAMILY, resnet::FAMILY, efficientnet_lite::FAMILY, cac_net::FAMILY, cifar_net::FAMILY];

/// The maximum number of classes.
const MAX_CLASSES: usize = 65_536;

/// A family of networks.
#[derive(Debug)]
pub struct Family {
    /// The name in files and on the command line.
    pub name: &'static str,
    /// A one-line description.
    pub about: &'static str,
    /// The settings of its members.
    pub settings: &'static [Setting],
    /// A tensor that every member has, and no member of another family; weights are recognised by it.
    pub mark: &'static str,
    /// The title of a member, such as `WideResNet-40-2`.
    title: fn(&Architecture) -> String,
    /// The input for which a member was published.
    default_input: fn(&Architecture) -> Input,
    /// The layer names of another implementation, each with its name here, if the tensors use them.
    synonyms: fn(Shapes) -> Vec<(String, String)>,
    /// Recognises a member from the shapes of its tensors, with the mark; the error says what is not
    /// supported.
    recognize: fn(Shapes) -> Result<Recognized, String>,
    /// Appends the layers of a member for a number of classes and a (height, width).
    layers: fn(&Architecture, usize, (usize, usize), &mut Builder) -> Result<()>,
}

/// A setting of a family. All settings are numbers.
#[derive(Debug)]
pub struct Setting {
    /// The name in files, in snake case.
    pub name: &'static str,
    /// A description for help texts.
    pub about: &'static str,
    /// The default value.
    pub default: f64,
}

/// The shape of a tensor by its name.
pub type Shapes<'a> = &'a dyn Fn(&str) -> Option<&'a [usize]>;

/// A network recognised from its weights.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Recognized {
    /// The network.
    pub architecture: Architecture,
    /// The number of classes; `None` without a last layer.
    pub classes: Option<usize>,
    /// Height and width of the images; `None` if the weights do not fix them.
    pub size: Option<usize>,
}

/// A member of a family; in JSON an object with `family` and the settings by name.
#[derive(Clone)]
pub struct Architecture {
    family: &'static Family,
    /// The values, in the order of the family's settings.
    settings: Vec<f64>,
}

/// One layer: its operation and the layers it reads.
#[derive(Debug, Clone, PartialEq)]
pub struct Layer {
    /// A unique name; the prefix of the layer's parameters in a weights file.
    pub name: String,
    /// The operation.
    pub op: Op,
    /// The indices of the layers it reads; all are smaller than its own.
    pub inputs: Vec<usize>,
    /// The initializer of its weights.
    pub init: Init,
    /// Whether it may overwrite its first input: it is the only reader, and no gradient needs the value.
    pub in_place: bool,
}

/// The operation of a layer. Activations are `[N, channels, height, width]` up to pooling or flattening.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Op {
    /// The normalised images `[N, 3, H, W]`.
    Input,
    /// A convolution.
    Conv(Conv),
    /// Batch normalisation.
    BatchNorm {
        /// The number of channels.
        channels: usize,
        /// Added to the variance.
        epsilon: f64,
        /// The weight of a new batch in the running statistics.
        momentum: f64,
    },
    /// max(0, x).
    Relu,
    /// min(max(0, x), 6).
    Relu6,
    /// max(x, slope * x) with a slope below 1.
    LeakyRelu(f64),
    /// Dropout with this probability; the identity outside training.
    Dropout(f64),
    /// Dropout of whole channels with this probability; the identity outside training.
    DropoutChannels(f64),
    /// The sum of two layers.
    Add,
    /// The maximum of each square window.
    MaxPool {
        /// Height and width of the window.
        kernel: usize,
        /// Stride in both directions.
        stride: usize,
        /// Padding on each side, at most half the kernel; it is never the maximum.
        padding: usize,
    },
    /// Global average pooling, the mean over height and width: `[N, C, H, W]` to `[N, C]`.
    GlobalAveragePool,
    /// Flattening, channel by channel: `[N, C, H, W]` to `[N, C H W]`.
    Flatten,
    /// A fully connected layer with bias.
    Linear {
        /// Input features.
        inputs: usize,
        /// Output features.
        outputs: usize,
    },
}

/// A convolution with a square kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conv {
    /// Input channels.
    pub inputs: usize,
    /// Output channels.
    pub outputs: usize,
    /// Height and width of the kernel.
    pub kernel: usize,
    /// Stride in both directions.
    pub stride: usize,
    /// Zero padding at the top, left, bottom and right.
    pub padding: [usize; 4],
    /// The number of groups, as in PyTorch's `Conv2d`.
    pub groups: usize,
    /// Whether a bias is added.
    pub bias: bool,
}

/// The initializer of a layer's weights. Batch normalisation always starts as the identity.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    /// The layer has no weights to initialise.
    None,
    /// Weights from a normal distribution with mean 0; biases are 0.
    Normal {
        /// The standard deviation.
        deviation: f64,
    },
    /// Weights that whiten patches of the training images, and stay as they are; biases are 0.
    Whiten,
    /// Weights and biases from a uniform distribution with mean 0.
    Uniform {
        /// The largest absolute value.
        bound: f64,
    },
}

impl Conv {
    /// A convolution without bias, in one group, padded to keep the size at stride 1.
    #[must_use]
    pub fn same(inputs: usize, outputs: usize, kernel: usize, stride: usize) -> Self {
        Self { inputs, outputs, kernel, stride, padding: [kernel / 2; 4], groups: 1, bias: false }
    }

    /// The shape of the weights, `[outputs, inputs / groups, kernel, kernel]`.
    #[must_use]
    pub fn shape(&self) -> [usize; 4] {
        [self.outputs, self.inputs / self.groups, self.kernel, self.kernel]
    }
}

impl Op {
    /// Batch normalisation with PyTorch's defaults.
    #[must_use]
    pub fn batch_norm(channels: usize) -> Self {
        Self::BatchNorm { channels, epsilon: 1e-5, momentum: 0.1 }
    }
}

impl Layer {
    /// The names and shapes of the layer's parameters and statistics, in PyTorch's layout.
    #[must_use]
    pub fn parameters(&self) -> Vec<(String, Vec<usize>)> {
        let named = |suffix: &str, shape: Vec<usize>| (format!("{}.{suffix}", self.name), shape);
        match self.op {
            Op::Conv(conv) => {
                let bias = conv.bias.then(|| named("bias", vec![conv.outputs]));
                [named("weight", conv.shape().to_vec())].into_iter().chain(bias).collect()
            }
            Op::BatchNorm { channels, .. } => ["weight", "bias", "running_mean", "running_var"]
                .map(|suffix| named(suffix, vec![channels]))
                .to_vec(),
            Op::Linear { inputs, outputs } => {
                vec![named("weight", vec![outputs, inputs]), named("bias", vec![outputs])]
            }
            Op::Input
            | Op::Relu
            | Op::Relu6
            | Op::LeakyRelu(_)
            | Op::Dropout(_)
            | Op::DropoutChannels(_)
            | Op::Add
            | Op::MaxPool { .. }
            | Op::GlobalAveragePool
            | Op::Flatten => Vec::new(),
        }
    }
}

impl Family {
    /// The family with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        FAMILIES.iter().find(|family| family.name == name)
    }

    /// The member with the default settings.
    #[must_use]
    pub fn default_member(&'static self) -> Architecture {
        let settings = self.settings.iter().map(|setting| setting.default).collect();
        Architecture { family: self, settings }
    }

    fn index_of(&self, setting: &str) -> Option<usize> {
        self.settings.iter().position(|other| other.name == setting)
    }
}

impl Architecture {
    /// The member of a family with these settings; the rest have their defaults.
    ///
    /// # Errors
    /// [`Error::Setting`] if the family or a setting does not exist. [`layers`](Self::layers) checks the
    /// values.
    pub fn new(family: &str, settings: &[(&str, f64)]) -> Result<Self> {
        let Some(family) = Family::named(family) else {
            let names: Vec<&str> = FAMILIES.iter().map(|family| family.name).collect();
            return Err(Error::setting(
                "family",
                format!("`{family}`"),
                format!("must be {}", names.join(" or ")),
            ));
        };
        settings.iter().try_fold(family.default_member(), |network, &(name, value)| network.with(name, value))
    }

    /// Replaces the value of one setting.
    ///
    /// # Errors
    /// [`Error::Setting`] if the family has no such setting.
    pub fn with(mut self, setting: &str, value: f64) -> Result<Self> {
        let Some(index) = self.family.index_of(setting) else {
            let names: Vec<&str> = self.family.settings.iter().map(|setting| setting.name).collect();
            let reason = format!("not a setting of {}, which has {}", self.family.name, names.join(", "));
            return Err(Error::setting("network", format!("`{setting}`"), reason));
        };
        self.settings[index] = value;
        Ok(self)
    }

    /// The layer names of another implementation than the one that a family follows, each with the family's
    /// name; empty unless the tensors use them.
    #[must_use]
    pub fn synonyms(shapes: Shapes) -> Vec<(String, String)> {
        FAMILIES.iter().flat_map(|family| (family.synonyms)(shapes)).collect()
    }

    /// Recognises a network from the shapes of its tensors. `None` if they have no family's mark; the error
    /// says what is not supported.
    #[must_use]
    pub fn recognize(shapes: Shapes) -> Option<Result<Recognized, String>> {
        let family = FAMILIES.iter().find(|family| shapes(family.mark).is_some())?;
        Some((family.recognize)(shapes))
    }

    /// The family.
    #[must_use]
    pub fn family(&self) -> &'static Family {
        self.family
    }

    /// The input for which the network was published: size, normalisation and resizing unless the weights or
    /// the user state others.
    #[must_use]
    pub fn default_input(&self) -> Input {
        (self.family.default_input)(self)
    }

    /// The settings by name.
    pub fn settings(&self) -> impl Iterator<Item = (&'static str, f64)> {
        self.family.settings.iter().map(|setting| setting.name).zip(self.settings.iter().copied())
    }

    /// The layers in order of evaluation, ending in logits `[N, classes]`, for images of `height` x `width`.
    ///
    /// # Errors
    /// [`Error::Setting`] if a setting is invalid or the network does not support the image size.
    pub fn layers(&self, classes: usize, height: usize, width: usize) -> Result<Vec<Layer>> {
        if !(2..=MAX_CLASSES).contains(&classes) {
            return Err(Error::setting("classes", classes, format!("must be 2 to {MAX_CLASSES}")));
        }
        let mut builder = Builder::default();
        (self.family.layers)(self, classes, (height, width), &mut builder)?;
        Ok(builder.finish())
    }

    /// The value of a setting of the family.
    fn get(&self, setting: &str) -> f64 {
        self.settings[self.family.index_of(setting).expect("a setting of the family")]
    }

    /// The value of a setting that must be an integer in `range` and satisfy `is_possible`.
    fn whole(
        &self,
        setting: &'static str,
        range: std::ops::RangeInclusive<usize>,
        is_possible: impl Fn(usize) -> bool,
        reason: &str,
    ) -> Result<usize> {
        let value = self.get(setting);
        let whole = (value.fract() == 0.0 && value >= 0.0).then_some(value as usize);
        let possible = whole.filter(|&whole| range.contains(&whole) && is_possible(whole));
        possible.ok_or_else(|| Error::setting(setting, value, reason))
    }

    /// The probability of dropout.
    fn dropout(&self) -> Result<f64> {
        let share = self.get("dropout");
        if (0.0..1.0).contains(&share) {
            return Ok(share);
        }
        Err(Error::setting("dropout", share, "must be at least 0 and below 1"))
    }
}

/// Checks a (height, width) for a network that takes this many pixels or more on each side.
fn at_least(pixels: usize, (height, width): (usize, usize), network: &str) -> Result<()> {
    if height.min(width) >= pixels {
        return Ok(());
    }
    let reason = format!("must be at least {pixels} for {network}");
    Err(Error::setting("size", format!("{height}x{width}"), reason))
}

/// How many layers read the output of each layer.
pub(crate) fn readers(layers: &[Layer]) -> Vec<usize> {
    let mut readers = vec![0; layers.len()];
    for &input in layers.iter().flat_map(|layer| &layer.inputs) {
        readers[input] += 1;
    }
    readers
}

/// For each layer, the last layer that reads its output; the number of layers if none does.
#[cfg(any(feature = "export", feature = "train"))]
pub(crate) fn last_readers(layers: &[Layer]) -> Vec<usize> {
    let mut last = vec![layers.len(); layers.len()];
    for (index, layer) in layers.iter().enumerate() {
        for &input in &layer.inputs {
            last[input] = index;
        }
    }
    last
}

/// The index of the layer whose output is the features: the last layer's input, dropout aside.
#[cfg(feature = "export")]
pub(crate) fn features(layers: &[Layer]) -> usize {
    let mut index = layers.len() - 1;
    loop {
        index = layers[index].inputs[0];
        if !matches!(layers[index].op, Op::Dropout(_) | Op::DropoutChannels(_)) {
            return index;
        }
    }
}

/// Whether the features are averages over the image.
#[cfg(feature = "export")]
pub(crate) fn averages(layers: &[Layer]) -> bool {
    layers[features(layers)].op == Op::GlobalAveragePool
}

/// The number of features: the inputs of the last layer.
pub(crate) fn feature_count(layers: &[Layer]) -> usize {
    match layers.last().map(|layer| &layer.op) {
        Some(&Op::Linear { inputs, .. }) => inputs,
        _ => unreachable!("the last layer is linear"),
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&(self.family.title)(self))
    }
}

impl fmt::Debug for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entry(&"family", &self.family.name).entries(self.settings()).finish()
    }
}

impl PartialEq for Architecture {
    fn eq(&self, other: &Self) -> bool {
        self.family.name == other.family.name && self.settings == other.settings
    }
}

impl Serialize for Architecture {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("family", self.family.name)?;
        for (name, value) in self.settings() {
            if value.fract() == 0.0 && value.abs() < 1e9 {
                map.serialize_entry(name, &(value as i64))?;
            } else {
                map.serialize_entry(name, &value)?;
            }
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Architecture {
    /// An unknown family or setting is an error; a missing setting has its default.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        let mut map = Map::deserialize(deserializer)?;
        let family = map.remove("family").unwrap_or_default();
        let family = family.as_str().ok_or_else(|| D::Error::missing_field("family"))?;
        let settings = map
            .iter()
            .map(|(name, value)| Some((name.as_str(), value.as_f64()?)))
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| {
                D::Error::custom(format!("`{}` must hold only numbers", Value::Object(map.clone())))
            })?;
        Self::new(family, &settings).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameter_count(architecture: &Architecture, classes: usize) -> usize {
        let layers = architecture.layers(classes, 32, 32).unwrap();
        layers
            .iter()
            .flat_map(Layer::parameters)
            .filter(|(name, _)| !name.contains("running_"))
            .map(|(_, shape)| shape.iter().product::<usize>())
            .sum()
    }

    #[test]
    fn published_sizes() {
        // The paper's table: WRN-40-2 has 2.2 M parameters, WRN-28-10 36.5 M, WRN-16-8 11.0 M.
        let wrn = |depth, widen_factor| {
            let settings = [("depth", depth), ("widen_factor", widen_factor)];
            Architecture::new("wide-resnet", &settings).unwrap()
        };
        assert_eq!(parameter_count(&wrn(40.0, 2.0), 10), 2_243_546);
        assert_eq!(parameter_count(&wrn(28.0, 10.0), 10) / 100_000, 364);
        assert_eq!(parameter_count(&wrn(16.0, 8.0), 10) / 100_000, 109);
        // torchvision's and timm's counts for ImageNet.
        for (depth, widen_factor, count) in [
            (18.0, 1.0, 11_689_512),
            (34.0, 1.0, 21_797_672),
            (50.0, 1.0, 25_557_032),
            (101.0, 1.0, 44_549_160),
            (152.0, 1.0, 60_192_808),
            (50.0, 2.0, 68_883_240),
            (101.0, 2.0, 126_886_696),
        ] {
            let settings = [("depth", depth), ("widen_factor", widen_factor)];
            let network = Architecture::new("resnet", &settings).unwrap();
            assert_eq!(parameter_count(&network, 1000), count, "{network}");
        }
        for (member, count) in
            [4_652_008, 5_416_680, 6_092_072, 8_197_096, 13_006_568].into_iter().enumerate()
        {
            let network = Architecture::new("efficientnet-lite", &[("member", member as f64)]).unwrap();
            assert_eq!(parameter_count(&network, 1000), count, "{network}");
        }
        // The official checkpoints with six classes.
        assert_eq!(parameter_count(&Architecture::new("cac-net", &[]).unwrap(), 6), 1_011_398);
        // airbench94, plus 10 biases in the last layer.
        assert_eq!(parameter_count(&Architecture::new("cifar-net", &[]).unwrap(), 10), 1_972_802);
    }

    #[test]
    fn every_family_is_consistent() {
        for family in &FAMILIES {
            let network = family.default_member();
            let input = network.default_input();
            let layers = network.layers(7, input.height, input.width).unwrap();
            for (index, layer) in layers.iter().enumerate() {
                assert!(layer.inputs.iter().all(|&input| input < index), "{}", layer.name);
                let has_weights = matches!(layer.op, Op::Conv(_) | Op::Linear { .. });
                assert_eq!(layer.init != Init::None, has_weights, "{}", layer.name);
            }
            // Frozen layers end where the last one begins.
            assert_eq!(layers.last().unwrap().inputs, [layers.len() - 2], "{}", family.name);
            assert!(layers.iter().any(|layer| layer.in_place) || family.name == "cac-net", "{}", family.name);
            // The network is recognised from its weights.
            let parameters: Vec<(String, Vec<usize>)> = layers.iter().flat_map(Layer::parameters).collect();
            let shapes = |name: &str| {
                parameters.iter().find(|(other, _)| other == name).map(|(_, shape)| shape.as_slice())
            };
            let found = Architecture::recognize(&shapes).unwrap().unwrap();
            assert_eq!((found.classes, found.architecture.family.name), (Some(7), family.name));
            for ((name, found), (_, own)) in found.architecture.settings().zip(network.settings()) {
                assert!(found == own || name == "dropout", "{name}: {found}");
            }
            // The network survives a round trip through JSON.
            let json = serde_json::to_string(&network).unwrap();
            assert_eq!(serde_json::from_str::<Architecture>(&json).unwrap(), network, "{json}");
        }
    }

    #[test]
    fn networks_round_trip_through_json() {
        let read = serde_json::from_str::<Architecture>;
        let json = r#"{"family":"wide-resnet","depth":40,"widen_factor":2,"dropout":0.3}"#;
        let network = read(json).unwrap();
        assert_eq!(
            (serde_json::to_string(&network).unwrap().as_str(), &*network.to_string()),
            (json, "WideResNet-40-2")
        );
        assert_eq!(read(r#"{"family":"wide-resnet","dropout":0.3}"#).unwrap(), network);
        for wrong in [
            r#"{"family":"transformer"}"#,
            r#"{"depth":40}"#,
            r#"{"family":"wide-resnet","heads":8}"#,
            r#"{"family":"wide-resnet","depth":"deep"}"#,
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn invalid_settings_are_refused() {
        for (family, setting, value) in [
            ("wide-resnet", "depth", 41.0),
            ("wide-resnet", "depth", 4.0),
            ("wide-resnet", "depth", 40.5),
            ("wide-resnet", "depth", 1e300),
            ("wide-resnet", "widen_factor", 0.0),
            ("wide-resnet", "dropout", 1.0),
            ("wide-resnet", "dropout", f64::NAN),
            ("resnet", "depth", 20.0),
            ("resnet", "widen_factor", 2.0),
            ("efficientnet-lite", "member", 5.0),
            ("efficientnet-lite", "member", 0.5),
            ("efficientnet-lite", "dropout", 1.0),
            ("cac-net", "channels", 0.0),
            ("cifar-net", "channels", 0.0),
            ("cifar-net", "channels", 1025.0),
            ("cac-net", "dropout", -0.1),
        ] {
            let network = Architecture::new(family, &[(setting, value)]).unwrap();
            let error = network.layers(10, 32, 32).unwrap_err();
            assert!(matches!(error, Error::Setting { name, .. } if name == setting), "{error}");
        }
        for family in ["resnet", "efficientnet-lite"] {
            let network = Architecture::new(family, &[]).unwrap();
            assert!(network.layers(10, 32, 33).is_ok());
            let error = network.layers(10, 224, 31).unwrap_err();
            assert!(matches!(error, Error::Setting { name: "size", .. }), "{error}");
        }
        let network = Architecture::new("cifar-net", &[]).unwrap();
        assert!(network.layers(10, 17, 40).is_ok());
        let error = network.layers(10, 32, 16).unwrap_err();
        assert!(matches!(error, Error::Setting { name: "size", .. }), "{error}");
        let network = Architecture::new("cac-net", &[]).unwrap();
        for (classes, height, width) in [(1, 32, 32), (10, 36, 36), (10, 32, 40), (10, 8, 8)] {
            assert!(network.layers(classes, height, width).is_err(), "{classes} {height}x{width}");
        }
        assert!(
            Architecture::new("cac-net", &[("depth", 40.0)]).unwrap_err().to_string().contains("channels")
        );
    }
}
