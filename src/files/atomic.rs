//! Atomic file writes.

use std::{
    collections::BTreeSet,
    fs::{self, File, Metadata, OpenOptions},
    io::{self, BufWriter, Write},
    ops::ControlFlow::{self, Break, Continue},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use tempfile::{Builder, NamedTempFile};

use crate::{
    error::{Error, Result},
    text::shown,
};

/// The prefix of the names of incomplete files and folders.
const UNFINISHED: &str = ".unfinished-";
/// The number of random letters and digits after the prefix.
const RANDOM: usize = 6;
/// The number of bytes written at a time.
const BUFFER: usize = 1 << 16;
/// The length of the file that a check writes: a full disk has no room for a block.
const BLOCK: usize = 4096;

/// The folder of a file; the current one for a bare name.
#[must_use]
pub fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Syncs a file's folder, so that its new name is on disk as well as its content. Errors are ignored: the
/// file is complete.
pub fn sync_folder(file: &Path) {
    if cfg!(unix) {
        let _ = File::open(folder_of(file)).and_then(|folder| folder.sync_all());
    }
}

/// A file that is being written.
pub type Unfinished<'a> = BufWriter<&'a File>;

/// Writes a file next to `path`, syncs it, and renames it into place. A link is kept and its target replaced.
/// The first write to a folder, or [check](check_writable) of one, also removes temporary files that killed writers left
/// there.
///
/// # Errors
/// [`Error::Io`], including if `path` is something other than a file. After an error `path` is unchanged.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    stream(path, |file| file.write_all(bytes))
}

/// [`write`] with contents that `fill` writes.
///
/// # Errors
/// Those of [`write`].
pub fn stream(path: &Path, fill: impl FnOnce(&mut Unfinished) -> io::Result<()>) -> Result<()> {
    write_with(path, |file| fill(file).map_err(Error::io("write", path)).map(Continue)).map(drop)
}

/// [`write`] with contents that `fill` writes, which may fail in other ways. If it breaks off, `path` is unchanged.
///
/// # Errors
/// Those of [`write`] and of `fill`.
pub fn write_with(
    path: &Path,
    fill: impl FnOnce(&mut Unfinished) -> Result<ControlFlow<()>>,
) -> Result<ControlFlow<()>> {
    let begin = || {
        let (path, existing) = target(path)?;
        clean(folder_of(&path));
        let file = unfinished(folder_of(&path))?;
        Ok((path, existing, file))
    };
    let (place, existing, file) = begin().map_err(Error::io("write", path))?;
    // The file itself, whose errors are without the temporary name.
    let mut buffer = BufWriter::with_capacity(BUFFER, file.as_file());
    if fill(&mut buffer)?.is_break() {
        return Ok(Break(()));
    }
    let flushed = buffer.into_inner().map(drop).map_err(io::IntoInnerError::into_error);
    let end = || {
        flushed?;
        if let Some(existing) = existing {
            file.as_file().set_permissions(existing.permissions())?;
        }
        file.as_file().sync_all()?;
        file.persist(&place).map_err(|error| error.error)?;
        sync_folder(&place);
        Ok(Continue(()))
    };
    end().map_err(Error::io("write", path))
}

/// Makes a file, which must not change afterwards, available at `path` too: as a link if the file system
/// supports them, else as a copy.
///
/// # Errors
/// [`Error::Io`].
#[cfg(feature = "train")]
pub fn link(file: &Path, path: &Path) -> Result<()> {
    if fs::hard_link(file, path).is_ok() {
        sync_folder(path);
        return Ok(());
    }
    stream(path, |to| io::copy(&mut File::open(file)?, to).map(drop))
}

/// Checks that a file can be written to `path`, as far as that can be known in advance: its folder takes a
/// small file, and another can be renamed over it. It leaves no file behind, removes those of killed writers, and does
/// not change `path`.
///
/// # Errors
/// [`Error::Io`], including if `path` is something other than a file.
pub fn check_writable(path: &Path) -> Result<()> {
    let check = || try_out(folder_of(&target(path)?.0));
    check().map_err(Error::io("write", path))
}

/// Checks that files can be written to a folder, which need not exist, as [`check_writable`] does.
///
/// # Errors
/// [`Error::Io`], including if `folder` is something other than a folder.
pub fn check_writable_folder(folder: &Path) -> Result<()> {
    let existing = folder.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("."));
    let check = || {
        if !existing.is_dir() {
            let reason = format!("`{}` is not a folder", shown(existing));
            return Err(io::Error::new(io::ErrorKind::NotADirectory, reason));
        }
        try_out(existing)
    };
    check().map_err(Error::io("write", folder))
}

