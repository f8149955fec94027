//! Writing of features files, batch by batch and in any order of batches.
//!
//! The header is written first, since the number of tokens is known once the rows are tokenised. Blocks go to their place
//! as they come; the file gets its name by a rename in [`FeaturesWriter::finish`], which refuses gaps. Dropped before that,
//! the writer removes what it wrote.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::{FORMAT, FeaturesError, FeaturesInfo, io};

/// A tensor of the file to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Name, as the table of [`crate::features`] has it.
    pub name: String,
    /// Whether it holds whole numbers (I64) or floats (F32).
    pub ints: bool,
    /// Its shape; the first axis counts tokens or rows.
    pub shape: Vec<usize>,
}

impl Slot {
    /// A tensor of f32.
    pub fn floats(name: impl Into<String>, shape: &[usize]) -> Self {
        Slot {
            name: name.into(),
            ints: false,
            shape: shape.to_vec(),
        }
    }

    /// A tensor of i64.
    pub fn ints(name: impl Into<String>, shape: &[usize]) -> Self {
        Slot {
            name: name.into(),
            ints: true,
            shape: shape.to_vec(),
        }
    }

    fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    fn size(&self) -> usize {
        if self.ints { 8 } else { 4 }
    }

    /// Elements of one entry of the first axis.
    fn stride(&self) -> usize {
        self.shape[1..].iter().product()
    }
}

#[derive(Debug)]
struct Placed {
    slot: Slot,
    offset: u64,
    written: usize,
}

/// A features file being written.
#[derive(Debug)]
pub struct FeaturesWriter {
    path: PathBuf,
    temporary: PathBuf,
    file: File,
    slots: BTreeMap<String, Placed>,
    finished: bool,
}

impl FeaturesWriter {
    /// Opens `PATH.tmp` and writes the header. `slots` are all tensors of the file.
    pub fn create(
        path: impl AsRef<Path>,
        info: &FeaturesInfo,
        slots: Vec<Slot>,
    ) -> Result<Self, FeaturesError> {
        let path = path.as_ref().to_path_buf();
        let layout = |problem| {
            Err(FeaturesError::Layout {
                path: path.clone(),
                problem,
            })
        };
        let mut placed: BTreeMap<String, Placed> = BTreeMap::new();
        let mut header = Map::new();
        header.insert("__metadata__".to_owned(), metadata(info));
        // Tensors of 8-byte numbers come first, so that every one is aligned.
        let mut sorted = slots;
        sorted.sort_by(|a, b| b.ints.cmp(&a.ints).then_with(|| a.name.cmp(&b.name)));
        let mut end = 0;
        for slot in sorted {
            if super::kind(&slot.name).is_none() {
                return layout(format!(
                    "no tensor of a features file has the name: `{}`",
                    slot.name
                ));
            }
            if slot.shape.is_empty() {
                return layout(format!("`{}` needs at least one axis", slot.name));
            }
            let start = end;
            end += slot.elements() * slot.size();
            let dtype = if slot.ints { "I64" } else { "F32" };
            let entry = json!({"dtype": dtype, "shape": slot.shape, "data_offsets": [start, end]});
            header.insert(slot.name.clone(), entry);
            let name = slot.name.clone();
            if placed
                .insert(
                    name.clone(),
                    Placed {
                        slot,
                        offset: start as u64,
                        written: 0,
                    },
                )
                .is_some()
            {
                return layout(format!("`{name}` is given twice"));
            }
        }
        let mut text = Value::Object(header).to_string().into_bytes();
        text.resize(text.len().next_multiple_of(8), b' ');
        let data_start = 8 + text.len() as u64;
        for slot in placed.values_mut() {
            slot.offset += data_start;
        }
        let mut temporary = path.clone().into_os_string();
        temporary.push(".tmp");
        let temporary = PathBuf::from(temporary);
        let fail = |source| FeaturesError::Io {
            action: "write",
            path: temporary.clone(),
            source,
        };
        let file = File::create(&temporary).map_err(fail)?;
        let writer = FeaturesWriter {
            path,
            temporary,
            file,
            slots: placed,
            finished: false,
        };
        writer.write(0, &(text.len() as u64).to_le_bytes())?;
        writer.write(8, &text)?;
        writer
            .file
            .set_len(data_start + end as u64)
            .map_err(|source| writer.io(source))?;
        Ok(writer)
    }

