//! Routing of mixtures of experts: load, specialisation, agreement.
//!
//! Loads are shares of the tokens that take part (with several experts a token, of the choices). Entropies are in nats and beside them
//! as a share of their largest value. Specialisation by a grouping of tokens (token class, task) is the mutual information
//! I(expert; group) in nats and normalised by the group's entropy: 0 where experts know nothing of the group, 1 where the expert
//! names it. Two routings of the same tokens are compared by the share of equal choices (which means something only where experts
//! have the same names, as in two checkpoints of one run), by that share under the best matching of experts (Kuhn 1955), by adjusted Rand
//! index (Hubert and Arabie 1985) and by normalised mutual information (arithmetic mean of the entropies).
//!
//! # Schema `routing 1`
//! JSON: [`RoutingResult`]. CSV: `model,layer,tokens,experts,load_entropy,load_entropy_share,largest_load,dead,gate_mean,class_information,class_share,task_information,task_share`;
//! loads ([`RoutingResult::loads_csv`]) `model,layer,expert,group_kind,group,tokens,share`; agreement ([`RoutingResult::agreement_csv`])
//! `layer_a,layer_b,tokens,equal,matched,adjusted_rand,normalised_information`.

use serde::{Deserialize, Serialize};

use crate::provenance::{Provenance, csv, optional};

/// Counts of tokens, `[experts, groups]` row-major.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Rows: experts.
    pub experts: usize,
    /// Columns: groups.
    pub groups: usize,
    /// The counts.
    pub counts: Vec<u64>,
}

impl Counts {
    /// No tokens yet.
    pub fn new(experts: usize, groups: usize) -> Self {
        Counts {
            experts,
            groups,
            counts: vec![0; experts * groups],
        }
    }

    /// Counts one choice.
    ///
    /// # Panics
    /// If expert or group is out of range.
    pub fn add(&mut self, expert: usize, group: usize) {
        assert!(
            expert < self.experts && group < self.groups,
            "expert {expert} or group {group} out of range"
        );
        self.counts[expert * self.groups + group] += 1;
    }

    /// Number of choices.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Choices of each expert.
    pub fn loads(&self) -> Vec<u64> {
        self.counts
            .chunks_exact(self.groups.max(1))
            .map(|row| row.iter().sum())
            .collect()
    }

    /// Choices in each group.
    pub fn sizes(&self) -> Vec<u64> {
        (0..self.groups)
            .map(|g| {
                (0..self.experts)
                    .map(|e| self.counts[e * self.groups + g])
                    .sum()
            })
            .collect()
    }

    /// I(expert; group), nats.
    pub fn information(&self) -> f64 {
        (entropy(&self.loads()) + entropy(&self.sizes()) - entropy(&self.counts)).max(0.0)
    }

    /// The information as a share of the groups' entropy; nothing where there is one group alone.
    pub fn information_share(&self) -> Option<f64> {
        let of = entropy(&self.sizes());
        (of > 0.0).then(|| self.information() / of)
    }
}

/// Entropy of counts, nats; 0 for no counts.
pub fn entropy(counts: &[u64]) -> f64 {
    let total: u64 = counts.iter().sum();
    let share = |c: &u64| *c as f64 / total as f64;
    counts
        .iter()
        .filter(|c| **c > 0)
        .map(share)
        .map(|p| -p * p.ln())
        .sum::<f64>()
        .max(0.0)
}

/// Routing of one layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerRouting {
    /// The model's name.
    pub model: String,
    /// The layer, from 0.
    pub layer: usize,
    /// Choices counted.
    pub tokens: u64,
    /// Experts.
    pub experts: usize,
    /// Share of each expert, `[experts]`.
    pub load: Vec<f64>,
    /// Entropy of the load, nats.
    pub load_entropy: f64,
    /// The same over ln(experts).
    pub load_entropy_share: Option<f64>,
    /// Experts that no token chose.
    pub dead: Vec<usize>,
    /// Mean router probability of the chosen expert.
    pub gate_mean: Option<f64>,
    /// Specialisation by grouping.
    pub groupings: Vec<Grouping>,
}

/// How experts divide the groups of one grouping.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grouping {
    /// `token_class` or `task`.
    pub kind: String,
    /// Names of the groups.
    pub groups: Vec<String>,
    /// Choices, `[experts][groups]`.
    pub counts: Vec<Vec<u64>>,
    /// I(expert; group), nats.
    pub information: f64,
    /// The information over the groups' entropy.
    pub information_share: Option<f64>,
}

