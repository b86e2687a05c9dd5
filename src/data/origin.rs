//! Where a data set's images come from.

use std::{
    collections::HashSet,
    ffi::OsStr,
    path::{Path, PathBuf},
};

use rayon::prelude::*;

use super::{Dataset, Source, Split, folder};
use crate::{files::folder_of, text::composed};

impl Dataset {
    /// Whether the two have images from the same folder, file or array. A link to a file counts as that file.
    #[must_use]
    pub fn shares_images_with(&self, other: &Self) -> bool {
        let has_links = self.has_links() || other.has_links();
        !self.origins(has_links).is_disjoint(&other.origins(has_links))
            || has_links && !self.image_files().is_disjoint(&other.image_files())
    }

    /// Whether it was opened from this folder or one below it.
    pub(super) fn lies_in(&self, folder: &Path) -> bool {
        let places = self.origin.canonicalize().and_then(|place| Ok((place, folder.canonicalize()?)));
        places.is_ok_and(|(place, folder)| place.starts_with(folder))
    }

    /// Whether there are links among its image files.
    fn has_links(&self) -> bool {
        match &*self.source {
            Source::Files(files) => self.positions.par_iter().any(|&position| files[position].is_symlink()),
            _ => false,
        }
    }

    /// Its image files, with links resolved.
    fn image_files(&self) -> HashSet<PathBuf> {
        match &*self.source {
            Source::Files(files) => self
                .positions
                .par_iter()
                .filter_map(|&position| files[position].canonicalize().ok())
                .collect(),
            _ => HashSet::new(),
        }
    }

    /// Whether an image file put into this folder, which need not exist, would become one of these images, or
    /// one of another class or split of this data.
    #[must_use]
    pub fn would_read(&self, folder: &Path) -> bool {
        let Source::Files(files) = &*self.source else { return false };
        let place = |folder: PathBuf| {
            let existing = |above: &Path| Some((above.canonicalize().ok()?, above.to_owned()));
            let (real, above) = folder.ancestors().find_map(existing)?;
            Some(real.join(folder.strip_prefix(above).expect("one of its ancestors")))
        };
        let Some(folder) = std::path::absolute(folder).ok().and_then(place) else { return false };
        // A new folder next to class folders would be a class, in the other split too.
        let is_class_of = |root: &Path| {
            let Some(below) = root.canonicalize().ok().and_then(|root| folder.strip_prefix(root).ok()) else {
                return false;
            };
            below.components().next().is_some()
                && !below.components().any(|part| folder::is_hidden(part.as_ref()))
        };
        let splits = [Split::Train, Split::Test].map(|split| folder::splits(&self.origin, split)).concat();
        let mut roots: HashSet<&Path> = self.class_roots(files).collect();
        if !roots.is_empty() {
            roots.extend(splits.iter().map(PathBuf::as_path));
        }
        if roots.into_iter().any(is_class_of) {
            return true;
        }
        // Subfolders of a class are read, and those of a folder of unknown images.
        let whole = self.classes.is_empty().then_some(&*self.origin);
        let folders = self.positions.iter().map(|&position| folder_of(&files[position])).chain(whole);
        let mut folders = folders.collect::<HashSet<_>>().into_iter();
        folders.any(|other| other.canonicalize().is_ok_and(|other| folder.starts_with(other)))
    }

    /// The folders of the class folders that these images are in.
    fn class_roots<'a>(&'a self, files: &'a [PathBuf]) -> impl Iterator<Item = &'a Path> {
        self.positions.iter().zip(&self.labels).filter_map(|(&position, &label)| {
            let class = self.classes.get(usize::try_from(label).ok()?)?;
            let is_of_class = |folder: &&Path| {
                folder.file_name().is_some_and(|name| composed(&name.to_string_lossy()) == *class)
            };
            folder_of(&files[position]).ancestors().find(is_of_class)?.parent()
        })
    }

    /// Whether images come from this file.
    #[must_use]
    pub fn reads(&self, file: &Path) -> bool {
        let Ok(place) = file.canonicalize() else { return false };
        // Only links, and names that differ in case, can have another last part.
        let may_be = |other: &Path| {
            let same_name = |(one, other): (&OsStr, &OsStr)| one.eq_ignore_ascii_case(other);
            other.file_name().zip(place.file_name()).is_some_and(same_name) || other.is_symlink()
        };
        let is_same = |other: &Path| may_be(other) && other.canonicalize().is_ok_and(|other| other == place);
        match &*self.source {
            Source::Arrays(arrays) => arrays.places().any(|(path, _)| is_same(path)),
            // A link must be looked up, which takes long for many files.
            Source::Files(files) => files.par_iter().any(|path| is_same(path)),
            #[cfg(feature = "parquet")]
            Source::Rows(rows) => rows.files().any(is_same),
            Source::Noise(_) => false,
        }
    }

    /// The folders and files that the images come from, and the arrays in them. If there are links, the
    /// folders of these do not count.
    fn origins(&self, has_links: bool) -> HashSet<(PathBuf, Option<&str>)> {
        let named: HashSet<(&Path, Option<&str>)> = match &*self.source {
            Source::Arrays(arrays) => arrays.places().collect(),
            Source::Files(files) => {
                let files = self
                    .positions
                    .iter()
                    .map(|&position| &files[position])
                    .filter(|file| !has_links || !file.is_symlink());
                let folders = files.filter_map(|file| file.parent());
                folders.map(|folder| (folder, None)).collect()
            }
            #[cfg(feature = "parquet")]
            Source::Rows(rows) => rows.files().map(|file| (file, None)).collect(),
            Source::Noise(_) => HashSet::new(),
        };
        named.into_iter().filter_map(|(path, array)| Some((path.canonicalize().ok()?, array))).collect()
    }
}
