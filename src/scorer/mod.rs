//! Scores images with an exported model.

#[cfg(feature = "onnxruntime")]
mod onnxruntime;
mod places;
mod provider;
#[cfg(feature = "tract")]
pub(crate) mod tract;

use std::{collections::BTreeMap, fmt, ops::RangeInclusive, path::Path};

use ndarray::{Array1, Array2, Array4, ArrayView4, Axis, Slice, concatenate};
use prost::bytes::Bytes;
use rayon::prelude::*;

use crate::{
    error::{Difference, Error, Result},
    image::{self, Frame, Input, RgbImage},
    method::{self, Activations},
    model::{
        self, Decision, Manifest, ModelPrecision,
        file::{FEATURES, LOGIT_MAP, ModelFile},
        golden::{self, GoldenBatch},
    },
};
pub use places::Places;
pub use provider::Provider;

/// The preferred batch of a runtime that resizes, whose images may be large; with more threads, it is their
/// number.
const ORIGINALS: usize = 8;
/// The maximum bytes of the images of a preferred batch.
const BATCH_BYTES: usize = 64 << 20;

/// A model that is ready to score. Threads that share it run concurrently: no lock is held while the network
/// runs.
pub struct Scorer {
    file: ModelFile,
    threshold: f32,
    /// The share of known images that the threshold was chosen to keep.
    keep: Option<f64>,
    provider: Provider,
    runtime: Runtime,
}

enum Runtime {
    #[cfg(feature = "tract")]
    Tract(tract::Tract),
    #[cfg(feature = "onnxruntime")]
    OnnxRuntime(onnxruntime::OnnxRuntime),
}

/// The outputs of a model for N images and C known classes.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Outputs {
    /// Logits `[N, C]`.
    pub logits: Array2<f32>,
    /// Euclidean distances to the anchors, `[N, C]`, at least 0.
    pub distances: Array2<f32>,
    /// Rejection scores `[N]`; larger = more likely unknown. In a model with a [threshold for each
    /// class](crate::model::Threshold::classes) they are relative to that of the predicted class.
    pub score: Array1<f32>,
    /// Predicted classes: the indices of the nearest anchors, `[N]`, 0 to below C.
    pub label: Array1<usize>,
    /// Whether the score is above the threshold, `[N]`.
    pub unknown: Array1<bool>,
    /// The share of known images that are expected to score as high, `[N]`, above 0 and at most 1; `None` if
    /// the file does not compute it. See [`method::p_value`].
    pub p_value: Option<Array1<f32>>,
    /// Whether the score is above each of the K [operating
    /// points](crate::model::Threshold::operating_points), `[N, K]`; `None` if the file does not output them.
    pub unknown_at: Option<Array2<bool>>,
    /// Features `[N, F]`; `None` if the file does not output them.
    pub features: Option<Array2<f32>>,
    /// The logits of each place, `[N, C, h, w]`, whose mean over the h x w places is the logits; `None` if
    /// the file does not output them. [`Scorer::places`] scores them.
    pub logit_map: Option<Array4<f32>>,
}

/// The decision of a model on one image.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct Verdict {
    /// The name of the class with the nearest anchor, even if the image is unknown.
    pub class: String,
    /// Whether the image belongs to none of the known classes.
    pub unknown: bool,
    /// The rejection score, as in [`Outputs::score`]; larger = more likely unknown.
    pub score: f32,
    /// The score above which an image is unknown.
    pub threshold: f32,
    /// The p-value; see [`Outputs::p_value`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p_value: Option<f32>,
}

impl Scorer {
    /// Opens a model file.
    ///
    /// # Errors
    /// [`Error::Io`], and those of [`from_bytes`](Self::from_bytes), with the path.
    pub fn open(path: impl AsRef<Path>, provider: Provider) -> Result<Self> {
        let path = path.as_ref();
        Self::new(model::read(path)?, &path.display().to_string(), provider, false)
    }

    /// Reads a model from memory.
    ///
    /// # Errors
    /// [`Error::Model`] and [`Error::FormatVersion`] if it is not a valid model of this toolkit,
    /// [`Error::Unsupported`] if the runtime refuses it, [`Error::Provider`] if the provider is not
    /// available: there is no fallback to another one.
    pub fn from_bytes(bytes: &[u8], provider: Provider) -> Result<Self> {
        Self::named(Bytes::copy_from_slice(bytes), "memory", provider)
    }

