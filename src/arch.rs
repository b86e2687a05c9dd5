//! The network as pure data: one ordered list of layers that [training](crate::train) runs on libtorch and
//! [export](crate::export) writes as ONNX.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Batch normalisation adds this to the variance (PyTorch's default).
pub const BATCH_NORM_EPSILON: f64 = 1e-5;

/// A network family with its settings; what a manifest records.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "family", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Architecture {
    /// A wide residual network.
    WideResNet(WideResNet),
    /// The network of the official CAC code.
    CacNet(CacNet),
}

impl Architecture {
    /// The layers in order of evaluation, ending in logits `[N, classes]`.
    ///
    /// # Errors
    /// [`Error::Setting`] for settings that describe no network.
    pub fn layers(&self, classes: usize) -> Result<Vec<Layer>> {
        match self {
            Self::WideResNet(network) => network.layers(classes),
            Self::CacNet(network) => network.layers(classes),
        }
    }

    /// The height and width that pictures must have; any where the network pools them away.
    #[must_use]
    pub fn fixed_size(&self) -> Option<usize> {
        match self {
            Self::WideResNet(_) => None,
            Self::CacNet(network) => Some(network.size),
        }
    }
}

/// WideResNet-d-k (Zagoruyko and Komodakis, arXiv 1605.07146) with pre-activation blocks and the parameter
/// names of pytorch-ood's `WideResNet`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WideResNet {
    /// 6n + 4 for n blocks in each of the three groups.
    pub depth: usize,
    /// The groups have 16, 32 and 64 times this many channels.
    pub widen_factor: usize,
    /// The share of activations dropped between the convolutions of a block while training, 0 to below 1.
    pub dropout: f64,
}

impl Default for WideResNet {
    fn default() -> Self {
        Self { depth: 40, widen_factor: 2, dropout: 0.0 }
    }
}

/// The open-set classifier of `cac-openset` (Miller et al., WACV 2021) with its parameter names: nine 3x3
/// convolutions in groups of three, each followed by batch normalisation and LeakyReLU(0.2), the last of a
/// group with stride 2 and followed by dropout of whole channels; then a linear layer of all values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CacNet {
    /// Channels of the first two convolutions; the others have twice as many.
    pub channels: usize,
    /// The height and width of the pictures, a multiple of 8.
    pub size: usize,
    /// The share of channels dropped behind each group while training, 0 to below 1.
    pub dropout: f64,
}

impl Default for CacNet {
    fn default() -> Self {
        Self { channels: 64, size: 32, dropout: 0.2 }
    }
}

/// One layer: what it computes and from which earlier layers.
#[derive(Debug, Clone, PartialEq)]
pub struct Layer {
    /// Unique; where the layer has parameters, their prefix in a weights file.
    pub name: String,
    /// What it computes.
    pub op: Op,
    /// The layers that it reads, as indices into the list; all are smaller than its own.
    pub inputs: Vec<usize>,
}

/// What a layer computes. Activations are `[N, channels, height, width]` up to the pooling.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Op {
    /// The normalised pictures `[N, 3, H, W]`.
    Input,
    /// A square convolution without bias.
    Conv {
        /// Channels read.
        inputs: usize,
        /// Channels written.
        outputs: usize,
        /// Side of the kernel.
        kernel: usize,
        /// Step in both directions.
        stride: usize,
        /// Zeros added on each side.
        padding: usize,
    },
    /// Batch normalisation.
    BatchNorm {
        /// Channels read and written.
        channels: usize,
    },
    /// max(0, x). It may overwrite its input, of which it is the only reader.
    Relu,
    /// max(x, slope * x) with a slope below 1.
    LeakyRelu(f64),
    /// Dropout with this probability; the identity outside training.
    Dropout(f64),
    /// The same of whole channels.
    DropoutChannels(f64),
    /// The sum of two layers. It may overwrite the first, of which it is the only reader.
    Add,
    /// The mean over height and width: `[N, C, H, W]` to `[N, C]`.
    Pool,
    /// All values in one row, channel by channel: `[N, C, H, W]` to `[N, C H W]`.
    Flatten,
    /// A fully connected layer with bias.
    Linear {
        /// Features read.
        inputs: usize,
        /// Features written.
        outputs: usize,
    },
}

