//! A slice of rows between ends that are known when the model runs: the part of the standard `Slice` that tract 0.23.9 lacks.
//!
//! The same with all values 0 stands for rows that no expert computes.
//!
//! Inputs: values `[R, ..]`, start and end i64 `[1]`. Output: `[end - start, ..]`, a length that no shape tells beforehand.

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

/// Makes the operator of a node; its length gets a name of its own.
pub fn build(
    context: &ParsingContext<'_>,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let count = context.template.symbols.new_with_prefix("rows");
    let zero = node.op_type == super::find::ZEROS;
    Ok((expand(Unsolved(Rows { count, zero })), vec![]))
}

#[derive(Clone, Debug)]
struct Unsolved(Rows);

impl Expansion for Unsolved {
    fn name(&self) -> StaticName {
        "TcdRows".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_input_arity(inputs, 3)?;
        check_output_arity(outputs, 1)?;
        s.equals(&inputs[0].datum_type, &outputs[0].datum_type)?;
        s.equals(&inputs[0].rank, &outputs[0].rank)?;
        s.given(&inputs[0].rank, move |s, rank| {
            for axis in 1..usize::try_from(rank).unwrap_or(0) {
                s.equals(&inputs[0].shape[axis], &outputs[0].shape[axis])?;
            }
            Ok(())
        })
    }

    fn wire(
        &self,
        prefix: &str,
        model: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        model.wire_node(prefix, self.0.clone(), inputs)
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq)]
struct Rows {
    count: Symbol,
    /// Whether the rows are put to zero.
    zero: bool,
}

impl Op for Rows {
    fn name(&self) -> StaticName {
        "TcdRows".into()
    }

    fn mints_runtime_symbols(&self) -> bool {
        true
    }

    op_as_typed_op!();
}

impl EvalOp for Rows {
    op_out_of_plan!();

    fn eval(&self, _context: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let (values, start, end) = args_3!(inputs);
        // Lengths that the graph computes are symbolic numbers to tract.
        let at = |value: &TValue| -> TractResult<usize> {
            let value = value.cast_to::<i64>()?;
            let plain = value.try_as_plain_ram()?;
            let place = plain.as_slice::<i64>()?.first().copied().unwrap_or(-1);
            Ok(usize::try_from(place)?)
        };
        let (start, end) = (at(&start)?, at(&end)?);
        let rows = values.shape().first().copied().unwrap_or(0);
        ensure!(
            start <= end && end <= rows,
            "rows {start} to {end} of {rows}"
        );
        let cut = if start == end || self.zero {
            // tract's own slice refuses to be empty.
            let mut shape: TVec<usize> = values.shape().into();
            shape[0] = end - start;
            Tensor::zero_dt(values.datum_type(), &shape)?
        } else {
            values.slice(0, start, end)?
        };
        Ok(tvec!(cut.into_tvalue()))
    }
}

impl TypedOp for Rows {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        ensure!(inputs[0].rank() > 0, "rows of a value without axes");
        let mut shape: TVec<TDim> = inputs[0].shape.to_tvec();
        shape[0] = self.count.to_dim();
        Ok(tvec!(inputs[0].datum_type.fact(&*shape)))
    }

    as_op!();
}
