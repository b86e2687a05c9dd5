//! A new threshold for a model file, from known images of the conditions that it works in.

use std::{collections::HashSet, path::Path};

use prost::{Message, bytes::Bytes};

use super::{
    ThresholdRule, head, producer, properties, self_check,
    threshold::{self, CalibrationSet, relative},
};
use crate::{
    data::Dataset,
    error::{Error, Result},
    eval::{self, DatasetOutputs},
    files::{atomic, sha256},
    method,
    model::{
        FORMAT_VERSION, History, Manifest, PREFIX, Threshold,
        builder::Builder,
        file::{ModelFile, OUTPUTS, P_VALUE, UNKNOWN_AT, values},
        proto::{Graph, Model},
    },
    report::Report,
    scorer::{Provider, Scorer, tract::TRACT},
};

/// The outputs that depend on the threshold.
const VERDICTS: [&str; 3] = ["unknown", P_VALUE, UNKNOWN_AT];

/// The tensor of the thresholds for each class.
const CLASS_THRESHOLDS: &str = "thresholds";

/// The number of images of the self-check.
const CHECKED: usize = 32;

/// The options of a recalibration.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct RecalibrateOptions {
    /// The share of further known images that the threshold keeps, 0 to below 1; by default that of the file's
    /// threshold or, if it was set by hand, [`method::KEEP`].
    pub keep: Option<f64>,
    /// The provider that computes the scores.
    pub provider: Provider,
    /// Leave out images that cannot be read.
    pub skip_broken: bool,
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
    /// The share of the images that are classified correctly, kept or not, 0 to 1; `None` without labels.
    pub accuracy: Option<f64>,
}

