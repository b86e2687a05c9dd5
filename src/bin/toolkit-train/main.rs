//! `toolkit-train`: trains networks on libtorch. `toolkit train` runs this program.

mod display;
mod settings;
#[path = "../terminal/mod.rs"]
mod terminal;

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, bail};
use cac::{
    data::Split,
    files::check_writable_folder,
    method::{KEEP, needed},
    run::{Checkpoint, CheckpointKind, Device, RUNS, RunFolder, TrainingPrecision},
    text::shown,
    train::{Outcome, TrainSettings, resume, train},
};
use clap::{CommandFactory, Parser, error::ErrorKind};
use display::Display;
use settings::Settings;
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
};
use terminal::{Advice, VERSION_VARIABLE, quoted, say, say_unused_splits, stdout};

const USAGE: &str = "toolkit train [OPTIONS]
       toolkit train --known <DIR|NAME> [OPTIONS]
       toolkit train --config <FILE> [OPTIONS]
       toolkit train --resume <DIR>";

/// Train a network with the CAC loss and test it after every epoch.
///
/// Progress goes to stderr, the table of the best epoch to stdout. Exit codes: 0 success, 1 failure or
/// interruption, 2 usage error.
#[derive(Parser)]
#[command(name = "toolkit train", bin_name = "toolkit train", version, max_term_width = 100, override_usage = USAGE,
          args_override_self = true, allow_negative_numbers = true)]
struct Cli {
    /// Read settings from a TOML file, with the flags below as keys, or use those of pytorch-ood's CAC
    /// tutorial; flags take precedence
    #[arg(long, value_name = "FILE|tutorial", conflicts_with = "resume")]
    config: Option<PathBuf>,
    /// Resume the run in this folder exactly where it stopped
    #[arg(long, value_name = "DIR")]
    resume: Option<PathBuf>,
    /// The settings of the run
    #[command(flatten)]
    settings: Settings,
    /// Run folder for the results; by default the next free runs/N
    #[arg(help_heading = settings::RUN, long, value_name = "DIR", conflicts_with = "resume")]
    run: Option<PathBuf>,
    /// Seconds between saves of the state to resume from
    #[arg(help_heading = settings::RUN, long, value_name = "SECONDS", default_value_t = 60.0, value_parser = seconds)]
    save_every: f64,
    /// Print events as JSON lines
    #[arg(help_heading = settings::RUN, long)]
    json: bool,
}

fn main() -> ExitCode {
    terminal::hide_caught_panics();
    terminal::report_file_limits();
    terminal::finish(run())
}

fn run() -> anyhow::Result<()> {
    check_version()?;
    let matches = settings::command::<Cli>().get_matches();
    let cli = <Cli as clap::FromArgMatches>::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let save_every = Duration::from_secs_f64(cli.save_every);
    if let Some(folder) = &cli.resume {
        if let Some(name) = settings::given(&matches, None)?.typed().first() {
            let message = format!("the argument '--{name}' cannot be used with '--resume <DIR>'");
            Cli::command().error(ErrorKind::ArgumentConflict, message).exit();
        }
        let run = RunFolder::new(folder);
        let stop = stop_on_signals()?;
        let mut display = Display::new(cli.json, &run);
        let outcome = resume(&run, save_every, &stop, |event| display.show(event))
            .map_err(|error| with_resume_hint(error, &run))?;
        display.finish()?;
        return report(outcome, &run, cli.json);
    }
    let given = settings::given(&matches, cli.config.as_deref())?;
    // Before a download, which takes long.
    check_writable_folder(cli.run.as_deref().unwrap_or(Path::new(RUNS)))?;
    if let Some(folder) = &cli.run {
        let run = RunFolder::new(folder);
        let own = run.settings().canonicalize().ok();
        if own.is_some() && own == cli.config.as_ref().and_then(|file| file.canonicalize().ok()) {
            bail!("`{}` is the file of --config, and --run would replace it", shown(&run.settings()));
        }
        run.check_holds_no_run()?;
    }
    let settings = given.resolve()?;
    prepare(&settings)?;
    let run = match &cli.run {
        Some(folder) => RunFolder::new(folder),
        None => RunFolder::create_next(Path::new(RUNS))?,
    };
    let outcome = begin(&settings, &given.to_string(), &run, save_every, cli.json);
    if matches!(outcome, Err(_) | Ok(Outcome::NotBegun)) && cli.run.is_none() {
        // Fails on purpose if anything was written into it.
        let _ = std::fs::remove_dir(run.path());
    }
    report(outcome?, &run, cli.json)
}

/// Checks the settings, downloads the data, and says what is trained.
fn prepare(settings: &TrainSettings) -> anyhow::Result<()> {
    // Before a download, which takes long.
    settings.check()?;
    if cfg!(target_arch = "x86_64")
        && settings.device == Device::Cpu
        && settings.recipe.precision == TrainingPrecision::Bf16
        && !Device::Cpu.is_faster_in_bf16()
    {
        say("--precision bf16 is slower than f32 on this processor");
    }
    settings::fetch_data(settings)?;
    if cac::data::PublishedSet::meant_by(&settings.known.path).is_none() {
        for split in [Split::Train, Split::Test] {
            say_unused_splits(&settings.known.path, split);
        }
    }
    say(settings::network(settings));
    if settings::shrinks_photographs(settings)? {
        say(format_args!(
            "the images are much larger than that; for photographs, start from a network trained on photographs: --backbone {}",
            settings::OF_PHOTOGRAPHS
        ));
    }
    Ok(())
}

