//! Plots as SVG: axes, marks in the coordinates of the data, and a legend with the dash or the shape of each
//! series.
//!
//! They use the same escaping templates as the page. Plotting crates write colours into their SVG; here marks
//! have classes, so one style sheet gives a page its light, dark and printed colours, and another gives a
//! standalone file fixed ones. Series differ in dash and shape, not in colour alone.

use std::fmt::Write;

use maud::{Markup, html};

use super::name::{elided, isolated};

/// The width of a plot in user units, which are pixels where there is room.
pub(super) const WIDTH: f64 = 440.0;
/// The number of series that differ in dash and colour.
pub(super) const SERIES: usize = 10;

const LEFT: f64 = 48.0;
const RIGHT: f64 = 12.0;
/// The width of the area for the data.
pub(super) const INNER: f64 = WIDTH - LEFT - RIGHT;
/// The room for the label of the y axis.
const HEAD: f64 = 22.0;
/// The room for the label of a rule.
const RULE_HEAD: f64 = 15.0;
const BOTTOM: f64 = 40.0;
/// The height of a line of the legend.
const LEGEND: f64 = 18.0;
/// The maximum number of legend entries in one column; more are set in two.
const ONE_COLUMN: usize = 4;

/// The colours of both schemes by name: Okabe and Ito's, safe for colour-blind people, darker and
/// lighter for contrast.
const COLOURS: [(&str, &str, &str); 13] = [
    ("--paper", "#ffffff", "#16191d"),
    ("--ink", "#1b1f24", "#e8eaed"),
    ("--faint", "#5b636e", "#a4acb6"),
    ("--rule", "#d7dbe0", "#363c44"),
    ("--c0", "#0072b2", "#62b8ee"),
    ("--c1", "#c44e00", "#ff9a4d"),
    ("--c2", "#00805d", "#3fcf9f"),
    ("--c3", "#a8437c", "#f09fcb"),
    ("--c4", "#8a6d00", "#e6cf45"),
    ("--c5", "#5a4fcf", "#b3a8ff"),
    ("--alarm", "#b3261e", "#ff8a80"),
    ("--on-cell", "#000000", "#ffffff"),
    ("--turned", "#ffffff", "#000000"),
];

/// The dashes of the series.
const DASHES: [&str; SERIES] =
    ["none", "7 3", "2 2.5", "9 3 2 3", "5 2 2 2 2 2", "12 4", "4 4", "1 3", "10 2 1 2 1 2", "6 6"];

/// The unit of an axis.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Unit {
    /// A share from 0 to 1, written in per cent.
    Share,
    /// A number.
    Number,
}

/// One axis of a plot.
#[derive(Debug, Clone)]
pub(super) struct Axis {
    pub label: String,
    /// The ends, ascending and finite.
    pub from: f64,
    pub to: f64,
    pub unit: Unit,
}

/// What is drawn, in data coordinates. Non-finite points interrupt a line.
#[derive(Debug, Clone)]
pub(super) enum Mark {
    /// A line, thinned as far as that is invisible.
    Line { points: Vec<[f64; 2]>, series: usize },
    /// The area between the lower and the upper ends at ascending places.
    Band { ends: Vec<(f64, f64, f64)>, series: usize },
    /// Adjacent bars from 0 up: the left end of each with its height, and the right end of the last.
    Bars { heights: Vec<[f64; 2]>, end: f64, series: usize },
    /// Separate points.
    Dots { points: Vec<[f64; 2]>, series: usize },
    /// A straight reference line.
    Guide { from: [f64; 2], to: [f64; 2] },
    /// An interval of y at one x, with its value.
    Whisker { x: f64, low: f64, y: f64, high: f64 },
    /// A vertical line across the plot, with a label.
    Rule { x: f64, label: String },
    /// Text next to a point.
    Label { at: [f64; 2], text: String },
}

/// How the legend shows a series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    Line(usize),
    Bars(usize),
    Dots(usize),
}

