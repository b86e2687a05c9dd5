//! The page: one HTML file without scripts, with inline images and styles.
//!
//! `maud` renders it: templates are checked at compile time, and everything that is inserted is escaped.

use std::{fs, path::Path};

use base64::{Engine, engine::general_purpose::STANDARD};
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::{
    content::{
        DETAILED, Mistake, MistakeKind, Mistakes, Page, RunLog, Section, Subject, THUMBNAIL, Thumbnail,
        last_parts, shareable,
    },
    figures::{self, Figure, Group},
    name::{MAX_IN_FULL, MAX_NAME, elided, name, visible},
    plot,
    words::{counted, grouped, number, percent, with_interval},
};
use crate::{
    data::MEAN,
    error::{Error, Result},
    eval::{ClassCounts, Scored, balanced_accuracy, weakest},
    files::atomic,
    method::RejectionScore,
    metrics::{Interval, Metric},
    model::Training,
    report::{Change, Report, Row},
    run::Event,
};

/// The maximum number of rows of the table of classes.
const CLASSES: usize = 100;
/// The maximum number of rows of a table of metrics.
const ROWS: usize = 200;

/// A plot as a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlotFile {
    /// A name without an extension, of letters, digits and dashes.
    pub name: String,
    /// The plot as SVG, in light colours on white.
    pub svg: String,
}

