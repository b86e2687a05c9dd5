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
    pub score: LogitScore,
    /// The rejection scores `[h, w]`; larger = more likely unknown.
    pub scores: Array2<f32>,
    /// The [p-values](method::p_value) `[h, w]` of these scores among those of whole held-out known images.
    pub p_values: Array2<f32>,
    /// Indices of the nearest anchors, `[h, w]`.
    pub labels: Array2<usize>,
    /// The p-value of the whole image for the same score, which may differ from that of the verdict.
    pub whole_p_value: f32,
    /// The number of held-out known images.
    pub held_out: usize,
}

impl Scorer {
    /// Checks that the model outputs the logits of places.
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
        let (place_score, anchors) = self.place_score()?;
        let maps = outputs.logit_map.as_ref().ok_or_else(|| self.no_map())?;
        let distances = outputs.distances.view();
        let wholes = place_score.score.rejection(outputs.logits.view(), distances);
        let of_image = |(map, &whole): (ArrayView3<f32>, &f32)| places(place_score, anchors, map, whole);
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
fn places(place_score: &PlaceScore, anchors: &Anchors, map: ArrayView3<f32>, whole: f32) -> Places {
    let PlaceScore { score, held_out_scores } = place_score;
    let (classes, height, width) = map.dim();
    let rows = map.permuted_axes([1, 2, 0]);
    let logits = Array2::from_shape_vec((height * width, classes), rows.iter().copied().collect())
        .expect("a row for each place");
    let distances = anchors.distances(logits.view());
    let scores = score.rejection(logits.view(), distances.view()).to_vec();
    let labels = method::nearest(distances.view());
    let p_value = |score: &f32| method::p_value(held_out_scores, *score);
    let grid = (height, width);
    Places {
        score: *score,
        p_values: Array2::from_shape_vec(grid, scores.iter().map(p_value).collect()).expect("a value each"),
        scores: Array2::from_shape_vec(grid, scores).expect("a score for each place"),
        labels: Array2::from_shape_vec(grid, labels).expect("a class for each place"),
        whole_p_value: p_value(&whole),
        held_out: held_out_scores.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{arr2, arr3};

    #[test]
    fn places_are_scored_like_images_and_compared_with_known_ones() {
        let place_score = PlaceScore { score: LogitScore::MinDistance, held_out_scores: vec![1.0, 2.0, 3.0] };
        // One row of three places: on the first anchor, on the second, and 5 from the second.
        let map = arr3(&[[[10.0, 0.0, 0.0]], [[0.0, 10.0, 15.0]]]);
        let found = places(&place_score, &Anchors::fixed(2, 10.0), map.view(), 2.5);
        assert_eq!(found.scores, arr2(&[[0.0, 0.0, 5.0]]));
        assert_eq!(found.labels, arr2(&[[0, 1, 1]]));
        assert_eq!(found.p_values, arr2(&[[1.0, 1.0, 0.25]]));
        assert_eq!((found.whole_p_value, found.held_out), (0.5, 3));
    }
}
