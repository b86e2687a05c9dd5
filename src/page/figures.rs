//! The figures of a page: from scores to plots with captions.

use maud::{Markup, html};

use super::{
    content::{BANDS, Curves, Projection, RunLog, SETS, Section, Subject},
    name::{MAX_NAME, elided, isolated, told_apart},
    plot::{Axis, INNER, Key, Mark, Plot, SERIES, Unit, coordinate},
    words::{counted, grouped, number, percent, quoted, set_rows, with_interval},
};
use crate::{
    data::RESERVED_NAMES,
    eval::Scored,
    metrics::{
        Interval, Metric,
        curve::{Curve, places},
    },
    run::Event,
};

/// The number of bars of a histogram.
const BARS: usize = 48;
/// The maximum number of histograms.
const HISTOGRAMS: usize = 12;
/// The maximum number of classes of a confusion matrix.
const CONFUSED: usize = 30;
/// The maximum number of unknown sets of a confusion matrix.
const CONFUSED_SETS: usize = 12;
/// The maximum number of classes whose anchors are named.
const NAMED_ANCHORS: usize = 30;
/// The maximum number of unknown sets on the logit map.
const MAPPED: usize = 4;
/// Lines of a run with at least this many points have no dots.
const DOTTED: usize = 30;
/// The smallest kept share that is shown.
const MIN_KEPT: f64 = 0.8;

/// A figure: a plot with its caption.
pub(super) struct Figure {
    /// A name for files and links: letters, digits and dashes.
    pub id: String,
    pub title: String,
    /// What it shows, with its most important number.
    pub caption: String,
    pub svg: Markup,
    /// Whether it keeps its width on a narrow screen.
    pub is_wide: bool,
}

impl Figure {
    fn new(id: String, title: &str, caption: String, plot: Plot) -> Self {
        let svg = plot.svg(&format!("{id}-title"), &format!("{title}. {caption}"));
        Self { id, title: title.to_owned(), caption, svg, is_wide: false }
    }
}

/// A class in a sentence.
pub(super) fn class_in_words(name: &str) -> String {
    let is_number = !name.is_empty() && name.bytes().all(|digit| digit.is_ascii_digit());
    if is_number { format!("class {name}") } else { quoted(name) }
}

/// A name in a legend.
fn short(name: &str, most: usize) -> String {
    isolated(&elided(name, most))
}

/// How the figures of a section are grouped.
pub(super) struct Group {
    pub id: String,
    pub title: &'static str,
    /// What is left out, and why.
    pub note: Option<String>,
    pub figures: Vec<Figure>,
}

/// All figures of a section; `number` is unique to it.
pub(super) fn of_section(section: &Section, number: usize) -> Vec<Group> {
    let group = |id: &str, title, (note, figures): (Option<String>, Vec<Figure>)| Group {
        id: format!("{id}-{number}"),
        title,
        note,
        figures,
    };
    let subject = &section.subject;
    vec![
        group("scores", "Scores and threshold", scores(subject, number)),
        group("curves", "Curves over all thresholds", curves(section, number)),
        group("confusion", "Verdicts by class", confusion(subject, number)),
        group("logits", "Logits", logits(subject, number)),
    ]
}

/// The axis of scores, from their 0.1 % to their 99.9 % quantile.
fn score_axis(subject: &Subject) -> Axis {
    let mut finite: Vec<f64> = subject
        .tested
        .sets()
        .flat_map(|set| set.scores.iter().copied())
        .filter(|score| score.is_finite())
        .collect();
    finite.sort_unstable_by(f64::total_cmp);
    let at = |share: f64| finite.get(((finite.len().max(1) - 1) as f64 * share).round() as usize).copied();
    let threshold = subject.threshold.filter(|threshold| threshold.is_finite());
    Axis::around(
        "score; larger = more likely unknown",
        at(0.001).into_iter().chain(at(0.999)).chain(threshold),
    )
}

fn threshold_rule(subject: &Subject) -> Option<Mark> {
    let x = subject.threshold.filter(|threshold| threshold.is_finite())?;
    Some(Mark::Rule { x, label: format!("threshold {}", number(x)) })
}

/// The shares of scores in bars of equal width. The outermost bars hold what lies beyond; NaN counts as
/// beyond the right one.
fn bars(set: &Scored, axis: &Axis) -> Vec<[f64; 2]> {
    let mut counts = [0_usize; BARS];
    for &score in &set.scores {
        let place = axis.place(score);
        let place = if place.is_nan() { BARS - 1 } else { (place * BARS as f64) as usize };
        counts[place.min(BARS - 1)] += 1;
    }
    let width = (axis.to - axis.from) / BARS as f64;
    let all = set.scores.len().max(1) as f64;
    counts
        .into_iter()
        .enumerate()
        .map(|(index, count)| [axis.from + index as f64 * width, count as f64 / all])
        .collect()
}

