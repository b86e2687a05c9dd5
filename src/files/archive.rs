//! Safe unpacking of untrusted archives: tar, tar.gz, ZIP and single files compressed with gzip.

use std::{
    cell::Cell,
    collections::HashSet,
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    rc::Rc,
};

use flate2::bufread::GzDecoder;
use sha2::{Digest, Sha256};
use tar::{Archive, EntryType, PaxExtensions};
use zip::ZipArchive;

use super::{
    checksum::{BUFFER, hexadecimal},
    kind::{self, GZIP},
};
use crate::error::{Error, Result};

/// The maximum bytes of contents per byte of the archive, plus [`EXTRA`].
const MAX_EXPANSION: u64 = 16;
const EXTRA: u64 = 1 << 20;
/// The maximum number of entries, and of bytes and folders in an entry's name.
const MAX_ENTRIES: usize = 1_000_000;
const MAX_NAME: usize = 1024;
const MAX_FOLDERS: usize = 32;
/// The maximum bytes of a header that holds the name of the next entry.
const MAX_HEADER: u64 = 1 << 16;

/// What was unpacked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contents {
    /// The files, in the order of the archive.
    pub files: Vec<Unpacked>,
    /// The number of entries that were left out: links, pipes and devices.
    pub left_out: usize,
}

/// A file that was unpacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpacked {
    /// Its path below the folder, with `/` between the parts.
    pub path: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// Its SHA-256 in hexadecimal.
    pub sha256: String,
}

/// Unpacks an archive, recognised by its content, into an empty folder. A single compressed file gets the
/// name of the archive without `.gz`. `progress` receives the bytes of the archive done so far and their
/// total.
///
/// Nothing is written outside the folder, and no file is written twice. Only files and folders are created,
/// with the usual permissions; links, pipes and devices are left out. The contents are at most 16 times as
/// long as the archive plus 1 MiB, in at most a million entries.
///
/// # Errors
/// [`Error::Archive`] if it is not an archive, is damaged, holds more, or the name of an entry is absolute,
/// leads out of the folder, is not UTF-8, is not allowed on this system, or occurs twice; [`Error::Io`].
/// Files unpacked before the error remain in the folder.
pub fn unpack(archive: &Path, folder: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<Contents> {
    let unreadable = Error::io("read", archive);
    let file = File::open(archive).map_err(unreadable)?;
    let length = file.metadata().map_err(unreadable)?.len();
    let mut unpacking = Unpacking {
        folder,
        left: length.saturating_mul(MAX_EXPANSION).saturating_add(EXTRA),
        entries: 0,
        folders: HashSet::new(),
        contents: Contents::default(),
    };
    let done = Rc::new(Cell::new(0));
    let counted = || -> io::Result<_> {
        Ok(BufReader::new(Counted { file: File::open(archive)?, done: Rc::clone(&done) }))
    };
    let mut observe = || progress(done.get(), length);
    let start = kind::first_bytes(File::open(archive).map_err(unreadable)?).map_err(unreadable)?;
    let unpacked = match kind::of(&start) {
        _ if kind::is_zip(&start) || start.starts_with(b"PK\x05\x06") => {
            unpacking.zip(file, &mut |packed| progress(packed, length))
        }
        _ if kind::is_tar(&start) => unpacking.tar(counted().map_err(unreadable)?, &mut observe),
        _ if start.starts_with(GZIP) => {
            let reader = || Ok(Members::new(counted()?));
            match reader().and_then(kind::first_bytes) {
                Err(error) => Err(error.into()),
                Ok(inside) if kind::is_tar(&inside) => {
                    done.set(0);
                    unpacking.tar(reader().map_err(unreadable)?, &mut observe)
                }
                Ok(_) => {
                    done.set(0);
                    let name = archive.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                    let mut file = reader().map_err(unreadable)?;
                    unpacking.file(name.as_bytes(), &mut file, None, &mut observe)
                }
            }
        }
        Some(what) => Err(Fault::Archive(format!("it is {what}, not an archive"))),
        None => Err(Fault::Archive("it is not an archive".to_owned())),
    };
    match unpacked {
        Ok(()) => Ok(unpacking.contents),
        Err(Fault::Archive(reason)) => Err(Error::Archive { path: archive.to_owned(), reason }),
        Err(Fault::Disk(path, error)) => Err(Error::Io { action: "write", path, error }),
    }
}

/// Why unpacking ended early.
enum Fault {
    Archive(String),
    Disk(PathBuf, io::Error),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Archive(error.to_string())
    }
}

