//! The small network of airbench94 (Jordan, arXiv 2404.00498) for images of about 32 pixels, with its parameter
//! names: a whitening 2x2 convolution, three groups of two 3x3 convolutions, the first of which is followed
//! by pooling, and a linear layer. Unlike airbench94, activations are ReLU, which every runtime folds into
//! convolutions, instead of GELU; features are means over the image instead of maxima, so that logits can be
//! localised; and the last layer has a bias. Batch normalisation has scales, and filters neither start as
//! the identity nor keep a norm.

use super::{Architecture, Builder, Conv, Family, Init, Op, Recognized, Setting, Shapes};
use crate::{error::Result, image::Input};

pub(super) const FAMILY: Family = Family {
    name: "cifar-net",
    about: "six 3x3 convolutions for images of about 32 pixels, quick to train from scratch",
    settings: &[Setting {
        name: "channels",
        about: "Channels of the first group, a quarter of the others'",
        default: 64.0,
    }],
    mark: "whiten.weight",
    title: |network| format!("CifarNet-{}", network.get("channels")),
    default_input: |_| Input::default(),
    synonyms: |_| Vec::new(),
    recognize,
    layers,
};

/// The filters of the first convolution: twice the values of a patch.
const STEM: usize = 24;

fn recognize(shapes: Shapes) -> Result<Recognized, String> {
    let channels =
        shapes("layers.1.conv1.weight").and_then(|shape| shape.first()).map_or(0, |&channels| channels);
    let architecture =
        Architecture::new(FAMILY.name, &[("channels", channels as f64)]).expect("settings of the family");
    let classes = shapes("head.weight").and_then(|shape| shape.first().copied());
    Ok(Recognized { architecture, classes, size: None })
}

fn layers(network: &Architecture, classes: usize, size: (usize, usize), net: &mut Builder) -> Result<()> {
    let channels = network.whole("channels", 1..=1024, |_| true, "must be 1 to 1024")?;
    super::at_least(17, size, "a cifar-net")?;
    let mut x = net.push("input", Op::Input, &[]);
    let whiten = Conv { kernel: 2, padding: [0; 4], bias: true, ..Conv::same(3, STEM, 2, 1) };
    x = net.push_with("whiten", Op::Conv(whiten), &[x], Init::Whiten);
    x = net.push("layers.0", Op::Relu, &[x]);
    let mut inputs = STEM;
    for (group, outputs) in (1..).zip([channels, 4 * channels, 4 * channels]) {
        let at = |suffix: &str| format!("layers.{group}.{suffix}");
        x = net.conv(&at("conv1"), x, Conv::same(inputs, outputs, 3, 1));
        x = net.push(&at("pool"), Op::MaxPool { kernel: 2, stride: 2, padding: 0 }, &[x]);
        x = net.push(&at("norm1"), Op::batch_norm(outputs), &[x]);
        x = net.push(&at("act1"), Op::Relu, &[x]);
        x = net.conv(&at("conv2"), x, Conv::same(outputs, outputs, 3, 1));
        x = net.push(&at("norm2"), Op::batch_norm(outputs), &[x]);
        x = net.push(&at("act2"), Op::Relu, &[x]);
        inputs = outputs;
    }
    x = net.push("layers.4", Op::GlobalAveragePool, &[x]);
    net.linear("head", x, inputs, classes);
    Ok(())
}
