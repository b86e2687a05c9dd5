//! Score files in CSV and NPZ, to exchange with other programs.
//!
//! One entry per image: `score` (larger = more likely unknown), `label` (the true class, negative for unknown
//! images) and, optionally, `prediction` (the predicted class). CSV has these as columns with a header, and
//! may name the unknown set of an image in a column `set`. NPZ (`numpy.savez`) has them as arrays of any
//! numeric type. Files written here also have the name of each image as `image`, in NPZ as UTF-8 bytes.

use std::{
    fs::File,
    io::{BufReader, Cursor, Read, Write},
    path::Path,
};

use npyz::{NpyFile, WriterBuilder};
use zip::{ZipArchive, ZipWriter, result::ZipError, write::SimpleFileOptions};

use super::atomic;
use crate::{
    error::{Error, Result},
    eval::{Evaluation, ScoredSet},
};

/// The entry of one image.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry<'a> {
    /// The unknown set; empty if the file does not name it.
    pub set: &'a str,
    /// The true class; negative for unknown images.
    pub label: i64,
    /// The predicted class, if the file has it.
    pub prediction: Option<i64>,
    /// The rejection score; larger = more likely unknown. May be infinite or NaN.
    pub score: f64,
}

/// Reads a file entry by entry, in constant memory. A name ending in `.npz` means NPZ, any other CSV.
/// `column` names the column or array of scores.
///
/// # Errors
/// [`Error::Io`], [`Error::ScoreFile`] if the file is malformed or lacks a column, and those of `take`.
pub fn read(path: &Path, column: &str, take: impl FnMut(Entry) -> Result<()>) -> Result<()> {
    let file = File::open(path).map_err(Error::io("read", path))?;
    if is_npz(path) { read_npz(path, column, take) } else { read_csv(path, file, column, take) }
}

fn is_npz(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("npz"))
}

fn broken(path: &Path, reason: impl ToString) -> Error {
    Error::ScoreFile { path: path.to_owned(), reason: reason.to_string() }
}

fn read_csv(path: &Path, file: File, column: &str, mut take: impl FnMut(Entry) -> Result<()>) -> Result<()> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(BufReader::new(file));
    let heads = reader.headers().map_err(|error| broken(path, error))?.clone();
    let place = |name: &str| heads.iter().position(|head| head == name);
    let needed = |name: &str| {
        let heads = || heads.iter().collect::<Vec<_>>().join(", ");
        place(name).ok_or_else(|| broken(path, format!("it has no column `{name}`, only {}", heads())))
    };
    let (score, label) = (needed(column)?, needed("label")?);
    let (prediction, set) = (place("prediction"), place("set"));
    let mut record = csv::StringRecord::new();
    while reader.read_record(&mut record).map_err(|error| broken(path, error))? {
        let wrong = |what: &str, text: &str| {
            let line = record.position().map_or(0, csv::Position::line);
            broken(path, format!("line {line}: `{text}` is not {what}"))
        };
        let class = |column: usize| {
            let number = record[column].parse().ok().and_then(whole);
            number.ok_or_else(|| wrong("an integer", &record[column]))
        };
        // Unknown images may have no prediction.
        let prediction = prediction.filter(|&prediction| !record[prediction].is_empty());
        take(Entry {
            set: set.map_or("", |set| &record[set]),
            label: class(label)?,
            prediction: prediction.map(class).transpose()?,
            score: record[score].parse().map_err(|_| wrong("a number", &record[score]))?,
        })?;
    }
    Ok(())
}

fn read_npz(path: &Path, column: &str, mut take: impl FnMut(Entry) -> Result<()>) -> Result<()> {
    // An archive reads one entry at a time, but three arrays are read in step.
    let open = || {
        let file = File::open(path).map_err(Error::io("read", path))?;
        ZipArchive::new(BufReader::new(file)).map_err(|error| broken(path, error))
    };
    let mut archives = [open()?, open()?, open()?];
    let [scores, labels, predictions] = &mut archives;
    let missing = |name: &str| broken(path, format!("it has no array `{name}`"));
    let mut scores = array(path, scores, column)?.ok_or_else(|| missing(column))?;
    let mut labels = array(path, labels, "label")?.ok_or_else(|| missing("label"))?;
    let mut predictions = array(path, predictions, "prediction")?;
    let class = |value: f64| whole(value).ok_or_else(|| broken(path, format!("`{value}` is not an integer")));
    loop {
        let prediction = predictions.as_mut().map(Iterator::next);
        let (score, label, prediction) = match (scores.next(), labels.next(), prediction) {
            (None, None, None | Some(None)) => return Ok(()),
            (Some(score), Some(label), None) => (score?, label?, None),
            (Some(score), Some(label), Some(Some(prediction))) => (score?, label?, Some(prediction?)),
            _ => return Err(broken(path, "its arrays differ in length")),
        };
        take(Entry { set: "", label: class(label)?, prediction: prediction.map(class).transpose()?, score })?;
    }
}

