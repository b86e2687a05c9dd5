//! The loss on libtorch; [`Loss::value`] is its reference implementation.

use tch::{Kind, Reduction, TchError, Tensor};

use crate::{
    method::{Loss, Variant},
    run::Recipe,
};

/// Decay of the moving average of the loss, as in pytorch-ood's tutorial.
const MEMORY: f64 = 0.99;

/// The loss of a step, a scalar, for the logits `[N, C]` of known images and after them outliers, and the
/// labels of the former.
pub(super) fn of_step(
    loss: &Loss,
    recipe: &Recipe,
    logits: &Tensor,
    labels: &Tensor,
) -> Result<Tensor, TchError> {
    let (known, all) = (labels.size()[0], logits.size()[0]);
    let losses = losses(loss, &logits.f_narrow(0, 0, known)?, labels)?;
    let mean = trimmed_mean(&losses, recipe.trimmed_of(known as usize))?;
    if all == known {
        return Ok(mean);
    }
    let outliers = outlier_loss(loss, &logits.f_narrow(0, known, all - known)?)?;
    mean.f_add(&outliers.f_mul_scalar(recipe.outlier_weight)?)
}

/// The moving average of losses after another one.
pub(super) fn smoothed(past: Option<&Tensor>, loss: &Tensor) -> Result<Tensor, TchError> {
    let loss = loss.f_detach()?;
    past.map_or_else(|| Ok(loss.shallow_clone()), |past| past.f_lerp(&loss, 1.0 - MEMORY))
}

/// The loss of each row of logits `[N, C]` for labels `[N]` (int64, 0..C), with fixed anchors: `[N]`.
pub(super) fn losses(loss: &Loss, logits: &Tensor, labels: &Tensor) -> Result<Tensor, TchError> {
    let classes = logits.size()[1];
    let distances = match loss.variant {
        Variant::CrossEntropy => {
            return logits.f_cross_entropy_loss(labels, None::<&Tensor>, Reduction::None, -100, 0.0);
        }
        Variant::Paper => distances(logits, loss.magnitude)?,
        // The order of operations is pytorch-ood's, for the same rounding.
        Variant::PytorchOod => {
            let norms = logits.f_square()?.f_sum_dim_intlist(1, true, None::<Kind>)?;
            let products = logits.f_mul_scalar(loss.magnitude)?;
            let anchor_norm = loss.magnitude * loss.magnitude;
            norms.f_add_scalar(anchor_norm)?.f_sub(&products.f_mul_scalar(2.0)?)?.f_clamp_min(0.0)?
        }
    };
    let own = distances.f_gather(1, &labels.f_unsqueeze(1)?, false)?;
    let tuplet = match loss.variant {
        Variant::PytorchOod => own
            .f_sub(&distances.f_narrow(1, 0, classes - 1)?)?
            .f_clamp_max(50.0)?
            .f_exp()?
            .f_sum_dim_intlist(1, false, None::<Kind>)?
            .f_add_scalar(1.0)?
            .f_log()?,
        // The true class contributes exp(0), the 1 in log(1 + ...).
        _ => own.f_sub(&distances)?.f_logsumexp(1, false)?,
    };
    tuplet.f_add(&own.f_squeeze_dim(1)?.f_mul_scalar(loss.weight)?)
}

/// The mean of losses `[N]` without the `trimmed` largest.
fn trimmed_mean(losses: &Tensor, trimmed: usize) -> Result<Tensor, TchError> {
    match trimmed as i64 {
        0 => losses.f_mean(None::<Kind>),
        trimmed => losses.f_topk(losses.size()[0] - trimmed, 0, false, false)?.0.f_mean(None::<Kind>),
    }
}

