//! What a page shows: the scores of models, score files and runs, and what is derived from them.

use std::{
    cmp::Ordering,
    collections::{HashMap, HashSet},
};

use ndarray::{Array2, Axis, concatenate};
use serde_json::Value;

use super::{pca::Plane, plot::SERIES};
use crate::{
    data::Degradation,
    error::{Error, Result},
    eval::{Agreement, Evaluation, Scored, ScoredSet, TestScores, is_rejected},
    image::RgbImage,
    method::Anchors,
    metrics::{
        Bootstrap, Interval, Ranked, RankedKnown,
        curve::{Curve, bands},
    },
    model::{Manifest, Robustness},
    report::{Comparison, Report, ReportOptions},
    run::{Event, Started},
    scorer::Provider,
    text::on_one_line,
};

/// The maximum number of thumbnails of a page.
const THUMBNAILS: usize = 48;
/// The greatest side of a thumbnail in pixels.
pub const THUMBNAIL: usize = 96;
/// The maximum number of unknown sets whose curves have bands: more would hide each other.
pub(super) const BANDS: usize = 3;
/// The maximum number of unknown sets of a plot: its first series is that of the known images.
pub(super) const SETS: usize = SERIES - 1;
/// The maximum number of subjects that are shown in detail.
pub(super) const DETAILED: usize = 6;
/// The maximum number of classes whose anchors are drawn.
const MAX_ANCHORS: usize = 1000;
/// The separators between the parts of a path, on this or another system.
const SEPARATORS: [char; 2] = ['/', '\\'];
/// The maximum number of points of a projection.
const MAX_POINTS: usize = 2000;

/// A model with one of its scores, or a score file.
#[derive(Debug, Clone, PartialEq)]
pub struct Subject {
    /// The name of the model, run or file.
    pub name: String,
    /// The name of the score.
    pub score: String,
    /// The score above which an image is unknown, if there is one.
    pub threshold: Option<f64>,
    /// The share of known images that the threshold was chosen to keep, if it was chosen so.
    pub keep: Option<f64>,
    /// The names of the known classes; without them classes are numbers.
    pub classes: Vec<String>,
    /// The scores of the test images.
    pub tested: TestScores,
    /// The metrics, or why there are none.
    pub report: Result<Report, String>,
    /// The logits in two dimensions, if they are known.
    pub projection: Option<Projection>,
    /// What the model file or the checkpoint records.
    pub origin: Option<Provenance>,
    /// The agreement with the first subject.
    pub agreement: Option<Agreement>,
    /// The difference of its metrics from those of the first subject.
    pub difference: Option<Comparison>,
    /// How its images were degraded.
    pub degradation: Option<Degradation>,
    /// What is odd about its images, each in words without a full stop.
    pub remarks: Vec<String>,
}

/// Where a subject comes from.
#[derive(Debug, Clone, PartialEq)]
pub struct Provenance {
    /// The decision and the history.
    pub manifest: Manifest,
    /// SHA-256 of the model file, in hexadecimal.
    pub sha256: Option<String>,
    /// What ran the model.
    pub provider: Option<Provider>,
}

impl Provenance {
    /// Why the held-out scores may differ from those of new known images on this provider, if so.
    pub(super) fn doubt_of_held_out(&self) -> Option<&'static str> {
        match self.provider {
            Some(provider) => provider.doubt_of_held_out(&self.manifest),
            None => self.manifest.doubt_of_held_out(),
        }
    }
}

/// Logits in two dimensions: those of some images, evenly spaced in each set, and the anchors.
#[derive(Debug, Clone, PartialEq)]
pub struct Projection {
    pub(super) known: Vec<[f64; 2]>,
    pub(super) unknown: Vec<Vec<[f64; 2]>>,
    pub(super) anchors: Vec<[f64; 2]>,
    /// The share of variance that the two dimensions explain.
    pub(super) explained: f64,
    /// The number of images, drawn or not.
    pub(super) images: usize,
}

/// An encoded image for display.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thumbnail {
    pub(super) kind: &'static str,
    pub(super) bytes: Vec<u8>,
    pub(super) width: u32,
    pub(super) height: u32,
}