/// The number as an integer, if it is one.
fn whole(number: f64) -> Option<i64> {
    (number.fract() == 0.0 && number.abs() < 9e15).then_some(number as i64)
}

type Numbers<'a> = Box<dyn Iterator<Item = Result<f64>> + 'a>;

/// The numbers of the array with this name, if there is one.
fn array<'a>(
    path: &'a Path,
    archive: &'a mut ZipArchive<BufReader<File>>,
    name: &str,
) -> Result<Option<Numbers<'a>>> {
    let mut entry = match archive.by_name(&format!("{name}.npy")) {
        Err(ZipError::FileNotFound) => return Ok(None),
        entry => entry.map_err(|error| broken(path, error))?,
    };
    let head = npy_head(&mut entry).map_err(|error| broken(path, error))?;
    // npyz's parser of Python literals hangs on nested ones. The header of a numeric array is one dictionary
    // with one tuple.
    let text = &head[if head[6] > 1 { 12 } else { 10 }..];
    let count = |byte: u8| text.iter().filter(|&&other| other == byte).count();
    if count(b'[') > 0 || count(b'{') > 1 || count(b'(') > 1 {
        return Err(broken(path, format!("array `{name}` is not numeric")));
    }
    let file = NpyFile::new(Cursor::new(head).chain(entry)).map_err(|error| broken(path, error))?;
    let kind = match file.dtype() {
        npyz::DType::Plain(kind) => (kind.type_char().to_str(), kind.size_field()),
        _ => ("", 0),
    };
    match kind {
        ("f", 8) => numbers(path, file, |value: f64| value),
        ("f", 4) => numbers(path, file, |value: f32| value.into()),
        ("f", 2) => numbers(path, file, |value: npyz::half::f16| value.into()),
        ("i", 8) => numbers(path, file, |value: i64| value as f64),
        ("i", 4) => numbers(path, file, |value: i32| value.into()),
        ("i", 2) => numbers(path, file, |value: i16| value.into()),
        ("i", 1) => numbers(path, file, |value: i8| value.into()),
        ("u", 8) => numbers(path, file, |value: u64| value as f64),
        ("u", 4) => numbers(path, file, |value: u32| value.into()),
        ("u", 2) => numbers(path, file, |value: u16| value.into()),
        ("u", 1) => numbers(path, file, |value: u8| value.into()),
        _ => {
            let kind = file.dtype().descr();
            Err(broken(path, format!("array `{name}` has type {kind}, which is not numeric")))
        }
    }
    .map(Some)
}

/// The header of an NPY file: a magic string, the version, the length of the text, and the text.
fn npy_head(file: &mut impl Read) -> std::io::Result<Vec<u8>> {
    let mut head = vec![0; 10];
    file.read_exact(&mut head)?;
    let mut length = usize::from(u16::from_le_bytes([head[8], head[9]]));
    if head[6] > 1 {
        let mut high = [0; 2];
        file.read_exact(&mut high)?;
        head.extend(high);
        length += usize::from(u16::from_le_bytes(high)) << 16;
    }
    if length > 1 << 16 {
        return Err(std::io::Error::other("its header is too long"));
    }
    let start = head.len();
    head.resize(start + length, 0);
    file.read_exact(&mut head[start..])?;
    Ok(head)
}

fn numbers<'a, T: npyz::Deserialize + 'a>(
    path: &'a Path,
    file: NpyFile<impl Read + 'a>,
    number: fn(T) -> f64,
) -> Result<Numbers<'a>> {
    let values = file.data::<T>().map_err(|error| broken(path, error))?;
    Ok(Box::new(values.map(move |value| value.map(number).map_err(|error| broken(path, error)))))
}

