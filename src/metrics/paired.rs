//! Resamples of images that two models have scored: the same images are drawn for both.

use super::{Metrics, Ranked, RankedKnown, Resample, rank};
use crate::error::Result;

/// The ranked scores of a model, with the image of each rank.
pub(crate) struct Placed {
    known: RankedKnown,
    known_images: Vec<usize>,
    sets: Vec<(Ranked, Vec<usize>)>,
}

impl Placed {
    /// Ranks the scores of known images and of each unknown set.
    pub(crate) fn new<S: Copy + Into<f64>>(
        known: &[S],
        correct: Option<&[bool]>,
        sets: &[&[S]],
    ) -> Result<Self> {
        let ranked = RankedKnown::new(known, correct)?;
        let is_wrong = |image: usize| correct.is_some_and(|correct| !correct[image]);
        let mut known_images: Vec<usize> = (0..known.len()).collect();
        known_images.sort_by_key(|&image| (is_wrong(image), rank(known[image].into())));
        let place = |scores: &&[S]| {
            let mut images: Vec<usize> = (0..scores.len()).collect();
            images.sort_by_key(|&image| rank(scores[image].into()));
            Ok((Ranked::new(scores)?, images))
        };
        let sets = sets.iter().map(place).collect::<Result<_>>()?;
        Ok(Self { known: ranked, known_images, sets })
    }

    /// The number of known images and that of each unknown set.
    pub(crate) fn counts(&self) -> (usize, Vec<usize>) {
        (self.known_images.len(), self.sets.iter().map(|(_, images)| images.len()).collect())
    }

    /// A resample by image as one by rank.
    pub(crate) fn drawn(&self, by_image: &Resample) -> Drawn<'_> {
        let at = |images: &[usize], times: &[u32]| images.iter().map(|&image| times[image]).collect();
        let sets = self.sets.iter().zip(&by_image.unknown);
        let resample = Resample {
            known: at(&self.known_images, &by_image.known),
            unknown: sets.map(|((_, images), times)| at(images, times)).collect(),
        };
        Drawn { placed: self, resample }
    }
}

/// The drawn images of a model.
pub(crate) struct Drawn<'a> {
    placed: &'a Placed,
    resample: Resample,
}

impl Drawn<'_> {
    /// The share of known images that are classified correctly, if that is known.
    pub(crate) fn accuracy(&self) -> Option<f64> {
        let known = &self.placed.known;
        known.is_judged.then(|| share(&self.resample.known, 0..known.correct.len()))
    }

    /// The share of known images that are not above a threshold.
    pub(crate) fn kept(&self, threshold: f64) -> f64 {
        let RankedKnown { correct, wrong, .. } = &self.placed.known;
        let kept = |ranks: &Ranked, first: usize| {
            share(&self.resample.known, first + ranks.above(threshold)..first + ranks.len())
        };
        kept(correct, 0) + kept(wrong, correct.len())
    }

    /// The share of the images of an unknown set that are above a threshold.
    pub(crate) fn caught(&self, set: usize, threshold: f64) -> f64 {
        share(&self.resample.unknown[set], 0..self.placed.sets[set].0.above(threshold))
    }

    /// The metrics for each unknown set.
    pub(crate) fn metrics(&self) -> Vec<Metrics> {
        let sets = self.placed.sets.iter().enumerate();
        sets.map(|(set, (ranked, _))| self.resample.metrics(&self.placed.known, set, ranked)).collect()
    }
}

/// The share of all draws that are of some ranks.
fn share(times: &[u32], ranks: std::ops::Range<usize>) -> f64 {
    let drawn: u64 = times[ranks].iter().map(|&times| u64::from(times)).sum();
    drawn as f64 / times.len() as f64
}
