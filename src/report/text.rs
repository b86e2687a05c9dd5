//! The report as text.

use std::fmt;

use super::{Report, Row, RowIntervals};
use crate::{
    metrics::{Interval, Metrics},
    text::on_one_line,
};

/// The columns after the name and the number of images.
const HEADS: [&str; 8] =
    ["AUROC", "AUPR-IN", "AUPR-OUT", "FPR95TPR", "FPR@95%kept", "OSCR", "det.acc.", "caught"];

fn percent(share: f64) -> String {
    format!("{:.2}", 100.0 * share)
}

fn percents(Interval { low, high }: Interval) -> String {
    format!("{:.1}-{:.1}", 100.0 * low, 100.0 * high)
}

/// A line of the table, with a dash for each absent value.
fn line<T>(first: [String; 2], metrics: Metrics<T>, caught: Option<T>, text: fn(T) -> String) -> Vec<String> {
    let m = metrics.map(|value| Some(text(value)));
    let caught = caught.map(text);
    let oscr = m.oscr.flatten();
    let rest = [
        m.auroc,
        m.aupr_in,
        m.aupr_out,
        m.fpr95_tpr,
        m.fpr_at_95_known_kept,
        oscr,
        m.detection_accuracy,
        caught,
    ];
    first.into_iter().chain(rest.map(|cell| cell.unwrap_or_else(|| "-".to_owned()))).collect()
}

impl fmt::Display for Report {
    /// A table in percent with one line per row, followed by its 95 % intervals if there are any.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} known images", self.known)?;
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
        match self.skipped {
            0 => {}
            1 => writeln!(f, "1 image cannot be read and is not counted")?,
            skipped => writeln!(f, "{skipped} images cannot be read and are not counted")?,
        }
        if self.rows.is_empty() {
            return Ok(());
        }
        let heads = ["unknown set", "images"].into_iter().chain(HEADS);
        let mut lines: Vec<Vec<String>> = vec![heads.map(str::to_owned).collect()];
        for Row { name, unknown, unknown_caught, metrics, intervals } in &self.rows {
            // Names are those of a file.
            lines.push(line([on_one_line(name), unknown.to_string()], *metrics, *unknown_caught, percent));
            if let Some(RowIntervals { unknown_caught, metrics }) = intervals {
                let first = ["  95 % interval".to_owned(), String::new()];
                lines.push(line(first, *metrics, *unknown_caught, percents));
            }
        }
        let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..lines[0].len()).map(width).collect();
        for line in &lines {
            write!(f, "{:<1$}", line[0], widths[0])?;
            for (cell, width) in line.iter().zip(&widths).skip(1) {
                write!(f, "  {cell:>width$}")?;
            }
            writeln!(f)?;
        }
        writeln!(
            f,
            "FPR95TPR: share of known flagged where 95 % of the unknown are caught\n\
             FPR@95%kept: share of unknown accepted where 95 % of the known are kept"
        )
    }
}
