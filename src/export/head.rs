//! The head of the graph: from features and logits to distances, score, label, verdict and p-value.
//!
//! The outputs and the tensors that other tools may edit have plain names. All other names start with
//! [`HEAD_PREFIX`](crate::arch::HEAD_PREFIX), so no layer can clash with them.

use ndarray::{Array1, Array2};

use super::ExportOptions;
use crate::{
    method::{Affine, Anchors, Constants, FittedScore, FittedTerm, LogitScore, MIN_DISTANCE, MIN_NORM},
    model::{
        Threshold,
        builder::Builder,
        file::{FEATURES, P_VALUE, UNKNOWN_AT},
        proto::{Attribute, element},
    },
};

/// What the graph decides by.
pub(super) struct Head<'a> {
    pub anchors: &'a Anchors,
    pub score: &'a FittedScore,
    pub threshold: &'a Threshold,
    /// The number of features.
    pub features: usize,
}

fn axis() -> Attribute {
    Attribute::int("axis", 1)
}

/// The attributes of a reduction of rows to one value.
fn reduced() -> Vec<Attribute> {
    vec![Attribute::ints("axes", &[1]), Attribute::int("keepdims", 0)]
}

/// The same with the axis as the input [`ROW`].
fn summed() -> Vec<Attribute> {
    vec![Attribute::int("keepdims", 0)]
}

/// The tensor of the thresholds for each class.
pub(super) const CLASS_THRESHOLDS: &str = "thresholds";

/// The outputs that depend on the threshold.
pub(super) const VERDICTS: [&str; 3] = ["unknown", P_VALUE, UNKNOWN_AT];

/// The axis of a row.
pub(super) const ROW: &str = "cac/row";

impl Head<'_> {
    /// Adds all nodes and outputs.
    pub fn add_to(&self, graph: &mut Builder, options: &ExportOptions) {
        let (classes, batch) = (self.anchors.classes(), options.batch);
        graph.ints(ROW, &[1]);
        match self.anchors {
            &Anchors::Fixed { magnitude, .. } if classes > MATRIX_CLASSES => {
                distances_to_fixed(graph, magnitude)
            }
            anchors => distances_to_rows(graph, &anchors.to_rows()),
        }
        graph.node("Sqrt", "distances", &["cac/distances/squared"], vec![]);
        graph.node("ArgMin", "label", &["distances"], vec![axis(), Attribute::int("keepdims", 0)]);
        match &self.threshold.classes {
            None => score(graph, self.score, "score"),
            Some(thresholds) => {
                score(graph, self.score, "cac/score");
                graph.floats(CLASS_THRESHOLDS, &[thresholds.len()], thresholds);
                let rows = vec![Attribute::int("axis", 0)];
                graph.node("Gather", "cac/thresholds/own", &[CLASS_THRESHOLDS, "label"], rows);
                graph.node("Sub", "score", &["cac/score", "cac/thresholds/own"], vec![]);
            }
        }
        graph.output("logits", element::FLOAT, &[batch, Some(classes)]);
        graph.output("distances", element::FLOAT, &[batch, Some(classes)]);
        graph.output("score", element::FLOAT, &[batch]);
        graph.output("label", element::INT64, &[batch]);
        verdict(graph, self.threshold, batch, options.threshold_input);
        if options.features {
            graph.output(FEATURES, element::FLOAT, &[batch, Some(self.features)]);
        }
    }
}

