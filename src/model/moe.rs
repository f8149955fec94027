//! The Switch feed-forward block (Fedus et al. 2022): `y = p_e FFN_e(x)`, `e` the top-1 expert of the token.
//!
//! Dropless unless a capacity factor is set. Padding is left out before the router, so it costs nothing, enters no
//! statistic and takes no capacity; its output is zero.

use tch::{Kind, Tensor};

use tcd_export::Architecture;

use super::Store;
use super::dropout::{Mode, dropout};
use super::experts::Experts;
use super::router::{Router, Routing};

/// Router and experts of one layer.
#[derive(Debug)]
pub(crate) struct MixtureOfExperts {
    router: Router,
    experts: Experts,
    number: i64,
    capacity_factor: Option<f64>,
    dropout: f64,
}

impl MixtureOfExperts {
    /// Reads `{path}.router` and `{path}.experts`; `None` for a vanilla architecture.
    pub(crate) fn new(store: &Store, path: &str, arch: &Architecture) -> Option<Self> {
        let moe = arch.moe.as_ref()?;
        Some(MixtureOfExperts {
            router: Router::new(store, &format!("{path}.router"), moe),
            experts: Experts::new(store, &format!("{path}.experts"), moe.expert_dropout),
            number: moe.num_experts as i64,
            capacity_factor: moe.capacity_factor,
            dropout: arch.hidden_dropout_prob,
        })
    }

    /// # Shapes
    /// `x` `[B, S, H]`; `real` `[R]`, i64: flat positions of the real tokens, absent where all are. Result `[B, S, H]`.
    pub(crate) fn forward(
        &self,
        x: &Tensor,
        real: Option<&Tensor>,
        mode: Mode,
    ) -> (Tensor, Routing) {
        let shape = x.size();
        let flat = x.reshape([-1, shape[2]]); // [T, H]
        let tokens = match real {
            Some(positions) => flat.index_select(0, positions), // [R, H]
            None => flat.shallow_clone(),
        };
        let mut routing = self.router.forward(&tokens, mode);

        let order = routing.expert.argsort_stable(true, 0, false); // [R], rows of one expert in their own order
        let (order, load) = match self.capacity_factor {
            Some(factor) => self.limit(&order, &mut routing, factor),
            None => (order, routing.load.shallow_clone()),
        };
        let expert = routing.expert.index_select(0, &order); // [R']
        let ends = load.cumsum(0, Kind::Int64).to_kind(Kind::Int); // [E]
        let sorted = tokens.index_select(0, &order); // [R', H]
        let gate = routing
            .gate
            .index_select(0, &order)
            .to_kind(x.kind())
            .unsqueeze(-1); // [R', 1]
        let computed = self.experts.forward(&sorted, &expert, &ends, mode) * gate; // [R', H]
        let y = match (real, self.capacity_factor) {
            // Every row has its place: the inverse permutation, a gather.
            (None, None) => computed.index_select(0, &order.argsort(0, false)),
            _ => {
                let target = match real {
                    Some(positions) => positions.index_select(0, &order),
                    None => order,
                };
                flat.zeros_like().index_copy(0, &target, &computed) // [T, H]
            }
        };
        (
            dropout(&y.view(shape.as_slice()), self.dropout, mode),
            routing,
        )
    }

    /// Keeps the first `ceil(factor * R / E)` tokens of each expert; the rest pass by on the residual (Fedus et al. 2022,
    /// equation 3).
    fn limit(&self, order: &Tensor, routing: &mut Routing, factor: f64) -> (Tensor, Tensor) {
        let total = order.size()[0];
        let capacity = ((factor * total as f64 / self.number as f64).ceil() as i64).max(1);
        let starts = routing.load.cumsum(0, Kind::Int64) - &routing.load; // [E]
        let expert = routing.expert.index_select(0, order); // [R]
        let rank =
            Tensor::arange(total, (Kind::Int64, order.device())) - starts.index_select(0, &expert); // [R]
        let kept = rank.lt(capacity).nonzero().squeeze_dim(1); // [R']
        routing.dropped = total - kept.size()[0];
        (
            order.index_select(0, &kept),
            routing.load.clamp_max(capacity),
        )
    }
}
