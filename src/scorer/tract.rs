//! tract: one image at a time on every thread, which is faster than batches.

mod padding;
mod quantizing;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
};

use ndarray::Array4;
use prost::Message;
use rayon::prelude::*;
use tract_onnx::{
    pb::{ModelProto, type_proto},
    prelude::*,
    tract_core::{
        internal::{ensure, format_err},
        ops::{cnn::Conv, source::TypedSource},
    },
};

use super::{
    images::Images,
    outputs::{Outputs, Returned},
};
use crate::{
    error::{Error, Result},
    image::Input,
    model::{
        InputForm,
        file::{ModelFile, NORMALIZED, RESIZED, VIEWS},
        proto::{Graph, Model, Node, Value, element},
    },
    panics::caught,
};

pub(crate) const NAME: &str = "tract";
/// Name and version, for the history of a model.
#[cfg(feature = "export")]
pub(crate) const TRACT: &str = "tract 0.23.9";

/// The number of nodes after which a part of a network may end.
const PART: usize = 20;

/// A network that is ready to run, in stages: each takes what the previous one returns.
pub(crate) struct Plan(Vec<Stage<Arc<TypedRunnableModel>>>);

/// A stage of a network, in parts: each takes what the previous one returns.
struct Stage<Part> {
    parts: Vec<Part>,
    /// Whether each row of the only input runs by itself.
    is_by_row: bool,
}

impl Plan {
    /// Optimises a model that takes float32.
    #[cfg(any(feature = "export", test))]
    pub(crate) fn of_floats(bytes: &[u8], shape: [usize; 4]) -> Result<Self, String> {
        Self::new(bytes, f32::fact(shape))
    }

    fn new(bytes: &[u8], input: TypedFact) -> Result<Self, String> {
        let stage = unpanicked(|| {
            let model = opened(bytes)?.with_input_fact(0, input.into())?;
            Ok(Stage { parts: parts(&model.into_typed()?)?, is_by_row: false })
        })?;
        Self::optimized(vec![stage])
    }

    /// Optimises a model that averages the features of `count` images and of their mirror images; `size` is
    /// their height and width. Each view runs through the network separately: on several threads, and in
    /// convolutions of one image, which tract computes faster than those of several.
    ///
    /// An error if the model cannot be divided like this.
    fn by_view(bytes: &[u8], input: TypedFact, count: usize, size: [usize; 2]) -> Result<Self, String> {
        let stages = unpanicked(|| {
            let model = opened(bytes)?;
            let outlet = |name: &str| model.find_outlet_label(name).ok_or_else(|| format_err!("no `{name}`"));
            let (normalized, views) = (outlet(NORMALIZED)?, outlet(VIEWS)?);
            let stage = |model: InferenceModel, input: TypedFact, is_by_row: bool| {
                let model = model.with_input_fact(0, input.into())?.into_compact()?.into_typed()?;
                let sources = model.nodes().iter().filter(|node| node.op_is::<TypedSource>());
                ensure!(sources.count() == 1, "another tensor is read");
                let output = model.output_fact(0)?.without_value();
                Ok((Stage { parts: parts(&model)?, is_by_row }, output))
            };
            let [height, width] = size;
            let (mirror, images) = stage(model.clone().with_output_outlets(&[normalized])?, input, false)?;
            ensure!(images == f32::fact([2 * count, 3, height, width]), "the images are {images:?}");
            let network = model.clone().with_input_outlets(&[normalized])?.with_output_outlets(&[views])?;
            let (network, mut features) = stage(network, f32::fact([1, 3, height, width]), true)?;
            ensure!(features.shape.first() == Some(&1.to_dim()), "the features are {features:?}");
            features.shape.set(0, (2 * count).to_dim());
            let (rest, _) = stage(model.with_input_outlets(&[views])?, features, false)?;
            Ok(vec![mirror, network, rest])
        })?;
        Self::optimized(stages)
    }

    fn optimized(stages: Vec<Stage<TypedModel>>) -> Result<Self, String> {
        let ready = |part: TypedModel| {
            unpanicked(|| {
                let mut part = part.into_optimized()?;
                padding::replace(&mut part);
                quantizing::replace(&mut part);
                part.into_runnable()
            })
        };
        // Half the nodes are optimised in less than half the time, and parts in parallel.
        let stage = |Stage { parts, is_by_row }: Stage<TypedModel>| {
            let parts = parts.into_par_iter().map(ready).collect::<Result<_, _>>()?;
            Ok(Stage { parts, is_by_row })
        };
        Ok(Self(stages.into_par_iter().map(stage).collect::<Result<_, String>>()?))
    }

