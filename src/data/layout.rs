//! The layouts of data sets: one table, in which each layout says how it is recognised and read.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use super::{LeftOut, Source, Split, cifar, folder, idx, numpy, parquet, svhn, tiny_imagenet};
use crate::{
    error::{Error, Result},
    files::kind,
    image::has_extension,
    text::shown,
};

/// A value, or the reason why there is none.
pub(super) type Reasoned<T> = Result<T, String>;

/// A layout of data sets.
pub(super) struct Layout {
    /// Its name, and what it is recognised by.
    pub about: &'static str,
    /// Where it may lie in the given folder.
    pub nested: &'static [&'static str],
    /// Whether image files and splits next to it are ignored, because its file names show that they hold
    /// images. Otherwise such a folder is ambiguous.
    pub ignores_images: bool,
    /// Whether a path has this layout.
    pub is_here: fn(&Path) -> bool,
    /// Reads images of a path that has this layout.
    pub open: fn(&Path, Wanted) -> Result<Part>,
}

impl Layout {
    /// Whether a folder has this layout, or directly holds one that has.
    pub fn is_in(&self, folder: &Path) -> bool {
        let nested = self.nested.iter().map(|name| folder.join(name));
        [folder.to_owned()].into_iter().chain(nested).any(|place| (self.is_here)(&place))
    }
}

/// What is read from a data set.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Wanted {
    /// The images of a split with their classes.
    Known(Split),
    /// The images of a split; without splits, all images.
    Unknown(Split),
    /// All images of a data set without test images, with their classes: this share will be held out.
    Divided(f64),
}

/// Images of a data set.
#[derive(Debug)]
pub(super) struct Part {
    /// The class names. They and the labels may be missing if unknown images are wanted.
    pub classes: Vec<String>,
    /// An index into the classes for each image.
    pub labels: Vec<i64>,
    pub source: Source,
    pub left_out: LeftOut,
}

impl Part {
    /// Images without classes.
    pub fn unlabelled(source: Source) -> Self {
        Self { classes: Vec::new(), labels: Vec::new(), source, left_out: LeftOut::new() }
    }
}

/// What a data set has for each split, or for all images if it has no splits.
pub(super) struct Splits<T> {
    pub train: Option<T>,
    pub test: Option<T>,
    pub all: Option<T>,
}

impl<T> Splits<T> {
    /// Chooses the source of the wanted images; `found` describes what exists, for messages.
    ///
    /// # Errors
    /// [`Error::Undivided`] if the wanted known images can be had by holding out a share; [`Error::Setting`]
    /// if a share is to be held out although there are test images; [`Error::NoSplit`] if the images are
    /// missing.
    pub fn choose(self, wanted: Wanted, path: &Path, found: impl FnOnce() -> String) -> Result<T> {
        let split = match wanted {
            Wanted::Known(split) | Wanted::Unknown(split) => split,
            Wanted::Divided(share) if self.test.is_some() => {
                let reason = format!("`{}` has a test split of its own", shown(path));
                return Err(Error::setting("held-out test", share, reason));
            }
            Wanted::Divided(_) => Split::Train,
        };
        let (own, other) = match split {
            Split::Train => (self.train, self.test),
            Split::Test => (self.test, self.train),
        };
        let path = path.to_owned();
        match (wanted, own, other, self.all) {
            (_, Some(own), _, _) => Ok(own),
            (Wanted::Known(Split::Train), None, None, Some(_)) => {
                Err(Error::Undivided { path, found: found() })
            }
            (_, None, None, Some(all)) => Ok(all),
            (Wanted::Known(Split::Test), None, Some(_), _) => Err(Error::Undivided { path, found: found() }),
            _ => Err(Error::NoSplit { path, split: split.to_string(), found: found() }),
        }
    }
}

impl Splits<Split> {
    /// The splits that exist.
    pub fn of(is_there: impl Fn(Split) -> bool) -> Self {
        let of = |split| is_there(split).then_some(split);
        Self { train: of(Split::Train), test: of(Split::Test), all: None }
    }
}

/// The layouts with marks of their own.
const MARKED: [&Layout; 10] = [
    &cifar::TEN_BINARY,
    &cifar::TEN_PICKLED,
    &cifar::HUNDRED_BINARY,
    &cifar::HUNDRED_PICKLED,
    &svhn::LAYOUT,
    &idx::LAYOUT,
    &tiny_imagenet::LAYOUT,
    &folder::TEXTURES,
    &numpy::LAYOUT,
    &parquet::LAYOUT,
];

