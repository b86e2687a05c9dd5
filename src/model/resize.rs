//! Resizing inside the graph, byte-identical to [`image::pixels`](crate::image::pixels) and so to Pillow,
//! with operators that every runtime has.
//!
//! Each axis is resized by a product with a weight matrix, which the graph computes from the shape of the
//! images. Pillow's weights are 22-bit integers, and a sum of their products with bytes has more bits than a
//! float32. So each weight is split into two numbers with few bits, whose sums of products are exact in any
//! order. An output pixel reads few source pixels, so outputs are computed in groups, each from the span of
//! pixels that it reads.

use std::{
    cell::{Cell, RefCell},
    collections::HashSet,
    ops::{Add, Div, Mul, Sub},
};

use super::{
    builder::Builder,
    file::RESIZED,
    proto::{Attribute, Graph, Model, element},
};
use crate::image::{self as pixels, Filter, Fit, Input, WEIGHT_BITS};

/// The number of output pixels in a group.
const GROUP: usize = 16;

/// The bits of the low part of a weight. Sums of products with bytes stay below 2^24 for both parts, up to
/// 1,000 source pixels per output pixel.
const LOW_BITS: u32 = 7;

/// A lower bound on the sum of the kernel over the source pixels of an output pixel that is in the image.
const MIN_SUM: f64 = 0.25;

/// Adds the nodes from `images`, bytes `[N, H, W, 3]` of any size, to [`RESIZED`], bytes as float32 `[N, 3,
/// height, width]` of an input.
pub(crate) fn resize(graph: &mut Builder, input: &Input) {
    let nodes = Nodes::new(graph);
    let images = nodes.value("images");
    let shape = images.unary("Shape");
    let [count, height, width] = [0, 1, 2].map(|axis| shape.at(axis));
    let [to_height, to_width] = sizes(&nodes, input, [&height, &width]);
    let vertical = Axis::new(&nodes, input, [&height, &to_height], input.height);
    let horizontal = Axis::new(&nodes, input, [&width, &to_width], input.width);

    // Pillow resizes the height first if it shrinks by more than twice as many pixels as the width. There is
    // no control flow: each branch gets all images or none.
    let (lower, narrower) = (&height - &to_height, &width - &to_width);
    let is_vertical_first = lower.with("Greater", &narrower * 2).with("And", lower.with("Greater", 0));
    let tall = &count * is_vertical_first.cast(element::INT64);
    let wide = &count - &tall;
    let [tall_axis, count_axis] = [&tall, &count].map(|length| length.with("Reshape", Ints(&[1])));
    let [three, room_height, room_width] =
        [3, input.height, input.width].map(|length| nodes.value_of(length as i64));

    // What a crop cuts off is not resized.
    let (images, [height, width]) = match (&vertical.span, &horizontal.span) {
        (Some(rows), Some(columns)) => {
            (images.region(rows, columns), [rows, columns].map(|[start, end]| end - start))
        }
        _ => (images, [height, width]),
    };
    let rows = images.slice(Ints(&[0]), &tall_axis).transpose(&[1, 0, 2, 3]);
    let rows = vertical.applied(&rows, [&tall, &width, &three]).transpose(&[2, 1, 0, 3]);
    let columns = horizontal.applied(&rows, [&tall, &room_height, &three]);
    let of_tall = columns.transpose(&[1, 3, 2, 0]);

    let columns = images.slice(&tall_axis, &count_axis).transpose(&[2, 0, 1, 3]);
    let columns = horizontal.applied(&columns, [&wide, &height, &three]).transpose(&[2, 1, 0, 3]);
    let rows = vertical.applied(&columns, [&wide, &room_width, &three]);
    let of_wide = rows.transpose(&[1, 3, 0, 2]);

    let join = vec![Attribute::int("axis", 0)];
    let resized = [of_tall.name.as_str(), of_wide.name.as_str()];
    match (&vertical.is_inside, &horizontal.is_inside) {
        (Some(rows), Some(columns)) => {
            let resized = nodes.node("Concat", &resized, join);
            let is_inside = rows.with("Unsqueeze", Ints(&[1])).with("And", columns);
            let fill = pixels::fill(input).map(f32::from);
            let fill = nodes.constant("fill", &[3, 1, 1], element::FLOAT, &fill, |value| value.to_le_bytes());
            nodes.named(RESIZED, "Where", &[&is_inside.name, &resized.name, &fill.name], vec![]);
        }
        _ => drop(nodes.named(RESIZED, "Concat", &resized, join)),
    }
}

