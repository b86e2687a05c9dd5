//! The training loop, its tests, and the files that it writes to the run folder.

use std::{
    ops::ControlFlow::{self, Break, Continue},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use tch::Tensor;

use super::{
    Batch, Batches, Event, Outcome, TrainSettings, learner::Learner, log::Log, loss::smoothed,
    optimizer::Optimizer, record::Lineage, sets::Contents, state::State, torch,
};
use crate::{
    error::{Error, Result},
    eval::Evaluation,
    files::atomic,
    metrics::Bootstrap,
    report::{Report, ReportOptions},
    run::{Checkpoint, CheckpointKind, RunFolder, Started},
    weights::Weights,
};

/// Steps between progress events. Reading the loss waits for the device.
const REPORT_EVERY: usize = 10;
/// Steps between logged events.
const LOG_EVERY: usize = 50;
/// The tensor of the lowest held-out losses in a state.
const LOWEST_LOSSES: &str = "held-out.losses";
/// States kept on disk: if the newest is damaged, the one before it is used.
const STATES_KEPT: usize = 2;

/// Trains a network and writes the [run folder](RunFolder): the checkpoints of the best and of the last
/// epoch, the log, the resolved settings, and the two newest states to resume from.
///
/// The best epoch is the last whose loss on the held-out known images is no higher than the lowest before,
/// within the standard error of the difference. Of few known images none are held out to choose, and the
/// last epoch counts as best. Test sets do not influence the choice. `stop` is checked while images are read
/// and before every step. The state is saved every `save_every`, and at the end. `given` is the text of the
/// settings as a user gave them, for [`RunFolder::settings`]; without it there is no such file.
///
/// Published data sets and weights must be there: nothing is downloaded. Paths are kept as given, so a run is
/// resumed from the same folder. libtorch's generator of random numbers, which all threads of the process
/// share, is seeded: train one network at a time.
///
/// # Errors
/// Those of reading data and weights, [`Error::Setting`], [`Error::Device`],
/// [`Error::HoldsRun`] or [`Error::Locked`] if the folder has a run or another process trains in it,
/// [`Error::Diverged`], [`Error::Runtime`] if libtorch fails, [`Error::Io`] if the folder cannot be written.
pub fn train(
    settings: &TrainSettings,
    given: Option<&str>,
    run: &RunFolder,
    save_every: Duration,
    stop: &AtomicBool,
    mut observe: impl FnMut(&Event),
) -> Result<Outcome> {
    run.check_holds_no_run()?;
    settings.check()?;
    // Data may take hours to read.
    atomic::check_writable_folder(run.path())?;
    let backbone = read_backbone(settings)?;
    let Some(batches) = Batches::open(settings, stop, &mut observe)? else { return Ok(Outcome::NotBegun) };
    let mut session = Session::create(&batches, run, given, backbone)?;
    let started = session.started();
    session.record(&started)?;
    session.save()?;
    session.run(&started, &mut Control { save_every, stop, observe: &mut observe })
}

/// Resumes the run in a folder from its newest state. On the CPU, with the same number of threads, the
/// weights are bit-identical to those of an uninterrupted run.
///
/// # Errors
/// Those of [`train`], [`Error::NoState`] if the folder holds no state, [`Error::DataChanged`] if training or
/// test images have changed since the run started, [`Error::Weights`] or [`Error::Checkpoint`] if no state
/// can be used.
pub fn resume(
    run: &RunFolder,
    save_every: Duration,
    stop: &AtomicBool,
    mut observe: impl FnMut(&Event),
) -> Result<Outcome> {
    // Do not create a log in a folder without a run.
    if run.states()?.is_empty() {
        return Err(Error::NoState { path: run.path().to_owned() });
    }
    // The log is a lock: no other process saves a state from here on.
    let log = Log::open(run)?;
    let (state, tensors, fault) = State::open(run)?;
    if let Some(fault) = fault {
        observe(&Event::StateUnusable { reason: fault.to_string() });
    }
    let settings = state.settings.clone();
    settings.check()?;
    atomic::check_writable_folder(run.path())?;
    let Some(batches) = Batches::open(&settings, stop, &mut observe)? else { return Ok(Outcome::NotBegun) };
    let session = Session::reopen(&batches, run, log, state, &tensors)?;
    // They may be as large as the network.
    drop(tensors);
    let started = session.started();
    session.run(&started, &mut Control { save_every, stop, observe: &mut observe })
}

/// How the caller controls a run.
struct Control<'a> {
    save_every: Duration,
    stop: &'a AtomicBool,
    observe: &'a mut dyn FnMut(&Event),
}

