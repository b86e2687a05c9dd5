//! The network of a run: its loss, EMA, tests and checkpoints.

mod finishing;

use std::{
    ops::ControlFlow::{self, Break, Continue},
    path::Path,
    sync::{Arc, atomic::AtomicBool},
};

use ndarray::{Array2, Array4, ArrayView4, Axis};
use tch::{Kind, TchError, Tensor, nn};

use super::{
    Batch, Batches, Event, TrainSettings,
    batches::{Images, Set},
    features::{FrozenFeatures, FrozenLayers, View, mirror},
    loss,
    network::{self, Mode, Network},
    record::Lineage,
    torch, torch_device,
};
use crate::{
    arch::{self, Layer},
    data::{PublishedSet, prefetch},
    error::Result,
    image::Input,
    method::{AnchorKind, Anchors},
    model::Training,
    run::{BatchNorm, CheckBatch, Checkpoint, Facts, HeldOut, RunFolder, TestLogits, TrainingPrecision},
    weights::{PublishedWeights, Weights, folded},
};

/// Batch size of evaluation, and the number of image values above which it is reduced: activations take
/// memory.
const TEST_BATCH: usize = 64;
const TEST_VALUES: usize = 3 << 20;
/// Number of images for the self-check of an export.
const CHECK_IMAGES: usize = 8;
/// Number of pixels of training images whose patches the first convolution whitens: those of 1,000 images of
/// 32 x 32.
const WHITENED: usize = 1000 * 32 * 32;
/// Prefix of the EMA's tensors in a state.
const EMA: &str = "ema.";

/// The network of a run.
pub(super) struct Learner<'a> {
    settings: &'a TrainSettings,
    batches: &'a Batches<'a>,
    pub device: tch::Device,
    /// What is trained: the network, or its last layer if the others are frozen.
    pub network: Network,
    /// EMA of the network's parameters and statistics.
    ema: Option<Network>,
    frozen: Option<Frozen>,
    /// What the backbone was trained on.
    pub lineage: Lineage,
}

/// The layers below the last, which are not trained.
struct Frozen {
    /// The tensors of the layers below the last.
    backbone: Weights,
    /// All layers.
    layers: Vec<Layer>,
    /// The last layer's input, once available.
    features: Option<Arc<FrozenFeatures>>,
}

impl Frozen {
    fn features(&self) -> &FrozenFeatures {
        self.features.as_ref().expect("the features are there before the first step")
    }

    fn last(&self) -> &Layer {
        self.layers.last().expect("a network has layers")
    }

    /// The number of features.
    fn width(&self) -> usize {
        arch::feature_count(&self.layers)
    }

    fn below(&self) -> &[Layer] {
        &self.layers[..self.layers.len() - 1]
    }

    /// Copies the tensors of the layers below the last.
    fn copy_from(&mut self, weights: &Weights) -> Result<()> {
        let parameters: Vec<_> = self.below().iter().flat_map(Layer::parameters).collect();
        for (name, shape) in parameters {
            self.backbone.insert(&name, &shape, weights.values(&name, &shape)?.to_vec());
        }
        Ok(())
    }
}

/// The network that computes features, in evaluation mode on a device. Its last layer keeps its initial
/// weights.
fn below_the_last(
    layers: &[Layer],
    weights: &Weights,
    device: tch::Device,
    input: &Input,
) -> Result<Network> {
    let (last, below) = layers.split_last().expect("a network has layers");
    let (mut layers, weights) = folded(below, weights)?;
    layers.push(Layer { inputs: vec![layers.len() - 1], ..last.clone() });
    let mut network = Network::new(&nn::VarStore::new(device), layers, input).map_err(torch)?;
    network.load_backbone(&weights)?;
    Ok(network)
}

/// The result of a test after an epoch.
pub(super) struct Tested {
    anchors: Anchors,
    logits: TestLogits,
    held_out: HeldOut,
}

