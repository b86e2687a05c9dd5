//! IDX, the format of MNIST and of similar sets: a header of big-endian lengths, then bytes.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{BufReader, Read},
    path::{Path, PathBuf},
};

use flate2::read::MultiGzDecoder;

use super::{
    Source, Split,
    arrays::{self, Arrays, Form, MAX_INFLATED, Piece},
    layout::{Layout, Part, Reasoned, Splits, Wanted, classified, named_classes},
};
use crate::{
    error::{Error, Result},
    files::folder_of,
    text::{few, on_one_line, shown},
};

pub(super) const LAYOUT: Layout = Layout {
    about: "IDX, as MNIST (`train-images-idx3-ubyte`, `t10k-images-idx3-ubyte`, or with `.gz`)",
    nested: &["raw", "MNIST/raw", "FashionMNIST/raw", "KMNIST/raw", "EMNIST/raw", "gzip"],
    ignores_images: false,
    is_here: |path| place(path).is_some(),
    open,
};

/// The type of unsigned bytes.
const BYTES: u8 = 8;
/// The spellings of the names of image files.
const IMAGES: [&str; 4] =
    ["images-idx3-ubyte", "images-idx3-ubyte.gz", "images.idx3-ubyte", "images.idx3-ubyte.gz"];
/// The prefixes of each split's file names.
const TRAIN: [&str; 1] = ["train-"];
const TEST: [&str; 2] = ["t10k-", "test-"];
/// The prefix of EMNIST's file names; its images are stored column by column.
const EMNIST: &str = "emnist-";

/// The folder of the files, and the prefixes of their names. A folder may hold several sets, as EMNIST's
/// does; then the last part of the path names a set, such as `emnist-letters`.
fn place(path: &Path) -> Option<(PathBuf, BTreeSet<String>)> {
    if path.is_dir() {
        let prefixes = prefixes(path);
        return (!prefixes.is_empty()).then(|| (path.to_owned(), prefixes));
    }
    let (folder, prefix) = (folder_of(path), format!("{}-", path.file_name()?.to_str()?));
    prefixes(folder).contains(&prefix).then(|| (folder.to_owned(), BTreeSet::from([prefix])))
}

/// The name prefixes of all sets in a folder.
fn prefixes(folder: &Path) -> BTreeSet<String> {
    let Ok(entries) = folder.read_dir() else { return BTreeSet::new() };
    let prefix = |entry: std::fs::DirEntry| {
        let name = entry.file_name();
        let name = IMAGES.iter().find_map(|images| name.to_str()?.strip_suffix(images))?;
        let name = TRAIN.iter().chain(&TEST).find_map(|split| name.strip_suffix(split))?;
        entry.path().is_file().then(|| name.to_owned())
    };
    entries.filter_map(|entry| prefix(entry.ok()?)).collect()
}