/// The log of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct RunLog {
    /// The name of the run.
    pub name: String,
    /// Its events.
    pub events: Vec<Event>,
    /// The number of unrecognised lines.
    pub others: usize,
}

impl RunLog {
    /// The first event, if the log has it.
    pub(super) fn started(&self) -> Option<&Started> {
        self.events.iter().find_map(|event| match event {
            Event::Start(started) => Some(started),
            _ => None,
        })
    }
}

/// Everything that a page shows.
#[derive(Debug, Clone)]
pub struct Page {
    pub(super) sections: Vec<Section>,
    pub(super) runs: Vec<RunLog>,
    /// The thumbnails of images, by name.
    thumbnails: HashMap<String, Thumbnail>,
}

/// A subject and what is derived from its scores.
#[derive(Debug, Clone)]
pub(super) struct Section {
    pub subject: Subject,
    /// The curves of the first [`SETS`] unknown sets; empty without metrics, or if the subject is not
    /// shown in detail.
    pub curves: Vec<Curves>,
    /// The ROC curve against all unknown images; empty without metrics, or if it is not compared with
    /// others.
    pub roc: Vec<[f64; 2]>,
    /// The misjudged images of each kind.
    pub mistakes: Vec<Mistakes>,
    /// For each set with such an image, the folder that is omitted from its image names.
    folders: HashMap<usize, String>,
}

/// The curves of an unknown set, in the order of [`Curve::ALL`].
#[derive(Debug, Clone)]
pub(super) struct Curves(pub Vec<(Curve, Vec<[f64; 2]>, Vec<Interval>)>);

/// A kind of wrong verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MistakeKind {
    UnknownAccepted,
    KnownRejected,
    KnownMisnamed,
}

/// The misjudged images of a kind.
#[derive(Debug, Clone)]
pub(super) struct Mistakes {
    pub kind: MistakeKind,
    /// The most confident mistakes, the most confident first.
    pub worst: Vec<Mistake>,
    /// The number of all.
    pub count: usize,
}

/// A misjudged image: its set, 0 for the known images, and its index there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mistake {
    pub set: usize,
    pub index: usize,
}

impl Subject {
    /// One score of an evaluation, with its report.
    ///
    /// # Panics
    /// If there is no such score.
    #[must_use]
    pub fn of_evaluation(name: &str, evaluation: &Evaluation, score: usize, report: &Result<Report>) -> Self {
        let tested = TestScores::of_evaluation(evaluation, score);
        let threshold = evaluation.threshold(score).map(f64::from);
        let report = report.as_ref().map_err(reason).cloned();
        Self::new(name, &evaluation.scores[score].to_string(), tested, threshold, report)
    }

    /// The scores of a file, with their report for these options, or the reason there is none.
    ///
    /// # Errors
    /// Those of [`Report::new`] except [`Error::Scores`].
    pub fn of_scores(name: &str, score: &str, tested: TestScores, options: &ReportOptions) -> Result<Self> {
        let report = match tested.report(options) {
            Err(Error::Scores(reason)) => Err(reason),
            report => Ok(report?),
        };
        Ok(Self::new(name, score, tested, options.threshold, report))
    }

    /// Scores of which nothing else is known.
    fn new(
        name: &str,
        score: &str,
        tested: TestScores,
        threshold: Option<f64>,
        report: Result<Report, String>,
    ) -> Self {
        Self {
            name: name.to_owned(),
            score: score.to_owned(),
            threshold,
            keep: None,
            classes: Vec::new(),
            tested,
            report,
            projection: None,
            origin: None,
            agreement: None,
            difference: None,
            degradation: None,
            remarks: Vec::new(),
        }
    }

    /// Notes on each result whose test images are not those of the first.
    pub fn compare_images(subjects: &mut [Self]) {
        let [first, others @ ..] = subjects else { return };
        for other in others {
            if !first.tested.has_images_of(&other.tested) {
                other
                    .remarks
                    .push(format!("the test images are not those of `{}`", on_one_line(&first.name)));
            }
        }
    }

