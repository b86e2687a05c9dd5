//! The integration tests, one binary. Golden data and the script that made it are in `tests/golden`.

mod commands;
mod conformance;
mod dependencies;
mod errors;
mod exported;
#[path = "../golden/fill.rs"]
mod fill;
mod import;
mod metrics;
mod numbers;
mod pixels;
#[cfg(feature = "train")]
mod training;

use std::path::{Path, PathBuf};

use cac::{
    arch::{Architecture, WideResNet},
    cac::{Loss, Variant},
    checkpoint::Checkpoint,
    manifest::{Input, Manifest},
    weights::Weights,
};

/// A file of the golden data.
fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// The WideResNet-10-k that PyTorch made, as if it had been trained here.
fn checkpoint(widen_factor: usize, variant: Variant) -> Checkpoint {
    let classes = ["ant", "bee", "cow"].map(str::to_owned).to_vec();
    let architecture = Architecture::WideResNet(WideResNet { depth: 10, widen_factor, dropout: 0.3 });
    let manifest = Manifest::new(classes, Input::default(), architecture, Loss::new(variant));
    let weights = Weights::read(&golden(&format!("wrn-10-{widen_factor}.safetensors"))).unwrap();
    Checkpoint { manifest, weights }
}
