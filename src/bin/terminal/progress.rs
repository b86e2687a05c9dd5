//! Progress on stderr: a bar on a terminal, plain lines elsewhere.

use std::{
    fmt::Display,
    io::{IsTerminal, Write, stderr},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use cac::text::on_one_line;
use indicatif::{ProgressBar, ProgressStyle};

use super::data::size;

/// The bar on the terminal, which lines must not tear.
static BAR: Mutex<Option<ProgressBar>> = Mutex::new(None);

fn live_bar() -> MutexGuard<'static, Option<ProgressBar>> {
    BAR.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes one or more lines to stderr, above the progress bar. Characters that control a terminal or reorder a
/// line, which file names may contain, are escaped. A closed stderr is not an error.
pub fn say(lines: impl Display) {
    let text = lines.to_string().split('\n').map(on_one_line).collect::<Vec<_>>().join("\n");
    let write = || {
        let _ = writeln!(stderr(), "{text}");
    };
    match &*live_bar() {
        Some(bar) => bar.suspend(write),
        None => write(),
    }
}

/// Minimum interval between plain lines.
const PLAIN_EVERY: Duration = Duration::from_secs(10);

/// The progress of a task. One task at a time has a bar, which is removed when this is dropped.
pub struct Progress {
    bar: Option<ProgressBar>,
    /// The number of items, if it is known.
    total: Option<u64>,
    /// The number of items in words.
    amount: fn(u64) -> String,
    label: String,
    /// The number of finished items.
    done: usize,
    last_line: Instant,
}

impl Progress {
    /// Starts a task of `total` items.
    pub fn new(label: String, total: usize) -> Self {
        let template = "{prefix} {wide_bar} {pos}/{len} {msg} [{elapsed}<{eta}]";
        Self::start(label, Some(total as u64), |count| count.to_string(), template)
    }

    /// Starts a task of `total` bytes, if their number is known.
    pub fn of_bytes(label: String, total: Option<u64>) -> Self {
        let template = match total {
            Some(_) => "{prefix} {wide_bar} {decimal_bytes}/{decimal_total_bytes} [{elapsed}<{eta}]",
            None => "{prefix} {spinner} {decimal_bytes} [{elapsed}]",
        };
        Self::start(label, total, size, template)
    }

    fn start(label: String, total: Option<u64>, amount: fn(u64) -> String, template: &str) -> Self {
        let label = on_one_line(&label);
        let bar = stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template(template).expect("a valid template");
            let bar = total.map_or_else(ProgressBar::no_length, ProgressBar::new);
            bar.with_style(style).with_prefix(label.clone())
        });
        live_bar().clone_from(&bar);
        Self { bar, total, amount, label, done: 0, last_line: Instant::now() }
    }

    /// Shows that more items are finished, and a message.
    #[allow(dead_code, reason = "the events of `toolkit-train` count from the start")]
    pub fn advance(&mut self, more: usize, message: &str) {
        self.update(self.done + more, message);
    }

    /// Shows the number of finished items and a message.
    pub fn update(&mut self, done: usize, message: &str) {
        self.done = done;
        let done = done as u64;
        if let Some(bar) = &self.bar {
            bar.set_position(done);
            bar.set_message(message.to_owned());
        } else if self.last_line.elapsed() >= PLAIN_EVERY || Some(done) == self.total {
            self.last_line = Instant::now();
            let done = (self.amount)(done);
            let of_total = self.total.map(|total| format!("/{}", (self.amount)(total))).unwrap_or_default();
            let message = if message.is_empty() { String::new() } else { format!(" {message}") };
            say(format_args!("{} {done}{of_total}{message}", self.label));
        }
    }

    /// Removes the bar.
    pub fn finish(self) {}
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.take() {
            *live_bar() = None;
            bar.finish_and_clear();
        }
    }
}
