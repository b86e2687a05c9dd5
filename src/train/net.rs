//! Runs the layers of [`arch`](crate::arch) on libtorch.

use tch::{Device, Kind, TchError, Tensor, nn};

use super::dropout::{Unit, dropout};
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
    /// The last layer that reads the output of each.
    last_readers: Vec<usize>,
    mean: Tensor,
    std: Tensor,
    /// The type of activations and of the weights that they are convolved with, in training; the parameters
    /// themselves, normalisation's statistics, the last layer and evaluation keep theirs.
    pub training_kind: Kind,
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
                layer
                    .parameters()
                    .into_iter()
                    .map(|(name, shape)| {
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
        let channel = |values: &[f32; 3]| {
            Tensor::f_from_slice(values)?.f_view([1, 3, 1, 1])?.f_to_device(store.device())
        };
        let mut last_readers = vec![layers.len(); layers.len()];
        for (index, layer) in layers.iter().enumerate() {
            for &input in &layer.inputs {
                last_readers[input] = index;
            }
        }
        let (mean, std) = (channel(&input.mean)?, channel(&input.std)?);
        Ok(Self { layers, tensors, last_readers, training_kind: mean.kind(), mean, std })
    }

    /// Takes weights from a file, where their names have a prefix; those of the last layer stay as they are where
    /// `keep_last`, because the classes of a backbone are others.
    ///
    /// # Errors
    /// [`Error::Weights`](crate::Error::Weights) naming a tensor that is missing or has another shape.
    pub fn load(&mut self, weights: &Weights, prefix: &str, keep_last: bool) -> Result<()> {
        let count = self.layers.len() - usize::from(keep_last);
        for (layer, tensors) in self.layers[..count].iter().zip(&mut self.tensors) {
            for ((name, shape), tensor) in layer.parameters().into_iter().zip(tensors) {
                let values = weights.values(&format!("{prefix}{name}"), &shape)?;
                copy(values, tensor).map_err(super::torch)?;
            }
        }
        Ok(())
    }

    /// The logits `[N, C]` of pictures given as bytes `[N, 3, H, W]` on the network's device, in training with the
    /// seed of what is dropped.
    ///
    /// An activation is freed, or overwritten, at its last reader: memory traffic is what a small network
    /// spends its time on. None of the layers before a `Relu` or an `Add` needs its output for the gradient.
    pub fn forward(&self, pictures: &Tensor, training: Option<u64>) -> std::result::Result<Tensor, TchError> {
        let mut outputs: Vec<Option<Tensor>> = Vec::with_capacity(self.layers.len());
        let kind = if training.is_some() { self.training_kind } else { self.mean.kind() };
        for (index, (layer, tensors)) in self.layers.iter().zip(&self.tensors).enumerate() {
            let mut inputs = layer.inputs.iter().map(|&input| {
                let output = &mut outputs[input];
                if self.last_readers[input] == index {
                    output.take()
                } else {
                    output.as_ref().map(Tensor::shallow_clone)
                }
                .expect("an activation is kept up to its last reader")
            });
            let mut next = || inputs.next().expect("a layer has its inputs");
            let output = match layer.op {
                // Channels last in memory, which all later layers keep: libtorch convolves faster that way.
                Op::Input => pictures
                    .f_permute([0, 2, 3, 1])?
                    .f_contiguous()?
                    .f_permute([0, 3, 1, 2])?
                    .f_to_kind(self.mean.kind())?
                    .f_div_scalar(255.0)?
                    .f_sub(&self.mean)?
                    .f_div(&self.std)?
                    .f_to_kind(kind)?,
                Op::Conv { stride, padding, .. } => {
                    let (stride, padding) = (stride as i64, padding as i64);
                    let weight = tensors[0].f_to_kind(kind)?;
                    next().f_conv2d(&weight, None::<&Tensor>, [stride; 2], [padding; 2], [1, 1], 1)?
                }
                Op::BatchNorm { .. } => {
                    let [weight, bias, mean, variance] = &tensors[..] else { unreachable!("four tensors") };
                    next().f_batch_norm(
                        Some(weight),
                        Some(bias),
                        Some(mean),
                        Some(variance),
                        training.is_some(),
                        BATCH_NORM_MOMENTUM,
                        BATCH_NORM_EPSILON,
                        true,
                    )?
                }
                Op::Relu => next().f_relu_()?,
                Op::LeakyRelu(slope) => {
                    let x = next();
                    x.f_maximum(&x.f_mul_scalar(slope)?)?
                }
                Op::Dropout(share) | Op::DropoutChannels(share) => match training {
                    Some(seed) if share > 0.0 => {
                        let is_channels = matches!(layer.op, Op::DropoutChannels(_));
                        let unit = if is_channels { Unit::Channel } else { Unit::Activation };
                        dropout(&next(), share, unit, seed.wrapping_add(index as u64))?
                    }
                    _ => next(),
                },
                Op::Flatten => next().f_flatten(1, -1)?,
                Op::Add => next().f_add_(&next())?,
                Op::Pool => next().f_mean_dim(&[2_i64, 3][..], false, None::<Kind>)?,
                Op::Linear { .. } => {
                    next().f_to_kind(self.mean.kind())?.f_linear(&tensors[0], Some(&tensors[1]))?
                }
            };
            outputs.push(Some(output));
        }
        Ok(outputs.pop().flatten().expect("a network has layers"))
    }

    /// Moves the parameters and statistics towards another network's by a share of what lies between.
    pub fn approach(&mut self, other: &Self, share: f64) -> std::result::Result<(), TchError> {
        tch::no_grad(|| {
            for (tensor, other) in self.tensors.iter_mut().flatten().zip(other.tensors.iter().flatten()) {
                let _ = tensor.f_lerp_(other, share)?;
            }
            Ok(())
        })
    }

    /// Copies the parameters and statistics, with a prefix to their names.
    pub fn save(&self, weights: &mut Weights, prefix: &str) -> std::result::Result<(), TchError> {
        for (layer, tensors) in self.layers.iter().zip(&self.tensors) {
            for ((name, shape), tensor) in layer.parameters().into_iter().zip(tensors) {
                weights.insert(&format!("{prefix}{name}"), &shape, floats(tensor)?);
            }
        }
        Ok(())
    }
}

