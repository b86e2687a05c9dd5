//! `toolkit score`

use std::{
    io::{Write, stdout},
    path::{Path, PathBuf},
};

use anyhow::bail;
use cac::{
    Error, Verdict,
    data::prefetch,
    image::{self, Input},
};
use ndarray::Array4;
use rayon::prelude::*;

use super::{open_scorer, print_json};
use crate::cli::ScoreArgs;

/// Prints the verdict on each image.
pub fn run(args: &ScoreArgs) -> anyhow::Result<()> {
    let (model, images) = args.model_and_images();
    if images.is_empty() {
        bail!("give images after the model");
    }
    let scorer = open_scorer(model.map(PathBuf::as_path), &args.scorer, args.provider)?;
    let input = scorer.decision().input;
    let batches = images.chunks(scorer.preferred_batch());
    prefetch(
        batches,
        |files| (files, decode(files, &input)),
        |decoded| {
            for (files, (pixels, error)) in decoded {
                let verdicts = scorer.verdicts(&scorer.score_u8(pixels.view())?);
                for (file, verdict) in files.iter().zip(&verdicts) {
                    print(file, verdict, args.scorer.json)?;
                }
                if let Some(error) = error {
                    return Err(error.into());
                }
            }
            Ok(())
        },
    )
}

/// Decodes files on all threads: the bytes `[N, 3, H, W]` of the images before the first that cannot be read,
/// and its error.
fn decode(files: &[PathBuf], input: &Input) -> (Array4<u8>, Option<Error>) {
    let pixels = |file: &PathBuf| Ok(image::pixels(&image::open(file)?, input.height, input.width));
    let decoded: Vec<Result<Vec<u8>, Error>> = files.par_iter().map(pixels).collect();
    let (mut bytes, mut count, mut fault) = (Vec::with_capacity(files.len() * input.values()), 0, None);
    for image in decoded {
        match image {
            Ok(pixels) => bytes.extend(pixels),
            Err(error) => {
                fault = Some(error);
                break;
            }
        }
        count += 1;
    }
    let shape = (count, 3, input.height, input.width);
    (Array4::from_shape_vec(shape, bytes).expect("one image per file"), fault)
}

fn print(file: &Path, verdict: &Verdict, json: bool) -> anyhow::Result<()> {
    if json {
        return print_json(&serde_json::json!({ "image": file.to_string_lossy(), "verdict": verdict }));
    }
    let class = if verdict.unknown { "unknown" } else { &verdict.class };
    let (file, score, threshold) = (file.display(), verdict.score, verdict.threshold);
    Ok(writeln!(stdout(), "{file}\t{class}\t{score:.4}\t{threshold:.4}")?)
}
