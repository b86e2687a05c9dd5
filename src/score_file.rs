//! Scores in files, as other programs write and read them.
//!
//! One entry a picture: `score` (larger = more likely unknown), `label` (the true class, negative for unknown
//! pictures) and, where it is known, `prediction` (the class given). CSV has these as columns with a head
//! line, and may name the unknown set of a picture in a column `set`; NPZ (`numpy.savez`) has them as arrays
//! of any numeric type.

use std::{
    fs::File,
    io::{BufReader, Cursor, Read, Write},
    path::Path,
};

use npyz::{NpyFile, WriterBuilder};
use zip::{ZipArchive, ZipWriter, result::ZipError, write::SimpleFileOptions};

use crate::{
    atomic,
    cac::{Score, Scored},
    error::{Error, Result},
};

/// What a file says of one picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry<'a> {
    /// The unknown set; empty where the file does not say.
    pub set: &'a str,
    /// The true class; negative where it is none of the known ones.
    pub label: i64,
    /// The class given, where the file says.
    pub prediction: Option<i64>,
    /// The rejection score; larger = more likely unknown. May be infinite or NaN.
    pub score: f64,
}

/// What a model said of one set of pictures.
#[derive(Debug, Clone)]
pub struct Set<'a> {
    /// The set's name.
    pub name: &'a str,
    /// The true classes.
    pub labels: &'a [i64],
    /// For each score what the model said.
    pub scored: Vec<&'a Scored>,
}

/// Reads a file entry by entry, in memory that does not grow with it; a name that ends in `.npz` means NPZ,
/// any other CSV. `column` names the column or array of scores.
///
/// # Errors
/// [`Error::Io`], [`Error::ScoreFile`] where the file is malformed or lacks a column, and those of `take`.
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
            broken(path, format!("line {line}: `{text}` is not a {what}"))
        };
        let class = |column: usize| {
            let number = record[column].parse().ok().and_then(whole);
            number.ok_or_else(|| wrong("whole number", &record[column]))
        };
        // Nobody predicts a class of unknown pictures.
        let prediction = prediction.filter(|&prediction| !record[prediction].is_empty());
        take(Entry {
            set: set.map_or("", |set| &record[set]),
            label: class(label)?,
            prediction: prediction.map(class).transpose()?,
            score: record[score].parse().map_err(|_| wrong("number", &record[score]))?,
        })?;
    }
    Ok(())
}

fn read_npz(path: &Path, column: &str, mut take: impl FnMut(Entry) -> Result<()>) -> Result<()> {
    // An archive gives out one of its files at a time, and three are read side by side.
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
    let class =
        |value: f64| whole(value).ok_or_else(|| broken(path, format!("`{value}` is not a whole number")));
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

/// A whole number that is written as a number of any kind.
fn whole(number: f64) -> Option<i64> {
    (number.fract() == 0.0 && number.abs() < 9e15).then_some(number as i64)
}

type Numbers<'a> = Box<dyn Iterator<Item = Result<f64>> + 'a>;

/// The numbers of an array, if there is one with this name.
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
    // A parser of Python's literals takes for ever over nested ones, which no array of numbers has: its text is a
    // dictionary with a tuple in it.
    let text = &head[if head[6] > 1 { 12 } else { 10 }..];
    let count = |byte: u8| text.iter().filter(|&&other| other == byte).count();
    if count(b'[') > 0 || count(b'{') > 1 || count(b'(') > 1 {
        return Err(broken(path, format!("array `{name}` is not one of numbers")));
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
            Err(broken(path, format!("array `{name}` has type {kind}, which is no number")))
        }
    }
    .map(Some)
}

/// The start of an array's file up to its numbers: a magic text, the version, a length, and so much text.
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
        return Err(std::io::Error::other("its head is too long"));
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

/// Writes what a model said, as NPZ where the name ends in `.npz`, as CSV otherwise. The first score is the
/// column or array `score`, each further one is called by its own name.
///
/// # Errors
/// [`Error::Io`].
pub fn write(path: &Path, scores: &[Score], sets: &[Set]) -> Result<()> {
    let names: Vec<String> = scores.iter().enumerate().map(|(index, &score)| column(index, score)).collect();
    let bytes =
        if is_npz(path) { npz(&names, sets).map_err(Error::io("write", path))? } else { csv(&names, sets) };
    atomic::write(path, &bytes)
}

/// The column of a score in the order asked for.
fn column(index: usize, score: Score) -> String {
    if index == 0 { "score".to_owned() } else { score.to_string() }
}

fn csv(names: &[String], sets: &[Set]) -> Vec<u8> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let mut line = |cells: &mut dyn Iterator<Item = String>| {
        writer.write_record(cells).expect("memory takes every line, and all are of one length");
    };
    line(&mut ["set", "label", "prediction"].map(str::to_owned).into_iter().chain(names.iter().cloned()));
    for Set { name, labels, scored } in sets {
        for (index, label) in labels.iter().enumerate() {
            let prediction = scored.first().map_or(0, |scored| scored.labels[index]);
            let first = [(*name).to_owned(), label.to_string(), prediction.to_string()];
            line(&mut first.into_iter().chain(scored.iter().map(|scored| scored.scores[index].to_string())));
        }
    }
    writer.into_inner().expect("memory takes every line")
}

