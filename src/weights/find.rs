//! Finds the network among the tensors of a file: the prefix behind which a known family is recognised.

use std::collections::BTreeSet;

use super::Weights;
use crate::{
    arch::{Architecture, FAMILIES, Layer, Recognized},
    error::{Result, few},
};

/// Words in the prefixes of averaged weights.
const AVERAGES: [&str; 8] = ["averaged", "average", "avg", "swa", "shadow", "teacher", "momentum", "target"];

/// The prefix of the network's tensors and the network.
///
/// # Errors
/// [`Error::Weights`](crate::Error::Weights) if no prefix leads to a known network.
pub(super) fn network(weights: &Weights) -> Result<(&str, Recognized)> {
    let candidates = prefixes(weights).into_iter().filter_map(|prefix| {
        let shapes = |name: &str| weights.get(&format!("{prefix}{name}")).map(|tensor| &tensor.shape[..]);
        let found = Architecture::recognize(&shapes)?;
        let share = share(&found, |name, shape| shapes(name).is_some_and(|found| found == shape));
        // A first layer of this name is no network yet.
        (share > 0.5).then_some((prefix, found, share))
    });
    let best = candidates.min_by(|(a, left, x), (b, right, y)| {
        let by_head = left.classes.is_none().cmp(&right.classes.is_none());
        let order = |prefix: &str| (is_average(prefix), prefix.matches('.').count());
        y.total_cmp(x).then(by_head).then_with(|| order(a).cmp(&order(b)))
    });
    best.map(|(prefix, found, _)| (prefix, found)).ok_or_else(|| {
        if weights.tensors.is_empty() {
            return weights.error("it holds no floating-point tensors".to_owned());
        }
        let marks = FAMILIES.iter().map(|family| format!("{} has `{}`", family.name, family.mark));
        let marks = marks.collect::<Vec<_>>().join(", ");
        let names = few(weights.names());
        weights.error(format!("they match no known network: {marks}; found {names}"))
    })
}

/// What stands before the marks of the families, in alphabetical order.
fn prefixes(weights: &Weights) -> BTreeSet<&str> {
    let before = |name| FAMILIES.iter().filter_map(move |family| str::strip_suffix(name, family.mark));
    let is_whole = |prefix: &&str| !prefix.ends_with(char::is_alphanumeric);
    weights.names().flat_map(before).filter(is_whole).collect()
}

/// The share of the tensors of a network, up to the last layer, that the file has.
fn share(found: &Recognized, has: impl Fn(&str, &[usize]) -> bool) -> f64 {
    let size = found.architecture.family().default_size;
    // Neither the number of classes nor the size matters before the last layer.
    let Ok(layers) = found.architecture.layers(2, size, size) else { return 0.0 };
    let body = &layers[..layers.len() - 1];
    let parameters: Vec<_> = body.iter().flat_map(Layer::parameters).collect();
    let present = parameters.iter().filter(|(name, shape)| has(name, shape)).count();
    present as f64 / parameters.len() as f64
}

/// Whether a prefix names averaged weights.
fn is_average(prefix: &str) -> bool {
    prefix
        .to_lowercase()
        .split(|c: char| !c.is_alphanumeric())
        .any(|word| word.starts_with("ema") || word.ends_with("ema") || AVERAGES.contains(&word))
}
