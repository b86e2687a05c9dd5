//! Turns weights trained elsewhere into a checkpoint for [`export`].

mod reference;

use std::collections::HashSet;

use ndarray::{Array2, Axis};

use crate::{
    arch::Layer,
    data::{Dataset, Degradation, Noise, StandIn, fault_of_class, shuffled, stand_ins::in_chunks},
    error::{Error, Result},
    eval::{self, DatasetOutputs, EvaluateOptions},
    export::{self, ExportOptions, ThresholdRule},
    image::{Input, SIZES},
    method::{self, AnchorKind, Anchors, KEEP, Loss, Variant, needed},
    run::{CheckBatch, Checkpoint, EXAMPLES, Facts, Features, HeldOut, degraded_among},
    scorer::{Provider, Scorer},
    weights::{Tensor, Weights, is_counter, outside},
};

/// The facts that weights do not contain.
#[derive(Debug, Clone, PartialEq)]
pub struct ImportOptions {
    /// The name of the weights in the model file.
    pub name: String,
    /// The names of the classes in the order of the logits; numbers by default.
    pub classes: Option<Vec<String>>,
    /// The input of the network. A size that the weights fix takes precedence.
    pub input: Input,
    /// The training loss; its magnitude gives the anchors if the file has none. Fixed anchors of the file
    /// take precedence over it.
    pub loss: Loss,
}

/// Known images for the class means and the threshold.
#[derive(Debug, Clone, Copy)]
pub struct Calibration<'a> {
    /// Images of all known classes, with labels in the order of the logits.
    pub images: &'a Dataset,
    /// Whether the class means of the logits become the anchors, as in the paper's code before a test.
    pub class_means: bool,
    /// Whether flipped images also count for the class means, as in the paper's code for objects.
    pub mirrored: bool,
    /// The share of known images that the threshold will keep, which determines how many images must
    /// calibrate.
    pub keep: f64,
    /// The provider that runs the network.
    pub provider: Provider,
}

impl Calibration<'_> {
    /// The number of images that run through the network.
    #[must_use]
    pub fn work(&self) -> usize {
        let passes = if self.class_means && self.mirrored { 2 } else { 1 };
        let Division { choosing, calibrating, .. } = Division::of(self.images.labels(), self.keep);
        let mut work = passes * self.images.len();
        if !choosing.is_empty() {
            work += StandIn::ALL.len() * choosing.len();
            work += Degradation::ALL.len() * degraded_among(&calibrating).len();
        }
        work
    }
}

/// The indices of the known images that fit the scores, choose one, and calibrate the threshold.
struct Division {
    training: Vec<usize>,
    choosing: Vec<usize>,
    calibrating: Vec<usize>,
}

impl Division {
    /// A quarter calibrates the threshold, a quarter chooses the score, and the rest fits the scores. If a
    /// quarter is too few for a threshold that keeps this share, all calibrate. Fitting and choosing each use
    /// at most [`EXAMPLES`] images.
    fn of(labels: &[i64], keep: f64) -> Self {
        let mut training = shuffled(labels.len(), 0);
        let quarter = labels.len() / 4;
        // A share out of range is rejected later.
        if keep.is_nan() || quarter < needed(keep.clamp(KEEP, 0.999_999)) {
            return Self { training: Vec::new(), choosing: Vec::new(), calibrating: training };
        }
        let calibrating = training.split_off(training.len() - quarter);
        let mut choosing = training.split_off(training.len() - quarter);
        choosing.truncate(EXAMPLES);
        // One of each class comes first.
        let mut classes = HashSet::new();
        let (firsts, others): (Vec<_>, Vec<_>) =
            training.into_iter().partition(|&index| classes.insert(labels[index]));
        let most = EXAMPLES.max(firsts.len());
        Self { training: firsts.into_iter().chain(others).take(most).collect(), choosing, calibrating }
    }
}

