//! Published weights by name: downloaded once, verified, and kept in a user cache.
//!
//! Each source has a file with its table. A name is that of the source: in pytorch-ood's registry, on the
//! Hugging Face hub (`timm/NAME`), or `torchvision/MODEL/WEIGHTS`.

mod pytorch_ood;
mod timm;
mod torchvision;

use std::path::{Path, PathBuf};

use crate::{
    error::{Error, Result},
    files::{
        cache,
        checksum::Expected,
        download::{self, FetchEvent},
    },
    image::{Fit, Input, Resize},
    weights::Weights,
};

/// Published weights of a network.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PublishedWeights {
    /// The name, with parts between slashes.
    pub name: &'static str,
    /// Another name: a shorter one, an earlier one, or that of another source for the same file.
    pub alias: Option<&'static str>,
    /// The family of the network.
    pub family: &'static str,
    /// The network, such as `ResNet-50`.
    pub network: &'static str,
    /// The data that it was trained on.
    pub trained_on: &'static str,
    /// The published data sets whose training images are among that data, by name.
    pub learned: &'static [&'static str],
    /// The number of its classes.
    pub classes: usize,
    /// The input for which it was published.
    pub input: Input,
    /// The approximate size of the file in bytes: as its source states it, or else that of its tensors
    /// in single precision.
    pub bytes: u64,
    /// Its SHA-256 in hexadecimal, or as many of the first digits as are published. Without all of them the
    /// file is trusted at the first download and must not change afterwards.
    pub sha256: Option<&'static str>,
    /// The licence, if the source states one.
    pub licence: Option<&'static str>,
    /// The URL of the paper or of the repository.
    pub source: &'static str,
    host: Host,
}

/// Where a file is.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Host {
    At(&'static str),
    PytorchOod,
    Timm,
    Torchvision,
}

/// The usual mean and standard deviation for ImageNet.
const IMAGENET: [[f32; 3]; 2] = [[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]];
/// To -1..=1.
const HALF: [[f32; 3]; 2] = [[0.5; 3]; 2];

/// Images of 32x32, stretched and resized bilinearly.
const fn plain(mean: [f32; 3], std: [f32; 3]) -> Input {
    let resize = Resize { fit: Fit::Stretch, filter: crate::image::Filter::Bilinear };
    Input { height: 32, width: 32, mean, std, resize }
}

/// Square images, cropped to a share of the short side, resized bilinearly.
const fn crop([mean, std]: [[f32; 3]; 2], size: usize, share: f64) -> Input {
    let resize = Resize { fit: Fit::Crop { share }, filter: crate::image::Filter::Bilinear };
    Input { height: size, width: size, mean, std, resize }
}

/// The environment variable with the URL of a mirror, which serves `URL/NAME.EXTENSION`.
const MIRROR: &str = "CAC_WEIGHTS_MIRROR";
/// The maximum size of a weights file, in bytes.
const MAX_DOWNLOAD: u64 = 1 << 30;
/// The digits of a whole SHA-256.
const DIGITS: usize = 64;

impl PublishedWeights {
    /// All published weights.
    pub fn all() -> impl Iterator<Item = &'static Self> {
        let tables: [&'static [Self]; 4] =
            [&pytorch_ood::OF_OTHERS, &pytorch_ood::OWN, &timm::ALL, &torchvision::ALL];
        tables.into_iter().flatten()
    }

