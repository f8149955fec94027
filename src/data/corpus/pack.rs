//! From documents' ids to rows, and from rows to shards.
//!
//! Full packing: rows are `[CLS] x .. x [SEP]`, where `x` runs on from document to document with a `[SEP]` between two; a row
//! does not begin with that separator. The tokens that do not fill a last row are dropped, unless they are all the part has:
//! then they make one padded row. Document packing: rows are `[CLS] x .. x [SEP] [PAD] ..`, never over a document's end, and
//! nothing is dropped.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::manifest::{Packing, Settings, Shard, SplitInfo, id_bytes};
use super::{CorpusError, Split};
use crate::data::tokenizer::SpecialTokens;

/// Writes one part of a corpus.
pub(super) struct SplitWriter {
    dir: PathBuf,
    split: Split,
    settings: Settings,
    special: SpecialTokens,
    id_bytes: usize,
    body: Vec<u32>,
    /// Tokens of text in `body`, separators not counted.
    body_tokens: u64,
    info: SplitInfo,
    open: Option<OpenShard>,
}

struct OpenShard {
    path: PathBuf,
    file: BufWriter<File>,
    hasher: blake3::Hasher,
    rows: usize,
    bytes: u64,
}

impl SplitWriter {
    pub(super) fn new(
        dir: &Path,
        split: Split,
        settings: &Settings,
        special: SpecialTokens,
        vocab_size: usize,
    ) -> Self {
        SplitWriter {
            dir: dir.to_owned(),
            split,
            settings: settings.clone(),
            special,
            id_bytes: id_bytes(vocab_size),
            body: Vec::with_capacity(settings.sequence_length),
            body_tokens: 0,
            info: SplitInfo::default(),
            open: None,
        }
    }

    /// Adds a document; one without tokens is passed over.
    pub(super) fn add(&mut self, ids: &[u32]) -> Result<(), CorpusError> {
        if ids.is_empty() {
            return Ok(());
        }
        self.info.documents += 1;
        self.info.tokens += ids.len() as u64;
        self.info.unknown_tokens += ids.iter().filter(|&&id| id == self.special.unk).count() as u64;
        let room = self.settings.sequence_length - 2;
        if !self.body.is_empty() {
            self.body.push(self.special.sep);
        }
        let mut rest = ids;
        loop {
            let (now, later) = rest.split_at(rest.len().min(room - self.body.len()));
            self.body.extend_from_slice(now);
            self.body_tokens += now.len() as u64;
            rest = later;
            let whole = rest.is_empty() && self.settings.packing == Packing::Document;
            if self.body.len() == room || whole {
                self.end_row()?;
            }
            if rest.is_empty() {
                return Ok(());
            }
        }
    }

    /// Ends the part and tells what was written.
    pub(super) fn finish(mut self) -> Result<SplitInfo, CorpusError> {
        if !self.body.is_empty() && self.info.rows == 0 {
            self.end_row()?;
        }
        self.info.dropped_tokens = self.body_tokens;
        self.end_shard()?;
        Ok(self.info)
    }

    fn end_row(&mut self) -> Result<(), CorpusError> {
        let width = self.id_bytes;
        let fill = self.settings.sequence_length - 2 - self.body.len();
        let ids = std::iter::once(self.special.cls)
            .chain(self.body.drain(..))
            .chain(std::iter::once(self.special.sep))
            .chain(std::iter::repeat_n(self.special.pad, fill));
        let mut bytes = Vec::with_capacity(self.settings.sequence_length * width);
        for id in ids {
            self.info.max_id = self.info.max_id.max(id);
            bytes.extend_from_slice(&id.to_le_bytes()[..width]);
        }
        self.body_tokens = 0;
        if self.open.is_none() {
            let name = format!("{}-{:05}.bin", self.split.name(), self.info.shards.len());
            let path = self.dir.join(&name);
            let file = File::create(&path).map_err(|e| write_error(&path, e))?;
            let file = BufWriter::with_capacity(1 << 20, file);
            self.open = Some(OpenShard {
                path,
                file,
                hasher: blake3::Hasher::new(),
                rows: 0,
                bytes: 0,
            });
        }
        if let Some(shard) = &mut self.open {
            shard
                .file
                .write_all(&bytes)
                .map_err(|e| write_error(&shard.path, e))?;
            shard.hasher.update(&bytes);
            shard.rows += 1;
            shard.bytes += bytes.len() as u64;
            self.info.rows += 1;
            if shard.rows == self.settings.rows_per_shard {
                self.end_shard()?;
            }
        }
        Ok(())
    }

    fn end_shard(&mut self) -> Result<(), CorpusError> {
        let Some(shard) = self.open.take() else {
            return Ok(());
        };
        let OpenShard {
            path,
            file,
            hasher,
            rows,
            bytes,
        } = shard;
        let file = file
            .into_inner()
            .map_err(|e| write_error(&path, e.into_error()))?;
        file.sync_all().map_err(|e| write_error(&path, e))?;
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        self.info.shards.push(Shard {
            file: name,
            rows,
            bytes,
            blake3: hasher.finalize().to_hex().to_string(),
        });
        Ok(())
    }
}

pub(super) fn write_error(path: &Path, source: io::Error) -> CorpusError {
    CorpusError::Io {
        action: "write",
        path: path.to_owned(),
        source,
    }
}
