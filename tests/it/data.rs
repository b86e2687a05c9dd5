//! Published data sets by name, from the command line.

use std::{
    fs,
    io::{Read, Write},
    net::TcpListener,
    path::Path,
    process::{Command, Output},
};

use cac::{
    Error,
    data::{DataFolder, PublishedSet, Role, SETS, Split},
};
use serde_json::Value;

use crate::commands::{error, stderr, stdout};

/// CIFAR-10's ten classes with a few images each in the binary layout, and three textures in torchvision's
/// layout.
fn copies(data: &Path) {
    let cifar = data.join("cifar-10-batches-bin");
    fs::create_dir_all(&cifar).unwrap();
    let record = |batch: u8, class: u8| -> Vec<u8> {
        let pixel = |at: usize| class * 20 + batch + (at % 7) as u8;
        [class].into_iter().chain((0..3072).map(pixel)).collect()
    };
    for batch in 0..6 {
        let records: Vec<u8> = (0..10).flat_map(|class| record(batch, class)).collect();
        let name = if batch == 0 { "test_batch.bin".to_owned() } else { format!("data_batch_{batch}.bin") };
        fs::write(cifar.join(name), records).unwrap();
    }
    textures(&data.join("dtd/dtd/images"), 3);
    fs::create_dir_all(data.join("dtd/dtd/labels")).unwrap();
    fs::write(data.join("dtd/dtd/labels/labels_joint_anno.txt"), "").unwrap();
}

fn textures(folder: &Path, count: u8) {
    fs::create_dir_all(folder.join("banded")).unwrap();
    for shade in 0..count {
        let image = image::RgbImage::from_pixel(40, 30, image::Rgb([shade * 50, 20, 90]));
        image.save(folder.join(format!("banded/{shade}.png"))).unwrap();
    }
}

/// Runs the toolkit without this machine's data: its default folder is in `cache`, and its mirror does not
/// exist.
fn toolkit(at: &Path, args: &[&str]) -> Output {
    toolkit_with(at, args, "http://127.0.0.1:1")
}

fn toolkit_with(at: &Path, args: &[&str], mirror: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_toolkit"))
        .args(args)
        .current_dir(at)
        .env("CAC_DATA_MIRROR", mirror)
        .env("XDG_CACHE_HOME", at.join("cache"))
        .env_remove("CAC_DATA")
        .output()
        .unwrap()
}

#[test]
fn eval_accepts_names_and_prints_which_data_it_uses() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    copies(&at.join("sets"));
    let report = |args: &[&str]| -> Value {
        let output = toolkit(at, &[&["eval", "--json", "--resamples", "0"], args].concat());
        serde_json::from_str(stdout(&output)).unwrap()
    };
    let paths = ["--known", "sets/cifar-10-batches-bin", "--unknown", "textures=sets/dtd/dtd/images"];
    let by_path = report(&paths);
    assert_eq!(by_path["rows"][0]["unknown"], 3);
    for unknown in ["textures", "textures=textures"] {
        let by_name = report(&["--known", "cifar10", "--unknown", unknown, "--data", "sets"]);
        assert_eq!((&by_name["rows"], &by_name["accuracy"]), (&by_path["rows"], &by_path["accuracy"]));
    }
    let named = ["eval", "--known", "cifar10", "--unknown", "a=textures", "--data", "sets"];
    let output = toolkit(at, &named);
    assert!(stdout(&output).contains("\na  "), "{}", stdout(&output));
    let text = stderr(&output);
    for line in [
        "`cifar10` is the data set in `sets/cifar-10-batches-bin`\n",
        "`textures` is the data set in `sets/dtd/dtd/images`\n",
    ] {
        assert!(text.contains(line), "{text}");
    }

    // A folder of the same name is a different set.
    textures(&at.join("textures"), 2);
    let output = toolkit(at, &[&named[..], &["--unknown", "b=./textures", "--json"]].concat());
    let json: Value = serde_json::from_str(stdout(&output)).unwrap();
    assert_eq!((&json["rows"][0]["unknown"], &json["rows"][1]["unknown"]), (&3.into(), &2.into()));
    assert!(stderr(&output).contains("; for the folder, give `./textures`\n"), "{}", stderr(&output));

    // The environment can name the folder, too.
    let output = Command::new(env!("CARGO_BIN_EXE_toolkit"))
        .args(["data", "path", "cifar10"])
        .env("CAC_DATA", at.join("sets"))
        .output()
        .unwrap();
    let place = at.join("sets/cifar-10-batches-bin");
    assert_eq!(stdout(&output), format!("{}\n", place.display()));
}

