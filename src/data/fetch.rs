//! Published data sets, downloaded, unpacked and checked.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
};

use super::{
    DataFolder, Download, PublishedSet, Role, Split,
    catalog::{Layout, joined},
    folder::images_below,
};
use crate::{
    error::{Error, Result},
    files::{
        archive, atomic,
        checksum::{Checksums, Expected},
        download,
    },
};

/// The environment variable with the URL of a mirror, which serves `URL/NAME/FILE`.
const MIRROR: &str = "CAC_DATA_MIRROR";
/// The most bytes of a download whose length is not published.
const MOST: u64 = 16 << 30;
/// The file that is locked while a data set is fetched.
const LOCK: &str = ".lock";
/// The extension of the list of what was unpacked, in the form of `sha256sum`.
const LIST: &str = "sha256sums";

/// The progress of [`DataFolder::fetch`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FetchEvent<'a> {
    /// Another process fetches the same data set; it is waited for.
    Waiting,
    /// A file is about to be downloaded.
    Downloading {
        /// From where.
        url: &'a str,
        /// To where.
        file: &'a Path,
        /// Its length in bytes, if it is published.
        bytes: Option<u64>,
    },
    /// A part of the file is there.
    Received {
        /// The bytes that are there.
        done: u64,
        /// The bytes of the whole file, if the server tells.
        total: Option<u64>,
    },
    /// A part of an archive is unpacked.
    Unpacked {
        /// The archive.
        file: &'a Path,
        /// The bytes of the archive that are unpacked.
        done: u64,
        /// The bytes of the archive.
        total: u64,
    },
    /// Links and devices in an archive were left out.
    LeftOut {
        /// The archive.
        file: &'a Path,
        /// The number of entries.
        entries: usize,
    },
}

/// The result of [`DataFolder::verify`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verified {
    /// The number of files that have the recorded or published checksum.
    pub files: usize,
    /// The number of images, where they are in files of their own.
    pub images: Option<usize>,
    /// What is wrong, a line each.
    pub faults: Vec<String>,
}

impl DataFolder {
    /// Downloads and unpacks what some roles of a data set need, unless it is there, into its folder `NAME`. Each file
    /// comes from the published address, or from `$CAC_DATA_MIRROR/NAME/FILE`, and must have the published length and
    /// checksums. Interrupted downloads are resumed. An archive is unpacked beside its place and renamed, and then
    /// removed unless it is kept. `FILE.sha256` records its SHA-256, and `FILE.sha256sums` those of what was in it.
    ///
    /// # Errors
    /// [`Error::Download`] if no server can be reached, a connection is closed early, or another file comes;
    /// [`Error::Checksum`] if a file that is already there is another one; [`Error::Archive`]; [`Error::Dataset`] if
    /// something else is at its place; [`Error::Io`] if the folder cannot be written or the disk has no room;
    /// [`Error::Setting`] if no folder is given and the environment names none.
    pub fn fetch(
        &self,
        set: &PublishedSet,
        roles: &[Role],
        keep_archives: bool,
        observe: &mut dyn FnMut(FetchEvent),
    ) -> Result<()> {
        let mirror = std::env::var(MIRROR).ok();
        self.fetch_from(mirror.as_deref(), set, roles, keep_archives, observe)
    }

    fn fetch_from(
        &self,
        mirror: Option<&str>,
        set: &PublishedSet,
        roles: &[Role],
        keep_archives: bool,
        observe: &mut dyn FnMut(FetchEvent),
    ) -> Result<()> {
        let missing = || -> Result<Vec<Role>> {
            let missing = |role: &&Role| match self.find(set, **role) {
                Ok(found) => found.is_none(),
                Err(_) => true,
            };
            self.path()?;
            Ok(roles.iter().filter(missing).copied().collect())
        };
        if missing()?.is_empty() {
            return Ok(());
        }
        let folder = self.path()?.join(set.name);
        atomic::check_writable_folder(&folder)?;
        fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
        let _lock = lock(&folder, observe)?;
        // Another process may have fetched it.
        let missing = missing()?;
        // What a killed process was unpacking.
        atomic::remove_unfinished(&folder);
        let is_needed =
            |download: &&Download| missing.iter().any(|&role| PublishedSet::needs(download, role));
        let needed: Vec<&Download> = set.downloads.iter().filter(is_needed).collect();
        for download in &needed {
            let place = folder.join(download.holds);
            // Without the list it is not what was unpacked from the archive.
            if place.exists() && !is_unpacked(&folder, download) && download.is_archive() {
                let reason =
                    format!("it is not a whole copy of `{}`; move it away to fetch the set", set.name);
                return Err(Error::Dataset { path: place, reason });
            }
        }
        let needed: Vec<&Download> =
            needed.into_iter().filter(|download| !is_unpacked(&folder, download)).collect();
        // An archive and about as much in it.
        let room =
            |download: &&Download| download.bytes.unwrap_or(0) * if download.is_archive() { 2 } else { 1 };
        download::check_room(&folder, needed.iter().map(room).sum())?;
        for download in needed {
            bring(mirror, set, download, &folder, keep_archives, observe)?;
        }
        match missing.iter().find(|&&role| matches!(self.find(set, role), Ok(None))) {
            None => Ok(()),
            Some(_) => {
                let reason =
                    format!("it is not a whole copy of `{}`; move it away to fetch the set", set.name);
                Err(Error::Dataset { path: folder, reason })
            }
        }
    }

