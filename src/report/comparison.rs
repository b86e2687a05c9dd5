//! The differences between two reports on the same images, with their intervals.

use std::fmt;

use serde::Serialize;

use super::{Report, ReportOptions, Row, members, text};
use crate::{
    error::{Error, Result},
    method::is_unknown,
    metrics::{Draws, Interval, Metrics, Part, Placed, Resample, both},
    text::on_one_line,
};

/// The scores of a model on the images of a report, from which it was computed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ReportScores<'a, S> {
    /// Those of the known images.
    pub known: &'a [S],
    /// Whether each known image was classified correctly, if that is known.
    pub correct: Option<&'a [bool]>,
    /// Those of each unknown set.
    pub unknown: Vec<&'a [S]>,
    /// The threshold of the report; `None` leaves the shares that it keeps and catches out of a comparison.
    pub threshold: Option<f64>,
}

impl<S: PartialEq> ReportScores<'_, S> {
    /// Whether the scores are the same.
    fn has_scores_of(&self, other: &Self) -> bool {
        self.known == other.known && self.unknown == other.unknown
    }
}

/// How much the metrics of a second model differ from those of a first one on the same images, in the same order.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// The difference of the [accuracies](Report::accuracy).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<Change>,
    /// The difference of the shares that each keeps by [its threshold](Report::known_kept).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub known_kept: Option<Change>,
    /// The differences of each row.
    pub rows: Vec<ComparedRow>,
}

/// The differences of a row.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ComparedRow {
    /// The row's name.
    pub name: String,
    /// The number of unknown images.
    pub unknown: usize,
    /// The difference of the shares that each catches by [its threshold](Row::unknown_caught).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unknown_caught: Option<Change>,
    /// The differences of the metrics.
    #[serde(flatten)]
    pub metrics: Metrics<Change>,
}

/// The second value minus the first, -1 to 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Change {
    /// The difference.
    pub value: f64,
    /// Its 95 % interval, from the intervals of both values (Zou, 2007) and the correlation of their errors in a
    /// bootstrap that draws the same images for both models. That of a share also contains the interval of Bonett
    /// and Price (2012). Both ends are 0 if the scores, and what else it depends on, are the same.
    pub interval: Interval,
}

impl Change {
    /// The difference in percentage points.
    pub(crate) fn points(self) -> String {
        format!("{:+.2}", 100.0 * self.value)
    }

    /// The interval in percentage points.
    pub(crate) fn ends(self) -> String {
        let Interval { low, high } = self.interval;
        format!("{:+.1} to {:+.1}", 100.0 * low, 100.0 * high)
    }
}

impl Comparison {
    /// Compares two reports with intervals. The options are those of the reports; `None` without a bootstrap of two
    /// resamples or more.
    ///
    /// # Errors
    /// [`Error::Scores`] if a report is not of its scores, or the numbers of images, sets or metrics differ; those
    /// of [`Report::new`].
    pub(crate) fn new<S: Copy + Into<f64> + PartialEq>(
        first: (&Report, &ReportScores<S>),
        second: (&Report, &ReportScores<S>),
        options: &ReportOptions,
    ) -> Result<Option<Self>> {
        let Some(bootstrap) = options.bootstrap.filter(|bootstrap| bootstrap.resamples > 1) else {
            return Ok(None);
        };
        let (one, other) = (Side::new(first, options)?, Side::new(second, options)?);
        let sizes = one.placed.counts();
        if sizes != other.placed.counts() {
            return Err(Error::Scores("the two results are not of the same images".to_owned()));
        }
        let of_one = one.values().ok_or_else(not_of_scores)?;
        let of_other = other.values().ok_or_else(not_of_scores)?;
        let values = of_one
            .zip(of_other)
            .filter(|_| one.names().eq(other.names()))
            .ok_or_else(|| Error::Scores("the two results have different metrics".to_owned()))?;
        // For each value its draws for the one model, for the other, and those of the difference.
        let measure = |drawn: &Resample| -> Vec<f64> {
            let [a, b] = [&one, &other].map(|side| side.drawn(drawn).in_order());
            a.into_iter().zip(b).flat_map(|(a, b)| [a, b, b - a]).collect()
        };
        let draws: Vec<Draws> = bootstrap.draws(sizes.0, &sizes.1, measure).collect();
        let mut draws = draws.as_chunks().0.iter();
        // Of one network with two thresholds, or with other anchors.
        let is_same = first.1.has_scores_of(second.1);
        let has_same_threshold = first.1.threshold == second.1.threshold;
        let has_same_classes = first.1.correct == second.1.correct;
        let changes = values.map(|(a, b)| {
            let draws = draws.next().expect("three draws for each value");
            let value = b.value - a.value;
            let is_fixed = (has_same_threshold || !a.has_threshold) && (has_same_classes || !a.has_classes);
            if is_same && is_fixed {
                return Change { value, interval: Interval::default() };
            }
            let ends = (a.value, a.interval);
            let interval = Interval::of_difference(ends, (b.value, b.interval), correlation(draws));
            // The correlation of shares is not known if few images differ.
            let is_share = !a.of_images.is_empty();
            let paired = is_share.then(|| of_paired(&a.of_images, &b.of_images));
            Change { value, interval: paired.map_or(interval, |paired| interval.hull(paired)) }
        });
        let rows = first.0.rows.iter().zip(changes.rows).map(|(row, changes)| ComparedRow {
            name: row.name.clone(),
            unknown: row.unknown,
            unknown_caught: changes.unknown_caught,
            metrics: changes.metrics,
        });
        let rows = rows.collect();
        Ok(Some(Self { accuracy: changes.accuracy, known_kept: changes.known_kept, rows }))
    }
}

