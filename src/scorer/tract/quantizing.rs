//! Quantisation that the compiler vectorises. tract's own rounds value by value, which took a third of the time
//! of a WideResNet in int8.

use tract_onnx::tract_core::{
    internal::*,
    ops::{
        element_wise::ElementWiseOp,
        quant::{QuantizeLinearI8, QuantizeLinearU8},
    },
};

/// Maps float32 to eight bits: `round(x * scale) + zero_point`, ties to even, saturated.
#[derive(Debug, Clone, PartialEq)]
struct Quantizing {
    scale: f32,
    zero_point: i32,
    is_signed: bool,
}

// The scale of a model is finite.
impl Eq for Quantizing {}

/// Replaces tract's quantisation in an optimised model.
pub(super) fn replace(model: &mut TypedModel) {
    for id in 0..model.nodes().len() {
        let node = model.node(id);
        let Some(quantizing) = node.op_as::<ElementWiseOp>().and_then(Quantizing::of) else { continue };
        let takes_floats = node.inputs.first().is_some_and(|&input| {
            model.outlet_fact(input).is_ok_and(|fact| fact.datum_type == f32::datum_type())
        });
        if takes_floats {
            model.node_mut(id).op = Box::new(quantizing);
        }
    }
}

impl Quantizing {
    /// The same as tract's operator; `None` if that is another one.
    fn of(op: &ElementWiseOp) -> Option<Self> {
        if let Some(op) = op.0.downcast_ref::<QuantizeLinearU8>() {
            return Some(Self { scale: op.scale, zero_point: op.zero_point.into(), is_signed: false });
        }
        let op = op.0.downcast_ref::<QuantizeLinearI8>()?;
        Some(Self { scale: op.scale, zero_point: op.zero_point.into(), is_signed: true })
    }

    fn kind(&self) -> DatumType {
        if self.is_signed { i8::datum_type() } else { u8::datum_type() }
    }

    /// Quantised values, -128 to 127 or 0 to 255; NaN becomes the zero point.
    fn quantized(&self, values: &[f32]) -> impl Iterator<Item = i32> {
        // Adding it leaves no bit for a fraction; the values are within its range once they are saturated.
        const ROUND: f32 = 1.5 * (1 << 23) as f32;
        let (least, most) = if self.is_signed { (-128, 127) } else { (0, 255) };
        let [least, most] = [least, most].map(|bound| (bound - self.zero_point) as f32);
        let &Self { scale, zero_point, .. } = self;
        values
            .iter()
            .map(move |value| ((value * scale).clamp(least, most) + ROUND - ROUND) as i32 + zero_point)
    }
}

impl Op for Quantizing {
    fn name(&self) -> StaticName {
        "Quantizing".into()
    }

    op_as_typed_op!();
}

impl EvalOp for Quantizing {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let input = args_1!(inputs);
        let values = input.to_plain_array_view::<f32>()?;
        let values = self.quantized(values.as_slice().context("a tensor in standard order")?);
        let quantized = if self.is_signed {
            Tensor::from_shape(input.shape(), &values.map(|value| value as i8).collect::<Vec<_>>())
        } else {
            Tensor::from_shape(input.shape(), &values.map(|value| value as u8).collect::<Vec<_>>())
        };
        Ok(tvec!(quantized?.into_tvalue()))
    }
}

impl TypedOp for Quantizing {
    as_op!();

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let mut fact = inputs[0].without_value();
        fact.datum_type = self.kind();
        Ok(tvec!(fact))
    }
}

#[cfg(test)]
mod tests {
    use tract_onnx::tract_core::ops::quant::{quantize_linear_f32_i8, quantize_linear_f32_u8};

    use super::*;

    #[test]
    fn it_quantizes_as_tract_does() {
        // Halves are ties; the greatest integers round on their own.
        let halves = (-3000..3000).map(|half| half as f32 / 2.0);
        let extremes = [f32::NAN, -0.0, 1e-40, 4.2e6, -8e6, 0.499_999_97];
        let values: Vec<f32> = halves.chain(extremes).collect();
        for scale in [1.0, 0.37, 1e-3, 255.0] {
            for zero_point in [-128, -3, 0, 7, 127] {
                let op = Quantizing { scale, zero_point, is_signed: true };
                let expected = values.iter().map(|&value| quantize_linear_f32_i8(value, scale, zero_point));
                assert!(op.quantized(&values).map(|value| value as i8).eq(expected), "{op:?}");
            }
            for zero_point in [0, 7, 128, 255] {
                let op = Quantizing { scale, zero_point, is_signed: false };
                let expected = values.iter().map(|&value| quantize_linear_f32_u8(value, scale, zero_point));
                assert!(op.quantized(&values).map(|value| value as u8).eq(expected), "{op:?}");
            }
        }
        // tract's sum overflows here.
        let op = Quantizing { scale: 1.0, zero_point: 3, is_signed: true };
        assert!(op.quantized(&[f32::INFINITY, 3e9, -3e9, f32::NEG_INFINITY]).eq([127, 127, -128, -128]));
    }
}