    /// Reads everything of a data set that is there, and compares. Of what was downloaded every file must have the
    /// recorded SHA-256, and a kept archive its published checksums; of other copies the files whose MD5 is published
    /// are compared. Images that are files of their own are counted. Returns nothing if the data set is not there.
    ///
    /// # Errors
    /// [`Error::Io`], and [`Error::Setting`] if no folder is given and the environment names none.
    pub fn verify(&self, set: &PublishedSet) -> Result<Option<Verified>> {
        let folder = self.path()?;
        let own = folder.join(set.name);
        let mut check = Check::default();
        for download in set.downloads {
            let file = own.join(download.file);
            if file.exists() {
                check.compare(file, &download.expected())?;
            }
            check.compare_list(&list_of(&own, download), &own)?;
        }
        let is_whole = |base: &Path, layout: &Layout| {
            [Split::Train, Split::Test].into_iter().any(|split| layout.is_whole(base, Role::Unknown(split)))
        };
        // The first that is there is the one that is used.
        let mut copies =
            [&own, &folder].into_iter().flat_map(|base| set.layouts.iter().map(move |of| (base, of)));
        if let Some((base, layout)) = copies.find(|(base, layout)| is_whole(base, layout)) {
            check.compare_parts(layout, base)?;
            let images = layout.of_role(base, Role::Unknown(Split::Test));
            if layout.parts.is_empty() || images != joined(base, layout.folder) {
                check.count(set, &images);
            }
        } else if check.seen.is_empty() {
            return Ok(None);
        }
        Ok(Some(check.verified))
    }
}

/// A comparison of files.
#[derive(Default)]
struct Check {
    verified: Verified,
    /// The files that were compared.
    seen: HashSet<PathBuf>,
}

impl Check {
    fn compare(&mut self, path: PathBuf, expected: &Expected) -> Result<()> {
        match Checksums::of_file(&path) {
            Ok(found) => match expected.fault(&found) {
                None => self.verified.files += 1,
                Some(fault) => self.verified.faults.push(format!("`{}`: {fault}", path.display())),
            },
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                self.verified.faults.push(format!("`{}` is missing", path.display()));
            }
            Err(error) => return Err(error),
        }
        self.seen.insert(path);
        Ok(())
    }

    /// Compares the files of a list.
    fn compare_list(&mut self, list: &Path, own: &Path) -> Result<()> {
        let file = match File::open(list) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(Error::io("read", list)(error)),
        };
        for line in BufReader::new(file).lines() {
            let line = line.map_err(Error::io("read", list))?;
            match line.split_once("  ") {
                Some((sum, path)) => {
                    let expected = Expected { sha256: Some(sum), ..Expected::default() };
                    self.compare(own.join(path), &expected)?;
                }
                None => self.verified.faults.push(format!("`{}` is damaged", list.display())),
            }
        }
        Ok(())
    }

    /// Compares the files of a layout whose MD5 is published, unless they are compared already.
    fn compare_parts(&mut self, layout: &Layout, base: &Path) -> Result<()> {
        for part in layout.parts.iter().filter(|part| part.md5.is_some()) {
            let path = joined(base, layout.folder).join(part.file);
            if path.exists() && !self.seen.contains(&path) {
                self.compare(path, &Expected { md5: part.md5, ..Expected::default() })?;
            }
        }
        Ok(())
    }

    /// Counts images, of which there must be as many as are published.
    fn count(&mut self, set: &PublishedSet, folder: &Path) {
        let found = images_below(folder).map_or(0, |listing| listing.files.len());
        self.verified.images = Some(found);
        if found != set.images[1] {
            let expected = set.images[1];
            let fault = format!("`{}` has {found} images, expected {expected}", folder.display());
            self.verified.faults.push(fault);
        }
    }
}

