//! SHA-256 checksums.

use std::{fs, path::Path};

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// The SHA-256 in hexadecimal.
#[must_use]
pub fn of(bytes: &[u8]) -> String {
    hexadecimal(Sha256::new_with_prefix(bytes))
}

/// The SHA-256 of a file in hexadecimal.
///
/// # Errors
/// [`Error::Io`].
pub(crate) fn of_file(path: &Path) -> Result<String> {
    Ok(of(&fs::read(path).map_err(Error::io("read", path))?))
}

/// A finished SHA-256 in hexadecimal.
pub(crate) fn hexadecimal(sum: Sha256) -> String {
    sum.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