/// Reads the weights that a new run starts from, if any, and checks that they fit its network.
fn read_backbone(settings: &TrainSettings) -> Result<Option<Weights>> {
    let Some(backbone) = &settings.backbone else { return Ok(None) };
    let weights = Weights::read(&backbone.file)?.network()?;
    weights.check_backbone_of(&settings.architecture, &settings.input)?;
    Ok(Some(weights))
}

/// A network with initial weights, and its optimizer.
fn untrained<'a>(batches: &'a Batches<'a>) -> Result<(Learner<'a>, Optimizer)> {
    let TrainSettings { recipe, loss, .. } = batches.settings;
    let learner = Learner::new(batches)?;
    let optimizer = Optimizer::new(&learner.network, recipe, loss.variant).map_err(torch)?;
    Ok((learner, optimizer))
}

/// The metrics of a tested network, for its default rejection score.
fn report(checkpoint: &Checkpoint, options: &ReportOptions) -> Result<Report> {
    let score = checkpoint.facts.score.into();
    let evaluation = Evaluation::of_checkpoint(checkpoint, &score, None).expect("the network is tested");
    evaluation.report(0, options)
}

/// A run in progress.
struct Session<'a> {
    batches: &'a Batches<'a>,
    folder: &'a RunFolder,
    learner: Learner<'a>,
    optimizer: Optimizer,
    state: State,
    /// The losses of the held-out images after the epoch in which their mean was lowest, once there is one.
    lowest_losses: Vec<f32>,
    /// The moving average of the loss. It stays on the device: reading it waits for the device to finish.
    smoothed_loss: Option<Tensor>,
    log: Log,
    saved: Instant,
}

impl<'a> Session<'a> {
    /// Starts a new run; `given` is the text of its settings as a user gave them.
    fn create(
        batches: &'a Batches<'a>,
        folder: &'a RunFolder,
        given: Option<&str>,
        backbone: Option<Weights>,
    ) -> Result<Self> {
        let settings = batches.settings;
        let (mut learner, optimizer) = untrained(batches)?;
        learner.begin(backbone)?;
        let path = folder.path();
        std::fs::create_dir_all(path).map_err(Error::io("create", path))?;
        let log = Log::open(folder)?;
        // Another process may have started and ended one meanwhile.
        folder.check_holds_no_run()?;
        let resolved = serde_json::to_vec_pretty(settings).expect("settings are plain data");
        atomic::write(&folder.resolved(), &resolved)?;
        if let Some(given) = given {
            folder.write_settings(given)?;
        }
        let Contents { checksum, tests_checksum, .. } = &batches.contents;
        let state = State::new(settings.clone(), checksum.clone(), tests_checksum.clone());
        let state = State { lineage: learner.lineage.clone(), ..state };
        Self::begin(batches, folder, (learner, optimizer), log, state, Vec::new())
    }

    /// Continues a run from a saved state, with its open log.
    fn reopen(
        batches: &'a Batches<'a>,
        folder: &'a RunFolder,
        log: Log,
        state: State,
        tensors: &Weights,
    ) -> Result<Self> {
        let Contents { checksum, tests_checksum, .. } = &batches.contents;
        let (mut learner, mut optimizer) = untrained(batches)?;
        // The best checkpoint has the outputs for the test images.
        if (&state.data, &state.test_sets) != (checksum, tests_checksum) {
            return Err(Error::DataChanged { path: folder.path().to_owned() });
        }
        let lowest_losses = match tensors.get(LOWEST_LOSSES) {
            Some(_) => tensors.values(LOWEST_LOSSES, &[batches.choosing.len()])?.to_vec(),
            None => Vec::new(),
        };
        // Otherwise a newer, damaged state would be kept instead of a good older one.
        folder.remove_states_but(STATES_KEPT, &state.path(folder))?;
        learner.load(tensors)?;
        learner.lineage.clone_from(&state.lineage);
        optimizer.load(tensors)?;
        Self::begin(batches, folder, (learner, optimizer), log, state, lowest_losses)
    }

