//! Runs the layers of [`arch`](crate::arch) on libtorch.

use tch::{Device, Kind, TchError, Tensor, nn};

use super::dropout::{Unit, dropout};
use crate::{
    arch::{self, Conv, Init, Layer, Op},
    error::Result,
    image::Input,
    weights::Weights,
};

/// Values between the starts of tensors: cuDNN reads several at once, from aligned addresses.
const ALIGNMENT: usize = 64;
/// Added to the mean squares of whitened patches, as a share of their mean.
const WHITEN_EPSILON: f64 = 5e-4;

/// What a network is run for.
#[derive(Clone, Copy)]
pub(super) enum Mode {
    Evaluation,
    Training {
        /// The seed of dropout.
        seed: u64,
    },
}

/// A network with its parameters in a [`nn::VarStore`].
pub(super) struct Network {
    layers: Vec<Layer>,
    /// The tensors of each layer in the order of [`Layer::parameters`], as views of `all`.
    tensors: Vec<Vec<Tensor>>,
    /// All tensors, [concatenated] by [`Part`], so an operation on them is one kernel instead of hundreds.
    all: Tensor,
    /// For each layer, the last layer that reads its output.
    last_readers: Vec<usize>,
    mean: Tensor,
    std: Tensor,
    /// The type of activations and convolution weights in training. Stored parameters, normalisation
    /// statistics, the last layer and evaluation keep their own type.
    pub training_kind: Kind,
    /// Whether training uses the running statistics of batch normalisation, and leaves them unchanged.
    pub keeps_statistics: bool,
    /// Whether training computes no gradients for the layers below the last.
    pub keeps_backbone: bool,
}

/// The parts of a network's tensors, in the order of [`Network::all`]: the parameters of the backbone, those
/// of the last layer, and those of several dimensions are each contiguous.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    BackboneVectors,
    BackboneMatrices,
    LastMatrices,
    LastVectors,
    Statistics,
}

impl Part {
    /// The part of a tensor, in the last layer or another.
    fn of(tensor: &Tensor, is_last: bool) -> Self {
        match (tensor.requires_grad(), is_last, tensor.dim() < 2) {
            (false, ..) => Self::Statistics,
            (_, false, true) => Self::BackboneVectors,
            (_, false, false) => Self::BackboneMatrices,
            (_, true, false) => Self::LastMatrices,
            (_, true, true) => Self::LastVectors,
        }
    }

    pub fn is_last(self) -> bool {
        matches!(self, Self::LastMatrices | Self::LastVectors)
    }

    pub fn is_matrices(self) -> bool {
        matches!(self, Self::BackboneMatrices | Self::LastMatrices)
    }
}

/// A parameter of a network.
pub(super) struct Parameter<'a> {
    pub part: Part,
    pub name: String,
    pub shape: Vec<usize>,
    pub tensor: &'a Tensor,
}

impl Network {
    /// A network with initial weights.
    pub fn new(store: &nn::VarStore, layers: Vec<Layer>, input: &Input) -> Result<Self, TchError> {
        let mut tensors: Vec<Vec<Tensor>> = layers
            .iter()
            .map(|layer| {
                layer
                    .parameters()
                    .into_iter()
                    .map(|(name, shape)| {
                        // tch joins the names of nested paths with dots.
                        let (folders, name) = name.rsplit_once('.').unwrap_or(("", &name));
                        let path = folders.split('.').fold(store.root(), |path, part| path / part);
                        let shape: Vec<i64> = shape.iter().map(|&length| length as i64).collect();
                        match (layer.init, name) {
                            (_, "running_mean") => path.f_zeros_no_train(name, &shape),
                            (_, "running_var") => path.f_ones_no_train(name, &shape),
                            (Init::Whiten, "weight") => path.f_zeros_no_train(name, &shape),
                            (Init::None, "weight") => path.f_ones(name, &shape),
                            (Init::None | Init::Whiten, _) | (Init::Normal { .. }, "bias") => {
                                path.f_zeros(name, &shape)
                            }
                            (Init::Normal { deviation }, _) => {
                                path.f_var(name, &shape, nn::Init::Randn { mean: 0.0, stdev: deviation })
                            }
                            (Init::Uniform { bound }, _) => {
                                path.f_var(name, &shape, nn::Init::Uniform { lo: -bound, up: bound })
                            }
                        }
                    })
                    .collect()
            })
            .collect::<Result<_, _>>()?;
        let all = join(&mut tensors)?;
        let channel = |values: &[f32; 3]| {
            Tensor::f_from_slice(values)?.f_view([1, 3, 1, 1])?.f_to_device(store.device())
        };
        let last_readers = arch::last_readers(&layers);
        let (mean, std) = (channel(&input.mean)?, channel(&input.std)?);
        Ok(Self {
            layers,
            tensors,
            all,
            last_readers,
            training_kind: mean.kind(),
            keeps_statistics: false,
            keeps_backbone: false,
            mean,
            std,
        })
    }

    /// Loads weights whose names have a prefix.
    ///
    /// # Errors
    /// [`Error::Weights`](crate::Error::Weights) naming a tensor that is missing or has another shape.
    pub fn load(&mut self, weights: &Weights, prefix: &str) -> Result<()> {
        self.load_layers(self.layers.len(), weights, prefix)
    }

    /// Loads the weights of a backbone. The last layer stays as it is, because a backbone has other classes.
    ///
    /// # Errors
    /// Those of [`load`](Self::load).
    pub fn load_backbone(&mut self, weights: &Weights) -> Result<()> {
        self.load_layers(self.layers.len() - 1, weights, "")
    }

