//! Class Anchor Clustering (CAC; Miller et al., WACV 2021, arXiv 2004.02434): anchors, distances, rejection
//! scores, the decision, and the loss as a reference.
//!
//! Shapes: N images, C classes, F features; logits and distances are `[N, C]`. A larger
//! rejection score means *more likely unknown*.

mod anchors;
mod features;
mod logits;
mod loss;
mod score;
mod threshold;

pub use anchors::{AnchorKind, Anchors, nearest};
pub use features::{Affine, Constants, FeatureScore, LastLayer};
#[cfg(feature = "export")]
pub(crate) use features::{MIN_DISTANCE, MIN_NORM};
pub use logits::LogitScore;
pub use loss::{Loss, Variant};
pub use score::{Activations, FittedScore, FittedTerm, RejectionScore, Standardisation, Term};
pub use threshold::{
    KEEP, check_enough, is_unknown, kept_at_least, needed, needed_to_choose, p_value, threshold,
    usually_held_out,
};
