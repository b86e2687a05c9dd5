//! Training on libtorch: the loop, its test after every epoch, and the run folder.

mod loss;
mod net;

use std::{
    fs::File,
    io::Write,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use ndarray::{Array2, ArrayView2};
use serde::Serialize;
use tch::{Device, TchError, Tensor, nn, nn::OptimizerConfig};

use crate::{
    arch::Architecture,
    cac::{self, AnchorKind, Loss},
    dataset::{Dataset, Split, UnknownSet, shuffled},
    error::{Error, Result},
    export::Checkpoint,
    manifest::{FORMAT_VERSION, Input, Manifest, Training, producer},
    preprocess,
    report::{Report, Scored},
    weights::{ANCHORS, CHECK_IMAGES, CHECK_LOGITS, HELD_OUT_LOGITS, Weights},
};
use net::Network;

/// The weight of the past in the moving average of the loss, as in pytorch-ood's tutorial.
const LOSS_MEMORY: f64 = 0.99;
/// The loss is read from the device, reported and logged once in this many steps.
const REPORT_EVERY: usize = 10;
const LOG_EVERY: usize = 50;
/// Pictures in a batch where nothing is learned.
const TEST_BATCH: usize = 64;
/// Pictures for the self-check of an export.
const CHECK_PICTURES: usize = 8;

/// All that a run is asked to do.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The loss.
    pub loss: Loss,
    /// The network.
    pub architecture: Architecture,
    /// The pictures that it takes.
    pub input: Input,
    /// Data, schedule and device; `pictures` and `epoch` are filled in.
    pub training: Training,
}

/// What happens during a run; also the lines of `log.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// The data is read, and training begins.
    Start {
        /// Pictures in an epoch.
        pictures: usize,
        /// Steps in an epoch.
        steps: usize,
        /// Passes over the pictures.
        epochs: usize,
    },
    /// Some steps are done.
    Step {
        /// From 1.
        epoch: usize,
        /// The step in the epoch, from 1.
        step: usize,
        /// The moving average of the loss.
        loss: f64,
        /// Of the last step.
        learning_rate: f64,
        /// Since the start of the epoch.
        pictures_per_second: f64,
    },
    /// An epoch is trained, and its test begins.
    Testing {
        /// From 1.
        epoch: usize,
    },
    /// An epoch is tested and its weights are saved.
    Epoch {
        /// From 1.
        epoch: usize,
        /// The loss on the held-out pictures; absent without any.
        held_out_loss: Option<f64>,
        /// Whether these are the best weights so far: those with the lowest loss on held-out pictures.
        best: bool,
        /// Of training and test.
        seconds: f64,
        /// The test.
        report: Report,
    },
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// All epochs are done; the report is that of the best one.
    Finished(Report),
    /// It was asked to stop; the weights of that moment are saved as the last.
    Interrupted {
        /// The epoch that was not finished, from 1.
        epoch: usize,
    },
}

/// Turns libtorch's error into one line.
fn torch(error: TchError) -> Error {
    let reason = error.to_string().lines().next().unwrap_or_default().to_owned();
    Error::Runtime { runtime: "libtorch", reason }
}

/// The device with this name: `cpu`, `cuda` or `cuda:N`.
///
/// # Errors
/// [`Error::Setting`] for another name, [`Error::Provider`] where there is no such device.
pub fn device(name: &str) -> Result<Device> {
    let number = match name.split_once(':') {
        None if name == "cpu" => return Ok(Device::Cpu),
        None if name == "cuda" => Some(0),
        Some(("cuda", number)) => number.parse::<usize>().ok(),
        _ => None,
    };
    let Some(number) = number else {
        let reason = "must be cpu, cuda or cuda:N".to_owned();
        return Err(Error::Setting { name: "device", value: format!("`{name}`"), reason });
    };
    let unavailable = |reason: String| Err(Error::Provider { provider: format!("cuda:{number}"), reason });
    match usize::try_from(tch::Cuda::device_count()).unwrap_or(0) {
        0 if tch::utils::has_cuda() => unavailable("libtorch finds no CUDA device".to_owned()),
        0 => unavailable("this libtorch is a build without CUDA".to_owned()),
        count if number < count => Ok(Device::Cuda(number)),
        count => unavailable(format!("there are {count} CUDA devices, counted from 0")),
    }
}

