//! A block of experts as one operator: tokens are grouped by expert, and each expert that has any computes them in two products.
//!
//! Weights are packed once, when the model is loaded, for the matrix product that tract picks for this machine. A token whose
//! expert is none of them gives zero, as in the standard operators that this takes the place of.
//!
//! Shapes: `T` tokens, `N` tokens of one expert, `E` experts, `H` hidden, `F` feed-forward.

use std::fmt;

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::tract_linalg::BinOp;
use tract_onnx::tract_core::tract_linalg::mmm::{
    AsInputValue, FusedSpec, MMMInputValue, MatMatMul, MmmDispatch, Query,
};
use tract_onnx::tract_core::tract_linalg::routines::Func;
use tract_onnx::tract_hir::internal::*;

/// Tokens of an expert that the choice of a product is made for.
const TYPICAL: usize = 16;
/// Values of the inner layer that are computed at a time, so that they stay in a near cache.
const INNER: usize = 1 << 17;
/// Values of GELU at a time.
const CHUNK: usize = 1024;

/// Makes the operator of a node.
pub fn build(
    _context: &ParsingContext<'_>,
    _node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    Ok((expand(Unsolved), vec![]))
}

/// The operator before its weights are known.
#[derive(Clone, Debug)]
struct Unsolved;

impl Expansion for Unsolved {
    fn name(&self) -> StaticName {
        "TcdExperts".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_output_arity(outputs, 1)?;
        s.equals(&inputs[0].datum_type, f32::datum_type())?;
        s.equals(&inputs[1].datum_type, i64::datum_type())?;
        s.equals(&outputs[0].datum_type, f32::datum_type())?;
        s.equals(&outputs[0].shape, &inputs[0].shape)
    }

    fn wire(
        &self,
        prefix: &str,
        model: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        let constants = inputs[2..]
            .iter()
            .map(|input| {
                let fact = model.outlet_fact(*input)?;
                let value = fact.konst.as_ref().context("a weight is no constant")?;
                Ok(value.cast_to::<f32>()?.into_owned())
            })
            .collect::<TractResult<Vec<Tensor>>>()?;
        let experts = Experts(Arc::new(Weights::new(&constants)?));
        model.wire_node(prefix, experts, &inputs[..2])
    }
}

/// A matrix product, chosen once.
struct Product {
    kernel: Box<dyn MatMatMul>,
    packing: usize,
    out: usize,
    of: usize,
}

impl Product {
    /// The product with weights `[out, of]`.
    fn new(out: usize, of: usize) -> TractResult<Self> {
        let query = Query {
            allow_extractor: false,
            ..Query::plain(f32::datum_type(), Some(out), Some(of), Some(TYPICAL))
        };
        let (kernel, packing, _) = MmmDispatch::native()
            .pick(&query)
            .context("no matrix product for f32")?;
        Ok(Self {
            kernel,
            packing,
            out,
            of,
        })
    }

    fn layer(&self, weight: &Tensor, bias: &Tensor) -> TractResult<Layer> {
        ensure!(
            weight.shape() == [self.out, self.of] && bias.shape() == [self.out],
            "an expert's layer of shape {:?} and {:?}, expected [{}, {}]",
            weight.shape(),
            bias.shape(),
            self.out,
            self.of
        );
        let (format, _) = &self.kernel.packings()[self.packing];
        Ok(Layer {
            weight: format.prepare_one_view(&weight.view(), 1, 0)?,
            bias: bias.clone(),
        })
    }

    /// `x W^T + b`. `[N, of]` to `[N, out]`.
    fn run(&self, layer: &Layer, x: &Tensor) -> TractResult<Tensor> {
        let n = x.shape()[0];
        let (_, format) = &self.kernel.packings()[self.packing];
        let columns = format.prepare_one_view(&x.view(), 1, 0)?;
        let mut y = Tensor::zero::<f32>(&[n, self.out])?;
        // SAFETY: the product writes `out` rows by `n` columns with strides 1 and `out`, which is `y` to its last value; both
        // sides are packed in the formats of the kernel's packing.
        unsafe {
            let store = self
                .kernel
                .c_from_data_and_strides(size_of::<f32>(), 1, self.out as isize)
                .wrap(&y.view_mut());
            let steps = [
                FusedSpec::AddMatMul {
                    a: AsInputValue::Borrowed(&*layer.weight),
                    b: AsInputValue::Borrowed(&*columns),
                    packing: self.packing,
                },
                FusedSpec::BinPerRow(layer.bias.view(), BinOp::Add),
                FusedSpec::Store(store),
            ];
            self.kernel.run(self.out, n, &steps)?;
        }
        Ok(y)
    }
}

struct Layer {
    weight: Box<dyn MMMInputValue>,
    bias: Tensor,
}

struct Weights {
    up: Product,
    down: Product,
    experts: Vec<(Layer, Layer)>,
}

