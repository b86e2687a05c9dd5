//! The log of a run: events as JSON lines, and their scalars for TensorBoard.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{Event, tensorboard};
use crate::{
    error::{Error, Result},
    run::RunFolder,
};

/// The two open log files of a run.
pub(super) struct Log {
    lines: Appended,
    tensorboard: Appended,
}

/// The lengths of the log files in bytes, as a state records them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Lengths {
    lines: u64,
    tensorboard: u64,
}

impl Log {
    /// Opens the log of a run and locks it against other processes. It must be rewound before anything is
    /// recorded.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Locked`] if another process has it open.
    pub fn open(run: &RunFolder) -> Result<Self> {
        let open = |file| Appended::open(file, run.path());
        Ok(Self { lines: open(run.log())?, tensorboard: open(run.tensorboard())? })
    }

    /// Truncates the files to these lengths: a resumed run repeats the later events.
    pub fn rewind(&mut self, to: Lengths) -> Result<()> {
        self.lines.rewind(to.lines)?;
        if self.lines.bytes < to.lines {
            self.lines.end_with_line()?;
        }
        self.tensorboard.rewind(to.tensorboard)
    }

    /// Syncs the files to disk and returns their lengths.
    pub fn sync(&self) -> Result<Lengths> {
        Ok(Lengths { lines: self.lines.sync()?, tensorboard: self.tensorboard.sync()? })
    }

    /// Writes an event; `steps` is the number of steps per epoch.
    pub fn record(&mut self, event: &Event, steps: usize) -> Result<()> {
        let mut line = serde_json::to_vec(event).expect("an event is plain data");
        line.push(b'\n');
        self.lines.write(&line)?;

        let mut records = Vec::new();
        let mut scalar =
            |tag: &str, step: usize, value: f64| records.extend(tensorboard::scalar(tag, step, value));
        match event {
            Event::Step { epoch, step, loss, learning_rate, images_per_second } => {
                let step = (epoch - 1) * steps + step;
                scalar("training/loss", step, *loss);
                scalar("training/learning rate", step, *learning_rate);
                scalar("training/images per second", step, *images_per_second);
            }
            Event::Epoch { epoch, held_out_loss, report, .. } => {
                let step = epoch * steps;
                for (tag, value) in [("held-out/loss", held_out_loss), ("test/accuracy", &report.accuracy)] {
                    if let Some(value) = value {
                        scalar(tag, step, *value);
                    }
                }
                for row in &report.rows {
                    for (name, value) in row.metrics.named() {
                        scalar(&format!("{}/{name}", row.name), step, value);
                    }
                }
            }
            Event::Start(_)
            | Event::StateUnusable { .. }
            | Event::Reading { .. }
            | Event::Features { .. }
            | Event::Finishing { .. }
            | Event::FeaturesFound { .. }
            | Event::Testing { .. }
            | Event::Finished { .. } => {}
        }
        self.tensorboard.write(&records)
    }
}

/// A file opened for appending.
struct Appended {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl Appended {
    fn open(path: PathBuf, run: &Path) -> Result<Self> {
        let file = OpenOptions::new().create(true).write(true).truncate(false).open(&path);
        let file = file.map_err(Error::io("write", &path))?;
        // A file system without locks is not an error.
        if matches!(file.try_lock(), Err(TryLockError::WouldBlock)) {
            return Err(Error::Locked { path: run.to_owned() });
        }
        Ok(Self { path, file, bytes: 0 })
    }

    fn rewind(&mut self, bytes: u64) -> Result<()> {
        let mut rewind = || {
            // The file is shorter if it was removed.
            let bytes = bytes.min(self.file.metadata()?.len());
            self.file.set_len(bytes)?;
            self.file.seek(SeekFrom::End(0))
        };
        self.bytes = rewind().map_err(Error::io("write", &self.path))?;
        Ok(())
    }

    /// Removes an incomplete last line.
    fn end_with_line(&mut self) -> Result<()> {
        let text = std::fs::read(&self.path).map_err(Error::io("read", &self.path))?;
        let whole = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |last| last + 1);
        if whole < text.len() { self.rewind(whole as u64) } else { Ok(()) }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if let Err(error) = self.file.write_all(bytes) {
            // A full disk may have taken part of the line.
            let _ = self.file.set_len(self.bytes);
            return Err(Error::io("write", &self.path)(error));
        }
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    fn sync(&self) -> Result<u64> {
        self.file.sync_data().map_err(Error::io("write", &self.path))?;
        Ok(self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(step: usize, loss: f64) -> Event {
        Event::Step { epoch: 2, step, loss, learning_rate: 0.5, images_per_second: 7.0 }
    }

    fn resumed(run: &RunFolder, to: Lengths) -> Log {
        let mut log = Log::open(run).unwrap();
        log.rewind(to).unwrap();
        log
    }

    #[test]
    fn a_resumed_log_has_every_event_once() {
        let folder = tempfile::tempdir().unwrap();
        let run = &RunFolder::new(folder.path());
        let mut log = resumed(run, Lengths::default());
        log.record(&step(3, 1.5), 10).unwrap();
        let lengths = log.sync().unwrap();
        log.record(&step(4, 1.25), 10).unwrap();
        // The open log is locked.
        let error = Log::open(run).err().unwrap();
        assert!(matches!(error, Error::Locked { .. }), "{error}");
        drop(log);
        // A killed run repeats step 4.
        let mut log = resumed(run, lengths);
        log.record(&step(4, 1.0), 10).unwrap();

        let bytes = std::fs::read(run.tensorboard()).unwrap();
        let scalars = tensorboard::tests::scalars(&bytes);
        let losses: Vec<_> = scalars.iter().filter(|(tag, ..)| tag == "training/loss").collect();
        assert_eq!(losses, [&("training/loss".to_owned(), 13, 1.5), &("training/loss".to_owned(), 14, 1.0)]);
        let lines = run.log();
        assert_eq!(std::fs::read_to_string(&lines).unwrap().lines().count(), 2);

        drop(log);
        // A log that lost its end goes on after its last whole line.
        let whole = std::fs::read_to_string(&lines).unwrap();
        std::fs::write(&lines, &whole[..whole.len() - 9]).unwrap();
        resumed(run, lengths).record(&step(5, 1.0), 10).unwrap();
        let left = std::fs::read_to_string(&lines).unwrap();
        assert!(left.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()), "{left}");
        // A removed log is started anew.
        std::fs::remove_file(&lines).unwrap();
        resumed(run, lengths).record(&step(5, 1.0), 10).unwrap();
        assert!(std::fs::read(&lines).unwrap().starts_with(b"{"));
    }
}