/// Whether the nodes of a model are those that resize to an input.
pub(crate) fn resizes_to(model: &Model, input: &Input) -> bool {
    let mut expected = Builder::default();
    resize(&mut expected, input);
    let expected = expected.finish("");
    let has_same = |graph: &Graph| graph.node == expected.node && graph.initializer == expected.initializer;
    model.graph.as_ref().is_some_and(has_same)
}

/// The size that images of a height and width are resized to, before they are cropped or padded.
fn sizes<'a>(nodes: &'a Nodes<'a>, input: &Input, [height, width]: [&Value<'a>; 2]) -> [Value<'a>; 2] {
    let room = [input.height, input.width].map(|side| nodes.value_of(side as i64));
    match input.resize.fit {
        Fit::Stretch => room,
        Fit::Crop { share } => {
            let [high, broad] = pixels::enlarged(input, share).map(|side| nodes.value_of(side as i64));
            let is_high = (height * &broad).with("LessOrEqual", width * &high);
            let (higher, broader) = (height * &broad / width, width * &high / height);
            [is_high.choose(&high, &higher), is_high.choose(&broader, &broad)]
        }
        Fit::Pad => {
            let [to_height, to_width] = &room;
            let [high, broad] = [height, width].map(|side| side.cast(element::DOUBLE));
            let [high, broad] = [&high / &broad, &broad / &high];
            let is_broad = broad.with("Greater", input.width as f64 / input.height as f64);
            let side = |ratio: &Value<'a>, side: usize| (ratio * side as f64).round();
            let (lower, narrower) = (side(&high, input.width), side(&broad, input.height));
            [is_broad.choose(&lower, to_height), is_broad.choose(to_width, &narrower)]
        }
    }
}

