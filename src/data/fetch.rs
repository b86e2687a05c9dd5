//! Published data sets, downloaded, unpacked and checked.

use std::{
    collections::HashSet,
    fmt,
    fs::{self, File, TryLockError},
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
};

use super::{
    DataFolder, Dataset, Download, PublishedSet, Role, Split,
    catalog::{self, PublishedFile, PublishedLayout, joined},
};
use crate::{
    error::{Error, Result},
    files::{
        archive, atomic,
        checksum::{Checksums, Expected},
        download::{self, FetchEvent},
    },
    image::Input,
    text::shown,
};

/// The environment variable with the URL of a mirror, which serves `URL/NAME/FILE`.
const MIRROR: &str = "CAC_DATA_MIRROR";
/// The maximum bytes of a download whose length is not published.
const MAX_DOWNLOAD: u64 = 16 << 30;
/// The file that is locked while a data set is fetched.
const LOCK: &str = ".lock";
/// The extension of the list of what was unpacked, in the form of `sha256sum`.
const LIST: &str = "sha256sums";

/// The result of [`DataFolder::verify`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verified {
    /// The number of files that have the recorded or published checksum.
    pub files: usize,
    /// The number of images: of the test split, if they are in files of their own, else of the splits that are
    /// there.
    pub images: Option<usize>,
    /// What is wrong.
    pub faults: Vec<Fault>,
    /// The data set's own folder, if [`fetch`](DataFolder::fetch) put something into it.
    pub fetched: Option<PathBuf>,
}

