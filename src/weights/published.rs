//! Published weights by name: downloaded once, verified, and kept in a user cache.

use std::path::PathBuf;

use crate::{
    error::Result,
    files::{cache, checksum::Expected, download},
    image::Input,
};

/// A published WideResNet-40-k.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Published {
    /// Its name in pytorch-ood.
    pub name: &'static str,
    /// The authors' URL.
    pub url: &'static str,
    /// Its SHA-256 in hexadecimal, if pytorch-ood 0.4.0 records one. Otherwise the file is trusted at the
    /// first download and must not change afterwards.
    pub sha256: Option<&'static str>,
    /// The mean of red, green and blue, 0 to 1, used for normalisation in training.
    pub mean: [f32; 3],
    /// The standard deviation of red, green and blue, used for normalisation in training.
    pub std: [f32; 3],
}

/// Mean and standard deviation of Hendrycks et al. and Liu et al. for CIFAR.
const CIFAR: [[f32; 3]; 2] =
    [[125.3 / 255.0, 123.0 / 255.0, 113.9 / 255.0], [63.0 / 255.0, 62.1 / 255.0, 66.7 / 255.0]];
/// Mean and standard deviation for ImageNet at 32x32, and of PixMix.
const HALF: [[f32; 3]; 2] = [[0.5; 3]; 2];

const fn published(
    name: &'static str,
    [mean, std]: [[f32; 3]; 2],
    url: &'static str,
    sha256: &'static str,
) -> Published {
    Published { name, url, sha256: if sha256.is_empty() { None } else { Some(sha256) }, mean, std }
}

/// The published WideResNets of pytorch-ood. Those of PixMix have widen factor 4, the others 2.
pub const PUBLISHED: [Published; 10] = [
    published(
        "imagenet32",
        HALF,
        "https://github.com/hendrycks/pre-training/raw/master/downsampled_train/snapshots/40_2/imagenet_wrn_baseline_epoch_99.pt",
        "4a722ecf93e43a040b6b82c7c1e305fbf1c455a54c16e66fd77301291157bd5c",
    ),
    published(
        "imagenet32-nocifar",
        HALF,
        "https://github.com/hendrycks/pre-training/raw/master/uncertainty/CIFAR/snapshots/imagenet/cifar10_excluded/imagenet_wrn_baseline_epoch_99.pt",
        "6f0f46d44ddfc96f85b97ef04ca9d61e78279d27c80015dcc92aabd52b1773c6",
    ),
    published(
        "oe-cifar10-tune",
        CIFAR,
        "https://github.com/hendrycks/outlier-exposure/raw/master/CIFAR/snapshots/oe_tune/cifar10_wrn_oe_tune_epoch_9.pt",
        "b473f1c463c9fe16057647746907b68b6ade615f93ac4bdf005263ed69d542d0",
    ),
    published(
        "oe-cifar100-tune",
        CIFAR,
        "https://github.com/hendrycks/outlier-exposure/raw/master/CIFAR/snapshots/oe_tune/cifar100_wrn_oe_tune_epoch_9.pt",
        "1d4dd53f7605d66f64bcdf146ed9327ecbebbd5da42a9f7d70b9d6a28ee9bb51",
    ),
    published(
        "er-cifar10-tune",
        CIFAR,
        "https://github.com/wetliu/energy_ood/raw/master/CIFAR/snapshots/energy_ft/cifar10_wrn_s1_energy_ft_epoch_9.pt",
        "78a288517f9e9f3501c1e881aee8daa1d9c64a23805023fc013a28946274c54b",
    ),
    published(
        "er-cifar100-tune",
        CIFAR,
        "https://github.com/wetliu/energy_ood/raw/master/CIFAR/snapshots/energy_ft/cifar100_wrn_s1_energy_ft_epoch_9.pt",
        "4899110e41b8c96a01ec52e779e3336436da69db201f6162b2dce9a207f0f51f",
    ),
    published(
        "cifar10-pt",
        CIFAR,
        "https://github.com/wetliu/energy_ood/raw/master/CIFAR/snapshots/pretrained/cifar10_wrn_pretrained_epoch_99.pt",
        "0b59e178577382a0cf5d1e079d1d019f6a33b0801b7d123a59e51b4b32972637",
    ),
    published(
        "cifar100-pt",
        CIFAR,
        "https://github.com/wetliu/energy_ood/raw/master/CIFAR/snapshots/pretrained/cifar100_wrn_pretrained_epoch_99.pt",
        "3751f516b81ef9d27290f08a3de78d65a3771f477bd6a6caefa81b330dc34baf",
    ),
    published("cifar10-pixmix", HALF, "https://cse.ovgu.de/files/cifar10-pixmix.pt", ""),
    published("cifar100-pixmix", HALF, "https://cse.ovgu.de/files/cifar100-pixmix.pt", ""),
];

/// The environment variable with the URL of a mirror, which serves `URL/NAME.pt`.
const MIRROR: &str = "CAC_WEIGHTS_MIRROR";
/// The most bytes of a file of weights.
const MOST: u64 = 1 << 30;

impl Published {
    /// The published weights with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        PUBLISHED.iter().find(|published| published.name == name)
    }

    /// The path of the cached file, downloaded if it is missing:
    /// `$XDG_CACHE_HOME/cac-toolkit/weights/NAME.pt`, with its SHA-256 beside it in `NAME.pt.sha256`. An
    /// interrupted transfer is resumed. `progress` receives the bytes done and the total, or 0 if the total
    /// is unknown.
    ///
    /// # Errors
    /// [`Error::Download`](crate::Error::Download) if the server cannot be reached, closes the connection early, or sends a file with
    /// another checksum; [`Error::Checksum`](crate::Error::Checksum) if the cached file has another checksum; [`Error::Io`](crate::Error::Io) if the
    /// cache cannot be written.
    pub fn fetch(&self, mut progress: impl FnMut(usize, usize)) -> Result<PathBuf> {
        let name = format!("{}.pt", self.name);
        let url = match std::env::var(MIRROR) {
            Ok(mirror) => format!("{}/{name}", mirror.trim_end_matches('/')),
            Err(_) => self.url.to_owned(),
        };
        let file = cache::folder()?.join("weights").join(name);
        let expected = Expected { sha256: self.sha256, ..Expected::default() };
        let remote = download::Remote { urls: vec![url], expected, most: MOST, mirror: MIRROR, set: None };
        download::fetch(&remote, &file, |step| {
            if let download::Step::Received { done, total } = step {
                progress(done as usize, total.unwrap_or(0) as usize);
            }
        })?;
        Ok(file)
    }

    /// The input that it was trained with.
    #[must_use]
    pub fn input(&self) -> Input {
        Input { mean: self.mean, std: self.std, ..Input::default() }
    }
}
