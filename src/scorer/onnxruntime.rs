//! ONNX Runtime, from a shared library that is loaded at run time.

use std::{
    collections::BTreeMap,
    error::Error as _,
    path::{Path, PathBuf},
    sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError},
};

use ort::{
    environment::{Environment, GlobalThreadPoolOptions},
    ep::{self, ArbitrarilyConfigurableExecutionProvider, ExecutionProvider},
    logging::LogLevel,
    session::{Session, SessionInputValue, SessionOutputs, builder::SessionBuilder},
    value::{PrimitiveTensorElementType, Tensor},
};
use prost::{Message, bytes::Bytes};
use serde::Deserialize;
use tempfile::TempDir;

use super::{
    Provider,
    images::Images,
    outputs::{Outputs, Returned},
};
use crate::{
    error::{Error, Result},
    model::{
        InputForm,
        file::ModelFile,
        proto::{Graph, Model, Node, Value, element},
    },
};

pub(super) const NAME: &str = "ONNX Runtime";

/// The environment variable that names the library.
const LIBRARY: &str = "ORT_DYLIB_PATH";

/// Maximum number of sessions per model. ort needs a session for each concurrent run, and each session holds
/// the weights. All sessions share ONNX Runtime's thread pool, so more would not be faster.
const MAX_SESSIONS: usize = 4;

/// One per process; the library is never unloaded.
static ENVIRONMENT: Mutex<Option<(Environment, PathBuf)>> = Mutex::new(None);

pub(super) struct OnnxRuntime {
    pool: Mutex<Pool>,
    /// Notified when a session becomes idle.
    idle: Condvar,
    /// The model file, for further sessions.
    model: Bytes,
    provider: Provider,
    library: PathBuf,
    placement: OnceLock<Result<BTreeMap<String, usize>, String>>,
}

/// The idle sessions, the number of all sessions, and its maximum.
struct Pool {
    idle: Vec<ModelSession>,
    count: usize,
    limit: usize,
}

struct ModelSession {
    session: Session,
    /// Folder of the profile, until the first run ends.
    profile: Option<TempDir>,
}

/// A session in use. Dropping it makes the session idle again or, after a panic, makes room for a new one.
struct Lease<'a> {
    runtime: &'a OnnxRuntime,
    session: Option<ModelSession>,
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        let mut pool = self.runtime.pool();
        match self.session.take() {
            Some(session) if !std::thread::panicking() => pool.idle.push(session),
            _ => pool.count -= 1,
        }
        drop(pool);
        self.runtime.idle.notify_one();
    }
}

impl OnnxRuntime {
    pub fn new(model: Bytes, file: &ModelFile, provider: Provider, is_profiled: bool) -> Result<Self> {
        let placement = OnceLock::new();
        let profile = match is_profiled.then(tempfile::tempdir).transpose() {
            Ok(folder) => folder,
            Err(error) => {
                let _ = placement.set(Err(format!("cannot create a folder for the profile: {error}")));
                None
            }
        };
        let (session, library) = session(&model, file, provider, profile.as_ref().map(TempDir::path))?;
        let pool = Pool { idle: vec![ModelSession { session, profile }], count: 1, limit: MAX_SESSIONS };
        Ok(Self { pool: Mutex::new(pool), idle: Condvar::new(), model, provider, library, placement })
    }

    /// The batch size at which images are scored fastest.
    pub fn preferred_batch(&self) -> usize {
        match self.provider {
            Provider::Cuda(_) | Provider::TensorRt(_) => 256,
            _ => 64,
        }
    }

    pub fn describe(&self) -> String {
        description(&self.library)
    }

    /// Runs the network on at most `most` images at a time, whose activations must fit into memory.
    pub fn run(&self, images: Images, most: usize, file: &ModelFile) -> Result<Outputs> {
        let mut lease = self.take(file)?;
        let ModelSession { session, profile } = lease.session.as_mut().expect("a lease has a session");
        // With a fixed batch the images are already padded to whole batches.
        let batch = file.batch.unwrap_or(most);
        let parts = (0..images.len()).step_by(batch).map(|start| images.part(start, batch));
        let outputs = parts.map(|part| {
            let outputs = run(session, part, file);
            if let Some(folder) = profile.take() {
                let _ = self.placement.set(count_operators(session, folder));
            }
            outputs
        });
        let outputs = outputs.collect::<Result<Vec<Outputs>>>()?;
        Outputs::concatenate(outputs, file, NAME)
    }

