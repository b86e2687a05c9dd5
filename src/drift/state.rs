//! The state of a monitor in a file, so that a stream can go on later.

use std::{
    borrow::Cow,
    fs::{self, File, OpenOptions, TryLockError},
    hash::{DefaultHasher, Hasher},
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::Monitor;
use crate::{
    error::{Error, Result},
    files::{atomic, check_writable, destination},
    text::path_text,
};

/// The format version that is written, and the newest that is read.
const FORMAT_VERSION: u32 = 1;
/// The suffix of the lock file.
const LOCK: &str = ".lock";
/// The greatest difference between the martingale that the file states and that of its scores, relative above
/// 1. The last bit of a logarithm may differ on other processors.
const TOLERANCE: f64 = 1e-6;

/// The origin of the scores of a stream. Scores of different origins cannot be compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamOrigin {
    /// The SHA-256 of the model file, hexadecimal.
    pub model: String,
    /// The name of the score.
    pub score: String,
}

/// The content of the file. The martingale follows from the scores; it is stored for inspection and as a
/// check.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State<'a> {
    format_version: u32,
    model: Cow<'a, str>,
    score: Cow<'a, str>,
    seed: u64,
    alpha: f64,
    images: usize,
    log10_martingale: f64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    unguaranteed: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_call: Option<Cow<'a, str>>,
    scores: Cow<'a, [f32]>,
}

#[derive(Deserialize)]
struct Version {
    format_version: u32,
}

/// The file with the state of a monitor. It is locked until it is dropped, because one of two processes would
/// lose the images of the other. The lock is an empty file next to it, which stays.
#[derive(Debug)]
pub struct StateFile {
    path: PathBuf,
    origin: StreamOrigin,
    /// The length and the hash of the file when it was last read or written; `None` without a file.
    content: Option<(usize, u64)>,
    last_call: Option<String>,
    _lock: File,
}

impl StateFile {
    /// Opens a state and restores it in a new monitor. Without a file, the monitor stays as it is.
    ///
    /// # Errors
    /// [`Error::StateInUse`] if another process has it open; [`Error::DamagedState`]; [`Error::DriftState`] if it
    /// is of another origin, seed or alpha, or if the monitor has images already; [`Error::FormatVersion`] for
    /// a newer file; [`Error::Io`], also if the file could not be written.
    pub fn open(path: &Path, origin: StreamOrigin, mut monitor: Monitor) -> Result<(Self, Monitor)> {
        check_writable(path)?;
        let lock = lock(path)?;
        let bytes = read(path).map_err(Error::io("read", path))?;
        let content = bytes.as_deref().map(identity);
        let last_call = match &bytes {
            Some(bytes) => resume(path, bytes, &origin, &mut monitor)?,
            None => None,
        };
        Ok((Self { path: path.to_owned(), origin, content, last_call, _lock: lock }, monitor))
    }

    /// Whether the images that were last added are those of a call, which may have been killed after it had written
    /// the file. A call has a text that tells it from others, such as the SHA-256 of the names and the scores.
    #[must_use]
    pub fn has_counted(&self, call: &str) -> bool {
        self.last_call.as_deref() == Some(call)
    }

    /// Replaces the file; `call` is what [`has_counted`](Self::has_counted) compares. After an error the file is
    /// unchanged.
    ///
    /// # Errors
    /// [`Error::Io`], and [`Error::StateChanged`] if another process has written the file, because the lock file was
    /// removed or the file system has no locks.
    pub fn write(&mut self, monitor: &Monitor, call: Option<&str>) -> Result<()> {
        let found = read(&self.path).map_err(Error::io("read", &self.path))?;
        if found.as_deref().map(identity) != self.content {
            return Err(Error::StateChanged { path: self.path.clone() });
        }
        drop(found);
        let state = State {
            format_version: FORMAT_VERSION,
            model: Cow::Borrowed(&self.origin.model),
            score: Cow::Borrowed(&self.origin.score),
            seed: monitor.seed,
            alpha: monitor.alpha,
            images: monitor.scores.len(),
            log10_martingale: monitor.status().log10_martingale,
            unguaranteed: !monitor.guaranteed,
            last_call: call.map(Cow::Borrowed),
            scores: Cow::Borrowed(&monitor.scores),
        };
        let mut bytes = serde_json::to_vec(&state).expect("finite numbers");
        bytes.push(b'\n');
        atomic::write(&self.path, &bytes)?;
        (self.content, self.last_call) = (Some(identity(&bytes)), call.map(str::to_owned));
        Ok(())
    }
}