/// Histograms, and what each threshold would do.
fn scores(subject: &Subject, section: usize) -> (Option<String>, Vec<Figure>) {
    let mut notes = vec!["The outermost bars include all scores beyond them.".to_owned()];
    let sets = subject.tested.unknown.len();
    let mut figures = histograms(subject, section);
    figures.push(accepted_by_threshold(subject, section));
    match promises(subject, section) {
        Ok(figure) => figures.push(figure),
        Err(reason) => notes.push(reason.to_owned()),
    }
    if sets > HISTOGRAMS {
        notes.push(format!("Histograms are of the first {HISTOGRAMS} of {sets} unknown sets."));
    }
    if sets > SETS {
        notes.push(format!("Thresholds are shown for the first {SETS} unknown sets."));
    }
    (Some(notes.join(" ")), figures)
}

fn histograms(subject: &Subject, section: usize) -> Vec<Figure> {
    let x = score_axis(subject);
    let known = bars(&subject.tested.known, &x);
    let highest = |bars: &[[f64; 2]]| bars.iter().fold(0.0, |most: f64, bar| most.max(bar[1]));
    let rows = set_rows(subject);
    let of_set = |index: usize, set: Option<&Scored>| {
        let unknown = set.map(|set| bars(set, &x));
        let top = highest(&known).max(unknown.as_deref().map_or(0.0, highest)).max(1e-3) * 1.08;
        let y = Axis { to: top, ..Axis::share("share of images (%)") };
        let mut marks = vec![Mark::Bars { heights: known.clone(), end: x.to, series: 0 }];
        let mut legend = vec![(Key::Bars(0), counted(subject.tested.known.scores.len(), "known image"))];
        if let (Some(set), Some(heights)) = (set, unknown) {
            marks.push(Mark::Bars { heights, end: x.to, series: 1 });
            legend.push((
                Key::Bars(1),
                format!("{} of {}", counted(set.scores.len(), "image"), short(&set.name, 24)),
            ));
        }
        marks.extend(threshold_rule(subject));
        let kept = subject.report.as_ref().ok().and_then(|report| report.known_kept);
        let caught = rows.get(index).and_then(|row| row.unknown_caught);
        let auroc = rows.get(index).map(|row| row.metrics.auroc);
        let caption = match (set, kept, caught, auroc) {
            (Some(set), Some(kept), Some(caught), _) => format!(
                "The threshold keeps {} of the known images and catches {} of {}.",
                percent(kept),
                percent(caught),
                quoted(&set.name)
            ),
            (Some(set), None, _, Some(auroc)) => format!(
                "An image of {} has a higher score than a known image in {} of all pairs.",
                quoted(&set.name),
                percent(auroc)
            ),
            (None, Some(kept), ..) => format!("The threshold keeps {} of the known images.", percent(kept)),
            _ => "The scores of the images.".to_owned(),
        };
        let title =
            set.map_or("Known images".to_owned(), |set| format!("Known images and {}", quoted(&set.name)));
        let plot = Plot { x: x.clone(), y, height: 190.0, marks, legend };
        Figure::new(format!("scores-{section}-{}", index + 1), &title, caption, plot)
    };
    let sets = &subject.tested.unknown;
    if sets.is_empty() {
        return vec![of_set(0, None)];
    }
    sets.iter().take(HISTOGRAMS).enumerate().map(|(index, set)| of_set(index, Some(set))).collect()
}

fn curves(section: &Section, number: usize) -> (Option<String>, Vec<Figure>) {
    let subject = &section.subject;
    let rows = set_rows(subject);
    if section.curves.is_empty() {
        let reason = match &subject.report {
            Err(reason) => format!("There are no curves: {reason}."),
            Ok(_) => "There are no curves without unknown images.".to_owned(),
        };
        return (Some(reason), Vec::new());
    }
    let mut notes = Vec::new();
    if subject.tested.unknown.len() > SETS {
        notes.push(format!("The first {SETS} of {} unknown sets.", subject.tested.unknown.len()));
    }
    let names = told_apart(
        rows.iter().take(SETS).map(|row| row.name.as_str()),
        if section.curves.len() > BANDS { 12 } else { 22 },
    );
    let has_bands =
        section.curves.iter().any(|Curves(curves)| curves.iter().any(|(.., band)| !band.is_empty()));
    if section.curves.len() > BANDS {
        notes.push("Bands are omitted because they would overlap; the table has the intervals.".to_owned());
    }
    let kinds: Vec<Curve> = section.curves[0].0.iter().map(|(kind, ..)| *kind).collect();
    if !kinds.contains(&Curve::Oscr) {
        notes.push("OSCR is omitted: it needs a prediction for every known image.".to_owned());
    }
    let figures = kinds.iter().enumerate().map(|(index, &kind)| {
        let CurveLabels { id, title, x, y, area } = labels(kind);
        let mut marks = Vec::new();
        if kind == Curve::Roc {
            marks.push(Mark::Guide { from: [0.0, 0.0], to: [1.0, 1.0] });
        }
        // As in the histograms, series 0 is that of the known images.
        let shown = || (1..).zip(section.curves.iter().take(SETS).map(|Curves(curves)| &curves[index]));
        for (series, (.., band)) in shown().filter(|(_, (.., band))| !band.is_empty()) {
            let ends = places().zip(band).map(|(x, interval)| (x, interval.low, interval.high)).collect();
            marks.push(Mark::Band { ends, series });
        }
        let mut legend = Vec::new();
        let mut values = Vec::new();
        for (series, (_, points, _)) in shown() {
            marks.push(Mark::Line { points: points.clone(), series });
            let (Some(row), Some(name)) = (rows.get(series - 1), names.get(series - 1)) else { continue };
            let interval = row.intervals.and_then(|intervals| intervals.metrics.get(area));
            let area = row.metrics.get(area).unwrap_or_default();
            let value = with_interval(area, interval);
            // With many sets, names are short to fit in two columns; the table has the intervals.
            let text = if section.curves.len() > BANDS {
                format!("{name} {}", percent(area))
            } else {
                format!("{name} {value}")
            };
            legend.push((Key::Line(series), text));
            values.push(format!("{} for {}", percent(area), quoted(&row.name)));
        }
        let more = values.len().saturating_sub(4);
        values.truncate(4);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let caption = format!("The area under the curve ({}) is {}{more}.", area.title(), values.join(", "));
        let plot = Plot { x: Axis::share(x), y: Axis::share(y), height: 250.0, marks, legend };
        Figure::new(format!("{id}-{number}"), title, caption, plot)
    });
    let figures = figures.collect();
    if has_bands {
        notes.push("The bands are pointwise 95 % bootstrap intervals.".to_owned());
    }
    ((!notes.is_empty()).then(|| notes.join(" ")), figures)
}

