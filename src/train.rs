//! Training on libtorch: the loop, its test after every epoch, and the run folder.

mod loss;
mod net;
mod run;

use std::{
    fs::File,
    io::Write,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use serde::Serialize;
use tch::{Device, TchError, Tensor, nn, nn::OptimizerConfig};

use crate::{
    arch::Architecture,
    cac::Loss,
    checkpoint::Which,
    dataset::shuffled,
    error::{Error, Result},
    manifest::{Input, Training},
    report::Report,
};
use run::Run;

/// The weight of the past in the moving average of the loss, as in pytorch-ood's tutorial.
const LOSS_MEMORY: f64 = 0.99;
/// The loss is read from the device, reported and logged once in this many steps.
const REPORT_EVERY: usize = 10;
const LOG_EVERY: usize = 50;

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
        0 if tch::utils::has_cudart() => unavailable("libtorch finds no CUDA device".to_owned()),
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
                state.checkpoint(epoch, None)?.write(run, Which::Last)?;
                return Ok(Outcome::Interrupted { epoch });
            }
            let learning_rate =
                learning_rate(settings.training.learning_rate, (epoch - 1) * steps + step, epochs * steps);
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
        let tested = state.test()?;
        let held_out_loss = state.held_out_loss(&tested);
        let is_best = match (held_out_loss, &best) {
            (Some(loss), Some((least, _))) => loss < *least,
            _ => true,
        };
        let checkpoint = state.checkpoint(epoch, Some(&tested))?;
        let report = tested.report;
        checkpoint.write(run, Which::Last)?;
        if is_best {
            checkpoint.write(run, Which::Best)?;
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

/// The rate of a step, counted from 0, of a run: along a cosine from the first rate down to 0.
fn learning_rate(first: f64, step: usize, steps: usize) -> f64 {
    let progress = step as f64 / steps as f64;
    first * (1.0 + (std::f64::consts::PI * progress).cos()) / 2.0
}

fn check(Settings { loss, architecture, input, training }: &Settings) -> Result<()> {
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