impl From<zip::result::ZipError> for Fault {
    fn from(error: zip::result::ZipError) -> Self {
        Self::Archive(error.to_string())
    }
}

fn too_long() -> Fault {
    Fault::Archive(format!("it unpacks to more than {MAX_EXPANSION} times its size"))
}

/// The members of a gzip file, one after another. Other bytes after them are ignored, as by gzip.
struct Members<R>(Option<GzDecoder<R>>);

impl<R: BufRead> Members<R> {
    fn new(reader: R) -> Self {
        Self(Some(GzDecoder::new(reader)))
    }
}

impl<R: BufRead> Read for Members<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.0 {
            let count = member.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            let mut reader = self.0.take().expect("a member").into_inner();
            // A buffer may end after the first byte of a header.
            if reader.fill_buf()?.first() == GZIP.first() {
                self.0 = Some(GzDecoder::new(reader));
            }
        }
        Ok(0)
    }
}

/// A file whose bytes are counted as they are read.
struct Counted {
    file: File,
    done: Rc<Cell<u64>>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.file.read(buffer)?;
        self.done.set(self.done.get() + length as u64);
        Ok(length)
    }
}

/// An archive that is being unpacked.
struct Unpacking<'a> {
    folder: &'a Path,
    /// The bytes that may still be written.
    left: u64,
    entries: usize,
    /// The folders that exist.
    folders: HashSet<PathBuf>,
    contents: Contents,
}

