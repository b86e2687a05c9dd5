//! The subcommands: each calls the library and prints the result.

pub mod data;
pub mod drift;
pub mod eval;
pub mod export;
pub mod import;
pub mod inspect;
pub mod metrics;
pub mod providers;
pub mod recalibrate;
mod recorded;
pub mod report;
pub mod score;
pub mod train;
pub mod verify;
pub mod weights;

use std::{
    collections::{HashMap, HashSet},
    io::{self, Write},
    path::{Component, Path, PathBuf},
    time::SystemTime,
};

use anyhow::bail;
use cac::{
    Bytes, Error, Scorer,
    data::Dataset,
    files::{check_writable, check_writable_folder, destination, folder_of, signature},
    model::{Inspection, NO_THRESHOLD},
    text::{path_text, shown},
};

use crate::{
    cli::{EvaluationArgs, ScorerArgs, SignatureArgs, is_model},
    terminal::{say, stdout},
};

/// The built-in model.
const MODEL: &[u8] = include_bytes!("../../../../exported/cifar10-cifar-net.onnx");

/// The message if the built-in model is used because none is named.
const BUILT_IN: &str = "model: the built-in CIFAR-10 model";

/// What exit code 3 reports. It is not a failure, which has another code.
#[derive(Debug)]
pub struct Unmet {
    /// Sentences, one per line.
    pub findings: Vec<String>,
    /// What the user can do.
    pub hint: Option<&'static str>,
}

impl std::fmt::Display for Unmet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.findings.join("\n"))?;
        self.hint.map_or(Ok(()), |hint| write!(f, "\nhint: {hint}"))
    }
}

impl std::error::Error for Unmet {}

/// The length of a public key in base64.
const KEY_LENGTH: usize = 56;

/// The error of a file that cannot be read.
fn unreadable(path: &Path) -> impl Fn(io::Error) -> Error {
    move |error| Error::Io { action: "read", path: path.to_owned(), error }
}

/// The bytes of a model file, whose signature is checked if there is one, and its name in errors; by default
/// those of the built-in model.
fn read_model(model: Option<&Path>, signature: &SignatureArgs) -> cac::Result<(Bytes, String)> {
    let (bytes, origin) = match model {
        Some(path) => (cac::model::read(path)?, shown(path)),
        None => (Bytes::from_static(MODEL), "the built-in model".to_owned()),
    };
    if let (Some(file), Some(key)) = (&signature.signature, &signature.public_key) {
        let path = Path::new(key);
        let text = if path.exists() {
            std::fs::read_to_string(path).map_err(unreadable(path))?
        } else if key.len() == KEY_LENGTH {
            key.clone()
        } else {
            let reason =
                format!("must be a file or a minisign public key, {KEY_LENGTH} characters of base64");
            return Err(Error::Setting { name: "public key", value: format!("`{key}`"), reason });
        };
        signature::check(&bytes, file, &text)?;
    }
    Ok((bytes, origin))
}

/// The models that a user names, else the newest one in the current folder; none for the built-in one. If
/// none is named, prints which is used.
fn named_or_newest(named: &[PathBuf]) -> Vec<PathBuf> {
    if !named.is_empty() {
        return named.to_vec();
    }
    let newest = newest_model(Path::new("."));
    match &newest {
        Some(model) => say(format_args!("model: `{}`, the newest in this folder", shown(model))),
        None => say(BUILT_IN),
    }
    newest.into_iter().collect()
}

/// The most recently written model file of this toolkit in a folder.
fn newest_model(folder: &Path) -> Option<PathBuf> {
    let mut files: Vec<(SystemTime, PathBuf)> = std::fs::read_dir(folder)
        .ok()?
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let name = PathBuf::from(entry.file_name());
            let is_hidden = name.as_os_str().as_encoded_bytes().starts_with(b".");
            let is_meant = is_model(&name) && !is_hidden;
            let file = entry.path().metadata().ok().filter(|file| is_meant && file.is_file())?;
            Some((file.modified().ok()?, name))
        })
        .collect();
    files.sort_unstable();
    let is_ours =
        |path: &Path| std::fs::read(folder.join(path)).is_ok_and(|bytes| Inspection::of(&bytes, "").is_ok());
    files.into_iter().rev().map(|(_, path)| path).find(|path| is_ours(path))
}

