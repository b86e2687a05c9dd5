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
    /// Steps in an epoch.
    steps: usize,
}

/// The bytes of each file that belong to what a run has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Lengths {
    lines: u64,
    tensorboard: u64,
}

impl Log {
    /// Goes on after so many bytes; what stands behind them will be done again. As long as it is open no other process
    /// can open it.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Setting`] where another process has it open.
    pub fn open(run: &Path, lengths: Lengths, steps: usize) -> Result<Self> {
        let lines = Appended::open(run.join(LINES), lengths.lines)?;
        let tensorboard = Appended::open(run.join(TENSORBOARD), lengths.tensorboard)?;
        Ok(Self { lines, tensorboard, steps })
    }

    /// Makes sure that all of it is on the disk, and says how much it is.
    pub fn sync(&self) -> Result<Lengths> {
        Ok(Lengths { lines: self.lines.sync()?, tensorboard: self.tensorboard.sync()? })
    }

    /// Writes an event down.
    pub fn record(&mut self, event: &Event) -> Result<()> {
        let mut line = serde_json::to_vec(event).expect("an event is plain data");
        line.push(b'\n');
        self.lines.write(&line)?;

        let mut records = Vec::new();
        let mut scalar =
            |tag: &str, step: usize, value: f64| records.extend(tensorboard::scalar(tag, step, value));
        match event {
            Event::Step { epoch, step, loss, learning_rate, pictures_per_second } => {
                let step = (epoch - 1) * self.steps + step;
                scalar("training/loss", step, *loss);
                scalar("training/learning rate", step, *learning_rate);
                scalar("training/pictures per second", step, *pictures_per_second);
            }
            Event::Epoch { epoch, held_out_loss, report, .. } => {
                let step = epoch * self.steps;
                for (name, value) in [("held-out loss", held_out_loss), ("accuracy", &report.accuracy)] {
                    if let Some(value) = value {
                        scalar(&format!("test/{name}"), step, *value);
                    }
                }
                for row in &report.rows {
                    scalar(&format!("{}/AUROC", row.name), step, row.metrics.auroc);
                    scalar(&format!("{}/FPR95TPR", row.name), step, row.metrics.fpr95_tpr);
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
    fn open(path: PathBuf, bytes: u64) -> Result<Self> {
        let open = || {
            let mut file = OpenOptions::new().create(true).write(true).truncate(false).open(&path)?;
            // A file system that knows no locks keeps nobody out.
            if matches!(file.try_lock(), Err(TryLockError::WouldBlock)) {
                return Ok(None);
            }
            // There are fewer where somebody has removed the file.
            let bytes = bytes.min(file.metadata()?.len());
            file.set_len(bytes)?;
            file.seek(SeekFrom::End(0))?;
            Ok(Some((file, bytes)))
        };
        let Some((file, bytes)) = open().map_err(Error::io("write", &path))? else {
            return Err(Error::setting(
                "run",
                format!("`{}`", path.display()),
                "another process is writing it",
            ));
        };
        Ok(Self { path, file, bytes })
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

    #[test]
    fn tensorboard_reads_what_was_done_and_nothing_twice() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = Log::open(folder.path(), Lengths::default(), 10).unwrap();
        log.record(&step(3, 1.5)).unwrap();
        let lengths = log.sync().unwrap();
        log.record(&step(4, 1.25)).unwrap();
        // Nobody else may write meanwhile.
        let error = Log::open(folder.path(), lengths, 10).err().unwrap();
        assert!(matches!(error, Error::Setting { name: "run", .. }), "{error}");
        drop(log);
        // A run that was killed does step 4 again.
        let mut log = Log::open(folder.path(), lengths, 10).unwrap();
        log.record(&step(4, 1.0)).unwrap();

        let bytes = std::fs::read(folder.path().join(TENSORBOARD)).unwrap();
        let scalars = tensorboard::tests::scalars(&bytes);
        let losses: Vec<_> = scalars.iter().filter(|(tag, ..)| tag == "training/loss").collect();
        assert_eq!(losses, [&("training/loss".to_owned(), 13, 1.5), &("training/loss".to_owned(), 14, 1.0)]);
        let lines = folder.path().join(LINES);
        assert_eq!(std::fs::read_to_string(&lines).unwrap().lines().count(), 2);

        drop(log);
        // Whoever removes a log goes on with a new one.
        std::fs::remove_file(&lines).unwrap();
        let mut log = Log::open(folder.path(), lengths, 10).unwrap();
        log.record(&step(5, 1.0)).unwrap();
        assert!(std::fs::read(&lines).unwrap().starts_with(b"{"));
    }
}