impl Layer {
    /// The layer's parameters and statistics as names and shapes in PyTorch's layout.
    #[must_use]
    pub fn parameters(&self) -> Vec<(String, Vec<usize>)> {
        let named = |suffix: &str, shape: Vec<usize>| (format!("{}.{suffix}", self.name), shape);
        match self.op {
            Op::Conv { inputs, outputs, kernel, .. } => {
                vec![named("weight", vec![outputs, inputs, kernel, kernel])]
            }
            Op::BatchNorm { channels } => ["weight", "bias", "running_mean", "running_var"]
                .map(|suffix| named(suffix, vec![channels]))
                .to_vec(),
            Op::Linear { inputs, outputs } => {
                vec![named("weight", vec![outputs, inputs]), named("bias", vec![outputs])]
            }
            Op::Input
            | Op::Relu
            | Op::LeakyRelu(_)
            | Op::Dropout(_)
            | Op::DropoutChannels(_)
            | Op::Add
            | Op::Pool
            | Op::Flatten => Vec::new(),
        }
    }
}

impl WideResNet {
    fn layers(&self, classes: usize) -> Result<Vec<Layer>> {
        let &Self { depth, widen_factor, dropout } = self;
        if !(10..=1000).contains(&depth) || depth % 6 != 4 {
            return invalid("depth", depth.to_string(), "must be 10, 16, 22, ... (6n + 4), at most 1000");
        }
        if !(1..=64).contains(&widen_factor) {
            return invalid("widen factor", widen_factor.to_string(), "must be 1 to 64");
        }
        check(dropout, classes)?;

        let mut net = Builder::default();
        let input = net.push("images", Op::Input, &[]);
        let mut x = net.conv("conv1", input, 3, 16, 3, 1);
        let mut width = 16;
        for group in 0..3 {
            let outputs = (16 << group) * widen_factor;
            for i in 0..(depth - 4) / 6 {
                let stride = if group > 0 && i == 0 { 2 } else { 1 };
                let name = format!("block{}.layer.{i}", group + 1);
                x = net.block(&name, x, width, outputs, stride, dropout);
                width = outputs;
            }
        }
        x = net.push("bn1", Op::BatchNorm { channels: width }, &[x]);
        x = net.push("relu", Op::Relu, &[x]);
        x = net.push("pool", Op::Pool, &[x]);
        net.push("fc", Op::Linear { inputs: width, outputs: classes }, &[x]);
        Ok(net.layers)
    }
}

impl CacNet {
    fn layers(&self, classes: usize) -> Result<Vec<Layer>> {
        let &Self { channels, size, dropout } = self;
        if !(1..=1024).contains(&channels) {
            return invalid("channels", channels.to_string(), "must be 1 to 1024");
        }
        // Of 8 pixels one would be left, of which batch normalisation learns nothing from a single picture.
        if !(16..=4096).contains(&size) || !size.is_multiple_of(8) {
            return invalid(
                "size",
                size.to_string(),
                "must be a multiple of 8, from 16 to 4096, for this network",
            );
        }
        check(dropout, classes)?;

        let mut net = Builder::default();
        let mut x = net.push("images", Op::Input, &[]);
        let mut inputs = 3;
        for number in 1..=9 {
            let outputs = if number < 3 { channels } else { 2 * channels };
            let stride = if number % 3 == 0 { 2 } else { 1 };
            x = net.conv(&format!("encoder.conv{number}"), x, inputs, outputs, 3, stride);
            x = net.push(&format!("encoder.bn{number}"), Op::BatchNorm { channels: outputs }, &[x]);
            x = net.push(&format!("encoder.relu{number}"), Op::LeakyRelu(0.2), &[x]);
            if number % 3 == 0 {
                x = net.push(&format!("encoder.dropout{}", number / 3), Op::DropoutChannels(dropout), &[x]);
            }
            inputs = outputs;
        }
        x = net.push("flatten", Op::Flatten, &[x]);
        net.push("classify", Op::Linear { inputs: inputs * (size / 8).pow(2), outputs: classes }, &[x]);
        Ok(net.layers)
    }
}

fn check(dropout: f64, classes: usize) -> Result<()> {
    if !(0.0..1.0).contains(&dropout) {
        return invalid("dropout", dropout.to_string(), "must be at least 0 and below 1");
    }
    if !(2..=4096).contains(&classes) {
        return invalid("classes", classes.to_string(), "must be 2 to 4096");
    }
    Ok(())
}

fn invalid<T>(name: &'static str, value: String, reason: &str) -> Result<T> {
    Err(Error::setting(name, value, reason))
}

/// Appends layers and hands out their indices.
#[derive(Default)]
struct Builder {
    layers: Vec<Layer>,
}

