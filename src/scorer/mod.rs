//! Scores images with an exported model.

mod images;
#[cfg(feature = "onnxruntime")]
mod onnxruntime;
mod outputs;
mod places;
mod provider;
#[cfg(feature = "tract")]
pub(crate) mod tract;
mod verify;

use std::{collections::BTreeMap, fmt, ops::RangeInclusive, path::Path};

use ndarray::{Array4, ArrayView4, Axis, Slice};
use prost::bytes::Bytes;
#[cfg(feature = "tract")]
use rayon::prelude::*;

use self::images::{Images, filled, resized};
#[cfg(feature = "onnxruntime")]
pub use self::onnxruntime::load_onnxruntime;
#[cfg(feature = "export")]
pub(crate) use self::verify::greatest_difference;
pub use self::{outputs::Outputs, places::Places, provider::Provider};
use crate::{
    error::{Error, Result},
    image::{Frame, RgbImage},
    method,
    model::{self, Decision, Manifest, file::ModelFile},
    text::path_text,
};

/// The preferred batch of a runtime that resizes, whose images may be large; with more threads, it is their
/// number.
const ORIGINALS: usize = 8;
/// The maximum number of values of the images of a preferred batch.
const BATCH_VALUES: usize = 64 << 20;

/// A model that is ready to score.
///
/// Threads may share it: no lock is held while the network runs. On tract the calls of all threads share rayon's
/// global pool. On ONNX Runtime up to four calls run at once, and further ones wait; they share ONNX Runtime's
/// threads, one for each physical core, or `RAYON_NUM_THREADS`.
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

/// The decision of a model on one image.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub struct Verdict {
    /// The name of the class with the nearest anchor, even if the image is unknown.
    pub class: String,
    /// The index of that class, as in [`Outputs::label`].
    pub label: usize,
    /// Whether the image belongs to none of the known classes.
    pub unknown: bool,
    /// The rejection score, as in [`Outputs::score`]; larger = more likely unknown.
    pub score: f32,
    /// The score above which an image is unknown.
    pub threshold: f32,
    /// The p-value; see [`Outputs::p_value`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p_value: Option<f32>,
}

impl Scorer {
    /// Opens a model file.
    ///
    /// # Errors
    /// [`Error::Io`], and those of [`from_bytes`](Self::from_bytes), with the path.
    pub fn open(path: impl AsRef<Path>, provider: Provider) -> Result<Self> {
        let path = path.as_ref();
        Self::new(model::read(path)?, &path_text(path), provider, false)
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
    /// [`Error::NotFinite`] if it is NaN or infinite; the threshold is then unchanged.
    pub fn set_threshold(&mut self, threshold: f32) -> Result<()> {
        if !threshold.is_finite() {
            return Err(Error::NotFinite { what: "the threshold", value: threshold });
        }
        self.threshold = threshold;
        self.keep = None;
        Ok(())
    }

    /// Replaces the threshold with the one that keeps a share (0 to below 1) of new known images, chosen from
    /// the held-out scores in the file.
    ///
    /// # Errors
    /// [`Error::Setting`] if the file has a threshold for each class, and those of [`method::threshold`]; the
    /// threshold is then unchanged.
    pub fn set_keep(&mut self, keep: f64) -> Result<()> {
        if self.decision().is_per_class() {
            let reason = "the model has a threshold for each class, chosen for one share";
            return Err(Error::setting("keep", keep, reason));
        }
        self.set_threshold(method::threshold(self.decision().held_out_scores(), keep)?)?;
        self.keep = Some(keep);
        Ok(())
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
        self.provider.doubt_of_held_out(self.manifest())
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
            Runtime::Tract(_) => format!("{}: {}", self.provider, tract::description()),
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

    /// The recommended number of images per call: fewer of a large input, and of those that the model
    /// [resizes](Self::resizes). It does not bound the memory of the decoded originals.
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
        let batch = batch.min(BATCH_VALUES / self.decision().input.values()).max(1);
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

    /// Scores images `[N, 3, H, W]` of the model's size, RGB in 0..=1. A model that resizes leaves them as
    /// they are. On ONNX Runtime the network runs on [`preferred_batch`](Self::preferred_batch) images at a time.
    ///
    /// # Errors
    /// [`Error::Shape`] if the images do not have the model's size, [`Error::PixelRange`] if a value is
    /// outside -0.5..=1.5, farther out of range than bicubic resizing makes it, or NaN, [`Error::Runtime`] if the
    /// runtime fails.
    pub fn score(&self, images: ArrayView4<f32>) -> Result<Outputs> {
        // In some runtimes max(0, NaN) is 0, which could make such an image known.
        if let Some(&value) = images.iter().find(|value| !PIXELS.contains(value)) {
            return Err(Error::PixelRange { value });
        }
        self.score_images(Images::Floats(images))
    }

    /// Scores images given as bytes `[N, 3, H, W]`, the layout of [`image::pixels`](crate::image::pixels). A
    /// model that takes bytes gets the same values. A model that resizes leaves them as they are.
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
    /// neighbours of the same size together; for others, [`image::pixels`](crate::image::pixels) resizes them to
    /// the model's size.
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
    /// if the graph could, unless its nodes differ from [`image::pixels`](crate::image::pixels).
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
    ///
    /// # Panics
    /// If the outputs are those of a model with more classes, or their arrays differ in length.
    #[must_use]
    pub fn verdicts(&self, outputs: &Outputs) -> Vec<Verdict> {
        let classes = &self.decision().classes;
        let verdict = |index: usize| Verdict {
            class: classes[outputs.label[index]].clone(),
            label: outputs.label[index],
            unknown: method::is_unknown(outputs.score[index], self.threshold),
            score: outputs.score[index],
            threshold: self.threshold,
            p_value: outputs.p_value.as_ref().map(|values| values[index]),
        };
        (0..outputs.len()).map(verdict).collect()
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
            Runtime::OnnxRuntime(runtime) => runtime.run(images, self.preferred_batch(), &self.file),
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
