//! NumPy arrays: archives (`.npz`) with images and labels, and arrays (`.npy`) with `labels.npy` next to
//! them, like those of CIFAR-10-C.

use std::path::{Path, PathBuf};

use super::layout::Layout;
use crate::image;

pub(super) const LAYOUT: Layout = Layout {
    about: "NumPy's arrays (FILE.npz with `x_train`, `y_train`, `x_test`, `y_test`, or with `images`, `labels`; FILE.npy with `labels.npy`)",
    nested: &[],
    ignores_images: false,
    is_here: |path| place(path).is_some(),
    #[cfg(feature = "files")]
    open: with_files::open,
    #[cfg(not(feature = "files"))]
    open: |path, _| {
        let reason = "it holds arrays of NumPy, which need the feature `files`".to_owned();
        Err(crate::Error::Dataset { path: path.to_owned(), reason })
    },
};

/// The labels of the arrays next to them.
const LABELS: &str = "labels.npy";

/// Where arrays are.
#[cfg_attr(
    not(feature = "files"),
    expect(dead_code, reason = "without the feature they are only recognised")
)]
enum Place {
    Archive(PathBuf),
    /// An array and the severity of its corruption, from 1 to 5, if one was asked for.
    Array(PathBuf, Option<usize>),
    /// Several files in a folder, one of which must be named.
    Several(Vec<PathBuf>),
}

fn ends_in(path: &Path, extensions: &[&str]) -> bool {
    path.extension().is_some_and(|end| extensions.iter().any(|extension| end.eq_ignore_ascii_case(extension)))
}

/// What a path stands for: an archive, the only one in a folder, or an array, optionally followed by `:` and
/// a severity. A folder that also holds image files or folders is not one of arrays.
fn place(path: &Path) -> Option<Place> {
    if path.is_dir() {
        let entries = super::folder::entries(path).ok()?;
        let mut files: Vec<&PathBuf> = entries.iter().filter(|path| ends_in(path, &["npz", "npy"])).collect();
        let is_other = |path: &PathBuf| image::has_extension(path) || path.is_dir();
        if files.is_empty() || entries.iter().any(is_other) {
            return None;
        }
        return Some(match &files[..] {
            [only] if ends_in(only, &["npz"]) => Place::Archive((*only).clone()),
            _ => {
                files.retain(|file| !file.ends_with(LABELS));
                if files.is_empty() {
                    return None;
                }
                Place::Several(files.into_iter().cloned().collect())
            }
        });
    }
    if path.is_file() {
        return if ends_in(path, &["npz"]) {
            Some(Place::Archive(path.to_owned()))
        } else {
            ends_in(path, &["npy"]).then(|| Place::Array(path.to_owned(), None))
        };
    }
    let (file, severity) = path.to_str()?.rsplit_once(':')?;
    let (file, severity) = (Path::new(file), severity.parse().ok()?);
    let is_severity = (1..=5).contains(&severity) && ends_in(file, &["npy"]) && file.is_file();
    is_severity.then(|| Place::Array(file.to_owned(), Some(severity)))
}

#[cfg(feature = "files")]
mod with_files {
    use std::{
        fs::File,
        io::{BufReader, Read},
        path::Path,
    };

    use npyz::{NpyFile, NpyHeader, Order};
    use zip::ZipArchive;

    use super::{LABELS, Place};
    use crate::{
        data::{
            Source,
            arrays::{self, Arrays, Form, MAX_INFLATED, Piece},
            cifar,
            layout::{Part, Splits, Wanted, classified, named_classes},
        },
        error::{Error, Result},
        files::{
            folder_of, kind,
            npy::{self, Refusal},
        },
        text::{few, shown},
    };