    /// The verdict on a score.
    pub(super) fn rejects(&self, score: f64) -> bool {
        is_rejected(score, self.threshold)
    }

    /// What the export found on degraded images, if this is its score and its threshold.
    pub(super) fn robustness(&self) -> Option<&Robustness> {
        let Manifest { decision, history } = &self.origin.as_ref()?.manifest;
        let chosen = decision.threshold.as_ref().map(|threshold| f64::from(threshold.value));
        history.robustness.as_ref().filter(|_| chosen.is_some() && self.threshold == chosen)
    }

    /// [`Manifest::kept_at_least`] for its scores.
    pub(super) fn kept_at_least(&self, keep: f64) -> Option<f64> {
        let origin = self.origin.as_ref()?;
        origin.manifest.kept_at_least(keep, origin.doubt_of_held_out())
    }

    /// [`Manifest::promise`] for its scores.
    pub(super) fn promise(&self, keep: f64) -> Option<String> {
        let origin = self.origin.as_ref()?;
        origin.manifest.promise(keep, origin.doubt_of_held_out())
    }

    /// The name of a class.
    pub(super) fn class(&self, class: i64) -> String {
        let name = usize::try_from(class).ok().and_then(|class| self.classes.get(class));
        name.cloned().unwrap_or_else(|| class.to_string())
    }

    /// A set by its number, 0 for the known images.
    pub(super) fn set(&self, set: usize) -> &Scored {
        if set == 0 { &self.tested.known } else { &self.tested.unknown[set - 1] }
    }

    /// The most confident mistakes of each kind, at most `most` of each. Without a threshold these are the
    /// unknown images with the lowest scores, and the known ones with the highest.
    fn mistakes(&self, most: usize) -> Vec<Mistakes> {
        let TestScores { known, unknown } = &self.tested;
        let has_threshold = self.threshold.is_some();
        let is_wrong =
            |index: usize| known.predicted.get(index).is_some_and(|class| *class != known.truth[index]);
        let found = |kind: MistakeKind| {
            let sets: Vec<usize> =
                if kind == MistakeKind::UnknownAccepted { (1..=unknown.len()).collect() } else { vec![0] };
            let mut found: Vec<(f64, Mistake)> = Vec::new();
            for set in sets {
                for (index, &score) in self.set(set).scores.iter().enumerate() {
                    let is_meant = match kind {
                        MistakeKind::UnknownAccepted => !self.rejects(score),
                        MistakeKind::KnownRejected => self.rejects(score) || !has_threshold,
                        MistakeKind::KnownMisnamed => is_wrong(index) && !self.rejects(score),
                    };
                    if is_meant {
                        found.push((score, Mistake { set, index }));
                    }
                }
            }
            // The sort is stable: images with the same score keep the order of their sets.
            match kind {
                MistakeKind::KnownRejected => found.sort_by(|(a, _), (b, _)| by_score(b, a)),
                _ => found.sort_by(|(a, _), (b, _)| by_score(a, b)),
            }
            let count = found.len();
            Mistakes {
                kind,
                worst: found.into_iter().take(most).map(|(_, mistake)| mistake).collect(),
                count,
            }
        };
        [MistakeKind::UnknownAccepted, MistakeKind::KnownRejected, MistakeKind::KnownMisnamed]
            .map(found)
            .to_vec()
    }
}