/// The name of a curve, its axes and the area under it.
struct CurveLabels {
    id: &'static str,
    title: &'static str,
    x: &'static str,
    y: &'static str,
    /// The area under the curve.
    area: Metric,
}

fn labels(kind: Curve) -> CurveLabels {
    match kind {
        Curve::Roc => CurveLabels {
            id: "roc",
            title: "ROC",
            x: "known images flagged (%)",
            y: "unknown images caught (%)",
            area: Metric::Auroc,
        },
        Curve::PrecisionOfUnknown => CurveLabels {
            id: "precision-unknown",
            title: "Precision and recall of “unknown”",
            x: "unknown images caught (%)",
            y: "unknown among the flagged images (%)",
            area: Metric::AuprOut,
        },
        Curve::PrecisionOfKnown => CurveLabels {
            id: "precision-known",
            title: "Precision and recall of “known”",
            x: "known images kept (%)",
            y: "known among the accepted images (%)",
            area: Metric::AuprIn,
        },
        Curve::Oscr => CurveLabels {
            id: "oscr",
            title: "OSCR",
            x: "unknown images accepted (%)",
            y: "known images accepted and correct (%)",
            area: Metric::Oscr,
        },
    }
}

/// The scores in ascending order without NaN, which no threshold keeps, and the number of all images, at least one.
fn in_order(set: &Scored) -> (Vec<f64>, f64) {
    let mut scores: Vec<f64> = set.scores.iter().copied().filter(|score| !score.is_nan()).collect();
    scores.sort_unstable_by(f64::total_cmp);
    (scores, set.scores.len().max(1) as f64)
}

/// The share of images at or below each score, as a step function.
fn accepted(set: &Scored, axis: &Axis) -> Vec<[f64; 2]> {
    let (scores, all) = in_order(set);
    let mut points = Vec::new();
    let mut below = scores.partition_point(|&score| score < axis.from);
    points.push([axis.from, below as f64 / all]);
    for part in scores[below..].chunk_by(|a, b| a == b).take_while(|part| part[0] <= axis.to) {
        points.push([part[0], below as f64 / all]);
        below += part.len();
        points.push([part[0], below as f64 / all]);
    }
    points.push([axis.to, below as f64 / all]);
    points
}

fn accepted_by_threshold(subject: &Subject, section: usize) -> Figure {
    let x = Axis { label: "threshold on the score".to_owned(), ..score_axis(subject) };
    let mut marks: Vec<Mark> = Vec::new();
    let mut legend = Vec::new();
    let sets = subject.tested.unknown.iter().take(SETS).map(|set| set.name.as_str());
    let names = told_apart(sets, if subject.tested.unknown.len() > BANDS { 18 } else { 30 });
    let names = std::iter::once("known images".to_owned()).chain(names);
    for (series, (set, name)) in subject.tested.sets().zip(names).enumerate() {
        marks.push(Mark::Line { points: accepted(set, &x), series });
        legend.push((Key::Line(series), name));
    }
    marks.extend(threshold_rule(subject));
    let caption = match (subject.threshold, kept(subject)) {
        (Some(threshold), Some((kept, interval))) => {
            format!(
                "The threshold {} keeps {} of the known images.",
                number(threshold),
                with_interval(kept, interval)
            )
        }
        (None, _) => "No threshold is set; the curves show what each would accept.".to_owned(),
        _ => "What each threshold would keep and accept.".to_owned(),
    };
    let plot = Plot { x, y: Axis::share("images accepted (%)"), height: 190.0, marks, legend };
    Figure::new(format!("accepted-{section}"), "Images accepted by each threshold", caption, plot)
}

