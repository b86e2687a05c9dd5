//! SVHN's cropped digits: MAT-files of version 5 with images `X` `[32, 32, 3, N]` and labels `y` `[N, 1]`.

use std::{
    fs::File,
    io::{BufReader, Read, Seek},
    path::Path,
};

use flate2::read::ZlibDecoder;

use super::{
    Source,
    arrays::{self, Arrays, Form, MAX_INFLATED, Piece},
    layout::{Layout, Part, Reasoned, Splits, Wanted, classified},
};
use crate::{
    error::{Error, Result},
    files::kind,
    text::few,
};

const TRAIN: &str = "train_32x32.mat";
const TEST: &str = "test_32x32.mat";

pub(super) const LAYOUT: Layout = Layout {
    about: "SVHN's cropped digits (`train_32x32.mat`, `test_32x32.mat`)",
    nested: &[],
    ignores_images: false,
    is_here: |path| {
        if path.is_dir() {
            [TRAIN, TEST].iter().any(|name| path.join(name).is_file())
        } else {
            path.is_file() && path.extension().is_some_and(|extension| extension == "mat")
        }
    },
    open,
};

/// The label of the digit 0.
const ZERO: i64 = 10;

/// A single file, such as `extra_32x32.mat`, has no splits.
fn open(path: &Path, wanted: Wanted) -> Result<Part> {
    let file = |name: &str| Some(path.join(name)).filter(|file| file.is_file());
    let splits = if path.is_dir() {
        Splits { train: file(TRAIN), test: file(TEST), all: None }
    } else {
        Splits { train: None, test: None, all: Some(path.to_owned()) }
    };
    let found = || {
        if path.is_dir() {
            few([TRAIN, TEST].into_iter().filter(|name| file(name).is_some()))
        } else {
            "one set of images".to_owned()
        }
    };
    let file = splits.choose(wanted, path, found)?;
    let broken = |reason| Error::Dataset { path: file.clone(), reason };
    let Matrices { images, labels } = read(&file)?;
    let (form, bytes) = images.ok_or_else(|| broken("it has no matrix `X`".to_owned()))?;
    let piece = Piece { file: file.clone(), array: None, first: 0, count: form.count };
    let mut part = Part::unlabelled(Source::Arrays(Arrays::new(vec![piece], form, bytes)));
    if wanted.is_known() {
        let mut labels = labels.ok_or_else(|| broken("it has no matrix `y`".to_owned()))?;
        if labels.len() != form.count {
            return Err(broken(format!("it has {} labels for {} images", labels.len(), form.count)));
        }
        labels.iter_mut().filter(|label| **label == ZERO).for_each(|label| *label = 0);
        let digits = (0..ZERO).map(|digit| (digit, digit.to_string())).collect();
        (part.classes, part.labels) = classified(&labels, [].into_iter(), Some(digits)).map_err(broken)?;
    }
    Ok(part)
}

/// What is read from a MAT-file.
#[derive(Default)]
struct Matrices {
    images: Option<(Form, Vec<u8>)>,
    labels: Option<Vec<i64>>,
}

/// The types of elements of a MAT-file.
const INT_8: u32 = 1;
const UINT_8: u32 = 2;
const INT_32: u32 = 5;
const UINT_32: u32 = 6;
const MATRIX: u32 = 14;
const COMPRESSED: u32 = 15;
/// The length of the header of a MAT-file, and the positions of its version and byte order mark.
const HEADER: usize = 128;
const VERSION: std::ops::Range<usize> = 124..126;
const BYTE_ORDER: std::ops::Range<usize> = 126..128;
/// The longest name, and the largest number of axes, in bytes.
const MAX_TEXT: usize = 256;

/// Reads the matrices `X` and `y`. Others are skipped.
fn read(path: &Path) -> Result<Matrices> {
    let file = File::open(path).map_err(Error::io("read", path))?;
    let size = file.metadata().map_err(Error::io("read", path))?.len();
    read_from(BufReader::new(file), size).map_err(|reason| Error::Dataset { path: path.to_owned(), reason })
}

