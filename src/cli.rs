//! What users can type. The doc comments are the help.

mod train;

use std::{num::NonZeroUsize, path::PathBuf};

use cac::{
    cac::{Score, Variant},
    dataset::Protocol,
    export::{InputForm, Options, ThresholdRule},
    manifest,
    metrics::Bootstrap,
    report::{Group, Settings},
    scorer::Provider,
    weights::PUBLISHED,
};
use clap::{Args, Parser, Subcommand};
use ndarray::Array4;

pub use train::TrainArgs;
#[cfg(feature = "train")]
pub use train::{Family, Objective, SettingsArgs};

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

/// The subcommands.
#[derive(Subcommand)]
pub enum Command {
    /// Train a network with the CAC loss and test it after every epoch
    #[command(args_override_self = true, allow_negative_numbers = true, override_usage = train::USAGE)]
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
    #[arg(long, requires = "known")]
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

/// How a model file is written.
#[derive(Args)]
pub struct FileArgs {
    /// Rejection score of the file: cac, min-distance, pytorch-ood, msp, max-logit, energy or, at another temperature
    /// than 1, energy:T; by default that of the training, or for an import that of the variant
    #[arg(long, value_name = "NAME")]
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
    #[arg(long, value_name = "N", default_value_t = NonZeroUsize::new(512).expect("not 0"))]
    pub calibration_pictures: NonZeroUsize,
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
    /// Measure this rejection score: cac, min-distance, pytorch-ood, msp, max-logit, energy or energy:T; repeatable.
    /// The model's own by default
    #[arg(long, value_name = "NAME")]
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
          value_parser = clap::value_parser!(u32).range(4..), conflicts_with_all = ["group", "threshold", "resamples", "resample_seed"])]
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

fn pixels(text: &str) -> Result<usize, String> {
    let value: Option<usize> = text.parse().ok().filter(|value| (8..=4096).contains(value));
    value.ok_or_else(|| "expected 8 to 4096 pixels".to_owned())
}

fn triple(text: &str) -> Result<[f32; 3], String> {
    let values: Option<Vec<f32>> = text.split(',').map(|value| value.trim().parse().ok()).collect();
    let values: Option<[f32; 3]> = values.and_then(|values| values.try_into().ok());
    values
        .filter(|values| values.iter().all(|value| value.is_finite()))
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
        for wrong in ["", "1", "1,2", "1,2,3,4", "a,b,c", "1,x,2,3", "1,2,nan"] {
            assert!(triple(wrong).is_err(), "{wrong}");
        }
    }
}