/// Writes an evaluation as NPZ if the name ends in `.npz`, otherwise as CSV. The first score is the column or
/// array `score`; the others have their own names.
///
/// # Errors
/// [`Error::Io`].
pub fn write(path: &Path, evaluation: &Evaluation) -> Result<()> {
    let column = |(index, score): (usize, &crate::method::RejectionScore)| match index {
        0 => "score".to_owned(),
        _ => score.to_string(),
    };
    let names: Vec<String> = evaluation.scores.iter().enumerate().map(column).collect();
    let bytes = if is_npz(path) {
        npz(&names, &evaluation.sets).map_err(Error::io("write", path))?
    } else {
        csv(&names, &evaluation.sets)
    };
    atomic::write(path, &bytes)
}

fn csv(names: &[String], sets: &[ScoredSet]) -> Vec<u8> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let mut line = |cells: &mut dyn Iterator<Item = String>| {
        writer.write_record(cells).expect("all lines have the same length");
    };
    let heads = ["set", "image", "label", "prediction"].map(str::to_owned);
    line(&mut heads.into_iter().chain(names.iter().cloned()));
    for set in sets {
        for (index, (label, prediction)) in set.truth.iter().zip(&set.predicted).enumerate() {
            let image = set.images.get(index).cloned().unwrap_or_default();
            let first = [set.name.clone(), image, label.to_string(), prediction.to_string()];
            line(&mut first.into_iter().chain(set.scores.iter().map(|scores| scores[index].to_string())));
        }
    }
    writer.into_inner().expect("memory can be written")
}

fn npz(names: &[String], sets: &[ScoredSet]) -> std::io::Result<Vec<u8>> {
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    let mut add = |name: &str, array: std::io::Result<Vec<u8>>| {
        archive.start_file(format!("{name}.npy"), SimpleFileOptions::default())?;
        archive.write_all(&array?)
    };
    let images: Vec<&String> = sets.iter().flat_map(|set| &set.images).collect();
    add("image", texts(&images))?;
    add("label", npy(sets.iter().flat_map(|set| set.truth.iter().copied()).collect()))?;
    let predictions = sets.iter().flat_map(|set| set.predicted.iter().map(|&class| class as i64)).collect();
    add("prediction", npy::<i64>(predictions))?;
    for (index, name) in names.iter().enumerate() {
        add(name, npy(sets.iter().flat_map(|set| set.scores[index].iter().copied()).collect()))?;
    }
    Ok(archive.finish()?.into_inner())
}

/// A numeric array as an NPY file.
fn npy<T: npyz::AutoSerialize>(values: Vec<T>) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let options = npyz::WriteOptions::new().default_dtype().shape(&[values.len() as u64]);
    let mut writer = options.writer(&mut bytes).begin_nd()?;
    writer.extend(values)?;
    writer.finish()?;
    Ok(bytes)
}

