//! The one table of GLUE tasks: columns, labels, metrics, splits, submission files.
//!
//! Fine-tuning, evaluation, submission and reports read this table and nothing else. Source: Wang et al. 2019 (GLUE), the
//! layout of its download and of the Hugging Face data set `glue`; the order of the labels is the latter's.

/// What a task asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One of the task's labels.
    Classification,
    /// A number from 0 to 5.
    Regression,
}

/// A measure of GLUE; computed by [`crate::eval::metrics`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// Matthews correlation coefficient.
    Matthews,
    /// Share of right answers.
    Accuracy,
    /// F1 of the label with index 1.
    F1,
    /// Pearson's correlation.
    Pearson,
    /// Spearman's rank correlation.
    Spearman,
}

impl Metric {
    /// Its name in result files.
    pub fn name(self) -> &'static str {
        match self {
            Metric::Matthews => "matthews",
            Metric::Accuracy => "accuracy",
            Metric::F1 => "f1",
            Metric::Pearson => "pearson",
            Metric::Spearman => "spearman",
        }
    }
}

/// A label of a classification task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    /// Its name, as in the Hugging Face data set and in our model directories.
    pub name: &'static str,
    /// How the TSV files and the GLUE server write it.
    pub file: &'static str,
}

/// What a split is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// To train on.
    Train,
    /// To score on.
    Dev,
    /// Labels are hidden: predictions only.
    Test,
}

impl Role {
    /// `train`, `dev`, `test`.
    pub fn name(self) -> &'static str {
        match self {
            Role::Train => "train",
            Role::Dev => "dev",
            Role::Test => "test",
        }
    }
}

/// Where the values stand in a TSV file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Columns {
    /// All columns of a file without a header; empty where the first line names them.
    pub headerless: &'static [&'static str],
    /// The text columns, one or two.
    pub texts: &'static [&'static str],
    /// The label's column; none in a file with hidden labels.
    pub label: Option<&'static str>,
    /// The column of the row's number, where the submission needs it; elsewhere rows are counted from 0.
    pub index: Option<&'static str>,
}

/// One split of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Split {
    /// Its name: `train`, `dev`, `dev_matched`, ...
    pub name: &'static str,
    /// What it is for.
    pub role: Role,
    /// Names of its TSV file, the usual one first.
    pub files: &'static [&'static str],
    /// Its columns there.
    pub columns: Columns,
    /// Its name in the Hugging Face data set; none where that lacks it.
    pub parquet: Option<&'static str>,
    /// Rows of the official file.
    pub rows: usize,
    /// Its file in a submission.
    pub submission: Option<&'static str>,
}

/// One task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Task {
    /// Its name, also of its folder.
    pub name: &'static str,
    /// Other names of its folder; case, `-` and `_` do not matter.
    pub folders: &'static [&'static str],
    /// What it asks for.
    pub kind: Kind,
    /// Its labels by index; empty for a regression.
    pub labels: &'static [Label],
    /// Its metrics; their mean is the task's score.
    pub metrics: &'static [Metric],
    /// Its splits.
    pub splits: &'static [Split],
    /// Its text columns in the Hugging Face data set.
    pub parquet_texts: &'static [&'static str],
    /// Whether the average of the GLUE paper has it; the diagnostic set is not in it.
    pub in_average: bool,
    /// The task whose models answer it, where it has no training set.
    pub answered_by: Option<&'static str>,
}

const fn label(name: &'static str, file: &'static str) -> Label {
    Label { name, file }
}

const fn columns(
    texts: &'static [&'static str],
    label: Option<&'static str>,
    index: Option<&'static str>,
) -> Columns {
    Columns {
        headerless: &[],
        texts,
        label,
        index,
    }
}

const fn train(columns: Columns, rows: usize) -> Split {
    Split {
        name: "train",
        role: Role::Train,
        files: &["train.tsv"],
        columns,
        parquet: Some("train"),
        rows,
        submission: None,
    }
}

const fn dev(columns: Columns, rows: usize) -> Split {
    Split {
        name: "dev",
        role: Role::Dev,
        files: &["dev.tsv"],
        columns,
        parquet: Some("validation"),
        rows,
        submission: None,
    }
}

const fn test(columns: Columns, rows: usize, submission: &'static str) -> Split {
    Split {
        name: "test",
        role: Role::Test,
        files: &["test.tsv"],
        columns,
        parquet: Some("test"),
        rows,
        submission: Some(submission),
    }
}

const NOT_ENTAILMENT_LAST: [Label; 2] = [
    label("entailment", "entailment"),
    label("not_entailment", "not_entailment"),
];
const NLI: [Label; 3] = [
    label("entailment", "entailment"),
    label("neutral", "neutral"),
    label("contradiction", "contradiction"),
];
const PAIR: [&str; 2] = ["sentence1", "sentence2"];
const COLA: Columns = Columns {
    headerless: &["source", "label", "mark", "sentence"],
    texts: &["sentence"],
    label: Some("label"),
    index: None,
};
const SINGLE_TEST: Columns = columns(&["sentence"], None, Some("index"));
const PAIR_TEST: Columns = columns(&PAIR, None, Some("index"));
const MRPC_TEXTS: [&str; 2] = ["#1 String", "#2 String"];