/// The share of the known images that the threshold keeps, and its interval.
fn kept(subject: &Subject) -> Option<(f64, Option<Interval>)> {
    let report = subject.report.as_ref().ok()?;
    Some((report.known_kept?, report.intervals.and_then(|intervals| intervals.known_kept)))
}

/// The shares that thresholds should keep, against the shares that they keep.
fn promises(subject: &Subject, section: usize) -> Result<Figure, &'static str> {
    if subject.is_chosen_from_test() {
        return Err("Thresholds are chosen from the test images: there are no others to check them on.");
    }
    let chosen_from = subject.chosen().filter(|threshold| !threshold.held_out_scores.is_empty());
    let (Some(chosen_from), Some(_)) = (chosen_from, subject.threshold) else {
        return Err(
            "The scores of held-out images, from which thresholds are chosen, are not known for this score: \
                    promised and measured shares cannot be compared.",
        );
    };
    let held_out = &chosen_from.held_out_scores;
    let (scores, all) = in_order(&subject.tested.known);
    let measured =
        |threshold: f32| scores.partition_point(|&score| score <= f64::from(threshold)) as f64 / all;
    let points: Vec<[f64; 2]> = held_out
        .iter()
        .enumerate()
        .map(|(index, &threshold)| [(index + 1) as f64 / (held_out.len() + 1) as f64, measured(threshold)])
        .filter(|[promised, _]| *promised >= MIN_KEPT)
        .collect();
    let chosen = subject.keep.zip(kept(subject));
    let drawn = chosen.filter(|(keep, _)| *keep >= MIN_KEPT);
    let drawn = drawn.and_then(|(keep, (kept, interval))| Some((keep, kept, interval?)));
    let lowest = drawn.map_or(MIN_KEPT, |(.., interval)| interval.low.min(MIN_KEPT));
    let lowest = points.iter().fold(lowest, |least, point| least.min(point[1]));
    let from = (lowest * 10.0).floor() / 10.0;
    let mut marks =
        vec![Mark::Guide { from: [MIN_KEPT, MIN_KEPT], to: [1.0, 1.0] }, Mark::Line { points, series: 0 }];
    marks.extend(drawn.map(|(x, y, Interval { low, high })| Mark::Whisker { x, low, y, high }));
    let data = isolated(&elided(&chosen_from.data, 2 * MAX_NAME));
    let caption = match chosen {
        Some((keep, (kept, interval))) => format!(
            "The threshold was chosen from {data} to keep {} and keeps {}{}.",
            percent(keep),
            with_interval(kept, interval),
            if drawn.is_none() && keep < MIN_KEPT { ", which is outside the plot" } else { "" },
        ),
        None => format!("What thresholds chosen from {data} would keep. The one in use was not chosen so."),
    };
    let legend = vec![(Key::Line(0), "share of the test images that is kept".to_owned())];
    let plot = Plot {
        x: Axis { from: MIN_KEPT, ..Axis::share("share of new known images to keep (%)") },
        y: Axis { from, ..Axis::share("share kept of the known test images (%)") },
        height: 190.0,
        marks,
        legend,
    };
    Ok(Figure::new(format!("promises-{section}"), "Target and measured", caption, plot))
}

/// A row of the confusion matrix: its name, whether its images are known, and the number of images by column.
struct ConfusionRow {
    name: String,
    is_known: bool,
    counts: Vec<usize>,
}

