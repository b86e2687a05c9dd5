//! Publishes a model for Triton Inference Server and KServe: a model repository and an InferenceService.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::{
    error::{Error, Result},
    files::atomic,
    model::{
        InputForm,
        file::{FEATURES, LOGIT_MAP, ModelFile, P_VALUE, UNKNOWN_AT},
    },
    text::{on_one_line, path_text, shown},
};

/// The maximum batch size on Triton.
const MAX_BATCH: usize = 64;

/// The result of [`publish`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Published {
    /// The model's folder in the repository.
    pub folder: PathBuf,
    /// The version, from 1; Triton serves the highest.
    pub version: u64,
    /// The KServe InferenceService.
    pub service: PathBuf,
}

/// Adds a model file to a model repository, as the next version under the file's name: `NAME/config.pbtxt`,
/// `NAME/labels.txt` and `NAME/VERSION/model.onnx`. The version's folder appears atomically. Also writes
/// `NAME.yaml`, a KServe InferenceService for the whole repository. Missing folders are created. Files that exist are
/// left unchanged, unless they are for other classes, inputs or outputs and there is no version yet.
///
/// # Errors
/// [`Error::Setting`] if the repository has a model of this name with other classes, inputs or outputs,
/// [`Error::Io`], and those of [`Scorer::from_bytes`](crate::scorer::Scorer::from_bytes) if it is not a model
/// of this toolkit.
pub fn publish(model: &Path, repository: &Path) -> Result<Published> {
    publish_version(model, model, repository)
}

/// As [`publish`], but under the name of the file `of`: `model` becomes its next version.
///
/// # Errors
/// Those of [`publish`].
pub fn publish_version(model: &Path, of: &Path, repository: &Path) -> Result<Published> {
    let bytes = crate::model::read(model)?;
    let (file, _) = ModelFile::parse(&bytes[..], &path_text(model))?;
    let name = name(of);
    let folder = repository.join(&name);
    let labels: String = file.manifest.decision.classes.iter().map(|name| on_one_line(name) + "\n").collect();
    let [head, interface, rest] = config(&name, &file);
    let (labels_file, config_file) = (folder.join("labels.txt"), folder.join("config.pbtxt"));
    // All versions share these files, and a user may have tuned the configuration.
    let is_first = !folder.is_dir() || next_version(&folder)? == 1;
    let stale = [
        is_stale(&labels_file, |earlier| earlier != labels)?,
        is_stale(&config_file, |earlier| !earlier.contains(&interface))?,
    ];
    if stale.contains(&true) && !is_first {
        let reason = format!("`{}` has versions with other classes, inputs or outputs", shown(&folder));
        return Err(Error::setting("model of the repository", format!("`{name}`"), reason));
    }
    fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
    let service_file = repository.join(format!("{name}.yaml"));
    if !service_file.exists() {
        atomic::write(&service_file, service(&name).as_bytes())?;
    }
    atomic::remove_unfinished(&folder);
    let new = atomic::unfinished_folder(&folder).map_err(Error::io("create a folder in", &folder))?;
    atomic::write(&new.path().join("model.onnx"), &bytes)?;
    let files = [(&labels_file, labels), (&config_file, head + &interface + &rest)];
    for ((path, text), is_stale) in files.into_iter().zip(stale) {
        if is_stale || !path.exists() {
            atomic::write(path, text.as_bytes())?;
        }
    }
    // The server runs as another user.
    #[cfg(unix)]
    fs::set_permissions(new.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .map_err(Error::io("set the permissions of", new.path()))?;
    let mut version = next_version(&folder)?;
    loop {
        let target = folder.join(version.to_string());
        match fs::rename(new.path(), &target) {
            Ok(()) => return Ok(Published { folder, version, service: service_file }),
            // Another process has just published this version.
            Err(_) if target.exists() => version += 1,
            Err(error) => return Err(Error::io("create", &target)(error)),
        }
    }
}

/// The file's name in the characters that Kubernetes allows, starting with a letter.
fn name(model: &Path) -> String {
    let stem = model.file_stem().unwrap_or_default().to_string_lossy().to_lowercase();
    let name = stem.replace(|letter: char| !letter.is_ascii_alphanumeric(), "-");
    let mut name = name.trim_matches('-').to_owned();
    if !name.starts_with(|letter: char| letter.is_ascii_alphabetic()) {
        name.insert_str(0, "model-");
    }
    name.truncate(63);
    name.trim_end_matches('-').to_owned()
}

/// Whether a file exists and differs from what is to be written.
fn is_stale(path: &Path, differs: impl FnOnce(&str) -> bool) -> Result<bool> {
    match fs::read_to_string(path) {
        Ok(earlier) => Ok(differs(&earlier)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::io("read", path)(error)),
    }
}

/// One more than the highest existing version.
fn next_version(folder: &Path) -> Result<u64> {
    let entries = fs::read_dir(folder).map_err(Error::io("read", folder))?;
    let versions = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u64>().ok());
    Ok(versions.max().unwrap_or(0).saturating_add(1))
}

