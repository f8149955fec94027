//! Laws of the model: padding never matters, a mixture of one expert is a vanilla model, every parameter learns.

use tcd::model::{
    Bert, BertInput, Initialisation, MaskedLmHead, Mode, ModelError, Noise, Store, StoreOptions,
};
use tcd_export::{Architecture, Head, ModelConfig, MoeConfig, parameters};
use tch::{Device, Kind, Tensor};

const CPU: StoreOptions = StoreOptions {
    device: Device::Cpu,
    bf16: false,
};

fn arch(moe: Option<MoeConfig>) -> Architecture {
    let mut config = ModelConfig::new(50, 2, 16, 2, 24);
    config.max_position_embeddings = 12;
    config.moe = moe;
    config.validate().unwrap()
}

fn store(arch: &Architecture) -> Store {
    let mut store = Store::new(&parameters(arch, Head::MaskedLm), CPU).unwrap();
    store.initialise(Initialisation { seed: 3, std: 0.3 });
    store
}

fn tokens(rows: i64, length: i64) -> Tensor {
    ((Tensor::arange(rows * length, (Kind::Int64, Device::Cpu)) * 7).remainder(45) + 5)
        .view([rows, length])
}

fn plain(input_ids: Tensor) -> BertInput {
    BertInput {
        input_ids,
        attention_mask: None,
        token_type_ids: None,
    }
}

fn largest(a: &Tensor, b: &Tensor) -> f64 {
    (a - b).abs().max().double_value(&[])
}

fn run(store: &Store, arch: &Architecture, input: &BertInput) -> tcd::model::Encoded {
    tch::no_grad(|| Bert::new(store, arch).forward(input, Mode::Eval, true))
}

#[test]
fn padding_changes_neither_real_rows_nor_routing() {
    for moe in [None, Some(MoeConfig::new(4))] {
        let arch = arch(moe);
        let store = store(&arch);
        let alone = run(&store, &arch, &plain(tokens(2, 7)));
        for pad in [0, 9] {
            let padding = Tensor::full([2, 5], pad, (Kind::Int64, Device::Cpu));
            let mask = Tensor::cat(&[tokens(2, 7).ones_like(), padding.zeros_like()], 1);
            let input = BertInput {
                input_ids: Tensor::cat(&[tokens(2, 7), padding], 1),
                attention_mask: Some(mask),
                token_type_ids: None,
            };
            let padded = run(&store, &arch, &input);
            let difference = largest(&padded.hidden.narrow(1, 0, 7), &alone.hidden);
            assert!(difference < 1e-5, "{difference}");
            for (a, b) in alone.routing.iter().zip(&padded.routing) {
                assert_eq!(a.load, b.load);
                assert!(largest(&a.balance_loss, &b.balance_loss) < 1e-5);
                assert!(largest(&a.z_loss, &b.z_loss) < 1e-4);
                assert!(largest(&a.entropy, &b.entropy) < 1e-5);
            }
        }
    }
}

/// A mixture whose every expert is the vanilla model's block, and whose routers spread the tokens.
fn copied(vanilla: &Store, moe_arch: &Architecture) -> Store {
    let mut store = store(moe_arch);
    store
        .load::<ModelError>(|p| {
            let dense = match p.name.split_once(".moe.experts.") {
                Some((layer, rest)) => format!("{layer}.{}", rest.split_once('.').unwrap().1),
                None => p.name.clone(),
            };
            let values = vanilla.read(vanilla.buffer(), &dense);
            let router = || {
                (0..p.shape.iter().product())
                    .map(|i: usize| (i * 7 % 11) as f32 * 0.1 - 0.5)
                    .collect()
            };
            Ok(values.unwrap_or_else(router))
        })
        .unwrap();
    store
}

#[test]
fn one_expert_is_the_vanilla_model() {
    let vanilla_arch = arch(None);
    let moe_arch = arch(Some(MoeConfig::new(1)));
    let vanilla = store(&vanilla_arch);
    let moe = copied(&vanilla, &moe_arch);
    let input = plain(tokens(3, 9));
    let difference = largest(
        &run(&vanilla, &vanilla_arch, &input).hidden,
        &run(&moe, &moe_arch, &input).hidden,
    );
    assert!(difference < 1e-5, "{difference}");
}

#[test]
fn experts_that_agree_give_the_gate_times_the_vanilla_block() {
    let vanilla_arch = arch(None);
    let moe_arch = arch(Some(MoeConfig::new(5)));
    let vanilla = store(&vanilla_arch);
    let moe = copied(&vanilla, &moe_arch);
    let input = plain(tokens(4, 11));
    let inner = |e: &tcd::model::Encoded| {
        e.taps.as_ref().unwrap()[&tcd::model::Tap::FeedForwardInner(0)].shallow_clone()
    };
    let (a, b) = (
        run(&vanilla, &vanilla_arch, &input),
        run(&moe, &moe_arch, &input),
    );
    let gate = b.routing[0].gate.view([4, 11, 1]);
    assert!(
        gate.max().double_value(&[]) < 0.999,
        "gates are not one, so the product is seen"
    );
    let difference = largest(&(inner(&a) * gate), &inner(&b));
    assert!(difference < 1e-5, "{difference}");
    assert!(
        b.routing[0].load.gt(0).sum(Kind::Int64).int64_value(&[]) > 1,
        "several experts are reached"
    );
}

