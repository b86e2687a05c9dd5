//! The metadata and the interface of a model file, checked before a runtime sees the file.

use std::collections::HashSet;

use ndarray::Array2;
#[cfg(all(feature = "files", feature = "tract"))]
use prost::bytes::Bytes;
use prost::{Message, bytes::Buf};

#[cfg(all(feature = "files", feature = "tract"))]
use super::proto::Node;
use super::{
    Decision, InputForm, Manifest,
    proto::{Attribute, Graph, Model, Tensor, Value, element},
};
#[cfg(all(feature = "files", feature = "tract"))]
use crate::method::LastLayer;
use crate::{
    error::{Error, Result},
    image::{Frame, Input},
    method::Anchors,
};

/// The maximum size, stride and padding of a convolution.
const MAX_WINDOW: i64 = 64;

/// The tensor of resized images, bytes as float32 `[N, 3, H, W]`, in models that resize.
pub(crate) const RESIZED: &str = "cac/input/resized";
/// The normalised images, followed by their mirror images if the features of both are averaged.
#[cfg(feature = "tract")]
pub(crate) const NORMALIZED: &str = "cac/input/normalized";
/// The features of both, before they are averaged.
#[cfg(feature = "tract")]
pub(crate) const VIEWS: &str = "cac/views/features";

/// The outputs of every model, in this order.
pub(crate) const OUTPUTS: [&str; 5] = ["logits", "distances", "score", "label", "unknown"];

/// Optional outputs of a model, after the others, in any order.
const FURTHER_OUTPUTS: [&str; 4] = [P_VALUE, UNKNOWN_AT, FEATURES, LOGIT_MAP];

/// The p-values, `[N]`.
pub(crate) const P_VALUE: &str = "p_value";

/// The verdicts at the operating points, `[N, K]`.
pub(crate) const UNKNOWN_AT: &str = "unknown_at";

/// What the last layer reads, `[N, F]`.
pub(crate) const FEATURES: &str = "features";

/// The logits of each place, `[N, C, h, w]`: the last layer applied to the features before they are averaged
/// over the image. Because both are linear, their mean over the places is the logits.
pub(crate) const LOGIT_MAP: &str = "logit_map";

/// The maximum size of a fixed batch: 4,096 images, or as many as fit into 1 GiB of float32.
pub(crate) fn max_batch(input: &Input) -> usize {
    4096.min((1 << 28) / (3 * input.height * input.width).max(1))
}

/// The parts of a model file that scoring needs besides the graph.
pub(crate) struct ModelFile {
    /// Names the file in errors.
    pub origin: String,
    pub manifest: Manifest,
    /// The tensor `threshold`, which other tools may have edited.
    pub threshold: f32,
    /// The batch size of the graph, if it is fixed.
    pub batch: Option<usize>,
    /// The form of `images`.
    pub input: InputForm,
    /// The names of the outputs, in order.
    pub outputs: Vec<String>,
    /// The number of features, if they are an output.
    pub features: Option<usize>,
    /// The anchors, by which places are scored; `None` without the output [`LOGIT_MAP`].
    pub anchors: Option<Anchors>,
}

impl ModelFile {
    /// Parses a file; `origin` names it in errors. The tensors of [`Bytes`](prost::bytes::Bytes) are not
    /// copied.
    pub fn parse(bytes: impl Buf, origin: &str) -> Result<(Self, Model)> {
        let broken = |reason: String| Error::Model { origin: origin.to_owned(), reason };
        let model = Model::decode(bytes).map_err(|error| broken(format!("not an ONNX file: {error}")))?;
        let graph = model.graph.as_ref().ok_or_else(|| broken("it holds no graph".to_owned()))?;
        let properties = model.metadata_props.iter().map(|entry| (entry.key.as_str(), entry.value.as_str()));
        let manifest = Manifest::from_properties(properties, origin)?;
        check_tensors(&model, graph).map_err(broken)?;
        let (input, batch) = check(graph, &manifest.decision).map_err(broken)?;
        let threshold = threshold(graph).map_err(broken)?;
        // The graph reads the tensors; other thresholds, and what is printed, come from the metadata.
        let points = manifest.decision.threshold.iter().flat_map(|threshold| &threshold.operating_points);
        let points: Vec<f32> = points.map(|point| point.threshold).collect();
        let recorded =
            [("held_out_scores", manifest.decision.held_out_scores()), ("operating_points", &points)];
        for (name, recorded) in recorded {
            if values(graph, name).is_some_and(|(_, stored)| stored != recorded) {
                return Err(broken(format!("its tensor `{name}` differs from its metadata")));
            }
        }
        let named = |name: &str| graph.output.iter().find(|output| output.name == name);
        let anchors = match named(LOGIT_MAP) {
            Some(_) => {
                let missing = || broken("its anchors cannot be read".to_owned());
                Some(anchors(graph, manifest.decision.classes.len()).ok_or_else(missing)?)
            }
            None => None,
        };
        let features = named(FEATURES).and_then(width);
        let outputs = graph.output.iter().map(|output| output.name.clone()).collect();
        let origin = origin.to_owned();
        Ok((Self { origin, manifest, threshold, batch, input, outputs, features, anchors }, model))
    }