/// Adds what follows from the score: the tensors of the threshold, the nodes, and their outputs.
pub(super) fn verdict(graph: &mut Builder, threshold: &Threshold, batch: Option<usize>, is_input: bool) {
    let Threshold { value, held_out_scores, operating_points, .. } = threshold;
    graph.floats("threshold", &[], &[*value]);
    if is_input {
        graph.input("threshold", element::FLOAT, &[]);
    }
    // A NaN score must be unknown, so the comparison is negated.
    graph.node("LessOrEqual", "cac/known", &["score", "threshold"], vec![]);
    graph.node("Not", "unknown", &["cac/known"], vec![]);
    graph.output("unknown", element::BOOL, &[batch]);
    if held_out_scores.is_empty() && operating_points.is_empty() {
        return;
    }
    graph.node("Unsqueeze", "cac/score/column", &["score", ROW], vec![]);
    if !held_out_scores.is_empty() {
        graph.floats("held_out_scores", &[held_out_scores.len()], held_out_scores);
        graph.node("GreaterOrEqual", "cac/p/larger", &["held_out_scores", "cac/score/column"], vec![]);
        let to_float = vec![Attribute::int("to", element::FLOAT.into())];
        graph.node("Cast", "cac/p/ones", &["cac/p/larger"], to_float);
        graph.node("ReduceSum", "cac/p/count", &["cac/p/ones", ROW], summed());
        graph.floats("cac/p/own", &[], &[1.0]);
        graph.node("Add", "cac/p/rank", &["cac/p/count", "cac/p/own"], vec![]);
        graph.floats("cac/p/all", &[], &[(held_out_scores.len() + 1) as f32]);
        graph.node("Div", P_VALUE, &["cac/p/rank", "cac/p/all"], vec![]);
        graph.output(P_VALUE, element::FLOAT, &[batch]);
    }
    if !operating_points.is_empty() {
        let values: Vec<f32> = operating_points.iter().map(|point| point.threshold).collect();
        graph.floats("operating_points", &[values.len()], &values);
        graph.node("LessOrEqual", "cac/known_at", &["cac/score/column", "operating_points"], vec![]);
        graph.node("Not", UNKNOWN_AT, &["cac/known_at"], vec![]);
        graph.output(UNKNOWN_AT, element::BOOL, &[batch, Some(values.len())]);
    }
}

/// Adds the rejection score.
fn score(graph: &mut Builder, score: &FittedScore, output: &str) {
    let terms = match score {
        FittedScore::Single(term) => return one_score(graph, "cac", term, output),
        FittedScore::Sum(terms) => terms,
    };
    let standardised: Vec<String> = (0..)
        .zip(terms)
        .map(|(number, (term, standard))| {
            let part = |name: &str| format!("cac/{number}/{name}");
            let [value, mean, deviation, centred, scaled] =
                ["score", "score/mean", "score/deviation", "score/centred", "score/standardised"].map(part);
            one_score(graph, &format!("cac/{number}"), term, &value);
            graph.floats(&mean, &[], &[standard.mean]);
            graph.floats(&deviation, &[], &[standard.deviation]);
            graph.node("Sub", &centred, &[&value, &mean], vec![]);
            graph.node("Div", &scaled, &[&centred, &deviation], vec![])
        })
        .collect();
    graph.node("Add", output, &[&standardised[0], &standardised[1]], vec![]);
}

/// Adds a score as the tensor `output`; the names of all others begin with `prefix`.
fn one_score(graph: &mut Builder, prefix: &str, term: &FittedTerm, output: &str) {
    match term {
        FittedTerm::Logits(score) => score_of_logits(graph, prefix, *score, output),
        FittedTerm::Features(constants) => score_of_features(graph, prefix, constants, output),
    }
}

