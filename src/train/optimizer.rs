//! Adam and stochastic gradient descent with a state that can be saved; tch does not expose the state of its
//! own.

use tch::{TchError, Tensor, nn};

use super::{
    network::{copy, floats},
    torch,
};
use crate::{
    error::Result,
    run::{self, ScheduledRates},
    weights::Weights,
};

/// Adam's beta2 and epsilon (PyTorch's defaults).
const BETA: f64 = 0.999;
const EPSILON: f64 = 1e-8;

/// Names of the moments and of the number of steps in a state.
const ORDERS: [&str; 2] = ["first", "second"];
const STEPS: &str = "optimizer.steps";

/// The optimizer of a network's parameters.
pub(super) struct Optimizer {
    parameters: Vec<Parameter>,
    weight_decay: f64,
    /// Number of finished steps.
    steps: i32,
}

struct Parameter {
    name: String,
    value: Tensor,
    shape: Vec<usize>,
    /// Adam: the moving averages of the gradient and of its square. SGD: the velocity.
    moments: Vec<Tensor>,
}

impl Optimizer {
    /// Creates an optimizer of the trainable parameters of a store.
    pub fn new(
        store: &nn::VarStore,
        algorithm: run::Optimizer,
        weight_decay: f64,
    ) -> std::result::Result<Self, TchError> {
        let count = match algorithm {
            run::Optimizer::Adam => 2,
            run::Optimizer::Sgd => 1,
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

    /// Computes the gradients of a loss and updates the parameters.
    pub fn step(&mut self, loss: &Tensor, rates: ScheduledRates) -> std::result::Result<(), TchError> {
        for parameter in &mut self.parameters {
            parameter.value.zero_grad();
        }
        loss.f_backward()?;
        self.steps += 1;
        let corrections = (1.0 - rates.momentum.powi(self.steps), 1.0 - BETA.powi(self.steps));
        tch::no_grad(|| {
            for Parameter { value, shape, moments, .. } in &mut self.parameters {
                let gradient = value.f_grad()?;
                // No weight decay on scales, shifts and biases.
                if self.weight_decay > 0.0 && shape.len() > 1 {
                    let _ = value.f_mul_scalar_(1.0 - rates.learning_rate * self.weight_decay)?;
                }
                match &mut moments[..] {
                    [first, second] => {
                        let _ = first.f_lerp_(&gradient, 1.0 - rates.momentum)?;
                        let square = gradient.f_square()?.f_mul_scalar_(1.0 - BETA)?;
                        let _ = second.f_mul_scalar_(BETA)?.f_add_(&square)?;
                        let divisor =
                            second.f_sqrt()?.f_div_scalar_(corrections.1.sqrt())?.f_add_scalar_(EPSILON)?;
                        let step = first.f_mul_scalar(-rates.learning_rate / corrections.0)?;
                        let _ = value.f_addcdiv_(&step, &divisor)?;
                    }
                    [velocity] => {
                        let _ = velocity.f_mul_scalar_(rates.momentum)?.f_add_(&gradient)?;
                        let ahead = velocity.f_mul_scalar(rates.momentum)?.f_add_(&gradient)?;
                        let _ = value.f_sub_(&ahead.f_mul_scalar(rates.learning_rate)?)?;
                    }
                    _ => unreachable!("one moment or two"),
                }
            }
            Ok(())
        })
    }

    /// Copies the optimizer state into the tensors of a file.
    pub fn save(&self, weights: &mut Weights) -> std::result::Result<(), TchError> {
        for Parameter { name, shape, moments, .. } in &self.parameters {
            for (moment, order) in moments.iter().zip(ORDERS) {
                weights.insert(&format!("optimizer.{order}.{name}"), shape, floats(moment)?);
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
