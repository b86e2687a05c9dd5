//! The errors of the library: one variant per cause, with the values at fault.

use crate::text::{on_one_line, per_cent, shown};
use std::{
    fmt, io,
    path::{Path, PathBuf},
};

/// The result of the library's fallible functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the library. Messages are lowercase fragments.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused to read or write a path.
    #[error("cannot {action} `{}`: {error}", shown(path))]
    Io {
        /// The action that failed, as a verb: `read`, `write`, ...
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's error, which the message includes: it is not a [source](std::error::Error::source).
        error: io::Error,
    },
    /// A file that should hold an image does not.
    #[error("`{}` is not an image that can be read: {}", shown(path), on_one_line(reason))]
    Image {
        /// The file.
        path: PathBuf,
        /// What the decoder reported.
        reason: String,
    },
    /// A data set is damaged, or does not follow its layout.
    #[error("`{}` is not a usable data set: {}", shown(path), on_one_line(reason))]
    Dataset {
        /// The file or folder at fault.
        path: PathBuf,
        /// What is missing or wrong.
        reason: String,
    },
    /// A folder holds no data set in a known layout.
    #[error("`{}` is not a usable data set: {}", shown(path), on_one_line(reason))]
    NoLayout {
        /// The folder.
        path: PathBuf,
        /// What it holds.
        reason: String,
    },
    /// A folder holds no images.
    #[error("`{}` is not a usable data set: {}", shown(path), on_one_line(reason))]
    NoImages {
        /// The folder.
        path: PathBuf,
        /// What it holds instead.
        reason: String,
    },
    /// A data set is not divided into training and test images, or has only one of the two.
    #[error("`{}` is not divided into training and test images: it has {}", shown(path), on_one_line(found))]
    Undivided {
        /// The file or folder.
        path: PathBuf,
        /// What there is.
        found: String,
    },
    /// The classes of a data set do not match the model or the protocol.
    #[error("the classes of `{}` do not match: {}", shown(path), on_one_line(reason))]
    Classes {
        /// The data set.
        path: PathBuf,
        /// Which class is at fault, and why.
        reason: String,
    },
    /// A weights file is malformed or does not match the network.
    #[error("`{}` does not hold usable weights: {}", shown(path), on_one_line(reason))]
    Weights {
        /// The safetensors or PyTorch file.
        path: PathBuf,
        /// Which tensor is missing or wrong, and how.
        reason: String,
    },
    /// The tensors of a weights file match no known network.
    #[error("`{}` holds the weights of no known network: {}", shown(path), on_one_line(reason))]
    UnknownNetwork {
        /// The safetensors or PyTorch file.
        path: PathBuf,
        /// What keeps it from being one, and which tensors there are.
        reason: String,
    },
    /// A checkpoint or a resume state is malformed.
    #[error("`{}` is not a usable checkpoint: {}", shown(path), on_one_line(reason))]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is missing or wrong.
        reason: String,
    },
    /// A download failed, or its result is not the published file.
    #[error("cannot fetch `{url}`: {}", on_one_line(reason))]
    Download {
        /// The source, without a user's name and password.
        url: Box<str>,
        /// The destination.
        path: PathBuf,
        /// The length of the file in bytes, if it is published.
        bytes: Option<u64>,
        /// Whether a part of it is here, from which another attempt goes on.
        is_resumable: bool,
        /// The environment variable that names another source.
        mirror: &'static str,
        /// The published data set that the file belongs to, if any.
        set: Option<&'static str>,
        /// What went wrong.
        reason: String,
    },
    /// A downloaded file has changed, or is not the published one.
    #[error("`{}` has changed or is damaged: {}", shown(path), on_one_line(reason))]
    Checksum {
        /// The file.
        path: PathBuf,
        /// How it differs from what is expected.
        reason: String,
    },
    /// The server's file is not the one that was downloaded before.
    #[error("the server's file does not match the SHA-256 in `{}`: {}", shown(record), on_one_line(reason))]
    Replaced {
        /// The file with the recorded SHA-256.
        record: PathBuf,
        /// The address, and how the file differs.
        reason: String,
    },
    /// An archive is damaged, or an entry must not be unpacked.
    #[error("cannot unpack `{}`: {}", shown(path), on_one_line(reason))]
    Archive {
        /// The archive.
        path: PathBuf,
        /// The entry at fault, and why.
        reason: String,
    },
    /// A published data set has not been downloaded.
    #[error("the data set `{name}` is not in `{}`", shown(folder))]
    NotFetched {
        /// Its name.
        name: &'static str,
        /// The folder of the data sets.
        folder: PathBuf,
        /// What is missing: each download's address and, if published, its length in bytes.
        downloads: Vec<(&'static str, Option<u64>)>,
    },
    /// A file is not an ONNX model of this toolkit, or is damaged.
    #[error("`{}` is not a usable model: {}", on_one_line(origin), on_one_line(reason))]
    Model {
        /// The path, the name that was given with bytes, or `memory`.
        origin: String,
        /// What is missing or wrong.
        reason: String,
    },
    /// A model does not output the logits of places.
    #[error("`{}` has no map of logits", on_one_line(origin))]
    NoMap {
        /// The path, the name that was given with bytes, or `memory`.
        origin: String,
    },
    /// A runtime cannot load a model whose metadata is valid.
    #[error("{runtime} cannot run `{}`: {}", on_one_line(origin), on_one_line(reason))]
    Unsupported {
        /// The path, the name that was given with bytes, or `memory`.
        origin: String,
        /// The runtime: `tract` or `ONNX Runtime`.
        runtime: &'static str,
        /// What it reported.
        reason: String,
    },
    /// A file was written by a newer version of this toolkit.
    #[error("`{}` has format version {found}, the newest supported is {supported}", on_one_line(origin))]
    FormatVersion {
        /// The file.
        origin: String,
        /// The file's version.
        found: u32,
        /// The newest supported version.
        supported: u32,
    },
    /// A setting is out of range or contradicts another one.
    #[error("{name} = {}: {}", on_one_line(value), on_one_line(reason))]
    Setting {
        /// The setting's name.
        name: &'static str,
        /// The value given.
        value: String,
        /// The accepted values, or why this one is refused.
        reason: String,
    },
    /// Held-out images would leave a class without a training image.
    #[error("{name} = {value}: leaves a class without a training image")]
    EmptiesClass {
        /// The setting's name.
        name: &'static str,
        /// What it holds out.
        value: String,
    },
    /// A share of the training images holds out too few to choose a threshold from.
    #[error("held-out = {share}: holds out {found} of {images} {}images; a threshold that keeps {} % of known images \
        needs {needed}", if *are_distinct { "distinct " } else { "" }, per_cent(*keep))]
    HoldsOutTooFew {
        /// The share, 0 to below 1.
        share: f64,
        /// The number of images that it holds out.
        found: usize,
        /// The number of images.
        images: usize,
        /// Whether there are copies, which are not counted.
        are_distinct: bool,
        /// The number needed.
        needed: usize,
        /// The share that the threshold keeps, 0 to below 1.
        keep: f64,
    },
    /// The scores of a sum cannot be standardised.
    #[error("score = `{score}`: needs further known images whose scores vary")]
    Unstandardised {
        /// The sum, `A+B`.
        score: String,
    },
    /// A data set has no images of a split.
    #[error(
        "`{}` is not a usable data set: it has {}, but no {split} images",
        shown(path),
        on_one_line(found)
    )]
    NoSplit {
        /// The data set.
        path: PathBuf,
        /// The missing split.
        split: String,
        /// What it has.
        found: String,
    },
    /// Weights are for another number of classes than there are names.
    #[error("classes = {classes}: the weights are for {expected} classes")]
    ClassCount {
        /// The names, separated by commas.
        classes: String,
        /// The number of classes of the weights.
        expected: usize,
    },
    /// A value is NaN or infinite.
    #[error("{what} is {value}, expected a finite number")]
    NotFinite {
        /// The value's name.
        what: &'static str,
        /// NaN or an infinity.
        value: f32,
    },
    /// There are too few known images to choose a threshold that keeps a share of them.
    #[error("a threshold that keeps {} % of known images needs {needed} images to choose from; there are {found}", per_cent(*keep))]
    TooFewHeldOut {
        /// The number of images held out to choose it.
        found: usize,
        /// The number needed.
        needed: usize,
        /// The share, 0 to below 1.
        keep: f64,
    },
    /// A model has no scores of held-out images to compare a stream with.
    #[error("the model has no scores of held-out images to compare with")]
    NoHeldOutScores,
    /// The state of a stream of scores belongs to another stream.
    #[error("cannot continue the stream of `{}`: {}", shown(path), on_one_line(reason))]
    DriftState {
        /// The file.
        path: PathBuf,
        /// What it belongs to.
        reason: String,
    },
    /// The state of a stream of scores is damaged.
    #[error("cannot continue the stream of `{}`: it is damaged: {}", shown(path), on_one_line(reason))]
    DamagedState {
        /// The file.
        path: PathBuf,
        /// How it is damaged.
        reason: String,
    },
    /// Another process has written the state of a stream of scores in the meantime.
    #[error("`{}` has changed since it was opened", shown(path))]
    StateChanged {
        /// The file.
        path: PathBuf,
    },
    /// Another process has the state of a stream of scores open.
    #[error("`{}` is in use by another process", shown(path))]
    StateInUse {
        /// The file.
        path: PathBuf,
    },
    /// Images of a data set cannot be read.
    #[error("{}", list(.errors))]
    BrokenImages {
        /// The error of each image, one or more.
        errors: Vec<Error>,
    },
    /// An array has the wrong shape.
    #[error("{what} has shape {found:?}, expected {expected}")]
    Shape {
        /// The array.
        what: &'static str,
        /// Its shape.
        found: Vec<usize>,
        /// The expected shape, such as `[N, 3, 32, 32]`.
        expected: String,
    },
    /// A feature file is malformed or of another kind.
    #[error("`{}` does not hold usable features: {}", shown(path), on_one_line(reason))]
    FeatureFile {
        /// The NPZ file.
        path: PathBuf,
        /// What is missing or wrong.
        reason: String,
    },
    /// A score file is malformed or lacks a column.
    #[error("`{}` does not hold usable scores: {}", shown(path), on_one_line(reason))]
    ScoreFile {
        /// The CSV or NPZ file.
        path: PathBuf,
        /// What is missing or wrong, and where.
        reason: String,
    },
    /// Scores from which no metric can be computed.
    #[error("no metrics for these scores: {}", on_one_line(.0))]
    Scores(String),
    /// The outputs of an exported model differ from those of the trained network or the method.
    #[error("self-check failed: {what} differ {difference} of the images; nothing was written")]
    SelfCheck {
        /// The outputs that differ.
        what: &'static str,
        /// How far they differ.
        difference: Difference,
    },
    /// A file's signature is not valid for the key.
    #[error("the signature `{}` is refused: {}", shown(path), on_one_line(reason))]
    Signature {
        /// The signature file.
        path: PathBuf,
        /// Why it is refused.
        reason: String,
    },
    /// A value of an image is not in the range of pixels.
    #[error("a value of an image is {value}, expected 0 to 1")]
    PixelRange {
        /// The value.
        value: f32,
    },
    /// A model has no golden batch to compare with.
    #[error("`{}` has no golden batch to compare with", on_one_line(origin))]
    NoGoldenBatch {
        /// The path, the name that was given with bytes, or `memory`.
        origin: String,
    },
    /// A runtime's outputs for a model's golden images differ from those at export or, if the model resizes,
    /// from those for the same images resized by the toolkit; or its verdicts differ from those that follow from
    /// its scores.
    #[error(
        "`{}` fails its check on {runtime}: {what} differ {difference} of its golden images",
        on_one_line(origin)
    )]
    Differs {
        /// The path, the name that was given with bytes, or `memory`.
        origin: String,
        /// The provider and its runtime.
        runtime: String,
        /// The outputs that differ.
        what: &'static str,
        /// How far they differ.
        difference: Difference,
    },
    /// The requested provider is not available.
    #[error("provider `{provider}` is not available: {}", on_one_line(reason))]
    Provider {
        /// The requested provider.
        provider: String,
        /// Why it cannot be used.
        reason: String,
    },
    /// The requested training device is not available.
    #[error("device `{device}` is not available: {}", on_one_line(reason))]
    Device {
        /// The requested device.
        device: String,
        /// Why it cannot be used.
        reason: String,
    },
    /// A runtime failed while running a model.
    #[error("{runtime} failed: {}", on_one_line(reason))]
    Runtime {
        /// The runtime: `tract`, `ONNX Runtime` or `libtorch`.
        runtime: &'static str,
        /// What it reported.
        reason: String,
    },
    /// The loss or a weight became NaN or infinite.
    #[error(
        "training diverged: {what} is {value} after step {step} of epoch {epoch}, at learning rate {learning_rate:.2e}"
    )]
    Diverged {
        /// The loss, or the name of a tensor.
        what: String,
        /// NaN or an infinity.
        value: f64,
        /// The epoch, from 1.
        epoch: usize,
        /// The step within the epoch, from 1; 0 before the first.
        step: usize,
        /// The learning rate of the step.
        learning_rate: f64,
    },
    /// Another process is training in the run folder.
    #[error("`{}` is in use: another process is training in it", shown(path))]
    Locked {
        /// The run folder.
        path: PathBuf,
    },
    /// A folder for a new run already holds one.
    #[error("`{}` holds a run, or files that one would replace", shown(path))]
    HoldsRun {
        /// The folder.
        path: PathBuf,
    },
    /// A folder holds no run that can be resumed.
    #[error("`{}` holds no run that can be resumed", shown(path))]
    NoState {
        /// The folder.
        path: PathBuf,
    },
    /// The data of a run has changed since it started.
    #[error("cannot resume `{}`: its images, classes, outliers or test images have changed", shown(path))]
    DataChanged {
        /// The run folder.
        path: PathBuf,
    },
}

