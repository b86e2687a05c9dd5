//! Downloads: fetched once, verified and kept.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    path::Path,
    time::Duration,
};

use ureq::{Agent, http::Response};

use super::{atomic, sha256};
use crate::error::{Error, Result};

/// The timeout for connecting, for a response and for each read.
const PATIENCE: Duration = Duration::from_secs(30);

/// Downloads `url` to `file` unless it exists, and verifies its SHA-256: the given one, in hexadecimal, or
/// the one that was recorded in `FILE.sha256` when the file was first seen. An interrupted transfer is
/// resumed. `progress` receives the bytes done and the total, or 0 if the total is unknown.
///
/// # Errors
/// [`Error::Download`] if the server cannot be reached, closes the connection early, or sends a file with
/// another checksum; [`Error::Weights`] if the existing file has another checksum; [`Error::Io`] if the file
/// cannot be written.
pub(crate) fn fetch(
    url: &str,
    file: &Path,
    sha256: Option<&str>,
    progress: impl FnMut(usize, usize),
) -> Result<()> {
    let beside = |ending: &str| file.with_added_extension(ending);
    let (record, part) = (beside("sha256"), beside("part"));
    let failed = |reason: String| Error::Download { url: url.to_owned(), path: file.to_owned(), reason };
    let recorded = match sha256 {
        Some(sha256) => Some(sha256.to_owned()),
        None => fs::read_to_string(&record).ok().map(|text| text.trim().to_owned()),
    };
    let fault = |found: &String| {
        let recorded = recorded.as_ref().filter(|&recorded| recorded != found)?;
        Some(format!("it has SHA-256 {found}, expected {recorded}"))
    };
    // Verifies an existing file.
    let check = || {
        let found = sha256::of_file(file)?;
        if let Some(fault) = fault(&found) {
            let reason = format!("{fault}; remove it to fetch it again");
            return Err(Error::Weights { path: file.to_owned(), reason });
        }
        if recorded.is_none() {
            // A read-only cache is still usable.
            let _ = atomic::write(&record, format!("{found}\n").as_bytes());
        }
        Ok(())
    };
    if file.exists() {
        return check();
    }
    let folder = file.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    let mut open = open_alone(&part).map_err(Error::io("write", &part))?;
    if file.exists() {
        // Another process has downloaded the file and renamed its part. The part that was just created is a
        // leftover.
        let _ = fs::remove_file(&part);
        return check();
    }
    transfer(url, &mut open, progress).map_err(|reason| match reason {
        Broken::Server(reason) => failed(reason),
        Broken::Disk(source) => Error::Io { action: "write", path: part.clone(), source },
    })?;
    let found = sha256::of_file(&part)?;
    if let Some(fault) = fault(&found) {
        // Resuming would not repair it.
        fs::remove_file(&part).map_err(Error::io("remove", &part))?;
        return Err(failed(fault));
    }
    atomic::write(&record, format!("{found}\n").as_bytes())?;
    fs::rename(&part, file).map_err(Error::io("write", file))?;
    atomic::sync_folder(file);
    Ok(())
}

/// Why a transfer ended early.
enum Broken {
    Server(String),
    Disk(std::io::Error),
}

/// Opens a file for appending under an exclusive lock; waits for other processes.
fn open_alone(path: &Path) -> std::io::Result<File> {
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    file.lock()?;
    Ok(file)
}