    /// Takes an idle session, creates one below the limit, or waits for the next idle one. If no further one
    /// can be created, for example because memory is full, the limit drops to the current count.
    fn take(&self, file: &ModelFile) -> Result<Lease<'_>> {
        let mut pool = self.pool();
        loop {
            if let Some(session) = pool.idle.pop() {
                return Ok(Lease { runtime: self, session: Some(session) });
            }
            if pool.count < pool.limit {
                pool.count += 1;
                drop(pool);
                let mut lease = Lease { runtime: self, session: None };
                match session(&self.model, file, self.provider, None) {
                    Ok((session, _)) => {
                        lease.session = Some(ModelSession { session, profile: None });
                        return Ok(lease);
                    }
                    Err(error) => {
                        drop(lease);
                        pool = self.pool();
                        if pool.count == 0 {
                            return Err(error);
                        }
                        pool.limit = pool.count;
                        continue;
                    }
                }
            }
            pool = self.idle.wait(pool).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of operators that each execution provider has run.
    pub fn placement(&self) -> Result<BTreeMap<String, usize>> {
        match self.placement.get() {
            Some(Ok(counts)) => Ok(counts.clone()),
            Some(Err(reason)) => Err(Error::Runtime { runtime: NAME, reason: reason.clone() }),
            None => Ok(BTreeMap::new()),
        }
    }
}

/// Ends a session's profile and counts the operators in it by execution provider.
fn count_operators(session: &mut Session, folder: TempDir) -> Result<BTreeMap<String, usize>, String> {
    let file = session.end_profiling().map_err(one_line)?;
    let text = std::fs::read(folder.path().join(file))
        .map_err(|error| format!("cannot read the profile: {error}"))?;
    let events: Vec<ProfileEvent> =
        serde_json::from_slice(&text).map_err(|error| format!("the profile is not valid JSON: {error}"))?;
    let mut counts = BTreeMap::new();
    for event in events.into_iter().filter(|event| event.cat == "Node") {
        if let Some(provider) = event.args.provider {
            *counts.entry(provider).or_insert(0) += 1;
        }
    }
    Ok(counts)
}

/// A session with a model, and the path of the library.
fn session(
    bytes: &[u8],
    file: &ModelFile,
    provider: Provider,
    profile: Option<&Path>,
) -> Result<(Session, PathBuf)> {
    let (mut builder, library) = builder(provider)?;
    let refused = |error: ort::Error| file.unsupported(NAME, one_line(error));
    if let Some(folder) = profile {
        builder = builder.with_profiling(folder.join("profile")).map_err(|error| refused(error.into()))?;
    }
    let session = builder.commit_from_memory(bytes).map_err(refused)?;
    Ok((session, library))
}

fn run(session: &mut Session, images: Images, file: &ModelFile) -> Result<Outputs> {
    let failed = |error: ort::Error| Error::Runtime { runtime: NAME, reason: one_line(error) };
    let n = images.len();
    let input: SessionInputValue = match file.input {
        InputForm::Floats => Tensor::from_array(images.to_floats()).map_err(failed)?.into(),
        InputForm::Bytes | InputForm::AnySize => {
            Tensor::from_array(images.to_bytes()).map_err(failed)?.into()
        }
    };
    let outputs = session.run(ort::inputs!["images" => input]).map_err(failed)?;
    Outputs::read(&outputs, NAME, n, file)
}

impl Returned for SessionOutputs<'_> {
    fn floats(&self, name: &str) -> Result<(Vec<usize>, Vec<f32>), String> {
        values(self, name)
    }

    fn integers(&self, name: &str) -> Result<Vec<i64>, String> {
        Ok(values(self, name)?.1)
    }

    fn flags(&self, name: &str) -> Result<Vec<bool>, String> {
        Ok(values(self, name)?.1)
    }
}