    /// The index of an output; `None` if the model does not have it.
    #[cfg(feature = "tract")]
    pub fn output(&self, name: &str) -> Option<usize> {
        self.outputs.iter().position(|output| output == name)
    }

    /// Whether the model has an output.
    pub fn has(&self, name: &str) -> bool {
        self.outputs.iter().any(|output| output == name)
    }

    /// The number of operating points.
    pub fn operating_points(&self) -> usize {
        operating_points(&self.manifest.decision)
    }

    /// The error of this file.
    #[cfg(feature = "export")]
    pub fn broken(&self, reason: String) -> Error {
        Error::Model { origin: self.origin.clone(), reason }
    }

    /// The error of a runtime that refuses this file.
    pub fn unsupported(&self, runtime: &'static str, reason: String) -> Error {
        Error::Unsupported { origin: self.origin.clone(), runtime, reason }
    }
}

/// Checks that the model is self-contained, because ONNX Runtime would open other files that a model names,
/// and that its numbers are finite, because runtimes treat NaN differently: max(0, NaN) may be 0.
fn check_tensors(model: &Model, graph: &Graph) -> Result<(), String> {
    let attributes = || graph.node.iter().flat_map(|node| &node.attribute);
    let is_odd = |attribute: &Attribute| {
        let has_graphs = attribute.g.is_some() || !attribute.graphs.is_empty();
        has_graphs || attribute.sparse_tensor.is_some() || !attribute.sparse_tensors.is_empty()
    };
    if attributes().any(is_odd) || !model.functions.is_empty() || !graph.sparse_initializer.is_empty() {
        return Err("it has functions, control flow or sparse tensors".to_owned());
    }
    for attribute in attributes() {
        if attribute.f.iter().chain(&attribute.floats).any(|value| !value.is_finite()) {
            return Err(format!("its attribute `{}` holds NaN or an infinity", attribute.name));
        }
    }
    let in_attributes = attributes().flat_map(|attribute| attribute.t.iter().chain(&attribute.tensors));
    for tensor in graph.initializer.iter().chain(in_attributes) {
        if tensor.data_location != 0 {
            return Err(format!("its tensor `{}` is in another file", tensor.name));
        }
        // Runtimes differ in which of them they read.
        if !tensor.raw_data.is_empty() && tensor.has_typed_data() {
            return Err(format!(
                "its tensor `{}` has values in `raw_data` and in another field",
                tensor.name
            ));
        }
        // A threshold that keeps every image is infinite.
        if tensor.name != "threshold" && tensor.has_non_finite() {
            return Err(format!("its tensor `{}` holds NaN or an infinity", tensor.name));
        }
    }
    Ok(())
}

/// A shape with `?` for sizes that are not fixed.
fn text(shape: &[Option<usize>]) -> String {
    let sizes: Vec<String> =
        shape.iter().map(|size| size.map_or("?".to_owned(), |size| size.to_string())).collect();
    format!("[{}]", sizes.join(", "))
}

/// The length of a row of an output, if it is stated.
fn width(output: &Value) -> Option<usize> {
    output.tensor()?.1.get(1).copied().flatten()
}

fn operating_points(decision: &Decision) -> usize {
    decision.threshold.as_ref().map_or(0, |threshold| threshold.operating_points.len())
}

