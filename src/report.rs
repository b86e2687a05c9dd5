//! The table: what a model said of known and unknown pictures, as metrics with their intervals.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    cac::Scored,
    error::{Error, Result},
    metrics::{Bootstrap, Interval, Metrics, Ranked, RankedKnown, Resample, auroc_interval},
};

/// The names of the rows for the mean over the unknown sets, and for all unknown pictures together.
pub(crate) const RESERVED: [&str; 2] = ["mean", "all"];

/// What a report says besides the metrics.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Settings {
    /// The threshold whose behaviour is measured: a picture is unknown where its score is larger.
    pub threshold: Option<f64>,
    /// Groups of unknown sets over which a mean is wanted.
    pub groups: Vec<Group>,
    /// How intervals are found; no intervals without it.
    pub bootstrap: Option<Bootstrap>,
}

/// A group of unknown sets, such as OpenOOD's `near` and `far`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// The name of its row.
    pub name: String,
    /// The names of its sets.
    pub sets: Vec<String>,
}

/// The metrics of a model on one known set and any number of unknown ones.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Known pictures.
    pub known: usize,
    /// The share of known pictures given their true class, accepted or not; absent where that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// The share of known pictures that the threshold keeps; absent without a threshold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known_kept: Option<f64>,
    /// 95 % intervals of both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intervals: Option<KnownIntervals>,
    /// One row for each unknown set; where there are several, one for the mean of each group and over all
    /// sets (`mean`), and one for all pictures together (`all`).
    pub rows: Vec<Row>,
}

/// 95 % intervals of what is measured on the known pictures alone, by bootstrap.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct KnownIntervals {
    /// Of [`Report::accuracy`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<Interval>,
    /// Of [`Report::known_kept`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known_kept: Option<Interval>,
}

/// One unknown set, or several.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The set's name, the group's, `mean` or `all`.
    pub name: String,
    /// Unknown pictures.
    pub unknown: usize,
    /// The share of unknown pictures that the threshold catches; absent without a threshold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown_caught: Option<f64>,
    /// Against the known set.
    #[serde(flatten)]
    pub metrics: Metrics,
    /// 95 % intervals.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intervals: Option<RowIntervals>,
}

/// 95 % intervals of a row: DeLong's for the AUROC, by bootstrap for the rest.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RowIntervals {
    /// Of [`Row::unknown_caught`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown_caught: Option<Interval>,
    /// Of [`Row::metrics`].
    #[serde(flatten)]
    pub metrics: Metrics<Interval>,
}

/// What a row is the mean of.
struct Member<'a> {
    name: &'a str,
    /// Indices of sets, one or more.
    sets: Vec<usize>,
}

/// The metrics of a row, and the share of unknown pictures caught.
type Measured = (Metrics, Option<f64>);

impl Report {
    /// Computes the table from the scores of the known pictures and of the named unknown sets, each in any
    /// order. `right[i]` says whether known picture `i` was given its true class; without it there is neither
    /// accuracy nor OSCR.
    ///
    /// # Errors
    /// [`Error::Scores`] where a set is empty or a score is NaN, [`Error::Setting`] where the threshold is NaN,
    /// where a set or a group has the name of another row, or a group an unknown set that is not there.
    pub fn new<S: Copy + Into<f64>>(
        known: &[S],
        right: Option<&[bool]>,
        unknown: &[(&str, &[S])],
        settings: &Settings,
    ) -> Result<Self> {
        let known = RankedKnown::new(known, right)?;
        let names: Vec<&str> = unknown.iter().map(|(name, _)| *name).collect();
        let mut sets = unknown.iter().map(|(_, scores)| Ranked::new(scores)).collect::<Result<Vec<_>>>()?;
        let members = members(&names, &settings.groups)?;
        if sets.len() > 1 {
            let all: Vec<S> = unknown.iter().flat_map(|(_, scores)| scores.iter().copied()).collect();
            sets.push(Ranked::new(&all)?);
        }
        let threshold = settings.threshold;
        if threshold.is_some_and(f64::is_nan) {
            return Err(Error::setting("threshold", "NaN", "must be a number"));
        }

        let measured: Vec<Measured> = sets
            .iter()
            .map(|set| (Metrics::of(&known, set), threshold.map(|threshold| set.share_above(threshold))))
            .collect();
        let rows = members
            .iter()
            .map(|member| {
                let (metrics, unknown_caught) = member.mean(&measured);
                let unknown = member.sets.iter().map(|&set| sets[set].len()).sum();
                Row { name: member.name.to_owned(), unknown, unknown_caught, metrics, intervals: None }
            })
            .collect();
        let mut report = Self {
            known: known.len(),
            accuracy: known.accuracy(),
            known_kept: threshold.map(|threshold| 1.0 - known.share_above(threshold)),
            intervals: None,
            rows,
        };
        if let Some(bootstrap) = settings.bootstrap.filter(|bootstrap| bootstrap.resamples > 0) {
            report.find_intervals(&bootstrap, threshold, &known, &sets, &members);
        }
        Ok(report)
    }

