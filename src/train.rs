//! Training on libtorch: the loop, its test after every epoch, and the run folder.

mod augment;
mod data;
mod dropout;
mod log;
mod loss;
mod net;
mod optimizer;
mod run;
mod scramble;
mod state;
mod tensorboard;

use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use tch::{Device, TchError, Tensor};

use crate::{
    arch::Architecture,
    cac::{AnchorKind, Loss},
    checkpoint::Which,
    error::{Error, Result},
    manifest::{Input, Training},
    recipe::Outliers,
    report::Report,
    weights::Weights,
};
use data::{Batch, Data};
use log::{Lengths, Log};
use optimizer::Optimizer;
use run::Run;
use state::State;

/// The weight of the past in the moving average of the loss, as in pytorch-ood's tutorial.
const LOSS_MEMORY: f64 = 0.99;
/// The loss is read from the device, reported and logged once in this many steps.
const REPORT_EVERY: usize = 10;
const LOG_EVERY: usize = 50;

/// All that a run is asked to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// The loss.
    pub loss: Loss,
    /// The anchors that the network is tested with and keeps; in training they are fixed.
    pub anchors: AnchorKind,
    /// The network.
    pub architecture: Architecture,
    /// The pictures that it takes.
    pub input: Input,
    /// Data, schedule and device; `pictures` and `epoch` are filled in.
    pub training: Training,
    /// The numbers to train with.
    pub precision: Precision,
    /// The test sets are measured, and the best weights chosen, after every so many epochs and after the last.
    pub test_every: usize,
}

/// The numbers that activations are computed with in training. Weights, their optimiser and all tests are in
/// single precision in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum Precision {
    /// bf16 where the processor has instructions for it, f32 elsewhere and on CUDA.
    Auto,
    /// Single precision; on CUDA cuDNN computes convolutions with TF32's ten bits of mantissa, as it does for
    /// PyTorch (`NVIDIA_TF32_OVERRIDE=0` in the environment for all 23).
    F32,
    /// Eight bits of mantissa: half the memory traffic.
    Bf16,
}

impl Precision {
    /// What it means on this machine, never `Auto`: a run is resumed with the same numbers everywhere.
    #[must_use]
    pub fn resolved(self, device: &str) -> Self {
        #[cfg(target_arch = "x86_64")]
        let is_fast = std::arch::is_x86_feature_detected!("avx512bf16");
        #[cfg(not(target_arch = "x86_64"))]
        let is_fast = false;
        match self {
            Self::Auto if device == "cpu" && is_fast => Self::Bf16,
            Self::Auto => Self::F32,
            chosen => chosen,
        }
    }
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
        /// Whether these are the best weights so far: those with the lowest loss on held-out pictures, or without
        /// any the newest.
        best: bool,
        /// Of training and test, since the run was resumed at most.
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
    /// It was asked to stop; the weights of that moment are saved as the last, and the state to go on from.
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
        return Err(Error::setting("device", format!("`{name}`"), "must be cpu, cuda or cuda:N"));
    };
    let unavailable = |reason: String| Err(Error::Provider { provider: format!("cuda:{number}"), reason });
    match usize::try_from(tch::Cuda::device_count()).unwrap_or(0) {
        0 if tch::utils::has_cudart() => unavailable("libtorch finds no CUDA device".to_owned()),
        0 => unavailable("this libtorch is a build without CUDA".to_owned()),
        count if number < count => Ok(Device::Cuda(number)),
        count => unavailable(format!("there are {count} CUDA devices, counted from 0")),
    }
}

/// Trains a network and writes the run folder: `weights.safetensors` and `manifest.json` of the best epoch,
/// `weights-last.safetensors` and `manifest-last.json` of the last, `log.jsonl` and the same for TensorBoard, and in
/// `state-*.safetensors` the last two states to resume from.
///
/// The best epoch is the one with the lowest loss on the held-out known pictures; test sets have no say.
/// `stop` is looked at before every step. The state is saved whenever `save_every` has passed, and at the end.
///
/// # Errors
/// Those of reading data and weights, [`Error::Setting`], [`Error::Provider`] for the device, [`Error::Diverged`],
/// [`Error::Runtime`] where libtorch fails, [`Error::Io`] where the folder cannot be written.
pub fn train(
    settings: &Settings,
    run: &Path,
    save_every: Duration,
    stop: &AtomicBool,
    observe: impl FnMut(&Event),
) -> Result<Outcome> {
    let precision = settings.precision.resolved(&settings.training.device);
    let settings = Settings { precision, ..settings.clone() };
    go_on(&settings, None, run, save_every, stop, observe)
}