    /// Writes entries of a float tensor from `first` on (tokens of a tap, rows of `rows.*`).
    pub fn floats(
        &mut self,
        name: &str,
        first: usize,
        values: &[f32],
    ) -> Result<(), FeaturesError> {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.place(name, false, first, values.len(), &bytes)
    }

    /// Writes entries of a tensor of whole numbers from `first` on.
    pub fn ints(&mut self, name: &str, first: usize, values: &[i64]) -> Result<(), FeaturesError> {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.place(name, true, first, values.len(), &bytes)
    }

    /// Checks that every tensor was written whole and gives the file its name.
    pub fn finish(mut self) -> Result<(), FeaturesError> {
        for (name, placed) in &self.slots {
            if placed.written != placed.slot.elements() {
                let problem = format!(
                    "`{name}`: {} of {} values were written",
                    placed.written,
                    placed.slot.elements()
                );
                return Err(FeaturesError::Layout {
                    path: self.path.clone(),
                    problem,
                });
            }
        }
        self.file.sync_all().map_err(|source| self.io(source))?;
        fs::rename(&self.temporary, &self.path).map_err(|source| self.io(source))?;
        self.finished = true;
        Ok(())
    }

    fn place(
        &mut self,
        name: &str,
        ints: bool,
        first: usize,
        count: usize,
        bytes: &[u8],
    ) -> Result<(), FeaturesError> {
        let layout = |problem| {
            Err(FeaturesError::Layout {
                path: self.path.clone(),
                problem,
            })
        };
        let Some(placed) = self.slots.get(name) else {
            return layout(format!("no tensor was announced as `{name}`"));
        };
        let begin = first * placed.slot.stride();
        if placed.slot.ints != ints
            || !count.is_multiple_of(placed.slot.stride().max(1))
            || begin + count > placed.slot.elements()
        {
            let shape = &placed.slot.shape;
            return layout(format!(
                "`{name}` {shape:?}: {count} values at entry {first} do not fit"
            ));
        }
        let offset = placed.offset + (begin * placed.slot.size()) as u64;
        self.write(offset, bytes)?;
        if let Some(placed) = self.slots.get_mut(name) {
            placed.written += count;
        }
        Ok(())
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), FeaturesError> {
        io::write_at(&self.file, offset, bytes).map_err(|source| self.io(source))
    }

    fn io(&self, source: std::io::Error) -> FeaturesError {
        FeaturesError::Io {
            action: "write",
            path: self.temporary.clone(),
            source,
        }
    }
}

impl Drop for FeaturesWriter {
    fn drop(&mut self) {
        if !self.finished {
            // Nothing more can be done about a file that cannot be removed.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

fn metadata(info: &FeaturesInfo) -> Value {
    let mut map = Map::new();
    let mut put = |key: &str, value: String| map.insert(key.to_owned(), Value::String(value));
    put("format", FORMAT.to_owned());
    put("command", info.command.clone());
    put("model", info.model.clone());
    put("model_blake3", info.model_blake3.clone());
    put("tokenizer_blake3", info.tokenizer_blake3.clone());
    put("data", info.data.clone());
    put("data_blake3", info.data_blake3.clone());
    put("special_ids", json!(info.special_ids).to_string());
    if let Some(task) = &info.task {
        put("task", task.clone());
    }
    if !info.labels.is_empty() {
        put("labels", json!(info.labels).to_string());
    }
    if let Some(count) = info.num_experts {
        put("num_experts", count.to_string());
    }
    if let Some(count) = info.num_heads {
        put("num_heads", count.to_string());
    }
    Value::Object(map)
}