impl Weights {
    /// From four tensors for each expert.
    fn new(constants: &[Tensor]) -> TractResult<Self> {
        let (quads, rest) = constants.as_chunks::<4>();
        let first = quads.first().context("a block without experts")?;
        ensure!(
            rest.is_empty() && first[0].rank() == 2,
            "a block of {} weights",
            constants.len()
        );
        let (inner, hidden) = (first[0].shape()[0], first[0].shape()[1]);
        let (up, down) = (Product::new(inner, hidden)?, Product::new(hidden, inner)?);
        let experts = quads
            .iter()
            .map(|[w1, b1, w2, b2]| Ok((up.layer(w1, b1)?, down.layer(w2, b2)?)))
            .collect::<TractResult<_>>()?;
        Ok(Self { up, down, experts })
    }

    /// Every token by its expert. `[T, H]` and `[T]` to `[T, H]`.
    fn run(&self, x: &[f32], chosen: &[i64]) -> TractResult<Tensor> {
        let h = self.up.of;
        ensure!(x.len() == chosen.len() * h, "rows without experts");
        let mut y = Tensor::zero::<f32>(&[chosen.len(), h])?;
        let mut plain = y.try_as_plain_ram_mut()?;
        let result = plain.as_slice_mut::<f32>()?;
        let gelu = Gelu::new()?;
        let most = (INNER / self.up.out).max(TYPICAL);
        for ((up, down), tokens) in self.experts.iter().zip(group(chosen, self.experts.len())) {
            for tokens in tokens.chunks(most) {
                let mut rows = Tensor::zero::<f32>(&[tokens.len(), h])?;
                let mut view = rows.try_as_plain_ram_mut()?;
                for (row, &token) in view.as_slice_mut::<f32>()?.chunks_exact_mut(h).zip(tokens) {
                    row.copy_from_slice(&x[token * h..][..h]);
                }
                let mut inner = self.up.run(up, &rows)?; // [N, F]
                gelu.run(inner.try_as_plain_ram_mut()?.as_slice_mut::<f32>()?)?;
                let out = self.down.run(down, &inner)?; // [N, H]
                let out = out.try_as_plain_ram()?;
                for (row, &token) in out.as_slice::<f32>()?.chunks_exact(h).zip(tokens) {
                    result[token * h..][..h].copy_from_slice(row);
                }
            }
        }
        Ok(y)
    }
}

/// The tokens of each expert, in their order.
fn group(chosen: &[i64], experts: usize) -> Vec<Vec<usize>> {
    let mut groups = vec![Vec::new(); experts];
    for (token, &expert) in chosen.iter().enumerate() {
        let group = usize::try_from(expert)
            .ok()
            .and_then(|expert| groups.get_mut(expert));
        if let Some(group) = group {
            group.push(token);
        }
    }
    groups
}

/// The exact GELU, `x / 2 * (1 + erf(x / sqrt 2))`, by tract's own error function.
struct Gelu(Box<dyn tract_onnx::tract_core::tract_linalg::element_wise::ElementWise<f32>>);

impl Gelu {
    fn new() -> TractResult<Self> {
        Ok(Self(Func::Erf.ew_f32()?))
    }

    fn run(&self, values: &mut [f32]) -> TractResult<()> {
        let mut scaled = [0f32; CHUNK];
        for chunk in values.chunks_mut(CHUNK) {
            let scaled = &mut scaled[..chunk.len()];
            for (to, x) in scaled.iter_mut().zip(chunk.iter()) {
                *to = *x * std::f32::consts::FRAC_1_SQRT_2;
            }
            self.0.run(scaled)?;
            for (x, erf) in chunk.iter_mut().zip(scaled.iter()) {
                *x = 0.5 * *x * (1.0 + erf);
            }
        }
        Ok(())
    }
}

/// The operator with its weights.
#[derive(Clone)]
struct Experts(Arc<Weights>);

impl fmt::Debug for Experts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Weights { up, experts, .. } = &*self.0;
        write!(
            f,
            "{} experts of {} and {}, by {}",
            experts.len(),
            up.of,
            up.out,
            up.kernel.name()
        )
    }
}

impl PartialEq for Experts {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Experts {}

impl Op for Experts {
    fn name(&self) -> StaticName {
        "TcdExperts".into()
    }

    op_as_typed_op!();
}

impl EvalOp for Experts {
    op_out_of_plan!();

    fn eval(&self, _context: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let (x, chosen) = args_2!(inputs);
        let (x, chosen) = (x.try_as_plain_ram()?, chosen.try_as_plain_ram()?);
        let y = self
            .0
            .run(x.as_slice::<f32>()?, chosen.as_slice::<i64>()?)?;
        Ok(tvec!(y.into_tvalue()))
    }
}

impl TypedOp for Experts {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let (rows, chosen) = (inputs[0], inputs[1]);
        ensure!(
            rows.rank() == 2 && chosen.rank() == 1 && rows.shape[1] == self.0.up.of.to_dim(),
            "rows of shape {:?} for experts of {}",
            rows.shape,
            self.0.up.of
        );
        Ok(tvec!(f32::fact(&*rows.shape.to_tvec())))
    }

