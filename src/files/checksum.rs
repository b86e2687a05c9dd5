//! Checksums in hexadecimal.

use std::{
    fmt::Write,
    fs::File,
    io::{self, Read},
    path::Path,
};

use md5::Md5;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// The number of bytes of a file read at a time.
pub(crate) const BUFFER: usize = 1 << 16;

/// The SHA-256 in hexadecimal.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    hexadecimal(Sha256::new_with_prefix(bytes))
}

/// A finished checksum in hexadecimal.
pub(crate) fn hexadecimal(sum: impl Digest) -> String {
    sum.finalize().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The length and the checksums of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Checksums {
    /// The length in bytes.
    pub bytes: u64,
    pub md5: String,
    pub sha256: String,
}

impl Checksums {
    /// The length and checksums of a file, read in pieces.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn of_file(path: &Path) -> Result<Self> {
        let sum = || {
            let (mut md5, mut sha256, mut bytes) = (Md5::new(), Sha256::new(), 0);
            let (mut file, mut buffer) = (File::open(path)?, vec![0; BUFFER]);
            loop {
                let piece = match file.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(length) => &buffer[..length],
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => return Err(error),
                };
                md5.update(piece);
                sha256.update(piece);
                bytes += piece.len() as u64;
            }
            Ok(Self { bytes, md5: hexadecimal(md5), sha256: hexadecimal(sha256) })
        };
        sum().map_err(Error::io("read", path))
    }
}

/// The published length and checksums of a file; `None` where unknown.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Expected<'a> {
    /// The length in bytes.
    pub bytes: Option<u64>,
    pub md5: Option<&'a str>,
    pub sha256: Option<&'a str>,
    /// The first digits of the SHA-256.
    pub sha256_start: Option<&'a str>,
}

impl Expected<'_> {
    /// Whether a checksum of the file is known.
    pub fn is_checked(&self) -> bool {
        self.md5.is_some() || self.sha256.is_some() || self.sha256_start.is_some()
    }

    /// How a file differs, if it does: a phrase that begins with `it has`.
    pub fn fault(&self, found: &Checksums) -> Option<String> {
        if let Some(bytes) = self.bytes.filter(|&bytes| bytes != found.bytes) {
            return Some(format!("it has {} bytes, expected {bytes}", found.bytes));
        }
        if let Some(start) = self.sha256_start.filter(|&start| !found.sha256.starts_with(start)) {
            return Some(format!("it has SHA-256 {}, expected {start}...", found.sha256));
        }
        [("SHA-256", self.sha256, &found.sha256), ("MD5", self.md5, &found.md5)].into_iter().find_map(
            |(name, expected, found)| {
                let expected = expected.filter(|expected| expected != found)?;
                Some(format!("it has {name} {found}, expected {expected}"))
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_match_the_standards() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("abc");
        std::fs::write(&path, "abc").unwrap();
        let found = Checksums::of_file(&path).unwrap();
        // The examples of RFC 1321 and FIPS 180-4.
        assert_eq!(found.md5, "900150983cd24fb0d6963f7d28e17f72");
        assert_eq!(found.sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!((found.bytes, sha256(b"abc")), (3, found.sha256.clone()));

        let Checksums { md5, sha256, .. } = &found;
        let right =
            Expected { bytes: Some(3), md5: Some(md5), sha256: Some(sha256), sha256_start: Some("ba7816bf") };
        assert_eq!((right.fault(&found), Expected::default().fault(&found)), (None, None));
        let fault = |expected: Expected| expected.fault(&found).unwrap();
        assert_eq!(fault(Expected { bytes: Some(4), ..right }), "it has 3 bytes, expected 4");
        assert!(fault(Expected { md5: Some("0"), ..right }).starts_with("it has MD5 9001"));
        assert!(fault(Expected { sha256: Some("0"), ..right }).starts_with("it has SHA-256 ba78"));
        let other = fault(Expected { sha256_start: Some("ba7816b0"), ..right });
        assert!(
            other.starts_with("it has SHA-256 ba78") && other.ends_with(", expected ba7816b0..."),
            "{other}"
        );
    }
}
