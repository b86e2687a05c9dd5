//! Starting weights, by file, run folder or published name.

use std::path::{Path, PathBuf};

use anyhow::bail;
use cac::{
    image::Input,
    run::{CheckpointKind, RunFolder},
    text::shown,
    weights::{PublishedWeights, Weights},
};

use super::{Advice, data::FetchDisplay, say};

/// For help texts.
pub const SOME_WEIGHTS: &str = "Published weights: imagenet32-nocifar, timm/tf_efficientnet_lite0.in1k, timm/resnet50.a1_in1k, \
                                torchvision/resnet18/imagenet1k-v1 and others; `toolkit weights list` lists all";

/// The extensions of weight files. Anything else after a dot is part of a name, as in `resnet50.a1_in1k`.
const EXTENSIONS: [&str; 8] = ["bin", "ckpt", "onnx", "pkl", "pt", "pth", "safetensors", "tar"];

/// The maximum number of suggested names.
const SUGGESTIONS: usize = 5;

/// Starting weights.
pub struct StartingWeights {
    pub weights: Weights,
    /// The input that they were trained on, if the file or its publisher states it.
    pub input: Option<Input>,
}

impl StartingWeights {
    /// Reads a file, the published weights of this name, which are downloaded once, or the best checkpoint of
    /// a run folder, in this order.
    pub fn read(text: &Path) -> anyhow::Result<Self> {
        let published = text.to_str().filter(|_| !text.is_file()).and_then(PublishedWeights::named);
        let is_file_name = text
            .extension()
            .is_some_and(|end| EXTENSIONS.iter().any(|other| end.eq_ignore_ascii_case(other)));
        let (file, input) = match published {
            Some(published) => (fetch(published)?, Some(published.input)),
            None if !text.exists() && !is_file_name => {
                let name = shown(text);
                return Err(Advice::new(
                    format!("`{name}` is not a file, a run folder or the name of published weights"),
                    match &similar(&text.to_string_lossy())[..] {
                        [] => "`toolkit weights list` lists the names".to_owned(),
                        names => {
                            format!("similar names: {}; `toolkit weights list` lists all", names.join(", "))
                        }
                    },
                )
                .into());
            }
            None if text.is_dir() => {
                let file = RunFolder::new(text).checkpoint(CheckpointKind::Best);
                if !file.is_file() {
                    let name = file.file_name().unwrap_or_default().display();
                    bail!("`{}` is a folder without `{name}`; give a file of weights", shown(text));
                }
                (file, None)
            }
            None => (text.to_owned(), None),
        };
        let weights = Weights::read(&file)?;
        // A file without a published checksum is trusted at the first download.
        if let Some(published) = published
            && let Ok(found) = weights.recognize()
            && found.architecture.family().name != published.family
        {
            say(format_args!(
                "the file of `{}` holds a {}; the input is that of a {}",
                published.name, found.architecture, published.network
            ));
        }
        let input = weights.input().or(input);
        Ok(Self { weights, input })
    }
}

/// The path of published weights, which are downloaded unless they are here.
pub fn fetch(weights: &PublishedWeights) -> anyhow::Result<PathBuf> {
    let mut display = FetchDisplay::new(weights.name, Some(weights.bytes));
    let file = weights.fetch(&mut |event| display.show(&event))?;
    display.finish();
    Ok(file)
}

/// The names of published weights closest to a text, the most similar first.
pub fn similar(text: &str) -> Vec<&'static str> {
    let plain = |text: &str| -> String {
        text.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
    };
    let wanted = plain(text);
    // 0 to 1, and above 1 for a name that contains the text.
    let likeness = |name: &str| {
        let name = plain(name);
        let is_within = !wanted.is_empty() && name.contains(&wanted);
        strsim::sorensen_dice(&wanted, &name) + f64::from(u8::from(is_within))
    };
    let closest = |weights: &'static PublishedWeights| {
        weights.names().map(|name| (likeness(name), name)).max_by(|(a, _), (b, _)| a.total_cmp(b))
    };
    let mut names: Vec<(f64, &str)> =
        PublishedWeights::all().filter_map(closest).filter(|&(likeness, _)| likeness > 0.6).collect();
    names.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    names.into_iter().take(SUGGESTIONS).map(|(_, name)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn similar_names_are_suggested() {
        for (text, expected) in [
            ("imagenet23", "imagenet32"),
            ("resnet50", "resnet50.a1_in1k"),
            ("resnet50.a2_in1k", "resnet50.a1_in1k"),
            ("ResNet50_Weights.IMAGENET1K_V2", "torchvision/resnet50/imagenet1k-v2"),
            ("efficientnet_lite0", "tf_efficientnet_lite0.in1k"),
            ("wrn-40-2/cifar10/energy", "wrn-40-2/cifar10/energy/s0"),
        ] {
            assert!(
                similar(text).iter().take(2).any(|name| *name == expected),
                "{text}: {:?}",
                similar(text)
            );
        }
        assert_eq!(similar("resnet").len(), SUGGESTIONS);
        assert!(similar("").is_empty() && similar("quality").is_empty());
    }

    #[test]
    fn the_names_in_help_texts_exist() {
        let (_, names) = SOME_WEIGHTS.split_once(": ").unwrap();
        let names: Vec<&str> = names.split(" and others").next().unwrap().split(", ").collect();
        assert_eq!(names.len(), 4);
        assert!(names.iter().all(|name| PublishedWeights::named(name).is_some()), "{names:?}");
    }
}
