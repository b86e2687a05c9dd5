//! The integration tests, one binary. Golden data and the scripts that made it are in `tests/golden`.

mod commands;
mod conformance;
mod data;
mod decision;
mod dependencies;
mod documentation;
mod drift;
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
mod places;
mod programs;
mod recalibrate;
mod report;
mod resize;
#[cfg(feature = "train")]
mod training;
mod weights;

use std::path::{Path, PathBuf};

use cac::{
    Provider,
    arch::Architecture,
    export::{self, ExportOptions},
    image::Input,
    method::{Anchors, Loss, Variant},
    run::{CheckBatch, Checkpoint, Facts, Features, HeldOut},
    weights::Weights,
};
use ndarray::{Array2, Array4};

/// The runtimes that the tests use: tract and ONNX Runtime.
const PROVIDERS: [Provider; 2] = [Provider::Cpu, Provider::OnnxRuntime];

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

/// A checkpoint of the golden WideResNet-10-k, made by PyTorch.
fn checkpoint(widen_factor: usize, variant: Variant) -> Checkpoint {
    let weights = Weights::read(&golden(&format!("wrn-10-{widen_factor}.safetensors"))).unwrap();
    let settings = [("depth", 10.0), ("widen_factor", widen_factor as f64), ("dropout", 0.3)];
    let architecture = Architecture::new("wide-resnet", &settings).unwrap();
    let layers = architecture.layers(3, 32, 32).unwrap();
    let images = weights.values("check.images", &[4, 3, 32, 32]).unwrap().to_vec();
    let loss = Loss::new(variant);
    let count = weights.get("held_out.logits").unwrap().shape[0];
    let held_out = weights.matrix("held_out.logits", [count, 3]).unwrap();
    // Features around a centre of each class.
    let width = weights.get("fc.weight").unwrap().shape[1];
    let features = |count: usize, seed: usize| {
        Array2::from_shape_fn((count, width), |(row, column)| {
            let noise = ((row * 7919 + column * 104_729 + seed * 1_299_709) % 1009) as f32 / 1009.0;
            noise + if column % 3 == row % 3 { 1.0 } else { 0.0 }
        })
    };
    Checkpoint {
        facts: Facts {
            classes: ["ant", "bee", "cow"].map(str::to_owned).to_vec(),
            input: Input::default(),
            architecture,
            loss,
            anchors: loss.anchor_kind(false),
            averages_views: false,
            score: loss.rejection_score(false),
            imported: None,
            training: None,
            data: None,
        },
        network: weights.of_layers(&layers).unwrap(),
        anchors: Anchors::Rows(weights.matrix("anchors", [3, 3]).unwrap()),
        features: Some(Features {
            training: features(600, 0),
            labels: (0..600).map(|row| row % 3).collect(),
            choosing: features(40, 1),
            calibrating: features(held_out.nrows(), 2),
            stand_ins: Vec::new(),
            degraded: Vec::new(),
            test: None,
        }),
        mirrored: None,
        held_out: HeldOut { choosing: held_out.clone(), calibrating: held_out },
        test: None,
        check: CheckBatch {
            images: Array4::from_shape_vec((4, 3, 32, 32), images).unwrap(),
            logits: weights.matrix("check.logits", [4, 3]).unwrap(),
        },
    }
}

/// The model file of a checkpoint.
fn model_file(checkpoint: &Checkpoint, options: &ExportOptions) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    export::export(checkpoint, options, &path).unwrap();
    std::fs::read(path).unwrap()
}
