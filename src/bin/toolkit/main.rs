//! `toolkit`: scores, evaluates, exports and imports models. A separate program, `toolkit-train`, trains, so
//! this one never loads libtorch.

mod cli;
mod commands;
#[path = "../terminal/mod.rs"]
mod terminal;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};
use cli::{Cli, Command};
use commands::Unmet;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The exit code of a command that found drift, or a requirement that is not met.
const UNMET: u8 = 3;

/// Disables ONNX Runtime's telemetry: by default, its official libraries send events about models and the
/// machine to Microsoft. Its API can end that only once the first event is on its way.
fn disable_telemetry() {
    // There are no other threads yet that could read the environment at the same time.
    let _ = dotenvy::from_read_override(&b"ORT_DISABLE_TELEMETRY=1"[..]);
}

fn main() -> ExitCode {
    disable_telemetry();
    terminal::hide_caught_panics();
    terminal::report_file_limits();
    let matches = Cli::command().get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let (_, given) = matches.subcommand().expect("clap requires a command");
    let result = match cli.command {
        Command::Train(args) => commands::train::run(&args),
        Command::Import(args) => commands::import::run(&args),
        Command::Export(args) => commands::export::run(&args, given),
        Command::Eval(args) => commands::eval::run(&args),
        Command::Report(args) => commands::report::run(&args, given),
        Command::Metrics(args) => commands::metrics::run(&args),
        Command::Data(command) => commands::data::run(&command),
        Command::Weights(command) => commands::weights::run(&command),
        Command::Score(args) => commands::score::run(&args),
        Command::Drift(args) => commands::drift::run(&args),
        Command::Recalibrate(args) => commands::recalibrate::run(&args),
        Command::Inspect(args) => commands::inspect::run(&args),
        Command::Verify(args) => commands::verify::run(&args),
        Command::Providers(args) => commands::providers::run(&args),
    };
    match result {
        Err(error) if error.is::<Unmet>() => {
            terminal::say(error);
            ExitCode::from(UNMET)
        }
        result => terminal::finish(result),
    }
}
