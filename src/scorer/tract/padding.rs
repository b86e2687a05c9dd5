//! Padding that copies whole rows. tract's own copies value by value, which took a fifth of the time of a
//! WideResNet.

use tract_onnx::tract_core::{
    internal::*,
    ops::array::{Pad, PadMode},
};

/// Pads the last two axes of a tensor with a constant.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Padding {
    /// Before and after the rows, and before and after the columns.
    rows: (usize, usize),
    columns: (usize, usize),
    constant: Arc<Tensor>,
}

/// Replaces tract's padding in an optimised model where it pads only the last two axes, with a constant.
pub(super) fn replace(model: &mut TypedModel) {
    for node in model.nodes_mut() {
        let padding = node.op_as::<Pad>().and_then(Padding::of);
        let is_quantized = node.outputs.iter().any(|output| output.fact.datum_type.is_quantized());
        if let Some(padding) = padding.filter(|_| !is_quantized) {
            node.op = Box::new(padding);
        }
    }
}

impl Padding {
    /// The same as tract's operator; `None` if that pads other axes, or with other than a constant.
    fn of(pad: &Pad) -> Option<Self> {
        let (others, &[rows, columns]) = pad.pads.split_last_chunk()?;
        let PadMode::Constant(constant) = &pad.mode else { return None };
        // A negative number, which crops, is a very large one here.
        let grows = [rows, columns].iter().all(|&(before, after)| before.max(after) <= isize::MAX as usize);
        (grows && others.iter().all(|&other| other == (0, 0))).then(|| Self {
            rows,
            columns,
            constant: constant.clone(),
        })
    }

    fn padded<T: Datum + Copy>(&self, input: &Tensor) -> TractResult<Tensor> {
        let (mut shape, input) = (TVec::from(input.shape()), input.to_plain_array_view::<T>()?);
        let [.., rows, columns] = &mut shape[..] else { bail!("its rank is below 2") };
        let (height, width) = (*rows, *columns);
        *rows += self.rows.0 + self.rows.1;
        *columns += self.columns.0 + self.columns.1;
        let (plane, row) = (*rows * *columns, *columns);
        let mut output = tract_ndarray::ArrayD::from_elem(&shape[..], self.constant.cast_to_scalar::<T>()?);
        let pixels = input.as_slice().context("a tensor in standard order")?;
        let padded = output.as_slice_mut().context("a tensor in standard order")?;
        if height * width > 0 {
            for (old, new) in pixels.chunks_exact(height * width).zip(padded.chunks_exact_mut(plane)) {
                let new = new.chunks_exact_mut(row).skip(self.rows.0);
                for (old, new) in old.chunks_exact(width).zip(new) {
                    new[self.columns.0..][..width].copy_from_slice(old);
                }
            }
        }
        Ok(output.into_tensor())
    }
}

impl Op for Padding {
    fn name(&self) -> StaticName {
        "Padding".into()
    }

    op_as_typed_op!();
}

impl EvalOp for Padding {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let input = args_1!(inputs);
        let kind = input.datum_type();
        let output = dispatch_numbers!(Self::padded(kind)(self, &input))?;
        Ok(tvec!(output.into_tvalue()))
    }
}

impl TypedOp for Padding {
    as_op!();

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let mut fact = inputs[0].without_value();
        let rank = fact.rank();
        for (axis, (before, after)) in [(rank - 2, self.rows), (rank - 1, self.columns)] {
            fact.shape.set(axis, fact.shape[axis].clone() + before + after);
        }
        Ok(tvec!(fact))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The output of a model that only pads, and whether the padding is ours.
    fn padded(pad: &Pad, input: &Tensor, is_replaced: bool) -> (Tensor, bool) {
        let mut model = TypedModel::default();
        let fact = input.datum_type().fact(input.shape());
        let source = model.add_source("input", fact).unwrap();
        let output = model.wire_node("pad", pad.clone(), &[source]).unwrap();
        model.select_output_outlets(&output).unwrap();
        if is_replaced {
            replace(&mut model);
        }
        let is_ours = model.nodes().iter().any(|node| node.op_is::<Padding>());
        let mut outputs = model.into_runnable().unwrap().run(tvec!(input.clone().into())).unwrap();
        (outputs.remove(0).into_tensor(), is_ours)
    }

    #[test]
    fn it_pads_as_tract_does() {
        let floats = tract_ndarray::Array4::from_shape_fn((2, 3, 4, 5), |(n, c, y, x)| {
            (60 * n + 20 * c + 5 * y + x) as f32
        });
        let bytes = floats.mapv(|value| value as u8);
        let pad = |pads: &[(usize, usize)], constant: Tensor| Pad {
            pads: pads.to_vec(),
            mode: PadMode::Constant(constant.into_arc_tensor()),
        };
        let last_two = [(0, 0), (0, 0), (1, 2), (3, 0)];
        let plane =
            floats.index_axis(tract_ndarray::Axis(0), 0).index_axis(tract_ndarray::Axis(0), 0).to_owned();
        let empty = tract_ndarray::Array4::<f32>::zeros((2, 3, 0, 5));
        for (pad, input, is_ours) in [
            (pad(&[(0, 0), (0, 0), (1, 1), (1, 1)], tensor0(0_f32)), Tensor::from(floats.clone()), true),
            (pad(&last_two, tensor0(-1.5_f32)), floats.clone().into(), true),
            (pad(&last_two, tensor0(f16::from_f32(0.5))), floats.mapv(f16::from_f32).into(), true),
            // A constant for another type.
            (pad(&last_two, tensor0(7_f32)), bytes.into(), true),
            (pad(&last_two[2..], tensor0(2_f32)), plane.into(), true),
            (pad(&last_two, tensor0(2_f32)), empty.into(), true),
            (pad(&[(0, 0), (1, 0), (1, 1), (1, 1)], tensor0(0_f32)), floats.clone().into(), false),
            (Pad { pads: last_two.to_vec(), mode: PadMode::Edge }, floats.clone().into(), false),
        ] {
            let (expected, _) = padded(&pad, &input, false);
            let (found, is_replaced) = padded(&pad, &input, true);
            assert_eq!((found.shape(), is_replaced), (expected.shape(), is_ours), "{pad:?}");
            found.close_enough(&expected, false).unwrap();
        }
        let crops = Pad { pads: vec![(0, 0), (0, 0), (usize::MAX, 0), (0, 0)], mode: PadMode::default() };
        assert_eq!(Padding::of(&crops), None);
    }
}