    /// Reads a model from memory without a copy; `origin` names it in errors.
    ///
    /// # Errors
    /// Those of [`from_bytes`](Self::from_bytes).
    pub fn named(bytes: Bytes, origin: &str, provider: Provider) -> Result<Self> {
        Self::new(bytes, origin, provider, false)
    }

    /// Reads a model from memory and profiles its first run, so that [`placement`](Self::placement) is known;
    /// `origin` names the model in errors.
    ///
    /// # Errors
    /// Those of [`from_bytes`](Self::from_bytes).
    pub fn profiled(bytes: Bytes, origin: &str, provider: Provider) -> Result<Self> {
        Self::new(bytes, origin, provider, true)
    }

    #[cfg_attr(not(all(feature = "onnxruntime", feature = "tract")), allow(unused_variables))]
    fn new(bytes: Bytes, origin: &str, provider: Provider, is_profiled: bool) -> Result<Self> {
        let (file, model) = ModelFile::parse(bytes.clone(), origin)?;
        let runtime = match provider {
            #[cfg(feature = "tract")]
            Provider::Cpu => Runtime::Tract(tract::Tract::new(&bytes, &model, &file)?),
            #[cfg(not(feature = "tract"))]
            Provider::Cpu => return Err(provider.error_without("tract")),
            #[cfg(feature = "onnxruntime")]
            _ => Runtime::OnnxRuntime(onnxruntime::OnnxRuntime::new(bytes, &file, provider, is_profiled)?),
            #[cfg(not(feature = "onnxruntime"))]
            _ => return Err(provider.error_without("onnxruntime")),
        };
        let threshold = file.threshold;
        let keep = file.manifest.decision.threshold.as_ref().and_then(|rule| rule.share_kept_by(threshold));
        Ok(Self { file, threshold, keep, provider, runtime })
    }

    /// Replaces the threshold of the file.
    ///
    /// # Errors
    /// [`Error::NotFinite`] if it is NaN or infinite.
    pub fn with_threshold(mut self, threshold: f32) -> Result<Self> {
        if !threshold.is_finite() {
            return Err(Error::NotFinite { what: "the threshold", value: threshold });
        }
        self.threshold = threshold;
        self.keep = None;
        Ok(self)
    }

    /// Replaces the threshold with the one that keeps a share (0 to below 1) of new known images, chosen from
    /// the held-out scores in the file.
    ///
    /// # Errors
    /// [`Error::Setting`] if the file has a threshold for each class, and those of [`method::threshold`].
    pub fn with_keep(self, keep: f64) -> Result<Self> {
        if self.decision().is_per_class() {
            let reason = "the model has a threshold for each class, chosen when it was exported";
            return Err(Error::setting("keep", keep, reason));
        }
        let threshold = method::threshold(self.decision().held_out_scores(), keep)?;
        Ok(Self { keep: Some(keep), ..self.with_threshold(threshold)? })
    }

