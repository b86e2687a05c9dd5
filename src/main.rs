//! The command line: parses, runs a command, reports its error.

mod cli;
mod commands;
mod progress;

use std::{io::ErrorKind, process::ExitCode};

use clap::Parser;
use cli::{Cli, Command, TrainArgs};
use progress::say;

fn main() -> ExitCode {
    let result = TrainArgs::expand(std::env::args_os().collect()).and_then(|args| run(Cli::parse_from(args)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read our output has had enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let hint = match error.downcast_ref::<cac::Error>() {
                // Its message tells the cause already.
                Some(error) => {
                    say(format_args!("error: {error}"));
                    error.hint()
                }
                None => {
                    say(format_args!("error: {error:#}"));
                    None
                }
            };
            if let Some(hint) = hint {
                say(format_args!("hint: {hint}"));
            }
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        #[cfg(feature = "train")]
        Command::Train(args) => commands::train::run(&args),
        #[cfg(not(feature = "train"))]
        Command::Train(_) => anyhow::bail!(
            "this toolkit was built without training; `make native`, then `cargo build --release --features train`"
        ),
        Command::Import(args) => commands::import::run(&args),
        Command::Export(args) => commands::export::run(&args),
        Command::Eval(args) => commands::eval::run(&args),
        Command::Metrics(args) => commands::metrics::run(&args),
        Command::Score(args) => commands::score::run(&args),
        Command::Inspect(args) => commands::inspect::run(&args),
        Command::Providers(args) => commands::providers::run(&args),
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}
