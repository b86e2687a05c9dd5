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

/// The progress of a task of known length.
pub struct Progress {
    bar: Option<ProgressBar>,
    total: usize,
    label: String,
    last_line: Instant,
}

impl Progress {
    /// Starts a task of `total` items.
    pub fn new(label: String, total: usize) -> Self {
        let bar = stderr().is_terminal().then(|| {
            let template = "{prefix} {wide_bar} {pos}/{len} {msg} [{elapsed}<{eta}]";
            let style = ProgressStyle::with_template(template).expect("a valid template");
            ProgressBar::new(total as u64).with_style(style).with_prefix(label.clone())
        });
        Self { bar, total, label, last_line: Instant::now() }
    }

    /// Shows the number of finished items and a message.
    pub fn update(&mut self, done: usize, message: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(message.to_owned());
            bar.set_position(done as u64);
        } else if self.last_line.elapsed() >= PLAIN_EVERY || done == self.total {
            self.last_line = Instant::now();
            say(format_args!("{} {done}/{} {message}", self.label, self.total));
        }
    }

    /// Removes the bar.
    pub fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}
