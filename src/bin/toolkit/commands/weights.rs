//! `toolkit weights`

use std::io::Write;

use cac::{Error, text::shown, weights::PublishedWeights};
use serde_json::json;

use super::print_json;
use crate::{
    cli::WeightsCommand,
    terminal::{Advice, data::size, say, stdout, weights},
};

/// Lists, downloads, finds and checks published weights.
pub fn run(command: &WeightsCommand) -> anyhow::Result<()> {
    match command {
        WeightsCommand::List { json } => list(*json),
        WeightsCommand::Fetch { names } => names.iter().try_for_each(|weights| {
            let path = weights::fetch(weights)?;
            Ok(writeln!(stdout(), "{}\t{}", weights.name, path.display())?)
        }),
        WeightsCommand::Path { name } => {
            let path = name.path()?;
            if !path.is_file() {
                return Err(missing(name)?.into());
            }
            Ok(writeln!(stdout(), "{}", path.display())?)
        }
        WeightsCommand::Verify { names } => verify(names),
    }
}

fn list(json: bool) -> anyhow::Result<()> {
    let head = ["name", "network", "pixels", "size", "here", "licence", "trained on", "source", "also"];
    let mut rows = vec![head.map(str::to_owned)];
    for weights in PublishedWeights::all() {
        let PublishedWeights {
            name,
            alias,
            family,
            network,
            trained_on,
            classes,
            input,
            licence,
            source,
            ..
        } = weights;
        let path = weights.path().ok().filter(|path| path.is_file());
        if json {
            print_json(&json!({
                "name": name, "alias": alias, "family": family, "network": network, "trained_on": trained_on,
                "classes": classes, "input": input, "about_bytes": weights.bytes, "sha256": weights.sha256,
                "licence": licence, "source": source, "url": weights.url(),
                "path": path.map(|path| path.display().to_string()),
            }))?;
        } else {
            let (pixels, bytes) = (input.height.to_string(), size(weights.bytes));
            let here = if path.is_some() { "yes" } else { "-" };
            let (licence, alias) = (licence.unwrap_or("not stated"), alias.unwrap_or(""));
            rows.push(
                [*name, network, &pixels, &bytes, here, licence, trained_on, source, alias]
                    .map(str::to_owned),
            );
        }
    }
    if json {
        return Ok(());
    }
    let widths: Vec<usize> =
        (0..head.len()).map(|at| rows.iter().map(|row| row[at].len()).max().unwrap_or(0)).collect();
    for row in &rows {
        let cells = row.iter().zip(&widths).zip(head).map(|((cell, &width), head)| match head {
            "pixels" | "size" => format!("{cell:>width$}"),
            _ => format!("{cell:<width$}"),
        });
        writeln!(stdout(), "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}

fn verify(names: &[&'static PublishedWeights]) -> anyhow::Result<()> {
    let all: Vec<&PublishedWeights> =
        if names.is_empty() { PublishedWeights::all().collect() } else { names.to_vec() };
    let mut out = stdout();
    let (mut checked, mut damaged) = (0, Vec::new());
    for weights in all {
        match weights.verify() {
            Ok(Some(path)) => {
                let state = if weights.has_checksum() {
                    "matches its published checksum"
                } else {
                    "matches the recorded SHA-256; none is published in full"
                };
                writeln!(out, "{}: `{}` {state}", weights.name, shown(&path))?;
            }
            Ok(None) if names.is_empty() => continue,
            Ok(None) => return Err(missing(weights)?.into()),
            Err(Error::Checksum { path, reason }) => {
                writeln!(out, "{}: `{}` is damaged: {reason}", weights.name, shown(&path))?;
                let record = path.with_added_extension("sha256");
                let fetch =
                    format!("remove `{}` and run `toolkit weights fetch {}`", shown(&path), weights.name);
                damaged.push(if path.extension().is_some_and(|end| end == "sha256") {
                    format!("remove `{}` to record the file as it is", shown(&path))
                } else if !weights.has_checksum() && record.exists() {
                    format!("{fetch}, or remove `{}` if the file is the right one", shown(&record))
                } else {
                    fetch
                });
            }
            Err(error) => return Err(error.into()),
        }
        checked += 1;
    }
    if !damaged.is_empty() {
        let message = format!("damaged weight files: {} of {checked}", damaged.len());
        return Err(Advice::new(message, damaged.join("; ")).into());
    }
    if checked == 0 {
        say("no published weights found");
    }
    Ok(())
}

/// The error of weights that are not here.
fn missing(weights: &PublishedWeights) -> cac::Result<Advice> {
    let (name, path) = (weights.name, weights.path()?);
    Ok(Advice::new(
        format!("the weights `{name}` are not in `{}`", shown(&path)),
        format!(
            "`toolkit weights fetch {name}` downloads them from {} (about {})",
            weights.url(),
            size(weights.bytes)
        ),
    ))
}
