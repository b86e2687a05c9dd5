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

// A scale is the reciprocal of a finite number, so never NaN.
impl Eq for Quantizing {}

/// Replaces tract's quantisation in an optimised model.
pub(super) fn replace(model: &mut TypedModel) {
    for id in 0..model.nodes().len() {
        let node = model.node(id);
        let Some(quantizing) = node.op_as::<ElementWiseOp>().and_then(Quantizing::of) else { continue };
        let takes_floats =
            model.node_input_facts(id).is_ok_and(|facts| facts[0].datum_type == f32::datum_type());
        if takes_floats {
            model.node_mut(id).op = Box::new(quantizing);
        }
    }
}

impl Quantizing {
    /// The same as tract's operator, but saturated where its sum overflows; `None` if that is another one.
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
        // Halves are ties; values of 2^23 and more have no fraction.
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
        // tract's sum overflows here: it wraps, or panics in a debug build.
        let op = Quantizing { scale: 1.0, zero_point: 3, is_signed: true };
        assert!(op.quantized(&[f32::INFINITY, 3e9, -3e9, f32::NEG_INFINITY]).eq([127, 127, -128, -128]));
    }

    #[test]
    fn only_quantisation_of_floats_is_replaced() {
        let floats = tract_ndarray::Array4::from_shape_fn((1, 2, 3, 5), |(_, c, y, x)| {
            (90 * c + 30 * y + 7 * x) as f32
        });
        let integers = floats.mapv(|value| value as i32);
        let empty = tract_ndarray::Array4::<f32>::zeros((1, 2, 0, 5));
        let unsigned = || QuantizeLinearU8 { scale: 1.3, zero_point: 9 };
        let signed = || QuantizeLinearI8 { scale: 0.7, zero_point: -9 };
        for (op, input, is_ours) in [
            (ElementWiseOp(Box::new(unsigned()), None), Tensor::from(floats.clone()), true),
            (ElementWiseOp(Box::new(signed()), None), floats.into(), true),
            (ElementWiseOp(Box::new(unsigned()), None), empty.into(), true),
            (ElementWiseOp(Box::new(signed()), None), integers.into(), false),
        ] {
            let [expected, found] = [false, true].map(|is_replaced| {
                let mut model = TypedModel::default();
                let source = model.add_source("input", input.datum_type().fact(input.shape())).unwrap();
                let output = model.wire_node("quantize", op.clone(), &[source]).unwrap();
                model.select_output_outlets(&output).unwrap();
                if is_replaced {
                    replace(&mut model);
                    assert_eq!(
                        model.nodes().iter().any(|node| node.op_is::<Quantizing>()),
                        is_ours,
                        "{op:?}"
                    );
                }
                let mut outputs = model.into_runnable().unwrap().run(tvec!(input.clone().into())).unwrap();
                outputs.remove(0).into_tensor()
            });
            assert_eq!(found, expected, "{op:?}");
        }
    }
}
