//! What a run writes down of what happens: JSON lines, and the same for TensorBoard.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{Event, tensorboard};
use crate::error::{Error, Result};

/// The files; TensorBoard knows its own by the middle of the name.
const LINES: &str = "log.jsonl";
const TENSORBOARD: &str = "events.out.tfevents.0.toolkit";

/// Two open files of a run.
pub(super) struct Log {
    lines: Appended,
    tensorboard: Appended,
}

/// The bytes of each file that belong to what a run has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Lengths {
    lines: u64,
    tensorboard: u64,
}

impl Log {
    /// Opens the log of a run, to be rewound before anything is recorded; as long as it is open no other process can.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Setting`] where another process has it open.
    pub fn open(run: &Path) -> Result<Self> {
        let open = |name| Appended::open(run.join(name));
        Ok(Self { lines: open(LINES)?, tensorboard: open(TENSORBOARD)? })
    }

    /// Goes on after so many bytes; what stands behind them will be done again.
    pub fn rewind(&mut self, to: Lengths) -> Result<()> {
        self.lines.rewind(to.lines)?;
        self.tensorboard.rewind(to.tensorboard)
    }

    /// Makes sure that all of it is on the disk, and says how much it is.
    pub fn sync(&self) -> Result<Lengths> {
        Ok(Lengths { lines: self.lines.sync()?, tensorboard: self.tensorboard.sync()? })
    }

    /// Writes an event down, of a run with so many steps in an epoch.
    pub fn record(&mut self, event: &Event, steps: usize) -> Result<()> {
        let mut line = serde_json::to_vec(event).expect("an event is plain data");
        line.push(b'\n');
        self.lines.write(&line)?;

        let mut records = Vec::new();
        let mut scalar =
            |tag: &str, step: usize, value: f64| records.extend(tensorboard::scalar(tag, step, value));
        match event {
            Event::Step { epoch, step, loss, learning_rate, pictures_per_second } => {
                let step = (epoch - 1) * steps + step;
                scalar("training/loss", step, *loss);
                scalar("training/learning rate", step, *learning_rate);
                scalar("training/pictures per second", step, *pictures_per_second);
            }
            Event::Epoch { epoch, held_out_loss, report, .. } => {
                let step = epoch * steps;
                for (name, value) in [("held-out loss", held_out_loss), ("accuracy", &report.accuracy)] {
                    if let Some(value) = value {
                        scalar(&format!("test/{name}"), step, *value);
                    }
                }
                for row in &report.rows {
                    for (name, value) in row.metrics.named() {
                        scalar(&format!("{}/{name}", row.name), step, value);
                    }
                }
            }
            Event::Start { .. } | Event::Testing { .. } => {}
        }
        self.tensorboard.write(&records)
    }
}

/// A file that grows.
struct Appended {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl Appended {
    fn open(path: PathBuf) -> Result<Self> {
        let file = OpenOptions::new().create(true).write(true).truncate(false).open(&path);
        let file = file.map_err(Error::io("write", &path))?;
        // A file system that knows no locks keeps nobody out.
        if matches!(file.try_lock(), Err(TryLockError::WouldBlock)) {
            return Err(Error::setting(
                "run",
                format!("`{}`", path.display()),
                "another process is writing it",
            ));
        }
        Ok(Self { path, file, bytes: 0 })
    }

    fn rewind(&mut self, bytes: u64) -> Result<()> {
        let mut rewind = || {
            // There are fewer where somebody has removed the file.
            let bytes = bytes.min(self.file.metadata()?.len());
            self.file.set_len(bytes)?;
            self.file.seek(SeekFrom::End(0))
        };
        self.bytes = rewind().map_err(Error::io("write", &self.path))?;
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(Error::io("write", &self.path))?;
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
        Event::Step { epoch: 2, step, loss, learning_rate: 0.5, pictures_per_second: 7.0 }
    }

    fn resumed(run: &Path, to: Lengths) -> Log {
        let mut log = Log::open(run).unwrap();
        log.rewind(to).unwrap();
        log
    }

    #[test]
    fn tensorboard_reads_what_was_done_and_nothing_twice() {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path();
        let mut log = resumed(run, Lengths::default());
        log.record(&step(3, 1.5), 10).unwrap();
        let lengths = log.sync().unwrap();
        log.record(&step(4, 1.25), 10).unwrap();
        // Nobody else may write meanwhile.
        let error = Log::open(run).err().unwrap();
        assert!(matches!(error, Error::Setting { name: "run", .. }), "{error}");
        drop(log);
        // A run that was killed does step 4 again.
        let mut log = resumed(run, lengths);
        log.record(&step(4, 1.0), 10).unwrap();

        let bytes = std::fs::read(run.join(TENSORBOARD)).unwrap();
        let scalars = tensorboard::tests::scalars(&bytes);
        let losses: Vec<_> = scalars.iter().filter(|(tag, ..)| tag == "training/loss").collect();
        assert_eq!(losses, [&("training/loss".to_owned(), 13, 1.5), &("training/loss".to_owned(), 14, 1.0)]);
        let lines = run.join(LINES);
        assert_eq!(std::fs::read_to_string(&lines).unwrap().lines().count(), 2);

        drop(log);
        // Whoever removes a log goes on with a new one.
        std::fs::remove_file(&lines).unwrap();
        resumed(run, lengths).record(&step(5, 1.0), 10).unwrap();
        assert!(std::fs::read(&lines).unwrap().starts_with(b"{"));
    }
}