fn read_from(mut file: BufReader<File>, size: u64) -> Reasoned<Matrices> {
    let mut header = Vec::new();
    let failed = |error: std::io::Error| format!("it cannot be read: {error}");
    file.by_ref().take(HEADER as u64).read_to_end(&mut header).map_err(failed)?;
    let is_big_endian = match (header.get(VERSION), header.get(BYTE_ORDER)) {
        (Some([0, 1]), Some(b"IM")) => false,
        (Some([1, 0]), Some(b"MI")) => true,
        // MATLAB 7.3 begins its HDF5 files with the same words.
        (Some([0, 2]), Some(b"IM")) => {
            return Err("it is an HDF5 file, as MATLAB 7.3 writes; save it with `-v7`".to_owned());
        }
        _ => {
            let what = kind::of(&header).unwrap_or("something else");
            return Err(format!("it is {what}, expected a MAT-file of version 5"));
        }
    };
    let mut found = Matrices::default();
    let mut at = HEADER as u64;
    while at < size {
        let (kind, length) = Element { reader: &mut file, is_big_endian, most: size }.tag()?;
        let (begin, rest) = (at + 8, size.saturating_sub(at + 8));
        if u64::from(length) > rest {
            return Err(format!(
                "it is truncated: an element of {length} bytes begins at byte {at}, {rest} are left"
            ));
        }
        let mut content = file.by_ref().take(length.into());
        match kind {
            MATRIX => {
                Element { reader: &mut content, is_big_endian, most: length.into() }.matrix(&mut found)?;
            }
            COMPRESSED => {
                let most = u64::from(length).saturating_mul(MAX_INFLATED);
                let mut reader = ZlibDecoder::new(content);
                let mut element = Element { reader: &mut reader, is_big_endian, most };
                let (kind, _) = element.tag()?;
                if kind == MATRIX {
                    element.matrix(&mut found)?;
                }
                // The checksum comes last.
                let rest = std::io::copy(&mut reader.take(most), &mut std::io::sink());
                rest.map_err(|error| format!("an element cannot be read: {error}"))?;
            }
            _ => (),
        }
        at = begin + u64::from(length);
        file.seek(std::io::SeekFrom::Start(at)).map_err(failed)?;
    }
    Ok(found)
}

/// Reads elements one after another.
struct Element<'a, R> {
    reader: &'a mut R,
    is_big_endian: bool,
    /// An upper bound on the bytes that can be read.
    most: u64,
}