impl<'a> Learner<'a> {
    /// Creates the network with random weights.
    pub fn new(batches: &'a Batches<'a>) -> Result<Self> {
        let settings = batches.settings;
        let TrainSettings { architecture, input, recipe, .. } = settings;
        let device = torch_device(settings.device)?;
        let classes = batches.known.classes().len();
        let layers = architecture.layers(classes, input.height, input.width)?;
        let last = layers.last().expect("a network has layers").clone();
        let trained =
            if recipe.freeze { vec![Layer { inputs: Vec::new(), ..last.clone() }] } else { layers.clone() };
        tch::manual_seed(recipe.seed as i64);
        let create = || Network::new(&nn::VarStore::new(device), trained.clone(), input).map_err(torch);
        let mut network = create()?;
        network.keeps_statistics = recipe.batch_norm == BatchNorm::Running;
        network.keeps_backbone = recipe.backbone_rate == 0.0;
        if recipe.precision == TrainingPrecision::Bf16 {
            network.training_kind = Kind::BFloat16;
        }
        let ema = (recipe.ema > 0.0).then(create).transpose()?;
        let frozen = recipe.freeze.then(|| Frozen {
            backbone: Weights::new(Path::new("backbone")),
            layers,
            features: None,
        });
        Ok(Self { settings, batches, device, network, ema, frozen, lineage: Lineage::default() })
    }

    /// Loads the backbone, if there is one.
    pub fn begin(&mut self, backbone: Option<Weights>) -> Result<()> {
        if let Some(weights) = backbone {
            let has_held_out = !self.batches.calibrating.is_empty();
            let published = self.settings.backbone.as_ref().map(|backbone| &*backbone.name);
            self.lineage = match (weights.training(), published.and_then(PublishedWeights::named)) {
                (Some(training), _) => {
                    let (learned, unknown) = (weights.classes(), &self.batches.other_classes);
                    Lineage::new(&self.record(0), &training, has_held_out, learned.as_deref(), unknown)
                }
                (None, Some(published)) => {
                    let (data, classes) = (&self.settings.known, self.batches.known.classes());
                    let known = PublishedSet::of_known(data, classes);
                    Lineage::of_published(published, known, has_held_out, data.has_unknown_classes())
                }
                (None, None) => Lineage::default(),
            };
            match &mut self.frozen {
                None => self.network.load_backbone(&weights)?,
                Some(frozen) => frozen.copy_from(&weights)?,
            }
        } else if self.network.has_whitening() {
            let Input { height, width, .. } = self.settings.input;
            let count = (WHITENED / (height * width)).max(1);
            let mut drawn = self.batches.sample(count);
            drawn.truncate(count);
            let images = self.batches.known.batch(&drawn)?;
            let images = self.to_tensor(images.view()).map_err(torch)?;
            tch::no_grad(|| self.network.whiten(&images)).map_err(torch)?;
        }
        match &mut self.ema {
            Some(ema) => ema.approach(&self.network, 1.0).map_err(torch),
            None => Ok(()),
        }
    }

    /// Computes the features of frozen layers, or finds them; breaks if asked to stop.
    ///
    /// # Errors
    /// Those of [`FrozenFeatures::of_run`].
    pub fn find_features(
        &mut self,
        run: &RunFolder,
        stop: &AtomicBool,
        observe: &mut dyn FnMut(&Event),
    ) -> Result<ControlFlow<()>> {
        let Some(frozen) = &self.frozen else { return Ok(Continue(())) };
        let learner = &*self;
        let open = || {
            let Learner { device, settings, .. } = *learner;
            let network = below_the_last(&frozen.layers, &frozen.backbone, device, &settings.input)?;
            Ok(move |images: &Array4<u8>| learner.evaluate(&network, images))
        };
        let layers = FrozenLayers { weights: &frozen.backbone, width: frozen.width(), open };
        let features = FrozenFeatures::of_run(self.batches, &layers, run, stop, observe)?;
        let flow = if features.is_some() { Continue(()) } else { Break(()) };
        if let Some(frozen) = &mut self.frozen {
            frozen.features = features.map(Arc::new);
        }
        Ok(flow)
    }

    /// The test images for the self-check of an export.
    fn check_images(&self) -> Vec<usize> {
        (0..self.batches.known_test.len().min(CHECK_IMAGES)).collect()
    }

    /// The number of images evaluated together.
    fn test_batch(&self) -> usize {
        (TEST_VALUES / self.settings.input.values()).clamp(1, TEST_BATCH)
    }

    /// The features of images, by a network in evaluation mode.
    fn evaluate(&self, network: &Network, images: &Array4<u8>) -> Result<Vec<f32>> {
        let mut values = Vec::new();
        for part in images.axis_chunks_iter(Axis(0), self.test_batch()) {
            let features = || network::floats(&network.features(&self.to_tensor(part)?, Mode::Evaluation)?);
            values.extend(tch::no_grad(features).map_err(torch)?);
        }
        Ok(values)
    }

    /// The features of frozen layers, if there are any.
    pub fn features(&self) -> Option<Arc<FrozenFeatures>> {
        self.frozen.as_ref()?.features.clone()
    }

