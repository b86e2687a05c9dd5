//! WideResNet-d-k (Zagoruyko and Komodakis, arXiv 1605.07146) with pre-activation blocks and the parameter
//! names of pytorch-ood's `WideResNet`.

use super::{Architecture, Builder, Conv, Family, Op, Recognized, Setting, Shapes};
use crate::{error::Result, image::Input};

pub(super) const FAMILY: Family = Family {
    name: "wide-resnet",
    about: "WideResNet, 40-2 by default",
    settings: &[
        Setting {
            name: "depth",
            about: "Depth of a WideResNet, 6n + 4 for n blocks in each of its three groups",
            default: 40.0,
        },
        Setting {
            name: "widen_factor",
            about: "Width of a WideResNet as a multiple of 16, 32 and 64 channels",
            default: 2.0,
        },
        Setting {
            name: "dropout",
            about: "Probability of dropout between the convolutions of a block",
            default: 0.0,
        },
    ],
    mark: "block1.layer.0.conv1.weight",
    title: |network| format!("WideResNet-{}-{}", network.get("depth"), network.get("widen_factor")),
    default_input: |_| Input::default(),
    synonyms: |_| Vec::new(),
    recognize,
    layers,
};

fn recognize(shapes: Shapes) -> Result<Recognized, String> {
    let width = shapes(FAMILY.mark).and_then(|shape| shape.first()).map_or(0, |&width| width);
    let blocks = (0..).take_while(|i| shapes(&format!("block1.layer.{i}.conv1.weight")).is_some()).count();
    let settings = [("depth", (6 * blocks + 4) as f64), ("widen_factor", (width / 16) as f64)];
    let classes = shapes("fc.weight").and_then(|shape| shape.first().copied());
    let architecture = Architecture::new(FAMILY.name, &settings).expect("settings of the family");
    Ok(Recognized { architecture, classes, size: None })
}

fn layers(network: &Architecture, classes: usize, _: (usize, usize), net: &mut Builder) -> Result<()> {
    let is_depth = |depth| depth % 6 == 4;
    let depth =
        network.whole("depth", 10..=1000, is_depth, "must be 10, 16, 22, ... (6n + 4), at most 1000")?;
    let widen_factor = network.whole("widen_factor", 1..=64, |_| true, "must be 1 to 64")?;
    let dropout = network.dropout()?;

    let input = net.push("input", Op::Input, &[]);
    let mut x = net.conv("conv1", input, Conv::same(3, 16, 3, 1));
    let mut width = 16;
    for group in 0..3 {
        let outputs = (16 << group) * widen_factor;
        for i in 0..(depth - 4) / 6 {
            let stride = if group > 0 && i == 0 { 2 } else { 1 };
            x = block(net, &format!("block{}.layer.{i}", group + 1), x, [width, outputs], stride, dropout);
            width = outputs;
        }
    }
    x = net.push("bn1", Op::batch_norm(width), &[x]);
    x = net.push("relu", Op::Relu, &[x]);
    x = net.push("pool", Op::GlobalAveragePool, &[x]);
    net.linear("fc", x, width, classes);
    Ok(())
}

/// a = relu(bn1(x)); conv2(dropout(relu(bn2(conv1(a))))) + shortcut, which is x itself or, if the width
/// changes, a strided 1x1 convolution of a.
fn block(
    net: &mut Builder,
    name: &str,
    x: usize,
    [inputs, outputs]: [usize; 2],
    stride: usize,
    dropout: f64,
) -> usize {
    let at = |suffix: &str| format!("{name}.{suffix}");
    let normed = net.push(&at("bn1"), Op::batch_norm(inputs), &[x]);
    let a = net.push(&at("relu1"), Op::Relu, &[normed]);
    let mut y = net.conv(&at("conv1"), a, Conv::same(inputs, outputs, 3, stride));
    y = net.push(&at("bn2"), Op::batch_norm(outputs), &[y]);
    y = net.push(&at("relu2"), Op::Relu, &[y]);
    y = net.push(&at("dropout"), Op::Dropout(dropout), &[y]);
    y = net.conv(&at("conv2"), y, Conv::same(outputs, outputs, 3, 1));
    let shortcut = if inputs == outputs {
        x
    } else {
        net.conv(&at("convShortcut"), a, Conv::same(inputs, outputs, 1, stride))
    };
    net.push(&at("add"), Op::Add, &[y, shortcut])
}