/// What a resize does along one axis, on which all images have the same number of pixels.
struct Axis<'a> {
    room: usize,
    /// The first source pixel that is read, and the one after the last, each `[1]`; `None` if all are read.
    span: Option<[Value<'a>; 2]>,
    /// The source pixels of each group, `[groups, span]`, counted from the first that is read.
    indices: Value<'a>,
    /// The parts of their weights for each output pixel, `[groups, GROUP, span]`: in units of 2^-15, the low
    /// part as a fraction.
    weights: [Value<'a>; 2],
    /// Whether an output pixel is in the image, `[room]`; `None` if all are.
    is_inside: Option<Value<'a>>,
}

impl<'a> Axis<'a> {
    /// The axis on which `from` pixels become `to`. If `room` differs, the middle is kept, or padding is
    /// added.
    fn new(nodes: &'a Nodes<'a>, input: &Input, [from, to]: [&Value<'a>; 2], room: usize) -> Self {
        let fit = input.resize.fit;
        let radius = input.resize.filter.radius() as i64;
        // The last group repeats the last pixel.
        let groups = room.div_ceil(GROUP);
        let positions = (0..groups * GROUP).map(|position| position.min(room - 1));
        let kept = nodes.integers(&format!("positions/{room}"), &[groups, GROUP], positions);
        let mut positions = kept.clone();
        let mut is_inside = None;
        let mut to = to.clone();
        if fit != Fit::Stretch {
            // Negative where the image is padded. Halves are rounded to the even number, as Python does.
            let skipped = ((&to - room as i64).cast(element::DOUBLE) * 0.5).round();
            positions = kept + &skipped;
            if fit == Fit::Pad {
                let all = nodes.integers(&format!("room/{room}"), &[room], 0..room) + &skipped;
                is_inside = Some(all.with("GreaterOrEqual", 0).with("And", all.with("Less", &to)));
                // A very long image may leave no pixel of its other side.
                to = to.with("Max", 1);
            }
        }
        // All positions are integers, in units of 1 / (2 * to) source pixels.
        let unit = &to * 2;
        let middles = (&positions * 2 + 1) * from;
        let stretch = from.with("Max", &to) * 2;
        let reach = &stretch * radius;
        let span = (from * (2 * (GROUP as i64 - 1)) + &reach * 2) / &unit + 2;
        let span = span.with("Min", from);
        let first = (middles.columns(0) - &reach) / &unit;
        let first = first.with("Max", 0).with("Min", from - &span);
        let indices = &first + nodes.range(&span);
        let ends = matches!(fit, Fit::Crop { .. })
            .then(|| [first.with("Gather", 0), first.with("Gather", groups as i64 - 1) + &span]);
        let sources = (&indices * 2 + 1) * &to;
        let distances = sources.with("Unsqueeze", Ints(&[1])) - middles.with("Unsqueeze", Ints(&[2]));
        let distances = distances.unary("Abs").cast(element::DOUBLE) / stretch.cast(element::DOUBLE);
        let kernel = kernel(&distances.with("Min", radius as f64), input.resize.filter);
        let keep = vec![Attribute::int("keepdims", 1)];
        let sum = nodes.node("ReduceSum", &[&kernel.name, &Ints(&[2]).name(nodes)], keep);
        // Pixels that padding replaces may read nothing.
        let sum = if fit == Fit::Pad { sum.with("Max", MIN_SUM) } else { sum };
        let weights = (kernel / sum * f64::from(1 << WEIGHT_BITS) + 0.5).unary("Floor");
        let weights = weights * (1.0 / f64::from(1 << LOW_BITS));
        let high = (&weights + 0.5).unary("Floor");
        let weights = [high.clone(), weights - high].map(|part| part.cast(element::FLOAT));
        let indices = match &ends {
            Some([start, _]) => indices - start,
            None => indices,
        };
        Self { room, span: ends, indices, weights, is_inside }
    }

    /// Resizes the first axis of images, whose other axes have these lengths.
    fn applied(&self, images: &Value<'a>, others: [&Value<'a>; 3]) -> Value<'a> {
        let nodes = images.nodes;
        let lines = nodes.node("Flatten", &[&images.name], vec![Attribute::int("axis", 1)]);
        let lines = nodes.node("Gather", &[&lines.name, &self.indices.name], vec![Attribute::int("axis", 0)]);
        let lines = lines.cast(element::FLOAT);
        let [high, low] = self.weights.each_ref().map(|weights| weights.with("MatMul", &lines));
        let scale = 1.0 / (1 << (WEIGHT_BITS - LOW_BITS)) as f32;
        let bytes = ((high + low.unary("Floor")) * scale + 0.5_f32).unary("Floor");
        let bytes = nodes.node("Clip", &[&bytes.name, &0.0_f32.name(nodes), &255.0_f32.name(nodes)], vec![]);
        let padded = self.room.next_multiple_of(GROUP);
        let lengths = others.map(|length| length.with("Reshape", Ints(&[1])));
        let first = Ints(&[padded as i64]).name(nodes);
        let lengths = [&first, &lengths[0].name, &lengths[1].name, &lengths[2].name].map(String::as_str);
        let shape = nodes.node("Concat", &lengths, vec![Attribute::int("axis", 0)]);
        let reshape = vec![Attribute::int("allowzero", 1)];
        let bytes = nodes.node("Reshape", &[&bytes.name, &shape.name], reshape);
        if padded == self.room { bytes } else { bytes.slice(Ints(&[0]), Ints(&[self.room as i64])) }
    }
}