/// The tasks, in the order of the GLUE paper, the diagnostic set last.
pub const TASKS: [Task; 10] = [
    Task {
        name: "CoLA",
        folders: &["cola"],
        kind: Kind::Classification,
        labels: &[label("unacceptable", "0"), label("acceptable", "1")],
        metrics: &[Metric::Matthews],
        splits: &[
            train(COLA, 8551),
            dev(COLA, 1043),
            test(SINGLE_TEST, 1063, "CoLA.tsv"),
        ],
        parquet_texts: &["sentence"],
        in_average: true,
        answered_by: None,
    },
    Task {
        name: "SST-2",
        folders: &["sst2"],
        kind: Kind::Classification,
        labels: &[label("negative", "0"), label("positive", "1")],
        metrics: &[Metric::Accuracy],
        splits: &[
            train(columns(&["sentence"], Some("label"), None), 67_349),
            dev(columns(&["sentence"], Some("label"), None), 872),
            test(SINGLE_TEST, 1821, "SST-2.tsv"),
        ],
        parquet_texts: &["sentence"],
        in_average: true,
        answered_by: None,
    },
    Task {
        name: "MRPC",
        folders: &["mrpc"],
        kind: Kind::Classification,
        labels: &[label("not_equivalent", "0"), label("equivalent", "1")],
        metrics: &[Metric::F1, Metric::Accuracy],
        splits: &[
            train(columns(&MRPC_TEXTS, Some("Quality"), None), 3668),
            dev(columns(&MRPC_TEXTS, Some("Quality"), None), 408),
            test(columns(&MRPC_TEXTS, None, Some("index")), 1725, "MRPC.tsv"),
        ],
        parquet_texts: &PAIR,
        in_average: true,
        answered_by: None,
    },
    Task {
        name: "STS-B",
        folders: &["stsb"],
        kind: Kind::Regression,
        labels: &[],
        metrics: &[Metric::Pearson, Metric::Spearman],
        splits: &[
            train(columns(&PAIR, Some("score"), None), 5749),
            dev(columns(&PAIR, Some("score"), None), 1500),
            test(PAIR_TEST, 1379, "STS-B.tsv"),
        ],
        parquet_texts: &PAIR,
        in_average: true,
        answered_by: None,
    },
    Task {
        name: "QQP",
        folders: &["qqp"],
        kind: Kind::Classification,
        labels: &[label("not_duplicate", "0"), label("duplicate", "1")],
        metrics: &[Metric::F1, Metric::Accuracy],
        splits: &[
            train(
                columns(&["question1", "question2"], Some("is_duplicate"), None),
                363_846,
            ),
            dev(
                columns(&["question1", "question2"], Some("is_duplicate"), None),
                40_430,
            ),
            test(
                columns(&["question1", "question2"], None, Some("id")),
                390_965,
                "QQP.tsv",
            ),
        ],
        parquet_texts: &["question1", "question2"],
        in_average: true,
        answered_by: None,
    },
    Task {
        name: "MNLI",
        folders: &["mnli"],
        kind: Kind::Classification,
        labels: &NLI,
        metrics: &[Metric::Accuracy],
        splits: &[
            train(columns(&PAIR, Some("gold_label"), None), 392_702),
            Split {
                name: "dev_matched",
                files: &["dev_matched.tsv"],
                parquet: Some("validation_matched"),
                ..dev(columns(&PAIR, Some("gold_label"), None), 9815)
            },
            Split {
                name: "dev_mismatched",
                files: &["dev_mismatched.tsv"],
                parquet: Some("validation_mismatched"),
                ..dev(columns(&PAIR, Some("gold_label"), None), 9832)
            },
            Split {
                name: "test_matched",
                files: &["test_matched.tsv"],
                parquet: Some("test_matched"),
                ..test(PAIR_TEST, 9796, "MNLI-m.tsv")
            },
            Split {
                name: "test_mismatched",
                files: &["test_mismatched.tsv"],
                parquet: Some("test_mismatched"),
                ..test(PAIR_TEST, 9847, "MNLI-mm.tsv")
            },
        ],
        parquet_texts: &["premise", "hypothesis"],
        in_average: true,
        answered_by: None,
    },
    Task {
        name: "QNLI",
        folders: &["qnli"],
        kind: Kind::Classification,
        labels: &NOT_ENTAILMENT_LAST,
        metrics: &[Metric::Accuracy],
        splits: &[
            train(
                columns(&["question", "sentence"], Some("label"), None),
                104_743,
            ),
            dev(
                columns(&["question", "sentence"], Some("label"), None),
                5463,
            ),
            test(
                columns(&["question", "sentence"], None, Some("index")),
                5463,
                "QNLI.tsv",
            ),
        ],
        parquet_texts: &["question", "sentence"],
        in_average: true,
        answered_by: None,
    },
    Task {
        name: "RTE",
        folders: &["rte"],
        kind: Kind::Classification,
        labels: &NOT_ENTAILMENT_LAST,
        metrics: &[Metric::Accuracy],
        splits: &[
            train(columns(&PAIR, Some("label"), None), 2490),
            dev(columns(&PAIR, Some("label"), None), 277),
            test(PAIR_TEST, 3000, "RTE.tsv"),
        ],
        parquet_texts: &PAIR,
        in_average: true,
        answered_by: None,
    },
    Task {
        name: "WNLI",
        folders: &["wnli"],
        kind: Kind::Classification,
        labels: &[label("not_entailment", "0"), label("entailment", "1")],
        metrics: &[Metric::Accuracy],
        splits: &[
            train(columns(&PAIR, Some("label"), None), 635),
            dev(columns(&PAIR, Some("label"), None), 71),
            test(PAIR_TEST, 146, "WNLI.tsv"),
        ],
        parquet_texts: &PAIR,
        in_average: true,
        answered_by: None,
    },
    Task {
        name: "AX",
        folders: &["ax", "diagnostic"],
        kind: Kind::Classification,
        labels: &NLI,
        metrics: &[Metric::Matthews],
        splits: &[
            Split {
                files: &["diagnostic-full.tsv"],
                parquet: None,
                ..dev(
                    columns(&["Premise", "Hypothesis"], Some("Label"), None),
                    1104,
                )
            },
            Split {
                files: &["diagnostic.tsv", "AX.tsv", "test.tsv"],
                ..test(PAIR_TEST, 1104, "AX.tsv")
            },
        ],
        parquet_texts: &["premise", "hypothesis"],
        in_average: false,
        answered_by: Some("MNLI"),
    },
];

