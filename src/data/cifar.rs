//! CIFAR-10 and CIFAR-100 as they are published: records of one or two label bytes and 3,072 pixel bytes
//! `[3, 32, 32]`, or pickles of Python with arrays of such pixels.

use std::path::{Path, PathBuf};

use super::{
    LeftOut, Source, Split,
    arrays::{Arrays, Form, Piece},
    layout::{Layout, Part, Reasoned, Splits, Wanted, class_names},
};
use crate::{
    error::{Error, Result},
    text::few,
};

const SIDE: usize = 32;
/// The number of bytes of an image.
const PIXELS: usize = 3 * SIDE * SIDE;
/// The number of images in each file of CIFAR-10 as it is published.
const OFFICIAL: usize = 10_000;
/// The published class names, for folders without them.
pub(super) const CLASSES: [&str; 10] =
    ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];
#[rustfmt::skip]
pub(super) const FINE_CLASSES: [&str; 100] = [
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl", "boy",
    "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair", "chimpanzee", "clock",
    "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish", "forest",
    "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion", "lizard",
    "lobster", "man", "maple_tree", "motorcycle", "mountain", "mouse", "mushroom", "oak_tree", "orange", "orchid",
    "otter", "palm_tree", "pear", "pickup_truck", "pine_tree", "plain", "plate", "poppy", "porcupine", "possum",
    "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper",
    "snail", "snake", "spider", "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank", "telephone",
    "television", "tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow_tree", "wolf",
    "woman", "worm",
];

pub(super) const TEN_BINARY: Layout = Layout {
    about: "CIFAR-10 (`data_batch_1.bin`, `test_batch.bin`)",
    nested: &["cifar-10-batches-bin"],
    ignores_images: false,
    is_here: |folder| Release::TEN_BINARY.is_here(folder),
    open: |folder, wanted| Release::TEN_BINARY.open(folder, wanted),
};

pub(super) const TEN_PICKLED: Layout = Layout {
    about: "CIFAR-10 in Python's form (`data_batch_1`, `test_batch`)",
    nested: &["cifar-10-batches-py"],
    ignores_images: false,
    is_here: |folder| Release::TEN_PICKLED.is_here(folder),
    open: |folder, wanted| Release::TEN_PICKLED.open(folder, wanted),
};

pub(super) const HUNDRED_BINARY: Layout = Layout {
    about: "CIFAR-100 (`train.bin`, `test.bin`)",
    nested: &["cifar-100-binary"],
    ignores_images: false,
    is_here: |folder| Release::HUNDRED_BINARY.is_here(folder),
    open: |folder, wanted| Release::HUNDRED_BINARY.open(folder, wanted),
};

pub(super) const HUNDRED_PICKLED: Layout = Layout {
    about: "CIFAR-100 in Python's form (`train`, `test`, `meta`)",
    nested: &["cifar-100-python"],
    ignores_images: false,
    is_here: |folder| {
        let is_release = Release::HUNDRED_PICKLED.is_here(folder);
        is_release && folder.join("meta").is_file()
    },
    open: |folder, wanted| Release::HUNDRED_PICKLED.open(folder, wanted),
};

/// One of the published forms.
struct Release {
    train: &'static [&'static str],
    test: &'static str,
    /// The file with the names of the classes.
    names: &'static str,
    /// The published names.
    classes: &'static [&'static str],
    encoding: Encoding,
}

/// How files hold images.
enum Encoding {
    /// Records with this number of labels, the last of which counts.
    Records { labels: usize },
    /// Pickles of a dictionary with the labels and the class names under these keys.
    Pickles { labels: &'static str, names: &'static str },
}

impl Release {
    const TEN_BINARY: Self = Self {
        train: &[
            "data_batch_1.bin",
            "data_batch_2.bin",
            "data_batch_3.bin",
            "data_batch_4.bin",
            "data_batch_5.bin",
        ],
        test: "test_batch.bin",
        names: "batches.meta.txt",
        classes: &CLASSES,
        encoding: Encoding::Records { labels: 1 },
    };
    const TEN_PICKLED: Self = Self {
        train: &["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5"],
        test: "test_batch",
        names: "batches.meta",
        classes: &CLASSES,
        encoding: Encoding::Pickles { labels: "labels", names: "label_names" },
    };
    /// The coarse label comes first.
    const HUNDRED_BINARY: Self = Self {
        train: &["train.bin"],
        test: "test.bin",
        names: "fine_label_names.txt",
        classes: &FINE_CLASSES,
        encoding: Encoding::Records { labels: 2 },
    };
    const HUNDRED_PICKLED: Self = Self {
        train: &["train"],
        test: "test",
        names: "meta",
        classes: &FINE_CLASSES,
        encoding: Encoding::Pickles { labels: "fine_labels", names: "fine_label_names" },
    };