/// The layouts that [`Dataset::known`](super::Dataset::known) reads, each as a name and what it is recognised
/// by.
pub fn layouts() -> impl Iterator<Item = &'static str> {
    MARKED.into_iter().chain([&folder::CLASSES]).map(|layout| layout.about)
}

impl Wanted {
    /// Whether the classes are needed.
    pub fn is_known(self) -> bool {
        !matches!(self, Self::Unknown(_))
    }
}

/// Whether there is a data set at a path, which may name a part of a folder or a file.
#[must_use]
pub fn exists(path: &Path) -> bool {
    path.exists() || MARKED.iter().any(|layout| (layout.is_here)(path))
}

/// The folders of a split's images that are not used because another one is.
#[must_use]
pub fn unused_splits(path: &Path, split: Split) -> Vec<PathBuf> {
    if MARKED.iter().any(|layout| layout.is_in(path)) {
        return Vec::new();
    }
    folder::splits(path, split).into_iter().skip(1).collect()
}

/// Reads a data set in the layout that it has.
///
/// # Errors
/// [`Error::Io`] if there is nothing; [`Error::NoLayout`] and [`Error::NoImages`]; [`Error::Dataset`] if
/// several layouts are recognised, or a file is damaged; [`Error::Undivided`] if it lacks the split.
pub(super) fn open(path: &Path, wanted: Wanted) -> Result<Part> {
    let unusable = |reason| Error::Dataset { path: path.to_owned(), reason };
    // An empty path would mean the current folder.
    if path.as_os_str().is_empty() {
        return Err(unusable("the path is empty".to_owned()));
    }
    let here = MARKED.iter().filter(|layout| (layout.is_here)(path));
    let mut found: Vec<(&Layout, PathBuf)> = here.map(|&layout| (layout, path.to_owned())).collect();
    if found.is_empty() {
        for &layout in &MARKED {
            let places = layout.nested.iter().map(|name| path.join(name));
            found.extend(places.filter(|place| (layout.is_here)(place)).map(|place| (layout, place)));
        }
    }
    let (layout, root) = match &found[..] {
        [] if path.is_file() => {
            let start = File::open(path).and_then(kind::first_bytes).map_err(Error::io("read", path))?;
            let what = kind::of(&start).unwrap_or("a file of an unknown kind");
            return Err(unusable(format!("it is {what}")));
        }
        [] => (&folder::CLASSES, path),
        [(layout, root)] => {
            if !layout.ignores_images
                && let Some(other) = beside(path, root, wanted)
            {
                return Err(unusable(format!("it holds {}, and {other}", layout.about)));
            }
            (*layout, root.as_path())
        }
        several => {
            let name = |(layout, root): &(&Layout, PathBuf)| match root.strip_prefix(path) {
                Ok(rest) if !rest.as_os_str().is_empty() => format!("`{}`", shown(rest)),
                _ => layout.about.to_owned(),
            };
            let names: Vec<String> = several.iter().map(name).collect();
            return Err(unusable(format!("it holds several data sets: {}", names.join(", "))));
        }
    };
    (layout.open)(root, wanted)
}

/// What a folder holds next to a data set at `root`, if it could be meant too: its own splits, or image
/// files if unknown images are wanted.
fn beside(path: &Path, root: &Path, wanted: Wanted) -> Option<String> {
    if wanted.is_known() {
        let splits = [Split::Train, Split::Test].into_iter().flat_map(|split| folder::splits(path, split));
        let mut others = splits.filter(|split| root != path && split != root);
        return others.next().map(|split| format!("class folders in `{}`", shown(&split)));
    }
    let entries = folder::entries(path).ok()?;
    let image = entries.into_iter().find(|entry| has_extension(entry) && entry.is_file())?;
    Some(format!("images such as `{}`", shown(&image)))
}

/// The names in a text file, one per line, if there is one. Empty lines are skipped.
pub(super) fn names_in(path: &Path) -> Result<Option<Vec<String>>> {
    Ok(lines_of(path)?.map(|lines| lines.into_iter().filter(|name| !name.is_empty()).collect()))
}

/// The class names in a text file, one per line, if there is one. Only the last lines may be empty: any
/// other empty line would shift the names after it to other classes.
pub(super) fn class_names(path: &Path) -> Result<Option<Vec<String>>> {
    let Some(mut names) = lines_of(path)? else { return Ok(None) };
    while names.pop_if(|name| name.is_empty()).is_some() {}
    match names.iter().position(String::is_empty) {
        Some(index) => {
            let reason = format!("line {} is empty", index + 1);
            Err(Error::Dataset { path: path.to_owned(), reason })
        }
        None => Ok(Some(names)),
    }
}

