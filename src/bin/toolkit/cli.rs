//! The command line. The doc comments are the help.

use std::{
    ffi::OsString,
    fs::File,
    io::Read,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    str::FromStr,
};

use cac::{
    Provider,
    data::{DataFolder, Degradation, Protocol, PublishedSet, UnknownSource},
    drift::ALPHA,
    export::{ExportOptions, InputForm, ThresholdRule},
    fit::LIMIT,
    method::{FeatureScore, KEEP, LogitScore, RejectionScore, Term, Variant},
    metrics::Bootstrap,
    model::ModelPrecision,
    report::{Group, ReportOptions},
    text::shown,
    weights::PublishedWeights,
};
use clap::{ArgMatches, Args, Parser, Subcommand, builder::PossibleValuesParser, parser::ValueSource};
use ndarray::Array4;

use crate::{
    commands::eval::requirement::Requirement,
    terminal::{
        InputArgs, SOME_WEIGHTS, by_variant, data::set_names, name_of, one_of, setting, unknown_source,
        weights::similar,
    },
};

/// Open-set image classifiers: networks that classify images of known classes and reject all others as
/// unknown.
///
/// Results go to stdout, everything else to stderr. Exit codes: 0 success, 1 failure, 2 usage error,
/// 3 drift or an unmet requirement of `eval --require`.
#[derive(Parser)]
#[command(name = "toolkit", version, max_term_width = 100)]
pub struct Cli {
    /// The subcommand.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Subcommand)]
pub enum Command {
    /// Train a network with the CAC loss and test it after every epoch
    #[command(disable_help_flag = true, override_usage = "toolkit train [OPTIONS]")]
    Train(TrainArgs),
    /// Convert weights that were trained elsewhere to a model file
    #[command(allow_negative_numbers = true)]
    Import(ImportArgs),
    /// Write a trained network as one ONNX file with anchors, score, threshold and preprocessing inside
    #[command(allow_negative_numbers = true)]
    Export(ExportArgs),
    /// Evaluate models on known and unknown images
    #[command(allow_negative_numbers = true)]
    Eval(EvalArgs),
    /// Write an HTML report: verdict, tables, plots and mistakes
    #[command(allow_negative_numbers = true)]
    Report(PageArgs),
    /// List, download, find and check published data sets
    #[command(subcommand)]
    Data(DataCommand),
    /// List, download, find and check published weights
    #[command(subcommand)]
    Weights(WeightsCommand),
    /// Compute the table of `eval` from a score file
    #[command(allow_negative_numbers = true)]
    Metrics(MetricsArgs),
    /// Classify images, or reject them as unknown
    #[command(allow_negative_numbers = true)]
    Score(ScoreArgs),
    /// Check whether new images still resemble those that the threshold was chosen for; exit code 3 if not
    #[command(allow_negative_numbers = true)]
    Drift(DriftArgs),
    /// Choose a new threshold for a model from new images of the known classes
    Recalibrate(RecalibrateArgs),
    /// Show the contents of a model file
    Inspect(InspectArgs),
    /// Check that a model file reproduces the results recorded when it was written
    Verify(VerifyArgs),
    /// Try each provider, and print what runs a model or why it cannot
    Providers(ProvidersArgs),
}

/// `toolkit train`
#[derive(Args)]
pub struct TrainArgs {
    /// Options that `toolkit train --help` lists, passed to the program toolkit-train
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS")]
    pub args: Vec<OsString>,
}

/// `toolkit import`
#[derive(Args)]
#[command(after_help = format!("{SOME_WEIGHTS}\nPublished data sets: {}", set_names()))]
pub struct ImportArgs {
    /// Weights of a network of a known family: a file (.pt, .pth or safetensors), a run
    /// folder (its best checkpoint) or the name of published weights (see below)
    #[arg(value_name = "FILE|NAME")]
    pub weights: PathBuf,
    /// The file to write
    #[arg(value_name = "MODEL.onnx")]
    pub model: PathBuf,
    /// Training images of the known classes, as for `train`; they give the class names, the score, the
    /// threshold and, for `paper`, the class means as anchors
    #[arg(long, value_name = "DIR|NAME")]
    pub known: Option<PathBuf>,
    /// Share of the --known images to set aside as test images, if they have no test split
    #[arg(long, value_name = "SHARE", requires = "known")]
    pub held_out_test: Option<f64>,
    /// Published split that selects the known classes: cac-2020 (that of the authors' weights), cac-2021 or
    /// arpl-2021, each /0 to /4
    #[arg(long, value_name = "NAME/TRIAL", requires = "known", value_parser = setting::<Protocol>)]
    pub protocol: Option<Protocol>,
    /// Class of --known that the network does not know; repeatable
    #[arg(long, value_name = "CLASS", requires = "known")]
    pub unknown_class: Vec<String>,
    /// Names of the classes in the order of the network's outputs; by default those of --known, else numbers
    #[arg(long, value_name = "A,B,C", value_delimiter = ',')]
    pub classes: Vec<String>,
    /// Number of training images to use, drawn at random; 0 for all
    #[arg(long, value_name = "N", default_value_t = 5000, requires = "known")]
    pub images: usize,
    /// With the paper's loss, keep the anchors of the file, or fixed ones, instead of class means of --known
    #[arg(long, requires = "known")]
    pub keep_anchors: bool,
    /// Leave mirrored training images out of the class means, as for digits; the default for `mnist` and
    /// `svhn`
    #[arg(long, requires = "known", conflicts_with = "keep_anchors")]
    pub no_mirror: bool,
    /// Provider that runs the network on the training images, as for `eval`
    #[arg(long, default_value = "cpu", requires = "known")]
    pub provider: Provider,