    fn is_here(&self, folder: &Path) -> bool {
        [self.train[0], self.test].iter().any(|name| folder.join(name).is_file())
    }

    fn files(&self, split: Split) -> &[&'static str] {
        match split {
            Split::Train => self.train,
            Split::Test => std::slice::from_ref(&self.test),
        }
    }

    fn open(&self, folder: &Path, wanted: Wanted) -> Result<Part> {
        let is_file = |name: &&str| folder.join(name).is_file();
        let found = || few(self.train.iter().chain([&self.test]).copied().filter(is_file));
        let splits = Splits::of(|split| self.files(split).iter().any(is_file));
        let names = self.files(splits.choose(wanted, folder, found)?);
        let classes = self.classes(folder)?;
        let paths: Vec<PathBuf> = names.iter().map(|name| folder.join(name)).collect();
        // A smaller set of the same form may have fewer files, but none may be missing before the last. The
        // published data set must have all.
        let count = paths.iter().rposition(|path| path.is_file()).map_or(1, |last| last + 1);
        let check = |count: usize| {
            let missing: Vec<&str> =
                (0..count).filter(|&index| !paths[index].is_file()).map(|index| names[index]).collect();
            if missing.is_empty() {
                return Ok(());
            }
            let reason = format!("it has no {}", missing.join(", "));
            Err(Error::Dataset { path: folder.to_owned(), reason })
        };
        check(count)?;
        let (mut labels, mut pixels, mut pieces) = (Vec::new(), Vec::new(), Vec::new());
        let sizes = paths[..count].iter().filter_map(|path| path.metadata().ok());
        let bytes: u64 = sizes.map(|file| file.len()).sum();
        if usize::try_from(bytes).map_or(true, |bytes| pixels.try_reserve_exact(bytes).is_err()) {
            let reason = format!("no memory for its {bytes} bytes");
            return Err(Error::Dataset { path: folder.to_owned(), reason });
        }
        for path in &paths[..count] {
            let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
            let broken = |reason| Error::Dataset { path: path.clone(), reason };
            let found = match self.encoding {
                Encoding::Records { labels } => records(&bytes, labels, &mut pixels).map_err(broken)?,
                Encoding::Pickles { labels, .. } => pickled(&bytes, labels, &mut pixels).map_err(broken)?,
            };
            let is_unknown = |label: &i64| !usize::try_from(*label).is_ok_and(|label| label < classes.len());
            if let Some(index) = found.iter().position(is_unknown) {
                let (label, classes) = (found[index], classes.len());
                let reason = format!("record {index} has label {label}, but there are {classes} classes");
                return Err(broken(reason));
            }
            pieces.push(Piece { file: path.clone(), array: None, first: 0, count: found.len() });
            labels.extend(found);
        }
        if pieces.iter().any(|piece| piece.count == OFFICIAL) {
            check(paths.len())?;
        }
        pixels.shrink_to_fit();
        let form = Form::planes(labels.len(), SIDE, SIDE).expect("every file has images");
        let source = Source::Arrays(Arrays::new(pieces, form, pixels));
        Ok(Part { classes, labels, source, left_out: LeftOut::new() })
    }

    fn classes(&self, folder: &Path) -> Result<Vec<String>> {
        let path = folder.join(self.names);
        let names = match self.encoding {
            Encoding::Records { .. } => class_names(&path)?,
            Encoding::Pickles { names, .. } => pickled_names(&path, names)?,
        };
        Ok(names.unwrap_or_else(|| self.classes.iter().map(|&name| name.to_owned()).collect()))
    }
}

/// Returns the labels of records and appends their pixels.
fn records(bytes: &[u8], labels: usize, pixels: &mut Vec<u8>) -> Reasoned<Vec<i64>> {
    let record = labels + PIXELS;
    if bytes.is_empty() || !bytes.len().is_multiple_of(record) {
        return Err(format!("it has {} bytes, expected a positive multiple of {record}", bytes.len()));
    }
    let of_record = |record: &[u8]| {
        pixels.extend_from_slice(&record[labels..]);
        i64::from(record[labels - 1])
    };
    Ok(bytes.chunks_exact(record).map(of_record).collect())
}

