//! Adam, stochastic gradient descent and Muon with a state that can be saved; tch does not expose the state
//! of its own.

use std::collections::BTreeMap;

use tch::{Kind, TchError, Tensor};

use super::{
    network::{Network, Parameter as NetworkParameter, Part, concatenated, copy, floats, padded},
    torch,
};
use crate::{
    error::Result,
    method::Variant,
    run::{self, Recipe, ScheduledRates, orthogonal_share},
    weights::Weights,
};

/// Adam's beta2 and epsilon (PyTorch's defaults).
const BETA: f64 = 0.999;
const EPSILON: f64 = 1e-8;

/// The singular values of a step orthogonalised by Muon, as a share of the learning rate for the paper's
/// loss.
const MUON_SHARE: f64 = 0.2;

/// The name of the number of steps in a state.
const STEPS: &str = "optimizer.steps";

/// The optimizer of a network's parameters. Gradients and moments are one tensor each, like the parameters,
/// so a step takes a dozen kernels.
pub(super) struct Optimizer {
    parameters: Vec<Parameter>,
    groups: Vec<Group>,
    moments: Moments,
    weight_decay: f64,
    /// Number of finished steps.
    steps: i32,
}

/// What an optimizer remembers of the gradients.
enum Moments {
    /// The moving averages of the gradient and of its square, for Adam.
    Averages { first: Tensor, second: Tensor },
    /// The velocity, for SGD and Muon.
    Velocity(Tensor),
}

/// Parameters with the same learning rate, as views.
struct Group {
    /// Their share of the learning rate.
    share: f64,
    /// Their index among all trained parameters.
    start: i64,
    values: Tensor,
    /// Parameters of several dimensions: the weights of convolutions and the last layer.
    decayed: Tensor,
    moments: Moments,
    /// Parameters with orthogonalised steps.
    orthogonal: Vec<Matrices>,
}

/// Matrices of one shape.
struct Matrices {
    /// The singular values of their steps, as a share of the learning rate.
    length: f64,
    /// The type in which they are orthogonalised.
    kind: Kind,
    rows: i64,
    columns: i64,
    /// The index of the first value of each.
    starts: Vec<i64>,
}

struct Parameter {
    name: String,
    shape: Vec<usize>,
    tensor: Tensor,
}

impl Group {
    /// Updates the parameters in step number `steps`, from the gradient of all trained parameters.
    fn step(
        &mut self,
        gradient: &Tensor,
        rates: ScheduledRates,
        weight_decay: f64,
        steps: i32,
    ) -> Result<(), TchError> {
        let gradient = gradient.f_narrow(0, self.start, self.values.size()[0])?;
        let learning_rate = self.share * rates.learning_rate;
        if weight_decay > 0.0 {
            let _ = self.decayed.f_mul_scalar_(1.0 - learning_rate * weight_decay)?;
        }
        match &mut self.moments {
            Moments::Averages { first, second } => {
                let corrections = (1.0 - rates.momentum.powi(steps), 1.0 - BETA.powi(steps));
                let _ = first.f_lerp_(&gradient, 1.0 - rates.momentum)?;
                let square = gradient.f_square()?.f_mul_scalar_(1.0 - BETA)?;
                let _ = second.f_mul_scalar_(BETA)?.f_add_(&square)?;
                let divisor = second.f_sqrt()?.f_div_scalar_(corrections.1.sqrt())?.f_add_scalar_(EPSILON)?;
                let step = first.f_mul_scalar(-learning_rate / corrections.0)?;
                let _ = self.values.f_addcdiv_(&step, &divisor)?;
            }
            Moments::Velocity(velocity) => {
                let _ = velocity.f_mul_scalar_(rates.momentum)?.f_add_(&gradient)?;
                let ahead = velocity.f_mul_scalar(rates.momentum)?.f_add_(&gradient)?;
                self.orthogonal.iter().try_for_each(|matrices| matrices.orthogonalize(&ahead))?;
                let _ = self.values.f_sub_(&ahead.f_mul_scalar(learning_rate)?)?;
            }
        }
        Ok(())
    }
}

