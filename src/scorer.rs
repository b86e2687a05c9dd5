//! Scores pictures with an exported model.

pub(crate) mod file;
#[cfg(feature = "onnxruntime")]
mod onnxruntime;
#[cfg(feature = "tract")]
pub(crate) mod tract;

use std::{collections::BTreeMap, fmt, path::Path, str::FromStr};

use image::RgbImage;
use ndarray::{Array1, Array2, Array4, ArrayView4, Axis, Slice, concatenate};

use crate::{
    cac,
    error::{Error, Result},
    manifest::Manifest,
    preprocess,
};
use file::ModelFile;

/// What runs the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Provider {
    /// tract: pure Rust, on all processor cores.
    Cpu,
    /// ONNX Runtime on the processor.
    OnnxRuntime,
    /// ONNX Runtime on the CUDA device with this number.
    Cuda(u32),
    /// ONNX Runtime with TensorRT on the CUDA device with this number.
    TensorRt(u32),
    /// ONNX Runtime with Intel's OpenVINO, on the device that it chooses.
    OpenVino,
    /// ONNX Runtime with Apple's Core ML.
    CoreMl,
    /// ONNX Runtime with Microsoft's DirectML on the adapter with this number.
    DirectMl(u32),
    /// ONNX Runtime with WebGPU.
    WebGpu,
}

impl Provider {
    /// All of them; those that have a device with the first.
    pub const ALL: [Self; 8] = [
        Self::Cpu,
        Self::OnnxRuntime,
        Self::Cuda(0),
        Self::TensorRt(0),
        Self::OpenVino,
        Self::CoreMl,
        Self::DirectMl(0),
        Self::WebGpu,
    ];

    /// Tries whether this program can use it on this machine, by running a network of one operator; says what
    /// would run a model.
    ///
    /// # Errors
    /// [`Error::Provider`] with the reason why not.
    pub fn check(self) -> Result<String> {
        match self {
            #[cfg(feature = "tract")]
            Self::Cpu => Ok(format!("tract, {} threads", rayon::current_num_threads())),
            #[cfg(not(feature = "tract"))]
            Self::Cpu => Err(self.is_without("tract")),
            #[cfg(feature = "onnxruntime")]
            _ => onnxruntime::check(self),
            #[cfg(not(feature = "onnxruntime"))]
            _ => Err(self.is_without("onnxruntime")),
        }
    }

    #[cfg(not(all(feature = "tract", feature = "onnxruntime")))]
    fn is_without(self, feature: &str) -> Error {
        let reason = format!("this program was built without the feature `{feature}`");
        Error::Provider { provider: self.to_string(), reason }
    }
}

/// A model, ready to score. Threads that share it score at once: no lock is held while a network runs.
pub struct Scorer {
    file: ModelFile,
    threshold: f32,
    provider: Provider,
    runtime: Runtime,
}

enum Runtime {
    #[cfg(feature = "tract")]
    Tract(tract::Tract),
    #[cfg(feature = "onnxruntime")]
    OnnxRuntime(onnxruntime::OnnxRuntime),
}

/// What a model says of N pictures, with C known classes.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    /// `[N, C]`.
    pub logits: Array2<f32>,
    /// Euclidean distances to the anchors, `[N, C]`, at least 0.
    pub distances: Array2<f32>,
    /// Rejection scores `[N]`; larger = more likely unknown.
    pub score: Array1<f32>,
    /// Indices of the nearest anchors, `[N]`, 0 to below C.
    pub label: Array1<usize>,
    /// Whether the score is above the threshold, `[N]`.
    pub unknown: Array1<bool>,
}

/// What a model says of one picture.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Verdict {
    /// The name of the nearest class, also where the picture is unknown.
    pub class: String,
    /// Whether the picture belongs to none of the known classes.
    pub unknown: bool,
    /// The rejection score; larger = more likely unknown.
    pub score: f32,
    /// The score above which a picture is unknown.
    pub threshold: f32,
}

impl Scorer {
    /// Opens a model file.
    ///
    /// # Errors
    /// [`Error::Io`], those of [`from_bytes`](Self::from_bytes), with the path in them.
    pub fn open(path: impl AsRef<Path>, provider: Provider) -> Result<Self> {
        let path = path.as_ref();
        let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
        Self::parse(&bytes, provider, &path.display().to_string())
    }

    /// Reads a model from memory.
    ///
    /// # Errors
    /// [`Error::Model`] and [`Error::FormatVersion`] where it is no model of this toolkit or a damaged one,
    /// [`Error::Provider`] where the provider cannot be used: another one is never taken in its place.
    pub fn from_bytes(bytes: &[u8], provider: Provider) -> Result<Self> {
        Self::parse(bytes, provider, "memory")
    }

