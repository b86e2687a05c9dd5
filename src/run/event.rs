//! The events of a run, and the log that holds them.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{
    data::{LeftOut, is_catch_all, is_split_name, other_classes_in_words},
    error::{Error, Result},
    method::LogitScore,
    model::{held_out_alike_in_words, tests_alike_in_words},
    report::{Report, is_zero},
    text::{first_few, on_one_line, path_text},
};

/// An event of a run; the lines of `log.jsonl` are events.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// The data is open and training starts.
    Start(Started),
    /// The newest state cannot be used; the run resumes from the one before it.
    StateUnusable {
        /// The error of the newest state.
        reason: String,
    },
    /// Images are being read for the first time and checked; only if that takes long.
    Reading {
        /// Images read.
        done: usize,
        /// All images, of training and tests.
        images: usize,
    },
    /// Features of frozen layers are being computed.
    Features {
        /// Images evaluated, each view counted.
        done: usize,
        /// All images to evaluate.
        images: usize,
    },
    /// The features of frozen layers are those of another run.
    FeaturesFound {
        /// The file in the folder of that run.
        #[serde(serialize_with = "as_text")]
        file: PathBuf,
    },
    /// Progress within an epoch.
    Step {
        /// The epoch, from 1.
        epoch: usize,
        /// The step in the epoch, from 1.
        step: usize,
        /// The moving average of the loss.
        #[serde(deserialize_with = "number")]
        loss: f64,
        /// Learning rate of this step.
        #[serde(deserialize_with = "number")]
        learning_rate: f64,
        /// Known images per second since the start of the epoch.
        #[serde(deserialize_with = "number")]
        images_per_second: f64,
    },
    /// An epoch has been trained and its test starts.
    Testing {
        /// The epoch, from 1.
        epoch: usize,
    },
    /// An epoch has been tested and its weights saved.
    Epoch {
        /// The epoch, from 1.
        epoch: usize,
        /// The loss on the held-out images that choose; `None` without any.
        held_out_loss: Option<f64>,
        /// Whether these are the best weights so far: their held-out loss is no higher than the lowest
        /// before, within the standard error of the difference, or no held-out images choose.
        best: bool,
        /// Seconds of training and test, counted from the resume if the run was resumed in this epoch.
        seconds: f64,
        /// The metrics, without intervals.
        report: Report,
    },
    /// The features of the best epoch are being computed, for the export.
    Finishing {
        /// Images evaluated.
        done: usize,
        /// All images to evaluate.
        images: usize,
    },
    /// All epochs are done.
    Finished {
        /// The metrics of the best epoch, with intervals.
        report: Report,
    },
}

/// Classes with fewer training images get a remark.
const SCARCE: usize = 10;

/// What a run trains on and is tested on.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Started {
    /// Images per epoch.
    pub images: usize,
    /// Steps per epoch.
    pub steps: usize,
    /// Number of epochs.
    pub epochs: usize,
    /// The rejection score of the tests; `None` in logs of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<LogitScore>,
    /// Left-out files in the folders of all sets: not images by their extension, or of no class.
    #[serde(default, skip_serializing_if = "LeftOut::is_empty")]
    pub left_out: LeftOut,
    /// Images of all sets that cannot be read and are left out.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub skipped: usize,
    /// The number of held-out images that choose the epoch and the score, and of those that calibrate the
    /// threshold; `None` in logs of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_out: Option<[usize; 2]>,
    /// The classes of the data set that are unknown.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub other_classes: Vec<String>,
    /// The known classes without test images.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub untested: Vec<String>,
    /// Known test images with the bytes of a training image.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub repeated: usize,
    /// Other known test images that look almost like a training image.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub alike_in_tests: usize,
    /// Held-out images that look almost like a training image.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub alike_held_out: usize,
    /// Whether there are too many images to find those that look alike.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub uncompared: bool,
    /// Known training images with the bytes of an earlier one. They are left out if that one is held out.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub duplicates: usize,
    /// Pairs of identical images in different classes, by name: the earlier image, then the later one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub in_two_classes: Vec<[String; 2]>,
    /// The number of images of each unknown set with the bytes of a known training image or an outlier.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub learned: BTreeMap<String, usize>,
    /// The number of images of each unknown set with the bytes of a known test image.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub also_known: BTreeMap<String, usize>,
    /// The number of training images of each class; empty in logs of earlier versions.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub classes: BTreeMap<String, usize>,
    /// Whether the backbone was trained on held-out images, as far as its file says; then a threshold
    /// chosen from them makes no promise.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub held_out_seen: bool,
    /// Whether the backbone was trained on classes of the data set that are unknown now, as far as its file says.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unknown_seen: bool,
}

