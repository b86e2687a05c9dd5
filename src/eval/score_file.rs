//! Score files in CSV and NPZ, to exchange with other programs.
//!
//! One entry per image: `score` (larger = more likely unknown), `label` (the true class, negative for unknown
//! images) and, optionally, `prediction` (the predicted class). CSV has these as columns with a header,
//! separated by commas, semicolons or tabs, and may name the unknown set of an image in a column `set`. NPZ
//! (`numpy.savez`) has them as arrays of one shape and any numeric type. Files written here also have the
//! name of each image as `image`, in NPZ as UTF-8 bytes.

mod csv;
mod npz;

use std::{
    collections::HashMap,
    fs::File,
    io::{BufRead, BufReader},
    iter,
    path::Path,
};

use super::{Evaluation, Scored, TestScores};
use crate::{
    data::KNOWN,
    error::{Error, Result},
    files::{atomic, kind},
    method::RejectionScore,
};

/// The entry of one image.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry<'a> {
    /// The unknown set; empty if the file does not name it.
    pub set: &'a str,
    /// The name of the image, from CSV; empty if the file does not have it.
    pub image: &'a str,
    /// The true class; negative for unknown images.
    pub label: i64,
    /// The predicted class, if the file has it.
    pub prediction: Option<i64>,
    /// The rejection score; larger = more likely unknown. May be infinite.
    pub score: f64,
}

/// The unknown set of images that are not in a named one.
const UNNAMED: &str = "unknown";
/// The longest CSV header, in bytes.
const MAX_HEADER: u64 = 1 << 16;

/// Reads a file entry by entry, in constant memory unless arrays of several axes differ in memory order. NPZ
/// and CSV are told apart by content. `column` names the column or array of scores.
///
/// # Errors
/// [`Error::Io`], those of `take`, and [`Error::ScoreFile`] if the file is malformed or something else, lacks
/// a column or has it twice, if a score is NaN or a class not an integer, or, after the last entry, if no
/// label is negative or every label is.
pub fn read(path: &Path, column: &str, take: impl FnMut(Entry) -> Result<()>) -> Result<()> {
    read_labelled(path, column, take).map(drop)
}

/// [`read`]; returns whether the scores are in single precision.
fn read_labelled(path: &Path, column: &str, mut take: impl FnMut(Entry) -> Result<()>) -> Result<bool> {
    let (mut known, mut unknown) = (false, false);
    let is_single = read_entries(path, column, true, |entry| {
        *if entry.label < 0 { &mut unknown } else { &mut known } = true;
        take(entry)
    })?;
    let missing = match (known, unknown) {
        (true, true) => return Ok(is_single),
        (true, false) => "no label is negative: no unknown images",
        (false, true) => "every label is negative: no known images",
        (false, false) => "the file has no entries",
    };
    Err(broken(path, missing))
}

/// The contents of a file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ScoreSets {
    /// The known images and the unknown sets, these in the order of their first images. Images that are not in a
    /// named set are in `unknown`. A set has predictions for all of its images, or none.
    pub tested: TestScores,
    /// The known images that lack a prediction although others have one.
    pub unjudged: usize,
    /// Whether the scores are in single precision.
    pub is_single: bool,
}

impl ScoreSets {
    /// A threshold in the precision of the scores: a score that equals it is not above it, though both were rounded.
    #[must_use]
    pub fn threshold(&self, given: f64) -> f64 {
        if self.is_single { (given as f32).into() } else { given }
    }
}