/// Letters and digits in lower case: what of a name matters.
fn plain(name: &str) -> String {
    name.chars()
        .filter(char::is_ascii_alphanumeric)
        .map(|c| c.to_ascii_lowercase())
        .collect()
}

impl Task {
    /// The task of a name; case, `-` and `_` do not matter.
    pub fn find(name: &str) -> Option<&'static Task> {
        let wanted = plain(name);
        TASKS.iter().find(|task| plain(task.name) == wanted)
    }

    /// Whether a folder of this name holds the task.
    pub fn owns_folder(&self, name: &str) -> bool {
        let name = plain(name);
        name == plain(self.name) || self.folders.contains(&name.as_str())
    }

    /// The splits of a role.
    pub fn splits_of(&self, role: Role) -> impl Iterator<Item = &'static Split> + use<> {
        let splits: &'static [Split] = self.splits;
        splits.iter().filter(move |split| split.role == role)
    }

    /// The split of a name.
    pub fn split(&self, name: &str) -> Option<&'static Split> {
        let splits: &'static [Split] = self.splits;
        splits.iter().find(|split| split.name == name)
    }

    /// Outputs of a model for it: the number of labels, 1 for a regression.
    pub fn outputs(&self) -> usize {
        self.labels.len().max(1)
    }

    /// The names of the labels, by index.
    pub fn label_names(&self) -> Vec<String> {
        self.labels.iter().map(|l| l.name.to_owned()).collect()
    }

    /// The index of a label, by its name or as the files write it; case does not matter.
    pub fn label_index(&self, name: &str) -> Option<usize> {
        let same = |other: &str| plain(other) == plain(name);
        self.labels
            .iter()
            .position(|l| same(l.name))
            .or_else(|| self.labels.iter().position(|l| same(l.file)))
    }

    /// The names of all tasks, for messages.
    pub fn names() -> String {
        TASKS.map(|task| task.name).join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_hangs_together() {
        for task in &TASKS {
            assert_eq!(
                Task::find(&task.name.to_lowercase().replace('-', "_")),
                Some(task)
            );
            assert!(task.owns_folder(task.name), "{}", task.name);
            assert_eq!(task.labels.is_empty(), task.kind == Kind::Regression);
            assert!(!task.metrics.is_empty());
            for (index, label) in task.labels.iter().enumerate() {
                assert_eq!(task.label_index(label.name), Some(index));
                assert_eq!(task.label_index(label.file), Some(index));
            }
            for split in task.splits {
                assert_eq!(task.split(split.name), Some(split), "names differ");
                assert_eq!(split.columns.label.is_none(), split.role == Role::Test);
                assert_eq!(split.submission.is_some(), split.role == Role::Test);
                assert_eq!(split.columns.texts.len(), task.parquet_texts.len());
            }
            let trained = task.splits_of(Role::Train).count();
            match task.answered_by {
                Some(other) => {
                    let other = Task::find(other).expect("a task of the table");
                    assert_eq!((trained, other.labels), (0, task.labels));
                }
                None => assert_eq!(trained, 1, "{}", task.name),
            }
        }
        let files = TASKS
            .iter()
            .flat_map(|t| t.splits.iter().filter_map(|s| s.submission));
        assert_eq!(files.count(), 11);
        assert_eq!(TASKS.iter().filter(|t| t.in_average).count(), 9);
        assert_eq!(Task::find("SNLI"), None);
    }
}
