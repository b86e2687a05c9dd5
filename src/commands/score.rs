//! `toolkit score`

use std::{
    io::{Write, stdout},
    path::PathBuf,
};

use anyhow::bail;
use cac::preprocess;

use super::{open_scorer, print_json};
use crate::cli::ScoreArgs;

/// Says for each picture which class it is.
pub fn run(args: &ScoreArgs) -> anyhow::Result<()> {
    let (model, pictures) = args.model_and_pictures();
    if pictures.is_empty() {
        bail!("give pictures behind the model");
    }
    let scorer = open_scorer(model.map(PathBuf::as_path), &args.scorer, args.provider)?;
    for path in pictures {
        let verdict = scorer.score_picture(&preprocess::open(path)?)?;
        if args.scorer.json {
            print_json(&serde_json::json!({ "picture": path.to_string_lossy(), "verdict": verdict }))?;
        } else {
            let class = if verdict.unknown { "unknown" } else { &verdict.class };
            let (path, score, threshold) = (path.display(), verdict.score, verdict.threshold);
            writeln!(stdout(), "{path}\t{class}\t{score:.4}\t{threshold:.4}")?;
        }
    }
    Ok(())
}
