//! The outputs of a model, read from the tensors that a runtime returns.

use ndarray::{Array1, Array2, Array4, Axis, Slice, concatenate};

use crate::{
    error::{Error, Result},
    method::Activations,
    model::file::{FEATURES, LOGIT_MAP, ModelFile, P_VALUE, UNKNOWN_AT},
};

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
    /// the file does not compute it. See [`p_value`](crate::method::p_value).
    pub p_value: Option<Array1<f32>>,
    /// Whether the score is above each of the K [operating
    /// points](crate::model::Threshold::operating_points), `[N, K]`; `None` if the file does not output them.
    pub unknown_at: Option<Array2<bool>>,
    /// Features `[N, F]`; `None` if the file does not output them.
    pub features: Option<Array2<f32>>,
    /// The logits of each place, `[N, C, h, w]`, whose mean over the h x w places is the logits; `None` if
    /// the file does not output them. [`Scorer::places`](super::Scorer::places) scores them.
    pub logit_map: Option<Array4<f32>>,
}

/// The tensors that a runtime returned for some images, by the names of the outputs.
pub(super) trait Returned {
    /// The shape and the values of a float32 tensor.
    fn floats(&self, name: &str) -> Result<(Vec<usize>, Vec<f32>), String>;
    /// The values of an int64 tensor.
    fn integers(&self, name: &str) -> Result<Vec<i64>, String>;
    /// The values of a tensor of truth values.
    fn flags(&self, name: &str) -> Result<Vec<bool>, String>;
}

impl Outputs {
    /// The number of images.
    #[must_use]
    pub fn len(&self) -> usize {
        self.score.len()
    }

    /// Whether there are no images.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The input of other scores.
    pub(crate) fn activations(&self) -> Activations<'_> {
        Activations {
            features: self.features.as_ref().map(|features| features.view()),
            logits: self.logits.view(),
            distances: self.distances.view(),
        }
    }

    /// The outputs for no images.
    fn none(file: &ModelFile) -> Self {
        let classes = file.manifest.decision.classes.len();
        Self {
            p_value: file.has(P_VALUE).then(|| Array1::zeros(0)),
            unknown_at: file.has(UNKNOWN_AT).then(|| Array2::from_elem((0, file.operating_points()), false)),
            features: file.features.map(|width| Array2::zeros((0, width))),
            logit_map: file.has(LOGIT_MAP).then(|| Array4::zeros((0, classes, 1, 1))),
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
    pub(super) fn concatenate(mut parts: Vec<Self>, file: &ModelFile, runtime: &'static str) -> Result<Self> {
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

    /// Those of the first images.
    pub(super) fn first(mut self, count: usize) -> Self {
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

    /// Reads the outputs for N images. Checks that there are N rows, one per image, and as many columns as the
    /// file has classes, operating points and features.
    ///
    /// # Errors
    /// [`Error::Runtime`].
    pub(super) fn read(
        returned: &impl Returned,
        runtime: &'static str,
        n: usize,
        file: &ModelFile,
    ) -> Result<Self> {
        let classes = file.manifest.decision.classes.len();
        let failed = |reason: String| Error::Runtime { runtime, reason };
        let differ = |what: &str| failed(format!("the model returned {what}"));
        let floats = |name: &str| Ok(returned.floats(name).map_err(failed)?.1);
        let rows = |values: usize| {
            if values == n { Ok(()) } else { Err(differ("outputs for a different number of images")) }
        };
        let matrix = |name: &str| {
            Array2::from_shape_vec((n, classes), floats(name)?)
                .map_err(|_| differ("outputs for a different number of classes"))
        };
        let in_range = |label: i64| usize::try_from(label).ok().filter(|&label| label < classes);
        let label: Option<Vec<usize>> =
            returned.integers("label").map_err(failed)?.into_iter().map(in_range).collect();
        let label = label.ok_or_else(|| differ("a label out of range"))?;
        let (score, unknown) = (floats("score")?, returned.flags("unknown").map_err(failed)?);
        [score.len(), label.len(), unknown.len()].into_iter().try_for_each(rows)?;
        let p_value = file.has(P_VALUE).then(|| {
            let values = floats(P_VALUE)?;
            rows(values.len()).map(|()| Array1::from(values))
        });
        let unknown_at = file.has(UNKNOWN_AT).then(|| {
            let verdicts = returned.flags(UNKNOWN_AT).map_err(failed)?;
            Array2::from_shape_vec((n, file.operating_points()), verdicts)
                .map_err(|_| differ("a different number of verdicts than it states"))
        });
        let features = file.features.map(|width| {
            Array2::from_shape_vec((n, width), floats(FEATURES)?)
                .map_err(|_| differ("a different number of features than it states"))
        });
        let logit_map = file.has(LOGIT_MAP).then(|| {
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
