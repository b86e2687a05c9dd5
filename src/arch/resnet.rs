//! ResNet (He et al., arXiv 1512.03385) with its stride on the 3x3 convolution of a bottleneck, and Wide
//! ResNet (Zagoruyko and Komodakis) for ImageNet, with the parameter names of torchvision and timm.

use super::{Architecture, Builder, Conv, Family, Op, Recognized, Setting, Shapes};
use crate::{
    error::Result,
    image::{Filter, Fit, Input, Resize},
};

pub(super) const FAMILY: Family = Family {
    name: "resnet",
    about: "ResNet for large images, 18 by default",
    settings: &[
        Setting { name: "depth", about: "Depth of a ResNet: 18, 34, 50, 101 or 152", default: 18.0 },
        Setting {
            name: "widen_factor",
            about: "Width within the blocks of a ResNet from depth 50 on, as a multiple of the usual one",
            default: 1.0,
        },
    ],
    mark: "layer1.0.conv1.weight",
    title: |network| match (network.get("depth"), network.get("widen_factor")) {
        (depth, 1.0) => format!("ResNet-{depth}"),
        (depth, widen_factor) => format!("Wide ResNet-{depth}-{widen_factor}"),
    },
    default_input,
    synonyms: |_| Vec::new(),
    recognize,
    layers,
};

/// The depth, the number of blocks in each group, and whether they are bottlenecks.
const MEMBERS: [(usize, [usize; 4], bool); 5] = [
    (18, [2, 2, 2, 2], false),
    (34, [3, 4, 6, 3], false),
    (50, [3, 4, 6, 3], true),
    (101, [3, 4, 23, 3], true),
    (152, [3, 8, 36, 3], true),
];

/// The input of torchvision's first weights.
fn default_input(_: &Architecture) -> Input {
    Input {
        height: 224,
        width: 224,
        mean: [0.485, 0.456, 0.406],
        std: [0.229, 0.224, 0.225],
        resize: Resize { fit: Fit::Crop { share: 0.875 }, filter: Filter::Bilinear },
    }
}

fn recognize(shapes: Shapes) -> Result<Recognized, String> {
    let blocks = [1, 2, 3, 4].map(|group| {
        (0..).take_while(|i| shapes(&format!("layer{group}.{i}.conv1.weight")).is_some()).count()
    });
    let is_bottleneck = shapes("layer1.0.conv3.weight").is_some();
    let member = MEMBERS.iter().find(|member| (member.1, member.2) == (blocks, is_bottleneck));
    let Some(&(depth, ..)) = member else {
        let kind = if is_bottleneck { "bottlenecks" } else { "basic blocks" };
        let [a, b, c, d] = blocks;
        return Err(format!("a ResNet with {a}, {b}, {c} and {d} {kind} is not supported"));
    };
    let width = shapes(FAMILY.mark).and_then(|shape| shape.first()).map_or(64, |&width| width);
    let widen_factor = if is_bottleneck { width / 64 } else { 1 };
    let settings = [("depth", depth as f64), ("widen_factor", widen_factor as f64)];
    let architecture = Architecture::new(FAMILY.name, &settings).expect("settings of the family");
    let classes = shapes("fc.weight").and_then(|shape| shape.first().copied());
    Ok(Recognized { architecture, classes, size: None })
}

fn layers(network: &Architecture, classes: usize, size: (usize, usize), net: &mut Builder) -> Result<()> {
    let is_depth = |depth| MEMBERS.iter().any(|member| member.0 == depth);
    let depth = network.whole("depth", 18..=152, is_depth, "must be 18, 34, 50, 101 or 152")?;
    let &(_, groups, is_bottleneck) = MEMBERS.iter().find(|member| member.0 == depth).expect("was checked");
    let possible = |factor| factor == 1 || is_bottleneck;
    let reason = "must be 1 to 16, and 1 for a ResNet-18 or ResNet-34";
    let widen_factor = network.whole("widen_factor", 1..=16, possible, reason)?;
    super::at_least(32, size, "a resnet")?;

    let mut x = net.push("input", Op::Input, &[]);
    x = net.conv("conv1", x, Conv::same(3, 64, 7, 2));
    x = net.push("bn1", Op::batch_norm(64), &[x]);
    x = net.push("relu", Op::Relu, &[x]);
    x = net.push("maxpool", Op::MaxPool { kernel: 3, stride: 2, padding: 1 }, &[x]);
    let mut inputs = 64;
    for (group, blocks) in groups.into_iter().enumerate() {
        let width = (64 << group) * widen_factor;
        let outputs = (64 << group) * if is_bottleneck { 4 } else { 1 };
        for i in 0..blocks {
            let stride = if group > 0 && i == 0 { 2 } else { 1 };
            let convs = if is_bottleneck {
                vec![
                    Conv::same(inputs, width, 1, 1),
                    Conv::same(width, width, 3, stride),
                    Conv::same(width, outputs, 1, 1),
                ]
            } else {
                vec![Conv::same(inputs, outputs, 3, stride), Conv::same(outputs, outputs, 3, 1)]
            };
            let shortcut = (inputs != outputs || stride > 1).then(|| Conv::same(inputs, outputs, 1, stride));
            x = block(net, &format!("layer{}.{i}", group + 1), x, &convs, shortcut);
            inputs = outputs;
        }
    }
    x = net.push("avgpool", Op::GlobalAveragePool, &[x]);
    net.linear("fc", x, inputs, classes);
    Ok(())
}

/// relu(y + shortcut), where y is x after the convolutions, each with batch normalisation and all but the
/// last with ReLU. The shortcut is x itself or a 1x1 convolution with batch normalisation.
fn block(net: &mut Builder, name: &str, x: usize, convs: &[Conv], shortcut: Option<Conv>) -> usize {
    let at = |suffix: &str| format!("{name}.{suffix}");
    let mut y = x;
    for (number, &conv) in (1..).zip(convs) {
        y = net.conv(&at(&format!("conv{number}")), y, conv);
        y = net.push(&at(&format!("bn{number}")), Op::batch_norm(conv.outputs), &[y]);
        if number < convs.len() {
            y = net.push(&at(&format!("act{number}")), Op::Relu, &[y]);
        }
    }
    let shortcut = shortcut.map_or(x, |conv| {
        let x = net.conv(&at("downsample.0"), x, conv);
        net.push(&at("downsample.1"), Op::batch_norm(conv.outputs), &[x])
    });
    let sum = net.push(&at("add"), Op::Add, &[y, shortcut]);
    net.push(&at(&format!("act{}", convs.len())), Op::Relu, &[sum])
}