    /// The metadata of the file.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.file.manifest
    }

    /// The part of the metadata that scoring needs: classes, input, score, and the rule of the threshold.
    #[must_use]
    pub fn decision(&self) -> &Decision {
        &self.file.manifest.decision
    }

    /// The current threshold.
    #[must_use]
    pub fn threshold(&self) -> f32 {
        self.threshold
    }

    /// Why neither the threshold nor [`drift`](crate::drift) has a guarantee with this model on this provider,
    /// if so.
    #[must_use]
    pub fn doubt_of_held_out(&self) -> Option<&'static str> {
        self.manifest().doubt_of_held_out().or_else(|| self.provider.doubt_of_held_out())
    }

    /// The share of known images that the current threshold was chosen to keep, 0 to below 1; `None` if it
    /// was set by hand, or the share is not known.
    #[must_use]
    pub fn keep(&self) -> Option<f64> {
        self.keep
    }

    /// The provider that runs the network, which is the requested one.
    #[must_use]
    pub fn provider(&self) -> Provider {
        self.provider
    }

    /// Human-readable name of the provider and its runtime.
    #[must_use]
    pub fn runtime(&self) -> String {
        match &self.runtime {
            #[cfg(feature = "tract")]
            Runtime::Tract(_) => match rayon::current_num_threads() {
                1 => "cpu: tract, 1 thread".to_owned(),
                threads => format!("cpu: tract, {threads} threads"),
            },
            #[cfg(feature = "onnxruntime")]
            Runtime::OnnxRuntime(runtime) => format!("{}: {}", self.provider, runtime.describe()),
        }
    }

    /// The number of operators that each of ONNX Runtime's execution providers ran: those that a provider
    /// does not support run on another. Empty before the first run of a [profiled](Self::profiled) scorer,
    /// and with tract.
    ///
    /// # Errors
    /// [`Error::Runtime`] if the profile cannot be read.
    pub fn placement(&self) -> Result<BTreeMap<String, usize>> {
        match &self.runtime {
            #[cfg(feature = "tract")]
            Runtime::Tract(_) => Ok(BTreeMap::new()),
            #[cfg(feature = "onnxruntime")]
            Runtime::OnnxRuntime(runtime) => runtime.placement(),
        }
    }

    /// The recommended number of images per call. Images of a large input come in smaller batches, as do those
    /// that the runtime [resizes](Self::resizes); otherwise it does not bound the memory of decoded images.
    #[must_use]
    pub fn preferred_batch(&self) -> usize {
        let batch: usize = match &self.runtime {
            _ if self.resizes() => rayon::current_num_threads().max(ORIGINALS),
            #[cfg(feature = "tract")]
            // Each thread runs one image, or one fixed batch, at a time: a large batch keeps all threads
            // busy.
            Runtime::Tract(_) => 256,
            #[cfg(feature = "onnxruntime")]
            Runtime::OnnxRuntime(runtime) => runtime.preferred_batch(),
        };
        let batch = batch.min(BATCH_BYTES / self.decision().input.values()).max(1);
        // Then a fixed batch needs no padding.
        batch.next_multiple_of(self.file.batch.unwrap_or(1))
    }

    /// Scores a batch of black images, so that the first real batch does not wait for one-time work: choosing
    /// kernels, allocating memory, and with some providers compiling the network for this batch size. ONNX
    /// Runtime repeats this work in each session of the pool that threads share.
    ///
    /// # Errors
    /// [`Error::Runtime`] if the runtime fails.
    pub fn warm_up(&self, batch: usize) -> Result<()> {
        let input = &self.decision().input;
        self.score_u8(Array4::zeros((batch, 3, input.height, input.width)).view()).map(drop)
    }

    /// Compares the outputs for the [golden images](golden::images) with those of the export, which are in
    /// the file: class, score, and the norm of the logits. A runtime that [resizes](Self::resizes) must also
    /// decide taller, wider and smaller golden images as if [`image::pixels`] had resized them. Returns the
    /// largest difference of a norm or score, relative above 1.
    ///
    /// # Errors
    /// [`Error::NoGoldenBatch`] if the file has none, [`Error::Model`] if it is damaged, [`Error::Differs`]
    /// if an output differs, and those of [`score`](Self::score).
    pub fn verify(&self) -> Result<f64> {
        let history = &self.manifest().history;
        let origin = || self.file.origin.clone();
        let Some(expected) = history.golden.as_ref().filter(|golden| golden.is_complete()) else {
            return Err(match history.golden.is_some() || history.other.contains_key("golden") {
                true => Error::Model { origin: origin(), reason: "its `cac.golden` is damaged".to_owned() },
                false => Error::NoGoldenBatch { origin: origin() },
            });
        };
        let is_coarse =
            history.precision == Some(ModelPrecision::Int8) || self.provider == Provider::OpenVinoBf16;
        let tolerance = if is_coarse { 0.2 } else { 1e-3 };
        let differs = |(what, difference)| Error::Differs {
            origin: origin(),
            runtime: self.runtime(),
            what,
            difference,
        };
        let outputs = ["norms of the logits", "scores", "classes"];
        let mut greatest = compared(&self.golden_batch()?, expected, outputs, tolerance).map_err(differs)?;
        if !self.resizes() {
            return Ok(greatest);
        }
        let Input { height, width, .. } = self.decision().input;
        let sizes = [
            [3 * height + 1, width * 5 / 4 + 2],
            [height * 5 / 4 + 2, 3 * width + 1],
            [height / 2 + 1, width * 2 / 3 + 1],
        ];
        let outputs =
            ["norms of the logits after resizing", "scores after resizing", "classes after resizing"];
        for size in sizes {
            let [found, expected] = self.resized_batches(size)?;
            greatest = greatest.max(compared(&found, &expected, outputs, tolerance).map_err(differs)?);
        }
        Ok(greatest)
    }

    /// The outputs for golden images of a height and width, resized by the model and by [`image::pixels`].
    fn resized_batches(&self, [height, width]: [usize; 2]) -> Result<[GoldenBatch; 2]> {
        let input = &self.decision().input;
        let original = Input { height, width, ..*input };
        let planes = golden::images(&original);
        let planes = planes.as_slice().expect("in standard order").chunks_exact(original.values());
        let images: Vec<RgbImage> = planes.map(|planes| image::of_planes(planes, height, width)).collect();
        Ok([self.score_originals(&images)?, self.score_u8(resized(&images, input).view())?]
            .map(|outputs| outputs.golden_batch()))
    }

    /// The outputs for the golden images.
    pub(crate) fn golden_batch(&self) -> Result<GoldenBatch> {
        Ok(self.score_u8(golden::images(&self.decision().input).view())?.golden_batch())
    }

    /// Scores images `[N, 3, H, W]` of the model's size, RGB in 0..=1. A model that resizes leaves them as
    /// they are.
    ///
    /// # Errors
    /// [`Error::Shape`] if the images do not have the model's size, [`Error::PixelRange`] if a value is
    /// farther out of range than resizing makes it, such as a byte, or NaN, [`Error::Runtime`] if the runtime
    /// fails.
    pub fn score(&self, images: ArrayView4<f32>) -> Result<Outputs> {
        // In some runtimes max(0, NaN) is 0, which could make such an image known.
        if let Some(&value) = images.iter().find(|value| !PIXELS.contains(value)) {
            return Err(Error::PixelRange { value });
        }
        self.score_images(Images::Floats(images))
    }

    /// Scores images given as bytes `[N, 3, H, W]`, the layout of [`image::pixels`]. A model that takes bytes
    /// gets the same values. A model that resizes leaves them as they are.
    ///
    /// # Errors
    /// Those of [`score`](Self::score).
    pub fn score_u8(&self, images: ArrayView4<u8>) -> Result<Outputs> {
        self.score_images(Images::Bytes(images))
    }

    /// Scores one image of any size. `DynamicImage::to_rgb8` converts other colour types.
    ///
    /// # Errors
    /// [`Error::Runtime`] if the runtime fails.
    pub fn score_image(&self, image: &RgbImage) -> Result<Verdict> {
        let outputs = self.score_originals(std::slice::from_ref(image))?;
        Ok(self.verdicts(&outputs).remove(0))
    }

    /// Scores decoded images of any size. A runtime that [resizes](Self::resizes) gets them as they are,
    /// neighbours of the same size together; for others, [`image::pixels`] resizes them to the model's size.
    ///
    /// # Errors
    /// [`Error::Runtime`] if the runtime fails.
    pub fn score_originals(&self, images: &[RgbImage]) -> Result<Outputs> {
        let input = &self.decision().input;
        if !self.resizes() {
            return self.score_u8(resized(images, input).view());
        }
        let groups: Vec<&[RgbImage]> = images.chunk_by(|a, b| a.dimensions() == b.dimensions()).collect();
        let run = |group: &&[RgbImage]| {
            let first = &group[0];
            // An empty image is black.
            if first.is_empty() {
                return self.score_u8(Array4::zeros((group.len(), 3, input.height, input.width)).view());
            }
            let bytes = group.iter().map(|image| image.as_raw().as_slice()).collect::<Vec<_>>().concat();
            let shape = (group.len(), first.height() as usize, first.width() as usize, 3);
            let images = ArrayView4::from_shape(shape, &bytes).expect("images of one size");
            self.run_whole(Images::Bytes(images.permuted_axes([0, 3, 1, 2])))
        };
        let (parts, runtime): (Result<Vec<Outputs>>, _) = match &self.runtime {
            // tract runs each image on one thread.
            #[cfg(feature = "tract")]
            Runtime::Tract(_) => (groups.par_iter().map(run).collect(), tract::NAME),
            #[cfg(feature = "onnxruntime")]
            Runtime::OnnxRuntime(_) => (groups.iter().map(run).collect(), onnxruntime::NAME),
        };
        Outputs::concatenate(parts?, &self.file, runtime)
    }

    /// Whether the runtime resizes images by the nodes of the graph. If so, images are given
    /// [as they are](Self::score_originals), otherwise in the model's size. On tract the toolkit resizes even
    /// if the graph could, unless its nodes differ from [`image::pixels`].
    #[must_use]
    pub fn resizes(&self) -> bool {
        self.decision().resizes
            && match &self.runtime {
                #[cfg(feature = "tract")]
                Runtime::Tract(tract) => tract.resizes(),
                #[cfg(feature = "onnxruntime")]
                Runtime::OnnxRuntime(_) => true,
            }
    }

    /// The verdict on each image, from outputs of this model, by the threshold of this scorer.
    #[must_use]
    pub fn verdicts(&self, outputs: &Outputs) -> Vec<Verdict> {
        let classes = &self.decision().classes;
        let verdict = |index: usize| Verdict {
            class: classes.get(outputs.label[index]).cloned().unwrap_or_default(),
            unknown: method::is_unknown(outputs.score[index], self.threshold),
            score: outputs.score[index],
            threshold: self.threshold,
            p_value: outputs.p_value.as_ref().map(|values| values[index]),
        };
        (0..outputs.score.len()).map(verdict).collect()
    }

    fn score_images(&self, images: Images) -> Result<Outputs> {
        let input = &self.decision().input;
        if images.shape()[1..] != [3, input.height, input.width] {
            return Err(Error::Shape {
                what: "the batch of images",
                found: images.shape().to_vec(),
                expected: format!("[N, 3, {}, {}]", input.height, input.width),
            });
        }
        if !self.resizes() {
            return self.run_whole(images);
        }
        let Some(frame) = Frame::of(input) else { unreachable!("the file was checked") };
        let mut framed = Array4::zeros((images.len(), 3, frame.height, frame.width));
        let mut place = framed.view_mut();
        place.slice_axis_inplace(Axis(2), Slice::from(frame.top..frame.top + input.height));
        place.slice_axis_inplace(Axis(3), Slice::from(frame.left..frame.left + input.width));
        place.permuted_axes([0, 2, 3, 1]).assign(&images.to_bytes());
        self.run_whole(Images::Bytes(framed.view()))
    }

    /// Scores images of the size that the model takes.
    fn run_whole(&self, images: Images) -> Result<Outputs> {
        let count = images.len();
        let mut outputs = match self.file.batch.filter(|&batch| !count.is_multiple_of(batch)) {
            None => self.run(images)?,
            Some(batch) => match images {
                Images::Floats(images) => self.run(Images::Floats(filled(images, batch).view()))?,
                Images::Bytes(images) => self.run(Images::Bytes(filled(images, batch).view()))?,
            }
            .first(count),
        };
        if self.threshold.to_bits() != self.file.threshold.to_bits() {
            outputs.unknown = outputs.score.map(|&score| method::is_unknown(score, self.threshold));
        }
        Ok(outputs)
    }

    fn run(&self, images: Images) -> Result<Outputs> {
        match &self.runtime {
            #[cfg(feature = "tract")]
            Runtime::Tract(runtime) => runtime.run(images, &self.file),
            #[cfg(feature = "onnxruntime")]
            Runtime::OnnxRuntime(runtime) => runtime.run(images, &self.file),
        }
    }
}