impl Builder {
    fn push(&mut self, name: &str, op: Op, inputs: &[usize]) -> usize {
        self.layers.push(Layer { name: name.to_owned(), op, inputs: inputs.to_vec() });
        self.layers.len() - 1
    }

    fn conv(
        &mut self,
        name: &str,
        x: usize,
        inputs: usize,
        outputs: usize,
        kernel: usize,
        stride: usize,
    ) -> usize {
        self.push(name, Op::Conv { inputs, outputs, kernel, stride, padding: kernel / 2 }, &[x])
    }

    /// a = relu(bn1(x)); conv2(dropout(relu(bn2(conv1(a))))) + shortcut, which is x itself or, where the
    /// width changes, a strided 1x1 convolution of a.
    fn block(
        &mut self,
        name: &str,
        x: usize,
        inputs: usize,
        outputs: usize,
        stride: usize,
        dropout: f64,
    ) -> usize {
        let at = |suffix: &str| format!("{name}.{suffix}");
        let normed = self.push(&at("bn1"), Op::BatchNorm { channels: inputs }, &[x]);
        let a = self.push(&at("relu1"), Op::Relu, &[normed]);
        let mut y = self.conv(&at("conv1"), a, inputs, outputs, 3, stride);
        y = self.push(&at("bn2"), Op::BatchNorm { channels: outputs }, &[y]);
        y = self.push(&at("relu2"), Op::Relu, &[y]);
        y = self.push(&at("dropout"), Op::Dropout(dropout), &[y]);
        y = self.conv(&at("conv2"), y, outputs, outputs, 3, 1);
        let shortcut =
            if inputs == outputs { x } else { self.conv(&at("convShortcut"), a, inputs, outputs, 1, stride) };
        self.push(&at("add"), Op::Add, &[y, shortcut])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> [Architecture; 2] {
        [Architecture::WideResNet(WideResNet::default()), Architecture::CacNet(CacNet::default())]
    }

    fn parameter_count(network: Architecture, classes: usize) -> usize {
        let layers = network.layers(classes).unwrap();
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
        let wrn =
            |depth, widen_factor| Architecture::WideResNet(WideResNet { depth, widen_factor, dropout: 0.0 });
        assert_eq!(parameter_count(wrn(40, 2), 10), 2_243_546);
        assert_eq!(parameter_count(wrn(28, 10), 10) / 100_000, 364);
        assert_eq!(parameter_count(wrn(16, 8), 10) / 100_000, 109);
        // The official checkpoints with six classes.
        assert_eq!(parameter_count(Architecture::CacNet(CacNet::default()), 6), 1_011_398);
    }

    #[test]
    fn layers_read_earlier_layers_and_have_unique_names() {
        for layers in all().map(|network| network.layers(10).unwrap()) {
            for (index, layer) in layers.iter().enumerate() {
                assert!(layer.inputs.iter().all(|&input| input < index), "{}", layer.name);
            }
            let names: std::collections::HashSet<_> = layers.iter().map(|layer| &layer.name).collect();
            assert_eq!(names.len(), layers.len());
        }
    }

    #[test]
    fn what_may_be_overwritten_has_one_reader() {
        let layers = Architecture::WideResNet(WideResNet::default()).layers(10).unwrap();
        for layer in layers.iter().filter(|layer| matches!(layer.op, Op::Relu | Op::Add)) {
            let first = layer.inputs[0];
            assert_eq!(
                layers.iter().filter(|other| other.inputs.contains(&first)).count(),
                1,
                "{}",
                layer.name
            );
        }
    }

    #[test]
    fn impossible_settings_are_refused() {
        let good = WideResNet::default();
        for bad in [
            WideResNet { depth: 41, ..good },
            WideResNet { depth: 4, ..good },
            WideResNet { depth: usize::MAX, ..good },
            WideResNet { widen_factor: 0, ..good },
            WideResNet { dropout: 1.0, ..good },
            WideResNet { dropout: f64::NAN, ..good },
        ] {
            assert!(Architecture::WideResNet(bad.clone()).layers(10).is_err(), "{bad:?}");
        }
        assert!(Architecture::WideResNet(good).layers(1).is_err());
        let good = CacNet::default();
        for bad in
            [CacNet { size: 36, ..good }, CacNet { channels: 0, ..good }, CacNet { dropout: -0.1, ..good }]
        {
            assert!(Architecture::CacNet(bad.clone()).layers(10).is_err(), "{bad:?}");
        }
    }
}