    /// The published weights with this name or alias.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        Self::all().find(|weights| weights.names().any(|other| other == name))
    }

    /// The name, and then the alias.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + use<> {
        [self.name].into_iter().chain(self.alias)
    }

    /// The URL of the file.
    #[must_use]
    pub fn url(&self) -> String {
        match self.host {
            Host::At(url) => url.to_owned(),
            Host::PytorchOod => pytorch_ood::url(self),
            Host::Timm => timm::url(self),
            Host::Torchvision => torchvision::url(self),
        }
    }

    /// The name and the alias as relative paths, with the extension of the file.
    fn paths(&self) -> impl Iterator<Item = String> + use<> {
        let url = self.url();
        let extension = url.rsplit('.').next().unwrap_or_default().to_owned();
        self.names().map(move |name| format!("{name}.{extension}"))
    }

    /// The path of the file in the cache, `$XDG_CACHE_HOME/cac-toolkit/weights/NAME.EXTENSION`, whether or
    /// not it exists. A file that exists under the alias stays there.
    ///
    /// # Errors
    /// [`Error::Setting`] if the environment names no cache.
    pub fn path(&self) -> Result<PathBuf> {
        let folder = cache::folder()?.join("weights");
        let mut places: Vec<PathBuf> = self.paths().map(|path| folder.join(path)).collect();
        let found = places.iter().position(|place| place.is_file()).unwrap_or(0);
        Ok(places.swap_remove(found))
    }

    /// The path of the cached file, downloaded if missing, with its SHA-256 next to it in `FILE.sha256`.
    /// It comes from its URL or from `$CAC_WEIGHTS_MIRROR/NAME.EXTENSION`, where the alias is tried next.
    /// An interrupted transfer is resumed.
    ///
    /// # Errors
    /// [`Error::Setting`] if the variable is not UTF-8 or the environment names no cache;
    /// [`Error::Download`] if the server cannot be reached, closes the connection early, or sends a file with
    /// another checksum or without weights; [`Error::Checksum`] if the cached file has another checksum;
    /// [`Error::Io`] if the cache cannot be written.
    pub fn fetch(&self, observe: &mut dyn FnMut(FetchEvent)) -> Result<PathBuf> {
        let file = self.path()?;
        let urls = match download::mirror(MIRROR)? {
            Some(mirror) => self.paths().map(|path| format!("{mirror}/{path}")).collect(),
            None => vec![self.url()],
        };
        let expected = self.expected();
        let remote =
            download::Remote { urls, expected, most: MAX_DOWNLOAD, fault, mirror: MIRROR, set: None };
        download::fetch(&remote, &file, observe)?;
        Ok(file)
    }

    /// Whether the whole SHA-256 of its file is published. Otherwise the first file that can be read as
    /// weights is recorded, and must stay the same.
    #[must_use]
    pub fn has_checksum(&self) -> bool {
        self.expected().sha256.is_some()
    }

    /// Reads the cached file and compares its SHA-256 with what is published and recorded. Returns its path,
    /// or nothing if it is not there.
    ///
    /// # Errors
    /// [`Error::Checksum`] if it has another checksum; [`Error::Io`] if it
    /// cannot be read.
    pub fn verify(&self) -> Result<Option<PathBuf>> {
        let file = self.path()?;
        if !file.is_file() {
            return Ok(None);
        }
        download::verify(&self.expected(), &file, fault)?;
        Ok(Some(file))
    }

    fn expected(&self) -> Expected<'static> {
        let (whole, start) = match self.sha256 {
            Some(sum) if sum.len() == DIGITS => (Some(sum), None),
            start => (None, start),
        };
        Expected { sha256: whole, sha256_start: start, ..Expected::default() }
    }
}

