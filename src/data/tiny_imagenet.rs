//! Tiny ImageNet: `train/WNID/images/*.JPEG`, and as test split `val/images/*.JPEG` with a table of their
//! classes.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::Path,
};

use super::{
    LeftOut, Source, Split,
    folder::{class_folders, images_below, unlabelled},
    layout::{Layout, Part, Splits, Wanted, names_in},
};
use crate::{
    error::{Error, Result},
    text::few,
};

pub(super) const LAYOUT: Layout = Layout {
    about: "Tiny ImageNet (`train/WNID/images/...`, `val/images/...`, `wnids.txt`)",
    nested: &["tiny-imagenet-200"],
    ignores_images: false,
    is_here: |folder| {
        let has_split = |split| folder.join(name_of(split)).is_dir();
        (has_split(Split::Train) || has_split(Split::Test)) && folder.join("wnids.txt").is_file()
    },
    open,
};

const ANNOTATIONS: &str = "val_annotations.txt";

/// The folder of a split.
fn name_of(split: Split) -> &'static str {
    match split {
        Split::Train => "train",
        Split::Test => "val",
    }
}

fn open(folder: &Path, wanted: Wanted) -> Result<Part> {
    let is_there = |split: &Split| folder.join(name_of(*split)).is_dir();
    let found = || {
        few([Split::Train, Split::Test].iter().filter(|split| is_there(split)).map(|&split| name_of(split)))
    };
    let split = Splits::of(|split| is_there(&split)).choose(wanted, folder, found)?;
    let root = folder.join(name_of(split));
    if let Wanted::Unknown(_) = wanted {
        // Only tables lie next to the images.
        return Ok(Part { left_out: LeftOut::new(), ..unlabelled(images_below(&root)?) });
    }
    let mut ids = names_in(&folder.join("wnids.txt"))?.unwrap_or_default();
    ids.sort_unstable();
    ids.dedup();
    let places: HashMap<&str, i64> = ids.iter().map(String::as_str).zip(0..).collect();
    let (mut labels, mut files) = (Vec::new(), Vec::new());
    if split == Split::Test && root.join("images").is_dir() {
        let classes = annotations(&root.join(ANNOTATIONS), &places)?;
        for file in images_below(&root.join("images"))?.files {
            let label = file.file_name().and_then(|name| classes.get(name.to_str()?)).ok_or_else(|| {
                let reason = format!("`{ANNOTATIONS}` does not name its class");
                Error::Dataset { path: file.clone(), reason }
            })?;
            labels.push(*label);
            files.push(file);
        }
    } else {
        // The images of a class, including those of `val` if a user has sorted them into folders.
        for (id, class) in class_folders(&root)? {
            let Some(&label) = places.get(id.as_str()) else {
                return Err(Error::Dataset { path: class, reason: format!("`{id}` is not in `wnids.txt`") });
            };
            let inner = Some(class.join("images")).filter(|images| images.is_dir());
            let images = images_below(&inner.unwrap_or(class))?.files;
            labels.resize(labels.len() + images.len(), label);
            files.extend(images);
        }
    }
    let classes = names(&folder.join("words.txt"), &ids)?;
    Ok(Part { classes, labels, source: Source::Files(files), left_out: LeftOut::new() })
}

/// The class of each image of `val`, by its name: lines of a name, a WNID and a box, separated by tabs.
fn annotations(path: &Path, places: &HashMap<&str, i64>) -> Result<HashMap<String, i64>> {
    let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
    let mut classes = HashMap::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let broken = |reason: String| {
            let reason = format!("line {}: {reason}", number + 1);
            Error::Dataset { path: path.to_owned(), reason }
        };
        let mut cells = line.split('\t').map(str::trim);
        let (Some(name), Some(id)) = (cells.next(), cells.next()) else {
            return Err(broken("expected the name of an image, a tab, and a WNID".to_owned()));
        };
        let label = places.get(id).ok_or_else(|| broken(format!("`{id}` is not in `wnids.txt`")))?;
        if classes.insert(name.to_owned(), *label).is_some_and(|before| before != *label) {
            return Err(broken(format!("`{name}` has two classes")));
        }
    }
    Ok(classes)
}