impl Moments {
    /// Each with its name in a state.
    fn named(&self) -> impl Iterator<Item = (&'static str, &Tensor)> {
        let (first, second) = match self {
            Self::Averages { first, second } => (first, Some(second)),
            Self::Velocity(velocity) => (velocity, None),
        };
        [("first", first)].into_iter().chain(second.map(|second| ("second", second)))
    }

    /// A view of those of some parameters.
    fn narrow(&self, start: i64, length: i64) -> Result<Self, TchError> {
        Ok(match self {
            Self::Averages { first, second } => Self::Averages {
                first: first.f_narrow(0, start, length)?,
                second: second.f_narrow(0, start, length)?,
            },
            Self::Velocity(velocity) => Self::Velocity(velocity.f_narrow(0, start, length)?),
        })
    }
}

impl Matrices {
    /// The convolutions of a network, with their indices among all of its parameters. Depthwise ones are left
    /// out: each of their channels has a step of its own.
    fn hidden(parameters: &[NetworkParameter], share: f64, kind: Kind) -> Vec<Self> {
        let mut by_shape = BTreeMap::<_, Vec<i64>>::new();
        let mut start = 0;
        for parameter in parameters {
            let length = parameter.tensor.numel();
            if let (Part::BackboneMatrices, &[rows, depth, ..]) = (parameter.part, &parameter.shape[..])
                && depth > 1
            {
                by_shape.entry((rows as i64, (length / rows) as i64)).or_default().push(start);
            }
            start += padded(length) as i64;
        }
        let of_shape = |((rows, columns), starts): ((i64, i64), _)| {
            // As in Muon, matrices with more rows than columns take longer steps.
            let length = share * (rows as f64 / columns as f64).max(1.0).sqrt();
            Self { length, kind, rows, columns, starts }
        };
        by_shape.into_iter().map(of_shape).collect()
    }

    /// The matrices in a range of all parameters, with their indices in it, if any.
    fn within(&self, start: i64, end: i64) -> Option<Self> {
        let starts: Vec<i64> = self
            .starts
            .iter()
            .filter(|index| (start..end).contains(index))
            .map(|index| index - start)
            .collect();
        (!starts.is_empty()).then_some(Self { starts, ..*self })
    }

    /// Orthogonalises the matrices of a step, all to the same length.
    fn orthogonalize(&self, step: &Tensor) -> Result<(), TchError> {
        let matrices = self
            .starts
            .iter()
            .map(|&start| {
                step.f_narrow(0, start, self.rows * self.columns)?.f_view([self.rows, self.columns])
            })
            .collect::<Result<Vec<_>, _>>()?;
        let orthogonal =
            orthogonal(&Tensor::f_stack(&matrices, 0)?, self.kind)?.f_mul_scalar_(self.length)?;
        for (mut matrix, orthogonal) in matrices.into_iter().zip(orthogonal.f_unbind(0)?) {
            matrix.f_copy_(&orthogonal)?;
        }
        Ok(())
    }
}

/// Matrices `[N, rows, columns]` with nearly orthogonal rows or columns, whichever are fewer: their singular
/// vectors stay, their singular values end up between 0.7 and 1.2. Five steps of Muon's Newton-Schulz
/// iteration (Jordan et al., 2024), in the type `kind`: bf16 suffices.
fn orthogonal(matrices: &Tensor, kind: Kind) -> Result<Tensor, TchError> {
    const A: f64 = 3.4445;
    const B: f64 = -4.7750;
    const C: f64 = 2.0315;
    let is_tall = matrices.size()[1] > matrices.size()[2];
    let wide = if is_tall { matrices.f_transpose(1, 2)? } else { matrices.shallow_clone() };
    let norm = wide.f_norm_scalaropt_dim(2.0, [1, 2], true)?;
    let mut x = wide.f_div(&norm.f_add_scalar(1e-7)?)?.f_to_kind(kind)?;
    for _ in 0..5 {
        let gram = x.f_bmm(&x.f_transpose(1, 2)?)?;
        let polynomial = gram.f_baddbmm(&gram, &gram, B, C)?;
        x = x.f_baddbmm(&polynomial, &x, A, 1.0)?;
    }
    let x = x.f_to_kind(matrices.kind())?;
    if is_tall { x.f_transpose(1, 2) } else { Ok(x) }
}