    fn parse(bytes: &[u8], provider: Provider, origin: &str) -> Result<Self> {
        let (file, _) = ModelFile::parse(bytes, origin)?;
        let runtime = match provider {
            #[cfg(feature = "tract")]
            Provider::Cpu => Runtime::Tract(tract::Tract::new(bytes, &file)?),
            #[cfg(not(feature = "tract"))]
            Provider::Cpu => return Err(provider.is_without("tract")),
            #[cfg(feature = "onnxruntime")]
            _ => Runtime::OnnxRuntime(onnxruntime::OnnxRuntime::new(bytes, &file, provider)?),
            #[cfg(not(feature = "onnxruntime"))]
            _ => return Err(provider.is_without("onnxruntime")),
        };
        Ok(Self { threshold: file.threshold, file, provider, runtime })
    }

    /// Another threshold in place of the file's.
    ///
    /// # Errors
    /// [`Error::Setting`] where it is not a number.
    pub fn with_threshold(mut self, threshold: f32) -> Result<Self> {
        if threshold.is_nan() {
            return Err(Error::setting("threshold", threshold, "must be a number"));
        }
        self.threshold = threshold;
        Ok(self)
    }

    /// The threshold that keeps another share (0 to 1) of the held-out known pictures whose scores travel in
    /// the file.
    ///
    /// # Errors
    /// [`Error::Setting`] where `keep` is no share, or the file has no such scores.
    pub fn with_keep(self, keep: f64) -> Result<Self> {
        let scores = self.file.manifest.threshold.iter().flat_map(|threshold| &threshold.held_out_scores);
        let scores: Vec<f32> = scores.copied().collect();
        let threshold = cac::threshold(&scores, keep).filter(|_| (0.0..=1.0).contains(&keep));
        let threshold = threshold.ok_or_else(|| {
            let reason = if scores.is_empty() {
                "the model has no held-out scores to choose a threshold from"
            } else {
                "must be a share from 0 to 1"
            };
            Error::setting("keep", keep, reason)
        })?;
        self.with_threshold(threshold)
    }

