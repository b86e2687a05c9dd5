//! Turns weights trained elsewhere into a checkpoint for [`export`].

mod reference;

use ndarray::{Array2, Axis};

use crate::{
    data::{Dataset, Noise, StandIn, fault_of_class, shuffled, stand_ins::in_chunks},
    error::{Error, Result},
    eval::{self, DatasetOutputs},
    export::{self, ExportOptions, ThresholdRule},
    image::{Input, SIZES},
    method::{self, AnchorKind, Anchors, KEEP, Loss, needed},
    run::{CheckBatch, Checkpoint, Facts, Features, HeldOut},
    scorer::{Provider, Scorer},
    weights::Weights,
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
    /// The provider that runs the network.
    pub provider: Provider,
}

impl Calibration<'_> {
    /// The number of images that run through the network.
    #[must_use]
    pub fn work(&self) -> usize {
        let passes = if self.class_means && self.mirrored { 2 } else { 1 };
        let [_, choosing, _] = Division::of(self.images.len()).counts;
        passes * self.images.len() + StandIn::ALL.len() * choosing
    }
}

/// The division of known images into those to which scores are fitted, which choose one, and which calibrate.
struct Division {
    order: Vec<usize>,
    counts: [usize; 3],
}

impl Division {
    fn of(images: usize) -> Self {
        let quarter = images / 4;
        let is_enough = quarter >= needed(KEEP);
        let counts = if is_enough { [images - 2 * quarter, quarter, quarter] } else { [0, 0, images] };
        Self { order: shuffled(images, 0), counts }
    }

    /// The places of each part.
    fn parts(&self) -> [&[usize]; 3] {
        let (training, rest) = self.order.split_at(self.counts[0]);
        let (choosing, calibrating) = rest.split_at(self.counts[1]);
        [training, choosing, calibrating]
    }
}

/// Builds a checkpoint from the [network](Weights::network) of weights. Its anchors are those of the file
/// (`anchors`, or `means` in files of the paper's code), or fixed ones if the file has none or only zeros.
///
/// # Errors
/// [`Error::Weights`] if a tensor is missing, misshaped or not finite, [`Error::Setting`] if the classes or
/// the input do not match the weights, or the loss is [out of range](Loss::check).
pub fn checkpoint(weights: &Weights, options: &ImportOptions) -> Result<Checkpoint> {
    options.loss.check()?;
    let weights = weights.network()?;
    let found = weights.recognize()?;
    let count = found.classes.ok_or_else(|| weights.error("the last layer is missing".to_owned()))?;
    let mut input = options.input;
    if let Some(size) = found.size {
        (input.height, input.width) = (size, size);
    }
    input.check(&SIZES)?;
    let layers = found.architecture.layers(count, input.height, input.width)?;
    let network = weights.of_layers(&layers)?;
    let classes = class_names(options.classes.as_deref(), count)?;
    let given = ["anchors", "means"].into_iter().find(|name| weights.get(name).is_some());
    let given = given.map(|name| weights.matrix(name, [count, count])).transpose()?;
    let is_set = |anchors: &Array2<f32>| anchors.iter().any(|&value| value != 0.0);
    let anchors = match given.filter(is_set) {
        Some(rows) => Anchors::from_rows(rows),
        None => Anchors::fixed(count, options.loss.magnitude),
    };
    let mut loss = options.loss;
    if let Anchors::Fixed { magnitude, .. } = anchors {
        loss.magnitude = magnitude.into();
    }

    let images = Dataset::noise(Noise::uniform(2), &input).images(&[0, 1])?;
    let logits = reference::logits(&layers, &network, &input, images.view())?;
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
        check: CheckBatch { images, logits },
    })
}

/// The names of `count` classes: those given, or numbers.
fn class_names(given: Option<&[String]>, count: usize) -> Result<Vec<String>> {
    let Some(classes) = given else { return Ok((0..count).map(|class| class.to_string()).collect()) };
    let refused = |reason: String| Err(Error::setting("classes", classes.join(","), reason));
    if classes.len() != count {
        return refused(format!("the weights are for {count} classes"));
    }
    if let Some(twice) = (1..count).find(|&place| classes[..place].contains(&classes[place])) {
        return refused(format!("`{}` occurs twice", classes[twice]));
    }
    match classes.iter().find_map(|name| fault_of_class(name)) {
        Some(fault) => refused(fault.to_owned()),
        None => Ok(classes.to_vec()),
    }
}

/// Runs known images through the network, and makes their class means the anchors if requested. A quarter of
/// the images calibrates, another one chooses, and to the rest scores are fitted; of fewer than 76 images all
/// calibrate. Returns the accuracy, 0 to 1; a low one suggests classes in another order. `progress` receives
/// the number of images of each finished batch: [`Calibration::work`] in all.
///
/// # Errors
/// Those of [`export::export`] and of [`eval::outputs`].
pub fn calibrate(
    checkpoint: &mut Checkpoint,
    calibration: &Calibration,
    mut progress: impl FnMut(usize),
) -> Result<f64> {
    let any = ExportOptions { threshold: ThresholdRule::Value(f32::MAX), ..ExportOptions::default() };
    let (_, bytes) = export::build(checkpoint, &any)?;
    let scorer = Scorer::from_bytes(&bytes, calibration.provider)?;
    let images = calibration.images;
    let DatasetOutputs { logits, features, .. } = eval::outputs(&scorer, images, false, &mut progress)?;
    let features = features.expect("the file has features");
    if calibration.class_means {
        let (mut all, mut truth) = (logits.clone(), images.labels().to_vec());
        if calibration.mirrored {
            let mirrored = eval::outputs(&scorer, &images.clone().mirrored(), false, &mut progress)?.logits;
            all.append(Axis(0), mirrored.view()).expect("one row per image");
            truth.extend(images.labels());
        }
        checkpoint.anchors = checkpoint.anchors.class_means(all.view(), &truth);
        checkpoint.facts.anchors = AnchorKind::ClassMeans;
    }
    let nearest = method::nearest(checkpoint.anchors.distances(logits.view()).view());
    let division = Division::of(images.len());
    let [training, choosing, calibrating] = division.parts();
    let rows = |matrix: &Array2<f32>, places: &[usize]| matrix.select(Axis(0), places);
    checkpoint.held_out =
        HeldOut { choosing: rows(&logits, choosing), calibrating: rows(&logits, calibrating) };
    if !choosing.is_empty() {
        let stand_ins = StandIn::ALL.into_iter().map(|kind| {
            let mut features = Array2::zeros((0, checkpoint.last_layer()?.weight.ncols()));
            for places in in_chunks(choosing) {
                let outputs = scorer.score_u8(images.stand_ins(kind, places)?.view())?;
                let found = outputs.features.expect("the file has features");
                features.append(Axis(0), found.view()).expect("one row per image");
                progress(places.len());
            }
            Ok((kind.name().to_owned(), features))
        });
        checkpoint.features = Some(Features {
            stand_ins: stand_ins.collect::<Result<_>>()?,
            training: (
                rows(&features, training),
                training.iter().map(|&place| images.labels()[place]).collect(),
            ),
            choosing: rows(&features, choosing),
            calibrating: rows(&features, calibrating),
            test: None,
        });
    }
    let is_correct = |(found, label): &(usize, &i64)| i64::try_from(*found) == Ok(**label);
    let correct = nearest.into_iter().zip(images.labels()).filter(is_correct).count();
    Ok(correct as f64 / images.len() as f64)
}