/// Goes on with the run in a folder from the state that it has saved: on the processor and with as many threads to
/// the very weights of a run that was never interrupted.
///
/// # Errors
/// Those of [`train`], [`Error::Setting`] also where the folder holds no state, what it learns from has changed or
/// another process is writing it, [`Error::Weights`] where no state can be read.
pub fn resume(
    run: &Path,
    save_every: Duration,
    stop: &AtomicBool,
    observe: impl FnMut(&Event),
) -> Result<Outcome> {
    // Only a run is to get a log.
    if state::saved(run)?.is_empty() {
        return Err(state::none_saved(run));
    }
    // From here on no other process saves a state.
    let log = Log::open(run)?;
    let (state, weights) = State::open(run)?;
    let settings = state.settings.clone();
    go_on(&settings, Some(Saved { log, state, weights }), run, save_every, stop, observe)
}

/// Whether a folder holds a run: a state to go on from, or weights.
#[must_use]
pub fn is_run(folder: &Path) -> bool {
    let has_weights = [Which::Best, Which::Last].iter().any(|which| which.manifest(folder).exists());
    has_weights || state::saved(folder).is_ok_and(|states| !states.is_empty())
}

/// What a run goes on from, with its log open.
struct Saved {
    log: Log,
    state: State,
    weights: Weights,
}

/// Trains from the settings or what is saved to the end.
fn go_on(
    settings: &Settings,
    saved: Option<Saved>,
    run: &Path,
    save_every: Duration,
    stop: &AtomicBool,
    mut observe: impl FnMut(&Event),
) -> Result<Outcome> {
    check(settings)?;
    let device = device(&settings.training.device)?;
    let data = Data::open(settings)?;
    let is_new = saved.is_none();
    let mut session = Session::begin(settings, &data, device, run, saved)?;
    let start =
        Event::Start { pictures: data.training.len(), steps: data.steps(), epochs: settings.training.epochs };
    if is_new {
        session.record(&start)?;
        session.save()?;
    }
    observe(&start);
    let epochs = settings.training.epochs;
    while session.state.epoch <= epochs {
        let (epoch, first_step) = (session.state.epoch, session.state.step);
        let begun = Instant::now();
        let is_done = data.with_batches(epoch, first_step, |batches| {
            session.epoch(batches, save_every, stop, &mut observe)
        })?;
        if !is_done {
            return Ok(Outcome::Interrupted { epoch });
        }
        let tested = if session.is_tested(epoch) {
            observe(&Event::Testing { epoch });
            Some(session.test(begun)?)
        } else {
            None
        };
        (session.state.epoch, session.state.step) = (epoch + 1, 0);
        if epoch == epochs || session.saved.elapsed() >= save_every {
            session.save()?;
        }
        if let Some(event) = tested {
            observe(&event);
        }
    }
    let (_, report) = session.state.best.expect("the last epoch is tested");
    Ok(Outcome::Finished(report))
}

/// A run while it is going on.
struct Session<'a> {
    settings: &'a Settings,
    data: &'a Data<'a>,
    folder: &'a Path,
    run: Run<'a>,
    optimizer: Optimizer,
    state: State,
    /// The moving average of the loss. It stays on the device: reading it waits for the device to finish.
    smoothed_loss: Option<Tensor>,
    log: Log,
    saved: Instant,
}

impl<'a> Session<'a> {
    /// Begins a new run, or goes on with a saved one.
    fn begin(
        settings: &'a Settings,
        data: &'a Data<'a>,
        device: Device,
        folder: &'a Path,
        saved: Option<Saved>,
    ) -> Result<Self> {
        let mut run = Run::new(settings, data, device)?;
        let recipe = &settings.training.recipe;
        let mut optimizer =
            Optimizer::new(&run.store, recipe.optimizer, recipe.weight_decay).map_err(torch)?;
        let checksum = data.checksum()?;
        let (mut log, state) = match saved {
            Some(Saved { log, state, weights }) => {
                if state.data != checksum {
                    let reason = "began with other pictures, classes or outliers than there are now";
                    return Err(Error::setting("resume", format!("`{}`", folder.display()), reason));
                }
                run.load(&weights)?;
                optimizer.load(&weights)?;
                (log, state)
            }
            None => {
                run.begin()?;
                std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
                let log = Log::open(folder)?;
                // Those of another run in the same folder.
                state::remove_all_but(0, folder)?;
                let settings = settings.clone();
                let state = State {
                    settings,
                    data: checksum,
                    epoch: 1,
                    step: 0,
                    smoothed_loss: None,
                    best: None,
                    log: Lengths::default(),
                };
                (log, state)
            }
        };
        log.rewind(state.log)?;
        state::remove_unfinished(folder)?;
        let smoothed_loss = state.smoothed_loss.map(|loss| Tensor::from(loss as f32).to_device(device));
        let saved = Instant::now();
        Ok(Self { settings, data, folder, run, optimizer, state, smoothed_loss, log, saved })
    }

