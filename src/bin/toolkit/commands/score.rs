//! `toolkit score`

use std::{
    io::{Write, stdout},
    path::{Path, PathBuf},
};

use anyhow::bail;
use cac::{
    Error, Scorer, Verdict,
    data::{path_text, prefetch},
    image::{self, Input},
};
use ndarray::Array4;
use rayon::prelude::*;

use super::{print_json, read_model, with_threshold};
use crate::{cli::ScoreArgs, terminal::say};

/// Prints the verdict on each image. An image that cannot be read does not end the work.
pub fn run(args: &ScoreArgs) -> anyhow::Result<()> {
    let (model, images) = args.model_and_images();
    if images.is_empty() {
        bail!("give images after the model");
    }
    let (bytes, origin) = read_model(model, &args.signature)?;
    let scorer = with_threshold(Scorer::named(&bytes, &origin, args.provider)?, &args.scorer)?;
    let input = scorer.decision().input;
    let batches = images.chunks(scorer.preferred_batch());
    let broken = prefetch(
        batches,
        |files| (files, decode(files, &input)),
        |decoded| {
            let mut broken = 0;
            for (files, images) in decoded {
                broken += show(&scorer, files, images, args.scorer.json)?;
            }
            anyhow::Ok(broken)
        },
    )?;
    match broken {
        0 => Ok(()),
        _ => bail!("{broken} of {} images cannot be read", images.len()),
    }
}

/// Decodes files on all threads to bytes `[3, H, W]`.
fn decode(files: &[PathBuf], input: &Input) -> Vec<Result<Vec<u8>, Error>> {
    let pixels = |file: &PathBuf| Ok(image::pixels(&image::open(file)?, input));
    files.par_iter().map(pixels).collect()
}

/// Prints the verdicts of a batch, and the errors of images that cannot be read in their places. Returns the number
/// of the latter.
fn show(
    scorer: &Scorer,
    files: &[PathBuf],
    images: Vec<Result<Vec<u8>, Error>>,
    json: bool,
) -> anyhow::Result<usize> {
    let input = scorer.decision().input;
    let mut readable = Vec::with_capacity(images.len() * input.values());
    images.iter().flatten().for_each(|image| readable.extend_from_slice(image));
    let shape = (readable.len() / input.values(), 3, input.height, input.width);
    let pixels = Array4::from_shape_vec(shape, readable).expect("whole images");
    let mut verdicts = scorer.verdicts(&scorer.score_u8(pixels.view())?).into_iter();
    let mut broken = 0;
    for (file, image) in files.iter().zip(images) {
        match image {
            Ok(_) => print(file, &verdicts.next().expect("a verdict for each image"), json)?,
            Err(error) => {
                broken += 1;
                say(error);
            }
        }
    }
    Ok(broken)
}

fn print(file: &Path, verdict: &Verdict, json: bool) -> anyhow::Result<()> {
    let mut name = path_text(file);
    if json {
        return print_json(&serde_json::json!({ "image": name, "verdict": verdict }));
    }
    // A tab or a newline would look like the next column or line.
    if name.contains(char::is_control) {
        name = name.escape_debug().to_string();
    }
    let class = if verdict.unknown { "unknown" } else { &verdict.class };
    let (score, threshold) = (verdict.score, verdict.threshold);
    Ok(writeln!(stdout(), "{name}\t{class}\t{score:.4}\t{threshold:.4}")?)
}