    /// The names of images and labels in archives with splits: those of Keras, and of MedMNIST.
    const TRAIN: [[&str; 2]; 3] =
        [["x_train", "y_train"], ["train_images", "train_labels"], ["X_train", "y_train"]];
    const TEST: [[&str; 2]; 3] = [["x_test", "y_test"], ["test_images", "test_labels"], ["X_test", "y_test"]];
    /// The names in archives without splits.
    const ALL: [[&str; 2]; 7] = [
        ["images", "labels"],
        ["x", "y"],
        ["X", "y"],
        ["data", "labels"],
        ["images", "y"],
        ["x", "labels"],
        ["data", "y"],
    ];
    /// An array of the names of the classes.
    const NAMES: [&str; 3] = ["class_names", "label_names", "classes"];
    /// The number of images of a severity in CIFAR-10-C.
    const OF_SEVERITY: usize = 10_000;
    /// The most bytes of labels or names that are read.
    const MAX_LABELS: u64 = 1 << 30;

    pub(super) fn open(path: &Path, wanted: Wanted) -> Result<Part> {
        match super::place(path) {
            Some(Place::Archive(file)) => archive(&file, wanted),
            Some(Place::Array(file, severity)) => array(&file, severity, wanted),
            Some(Place::Several(files)) => {
                let names: Vec<_> = files.iter().filter_map(|file| file.file_name()?.to_str()).collect();
                Err(broken(path, format!("choose one of its files: {}", few(names.into_iter()))))
            }
            None => Err(broken(path, "its file has vanished")),
        }
    }

    fn broken(path: &Path, reason: impl ToString) -> Error {
        Error::Dataset { path: path.to_owned(), reason: reason.to_string() }
    }

