//! Scores images without the command line: a minimal program.
//!
//!     cargo run --release --no-default-features --features tract --example score MODEL.onnx IMAGE...

use std::{
    error::Error,
    io::{Write, stdout},
    path::PathBuf,
    process::ExitCode,
};

use cac::{Provider, Scorer, image};

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode, Box<dyn Error>> {
    let mut args = std::env::args_os().skip(1).map(PathBuf::from);
    let model = args.next().ok_or("usage: score MODEL.onnx IMAGE...")?;
    let scorer = Scorer::open(model, Provider::Cpu)?;
    let mut code = ExitCode::SUCCESS;
    for path in args {
        let verdict = match image::open(&path).and_then(|image| scorer.score_image(&image)) {
            Ok(verdict) => verdict,
            Err(error) => {
                eprintln!("{}: {error}", path.display());
                code = ExitCode::FAILURE;
                continue;
            }
        };
        let class = if verdict.unknown { "unknown" } else { &verdict.class };
        // Not every file has p-values.
        let p_value = verdict.p_value.map_or(String::new(), |p_value| format!("\t{p_value}"));
        writeln!(stdout(), "{}\t{class}\t{}{p_value}", path.display(), verdict.score)?;
    }
    Ok(code)
}