impl fmt::Debug for Scorer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scorer")
            .field("runtime", &self.runtime())
            .field("threshold", &self.threshold)
            .finish_non_exhaustive()
    }
}

/// The values of pixels that are taken: bicubic filters overshoot 0..=1.
const PIXELS: RangeInclusive<f32> = -0.5..=1.5;

/// Images `[N, 3, H, W]` as floats or bytes.
#[derive(Clone, Copy)]
enum Images<'a> {
    /// Values in 0..=1.
    Floats(ArrayView4<'a, f32>),
    Bytes(ArrayView4<'a, u8>),
}

impl Images<'_> {
    fn shape(&self) -> &[usize] {
        match self {
            Self::Floats(images) => images.shape(),
            Self::Bytes(images) => images.shape(),
        }
    }

    fn len(&self) -> usize {
        self.shape()[0]
    }

    /// Up to `count` images from `start` on.
    fn part(&self, start: usize, count: usize) -> Images<'_> {
        let part = Slice::from(start..(start + count).min(self.len()));
        match self {
            Self::Floats(images) => Images::Floats(images.slice_axis(Axis(0), part)),
            Self::Bytes(images) => Images::Bytes(images.slice_axis(Axis(0), part)),
        }
    }

    /// The input of a model that takes floats, `[N, 3, H, W]` in 0..=1.
    fn to_floats(self) -> Array4<f32> {
        match self {
            Self::Floats(images) => images.as_standard_layout().into_owned(),
            Self::Bytes(images) => images.as_standard_layout().map(|&byte| image::unit(byte)),
        }
    }

    /// The input of a model that takes bytes, `[N, H, W, 3]`.
    fn to_bytes(self) -> Array4<u8> {
        match self {
            Self::Floats(images) => {
                images.permuted_axes([0, 2, 3, 1]).as_standard_layout().map(|&value| byte(value))
            }
            Self::Bytes(images) => images.permuted_axes([0, 2, 3, 1]).as_standard_layout().into_owned(),
        }
    }

    /// What resizing returns, `[N, 3, H, W]`: bytes as floats.
    #[cfg(feature = "tract")]
    fn to_resized(self) -> Array4<f32> {
        match self {
            Self::Floats(images) => images.as_standard_layout().map(|&value| f32::from(byte(value))),
            Self::Bytes(images) => images.as_standard_layout().map(|&byte| f32::from(byte)),
        }
    }
}

