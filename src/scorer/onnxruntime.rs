//! ONNX Runtime, from a library that is found when the program runs.

use std::{
    collections::BTreeMap,
    error::Error as _,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use ndarray::{Array4, ArrayView4, Axis};
use ort::{
    environment::{Environment, GlobalThreadPoolOptions},
    ep::{self, ExecutionProvider},
    logging::LogLevel,
    session::{Session, SessionInputValue, SessionOutputs, builder::SessionBuilder},
    value::{PrimitiveTensorElementType, Tensor},
};
use prost::Message;
use serde::Deserialize;

use super::{Provider, Scores, file::ModelFile};
use crate::{
    error::{Error, Result},
    onnx::{Graph, Model, Node, OperatorSet, Value, element},
};

/// The environment variable that names the library.
const LIBRARY: &str = "ORT_DYLIB_PATH";

/// One for the process; the library is never unloaded.
static ENVIRONMENT: Mutex<Option<(Environment, PathBuf)>> = Mutex::new(None);

pub(super) struct OnnxRuntime {
    /// Those that are not running. ort wants a session for each thread that runs one; all of them share ONNX
    /// Runtime's threads.
    idle: Mutex<Vec<Session>>,
    /// To make more of them.
    model: Vec<u8>,
    provider: Provider,
    library: PathBuf,
}

impl OnnxRuntime {
    pub fn new(bytes: &[u8], file: &ModelFile, provider: Provider) -> Result<Self> {
        let (session, library) = session(bytes, file, provider)?;
        Ok(Self { idle: Mutex::new(vec![session]), model: bytes.to_owned(), provider, library })
    }

    pub fn describe(&self) -> String {
        format!("ONNX Runtime, `{}`", self.library.display())
    }

    pub fn run(&self, images: ArrayView4<f32>, file: &ModelFile) -> Result<Scores> {
        let idle = || self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = idle().pop();
        let mut session = match taken {
            Some(session) => session,
            None => session(&self.model, file, self.provider)?.0,
        };
        // Of a fixed batch come whole ones.
        let batch = file.batch.unwrap_or(images.len_of(Axis(0)).max(1));
        let chunks = images.axis_chunks_iter(Axis(0), batch);
        let parts: Result<Vec<Scores>> = chunks.map(|images| run(&mut session, images, file)).collect();
        idle().push(session);
        Ok(Scores::concatenate(&parts?, file.manifest.classes.len()))
    }

    /// The number of operators that each execution provider has run, from the profile of one run.
    pub fn placement(&self, file: &ModelFile) -> Result<BTreeMap<String, usize>> {
        let failed = |reason: String| Error::Runtime { runtime: "ONNX Runtime", reason };
        let folder = tempfile::tempdir().map_err(Error::io("create", &std::env::temp_dir()))?;
        let (builder, _) = builder(self.provider)?;
        let mut session = builder
            .with_profiling(folder.path().join("profile"))
            .map_err(|error| failed(one_line(error)))?
            .commit_from_memory(&self.model)
            .map_err(|error| cannot_run(file, error))?;
        let input = &file.manifest.input;
        let black = Array4::zeros((file.batch.unwrap_or(1), 3, input.height, input.width));
        run(&mut session, black.view(), file)?;
        let profile = PathBuf::from(session.end_profiling().map_err(|error| failed(one_line(error)))?);
        let text = std::fs::read(&profile).map_err(Error::io("read", &profile))?;
        let events: Vec<ProfileEvent> = serde_json::from_slice(&text)
            .map_err(|error| failed(format!("its profile is no JSON: {error}")))?;
        let mut counts = BTreeMap::new();
        for provider in
            events.into_iter().filter(|event| event.cat == "Node").filter_map(|event| event.args.provider)
        {
            *counts.entry(provider).or_insert(0) += 1;
        }
        Ok(counts)
    }
}

/// A session with a model, and the library that it is from.
fn session(bytes: &[u8], file: &ModelFile, provider: Provider) -> Result<(Session, PathBuf)> {
    let (mut builder, library) = builder(provider)?;
    let session = builder.commit_from_memory(bytes).map_err(|error| cannot_run(file, error))?;
    Ok((session, library))
}

fn run(session: &mut Session, images: ArrayView4<f32>, file: &ModelFile) -> Result<Scores> {
    let failed = |error: ort::Error| Error::Runtime { runtime: "ONNX Runtime", reason: one_line(error) };
    let n = images.len_of(Axis(0));
    let input: SessionInputValue = if file.takes_bytes {
        Tensor::from_array(super::bytes(images)).map_err(failed)?.into()
    } else {
        Tensor::from_array(images.as_standard_layout().into_owned()).map_err(failed)?.into()
    };
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

/// What makes sessions that run on a provider, and the library that it is from.
fn builder(provider: Provider) -> Result<(SessionBuilder, PathBuf)> {
    let unavailable = |reason: String| Error::Provider { provider: provider.to_string(), reason };
    let (environment, library) = environment().map_err(unavailable)?;
    let (is_built_in, dispatch) = match provider {
        // Named, to keep ONNX Runtime from choosing a device of its own.
        Provider::Cpu | Provider::OnnxRuntime => offer(ep::CPU::default()),
        Provider::Cuda(device) => offer(ep::CUDA::default().with_device_id(device as i32)),
        Provider::TensorRt(device) => offer(ep::TensorRT::default().with_device_id(device as i32)),
        Provider::OpenVino => offer(ep::OpenVINO::default()),
        Provider::CoreMl => offer(ep::CoreML::default()),
        Provider::DirectMl(device) => offer(ep::DirectML::default().with_device_id(device as i32)),
        Provider::WebGpu => offer(ep::WebGPU::default()),
    };
    if !is_built_in {
        let (library, provider) = (library.display(), provider.to_string());
        let name = provider.split(':').next().unwrap_or_default();
        return Err(unavailable(format!("`{library}` is a build without {name}")));
    }
    let builder = Session::builder(&environment)
        .map_err(|error| unavailable(error.to_string()))?
        .with_log_level(LogLevel::Fatal)
        .map_err(|error| unavailable(one_line(error)))?
        .with_execution_providers([dispatch.error_on_failure()])
        .map_err(|error| unavailable(one_line(error)))?;
    Ok((builder, library))
}

/// Whether the library has an execution provider, and what puts it into a session.
fn offer<P: ExecutionProvider + 'static>(provider: P) -> (bool, ep::ExecutionProviderDispatch)
where
    ep::ExecutionProviderDispatch: From<P>,
{
    (P::is_available().unwrap_or(false), provider.into())
}

fn cannot_run(file: &ModelFile, error: impl ToString) -> Error {
    file.error(format!("ONNX Runtime cannot run it: {}", one_line(error)))
}

/// Makes a session of one operator on a provider; says what it runs on.
pub(super) fn check(provider: Provider) -> Result<String> {
    let (mut builder, library) = builder(provider)?;
    let unavailable = |reason: String| Error::Provider { provider: provider.to_string(), reason };
    if provider != Provider::OnnxRuntime {
        // Else ONNX Runtime's own code would run what the provider does not.
        builder = builder.with_disable_cpu_fallback().map_err(|error| unavailable(one_line(error)))?;
    }
    let unavailable = |error: ort::Error| unavailable(one_line(error));
    let value = |name| vec![Value::new(name, element::FLOAT, &[Some(1)])];
    let names = |name: &str| vec![name.to_owned()];
    let node = Node { op_type: "Relu".to_owned(), input: names("x"), output: names("y"), ..Node::default() };
    let graph = Graph {
        name: "check".to_owned(),
        node: vec![node],
        input: value("x"),
        output: value("y"),
        ..Graph::default()
    };
    let opset_import = vec![OperatorSet { version: 17, ..OperatorSet::default() }];
    let model = Model { ir_version: 8, opset_import, graph: Some(graph), ..Model::default() };
    let mut session = builder.commit_from_memory(&model.encode_to_vec()).map_err(unavailable)?;
    let input = Tensor::from_array(([1], vec![1.0_f32])).map_err(unavailable)?;
    session.run(ort::inputs!["x" => input]).map_err(unavailable)?;
    Ok(format!("ONNX Runtime, `{}`", library.display()))
}

/// A line of ONNX Runtime's profile.
#[derive(Deserialize)]
struct ProfileEvent {
    cat: String,
    #[serde(default)]
    args: ProfileArgs,
}

#[derive(Default, Deserialize)]
struct ProfileArgs {
    /// Of those that ran an operator.
    provider: Option<String>,
}

/// Loads the library on first use; a later use tries again where that failed.
fn environment() -> std::result::Result<(Environment, PathBuf), String> {
    let mut environment = ENVIRONMENT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(loaded) = &*environment {
        return Ok(loaded.clone());
    }
    let library = library();
    let path = library.display();
    let loaded = match ort::init_from(&library) {
        Ok(builder) => builder
            // What goes wrong comes back as an error; it need not be printed as well.
            .with_logger(std::sync::Arc::new(|_, _, _, _, _| {}))
            .with_global_thread_pool(GlobalThreadPoolOptions::default())
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
