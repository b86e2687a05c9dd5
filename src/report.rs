//! The table: what a model said of known and unknown pictures, as metrics.

use std::fmt;

use ndarray::ArrayView2;
use serde::{Deserialize, Serialize};

use crate::{
    cac::{self, Score},
    error::Result,
    metrics::{Metrics, share},
};

/// What a model said of a set of pictures, one entry a picture.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Scored {
    /// Rejection scores; larger = more likely unknown.
    pub scores: Vec<f32>,
    /// Classes of the nearest anchors.
    pub labels: Vec<usize>,
}

impl Scored {
    /// Scores logits `[N, C]` with anchors `[C, C]`.
    #[must_use]
    pub fn new(logits: ArrayView2<f32>, anchors: ArrayView2<f32>, score: Score) -> Self {
        let distances = cac::distances(logits, anchors);
        Self { scores: score.rejection(distances.view()).to_vec(), labels: cac::labels(distances.view()) }
    }
}

/// The metrics of a model on one known set and any number of unknown ones.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Known pictures.
    pub known: usize,
    /// The share of known pictures given their true class, accepted or not.
    pub accuracy: f64,
    /// The share of known pictures that the threshold keeps; absent without a threshold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known_kept: Option<f64>,
    /// One row for each unknown set, and one for all together where there are several.
    pub rows: Vec<Row>,
}

/// One unknown set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The set's name, or `all`.
    pub name: String,
    /// Unknown pictures.
    pub unknown: usize,
    /// The share of unknown pictures that the threshold catches; absent without a threshold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown_caught: Option<f64>,
    /// Against the known set.
    #[serde(flatten)]
    pub metrics: Metrics,
}

impl Report {
    /// Computes the table. `truth` holds the true class of each known picture, `unknown` a name and the
    /// scores of each unknown set; without a `threshold` its behaviour is left out.
    ///
    /// # Errors
    /// [`Error::Scores`](crate::Error::Scores) where a set is empty or a score is NaN.
    pub fn new(
        known: &Scored,
        truth: &[i64],
        unknown: &[(&str, Scored)],
        threshold: Option<f32>,
    ) -> Result<Self> {
        let right: Vec<bool> = known
            .labels
            .iter()
            .zip(truth)
            .map(|(&label, &truth)| i64::try_from(label) == Ok(truth))
            .collect();
        let flagged = |scores: &[f32]| {
            threshold.map(|threshold| share(scores.iter().map(|&score| cac::is_unknown(score, threshold))))
        };
        let row = |name: &str, scores: &[f32]| {
            Ok(Row {
                name: name.to_owned(),
                unknown: scores.len(),
                unknown_caught: flagged(scores),
                metrics: Metrics::new(&known.scores, &right, scores)?,
            })
        };
        let mut rows =
            unknown.iter().map(|(name, set)| row(name, &set.scores)).collect::<Result<Vec<_>>>()?;
        if unknown.len() > 1 {
            let all: Vec<f32> = unknown.iter().flat_map(|(_, set)| &set.scores).copied().collect();
            rows.push(row("all", &all)?);
        }
        Ok(Self {
            known: known.scores.len(),
            accuracy: share(right),
            known_kept: flagged(&known.scores).map(|flagged| 1.0 - flagged),
            rows,
        })
    }
}

impl fmt::Display for Report {
    /// A table in percent with one line for each unknown set.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |value: f64| format!("{:.2}", 100.0 * value);
        write!(f, "{} known pictures: accuracy {} %", self.known, percent(self.accuracy))?;
        if let Some(kept) = self.known_kept {
            write!(f, ", kept by the threshold {} %", percent(kept))?;
        }
        writeln!(f)?;
        if self.rows.is_empty() {
            return Ok(());
        }
        let heads = [
            "unknown set",
            "pictures",
            "AUROC",
            "AUPR-IN",
            "AUPR-OUT",
            "FPR95TPR",
            "FPR@95%kept",
            "OSCR",
            "det.acc.",
            "caught",
        ];
        let mut lines = vec![heads.map(str::to_owned)];
        for Row { name, unknown, unknown_caught, metrics: m } in &self.rows {
            lines.push([
                name.clone(),
                unknown.to_string(),
                percent(m.auroc),
                percent(m.aupr_in),
                percent(m.aupr_out),
                percent(m.fpr95_tpr),
                percent(m.fpr_at_95_known_kept),
                percent(m.oscr),
                percent(m.detection_accuracy),
                unknown_caught.map_or("-".to_owned(), percent),
            ]);
        }
        let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
        let widths: [usize; 10] = std::array::from_fn(width);
        for line in &lines {
            write!(f, "{:<1$}", line[0], widths[0])?;
            for (cell, width) in line.iter().zip(widths).skip(1) {
                write!(f, "  {cell:>width$}")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scored(scores: &[f32]) -> Scored {
        Scored { scores: scores.to_vec(), labels: vec![1; scores.len()] }
    }

    #[test]
    fn one_row_for_each_set_and_one_for_all() {
        let known = scored(&[0.0, 1.0, 2.0, 3.0]);
        let unknown = [("far", scored(&[9.0, 8.0])), ("near", scored(&[2.5, 0.5]))];
        let report = Report::new(&known, &[1, 1, 0, 1], &unknown, Some(2.5)).unwrap();
        assert_eq!((report.known, report.accuracy, report.known_kept), (4, 0.75, Some(0.75)));
        let row =
            |i: usize| (report.rows[i].name.as_str(), report.rows[i].unknown, report.rows[i].unknown_caught);
        assert_eq!([row(0), row(1)], [("far", 2, Some(1.0)), ("near", 2, Some(0.0))]);
        assert_eq!(row(2), ("all", 4, Some(0.5)));
        let aurocs: Vec<f64> = report.rows.iter().map(|row| row.metrics.auroc).collect();
        assert_eq!(aurocs, [1.0, 0.5, 0.75]);

        let text = report.to_string();
        assert!(text.starts_with("4 known pictures: accuracy 75.00 %, kept by the threshold 75.00 %\n"));
        let lengths: Vec<usize> = text.lines().skip(1).map(str::len).collect();
        assert!(lengths.len() == 4 && lengths.iter().all(|&length| length == lengths[0]), "{text}");
    }

    #[test]
    fn without_unknown_sets_there_is_the_accuracy() {
        let report = Report::new(&scored(&[0.0]), &[1], &[], None).unwrap();
        assert_eq!(report.to_string(), "1 known pictures: accuracy 100.00 %\n");
    }

    #[test]
    fn survives_json() {
        let report = Report::new(&scored(&[0.0, 0.7]), &[1, 0], &[("a", scored(&[0.3]))], Some(0.5)).unwrap();
        let json = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report);
    }
}