    /// Loss that the network was trained with; by default that of the file, paper for weights with anchors and for
    /// the network of the official CAC code, else cross-entropy. Only paper takes class means as anchors
    #[arg(long, value_parser = one_of(&[Variant::Paper, Variant::PytorchOod, Variant::CrossEntropy]))]
    pub variant: Option<Variant>,
    #[arg(long, value_name = "X", help = format!("Length of the anchors if the file has none; by default {}", by_variant(|loss| loss.magnitude)))]
    pub magnitude: Option<f64>,
    /// The input of the network
    #[command(flatten)]
    pub input: InputArgs,
    /// Score, threshold and form of the file
    #[command(flatten)]
    pub file: FileArgs,
}

/// `toolkit export`
#[derive(Args)]
pub struct ExportArgs {
    /// The file to write; with the extension .safetensors only the weights, as a backbone
    #[arg(value_name = "MODEL.onnx")]
    pub model: PathBuf,
    /// Run folder; by default the one in runs/ that was written last
    #[arg(long, value_name = "DIR")]
    pub run: Option<PathBuf>,
    /// Export the last epoch instead of the best
    #[arg(long)]
    pub last: bool,
    /// Average the features of each image and of its mirror image; doubles the cost
    #[arg(long)]
    pub mirror: bool,
    /// Score, threshold and form of the file
    #[command(flatten)]
    pub file: FileArgs,
}

/// How a model file is written.
#[derive(Args)]
pub struct FileArgs {
    #[arg(long, value_name = "NAME", value_parser = setting::<RejectionScore>, help = format!("Rejection score: {}, or the sum A+B of two. By default the one that best separates held-out known images from stand-ins for unknown ones", RejectionScore::names()))]
    pub score: Option<RejectionScore>,
    #[arg(long, value_name = "MB", value_parser = megabytes, help = format!("Size limit for a feature score's constants in the file; by default {:.1}", LIMIT as f64 / 1e6))]
    pub score_limit: Option<f64>,
    /// Leave the features out of the outputs, for smaller responses
    #[arg(long)]
    pub no_features: bool,
    /// Add a map of the logits to the outputs; `score --map` uses it to show which part of an image looks
    /// unknown
    #[arg(long)]
    pub map: bool,
    /// Choose a threshold for each predicted class, from held-out images of that class
    #[arg(long, conflicts_with = "threshold")]
    pub per_class: bool,
    /// Make the threshold an optional input of the graph, with the chosen one as its default
    #[arg(long)]
    pub threshold_input: bool,
    /// Choose the threshold on held-out images to keep this share of new known ones, 0 to below 1; on the
    /// known test images if training held none out. An import uses the --known images
    #[arg(long, value_name = "SHARE", value_parser = share_to_keep, default_value_t = KEEP)]
    pub keep: f64,
    /// Set the threshold by hand; images with a larger score are unknown
    #[arg(long, value_name = "X", value_parser = finite::<f32>, conflicts_with = "keep")]
    pub threshold: Option<f32>,
    /// Type and shape of the input: f32 [N, 3, H, W] in 0 to 1, or u8 [N, H, W, 3]
    #[arg(
        long,
        value_parser = one_of(&[InputForm::Floats, InputForm::Bytes]),
        default_value = name_of(&ExportOptions::default().input),
        default_value_if("resize", "true", "u8")
    )]
    pub input: InputForm,
    /// Take images of any height and width, as u8 [N, H, W, 3], and resize them in the graph, to the same
    /// bytes as the toolkit
    #[arg(long)]
    pub resize: bool,
    /// Fix the batch size, for engines that need static shapes; by default any size
    #[arg(long, value_name = "N")]
    pub batch: Option<usize>,
    /// Precision of the network: f16 stores weights in half the bytes; int8 computes convolutions in eight
    /// bits
    #[arg(long, value_parser = one_of(&ModelPrecision::ALL), default_value = name_of(&ModelPrecision::default()))]
    pub precision: ModelPrecision,
    /// Known training images, as for `train`, to quantise int8 (not for the threshold) and to compare f16 and
    /// int8 with f32; by default the training data, or --known for an import
    #[arg(long, value_name = "DIR|NAME")]
    pub calibrate: Option<PathBuf>,
    /// Where published data sets are
    #[command(flatten)]
    pub data: FolderArgs,
    #[arg(long, value_name = "N", value_parser = positive, help = format!("Number of calibration images, drawn at random; by default {}", FileArgs::CALIBRATION_IMAGES))]
    pub calibration_images: Option<NonZeroUsize>,
    /// Also add the file to this Triton model repository as the next version, with a KServe InferenceService
    /// beside it; versions with other classes, inputs or outputs need another name
    #[arg(long, value_name = "DIR")]
    pub triton: Option<PathBuf>,
    /// Print the file's manifest as JSON
    #[arg(long)]
    pub json: bool,
}

