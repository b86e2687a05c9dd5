//! tract: one picture at a time on every thread, which is faster than batches.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use ndarray::{ArrayView4, Axis};
use rayon::prelude::*;
use tract_onnx::prelude::*;

use super::{
    Scores,
    file::{ModelFile, OUTPUTS},
};
use crate::error::{Error, Result};

/// A network that is ready to run.
pub(crate) struct Plan(Arc<TypedRunnableModel>);

impl Plan {
    /// Of a model that takes float32.
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

    /// The outputs in their order.
    pub(crate) fn run(&self, input: Tensor) -> std::result::Result<TVec<TValue>, String> {
        unpanicked(|| self.0.run(tvec!(input.into())))
    }
}

pub(super) struct Tract {
    plan: Plan,
    /// The number of pictures that the plan takes: the file's fixed batch, or 1.
    batch: usize,
}

impl Tract {
    pub fn new(bytes: &[u8], file: &ModelFile) -> Result<Self> {
        let batch = file.batch.unwrap_or(1);
        let (height, width) = (file.manifest.input.height, file.manifest.input.width);
        let input = if file.takes_bytes {
            u8::fact([batch, height, width, 3])
        } else {
            f32::fact([batch, 3, height, width])
        };
        let plan =
            Plan::new(bytes, input).map_err(|error| file.error(format!("tract cannot run it: {error}")))?;
        Ok(Self { plan, batch })
    }

    pub fn run(&self, images: ArrayView4<f32>, file: &ModelFile) -> Result<Scores> {
        let parts: Vec<Scores> = images
            .axis_chunks_iter(Axis(0), self.batch)
            .into_par_iter()
            .map(|images| self.run_plan(images, file))
            .collect::<Result<_>>()?;
        Ok(Scores::concatenate(&parts, file.manifest.classes.len()))
    }

    fn run_plan(&self, images: ArrayView4<f32>, file: &ModelFile) -> Result<Scores> {
        let failed = |error: TractError| Error::Runtime { runtime: "tract", reason: format!("{error:#}") };
        let n = images.len_of(Axis(0));
        let input: Tensor =
            if file.takes_bytes { super::bytes(images).into() } else { images.to_owned().into() };
        let outputs = self.plan.run(input).map_err(|reason| Error::Runtime { runtime: "tract", reason })?;
        let output = |name: &str| {
            let index = OUTPUTS.iter().position(|&output| output == name).expect("one of the five");
            &outputs[index]
        };
        fn values<T: Datum + Copy>(output: &Tensor) -> TractResult<Vec<T>> {
            Ok(output.to_plain_array_view::<T>()?.iter().copied().collect())
        }
        let floats = |name| values::<f32>(output(name)).map_err(failed);
        Scores::from_outputs(
            "tract",
            (n, file.manifest.classes.len()),
            (floats("logits")?, floats("distances")?),
            floats("score")?,
            values::<i64>(output("label")).map_err(failed)?,
            values::<bool>(output("unknown")).map_err(failed)?,
        )
    }
}

/// tract panics on some graphs that make no sense, which a hostile file may hold.
fn unpanicked<T>(run: impl FnOnce() -> TractResult<T>) -> std::result::Result<T, String> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(result) => result.map_err(|error| format!("{error:#}")),
        Err(_) => Err("the graph makes no sense to it".to_owned()),
    }
}