fn confusion(subject: &Subject, section: usize) -> (Option<String>, Vec<Figure>) {
    if subject.tested.known.scores.is_empty() {
        return (Some("There are no known images, so there is no confusion matrix.".to_owned()), vec![]);
    }
    if !subject.tested.is_judged() {
        let which = if subject.tested.known.predicted.is_empty() { "The" } else { "Some" };
        let note = format!("{which} known images have no prediction, so there is no confusion matrix.");
        return (Some(note), vec![]);
    }
    // How often each class is mistaken for another, or another for it.
    let mut mistaken: std::collections::BTreeMap<i64, usize> = std::collections::BTreeMap::new();
    let known = &subject.tested.known;
    for ((&truth, &class), &score) in known.truth.iter().zip(&known.predicted).zip(&known.scores) {
        let is_mistaken = usize::from(truth != class && !subject.rejects(score));
        *mistaken.entry(truth).or_default() += is_mistaken;
        *mistaken.entry(class).or_default() += is_mistaken;
    }
    for class in subject.tested.unknown.iter().flat_map(|set| &set.predicted) {
        mistaken.entry(*class).or_default();
    }
    let all = mistaken.len();
    let mut classes: Vec<(i64, usize)> = mistaken.into_iter().collect();
    classes.sort_by_key(|&(class, count)| (std::cmp::Reverse(count), class));
    classes.truncate(CONFUSED);
    classes.sort_unstable();
    let classes: Vec<i64> = classes.into_iter().map(|(class, _)| class).collect();
    let has_others = all > classes.len();
    let mut columns: Vec<String> = classes.iter().map(|&class| subject.class(class)).collect();
    if has_others {
        columns.push(counted(all - classes.len(), "other"));
    }
    let unknown_column = subject.threshold.map(|_| columns.len());
    columns.extend(unknown_column.map(|_| "“unknown”".to_owned()));
    let others = classes.len();
    let count = |images: &mut dyn Iterator<Item = (i64, f64)>| {
        let mut counts = vec![0; columns.len()];
        for (class, score) in images {
            let column = match unknown_column {
                Some(column) if subject.rejects(score) => column,
                _ => classes.binary_search(&class).unwrap_or(others),
            };
            counts[column] += 1;
        }
        counts
    };
    let mut rows: Vec<ConfusionRow> = Vec::new();
    for &class in &classes {
        let indices = (0..known.scores.len()).filter(|&index| known.truth[index] == class);
        let counts = count(&mut indices.map(|index| (known.predicted[index], known.scores[index])));
        rows.push(ConfusionRow { name: subject.class(class), is_known: true, counts });
    }
    for set in subject
        .tested
        .unknown
        .iter()
        .take(CONFUSED_SETS)
        .filter(|set| set.predicted.len() == set.scores.len())
    {
        let counts = count(&mut set.predicted.iter().copied().zip(set.scores.iter().copied()));
        rows.push(ConfusionRow { name: set.name.clone(), is_known: false, counts });
    }
    let mut caption =
        "The share of each row in per cent that gets each verdict; borders mark the right verdicts."
            .to_owned();
    let worst = rows
        .iter()
        .enumerate()
        .filter(|(_, row)| row.is_known)
        .flat_map(|(index, row)| {
            let all: usize = row.counts.iter().sum();
            let other = (0..classes.len()).filter(move |&column| column != index);
            other.map(move |column| (row.counts[column] as f64 / all.max(1) as f64, index, column))
        })
        .filter(|(share, ..)| *share > 0.0)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    if let Some((share, row, column)) = worst {
        caption += &format!(
            " The most common confusion: {} of {} is called {}.",
            percent(share),
            class_in_words(&rows[row].name),
            class_in_words(&columns[column])
        );
    }
    let sets = subject.tested.unknown.len();
    let notes = [
        has_others.then(|| format!("The {CONFUSED} most confused of {all} classes.")),
        (sets > CONFUSED_SETS).then(|| format!("The first {CONFUSED_SETS} of {sets} unknown sets.")),
    ];
    let notes: Vec<String> = notes.into_iter().flatten().collect();
    let note = (!notes.is_empty()).then(|| notes.join(" "));
    let id = format!("confusion-matrix-{section}");
    let title = "Confusion matrix";
    let svg = matrix(&id, &format!("{title}. {caption}"), &rows, &columns, unknown_column);
    (note, vec![Figure { id, title: title.to_owned(), caption, svg, is_wide: true }])
}

fn matrix(
    id: &str,
    description: &str,
    rows: &[ConfusionRow],
    columns: &[String],
    unknown_column: Option<usize>,
) -> Markup {
    const NAMES: f64 = 128.0;
    const HEADS: f64 = 96.0;
    let side = if columns.len() > 16 { 24.0 } else { 36.0 };
    let height = if columns.len() > 16 { 20.0 } else { 26.0 };
    let known = rows.iter().filter(|row| row.is_known).count();
    // A gap sets the unknown sets and the verdict apart.
    let x =
        |column: usize| NAMES + side * column as f64 + if Some(column) == unknown_column { 8.0 } else { 0.0 };
    let y = |row: usize| HEADS + height * row as f64 + if row >= known { 8.0 } else { 0.0 };
    let (width, bottom) = (x(columns.len() - 1) + side + 44.0, y(rows.len() - 1) + height + 4.0);
    let text_class = if columns.len() > 16 { "small" } else { "cell-text" };
    let heads = told_apart(columns.iter().map(String::as_str), 13);
    let names = told_apart(rows.iter().map(|row| row.name.as_str()), 15);
    html! {
        svg xmlns="http://www.w3.org/2000/svg" viewBox={ "0 0 " (coordinate(width)) " " (coordinate(bottom)) }
            role="img" class=[(columns.len() > 16).then_some("many")] aria-labelledby={ (id) "-title" } {
            title id={ (id) "-title" } { (description) }
            text.axis x="4" y=(coordinate(HEADS - 8.0)) { "row: truth, column: verdict" }
            @for (column, head) in heads.iter().enumerate() {
                @let at = format!("translate({} {}) rotate(-50)", coordinate(x(column) + side / 2.0 + 3.0), coordinate(HEADS - 7.0));
                text class=(text_class) transform=(at) { (head) }
            }
            @for (index, (row, name)) in rows.iter().zip(&names).enumerate() {
                @let all = row.counts.iter().sum::<usize>();
                text class=(text_class) x=(coordinate(NAMES - 6.0)) y=(coordinate(y(index) + height / 2.0 + 4.0))
                    text-anchor="end" { (name) }
                @for (column, &count) in row.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
                    @let share = count as f64 / all as f64;
                    @let is_right = if row.is_known { index == column } else { Some(column) == unknown_column };
                    rect class={ (if Some(column) == unknown_column { "cell-unknown" } else { "cell" }) (if is_right { " right" } else { "" }) }
                        x=(coordinate(x(column) + 1.0)) y=(coordinate(y(index) + 1.0))
                        width=(coordinate(side - 2.0)) height=(coordinate(height - 2.0))
                        fill-opacity=(format!("{:.2}", 0.06 + 0.94 * share)) {
                        title { (isolated(&elided(&row.name, 40))) " as " (isolated(&elided(&columns[column], 40))) ": " (count) " of " (all) }
                    }
                    text class={ (text_class) (number_classes(share, Some(column) == unknown_column)) } text-anchor="middle"
                        x=(coordinate(x(column) + side / 2.0)) y=(coordinate(y(index) + height / 2.0 + 4.0)) {
                        @if share < 0.01 { "<1" } @else { (format!("{:.0}", 100.0 * share)) }
                    }
                }
            }
        }
    }
}