impl FileArgs {
    /// The default of `--calibration-images`.
    pub const CALIBRATION_IMAGES: usize = 512;

    /// The first of these flags on the command line, for a file to which none of them applies.
    pub fn first_given(matches: &ArgMatches) -> Option<String> {
        let flags = Self::augment_args(clap::Command::new("export"));
        first_given(matches, flags.get_arguments().map(|flag| flag.get_id().as_str()))
    }

    /// The options of the export, with the calibration images.
    pub fn options(&self, calibration: Option<Array4<f32>>) -> ExportOptions {
        ExportOptions {
            score: self.score,
            limit: self.score_limit.map_or(LIMIT, |megabytes| (megabytes * 1e6) as usize),
            features: !self.no_features,
            logit_map: self.map,
            per_class: self.per_class,
            threshold_input: self.threshold_input,
            threshold: self.threshold.map_or(ThresholdRule::Keep(self.keep), ThresholdRule::Value),
            input: if self.resize { InputForm::AnySize } else { self.input },
            batch: self.batch,
            precision: self.precision,
            calibration,
        }
    }
}

/// `toolkit eval`
#[derive(Args)]
#[command(after_help = format!("Published data sets: {}", set_names()))]
pub struct EvalArgs {
    /// Model file; by default the newest in the current folder, else the built-in CIFAR-10 model,
    /// evaluated on cifar10 and textures. Repeatable; each further model is compared with the first on the
    /// scores that they share
    #[arg(value_name = "MODEL.onnx")]
    pub model: Vec<PathBuf>,
    /// Also write an HTML report, as `toolkit report` does
    #[arg(long = "report", value_name = "FILE.html")]
    pub page: Option<PathBuf>,
    #[arg(long, value_name = "METRIC=X", value_delimiter = ',', help = format!("Exit with code 3 unless METRIC is at least X (at most X for fpr...), 0 to 1, for every unknown set, model, provider and score: {}", Requirement::names().collect::<Vec<_>>().join(", ")))]
    pub require: Vec<Requirement>,
    /// What is measured, and how
    #[command(flatten)]
    pub options: EvaluationArgs,
}

