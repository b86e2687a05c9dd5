//! timm's weights on the Hugging Face hub, as timm 1.0.31 describes them. Their SHA-256 is not stated there.

use super::{HALF, Host, IMAGENET, PublishedWeights, crop};
use crate::image::{Filter, Input, Resize};

/// The URL of the newest revision, which timm uses too.
pub(super) fn url(weights: &PublishedWeights) -> String {
    format!("https://huggingface.co/{}/resolve/main/model.safetensors", weights.name)
}

const fn timm(
    name: &'static str,
    family: &'static str,
    network: &'static str,
    input: Input,
) -> PublishedWeights {
    PublishedWeights {
        name,
        alias: Some(name.split_at("timm/".len()).1),
        family,
        network,
        trained_on: "ImageNet",
        learned: &["tiny-imagenet"],
        classes: 1000,
        input,
        bytes: 0,
        sha256: None,
        licence: Some("Apache-2.0"),
        source: "https://github.com/huggingface/pytorch-image-models",
        host: Host::Timm,
    }
}

/// A ResNet of "ResNet strikes back", in a file of `bytes` bytes.
const fn a1(name: &'static str, network: &'static str, bytes: u64) -> PublishedWeights {
    let input = bicubic(crop(IMAGENET, 224, 0.95));
    let source = "https://arxiv.org/abs/2110.00476";
    PublishedWeights { bytes, source, ..timm(name, "resnet", network, input) }
}

/// A Wide ResNet of torchvision.
const fn tv2(name: &'static str, network: &'static str, bytes: u64) -> PublishedWeights {
    PublishedWeights {
        bytes,
        licence: Some("BSD-3-Clause"),
        source: "https://github.com/pytorch/vision",
        ..timm(name, "resnet", network, crop(IMAGENET, 176, 0.875))
    }
}

const fn lite(name: &'static str, network: &'static str, input: Input, bytes: u64) -> PublishedWeights {
    PublishedWeights { bytes, ..timm(name, "efficientnet-lite", network, input) }
}

const fn bicubic(input: Input) -> Input {
    Input { resize: Resize { filter: Filter::Bicubic, ..input.resize }, ..input }
}

pub(super) static ALL: [PublishedWeights; 12] = [
    a1("timm/resnet18.a1_in1k", "ResNet-18", 46_796_608),
    a1("timm/resnet34.a1_in1k", "ResNet-34", 87_259_072),
    a1("timm/resnet50.a1_in1k", "ResNet-50", 102_441_032),
    a1("timm/resnet101.a1_in1k", "ResNet-101", 178_618_848),
    a1("timm/resnet152.a1_in1k", "ResNet-152", 241_378_168),
    tv2("timm/wide_resnet50_2.tv2_in1k", "Wide ResNet-50-2", 275_806_280),
    tv2("timm/wide_resnet101_2.tv2_in1k", "Wide ResNet-101-2", 508_099_040),
    lite(
        "timm/tf_efficientnet_lite0.in1k",
        "EfficientNet-Lite0",
        bicubic(crop(HALF, 224, 0.875)),
        18_776_488,
    ),
    lite(
        "timm/tf_efficientnet_lite1.in1k",
        "EfficientNet-Lite1",
        bicubic(crop(HALF, 240, 0.882)),
        21_881_888,
    ),
    lite("timm/tf_efficientnet_lite2.in1k", "EfficientNet-Lite2", bicubic(crop(HALF, 260, 0.89)), 24_601_184),
    lite("timm/tf_efficientnet_lite3.in1k", "EfficientNet-Lite3", crop(HALF, 300, 0.904), 33_095_656),
    lite("timm/tf_efficientnet_lite4.in1k", "EfficientNet-Lite4", crop(HALF, 380, 0.92), 52_476_472),
];
