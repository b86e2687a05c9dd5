//! The classifier of `cac-openset` (Miller et al., WACV 2021), with its parameter names: nine 3x3
//! convolutions in three groups, each followed by batch normalisation and LeakyReLU(0.2), and a linear layer.
//! The last convolution of a group has stride 2 and is followed by channel dropout.

use super::{Architecture, Builder, Conv, Family, Op, Recognized, Setting, Shapes};
use crate::{
    error::{Error, Result},
    image::Input,
};

pub(super) const FAMILY: Family = Family {
    name: "cac-net",
    about: "the nine convolutions of the official CAC code",
    settings: &[
        Setting {
            name: "channels",
            about: "Channels of the first two convolutions, half of the others'",
            default: 64.0,
        },
        Setting { name: "dropout", about: "Probability of channel dropout after each group", default: 0.2 },
    ],
    mark: "encoder.conv1.weight",
    title: |network| format!("CAC network with {} channels", network.get("channels")),
    default_input: |_| Input::default(),
    synonyms: |_| Vec::new(),
    recognize,
    layers,
};

fn recognize(shapes: Shapes) -> Result<Recognized, String> {
    let channels = shapes(FAMILY.mark).and_then(|shape| shape.first()).map_or(0, |&channels| channels);
    let (classes, size) = match shapes("classify.weight") {
        Some(&[classes, features]) => (Some(classes), Some(8 * (features / (2 * channels).max(1)).isqrt())),
        _ => (None, None),
    };
    let architecture =
        Architecture::new(FAMILY.name, &[("channels", channels as f64)]).expect("settings of the family");
    Ok(Recognized { architecture, classes, size })
}

fn layers(
    network: &Architecture,
    classes: usize,
    (height, width): (usize, usize),
    net: &mut Builder,
) -> Result<()> {
    let channels = network.whole("channels", 1..=1024, |_| true, "must be 1 to 1024")?;
    let dropout = network.dropout()?;
    // An 8x8 input would shrink to 1x1; batch norm cannot estimate a variance from one value.
    if height != width || !(16..=4096).contains(&height) || !height.is_multiple_of(8) {
        let reason = "must be a multiple of 8 from 16 to 4096, with equal height and width, for a cac-net";
        return Err(Error::setting("size", format!("{height}x{width}"), reason));
    }

    let mut x = net.push("input", Op::Input, &[]);
    let mut inputs = 3;
    for number in 1..=9 {
        let outputs = if number < 3 { channels } else { 2 * channels };
        let stride = if number % 3 == 0 { 2 } else { 1 };
        x = net.conv(&format!("encoder.conv{number}"), x, Conv::same(inputs, outputs, 3, stride));
        x = net.push(&format!("encoder.bn{number}"), Op::batch_norm(outputs), &[x]);
        x = net.push(&format!("encoder.relu{number}"), Op::LeakyRelu(0.2), &[x]);
        if number % 3 == 0 {
            x = net.push(&format!("encoder.dropout{}", number / 3), Op::DropoutChannels(dropout), &[x]);
        }
        inputs = outputs;
    }
    x = net.push("flatten", Op::Flatten, &[x]);
    net.linear("classify", x, inputs * (height / 8).pow(2), classes);
    Ok(())
}
