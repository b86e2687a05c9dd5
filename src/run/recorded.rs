//! Paths in the records of model files.

use std::path::{Component, Path};

use super::Outliers;
use crate::data::PublishedSet;

/// A path as recorded in a model file: unchanged if it stays below the current folder, else its last
/// component, so that a file reveals no home folder, cache or user. A folder named like a published data
/// set, or like a kind of outliers, is recorded as `./NAME`, not to be mistaken for that.
pub(crate) fn portable(path: &Path) -> String {
    let is_below = path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if is_below {
        return path.display().to_string();
    }
    let last = path.file_name().map_or_else(|| "data".into(), |name| name.to_string_lossy());
    let is_folder = Outliers::from(&*last).folder() == Some(Path::new(&*last));
    let means_more = PublishedSet::meant_by(Path::new(&*last)).is_some() || !is_folder;
    if means_more { format!("./{last}") } else { last.into_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_folders_are_not_revealed() {
        for (path, name) in [
            ("data/cifar-10", "data/cifar-10"),
            ("./cats", "./cats"),
            ("/home/bob/cats", "cats"),
            ("../bob/cats/", "cats"),
            ("data/../../bob/cats", "cats"),
            ("..", "data"),
            ("/", "data"),
            ("cifar10", "cifar10"),
            ("cifar10/", "cifar10/"),
            ("/home/bob/cifar10", "./cifar10"),
            ("/home/bob/scrambled", "./scrambled"),
            ("/home/bob/scrambled,cats", "./scrambled,cats"),
            ("../none", "./none"),
        ] {
            assert_eq!(portable(Path::new(path)), name, "{path}");
        }
    }
}
