//! Adam and stochastic gradient descent with a state that can be saved; those of tch keep it to themselves.

use tch::{TchError, Tensor, nn};

use super::{
    net::{copy, floats},
    torch,
};
use crate::{
    error::Result,
    recipe::{self, Pace},
    weights::Weights,
};

/// Adam's share of the past in the second moment, and what is added to the divisor (PyTorch's defaults).
const BETA: f64 = 0.999;
const EPSILON: f64 = 1e-8;

/// The names of the moments and of the number of steps in a file.
const ORDERS: [&str; 2] = ["first", "second"];
const STEPS: &str = "optimizer.steps";

/// The optimiser of the parameters of a network.
pub(super) struct Optimizer {
    parameters: Vec<Parameter>,
    weight_decay: f64,
    /// Steps done.
    steps: i32,
}

struct Parameter {
    name: String,
    value: Tensor,
    shape: Vec<usize>,
    /// The moving average of the gradient and, for Adam, of its square; for SGD the velocity.
    moments: Vec<Tensor>,
}

impl Optimizer {
    /// Begins with the trainable parameters of a store.
    pub fn new(
        store: &nn::VarStore,
        algorithm: recipe::Optimizer,
        weight_decay: f64,
    ) -> std::result::Result<Self, TchError> {
        let count = match algorithm {
            recipe::Optimizer::Adam => 2,
            recipe::Optimizer::Sgd => 1,
        };
        let mut parameters = store
            .variables()
            .into_iter()
            .filter(|(_, value)| value.requires_grad())
            .map(|(name, value)| {
                let moments = (0..count)
                    .map(|_| value.f_detach()?.f_zeros_like())
                    .collect::<std::result::Result<_, TchError>>()?;
                let shape = value.size().iter().map(|&length| length as usize).collect();
                Ok(Parameter { name, value, shape, moments })
            })
            .collect::<std::result::Result<Vec<_>, TchError>>()?;
        parameters.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(Self { parameters, weight_decay, steps: 0 })
    }

    /// Moves the parameters along the gradients of a loss.
    pub fn step(&mut self, loss: &Tensor, pace: Pace) -> std::result::Result<(), TchError> {
        for parameter in &mut self.parameters {
            parameter.value.zero_grad();
        }
        loss.f_backward()?;
        self.steps += 1;
        let corrections = (1.0 - pace.momentum.powi(self.steps), 1.0 - BETA.powi(self.steps));
        tch::no_grad(|| {
            for Parameter { value, shape, moments, .. } in &mut self.parameters {
                let gradient = value.f_grad()?;
                // Scales, shifts and biases are left alone.
                if self.weight_decay > 0.0 && shape.len() > 1 {
                    let _ = value.f_mul_scalar_(1.0 - pace.rate * self.weight_decay)?;
                }
                match &mut moments[..] {
                    [first, second] => {
                        let _ = first.f_lerp_(&gradient, 1.0 - pace.momentum)?;
                        let square = gradient.f_square()?.f_mul_scalar_(1.0 - BETA)?;
                        let _ = second.f_mul_scalar_(BETA)?.f_add_(&square)?;
                        let divisor =
                            second.f_sqrt()?.f_div_scalar_(corrections.1.sqrt())?.f_add_scalar_(EPSILON)?;
                        let step = first.f_mul_scalar(-pace.rate / corrections.0)?;
                        let _ = value.f_addcdiv_(&step, &divisor)?;
                    }
                    [velocity] => {
                        let _ = velocity.f_mul_scalar_(pace.momentum)?.f_add_(&gradient)?;
                        let ahead = velocity.f_mul_scalar(pace.momentum)?.f_add_(&gradient)?;
                        let _ = value.f_sub_(&ahead.f_mul_scalar(pace.rate)?)?;
                    }
                    _ => unreachable!("one moment or two"),
                }
            }
            Ok(())
        })
    }

    /// Copies the state into a file's tensors.
    pub fn save(&self, weights: &mut Weights) -> std::result::Result<(), TchError> {
        for Parameter { name, shape, moments, .. } in &self.parameters {
            for (moment, order) in moments.iter().zip(ORDERS) {
                weights.insert(&format!("optimizer.{order}.{name}"), shape, floats(moment)?);
            }
        }
        weights.insert(STEPS, &[], vec![self.steps as f32]);
        Ok(())
    }

    /// Goes on from a saved state.
    ///
    /// # Errors
    /// [`Error::Weights`](crate::Error::Weights) naming a tensor that is missing or has another shape.
    pub fn load(&mut self, weights: &Weights) -> Result<()> {
        for Parameter { name, shape, moments, .. } in &mut self.parameters {
            for (moment, order) in moments.iter_mut().zip(ORDERS) {
                let values = weights.values(&format!("optimizer.{order}.{name}"), shape)?;
                copy(values, moment).map_err(torch)?;
            }
        }
        self.steps = weights.values(STEPS, &[])?[0] as i32;
        Ok(())
    }
}