/// Returns the labels of a pickled dictionary and appends its pixels.
#[cfg(feature = "files")]
fn pickled(bytes: &[u8], labels: &str, pixels: &mut Vec<u8>) -> Reasoned<Vec<i64>> {
    use crate::files::pickle::Pickle;

    let (pickle, _) = Pickle::parse(bytes)?;
    let value = |key: &str| pickle.value(key).ok_or_else(|| format!("its pickle has no `{key}`"));
    let data = pickle.array(value("data")?).ok_or("the `data` of its pickle is not an array")?;
    let length = data.shape.iter().try_fold(1_usize, |count, &length| count.checked_mul(length));
    let is_planes = matches!(data.shape[..], [_, PIXELS] | [_, 3, SIDE, SIDE]);
    if data.kind != 'u' || data.item_bytes != 1 || data.is_fortran || !is_planes {
        let (order, kind) = (if data.is_fortran { " in Fortran order" } else { "" }, data.kind);
        let (shape, size) = (&data.shape, data.item_bytes);
        return Err(format!("its `data` is {kind}{size} {shape:?}{order}, expected u1 [N, {PIXELS}]"));
    }
    if length != Some(data.bytes.len()) || data.bytes.is_empty() {
        return Err(format!("its `data` has {} bytes for shape {:?}", data.bytes.len(), data.shape));
    }
    let node = value(labels)?;
    let found = pickle.list_of_integers(node).or_else(|| {
        let array = pickle.array(node)?;
        let mut letter = [0; 4];
        super::arrays::integers(
            &array.bytes,
            array.kind.encode_utf8(&mut letter),
            array.item_bytes,
            array.is_big_endian,
        )
    });
    let found = found.ok_or_else(|| format!("the `{labels}` of its pickle are not integers"))?;
    if found.len() != data.shape[0] {
        return Err(format!("it has {} images, but {} `{labels}`", data.shape[0], found.len()));
    }
    pixels.extend_from_slice(&data.bytes);
    Ok(found)
}

/// The names of classes in a pickled dictionary, if there is a file.
#[cfg(feature = "files")]
fn pickled_names(path: &Path, key: &str) -> Result<Option<Vec<String>>> {
    use crate::files::pickle::Pickle;

    if !path.is_file() {
        return Ok(None);
    }
    let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
    let names = Pickle::parse(&bytes).and_then(|(pickle, _)| {
        let names = pickle.value(key).and_then(|node| pickle.list_of_texts(node));
        let names = names.ok_or_else(|| format!("its pickle has no list of texts `{key}`"))?;
        Ok(names.into_iter().map(str::to_owned).collect())
    });
    names.map(Some).map_err(|reason| Error::Dataset { path: path.to_owned(), reason })
}

#[cfg(not(feature = "files"))]
fn pickled(_: &[u8], _: &str, _: &mut Vec<u8>) -> Reasoned<Vec<i64>> {
    Err("it is a pickle, which needs the feature `files`".to_owned())
}

