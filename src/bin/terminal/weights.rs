//! Starting weights, by file, run folder or published name.

use std::path::{Path, PathBuf};

use anyhow::bail;
use cac::{
    image::Input,
    run::{RunFolder, Which},
    weights::{PUBLISHED, Published, Weights},
};

use super::Progress;

/// The names of all published weights.
pub fn published_names() -> String {
    PUBLISHED.map(|published| published.name).join(", ")
}

/// Starting weights, with the input that they were trained on if it is known.
pub struct StartingWeights {
    pub weights: Weights,
    pub input: Option<Input>,
}

impl StartingWeights {
    /// Reads a file, the published weights of this name, which are downloaded once, or the best checkpoint of
    /// a run folder, in this order.
    pub fn read(text: &Path) -> anyhow::Result<Self> {
        let published = text.to_str().filter(|_| !text.is_file()).and_then(Published::named);
        let (file, input) = match published {
            Some(published) => (fetch(published)?, Some(published.input())),
            None if !text.exists() && text.extension().is_none() => bail!(
                "`{}` is neither a file, a run folder nor the name of published weights: {}",
                text.display(),
                published_names()
            ),
            None if text.is_dir() => {
                let file = RunFolder::new(text).checkpoint(Which::Best);
                if !file.is_file() {
                    let name = file.file_name().unwrap_or_default().display();
                    bail!("`{}` is a folder without `{name}`; give a file of weights", text.display());
                }
                (file, None)
            }
            None => (text.to_owned(), None),
        };
        let weights = Weights::read(&file)?;
        let input = weights.input().or(input);
        Ok(Self { weights, input })
    }
}

fn fetch(published: &Published) -> anyhow::Result<PathBuf> {
    let mut bar: Option<Progress> = None;
    let file = published.fetch(|done, total| {
        let bar = bar.get_or_insert_with(|| Progress::new(format!("fetching {}", published.name), total));
        bar.update(done, "bytes");
    })?;
    if let Some(bar) = bar {
        bar.finish();
    }
    Ok(file)
}
