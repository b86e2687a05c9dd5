//! EfficientNet-Lite 0 to 4: EfficientNet (Tan and Le, arXiv 1905.11946) for processors and phones, with
//! ReLU6 and without squeeze-and-excite. Parameter names, channels and padding are those of timm's
//! `tf_efficientnet_lite0` to `tf_efficientnet_lite4`, whose weights come from TensorFlow.

use super::{Architecture, Builder, Conv, Family, Op, Recognized, Setting, Shapes};
use crate::{
    error::Result,
    image::{Filter, Fit, Input, Resize},
};

pub(super) const FAMILY: Family = Family {
    name: "efficientnet-lite",
    about: "EfficientNet-Lite for large images, 0 by default",
    settings: &[
        Setting { name: "member", about: "Member of EfficientNet-Lite, 0 to 4", default: 0.0 },
        Setting { name: "dropout", about: "Probability of dropout before the last layer", default: 0.0 },
    ],
    mark: "blocks.0.0.conv_dw.weight",
    title: |network| format!("EfficientNet-Lite{}", network.get("member")),
    default_input,
    synonyms,
    recognize,
    layers,
};

/// What distinguishes the members.
struct Member {
    /// The multiplier of the channels.
    width: f64,
    /// The multiplier of the number of blocks in a stage.
    depth: f64,
    /// Height and width of the images.
    size: usize,
    /// The share of the short side that the crop keeps.
    crop: f64,
    filter: Filter,
}

const MEMBERS: [Member; 5] = [
    Member { width: 1.0, depth: 1.0, size: 224, crop: 0.875, filter: Filter::Bicubic },
    Member { width: 1.0, depth: 1.1, size: 240, crop: 0.882, filter: Filter::Bicubic },
    Member { width: 1.1, depth: 1.2, size: 260, crop: 0.89, filter: Filter::Bicubic },
    Member { width: 1.2, depth: 1.4, size: 300, crop: 0.904, filter: Filter::Bilinear },
    Member { width: 1.4, depth: 1.8, size: 380, crop: 0.92, filter: Filter::Bilinear },
];

/// Blocks of one kind, before scaling.
struct Stage {
    /// The factor by which a block widens its input.
    expansion: usize,
    kernel: usize,
    channels: usize,
    blocks: usize,
    /// The stride of the first block.
    stride: usize,
}

const STAGES: [Stage; 7] = [
    Stage { expansion: 1, kernel: 3, channels: 16, blocks: 1, stride: 1 },
    Stage { expansion: 6, kernel: 3, channels: 24, blocks: 2, stride: 2 },
    Stage { expansion: 6, kernel: 5, channels: 40, blocks: 2, stride: 2 },
    Stage { expansion: 6, kernel: 3, channels: 80, blocks: 3, stride: 2 },
    Stage { expansion: 6, kernel: 5, channels: 112, blocks: 3, stride: 1 },
    Stage { expansion: 6, kernel: 5, channels: 192, blocks: 4, stride: 2 },
    Stage { expansion: 6, kernel: 3, channels: 320, blocks: 1, stride: 1 },
];

/// Channels of the first convolution and of the last, in every member.
const STEM: usize = 32;
const HEAD: usize = 1280;

impl Member {
    /// The channels of a stage: a multiple of 8, at least 90 % of the scaled number.
    fn channels(&self, stage: &Stage) -> usize {
        let scaled = stage.channels as f64 * self.width;
        let rounded = (scaled / 8.0 + 0.5).floor() * 8.0;
        (if rounded < 0.9 * scaled { rounded + 8.0 } else { rounded }) as usize
    }

    /// The number of blocks in a stage. The first and the last stage have one in every member.
    fn blocks(&self, stage: &Stage) -> usize {
        if stage.blocks == 1 { 1 } else { (stage.blocks as f64 * self.depth).ceil() as usize }
    }
}

fn member(network: &Architecture) -> Result<&'static Member> {
    network.whole("member", 0..=MEMBERS.len() - 1, |_| true, "must be 0 to 4").map(|member| &MEMBERS[member])
}

fn default_input(network: &Architecture) -> Input {
    // `layers` rejects other members.
    let Member { size, crop, filter, .. } = *member(network).unwrap_or(&MEMBERS[0]);
    let resize = Resize { fit: Fit::Crop { share: crop }, filter };
    Input { height: size, width: size, mean: [0.5; 3], std: [0.5; 3], resize }
}