impl Projection {
    /// The logits that an evaluation kept, in the plane of the known images and the anchors. `None` without
    /// logits.
    #[must_use]
    pub fn new(evaluation: &Evaluation, anchors: &Anchors) -> Option<Self> {
        let finite = |set: &ScoredSet| -> Array2<f64> {
            let is_finite = |row: &usize| set.logits.row(*row).iter().all(|value| value.is_finite());
            let rows: Vec<usize> = (0..set.logits.nrows()).filter(is_finite).collect();
            set.logits.select(Axis(0), &rows).mapv(f64::from)
        };
        let known = finite(&evaluation.known);
        let has_anchors = anchors.classes() <= MAX_ANCHORS && known.ncols() == anchors.classes();
        let anchors =
            if has_anchors { anchors.to_rows().mapv(f64::from) } else { Array2::zeros((0, known.ncols())) };
        if known.is_empty() {
            return None;
        }
        let all = concatenate(Axis(0), &[known.view(), anchors.view()]).ok()?;
        let plane = Plane::through(all.view())?;
        let is_same_width = |set: &&ScoredSet| set.logits.ncols() == known.ncols();
        let mut map = Self {
            known: plane.project(known.view()),
            unknown: evaluation
                .unknown
                .iter()
                .map(|set| {
                    Some(set)
                        .filter(is_same_width)
                        .map_or(Vec::new(), |set| plane.project(finite(set).view()))
                })
                .collect(),
            anchors: plane.project(anchors.view()),
            explained: plane.explained,
            images: evaluation.images(),
        };
        // An evaluation keeps no more; this bounds those made by others.
        map.known.truncate(MAX_POINTS);
        map.unknown.iter_mut().for_each(|set| set.truncate(MAX_POINTS));
        Some(map)
    }
}

impl Thumbnail {
    /// Encodes an image; small ones losslessly.
    #[must_use]
    pub fn new(image: &RgbImage) -> Self {
        use ::image::{ExtendedColorType, ImageEncoder, codecs};
        let (width, height) = image.dimensions();
        let mut bytes = Vec::new();
        let is_small = width.max(height) <= 40;
        let kind = if is_small { "png" } else { "jpeg" };
        let encoded = if is_small {
            codecs::png::PngEncoder::new(&mut bytes).write_image(
                image,
                width,
                height,
                ExtendedColorType::Rgb8,
            )
        } else {
            codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, 82).write_image(
                image,
                width,
                height,
                ExtendedColorType::Rgb8,
            )
        };
        encoded.expect("memory can be written");
        Self { kind, bytes, width, height }
    }
}

impl Page {
    /// Computes what is derived from the scores. With a bootstrap, curves have bands, as reports have
    /// intervals.
    #[must_use]
    pub fn new(subjects: Vec<Subject>, runs: Vec<RunLog>, bootstrap: Option<Bootstrap>) -> Self {
        let each = THUMBNAILS / 3 / subjects.len().clamp(1, DETAILED);
        // A single subject is not compared.
        let mut left_to_compare = if subjects.len() > 1 { SERIES } else { 0 };
        let sections = subjects.into_iter().enumerate().map(|(index, subject)| {
            let is_detailed = index < DETAILED;
            let (mut curves_of_sets, mut roc) = (Vec::new(), Vec::new());
            // If one set is faulty, the others are not plotted.
            if subject.report.is_ok() && is_detailed {
                curves_of_sets = curves(&subject, bootstrap).unwrap_or_default();
            }
            if subject.report.is_ok() && left_to_compare > 0 {
                roc = overall_roc(&subject).unwrap_or_default();
            }
            left_to_compare -= usize::from(!roc.is_empty());
            let mistakes = if is_detailed { subject.mistakes(each) } else { Vec::new() };
            Section::new(subject, curves_of_sets, roc, mistakes)
        });
        Self { sections: sections.collect(), runs, thumbnails: HashMap::new() }
    }

    /// The names of the images that the page would show, each once.
    #[must_use]
    pub fn wanted(&self) -> HashSet<&str> {
        let mistakes = self.sections.iter().flat_map(|section| {
            let all = section.mistakes.iter().flat_map(|mistakes| &mistakes.worst);
            all.filter_map(|mistake| section.image(*mistake))
        });
        mistakes.collect()
    }

    /// Adds the thumbnail of an image.
    pub fn add_thumbnail(&mut self, image: &str, thumbnail: Thumbnail) {
        self.thumbnails.insert(image.to_owned(), thumbnail);
    }

    pub(super) fn thumbnail(&self, image: &str) -> Option<&Thumbnail> {
        self.thumbnails.get(image)
    }
}

