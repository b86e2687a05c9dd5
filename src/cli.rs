//! What users can type. The doc comments are the help.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
#[cfg(feature = "train")]
use cac::train::Precision;
use cac::{
    cac::{Score, Variant},
    dataset::Protocol,
    export::{InputForm, Options, ThresholdRule},
    manifest,
    metrics::Bootstrap,
    recipe::{Augment, Optimizer, Recipe, Schedule},
    report::{Group, Settings},
    scorer::Provider,
    weights::PUBLISHED,
};
use clap::{Args, Parser, Subcommand};
use ndarray::Array4;
use serde::Serialize;

/// Open-set image classifiers: networks that name what they know and say "unknown" to the rest.
///
/// Results go to stdout, everything else to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const TRAIN_USAGE: &str = "toolkit train --known <DIR> [OPTIONS]
       toolkit train --config <FILE> [OPTIONS]
       toolkit train --resume <DIR>";

/// The subcommands.
#[derive(Subcommand)]
pub enum Command {
    /// Train a network with the CAC loss and test it after every epoch
    #[command(args_override_self = true, allow_negative_numbers = true, override_usage = TRAIN_USAGE)]
    Train(Box<TrainArgs>),
    /// Turn weights that others have trained into a model file
    #[command(allow_negative_numbers = true)]
    Import(ImportArgs),
    /// Write a trained network as one ONNX file with anchors, score, threshold and preprocessing inside
    #[command(allow_negative_numbers = true)]
    Export(ExportArgs),
    /// Measure a model on known and unknown pictures
    #[command(allow_negative_numbers = true)]
    Eval(EvalArgs),
    /// Compute the table of `eval` from scores made elsewhere
    #[command(allow_negative_numbers = true)]
    Metrics(MetricsArgs),
    /// Say for each picture which class it is, or that it is unknown
    #[command(allow_negative_numbers = true)]
    Score(ScoreArgs),
    /// Say what a model file holds
    Inspect(InspectArgs),
    /// List what can run a model here, and why the rest cannot
    Providers(ProvidersArgs),
}