/// The CSS classes of the number in a cell with this share: black or white, whichever contrasts more, which is
/// by at least 4.5 to 1.
fn number_classes(share: f64, is_unknown: bool) -> &'static str {
    let [turned, turned_in_dark] = if is_unknown { [0.98, 0.58] } else { [0.94, 0.6] };
    match share {
        _ if share >= turned => " on-cell turned",
        _ if share >= turned_in_dark => " on-cell turned-in-dark",
        _ => " on-cell",
    }
}

fn logits(subject: &Subject, section: usize) -> (Option<String>, Vec<Figure>) {
    let Some(projection) = &subject.projection else {
        return (None, Vec::new());
    };
    let Projection { known, unknown, anchors, explained, images } = projection;
    let sets = &unknown[..unknown.len().min(MAPPED)];
    let drawn = known.len() + sets.iter().map(Vec::len).sum::<usize>();
    let all = || known.iter().chain(sets.iter().flatten());
    // A few distant points would collapse all others to a dot.
    let axis = |label: &str, coordinate: usize| {
        let mut values: Vec<f64> = all().map(|point| point[coordinate]).collect();
        values.sort_unstable_by(f64::total_cmp);
        let at =
            |share: f64| values.get(((values.len().max(1) - 1) as f64 * share).round() as usize).copied();
        let ends = at(0.002).into_iter().chain(at(0.998));
        Axis::around(label, ends.chain(anchors.iter().map(|point| point[coordinate])))
    };
    let (mut x, mut y) =
        (axis("first principal component of the logits", 0), axis("second principal component", 1));
    // Both axes have the same scale.
    let height = 330.0;
    let per_unit = ((x.to - x.from) / INNER).max((y.to - y.from) / height);
    for (axis, pixels) in [(&mut x, INNER), (&mut y, height)] {
        let (middle, half) = ((axis.from + axis.to) / 2.0, per_unit * pixels / 2.0);
        (axis.from, axis.to) = (middle - half, middle + half);
    }
    let within = |points: &[[f64; 2]]| -> Vec<[f64; 2]> {
        let is_within =
            |point: &&[f64; 2]| (x.from..=x.to).contains(&point[0]) && (y.from..=y.to).contains(&point[1]);
        points.iter().filter(is_within).copied().collect()
    };
    let mut marks = vec![Mark::Dots { points: within(known), series: 0 }];
    let mut legend = vec![(Key::Dots(0), "known images".to_owned())];
    let mut shown = within(known).len();
    for (series, (points, set)) in sets.iter().zip(&subject.tested.unknown).enumerate() {
        shown += within(points).len();
        marks.push(Mark::Dots { points: within(points), series: series + 1 });
        legend.push((Key::Dots(series + 1), short(&set.name, 30)));
    }
    for (class, &at) in anchors.iter().enumerate().take(NAMED_ANCHORS) {
        marks.push(Mark::Label { at, text: subject.class(class as i64) });
    }
    let mut caption = format!(
        "The plot shows {} of {}{}. The plane explains {} of the variance of the known images{}.",
        grouped(shown),
        counted(*images, "image"),
        if drawn < *images { ", evenly spaced in each set" } else { "" },
        percent(*explained),
        if anchors.is_empty() { "" } else { " and the anchors. The class names mark the anchors" }
    );
    if shown < drawn {
        let out = drawn - shown;
        let verb = if out == 1 { "lies" } else { "lie" };
        caption += &format!(" {} {verb} outside the plot.", counted(out, "image"));
    }
    if unknown.len() > MAPPED {
        caption += &format!(" The first {MAPPED} of {} unknown sets are drawn.", unknown.len());
    }
    if anchors.len() > NAMED_ANCHORS {
        caption += &format!(" The first {NAMED_ANCHORS} of {} anchors are named.", anchors.len());
    }
    let plot = Plot { x, y, height, marks, legend };
    (None, vec![Figure::new(format!("logits-map-{section}"), "Logits in two dimensions", caption, plot)])
}