fn not_of_scores() -> Error {
    Error::Scores("the report is not of these scores".to_owned())
}

/// The interval of the difference of a share, or of its mean over several sets of images.
fn of_paired(first: &[&[bool]], second: &[&[bool]]) -> Interval {
    let weight = 1.0 / first.len() as f64;
    Interval::of_independent(first.iter().zip(second).map(|(first, second)| {
        let only = |a: &[bool], b: &[bool]| a.iter().zip(b).filter(|&(&a, &b)| a && !b).count();
        let counts = [only(first, second), only(second, first)];
        let value = (counts[1] as f64 - counts[0] as f64) / first.len() as f64;
        Part { weight, value, interval: Interval::of_paired_shares(counts, first.len()) }
    }))
}

/// The correlation of two numbers from the draws of both and of their difference; 0 if one does not vary.
fn correlation(draws: &[Draws; 3]) -> f64 {
    let [a, b, difference] = draws.each_ref().map(Draws::variance);
    let correlation = (a + b - difference) / (2.0 * (a * b).sqrt());
    if correlation.is_finite() { correlation.clamp(-1.0, 1.0) } else { 0.0 }
}

impl fmt::Display for Comparison {
    /// A table in percentage points, as that of a [`Report`].
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shares = [("accuracy", self.accuracy), ("kept by the threshold", self.known_kept)];
        let shares = shares.into_iter().filter_map(|(name, change)| Some((name, change?)));
        let shares: Vec<String> =
            shares.map(|(name, change)| format!("{name} {} ({})", change.points(), change.ends())).collect();
        writeln!(f, "{}", shares.join(", "))?;
        let rows = self.rows.iter().flat_map(|row| {
            let first = [on_one_line(&row.name), row.unknown.to_string()];
            let second = ["  95 % interval".to_owned(), String::new()];
            [
                text::line(first, row.metrics, row.unknown_caught, Change::points),
                text::line(second, row.metrics, row.unknown_caught, Change::ends),
            ]
        });
        text::table(f, rows.collect())
    }
}

/// One `T` for each value of a report that has an interval.
struct PerValue<T> {
    accuracy: Option<T>,
    known_kept: Option<T>,
    rows: Vec<PerRowValue<T>>,
}

/// One `T` for each value of a row.
struct PerRowValue<T> {
    unknown_caught: Option<T>,
    metrics: Metrics<T>,
}

impl<T> PerValue<T> {
    /// Applies a function to each, always in the same order.
    fn map<U>(self, mut f: impl FnMut(T) -> U) -> PerValue<U> {
        let (accuracy, known_kept) = (self.accuracy.map(&mut f), self.known_kept.map(&mut f));
        let row = |row: PerRowValue<T>| PerRowValue {
            unknown_caught: row.unknown_caught.map(&mut f),
            metrics: row.metrics.map(&mut f),
        };
        PerValue { accuracy, known_kept, rows: self.rows.into_iter().map(row).collect() }
    }

