//! Run folders and their files.

use std::path::{Path, PathBuf};

use super::{CheckpointKind, Event};
use crate::{
    error::{Error, Result},
    files::atomic,
};

/// Default parent folder of run folders.
pub const RUNS: &str = "runs";

/// Prefix and suffix of the names of resume states.
const STATE: [&str; 2] = ["state-", ".safetensors"];

/// Prefix and suffix of the names of feature files, and the digits of the checksum between them.
const FEATURES: [&str; 2] = ["features-", ".npy"];
#[cfg(feature = "train")]
const FEATURES_DIGITS: usize = 32;

/// The folder of a run. It need not exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunFolder(PathBuf);

impl RunFolder {
    /// The run in this folder.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Creates the folder with the next free number in `runs`. Concurrent calls create different folders.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn create_next(runs: &Path) -> Result<Self> {
        std::fs::create_dir_all(runs).map_err(Error::io("create", runs))?;
        let names =
            entries(runs)?.into_iter().filter_map(|path| path.file_name()?.to_str()?.parse::<u32>().ok());
        let mut number = names.max().map_or(0, u64::from);
        loop {
            number += 1;
            let path = runs.join(number.to_string());
            match std::fs::create_dir(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                made => return made.map(|()| Self(path.clone())).map_err(Error::io("create", &path)),
            }
        }
    }

    /// The run in `runs` whose checkpoint was written last.
    #[must_use]
    pub fn newest(runs: &Path) -> Option<Self> {
        let written = |run: &Self| {
            let checkpoints = CheckpointKind::ALL.map(|which| run.checkpoint(which));
            checkpoints.iter().filter_map(|file| file.metadata().ok()?.modified().ok()).max()
        };
        let all = entries(runs).ok()?.into_iter().map(Self);
        all.filter_map(|run| Some((written(&run)?, run)))
            .max_by_key(|(time, run)| (*time, run.0.clone()))
            .map(|(_, run)| run)
    }

    /// Path of the folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Whether the folder holds a checkpoint or a resume state.
    #[must_use]
    pub fn holds_run(&self) -> bool {
        let has_checkpoint = CheckpointKind::ALL.iter().any(|&which| self.checkpoint(which).exists());
        has_checkpoint || self.states().is_ok_and(|states| !states.is_empty())
    }

    /// Checks that the folder [holds](Self::holds_run) no run, and no file that one would replace, other than
    /// those of a run that was killed before its first epoch.
    ///
    /// # Errors
    /// [`Error::HoldsRun`].
    pub fn check_holds_no_run(&self) -> Result<()> {
        let is_taken = match std::fs::read(self.log()) {
            Ok(log) => !has_no_epoch(&log),
            // A run opens its log before it writes anything else.
            Err(_) => self.settings().exists() || self.resolved().exists(),
        };
        if self.holds_run() || is_taken { Err(Error::HoldsRun { path: self.0.clone() }) } else { Ok(()) }
    }

    /// Whether the folder holds a run of version 0.1, which this version cannot read.
    #[must_use]
    pub fn is_of_version_0_1(&self) -> bool {
        self.0.join("manifest.json").exists()
    }

    /// Path of a checkpoint.
    #[must_use]
    pub fn checkpoint(&self, which: CheckpointKind) -> PathBuf {
        self.0.join(match which {
            CheckpointKind::Best => "checkpoint.safetensors",
            CheckpointKind::Last => "checkpoint-last.safetensors",
        })
    }

    /// Path of the settings as given by the user.
    #[must_use]
    pub fn settings(&self) -> PathBuf {
        self.0.join("settings.toml")
    }

    /// Writes the settings as given by the user.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write_settings(&self, text: &str) -> Result<()> {
        atomic::write(&self.settings(), text.as_bytes())
    }

    /// Path of the resolved settings, with all defaults.
    #[must_use]
    pub fn resolved(&self) -> PathBuf {
        self.0.join("resolved.json")
    }

    /// Path of the log: events as JSON lines.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.0.join("log.jsonl")
    }

    /// Path of the scalars for TensorBoard, which recognises its files by `tfevents` in the name.
    #[must_use]
    pub fn tensorboard(&self) -> PathBuf {
        self.0.join("events.out.tfevents.0.toolkit")
    }

    /// Path of the features of frozen layers, by the checksum of what they depend on.
    #[cfg(feature = "train")]
    pub(crate) fn features(&self, checksum: &str) -> PathBuf {
        let [start, end] = FEATURES;
        self.0.join(format!("{start}{}{end}", &checksum[..FEATURES_DIGITS]))
    }

    /// The files with the same name as one of this folder, in its sibling folders.
    #[cfg(feature = "train")]
    pub(crate) fn beside(&self, file: &Path) -> Vec<PathBuf> {
        let runs = atomic::folder_of(&self.0);
        let mut folders = entries(runs).unwrap_or_default();
        folders.sort_unstable();
        let files = folders.into_iter().filter_map(|folder| Some(folder.join(file.file_name()?)));
        files.filter(|file| file.is_file()).collect()
    }

    /// Path of the state after `step` steps of an epoch.
    #[must_use]
    pub fn state(&self, epoch: usize, step: usize) -> PathBuf {
        let [start, end] = STATE;
        self.0.join(format!("{start}{epoch:06}-{step:08}{end}"))
    }

    /// Whether a file is named like a resume state.
    #[must_use]
    pub fn is_state(file: &Path) -> bool {
        file.file_name().and_then(|name| place_of(name.to_str()?)).is_some()
    }

    /// Paths of the resume states, the newest last.
    ///
    /// # Errors
    /// [`Error::Io`] if the folder cannot be read.
    pub fn states(&self) -> Result<Vec<PathBuf>> {
        let mut states = self.named(|name| place_of(name).is_some())?;
        // Numbers may have more digits than names are padded to.
        states.sort_by_key(|path| path.file_name().and_then(|name| place_of(name.to_str()?)));
        Ok(states)
    }

    /// Paths of all files that a run writes: states and features that exist, and the others whether or not
    /// they exist.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        let mut files = vec![self.settings(), self.resolved(), self.log(), self.tensorboard()];
        files.extend(CheckpointKind::ALL.map(|which| self.checkpoint(which)));
        files.extend(self.states().unwrap_or_default());
        let [start, end] = FEATURES;
        files.extend(self.named(|name| name.starts_with(start) && name.ends_with(end)).unwrap_or_default());
        files
    }

    /// Keeps the state `newest` and the `count - 1` before it, and removes all others. Later ones are of a run
    /// that could not be resumed from them.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn remove_states_but(&self, count: usize, newest: &Path) -> Result<()> {
        let states = self.states()?;
        let end = states.iter().position(|state| state == newest).map_or(states.len(), |place| place + 1);
        let start = end.saturating_sub(count);
        remove(states[..start].iter().chain(&states[end..]))
    }

    /// Paths of the files whose names match, sorted by name.
    fn named(&self, is_meant: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>> {
        let mut paths = entries(&self.0)?;
        paths.retain(|path| {
            path.is_file() && is_meant(&path.file_name().unwrap_or_default().to_string_lossy())
        });
        paths.sort_unstable();
        Ok(paths)
    }
}