#[test]
fn capacity_drops_what_goes_beyond_and_passes_it_by() {
    let mut moe = MoeConfig::new(4);
    moe.capacity_factor = Some(0.5);
    let arch = arch(Some(moe));
    let store = store(&arch);
    let encoded = run(&store, &arch, &plain(tokens(4, 10)));
    let capacity = 5; // ceil(0.5 * 40 / 4)
    let load = Vec::<i64>::try_from(&encoded.routing[0].load).unwrap();
    let expected: i64 = load.iter().map(|n| (n - capacity).max(0)).sum();
    assert!(expected > 0);
    assert_eq!(encoded.routing[0].dropped, expected);
    let inner = &encoded.taps.unwrap()[&tcd::model::Tap::FeedForwardInner(0)];
    let zero_rows = inner
        .abs()
        .sum_dim_intlist([-1i64].as_slice(), false, Kind::Float)
        .eq(0.0)
        .sum(Kind::Int64);
    assert_eq!(zero_rows.int64_value(&[]), expected);
}

#[test]
fn every_parameter_gets_a_gradient_and_balance_reaches_the_router() {
    for moe in [None, Some(MoeConfig::new(3))] {
        let arch = arch(moe);
        let store = store(&arch);
        let (bert, head) = (Bert::new(&store, &arch), MaskedLmHead::new(&store, &arch));
        let noise = Noise::new(1, 0, 0);
        let input = BertInput {
            input_ids: tokens(8, 12),
            attention_mask: None,
            token_type_ids: Some(tokens(8, 12).remainder(2)),
        };
        let encoded = bert.forward(&input, Mode::Train(&noise), false);
        let positions = Tensor::from_slice(&[1i64, 13, 25, 40, 77]);
        let labels = Tensor::from_slice(&[9i64, 13, 25, 40, 7]);
        let loss = head.loss(&encoded.hidden, &positions, &labels).mean;
        let leaves: Vec<&Tensor> = store.leaves().iter().map(|l| &l.tensor).collect();
        let gradients = Tensor::run_backward(&[&loss], &leaves, true, false);
        for (leaf, gradient) in store.leaves().iter().zip(&gradients) {
            assert!(gradient.defined(), "{}", leaf.name);
            // The last layer's own outputs at positions that are not predicted get none, so look at the whole tensor.
            assert!(
                gradient.abs().max().double_value(&[]) > 0.0,
                "{}",
                leaf.name
            );
        }
        for routing in &encoded.routing {
            let routers: Vec<&Tensor> = store
                .leaves()
                .iter()
                .filter(|l| l.name.contains("router"))
                .map(|l| &l.tensor)
                .collect();
            let reach = Tensor::run_backward(&[&routing.balance_loss], &routers, true, false);
            assert!(
                reach
                    .iter()
                    .any(|g| g.defined() && g.abs().max().double_value(&[]) > 0.0)
            );
        }
    }
}

/// The grouped product against a loop written for reading, forward and backward, with experts that get no token.
#[test]
fn grouped_experts_equal_a_loop() {
    let arch = arch(Some(MoeConfig::new(9)));
    let store = store(&arch);
    let input = plain(tokens(2, 6));
    let encoded = run(&store, &arch, &input);
    let taps = encoded.taps.unwrap();
    let layer = "bert.encoder.layer.0";
    let read = |name: &str, shape: &[i64]| {
        Tensor::from_slice(
            &store
                .read(store.buffer(), &format!("{layer}.{name}"))
                .unwrap(),
        )
        .view(shape)
    };
    let x = &taps[&tcd::model::Tap::Embedding] + &taps[&tcd::model::Tap::AttentionInner(0)];
    let x = x.layer_norm(
        [16i64],
        Some(read("attention.output.LayerNorm.weight", &[16])),
        Some(read("attention.output.LayerNorm.bias", &[16])),
        arch.layer_norm_eps,
        false,
    );
    let x = x.view([12, 16]);
    let p = x
        .matmul(&read("moe.router.weight", &[9, 16]).tr())
        .softmax(-1, Kind::Float);
    let mut rows = Vec::new();
    for t in 0..12i64 {
        let e = p.get(t).argmax(0, false).int64_value(&[]);
        let up = read(
            &format!("moe.experts.{e}.intermediate.dense.weight"),
            &[24, 16],
        );
        let up_bias = read(&format!("moe.experts.{e}.intermediate.dense.bias"), &[24]);
        let down = read(&format!("moe.experts.{e}.output.dense.weight"), &[16, 24]);
        let down_bias = read(&format!("moe.experts.{e}.output.dense.bias"), &[16]);
        let y = x
            .get(t)
            .linear(&up, Some(up_bias))
            .gelu("none")
            .linear(&down, Some(down_bias));
        rows.push(y * p.get(t).get(e));
    }
    let expected = Tensor::stack(&rows, 0);
    let load = Vec::<i64>::try_from(&encoded.routing[0].load).unwrap();
    assert!(
        load.contains(&0) && load.iter().filter(|n| **n > 0).count() > 1,
        "{load:?}"
    );
    let got = taps[&tcd::model::Tap::FeedForwardInner(0)].view([12, 16]);
    let difference = largest(&got, &expected);
    assert!(difference < 1e-5, "{difference}");
}