impl Grouping {
    /// Of counts over named groups.
    pub fn new(kind: &str, groups: Vec<String>, counts: &Counts) -> Self {
        Grouping {
            kind: kind.to_owned(),
            groups,
            counts: counts
                .counts
                .chunks_exact(counts.groups.max(1))
                .map(<[u64]>::to_vec)
                .collect(),
            information: counts.information(),
            information_share: counts.information_share(),
        }
    }
}

impl LayerRouting {
    /// Of the loads of a layer's experts.
    pub fn new(
        model: &str,
        layer: usize,
        loads: &[u64],
        gates: &[f32],
        groupings: Vec<Grouping>,
    ) -> Self {
        let total: u64 = loads.iter().sum();
        let entropy = entropy(loads);
        let mean = gates.iter().map(|g| f64::from(*g)).sum::<f64>() / gates.len() as f64;
        LayerRouting {
            model: model.to_owned(),
            layer,
            tokens: total,
            experts: loads.len(),
            load: loads
                .iter()
                .map(|l| {
                    if total > 0 {
                        *l as f64 / total as f64
                    } else {
                        0.0
                    }
                })
                .collect(),
            load_entropy: entropy,
            load_entropy_share: (loads.len() > 1).then(|| entropy / (loads.len() as f64).ln()),
            dead: (0..loads.len()).filter(|&e| loads[e] == 0).collect(),
            gate_mean: (!gates.is_empty()).then_some(mean),
            groupings,
        }
    }
}

/// Agreement of two routings of the same tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Agreement {
    /// Layer of the first model.
    pub layer_a: usize,
    /// Layer of the second model.
    pub layer_b: usize,
    /// Tokens compared.
    pub tokens: u64,
    /// Share of equal choices by name; absent where the numbers of experts differ.
    pub equal: Option<f64>,
    /// Share of equal choices under the best matching of experts.
    pub matched: f64,
    /// Adjusted Rand index: 0 by chance, 1 for equal partitions; absent where both put all tokens together.
    pub adjusted_rand: Option<f64>,
    /// Normalised mutual information, 0..1; absent where both put all tokens together.
    pub normalised_information: Option<f64>,
}

/// Compares two routings by their table of joint choices: `counts` `[experts of a, experts of b]`.
pub fn agreement(layer_a: usize, layer_b: usize, counts: &Counts) -> Agreement {
    let total = counts.total();
    let (a, b) = (counts.loads(), counts.sizes());
    let n = total.max(1) as f64;
    let equal: u64 = (0..counts.experts.min(counts.groups))
        .map(|e| counts.counts[e * counts.groups + e])
        .sum();
    let entropies = f64::midpoint(entropy(&a), entropy(&b));
    Agreement {
        layer_a,
        layer_b,
        tokens: total,
        equal: (counts.experts == counts.groups).then_some(equal as f64 / n),
        matched: best_matching(counts) as f64 / n,
        adjusted_rand: adjusted_rand(counts, &a, &b),
        normalised_information: (entropies > 0.0).then(|| counts.information() / entropies),
    }
}

fn adjusted_rand(counts: &Counts, a: &[u64], b: &[u64]) -> Option<f64> {
    let pairs = |c: &[u64]| {
        c.iter()
            .map(|c| *c as f64 * (*c as f64 - 1.0) / 2.0)
            .sum::<f64>()
    };
    let (joint, rows, columns) = (pairs(&counts.counts), pairs(a), pairs(b));
    let all = pairs(&[counts.total()]);
    let (expected, most) = (rows * columns / all, f64::midpoint(rows, columns));
    (all > 0.0 && most > expected).then(|| (joint - expected) / (most - expected))
}

