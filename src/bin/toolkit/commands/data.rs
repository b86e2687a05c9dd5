//! `toolkit data`

use std::{io::Write, path::PathBuf};

use cac::{
    Error,
    data::{DataFolder, Fault, PublishedSet, Role, SETS, Split},
    text::shown,
};
use serde_json::json;

use super::print_json;
use crate::{
    cli::DataCommand,
    terminal::{
        Advice,
        data::{self, fetch_command},
        say, stdout,
    },
};

/// All roles of a data set.
const ALL: [Role; 2] = [Role::Known(Split::Train), Role::Known(Split::Test)];

/// Lists, downloads, finds and checks published data sets.
pub fn run(command: &DataCommand) -> anyhow::Result<()> {
    match command {
        DataCommand::List { folder, json } => list(&folder.folder(), *json),
        DataCommand::Fetch { names, folder, keep } => {
            named(names).try_for_each(|set| fetch(set, &folder.folder(), *keep))
        }
        DataCommand::Path { name, folder } => named([name]).try_for_each(|set| {
            let path = find(set, &folder.folder())?;
            Ok(writeln!(stdout(), "{}", path.display())?)
        }),
        DataCommand::Verify { names, folder } => verify(names, &folder.folder()),
    }
}

/// The data sets with these names, which the parser has checked.
fn named<'a>(names: impl IntoIterator<Item = &'a String>) -> impl Iterator<Item = &'static PublishedSet> {
    names.into_iter().filter_map(|name| PublishedSet::named(name))
}

/// The path of the local part of a data set: both splits, or else one.
fn find(set: &PublishedSet, data: &DataFolder) -> cac::Result<PathBuf> {
    let [train, test] = ALL;
    data.require(set, &ALL).or_else(|_| data.require(set, &[test])).or_else(|_| data.require(set, &[train]))
}

fn list(data: &DataFolder, json: bool) -> anyhow::Result<()> {
    let mut out = stdout();
    let number = |count: usize| if count == 0 { "-".to_owned() } else { count.to_string() };
    if !json {
        writeln!(out, "{:<14} {:>8} {:>7} {:>7}  here  about", "name", "training", "test", "size")?;
    }
    for set in &SETS {
        let path = match find(set, data) {
            Ok(path) => Some(path),
            // Without a home folder there is no place for one either.
            Err(Error::NotFetched { .. } | Error::Setting { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        let (PublishedSet { name, about, terms, note, .. }, [training, test]) = (set, set.images);
        if json {
            let urls: Vec<&str> = set.downloads.iter().map(|download| download.urls[0]).collect();
            let path = path.map(|path| path.display().to_string());
            print_json(&json!({
                "name": name, "about": about, "training_images": training, "test_images": test,
                "bytes": set.bytes(), "urls": urls, "terms": terms, "note": note,
                "parts": set.parts, "path": path,
            }))?;
        } else {
            let size = set.bytes().map_or("-".to_owned(), data::size);
            let here = if path.is_some() { "yes" } else { "-" };
            let (training, test) = (number(training), number(test));
            writeln!(out, "{name:<14} {training:>8} {test:>7} {size:>7}  {here:<4}  {about}")?;
        }
    }
    Ok(())
}

fn fetch(set: &PublishedSet, folder: &DataFolder, keep: bool) -> anyhow::Result<()> {
    data::fetch(set, folder, &ALL, keep)?;
    let path = find(set, folder)?;
    Ok(writeln!(stdout(), "{}\t{}", set.name, path.display())?)
}

fn verify(names: &[String], data: &DataFolder) -> anyhow::Result<()> {
    let sets: Vec<&PublishedSet> =
        if names.is_empty() { SETS.iter().collect() } else { named(names).collect() };
    let mut out = stdout();
    let (mut checked, mut damaged) = (0, 0);
    let (mut to_fetch, mut foreign) = (Vec::new(), Vec::new());
    for set in sets {
        let Some(verified) = data.verify(set)? else {
            if !names.is_empty() {
                find(set, data)?;
            }
            continue;
        };
        checked += 1;
        damaged += usize::from(!verified.faults.is_empty());
        let images = verified.images.map_or(String::new(), |images| format!(", {images} images"));
        writeln!(out, "{}: {} files match their checksums{images}", set.name, verified.files)?;
        for fault in &verified.faults {
            writeln!(out, "{}: {fault}", set.name)?;
        }
        let is_fetched =
            |fault: &Fault| verified.fetched.as_ref().is_some_and(|folder| fault.path.starts_with(folder));
        let (fetched, others): (Vec<&Fault>, Vec<&Fault>) =
            verified.faults.iter().partition(|fault| is_fetched(fault));
        if let Some(folder) = verified.fetched.as_ref().filter(|_| !fetched.is_empty()) {
            let command = fetch_command(set.name, &data.path()?);
            to_fetch.push(format!("remove `{}` and run {command}", shown(folder)));
        }
        foreign.extend(others.into_iter().map(|fault| fault.path.clone()));
    }
    foreign.dedup();
    if damaged > 0 {
        return Err(Advice::new(
            format!("{damaged} of {checked} data sets are damaged or incomplete"),
            to_fetch.into_iter().chain(of_foreign(&foreign)).collect::<Vec<_>>().join("; "),
        )
        .into());
    }
    if checked == 0 {
        say("no published data set found");
    }
    Ok(())
}

/// What to do about files that the toolkit did not fetch.
fn of_foreign(paths: &[PathBuf]) -> Option<String> {
    let all = match paths {
        [] => return None,
        [one] => format!("`{}` was", shown(one)),
        [first, others @ ..] => format!("`{}` and {} more were", shown(first), others.len()),
    };
    let original = if paths.len() == 1 { "it with the original" } else { "them with the originals" };
    Some(format!("{all} not fetched by the toolkit: compare {original}"))
}
