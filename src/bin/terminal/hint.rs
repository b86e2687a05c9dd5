//! Hints: what a user can do about an error of the library.

use cac::Error;

/// The hint for an error, if there is one.
pub fn of(error: &Error) -> Option<String> {
    let hint = match error {
        Error::Download { path, .. } => {
            return Some(format!(
                "run the command again to continue the download; without a network, put the file at `{}`",
                path.display()
            ));
        }
        Error::DataChanged { path } => {
            return Some(format!(
                "restore the data, or start a new run with `--config {}`",
                path.join("settings.toml").display()
            ));
        }
        Error::Provider { provider, .. } if provider.starts_with("cuda") => {
            "install the CUDA libraries with `make native CUDA=1` and an NVIDIA driver, or use `cpu`"
        }
        Error::Provider { provider, .. } if provider == "onnxruntime" => {
            "run `make build` to put the library beside the program, set ORT_DYLIB_PATH to its path, or use `cpu`"
        }
        Error::Provider { .. } => {
            "set ORT_DYLIB_PATH to an ONNX Runtime that was built with this provider; `toolkit providers` lists the \
             providers that work here"
        }
        Error::Model { .. } => "write a model from a run with `toolkit export`",
        Error::Unsupported { runtime: "tract", .. } => "try another runtime: `--provider onnxruntime`",
        Error::Unsupported { .. } => "try a newer ONNX Runtime, or `--provider cpu`",
        Error::Checkpoint { .. } => "use a checkpoint that `toolkit train` of the same version wrote",
        Error::ScoreFile { .. } => {
            "provide `score` (larger = more likely unknown) and `label` (negative = unknown) as columns of a CSV file \
             or arrays of an NPZ file, and `prediction` for accuracy and OSCR"
        }
        Error::FormatVersion { .. } => "update the toolkit",
        Error::Dataset { path, .. } if path.is_dir() => {
            "use CIFAR-10's binary folder (data_batch_*.bin, test_batch.bin) or folders of images: \
             CLASS/*.png, or train/CLASS/*.png and test/CLASS/*.png"
        }
        Error::Classes { .. } => {
            "name the folders after the known classes; `toolkit inspect` lists those of a model"
        }
        Error::Diverged { .. } => "try a lower --learning-rate",
        Error::Locked { .. } => "wait until that run ends, or choose another folder with --run",
        Error::NoState { .. } => "give `--resume` a run folder, such as runs/1",
        Error::NoHeldOut => {
            "hold out images with `train --held-out`, give images to `import --known`, or set the threshold by hand \
             with --threshold"
        }
        Error::Setting { name: "precision", .. } => "give known images with --calibrate",
        _ => return None,
    };
    Some(hint.to_owned())
}