/// Trains a network and writes the run folder: `weights.safetensors` and `manifest.json` of the best epoch,
/// `weights-last.safetensors` and `manifest-last.json` of the last, and `log.jsonl`.
///
/// The best epoch is the one with the lowest loss on the held-out known pictures; test sets have no say.
/// `stop` is looked at before every step.
///
/// # Errors
/// Those of reading data and weights, [`Error::Setting`], [`Error::Provider`] for the device,
/// [`Error::Diverged`], [`Error::Runtime`] where libtorch fails, [`Error::Io`] where the folder cannot be
/// written.
pub fn train(
    settings: &Settings,
    run: &Path,
    stop: &AtomicBool,
    mut observe: impl FnMut(&Event),
) -> Result<Outcome> {
    check(settings)?;
    let state = Run::new(settings, device(&settings.training.device)?)?;
    std::fs::create_dir_all(run).map_err(Error::io("create", run))?;
    let log_path = run.join("log.jsonl");
    let mut log = File::create(&log_path).map_err(Error::io("write", &log_path))?;
    let mut record = |event: &Event| {
        let mut line = serde_json::to_vec(event).expect("an event is plain data");
        line.push(b'\n');
        log.write_all(&line).map_err(Error::io("write", &log_path))
    };

    let epochs = settings.training.epochs;
    let batch_size = settings.training.batch_size;
    let pictures = state.order.len();
    let steps = pictures.div_ceil(batch_size);
    let start = Event::Start { pictures, steps, epochs };
    record(&start)?;
    observe(&start);

    let mut optimizer =
        nn::Adam::default().build(&state.store, settings.training.learning_rate).map_err(torch)?;
    // The average stays on the device: reading it waits for the device to finish.
    let mut average: Option<Tensor> = None;
    let mut best: Option<(f64, Report)> = None;
    for epoch in 1..=epochs {
        let epoch_start = Instant::now();
        let seed = settings.training.seed.wrapping_mul(1_000_003).wrapping_add(epoch as u64);
        let order = shuffled(pictures, seed);
        for (step, batch) in order.chunks(batch_size).enumerate() {
            if stop.load(Ordering::Relaxed) {
                state.checkpoint(epoch, None)?.write(run, true)?;
                return Ok(Outcome::Interrupted { epoch });
            }
            // Cosine annealing to 0 over all steps of the run.
            let progress = ((epoch - 1) * steps + step) as f64 / (epochs * steps) as f64;
            let learning_rate =
                settings.training.learning_rate * (1.0 + (std::f64::consts::PI * progress).cos()) / 2.0;
            optimizer.set_lr(learning_rate);
            let indices: Vec<usize> = batch.iter().map(|&i| state.order[i]).collect();
            let loss = state.training_loss(&indices)?;
            optimizer.zero_grad();
            loss.f_backward().map_err(torch)?;
            optimizer.step();

            let loss = loss.f_detach().map_err(torch)?;
            let averaged = match &average {
                Some(average) => average.f_mul_scalar(LOSS_MEMORY).and_then(|past| {
                    loss.f_mul_scalar(1.0 - LOSS_MEMORY).and_then(|present| past.f_add(&present))
                }),
                None => Ok(loss),
            };
            let averaged = &*average.insert(averaged.map_err(torch)?);
            let step = step + 1;
            if step % REPORT_EVERY == 0 || step == steps {
                let loss = f64::try_from(averaged).map_err(torch)?;
                if !loss.is_finite() {
                    return Err(Error::Diverged { epoch, step, loss });
                }
                let done = (step * batch_size).min(pictures);
                let pictures_per_second = done as f64 / epoch_start.elapsed().as_secs_f64();
                let event = Event::Step { epoch, step, loss, learning_rate, pictures_per_second };
                if step % LOG_EVERY == 0 || step == steps {
                    record(&event)?;
                }
                observe(&event);
            }
        }
        observe(&Event::Testing { epoch });
        let anchors = state.anchors()?;
        let report = state.test(&anchors)?;
        let held_out_loss = state.held_out_loss()?;
        let is_best = match (held_out_loss, &best) {
            (Some(loss), Some((least, _))) => loss < *least,
            _ => true,
        };
        let checkpoint = state.checkpoint(epoch, Some((&anchors, &report)))?;
        checkpoint.write(run, true)?;
        if is_best {
            checkpoint.write(run, false)?;
            best = Some((held_out_loss.unwrap_or(0.0), report.clone()));
        }
        let seconds = epoch_start.elapsed().as_secs_f64();
        let event = Event::Epoch { epoch, held_out_loss, best: is_best, seconds, report };
        record(&event)?;
        observe(&event);
    }
    let (_, report) = best.expect("there is at least one epoch");
    Ok(Outcome::Finished(report))
}

