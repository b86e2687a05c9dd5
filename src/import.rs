//! From weights that others have trained to a checkpoint that [`export`] turns into one file.

mod reference;

use std::path::PathBuf;

use ndarray::{Array2, Axis};

use crate::{
    arch::Layer,
    cac::{self, AnchorKind, Loss},
    checkpoint::{ANCHORS, CHECK_IMAGES, CHECK_LOGITS, Checkpoint, HELD_OUT_LOGITS},
    dataset::{Dataset, Noise},
    error::{Error, Result},
    eval,
    export::{self, Options, ThresholdRule},
    manifest::{Input, Manifest},
    scorer::{Provider, Scorer},
    weights::Weights,
};

/// What the weights do not tell.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The file, for the manifest.
    pub file: PathBuf,
    /// The names of the classes in the order of the logits; numbers where there are none.
    pub classes: Option<Vec<String>>,
    /// The pictures that the network takes. Where the weights fix a size, theirs wins.
    pub input: Input,
    /// The loss of the training; its magnitude gives the anchors where the file has none.
    pub loss: Loss,
}

/// Known pictures, from which class means and the threshold are taken.
#[derive(Debug, Clone, Copy)]
pub struct Calibration<'a> {
    /// Pictures of all known classes, with labels in the order of the logits.
    pub pictures: &'a Dataset,
    /// Whether the anchors become the class means of their logits, as the paper's code does before a test.
    pub class_means: bool,
    /// Whether their mirror images count for the class means too, as the paper's code has it for objects.
    pub mirrored: bool,
    /// What runs the network over them.
    pub provider: Provider,
}

/// A checkpoint of imported weights, with the anchors of the file (`anchors`, or `means` in the paper's own) or,
/// where it has none or only zeros, fixed ones.
///
/// # Errors
/// [`Error::Weights`] where a tensor is missing, misshaped or not finite, [`Error::Setting`] where the classes
/// or the input do not fit the weights.
pub fn checkpoint(weights: &Weights, settings: &Settings) -> Result<Checkpoint> {
    let (architecture, count) = weights.recognize()?;
    let count = count.ok_or_else(|| weights.error("the last layer is missing".to_owned()))?;
    let layers = architecture.layers(count)?;
    // The network's own tensors, so that nothing else in the file is taken for what a training left.
    let mut network = Weights::new(&settings.file);
    for (name, shape) in layers.iter().flat_map(Layer::parameters) {
        network.insert(&name, &shape, weights.values(&name, &shape)?.to_vec());
    }
    let classes = match &settings.classes {
        Some(classes) if classes.len() == count => {
            if let Some(twice) = (1..count).find(|&place| classes[..place].contains(&classes[place])) {
                return Err(Error::setting(
                    "classes",
                    classes.join(","),
                    format!("names `{}` twice", classes[twice]),
                ));
            }
            classes.clone()
        }
        Some(classes) => {
            let reason = format!("the weights are for {count} classes");
            return Err(Error::setting("classes", classes.join(","), reason));
        }
        None => (0..count).map(|class| class.to_string()).collect(),
    };
    let mut input = settings.input;
    input.check()?;
    if let Some(size) = architecture.fixed_size() {
        (input.height, input.width) = (size, size);
    }
    let fixed = cac::fixed_anchors(count, settings.loss.magnitude);
    let given = ["anchors", "means"].into_iter().find(|name| weights.get(name).is_some());
    let given = given.map(|name| weights.matrix(name, [count, count])).transpose()?;
    let is_set = |anchors: &Array2<f32>| anchors.iter().any(|&value| value != 0.0);
    let anchors = given.filter(is_set).unwrap_or_else(|| fixed.clone());
    let kind = if anchors == fixed { AnchorKind::Fixed } else { AnchorKind::ClassMeans };

    let images = Dataset::noise(Noise::uniform(2), input.height, input.width).images(&[0, 1])?;
    let logits = reference::logits(&layers, &network, &input, images.view())?;
    network.insert(CHECK_IMAGES, images.shape(), images.iter().copied().collect());
    network.insert_matrix(CHECK_LOGITS, &logits);
    network.insert_matrix(ANCHORS, &anchors);
    let manifest = Manifest {
        anchors: kind,
        imported: Some(settings.file.display().to_string()),
        ..Manifest::new(classes, input, architecture, settings.loss)
    };
    Ok(Checkpoint { manifest, weights: network })
}

/// Runs known pictures through the network: their logits become those that the threshold is chosen from, and
/// their class means the anchors. Gives the share of them, 0 to 1, that are then nearest to their own class's anchor:
/// a low one tells of classes in another order. `progress` is called with the number of pictures of each finished
/// batch.
///
/// # Errors
/// Those of [`export::export`] and of [`eval::logits`].
pub fn calibrate(
    checkpoint: &mut Checkpoint,
    calibration: &Calibration,
    mut progress: impl FnMut(usize),
) -> Result<f64> {
    let any = Options { threshold: ThresholdRule::Value(f32::MAX), ..Options::default() };
    let (_, bytes) = export::build(checkpoint, &any)?;
    let scorer = Scorer::from_bytes(&bytes, calibration.provider)?;
    let pictures = calibration.pictures;
    let logits = eval::logits(&scorer, pictures, &mut progress)?;
    if calibration.class_means {
        let (mut all, mut truth) = (logits.clone(), pictures.labels().to_vec());
        if calibration.mirrored {
            let mirrored = eval::logits(&scorer, &pictures.clone().mirrored(), &mut progress)?;
            all.append(Axis(0), mirrored.view()).expect("one row a picture");
            truth.extend(pictures.labels());
        }
        let means = cac::class_means(all.view(), &truth, export::anchors(checkpoint)?.view());
        checkpoint.weights.insert_matrix(ANCHORS, &means);
        checkpoint.manifest.anchors = AnchorKind::ClassMeans;
    }
    checkpoint.weights.insert_matrix(HELD_OUT_LOGITS, &logits);
    let labels = cac::labels(cac::distances(logits.view(), export::anchors(checkpoint)?.view()).view());
    let right =
        labels.iter().zip(pictures.labels()).filter(|&(&found, &label)| i64::try_from(found) == Ok(label));
    Ok(right.count() as f64 / pictures.len() as f64)
}