/// A plot.
#[derive(Debug, Clone)]
pub(super) struct Plot {
    pub x: Axis,
    pub y: Axis,
    /// The height of the area for the data, in user units.
    pub height: f64,
    pub marks: Vec<Mark>,
    /// The series; names in them are short.
    pub legend: Vec<(Key, String)>,
}

impl Axis {
    /// A share from 0 to 100 %.
    pub fn share(label: impl Into<String>) -> Self {
        Self { label: label.into(), from: 0.0, to: 1.0, unit: Unit::Share }
    }

    /// An axis that spans the finite values, and a little more.
    pub fn around(label: impl Into<String>, values: impl Iterator<Item = f64>) -> Self {
        let [mut from, mut to] = [f64::INFINITY, f64::NEG_INFINITY];
        // The margin and the difference of the ends are finite.
        let values =
            values.filter(|value| value.is_finite()).map(|value| value.clamp(f64::MIN / 8.0, f64::MAX / 8.0));
        for value in values {
            (from, to) = (from.min(value), to.max(value));
        }
        if from > to {
            [from, to] = [0.0, 1.0];
        }
        let margin = 0.04 * (to / 2.0 - from / 2.0);
        let margin = match (margin > 0.0, from == 0.0) {
            (true, _) => margin,
            (false, true) => 0.5,
            (false, false) => 0.5 * from.abs().max(1e-300),
        };
        Self { label: label.into(), from: from - margin, to: to + margin, unit: Unit::Number }
    }

    /// The place of a value between the ends, 0 to 1.
    pub fn place(&self, value: f64) -> f64 {
        // Halves, because the difference of two large numbers may be infinite.
        (value / 2.0 - self.from / 2.0) / (self.to / 2.0 - self.from / 2.0)
    }

    /// Round values within the ends, with their text.
    fn ticks(&self) -> Vec<(f64, String)> {
        let scale = if self.unit == Unit::Share { 100.0 } else { 1.0 };
        let (from, to) = (self.from * scale, self.to * scale);
        let step = {
            let rough = (to - from) / 5.0;
            let power = 10_f64.powf(rough.log10().floor());
            [1.0, 2.0, 2.5, 5.0, 10.0].map(|step| step * power).into_iter().find(|&step| step >= rough * 0.99)
        };
        let Some(step) = step.filter(|step| step.is_normal()) else { return Vec::new() };
        // Decimal places: those of the step.
        let decimals = (0..12).find(|&digits| {
            let scaled = step * 10_f64.powi(digits);
            (scaled - scaled.round()).abs() < 1e-6 * scaled
        });
        let text = |value: f64| match decimals {
            Some(decimals) if value.abs() < 1e6 => {
                let text = format!("{value:.0$}", decimals as usize);
                if text.trim_start_matches(['-', '0', '.']).is_empty() { "0".to_owned() } else { text }
            }
            _ => format!("{value:.1e}"),
        };
        let first = (from / step - 1e-6).ceil();
        (0..12)
            .map(|number| (first + f64::from(number)) * step)
            .take_while(|&value| value <= to + step * 1e-6)
            .map(|value| (value / scale, text(value)))
            .collect()
    }
}

