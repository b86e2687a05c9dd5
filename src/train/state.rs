//! The state that a run needs to resume exactly where it stopped, in one file that is written atomically.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{TrainSettings, log::Lengths, record::Lineage};
use crate::{
    error::{Error, Result},
    run::RunFolder,
    text::shown,
    weights::Weights,
};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The state of a run besides the tensors of the network and the optimizer. The data order and all random
/// numbers follow from the seed, the epoch and the step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct State {
    /// The version of the toolkit that began the run: another may draw other images from the same seed.
    pub version: String,
    /// The settings of the run.
    pub settings: TrainSettings,
    /// The checksum of the training data.
    pub data: String,
    /// The checksum of the test sets.
    pub test_sets: String,
    /// The epoch to resume in, from 1.
    pub epoch: usize,
    /// Finished steps of this epoch.
    pub step: usize,
    /// The moving average of the loss.
    pub smoothed_loss: Option<f64>,
    /// The lengths of the log files.
    pub log: Lengths,
    /// What the backbone was trained on.
    #[serde(flatten)]
    pub lineage: Lineage,
}

impl State {
    /// The state of a new run.
    pub fn new(settings: TrainSettings, data: String, test_sets: String) -> Self {
        let (version, log) = (VERSION.to_owned(), Lengths::default());
        let (epoch, step, smoothed_loss) = (1, 0, None);
        let lineage = Lineage::default();
        Self { version, settings, data, test_sets, epoch, step, smoothed_loss, log, lineage }
    }

    /// Writes the state with its tensors; the file has a checksum of both.
    pub fn save(&self, mut tensors: Weights, run: &RunFolder) -> Result<()> {
        tensors.note = Some(serde_json::to_string(self).expect("a state is plain data"));
        tensors.write(&self.path(run))
    }

    /// Its file in a run folder.
    pub fn path(&self, run: &RunFolder) -> PathBuf {
        run.state(self.epoch, self.step)
    }

    /// Reads the newest state that is intact and of this run, with its tensors. If that is not the newest of all,
    /// the error of the newest comes with it.
    ///
    /// # Errors
    /// [`Error::Io`] if the folder or a state cannot be read, [`Error::NoState`] if it holds no state, and
    /// the error of the newest state if none can be used.
    pub fn open(run: &RunFolder) -> Result<(Self, Weights, Option<Error>)> {
        let (settings, mut fault) = (resolved(run)?, None);
        for path in run.states()?.into_iter().rev() {
            match Self::read(&path, run, settings.as_ref()) {
                Ok((state, tensors)) => return Ok((state, tensors, fault)),
                // A state that cannot be read now may be intact.
                Err(error @ Error::Io { .. }) => return Err(error),
                Err(error) => fault = fault.or(Some(error)),
            }
        }
        Err(fault.unwrap_or_else(|| Error::NoState { path: run.path().to_owned() }))
    }

    /// Reads a state of a run with these [settings](resolved).
    fn read(
        path: &Path,
        run: &RunFolder,
        settings: Option<&serde_json::Result<TrainSettings>>,
    ) -> Result<(Self, Weights)> {
        let (tensors, is_sealed) = Weights::read_sealed(path)?;
        let broken = |reason: String| Error::Checkpoint { path: path.to_owned(), reason };
        if let Some((name, value)) = tensors.not_finite() {
            return Err(broken(format!("its tensor `{name}` holds {value}")));
        }
        let note =
            tensors.note.as_deref().ok_or_else(|| broken("it is not the state of a run".to_owned()))?;
        let damaged = |error: serde_json::Error| broken(format!("its state is damaged: {error}"));
        let state: serde_json::Value = serde_json::from_str(note).map_err(damaged)?;
        match state["version"].as_str() {
            Some(VERSION) => {}
            Some(other) => return Err(broken(format!("version {other} wrote it, and this is {VERSION}"))),
            None => return Err(broken("another version of the toolkit wrote it".to_owned())),
        }
        if !is_sealed {
            return Err(broken("it is damaged: it has no checksum".to_owned()));
        }
        let state: Self = serde_json::from_value(state).map_err(damaged)?;
        if state.path(run) != path {
            return Err(broken(format!("it is a state of epoch {}, step {}", state.epoch, state.step)));
        }
        // The settings and the data determine a run, so a state with other settings belongs to another run.
        let file = run.resolved();
        match settings {
            Some(Ok(settings)) if *settings != state.settings => {
                Err(broken(format!("it has other settings than `{}`", shown(&file))))
            }
            Some(Err(error)) => Err(broken(format!("`{}` cannot be read: {error}", shown(&file)))),
            Some(Ok(_)) | None => Ok((state, tensors)),
        }
    }
}