/// Why a file holds no weights; `None` if it does.
fn fault(file: &Path) -> Result<Option<String>> {
    match Weights::read(file) {
        Ok(_) => Ok(None),
        Err(Error::Weights { reason, .. }) => Ok(Some(reason)),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        data::PublishedSet,
        image::{Filter, SIZES},
    };
    use serde_json::Value;
    use std::collections::HashSet;

    #[test]
    fn the_table_is_consistent() {
        let (mut names, mut urls) = (HashSet::new(), HashSet::new());
        for weights in PublishedWeights::all() {
            let name = weights.name;
            for name in weights.names() {
                assert!(names.insert(name), "{name}");
                let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
                let is_part = |part: &str| {
                    part.starts_with(|c: char| c.is_ascii_alphanumeric()) && part.chars().all(is_plain)
                };
                assert!(name.split('/').all(is_part), "{name}");
            }
            assert!(urls.insert(weights.url()) && weights.url().starts_with("https://"), "{name}");
            weights.input.check(&SIZES).unwrap();
            let learned = match weights.trained_on {
                "CIFAR-10" => "cifar10",
                "CIFAR-100" => "cifar100",
                other => {
                    assert!(other.starts_with("ImageNet"), "{other}");
                    "tiny-imagenet"
                }
            };
            assert!(weights.learned == [learned] && PublishedSet::named(learned).is_some(), "{name}");
            assert!((1_000_000..MAX_DOWNLOAD).contains(&weights.bytes) && weights.classes > 1, "{name}");
            assert!(weights.source.starts_with("https://") && weights.licence != Some(""), "{name}");
            let is_digit = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
            let is_sum = |sum: &str| [8, DIGITS].contains(&sum.len()) && sum.chars().all(is_digit);
            assert!(weights.sha256.is_none_or(is_sum), "{name}");
            let extension = weights.paths().next().unwrap().strip_prefix(name).unwrap().to_owned();
            assert!([".pt", ".pth", ".safetensors"].contains(&&*extension), "{extension}");
        }
        assert_eq!(PublishedWeights::all().count(), 85);
    }

    #[test]
    fn the_table_matches_the_packages() {
        let list = include_str!("../../../tests/golden/published.jsonl");
        let mut seen = HashSet::new();
        for line in list.lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            let text = |name: &str| line[name].as_str();
            let name = text("name").unwrap();
            let weights = PublishedWeights::named(name).expect(name);
            seen.insert(weights.name);
            assert_eq!(Some(&*weights.url()), text("url"), "{name}");
            assert!(weights.sha256.unwrap_or("").starts_with(text("sha256").unwrap_or("")), "{name}");
            let input = weights.input;
            // Fractions of 255 are rounded once more here.
            let is_close = |name: &str, found: [f32; 3]| {
                let stated: [f32; 3] = serde_json::from_value(line[name].clone()).unwrap();
                found.iter().zip(stated).all(|(found, stated)| (found - stated).abs() < 1e-7)
            };
            assert!(is_close("mean", input.mean) && is_close("std", input.std), "{name}");
            let size = line["size"].as_u64().unwrap() as usize;
            assert_eq!((input.height, input.width), (size, size), "{name}");
            let (fit, resized) = match input.resize.fit {
                Fit::Stretch => ("stretch", input.height),
                Fit::Crop { share } => ("crop", (input.height as f64 / share).floor() as usize),
                Fit::Pad => ("pad", input.height),
            };
            assert_eq!(
                (fit, resized),
                (text("fit").unwrap(), line["resized"].as_u64().unwrap() as usize),
                "{name}"
            );
            if let (Some(stated), Fit::Crop { share }) = (line["share"].as_f64(), input.resize.fit) {
                assert_eq!(share, stated, "{name}");
            }
            let filter = match input.resize.filter {
                Filter::Bilinear => "bilinear",
                Filter::Bicubic => "bicubic",
            };
            assert_eq!(text("filter"), Some(filter), "{name}");
            assert_eq!(line["classes"], weights.classes, "{name}");
            if let Some(licence) = text("licence") {
                assert!(weights.licence.unwrap().eq_ignore_ascii_case(licence), "{name}");
            }
            if matches!(weights.host, Host::At(_)) {
                assert_eq!(text("source"), Some(weights.source), "{name}");
            }
            // Besides its tensors, a file has their names.
            let stated = line["mebibytes"].as_f64().map(|mebibytes| mebibytes * 1_048_576.0);
            let bytes = stated.or(line["bytes"].as_f64()).unwrap();
            assert!((weights.bytes as f64 - bytes).abs() <= 1e-3 * bytes, "{name}");
        }
        let others: Vec<_> =
            PublishedWeights::all().map(|weights| weights.name).filter(|name| !seen.contains(name)).collect();
        assert_eq!((list.lines().count(), others), (84, vec!["cifar10-pixmix", "cifar100-pixmix"]));
    }

    #[test]
    fn formerly_valid_names_stay_valid() {
        for (name, file) in [
            ("imagenet32", "wrn-40-2/imagenet32/crossentropy.pt"),
            ("imagenet32-nocifar", "wrn-40-2/imagenet32-nocifar/crossentropy.pt"),
            ("oe-cifar10-tune", "wrn-40-2/cifar10/oe.pt"),
            ("oe-cifar100-tune", "wrn-40-2/cifar100/oe.pt"),
            ("er-cifar10-tune", "wrn-40-2/cifar10/energy/s1.pt"),
            ("er-cifar100-tune", "wrn-40-2/cifar100/energy/s1.pt"),
            ("cifar10-pt", "wrn-40-2/cifar10/crossentropy.pt"),
            ("cifar100-pt", "wrn-40-2/cifar100/crossentropy.pt"),
            ("cifar10-pixmix", "cifar10-pixmix.pt"),
            ("cifar100-pixmix", "cifar100-pixmix.pt"),
            ("resnet50.a1_in1k", "timm/resnet50.a1_in1k.safetensors"),
            ("resnet-50/imagenet1k/crossentropy", "torchvision/resnet50/imagenet1k-v2.pth"),
        ] {
            assert_eq!(PublishedWeights::named(name).unwrap().paths().next().unwrap(), file);
        }
        for name in ["", "imagenet", "resnet50", "timm", "wrn-40-2/cifar10/energy", "Imagenet32"] {
            assert_eq!(PublishedWeights::named(name), None, "{name}");
        }
    }
}
