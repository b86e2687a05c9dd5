//! Shows the progress of a run.

use std::{
    collections::BTreeMap,
    io::{Error, Write},
    path::PathBuf,
};

use anyhow::Context;
use cac::{
    method::{LogitScore, needed_to_choose},
    run::{RunFolder, Started},
    text::{on_one_line, shown},
    train::Event,
};

use crate::terminal::{
    Progress, hint::share_to_hold_out, say, say_left_out, say_untested, stdout, stdout_is_closed,
};

/// The number of classes up to which all are listed.
const LISTED: usize = 12;

/// Lines and a bar on stderr, and with `--json` the events on stdout.
pub struct Display {
    json: bool,
    folder: PathBuf,
    /// The rejection score of the tests.
    score: Option<LogitScore>,
    epochs: usize,
    /// Steps per epoch.
    steps: usize,
    /// The bar and what it shows.
    bar: Option<(String, Progress)>,
    /// Why an event could not be written to stdout.
    unwritten: Option<Error>,
}

impl Display {
    pub fn new(json: bool, run: &RunFolder) -> Self {
        let folder = run.path().to_owned();
        Self { json, folder, score: None, epochs: 0, steps: 0, bar: None, unwritten: None }
    }

    pub fn show(&mut self, event: &Event) {
        if self.json && !stdout_is_closed() {
            let line = serde_json::to_string(event).expect("an event is plain data");
            // A full disk must not end the run.
            let lost = writeln!(stdout(), "{line}").err();
            self.unwritten = self.unwritten.take().or(lost);
        }
        let epochs = self.epochs;
        match event {
            Event::StateUnusable { reason } => {
                say(format_args!("resuming from the state before the newest: {reason}"));
            }
            Event::Reading { done, images } => {
                self.progress("reading images".to_owned(), *done, *images, "");
            }
            Event::Features { done, images } => {
                self.progress("features of the frozen layers".to_owned(), *done, *images, "");
                if done == images {
                    self.clear();
                }
            }
            Event::FeaturesFound { file } => {
                say(format_args!("features of the frozen layers: reused from `{}`", shown(file)));
            }
            Event::Start(started) => self.started(started),
            Event::Step { epoch, step, loss, learning_rate, images_per_second } => {
                let decimals = usize::from(*images_per_second < 1000.0);
                let message = format!(
                    "loss {loss:.4}, lr {learning_rate:.2e}, {images_per_second:.decimals$} images/s"
                );
                self.progress(format!("epoch {epoch}/{epochs}"), *step, self.steps, &message);
                // Not every epoch is tested.
                if *step == self.steps {
                    self.clear();
                }
            }
            Event::Testing { epoch } => say(format_args!("epoch {epoch}/{epochs}: testing")),
            Event::Epoch { epoch, held_out_loss, best, seconds, report } => {
                let held_out = held_out_loss.map(|loss| format!(", held-out loss {loss:.4}"));
                // Without a loss to choose by, the last one always is.
                let best = if *best && held_out_loss.is_some() { " (best)" } else { "" };
                let held_out = held_out.unwrap_or_default();
                say(format_args!("epoch {epoch}/{epochs}: {seconds:.0} s{held_out}{best}\n{report:#}"));
            }
            Event::Finishing { done, images } => {
                self.progress("features of the best epoch".to_owned(), *done, *images, "");
                if done == images {
                    self.clear();
                }
            }
            // The table is printed by `main`.
            Event::Finished { .. } => {
                self.clear();
                if let Some(score) = self.score.filter(|_| !self.json) {
                    say(format_args!(
                        "test of the best epoch with the score {score}; `toolkit export` may choose a better one:"
                    ));
                }
            }
        }
    }

    /// Shows what the run trains on and is tested on.
    fn started(&mut self, started: &Started) {
        self.clear();
        (self.epochs, self.steps, self.score) = (started.epochs, started.steps, started.score);
        say_left_out(&started.left_out);
        if started.skipped > 0 {
            say(format_args!("images that cannot be read and are left out: {}", started.skipped));
        }
        let held_out = started.held_out.unwrap_or_default();
        if let [0, calibrating] = held_out
            && calibrating > 0
        {
            say(format_args!(
                "only {calibrating} images are held out: enough for the threshold, too few to choose an epoch or a score, so the last \
                 epoch counts as best{}",
                share_to_hold_out(needed_to_choose(), started.images + calibrating)
                    .map_or(String::new(), |share| format!("; --held-out {share} holds out enough for both"))
            ));
        }
        say_untested(started.untested.iter().map(String::as_str));
        started.remarks().iter().for_each(say);
        if started.held_out_seen {
            say("the backbone was trained on images that are now held out, so the threshold \
                 carries no guarantee; to keep the guarantee, use the images, --seed and --held-out of its training");
        }
        if !started.classes.is_empty() {
            say(classes(&started.classes));
        }
        let score = started.score.map_or(String::new(), |score| format!(", tested with the score {score}"));
        say(format_args!(
            "training on {} images{}{score}, results in `{}`",
            started.images,
            match held_out.iter().sum() {
                0 => String::new(),
                count => format!(", {count} held out"),
            },
            shown(&self.folder)
        ));
    }

    /// Removes the bar; fails if events were lost.
    pub fn finish(mut self) -> anyhow::Result<()> {
        self.clear();
        self.unwritten.map_or(Ok(()), Err).context("the events are incomplete")
    }

    /// Removes the bar.
    fn clear(&mut self) {
        if let Some((_, bar)) = self.bar.take() {
            bar.finish();
        }
    }

    /// Shows a number of finished items, in a new bar if the label changes.
    fn progress(&mut self, label: String, done: usize, total: usize, message: &str) {
        if self.bar.as_ref().is_some_and(|(shown, _)| *shown != label) {
            self.clear();
        }
        let new = || (label.clone(), Progress::new(label, total));
        self.bar.get_or_insert_with(new).1.update(done, message);
    }
}

/// The classes and their numbers of training images; of many, the smallest and the largest.
fn classes(counts: &BTreeMap<String, usize>) -> String {
    let named = |(class, count): (&String, &usize)| format!("{} ({count})", on_one_line(class));
    let count = counts.len();
    if count <= LISTED {
        return format!("{count} classes: {}", counts.iter().map(named).collect::<Vec<_>>().join(", "));
    }
    let of = |end: Option<(&String, &usize)>| end.map(named).unwrap_or_default();
    let (least, most) =
        (counts.iter().min_by_key(|&(_, count)| count), counts.iter().max_by_key(|&(_, count)| count));
    format!("{count} classes, the smallest {}, the largest {}", of(least), of(most))
}