    /// Runs the network; the outputs are in the order of the graph.
    pub(crate) fn run(&self, input: Tensor) -> Result<TVec<TValue>, String> {
        self.0.iter().try_fold(tvec!(input.into()), |values, stage| stage.run(values))
    }
}

impl Stage<Arc<TypedRunnableModel>> {
    fn run(&self, inputs: TVec<TValue>) -> Result<TVec<TValue>, String> {
        let whole = |inputs: TVec<TValue>| {
            unpanicked(|| self.parts.iter().try_fold(inputs, |values, part| part.run(values)))
        };
        if !self.is_by_row {
            return whole(inputs);
        }
        let [input] = &inputs[..] else { return Err("rows of several tensors".to_owned()) };
        let row = |row| {
            let row = unpanicked(|| input.slice(0, row, row + 1))?;
            whole(tvec!(row.into()))
        };
        let rows = (0..input.shape().first().copied().unwrap_or_default())
            .into_par_iter()
            .map(row)
            .collect::<Result<Vec<_>, _>>()?;
        let rows: Vec<&Tensor> = rows.iter().flatten().map(|row| &**row).collect();
        Ok(tvec!(unpanicked(|| Tensor::stack_tensors(0, &rows))?.into()))
    }
}

/// The graph of a model file, without what it says of shapes: the input's is given, and the others follow. The
/// names of axes are expressions to tract, whose parser has no limit of depth.
fn opened(bytes: &[u8]) -> TractResult<InferenceModel> {
    let mut model = ModelProto::decode(bytes)?;
    for value in model.graph.iter_mut().flat_map(|graph| &mut graph.input) {
        if let Some(type_proto::Value::TensorType(tensor)) =
            value.r#type.as_mut().and_then(|kind| kind.value.as_mut())
        {
            tensor.shape = None;
        }
    }
    tract_onnx::onnx().with_ignore_value_info(true).model_for_proto_model(&model)
}

/// Cuts a network where all that follows depends on one tensor only. No cut separates nodes that tract would
/// fuse: the tensor is read by convolutions, or more than once.
fn parts(model: &TypedModel) -> TractResult<Vec<TypedModel>> {
    let mut is_computed = vec![false; model.nodes().len()];
    for input in model.input_outlets()? {
        is_computed[input.node] = true;
    }
    // The tensors computed so far, with the number of their remaining uses.
    let mut open: HashMap<OutletId, usize> = HashMap::new();
    let (mut cuts, mut size) = (Vec::new(), 0);
    for id in model.eval_order()? {
        let node = model.node(id);
        is_computed[id] |= node.inputs.iter().any(|input| is_computed[input.node]);
        if !is_computed[id] {
            continue;
        }
        size += 1;
        for input in &node.inputs {
            if let Some(uses) = open.get_mut(input) {
                *uses -= 1;
                if *uses == 0 {
                    open.remove(input);
                }
            }
        }
        let is_output = |outlet| model.outputs.contains(&outlet);
        for (slot, output) in node.outputs.iter().enumerate() {
            let outlet = OutletId::new(id, slot);
            let uses = output.successors.len() + usize::from(is_output(outlet));
            if uses > 0 {
                open.insert(outlet, uses);
            }
        }
        let [output] = &node.outputs[..] else { continue };
        let outlet = OutletId::new(id, 0);
        let carries_all = open.len() == 1 && open.contains_key(&outlet) && !is_output(outlet);
        let reads = |reader: &InletId| model.node(reader.node).op_is::<Conv>();
        if size >= PART && carries_all && (output.successors.len() > 1 || output.successors.iter().all(reads))
        {
            cuts.push(vec![outlet]);
            size = 0;
        }
    }
    let (first, last) = ([model.inputs.clone()], [model.outputs.clone()]);
    let ends = first.iter().chain(&cuts).zip(cuts.iter().chain(&last));
    ends.map(|(from, to)| model.clone().with_input_outlets(from)?.with_output_outlets(to)?.into_compact())
        .collect()
}

/// The number of image sizes whose plans are kept.
const SIZES_KEPT: usize = 16;

/// The part of a model that resizes images. tract needs to know all shapes, so there is a plan for each image
/// size.
pub(crate) struct Resizer {
    /// The nodes up to [`RESIZED`], as a model.
    model: Vec<u8>,
    /// The number of images that a plan takes.
    batch: usize,
    /// The most recently used plans, by height and width, the newest at the end.
    plans: Mutex<Vec<([usize; 2], Arc<Plan>)>>,
}