impl Section {
    fn new(subject: Subject, curves: Vec<Curves>, roc: Vec<[f64; 2]>, mistakes: Vec<Mistakes>) -> Self {
        let mut folders = HashMap::new();
        for mistake in mistakes.iter().flat_map(|mistakes| &mistakes.worst) {
            let folder = || common_folder(&subject.set(mistake.set).images).to_owned();
            folders.entry(mistake.set).or_insert_with(folder);
        }
        Self { subject, curves, roc, mistakes, folders }
    }

    /// The name of an image, safe to share: unchanged if it is below the current folder, else
    /// without the folder that it shares with the images of its set.
    pub fn shown_image(&self, mistake: Mistake) -> Option<&str> {
        let name = self.image(mistake)?;
        if !is_elsewhere(name) {
            return Some(name);
        }
        let folder = self.folders.get(&mistake.set).map_or("", String::as_str);
        match name.strip_prefix(folder) {
            Some(rest) if !folder.is_empty() && !rest.is_empty() => Some(rest),
            _ => Some(last_part(name)),
        }
    }

    /// The name of an image, if the set has names.
    pub fn image(&self, mistake: Mistake) -> Option<&str> {
        let names = &self.subject.set(mistake.set).images;
        names.get(mistake.index).map(String::as_str).filter(|name| !name.is_empty())
    }
}

/// Whether a path, of this or of another system, is absolute or leaves the current folder.
fn is_elsewhere(path: &str) -> bool {
    let has_root = path.starts_with(SEPARATORS) || path.starts_with("file:") || path.starts_with('~');
    let has_drive = path.get(1..).is_some_and(|rest| rest.starts_with(":/") || rest.starts_with(":\\"));
    has_root || has_drive || path.split(SEPARATORS).any(|part| part == "..")
}

/// The common folder of all paths from elsewhere, with a trailing separator. Empty if it is a root or there
/// is none.
fn common_folder(paths: &[String]) -> &str {
    let mut elsewhere = paths.iter().map(String::as_str).filter(|path| is_elsewhere(path));
    let folder = |path: &str| path.rfind(SEPARATORS).map_or(0, |end| end + 1);
    let Some(first) = elsewhere.next() else { return "" };
    let mut common = &first[..folder(first)];
    for path in elsewhere {
        if !path.starts_with(common) {
            let differs = common.bytes().zip(path.bytes()).position(|(a, b)| a != b);
            // A separator before the differing byte ends a character.
            let same = differs.unwrap_or(common.len().min(path.len()));
            let end = common.as_bytes()[..same].iter().rposition(|byte| b"/\\".contains(byte));
            common = &common[..end.map_or(0, |end| end + 1)];
        }
    }
    let has_name =
        common.split(SEPARATORS).any(|part| !matches!(part, "" | "." | ".." | "~") && !part.ends_with(':'));
    if has_name { common } else { "" }
}

/// The name of a file without its folders.
pub(super) fn last_part(path: &str) -> &str {
    last_parts(path, 1)
}

/// The end of a path: at most this many parts.
pub(super) fn last_parts(path: &str, parts: usize) -> &str {
    let mut starts = path.rmatch_indices(SEPARATORS).map(|(index, separator)| index + separator.len());
    let end = starts.nth(parts - 1).map_or(path, |start| &path[start..]);
    if end.is_empty() { path } else { end }
}

/// A value of a model's history, safe to share: paths from elsewhere, also in `NAME=PATH`, keep only their
/// last part.
pub(super) fn shareable(value: Value) -> Value {
    match value {
        Value::String(text) => {
            let path = text.split_once('=').map_or(&text[..], |(_, path)| path);
            let before = &text[..text.len() - path.len()];
            let path = if is_elsewhere(path) { last_part(path.trim_end_matches(SEPARATORS)) } else { path };
            format!("{before}{path}").into()
        }
        Value::Array(values) => values.into_iter().map(shareable).collect(),
        Value::Object(fields) => fields.into_iter().map(|(name, value)| (name, shareable(value))).collect(),
        other => other,
    }
}

/// The text of an error of the scores, without its prefix.
fn reason(error: &Error) -> String {
    match error {
        Error::Scores(reason) => reason.clone(),
        other => other.to_string(),
    }
}