    fn load_layers(&mut self, count: usize, weights: &Weights, prefix: &str) -> Result<()> {
        for (layer, tensors) in self.layers[..count].iter().zip(&mut self.tensors) {
            for ((name, shape), tensor) in layer.parameters().into_iter().zip(tensors) {
                let values = weights.values(&format!("{prefix}{name}"), &shape)?;
                copy(values, tensor).map_err(super::torch)?;
            }
        }
        Ok(())
    }

    /// The logits `[N, C]` of images given as bytes `[N, 3, H, W]` on the network's device; of features
    /// `[N, F]` if the network is the last layer of another.
    pub fn forward(&self, images: &Tensor, mode: Mode) -> Result<Tensor, TchError> {
        let features = if self.keeps_backbone {
            tch::no_grad(|| self.features(images, mode))?
        } else {
            self.features(images, mode)?
        };
        self.linear(&features, &self.tensors[self.layers.len() - 1])
    }

    /// The type of the stored parameters.
    fn kind(&self) -> Kind {
        self.mean.kind()
    }

    /// A fully connected layer, with the weight and the bias in `tensors`, in the type of the stored
    /// parameters.
    fn linear(&self, x: &Tensor, tensors: &[Tensor]) -> Result<Tensor, TchError> {
        x.f_to_kind(self.kind())?.f_linear(&tensors[0], Some(&tensors[1]))
    }

    /// The features of images (the last layer's input), as in [`forward`](Self::forward).
    ///
    /// An activation is freed or overwritten by its last reader: small networks are bound by memory traffic.
    pub fn features(&self, images: &Tensor, mode: Mode) -> Result<Tensor, TchError> {
        let below = &self.layers[..self.layers.len() - 1];
        let mut outputs: Vec<Option<Tensor>> = Vec::with_capacity(below.len());
        let is_training = matches!(mode, Mode::Training { .. });
        let kind = if is_training { self.training_kind } else { self.kind() };
        for (index, (layer, tensors)) in below.iter().zip(&self.tensors).enumerate() {
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
                Op::Input => self.normalised(images)?.f_to_kind(kind)?,
                Op::Conv(conv) => convolution(next(), &conv, tensors, kind, is_training)?,
                Op::BatchNorm { epsilon, momentum, .. } => {
                    let [weight, bias, mean, variance] = &tensors[..] else { unreachable!("four tensors") };
                    let [weight, bias, mean, variance] = [weight, bias, mean, variance].map(Some);
                    let updates = is_training && !self.keeps_statistics;
                    next().f_batch_norm(weight, bias, mean, variance, updates, momentum, epsilon, true)?
                }
                Op::Relu if layer.in_place => next().f_relu_()?,
                Op::Relu => next().f_relu()?,
                Op::Relu6 if layer.in_place => next().f_relu6_()?,
                Op::Relu6 => next().f_relu6()?,
                Op::LeakyRelu(slope) => {
                    let x = next();
                    x.f_maximum(&x.f_mul_scalar(slope)?)?
                }
                Op::Dropout(share) | Op::DropoutChannels(share) => match mode {
                    Mode::Training { seed } if share > 0.0 => {
                        let is_channels = matches!(layer.op, Op::DropoutChannels(_));
                        let unit = if is_channels { Unit::Channel } else { Unit::Activation };
                        dropout(&next(), share, unit, seed.wrapping_add(index as u64))?
                    }
                    _ => next(),
                },
                Op::Flatten => next().f_flatten(1, -1)?,
                Op::Add if layer.in_place => next().f_add_(&next())?,
                Op::Add => next().f_add(&next())?,
                Op::MaxPool { kernel, stride, padding } => {
                    let [kernel, stride, padding] =
                        [kernel, stride, padding].map(|length| [length as i64; 2]);
                    next().f_max_pool2d(kernel, stride, padding, [1, 1], false)?
                }
                Op::GlobalAveragePool => next().f_mean_dim(&[2_i64, 3][..], false, None::<Kind>)?,
                Op::Linear { .. } => self.linear(&next(), tensors)?,
            };
            outputs.push(Some(output));
        }
        // The last layer reads the one before it.
        Ok(outputs.pop().flatten().unwrap_or_else(|| images.shallow_clone()))
    }

    /// The normalised values of images given as bytes `[N, 3, H, W]`.
    fn normalised(&self, images: &Tensor) -> Result<Tensor, TchError> {
        // Channels last in memory, which all later layers keep: convolutions are faster.
        let last = images.f_permute([0, 2, 3, 1])?.f_contiguous()?.f_permute([0, 3, 1, 2])?;
        last.f_to_kind(self.kind())?.f_div_scalar(255.0)?.f_sub(&self.mean)?.f_div(&self.std)
    }

    /// Whether the weights of the first convolution are those of [`whiten`](Self::whiten), and not learned.
    pub fn has_whitening(&self) -> bool {
        self.whitening().is_some()
    }

    /// The whitening convolution: its index, and the height and width of its patches.
    fn whitening(&self) -> Option<(usize, [i64; 2])> {
        self.layers.iter().enumerate().find_map(|(index, layer)| match layer.op {
            Op::Conv(Conv { kernel, .. }) if layer.init == Init::Whiten => Some((index, [kernel as i64; 2])),
            _ => None,
        })
    }

    /// Sets the filters of the first convolution to the principal components of patches of these images, not
    /// centred, scaled to a mean square of 1, each with both signs (airbench; Jordan, arXiv 2404.00498).
    pub fn whiten(&mut self, images: &Tensor) -> Result<(), TchError> {
        let Some((index, size)) = self.whitening() else { return Ok(()) };
        let patches = self.normalised(images)?.f_im2col(size, [1, 1], [0, 0], [1, 1])?;
        // `[N, values, positions]` to `[values, N positions]`.
        let patches = patches.f_transpose(0, 1)?.f_flatten(1, 2)?;
        let second_moment = patches.f_matmul(&patches.f_transpose(0, 1)?)?.f_div_scalar(patches.size()[1])?;
        let (squares, components) = second_moment.f_to_kind(Kind::Double)?.f_linalg_eigh("U")?;
        // All of them are 0 in images of the mean colour.
        let least = squares.f_mean(Kind::Double)?.f_mul_scalar(WHITEN_EPSILON)?.f_add_scalar(1e-12)?;
        let components = components.f_div(&squares.f_add(&least)?.f_sqrt()?)?.f_transpose(0, 1)?;
        let filters = Tensor::f_cat(&[&components, &components.f_neg()?], 0)?;
        copy(&floats(&filters)?, &mut self.tensors[index][0])
    }

    /// Interpolates the parameters and statistics towards another network's by a share, 0 to 1.
    pub fn approach(&mut self, other: &Self, share: f64) -> Result<(), TchError> {
        self.all.f_lerp_(&other.all, share).map(drop)
    }

    /// The parameters, sorted by part.
    pub fn parameters(&self) -> Vec<Parameter<'_>> {
        let mut parameters = Vec::new();
        for (index, (layer, tensors)) in self.layers.iter().zip(&self.tensors).enumerate() {
            for ((name, shape), tensor) in layer.parameters().into_iter().zip(tensors) {
                let part = Part::of(tensor, index + 1 == self.layers.len());
                parameters.push(Parameter { part, name, shape, tensor });
            }
        }
        parameters.retain(|parameter| parameter.part != Part::Statistics);
        parameters.sort_by_key(|parameter| parameter.part);
        parameters
    }

    /// The values of all parameters and statistics, [concatenated]; those of [`parameters`](Self::parameters)
    /// come first, in the same order.
    pub fn values(&self) -> &Tensor {
        &self.all
    }

    /// Copies the parameters and statistics, with a prefix before their names.
    pub fn save(&self, weights: &mut Weights, prefix: &str) -> Result<(), TchError> {
        for (layer, tensors) in self.layers.iter().zip(&self.tensors) {
            for ((name, shape), tensor) in layer.parameters().into_iter().zip(tensors) {
                weights.insert(&format!("{prefix}{name}"), &shape, floats(tensor)?);
            }
        }
        Ok(())
    }
}