/// Largest sum of counts that a one-to-one matching of experts and groups reaches (Hungarian method with potentials, O(k^3)).
pub fn best_matching(counts: &Counts) -> u64 {
    let k = counts.experts.max(counts.groups);
    let cost = |i: usize, j: usize| -> i64 {
        if i < counts.experts && j < counts.groups {
            -(counts.counts[i * counts.groups + j] as i64)
        } else {
            0
        }
    };
    // Rows and columns count from 1; column 0 stands for "none".
    let (mut u, mut v) = (vec![0_i64; k + 1], vec![0_i64; k + 1]);
    let mut owner = vec![0_usize; k + 1];
    for row in 1..=k {
        owner[0] = row;
        let mut column = 0;
        let mut least = vec![i64::MAX; k + 1];
        let mut from = vec![0; k + 1];
        let mut seen = vec![false; k + 1];
        while owner[column] != 0 {
            seen[column] = true;
            let (i, mut step, mut next) = (owner[column], i64::MAX, 0);
            for j in (1..=k).filter(|&j| !seen[j]) {
                let reduced = cost(i - 1, j - 1) - u[i] - v[j];
                if reduced < least[j] {
                    (least[j], from[j]) = (reduced, column);
                }
                if least[j] < step {
                    (step, next) = (least[j], j);
                }
            }
            for j in 0..=k {
                if seen[j] {
                    u[owner[j]] += step;
                    v[j] -= step;
                } else if least[j] < i64::MAX {
                    least[j] -= step;
                }
            }
            column = next;
        }
        while column != 0 {
            let previous = from[column];
            owner[column] = owner[previous];
            column = previous;
        }
    }
    let sum: i64 = (1..=k).map(|j| cost(owner[j] - 1, j - 1)).sum();
    sum.unsigned_abs()
}

/// Routing of some models.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoutingResult {
    /// What made it.
    pub provenance: Provenance,
    /// Layers, by model.
    pub layers: Vec<LayerRouting>,
    /// Agreement of the first two models, layer by layer; empty where there was one, or other tokens.
    pub agreement: Vec<Agreement>,
    /// Why there is no agreement, where two models were given.
    pub agreement_reason: Option<String>,
}

impl RoutingResult {
    /// One line a layer; the module's documentation names the columns.
    pub fn to_csv(&self) -> String {
        let row = |l: &LayerRouting| {
            let grouping = |kind: &str| l.groupings.iter().find(|g| g.kind == kind);
            let information = |kind: &str| optional(grouping(kind).map(|g| g.information));
            let share = |kind: &str| optional(grouping(kind).and_then(|g| g.information_share));
            vec![
                l.model.clone(),
                l.layer.to_string(),
                l.tokens.to_string(),
                l.experts.to_string(),
                l.load_entropy.to_string(),
                optional(l.load_entropy_share),
                l.load.iter().copied().fold(0.0, f64::max).to_string(),
                l.dead.len().to_string(),
                optional(l.gate_mean),
                information("token_class"),
                share("token_class"),
                information("task"),
                share("task"),
            ]
        };
        let header = "model,layer,tokens,experts,load_entropy,load_entropy_share,largest_load,dead,gate_mean,class_information,class_share,task_information,task_share";
        csv(header, self.layers.iter().map(row))
    }

    /// One line an expert and group; the module's documentation names the columns.
    pub fn loads_csv(&self) -> String {
        let mut rows = Vec::new();
        for l in &self.layers {
            let start = |e: usize| vec![l.model.clone(), l.layer.to_string(), e.to_string()];
            for (e, share) in l.load.iter().enumerate() {
                let tokens = (share * l.tokens as f64).round().to_string();
                rows.push(
                    [
                        start(e),
                        vec!["all".into(), "all".into(), tokens, share.to_string()],
                    ]
                    .concat(),
                );
            }
            for g in &l.groupings {
                for (c, group) in g.groups.iter().enumerate() {
                    let total: u64 = g.counts.iter().map(|row| row[c]).sum();
                    for (e, row) in g.counts.iter().enumerate() {
                        let share = row[c] as f64 / total.max(1) as f64;
                        let rest = vec![
                            g.kind.clone(),
                            group.clone(),
                            row[c].to_string(),
                            share.to_string(),
                        ];
                        rows.push([start(e), rest].concat());
                    }
                }
            }
        }
        csv("model,layer,expert,group_kind,group,tokens,share", rows)
    }