#[test]
fn unrecognised_data_names_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let message = error(&toolkit(at, &["eval", "--known", "cifar-10"]));
    let expected =
        "error: `cifar-10` is neither a path nor one of the published data sets (cifar10, cifar100,";
    assert!(message.starts_with(expected), "{message}");
    // A set in an EMNIST folder has a path, but no file of its own.
    fs::write(at.join("emnist-letters-test-images-idx3-ubyte"), "").unwrap();
    let message =
        error(&toolkit(at, &["eval", "--known", "emnist-letters", "--unknown", "gaussian-noise:5"]));
    assert!(message.contains("emnist-letters-test-images-idx3-ubyte` is not a usable data set"), "{message}");
    copies(&at.join("sets"));
    let data = ["eval", "--data", "sets", "--known", "cifar10", "--unknown"];
    // An empty path is not the current folder.
    for text in ["texture", "texture="] {
        let output = toolkit(at, &[&data[..], &[text]].concat());
        let message = stderr(&output);
        let start =
            format!("error: invalid value '{text}' for '--unknown <NAME=DIR|NAME>': must be NAME=DIR, ");
        assert!(output.status.code() == Some(2) && message.starts_with(&start), "{message}");
        assert!(message.contains("; `toolkit data list` lists the published data sets\n"), "{message}");
    }
    let message = error(&toolkit(at, &[&data[..], &["a=texture"]].concat()));
    assert!(message.starts_with("error: `texture` is neither a path nor one of the published"), "{message}");
    assert_eq!(toolkit(at, &["data", "fetch", "cifar-10"]).status.code(), Some(2));
}

#[test]
fn offline_errors_say_where_to_put_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let place = at.join("cache/cac-toolkit/data/cifar10/cifar-10-binary.tar.gz");
    let url = "http://127.0.0.1:1/cifar10/cifar-10-binary.tar.gz";
    for args in [&["eval", "--known", "cifar10"][..], &["data", "fetch", "cifar10"]] {
        let output = toolkit(at, args);
        assert!(error(&output).starts_with(&format!("error: cannot fetch `{url}`: ")), "{}", stderr(&output));
        let text = stderr(&output);
        for part in [
            format!("downloading cifar10 (170 MB) from {url} to `{}`\n", place.display()),
            format!("put the file (170 MB) at `{}`, or set CAC_DATA_MIRROR to the URL", place.display()),
            "or give a folder that has `cifar10` with --data".to_owned(),
        ] {
            assert!(text.contains(&part), "{part}: {text}");
        }
    }
    let output = toolkit(at, &["data", "path", "cifar10"]);
    assert!(error(&output).contains("the data set `cifar10` is not in `"), "{}", stderr(&output));
    let hint = "hint: `toolkit data fetch cifar10` downloads it from \
                https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz (170 MB); ";
    assert!(stderr(&output).contains(hint), "{}", stderr(&output));

    // A file put there by hand must be the published one.
    fs::write(&place, "something else").unwrap();
    let output = toolkit(at, &["data", "fetch", "cifar10"]);
    let message = error(&output);
    assert!(message.contains("has changed or is damaged: it has 14 bytes, expected 170052171"), "{message}");
    assert!(stderr(&output).contains("hint: remove `"), "{}", stderr(&output));
}

#[test]
fn an_html_page_instead_of_a_data_set_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 4096];
        let length = stream.read(&mut request).unwrap();
        let page = "<!DOCTYPE html><title>Sign in</title>";
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n";
        write!(stream, "{head}Content-Length: {}\r\n\r\n{page}", page.len()).unwrap();
        String::from_utf8_lossy(&request[..length]).into_owned()
    });
    let output = toolkit_with(folder.path(), &["data", "fetch", "lsun-crop", "--data", "sets"], &url);
    assert!(server.join().unwrap().starts_with("GET /lsun-crop/LSUN.tar.gz HTTP/1.1\r\n"));
    let message = error(&output);
    assert!(message.ends_with("the server sent an HTML page in place of the file"), "{message}");
    assert_eq!(fs::read_dir(folder.path().join("sets/lsun-crop")).unwrap().count(), 1, "the lock");
}