/// A filter at distances from 0 to its radius, not normalised.
fn kernel<'a>(x: &Value<'a>, filter: Filter) -> Value<'a> {
    let nodes = x.nodes;
    match filter {
        Filter::Bilinear => nodes.value_of(1.0) - x,
        Filter::Bicubic => {
            let near = ((x * 1.5 - 2.5) * x) * x + 1.0;
            let far = (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5;
            x.with("Less", 1.0).choose(&near, &far)
        }
    }
}

/// The nodes of the resizing. Their names are numbers.
struct Nodes<'a> {
    graph: RefCell<&'a mut Builder>,
    /// The constants added so far.
    constants: RefCell<HashSet<String>>,
    count: Cell<usize>,
}

/// A tensor of the graph. Arithmetic with it adds nodes.
#[derive(Clone)]
struct Value<'a> {
    nodes: &'a Nodes<'a>,
    name: String,
}

/// A tensor or a constant.
trait Operand<'a> {
    /// The name of the tensor.
    fn name(self, nodes: &'a Nodes<'a>) -> String;
}

/// A constant vector of integers.
struct Ints<'i>(&'i [i64]);

impl<'a> Nodes<'a> {
    fn new(graph: &'a mut Builder) -> Self {
        Self { graph: RefCell::new(graph), constants: RefCell::default(), count: Cell::new(0) }
    }

    /// An existing tensor.
    fn value(&'a self, name: &str) -> Value<'a> {
        Value { nodes: self, name: name.to_owned() }
    }

    /// A constant.
    fn value_of(&'a self, constant: impl Operand<'a>) -> Value<'a> {
        let name = constant.name(self);
        self.value(&name)
    }

    fn named(&'a self, name: &str, op: &str, inputs: &[&str], attributes: Vec<Attribute>) -> Value<'a> {
        let name = self.graph.borrow_mut().node(op, name, inputs, attributes);
        Value { nodes: self, name }
    }

    fn node(&'a self, op: &str, inputs: &[&str], attributes: Vec<Attribute>) -> Value<'a> {
        self.count.set(self.count.get() + 1);
        self.named(&format!("cac/resize/{}", self.count.get()), op, inputs, attributes)
    }

    /// The integers from 0 to below `end`.
    fn range(&'a self, end: &Value<'a>) -> Value<'a> {
        self.node("Range", &[&0.name(self), &end.name, &1.name(self)], vec![])
    }

    fn integers(&'a self, name: &str, shape: &[usize], values: impl Iterator<Item = usize>) -> Value<'a> {
        let values: Vec<i64> = values.map(|value| value as i64).collect();
        self.constant(name, shape, element::INT64, &values, |value| value.to_le_bytes())
    }

    /// A constant, added once per name.
    fn constant<T: Copy, const SIZE: usize>(
        &'a self,
        name: &str,
        shape: &[usize],
        data_type: i32,
        values: &[T],
        bytes: impl Fn(T) -> [u8; SIZE],
    ) -> Value<'a> {
        let name = format!("cac/resize/{name}");
        if self.constants.borrow_mut().insert(name.clone()) {
            self.graph.borrow_mut().constant(&name, shape, data_type, values, bytes);
        }
        Value { nodes: self, name }
    }
}

impl<'a> Value<'a> {
    fn unary(&self, op: &str) -> Self {
        self.nodes.node(op, &[&self.name], vec![])
    }

    fn with(&self, op: &str, other: impl Operand<'a>) -> Self {
        self.nodes.node(op, &[&self.name, &other.name(self.nodes)], vec![])
    }

    fn cast(&self, element: i32) -> Self {
        self.nodes.node("Cast", &[&self.name], vec![Attribute::int("to", element.into())])
    }

    /// The nearest integers of doubles, halves to even. Not every runtime rounds doubles.
    fn round(&self) -> Self {
        let below = self.unary("Floor");
        let rest = self - &below;
        let below = below.cast(element::INT64);
        let odd = (&below - &below / 2 * 2).unary("Abs");
        let more = rest.with("Greater", 0.5).choose(1, rest.with("Less", 0.5).choose(0, odd));
        below + more
    }