/// Downloads the rest of a partial file.
fn transfer(
    url: &str,
    file: &mut File,
    mut progress: impl FnMut(usize, usize),
) -> std::result::Result<(), Broken> {
    let server = |error: &dyn std::fmt::Display| Broken::Server(error.to_string());
    let agent: Agent = Agent::config_builder()
        .http_status_as_error(false)
        .timeout_connect(Some(PATIENCE))
        .timeout_recv_response(Some(PATIENCE))
        .timeout_per_read(Some(PATIENCE))
        .build()
        .into();
    let mut done = file.metadata().map_err(Broken::Disk)?.len();
    let ask = |from: u64| {
        let request = agent.get(url);
        let request = if from > 0 { request.header("Range", format!("bytes={from}-")) } else { request };
        request.call().map_err(|error| server(&error))
    };
    let mut response = ask(done)?;
    // Start over if the server ignores ranges or has another file by now.
    let goes_on =
        response.status() == 206 && header(&response, "content-range").starts_with(&format!("bytes {done}-"));
    let is_refused = !response.status().is_success() && response.status() != 416;
    if done > 0 && !goes_on && !is_refused {
        file.set_len(0).map_err(Broken::Disk)?;
        done = 0;
        if response.status() != 200 {
            response = ask(0)?;
        }
    }
    if !response.status().is_success() {
        return Err(Broken::Server(format!("the server answered {}", response.status())));
    }
    let rest: Option<u64> = header(&response, "content-length").parse().ok();
    let total = rest.map_or(0, |rest| done + rest);
    let mut body = response.into_body().into_reader();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let length = body.read(&mut buffer).map_err(|error| server(&error))?;
        if length == 0 {
            break;
        }
        file.write_all(&buffer[..length]).map_err(Broken::Disk)?;
        done += length as u64;
        progress(done as usize, total as usize);
    }
    if total > 0 && done < total {
        return Err(Broken::Server(format!("the connection closed after {done} of {total} bytes")));
    }
    file.sync_all().map_err(Broken::Disk)
}

