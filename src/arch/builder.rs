//! Builds a network layer by layer and checks the result.

use std::collections::HashSet;

use super::{Conv, Init, Layer, Op};

/// Tensor names of an exported graph that no layer may have.
pub(crate) const RESERVED: [&str; 16] = [
    "images",
    "anchors",
    "magnitude",
    "threshold",
    "thresholds",
    "held_out_scores",
    "operating_points",
    "features",
    "logits",
    "distances",
    "score",
    "label",
    "unknown",
    "p_value",
    "unknown_at",
    "logit_map",
];

/// The prefix of all other tensor names in an exported graph that do not belong to a layer.
pub(crate) const HEAD_PREFIX: &str = "cac/";

/// Appends layers and returns their indices.
#[derive(Default)]
pub(super) struct Builder {
    layers: Vec<Layer>,
}

impl Builder {
    /// Appends a layer without an initializer.
    pub fn push(&mut self, name: &str, op: Op, inputs: &[usize]) -> usize {
        self.push_with(name, op, inputs, Init::None)
    }

    /// Appends a layer.
    pub fn push_with(&mut self, name: &str, op: Op, inputs: &[usize], init: Init) -> usize {
        let (name, inputs) = (name.to_owned(), inputs.to_vec());
        self.layers.push(Layer { name, op, inputs, init, in_place: false });
        self.layers.len() - 1
    }

    /// Appends a convolution with weights from N(0, 2 / (k² outputs of a group)), as in pytorch-ood,
    /// torchvision and timm.
    pub fn conv(&mut self, name: &str, x: usize, conv: Conv) -> usize {
        let reached = conv.kernel * conv.kernel * conv.outputs / conv.groups;
        let deviation = (2.0 / reached as f64).sqrt();
        self.push_with(name, Op::Conv(conv), &[x], Init::Normal { deviation })
    }

    /// Appends a fully connected layer, initialised like PyTorch's `Linear`.
    pub fn linear(&mut self, name: &str, x: usize, inputs: usize, outputs: usize) -> usize {
        let init = Init::Uniform { bound: 1.0 / (inputs as f64).sqrt() };
        self.push_with(name, Op::Linear { inputs, outputs }, &[x], init)
    }

    /// Returns the layers, with `in_place` set where an activation may be overwritten.
    ///
    /// # Panics
    /// If a family is inconsistent: a layer's name is reserved or used twice, or a layer reads a later one. A
    /// user's settings cannot cause this.
    pub fn finish(mut self) -> Vec<Layer> {
        let mut names = HashSet::new();
        for (index, Layer { name, inputs, .. }) in self.layers.iter().enumerate() {
            let is_free =
                !RESERVED.contains(&name.as_str()) && !name.starts_with(HEAD_PREFIX) && names.insert(name);
            assert!(is_free, "the layer name `{name}` is taken");
            assert!(inputs.iter().all(|&input| input < index), "`{name}` reads a later layer");
        }
        let readers = super::readers(&self.layers);
        for index in 0..self.layers.len() {
            let layer = &self.layers[index];
            let can_overwrite = matches!(layer.op, Op::Relu | Op::Relu6 | Op::Add);
            self.layers[index].in_place = can_overwrite && self.is_free(layer.inputs[0], &readers);
        }
        self.layers
    }

    /// Whether only a layer's reader needs its output.
    fn is_free(&self, index: usize, readers: &[usize]) -> bool {
        let Layer { op, inputs, .. } = &self.layers[index];
        readers[index] == 1
            && match op {
                // Their gradients need inputs and statistics, not the output.
                Op::Conv(_)
                | Op::BatchNorm { .. }
                | Op::Add
                | Op::MaxPool { .. }
                | Op::GlobalAveragePool
                | Op::Linear { .. } => true,
                // These compute their gradients from the output.
                Op::Input | Op::Relu | Op::Relu6 | Op::LeakyRelu(_) => false,
                // These may return their input itself.
                Op::Dropout(_) | Op::DropoutChannels(_) | Op::Flatten => self.is_free(inputs[0], readers),
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_place(network: impl Fn(&mut Builder, usize)) -> Vec<bool> {
        let mut builder = Builder::default();
        let x = builder.push("input", Op::Input, &[]);
        network(&mut builder, x);
        builder.finish().iter().map(|layer| layer.in_place).collect()
    }

    #[test]
    fn activations_are_overwritten_only_if_unused_elsewhere() {
        let relu = |builder: &mut Builder, name: &str, x| builder.push(name, Op::Relu, &[x]);
        let norm = |builder: &mut Builder, x| builder.push("bn", Op::batch_norm(3), &[x]);
        let at_first = in_place(|b, x| {
            relu(b, "a", x);
        });
        assert_eq!(at_first, [false, false], "the images themselves");
        let after_norm = in_place(|b, x| {
            let x = norm(b, x);
            relu(b, "a", x);
        });
        assert_eq!(after_norm, [false, false, true]);
        let twice = in_place(|b, x| {
            let x = norm(b, x);
            relu(b, "a", x);
            relu(b, "b", x);
        });
        assert_eq!(twice, [false; 4], "the other reader needs it");
        let after_relu = in_place(|b, x| {
            let x = norm(b, x);
            let x = relu(b, "a", x);
            let x = b.push("drop", Op::Dropout(0.0), &[x]);
            relu(b, "b", x);
        });
        assert_eq!(after_relu, [false, false, true, false, false], "the gradient of the first needs it");
    }

    #[test]
    #[should_panic(expected = "`score` is taken")]
    fn output_names_are_reserved() {
        in_place(|b, x| {
            b.push("score", Op::Relu, &[x]);
        });
    }

    #[test]
    #[should_panic(expected = "`a` is taken")]
    fn layer_names_are_unique() {
        in_place(|b, x| {
            let x = b.push("a", Op::Relu, &[x]);
            b.push("a", Op::Relu, &[x]);
        });
    }
}
