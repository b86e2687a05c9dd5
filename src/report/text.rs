//! The report as text.

use std::fmt;

use super::{Report, Row, RowIntervals};
use crate::{
    metrics::{Interval, Metric, Metrics},
    text::{not_counted, on_one_line},
};

fn percent(share: f64) -> String {
    format!("{:.2}", 100.0 * share)
}

fn percents(Interval { low, high }: Interval) -> String {
    format!("{:.1}-{:.1}", 100.0 * low, 100.0 * high)
}

/// A line of the table, with a dash for each absent value.
pub(super) fn line<T: Copy>(
    first: [String; 2],
    metrics: Metrics<T>,
    caught: Option<T>,
    text: fn(T) -> String,
) -> Vec<String> {
    let values = Metric::ALL.map(|metric| metrics.get(metric)).into_iter().chain([caught]);
    let cells = values.map(|value| value.map_or_else(|| "-".to_owned(), text));
    first.into_iter().chain(cells).collect()
}

/// Writes a table: a head and its lines, if there are any.
pub(super) fn table(f: &mut fmt::Formatter<'_>, mut lines: Vec<Vec<String>>) -> fmt::Result {
    if lines.is_empty() {
        return Ok(());
    }
    let heads = ["unknown set", "images"].into_iter().chain(Metric::ALL.map(Metric::title)).chain(["caught"]);
    lines.insert(0, heads.map(str::to_owned).collect());
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..lines[0].len()).map(width).collect();
    for line in &lines {
        write!(f, "{:<1$}", line[0], widths[0])?;
        for (cell, width) in line.iter().zip(&widths).skip(1) {
            write!(f, "  {cell:>width$}")?;
        }
        writeln!(f)?;
    }
    Ok(())
}

impl fmt::Display for Report {
    /// A table in percent with one line per row, followed by its 95 % intervals if there are any, and by the
    /// meaning of two metrics. `{:#}` omits the meaning.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} known image{}", self.known, if self.known == 1 { "" } else { "s" })?;
        let intervals = self.intervals.as_ref();
        let shares = [
            ("accuracy", self.accuracy, intervals.and_then(|intervals| intervals.accuracy)),
            ("kept by the threshold", self.known_kept, intervals.and_then(|intervals| intervals.known_kept)),
        ];
        let mut separator = ": ";
        for (name, share, interval) in shares {
            let Some(share) = share else { continue };
            let interval = interval.map_or_else(String::new, |interval| format!(" ({})", percents(interval)));
            write!(f, "{separator}{name} {} %{interval}", percent(share))?;
            separator = ", ";
        }
        writeln!(f)?;
        if let Some(sentence) = not_counted(self.skipped) {
            writeln!(f, "{sentence}")?;
        }
        let mut lines: Vec<Vec<String>> = Vec::new();
        for Row { name, unknown, unknown_caught, metrics, intervals } in &self.rows {
            // Names come from files.
            lines.push(line([on_one_line(name), unknown.to_string()], *metrics, *unknown_caught, percent));
            if let Some(RowIntervals { unknown_caught, metrics }) = intervals {
                let first = ["  95 % interval".to_owned(), String::new()];
                lines.push(line(first, *metrics, *unknown_caught, percents));
            }
        }
        table(f, lines)?;
        if f.alternate() || self.rows.is_empty() {
            return Ok(());
        }
        for metric in Metric::ALL.into_iter().filter(|metric| metric.is_smaller_better()) {
            writeln!(f, "{}: {}", metric.title(), metric.description())?;
        }
        Ok(())
    }
}