impl Plot {
    /// The plot as an element of a page. `id` is unique to it.
    pub fn svg(&self, id: &str, description: &str) -> Markup {
        let (right, top) = (WIDTH - RIGHT, self.top());
        let bottom = top + self.height;
        let columns = if self.legend.len() > ONE_COLUMN { 2 } else { 1 };
        let lines = self.legend.len().div_ceil(columns);
        let height = bottom + BOTTOM + LEGEND * lines as f64;
        html! {
            svg xmlns="http://www.w3.org/2000/svg" viewBox={ "0 0 " (coordinate(WIDTH)) " " (coordinate(height)) }
                role="img" aria-labelledby=(id) {
                title id=(id) { (description) }
                @for (value, text) in self.x.ticks() {
                    @let x = coordinate(self.x_of(value));
                    path.grid d={ "M" (x) " " (coordinate(top)) "V" (coordinate(bottom)) } {}
                    text.tick x=(x) y=(coordinate(bottom + 15.0)) text-anchor="middle" { (text) }
                }
                @for (value, text) in self.y.ticks() {
                    @let y = self.y_of(value);
                    path.grid d={ "M" (LEFT) " " (coordinate(y)) "H" (coordinate(right)) } {}
                    text.tick x=(coordinate(LEFT - 6.0)) y=(coordinate(y + 4.0)) text-anchor="end" { (text) }
                }
                text.axis x=(coordinate((LEFT + right) / 2.0)) y=(coordinate(bottom + 32.0)) text-anchor="middle" {
                    (self.x.label)
                }
                // Above the axis, to be read without turning the head.
                text.axis x="4" y="13" { (self.y.label) }
                @for mark in &self.marks { (self.mark(mark)) }
                (self.labels())
                path.frame d={ "M" (LEFT) " " (coordinate(top)) "V" (coordinate(bottom)) "H" (coordinate(right)) } {}
                @for (index, (key, text)) in self.legend.iter().enumerate() {
                    @let x = LEFT + (right - LEFT) / 2.0 * (index / lines) as f64;
                    @let y = bottom + BOTTOM + LEGEND * (index % lines) as f64 + 8.0;
                    (legend(*key, text, [x, y]))
                }
            }
        }
    }

    /// The y of the upper end of the area for the data.
    fn top(&self) -> f64 {
        let has_rule = self.marks.iter().any(|mark| matches!(mark, Mark::Rule { .. }));
        if has_rule { HEAD + RULE_HEAD } else { HEAD }
    }

    /// The labels of points, each where it hides the least.
    fn labels(&self) -> Markup {
        let labels: Vec<([f64; 2], String)> = self
            .marks
            .iter()
            .filter_map(|mark| match mark {
                Mark::Label { at, text } => Some((self.at(*at), elided(text, 18))),
                _ => None,
            })
            .collect();
        // The area of a text: left, top, right, bottom.
        let mut taken: Vec<[f64; 4]> =
            labels.iter().map(|([x, y], _)| [x - 5.0, y - 5.0, x + 5.0, y + 5.0]).collect();
        let shared = |a: &[f64; 4], b: &[f64; 4]| {
            let width = a[2].min(b[2]) - a[0].max(b[0]);
            let height = a[3].min(b[3]) - a[1].max(b[1]);
            width.max(0.0) * height.max(0.0)
        };
        let inside = [LEFT, self.top(), WIDTH - RIGHT, self.top() + self.height];
        let places = labels.iter().map(|([x, y], text)| {
            let width = 7.2 * text.chars().count() as f64;
            let [right, left] = [x + 7.0, x - 7.0 - width];
            let middle = x - width / 2.0;
            // Beside, above, below, and between these.
            let starts = [
                (right, y + 4.0),
                (left, y + 4.0),
                (middle, y - 8.0),
                (middle, y + 16.0),
                (right, y - 8.0),
                (right, y + 16.0),
                (left, y - 8.0),
                (left, y + 16.0),
            ];
            let cost = |&(start, base): &(f64, f64)| -> f64 {
                let area = [start, base - 10.0, start + width, base + 2.0];
                let outside = width * 12.0 - shared(&area, &inside);
                outside + taken.iter().map(|other| shared(&area, other)).sum::<f64>()
            };
            let costs = starts.map(|start| (cost(&start), start));
            let (_, (start, base)) =
                costs.into_iter().min_by(|a, b| a.0.total_cmp(&b.0)).expect("eight places");
            taken.push([start, base - 10.0, start + width, base + 2.0]);
            (start + width / 2.0, base)
        });
        let places: Vec<(f64, f64)> = places.collect();
        html! {
            @for ([x, y], _) in &labels { circle.anchor cx=(coordinate(*x)) cy=(coordinate(*y)) r="4" {} }
            @for ((_, text), (middle, base)) in labels.iter().zip(places) {
                text.label x=(coordinate(middle)) y=(coordinate(base)) text-anchor="middle" { (isolated(text)) }
            }
        }
    }