    /// One line a pair of layers; the module's documentation names the columns.
    pub fn agreement_csv(&self) -> String {
        csv(
            "layer_a,layer_b,tokens,equal,matched,adjusted_rand,normalised_information",
            self.agreement.iter().map(|a| {
                vec![
                    a.layer_a.to_string(),
                    a.layer_b.to_string(),
                    a.tokens.to_string(),
                    optional(a.equal),
                    a.matched.to_string(),
                    optional(a.adjusted_rand),
                    optional(a.normalised_information),
                ]
            }),
        )
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn joint(a: &[usize], b: &[usize], ka: usize, kb: usize) -> Counts {
        let mut counts = Counts::new(ka, kb);
        a.iter().zip(b).for_each(|(a, b)| counts.add(*a, *b));
        counts
    }

    // a = [0,0,0,1,1,1,2,2,2,2,3,3]; b = [0,0,1,1,1,2,2,2,2,0,3,1]     # scikit-learn 1.9.1
    // adjusted_rand_score(a, b), normalized_mutual_info_score(a, b), mutual_info_score(a, b)
    // C = contingency_matrix(a, b); r, c = scipy.optimize.linear_sum_assignment(-C); C[r, c].sum()
    const GOLDEN: [f64; 4] = [
        0.185_185_185_185_185_17,
        0.502_890_942_203_581_1,
        0.664_830_674_427_379_1,
        8.0,
    ];
    const A: [usize; 12] = [0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 3, 3];
    const B: [usize; 12] = [0, 0, 1, 1, 1, 2, 2, 2, 2, 0, 3, 1];

    #[test]
    fn agreement_equals_scikit_learn() {
        let counts = joint(&A, &B, 4, 4);
        let found = agreement(0, 0, &counts);
        assert!((found.adjusted_rand.unwrap() - GOLDEN[0]).abs() < 1e-12);
        assert!((found.normalised_information.unwrap() - GOLDEN[1]).abs() < 1e-12);
        assert!((counts.information() - GOLDEN[2]).abs() < 1e-12);
        assert!((found.matched * 12.0 - GOLDEN[3]).abs() < 1e-12);
        assert!((found.equal.unwrap() * 12.0 - 8.0).abs() < 1e-12);
    }

    #[test]
    fn loads_and_dead_experts_are_counted() {
        let layer = LayerRouting::new("m", 2, &[6, 0, 2, 0], &[0.5, 1.0], Vec::new());
        assert_eq!(
            (layer.dead.as_slice(), layer.tokens, layer.load[0]),
            (&[1, 3][..], 8, 0.75)
        );
        let expected = -(0.75 * 0.75_f64.ln() + 0.25 * 0.25_f64.ln());
        assert!((layer.load_entropy - expected).abs() < 1e-15);
        assert!((layer.load_entropy_share.unwrap() - expected / 4.0_f64.ln()).abs() < 1e-15);
        assert_eq!(layer.gate_mean, Some(0.75));
        let empty = LayerRouting::new("m", 0, &[0, 0], &[], Vec::new());
        assert!(empty.load == [0.0, 0.0] && empty.load_entropy == 0.0 && empty.gate_mean.is_none());
    }

    #[test]
    fn an_expert_that_names_its_group_has_all_the_information() {
        let counts = joint(&[2, 2, 0, 0, 1], &[0, 0, 1, 1, 2], 3, 3);
        assert!((counts.information_share().unwrap() - 1.0).abs() < 1e-12);
        assert_eq!(agreement(0, 0, &counts).matched, 1.0);
        let blind = joint(&[0, 1, 0, 1], &[0, 0, 1, 1], 2, 2);
        assert!(blind.information() < 1e-15);
        assert_eq!(joint(&[0, 1], &[0, 0], 2, 1).information_share(), None);
        assert_eq!(
            agreement(0, 0, &joint(&[0, 0], &[0, 0], 1, 1)).adjusted_rand,
            None
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn matching_equals_the_best_of_all_and_names_do_not_matter(
            choices in proptest::collection::vec((0_usize..4, 0_usize..4), 1..40), turn in 0_usize..4
        ) {
            let (a, b): (Vec<usize>, Vec<usize>) = choices.into_iter().unzip();
            let counts = joint(&a, &b, 4, 4);
            let mut best = 0;
            let mut order = [0_usize, 1, 2, 3];
            // Heap's method over all 24 matchings.
            let mut c = [0_usize; 4];
            let mut i = 0;
            loop {
                best = best.max((0..4).map(|e| counts.counts[e * 4 + order[e]]).sum());
                while i < 4 && c[i] >= i {
                    c[i] = 0;
                    i += 1;
                }
                if i == 4 {
                    break;
                }
                order.swap(if i % 2 == 0 { 0 } else { c[i] }, i);
                c[i] += 1;
                i = 0;
            }
            prop_assert_eq!(best_matching(&counts), best);
            let renamed: Vec<usize> = b.iter().map(|e| (e + turn) % 4).collect();
            let (one, two) = (agreement(0, 0, &counts), agreement(0, 0, &joint(&a, &renamed, 4, 4)));
            prop_assert!((one.matched - two.matched).abs() < 1e-12);
            prop_assert!(one.adjusted_rand.is_some() == two.adjusted_rand.is_some());
            prop_assert!(counts.information() <= entropy(&counts.sizes()) + 1e-12);
            prop_assert!((agreement(0, 0, &joint(&a, &a, 4, 4)).matched - 1.0).abs() < 1e-12);
        }
    }
}
