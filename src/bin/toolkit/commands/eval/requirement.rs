//! What `eval --require` asks of a table.

use std::str::FromStr;

use cac::{
    metrics::{Interval, Metric},
    report::{Report, Row},
};

/// A metric with its interval, where it has them.
type Found = (Option<f64>, Option<Interval>);

/// What a requirement is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Measure {
    /// Of the known images.
    Accuracy,
    /// The share of the known images that the threshold keeps.
    KnownKept,
    /// The share of an unknown set that the threshold catches.
    UnknownCaught,
    /// Of an unknown set against the known images.
    OfSet(Metric),
}

impl Measure {
    fn all() -> impl Iterator<Item = Self> {
        let of_sets = Metric::ALL.into_iter().map(Self::OfSet);
        [Self::Accuracy, Self::KnownKept, Self::UnknownCaught].into_iter().chain(of_sets)
    }

    /// As in JSON.
    fn name(self) -> &'static str {
        match self {
            Self::Accuracy => "accuracy",
            Self::KnownKept => "known_kept",
            Self::UnknownCaught => "unknown_caught",
            Self::OfSet(metric) => metric.name(),
        }
    }
}

/// A bound on a metric of the table.
#[derive(Debug, Clone, PartialEq)]
pub struct Requirement {
    measure: Measure,
    /// The least value, or the greatest if smaller is better; 0 to 1.
    bound: f64,
}

impl Requirement {
    /// The names of all metrics.
    pub fn names() -> impl Iterator<Item = &'static str> {
        Measure::all().map(Measure::name)
    }

    /// Whether the metric needs unknown images.
    pub fn needs_unknown(&self) -> bool {
        !matches!(self.measure, Measure::Accuracy | Measure::KnownKept)
    }

    /// Whether the metric needs a threshold.
    pub fn needs_threshold(&self) -> bool {
        matches!(self.measure, Measure::KnownKept | Measure::UnknownCaught)
    }

    /// The name of its metric.
    pub fn metric(&self) -> &'static str {
        self.measure.name()
    }

    /// Where the first `sets` rows of a table, its unknown sets, do not meet the requirement: one sentence
    /// each. The value counts, not its interval.
    pub fn unmet(&self, report: &Report, sets: usize) -> Vec<String> {
        let name = self.metric();
        let of_sets = |value: &dyn Fn(&Row) -> Found| {
            let fault = |row: &Row| {
                let (value, interval) = value(row);
                self.fault(format!("{name} of {}", row.name), value, interval)
            };
            report.rows.iter().take(sets).filter_map(fault).collect()
        };
        let of_known = |value, interval| self.fault(name.to_owned(), value, interval).into_iter().collect();
        match self.measure {
            Measure::Accuracy => of_known(report.accuracy, report.intervals.and_then(|known| known.accuracy)),
            Measure::KnownKept => {
                of_known(report.known_kept, report.intervals.and_then(|known| known.known_kept))
            }
            Measure::UnknownCaught => {
                of_sets(&|row| (row.unknown_caught, row.intervals.and_then(|row| row.unknown_caught)))
            }
            Measure::OfSet(metric) => of_sets(&|row| {
                (row.metrics.get(metric), row.intervals.and_then(|row| row.metrics.get(metric)))
            }),
        }
    }

    fn fault(&self, what: String, value: Option<f64>, interval: Option<Interval>) -> Option<String> {
        let is_small_good = matches!(self.measure, Measure::OfSet(metric) if metric.is_smaller_better());
        let bound = self.bound;
        let value = value?;
        let is_met = if is_small_good { value <= bound } else { value >= bound };
        if is_met {
            return None;
        }
        let interval = interval.map_or(String::new(), |Interval { low, high }| {
            format!(" (95 % interval {low:.4} to {high:.4})")
        });
        let side = if is_small_good { "most" } else { "least" };
        // A value close to the bound has all its digits.
        let rounded = format!("{value:.4}");
        let value = if rounded.parse() == Ok(bound) { value.to_string() } else { rounded };
        Some(format!("not met: {what} is {value}{interval}, required: at {side} {bound}"))
    }
}

