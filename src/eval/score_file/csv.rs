//! Score files in CSV.

use std::{
    cell::Cell,
    io::{self, BufRead, Cursor, Read},
    path::Path,
};

use csv::ByteRecord;

use super::{super::Evaluation, Entry, MAX_HEADER, broken, whole};
use crate::{
    data::KNOWN,
    error::{Error, Result},
    files::atomic::Unfinished,
    text::{few, on_one_line},
};

/// The longest line, in bytes.
const MAX_LINE: u64 = 1 << 20;

/// Reads the entries, or only their scores if they are not labelled.
pub(super) fn read(
    path: &Path,
    mut file: impl BufRead,
    column: &str,
    is_labelled: bool,
    mut take: impl FnMut(Entry) -> Result<()>,
) -> Result<()> {
    let left = Cell::new(MAX_LINE);
    let mut header = Vec::new();
    file.by_ref().take(MAX_HEADER).read_until(b'\n', &mut header).map_err(Error::io("read", path))?;
    // The reader leaves the second byte of a line's end to the next record, which counts it as another line.
    let ahead = u64::from(header.ends_with(b"\r\n"));
    // Lines may end in a carriage return alone.
    let names = header.split(|byte| b"\r\n".contains(byte)).next().unwrap_or_default();
    let delimiter = [b',', b';', b'\t'].into_iter().find(|delimiter| names.contains(delimiter));
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(delimiter.unwrap_or(b','))
        .from_reader(Limited { inner: Cursor::new(header).chain(file), left: &left });
    let at = |line: u64, reason: String| broken(path, format!("line {line}: {reason}"));
    let mut heads = reader.byte_headers().map_err(|error| broken(path, error))?.clone();
    check_lines(&heads).map_err(|reason| at(1, reason))?;
    heads.trim();
    let columns = Columns::find(&heads, column, is_labelled).map_err(|reason| broken(path, reason))?;
    let mut record = ByteRecord::new();
    left.set(MAX_LINE);
    let failed = |error: csv::Error| match error.kind() {
        csv::ErrorKind::UnequalLengths { pos: Some(position), expected_len, len } => {
            at(position.line() + ahead, format!("it has {len} values, expected {expected_len}"))
        }
        _ => broken(path, error),
    };
    while reader.read_byte_record(&mut record).map_err(failed)? {
        left.set(MAX_LINE);
        let line = record.position().map_or(0, csv::Position::line) + ahead;
        check_lines(&record).map_err(|reason| at(line, reason))?;
        record.trim();
        take(columns.entry(&record).map_err(|reason| at(line, reason))?)?;
    }
    Ok(())
}

/// Writes the scores with these names: one line per image, as the reader requires.
pub(super) fn write(file: &mut Unfinished, names: &[String], evaluation: &Evaluation) -> io::Result<()> {
    let mut writer = csv::Writer::from_writer(file);
    let mut line = |cells: &mut dyn Iterator<Item = String>| writer.write_record(cells);
    let heads = ["set", "image", "label", "prediction"].map(str::to_owned);
    line(&mut heads.into_iter().chain(names.iter().cloned()))?;
    for set in evaluation.sets() {
        for (index, (label, prediction)) in set.truth.iter().zip(&set.predicted).enumerate() {
            let image = set.images.get(index).cloned().unwrap_or_default();
            let [name, image] = [&set.name, &image].map(|name| on_one_line(name));
            let first = [name, image, label.to_string(), prediction.to_string()];
            line(&mut first.into_iter().chain(set.scores.iter().map(|scores| scores[index].to_string())))?;
        }
    }
    writer.flush()
}

/// Checks that no value spans several lines: an unclosed quote would silently swallow them.
fn check_lines(values: &ByteRecord) -> Result<(), String> {
    if values.iter().flatten().any(|byte| b"\r\n".contains(byte)) {
        return Err("a value continues on the next line: is a quote unclosed?".to_owned());
    }
    Ok(())
}

/// Where the values of an entry are in a line.
struct Columns {
    score: usize,
    label: Option<usize>,
    prediction: Option<usize>,
    set: Option<usize>,
    image: Option<usize>,
}

impl Columns {
    /// Finds the columns by their names; returns what is wrong with these, if anything.
    fn find(heads: &ByteRecord, score: &str, is_labelled: bool) -> Result<Self, String> {
        let find = |name: &str| {
            let mut found = (0..heads.len()).filter(|&column| &heads[column] == name.as_bytes());
            match (found.next(), found.next()) {
                (_, Some(_)) => Err(format!("it has several columns `{name}`")),
                (column, None) => Ok(column),
            }
        };
        let needed = |name: &str| {
            find(name)?.ok_or_else(|| {
                let heads: Vec<String> =
                    heads.iter().map(|head| String::from_utf8_lossy(head).into_owned()).collect();
                let found = if heads.iter().all(|head| head.parse::<f64>().is_ok()) {
                    "numbers: the line of names is missing".to_owned()
                } else {
                    few(heads.iter().map(String::as_str))
                };
                format!("it has no column `{name}`, only {found}")
            })
        };
        let labelled = |name: &str| if is_labelled { find(name) } else { Ok(None) };
        Ok(Self {
            score: needed(score)?,
            label: is_labelled.then(|| needed("label")).transpose()?,
            prediction: labelled("prediction")?,
            set: labelled("set")?,
            // Names are for people: the scores are read whatever is wrong with them.
            image: find("image").ok().flatten(),
        })
    }

    /// The entry of a line, or what is wrong with it.
    fn entry<'a>(&self, record: &'a ByteRecord) -> Result<Entry<'a>, String> {
        let wrong = |column: usize, what: &str| {
            format!("`{}` is not {what}", on_one_line(&String::from_utf8_lossy(&record[column])))
        };
        let text = |column: usize| str::from_utf8(&record[column]).map_err(|_| wrong(column, "UTF-8"));
        let number = |column: usize| text(column).ok()?.parse::<f64>().ok();
        let class = |column: usize| number(column).and_then(whole).ok_or_else(|| wrong(column, "an integer"));
        let score = number(self.score).ok_or_else(|| wrong(self.score, "a number"))?;
        if score.is_nan() {
            return Err("a score is NaN".to_owned());
        }
        let set = self.set.map(text).transpose()?.unwrap_or_default();
        let label = self.label.map_or(Ok(0), class)?;
        if label < 0 && set == KNOWN {
            return Err(format!("the set is `{KNOWN}`, but the label is negative"));
        }
        // Unknown images may have no prediction.
        let prediction = self.prediction.filter(|&prediction| !record[prediction].is_empty());
        let image = self.image.and_then(|image| text(image).ok()).unwrap_or_default();
        Ok(Entry { set, image, label, prediction: prediction.map(class).transpose()?, score })
    }
}

/// Fails once more bytes are read than a line may have; `left` is reset for each line.
struct Limited<'a, R> {
    inner: R,
    left: &'a Cell<u64>,
}

impl<R: Read> Read for Limited<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left.get() == 0 {
            let reason = format!("a line has more than {MAX_LINE} bytes: is a quote unclosed?");
            return Err(io::Error::other(reason));
        }
        let count = self.inner.read(buffer)?;
        self.left.set(self.left.get().saturating_sub(count as u64));
        Ok(count)
    }
}
