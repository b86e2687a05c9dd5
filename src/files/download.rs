//! Downloads: fetched once, verified and kept.

mod part;
mod server;

use std::{
    collections::VecDeque,
    env,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use self::{
    part::Part,
    server::{Broken, PATIENCE, Patience, transfer, without_user},
};
use super::{
    atomic,
    checksum::{Checksums, Expected},
    kind,
};
use crate::{
    error::{Error, Result},
    text::shown,
};

/// Checks the content of a file and returns what is wrong with it, if anything.
type Check = fn(&Path) -> Result<Option<String>>;

/// A file on servers.
pub(crate) struct Remote<'a> {
    /// Its URLs, at least one, tried in order.
    pub urls: Vec<String>,
    /// What is published about it.
    pub expected: Expected<'a>,
    /// The maximum bytes of a file whose length is not published.
    pub most: u64,
    /// Called if no whole SHA-256 is published.
    pub fault: Check,
    /// The environment variable that names another source, for error messages.
    pub mirror: &'static str,
    /// The published data set that it belongs to, if any, for error messages.
    pub set: Option<&'static str>,
}

/// The progress of fetching a published data set or published weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FetchEvent<'a> {
    /// Waiting for another process that is fetching the same file or data set.
    Waiting,
    /// A request is sent for the bytes of a file from `done` on.
    Downloading {
        /// The source, without a user's name and password.
        url: &'a str,
        /// The destination.
        file: &'a Path,
        /// The bytes that an interrupted download left.
        done: u64,
        /// Its length in bytes, if it is published.
        bytes: Option<u64>,
    },
    /// More of the file has arrived.
    Received {
        /// The bytes on disk so far.
        done: u64,
        /// The length of the whole file in bytes, if the server states it.
        total: Option<u64>,
    },
    /// Part of an archive has been unpacked.
    Unpacked {
        /// The archive.
        file: &'a Path,
        /// The bytes of the archive unpacked so far.
        done: u64,
        /// The length of the archive.
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

/// Downloads a file unless it exists, and verifies it against what is published. The SHA-256 of the file is
/// recorded in `FILE.sha256` when it is first seen, and must stay the same. An
/// interrupted transfer is resumed.
///
/// # Errors
/// [`Error::Download`] if no server can be reached, the connection is closed early, or another file arrives;
/// [`Error::Replaced`] if that is not the recorded one;
/// [`Error::Checksum`] if the existing file has another checksum; [`Error::Io`] if the file cannot be written
/// or the disk has no room for it.
pub(crate) fn fetch(remote: &Remote, file: &Path, observe: &mut dyn FnMut(FetchEvent)) -> Result<Checksums> {
    fetch_within(PATIENCE, remote, file, observe)
}

/// The URL of a mirror that an environment variable names, if any, without a slash at its end.
///
/// # Errors
/// [`Error::Setting`] if it is not UTF-8: nothing else is asked instead.
pub(crate) fn mirror(variable: &'static str) -> Result<Option<String>> {
    match env::var(variable) {
        Ok(mirror) if mirror.is_empty() => Ok(None),
        Ok(mirror) => Ok(Some(mirror.trim_end_matches('/').to_owned())),
        Err(env::VarError::NotPresent) => Ok(None),
        Err(env::VarError::NotUnicode(value)) => {
            Err(Error::setting(variable, format!("`{}`", shown(Path::new(&value))), "must be UTF-8"))
        }
    }
}

/// Where the SHA-256 of a downloaded file is recorded.
pub(crate) fn record_of(file: &Path) -> PathBuf {
    file.with_added_extension("sha256")
}

/// Verifies an existing file. Its SHA-256 is recorded next to it if none is yet; if none is published
/// either, its content is checked first.
///
/// # Errors
/// [`Error::Checksum`] if its checksum differs from the published or the recorded one, or the check finds
/// a fault; [`Error::Io`] if it cannot be read.
pub(crate) fn verify(expected: &Expected, file: &Path, check: Check) -> Result<Checksums> {
    let record = record_of(file);
    let recorded = recorded(expected, &record)?;
    if expected.sha256.is_none()
        && recorded.is_none()
        && let Some(reason) = check(file)?
    {
        return Err(Error::Checksum { path: file.to_owned(), reason });
    }
    let expected = Expected { sha256: expected.sha256.or(recorded.as_deref()), ..*expected };
    let found = Checksums::of_file(file)?;
    if let Some(fault) = expected.fault(&found) {
        return Err(Error::Checksum { path: file.to_owned(), reason: fault });
    }
    if !record.exists() {
        // A read-only cache is still usable.
        let _ = atomic::write(&record, format!("{}\n", found.sha256).as_bytes());
    }
    Ok(found)
}

/// The recorded SHA-256, unless one is published. `sha256sum` writes a name after it.
///
/// # Errors
/// [`Error::Checksum`] if the record holds none, [`Error::Io`] if it cannot be read.
fn recorded(expected: &Expected, record: &Path) -> Result<Option<String>> {
    if expected.sha256.is_some() {
        return Ok(None);
    }
    let text = match fs::read(record) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("read", record)(error)),
    };
    let text = String::from_utf8_lossy(&text);
    let sum = text.split_whitespace().next().unwrap_or_default().to_lowercase();
    if sum.len() != 64 || !sum.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(Error::Checksum { path: record.to_owned(), reason: "it holds no SHA-256".to_owned() });
    }
    Ok(Some(sum))
}