impl Optimizer {
    /// Creates an optimizer of a network's parameters. All but those of its last layer take a share of the
    /// learning rate, `backbone_rate`, and are left out if that is 0.
    pub fn new(network: &Network, recipe: &Recipe, variant: Variant) -> Result<Self, TchError> {
        let Recipe { optimizer, weight_decay, backbone_rate, .. } = *recipe;
        let all = network.parameters();
        let length = |is_meant: &dyn Fn(&NetworkParameter) -> bool| -> i64 {
            let meant = all.iter().filter(|parameter| is_meant(parameter));
            meant.map(|parameter| padded(parameter.tensor.numel()) as i64).sum()
        };
        let backbone = length(&|parameter| !parameter.part.is_last());
        let last = length(&|parameter| parameter.part.is_last());
        // The matrices of the backbone and those of the last layer are adjacent.
        let matrices_start = length(&|parameter| !parameter.part.is_last() && !parameter.part.is_matrices());
        let matrices_end = matrices_start + length(&|parameter| parameter.part.is_matrices());
        let ranges = match backbone_rate {
            0.0 => vec![(1.0, backbone, backbone + last)],
            1.0 => vec![(1.0, 0, backbone + last)],
            share => vec![(share, 0, backbone), (1.0, backbone, backbone + last)],
        };
        let first = ranges[0].1;
        let view = |start: i64, end: i64| network.values().f_narrow(0, start, end - start);
        let zeros = || view(first, backbone + last)?.f_zeros_like();
        let moments = match optimizer {
            run::Optimizer::Adam => Moments::Averages { first: zeros()?, second: zeros()? },
            run::Optimizer::Sgd | run::Optimizer::Muon => Moments::Velocity(zeros()?),
        };
        let hidden = match optimizer {
            run::Optimizer::Muon => {
                let share = MUON_SHARE * orthogonal_share(variant);
                Matrices::hidden(&all, share, network.training_kind)
            }
            run::Optimizer::Adam | run::Optimizer::Sgd => Vec::new(),
        };
        let groups = ranges
            .into_iter()
            .map(|(share, start, end)| {
                Ok(Group {
                    share,
                    start: start - first,
                    values: view(start, end)?,
                    decayed: view(matrices_start.max(start), matrices_end.min(end))?,
                    moments: moments.narrow(start - first, end - start)?,
                    orthogonal: hidden.iter().filter_map(|matrices| matrices.within(start, end)).collect(),
                })
            })
            .collect::<Result<_, TchError>>()?;
        let parameters = all
            .into_iter()
            .filter(|parameter| backbone_rate > 0.0 || parameter.part.is_last())
            .map(|NetworkParameter { name, shape, tensor, .. }| Parameter {
                name,
                shape,
                tensor: tensor.shallow_clone(),
            })
            .collect();
        Ok(Self { parameters, groups, moments, weight_decay, steps: 0 })
    }

    /// Computes the gradients of a loss and updates the parameters.
    pub fn step(&mut self, loss: &Tensor, rates: ScheduledRates) -> Result<(), TchError> {
        let tensors: Vec<&Tensor> = self.parameters.iter().map(|parameter| &parameter.tensor).collect();
        let gradient = concatenated(&Tensor::f_run_backward(&[loss], &tensors, false, false)?)?;
        self.steps += 1;
        self.groups
            .iter_mut()
            .try_for_each(|group| group.step(&gradient, rates, self.weight_decay, self.steps))
    }