#[test]
fn data_is_listed_found_and_verified() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    copies(&at.join("sets"));
    let lines = toolkit(at, &["data", "list", "--json", "--data", "sets"]);
    let lines: Vec<Value> = stdout(&lines).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let names: Vec<&str> = lines.iter().map(|line| line["name"].as_str().unwrap()).collect();
    assert_eq!(names, PublishedSet::names().collect::<Vec<_>>());
    let of = |name: &str| lines.iter().find(|line| line["name"] == name).unwrap();
    assert_eq!(of("textures")["path"], "sets/dtd/dtd");
    assert_eq!(
        (&of("textures")["test_images"], &of("textures")["bytes"]),
        (&5640.into(), &625_239_812.into())
    );
    assert_eq!((&of("svhn")["path"], &of("svhn")["bytes"]), (&Value::Null, &246_316_178.into()));
    let text = toolkit(at, &["data", "list", "--data", "sets"]);
    let text = stdout(&text);
    assert!(text.starts_with("name           training    test    size  here  about\n"), "{text}");
    assert!(
        text.contains("\ncifar10           50000   10000  170 MB  yes   objects in 10 classes"),
        "{text}"
    );
    assert!(text.contains("\nninco                 -    5879       -  -     objects outside"), "{text}");

    let verify = |args: &[&str]| toolkit(at, &[&["data", "verify", "--data", "sets"], args].concat());
    let text = String::from_utf8(verify(&["cifar10"]).stdout).unwrap();
    let place = "cifar10: `sets/cifar-10-batches-bin`";
    for fault in ["has 50 training images, expected 50000", "has 10 test images, expected 10000"] {
        assert!(text.contains(&format!("{place} {fault}\n")), "{text}");
    }
    // Of a split that is here in part, the rest is missing.
    let batch = at.join("sets/cifar-10-batches-bin/data_batch_3.bin");
    let bytes = fs::read(&batch).unwrap();
    fs::remove_file(&batch).unwrap();
    let output = verify(&["cifar10"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("cifar10: `sets/cifar-10-batches-bin/data_batch_3.bin` is missing\n"), "{text}");
    assert_eq!(error(&output), "error: 1 of 1 data sets are damaged or incomplete");
    fs::write(&batch, bytes).unwrap();
    let output = verify(&[]);
    assert_eq!(error(&output), "error: 2 of 2 data sets are damaged or incomplete");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("textures: `sets/dtd/dtd/images` has 3 images, expected 5640\n"), "{text}");
    // Only what the toolkit fetched may be removed.
    let hint = "were not fetched by the toolkit: compare them with the originals\n";
    assert!(stderr(&output).ends_with(hint), "{}", stderr(&output));
    assert!(error(&verify(&["svhn"])).contains("the data set `svhn` is not in `sets`"));
    fs::write(at.join("sets/test_32x32.mat"), "no matrix").unwrap();
    let output = verify(&["svhn"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("svhn: `sets/test_32x32.mat` is damaged: it has MD5 "), "{text}");
    assert!(!stderr(&output).contains("remove"), "{}", stderr(&output));

    fs::remove_file(at.join("sets/test_32x32.mat")).unwrap();

    // As after a fetch.
    let own = at.join("sets/svhn");
    fs::create_dir(&own).unwrap();
    fs::write(own.join("train_32x32.mat.sha256"), "0").unwrap();
    fs::write(own.join("test_32x32.mat"), "no matrix").unwrap();
    fs::create_dir(own.join("train_32x32.mat")).unwrap();
    let text = String::from_utf8(verify(&["svhn"]).stdout).unwrap();
    assert!(text.contains("svhn: `sets/svhn/train_32x32.mat` is a folder\n"), "{text}");
    fs::remove_dir(own.join("train_32x32.mat")).unwrap();
    fs::remove_file(own.join("test_32x32.mat")).unwrap();
    fs::write(own.join("train_32x32.mat"), "no matrix").unwrap();
    let output = verify(&["svhn", "textures"]);
    let hint = "hint: remove `sets/svhn` and run `toolkit data fetch svhn --data sets`; `sets/dtd/dtd/images` was not fetched \
                by the toolkit: compare it with the original\n";
    assert!(stderr(&output).ends_with(hint), "{}", stderr(&output));
}