impl Page {
    /// The page as HTML. The same input gives the same bytes.
    #[must_use]
    pub fn html(&self) -> String {
        let title = match (&self.sections[..], &self.runs[..]) {
            ([one], _) => format!("Open-set report: {}", elided(&one.subject.name, MAX_NAME)),
            ([], [run]) => format!("Training run: {}", elided(&run.name, MAX_NAME)),
            ([], _) => "Training runs".to_owned(),
            (several, _) => format!("Open-set report: {}", counted(several.len(), "result")),
        };
        let style = format!("{}{}", plot::page_style(), include_str!("page.css"));
        html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="generator" content={ "toolkit " (env!("CARGO_PKG_VERSION")) };
                    title { (title) }
                    style { (PreEscaped(style)) }
                }
                body {
                    main {
                        header {
                            h1 { (title) }
                            (self.summary())
                        }
                        @for (number, section) in self.sections.iter().enumerate() {
                            (self.section(section, number + 1))
                        }
                        @for (number, run) in self.runs.iter().enumerate() { (run_section(run, number + 1)) }
                    }
                    footer { p {
                        "Made by toolkit " (env!("CARGO_PKG_VERSION")) ". All numbers are measured on the images counted here"
                        @if self.sections.iter().any(|section| section.subject.has_intervals()) { "; intervals are 95 %" } "."
                    } }
                }
            }
        }
        .into_string()
    }

    /// All plots of the page as files.
    #[must_use]
    pub fn plots(&self) -> Vec<PlotFile> {
        let of_sections = self.sections.iter().take(DETAILED).enumerate().flat_map(|(number, section)| {
            figures::of_section(section, number + 1).into_iter().flat_map(|group| group.figures)
        });
        let of_runs = self.runs.iter().enumerate().flat_map(|(number, run)| figures::of_run(run, number + 1));
        figures::comparison(&self.sections)
            .into_iter()
            .chain(of_sections)
            .chain(of_runs)
            .map(|Figure { id, svg, .. }| PlotFile { name: id, svg: plot::standalone(svg) })
            .collect()
    }

    /// Writes the page to a file.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, path: &Path) -> Result<()> {
        atomic::write(path, self.html().as_bytes())
    }

    /// Writes each plot as SVG and PNG to a folder, which is created. Returns the number of plots.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write_plots(&self, folder: &Path) -> Result<usize> {
        fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        let plots = self.plots();
        for plot in &plots {
            atomic::write(&folder.join(format!("{}.svg", plot.name)), plot.svg.as_bytes())?;
            atomic::write(&folder.join(format!("{}.png", plot.name)), &plot.png())?;
        }
        Ok(plots.len())
    }

    /// The first part: the verdict and, with several results, their comparison.
    fn summary(&self) -> Markup {
        let sections = &self.sections;
        html! {
            @if let [section] = &sections[..] {
                p.verdict { (sentence(&section.subject.verdict())) }
                (cautions(section.subject.cautions()))
            }
            @if sections.len() > 1 {
                @let of_each: Vec<Vec<String>> = sections.iter().map(|section| section.subject.cautions()).collect();
                @let is_of_all = |caution: &String| of_each.iter().all(|of_one| of_one.contains(caution));
                (cautions(of_each[0].iter().filter(|caution| is_of_all(caution)).cloned().collect()))
                ul.verdicts {
                    @for (number, (section, of_one)) in sections.iter().zip(&of_each).enumerate() {
                        li {
                            @let title = figures::title(&section.subject);
                            @if number < DETAILED {
                                a href={ "#result-" (number + 1) } { (name(&title)) }
                            } @else {
                                (name(&title))
                            }
                            ": " (sentence(&section.subject.verdict()))
                            (cautions(of_one.iter().filter(|caution| !is_of_all(caution)).cloned().collect()))
                        }
                    }
                }
                @if sections.len() > DETAILED {
                    p.note { "The first " (DETAILED) " of " (sections.len()) " results are described in detail." }
                }
                (comparison_table(sections))
                @if let Some(figure) = figures::comparison(sections) { div.figures { (figure_element(&figure)) } }
            }
        }
    }

    fn section(&self, section: &Section, number: usize) -> Markup {
        if number > DETAILED {
            return html! {};
        }
        let subject = &section.subject;
        let is_one_of_several = self.sections.len() > 1;
        html! {
            section id={ "result-" (number) } {
                @if is_one_of_several {
                    h2.result id={ "name-" (number) } { (name(&figures::title(subject))) }
                    p.verdict { (sentence(&subject.verdict())) }
                } @else {
                    h2.unseen id={ "name-" (number) } { "The result" }
                }
                (metrics_table(subject, number))
                @for group in figures::of_section(section, number) { (group_element(&group)) }
                (class_table(subject, number))
                (self.contact_sheet(section, number))
                (about(subject, number))
            }
        }
    }

    /// The most confident mistakes or, without a threshold, the most extreme scores.
    fn contact_sheet(&self, section: &Section, number: usize) -> Markup {
        let subject = &section.subject;
        let has_threshold = subject.threshold.is_some();
        let shown = || section.mistakes.iter().flat_map(|mistakes| mistakes.worst.iter().copied());
        let with_image = shown()
            .any(|mistake| section.image(mistake).is_some_and(|image| self.thumbnail(image).is_some()));
        let with_name = shown().any(|mistake| section.shown_image(mistake).is_some());
        html! {
            h3 id={ "mistakes-" (number) } {
                @if has_threshold { "The most confident mistakes" } @else { "The most extreme scores" }
            }
            @if shown().next().is_none() { p { "There are none." } }
            @else if !with_image {
                p.note { "The images are not available here, only their " @if with_name { "names and " } "scores." }
            }
            @for Mistakes { kind, worst, count } in section.mistakes.iter().filter(|mistakes| mistakes.count > 0) {
                h4 {
                    @match (kind, has_threshold) {
                        (MistakeKind::UnknownAccepted, true) => "Accepted unknown images, lowest scores first",
                        (MistakeKind::UnknownAccepted, false) => "Unknown images with the lowest scores",
                        (MistakeKind::KnownRejected, true) => "Rejected known images, highest scores first",
                        (MistakeKind::KnownRejected, false) => "Known images with the highest scores",
                        (MistakeKind::KnownMisnamed, true) => "Accepted known images with a wrong class, lowest scores first",
                        (MistakeKind::KnownMisnamed, false) => "Known images with a wrong class, lowest scores first",
                    }
                    " (" @if worst.len() < *count { (worst.len()) " of " } (grouped(*count)) ")"
                }
                ul.sheet { @for mistake in worst { (self.card(section, *kind, *mistake, with_image)) } }
            }
        }
    }

    fn card(&self, section: &Section, kind: MistakeKind, mistake: Mistake, with_image: bool) -> Markup {
        let subject = &section.subject;
        let set = subject.set(mistake.set);
        let image = section.image(mistake);
        let numbered = format!("image {}", mistake.index + 1);
        let label = section.shown_image(mistake).unwrap_or(&numbered);
        let truth = set.truth.get(mistake.index).map(|&class| subject.class(class));
        let called = set.predicted.get(mistake.index).map(|&class| subject.class(class));
        html! {
            li {
                @match image.and_then(|image| self.thumbnail(image)) {
                    Some(thumbnail) => (thumbnail_element(thumbnail)),
                    None if with_image => span.placeholder { "cannot be shown" },
                    None => {},
                }
                p {
                    @match (&truth, mistake.set) {
                        (Some(truth), 0) => (name(&elided(truth, 24))),
                        (None, 0) => "known",
                        _ => (name(&elided(&set.name, 24))),
                    }
                    @if kind == MistakeKind::KnownRejected && subject.threshold.is_some() {
                        " called " strong { "unknown" }
                        @if let Some(called) = called.filter(|called| Some(called) != truth.as_ref()) {
                            ", nearest " (name(&elided(&called, 24)))
                        }
                    } @else if let Some(called) = called {
                        " called " strong { (name(&elided(&called, 24))) }
                    }
                }
                p.score { "score " (number(set.scores[mistake.index])) }
                p.file title=(elided(label, MAX_IN_FULL)) { bdi { (elided(last_parts(label, 2), 28)) } }
            }
        }
    }
}

/// A sentence whose numbers stay on one line with their unit and their interval.
fn sentence(text: &str) -> Markup {
    let text = text.replace(" %", "\u{a0}%");
    html! {
        @for (index, word) in text.split(' ').enumerate() {
            @if index > 0 { " " }
            @if word.starts_with('(') && word.contains('–') { span.whole { (word) } } @else { (word) }
        }
    }
}

/// An image, which the text below it describes.
fn thumbnail_element(thumbnail: &Thumbnail) -> Markup {
    let Thumbnail { kind, bytes, width, height } = thumbnail;
    // Small images are enlarged by an integer factor.
    let scale = (THUMBNAIL as u32 / width.max(height)).max(1);
    html! {
        img src={ "data:image/" (kind) ";base64," (STANDARD.encode(bytes)) } width=(width * scale) height=(height * scale)
            class=[(scale > 1).then_some("pixels")] alt="";
    }
}

fn figure_element(figure: &Figure) -> Markup {
    html! {
        figure id=(figure.id) class=[figure.is_wide.then_some("wide")] {
            figcaption { strong { (figure.title) } " " (sentence(&figure.caption)) }
            div.plot tabindex=[figure.is_wide.then_some("0")] role=[figure.is_wide.then_some("region")]
                aria-labelledby=[figure.is_wide.then(|| format!("{}-title", figure.id))] { (figure.svg) }
        }
    }
}