/// The scorer with the threshold from the flags.
fn with_threshold(mut scorer: Scorer, args: &ScorerArgs) -> cac::Result<Scorer> {
    match (args.keep, args.threshold) {
        (Some(keep), _) => scorer.set_keep(keep)?,
        (None, Some(threshold)) => scorer.set_threshold(threshold as f32)?,
        (None, None) => {}
    }
    // `examples/python/wrap.py` writes it.
    if scorer.threshold() == NO_THRESHOLD && args.threshold.is_none() {
        say("the model has no threshold, so every image is known; `toolkit recalibrate` chooses one");
    }
    Ok(scorer)
}

/// The names of inputs, safe to share: the last part of each path, with as many parent folders as make it
/// unique, and no absolute path. A number distinguishes those with the same folders, one relative to the
/// current folder and the other to the root.
fn names_apart(paths: &[PathBuf]) -> HashMap<PathBuf, String> {
    let places: Vec<PathBuf> = paths.iter().map(|path| place(path)).collect();
    let mut left: HashMap<&PathBuf, Vec<String>> =
        places.iter().map(|place| (place, parts_of(place))).collect();
    let mut names = HashMap::new();
    for count in 1.. {
        if left.is_empty() {
            break;
        }
        let last = |parts: &[String]| parts[parts.len().saturating_sub(count)..].join("/");
        let mut users: HashMap<String, usize> = HashMap::new();
        // Names may become those of files, whose case does not count everywhere.
        left.values().for_each(|parts| *users.entry(last(parts).to_lowercase()).or_default() += 1);
        left.retain(|place, parts| {
            let name = last(parts);
            let is_told_apart = users[&name.to_lowercase()] == 1 || count >= parts.len();
            if is_told_apart {
                names.insert(*place, name);
            }
            !is_told_apart
        });
    }
    let mut users: HashMap<String, usize> = HashMap::new();
    let mut numbered: HashMap<&PathBuf, String> = HashMap::new();
    for place in &places {
        numbered.entry(place).or_insert_with(|| {
            let name = &names[place];
            let number = users.entry(name.to_lowercase()).or_default();
            *number += 1;
            if *number == 1 { name.clone() } else { format!("{name} ({number})") }
        });
    }
    paths.iter().zip(&places).map(|(path, place)| (path.clone(), numbered[place].clone())).collect()
}

/// The absolute path of a file that need not exist, in a folder that should. A link is not followed.
fn place(path: &Path) -> PathBuf {
    let whole =
        || path.canonicalize().or_else(|_| std::path::absolute(path)).unwrap_or_else(|_| path.to_owned());
    let Some(name) = path.file_name() else { return whole() };
    folder_of(path).canonicalize().map_or_else(|_| whole(), |folder| folder.join(name))
}

/// The names of a file's parent folders and its own, relative to the current folder if it contains the file.
fn parts_of(place: &Path) -> Vec<String> {
    let current = std::env::current_dir().and_then(|folder| folder.canonicalize());
    let path = current.ok().and_then(|current| place.strip_prefix(current).ok()).unwrap_or(place);
    let path =
        if path.as_os_str().is_empty() { Path::new(place.file_name().unwrap_or_default()) } else { path };
    let names = path.components().filter(|part| matches!(part, Component::Normal(_)));
    names.map(|part| path_text(Path::new(&part))).collect()
}

/// Checks that an output replaces no file of the images.
fn check_not_read<'a>(file: &Path, images: impl IntoIterator<Item = &'a Dataset>) -> anyhow::Result<()> {
    refuse_if_read(file, images.into_iter().any(|images| images.reads(file)))
}

/// Refuses an output that is also an input.
fn refuse_if_read(file: &Path, is_read: bool) -> anyhow::Result<()> {
    if is_read {
        bail!("cannot write `{}`: it is also an input", shown(file));
    }
    Ok(())
}