fn header<'a, B>(response: &'a Response<B>, name: &str) -> &'a str {
    response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::{BufRead, BufReader},
        net::TcpListener,
        path::PathBuf,
        thread::{self, JoinHandle},
    };

    const NAME: &str = "weights.pt";

    /// How the server answers a request.
    #[derive(Clone, Copy)]
    enum Answer {
        /// With the requested range.
        Properly,
        /// With the whole file, ignoring ranges.
        Whole,
        /// With the head and only this many bytes of the file.
        BreakOff(usize),
        Status(&'static str),
    }

    /// Serves a file on loopback with these answers; returns the requested ranges.
    fn server(file: Vec<u8>, answers: Vec<Answer>) -> (String, JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let serve = move || {
            let mut ranges = Vec::new();
            for answer in answers {
                let (stream, _) = listener.accept().unwrap();
                let lines = BufReader::new(&stream).lines().map(|line| line.unwrap());
                let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
                assert_eq!(head[0], format!("GET /{NAME} HTTP/1.1"));
                let range = head
                    .iter()
                    .find_map(|line| line.to_lowercase().strip_prefix("range: bytes=").map(str::to_owned));
                let range = range.unwrap_or_default();
                let from: usize = range.trim_end_matches('-').parse().unwrap_or(0);
                let (status, from, sent) = match answer {
                    Answer::Properly if from > 0 => ("206 Partial Content", from, file.len()),
                    Answer::Properly | Answer::Whole => ("200 OK", 0, file.len()),
                    Answer::BreakOff(sent) => ("200 OK", 0, sent),
                    Answer::Status(status) => (status, 0, 0),
                };
                let length = file.len() - from;
                let last = file.len() - 1;
                let head = format!(
                    "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\
                     Content-Range: bytes {from}-{last}/{}\r\n\r\n",
                    file.len()
                );
                (&stream).write_all(head.as_bytes()).unwrap();
                // The client may have disconnected on an error.
                let _ = (&stream).write_all(&file[from..sent.max(from)]);
                ranges.push(range);
            }
            ranges
        };
        (url, thread::spawn(serve))
    }

    fn file() -> Vec<u8> {
        (0..100_000_u32).map(|i| (i * 7 / 3) as u8).collect()
    }

    /// Fetches the file into a folder, without a known SHA-256.
    fn fetch_to(cache: &Path, url: &str) -> Result<PathBuf> {
        fetch_checked(cache, url, None)
    }

    fn fetch_checked(cache: &Path, url: &str, sha256: Option<&str>) -> Result<PathBuf> {
        let file = cache.join(NAME);
        fetch(&format!("{url}/{NAME}"), &file, sha256, |_, _| ()).map(|()| file)
    }

    #[test]
    fn a_file_is_fetched_once_and_its_checksum_recorded() {
        let cache = tempfile::tempdir().unwrap();
        let (url, served) = server(file(), vec![Answer::Properly]);
        let mut last = (0, 0);
        let path = cache.path().join("new").join(NAME);
        fetch(&format!("{url}/{NAME}"), &path, None, |done, total| last = (done, total)).unwrap();
        assert_eq!(last, (100_000, 100_000));
        assert_eq!(fs::read(&path).unwrap(), file());
        assert_eq!(served.join().unwrap(), [""]);
        let record = fs::read_to_string(path.with_extension("pt.sha256")).unwrap();
        assert_eq!(record.trim(), sha256::of_file(&path).unwrap());

        // An unchanged file needs no server.
        assert_eq!(fetch_to(&cache.path().join("new"), &url).unwrap(), path);
        fs::write(&path, "something else").unwrap();
        let error = fetch_to(&cache.path().join("new"), &url).unwrap_err();
        assert!(matches!(&error, Error::Weights { reason, .. } if reason.contains(record.trim())), "{error}");
    }

    #[test]
    fn an_existing_file_must_stay_unchanged() {
        let cache = tempfile::tempdir().unwrap();
        let path = cache.path().join(NAME);
        fs::write(&path, file()).unwrap();
        assert_eq!(fetch_to(cache.path(), "http://127.0.0.1:1").unwrap(), path);
        fs::write(&path, "something else").unwrap();
        assert!(matches!(fetch_to(cache.path(), "http://127.0.0.1:1"), Err(Error::Weights { .. })));
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
        assert_eq!(served.join().unwrap(), [""]);
        assert_eq!(fs::read_dir(cache.path()).unwrap().count(), 2, "the file and its record");
    }

    #[test]
    fn interrupted_transfers_are_resumed() {
        let cache = tempfile::tempdir().unwrap();
        let answers = vec![Answer::BreakOff(30_000), Answer::Properly];
        let (url, served) = server(file(), answers);
        let error = fetch_to(cache.path(), &url).unwrap_err();
        assert!(matches!(error, Error::Download { .. }), "{error}");
        let path = fetch_to(cache.path(), &url).unwrap();
        assert_eq!(fs::read(path).unwrap(), file());
        assert_eq!(served.join().unwrap(), ["", "30000-"]);
        assert_eq!(fs::read_dir(cache.path()).unwrap().count(), 2, "the file and its record");
    }

    #[test]
    fn servers_without_ranges_restart_the_transfer() {
        let cache = tempfile::tempdir().unwrap();
        fs::write(cache.path().join(format!("{NAME}.part")), "of another file").unwrap();
        let (url, served) = server(file(), vec![Answer::Whole]);
        assert_eq!(fs::read(fetch_to(cache.path(), &url).unwrap()).unwrap(), file());
        assert_eq!(served.join().unwrap(), ["15-"]);

        let cache = tempfile::tempdir().unwrap();
        fs::write(cache.path().join(format!("{NAME}.part")), vec![0; 200_000]).unwrap();
        let (url, _served) =
            server(file(), vec![Answer::Status("416 Range Not Satisfiable"), Answer::Properly]);
        assert_eq!(fs::read(fetch_to(cache.path(), &url).unwrap()).unwrap(), file());
    }

    #[test]
    fn a_file_with_a_wrong_checksum_is_not_kept() {
        let cache = tempfile::tempdir().unwrap();
        let (url, _served) = server(file(), vec![Answer::Properly]);
        let recorded = sha256::of(b"something else");
        let error = fetch_checked(cache.path(), &url, Some(&recorded)).unwrap_err();
        assert!(error.to_string().contains(&recorded), "{error}");
        assert_eq!(fs::read_dir(cache.path()).unwrap().count(), 0);
    }

    #[test]
    fn refusing_and_missing_servers_are_errors() {
        let cache = tempfile::tempdir().unwrap();
        let (url, served) = server(file(), vec![Answer::Status("404 Not Found")]);
        let error = fetch_to(cache.path(), &url).unwrap_err().to_string();
        assert!(error.contains(&url) && error.contains("404"), "{error}");
        served.join().unwrap();
        let error = fetch_to(cache.path(), &url).unwrap_err();
        assert!(matches!(&error, Error::Download { path, .. } if path.ends_with(NAME)), "{error}");
    }
}
