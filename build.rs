//! Links the programs to libtorch, because the link arguments of `torch-sys` reach only its own package, and
//! records the commit and the libtorch that they are built from.

use std::{env, fs, path::Path, process::Command};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    commit();
    if env::var_os("CARGO_FEATURE_TRAIN").is_some() {
        link_libtorch();
    }
}

/// Sets CAC_COMMIT in a git checkout, with a `+` if the library differs from it; models record it.
fn commit() {
    let git = |arguments: &[&str]| Command::new("git").args(arguments).output().ok();
    // Git appends to this file whenever HEAD moves. In a worktree it is in the main checkout.
    let moves =
        if Path::new(".git").exists() { git(&["rev-parse", "--git-path", "logs/HEAD"]) } else { None };
    let moves = moves.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    let Some(moves) = moves.filter(|moves| Path::new(moves).exists()) else { return };
    println!("cargo::rerun-if-changed={moves}");
    // Not the programs: rerunning this script rebuilds the library.
    let parts = fs::read_dir("src").into_iter().flatten().flatten().map(|part| part.path());
    let mut library: Vec<String> = ["Cargo.toml", "Cargo.lock"].map(str::to_owned).into();
    library.extend(parts.filter(|part| !part.ends_with("bin")).map(|part| part.display().to_string()));
    for path in &library {
        println!("cargo::rerun-if-changed={path}");
    }
    let status: Vec<&str> =
        ["status", "--porcelain", "--"].into_iter().chain(library.iter().map(String::as_str)).collect();
    let is_changed = git(&status).is_some_and(|output| !output.stdout.is_empty());
    if let Some(output) = git(&["rev-parse", "--short=12", "HEAD"]).filter(|output| output.status.success()) {
        let mark = if is_changed { "+" } else { "" };
        println!("cargo::rustc-env=CAC_COMMIT={}{mark}", String::from_utf8_lossy(&output.stdout).trim());
    }
}

fn link_libtorch() {
    // `make native` rewrites this file when the installed libraries change: relink then. A missing file would
    // make cargo rerun this script, and relink, every time.
    let installed = ".native/installed";
    if Path::new(installed).exists() {
        println!("cargo::rerun-if-changed={installed}");
    }
    // Set by torch-sys (its `links` key is `tch`), on Linux and macOS only.
    let Ok(lib) = env::var("DEP_TCH_LIBTORCH_LIB") else {
        return;
    };
    println!("cargo::rustc-link-arg=-Wl,-rpath,{lib}");
    if let Some(version) = libtorch_version(Path::new(&lib)) {
        println!("cargo::rustc-env=CAC_LIBTORCH={version}");
    }
    // libtorch_cuda registers itself when it is loaded. None of its symbols is referenced, so the linker
    // would drop it.
    if Path::new(&lib).join("libtorch_cuda.so").exists() {
        println!("cargo::rustc-link-arg=-Wl,--push-state,--no-as-needed,-ltorch_cuda,--pop-state");
    }
}

/// The version in libtorch's headers, which a model records. PyTorch moved them in 2.9.
fn libtorch_version(lib: &Path) -> Option<String> {
    let headers = ["torch/headeronly/version.h", "torch/csrc/api/include/torch/version.h"];
    let header =
        headers.iter().find_map(|header| fs::read_to_string(lib.join("../include").join(header)).ok())?;
    let number = |name: &str| {
        let line =
            header.lines().find_map(|line| line.strip_prefix("#define TORCH_VERSION_")?.strip_prefix(name));
        line?.trim().parse::<u32>().ok()
    };
    Some(format!("{}.{}.{}", number("MAJOR")?, number("MINOR")?, number("PATCH")?))
}