    /// The session from a state on: what another process left behind after it is removed.
    fn begin(
        batches: &'a Batches<'a>,
        folder: &'a RunFolder,
        (learner, optimizer): (Learner<'a>, Optimizer),
        mut log: Log,
        state: State,
        lowest_losses: Vec<f32>,
    ) -> Result<Self> {
        log.rewind(state.log)?;
        atomic::remove_unfinished(folder.path());
        let device = learner.device;
        let smoothed_loss = state.smoothed_loss.map(|loss| Tensor::from(loss as f32).f_to_device(device));
        Ok(Self {
            batches,
            folder,
            learner,
            optimizer,
            state,
            lowest_losses,
            smoothed_loss: smoothed_loss.transpose().map_err(torch)?,
            log,
            saved: Instant::now(),
        })
    }

    /// What the run trains on and is tested on.
    fn started(&self) -> Event {
        let Lineage { held_out_seen, unknown_seen, .. } = self.learner.lineage;
        Event::Start(Started { held_out_seen, unknown_seen, ..self.batches.started.clone() })
    }

    /// Trains to the last epoch, and writes the result. The run can be resumed from here on.
    fn run(mut self, started: &Event, control: &mut Control) -> Result<Outcome> {
        (control.observe)(started);
        // A complete run needs no features of frozen layers.
        let best = if self.is_trained() { Some(self.best()?) } else { None };
        if let Some(best) = best.filter(|best| best.features.is_some()) {
            return self.finish(best, control);
        }
        if self.learner.find_features(self.folder, control.stop, control.observe)?.is_break() {
            return Ok(self.stopped());
        }
        self.saved = Instant::now();
        while !self.is_trained() {
            if self.train_and_test(control)?.is_break() {
                return Ok(self.stopped());
            }
        }
        let best = self.best()?;
        self.finish(best, control)
    }

    /// The checkpoint of the best epoch, which has its test.
    fn best(&self) -> Result<Checkpoint> {
        let path = self.folder.checkpoint(CheckpointKind::Best);
        let best = Checkpoint::read(&path)?;
        if best.test.is_none() {
            return Err(Error::Checkpoint { path, reason: "it lacks the test of its epoch".to_owned() });
        }
        Ok(best)
    }

    /// Whether all epochs are done.
    fn is_trained(&self) -> bool {
        self.state.epoch > self.batches.settings.recipe.epochs
    }

    /// The outcome of a run that was asked to stop.
    fn stopped(&self) -> Outcome {
        if self.is_trained() {
            Outcome::WithoutFeatures
        } else {
            Outcome::Interrupted { epoch: self.state.epoch }
        }
    }

    /// Trains what is left of the current epoch and tests the network; breaks if asked to stop.
    fn train_and_test(&mut self, control: &mut Control) -> Result<ControlFlow<()>> {
        let (epoch, first_step) = (self.state.epoch, self.state.step);
        let begun = Instant::now();
        let (batches, features) = (self.batches, self.learner.features());
        let train_on = |batches: &mut dyn Iterator<Item = Result<Batch>>| self.epoch(batches, control);
        if batches.of_epoch_from(features.as_deref(), epoch, first_step, train_on)?.is_break() {
            return Ok(Break(()));
        }
        let tested = if self.is_tested(epoch) {
            (control.observe)(&Event::Testing { epoch });
            Some(self.test(begun)?)
        } else {
            None
        };
        (self.state.epoch, self.state.step) = (epoch + 1, 0);
        if self.is_trained() || self.saved.elapsed() >= control.save_every {
            self.save()?;
        }
        if let Some(event) = tested {
            (control.observe)(&event);
        }
        Ok(Continue(()))
    }

    /// Completes the best checkpoint with what an export needs, and writes the report.
    fn finish(mut self, mut best: Checkpoint, control: &mut Control) -> Result<Outcome> {
        // A run killed right after its last save has one state too many.
        self.folder.remove_states_but(STATES_KEPT, &self.state.path(self.folder))?;
        if best.features.is_none() {
            if self.learner.add_features(&mut best, control.stop, control.observe)?.is_break() {
                return Ok(Outcome::WithoutFeatures);
            }
            best.write(&self.folder.checkpoint(CheckpointKind::Best))?;
        }
        let options = ReportOptions { bootstrap: Some(Bootstrap::default()), ..ReportOptions::default() };
        let report = report(&best, &options)?;
        let finished = Event::Finished { report: report.clone() };
        self.record(&finished)?;
        (control.observe)(&finished);
        Ok(Outcome::Finished(report))
    }

    /// Writes an event to the log.
    fn record(&mut self, event: &Event) -> Result<()> {
        self.log.record(event, self.batches.steps())
    }

    /// Saves the state to resume from.
    fn save(&mut self) -> Result<()> {
        self.state.smoothed_loss =
            self.smoothed_loss.as_ref().map(f64::try_from).transpose().map_err(torch)?;
        self.state.log = self.log.sync()?;
        let mut tensors = Weights::new(self.folder.path());
        self.learner.save(&mut tensors)?;
        self.optimizer.save(&mut tensors).map_err(torch)?;
        self.check_finite(&tensors)?;
        if !self.lowest_losses.is_empty() {
            tensors.insert(LOWEST_LOSSES, &[self.lowest_losses.len()], self.lowest_losses.clone());
        }
        self.state.save(tensors, self.folder)?;
        self.folder.remove_states_but(STATES_KEPT, &self.state.path(self.folder))?;
        self.saved = Instant::now();
        Ok(())
    }

    /// Trains on the remaining batches of an epoch; breaks if asked to stop.
    fn epoch(
        &mut self,
        batches: impl IntoIterator<Item = Result<Batch>>,
        control: &mut Control,
    ) -> Result<ControlFlow<()>> {
        let recipe = &self.batches.settings.recipe;
        let (epoch, steps) = (self.state.epoch, self.batches.steps());
        let begun = Instant::now();
        let mut done = 0;
        for batch in batches {
            if control.stop.load(Ordering::Relaxed) {
                self.save()?;
                // Between two epochs the checkpoint of a tested epoch is current, and has its test.
                let is_kept = self.state.step == 0 && epoch > 1 && self.is_tested(epoch - 1);
                if !is_kept {
                    // `save` has checked the weights.
                    self.learner
                        .checkpoint(epoch - 1, None)?
                        .write(&self.folder.checkpoint(CheckpointKind::Last))?;
                }
                return Ok(Break(()));
            }
            if done > 0 && self.saved.elapsed() >= control.save_every {
                self.save()?;
            }
            let batch = batch?;
            let step = (epoch - 1) * steps + self.state.step;
            let rates = recipe.rates(step, steps);
            let loss = self.learner.training_loss(&batch)?;
            self.optimizer.step(&loss, rates).map_err(torch)?;
            self.learner.update_ema(step)?;
            self.smoothed_loss = Some(smoothed(self.smoothed_loss.as_ref(), &loss).map_err(torch)?);
            self.state.step += 1;
            done += batch.labels.len();
            let step = self.state.step;
            if step.is_multiple_of(REPORT_EVERY) || step == steps {
                let loss = self.smoothed_loss.as_ref().map(f64::try_from).transpose().map_err(torch)?;
                let loss = loss.expect("there was a step");
                if !loss.is_finite() {
                    return Err(self.diverged("the loss", loss));
                }
                let images_per_second = done as f64 / begun.elapsed().as_secs_f64();
                let learning_rate = rates.learning_rate;
                let event = Event::Step { epoch, step, loss, learning_rate, images_per_second };
                if step.is_multiple_of(LOG_EVERY) || step == steps {
                    self.record(&event)?;
                }
                (control.observe)(&event);
            }
        }
        Ok(Continue(()))
    }

    /// Checks tensors before they replace good ones on disk.
    fn check_finite(&self, tensors: &Weights) -> Result<()> {
        match tensors.not_finite() {
            Some((name, value)) => Err(self.diverged(&format!("`{name}`"), value.into())),
            None => Ok(()),
        }
    }

    /// The error of a loss or tensor that is not finite.
    fn diverged(&self, what: &str, value: f64) -> Error {
        let (epoch, step, steps) = (self.state.epoch, self.state.step, self.batches.steps());
        let last = ((epoch - 1) * steps + step).saturating_sub(1);
        let learning_rate = self.batches.settings.recipe.rates(last, steps).learning_rate;
        Error::Diverged { what: what.to_owned(), value, epoch, step, learning_rate }
    }

    /// Whether the network is tested after this epoch.
    fn is_tested(&self, epoch: usize) -> bool {
        epoch.is_multiple_of(self.batches.settings.test_every) || epoch == self.batches.settings.recipe.epochs
    }

    /// Tests the network after an epoch that started at `begun`, and writes its checkpoints.
    fn test(&mut self, begun: Instant) -> Result<Event> {
        let epoch = self.state.epoch;
        let tested = self.learner.test()?;
        let losses = self.learner.held_out_losses(&tested);
        let held_out_loss = (!losses.is_empty()).then(|| mean(&losses));
        if let Some(loss) = held_out_loss.filter(|loss| !loss.is_finite()) {
            return Err(self.diverged("the loss of held-out images", loss));
        }
        let is_best = is_as_low(&losses, &self.lowest_losses);
        let checkpoint = self.learner.checkpoint(epoch, Some(tested))?;
        let tensors = checkpoint.tensors();
        self.check_finite(&tensors)?;
        let report = report(&checkpoint, &ReportOptions::default())?;
        tensors.write(&self.folder.checkpoint(CheckpointKind::Last))?;
        if is_best {
            tensors.write(&self.folder.checkpoint(CheckpointKind::Best))?;
        }
        if self.lowest_losses.is_empty() || mean(&losses) < mean(&self.lowest_losses) {
            self.lowest_losses = losses;
        }
        let seconds = begun.elapsed().as_secs_f64();
        let event = Event::Epoch { epoch, held_out_loss, best: is_best, seconds, report };
        self.record(&event)?;
        Ok(event)
    }
}

/// Whether the mean of some losses is no higher than that of the lowest so far, of the same images, within
/// the standard error of the mean difference. A schedule that ends with small steps makes later weights
/// better, which few images cannot show. (Breiman et al., Classification and Regression Trees, 1984, take
/// the standard error of the lowest mean itself.)
fn is_as_low(losses: &[f32], lowest: &[f32]) -> bool {
    // The first epoch, or no held-out images that choose.
    if lowest.is_empty() {
        return true;
    }
    let differences: Vec<f32> = losses.iter().zip(lowest).map(|(loss, lowest)| loss - lowest).collect();
    let (count, mean) = (differences.len() as f64, mean(&differences));
    let squares: f64 = differences.iter().map(|&difference| (f64::from(difference) - mean).powi(2)).sum();
    mean <= (squares / (count - 1.0).max(1.0) / count).sqrt()
}

fn mean(values: &[f32]) -> f64 {
    values.iter().copied().map(f64::from).sum::<f64>() / values.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_epoch_is_best_unless_its_losses_are_higher_beyond_the_standard_error() {
        let lowest = [1.0, 2.0, 3.0, 4.0];
        let after = |changes: [f32; 4]| {
            let losses: Vec<f32> = lowest.iter().zip(changes).map(|(loss, change)| loss + change).collect();
            is_as_low(&losses, &lowest)
        };
        assert!(after([0.0; 4]) && after([-0.1; 4]));
        assert!(!after([0.1; 4]));
        // Their mean is 0.05, the standard error 0.029 or 0.087.
        assert!(!after([0.1, 0.0, 0.1, 0.0]));
        assert!(after([0.3, 0.0, -0.1, 0.0]));
        assert!(is_as_low(&[2.0], &[2.0]) && !is_as_low(&[2.1], &[2.0]));
        assert!(is_as_low(&[5.0], &[]) && is_as_low(&[], &[]));
    }
}