/// Overwrites a tensor with as many values.
pub(super) fn copy(values: &[f32], tensor: &mut Tensor) -> std::result::Result<(), TchError> {
    tch::no_grad(|| {
        let source = Tensor::f_from_slice(values)?.f_view_as(tensor)?;
        tensor.f_copy_(&source)
    })
}

/// Copies a tensor off its device.
pub(super) fn floats(tensor: &Tensor) -> std::result::Result<Vec<f32>, TchError> {
    let flat = tensor.f_detach()?.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?.f_contiguous()?;
    Vec::<f32>::try_from(flat.f_view([-1])?)
}

#[cfg(test)]
#[path = "../../tests/golden/fill.rs"]
mod fill;

#[cfg(test)]
mod tests {
    use super::super::{loss, optimizer::Optimizer};
    use super::*;
    use crate::{
        arch::{Architecture, WideResNet},
        cac::{Loss, Variant},
        checkpoint::{CHECK_IMAGES, CHECK_LOGITS},
        recipe::{self, Recipe, Schedule},
    };
    use std::path::Path;

    /// The network that PyTorch made, its pictures as bytes, and its logits.
    fn golden(widen_factor: usize) -> (nn::VarStore, Network, Tensor, Vec<f32>) {
        let file = format!("tests/golden/wrn-10-{widen_factor}.safetensors");
        let weights = Weights::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
        let architecture = WideResNet { depth: 10, widen_factor, dropout: 0.3 };
        let layers = Architecture::WideResNet(architecture).layers(3).unwrap();
        let store = nn::VarStore::new(Device::Cpu);
        let mut network = Network::new(&store, layers, &Input::default()).unwrap();
        network.load(&weights, "", false).unwrap();
        let bytes: Vec<u8> =
            weights.get(CHECK_IMAGES).unwrap().values.iter().map(|v| (v * 255.0).round() as u8).collect();
        let pictures = Tensor::from_slice(&bytes).view([4, 3, 32, 32]);
        (store, network, pictures, weights.get(CHECK_LOGITS).unwrap().values.clone())
    }

    #[test]
    fn logits_are_those_of_pytorch() {
        for widen_factor in [1, 2] {
            let (_store, network, pictures, expected) = golden(widen_factor);
            let logits = floats(&network.forward(&pictures, None).unwrap()).unwrap();
            for (found, expected) in logits.iter().zip(&expected) {
                assert!((found - expected).abs() < 1e-5 * expected.abs().max(1.0), "{found} {expected}");
            }
        }
    }

