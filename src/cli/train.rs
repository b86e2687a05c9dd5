//! What users can say about a training, by flags or in a file.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
#[cfg(feature = "train")]
use cac::train::Precision;
use cac::{
    cac::{AnchorKind, Variant},
    dataset::Protocol,
    recipe::{Augment, Optimizer, Outliers, Recipe, Schedule},
};
use clap::Args;
use serde::Serialize;

use super::{pixels, triple};

/// The ways to begin.
pub(super) const USAGE: &str = "toolkit train --known <DIR> [OPTIONS]
       toolkit train --config <FILE> [OPTIONS]
       toolkit train --resume <DIR>";

/// `toolkit train`
#[derive(Args)]
pub struct TrainArgs {
    /// Take settings from a TOML file, by the names of the flags below. Flags win over it: another --optimizer also
    /// over its learning rate, another --loss or --variant over learning rate, magnitude and weight, these and other
    /// --outliers over anchors, another --loss over outliers, another --arch over the network's sizes and dropout,
    /// another --backbone over network, mean and deviation, another --device over the precision
    #[arg(long, value_name = "FILE", conflicts_with = "resume")]
    pub config: Option<PathBuf>,
    /// Go on with the run in this folder, exactly where it stopped
    #[arg(long, value_name = "DIR", conflicts_with = "SettingsArgs")]
    pub resume: Option<PathBuf>,
    /// What to train
    #[command(flatten)]
    pub settings: Option<SettingsArgs>,
    /// Folder for the results; the next free runs/N by default
    #[arg(long, value_name = "DIR", conflicts_with = "resume")]
    pub run: Option<PathBuf>,
    /// Save the state to resume from whenever so much time has passed
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0, value_parser = seconds)]
    pub save_every: f64,
    /// Print what happens as JSON lines
    #[arg(long)]
    pub json: bool,
}

