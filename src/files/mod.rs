//! Files: atomic writes, downloads, archives, checksums, signatures, and formats that several
//! modules read.

#[cfg(feature = "files")]
pub mod archive;
pub(crate) mod atomic;
pub(crate) mod cache;
#[cfg(feature = "files")]
pub(crate) mod checksum;
#[cfg(feature = "files")]
pub(crate) mod download;
pub(crate) mod kind;
#[cfg(feature = "files")]
pub(crate) mod npy;
#[cfg(feature = "files")]
pub(crate) mod npz;
#[cfg(feature = "files")]
pub(crate) mod pickle;
#[cfg(feature = "files")]
pub mod signature;

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

/// The bytes of a file; `None` if there are more than `most`, which a pipe shows only as it is read.
pub(crate) fn read_at_most(path: &Path, most: u64) -> io::Result<Option<Vec<u8>>> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    if length > most {
        return Ok(None);
    }
    // Such a file may be larger than the memory.
    let mut bytes = Vec::new();
    let length = usize::try_from(length).map_err(|_| io::ErrorKind::OutOfMemory)?;
    bytes.try_reserve_exact(length)?;
    file.take(most + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= most).then_some(bytes))
}

pub use atomic::{check_writable, check_writable_folder, destination, folder_of};
#[cfg(feature = "files")]
pub use checksum::sha256;
