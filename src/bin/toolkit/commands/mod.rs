//! The subcommands: each calls the library and prints the result.

pub mod eval;
pub mod export;
pub mod import;
pub mod inspect;
pub mod metrics;
pub mod providers;
pub mod score;
pub mod train;

use std::{
    io::{Write, stdout},
    path::Path,
};

use anyhow::bail;
use cac::{Provider, Scorer};

use crate::cli::ScorerArgs;

/// The built-in model.
const MODEL: &[u8] = include_bytes!("../../../../exported/cifar10-wrn-40-2.onnx");

fn open_scorer(model: Option<&Path>, args: &ScorerArgs, provider: Provider) -> cac::Result<Scorer> {
    let scorer = match model {
        Some(model) => Scorer::open(model, provider)?,
        None => Scorer::from_bytes(MODEL, provider)?,
    };
    with_threshold(scorer, args)
}

/// The scorer with the threshold of the flags.
fn with_threshold(scorer: Scorer, args: &ScorerArgs) -> cac::Result<Scorer> {
    match (args.keep, args.threshold) {
        (Some(keep), _) => scorer.with_keep(keep),
        (None, Some(threshold)) => scorer.with_threshold(threshold),
        (None, None) => Ok(scorer),
    }
}

/// Checks that an output file can be written, before the work begins.
fn check_output(file: &Path) -> anyhow::Result<()> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
        bail!("cannot write `{}`: there is no folder `{}`", file.display(), folder.display());
    }
    if file.is_dir() {
        bail!("cannot write `{}`: it is a folder", file.display());
    }
    Ok(cac::files::check_writable(file)?)
}

fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_string(value)?;
    writeln!(stdout(), "{text}")?;
    Ok(())
}