fn fetch_within(
    patience: Patience,
    remote: &Remote,
    file: &Path,
    observe: &mut dyn FnMut(FetchEvent),
) -> Result<Checksums> {
    if file.exists() {
        return verify(&remote.expected, file, remote.fault);
    }
    let record = record_of(file);
    let recorded = recorded(&remote.expected, &record)?;
    let expected = Expected { sha256: remote.expected.sha256.or(recorded.as_deref()), ..remote.expected };
    let folder = atomic::folder_of(file);
    fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    let path = Part::path_for(file);
    let disk = Error::io("write", &path);
    let mut part = Part::open(&path, observe).map_err(&disk)?;
    if file.exists() {
        // Another process has downloaded the file and renamed its part. The part that was just created is a
        // leftover.
        let _ = part.remove();
        return verify(&remote.expected, file, remote.fault);
    }
    let mut faults: Vec<(String, String)> = Vec::new();
    let mut is_other_than_recorded = false;
    let is_of = |part: &Part, url: &str| part.origin().is_some_and(|origin| origin.url == without_user(url));
    // First the address of what is here.
    let (own, others): (Vec<_>, Vec<_>) = remote.urls.iter().partition(|url| is_of(&part, url));
    let mut urls: VecDeque<&String> = own.into_iter().chain(others).collect();
    while let Some(url) = urls.pop_front() {
        let before = part.len().map_err(&disk)?;
        let is_resumed = match transfer(patience, url, remote, file, &mut part, observe) {
            Ok(is_resumed) => is_resumed,
            Err(Broken::Disk(error)) => return Err(disk(error)),
            Err(Broken::Server(reason)) => {
                faults.push((without_user(url), reason));
                let goes_on = before > 0 && part.len().map_err(&disk)? > before && is_of(&part, url);
                // Another address would discard what has arrived from this one, again and again.
                if goes_on && !remote.expected.is_checked() {
                    break;
                }
                continue;
            }
        };
        let found = Checksums::of_file(&path)?;
        let fault = match expected.fault(&found) {
            Some(fault) => Some(format!("{fault}{}", described(&path)?)),
            None if expected.sha256.is_some() => None,
            None => (remote.fault)(&path)?,
        };
        let Some(fault) = fault else {
            atomic::write(&record, format!("{}\n", found.sha256).as_bytes())?;
            part.finish(file).map_err(Error::io("write", file))?;
            return Ok(found);
        };
        // Resuming would not repair it.
        part.clear().map_err(&disk)?;
        if is_resumed {
            // What was here may be of another file: the whole one is asked for.
            urls.push_front(url);
            continue;
        }
        faults.push((without_user(url), fault));
        is_other_than_recorded |= recorded.as_ref().is_some_and(|recorded| *recorded != found.sha256);
    }
    let is_empty = part.len().map_err(&disk)? == 0;
    let has_version = part.origin().is_some_and(|origin| !origin.version.is_empty());
    if is_empty {
        part.remove().map_err(Error::io("remove", &path))?;
    }
    if is_other_than_recorded {
        let faults: Vec<String> = faults.iter().map(|(url, fault)| format!("`{url}`: {fault}")).collect();
        return Err(Error::Replaced { record, reason: faults.join("; ") });
    }
    let nothing = || (String::new(), "it has no address".to_owned());
    let (url, reason) = faults.first().cloned().unwrap_or_else(nothing);
    let others = faults.iter().skip(1).map(|(url, reason)| format!("; `{url}`: {reason}"));
    Err(Error::Download {
        url: url.into(),
        path: file.to_owned(),
        bytes: expected.bytes,
        is_resumable: !is_empty && (remote.expected.is_checked() || has_version),
        mirror: remote.mirror,
        set: remote.set,
        reason: reason + &others.collect::<String>(),
    })
}

/// `; it is ...`, if the first bytes of a file identify it.
fn described(path: &Path) -> Result<String> {
    let start = File::open(path).and_then(kind::first_bytes).map_err(Error::io("read", path))?;
    Ok(kind::of(&start).map_or(String::new(), |what| format!("; it is {what}")))
}