/// Moves the tensors of all layers into one, sorted by part. They become views of it.
fn join(layers: &mut [Vec<Tensor>]) -> Result<Tensor, TchError> {
    let count = layers.len();
    let mut tensors: Vec<(Part, &mut Tensor)> = layers
        .iter_mut()
        .enumerate()
        .flat_map(|(index, tensors)| tensors.iter_mut().map(move |tensor| (index + 1 == count, tensor)))
        .map(|(is_last, tensor)| (Part::of(tensor, is_last), tensor))
        .collect();
    tensors.sort_by_key(|(part, _)| *part);
    let detached: Vec<Tensor> =
        tensors.iter().map(|(_, tensor)| tensor.f_detach()).collect::<Result<_, _>>()?;
    let all = concatenated(&detached)?;
    let mut start = 0;
    for (_, tensor) in tensors {
        let length = tensor.numel();
        tensor.f_set_data(&all.f_narrow(0, start as i64, length as i64)?.f_view_as(&*tensor)?)?;
        start += padded(length);
    }
    Ok(all)
}

/// The concatenated values of tensors, each zero-padded to a multiple of [`ALIGNMENT`].
pub(super) fn concatenated(tensors: &[Tensor]) -> Result<Tensor, TchError> {
    let Some(first) = tensors.first() else { return Tensor::f_cat::<Tensor>(&[], 0) };
    let zeros = Tensor::f_zeros([ALIGNMENT as i64], (first.kind(), first.device()))?;
    let mut parts = Vec::with_capacity(2 * tensors.len());
    for tensor in tensors {
        let length = tensor.numel();
        parts.push(tensor.f_reshape([-1])?);
        parts.push(zeros.f_narrow(0, 0, (padded(length) - length) as i64)?);
    }
    Tensor::f_cat(&parts, 0)
}

/// The length of a tensor in [`concatenated`].
pub(super) fn padded(length: usize) -> usize {
    length.next_multiple_of(ALIGNMENT)
}

