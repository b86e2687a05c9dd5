//! The report: a table of metrics with their intervals.

mod comparison;
mod text;

use serde::{Deserialize, Serialize};

pub(crate) use self::comparison::ReportScores;
pub use self::comparison::{Change, ComparedRow, Comparison};
use crate::{
    data::{ALL, MEAN, RESERVED_NAMES, check_set_names},
    error::{Error, Result},
    metrics::{
        Balance, Bootstrap, Draws, FprOfFew, Interval, Metrics, Part, Ranked, RankedKnown, Resample, Share,
        auroc_interval,
    },
};

/// The options of a report.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ReportOptions {
    /// The threshold to measure: an image is unknown if its score is above it.
    pub threshold: Option<f64>,
    /// Groups of unknown sets to average.
    pub groups: Vec<Group>,
    /// The bootstrap for intervals; no intervals without it.
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

/// The metrics of a model on known images and any number of unknown sets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The number of known images.
    pub known: usize,
    /// The share of known images classified correctly, accepted or not; absent if correctness is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// The share of known images that the threshold keeps; absent without a threshold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known_kept: Option<f64>,
    /// 95 % intervals of `accuracy` and `known_kept`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intervals: Option<KnownIntervals>,
    /// The number of images that could not be read and are not counted.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub skipped: usize,
    /// One row per unknown set and per group. With several sets, also their mean (`mean`) and all images
    /// together (`all`).
    pub rows: Vec<Row>,
}

/// Whether a count is left out of JSON.
pub(crate) fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// 95 % intervals of the metrics of the known images alone, Wilson's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct KnownIntervals {
    /// The interval of [`Report::accuracy`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<Interval>,
    /// The interval of [`Report::known_kept`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known_kept: Option<Interval>,
}

/// A row of the report: one unknown set, or several.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The set's name, the group's, `mean` or `all`.
    pub name: String,
    /// The number of unknown images.
    pub unknown: usize,
    /// The share of unknown images that the threshold catches; absent without a threshold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown_caught: Option<f64>,
    /// The metrics against the known images.
    #[serde(flatten)]
    pub metrics: Metrics,
    /// 95 % intervals.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intervals: Option<RowIntervals>,
}

impl Report {
    /// Whether the threshold keeps fewer known images than this share, 0 to 1, beyond what chance explains.
    #[must_use]
    pub fn keeps_fewer_than(&self, least: f64) -> bool {
        self.known_kept.is_some_and(|kept| Interval::of_share(kept, self.known as f64).high < least)
    }

    /// The metrics that need no threshold.
    #[cfg(feature = "export")]
    pub(crate) fn without_threshold(mut self) -> Self {
        self.known_kept = None;
        if let Some(intervals) = &mut self.intervals {
            intervals.known_kept = None;
        }
        for row in &mut self.rows {
            row.unknown_caught = None;
            if let Some(intervals) = &mut row.intervals {
                intervals.unknown_caught = None;
            }
        }
        self
    }
}

impl Row {
    /// Whether the unknown images score lower than the known ones, as if larger meant less likely unknown:
    /// the AUROC is below 50 %, with its interval if there is one.
    #[must_use]
    pub fn is_reversed(&self) -> bool {
        self.intervals.map_or(self.metrics.auroc, |intervals| intervals.metrics.auroc.high) < 0.5
    }
}

/// 95 % intervals of a row.
///
/// - AUROC: DeLong's, and at least Newcombe's with few images or few misranked ones.
/// - Shares at a fixed threshold, such as the detection accuracy's: Wilson's.
/// - FPR metrics: at least Wilson's and the bootstrap's, wider for few images.
/// - Others: the bootstrap's, at least 1.96 standard deviations on the logit scale.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RowIntervals {
    /// The interval of [`Row::unknown_caught`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown_caught: Option<Interval>,
    /// The intervals of [`Row::metrics`].
    #[serde(flatten)]
    pub metrics: Metrics<Interval>,
}

/// The sets that a row averages.
struct Member<'a> {
    name: &'a str,
    /// Indices of sets, one or more.
    sets: Vec<usize>,
}

