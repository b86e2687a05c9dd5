//! Scores images without the command line: a minimal program.
//!
//!     cargo run --release --no-default-features --features tract --example score MODEL.onnx IMAGE...

use std::{error::Error, process::ExitCode};

use cac::{Provider, Scorer, image};

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
    let mut args = std::env::args().skip(1);
    let model = args.next().ok_or("usage: score MODEL.onnx IMAGE...")?;
    let scorer = Scorer::open(model, Provider::Cpu)?;
    for path in args {
        let verdict = scorer.score_image(&image::open(&path)?)?;
        let class = if verdict.unknown { "unknown" } else { &verdict.class };
        // Not every file has p-values.
        let p_value = verdict.p_value.map_or(String::new(), |p_value| format!("\t{p_value}"));
        println!("{path}\t{class}\t{}{p_value}", verdict.score);
    }
    Ok(())
}
