//! This project's side of `cargo xtask bench analyze`: times a layer-by-layer linear CKA and prints one JSON line.
//!
//! `bench_analyze cka ROWS WIDTH LAYERS ROUNDS FORM` times two models of random features in memory, debiased, without null and interval;
//! FORM is `feature` or `sample`. `bench_analyze stream ROWS WIDTH LAYERS FILE` writes a features file of one model and compares it with
//! itself from the disk, once; peak memory is what matters there.
#![allow(clippy::print_stdout)]

use std::time::Instant;

use serde_json::json;
use tcd_analysis::FeaturesFile;
use tcd_analysis::cka::resample::Resampling;
use tcd_analysis::cka::{CkaOptions, Form, cka};
use tcd_analysis::features::{FeaturesInfo, FeaturesWriter, Slot};
use tcd_analysis::source::{FeatureRows, Memory, RowKind, Selection};

type Failure = Box<dyn std::error::Error>;

/// Reproducible values in -1..1 whose columns differ (SplitMix64).
fn values(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed;
    (0..count)
        .map(|_| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((z ^ (z >> 31)) >> 40) as f32 / f32::from(1_u16 << 12) / 2048.0 - 1.0
        })
        .collect()
}

fn options(form: Form) -> CkaOptions {
    let resampling = Resampling {
        permutations: 0,
        halves: 0,
        ..Resampling::default()
    };
    CkaOptions {
        form,
        resampling,
        ..CkaOptions::default()
    }
}

fn model(seed: u64, rows: usize, width: usize, layers: usize) -> Memory<f32> {
    let tap = |l: usize| {
        (
            format!("layer.{l}.trunk"),
            width,
            values(seed + l as u64, rows * width),
        )
    };
    Memory::new((0..layers).map(tap).collect())
}

/// Largest resident size so far.
fn peak_memory_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok())
        .map_or(0, |kib| 1024 * kib)
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [mode, rows, width, layers, rest @ ..] = arguments.as_slice() else {
        return Err("usage: bench_analyze cka|stream ROWS WIDTH LAYERS ...".into());
    };
    let (rows, width, layers): (usize, usize, usize) =
        (rows.parse()?, width.parse()?, layers.parse()?);
    let mut seconds = Vec::new();
    let mut mean = 0.0;
    let quiet = |_, _, _| ();
    match (mode.as_str(), rest) {
        ("cka", [rounds, form]) => {
            let form = if form == "sample" {
                Form::Sample
            } else {
                Form::Feature
            };
            let (a, b) = (
                model(1, rows, width, layers),
                model(1000, rows, width, layers),
            );
            for _ in 0..rounds.parse::<usize>()? {
                let start = Instant::now();
                let cells = cka(&a, Some(&b), &options(form), &quiet)?;
                seconds.push(start.elapsed().as_secs_f64());
                mean = cells.iter().filter_map(|c| c.cka).sum::<f64>() / cells.len() as f64;
            }
        }
        ("stream", [path]) => {
            write(path, rows, width, layers)?;
            let file = FeaturesFile::open(path)?;
            let selection = Selection {
                rows: RowKind::Token,
                special: true,
                ..Selection::default()
            };
            let source = FeatureRows::new(&file, &[], &selection)?;
            let start = Instant::now();
            let cells = cka(&source, None, &options(Form::Feature), &quiet)?;
            seconds.push(start.elapsed().as_secs_f64());
            mean = cells.iter().filter_map(|c| c.cka).sum::<f64>() / cells.len() as f64;
        }
        _ => return Err("usage: bench_analyze cka|stream ROWS WIDTH LAYERS ...".into()),
    }
    println!(
        "{}",
        json!({"seconds": seconds, "mean": mean, "peak_memory_bytes": peak_memory_bytes()})
    );
    Ok(())
}

/// A features file of rows of 128 tokens.
fn write(path: &str, rows: usize, width: usize, layers: usize) -> Result<(), Failure> {
    let mut slots = vec![
        Slot::ints("input_ids", &[rows]),
        Slot::ints("row", &[rows]),
        Slot::ints("position", &[rows]),
    ];
    slots.extend((0..layers).map(|l| Slot::floats(format!("layer.{l}.trunk"), &[rows, width])));
    let mut writer = FeaturesWriter::create(path, &FeaturesInfo::default(), slots)?;
    for first in (0..rows).step_by(4096) {
        let block = first..rows.min(first + 4096);
        writer.ints(
            "input_ids",
            first,
            &block
                .clone()
                .map(|i| 1000 + (i % 97) as i64)
                .collect::<Vec<_>>(),
        )?;
        writer.ints(
            "row",
            first,
            &block.clone().map(|i| (i / 128) as i64).collect::<Vec<_>>(),
        )?;
        writer.ints(
            "position",
            first,
            &block.clone().map(|i| (i % 128) as i64).collect::<Vec<_>>(),
        )?;
        for l in 0..layers {
            let seed = (l * rows + first) as u64;
            writer.floats(
                &format!("layer.{l}.trunk"),
                first,
                &values(seed, block.len() * width),
            )?;
        }
    }
    writer.finish()?;
    Ok(())
}