    /// What travels in the file.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.file.manifest
    }

    /// The threshold in force.
    #[must_use]
    pub fn threshold(&self) -> f32 {
        self.threshold
    }

    /// The provider that was asked for, which is the one that runs the network.
    #[must_use]
    pub fn provider(&self) -> Provider {
        self.provider
    }

    /// The provider and the runtime behind it, for people.
    #[must_use]
    pub fn runtime(&self) -> String {
        match &self.runtime {
            #[cfg(feature = "tract")]
            Runtime::Tract(_) => format!("cpu: tract, {} threads", rayon::current_num_threads()),
            #[cfg(feature = "onnxruntime")]
            Runtime::OnnxRuntime(runtime) => format!("{}: {}", self.provider, runtime.describe()),
        }
    }

    /// Where the operators of the model really run, as their number by the name of the execution provider: ONNX Runtime
    /// gives those that one cannot run to another. Found by running them once more. tract runs all itself, and its map
    /// is empty.
    ///
    /// # Errors
    /// [`Error::Runtime`], and [`Error::Io`] for the profile, a temporary file.
    pub fn placement(&self) -> Result<BTreeMap<String, usize>> {
        match &self.runtime {
            #[cfg(feature = "tract")]
            Runtime::Tract(_) => Ok(BTreeMap::new()),
            #[cfg(feature = "onnxruntime")]
            Runtime::OnnxRuntime(runtime) => runtime.placement(&self.file),
        }
    }

    /// The number of pictures that are best scored in one call.
    #[must_use]
    pub fn preferred_batch(&self) -> usize {
        match &self.runtime {
            #[cfg(feature = "tract")]
            // One picture a thread: a long batch keeps all threads busy to its end.
            Runtime::Tract(_) => 256,
            #[cfg(feature = "onnxruntime")]
            Runtime::OnnxRuntime(_) => 64,
        }
    }

    /// Scores black pictures, so that the first real ones need not wait for what a runtime does once: choosing
    /// kernels, reserving memory, with some providers compiling the network for batches of this size. Of threads that
    /// score at once on ONNX Runtime each does that for itself, the first time that so many do.
    ///
    /// # Errors
    /// [`Error::Runtime`] where the runtime fails.
    pub fn warm_up(&self, batch: usize) -> Result<()> {
        let input = &self.file.manifest.input;
        self.score(Array4::zeros((batch, 3, input.height, input.width)).view()).map(drop)
    }

    /// Scores pictures `[N, 3, H, W]`, RGB in 0..=1.
    ///
    /// # Errors
    /// [`Error::Shape`] where the pictures do not have the model's size, [`Error::Setting`] where a value is not
    /// finite, [`Error::Runtime`] where the runtime fails.
    pub fn score(&self, images: ArrayView4<f32>) -> Result<Scores> {
        let input = &self.file.manifest.input;
        if images.shape()[1..] != [3, input.height, input.width] {
            return Err(Error::Shape {
                what: "the batch of pictures",
                found: images.shape().to_vec(),
                expected: format!("[N, 3, {}, {}]", input.height, input.width),
            });
        }
        // Some runtimes take the greater of 0 and no number for 0, and would call such a picture known.
        if let Some(value) = images.iter().find(|value| !value.is_finite()) {
            return Err(Error::setting("picture", value, "must have values from 0 to 1"));
        }
        let mut scores = match self.file.batch {
            Some(batch) => self.score_in_batches_of(batch, images)?,
            None => self.run(images)?,
        };
        if self.threshold.to_bits() != self.file.threshold.to_bits() {
            scores.unknown = scores.score.map(|&score| cac::is_unknown(score, self.threshold));
        }
        Ok(scores)
    }

    /// Scores one picture of any size; what is no RGB yet becomes it with `DynamicImage::to_rgb8`.
    ///
    /// # Errors
    /// [`Error::Runtime`] where the runtime fails.
    pub fn score_picture(&self, picture: &RgbImage) -> Result<Verdict> {
        let input = &self.file.manifest.input;
        let values = preprocess::tensor(picture, input.height, input.width);
        let shape = (1, 3, input.height, input.width);
        let scores = self.score(ArrayView4::from_shape(shape, &values).expect("one picture"))?;
        Ok(self.verdicts(&scores).remove(0))
    }

    /// What this model's scores say of each picture.
    #[must_use]
    pub fn verdicts(&self, scores: &Scores) -> Vec<Verdict> {
        let classes = &self.file.manifest.classes;
        let verdict = |((&label, &unknown), &score): ((&usize, &bool), &f32)| Verdict {
            class: classes.get(label).cloned().unwrap_or_default(),
            unknown,
            score,
            threshold: self.threshold,
        };
        scores.label.iter().zip(&scores.unknown).zip(&scores.score).map(verdict).collect()
    }

    fn run(&self, images: ArrayView4<f32>) -> Result<Scores> {
        match &self.runtime {
            #[cfg(feature = "tract")]
            Runtime::Tract(runtime) => runtime.run(images, &self.file),
            #[cfg(feature = "onnxruntime")]
            Runtime::OnnxRuntime(runtime) => runtime.run(images, &self.file),
        }
    }

    /// For files with a fixed batch: the last one is filled up with black pictures.
    fn score_in_batches_of(&self, batch: usize, images: ArrayView4<f32>) -> Result<Scores> {
        let (count, channels, height, width) = images.dim();
        let mut filled = Array4::zeros((count.next_multiple_of(batch), channels, height, width));
        filled.slice_axis_mut(Axis(0), Slice::from(..count)).assign(&images);
        Ok(self.run(filled.view())?.first(count))
    }
}

/// Pictures `[N, 3, H, W]` in 0..=1 as bytes `[N, H, W, 3]`, for models that take these.
fn bytes(images: ArrayView4<f32>) -> Array4<u8> {
    // `as` clips to 0..=255.
    images.permuted_axes([0, 2, 3, 1]).as_standard_layout().map(|value| (value * 255.0).round() as u8)
}

impl fmt::Debug for Scorer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scorer")
            .field("runtime", &self.runtime())
            .field("threshold", &self.threshold)
            .finish_non_exhaustive()
    }
}

impl Scores {
    /// Joins what was computed in parts.
    fn concatenate(parts: &[Self], classes: usize) -> Self {
        fn join<D: ndarray::RemoveAxis, T: Clone>(
            parts: Vec<ndarray::ArrayView<T, D>>,
            empty: ndarray::Array<T, D>,
        ) -> ndarray::Array<T, D> {
            if parts.is_empty() { empty } else { concatenate(Axis(0), &parts).expect("equal widths") }
        }
        let none = || Array2::zeros((0, classes));
        Self {
            logits: join(parts.iter().map(|part| part.logits.view()).collect(), none()),
            distances: join(parts.iter().map(|part| part.distances.view()).collect(), none()),
            score: join(parts.iter().map(|part| part.score.view()).collect(), Array1::zeros(0)),
            label: join(parts.iter().map(|part| part.label.view()).collect(), Array1::zeros(0)),
            unknown: join(
                parts.iter().map(|part| part.unknown.view()).collect(),
                Array1::from_elem(0, false),
            ),
        }
    }