/// A convolution, with the weights cast to `kind`. In training on CUDA, cuDNN may compute in TF32.
fn convolution(
    x: Tensor,
    conv: &Conv,
    tensors: &[Tensor],
    kind: Kind,
    is_training: bool,
) -> Result<Tensor, TchError> {
    let Conv { kernel, stride, padding, groups, .. } = *conv;
    let [top, left, bottom, right] = padding.map(|size| size as i64);
    let is_cuda = x.device().is_cuda();
    let weight = tensors[0].f_to_kind(kind)?;
    let bias = tensors.get(1).map(|bias| bias.f_to_kind(kind)).transpose()?;
    let is_slow = groups > 1 && (stride > 1 || kernel > COLUMNS) && kind == Kind::BFloat16;
    if is_training && is_slow && !is_cuda {
        return depthwise(&x, &weight, bias.as_ref(), stride as i64, [left, right, top, bottom]);
    }
    // libtorch pads symmetrically; asymmetric padding is applied before. So is the padding for a depthwise
    // kernel larger than its feature map, up to the kernel's size: otherwise oneDNN takes 4 to 13 times as
    // long for its gradients.
    let before = if (top, left) != (bottom, right) {
        [left, right, top, bottom]
    } else if is_training && groups > 1 && !is_cuda {
        let (_, _, height, width) = x.size4()?;
        let missing = |length: i64, most: i64| ((kernel as i64 - length + 1) / 2).clamp(0, most);
        let (rows, columns) = (missing(height, top), missing(width, left));
        [columns, columns, rows, rows]
    } else {
        [0; 4]
    };
    let x = if before == [0; 4] { x } else { x.f_constant_pad_nd(before)? };
    let padding = [top - before[2], left - before[0]];
    let (bias, stride, groups) = (bias.as_ref(), [stride as i64; 2], groups as i64);
    if is_training || !is_cuda {
        return x.f_conv2d(&weight, bias, stride, padding, [1, 1], groups);
    }
    // TF32 would round logits to three digits, and every other runtime would differ.
    let (benchmark, deterministic, cudnn, tf32) = (false, true, true, false);
    let (dilation, transposed, output_padding) = ([1, 1], false, [0, 0]);
    x.f_internal_convolution(
        &weight,
        bias,
        stride,
        padding,
        dilation,
        transposed,
        output_padding,
        groups,
        benchmark,
        deterministic,
        cudnn,
        tf32,
    )
}

/// The most columns of a depthwise kernel whose gradient oneDNN computes quickly in bfloat16.
const COLUMNS: usize = 3;

/// A depthwise convolution, padded by left, right, top and bottom, as stride-1 convolutions of at most
/// [`COLUMNS`] columns: the parts of a wider kernel are summed, and a stride subsamples the stride-1 output.
/// In bfloat16 oneDNN is many times slower with the gradients of the undivided convolution.
fn depthwise(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    stride: i64,
    [left, right, top, bottom]: [i64; 4],
) -> Result<Tensor, TchError> {
    let (groups, _, _, columns) = weight.size4()?;
    let part = |start: i64| {
        let end = columns.min(start + COLUMNS as i64);
        let padded = x.f_constant_pad_nd([left - start, right - (columns - end), top, bottom])?;
        let weight = weight.f_slice(3, start, end, 1)?;
        padded.f_conv2d(&weight, bias.filter(|_| start == 0), [1, 1], [0, 0], [1, 1], groups)
    };
    let mut y = part(0)?;
    for start in (COLUMNS as i64..columns).step_by(COLUMNS) {
        y = y.f_add(&part(start)?)?;
    }
    if stride == 1 {
        return Ok(y);
    }
    // Channels last in memory, as the convolution left them.
    let last = y.f_permute([0, 2, 3, 1])?.f_slice(1, None, None, stride)?.f_slice(2, None, None, stride)?;
    last.f_contiguous()?.f_permute([0, 3, 1, 2])
}

/// Overwrites the values of a tensor.
pub(super) fn copy(values: &[f32], tensor: &mut Tensor) -> Result<(), TchError> {
    tch::no_grad(|| {
        let source = Tensor::f_from_slice(values)?.f_view_as(tensor)?;
        tensor.f_copy_(&source)
    })
}

/// Copies the values of a tensor from its device.
pub(super) fn floats(tensor: &Tensor) -> Result<Vec<f32>, TchError> {
    let flat = tensor.f_detach()?.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?.f_contiguous()?;
    Vec::<f32>::try_from(flat.f_view([-1])?)
}

#[cfg(test)]
mod tests {
    use super::super::{loss, optimizer::Optimizer};
    use super::*;
    use crate::{
        arch::Architecture,
        fill,
        method::{Loss, Variant},
        run::{self, Recipe, Schedule},
    };
    use std::path::Path;

    /// The network made by PyTorch, its images as bytes, and its logits.
    fn golden(widen_factor: usize) -> (nn::VarStore, Network, Tensor, Vec<f32>) {
        let file = format!("tests/golden/wrn-10-{widen_factor}.safetensors");
        let weights = Weights::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
        let settings = [("depth", 10.0), ("widen_factor", widen_factor as f64), ("dropout", 0.3)];
        let layers = Architecture::new("wide-resnet", &settings).unwrap().layers(3, 32, 32).unwrap();
        let store = nn::VarStore::new(Device::Cpu);
        let mut network = Network::new(&store, layers, &Input::default()).unwrap();
        network.load(&weights, "").unwrap();
        let bytes: Vec<u8> =
            weights.get("check.images").unwrap().values.iter().map(|v| (v * 255.0).round() as u8).collect();
        let images = Tensor::from_slice(&bytes).view([4, 3, 32, 32]);
        (store, network, images, weights.get("check.logits").unwrap().values.clone())
    }

    #[test]
    fn logits_match_pytorch() {
        for widen_factor in [1, 2] {
            let (_store, network, images, expected) = golden(widen_factor);
            let logits = floats(&network.forward(&images, Mode::Evaluation).unwrap()).unwrap();
            for (found, expected) in logits.iter().zip(&expected) {
                assert!((found - expected).abs() < 1e-5 * expected.abs().max(1.0), "{found} {expected}");
            }
        }
    }

