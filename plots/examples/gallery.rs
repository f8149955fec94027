//! Draws every kind of figure on made data into a folder, as SVG and PNG:
//!
//! ```text
//! cargo run -p tcd-plots --example gallery -- gallery
//! ```

use std::error::Error;
use std::path::PathBuf;

#[path = "../src/made.rs"]
#[allow(dead_code)]
mod made;

use tcd_plots::{
    Difference, Figure, RunRecords, Score, SentenceLayer, SentenceRouting, Speed, XAxis,
};

fn figures() -> Result<Vec<(String, Figure)>, Box<dyn Error>> {
    let mut all: Vec<(String, Figure)> = Vec::new();
    let mut add = |name: &str, figure: Figure| all.push((name.to_owned(), figure));
    let long = "moe-64-experts-top-1_hidden-768_layers-12_balance-0.01_distilled-from-a-random-teacher_seed-3";

    add(
        "curves",
        tcd_plots::curves(
            &[
                made::curve("vanilla", -2.0, 20),
                made::curve("moe", -4.0, 20),
            ],
            XAxis::Tokens,
            None,
        )?,
    );
    let many: Vec<_> = (0..9)
        .map(|i| made::curve(&format!("{long}{i}"), -2.0 - 0.2 * f64::from(i), 40))
        .collect();
    add(
        "curves-many",
        tcd_plots::curves(&many, XAxis::Steps, Some("Nine runs of long names"))?,
    );
    let terms = [
        "loss",
        "mlm_loss",
        "balance_loss",
        "z_loss",
        "distill.trunk",
        "distill.attention",
    ];
    add(
        "losses",
        tcd_plots::losses(
            &[
                made::records("distilled", &terms, 300),
                made::records("moe", &terms[..4], 300),
            ],
            XAxis::Tokens,
            None,
        )?,
    );
    add(
        "losses-one",
        tcd_plots::losses(
            &[made::records("vanilla", &terms[..2], 5000)],
            XAxis::Steps,
            None,
        )?,
    );
    for (i, figure) in
        tcd_plots::transfer(&made::transfer(&["moe", "random", "vanilla", "distilled"]))?
            .into_iter()
            .enumerate()
    {
        add(&format!("transfer-{i}"), figure);
    }
    add("cka", tcd_plots::cka(&made::cka("vanilla", "moe", 12))?);
    add("cka-large", tcd_plots::cka(&made::cka(long, "moe", 60))?);
    add("cka-tiny", tcd_plots::cka(&made::cka("a", "a", 1))?);
    let (a, b, c, d) = (
        made::cka("vanilla", "moe", 6),
        made::cka("vanilla", long, 6),
        made::cka("moe", "moe", 6),
        made::cka("moe", "random", 12),
    );
    add("cka-grid", tcd_plots::cka_grid(&[&a, &b, &c, &d])?);
    let (s, t) = (
        made::similarity("vanilla", "moe", 6),
        made::similarity("vanilla", "distilled", 6),
    );
    add("depth", tcd_plots::depth(&[&a], &[&s, &t])?);
    add(
        "spectra",
        tcd_plots::spectra(&made::geometry(&["vanilla", "moe"], 12, 128))?,
    );
    add(
        "ranks",
        tcd_plots::ranks(&made::geometry(&["vanilla", "moe", long], 12, 128))?,
    );
    add(
        "projection",
        tcd_plots::projection(&made::projection(
            2000,
            &["function word", "content word", "number", "punctuation"],
            4,
        ))?,
    );
    let numbers: Vec<String> = (0..40).map(|n| n.to_string()).collect();
    let numbers: Vec<&str> = numbers.iter().map(String::as_str).collect();
    add(
        "projection-numbers",
        tcd_plots::projection(&made::projection(300, &numbers, 1))?,
    );
    add(
        "probes",
        tcd_plots::probes(&made::probes(
            &["vanilla", "moe"],
            &["position", "word class", "masked"],
            6,
        ))?,
    );
    add(
        "probes-many",
        tcd_plots::probes(&made::probes(
            &["vanilla", "moe", long],
            &["position", "word class", "masked", "RTE label", "word"],
            12,
        ))?,
    );
    let routing = made::routing(&[("moe", 16), ("distilled", 64)], 4);
    add("load", tcd_plots::load(&routing)?);
    for (i, figure) in tcd_plots::specialisation(&routing)?.into_iter().enumerate() {
        add(&format!("specialisation-{i}"), figure);
    }
    add(
        "sentence",
        tcd_plots::sentence(&made::sentence(
            "[CLS] the old house stood un ##touch ##ed on a hill , far from the town . [SEP]",
            6,
            64,
        ))?,
    );
    let models = ["moe", "random", "distilled", long];
    for (i, figure) in tcd_plots::likelihood(&made::likelihood(
        &models,
        &["speeches", "biology", "fiction"],
    ))?
    .into_iter()
    .take(2)
    .enumerate()
    {
        add(&format!("likelihood-{i}"), figure);
    }
    for (i, figure) in tcd_plots::likelihood_differences(&made::likelihood(
        &models,
        &["speeches", "biology", "fiction"],
    ))?
    .into_iter()
    .take(2)
    .enumerate()
    {
        add(&format!("likelihood-differences-{i}"), figure);
    }
    let tasks = [
        "CoLA", "SST-2", "MRPC", "STS-B", "QQP", "MNLI", "QNLI", "RTE", "average",
    ];
    add(
        "scores",
        tcd_plots::scores(
            &made::scores(&["vanilla", "moe", "distilled", "random"], &tasks),
            &["average over CoLA, SST-2 and others".to_owned()],
        )?,
    );
    add(
        "scores-many",
        tcd_plots::scores(
            &made::scores(
                &["vanilla", "moe", "distilled", "random", long, "f", "g", "h"],
                &tasks[..2],
            ),
            &[],
        )?,
    );
    let mut differences = made::differences(&tasks[..8]);
    add("differences", tcd_plots::differences(&differences)?);
    differences.push(Difference::of_rows(&made::compare()));
    differences.extend(
        made::differences(&tasks[..8])
            .into_iter()
            .map(|d| Difference {
                against: "vanilla".to_owned(),
                ..d
            }),
    );
    add("differences-two", tcd_plots::differences(&differences)?);
    add("speed", tcd_plots::speed(&made::speeds())?);
    Ok(all)
}

fn main() -> Result<(), Box<dyn Error>> {
    let folder = PathBuf::from(
        std::env::args()
            .nth(1)
            .unwrap_or_else(|| "gallery".to_owned()),
    );
    std::fs::create_dir_all(&folder)?;
    for (name, figure) in figures()? {
        figure.write(&folder.join(format!("{name}.svg")))?;
        figure.write(&folder.join(format!("{name}.png")))?;
        std::fs::write(
            folder.join(format!("{name}.data.csv")),
            figure.data().to_csv(),
        )?;
    }
    Ok(())
}