#[test]
fn a_missing_set_is_a_typed_error() {
    let folder = tempfile::tempdir().unwrap();
    let data = DataFolder::new(Some(folder.path()));
    let found = data.resolve(Path::new("mnist"), &[Role::Known(Split::Train)]).unwrap_err();
    let Error::NotFetched { name: "mnist", folder: place, downloads } = &found else { panic!("{found}") };
    assert_eq!((place.as_path(), downloads.len()), (folder.path(), 4));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn the_guide_lists_every_data_set() {
    let guide = include_str!("../../docs/guide.md");
    let number = |count: usize| if count == 0 { String::new() } else { count.to_string() };
    for set in &SETS {
        let note = if set.note.is_empty() { String::new() } else { format!("; {}", set.note) };
        let size = match set.bytes() {
            None => String::new(),
            Some(bytes) if bytes < 1_000_000_000 => format!("{:.0} MB", bytes as f64 / 1e6),
            Some(bytes) => format!("{:.1} GB", bytes as f64 / 1e9),
        };
        let [training, test] = set.images.map(number);
        let row = format!(
            "| `{}` | {}{note} | {training} | {test} | {size} | {} |",
            set.name, set.about, set.terms
        );
        let row = row.replace("|  |", "| |").replace("|  |", "| |");
        assert!(guide.contains(&row), "{row}");
    }
}

#[test]
fn eval_uses_the_newest_model() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let eval = |args: &[&str]| toolkit(at, &[&["eval", "--resamples", "0"], args].concat());
    let first_line = |output: &Output| stderr(output).lines().next().unwrap_or_default().to_owned();
    // Even without the data, `eval` prints which model it would evaluate.
    let offline = eval(&[]);
    assert_eq!(first_line(&offline), "model: the built-in CIFAR-10 model");
    for part in ["cifar10", "MB", "CAC_DATA_MIRROR"] {
        assert!(stderr(&offline).contains(part), "{part}: {}", stderr(&offline));
    }
    copies(&at.join("sets"));
    let built_in = eval(&["--data", "sets", "--json"]);
    let built_in: Value = serde_json::from_str(stdout(&built_in)).unwrap();
    assert_eq!((&built_in["known"], &built_in["model"]), (&10.into(), &Value::Null));
    assert_eq!(built_in["rows"][0]["name"], "textures");

    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("exported/cifar10-cifar-net.onnx");
    let written = |name: &str, seconds: u64| {
        let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        fs::File::options().append(true).open(at.join(name)).unwrap().set_modified(time).unwrap();
    };
    for (name, seconds) in [("old.onnx", 1000), ("new.ONNX", 2000)] {
        fs::copy(&model, at.join(name)).unwrap();
        written(name, seconds);
    }
    // The newest file is another tool's model.
    fs::write(at.join("other.onnx"), "").unwrap();
    let newest = eval(&["--known", "cifar10", "--data", "sets"]);
    assert!(newest.status.success(), "{}", stderr(&newest));
    assert_eq!(first_line(&newest), "model: `new.ONNX`, the newest in this folder");
}

#[cfg(feature = "train")]
mod training {
    use super::*;

    #[test]
    fn a_model_names_its_data_so_that_other_machines_find_it() {
        let folder = tempfile::tempdir().unwrap();
        let [here, there] = ["here", "there"].map(|name| folder.path().join(name));
        copies(&here.join("sets"));
        copies(&there.join("other/sets"));
        fs::write(here.join("run.toml"), "known = \"cifar10\"\nunknown = [\"textures\"]\ndata = \"sets\"\n")
            .unwrap();
        let settings = ["--depth", "10", "--widen-factor", "1", "--epochs", "1", "--batch-size", "8"];
        let outliers = ["--held-out", "0.4", "--outliers", "none", "--seed", "1"];
        let train = [&["train", "--config", "run.toml"][..], &settings, &outliers].concat();
        let output = toolkit(&here, &train);
        assert!(stdout(&output).contains("textures "), "{}", stdout(&output));
        stdout(&toolkit(&here, &["export", "model.onnx", "--keep", "0.9"]));
        let inspected = toolkit(&here, &["inspect", "model.onnx", "--json"]);
        let inspected: Value = serde_json::from_str(stdout(&inspected)).unwrap();
        let training = &inspected["manifest"]["training"];
        assert_eq!(
            (&training["known"], &training["unknown"]),
            (&"cifar10".into(), &serde_json::json!(["textures"]))
        );

        fs::rename(here.join("model.onnx"), there.join("model.onnx")).unwrap();
        fs::remove_dir_all(here).unwrap();
        let output = toolkit(&there, &["eval", "model.onnx", "--data", "other/sets", "--json"]);
        let report: Value = serde_json::from_str(stdout(&output)).unwrap();
        assert_eq!((&report["known"], &report["rows"][0]["name"]), (&10.into(), &"textures".into()));
        // Elsewhere it would be downloaded.
        let message = error(&toolkit(&there, &["eval", "model.onnx"]));
        assert!(message.contains("cannot fetch `http://127.0.0.1:1/cifar10/"), "{message}");
    }