/// Checks inputs, outputs and nodes. Returns the form of the input, and the batch size if it is fixed.
fn check(graph: &Graph, decision: &Decision) -> Result<(InputForm, Option<usize>), String> {
    // Of equal names, runtimes take the last.
    let mut names = HashSet::new();
    if let Some(twice) = graph.initializer.iter().find(|tensor| !names.insert(&tensor.name)) {
        return Err(format!("it has two tensors `{}`", twice.name));
    }
    let computed: HashSet<&str> =
        graph.node.iter().flat_map(|node| &node.output).map(String::as_str).collect();
    let input = check_inputs(graph, decision, &computed)?;
    check_outputs(graph, decision, &computed)?;
    check_convolutions(graph)?;
    Ok(input)
}

/// Checks the inputs, and what resizes them.
fn check_inputs(
    graph: &Graph,
    decision: &Decision,
    computed: &HashSet<&str>,
) -> Result<(InputForm, Option<usize>), String> {
    // A threshold is optional: the tensor of this name is its default.
    let [images, further @ ..] = &graph.input[..] else { return Err("it has no input".to_owned()) };
    if further.iter().any(|input| input.name != "threshold") || further.len() > 1 {
        let names: Vec<&str> = graph.input.iter().map(|input| input.name.as_str()).collect();
        return Err(format!("its inputs are {names:?}, expected \"images\" and at most \"threshold\""));
    }
    let (kind, shape) = images.tensor().ok_or("its input has no tensor type")?;
    let form = match kind {
        _ if decision.resizes => InputForm::AnySize,
        element::UINT8 => InputForm::Bytes,
        _ => InputForm::Floats,
    };
    let [height, width] = [Some(decision.input.height), Some(decision.input.width)];
    let (expected_kind, expected) = match form {
        InputForm::AnySize => (element::UINT8, [None, None, Some(3)]),
        InputForm::Bytes => (element::UINT8, [height, width, Some(3)]),
        InputForm::Floats => (element::FLOAT, [Some(3), height, width]),
    };
    if images.name != "images" || kind != expected_kind || shape.get(1..) != Some(&expected[..]) {
        let found = format!("`{}` {} {}", images.name, element::name(kind), text(&shape));
        let shape = text(&[&[None], &expected[..]].concat());
        return Err(format!(
            "its input is {found}, expected `images` {} {shape}",
            element::name(expected_kind)
        ));
    }
    if form == InputForm::AnySize {
        if !computed.contains(RESIZED) {
            return Err(format!("no node computes `{RESIZED}`"));
        }
        if Frame::of(&decision.input).is_none() {
            return Err("it enlarges images to more pixels than an image may have".to_owned());
        }
    }
    let most = max_batch(&decision.input);
    match shape[0] {
        Some(batch) if batch > most => Err(format!("its batch is fixed to {batch} images, more than {most}")),
        batch => Ok((form, batch)),
    }
}

/// Checks the names of the outputs and their numbers of columns.
fn check_outputs(graph: &Graph, decision: &Decision, computed: &HashSet<&str>) -> Result<(), String> {
    let outputs: Vec<&str> = graph.output.iter().map(|output| output.name.as_str()).collect();
    let further = outputs.strip_prefix(&OUTPUTS);
    let is_known = |further: &[&str]| {
        (0..further.len())
            .all(|n| FURTHER_OUTPUTS.contains(&further[n]) && !further[..n].contains(&further[n]))
    };
    if !further.is_some_and(is_known) {
        return Err(format!(
            "its outputs are {outputs:?}, expected {OUTPUTS:?}, then any of {FURTHER_OUTPUTS:?}, each once"
        ));
    }
    if let Some(missing) = outputs.iter().find(|output| !computed.contains(*output)) {
        return Err(format!("no node computes its output `{missing}`"));
    }
    match (outputs.contains(&LOGIT_MAP), &decision.places) {
        (true, None) => return Err(format!("it has the output `{LOGIT_MAP}`, but no metadata `cac.places`")),
        (false, Some(_)) => {
            return Err(format!("it has the metadata `cac.places`, but no output `{LOGIT_MAP}`"));
        }
        _ => {}
    }
    for output in &graph.output {
        let expected = match output.name.as_str() {
            "logits" | "distances" | LOGIT_MAP => decision.classes.len(),
            UNKNOWN_AT => operating_points(decision),
            FEATURES if width(output).is_none() => {
                return Err(format!("its output `{FEATURES}` does not state its number of columns"));
            }
            _ => continue,
        };
        let name = &output.name;
        if let Some(found) = width(output).filter(|&found| found != expected) {
            return Err(format!(
                "its output `{name}` has {found} columns, expected {expected} as in its metadata"
            ));
        }
    }
    Ok(())
}

