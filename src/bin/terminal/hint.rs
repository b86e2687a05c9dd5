//! Hints: what a user can do about an error of the library.

use std::io::ErrorKind;

use cac::{
    Error,
    data::{NO_CLASS, images_below, is_divided, layouts},
    files::folder_of,
    method::needed_to_choose,
    run::RunFolder,
    text::shown,
};

use super::{
    data::{fetch_command, size},
    quoted,
};

/// The smallest share of `images`, in hundredths, of which a training holds out at least `needed`: it rounds their
/// number up. `None` above 0.75, which leaves few to train on.
pub fn share_to_hold_out(needed: usize, images: usize) -> Option<f64> {
    let hundredths = (100 * needed.saturating_sub(1)) / images.max(1) + 1;
    (hundredths <= 75).then(|| hundredths as f64 / 100.0)
}

/// The hint for an error, if there is one.
pub fn of(error: &Error) -> Option<String> {
    let hint = match error {
        Error::Download { path, bytes, is_resumable, mirror, set, .. } => {
            let again = if *is_resumable { "to continue the download" } else { "later" };
            let size = bytes.map_or(String::new(), |bytes| format!(" ({})", size(bytes)));
            let folder =
                set.map_or(String::new(), |set| format!(", or give a folder that has `{set}` with --data"));
            return Some(format!(
                "run the command again {again}; without a network, put the file{size} at `{}`, or set {mirror} to the URL of a mirror{folder}",
                shown(path)
            ));
        }
        Error::NotFetched { name, folder, downloads } => {
            let of = |(url, bytes): &(&str, Option<u64>)| match bytes {
                Some(bytes) => format!("{url} ({})", size(*bytes)),
                None => (*url).to_owned(),
            };
            let sources: Vec<String> = downloads.iter().map(of).collect();
            return Some(format!(
                "{} downloads it from {}; if it is in another folder, give that with --data",
                fetch_command(name, folder),
                sources.join(", ")
            ));
        }
        Error::Checksum { path, .. } if path.extension().is_some_and(|extension| extension == "sha256") => {
            return Some(format!("remove `{}` to record the file as it is", shown(path)));
        }
        Error::Checksum { path, .. } => {
            return Some(format!("remove `{}` to fetch it again", shown(path)));
        }
        Error::Replaced { record, .. } => {
            return Some(format!("remove `{}` to take the new file", shown(record)));
        }
        Error::DataChanged { path } => {
            let settings = RunFolder::new(path).settings();
            // A run of another program has none.
            let with = if settings.exists() {
                format!(" with `--config {}`", quoted(&settings))
            } else {
                String::new()
            };
            return Some(format!("restore the data, or start a new run{with}"));
        }
        Error::Io { action: "write", error, .. } if error.kind() == ErrorKind::StorageFull => {
            "free some disk space; no file is half written, and `toolkit train --resume` resumes a run that has a saved state"
        }
        Error::Io { action: "read", path, .. } if RunFolder::new(path).holds_run() => {
            return Some(format!(
                "it is a run folder; `toolkit export --run {} model.onnx` writes its model",
                quoted(path)
            ));
        }
        Error::Device { .. } => {
            "install libtorch for NVIDIA GPUs with `make native CUDA=1`, and a driver, or train with --device cpu"
        }
        Error::Provider { provider, .. } if provider.starts_with("cuda") => {
            "install the CUDA libraries with `make native CUDA=1` and an NVIDIA driver, or use `cpu`"
        }
        Error::Provider { provider, .. } if provider == "onnxruntime" => {
            "run `make build` to put the library beside the program, set ORT_DYLIB_PATH to its path, or use `cpu`"
        }
        Error::Provider { provider, .. } if provider == "openvino:bf16" => {
            "set ORT_DYLIB_PATH to an ONNX Runtime with OpenVINO; on a processor without AVX512-BF16 use `openvino`"
        }
        Error::Provider { .. } => {
            "set ORT_DYLIB_PATH to an ONNX Runtime that was built with this provider; `toolkit providers` lists the \
             providers that work here"
        }
        Error::Runtime { runtime: "libtorch", reason } if reason.contains("out of memory") => {
            "train with a smaller --batch-size, --size or network"
        }
        Error::Model { .. } => "write a model from a run with `toolkit export`",
        Error::NoMap { .. } => "export the model again with --map",
        Error::Unsupported { runtime: "tract", .. } => "try another runtime: `--provider onnxruntime`",
        Error::Unsupported { .. } => "try a newer ONNX Runtime, or `--provider cpu`",
        Error::UnknownNetwork { .. } => {
            "`toolkit weights list` lists weights of networks that are known; `examples/python/wrap.py` makes a model file of \
             another network"
        }
        Error::Checkpoint { path, .. } if RunFolder::is_state(path) => {
            "a run is resumed by the version that began it, with the settings in its `resolved.json`"
        }
        Error::Checkpoint { .. } => "use a checkpoint that `toolkit train` of the same version wrote",
        Error::FeatureFile { .. } => "write one with `toolkit eval --keep-features FILE.npz`",
        Error::ScoreFile { .. } => {
            "provide columns of a CSV file or arrays of an NPZ file: `score` (larger = more likely unknown); for metrics \
             also `label` (negative = unknown), and `prediction` for accuracy and OSCR"
        }
        Error::FormatVersion { .. } => "update the toolkit",
        Error::NoGoldenBatch { .. } => "export the model again, or run `recalibrate`, which adds one",
        Error::Differs { .. } => {
            "compare the model's SHA-256 with the original's; a provider of lower precision differs too"
        }
        Error::Signature { .. } => {
            "do not use the file; ask its author for the file, the signature and the public key"
        }
        Error::NoImages { .. } => {
            "give images in these formats; convert others, such as HEIC, to JPEG or PNG; remove class folders without images"
        }
        // Images, but not in class folders.
        Error::NoLayout { path, .. } if images_below(path).is_ok() => {
            "sort the images into a folder for each known class, two or more: CLASS/*.jpg, or train/CLASS/*.jpg and \
             test/CLASS/*.jpg"
        }
        Error::NoLayout { .. } => {
            let layouts: Vec<&str> = layouts().collect();
            return Some(format!(
                "use a published data set by name (`toolkit data list`), or one of these: {}",
                layouts.join("; ")
            ));
        }
        Error::Undivided { path, .. } if is_divided(folder_of(path)) => {
            return Some(format!(
                "give the folder above, which has training and test images: {}",
                quoted(folder_of(path))
            ));
        }
        Error::Undivided { .. } => {
            "hold out a share of each class to test on with `--held-out-test 0.2` of `train`, `eval` and `import`, or \
             sort the images into the folders train/CLASS and test/CLASS"
        }
        Error::Classes { reason, .. } if reason == NO_CLASS => {
            "move these images out of the known classes and test on them with `--unknown NAME=DIR`"
        }
        Error::Classes { .. } => {
            "name the folders after the known classes: those that `toolkit inspect` lists or, for `train`, those of the \
             training images; `train`, `eval`, `report` and `import` take any other class as `--unknown-class CLASS`"
        }
        Error::Diverged { .. } => {
            "start again with a lower --learning-rate; the checkpoints and states written before are intact"
        }
        Error::HoldsRun { path } if RunFolder::new(path).states().is_ok_and(|states| states.is_empty()) => {
            "it has checkpoints, a log or settings: choose another folder with --run"
        }
        Error::HoldsRun { path } => {
            return Some(format!(
                "resume it with `toolkit train --resume {}`, or choose another folder with --run",
                quoted(path)
            ));
        }
        Error::Locked { .. } => "wait until that run ends, or choose another folder with --run",
        Error::NoState { path } if RunFolder::new(path).holds_run() => {
            "its states were removed; `toolkit export` still writes its model"
        }
        Error::NoState { .. } => "give `--resume` a run folder, such as runs/1",
        Error::TooFewHeldOut { found: 0, .. } => {
            "choose it with `recalibrate` or `import --known`, or set it with `export --threshold`"
        }
        Error::TooFewHeldOut { .. } => {
            "use more known images (`train --held-out`; --known of `import` and `recalibrate`), keep a smaller share with --keep, \
             or set the threshold with `export --threshold`"
        }
        Error::NoHeldOutScores => {
            "export the model from a run that held images out, import it with --known, or run `recalibrate` on images of the \
             known classes"
        }
        Error::DamagedState { .. } => "restore a copy of it, or start a new stream with another --state",
        Error::DriftState { .. } => {
            "continue a stream with the same model, score, seed and alpha, or start a new one with another --state"
        }
        Error::StateChanged { .. } => {
            "repeat the call; FILE.lock must stay, and a file system without locks needs one call at a time"
        }
        Error::StateInUse { .. } => "wait until it has ended, or give another --state",
        Error::BrokenImages { .. } => {
            "repair or remove the files; `train`, `eval`, `report`, `drift` and `recalibrate` leave them out with --skip-broken"
        }
        Error::EmptiesClass { name: "held-out", .. } => {
            "hold out a smaller share with --held-out, or add images"
        }
        Error::HoldsOutTooFew { images, needed, .. } => {
            let share = share_to_hold_out(*needed, *images);
            let more =
                share.map_or(String::new(), |share| format!(", or hold out more with --held-out {share}"));
            return Some(format!(
                "add images{more}; with `--held-out 0`, `export` takes the threshold from the test images, {needed} or more, or \
                 from --threshold"
            ));
        }
        Error::Setting { name: "freeze", .. } => "give a backbone with --backbone",
        Error::EmptiesClass { .. } => {
            "hold out a smaller share with --held-out-test, or add images: each class needs one to train on"
        }
        Error::Setting { name: "held-out test", .. } => "change --held-out-test, or leave it out",
        Error::ClassCount { .. } => {
            "use --unknown-class to leave out folders that are not classes of the weights; without --known, name all classes of \
             the weights with --classes; to train on other classes, start from the weights with `toolkit train --backbone`"
        }
        Error::Unstandardised { .. } => {
            return Some(format!(
                "hold out more images with `train --held-out` (of {} or more, a third choose the score), or take a score that \
                 is not a sum",
                needed_to_choose()
            ));
        }
        Error::Setting { name: "file precision", value, .. } if value == "int8" => {
            "give known images with --calibrate"
        }
        _ => return None,
    };
    Some(hint.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_to_hold_out_is_the_smallest_in_hundredths() {
        for (needed, images) in [(19, 26), (19, 30), (19, 47), (19, 90), (57, 105), (57, 114), (1, 1000)] {
            let share = share_to_hold_out(needed, images).unwrap();
            let held_out = |share: f64| (share * images as f64 - 1e-9).ceil() as usize;
            assert!(
                held_out(share) >= needed && held_out(share - 0.01) < needed,
                "{needed} of {images}: {share}"
            );
        }
        assert_eq!(
            [(19, 25), (19, 24), (19, 0)].map(|(needed, images)| share_to_hold_out(needed, images)),
            [Some(0.73), None, None]
        );
    }
}