/// Writes a model file with a new [threshold](method::threshold), or new thresholds for each class if it had
/// those. Held-out scores, operating points and the scores of places are those of the new images, too; the
/// network and the score stay. The images must be of the known classes, and neither the network nor the score
/// may have been chosen by them; their labels are not needed. `progress` receives the number of images of each
/// finished batch.
///
/// The result is checked on tract. If the check fails, nothing is written and `path` is unchanged.
///
/// # Errors
/// [`Error::Model`], [`Error::FormatVersion`], [`Error::Differs`] if the model is invalid or damaged;
/// [`Error::TooFewHeldOut`] and [`Error::Setting`] if the threshold cannot be chosen, or the provider computes in
/// lower precision than the file; [`Error::NotFinite`] if a score is not finite; [`Error::SelfCheck`];
/// [`Error::Io`]; those of [`eval::outputs`].
pub fn recalibrate(
    bytes: Bytes,
    origin: &str,
    images: &Dataset,
    options: RecalibrateOptions,
    path: &Path,
    progress: impl FnMut(usize),
) -> Result<Recalibrated> {
    let provider = options.provider;
    if let Some(doubt) = provider.doubt_of_held_out() {
        return Err(Error::setting(
            "provider",
            provider,
            format!("gives other scores than the file: {doubt}"),
        ));
    }
    let (file, model) = ModelFile::parse(bytes.clone(), origin)?;
    let scorer = Scorer::named(bytes, origin, Provider::Cpu)?;
    // The new file has a golden batch of its own, which would hide a damage.
    match scorer.verify() {
        Ok(_) | Err(Error::NoGoldenBatch { .. }) => {}
        Err(error) => return Err(error),
    }
    // Other tools may have edited the tensors.
    let is_per_class = file.manifest.decision.is_per_class();
    let of_classes = is_per_class.then(|| class_thresholds(&model, &file)).transpose()?;

    let raw = match &of_classes {
        Some(thresholds) => with_class_thresholds(model.clone(), &vec![0.0; thresholds.len()]),
        None => model.clone(),
    };
    let raw = Scorer::named(raw.encode_to_vec().into(), origin, provider)?;
    let outputs = eval::outputs(&raw, images, options.skip_broken, progress)?;
    if let Some(&value) = outputs.score.iter().find(|score| !score.is_finite()) {
        return Err(Error::NotFinite { what: "a score", value });
    }
    let count = outputs.indices.len();
    let kept_before = kept(&outputs, of_classes.as_deref(), file.threshold);
    let accuracy = accuracy(&outputs, images.labels());

    let manifest = manifest(&file, &outputs, options.keep)?;
    let threshold = manifest.decision.threshold.as_ref().expect("just chosen");
    let mut model = match &threshold.classes {
        Some(thresholds) => with_class_thresholds(model, thresholds),
        None => model,
    };
    let graph = model.graph.take().unwrap_or_default();
    model.graph = Some(with_verdict(graph, threshold, &file)?);
    let checked = images.readable_batch(&outputs.indices[..count.min(CHECKED)]).images;
    let mut before = scorer.score_u8(checked.view())?;
    if let (Some(earlier), Some(new)) = (&of_classes, &threshold.classes) {
        for (score, &class) in before.score.iter_mut().zip(&before.label) {
            *score += earlier[class] - new[class];
        }
    }
    let scorer = Scorer::named(with_metadata(&mut model, &manifest), origin, Provider::Cpu)?;
    self_check::check_threshold(threshold, &scorer.score_u8(checked.view())?, &before)?;
    let history = History { golden: Some(scorer.golden_batch()?), ..manifest.history };
    let manifest = Manifest { history, ..manifest };
    let bytes = with_metadata(&mut model, &manifest);
    atomic::write(path, &bytes)?;
    Ok(Recalibrated {
        manifest,
        bytes: bytes.len(),
        sha256: sha256(&bytes),
        images: count,
        skipped: images.len() - count,
        kept_before,
        accuracy,
    })
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
fn manifest(file: &ModelFile, outputs: &DatasetOutputs, keep: Option<f64>) -> Result<Manifest> {
    let Manifest { mut decision, mut history } = file.manifest.clone();
    let is_per_class = decision.is_per_class();
    let keep = keep.or(decision.threshold.as_ref().and_then(|rule| rule.keep)).unwrap_or(method::KEEP);
    let set = CalibrationSet {
        scores: outputs.score.clone(),
        predicted: is_per_class.then(|| outputs.label.clone()),
        data: format!("{} known images given at the recalibration", outputs.score.len()),
        is_from_test: false,
        is_unseen: true,
    };
    decision.threshold = Some(set.threshold(ThresholdRule::Keep(keep), &decision.classes)?);
    decision.format_version = FORMAT_VERSION;
    if let (Some(places), Some(anchors)) = (&mut decision.places, &file.anchors) {
        *places = threshold::place_scores(places.score, anchors, &outputs.logits);
    }
    history.recalibrated_with = Some(producer());
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
    let found = model.graph.as_ref().and_then(|graph| values(graph, CLASS_THRESHOLDS));
    let found = found.map(|(_, thresholds)| thresholds);
    let classes = file.manifest.decision.classes.len();
    found.filter(|thresholds| thresholds.len() == classes).ok_or_else(|| {
        file.broken(format!("it has no tensor `{CLASS_THRESHOLDS}` with a float32 for each class"))
    })
}

/// The model with other thresholds for each class.
fn with_class_thresholds(mut model: Model, thresholds: &[f32]) -> Model {
    let mut graph = model.graph.take().unwrap_or_default();
    graph.initializer.retain(|tensor| tensor.name != CLASS_THRESHOLDS);
    let mut builder = Builder::of(graph);
    builder.floats(CLASS_THRESHOLDS, &[thresholds.len()], thresholds);
    Model { graph: Some(builder.graph), ..model }
}

/// The graph with the nodes, tensors and outputs of another threshold.
fn with_verdict(mut graph: Graph, threshold: &Threshold, file: &ModelFile) -> Result<Graph> {
    let takes_threshold = graph.input.len() > 1;
    graph.input.truncate(1);
    graph.output.retain(|output| !VERDICTS.contains(&output.name.as_str()));
    remove_unread(&mut graph);
    // The verdict comes first of the outputs that are not in every model.
    let further = graph.output.split_off(OUTPUTS.len() - 1);
    let name = std::mem::take(&mut graph.name);
    let mut builder = Builder::of(graph);
    if !builder.graph.initializer.iter().any(|tensor| tensor.name == head::ROW) {
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
