//! Weights that others have published, by name: fetched once, checked, and kept in a cache of the user.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use sha2::{Digest, Sha256};
use ureq::{Agent, http::Response};

use crate::{
    atomic,
    error::{Error, Result},
};

/// A published WideResNet-40-k.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Published {
    /// What pytorch-ood calls it.
    pub name: &'static str,
    /// Where its authors keep it.
    pub url: &'static str,
    /// Its SHA-256 in hexadecimal, where pytorch-ood 0.4.0 records one. Where not, the file is trusted when it
    /// is first fetched, and must stay the same from then on.
    pub sha256: Option<&'static str>,
    /// Mean of the red, green and blue values (0 to 1) that it was trained with, subtracted.
    pub mean: [f32; 3],
    /// Their standard deviation that it was trained with, divided by.
    pub std: [f32; 3],
}

/// The mean and the standard deviation with which Hendrycks et al. and Liu et al. trained on CIFAR.
const CIFAR: [[f32; 3]; 2] =
    [[125.3 / 255.0, 123.0 / 255.0, 113.9 / 255.0], [63.0 / 255.0, 62.1 / 255.0, 66.7 / 255.0]];
/// Those of ImageNet at 32x32, and of PixMix.
const HALF: [[f32; 3]; 2] = [[0.5; 3]; 2];

const fn published(
    name: &'static str,
    [mean, std]: [[f32; 3]; 2],
    url: &'static str,
    sha256: &'static str,
) -> Published {
    Published { name, url, sha256: if sha256.is_empty() { None } else { Some(sha256) }, mean, std }
}

/// The published WideResNets of pytorch-ood. Those of PixMix have a widen factor of 4, the others of 2.
pub const PUBLISHED: [Published; 10] = [
    published(
        "imagenet32",
        HALF,
        "https://github.com/hendrycks/pre-training/raw/master/downsampled_train/snapshots/40_2/imagenet_wrn_baseline_epoch_99.pt",
        "4a722ecf93e43a040b6b82c7c1e305fbf1c455a54c16e66fd77301291157bd5c",
    ),
    published(
        "imagenet32-nocifar",
        HALF,
        "https://github.com/hendrycks/pre-training/raw/master/uncertainty/CIFAR/snapshots/imagenet/cifar10_excluded/imagenet_wrn_baseline_epoch_99.pt",
        "6f0f46d44ddfc96f85b97ef04ca9d61e78279d27c80015dcc92aabd52b1773c6",
    ),
    published(
        "oe-cifar10-tune",
        CIFAR,
        "https://github.com/hendrycks/outlier-exposure/raw/master/CIFAR/snapshots/oe_tune/cifar10_wrn_oe_tune_epoch_9.pt",
        "b473f1c463c9fe16057647746907b68b6ade615f93ac4bdf005263ed69d542d0",
    ),
    published(
        "oe-cifar100-tune",
        CIFAR,
        "https://github.com/hendrycks/outlier-exposure/raw/master/CIFAR/snapshots/oe_tune/cifar100_wrn_oe_tune_epoch_9.pt",
        "1d4dd53f7605d66f64bcdf146ed9327ecbebbd5da42a9f7d70b9d6a28ee9bb51",
    ),
    published(
        "er-cifar10-tune",
        CIFAR,
        "https://github.com/wetliu/energy_ood/raw/master/CIFAR/snapshots/energy_ft/cifar10_wrn_s1_energy_ft_epoch_9.pt",
        "78a288517f9e9f3501c1e881aee8daa1d9c64a23805023fc013a28946274c54b",
    ),
    published(
        "er-cifar100-tune",
        CIFAR,
        "https://github.com/wetliu/energy_ood/raw/master/CIFAR/snapshots/energy_ft/cifar100_wrn_s1_energy_ft_epoch_9.pt",
        "4899110e41b8c96a01ec52e779e3336436da69db201f6162b2dce9a207f0f51f",
    ),
    published(
        "cifar10-pt",
        CIFAR,
        "https://github.com/wetliu/energy_ood/raw/master/CIFAR/snapshots/pretrained/cifar10_wrn_pretrained_epoch_99.pt",
        "0b59e178577382a0cf5d1e079d1d019f6a33b0801b7d123a59e51b4b32972637",
    ),
    published(
        "cifar100-pt",
        CIFAR,
        "https://github.com/wetliu/energy_ood/raw/master/CIFAR/snapshots/pretrained/cifar100_wrn_pretrained_epoch_99.pt",
        "3751f516b81ef9d27290f08a3de78d65a3771f477bd6a6caefa81b330dc34baf",
    ),
    published("cifar10-pixmix", HALF, "https://cse.ovgu.de/files/cifar10-pixmix.pt", ""),
    published("cifar100-pixmix", HALF, "https://cse.ovgu.de/files/cifar100-pixmix.pt", ""),
];