fn try_out(folder: &Path) -> io::Result<()> {
    clean(folder);
    let old = unfinished(folder)?.into_temp_path();
    let new = unfinished(folder)?;
    // The file itself, whose errors are without the temporary name.
    new.as_file().write_all(&[0; BLOCK])?;
    new.as_file().sync_all()?;
    // Open, and so locked, until it is removed.
    let _new = new.persist(&old)?;
    match old.close() {
        // Another process removed it: it took the replaced file for one left by a killed writer.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        closed => closed,
    }
}

/// The file that a path leads to, with its metadata if it exists.
fn target(path: &Path) -> io::Result<(PathBuf, Option<Metadata>)> {
    match path.metadata() {
        Ok(existing) if !existing.is_file() => {
            Err(io::Error::new(io::ErrorKind::AlreadyExists, "it exists and is not a file"))
        }
        // Replacing the file behind it would lose what is written there.
        Ok(_) if leads_to_descriptor(path) => {
            Err(io::Error::new(io::ErrorKind::AlreadyExists, "it is an open file of a process"))
        }
        existing => Ok((destination(path), existing.ok())),
    }
}

/// A path, and where each of its links leads.
fn links(path: &Path) -> impl Iterator<Item = PathBuf> {
    let next = |path: &PathBuf| Some(path.parent().unwrap_or(Path::new("")).join(path.read_link().ok()?));
    // The number of links that Linux follows.
    std::iter::successors(Some(path.to_owned()), next).take(41)
}

/// Whether a path is a descriptor of a process, such as `/dev/stdout`.
fn leads_to_descriptor(path: &Path) -> bool {
    const PLACES: [&str; 3] = ["/dev/fd", "/dev/stdout", "/dev/stderr"];
    let is_of_process = |link: &Path| {
        link.starts_with("/proc") && folder_of(link).file_name().is_some_and(|name| name == "fd")
    };
    links(path).any(|link| is_of_process(&link) || PLACES.iter().any(|place| link.starts_with(place)))
}

/// Where a file written to this path would be: links are followed, also one whose file does not exist yet.
#[must_use]
pub fn destination(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| {
        let end = links(path).last().expect("the path itself");
        match (folder_of(&end).canonicalize(), end.file_name()) {
            (Ok(folder), Some(name)) => folder.join(name),
            _ => end,
        }
    })
}

/// Waits for the exclusive lock of a file or folder. A file system without locks is not an error.
pub fn lock(file: &File) {
    while file.lock().is_err_and(|error| error.kind() == io::ErrorKind::Interrupted) {}
}

/// A new file with a temporary name, locked so that nobody takes it for a leftover of a killed writer.
fn unfinished(folder: &Path) -> io::Result<NamedTempFile> {
    let mut builder = Builder::new();
    builder.prefix(UNFINISHED).rand_bytes(RANDOM);
    // With the usual permissions, where temporary files are private, and errors without the temporary name.
    let create = |path: &Path| OpenOptions::new().read(true).write(true).create_new(true).open(path);
    loop {
        let file = builder.make_in(folder, create)?;
        lock(file.as_file());
        // Another process may have removed it before it was locked.
        if file.path().exists() {
            return Ok(file);
        }
    }
}

/// A folder with a temporary name, which is removed unless it is renamed, and is locked until then.
#[cfg(feature = "files")]
pub struct UnfinishedFolder {
    // Dropped in this order.
    folder: tempfile::TempDir,
    _lock: Option<File>,
}

