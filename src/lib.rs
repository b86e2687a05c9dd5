//! Open-set image classifiers with Class Anchor Clustering (CAC): networks that name what they know and say
//! "unknown" to the rest.
//!
//! The data flow, and where it lives:
//!
//! ```text
//! pictures ─ dataset ─ preprocess ─┬─ train (arch on libtorch, cac's loss) ─ run folder (weights, manifest)
//!                                  │                                              │
//!                                  │                                           export (arch as ONNX)
//!                                  │                                              │
//!                                  └──────────── scorer ────────────────── model.onnx
//!                                                   │
//!                                        score, label, unknown ─ eval ─ metrics ─ report
//! ```
//!
//! # Scoring pictures in a program
//!
//! ```no_run
//! # #[cfg(feature = "tract")]
//! # fn main() -> cac::Result<()> {
//! use cac::{preprocess, scorer::{Provider, Scorer}};
//!
//! let scorer = Scorer::open("model.onnx", Provider::Cpu)?;
//! let picture = preprocess::open("picture.jpg")?;
//! let verdict = scorer.score_picture(&picture)?;
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
//! use cac::cac::{Score, distances, fixed_anchors, labels};
//!
//! // Logits of two pictures: one near the anchor of class 0, one near none.
//! let logits = ndarray::arr2(&[[9.0, 1.0, 0.0], [2.0, 3.0, 2.0]]);
//! let distances = distances(logits.view(), fixed_anchors(3, 10.0).view());
//! let scores = Score::Cac.rejection(logits.view(), distances.view());
//! assert_eq!(labels(distances.view()), [0, 1]);
//! assert!(scores[0] < 0.1 && scores[1] > 2.5, "larger = more likely unknown");
//! ```
//!
//! # Features
//!
//! | feature | what it adds | native libraries |
//! |---|---|---|
//! | `tract` | [`scorer`] and [`eval`] on the CPU in pure Rust; [`export`] | none |
//! | `onnxruntime` | [`scorer`] and [`eval`] with the other providers | libonnxruntime, when it runs |
//! | `files` | [`score_file`], weights in PyTorch's format, and published ones by name | none |
//! | `cli` (default) | the program `toolkit`; includes `tract`, `onnxruntime` and `files` | as above |
//! | `train` | [`train`] and `toolkit train`; includes `files` | libtorch, to build and to run |
//!
//! A program that only scores depends on it with `default-features = false, features = ["tract"]` or `["onnxruntime"]`.
#![cfg_attr(not(feature = "train"), allow(rustdoc::broken_intra_doc_links))]
#![cfg_attr(not(test), warn(clippy::print_stdout, clippy::print_stderr))]

pub mod arch;
mod atomic;
pub mod cac;
pub mod checkpoint;
pub mod dataset;
mod error;
#[cfg(any(feature = "tract", feature = "onnxruntime"))]
pub mod eval;
#[cfg(feature = "tract")]
pub mod export;
#[cfg(all(feature = "files", feature = "tract"))]
pub mod import;
#[cfg(all(feature = "files", feature = "tract"))]
pub mod inspect;
pub mod manifest;
pub mod metrics;
#[cfg(any(feature = "tract", feature = "onnxruntime"))]
#[cfg_attr(not(feature = "tract"), allow(dead_code, reason = "only `export` writes whole models"))]
mod onnx;
pub mod preprocess;
pub mod recipe;
pub mod report;
#[cfg(feature = "files")]
pub mod score_file;
#[cfg(any(feature = "tract", feature = "onnxruntime"))]
pub mod scorer;
#[cfg(feature = "train")]
pub mod train;
#[cfg(any(feature = "tract", feature = "onnxruntime"))]
pub mod triton;
pub mod weights;

pub use error::{Error, Result};

/// The examples in the README.
#[cfg(all(doctest, feature = "tract"))]
#[doc = include_str!("../README.md")]
struct Readme;