/// The first of each class's words, or its WNID if another class has the same one or the file has none.
fn names(path: &Path, ids: &[String]) -> Result<Vec<String>> {
    let wanted: HashSet<&str> = ids.iter().map(String::as_str).collect();
    let mut words: BTreeMap<String, String> = BTreeMap::new();
    for line in names_in(path)?.unwrap_or_default() {
        if let Some((id, all)) = line.split_once('\t').filter(|(id, _)| wanted.contains(id)) {
            let first = all.split(',').next().unwrap_or_default().trim();
            words.insert(id.to_owned(), first.to_owned());
        }
    }
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for word in words.values() {
        *counts.entry(word).or_default() += 1;
    }
    let name = |id: &String| match words.get(id).filter(|word| !word.is_empty() && counts[word.as_str()] == 1)
    {
        Some(word) => word.clone(),
        None => id.clone(),
    };
    Ok(ids.iter().map(name).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{data::Dataset, image::Input};
    use std::fs;

    fn write(root: &Path, files: &[(&str, &str)]) {
        for (name, text) in files {
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }

    #[test]
    fn classes_are_named_by_their_first_word_unless_it_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        write(
            folder.path(),
            &[
                ("wnids.txt", "n3\nn1\nn2\nn4\n"),
                ("words.txt", "n0\tcrow\nn1\tcrane\nn2\tblack stork, Ciconia nigra\nn3\tcrane, derrick\n"),
                ("train/n1/images/n1_0.JPEG", ""),
                ("train/n1/n1_boxes.txt", ""),
                ("train/n2/images/n2_0.JPEG", ""),
                ("val/images/val_0.JPEG", ""),
                ("val/images/val_1.JPEG", ""),
                ("val/val_annotations.txt", "val_1.JPEG\tn1\t0\t0\t9\t9\nval_0.JPEG\tn3\t0\t0\t9\t9\n"),
            ],
        );
        let train = Dataset::known(folder.path(), Split::Train, &Input::of_size(8, 8)).unwrap();
        assert_eq!(train.classes(), ["n1", "black stork", "n3", "n4"]);
        assert_eq!((train.labels(), train.left_out().len()), (&[0, 1][..], 0));
        let test = Dataset::known(folder.path(), Split::Test, &Input::of_size(8, 8)).unwrap();
        assert_eq!((test.classes(), test.labels()), (train.classes(), &[2, 0][..]));
        assert!(test.name(0).ends_with("val_0.JPEG"));
        for (split, count) in [(Split::Train, 2), (Split::Test, 2)] {
            assert_eq!(Dataset::unknown(folder.path(), split, &Input::of_size(8, 8)).unwrap().len(), count);
        }
    }

    #[test]
    fn the_test_split_table_must_name_every_image() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &[("wnids.txt", "n1\nn2\n"), ("val/images/val_0.JPEG", "")]);
        let error = |table: &str| {
            write(folder.path(), &[("val/val_annotations.txt", table)]);
            Dataset::known(folder.path(), Split::Test, &Input::of_size(8, 8)).unwrap_err().to_string()
        };
        let missing = Dataset::known(folder.path(), Split::Test, &Input::of_size(8, 8)).unwrap_err();
        assert!(matches!(&missing, Error::Io { path, .. } if path.ends_with(ANNOTATIONS)), "{missing}");
        assert!(
            error("val_1.JPEG\tn1\n")
                .contains("val_0.JPEG` is not a usable data set: `val_annotations.txt` does")
        );
        assert!(error("val_0.JPEG\n").contains("line 1: expected the name"));
        assert!(error("val_0.JPEG\tn1\nval_0.JPEG\tn9\n").contains("line 2: `n9` is not in `wnids.txt`"));
        assert!(error("val_0.JPEG\tn1\nval_0.JPEG\tn2\n").contains("line 2: `val_0.JPEG` has two classes"));
        assert_eq!(Dataset::unknown(folder.path(), Split::Test, &Input::of_size(8, 8)).unwrap().len(), 1);
        // Images that a user has sorted into folders.
        fs::remove_dir_all(folder.path().join("val")).unwrap();
        write(folder.path(), &[("val/n1/a.JPEG", ""), ("val/n2/b.JPEG", ""), ("val/n2/images/c.JPEG", "")]);
        assert_eq!(
            Dataset::known(folder.path(), Split::Test, &Input::of_size(8, 8)).unwrap().labels(),
            [0, 1]
        );
    }
}