fn group_element(group: &Group) -> Markup {
    if group.note.is_none() && group.figures.is_empty() {
        return html! {};
    }
    html! {
        h3 id=(group.id) { (group.title) }
        @if let Some(note) = &group.note { p.note { (note) } }
        @if !group.figures.is_empty() {
            div.figures { @for figure in &group.figures { (figure_element(figure)) } }
        }
    }
}

fn cautions(cautions: Vec<String>) -> Markup {
    html! {
        @if !cautions.is_empty() {
            div.cautions role="note" {
                p { strong { "Caution" } }
                ul { @for caution in cautions { li { (sentence(&caution)) } } }
            }
        }
    }
}

/// A cell: a share in per cent with its interval.
fn cell(share: Option<f64>, interval: Option<Interval>) -> Markup {
    html! {
        td {
            @match share {
                None => "–",
                Some(share) => {
                    (format!("{:.2}", 100.0 * share))
                    @if let Some(Interval { low, high }) = interval {
                        " " span.interval { (format!("{:.1}–{:.1}", 100.0 * low, 100.0 * high)) }
                    }
                }
            }
        }
    }
}

/// A cell of a difference in percentage points.
fn change(change: Option<Change>) -> Markup {
    html! {
        td {
            @match change {
                None => "–",
                Some(change) => {
                    (change.points())
                    " " span.interval { (change.ends()) }
                }
            }
        }
    }
}

fn known_line(report: &Report) -> String {
    let intervals = report.intervals;
    let mut line = counted(report.known, "known image");
    if let Some(accuracy) = report.accuracy {
        line += &format!(", accuracy {}", with_interval(accuracy, intervals.and_then(|of| of.accuracy)));
    }
    if let Some(kept) = report.known_kept {
        line += &format!(
            ", kept by the threshold {}",
            with_interval(kept, intervals.and_then(|of| of.known_kept))
        );
    }
    line + "."
}

/// The balanced accuracy, and the class with the lowest accuracy.
fn classes_line(subject: &Subject) -> Option<String> {
    let classes = subject.tested.by_class(subject.threshold);
    let balanced = balanced_accuracy(classes.values()).filter(|_| subject.tested.is_judged())?;
    let (class, lowest, images) = weakest(classes.iter().map(|(&class, of)| (class, of)))?;
    if lowest == balanced {
        return Some(format!("Balanced accuracy {}, the same for each class.", percent(balanced)));
    }
    let interval = subject.has_intervals().then(|| Interval::of_share(lowest, images as f64));
    let class = figures::class_in_words(&subject.class(class));
    Some(format!(
        "Balanced accuracy {}, lowest for {class}: {}.",
        percent(balanced),
        with_interval(lowest, interval)
    ))
}

fn metrics_table(subject: &Subject, number: usize) -> Markup {
    let Ok(report) = &subject.report else { return html! {} };
    let has_threshold = report.known_kept.is_some();
    // Groups and rows of all sets follow the sets.
    let sets = subject.tested.unknown.len().min(report.rows.len());
    let (of_sets, others) = report.rows.split_at(sets);
    html! {
        h3 id={ "metrics-" (number) } { "Metrics" }
        p { (sentence(&known_line(report))) }
        @if let Some(line) = classes_line(subject) { p { (sentence(&line)) } }
        @if !report.rows.is_empty() {
            div.scroll tabindex="0" role="region" aria-labelledby={ "name-" (number) " metrics-" (number) } {
                table {
                    caption { span { "In per cent" @if report.intervals.is_some() { ", with 95 % intervals" } "." } }
                    thead { tr {
                        th scope="col" { "unknown set" }
                        th scope="col" { "images" }
                        @for metric in Metric::ALL { th scope="col" { (metric.title()) } }
                        @if has_threshold { th scope="col" { "caught" } }
                    } }
                    tbody {
                        @for row in of_sets.iter().take(ROWS).chain(others) { (metrics_row(row, has_threshold)) }
                    }
                }
            }
            @if sets > ROWS { p.note { "The first " (ROWS) " of " (sets) " unknown sets." } }
            p.note {
                @for metric in Metric::ALL { (metric.title()) ": " (note(metric)) ". " }
                @if has_threshold { "Caught: share of unknown images that the threshold catches. " }
                @if sets > 1 { "The row mean has the means over the unknown sets, the row all treats them as one set." }
            }
        }
    }
}

fn metrics_row(row: &Row, has_threshold: bool) -> Markup {
    html! {
        tr {
            th scope="row" { (name(&row.name)) }
            td { (grouped(row.unknown)) }
            @for metric in Metric::ALL {
                (cell(row.metrics.get(metric), row.intervals.and_then(|intervals| intervals.metrics.get(metric))))
            }
            @if has_threshold { (cell(row.unknown_caught, row.intervals.and_then(|intervals| intervals.unknown_caught))) }
        }
    }
}

/// The row that stands for all unknown images: the mean of several sets, or the only set.
fn overall<T>(rows: &[T], name: impl Fn(&T) -> &str) -> Option<&T> {
    rows.iter().find(|row| name(row) == MEAN).or(rows.first())
}

/// What a metric measures, and a note if smaller is better.
fn note(metric: Metric) -> String {
    let smaller = if metric.is_smaller_better() { "; smaller is better" } else { "" };
    format!("{}{smaller}", metric.description())
}

