//! tract: one image at a time on every thread, which is faster than batches.

use std::sync::Arc;

use rayon::prelude::*;
use tract_onnx::prelude::*;

use super::{Images, Outputs, RawOutputs};
use crate::{
    error::{Error, Result},
    model::file::ModelFile,
    panics::caught,
};

const NAME: &str = "tract";
/// Name and version, for the history of a model.
pub(crate) const TRACT: &str = "tract 0.23.9";

/// A network that is ready to run.
pub(crate) struct Plan(Arc<TypedRunnableModel>);

impl Plan {
    /// Optimises a model that takes float32.
    pub(crate) fn of_floats(bytes: &[u8], shape: [usize; 4]) -> std::result::Result<Self, String> {
        Self::new(bytes, f32::fact(shape))
    }

    fn new(bytes: &[u8], input: TypedFact) -> std::result::Result<Self, String> {
        let plan = unpanicked(|| {
            tract_onnx::onnx()
                .model_for_read(&mut &bytes[..])?
                .with_input_fact(0, input.into())?
                .into_optimized()?
                .into_runnable()
        });
        Ok(Self(plan?))
    }

    /// Runs the network; the outputs are in the order of the graph.
    pub(crate) fn run(&self, input: Tensor) -> std::result::Result<TVec<TValue>, String> {
        unpanicked(|| self.0.run(tvec!(input.into())))
    }
}

pub(super) struct Tract {
    plan: Plan,
    /// The number of images that the plan takes: the file's fixed batch, or 1.
    batch: usize,
}

impl Tract {
    pub fn new(bytes: &[u8], file: &ModelFile) -> Result<Self> {
        let batch = file.batch.unwrap_or(1);
        let (height, width) = (file.manifest.decision.input.height, file.manifest.decision.input.width);
        let input = if file.takes_bytes {
            u8::fact([batch, height, width, 3])
        } else {
            f32::fact([batch, 3, height, width])
        };
        let plan = Plan::new(bytes, input).map_err(|reason| file.unsupported(NAME, reason))?;
        Ok(Self { plan, batch })
    }

    pub fn run(&self, images: Images, file: &ModelFile) -> Result<Outputs> {
        let parts: Vec<Outputs> = (0..images.len().div_ceil(self.batch))
            .into_par_iter()
            .map(|number| self.run_plan(images.part(number * self.batch, self.batch), file))
            .collect::<Result<_>>()?;
        Ok(Outputs::concatenate(&parts, file.manifest.decision.classes.len()))
    }

    fn run_plan(&self, images: Images, file: &ModelFile) -> Result<Outputs> {
        let failed = |reason: String| Error::Runtime { runtime: NAME, reason };
        let n = images.len();
        let input: Tensor =
            if file.takes_bytes { images.to_bytes().into() } else { images.to_floats().into() };
        let outputs = self.plan.run(input).map_err(failed)?;
        let failed = |error: TractError| failed(format!("{error:#}"));
        let output = |name: &str| &outputs[file.output(name).expect("every model has this output")];
        fn values<T: Datum + Copy>(output: &Tensor) -> TractResult<Vec<T>> {
            Ok(output.to_plain_array_view::<T>()?.iter().copied().collect())
        }
        let floats = |name| values::<f32>(output(name)).map_err(failed);
        let further = |name| file.output(name).map(|_| floats(name)).transpose();
        RawOutputs {
            logits: floats("logits")?,
            distances: floats("distances")?,
            score: floats("score")?,
            label: values::<i64>(output("label")).map_err(failed)?,
            unknown: values::<bool>(output("unknown")).map_err(failed)?,
            p_value: further("p_value")?,
            features: further("features")?,
        }
        .checked(NAME, n, file.manifest.decision.classes.len())
    }
}

/// Turns a panic into an error: tract panics on some malformed graphs, which a hostile file may hold.
fn unpanicked<T>(run: impl FnOnce() -> TractResult<T>) -> std::result::Result<T, String> {
    match caught(run) {
        Some(result) => result.map_err(|error| format!("{error:#}")),
        None => Err("it panicked on the graph".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_version_of_tract_is_the_one_that_is_built() {
        let (name, version) = super::TRACT.split_once(' ').unwrap();
        let entry = format!("name = \"{name}-onnx\"\nversion = \"{version}\"\n");
        assert!(include_str!("../../Cargo.lock").contains(&entry), "{entry}");
    }
}