    /// A WideResNet-40-2 filled by the formula of the golden data, in one of both precisions.
    fn filled(kind: Kind) -> (nn::VarStore, Network) {
        let architecture = Architecture::WideResNet(WideResNet::default());
        let layers = architecture.layers(10).unwrap();
        let mut weights = Weights::new(Path::new("filled"));
        for (name, shape) in layers.iter().flat_map(Layer::parameters) {
            weights.insert(&name, &shape, fill::values(&name, &shape));
        }
        let mut store = nn::VarStore::new(Device::Cpu);
        let mut network = Network::new(&store, layers, &Input::default()).unwrap();
        network.load(&weights, "", false).unwrap();
        store.set_kind(kind);
        network.mean = network.mean.to_kind(kind);
        network.std = network.std.to_kind(kind);
        network.training_kind = kind;
        (store, network)
    }

    fn pictures(range: std::ops::Range<usize>) -> Tensor {
        let bytes = fill::pictures(range.end)[range.start * 3072..].to_vec();
        Tensor::from_slice(&bytes).view([range.len() as i64, 3, 32, 32])
    }

    fn method(name: &str) -> Tensor {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/method.safetensors");
        let tensors = Tensor::read_safetensors(path).unwrap();
        tensors.into_iter().find(|(other, _)| other == name).unwrap().1
    }

    /// The greatest difference, relative to the greatest value.
    fn difference(found: &Tensor, expected: &Tensor) -> f64 {
        ((found - expected).abs().max() / expected.abs().max()).double_value(&[])
    }

    #[test]
    fn wide_resnet_40_2_computes_what_pytorch_computes_in_training_and_after() {
        for (kind, suffix, tolerance) in [(Kind::Float, "", 1e-5), (Kind::Double, "64", 1e-12)] {
            let (store, network) = filled(kind);
            let pictures = pictures(0..4);
            let logits = tch::no_grad(|| network.forward(&pictures, None).unwrap());
            let found = difference(&logits, &method(&format!("wrn.logits.eval{suffix}")));
            assert!(found < tolerance, "eval {kind:?}: {found}");
            let logits = tch::no_grad(|| network.forward(&pictures, Some(0)).unwrap());
            let found = difference(&logits, &method(&format!("wrn.logits.train{suffix}")));
            assert!(found < tolerance, "train {kind:?}: {found}");
            let variables = store.variables();
            for statistic in ["running_mean", "running_var"] {
                let found = &variables[&format!("block1.layer.0.bn1.{statistic}")];
                let found = difference(found, &method(&format!("wrn.{statistic}.after{suffix}")));
                assert!(found < tolerance, "{statistic} {kind:?}: {found}");
            }
        }
    }

    #[test]
    fn bf16_is_near_and_leaves_the_parameters_in_single_precision() {
        let (store, mut network) = filled(Kind::Float);
        let pictures = pictures(0..8);
        let gradient = |network: &Network| {
            for (_, mut variable) in store.variables() {
                variable.zero_grad();
            }
            let logits = network.forward(&pictures, Some(0)).unwrap();
            logits.square().sum(None::<Kind>).backward();
            (logits.detach(), store.variables()["block2.layer.0.conv1.weight"].grad().copy())
        };
        let (expected, slope) = gradient(&network);
        network.training_kind = Kind::BFloat16;
        let (found, found_slope) = gradient(&network);
        assert_eq!((found.kind(), found_slope.kind()), (Kind::Float, Kind::Float));
        let apart = difference(&found, &expected);
        // Eight bits of mantissa in each of forty layers.
        assert!(apart > 1e-6 && apart < 0.1, "{apart}");
        let cosine = (&slope * &found_slope).sum(None::<Kind>) / (slope.norm() * found_slope.norm());
        // PyTorch's autocast has 0.80 here: so many layers of random weights make noise of a gradient.
        assert!(cosine.double_value(&[]) > 0.75, "{cosine}");
        let evaluated = tch::no_grad(|| network.forward(&pictures, None).unwrap());
        network.training_kind = Kind::Float;
        assert!(
            evaluated == tch::no_grad(|| network.forward(&pictures, None).unwrap()),
            "tests are not in bf16"
        );
    }