fn comparison_table(sections: &[Section]) -> Markup {
    let has_agreement = sections.iter().any(|section| section.subject.agreement.is_some());
    let has_intervals = sections.iter().any(|section| section.subject.has_intervals());
    html! {
        h2 { "Comparison" }
        div.scroll tabindex="0" role="region" aria-label="comparison" {
            table {
                caption { span {
                    "Shares in per cent, differences in percentage points" @if has_intervals { ", with 95 % intervals" }
                    ". Metrics of several unknown sets are their mean."
                } }
                thead { tr {
                    th scope="col" { "result" }
                    th scope="col" { "accuracy" }
                    th scope="col" { "kept" }
                    th scope="col" { "caught" }
                    @for metric in Metric::ALL { th scope="col" title=(note(metric)) { (metric.title()) } }
                    @if has_agreement {
                        th scope="col" title="images given another class than by the first" { "other classes" }
                        th scope="col" title="images given another verdict than by the first" { "other verdicts" }
                        th scope="col" title="the largest difference of a score from the first; relative for scores above 1" { "difference" }
                    }
                } }
                tbody {
                    @for Section { subject, .. } in sections {
                        tr {
                            th scope="row" { (name(&figures::title(subject))) }
                            @if let Ok(report) = &subject.report {
                                @let row = overall(&report.rows, |row| &row.name);
                                @let intervals = row.and_then(|row| row.intervals);
                                (cell(report.accuracy, report.intervals.and_then(|of| of.accuracy)))
                                (cell(report.known_kept, report.intervals.and_then(|of| of.known_kept)))
                                (cell(row.and_then(|row| row.unknown_caught), intervals.and_then(|of| of.unknown_caught)))
                                @for metric in Metric::ALL {
                                    (cell(row.and_then(|row| row.metrics.get(metric)), intervals.and_then(|of| of.metrics.get(metric))))
                                }
                            } @else {
                                @for _ in 0..Metric::ALL.len() + 3 { td { "–" } }
                            }
                            @if has_agreement {
                                @match &subject.agreement {
                                    Some(agreement) => {
                                        td { (agreement.label_flips) }
                                        td { (agreement.unknown_flips) }
                                        td { (format!("{:.1e}", agreement.greatest_score_difference)) }
                                    }
                                    None => { td { "–" } td { "–" } td { "–" } }
                                }
                            }
                        }
                        @if let Some(difference) = &subject.difference {
                            @let row = overall(&difference.rows, |row| &row.name);
                            tr {
                                th scope="row" { "difference from the first" }
                                (change(difference.accuracy))
                                (change(difference.known_kept))
                                (change(row.and_then(|row| row.unknown_caught)))
                                @for metric in Metric::ALL { (change(row.and_then(|row| row.metrics.get(metric)))) }
                                @if has_agreement { td { "–" } td { "–" } td { "–" } }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn class_table(subject: &Subject, number: usize) -> Markup {
    let classes = subject.tested.by_class(subject.threshold);
    let is_judged = subject.tested.is_judged();
    let has_threshold = subject.threshold.is_some();
    let has_accepted = has_threshold && subject.tested.unknown.iter().any(|set| !set.predicted.is_empty());
    let mut rows: Vec<_> = classes.into_iter().collect();
    let all = rows.len();
    let share = |count: usize, of: usize| count as f64 / of.max(1) as f64;
    if all > CLASSES {
        // If not all are shown, the weakest come first.
        rows.sort_by(|(_, a), (_, b)| {
            let quality = |of: &ClassCounts| {
                // Nothing is known of a class without images.
                if of.images == 0 {
                    return f64::INFINITY;
                }
                if is_judged { share(of.kept_and_correct, of.images) } else { share(of.kept, of.images) }
            };
            quality(a).total_cmp(&quality(b))
        });
        rows.truncate(CLASSES);
    }
    let has_intervals = subject.has_intervals();
    let cell = |count: usize, of: usize| match of {
        0 => cell(None, None),
        _ => cell(Some(share(count, of)), has_intervals.then(|| Interval::wilson(count, of))),
    };
    html! {
        h3 id={ "classes-" (number) } { "By class" }
        @if all > CLASSES { p.note { "The " (CLASSES) " weakest of " (all) " classes." } }
        div.scroll tabindex="0" role="region" aria-labelledby={ "name-" (number) " classes-" (number) } {
            table.compact {
                caption { span { "Known test images of each class, in per cent" @if has_accepted { "; and the number of unknown images that are accepted as this class" } "." } }
                thead { tr {
                    th scope="col" { "class" }
                    th scope="col" { "images" }
                    @if is_judged { th scope="col" { "accuracy" } }
                    @if has_threshold { th scope="col" { "kept" } }
                    @if is_judged && has_threshold { th scope="col" { "kept and correct" } }
                    @if has_accepted { th scope="col" { "unknown accepted" } }
                } }
                tbody {
                    @for (class, of) in &rows {
                        tr {
                            th scope="row" { (name(&subject.class(*class))) }
                            td { (grouped(of.images)) }
                            @if is_judged { (cell(of.correct, of.images)) }
                            @if has_threshold { (cell(of.kept, of.images)) }
                            @if is_judged && has_threshold { (cell(of.kept_and_correct, of.images)) }
                            @if has_accepted { td { (grouped(of.unknown_accepted)) } }
                        }
                    }
                }
            }
        }
        (set_table(subject, number))
    }
}

/// For each unknown set, the classes predicted for its accepted images.
fn set_table(subject: &Subject, number: usize) -> Markup {
    let judged = || subject.tested.unknown.iter().filter(|set| set.predicted.len() == set.scores.len());
    let (rows, all): (Vec<_>, usize) = (judged().take(ROWS).collect(), judged().count());
    let has_threshold = subject.threshold.is_some();
    let taken_for = |set: &Scored| {
        let mut counts: std::collections::BTreeMap<i64, usize> = std::collections::BTreeMap::new();
        for (&class, &score) in set.predicted.iter().zip(&set.scores) {
            if !subject.rejects(score) {
                *counts.entry(class).or_default() += 1;
            }
        }
        let mut counts: Vec<_> = counts.into_iter().collect();
        counts.sort_by_key(|&(class, count)| (std::cmp::Reverse(count), class));
        counts
    };
    html! {
        @if !rows.is_empty() {
            h3 id={ "sets-" (number) } { "By unknown set" }
            @if all > ROWS { p.note { "The first " (ROWS) " of " (all) " sets." } }
            div.scroll tabindex="0" role="region" aria-labelledby={ "name-" (number) " sets-" (number) } {
                table.compact {
                    caption { span { "The classes of the " @if has_threshold { "accepted " } "images of each set." } }
                    thead { tr {
                        th scope="col" { "unknown set" }
                        th scope="col" { "images" }
                        @if has_threshold { th scope="col" { "accepted" } }
                        th.text scope="col" { "most frequent classes" }
                    } }
                    tbody { @for set in rows {
                        @let counts = taken_for(set);
                        @let accepted = counts.iter().map(|(_, count)| count).sum::<usize>();
                        tr {
                            th scope="row" { (name(&set.name)) }
                            td { (grouped(set.scores.len())) }
                            @if has_threshold { td { (grouped(accepted)) } }
                            td.text {
                                @for (index, (class, count)) in counts.iter().take(3).enumerate() {
                                    @if index > 0 { ", " }
                                    (name(&elided(&subject.class(*class), 24))) " (" (grouped(*count)) ")"
                                }
                            }
                        }
                    } }
                }
            }
        }
    }
}

/// The decision and the history.
fn about(subject: &Subject, number_of_section: usize) -> Markup {
    let manifest = subject.origin.as_ref().map(|origin| &origin.manifest);
    let row = |head: &str, text: Markup| html! { dt { (head) } dd { (text) } };
    let text = |value: &dyn std::fmt::Display| html! { (visible(&value.to_string())) };
    html! {
        h3 id={ "decision-" (number_of_section) } { "The decision" }
        dl {
            @if let Some(manifest) = manifest {
                @let decision = &manifest.decision;
                @let (height, width) = (decision.input.height, decision.input.width);
                (row("classes", html! {
                    (grouped(decision.classes.len())) ": "
                    @for (index, class) in decision.classes.iter().take(CLASSES).enumerate() {
                        @if index > 0 { ", " }
                        (name(class))
                    }
                    @if decision.classes.len() > CLASSES { ", and " (grouped(decision.classes.len() - CLASSES)) " more" }
                }))
                (row("input", html! { "RGB, " (height) " × " (width) " pixels" }))
                (row("resizing", html! { (decision.input.resizing()) "; antialiased, identical to Pillow 13"
                    @if decision.resizes { "; the graph resizes images of any size itself" }
                }))
                (row("normalisation", html! {
                    "minus " (format!("{:?}", decision.input.mean)) ", divided by " (format!("{:?}", decision.input.std)) ", of values in 0 to 1"
                }))
            }
            (row("score", html! {
                (name(&subject.score))
                @if let Ok(score) = subject.score.parse::<RejectionScore>() { ": " (score.formula()) }
                "; larger means more likely unknown"
            }))
            (row("threshold", html! {
                @match subject.threshold {
                    Some(threshold) => {
                        (number(threshold)) "; an image is unknown if its score is above it, or is not a number"
                        @if let Some(chosen) = subject.chosen().filter(|chosen| f64::from(chosen.value) != threshold) {
                            "; the model file has " (number(chosen.value.into()))
                        }
                    }
                    None => "none is known for this score",
                }
            }))
            @if let Some(keep) = subject.keep {
                (row("keep", html! {
                    "the threshold was chosen to keep "
                    @match subject.promise(keep) {
                        Some(promise) => (elided(&promise, MAX_IN_FULL)),
                        None => (percent(keep)),
                    }
                }))
            }
            @if let Some(choice) = manifest.and_then(|manifest| manifest.history.choice.as_ref()) {
                (row("choice of the score", text(choice)))
            }
            @if let Some(robustness) = subject.robustness() {
                (row("degraded images", text(robustness)))
            }
        }
        @if let Some(origin) = &subject.origin {
            @let history = &origin.manifest.history;
            h3 id={ "history-" (number_of_section) } { "The model" }
            dl {
                (row("name", name(&subject.name)))
                @if let Some(sha256) = &origin.sha256 { (row("SHA-256", html! { code { (sha256) } })) }
                @if let Some(provider) = origin.provider { (row("run by", name(&provider.to_string()))) }
                (row("format", html! { (origin.manifest.decision.format_version) }))
                @if let Some(producer) = &history.producer { (row("written by", name(producer))) }
                @if let Some(again) = &history.recalibration { (row("recalibrated by", name(&again.producer))) }
                @if let Some(runtime) = &history.checked_with { (row("checked with", name(runtime))) }
                @if let Some(architecture) = &history.architecture { (row("network", text(architecture))) }
                @if let Some(precision) = &history.precision { (row("precision", text(precision))) }
                @if history.averages_views == Some(true) { (row("views", text(&"each image and its mirror image"))) }
                @if let Some(loss) = &history.loss { (row("loss", text(loss))) }
                @if let Some(anchors) = &history.anchors {
                    (row("anchors", html! { @match anchors { crate::method::AnchorKind::Fixed => "fixed", crate::method::AnchorKind::ClassMeans => "class means" } }))
                }
                @if let Some(imported) = &history.imported { (row("imported from", name(shareable(imported.as_str().into()).as_str().unwrap_or_default()))) }
                @if let Some(training) = history.training.as_ref().and_then(shareable_training) {
                    @for (head, line) in ["trained on", "recipe"].into_iter().zip(training.parts()) {
                        (row(head, html! { bdi { (elided(&line, 4000)) } }))
                    }
                }
                @for (field, value) in &history.other {
                    dt { (name(field)) } dd { bdi { (elided(&shareable(value.clone()).to_string(), 400)) } }
                }
            }
        }
    }
}

/// The record of a training without the folders of its machine, which files of older versions contain.
fn shareable_training(training: &Training) -> Option<Training> {
    let record = serde_json::to_value(training).ok()?;
    serde_json::from_value(shareable(record)).ok()
}

fn run_section(run: &RunLog, number: usize) -> Markup {
    let figures = figures::of_run(run, number);
    let epochs = run.events.iter().filter(|event| matches!(event, Event::Epoch { .. })).count();
    let planned = run.started().map(|started| started.epochs);
    let is_finished = run.events.iter().any(|event| matches!(event, Event::Finished { .. }));
    html! {
        section id={ "run-" (number) } {
            h2 { "Training of " (name(&run.name)) }
            p {
                @if run.events.is_empty() { "There is no log of the training." } @else {
                    @if is_finished { "Finished" } @else { "Not finished" }
                    @if let Some(planned) = planned { ": " (epochs) " of " (counted(planned, "epoch")) " tested." }
                    @else { ": " (counted(epochs, "epoch")) " tested." }
                }
                @if run.others > 0 { " " (counted(run.others, "line")) " of the log cannot be read." }
            }
            @if !figures.is_empty() { div.figures { @for figure in &figures { (figure_element(figure)) } } }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, collections::BTreeSet};

    use html5ever::tokenizer::{
        BufferQueue, Tag, Token, TokenSink, TokenSinkResult, Tokenizer, TokenizerOpts,
        states::{RawKind, State},
    };

    use super::*;
    use crate::{
        eval::TestScores,
        metrics::{Bootstrap, curve::area},
        page::{Provenance, Subject},
        report::ReportOptions,
    };

    /// Collects what a browser's tokenizer finds in a page.
    #[derive(Default)]
    struct Found {
        tags: RefCell<BTreeSet<String>>,
        attributes: RefCell<BTreeSet<String>>,
        errors: RefCell<Vec<String>>,
    }

    impl TokenSink for Found {
        type Handle = ();

        fn process_token(&self, token: Token, _: u64) -> TokenSinkResult<()> {
            match token {
                Token::TagToken(Tag { name, attrs, kind, .. }) => {
                    self.tags.borrow_mut().insert(name.to_string());
                    let names = attrs.iter().map(|attribute| attribute.name.local.to_string());
                    self.attributes.borrow_mut().extend(names);
                    // As a browser does inside a `style` element.
                    if &*name == "style" && kind == html5ever::tokenizer::TagKind::StartTag {
                        return TokenSinkResult::RawData(RawKind::Rawtext);
                    }
                }
                Token::ParseError(error) => self.errors.borrow_mut().push(error.into_owned()),
                _ => {}
            }
            TokenSinkResult::Continue
        }
    }

    fn parsed(page: &str) -> Found {
        let input = BufferQueue::default();
        input.push_back(page.into());
        let options =
            TokenizerOpts { exact_errors: true, initial_state: Some(State::Data), ..Default::default() };
        let tokenizer = Tokenizer::new(Found::default(), options);
        let _ = tokenizer.feed(&input);
        tokenizer.end();
        tokenizer.sink
    }

    const TAGS: &str = "a bdi body caption circle code dd div dl dt figcaption figure footer h1 h2 h3 h4 head header \
                        html img li main meta p path rect section span strong style svg table tbody td text th thead \
                        title tr ul";
    const ATTRIBUTES: &str = "alt aria-label aria-labelledby charset class content cx cy d fill-opacity height href id lang name r \
                              role scope src tabindex text-anchor title transform viewBox width x xmlns y";

    /// A set of `count` images with scores from `least` up.
    fn scored(name: &str, count: usize, classes: i64, least: f64) -> Scored {
        let score = |index: usize| least + (index * 7919 % 1000) as f64 / 250.0;
        let class = |index: usize| if classes == 0 { -1 } else { index as i64 % classes };
        Scored {
            name: name.to_owned(),
            images: (0..count).map(|index| format!("folder/{name}/{index}.png")).collect(),
            truth: (0..count).map(class).collect(),
            predicted: (0..count)
                .map(|index| (class(index).max(0) + i64::from(index % 9 == 0)) % classes.max(3))
                .collect(),
            scores: (0..count).map(score).collect(),
        }
    }

    fn subject(known: Scored, unknown: Vec<Scored>, threshold: Option<f64>, resamples: u32) -> Subject {
        let bootstrap = Some(Bootstrap { resamples, seed: 0 });
        let options = ReportOptions { threshold, bootstrap, ..ReportOptions::default() };
        Subject::of_scores("scores.csv", "score", TestScores { known, unknown }, &options).unwrap()
    }

    fn page(subjects: Vec<Subject>) -> Page {
        Page::new(subjects, Vec::new(), Some(Bootstrap { resamples: 20, seed: 0 }))
    }

    /// The HTML of the page, which may have only tags and attributes of the templates.
    fn html(page: &Page) -> String {
        let text = page.html();
        let Found { tags, attributes, errors } = parsed(&text);
        let foreign = |found: BTreeSet<String>, known: &str| -> Vec<String> {
            found.into_iter().filter(|name| !known.split_whitespace().any(|known| known == name)).collect()
        };
        assert_eq!(foreign(tags.into_inner(), TAGS), [""; 0]);
        assert_eq!(foreign(attributes.into_inner(), &ATTRIBUTES.to_lowercase()), [""; 0]);
        assert_eq!(errors.into_inner(), [""; 0]);
        for plot in page.plots() {
            resvg::usvg::roxmltree::Document::parse(&plot.svg).unwrap();
        }
        text
    }

    #[test]
    fn hostile_names_are_rendered_as_text() {
        let hostile = [
            "<script>alert(1)</script>",
            "\"><img src=x onerror=alert(1)>",
            "' onload='alert(1)",
            "</style><svg onload=alert(1)>",
            "]]>-->&amp;&#0;",
            "\u{202e}gnp.exe\u{0}\n\r\t\u{1b}[31m",
            "\u{5e9}\u{5dc}\u{5d5}\u{5dd} \u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467}",
            &"long".repeat(2500),
        ];
        for name in hostile {
            let mut known = scored(name, 90, 3, 0.0);
            known.images = vec![name.to_owned(); 90];
            let unknown = vec![scored(name, 30, 0, 1.0), scored("other", 30, 0, 3.0)];
            let manifest = crate::model::Manifest::from_properties(
                [
                    ("cac.format_version", "2"),
                    ("cac.classes", &*serde_json::to_string(&[name, "b", "c"]).unwrap()),
                    ("cac.input", r#"{"height":32,"width":32,"mean":[0.5,0.5,0.5],"std":[0.5,0.5,0.5]}"#),
                    ("cac.score", "\"cac\""),
                    ("cac.producer", &*serde_json::to_string(name).unwrap()),
                    ("cac.training", &*serde_json::json!({ "known": name, name: [name] }).to_string()),
                    (&*format!("cac.{name}"), name),
                ],
                "x",
            );
            let subject = Subject {
                name: name.to_owned(),
                score: name.to_owned(),
                classes: vec![name.to_owned(), "b".to_owned(), "c".to_owned()],
                origin: Some(Provenance { manifest: manifest.unwrap(), sha256: None, provider: None }),
                ..subject(known, unknown, Some(2.5), 20)
            };
            let text = html(&page(vec![subject.clone(), subject]));
            assert!(!text.contains(['\0', '\u{202e}', '\u{1b}']), "{name}");
        }
    }

    #[test]
    fn the_history_reveals_no_local_folders() {
        let training = serde_json::json!({
            "known": "/home/bob/cats", "unknown": ["dogs=/home/bob/dogs/", "textures", "a=b/c"], "epochs": 3,
        });
        let manifest = crate::model::Manifest::from_properties(
            [
                ("cac.format_version", "2"),
                ("cac.classes", r#"["a","b","c"]"#),
                ("cac.input", r#"{"height":32,"width":32,"mean":[0.5,0.5,0.5],"std":[0.5,0.5,0.5]}"#),
                ("cac.score", "\"cac\""),
                ("cac.imported", r#""/home/bob/weights.pt""#),
                ("cac.training", &*training.to_string()),
                ("cac.later", r#"{"of":[["C:\\Users\\bob\\x.bin"]]}"#),
            ],
            "x",
        );
        let subject = Subject {
            origin: Some(Provenance { manifest: manifest.unwrap(), sha256: None, provider: None }),
            ..subject(scored("known", 90, 3, 0.0), vec![scored("far", 30, 0, 1.0)], None, 0)
        };
        let text = html(&page(vec![subject]));
        assert!(!text.contains("bob"), "a local folder");
        for part in ["known cats", "unknown dogs=dogs textures a=b/c", "weights.pt", "x.bin", "epochs 3"] {
            assert!(text.contains(part), "{part}");
        }
    }

    #[test]
    fn odd_scores_give_an_honest_page() {
        let of = |known: &[f64], unknown: &[&[f64]], threshold| {
            let set = |scores: &[f64], class: i64| Scored {
                name: format!("set {class}"),
                truth: vec![class; scores.len()],
                predicted: vec![0; scores.len()],
                scores: scores.to_vec(),
                ..Scored::default()
            };
            let unknown = unknown.iter().zip(1..).map(|(scores, number)| set(scores, -number)).collect();
            html(&page(vec![subject(set(known, 0), unknown, threshold, 20)]))
        };
        let infinite = f64::INFINITY;
        for (text, said) in [
            (of(&[1.0; 20], &[&[1.0; 9]], Some(1.0)), "All scores are equal"),
            (of(&[infinite, -infinite, 1.0], &[&[infinite]], Some(infinite)), "3 scores are infinite"),
            (of(&[infinite; 3], &[&[-infinite]], Some(-infinite)), "4 scores are infinite"),
            (of(&[1.0, f64::NAN], &[&[f64::NAN]], Some(0.5)), "There are no curves: a score is NaN."),
            (of(&[], &[&[1.0]], Some(0.5)), "There are no metrics: there are no known images."),
            (of(&[1.0, 2.0], &[], None), "There are no unknown images"),
            (
                of(&[1.0, 2.0], &[&[]], Some(1.5)),
                "There are no metrics: `set -1`: there are no unknown images.",
            ),
            (of(&[f64::MAX, f64::MIN], &[&[0.0]], Some(0.0)), "Few images: 2 known images"),
            (of(&[1.0; 6], &[&[0.5; 6], &[3.0]], Some(f64::MAX)), "The AUROC for set -1 is"),
            (of(&[], &[], None), "There are no metrics"),
        ] {
            assert!(text.contains(said), "{said}");
        }
        html(&page(Vec::new()));
    }

    #[test]
    fn classes_may_have_any_number() {
        let mut known = scored("known", 60, 3, 0.0);
        known.truth[7] = i64::MAX;
        known.predicted[8] = i64::MIN;
        let text = html(&page(vec![subject(known, vec![scored("far", 20, 0, 2.0)], Some(3.0), 0)]));
        assert!(text.contains(&i64::MAX.to_string()));
    }

    #[test]
    fn many_sets_and_results_are_bounded() {
        let sets = |count: usize| (0..count).map(|set| scored(&format!("set {set}"), 150, 0, 1.0)).collect();
        let text = html(&page(vec![subject(scored("known", 300, 10, 0.0), sets(15), Some(3.0), 20)]));
        assert!(text.contains("The first 9 of 15 unknown sets."));
        // In the confusion matrix.
        assert!(text.contains("The first 12 of 15 unknown sets."));
        assert!(text.contains("Bands are omitted because they would overlap"));
        let one = |index: usize| {
            let unknown = scored("far", 150, 0, if index == 11 { 4.5 } else { 1.0 });
            subject(scored("known", 300, 10, 0.0), vec![unknown], Some(3.0), 20)
        };
        let text = html(&page((0..12).map(one).collect()));
        assert_eq!(text.matches("<section").count(), 6);
        assert!(text.contains("The first 6 of 12 results are described in detail."));
        // The best one is not drawn.
        assert!(text.contains("The highest AUROC against all unknown images is 100.0 %"), "{text}");
        assert!(text.contains("The first 10 of 12 results are drawn."));
    }

    #[test]
    fn large_pages_are_compact_and_deterministic() {
        let unknown = (0..10).map(|set| scored(&format!("set {set}"), 10_000, 0, 1.5)).collect();
        let subject = subject(scored("known", 100_000, 1000, 0.0), unknown, Some(3.5), 0);
        let mut page = Page::new(vec![subject], Vec::new(), None);
        let wanted: Vec<String> = page.wanted().into_iter().map(str::to_owned).collect();
        assert!(wanted.len() <= 48 && wanted.len() >= 40, "{}", wanted.len());
        for name in wanted {
            let noise =
                |x: u32, y: u32| ::image::Rgb([(x * 77 + y * 31) as u8, (x * y) as u8, (x ^ y) as u8]);
            page.add_thumbnail(&name, Thumbnail::new(&crate::image::RgbImage::from_fn(96, 96, noise)));
        }
        let text = html(&page);
        assert!(text.len() < 2_000_000, "{} bytes", text.len());
        assert!(text.contains("The 30 most confused of 1000 classes."));
        assert!(text.contains("The 100 weakest of 1000 classes."));
        assert_eq!(text, page.html());
    }

    #[test]
    fn areas_under_drawn_curves_match_the_table() {
        let subject = subject(scored("known", 30_000, 5, 0.0), vec![scored("far", 7_000, 0, 1.1)], None, 0);
        let metrics = subject.report.as_ref().unwrap().rows[0].metrics;
        let plots = Page::new(vec![subject], Vec::new(), None).plots();
        for (name, metric) in [
            ("roc-1", metrics.auroc),
            ("precision-unknown-1", metrics.aupr_out),
            ("precision-known-1", metrics.aupr_in),
            ("oscr-1", metrics.oscr.unwrap()),
        ] {
            let svg = &plots.iter().find(|plot| plot.name == name).unwrap().svg;
            let document = resvg::usvg::roxmltree::Document::parse(svg).unwrap();
            let line =
                document.descendants().find(|node| node.attribute("class") == Some("line l1")).unwrap();
            let points: Vec<[f64; 2]> = line.attribute("d").unwrap()[1..]
                .split('L')
                .map(|point| {
                    let (x, y) = point.split_once(' ').unwrap();
                    // The plot area is 380 wide and 250 high, from x = 48 and down to y = 272.
                    [(x.parse::<f64>().unwrap() - 48.0) / 380.0, (272.0 - y.parse::<f64>().unwrap()) / 250.0]
                })
                .collect();
            assert!((area(&points) - metric).abs() < 1e-3, "{name}: {} {metric}", area(&points));
            assert!(points.len() < 1600, "{name}: {}", points.len());
        }
    }
}
