//! ONNX Runtime, from a library that is found when the program runs.

use std::{
    error::Error as _,
    path::{Path, PathBuf},
    sync::Mutex,
};

use ndarray::{ArrayView4, Axis};
use ort::{
    environment::Environment,
    ep::{self, ExecutionProvider},
    logging::LogLevel,
    session::{Session, SessionInputValue, SessionOutputs},
    value::{PrimitiveTensorElementType, Tensor},
};

use super::{Provider, Scores, file::ModelFile};
use crate::error::{Error, Result};

/// The environment variable that names the library.
const LIBRARY: &str = "ORT_DYLIB_PATH";

/// One for the process; the library is never unloaded.
static ENVIRONMENT: Mutex<Option<(Environment, PathBuf)>> = Mutex::new(None);

pub(super) struct OnnxRuntime {
    /// ONNX Runtime spreads one run over all cores; ort asks for exclusive access to a session.
    session: Mutex<Session>,
    library: PathBuf,
}

impl OnnxRuntime {
    pub fn new(bytes: &[u8], file: &ModelFile, provider: Provider) -> Result<Self> {
        let unavailable = |reason: String| Error::Provider { provider: provider.to_string(), reason };
        let (environment, library) = environment().map_err(unavailable)?;
        // An explicit provider also keeps ONNX Runtime from choosing a device of its own.
        let dispatch = match provider {
            Provider::Cuda(device) => {
                if !ep::CUDA::is_available().unwrap_or(false) {
                    let library = library.display();
                    return Err(unavailable(format!("`{library}` is a build without CUDA")));
                }
                ep::CUDA::default().with_device_id(device as i32).build()
            }
            _ => ep::CPU::default().build(),
        };
        let mut builder = Session::builder(&environment)
            .map_err(|error| unavailable(error.to_string()))?
            .with_log_level(LogLevel::Fatal)
            .map_err(|error| unavailable(one_line(error)))?
            .with_execution_providers([dispatch.error_on_failure()])
            .map_err(|error| unavailable(one_line(error)))?;
        let session = builder
            .commit_from_memory(bytes)
            .map_err(|error| file.error(format!("ONNX Runtime cannot run it: {}", one_line(error))))?;
        Ok(Self { session: Mutex::new(session), library })
    }

    pub fn describe(&self) -> String {
        format!("ONNX Runtime, `{}`", self.library.display())
    }

    pub fn run(&self, images: ArrayView4<f32>, file: &ModelFile) -> Result<Scores> {
        let failed = |error: ort::Error| Error::Runtime { runtime: "ONNX Runtime", reason: one_line(error) };
        let n = images.len_of(Axis(0));
        let input: SessionInputValue = if file.takes_bytes {
            Tensor::from_array(super::bytes(images)).map_err(failed)?.into()
        } else {
            Tensor::from_array(images.as_standard_layout().into_owned()).map_err(failed)?.into()
        };
        let mut session = self.session.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let outputs = session.run(ort::inputs!["images" => input]).map_err(failed)?;
        fn values<T: PrimitiveTensorElementType + Clone>(
            outputs: &SessionOutputs,
            name: &str,
        ) -> ort::Result<Vec<T>> {
            Ok(outputs[name].try_extract_tensor::<T>()?.1.to_vec())
        }
        let floats = |name| values::<f32>(&outputs, name).map_err(failed);
        Scores::from_outputs(
            "ONNX Runtime",
            (n, file.manifest.classes.len()),
            (floats("logits")?, floats("distances")?),
            floats("score")?,
            values::<i64>(&outputs, "label").map_err(failed)?,
            values::<bool>(&outputs, "unknown").map_err(failed)?,
        )
    }
}

/// Loads the library on first use; a later use tries again where that failed.
fn environment() -> std::result::Result<(Environment, PathBuf), String> {
    let mut environment = ENVIRONMENT.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some(loaded) = &*environment {
        return Ok(loaded.clone());
    }
    let library = library();
    let path = library.display();
    let loaded = match ort::init_from(&library) {
        Ok(builder) => builder
            // What goes wrong comes back as an error; it need not be printed as well.
            .with_logger(std::sync::Arc::new(|_, _, _, _, _| {}))
            .build()
            .map_err(|error| format!("`{path}`: {}", one_line(error))),
        Err(ort::LoadDynamicError::Dlopen { error, .. }) => {
            let cause = error.source().map_or_else(|| error.to_string(), ToString::to_string);
            Err(format!("cannot load `{path}`: {cause}"))
        }
        Err(error) => Err(one_line(error)),
    }?;
    Ok(environment.insert((loaded, library)).clone())
}

/// Where the library is: what the environment names; else beside the program; else where `make native` puts
/// it in the checkout that the program was built in; else wherever the system's loader finds it.
fn library() -> PathBuf {
    if let Some(path) = std::env::var_os(LIBRARY).filter(|path| !path.is_empty()) {
        return path.into();
    }
    let name = format!("{}onnxruntime{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    let program = std::env::current_exe().unwrap_or_default();
    let folders: Vec<&Path> = program.ancestors().skip(1).collect();
    let beside = folders.first().map(|folder| folder.join(&name));
    let installed = folders.iter().map(|folder| folder.join(".native/onnxruntime/lib/libonnxruntime.so"));
    beside.into_iter().chain(installed).find(|path| path.is_file()).unwrap_or_else(|| name.into())
}

fn one_line(error: impl ToString) -> String {
    error.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}