    /// Whether a table can be made of sets with these names, which is better known before they are scored.
    ///
    /// # Errors
    /// [`Error::Setting`] as for [`new`](Self::new).
    #[cfg(any(feature = "tract", feature = "onnxruntime"))]
    pub(crate) fn check(names: &[&str], settings: &Settings) -> Result<()> {
        members(names, &settings.groups).map(drop)
    }

    /// Fills in the intervals of what has been measured.
    fn find_intervals(
        &mut self,
        bootstrap: &Bootstrap,
        threshold: Option<f64>,
        known: &RankedKnown,
        sets: &[Ranked],
        members: &[Member],
    ) {
        let counts: Vec<usize> = sets.iter().map(Ranked::len).collect();
        let measure = |drawn: &Resample| {
            let kept = threshold.map(|threshold| 1.0 - drawn.known_above(known, threshold));
            let measured: Vec<Measured> = sets
                .iter()
                .enumerate()
                .map(|(index, set)| {
                    let caught = threshold.map(|threshold| drawn.unknown_above(index, set, threshold));
                    (drawn.metrics(known, index, set), caught)
                })
                .collect();
            let mut numbers: Vec<f64> = drawn.accuracy(known).into_iter().chain(kept).collect();
            for member in members {
                let (metrics, caught) = member.mean(&measured);
                numbers.extend(caught);
                numbers.extend(metrics.named().map(|(_, value)| value));
            }
            numbers
        };
        // The intervals come in the order of the numbers.
        let mut intervals = bootstrap.intervals(known.len(), &counts, measure).into_iter();
        let mut next = || intervals.next().expect("an interval for each number");
        let accuracy = self.accuracy.map(|_| next());
        let known_kept = self.known_kept.map(|_| next());
        self.intervals = Some(KnownIntervals { accuracy, known_kept });
        for (row, member) in self.rows.iter_mut().zip(members) {
            let unknown_caught = row.unknown_caught.map(|_| next());
            let metrics = row.metrics.map(|_| next());
            let of: Vec<&Ranked> = member.sets.iter().map(|&set| &sets[set]).collect();
            let metrics = Metrics { auroc: auroc_interval(known, &of), ..metrics };
            row.intervals = Some(RowIntervals { unknown_caught, metrics });
        }
    }

    /// [`new`](Self::new) for what a model said; `truth` holds the true class of each known picture.
    ///
    /// # Errors
    /// Those of [`new`](Self::new).
    pub fn of(
        known: &Scored,
        truth: &[i64],
        unknown: &[(&str, Scored)],
        settings: &Settings,
    ) -> Result<Self> {
        let unknown: Vec<(&str, &[f32])> =
            unknown.iter().map(|(name, set)| (*name, &set.scores[..])).collect();
        Self::new(&known.scores, Some(&known.right(truth)), &unknown, settings)
    }
}

impl Member<'_> {
    fn mean(&self, measured: &[Measured]) -> Measured {
        let metrics: Vec<Metrics> = self.sets.iter().map(|&set| measured[set].0).collect();
        let caught: Option<f64> = self.sets.iter().map(|&set| measured[set].1).sum();
        (Metrics::mean(&metrics), caught.map(|sum| sum / self.sets.len() as f64))
    }
}

