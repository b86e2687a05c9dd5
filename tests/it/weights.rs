//! Published weights by name, from the command line.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread::{self, JoinHandle},
};

use cac::weights::PublishedWeights;
use serde_json::{Value, json};

use crate::{
    commands::{error, stderr, stdout},
    golden,
};

/// How the server answers a request.
enum Answer {
    /// With the file, from the requested byte on.
    File,
    /// With the head and the first bytes of the file.
    BreakOff(usize),
    Missing,
    Page,
    Text,
}

/// Serves a file on loopback with these answers; returns the first lines and ranges of the requests.
fn serve(file: Vec<u8>, answers: Vec<Answer>) -> (String, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let serve = move |answer| {
        let (mut stream, _) = listener.accept().unwrap();
        let lines = BufReader::new(&stream).lines().map(|line| line.unwrap());
        let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
        let range =
            head.iter().find_map(|line| line.to_lowercase().strip_prefix("range: ").map(str::to_owned));
        let range = range.unwrap_or_default();
        let from: usize =
            range.strip_prefix("bytes=").map_or(0, |from| from.trim_end_matches('-').parse().unwrap());
        let (last, length) = (file.len() - 1, file.len());
        let (status, body, sent) = match answer {
            Answer::File if from > 0 => (
                format!("206 Partial Content\r\nContent-Range: bytes {from}-{last}/{length}"),
                &file[from..],
                length - from,
            ),
            Answer::File => ("200 OK".to_owned(), &file[..], length),
            Answer::BreakOff(sent) => ("200 OK".to_owned(), &file[..], sent),
            Answer::Missing => ("404 Not Found".to_owned(), &[][..], 0),
            Answer::Page => ("200 OK\r\nContent-Type: text/html".to_owned(), &b"<html>"[..], 6),
            Answer::Text => ("200 OK\r\nContent-Type: text/plain".to_owned(), &b"quota exceeded"[..], 14),
        };
        let start = format!(
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\nETag: \"1\"\r\nConnection: close\r\n\r\n",
            body.len()
        );
        stream.write_all(start.as_bytes()).unwrap();
        // The client may have disconnected on an error.
        let _ = stream.write_all(&body[..sent]);
        format!("{} {range}", head[0].trim_end_matches(" HTTP/1.1")).trim_end().to_owned()
    };
    (url, thread::spawn(move || answers.into_iter().map(serve).collect()))
}

fn start(at: &Path, args: &[&str], mirror: &str) -> Child {
    Command::new(env!("CARGO_BIN_EXE_toolkit"))
        .args(args)
        .current_dir(at)
        .env("CAC_WEIGHTS_MIRROR", mirror)
        .env("XDG_CACHE_HOME", at.join("cache"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn toolkit(at: &Path, args: &[&str], mirror: &str) -> Output {
    start(at, args, mirror).wait_with_output().unwrap()
}

/// A mirror that does not exist.
const NOWHERE: &str = "http://127.0.0.1:1";

fn cache(at: &Path) -> PathBuf {
    at.join("cache/cac-toolkit/weights")
}

/// Puts a file into the cache.
fn put(at: &Path, name: &str, content: &[u8]) -> PathBuf {
    let path = cache(at).join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, content).unwrap();
    path
}

#[test]
fn list_shows_what_is_known_about_each_file() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let kept = put(at, "imagenet32-nocifar.pt", b"weights");
    let lines = toolkit(at, &["weights", "list", "--json"], NOWHERE);
    let lines: Vec<Value> = stdout(&lines).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), PublishedWeights::all().count());
    let of = |name: &str| lines.iter().find(|line| line["name"] == name).unwrap();
    assert_eq!(
        *of("timm/tf_efficientnet_lite4.in1k"),
        json!({
            "name": "timm/tf_efficientnet_lite4.in1k", "alias": "tf_efficientnet_lite4.in1k",
            "family": "efficientnet-lite", "network": "EfficientNet-Lite4", "trained_on": "ImageNet", "classes": 1000,
            "input": {
                "height": 380, "width": 380, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5],
                "resize": {"fit": "crop", "share": 0.92, "filter": "bilinear"},
            },
            "about_bytes": 52_476_472, "sha256": null, "licence": "Apache-2.0",
            "source": "https://github.com/huggingface/pytorch-image-models",
            "url": "https://huggingface.co/timm/tf_efficientnet_lite4.in1k/resolve/main/model.safetensors",
            "path": null,
        })
    );
    let own = of("wrn-40-2/cifar100/vos/s2");
    assert_eq!((&own["licence"], &own["alias"], &own["classes"]), (&Value::Null, &Value::Null, &100.into()));
    let nocifar = of("wrn-40-2/imagenet32-nocifar/crossentropy");
    assert_eq!(
        (&nocifar["alias"], &nocifar["path"]),
        (&"imagenet32-nocifar".into(), &kept.display().to_string().into())
    );

    let text = toolkit(at, &["weights", "list"], NOWHERE);
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>().join(" ");
    let lines: Vec<String> = stdout(&text).lines().map(words).collect();
    for line in [
        "name network pixels size here licence trained on source also",
        "wrn-40-2/imagenet32-nocifar/crossentropy WideResNet-40-2 32 10 MB yes not stated ImageNet at 32x32, without \
         CIFAR-10's classes https://arxiv.org/abs/1901.09960 imagenet32-nocifar",
        "torchvision/wide_resnet101_2/imagenet1k-v2 Wide ResNet-101-2 224 508 MB - BSD-3-Clause ImageNet \
         https://github.com/pytorch/vision",
        "timm/resnet50.a1_in1k ResNet-50 224 102 MB - Apache-2.0 ImageNet https://arxiv.org/abs/2110.00476 \
         resnet50.a1_in1k",
    ] {
        assert!(lines.iter().any(|other| other == line), "{line}: {}", stdout(&text));
    }
}