    fn transpose(&self, axes: &[i64]) -> Self {
        self.nodes.node("Transpose", &[&self.name], vec![Attribute::ints("perm", axes)])
    }

    /// A part of the first axis.
    fn slice(&self, start: impl Operand<'a>, end: impl Operand<'a>) -> Self {
        let (start, end) = (start.name(self.nodes), end.name(self.nodes));
        self.nodes.node("Slice", &[&self.name, &start, &end], vec![])
    }

    /// Some rows and columns, the second and third axis: from the start of each to before its end.
    fn region(&self, rows: &[Self; 2], columns: &[Self; 2]) -> Self {
        let [starts, ends] = [0, 1].map(|end| {
            let ends = [rows, columns].map(|span| span[end].name.as_str());
            self.nodes.node("Concat", &ends, vec![Attribute::int("axis", 0)]).name
        });
        let axes = Ints(&[1, 2]).name(self.nodes);
        self.nodes.node("Slice", &[&self.name, &starts, &ends, &axes], vec![])
    }

    /// An element of a vector.
    fn at(&self, index: i64) -> Self {
        self.with("Gather", index)
    }

    /// A column of a matrix, as a matrix.
    fn columns(&self, index: i64) -> Self {
        let axis = vec![Attribute::int("axis", 1)];
        self.nodes.node("Gather", &[&self.name, &Ints(&[index]).name(self.nodes)], axis)
    }

    /// One of two values, by a condition.
    fn choose(&self, yes: impl Operand<'a>, no: impl Operand<'a>) -> Self {
        let (yes, no) = (yes.name(self.nodes), no.name(self.nodes));
        self.nodes.node("Where", &[&self.name, &yes, &no], vec![])
    }
}

impl<'a> Operand<'a> for Value<'a> {
    fn name(self, _: &'a Nodes<'a>) -> String {
        self.name
    }
}

impl<'a> Operand<'a> for &Value<'a> {
    fn name(self, _: &'a Nodes<'a>) -> String {
        self.name.clone()
    }
}

impl<'a> Operand<'a> for i64 {
    fn name(self, nodes: &'a Nodes<'a>) -> String {
        let name = format!("int/{self}");
        nodes.constant(&name, &[], element::INT64, &[self], |value| value.to_le_bytes()).name
    }
}

impl<'a> Operand<'a> for f64 {
    fn name(self, nodes: &'a Nodes<'a>) -> String {
        let name = format!("double/{self}");
        nodes.constant(&name, &[], element::DOUBLE, &[self], |value| value.to_le_bytes()).name
    }
}

impl<'a> Operand<'a> for f32 {
    fn name(self, nodes: &'a Nodes<'a>) -> String {
        let name = format!("float/{self}");
        nodes.constant(&name, &[], element::FLOAT, &[self], |value| value.to_le_bytes()).name
    }
}

impl<'a> Operand<'a> for Ints<'_> {
    fn name(self, nodes: &'a Nodes<'a>) -> String {
        let Self(values) = self;
        let text: Vec<String> = values.iter().map(i64::to_string).collect();
        let name = format!("ints/{}", text.join(","));
        nodes.constant(&name, &[values.len()], element::INT64, values, |value| value.to_le_bytes()).name
    }
}

macro_rules! operators {
    ($($operator:ident, $method:ident;)*) => {$(
        impl<'a, T: Operand<'a>> $operator<T> for &Value<'a> {
            type Output = Value<'a>;

            fn $method(self, other: T) -> Value<'a> {
                self.with(stringify!($operator), other)
            }
        }

        impl<'a, T: Operand<'a>> $operator<T> for Value<'a> {
            type Output = Value<'a>;

            fn $method(self, other: T) -> Value<'a> {
                self.with(stringify!($operator), other)
            }
        }
    )*};
}

operators! {
    Add, add;
    Sub, sub;
    Mul, mul;
    Div, div;
}