    #[test]
    fn adam_and_the_cosine_follow_pytorch() {
        for (variant, name) in [(Variant::Paper, "paper"), (Variant::PytorchOod, "pytorch_ood")] {
            // Rounding drives runs in single precision apart by a percent within 20 steps, PyTorch's own
            // too, because Adam's first steps are the signs of gradients. In double precision there is none.
            for (kind, suffix, tolerance) in [(Kind::Double, "64", 1e-9), (Kind::Float, "", 3e-2)] {
                let (store, network) = filled(kind);
                let settings = Loss::new(variant);
                let anchors = Tensor::eye(10, (kind, Device::Cpu)) * settings.magnitude;
                let recipe = Recipe {
                    optimizer: recipe::Optimizer::Adam,
                    schedule: Schedule::Cosine,
                    ..Recipe::default()
                };
                let mut optimizer = Optimizer::new(&store, recipe.optimizer, 0.0).unwrap();
                let (losses, rates) = (
                    method(&format!("trajectory.{name}.losses{suffix}")),
                    method("trajectory.learning_rates"),
                );
                for step in 0..20 {
                    let pace = recipe.pace(1e-3, step, 20, 20);
                    let expected = rates.double_value(&[step as i64]);
                    assert!((pace.rate - expected).abs() < 1e-15, "step {step}: {pace:?}, {expected}");
                    let labels = Tensor::arange_start(
                        8 * step as i64,
                        8 * step as i64 + 8,
                        (Kind::Int64, Device::Cpu),
                    )
                    .remainder(10);
                    let logits = network.forward(&pictures(8 * step..8 * step + 8), Some(0)).unwrap();
                    let loss =
                        loss::losses(&settings, &logits, &labels, &anchors).unwrap().mean(None::<Kind>);
                    let (found, expected) = (loss.double_value(&[]), losses.double_value(&[step as i64]));
                    let tolerance = if step == 0 { f64::min(tolerance, 1e-6) } else { tolerance };
                    let difference = (found - expected).abs() / expected;
                    assert!(difference < tolerance, "{name} {kind:?} step {step}: {found}, {expected}");
                    optimizer.step(&loss, pace).unwrap();
                }
            }
        }
    }

    #[test]
    fn the_official_network_computes_what_pytorch_computes() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/checkpoints");
        let weights = Weights::read(&folder.join("cac-legacy.pth")).unwrap();
        let (architecture, classes) = weights.recognize().unwrap();
        let store = nn::VarStore::new(Device::Cpu);
        let layers = architecture.layers(classes.unwrap()).unwrap();
        let mut network = Network::new(&store, layers, &Input::default()).unwrap();
        network.load(&weights, "", false).unwrap();
        let expected = Weights::read(&folder.join("expected.safetensors")).unwrap();
        let expected = Tensor::from_slice(expected.values("cac.logits", &[4, 6]).unwrap()).view([4, 6]);
        let found = tch::no_grad(|| network.forward(&pictures(0..4), None).unwrap());
        assert!(difference(&found, &expected) < 1e-5);
    }

    #[test]
    fn overwriting_activations_leaves_the_gradient_right() {
        let (store, network, pictures, _) = golden(2);
        // In evaluation the network is a plain function of its weights.
        let loss = || network.forward(&pictures, None).unwrap().square().sum(None::<Kind>);
        loss().backward();
        for name in
            ["conv1.weight", "block2.layer.0.bn2.bias", "block3.layer.0.convShortcut.weight", "bn1.weight"]
        {
            let variable = store.variables()[name].shallow_clone();
            let gradient = variable.grad();
            let direction = gradient.sign();
            let step = 1e-3;
            let at = |sign: f64| {
                tch::no_grad(|| {
                    let _ = variable.shallow_clone().g_add_(&(&direction * (sign * step)));
                    let value = loss().double_value(&[]);
                    let _ = variable.shallow_clone().g_sub_(&(&direction * (sign * step)));
                    value
                })
            };
            let slope = (at(1.0) - at(-1.0)) / (2.0 * step);
            let expected = gradient.abs().sum(None::<Kind>).double_value(&[]);
            assert!((slope / expected - 1.0).abs() < 0.05, "{name}: {slope} {expected}");
        }
    }

    #[test]
    fn random_weights_have_the_stated_deviations() {
        tch::manual_seed(1);
        let layers = Architecture::WideResNet(WideResNet::default()).layers(10).unwrap();
        let store = nn::VarStore::new(Device::Cpu);
        let _network = Network::new(&store, layers, &Input::default()).unwrap();
        let variables = store.variables();
        let deviation = |name: &str| variables[name].std(false).double_value(&[]);
        assert!(
            (deviation("block3.layer.1.conv1.weight") / (2.0 / (9.0 * 128.0_f64)).sqrt() - 1.0).abs() < 0.02
        );
        assert!((deviation("fc.weight") * 128_f64.sqrt() - 1.0 / 3_f64.sqrt()).abs() < 0.05);
        assert_eq!((deviation("bn1.weight"), variables["bn1.weight"].double_value(&[0])), (0.0, 1.0));
    }
}