    /// The part of each parameter in a moment, with the parameter's name and shape.
    fn parts<'a>(
        &'a self,
        moment: &'a Tensor,
    ) -> impl Iterator<Item = Result<(&'a str, &'a [usize], Tensor), TchError>> {
        let mut start = 0;
        self.parameters.iter().map(move |parameter| {
            let length = parameter.tensor.numel();
            let part = moment.f_narrow(0, start as i64, length as i64)?;
            start += padded(length);
            Ok((&*parameter.name, &*parameter.shape, part))
        })
    }

    /// Copies the optimizer state into the tensors of a file.
    pub fn save(&self, weights: &mut Weights) -> Result<(), TchError> {
        for (which, moment) in self.moments.named() {
            for part in self.parts(moment) {
                let (name, shape, part) = part?;
                weights.insert(&format!("optimizer.{which}.{name}"), shape, floats(&part)?);
            }
        }
        weights.insert(STEPS, &[], vec![self.steps as f32]);
        Ok(())
    }

    /// Restores a saved state.
    ///
    /// # Errors
    /// [`Error::Weights`](crate::Error::Weights) naming a tensor that is missing or has another shape.
    pub fn load(&mut self, weights: &Weights) -> Result<()> {
        for (which, moment) in self.moments.named() {
            for part in self.parts(moment) {
                let (name, shape, mut part) = part.map_err(torch)?;
                let values = weights.values(&format!("optimizer.{which}.{name}"), shape)?;
                copy(values, &mut part).map_err(torch)?;
            }
        }
        self.steps = weights.values(STEPS, &[])?[0] as i32;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    /// The values of two parameters, 1 and 2 before, after one step and after another. The first one decays.
    fn after_steps(moments: fn(&Tensor) -> Moments) -> [[f64; 2]; 2] {
        let values = Tensor::from_slice(&[1.0, 2.0]);
        let mut group = Group {
            share: 1.0,
            start: 0,
            decayed: values.narrow(0, 0, 1),
            moments: moments(&values),
            values,
            orthogonal: Vec::new(),
        };
        let rates = ScheduledRates { learning_rate: 0.1, momentum: 0.9 };
        let mut step = 0;
        [[0.5, -1.0], [1.0, 1.0]].map(|gradient| {
            step += 1;
            group.step(&Tensor::from_slice(&gradient), rates, 0.5, step).unwrap();
            let values = Vec::<f64>::try_from(&group.values).unwrap();
            [values[0], values[1]]
        })
    }

    #[test]
    fn steps_follow_their_formulas() {
        // Worked out by hand: SGD with Nesterov's momentum, and AdamW.
        let velocity: fn(&Tensor) -> Moments = |values| Moments::Velocity(values.zeros_like());
        let averages: fn(&Tensor) -> Moments =
            |values| Moments::Averages { first: values.zeros_like(), second: values.zeros_like() };
        for (moments, expected) in [
            (velocity, [[0.855, 2.19], [0.58175, 2.081]]),
            (averages, [[0.850_000_002, 2.099_999_999], [0.710_981_800_5, 2.094_736_841_1]]),
        ] {
            for (found, expected) in after_steps(moments).iter().flatten().zip(expected.iter().flatten()) {
                assert!((found - expected).abs() < 1e-9, "{found}, expected {expected}");
            }
        }
    }

    #[test]
    fn orthogonal_matrices_keep_their_singular_vectors() {
        tch::manual_seed(1);
        for (kind, tolerance) in [(Kind::Double, 1e-8), (Kind::BFloat16, 0.2)] {
            for shape in [[2, 8, 24], [2, 24, 8], [1, 5, 5]] {
                let matrices = Tensor::randn(shape, (Kind::Double, Device::Cpu));
                let found = orthogonal(&matrices, kind).unwrap();
                assert_eq!((found.size(), found.kind()), (shape.to_vec(), Kind::Double));
                let (_, singular_values, _) = found.svd(true, false);
                let singular_values = Vec::<f64>::try_from(singular_values.flatten(0, -1)).unwrap();
                assert!(
                    singular_values.iter().all(|value| (0.65..1.25).contains(value)),
                    "{singular_values:?}"
                );
                // U S Vᵀ and U S' Vᵀ: the product V S S' Vᵀ is symmetric.
                let product = matrices.transpose(1, 2).matmul(&found);
                let difference = (&product - product.transpose(1, 2)).abs().max().double_value(&[]);
                assert!(difference < tolerance, "{kind:?} {shape:?}: {difference}");
            }
        }
    }
}