/// `toolkit report`
#[derive(Args)]
#[command(after_help = format!("Published data sets: {}", set_names()))]
pub struct PageArgs {
    /// Model files, evaluated as by `eval`; score files, as for `metrics`; run folders, with their test
    /// results and training curves. By default the newest model in the current folder, else the
    /// built-in CIFAR-10 model
    #[arg(value_name = "MODEL.onnx|SCORES.csv|RUN")]
    pub inputs: Vec<PathBuf>,
    /// The file to write
    #[arg(long, short, value_name = "FILE.html", default_value = "report.html")]
    pub output: PathBuf,
    /// The column or array of scores in score files; by default score
    #[arg(long, value_name = "NAME")]
    pub column: Option<String>,
    /// What is measured, and how
    #[command(flatten)]
    pub options: EvaluationArgs,
}

/// What `eval` and `report` measure.
#[derive(Args)]
pub struct EvaluationArgs {
    /// Threshold and form of the output
    #[command(flatten)]
    pub scorer: ScorerArgs,
    /// Write the plots of the report as SVG and PNG files to this folder
    #[arg(long, value_name = "DIR")]
    pub plots: Option<PathBuf>,
    /// What runs the model: cpu (tract), onnxruntime, cuda[:N] or another of `toolkit providers`, without
    /// fallback. Repeatable; each further provider is compared with the first
    #[arg(long, default_value = "cpu", value_parser = setting::<Provider>)]
    pub provider: Vec<Provider>,
    /// Known classes: the name of a published data set (see below), test/CLASS/*.png, CLASS/*.png, or an
    /// unpacked data set, as for `train`; by default the training data
    #[arg(long, value_name = "DIR|NAME")]
    pub known: Option<PathBuf>,
    /// Share of the known images that `train` held out as test images, if they have no test split; by default
    /// the share in the model file, if --known is not given
    #[arg(long, value_name = "SHARE")]
    pub held_out_test: Option<f64>,
    /// Unknown images: NAME=DIR, the name of a published data set, gaussian-noise[:COUNT] or
    /// uniform-noise[:COUNT]; repeatable. By default those of the training, if --known is not given either
    #[arg(long, value_name = "NAME=DIR|NAME", value_parser = unknown_source)]
    pub unknown: Vec<UnknownSource>,
    /// Where published data sets are
    #[command(flatten)]
    pub data: FolderArgs,
    /// Published split into known and unknown classes: cac-2020, cac-2021 or arpl-2021, each /0 to /4; by
    /// default the split in the model file, if --known is not given
    #[arg(long, value_name = "NAME/TRIAL", value_parser = setting::<Protocol>)]
    pub protocol: Option<Protocol>,
    /// Class of the data set whose images are unknown; repeatable. By default those of the training, if --known is
    /// not given
    #[arg(long, value_name = "CLASS")]
    pub unknown_class: Vec<String>,
    /// Degrade all test images: fewer pixels, noise, or JPEG compression
    #[arg(long, value_name = "NAME", value_parser = one_of(&Degradation::ALL))]
    pub degraded: Option<Degradation>,
    #[arg(long, value_name = "NAME", help = format!("Rejection score to evaluate: {}, the sum A+B of two, or all; repeatable. By default the model's own. Others that need constants are fitted to training images of --known", RejectionScore::names()))]
    pub score: Vec<ScoreArg>,
    /// Write the first model's scores of all images as CSV, or as NPZ if the name ends in .npz
    #[arg(long, value_name = "FILE")]
    pub scores: Option<PathBuf>,
    /// Write the first model's features of all images, and of training images, as NPZ; `metrics --features`
    /// computes scores from them
    #[arg(long, value_name = "FILE.npz")]
    pub keep_features: Option<PathBuf>,
    /// Skip images that cannot be read; otherwise the evaluation fails and lists them
    #[arg(long)]
    pub skip_broken: bool,
    /// Options of the table
    #[command(flatten)]
    pub report: ReportArgs,
}