/// The curves of the first [`SETS`] unknown sets, with bands if there is a bootstrap and few sets.
fn curves(subject: &Subject, bootstrap: Option<Bootstrap>) -> Result<Vec<Curves>> {
    let correct = subject.tested.correct();
    let known = RankedKnown::new(&subject.tested.known.scores, correct.as_deref())?;
    let shown = subject.tested.unknown.iter().take(SETS);
    let sets = shown.map(|set| Ranked::new(&set.scores)).collect::<Result<Vec<_>>>()?;
    let kinds: Vec<Curve> =
        Curve::ALL.into_iter().filter(|&curve| correct.is_some() || curve != Curve::Oscr).collect();
    let bootstrap = bootstrap.filter(|_| sets.len() <= BANDS);
    let mut bands =
        bootstrap.map_or_else(Vec::new, |bootstrap| bands(&kinds, &known, &sets, bootstrap)).into_iter();
    let curves = sets.iter().map(|set| {
        let mut bands = bands.next().unwrap_or_default().into_iter();
        let of = |&kind: &Curve| (kind, kind.points(&known, set), bands.next().unwrap_or_default());
        Curves(kinds.iter().map(of).collect())
    });
    Ok(curves.collect())
}

/// The ROC curve against all unknown images; empty without any.
fn overall_roc(subject: &Subject) -> Result<Vec<[f64; 2]>> {
    let TestScores { known, unknown } = &subject.tested;
    let all: Vec<f64> = unknown.iter().flat_map(|set| set.scores.iter().copied()).collect();
    if all.is_empty() {
        return Ok(Vec::new());
    }
    let known = RankedKnown::new(&known.scores, None)?;
    Ok(Curve::Roc.points(&known, &Ranked::new(&all)?))
}