/// The ROC curves of several subjects against all unknown images.
pub(super) fn comparison(sections: &[Section]) -> Option<Figure> {
    let shown: Vec<&Section> = sections.iter().filter(|section| !section.roc.is_empty()).collect();
    if shown.len() < 2 {
        return None;
    }
    let auroc = |section: &Section| {
        let rows = &section.subject.report.as_ref().ok()?.rows;
        rows.last().map(|row| row.metrics.auroc)
    };
    let mut marks = vec![Mark::Guide { from: [0.0, 0.0], to: [1.0, 1.0] }];
    let mut legend = Vec::new();
    let titles: Vec<String> = shown.iter().map(|section| title(&section.subject)).collect();
    let names = told_apart(titles.iter().map(String::as_str), if shown.len() > 4 { 14 } else { 32 });
    for (series, (section, name)) in shown.iter().zip(names).enumerate() {
        marks.push(Mark::Line { points: section.roc.clone(), series });
        legend.push((Key::Line(series), format!("{name}  {}", percent(auroc(section).unwrap_or(0.0)))));
    }
    // Also of those that are not drawn; the first of several equal ones.
    let all: Vec<(f64, &Subject)> =
        sections.iter().filter_map(|section| Some((auroc(section)?, &section.subject))).collect();
    let best = all.iter().rev().max_by(|a, b| a.0.total_cmp(&b.0));
    let mut caption = best.map_or_else(String::new, |(auroc, subject)| {
        format!(
            "The highest AUROC against all unknown images is {}, of {}.",
            percent(*auroc),
            quoted(&title(subject))
        )
    });
    if shown.len() < all.len() {
        caption += &format!(" The first {} of {} results are drawn.", shown.len(), all.len());
    }
    let plot = Plot {
        x: Axis::share("known images flagged (%)"),
        y: Axis::share("unknown images caught (%)"),
        height: 250.0,
        marks,
        legend,
    };
    Some(Figure::new("roc-comparison".to_owned(), "ROC against all unknown images", caption, plot))
}

/// The name of a subject with its score.
pub(super) fn title(subject: &Subject) -> String {
    if subject.score.is_empty() {
        subject.name.clone()
    } else {
        format!("{}, {}", subject.name, subject.score)
    }
}

/// The curves of a run.
pub(super) fn of_run(run: &RunLog, number: usize) -> Vec<Figure> {
    let curves = RunCurves::of(run);
    let figures = [curves.losses(), curves.metrics(), curves.rates(), curves.speeds()];
    let of_plot = |RunPlot { id, title, caption, plot }: RunPlot| {
        Figure::new(format!("{id}-run-{number}"), title, caption, plot)
    };
    figures.into_iter().flatten().map(of_plot).collect()
}

type Points = Vec<[f64; 2]>;

/// The figures of a run over its epochs.
#[derive(Default)]
struct RunCurves {
    loss: Points,
    held_out: Points,
    accuracy: Points,
    /// The AUROC and its rejection score, in words.
    score: String,
    /// The AUROC of each unknown set.
    sets: Vec<(String, Points)>,
    rate: Points,
    speed: Points,
    /// The epoch of the best weights, and its loss on held-out images.
    best: Option<(usize, Option<f64>)>,
}

struct RunPlot {
    id: &'static str,
    title: &'static str,
    caption: String,
    plot: Plot,
}

impl RunCurves {
    fn of(run: &RunLog) -> Self {
        let started = run.started();
        let planned = started.map(|started| started.steps);
        let seen = run.events.iter().filter_map(|event| match event {
            Event::Step { step, .. } => Some(*step),
            _ => None,
        });
        // Steps as fractions of an epoch; a log without its first event counts those it has.
        let steps = planned.or_else(|| seen.max()).unwrap_or(1).max(1) as f64;
        let score = started.and_then(|started| started.score);
        let score = score.map_or("AUROC".to_owned(), |score| format!("AUROC ({score})"));
        let mut curves = Self { score, ..Self::default() };
        for event in &run.events {
            match event {
                Event::Step { epoch, step, loss, learning_rate, images_per_second } => {
                    let at = epoch.saturating_sub(1) as f64 + *step as f64 / steps;
                    curves.loss.push([at, *loss]);
                    curves.rate.push([at, *learning_rate]);
                    curves.speed.push([at, *images_per_second]);
                }
                Event::Epoch { epoch, held_out_loss, best, report, .. } => {
                    let at = *epoch as f64;
                    curves.held_out.extend(held_out_loss.map(|loss| [at, loss]));
                    curves.accuracy.extend(report.accuracy.map(|accuracy| [at, accuracy]));
                    for row in report.rows.iter().filter(|row| !RESERVED_NAMES.contains(&row.name.as_str())) {
                        let point = [at, row.metrics.auroc];
                        match curves.sets.iter_mut().find(|(name, _)| *name == row.name) {
                            Some((_, points)) => points.push(point),
                            None => curves.sets.push((row.name.clone(), vec![point])),
                        }
                    }
                    if *best {
                        curves.best = Some((*epoch, *held_out_loss));
                    }
                }
                _ => {}
            }
        }
        curves
    }