/// What a training is told to do; what `--config` reads and a run keeps as `settings.toml`.
#[derive(Debug, Clone, Args, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct SettingsArgs {
    /// Known classes: CIFAR-10's binary folder, or train/CLASS/*.png and test/CLASS/*.png
    #[arg(long, value_name = "DIR")]
    pub known: PathBuf,
    /// Unknown test pictures: NAME=DIR, gaussian-noise[:COUNT] or uniform-noise[:COUNT]; repeatable
    #[arg(long, value_name = "NAME=DIR")]
    pub unknown: Vec<String>,
    /// Take six of ten classes as known and test on the others as unknown: cac-2020, cac-2021 or arpl-2021,
    /// each /0 to /4
    #[arg(long, value_name = "NAME/TRIAL")]
    pub protocol: Option<Protocol>,
    /// Weights to start from: a file (safetensors, .pt or .pth) or the name of published ones (see `toolkit
    /// import --help`); the last layer is replaced. Random ones by default
    #[arg(long, value_name = "FILE|NAME")]
    pub backbone: Option<PathBuf>,

    /// The loss
    #[arg(long, value_enum, default_value_t = Objective::Cac)]
    pub loss: Objective,
    /// Definition of the CAC loss, and without outliers of the score
    #[arg(long, value_enum, default_value_t = Variant::Paper)]
    pub variant: Variant,
    /// Length of the anchors; 10 for paper, 5 for pytorch-ood by default
    #[arg(long, value_name = "X")]
    pub magnitude: Option<f64>,
    /// Weight of the anchor term; 0.1 for paper, 2 for pytorch-ood by default
    #[arg(long, value_name = "X")]
    pub weight: Option<f64>,
    /// Unknown pictures to be kept away from all anchors in training: a folder, CIFAR-10's training files, or the
    /// known training pictures `scrambled`, where classes are known by their shapes; by default scrambled for cac,
    /// none for cross-entropy and where the share is no picture of a step
    #[arg(long, value_name = "DIR|scrambled|none")]
    pub outliers: Option<Outliers>,
    /// Outliers in a step for each known picture
    #[arg(long, value_name = "SHARE", default_value_t = Recipe::default().outlier_share)]
    pub outlier_share: f64,
    /// Weight of the outliers' term
    #[arg(long, value_name = "X", default_value_t = Recipe::default().outlier_weight)]
    pub outlier_weight: f64,
    /// Share of the known training pictures kept out of training, to choose the threshold and the best epoch; with
    /// 0 the last epoch is the best
    #[arg(long, value_name = "SHARE", default_value_t = 0.02)]
    pub held_out: f64,
    /// The anchors that the trained network keeps; by default class-means for paper without outliers, or else fixed
    #[arg(long, value_enum)]
    pub anchors: Option<AnchorKind>,
    /// Take class means over this many training pictures, drawn at random; 0 for all
    #[arg(long, value_name = "N", default_value_t = 5000)]
    pub anchor_pictures: usize,

    /// The network; that of the backbone by default, or else wide-resnet
    #[arg(long, value_enum)]
    pub arch: Option<Family>,
    /// Depth of a WideResNet, 6n + 4; that of the backbone by default, or else 40
    #[arg(long, value_name = "N")]
    pub depth: Option<usize>,
    /// Width of a WideResNet as a multiple of 16, 32 and 64 channels; that of the backbone by default, or else
    /// 2
    #[arg(long, value_name = "N")]
    pub widen_factor: Option<usize>,
    /// Channels of the first two convolutions of a cac-net; those of the backbone by default, or else 64
    #[arg(long, value_name = "N")]
    pub channels: Option<usize>,
    /// Share of activations (wide-resnet, by default 0) or channels (cac-net, by default 0.2) dropped in training
    #[arg(long, value_name = "SHARE")]
    pub dropout: Option<f64>,
    /// Height and width that pictures are resized to
    #[arg(long, value_name = "PIXELS", default_value_t = 32, value_parser = pixels)]
    pub size: usize,
    /// Mean of the red, green and blue values (0 to 1), subtracted; that of published weights, or else 0.5, by
    /// default
    #[arg(long, value_name = "R,G,B", value_parser = triple)]
    #[serde(serialize_with = "joined")]
    pub mean: Option<[f32; 3]>,
    /// Standard deviation of the red, green and blue values, divided by; that of published weights, or else 0.5,
    /// by default
    #[arg(long, value_name = "R,G,B", value_parser = triple)]
    #[serde(serialize_with = "joined")]
    pub std: Option<[f32; 3]>,

    /// Passes over the training pictures
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub epochs: usize,
    /// Pictures in a step
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub batch_size: usize,
    /// The optimiser
    #[arg(long, value_enum, default_value_t = Recipe::default().optimizer)]
    pub optimizer: Optimizer,
    /// The peak learning rate; by default 0.001 for adam, and for sgd 0.1 or, with pytorch-ood, 0.002
    #[arg(long, value_name = "X")]
    pub learning_rate: Option<f64>,
    /// The learning-rate schedule
    #[arg(long, value_enum, default_value_t = Recipe::default().schedule)]
    pub schedule: Schedule,
    /// Epochs over which the learning rate rises to its peak; with one-cycle 0 means three tenths of all
    #[arg(long, value_name = "EPOCHS", default_value_t = Recipe::default().warm_up)]
    pub warm_up: f64,
    /// Share of the weights, times the learning rate, that a step takes off them
    #[arg(long, value_name = "X", default_value_t = Recipe::default().weight_decay)]
    pub weight_decay: f64,
    /// What is done at random to training pictures
    #[arg(long, value_enum, default_value_t = Recipe::default().augment)]
    pub augment: Augment,
    /// Share of each step, the pictures of the greatest loss, to pass over as mislabelled
    #[arg(long, value_name = "SHARE", default_value_t = Recipe::default().trim)]
    pub trim: f64,
    /// Weight of the past in a moving average of the weights, which is tested and kept; 0 for none
    #[arg(long, value_name = "SHARE", default_value_t = Recipe::default().average)]
    pub average: f64,
    /// Test, and choose the best weights, after every so many epochs and after the last
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub test_every: usize,
    /// Seed of weights, data order, dropout and held-out pictures
    #[arg(long, value_name = "N", default_value_t = 123, value_parser = clap::value_parser!(u64).range(..=i64::MAX as u64))]
    pub seed: u64,
    /// cpu, cuda or cuda:N
    #[arg(long, default_value = "cpu")]
    pub device: String,
    /// The precision of activations in training
    #[cfg(feature = "train")]
    #[arg(long, value_enum, default_value_t = Precision::Auto)]
    pub precision: Precision,
}

