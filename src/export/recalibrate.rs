//! A new threshold for a model file, from new images of the known classes.

use std::{collections::HashSet, path::Path};

use prost::{Message, bytes::Bytes};

use super::{
    ThresholdRule, head, producer, properties, self_check,
    threshold::{self, CalibrationSet, relative},
};
use crate::{
    data::Dataset,
    error::{Error, Result},
    eval::{self, DatasetOutputs, EvaluateOptions},
    files::{atomic, sha256},
    method,
    model::{
        Decision, FORMAT_VERSION, History, Manifest, PREFIX, Recalibration, Threshold,
        builder::Builder,
        file::{ModelFile, OUTPUTS, values},
        proto::{Graph, Model},
    },
    report::Report,
    scorer::{Provider, Scorer, tract::TRACT},
};

/// The number of images of the self-check.
const CHECKED: usize = 32;

/// The options of a recalibration.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct RecalibrateOptions {
    /// The share of new known images that the threshold keeps, 0 to below 1; by default that of the file's
    /// threshold or, if it was set by hand, [`method::KEEP`].
    pub keep: Option<f64>,
    /// The provider that computes the scores.
    pub provider: Provider,
    /// Leave out images that cannot be read.
    pub skip_broken: bool,
    /// The number of images that look almost like another one, or like a training image; `None` if they were not
    /// [counted](Dataset::lookalikes). The file records it.
    pub alike: Option<usize>,
    /// Whether the images have been compared with the [training images](Dataset::without), and are none of these.
    /// The file records it.
    pub compared: bool,
}

impl RecalibrateOptions {
    /// The share that the new threshold of a file with this decision keeps.
    #[must_use]
    pub fn share_to_keep(&self, decision: &Decision) -> f64 {
        let earlier = || decision.threshold.as_ref().and_then(|threshold| threshold.keep);
        self.keep.or_else(earlier).unwrap_or(method::KEEP)
    }
}

/// The result of a recalibration.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Recalibrated {
    /// The metadata of the new file.
    pub manifest: Manifest,
    /// The size of the new file in bytes.
    pub bytes: usize,
    /// SHA-256 of the new file, in hexadecimal.
    pub sha256: String,
    /// The number of images that the threshold was chosen from.
    pub images: usize,
    /// The number of images that could not be read.
    pub skipped: usize,
    /// The share of the images that the earlier threshold keeps, 0 to 1.
    pub kept_before: f64,
    /// How many of the images an earlier recalibration chose that threshold from.
    pub chose_before: usize,
    /// The share of the images that are classified correctly, kept or not, 0 to 1; `None` without labels.
    pub accuracy: Option<f64>,
}

/// Writes a model file with a new [threshold](method::threshold), or with a new one for each class if the file has
/// those. Held-out scores, operating points and the held-out scores of places are replaced where the file has them;
/// the network and the score are unchanged. The images must be [distinct](Dataset::distinct), of the known classes, and
/// without other use in the model. Labels are optional. `progress` receives the number of images of each finished batch. ONNX fields
/// that this toolkit does not read, such as the doc strings of nodes, are lost.
///
/// The result is checked on tract. If the check fails, nothing is written and `path` is unchanged.
///
/// # Errors
/// [`Error::Model`], [`Error::FormatVersion`], [`Error::Differs`] if the model is invalid or damaged;
/// [`Error::TooFewHeldOut`] and [`Error::Setting`] if the threshold cannot be chosen; [`Error::Classes`] if
/// the images have labels of other classes; [`Error::NotFinite`] if a score is not finite;
/// [`Error::SelfCheck`]; [`Error::Io`]; those of [`Scorer::from_bytes`] and [`eval::outputs`].
pub fn recalibrate(
    bytes: Bytes,
    origin: &str,
    images: &Dataset,
    options: RecalibrateOptions,
    path: &Path,
    progress: impl FnMut(usize),
) -> Result<Recalibrated> {
    let earlier = sha256(&bytes);
    let (file, model) = ModelFile::parse(bytes.clone(), origin)?;
    let decision = &file.manifest.decision;
    let of_classes = decision.is_per_class().then(|| class_thresholds(&model, &file)).transpose()?;
    if images.labels().iter().any(|&label| label >= 0) {
        eval::check_classes(images, &decision.classes)?;
    }
    let keep = options.share_to_keep(decision);
    // Before the images are scored, which takes long. Each class needs as many.
    method::check_enough(images.len(), keep)?;
    let (mut on_cpu, mut on_provider) = verified(&bytes, origin, options.provider)?;
    if let Some(thresholds) = &of_classes {
        // Without thresholds for classes, the score is the raw one.
        let raw = with_class_thresholds(model.clone(), &vec![0.0; thresholds.len()]);
        let raw = Bytes::from(raw.encode_to_vec());
        let open = |provider| Scorer::named(raw.clone(), origin, provider);
        on_cpu = open(Provider::Cpu)?;
        on_provider = on_provider.map(|_| open(options.provider)).transpose()?;
    }
    let scorer = on_provider.as_ref().unwrap_or(&on_cpu);
    let needed = EvaluateOptions { skip_broken: options.skip_broken, keep_features: false };
    let outputs = eval::outputs(scorer, images, needed, progress)?;
    if let Some(&value) = outputs.score.iter().find(|score| !score.is_finite()) {
        return Err(Error::NotFinite { what: "a score", value });
    }
    let kept_before = kept(&outputs, of_classes.as_deref(), file.threshold);
    let digests: Vec<String> = images.pick(&outputs.indices).digests()?.into_iter().flatten().collect();
    let before = file.manifest.history.recalibration.as_ref();
    let chose_before = before.map_or(0, |before| before.count_among(&digests));
    let recalibration = Recalibration {
        producer: producer(),
        provider: options.provider.to_string(),
        digests,
        alike: options.alike,
        compared: options.compared,
        earlier,
    };
    let manifest = manifest(&file, &outputs, keep, recalibration)?;
    let threshold = manifest.decision.threshold.as_ref().expect("just chosen");
    let mut model = match &threshold.classes {
        Some(thresholds) => with_class_thresholds(model, thresholds),
        None => model,
    };
    let graph = model.graph.take().unwrap_or_default();
    model.graph = Some(with_verdict(graph, threshold, &file)?);
    let scorer = Scorer::named(with_metadata(&mut model, &manifest), origin, Provider::Cpu)?;
    check(&scorer, threshold, &on_cpu, images, &outputs.indices)?;
    let history = History { golden: Some(scorer.golden_batch()?), ..manifest.history };
    let manifest = Manifest { history, ..manifest };
    let bytes = with_metadata(&mut model, &manifest);
    atomic::write(path, &bytes)?;
    Ok(Recalibrated {
        manifest,
        bytes: bytes.len(),
        sha256: sha256(&bytes),
        images: outputs.indices.len(),
        skipped: images.len() - outputs.indices.len(),
        kept_before,
        chose_before,
        accuracy: accuracy(&outputs, images.labels()),
    })
}