    fn first(mut self, count: usize) -> Self {
        let first = Slice::from(..count);
        self.logits.slice_axis_inplace(Axis(0), first);
        self.distances.slice_axis_inplace(Axis(0), first);
        self.score.slice_axis_inplace(Axis(0), first);
        self.label.slice_axis_inplace(Axis(0), first);
        self.unknown.slice_axis_inplace(Axis(0), first);
        self
    }

    /// Checks what a runtime gave for N pictures and C classes.
    fn from_outputs(
        runtime: &'static str,
        (n, classes): (usize, usize),
        (logits, distances): (Vec<f32>, Vec<f32>),
        score: Vec<f32>,
        label: Vec<i64>,
        unknown: Vec<bool>,
    ) -> Result<Self> {
        let failed = |reason: &str| Error::Runtime { runtime, reason: reason.to_owned() };
        let in_range = |label: i64| usize::try_from(label).ok().filter(|&label| label < classes);
        let label: Option<Vec<usize>> = label.into_iter().map(in_range).collect();
        let label = label.ok_or_else(|| failed("the model gave a label that is no class"))?;
        if [score.len(), label.len(), unknown.len()] != [n; 3] {
            return Err(failed("the model gave outputs for another number of pictures"));
        }
        let matrix = |values| {
            Array2::from_shape_vec((n, classes), values)
                .map_err(|_| failed("the model gave outputs for another number of classes"))
        };
        Ok(Self {
            logits: matrix(logits)?,
            distances: matrix(distances)?,
            score: score.into(),
            label: label.into(),
            unknown: unknown.into(),
        })
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::OnnxRuntime => f.write_str("onnxruntime"),
            Self::Cuda(device) => write!(f, "cuda:{device}"),
            Self::TensorRt(device) => write!(f, "tensorrt:{device}"),
            Self::OpenVino => f.write_str("openvino"),
            Self::CoreMl => f.write_str("coreml"),
            Self::DirectMl(device) => write!(f, "directml:{device}"),
            Self::WebGpu => f.write_str("webgpu"),
        }
    }
}

impl FromStr for Provider {
    type Err = Error;

    /// As it is displayed; device 0 where none is named.
    fn from_str(text: &str) -> Result<Self> {
        let (name, device) = match text.split_once(':') {
            Some((name, device)) => (name, Some(device.parse::<u32>())),
            None => (text, None),
        };
        // Runtimes number devices with signed integers.
        let device =
            device.map(|device| device.ok().filter(|&device| i32::try_from(device).is_ok()).ok_or(()));
        match (name, device.transpose()) {
            ("cpu", Ok(None)) => Ok(Self::Cpu),
            ("onnxruntime", Ok(None)) => Ok(Self::OnnxRuntime),
            ("cuda", Ok(device)) => Ok(Self::Cuda(device.unwrap_or(0))),
            ("tensorrt", Ok(device)) => Ok(Self::TensorRt(device.unwrap_or(0))),
            ("openvino", Ok(None)) => Ok(Self::OpenVino),
            ("coreml", Ok(None)) => Ok(Self::CoreMl),
            ("directml", Ok(device)) => Ok(Self::DirectMl(device.unwrap_or(0))),
            ("webgpu", Ok(None)) => Ok(Self::WebGpu),
            _ => {
                let reason = "must be cpu, onnxruntime, cuda, tensorrt, openvino, coreml, directml or webgpu; \
                              behind cuda, tensorrt and directml may stand :N for a device";
                Err(Error::setting("provider", format!("`{text}`"), reason))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn providers_by_name() {
        for (text, provider) in [
            ("cpu", Provider::Cpu),
            ("onnxruntime", Provider::OnnxRuntime),
            ("cuda", Provider::Cuda(0)),
            ("cuda:3", Provider::Cuda(3)),
            ("tensorrt", Provider::TensorRt(0)),
            ("directml:1", Provider::DirectMl(1)),
        ] {
            assert_eq!(text.parse::<Provider>().unwrap(), provider);
        }
        for provider in Provider::ALL {
            assert_eq!(provider.to_string().parse::<Provider>().unwrap(), provider);
        }
        for wrong in ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:4294967295", "cpu:0", "openvino:1"] {
            assert!(wrong.parse::<Provider>().is_err(), "{wrong}");
        }
    }
}