/// Trains with the settings, and saves them in the folder as `given`.
fn begin(
    settings: &TrainSettings,
    given: &str,
    run: &RunFolder,
    save_every: Duration,
    json: bool,
) -> anyhow::Result<Outcome> {
    let stop = stop_on_signals()?;
    let mut display = Display::new(json, run);
    let outcome = train(settings, Some(given), run, save_every, &stop, |event| display.show(event))?;
    display.finish()?;
    Ok(outcome)
}

/// The error of a resumed run. Its data may have relative paths.
fn with_resume_hint(error: cac::Error, run: &RunFolder) -> anyhow::Error {
    let is_of_data = matches!(&error, cac::Error::Io { path, error, .. }
        if path.is_relative() && error.kind() == std::io::ErrorKind::NotFound && !path.starts_with(run.path()));
    if is_of_data {
        let hint = "resume from the folder in which the run was started: its paths are relative to it";
        return Advice::new(error.to_string(), hint).into();
    }
    error.into()
}

fn report(outcome: Outcome, run: &RunFolder, json: bool) -> anyhow::Result<()> {
    let folder = shown(run.path());
    let quoted = quoted(run.path());
    let resume = format!("resume with `toolkit train --resume {quoted}`");
    match outcome {
        Outcome::Finished(report) if !json => {
            writeln!(stdout(), "{report}run: {folder}")?;
            let best = Checkpoint::read(&run.checkpoint(CheckpointKind::Best))?;
            let tested = best.test.as_ref().map_or(0, |test| test.known.nrows());
            // Without held-out images, the test images choose the threshold.
            let is_enough = best.held_out.calibrating.nrows() > 0 || tested >= needed(KEEP);
            say(if is_enough {
                format!(
                    "next: `toolkit export --run {quoted} model.onnx` chooses score and threshold and writes the model"
                )
            } else {
                format!(
                    "next: `toolkit export --run {quoted} --threshold VALUE model.onnx` writes the model; no images were held out, \
                     and {tested} test images are too few to choose a threshold from"
                )
            });
            Ok(())
        }
        Outcome::Finished(_) => Ok(()),
        Outcome::NotBegun => {
            let message = "interrupted while reading images";
            if run.holds_run() { Err(Advice::new(message, resume).into()) } else { bail!(message) }
        }
        Outcome::WithoutFeatures => {
            let message =
                "interrupted after the last epoch, before the features of the best one were computed";
            let export = format!("toolkit export --run {quoted} model.onnx");
            Err(Advice::new(
                message,
                format!("{resume}, or export without a choice of the score with `{export}`"),
            )
            .into())
        }
        Outcome::Interrupted { epoch } => {
            let hint = if run.checkpoint(CheckpointKind::Last).exists() {
                format!(
                    "{resume}, or export the current weights with `toolkit export --run {quoted} --last model.onnx`"
                )
            } else {
                // While frozen layers compute features, there are no weights yet.
                resume
            };
            Err(Advice::new(format!("interrupted in epoch {epoch}"), hint).into())
        }
    }
}

/// Refuses to run for a `toolkit` of another version, whose flags and files may differ.
fn check_version() -> anyhow::Result<()> {
    let own = env!("CARGO_PKG_VERSION");
    match std::env::var(VERSION_VARIABLE) {
        Ok(version) if version != own => Err(Advice::new(
            format!("toolkit {version} cannot use toolkit-train {own}"),
            "build both with `make build`; `toolkit-train` beside `toolkit` takes precedence over the PATH",
        )
        .into()),
        _ => Ok(()),
    }
}

/// A flag that SIGINT and SIGTERM set; a second signal ends the program at once.
fn stop_on_signals() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&stop);
    let mut signals = Signals::new([SIGINT, SIGTERM]).context("cannot handle Ctrl-C")?;
    std::thread::spawn(move || {
        for _ in signals.forever() {
            if asked.swap(true, Ordering::Relaxed) {
                say("error: stopped at once; what was done since the last saved state is lost");
                // Without libtorch's destructors, which would crash the running computation.
                signal_hook::low_level::exit(1);
            }
            say("stopping soon; press Ctrl-C again to stop at once");
        }
    });
    Ok(stop)
}

fn seconds(text: &str) -> Result<f64, String> {
    let value: Option<f64> = text.parse().ok().filter(|value| (0.0..=1e9).contains(value));
    value.ok_or_else(|| "expected seconds, 0 to 1e9".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn current_weights_are_offered_if_there_are_any() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunFolder::new(folder.path());
        let hint = || {
            let error = report(Outcome::Interrupted { epoch: 4 }, &run, false).unwrap_err();
            assert_eq!(error.to_string(), "interrupted in epoch 4");
            error.downcast::<Advice>().unwrap().hint
        };
        assert!(hint().starts_with("resume with ") && !hint().contains("export"), "{}", hint());
        std::fs::write(run.checkpoint(CheckpointKind::Last), "").unwrap();
        assert!(hint().contains(", or export the current weights with "), "{}", hint());
    }

    #[test]
    fn the_command_line_is_consistent() {
        let command = settings::command::<Cli>();
        let own = ["config", "resume", "help", "version"];
        for argument in command.get_arguments().filter(|argument| !own.contains(&argument.get_id().as_str()))
        {
            assert!(argument.get_help_heading().is_some(), "{argument}");
        }
        let heading = |name: &str| {
            command.get_arguments().find(|argument| argument.get_id() == name).unwrap().get_help_heading()
        };
        assert_eq!([heading("run"), heading("arch")], [Some("Run"), Some("Network")]);
        command.debug_assert();
    }
}
