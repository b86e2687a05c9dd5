//! Runs the layers of [`arch`](crate::arch) on libtorch.

use tch::{Device, Kind, TchError, Tensor, nn};

use crate::{
    arch::{BATCH_NORM_EPSILON, Layer, Op},
    error::Result,
    manifest::Input,
    weights::Weights,
};

/// The weight of a new batch in the running statistics (PyTorch's default).
const BATCH_NORM_MOMENTUM: f64 = 0.1;

/// A network with its parameters in a [`nn::VarStore`].
pub(super) struct Network {
    layers: Vec<Layer>,
    /// The tensors of each layer in the order of [`Layer::parameters`].
    tensors: Vec<Vec<Tensor>>,
    mean: Tensor,
    std: Tensor,
}

impl Network {
    /// A network with random weights, as pytorch-ood draws them: convolutions from N(0, 2 / (k² outputs)),
    /// the last layer as PyTorch's `Linear`.
    pub fn new(
        store: &nn::VarStore,
        layers: Vec<Layer>,
        input: &Input,
    ) -> std::result::Result<Self, TchError> {
        let tensors = layers
            .iter()
            .map(|layer| {
                layer.parameters().into_iter().map(|(name, shape)| {
                    // tch joins the names of nested paths with dots again.
                    let (folders, name) = name.rsplit_once('.').unwrap_or(("", &name));
                    let path = folders.split('.').fold(store.root(), |path, part| path / part);
                    let shape: Vec<i64> = shape.iter().map(|&length| length as i64).collect();
                    match (layer.op, name) {
                        (_, "running_mean") => path.f_zeros_no_train(name, &shape),
                        (_, "running_var") => path.f_ones_no_train(name, &shape),
                        (Op::BatchNorm { .. }, "weight") => path.f_ones(name, &shape),
                        (Op::BatchNorm { .. }, _) => path.f_zeros(name, &shape),
                        (Op::Conv { outputs, kernel, .. }, _) => {
                            let stdev = (2.0 / (kernel * kernel * outputs) as f64).sqrt();
                            path.f_var(name, &shape, nn::Init::Randn { mean: 0.0, stdev })
                        }
                        (Op::Linear { inputs, .. }, _) => {
                            let up = 1.0 / (inputs as f64).sqrt();
                            path.f_var(name, &shape, nn::Init::Uniform { lo: -up, up })
                        }
                        _ => unreachable!("other layers have no parameters"),
                    }
                })
                .collect()
            })
            .collect::<std::result::Result<_, _>>()?;
        let channel =
            |values: &[f32; 3]| Tensor::f_from_slice(values)?.f_view([1, 3, 1, 1])?.f_to_device(store.device());
        Ok(Self { layers, tensors, mean: channel(&input.mean)?, std: channel(&input.std)? })
    }

    /// Takes all weights but those of the last layer, whose classes are others, from a backbone.
    ///
    /// # Errors
    /// [`Error::Weights`](crate::Error::Weights) naming a tensor that is missing or has another shape.
    pub fn load_backbone(&mut self, backbone: &Weights) -> Result<()> {
        let last = self.layers.len() - 1;
        for (layer, tensors) in self.layers[..last].iter().zip(&mut self.tensors) {
            for ((name, shape), tensor) in layer.parameters().into_iter().zip(tensors) {
                let values = backbone.values(&name, &shape)?;
                tch::no_grad(|| {
                    let source = Tensor::f_from_slice(values)?.f_view_as(tensor)?;
                    tensor.f_copy_(&source)
                })
                .map_err(super::torch)?;
            }
        }
        Ok(())
    }

    /// The logits `[N, C]` of pictures given as bytes `[N, 3, H, W]` on the network's device.
    pub fn forward(&self, pictures: &Tensor, training: bool) -> std::result::Result<Tensor, TchError> {
        let mut outputs: Vec<Tensor> = Vec::with_capacity(self.layers.len());
        for (layer, tensors) in self.layers.iter().zip(&self.tensors) {
            let x = |i: usize| &outputs[layer.inputs[i]];
            let output = match layer.op {
                Op::Input => pictures
                    .f_to_kind(Kind::Float)?
                    .f_div_scalar(255.0)?
                    .f_sub(&self.mean)?
                    .f_div(&self.std)?,
                Op::Conv { stride, padding, .. } => {
                    let (stride, padding) = (stride as i64, padding as i64);
                    x(0).f_conv2d(&tensors[0], None::<&Tensor>, [stride; 2], [padding; 2], [1, 1], 1)?
                }
                Op::BatchNorm { .. } => {
                    let [weight, bias, mean, variance] = &tensors[..] else { unreachable!("four tensors") };
                    x(0).f_batch_norm(
                        Some(weight),
                        Some(bias),
                        Some(mean),
                        Some(variance),
                        training,
                        BATCH_NORM_MOMENTUM,
                        BATCH_NORM_EPSILON,
                        true,
                    )?
                }
                Op::Relu => x(0).f_relu()?,
                Op::Dropout(share) if training && share > 0.0 => x(0).f_dropout(share, true)?,
                Op::Dropout(_) => x(0).shallow_clone(),
                Op::Add => x(0).f_add(x(1))?,
                Op::Pool => x(0).f_mean_dim(&[2_i64, 3][..], false, None::<Kind>)?,
                Op::Linear { .. } => x(0).f_linear(&tensors[0], Some(&tensors[1]))?,
            };
            outputs.push(output);
        }
        Ok(outputs.pop().expect("a network has layers"))
    }

    /// Copies the parameters and statistics.
    pub fn save(&self, weights: &mut Weights) -> std::result::Result<(), TchError> {
        for (layer, tensors) in self.layers.iter().zip(&self.tensors) {
            for ((name, shape), tensor) in layer.parameters().into_iter().zip(tensors) {
                weights.insert(&name, &shape, floats(tensor)?);
            }
        }
        Ok(())
    }
}

/// Copies a tensor off its device.
pub(super) fn floats(tensor: &Tensor) -> std::result::Result<Vec<f32>, TchError> {
    let flat = tensor.f_detach()?.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?.f_contiguous()?;
    Vec::<f32>::try_from(flat.f_view([-1])?)
}