/// The lines of a text file, trimmed, if there is one.
fn lines_of(path: &Path) -> Result<Option<Vec<String>>> {
    if !path.is_file() {
        return Ok(None);
    }
    let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
    // Windows editors begin a file with a byte order mark.
    let text = text.trim_start_matches('\u{feff}');
    Ok(Some(text.lines().map(|line| line.trim().to_owned()).collect()))
}

/// The names of classes in the file `classes.txt` of a folder, if there is one, numbered from 0.
pub(super) fn named_classes(folder: &Path) -> Result<Option<Vec<(i64, String)>>> {
    let names = class_names(&folder.join("classes.txt"))?;
    Ok(names.map(|names| (0..).zip(names).collect()))
}

/// The classes, and the labels as indexes into them. Without names, the classes are the numbers that occur in
/// `all`, which has the labels of all splits.
///
/// # Errors
/// The first label that belongs to no class.
pub(super) fn classified(
    labels: &[i64],
    all: impl Iterator<Item = i64>,
    names: Option<Vec<(i64, String)>>,
) -> Reasoned<(Vec<String>, Vec<i64>)> {
    let mut classes = names.unwrap_or_else(|| all.map(|label| (label, label.to_string())).collect());
    classes.sort_by_key(|(label, _)| *label);
    classes.dedup_by_key(|(label, _)| *label);
    let index_of = |(number, &label): (usize, &i64)| match classes
        .binary_search_by_key(&label, |class| class.0)
    {
        Ok(index) if label >= 0 => Ok(index as i64),
        _ if label < 0 => Err(format!("image {number} has label {label}, and labels must not be negative")),
        _ => Err(format!("image {number} has label {label}, but there are {} classes", classes.len())),
    };
    let labels = labels.iter().enumerate().map(index_of).collect::<Reasoned<Vec<i64>>>()?;
    Ok((classes.into_iter().map(|(_, name)| name).collect(), labels))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_line_among_class_names_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("classes.txt");
        std::fs::write(&file, "\u{feff}zero\r\none \n\n\n").unwrap();
        let names = ["zero", "one"].map(str::to_owned).to_vec();
        assert_eq!(class_names(&file).unwrap(), Some(names));
        std::fs::write(&file, "zero\n\ntwo\n").unwrap();
        let error = class_names(&file).unwrap_err().to_string();
        assert!(error.ends_with("classes.txt` is not a usable data set: line 2 is empty"), "{error}");
    }

    #[test]
    fn a_data_set_next_to_other_images_is_refused() {
        use folder::tests::touch;
        let root = tempfile::tempdir().unwrap();
        let nested = "cifar-10-batches-bin";
        touch(root.path(), &[&format!("{nested}/data_batch_1.bin"), &format!("{nested}/test_batch.bin")]);
        let refused = |wanted: Wanted| match open(root.path(), wanted) {
            Err(Error::Dataset { reason, .. }) if reason.contains(", and ") => Some(reason),
            _ => None,
        };
        let (known, unknown) = (Wanted::Known(Split::Train), Wanted::Unknown(Split::Test));
        assert_eq!((refused(known), refused(unknown)), (None, None));
        touch(root.path(), &["base.png", "textures/dots/1.png"]);
        assert_eq!(refused(known), None);
        assert!(refused(unknown).unwrap().ends_with("base.png`"));
        touch(root.path(), &["test/cat/1.png"]);
        assert!(refused(known).unwrap().ends_with("test`"));
    }

    #[test]
    fn labels_become_indices_of_named_or_numbered_classes() {
        let names =
            |names: &[(i64, &str)]| names.iter().map(|&(label, name)| (label, name.to_owned())).collect();
        let found = classified(&[3, 1], [1, 3, 7, 3].into_iter(), None).unwrap();
        assert_eq!(found, (["1", "3", "7"].map(str::to_owned).to_vec(), vec![1, 0]));
        let found = classified(&[2, 1, 2], [].into_iter(), Some(names(&[(2, "b"), (1, "a")]))).unwrap();
        assert_eq!(found, (["a", "b"].map(str::to_owned).to_vec(), vec![1, 0, 1]));
        for (labels, reason) in
            [([0, 9], "image 1 has label 9, but there are 2"), ([-1, 0], "image 0 has label -1")]
        {
            let error = classified(&labels, [].into_iter(), Some(names(&[(0, "a"), (1, "b")]))).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
        assert!(classified(&[-1], [-1].into_iter(), None).is_err());
    }
}