impl Started {
    /// Warnings about the images, one phrase each, without a full stop.
    #[must_use]
    pub fn remarks(&self) -> Vec<String> {
        let mut remarks: Vec<String> = other_classes_in_words(&self.other_classes).into_iter().collect();
        if self.repeated > 0 {
            remarks.push(format!("test images that are also training images: {}", self.repeated));
        }
        if self.alike_in_tests > 0 {
            remarks.push(tests_alike_in_words(self.alike_in_tests));
        }
        if self.alike_held_out > 0 {
            remarks.push(held_out_alike_in_words(self.alike_held_out));
        }
        if self.duplicates > 0 {
            remarks.push(format!(
                "training images that are copies of others: {}; copies of held-out images are left out",
                self.duplicates
            ));
        }
        if self.uncompared {
            remarks.push("too many images to find those that look alike".to_owned());
        }
        if let [[first, second], ..] = &self.in_two_classes[..] {
            remarks.push(format!(
                "images in two classes: {}, such as `{}`, which is also `{}`",
                self.in_two_classes.len(),
                on_one_line(first),
                on_one_line(second)
            ));
        }
        for (sets, what) in [(&self.learned, "training"), (&self.also_known, "known test")] {
            remarks.extend(sets.iter().map(|(set, count)| {
                format!(
                    "images of the unknown set `{}` that are also {what} images: {count}",
                    on_one_line(set)
                )
            }));
        }
        if self.unknown_seen {
            remarks.push("the backbone was trained on some of the unknown classes".to_owned());
        }
        for class in self.classes.keys().filter(|class| is_split_name(class)) {
            remarks.push(format!(
                "the class `{}` has the name of a split: are its images sorted by class?",
                on_one_line(class)
            ));
        }
        let catch_all = self.classes.keys().filter(|class| is_catch_all(class));
        let mut catch_all = catch_all.map(|class| format!("`{}`", on_one_line(class))).peekable();
        if catch_all.peek().is_some() {
            remarks.push(format!(
                "learned as known classes: {}; remove these folders if their images are of no class",
                first_few(catch_all)
            ));
        }
        let scarce = self.classes.iter().filter(|&(_, &count)| count < SCARCE);
        let mut scarce = scarce.map(|(class, count)| format!("{} ({count})", on_one_line(class))).peekable();
        if scarce.peek().is_some() {
            remarks.push(format!(
                "classes with few training images: {}; the guarantee of the threshold is for all classes together",
                first_few(scarce)
            ));
        }
        remarks
    }
}

/// A path, which need not be UTF-8.
fn as_text<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&path_text(path))
}

/// A number, which JSON writes as null if it is infinite or NaN.
fn number<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or(f64::NAN))
}

impl Event {
    /// Reads the log of a run: its events in their order, and the number of lines that hold no event of this
    /// version. A line that a killed run did not finish is one of these.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn read_log(path: &Path) -> Result<(Vec<Self>, usize)> {
        let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
        let (mut events, mut others) = (Vec::new(), 0);
        for line in bytes.split(|&byte| byte == b'\n').filter(|line| !line.trim_ascii().is_empty()) {
            match serde_json::from_slice(line) {
                Ok(event) => events.push(event),
                Err(_) => others += 1,
            }
        }
        Ok((events, others))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_and_truncated_log_lines_are_skipped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        let report = Report::new(&[0.0, 1.0], Some(&[true, false]), &[("far", &[2.0])], &Default::default());
        let events = [
            Event::Start(Started {
                images: 7,
                steps: 2,
                epochs: 1,
                score: Some(LogitScore::Cac),
                left_out: LeftOut::new(),
                skipped: 0,
                held_out: Some([2, 19]),
                other_classes: vec!["bird".to_owned()],
                untested: vec!["cat".to_owned()],
                repeated: 3,
                alike_in_tests: 2,
                alike_held_out: 1,
                uncompared: true,
                duplicates: 2,
                in_two_classes: vec![["cat/1.png".to_owned(), "dog/7.png".to_owned()]],
                learned: BTreeMap::from([("far".to_owned(), 4)]),
                also_known: BTreeMap::new(),
                classes: BTreeMap::from([("cat".to_owned(), 9), ("dog".to_owned(), 12)]),
                held_out_seen: false,
                unknown_seen: true,
            }),
            Event::Step { epoch: 1, step: 1, loss: 0.5, learning_rate: 1e-3, images_per_second: 9.0 },
            Event::Epoch { epoch: 1, held_out_loss: None, best: true, seconds: 2.0, report: report.unwrap() },
        ];
        let lines: Vec<String> = events.iter().map(|event| serde_json::to_string(event).unwrap()).collect();
        std::fs::write(&path, format!("{}\n\n{{\"event\":\"later\"}}\n{{\"ev", lines.join("\n"))).unwrap();
        assert_eq!(Event::read_log(&path).unwrap(), (events.to_vec(), 2));

        let diverged = lines[1].replace("0.5", "null");
        std::fs::write(&path, diverged).unwrap();
        let (events, _) = Event::read_log(&path).unwrap();
        assert!(matches!(events[..], [Event::Step { loss, step: 1, .. }] if loss.is_nan()), "{events:?}");
        assert!(matches!(Event::read_log(folder.path()), Err(Error::Io { .. })));
    }

    #[test]
    fn classes_whose_names_mean_something_else_are_remarked() {
        let classes =
            ["cat", "Test", "Misc.", "not-known", "Motherboard"].map(|class| (class.to_owned(), 12));
        let started = Started { classes: BTreeMap::from(classes), ..Started::default() };
        let remarks = [
            "the class `Test` has the name of a split: are its images sorted by class?",
            "learned as known classes: `Misc.`, `not-known`; remove these folders if their images are of no class",
        ];
        assert_eq!(started.remarks(), remarks);
    }

    #[cfg(unix)]
    #[test]
    fn a_path_that_is_not_utf_8_is_written_as_text() {
        use std::os::unix::ffi::OsStrExt;
        let file = Path::new(std::ffi::OsStr::from_bytes(b"runs/\xff/features.npy")).to_owned();
        let line = serde_json::to_string(&Event::FeaturesFound { file }).unwrap();
        assert_eq!(line, r#"{"event":"features-found","file":"runs/\\xff/features.npy"}"#);
    }
}
