//! Folds batch normalisation into convolutions: fewer passes over the activations, the same network in
//! evaluation mode.

use super::Weights;
use crate::{
    arch::{self, Conv, Layer, Op},
    error::Result,
};

/// The layers of a network and their weights, with each batch normalisation that is the only reader of
/// a convolution folded into it, in evaluation mode.
///
/// # Errors
/// [`Error::Weights`](crate::Error::Weights) naming a tensor that is missing or has another shape.
pub(crate) fn folded(layers: &[Layer], weights: &Weights) -> Result<(Vec<Layer>, Weights)> {
    let readers = arch::readers(layers);
    let mut folded = Weights::new(weights.path());
    let mut kept: Vec<Layer> = Vec::with_capacity(layers.len());
    // The index of each layer among those kept.
    let mut indices = Vec::with_capacity(layers.len());
    for layer in layers {
        if let (Op::BatchNorm { .. }, &[input]) = (layer.op, &layer.inputs[..])
            && let Op::Conv(conv) = layers[input].op
            && readers[input] == 1
        {
            let index: usize = indices[input];
            kept[index].op = Op::Conv(Conv { bias: true, ..conv });
            fold(&mut folded, &layers[input].name, &conv, &affine(layer, weights)?);
            indices.push(index);
            continue;
        }
        for (name, shape) in layer.parameters() {
            folded.insert(&name, &shape, weights.values(&name, &shape)?.to_vec());
        }
        indices.push(kept.len());
        let inputs = layer.inputs.iter().map(|&input| indices[input]).collect();
        kept.push(Layer { inputs, ..layer.clone() });
    }
    Ok((kept, folded))
}

/// Scales and shifts the outputs of a convolution per channel.
fn fold(weights: &mut Weights, name: &str, conv: &Conv, norm: &[(f64, f64)]) {
    let [weight, bias] = ["weight", "bias"].map(|parameter| format!("{name}.{parameter}"));
    let kernels = weights.tensors.get_mut(&weight).expect("the convolution is kept");
    let length = kernels.values.len() / norm.len();
    for (kernel, (scale, _)) in kernels.values.chunks_exact_mut(length).zip(norm) {
        kernel.iter_mut().for_each(|weight| *weight = (f64::from(*weight) * scale) as f32);
    }
    let before = weights.get(&bias).map_or_else(|| vec![0.0; norm.len()], |bias| bias.values.clone());
    let shifted = before.iter().zip(norm).map(|(&x, (scale, shift))| (f64::from(x) * scale + shift) as f32);
    let shifted = shifted.collect();
    weights.insert(&bias, &[conv.outputs], shifted);
}

/// The (scale, shift) of each channel of a batch normalisation in evaluation mode, in double precision.
fn affine(norm: &Layer, weights: &Weights) -> Result<Vec<(f64, f64)>> {
    let Op::BatchNorm { channels, epsilon, .. } = norm.op else {
        unreachable!("only called for batch normalisation")
    };
    let values = |suffix: &str| weights.values(&format!("{}.{suffix}", norm.name), &[channels]);
    let (weight, bias) = (values("weight")?, values("bias")?);
    let (mean, variance) = (values("running_mean")?, values("running_var")?);
    Ok((0..channels)
        .map(|c| {
            let scale = f64::from(weight[c]) / (f64::from(variance[c]) + epsilon).sqrt();
            (scale, f64::from(bias[c]) - f64::from(mean[c]) * scale)
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::Architecture;

    #[test]
    fn norms_are_folded_into_the_convolutions_before_them() {
        let network = Architecture::new("wide-resnet", &[("depth", 10.0)]).unwrap();
        let layers = network.layers(3, 32, 32).unwrap();
        let mut weights = Weights::new("test".as_ref());
        for (name, shape) in layers.iter().flat_map(Layer::parameters) {
            weights.insert(&name, &shape, vec![0.5; shape.iter().product()]);
        }
        weights.insert("bn1.running_var", &[128], vec![2.0; 128]);
        let (kept, folded) = folded(&layers, &weights).unwrap();
        let norms =
            |layers: &[Layer]| layers.iter().filter(|layer| matches!(layer.op, Op::BatchNorm { .. })).count();
        // Those after an addition stay; that of the first block, which reads the first convolution, goes.
        assert_eq!((norms(&layers), norms(&kept)), (7, 3));
        assert!(kept.iter().all(|layer| layer.name != "block1.layer.0.bn1"));
        let relu = kept.iter().find(|layer| layer.name == "block1.layer.0.relu1").unwrap();
        assert_eq!(kept[relu.inputs[0]].name, "conv1");
        // 0.5 x 0.5 / sqrt(0.5 + 1e-5), and 0.5 - 0.5 x that scale.
        let scale = 0.5 / (0.5_f64 + 1e-5).sqrt();
        assert_eq!(folded.get("conv1.weight").unwrap().values[0], (0.5 * scale) as f32);
        assert_eq!(folded.get("conv1.bias").unwrap().values, [(0.5 - 0.5 * scale) as f32; 16]);
        assert_eq!(folded.get("bn1.running_var").unwrap().values[0], 2.0);
        let parameters: Vec<_> = kept.iter().flat_map(Layer::parameters).collect();
        assert!(parameters.iter().all(|(name, shape)| folded.get(name).unwrap().shape == *shape));
        assert_eq!(folded.names().count(), parameters.len());
    }
}