/// The byte of a value in 0..=1.
fn byte(value: f32) -> u8 {
    // `as` saturates to 0..=255.
    (value * 255.0).round() as u8
}

/// Pads images with black ones to whole batches.
fn filled<T: Clone + Default>(images: ArrayView4<T>, batch: usize) -> Array4<T> {
    let (count, channels, height, width) = images.dim();
    let shape = (count.next_multiple_of(batch), channels, height, width);
    let mut filled = Array4::from_elem(shape, T::default());
    filled.slice_axis_mut(Axis(0), Slice::from(..count)).assign(&images);
    filled
}

impl Outputs {
    /// The input of other scores.
    pub(crate) fn activations(&self) -> Activations<'_> {
        Activations {
            features: self.features.as_ref().map(|features| features.view()),
            logits: self.logits.view(),
            distances: self.distances.view(),
        }
    }

    /// The values that are compared.
    fn golden_batch(&self) -> GoldenBatch {
        GoldenBatch::new(self.logits.view(), &self.score, &self.label)
    }

    /// The outputs for no images.
    fn none(file: &ModelFile) -> Self {
        let classes = file.manifest.decision.classes.len();
        Self {
            p_value: file.width("p_value").map(|_| Array1::zeros(0)),
            unknown_at: file.width("unknown_at").map(|width| Array2::from_elem((0, width), false)),
            features: file.width(FEATURES).map(|width| Array2::zeros((0, width))),
            logit_map: file.width(LOGIT_MAP).map(|_| Array4::zeros((0, classes, 1, 1))),
            logits: Array2::zeros((0, classes)),
            distances: Array2::zeros((0, classes)),
            score: Array1::zeros(0),
            label: Array1::zeros(0),
            unknown: Array1::from_elem(0, false),
        }
    }

    /// Concatenates the outputs of consecutive parts.
    ///
    /// # Errors
    /// [`Error::Runtime`] if features or maps of the logits differ in shape.
    fn concatenate(mut parts: Vec<Self>, file: &ModelFile, runtime: &'static str) -> Result<Self> {
        fn join<D: ndarray::RemoveAxis, T: Clone>(
            parts: Vec<ndarray::ArrayView<T, D>>,
        ) -> Result<ndarray::Array<T, D>, ndarray::ShapeError> {
            concatenate(Axis(0), &parts)
        }
        if parts.len() < 2 {
            return Ok(parts.pop().unwrap_or_else(|| Self::none(file)));
        }
        let p_values: Option<Vec<_>> = parts.iter().map(|part| Some(part.p_value.as_ref()?.view())).collect();
        let unknown_at: Option<Vec<_>> =
            parts.iter().map(|part| Some(part.unknown_at.as_ref()?.view())).collect();
        let features: Option<Vec<_>> =
            parts.iter().map(|part| Some(part.features.as_ref()?.view())).collect();
        let maps: Option<Vec<_>> = parts.iter().map(|part| Some(part.logit_map.as_ref()?.view())).collect();
        let joined = || {
            Ok(Self {
                p_value: p_values.map(join).transpose()?,
                unknown_at: unknown_at.map(join).transpose()?,
                features: features.map(join).transpose()?,
                logit_map: maps.map(join).transpose()?,
                logits: join(parts.iter().map(|part| part.logits.view()).collect())?,
                distances: join(parts.iter().map(|part| part.distances.view()).collect())?,
                score: join(parts.iter().map(|part| part.score.view()).collect())?,
                label: join(parts.iter().map(|part| part.label.view()).collect())?,
                unknown: join(parts.iter().map(|part| part.unknown.view()).collect())?,
            })
        };
        joined().map_err(|_: ndarray::ShapeError| Error::Runtime {
            runtime,
            reason: "the model returned outputs of different shapes for parts of a batch".to_owned(),
        })
    }

    fn first(mut self, count: usize) -> Self {
        let first = Slice::from(..count);
        // Each output is named, so that none is forgotten.
        let Self { logits, distances, score, label, unknown, p_value, unknown_at, features, logit_map } =
            &mut self;
        logits.slice_axis_inplace(Axis(0), first);
        distances.slice_axis_inplace(Axis(0), first);
        score.slice_axis_inplace(Axis(0), first);
        label.slice_axis_inplace(Axis(0), first);
        unknown.slice_axis_inplace(Axis(0), first);
        p_value.iter_mut().for_each(|values| values.slice_axis_inplace(Axis(0), first));
        unknown_at.iter_mut().for_each(|verdicts| verdicts.slice_axis_inplace(Axis(0), first));
        features.iter_mut().for_each(|features| features.slice_axis_inplace(Axis(0), first));
        logit_map.iter_mut().for_each(|map| map.slice_axis_inplace(Axis(0), first));
        self
    }
}