#[test]
fn files_under_earlier_names_stay_valid() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let kept = put(at, "resnet18.a1_in1k.safetensors", &fs::read(golden("wrn-10-1.safetensors")).unwrap());
    for name in ["timm/resnet18.a1_in1k", "resnet18.a1_in1k"] {
        let path = toolkit(at, &["weights", "path", name], NOWHERE);
        assert_eq!(stdout(&path), format!("{}\n", kept.display()));
        let fetch = toolkit(at, &["weights", "fetch", name], NOWHERE);
        assert_eq!(stdout(&fetch), format!("timm/resnet18.a1_in1k\t{}\n", kept.display()));
    }
    // An earlier name of a file whose SHA-256 is published.
    let other = put(at, "er-cifar10-tune.pt", b"something else");
    let output = toolkit(at, &["weights", "fetch", "wrn-40-2/cifar10/energy/s1"], NOWHERE);
    let message = error(&output);
    assert!(message.contains(&format!("`{}` has changed or is damaged", other.display())), "{message}");
}

#[test]
fn a_mirror_is_asked_by_name_and_then_by_alias() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let file = fs::read(golden("wrn-10-1.safetensors")).unwrap();
    let (url, served) = serve(file.clone(), vec![Answer::Missing, Answer::File]);
    let output = toolkit(at, &["weights", "fetch", "resnet50.a1_in1k"], &format!("{url}/"));
    let place = cache(at).join("timm/resnet50.a1_in1k.safetensors");
    assert_eq!(stdout(&output), format!("timm/resnet50.a1_in1k\t{}\n", place.display()));
    assert!(fs::read(&place).unwrap() == file);
    assert_eq!(
        served.join().unwrap(),
        ["GET /timm/resnet50.a1_in1k.safetensors", "GET /resnet50.a1_in1k.safetensors"]
    );
    let text = stderr(&output);
    let line = format!(
        "downloading timm/resnet50.a1_in1k (about 102 MB) from {url}/timm/resnet50.a1_in1k.safetensors to `{}`\n",
        place.display()
    );
    assert!(text.contains(&line), "{text}");

    // The input is that of the weights unless flags override it.
    for (flags, size) in [(&[][..], 224), (&["--size", "32"], 32)] {
        let import = ["import", "resnet50.a1_in1k", "model.onnx", "--score", "msp", "--threshold", "-0.5"];
        stdout(&toolkit(at, &[&import, flags].concat(), NOWHERE));
        let model = toolkit(at, &["inspect", "model.onnx", "--json"], NOWHERE);
        let model: Value = serde_json::from_str(stdout(&model)).unwrap();
        let input = &model["manifest"]["input"];
        assert_eq!((&input["height"], &input["width"]), (&size.into(), &size.into()), "{input}");
        assert_eq!(input["resize"], json!({"fit": "crop", "share": 0.95, "filter": "bicubic"}), "{input}");
        assert_eq!(input["mean"][0].as_f64().map(|mean| (1000.0 * mean).round()), Some(485.0), "{input}");
    }
}