impl FromStr for Requirement {
    type Err = String;

    /// `METRIC=BOUND`
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, bound) = text.split_once('=').ok_or("expected METRIC=X, such as auroc=0.9")?;
        let names = || Self::names().collect::<Vec<_>>().join(", ");
        let measure = Measure::all().find(|measure| measure.name() == name.trim());
        let measure = measure.ok_or_else(|| format!("`{name}` is not a metric ({})", names()))?;
        let bound = bound.trim().parse().ok().filter(|bound| (0.0..=1.0).contains(bound));
        Ok(Self { measure, bound: bound.ok_or("expected a share from 0 to 1")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cac::{metrics::Bootstrap, report::ReportOptions};

    fn unmet(requirement: &str, bootstrap: Option<Bootstrap>) -> Vec<String> {
        let options = ReportOptions { threshold: Some(2.5), bootstrap, ..ReportOptions::default() };
        let (known, correct) = ([0.0, 1.0, 2.0, 3.0], [true, true, false, true]);
        let report =
            Report::new(&known, Some(&correct), &[("far", &[9.0, 8.0]), ("near", &[2.6, 0.5])], &options)
                .unwrap();
        requirement.parse::<Requirement>().unwrap().unmet(&report, 2)
    }

    #[test]
    fn every_unknown_set_must_meet_a_requirement() {
        let none: [&str; 0] = [];
        for met in ["accuracy=0.75", "known_kept=0.75", "unknown_caught=0.5", "auroc=0.5", "fpr95_tpr=0.75"] {
            assert_eq!(unmet(met, None), none, "{met}");
        }
        assert_eq!(
            unmet("accuracy=0.75001", None),
            ["not met: accuracy is 0.7500, required: at least 0.75001"]
        );
        let near = Requirement { measure: Measure::Accuracy, bound: 0.9 }.fault(
            "accuracy".into(),
            Some(0.89996),
            None,
        );
        assert_eq!(near.unwrap(), "not met: accuracy is 0.89996, required: at least 0.9");
        assert_eq!(unmet("accuracy=0.76", None), ["not met: accuracy is 0.7500, required: at least 0.76"]);
        assert_eq!(unmet("auroc=0.8", None), ["not met: auroc of near is 0.5000, required: at least 0.8"]);
        assert_eq!(unmet("unknown_caught=1", None).len(), 1);
        assert_eq!(
            unmet("fpr95_tpr=0.1", None),
            ["not met: fpr95_tpr of near is 0.7500, required: at most 0.1"]
        );
        let found = unmet("known_kept=1", Some(Bootstrap { resamples: 50, seed: 1 }));
        assert!(found[0].starts_with("not met: known_kept is 0.7500 (95 % interval 0."), "{found:?}");
        let found = unmet("oscr=1", Some(Bootstrap { resamples: 50, seed: 1 }));
        assert!(
            found[1].starts_with("not met: oscr of near is 0.") && found[1].contains("95 %"),
            "{found:?}"
        );
    }

    #[test]
    fn requirements_are_checked() {
        for (text, reason) in [
            ("auroc", "expected METRIC=X"),
            ("auroc=90", "expected a share from 0 to 1"),
            ("auroc=nan", "expected a share from 0 to 1"),
            ("auc=0.9", "`auc` is not a metric (accuracy, known_kept, unknown_caught, auroc, aupr_in"),
        ] {
            let error = text.parse::<Requirement>().unwrap_err();
            assert!(error.starts_with(reason), "{error}");
        }
        let of = |text: &str| text.parse::<Requirement>().unwrap();
        assert!(of("auroc=0").needs_unknown() && !of("accuracy=0").needs_unknown());
        assert!(of("unknown_caught=0").needs_threshold() && !of("oscr=0").needs_threshold());
    }
}
