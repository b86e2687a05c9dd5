//! Recognises files by their content, so that an error can say what a file really is.

use std::io::{self, Read};

/// The number of bytes at the start of a file that [`of`] looks at.
pub(crate) const START: usize = 512;

/// The first bytes of a gzip file.
pub(crate) const GZIP: &[u8] = b"\x1f\x8b";

/// The first bytes of binary formats.
const MAGIC: [(&[u8], &str); 25] = [
    (GZIP, "compressed with gzip"),
    (b"BZh", "compressed with bzip2"),
    (b"\xfd7zXZ\0", "compressed with xz"),
    (b"\x28\xb5\x2f\xfd", "compressed with Zstandard"),
    (b"\x04\x22\x4d\x18", "compressed with LZ4"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"PK\x05\x06", "an empty ZIP archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes"),
    (b"\x93NUMPY", "a NumPy array (.npy)"),
    (b"PAR1", "a Parquet file"),
    (b"ARROW1", "an Arrow file"),
    (b"FEA1", "a Feather file"),
    (b"GGUF", "a GGUF file"),
    (b"SQLite format 3\0", "an SQLite database"),
    (b"MATLAB 5.0", "a MATLAB file (.mat)"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an Office document, such as an Excel workbook (.xls)"),
    (b"%PDF", "a PDF document"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"\xff\xfe", "text in UTF-16, not UTF-8"),
    (b"\xfe\xff", "text in UTF-16, not UTF-8"),
    (b"\x7fELF", "a program"),
];

/// The first words of a Git LFS pointer, in lower case.
const GIT_LFS: &str = "version https://git-lfs";

/// The first words of pages, in lower case.
const WORDS: [(&str, &str); 5] = [
    ("<!doctype html", "an HTML page"),
    ("<html", "an HTML page"),
    ("<head", "an HTML page"),
    ("<!--", "an HTML or XML page"),
    ("<?xml", "an XML document"),
];

/// The magic number of PyTorch's format before 1.6, as a pickled ten-byte integer.
const PYTORCH: [u8; 12] = [0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// Whether the bytes begin like PyTorch's format before 1.6, in any pickle protocol.
pub(crate) fn is_legacy_pytorch(bytes: &[u8]) -> bool {
    bytes.first() == Some(&0x80) && start(bytes, 32).windows(PYTORCH.len()).any(|window| window == PYTORCH)
}

/// Whether the bytes begin like a ZIP archive, which PyTorch's format has been since 1.6.
pub(crate) fn is_zip(bytes: &[u8]) -> bool {
    bytes.starts_with(b"PK\x03\x04")
}

/// What a file is, if its first [`START`] bytes show it: a phrase that completes `it is`.
pub(crate) fn of(bytes: &[u8]) -> Option<&'static str> {
    if let Some((_, what)) = MAGIC.iter().find(|(magic, _)| bytes.starts_with(magic)) {
        return Some(what);
    }
    match bytes {
        _ if text(bytes).starts_with(GIT_LFS) => Some("a Git LFS pointer, not the file that it stands for"),
        _ if is_legacy_pytorch(bytes) => Some("a PyTorch file"),
        _ if is_tar(bytes) => Some("a tar archive"),
        [0x80, 2..=5, ..] => Some("a pickle that torch.save did not write"),
        [_, _, _, _, b'T', b'F', b'L', b'3', ..] => Some("a TensorFlow Lite model"),
        // The field `ir_version`, and the tag of a field of an ONNX model.
        [8, 1..=20, 0x12 | 0x1a | 0x22 | 0x28 | 0x32 | 0x3a | 0x42, ..] => Some("an ONNX model"),
        // ASCII in two bytes, without a byte order mark.
        [first, 0, second, 0, ..] | [0, first, 0, second, ..] if *first > 8 && *second > 8 => {
            Some("text in UTF-16, not UTF-8")
        }
        _ => page(bytes),
    }
}

/// What servers send instead of a file, if its first [`START`] bytes show it: a page, a document that states
/// an error, or nothing. A phrase like that of [`of`].
pub(crate) fn page(bytes: &[u8]) -> Option<&'static str> {
    let text = text(bytes);
    if let Some((_, what)) = WORDS.iter().find(|(words, _)| text.starts_with(words)) {
        return Some(what);
    }
    let pointed = |open: char| text.strip_prefix(open).and_then(|rest| rest.trim_start().chars().next());
    let is_json = pointed('{').is_some_and(|next| "\"}".contains(next))
        || pointed('[').is_some_and(|next| "\"{[]".contains(next));
    if bytes.is_empty() {
        Some("empty")
    } else if pointed('<').is_some_and(char::is_alphabetic) {
        Some("an XML document")
    } else {
        is_json.then_some("a JSON document")
    }
}

