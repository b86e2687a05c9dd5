//! Scores pictures, without the command line: the least that a program needs.
//!
//!     cargo run --release --no-default-features --features tract --example score MODEL.onnx PICTURE...

use cac::{
    preprocess,
    scorer::{Provider, Scorer},
};

fn main() -> cac::Result<()> {
    let mut args = std::env::args().skip(1);
    let model = args.next().expect("usage: score MODEL.onnx PICTURE...");
    let provider = if cfg!(feature = "tract") { Provider::Cpu } else { Provider::OnnxRuntime };
    let scorer = Scorer::open(model, provider)?;
    for path in args {
        let verdict = scorer.score_picture(&preprocess::open(&path)?)?;
        println!("{path}\t{}\t{}", if verdict.unknown { "unknown" } else { &verdict.class }, verdict.score);
    }
    Ok(())
}