    fn x_of(&self, value: f64) -> f64 {
        LEFT + INNER * self.x.place(value)
    }

    fn y_of(&self, value: f64) -> f64 {
        self.top() + self.height * (1.0 - self.y.place(value))
    }

    fn at(&self, [x, y]: [f64; 2]) -> [f64; 2] {
        [self.x_of(x), self.y_of(y)]
    }

    fn mark(&self, mark: &Mark) -> Markup {
        match mark {
            Mark::Line { points, series } => {
                let parts = points.split(|point| !(point[0].is_finite() && point[1].is_finite()));
                let paths = parts.map(|part| {
                    polyline(&thinned(&part.iter().map(|&point| self.at(point)).collect::<Vec<_>>()))
                });
                html! { path class={ "line l" (series % SERIES) } d=(paths.collect::<String>()) {} }
            }
            Mark::Band { ends, series } => {
                let upper = ends.iter().map(|&(x, _, high)| self.at([x, high]));
                let lower = ends.iter().rev().map(|&(x, low, _)| self.at([x, low]));
                let outline: Vec<[f64; 2]> = upper.chain(lower).collect();
                html! { path class={ "band f" (series % SERIES) } d={ (polyline(&outline)) "Z" } {} }
            }
            Mark::Bars { heights, end, series } => {
                let mut path = String::new();
                let ends = heights.iter().skip(1).map(|bar| bar[0]).chain([*end]);
                let bottom = coordinate(self.y_of(0.0));
                if let Some(first) = heights.first() {
                    let _ = write!(path, "M{} {bottom}", coordinate(self.x_of(first[0])));
                }
                for (bar, end) in heights.iter().zip(ends) {
                    let _ = write!(path, "V{}H{}", coordinate(self.y_of(bar[1])), coordinate(self.x_of(end)));
                }
                let _ = write!(path, "V{bottom}Z");
                html! { path class={ "bars l" (series % SERIES) " f" (series % SERIES) } d=(path) {} }
            }
            Mark::Dots { points, series } => {
                let finite = points.iter().filter(|point| point.iter().all(|value| value.is_finite()));
                let shapes = finite.map(|&point| shape(*series, self.at(point)));
                html! { path class={ "dots d" (series % SERIES) } d=(shapes.collect::<String>()) {} }
            }
            Mark::Guide { from, to } => {
                html! { path.guide d=(polyline(&[self.at(*from), self.at(*to)])) {} }
            }
            Mark::Whisker { x, low, y, high } => {
                let [x, low, y, high] = [self.x_of(*x), self.y_of(*low), self.y_of(*y), self.y_of(*high)];
                let [left, right] = [coordinate(x - 4.0), coordinate(x + 4.0)];
                let [low, high] = [low, high].map(coordinate);
                html! {
                    path.whisker d={ "M" (coordinate(x)) " " (low) "V" (high) "M" (left) " " (low) "H" (right)
                        "M" (left) " " (high) "H" (right) } {}
                    circle.whisker-dot cx=(coordinate(x)) cy=(coordinate(y)) r="3.5" {}
                }
            }
            Mark::Rule { x, label } => {
                let x = self.x_of(*x);
                // The label is on the side with more room.
                let is_left = x > (LEFT + WIDTH - RIGHT) / 2.0;
                let (beside, anchor) = if is_left { (x - 5.0, "end") } else { (x + 5.0, "start") };
                html! {
                    path.rule d={ "M" (coordinate(x)) " " (coordinate(self.top() - 13.0)) "V" (coordinate(self.top() + self.height)) } {}
                    text.rule-label x=(coordinate(beside)) y=(coordinate(self.top() - 5.0)) text-anchor=(anchor) { (label) }
                }
            }
            // All labels are placed together.
            Mark::Label { .. } => html! {},
        }
    }
}

