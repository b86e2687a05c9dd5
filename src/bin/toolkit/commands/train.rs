//! `toolkit train`: runs `toolkit-train` with the same arguments.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

use cac::text::shown;

use crate::{
    cli::TrainArgs,
    terminal::{Advice, VERSION_VARIABLE},
};

/// The environment variable of libtorch's minimum log level, which it reads when it is loaded.
const LIBTORCH_LOG: &str = "TORCH_CPP_LOG_LEVEL";

/// The environment variable of glibc's settings, which it reads when a program starts.
const GLIBC_SETTINGS: &str = "GLIBC_TUNABLES";

/// Freed memory is reused, not returned to the system. Activations of large images are tens of megabytes
/// each; the kernel would zero their pages again in every layer, which takes a third of the time.
const KEEP_MEMORY: &str = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=1099511627776";

/// Runs `toolkit-train` in place of this program, with its terminal, signals and exit code.
pub fn run(TrainArgs { args }: &TrainArgs) -> anyhow::Result<()> {
    let name = format!("toolkit-train{}", std::env::consts::EXE_SUFFIX);
    let program = find(&name).ok_or_else(|| {
        Advice::new(
            format!("`{name}` is neither beside this program nor on the PATH"),
            "run `make build` in a checkout: it builds `toolkit-train` too, with libtorch",
        )
    })?;
    become_program(&program, args)
}

/// The program next to this one, else on the PATH.
fn find(name: &str) -> Option<PathBuf> {
    let beside = std::env::current_exe().ok().and_then(|program| Some(program.parent()?.join(name)));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|folder| folder.join(name));
    beside.into_iter().chain(on_path).find(|path| is_program(path))
}

#[cfg(unix)]
fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

#[cfg(not(unix))]
fn is_program(path: &Path) -> bool {
    path.is_file()
}

/// The command that runs `toolkit-train`. Silences libtorch's warnings and makes glibc keep freed memory,
/// unless the user has set that.
fn command(program: &Path, args: &[OsString]) -> Command {
    let mut command = Command::new(program);
    command.args(args).env(VERSION_VARIABLE, env!("CARGO_PKG_VERSION"));
    for (variable, value) in [(LIBTORCH_LOG, "ERROR"), (GLIBC_SETTINGS, KEEP_MEMORY)] {
        if std::env::var_os(variable).is_none() {
            command.env(variable, value);
        }
    }
    command
}

#[cfg(unix)]
fn become_program(program: &Path, args: &[OsString]) -> anyhow::Result<()> {
    use anyhow::Context;
    use std::os::unix::process::CommandExt;
    let error = command(program, args).exec();
    Err(error).with_context(|| format!("cannot run `{}`", shown(program)))
}

#[cfg(not(unix))]
fn become_program(program: &Path, args: &[OsString]) -> anyhow::Result<()> {
    use anyhow::Context;
    // Ctrl-C reaches both processes; `toolkit-train` decides when to end.
    let status = command(program, args).status();
    let status = status.with_context(|| format!("cannot run `{}`", shown(program)))?;
    std::process::exit(status.code().unwrap_or(1))
}
