//! The dependencies of each feature, and what the package holds.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

/// The names of the packages that a build with these features pulls in.
fn packages(features: &str) -> Vec<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--locked", "--prefix=none", "--format={p}", "--edges=normal"])
        .args(["--target=x86_64-unknown-linux-gnu", "--no-default-features", "--features", features])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let names: BTreeSet<&str> = text.lines().map(|line| line.trim_end_matches(" (*)")).collect();
    names.into_iter().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

#[test]
fn an_embedded_scorer_has_no_heavy_dependency() {
    let has = |features: &str, name: &str| packages(features).iter().any(|package| package == name);
    for heavy in ["torch-sys", "tch", "ort", "ort-sys", "clap", "indicatif"] {
        assert!(!has("tract", heavy), "{heavy}");
    }
    assert!(has("tract", "tract-onnx"));
    for heavy in ["torch-sys", "tch", "clap", "tract-onnx", "tract-core"] {
        assert!(!has("onnxruntime", heavy), "{heavy}");
    }
    assert!(has("onnxruntime", "ort-sys"));
    assert!(!has("cli", "torch-sys") && has("cli", "ort"));
    assert!(has("train", "torch-sys"));
}

#[test]
fn the_documentation_counts_the_packages_of_an_embedding() {
    let page = include_str!("../../docs/embedding.md");
    for features in ["tract", "onnxruntime"] {
        let others = packages(features).len() - 1;
        assert!(page.contains(&format!("`{features}` brings {others} packages")), "{features}: {others}");
    }
}

#[test]
fn the_package_is_small_and_has_what_its_targets_need() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new(env!("CARGO"))
        .args(["package", "--list", "--offline", "--allow-dirty"])
        .current_dir(root)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let list = String::from_utf8(output.stdout).unwrap();
    let files: Vec<&str> = list.lines().collect();
    for file in ["src/lib.rs", "build.rs", "examples/tutorial.toml", "exported/cifar10-cifar-net.onnx"] {
        assert!(files.contains(&file), "{file}");
    }
    let length = |file: &&str| fs::metadata(root.join(file)).map_or(0, |file| file.len());
    let bytes: u64 = files.iter().map(length).sum();
    // A registry takes 10 MiB, compressed: the model, which no compression makes smaller, and text, which
    // becomes a quarter.
    assert!(bytes < 13_000_000, "{bytes} bytes in {} files", files.len());
}