fn score_of_logits(graph: &mut Builder, prefix: &str, score: LogitScore, output: &str) {
    let part = |name: &str| format!("{prefix}/{name}");
    // d (1 - softmin d), with the share of the other classes as a sum, as in `method::logits`.
    let products = |graph: &mut Builder, distances: &str| {
        let kept = || vec![Attribute::ints("axes", &[1]), Attribute::int("keepdims", 1)];
        let least = graph.node("ReduceMin", &part("nearest"), &[distances], kept());
        let closeness = graph.node("Sub", &part("closeness"), &[&least, distances], vec![]);
        let exponentials = graph.node("Exp", &part("exponentials"), &[&closeness], vec![]);
        let others = sums_of_others(graph, &part("exponentials"), &exponentials);
        let sum =
            graph.node("ReduceSum", &part("sum"), &[&exponentials, ROW], vec![Attribute::int("keepdims", 1)]);
        let share = graph.node("Div", &part("share"), &[&others, &sum], vec![]);
        graph.node("Mul", &part("rejection"), &[distances, &share], vec![])
    };
    match score {
        LogitScore::Cac => {
            let rejection = products(graph, "distances");
            graph.node("ReduceMin", output, &[&rejection], reduced());
        }
        LogitScore::MinDistance => {
            graph.node("ReduceMin", output, &["distances"], reduced());
        }
        LogitScore::PytorchOod => {
            let rejection = products(graph, "cac/distances/squared");
            let greatest = graph.node("ReduceMax", &part("rejection/greatest"), &[&rejection], reduced());
            graph.node("Neg", output, &[&greatest], vec![]);
        }
        LogitScore::Msp => {
            let softmax = graph.node("Softmax", &part("softmax"), &["logits"], vec![axis()]);
            let greatest = graph.node("ReduceMax", &part("softmax/greatest"), &[&softmax], reduced());
            graph.node("Neg", output, &[&greatest], vec![]);
        }
        LogitScore::MaxLogit => {
            let greatest = graph.node("ReduceMax", &part("logits/greatest"), &["logits"], reduced());
            graph.node("Neg", output, &[&greatest], vec![]);
        }
        LogitScore::Energy { temperature } => {
            let name = part("temperature");
            graph.floats(&name, &[], &[temperature]);
            let cooled = graph.node("Div", &part("logits/cooled"), &["logits", &name], vec![]);
            let energy = energy(graph, prefix, &cooled);
            graph.node("Mul", output, &[&energy, &name], vec![]);
        }
    }
}

/// Adds -log sum exp z of the tensor z.
fn energy(graph: &mut Builder, prefix: &str, logits: &str) -> String {
    let part = |name: &str| format!("{prefix}/{name}");
    // max log_softmax(z) = max z - log sum exp z.
    let log = graph.node("LogSoftmax", &part("softmax/log"), &[logits], vec![axis()]);
    let least = graph.node("ReduceMax", &part("softmax/log/greatest"), &[&log], reduced());
    let greatest = graph.node("ReduceMax", &part("logits/greatest"), &[logits], reduced());
    graph.node("Sub", &part("energy"), &[&least, &greatest], vec![])
}

fn score_of_features(graph: &mut Builder, prefix: &str, constants: &Constants, output: &str) {
    let part = |name: &str| format!("{prefix}/{name}");
    match constants {
        Constants::Neighbours { neighbours, bank } => {
            let points = directions(graph, prefix);
            let squares = squared_distances(graph, &part("bank"), &points, bank);
            let nearest = graph.smallest(&part("nearest"), &squares, *neighbours);
            let square = graph.node("ReduceMax", &part("nearest/square"), &[&nearest], reduced());
            let square = graph.node("Abs", &part("nearest/positive"), &[&square], vec![]);
            graph.node("Sqrt", output, &[&square], vec![]);
        }
        Constants::Gaussians { is_unit, within, means, background } => {
            let features = if *is_unit { directions(graph, prefix) } else { FEATURES.to_owned() };
            let points = affine(graph, &part("within"), &features, within);
            let squares = squared_distances(graph, &part("means"), &points, means);
            let nearest = graph.node("ReduceMin", &part("means/nearest"), &[&squares], reduced());
            if let Some(background) = background {
                let points = affine(graph, &part("background"), &features, background);
                let square = square(graph, &part("background"), &points, false);
                graph.node("Sub", output, &[&nearest, &square], vec![]);
            } else {
                let half = part("half");
                graph.floats(&half, &[], &[0.5]);
                graph.node("Mul", output, &[&nearest, &half], vec![]);
            }
        }
        Constants::Boundaries { norms, mean } => {
            let keep = |kept| vec![axis(), Attribute::int("keepdims", kept)];
            let class = graph.node("ArgMax", &part("class"), &["logits"], keep(0));
            let [all, average, width, least] = &["norms", "mean", "width", "least"].map(part);
            graph.floats(all, norms.shape(), &values(norms));
            let own =
                graph.node("Gather", &part("norms/own"), &[all, &class], vec![Attribute::int("axis", 0)]);
            let kept = vec![Attribute::ints("axes", &[1]), Attribute::int("keepdims", 1)];
            let most = graph.node("ReduceMax", &part("most"), &["logits"], kept);
            let behind = graph.node("Sub", &part("behind"), &[&most, "logits"], vec![]);
            let distances = graph.node("Div", &part("boundaries"), &[&behind, &own], vec![]);
            let sum = graph.node("ReduceSum", &part("boundaries/sum"), &[&distances, ROW], summed());
            graph.floats(average, &[mean.len()], &mean.to_vec());
            let centred = graph.node("Sub", &part("centred"), &[FEATURES, average], vec![]);
            let distance = length(graph, &part("centred"), &centred, false);
            graph.floats(least, &[], &[MIN_DISTANCE]);
            let distance = graph.node("Max", &part("centred/divisor"), &[&distance, least], vec![]);
            graph.floats(width, &[], &[1.0 - norms.nrows() as f32]);
            let divisor = graph.node("Mul", &part("divisor"), &[&distance, width], vec![]);
            graph.node("Div", output, &[&sum, &divisor], vec![]);
        }
        Constants::Residual { residual, alpha } => {
            let left = affine(graph, &part("residual"), FEATURES, residual);
            let length = length(graph, &part("residual"), &left, false);
            let scale = part("alpha");
            graph.floats(&scale, &[], &[*alpha]);
            let scaled = graph.node("Mul", &part("virtual"), &[&length, &scale], vec![]);
            let energy = energy(graph, prefix, "logits");
            graph.node("Add", output, &[&scaled, &energy], vec![]);
        }
    }
}