/// A score that is evaluated, or all.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ScoreArg {
    /// Every score but `pytorch-ood`, and two sums: [`ALL`].
    All,
    /// One score.
    One(RejectionScore),
}

impl FromStr for ScoreArg {
    type Err = cac::Error;

    fn from_str(text: &str) -> Result<Self, cac::Error> {
        if text == "all" { Ok(Self::All) } else { text.parse().map(Self::One) }
    }
}

/// The requested scores, each once; `own` is the first of `all`.
pub fn scores(args: &[ScoreArg], own: Option<RejectionScore>) -> Vec<RejectionScore> {
    let mut scores: Vec<RejectionScore> = Vec::new();
    for arg in args {
        let named = match arg {
            ScoreArg::All => own.into_iter().chain(all_scores()).collect(),
            ScoreArg::One(score) => vec![*score],
        };
        for score in named {
            if !scores.contains(&score) {
                scores.push(score);
            }
        }
    }
    scores
}

/// A number of megabytes.
fn megabytes(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|number| number.is_finite() && *number >= 0.0);
    number.ok_or_else(|| "expected a number of megabytes, at least 0".to_owned())
}

/// The column of a score file that is read by default.
pub const SCORE_COLUMN: &str = "score";

/// The scores of `--score all`: all but pytorch-ood's, to which any image with large logits looks known.
fn all_scores() -> impl Iterator<Item = RejectionScore> {
    let of_logits = LogitScore::ALL.into_iter().filter(|&score| score != LogitScore::PytorchOod);
    let of_logits = of_logits.chain([LogitScore::Energy { temperature: 5.0 }]).map(Term::from);
    let single = of_logits.chain(FeatureScore::ALL.map(Term::from)).map(RejectionScore::Single);
    let sums = [LogitScore::ENERGY.into(), FeatureScore::Fdbd.into()]
        .map(|one| RejectionScore::sum(one, FeatureScore::KNN.into()));
    single.chain(sums)
}

/// `toolkit data`
#[derive(Subcommand)]
pub enum DataCommand {
    /// List the published data sets, and which are stored locally
    List {
        /// Where they are
        #[command(flatten)]
        folder: FolderArgs,
        /// Print a JSON line for each
        #[arg(long)]
        json: bool,
    },
    /// Download data sets that are missing, and print their paths
    Fetch {
        /// Names of the data sets
        #[arg(required = true, value_name = "NAME", value_parser = set_name())]
        names: Vec<String>,
        /// Where they are
        #[command(flatten)]
        folder: FolderArgs,
        /// Keep the archives after they are unpacked, and download those of a local set
        #[arg(long)]
        keep: bool,
    },
    /// Print the path of a local data set
    Path {
        /// Name of the data set
        #[arg(value_name = "NAME", value_parser = set_name())]
        name: String,
        /// Where it is
        #[command(flatten)]
        folder: FolderArgs,
    },
    /// Read data sets and compare them with their recorded or published checksums
    Verify {
        /// Names of the data sets; by default all local ones
        #[arg(value_name = "NAME", value_parser = set_name())]
        names: Vec<String>,
        /// Where they are
        #[command(flatten)]
        folder: FolderArgs,
    },
}

/// `toolkit weights`
#[derive(Subcommand)]
pub enum WeightsCommand {
    /// List the published weights, and which are stored locally
    List {
        /// Print a JSON line for each
        #[arg(long)]
        json: bool,
    },
    /// Download weights that are missing, and print their paths
    Fetch {
        /// Names of the weights; `toolkit weights list` lists them
        #[arg(required = true, value_name = "NAME", value_parser = published)]
        names: Vec<&'static PublishedWeights>,
    },
    /// Print the path of local weights
    Path {
        /// Name of the weights
        #[arg(value_name = "NAME", value_parser = published)]
        name: &'static PublishedWeights,
    },
    /// Read weights and compare them with their published or recorded checksums
    Verify {
        /// Names of the weights; by default all local ones
        #[arg(value_name = "NAME", value_parser = published)]
        names: Vec<&'static PublishedWeights>,
    },
}

