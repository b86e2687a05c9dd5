//! Which of the known images of a run train, choose and calibrate.

use std::collections::HashSet;

use crate::{
    data::{Copies, Dataset, leaving_classes, shuffled},
    error::{Error, Result},
    method::{KEEP, needed, needed_to_choose, usually_held_out},
    run::{EXAMPLES, Recipe},
};

/// The known images of a run, as ascending indices into their data set.
pub(super) struct Division {
    pub training: Vec<usize>,
    /// Held-out images that choose the epoch and the score.
    pub choosing: Vec<usize>,
    /// Held-out images from which the threshold is chosen.
    pub calibrating: Vec<usize>,
}

impl Division {
    /// Divides the images at random. Of equal images the first may be held out; the others are left out then,
    /// because the network would learn it from them. Images that calibrate are drawn regardless of their
    /// classes, as new images arrive, but each class keeps an image.
    ///
    /// # Errors
    /// Those of [`HeldOutCounts::of`], and [`Error::EmptiesClass`].
    pub fn of(known: &Dataset, copies: &Copies, recipe: &Recipe) -> Result<Self> {
        let distinct = copies.distinct();
        let held_out = HeldOutCounts::of(known, recipe.held_out, distinct.len())?;
        let labels: Vec<i64> = distinct.iter().map(|&index| known.labels()[index]).collect();
        let drawn =
            leaving_classes(&labels, shuffled(distinct.len(), recipe.seed)).take(held_out.calibrating);
        let drawn: HashSet<usize> = drawn.map(|index| distinct[index]).collect();
        let (calibrating, rest): (Vec<usize>, Vec<usize>) =
            distinct.into_iter().partition(|index| drawn.contains(index));
        let (choosing, training) = known.pick(&rest).hold_out(held_out.choosing, recipe.seed)?;
        let choosing = choosing.into_iter().map(|index| rest[index]).collect();
        let (training, _) = copies.divide(&training.into_iter().map(|index| rest[index]).collect());
        Ok(Self { training, choosing, calibrating })
    }
}

/// The numbers of held-out images.
pub(super) struct HeldOutCounts {
    choosing: usize,
    calibrating: usize,
}

impl HeldOutCounts {
    /// Those of a data set, of which this many images count; each class keeps one.
    ///
    /// # Errors
    /// [`Error::HoldsOutTooFew`] and [`Error::EmptiesClass`].
    pub fn of(known: &Dataset, share: f64, images: usize) -> Result<Self> {
        let are_distinct = images < known.len();
        let what = if are_distinct { "distinct images" } else { "images" };
        if images < known.classes().len() {
            let reason = format!("it has {images} {what} for {} classes", known.classes().len());
            return Err(Error::Dataset { path: known.origin.clone(), reason });
        }
        let held_out = Self::share(share, images, are_distinct)?;
        let count = held_out.choosing + held_out.calibrating;
        if count + known.classes().len() > images {
            let value = format!("{count} of {images} {what}");
            return Err(Error::EmptiesClass { name: "held-out", value });
        }
        Ok(held_out)
    }

    /// A share of the images; a share of 0 holds out none. A small share is raised to 58 images, so that the
    /// threshold is not the largest score. If 58 exceed a fifth of all images, it is raised to the 19 that a
    /// threshold needs, unless these exceed a fifth too. A third chooses, at most [`EXAMPLES`], if that is at least
    /// 19; otherwise all calibrate. `are_distinct` says, for an error, that copies are not counted.
    fn share(share: f64, images: usize, are_distinct: bool) -> Result<Self> {
        let (mut count, needed) = ((share * images as f64 - 1e-9).ceil() as usize, needed(KEEP));
        if count == 0 {
            return Ok(Self { choosing: 0, calibrating: 0 });
        }
        if let Some(least) = [usually_held_out(), needed].into_iter().find(|least| 5 * least <= images) {
            count = count.max(least);
        }
        if count < needed {
            return Err(Error::HoldsOutTooFew {
                share,
                found: count,
                images,
                are_distinct,
                needed,
                keep: KEEP,
            });
        }
        // Too few would choose by chance; the features of more take memory.
        let choosing = if count < needed_to_choose() { 0 } else { EXAMPLES.min(count / 3) };
        Ok(Self { choosing, calibrating: count - choosing })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn held_out_images_suffice_for_a_threshold_or_are_refused() {
        for (share, images, expected) in [
            (0.0, 5, [0, 0]),
            (0.02, 5000, [33, 67]),
            (0.02, 500, [19, 39]),
            (0.02, 95, [0, 19]),
            (0.6, 36, [0, 22]),
            (0.5, 112, [0, 56]),
            (0.5, 114, [19, 38]),
            (0.1, 200_000, [5000, 15_000]),
        ] {
            let HeldOutCounts { choosing, calibrating } = HeldOutCounts::share(share, images, false).unwrap();
            assert_eq!([choosing, calibrating], expected, "{share} of {images}");
        }
        let error = HeldOutCounts::share(0.02, 36, false).err().expect("too few").to_string();
        assert!(
            error.contains("held-out = 0.02: holds out 1 of 36 images") && error.ends_with("needs 19"),
            "{error}"
        );
    }
}