/// The order of scores, the most likely known first. NaN, of either sign, is unknown, and last.
fn by_score(a: &f64, b: &f64) -> Ordering {
    a.is_nan().cmp(&b.is_nan()).then(a.total_cmp(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_shortened_to_at_most_this_many_parts() {
        for (path, one, two) in [
            ("dress/01.jpg", "01.jpg", "dress/01.jpg"),
            ("photos/dress/01.jpg", "01.jpg", "dress/01.jpg"),
            ("C:\\photos\\01.jpg", "01.jpg", "photos\\01.jpg"),
            ("01.jpg", "01.jpg", "01.jpg"),
            ("dress/", "dress/", "dress/"),
        ] {
            assert_eq!((last_part(path), last_parts(path, 2)), (one, two), "{path}");
        }
    }

    #[test]
    fn images_without_a_score_are_the_most_unknown() {
        let mut scores = [f64::INFINITY, -f64::NAN, 2.0, f64::NAN, -1.0];
        scores.sort_by(by_score);
        assert_eq!(scores[..3], [-1.0, 2.0, f64::INFINITY]);
    }

    #[test]
    fn results_on_other_images_are_remarked_on() {
        let subject = |images: &[&str], unknown: usize| {
            let known = Scored {
                images: images.iter().map(|&image| image.to_owned()).collect(),
                truth: vec![0; images.len()],
                scores: vec![0.0; images.len()],
                ..Scored::default()
            };
            let unknown =
                Scored { truth: vec![-1; unknown], scores: vec![1.0; unknown], ..Scored::default() };
            let tested = TestScores { known, unknown: vec![unknown] };
            Subject::of_scores("a", "score", tested, &ReportOptions::default()).unwrap()
        };
        let remarked = |others: Vec<Subject>| -> Vec<bool> {
            let mut subjects = [vec![subject(&["1.png", "2.png"], 3)], others].concat();
            Subject::compare_images(&mut subjects);
            assert!(subjects[0].remarks.is_empty());
            subjects[1..]
                .iter()
                .map(|other| other.remarks == ["the test images are not those of `a`"])
                .collect()
        };
        let (same, unnamed) = (subject(&["2.png", "1.png"], 3), subject(&["", ""], 3));
        assert_eq!(remarked(vec![same, unnamed]), [false; 2]);
        let others =
            [subject(&["1.png", "3.png"], 3), subject(&["1.png"], 3), subject(&["1.png", "2.png"], 4)];
        assert_eq!(remarked(others.to_vec()), [true; 3]);
    }

    #[test]
    fn only_drawn_curves_are_kept() {
        let set = |name: String, class: i64| Scored {
            name,
            truth: vec![class; 9],
            predicted: vec![0; 9],
            scores: (0..9).map(f64::from).collect(),
            ..Scored::default()
        };
        let subject = |sets: usize| {
            let unknown = (0..sets).map(|number| set(number.to_string(), -1)).collect();
            let known = set("known".to_owned(), 0);
            Subject::of_scores("a", "score", TestScores { known, unknown }, &ReportOptions::default())
                .unwrap()
        };
        let kept = |subjects: Vec<Subject>| -> Vec<[usize; 2]> {
            let of = |section: &Section| [section.curves.len(), usize::from(!section.roc.is_empty())];
            Page::new(subjects, Vec::new(), None).sections.iter().map(of).collect()
        };
        assert_eq!(kept(vec![subject(SERIES + 5)]), [[SETS, 0]]);
        let mut subjects = vec![subject(2); SERIES + DETAILED];
        subjects[0] = subject(0);
        let found = kept(subjects);
        assert_eq!(found[..2], [[0, 0], [2, 1]]);
        assert_eq!(found.iter().filter(|[curves, _]| *curves > 0).count(), DETAILED - 1);
        assert_eq!(found.iter().filter(|[_, roc]| *roc > 0).count(), SERIES);
    }

    #[test]
    fn image_names_reveal_no_local_folders() {
        let shown = |images: &[&str]| -> Vec<String> {
            let images: Vec<String> = images.iter().map(|&image| image.to_owned()).collect();
            let unknown = Scored {
                truth: vec![-1; images.len()],
                scores: vec![0.0; images.len()],
                images,
                ..Scored::default()
            };
            let known = Scored { truth: vec![0], scores: vec![1.0], ..Scored::default() };
            let tested = TestScores { known, unknown: vec![unknown] };
            let subject = Subject::of_scores("a", "score", tested, &ReportOptions::default());
            let page = Page::new(vec![subject.unwrap()], Vec::new(), None);
            let Mistakes { worst, .. } = &page.sections[0].mistakes[0];
            worst.iter().map(|&mistake| page.sections[0].shown_image(mistake).unwrap().to_owned()).collect()
        };
        for (images, expected) in [
            (
                &["data/ant/a.png", "b.png", "gaussian-noise#3"][..],
                &["data/ant/a.png", "b.png", "gaussian-noise#3"][..],
            ),
            (
                &["/home/bob/x/ant/a.png", "/home/bob/x/ant/b.png", "/home/bob/x/bee/a.png"],
                &["ant/a.png", "ant/b.png", "bee/a.png"],
            ),
            (
                &["/home/bob/x/ant/a.png", "other/b.png", "/home/bob/x/antler/é.png"],
                &["ant/a.png", "other/b.png", "antler/é.png"],
            ),
            (&["/home/bob/test.bin#7", "/home/bob/test.bin#17"], &["test.bin#7", "test.bin#17"]),
            (&["/home/bob/x.npz/images#0"], &["images#0"]),
            (&["../../bob/a/1.png", "../../bob/b/2.png"], &["a/1.png", "b/2.png"]),
            (&["../1.png", "../bob/2.png"], &["1.png", "2.png"]),
            (&["/home/bob/1.png", "/data/2.png"], &["1.png", "2.png"]),
            (&["/home/b\u{e9}/1.png", "/home/b\u{e8}/2.png"], &["b\u{e9}/1.png", "b\u{e8}/2.png"]),
            (&[r"C:\Users\bob\a\1.png", r"C:\Users\bob\b\2.png"], &[r"a\1.png", r"b\2.png"]),
            (&[r"C:\1.png", r"D:\x\2.png"], &["1.png", "2.png"]),
            (&["file:///home/bob/1.png"], &["1.png"]),
            (&["data/../../bob/1.png"], &["1.png"]),
        ] {
            assert_eq!(shown(images), expected);
        }
    }
}