/// The tensors that a runtime returned for some images, by the names of the outputs.
trait Returned {
    /// The shape and the values of a float32 tensor.
    fn floats(&self, name: &str) -> Result<(Vec<usize>, Vec<f32>), String>;
    /// The values of an int64 tensor.
    fn integers(&self, name: &str) -> Result<Vec<i64>, String>;
    /// The values of a tensor of truth values.
    fn flags(&self, name: &str) -> Result<Vec<bool>, String>;
}

impl Outputs {
    /// Reads the outputs for N images. Checks that there are N rows, one per image, and one column per class,
    /// and that other outputs are as the file states.
    ///
    /// # Errors
    /// [`Error::Runtime`].
    fn read(returned: &impl Returned, runtime: &'static str, n: usize, file: &ModelFile) -> Result<Self> {
        let classes = file.manifest.decision.classes.len();
        let failed = |reason: String| Error::Runtime { runtime, reason };
        let differ = |what: &str| failed(format!("the model returned {what}"));
        let floats = |name: &str| Ok(returned.floats(name).map_err(failed)?.1);
        let rows = |values: usize| match values == n {
            true => Ok(()),
            false => Err(differ("outputs for a different number of images")),
        };
        let matrix = |name: &str| {
            Array2::from_shape_vec((n, classes), floats(name)?)
                .map_err(|_| differ("outputs for a different number of classes"))
        };
        // The columns of `values`, if the file does not state them.
        let columns = |width: usize, values: usize| if width > 0 { width } else { values / n.max(1) };
        let in_range = |label: i64| usize::try_from(label).ok().filter(|&label| label < classes);
        let label: Option<Vec<usize>> =
            returned.integers("label").map_err(failed)?.into_iter().map(in_range).collect();
        let label = label.ok_or_else(|| differ("a label out of range"))?;
        let (score, unknown) = (floats("score")?, returned.flags("unknown").map_err(failed)?);
        [score.len(), label.len(), unknown.len()].into_iter().try_for_each(rows)?;
        let p_value = file.width("p_value").map(|_| {
            let values = floats("p_value")?;
            rows(values.len()).map(|()| Array1::from(values))
        });
        let unknown_at = file.width("unknown_at").map(|width| {
            let verdicts = returned.flags("unknown_at").map_err(failed)?;
            Array2::from_shape_vec((n, columns(width, verdicts.len())), verdicts)
                .map_err(|_| differ("a different number of verdicts than it states"))
        });
        let features = file.width(FEATURES).map(|width| {
            let values = floats(FEATURES)?;
            Array2::from_shape_vec((n, columns(width, values.len())), values)
                .map_err(|_| differ("a different number of features than it states"))
        });
        let logit_map = file.width(LOGIT_MAP).map(|_| {
            let misshapen = || differ("a map of logits of another shape");
            let (shape, values) = returned.floats(LOGIT_MAP).map_err(failed)?;
            match shape[..] {
                [images, channels, height, width]
                    if (images, channels) == (n, classes) && height * width > 0 =>
                {
                    Array4::from_shape_vec((n, classes, height, width), values).map_err(|_| misshapen())
                }
                _ => Err(misshapen()),
            }
        });
        Ok(Self {
            logits: matrix("logits")?,
            distances: matrix("distances")?,
            score: score.into(),
            label: label.into(),
            unknown: unknown.into(),
            p_value: p_value.transpose()?,
            unknown_at: unknown_at.transpose()?,
            features: features.transpose()?,
            logit_map: logit_map.transpose()?,
        })
    }
}

