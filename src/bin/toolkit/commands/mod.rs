//! The subcommands: each calls the library and prints the result.

pub mod data;
pub mod eval;
pub mod export;
pub mod import;
pub mod inspect;
pub mod metrics;
pub mod providers;
pub mod report;
pub mod score;
pub mod train;
pub mod verify;

use std::{
    borrow::Cow,
    io::{self, Write, stdout},
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::bail;
use cac::{Error, Scorer, files::signature, model::Inspection};

use crate::{
    cli::{ScorerArgs, SignatureArgs},
    terminal::say,
};

/// The built-in model.
const MODEL: &[u8] = include_bytes!("../../../../exported/cifar10-wrn-40-2.onnx");

/// The length of a public key in base64.
const KEY_LENGTH: usize = 56;

/// The error of a file that cannot be read.
fn unreadable(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { action: "read", path, source }
}

/// The bytes of a model file, whose signature is checked if there is one, and its name in errors; by default those
/// of the built-in model.
fn read_model(model: Option<&Path>, signature: &SignatureArgs) -> cac::Result<(Cow<'static, [u8]>, String)> {
    let (bytes, origin) = match model {
        Some(path) => {
            let bytes = std::fs::read(path).map_err(unreadable(path))?;
            (Cow::Owned(bytes), path.display().to_string())
        }
        None => (Cow::Borrowed(MODEL), "the built-in model".to_owned()),
    };
    if let (Some(file), Some(key)) = (&signature.signature, &signature.public_key) {
        let path = Path::new(key);
        let is_key = key.len() == KEY_LENGTH && !path.exists();
        let text =
            if is_key { key.clone() } else { std::fs::read_to_string(path).map_err(unreadable(path))? };
        signature::check(&bytes, file, &text)?;
    }
    Ok((bytes, origin))
}

/// The models that a user names, else the newest one in the current folder; none for the built-in one. Says which is
/// taken if none is named.
fn named_or_newest(named: &[PathBuf]) -> Vec<PathBuf> {
    if !named.is_empty() {
        return named.to_vec();
    }
    let newest = newest_model(Path::new("."));
    match &newest {
        Some(model) => say(format_args!("model: `{}`, the newest in this folder", model.display())),
        None => say("model: the built-in one of CIFAR-10's classes"),
    }
    newest.into_iter().collect()
}

/// The model file of this toolkit in a folder that was written last.
fn newest_model(folder: &Path) -> Option<PathBuf> {
    let mut files: Vec<(SystemTime, PathBuf)> = std::fs::read_dir(folder)
        .ok()?
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let name = PathBuf::from(entry.file_name());
            let is_model = name.extension().is_some_and(|end| end.eq_ignore_ascii_case("onnx"));
            let file = entry.path().metadata().ok().filter(|file| is_model && file.is_file())?;
            Some((file.modified().ok()?, name))
        })
        .collect();
    files.sort_unstable();
    let is_ours =
        |path: &Path| std::fs::read(folder.join(path)).is_ok_and(|bytes| Inspection::of(&bytes, "").is_ok());
    files.into_iter().rev().map(|(_, path)| path).find(|path| is_ours(path))
}

/// The scorer with the threshold of the flags.
fn with_threshold(scorer: Scorer, args: &ScorerArgs) -> cac::Result<Scorer> {
    match (args.keep, args.threshold) {
        (Some(keep), _) => scorer.with_keep(keep),
        (None, Some(threshold)) => scorer.with_threshold(threshold as f32),
        (None, None) => Ok(scorer),
    }
}

/// Checks that an output file is none of the inputs and can be written, before the work begins.
fn check_output<'a>(file: &Path, inputs: impl IntoIterator<Item = &'a Path>) -> anyhow::Result<()> {
    let place = file.canonicalize().ok();
    let is_same = |input: &Path| place.is_some() && input.canonicalize().ok() == place;
    if inputs.into_iter().any(is_same) {
        bail!("cannot write `{}`: it is read, too", file.display());
    }
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