/// Checks that tract and a provider compute what the file says, and returns the scorer on tract and, if that is
/// another, on the provider. The new file has a golden batch of its own, which would hide damage.
fn verified(bytes: &Bytes, origin: &str, provider: Provider) -> Result<(Scorer, Option<Scorer>)> {
    let open = |provider| -> Result<Scorer> {
        let scorer = Scorer::named(bytes.clone(), origin, provider)?;
        // Bfloat16 computes something else.
        if provider == Provider::OpenVinoBf16 {
            return Ok(scorer);
        }
        match scorer.verify() {
            Ok(_) | Err(Error::NoGoldenBatch { .. }) => Ok(scorer),
            Err(error) => Err(error),
        }
    };
    let on_provider = (provider != Provider::Cpu).then(|| open(provider)).transpose()?;
    Ok((open(Provider::Cpu)?, on_provider))
}

/// Compares the new file on some of the images with the one that gives raw scores, and with the method.
fn check(
    new: &Scorer,
    threshold: &Threshold,
    raw: &Scorer,
    images: &Dataset,
    indices: &[usize],
) -> Result<()> {
    let step = indices.len().div_ceil(CHECKED).max(1);
    let indices: Vec<usize> = indices.iter().copied().step_by(step).collect();
    let pixels = images.readable_batch(&indices);
    if let Some(error) = pixels.errors.into_iter().next() {
        return Err(error);
    }
    let mut expected = raw.score_u8(pixels.images.view())?;
    if let Some(thresholds) = &threshold.classes {
        let labels = expected.label.to_vec();
        let scores = expected.score.as_slice_mut().expect("in standard order");
        relative(scores, &labels, thresholds);
    }
    self_check::check_threshold(threshold, &new.score_u8(pixels.images.view())?, &expected)
}

/// The share of images whose raw scores a threshold keeps.
fn kept(outputs: &DatasetOutputs, of_classes: Option<&[f32]>, threshold: f32) -> f64 {
    let mut scores = outputs.score.clone();
    if let Some(thresholds) = of_classes {
        relative(&mut scores, &outputs.label, thresholds);
    }
    let kept = scores.iter().filter(|&&score| !method::is_unknown(score, threshold));
    kept.count() as f64 / scores.len() as f64
}

/// The share of images that are classified correctly; `None` if one has no label.
fn accuracy(outputs: &DatasetOutputs, labels: &[i64]) -> Option<f64> {
    let correct = outputs.indices.iter().zip(&outputs.label).map(|(&index, &label)| {
        let truth = usize::try_from(labels[index]).ok()?;
        Some(usize::from(truth == label))
    });
    Some(correct.sum::<Option<usize>>()? as f64 / outputs.indices.len() as f64)
}