    /// The loss of a batch.
    pub fn training_loss(&self, batch: &Batch) -> Result<Tensor> {
        let TrainSettings { loss, recipe, .. } = self.settings;
        let forward = || {
            let labels = self.on_device(Tensor::f_from_slice(&batch.labels)?)?;
            let logits =
                self.network.forward(&self.input(&batch.images)?, Mode::Training { seed: batch.seed })?;
            loss::of_step(loss, recipe, &logits, &labels)
        };
        forward().map_err(torch)
    }

    /// Updates the EMA after a step, counted from 0 over the whole run.
    pub fn update_ema(&mut self, step: usize) -> Result<()> {
        let Some(ema) = &mut self.ema else { return Ok(()) };
        ema.approach(&self.network, 1.0 - self.settings.recipe.ema_decay(step)).map_err(torch)
    }

    /// The network to test and save: the EMA, if there is one.
    fn kept(&self) -> &Network {
        self.ema.as_ref().unwrap_or(&self.network)
    }

    /// Copies images given as bytes `[N, 3, H, W]` to the device.
    fn to_tensor(&self, images: ArrayView4<u8>) -> Result<Tensor, TchError> {
        let shape: Vec<i64> = images.shape().iter().map(|&length| length as i64).collect();
        let bytes = images.as_slice().expect("batches are contiguous");
        self.on_device(Tensor::f_from_slice(bytes)?.f_view(&shape[..])?)
    }

    /// Copies the trained layers' input to the device.
    fn input(&self, images: &Images) -> Result<Tensor, TchError> {
        match images {
            Images::Pixels(pixels) => self.to_tensor(pixels.view()),
            Images::Features(rows) => {
                let (shape, values) = (rows.shape(), rows.as_slice().expect("batches are contiguous"));
                self.on_device(Tensor::f_from_slice(values)?.f_view([shape[0] as i64, shape[1] as i64])?)
            }
        }
    }

    /// Copies a tensor to the device, without waiting for pending work of a GPU.
    fn on_device(&self, tensor: Tensor) -> Result<Tensor, TchError> {
        let device = self.device;
        if !device.is_cuda() {
            return Ok(tensor);
        }
        // A copy from pageable memory would wait.
        tensor.f_internal_pin_memory(device)?.f_to_device_(device, tensor.kind(), true, false)
    }

    /// The logits `[N, C]` of images in evaluation mode.
    fn logits(&self, set: Set, indices: &[usize]) -> Result<Array2<f32>> {
        let (dataset, features) = (self.batches.dataset(set), self.features());
        let read = |indices: &[usize]| match &features {
            None => Ok(Images::Pixels(dataset.batch(indices)?)),
            Some(features) => {
                let row = |&index: &usize| features.row(set, index, View::Plain);
                Ok(Images::Features(features.rows(&indices.iter().map(row).collect::<Vec<_>>())?))
            }
        };
        let mut logits = Vec::new();
        prefetch(indices.chunks(self.test_batch()), read, |batches| {
            for images in batches {
                let images = images?;
                let forward =
                    || network::floats(&self.kept().forward(&self.input(&images)?, Mode::Evaluation)?);
                logits.extend(tch::no_grad(forward).map_err(torch)?);
            }
            Ok(())
        })?;
        let shape = (indices.len(), self.batches.known.classes().len());
        Ok(Array2::from_shape_vec(shape, logits).expect("one row per image"))
    }

    /// The anchors for testing: fixed, or class means over training images drawn with the seed.
    fn anchors(&self) -> Result<Anchors> {
        let TrainSettings { anchors, recipe, loss, .. } = self.settings;
        let fixed = Anchors::fixed(self.batches.known.classes().len(), loss.magnitude);
        if *anchors == AnchorKind::Fixed {
            return Ok(fixed);
        }
        let count = if recipe.anchor_images == 0 { usize::MAX } else { recipe.anchor_images };
        let indices = self.batches.sample(count);
        let logits = self.logits(Set::Known, &indices)?;
        Ok(fixed.class_means(logits.view(), &self.batches.labels(&indices)))
    }

    /// Computes the logits of all test sets and held-out images, and the anchors.
    pub fn test(&self) -> Result<Tested> {
        let Batches { known_test, unknown_tests, .. } = self.batches;
        let all = |set: Set| self.logits(set, &(0..self.batches.dataset(set).len()).collect::<Vec<_>>());
        let unknown = unknown_tests
            .iter()
            .enumerate()
            .map(|(number, set)| Ok((set.name.clone(), all(Set::Unknown(number))?)));
        let logits = TestLogits {
            known: all(Set::Test)?,
            labels: known_test.labels().to_vec(),
            unknown: unknown.collect::<Result<Vec<_>>>()?,
            skipped: self.batches.contents.skipped_in_tests,
        };
        Ok(Tested { anchors: self.anchors()?, logits, held_out: self.held_out()? })
    }