/// Checks the sizes, strides and paddings of the convolutions.
fn check_convolutions(graph: &Graph) -> Result<(), String> {
    let mut windows =
        graph.node.iter().filter(|node| node.op_type == "Conv").flat_map(|node| &node.attribute);
    let least = |attribute: &Attribute| if attribute.name == "pads" { 0 } else { 1 };
    let is_odd = |attribute: &&Attribute| {
        attribute.ints.iter().any(|size| !(least(attribute)..=MAX_WINDOW).contains(size))
    };
    if let Some(odd) = windows.find(is_odd) {
        let (name, sizes, least) = (&odd.name, &odd.ints, least(odd));
        return Err(format!("a convolution has `{name}` {sizes:?}, expected {least} to {MAX_WINDOW}"));
    }
    Ok(())
}

/// The anchors of a graph for this many classes, if they are in the toolkit's form.
pub(super) fn anchors(graph: &Graph, classes: usize) -> Option<Anchors> {
    if let Some((_, rows)) = values(graph, "anchors") {
        return Some(Anchors::from_rows(Array2::from_shape_vec((classes, classes), rows).ok()?));
    }
    let [magnitude] = values(graph, "magnitude")?.1[..] else { return None };
    Some(Anchors::Fixed { classes, magnitude })
}

/// The shape and the values of a float32 tensor, or of the float16 one that a node casts to it.
pub(crate) fn values(graph: &Graph, name: &str) -> Option<(Vec<usize>, Vec<f32>)> {
    let tensor = |name: &str| graph.initializer.iter().find(|tensor| tensor.name == name);
    let shape = |tensor: &Tensor| -> Option<Vec<usize>> {
        tensor.dims.iter().map(|&length| usize::try_from(length).ok()).collect()
    };
    if let Some(tensor) = tensor(name) {
        let raw = || tensor.raw_data.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
        let values = if tensor.raw_data.is_empty() { tensor.float_data.clone() } else { raw() };
        return (tensor.data_type == element::FLOAT).then_some((shape(tensor)?, values));
    }
    let cast = graph.node.iter().find(|node| node.op_type == "Cast" && node.output == [name])?;
    let tensor = tensor(cast.input.first()?).filter(|tensor| tensor.data_type == element::FLOAT16)?;
    let values = tensor.raw_data.as_chunks().0.iter().map(|&bytes| half::f16::from_le_bytes(bytes).to_f32());
    Some((shape(tensor)?, values.collect()))
}

/// The last layer of a graph and the tensor that it reads, if it is in the toolkit's form.
#[cfg(all(feature = "files", feature = "tract"))]
pub(super) fn last_layer(graph: &Graph, classes: usize) -> Option<(LastLayer, &str)> {
    let node = graph.node.iter().find(|node| node.op_type == "Gemm" && node.output == ["logits"])?;
    let [features, weight, bias] = &node.input[..] else { return None };
    let ((shape, weight), (_, bias)) = (values(graph, weight)?, values(graph, bias)?);
    if shape.first() != Some(&classes) || bias.len() != classes {
        return None;
    }
    let weight = Array2::from_shape_vec((classes, *shape.get(1)?), weight).ok()?;
    Some((LastLayer { weight, bias }, features))
}

/// A model file with the output `features`, which is added if it is missing.
///
/// # Errors
/// [`Error::Model`] and [`Error::FormatVersion`] if it is not a valid model of this toolkit, or its last
/// layer does not have the form that this toolkit writes.
#[cfg(all(feature = "files", feature = "tract"))]
pub fn with_features(bytes: Bytes, origin: &str) -> Result<Bytes> {
    let (file, model) = ModelFile::parse(bytes.clone(), origin)?;
    let broken = |reason: String| Error::Model { origin: origin.to_owned(), reason };
    let graph = model.graph.unwrap_or_default();
    let last = last_layer(&graph, file.manifest.decision.classes.len());
    if let Some(found) = file.features {
        return match last.map(|(layer, _)| layer.weight.ncols()).filter(|&width| width != found) {
            Some(width) => Err(broken(format!(
                "its output `{FEATURES}` has {found} columns, but its last layer reads {width}"
            ))),
            None => Ok(bytes),
        };
    }
    let Some((layer, read)) = last else {
        return Err(broken("its last layer does not have the form that this toolkit writes".to_owned()));
    };
    let width = layer.weight.ncols();
    let mut added = Graph {
        output: vec![Value::new(FEATURES, element::FLOAT, &[file.batch, Some(width)])],
        ..Graph::default()
    };
    if read != FEATURES {
        added.node.push(Node {
            input: vec![read.to_owned()],
            output: vec![FEATURES.to_owned()],
            name: FEATURES.to_owned(),
            op_type: "Identity".to_owned(),
            attribute: Vec::new(),
            domain: String::new(),
        });
    }
    // Protobuf readers merge concatenated messages, so the file keeps what is not decoded here.
    let added = Model { graph: Some(added), ..Model::default() };
    Ok([&bytes[..], &added.encode_to_vec()].concat().into())
}