    #[test]
    fn the_first_convolution_whitens_patches() {
        tch::manual_seed(1);
        let layers = Architecture::new("cifar-net", &[("channels", 1.0)]).unwrap().layers(3, 17, 20).unwrap();
        let store = nn::VarStore::new(Device::Cpu);
        let mut network = Network::new(&store, layers, &Input::default()).unwrap();
        // Neighbouring pixels are alike, as in photographs.
        let coarse = Tensor::randn([50, 3, 9, 10], (Kind::Float, Device::Cpu));
        let images = coarse.upsample_bilinear2d([17, 20], true, None, None);
        let images = (images * 40.0 + 100.0).clamp(0.0, 255.0).to_kind(Kind::Uint8);
        network.whiten(&images).unwrap();
        let [filters, bias] = &network.tensors[1][..] else { unreachable!("weights and a bias") };
        assert!(!filters.requires_grad() && bias.requires_grad());
        let found = network.normalised(&images).unwrap().conv2d(filters, None::<Tensor>, 1, 0, 1, 1);
        // `[N, 24, H, W]` to `[24, N H W]`.
        let found = found.transpose(0, 1).flatten(1, -1);
        let covariance = found.matmul(&found.transpose(0, 1)) / found.size()[1];
        let [positive, negative] = [covariance.narrow(0, 0, 12), covariance.narrow(0, 12, 12)];
        assert!(difference(&positive, &-negative) < 1e-4);
        // The smallest components have less than unit variance: nothing is divided by zero.
        let variances = Vec::<f32>::try_from(positive.diagonal(0, 0, 1)).unwrap();
        assert!(variances.iter().all(|&variance| 0.01 < variance && variance < 1.001), "{variances:?}");
        assert!(variances.iter().filter(|&&variance| variance > 0.9).count() >= 6, "{variances:?}");
        let mixed = positive.narrow(1, 0, 12).tril(-1).abs().max().double_value(&[]);
        assert!(mixed < 1e-3, "{mixed}");

        network.mean = Tensor::zeros([1, 3, 1, 1], (Kind::Float, Device::Cpu));
        network.whiten(&Tensor::zeros([2, 3, 17, 20], (Kind::Uint8, Device::Cpu))).unwrap();
        assert!(floats(&network.tensors[1][0]).unwrap().iter().all(|value| value.is_finite()));
    }

    #[test]
    fn all_tensors_are_aligned_views_of_one() {
        // The last layer has three classes: the size of its bias is not a multiple of the alignment.
        let (_store, network, ..) = golden(1);
        let (start, end) = (network.all.data_ptr() as usize, network.all.numel() * 4);
        for tensor in network.tensors.iter().flatten() {
            let offset = tensor.data_ptr() as usize - start;
            assert!(offset < end && offset.is_multiple_of(4 * ALIGNMENT), "{offset}");
        }
    }

    fn wide_resnet_40_2() -> Vec<Layer> {
        Architecture::new("wide-resnet", &[]).unwrap().layers(10, 32, 32).unwrap()
    }

    /// A WideResNet-40-2 filled by the formula of the golden data, in single or double precision.
    fn filled(kind: Kind) -> (nn::VarStore, Network) {
        filled_with(wide_resnet_40_2(), &Input::default(), fill::Scale::Outputs, kind)
    }

    /// The network of a golden case for images of this size.
    fn filled_case(case: fill::Case, [height, width]: [usize; 2], kind: Kind) -> (nn::VarStore, Network) {
        let architecture = Architecture::new(case.1, case.2).unwrap();
        let input = Input { height, width, ..architecture.default_input() };
        filled_with(architecture.layers(5, height, width).unwrap(), &input, fill::Scale::Inputs, kind)
    }

    fn filled_with(
        layers: Vec<Layer>,
        input: &Input,
        scale: fill::Scale,
        kind: Kind,
    ) -> (nn::VarStore, Network) {
        let mut weights = Weights::new(Path::new("filled"));
        for (name, shape) in layers.iter().flat_map(Layer::parameters) {
            weights.insert(&name, &shape, fill::values_scaled(&name, &shape, scale));
        }
        let mut store = nn::VarStore::new(Device::Cpu);
        let mut network = Network::new(&store, layers, input).unwrap();
        network.load(&weights, "").unwrap();
        store.set_kind(kind);
        network.all = join(&mut network.tensors).unwrap();
        network.mean = network.mean.to_kind(kind);
        network.std = network.std.to_kind(kind);
        network.training_kind = kind;
        (store, network)
    }

    /// Two images of a height and width.
    fn sized_images(size: [usize; 2]) -> Tensor {
        let [height, width] = size.map(|length| length as i64);
        Tensor::from_slice(&fill::bytes((2 * 3 * height * width) as usize)).view([2, 3, height, width])
    }

    fn images(range: std::ops::Range<usize>) -> Tensor {
        let bytes = fill::images(range.end)[range.start * 3072..].to_vec();
        Tensor::from_slice(&bytes).view([range.len() as i64, 3, 32, 32])
    }

    fn method(name: &str) -> Tensor {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/method.safetensors");
        let tensors = Tensor::read_safetensors(path).unwrap();
        tensors.into_iter().find(|(other, _)| other == name).unwrap().1
    }

    /// The largest difference, relative to the largest value.
    fn difference(found: &Tensor, expected: &Tensor) -> f64 {
        ((found - expected).abs().max() / expected.abs().max()).double_value(&[])
    }

