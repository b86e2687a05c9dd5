//! The user's cache, where downloads are kept.

use std::path::PathBuf;

use crate::error::{Error, Result};

/// `$XDG_CACHE_HOME/cac-toolkit`, or else `.cache/cac-toolkit` in the home folder.
///
/// # Errors
/// [`Error::Setting`] if neither is known.
pub(crate) fn folder() -> Result<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let root = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")));
    let root = root.ok_or_else(|| {
        let value = std::env::var_os("XDG_CACHE_HOME");
        let value = value.map_or("not set".into(), |value| value.to_string_lossy().into_owned());
        Error::setting(
            "XDG_CACHE_HOME",
            value,
            "must be an absolute path for downloads, because HOME is not an absolute path",
        )
    })?;
    Ok(root.join("cac-toolkit"))
}
