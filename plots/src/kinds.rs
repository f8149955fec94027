//! The table of kinds of figures.
//!
//! A kind is what a person asks for by name; its row says what it shows and which results it takes. The figure functions in this crate
//! name their kind, the program finds results for a kind by [`Source`].

/// What a result file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// A run directory with `metrics.jsonl`.
    Run,
    /// Schema `transfer`, of `tcd analyze curve`.
    Transfer,
    /// Schema `cka`.
    Cka,
    /// Schema `similarity`.
    Similarity,
    /// Schema `geometry`.
    Geometry,
    /// Schema `projection`, of `tcd analyze project`.
    Projection,
    /// Schema `probe`.
    Probe,
    /// Schema `routing`.
    Routing,
    /// Routing of single sentences.
    Sentence,
    /// Schema `likelihood`.
    Likelihood,
    /// Schema `compare`.
    Compare,
    /// `result.json` of `tcd eval` or `tcd finetune`.
    GlueResult,
    /// JSON of `tcd glue table`.
    GlueTable,
    /// JSON of `tcd glue compare`.
    GlueCompare,
    /// JSON of `cargo xtask bench eval`.
    Bench,
}

impl Source {
    /// What it is called in messages, with what writes it.
    pub fn describe(self) -> &'static str {
        match self {
            Source::Run => "run directory of `tcd pretrain` or `tcd distill run`",
            Source::Transfer => "result of `tcd analyze curve`",
            Source::Cka => "result of `tcd analyze cka`",
            Source::Similarity => "result of `tcd analyze similarity`",
            Source::Geometry => "result of `tcd analyze geometry`",
            Source::Projection => "result of `tcd analyze project`",
            Source::Probe => "result of `tcd analyze probe`",
            Source::Routing => "result of `tcd analyze routing`",
            Source::Sentence => "routing of single sentences",
            Source::Likelihood => "result of `tcd analyze likelihood`",
            Source::Compare => "result of `tcd analyze compare`",
            Source::GlueResult => "results of `tcd eval` or `tcd finetune`",
            Source::GlueTable => "`tcd glue table --format json`",
            Source::GlueCompare => "`tcd glue compare --json`",
            Source::Bench => "`runs/bench/eval.json` of `cargo xtask bench eval`",
        }
    }
}

/// One kind of figure.
#[derive(Debug, PartialEq, Eq)]
pub struct Kind {
    /// Name on the command line and in file names.
    pub name: &'static str,
    /// What it shows, one line without a full stop.
    pub shows: &'static str,
    /// How to read it, for the help text.
    pub reading: &'static str,
    /// What it takes.
    pub takes: &'static [Source],
    /// Whether all results given go into one figure; else each gives its own.
    pub together: bool,
    /// A command that draws one.
    pub example: &'static str,
}

