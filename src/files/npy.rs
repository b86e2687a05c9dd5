//! The header of NumPy's arrays in NPY format.

use std::io::{self, Read};

use npyz::{DType, NpyFile, NpyHeader};

/// The longest header that is read, in bytes.
const MAX_HEADER: usize = 1 << 16;

/// Why an array cannot be read.
pub(crate) enum Refusal {
    /// Its bytes cannot be read or understood.
    Broken(io::Error),
    /// A phrase that follows its name.
    Unfit(&'static str),
}

/// Reads the header of an array; its values follow.
pub(crate) fn open<R: Read>(mut reader: R) -> Result<NpyFile<R>, Refusal> {
    let head = head(&mut reader).map_err(Refusal::Broken)?;
    // npyz's parser of Python literals hangs on nested ones, and it multiplies the lengths without a check.
    // The header of an array of numbers or texts is one dictionary with one tuple.
    let text = String::from_utf8_lossy(&head[if head[6] > 1 { 12 } else { 10 }..]);
    let count = |bracket: char| text.matches(bracket).count();
    if count('[') > 0 || count('{') > 1 || count('(') > 1 {
        return Err(Refusal::Unfit("is not numeric"));
    }
    let lengths =
        text.split_once('(').and_then(|(_, rest)| rest.split_once(')')).map_or("", |(shape, _)| shape);
    let mut count: u64 = 1;
    for length in lengths.split(',').map(str::trim).filter(|length| !length.is_empty()) {
        // npyz reads other literals, such as 0x10, as Python does.
        let length: u64 = length.parse().map_err(|_| Refusal::Unfit("has a length that is not a number"))?;
        count = count.saturating_mul(length.max(1));
    }
    if count > 1 << 48 {
        return Err(Refusal::Unfit("is larger than any file"));
    }
    let header = NpyHeader::from_reader(&head[..]).map_err(Refusal::Broken)?;
    Ok(NpyFile::with_header(header, reader))
}

/// The letter of a type and its size, in bytes or, for texts, in characters; empty for records.
pub(crate) fn kind(dtype: &DType) -> (&'static str, u64) {
    match dtype {
        DType::Plain(kind) => (kind.type_char().to_str(), kind.size_field()),
        _ => ("", 0),
    }
}

/// The bytes of the header: a magic string, the version, the length of the text, and the text.
fn head(file: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut head = vec![0; 10];
    file.read_exact(&mut head)?;
    let mut length = usize::from(u16::from_le_bytes([head[8], head[9]]));
    if head[6] > 1 {
        let mut high = [0; 2];
        file.read_exact(&mut high)?;
        head.extend(high);
        length += usize::from(u16::from_le_bytes(high)) << 16;
    }
    if length > MAX_HEADER {
        return Err(io::Error::other("its header is too long"));
    }
    let start = head.len();
    head.resize(start + length, 0);
    file.read_exact(&mut head[start..])?;
    Ok(head)
}
