//! Data sets in image folders.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::{Path, PathBuf},
};

use super::{
    Source, Split,
    layout::{Layout, Part, Splits, Wanted},
};
use crate::{
    error::{Error, Result},
    image::{EXTENSIONS, has_extension},
    text::{composed, few},
};

/// Image folders without other marks. Unknown images may lie in any folder.
pub(super) const CLASSES: Layout = Layout {
    about: "folders of images (`train/CLASS/...` and `test/CLASS/...`, or `CLASS/...`)",
    nested: &[],
    ignores_images: false,
    is_here: Path::is_dir,
    open: |folder, wanted| match wanted {
        Wanted::Unknown(_) => Ok(unlabelled(images_below(folder)?)),
        Wanted::Known(_) | Wanted::Divided(_) => known(folder, wanted),
    },
};

/// The labels of the Describable Textures Dataset.
pub(super) const TEXTURE_LABELS: &str = "labels/labels_joint_anno.txt";

/// The Describable Textures Dataset, with folders of labels and splits next to the images.
pub(super) const TEXTURES: Layout = Layout {
    about: "the Describable Textures Dataset (`images/CLASS/...` with `labels` or `imdb`)",
    nested: &["dtd"],
    ignores_images: false,
    is_here: |folder| {
        let marks = [TEXTURE_LABELS, "imdb/imdb.mat"];
        folder.join("images").is_dir() && marks.iter().any(|mark| folder.join(mark).is_file())
    },
    open: |folder, wanted| (CLASSES.open)(&folder.join("images"), wanted),
};

/// The names of a training split, in lower case and in order of preference.
const TRAIN: [&str; 2] = ["train", "training"];
/// The same for a test split.
const TEST: [&str; 5] = ["test", "testing", "val", "valid", "validation"];

/// The folders of a split, the preferred one first. A class may be called `train` or `test`; only a split
/// contains folders.
pub(super) fn splits(folder: &Path, split: Split) -> Vec<PathBuf> {
    let here = entries(folder).unwrap_or_default();
    let named = |name: &&str| {
        let is_named = |path: &&PathBuf| path.file_name().is_some_and(|file| file.eq_ignore_ascii_case(name));
        let others = here.iter().filter(is_named).cloned();
        [folder.join(name)].into_iter().chain(others).find(|split| has_folders(split))
    };
    let names: &[&str] = match split {
        Split::Train => &TRAIN,
        Split::Test => &TEST,
    };
    names.iter().filter_map(named).collect()
}

/// Whether a folder of this name holds the training or the test images, in upper or lower case.
#[must_use]
pub(crate) fn is_split_name(name: &str) -> bool {
    TRAIN.iter().chain(&TEST).any(|split| split.eq_ignore_ascii_case(name))
}

/// Names of folders of images that are of no class, in lower case and without separators: English, German, French,
/// Spanish and Italian.
const CATCH_ALL_NAMES: [&str; 35] = [
    "altri",
    "altro",
    "andere",
    "autre",
    "autres",
    "background",
    "desconocido",
    "desconocidos",
    "diverses",
    "inconnu",
    "inconnus",
    "misc",
    "miscellaneous",
    "na",
    "negative",
    "negatives",
    "none",
    "nothing",
    "notknown",
    "other",
    "others",
    "otherstuff",
    "otros",
    "rest",
    "sconosciuti",
    "sconosciuto",
    "sonstige",
    "sonstiges",
    "unbekannt",
    "unbekannte",
    "unidentified",
    "unknowns",
    "unlabelled",
    "unsorted",
    "various",
];

/// Whether a folder of this name seems to hold images of no class.
#[must_use]
pub(crate) fn is_catch_all(name: &str) -> bool {
    let letters: String = name.to_lowercase().chars().filter(|letter| letter.is_alphanumeric()).collect();
    CATCH_ALL_NAMES.contains(&letters.as_str())
}

/// Whether a folder has class folders of both splits.
#[must_use]
pub fn is_divided(folder: &Path) -> bool {
    [Split::Train, Split::Test].iter().all(|&split| !splits(folder, split).is_empty())
}

/// Whether a name contains one of these words, as `training_set` and `seg_test` do.
fn has_word(name: &str, words: &[&str]) -> bool {
    name.to_lowercase().split(|letter: char| !letter.is_alphanumeric()).any(|word| words.contains(&word))
}