    /// In the order of [`map`](Self::map).
    fn in_order(self) -> Vec<T> {
        let mut all = Vec::new();
        self.map(|one| all.push(one));
        all
    }

    /// Pairs each with that of another report; `None` if one of them has a value that the other lacks.
    fn zip<U>(self, other: PerValue<U>) -> Option<PerValue<(T, U)>> {
        if self.rows.len() != other.rows.len() {
            return None;
        }
        let rows = self.rows.into_iter().zip(other.rows).map(|(a, b)| {
            let unknown_caught = both(a.unknown_caught, b.unknown_caught)?;
            Some(PerRowValue { unknown_caught, metrics: a.metrics.zip(b.metrics)? })
        });
        Some(PerValue {
            accuracy: both(self.accuracy, other.accuracy)?,
            known_kept: both(self.known_kept, other.known_kept)?,
            rows: rows.collect::<Option<_>>()?,
        })
    }
}

/// A value of a report.
struct Value<'a> {
    value: f64,
    interval: Interval,
    /// Whether it depends on the threshold.
    has_threshold: bool,
    /// Whether it depends on the predicted classes.
    has_classes: bool,
    /// Of a share: whether each image counts, in each of the sets that it averages; else empty.
    of_images: Vec<&'a [bool]>,
}

/// One of the two models.
struct Side<'a> {
    report: &'a Report,
    placed: Placed,
    /// The unknown sets that each row averages.
    rows: Vec<Vec<usize>>,
    /// Which known images are classified correctly, if that is known.
    correct: Option<&'a [bool]>,
    /// What the threshold decides, if there is one.
    decided: Option<Decided>,
}

/// What a threshold decides.
struct Decided {
    threshold: f64,
    /// Which known images it keeps.
    kept: Vec<bool>,
    /// Which images of each unknown set it catches.
    caught: Vec<Vec<bool>>,
}

impl<'a> Side<'a> {
    fn new<S: Copy + Into<f64>>(
        (report, scores): (&'a Report, &ReportScores<'a, S>),
        options: &ReportOptions,
    ) -> Result<Self> {
        let names: Vec<&str> =
            report.rows.iter().take(scores.unknown.len()).map(|row| row.name.as_str()).collect();
        let rows: Vec<Vec<usize>> =
            members(&names, &options.groups)?.into_iter().map(|member| member.sets).collect();
        if rows.len() != report.rows.len() {
            return Err(not_of_scores());
        }
        let all = scores.unknown.concat();
        let mut sets = scores.unknown.clone();
        if sets.len() > 1 {
            sets.push(&all);
        }
        let placed = Placed::new(scores.known, scores.correct, &sets)?;
        let decided = scores.threshold.map(|threshold| {
            let exceeds = |&score: &S| is_unknown(score.into(), threshold);
            let kept = scores.known.iter().map(|score| !exceeds(score)).collect();
            let caught = sets.iter().map(|set| set.iter().map(exceeds).collect()).collect();
            Decided { threshold, kept, caught }
        });
        Ok(Self { report, placed, rows, correct: scores.correct, decided })
    }

    /// The names of the rows.
    fn names(&self) -> impl Iterator<Item = &str> {
        self.report.rows.iter().map(|row| row.name.as_str())
    }

