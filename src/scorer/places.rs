//! Which part of an image looks unknown: the scores of its places.

use ndarray::{Array2, ArrayView3, Axis};

use super::{Outputs, Scorer};
use crate::{
    error::{Error, Result},
    method::{self, Anchors, LogitScore},
    model::PlaceScore,
};

/// The scores of the h x w places of an image, from top to bottom and from left to right of what the network
/// sees of it.
///
/// A place is scored like an image that has the features of this place everywhere. What the network sees
/// around a place counts too: places overlap.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Places {
    /// The score.
    pub rule: LogitScore,
    /// The rejection scores `[h, w]`; larger = more likely unknown.
    pub score: Array2<f32>,
    /// The [p-values](method::p_value) `[h, w]` of these scores among those of whole held-out known images.
    pub p_value: Array2<f32>,
    /// Indices of the nearest anchors, `[h, w]`.
    pub label: Array2<usize>,
    /// The p-value of the whole image for the same score, which may differ from that of the verdict.
    pub whole: f32,
    /// The number of held-out known images.
    pub known: usize,
}

impl Scorer {
    /// Whether the model outputs the logits of places.
    ///
    /// # Errors
    /// [`Error::NoMap`] if it does not.
    pub fn check_places(&self) -> Result<()> {
        self.place_score().map(drop)
    }

    /// The scores of the places of each image, from outputs of this model.
    ///
    /// # Errors
    /// [`Error::NoMap`] if the model does not output the logits of places.
    pub fn places(&self, outputs: &Outputs) -> Result<Vec<Places>> {
        let (rule, anchors) = self.place_score()?;
        let maps = outputs.logit_map.as_ref().ok_or_else(|| self.no_map())?;
        let distances = outputs.distances.view();
        let wholes = rule.score.rejection(outputs.logits.view(), distances);
        let of_image = |(map, &whole): (ArrayView3<f32>, &f32)| places(rule, anchors, map, whole);
        Ok(maps.axis_iter(Axis(0)).zip(&wholes).map(of_image).collect())
    }

    fn place_score(&self) -> Result<(&PlaceScore, &Anchors)> {
        self.decision().places.as_ref().zip(self.file.anchors.as_ref()).ok_or_else(|| self.no_map())
    }

    fn no_map(&self) -> Error {
        Error::NoMap { origin: self.file.origin.clone() }
    }
}

/// The places of one image, from their logits `[C, h, w]` and the image's score.
fn places(rule: &PlaceScore, anchors: &Anchors, map: ArrayView3<f32>, whole: f32) -> Places {
    let (classes, height, width) = map.dim();
    let rows = map.permuted_axes([1, 2, 0]);
    let logits = Array2::from_shape_vec((height * width, classes), rows.iter().copied().collect())
        .expect("a row for each place");
    let distances = anchors.distances(logits.view());
    let score = rule.score.rejection(logits.view(), distances.view()).to_vec();
    let label = method::nearest(distances.view());
    let p_value = |score: &f32| method::p_value(&rule.held_out_scores, *score);
    let grid = (height, width);
    Places {
        rule: rule.score,
        p_value: Array2::from_shape_vec(grid, score.iter().map(p_value).collect()).expect("a value each"),
        score: Array2::from_shape_vec(grid, score).expect("a score for each place"),
        label: Array2::from_shape_vec(grid, label).expect("a class for each place"),
        whole: p_value(&whole),
        known: rule.held_out_scores.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{arr2, arr3};

    #[test]
    fn places_are_scored_like_images_and_compared_with_known_ones() {
        let rule = PlaceScore { score: LogitScore::MinDistance, held_out_scores: vec![1.0, 2.0, 3.0] };
        // One row of three places: on the first anchor, on the second, and 5 from the second.
        let map = arr3(&[[[10.0, 0.0, 0.0]], [[0.0, 10.0, 15.0]]]);
        let found = places(&rule, &Anchors::fixed(2, 10.0), map.view(), 2.5);
        assert_eq!(found.score, arr2(&[[0.0, 0.0, 5.0]]));
        assert_eq!(found.label, arr2(&[[0, 1, 1]]));
        assert_eq!(found.p_value, arr2(&[[1.0, 1.0, 0.25]]));
        assert_eq!((found.whole, found.known), (0.5, 3));
    }
}