/// Images resized to an input by [`image::pixels`], `[N, 3, height, width]`.
fn resized(images: &[RgbImage], input: &Input) -> Array4<u8> {
    let mut pixels = vec![0; images.len() * input.values()];
    let places = pixels.par_chunks_exact_mut(input.values());
    places.zip(images).for_each(|(place, image)| place.copy_from_slice(&image::pixels(image, input)));
    let shape = (images.len(), 3, input.height, input.width);
    Array4::from_shape_vec(shape, pixels).expect("whole images")
}

/// Compares golden batches. Returns the largest difference of a norm or score, relative above 1.
///
/// # Errors
/// What differs (norms, scores or classes) and how far.
fn compared(
    found: &GoldenBatch,
    expected: &GoldenBatch,
    [norms, scores, classes]: [&'static str; 3],
    tolerance: f64,
) -> Result<f64, (&'static str, Difference)> {
    let mut greatest = 0.0_f64;
    for (what, found, expected) in
        [(norms, &found.norm, &expected.norm), (scores, &found.score, &expected.score)]
    {
        let difference = greatest_difference(found, expected);
        if difference.is_nan() || difference > tolerance {
            return Err((what, Difference::Value(difference)));
        }
        greatest = greatest.max(difference);
    }
    let flips = found.label.iter().zip(&expected.label).filter(|(found, expected)| found != expected).count();
    if flips > 0 || found.label.len() != expected.label.len() {
        return Err((classes, Difference::Images(flips)));
    }
    Ok(greatest)
}

/// The largest difference, relative above 1; NaN if a value is NaN, infinite if one of the two has more
/// values.
pub(crate) fn greatest_difference<'a>(
    found: impl IntoIterator<Item = &'a f32>,
    expected: impl IntoIterator<Item = &'a f32>,
) -> f64 {
    let (mut found, mut expected) = (found.into_iter(), expected.into_iter());
    let mut greatest = 0.0_f64;
    loop {
        match (found.next(), expected.next()) {
            (None, None) => return greatest,
            (Some(a), Some(b)) => match f64::from((a - b).abs() / b.abs().max(1.0)) {
                difference if difference.is_nan() => return difference,
                difference => greatest = greatest.max(difference),
            },
            _ => return f64::INFINITY,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nan_is_the_greatest_difference_at_any_position() {
        assert_eq!(greatest_difference(&[1.5, 30.0], &[1.0, 20.0]), 0.5);
        for found in [[f32::NAN, 1.0, 9.0], [1.0, f32::NAN, 1.0], [1.0, 1.0, f32::NAN]] {
            assert!(greatest_difference(&found, &[1.0; 3]).is_nan());
        }
    }

    #[test]
    fn values_without_a_counterpart_differ() {
        assert_eq!(greatest_difference(&[], &[]), 0.0);
        assert_eq!(greatest_difference(&[1.0], &[1.0, 2.0]), f64::INFINITY);
        assert_eq!(greatest_difference(&[1.0, 2.0], &[]), f64::INFINITY);
    }
}