/// A line of the legend: the key and its text.
fn legend(key: Key, text: &str, [x, y]: [f64; 2]) -> Markup {
    let [top, bottom] = [coordinate(y - 5.0), coordinate(y + 5.0)];
    html! {
        @match key {
            Key::Line(series) => {
                path class={ "line l" (series % SERIES) } d={ "M" (coordinate(x)) " " (coordinate(y)) "h34" } {}
            }
            Key::Bars(series) => {
                path class={ "bars l" (series % SERIES) " f" (series % SERIES) }
                    d={ "M" (coordinate(x)) " " (bottom) "V" (top) "h34V" (bottom) "Z" } {}
            }
            Key::Dots(series) => {
                path class={ "dots d" (series % SERIES) } d=(shape(series, [x + 17.0, y])) {}
            }
        }
        text.key x=(coordinate(x + 42.0)) y=(coordinate(y + 4.0)) { (text) }
    }
}

/// A number of user units, to a twentieth of a pixel.
pub(super) fn coordinate(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").map(str::to_owned).unwrap_or(text)
}

fn polyline(points: &[[f64; 2]]) -> String {
    let mut path = String::new();
    for (index, [x, y]) in points.iter().enumerate() {
        let _ = write!(path, "{}{} {}", if index == 0 { 'M' } else { 'L' }, coordinate(*x), coordinate(*y));
    }
    path
}

/// The shape of a point of a series.
fn shape(series: usize, [x, y]: [f64; 2]) -> String {
    let at = format!("M{} {}", coordinate(x), coordinate(y));
    match series % 5 {
        // A dot: a zero-length line with round ends.
        0 => format!("{at}h0"),
        1 => format!("{at}m-2-2l4 4m0-4l-4 4"),
        2 => format!("{at}m-2.5 0h5m-2.5-2.5v5"),
        3 => format!("{at}m0-2.5l2.5 4.5h-5z"),
        _ => format!("{at}m-2-2h4v4h-4z"),
    }
}

/// The width of a strip of which a thinned line keeps four points.
const STRIP: f64 = 0.5;
/// How far a point that is left out may lie from the line.
const OFF: f64 = 0.02;

/// A line in user units with fewer points and the same look: each half-pixel strip keeps its first, lowest,
/// highest and last point (M4: Jugel et al., VLDB 2014), and of these only the ones that bend the line.
fn thinned(points: &[[f64; 2]]) -> Vec<[f64; 2]> {
    let mut kept: Vec<[f64; 2]> = Vec::new();
    let strip = |point: &[f64; 2]| (point[0] / STRIP).floor();
    for part in points.chunk_by(|a, b| strip(a) == strip(b)) {
        let by_height = |&a: &usize, &b: &usize| part[a][1].total_cmp(&part[b][1]);
        let (low, high) = ((0..part.len()).min_by(by_height), (0..part.len()).max_by(by_height));
        let mut positions = [Some(0), low, high, Some(part.len() - 1)].map(Option::unwrap_or_default);
        positions.sort_unstable();
        for (index, position) in positions.into_iter().enumerate() {
            if index == 0 || position != positions[index - 1] {
                let point = part[position];
                while let [.., a, b] = kept[..]
                    && is_between(a, b, point)
                {
                    kept.pop();
                }
                kept.push(point);
            }
        }
    }
    kept
}

/// Whether b lies on the straight line from a to c.
fn is_between([ax, ay]: [f64; 2], [bx, by]: [f64; 2], [cx, cy]: [f64; 2]) -> bool {
    let (x, y) = (cx - ax, cy - ay);
    let length = x.hypot(y);
    let along = (bx - ax) * x + (by - ay) * y;
    let off = (bx - ax) * y - (by - ay) * x;
    length > 0.0 && (0.0..=length * length).contains(&along) && off.abs() <= OFF * length
}

/// The rules for the marks, with the colours as variables.
fn rules() -> String {
    let mut css = include_str!("plot.css").to_owned();
    for (series, dash) in DASHES.iter().enumerate() {
        let colour = format!("var(--c{})", series % 6);
        let _ = writeln!(
            css,
            ".l{series}{{stroke:{colour};stroke-dasharray:{dash}}}.f{series}{{fill:{colour}}}\
             .d{series}{{stroke:{colour}}}"
        );
    }
    css
}