/// `FOLDER/SPLIT/CLASS/...`, or `FOLDER/CLASS/...` without splits.
fn known(folder: &Path, wanted: Wanted) -> Result<Part> {
    let (train, tests) = (splits(folder, Split::Train).into_iter().next(), splits(folder, Split::Test));
    let all = (train.is_none() && tests.is_empty()).then(|| folder.to_owned());
    let classes = all.as_deref().map(class_folders).transpose()?;
    let of_split = |words: &[&str]| {
        let is_split = |(name, path): &&(String, PathBuf)| has_word(name, words) && has_folders(path);
        classes.iter().flatten().find(is_split).map(|(name, _)| name)
    };
    if let (Some(train), Some(test)) = (of_split(&TRAIN), of_split(&TEST)) {
        let reason = format!("its split folders `{train}` and `{test}` must be named `train` and `test`");
        return Err(Error::Dataset { path: folder.to_owned(), reason });
    }
    let name = |split: &Path| split.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let training = train.as_deref().map(name);
    let found = || match classes {
        Some(classes) => {
            let names = few(classes.iter().map(|(name, _)| name.as_str()));
            format!("class folders {names}, but no folder `{}` with class folders", TRAIN[0])
        }
        None => match &training {
            Some(name) => {
                format!("a folder `{name}`, but none of {} with class folders", few(TEST.into_iter()))
            }
            None => {
                let names: Vec<String> = tests.iter().map(|split| name(split)).collect();
                format!("the folders {}", few(names.iter().map(String::as_str)))
            }
        },
    };
    let test = tests.first().cloned();
    let root = Splits { train, test, all }.choose(wanted, folder, found)?;
    let mut part = Part { classes: Vec::new(), labels: Vec::new(), ..unlabelled(Listing::default()) };
    let mut files = Vec::new();
    let mut folders: HashMap<PathBuf, String> = HashMap::new();
    let mut empty = Vec::new();
    for (name, class) in class_folders(&root)? {
        let images = match images_below(&class) {
            Err(error @ Error::NoImages { .. }) => {
                empty.push((name, error));
                continue;
            }
            found => found?,
        };
        let own: HashSet<&Path> = images.files.iter().filter_map(|file| file.parent()).collect();
        for folder in own.into_iter().filter_map(|folder| folder.canonicalize().ok()) {
            if let Some(other) = folders.insert(folder, name.clone()).filter(|other| *other != name) {
                let reason = format!(
                    "the classes `{other}` and `{name}` have the same images: one of the folders holds a link to the other"
                );
                return Err(Error::Dataset { path: root, reason });
            }
        }
        part.classes.push(name);
        part.labels.resize(part.labels.len() + images.files.len(), part.classes.len() as i64 - 1);
        files.extend(images.files);
        add_counts(&mut part.left_out, &images.left_out);
    }
    match empty.len() {
        0 => {}
        1 => return Err(empty.remove(0).1),
        _ => {
            let names = few(empty.iter().map(|(name, _)| name.as_str()));
            let reason = format!("the class folders {names} hold no images ({})", EXTENSIONS.join(", "));
            return Err(Error::NoImages { path: root, reason });
        }
    }
    // Images of no class.
    for path in entries(&root)?.iter().filter(|path| has_extension(path) && path.is_file()) {
        *part.left_out.entry(extension(path)).or_default() += 1;
    }
    part.source = Source::Files(files);
    Ok(part)
}

/// Images without classes.
pub(super) fn unlabelled(images: Listing) -> Part {
    let Listing { files, left_out } = images;
    Part { left_out, ..Part::unlabelled(Source::Files(files)) }
}

/// The names and paths of class folders, sorted by name: two or more.
pub(super) fn class_folders(root: &Path) -> Result<Vec<(String, PathBuf)>> {
    let entries = entries(root)?;
    let mut classes = Vec::new();
    // A class whose folder cannot be reached would be missing without a word. Files have an extension.
    let is_broken =
        |path: &&PathBuf| path.is_symlink() && path.extension().is_none() && path.metadata().is_err();
    if let Some(link) = entries.iter().find(is_broken) {
        return Err(Error::Dataset { path: link.clone(), reason: "it is a broken link".to_owned() });
    }
    for class in entries.iter().filter(|path| path.is_dir()) {
        // Converting names that are not UTF-8 could make them equal.
        let Some(name) = class.file_name().and_then(|name| name.to_str()) else {
            let reason = "its name, which is that of a class, is not UTF-8".to_owned();
            return Err(Error::Dataset { path: class.clone(), reason });
        };
        classes.push((composed(name), class.clone()));
    }
    // In their one form, so that the order is the same on every system.
    classes.sort_unstable();
    if classes.len() < 2 {
        let names: Vec<String> = entries
            .iter()
            .filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
            .collect();
        let holds = few(names.iter().map(String::as_str));
        let reason = match &classes[..] {
            [_] => format!("it holds {holds}: one class folder, expected at least 2"),
            _ => format!("it holds {holds}: no class folders and no other layout"),
        };
        return Err(Error::NoLayout { path: root.to_owned(), reason });
    }
    Ok(classes)
}