    fn archive(path: &Path, wanted: Wanted) -> Result<Part> {
        let file = File::open(path).map_err(Error::io("read", path))?;
        let mut archive = ZipArchive::new(BufReader::new(file)).map_err(|error| broken(path, error))?;
        let names: Vec<String> = archive.file_names().map(str::to_owned).collect();
        let mut arrays: Vec<&str> = names.iter().filter_map(|name| name.strip_suffix(".npy")).collect();
        arrays.sort_unstable();
        if arrays.is_empty() {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            return Err(broken(path, format!("it is {}, expected arrays", kind::of_archive(&names))));
        }
        let has = |name: &&str| arrays.contains(name);
        // If several names match, the labels decide.
        let find = |pairs: &[[&'static str; 2]]| -> Option<[&'static str; 2]> {
            let whole = pairs.iter().find(|[images, labels]| has(images) && has(labels));
            whole.or_else(|| pairs.iter().find(|[images, _]| has(images))).copied()
        };
        let splits = Splits { train: find(&TRAIN), test: find(&TEST), all: find(&ALL) };
        let pairs = [splits.train, splits.test];
        let found = || format!("the arrays {}", few(arrays.iter().copied()));
        let [images, labels] = splits.choose(wanted, path, found)?;
        let (form, bytes) = {
            let mut array = NpzArray::open(path, &mut archive, images)?;
            let (form, count) = array.form()?;
            (form, array.values(count)?)
        };
        let piece =
            Piece { file: path.to_owned(), array: Some(images.to_owned()), first: 0, count: form.count };
        let mut part = Part::unlabelled(Source::Arrays(Arrays::new(vec![piece], form, bytes)));
        if wanted.is_known() {
            if !has(&labels) {
                return Err(broken(path, format!("it has {}, none with the labels of `{images}`", found())));
            }
            let own = NpzArray::open(path, &mut archive, labels)?.integers()?;
            if own.len() != form.count {
                let (labels_found, images_found) = (own.len(), form.count);
                let reason =
                    format!("`{labels}` has {labels_found} values for {images_found} images in `{images}`");
                return Err(broken(path, reason));
            }
            let other = pairs.into_iter().flatten().find(|pair| pair[1] != labels);
            let others = match other.filter(|pair| has(&pair[1])) {
                Some([_, labels]) => NpzArray::open(path, &mut archive, labels)?.integers()?,
                None => Vec::new(),
            };
            let named = match NAMES.iter().find(|name| has(name)) {
                Some(name) => {
                    let names = NpzArray::open(path, &mut archive, name)?.texts()?;
                    Some((0..).zip(names).collect())
                }
                None => named_classes(folder_of(path))?,
            };
            let all = own.iter().chain(&others).copied();
            let result = classified(&own, all, named);
            (part.classes, part.labels) =
                result.map_err(|reason| broken(path, format!("array `{labels}`: {reason}")))?;
        }
        Ok(part)
    }

    /// An array next to its labels.
    fn array(path: &Path, severity: Option<usize>, wanted: Wanted) -> Result<Part> {
        let splits = Splits { train: None, test: None, all: Some(()) };
        splits.choose(wanted, path, || "one array of images".to_owned())?;
        let mut array = NpyArray::open(path)?;
        let (whole, count) = array.form()?;
        let mut form = whole;
        let mut first = 0;
        if let Some(severity) = severity {
            first = OF_SEVERITY * (severity - 1);
            if whole.count != 5 * OF_SEVERITY {
                let reason =
                    format!("it has {} images, expected {OF_SEVERITY} of each severity", whole.count);
                return Err(broken(path, reason));
            }
            if array.header.order() != Order::C {
                return Err(broken(path, "a severity needs an array in C order".to_owned()));
            }
            form.count = OF_SEVERITY;
            let skipped = first as i64 * whole.image as i64;
            array.reader.seek_relative(skipped).map_err(Error::io("read", path))?;
        }
        let bytes = match severity {
            Some(_) => arrays::read(&mut array.reader, form.bytes(), array.most)
                .map_err(|reason| broken(path, reason))?,
            None => array.values(count)?,
        };
        let piece = Piece { file: path.to_owned(), array: None, first, count: form.count };
        let mut part = Part::unlabelled(Source::Arrays(Arrays::new(vec![piece], form, bytes)));
        if wanted.is_known() {
            let folder = folder_of(path);
            let file = folder.join(LABELS);
            let labels = NpyArray::open(&file)?.integers()?;
            if labels.len() != whole.count {
                let (found, images) = (labels.len(), whole.count);
                return Err(broken(
                    &file,
                    format!("it has {found} labels for {images} images in `{}`", shown(path)),
                ));
            }
            let of_archive = |folder: &Path| -> Option<&[&str]> {
                match folder.file_name()?.to_str()? {
                    "CIFAR-10-C" => Some(&cifar::CLASSES),
                    "CIFAR-100-C" => Some(&cifar::FINE_CLASSES),
                    _ => None,
                }
            };
            // The name may be that of a link, or of the current folder.
            let of_archive = of_archive(folder).or_else(|| of_archive(&folder.canonicalize().ok()?));
            let names = match (named_classes(folder)?, of_archive) {
                (None, Some(names)) => Some((0..).zip(names.iter().map(|&name| name.to_owned())).collect()),
                (names, _) => names,
            };
            let own = &labels[first..first + form.count];
            (part.classes, part.labels) =
                classified(own, labels.iter().copied(), names).map_err(|reason| broken(&file, reason))?;
        }
        Ok(part)
    }

    /// An array whose header has been read.
    struct Array<'a, R> {
        path: &'a Path,
        /// The array's name in messages.
        name: String,
        header: NpyHeader,
        /// Its values.
        reader: R,
        /// An upper bound on the bytes of its values.
        most: u64,
    }

    type NpzArray<'a> = Array<'a, Box<dyn Read + 'a>>;
    type NpyArray<'a> = Array<'a, BufReader<File>>;

    impl<'a> NpzArray<'a> {
        fn open(path: &'a Path, archive: &'a mut ZipArchive<BufReader<File>>, name: &str) -> Result<Self> {
            let entry = archive.by_name(&format!("{name}.npy")).map_err(|error| broken(path, error))?;
            let most = entry.size().min(entry.compressed_size().saturating_mul(MAX_INFLATED));
            let reader: Box<dyn Read> = Box::new(entry);
            Self::new(path, format!("array `{name}`"), reader, most)
        }
    }

    impl<'a> NpyArray<'a> {
        fn open(path: &'a Path) -> Result<Self> {
            let file = File::open(path).map_err(Error::io("read", path))?;
            let most = file.metadata().map_err(Error::io("read", path))?.len();
            Self::new(path, "its array".to_owned(), BufReader::new(file), most)
        }
    }

