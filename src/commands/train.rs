//! `toolkit train`

use std::{
    io::{ErrorKind, Write, stdout},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, bail};
use cac::{
    arch::{Architecture, CacNet, WideResNet},
    cac::{Loss, Variant},
    manifest::{Input, Training},
    recipe::{Outliers, Recipe},
    train::{Event, Outcome, Settings, is_run, resume, train},
    weights::Weights,
};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
};

use super::{RUNS, import::StartingWeights};
use crate::{
    cli::{Family, Objective, SettingsArgs, TrainArgs},
    progress::{Progress, say},
};

/// Trains, and shows how it goes.
pub fn run(args: &TrainArgs) -> anyhow::Result<()> {
    let (run, new) = match (&args.resume, &args.settings) {
        (Some(run), _) => (run.clone(), None),
        (None, None) => bail!("give --known, --config or --resume"),
        (None, Some(given)) => {
            let mut filled = given.clone();
            let settings = resolve(&mut filled)?;
            let run = match &args.run {
                Some(run) if is_run(run) => {
                    bail!("`{}` already holds a run; --resume goes on with it", run.display())
                }
                Some(run) => run.clone(),
                None => new_run()?,
            };
            (run, Some((settings, toml::to_string(&filled)?)))
        }
    };
    let stop = stop_on_signals()?;
    let mut unwritten = None;
    let mut display = Display { json: args.json, run: &run, epochs: 0, steps: 0, bar: None };
    let observe = |event: &Event| {
        if let (Event::Start { .. }, Some((_, file))) = (event, &new) {
            unwritten = std::fs::write(run.join("settings.toml"), file).err();
            // Better now than after hours.
            stop.fetch_or(unwritten.is_some(), Ordering::Relaxed);
        }
        display.show(event);
    };
    let save_every = Duration::from_secs_f64(args.save_every);
    let outcome = match &new {
        Some((settings, _)) => train(settings, &run, save_every, &stop, observe),
        None => resume(&run, save_every, &stop, observe),
    };
    if outcome.is_err() && new.is_some() && args.run.is_none() {
        // It stays where anything was written into it.
        let _ = std::fs::remove_dir(&run);
    }
    let outcome = outcome?;
    if let Some(bar) = display.bar {
        bar.finish();
    }
    if let Some(error) = unwritten {
        return Err(error).with_context(|| format!("cannot write `settings.toml` in `{}`", run.display()));
    }
    match outcome {
        Outcome::Finished(report) if !args.json => {
            writeln!(stdout(), "{report}run: {}", run.display())?;
            Ok(())
        }
        Outcome::Finished(_) => Ok(()),
        Outcome::Interrupted { epoch } => bail!(
            "interrupted in epoch {epoch}; `toolkit train --resume {}` goes on from there, and the weights of that \
             moment are `weights-last.safetensors` in it",
            run.display()
        ),
    }
}

/// What Ctrl-C and a polite kill set; a second one ends the program at once.
fn stop_on_signals() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&stop);
    let mut signals = Signals::new([SIGINT, SIGTERM]).context("cannot handle Ctrl-C")?;
    std::thread::spawn(move || {
        for _ in signals.forever() {
            if asked.swap(true, Ordering::Relaxed) {
                std::process::exit(1);
            }
            say("stopping after this step or test; once more to stop at once");
        }
    });
    Ok(stop)
}

/// Shows a run while it is going on.
struct Display<'a> {
    json: bool,
    run: &'a Path,
    epochs: usize,
    /// In an epoch.
    steps: usize,
    bar: Option<Progress>,
}

impl Display<'_> {
    fn show(&mut self, event: &Event) {
        if self.json {
            let line = serde_json::to_string(event).expect("an event is plain data");
            // Losing the reader must not end the run.
            let _ = writeln!(stdout(), "{line}");
        }
        let epochs = self.epochs;
        match event {
            Event::Start { pictures, steps, epochs } => {
                (self.epochs, self.steps) = (*epochs, *steps);
                say(format_args!("training on {pictures} pictures, results in `{}`", self.run.display()));
            }
            Event::Step { epoch, step, loss, learning_rate, pictures_per_second } => {
                let new = || Progress::new(format!("epoch {epoch}/{epochs}"), self.steps);
                let message =
                    format!("loss {loss:.4}, lr {learning_rate:.2e}, {pictures_per_second:.1} pictures/s");
                self.bar.get_or_insert_with(new).update(*step, &message);
                // Not every epoch is tested.
                if let Some(bar) = self.bar.take_if(|_| *step == self.steps) {
                    bar.finish();
                }
            }
            Event::Testing { epoch } => say(format_args!("epoch {epoch}/{epochs}: testing")),
            Event::Epoch { epoch, held_out_loss, best, seconds, report } => {
                let held_out = held_out_loss.map(|loss| format!(", held-out loss {loss:.4}"));
                let best = if *best { " (best)" } else { "" };
                let held_out = held_out.unwrap_or_default();
                say(format_args!("epoch {epoch}/{epochs}: {seconds:.0} s{held_out}{best}\n{report}"));
            }
        }
    }
}