/// Parses the name of published weights.
fn published(text: &str) -> Result<&'static PublishedWeights, String> {
    PublishedWeights::named(text).ok_or_else(|| match &similar(text)[..] {
        [] => "no published weights have this name; `toolkit weights list` lists all".to_owned(),
        names => format!("no published weights have this name; similar names: {}", names.join(", ")),
    })
}

/// Parses the name of a published data set.
fn set_name() -> PossibleValuesParser {
    PossibleValuesParser::new(PublishedSet::names())
}

/// Where published data sets are.
#[derive(Args)]
pub struct FolderArgs {
    /// Folder of the published data sets; by default that in CAC_DATA, else ~/.cache/cac-toolkit/data
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

impl FolderArgs {
    /// Whether a folder is given.
    pub fn is_given(&self) -> bool {
        self.data.is_some()
    }

    /// The folder, or the default one.
    pub fn folder(&self) -> DataFolder {
        DataFolder::new(self.data.as_deref())
    }
}

/// `toolkit metrics`
#[derive(Args)]
pub struct MetricsArgs {
    /// CSV or NPZ file with `score` (larger = more likely unknown), `label` (negative = unknown) and, for
    /// accuracy and OSCR, `prediction`; a column `set` of a CSV file names the unknown sets
    #[arg(value_name = "FILE", required_unless_present = "features")]
    pub file: Option<PathBuf>,
    /// Compute scores from the features that `eval --keep-features` wrote
    #[arg(long, value_name = "FILE.npz", conflicts_with_all = ["file", "column", "threshold", "stream"])]
    pub features: Option<PathBuf>,
    /// Score to compute from features, as for `eval`; repeatable
    #[arg(long, value_name = "NAME", requires = "features", conflicts_with = "file", default_value = "all")]
    pub score: Vec<ScoreArg>,
    /// The column or array of scores
    #[arg(long, value_name = "NAME", default_value = SCORE_COLUMN)]
    pub column: String,
    /// Add the shares of images that this threshold keeps and catches
    #[arg(long, value_name = "X", value_parser = finite::<f64>)]
    pub threshold: Option<f64>,
    /// Options of the table
    #[command(flatten)]
    pub report: ReportArgs,
    /// Read scores that do not fit in memory into this many bins at most (262144 without a number), about 250
    /// bytes each: all unknown sets as one, with guaranteed bounds instead of intervals
    #[arg(long, value_name = "BINS", num_args = 0..=1, require_equals = true, default_missing_value = "262144",
          value_parser = clap::value_parser!(u32).range(4..), conflicts_with_all = ["group", "threshold", "resamples", "resample_seed"])]
    pub stream: Option<u32>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What a table contains besides the metrics.
#[derive(Args)]
pub struct ReportArgs {
    /// Add a row with the mean over some unknown sets, such as near=cifar100,tin; repeatable
    #[arg(long, value_name = "NAME=SET,SET")]
    pub group: Vec<Group>,
    /// Number of bootstrap resamples for the 95 % intervals; 0 for no intervals
    #[arg(long, value_name = "N", default_value_t = Bootstrap::default().resamples,
          value_parser = clap::value_parser!(u32).range(..=100_000))]
    pub resamples: u32,
    /// Seed of the bootstrap
    #[arg(long, value_name = "N", default_value_t = Bootstrap::default().seed)]
    pub resample_seed: u64,
}

impl ReportArgs {
    /// The options of the report, with a threshold.
    pub fn options(&self, threshold: Option<f64>) -> ReportOptions {
        let bootstrap = Bootstrap { resamples: self.resamples, seed: self.resample_seed };
        ReportOptions { threshold, groups: self.group.clone(), bootstrap: Some(bootstrap) }
    }
}