    #[test]
    fn wide_resnet_40_2_matches_pytorch_in_training_and_evaluation() {
        for (kind, suffix, tolerance) in [(Kind::Float, "", 1e-5), (Kind::Double, "64", 1e-12)] {
            let (store, network) = filled(kind);
            let images = images(0..4);
            let logits = tch::no_grad(|| network.forward(&images, Mode::Evaluation).unwrap());
            let found = difference(&logits, &method(&format!("wrn.logits.eval{suffix}")));
            assert!(found < tolerance, "eval {kind:?}: {found}");
            let logits = tch::no_grad(|| network.forward(&images, Mode::Training { seed: 0 }).unwrap());
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
    fn large_networks_match_timm() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/families.safetensors");
        let golden = Tensor::read_safetensors(path).unwrap();
        for case in fill::CASES {
            let (name, .., [height, width]) = case;
            let (_store, network) = filled_case(case, [height, width], Kind::Float);
            let images = sized_images([height, width]);
            let logits = tch::no_grad(|| network.forward(&images, Mode::Evaluation).unwrap());
            let name = format!("{name}.{height}x{width}");
            let expected = &golden.iter().find(|(other, _)| *other == name).unwrap().1;
            let error = difference(&logits, expected);
            assert!(error < 1e-4, "{name}: {error}");
        }
    }

    #[test]
    fn bf16_is_close_and_keeps_the_parameters_in_single_precision() {
        let (store, mut network) = filled(Kind::Float);
        let images = images(0..8);
        let gradient = |network: &Network| {
            for (_, mut variable) in store.variables() {
                variable.zero_grad();
            }
            let logits = network.forward(&images, Mode::Training { seed: 0 }).unwrap();
            logits.square().sum(None::<Kind>).backward();
            (logits.detach(), store.variables()["block2.layer.0.conv1.weight"].grad().copy())
        };
        let (expected, slope) = gradient(&network);
        network.training_kind = Kind::BFloat16;
        let (found, found_slope) = gradient(&network);
        assert_eq!((found.kind(), found_slope.kind()), (Kind::Float, Kind::Float));
        let error = difference(&found, &expected);
        // Each of forty layers rounds to eight significant bits.
        assert!(error > 1e-6 && error < 0.1, "{error}");
        let cosine = (&slope * &found_slope).sum(None::<Kind>) / (slope.norm() * found_slope.norm());
        // PyTorch's autocast reaches 0.80 here: forty layers of random weights make the gradient noisy.
        assert!(cosine.double_value(&[]) > 0.75, "{cosine}");
        let evaluated = tch::no_grad(|| network.forward(&images, Mode::Evaluation).unwrap());
        network.training_kind = Kind::Float;
        assert!(
            evaluated == tch::no_grad(|| network.forward(&images, Mode::Evaluation).unwrap()),
            "evaluation is not in bf16"
        );
    }

    #[test]
    fn adam_and_the_cosine_follow_pytorch_with_the_paper_loss() {
        follows_pytorch(Variant::Paper, "paper");
    }

    #[test]
    fn adam_and_the_cosine_follow_pytorch_with_the_pytorch_ood_loss() {
        follows_pytorch(Variant::PytorchOod, "pytorch_ood");
    }

    fn follows_pytorch(variant: Variant, name: &str) {
        // In single precision, rounding makes runs diverge by a percent within 20 steps, PyTorch's own too,
        // because Adam's first steps are the signs of the gradients. Double precision is not affected.
        for (kind, suffix, tolerance) in [(Kind::Double, "64", 1e-9), (Kind::Float, "", 3e-2)] {
            let (_store, network) = filled(kind);
            let settings = Loss::new(variant);
            let recipe = Recipe {
                optimizer: run::Optimizer::Adam,
                schedule: Schedule::Cosine,
                learning_rate: 1e-3,
                weight_decay: 0.0,
                epochs: 1,
                ..Recipe::default()
            };
            let mut optimizer = Optimizer::new(&network, &recipe, variant).unwrap();
            let (losses, rates) =
                (method(&format!("trajectory.{name}.losses{suffix}")), method("trajectory.learning_rates"));
            for step in 0..20 {
                let scheduled = recipe.rates(step, 20);
                let expected = rates.double_value(&[step as i64]);
                assert!((scheduled.learning_rate - expected).abs() < 1e-15, "step {step}: {scheduled:?}");
                let labels =
                    Tensor::arange_start(8 * step as i64, 8 * step as i64 + 8, (Kind::Int64, Device::Cpu))
                        .remainder(10);
                let logits =
                    network.forward(&images(8 * step..8 * step + 8), Mode::Training { seed: 0 }).unwrap();
                let loss = loss::losses(&settings, &logits, &labels).unwrap().mean(None::<Kind>);
                let (found, expected) = (loss.double_value(&[]), losses.double_value(&[step as i64]));
                let tolerance = if step == 0 { f64::min(tolerance, 1e-6) } else { tolerance };
                let difference = (found - expected).abs() / expected;
                assert!(difference < tolerance, "{name} {kind:?} step {step}: {found}, {expected}");
                optimizer.step(&loss, scheduled).unwrap();
            }
        }
    }

    /// The values of a network's parameters and statistics by name, after a step.
    fn after_step(algorithm: run::Optimizer, backbone_rate: f64, keeps_statistics: bool) -> Values {
        let (store, mut network) = filled(Kind::Float);
        network.keeps_statistics = keeps_statistics;
        network.keeps_backbone = backbone_rate == 0.0;
        let recipe = Recipe { optimizer: algorithm, weight_decay: 0.1, backbone_rate, ..Recipe::default() };
        let mut optimizer = Optimizer::new(&network, &recipe, Variant::Paper).unwrap();
        let logits = network.forward(&images(0..4), Mode::Training { seed: 0 }).unwrap();
        let loss = logits.square().mean(None::<Kind>);
        optimizer.step(&loss, run::ScheduledRates { learning_rate: 1e-4, momentum: 0.9 }).unwrap();
        store.variables().into_iter().map(|(name, tensor)| (name, floats(&tensor).unwrap())).collect()
    }

    type Values = std::collections::BTreeMap<String, Vec<f32>>;

    #[test]
    fn all_layers_but_the_last_have_a_share_of_the_learning_rate() {
        let (store, _network) = filled(Kind::Float);
        let before: Values =
            store.variables().into_iter().map(|(name, tensor)| (name, floats(&tensor).unwrap())).collect();
        // How far a tensor moves.
        let moved = |after: &Values, name: &str| -> f64 {
            let squares = after[name].iter().zip(&before[name]).map(|(a, b)| f64::from(a - b).powi(2));
            squares.sum::<f64>().sqrt()
        };
        let (matrix, vector, last) = ("block2.layer.0.conv1.weight", "bn1.weight", ["fc.weight", "fc.bias"]);
        for algorithm in run::Optimizer::ALL {
            let [whole, part, none] = [1.0, 0.25, 0.0].map(|share| after_step(algorithm, share, true));
            for name in [matrix, vector] {
                let share = moved(&part, name) / moved(&whole, name);
                assert!((share - 0.25).abs() < 0.02, "{algorithm:?} {name}: {share}");
                assert!(none[name] == before[name], "{algorithm:?} {name}");
            }
            for name in last {
                let share = moved(&part, name) / moved(&whole, name);
                assert!((share - 1.0).abs() < 0.02, "{algorithm:?} {name}: {share}");
                assert!(moved(&none, name) > 0.0, "{algorithm:?} {name}");
            }
        }
    }

    #[test]
    fn weights_decay_by_their_learning_rate_and_nothing_else_decays() {
        for (backbone_rate, of_backbone) in [(1.0, 0.95), (0.25, 0.9875)] {
            let (store, mut network) = filled(Kind::Float);
            network.keeps_statistics = true;
            let before: Values = store
                .variables()
                .into_iter()
                .map(|(name, tensor)| (name, floats(&tensor).unwrap()))
                .collect();
            let recipe = Recipe {
                optimizer: run::Optimizer::Sgd,
                weight_decay: 0.5,
                backbone_rate,
                ..Recipe::default()
            };
            let mut optimizer = Optimizer::new(&network, &recipe, Variant::Paper).unwrap();
            let loss =
                network.forward(&images(0..4), Mode::Training { seed: 0 }).unwrap().sum(None::<Kind>) * 0.0;
            optimizer.step(&loss, run::ScheduledRates { learning_rate: 0.1, momentum: 0.9 }).unwrap();
            for (name, tensor) in store.variables() {
                let factor = match tensor.dim() {
                    1 => 1.0,
                    _ if name == "fc.weight" => 0.95,
                    _ => of_backbone,
                };
                for (after, before) in floats(&tensor).unwrap().iter().zip(&before[&name]) {
                    assert!(
                        (after - before * factor).abs() <= 1e-6 * before.abs(),
                        "{name}: {before} {after}"
                    );
                }
            }
        }
    }

    #[test]
    fn muon_orthogonalises_the_steps_of_convolutions() {
        let (store, _network) = filled(Kind::Float);
        let after = after_step(run::Optimizer::Muon, 1.0, true);
        // As in `after_step`.
        let (rate, weight_decay) = (1e-4, 0.1);
        for name in ["block1.layer.0.conv1.weight", "block2.layer.0.convShortcut.weight"] {
            let before = store.variables()[name].detach().to_kind(Kind::Double);
            let after = Tensor::from_slice(&after[name]).to_kind(Kind::Double).view_as(&before);
            let step = (after - &before * (1.0 - rate * weight_decay)).flatten(1, -1) / rate;
            let (_, singular_values, _) = step.svd(true, false);
            let [rows, columns] = step.size()[..] else { unreachable!("a matrix") };
            let length = 0.2 * (rows as f64 / columns as f64).max(1.0).sqrt();
            let values: Vec<f64> = Vec::try_from(singular_values / length).unwrap();
            // Directions almost absent from the gradient stay small.
            assert!(values[0] < 1.25 && values[values.len() / 2] > 0.65, "{name}: {values:?}");
        }
    }

    #[test]
    fn running_statistics_stay_and_scale_and_shift_are_trained() {
        let [of_batch, running] = [false, true].map(|keeps| after_step(run::Optimizer::Sgd, 1.0, keeps));
        let (store, network) = filled(Kind::Float);
        let variables = store.variables();
        let before = |name: &str| floats(&variables[name]).unwrap();
        for name in ["block1.layer.0.bn1.running_mean", "bn1.running_var"] {
            assert!(running[name] == before(name) && of_batch[name] != before(name), "{name}");
        }
        assert!(running["bn1.weight"] != before("bn1.weight"));
        // With running statistics, a network computes the same in training and in evaluation.
        let network = Network { keeps_statistics: true, ..network };
        let of = |mode| tch::no_grad(|| network.forward(&images(0..2), mode).unwrap());
        assert!(of(Mode::Training { seed: 1 }) == of(Mode::Evaluation));
    }

    #[test]
    fn the_official_network_matches_pytorch() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/checkpoints");
        let weights = Weights::read(&folder.join("cac-legacy.pth")).unwrap().network().unwrap();
        let found = weights.recognize().unwrap();
        let store = nn::VarStore::new(Device::Cpu);
        let layers = found.architecture.layers(found.classes.unwrap(), 32, 32).unwrap();
        let mut network = Network::new(&store, layers, &Input::default()).unwrap();
        network.load(&weights, "").unwrap();
        let expected = Weights::read(&folder.join("expected.safetensors")).unwrap();
        let expected = Tensor::from_slice(expected.values("cac.logits", &[4, 6]).unwrap()).view([4, 6]);
        let found = tch::no_grad(|| network.forward(&images(0..4), Mode::Evaluation).unwrap());
        assert!(difference(&found, &expected) < 1e-5);
    }

