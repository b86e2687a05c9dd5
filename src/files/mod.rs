//! Files: atomic writes, downloads, checksums, signatures, score files, and formats that several modules read.

pub(crate) mod atomic;
#[cfg(feature = "files")]
pub(crate) mod download;
pub(crate) mod kind;
#[cfg(feature = "files")]
pub(crate) mod npy;
#[cfg(feature = "files")]
pub(crate) mod pickle;
#[cfg(feature = "files")]
pub mod scores;
#[cfg(feature = "files")]
pub(crate) mod sha256;
#[cfg(feature = "files")]
pub mod signature;

pub use atomic::{check_writable, check_writable_folder};
#[cfg(feature = "files")]
pub use sha256::of as sha256;