impl<R: Read> Element<'_, R> {
    fn word(&mut self) -> Reasoned<u32> {
        let mut word = [0; 4];
        self.reader.read_exact(&mut word).map_err(|error| format!("an element cannot be read: {error}"))?;
        Ok(if self.is_big_endian { u32::from_be_bytes(word) } else { u32::from_le_bytes(word) })
    }

    /// The type and the length of an element that is not a small one.
    fn tag(&mut self) -> Reasoned<(u32, u32)> {
        Ok((self.word()?, self.word()?))
    }

    /// The type and the bytes of an element of at most this length.
    fn bytes(&mut self, longest: usize) -> Reasoned<(u32, Vec<u8>)> {
        let word = self.word()?;
        // A small element has type and length in one word, and up to four bytes in the next.
        let (kind, length, field) = match word >> 16 {
            0 => {
                let length = self.word()? as usize;
                (word, length, length.next_multiple_of(8))
            }
            length => (word & 0xffff, length as usize, 4),
        };
        let most = longest.min(field);
        if length > most {
            return Err(format!("an element has {length} bytes, expected at most {most}"));
        }
        let bytes = arrays::read(self.reader, length, self.most)?;
        // The last element may lack its padding.
        let padding = (field - length) as u64;
        std::io::copy(&mut self.reader.take(padding), &mut std::io::sink())
            .map_err(|error| error.to_string())?;
        Ok((kind, bytes))
    }

    fn integers(&mut self, longest: usize) -> Reasoned<Vec<i64>> {
        let (kind, bytes) = self.bytes(longest)?;
        let (letter, size) = match kind {
            INT_8 => ("i", 1),
            UINT_8 => ("u", 1),
            3 => ("i", 2),
            4 => ("u", 2),
            INT_32 => ("i", 4),
            UINT_32 => ("u", 4),
            7 => ("f", 4),
            9 => ("f", 8),
            12 => ("i", 8),
            13 => ("u", 8),
            _ => return Err(format!("an element has type {kind}, expected numbers")),
        };
        let numbers = arrays::integers(&bytes, letter, size, self.is_big_endian);
        numbers.ok_or_else(|| "an element holds numbers that are not integers".to_owned())
    }

    /// Reads a matrix if it is one of those wanted: its flags, lengths, name and values.
    fn matrix(&mut self, found: &mut Matrices) -> Reasoned<()> {
        let flags = self.integers(MAX_TEXT)?;
        let is_complex = flags.first().is_none_or(|flags| flags & 0x800 != 0);
        let lengths = self.integers(MAX_TEXT)?;
        let shape =
            lengths.iter().map(|&length| usize::try_from(length).ok()).collect::<Option<Vec<usize>>>();
        let shape = shape.ok_or_else(|| format!("a matrix has lengths {lengths:?}"))?;
        let name = self.bytes(MAX_TEXT)?.1;
        let count = shape.iter().try_fold(1_usize, |count, &length| count.checked_mul(length));
        let too_large =
            |name: &str| format!("matrix `{name}` has shape {shape:?}, which is larger than any file");
        match &name[..] {
            b"X" => {
                let count = count.ok_or_else(|| too_large("X"))?;
                // MATLAB leaves out the last length if it is 1.
                let last = if shape.len() == 3 { Some(&1) } else { shape.get(3) };
                let form = match (&shape[..], last) {
                    ([height, width, 3] | [height, width, 3, _], Some(&images)) if !is_complex => {
                        Form::planes(images, *width, *height).map(Form::transposed)
                    }
                    _ => None,
                };
                let form =
                    form.ok_or_else(|| format!("matrix `X` has shape {shape:?}, expected [32, 32, 3, N]"))?;
                let (kind, bytes) = self.bytes(count)?;
                if kind != UINT_8 || bytes.len() != count {
                    let length = bytes.len();
                    return Err(format!(
                        "matrix `X` has {length} bytes of type {kind}, expected {count} of type {UINT_8}"
                    ));
                }
                found.images = Some((form, bytes));
            }
            b"y" => {
                let count = count.ok_or_else(|| too_large("y"))?;
                let labels = self.integers(count.checked_mul(8).ok_or_else(|| too_large("y"))?)?;
                if labels.len() != count {
                    return Err(format!("matrix `y` has {} values for shape {shape:?}", labels.len()));
                }
                found.labels = Some(labels);
            }
            _ => (),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        data::{Dataset, Split},
        image::Input,
    };
    use std::{fs, io::Write};

    /// An element of this type.
    fn element(kind: u32, bytes: &[u8]) -> Vec<u8> {
        let padding = bytes.len().next_multiple_of(8) - bytes.len();
        [&kind.to_le_bytes()[..], &(bytes.len() as u32).to_le_bytes(), bytes, &vec![0; padding]].concat()
    }

    /// A matrix with this name and shape; `values` is an element.
    fn matrix(name: &str, shape: &[i32], values: &[u8]) -> Vec<u8> {
        let lengths: Vec<u8> = shape.iter().flat_map(|length| length.to_le_bytes()).collect();
        let parts = [
            element(UINT_32, &[9, 0, 0, 0, 0, 0, 0, 0]),
            element(INT_32, &lengths),
            element(INT_8, name.as_bytes()),
            values.to_vec(),
        ];
        element(MATRIX, &parts.concat())
    }

    fn compressed(element: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(element).unwrap();
        let bytes = encoder.finish().unwrap();
        [&COMPRESSED.to_le_bytes()[..], &(bytes.len() as u32).to_le_bytes(), &bytes].concat()
    }

    fn header() -> Vec<u8> {
        let mut header = b"MATLAB 5.0 MAT-file, by hand".to_vec();
        header.resize(VERSION.start, b' ');
        [&header, &[0, 1, b'I', b'M'][..]].concat()
    }

    fn images() -> Vec<u8> {
        matrix("X", &[2, 2, 3, 2], &element(UINT_8, &(0..24).collect::<Vec<u8>>()))
    }

    fn read(elements: &[&[u8]]) -> Result<Dataset> {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(TEST), [&header(), &elements.concat()[..]].concat()).unwrap();
        Dataset::known(folder.path(), Split::Test, &Input::of_size(2, 2))
    }

    #[test]
    fn label_10_is_digit_0_in_every_number_type() {
        let labels = |values: &[u8]| matrix("y", &[2, 1], values);
        for values in [
            element(UINT_8, &[10, 3]),
            // A small element.
            [&UINT_8.to_le_bytes()[..2], &[2, 0, 10, 3, 0, 0]].concat(),
            element(9, &[10_f64.to_le_bytes(), 3_f64.to_le_bytes()].concat()),
            element(3, &[10, 0, 3, 0]),
        ] {
            let data = read(&[&labels(&values), &images()]).unwrap();
            assert_eq!((data.labels(), data.classes()[9].as_str()), (&[0, 3][..], "9"));
            // The rows of an image are next to each other.
            assert_eq!(*data.pixels(1).unwrap(), [12, 14, 13, 15, 16, 18, 17, 19, 20, 22, 21, 23]);
        }
        // MATLAB omits the last axis for one image.
        let one = matrix("X", &[2, 2, 3], &element(UINT_8, &[7; 12]));
        assert_eq!(read(&[&matrix("y", &[1, 1], &element(UINT_8, &[1])), &one]).unwrap().len(), 1);
    }

    #[test]
    fn damaged_files_are_errors() {
        let labels = |values: &[u8]| matrix("y", &[2, 1], &element(UINT_8, values));
        let error = |elements: &[&[u8]]| {
            let error = read(elements).unwrap_err();
            assert!(matches!(&error, Error::Dataset { path, .. } if path.ends_with(TEST)), "{error}");
            error.to_string()
        };
        assert!(error(&[&images()]).contains("no matrix `y`"));
        assert!(error(&[&labels(&[1, 2])]).contains("no matrix `X`"));
        assert!(
            error(&[&images(), &labels(&[1, 11])]).contains("image 1 has label 11, but there are 10 classes")
        );
        assert!(error(&[&images(), &labels(&[1])]).contains("matrix `y` has 1 values for shape [2, 1]"));
        let three = matrix("y", &[3, 1], &element(UINT_8, &[1, 2, 3]));
        assert!(error(&[&images(), &three]).contains("3 labels for 2 images"));
        assert!(error(&[&images()[..60]]).contains("truncated: an element of"));
        let mut flipped = compressed(&images());
        *flipped.last_mut().unwrap() ^= 1;
        let damaged = error(&[&flipped, &labels(&[1, 2])]);
        assert!(damaged.contains("corrupt deflate stream"), "{damaged}");
        for (shape, reason) in [
            ([2, 2, 1, 2], "matrix `X` has shape [2, 2, 1, 2], expected [32, 32, 3, N]"),
            ([2, 2, 3, 0], "matrix `X` has shape"),
            ([2, 2, 3, 3], "matrix `X` has 24 bytes of type 2, expected 36"),
            ([2, 2, 3, -1], "a matrix has lengths [2, 2, 3, -1]"),
            ([i32::MAX, i32::MAX, 3, i32::MAX], "larger than any file"),
        ] {
            let values = element(UINT_8, &(0..24).collect::<Vec<u8>>());
            for is_compressed in [false, true] {
                let images = matrix("X", &shape, &values);
                let images = if is_compressed { compressed(&images) } else { images };
                let text = error(&[&labels(&[1, 2]), &images]);
                assert!(text.contains(reason), "{text}");
            }
        }
        // A short file that claims a large array, and deflated zeros.
        let claim = [&UINT_8.to_le_bytes()[..], &(12_u32 << 20).to_le_bytes()].concat();
        let small = compressed(&matrix("X", &[2, 2, 3, 1 << 20], &claim));
        assert!(error(&[&small]).contains("it claims 12582912 bytes of values"), "{}", error(&[&small]));
        let zeros = compressed(&matrix("X", &[2, 2, 3, 2], &element(UINT_8, &vec![0; 12 << 20])));
        assert!(error(&[&zeros]).contains("an element has 12582912 bytes, expected at most 24"));
        let text = matrix("y", &[2, 1], &element(16, b"ab"));
        assert!(error(&[&text, &images()]).contains("an element has type 16, expected numbers"));
    }

    #[test]
    fn other_file_types_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("extra_32x32.mat");
        let error = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            Dataset::unknown(&path, Split::Test, &Input::of_size(2, 2)).unwrap_err().to_string()
        };
        assert!(error(b"<html>").contains("it is an HTML page, expected a MAT-file of version 5"));
        let mut hdf5 = header();
        hdf5[VERSION].copy_from_slice(&[0, 2]);
        assert!(error(&hdf5).contains("HDF5"));
        assert!(error(&header()).contains("no matrix `X`"));
    }
}