/// The number of bytes of a file already on disk, from earlier downloads too.
pub(crate) fn bytes_here(file: &Path) -> u64 {
    file.metadata().or_else(|_| Part::path_for(file).metadata()).map_or(0, |here| here.len())
}

/// Checks that a folder's disk has room for this many bytes, if that is known.
///
/// # Errors
/// [`Error::Io`] of the kind [`StorageFull`](io::ErrorKind::StorageFull).
pub(crate) fn check_room(folder: &Path, bytes: u64) -> Result<()> {
    room(folder, bytes).map_err(Error::io("write", folder))
}

fn room(folder: &Path, bytes: u64) -> io::Result<()> {
    match free(folder) {
        Some(free) if free < bytes => {
            let reason = format!("{bytes} bytes are needed, {free} are free");
            Err(io::Error::new(io::ErrorKind::StorageFull, reason))
        }
        _ => Ok(()),
    }
}

/// The bytes of a folder's disk that are free for this user.
#[cfg(unix)]
fn free(folder: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(folder).ok()?;
    disk.f_bavail.checked_mul(disk.f_frsize)
}

#[cfg(not(unix))]
fn free(_folder: &Path) -> Option<u64> {
    None
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{
        io::{BufRead, BufReader, Read, Write},
        net::TcpListener,
        thread::{self, JoinHandle},
        time::Duration,
    };

    use super::{server::MAX_REDIRECTS, *};
    use crate::files::sha256;

    const NAME: &str = "weights.pt";

    /// How the server answers a request.
    #[derive(Clone, Copy)]
    pub(crate) enum Answer {
        /// With the requested range.
        Properly,
        /// With the whole file, ignoring ranges.
        Whole,
        /// With the head and only this many bytes of the file.
        BreakOff(usize),
        /// With the head and this many bytes, and then with nothing until the client gives up.
        Stall(usize),
        /// With the requested range if `If-Range` has this tag, else with the whole file; in either case, at
        /// most this many bytes are sent.
        Tagged(&'static str, usize),
        /// With the requested range of a file with this tag, whatever `If-Range` has.
        Mistaken(&'static str),
        /// With a weak tag and this date, and only this many bytes of the file.
        Dated(&'static str, usize),
        /// With another address, relative to the server's.
        Redirect(&'static str),
        /// Like [`Properly`](Self::Properly), but only the first bytes of the rest, as if these were all: the
        /// head does not state the length.
        Short(usize),
        /// With this content type and text.
        Page(&'static str, &'static str),
        Status(&'static str),
    }

    /// Serves a file on loopback with these answers; returns the requested paths and ranges.
    pub(crate) fn server(file: Vec<u8>, answers: Vec<Answer>) -> (String, JoinHandle<Vec<[String; 2]>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let serve = move || {
            let mut asked = Vec::new();
            for answer in answers {
                let (stream, _) = listener.accept().unwrap();
                let lines = BufReader::new(&stream).lines().map(|line| line.unwrap());
                let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
                let path = head[0].strip_prefix("GET ").and_then(|rest| rest.strip_suffix(" HTTP/1.1"));
                let range = head
                    .iter()
                    .find_map(|line| line.to_lowercase().strip_prefix("range: bytes=").map(str::to_owned));
                let range = range.unwrap_or_default();
                let from: usize = range.trim_end_matches('-').parse().unwrap_or(0);
                let is_version =
                    |tag: &str| head.iter().any(|line| line.to_lowercase() == format!("if-range: {tag}"));
                let mut more = String::new();
                let (status, body, sent) = match answer {
                    Answer::Tagged(tag, most) if from == 0 || !is_version(tag) => {
                        more = format!("ETag: {tag}\r\n");
                        ("200 OK", &file[..], file.len().min(most))
                    }
                    Answer::Properly | Answer::Tagged(..) | Answer::Mistaken(_) | Answer::Short(_)
                        if from > 0 =>
                    {
                        if let Answer::Mistaken(tag) = answer {
                            more = format!("ETag: {tag}\r\n");
                        }
                        let last = file.len() - 1;
                        more += &format!("Content-Range: bytes {from}-{last}/{}\r\n", file.len());
                        let rest = file.len() - from;
                        let sent = if let Answer::Short(most) = answer { most.min(rest) } else { rest };
                        ("206 Partial Content", &file[from..], sent)
                    }
                    Answer::Properly | Answer::Whole | Answer::Tagged(..) | Answer::Mistaken(_) => {
                        ("200 OK", &file[..], file.len())
                    }
                    Answer::BreakOff(sent) | Answer::Stall(sent) | Answer::Short(sent) => {
                        ("200 OK", &file[..], sent)
                    }
                    Answer::Dated(date, sent) => {
                        more = format!("ETag: W/\"1\"\r\nLast-Modified: {date}\r\n");
                        ("200 OK", &file[..], sent)
                    }
                    Answer::Redirect(to) => {
                        more = format!("Location: {to}\r\n");
                        ("302 Found", &[][..], 0)
                    }
                    Answer::Page(kind, text) => {
                        more = format!("Content-Type: {kind}\r\n");
                        ("200 OK", text.as_bytes(), text.len())
                    }
                    Answer::Status(status) => (status, &[][..], 0),
                };
                if !matches!(answer, Answer::Short(_)) {
                    more += &format!("Content-Length: {}\r\n", body.len());
                }
                let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\n{more}\r\n");
                (&stream).write_all(head.as_bytes()).unwrap();
                // The client may have disconnected on an error.
                let _ = (&stream).write_all(&body[..sent]);
                if let Answer::Stall(_) = answer {
                    let _ = (&stream).read(&mut [0]);
                }
                asked.push([path.expect("a request").to_owned(), range]);
            }
            asked
        };
        (url, thread::spawn(serve))
    }

    /// The ranges of requests for the file.
    fn ranges(served: JoinHandle<Vec<[String; 2]>>) -> Vec<String> {
        let of = |[path, range]: [String; 2]| {
            assert_eq!(path, format!("/{NAME}"));
            range
        };
        served.join().unwrap().into_iter().map(of).collect()
    }

    fn file() -> Vec<u8> {
        (0..100_000_u32).map(|i| (i * 7 / 3) as u8).collect()
    }

    fn remote(url: &str) -> Remote<'static> {
        let urls = vec![format!("{url}/{NAME}")];
        let expected = Expected::default();
        Remote { urls, expected, most: 1 << 20, fault: |_| Ok(None), mirror: "MIRROR", set: None }
    }

    /// Fetches the file into a folder, without a known checksum.
    fn fetch_to(cache: &Path, url: &str) -> Result<PathBuf> {
        fetch_expected(cache, url, Expected::default())
    }

    /// Fetches the file into a folder, with its checksum, so that any part of it may be continued.
    fn fetch_checked(cache: &Path, url: &str) -> Result<PathBuf> {
        let sum = sha256(&file());
        fetch_expected(cache, url, Expected { sha256: Some(&sum), ..Expected::default() })
    }

    fn fetch_expected(cache: &Path, url: &str, expected: Expected) -> Result<PathBuf> {
        let file = cache.join(NAME);
        fetch(&Remote { expected, ..remote(url) }, &file, &mut |_| ()).map(|_| file)
    }

    /// The reason for a failed download.
    fn reason(result: Result<PathBuf>) -> String {
        match result.unwrap_err() {
            Error::Download { reason, .. } => reason,
            other => panic!("{other}"),
        }
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_fetched_once_and_its_checksum_recorded() {
        let cache = tempfile::tempdir().unwrap();
        let (url, served) = server(file(), vec![Answer::Properly]);
        let (mut asked, mut last) = (None, (0, None));
        let path = cache.path().join("new").join(NAME);
        let mut observe = |event: FetchEvent| match event {
            FetchEvent::Downloading { url, done, bytes, .. } => asked = Some((url.to_owned(), done, bytes)),
            FetchEvent::Received { done, total } => last = (done, total),
            other => panic!("{other:?}"),
        };
        let found = fetch(&remote(&url), &path, &mut observe).unwrap();
        assert_eq!(asked, Some((format!("{url}/{NAME}"), 0, None)));
        assert_eq!(last, (100_000, Some(100_000)));
        assert_eq!(fs::read(&path).unwrap(), file());
        assert_eq!(ranges(served), [""]);
        let record = fs::read_to_string(path.with_extension("pt.sha256")).unwrap();
        assert_eq!((record.trim(), found.sha256), (sha256(&file()).as_str(), sha256(&file())));

        // An unchanged file needs no server.
        assert_eq!(fetch_to(&cache.path().join("new"), &url).unwrap(), path);
        fs::write(&path, "something else").unwrap();
        let error = fetch_to(&cache.path().join("new"), &url).unwrap_err();
        assert!(
            matches!(&error, Error::Checksum { reason, .. } if reason.contains(record.trim())),
            "{error}"
        );
    }

    #[test]
    fn an_existing_file_must_stay_unchanged() {
        let cache = tempfile::tempdir().unwrap();
        let path = cache.path().join(NAME);
        fs::write(&path, file()).unwrap();
        assert_eq!(fetch_to(cache.path(), "http://127.0.0.1:1").unwrap(), path);
        fs::write(&path, "something else").unwrap();
        assert!(matches!(fetch_to(cache.path(), "http://127.0.0.1:1"), Err(Error::Checksum { .. })));
    }

    #[test]
    fn concurrent_fetches_download_once() {
        let cache = tempfile::tempdir().unwrap();
        let (url, served) = server(file(), vec![Answer::Properly]);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| assert_eq!(fs::read(fetch_to(cache.path(), &url).unwrap()).unwrap(), file()));
            }
        });
        assert_eq!(ranges(served), [""]);
        assert_eq!(fs::read_dir(cache.path()).unwrap().count(), 2, "the file and its record");
    }

    #[test]
    fn interrupted_transfers_are_resumed() {
        let cache = tempfile::tempdir().unwrap();
        let answers = vec![Answer::BreakOff(30_000), Answer::Redirect("/weights.pt"), Answer::Properly];
        let (url, served) = server(file(), answers);
        let error = reason(fetch_checked(cache.path(), &url));
        assert!(error.contains("30000 of 100000 bytes") || error.contains("disconnected"), "{error}");
        let path = fetch_checked(cache.path(), &url).unwrap();
        assert_eq!(fs::read(path).unwrap(), file());
        assert_eq!(ranges(served), ["", "30000-", "30000-"]);
        assert_eq!(names(cache.path()), [NAME, "weights.pt.sha256"]);
    }

    #[test]
    fn a_part_of_another_file_is_replaced() {
        let cache = tempfile::tempdir().unwrap();
        let sum = sha256(&file());
        let expected = Expected { bytes: Some(100_000), sha256: Some(&sum), ..Expected::default() };
        let part = cache.path().join(NAME).with_extension("pt.part");
        for (length, asked) in [(100_000, &[""][..]), (40_000, &["40000-", ""])] {
            fs::write(&part, vec![0; length]).unwrap();
            let (url, served) = server(file(), vec![Answer::Properly; asked.len()]);
            let path = fetch_expected(cache.path(), &url, expected).unwrap();
            assert_eq!(fs::read(&path).unwrap(), file());
            assert_eq!(ranges(served), asked);
            fs::remove_file(path).unwrap();
        }
    }

    #[test]
    fn transfers_cut_short_without_a_length_are_resumed() {
        let cache = tempfile::tempdir().unwrap();
        let (url, served) =
            server(file(), vec![Answer::Short(30_000), Answer::Short(20_000), Answer::Properly]);
        let sum = sha256(&file());
        let expected = Expected { bytes: Some(100_000), sha256: Some(&sum), ..Expected::default() };
        for bytes in [30_000, 50_000] {
            let reason = reason(fetch_expected(cache.path(), &url, expected));
            assert_eq!(reason, format!("the connection closed after {bytes} of 100000 bytes"));
        }
        assert_eq!(fs::read(fetch_expected(cache.path(), &url, expected).unwrap()).unwrap(), file());
        assert_eq!(ranges(served), ["", "30000-", "50000-"]);
    }

    #[test]
    fn records_in_sha256sum_format_are_read() {
        let cache = tempfile::tempdir().unwrap();
        let (path, record) = (cache.path().join(NAME), cache.path().join("weights.pt.sha256"));
        fs::write(&path, file()).unwrap();
        fs::write(&record, format!("{}  {NAME}\n", sha256(&file()).to_uppercase())).unwrap();
        assert_eq!(fetch_to(cache.path(), "http://127.0.0.1:1").unwrap(), path);
        fs::write(&record, "").unwrap();
        let error = fetch_to(cache.path(), "http://127.0.0.1:1").unwrap_err();
        assert!(matches!(&error, Error::Checksum { path, .. } if *path == record), "{error}");
    }

    #[test]
    fn a_part_from_another_version_or_server_is_restarted() {
        let all = usize::MAX;
        let earlier = vec![0; 30_000];
        for (now, is_same) in [("\"1\"", true), ("\"2\"", false)] {
            let cache = tempfile::tempdir().unwrap();
            let answers = vec![Answer::Tagged("\"1\"", 30_000), Answer::Tagged(now, all)];
            let (url, served) = server(file(), answers);
            reason(fetch_to(cache.path(), &url));
            fs::write(cache.path().join(format!("{NAME}.part")), &earlier).unwrap();
            let found = fs::read(fetch_to(cache.path(), &url).unwrap()).unwrap();
            let glued = [&earlier, &file()[30_000..]].concat();
            assert!(found == if is_same { glued } else { file() }, "{now}");
            assert_eq!(ranges(served), ["", "30000-"]);
            assert_eq!(names(cache.path()), [NAME, "weights.pt.sha256"]);
        }

        let right = sha256(&file());
        for (sha256, range) in [(None, ""), (Some(&right[..]), "30000-")] {
            let cache = tempfile::tempdir().unwrap();
            let (first, _) = server(file(), vec![Answer::BreakOff(30_000)]);
            let (second, served) = server(file(), vec![Answer::Properly]);
            let urls = [&first, &second].map(|url| format!("{url}/{NAME}")).to_vec();
            let expected = Expected { sha256, ..Expected::default() };
            let path = cache.path().join(NAME);
            fetch(&Remote { urls, expected, ..remote("") }, &path, &mut |_| ()).unwrap();
            assert_eq!(fs::read(&path).unwrap(), file());
            assert_eq!(ranges(served), [range]);
        }
    }

    #[test]
    fn a_part_without_a_version_and_a_checksum_is_restarted() {
        // A server that takes another file for the one that was begun, or does not say which it is.
        for (answers, asked) in [
            (vec![Answer::BreakOff(30_000), Answer::Properly], ["", ""]),
            (vec![Answer::Tagged("\"1\"", 30_000), Answer::Mistaken("\"2\""), Answer::Whole], ["", "30000-"]),
        ] {
            let cache = tempfile::tempdir().unwrap();
            let (url, served) = server(file(), answers);
            reason(fetch_to(cache.path(), &url));
            fs::write(cache.path().join(format!("{NAME}.part")), vec![0; 30_000]).unwrap();
            assert!(fs::read(fetch_to(cache.path(), &url).unwrap()).unwrap() == file());
            assert_eq!(ranges(served)[..2], asked);
        }
        // Nor is the part of another address of the same server.
        let cache = tempfile::tempdir().unwrap();
        let (url, served) = server(file(), vec![Answer::Tagged("\"1\"", 30_000), Answer::Properly]);
        let urls = ["first", NAME].map(|name| format!("{url}/{name}")).to_vec();
        let path = cache.path().join(NAME);
        fetch(&Remote { urls, ..remote("") }, &path, &mut |_| ()).unwrap();
        assert!(fs::read(&path).unwrap() == file());
        let asked: Vec<String> = served.join().unwrap().into_iter().map(|[_, range]| range).collect();
        assert_eq!(asked, ["", ""]);
    }

    #[test]
    fn a_weak_tag_does_not_identify_a_part() {
        let cache = tempfile::tempdir().unwrap();
        let date = "Mon, 01 Jan 2024 00:00:00 GMT";
        let (url, served) = server(file(), vec![Answer::Dated(date, 30_000)]);
        reason(fetch_to(cache.path(), &url));
        served.join().unwrap();
        let origin = fs::read_to_string(cache.path().join("weights.pt.part.origin")).unwrap();
        assert_eq!(origin, format!("{url}/{NAME}\n{date}\n"));
    }

    #[test]
    fn the_whole_file_is_asked_for_after_a_part_of_another_one() {
        let cache = tempfile::tempdir().unwrap();
        let (first, _) = server(vec![7; 100_000], vec![Answer::BreakOff(30_000)]);
        let (second, served) = server(file(), vec![Answer::Properly, Answer::Properly]);
        let urls = [&first, &second].map(|url| format!("{url}/{NAME}")).to_vec();
        let right = sha256(&file());
        let expected = Expected { sha256: Some(&right), ..Expected::default() };
        let path = cache.path().join(NAME);
        fetch(&Remote { urls, expected, ..remote("") }, &path, &mut |_| ()).unwrap();
        assert_eq!(fs::read(&path).unwrap(), file());
        assert_eq!(ranges(served), ["30000-", ""]);
    }

    #[test]
    fn a_file_that_differs_from_its_record_is_refused() {
        let cache = tempfile::tempdir().unwrap();
        let record = cache.path().join("weights.pt.sha256");
        fs::write(&record, sha256(b"an earlier file")).unwrap();
        let (url, _served) = server(file(), vec![Answer::Properly]);
        let error = fetch_to(cache.path(), &url).unwrap_err();
        assert!(matches!(&error, Error::Replaced { record: found, .. } if *found == record), "{error}");
        assert_eq!(names(cache.path()), ["weights.pt.sha256"]);
    }

    #[test]
    fn a_complete_part_needs_no_server() {
        let cache = tempfile::tempdir().unwrap();
        let expected = Expected { bytes: Some(100_000), ..Expected::default() };
        fs::write(cache.path().join(format!("{NAME}.part")), file()).unwrap();
        fetch_expected(cache.path(), "http://127.0.0.1:1", expected).unwrap();
        assert_eq!(names(cache.path()), [NAME, "weights.pt.sha256"]);
    }

    #[test]
    fn servers_without_ranges_restart_the_transfer() {
        let cache = tempfile::tempdir().unwrap();
        fs::write(cache.path().join(format!("{NAME}.part")), "of another file").unwrap();
        let (url, served) = server(file(), vec![Answer::Whole]);
        assert_eq!(fs::read(fetch_checked(cache.path(), &url).unwrap()).unwrap(), file());
        assert_eq!(ranges(served), ["15-"]);

        let cache = tempfile::tempdir().unwrap();
        fs::write(cache.path().join(format!("{NAME}.part")), vec![0; 200_000]).unwrap();
        let (url, _served) =
            server(file(), vec![Answer::Status("416 Range Not Satisfiable"), Answer::Properly]);
        assert_eq!(fs::read(fetch_checked(cache.path(), &url).unwrap()).unwrap(), file());

        // A part that is longer than the file is not resumed.
        let cache = tempfile::tempdir().unwrap();
        fs::write(cache.path().join(format!("{NAME}.part")), vec![0; 200_000]).unwrap();
        let (url, served) = server(file(), vec![Answer::Whole]);
        let expected = Expected { bytes: Some(100_000), ..Expected::default() };
        assert_eq!(fs::read(fetch_expected(cache.path(), &url, expected).unwrap()).unwrap(), file());
        assert_eq!(ranges(served), [""]);
    }

    #[test]
    fn a_file_with_a_wrong_checksum_is_not_kept() {
        let cache = tempfile::tempdir().unwrap();
        let (url, _served) = server(file(), vec![Answer::Properly; 2]);
        let recorded = sha256(b"something else");
        for expected in [
            Expected { sha256: Some(&recorded), ..Expected::default() },
            Expected { md5: Some("900150983cd24fb0d6963f7d28e17f72"), ..Expected::default() },
        ] {
            let reason = reason(fetch_expected(cache.path(), &url, expected));
            assert!(reason.starts_with("it has ") && reason.contains(", expected "), "{reason}");
            assert_eq!(fs::read_dir(cache.path()).unwrap().count(), 0);
        }
    }

    #[test]
    fn pages_in_place_of_the_file_are_detected() {
        let cache = tempfile::tempdir().unwrap();
        let (html, plain) = ("text/html; charset=utf-8", "application/octet-stream");
        let answers = [
            Answer::Page(html, "Sign in"),
            Answer::Page(plain, "<!DOCTYPE html><html>Sign in</html>"),
            Answer::Page(plain, "<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code></Error>"),
            Answer::Page(plain, "{\"error\": \"quota\"}"),
            Answer::Page(plain, ""),
        ];
        let (url, served) = server(file(), answers.to_vec());
        for kind in ["an HTML page", "an HTML page", "an XML document", "a JSON document", "an empty file"] {
            let reason = reason(fetch_to(cache.path(), &url));
            assert_eq!(reason, format!("the server sent {kind} in place of the file"));
            assert_eq!(fs::read_dir(cache.path()).unwrap().count(), 0);
        }
        served.join().unwrap();

        // The bytes of the file already received are kept, also if another length is stated than the published one.
        let part = cache.path().join(format!("{NAME}.part"));
        let (url, served) = server(file(), vec![Answer::Page(plain, "no such file")]);
        fs::write(&part, &file()[..30_000]).unwrap();
        let sum = sha256(&file());
        let length = Some(file().len() as u64);
        let expected = Expected { sha256: Some(&sum), bytes: length, ..Expected::default() };
        let other = reason(fetch_expected(cache.path(), &url, expected));
        assert_eq!(other, "the file has 12 bytes, expected 100000");
        assert_eq!(fs::read(&part).unwrap().len(), 30_000);
        served.join().unwrap();
        fs::remove_file(&part).unwrap();
        fs::write(&part, &file()[..30_000]).unwrap();
        let (url, served) = server(file(), [&answers[..], &[Answer::Properly]].concat());
        for _ in &answers {
            reason(fetch_checked(cache.path(), &url));
            assert_eq!(fs::metadata(&part).unwrap().len(), 30_000);
        }
        assert_eq!(fs::read(fetch_checked(cache.path(), &url).unwrap()).unwrap(), file());
        assert_eq!(ranges(served), ["30000-"; 6]);
    }

    #[test]
    fn redirects_are_followed_up_to_a_limit() {
        let cache = tempfile::tempdir().unwrap();
        let answers = vec![Answer::Redirect("/a"), Answer::Redirect("/b?dl=1"), Answer::Properly];
        let (url, served) = server(file(), answers);
        fetch_to(cache.path(), &url).unwrap();
        let asked: Vec<String> = served.join().unwrap().into_iter().map(|[path, _]| path).collect();
        assert_eq!(asked, ["/weights.pt", "/a", "/b?dl=1"]);

        let cache = tempfile::tempdir().unwrap();
        let count = MAX_REDIRECTS as usize + 1;
        let (url, served) = server(file(), vec![Answer::Redirect("/weights.pt"); count]);
        let reason = reason(fetch_to(cache.path(), &url));
        assert!(reason.contains("redirect"), "{reason}");
        assert_eq!(ranges(served).len(), count);
    }

    #[test]
    fn slow_servers_are_abandoned_and_the_part_is_kept() {
        let cache = tempfile::tempdir().unwrap();
        let (url, served) = server(file(), vec![Answer::Stall(50_000), Answer::Properly]);
        let impatient = Patience { answer: Duration::from_secs(2), ..PATIENCE };
        let path = cache.path().join(NAME);
        let reason = reason(fetch_within(impatient, &remote(&url), &path, &mut |_| ()).map(|_| path.clone()));
        assert!(reason.contains("timeout"), "{reason}");
        fetch_checked(cache.path(), &url).unwrap();
        assert_eq!(ranges(served), ["", "50000-"]);

        let cache = tempfile::tempdir().unwrap();
        let path = cache.path().join(NAME);
        let (url, _served) = server(file(), vec![Answer::Properly]);
        let greedy = Patience { window: Duration::ZERO, least: u64::MAX, ..PATIENCE };
        let error = fetch_within(greedy, &remote(&url), &path, &mut |_| ()).unwrap_err().to_string();
        assert!(error.contains("the server sends less than"), "{error}");
    }

    #[test]
    fn other_addresses_are_tried_in_order() {
        let cache = tempfile::tempdir().unwrap();
        let (first, _) = server(file(), vec![Answer::Status("404 Not Found")]);
        let (second, _) = server(b"another file".to_vec(), vec![Answer::Properly]);
        let (third, _) = server(file(), vec![Answer::Properly]);
        let urls = [&first, &second, &third].map(|url| format!("{url}/{NAME}"));
        let right = sha256(&file());
        let expected = Expected { sha256: Some(&right), ..Expected::default() };
        let path = cache.path().join(NAME);
        let all = Remote { urls: urls.to_vec(), expected, ..remote("") };
        fetch(&all, &path, &mut |_| ()).unwrap();
        assert_eq!(fs::read(&path).unwrap(), file());

        fs::remove_file(&path).unwrap();
        let (first, _) = server(file(), vec![Answer::Status("404 Not Found")]);
        let (second, _) = server(b"another file".to_vec(), vec![Answer::Properly]);
        let urls = [&first, &second].map(|url| format!("{url}/{NAME}"));
        let some = Remote { urls: urls.to_vec(), ..all };
        let error = fetch(&some, &path, &mut |_| ()).unwrap_err().to_string();
        let parts = [&format!("cannot fetch `{first}/"), "404", &second, "it has SHA-256"];
        assert!(parts.iter().all(|part| error.contains(*part)), "{error}");
    }

    #[test]
    fn oversized_files_are_refused_at_once() {
        let cache = tempfile::tempdir().unwrap();
        let (url, _served) = server(file(), vec![Answer::Properly; 2]);
        let short = Expected { bytes: Some(99_999), ..Expected::default() };
        let error = reason(fetch_expected(cache.path(), &url, short));
        assert_eq!(error, "the file has 100000 bytes or more, expected 99999");
        let small = Remote { most: 5000, ..remote(&url) };
        let error = fetch(&small, &cache.path().join(NAME), &mut |_| ()).unwrap_err().to_string();
        assert!(error.ends_with("the file has more than 5000 bytes"), "{error}");
        assert_eq!(fs::read_dir(cache.path()).unwrap().count(), 0);
        check_room(cache.path(), 1).unwrap();
        if cfg!(unix) {
            let error = check_room(cache.path(), u64::MAX).unwrap_err();
            assert!(
                matches!(&error, Error::Io { error, .. } if error.kind() == io::ErrorKind::StorageFull),
                "{error}"
            );
        }
    }

    #[test]
    fn failed_requests_and_missing_servers_are_errors() {
        let cache = tempfile::tempdir().unwrap();
        let (url, served) = server(file(), vec![Answer::Status("404 Not Found")]);
        let error = fetch_to(cache.path(), &url).unwrap_err().to_string();
        assert!(error.contains(&url) && error.contains("404"), "{error}");
        served.join().unwrap();
        let error = fetch_to(cache.path(), "http://127.0.0.1:1").unwrap_err();
        assert!(matches!(&error, Error::Download { path, .. } if path.ends_with(NAME)), "{error}");
        assert_eq!(fs::read_dir(cache.path()).unwrap().count(), 0);
    }
}
