//! Training on libtorch: the loop, its test after every epoch, and the run folder.

mod adam;
mod dropout;
mod loss;
mod net;
mod run;
mod state;

use std::{
    fs::{File, OpenOptions},
    io::{Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use tch::{Device, TchError, Tensor};

use crate::{
    arch::Architecture,
    cac::Loss,
    checkpoint::Which,
    dataset::shuffled,
    error::{Error, Result},
    manifest::{Input, Training},
    report::Report,
    weights::Weights,
};
use adam::Adam;
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
    /// The network.
    pub architecture: Architecture,
    /// The pictures that it takes.
    pub input: Input,
    /// Data, schedule and device; `pictures` and `epoch` are filled in.
    pub training: Training,
    /// The numbers to train with.
    pub precision: Precision,
}

/// The numbers that activations are computed with in training. Weights, their optimiser and all tests are in
/// single precision in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum Precision {
    /// bf16 where the processor has instructions for it, f32 elsewhere and on CUDA.
    Auto,
    /// Single precision.
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

/// How a run begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// From the settings.
    New,
    /// From the state that a run in the folder has saved.
    Resume,
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
        let reason = "must be cpu, cuda or cuda:N".to_owned();
        return Err(Error::Setting { name: "device", value: format!("`{name}`"), reason });
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
/// `weights-last.safetensors` and `manifest-last.json` of the last, `log.jsonl`, and in `state-*.safetensors` the
/// last two states to resume from.
///
/// The best epoch is the one with the lowest loss on the held-out known pictures; test sets have no say.
/// `stop` is looked at before every step. The state is saved after every epoch and `save_every` so much time; a
/// run that is resumed gives, on the processor and with as many threads, the very weights of one that was never
/// interrupted.
///
/// # Errors
/// Those of reading data and weights, [`Error::Setting`], also where a run is resumed with other settings,
/// [`Error::Provider`] for the device, [`Error::Diverged`], [`Error::Runtime`] where libtorch fails,
/// [`Error::Io`] where the folder cannot be written.
pub fn train(
    settings: &Settings,
    run: &Path,
    start: Start,
    save_every: Duration,
    stop: &AtomicBool,
    mut observe: impl FnMut(&Event),
) -> Result<Outcome> {
    check(settings)?;
    let saved = match start {
        Start::New => None,
        Start::Resume => Some(State::open(run)?),
    };
    let mut training = Run::new(settings, device(&settings.training.device)?, start)?;
    let mut optimizer = Adam::new(&training.store).map_err(torch)?;
    let mut state = match saved {
        Some((state, weights)) => {
            if state.settings != *settings || state.pictures != training.order.len() {
                let (value, reason) =
                    (format!("`{}`", run.display()), "was started with other settings or data");
                return Err(Error::Setting { name: "resume", value, reason: reason.to_owned() });
            }
            training.load(&weights)?;
            optimizer.load(&weights)?;
            state
        }
        None => {
            let settings = settings.clone();
            let pictures = training.order.len();
            State { settings, pictures, epoch: 1, step: 0, average: None, best: None, log_bytes: 0 }
        }
    };
    std::fs::create_dir_all(run).map_err(Error::io("create", run))?;
    let mut log = Log::open(run, state.log_bytes)?;

    let epochs = settings.training.epochs;
    let batch_size = settings.training.batch_size;
    let pictures = training.order.len();
    let steps = pictures.div_ceil(batch_size);
    let begun = Event::Start { pictures, steps, epochs };
    if start == Start::New {
        state::clear(run)?;
        log.record(&begun)?;
        save(&state, &training, &optimizer, &log, run)?;
    }
    observe(&begun);

    // The average stays on the device: reading it waits for the device to finish.
    let mut average =
        state.average.map(|average| Tensor::from(average as f32).to_device(training.store.device()));
    let mut last_saved = Instant::now();
    while state.epoch <= epochs {
        let epoch = state.epoch;
        let epoch_start = Instant::now();
        let first_step = state.step;
        let order = shuffled(pictures, seed_of(settings, epoch, 0));
        for (step, batch) in order.chunks(batch_size).enumerate().skip(first_step) {
            let is_asked_to_stop = stop.load(Ordering::Relaxed);
            if is_asked_to_stop || (step > first_step && last_saved.elapsed() >= save_every) {
                state.step = step;
                state.average = average.as_ref().map(f64::try_from).transpose().map_err(torch)?;
                save(&state, &training, &optimizer, &log, run)?;
                last_saved = Instant::now();
            }
            if is_asked_to_stop {
                training.checkpoint(epoch, None)?.write(run, Which::Last)?;
                return Ok(Outcome::Interrupted { epoch });
            }
            let learning_rate =
                learning_rate(settings.training.learning_rate, (epoch - 1) * steps + step, epochs * steps);
            let indices: Vec<usize> = batch.iter().map(|&i| training.order[i]).collect();
            // What is random in a step depends on nothing before it.
            let loss = training.training_loss(&indices, seed_of(settings, epoch, step + 1))?;
            optimizer.step(&loss, learning_rate).map_err(torch)?;

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
                let done = (step * batch_size).min(pictures) - first_step * batch_size;
                let pictures_per_second = done as f64 / epoch_start.elapsed().as_secs_f64();
                let event = Event::Step { epoch, step, loss, learning_rate, pictures_per_second };
                if step % LOG_EVERY == 0 || step == steps {
                    log.record(&event)?;
                }
                observe(&event);
            }
        }
        observe(&Event::Testing { epoch });
        let tested = training.test()?;
        let held_out_loss = training.held_out_loss(&tested);
        if let Some(loss) = held_out_loss.filter(|loss| !loss.is_finite()) {
            return Err(Error::Diverged { epoch, step: steps, loss });
        }
        let is_best = match (held_out_loss, &state.best) {
            (Some(loss), Some((least, _))) => loss < *least,
            _ => true,
        };
        let checkpoint = training.checkpoint(epoch, Some(&tested))?;
        let report = tested.report;
        checkpoint.write(run, Which::Last)?;
        if is_best {
            checkpoint.write(run, Which::Best)?;
            state.best = Some((held_out_loss.unwrap_or(0.0), report.clone()));
        }
        let seconds = epoch_start.elapsed().as_secs_f64();
        let event = Event::Epoch { epoch, held_out_loss, best: is_best, seconds, report };
        log.record(&event)?;
        (state.epoch, state.step) = (epoch + 1, 0);
        state.average = average.as_ref().map(f64::try_from).transpose().map_err(torch)?;
        save(&state, &training, &optimizer, &log, run)?;
        last_saved = Instant::now();
        observe(&event);
    }
    let (_, report) = state.best.expect("there is at least one epoch");
    Ok(Outcome::Finished(report))
}

