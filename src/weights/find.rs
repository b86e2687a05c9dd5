//! Finds the network among the tensors of a file: the prefix after which a known family is recognised.

use std::collections::{BTreeSet, HashSet};

use super::Weights;
use crate::{
    arch::{Architecture, FAMILIES, Layer, Recognized},
    error::{Error, Result},
    image::Input,
    text::few,
};

/// Words in the prefixes of averaged weights.
const AVERAGES: [&str; 8] = ["averaged", "average", "avg", "swa", "shadow", "teacher", "momentum", "target"];

/// The prefix of the network's tensors and the network.
///
/// # Errors
/// [`Error::UnknownNetwork`] if no prefix leads to a known network, and [`Error::Weights`] if there are no weights.
pub(super) fn network(weights: &Weights) -> Result<(&str, Recognized)> {
    let mut candidates = Vec::new();
    let mut unsupported = Vec::new();
    for prefix in prefixes(weights) {
        let shapes = |name: &str| weights.get(&format!("{prefix}{name}")).map(|tensor| &tensor.shape[..]);
        let body = match Architecture::recognize(&shapes) {
            // Neither the number of classes nor the size matters before the last layer.
            Some(Ok(found)) => body(&found.architecture, &found.architecture.default_input())
                .map(|body| (found, body))
                .map_err(|error| error.to_string()),
            Some(Err(reason)) => Err(reason),
            None => continue,
        };
        let (found, body) = match body {
            Ok(body) => body,
            Err(reason) => {
                unsupported.push(reason);
                continue;
            }
        };
        let present = body.iter().filter(|(name, shape)| shapes(name).is_some_and(|found| found == shape));
        let present = present.count();
        let share = present as f64 / body.len() as f64;
        // A first layer of this name alone is no network.
        if share <= 0.5 {
            let (count, network) = (body.len(), &found.architecture);
            unsupported.push(format!("only {present} of {count} tensors are those of {network}"));
            continue;
        }
        match foreign(weights, prefix, &body) {
            None => candidates.push((prefix, found, share)),
            Some(name) => {
                unsupported.push(format!(
                    "`{name}` is not in {}, which the other tensors match",
                    found.architecture
                ));
            }
        }
    }
    let best = candidates.into_iter().min_by(|(a, left, x), (b, right, y)| {
        let by_head = left.classes.is_none().cmp(&right.classes.is_none());
        let order = |prefix: &str| (is_average(prefix), prefix.matches('.').count());
        y.total_cmp(x).then(by_head).then_with(|| order(a).cmp(&order(b)))
    });
    best.map(|(prefix, found, _)| (prefix, found)).ok_or_else(|| {
        if weights.tensors.is_empty() {
            return weights.error("it holds no floating-point tensors".to_owned());
        }
        let marks = FAMILIES.iter().map(|family| format!("{} has `{}`", family.name, family.mark));
        let reason = unsupported.into_iter().next().unwrap_or_else(|| marks.collect::<Vec<_>>().join(", "));
        let names = few(weights.names());
        Error::UnknownNetwork { path: weights.path.clone(), reason: format!("{reason}; found {names}") }
    })
}

/// The prefixes before the families' marks, in alphabetical order.
fn prefixes(weights: &Weights) -> BTreeSet<&str> {
    let before = |name| FAMILIES.iter().filter_map(move |family| str::strip_suffix(name, family.mark));
    let is_whole = |prefix: &&str| !prefix.ends_with(char::is_alphanumeric);
    weights.names().flat_map(before).filter(is_whole).collect()
}

/// The parameters of a network without the last layer.
pub(super) fn body(network: &Architecture, input: &Input) -> Result<Vec<(String, Vec<usize>)>> {
    let layers = network.layers(2, input.height, input.width)?;
    Ok(layers[..layers.len() - 1].iter().flat_map(Layer::parameters).collect())
}

/// The first tensor, without the prefix, within the blocks or the layers of a network but not part of it: the
/// weights are those of another network with the same layers and more, such as squeeze-and-excite or a bias.
pub(super) fn foreign<'a>(
    weights: &'a Weights,
    prefix: &str,
    body: &[(String, Vec<usize>)],
) -> Option<&'a str> {
    let own: HashSet<&str> = body.iter().map(|(name, _)| name.as_str()).collect();
    // In `layer1.0.conv1.weight` the blocks are below `layer1.`, and `conv1.weight` is in the layer `conv1`.
    let blocks: HashSet<&str> = own
        .iter()
        .filter(|name| name.matches('.').count() > 2)
        .filter_map(|name| name.split_inclusive('.').next())
        .collect();
    let layers: HashSet<&str> =
        own.iter().filter_map(|name| name.rsplit_once('.').map(|(layer, _)| layer)).collect();
    weights.names().filter_map(|name| name.strip_prefix(prefix)).find(|name| {
        let is_in_block = name.split_inclusive('.').next().is_some_and(|first| blocks.contains(first));
        let is_in_layer = name.rsplit_once('.').is_some_and(|(layer, _)| layers.contains(layer));
        (is_in_block || is_in_layer) && !own.contains(name) && !is_counter(name)
    })
}

/// The only layer with weights in a `Sequential` in the place of the last layer, such as `fc.1`, and the name of that
/// layer, `fc`.
pub(super) fn last_layer(weights: &Weights, prefix: &str, network: &Recognized) -> Option<(String, String)> {
    let Input { height, width, .. } = network.architecture.default_input();
    let name = network.architecture.layers(2, height, width).ok()?.pop()?.name;
    let within = format!("{prefix}{name}.");
    let mut layers = weights.names().filter_map(|tensor| tensor.strip_prefix(&within)?.rsplit_once('.'));
    let (first, _) = layers.next()?;
    let is_alone = first.parse::<usize>().is_ok() && layers.all(|(layer, _)| layer == first);
    is_alone.then(|| (format!("{name}.{first}"), name))
}

/// The tensors outside of the network with this prefix that may belong to the same model, such as a further layer:
/// not those of other networks, nor of optimisers.
#[cfg(feature = "export")]
pub(crate) fn outside<'a>(weights: &'a Weights, prefix: &str) -> Vec<&'a str> {
    let networks = prefixes(weights);
    let is_of_network = |name: &str| {
        name.starts_with(prefix) || networks.iter().any(|other| !other.is_empty() && name.starts_with(other))
    };
    // The averages of another network, or a state: `ema.model.`, `optimizer_states.0.state.`, but not `target.weight`.
    let is_of_other = |name: &str| {
        let folders = name.rsplitn(3, '.').nth(2).unwrap_or_default();
        is_average(folders) || name.split('.').any(|part| part.starts_with("optimizer") || part == "optim")
    };
    let is_alone = |name: &&str| !is_of_network(name) && !is_of_other(name) && !is_counter(name);
    weights.names().filter(is_alone).collect()
}

/// Whether a tensor counts batches, or operations as a profiler does, and takes no part in a network.
pub(crate) fn is_counter(name: &str) -> bool {
    [".num_batches_tracked", ".total_ops", ".total_params"].iter().any(|end| name.ends_with(end))
}

/// Whether a prefix names averaged weights.
fn is_average(prefix: &str) -> bool {
    prefix
        .to_lowercase()
        .split(|c: char| !c.is_alphanumeric())
        .any(|word| word.starts_with("ema") || word.ends_with("ema") || AVERAGES.contains(&word))
}