/// The files of a folder, sorted by path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Listing {
    /// The files with the extension of an image.
    pub files: Vec<PathBuf>,
    /// The number of other files by their extension.
    pub left_out: LeftOut,
}

/// File counts by extension in lower case, which is empty for files without one.
pub type LeftOut = BTreeMap<String, usize>;

/// Adds file counts to others.
pub(crate) fn add_counts(to: &mut LeftOut, more: &LeftOut) {
    for (extension, count) in more {
        *to.entry(extension.clone()).or_default() += count;
    }
}

/// All images in a folder and its subfolders, each of which is read once. Hidden files and folders are
/// skipped.
///
/// # Errors
/// [`Error::Io`] if a folder cannot be read; [`Error::NoImages`] if there are none.
pub fn images_below(folder: &Path) -> Result<Listing> {
    /// `seen` holds the folders that were read: links can lead to one of them, and back to a parent folder.
    fn collect(folder: &Path, seen: &mut HashSet<PathBuf>, listing: &mut Listing) -> Result<()> {
        let place = folder.canonicalize().map_err(Error::io("read", folder))?;
        if !seen.insert(place) {
            return Ok(());
        }
        for path in entries(folder)? {
            match path.metadata() {
                Ok(entry) if entry.is_dir() => collect(&path, seen, listing)?,
                // A pipe or a device.
                Ok(entry) if !entry.is_file() => {}
                // A broken link counts too: its image cannot be read.
                _ if has_extension(&path) => listing.files.push(path),
                _ => *listing.left_out.entry(extension(&path)).or_default() += 1,
            }
        }
        Ok(())
    }
    let mut listing = Listing::default();
    collect(folder, &mut HashSet::new(), &mut listing)?;
    if listing.files.is_empty() {
        let extensions: Vec<&str> =
            listing.left_out.keys().map(String::as_str).filter(|end| !end.is_empty()).collect();
        let others = match (&extensions[..], listing.left_out.is_empty()) {
            (_, true) => String::new(),
            ([], false) => ", only files without an extension".to_owned(),
            (extensions, false) => format!(", only files that end in {}", few(extensions.iter().copied())),
        };
        let reason = format!("it holds no images ({}){others}", EXTENSIONS.join(", "));
        return Err(Error::NoImages { path: folder.to_owned(), reason });
    }
    Ok(listing)
}

/// The extension in lower case.
fn extension(path: &Path) -> String {
    path.extension().unwrap_or_default().to_string_lossy().to_lowercase()
}

fn has_folders(folder: &Path) -> bool {
    entries(folder).is_ok_and(|paths| paths.iter().any(|path| path.is_dir()))
}

/// Folders that systems create: thumbnails and recycle bin of Synology's NAS, what macOS adds to ZIP
/// archives, recycle bin and index of Windows, and what ext4 has in the root of a disk.
const OF_SYSTEMS: [&str; 6] =
    ["@eaDir", "#recycle", "__MACOSX", "$RECYCLE.BIN", "System Volume Information", "lost+found"];

/// Whether a file or folder is skipped: a hidden one, or a folder that a system creates.
pub(super) fn is_hidden(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default();
    name.as_encoded_bytes().starts_with(b".") || OF_SYSTEMS.iter().any(|folder| name == *folder)
}

