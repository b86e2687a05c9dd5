//! Verification: a runtime's outputs for golden images against those in the file.

use super::{Outputs, Provider, Scorer, images::resized};
use crate::{
    error::{Difference, Error, Result},
    image::{self, Input, RgbImage},
    method,
    model::{
        ModelPrecision,
        golden::{self, GoldenBatch},
    },
};

impl Scorer {
    /// Compares the outputs for the [golden images](golden::images) with those of the export, which are in
    /// the file: class, score, and the norm of the logits. Verdicts must not contradict scores. A runtime that
    /// [resizes](Self::resizes) must also decide taller, wider and smaller golden images as if
    /// [`image::pixels`] had resized them. Returns the largest difference of a norm or score, relative above 1.
    ///
    /// # Errors
    /// [`Error::NoGoldenBatch`] if the file has none, [`Error::Model`] if it is damaged, [`Error::Differs`]
    /// if an output differs, and those of [`score`](Self::score).
    pub fn verify(&self) -> Result<f64> {
        let history = &self.manifest().history;
        let origin = || self.file.origin.clone();
        let Some(expected) = history.golden.as_ref().filter(|golden| golden.is_complete()) else {
            return Err(if history.golden.is_some() || history.other.contains_key("golden") {
                Error::Model { origin: origin(), reason: "its `cac.golden` is damaged".to_owned() }
            } else {
                Error::NoGoldenBatch { origin: origin() }
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
        let found = self.golden_outputs()?;
        let mut greatest =
            compared(&compared_outputs(&found), expected, outputs, tolerance).map_err(differs)?;
        match self.wrong_verdicts(&found) {
            0 => {}
            wrong => return Err(differs(("verdicts", Difference::Images(wrong)))),
        }
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
            .map(|outputs| compared_outputs(&outputs)))
    }

    /// The outputs for the golden images, which an export writes into the file.
    #[cfg(feature = "export")]
    pub(crate) fn golden_batch(&self) -> Result<GoldenBatch> {
        Ok(compared_outputs(&self.golden_outputs()?))
    }

    /// The outputs for the golden images.
    fn golden_outputs(&self) -> Result<Outputs> {
        self.score_u8(golden::images(&self.decision().input).view())
    }

    /// The number of images for which a verdict of the model, or one at an operating point, contradicts the
    /// score.
    fn wrong_verdicts(&self, outputs: &Outputs) -> usize {
        let points = self.decision().threshold.iter().flat_map(|threshold| &threshold.operating_points);
        let points: Vec<f32> = points.map(|point| point.threshold).collect();
        let is_wrong = |&image: &usize| {
            let score = outputs.score[image];
            let of_points = outputs.unknown_at.iter().flat_map(|at| at.row(image).to_vec());
            outputs.unknown[image] != method::is_unknown(score, self.threshold())
                || of_points.zip(&points).any(|(found, &point)| found != method::is_unknown(score, point))
        };
        (0..outputs.score.len()).filter(is_wrong).count()
    }
}

/// The outputs that are compared.
fn compared_outputs(outputs: &Outputs) -> GoldenBatch {
    GoldenBatch::new(outputs.logits.view(), &outputs.score, &outputs.label)
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

    #[cfg(feature = "tract")]
    #[test]
    fn verdicts_that_contradict_the_score_are_found() {
        use prost::Message;

        let mut model =
            crate::model::proto::Model::decode(&include_bytes!("../../exported/cifar10-cifar-net.onnx")[..])
                .unwrap();
        let nodes = &mut model.graph.as_mut().unwrap().node;
        let verdict = nodes.iter_mut().find(|node| node.output.iter().any(|name| name == "unknown")).unwrap();
        let compared = verdict.input[0].clone();
        let comparison = nodes.iter_mut().find(|node| node.output.contains(&compared)).unwrap();
        assert_eq!(comparison.op_type, "LessOrEqual");
        comparison.op_type = "GreaterOrEqual".to_owned();
        let scorer = Scorer::from_bytes(&model.encode_to_vec(), Provider::Cpu).unwrap();
        let error = scorer.verify().unwrap_err();
        assert!(matches!(error, Error::Differs { what: "verdicts", .. }), "{error}");
    }
}
