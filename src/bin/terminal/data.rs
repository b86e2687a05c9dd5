//! Published data sets, by name.

use std::path::{Component, Path, PathBuf};

use anyhow::bail;
use cac::{
    Error,
    data::{DataFolder, FetchEvent, PublishedSet, Role, SETS, Split, UnknownSource, exists},
    text::shown,
};

use super::{Progress, quoted, say};

/// The known data of pytorch-ood's CAC tutorial, used if the user names none.
pub const TUTORIAL_KNOWN: &str = "cifar10";

/// The unknown set of that tutorial.
pub fn tutorial_unknown() -> UnknownSource {
    "textures".parse().expect("the name of a published data set")
}

/// The names of all published data sets.
pub fn set_names() -> String {
    SETS.map(|set| set.name).join(", ")
}

/// The path of a data set that a user gave: a local one, or the published one of this name, of which the
/// parts that the roles need are downloaded. The path is that of the first role.
///
/// Only the bare name means the data set: `./cifar10` and `cifar10/` are folders. Prints which was taken.
pub fn dataset(text: &Path, data: &DataFolder, roles: &[Role]) -> anyhow::Result<PathBuf> {
    let Some(set) = PublishedSet::meant_by(text) else {
        let is_word = text.components().eq([Component::Normal(text.as_os_str())]);
        if is_word && !exists(text) {
            bail!("`{}` is neither a path nor one of the published data sets ({})", shown(text), set_names());
        }
        return Ok(text.to_owned());
    };
    let name = shown(text);
    if text.exists() {
        say(format_args!("`{name}` is the published data set; for the folder, give `./{name}`"));
    }
    let path = match data.resolve(text, roles) {
        Err(Error::NotFetched { .. }) => {
            fetch(set, data, roles, false)?;
            data.resolve(text, roles)?
        }
        found => found?,
    };
    say(format_args!("`{name}` is the data set in `{}`", shown(&path)));
    Ok(path)
}

/// The command that downloads a data set to a folder.
pub fn fetch_command(set: &str, folder: &Path) -> String {
    let is_default = DataFolder::new(None).path().is_ok_and(|default| default == folder);
    let flag = if is_default { String::new() } else { format!(" --data {}", quoted(folder)) };
    format!("`toolkit data fetch {set}{flag}`")
}

/// Unknown sets with the folders of the published ones among them, which are downloaded.
pub fn unknown_datasets(sources: &[UnknownSource], data: &DataFolder) -> anyhow::Result<Vec<UnknownSource>> {
    for path in sources.iter().filter_map(UnknownSource::path) {
        dataset(path, data, &[Role::Unknown(Split::Test)])?;
    }
    Ok(data.resolve_unknown(sources)?)
}

/// Downloads what some roles of a published data set need, unless it is there.
pub fn fetch(
    set: &PublishedSet,
    data: &DataFolder,
    roles: &[Role],
    keep_archives: bool,
) -> anyhow::Result<()> {
    let mut display = FetchDisplay::new(set.name, None);
    data.fetch(set, roles, keep_archives, &mut |event| display.show(&event))?;
    display.finish();
    Ok(())
}

/// Shows the progress of a download.
pub struct FetchDisplay {
    name: &'static str,
    /// The approximate bytes of a file without a published length.
    about: Option<u64>,
    bar: Option<Progress>,
    unpacking: Option<PathBuf>,
}

impl FetchDisplay {
    pub fn new(name: &'static str, about: Option<u64>) -> Self {
        Self { name, about, bar: None, unpacking: None }
    }

    pub fn show(&mut self, event: &FetchEvent) {
        let name = self.name;
        match *event {
            FetchEvent::Waiting => say(format_args!("waiting for another process that fetches `{name}`")),
            FetchEvent::Downloading { url, file, done, bytes } => {
                self.finish();
                let length = match (bytes, self.about) {
                    (Some(bytes), _) => format!(" ({})", size(bytes)),
                    (None, Some(about)) => format!(" (about {})", size(about)),
                    (None, None) => String::new(),
                };
                let rest = if done > 0 { format!(", resuming at {}", size(done)) } else { String::new() };
                say(format_args!("downloading {name}{length} from {url} to `{}`{rest}", shown(file)));
            }
            FetchEvent::Received { done, total } => {
                let new = || Progress::of_bytes(format!("downloading {name}"), total);
                self.bar.get_or_insert_with(new).update(done as usize, "");
            }
            FetchEvent::Unpacked { file, done, total } => {
                if self.unpacking.as_deref() != Some(file) {
                    self.unpacking = Some(file.to_owned());
                    self.finish();
                }
                let file = file.file_name().unwrap_or_default().display();
                let new = || Progress::of_bytes(format!("unpacking {file}"), Some(total));
                self.bar.get_or_insert_with(new).update(done as usize, "");
            }
            FetchEvent::LeftOut { file, entries } => {
                self.finish();
                say(format_args!("links and devices skipped in `{}`: {entries}", shown(file)));
            }
            _ => {}
        }
    }

    /// Removes the progress bar, if one is shown.
    pub fn finish(&mut self) {
        self.bar.take().into_iter().for_each(Progress::finish);
    }
}

/// A number of bytes in a suitable unit.
pub fn size(bytes: u64) -> String {
    let value = bytes as f64;
    match bytes {
        0..1_000 => format!("{bytes} bytes"),
        1_000..1_000_000 => format!("{:.0} kB", value / 1e3),
        1_000_000..1_000_000_000 => format!("{:.0} MB", value / 1e6),
        _ => format!("{:.1} GB", value / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_a_unit() {
        let sizes = [4542, 64_275_384, 2_918_471_680, 7].map(size);
        assert_eq!(sizes, ["5 kB", "64 MB", "2.9 GB", "7 bytes"]);
    }
}
