//! Class Anchor Clustering (CAC; Miller et al., WACV 2021, arXiv 2004.02434): anchors, distances, rejection
//! scores, the decision, and the loss as a reference.
//!
//! Shapes: N images, C classes; logits, distances and their gradients are `[N, C]`. A larger rejection score means *more likely unknown*.

mod anchors;
mod loss;
mod score;
mod threshold;

pub use anchors::{AnchorKind, Anchors, nearest};
pub use loss::{Loss, Variant};
pub use score::RejectionScore;
pub use threshold::{KEEP, is_unknown, needed, threshold};
