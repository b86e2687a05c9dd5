//! CIFAR-10 in its official binary layout: records of a label byte and 3,072 pixel bytes `[3, 32, 32]`.

use std::{
    borrow::Cow,
    path::{Path, PathBuf},
};

use super::Split;
use crate::{
    error::{Error, Result},
    image::{self, RgbImage},
};

/// The height and the width of an image, in pixels.
pub(super) const SIDE: usize = 32;
const RECORD: usize = 1 + 3 * SIDE * SIDE;
/// The length of each file of the official data set, in bytes.
const OFFICIAL: u64 = 10_000 * RECORD as u64;
/// The official class names, for folders without `batches.meta.txt`.
const CLASSES: [&str; 10] =
    ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

/// The folder with the binary files: `folder` itself or `cifar-10-batches-bin` in it.
///
/// # Errors
/// [`Error::Io`] if `folder` cannot be read.
pub(super) fn root(folder: &Path) -> Result<Option<PathBuf>> {
    std::fs::read_dir(folder).map_err(Error::io("read", folder))?;
    let nested = folder.join("cifar-10-batches-bin");
    let has_files =
        |folder: &Path| folder.join("test_batch.bin").is_file() || folder.join("data_batch_1.bin").is_file();
    Ok([folder.to_owned(), nested].into_iter().find(|folder| has_files(folder)))
}

/// The images of one split, in memory.
#[derive(Debug)]
pub(super) struct Cifar {
    /// The files with their numbers of records.
    files: Vec<(PathBuf, usize)>,
    /// Bytes `[N, 3, 32, 32]`.
    pixels: Vec<u8>,
}

impl Cifar {
    /// Class names, labels and images of a split.
    pub fn read(root: &Path, split: Split) -> Result<(Vec<String>, Vec<i64>, Self)> {
        let names: Vec<String> = match split {
            Split::Train => (1..=5).map(|batch| format!("data_batch_{batch}.bin")).collect(),
            Split::Test => vec!["test_batch.bin".to_owned()],
        };
        let classes = class_names(root)?;
        let (mut labels, mut pixels, mut files) = (Vec::new(), Vec::new(), Vec::new());
        for path in present(root, &names)? {
            let broken = |reason| Error::Dataset { path: path.clone(), reason };
            let bytes = std::fs::read(&path).map_err(Error::io("read", &path))?;
            if bytes.is_empty() || bytes.len() % RECORD != 0 {
                let length = bytes.len();
                return Err(broken(format!(
                    "it has {length} bytes, expected a positive multiple of {RECORD}"
                )));
            }
            for (index, record) in bytes.chunks_exact(RECORD).enumerate() {
                if usize::from(record[0]) >= classes.len() {
                    let (label, classes) = (record[0], classes.len());
                    return Err(broken(format!(
                        "record {index} has label {label}, but there are {classes} classes"
                    )));
                }
                labels.push(i64::from(record[0]));
                pixels.extend_from_slice(&record[1..]);
            }
            files.push((path, bytes.len() / RECORD));
        }
        Ok((classes, labels, Self { files, pixels }))
    }

    #[cfg(test)]
    pub fn of(files: Vec<(PathBuf, usize)>, pixels: Vec<u8>) -> Self {
        Self { files, pixels }
    }

    /// The files that were read.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|(path, _)| path.as_path())
    }

    /// The name of an image: `FILE#NUMBER`.
    pub fn name(&self, index: usize) -> String {
        let mut number = index;
        for (path, count) in &self.files {
            if number < *count {
                return format!("{}#{number}", path.display());
            }
            number -= count;
        }
        format!("#{index}")
    }

    /// The bytes `[3, 32, 32]` of an image.
    pub fn record(&self, index: usize) -> &[u8] {
        &self.pixels[index * (RECORD - 1)..][..RECORD - 1]
    }

    /// The bytes `[3, height, width]` of an image.
    pub fn pixels(&self, index: usize, height: usize, width: usize) -> Cow<'_, [u8]> {
        let planes = self.record(index);
        if self.has_size(height, width) {
            return Cow::Borrowed(planes);
        }
        let plane = SIDE * SIDE;
        let image = RgbImage::from_fn(SIDE as u32, SIDE as u32, |x, y| {
            let at = y as usize * SIDE + x as usize;
            ::image::Rgb([planes[at], planes[plane + at], planes[2 * plane + at]])
        });
        Cow::Owned(image::pixels(&image, height, width))
    }

    /// Whether this is the images' own size.
    pub fn has_size(&self, height: usize, width: usize) -> bool {
        (height, width) == (SIDE, SIDE)
    }
}