/// `toolkit score`
#[derive(Args)]
pub struct ScoreArgs {
    /// Threshold and form of the output
    #[command(flatten)]
    pub scorer: ScorerArgs,
    /// cpu (tract), onnxruntime, cuda[:N] or another of `toolkit providers`; there is no fallback
    #[arg(long, default_value = "cpu")]
    pub provider: Provider,
    /// Draw which part of each image looks unknown: one PNG file for one image, else a folder with one for
    /// each. The model must have been exported with --map
    #[arg(long, value_name = "FILE.png|DIR")]
    pub map: Option<PathBuf>,
    /// The signature of the model file
    #[command(flatten)]
    pub signature: SignatureArgs,
    /// Images of any size, or folders of them. A first name that ends in .onnx is the model file; by default
    /// the built-in CIFAR-10 model
    #[arg(required = true, value_name = "[MODEL.onnx] IMAGE|DIR")]
    files: Vec<PathBuf>,
}

impl ScoreArgs {
    /// The model, if one is named, and the images.
    pub fn model_and_images(&self) -> (Option<&Path>, &[PathBuf]) {
        split_model(&self.files)
    }
}

/// `toolkit drift`
#[derive(Args)]
pub struct DriftArgs {
    /// Probability of ever raising a false alarm; the alarm is raised when the martingale reaches 1 / X
    #[arg(long, value_name = "X", default_value_t = ALPHA)]
    pub alpha: f64,
    /// State file of the stream: resumed if it exists, saved afterwards
    #[arg(long, value_name = "FILE")]
    pub state: Option<PathBuf>,
    /// Leave out images that cannot be read
    #[arg(long)]
    pub skip_broken: bool,
    /// Shuffle these images, because their order is meaningless, as in class folders
    #[arg(long)]
    pub shuffle: bool,
    /// Compare the last N images of the stream with the held-out ones; by default those of this call. The
    /// alarm depends on the whole stream
    #[arg(long, value_name = "N", value_parser = positive)]
    pub window: Option<NonZeroUsize>,
    /// Seed for ties and --shuffle; must be the one that the --state stream began with
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// The column or array of scores in a score file; by default score
    #[arg(long, value_name = "NAME")]
    pub column: Option<String>,
    /// For a folder of images: cpu (tract), onnxruntime, cuda[:N] or another of `toolkit providers`, without
    /// fallback; by default cpu
    #[arg(long, value_parser = setting::<Provider>)]
    pub provider: Option<Provider>,
    /// The signature of the model file
    #[command(flatten)]
    pub signature: SignatureArgs,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// A folder of images, in path order; a CSV or NPZ score file, as for `metrics` but with labels
    /// optional; or - for standard input: one score per line, or what `score --json` prints. A first name
    /// that ends in .onnx is the model file; by default the built-in CIFAR-10 model
    #[arg(required = true, num_args = 1..=2, value_name = "[MODEL.onnx] DIR|SCORES|-")]
    inputs: Vec<PathBuf>,
}

impl DriftArgs {
    /// The model, if one is named, and the images.
    pub fn model_and_input(&self) -> anyhow::Result<(Option<&Path>, &Path)> {
        match split_model(&self.inputs) {
            (model, [input]) => Ok((model, input)),
            (Some(_), _) => anyhow::bail!("give images or scores after the model"),
            (None, _) => anyhow::bail!("`{}` is not a model file (.onnx)", shown(&self.inputs[0])),
        }
    }
}

/// The model file, if it is named first, and the rest.
fn split_model(names: &[PathBuf]) -> (Option<&Path>, &[PathBuf]) {
    match names {
        [model, rest @ ..] if is_model(model) => (Some(model), rest),
        rest => (None, rest),
    }
}

/// The first of some flags, by the names of their fields, on the command line.
pub fn first_given<'a>(matches: &ArgMatches, flags: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let is_given = |flag: &&str| matches.value_source(flag) == Some(ValueSource::CommandLine);
    Some(format!("--{}", flags.into_iter().find(is_given)?.replace('_', "-")))
}

/// Whether a file begins like an ONNX file: with the field `ir_version`.
pub fn begins_as_model(path: &Path) -> std::io::Result<bool> {
    let mut start = [0];
    Ok(File::open(path)?.read(&mut start)? == 1 && start == [8])
}

/// Whether the name of a file is that of a model.
pub fn is_model(path: &Path) -> bool {
    path.extension().is_some_and(|end| end.eq_ignore_ascii_case("onnx"))
}