/// The length and the hash of a content.
fn identity(bytes: &[u8]) -> (usize, u64) {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    (bytes.len(), hasher.finish())
}

/// The content of the file, if there is one.
fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Locks the lock file of a state, or of its target if the state is a link.
fn lock(path: &Path) -> Result<File> {
    let mut place = destination(path).into_os_string();
    place.push(LOCK);
    // Windows cannot lock a file that is opened only for appending.
    let file = OpenOptions::new().create(true).read(true).append(true).open(&place);
    let file = file.map_err(Error::io("write", Path::new(&place)))?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Err(Error::StateInUse { path: path.to_owned() }),
        // A file system without locks is not an error.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(file),
    }
}

/// Pushes the scores of a state; returns its last call.
fn resume(path: &Path, bytes: &[u8], origin: &StreamOrigin, monitor: &mut Monitor) -> Result<Option<String>> {
    let refused = |reason: String| Error::DriftState { path: path.to_owned(), reason };
    let damaged = |reason: &dyn std::fmt::Display| Error::DamagedState {
        path: path.to_owned(),
        reason: reason.to_string(),
    };
    let Version { format_version } = serde_json::from_slice(bytes).map_err(|error| damaged(&error))?;
    if format_version > FORMAT_VERSION {
        let origin = path_text(path);
        return Err(Error::FormatVersion { origin, found: format_version, supported: FORMAT_VERSION });
    }
    let state: State = serde_json::from_slice(bytes).map_err(|error| damaged(&error))?;
    let pairs = [
        ("the model with SHA-256", &*state.model, &*origin.model),
        ("the score", &*state.score, &*origin.score),
        ("the seed", &*state.seed.to_string(), &*monitor.seed.to_string()),
        // One that is chosen after some images bounds nothing.
        ("the alpha", &*state.alpha.to_string(), &*monitor.alpha.to_string()),
    ];
    if let Some((what, found, expected)) = pairs.into_iter().find(|(_, found, expected)| found != expected) {
        return Err(refused(format!("it belongs to {what} {found}, expected {expected}")));
    }
    if state.images != state.scores.len() {
        return Err(damaged(&format_args!(
            "it states {} images and has {}",
            state.images,
            state.scores.len()
        )));
    }
    if monitor.status().images > 0 {
        return Err(refused("the monitor has images already".to_owned()));
    }
    state.scores.iter().for_each(|&score| monitor.push(score));
    let (stated, found) = (state.log10_martingale, monitor.status().log10_martingale);
    if (stated - found).abs() > TOLERANCE * found.abs().max(1.0) {
        return Err(damaged(&"its scores give another martingale than it states"));
    }
    if state.unguaranteed {
        monitor.withdraw_guarantee();
    }
    Ok(state.last_call.map(Cow::into_owned))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drift::ALPHA;

    const HELD_OUT: [f32; 5] = [-3.5, 0.1, 0.2, 1.0 / 3.0, 7.0];

    fn origin() -> StreamOrigin {
        StreamOrigin { model: "abc".to_owned(), score: "cac".to_owned() }
    }

    fn monitor(seed: u64) -> Monitor {
        Monitor::new(&HELD_OUT, ALPHA, seed).unwrap()
    }

    /// Scores, many of which need all digits.
    fn scores(count: usize) -> impl Iterator<Item = f32> {
        (0..count).map(|i| (i as f32 * 0.7).sin() * 1e-3 + (i as f32 / 3.0).exp2() % 1.7)
    }

    fn written(path: &Path, count: usize) -> Monitor {
        let (mut file, mut monitor) = StateFile::open(path, origin(), monitor(4)).unwrap();
        scores(count).chain([f32::NAN, f32::NEG_INFINITY]).for_each(|score| monitor.push(score));
        file.write(&monitor, None).unwrap();
        monitor
    }

    #[test]
    fn a_resumed_stream_is_bit_identical() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("drift.json");
        let mut whole = written(&path, 300);
        for _ in 0..3 {
            let (mut file, mut parts) = StateFile::open(&path, origin(), monitor(4)).unwrap();
            for score in scores(50) {
                parts.push(score);
                whole.push(score);
            }
            assert_eq!(parts.status(), whole.status());
            assert_eq!(parts.martingale.ln.to_bits(), whole.martingale.ln.to_bits());
            assert_eq!(parts.random.get_word_pos(), whole.random.get_word_pos());
            assert_eq!(parts.scores, whole.scores);
            file.write(&parts, None).unwrap();
        }
    }

    #[test]
    fn a_state_of_another_stream_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("drift.json");
        written(&path, 20);
        let before = fs::read(&path).unwrap();
        let refused = |origin: StreamOrigin, seed: u64, reason: &str| {
            let error = StateFile::open(&path, origin, monitor(seed)).unwrap_err();
            assert!(matches!(error, Error::DriftState { .. }), "{error}");
            assert!(error.to_string().ends_with(&format!("drift.json`: it belongs to {reason}")), "{error}");
        };
        refused(
            StreamOrigin { model: "abd".to_owned(), ..origin() },
            4,
            "the model with SHA-256 abc, expected abd",
        );
        refused(StreamOrigin { score: "energy".to_owned(), ..origin() }, 4, "the score cac, expected energy");
        refused(origin(), 5, "the seed 4, expected 5");
        assert_eq!(fs::read(&path).unwrap(), before);
    }

    #[test]
    fn a_damaged_state_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("drift.json");
        written(&path, 20);
        let text = fs::read_to_string(&path).unwrap();
        let third = text.split(',').nth_back(3).unwrap();
        for (damaged, reason) in [
            (String::new(), "EOF while parsing"),
            (text[..text.len() / 2].to_owned(), "EOF while parsing"),
            (text.replace("\"seed\":4", "\"seed\":-4"), "invalid value"),
            (text.replace("\"scores\":[", "\"scores\":[null,"), "invalid type: null"),
            (text.replace("\"scores\":[", "\"scores\":[0.5,"), "it states 22 images and has 23"),
            (text.replace(third, "1.5"), "its scores give another martingale than it states"),
        ] {
            fs::write(&path, &damaged).unwrap();
            let error = StateFile::open(&path, origin(), monitor(4)).unwrap_err();
            assert!(matches!(error, Error::DamagedState { .. }), "{error}");
            assert!(error.to_string().contains(&format!("it is damaged: {reason}")), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), damaged);
        }
        fs::write(&path, r#"{"format_version":2,"of_tomorrow":true}"#).unwrap();
        let error = StateFile::open(&path, origin(), monitor(4)).unwrap_err();
        assert!(matches!(error, Error::FormatVersion { found: 2, supported: 1, .. }), "{error}");
    }

    #[test]
    fn a_state_knows_its_last_call_and_its_doubts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("drift.json");
        let (mut file, mut stream) = StateFile::open(&path, origin(), monitor(4)).unwrap();
        assert!(stream.status().guaranteed && !file.has_counted("monday"));
        stream.push(0.5);
        stream.withdraw_guarantee();
        file.write(&stream, Some("monday")).unwrap();
        drop(file);
        let (mut file, stream) = StateFile::open(&path, origin(), monitor(4)).unwrap();
        assert!(file.has_counted("monday") && !file.has_counted("tuesday") && !stream.status().guaranteed);
        file.write(&stream, None).unwrap();
        assert!(!file.has_counted("monday"));
    }

    #[test]
    fn a_state_that_another_process_has_written_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("drift.json");
        let (mut first, one) = StateFile::open(&path, origin(), monitor(4)).unwrap();
        fs::remove_file(folder.path().join("drift.json.lock")).unwrap();
        written(&path, 20);
        let before = fs::read(&path).unwrap();
        let error = first.write(&one, None).unwrap_err();
        assert!(matches!(error, Error::StateChanged { .. }), "{error}");
        assert!(error.to_string().ends_with("drift.json` has changed since it was opened"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), before);
    }

    #[test]
    fn a_state_cannot_be_opened_twice() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("drift.json");
        let first = StateFile::open(&path, origin(), monitor(4)).unwrap();
        let error = StateFile::open(&path, origin(), monitor(4)).unwrap_err();
        assert!(matches!(error, Error::StateInUse { .. }), "{error}");
        assert!(error.to_string().ends_with("drift.json` is in use by another process"), "{error}");
        drop(first);
        StateFile::open(&path, origin(), monitor(4)).unwrap();
        assert!(!path.exists(), "nothing was written");
        let missing = folder.path().join("no/such/drift.json");
        assert!(matches!(StateFile::open(&missing, origin(), monitor(4)), Err(Error::Io { .. })));
    }
}