/// The entries of a folder, sorted by name, without [hidden](is_hidden) ones.
pub(super) fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let list = || {
        let mut paths = std::fs::read_dir(folder)?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<std::io::Result<Vec<_>>>()?;
        paths.retain(|path| !is_hidden(path));
        paths.sort_unstable();
        Ok(paths)
    };
    list().map_err(Error::io("read", folder))
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use std::fs;

    /// The classes, labels and files of a split, and the files left out.
    fn read(folder: &Path, split: Split) -> (Vec<String>, Vec<i64>, Vec<PathBuf>, LeftOut) {
        let Part { classes, labels, source: Source::Files(files), left_out } =
            known(folder, Wanted::Known(split)).unwrap()
        else {
            panic!("no files")
        };
        (classes, labels, files, left_out)
    }

    /// Creates empty files, with the folders above them.
    pub fn touch(root: &Path, names: &[&str]) {
        for name in names {
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
    }

    /// A Mac writes marks apart from their letters, and takes both forms for one name.
    #[cfg(all(target_os = "linux", feature = "files"))]
    #[test]
    fn names_of_classes_have_one_form() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let (whole, apart) = ("H\u{fc}te", "Hu\u{308}te");
        touch(root, &["train/Schuhe/1.png", "test/Schuhe/1.png", "train/Hz/1.png", "test/Hz/1.png"]);
        touch(root, &[&*format!("train/{whole}/1.png"), &*format!("test/{apart}/1.png")]);
        for split in [Split::Train, Split::Test] {
            assert_eq!(read(root, split).0, ["Hz", whole, "Schuhe"]);
        }
        touch(root, &[&*format!("train/{apart}/2.png")]);
        let input = crate::image::Input::default();
        let error = crate::data::Dataset::known(root, Split::Train, &input).unwrap_err().to_string();
        assert!(error.contains("its classes 1 and 2 are both called `H\u{fc}te`"), "{error}");
    }

    #[test]
    fn class_folders_with_and_without_splits() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        touch(
            root,
            &["dog/b.PNG", "dog/deep/a.jpg", "cat/1.webp", "cat/notes.txt", ".hidden/x.png", "x.png"],
        );
        touch(root, &["cat/@eaDir/1.webp/thumbnail.jpg", "__MACOSX/cat/1.webp"]);
        let (classes, labels, files, left_out) = read(root, Split::Test);
        // An image next to the class folders belongs to no class.
        assert_eq!(left_out, LeftOut::from([("png".to_owned(), 1), ("txt".to_owned(), 1)]));
        assert_eq!((classes, labels), (vec!["cat".to_owned(), "dog".to_owned()], vec![0, 1, 1]));
        assert_eq!(files, ["cat/1.webp", "dog/b.PNG", "dog/deep/a.jpg"].map(|name| root.join(name)));
        let error = known(root, Wanted::Known(Split::Train)).unwrap_err();
        assert!(matches!(error, Error::Undivided { .. }), "{error}");
        assert!(error.to_string().contains("class folders `cat`, `dog`, but no folder `train`"), "{error}");

        touch(root, &["train/a/1.png", "train/b/1.png", "test/b/1.png", "test/c/2.png"]);
        assert_eq!(read(root, Split::Train).0, ["a", "b"]);
        assert_eq!(read(root, Split::Test).0, ["b", "c"]);
    }

    #[test]
    fn a_class_may_be_called_train() {
        let folder = tempfile::tempdir().unwrap();
        touch(folder.path(), &["car/1.png", "test/1.png", "train/1.png"]);
        assert_eq!(read(folder.path(), Split::Test).0, ["car", "test", "train"]);
    }

    #[cfg(unix)]
    #[test]
    fn class_names_that_are_not_utf_8_are_refused() {
        use std::{ffi::OsStr, os::unix::ffi::OsStrExt};
        let folder = tempfile::tempdir().unwrap();
        // Two names of three Cyrillic letters in Windows-1251, which would become the same name.
        for name in [b"\xea\xee\xf2", b"\xef\xb8\xf1"] {
            let class = folder.path().join(OsStr::from_bytes(name));
            fs::create_dir(&class).unwrap();
            fs::write(class.join("1.png"), "").unwrap();
        }
        let error = known(folder.path(), Wanted::Known(Split::Test)).unwrap_err();
        assert!(
            matches!(&error, Error::Dataset { path, .. } if path.parent() == Some(folder.path())),
            "{error}"
        );
        assert!(error.to_string().contains("is not UTF-8"), "{error}");
    }

    #[test]
    fn the_test_split_has_several_names() {
        for name in TEST.into_iter().chain(["Test", "VAL"]) {
            let folder = tempfile::tempdir().unwrap();
            let files = ["train/a/1.png".to_owned(), format!("{name}/a/1.png"), format!("{name}/b/1.png")];
            touch(folder.path(), &files.each_ref().map(String::as_str));
            assert_eq!(read(folder.path(), Split::Test).0, ["a", "b"], "{name}");
            assert!(is_divided(folder.path()) && !is_divided(&folder.path().join(name)), "{name}");
        }
    }

    #[test]
    fn the_training_split_may_be_spelled_differently() {
        for name in ["Train", "training"] {
            let folder = tempfile::tempdir().unwrap();
            let file = |path: &str| format!("{name}/{path}");
            touch(folder.path(), &[&file("a/1.png"), &file("b/1.png"), "test/c/1.png"]);
            assert_eq!(read(folder.path(), Split::Train).0, ["a", "b"], "{name}");
        }
    }

    #[test]
    #[cfg(unix)]
    fn a_folder_is_read_once_however_many_links_lead_to_it() {
        let root = tempfile::tempdir().unwrap();
        touch(root.path(), &["camera/2026-11-26/1.png", "camera/2026-11-26/2.png"]);
        std::os::unix::fs::symlink("2026-11-26", root.path().join("camera/latest")).unwrap();
        assert_eq!(images_below(&root.path().join("camera")).unwrap().files.len(), 2);
    }

    #[test]
    fn splits_by_another_name_are_not_classes() {
        let root = tempfile::tempdir().unwrap();
        touch(root.path(), &["training_set/cat/1.png", "training_set/dog/1.png", "test_set/cat/2.png"]);
        for wanted in [Wanted::Known(Split::Train), Wanted::Divided(0.5)] {
            let error = known(root.path(), wanted).unwrap_err();
            assert!(matches!(error, Error::Dataset { .. }), "{error}");
            assert!(error.to_string().contains("`training_set` and `test_set` must be named"), "{error}");
        }
        // A class of train stations is not a split.
        let root = tempfile::tempdir().unwrap();
        touch(root.path(), &["train station/in/1.png", "test tube/1.png"]);
        assert_eq!(known(root.path(), Wanted::Divided(0.5)).unwrap().classes, ["test tube", "train station"]);
    }

    #[cfg(unix)]
    #[test]
    fn cyclic_links_are_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        touch(folder.path(), &["a/1.png", "a/b/2.png"]);
        for link in ["a/here", "a/b/up", "a/b/further"] {
            std::os::unix::fs::symlink("..", folder.path().join(link)).unwrap();
        }
        assert_eq!(images_below(folder.path()).unwrap().files.len(), 2);
    }

    #[cfg(unix)]
    #[test]
    fn a_link_between_classes_is_refused() {
        for (link, target) in [("a/loop", ".."), ("a/more", "../b"), ("c", "a")] {
            let root = tempfile::tempdir().unwrap();
            touch(root.path(), &["a/1.png", "b/2.png"]);
            std::os::unix::fs::symlink(target, root.path().join(link)).unwrap();
            let error = known(root.path(), Wanted::Divided(0.5)).unwrap_err().to_string();
            assert!(error.contains("one of the folders holds a link to the other"), "{link}: {error}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_class_that_is_a_broken_link_is_refused() {
        let root = tempfile::tempdir().unwrap();
        touch(root.path(), &["a/1.png", "b/1.png", "lost+found/1.png"]);
        assert_eq!(known(root.path(), Wanted::Divided(0.5)).unwrap().classes, ["a", "b"]);
        std::os::unix::fs::symlink("/nowhere", root.path().join("README.md")).unwrap();
        assert_eq!(known(root.path(), Wanted::Divided(0.5)).unwrap().classes, ["a", "b"]);
        std::os::unix::fs::symlink("/nowhere", root.path().join("c")).unwrap();
        let error = known(root.path(), Wanted::Divided(0.5)).unwrap_err().to_string();
        assert!(error.contains("c` is not a usable data set: it is a broken link"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn dangling_links_count_as_unreadable_images() {
        let folder = tempfile::tempdir().unwrap();
        touch(folder.path(), &["1.png"]);
        std::os::unix::fs::symlink("nowhere.png", folder.path().join("2.png")).unwrap();
        assert_eq!(images_below(folder.path()).unwrap().files.len(), 2);
    }

    #[test]
    fn empty_folders_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        assert!(matches!(images_below(root), Err(Error::NoImages { .. })));
        assert!(matches!(known(root, Wanted::Known(Split::Test)), Err(Error::NoLayout { .. })));
        touch(root, &["a/1.png", "b/readme.txt"]);
        let error = known(root, Wanted::Known(Split::Test)).unwrap_err().to_string();
        assert!(error.contains("b` is not a usable data set: it holds no images"), "{error}");
        touch(root, &["c/readme.txt", "d/1.png"]);
        let error = known(root, Wanted::Known(Split::Test)).unwrap_err().to_string();
        assert!(
            error.contains("a usable data set: the class folders `b`, `c` hold no images (bmp, "),
            "{error}"
        );
        assert!(matches!(images_below(&root.join("none")), Err(Error::Io { .. })));
    }
}
