//! The result in words: the verdict and the cautions.

use super::{
    content::{Provenance, Subject},
    name::{elided, isolated},
};
use crate::{
    metrics::Interval,
    model::{Robustness, Threshold},
    report::{Report, Row},
    text::{listed, not_counted},
};

/// A share of a row with its interval.
type ShareOf = fn(&Row) -> Option<(f64, Option<Interval>)>;

/// With fewer images a share is known to within ten per cent at best.
const FEW: usize = 100;
/// A class is weak if its accuracy, with its interval, is lower than that of all images by more than this.
const WEAK: f64 = 0.1;
/// The maximum number of unknown sets that the verdict or a kind of caution names.
const NAMED: usize = 3;

/// A share in per cent.
pub(super) fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// A share in per cent with its interval.
pub(super) fn with_interval(share: f64, interval: Option<Interval>) -> String {
    match interval {
        Some(Interval { low, high }) => {
            format!("{} ({:.1}–{:.1})", percent(share), 100.0 * low, 100.0 * high)
        }
        None => percent(share),
    }
}

/// A number for people to read and to copy.
pub(super) fn number(value: f64) -> String {
    if value != 0.0 && value.is_finite() && !(1e-3..1e7).contains(&value.abs()) {
        return format!("{value:.4e}");
    }
    let text = format!("{value:.4}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// A count with its digits in groups of three.
pub(super) fn grouped(count: usize) -> String {
    let mut digits = count.to_string();
    let mut position = digits.len();
    while position > 3 {
        position -= 3;
        digits.insert(position, ',');
    }
    digits
}

/// A count with its noun, whose plural ends in `s`.
pub(super) fn counted(count: usize, noun: &str) -> String {
    format!("{} {noun}{}", grouped(count), if count == 1 { "" } else { "s" })
}

/// A name in a sentence.
pub(super) fn quoted(name: &str) -> String {
    isolated(&elided(name, 40))
}

/// Words as a sentence.
fn sentence(words: &str) -> String {
    let mut sentence = format!("{words}.");
    if sentence.is_char_boundary(1) {
        sentence[..1].make_ascii_uppercase();
    }
    sentence
}

/// The row of each unknown set.
pub(super) fn set_rows(subject: &Subject) -> &[Row] {
    subject
        .report
        .as_ref()
        .map_or(&[], |report| &report.rows[..subject.tested.unknown.len().min(report.rows.len())])
}

impl Subject {
    /// The threshold of the model file.
    pub(super) fn chosen(&self) -> Option<&Threshold> {
        self.origin.as_ref()?.manifest.decision.threshold.as_ref()
    }

    /// Whether its metrics have intervals.
    pub(super) fn has_intervals(&self) -> bool {
        self.report.as_ref().is_ok_and(|report| report.intervals.is_some())
    }

    /// Whether thresholds are chosen from the test images.
    pub(super) fn is_chosen_from_test(&self) -> bool {
        self.chosen().is_some_and(|threshold| threshold.is_from_test)
    }

    /// The result in a sentence.
    #[must_use]
    pub fn verdict(&self) -> String {
        let report = match &self.report {
            Ok(report) => report,
            Err(reason) => return format!("There are no metrics: {reason}."),
        };
        let intervals = report.intervals.unwrap_or_default();
        let named = report.accuracy.map(|accuracy| {
            format!(
                "the model classifies {} of the known images correctly",
                with_interval(accuracy, intervals.accuracy)
            )
        });
        let kept = report.known_kept.map(|kept| with_interval(kept, intervals.known_kept));
        let rows = set_rows(self);
        let of_sets = |value: ShareOf, verb: &str, before: &str| -> Option<String> {
            let texts = rows.iter().map(|row| {
                let (share, interval) = value(row)?;
                Some(format!("{}{before}{}", with_interval(share, interval), quoted(&row.name)))
            });
            if rows.is_empty() {
                return None;
            }
            if rows.len() <= NAMED {
                return Some(format!("{verb} {}", listed(&texts.collect::<Option<Vec<_>>>()?)));
            }
            let mut shares: Vec<(f64, &Row)> =
                rows.iter().filter_map(|row| Some((value(row)?.0, row))).collect();
            shares.sort_by(|(a, _), (b, _)| a.total_cmp(b));
            let (least, most) = (shares.first()?, shares.last()?);
            let mean = shares.iter().map(|(share, _)| share).sum::<f64>() / shares.len() as f64;
            Some(format!(
                "{verb} {} on average over {} unknown sets, from {}{before}{} to {}{before}{}",
                percent(mean),
                rows.len(),
                percent(least.0),
                quoted(&least.1.name),
                percent(most.0),
                quoted(&most.1.name),
            ))
        };
        let caught = of_sets(
            |row| Some((row.unknown_caught?, row.intervals.and_then(|intervals| intervals.unknown_caught))),
            "catches",
            " of ",
        );
        let separated = of_sets(
            |row| Some((row.metrics.auroc, row.intervals.map(|intervals| intervals.metrics.auroc))),
            "separates known images from unknown ones with an AUROC of",
            " for ",
        );
        let decided = match (kept, caught, separated) {
            (Some(kept), Some(caught), _) => {
                Some(format!("at a threshold that keeps {kept} of them, it {caught}"))
            }
            (Some(kept), None, _) => Some(format!("its threshold keeps {kept} of them")),
            (None, _, Some(separated)) => Some(format!("without a threshold, it {separated}")),
            (None, _, None) => None,
        };
        let mut sentence = match (named, decided) {
            (Some(named), Some(decided)) => format!("{named}; {decided}"),
            (Some(only), None) => only,
            (None, Some(only)) => only.replacen("of them", "of the known images", 1),
            (None, None) => format!(
                "there are {}, and nothing to compare them with",
                counted(report.known, "known image")
            ),
        };
        sentence[..1].make_ascii_uppercase();
        sentence + "."
    }

    /// The cautions, each in a sentence or two.
    #[must_use]
    pub fn cautions(&self) -> Vec<String> {
        let mut cautions: Vec<String> = self.remarks.iter().map(|remark| sentence(remark)).collect();
        cautions.extend(self.cautions_of_scores());
        if self.keep.is_some() && self.is_chosen_from_test() {
            cautions.push(
                "The threshold was chosen from the known test images, because the training held none out: the share \
                 of them that it keeps does not estimate the share of new images."
                    .to_owned(),
            );
        }
        let chosen = self.origin.as_ref().filter(|_| self.keep.is_some());
        for caution in chosen.iter().flat_map(|origin| origin.manifest.cautions_of_held_out()) {
            let caution = sentence(&caution);
            // A run's log has the same remark.
            if !cautions.contains(&caution) {
                cautions.push(caution);
            }
        }
        if let Some(degradation) = self.degradation {
            cautions.push(format!("All test images are degraded ({}).", degradation.in_words()));
        }
        if let Some(weakness) = self.robustness().and_then(Robustness::weakness) {
            cautions.push(sentence(&weakness));
        }
        if let Ok(report) = &self.report {
            cautions.extend(not_counted(report.skipped).map(|sentence| sentence + "."));
            cautions.extend(self.keeps_too_few(report));
            cautions.extend(self.cautions_of_classes(report));
            cautions.extend(self.cautions_of_unknown());
        }
        cautions
    }

    /// Scores that are no numbers, tell nothing, or are few.
    fn cautions_of_scores(&self) -> Vec<String> {
        let mut cautions = Vec::new();
        let count = |test: fn(f64) -> bool| -> usize {
            self.tested.sets().map(|set| set.scores.iter().filter(|&&score| test(score)).count()).sum()
        };
        let nan = count(f64::is_nan);
        if nan > 0 {
            cautions.push(format!(
                "{} not a number. Such images count as unknown, and no metric can be computed.",
                if nan == 1 { "One score is".to_owned() } else { format!("{} are", counted(nan, "score")) }
            ));
        }
        let infinite = count(f64::is_infinite);
        if infinite > 0 {
            let verb = if infinite == 1 { "is" } else { "are" };
            cautions.push(format!(
                "{} {verb} infinite. The metrics include them; the histograms count them in the outermost bars.",
                counted(infinite, "score")
            ));
        }
        let mut all = self.tested.sets().flat_map(|set| &set.scores);
        if let Some(first) = all.next()
            && all.all(|score| score == first)
        {
            cautions.push("All scores are equal: they say nothing about any image.".to_owned());
        }
        let few = self.tested.sets().enumerate().filter(|(_, set)| (1..FEW).contains(&set.scores.len()));
        let few: Vec<String> = few
            .map(|(index, set)| match index {
                0 => counted(set.scores.len(), "known image"),
                _ => format!("{} of {}", counted(set.scores.len(), "image"), quoted(&set.name)),
            })
            .collect();
        if let Some((named, more)) = first_named(&few) {
            let more = match more {
                0 => String::new(),
                more => format!(", and few images of {}", counted(more, "more set")),
            };
            cautions.push(format!(
                "Few images: {named}{more}. {}",
                if self.has_intervals() {
                    "Look at the intervals, not at the numbers alone."
                } else {
                    "The numbers are uncertain, and no intervals were computed."
                }
            ));
        }
        cautions
    }

    /// A threshold that keeps fewer known images than it was chosen for.
    fn keeps_too_few(&self, report: &Report) -> Option<String> {
        let (kept, keep) = (report.known_kept?, self.keep?);
        // Fewer are kept if the images used to choose the threshold happened to score low.
        let least = self.kept_at_least(keep).unwrap_or(keep);
        report.keeps_fewer_than(least).then(|| {
            let interval = report.intervals.and_then(|intervals| intervals.known_kept);
            let doubt = self.origin.as_ref().and_then(Provenance::doubt_of_held_out);
            let doubt = doubt.unwrap_or("the test images may differ from the images that it was chosen from");
            format!(
                "The threshold was chosen to keep {} of the known images, but it keeps {}: {doubt}.",
                percent(keep),
                with_interval(kept, interval)
            )
        })
    }

    /// A low accuracy, of all images or of some classes, and classes without images.
    fn cautions_of_classes(&self, report: &Report) -> Vec<String> {
        let mut cautions = Vec::new();
        let by_class = self.tested.by_class(self.threshold);
        if let Some(accuracy) = report.accuracy {
            let most = by_class.values().map(|counts| counts.images).max().unwrap_or(0);
            let majority = most as f64 / self.tested.known.truth.len().max(1) as f64;
            let interval = report.intervals.and_then(|intervals| intervals.accuracy);
            if interval.map_or(accuracy, |interval| interval.low) <= majority {
                cautions.push(format!(
                    "The accuracy, {}, may be no better than always predicting the most frequent class: {}.",
                    with_interval(accuracy, interval),
                    percent(majority)
                ));
            }
            let weak = by_class.iter().filter_map(|(&class, counts)| {
                let interval = Interval::of_share(counts.accuracy()?, counts.images as f64);
                let share = with_interval(counts.accuracy()?, Some(interval));
                let images = counted(counts.images, "image");
                let is_weak = interval.high < accuracy - WEAK;
                is_weak.then(|| format!("{} with {share} of {images}", quoted(&self.class(class))))
            });
            if let Some((named, more)) = first_named(&weak.collect::<Vec<_>>()) {
                let more = if more == 0 { String::new() } else { format!(", and {more} more") };
                cautions.push(format!(
                    "Some classes are classified far less accurately than all images together: {named}{more}."
                ));
            }
        }
        let is_tested = |class: &i64| by_class.get(class).is_some_and(|counts| counts.images > 0);
        let untested = self.classes.iter().zip(0..).filter(|(_, class)| !is_tested(class));
        if let Some((named, more)) = first_named(&untested.map(|(name, _)| quoted(name)).collect::<Vec<_>>())
        {
            let more = if more == 0 { String::new() } else { format!(", and of {more} more") };
            cautions.push(format!("Classes without test images: {named}{more}."));
        }
        cautions
    }

    /// Unknown sets that look known, or none at all.
    fn cautions_of_unknown(&self) -> Vec<String> {
        let mut cautions = Vec::new();
        let reversed: Vec<&Row> = set_rows(self).iter().filter(|row| row.is_reversed()).collect();
        let (named, more) = reversed.split_at(reversed.len().min(NAMED));
        for row in named {
            cautions.push(format!(
                "The AUROC for {} is {}, below 50 %: its images look more known than the known ones. Is the score the \
                 right way round? Larger must mean more likely unknown.",
                quoted(&row.name),
                with_interval(row.metrics.auroc, row.intervals.map(|intervals| intervals.metrics.auroc))
            ));
        }
        if !more.is_empty() {
            cautions.push(format!("The AUROC for {} is below 50 %, too.", counted(more.len(), "more set")));
        }
        let is_chance = |row: &&Row| {
            let interval = row.intervals.map(|intervals| intervals.metrics.auroc);
            !row.is_reversed() && interval.is_some_and(|Interval { low, high }| (low..=high).contains(&0.5))
        };
        let at_chance: Vec<String> =
            set_rows(self).iter().filter(is_chance).map(|row| quoted(&row.name)).collect();
        if let Some((named, more)) = first_named(&at_chance) {
            let more = if more == 0 { String::new() } else { format!(", and {more} more") };
            cautions.push(format!(
                "An AUROC may be no better than chance if its interval includes 50 %: that for {named}{more}."
            ));
        }
        if self.tested.unknown.is_empty() {
            cautions.push("There are no unknown images, so rejecting them is not measured.".to_owned());
        }
        cautions
    }
}

/// The first few of some names as a list, and how many more there are; `None` without any.
fn first_named(names: &[String]) -> Option<(String, usize)> {
    let (named, more) = names.split_at(names.len().min(NAMED));
    (!names.is_empty()).then(|| (listed(named), more.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        data::Degradation,
        eval::{Scored, TestScores},
        metrics::Bootstrap,
        model::{Degraded, Manifest},
        report::ReportOptions,
    };

    fn subject(known: &[f64], unknown: &[(&str, &[f64])], threshold: Option<f64>) -> Subject {
        let correct: Vec<bool> = (0..known.len()).map(|index| index % 4 != 3).collect();
        let options = ReportOptions {
            threshold,
            bootstrap: Some(Bootstrap { resamples: 0, seed: 0 }),
            ..ReportOptions::default()
        };
        let scored = |name: &str, scores: &[f64]| Scored {
            name: name.to_owned(),
            scores: scores.to_vec(),
            ..Scored::default()
        };
        Subject {
            name: "a.onnx".to_owned(),
            score: "energy".to_owned(),
            threshold,
            keep: Some(0.95),
            classes: Vec::new(),
            tested: TestScores {
                known: scored("known", known),
                unknown: unknown.iter().map(|(name, scores)| scored(name, scores)).collect(),
            },
            report: Report::new(known, Some(&correct), unknown, &options).map_err(|error| error.to_string()),
            projection: None,
            origin: None,
            agreement: None,
            difference: None,
            degradation: None,
            remarks: Vec::new(),
        }
    }

    /// A model file with these further properties.
    fn origin(further: &[(&str, &str)]) -> Option<Provenance> {
        let properties = [
            ("cac.format_version", "2"),
            ("cac.classes", r#"["a","b","c"]"#),
            ("cac.input", r#"{"height":32,"width":32,"mean":[0.5,0.5,0.5],"std":[0.5,0.5,0.5]}"#),
            ("cac.score", "\"cac\""),
            ("cac.threshold", r#"{"value":199.0,"data":"by hand","held_out_scores":[]}"#),
        ];
        let manifest = Manifest::from_properties(properties.iter().chain(further).copied(), "x");
        Some(Provenance { manifest: manifest.unwrap(), sha256: None, provider: None })
    }

    #[test]
    fn weak_classes_and_remarks_are_cautions() {
        let known = vec![0.0; 400];
        let mut of = subject(&known, &[], None);
        // The accuracy is 75 %: that of class 0 is 25 % of 100 images, that of class 2 is 60 % of 10.
        of.tested.known.truth =
            (0..400).map(|index| if index < 100 { 0 } else { 1 + i64::from(index >= 390) }).collect();
        let is_wrong = |index: &usize| (25..100).contains(index) || (394..398).contains(index);
        let truth = of.tested.known.truth.clone();
        of.tested.known.predicted =
            (0..400).map(|index| if is_wrong(&index) { 9 } else { truth[index] }).collect();
        of.remarks = vec!["images: 3".to_owned(), "élan".to_owned()];
        let cautions = of.cautions();
        assert_eq!(cautions[..2], ["Images: 3.", "élan."]);
        assert!(
            cautions.iter().any(|caution| caution
                == "Some classes are classified far less accurately than all images together: 0 with 25.0 % \
                    (17.5–34.3) of 100 images."),
            "{cautions:?}"
        );
    }

    #[test]
    fn the_verdict_says_what_was_measured() {
        let known: Vec<f64> = (0..200).map(f64::from).collect();
        let far: Vec<f64> = (100..300).map(f64::from).collect();
        let both = subject(&known, &[("far", &far), ("near", &known)], Some(179.0));
        assert_eq!(
            both.verdict(),
            "The model classifies 75.0 % of the known images correctly; at a threshold that keeps 90.0 % of them, it catches 60.0 % of \
             far and 10.0 % of near."
        );
        assert_eq!(
            both.cautions(),
            [
                "The threshold was chosen to keep 95.0 % of the known images, but it keeps 90.0 %: the test images may differ \
                 from the images that it was chosen from."
            ]
        );
        let mut imported = both.clone();
        imported.origin = origin(&[("cac.imported", "\"w.pt\"")]);
        let [caution] = &imported.cautions()[..] else { panic!("{:?}", imported.cautions()) };
        assert!(
            caution.contains("it keeps 90.0 %: the network may have learned from the images"),
            "{caution}"
        );
        let without = subject(&known, &[("far", &far)], None);
        assert!(without.verdict().ends_with(
            "without a threshold, it separates known images from unknown ones with an AUROC of 87.5 % for far."
        ));
        let many: Vec<(&str, &[f64])> = ["a", "b", "c", "d"].map(|name| (name, &far[..])).to_vec();
        assert!(
            subject(&known, &many, Some(199.0))
                .verdict()
                .ends_with("catches 50.0 % on average over 4 unknown sets, from 50.0 % of a to 50.0 % of d.")
        );
        let alone = subject(&known, &[], Some(199.0));
        assert!(alone.verdict().ends_with("its threshold keeps 100.0 % of them."), "{}", alone.verdict());
        assert!(alone.cautions().iter().any(|caution| caution.contains("no unknown images")));
    }

    #[test]
    fn a_weakness_that_the_model_file_records_calls_for_caution() {
        let scores: Vec<f64> = (0..200).map(f64::from).collect();
        let far: Vec<f64> = scores.iter().map(|score| score + 200.0).collect();
        let mut subject = subject(&scores, &[("far", &far)], Some(199.0));
        let of_kept = |noise: f64, jpeg: f64| {
            let one = |degradation, same_class| Degraded { degradation, kept: 0.9, same_class };
            let [reduced, noise, jpeg] =
                [(0, 0.8), (1, noise), (2, jpeg)].map(|(index, kept)| one(Degradation::ALL[index], kept));
            let robustness = Robustness { images: 1000, kept: 0.952, degraded: vec![reduced, noise, jpeg] };
            origin(&[("cac.robustness", &serde_json::to_string(&robustness).unwrap())])
        };
        // Also a threshold that was set by hand.
        subject.keep = None;
        subject.origin = of_kept(0.031, 0.5);
        assert_eq!(
            subject.cautions(),
            [
                "The model keeps 95.2 % of known images, but fewer degraded ones in the same class: 3.1 % with noise and 50.0 % as JPEG."
            ]
        );
        let other = Subject { threshold: Some(198.5), ..subject.clone() };
        subject.origin = of_kept(0.752, 0.95);
        for unaffected in [other, subject.clone()] {
            assert_eq!(unaffected.cautions(), [""; 0]);
        }
        subject.degradation = Some(Degradation::Jpeg);
        assert_eq!(subject.cautions(), ["All test images are degraded (as JPEG)."]);
    }

    #[test]
    fn odd_scores_call_for_caution() {
        let caution = |known: &[f64], unknown: &[f64], text: &str| {
            let subject = subject(known, &[("x", unknown)], Some(1.0));
            let cautions = subject.cautions().join("\n");
            assert!(cautions.contains(text), "{text}: {cautions}");
        };
        caution(&[1.0, f64::NAN], &[2.0], "One score is not a number");
        caution(&[1.0, f64::INFINITY], &[f64::NEG_INFINITY], "2 scores are infinite");
        caution(&[1.0; 3], &[1.0; 3], "All scores are equal");
        caution(&[1.0, 2.0], &[0.0], "Few images: 2 known images");
        caution(&[1.0, 2.0], &[0.0], "The AUROC for x is 0.0 %");
        // 48 % is no sign of reversed scores if other images might have had 50 %.
        let scores: Vec<f64> = (0..100).map(f64::from).collect();
        let mut at_chance = subject(&scores, &[("x", &scores[..96])], None);
        let reversed =
            |subject: &Subject| subject.cautions().iter().any(|caution| caution.contains("right way round"));
        assert!(reversed(&at_chance));
        let options =
            ReportOptions { bootstrap: Some(Bootstrap { resamples: 1, seed: 0 }), ..Default::default() };
        at_chance.report = Ok(Report::new(&scores, None, &[("x", &scores[..96])], &options).unwrap());
        assert!(!reversed(&at_chance));
        let chance = "An AUROC may be no better than chance if its interval includes 50 %: that for x.";
        assert!(at_chance.cautions().contains(&chance.to_owned()), "{:?}", at_chance.cautions());
        let names: Vec<String> = (0..2000).map(|number| number.to_string()).collect();
        let many: Vec<(&str, &[f64])> = names.iter().map(|name| (&name[..], &[0.0][..])).collect();
        let cautions = subject(&[1.0, 2.0], &many, None).cautions();
        assert!(cautions.len() < 8, "{}", cautions.len());
        assert!(
            cautions.contains(&"The AUROC for 1,997 more sets is below 50 %, too.".to_owned()),
            "{cautions:?}"
        );
        assert_eq!(
            subject(&[f64::NAN], &[("x", &[1.0])], None).verdict(),
            "There are no metrics: no metrics for these scores: a score is NaN."
        );
    }

    #[test]
    fn numbers_are_short() {
        for (value, text) in [
            (-12.7374, "-12.7374"),
            (0.0, "0"),
            (200.0, "200"),
            (0.5, "0.5"),
            (1e-7, "1.0000e-7"),
            (f64::INFINITY, "inf"),
            (f64::NAN, "NaN"),
        ] {
            assert_eq!(number(value), text);
        }
        assert_eq!(
            (counted(1, "image"), counted(1234567, "image")),
            ("1 image".into(), "1,234,567 images".into())
        );
    }
}