impl Unpacking<'_> {
    fn tar(&mut self, reader: impl Read, observe: &mut dyn FnMut()) -> Result<(), Fault> {
        let mut archive = Archive::new(reader);
        // The name of the next entry, if a header before it has one.
        let mut name: Option<Vec<u8>> = None;
        for entry in archive.entries()?.raw(true) {
            let mut entry = entry?;
            self.count()?;
            let kind = entry.header().entry_type();
            match kind {
                EntryType::XGlobalHeader | EntryType::GNULongLink => continue,
                EntryType::GNULongName => {
                    let mut long = header(&mut entry)?;
                    while long.last() == Some(&0) {
                        long.pop();
                    }
                    name = Some(long);
                    continue;
                }
                EntryType::XHeader => {
                    for extension in PaxExtensions::new(&header(&mut entry)?) {
                        let extension = extension?;
                        match extension.key_bytes() {
                            b"path" => name = Some(extension.value_bytes().to_vec()),
                            b"size" => return Err(refused("an entry", "is longer than 8 GiB")),
                            key if key.starts_with(b"GNU.sparse") => {
                                return Err(refused("an entry", "is a sparse file"));
                            }
                            _ => {}
                        }
                    }
                    continue;
                }
                _ => {}
            }
            let name = name.take().unwrap_or_else(|| entry.path_bytes().into_owned());
            match kind {
                EntryType::Directory => self.folder(&name)?,
                // Old archives mark a folder by the end of its name.
                EntryType::Regular | EntryType::Continuous if name.ends_with(b"/") => self.folder(&name)?,
                EntryType::Regular | EntryType::Continuous => {
                    let length = entry.size();
                    self.file(&name, &mut entry, Some(length), observe)?;
                }
                EntryType::GNUSparse => return Err(refused(&shown(&name), "is a sparse file")),
                _ => self.contents.left_out += 1,
            }
        }
        // The checksum of what the archive is compressed in comes last, after the padding.
        let rest = io::copy(&mut archive.into_inner().take(self.left.saturating_add(1)), &mut io::sink())?;
        if rest > self.left {
            return Err(too_long());
        }
        Ok(())
    }

    fn zip(&mut self, file: File, observe: &mut dyn FnMut(u64)) -> Result<(), Fault> {
        let mut archive = ZipArchive::new(BufReader::new(file))?;
        let mut packed = 0_u64;
        for index in 0..archive.len() {
            let mut entry = archive.by_index(index)?;
            self.count()?;
            let name = entry.name_raw().to_vec();
            // The type in the mode of Unix: none, a file, a folder, or something else.
            let kind = entry.unix_mode().unwrap_or(0) & 0o170_000;
            packed = packed.saturating_add(entry.compressed_size());
            if entry.is_dir() {
                self.folder(&name)?;
            } else if [0, 0o100_000].contains(&kind) {
                let length = entry.size();
                self.file(&name, &mut entry, Some(length), &mut || ())?;
            } else {
                self.contents.left_out += 1;
            }
            observe(packed);
        }
        Ok(())
    }

    fn count(&mut self) -> Result<(), Fault> {
        self.entries += 1;
        if self.entries > MAX_ENTRIES {
            return Err(Fault::Archive(format!("it has more than {MAX_ENTRIES} entries")));
        }
        Ok(())
    }

    /// Makes the folder of an entry.
    fn folder(&mut self, name: &[u8]) -> Result<(), Fault> {
        match relative(name, cfg!(windows)).map_err(|reason| refused(&shown(name), reason))? {
            Some(path) => self.make_folder(&self.folder.join(path), name),
            None => Ok(()),
        }
    }

    fn make_folder(&mut self, folder: &Path, name: &[u8]) -> Result<(), Fault> {
        if !self.folders.contains(folder) {
            fs::create_dir_all(folder).map_err(|error| unwritable(folder, name, error))?;
            self.folders.insert(folder.to_owned());
        }
        Ok(())
    }

    /// Writes the file of an entry; its length may be unknown.
    fn file(
        &mut self,
        name: &[u8],
        entry: &mut dyn Read,
        length: Option<u64>,
        observe: &mut dyn FnMut(),
    ) -> Result<(), Fault> {
        let fault = |reason: &str| refused(&shown(name), reason);
        let path = relative(name, cfg!(windows)).map_err(fault)?.ok_or_else(|| fault("has no name"))?;
        let place = self.folder.join(&path);
        if let Some(above) = place.parent() {
            self.make_folder(above, name)?;
        }
        let disk = |error| unwritable(&place, name, error);
        let mut file = OpenOptions::new().write(true).create_new(true).open(&place).map_err(disk)?;
        let (mut sum, mut bytes, mut buffer) = (Sha256::new(), 0, vec![0; BUFFER]);
        loop {
            let piece = match entry.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => &buffer[..read],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(fault(&format!("cannot be read: {error}"))),
            };
            self.left = self.left.checked_sub(piece.len() as u64).ok_or_else(too_long)?;
            file.write_all(piece).map_err(disk)?;
            sum.update(piece);
            bytes += piece.len() as u64;
            observe();
        }
        if let Some(length) = length.filter(|&length| length != bytes) {
            return Err(fault(&format!("ends after {bytes} of {length} bytes")));
        }
        self.contents.files.push(Unpacked { path, bytes, sha256: hexadecimal(sum) });
        Ok(())
    }
}