#[cfg(not(feature = "files"))]
fn pickled_names(_: &Path, _: &str) -> Result<Option<Vec<String>>> {
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{data::Dataset, image::Input};
    use std::fs;

    fn error(folder: &Path, split: Split) -> String {
        Dataset::known(folder, split, &Input::of_size(SIDE, SIDE)).unwrap_err().to_string()
    }

    fn record(label: u8) -> Vec<u8> {
        let mut record = vec![label];
        record.extend((0..3 * SIDE * SIDE).map(|i| (i / SIDE) as u8));
        record
    }

    #[test]
    fn reads_records_in_order_and_resizes() {
        let folder = tempfile::tempdir().unwrap();
        let root_folder = folder.path().join("cifar-10-batches-bin");
        fs::create_dir(&root_folder).unwrap();
        fs::write(root_folder.join("data_batch_1.bin"), [record(3), record(9)].concat()).unwrap();
        fs::write(root_folder.join("data_batch_2.bin"), record(0)).unwrap();
        let cifar = Dataset::known(folder.path(), Split::Train, &Input::of_size(SIDE, SIDE)).unwrap();
        assert_eq!((cifar.classes()[3].as_str(), cifar.labels()), ("cat", &[3, 9, 0][..]));
        assert_eq!(*cifar.pixels(1).unwrap(), record(9)[1..]);
        assert!(
            cifar.name(1).ends_with("data_batch_1.bin#1") && cifar.name(2).ends_with("data_batch_2.bin#0")
        );

        // A row's value is its index plus 32 per channel. At half height, pairs of rows are averaged.
        let small = Dataset::known(folder.path(), Split::Train, &Input::of_size(16, 8)).unwrap();
        let pixels = small.pixels(0).unwrap();
        assert_eq!(pixels.len(), 3 * 16 * 8);
        assert!((15..=17).contains(&pixels[8 * 8]) && (79..=81).contains(&pixels[2 * 16 * 8 + 8 * 8]));

        let error = error(folder.path(), Split::Test);
        assert!(error.contains("it has `data_batch_1.bin`, `data_batch_2.bin`"), "{error}");
    }

    #[test]
    fn missing_files_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let batch = |number: usize| folder.path().join(format!("data_batch_{number}.bin"));
        let error = || error(folder.path(), Split::Train);
        fs::write(folder.path().join("test_batch.bin"), record(1)).unwrap();
        assert!(error().contains("it has `test_batch.bin`, but no training images"), "{}", error());
        fs::write(batch(2), record(1)).unwrap();
        assert!(error().contains("it has no data_batch_1.bin"), "{}", error());
        for number in [1, 2, 4] {
            fs::write(batch(number), record(1)).unwrap();
        }
        assert!(error().contains("it has no data_batch_3.bin"), "{}", error());
        fs::remove_file(batch(4)).unwrap();
        assert_eq!(
            Dataset::known(folder.path(), Split::Train, &Input::of_size(SIDE, SIDE)).unwrap().labels(),
            [1, 1]
        );
        fs::write(batch(1), record(0).repeat(OFFICIAL)).unwrap();
        assert!(
            error().contains("it has no data_batch_3.bin, data_batch_4.bin, data_batch_5.bin"),
            "{}",
            error()
        );
    }

    #[test]
    fn truncated_files_and_wrong_labels_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("test_batch.bin");
        let message = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            error(folder.path(), Split::Test)
        };
        assert!(message(&record(1)[..3000]).contains("3000 bytes"));
        assert!(message(&[]).contains("0 bytes"));
        let wrong = message(&[record(1), record(10)].concat());
        assert!(wrong.contains("record 1 has label 10, but there are 10 classes"), "{wrong}");
        fs::write(folder.path().join("batches.meta.txt"), "left\nright\n\n").unwrap();
        assert!(message(&record(2)).contains("label 2, but there are 2 classes"));
    }

    #[cfg(feature = "files")]
    #[test]
    fn pickles_without_images_are_errors_and_never_run() {
        let folder = tempfile::tempdir().unwrap();
        let array = |kind: &str, shape: &[u8], order: &str, length: usize| {
            let start = &b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\0\x85U\x01btR(K\x01"[..];
            let kind = [b"cnumpy\ndtype\nU\x02", kind.as_bytes(), b"\x85R"].concat();
            let data = [&b"T"[..], &(length as u32).to_le_bytes(), &vec![7; length]].concat();
            [start, shape, &kind, order.as_bytes(), &data, b"tb"].concat()
        };
        let error = |data: &[u8], labels: &[u8]| {
            let parts = [&b"\x80\x02}(U\x04data"[..], data, b"U\x06labels", labels, b"u."];
            fs::write(folder.path().join("test_batch"), parts.concat()).unwrap();
            error(folder.path(), Split::Test)
        };
        // [1, 3072], and the list [5].
        let (shape, five) = (b"K\x01M\x00\x0c\x86", b"]K\x05a");
        let image = || array("u1", shape, "I00\n", PIXELS);
        let wrong = error(&image(), b"]K\x0aa");
        assert!(
            wrong.contains("test_batch` is not a usable data set: record 0 has label 10, but"),
            "{wrong}"
        );
        assert!(error(&image(), b"](K\x05K\x05e").contains("it has 1 images, but 2 `labels`"));
        assert!(error(&image(), b"]Na").contains("the `labels` of its pickle are not integers"));
        assert!(
            error(&array("u1", shape, "I00\n", 9), five)
                .contains("its `data` has 9 bytes for shape [1, 3072]")
        );
        assert!(
            error(&array("u1", shape, "I01\n", PIXELS), five)
                .contains("in Fortran order, expected u1 [N, 3072]")
        );
        assert!(error(&array("f4", shape, "I00\n", PIXELS), five).contains("is f4 [1, 3072], expected"));
        assert!(error(&array("u1", b"K\x02\x85", "I00\n", 2), five).contains("is u1 [2], expected"));
        let ran = folder.path().join("ran");
        let run = format!("cos\nsystem\n(S'touch {}'\ntR", ran.display());
        assert!(error(run.as_bytes(), five).contains("the `data` of its pickle is not an array"));
        assert!(!ran.exists());
        fs::write(folder.path().join("test_batch"), b"\x80\x02}.").unwrap();
        assert!(super::tests::error(folder.path(), Split::Test).contains("its pickle has no `data`"));
        fs::write(folder.path().join("batches.meta"), b"\x80\x02}.").unwrap();
        assert!(
            super::tests::error(folder.path(), Split::Test).contains("has no list of texts `label_names`")
        );
    }
}