    impl<'a, R: Read> Array<'a, R> {
        fn new(path: &'a Path, name: String, reader: R, most: u64) -> Result<Self> {
            let file: NpyFile<R> = npy::open(reader).map_err(|refusal| match refusal {
                Refusal::Broken(error) => broken(path, format!("{name} cannot be read: {error}")),
                Refusal::Unfit(reason) => broken(path, format!("{name} {reason}")),
            })?;
            let header = file.header().clone();
            Ok(Self { path, name, header, reader: file.into_inner(), most })
        }

        fn broken(&self, reason: impl ToString) -> Error {
            broken(self.path, format!("{} {}", self.name, reason.to_string()))
        }

        /// The lengths of the axes.
        fn shape(&self) -> Result<Vec<usize>> {
            let lengths = self.header.shape().iter().map(|&length| usize::try_from(length).ok());
            lengths.collect::<Option<Vec<usize>>>().ok_or_else(|| self.broken("is larger than any file"))
        }

        /// The number of values.
        fn count(&self) -> Result<usize> {
            let shape = self.shape()?;
            let count = shape.iter().try_fold(1_usize, |count, &length| count.checked_mul(length));
            count.ok_or_else(|| self.broken("is larger than any file"))
        }

        /// The images of an array of bytes, and the number of their bytes.
        fn form(&self) -> Result<(Form, usize)> {
            if npy::kind(&self.header.dtype()) != ("u", 1) {
                let found = self.header.dtype().descr();
                return Err(self.broken(format!("has values of type {found}, expected bytes ('|u1')")));
            }
            let form = Form::of(&self.shape()?, self.header.order() == Order::Fortran);
            let form = form.map_err(|reason| self.broken(format!("holds no images: {reason}")))?;
            Ok((form, self.count()?))
        }

        /// All values, as this many bytes.
        fn values(&mut self, count: usize) -> Result<Vec<u8>> {
            let bytes = arrays::read(&mut self.reader, count, self.most);
            let bytes = bytes.and_then(|bytes| arrays::check_end(&mut self.reader).map(|()| bytes));
            bytes.map_err(|reason| self.broken(format!("cannot be read: {reason}")))
        }

        /// The values of an array of labels: integers `[N]` or `[N, 1]`.
        fn integers(mut self) -> Result<Vec<i64>> {
            let ((kind, size), count, shape) =
                (npy::kind(&self.header.dtype()), self.count()?, self.shape()?);
            if !matches!(shape[..], [_] | [_, 1] | [1, _]) {
                return Err(
                    self.broken(format!("has shape {shape:?}, expected one label an image, [N] or [N, 1]"))
                );
            }
            let bytes = count.checked_mul(size as usize).filter(|&bytes| bytes as u64 <= MAX_LABELS);
            let bytes = bytes.ok_or_else(|| self.broken("has too many values for labels"))?;
            let bytes = self.values(bytes)?;
            let is_big_endian = self.is_big_endian();
            arrays::integers(&bytes, kind, size as usize, is_big_endian).ok_or_else(|| {
                let kind = self.header.dtype().descr();
                self.broken(format!("has values of type {kind}, expected integers"))
            })
        }

        /// The values of an array of texts `[N]`, padded with zeros.
        fn texts(mut self) -> Result<Vec<String>> {
            let ((kind, size), count) = (npy::kind(&self.header.dtype()), self.count()?);
            let width = match kind {
                "U" => size.checked_mul(4),
                "S" => Some(size),
                _ => None,
            };
            let width = width.and_then(|width| usize::try_from(width).ok()).filter(|&width| width > 0);
            let width = width.ok_or_else(|| {
                let kind = self.header.dtype().descr();
                self.broken(format!("should hold the names of the classes, but has values of type {kind}"))
            })?;
            let bytes = count.checked_mul(width).filter(|&bytes| bytes as u64 <= MAX_LABELS);
            let bytes = bytes.ok_or_else(|| self.broken("has too many values for names"))?;
            let bytes = self.values(bytes)?;
            let is_big_endian = self.is_big_endian();
            let text = |item: &[u8]| match kind {
                "U" => {
                    let code = |word: &[u8; 4]| {
                        if is_big_endian { u32::from_be_bytes(*word) } else { u32::from_le_bytes(*word) }
                    };
                    let characters: Option<String> =
                        item.as_chunks().0.iter().map(|word| char::from_u32(code(word))).collect();
                    characters
                }
                _ => String::from_utf8(item.to_vec()).ok(),
            };
            let texts =
                bytes.chunks_exact(width).map(|item| Some(text(item)?.trim_end_matches('\0').to_owned()));
            texts
                .collect::<Option<Vec<String>>>()
                .ok_or_else(|| self.broken("has text that cannot be decoded"))
        }