    /// The values of the report, those that [`drawn`](Self::drawn) measures; `None` if it lacks one.
    fn values(&self) -> Option<PerValue<Value<'_>>> {
        let value = |value, interval| Value {
            value,
            interval,
            has_threshold: false,
            has_classes: false,
            of_images: Vec::new(),
        };
        let of_known = self.report.intervals?;
        let accuracy = match &self.correct {
            Some(correct) => Some(Value {
                has_classes: true,
                of_images: vec![correct],
                ..value(self.report.accuracy?, of_known.accuracy?)
            }),
            None => None,
        };
        let known_kept = match &self.decided {
            Some(Decided { kept, .. }) => Some(Value {
                has_threshold: true,
                of_images: vec![kept],
                ..value(self.report.known_kept?, of_known.known_kept?)
            }),
            None => None,
        };
        let row = |(row, sets): (&Row, &Vec<usize>)| {
            let of_row = row.intervals?;
            let unknown_caught = match &self.decided {
                Some(Decided { caught, .. }) => Some(Value {
                    has_threshold: true,
                    of_images: sets.iter().map(|&set| &caught[set][..]).collect(),
                    ..value(row.unknown_caught?, of_row.unknown_caught?)
                }),
                None => None,
            };
            let mut metrics =
                row.metrics.zip(of_row.metrics)?.map(|(metric, interval)| value(metric, interval));
            metrics.oscr = metrics.oscr.map(|oscr| Value { has_classes: true, ..oscr });
            let is_judged = metrics.oscr.is_some() == self.correct.is_some();
            is_judged.then_some(PerRowValue { unknown_caught, metrics })
        };
        let rows = self.report.rows.iter().zip(&self.rows).map(row).collect::<Option<_>>()?;
        Some(PerValue { accuracy, known_kept, rows })
    }

    /// The values of a resample by image.
    fn drawn(&self, by_image: &Resample) -> PerValue<f64> {
        let drawn = self.placed.drawn(by_image);
        let metrics = drawn.metrics();
        let threshold = self.decided.as_ref().map(|decided| decided.threshold);
        let rows = self.rows.iter().map(|sets| {
            let caught = |threshold| sets.iter().map(|&set| drawn.caught(set, threshold)).sum::<f64>();
            let of_sets: Vec<Metrics> = sets.iter().map(|&set| metrics[set]).collect();
            PerRowValue {
                unknown_caught: threshold.map(|threshold| caught(threshold) / sets.len() as f64),
                metrics: Metrics::mean(&of_sets),
            }
        });
        PerValue {
            accuracy: drawn.accuracy(),
            known_kept: threshold.map(|threshold| drawn.kept(threshold)),
            rows: rows.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::ChaCha8Rng};
    use rand_distr::{Distribution, StandardNormal};

    use super::*;
    use crate::metrics::Bootstrap;

    /// A model's scores and what it classifies correctly.
    struct Tested {
        known: Vec<f64>,
        correct: Vec<bool>,
        unknown: Vec<f64>,
    }

    impl Tested {
        fn report(&self, options: &ReportOptions) -> Report {
            Report::new(&self.known, Some(&self.correct), &[("far", &self.unknown)], options).unwrap()
        }

        fn scores(&self, options: &ReportOptions) -> ReportScores<'_, f64> {
            ReportScores {
                known: &self.known,
                correct: Some(&self.correct),
                unknown: vec![&self.unknown],
                threshold: options.threshold,
            }
        }
    }

    fn options(resamples: u32) -> ReportOptions {
        let bootstrap = Some(Bootstrap { resamples, seed: 0 });
        ReportOptions { threshold: Some(1.0), bootstrap, ..ReportOptions::default() }
    }

    fn compared(one: &Tested, other: &Tested, options: &ReportOptions) -> Comparison {
        let reports = [one, other].map(|tested| tested.report(options));
        let scores = [one, other].map(|tested| tested.scores(options));
        Comparison::new((&reports[0], &scores[0]), (&reports[1], &scores[1]), options).unwrap().unwrap()
    }

    /// Two models whose scores of an image share half of their variance. Those of unknown images are higher by
    /// `shifts`; an image is classified correctly if another such number is below `levels`.
    fn drawn(seed: u64, images: usize, shifts: [f64; 2], levels: [f64; 2]) -> [Tested; 2] {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut normal = || -> f64 { StandardNormal.sample(&mut random) };
        let mut pairs = |shifts: [f64; 2]| -> [Vec<f64>; 2] {
            let [mut one, mut other] = [Vec::new(), Vec::new()];
            for _ in 0..images {
                let common = normal();
                one.push((common + normal()) / 2_f64.sqrt() + shifts[0]);
                other.push((common + normal()) / 2_f64.sqrt() + shifts[1]);
            }
            [one, other]
        };
        let ([a, b], [far_a, far_b], [of_a, of_b]) = (pairs([0.0; 2]), pairs(shifts), pairs([0.0; 2]));
        let tested = |known, unknown, of: Vec<f64>, level: f64| Tested {
            known,
            unknown,
            correct: of.into_iter().map(|value| value < level).collect(),
        };
        [tested(a, far_a, of_a, levels[0]), tested(b, far_b, of_b, levels[1])]
    }

    #[test]
    fn intervals_cover_the_true_difference() {
        // The distribution function of the standard normal distribution at 0.5, 1, 1.5, 2 / √2 and 1 / √2.
        let [half, one, more, second, first] = [0.691_462, 0.841_345, 0.933_193, 0.921_350, 0.760_250];
        for images in [40, 200] {
            let mut held = [0; 5];
            for seed in 0..200 {
                let [a, b] = drawn(seed, images, [1.0, 2.0], [1.0, 1.5]);
                let found = compared(&a, &b, &options(100));
                let row = &found.rows[0];
                let checked = [
                    (found.accuracy.unwrap(), more - one),
                    (found.known_kept.unwrap(), 0.0),
                    (row.unknown_caught.unwrap(), one - 0.5),
                    (row.metrics.auroc, second - first),
                    (row.metrics.detection_accuracy, one - half),
                ];
                for (held, (change, truth)) in held.iter_mut().zip(checked) {
                    let Interval { low, high } = change.interval;
                    assert!(low <= change.value && change.value <= high, "{change:?}");
                    *held += u32::from(low <= truth && truth <= high);
                }
            }
            // 94.5 % and more, as docs/metrics.md says; 95 % of 200 are 190, with a standard deviation of 3.1.
            assert!(held.iter().all(|&held| held >= 189), "{held:?}, {images} images");
        }
    }

    #[test]
    fn models_on_the_same_images_differ_by_less_than_their_intervals() {
        let [a, b] = drawn(1, 400, [1.0, 1.0], [1.0, 1.0]);
        let options = options(400);
        let found = compared(&a, &b, &options);
        let [of_a, of_b] =
            [&a, &b].map(|tested| tested.report(&options).rows[0].intervals.unwrap().metrics.auroc);
        let width = |interval: Interval| interval.high - interval.low;
        let apart = (width(of_a).powi(2) + width(of_b).powi(2)).sqrt();
        let paired = width(found.rows[0].metrics.auroc.interval);
        // Half of the variance is common, and about as much of the errors: √(1 - 0.5) = 0.71.
        assert!(paired > 0.6 * apart && paired < 0.85 * apart, "{paired} {apart}");
        // The other way round all signs change.
        let back = compared(&b, &a, &options);
        let (one, other) = (found.rows[0].metrics.oscr.unwrap(), back.rows[0].metrics.oscr.unwrap());
        assert_eq!(one.value, -other.value);
        assert!((one.interval.low + other.interval.high).abs() < 1e-9, "{one:?} {other:?}");
        // A model does not differ from itself.
        let same = compared(&a, &a, &options);
        let auroc = same.rows[0].metrics.auroc;
        assert_eq!(auroc, Change::default());
        let text = same.to_string();
        assert!(text.starts_with("accuracy +0.00 (+0.0 to +0.0), kept by the threshold +0.00 ("), "{text}");
        assert_eq!(text.lines().count(), 4, "{text}");
    }

    #[test]
    fn intervals_of_shares_cover_differences_of_few_images() {
        // Both classify half of the images correctly. The second one also classifies others correctly, on average two.
        let options = options(50);
        let mut held = 0;
        for seed in 0..300 {
            let [a, mut b] = drawn(5000 + seed, 100, [1.0, 1.0], [0.0, 0.0]);
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            b.correct = a.correct.clone();
            for correct in &mut b.correct {
                let flip: f64 = rand::RngExt::random(&mut random);
                *correct |= flip < 0.04;
            }
            let Interval { low, high } = compared(&a, &b, &options).accuracy.unwrap().interval;
            held += u32::from(low <= 0.02 && 0.02 <= high);
        }
        // 95 % of 300 are 285, with a standard deviation of 3.8.
        assert!(held >= 279, "{held}");
    }

    #[test]
    fn rows_of_several_sets_are_compared() {
        let [a, b] = drawn(3, 60, [1.0, 2.0], [1.0, 1.0]);
        let [c, d] = drawn(4, 30, [0.5, 1.5], [1.0, 1.0]);
        let groups = vec!["both=far,near".parse().unwrap()];
        let options = ReportOptions { groups, ..options(50) };
        let of = |one: &Tested, other: &Tested| {
            let sets = [("far", &one.unknown[..]), ("near", &other.unknown)];
            Report::new(&one.known, Some(&one.correct), &sets, &options).unwrap()
        };
        fn scores<'a>(one: &'a Tested, other: &'a Tested, options: &ReportOptions) -> ReportScores<'a, f64> {
            ReportScores { unknown: vec![&one.unknown, &other.unknown], ..one.scores(options) }
        }
        let (of_first, of_second) = (of(&a, &c), of(&b, &d));
        let found = Comparison::new(
            (&of_first, &scores(&a, &c, &options)),
            (&of_second, &scores(&b, &d, &options)),
            &options,
        );
        let found = found.unwrap().unwrap();
        let names: Vec<&str> = found.rows.iter().map(|row| row.name.as_str()).collect();
        assert_eq!(names, ["far", "near", "both", "mean", "all"]);
        let differences = of_first.rows.iter().zip(&of_second.rows);
        for (row, (one, other)) in found.rows.iter().zip(differences) {
            assert_eq!(row.unknown, one.unknown);
            assert_eq!(
                row.unknown_caught.unwrap().value,
                other.unknown_caught.unwrap() - one.unknown_caught.unwrap()
            );
            let expected = other.metrics.named().zip(one.metrics.named()).map(|((_, b), (_, a))| b - a);
            assert!(row.metrics.named().map(|(_, change)| change.value).eq(expected), "{}", row.name);
        }
        // The mean of two sets is better known than that of the smaller one.
        let width = |row: usize| {
            let Interval { low, high } = found.rows[row].metrics.auroc.interval;
            high - low
        };
        assert!(width(3) < width(1) && width(2) == width(3), "{} {}", width(3), width(1));
        let one = ReportOptions { bootstrap: Some(Bootstrap { resamples: 1, seed: 0 }), ..options.clone() };
        let none =
            Comparison::new((&of_first, &scores(&a, &c, &one)), (&of_second, &scores(&b, &d, &one)), &one);
        assert_eq!(none.unwrap(), None);
    }

    #[test]
    fn only_results_on_the_same_images_are_compared() {
        let [a, b] = drawn(2, 50, [1.0, 1.0], [1.0, 1.0]);
        let options = options(50);
        let [of_a, of_b] = [&a, &b].map(|tested| (tested.report(&options), tested.scores(&options)));
        let fewer =
            ReportScores { known: &a.known[1..], correct: Some(&a.correct[1..]), ..a.scores(&options) };
        let compared = |scores: &ReportScores<f64>| {
            Comparison::new((&of_a.0, scores), (&of_b.0, &of_b.1), &options)
                .map_err(|error| error.to_string())
        };
        assert!(compared(&fewer).unwrap_err().contains("not of the same images"));
        let unknown = vec![&a.unknown[..], &a.unknown];
        assert!(compared(&ReportScores { unknown, ..a.scores(&options) }).is_err());
        let unjudged = Report { accuracy: None, ..of_a.0.clone() };
        let error = Comparison::new((&unjudged, &of_a.1), (&of_b.0, &of_b.1), &options).unwrap_err();
        assert!(error.to_string().contains("the report is not of these scores"), "{error}");
        let without_classes = ReportScores { correct: None, ..a.scores(&options) };
        let unjudged = Report::new(&a.known, None, &[("far", &a.unknown)], &options).unwrap();
        let error = Comparison::new((&unjudged, &without_classes), (&of_b.0, &of_b.1), &options).unwrap_err();
        assert!(error.to_string().contains("different metrics"), "{error}");
        let error = Comparison::new((&unjudged, &of_a.1), (&unjudged, &of_b.1), &options).unwrap_err();
        assert!(error.to_string().contains("the report is not of these scores"), "{error}");
        let bare = a.report(&ReportOptions { bootstrap: None, ..options.clone() });
        assert!(Comparison::new((&bare, &of_a.1), (&bare, &of_a.1), &options).is_err());
        // The share that two thresholds keep may be the same by chance.
        let [low, high] = [1.0, 1.0 + 1e-9]
            .map(|threshold| ReportOptions { threshold: Some(threshold), ..options.clone() });
        let reports = [&low, &high].map(|options| a.report(options));
        let scores = [&low, &high].map(|options| a.scores(options));
        let found = Comparison::new((&reports[0], &scores[0]), (&reports[1], &scores[1]), &options);
        let found = found.unwrap().unwrap();
        assert_eq!((found.accuracy, found.known_kept.unwrap().value), (Some(Change::default()), 0.0));
        assert!(found.known_kept.unwrap().interval.high > 0.0);
        let without = ReportOptions { bootstrap: None, ..options.clone() };
        assert_eq!(Comparison::new((&of_a.0, &of_a.1), (&of_b.0, &of_b.1), &without).unwrap(), None);
    }
}