    #[test]
    fn nothing_is_downloaded_for_a_run_that_cannot_start() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("held")).unwrap();
        fs::write(folder.path().join("held/checkpoint.safetensors"), "").unwrap();
        for wrong in [["--device", "cuda:99"], ["--epochs", "0"], ["--run", "/proc/run"], ["--run", "held"]] {
            let output = toolkit(folder.path(), &[&["train", "--known", "cifar10"], &wrong[..]].concat());
            assert!(!error(&output).contains("cannot fetch"), "{wrong:?}");
            assert!(!stderr(&output).contains("downloading"), "{wrong:?}: {}", stderr(&output));
        }
        let output = toolkit(folder.path(), &["train", "--known", "cifar10"]);
        assert!(error(&output).contains("cannot fetch"), "{}", stderr(&output));
        assert!(!folder.path().join("runs/1").exists());
    }

    /// The commands of the tutorial, without the starting weights, which are not available here.
    #[test]
    fn the_tutorial_is_three_commands() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        copies(&at.join("cache/cac-toolkit/data"));
        // A threshold needs at least 19 images.
        let test = at.join("cache/cac-toolkit/data/cifar-10-batches-bin/test_batch.bin");
        fs::write(&test, fs::read(&test).unwrap().repeat(2)).unwrap();
        let short = ["--arch", "cac-net", "--epochs", "1", "--batch-size", "10"];
        for settings in [&["--held-out", "0.4"][..], &["--config", "tutorial", "--dropout", "0.2"]] {
            let train = toolkit(at, &[&["train"], settings, &short].concat());
            assert!(train.status.success(), "{}", stderr(&train));
            assert!(stdout(&train).contains("20 known images") && stdout(&train).contains("textures"));
            let export = toolkit(at, &["export", "model.onnx"]);
            let held_out =
                if settings[0] == "--config" { "20 test images" } else { "20 held-out training images" };
            assert!(stdout(&export).contains(&format!("{held_out} of cifar10")), "{}", stdout(&export));
            let eval = toolkit(at, &["eval", "--resamples", "0", "--report", "page.html"]);
            let is_from_test = settings[0] == "--config";
            assert_eq!(stdout(&eval).contains(" of known test images\n"), is_from_test, "{}", stdout(&eval));
            // A given threshold was not chosen on any images.
            let given = ["eval", "--resamples", "0", "--threshold", "1", "--report", "given.html"];
            let given = toolkit(at, &given);
            assert!(!stdout(&given).contains("chosen to keep"), "{}", stdout(&given));
            assert!(
                !fs::read_to_string(at.join("given.html")).unwrap().contains("chosen from the known test")
            );
            let page = fs::read_to_string(at.join("page.html")).unwrap();
            assert_eq!(page.contains("chosen from the known test images"), is_from_test);
            assert!(eval.status.success(), "{}", stderr(&eval));
            assert!(
                stderr(&eval).starts_with("model: `model.onnx`, the newest in this folder\n"),
                "{}",
                stderr(&eval)
            );
            assert!(stdout(&eval).contains("textures") && stdout(&eval).contains("20 known images"));
        }
        let settings = fs::read_to_string(at.join("runs/2/settings.toml")).unwrap();
        assert!(settings.contains("magnitude = 5.0") && !settings.contains("known"), "{settings}");
    }

    #[test]
    fn training_without_the_starting_weights_says_how_to_get_them() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        copies(&at.join("cache/cac-toolkit/data"));
        let train = Command::new(env!("CARGO_BIN_EXE_toolkit"))
            .arg("train")
            .current_dir(at)
            .env("CAC_WEIGHTS_MIRROR", "http://127.0.0.1:1")
            .env("XDG_CACHE_HOME", at.join("cache"))
            .env_remove("CAC_DATA")
            .output()
            .unwrap();
        let message = stderr(&train);
        for part in ["imagenet32-nocifar.pt", "http://127.0.0.1:1", "hint: "] {
            assert!(message.contains(part), "{part}: {message}");
        }
        assert!(!at.join("runs").exists(), "nothing was started");
    }
}