    #[test]
    fn gradients_are_correct_despite_overwritten_activations() {
        let (store, network, images, _) = golden(2);
        // In evaluation the network is a plain function of its weights.
        let loss = || network.forward(&images, Mode::Evaluation).unwrap().square().sum(None::<Kind>);
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
    fn gradients_of_large_networks_are_correct() {
        let of_resnet = ["conv1.weight", "layer2.0.downsample.1.bias", "layer3.1.conv1.weight"];
        let of_efficientnet_lite = [
            "conv_stem.weight",
            "blocks.0.0.bn1.weight",
            "blocks.1.0.conv_dw.weight",
            "blocks.4.1.conv_pw.weight",
            "blocks.5.1.conv_dw.weight",
            "bn2.weight",
        ];
        for (case, names) in [(fill::CASES[0], &of_resnet[..]), (fill::CASES[3], &of_efficientnet_lite)] {
            let (store, network) = filled_case(case, [47, 64], Kind::Double);
            let images = sized_images([47, 64]);
            let loss =
                || network.forward(&images, Mode::Training { seed: 0 }).unwrap().square().sum(None::<Kind>);
            loss().backward();
            let variables = store.variables();
            for &name in names {
                let variable = &variables[name];
                let gradient = variable.grad();
                let direction = &gradient / gradient.norm();
                let at = |step: f64| {
                    tch::no_grad(|| {
                        let _ = variable.shallow_clone().g_add_(&(&direction * step));
                        let value = loss().double_value(&[]);
                        let _ = variable.shallow_clone().g_sub_(&(&direction * step));
                        value
                    })
                };
                let step = 1e-8;
                let slope = (at(step) - at(-step)) / (2.0 * step);
                let expected = gradient.norm().double_value(&[]);
                assert!((slope / expected - 1.0).abs() < 1e-4, "{} {name}: {slope} {expected}", case.0);
            }
        }
    }

    #[test]
    fn a_depthwise_kernel_may_be_larger_than_its_feature_map() {
        for (size, kernel, stride) in
            [([3, 4], 5, 1), ([1, 9], 5, 1), ([2, 1], 3, 1), ([4, 3], 5, 2), ([6, 6], 5, 1)]
        {
            let padding = [kernel / 2; 4];
            let conv = Conv { inputs: 4, outputs: 4, kernel, stride, padding, groups: 4, bias: false };
            let of =
                |shape: &[i64]| Tensor::randn(shape, (Kind::Double, Device::Cpu)).set_requires_grad(true);
            let (x, weight) = (of(&[2, 4, size[0], size[1]]), of(&[4, 1, kernel as i64, kernel as i64]));
            let computed = |is_training: bool| {
                let tensors = [weight.shallow_clone()];
                let y = convolution(x.shallow_clone(), &conv, &tensors, Kind::Double, is_training).unwrap();
                let loss = y.square().sum(None::<Kind>);
                let mut computed = Tensor::run_backward(&[loss], &[&x, &weight], false, false);
                computed.push(y);
                computed
            };
            for (found, expected) in computed(true).iter().zip(&computed(false)) {
                assert!(found.size() == expected.size() && difference(found, expected) < 1e-12, "{size:?}");
            }
        }
    }

    #[test]
    fn a_depthwise_convolution_is_the_sum_of_its_parts() {
        for (kernel, stride, padding) in
            [(5, 1, [2; 4]), (3, 2, [0, 1, 0, 1]), (5, 2, [1, 2, 1, 2]), (7, 1, [3; 4]), (4, 3, [0; 4])]
        {
            let of =
                |shape: &[i64]| Tensor::randn(shape, (Kind::Double, Device::Cpu)).set_requires_grad(true);
            let (x, weight, bias) = (of(&[2, 4, 9, 8]), of(&[4, 1, kernel, kernel]), of(&[4]));
            let gradients = |y: Tensor| {
                let loss = y.square().sum(None::<Kind>);
                let mut computed = Tensor::run_backward(&[loss], &[&x, &weight, &bias], false, false);
                computed.push(y);
                computed
            };
            let padded = x.constant_pad_nd(padding);
            let whole = padded.conv2d(&weight, Some(&bias), stride, 0, 1, 4);
            let parts = depthwise(&x, &weight, Some(&bias), stride, padding).unwrap();
            for (found, expected) in gradients(parts).iter().zip(&gradients(whole)) {
                assert_eq!(found.size(), expected.size());
                assert!(difference(found, expected) < 1e-12, "{kernel} {stride} {padding:?}");
            }
        }
    }

    #[test]
    fn random_weights_have_the_stated_standard_deviations() {
        tch::manual_seed(1);
        let layers = wide_resnet_40_2();
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