/// `toolkit recalibrate`
#[derive(Args)]
#[command(after_help = format!("Published data sets: {}", set_names()))]
pub struct RecalibrateArgs {
    /// Model file
    #[arg(value_name = "MODEL.onnx")]
    pub model: PathBuf,
    /// The file to write
    #[arg(value_name = "NEW.onnx")]
    pub output: PathBuf,
    /// New images of the known classes, on which the model was not trained: a folder of images, with or without
    /// class folders, or the name of a published data set (see below), of which the test images are used
    #[arg(long, value_name = "DIR|NAME")]
    pub known: PathBuf,
    /// Where published data sets are
    #[command(flatten)]
    pub data: FolderArgs,
    /// Share of new known images that the threshold keeps, 0 to below 1; by default the model's, or 0.95 if its
    /// threshold was set by hand
    #[arg(long, value_name = "SHARE", value_parser = share_to_keep)]
    pub keep: Option<f64>,
    /// cpu (tract), onnxruntime, cuda[:N] or another of `toolkit providers`; there is no fallback
    #[arg(long, default_value = "cpu")]
    pub provider: Provider,
    /// Leave out images that cannot be read
    #[arg(long)]
    pub skip_broken: bool,
    /// Also add the file to this Triton model repository, as the next version of MODEL.onnx
    #[arg(long, value_name = "DIR")]
    pub triton: Option<PathBuf>,
    /// The signature of the model file
    #[command(flatten)]
    pub signature: SignatureArgs,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `toolkit inspect`
#[derive(Args)]
pub struct InspectArgs {
    /// Model file; by default the built-in CIFAR-10 model
    #[arg(value_name = "MODEL.onnx")]
    pub model: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `toolkit verify`
#[derive(Args)]
pub struct VerifyArgs {
    /// Model file
    #[arg(value_name = "MODEL.onnx")]
    pub model: PathBuf,
    /// cpu (tract), onnxruntime, cuda[:N] or another of `toolkit providers`; repeatable
    #[arg(long, default_value = "cpu", value_parser = setting::<Provider>)]
    pub provider: Vec<Provider>,
    /// The signature of the file
    #[command(flatten)]
    pub signature: SignatureArgs,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// The signature that a model file must have.
#[derive(Default, Args)]
pub struct SignatureArgs {
    /// Minisign signature of the model file; a file that does not match is refused
    #[arg(long, value_name = "FILE", requires = "public_key")]
    pub signature: Option<PathBuf>,
    /// The public key of the signature: minisign's file, or the key in base64
    #[arg(long, value_name = "FILE|KEY", requires = "signature")]
    pub public_key: Option<String>,
}

/// `toolkit providers`
#[derive(Args)]
pub struct ProvidersArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Threshold and form of the output.
#[derive(Args)]
pub struct ScorerArgs {
    /// Choose the threshold that keeps this share of new known images, 0 to below 1, from the held-out scores
    /// in the file; by default the threshold in the file
    #[arg(long, value_name = "SHARE", value_parser = share_to_keep)]
    pub keep: Option<f64>,
    /// Threshold on the score; by default that of the file
    #[arg(long, value_name = "X", value_parser = finite::<f64>, conflicts_with = "keep")]
    pub threshold: Option<f64>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Parses the share that a threshold keeps.
fn share_to_keep(text: &str) -> Result<f64, String> {
    // -0 becomes 0.
    let share = text.parse::<f64>().ok().filter(|share| (0.0..1.0).contains(share)).map(f64::abs);
    share.ok_or_else(|| "expected a share from 0 to below 1".to_owned())
}

/// Parses a threshold.
fn finite<T: FromStr + Copy + Into<f64>>(text: &str) -> Result<T, String> {
    let number = text.parse::<T>().ok().filter(|&number| number.into().is_finite());
    number.ok_or_else(|| "expected a finite number".to_owned())
}

/// Parses a number of things, of which there must be one.
fn positive(text: &str) -> Result<NonZeroUsize, String> {
    text.parse().map_err(|_| "expected a whole number from 1 up".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
