//! Open-set image classifiers with Class Anchor Clustering (CAC): networks that classify images of known
//! classes and reject all others as unknown.
//!
//! The data flow, and where it lives:
//!
//! ```text
//! images ─ data ─ image ─┬─ train (arch on libtorch, method's loss) ─ run (checkpoint)
//!                        │                                              │
//!                        │                                           export (arch as ONNX)
//!                        │                                              │
//!                        └──────────── scorer ─────────────────── model.onnx
//!                                         │
//!                              score, label, unknown ─ eval ─ metrics ─ report ─ page
//!                                         │
//!                                       drift
//! ```
//!
//! # Scoring images in a program
//!
//! ```no_run
//! # #[cfg(feature = "tract")]
//! # fn main() -> cac::Result<()> {
//! use cac::{Provider, Scorer, image};
//!
//! let scorer = Scorer::open("model.onnx", Provider::Cpu)?;
//! let verdict = scorer.score_image(&image::open("image.jpg")?)?;
//! println!("{} {}", if verdict.unknown { "unknown" } else { &verdict.class }, verdict.score);
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "tract"))]
//! # fn main() {}
//! ```
//!
//! # The method on its own
//!
//! ```
//! use cac::method::{Anchors, LogitScore, nearest};
//!
//! // Logits of two images: one near the anchor of class 0, one near no anchor.
//! let logits = ndarray::arr2(&[[9.0, 1.0, 0.0], [2.0, 3.0, 2.0]]);
//! let distances = Anchors::fixed(3, 10.0).distances(logits.view());
//! let scores = LogitScore::Cac.rejection(logits.view(), distances.view());
//! assert_eq!(nearest(distances.view()), [0, 1]);
//! assert!(scores[0] < 0.1 && scores[1] > 2.5, "larger = more likely unknown");
//! ```
//!
//! # Features
//!
//! | feature | what it adds | native libraries |
//! |---|---|---|
//! | `tract` | [`Scorer`] and [`eval`] on the CPU in pure Rust | none |
//! | `onnxruntime` | [`Scorer`] and [`eval`] with the other providers | libonnxruntime, at run time |
//! | `export` | [`export`], [`import`], [`fit`] and [`eval::feature_file`]: the writing of model files; includes `tract` and `files` | none |
//! | `files` | [`eval::score_file`], weights in PyTorch's format, published weights and data sets by name, data sets in pickles and arrays of NumPy | none |
//! | `parquet` | data sets in Parquet | none |
//! | `page` | [`page::Page`]: results to look at, as HTML, SVG and PNG; includes `tract` and `files` | none |
//! | `cli` (default) | the program `toolkit`; includes `export`, `onnxruntime` and `page` | as above |
//! | `train` | [`train`]; with `cli` the program `toolkit-train`; includes `files` | libtorch, at build and run time |
//!
//! A program that only scores needs `default-features = false, features = ["tract"]`, or `["onnxruntime"]` with
//! [`Provider::OnnxRuntime`] in place of [`Provider::Cpu`], which is tract.
//!
//! # Versions
//!
//! Before 1.0.0 a new minor version may break what the previous one had, as may a new version of a dependency
//! whose types are in signatures: [`ndarray`], `image` ([`image::RgbImage`]), `serde_json` (values of metadata that
//! this version does not know) and `bytes` ([`Bytes`]). `ort`, `tract-onnx` and `tch` are not in signatures, but
//! pinned: a program that depends on one of them needs the same version.
#![cfg_attr(
    not(all(feature = "cli", feature = "train")),
    allow(rustdoc::broken_intra_doc_links, reason = "the table links to items that may not be built")
)]
#![cfg_attr(not(test), warn(clippy::print_stdout, clippy::print_stderr))]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(all(feature = "tract", target_endian = "big"))]
compile_error!(
    "tract reads the tensors of a model in the processor's byte order, which must be little-endian"
);

pub mod arch;
pub mod data;
pub mod drift;
mod error;
pub mod eval;
#[cfg(feature = "export")]
pub mod export;
pub mod files;
#[cfg(feature = "export")]
pub mod fit;
pub mod image;
#[cfg(feature = "export")]
pub mod import;
pub mod method;
pub mod metrics;
pub mod model;
#[cfg(feature = "page")]
pub mod page;
mod panics;
pub mod report;
pub mod run;
#[cfg(any(feature = "tract", feature = "onnxruntime"))]
pub mod scorer;
pub mod text;
#[cfg(feature = "train")]
pub mod train;
pub mod weights;

pub use error::{Difference, Error, Result};
/// The crate of the arrays that a scorer takes and returns.
pub use ndarray;
pub use panics::panic_is_caught;
/// The bytes of a model file, shared instead of copied.
#[cfg(any(feature = "tract", feature = "onnxruntime"))]
pub use prost::bytes::Bytes;
#[cfg(any(feature = "tract", feature = "onnxruntime"))]
pub use scorer::{Outputs, Provider, Scorer, Verdict};

#[cfg(test)]
#[allow(dead_code, reason = "the tests of some features need less")]
#[path = "../tests/golden/fill.rs"]
mod fill;

/// The README's examples as doc tests.
#[cfg(all(doctest, feature = "tract"))]
#[doc = include_str!("../README.md")]
struct Readme;
