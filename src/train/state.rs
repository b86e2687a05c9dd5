//! What a run needs to go on exactly where it stopped, in one file that is there whole or not at all.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Settings, log::Lengths};
use crate::{
    atomic,
    error::{Error, Result},
    report::Report,
    weights::Weights,
};

/// So many are kept: should the last be damaged, there is the one before.
const KEPT: usize = 2;

/// Where a run stands besides its tensors: those of the network and of the optimiser. The data order and all
/// random numbers follow from the seed, the epoch and the step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct State {
    /// What the run was asked to do.
    pub settings: Settings,
    /// The checksum of what it learns from.
    pub data: String,
    /// The epoch to go on with, from 1.
    pub epoch: usize,
    /// Steps of it that are done.
    pub step: usize,
    /// The moving average of the loss.
    pub smoothed_loss: Option<f64>,
    /// The lowest loss on held-out pictures, where there are any, and the report of its epoch.
    pub best: Option<(Option<f64>, Report)>,
    /// The length of the log.
    pub log: Lengths,
}

impl State {
    /// Writes the state with its tensors, and removes all but the last of the earlier ones.
    pub fn save(&self, mut weights: Weights, run: &Path) -> Result<()> {
        weights.note = Some(serde_json::to_string(self).expect("a state is plain data"));
        weights.write(&run.join(format!("state-{:06}-{:08}.safetensors", self.epoch, self.step)))?;
        remove_all_but(KEPT, run)
    }

    /// The newest state of a run that can be read, with its tensors.
    ///
    /// # Errors
    /// [`Error::Io`] where the folder cannot be read, [`Error::Setting`] where it holds no state, and the fault
    /// of the newest where none can be read.
    pub fn open(run: &Path) -> Result<(Self, Weights)> {
        let mut fault = None;
        for path in saved(run)?.into_iter().rev() {
            match Self::read(&path) {
                Ok(state) => return Ok(state),
                Err(error) => fault = fault.or(Some(error)),
            }
        }
        Err(fault.unwrap_or_else(|| none_saved(run)))
    }

    fn read(path: &Path) -> Result<(Self, Weights)> {
        let weights = Weights::read(path)?;
        let state = weights.note.as_deref().map(serde_json::from_str::<Self>);
        match state {
            Some(Ok(state)) => Ok((state, weights)),
            Some(Err(error)) => Err(weights.error(format!("its state is damaged: {error}"))),
            None => Err(weights.error("it is no state of a run".to_owned())),
        }
    }
}

/// The fault of a folder that holds no state.
pub(super) fn none_saved(run: &Path) -> Error {
    let reason = "must be the folder of a run that has saved its state";
    Error::setting("resume", format!("`{}`", run.display()), reason)
}

/// Removes all states but so many of the newest.
pub(super) fn remove_all_but(count: usize, run: &Path) -> Result<()> {
    for outdated in saved(run)?.into_iter().rev().skip(count) {
        std::fs::remove_file(&outdated).map_err(Error::io("remove", &outdated))?;
    }
    Ok(())
}

/// Removes what writes that were killed have left.
pub(super) fn remove_unfinished(run: &Path) -> Result<()> {
    for path in files(run, |name| name.starts_with(atomic::UNFINISHED))? {
        std::fs::remove_file(&path).map_err(Error::io("remove", &path))?;
    }
    Ok(())
}

/// The states in a run's folder, the newest last.
pub(super) fn saved(run: &Path) -> Result<Vec<PathBuf>> {
    files(run, |name| name.starts_with("state-") && name.ends_with(".safetensors"))
}

/// The files in a folder with such a name, in the order of their names.
fn files(folder: &Path, is_meant: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).map_err(Error::io("read", folder))?;
    let is_meant = |path: &PathBuf| is_meant(&path.file_name().unwrap_or_default().to_string_lossy());
    let mut paths: Vec<PathBuf> =
        entries.filter_map(|entry| Some(entry.ok()?.path())).filter(is_meant).collect();
    paths.sort_unstable();
    Ok(paths)
}