/// Intervals from the draws of a metric.
#[derive(Clone, Copy)]
struct Drawn {
    /// The middle 95 %.
    middle: Interval,
    /// These and 1.96 standard deviations on the logit scale: near 100 % the percentiles are too close
    /// together.
    wide: Interval,
}

/// The measurements of an unknown set.
struct Measured {
    metrics: Metrics,
    balance: Balance,
    /// The share of unknown images that the threshold catches.
    caught: Option<f64>,
}

impl Report {
    /// Computes the report from the scores of the known images and of the named unknown sets, each in any
    /// order. `correct[i]` says whether known image `i` was classified correctly; without it there is no
    /// accuracy or OSCR.
    ///
    /// # Errors
    /// [`Error::Scores`] if a set is empty or a score is NaN, [`Error::NotFinite`] if the threshold is NaN,
    /// [`Error::Setting`] if a row's name is reserved or taken, or a group lists a missing set.
    pub fn new<S: Copy + Into<f64>>(
        known: &[S],
        correct: Option<&[bool]>,
        unknown: &[(&str, &[S])],
        options: &ReportOptions,
    ) -> Result<Self> {
        let known = RankedKnown::new(known, correct)?;
        let names: Vec<&str> = unknown.iter().map(|(name, _)| *name).collect();
        let ranked = |&(name, scores): &(&str, &[S])| match Ranked::new(scores) {
            Err(Error::Scores(reason)) => Err(Error::Scores(format!("`{name}`: {reason}"))),
            ranked => ranked,
        };
        let mut sets = unknown.iter().map(ranked).collect::<Result<Vec<_>>>()?;
        let members = members(&names, &options.groups)?;
        if sets.len() > 1 {
            let all: Vec<S> = unknown.iter().flat_map(|(_, scores)| scores.iter().copied()).collect();
            sets.push(Ranked::new(&all)?);
        }
        let threshold = options.threshold;
        if threshold.is_some_and(f64::is_nan) {
            return Err(Error::NotFinite { what: "the threshold", value: f32::NAN });
        }

        let measured: Vec<Measured> = sets
            .iter()
            .map(|set| {
                let (metrics, balance) = Metrics::with_balance(&known, set);
                Measured { metrics, balance, caught: threshold.map(|threshold| set.share_above(threshold)) }
            })
            .collect();
        let rows = members
            .iter()
            .map(|member| {
                let metrics = member.mean(|set| measured[set].metrics);
                let caught: Option<f64> = member.sets.iter().map(|&set| measured[set].caught).sum();
                let unknown_caught = caught.map(|sum| sum / member.sets.len() as f64);
                let unknown = member.sets.iter().map(|&set| sets[set].len()).sum();
                Row { name: member.name.to_owned(), unknown, unknown_caught, metrics, intervals: None }
            })
            .collect();
        let mut report = Self {
            known: known.len(),
            accuracy: known.accuracy(),
            known_kept: threshold.map(|threshold| known.share_kept(threshold)),
            intervals: None,
            skipped: 0,
            rows,
        };
        if let Some(bootstrap) = options.bootstrap.filter(|bootstrap| bootstrap.resamples > 0) {
            report.find_intervals(&bootstrap, &known, &sets, &members, &measured);
        }
        Ok(report)
    }

    /// Checks the names of sets and groups, so that an error comes before anything is scored.
    ///
    /// # Errors
    /// [`Error::Setting`] as for [`new`](Self::new).
    pub fn check(names: &[&str], options: &ReportOptions) -> Result<()> {
        members(names, &options.groups).map(drop)
    }