/// The rows of a table: the sets, the groups, and where there are several sets their mean and all together,
/// which is the set behind the others.
fn members<'a>(names: &[&'a str], groups: &'a [Group]) -> Result<Vec<Member<'a>>> {
    if let Some(name) = names.iter().find(|name| RESERVED.contains(name)) {
        let reason = "is the name of a row that every table has";
        return Err(Error::setting("unknown set", format!("`{name}`"), reason));
    }
    let mut members: Vec<Member> =
        names.iter().enumerate().map(|(index, name)| Member { name, sets: vec![index] }).collect();
    let setting = |value: &str, reason: String| Error::setting("group", value, reason);
    for Group { name, sets } in groups {
        if name.is_empty() || RESERVED.contains(&name.as_str()) || members.iter().any(|row| row.name == name)
        {
            return Err(setting(name, "must have a name that no other row of the table has".to_owned()));
        }
        let place = |set: &String| {
            let missing =
                || setting(name, format!("`{set}` is not one of the unknown sets: {}", names.join(", ")));
            names.iter().position(|other| other == set).ok_or_else(missing)
        };
        let sets = sets.iter().map(place).collect::<Result<Vec<usize>>>()?;
        if sets.is_empty() {
            return Err(setting(name, "must have an unknown set".to_owned()));
        }
        members.push(Member { name, sets });
    }
    if names.len() > 1 {
        let [mean, all] = RESERVED;
        members.push(Member { name: mean, sets: (0..names.len()).collect() });
        members.push(Member { name: all, sets: vec![names.len()] });
    }
    Ok(members)
}

impl std::str::FromStr for Group {
    type Err = Error;

    /// `NAME=SET,SET,...`
    fn from_str(text: &str) -> Result<Self> {
        let parts = text.split_once('=').filter(|(name, sets)| !name.is_empty() && !sets.is_empty());
        let (name, sets) =
            parts.ok_or_else(|| Error::setting("group", format!("`{text}`"), "must be NAME=SET,SET,..."))?;
        Ok(Self { name: name.to_owned(), sets: sets.split(',').map(|set| set.trim().to_owned()).collect() })
    }
}

/// The columns of the table behind the name and the number of pictures.
const HEADS: [&str; 8] =
    ["AUROC", "AUPR-IN", "AUPR-OUT", "FPR95TPR", "FPR@95%kept", "OSCR", "det.acc.", "caught"];

fn percent(share: f64) -> String {
    format!("{:.2}", 100.0 * share)
}

fn percents(Interval { low, high }: Interval) -> String {
    format!("{:.1}-{:.1}", 100.0 * low, 100.0 * high)
}

