//! Progress on stderr: a bar on a terminal, plain lines elsewhere.

use std::{
    fmt::Display,
    io::{IsTerminal, Write, stderr},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

/// Writes one or more lines to stderr. Control characters, which file names may contain, are escaped. A
/// closed stderr is not an error.
pub fn say(line: impl Display) {
    let escaped = |text: &str| -> String {
        let shown =
            |c: char| if c.is_control() && c != '\n' { c.escape_debug().to_string() } else { c.to_string() };
        text.chars().map(shown).collect()
    };
    let _ = writeln!(stderr(), "{}", escaped(&line.to_string()));
}

/// Minimum interval between plain lines.
const PLAIN_EVERY: Duration = Duration::from_secs(10);

/// The progress of a task.
pub struct Progress {
    bar: Option<ProgressBar>,
    /// The number of items, if it is known.
    total: Option<usize>,
    label: String,
    last_line: Instant,
}

impl Progress {
    /// Starts a task of `total` items.
    pub fn new(label: String, total: usize) -> Self {
        Self::of(label, Some(total))
    }

    /// Starts a task of `total` items, if their number is known.
    pub fn of(label: String, total: Option<usize>) -> Self {
        let bar = stderr().is_terminal().then(|| {
            let template = match total {
                Some(_) => "{prefix} {wide_bar} {pos}/{len} {msg} [{elapsed}<{eta}]",
                None => "{prefix} {spinner} {pos} {msg} [{elapsed}]",
            };
            let style = ProgressStyle::with_template(template).expect("a valid template");
            let bar = total.map_or_else(ProgressBar::no_length, |total| ProgressBar::new(total as u64));
            bar.with_style(style).with_prefix(label.clone())
        });
        Self { bar, total, label, last_line: Instant::now() }
    }

    /// Shows the number of finished items and a message.
    pub fn update(&mut self, done: usize, message: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(message.to_owned());
            bar.set_position(done as u64);
        } else if self.last_line.elapsed() >= PLAIN_EVERY || Some(done) == self.total {
            self.last_line = Instant::now();
            let of_total = self.total.map(|total| format!("/{total}")).unwrap_or_default();
            say(format_args!("{} {done}{of_total} {message}", self.label));
        }
    }

    /// Removes the bar.
    pub fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}