/// A file or folder that differs from what was recorded or published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The file or folder.
    pub path: PathBuf,
    /// What is wrong with it, such as `is missing`.
    pub reason: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` {}", shown(&self.path), self.reason)
    }
}

impl DataFolder {
    /// Downloads and unpacks what some roles of a data set need into its folder `NAME`, unless it is there.
    /// Each file comes from the published URL, or from `$CAC_DATA_MIRROR/NAME/FILE`, and must have the
    /// published length and checksums. Interrupted downloads are resumed. An archive is unpacked next to its
    /// destination, renamed into place, and removed. To keep archives means to download those of a set that is
    /// here, too. `FILE.sha256` records the SHA-256 of an archive, and `FILE.sha256sums` those of its contents.
    ///
    /// # Errors
    /// [`Error::Download`] if no server can be reached, a connection is closed early, or a different file
    /// arrives; [`Error::Checksum`] if an existing file is a different one; [`Error::Archive`];
    /// [`Error::Dataset`] if something else is in its place; [`Error::Io`] if the folder cannot be written or
    /// the disk has no room; [`Error::Setting`] if no folder is given and the environment names none.
    pub fn fetch(
        &self,
        set: &PublishedSet,
        roles: &[Role],
        keep_archives: bool,
        observe: &mut dyn FnMut(FetchEvent),
    ) -> Result<()> {
        let mirror = download::mirror(MIRROR)?;
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
        let is_here = |folder: &Self| Ok::<_, Error>(folder.find(set, roles)?.is_some());
        if roles.is_empty() || !keep_archives && is_here(self)? {
            return Ok(());
        }
        let folder = self.path()?.join(set.name);
        atomic::check_writable_folder(&folder)?;
        fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
        let _lock = lock(&folder, observe)?;
        // Another process may have fetched it.
        if is_here(self)? {
            let wanted = set.downloads.iter().filter(|_| keep_archives);
            for download in
                wanted.filter(|download| roles.iter().any(|&role| PublishedSet::needs(download, role)))
            {
                download_file(mirror, set, download, &folder, observe)?;
            }
            return Ok(());
        }
        // An incomplete copy elsewhere does not count.
        let layout = &set.layouts[0];
        let missing: Vec<Role> =
            roles.iter().copied().filter(|&role| !layout.is_whole(&folder, role)).collect();
        // Leftovers of a killed process.
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
        // An archive and about as much unpacked, less what is already downloaded.
        let room = |download: &&Download| {
            let bytes = download.bytes.unwrap_or(0);
            let here = download::bytes_here(&folder.join(download.file)).min(bytes);
            bytes * if download.is_archive() { 2 } else { 1 } - here
        };
        download::check_room(&folder, needed.iter().map(room).sum())?;
        for download in needed {
            install(mirror, set, download, &folder, keep_archives, observe)?;
        }
        match self.find(set, roles)? {
            Some(_) => Ok(()),
            None => {
                let reason =
                    format!("it is not a whole copy of `{}`; move it away to fetch the set", set.name);
                Err(Error::Dataset { path: folder, reason })
            }
        }
    }

    /// Reads everything of a data set that is there, and compares it. Each downloaded file must have the
    /// recorded SHA-256, and a kept archive its published checksums; in other copies, the files with a
    /// published MD5 are compared. Images are counted, unless the set is used in parts. Returns nothing if the
    /// data set is not there.
    ///
    /// # Errors
    /// [`Error::Io`], and [`Error::Setting`] if no folder is given and the environment names none.
    pub fn verify(&self, set: &PublishedSet) -> Result<Option<Verified>> {
        let folder = self.path()?;
        let own = folder.join(set.name);
        let mut check = Check::default();
        for download in set.downloads {
            let file = own.join(download.file);
            if download::record_of(&file).exists() || list_of(&own, download).exists() {
                check.verified.fetched = Some(own.clone());
            }
            if file.exists() {
                check.compare(file, &download.expected())?;
            }
            check.compare_list(&list_of(&own, download), &own)?;
        }
        // The first that exists is the one that is used.
        let [train, test] = [Split::Train, Split::Test].map(Role::Unknown);
        let of_roles: [&[Role]; 3] = [&[train, test], &[test], &[train]];
        let copy = of_roles.into_iter().find_map(|roles| catalog::whole_copy(set, &folder, roles));
        if let Some((base, layout)) = &copy {
            check.compare_parts(layout, base)?;
            let images = layout.of_role(base, Role::Unknown(Split::Test));
            if layout.parts.is_empty() || images != joined(base, layout.folder) {
                check.count(set, &images);
            } else if set.parts.is_empty() {
                check.count_in_arrays(set, layout, base);
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
    fn fault(&mut self, path: &Path, reason: String) {
        self.verified.faults.push(Fault { path: path.to_owned(), reason });
    }

    fn compare(&mut self, path: PathBuf, expected: &Expected) -> Result<()> {
        match Checksums::of_file(&path) {
            Ok(found) => match expected.fault(&found) {
                None => self.verified.files += 1,
                Some(fault) => self.fault(&path, format!("is damaged: {fault}")),
            },
            Err(Error::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => {
                self.fault(&path, "is missing".to_owned());
            }
            Err(_) if path.is_dir() => self.fault(&path, "is a folder".to_owned()),
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
            let line = match line {
                // Not UTF-8.
                Err(error) if error.kind() == io::ErrorKind::InvalidData => String::new(),
                line => line.map_err(Error::io("read", list))?,
            };
            match line.split_once("  ") {
                Some((sum, path)) => {
                    let expected = Expected { sha256: Some(sum), ..Expected::default() };
                    self.compare(own.join(path), &expected)?;
                }
                None => self.fault(list, "is damaged".to_owned()),
            }
        }
        Ok(())
    }

    /// Compares the files of a layout whose MD5 is published, unless they are compared already. A split of which
    /// some files are here must have all.
    fn compare_parts(&mut self, layout: &PublishedLayout, base: &Path) -> Result<()> {
        let folder = joined(base, layout.folder);
        let is_here = |part: &&PublishedFile| fs::symlink_metadata(folder.join(part.file)).is_ok();
        let begun: Vec<Split> = layout.parts.iter().filter(is_here).filter_map(|part| part.split).collect();
        for part in layout.parts {
            let path = folder.join(part.file);
            if self.seen.contains(&path) {
                continue;
            }
            if !path.exists() && part.split.is_some_and(|split| begun.contains(&split)) {
                self.fault(&path, "is missing".to_owned());
            } else if path.exists() && part.md5.is_some() {
                self.compare(path, &Expected { md5: part.md5, ..Expected::default() })?;
            }
        }
        Ok(())
    }

    /// Counts the images, whose number must be the published one.
    fn count(&mut self, set: &PublishedSet, folder: &Path) {
        let found = catalog::count(folder);
        self.verified.images = Some(found);
        if found != set.images[1] {
            let expected = set.images[1];
            self.fault(folder, format!("has {found} images, expected {expected}"));
        }
    }

    /// Counts the images of each split that is there, which are in arrays.
    fn count_in_arrays(&mut self, set: &PublishedSet, layout: &PublishedLayout, base: &Path) {
        for (split, expected) in [Split::Train, Split::Test].into_iter().zip(set.images) {
            if expected == 0 || !layout.is_whole(base, Role::Unknown(split)) {
                continue;
            }
            let folder = &layout.of_role(base, Role::Known(split));
            match Dataset::known(folder, split, &Input::default()) {
                Ok(images) => {
                    *self.verified.images.get_or_insert(0) += images.len();
                    if images.len() != expected {
                        let found = images.len();
                        self.fault(folder, format!("has {found} {split} images, expected {expected}"));
                    }
                }
                Err(error) => self.fault(folder, format!("cannot be read: {error}")),
            }
        }
    }
}

impl Download {
    /// Whether something is unpacked from it.
    fn is_archive(&self) -> bool {
        self.holds != self.file
    }

    fn expected(&self) -> Expected<'static> {
        Expected { bytes: self.bytes, md5: Some(self.md5), sha256: self.sha256, ..Expected::default() }
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
        if matches!(file.try_lock(), Err(TryLockError::WouldBlock)) {
            observe(FetchEvent::Waiting);
            atomic::lock(&file);
        }
        Ok(file)
    };
    lock().map_err(Error::io("write", &path))
}

/// Downloads a file unless it is there, and returns its path.
fn download_file(
    mirror: Option<&str>,
    set: &PublishedSet,
    download: &Download,
    folder: &Path,
    observe: &mut dyn FnMut(FetchEvent),
) -> Result<PathBuf> {
    let file = folder.join(download.file);
    let urls = match mirror {
        Some(mirror) => vec![format!("{mirror}/{}/{}", set.name, download.file)],
        None => download.urls.iter().map(|&url| url.to_owned()).collect(),
    };
    let (expected, name) = (download.expected(), Some(set.name));
    let remote = download::Remote {
        urls,
        expected,
        most: MAX_DOWNLOAD,
        fault: |_| Ok(None),
        mirror: MIRROR,
        set: name,
    };
    download::fetch(&remote, &file, observe)?;
    Ok(file)
}

/// Downloads a file, and unpacks it if it is an archive.
fn install(
    mirror: Option<&str>,
    set: &PublishedSet,
    download: &Download,
    folder: &Path,
    keep_archive: bool,
    observe: &mut dyn FnMut(FetchEvent),
) -> Result<()> {
    let file = download_file(mirror, set, download, folder, observe)?;
    if !download.is_archive() {
        return Ok(());
    }
    let unfinished = atomic::unfinished_folder(folder).map_err(Error::io("create a folder in", folder))?;
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

/// Flushes the disk's caches, if the system can do so for one disk. Errors are ignored: `verify` finds what
/// a power failure loses.
#[cfg(target_os = "linux")]
fn sync(folder: &Path) {
    if let Ok(folder) = File::open(folder) {
        let _ = rustix::fs::syncfs(folder);
    }
}

#[cfg(not(target_os = "linux"))]
fn sync(_folder: &Path) {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        data::catalog::{PublishedFile, PublishedLayout},
        files::{
            archive::tests::{gzip, tar_of, tar_of_files, zip_of},
            download::tests::{Answer, server},
            sha256,
        },
    };
    use std::{
        env,
        io::Read,
        process::{Command, Stdio},
        thread,
    };

    const FILES: [(&str, &[u8]); 4] =
        [("tiny/a/1.png", b"one"), ("tiny/a/2.png", b"two"), ("tiny/b/3.png", &NOISE), ("readme.txt", b"x")];
    /// Bytes that cannot be compressed.
    const NOISE: [u8; 3000] = {
        let (mut bytes, mut state, mut at) = ([0; 3000], 1_u32, 0);
        while at < bytes.len() {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            bytes[at] = (state >> 24) as u8;
            at += 1;
        }
        bytes
    };

    /// A data set with one download, which holds the folder `tiny`.
    fn set_of(file: &'static str, content: &[u8], urls: Vec<&'static str>) -> PublishedSet {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(file);
        fs::write(&path, content).unwrap();
        let Checksums { bytes, md5, .. } = Checksums::of_file(&path).unwrap();
        let download = Download {
            urls: urls.leak(),
            file,
            bytes: Some(bytes),
            md5: md5.leak(),
            sha256: None,
            holds: "tiny",
            split: None,
        };
        PublishedSet {
            name: "tiny",
            about: "",
            images: [0, 3],
            terms: "",
            note: "",
            parts: &[],
            downloads: vec![download].leak(),
            layouts: &[PublishedLayout::TINY],
        }
    }

    fn tiny() -> (PublishedSet, Vec<u8>) {
        let archive = gzip(&tar_of_files(&FILES));
        (set_of("tiny.tar.gz", &archive, Vec::new()), archive)
    }

    fn fetch(folder: &Path, url: &str, set: &PublishedSet) -> Result<()> {
        DataFolder::new(Some(folder)).fetch_from(Some(url), set, &[ROLE], false, &mut |_| ())
    }

    const ROLE: Role = Role::Unknown(Split::Test);

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| name != LOCK);
        names.sort();
        names
    }

    #[test]
    fn a_set_is_downloaded_once_unpacked_and_verified() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join("tiny").join(name);
        let data = DataFolder::new(Some(folder.path()));
        for keep in [false, true] {
            let (set, archive) = tiny();
            let (url, served) = server(archive.clone(), vec![Answer::Properly]);
            let mut events = Vec::new();
            data.fetch_from(Some(&url), &set, &[ROLE], keep, &mut |event| match event {
                FetchEvent::Downloading { url, file, done, bytes } => {
                    events.push(format!("{url} {} {done} {bytes:?}", file.display()));
                }
                FetchEvent::Received { done, total } => {
                    events.truncate(1);
                    events.push(format!("{done} {total:?}"));
                }
                FetchEvent::Unpacked { done, total, .. } => assert!(done <= total),
                other => panic!("{other:?}"),
            })
            .unwrap();
            let length = archive.len();
            let first = format!("{url}/tiny/tiny.tar.gz {} 0 Some({length})", at("tiny.tar.gz").display());
            assert_eq!(events, [first, format!("{length} Some({length})")]);
            assert_eq!(served.join().unwrap(), [["/tiny/tiny.tar.gz".to_owned(), String::new()]]);

            let record = ["tiny.tar.gz.sha256", "tiny.tar.gz.sha256sums"];
            let expected = [&["tiny"][..], if keep { &["tiny.tar.gz"] } else { &[] }, &record].concat();
            assert_eq!(names(&folder.path().join("tiny")), expected);
            assert_eq!(data.find(&set, &[ROLE]).unwrap(), Some(at("tiny")));
            assert_eq!(fs::read_to_string(at(record[0])).unwrap().trim(), sha256(&archive));
            let list = fs::read_to_string(at(record[1])).unwrap();
            let lines: Vec<String> =
                FILES[..3].iter().map(|(name, content)| format!("{}  {name}\n", sha256(content))).collect();
            assert_eq!(list, lines.concat());

            // What is already there needs no server.
            fetch(folder.path(), "http://127.0.0.1:1", &set).unwrap();
            // Its archive does if it is to be kept and is not.
            if !keep {
                let (url, served) = server(archive.clone(), vec![Answer::Properly]);
                data.fetch_from(Some(&url), &set, &[ROLE], true, &mut |_| ()).unwrap();
                served.join().unwrap();
                assert_eq!(fs::read(at("tiny.tar.gz")).unwrap(), archive);
                fs::remove_file(at("tiny.tar.gz")).unwrap();
            }
            let files = if keep { 4 } else { 3 };
            let verified = data.verify(&set).unwrap().unwrap();
            let fetched = Some(folder.path().join("tiny"));
            assert_eq!(verified, Verified { files, images: Some(3), faults: Vec::new(), fetched });
            fs::write(at("tiny/a/1.png"), "two").unwrap();
            fs::remove_file(at("tiny/b/3.png")).unwrap();
            let faults = data.verify(&set).unwrap().unwrap().faults;
            let faults: Vec<String> = faults.iter().map(Fault::to_string).collect();
            assert_eq!(faults.len(), 3, "{faults:?}");
            for (fault, parts) in faults.iter().zip([
                ["a/1.png` is damaged: it has SHA-256", "expected"],
                ["b/3.png", "is missing"],
                ["has 2 images", "expected 3"],
            ]) {
                assert!(parts.iter().all(|part| fault.contains(part)), "{fault}");
            }
            // A damaged list is one more fault.
            fs::write(at(record[1]), b"\xff\xfe").unwrap();
            let faults = data.verify(&set).unwrap().unwrap().faults;
            let faults: Vec<String> = faults.iter().map(Fault::to_string).collect();
            assert!(faults[0].ends_with("sha256sums` is damaged") && faults.len() == 2, "{faults:?}");
            fs::remove_dir_all(folder.path().join("tiny")).unwrap();
            assert_eq!(data.verify(&set).unwrap(), None);
        }
    }

    #[test]
    fn archives_of_every_kind_and_plain_files_are_fetched() {
        for (file, content) in
            [("tiny.tar", tar_of_files(&FILES)), ("tiny.zip", zip_of(&FILES)), ("tiny.gz", gzip(&[7; 100]))]
        {
            let folder = tempfile::tempdir().unwrap();
            let (url, _served) = server(content.clone(), vec![Answer::Properly]);
            let url = format!("{url}/{file}").leak();
            let mut set = set_of(file, &content, vec![url]);
            if file.ends_with(".gz") {
                set.layouts =
                    vec![PublishedLayout::of("", vec![PublishedFile::of("tiny", None)].leak())].leak();
            }
            let data = DataFolder::new(Some(folder.path()));
            data.fetch_from(None, &set, &[ROLE], false, &mut |_| ()).unwrap();
            assert!(folder.path().join("tiny/tiny").exists() && data.verify(&set).unwrap().is_some());
        }
        // A file that is not an archive, for one of the splits.
        let folder = tempfile::tempdir().unwrap();
        let (url, served) = server(b"MATLAB".to_vec(), vec![Answer::Properly]);
        let mut set = set_of("test.mat", b"MATLAB", vec![format!("{url}/test.mat").leak()]);
        let test = Download { holds: "test.mat", split: Some(Split::Test), ..set.downloads[0] };
        let train = Download { holds: "train.mat", file: "train.mat", split: Some(Split::Train), ..test };
        set.downloads = vec![train, test].leak();
        let parts = [
            PublishedFile::of("train.mat", Some(Split::Train)),
            PublishedFile::of("test.mat", Some(Split::Test)),
        ];
        set.layouts = vec![PublishedLayout::of("", parts.to_vec().leak())].leak();
        let data = DataFolder::new(Some(folder.path()));
        data.fetch_from(None, &set, &[ROLE], false, &mut |_| ()).unwrap();
        assert_eq!(served.join().unwrap().len(), 1);
        assert_eq!(data.find(&set, &[ROLE]).unwrap(), Some(folder.path().join("tiny")));
        assert_eq!(data.find(&set, &[Role::Known(Split::Train)]).unwrap(), None);
        assert_eq!(data.verify(&set).unwrap().unwrap().files, 1);
    }

    #[test]
    fn failed_downloads_leave_nothing_but_the_part_file() {
        let folder = tempfile::tempdir().unwrap();
        let (set, archive) = tiny();
        let answers = [
            Answer::Status("404 Not Found"),
            Answer::Page("text/html", "<html>"),
            Answer::Redirect("/tiny/elsewhere"),
            Answer::BreakOff(1000),
            Answer::Properly,
        ];
        let (url, served) = server(archive.clone(), answers.to_vec());
        for (part, left) in
            [("404", &[][..]), ("an HTML page", &[]), ("", &["tiny.tar.gz.part", "tiny.tar.gz.part.origin"])]
        {
            let error = fetch(folder.path(), &url, &set).unwrap_err();
            assert!(
                matches!(&error, Error::Download { mirror: MIRROR, bytes: Some(_), reason, .. } if reason.contains(part)),
                "{error}"
            );
            assert_eq!(names(&folder.path().join("tiny")), left);
        }
        fetch(folder.path(), &url, &set).unwrap();
        assert_eq!(served.join().unwrap()[4], ["/tiny/tiny.tar.gz", "1000-"]);

        let folder = tempfile::tempdir().unwrap();
        let mut other = archive.clone();
        *other.last_mut().unwrap() ^= 1;
        let (url, _served) = server(other, vec![Answer::Properly]);
        let error = fetch(folder.path(), &url, &set).unwrap_err().to_string();
        assert!(error.contains("it has MD5 ") && error.contains("compressed with gzip"), "{error}");
        assert!(names(&folder.path().join("tiny")).is_empty());

        // Put there by hand: a wrong file, then the right one.
        fs::write(folder.path().join("tiny/tiny.tar.gz"), "something else").unwrap();
        let error = fetch(folder.path(), "http://127.0.0.1:1", &set).unwrap_err();
        assert!(matches!(&error, Error::Checksum { .. }), "{error}");
        fs::write(folder.path().join("tiny/tiny.tar.gz"), archive).unwrap();
        fetch(folder.path(), "http://127.0.0.1:1", &set).unwrap();
    }

    #[test]
    fn malicious_and_wrong_archives_are_not_put_in_place() {
        let evil = [FILES[0], ("tiny/../../../x", b"1")];
        for (content, part) in [
            (gzip(&tar_of_files(&evil)), "leads out of the folder"),
            (gzip(&tar_of_files(&FILES[3..])), "it holds no `tiny`"),
            (gzip(&tar_of(&[(tar::EntryType::Symlink, b"tiny", b"/tmp")])), "it holds no `tiny`"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let set = set_of("tiny.tar.gz", &content, Vec::new());
            let (url, _served) = server(content, vec![Answer::Properly]);
            let error = fetch(folder.path(), &url, &set).unwrap_err();
            assert!(matches!(&error, Error::Archive { reason, .. } if reason.contains(part)), "{error}");
            assert_eq!(names(folder.path()), ["tiny"]);
            assert_eq!(names(&folder.path().join("tiny")), ["tiny.tar.gz", "tiny.tar.gz.sha256"]);
        }
    }

    #[test]
    fn existing_files_are_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let (set, _) = tiny();
        let place = folder.path().join("tiny/tiny");
        fs::create_dir_all(&place).unwrap();
        fs::write(place.join("mine.txt"), "").unwrap();
        let error = fetch(folder.path(), "http://127.0.0.1:1", &set).unwrap_err();
        assert!(matches!(&error, Error::Dataset { path, .. } if *path == place), "{error}");
        assert_eq!(names(&place), ["mine.txt"]);
        // A user's own copy is used as it is.
        fs::write(place.join("1.png"), "").unwrap();
        fetch(folder.path(), "http://127.0.0.1:1", &set).unwrap();
    }

    #[test]
    fn an_unwritable_folder_is_detected_before_the_download() {
        let (set, _) = tiny();
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = fetch(file.path(), "http://127.0.0.1:1", &set).unwrap_err();
        assert!(matches!(&error, Error::Io { action: "write", .. }), "{error}");
    }

    /// The instructions for a child process: data folder, mirror, and whether to stop while unpacking.
    const JOB: &str = "CAC_TEST_FETCH";

    /// Runs one of these tests in another process, with a job.
    fn child(test: &str, folder: &Path, url: &str, stops: bool) -> std::process::Child {
        Command::new(env::current_exe().unwrap())
            .args(["--exact", "--nocapture", &format!("data::fetch::tests::{test}")])
            .env(JOB, format!("{}|{url}|{stops}", folder.display()))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// In a child: does the job, and returns true.
    fn did_job() -> bool {
        let Ok(job) = env::var(JOB) else { return false };
        let [folder, url, stops] = job.split('|').collect::<Vec<_>>()[..] else { panic!("{job}") };
        let (set, _) = tiny();
        let data = DataFolder::new(Some(Path::new(folder)));
        data.fetch_from(Some(url), &set, &[ROLE], false, &mut |event| {
            if let (FetchEvent::Unpacked { .. }, "true") = (event, stops) {
                println!("unpacking!");
                loop {
                    thread::park();
                }
            }
        })
        .unwrap();
        true
    }

    #[test]
    fn after_a_kill_the_next_call_starts_from_the_complete_archive() {
        if did_job() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let (set, archive) = tiny();
        let (url, served) = server(archive, vec![Answer::Properly]);
        let name = "after_a_kill_the_next_call_starts_from_the_complete_archive";
        let mut killed = child(name, folder.path(), &url, true);
        let (mut said, mut byte) = (Vec::new(), [0]);
        while !said.ends_with(b"unpacking!") && killed.stdout.as_mut().unwrap().read(&mut byte).unwrap() > 0 {
            said.push(byte[0]);
        }
        killed.kill().unwrap();
        killed.wait().unwrap();
        served.join().unwrap();
        let data = DataFolder::new(Some(folder.path()));
        assert_eq!(data.find(&set, &[ROLE]).unwrap(), None);
        assert_eq!(
            names(&folder.path().join("tiny")).len(),
            3,
            "the archive, its record and what was unpacked"
        );

        fetch(folder.path(), "http://127.0.0.1:1", &set).unwrap();
        let expected = ["tiny", "tiny.tar.gz.sha256", "tiny.tar.gz.sha256sums"];
        assert_eq!(names(&folder.path().join("tiny")), expected);
        assert!(data.verify(&set).unwrap().unwrap().faults.is_empty());
    }

    #[test]
    fn concurrent_processes_download_once() {
        if did_job() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let (set, archive) = tiny();
        let (url, served) = server(archive, vec![Answer::Properly]);
        let name = "concurrent_processes_download_once";
        let children: Vec<_> = (0..3).map(|_| child(name, folder.path(), &url, false)).collect();
        for child in children {
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        }
        assert_eq!(served.join().unwrap().len(), 1);
        let verified = DataFolder::new(Some(folder.path())).verify(&set).unwrap().unwrap();
        let fetched = Some(folder.path().join("tiny"));
        assert_eq!(verified, Verified { files: 3, images: Some(3), faults: Vec::new(), fetched });
    }
}
