//! The frozen teacher: any BERT with the corpus's tokenizer, in evaluation mode, without gradient.

use std::path::PathBuf;

use tch::Tensor;
use thiserror::Error;

use tcd_export::{
    Architecture, ConfigError, Head, ModelConfig, ModelDir, ModelDirError, Values, parameters,
};

use super::config::{DistillConfig, Teacher};
use super::method::{Row, row};
use crate::data::tokenizer::{Tokenizer, TokenizerError};
use crate::model::{
    Bert, BertInput, Encoded, Initialisation, MaskedLmHead, Mode, ModelError, Store, StoreOptions,
};

/// Why there is no distillation.
#[derive(Debug, Error)]
pub enum DistillError {
    /// The teacher's directory cannot be read.
    #[error("the teacher cannot be read")]
    ModelDir(#[from] ModelDirError),
    /// The teacher's tokenizer cannot be read.
    #[error("the teacher's tokenizer cannot be read")]
    Tokenizer(#[from] TokenizerError),
    /// The teacher cannot be built.
    #[error("the teacher cannot be built")]
    Model(#[from] ModelError),
    /// The random teacher's size cannot be.
    #[error("`distill.random.model` cannot be")]
    Random(#[from] ConfigError),
    /// Teacher and corpus do not go together.
    #[error("the model `{}` and the corpus have different tokenizers: {model} and {corpus} (hashes); hint: build the corpus with the model's tokenizer (`tcd corpus build --tokenizer {}`)", path.display(), path.display())]
    Tokenizers {
        /// Model directory.
        path: PathBuf,
        /// Hash of its tokenizer.
        model: String,
        /// Hash of the corpus's.
        corpus: String,
    },
    /// Teacher and student do not go together.
    #[error("cannot distil: {0}")]
    Unfit(String),
}

/// A frozen model.
#[derive(Debug)]
pub struct TeacherModel {
    /// What it is.
    pub arch: Architecture,
    /// Hash of its weights, or `random` and its seed: what decides on what it teaches.
    pub key: String,
    store: Store,
    bert: Bert,
    head: Option<MaskedLmHead>,
}

/// What a student brings to the choice of a teacher.
#[derive(Clone, Copy, Debug)]
pub struct Pupil<'a> {
    /// The student.
    pub arch: &'a Architecture,
    /// The corpus's tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// Longest row of the corpus.
    pub sequence_length: usize,
    /// Where and how the student computes.
    pub options: StoreOptions,
}

impl TeacherModel {
    /// Loads or draws the teacher of a configuration.
    ///
    /// # Errors
    /// A directory that cannot be read, another tokenizer, too few positions or embeddings, no head where the method needs it.
    pub fn open(config: &DistillConfig, pupil: &Pupil) -> Result<Self, DistillError> {
        let row = row(config.method);
        let teacher = match &config.teacher {
            Teacher::Directory(path) => Self::load(path.clone(), row.needs_head, pupil)?,
            Teacher::Random => Self::draw(config, row, pupil)?,
        };
        let needed = pupil.sequence_length;
        if teacher.arch.max_position_embeddings < needed {
            return Err(DistillError::Unfit(format!(
                "the teacher has {} positions, the corpus's rows are {needed} long; hint: build the corpus with a smaller `--sequence-length`",
                teacher.arch.max_position_embeddings
            )));
        }
        if row.needs_head && teacher.arch.vocab_size != pupil.arch.vocab_size {
            return Err(DistillError::Unfit(format!(
                "`distill.method = \"{}\"` compares predictions, but the teacher has {} and the student {}",
                row.name, teacher.arch.vocab_size, pupil.arch.vocab_size
            )));
        }
        Ok(teacher)
    }

    fn load(path: PathBuf, needs_head: bool, pupil: &Pupil) -> Result<Self, DistillError> {
        let dir = ModelDir::open(&path)?;
        Self::check_tokenizer(&dir, pupil.tokenizer)?;
        let arch = dir.architecture().clone();
        if needs_head && dir.head() != Head::MaskedLm {
            return Err(DistillError::Unfit(format!(
                "the teacher `{}` has no masked-LM head, which the method reads",
                path.display()
            )));
        }
        let head = if needs_head {
            Head::MaskedLm
        } else {
            Head::None
        };
        let key = dir.weights_hash()?;
        let loaded = dir.load(head, Values::Finite)?;
        let mut store = Store::new(&parameters(&arch, head), pupil.options)?;
        store.load::<DistillError>(|p| {
            let tensor = loaded.tensor(&p.name);
            Ok(tensor.expect("a strict load has every parameter").to_vec())
        })?;
        Ok(Self::assemble(arch, key, store, head))
    }

    /// Checks that a model reads the corpus's tokens.
    ///
    /// # Errors
    /// Another tokenizer, or fewer word embeddings than tokens.
    pub fn check_tokenizer(dir: &ModelDir, corpus: &Tokenizer) -> Result<(), DistillError> {
        let path = dir.path();
        let own = Tokenizer::load(&dir.tokenizer_file()?)?;
        if own.hash() != corpus.hash() {
            return Err(DistillError::Tokenizers {
                path: path.to_path_buf(),
                model: own.hash().to_string(),
                corpus: corpus.hash().to_string(),
            });
        }
        let rows = dir.architecture().vocab_size;
        if rows < own.vocab_size() {
            return Err(DistillError::Unfit(format!(
                "`{}` has {rows} word embeddings for {} tokens",
                path.display(),
                own.vocab_size()
            )));
        }
        Ok(())
    }

    fn draw(config: &DistillConfig, row: &Row, pupil: &Pupil) -> Result<Self, DistillError> {
        let seed = config.random.seed;
        let arch = match &config.random.model {
            Some(section) => section
                .config(pupil.arch.vocab_size, pupil.tokenizer.special().pad)
                .map_err(|e| DistillError::Unfit(format!("`distill.random.model`: {e}")))?
                .validate()?,
            None => {
                let mut config: ModelConfig = pupil.arch.config().clone();
                config.moe = None;
                config.validate()?
            }
        };
        let head = match row.needs_head {
            true => Head::MaskedLm,
            false => Head::None,
        };
        let mut store = Store::new(&parameters(&arch, head), pupil.options)?;
        store.initialise(Initialisation {
            seed,
            std: arch.initializer_range,
        });
        Ok(Self::assemble(arch, format!("random {seed}"), store, head))
    }

    fn assemble(arch: Architecture, key: String, store: Store, head: Head) -> Self {
        for leaf in store.leaves() {
            let _ = leaf.tensor.set_requires_grad(false);
        }
        TeacherModel {
            bert: Bert::new(&store, &arch),
            head: (head == Head::MaskedLm).then(|| MaskedLmHead::new(&store, &arch)),
            key,
            arch,
            store,
        }
    }

    /// Number of parameters.
    pub fn parameter_count(&self) -> usize {
        self.store.parameter_count()
    }

    /// Its parameters.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Hidden states, every one named, and logits at `masked` positions `[M]` where it has a head.
    pub fn forward(&self, input: &BertInput, masked: &Tensor) -> (Encoded, Option<Tensor>) {
        tch::no_grad(|| {
            let encoded = self.bert.forward(input, Mode::Eval, true);
            let logits = self.head.as_ref().map(|head| {
                let rows = encoded.hidden.flatten(0, 1).index_select(0, masked); // [M, H]
                head.logits(&rows) // [M, V]
            });
            (encoded, logits)
        })
    }
}