/// Epoch and step in the name of a state.
fn place_of(name: &str) -> Option<(u64, u64)> {
    let (epoch, step) = name.strip_prefix(STATE[0])?.strip_suffix(STATE[1])?.split_once('-')?;
    Some((epoch.parse().ok()?, step.parse().ok()?))
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).map_err(Error::io("read", folder))?;
    Ok(entries.filter_map(|entry| Some(entry.ok()?.path())).collect())
}

fn remove<'a>(files: impl IntoIterator<Item = &'a PathBuf>) -> Result<()> {
    files.into_iter().try_for_each(|file| std::fs::remove_file(file).map_err(Error::io("remove", file)))
}

/// Whether a log is that of a run without a finished epoch: events alone, the last one perhaps without its end.
fn has_no_epoch(log: &[u8]) -> bool {
    let whole = log.iter().rposition(|&byte| byte == b'\n').map_or(0, |last| last + 1);
    let mut lines = log[..whole].split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    let is_event =
        |start: &[u8]| start.iter().zip(br#"{"event":"#).all(|(found, expected)| found == expected);
    is_event(&log[whole..])
        && lines
            .all(|line| serde_json::from_slice(line).is_ok_and(|event| !matches!(event, Event::Epoch { .. })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_run_has_the_latest_checkpoint() {
        let folder = tempfile::tempdir().unwrap();
        let runs = folder.path().join("runs");
        assert_eq!(RunFolder::newest(&runs), None);
        let [first, second] = [1, 2].map(|number| {
            let run = RunFolder::create_next(&runs).unwrap();
            assert_eq!(run.path(), runs.join(number.to_string()));
            assert!(!run.holds_run());
            run
        });
        assert_eq!(RunFolder::newest(&runs), None, "no checkpoint yet");
        let write_at = |seconds: u64, file: PathBuf| {
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
            std::fs::File::create(file).unwrap().set_modified(time).unwrap();
        };
        write_at(1000, second.checkpoint(CheckpointKind::Last));
        assert_eq!(RunFolder::newest(&runs).as_ref(), Some(&second));
        write_at(2000, first.checkpoint(CheckpointKind::Best));
        assert_eq!(RunFolder::newest(&runs).as_ref(), Some(&first));
        assert!(first.holds_run() && second.holds_run());
    }

    #[test]
    fn files_of_others_are_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunFolder::new(folder.path());
        assert!(run.check_holds_no_run().is_ok());
        let step =
            r#"{"event":"step","epoch":1,"step":5,"loss":0.5,"learning_rate":0.1,"images_per_second":9.0}"#;
        for (log, is_free) in [
            (String::new(), true),
            (format!("{step}\n{step}\n"), true),
            (format!("{step}\n{}", &step[..20]), true),
            (format!("{step}\n{{\"ev"), true),
            ("{\"time\":1,\"event\":\"click\"}".to_owned(), false),
            ("{\"time\":1,\"event\":\"click\"}\n".to_owned(), false),
            (format!("{step}\nnotes\n{step}\n"), false),
        ] {
            std::fs::write(run.log(), &log).unwrap();
            assert_eq!(run.check_holds_no_run().is_ok(), is_free, "{log}");
        }
        for file in [run.settings(), run.resolved()] {
            std::fs::write(run.log(), "").unwrap();
            std::fs::write(&file, "").unwrap();
            assert!(run.check_holds_no_run().is_ok(), "a run was killed at its start");
            std::fs::remove_file(run.log()).unwrap();
            assert!(run.check_holds_no_run().is_err(), "{}", file.display());
            std::fs::remove_file(&file).unwrap();
        }
    }

    #[test]
    fn states_are_listed_in_order_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunFolder::new(folder.path());
        for (epoch, step) in [(1_000_000, 3), (10, 0), (9, 7), (9, 100)] {
            std::fs::write(run.state(epoch, step), "").unwrap();
        }
        std::fs::write(folder.path().join("state-of-mind.safetensors"), "").unwrap();
        let states = [(9, 7), (9, 100), (10, 0), (1_000_000, 3)].map(|(epoch, step)| run.state(epoch, step));
        assert_eq!(run.states().unwrap(), states);
        run.remove_states_but(2, &states[2]).unwrap();
        assert_eq!(run.states().unwrap(), states[1..3]);
        assert!(folder.path().join("state-of-mind.safetensors").exists());
    }
}