fn check(Settings { loss, input, training, .. }: &Settings) -> Result<()> {
    let invalid =
        |name, value: String, reason: &str| Err(Error::Setting { name, value, reason: reason.to_owned() });
    if training.epochs == 0 {
        return invalid("epochs", "0".to_owned(), "must be at least 1");
    }
    if training.batch_size == 0 {
        return invalid("batch size", "0".to_owned(), "must be at least 1");
    }
    if !(0.0..1.0).contains(&training.held_out) {
        return invalid("held-out", training.held_out.to_string(), "must be a share from 0 to below 1");
    }
    for (name, value) in [("learning rate", training.learning_rate), ("magnitude", loss.magnitude)] {
        if !(value.is_finite() && value > 0.0) {
            return invalid(name, value.to_string(), "must be positive");
        }
    }
    if !(loss.weight.is_finite() && loss.weight >= 0.0) {
        return invalid("weight", loss.weight.to_string(), "must not be negative");
    }
    if input.std.iter().any(|&std| std <= 0.0) {
        return invalid("std", format!("{:?}", input.std), "must be positive");
    }
    if !(8..=4096).contains(&input.height) || !(8..=4096).contains(&input.width) {
        return invalid("size", input.height.to_string(), "must be 8 to 4096 pixels");
    }
    Ok(())
}

/// The network with the data of a run.
struct Run<'a> {
    settings: &'a Settings,
    store: nn::VarStore,
    network: Network,
    /// The anchors while training.
    fixed_anchors: Tensor,
    known: Dataset,
    /// The training pictures as indices into `known`.
    order: Vec<usize>,
    held_out: Vec<usize>,
    known_test: Dataset,
    unknown_tests: Vec<UnknownSet>,
}

impl<'a> Run<'a> {
    fn new(settings: &'a Settings, device: Device) -> Result<Self> {
        let Settings { loss, architecture, input: Input { height, width, .. }, training } = settings;
        let known = Dataset::known(&training.known, Split::Train, *height, *width)?.load()?;
        let classes = known.classes().to_vec();
        let known_test =
            Dataset::known(&training.known, Split::Test, *height, *width)?.align(&classes)?.load()?;
        let unknown_tests = training
            .unknown
            .iter()
            .map(|text| {
                let set = UnknownSet::open(text, *height, *width)?;
                Ok(UnknownSet { pictures: set.pictures.load()?, ..set })
            })
            .collect::<Result<Vec<_>>>()?;
        let held_out = (training.held_out * known.len() as f64).round() as usize;
        let (held_out, order) = known.draw(held_out.min(known.len() - 1), training.seed);
        let layers = architecture.layers(classes.len())?;
        tch::manual_seed(training.seed as i64);
        let store = nn::VarStore::new(device);
        let mut network = Network::new(&store, layers, &settings.input).map_err(torch)?;
        if let Some(backbone) = &training.backbone {
            network.load(&Weights::read(backbone)?, true)?;
        }
        let fixed_anchors =
            matrix(&cac::fixed_anchors(classes.len(), loss.magnitude), device).map_err(torch)?;
        Ok(Self {
            settings,
            store,
            network,
            fixed_anchors,
            known,
            order,
            held_out,
            known_test,
            unknown_tests,
        })
    }

    fn training_loss(&self, indices: &[usize]) -> Result<Tensor> {
        let labels: Vec<i64> = indices.iter().map(|&index| self.known.labels()[index]).collect();
        let pictures = self.pictures(&self.known, indices)?;
        let forward = || {
            let labels = Tensor::f_from_slice(&labels)?.f_to_device(self.store.device())?;
            let logits = self.network.forward(&pictures, true)?;
            loss::loss(&self.settings.loss, &logits, &labels, &self.fixed_anchors)
        };
        forward().map_err(torch)
    }

    /// Pictures as bytes `[N, 3, H, W]` on the device.
    fn pictures(&self, dataset: &Dataset, indices: &[usize]) -> Result<Tensor> {
        let Input { height, width, .. } = self.settings.input;
        let bytes = dataset.batch(indices)?;
        let shape = [indices.len() as i64, 3, height as i64, width as i64];
        let tensor = || Tensor::f_from_slice(&bytes)?.f_view(shape)?.f_to_device(self.store.device());
        tensor().map_err(torch)
    }

    /// The logits `[N, C]` of pictures in evaluation.
    fn logits(&self, dataset: &Dataset, indices: &[usize]) -> Result<Array2<f32>> {
        let mut logits = Vec::new();
        for batch in indices.chunks(TEST_BATCH) {
            let pictures = self.pictures(dataset, batch)?;
            let batch = tch::no_grad(|| net::floats(&self.network.forward(&pictures, false)?));
            logits.extend(batch.map_err(torch)?);
        }
        let shape = (indices.len(), self.known.classes().len());
        Ok(Array2::from_shape_vec(shape, logits).expect("one row a picture"))
    }

