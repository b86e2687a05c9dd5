//! Scores images without the command line: a minimal program.
//!
//!     cargo run --release --no-default-features --features tract --example score MODEL.onnx IMAGE...

use cac::{Provider, Scorer, image};

fn main() -> cac::Result<()> {
    let mut args = std::env::args().skip(1);
    let model = args.next().expect("usage: score MODEL.onnx IMAGE...");
    let provider = if cfg!(feature = "tract") { Provider::Cpu } else { Provider::OnnxRuntime };
    let scorer = Scorer::open(model, provider)?;
    for path in args {
        let verdict = scorer.score_image(&image::open(&path)?)?;
        println!("{path}\t{}\t{}", if verdict.unknown { "unknown" } else { &verdict.class }, verdict.score);
    }
    Ok(())
}