/// The layer names of EfficientNet-PyTorch, which numbers blocks consecutively, and of timm.
fn synonyms(shapes: Shapes) -> Vec<(String, String)> {
    let has = |layer: String| shapes(&format!("{layer}.weight")).is_some();
    let count = (0..).take_while(|number| has(format!("_blocks.{number}._depthwise_conv"))).count();
    let stages = |member: &Member| STAGES.each_ref().map(|stage| member.blocks(stage));
    let is_other = has("_blocks.0._se_reduce".to_owned());
    let Some(blocks) =
        MEMBERS.iter().map(stages).find(|stages| !is_other && stages.iter().sum::<usize>() == count)
    else {
        return Vec::new();
    };
    let ends = [("_conv_stem", "conv_stem"), ("_bn0", "bn1"), ("_conv_head", "conv_head"), ("_bn1", "bn2")];
    let mut names: Vec<(String, String)> =
        ends.into_iter().chain([("_fc", "classifier")]).map(|(a, b)| (a.to_owned(), b.to_owned())).collect();
    let numbers = blocks.iter().enumerate().flat_map(|(stage, &count)| (0..count).map(move |i| (stage, i)));
    for (number, (stage, i)) in numbers.enumerate() {
        let layers = if STAGES[stage].expansion > 1 {
            &[
                ("_expand_conv", "conv_pw"),
                ("_bn0", "bn1"),
                ("_depthwise_conv", "conv_dw"),
                ("_bn1", "bn2"),
                ("_project_conv", "conv_pwl"),
                ("_bn2", "bn3"),
            ][..]
        } else {
            &[("_depthwise_conv", "conv_dw"), ("_bn1", "bn1"), ("_project_conv", "conv_pw"), ("_bn2", "bn2")]
        };
        let named =
            |(a, b): &(&str, &str)| (format!("_blocks.{number}.{a}"), format!("blocks.{stage}.{i}.{b}"));
        names.extend(layers.iter().map(named));
    }
    names
}

fn recognize(shapes: Shapes) -> Result<Recognized, String> {
    // Depth and width of this stage tell the members apart.
    let stage = &STAGES[5];
    let blocks = (0..).take_while(|i| shapes(&format!("blocks.5.{i}.conv_pwl.weight")).is_some()).count();
    let channels = shapes("blocks.5.0.conv_pwl.weight").and_then(|shape| shape.first().copied()).unwrap_or(0);
    let is_found = |member: &Member| (member.blocks(stage), member.channels(stage)) == (blocks, channels);
    let Some(member) = MEMBERS.iter().position(is_found) else {
        return Err(format!("no EfficientNet-Lite has {blocks} blocks of {channels} channels in `blocks.5`"));
    };
    let architecture =
        Architecture::new(FAMILY.name, &[("member", member as f64)]).expect("settings of the family");
    let classes = shapes("classifier.weight").and_then(|shape| shape.first().copied());
    Ok(Recognized { architecture, classes, size: None })
}

fn layers(network: &Architecture, classes: usize, size: (usize, usize), net: &mut Builder) -> Result<()> {
    let member = member(network)?;
    let dropout = network.dropout()?;
    super::at_least(32, size, "an efficientnet-lite")?;

    let input = net.push("input", Op::Input, &[]);
    let mut x = Cursor { net, at: input, channels: 3, size };
    x.conv("conv_stem", STEM, 3, 2);
    x.norm_and_activation("bn1");
    for (number, stage) in STAGES.iter().enumerate() {
        for i in 0..member.blocks(stage) {
            let stride = if i == 0 { stage.stride } else { 1 };
            x.block(&format!("blocks.{number}.{i}"), stage, member.channels(stage), stride);
        }
    }
    x.conv("conv_head", HEAD, 1, 1);
    x.norm_and_activation("bn2");
    let Cursor { net, at, .. } = x;
    let mut x = net.push("global_pool", Op::GlobalAveragePool, &[at]);
    x = net.push("dropout", Op::Dropout(dropout), &[x]);
    net.linear("classifier", x, HEAD, classes);
    Ok(())
}

/// The last layer under construction, with the shape of its output.
struct Cursor<'a> {
    net: &'a mut Builder,
    at: usize,
    channels: usize,
    /// Height and width.
    size: (usize, usize),
}