fn npz(names: &[String], sets: &[Set]) -> std::io::Result<Vec<u8>> {
    fn add<T: npyz::AutoSerialize + Copy>(
        archive: &mut ZipWriter<Cursor<Vec<u8>>>,
        name: &str,
        values: &[T],
    ) -> std::io::Result<()> {
        let mut bytes = Vec::new();
        let options = npyz::WriteOptions::new().default_dtype().shape(&[values.len() as u64]);
        let mut writer = options.writer(&mut bytes).begin_nd()?;
        writer.extend(values.iter().copied())?;
        writer.finish()?;
        archive.start_file(format!("{name}.npy"), SimpleFileOptions::default())?;
        archive.write_all(&bytes)
    }
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    let labels: Vec<i64> = sets.iter().flat_map(|set| set.labels).copied().collect();
    let of = |set: &Set| set.scored.first().map_or_else(Vec::new, |scored| scored.labels.clone());
    let predictions: Vec<i64> = sets.iter().flat_map(of).map(|label| label as i64).collect();
    add(&mut archive, "label", &labels)?;
    add(&mut archive, "prediction", &predictions)?;
    for (index, name) in names.iter().enumerate() {
        let scores: Vec<f32> = sets.iter().flat_map(|set| &set.scored[index].scores).copied().collect();
        add(&mut archive, name, &scores)?;
    }
    Ok(archive.finish()?.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    type Owned = (String, i64, Option<i64>, f64);

    fn all(path: &Path, column: &str) -> Result<Vec<Owned>> {
        let mut entries = Vec::new();
        read(path, column, |Entry { set, label, prediction, score }| {
            entries.push((set.to_owned(), label, prediction, score));
            Ok(())
        })?;
        Ok(entries)
    }

    #[test]
    fn what_is_written_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let scored = |scores: &[f32]| Scored { scores: scores.to_vec(), labels: vec![2; scores.len()] };
        let known = [scored(&[0.1, f32::INFINITY]), scored(&[-1.0, -2.0])];
        let unknown = [scored(&[0.25]), scored(&[-0.5])];
        let sets = [
            Set { name: "known", labels: &[2, 0], scored: known.iter().collect() },
            Set { name: "far, out", labels: &[-1], scored: unknown.iter().collect() },
        ];
        for name in ["scores.csv", "scores.npz"] {
            let path = folder.path().join(name);
            write(&path, &[Score::Cac, Score::MaxLogit], &sets).unwrap();
            let entries = all(&path, "score").unwrap();
            let labels: Vec<_> = entries.iter().map(|entry| (entry.1, entry.2)).collect();
            assert_eq!(labels, [(2, Some(2)), (0, Some(2)), (-1, Some(2))], "{name}");
            let scores: Vec<f32> = entries.iter().map(|entry| entry.3 as f32).collect();
            assert_eq!(scores, [0.1, f32::INFINITY, 0.25], "{name}");
            let others: Vec<f64> = all(&path, "max-logit").unwrap().iter().map(|entry| entry.3).collect();
            assert_eq!(others, [-1.0, -2.0, -0.5], "{name}");
            if name.ends_with("csv") {
                assert_eq!((entries[0].0.as_str(), entries[2].0.as_str()), ("known", "far, out"));
            }
        }
    }

    #[test]
    fn tables_of_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        std::fs::write(&path, "label, score, note\n-1, 1e3, x\n 4, inf,\"y, z\"\n").unwrap();
        let entries = all(&path, "score").unwrap();
        assert_eq!(entries, [(String::new(), -1, None, 1000.0), (String::new(), 4, None, f64::INFINITY)]);
    }

    #[test]
    fn faults_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.csv");
        let message = |text: &str| {
            std::fs::write(&path, text).unwrap();
            all(&path, "score").unwrap_err().to_string()
        };
        assert!(message("").contains("no column `score`"));
        assert!(message("label,msp\n1,2\n").contains("no column `score`, only label, msp"));
        assert!(message("label,score\n1,2\n1,high\n").contains("line 3: `high` is not a number"));
        assert!(message("label,score\n1.5,2\n").contains("line 2: `1.5` is not a whole number"));
        assert!(message("label,score\n1\n").contains("line: 2"));
        assert!(matches!(all(&folder.path().join("none.csv"), "score"), Err(Error::Io { .. })));

        let path = folder.path().join("a.npz");
        // Heads over which a parser of literals would sit for ever.
        for head in ["{".repeat(40), format!("{{'shape': {}1{}}}", "(1,".repeat(40), ")".repeat(40))] {
            let mut archive = ZipWriter::new(File::create(&path).unwrap());
            for name in ["score.npy", "label.npy"] {
                archive.start_file(name, SimpleFileOptions::default()).unwrap();
                let length = u16::try_from(head.len()).unwrap().to_le_bytes();
                archive.write_all(&[b"\x93NUMPY\x01\x00", &length[..], head.as_bytes()].concat()).unwrap();
            }
            archive.finish().unwrap();
            assert!(all(&path, "score").unwrap_err().to_string().contains("is not one of numbers"));
        }
        let known = Scored { scores: vec![1.0; 50], labels: vec![0; 50] };
        write(&path, &[Score::Cac], &[Set { name: "known", labels: &[0; 50], scored: vec![&known] }])
            .unwrap();
        assert!(all(&path, "msp").unwrap_err().to_string().contains("no array `msp`"));
        let bytes = std::fs::read(&path).unwrap();
        for length in [0, 10, bytes.len() / 2, bytes.len() - 1] {
            std::fs::write(&path, &bytes[..length]).unwrap();
            assert!(matches!(all(&path, "score"), Err(Error::ScoreFile { .. })), "{length} bytes");
        }
        write(&path, &[Score::Cac], &[Set { name: "known", labels: &[0; 49], scored: vec![&known] }])
            .unwrap();
        assert!(all(&path, "score").unwrap_err().to_string().contains("differ in length"));
    }
}
