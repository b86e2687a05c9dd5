//! The dependencies of each feature.

use std::{collections::BTreeSet, process::Command};

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