/// The content of a header, which must be short.
fn header(entry: &mut impl Read) -> Result<Vec<u8>, Fault> {
    let mut bytes = Vec::new();
    entry.take(MAX_HEADER + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_HEADER {
        return Err(refused("an entry", "has a header that is too long"));
    }
    Ok(bytes)
}

/// The name of an entry, for errors.
fn shown(name: &[u8]) -> String {
    format!("`{}`", name[..name.len().min(MAX_NAME)].escape_ascii())
}

fn refused(entry: &str, reason: &str) -> Fault {
    Fault::Archive(format!("{entry} {reason}"))
}

/// The fault if a file or folder cannot be created; the archive itself may be to blame.
fn unwritable(place: &Path, name: &[u8], error: io::Error) -> Fault {
    use io::ErrorKind::{AlreadyExists, InvalidFilename, InvalidInput, IsADirectory, NotADirectory};
    match error.kind() {
        AlreadyExists => refused(&shown(name), "is in it twice"),
        NotADirectory | IsADirectory => refused(&shown(name), "is a file and a folder"),
        InvalidFilename | InvalidInput => refused(&shown(name), "is not a name on this system"),
        _ => Fault::Disk(place.to_owned(), error),
    }
}

/// The path of an entry below the folder, with `/` between the parts; `None` for the folder itself. The
/// error says what is wrong with the name.
fn relative(name: &[u8], is_windows: bool) -> Result<Option<String>, &'static str> {
    const LEADS_OUT: &str = "leads out of the folder";
    let name = std::str::from_utf8(name).map_err(|_| "is not UTF-8")?;
    if name.len() > MAX_NAME {
        return Err("is too long");
    }
    if name.chars().any(char::is_control) {
        return Err("has control characters");
    }
    let drive = name.as_bytes().get(1) == Some(&b':') && name.as_bytes()[0].is_ascii_alphabetic();
    if name.starts_with('/') || name.starts_with('\\') || drive {
        return Err("is absolute");
    }
    // Windows accepts both as separators.
    if name.split(['/', '\\']).any(|part| part == "..") {
        return Err(LEADS_OUT);
    }
    let parts: Vec<&str> = name.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    if parts.len() > MAX_FOLDERS {
        return Err("is in too many folders");
    }
    if is_windows && parts.iter().any(|part| !is_windows_name(part)) {
        return Err("is not a name on Windows");
    }
    Ok(if parts.is_empty() { None } else { Some(parts.join("/")) })
}