fn open(path: &Path, wanted: Wanted) -> Result<Part> {
    let unusable = |reason| Error::Dataset { path: path.to_owned(), reason };
    let (folder, prefixes) = place(path).ok_or_else(|| unusable("its files have vanished".to_owned()))?;
    let Some(prefix) = prefixes.first().filter(|_| prefixes.len() == 1) else {
        let names = few(prefixes.iter().map(|prefix| prefix.trim_end_matches('-')));
        return Err(unusable(format!(
            "it holds several data sets: {names}; append one of these names to the path"
        )));
    };
    let file = |split: Split, what: &str| {
        let splits: &[&str] = if split == Split::Train { &TRAIN } else { &TEST };
        let spellings = IMAGES.iter().map(|images| match what {
            "images" => (*images).to_owned(),
            _ => images.replace("images", what).replace("idx3", "idx1"),
        });
        let mut paths = spellings
            .flat_map(|name| splits.iter().map(move |split| format!("{split}{name}")))
            .map(|name| folder.join(format!("{prefix}{name}")));
        paths.find(|path| path.is_file())
    };
    let found = || {
        let files = [Split::Train, Split::Test].into_iter().filter_map(|split| file(split, "images"));
        let names: Vec<String> = files.map(|file| name_of(&file)).collect();
        few(names.iter().map(String::as_str))
    };
    let split = Splits::of(|split| file(split, "images").is_some()).choose(wanted, path, found)?;
    let images_file = file(split, "images").ok_or_else(|| unusable("its files have vanished".to_owned()))?;
    let broken = |path: &Path| {
        let path = path.to_owned();
        move |reason| Error::Dataset { path, reason }
    };
    let (shape, bytes) = read(&images_file, 3)?;
    let mut form = Form::of(&shape, false).map_err(broken(&images_file))?;
    if prefix.starts_with(EMNIST) {
        form = form.transposed();
    }
    let piece = Piece { file: images_file.clone(), array: None, first: 0, count: form.count };
    let mut part = Part::unlabelled(Source::Arrays(Arrays::new(vec![piece], form, bytes)));
    if wanted.is_known() {
        let labels_file = file(split, "labels").ok_or_else(|| {
            unusable(format!("it has no file of the labels for `{}`", name_of(&images_file)))
        })?;
        let labels = labels_of(&labels_file)?;
        if labels.len() != form.count {
            let (labels, images) = (labels.len(), form.count);
            let reason = format!("it has {labels} labels, but `{}` has {images} images", shown(&images_file));
            return Err(broken(&labels_file)(reason));
        }
        // A class may be missing in one of the splits.
        let others = match file(split.other(), "labels") {
            Some(file) => labels_of(&file)?,
            None => Vec::new(),
        };
        let names = match mapping(&folder.join(format!("{prefix}mapping.txt")))? {
            Some(names) => Some(names),
            None => named_classes(&folder)?,
        };
        let all = labels.iter().chain(&others).copied();
        (part.classes, part.labels) = classified(&labels, all, names).map_err(broken(&labels_file))?;
    }
    Ok(part)
}

