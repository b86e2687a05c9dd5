//! CIFAR-10 in its official binary layout: records of one label byte and 3,072 bytes `[3, 32, 32]`.

use std::path::{Path, PathBuf};

use image::RgbImage;
use rayon::prelude::*;

use super::Split;
use crate::{
    error::{Error, Result},
    preprocess,
};

const SIDE: usize = 32;
const RECORD: usize = 1 + 3 * SIDE * SIDE;
/// The official class names, for folders without `batches.meta.txt`.
const CLASSES: [&str; 10] =
    ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

/// The folder with the binary files: `folder` itself or `cifar-10-batches-bin` in it.
///
/// # Errors
/// [`Error::Io`] where `folder` cannot be read at all.
pub(super) fn root(folder: &Path) -> Result<Option<PathBuf>> {
    std::fs::read_dir(folder).map_err(Error::io("read", folder))?;
    let nested = folder.join("cifar-10-batches-bin");
    let has_files =
        |folder: &Path| folder.join("test_batch.bin").is_file() || folder.join("data_batch_1.bin").is_file();
    Ok([folder.to_owned(), nested].into_iter().find(|folder| has_files(folder)))
}

/// Class names, labels, and pictures as bytes `[N, 3, height, width]`.
pub(super) fn read(
    root: &Path,
    split: Split,
    height: usize,
    width: usize,
) -> Result<(Vec<String>, Vec<i64>, Vec<u8>)> {
    let names: Vec<String> = match split {
        Split::Train => (1..=5).map(|batch| format!("data_batch_{batch}.bin")).collect(),
        Split::Test => vec!["test_batch.bin".to_owned()],
    };
    let classes = class_names(root)?;
    let mut labels = Vec::new();
    let mut pictures = Vec::new();
    let mut files = names.iter().map(|name| root.join(name)).filter(|path| path.is_file()).peekable();
    if files.peek().is_none() {
        let reason = format!("it has no {}", names.join(", "));
        return Err(Error::Dataset { path: root.to_owned(), reason });
    }
    for path in files {
        let broken = |reason| Error::Dataset { path: path.clone(), reason };
        let bytes = std::fs::read(&path).map_err(Error::io("read", &path))?;
        if bytes.is_empty() || bytes.len() % RECORD != 0 {
            let length = bytes.len();
            return Err(broken(format!("{length} bytes are not a whole number of {RECORD}-byte records")));
        }
        for (index, record) in bytes.chunks_exact(RECORD).enumerate() {
            if usize::from(record[0]) >= classes.len() {
                let (label, classes) = (record[0], classes.len());
                return Err(broken(format!("record {index} has label {label} of {classes} classes")));
            }
            labels.push(i64::from(record[0]));
            pictures.extend_from_slice(&record[1..]);
        }
    }
    if (height, width) != (SIDE, SIDE) {
        pictures = pictures
            .par_chunks_exact(RECORD - 1)
            .flat_map_iter(|planes| preprocess::pixels(&interleaved(planes), height, width))
            .collect();
    }
    Ok((classes, labels, pictures))
}

fn class_names(root: &Path) -> Result<Vec<String>> {
    let path = root.join("batches.meta.txt");
    if !path.is_file() {
        return Ok(CLASSES.map(str::to_owned).to_vec());
    }
    let text = std::fs::read_to_string(&path).map_err(Error::io("read", &path))?;
    Ok(text.lines().map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect())
}

fn interleaved(planes: &[u8]) -> RgbImage {
    let plane = SIDE * SIDE;
    RgbImage::from_fn(SIDE as u32, SIDE as u32, |x, y| {
        let at = y as usize * SIDE + x as usize;
        image::Rgb([planes[at], planes[plane + at], planes[2 * plane + at]])
    })
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
        let (classes, labels, pixels) = read(&root, Split::Train, 32, 32).unwrap();
        assert_eq!((classes[3].as_str(), labels), ("cat", vec![3, 9, 0]));
        assert_eq!(pixels, [&record(3)[1..], &record(9)[1..], &record(0)[1..]].concat());

        // Rows 0..32 of a channel hold its offset plus the row: halved, pairs of rows meet.
        let (_, _, pixels) = read(&root, Split::Train, 16, 8).unwrap();
        assert_eq!(pixels.len(), 3 * 3 * 16 * 8);
        assert!((15..=17).contains(&pixels[8 * 8]) && (79..=81).contains(&pixels[2 * 16 * 8 + 8 * 8]));

        let error = read(&root, Split::Test, 32, 32).unwrap_err().to_string();
        assert!(error.contains("it has no test_batch.bin"), "{error}");
    }

    #[test]
    fn truncated_files_and_wrong_labels_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("test_batch.bin");
        let message = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            read(folder.path(), Split::Test, 32, 32).unwrap_err().to_string()
        };
        assert!(message(&record(1)[..3000]).contains("3000 bytes"));
        assert!(message(&[]).contains("0 bytes"));
        let wrong = message(&[record(1), record(10)].concat());
        assert!(wrong.contains("record 1 has label 10 of 10 classes"), "{wrong}");
        fs::write(folder.path().join("batches.meta.txt"), "left\nright\n\n").unwrap();
        assert!(message(&record(2)).contains("label 2 of 2 classes"));
    }
}