impl Cursor<'_> {
    /// A convolution with TensorFlow's padding.
    fn conv(&mut self, name: &str, outputs: usize, kernel: usize, stride: usize) {
        self.grouped(name, outputs, kernel, stride, 1);
    }

    /// A convolution of each channel on its own.
    fn depthwise(&mut self, name: &str, kernel: usize, stride: usize) {
        self.grouped(name, self.channels, kernel, stride, self.channels);
    }

    fn grouped(&mut self, name: &str, outputs: usize, kernel: usize, stride: usize, groups: usize) {
        let (height, width) = self.size;
        let (top, bottom) = padding(height, kernel, stride);
        let (left, right) = padding(width, kernel, stride);
        let conv = Conv {
            inputs: self.channels,
            outputs,
            kernel,
            stride,
            padding: [top, left, bottom, right],
            groups,
            bias: false,
        };
        self.at = self.net.conv(name, self.at, conv);
        self.channels = outputs;
        self.size = (height.div_ceil(stride), width.div_ceil(stride));
    }

    /// Batch normalisation with TensorFlow's epsilon and, as in timm, PyTorch's momentum.
    fn norm(&mut self, name: &str) {
        let op = Op::BatchNorm { channels: self.channels, epsilon: 1e-3, momentum: 0.1 };
        self.at = self.net.push(name, op, &[self.at]);
    }

    fn norm_and_activation(&mut self, name: &str) {
        self.norm(name);
        self.at = self.net.push(&format!("{name}.act"), Op::Relu6, &[self.at]);
    }

    /// An inverted residual block; without expansion a depthwise separable convolution. The input is added
    /// if its shape is that of the output.
    fn block(&mut self, name: &str, stage: &Stage, outputs: usize, stride: usize) {
        let at = |suffix: &str| format!("{name}.{suffix}");
        let (shortcut, inputs) = (self.at, self.channels);
        let is_expanded = stage.expansion > 1;
        if is_expanded {
            self.conv(&at("conv_pw"), stage.expansion * inputs, 1, 1);
            self.norm_and_activation(&at("bn1"));
        }
        let [norm, projection, last_norm] =
            if is_expanded { ["bn2", "conv_pwl", "bn3"] } else { ["bn1", "conv_pw", "bn2"] };
        self.depthwise(&at("conv_dw"), stage.kernel, stride);
        self.norm_and_activation(&at(norm));
        self.conv(&at(projection), outputs, 1, 1);
        self.norm(&at(last_norm));
        if stride == 1 && inputs == outputs {
            self.at = self.net.push(&at("add"), Op::Add, &[self.at, shortcut]);
        }
    }
}

/// The padding before and after a side, such that its length is divided by the stride and rounded up. An odd
/// pixel comes after.
fn padding(length: usize, kernel: usize, stride: usize) -> (usize, usize) {
    let covered = (length.div_ceil(stride) - 1) * stride + kernel;
    let missing = covered.saturating_sub(length);
    (missing / 2, missing.div_ceil(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_padding_goes_at_the_end() {
        assert_eq!(padding(224, 3, 2), (0, 1));
        assert_eq!(padding(225, 3, 2), (1, 1));
        assert_eq!(padding(112, 5, 2), (1, 2));
        assert_eq!(padding(14, 5, 1), (2, 2));
        assert_eq!(padding(7, 1, 1), (0, 0));
    }

    #[test]
    fn synonyms_cover_all_layers() {
        for (number, member) in MEMBERS.iter().enumerate() {
            let blocks: usize = STAGES.iter().map(|stage| member.blocks(stage)).sum();
            let has = |name: &str| {
                let number = name.strip_prefix("_blocks.")?.strip_suffix("._depthwise_conv.weight")?;
                (number.parse::<usize>().ok()? < blocks).then_some(&[32, 1, 3, 3][..])
            };
            let mut found: Vec<String> = synonyms(&has).into_iter().map(|(_, name)| name).collect();
            let network = Architecture::new(FAMILY.name, &[("member", number as f64)]).unwrap();
            let layers = network.layers(7, 224, 224).unwrap();
            let with_parameters = layers.iter().filter(|layer| !layer.parameters().is_empty());
            let mut expected: Vec<String> = with_parameters.map(|layer| layer.name.clone()).collect();
            found.sort();
            expected.sort();
            assert_eq!(found, expected);
            // The network with squeeze-and-excite has these names too.
            let is_other =
                |name: &str| has(name).or((name == "_blocks.0._se_reduce.weight").then_some(&[8][..]));
            assert!(synonyms(&is_other).is_empty());
        }
    }

    #[test]
    fn members_are_scaled_as_in_timm() {
        let channels = |member: usize| STAGES.each_ref().map(|stage| MEMBERS[member].channels(stage));
        let blocks = |member: usize| STAGES.each_ref().map(|stage| MEMBERS[member].blocks(stage));
        assert_eq!((channels(1), blocks(1)), ([16, 24, 40, 80, 112, 192, 320], [1, 3, 3, 4, 4, 5, 1]));
        assert_eq!((channels(4), blocks(4)), ([24, 32, 56, 112, 160, 272, 448], [1, 4, 4, 6, 6, 8, 1]));
    }
}