/// The configuration, an `inference.ModelConfig` in protobuf's text format: what comes before the inputs and
/// outputs, these, and what comes after.
fn config(name: &str, file: &ModelFile) -> [String; 3] {
    let input = &file.manifest.decision.input;
    let (height, width, classes) = (input.height, input.width, file.manifest.decision.classes.len());
    // To Triton, a fixed batch is an ordinary axis.
    let (max_batch, batch) = match file.batch {
        Some(batch) => (0, format!("{batch}, ")),
        None => (MAX_BATCH, String::new()),
    };
    let (kind, image) = match file.input {
        InputForm::AnySize => ("UINT8", "-1, -1, 3".to_owned()),
        InputForm::Bytes => ("UINT8", format!("{height}, {width}, 3")),
        InputForm::Floats => ("FP32", format!("3, {height}, {width}")),
    };
    // Triton's tensors need an axis after the batch; these have none.
    let column = match file.batch {
        Some(batch) => format!("dims: [ {batch} ]"),
        None => "dims: [ 1 ] reshape: { shape: [ ] }".to_owned(),
    };
    let further: String = file
        .outputs
        .iter()
        .filter_map(|name| {
            let (kind, dims) = match name.as_str() {
                P_VALUE => ("FP32", column.clone()),
                FEATURES => ("FP32", format!("dims: [ {batch}{} ]", file.features?)),
                LOGIT_MAP => ("FP32", format!("dims: [ {batch}{classes}, -1, -1 ]")),
                UNKNOWN_AT => ("BOOL", format!("dims: [ {batch}{} ]", file.operating_points())),
                _ => return None,
            };
            Some(format!(",\n  {{ name: \"{name}\" data_type: TYPE_{kind} {dims} }}"))
        })
        .collect();
    let batching =
        if max_batch > 0 { "dynamic_batching { max_queue_delay_microseconds: 1000 }\n" } else { "" };
    let head = format!("name: \"{name}\"\nbackend: \"onnxruntime\"\nmax_batch_size: {max_batch}\n");
    let interface = format!(
        r#"input [
  {{ name: "images" data_type: TYPE_{kind} dims: [ {batch}{image} ] }}
]
output [
  {{ name: "logits" data_type: TYPE_FP32 dims: [ {batch}{classes} ] label_filename: "labels.txt" }},
  {{ name: "distances" data_type: TYPE_FP32 dims: [ {batch}{classes} ] }},
  {{ name: "score" data_type: TYPE_FP32 {column} }},
  {{ name: "label" data_type: TYPE_INT64 {column} }},
  {{ name: "unknown" data_type: TYPE_BOOL {column} }}{further}
]
"#
    );
    [head, interface, batching.to_owned()]
}

fn service(name: &str) -> String {
    format!(
        "apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: {name}
spec:
  predictor:
    model:
      runtime: kserve-tritonserver
      protocolVersion: v2
      modelFormat:
        name: onnx
      # The folder of this file, as the cluster reaches it: pvc://, s3://, gs://, ...
      storageUri: pvc://models
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_valid_in_kubernetes() {
        let named = |path: &str| name(Path::new(path));
        assert_eq!(named("a/cifar10-wrn-40-2.onnx"), "cifar10-wrn-40-2");
        assert_eq!(named("My Model_1.onnx"), "my-model-1");
        assert_eq!(named("10.onnx"), "model-10");
        assert_eq!(named("_.onnx"), "model");
        assert_eq!(named("häschen.onnx"), "h-schen");
        assert_eq!(named(&"1".repeat(80)).len(), 63);
    }
}