    /// The logits of held-out images.
    fn held_out(&self) -> Result<HeldOut> {
        let Batches { choosing, calibrating, .. } = self.batches;
        Ok(HeldOut {
            choosing: self.logits(Set::Known, choosing)?,
            calibrating: self.logits(Set::Known, calibrating)?,
        })
    }

    /// The losses of the held-out images that choose, with the anchors of training.
    pub fn held_out_losses(&self, tested: &Tested) -> Vec<f32> {
        let logits = tested.held_out.choosing.mapv(f64::from);
        let losses = self.settings.loss.values(logits.view(), &self.batches.labels(&self.batches.choosing));
        losses.into_iter().map(|loss| loss as f32).collect()
    }

    /// Copies the tensors of the network and of its EMA into a state.
    pub fn save(&self, tensors: &mut Weights) -> Result<()> {
        if let Some(frozen) = &self.frozen {
            tensors.insert_from(&frozen.backbone);
        }
        self.network.save(tensors, "").map_err(torch)?;
        match &self.ema {
            Some(ema) => ema.save(tensors, EMA).map_err(torch),
            None => Ok(()),
        }
    }

    /// Restores the network and its EMA from a state.
    pub fn load(&mut self, tensors: &Weights) -> Result<()> {
        if let Some(frozen) = &mut self.frozen {
            frozen.copy_from(tensors)?;
        }
        self.network.load(tensors, "")?;
        match &mut self.ema {
            Some(ema) => ema.load(tensors, EMA),
            None => Ok(()),
        }
    }

    /// The tensors of the network to test and save.
    fn kept_weights(&self) -> Result<Weights> {
        let mut weights = Weights::new(Path::new("checkpoint"));
        self.kept().save(&mut weights, "").map_err(torch)?;
        let Some(frozen) = &self.frozen else { return Ok(weights) };
        weights.insert_from(&frozen.backbone);
        let parameters = frozen.last().parameters();
        let [(weight_name, weight_shape), (bias_name, bias_shape)] = &parameters[..] else {
            unreachable!("a last layer has a weight and a bias")
        };
        let values = |name: &str| weights.get(name).expect("a tensor of the last layer").values.clone();
        let (mut weight, mut bias) = (values(weight_name), values(bias_name));
        frozen.features().fold(&mut weight, &mut bias);
        weights.insert(weight_name, weight_shape, weight);
        weights.insert(bias_name, bias_shape, bias);
        Ok(weights)
    }

    /// The record of the training after this many epochs.
    fn record(&self, epoch: usize) -> Training {
        let Batches { known_test, contents, started, train_names, .. } = self.batches;
        let some = |count: usize| Some(count).filter(|&count| count > 0);
        let mut record = Training {
            images: Some(self.batches.images()),
            test_images: self.settings.known.held_out_test.map(|_| known_test.len()),
            train_names: Some(train_names.clone()),
            held_out_alike: some(started.alike_held_out),
            tests_alike: some(started.alike_in_tests),
            tests_trained_on: some(started.repeated),
            skipped: some(contents.skipped),
            epoch: Some(epoch),
            ..self.settings.record()
        };
        self.lineage.add_to(&mut record);
        record
    }

    /// Makes a checkpoint after this many epochs; in the middle of an epoch there is no test.
    pub fn checkpoint(&self, epoch: usize, tested: Option<Tested>) -> Result<Checkpoint> {
        let settings = self.settings;
        let Batches { known, known_test, .. } = self.batches;
        let (anchors, held_out, test) = match tested {
            Some(Tested { anchors, logits, held_out }) => (anchors, held_out, Some(logits)),
            None => (self.anchors()?, self.held_out()?, None),
        };
        let network = self.kept_weights()?;
        let check = self.check_images();
        let check =
            CheckBatch { images: known_test.images(&check)?, logits: self.logits(Set::Test, &check)? };
        let facts = Facts {
            classes: known.classes().to_vec(),
            input: settings.input,
            architecture: settings.architecture.clone(),
            loss: settings.loss,
            anchors: settings.anchors,
            averages_views: false,
            score: settings.rejection_score(),
            imported: None,
            training: Some(self.record(epoch)),
            data: Some(settings.known.clone()),
        };
        Ok(Checkpoint { facts, network, anchors, held_out, features: None, mirrored: None, test, check })
    }
}
