//! Model directories against a fixture that `transformers` wrote, its variants, and every way in which they can be wrong.
//!
//! The fixture is made by `tests/fixtures/make_hf_bert_tiny.py`; its essential lines are
//!
//! ```python
//! torch.manual_seed(20240301)
//! config = BertConfig(vocab_size=96, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
//!                     max_position_embeddings=32, initializer_range=0.5)
//! model = BertForMaskedLM(config).eval()
//! # ... every one-dimensional parameter moved by 0.3 * randn
//! model.save_pretrained("hf-bert-tiny")
//! ```
#![allow(clippy::unwrap_used)]

#[path = "cases/common.rs"]
mod common;
#[path = "cases/fixture.rs"]
mod fixture;
#[path = "cases/strictness.rs"]
mod strictness;
#[path = "cases/writing.rs"]
mod writing;
