//! The integration tests, one binary. Golden data and the scripts that made it are in `tests/golden`.

mod commands;
mod conformance;
mod data;
mod dependencies;
mod errors;
mod exported;
#[path = "../golden/fill.rs"]
mod fill;
mod formats;
mod import;
mod layouts;
mod metrics;
mod numbers;
mod pixels;
mod programs;
mod report;
mod resize;
#[cfg(feature = "train")]
mod training;
mod weights;

use std::path::{Path, PathBuf};

use cac::{
    arch::Architecture,
    image::Input,
    method::{Anchors, Loss, Variant},
    run::{CheckBatch, Checkpoint, Facts},
    weights::Weights,
};
use ndarray::Array4;

/// A file of the golden data.
fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// The weights of a network, filled by the formula of the golden data.
fn filled(architecture: &Architecture, classes: usize) -> Weights {
    let mut weights = Weights::new(Path::new("filled"));
    for (name, shape) in
        architecture.layers(classes, 32, 32).unwrap().iter().flat_map(|layer| layer.parameters())
    {
        weights.insert(&name, &shape, fill::values(&name, &shape));
    }
    weights
}

/// A checkpoint of the golden WideResNet-10-k, which PyTorch made.
fn checkpoint(widen_factor: usize, variant: Variant) -> Checkpoint {
    let weights = Weights::read(&golden(&format!("wrn-10-{widen_factor}.safetensors"))).unwrap();
    let settings = [("depth", 10.0), ("widen_factor", widen_factor as f64), ("dropout", 0.3)];
    let architecture = Architecture::new("wide-resnet", &settings).unwrap();
    let layers = architecture.layers(3, 32, 32).unwrap();
    let held_out = weights.get("held_out.logits").unwrap().shape[0];
    let images = weights.values("check.images", &[4, 3, 32, 32]).unwrap().to_vec();
    let loss = Loss::new(variant);
    Checkpoint {
        facts: Facts {
            classes: ["ant", "bee", "cow"].map(str::to_owned).to_vec(),
            input: Input::default(),
            architecture,
            loss,
            anchors: loss.anchor_kind(false),
            score: loss.rejection_score(false),
            imported: None,
            training: None,
            data: None,
        },
        network: weights.of_layers(&layers).unwrap(),
        anchors: Anchors::Rows(weights.matrix("anchors", [3, 3]).unwrap()),
        held_out: weights.matrix("held_out.logits", [held_out, 3]).unwrap(),
        test: None,
        check: CheckBatch {
            images: Array4::from_shape_vec((4, 3, 32, 32), images).unwrap(),
            logits: weights.matrix("check.logits", [4, 3]).unwrap(),
        },
    }
}