/// Whether a part of a path is a valid file name on Windows and names no other file there.
fn is_windows_name(part: &str) -> bool {
    const DEVICES: [&str; 6] = ["CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"];
    let stem = part.split('.').next().unwrap_or_default().trim_end().to_uppercase();
    let numbered = ["COM", "LPT"].iter().any(|device| {
        stem.strip_prefix(device).is_some_and(|number| {
            number.chars().count() == 1 && number.chars().all(|digit| "0123456789¹²³".contains(digit))
        })
    });
    !part.contains(['\\', ':', '*', '?', '"', '<', '>', '|'])
        && !part.ends_with(['.', ' '])
        && !DEVICES.contains(&stem.as_str())
        && !numbered
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::io::Cursor;

    /// A tar archive of entries: type, name, content.
    pub(crate) fn tar_of(entries: &[(EntryType, &[u8], &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (kind, name, content) in entries {
            let mut header = tar::Header::new_ustar();
            // `set_path` would refuse what is tested here.
            header.as_old_mut().name[..name.len()].copy_from_slice(name);
            if matches!(*kind, EntryType::Symlink | EntryType::Link) {
                header.as_old_mut().linkname[..content.len()].copy_from_slice(content);
                header.set_size(0);
            } else {
                header.set_size(content.len() as u64);
            }
            header.set_mode(0o7777);
            header.set_entry_type(*kind);
            header.set_cksum();
            builder.append(&header, if header.size().unwrap() == 0 { &[][..] } else { content }).unwrap();
        }
        builder.into_inner().unwrap()
    }

    pub(crate) fn tar_of_files(files: &[(&str, &[u8])]) -> Vec<u8> {
        let entries: Vec<_> =
            files.iter().map(|(name, content)| (EntryType::Regular, name.as_bytes(), *content)).collect();
        tar_of(&entries)
    }

    pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    pub(crate) fn zip_of(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
        for (name, content) in files {
            writer.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
            writer.write_all(content).unwrap();
        }
        writer.finish().unwrap().into_inner()
    }

    /// Unpacks an archive with this name into a folder within a folder. Returns what is in the outer one.
    fn unpacked(name: &str, archive: &[u8]) -> (Result<Contents>, Vec<(String, Vec<u8>)>) {
        let outer = tempfile::tempdir().unwrap();
        let (path, folder) = (outer.path().join(name), outer.path().join("in"));
        fs::write(&path, archive).unwrap();
        fs::create_dir(&folder).unwrap();
        let mut last = (0, 0);
        let result = unpack(&path, &folder, &mut |done, total| last = (done, total));
        assert!(result.is_err() || last.0 <= last.1, "{last:?}");
        fs::remove_file(&path).unwrap();
        let mut files = Vec::new();
        let mut folders = vec![outer.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
                assert!(!entry.is_symlink());
                if entry.is_dir() {
                    folders.push(entry);
                } else {
                    let name = entry.strip_prefix(outer.path()).unwrap().to_str().unwrap().to_owned();
                    files.push((name, fs::read(entry).unwrap()));
                }
            }
        }
        files.sort();
        (result, files)
    }

    fn reason(name: &str, archive: &[u8]) -> String {
        let (result, files) = unpacked(name, archive);
        assert!(files.iter().all(|(name, _)| name.starts_with("in/")), "{files:?}");
        match result {
            Err(Error::Archive { path, reason }) if path.ends_with(name) => reason,
            other => panic!("{other:?}"),
        }
    }

    const FILES: [(&str, &[u8]); 3] = [("set/a.txt", b"one"), ("./set/deep/b", b""), ("set/c", &[7; 5000])];

    #[test]
    fn every_format_is_unpacked_whatever_its_name() {
        let tar = tar_of_files(&FILES);
        let mut with_folder =
            tar_of(&[(EntryType::Directory, b"set/", b""), (EntryType::Directory, b"./", b"")]);
        with_folder.truncate(2 * 512);
        with_folder.extend(&tar);
        // Two gzip members are one stream.
        let parts = [gzip(&tar[..700]), gzip(&tar[700..])].concat();
        for archive in [tar.clone(), gzip(&tar), zip_of(&FILES), with_folder, parts] {
            let (contents, files) = unpacked("any", &archive);
            let contents = contents.unwrap();
            let expected = [("in/set/a.txt", &b"one"[..]), ("in/set/c", &[7; 5000]), ("in/set/deep/b", b"")];
            assert_eq!(files, expected.map(|(name, content)| (name.to_owned(), content.to_vec())));
            let first = &contents.files[0];
            assert_eq!((first.path.as_str(), first.bytes, contents.left_out), ("set/a.txt", 3, 0));
            assert_eq!(first.sha256, crate::files::sha256(b"one"));
        }
        let (contents, files) = unpacked("t10k-labels-idx1-ubyte.gz", &gzip(&[0, 0, 8, 1]));
        assert_eq!(files, [("in/t10k-labels-idx1-ubyte".to_owned(), vec![0, 0, 8, 1])]);
        assert_eq!(contents.unwrap().files.len(), 1);
    }

    #[test]
    fn long_names_are_read() {
        let long = format!("{}/x", "d".repeat(150));
        let mut gnu = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(1);
        gnu.append_data(&mut header, &long, &b"1"[..]).unwrap();
        let mut pax = tar::Builder::new(Vec::new());
        pax.append_pax_extensions([("path", long.as_bytes()), ("mtime", b"1.5")]).unwrap();
        let mut header = tar::Header::new_ustar();
        header.set_path("short").unwrap();
        header.set_size(1);
        header.set_cksum();
        pax.append(&header, &b"1"[..]).unwrap();
        for archive in [gnu.into_inner().unwrap(), pax.into_inner().unwrap()] {
            let (contents, _) = unpacked("a.tar", &archive);
            assert_eq!(contents.unwrap().files[0].path, long);
        }
        // The name in the extended header counts.
        let mut pax = tar::Builder::new(Vec::new());
        pax.append_pax_extensions([("path", &b"../x"[..])]).unwrap();
        pax.append(&header, &b"1"[..]).unwrap();
        assert_eq!(reason("a.tar", &pax.into_inner().unwrap()), "`../x` leads out of the folder");
    }

    #[test]
    fn unsafe_names_are_refused() {
        for (name, fault) in [
            (&b"../x"[..], "leads out of the folder"),
            (b"a/../../x", "leads out of the folder"),
            (b"a/..", "leads out of the folder"),
            (b"a\\..\\..\\x", "leads out of the folder"),
            (b"/etc/passwd", "is absolute"),
            (b"\\x", "is absolute"),
            (b"C:\\x", "is absolute"),
            (b"c:x", "is absolute"),
            (b"a\nb", "has control characters"),
            (b"a\xea\xee", "is not UTF-8"),
            (&[b'a'; 1025], "is too long"),
            (&b"a/".repeat(33), "is in too many folders"),
        ] {
            for is_windows in [false, true] {
                assert_eq!(relative(name, is_windows), Err(fault), "{name:?}");
            }
            if name.len() <= 100 {
                let entry = [(EntryType::Regular, name, &b"1"[..])];
                let reason = reason("a.tar", &tar_of(&entry));
                assert!(reason.ends_with(fault), "{reason}");
            }
            if let Ok(text) = std::str::from_utf8(name) {
                let reason = reason("a.zip", &zip_of(&[(text, b"1")]));
                assert!(reason.ends_with(fault), "{reason}");
            }
        }
        for name in ["ab:c", "CON", "aux.txt", "a/nul ", "com1.jpg", "LPT²", "a.", "a/b .", "x|y", "a\\b"] {
            assert_eq!(relative(name.as_bytes(), true), Err("is not a name on Windows"), "{name}");
            assert_eq!(relative(name.as_bytes(), false), Ok(Some(name.to_owned())));
        }
        for (name, path) in [("./a//b/./c", Some("a/b/c")), ("...", Some("...")), ("./", None), ("", None)] {
            assert_eq!(relative(name.as_bytes(), false), Ok(path.map(str::to_owned)), "{name}");
        }
        assert_eq!(relative(b"console/COM10.jpg", true), Ok(Some("console/COM10.jpg".to_owned())));
    }

    #[test]
    fn links_and_devices_are_left_out() {
        use EntryType::{Block, Char, Fifo, Link, Regular, Symlink};
        let archive = tar_of(&[
            (Symlink, b"out", b"/tmp"),
            (Regular, b"out/x", b"1"),
            (Symlink, b"y", b"../../y"),
            (Regular, b"y", b"2"),
            (Link, b"passwd", b"/etc/passwd"),
            (Fifo, b"pipe", b""),
            (Char, b"char", b""),
            (Block, b"block", b""),
        ]);
        let (contents, files) = unpacked("a.tar", &archive);
        assert_eq!(contents.unwrap().left_out, 6);
        let expected = [("in/out/x".to_owned(), b"1".to_vec()), ("in/y".to_owned(), b"2".to_vec())];
        assert_eq!(files, expected);

        let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
        writer.add_symlink("out", "/tmp", zip::write::SimpleFileOptions::default()).unwrap();
        writer.start_file("out/x", zip::write::SimpleFileOptions::default()).unwrap();
        writer.write_all(b"1").unwrap();
        let (contents, files) = unpacked("a.zip", &writer.finish().unwrap().into_inner());
        assert_eq!((contents.unwrap().left_out, files), (1, expected[..1].to_vec()));
    }

    #[test]
    fn sparse_files_and_lengths_beside_the_header_are_refused() {
        let mut header = tar::Header::new_gnu();
        header.set_path("a").unwrap();
        header.set_size(0);
        header.set_entry_type(EntryType::GNUSparse);
        header.set_cksum();
        let mut sparse = tar::Builder::new(Vec::new());
        sparse.append(&header, io::empty()).unwrap();
        assert_eq!(reason("a.tar", &sparse.into_inner().unwrap()), "`a` is a sparse file");
        for (key, fault) in
            [("GNU.sparse.major", "an entry is a sparse file"), ("size", "an entry is longer than 8 GiB")]
        {
            let mut pax = tar::Builder::new(Vec::new());
            pax.append_pax_extensions([(key, &b"1"[..])]).unwrap();
            assert_eq!(reason("a.tar", &pax.into_inner().unwrap()), fault);
        }
    }

    #[test]
    fn nothing_is_written_twice() {
        use EntryType::{Directory, Regular};
        for (entries, fault) in [
            ([(Regular, &b"a"[..], &b"1"[..]), (Regular, b"./a", b"2")], "`./a` is in it twice"),
            ([(Regular, b"a", b"1"), (Regular, b"a/b", b"2")], "`a/b` is "),
            ([(Regular, b"a/b", b"1"), (Regular, b"a", b"2")], "`a` is "),
            ([(Regular, b"a", b"1"), (Directory, b"a", b"")], "`a` is "),
        ] {
            let reason = reason("a.tar", &tar_of(&entries));
            assert!(reason.starts_with(fault), "{reason}");
        }
        assert!(reason("a.zip", &zip_of(&[("a", b"1"), ("./a", b"2")])).ends_with("is in it twice"));
    }

    #[cfg(unix)]
    #[test]
    fn permissions_in_archives_are_ignored() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.tar");
        fs::write(&path, tar_of_files(&[("x", b"1")])).unwrap();
        unpack(&path, folder.path(), &mut |_, _| ()).unwrap();
        assert_eq!(fs::metadata(folder.path().join("x")).unwrap().permissions().mode() & 0o7111, 0);
    }

    #[test]
    fn contents_are_bounded() {
        let long = vec![0; 3 << 20];
        let bounded = "it unpacks to more than 16 times its size";
        assert_eq!(reason("a.gz", &gzip(&long)), bounded);
        assert_eq!(reason("a.tar.gz", &gzip(&tar_of_files(&[("a", &long)]))), bounded);
        let deflated =
            zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
        let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
        for name in ["a", "b", "c"] {
            writer.start_file(name, deflated).unwrap();
            writer.write_all(&long[..1 << 20]).unwrap();
        }
        assert_eq!(reason("a.zip", &writer.finish().unwrap().into_inner()), bounded);

        // A false length in a header.
        let mut archive = tar_of_files(&[("a", b"1")]);
        let mut header = tar::Header::from_byte_slice(&archive[..512]).clone();
        header.set_size(u64::MAX / 4);
        header.set_cksum();
        archive[..512].copy_from_slice(header.as_bytes());
        let claimed = reason("a.tar", &archive);
        assert!(claimed.starts_with("`a` "), "{claimed}");

        // A name of many MB.
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(long.len() as u64);
        header.set_entry_type(EntryType::GNULongName);
        header.set_path("././@LongLink").unwrap();
        header.set_cksum();
        builder.append(&header, &long[..]).unwrap();
        let named = reason("a.tar.gz", &gzip(&builder.into_inner().unwrap()));
        assert_eq!(named, "an entry has a header that is too long");
    }

    #[test]
    fn errors_name_damage_and_other_file_types() {
        let tar = tar_of_files(&FILES);
        for archive in [tar[..600].to_vec(), gzip(&tar)[..100].to_vec(), zip_of(&FILES)[..60].to_vec()] {
            reason("a", &archive);
        }
        // Bytes after the archive, and a second member.
        for more in [&[0; 40][..], b"text", &gzip(&[0; 512])] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("a.tar.gz");
            fs::write(&path, [&gzip(&tar), more].concat()).unwrap();
            let contents = unpack(&path, folder.path(), &mut |_, _| ()).unwrap();
            assert_eq!(contents.files.len(), FILES.len());
        }
        let mut flipped = gzip(&tar);
        let checksum = flipped.len() - 6;
        flipped[checksum] ^= 1;
        assert!(reason("a.tar.gz", &flipped).contains("corrupt"), "{}", reason("a.tar.gz", &flipped));
        let mut flipped = gzip(&[1; 2000]);
        let last = flipped.len() - 6;
        flipped[last] ^= 1;
        assert!(reason("a.gz", &flipped).contains("cannot be read"));
        assert_eq!(reason("a", b"<!doctype html><p>"), "it is an HTML page, not an archive");
        assert_eq!(reason("a", b"some text"), "it is not an archive");
        let folder = tempfile::tempdir().unwrap();
        let missing = unpack(&folder.path().join("none"), folder.path(), &mut |_, _| ());
        assert!(matches!(missing, Err(Error::Io { action: "read", .. })));
    }
}
