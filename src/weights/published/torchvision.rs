//! The weights of torchvision 0.28. File names end in the first eight digits of the SHA-256.

use super::{Host, IMAGENET, PublishedWeights, crop};

pub(super) fn url(weights: &PublishedWeights) -> String {
    let model = weights.name.split('/').nth(1).unwrap_or_default();
    let sum = weights.sha256.unwrap_or_default();
    format!("https://download.pytorch.org/models/{model}-{}.pth", &sum[..sum.len().min(8)])
}

/// Weights for images of 224 pixels whose short side was resized to `resized`, in a file of `mebibytes` MiB.
const fn torchvision(
    name: &'static str,
    network: &'static str,
    sha256: &'static str,
    mebibytes: f64,
    resized: f64,
) -> PublishedWeights {
    PublishedWeights {
        name,
        alias: None,
        family: "resnet",
        network,
        trained_on: "ImageNet",
        learned: &["tiny-imagenet"],
        classes: 1000,
        input: crop(IMAGENET, 224, 224.0 / resized),
        bytes: (mebibytes * 1_048_576.0) as u64,
        sha256: Some(sha256),
        licence: Some("BSD-3-Clause"),
        source: "https://github.com/pytorch/vision",
        host: Host::Torchvision,
    }
}

const fn v1(
    name: &'static str,
    network: &'static str,
    sha256: &'static str,
    mebibytes: f64,
) -> PublishedWeights {
    torchvision(name, network, sha256, mebibytes, 256.0)
}

const fn v2(
    name: &'static str,
    network: &'static str,
    sha256: &'static str,
    mebibytes: f64,
) -> PublishedWeights {
    torchvision(name, network, sha256, mebibytes, 232.0)
}

pub(super) static ALL: [PublishedWeights; 12] = [
    v1("torchvision/resnet18/imagenet1k-v1", "ResNet-18", "f37072fd", 44.661),
    v1("torchvision/resnet34/imagenet1k-v1", "ResNet-34", "b627a593", 83.275),
    v1("torchvision/resnet50/imagenet1k-v1", "ResNet-50", "0676ba61", 97.781),
    // pytorch-ood knows the whole SHA-256 of this one.
    PublishedWeights {
        alias: Some("resnet-50/imagenet1k/crossentropy"),
        ..v2(
            "torchvision/resnet50/imagenet1k-v2",
            "ResNet-50",
            "11ad3fa62ca79e40addfd354a8ec4b7c75143b3038b8d2a807fbc68deab379ca",
            97.79,
        )
    },
    v1("torchvision/resnet101/imagenet1k-v1", "ResNet-101", "63fe2227", 170.511),
    v2("torchvision/resnet101/imagenet1k-v2", "ResNet-101", "cd907fc2", 170.53),
    v1("torchvision/resnet152/imagenet1k-v1", "ResNet-152", "394f9c45", 230.434),
    v2("torchvision/resnet152/imagenet1k-v2", "ResNet-152", "f82ba261", 230.474),
    v1("torchvision/wide_resnet50_2/imagenet1k-v1", "Wide ResNet-50-2", "95faca4d", 131.82),
    v2("torchvision/wide_resnet50_2/imagenet1k-v2", "Wide ResNet-50-2", "9ba9bcbe", 263.124),
    v1("torchvision/wide_resnet101_2/imagenet1k-v1", "Wide ResNet-101-2", "32ee1156", 242.896),
    v2("torchvision/wide_resnet101_2/imagenet1k-v2", "Wide ResNet-101-2", "d733dc28", 484.747),
];