/// Reads a whole file.
///
/// # Errors
/// Those of [`read`].
pub fn read_sets(path: &Path, column: &str) -> Result<ScoreSets> {
    let empty = |name: &str| Scored { name: name.to_owned(), ..Scored::default() };
    let mut tested = TestScores { known: empty(KNOWN), unknown: Vec::new() };
    let mut indices: HashMap<String, usize> = HashMap::new();
    let is_single = read_labelled(path, column, |entry| {
        let set = if entry.label >= 0 {
            &mut tested.known
        } else {
            let name = if entry.set.is_empty() { UNNAMED } else { entry.set };
            let index = indices.get(name).copied().unwrap_or_else(|| {
                indices.insert(name.to_owned(), tested.unknown.len());
                tested.unknown.push(empty(name));
                tested.unknown.len() - 1
            });
            &mut tested.unknown[index]
        };
        set.images.push(entry.image.to_owned());
        set.truth.push(entry.label);
        set.predicted.extend(entry.prediction);
        set.scores.push(entry.score);
        Ok(())
    })?;
    let Scored { predicted, scores, .. } = &tested.known;
    let unjudged = if predicted.is_empty() { 0 } else { scores.len() - predicted.len() };
    // Predictions for only some images cannot be assigned to them.
    for set in iter::once(&mut tested.known).chain(&mut tested.unknown) {
        if set.predicted.len() != set.scores.len() {
            set.predicted.clear();
        }
    }
    Ok(ScoreSets { tested, unjudged, is_single })
}

/// Reads the entries, or only their scores if they are not labelled. Returns whether the scores are in single
/// precision.
fn read_entries(
    path: &Path,
    column: &str,
    is_labelled: bool,
    take: impl FnMut(Entry) -> Result<()>,
) -> Result<bool> {
    let file = File::open(path).map_err(Error::io("read", path))?;
    let mut file = BufReader::with_capacity(MAX_HEADER as usize, file);
    let start = file.fill_buf().map_err(Error::io("read", path))?;
    if kind::is_zip(start) {
        npz::read(path, column, is_labelled, take)
    } else if let Some(what) = kind::of(start) {
        Err(broken(path, format!("it is {what}, expected CSV or NPZ")))
    } else {
        csv::read(path, file, column, is_labelled, take).map(|()| false)
    }
}

/// Reads only the scores, in order; the file needs nothing else. Otherwise as [`read`].
///
/// # Errors
/// [`Error::Io`]; [`Error::ScoreFile`], also if there are no entries.
pub fn read_scores(path: &Path, column: &str) -> Result<Vec<f64>> {
    let mut scores = Vec::new();
    read_entries(path, column, false, |entry| {
        scores.push(entry.score);
        Ok(())
    })?;
    if scores.is_empty() { Err(broken(path, "the file has no entries")) } else { Ok(scores) }
}

fn is_npz(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("npz"))
}

fn broken(path: &Path, reason: impl ToString) -> Error {
    Error::ScoreFile { path: path.to_owned(), reason: reason.to_string() }
}

/// The number as an integer, if it is one.
fn whole(number: f64) -> Option<i64> {
    (number.fract() == 0.0 && number.abs() < 9e15).then_some(number as i64)
}