#[cfg(feature = "files")]
impl UnfinishedFolder {
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// Creates a folder with a temporary name.
#[cfg(feature = "files")]
pub fn unfinished_folder(within: &Path) -> io::Result<UnfinishedFolder> {
    loop {
        let folder = Builder::new().prefix(UNFINISHED).rand_bytes(RANDOM).tempdir_in(within)?;
        // Only Unix can open folders.
        let opened = File::open(folder.path()).ok();
        opened.iter().for_each(lock);
        if folder.path().exists() {
            return Ok(UnfinishedFolder { folder, _lock: opened });
        }
    }
}

/// [Removes](remove_unfinished) what killed writers left in a folder, only once because many files may be
/// written to it.
fn clean(folder: &Path) {
    static CLEANED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    let mut cleaned = CLEANED.lock().unwrap_or_else(PoisonError::into_inner);
    if cleaned.insert(folder.to_owned()) {
        remove_unfinished(folder);
    }
}

/// Removes the files and folders that killed writers have left in a folder: those whose lock is free. Errors
/// are ignored: leftovers only take up space.
pub fn remove_unfinished(folder: &Path) {
    let is_ours = |name: &str| {
        let random = name.strip_prefix(UNFINISHED).unwrap_or_default();
        random.len() == RANDOM && random.bytes().all(|byte| byte.is_ascii_alphanumeric())
    };
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, Ok(kind)) = (entry.path(), entry.file_type()) else { continue };
        // A pipe would block.
        if !(kind.is_file() || kind.is_dir()) || !entry.file_name().to_str().is_some_and(is_ours) {
            continue;
        }
        // NFS locks only what is open for writing.
        let open = OpenOptions::new().read(true).write(kind.is_file()).open(&path);
        if open.as_ref().is_ok_and(|open| open.try_lock().is_ok()) {
            let _ = if kind.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn the_file_behind_a_descriptor_is_not_replaced() {
        use std::os::fd::AsRawFd;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.txt");
        let mut log = File::create(&path).unwrap();
        log.write_all(b"earlier").unwrap();
        let descriptor = PathBuf::from(format!("/proc/self/fd/{}", log.as_raw_fd()));
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&descriptor, &link).unwrap();
        for place in [&descriptor, &link] {
            let error = check_writable(place).unwrap_err().to_string();
            assert!(error.ends_with("it is an open file of a process"), "{error}");
            assert!(write(place, b"later").is_err());
        }
        assert_eq!(fs::read(&path).unwrap(), b"earlier");
    }

    #[test]
    fn an_abandoned_write_leaves_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        write(&path, b"one").unwrap();
        let fill = |flow: ControlFlow<()>| {
            write_with(&path, |file| {
                file.write_all(b"two").unwrap();
                Ok(flow)
            })
        };
        assert!(fill(Break(())).unwrap().is_break() && std::fs::read(&path).unwrap() == b"one");
        let refused = write_with(&path, |_| Err(Error::io("read", Path::new("b"))(io::Error::other("gone"))));
        assert!(refused.is_err() && std::fs::read(&path).unwrap() == b"one");
        assert!(fill(Continue(())).unwrap().is_continue() && std::fs::read(&path).unwrap() == b"two");
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
        // A link may exist before its target.
        let early = folder.path().join("early");
        symlink(&link, folder.path().join("between")).unwrap();
        symlink("between", &early).unwrap();
        std::fs::remove_file(&path).unwrap();
        write(&early, b"three").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"three");
        assert!(early.is_symlink() && link.is_symlink());
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
        write(&link, b"four").unwrap();
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

    #[test]
    fn only_leftovers_of_killed_writers_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for left in [".unfinished-a1B2c3", ".unfinished-notes.txt", ".unfinished-"] {
            fs::write(at(left), "half").unwrap();
        }
        fs::create_dir(at(".unfinished-FOLDER")).unwrap();
        fs::write(at(".unfinished-FOLDER/a"), "half").unwrap();
        let others = unfinished(folder.path()).unwrap();
        write(&at("a"), b"one").unwrap();
        let mut names: Vec<_> =
            fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().path()).collect();
        names.sort();
        let mut expected =
            [at(".unfinished-"), at(".unfinished-notes.txt"), others.path().to_owned(), at("a")];
        expected.sort();
        assert_eq!(names, expected);
    }

    #[test]
    fn concurrent_writers_do_not_mistake_each_other_for_killed() {
        let folder = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for writer in 0..8 {
                let path = folder.path().join(writer.to_string());
                scope.spawn(move || (0..100).for_each(|_| write(&path, b"x").unwrap()));
            }
        });
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 8);
    }

    #[test]
    fn a_check_leaves_nothing_and_fails_where_a_write_would() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::write(folder.path().join(".unfinished-a1B2c3"), "half").unwrap();
        check_writable(&path).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        write(&path, b"one").unwrap();
        check_writable(&path).unwrap();
        check_writable_folder(&folder.path().join("new/folder")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        for wrong in [folder.path(), &folder.path().join("no/such"), &path.join("b")] {
            let error = check_writable(wrong).unwrap_err().to_string();
            assert!(error.starts_with(&format!("cannot write `{}`", wrong.display())), "{error}");
        }
        let error = check_writable_folder(&path.join("run")).unwrap_err().to_string();
        let path = path.display();
        assert_eq!(error, format!("cannot write `{path}/run`: `{path}` is not a folder"));
    }

    // Nobody can create a file there, not even root.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_folder_that_accepts_no_files_is_detected_before_the_work() {
        assert!(check_writable(Path::new("/proc/model.onnx")).is_err());
        assert!(check_writable_folder(Path::new("/proc/runs/1")).is_err());
    }
}