/// Builds a checkpoint from the [network](Weights::network) of weights. Its anchors are those of the file
/// (`anchors`, or `means` in files of the paper's code), or fixed ones if the file has none or only zeros.
///
/// # Errors
/// [`Error::Weights`] if a tensor is missing, misshaped or not finite, [`Error::ClassCount`],
/// [`Error::Setting`] if the classes are no names or the input does not match the weights, or the loss is
/// [out of range](Loss::check).
pub fn checkpoint(weights: &Weights, options: &ImportOptions) -> Result<Checkpoint> {
    options.loss.check()?;
    let weights = weights.network()?;
    let found = weights.recognize()?;
    let count = found.classes.ok_or_else(|| {
        let layer = found.architecture.layers(2, options.input.height, options.input.width);
        let layer = layer.ok().and_then(|layers| Some(format!(", `{}`,", layers.last()?.name)));
        weights.error(format!("the last layer{} is missing", layer.unwrap_or_default()))
    })?;
    let mut input = options.input;
    if let Some(size) = found.size {
        (input.height, input.width) = (size, size);
    }
    input.check(&SIZES)?;
    let layers = found.architecture.layers(count, input.height, input.width)?;
    let network = weights.of_layers(&layers)?;
    let classes = class_names(options.classes.as_deref(), count)?;
    let given = anchors_of(&weights, count).map(|name| weights.matrix(name, [count, count])).transpose()?;
    let is_set = |anchors: &Array2<f32>| anchors.iter().any(|&value| value != 0.0);
    let anchors = match given.filter(is_set) {
        Some(rows) => Anchors::from_rows(rows),
        None => Anchors::fixed(count, options.loss.magnitude),
    };
    let mut loss = options.loss;
    if let Anchors::Fixed { magnitude, .. } = anchors {
        loss.magnitude = magnitude.into();
        loss.check()?;
    }

    let check = check(&Dataset::noise(Noise::uniform(2), &input), &input, &layers, &network)?;
    let facts = Facts {
        classes,
        input,
        architecture: found.architecture,
        loss,
        anchors: anchors.kind(),
        averages_views: false,
        score: options.loss.rejection_score(false),
        imported: Some(options.name.clone()),
        training: None,
        data: None,
    };
    let none = || Array2::zeros((0, count));
    Ok(Checkpoint {
        facts,
        network,
        anchors,
        held_out: HeldOut { choosing: none(), calibrating: none() },
        features: None,
        mirrored: None,
        test: None,
        check,
    })
}

/// The name of the anchors in weights for `count` classes, if there are any: `anchors`, or `means` in files of
/// the paper's code. Other tensors may have these names, too.
fn anchors_of(weights: &Weights, count: usize) -> Option<&'static str> {
    let is_square = |name: &&str| weights.get(name).is_some_and(|tensor| tensor.shape == [count, count]);
    ["anchors", "means"].into_iter().find(is_square)
}

/// The loss that weights, those of [`Weights::network`], were probably trained with: the one that the file
/// states, else the paper's for weights with anchors and for the network of its code, else cross-entropy.
///
/// # Errors
/// [`Error::UnknownNetwork`] if they match none.
pub fn probable_loss(weights: &Weights) -> Result<Loss> {
    let found = weights.recognize()?;
    let has_anchors = found.classes.is_some_and(|count| anchors_of(weights, count).is_some());
    Ok(weights.loss().unwrap_or_else(|| {
        let is_of_paper = has_anchors || found.architecture.family().name == "cac-net";
        Loss::new(if is_of_paper { Variant::Paper } else { Variant::CrossEntropy })
    }))
}

/// The tensors of weights that a checkpoint made of their [network](Weights::network) does not use, in it and beside
/// it: the original may compute with them. Files of this toolkit have none. Second names of tensors that are used do
/// not count, nor do the statistics of classes in files of the paper's code, other networks, and optimisers.
pub fn unused<'a>(weights: &'a Weights, network: &'a Weights, checkpoint: &Checkpoint) -> Vec<&'a str> {
    let prefix = network.prefix().strip_prefix(weights.prefix()).unwrap_or_default();
    [unused_of_network(network, checkpoint), outside(weights, prefix)].concat()
}

