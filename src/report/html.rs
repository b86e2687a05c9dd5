//! The page: one HTML file without scripts, whose images and styles are in it.
//!
//! `maud` makes it: its templates are checked when they are compiled, and everything that is put into them is escaped.

use std::{fs, path::Path};

use base64::{Engine, engine::general_purpose::STANDARD};
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::{
    Report, Row,
    figures::{self, Figure, Group},
    name::{LONGEST, elided, name, visible},
    page::{Kind, Mistake, Page, RunLog, Section, Subject, Thumbnail},
    plot,
    words::{counted, number, percent},
};
use crate::{
    error::{Error, Result},
    files::atomic,
    method::RejectionScore,
    metrics::{Interval, Metrics},
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

/// The columns of the table: the name, a note, and the value of a row.
type Column = (
    &'static str,
    &'static str,
    fn(&Metrics<f64>) -> Option<f64>,
    fn(&Metrics<Interval>) -> Option<Interval>,
);

/// The metrics of the table, larger is better unless the note says otherwise.
const COLUMNS: [Column; 7] = [
    ("AUROC", "area under the ROC curve", |m| Some(m.auroc), |m| Some(m.auroc)),
    ("AUPR-IN", "area under precision and recall, known positive", |m| Some(m.aupr_in), |m| Some(m.aupr_in)),
    (
        "AUPR-OUT",
        "area under precision and recall, unknown positive",
        |m| Some(m.aupr_out),
        |m| Some(m.aupr_out),
    ),
    (
        "FPR95TPR",
        "share of known flagged where 95 % of the unknown are caught; smaller is better",
        |m| Some(m.fpr95_tpr),
        |m| Some(m.fpr95_tpr),
    ),
    (
        "FPR@95%kept",
        "share of unknown accepted where 95 % of the known are kept; smaller is better",
        |m| Some(m.fpr_at_95_known_kept),
        |m| Some(m.fpr_at_95_known_kept),
    ),
    ("OSCR", "open-set classification rate", |m| m.oscr, |m| m.oscr),
    (
        "det.acc.",
        "the best mean of the shares caught and kept",
        |m| Some(m.detection_accuracy),
        |m| Some(m.detection_accuracy),
    ),
];

impl Page {
    /// The page as HTML. The same input gives the same bytes.
    #[must_use]
    pub fn html(&self) -> String {
        let title = match (&self.sections[..], &self.runs[..]) {
            ([one], _) => format!("Open-set report: {}", elided(&one.subject.name, LONGEST)),
            ([], [run]) => format!("Training run: {}", elided(&run.name, LONGEST)),
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
                    footer { p { "Made by toolkit " (env!("CARGO_PKG_VERSION")) ". Every number is measured on the images that are counted here; intervals are 95 %." } }
                }
            }
        }
        .into_string()
    }

    /// All plots of the page as files.
    #[must_use]
    pub fn plots(&self) -> Vec<PlotFile> {
        let of_sections =
            self.sections.iter().take(super::page::DETAILED).enumerate().flat_map(|(number, section)| {
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

    /// Writes all plots to a folder, which is created, each as SVG and as PNG. Returns how many there are.
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

    /// What comes first: the verdict, and with several results their comparison.
    fn summary(&self) -> Markup {
        let sections = &self.sections;
        html! {
            @if let [section] = &sections[..] {
                p.verdict { (section.subject.verdict()) }
                (cautions(&section.subject))
            }
            @if sections.len() > 1 {
                ul.verdicts {
                    @for (number, section) in sections.iter().enumerate() {
                        li {
                            @let title = figures::title(&section.subject);
                            @if number < super::page::DETAILED {
                                a href={ "#result-" (number + 1) } { (name(&title)) }
                            } @else {
                                (name(&title))
                            }
                            ": " (section.subject.verdict())
                        }
                    }
                }
                (comparison_table(sections))
                @if let Some(figure) = figures::comparison(sections) { div.figures { (figure_element(&figure)) } }
            }
        }
    }

    fn section(&self, section: &Section, number: usize) -> Markup {
        if number > super::page::DETAILED {
            return html! {};
        }
        let subject = &section.subject;
        let is_one_of_several = self.sections.len() > 1;
        html! {
            section id={ "result-" (number) } {
                @if is_one_of_several {
                    h2.result { (name(&figures::title(subject))) }
                    p.verdict { (subject.verdict()) }
                    (cautions(subject))
                }
                (metrics_table(subject, number))
                @for group in figures::of_section(section, number) { (group_element(&group)) }
                (class_table(subject, number))
                (self.contact_sheet(section, number))
                (about(subject, number))
            }
        }
    }

    /// The most confident mistakes.
    fn contact_sheet(&self, section: &Section, number: usize) -> Markup {
        let subject = &section.subject;
        let has_threshold = subject.threshold.is_some();
        let all: usize = section.mistakes.iter().map(|(_, mistakes)| mistakes.len()).sum();
        let with_image = section
            .mistakes
            .iter()
            .flat_map(|(_, mistakes)| mistakes)
            .any(|mistake| section.image(*mistake).is_some_and(|image| self.thumbnail(image).is_some()));
        html! {
            h3 id={ "mistakes-" (number) } { "The most confident mistakes" }
            @if all == 0 { p { "There are none." } }
            @else if !with_image {
                p.note { "The images themselves are not known here; their names and scores are." }
            }
            @for (kind, mistakes) in section.mistakes.iter().filter(|(_, mistakes)| !mistakes.is_empty()) {
                h4 {
                    @match (kind, has_threshold) {
                        (Kind::UnknownAccepted, true) => "Unknown images that are accepted, the lowest scores first",
                        (Kind::UnknownAccepted, false) => "Unknown images with the lowest scores",
                        (Kind::KnownRejected, true) => "Known images that are rejected, the highest scores first",
                        (Kind::KnownRejected, false) => "Known images with the highest scores",
                        (Kind::KnownMisnamed, true) => "Known images that are accepted and called by another name, the lowest scores first",
                        (Kind::KnownMisnamed, false) => "Known images that are called by another name, the lowest scores first",
                    }
                }
                ul.sheet { @for mistake in mistakes { (self.card(section, *mistake)) } }
            }
        }
    }

    fn card(&self, section: &Section, mistake: Mistake) -> Markup {
        let subject = &section.subject;
        let set = subject.set(mistake.set);
        let image = section.image(mistake);
        let numbered = format!("image {}", mistake.place + 1);
        let label = image.unwrap_or(&numbered);
        let truth = set.truth.get(mistake.place).map(|&class| subject.class(class));
        let called = set.predicted.get(mistake.place).map(|&class| subject.class(class));
        html! {
            li {
                @match image.and_then(|image| self.thumbnail(image)) {
                    Some(thumbnail) => (thumbnail_element(thumbnail, label)),
                    None => span.placeholder { (elided(last_part(label), 24)) },
                }
                p {
                    @if mistake.set == 0 { @if let Some(truth) = truth { (name(&elided(&truth, 24))) } }
                    @else { (name(&elided(&set.name, 24))) }
                    @if let Some(called) = called { " called " strong { (name(&elided(&called, 24))) } }
                }
                p.score { (number(set.scores[mistake.place])) }
                p.file title=(elided(label, 10_000)) { bdi { (elided(last_part(label), 32)) } }
            }
        }
    }
}

/// The name of a file without its folders.
fn last_part(path: &str) -> &str {
    path.rsplit(['/', '\\']).next().filter(|part| !part.is_empty()).unwrap_or(path)
}

fn thumbnail_element(thumbnail: &Thumbnail, label: &str) -> Markup {
    let Thumbnail { kind, bytes, width, height } = thumbnail;
    // Small images are enlarged by whole pixels.
    let scale = (64 / width.max(height)).max(1);
    html! {
        img src={ "data:image/" (kind) ";base64," (STANDARD.encode(bytes)) } width=(width * scale) height=(height * scale)
            class=[(scale > 1).then_some("pixels")] alt=(elided(label, LONGEST));
    }
}

fn figure_element(figure: &Figure) -> Markup {
    html! {
        figure id=(figure.id) class=[figure.is_wide.then_some("wide")] {
            figcaption { strong { (figure.title) } " " (figure.caption) }
            div.plot tabindex=[figure.is_wide.then_some("0")] { (figure.svg) }
        }
    }
}

fn group_element(group: &Group) -> Markup {
    html! {
        h3 id=(group.id) { (group.title) }
        @if let Some(note) = &group.note { p.note { (note) } }
        @if !group.figures.is_empty() {
            div.figures { @for figure in &group.figures { (figure_element(figure)) } }
        }
    }
}

fn cautions(subject: &Subject) -> Markup {
    let cautions = subject.cautions();
    html! {
        @if !cautions.is_empty() {
            div.cautions role="note" {
                p { strong { "Caution" } }
                ul { @for caution in cautions { li { (caution) } } }
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

fn known_line(report: &Report) -> Markup {
    let intervals = report.intervals;
    html! {
        (counted(report.known, "known image"))
        @if let Some(accuracy) = report.accuracy {
            ", accuracy " (super::words::with_interval(accuracy, intervals.and_then(|of| of.accuracy)))
        }
        @if let Some(kept) = report.known_kept {
            ", kept by the threshold " (super::words::with_interval(kept, intervals.and_then(|of| of.known_kept)))
        }
        "."
    }
}

fn metrics_table(subject: &Subject, number: usize) -> Markup {
    let Ok(report) = &subject.report else { return html! {} };
    let has_threshold = report.known_kept.is_some();
    html! {
        h3 id={ "metrics-" (number) } { "Metrics" }
        p { (known_line(report)) }
        @if !report.rows.is_empty() {
            div.scroll tabindex="0" {
                table {
                    caption { "In per cent, with 95 % intervals" @if report.intervals.is_none() { " where there are any" } "." }
                    thead { tr {
                        th scope="col" { "unknown set" }
                        th scope="col" { "images" }
                        @for (head, note, ..) in COLUMNS { th scope="col" title=(note) { (head) } }
                        @if has_threshold { th scope="col" title="share of unknown images that the threshold catches" { "caught" } }
                    } }
                    tbody { @for row in report.rows.iter().take(ROWS) { (metrics_row(row, has_threshold)) } }
                }
            }
            @if report.rows.len() > ROWS { p.note { "The first " (ROWS) " of " (report.rows.len()) " rows." } }
            p.note {
                "FPR95TPR: share of known flagged where 95 % of the unknown are caught. FPR@95%kept: share of unknown \
                 accepted where 95 % of the known are kept. For both smaller is better, for the others larger."
            }
        }
    }
}

fn metrics_row(row: &Row, has_threshold: bool) -> Markup {
    html! {
        tr {
            th scope="row" { (name(&row.name)) }
            td { (row.unknown) }
            @for (.., value, interval) in COLUMNS {
                (cell(value(&row.metrics), row.intervals.and_then(|intervals| interval(&intervals.metrics))))
            }
            @if has_threshold { (cell(row.unknown_caught, row.intervals.and_then(|intervals| intervals.unknown_caught))) }
        }
    }
}

/// The last row that stands for all unknown images: the mean of several sets, or the only one.
fn overall(report: &Report) -> Option<&Row> {
    report.rows.iter().find(|row| row.name == super::RESERVED[0]).or(report.rows.first())
}

fn comparison_table(sections: &[Section]) -> Markup {
    let has_agreement = sections.iter().any(|section| section.subject.agreement.is_some());
    html! {
        h2 { "Comparison" }
        div.scroll tabindex="0" {
            table {
                caption { "In per cent, with 95 % intervals. Metrics of several unknown sets are their mean." }
                thead { tr {
                    th scope="col" { "result" }
                    th scope="col" { "accuracy" }
                    th scope="col" { "kept" }
                    th scope="col" { "caught" }
                    @for (head, note, ..) in COLUMNS { th scope="col" title=(note) { (head) } }
                    @if has_agreement {
                        th scope="col" title="images given another class than by the first" { "other classes" }
                        th scope="col" title="images given another verdict than by the first" { "other verdicts" }
                        th scope="col" title="the greatest difference of a score from the first, relative above 1" { "difference" }
                    }
                } }
                tbody {
                    @for Section { subject, .. } in sections {
                        tr {
                            th scope="row" { (name(&figures::title(subject))) }
                            @if let Ok(report) = &subject.report {
                                @let row = overall(report);
                                @let intervals = row.and_then(|row| row.intervals);
                                (cell(report.accuracy, report.intervals.and_then(|of| of.accuracy)))
                                (cell(report.known_kept, report.intervals.and_then(|of| of.known_kept)))
                                (cell(row.and_then(|row| row.unknown_caught), intervals.and_then(|of| of.unknown_caught)))
                                @for (.., value, interval) in COLUMNS {
                                    (cell(row.and_then(|row| value(&row.metrics)), intervals.and_then(|of| interval(&of.metrics))))
                                }
                            } @else {
                                @for _ in 0..COLUMNS.len() + 3 { td { "–" } }
                            }
                            @if has_agreement {
                                @match &subject.agreement {
                                    Some((_, agreement)) => {
                                        td { (agreement.label_flips) }
                                        td { (agreement.unknown_flips) }
                                        td { (format!("{:.1e}", agreement.greatest_score_difference)) }
                                    }
                                    None => { td { "–" } td { "–" } td { "–" } }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn class_table(subject: &Subject, number: usize) -> Markup {
    let classes = subject.per_class();
    let is_judged = subject.is_judged();
    let has_threshold = subject.threshold.is_some();
    let has_strangers = subject.unknown.iter().any(|set| !set.predicted.is_empty());
    let mut rows: Vec<_> = classes.into_iter().collect();
    let all = rows.len();
    let share = |count: usize, of: usize| count as f64 / of.max(1) as f64;
    if all > CLASSES {
        // The weakest come first where not all are shown.
        rows.sort_by(|(_, a), (_, b)| {
            let quality = |of: &super::page::OfClass| {
                if is_judged { share(of.kept_and_correct, of.images) } else { share(of.kept, of.images) }
            };
            quality(a).total_cmp(&quality(b))
        });
        rows.truncate(CLASSES);
    }
    let cell = |count: usize, of: usize| html! { td { @if of == 0 { "–" } @else { (format!("{:.1}", 100.0 * share(count, of))) } } };
    html! {
        h3 id={ "classes-" (number) } { "By class" }
        @if all > CLASSES { p.note { "The " (CLASSES) " weakest of " (all) " classes." } }
        div.scroll tabindex="0" {
            table.compact {
                caption { "Known test images of each class, in per cent" @if has_strangers { "; and the number of unknown images that are accepted as this class" } "." }
                thead { tr {
                    th scope="col" { "class" }
                    th scope="col" { "images" }
                    @if is_judged { th scope="col" { "named correctly" } }
                    @if has_threshold { th scope="col" { "kept" } }
                    @if is_judged && has_threshold { th scope="col" { "kept and correct" } }
                    @if has_strangers { th scope="col" { "unknown accepted" } }
                } }
                tbody {
                    @for (class, of) in &rows {
                        tr {
                            th scope="row" { (name(&subject.class(*class))) }
                            td { (of.images) }
                            @if is_judged { (cell(of.correct, of.images)) }
                            @if has_threshold { (cell(of.kept, of.images)) }
                            @if is_judged && has_threshold { (cell(of.kept_and_correct, of.images)) }
                            @if has_strangers { td { (of.strangers) } }
                        }
                    }
                }
            }
        }
        (set_table(subject))
    }
}

/// For each unknown set the classes that its accepted images are taken for.
fn set_table(subject: &Subject) -> Markup {
    let rows: Vec<_> =
        subject.unknown.iter().filter(|set| set.predicted.len() == set.scores.len()).take(ROWS).collect();
    let taken_for = |set: &super::page::Scored| {
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
            h3 { "By unknown set" }
            div.scroll tabindex="0" {
                table.compact {
                    caption { "What the accepted images of each set are taken for." }
                    thead { tr {
                        th scope="col" { "unknown set" }
                        th scope="col" { "images" }
                        th scope="col" { "accepted" }
                        th.text scope="col" { "most often taken for" }
                    } }
                    tbody { @for set in rows {
                        @let counts = taken_for(set);
                        @let accepted = counts.iter().map(|(_, count)| count).sum::<usize>();
                        tr {
                            th scope="row" { (name(&set.name)) }
                            td { (set.scores.len()) }
                            td { (accepted) }
                            td.text {
                                @for (place, (class, count)) in counts.iter().take(3).enumerate() {
                                    @if place > 0 { ", " }
                                    (name(&elided(&subject.class(*class), 24))) " (" (count) ")"
                                }
                            }
                        }
                    } }
                }
            }
        }
    }
}

/// The formula of a score, with logits z, distances to the anchors d, and a temperature T.
fn formula(score: RejectionScore) -> String {
    match score {
        RejectionScore::Cac => "min over c of d_c (1 − softmin(d)_c)".to_owned(),
        RejectionScore::MinDistance => "min d".to_owned(),
        RejectionScore::PytorchOod => "−max over c of d_c² (1 − softmin(d²)_c)".to_owned(),
        RejectionScore::Msp => "−max softmax(z)".to_owned(),
        RejectionScore::MaxLogit => "−max z".to_owned(),
        RejectionScore::Energy { temperature } => format!("−T log Σ exp(z / T), T = {temperature}"),
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
                    (decision.classes.len()) ": "
                    @for (place, class) in decision.classes.iter().take(CLASSES).enumerate() {
                        @if place > 0 { ", " }
                        (name(class))
                    }
                    @if decision.classes.len() > CLASSES { ", and " (decision.classes.len() - CLASSES) " more" }
                }))
                (row("input", html! { "RGB, " (height) " × " (width) " pixels" }))
                (row("resizing", html! { "to both sides, bilinear and antialiased, to the byte as Pillow 13; the proportions are not kept" }))
                (row("normalisation", html! {
                    "minus " (format!("{:?}", decision.input.mean)) ", divided by " (format!("{:?}", decision.input.std)) ", of values in 0 to 1"
                }))
            }
            (row("score", html! {
                (name(&subject.score))
                @if let Ok(score) = subject.score.parse::<RejectionScore>() { ": " (formula(score)) }
                "; larger means more likely unknown"
            }))
            (row("threshold", html! {
                @match subject.threshold {
                    Some(threshold) => { (number(threshold)) "; an image is unknown where its score is above it, or is not a number" }
                    None => "none is known for this score",
                }
            }))
            @if let Some(keep) = subject.keep {
                (row("keep", html! {
                    "the threshold was chosen to keep " (percent(keep))
                    @if let Some(threshold) = manifest.and_then(|manifest| manifest.decision.threshold.as_ref()) {
                        " of " (name(&threshold.data))
                    }
                }))
            }
        }
        @if let Some(origin) = &subject.origin {
            @let history = &origin.manifest.history;
            h3 id={ "history-" (number_of_section) } { "The model" }
            dl {
                (row("name", name(&subject.name)))
                @if let Some(sha256) = &origin.sha256 { (row("SHA-256", html! { code { (sha256) } })) }
                @if let Some(provider) = &origin.provider { (row("run by", name(provider))) }
                (row("format", html! { (origin.manifest.decision.format_version) }))
                @if let Some(producer) = &history.producer { (row("written by", name(producer))) }
                @if let Some(runtime) = &history.checked_with { (row("checked with", name(runtime))) }
                @if let Some(architecture) = &history.architecture { (row("network", text(architecture))) }
                @if let Some(precision) = &history.precision { (row("precision", text(precision))) }
                @if let Some(loss) = &history.loss {
                    (row("loss", html! { (variant_name(loss)) }))
                }
                @if let Some(anchors) = &history.anchors {
                    (row("anchors", html! { @match anchors { crate::method::AnchorKind::Fixed => "fixed", crate::method::AnchorKind::ClassMeans => "class means" } }))
                }
                @if let Some(imported) = &history.imported { (row("imported from", name(imported))) }
                @if let Some(training) = &history.training {
                    @for (head, line) in ["trained on", "recipe"].into_iter().zip(training.to_string().lines()) {
                        (row(head, html! { bdi { (elided(line, 4000)) } }))
                    }
                }
                @for (field, value) in &history.other {
                    dt { (name(field)) } dd { bdi { (elided(&value.to_string(), 400)) } }
                }
            }
        }
    }
}

fn variant_name(loss: &crate::method::Loss) -> String {
    let variant = serde_json::to_value(loss.variant).ok().and_then(|name| name.as_str().map(str::to_owned));
    format!("{}, magnitude {}, weight {}", variant.unwrap_or_default(), loss.magnitude, loss.weight)
}

fn run_section(run: &RunLog, number: usize) -> Markup {
    let figures = figures::of_run(run, number);
    let epochs = run.events.iter().filter(|event| matches!(event, Event::Epoch { .. })).count();
    let planned = run.events.iter().find_map(|event| match event {
        Event::Start { epochs, .. } => Some(*epochs),
        _ => None,
    });
    let is_finished = run.events.iter().any(|event| matches!(event, Event::Finished { .. }));
    html! {
        section id={ "run-" (number) } {
            h2 { "Training of " (name(&run.name)) }
            p {
                @if run.events.is_empty() { "There is no log of the training." } @else {
                    (counted(epochs, "epoch")) " tested"
                    @if let Some(planned) = planned { " of " (planned) }
                    @if is_finished { "; the run is finished." } @else { "; the run is not finished." }
                }
                @if run.others > 0 { " " (counted(run.others, "line")) " of the log cannot be read." }
            }
            @if !figures.is_empty() { div.figures { @for figure in &figures { (figure_element(figure)) } } }
        }
    }
}
