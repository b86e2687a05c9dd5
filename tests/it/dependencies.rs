//! What comes along with each feature.

use std::process::Command;

/// The names of the packages that a build with these features pulls in.
fn packages(features: &str) -> Vec<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--locked", "--prefix=none", "--format={p}", "--edges=normal"])
        .args(["--no-default-features", "--features", features])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

#[test]
fn an_embedded_scorer_brings_no_native_library() {
    let has = |features: &str, name: &str| packages(features).iter().any(|package| package == name);
    for heavy in ["torch-sys", "tch", "ort", "ort-sys", "clap", "indicatif"] {
        assert!(!has("tract", heavy), "{heavy}");
    }
    assert!(has("tract", "tract-onnx"));
    for heavy in ["torch-sys", "tch", "clap"] {
        assert!(!has("onnxruntime", heavy), "{heavy}");
    }
    assert!(!has("cli", "torch-sys") && has("cli", "ort"));
    assert!(has("train", "torch-sys"));
}