/// The paths of a split's files. A smaller set of the same form may have fewer of them, but none is missing before
/// the last, and none of the official data set.
fn present(root: &Path, names: &[String]) -> Result<Vec<PathBuf>> {
    let paths: Vec<PathBuf> = names.iter().map(|name| root.join(name)).collect();
    let last = paths.iter().rposition(|path| path.is_file());
    let is_official = |path: &PathBuf| path.metadata().is_ok_and(|file| file.len() == OFFICIAL);
    let count = if paths.iter().any(is_official) { paths.len() } else { last.map_or(1, |last| last + 1) };
    let missing: Vec<&str> =
        (0..count).filter(|&index| !paths[index].is_file()).map(|index| names[index].as_str()).collect();
    if !missing.is_empty() {
        let reason = format!("it has no {}", missing.join(", "));
        return Err(Error::Dataset { path: root.to_owned(), reason });
    }
    Ok(paths[..count].to_vec())
}

fn class_names(root: &Path) -> Result<Vec<String>> {
    let path = root.join("batches.meta.txt");
    if !path.is_file() {
        return Ok(CLASSES.map(str::to_owned).to_vec());
    }
    let text = std::fs::read_to_string(&path).map_err(Error::io("read", &path))?;
    Ok(text.lines().map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

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
        let root = root(folder.path()).unwrap().unwrap();
        let (classes, labels, cifar) = Cifar::read(&root, Split::Train).unwrap();
        assert_eq!((classes[3].as_str(), labels), ("cat", vec![3, 9, 0]));
        assert_eq!(*cifar.pixels(1, 32, 32), record(9)[1..]);
        assert!(
            cifar.name(1).ends_with("data_batch_1.bin#1") && cifar.name(2).ends_with("data_batch_2.bin#0")
        );

        // A row's value is its index plus 32 per channel. At half height, pairs of rows are averaged.
        let pixels = cifar.pixels(0, 16, 8);
        assert_eq!(pixels.len(), 3 * 16 * 8);
        assert!((15..=17).contains(&pixels[8 * 8]) && (79..=81).contains(&pixels[2 * 16 * 8 + 8 * 8]));

        let error = Cifar::read(&root, Split::Test).unwrap_err().to_string();
        assert!(error.contains("it has no test_batch.bin"), "{error}");
    }

    #[test]
    fn missing_files_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let batch = |number: usize| folder.path().join(format!("data_batch_{number}.bin"));
        let error = || Cifar::read(folder.path(), Split::Train).unwrap_err().to_string();
        assert!(error().contains("it has no data_batch_1.bin"), "{}", error());
        for number in [1, 2, 4] {
            fs::write(batch(number), record(1)).unwrap();
        }
        assert!(error().contains("it has no data_batch_3.bin"), "{}", error());
        fs::remove_file(batch(4)).unwrap();
        assert_eq!(Cifar::read(folder.path(), Split::Train).unwrap().1, [1, 1]);
        fs::write(batch(1), vec![0; OFFICIAL as usize]).unwrap();
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
            Cifar::read(folder.path(), Split::Test).unwrap_err().to_string()
        };
        assert!(message(&record(1)[..3000]).contains("3000 bytes"));
        assert!(message(&[]).contains("0 bytes"));
        let wrong = message(&[record(1), record(10)].concat());
        assert!(wrong.contains("record 1 has label 10, but there are 10 classes"), "{wrong}");
        fs::write(folder.path().join("batches.meta.txt"), "left\nright\n\n").unwrap();
        assert!(message(&record(2)).contains("label 2, but there are 2 classes"));
    }
}