    /// The anchors to test with: fixed ones, or class means over training pictures drawn with the seed.
    fn anchors(&self) -> Result<Array2<f32>> {
        let Settings { loss, training, .. } = self.settings;
        let fixed = cac::fixed_anchors(self.known.classes().len(), loss.magnitude);
        if loss.variant.anchor_kind() == AnchorKind::Fixed {
            return Ok(fixed);
        }
        let count = if training.anchor_pictures == 0 { usize::MAX } else { training.anchor_pictures };
        let drawn = shuffled(self.order.len(), training.seed).into_iter().take(count);
        let indices: Vec<usize> = drawn.map(|i| self.order[i]).collect();
        let truth: Vec<i64> = indices.iter().map(|&index| self.known.labels()[index]).collect();
        Ok(cac::class_means(self.logits(&self.known, &indices)?.view(), &truth, fixed.view()))
    }

    fn test(&self, anchors: &Array2<f32>) -> Result<Report> {
        let score = |dataset: &Dataset| {
            let all: Vec<usize> = (0..dataset.len()).collect();
            let distances = cac::distances(self.logits(dataset, &all)?.view(), anchors.view());
            let scores = self.settings.loss.variant.score().rejection(distances.view()).to_vec();
            Ok(Scored { scores, labels: cac::labels(distances.view()) })
        };
        let unknown = self
            .unknown_tests
            .iter()
            .map(|set| Ok((set.name.as_str(), score(&set.pictures)?)))
            .collect::<Result<Vec<_>>>()?;
        Report::new(&score(&self.known_test)?, self.known_test.labels(), &unknown, None)
    }

    /// The loss on held-out pictures with the anchors of training.
    fn held_out_loss(&self) -> Result<Option<f64>> {
        if self.held_out.is_empty() {
            return Ok(None);
        }
        let logits = self.logits(&self.known, &self.held_out)?.mapv(f64::from);
        let labels: Vec<i64> = self.held_out.iter().map(|&index| self.known.labels()[index]).collect();
        let loss = &self.settings.loss;
        let anchors = cac::fixed_anchors(self.known.classes().len(), loss.magnitude).mapv(f64::from);
        Ok(Some(loss.value(logits.view(), &labels, anchors.view())))
    }

    /// What export needs; in the middle of an epoch anchors are computed and there is no report.
    fn checkpoint(&self, epoch: usize, tested: Option<(&Array2<f32>, &Report)>) -> Result<Checkpoint> {
        let Settings { loss, architecture, input, training } = self.settings;
        let anchors = tested.map_or_else(|| self.anchors(), |(anchors, _)| Ok(anchors.clone()))?;
        let mut weights = Weights::new(Path::new("checkpoint"));
        self.network.save(&mut weights).map_err(torch)?;
        let mut insert = |name: &str, array: &Array2<f32>| {
            weights.insert(name, array.shape(), array.iter().copied().collect());
        };
        insert(ANCHORS, &anchors);
        insert(HELD_OUT_LOGITS, &self.logits(&self.known, &self.held_out)?);
        let check: Vec<usize> = (0..self.known_test.len().min(CHECK_PICTURES)).collect();
        insert(CHECK_LOGITS, &self.logits(&self.known_test, &check)?);
        let pixels = self.known_test.batch(&check)?.into_iter().map(preprocess::unit).collect();
        weights.insert(CHECK_IMAGES, &[check.len(), 3, input.height, input.width], pixels);
        let training = Training { pictures: self.order.len(), epoch, ..training.clone() };
        let manifest = Manifest {
            format_version: FORMAT_VERSION,
            producer: producer(),
            classes: self.known.classes().to_vec(),
            input: *input,
            architecture: architecture.clone(),
            loss: *loss,
            anchors: loss.variant.anchor_kind(),
            score: loss.variant.score(),
            threshold: None,
            training: Some(training),
            metrics: tested.map(|(_, report)| report.clone()),
        };
        Ok(Checkpoint { manifest, weights })
    }
}

fn matrix(array: &Array2<f32>, device: Device) -> std::result::Result<Tensor, TchError> {
    let view: ArrayView2<f32> = array.view();
    let (rows, columns) = (array.nrows() as i64, array.ncols() as i64);
    let values: Vec<f32> = view.iter().copied().collect();
    Tensor::f_from_slice(&values)?.f_view([rows, columns])?.f_to_device(device)
}
