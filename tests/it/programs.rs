//! The two programs: `toolkit`, and `toolkit-train`, which `toolkit train` runs.

use std::{fs, path::Path, process::Command};

#[cfg(feature = "train")]
use crate::commands::toolkit;
use crate::commands::{error, stderr, stdout};

/// The libraries that a program loads when it starts.
#[cfg(target_os = "linux")]
fn loads(program: &str) -> String {
    // The loader prints them instead of running the program.
    let output = Command::new(program).env("LD_TRACE_LOADED_OBJECTS", "1").output().unwrap();
    stdout(&output).to_owned()
}

// A `toolkit` built with `train` would load it; only `toolkit-train` is meant to be built with it.
#[cfg(all(target_os = "linux", not(feature = "train")))]
#[test]
fn toolkit_never_loads_libtorch() {
    let libraries = loads(env!("CARGO_BIN_EXE_toolkit"));
    assert!(libraries.contains("libc.so") && !libraries.contains("torch"), "{libraries}");
}

#[cfg(all(target_os = "linux", feature = "train"))]
#[test]
fn toolkit_train_loads_libtorch() {
    let libraries = loads(env!("CARGO_BIN_EXE_toolkit-train"));
    assert!(libraries.contains("libtorch_cpu.so"), "{libraries}");
}

#[cfg(unix)]
#[test]
fn a_missing_toolkit_train_is_an_error_with_a_hint() {
    let folder = tempfile::tempdir().unwrap();
    // A copy has no `toolkit-train` next to it.
    let alone = folder.path().join("toolkit");
    fs::copy(env!("CARGO_BIN_EXE_toolkit"), &alone).unwrap();
    // A process started by another test may still hold the file just written open for writing.
    let train = |path: &Path| loop {
        match Command::new(&alone).args(["train", "--known", "x"]).env("PATH", path).output() {
            Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => {}
            output => break output.unwrap(),
        }
    };
    let output = train(Path::new("/nowhere"));
    assert!(error(&output).contains("`toolkit-train` is neither beside this program nor on the PATH"));
    assert!(stderr(&output).contains("hint: run `make build`"));

    // All arguments are passed to the one on the PATH, and its exit code is returned.
    let path = folder.path().join("bin");
    fs::create_dir(&path).unwrap();
    let script = "#!/bin/sh\necho \"$@\" for $CAC_TOOLKIT_VERSION\nexit 7\n";
    fs::write(path.join("toolkit-train"), script).unwrap();
    fs::set_permissions(path.join("toolkit-train"), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
    let output = train(&path);
    assert_eq!(output.status.code(), Some(7));
    let expected = format!("--known x for {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
}

#[cfg(feature = "train")]
#[test]
fn help_usage_and_version_are_those_of_toolkit_train() {
    let folder = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| toolkit(folder.path(), args);
    let help = run(&["train", "--help"]);
    let help = stdout(&help);
    for part in [
        "Usage: toolkit train [OPTIONS]",
        "toolkit train --known <DIR|NAME> [OPTIONS]",
        "--widen-factor <X>",
        "by default sgd, for a cifar-net muon",
        "imagenet32-nocifar",
    ] {
        assert!(help.contains(part), "{part}: {help}");
    }
    assert_eq!(run(&["train", "--epochs", "many"]).status.code(), Some(2));

    let other = Command::new(env!("CARGO_BIN_EXE_toolkit-train"))
        .env("CAC_TOOLKIT_VERSION", "0.0.9")
        .output()
        .unwrap();
    let message = format!("error: toolkit 0.0.9 cannot use toolkit-train {}", env!("CARGO_PKG_VERSION"));
    assert_eq!(error(&other), message);
}

#[test]
fn make_photos_runs_the_commands_of_the_readme() {
    let read = |file: &str| fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
    let (readme, makefile) = (read("README.md"), read("Makefile"));
    let recipe = makefile.split_once("\nphotos:").unwrap().1.split("\n\n").next().unwrap();
    let recipe = recipe.replace(" \\\n\t  ", " ").replace("$(BACKBONE)", "data/efficientnet-lite0.pth");
    let run: Vec<String> = recipe
        .lines()
        .filter_map(|line| Some(format!("toolkit {}", line.trim().strip_prefix("$(TOOLKIT) ")?)))
        .collect();
    assert_eq!(run.len(), 4, "{recipe}");
    let section = readme.split_once("## Your own images").unwrap().1;
    let block = section.split_once("```sh\n").unwrap().1.split_once("```").unwrap().0;
    assert_eq!(block.lines().collect::<Vec<_>>(), run);
}

/// Official libraries keep an identifier of the machine and send events unless told not to.
#[test]
fn onnx_runtime_sends_no_telemetry() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let image = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/demo/textures/banded/banded_0011.png");
    let mut command = Command::new(env!("CARGO_BIN_EXE_toolkit"));
    command.args(["score", "--provider", "onnxruntime"]).arg(image).current_dir(at);
    command.env("HOME", at).env("XDG_CACHE_HOME", at.join("cache"));
    // There is none in CI either. Some people unset a variable by setting it to an empty value.
    let output = command.env("ORT_DISABLE_TELEMETRY", "").env_remove("CI").output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let left: Vec<_> = std::fs::read_dir(at).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}