/// Writes an evaluation as NPZ if the name ends in `.npz`, otherwise as CSV. The first score is the column or
/// array `score`; the others have their own names.
///
/// # Errors
/// [`Error::Io`].
pub fn write(path: &Path, evaluation: &Evaluation) -> Result<()> {
    let column = |(index, score): (usize, &RejectionScore)| match index {
        0 => "score".to_owned(),
        _ => score.to_string(),
    };
    let names: Vec<String> = evaluation.scores.iter().enumerate().map(column).collect();
    atomic::stream(path, |file| {
        if is_npz(path) { npz::write(file, &names, evaluation) } else { csv::write(file, &names, evaluation) }
    })
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Write};

    use npyz::NpyFile;
    use zip::{ZipArchive, ZipWriter, write::SimpleFileOptions};

    use super::{super::ScoredSet, *};
    use crate::{files::npz, method::LogitScore};

    type Owned = (String, i64, Option<i64>, f64);

    fn all(path: &Path, column: &str) -> Result<Vec<Owned>> {
        let mut entries = Vec::new();
        read(path, column, |Entry { set, label, prediction, score, .. }| {
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
            ..ScoredSet::default()
        }
    }

    fn evaluation(scores: &[RejectionScore], known: ScoredSet, unknown: Vec<ScoredSet>) -> Evaluation {
        Evaluation { scores: scores.to_vec(), decision: None, known, unknown, skipped: 0 }
    }

    #[test]
    fn written_files_are_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let written = evaluation(
            &[LogitScore::Cac.into(), LogitScore::MaxLogit.into()],
            set("known", &[2, 0], &[&[0.1, f32::INFINITY], &[-1.0, -2.0]]),
            vec![set("far, out", &[-1], &[&[0.25], &[-0.5]])],
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
            // 0.1 in single precision is above 0.1 in double precision.
            let sets = read_sets(&path, "score").unwrap();
            let threshold = sets.threshold(0.1);
            let kept: Vec<bool> = sets.tested.known.scores.iter().map(|&score| score <= threshold).collect();
            assert_eq!(kept, [true, false], "{name}");
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
    fn sets_are_read_in_the_order_of_their_first_images() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("scores.csv");
        let sets = |text: &str| {
            std::fs::write(&path, text).unwrap();
            read_sets(&path, "score").unwrap()
        };
        let ScoreSets { tested, unjudged, is_single } = sets(
            "set,image,label,prediction,score\n\
             far,f1,-1,2,0.5\nknown,k1,2,2,0.25\n,u1,-1,,0.75\nfar,f2,-3,1,1\nknown,k2,0,1,0.125\n,,-1,0,2\n",
        );
        let scored = |name: &str, images: &[&str], truth: &[i64], predicted: &[i64], scores: &[f64]| Scored {
            name: name.to_owned(),
            images: images.iter().map(|&image| image.to_owned()).collect(),
            truth: truth.to_vec(),
            predicted: predicted.to_vec(),
            scores: scores.to_vec(),
        };
        let expected = TestScores {
            known: scored("known", &["k1", "k2"], &[2, 0], &[2, 1], &[0.25, 0.125]),
            unknown: vec![
                scored("far", &["f1", "f2"], &[-1, -3], &[2, 1], &[0.5, 1.0]),
                scored("unknown", &["u1", ""], &[-1, -1], &[], &[0.75, 2.0]),
            ],
        };
        assert_eq!((tested, unjudged, is_single), (expected, 0, false));
        let ScoreSets { tested, unjudged, .. } = sets("label,prediction,score\n1,1,0\n1,,0\n0,,0\n-1,,1\n");
        assert_eq!((tested.known.predicted, unjudged), (vec![], 2));
        let ScoreSets { tested, unjudged, .. } = sets("label,score\n1,0\n-1,1\n");
        assert_eq!((tested.known.predicted, unjudged), (vec![], 0), "nobody expects an accuracy");
    }

    #[test]
    fn a_changed_byte_in_an_archive_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("scores.npz");
        let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
        let stored = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
        for (name, array) in
            [("score", npz::vector(vec![0.25, 0.5, 0.75])), ("label", npz::vector(vec![0_i64, 1, -1]))]
        {
            archive.start_file(format!("{name}.npy"), stored).unwrap();
            archive.write_all(&array.unwrap()).unwrap();
        }
        let mut bytes = archive.finish().unwrap().into_inner();
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(all(&path, "score").unwrap().len(), 3);
        let place = bytes.windows(8).position(|window| window == 0.5_f64.to_le_bytes()).unwrap();
        bytes[place + 6] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let error = all(&path, "score").unwrap_err().to_string();
        assert!(error.contains("checksum"), "{error}");
    }

    #[test]
    fn foreign_csv_files_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        let entries = [(String::new(), -1, None, 1000.0), (String::new(), 4, None, f64::INFINITY)];
        for text in [
            &b"label, score, note\n-1, 1e3, x\n 4, inf,\"y, z\"\n"[..],
            b"\xef\xbb\xbflabel,score\r\n-1,1e3\r\n4,inf\r\n",
            b"\xef\xbb\xbf\"label\";\"score\"\n\"-1\";\"1e3\"\n4;inf",
            b"score\tlabel\n1e3\t-1.0\ninf\t4.0\n",
            b"label,score\r-1,1e3\r4,inf\r",
            // Other columns may be anything, in any encoding.
            b"note,label,score,note\nK\xf6ln,-1,1e3,\n,4,inf,\n\n",
        ] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(all(&path, "score").unwrap(), entries, "{}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn labels_that_allow_no_metrics_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.csv");
        for (text, reason) in [
            ("label,score\n0,1\n1,2\n", "no label is negative: no unknown images"),
            ("label,score\n-1,1\n-2,2\n", "every label is negative: no known images"),
            ("label,score\n", "the file has no entries"),
        ] {
            std::fs::write(&path, text).unwrap();
            assert!(all(&path, "score").unwrap_err().to_string().ends_with(reason), "{reason}");
        }
    }

    #[test]
    fn endless_lines_are_refused_before_they_fill_memory() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.csv");
        let long = "b".repeat(2 << 20);
        let lines = "1,0,c\n".repeat(1 << 18);
        for text in [
            format!("label,score,{long}\n1,0,a\n-1,9,c\n"),
            format!("label,score,image\n1,0,\"a\n{lines}"),
            format!("label,score,image\n1,0,{long}\n-1,9,c\n"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = all(&path, "score").unwrap_err().to_string();
            assert!(error.ends_with("a line has more than 1048576 bytes: is a quote unclosed?"), "{error}");
            assert!(error.len() < 300);
        }
        std::fs::write(&path, format!("label,score,image\n{lines}-1,9,c\n")).unwrap();
        assert_eq!(all(&path, "score").unwrap().len(), (1 << 18) + 1);
    }

    #[test]
    fn errors_name_the_fault() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.csv");
        let message = |text: &[u8]| {
            std::fs::write(&path, text).unwrap();
            all(&path, "score").unwrap_err().to_string()
        };
        for (text, reason) in [
            (&b""[..], "it is empty"),
            (b"label,msp\n1,2\n", "it has no column `score`, only `label`, `msp`"),
            (b"score label\n1 2\n", "it has no column `score`, only `score label`"),
            (b"0.5,1\n0.7,-1\n", "it has no column `score`, only numbers: the line of names is missing"),
            (b"label,score,score\n1,2,3\n", "it has several columns `score`"),
            (b"label,score,set,set\n1,2,a,b\n", "it has several columns `set`"),
            (b"label,score\n1,2\n1,high\n", "line 3: `high` is not a number"),
            (b"label,score,image\n1,0,a\n1,0,\"b\n-1,9,c\n", "line 3: a value continues on the next line"),
            (b"label,score,image\n1,0,\"\n-1,9,\"c\"\n", "line 2: a value continues on the next line"),
            (b"label,score,image\r1,0,\"b\r-1,9,c\r", "a value continues on the next line"),
            (b"label,score,\"image\n1,0,a\n-1,9,c\n", "line 1: a value continues on the next line"),
            (b"label;score\n1;0,5\n", "line 2: `0,5` is not a number"),
            (b"label;score\r1;0,5\r", "`0,5` is not a number"),
            (b"label,score\n1,nan\n", "line 2: a score is NaN"),
            (
                b"label,score,set\n1,2,known\n-1,2,known\n",
                "line 3: the set is `known`, but the label is negative",
            ),
            (b"label,score\r\n1,2\r\n1,high\r\n", "line 3: `high` is not a number"),
            (b"label,score\n1.5,2\n", "line 2: `1.5` is not an integer"),
            (b"label,score\nnan,2\n", "line 2: `nan` is not an integer"),
            (b"label,score,prediction\n1,2,0.5\n", "line 2: `0.5` is not an integer"),
            (b"label,score,set\n1,2,K\xf6ln\n", "line 2: `K\u{fffd}ln` is not UTF-8"),
            (b"label,score\n1\n", "line 2: it has 1 values, expected 2"),
            (b"label,score\r\n1,2\r\n1,2,3\r\n", "line 3: it has 3 values, expected 2"),
            (b"\x1f\x8b\x08\0\0", "it is compressed with gzip"),
            (b"\x93NUMPY\x01\0", "it is a NumPy array (.npy), expected CSV or NPZ"),
            (b"\xff\xfel\0a\0b\0e\0l\0", "it is text in UTF-16, not UTF-8"),
            (b"l\0a\0b\0e\0l\0", "it is text in UTF-16, not UTF-8"),
            (b"<!DOCTYPE html>", "it is an HTML page"),
            (b"version https://git-lfs.github.com/spec/v1\n", "it is a Git LFS pointer"),
            (b"PAR1\0\0", "it is a Parquet file"),
            (b"{\"score\": [1]}", "it is a JSON document"),
        ] {
            assert!(message(text).contains(reason), "{}, {reason}", message(text));
        }
        let mut workbook = ZipWriter::new(File::create(&path).unwrap());
        workbook.start_file("xl/workbook.xml", SimpleFileOptions::default()).unwrap();
        workbook.finish().unwrap();
        assert!(all(&path, "score").unwrap_err().to_string().contains("it is an Excel workbook (.xlsx)"));
        assert!(matches!(all(&folder.path().join("none.csv"), "score"), Err(Error::Io { .. })));

        let path = folder.path().join("a.npz");
        // Headers that would make a literal parser hang.
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
        write(&path, &evaluation(&[LogitScore::Cac.into()], known.clone(), Vec::new())).unwrap();
        let error = all(&path, "msp").unwrap_err().to_string();
        assert!(error.contains("no array `msp`, only `image`, `label`, `prediction`, `score`"), "{error}");
        let bytes = std::fs::read(&path).unwrap();
        for length in [0, 10, bytes.len() / 2, bytes.len() - 1] {
            std::fs::write(&path, &bytes[..length]).unwrap();
            assert!(matches!(all(&path, "score"), Err(Error::ScoreFile { .. })), "{length} bytes");
        }
        known.truth.pop();
        write(&path, &evaluation(&[LogitScore::Cac.into()], known, Vec::new())).unwrap();
        let error = all(&path, "score").unwrap_err().to_string();
        assert!(error.contains("its arrays differ in shape: `score` [50], `label` [49]"), "{error}");
    }

    /// An NPZ file with these arrays: name, type, order, shape and bytes.
    fn save(path: &Path, arrays: &[(&str, &str, bool, &str, &[u8])]) {
        let mut archive = ZipWriter::new(File::create(path).unwrap());
        for (name, kind, is_fortran, shape, bytes) in arrays {
            archive.start_file(format!("{name}.npy"), SimpleFileOptions::default()).unwrap();
            let order = if *is_fortran { "True" } else { "False" };
            let head = format!("{{'descr': '{kind}', 'fortran_order': {order}, 'shape': {shape}, }}\n");
            let length = u16::try_from(head.len()).unwrap().to_le_bytes();
            archive.write_all(&[b"\x93NUMPY\x01\x00", &length[..], head.as_bytes(), bytes].concat()).unwrap();
        }
        archive.finish().unwrap();
    }

    #[test]
    fn arrays_of_every_order_and_type_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.npz");
        let pairs = |label: (&str, bool, &[u8]), score: (&str, bool, &[u8]), shape: &str| {
            let arrays = [("label", label), ("score", score)];
            save(&path, &arrays.map(|(name, (kind, order, bytes))| (name, kind, order, shape, bytes)));
            let entries = all(&path, "score").unwrap();
            entries.iter().map(|&(_, label, _, score)| (label, score)).collect::<Vec<_>>()
        };
        // [[0, 1, -1], [-2, 3, 4]] and the scores 0 to 5, each in row-major and in column-major order.
        let (c, fortran): (&[u8], &[u8]) = (&[0, 1, 255, 254, 3, 4], &[0, 254, 1, 3, 255, 4]);
        let (rising, columns): (&[u8], &[u8]) = (&[0, 1, 2, 3, 4, 5], &[0, 3, 1, 4, 2, 5]);
        let right = [(0, 0.0), (1, 1.0), (-1, 2.0), (-2, 3.0), (3, 4.0), (4, 5.0)];
        assert_eq!(pairs(("|i1", false, c), ("|u1", false, rising), "(2, 3)"), right);
        assert_eq!(pairs(("|i1", false, c), ("|u1", true, columns), "(2, 3)"), right);
        assert_eq!(pairs(("|i1", true, fortran), ("|u1", false, rising), "(2, 3)"), right);
        let mut same = pairs(("|i1", true, fortran), ("|u1", true, columns), "(2, 3)");
        same.sort_by(|a, b| a.1.total_cmp(&b.1));
        assert_eq!(same, right);
        for shape in ["(6,)", "(6, 1)", "(1, 6)", "(1, 6, 1)"] {
            for (one, other) in [(false, false), (false, true), (true, false), (true, true)] {
                assert_eq!(pairs(("|i1", one, c), ("|u1", other, rising), shape), right, "{shape}");
            }
        }
        let labels: (&str, bool, &[u8]) = (">i2", false, &[0, 5, 255, 255]);
        for (kind, bytes) in [
            (">f8", [1.5_f64, -2.0].map(f64::to_be_bytes).concat()),
            ("<f8", [1.5_f64, -2.0].map(f64::to_le_bytes).concat()),
            (">f4", [1.5_f32, -2.0].map(f32::to_be_bytes).concat()),
            ("<f2", vec![0x00, 0x3e, 0x00, 0xc0]),
            (">f2", vec![0x3e, 0x00, 0xc0, 0x00]),
        ] {
            assert_eq!(pairs(labels, (kind, false, &bytes), "(2,)"), [(5, 1.5), (-1, -2.0)], "{kind}");
        }
        assert_eq!(pairs(labels, ("|b1", false, &[1, 0]), "(2,)"), [(5, 1.0), (-1, 0.0)]);
    }

    #[test]
    fn unusable_arrays_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.npz");
        let message = |label: (&str, &str, &[u8]), score: (&str, bool, &str, &[u8])| {
            let label = ("label", label.0, false, label.1, label.2);
            save(&path, &[label, ("score", score.0, score.1, score.2, score.3)]);
            all(&path, "score").unwrap_err().to_string()
        };
        let one = ("|i1", "(1,)", &[1][..]);
        for (label, score, reason) in [
            (one, ("|u1", false, "(1, 1)", &[1][..]), "differ in shape: `score` [1, 1], `label` [1]"),
            (one, ("|u1", false, "()", &[1]), "differ in shape: `score` [], `label` [1]"),
            (("|i1", "()", &[1]), ("|u1", false, "()", &[1]), "no label is negative: no unknown images"),
            (("|i1", "(0,)", &[]), ("|u1", false, "(0,)", &[]), "the file has no entries"),
            (("|b1", "(1,)", &[1]), ("|u1", false, "(1,)", &[1]), "no label is negative: no unknown images"),
            (one, ("<f2", false, "(1,)", &[0, 0x7e]), "value 0 of `score`: a score is NaN"),
            (
                ("<f2", "(1,)", &[0, 0x3e]),
                ("|u1", false, "(1,)", &[1]),
                "value 0 of `label`: `1.5` is not an integer",
            ),
            (one, ("<U1", false, "(1,)", &[65, 0, 0, 0]), "array `score` has type '<U1', expected integers"),
            (one, ("|O", false, "(1,)", &[]), "array `score` has type '|O', expected integers"),
            (one, ("<c8", false, "(1,)", &[0; 8]), "array `score` has type '<c8', expected integers"),
            (
                ("|i1", "(4294967296, 4294967296)", &[1]),
                ("|u1", false, "(4294967296, 4294967296)", &[1]),
                "is larger than any file",
            ),
            (
                ("|i1", "(1048576, 1048576)", &[1]),
                ("|u1", true, "(1048576, 1048576)", &[1]),
                "array `score` is in Fortran order, unlike others, and too large",
            ),
            (("|i1", "(2, 4096)", &[1]), ("|u1", true, "(2, 4096)", &[1]), "failed to fill whole buffer"),
        ] {
            let message = message(label, score);
            assert!(message.contains(reason), "{message}, {reason}");
        }
    }
}