impl Download {
    /// Whether something is unpacked from it.
    fn is_archive(&self) -> bool {
        self.holds != self.file
    }

    fn expected(&self) -> Expected<'static> {
        Expected { bytes: self.bytes, md5: Some(self.md5), sha256: self.sha256 }
    }
}

/// The list of what was unpacked from a download.
fn list_of(folder: &Path, download: &Download) -> PathBuf {
    folder.join(download.file).with_added_extension(LIST)
}

/// Whether a download is there and unpacked.
fn is_unpacked(folder: &Path, download: &Download) -> bool {
    folder.join(download.holds).exists() && (!download.is_archive() || list_of(folder, download).exists())
}

/// Locks the folder of a data set; waits for other processes.
fn lock(folder: &Path, observe: &mut dyn FnMut(FetchEvent)) -> Result<File> {
    let path = folder.join(LOCK);
    let mut lock = || {
        let file = File::create(&path)?;
        if file.try_lock().is_err() {
            observe(FetchEvent::Waiting);
            file.lock()?;
        }
        Ok(file)
    };
    lock().map_err(Error::io("write", &path))
}

/// Downloads a file, and unpacks it if it is an archive.
fn bring(
    mirror: Option<&str>,
    set: &PublishedSet,
    download: &Download,
    folder: &Path,
    keep_archive: bool,
    observe: &mut dyn FnMut(FetchEvent),
) -> Result<()> {
    let file = folder.join(download.file);
    let urls = match mirror {
        Some(mirror) => vec![format!("{}/{}/{}", mirror.trim_end_matches('/'), set.name, download.file)],
        None => download.urls.iter().map(|&url| url.to_owned()).collect(),
    };
    let remote = download::Remote { urls, expected: download.expected(), most: MOST, mirror: MIRROR };
    download::fetch(&remote, &file, |step| match step {
        download::Step::Asking { url, bytes } => {
            observe(FetchEvent::Downloading { url, file: &file, bytes });
        }
        download::Step::Received { done, total } => observe(FetchEvent::Received { done, total }),
    })?;
    if !download.is_archive() {
        return Ok(());
    }
    // The folder is locked until it is removed.
    let (unfinished, _lock) =
        atomic::unfinished_folder(folder).map_err(Error::io("create a folder in", folder))?;
    let mut progress = |done, total| observe(FetchEvent::Unpacked { file: &file, done, total });
    let contents = archive::unpack(&file, unfinished.path(), &mut progress)?;
    if contents.left_out > 0 {
        observe(FetchEvent::LeftOut { file: &file, entries: contents.left_out });
    }
    let place = folder.join(download.holds);
    let above = place.parent().unwrap_or(folder);
    let name = Path::new(download.holds).file_name().unwrap_or_default();
    let made = unfinished.path().join(name);
    if !made.exists() {
        let reason = format!("it holds no `{}`", name.display());
        return Err(Error::Archive { path: file, reason });
    }
    // The rest of the archive, if there is any, is not kept.
    let before = &download.holds[..download.holds.len() - name.len()];
    let kept = contents.files.iter().filter(|unpacked| Path::new(&unpacked.path).starts_with(name));
    let list: String =
        kept.map(|unpacked| format!("{}  {before}{}\n", unpacked.sha256, unpacked.path)).collect();
    // On disk before it gets its name.
    sync(unfinished.path());
    atomic::write(&list_of(folder, download), list.as_bytes())?;
    fs::create_dir_all(above).map_err(Error::io("create", above))?;
    fs::rename(&made, &place).map_err(Error::io("write", &place))?;
    atomic::sync_folder(&place);
    if !keep_archive {
        fs::remove_file(&file).map_err(Error::io("remove", &file))?;
    }
    Ok(())
}

/// Writes the disk's caches, where the system can do it for one disk. Errors are ignored: `verify` finds what is lost
/// with the power.
#[cfg(target_os = "linux")]
fn sync(folder: &Path) {
    if let Ok(folder) = File::open(folder) {
        let _ = rustix::fs::syncfs(folder);
    }
}

#[cfg(not(target_os = "linux"))]
fn sync(_folder: &Path) {}