fn name_of(file: &Path) -> String {
    file.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn labels_of(file: &Path) -> Result<Vec<i64>> {
    Ok(read(file, 1)?.1.into_iter().map(i64::from).collect())
}

/// The lengths of the axes and the bytes of a file, which may be compressed.
fn read(path: &Path, axes: usize) -> Result<(Vec<usize>, Vec<u8>)> {
    let file = File::open(path).map_err(Error::io("read", path))?;
    let size = file.metadata().map_err(Error::io("read", path))?.len();
    let file = BufReader::new(file);
    let is_compressed = path.extension().is_some_and(|extension| extension == "gz");
    let result = if is_compressed {
        read_from(&mut MultiGzDecoder::new(file), axes, size.saturating_mul(MAX_INFLATED))
    } else {
        read_from(&mut { file }, axes, size)
    };
    result.map_err(|reason| Error::Dataset { path: path.to_owned(), reason })
}

fn read_from(reader: &mut impl Read, axes: usize, most: u64) -> Reasoned<(Vec<usize>, Vec<u8>)> {
    let mut word = || -> Reasoned<[u8; 4]> {
        let mut word = [0; 4];
        reader.read_exact(&mut word).map_err(|error| format!("its header cannot be read: {error}"))?;
        Ok(word)
    };
    let magic = word()?;
    if magic != [0, 0, BYTES, axes as u8] {
        let expected = [0, 0, BYTES, axes as u8];
        return Err(format!("it begins with {magic:?}, expected {expected:?}: bytes with {axes} axes"));
    }
    let shape =
        (0..axes).map(|_| Ok(u32::from_be_bytes(word()?) as usize)).collect::<Reasoned<Vec<usize>>>()?;
    let count = shape.iter().try_fold(1_usize, |count, &length| count.checked_mul(length));
    let count = count.ok_or_else(|| format!("its shape {shape:?} is larger than any file"))?;
    let bytes = arrays::read(reader, count, most)?;
    arrays::check_end(reader)?;
    Ok((shape, bytes))
}

/// The characters that EMNIST's labels stand for, if there is a file of them: each line has a label and the
/// codes of its upper-case and lower-case letter.
fn mapping(path: &Path) -> Result<Option<Vec<(i64, String)>>> {
    if !path.is_file() {
        return Ok(None);
    }
    let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
    let name = |line: &str| {
        let mut numbers = line.split_whitespace();
        let (label, code) = (numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?);
        Some((label, char::from_u32(code)?.to_string()))
    };
    let wrong = |line: &str| {
        let reason = format!("`{}` is not a label and the code of a character", on_one_line(line));
        Error::Dataset { path: path.to_owned(), reason }
    };
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    lines.map(|line| name(line).ok_or_else(|| wrong(line))).collect::<Result<Vec<_>>>().map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{data::Dataset, image::Input};
    use std::{fs, io::Write};

    fn idx(shape: &[u32], bytes: &[u8]) -> Vec<u8> {
        let lengths = shape.iter().flat_map(|length| length.to_be_bytes());
        [0, 0, BYTES, shape.len() as u8].into_iter().chain(lengths).chain(bytes.iter().copied()).collect()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn emnist_is_upright_and_its_classes_are_named_by_letters() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).unwrap();
        for set in ["emnist-letters", "emnist-digits"] {
            write(&format!("{set}-test-images-idx3-ubyte.gz"), &gzip(&idx(&[1, 2, 3], &[1, 2, 3, 4, 5, 6])));
            write(&format!("{set}-test-labels-idx1-ubyte.gz"), &gzip(&idx(&[1], &[26])));
        }
        write("emnist-letters-mapping.txt", b"1 65 97\n26 90 122\n\n");
        let error =
            Dataset::known(folder.path(), Split::Test, &Input::of_size(3, 2)).unwrap_err().to_string();
        assert!(error.contains("several data sets: `emnist-digits`, `emnist-letters`; append"), "{error}");
        let letters =
            Dataset::known(&folder.path().join("emnist-letters"), Split::Test, &Input::of_size(3, 2))
                .unwrap();
        assert_eq!((letters.classes(), letters.labels()), (&["A".to_owned(), "Z".to_owned()][..], &[1][..]));
        assert_eq!(*letters.pixels(0).unwrap(), [1, 4, 2, 5, 3, 6].repeat(3));
        assert!(
            Dataset::known(&folder.path().join("emnist-balanced"), Split::Test, &Input::of_size(3, 2))
                .is_err()
        );
        write("emnist-letters-mapping.txt", b"1 65\nx\n");
        let error = Dataset::known(&folder.path().join("emnist-letters"), Split::Test, &Input::of_size(3, 2))
            .unwrap_err()
            .to_string();
        assert!(error.contains("`x` is not a label"), "{error}");
    }

    #[test]
    fn damaged_files_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let labels = at("train-labels.idx1-ubyte");
        fs::write(&labels, idx(&[2], &[0, 1])).unwrap();
        let error = |images: &[u8], name: &str| {
            fs::write(at(name), images).unwrap();
            let error =
                Dataset::known(folder.path(), Split::Train, &Input::of_size(8, 8)).unwrap_err().to_string();
            fs::remove_file(at(name)).unwrap();
            assert!(error.contains("-ubyte"), "{error}");
            error
        };
        let plain = |images: &[u8]| error(images, "train-images.idx3-ubyte");
        assert!(plain(b"\0\0").contains("its header cannot be read"));
        assert!(plain(&idx(&[2], &[0, 1])).contains("begins with [0, 0, 8, 1], expected [0, 0, 8, 3]"));
        assert!(plain(&idx(&[2, 2, 2], &[0; 7])).contains("truncated: it has 7 of 8 bytes"));
        assert!(plain(&idx(&[2, 2, 2], &[0; 9])).contains("longer than its header says"));
        assert!(plain(&idx(&[u32::MAX; 3], &[0; 9])).contains("is larger than any file"));
        assert!(plain(&idx(&[2, 1 << 20, 1 << 20], &[0; 9])).contains("its size allows at most"));
        assert!(plain(&idx(&[0, 2, 2], &[])).contains("it has shape [0, 2, 2]"));
        assert!(plain(&idx(&[3, 2, 2], &[0; 12])).contains("it has 2 labels, but"));
        let bomb = |claimed: u32| gzip(&idx(&[claimed, 1 << 10, 1 << 10], &vec![0; 4 << 20]));
        assert!(error(&bomb(3), "train-images-idx3-ubyte.gz").contains("longer than its header says"));
        assert!(error(&bomb(1 << 20), "train-images-idx3-ubyte.gz").contains("its size allows at most"));
        assert!(error(&bomb(4)[..2000], "train-images-idx3-ubyte.gz").contains("-ubyte.gz"));
        let missing = Dataset::known(folder.path(), Split::Train, &Input::of_size(8, 8)).unwrap_err();
        assert!(matches!(missing, Error::NoLayout { .. }), "{missing}");
    }
}