    /// Fills in the intervals of the report.
    fn find_intervals(
        &mut self,
        bootstrap: &Bootstrap,
        known: &RankedKnown,
        sets: &[Ranked],
        members: &[Member],
        measured: &[Measured],
    ) {
        let of_known = |share: f64| Interval::of_share(share, known.len() as f64);
        let (accuracy, known_kept) = (self.accuracy.map(of_known), self.known_kept.map(of_known));
        self.intervals = Some(KnownIntervals { accuracy, known_kept });

        let counts: Vec<usize> = sets.iter().map(Ranked::len).collect();
        let measure = |drawn: &Resample| -> Vec<f64> {
            let metrics: Vec<Metrics> =
                sets.iter().enumerate().map(|(index, set)| drawn.metrics(known, index, set)).collect();
            let of_rows = members.iter().map(|member| member.mean(|set| metrics[set]));
            of_rows.flat_map(|metrics| metrics.named().map(|(_, value)| value)).collect()
        };
        // The draws are in the order of the numbers: row by row, in that of `Metric::ALL`.
        let mut draws = bootstrap.draws(known.len(), &counts, measure);
        let of_few: &Vec<FprOfFew> = &sets.iter().map(|set| FprOfFew::new(known, set)).collect();
        for (row, member) in self.rows.iter_mut().zip(members) {
            let images = member.sets.iter().map(|&set| counts[set]).fold(known.len(), usize::min);
            let drawn = row.metrics.map(|value| {
                let draws: Draws = draws.next().expect("the draws of each number");
                let middle = draws.middle();
                Drawn { middle, wide: middle.hull(draws.around(value, images)) }
            });
            let part = 1.0 / member.sets.len() as f64;
            let mean = |share: &dyn Fn(&Measured) -> f64| -> Vec<Share> {
                let of =
                    |&set: &usize| Share { weight: part, share: share(&measured[set]), images: counts[set] };
                member.sets.iter().map(of).collect()
            };
            // The known images are the same for all sets.
            let kept = member.sets.iter().map(|&set| part * measured[set].balance.kept).sum();
            let halves = mean(&|set| set.balance.caught)
                .into_iter()
                .chain([Share { weight: 1.0, share: kept, images: known.len() }])
                .map(|share| Share { weight: share.weight / 2.0, ..share });
            let of: Vec<&Ranked> = member.sets.iter().map(|&set| &sets[set]).collect();
            let accepted = Interval::of_shares(mean(&|set| set.metrics.fpr_at_95_known_kept));
            // A threshold at a quantile of few images.
            let at_quantile = |value: fn(&Metrics) -> f64, few: fn(&FprOfFew) -> Option<Interval>| {
                member.sets.iter().map(move |&set| {
                    let value = value(&measured[set].metrics);
                    let interval = few(&of_few[set]).unwrap_or(Interval { low: value, high: value });
                    Part { weight: part, value, interval }
                })
            };
            let at_caught = Interval::of_sum(at_quantile(|metrics| metrics.fpr95_tpr, |few| few.fpr95_tpr));
            // All sets share the known images, so their errors do not cancel out.
            let at_kept = Interval::of_ends(at_quantile(
                |metrics| metrics.fpr_at_95_known_kept,
                |few| few.fpr_at_95_known_kept,
            ));
            let metrics = Metrics {
                auroc: auroc_interval(known, &of),
                aupr_in: drawn.aupr_in.wide,
                aupr_out: drawn.aupr_out.wide,
                fpr95_tpr: drawn.fpr95_tpr.middle.hull(of_known(row.metrics.fpr95_tpr)).hull(at_caught),
                fpr_at_95_known_kept: drawn.fpr_at_95_known_kept.middle.hull(accepted).hull(at_kept),
                oscr: drawn.oscr.map(|drawn| drawn.wide),
                detection_accuracy: Interval::of_shares(halves),
            };
            let caught = |_| Interval::of_shares(mean(&|set| set.caught.unwrap_or_default()));
            row.intervals = Some(RowIntervals { unknown_caught: row.unknown_caught.map(caught), metrics });
        }
    }
}

impl Member<'_> {
    /// The mean over its sets.
    fn mean(&self, of: impl Fn(usize) -> Metrics) -> Metrics {
        let metrics: Vec<Metrics> = self.sets.iter().map(|&set| of(set)).collect();
        Metrics::mean(&metrics)
    }
}