/// A line of the table; what is absent is a dash.
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
    /// A table in percent with one line for each row, and its 95 % intervals in the next.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} known pictures", self.known)?;
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
        if self.rows.is_empty() {
            return Ok(());
        }
        let heads = ["unknown set", "pictures"].into_iter().chain(HEADS);
        let mut lines: Vec<Vec<String>> = vec![heads.map(str::to_owned).collect()];
        for Row { name, unknown, unknown_caught, metrics, intervals } in &self.rows {
            lines.push(line([name.clone(), unknown.to_string()], *metrics, *unknown_caught, percent));
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

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [f32; 4] = [0.0, 1.0, 2.0, 3.0];
    const RIGHT: [bool; 4] = [true, true, false, true];
    const FAR: [f32; 2] = [9.0, 8.0];
    const NEAR: [f32; 2] = [2.5, 0.5];

    fn report(settings: &Settings) -> Result<Report> {
        Report::new(&KNOWN, Some(&RIGHT), &[("far", &FAR), ("near", &NEAR)], settings)
    }

    fn group(text: &str) -> Vec<Group> {
        vec![text.parse().unwrap()]
    }

    #[test]
    fn one_row_for_each_set_and_for_their_means_and_all() {
        let settings = Settings { threshold: Some(2.5), groups: group("both=near, far"), bootstrap: None };
        let report = report(&settings).unwrap();
        assert_eq!((report.known, report.accuracy, report.known_kept), (4, Some(0.75), Some(0.75)));
        let rows: Vec<_> = report
            .rows
            .iter()
            .map(|row| (row.name.as_str(), row.unknown, row.unknown_caught.unwrap(), row.metrics.auroc))
            .collect();
        assert_eq!(
            rows,
            [
                ("far", 2, 1.0, 1.0),
                ("near", 2, 0.0, 0.5),
                ("both", 4, 0.5, 0.75),
                ("mean", 4, 0.5, 0.75),
                ("all", 4, 0.5, 0.75)
            ]
        );
        let of = |index: usize| report.rows[index].metrics;
        assert_eq!(of(3).aupr_out, (of(0).aupr_out + of(1).aupr_out) / 2.0);
        assert_ne!(of(3).aupr_out, of(4).aupr_out);
        assert_eq!(of(3).oscr, Some((of(0).oscr.unwrap() + of(1).oscr.unwrap()) / 2.0));

        let text = report.to_string();
        assert!(text.starts_with("4 known pictures: accuracy 75.00 %, kept by the threshold 75.00 %\n"));
        let lengths: Vec<usize> = text.lines().skip(1).take(6).map(str::len).collect();
        assert!(lengths.len() == 6 && lengths.iter().all(|&length| length == lengths[0]), "{text}");
    }

    #[test]
    fn intervals_hold_the_values_and_come_in_their_order() {
        let spread = |count: usize, shift: f64| -> Vec<f64> {
            (0..count).map(|i| (i * 37 % 101) as f64 / 101.0 + shift).collect()
        };
        let right: Vec<bool> = (0..300).map(|i| i % 10 != 0).collect();
        let (known, near, far) = (spread(300, 0.0), spread(150, 0.3), spread(200, 0.6));
        let settings = Settings {
            threshold: Some(0.9),
            groups: group("both=near,far"),
            bootstrap: Some(Bootstrap { resamples: 400, seed: 1 }),
        };
        let report = Report::new(&known, Some(&right), &[("near", &near), ("far", &far)], &settings).unwrap();
        let is_in = |value: f64, Interval { low, high }: Interval| {
            low <= value && value <= high && low < high && high - low < 0.3
        };
        let known = report.intervals.unwrap();
        assert!(is_in(report.accuracy.unwrap(), known.accuracy.unwrap()));
        assert!(is_in(report.known_kept.unwrap(), known.known_kept.unwrap()));
        for row in &report.rows {
            let RowIntervals { unknown_caught, metrics } = row.intervals.unwrap();
            assert!(is_in(row.unknown_caught.unwrap(), unknown_caught.unwrap()), "{}", row.name);
            for ((name, value), (_, interval)) in row.metrics.named().zip(metrics.named()) {
                assert!(is_in(value, interval), "{} {name}: {value} {interval:?}", row.name);
            }
        }
        let text = report.to_string();
        assert!(text.lines().filter(|line| line.starts_with("  95 % interval ")).count() == 5, "{text}");
        let json = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report);
    }

    #[test]
    fn without_verdicts_there_is_neither_accuracy_nor_oscr() {
        let settings = Settings { bootstrap: Some(Bootstrap::default()), ..Settings::default() };
        let report = Report::new(&KNOWN, None, &[("far", &FAR)], &settings).unwrap();
        assert_eq!((report.accuracy, report.rows[0].metrics.oscr), (None, None));
        let json = serde_json::to_string(&report).unwrap();
        assert!(!json.contains("oscr") && !json.contains("accuracy\":null"), "{json}");
        assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report);
    }

    #[test]
    fn without_unknown_sets_there_is_the_accuracy() {
        let report = Report::new::<f32>(&[0.0], Some(&[true]), &[], &Settings::default()).unwrap();
        assert_eq!(report.to_string(), "1 known pictures: accuracy 100.00 %\n");
    }

    #[test]
    fn groups_must_fit() {
        for wrong in ["", "near", "=far", "g="] {
            assert!(matches!(wrong.parse::<Group>(), Err(Error::Setting { name: "group", .. })), "{wrong}");
        }
        for wrong in ["far=near", "all=near", "mean=near", "g=nowhere", "g=near,,far"] {
            let error = report(&Settings { groups: group(wrong), ..Settings::default() }).unwrap_err();
            assert!(matches!(error, Error::Setting { name: "group", .. }), "{wrong}: {error}");
        }
    }
}