/// The metadata with a threshold that is chosen from raw scores. The golden batch is still the earlier one.
fn manifest(
    file: &ModelFile,
    outputs: &DatasetOutputs,
    keep: f64,
    recalibration: Recalibration,
) -> Result<Manifest> {
    let Manifest { mut decision, mut history } = file.manifest.clone();
    let is_per_class = decision.is_per_class();
    let (count, provider) = (outputs.score.len(), &recalibration.provider);
    let set = CalibrationSet {
        scores: outputs.score.clone(),
        predicted: is_per_class.then(|| outputs.label.clone()),
        data: format!("{count} known images given at the recalibration on {provider}"),
        is_from_test: false,
        is_unseen: true,
    };
    decision.threshold = Some(set.threshold(ThresholdRule::Keep(keep), &decision.classes)?);
    decision.format_version = FORMAT_VERSION;
    if let (Some(places), Some(anchors)) = (&mut decision.places, &file.anchors) {
        *places = threshold::place_scores(places.score, anchors, &outputs.logits);
    }
    // What could not be parsed would hide what is written.
    for field in ["recalibration", "checked_with", "golden", "robustness", "metrics"] {
        history.other.remove(field);
    }
    history.recalibration = Some(recalibration);
    history.checked_with = Some(TRACT.to_owned());
    // What was measured with the earlier threshold. A score relative to thresholds has other metrics, too.
    history.robustness = None;
    history.metrics = history.metrics.filter(|_| !is_per_class).map(Report::without_threshold);
    Ok(Manifest { decision, history })
}

/// The bytes of a model with other metadata of this toolkit.
fn with_metadata(model: &mut Model, manifest: &Manifest) -> Bytes {
    model.metadata_props.retain(|property| !property.key.starts_with(PREFIX));
    model.metadata_props.extend(properties(manifest));
    model.encode_to_vec().into()
}

/// The thresholds for each class in the graph.
fn class_thresholds(model: &Model, file: &ModelFile) -> Result<Vec<f32>> {
    let found = model.graph.as_ref().and_then(|graph| values(graph, head::CLASS_THRESHOLDS));
    let found = found.map(|(_, thresholds)| thresholds);
    let classes = file.manifest.decision.classes.len();
    found.filter(|thresholds| thresholds.len() == classes).ok_or_else(|| {
        file.broken(format!("it has no tensor `{}` with a float32 for each class", head::CLASS_THRESHOLDS))
    })
}

/// The model with other thresholds for each class.
fn with_class_thresholds(mut model: Model, thresholds: &[f32]) -> Model {
    let tensors = model.graph.iter_mut().flat_map(|graph| &mut graph.initializer);
    for tensor in tensors.filter(|tensor| tensor.name == head::CLASS_THRESHOLDS) {
        tensor.raw_data = thresholds.iter().flat_map(|threshold| threshold.to_le_bytes()).collect();
        tensor.float_data.clear();
    }
    model
}

/// The graph with the nodes, tensors and outputs of another threshold.
fn with_verdict(mut graph: Graph, threshold: &Threshold, file: &ModelFile) -> Result<Graph> {
    if let Some(node) = graph.node.iter().find(|node| !["", "ai.onnx"].contains(&node.domain.as_str())) {
        return Err(file.broken(format!("it has an operator of `{}`, which another tool added", node.domain)));
    }
    let takes_threshold = graph.input.len() > 1;
    graph.input.truncate(1);
    graph.output.retain(|output| !head::VERDICTS.contains(&output.name.as_str()));
    remove_unread(&mut graph);
    // `unknown` is the last output of every model; the optional ones follow.
    let further = graph.output.split_off(OUTPUTS.len() - 1);
    let name = graph.name.clone();
    let mut builder = Builder::of(graph);
    if !builder.has_constant(head::ROW) {
        builder.ints(head::ROW, &[1]);
    }
    head::verdict(&mut builder, threshold, file.batch, takes_threshold);
    if let Some(name) = builder.clash() {
        return Err(file.broken(format!("its tensor `{name}` has the name of one that this toolkit writes")));
    }
    let mut graph = builder.finish(&name);
    graph.output.extend(further);
    Ok(graph)
}

/// Removes nodes and tensors that no output depends on.
fn remove_unread(graph: &mut Graph) {
    let mut read: HashSet<String> = graph.output.iter().map(|output| output.name.clone()).collect();
    // A node comes after those that it reads.
    let mut kept = Vec::with_capacity(graph.node.len());
    for node in graph.node.drain(..).rev() {
        if node.output.iter().any(|output| read.contains(output)) {
            read.extend(node.input.iter().cloned());
            kept.push(node);
        }
    }
    kept.reverse();
    graph.node = kept;
    graph.initializer.retain(|tensor| read.contains(&tensor.name));
}
