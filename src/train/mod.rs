//! Training on libtorch: the settings, events and outcome of a run. The loop is in `session.rs`.
//!
//! `examples/train.rs` is a whole program. Outside of this package, a program finds libtorch by an rpath of its
//! own, or by `LD_LIBRARY_PATH`.

mod augment;
mod batches;
mod degrade;
mod division;
mod dropout;
mod features;
mod fractal;
mod learner;
mod log;
mod loss;
mod network;
mod optimizer;
mod pixmix;
mod record;
mod scramble;
mod session;
mod sets;
mod state;
mod tensorboard;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tch::TchError;

pub use crate::run::Event;
use crate::{
    arch::Architecture,
    data::{DataFolder, KnownData, UnknownSource},
    error::{Error, Result},
    image::{Input, SIZES},
    method::{AnchorKind, LogitScore, Loss, Variant},
    report::Report,
    run::{BatchNorm, Device, Recipe},
    text::shown,
};
pub use batches::{Batch, Batches, Images};
pub use session::{resume, train};

/// The default of [`TrainSettings::memory`]: 768 MiB.
pub const MEMORY: u64 = 768 << 20;

/// The settings of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainSettings {
    /// The data set of the known classes.
    #[serde(flatten)]
    pub known: KnownData,
    /// The folder of the published data sets.
    #[serde(default)]
    pub data: DataFolder,
    /// The unknown test sets.
    pub unknown: Vec<UnknownSource>,
    /// The starting weights; `None` for random ones.
    pub backbone: Option<Backbone>,
    /// The network.
    pub architecture: Architecture,
    /// Image size and normalisation.
    pub input: Input,
    /// The loss.
    pub loss: Loss,
    /// The anchors for testing and export; in training they are always fixed.
    pub anchors: AnchorKind,
    /// The training recipe.
    pub recipe: Recipe,
    /// The training device.
    pub device: Device,
    /// Epochs between tests, at least 1; the last epoch is always tested. The best weights are chosen among
    /// tested epochs.
    pub test_every: usize,
    /// Memory for decoded images, in bytes; images that do not fit are decoded whenever they are needed.
    /// Data sets of arrays are always in memory.
    pub memory: u64,
    /// Whether images that cannot be read are left out; otherwise they are an error.
    #[serde(default)]
    pub skip_broken: bool,
}

/// Starting weights.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backbone {
    /// Their name in a model file.
    pub name: String,
    /// The safetensors or PyTorch file.
    pub file: PathBuf,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// All epochs are done; the metrics of the best epoch, with intervals.
    Finished(Report),
    /// The run was asked to stop while its images were read. The folder is unchanged.
    NotBegun,
    /// All epochs are done, but the run was asked to stop before it had computed the features of the best
    /// one, from which an export chooses the score.
    WithoutFeatures,
    /// The run was asked to stop; its state is saved to resume from, and its current weights as the last
    /// checkpoint, unless it was computing the features of frozen layers.
    Interrupted {
        /// The epoch that was not finished, from 1.
        epoch: usize,
    },
}

/// Wraps libtorch's error, shortened to its first line.
fn torch(error: TchError) -> Error {
    let reason = error.to_string().lines().next().unwrap_or_default().to_owned();
    Error::Runtime { runtime: "libtorch", reason }
}

/// Checks that a device is available.
///
/// # Errors
/// [`Error::Device`] if there is none, [`Error::Setting`] if its number is too large.
pub fn check_device(device: Device) -> Result<()> {
    torch_device(device).map(drop)
}

/// The device of libtorch.
///
/// # Errors
/// [`Error::Device`] if there is none, [`Error::Setting`] if its number is too large.
fn torch_device(device: Device) -> Result<tch::Device> {
    let Device::Cuda(number) = device else { return Ok(tch::Device::Cpu) };
    let unavailable = |reason: String| Err(Error::Device { device: device.to_string(), reason });
    match u32::try_from(tch::Cuda::device_count()).unwrap_or(0) {
        0 if tch::utils::has_cudart() => unavailable("libtorch finds no CUDA device".to_owned()),
        0 => unavailable("this libtorch was built without CUDA".to_owned()),
        count if number < count => Ok(tch::Device::Cuda(number as usize)),
        count => Err(Error::setting("device", device, format!("the last CUDA device is cuda:{}", count - 1))),
    }
}

impl TrainSettings {
    /// The settings of a run on the CPU from random weights, with the defaults of the network and no unknown
    /// test sets. Change fields as needed: with a backbone, for example, also `input` and the recipe, and with a
    /// recipe without outliers the anchors, by [`Loss::anchor_kind`].
    #[must_use]
    pub fn new(known: impl Into<PathBuf>, architecture: Architecture) -> Self {
        let loss = Loss::new(Variant::Paper);
        let recipe = Recipe::of_network(&architecture).unwrap_or_default();
        Self {
            known: KnownData::new(known),
            data: DataFolder::default(),
            unknown: Vec::new(),
            backbone: None,
            input: architecture.default_input(),
            architecture,
            loss,
            anchors: loss.anchor_kind(recipe.has_outliers()),
            recipe,
            device: Device::Cpu,
            test_every: 1,
            memory: MEMORY,
            skip_broken: false,
        }
    }

    /// The rejection score of the tests.
    #[must_use]
    pub fn rejection_score(&self) -> LogitScore {
        self.loss.rejection_score(self.recipe.has_outliers())
    }

    /// Checks the settings and the device, as far as possible without the data.
    ///
    /// # Errors
    /// [`Error::Setting`] for a value out of range, or one that does not fit another; [`Error::Device`] if
    /// the device is not available.
    pub fn check(&self) -> Result<()> {
        torch_device(self.device)?;
        self.recipe.check()?;
        if self.test_every == 0 {
            return Err(Error::setting("test every", 0, "must be at least 1"));
        }
        self.loss.check()?;
        self.input.check(&SIZES)?;
        let Recipe { freeze, backbone_rate, batch_norm, .. } = self.recipe;
        if self.backbone.is_none() {
            let weights = "needs starting weights for the layers that are not trained";
            if freeze {
                return Err(Error::setting("freeze", true, weights));
            }
            if backbone_rate == 0.0 {
                return Err(Error::setting("backbone rate", 0, weights));
            }
            if batch_norm == BatchNorm::Running {
                let reason = "needs starting weights, whose statistics it uses";
                return Err(Error::setting("batch norm", "running", reason));
            }
        }
        let dropout = self.architecture.settings().find(|(name, share)| *name == "dropout" && *share > 0.0);
        if let (true, Some((name, share))) = (freeze, dropout) {
            return Err(Error::setting(name, share, "must be 0 when only the last layer is trained"));
        }
        let backbone = self.backbone.as_ref().map(|backbone| backbone.file.as_path());
        let known = Some(self.known.path.as_path());
        let paths = [known, self.data.given(), self.recipe.outliers.folder(), backbone];
        if let Some(path) = paths.into_iter().flatten().find(|path| path.to_str().is_none()) {
            return Err(Error::setting("path", shown(path), "must be UTF-8, because the run records it"));
        }
        // The number of classes does not affect the check.
        self.architecture.layers(2, self.input.height, self.input.width).map(drop)
    }
}