/// The settings in a run folder, if the file is there.
fn resolved(run: &RunFolder) -> Result<Option<serde_json::Result<TrainSettings>>> {
    let path = run.resolved();
    match std::fs::read(&path) {
        Ok(settings) => Ok(Some(serde_json::from_slice(&settings))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("read", &path)(error)),
    }
}

#[cfg(test)]
#[path = "../../tests/mutations/mutate.rs"]
mod mutate;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::FAMILIES;

    #[test]
    fn only_intact_states_of_the_run_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunFolder::new(folder.path());
        let settings = TrainSettings {
            unknown: vec!["others=birds".parse().unwrap()],
            ..TrainSettings::new("animals", FAMILIES[0].default_member())
        };
        let state =
            State { smoothed_loss: Some(0.5), ..State::new(settings, "0".repeat(64), "1".repeat(64)) };
        let mut tensors = Weights::new(folder.path());
        tensors.insert("fc.bias", &[10], vec![0.0; 10]);
        state.save(tensors, &run).unwrap();
        let path = run.state(1, 0);
        assert_eq!(State::open(&run).unwrap().0, state);

        // Another version may draw other images.
        let other = State { version: "0.1.9".to_owned(), ..state.clone() };
        other.save(Weights::new(folder.path()), &run).unwrap();
        let error = State::open(&run).unwrap_err().to_string();
        assert!(error.contains("version 0.1.9 wrote it, and this is "), "{error}");
        let mut tensors = Weights::new(folder.path());
        tensors.insert("fc.bias", &[10], vec![0.0; 10]);
        state.save(tensors, &run).unwrap();

        // A copy by another name may be of another run.
        let later = run.state(2, 5);
        std::fs::copy(&path, &later).unwrap();
        let (opened, _, fault) = State::open(&run).unwrap();
        assert_eq!(opened, state);
        assert!(fault.is_some_and(|fault| fault.to_string().contains("it is a state of epoch 1, step 0")));

        // So may a state with other settings.
        std::fs::write(run.resolved(), serde_json::to_vec(&state.settings).unwrap()).unwrap();
        let mut other = State { epoch: 2, step: 5, ..state.clone() };
        other.settings.recipe.seed += 1;
        other.save(Weights::new(folder.path()), &run).unwrap();
        assert_eq!(State::open(&run).unwrap().0, state);
        std::fs::write(run.resolved(), serde_json::to_vec(&other.settings).unwrap()).unwrap();
        std::fs::remove_file(&later).unwrap();
        let error = State::open(&run).unwrap_err().to_string();
        assert!(error.contains("it has other settings than `") && error.contains("resolved.json"), "{error}");
        std::fs::remove_file(run.resolved()).unwrap();

        // A tensor that is not finite is damage, as no run saves one.
        let mut tensors = Weights::new(folder.path());
        tensors.insert("fc.bias", &[2], vec![0.0, f32::NAN]);
        State { epoch: 2, step: 5, ..state.clone() }.save(tensors, &run).unwrap();
        assert_eq!(State::open(&run).unwrap().0, state);
        std::fs::remove_file(&later).unwrap();

        let corpus = [std::fs::read(&path).unwrap()];
        let (_, tensors, fault) = State::open(&run).unwrap();
        assert!(fault.is_none());
        for number in 0..2_000 {
            std::fs::write(&path, mutate::mutated(&corpus, 0, number)).unwrap();
            // White space in the header changes nothing.
            if let Ok((opened, read, _)) = State::open(&run) {
                assert_eq!((opened, read), (state.clone(), tensors.clone()), "mutation {number}");
            }
        }

        // A changed value is damage.
        let mut changed = corpus[0].clone();
        *changed.last_mut().unwrap() ^= 1;
        std::fs::write(&path, changed).unwrap();
        let error = State::open(&run).unwrap_err().to_string();
        assert!(error.contains("it is damaged: its checksum does not match"), "{error}");
    }
}