/// Where a flag on the command line is not what a file of settings says, these keys of the file are void: they
/// may be what followed from the other value, because a run saves its settings with all defaults filled in.
const FOLLOWING: [(&[&str], &[&str]); 7] = [
    (&["optimizer"], &["learning-rate"]),
    (&["loss", "variant"], &["learning-rate", "magnitude", "weight"]),
    (&["loss", "variant", "outliers"], &["anchors"]),
    (&["loss"], &["outliers"]),
    (&["arch"], &["depth", "widen-factor", "channels", "dropout"]),
    (&["backbone"], &["arch", "depth", "widen-factor", "channels", "mean", "std"]),
    (&["device"], &["precision"]),
];

impl TrainArgs {
    /// The command line with the settings of `--config FILE` written out as flags, but for those that stand on
    /// it already, and what followed from them.
    ///
    /// # Errors
    /// Where the file cannot be read, is no TOML, or has a key that is no setting.
    pub fn expand(args: Vec<OsString>) -> anyhow::Result<Vec<OsString>> {
        // What the command line gives a flag, the last time.
        let given = |name: &str| -> Option<OsString> {
            args.iter().enumerate().rev().find_map(|(place, arg)| {
                let text = arg.to_string_lossy();
                let flag = text.strip_prefix("--")?;
                match flag.split_once('=') {
                    Some((flag, value)) => (flag == name).then(|| value.into()),
                    None => (flag == name).then(|| args.get(place + 1).cloned().unwrap_or_default()),
                }
            })
        };
        let is_train = args.get(1).is_some_and(|command| command == "train");
        let Some(file) = given("config").filter(|_| is_train) else { return Ok(args) };
        let file = Path::new(&file);
        let text =
            std::fs::read_to_string(file).with_context(|| format!("cannot read `{}`", file.display()))?;
        let table: toml::Table = text.parse().with_context(|| format!("`{}` is not TOML", file.display()))?;
        let command = SettingsArgs::augment_args(clap::Command::new("train"));
        let default = |flag: &str| {
            let arg = command.get_arguments().find(|arg| arg.get_long() == Some(flag))?;
            arg.get_default_values().first()?.to_str()
        };
        // A flag that says something else than the file, or than the default where the file says nothing.
        let is_changed = |flag: &&str| {
            let written = table.get(*flag).map_or_else(|| default(flag), toml::Value::as_str);
            given(flag).is_some_and(|given| Some(&*given.to_string_lossy()) != written)
        };
        let mut dropped: Vec<&str> = FOLLOWING
            .iter()
            .filter(|(flags, _)| flags.iter().any(is_changed))
            .flat_map(|(_, following)| following.iter().copied())
            .collect();
        // A network that goes takes along what fitted it.
        if dropped.contains(&"arch") && table.contains_key("arch") {
            dropped.push("dropout");
        }
        let mut expanded = args[..2].to_vec();
        for (key, value) in &table {
            if !command.get_arguments().any(|arg| arg.get_long() == Some(key)) {
                bail!("`{}`: `{key}` is no setting; see `toolkit train --help`", file.display());
            }
            if given(key).is_some() || dropped.contains(&key.as_str()) {
                continue;
            }
            let values = match value {
                toml::Value::Array(values) => values.iter().collect(),
                value => vec![value],
            };
            for value in values {
                let text = match value {
                    toml::Value::String(text) => text.clone(),
                    toml::Value::Integer(_) | toml::Value::Float(_) => value.to_string(),
                    _ => bail!("`{}`: `{key}` is neither text nor a number nor a list", file.display()),
                };
                expanded.push(format!("--{key}={text}").into());
            }
        }
        expanded.extend_from_slice(&args[2..]);
        Ok(expanded)
    }
}

/// The objective of a training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Objective {
    /// Class Anchor Clustering
    Cac,
    /// Plain classification, to make a backbone
    CrossEntropy,
}

/// The networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// WideResNet, 40-2 unless told otherwise
    WideResnet,
    /// The nine convolutions of the official CAC code
    CacNet,
}

fn seconds(text: &str) -> Result<f64, String> {
    let value: Option<f64> = text.parse().ok().filter(|value| (0.0..=1e9).contains(value));
    value.ok_or_else(|| "expected seconds, 0 or more".to_owned())
}

fn joined<S: serde::Serializer>(values: &Option<[f32; 3]>, serializer: S) -> Result<S::Ok, S::Error> {
    values.map(|values| values.map(|value| value.to_string()).join(",")).serialize(serializer)
}
