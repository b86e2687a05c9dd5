//! Every way in which the library can fail, by cause and with the values at fault.

use std::{io, path::Path, path::PathBuf};

/// What the library's fallible functions return.
pub type Result<T> = std::result::Result<T, Error>;

/// Every way in which the library can fail.
///
/// Messages are lowercase fragments that fit behind `error: `; [`Error::hint`] says what may help.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused to read or write a path.
    #[error("cannot {action} `{}`: {source}", path.display())]
    Io {
        /// What was tried, as a verb: `read`, `write`, ...
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A file that should hold a picture does not.
    #[error("`{}` is not a picture that can be read: {reason}", path.display())]
    Picture {
        /// The file.
        path: PathBuf,
        /// What the decoder met.
        reason: String,
    },
    /// A folder does not hold a data set in a known layout, or holds a broken one.
    #[error("`{}` is not a usable data set: {reason}", path.display())]
    Dataset {
        /// The file or folder at fault.
        path: PathBuf,
        /// What is missing or wrong.
        reason: String,
    },
    /// A weights file is malformed or does not fit the network.
    #[error("`{}` does not hold usable weights: {reason}", path.display())]
    Weights {
        /// The safetensors or PyTorch file.
        path: PathBuf,
        /// Which tensor is missing or wrong, and how.
        reason: String,
    },
    /// A file cannot be fetched, or is not the one that was recorded.
    #[error("cannot fetch `{url}`: {reason}")]
    Download {
        /// Where it should come from.
        url: String,
        /// Where it is to lie.
        path: PathBuf,
        /// What happened.
        reason: String,
    },
    /// A file is not an ONNX model of this toolkit, or is damaged.
    #[error("`{origin}` is not a usable model: {reason}")]
    Model {
        /// The path, or `memory` for bytes.
        origin: String,
        /// What is missing or wrong.
        reason: String,
    },
    /// A file was written by a newer version of this toolkit.
    #[error("`{origin}` has format version {found}, and this version reads up to {supported}")]
    FormatVersion {
        /// The file.
        origin: String,
        /// The version that the file states.
        found: u32,
        /// The newest version that is understood.
        supported: u32,
    },
    /// A setting is outside its range or does not fit another one.
    #[error("{name} = {value}: {reason}")]
    Setting {
        /// The setting's name.
        name: &'static str,
        /// The value given.
        value: String,
        /// What would be accepted.
        reason: String,
    },
    /// An array does not have the shape that a function needs.
    #[error("{what} has shape {found:?}, expected {expected}")]
    Shape {
        /// The array.
        what: &'static str,
        /// Its shape.
        found: Vec<usize>,
        /// The shape needed, such as `[N, 3, 32, 32]`.
        expected: String,
    },
    /// A file of scores is malformed or lacks a column.
    #[error("`{}` does not hold usable scores: {reason}", path.display())]
    ScoreFile {
        /// The CSV or NPZ file.
        path: PathBuf,
        /// What is missing or wrong, and where.
        reason: String,
    },
    /// Scores from which no metric can be computed.
    #[error("no metrics for these scores: {0}")]
    Scores(String),
    /// A written model does not compute what the trained network computes.
    #[error(
        "self-check failed: {what} differs by {difference:e}, allowed {tolerance:e}; nothing was written"
    )]
    SelfCheck {
        /// The output that differs.
        what: &'static str,
        /// The greatest difference found.
        difference: f64,
        /// The greatest difference allowed.
        tolerance: f64,
    },
    /// The runtime or device that was asked for cannot be used here.
    #[error("provider `{provider}` is not available: {reason}")]
    Provider {
        /// The provider asked for.
        provider: String,
        /// Why it cannot be used.
        reason: String,
    },
    /// A runtime failed while it ran a model.
    #[error("{runtime} failed: {reason}")]
    Runtime {
        /// The runtime: `tract`, `ONNX Runtime` or `libtorch`.
        runtime: &'static str,
        /// What it reported.
        reason: String,
    },
    /// The loss stopped being a number.
    #[error("training diverged: the loss is {loss} at step {step} of epoch {epoch}")]
    Diverged {
        /// The epoch, from 1.
        epoch: usize,
        /// The step within the epoch, from 1.
        step: usize,
        /// The value of the loss.
        loss: f64,
    },
}

impl Error {
    /// What a user may do about it, where there is something to say.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Download { path, .. } => {
                let path = path.display();
                return Some(format!(
                    "another try goes on from what has come; where there is no network, put the file at `{path}`"
                ));
            }
            Self::Provider { provider, .. } if provider.starts_with("cuda") => {
                "`make native CUDA=1` gets the CUDA libraries; the machine needs an NVIDIA driver; `cpu` works \
                 everywhere"
            }
            Self::Provider { provider, .. } if provider == "onnxruntime" => {
                "`make native` gets the library, or set ORT_DYLIB_PATH to yours; `cpu` needs none"
            }
            Self::Provider { .. } => {
                "it needs an ONNX Runtime built with it: name the library in ORT_DYLIB_PATH; `toolkit providers` says \
                 what is there"
            }
            Self::Model { origin, .. } if !origin.ends_with(".json") => {
                "`toolkit export` writes such a model from a training run"
            }
            Self::ScoreFile { .. } => {
                "needed are `score` (larger = more likely unknown) and `label` (negative = unknown), as columns \
                 of a CSV file or arrays of an NPZ file; `prediction` gives accuracy and OSCR"
            }
            Self::FormatVersion { .. } => "update the toolkit",
            Self::Dataset { .. } => {
                "a data set is CIFAR-10's binary folder (data_batch_*.bin, test_batch.bin) or folders of \
                 pictures: CLASS/*.png, or train/CLASS/*.png and test/CLASS/*.png"
            }
            Self::Diverged { .. } => "a lower --learning-rate may help",
            _ => return None,
        };
        Some(hint.to_owned())
    }

    /// A setting that cannot be, as the user wrote it, and what could.
    pub(crate) fn setting(name: &'static str, value: impl ToString, reason: impl Into<String>) -> Self {
        Self::Setting { name, value: value.to_string(), reason: reason.into() }
    }

    /// Wraps an operating system error with what was tried on which path.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}