/// The shape and the values of an output.
fn values<T: PrimitiveTensorElementType + Clone>(
    outputs: &SessionOutputs,
    name: &str,
) -> Result<(Vec<usize>, Vec<T>), String> {
    let (shape, values) = outputs[name].try_extract_tensor::<T>().map_err(one_line)?;
    let shape = shape.iter().map(|&length| usize::try_from(length).unwrap_or(0)).collect();
    Ok((shape, values.to_vec()))
}

/// A builder of sessions on a provider, and the path of the library.
fn builder(provider: Provider) -> Result<(SessionBuilder, PathBuf)> {
    let unavailable = |reason: String| Error::Provider { provider: provider.to_string(), reason };
    let (environment, library) = environment().map_err(unavailable)?;
    let (is_built_in, dispatch) = match provider {
        // Explicit, so ONNX Runtime does not choose a device itself. With an arena, the memory of a run
        // belongs to its session; malloc would keep it for each thread that ran one.
        Provider::Cpu | Provider::OnnxRuntime => offer(ep::CPU::default().with_arena_allocator(true)),
        // TF32 would round to three digits, and every other provider would differ. The heuristic finds
        // kernels in milliseconds; a search runs them all, for each batch size.
        Provider::Cuda(device) => offer(
            ep::CUDA::default()
                .with_device_id(device as i32)
                .with_tf32(false)
                .with_conv_algorithm_search(ep::cuda::ConvAlgorithmSearch::Heuristic),
        ),
        Provider::TensorRt(device) => offer(ep::TensorRT::default().with_device_id(device as i32)),
        Provider::OpenVino => offer(ep::OpenVINO::default()),
        Provider::OpenVinoBf16 => {
            let settings = r#"{"CPU": {"INFERENCE_PRECISION_HINT": "bf16"}}"#;
            let provider = ep::OpenVINO::default().with_device_type("CPU");
            offer(provider.with_arbitrary_config("load_config", settings))
        }
        Provider::CoreMl => offer(ep::CoreML::default()),
        Provider::DirectMl(device) => offer(ep::DirectML::default().with_device_id(device as i32)),
        Provider::WebGpu => offer(ep::WebGPU::default()),
    };
    if !is_built_in {
        let (library, provider) = (library.display(), provider.to_string());
        let name = provider.split(':').next().unwrap_or_default();
        return Err(unavailable(format!("`{library}` was built without {name}")));
    }
    #[cfg(target_arch = "x86_64")]
    let has_bf16 = std::arch::is_x86_feature_detected!("avx512bf16");
    #[cfg(not(target_arch = "x86_64"))]
    let has_bf16 = false;
    if provider == Provider::OpenVinoBf16 && !has_bf16 {
        // OpenVINO would silently compute in float32.
        return Err(unavailable("this processor has no AVX512-BF16".to_owned()));
    }
    let builder = Session::builder(&environment)
        .map_err(|error| unavailable(error.to_string()))?
        // A pattern allocates the memory of a run as one block, whose size depends on the batch size.
        .with_memory_pattern(provider != Provider::OnnxRuntime)
        .map_err(|error| unavailable(one_line(error)))?
        .with_log_level(LogLevel::Fatal)
        .map_err(|error| unavailable(one_line(error)))?
        .with_execution_providers([dispatch.error_on_failure()])
        .map_err(|error| unavailable(one_line(error)))?;
    Ok((builder, library))
}

/// Whether the library has an execution provider, and the provider in the form that a session takes.
fn offer<P: ExecutionProvider + 'static>(provider: P) -> (bool, ep::ExecutionProviderDispatch)
where
    ep::ExecutionProviderDispatch: From<P>,
{
    (P::is_available().unwrap_or(false), provider.into())
}