fn threshold(graph: &Graph) -> Result<f32, String> {
    match values(graph, "threshold").as_ref().map(|(_, values)| &values[..]) {
        Some([value]) if value.is_nan() => Err("its tensor `threshold` is NaN".to_owned()),
        Some([value]) => Ok(*value),
        _ => Err("it has no tensor `threshold` with one float32".to_owned()),
    }
}

#[cfg(all(test, feature = "files", feature = "tract"))]
mod tests {
    use prost::bytes::Bytes;

    use super::*;

    #[test]
    fn no_layer_may_be_named_like_an_output() {
        for name in OUTPUTS.iter().chain(&FURTHER_OUTPUTS) {
            assert!(crate::arch::RESERVED.contains(name), "{name}");
        }
    }

    #[test]
    fn a_tensor_that_is_there_twice_is_refused() {
        let whole = include_bytes!("../../exported/cifar10-cifar-net.onnx");
        let threshold = Tensor {
            name: "threshold".to_owned(),
            data_type: element::FLOAT,
            float_data: vec![-1000.0],
            ..Tensor::default()
        };
        // Protobuf readers merge concatenated messages.
        let graph = Graph { initializer: vec![threshold], ..Graph::default() };
        let more = Model { graph: Some(graph), ..Model::default() }.encode_to_vec();
        let error = ModelFile::parse(Bytes::from([&whole[..], &more].concat()), "x").err().expect("an error");
        assert!(error.to_string().contains("it has two tensors `threshold`"), "{error}");
    }

    #[test]
    fn other_held_out_scores_than_in_the_metadata_are_refused() {
        let whole = include_bytes!("../../exported/cifar10-cifar-net.onnx");
        let mut model = Model::decode(&whole[..]).unwrap();
        let tensors = &mut model.graph.as_mut().unwrap().initializer;
        let scores = tensors.iter_mut().find(|tensor| tensor.name == "held_out_scores").unwrap();
        let mut values = scores.raw_data.to_vec();
        values[0] ^= 1;
        scores.raw_data = values.into();
        let error = ModelFile::parse(Bytes::from(model.encode_to_vec()), "x").err().expect("an error");
        assert!(error.to_string().contains("its tensor `held_out_scores` differs"), "{error}");
    }

    #[test]
    fn anchors_are_read_as_rows_or_as_a_magnitude() {
        let graph = |name: &str, values: &[f32], is_raw: bool| {
            let raw_data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            let tensor = Tensor {
                name: name.to_owned(),
                data_type: element::FLOAT,
                float_data: if is_raw { Vec::new() } else { values.to_vec() },
                raw_data: if is_raw { raw_data } else { Bytes::new() },
                ..Tensor::default()
            };
            Graph { initializer: vec![tensor], ..Graph::default() }
        };
        let rows = [3.0, 1.0, 0.0, 2.0];
        for is_raw in [false, true] {
            let found = anchors(&graph("anchors", &rows, is_raw), 2).unwrap();
            assert_eq!(found, Anchors::Rows(ndarray::arr2(&[[3.0, 1.0], [0.0, 2.0]])));
            let found = anchors(&graph("magnitude", &[7.0], is_raw), 300).unwrap();
            assert_eq!(found, Anchors::Fixed { classes: 300, magnitude: 7.0 });
        }
        for wrong in [graph("anchors", &rows, true), graph("magnitude", &rows, true), graph("x", &rows, true)]
        {
            assert_eq!(anchors(&wrong, 3), None);
        }
    }
}