#[test]
fn interrupted_downloads_are_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let file = fs::read(golden("wrn-10-1.safetensors")).unwrap();
    // The alias is requested after the first failure, from the start because it may be another file. What arrived
    // is kept.
    let (url, served) = serve(file.clone(), vec![Answer::BreakOff(5000), Answer::Missing, Answer::File]);
    let fetch = || toolkit(at, &["weights", "fetch", "timm/resnet34.a1_in1k"], &url);
    assert!(error(&fetch()).starts_with(&format!("error: cannot fetch `{url}/timm/resnet34.a1_in1k")));
    let output = fetch();
    assert!(stderr(&output).contains(", resuming at 5 kB\n"), "{}", stderr(&output));
    let place = cache(at).join("timm/resnet34.a1_in1k.safetensors");
    assert!(fs::read(&place).unwrap() == file);
    let path = "GET /timm/resnet34.a1_in1k.safetensors";
    let asked = [path, "GET /resnet34.a1_in1k.safetensors", &format!("{path} bytes=5000-")];
    assert_eq!(served.join().unwrap(), asked);

    // What was downloaded first must stay the same.
    let verify = |args: &[&str]| toolkit(at, &[&["weights", "verify"], args].concat(), NOWHERE);
    let line = format!(
        "timm/resnet34.a1_in1k: `{}` matches the recorded SHA-256; none is published in full\n",
        place.display()
    );
    assert_eq!((stdout(&verify(&[])), stdout(&verify(&["resnet34.a1_in1k"]))), (&*line, &*line));
    fs::write(&place, &file[1..]).unwrap();
    let output = verify(&[]);
    assert_eq!(error(&output), "error: damaged weight files: 1 of 1");
    let hint = format!(
        "hint: remove `{file}` and run `toolkit weights fetch timm/resnet34.a1_in1k`, or remove `{file}.sha256` if the \
         file is the right one\n",
        file = place.display()
    );
    assert!(stderr(&output).ends_with(&hint), "{}", stderr(&output));
    assert!(error(&fetch()).contains("has changed or is damaged"));

    // A file without weights is not recorded.
    fs::remove_file(format!("{}.sha256", place.display())).unwrap();
    fs::write(&place, "garbage").unwrap();
    let output = verify(&[]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("is damaged: "));
    assert!(!Path::new(&format!("{}.sha256", place.display())).exists());
}

#[test]
fn wrong_files_and_html_pages_are_not_kept() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let file = fs::read(golden("checkpoints/wrn.pt")).unwrap();
    let assert_empty = |name: &str| {
        let folder = cache(at).join(name).parent().unwrap().to_owned();
        assert_eq!(fs::read_dir(folder).unwrap().count(), 0, "{name}");
    };
    // For one of them, only the first digits of its SHA-256 are published.
    for (name, path, expected) in [
        ("torchvision/resnet18/imagenet1k-v1", "torchvision/resnet18/imagenet1k-v1.pth", "f37072fd..."),
        ("wrn-40-2/cifar10/oe/s0", "wrn-40-2/cifar10/oe/s0.pt", "4b018f801843365c"),
    ] {
        let (url, served) = serve(file.clone(), vec![Answer::File]);
        let message = error(&toolkit(at, &["weights", "fetch", name], &url)).to_owned();
        assert_eq!(served.join().unwrap(), [format!("GET /{path}")]);
        assert!(
            message.starts_with(&format!("error: cannot fetch `{url}/{path}`: it has SHA-256 ")),
            "{message}"
        );
        assert!(message.contains(&format!(", expected {expected}")), "{message}");
        assert_empty(path);
    }
    let (url, served) = serve(file, vec![Answer::Page]);
    let message =
        error(&toolkit(at, &["import", "torchvision/resnet34/imagenet1k-v1", "m.onnx"], &url)).to_owned();
    served.join().unwrap();
    assert!(message.ends_with("the server sent an HTML page in place of the file"), "{message}");
    assert_empty("torchvision/resnet34/imagenet1k-v1.pth");
    // For another one, none is published.
    let (url, served) = serve(vec![0], vec![Answer::Text, Answer::Text]);
    let message = error(&toolkit(at, &["weights", "fetch", "timm/resnet18.a1_in1k"], &url)).to_owned();
    served.join().unwrap();
    let reason = "timm/resnet18.a1_in1k.safetensors`: it is plain text: `quota exceeded`; ";
    assert!(message.contains(reason), "{message}");
    assert_empty("timm/resnet18.a1_in1k.safetensors");
}