/// Adds the features as vectors of length 1.
fn directions(graph: &mut Builder, prefix: &str) -> String {
    let part = |name: &str| format!("{prefix}/{name}");
    let length = length(graph, &part("features"), FEATURES, true);
    let least = part("features/least");
    graph.floats(&least, &[], &[MIN_NORM]);
    let length = graph.node("Max", &part("features/divisor"), &[&length, &least], vec![]);
    graph.node("Div", &part("direction"), &[FEATURES, &length], vec![])
}

/// Adds the map of points.
fn affine(graph: &mut Builder, prefix: &str, points: &str, map: &Affine) -> String {
    let [matrix, offset] = ["matrix", "offset"].map(|name| format!("{prefix}/{name}"));
    graph.floats(&matrix, map.matrix.shape(), &values(&map.matrix));
    graph.floats(&offset, &[map.offset.len()], &map.offset.to_vec());
    let attributes = vec![Attribute::int("transB", 1), Attribute::float("beta", -1.0)];
    graph.node("Gemm", &format!("{prefix}/points"), &[points, &matrix, &offset], attributes)
}

/// Adds the squared length of each row.
fn square(graph: &mut Builder, prefix: &str, rows: &str, is_column: bool) -> String {
    let squares = graph.node("Mul", &format!("{prefix}/squares"), &[rows, rows], vec![]);
    let kept = vec![Attribute::int("keepdims", is_column.into())];
    graph.node("ReduceSum", &format!("{prefix}/square"), &[&squares, ROW], kept)
}

/// Adds the length of each row.
fn length(graph: &mut Builder, prefix: &str, rows: &str, is_column: bool) -> String {
    let square = square(graph, prefix, rows, is_column);
    graph.node("Sqrt", &format!("{prefix}/length"), &[&square], vec![])
}

/// Adds the squared distances between points and the rows of a matrix, which is stored in 16 bits if that
/// loses nothing.
fn squared_distances(graph: &mut Builder, name: &str, points: &str, rows: &Array2<f32>) -> String {
    let is_half = |&value: &f32| half::f16::from_f32(value).to_f32() == value;
    if rows.iter().all(is_half) {
        graph.halves(name, rows.shape(), &values(rows));
    } else {
        graph.floats(name, rows.shape(), &values(rows));
    }
    let squares: Array1<f32> = rows.rows().into_iter().map(|row| row.dot(&row)).collect();
    let of_rows = format!("{name}/squares");
    graph.floats(&of_rows, &[squares.len()], &squares.to_vec());
    let attributes = vec![Attribute::int("transB", 1), Attribute::float("alpha", -2.0)];
    let products = graph.node("Gemm", &format!("{name}/products"), &[points, name, &of_rows], attributes);
    let of_points = square(graph, &format!("{name}/points"), points, true);
    graph.node("Add", &format!("{name}/distances"), &[&products, &of_points], vec![])
}

