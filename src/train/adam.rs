//! Adam (Kingma and Ba, arXiv 1412.6980) with a state that can be saved; tch's own keeps it to itself.

use tch::{TchError, Tensor, nn};

use super::{
    net::{copy, floats},
    torch,
};
use crate::{error::Result, weights::Weights};

/// The shares of the past in both moments, and what is added to the divisor (PyTorch's defaults).
const BETAS: (f64, f64) = (0.9, 0.999);
const EPSILON: f64 = 1e-8;

/// The names of the moments and of the number of steps in a file.
const ORDERS: [&str; 2] = ["first", "second"];
const STEPS: &str = "adam.steps";

/// The optimiser of the parameters of a network.
pub(super) struct Adam {
    parameters: Vec<Parameter>,
    /// Steps done.
    steps: i32,
}

struct Parameter {
    name: String,
    value: Tensor,
    /// The moving averages of the gradient and of its square.
    moments: [Tensor; 2],
}

impl Adam {
    /// Begins with the trainable parameters of a store.
    pub fn new(store: &nn::VarStore) -> std::result::Result<Self, TchError> {
        let mut parameters = store
            .variables()
            .into_iter()
            .filter(|(_, value)| value.requires_grad())
            .map(|(name, value)| {
                let moments = [value.f_detach()?.f_zeros_like()?, value.f_detach()?.f_zeros_like()?];
                Ok(Parameter { name, value, moments })
            })
            .collect::<std::result::Result<Vec<_>, TchError>>()?;
        parameters.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(Self { parameters, steps: 0 })
    }

    /// Moves the parameters along the gradients of a loss.
    pub fn step(&mut self, loss: &Tensor, learning_rate: f64) -> std::result::Result<(), TchError> {
        for parameter in &mut self.parameters {
            parameter.value.zero_grad();
        }
        loss.f_backward()?;
        self.steps += 1;
        let corrections = (1.0 - BETAS.0.powi(self.steps), 1.0 - BETAS.1.powi(self.steps));
        tch::no_grad(|| {
            for Parameter { value, moments: [first, second], .. } in &mut self.parameters {
                let gradient = value.f_grad()?;
                let _ = first.f_lerp_(&gradient, 1.0 - BETAS.0)?;
                let square = gradient.f_square()?.f_mul_scalar_(1.0 - BETAS.1)?;
                let _ = second.f_mul_scalar_(BETAS.1)?.f_add_(&square)?;
                let divisor = second.f_sqrt()?.f_div_scalar_(corrections.1.sqrt())?.f_add_scalar_(EPSILON)?;
                let step = first.f_mul_scalar(-learning_rate / corrections.0)?;
                let _ = value.f_addcdiv_(&step, &divisor)?;
            }
            Ok(())
        })
    }
}

impl Adam {
    /// Copies the state into a file's tensors.
    pub fn save(&self, weights: &mut Weights) -> std::result::Result<(), TchError> {
        for Parameter { name, moments, .. } in &self.parameters {
            for (moment, order) in moments.iter().zip(ORDERS) {
                let shape: Vec<usize> = moment.size().iter().map(|&length| length as usize).collect();
                weights.insert(&format!("adam.{order}.{name}"), &shape, floats(moment)?);
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
        for Parameter { name, moments, .. } in &mut self.parameters {
            for (moment, order) in moments.iter_mut().zip(ORDERS) {
                let shape: Vec<usize> = moment.size().iter().map(|&length| length as usize).collect();
                let values = weights.values(&format!("adam.{order}.{name}"), &shape)?;
                copy(values, moment).map_err(torch)?;
            }
        }
        self.steps = weights.values(STEPS, &[])?[0] as i32;
        Ok(())
    }
}