/// What a run in a folder was asked to do, from the state that it has saved.
///
/// # Errors
/// [`Error::Io`] where the folder cannot be read, [`Error::Setting`] where it holds no state,
/// [`Error::Weights`] where none can be read.
pub fn settings(run: &Path) -> Result<Settings> {
    Ok(State::open(run)?.0.settings)
}

/// Saves all that the run needs to go on.
fn save(state: &State, training: &Run, optimizer: &Adam, log: &Log, run: &Path) -> Result<()> {
    let mut weights = Weights::new(run);
    training.save(&mut weights)?;
    optimizer.save(&mut weights).map_err(torch)?;
    State { log_bytes: log.bytes, ..state.clone() }.save(weights, run)
}

/// The seed of a step of an epoch, or with step 0 of the epoch's order.
fn seed_of(settings: &Settings, epoch: usize, step: usize) -> u64 {
    let seed = settings.training.seed.wrapping_mul(1_000_003).wrapping_add(epoch as u64);
    seed.wrapping_add((step as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15))
}

/// `log.jsonl`, one event a line.
struct Log {
    path: PathBuf,
    file: File,
    /// The bytes that belong to what the run has done.
    bytes: u64,
}

impl Log {
    /// Goes on after so many bytes; what stands behind them will be done again.
    fn open(run: &Path, bytes: u64) -> Result<Self> {
        let path = run.join("log.jsonl");
        let open = || {
            let mut file = OpenOptions::new().create(true).write(true).truncate(false).open(&path)?;
            file.set_len(bytes)?;
            file.seek(SeekFrom::End(0))?;
            Ok(file)
        };
        let file = open().map_err(Error::io("write", &path))?;
        Ok(Self { path, file, bytes })
    }

    fn record(&mut self, event: &Event) -> Result<()> {
        let mut line = serde_json::to_vec(event).expect("an event is plain data");
        line.push(b'\n');
        self.bytes += line.len() as u64;
        self.file.write_all(&line).map_err(Error::io("write", &self.path))
    }
}

/// The rate of a step, counted from 0, of a run: along a cosine from the first rate down to 0.
fn learning_rate(first: f64, step: usize, steps: usize) -> f64 {
    let progress = step as f64 / steps as f64;
    first * (1.0 + (std::f64::consts::PI * progress).cos()) / 2.0
}

fn check(Settings { loss, architecture, input, training, .. }: &Settings) -> Result<()> {
    let invalid =
        |name, value: String, reason: &str| Err(Error::Setting { name, value, reason: reason.to_owned() });
    for path in [Some(&training.known), training.backbone.as_ref()].into_iter().flatten() {
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
    if let Some(size) = architecture.fixed_size().filter(|&size| (input.height, input.width) != (size, size))
    {
        return invalid("size", input.height.to_string(), &format!("must be {size} for this network"));
    }
    if !(8..=4096).contains(&input.height) || !(8..=4096).contains(&input.width) {
        return invalid("size", input.height.to_string(), "must be 8 to 4096 pixels");
    }
    Ok(())
}
