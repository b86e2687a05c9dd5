//! A training run: its recipe, device, folder and checkpoints.

mod checkpoint;
mod device;
mod event;
mod folder;
mod recipe;

#[cfg(any(feature = "export", feature = "train"))]
pub(crate) use checkpoint::degraded_among;
pub use checkpoint::{
    CheckBatch, Checkpoint, CheckpointKind, EXAMPLES, Facts, Features, HeldOut, Mirrored, TestFeatures,
    TestLogits,
};
pub use device::Device;
pub use event::{Event, Started};
pub use folder::{RUNS, RunFolder};
#[cfg(feature = "train")]
pub(crate) use recipe::orthogonal_share;
pub use recipe::{
    Augment, BatchNorm, FEW_IMAGES, Optimizer, Outliers, Recipe, Schedule, ScheduledRates, TrainingPrecision,
};