/// The mean loss of the logits `[N, C]` of unknown images, a scalar. CAC: relu(magnitude - distance), summed
/// over the anchors, which is 0 at the origin. Cross-entropy: the cross-entropy to the uniform distribution
/// (Hendrycks et al., arXiv 1812.04606).
fn outlier_loss(loss: &Loss, logits: &Tensor) -> Result<Tensor, TchError> {
    let losses = match loss.variant {
        Variant::CrossEntropy => {
            logits.f_logsumexp(1, false)?.f_sub(&logits.f_mean_dim(1, false, None::<Kind>)?)?
        }
        _ => {
            let missing =
                distances(logits, loss.magnitude)?.f_neg()?.f_add_scalar(loss.magnitude)?.f_relu()?;
            missing.f_sum_dim_intlist(1, false, None::<Kind>)?
        }
    };
    losses.f_mean(None::<Kind>)
}

/// Euclidean distances `[N, C]` of logits `[N, C]` to fixed anchors, in O(N C): the squared distance is the
/// sum of z² without z_c², plus (z_c - m)².
fn distances(logits: &Tensor, magnitude: f64) -> Result<Tensor, TchError> {
    // Near an anchor the subtraction cancels; double precision leaves enough digits.
    let z = logits.f_to_kind(Kind::Double)?;
    let squares = z.f_square()?;
    let others = squares.f_sum_dim_intlist(1, true, None::<Kind>)?.f_sub(&squares)?;
    let squared = others.f_add(&z.f_sub_scalar(magnitude)?.f_square()?)?;
    // The gradient of a square root at 0 is not finite; the clamp makes it 0.
    squared.f_clamp_min(1e-12)?.f_sqrt()?.f_to_kind(logits.kind())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::method::Anchors;
    use ndarray::Array2;
    use std::path::Path;
    use tch::Device;

    fn on_both(settings: Loss, logits: &Array2<f32>, labels: &[i64]) -> (f64, f64, Tensor) {
        let tensor = |array: &Array2<f32>| {
            Tensor::from_slice(array.as_slice().unwrap()).view([array.nrows() as i64, array.ncols() as i64])
        };
        let z = tensor(logits).set_requires_grad(true);
        let losses = losses(&settings, &z, &Tensor::from_slice(labels)).unwrap();
        let value = losses.mean(None::<Kind>);
        value.backward();
        let reference = settings.value(logits.mapv(f64::from).view(), labels);
        (value.to_device(Device::Cpu).double_value(&[]), reference, z.grad())
    }

    #[test]
    fn losses_agree_with_the_reference() {
        let logits = Array2::from_shape_fn((7, 4), |(n, c)| ((n * 31 + c * 17) % 13) as f32 - 5.0);
        for variant in [Variant::Paper, Variant::PytorchOod, Variant::CrossEntropy] {
            let (value, reference, _) = on_both(Loss::new(variant), &logits, &[0, 1, 2, 3, 0, 1, 2]);
            assert!((value - reference).abs() < 1e-5 * reference.abs(), "{variant:?}: {value} {reference}");
        }
    }

    #[test]
    fn values_and_gradients_match_pytorch() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/method.safetensors");
        let tensors = Tensor::read_safetensors(path).unwrap();
        let tensor = |name: String| {
            &tensors.iter().find(|(other, _)| *other == name).unwrap_or_else(|| panic!("{name}")).1
        };
        for classes in [2, 5] {
            let labels = tensor(format!("c{classes}.labels"));
            // The training loop calls the loss with known images only.
            let known = labels.ge(0).nonzero().squeeze_dim(1);
            let labels = labels.index_select(0, &known);
            for (variant, name) in [(Variant::Paper, "paper"), (Variant::PytorchOod, "pytorch_ood")] {
                let settings = Loss::new(variant);
                let golden = |what: &str| tensor(format!("c{classes}.{name}.{what}"));
                let logits =
                    tensor(format!("c{classes}.logits")).index_select(0, &known).set_requires_grad(true);
                let value = losses(&settings, &logits, &labels).unwrap().mean(None::<Kind>);
                value.backward();
                let relative = |found: &Tensor, expected: &Tensor| {
                    ((found - expected).abs() / expected.abs().clamp_min(1.0)).max().double_value(&[])
                };
                let difference = relative(&value, golden("loss"));
                assert!(difference < 1e-6, "c{classes} {name}: {difference}");
                let difference = relative(&logits.grad(), &golden("gradient").index_select(0, &known));
                assert!(difference < 1e-6, "gradient, c{classes} {name}: {difference}");
            }
        }
    }

    #[test]
    fn gradients_are_finite_on_an_anchor_and_far_away() {
        for variant in [Variant::Paper, Variant::PytorchOod, Variant::CrossEntropy] {
            let settings = Loss::new(variant);
            let anchors = Anchors::fixed(3, settings.magnitude).to_rows();
            for (logits, label) in [(anchors.clone(), 0), (anchors.clone(), 1), (anchors * 1e4, 2)] {
                let (value, _, gradient) = on_both(settings, &logits, &[label; 3]);
                let finite = gradient.isfinite().all().int64_value(&[]) == 1;
                assert!(value.is_finite() && finite, "{variant:?}, label {label}");
            }
        }
    }

    #[test]
    fn the_largest_losses_are_trimmed() {
        let losses = Tensor::from_slice(&[3.0, 1.0, 9.0, 2.0]).set_requires_grad(true);
        assert_eq!(trimmed_mean(&losses, 0).unwrap().double_value(&[]), 3.75);
        let mean = trimmed_mean(&losses, 1).unwrap();
        mean.backward();
        assert_eq!(mean.double_value(&[]), 2.0);
        assert_eq!(Vec::<f64>::try_from(losses.grad() * 3.0).unwrap(), [1.0, 1.0, 0.0, 1.0]);
    }

    #[test]
    fn outliers_count_by_their_weight() {
        let loss = Loss::new(Variant::CrossEntropy);
        // Both known images have a loss of ln(1 + e^-2), the outlier the mean of ln(1 + e^2) and ln(1 + e^-2).
        let logits = Tensor::from_slice(&[2.0, 0.0, 0.0, 2.0, 2.0, 0.0]).view([3, 2]);
        let labels = Tensor::from_slice(&[0_i64, 1]);
        let value = |weight| {
            let recipe = Recipe { outlier_weight: weight, trim: 0.0, ..Recipe::default() };
            of_step(&loss, &recipe, &logits, &labels).unwrap().double_value(&[])
        };
        let (right, wrong) = ((-2_f64).exp().ln_1p(), 2_f64.exp().ln_1p());
        for weight in [0.0, 0.5, 2.0] {
            let expected = right + weight * (right + wrong) / 2.0;
            assert!((value(weight) - expected).abs() < 1e-12, "{weight}: {}", value(weight));
        }
    }

    #[test]
    fn the_moving_average_keeps_99_per_cent() {
        let [past, loss] = [1.0, 2.0].map(|value: f64| Tensor::from(value));
        assert_eq!(smoothed(None, &loss).unwrap().double_value(&[]), 2.0);
        assert!((smoothed(Some(&past), &loss).unwrap().double_value(&[]) - 1.01).abs() < 1e-12);
    }

    #[test]
    fn outliers_at_the_origin_or_further_from_every_anchor_have_no_loss() {
        let outliers = Tensor::from_slice(&[0.0, 0.0, 0.0, -4.0, -4.0, 1.0, 8.0, 1.0, 0.0]).view([3, 3]);
        let value = |variant, row| {
            let loss = Loss { magnitude: 10.0, ..Loss::new(variant) };
            outlier_loss(&loss, &outliers.narrow(0, row, 1)).unwrap().double_value(&[])
        };
        for variant in [Variant::Paper, Variant::PytorchOod] {
            assert_eq!((value(variant, 0), value(variant, 1)), (0.0, 0.0));
            // The nearest anchor is sqrt(5) away, the other two more than 10.
            assert!((value(variant, 2) - (10.0 - 5_f64.sqrt())).abs() < 1e-12);
        }
        let at_best = 3_f64.ln();
        assert!((value(Variant::CrossEntropy, 0) - at_best).abs() < 1e-12);
        assert!(value(Variant::CrossEntropy, 2) > at_best + 3.5);
    }
}
