//! Files: atomic writes, downloads, checksums and score files.

pub(crate) mod atomic;
#[cfg(feature = "files")]
pub(crate) mod download;
pub(crate) mod kind;
#[cfg(feature = "files")]
pub mod scores;
#[cfg(feature = "files")]
pub(crate) mod sha256;

pub use atomic::{check_writable, check_writable_folder};
