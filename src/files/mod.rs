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

pub use atomic::{check_writable, check_writable_folder};
#[cfg(feature = "files")]
pub use checksum::sha256;
