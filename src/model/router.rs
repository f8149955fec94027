//! The Switch router: top-1 of a softmax (Fedus et al. 2022, section 2), its losses and its statistics.
//!
//! Routing runs in f32 whatever the model's precision (section 2.4). It sees real tokens only: callers leave padding out, so
//! padding enters neither loss nor statistic.

use tch::{Kind, Tensor};

use tcd_export::MoeConfig;

use super::Store;
use super::dropout::Mode;

/// The router of one layer.
#[derive(Debug)]
pub(crate) struct Router {
    weight: Tensor,
    experts: i64,
    jitter: f64,
}

/// Where the tokens of one layer went, and what that costs. The losses are raw (unweighted) scalars with gradient.
#[derive(Debug)]
pub struct Routing {
    /// Expert of each real token, `[R]`, i64.
    pub expert: Tensor,
    /// Softmax probability of that expert, `[R]`, f32, with gradient: the gate.
    pub gate: Tensor,
    /// Tokens sent to each expert, `[E]`, i64, before any capacity limit.
    pub load: Tensor,
    /// Switch balance loss `E * sum_e f_e P_e` (equation 4); 1 when balanced.
    pub balance_loss: Tensor,
    /// Router z-loss, mean of `logsumexp(logits)^2` (Zoph et al. 2022, equation 5).
    pub z_loss: Tensor,
    /// Mean entropy of the tokens' distributions over experts, in nats, without gradient.
    pub entropy: Tensor,
    /// Tokens dropped for lack of capacity; 0 when dropless.
    pub dropped: i64,
}

impl Router {
    /// Reads `{path}.weight` `[E, H]`.
    pub(crate) fn new(store: &Store, path: &str, moe: &MoeConfig) -> Self {
        Router {
            weight: store.tensor(&format!("{path}.weight")),
            experts: moe.num_experts as i64,
            jitter: moe.router_jitter,
        }
    }

    /// # Shapes
    /// `x` `[R, H]`, the real tokens.
    pub(crate) fn forward(&self, x: &Tensor, mode: Mode) -> Routing {
        let mut x = x.to_kind(Kind::Float);
        if let (Mode::Train(noise), true) = (mode, self.jitter > 0.0) {
            x = &x * noise.uniform_like(&x, 1.0 - self.jitter, 1.0 + self.jitter);
        }
        let logits = x.matmul(&self.weight.to_kind(Kind::Float).tr()); // [R, E]
        let log_probabilities = logits.log_softmax(-1, Kind::Float); // [R, E]
        let probabilities = log_probabilities.exp(); // [R, E]
        let (gate, expert) = probabilities.max_dim(-1, false); // [R]
        let load = expert.bincount(None::<Tensor>, self.experts); // [E]
        let tokens = x.size()[0].max(1) as f64;
        let fraction = load.to_kind(Kind::Float) / tokens; // [E], no gradient: counts
        let importance =
            probabilities.sum_dim_intlist([0i64].as_slice(), false, Kind::Float) / tokens; // [E]
        let balance_loss = (fraction * importance).sum(Kind::Float) * self.experts as f64;
        let z_loss = logits
            .logsumexp([-1i64].as_slice(), false)
            .square()
            .sum(Kind::Float)
            / tokens;
        let entropy =
            tch::no_grad(|| (&probabilities * &log_probabilities).sum(Kind::Float) / -tokens);
        Routing {
            expert,
            gate,
            load,
            balance_loss,
            z_loss,
            entropy,
            dropped: 0,
        }
    }
}