#[test]
fn a_proxy_that_cannot_be_used_is_an_error_and_a_password_is_not_shown() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    // A proxy is not asked for addresses of this machine, of which these are the usual ones.
    let fetch = |mirror: &str, [name, value]: [&str; 2]| {
        Command::new(env!("CARGO_BIN_EXE_toolkit"))
            .args(["weights", "fetch", "timm/resnet18.a1_in1k"])
            .env("CAC_WEIGHTS_MIRROR", mirror)
            .env("XDG_CACHE_HOME", at.join("cache"))
            .env(name, value)
            .output()
            .unwrap()
    };
    for [name, value] in [["ALL_PROXY", "socks5://127.0.0.1:1"], ["HTTP_PROXY", "ht!tp://"]] {
        let output = fetch("http://127.0.0.2:1/a", [name, value]);
        let message = error(&output);
        assert!(message.contains(&format!("the proxy in {name} cannot be used: it must be ")), "{message}");
    }
    // An address that needs no proxy.
    let output = Command::new(env!("CARGO_BIN_EXE_toolkit"))
        .args(["weights", "fetch", "timm/resnet18.a1_in1k"])
        .env("CAC_WEIGHTS_MIRROR", "http://127.0.0.2:1")
        .env("XDG_CACHE_HOME", at.join("cache"))
        .env("ALL_PROXY", "socks5://127.0.0.1:1")
        .env("NO_PROXY", "example.org, 127.0.0.2")
        .output()
        .unwrap();
    assert!(!error(&output).contains("proxy"), "{}", stderr(&output));
    let output = fetch("http://user:secret@127.0.0.1:1/a", ["ALL_PROXY", ""]);
    let text = stderr(&output);
    assert!(text.contains("from http://127.0.0.1:1/a/timm/") && !text.contains("secret"), "{text}");
    let hint = "hint: run the command again later; without a network, put the file at `";
    assert!(text.contains(hint), "{text}");
}

#[test]
fn concurrent_fetches_download_once() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let (url, served) = serve(fs::read(golden("checkpoints/wrn.pt")).unwrap(), vec![Answer::File]);
    let children = ["timm/resnet18.a1_in1k", "resnet18.a1_in1k", "timm/resnet18.a1_in1k"]
        .map(|name| start(at, &["weights", "fetch", name], &url));
    for child in children {
        stdout(&child.wait_with_output().unwrap());
    }
    assert_eq!(served.join().unwrap().len(), 1);
    assert_eq!(fs::read_dir(cache(at).join("timm")).unwrap().count(), 2, "the file and its record");
}

#[test]
fn offline_errors_say_where_to_put_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let place = cache(at).join("timm/tf_efficientnet_lite0.in1k.safetensors");
    for args in [
        &["weights", "fetch", "tf_efficientnet_lite0.in1k"][..],
        &["import", "timm/tf_efficientnet_lite0.in1k", "m.onnx"],
    ] {
        let output = toolkit(at, args, NOWHERE);
        let url = format!("{NOWHERE}/timm/tf_efficientnet_lite0.in1k.safetensors");
        assert!(error(&output).starts_with(&format!("error: cannot fetch `{url}`: ")), "{}", stderr(&output));
        let hint = format!("put the file at `{}`, or set CAC_WEIGHTS_MIRROR to the URL of", place.display());
        assert!(stderr(&output).contains(&hint), "{}", stderr(&output));
    }
    for command in ["path", "verify"] {
        let output = toolkit(at, &["weights", command, "tf_efficientnet_lite0.in1k"], NOWHERE);
        let message =
            format!("error: the weights `timm/tf_efficientnet_lite0.in1k` are not in `{}`", place.display());
        assert_eq!(error(&output), message);
        let hint = "hint: `toolkit weights fetch timm/tf_efficientnet_lite0.in1k` downloads them from https://huggingface.co/";
        assert!(stderr(&output).contains(hint), "{}", stderr(&output));
    }
}

#[test]
fn similar_names_are_suggested() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let output = toolkit(at, &["import", "resnet50.a2_in1k", "m.onnx"], NOWHERE);
    let message = "error: `resnet50.a2_in1k` is not a file, a run folder or the name of published weights";
    assert_eq!(error(&output), message);
    assert!(stderr(&output).contains("hint: similar names: resnet50.a1_in1k, "), "{}", stderr(&output));
    let output = toolkit(at, &["weights", "fetch", "imagenet-32"], NOWHERE);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("similar names: imagenet32, "), "{}", stderr(&output));
    // A name with the extension of a weight file is a file.
    assert!(
        error(&toolkit(at, &["import", "resnet50.pth", "m.onnx"], NOWHERE))
            .contains("cannot read `resnet50.pth`")
    );
}