    /// Writes an event down.
    fn record(&mut self, event: &Event) -> Result<()> {
        self.log.record(event, self.data.steps())
    }

    /// Saves all that the run needs to go on.
    fn save(&mut self) -> Result<()> {
        self.state.smoothed_loss =
            self.smoothed_loss.as_ref().map(f64::try_from).transpose().map_err(torch)?;
        self.state.log = self.log.sync()?;
        let mut weights = Weights::new(self.folder);
        self.run.save(&mut weights)?;
        self.optimizer.save(&mut weights).map_err(torch)?;
        self.state.save(weights, self.folder)?;
        self.saved = Instant::now();
        Ok(())
    }

    /// Learns from the batches of the rest of an epoch; false where it was asked to stop.
    fn epoch(
        &mut self,
        batches: impl IntoIterator<Item = Result<Batch>>,
        save_every: Duration,
        stop: &AtomicBool,
        observe: &mut impl FnMut(&Event),
    ) -> Result<bool> {
        let Training { epochs, learning_rate, recipe, .. } = &self.settings.training;
        let (epoch, steps) = (self.state.epoch, self.data.steps());
        let begun = Instant::now();
        let mut done = 0;
        for batch in batches {
            if stop.load(Ordering::Relaxed) {
                self.save()?;
                // Between two epochs there may be those of the first, with their test.
                let is_kept = self.state.step == 0 && epoch > 1 && self.is_tested(epoch - 1);
                if !is_kept {
                    self.run.checkpoint(epoch, None)?.write(self.folder, Which::Last)?;
                }
                return Ok(false);
            }
            if done > 0 && self.saved.elapsed() >= save_every {
                self.save()?;
            }
            let batch = batch?;
            let step = (epoch - 1) * steps + self.state.step;
            let pace = recipe.pace(*learning_rate, step, epochs * steps, steps);
            let loss = self.run.training_loss(&batch)?;
            self.optimizer.step(&loss, pace).map_err(torch)?;
            self.run.follow(step)?;
            self.remember(&loss).map_err(torch)?;
            self.state.step += 1;
            done += batch.labels.len();
            let step = self.state.step;
            if step.is_multiple_of(REPORT_EVERY) || step == steps {
                let loss = self.smoothed_loss.as_ref().map(f64::try_from).transpose().map_err(torch)?;
                let loss = loss.expect("there was a step");
                if !loss.is_finite() {
                    return Err(Error::Diverged { epoch, step, loss });
                }
                let pictures_per_second = done as f64 / begun.elapsed().as_secs_f64();
                let event = Event::Step { epoch, step, loss, learning_rate: pace.rate, pictures_per_second };
                if step.is_multiple_of(LOG_EVERY) || step == steps {
                    self.record(&event)?;
                }
                observe(&event);
            }
        }
        Ok(true)
    }

    /// Whether the network is tested after this epoch.
    fn is_tested(&self, epoch: usize) -> bool {
        epoch.is_multiple_of(self.settings.test_every) || epoch == self.settings.training.epochs
    }

    /// Takes a loss into the moving average.
    fn remember(&mut self, loss: &Tensor) -> std::result::Result<(), TchError> {
        let loss = loss.f_detach()?;
        let smoothed = match &self.smoothed_loss {
            Some(past) => past.f_lerp(&loss, 1.0 - LOSS_MEMORY)?,
            None => loss,
        };
        self.smoothed_loss = Some(smoothed);
        Ok(())
    }

