//! The subcommands: each calls the library and prints what came of it.

pub mod eval;
pub mod export;
pub mod import;
pub mod inspect;
pub mod metrics;
pub mod providers;
pub mod score;
#[cfg(feature = "train")]
pub mod train;

use std::{
    io::{Write, stdout},
    path::Path,
};

use anyhow::bail;
use cac::scorer::{Provider, Scorer};

use crate::cli::ScorerArgs;

/// The model that is used where none is named.
const MODEL: &[u8] = include_bytes!("../exported/cifar10-wrn-40-2.onnx");

/// Where runs lie unless told otherwise.
const RUNS: &str = "runs";

fn open_scorer(model: Option<&Path>, args: &ScorerArgs, provider: Provider) -> cac::Result<Scorer> {
    let scorer = match model {
        Some(model) => Scorer::open(model, provider)?,
        None => Scorer::from_bytes(MODEL, provider)?,
    };
    match (args.keep, args.threshold) {
        (Some(keep), _) => scorer.with_keep(keep),
        (None, Some(threshold)) => scorer.with_threshold(threshold),
        (None, None) => Ok(scorer),
    }
}

/// Whether a file can lie there, which is better known before there is anything to write.
fn check_folder(file: &Path) -> anyhow::Result<()> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
        bail!("cannot write `{}`: there is no folder `{}`", file.display(), folder.display());
    }
    Ok(())
}

fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_string(value)?;
    writeln!(stdout(), "{text}")?;
    Ok(())
}
