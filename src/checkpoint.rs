//! What training leaves in a run folder, and export reads: a network's weights with its manifest.

use std::path::{Path, PathBuf};

use crate::{error::Result, manifest::Manifest, weights::Weights};

/// The anchors that a trained network is to be tested with, `[C, C]`.
pub const ANCHORS: &str = "anchors";
/// Logits of held-out known pictures, `[M, C]`, from which the threshold is chosen.
pub const HELD_OUT_LOGITS: &str = "held_out.logits";
/// A few pictures as the network takes them, `[N, 3, H, W]`, values 0..=1, for the self-check of an export.
pub const CHECK_IMAGES: &str = "check.images";
/// What the trained network computes for them, `[N, C]`.
pub const CHECK_LOGITS: &str = "check.logits";

/// Logits of the known test pictures, `[M, C]`, from which export computes the table for its own score and
/// threshold.
pub const TEST_KNOWN_LOGITS: &str = "test.known.logits";
/// Their labels, `[M]`.
pub const TEST_KNOWN_LABELS: &str = "test.known.labels";

/// The tensor with the logits of an unknown test set.
#[must_use]
pub fn test_unknown_logits(name: &str) -> String {
    format!("test.unknown.{name}.logits")
}

/// A trained network with its manifest.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// What is known about the network.
    pub manifest: Manifest,
    /// Its tensors, the anchors, the held-out logits and the check batch.
    pub weights: Weights,
}

/// Which of a run's two checkpoints is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// Of the best epoch: `weights.safetensors` and `manifest.json`.
    Best,
    /// Of the last epoch, or of the moment of an interruption: `weights-last.safetensors` and
    /// `manifest-last.json`.
    Last,
}

impl Checkpoint {
    /// Opens one of a run's checkpoints.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::FormatVersion`], [`Error::Model`] and [`Error::Weights`].
    ///
    /// [`Error::Io`]: crate::Error::Io
    /// [`Error::FormatVersion`]: crate::Error::FormatVersion
    /// [`Error::Model`]: crate::Error::Model
    /// [`Error::Weights`]: crate::Error::Weights
    pub fn open(run: &Path, which: Which) -> Result<Self> {
        Ok(Self {
            manifest: Manifest::read(&which.manifest(run))?,
            weights: Weights::read(&which.weights(run))?,
        })
    }

    /// Writes both files, each atomically.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io).
    pub fn write(&self, run: &Path, which: Which) -> Result<()> {
        self.weights.write(&which.weights(run))?;
        self.manifest.write(&which.manifest(run))
    }
}

impl Which {
    /// The manifest's file in a run folder, there from the first time that the checkpoint is written.
    #[must_use]
    pub fn manifest(self, run: &Path) -> PathBuf {
        run.join(format!("manifest{}.json", self.suffix()))
    }

    fn weights(self, run: &Path) -> PathBuf {
        run.join(format!("weights{}.safetensors", self.suffix()))
    }

    fn suffix(self) -> &'static str {
        match self {
            Self::Best => "",
            Self::Last => "-last",
        }
    }
}