/// Every kind, in the order of a report.
pub const KINDS: [Kind; 18] = [
    Kind {
        name: "curves",
        shows: "Held-out log-likelihood and accuracy over training, by steps, tokens or hours",
        reading: "Higher is better in both panels. Compare runs at equal tokens (--x tokens) or at equal time (--x hours).",
        takes: &[Source::Run],
        together: true,
        example: "tcd plot curves runs/vanilla runs/moe --x tokens --out curves.svg",
    },
    Kind {
        name: "losses",
        shows: "Training losses, one panel a term",
        reading: "Raw values, before weights: masked-LM loss, balance and router losses of experts, distillation terms. Runs share a panel where both have the term.",
        takes: &[Source::Run],
        together: true,
        example: "tcd plot losses runs/moe runs/distilled --out losses.svg",
    },
    Kind {
        name: "transfer",
        shows: "GLUE score against held-out log-likelihood by family, the transfer gap shaded",
        reading: "Where one curve lies above another at the same log-likelihood, its models transfer better than their pre-training loss says. The shaded area is the gap over the range that both cover.",
        takes: &[Source::Transfer],
        together: false,
        example: "tcd plot transfer transfer.json --out transfer.svg",
    },
    Kind {
        name: "cka",
        shows: "CKA of every layer of one model with every layer of another, as a heat map",
        reading: "1 (light) means that the two layers hold the same relations between tokens, 0 (dark) that they have nothing in common. A crossed cell has no value.",
        takes: &[Source::Cka],
        together: false,
        example: "tcd plot cka cka.json --out cka.png",
    },
    Kind {
        name: "cka-grid",
        shows: "CKA heat maps of several pairs of models on one scale",
        reading: "As `cka`; equal colours mean equal values in all maps.",
        takes: &[Source::Cka],
        together: true,
        example: "tcd plot cka-grid cka-*.json --out grid.svg",
    },
    Kind {
        name: "depth",
        shows: "Similarity and distance of two models by depth, layer against the same layer",
        reading: "One panel a measure, one line a pair of models. Whiskers are intervals, the thin dashed line is what unrelated features reach.",
        takes: &[Source::Cka, Source::Similarity],
        together: true,
        example: "tcd plot depth similarity-*.json cka-*.json --out depth.svg",
    },
    Kind {
        name: "spectra",
        shows: "Share of variance along each principal direction, by layer",
        reading: "Both axes are logarithmic. A line that falls fast means that few directions hold most of the variance.",
        takes: &[Source::Geometry],
        together: false,
        example: "tcd plot spectra geometry.json --out spectra.svg",
    },
    Kind {
        name: "ranks",
        shows: "Effective rank, participation ratio and anisotropy by layer",
        reading: "Rank and ratio count the directions in use; anisotropy is the mean cosine between tokens, 0 where they point everywhere.",
        takes: &[Source::Geometry],
        together: false,
        example: "tcd plot ranks geometry.json --out ranks.svg",
    },
    Kind {
        name: "projection",
        shows: "Rows in two dimensions (PCA or t-SNE), coloured by label",
        reading: "One panel a layer. PCA keeps distances and says how much variance an axis holds; t-SNE keeps neighbours only, its axes have no unit.",
        takes: &[Source::Projection],
        together: false,
        example: "tcd plot projection pca.json --out pca.png",
    },
    Kind {
        name: "probes",
        shows: "Held-out score of linear probes by layer, beside a control task",
        reading: "One panel a task. The solid line is the probe, the dashed one the same probe on random labels: only the distance between them is owed to the features.",
        takes: &[Source::Probe],
        together: false,
        example: "tcd plot probes probe.json --out probes.svg",
    },
    Kind {
        name: "load",
        shows: "Load of each expert in each layer, as a heat map",
        reading: "1 is an equal share of the tokens. A crossed cell is an expert that no token chose.",
        takes: &[Source::Routing],
        together: false,
        example: "tcd plot load routing.json --out load.svg",
    },
    Kind {
        name: "specialisation",
        shows: "What experts specialise in: groups of tokens by expert, and how much an expert tells of the group",
        reading: "In the maps, a cell is how many times more often than chance an expert takes tokens of the group (doublings: +1 is twice, -1 half). In the lines, 0 means that experts know nothing of the groups, 1 that the expert names the group.",
        takes: &[Source::Routing],
        together: false,
        example: "tcd plot specialisation routing.json --out specialisation.svg",
    },
    Kind {
        name: "sentence",
        shows: "Routing of one sentence, token by token and layer by layer",
        reading: "The number in a cell is the expert that the token went to, the colour the router's probability for it.",
        takes: &[Source::Sentence],
        together: false,
        example: "tcd plot sentence trace.json --out sentence.svg",
    },
    Kind {
        name: "likelihood",
        shows: "Masked-LM log-likelihood by corpus and token class, with intervals",
        reading: "Nats a masked token; bars that reach less far from zero are better. Whiskers are bootstrap intervals over rows.",
        takes: &[Source::Likelihood],
        together: false,
        example: "tcd plot likelihood ood.json --out ood.svg",
    },
    Kind {
        name: "likelihood-differences",
        shows: "Differences in log-likelihood to the first model, with intervals",
        reading: "Right of zero the model is better than the first one on the same masked tokens. An interval that misses zero is a difference that the choice of rows does not explain.",
        takes: &[Source::Likelihood],
        together: false,
        example: "tcd plot likelihood-differences ood.json --out differences.svg",
    },
    Kind {
        name: "scores",
        shows: "GLUE scores by task and model, with the spread over seeds",
        reading: "Bars are medians over seeds, whiskers go from the lowest to the best seed.",
        takes: &[Source::GlueResult, Source::GlueTable],
        together: true,
        example: "tcd plot scores scores/vanilla scores/moe --out glue.svg",
    },
    Kind {
        name: "differences",
        shows: "Paired differences between two models by task, with intervals",
        reading: "Right of zero the model named first in the label is better. An interval that misses zero is a difference that the choice of rows does not explain.",
        takes: &[Source::GlueCompare, Source::Compare],
        together: true,
        example: "tcd plot differences compare.json --out differences.svg",
    },
    Kind {
        name: "speed",
        shows: "Speed and size of exported models, with ratios to the first",
        reading: "Rows a second, more is better; whiskers go from the slowest to the fastest pass. Size is that of the ONNX file with its data.",
        takes: &[Source::GlueResult, Source::Bench],
        together: true,
        example: "tcd plot speed scores/onnx runs/bench/eval.json --out speed.svg",
    },
];

/// The kind of that name.
pub fn kind(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|k| k.name == name)
}

/// The kind that a figure function names.
pub(crate) fn kind_of(name: &'static str) -> Result<&'static Kind, crate::PlotError> {
    kind(name).ok_or_else(|| crate::PlotError::result(format!("no such kind of figure: {name}")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_are_unique_and_every_row_teaches() {
        for (i, k) in KINDS.iter().enumerate() {
            assert!(KINDS[..i].iter().all(|o| o.name != k.name), "{}", k.name);
            assert_eq!(kind(k.name), Some(k));
            assert!(k.name.chars().all(|c| c.is_ascii_lowercase() || c == '-'));
            assert!(
                !k.shows.ends_with('.') && k.reading.ends_with('.'),
                "{}",
                k.name
            );
            assert!(!k.takes.is_empty());
            assert!(k.example.starts_with(&format!("tcd plot {} ", k.name)));
        }
        assert_eq!(kind("pie"), None);
    }
}
