//! Atomic file writes.

use std::{
    io::{self, Write},
    path::Path,
};

use crate::error::{Error, Result};

/// The prefix of the names of incomplete files.
pub const UNFINISHED: &str = ".unfinished-";

fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Syncs a file's folder, so that its new name is on disk as well as its content. Errors are ignored: the
/// file is complete.
pub fn sync_folder(file: &Path) {
    if cfg!(unix) {
        let _ = std::fs::File::open(folder_of(file)).and_then(|folder| folder.sync_all());
    }
}

/// Writes a file beside `path`, syncs it, and renames it into place. A link is kept and its target replaced.
///
/// # Errors
/// [`Error::Io`], also if `path` is something other than a file. After an error `path` is unchanged.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let save = || {
        let existing = path.metadata().ok();
        if existing.as_ref().is_some_and(|existing| !existing.is_file()) {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "it exists and is not a file"));
        }
        let path = if existing.is_some() { path.canonicalize()? } else { path.to_owned() };
        let mut builder = tempfile::Builder::new();
        builder.prefix(UNFINISHED);
        // Temporary files are private; this one gets the usual permissions.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let mut file = builder.tempfile_in(folder_of(&path))?;
        file.write_all(bytes)?;
        if let Some(existing) = existing {
            file.as_file().set_permissions(existing.permissions())?;
        }
        file.as_file().sync_all()?;
        file.persist(&path).map_err(|error| error.error)?;
        sync_folder(&path);
        Ok(())
    };
    save().map_err(Error::io("write", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_whole_files_and_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        write(&path, b"one").unwrap();
        write(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn links_and_permissions_are_kept() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("a"), folder.path().join("link"));
        write(&path, b"one").unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
        symlink("a", &link).unwrap();
        write(&link, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert!(link.is_symlink());
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o640);
        assert!(write(Path::new("/dev/null"), b"x").is_err());
    }

    #[test]
    fn a_failed_write_names_the_path_and_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("taken");
        std::fs::create_dir(&path).unwrap();
        let error = write(&path, b"x").unwrap_err().to_string();
        assert!(error.starts_with(&format!("cannot write `{}`", path.display())), "{error}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(write(&folder.path().join("no/such"), b"x").is_err());
    }
}
