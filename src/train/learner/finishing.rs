//! The features that the best checkpoint gets at the end of a run, for an export.

use std::{
    ops::ControlFlow::{self, Break, Continue},
    sync::atomic::{AtomicBool, Ordering},
};

use ndarray::{Array2, Array4};

use super::{Batches, Learner, Network, View, below_the_last, mirror};
use crate::{
    arch,
    data::{Degradation, StandIn, prefetch, shuffled, stand_ins::in_chunks},
    error::Result,
    run::{self, Checkpoint, Event, Mirrored, TestFeatures},
    train::batches::Set,
};

/// The maximum size of the features of training images in a checkpoint, and of those of test images, in
/// bytes.
const KEPT_FEATURES: usize = 128 << 20;

impl Learner<'_> {
    /// Computes the features of a checkpoint from which an export chooses a score and measures the effect of
    /// degradations, and those of mirror images if the training mirrored some. Breaks if asked to stop.
    pub fn add_features(
        &self,
        checkpoint: &mut Checkpoint,
        stop: &AtomicBool,
        observe: &mut dyn FnMut(&Event),
    ) -> Result<ControlFlow<()>> {
        let Batches { choosing, calibrating, unknown_tests, .. } = self.batches;
        let layers = checkpoint.facts.layers()?;
        let width = arch::feature_count(&layers);
        let drawn = self.batches.sample(run::EXAMPLES.min(KEPT_FEATURES / (width * size_of::<f32>())));
        // A pasted patch is from another image in the same batch, which must hold several classes.
        let mixed = shuffled(choosing.len(), self.settings.recipe.seed).into_iter();
        let mixed: Vec<usize> = mixed.map(|index| choosing[index]).collect();
        let unknown = (0..unknown_tests.len()).map(Set::Unknown);
        let tests: Vec<Set> = [Set::Test].into_iter().chain(unknown).collect();
        let tested: usize = tests.iter().map(|&set| self.batches.dataset(set).len()).sum();
        let keeps_tests = tested * width * size_of::<f32>() <= KEPT_FEATURES;
        let undegraded = run::degraded_among(calibrating);
        let made = StandIn::ALL.len() * choosing.len() + Degradation::ALL.len() * undegraded.len();
        let mirrors = self.settings.recipe.mirrors();
        let images =
            drawn.len() + choosing.len() + calibrating.len() + made + if keeps_tests { tested } else { 0 };
        let check = self.check_images();
        let images = if mirrors { 2 * images + check.len() } else { images };

        let network = below_the_last(&layers, &checkpoint.network, self.device, &self.settings.input)?;
        let mut finishing =
            Finishing { learner: self, network, width, images, done: 0, stop, is_stopped: false, observe };
        let mut seen = |view: View| -> Result<run::Features> {
            let mut stand_ins = Vec::new();
            for kind in StandIn::ALL {
                stand_ins.push((kind.name().to_owned(), finishing.stand_ins(kind, &mixed, view)?));
            }
            let mut degraded = Vec::new();
            for one in Degradation::ALL {
                degraded.push((one, finishing.degraded(one, &undegraded, view)?));
            }
            let mut test = None;
            if keeps_tests {
                let mut whole = |set: Set| {
                    let indices: Vec<usize> = (0..self.batches.dataset(set).len()).collect();
                    finishing.features(set, &indices, view)
                };
                let known = whole(Set::Test)?;
                let unknown = tests[1..].iter().map(|&set| whole(set)).collect::<Result<_>>()?;
                test = Some(TestFeatures { known, unknown });
            }
            Ok(run::Features {
                stand_ins,
                degraded,
                test,
                training: finishing.features(Set::Known, &drawn, view)?,
                labels: self.batches.labels(&drawn),
                choosing: finishing.features(Set::Known, choosing, view)?,
                calibrating: finishing.features(Set::Known, calibrating, view)?,
            })
        };
        let features = seen(View::Plain)?;
        let mut mirrored = None;
        if mirrors {
            let features = seen(View::Mirrored)?;
            let check = finishing.features(Set::Test, &check, View::Mirrored)?;
            mirrored = Some(Mirrored { features, check: checkpoint.last_layer()?.logits(check.view()) });
        }
        if finishing.is_stopped {
            return Ok(Break(()));
        }
        (checkpoint.features, checkpoint.mirrored) = (Some(features), mirrored);
        Ok(Continue(()))
    }
}

/// Computes the features of a checkpoint and reports progress.
struct Finishing<'a> {
    learner: &'a Learner<'a>,
    /// The layers below the last.
    network: Network,
    /// The number of features.
    width: usize,
    /// The number of images whose features are computed, and of those done.
    images: usize,
    done: usize,
    stop: &'a AtomicBool,
    /// Set once `stop` is; the features are then incomplete.
    is_stopped: bool,
    observe: &'a mut dyn FnMut(&Event),
}

impl Finishing<'_> {
    /// The features of images of a set. Those of frozen layers may already exist.
    fn features(&mut self, set: Set, indices: &[usize], view: View) -> Result<Array2<f32>> {
        let found = self.learner.features().and_then(|features| {
            let rows = indices.iter().map(|&index| features.find(set, index, view));
            Some((rows.collect::<Option<Vec<usize>>>()?, features))
        });
        if let Some((rows, features)) = found {
            self.count(rows.len());
            return features.raw_rows(&rows);
        }
        let dataset = self.learner.batches.dataset(set);
        self.compute(indices, view, |indices| dataset.batch(indices))
    }

    /// The features of stand-ins for unknown images, made from known ones.
    fn stand_ins(&mut self, kind: StandIn, indices: &[usize], view: View) -> Result<Array2<f32>> {
        let known = &self.learner.batches.known;
        self.compute(indices, view, |indices| known.stand_ins(kind, indices))
    }

    /// The features of degraded known images.
    fn degraded(&mut self, degradation: Degradation, indices: &[usize], view: View) -> Result<Array2<f32>> {
        let known = self.learner.batches.known.clone().degraded(degradation);
        self.compute(indices, view, |indices| known.batch(indices))
    }

    fn compute(
        &mut self,
        indices: &[usize],
        view: View,
        read: impl Fn(&[usize]) -> Result<Array4<u8>> + Send,
    ) -> Result<Array2<f32>> {
        self.is_stopped |= self.stop.load(Ordering::Relaxed);
        if self.is_stopped {
            // No image is decoded.
            return Ok(Array2::zeros((0, self.width)));
        }
        let read = move |indices: &[usize]| -> Result<Array4<u8>> {
            let mut images = read(indices)?;
            if view == View::Mirrored {
                mirror(&mut images);
            }
            Ok(images)
        };
        let mut values = Vec::with_capacity(indices.len() * self.width);
        prefetch(in_chunks(indices), read, |batches| -> Result<()> {
            for images in batches {
                self.is_stopped |= self.stop.load(Ordering::Relaxed);
                if self.is_stopped {
                    break;
                }
                let images = images?;
                values.extend(self.learner.evaluate(&self.network, &images)?);
                self.count(images.dim().0);
            }
            Ok(())
        })?;
        let rows = values.len() / self.width;
        Ok(Array2::from_shape_vec((rows, self.width), values).expect("whole rows"))
    }

    fn count(&mut self, images: usize) {
        self.done += images;
        (self.observe)(&Event::Finishing { done: self.done, images: self.images });
    }
}