    /// A plot over the epochs.
    fn plot(&self, y: Axis, marks: Vec<Mark>, legend: Vec<(Key, String)>) -> Plot {
        let ends = self.loss.iter().chain(&self.held_out).chain(&self.accuracy).map(|point| point[0]);
        let to = ends.fold(1.0, |most: f64, at| if at.is_finite() { most.max(at) } else { most });
        let x = Axis { label: "epoch".to_owned(), from: 0.0, to, unit: Unit::Number };
        Plot { x, y, height: 200.0, marks, legend }
    }

    fn losses(&self) -> Option<RunPlot> {
        let Self { loss, held_out, .. } = self;
        if loss.is_empty() && held_out.is_empty() {
            return None;
        }
        let mut marks = line(loss, 0);
        let mut legend = vec![(Key::Line(0), "training, moving average".to_owned())];
        if !held_out.is_empty() {
            marks.extend(line(held_out, 1));
            legend.push((Key::Line(1), "held-out images".to_owned()));
        }
        let mut caption = Vec::new();
        caption.extend(last(loss).map(|loss| format!("The loss ends at {}.", number(loss))));
        if let Some((epoch, Some(loss))) = self.best {
            marks.push(Mark::Rule { x: epoch as f64, label: "best".to_owned() });
            let loss = number(loss);
            caption.push(format!(
                "The best weights are those after epoch {epoch}, with {loss} on held-out images."
            ));
        }
        let y = from_0("loss", loss.iter().chain(held_out));
        let plot = self.plot(y, marks, legend);
        Some(RunPlot { id: "loss", title: "Loss", caption: caption.join(" "), plot })
    }

    fn metrics(&self) -> Option<RunPlot> {
        let Self { accuracy, sets, .. } = self;
        if accuracy.is_empty() && sets.is_empty() {
            return None;
        }
        let mut marks = Vec::new();
        let mut legend = Vec::new();
        // The accuracy is a series, too.
        let drawn = &sets[..sets.len().min(SERIES - 1)];
        let names =
            told_apart(drawn.iter().map(|(name, _)| name.as_str()), if sets.len() > 3 { 14 } else { 28 });
        let of_sets = names.into_iter().zip(drawn.iter().map(|(_, points)| points));
        let all = std::iter::once(("accuracy".to_owned(), accuracy)).chain(of_sets);
        for (series, (name, points)) in all.enumerate() {
            marks.extend(line(points, series));
            let value = last(points).map_or_else(String::new, |value| format!("  {}", percent(value)));
            legend.push((Key::Line(series), format!("{name}{value}")));
        }
        let all = accuracy.iter().chain(drawn.iter().flat_map(|(_, points)| points));
        let lowest = all.fold(1.0, |least: f64, point| least.min(point[1]));
        let y = Axis {
            from: ((lowest * 10.0 - 0.5).floor() / 10.0).max(0.0),
            ..Axis::share("accuracy and AUROC in tests (%)")
        };
        let mut caption = last(accuracy).map_or_else(String::new, |accuracy| {
            format!("The last epoch classifies {} of the known test images correctly. ", percent(accuracy))
        });
        if !drawn.is_empty() {
            caption += &format!("For unknown sets, the {} is drawn.", self.score);
        }
        if drawn.len() < sets.len() {
            caption += &format!(" The first {} of {} sets are drawn.", drawn.len(), sets.len());
        }
        let plot = self.plot(y, marks, legend);
        Some(RunPlot { id: "metrics", title: "Metrics", caption, plot })
    }

    fn rates(&self) -> Option<RunPlot> {
        last(&self.rate)?;
        let highest = self.rate.iter().fold(0.0, |most: f64, point| most.max(point[1]));
        let caption = format!("The highest learning rate in the log is {}.", number(highest));
        let plot = self.plot(from_0("learning rate", self.rate.iter()), line(&self.rate, 0), Vec::new());
        Some(RunPlot { id: "rate", title: "Learning rate", caption, plot })
    }

    fn speeds(&self) -> Option<RunPlot> {
        let caption = format!("{} images per second at the end.", number(last(&self.speed)?.round()));
        let plot =
            self.plot(from_0("images per second", self.speed.iter()), line(&self.speed, 0), Vec::new());
        Some(RunPlot { id: "speed", title: "Speed of training", caption, plot })
    }
}

/// The last height of a line.
fn last(points: &[[f64; 2]]) -> Option<f64> {
    points.last().map(|point| point[1])
}

/// An axis of heights, starting at 0 if none is negative.
fn from_0<'a>(label: &str, points: impl Iterator<Item = &'a [f64; 2]>) -> Axis {
    let values: Vec<f64> = points.map(|point| point[1]).collect();
    let axis = Axis::around(label, values.iter().copied());
    if values.iter().any(|&value| value < 0.0) { axis } else { Axis { from: 0.0, ..axis } }
}

/// A line, with dots if it has few points: a single one would be invisible.
fn line(points: &[[f64; 2]], series: usize) -> Vec<Mark> {
    let mut marks = vec![Mark::Line { points: points.to_vec(), series }];
    if points.len() < DOTTED {
        marks.push(Mark::Dots { points: points.to_vec(), series });
    }
    marks
}