fn values(matrix: &Array2<f32>) -> Vec<f32> {
    matrix.iter().copied().collect()
}

/// The largest number of classes for which fixed anchors are written as a matrix.
const MATRIX_CLASSES: usize = 256;

/// The number of anchors whose offsets to the logits are in memory at the same time.
const BLOCK: usize = 256;

/// Adds the squared distances to fixed anchors, in time and memory linear in the number of classes: the sum
/// of z² before and after class c, plus (z_c - magnitude)².
fn distances_to_fixed(graph: &mut Builder, magnitude: f32) {
    graph.floats("magnitude", &[], &[magnitude]);
    let squares = graph.node("Mul", "cac/logits/squared", &["logits", "logits"], vec![]);
    let others = sums_of_others(graph, "cac/logits/squared", &squares);
    graph.node("Sub", "cac/offsets", &["logits", "magnitude"], vec![]);
    graph.node("Mul", "cac/offsets/squared", &["cac/offsets", "cac/offsets"], vec![]);
    graph.node("Add", "cac/distances/squared", &[&others, "cac/offsets/squared"], vec![]);
}

/// Adds, for each value of a row, the sum of the others, without cancellation, as `method::anchors` does.
fn sums_of_others(graph: &mut Builder, prefix: &str, values: &str) -> String {
    let part = |name: &str| format!("{prefix}/{name}");
    let axis = part("axis");
    graph.scalar(&axis, 1);
    let [before, behind] = [("before", 0), ("behind", 1)].map(|(name, reverse)| {
        let attributes = vec![Attribute::int("exclusive", 1), Attribute::int("reverse", reverse)];
        graph.node("CumSum", &part(name), &[values, &axis], attributes)
    });
    graph.node("Add", &part("others"), &[&before, &behind], vec![])
}

/// Adds the squared distances to anchors given as rows.
fn distances_to_rows(graph: &mut Builder, rows: &Array2<f32>) {
    let classes = rows.nrows();
    graph.floats("anchors", &[classes, classes], &rows.iter().copied().collect::<Vec<_>>());
    graph.ints("cac/last", &[2]);
    graph.node("Unsqueeze", "cac/logits", &["logits", ROW], vec![]);
    let squared = |graph: &mut Builder, suffix: &str, anchors: &str| {
        let [offsets, squares] = ["offsets", "offsets/squared"].map(|part| format!("cac/{part}{suffix}"));
        graph.node("Sub", &offsets, &["cac/logits", anchors], vec![]);
        graph.node("Mul", &squares, &[&offsets, &offsets], vec![]);
        let sum = vec![Attribute::int("keepdims", 0)];
        graph.node("ReduceSum", &format!("cac/distances/squared{suffix}"), &[&squares, "cac/last"], sum)
    };
    if classes <= BLOCK {
        squared(graph, "", "anchors");
        return;
    }
    // All offsets at once would be [N, C, C].
    let lengths: Vec<i64> =
        (0..classes).step_by(BLOCK).map(|from| BLOCK.min(classes - from) as i64).collect();
    let blocks: Vec<String> = (0..lengths.len()).map(|block| format!("cac/anchors/{block}")).collect();
    graph.ints("cac/anchors/lengths", &lengths);
    graph.split("cac/anchors", &["anchors", "cac/anchors/lengths"], &blocks);
    let parts: Vec<String> = blocks
        .iter()
        .enumerate()
        .map(|(block, anchors)| squared(graph, &format!("/{block}"), anchors))
        .collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    graph.node("Concat", "cac/distances/squared", &parts, vec![Attribute::int("axis", 1)]);
}