/// `toolkit train`
#[derive(Args)]
pub struct TrainArgs {
    /// Take settings from a TOML file, by the names of the flags below. Flags win over it: another --optimizer also
    /// over its learning rate, another --loss or --variant over learning rate, magnitude and weight, another --arch
    /// over the network's sizes and dropout, another --backbone over network, mean and deviation, another --device
    /// over the precision
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
    /// Save the state to resume from whenever so much time has passed, and after every epoch
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
    /// Definition of the CAC loss and of its score
    #[arg(long, value_enum, default_value_t = Variant::Paper)]
    pub variant: Variant,
    /// Length of the anchors; 10 for paper, 5 for pytorch-ood by default
    #[arg(long, value_name = "X")]
    pub magnitude: Option<f64>,
    /// Weight of the anchor term; 0.1 for paper, 2 for pytorch-ood by default
    #[arg(long, value_name = "X")]
    pub weight: Option<f64>,
    /// Unknown pictures to be kept away from all anchors in training: a folder, or CIFAR-10's training files
    #[arg(long, value_name = "DIR")]
    pub outliers: Option<PathBuf>,
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
    /// With `paper`, take the class means over this many training pictures, drawn at random; 0 for all
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
    /// The learning rate at its height; by default 0.001 for adam, and for sgd 0.1 or, with pytorch-ood, 0.002
    #[arg(long, value_name = "X")]
    pub learning_rate: Option<f64>,
    /// The course of the learning rate
    #[arg(long, value_enum, default_value_t = Recipe::default().schedule)]
    pub schedule: Schedule,
    /// Epochs over which the learning rate rises to its height; with one-cycle 0 means three tenths of all
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
    #[arg(long, value_name = "N", default_value_t = 123)]
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
const FOLLOWING: [(&[&str], &[&str]); 5] = [
    (&["optimizer"], &["learning-rate"]),
    (&["loss", "variant"], &["learning-rate", "magnitude", "weight"]),
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
        // A flag that says something else than the file.
        let is_changed = |flag: &&str| {
            let written = table.get(*flag).and_then(toml::Value::as_str);
            given(flag).is_some_and(|given| Some(&*given.to_string_lossy()) != written)
        };
        let dropped: Vec<&str> = FOLLOWING
            .iter()
            .filter(|(flags, _)| flags.iter().any(is_changed))
            .flat_map(|(_, following)| following.iter().copied())
            .collect();
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

fn pixels(text: &str) -> Result<usize, String> {
    let value: Option<usize> = text.parse().ok().filter(|value| (8..=4096).contains(value));
    value.ok_or_else(|| "expected 8 to 4096 pixels".to_owned())
}

fn seconds(text: &str) -> Result<f64, String> {
    let value: Option<f64> = text.parse().ok().filter(|value| (0.0..=1e9).contains(value));
    value.ok_or_else(|| "expected seconds, 0 or more".to_owned())
}

fn joined<S: serde::Serializer>(values: &Option<[f32; 3]>, serializer: S) -> Result<S::Ok, S::Error> {
    values.map(|values| values.map(|value| value.to_string()).join(",")).serialize(serializer)
}

/// What a training can learn.
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

/// `toolkit import`
#[derive(Args)]
#[command(after_help = format!("Published weights: {}", published_names()))]
pub struct ImportArgs {
    /// Weights of a WideResNet or of the official CAC network (.pt, .pth or safetensors), or the name of
    /// published ones
    #[arg(value_name = "FILE|NAME")]
    pub weights: PathBuf,
    /// The file to write
    #[arg(value_name = "MODEL.onnx")]
    pub model: PathBuf,
    /// Known classes with training pictures, as for `train`: they name the classes, give the class means that
    /// become the anchors (with `paper`), and the threshold
    #[arg(long, value_name = "DIR")]
    pub known: Option<PathBuf>,
    /// Which of the classes are known: cac-2020 (the authors' published weights), cac-2021 or arpl-2021, each
    /// /0 to /4
    #[arg(long, value_name = "NAME/TRIAL", requires = "known")]
    pub protocol: Option<Protocol>,
    /// Names of the classes in the order of the network's outputs; those of --known, or else numbers, by
    /// default
    #[arg(long, value_name = "A,B,C", value_delimiter = ',')]
    pub classes: Vec<String>,
    /// Use this many training pictures, drawn at random; 0 for all
    #[arg(long, value_name = "N", default_value_t = 5000)]
    pub pictures: usize,
    /// Keep the anchors of the file, or fixed ones, in place of class means
    #[arg(long)]
    pub keep_anchors: bool,
    /// Leave the mirror images of the training pictures out of the class means, as for digits
    #[arg(long)]
    pub no_mirror: bool,
    /// What runs the network over the training pictures
    #[arg(long, default_value = "cpu")]
    pub provider: Provider,

    /// Definition of the loss that it was trained with
    #[arg(long, value_enum, default_value_t = Variant::Paper)]
    pub variant: Variant,
    /// Length of the anchors where the file has none; 10 for paper, 5 for pytorch-ood by default
    #[arg(long, value_name = "X")]
    pub magnitude: Option<f64>,
    /// Height and width of the pictures; the official network fixes it
    #[arg(long, value_name = "PIXELS", default_value_t = 32, value_parser = pixels)]
    pub size: usize,
    /// Mean of the red, green and blue values (0 to 1), subtracted; that of published weights, or else 0.5, by
    /// default
    #[arg(long, value_name = "R,G,B", value_parser = triple)]
    pub mean: Option<[f32; 3]>,
    /// Standard deviation of the red, green and blue values, divided by; that of published weights, or else 0.5,
    /// by default
    #[arg(long, value_name = "R,G,B", value_parser = triple)]
    pub std: Option<[f32; 3]>,
    /// The file's score, threshold and form
    #[command(flatten)]
    pub file: FileArgs,
}

/// The names of all published weights.
pub fn published_names() -> String {
    PUBLISHED.map(|published| published.name).join(", ")
}

/// `toolkit export`
#[derive(Args)]
pub struct ExportArgs {
    /// The file to write
    #[arg(value_name = "MODEL.onnx")]
    pub model: PathBuf,
    /// The run folder; the newest in runs/ by default
    #[arg(long, value_name = "DIR")]
    pub run: Option<PathBuf>,
    /// Take the weights of the last epoch in place of the best
    #[arg(long)]
    pub last: bool,
    /// The file's score, threshold and form
    #[command(flatten)]
    pub file: FileArgs,
}

/// What a model file can be made of the same network.
#[derive(Args)]
pub struct FileArgs {
    /// Rejection score of the file; the variant's own by default
    #[arg(long, value_enum)]
    pub score: Option<Score>,
    /// Choose the threshold that keeps this share of the held-out known pictures, or of those of an import
    #[arg(long, value_name = "SHARE", default_value_t = 0.95)]
    pub keep: f64,
    /// Set the threshold on the score by hand
    #[arg(long, value_name = "X", conflicts_with = "keep")]
    pub threshold: Option<f32>,
    /// Form of the input: f32 [N, 3, H, W] in 0 to 1, or u8 [N, H, W, 3]
    #[arg(long, value_enum, default_value_t = InputForm::Float)]
    pub input: InputForm,
    /// Fix the number of pictures, for engines that want static shapes
    #[arg(long, value_name = "N")]
    pub batch: Option<usize>,
    /// Numbers of the network: f16 stores weights in half the bytes; int8 computes convolutions in
    /// eight bits
    #[arg(long, value_enum, default_value_t)]
    pub precision: manifest::Precision,
    /// Known training pictures, as for `train`, to measure activations on for int8, and how far f16 and int8 agree with
    /// f32; those of the training by default
    #[arg(long, value_name = "DIR")]
    pub calibrate: Option<PathBuf>,
    /// Draw this many of them at random
    #[arg(long, value_name = "N", default_value_t = 512)]
    pub calibration_pictures: usize,
    /// Also put the file into this Triton model repository, as its next version, with a KServe InferenceService beside it
    #[arg(long, value_name = "DIR")]
    pub triton: Option<PathBuf>,
    /// Print the file's manifest as JSON
    #[arg(long)]
    pub json: bool,
}

impl FileArgs {
    /// The options of the export, with the pictures to calibrate with.
    pub fn options(&self, calibration: Option<Array4<f32>>) -> Options {
        Options {
            score: self.score,
            threshold: self.threshold.map_or(ThresholdRule::Keep(self.keep), ThresholdRule::Value),
            input: self.input,
            batch: self.batch,
            precision: self.precision,
            calibration,
        }
    }
}

/// `toolkit eval`
#[derive(Args)]
pub struct EvalArgs {
    /// The model, as `toolkit export` writes it; by default the one for CIFAR-10's classes that is built in. Given several
    /// times, each is measured and compared with the first
    #[arg(value_name = "MODEL.onnx")]
    pub model: Vec<PathBuf>,
    /// The threshold, and the form of the output
    #[command(flatten)]
    pub scorer: ScorerArgs,
    /// cpu (tract), onnxruntime, cuda[:N] or another of `toolkit providers`; never replaced by another one. Given
    /// several times, each is measured and compared with the first
    #[arg(long, default_value = "cpu")]
    pub provider: Vec<Provider>,
    /// Known classes: CIFAR-10's binary folder, test/CLASS/*.png or CLASS/*.png; the training data by default
    #[arg(long, value_name = "DIR")]
    pub known: Option<PathBuf>,
    /// Unknown pictures: NAME=DIR, gaussian-noise[:COUNT] or uniform-noise[:COUNT]; repeatable. Those of the
    /// training where --known is not given either
    #[arg(long, value_name = "NAME=DIR")]
    pub unknown: Vec<String>,
    /// Which classes are known, the others being unknown: cac-2020, cac-2021 or arpl-2021, each /0 to /4; by
    /// default that of the training, where its data is taken
    #[arg(long, value_name = "NAME/TRIAL")]
    pub protocol: Option<Protocol>,
    /// Measure this rejection score; repeatable. The model's own by default
    #[arg(long, value_enum)]
    pub score: Vec<Score>,
    /// Write the scores of all pictures, as CSV or, where the name ends in .npz, as NPZ
    #[arg(long, value_name = "FILE")]
    pub scores: Option<PathBuf>,
    /// What the table says
    #[command(flatten)]
    pub report: ReportArgs,
}

/// `toolkit metrics`
#[derive(Args)]
pub struct MetricsArgs {
    /// CSV or NPZ with `score` (larger = more likely unknown), `label` (negative = unknown) and, for accuracy
    /// and OSCR, `prediction`; a column `set` of a CSV file names the unknown sets
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The column or array of scores
    #[arg(long, value_name = "NAME", default_value = "score")]
    pub column: String,
    /// Measure what this threshold keeps and catches
    #[arg(long, value_name = "X")]
    pub threshold: Option<f64>,
    /// What the table says
    #[command(flatten)]
    pub report: ReportArgs,
    /// Read scores that do not fit in memory into so many bins at most, about 250 bytes each: all unknown sets
    /// as one, with certain bounds in place of intervals
    #[arg(long, value_name = "BINS", num_args = 0..=1, require_equals = true, default_missing_value = "262144",
          value_parser = clap::value_parser!(u32).range(4..), conflicts_with_all = ["group", "threshold"])]
    pub stream: Option<u32>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What a table says besides the metrics.
#[derive(Args)]
pub struct ReportArgs {
    /// Add a row with the mean over some unknown sets, such as near=cifar100,tin; repeatable
    #[arg(long, value_name = "NAME=SET,SET")]
    pub group: Vec<Group>,
    /// Draw the pictures anew so often for the 95 % intervals; 0 for no intervals
    #[arg(long, value_name = "N", default_value_t = Bootstrap::default().resamples)]
    pub resamples: u32,
    /// Seed of these draws
    #[arg(long, value_name = "N", default_value_t = Bootstrap::default().seed)]
    pub resample_seed: u64,
}

impl ReportArgs {
    /// The settings of the report, with a threshold.
    pub fn settings(&self, threshold: Option<f64>) -> Settings {
        let bootstrap = Bootstrap { resamples: self.resamples, seed: self.resample_seed };
        Settings { threshold, groups: self.group.clone(), bootstrap: Some(bootstrap) }
    }
}

/// `toolkit score`
#[derive(Args)]
pub struct ScoreArgs {
    /// The threshold, and the form of the output
    #[command(flatten)]
    pub scorer: ScorerArgs,
    /// cpu (tract), onnxruntime, cuda[:N] or another of `toolkit providers`; never replaced by another one
    #[arg(long, default_value = "cpu")]
    pub provider: Provider,
    /// Pictures of any size, behind a model where the first name ends in .onnx; without one it is the model for
    /// CIFAR-10's classes that is built in
    #[arg(required = true, value_name = "[MODEL.onnx] PICTURE")]
    files: Vec<PathBuf>,
}

impl ScoreArgs {
    /// The model, if one is named, and the pictures.
    pub fn model_and_pictures(&self) -> (Option<&PathBuf>, &[PathBuf]) {
        match &self.files[..] {
            [model, pictures @ ..] if model.extension().is_some_and(|extension| extension == "onnx") => {
                (Some(model), pictures)
            }
            pictures => (None, pictures),
        }
    }
}

/// `toolkit inspect`
#[derive(Args)]
pub struct InspectArgs {
    /// The model, as `toolkit export` writes it; by default the one for CIFAR-10's classes that is built in
    #[arg(value_name = "MODEL.onnx")]
    pub model: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `toolkit providers`
#[derive(Args)]
pub struct ProvidersArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// How to decide with a model.
#[derive(Args)]
pub struct ScorerArgs {
    /// Use the threshold that keeps this share of the held-out known pictures, in place of the file's
    #[arg(long, value_name = "SHARE")]
    pub keep: Option<f64>,
    /// Use this threshold in place of the file's
    #[arg(long, value_name = "X", conflicts_with = "keep")]
    pub threshold: Option<f32>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

fn triple(text: &str) -> Result<[f32; 3], String> {
    let values: Vec<f32> = text.split(',').filter_map(|value| value.trim().parse().ok()).collect();
    let finite = values.iter().all(|value| value.is_finite());
    values
        .try_into()
        .ok()
        .filter(|_| finite)
        .ok_or_else(|| "expected three numbers such as 0.5,0.5,0.5".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definitions_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn triples() {
        assert_eq!(triple("0.1, 0.2,0.3"), Ok([0.1, 0.2, 0.3]));
        for wrong in ["", "1", "1,2", "1,2,3,4", "a,b,c", "1,2,nan"] {
            assert!(triple(wrong).is_err(), "{wrong}");
        }
    }
}