        fn is_big_endian(&self) -> bool {
            self.header.dtype().descr().contains('>')
        }
    }
}

#[cfg(all(test, feature = "files"))]
mod tests {
    use crate::{
        data::{Dataset, Split},
        error::Error,
        image::Input,
    };
    use std::{
        fs,
        io::{Cursor, Write},
    };
    use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

    /// An array of this type and shape.
    fn npy(kind: &str, shape: &str, values: &[u8]) -> Vec<u8> {
        let text = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': ({shape}), }}\n");
        [b"\x93NUMPY\x01\0", &(text.len() as u16).to_le_bytes()[..], text.as_bytes(), values].concat()
    }

    fn npz(arrays: &[(&str, Vec<u8>)]) -> Vec<u8> {
        let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
        for (name, array) in arrays {
            let options = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
            archive.start_file(*name, options).unwrap();
            archive.write_all(array).unwrap();
        }
        archive.finish().unwrap().into_inner()
    }

    #[test]
    fn names_of_classes_have_one_form() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data.npz");
        let (images, labels) = (npy("|u1", "2, 2, 2", &[7; 8]), npy("|u1", "2,", &[0, 1]));
        fs::write(&path, npz(&[("images.npy", images), ("labels.npy", labels)])).unwrap();
        let (whole, apart) = ("H\u{fc}te", "Hu\u{308}te");
        fs::write(folder.path().join("classes.txt"), format!("{apart}\nant\n")).unwrap();
        let images = Dataset::known(&path, Split::Test, &Input::of_size(2, 2)).unwrap();
        assert_eq!(images.classes(), [whole, "ant"]);
    }

    #[test]
    fn archives_that_do_not_fit_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data.npz");
        let images = || ("images.npy", npy("|u1", "2, 2, 2", &[7; 8]));
        let error = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            let error = Dataset::known(&path, Split::Test, &Input::of_size(2, 2)).unwrap_err();
            let (Error::Dataset { path: named, .. } | Error::NoSplit { path: named, .. }) = &error else {
                panic!("{error}");
            };
            assert_eq!(*named, path);
            error.to_string()
        };
        let with_labels = |labels: Vec<u8>| error(&npz(&[images(), ("labels.npy", labels)]));
        let with_images = |images: Vec<u8>| {
            error(&npz(&[("images.npy", images), ("labels.npy", npy("|u1", "2,", &[0, 1]))]))
        };
        assert!(error(b"no archive").contains("data.npz"));
        assert!(
            error(&npz(&[("a.txt", b"a".to_vec())]))
                .contains("it is a ZIP archive of `a.txt`, expected arrays")
        );
        let others = npz(&[("weights.npy", npy("<f4", "1,", &[0; 4]))]);
        assert!(error(&others).contains("it has the arrays `weights`, but no test images"));
        assert!(
            error(&npz(&[images()])).contains("it has the arrays `images`, none with the labels of `images`")
        );
        assert!(
            with_labels(npy("|u1", "3,", &[0, 1, 2]))
                .contains("`labels` has 3 values for 2 images in `images`")
        );
        assert!(
            with_labels(npy("|u1", "2, 3", &[0; 6]))
                .contains("`labels` has shape [2, 3], expected one label an image")
        );
        assert!(
            with_labels(npy("<f4", "2,", &[0, 0, 0, 0, 0, 0, 0, 0x3f]))
                .contains("type '<f4', expected integers")
        );
        assert!(with_labels(npy("|i1", "2,", &[0, 255])).contains("image 1 has label -1"));
        assert!(with_labels(npy("|u1", "2,", &[0, 0])).contains("it has 1 classes, expected at least 2"));
        assert!(
            with_images(npy("<f4", "2, 2, 2", &[0; 32]))
                .contains("has values of type '<f4', expected bytes ('|u1')")
        );
        assert!(
            with_images(npy("|O", "2, 2, 2", &[0; 32])).contains("array `images` has values of type '|O'")
        );
        assert!(
            with_images(npy("|u1", "2, 2, 2, 4", &[0; 32]))
                .contains("holds no images: it has shape [2, 2, 2, 4]")
        );
        assert!(with_images(npy("|u1", "2, 2, 2", &[0; 7])).contains("truncated: it has 7 of 8 bytes"));
        assert!(with_images(npy("|u1", "2, 2, 2", &[0; 9])).contains("longer than its header says"));
        assert!(
            with_images(npy("|u1", "2, 2000, 2000", &[0; 9]))
                .contains("it claims 8000000 bytes of values, its size")
        );
        let endless = npy("|u1", "4294967296, 4294967296, 4294967296", &[0; 9]);
        assert!(with_images(endless).contains("is larger than any file"));
        // Python's other literals, of which npyz would multiply the values.
        for length in ["0x100000000", "4_611_686_018_427_387_905", "2+2"] {
            let shape = format!("{length}, {length}");
            let message = with_images(npy("|u1", &shape, &[0; 9]));
            assert!(message.contains("has a length that is not a number"), "{message}");
        }
        let named = |names: Vec<u8>| {
            error(&npz(&[images(), ("labels.npy", npy("|u1", "2,", &[0, 1])), ("class_names.npy", names)]))
        };
        assert!(named(npy("|S1", "2,", b"aa")).contains("its classes 0 and 1 are both called `a`"));
        assert!(named(npy("|S2", "2,", b"a\0\xff\xff")).contains("has text that cannot be decoded"));
        assert!(
            named(npy("<i8", "2,", &[0; 16]))
                .ends_with("should hold the names of the classes, but has values of type '<i8'")
        );
        // A changed byte is found by the checksum of the archive.
        let stored = {
            let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
            let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
            archive.start_file("images.npy", options).unwrap();
            archive.write_all(&images().1).unwrap();
            archive.finish().unwrap().into_inner()
        };
        let mut changed = stored.clone();
        let place = stored.windows(8).position(|window| window == [7; 8]).unwrap();
        changed[place] ^= 1;
        fs::write(&path, stored).unwrap();
        assert_eq!(Dataset::unknown(&path, Split::Test, &Input::of_size(2, 2)).unwrap().len(), 2);
        fs::write(&path, changed).unwrap();
        let error = Dataset::unknown(&path, Split::Test, &Input::of_size(2, 2)).unwrap_err().to_string();
        assert!(error.contains("hecksum"), "{error}");
    }

    #[test]
    fn an_archive_lacks_a_split() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data.npz");
        let images = npy("|u1", "2, 2, 2", &[7; 8]);
        let labels = npy("|u1", "2,", &[0, 1]);
        let open = |split| Dataset::known(&path, split, &Input::of_size(2, 2));
        fs::write(&path, npz(&[("x_train.npy", images.clone()), ("y_train.npy", labels.clone())])).unwrap();
        assert_eq!(open(Split::Train).unwrap().len(), 2);
        let error = open(Split::Test).unwrap_err().to_string();
        assert!(error.contains("it has the arrays `x_train`, `y_train`"), "{error}");
        fs::write(&path, npz(&[("x.npy", images), ("y.npy", labels)])).unwrap();
        let error = open(Split::Train).unwrap_err().to_string();
        assert!(error.contains("it has the arrays `x`, `y`"), "{error}");
        let unknown = Dataset::unknown(&path, Split::Train, &Input::of_size(2, 2)).unwrap();
        assert!(unknown.shares_images_with(&open(Split::Test).unwrap()));
    }
}