    /// Measures the network after an epoch that has begun then, and keeps its weights.
    fn test(&mut self, begun: Instant) -> Result<Event> {
        let epoch = self.state.epoch;
        let tested = self.run.test()?;
        let held_out_loss = self.run.held_out_loss(&tested);
        if let Some(loss) = held_out_loss.filter(|loss| !loss.is_finite()) {
            return Err(Error::Diverged { epoch, step: self.data.steps(), loss });
        }
        let is_best = match (held_out_loss, &self.state.best) {
            (Some(loss), Some((Some(least), _))) => loss < *least,
            _ => true,
        };
        let checkpoint = self.run.checkpoint(epoch, Some(&tested))?;
        let report = tested.report;
        checkpoint.write(self.folder, Which::Last)?;
        if is_best {
            checkpoint.write(self.folder, Which::Best)?;
            self.state.best = Some((held_out_loss, report.clone()));
        }
        let seconds = begun.elapsed().as_secs_f64();
        let event = Event::Epoch { epoch, held_out_loss, best: is_best, seconds, report };
        self.record(&event)?;
        Ok(event)
    }
}

fn check(Settings { loss, architecture, input, training, test_every, .. }: &Settings) -> Result<()> {
    let invalid = |name, value: String, reason: &str| Err(Error::setting(name, value, reason));
    let recipe = &training.recipe;
    let paths = [Some(&*training.known), training.backbone.as_deref(), recipe.outliers.folder()];
    for path in paths.into_iter().flatten() {
        if path.to_str().is_none() {
            return invalid(
                "path",
                path.display().to_string(),
                "must be UTF-8, because the model records it",
            );
        }
    }
    if training.epochs == 0 {
        return invalid("epochs", "0".to_owned(), "must be at least 1");
    }
    if training.batch_size == 0 {
        return invalid("batch size", "0".to_owned(), "must be at least 1");
    }
    if *test_every == 0 {
        return invalid("test every", "0".to_owned(), "must be at least 1");
    }
    for (name, value) in [("held-out", training.held_out), ("trim", recipe.trim), ("average", recipe.average)]
    {
        if !(0.0..1.0).contains(&value) {
            return invalid(name, value.to_string(), "must be a share from 0 to below 1");
        }
    }
    if recipe.trim > 0.0 && recipe.trimmed_of(training.batch_size) == 0 {
        let reason = format!("is no picture of a step of {}", training.batch_size);
        return invalid("trim", recipe.trim.to_string(), &reason);
    }
    if recipe.outliers != Outliers::None {
        if recipe.outliers_beside(training.batch_size) == 0 {
            let reason = format!("is no picture beside a step of {}", training.batch_size);
            return invalid("outlier share", recipe.outlier_share.to_string(), &reason);
        }
        if recipe.outlier_weight == 0.0 {
            return invalid("outlier weight", "0".to_owned(), "must be positive where there are outliers");
        }
    }
    // The rise of one cycle leaves room for its fall.
    if !(0.0..training.epochs as f64).contains(&recipe.warm_up) {
        return invalid(
            "warm-up",
            recipe.warm_up.to_string(),
            "must be less than the epochs, and not negative",
        );
    }
    if !(training.learning_rate.is_finite() && training.learning_rate > 0.0) {
        return invalid("learning rate", training.learning_rate.to_string(), "must be positive");
    }
    if !(0.01..=1e6).contains(&loss.magnitude) {
        return invalid("magnitude", loss.magnitude.to_string(), "must be 0.01 to 1000000");
    }
    for (name, value) in [
        ("weight", loss.weight),
        ("weight decay", recipe.weight_decay),
        ("outlier weight", recipe.outlier_weight),
    ] {
        if !(value.is_finite() && value >= 0.0) {
            return invalid(name, value.to_string(), "must not be negative");
        }
    }
    if !(0.0..=16.0).contains(&recipe.outlier_share) {
        return invalid("outlier share", recipe.outlier_share.to_string(), "must be 0 to 16");
    }
    input.check()?;
    // Better now than after reading all pictures.
    architecture.layers(2)?;
    if let Some(size) = architecture.fixed_size().filter(|&size| (input.height, input.width) != (size, size))
    {
        return invalid("size", input.height.to_string(), &format!("must be {size} for this network"));
    }
    if let Some(size) = [input.height, input.width].into_iter().find(|size| !(8..=4096).contains(size)) {
        return invalid("size", size.to_string(), "must be 8 to 4096 pixels");
    }
    Ok(())
}
