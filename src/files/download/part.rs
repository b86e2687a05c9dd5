//! The part of a file that has been downloaded.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write},
    path::{Path, PathBuf},
};

use super::FetchEvent;
use crate::files::atomic;

/// A partial download, under an exclusive lock.
pub(super) struct Part {
    path: PathBuf,
    open: File,
}

/// Where a part comes from.
pub(super) struct Origin {
    /// Its URL, without a user's name and password.
    pub url: String,
    /// The server's version of the file, for `If-Range`; empty if the server states none.
    pub version: String,
}

impl Part {
    /// The path of a file while it is downloaded.
    pub fn path_for(file: &Path) -> PathBuf {
        file.with_added_extension("part")
    }

    /// Opens the part at a path, which is empty at first; waits for other processes.
    pub fn open(path: &Path, observe: &mut dyn FnMut(FetchEvent)) -> io::Result<Self> {
        loop {
            // Windows cannot lock a file that is opened only for appending.
            let open = OpenOptions::new().create(true).read(true).append(true).open(path)?;
            if matches!(open.try_lock(), Err(TryLockError::WouldBlock)) {
                observe(FetchEvent::Waiting);
                atomic::lock(&open);
            }
            // The process that held the lock may have renamed or removed it.
            if is_at(&open, path)? {
                return Ok(Self { path: path.to_owned(), open });
            }
        }
    }

    /// Its length in bytes.
    pub fn len(&self) -> io::Result<u64> {
        Ok(self.open.metadata()?.len())
    }

    /// Appends bytes.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.open.write_all(bytes)
    }

    /// Writes what has been appended to the disk.
    pub fn sync(&self) -> io::Result<()> {
        self.open.sync_all()
    }

    /// Discards its bytes.
    pub fn clear(&self) -> io::Result<()> {
        self.open.set_len(0)
    }

    /// The record of its origin, if there is one.
    pub fn origin(&self) -> Option<Origin> {
        let text = fs::read_to_string(origin_of(&self.path)).ok()?;
        let (url, version) = text.trim_end().split_once('\n').unwrap_or((text.trim_end(), ""));
        // Of a damaged record, no header can be made.
        let version = if version.contains(|c: char| !(' '..='~').contains(&c)) { "" } else { version };
        Some(Origin { url: url.to_owned(), version: version.to_owned() })
    }

    /// Records its origin.
    pub fn set_origin(&self, origin: &Origin) -> io::Result<()> {
        fs::write(origin_of(&self.path), format!("{}\n{}\n", origin.url, origin.version))
    }

    /// Renames it to the file.
    pub fn finish(self, file: &Path) -> io::Result<()> {
        fs::rename(&self.path, file)?;
        let _ = fs::remove_file(origin_of(&self.path));
        atomic::sync_folder(file);
        Ok(())
    }

    /// Removes it.
    pub fn remove(self) -> io::Result<()> {
        fs::remove_file(&self.path)?;
        let _ = fs::remove_file(origin_of(&self.path));
        Ok(())
    }
}

/// The file that records the origin of a part.
fn origin_of(part: &Path) -> PathBuf {
    part.with_added_extension("origin")
}

/// Whether an open file is the one at a path.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let opened = file.metadata()?;
    Ok(path.metadata().is_ok_and(|there| (there.dev(), there.ino()) == (opened.dev(), opened.ino())))
}

#[cfg(not(unix))]
fn is_at(_file: &File, path: &Path) -> io::Result<bool> {
    Ok(path.exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_record_of_the_origin_is_no_version() {
        let folder = tempfile::tempdir().unwrap();
        let path = Part::path_for(&folder.path().join("a"));
        let part = Part::open(&path, &mut |_| ()).unwrap();
        for (record, version) in [("u\n\"1\"\n", "\"1\""), ("u\n\"\u{1}\"\n", ""), ("u", "")] {
            fs::write(origin_of(&path), record).unwrap();
            let origin = part.origin().unwrap();
            assert_eq!((&*origin.url, &*origin.version), ("u", version));
        }
    }
}