/// The rows of a report: the sets, the groups and, with several sets, `mean` and `all`. The set of `all`
/// comes after the others.
fn members<'a>(names: &[&'a str], groups: &'a [Group]) -> Result<Vec<Member<'a>>> {
    check_set_names(names.iter().copied())?;
    let mut members: Vec<Member> =
        names.iter().enumerate().map(|(index, name)| Member { name, sets: vec![index] }).collect();
    let setting = |value: &str, reason: String| Error::setting("group", value, reason);
    for Group { name, sets } in groups {
        if name.is_empty()
            || RESERVED_NAMES.contains(&name.as_str())
            || members.iter().any(|row| row.name == name)
        {
            return Err(setting(name, "the name is empty, reserved or taken".to_owned()));
        }
        let index_of = |set: &String| {
            let missing = || match names {
                [] => setting(name, "there are no unknown sets".to_owned()),
                _ => setting(name, format!("`{set}` is not one of the unknown sets: {}", names.join(", "))),
            };
            names.iter().position(|other| other == set).ok_or_else(missing)
        };
        let sets = sets.iter().map(index_of).collect::<Result<Vec<usize>>>()?;
        if sets.is_empty() {
            return Err(setting(name, "must list an unknown set".to_owned()));
        }
        if (1..sets.len()).any(|index| sets[..index].contains(&sets[index])) {
            return Err(setting(name, "lists a set twice".to_owned()));
        }
        members.push(Member { name, sets });
    }
    if names.len() > 1 {
        members.push(Member { name: MEAN, sets: (0..names.len()).collect() });
        members.push(Member { name: ALL, sets: vec![names.len()] });
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

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};

    use super::*;

    const KNOWN: [f32; 4] = [0.0, 1.0, 2.0, 3.0];
    const CORRECT: [bool; 4] = [true, true, false, true];
    const FAR: [f32; 2] = [9.0, 8.0];
    const NEAR: [f32; 2] = [2.5, 0.5];

    fn report(options: &ReportOptions) -> Result<Report> {
        Report::new(&KNOWN, Some(&CORRECT), &[("far", &FAR), ("near", &NEAR)], options)
    }

    #[test]
    fn shares_are_correctly_rounded() {
        let [known, unknown] = [90, 10]
            .map(|low| -> Vec<f64> { (0..100).map(|number| if number < low { 0.0 } else { 2.0 }).collect() });
        let report = |known: &[f64], threshold| {
            let options = ReportOptions { threshold: Some(threshold), ..ReportOptions::default() };
            Report::new(known, None, &[("far", &unknown[..])], &options).unwrap()
        };
        assert_eq!(report(&known, 1.0).rows[0].metrics.detection_accuracy, 0.9);
        let known: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(report(&known, 93.0).known_kept, Some(0.93));
    }

    fn group(text: &str) -> Vec<Group> {
        vec![text.parse().unwrap()]
    }

    #[test]
    fn rows_for_sets_groups_mean_and_all() {
        let options =
            ReportOptions { threshold: Some(2.5), groups: group("both=near, far"), bootstrap: None };
        let report = report(&options).unwrap();
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
        assert!(text.starts_with("4 known images: accuracy 75.00 %, kept by the threshold 75.00 %\n"));
        let lengths: Vec<usize> = text.lines().skip(1).take(6).map(str::len).collect();
        assert!(lengths.len() == 6 && lengths.iter().all(|&length| length == lengths[0]), "{text}");
    }

    #[test]
    fn intervals_contain_their_values() {
        let spread = |count: usize, shift: f64| -> Vec<f64> {
            (0..count).map(|i| (i * 37 % 101) as f64 / 101.0 + shift).collect()
        };
        let correct: Vec<bool> = (0..300).map(|i| i % 10 != 0).collect();
        let (known, near, far) = (spread(300, 0.0), spread(150, 0.3), spread(200, 0.6));
        let options = ReportOptions {
            threshold: Some(0.9),
            groups: group("both=near,far"),
            bootstrap: Some(Bootstrap { resamples: 400, seed: 1 }),
        };
        let report =
            Report::new(&known, Some(&correct), &[("near", &near), ("far", &far)], &options).unwrap();
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
    fn intervals_cover_the_fpr_of_few_images() {
        // Scores are uniform on 0..1, and on 0.5..1.5: 5 % of the unknown images are below 0.55, and 45 % of
        // the known ones above it. 5 % of the known images are above 0.95, and 45 % of the unknown below it.
        for (known_images, unknown_images) in [(500, 10), (500, 20), (20, 500), (149, 149), (90, 60)] {
            let mut held = [0; 2];
            for seed in 0..300 {
                let mut random = ChaCha8Rng::seed_from_u64(2000 + seed);
                let mut side = |images: usize, shift: f64| -> Vec<f64> {
                    (0..images).map(|_| random.random::<f64>() + shift).collect()
                };
                let (known, unknown) = (side(known_images, 0.0), side(unknown_images, 0.5));
                let bootstrap = Some(Bootstrap { resamples: 100, seed: 0 });
                let options = ReportOptions { bootstrap, ..ReportOptions::default() };
                let report = Report::new(&known, None, &[("far", &unknown)], &options).unwrap();
                let intervals = report.rows[0].intervals.unwrap().metrics;
                let intervals = [intervals.fpr95_tpr, intervals.fpr_at_95_known_kept];
                for (held, Interval { low, high }) in held.iter_mut().zip(intervals) {
                    *held += u32::from(low <= 0.45 && 0.45 <= high);
                }
            }
            let images = format!("{known_images} and {unknown_images} images");
            assert!(held.iter().all(|&held| held >= 279), "{held:?} of 300 with {images}");
        }
    }

    #[test]
    fn a_second_set_does_not_bound_a_quantile_of_few_known_images() {
        let known: Vec<f64> = (0..20).map(f64::from).collect();
        let a: Vec<f64> = (0..200).map(|i| f64::from(i) / 10.0 + 10.0).collect();
        let bootstrap = Some(Bootstrap { resamples: 100, seed: 0 });
        let options = ReportOptions { bootstrap, ..ReportOptions::default() };
        let report = Report::new(&known, None, &[("a", &a), ("b", &a)], &options).unwrap();
        let mean = report.rows.iter().find(|row| row.name == MEAN).unwrap();
        // None of 20 known images need lie beyond their 5 % quantile.
        assert_eq!(mean.intervals.unwrap().metrics.fpr_at_95_known_kept.high, 1.0);
    }

    #[test]
    fn accuracy_and_oscr_need_correctness() {
        let options = ReportOptions { bootstrap: Some(Bootstrap::default()), ..ReportOptions::default() };
        let report = Report::new(&KNOWN, None, &[("far", &FAR)], &options).unwrap();
        assert_eq!((report.accuracy, report.rows[0].metrics.oscr), (None, None));
        let json = serde_json::to_string(&report).unwrap();
        assert!(!json.contains("oscr") && !json.contains("accuracy\":null"), "{json}");
        assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report);
    }

    #[test]
    fn accuracy_without_unknown_sets() {
        let report = Report::new::<f32>(&[0.0], Some(&[true]), &[], &ReportOptions::default()).unwrap();
        assert_eq!(report.to_string(), "1 known image: accuracy 100.00 %\n");
        let skipped = Report { skipped: 2, ..report };
        assert_eq!(
            skipped.to_string(),
            "1 known image: accuracy 100.00 %\n2 images cannot be read and are not counted\n"
        );
    }

    #[test]
    fn set_names_must_be_unique() {
        for names in [["far", "far"], ["far", "all"], ["mean", "far"]] {
            let sets = names.map(|name| (name, &[1.0][..]));
            let error = Report::new(&[0.0], None, &sets, &ReportOptions::default()).unwrap_err();
            assert!(matches!(error, Error::Setting { name: "set name", .. }), "{names:?}: {error}");
        }
    }

    #[test]
    fn invalid_groups_are_refused() {
        for wrong in ["", "near", "=far", "g="] {
            assert!(matches!(wrong.parse::<Group>(), Err(Error::Setting { name: "group", .. })), "{wrong}");
        }
        for wrong in ["far=near", "all=near", "mean=near", "g=nowhere", "g=near,,far"] {
            let error =
                report(&ReportOptions { groups: group(wrong), ..ReportOptions::default() }).unwrap_err();
            assert!(matches!(error, Error::Setting { name: "group", .. }), "{wrong}: {error}");
        }
    }
}