/// Runs a network of one operator on a provider; returns the name of the runtime.
pub(super) fn check(provider: Provider) -> Result<String> {
    let (mut builder, library) = builder(provider)?;
    let unavailable = |reason: String| Error::Provider { provider: provider.to_string(), reason };
    if provider != Provider::OnnxRuntime {
        // Otherwise ONNX Runtime would fall back to its CPU provider for unsupported operators.
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
    let model = Model::new(graph, Vec::new());
    let mut session = builder.commit_from_memory(&model.encode_to_vec()).map_err(unavailable)?;
    let input = Tensor::from_array(([1], vec![1.0_f32])).map_err(unavailable)?;
    session.run(ort::inputs!["x" => input]).map_err(unavailable)?;
    Ok(description(&library))
}

/// The name of the runtime, and its library.
fn description(library: &Path) -> String {
    format!("{NAME}, `{}`", library.display())
}

/// An event of ONNX Runtime's profile.
#[derive(Deserialize)]
struct ProfileEvent {
    cat: String,
    #[serde(default)]
    args: ProfileArgs,
}

#[derive(Default, Deserialize)]
struct ProfileArgs {
    /// The execution provider, for events that ran an operator.
    provider: Option<String>,
}

/// Loads ONNX Runtime from a file, before the first model: else the variable `ORT_DYLIB_PATH` names the library, or
/// it is next to the program, or where the system looks for libraries. A process has one.
///
/// # Errors
/// [`Error::Provider`] if the library cannot be loaded, or another one is.
pub fn load_onnxruntime(library: &Path) -> Result<()> {
    let provider = Provider::OnnxRuntime.to_string();
    let unavailable = |reason: String| Error::Provider { provider, reason };
    let library = library.canonicalize().unwrap_or(library.to_owned());
    match environment_of(|| library.clone()) {
        Ok((_, loaded)) if loaded.canonicalize().unwrap_or(loaded.clone()) == library => Ok(()),
        Ok((_, loaded)) => {
            let (library, loaded) = (library.display(), loaded.display());
            Err(unavailable(format!("cannot load `{library}`: the process has loaded `{loaded}`")))
        }
        Err(reason) => Err(unavailable(reason)),
    }
}

fn environment() -> Result<(Environment, PathBuf), String> {
    environment_of(library)
}

/// Loads the library on first use; after a failure the next use tries again.
fn environment_of(library: impl FnOnce() -> PathBuf) -> Result<(Environment, PathBuf), String> {
    let mut environment = ENVIRONMENT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(loaded) = &*environment {
        return Ok(loaded.clone());
    }
    let library = library();
    let path = library.display();
    let loaded = match ort::init_from(&library) {
        Ok(builder) => builder
            // Failures are returned as errors; do not print them as well.
            .with_logger(std::sync::Arc::new(|_, _, _, _, _| {}))
            .with_global_thread_pool(threads()?)
            .with_telemetry(false)
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

/// The threads of all sessions: one for each physical core, or as many as rayon has if its variable limits these.
fn threads() -> Result<GlobalThreadPoolOptions, String> {
    let threads = GlobalThreadPoolOptions::default();
    match std::env::var_os("RAYON_NUM_THREADS").filter(|limit| !limit.is_empty()) {
        Some(_) => threads.with_intra_threads(rayon::current_num_threads()).map_err(one_line),
        None => Ok(threads),
    }
}

/// Path of the library: the environment variable, else the file next to the program, else the bare name for
/// the system's loader.
fn library() -> PathBuf {
    if let Some(path) = std::env::var_os(LIBRARY).filter(|path| !path.is_empty()) {
        let path = PathBuf::from(path);
        // For a name without a folder, the loader does not look in the current folder.
        return path.canonicalize().ok().filter(|path| path.is_file()).unwrap_or(path);
    }
    let name = format!("{}onnxruntime{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    let beside = std::env::current_exe().ok().and_then(|program| Some(program.parent()?.join(&name)));
    // ONNX Runtime looks for provider libraries next to its real path, not next to a symlink.
    let file = beside.and_then(|path| path.canonicalize().ok());
    file.filter(|path| path.is_file()).unwrap_or_else(|| name.into())
}

/// An error as one line, without the source locations in ONNX Runtime at its start.
fn one_line(error: impl ToString) -> String {
    let line = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
    let marked = line.rsplit_once("[ONNXRuntimeError] : ").map(|(_, marked)| marked);
    // NUMBER : NAME : REASON
    let reason = marked.and_then(|marked| marked.splitn(3, " : ").nth(2)).map(str::to_owned);
    reason.unwrap_or(line)
}