    as_op!();
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// Values from -1 to 1 that differ everywhere.
    fn values(seed: usize, shape: &[usize]) -> Tensor {
        let count = shape.iter().product::<usize>();
        let value = |index: usize| {
            let bits = (seed * 7919 + index).wrapping_mul(2_654_435_761) >> 7;
            (bits % 2000) as f32 / 1000.0 - 1.0
        };
        let all: Vec<f32> = (0..count).map(value).collect();
        Tensor::from_shape(shape, &all).unwrap()
    }

    fn slice(tensor: &Tensor) -> Vec<f32> {
        tensor
            .try_as_plain_ram()
            .unwrap()
            .as_slice::<f32>()
            .unwrap()
            .to_vec()
    }

    /// By plain loops in f64.
    fn reference(constants: &[Tensor], x: &[f32], chosen: &[i64], h: usize, f: usize) -> Vec<f64> {
        let mut result = Vec::new();
        for (row, &expert) in x.chunks_exact(h).zip(chosen) {
            let Some([w1, b1, w2, b2]) = usize::try_from(expert)
                .ok()
                .and_then(|expert| constants.as_chunks::<4>().0.get(expert))
            else {
                result.extend(vec![0.0; h]);
                continue;
            };
            let layer = |w: &Tensor, b: &Tensor, x: &[f64]| -> Vec<f64> {
                let (w, b) = (slice(w), slice(b));
                let dot = |row: &[f32]| -> f64 {
                    row.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum()
                };
                w.chunks_exact(x.len())
                    .zip(b)
                    .map(|(row, b)| dot(row) + f64::from(b))
                    .collect()
            };
            let row: Vec<f64> = row.iter().map(|x| f64::from(*x)).collect();
            let mut inner = layer(w1, b1, &row);
            assert_eq!(inner.len(), f);
            for x in &mut inner {
                *x *= 0.5 * (1.0 + erf(*x / 2f64.sqrt()));
            }
            result.extend(layer(w2, b2, &inner));
        }
        result
    }

    /// By its series, which converges fast enough below 6.
    fn erf(x: f64) -> f64 {
        if x.abs() > 5.0 {
            return x.signum();
        }
        let (mut sum, mut term) = (x, x);
        for n in 1..200 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    }

    #[test]
    fn tokens_go_to_their_experts_whatever_the_routing() {
        for (h, f, e) in [(8, 12, 3), (64, 256, 5), (20, 33, 1)] {
            let constants: Vec<Tensor> = (0..e)
                .flat_map(|expert| {
                    let seed = 4 * expert;
                    [vec![f, h], vec![f], vec![h, f], vec![h]]
                        .into_iter()
                        .enumerate()
                        .map(move |(part, shape)| values(seed + part, &shape))
                })
                .collect();
            let weights = Weights::new(&constants).unwrap();
            let routings: [(&str, Vec<i64>); 6] = [
                ("one token", vec![0]),
                ("no token", vec![]),
                ("all to one", vec![e as i64 - 1; 700]),
                ("nobody", vec![e as i64; 5]),
                (
                    "in turns, some to nobody",
                    (0..100).map(|token| token % (e as i64 + 1)).collect(),
                ),
                ("no such expert", vec![-1, i64::MAX, 0]),
            ];
            for (what, chosen) in routings {
                let x = slice(&values(99, &[chosen.len(), h]));
                let wanted = reference(&constants, &x, &chosen, h, f);
                let got = slice(&weights.run(&x, &chosen).unwrap());
                assert_eq!(got.len(), wanted.len(), "{what}");
                for (index, (got, wanted)) in got.iter().zip(&wanted).enumerate() {
                    assert!(
                        (f64::from(*got) - wanted).abs() < 1e-4 * wanted.abs().max(1.0),
                        "{what}, H={h}: at {index}: {got}, expected {wanted}"
                    );
                }
            }
        }
    }

    #[test]
    fn weights_that_do_not_belong_together_are_refused() {
        let good = [
            values(1, &[6, 4]),
            values(2, &[6]),
            values(3, &[4, 6]),
            values(4, &[4]),
        ];
        assert!(Weights::new(&good).is_ok());
        assert!(Weights::new(&good[..3]).is_err());
        assert!(Weights::new(&[]).is_err());
        let mut wrong = good.to_vec();
        wrong.extend([
            values(1, &[6, 5]),
            values(2, &[6]),
            values(3, &[4, 6]),
            values(4, &[4]),
        ]);
        assert!(Weights::new(&wrong).is_err());
    }
}