/// Cuts a model that resizes in two: its resizing, for batches of a size, and the rest, which takes resized
/// images.
pub(crate) fn cut(model: &Model, batch: usize, size: [usize; 2]) -> (Model, Model) {
    let graph = model.graph.clone().unwrap_or_default();
    let is_last = |node: &Node| node.output.iter().any(|output| output == RESIZED);
    let count = graph.node.iter().position(is_last).map_or(0, |last| last + 1);
    let (first, rest) = graph.node.split_at(count);
    let part = |nodes: &[Node], input: Vec<Value>, output: Vec<Value>| {
        let read: HashSet<&String> = nodes.iter().flat_map(|node| &node.input).collect();
        let constants = graph.initializer.iter().filter(|constant| read.contains(&constant.name));
        let initializer = constants.cloned().collect();
        let input = input.into_iter().filter(|input| read.contains(&input.name)).collect();
        let graph = Graph { node: nodes.to_vec(), initializer, input, output, ..Graph::default() };
        Model { graph: Some(graph), metadata_props: Vec::new(), ..model.clone() }
    };
    let [height, width] = size.map(Some);
    let resized = || vec![Value::new(RESIZED, element::FLOAT, &[Some(batch), Some(3), height, width])];
    (part(first, graph.input.clone(), resized()), part(rest, resized(), graph.output.clone()))
}

impl Resizer {
    /// The resizing of a model, as [cut](cut) off.
    pub(crate) fn new(model: &Model, batch: usize) -> Self {
        Self { model: model.encode_to_vec(), batch, plans: Mutex::default() }
    }

    /// Resizes images `[N, H, W, 3]` of bytes to `[N, 3, height, width]`.
    pub(crate) fn run(&self, images: Array4<u8>) -> Result<Tensor, String> {
        let (_, height, width, _) = images.dim();
        let mut resized = self.plan([height, width])?.run(images.into())?;
        Ok(resized.remove(0).into_tensor())
    }

    fn plan(&self, size: [usize; 2]) -> Result<Arc<Plan>, String> {
        let kept = || self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        let place = |plans: &[([usize; 2], _)]| plans.iter().position(|(other, _)| *other == size);
        let mut plans = kept();
        if let Some(place) = place(&plans) {
            let found = plans.remove(place);
            plans.push(found.clone());
            return Ok(found.1);
        }
        // Other threads need not wait.
        drop(plans);
        let plan = Arc::new(Plan::new(&self.model, u8::fact([self.batch, size[0], size[1], 3]))?);
        let mut plans = kept();
        if place(&plans).is_none() {
            if plans.len() == SIZES_KEPT {
                plans.remove(0);
            }
            plans.push((size, plan.clone()));
        }
        Ok(plan)
    }
}

/// What the network reads.
enum Feed {
    Floats,
    Bytes,
    /// What [`image::pixels`](crate::image::pixels) has resized before the images get here: the nodes are those
    /// that this toolkit writes, which compute the same bytes.
    Resized,
    /// What the nodes of the graph resize.
    ResizedBy(Resizer),
}

/// Whether nodes that resize are those of an export, which do what [`image::pixels`](crate::image::pixels)
/// does.
#[cfg(feature = "export")]
fn resizes_as_written(resizing: &Model, input: &Input) -> bool {
    crate::model::resize::resizes_to(resizing, input)
}

/// Without the feature `export` there is nothing to compare them with, so they are run.
#[cfg(not(feature = "export"))]
fn resizes_as_written(_: &Model, _: &Input) -> bool {
    false
}

pub(super) struct Tract {
    feed: Feed,
    /// The network, after the resizing.
    plan: Plan,
    /// The number of images that the plan takes: the file's fixed batch, or 1.
    batch: usize,
}

/// The name of the runtime, and its threads.
pub(super) fn description() -> String {
    match rayon::current_num_threads() {
        1 => format!("{NAME}, 1 thread"),
        threads => format!("{NAME}, {threads} threads"),
    }
}

