//! The dependencies of each feature and of each module, and the contents of the package.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use crate::commands::stderr;

/// The names of the packages that a build with these features pulls in. Cargo has downloaded them for this
/// platform alone.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn packages(features: &str) -> Vec<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--locked", "--prefix=none", "--format={p}", "--edges=normal"])
        .args(["--target=x86_64-unknown-linux-gnu", "--no-default-features", "--features", features])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    let names: BTreeSet<&str> = text.lines().map(|line| line.trim_end_matches(" (*)")).collect();
    names.into_iter().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[test]
fn an_embedded_scorer_has_no_heavy_dependencies() {
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

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[test]
fn the_embedding_page_states_the_number_of_packages() {
    let page = include_str!("../../docs/embedding.md");
    for features in ["tract", "onnxruntime"] {
        let others = packages(features).len() - 1;
        assert!(page.contains(&format!("`{features}` brings {others} packages")), "{features}: {others}");
    }
}

/// The library modules that a source file refers to, outside its tests.
fn imports(source: &str) -> BTreeSet<String> {
    let code = source.split("#[cfg(test)]\nmod tests").next().unwrap();
    let code: Vec<&str> = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let code = code.join("\n");
    let name = |path: &str| path.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut names = BTreeSet::new();
    for (start, prefix) in code.match_indices("crate::") {
        let path = &code[start + prefix.len()..];
        let Some(group) = path.strip_prefix('{') else {
            names.insert(name(path));
            continue;
        };
        let (mut depth, mut is_first) = (0, true);
        for (start, c) in group.char_indices() {
            match c {
                '}' if depth == 0 => break,
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => is_first = true,
                _ if depth == 0 && is_first && c.is_alphabetic() => {
                    names.insert(name(&group[start..]));
                    is_first = false;
                }
                _ => {}
            }
        }
    }
    // The rest are the crate's own items, such as `Error`.
    names.retain(|name| name.starts_with(char::is_lowercase));
    names
}

#[test]
fn imports_are_found_in_groups_and_in_paths() {
    let source = "use crate::{\n    a::{b, c},\n    d,\n    Error,\n};\n// crate::comment\nfn f() { crate::e::g() }\n\
        #[cfg(test)]\nmod tests { use crate::late; }";
    assert_eq!(imports(source).into_iter().collect::<Vec<_>>(), ["a", "d", "e"]);
}

#[test]
fn modules_import_in_the_order_of_the_code_map() {
    let page = include_str!("../../docs/development.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `src/")?.split('`').next());
    let is_module = |file: &str| file != "lib.rs" && !file.starts_with("bin");
    let module = |file: &str| file.trim_end_matches('/').trim_end_matches(".rs").to_owned();
    let order: Vec<String> = rows.filter(|row| is_module(row)).map(module).collect();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files = fs::read_dir(&source).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let modules: BTreeSet<String> = files.filter(|file| is_module(file)).map(|file| module(&file)).collect();
    assert_eq!(modules, order.iter().cloned().collect());

    let mut folders = vec![source.clone()];
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            let file = path.strip_prefix(&source).unwrap();
            let own = module(file.iter().next().unwrap().to_str().unwrap());
            let Some(place) = order.iter().position(|name| *name == own) else { continue };
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                for import in imports(&fs::read_to_string(&path).unwrap()) {
                    assert!(order[..=place].contains(&import), "{} imports `{import}`", file.display());
                }
            }
        }
    }
}

#[test]
fn every_reader_of_files_has_a_fuzz_target() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let targets = fs::read_to_string(root.join("targets.rs")).unwrap();
    let list = targets.split_once("TARGETS").unwrap().1.split_once("];").unwrap().0;
    let named = |line: &str| Some(line.trim().strip_prefix("(\"")?.split('"').next()?.to_owned());
    let readers: BTreeSet<String> = list.lines().filter_map(named).collect();
    let files = fs::read_dir(root.join("fuzz_targets")).unwrap().map(|entry| entry.unwrap().path());
    let files: BTreeSet<String> =
        files.map(|file| file.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    let bins = manifest.split("[[bin]]\n").skip(1);
    let bins: BTreeSet<String> = bins.map(|bin| bin.split('"').nth(1).unwrap().to_owned()).collect();
    assert!(readers.len() > 20);
    assert_eq!((&files, &bins), (&readers, &readers));
}

#[test]
fn the_package_is_small_and_has_what_its_targets_need() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new(env!("CARGO"))
        .args(["package", "--list", "--offline", "--allow-dirty"])
        .current_dir(root)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let list = String::from_utf8(output.stdout).unwrap();
    let files: Vec<&str> = list.lines().collect();
    for file in ["src/lib.rs", "build.rs", "examples/tutorial.toml", "exported/cifar10-cifar-net.onnx"] {
        assert!(files.contains(&file), "{file}");
    }
    let length = |file: &&str| fs::metadata(root.join(file)).map_or(0, |file| file.len());
    let bytes: u64 = files.iter().map(length).sum();
    // A registry accepts 10 MiB, compressed: the model does not compress, and text shrinks to a quarter.
    assert!(bytes < 13_000_000, "{bytes} bytes in {} files", files.len());
}