/// The start of a file as text in lower case, without leading white space.
fn text(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(start(bytes, START)).to_lowercase();
    text.trim_start_matches('\u{feff}').trim_start().to_owned()
}

/// The first [`START`] bytes, or all if there are fewer.
pub(crate) fn first_bytes(reader: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(START);
    reader.take(START as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What a ZIP archive with entries of these names is: a phrase that completes `it is`.
#[cfg(feature = "files")]
pub(crate) fn of_archive(names: &[&str]) -> String {
    let has = |test: fn(&str) -> bool| names.iter().any(|name| test(name));
    if has(|name| name.ends_with("/constants.pkl")) {
        "a TorchScript archive".to_owned()
    } else if has(|name| {
        name.ends_with("serialized_exported_program.json") || name.ends_with("/archive_format")
    }) {
        "a program that torch.export wrote".to_owned()
    } else if has(|name| name == "xl/workbook.xml") {
        "an Excel workbook (.xlsx)".to_owned()
    } else if has(|name| name == "model.weights.h5") {
        "a Keras model".to_owned()
    } else if has(|name| name.ends_with(".npy")) {
        "a NumPy archive (.npz)".to_owned()
    } else {
        format!("a ZIP archive of {}", crate::text::few(names.iter().copied()))
    }
}

/// Whether the first block is the header of a tar archive, of any age: its checksum is right.
pub(crate) fn is_tar(bytes: &[u8]) -> bool {
    const CHECKSUM: std::ops::Range<usize> = 148..156;
    let Some(header) = bytes.get(..512) else { return false };
    let digits = String::from_utf8_lossy(&header[CHECKSUM]);
    let stated = u32::from_str_radix(digits.trim_matches([' ', '\0']), 8);
    // The checksum's own bytes count as spaces.
    let sum = |at: usize| if CHECKSUM.contains(&at) { b' ' } else { header[at] };
    stated == Ok((0..header.len()).map(|at| u32::from(sum(at))).sum())
}

fn start(bytes: &[u8], length: usize) -> &[u8] {
    &bytes[..length.min(bytes.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_detected_by_content() {
        let old_tar = {
            // An old tar archive, without the POSIX magic.
            let mut header = vec![0; 512];
            header[..8].copy_from_slice(b"sys_info");
            header[100..107].copy_from_slice(b"0000644");
            let sum = header.iter().map(|&byte| u32::from(byte)).sum::<u32>() + 8 * u32::from(b' ');
            header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
            header
        };
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let onnx = std::fs::read(root.join("exported/cifar10-cifar-net.onnx")).unwrap();
        for (bytes, what) in [
            (&b""[..], "empty"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer"),
            (b"\n <!DOCTYPE html><html>", "an HTML page"),
            (b"\xef\xbb\xbf<HTML>", "an HTML page"),
            (b"<?xml version=\"1.0\"?><Error>", "an XML document"),
            (b"<Error><Code>AccessDenied</Code>", "an XML document"),
            (b"{\"error\": 404}", "a JSON document"),
            (b"[\n  {}]", "a JSON document"),
            (b"\x1f\x8b\x08\0", "compressed with gzip"),
            (b"\x89HDF\r\n\x1a\n\0", "an HDF5 file"),
            (b"\x80\x04\x95\0", "a pickle"),
            (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "a PyTorch file"),
            (b"\x80\x04\x95\x0d\0\0\0\0\0\0\0\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "a PyTorch file"),
            (b"\xff\xfes\0c\0", "text in UTF-16"),
            (b"s\0c\0o\0", "text in UTF-16"),
            (b"\0s\0c\0o", "text in UTF-16"),
            (&old_tar, "a tar archive"),
            (&onnx, "an ONNX model"),
        ] {
            let found = of(bytes);
            assert!(found.is_some_and(|found| found.starts_with(what)), "{found:?}, {what}");
        }
        for bytes in [&b"score,label\n"[..], b"1,2\n", b"{x", b"< 3", b"\0\0\0\0"] {
            assert_eq!(of(bytes), None);
        }
    }
}