/// Those among the tensors of the network.
fn unused_of_network<'a>(weights: &'a Weights, checkpoint: &Checkpoint) -> Vec<&'a str> {
    let (network, classes) = (&checkpoint.network, checkpoint.facts.classes.len());
    let is_statistic = |name: &str, tensor: &Tensor| {
        ["anchors", "means", "covars", "invcovars"].contains(&name)
            && tensor.shape.iter().all(|&length| length == classes)
    };
    let is_used = |tensor: &Tensor| network.names().any(|name| network.get(name) == Some(tensor));
    let is_unused = |name: &&str| {
        weights.note.is_none()
            && network.get(name).is_none()
            && !is_counter(name)
            && !weights.get(name).is_none_or(|tensor| is_statistic(name, tensor) || is_used(tensor))
    };
    weights.names().filter(is_unused).collect()
}

/// The first two images of a set, and their logits.
fn check(images: &Dataset, input: &Input, layers: &[Layer], network: &Weights) -> Result<CheckBatch> {
    let first: Vec<usize> = (0..images.len().min(2)).collect();
    let images = images.images(&first)?;
    let logits = reference::logits(layers, network, input, images.view())?;
    Ok(CheckBatch { images, logits })
}

/// The names of `count` classes: those given, or numbers.
fn class_names(given: Option<&[String]>, count: usize) -> Result<Vec<String>> {
    let Some(classes) = given else { return Ok((0..count).map(|class| class.to_string()).collect()) };
    let refused = |reason: String| Err(Error::setting("classes", classes.join(","), reason));
    if classes.len() != count {
        return Err(Error::ClassCount { classes: classes.join(","), expected: count });
    }
    if let Some(twice) = (1..count).find(|&index| classes[..index].contains(&classes[index])) {
        return refused(format!("`{}` occurs twice", classes[twice]));
    }
    match classes.iter().find_map(|name| fault_of_class(name)) {
        Some(fault) => refused(fault.to_owned()),
        None => Ok(classes.to_vec()),
    }
}