impl Tract {
    pub fn new(bytes: &[u8], model: &Model, file: &ModelFile) -> Result<Self> {
        let batch = file.batch.unwrap_or(1);
        let (height, width) = (file.manifest.decision.input.height, file.manifest.decision.input.width);
        let nodes = model.graph.iter().flat_map(|graph| &graph.node);
        let has_views = nodes.flat_map(|node| &node.output).any(|output| output == VIEWS);
        let plan = |bytes: &[u8], input: TypedFact| {
            let by_view = has_views.then(|| Plan::by_view(bytes, input.clone(), batch, [height, width]));
            by_view.and_then(Result::ok).map_or_else(|| Plan::new(bytes, input), Ok)
        };
        let floats = f32::fact([batch, 3, height, width]);
        let (feed, plan) = match file.input {
            InputForm::Floats => (Feed::Floats, plan(bytes, floats)),
            InputForm::Bytes => (Feed::Bytes, plan(bytes, u8::fact([batch, height, width, 3]))),
            InputForm::AnySize => {
                let (resizing, rest) = cut(model, batch, [height, width]);
                let is_ours = resizes_as_written(&resizing, &file.manifest.decision.input);
                let feed =
                    if is_ours { Feed::Resized } else { Feed::ResizedBy(Resizer::new(&resizing, batch)) };
                (feed, plan(&rest.encode_to_vec(), floats))
            }
        };
        let plan = plan.map_err(|reason| file.unsupported(NAME, reason))?;
        Ok(Self { feed, plan, batch })
    }

    /// Whether images are resized by the nodes of the graph.
    pub fn resizes(&self) -> bool {
        matches!(self.feed, Feed::ResizedBy(_))
    }

    pub fn run(&self, images: Images, file: &ModelFile) -> Result<Outputs> {
        let parts: Vec<Outputs> = (0..images.len().div_ceil(self.batch))
            .into_par_iter()
            .map(|number| self.run_plan(images.part(number * self.batch, self.batch), file))
            .collect::<Result<_>>()?;
        Outputs::concatenate(parts, file, NAME)
    }

    fn run_plan(&self, images: Images, file: &ModelFile) -> Result<Outputs> {
        let failed = |reason: String| Error::Runtime { runtime: NAME, reason };
        let n = images.len();
        let input: Tensor = match &self.feed {
            Feed::Floats => images.to_floats().into(),
            Feed::Bytes => images.to_bytes().into(),
            Feed::Resized => images.to_resized().into(),
            Feed::ResizedBy(resizer) => resizer.run(images.to_bytes()).map_err(failed)?,
        };
        let outputs = self.plan.run(input).map_err(failed)?;
        Outputs::read(&Named { outputs: &outputs, file }, NAME, n, file)
    }
}

/// The outputs of a plan, in the order of the file.
struct Named<'a> {
    outputs: &'a [TValue],
    file: &'a ModelFile,
}

impl Named<'_> {
    fn values<T: Datum + Copy>(&self, name: &str) -> Result<(Vec<usize>, Vec<T>), String> {
        let output = &self.outputs[self.file.output(name).expect("only outputs of the file are read")];
        let view = output.to_plain_array_view::<T>().map_err(|error| format!("{error:#}"))?;
        Ok((view.shape().to_vec(), view.iter().copied().collect()))
    }
}

impl Returned for Named<'_> {
    fn floats(&self, name: &str) -> Result<(Vec<usize>, Vec<f32>), String> {
        self.values(name)
    }

    fn integers(&self, name: &str) -> Result<Vec<i64>, String> {
        Ok(self.values(name)?.1)
    }

    fn flags(&self, name: &str) -> Result<Vec<bool>, String> {
        Ok(self.values(name)?.1)
    }
}

