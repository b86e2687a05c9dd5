//! Lets the programs of this package find libtorch, which `torch-sys` links but whose link
//! arguments reach only its own package. Nothing is to be done without the feature `train`.

use std::env;
use std::path::Path;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_TRAIN").is_none() {
        return;
    }
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
