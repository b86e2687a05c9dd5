//! The user's cache, where downloads are kept.

use std::path::{Path, PathBuf};

use crate::{
    error::{Error, Result},
    text::shown,
};

/// `$XDG_CACHE_HOME/cac-toolkit`, or else `.cache/cac-toolkit` in the home folder.
///
/// # Errors
/// [`Error::Setting`] if neither is known.
pub(crate) fn folder() -> Result<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME");
    let given = cache.as_ref().map(PathBuf::from).filter(|path| path.is_absolute());
    let of_home = || Some(std::env::home_dir().filter(|path| path.is_absolute())?.join(".cache"));
    let root = given.or_else(of_home).ok_or_else(|| {
        let value = cache.map_or("not set".into(), |value| shown(Path::new(&value)));
        let reason = "must be an absolute path for downloads, because there is no home folder";
        Error::setting("XDG_CACHE_HOME", value, reason)
    })?;
    Ok(root.join("cac-toolkit"))
}