/// The places of inputs.
fn places<'a>(inputs: impl IntoIterator<Item = &'a Path>) -> HashSet<PathBuf> {
    inputs.into_iter().filter_map(|input| input.canonicalize().ok()).collect()
}

/// Checks that an output file is none of the inputs and can be written, before the work begins.
fn check_output<'a>(file: &Path, inputs: impl IntoIterator<Item = &'a Path>) -> anyhow::Result<()> {
    check_place(file, &places(inputs))?;
    Ok(check_writable(file)?)
}

/// Checks that an output is a file in a folder, and none of the inputs at these places.
fn check_place(file: &Path, inputs: &HashSet<PathBuf>) -> anyhow::Result<()> {
    refuse_if_read(file, file.canonicalize().is_ok_and(|place| inputs.contains(&place)))?;
    let folder = folder_of(file);
    if !folder.is_dir() {
        bail!("cannot write `{}`: there is no folder `{}`", shown(file), shown(folder));
    }
    if file.is_dir() {
        bail!("cannot write `{}`: it is a folder", shown(file));
    }
    Ok(())
}

/// Checks that a page, score files, feature files and plots can be written, and that none of them replaces
/// another or an input.
fn check_result_files<'a>(
    page: Option<&'a Path>,
    args: &'a EvaluationArgs,
    inputs: &[PathBuf],
) -> anyhow::Result<()> {
    let mut taken = Vec::new();
    if let Some(folder) = &args.plots {
        check_writable_folder(folder)?;
        taken.push(place(folder));
    }
    for file in page.into_iter().chain(args.scores.as_deref()).chain(args.keep_features.as_deref()) {
        check_output(file, inputs.iter().map(PathBuf::as_path))?;
        let place = destination(file);
        if taken.contains(&place) {
            bail!("cannot write `{}`: another output has this name", shown(file));
        }
        let is_like_a_plot = file
            .extension()
            .is_some_and(|end| ["svg", "png"].iter().any(|plot| end.eq_ignore_ascii_case(plot)));
        let is_among = |folder: &&PathBuf| place.parent().is_some_and(|above| is_same_place(above, folder));
        if let Some(folder) = args.plots.as_ref().filter(is_among).filter(|_| is_like_a_plot) {
            bail!("cannot write `{}`: a plot in `{}` may have this name", shown(file), shown(folder));
        }
        taken.push(place);
    }
    Ok(())
}

fn is_same_place(a: &Path, b: &Path) -> bool {
    a.canonicalize().is_ok_and(|a| b.canonicalize().is_ok_and(|b| a == b))
}

fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_string(value)?;
    writeln!(stdout(), "{text}")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_as_many_folders_as_needed_to_be_unique() {
        for (paths, expected) in [
            (&["a/model.onnx"][..], &["model.onnx"][..]),
            (&["a/model.onnx", "b/model.onnx", "c/x.onnx"], &["a/model.onnx", "b/model.onnx", "x.onnx"]),
            (&["runs/1", "other/runs/1", "runs/2/"], &["runs/1", "other/runs/1", "2"]),
            (&["1", "runs/1"], &["1", "runs/1"]),
            (&["model.onnx", "./model.onnx"], &["model.onnx", "model.onnx"]),
            (&["/a/x/m", "/b/x/m", "/m"], &["a/x/m", "b/x/m", "m"]),
            (&["/"], &[""]),
        ] {
            let paths: Vec<PathBuf> = paths.iter().map(PathBuf::from).collect();
            let names = names_apart(&paths);
            assert_eq!(paths.iter().map(|path| names[path].as_str()).collect::<Vec<_>>(), expected);
        }
        let here = std::env::current_dir().unwrap();
        // The same folders relative to the current folder and to the root.
        let paths = ["/data/a", "data/a", "./data/a"].map(PathBuf::from);
        let names = names_apart(&paths);
        assert_eq!(paths.map(|path| names[&path].clone()), ["data/a", "data/a (2)", "data/a (2)"]);
        let name = here.file_name().unwrap().to_str().unwrap();
        assert_eq!(names_apart(&[".".into()])[Path::new(".")], name);
    }
}