/// Runs known images through the network, and makes their class means the anchors if requested. A quarter of
/// the images is for the threshold, another for the score, and scores are fitted to the rest. If a quarter is
/// too few for the share to keep, as with fewer than 76 images for 0.95, all are for the threshold. The
/// self-check of an export compares the first images. Returns the accuracy, 0 to 1; a low one suggests
/// classes in another order. `progress` receives the number of images of each finished batch:
/// [`Calibration::work`] in all.
///
/// # Errors
/// Those of [`export::export`] and of [`eval::outputs`].
pub fn calibrate(
    checkpoint: &mut Checkpoint,
    calibration: &Calibration,
    mut progress: impl FnMut(usize),
) -> Result<f64> {
    if calibration.images.is_empty() {
        return Err(Error::setting("images", 0, "must be at least 1 to calibrate"));
    }
    let any = ExportOptions { threshold: ThresholdRule::Value(f32::MAX), ..ExportOptions::default() };
    let (_, bytes) = export::build(checkpoint, &any)?;
    let scorer = Scorer::from_bytes(&bytes, calibration.provider)?;
    let images = calibration.images;
    let with_features = EvaluateOptions { skip_broken: false, keep_features: true };
    let DatasetOutputs { logits, features, .. } =
        eval::outputs(&scorer, images, with_features, &mut progress)?;
    let features = features.expect("the file has features");
    if calibration.class_means {
        let (mut all, mut truth) = (logits.clone(), images.labels().to_vec());
        if calibration.mirrored {
            let mirrored = eval::outputs(
                &scorer,
                &images.clone().mirrored(),
                EvaluateOptions::default(),
                &mut progress,
            )?
            .logits;
            all.append(Axis(0), mirrored.view()).expect("one row per image");
            truth.extend(images.labels());
        }
        checkpoint.anchors = checkpoint.anchors.class_means(all.view(), &truth);
        checkpoint.facts.anchors = AnchorKind::ClassMeans;
    }
    let nearest = method::nearest(checkpoint.anchors.distances(logits.view()).view());
    let Division { training, choosing, calibrating } = Division::of(images.labels(), calibration.keep);
    let rows = |matrix: &Array2<f32>, indices: &[usize]| matrix.select(Axis(0), indices);
    checkpoint.held_out =
        HeldOut { choosing: rows(&logits, &choosing), calibrating: rows(&logits, &calibrating) };
    if !choosing.is_empty() {
        let stand_ins = StandIn::ALL.into_iter().map(|kind| {
            let mut features = Array2::zeros((0, checkpoint.last_layer()?.weight.ncols()));
            for indices in in_chunks(&choosing) {
                let outputs = scorer.score_u8(images.stand_ins(kind, indices)?.view())?;
                let found = outputs.features.expect("the file has features");
                features.append(Axis(0), found.view()).expect("one row per image");
                progress(indices.len());
            }
            Ok((kind.name().to_owned(), features))
        });
        let stand_ins = stand_ins.collect::<Result<_>>()?;
        let undegraded = images.pick(&degraded_among(&calibrating));
        let degraded = Degradation::ALL.into_iter().map(|degradation| {
            let images = undegraded.clone().degraded(degradation);
            let DatasetOutputs { features, .. } =
                eval::outputs(&scorer, &images, with_features, &mut progress)?;
            Ok((degradation, features.expect("the file has features")))
        });
        let degraded = degraded.collect::<Result<_>>()?;
        checkpoint.features = Some(Features {
            stand_ins,
            degraded,
            training: rows(&features, &training),
            labels: training.iter().map(|&index| images.labels()[index]).collect(),
            choosing: rows(&features, &choosing),
            calibrating: rows(&features, &calibrating),
            test: None,
        });
    }
    let facts = &checkpoint.facts;
    checkpoint.check = check(images, &facts.input, &facts.layers()?, &checkpoint.network)?;
    let is_correct = |(found, label): &(usize, &i64)| i64::try_from(*found) == Ok(**label);
    let correct = nearest.into_iter().zip(images.labels()).filter(is_correct).count();
    Ok(correct as f64 / images.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calibration_gets_as_many_images_as_the_share_needs() {
        let counts = |images: usize, keep: f64| {
            let labels: Vec<i64> = (0..images as i64).map(|index| index % 7).collect();
            let Division { training, choosing, calibrating } = Division::of(&labels, keep);
            let all: HashSet<&usize> = training.iter().chain(&choosing).chain(&calibrating).collect();
            assert_eq!(all.len(), training.len() + choosing.len() + calibrating.len());
            [training.len(), choosing.len(), calibrating.len()]
        };
        assert_eq!((counts(75, 0.95), counts(76, 0.95)), ([0, 0, 75], [38, 19, 19]));
        assert_eq!((counts(195, 0.98), counts(196, 0.98)), ([0, 0, 195], [98, 49, 49]));
        assert_eq!(counts(76, 0.5), [38, 19, 19]);
        assert_eq!(counts(100, 1.0), [0, 0, 100]);
        // The number of images that fit and choose scores is bounded.
        assert_eq!(counts(40_000, 0.95), [EXAMPLES, EXAMPLES, 10_000]);
    }

    #[test]
    fn scores_are_fitted_to_images_of_every_class() {
        let mut labels = vec![0; 40_000];
        let rare = Division::of(&labels, 0.95).training.into_iter().chain(0..40_000);
        // Images that the bound would leave out.
        for (class, index) in rare.skip(EXAMPLES).take(300).enumerate() {
            labels[index] = class as i64 + 1;
        }
        let training = Division::of(&labels, 0.95).training;
        let classes: HashSet<i64> = training.iter().map(|&index| labels[index]).collect();
        let order = shuffled(labels.len(), 0);
        let all: HashSet<i64> = order[..20_000].iter().map(|&index| labels[index]).collect();
        assert_eq!((training.len(), &classes), (EXAMPLES, &all));
        assert!(all.len() > 100, "{}", all.len());
    }
}