/// Turns a panic into an error: tract panics on some malformed graphs, which a hostile file may hold.
fn unpanicked<T>(run: impl FnOnce() -> TractResult<T>) -> Result<T, String> {
    match caught(run) {
        Some(result) => result.map_err(|error| format!("{error:#}")),
        None => Err("it panicked on the graph".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use tract_onnx::tract_core::ops::array::Pad;

    use super::*;
    use crate::model::proto::Attribute;

    #[test]
    fn a_network_in_parts_computes_the_same_as_the_whole() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("exported/cifar10-wrn-40-2.onnx");
        let bytes = &std::fs::read(path).unwrap();
        let shape = [1, 3, 32, 32];
        let plan = Plan::of_floats(bytes, shape).unwrap();
        let [Stage { parts, .. }] = &plan.0[..] else { panic!("{} stages", plan.0.len()) };
        assert_eq!(parts.len(), 6);
        let mut nodes = parts.iter().flat_map(|part| part.model().nodes());
        assert!(nodes.all(|node| !node.op_is::<Pad>()));
        let whole = tract_onnx::onnx().model_for_read(&mut &bytes[..]).unwrap();
        let whole = whole.with_input_fact(0, f32::fact(shape).into()).unwrap();
        let whole = whole.into_optimized().unwrap().into_runnable().unwrap();
        let whole = Plan(vec![Stage { parts: vec![whole], is_by_row: false }]);
        let image =
            Array4::from_shape_fn(shape, |(_, channel, y, x)| ((7 * y + 3 * x + channel) % 32) as f32 / 31.0);
        let [parts, whole] = [plan, whole].map(|plan| plan.run(image.clone().into()).unwrap());
        assert_eq!(parts.len(), whole.len());
        for (part, whole) in parts.iter().zip(&whole) {
            part.close_enough(whole, true).unwrap();
        }
    }

    /// Whether each stage of a model's plan runs by row.
    fn stages(model: &Model) -> Vec<bool> {
        let bytes = model.encode_to_vec();
        let (file, model) = ModelFile::parse(&bytes[..], "model").unwrap();
        let plan = Tract::new(&bytes, &model, &file).unwrap().plan;
        plan.0.iter().map(|stage| stage.is_by_row).collect()
    }

    #[test]
    fn views_run_separately_and_compute_the_same_as_together() {
        let exported = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("exported");
        let read = |name: &str| std::fs::read(exported.join(name)).unwrap();
        let bytes = &read("cifar10-cifar-net.onnx");
        let shape = [3, 3, 32, 32];
        let by_view = Plan::by_view(bytes, f32::fact(shape), 3, [32, 32]).unwrap();
        let together = Plan::of_floats(bytes, shape).unwrap();
        let images = Array4::from_shape_fn(shape, |(number, channel, y, x)| {
            ((7 * y + (3 + number) * x + channel) % 32) as f32 / 31.0
        });
        let [by_view, together] = [by_view, together].map(|plan| plan.run(images.clone().into()).unwrap());
        assert_eq!(by_view.len(), together.len());
        for (one, other) in by_view.iter().zip(&together) {
            one.close_enough(other, true).unwrap();
        }

        let model = Model::decode(&bytes[..]).unwrap();
        assert_eq!(stages(&model), [false, true, false]);
        let plain = Model::decode(&read("cifar10-wrn-40-2.onnx")[..]).unwrap();
        assert_eq!(stages(&plain), [false]);
        // The names of nodes do not matter; a model without one of the tensors runs as a whole.
        let changed = |change: &dyn Fn(&mut Node)| {
            let mut model = model.clone();
            model.graph.iter_mut().flat_map(|graph| &mut graph.node).for_each(change);
            stages(&model)
        };
        assert_eq!(changed(&|node| node.name = format!("{}?", node.name)), [false, true, false]);
        let renamed = changed(&|node| {
            let tensors = node.input.iter_mut().chain(&mut node.output);
            tensors.filter(|tensor| *tensor == NORMALIZED).for_each(|tensor| tensor.push('?'));
        });
        assert_eq!(renamed, [false]);
        // The rest would read more than the features of the views.
        let logits = |node: &&mut Node| node.output.iter().any(|output| output == "cac/views");
        let mut odd = model.clone();
        odd.graph.iter_mut().flat_map(|graph| &mut graph.node).filter(logits).for_each(|node| {
            node.input[0] = "cac/views/other".to_owned();
        });
        let graph = odd.graph.as_mut().unwrap();
        let place = graph.node.iter().position(|node| node.output[0] == "cac/views").unwrap();
        let image = graph.input[0].name.clone();
        let extreme = Node {
            domain: String::new(),
            op_type: "ReduceMin".to_owned(),
            name: "extreme".to_owned(),
            input: vec![image],
            output: vec!["extreme".to_owned()],
            attribute: vec![Attribute::int("keepdims", 0)],
        };
        let sum = Node {
            domain: String::new(),
            op_type: "Add".to_owned(),
            name: "sum".to_owned(),
            input: vec![VIEWS.to_owned(), "extreme".to_owned()],
            output: vec!["cac/views/other".to_owned()],
            ..Node::default()
        };
        graph.node.splice(place..place, [extreme, sum]);
        assert_eq!(stages(&odd), [false]);
    }

    #[test]
    fn the_tract_version_matches_cargo_lock() {
        let (name, version) = TRACT.split_once(' ').unwrap();
        let entry = format!("name = \"{name}-onnx\"\nversion = \"{version}\"\n");
        assert!(include_str!("../../Cargo.lock").contains(&entry), "{entry}");
    }
}
