//! Lets the programs of this package find libtorch, which `torch-sys` links but whose link arguments reach
//! only its own package, and tells them which commit they are built from.

use std::{env, path::Path, process::Command};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    commit();
    if env::var_os("CARGO_FEATURE_TRAIN").is_some() {
        link_libtorch();
    }
}

/// Sets CAC_COMMIT for the compiler where this is a git checkout; models record it.
fn commit() {
    // Git appends to this file whenever the checkout moves to another commit.
    let moves = ".git/logs/HEAD";
    if !Path::new(moves).exists() {
        return;
    }
    println!("cargo::rerun-if-changed={moves}");
    let output = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output();
    if let Some(output) = output.ok().filter(|output| output.status.success()) {
        println!("cargo::rustc-env=CAC_COMMIT={}", String::from_utf8_lossy(&output.stdout).trim());
    }
}

fn link_libtorch() {
    // `make native` rewrites this file when it changes what is installed: link anew then. A file
    // that is not there would make cargo run this script, and link, every time.
    let installed = ".native/installed";
    if Path::new(installed).exists() {
        println!("cargo::rerun-if-changed={installed}");
    }
    // Told by torch-sys (its `links` key is `tch`), on Linux and macOS only.
    let Ok(lib) = env::var("DEP_TCH_LIBTORCH_LIB") else {
        return;
    };
    println!("cargo::rustc-link-arg=-Wl,-rpath,{lib}");
    // Nothing refers to a symbol of libtorch_cuda, so the linker would drop it: it makes itself
    // known to libtorch when it is loaded.
    if Path::new(&lib).join("libtorch_cuda.so").exists() {
        println!("cargo::rustc-link-arg=-Wl,--push-state,--no-as-needed,-ltorch_cuda,--pop-state");
    }
}