/// An array of strings as an NPY file, each padded to the longest.
fn texts(values: &[&String]) -> std::io::Result<Vec<u8>> {
    let longest = values.iter().map(|text| text.len()).max().unwrap_or(0).max(1);
    let dtype = npyz::DType::Plain(format!("|S{longest}").parse().expect("a NumPy type"));
    let mut bytes = Vec::new();
    let options = npyz::WriteOptions::<[u8]>::new().dtype(dtype).shape(&[values.len() as u64]);
    let mut writer = options.writer(&mut bytes).begin_nd()?;
    for text in values {
        writer.push(text.as_bytes())?;
    }
    writer.finish()?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::method::RejectionScore;

    type Owned = (String, i64, Option<i64>, f64);

    fn all(path: &Path, column: &str) -> Result<Vec<Owned>> {
        let mut entries = Vec::new();
        read(path, column, |Entry { set, label, prediction, score }| {
            entries.push((set.to_owned(), label, prediction, score));
            Ok(())
        })?;
        Ok(entries)
    }

    fn set(name: &str, truth: &[i64], scores: &[&[f32]]) -> ScoredSet {
        ScoredSet {
            name: name.to_owned(),
            images: (0..truth.len()).map(|index| format!("{name}/{index}.jpg")).collect(),
            truth: truth.to_vec(),
            predicted: vec![2; truth.len()],
            scores: scores.iter().map(|scores| scores.to_vec()).collect(),
        }
    }

    fn evaluation(scores: &[RejectionScore], sets: Vec<ScoredSet>) -> Evaluation {
        Evaluation { scores: scores.to_vec(), decision: None, sets, skipped: 0 }
    }

    #[test]
    fn written_files_are_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let written = evaluation(
            &[RejectionScore::Cac, RejectionScore::MaxLogit],
            vec![
                set("known", &[2, 0], &[&[0.1, f32::INFINITY], &[-1.0, -2.0]]),
                set("far, out", &[-1], &[&[0.25], &[-0.5]]),
            ],
        );
        for name in ["scores.csv", "scores.npz"] {
            let path = folder.path().join(name);
            write(&path, &written).unwrap();
            let entries = all(&path, "score").unwrap();
            let labels: Vec<_> = entries.iter().map(|entry| (entry.1, entry.2)).collect();
            assert_eq!(labels, [(2, Some(2)), (0, Some(2)), (-1, Some(2))], "{name}");
            let scores: Vec<f32> = entries.iter().map(|entry| entry.3 as f32).collect();
            assert_eq!(scores, [0.1, f32::INFINITY, 0.25], "{name}");
            let others: Vec<f64> = all(&path, "max-logit").unwrap().iter().map(|entry| entry.3).collect();
            assert_eq!(others, [-1.0, -2.0, -0.5], "{name}");
            if name.ends_with("csv") {
                assert_eq!((entries[0].0.as_str(), entries[2].0.as_str()), ("known", "far, out"));
                let text = std::fs::read_to_string(&path).unwrap();
                assert!(
                    text.starts_with(
                        "set,image,label,prediction,score,max-logit\nknown,known/0.jpg,2,2,0.1,-1\n"
                    ),
                    "{text}"
                );
            } else {
                let mut archive = ZipArchive::new(File::open(&path).unwrap()).unwrap();
                let images = NpyFile::new(archive.by_name("image.npy").unwrap()).unwrap();
                let images: Vec<Vec<u8>> = images.into_vec().unwrap();
                assert_eq!(images, [&b"known/0.jpg"[..], b"known/1.jpg", b"far, out/0.jpg"]);
            }
        }
    }

    #[test]
    fn foreign_csv_files_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        std::fs::write(&path, "label, score, note\n-1, 1e3, x\n 4, inf,\"y, z\"\n").unwrap();
        let entries = all(&path, "score").unwrap();
        assert_eq!(entries, [(String::new(), -1, None, 1000.0), (String::new(), 4, None, f64::INFINITY)]);
    }

    #[test]
    fn errors_name_the_fault() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.csv");
        let message = |text: &str| {
            std::fs::write(&path, text).unwrap();
            all(&path, "score").unwrap_err().to_string()
        };
        assert!(message("").contains("no column `score`"));
        assert!(message("label,msp\n1,2\n").contains("no column `score`, only label, msp"));
        assert!(message("label,score\n1,2\n1,high\n").contains("line 3: `high` is not a number"));
        assert!(message("label,score\n1.5,2\n").contains("line 2: `1.5` is not an integer"));
        assert!(message("label,score\n1\n").contains("line: 2"));
        assert!(matches!(all(&folder.path().join("none.csv"), "score"), Err(Error::Io { .. })));

        let path = folder.path().join("a.npz");
        // Headers on which a parser of literals would hang.
        for head in ["{".repeat(40), format!("{{'shape': {}1{}}}", "(1,".repeat(40), ")".repeat(40))] {
            let mut archive = ZipWriter::new(File::create(&path).unwrap());
            for name in ["score.npy", "label.npy"] {
                archive.start_file(name, SimpleFileOptions::default()).unwrap();
                let length = u16::try_from(head.len()).unwrap().to_le_bytes();
                archive.write_all(&[b"\x93NUMPY\x01\x00", &length[..], head.as_bytes()].concat()).unwrap();
            }
            archive.finish().unwrap();
            assert!(all(&path, "score").unwrap_err().to_string().contains("is not numeric"));
        }
        let mut known = set("known", &[0; 50], &[&[1.0; 50]]);
        write(&path, &evaluation(&[RejectionScore::Cac], vec![known.clone()])).unwrap();
        assert!(all(&path, "msp").unwrap_err().to_string().contains("no array `msp`"));
        let bytes = std::fs::read(&path).unwrap();
        for length in [0, 10, bytes.len() / 2, bytes.len() - 1] {
            std::fs::write(&path, &bytes[..length]).unwrap();
            assert!(matches!(all(&path, "score"), Err(Error::ScoreFile { .. })), "{length} bytes");
        }
        known.truth.pop();
        write(&path, &evaluation(&[RejectionScore::Cac], vec![known])).unwrap();
        assert!(all(&path, "score").unwrap_err().to_string().contains("differ in length"));
    }
}