/// The style sheet of the plots of a page, in light, dark and printed colours.
pub(super) fn page_style() -> String {
    let list = |choose: fn(&(&str, &str, &str)) -> String| COLOURS.iter().map(choose).collect::<String>();
    let light = list(|(name, light, _)| format!("{name}:{light};"));
    let dark = list(|(name, _, dark)| format!("{name}:{dark};"));
    format!(
        ":root{{color-scheme:light dark;{light}}}\n@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}svg .turned-in-dark{{fill:var(--turned)}}}}\n{}",
        rules()
    )
}

/// A plot as a standalone file, in light colours on white.
pub(super) fn standalone(svg: Markup) -> String {
    let mut style = rules();
    for (name, light, _) in COLOURS {
        style = style.replace(&format!("var({name})"), light);
    }
    let text = svg.into_string();
    let (head, rest) = text.split_once('>').unwrap_or((&text, ""));
    format!("{head}><style>{style}</style><rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>{rest}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::curve::area;

    #[test]
    fn thinning_keeps_the_area_and_the_ends() {
        // A curve of 100,000 random steps, 380 pixels wide.
        let mut points = vec![[0.0, 0.0]];
        for step in 0..100_000_u64 {
            let is_up = step.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 63 == 1;
            let [x, y] = points[points.len() - 1];
            points.push(if is_up { [x, y + 0.005] } else { [x + 0.0076, y] });
        }
        let thin = thinned(&points);
        assert!(thin.len() < 1600, "{}", thin.len());
        assert_eq!((thin.first(), thin.last()), (points.first(), points.last()));
        let (before, after) = (area(&points), area(&thin));
        assert!((before - after).abs() < 1e-3 * before, "{before} {after}");
    }

    #[test]
    fn thinning_drops_collinear_points_and_keeps_spikes() {
        let line: Vec<[f64; 2]> = (0..100).map(|i| [f64::from(i), 2.0 * f64::from(i)]).collect();
        assert_eq!(thinned(&line), [line[0], line[99]]);
        let spike = [[0.0, 0.0], [0.1, 0.0], [0.2, 90.0], [0.3, 0.0], [9.0, 0.0]];
        assert_eq!(thinned(&spike), [spike[0], spike[2], spike[3], spike[4]]);
        // There and back on one line.
        let back = [[0.0, 0.0], [0.0, 9.0], [0.0, 4.0]];
        assert_eq!(thinned(&back), back);
        assert!(thinned(&[]).is_empty());
    }

    #[test]
    fn ticks_are_at_round_numbers() {
        let texts = |from: f64, to: f64, unit| -> Vec<String> {
            let axis = Axis { label: String::new(), from, to, unit };
            axis.ticks().into_iter().map(|(_, text)| text).collect()
        };
        assert_eq!(texts(0.0, 1.0, Unit::Share), ["0", "20", "40", "60", "80", "100"]);
        assert_eq!(texts(-0.26, 0.9, Unit::Number), ["-0.25", "0", "0.25", "0.50", "0.75"]);
        assert_eq!(texts(-22.0, -3.0, Unit::Number), ["-20", "-15", "-10", "-5"]);
        assert_eq!(texts(0.0, 5e9, Unit::Number)[1], "1.0e9");
        let around = |values: &[f64]| Axis::around("", values.iter().copied());
        for values in
            [&[][..], &[3.0], &[f64::INFINITY], &[f64::MAX, f64::MIN], &[0.0, 5e-324], &[f64::NAN, 1e300]]
        {
            let axis = around(values);
            assert!(axis.from < axis.to && (axis.to - axis.from).is_finite(), "{values:?} {axis:?}");
            assert!(axis.ticks().len() < 13);
            assert!(values.iter().all(|&value| !value.is_finite() || axis.place(value).is_finite()));
        }
    }
}
