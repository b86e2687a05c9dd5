//! Files: atomic writes, downloads, archives, checksums, signatures and score files.

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
pub mod scores;
#[cfg(feature = "files")]
pub mod signature;

pub use atomic::{check_writable, check_writable_folder};
#[cfg(feature = "files")]
pub use checksum::sha256;
