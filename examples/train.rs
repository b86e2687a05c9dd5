//! Trains, tests and exports a classifier of small images, without the command line.
//!
//!     make native
//!     cargo run --release --features export,train --example train -- KNOWN UNKNOWN MODEL.onnx

use std::{
    error::Error,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::atomic::AtomicBool,
    time::Duration,
};

use cac::{
    arch::Architecture,
    data::UnknownSource,
    export::{ExportOptions, export},
    run::{Checkpoint, CheckpointKind, Event, RUNS, RunFolder},
    train::{Outcome, TrainSettings, train},
};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let args: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [known, unknown, model] = &args[..] else {
        return Err("usage: train KNOWN UNKNOWN MODEL.onnx".into());
    };
    let mut settings = TrainSettings::new(known, Architecture::new("cifar-net", &[("channels", 32.0)])?);
    settings.unknown.push(UnknownSource::Images { name: "unknown".to_owned(), path: unknown.clone() });

    let run = RunFolder::create_next(Path::new(RUNS))?;
    // A program with a user sets it, for example on Ctrl-C.
    let stop = AtomicBool::new(false);
    let outcome = train(&settings, None, &run, Duration::from_secs(60), &stop, |event| {
        if let Event::Epoch { epoch, report, .. } = event {
            eprintln!("epoch {epoch}: accuracy {:.1} %", 100.0 * report.accuracy.unwrap_or_default());
        }
    })?;
    let Outcome::Finished(report) = outcome else {
        return Err(format!("`{}` is not finished; `resume` goes on with it", run.path().display()).into());
    };
    println!("{report}");

    let checkpoint = Checkpoint::read(&run.checkpoint(CheckpointKind::Best))?;
    let exported = export(&checkpoint, &ExportOptions::default(), model)?;
    println!("{}: score {}", model.display(), exported.manifest.decision.score);
    Ok(())
}
