//! `toolkit score`

use std::{
    io::{Write, stdout},
    path::{Path, PathBuf},
};

use anyhow::bail;
use cac::{
    Error, Scorer, Verdict,
    data::{path_text, prefetch},
    image::{self, RgbImage},
    model::Decision,
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
    let batches = images.chunks(scorer.preferred_batch());
    let broken = prefetch(
        batches,
        |files| (files, decode(files, scorer.decision())),
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

/// An image as a model takes it.
enum Image {
    /// Bytes `[3, H, W]` of the model's size.
    Pixels(Vec<u8>),
    /// As it was decoded, for a model that resizes.
    Original(RgbImage),
}

/// Decodes files on all threads.
fn decode(files: &[PathBuf], decision: &Decision) -> Vec<Result<Image, Error>> {
    let read = |file: &PathBuf| {
        let image = image::open(file)?;
        Ok(match decision.resizes {
            true => Image::Original(image),
            false => Image::Pixels(image::pixels(&image, &decision.input)),
        })
    };
    files.par_iter().map(read).collect()
}

/// Prints the verdicts of a batch, and the errors of images that cannot be read in their places. Returns the number
/// of the latter.
fn show(
    scorer: &Scorer,
    files: &[PathBuf],
    images: Vec<Result<Image, Error>>,
    json: bool,
) -> anyhow::Result<usize> {
    let Decision { input, resizes, .. } = scorer.decision();
    let (mut pixels, mut originals, mut read) = (Vec::new(), Vec::new(), Vec::new());
    for image in images {
        read.push(image.map(|image| match image {
            Image::Pixels(bytes) => pixels.extend(bytes),
            Image::Original(image) => originals.push(image),
        }));
    }
    let outputs = if *resizes {
        scorer.score_originals(&originals)
    } else {
        let shape = (pixels.len() / input.values(), 3, input.height, input.width);
        scorer.score_u8(Array4::from_shape_vec(shape, pixels).expect("whole images").view())
    };
    let mut verdicts = scorer.verdicts(&outputs?).into_iter();
    let mut broken = 0;
    for (file, image) in files.iter().zip(read) {
        match image {
            Ok(()) => print(file, &verdicts.next().expect("a verdict for each image"), json)?,
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
    // The last column, because a model without held-out scores has none.
    let p_value = verdict.p_value.map_or(String::new(), |p_value| format!("\t{p_value:.4}"));
    Ok(writeln!(stdout(), "{name}\t{class}\t{score:.4}\t{threshold:.4}{p_value}")?)
}