/// Where to look in place of the authors' servers: `URL/NAME.pt`.
const MIRROR: &str = "CAC_WEIGHTS_MIRROR";

/// No server needs longer to answer or to go on.
const PATIENCE: Duration = Duration::from_secs(30);

impl Published {
    /// The published weights of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        PUBLISHED.iter().find(|published| published.name == name)
    }

    /// The file in the cache, fetched if it is not there: `$XDG_CACHE_HOME/cac-toolkit/weights/NAME.pt`, with
    /// its SHA-256 beside it in `NAME.pt.sha256`. A transfer that broke off goes on where it stopped.
    /// `progress` is called with the bytes done and all bytes.
    ///
    /// # Errors
    /// [`Error::Download`] where the server cannot be reached or breaks off, or sends another file than the one
    /// recorded; [`Error::Weights`] where the cache has another one; [`Error::Io`] where it cannot be written.
    pub fn fetch(&self, progress: impl FnMut(usize, usize)) -> Result<PathBuf> {
        self.fetch_into(&cache()?, std::env::var(MIRROR).ok().as_deref(), progress)
    }

    fn fetch_into(
        &self,
        cache: &Path,
        mirror: Option<&str>,
        progress: impl FnMut(usize, usize),
    ) -> Result<PathBuf> {
        let file = cache.join(format!("{}.pt", self.name));
        let beside = |ending: &str| cache.join(format!("{}.pt.{ending}", self.name));
        let (record, part) = (beside("sha256"), beside("part"));
        let url = match mirror {
            Some(mirror) => format!("{}/{}.pt", mirror.trim_end_matches('/'), self.name),
            None => self.url.to_owned(),
        };
        let failed = |reason: String| Error::Download { url: url.clone(), path: file.clone(), reason };
        let recorded = match self.sha256 {
            Some(sha256) => Some(sha256.to_owned()),
            None => fs::read_to_string(&record).ok().map(|text| text.trim().to_owned()),
        };
        let fault = |found: &String| {
            let recorded = recorded.as_ref().filter(|&recorded| recorded != found)?;
            Some(format!("it has SHA-256 {found}, recorded is {recorded}"))
        };
        // A file that was there before.
        let check = || {
            let found = sha256_of(&file)?;
            if let Some(fault) = fault(&found) {
                let reason = format!("{fault}; remove it to fetch it again");
                return Err(Error::Weights { path: file.clone(), reason });
            }
            if recorded.is_none() {
                // A cache that cannot be written to can still be read.
                let _ = atomic::write(&record, format!("{found}\n").as_bytes());
            }
            Ok(file.clone())
        };
        if file.exists() {
            return check();
        }
        fs::create_dir_all(cache).map_err(Error::io("create", cache))?;
        let mut open = open_alone(&part).map_err(Error::io("write", &part))?;
        if file.exists() {
            // Another process was fetching it, and is done.
            return check();
        }
        transfer(&url, &mut open, progress).map_err(|reason| match reason {
            Broken::Server(reason) => failed(reason),
            Broken::Disk(source) => Error::Io { action: "write", path: part.clone(), source },
        })?;
        let found = sha256_of(&part)?;
        if let Some(fault) = fault(&found) {
            // Going on with it would not make it right.
            fs::remove_file(&part).map_err(Error::io("remove", &part))?;
            return Err(failed(fault));
        }
        atomic::write(&record, format!("{found}\n").as_bytes())?;
        fs::rename(&part, &file).map_err(Error::io("write", &file))?;
        Ok(file)
    }
}