/// What the settings mean to the library; what they leave open is filled in.
fn resolve(args: &mut SettingsArgs) -> anyhow::Result<Settings> {
    let loss = loss(args)?;
    args.precision = args.precision.resolved(&args.device);
    let mut input = Input { height: args.size, width: args.size, ..Input::default() };
    let mut found = None;
    if let Some(backbone) = &mut args.backbone {
        let start = StartingWeights::find(backbone)?;
        found = Some(Weights::read(&start.file)?.recognize()?.0);
        (input.mean, input.std) = (start.mean, start.std);
        *backbone = start.file;
    }
    input.mean = *args.mean.get_or_insert(input.mean);
    input.std = *args.std.get_or_insert(input.std);
    let architecture = architecture(args, found)?;
    let mut recipe = Recipe {
        optimizer: args.optimizer,
        schedule: args.schedule,
        warm_up: args.warm_up,
        weight_decay: args.weight_decay,
        augment: args.augment,
        trim: args.trim,
        average: args.average,
        outliers: Recipe::default().outliers,
        outlier_share: args.outlier_share,
        outlier_weight: args.outlier_weight,
    };
    // A backbone has no use for them, and a step of few pictures has no place.
    if args.loss == Objective::CrossEntropy || recipe.outliers_beside(args.batch_size) == 0 {
        recipe.outliers = Outliers::None;
    }
    recipe.outliers = args.outliers.get_or_insert(recipe.outliers).clone();
    let training = Training {
        known: args.known.clone(),
        unknown: args.unknown.clone(),
        protocol: args.protocol,
        backbone: args.backbone.clone(),
        epochs: args.epochs,
        batch_size: args.batch_size,
        learning_rate: *args.learning_rate.get_or_insert(args.optimizer.learning_rate(loss.variant)),
        seed: args.seed,
        held_out: args.held_out,
        anchor_pictures: args.anchor_pictures,
        device: args.device.clone(),
        recipe,
        pictures: 0,
        epoch: 0,
    };
    let anchors = *args.anchors.get_or_insert(training.recipe.anchors(&loss));
    let (precision, test_every) = (args.precision, args.test_every);
    Ok(Settings { loss, anchors, architecture, input, training, precision, test_every })
}

/// The loss, with the variant's own magnitude and weight where none are given.
fn loss(args: &mut SettingsArgs) -> anyhow::Result<Loss> {
    match args.loss {
        Objective::Cac => {
            let Loss { variant, magnitude, weight } = Loss::new(args.variant);
            let magnitude = *args.magnitude.get_or_insert(magnitude);
            Ok(Loss { variant, magnitude, weight: *args.weight.get_or_insert(weight) })
        }
        Objective::CrossEntropy if args.magnitude.is_some() || args.weight.is_some() => {
            bail!("--magnitude and --weight are settings of --loss cac")
        }
        Objective::CrossEntropy => Ok(Loss::new(Variant::CrossEntropy)),
    }
}

/// The network, as the backbone's is where nothing else is said.
fn architecture(args: &mut SettingsArgs, backbone: Option<Architecture>) -> anyhow::Result<Architecture> {
    let (mut wide, mut plain) = (WideResNet::default(), CacNet::default());
    let family = match backbone {
        Some(Architecture::CacNet(found)) => {
            plain = found;
            Family::CacNet
        }
        Some(Architecture::WideResNet(found)) => {
            wide = found;
            Family::WideResnet
        }
        _ => Family::WideResnet,
    };
    Ok(match args.arch.get_or_insert(family) {
        Family::WideResnet if args.channels.is_some() => bail!("--channels is a setting of cac-net"),
        Family::WideResnet => Architecture::WideResNet(WideResNet {
            depth: *args.depth.get_or_insert(wide.depth),
            widen_factor: *args.widen_factor.get_or_insert(wide.widen_factor),
            dropout: *args.dropout.get_or_insert(wide.dropout),
        }),
        Family::CacNet if args.depth.is_some() || args.widen_factor.is_some() => {
            bail!("--depth and --widen-factor are settings of wide-resnet")
        }
        Family::CacNet => Architecture::CacNet(CacNet {
            channels: *args.channels.get_or_insert(plain.channels),
            size: args.size,
            dropout: *args.dropout.get_or_insert(plain.dropout),
        }),
    })
}

/// Makes the folder in [`RUNS`] with the next free number, which no other training takes then.
fn new_run() -> anyhow::Result<PathBuf> {
    let make = || {
        std::fs::create_dir_all(RUNS)?;
        let names = Path::new(RUNS).read_dir()?.filter_map(|entry| Some(entry.ok()?.file_name()));
        let last = names.filter_map(|name| name.to_str()?.parse::<u32>().ok()).max();
        let mut number = last.map_or(0, u64::from);
        loop {
            number += 1;
            let run = Path::new(RUNS).join(number.to_string());
            match std::fs::create_dir(&run) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                made => return made.map(|()| run),
            }
        }
    };
    make().with_context(|| format!("cannot make a folder in `{RUNS}`"))
}
