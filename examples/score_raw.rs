//! Scores images prepared by another program, and prints all outputs of the model as JSON.
//!
//!     cargo run --release --example score_raw MODEL.onnx PROVIDER IMAGES.f32 BATCH
//!
//! The images are float32 in native byte order, `[N, 3, H, W]`, RGB in 0..=1. Outputs that the model
//! lacks are empty. `make conformance` compares the output with that of other runtimes.

use std::{
    error::Error,
    ffi::OsString,
    fs,
    io::{Write, stdout},
    num::NonZeroUsize,
    process::ExitCode,
};

use cac::{Provider, Scorer};
use ndarray::{Array4, Axis};
use serde_json::json;

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
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let [model, provider, images, batch] = &args[..] else {
        return Err("usage: score_raw MODEL.onnx PROVIDER IMAGES.f32 BATCH".into());
    };
    let scorer = Scorer::open(model, provider.to_string_lossy().parse::<Provider>()?)?;
    let batch: NonZeroUsize =
        batch.to_string_lossy().parse().map_err(|_| "BATCH must be a whole number from 1 up")?;
    let input = &scorer.decision().input;
    let path = images.to_string_lossy();
    let bytes = fs::read(images).map_err(|error| format!("cannot read `{path}`: {error}"))?;
    let (values, rest) = bytes.as_chunks();
    let values: Vec<f32> = values.iter().map(|&value| f32::from_ne_bytes(value)).collect();
    let count = values.len() / (3 * input.height * input.width);
    let images = Array4::from_shape_vec((count, 3, input.height, input.width), values);
    let images = images.ok().filter(|images| rest.is_empty() && !images.is_empty());
    let images = images.ok_or_else(|| {
        format!(
            "`{path}` has {} bytes, not those of images of 3 x {} x {} numbers",
            bytes.len(),
            input.height,
            input.width
        )
    })?;
    let mut said = json!({});
    for batch in images.axis_chunks_iter(Axis(0), batch.get()) {
        let scores = scorer.score(batch)?;
        let part = json!({
            "logits": scores.logits.iter().collect::<Vec<_>>(),
            "distances": scores.distances.iter().collect::<Vec<_>>(),
            "score": scores.score.to_vec(),
            "label": scores.label.to_vec(),
            "unknown": scores.unknown.to_vec(),
            "p_value": scores.p_value.iter().flatten().collect::<Vec<_>>(),
            "unknown_at": scores.unknown_at.iter().flatten().collect::<Vec<_>>(),
            "features": scores.features.iter().flatten().collect::<Vec<_>>(),
            "logit_map": scores.logit_map.iter().flatten().collect::<Vec<_>>(),
        });
        for (name, values) in part.as_object().into_iter().flatten() {
            let values = values.as_array().cloned().unwrap_or_default();
            match &mut said[name] {
                serde_json::Value::Array(all) => all.extend(values),
                none => *none = values.into(),
            }
        }
    }
    Ok(writeln!(stdout(), "{said}")?)
}