/// Why a transfer ended early.
enum Broken {
    Server(String),
    Disk(std::io::Error),
}

/// Opens a file to append to it, as the only process that does: waits for others.
fn open_alone(path: &Path) -> std::io::Result<File> {
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    file.lock()?;
    Ok(file)
}

/// Gets the rest of a file that lies in part here.
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
    // A part that the server cannot go on from, because it ignores ranges or has another file by now.
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
        return Err(Broken::Server(format!("the server answers {}", response.status())));
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
        return Err(Broken::Server(format!("the server broke off after {done} of {total} bytes")));
    }
    file.sync_all().map_err(Broken::Disk)
}

fn header<'a, B>(response: &'a Response<B>, name: &str) -> &'a str {
    response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn sha256_of(path: &Path) -> Result<String> {
    Ok(sha256(&fs::read(path).map_err(Error::io("read", path))?))
}

/// The SHA-256 in hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    hexadecimal(Sha256::new_with_prefix(bytes))
}

/// A finished SHA-256 in hexadecimal.
pub(crate) fn hexadecimal(sum: Sha256) -> String {
    sum.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `$XDG_CACHE_HOME/cac-toolkit/weights`, or else in `.cache` of the home folder.
fn cache() -> Result<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let root = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")));
    let reason = "must be a folder for downloads, because HOME is not set either";
    let root = root.ok_or_else(|| Error::setting("XDG_CACHE_HOME", "not set", reason))?;
    Ok(root.join("cac-toolkit/weights"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::{BufRead, BufReader},
        net::TcpListener,
        thread::{self, JoinHandle},
    };

    const NAME: &str = "cifar10-pixmix";

    /// How the server answers a request.
    #[derive(Clone, Copy)]
    enum Answer {
        /// With what was asked for, ranges included.
        Properly,
        /// With the whole file, whatever was asked for.
        Whole,
        /// With the head, and so many bytes of the file.
        BreakOff(usize),
        Status(&'static str),
    }

    /// Serves a file on loopback, one answer after the other; ends with the requests' ranges.
    fn server(file: Vec<u8>, answers: Vec<Answer>) -> (String, JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let serve = move || {
            let mut ranges = Vec::new();
            for answer in answers {
                let (stream, _) = listener.accept().unwrap();
                let lines = BufReader::new(&stream).lines().map(|line| line.unwrap());
                let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
                assert_eq!(head[0], format!("GET /{NAME}.pt HTTP/1.1"));
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
                // The other side may have hung up on an error.
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

    fn fetch(cache: &Path, url: &str) -> Result<PathBuf> {
        Published::named(NAME).unwrap().fetch_into(cache, Some(url), |_, _| ())
    }

    #[test]
    fn a_file_is_fetched_once_and_trusted_as_it_was() {
        let cache = tempfile::tempdir().unwrap();
        let (url, served) = server(file(), vec![Answer::Properly]);
        let mut last = (0, 0);
        let path = Published::named(NAME)
            .unwrap()
            .fetch_into(&cache.path().join("new"), Some(&url), |done, total| last = (done, total))
            .unwrap();
        assert_eq!(last, (100_000, 100_000));
        assert_eq!(fs::read(&path).unwrap(), file());
        assert_eq!(served.join().unwrap(), [""]);
        let record = fs::read_to_string(path.with_extension("pt.sha256")).unwrap();
        assert_eq!(record.trim(), sha256_of(&path).unwrap());

        // From now on without a server, as long as the file is the same.
        assert_eq!(fetch(&cache.path().join("new"), &url).unwrap(), path);
        fs::write(&path, "something else").unwrap();
        let error = fetch(&cache.path().join("new"), &url).unwrap_err();
        assert!(matches!(&error, Error::Weights { reason, .. } if reason.contains(record.trim())), "{error}");
    }

    #[test]
    fn a_file_that_was_put_there_must_stay_the_same_too() {
        let cache = tempfile::tempdir().unwrap();
        let path = cache.path().join(format!("{NAME}.pt"));
        fs::write(&path, file()).unwrap();
        assert_eq!(fetch(cache.path(), "http://127.0.0.1:1").unwrap(), path);
        fs::write(&path, "something else").unwrap();
        assert!(matches!(fetch(cache.path(), "http://127.0.0.1:1"), Err(Error::Weights { .. })));
    }

    #[test]
    fn two_that_fetch_at_once_fetch_it_once() {
        let cache = tempfile::tempdir().unwrap();
        let (url, served) = server(file(), vec![Answer::Properly]);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| assert_eq!(fs::read(fetch(cache.path(), &url).unwrap()).unwrap(), file()));
            }
        });
        assert_eq!(served.join().unwrap(), [""]);
    }

    #[test]
    fn what_broke_off_goes_on() {
        let cache = tempfile::tempdir().unwrap();
        let answers = vec![Answer::BreakOff(30_000), Answer::Properly];
        let (url, served) = server(file(), answers);
        let error = fetch(cache.path(), &url).unwrap_err();
        assert!(matches!(error, Error::Download { .. }), "{error}");
        assert!(error.hint().unwrap().contains("goes on"));
        let path = fetch(cache.path(), &url).unwrap();
        assert_eq!(fs::read(path).unwrap(), file());
        assert_eq!(served.join().unwrap(), ["", "30000-"]);
        assert_eq!(fs::read_dir(cache.path()).unwrap().count(), 2, "the file and its record");
    }

    #[test]
    fn a_server_without_ranges_starts_again() {
        let cache = tempfile::tempdir().unwrap();
        fs::write(cache.path().join(format!("{NAME}.pt.part")), "of another file").unwrap();
        let (url, served) = server(file(), vec![Answer::Whole]);
        assert_eq!(fs::read(fetch(cache.path(), &url).unwrap()).unwrap(), file());
        assert_eq!(served.join().unwrap(), ["15-"]);

        let cache = tempfile::tempdir().unwrap();
        fs::write(cache.path().join(format!("{NAME}.pt.part")), vec![0; 200_000]).unwrap();
        let (url, _served) =
            server(file(), vec![Answer::Status("416 Range Not Satisfiable"), Answer::Properly]);
        assert_eq!(fs::read(fetch(cache.path(), &url).unwrap()).unwrap(), file());
    }

    #[test]
    fn a_file_that_is_not_the_recorded_one_is_not_kept() {
        let cache = tempfile::tempdir().unwrap();
        let (url, _served) = server(file(), vec![Answer::Properly]);
        let recorded = Published { sha256: PUBLISHED[0].sha256, ..*Published::named(NAME).unwrap() };
        let error = recorded.fetch_into(cache.path(), Some(&url), |_, _| ()).unwrap_err();
        assert!(error.to_string().contains(PUBLISHED[0].sha256.unwrap()), "{error}");
        assert_eq!(fs::read_dir(cache.path()).unwrap().count(), 0);
    }

    #[test]
    fn servers_that_refuse_and_servers_that_are_not_there() {
        let cache = tempfile::tempdir().unwrap();
        let (url, served) = server(file(), vec![Answer::Status("404 Not Found")]);
        let error = fetch(cache.path(), &url).unwrap_err().to_string();
        assert!(error.contains(&url) && error.contains("404"), "{error}");
        served.join().unwrap();
        let error = fetch(cache.path(), &url).unwrap_err();
        assert!(matches!(error, Error::Download { .. }), "{error}");
        assert!(error.hint().unwrap().contains(&format!("{NAME}.pt")));
    }
}