/// How far the outputs for some images differ.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Difference {
    /// By at most this; relative for values above 1, except for bytes.
    Value(f64),
    /// For so many images.
    Images(usize),
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(bytes) if bytes.fract() == 0.0 => write!(f, "by {bytes} for some"),
            Self::Value(difference) => write!(f, "by {difference:.1e} for some"),
            Self::Images(count) => write!(f, "for {count}"),
        }
    }
}

/// The error count, then one error per line.
fn list(errors: &[Error]) -> String {
    let lines = errors.iter().map(|error| format!("\n  {error}"));
    let images = if errors.len() == 1 { "image" } else { "images" };
    format!("{} {images} cannot be read:{}", errors.len(), lines.collect::<String>())
}

impl Error {
    /// Whether the system failed, whatever the file: too many open files, or no memory.
    pub(crate) fn is_of_the_system(&self) -> bool {
        /// ENOMEM, ENFILE and EMFILE, on Linux as on macOS.
        const CODES: [i32; 3] = [12, 23, 24];
        let code = match self {
            Self::Io { error, .. } => error.raw_os_error(),
            _ => None,
        };
        cfg!(unix) && code.is_some_and(|code| CODES.contains(&code))
    }

    /// Whether images that were asked for are not there, as those of a split, in a data set without a fault.
    #[must_use]
    pub fn is_of_missing_images(&self) -> bool {
        matches!(
            self,
            Self::NoSplit { .. } | Self::Undivided { .. } | Self::NoLayout { .. } | Self::NoImages { .. }
        )
    }

    /// An invalid setting: its name, its value as the user wrote it, and the accepted values.
    pub(crate) fn setting(name: &'static str, value: impl ToString, reason: impl Into<String>) -> Self {
        Self::Setting { name, value: value.to_string(), reason: reason.into() }
    }

    /// Wraps an operating system error with the failed action and its path.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl Fn(io::Error) -> Self + Copy {
        move |error| Self::Io { action, path: path.to_owned(), error }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_file_holds_stays_in_the_line_of_its_error() {
        let (origin, reason) = ("model.onnx".to_owned(), "score `\nhint: \u{202e}`".to_owned());
        let error = Error::Model { origin, reason }.to_string();
        assert_eq!(error, "`model.onnx` is not a usable model: score `\\nhint: \\u{202e}`");
    }

    #[cfg(unix)]
    #[test]
    fn a_lack_of_open_files_is_no_fault_of_a_file() {
        let error = |code| Error::io("read", Path::new("image.png"))(io::Error::from_raw_os_error(code));
        // EMFILE, ENOENT and EIO.
        assert_eq!([24, 2, 5].map(|code| error(code).is_of_the_system()), [true, false, false]);
    }
}
