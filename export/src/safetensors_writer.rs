//! Writing safetensors tensor by tensor.
//!
//! The header is computed from names and shapes alone, so a model of any size is written with one tensor in memory. The file
//! is written beside its place and renamed, so a name never holds half a file.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use thiserror::Error;

/// Why a file could not be written.
#[derive(Debug, Error)]
pub enum WriteError {
    /// The system refused.
    #[error("cannot write `{}`", path.display())]
    Io {
        /// File.
        path: PathBuf,
        /// The system's own words.
        #[source]
        source: io::Error,
    },
    /// A tensor has another size than its shape says.
    #[error("tensor `{name}` has {got} values, expected {expected}")]
    Size {
        /// Tensor.
        name: String,
        /// Values its shape asks for.
        expected: usize,
        /// Values given.
        got: usize,
    },
}

/// Writes f32 tensors, named and shaped by `tensors`, whose values `read` gives one at a time. Returns the blake3 hash of the
/// file, in hex.
pub fn write_safetensors<'a>(
    path: &Path,
    tensors: impl Iterator<Item = (&'a str, &'a [usize])> + Clone,
    mut read: impl FnMut(&str) -> Vec<f32>,
) -> Result<String, WriteError> {
    let temporary = path.with_extension("safetensors.partial");
    let io = |source| WriteError::Io {
        path: path.to_path_buf(),
        source,
    };
    let result = (|| {
        let mut header = Map::new();
        header.insert("__metadata__".to_string(), json!({"format": "pt"}));
        let mut end = 0usize;
        for (name, shape) in tensors.clone() {
            let start = end;
            end += 4 * shape.iter().product::<usize>();
            header.insert(
                name.to_string(),
                json!({"dtype": "F32", "shape": shape, "data_offsets": [start, end]}),
            );
        }
        let mut header = Value::Object(header).to_string().into_bytes();
        // The data starts at a multiple of 8 bytes.
        header.resize(header.len().next_multiple_of(8), b' ');
        let mut out = Hashing {
            inner: BufWriter::with_capacity(1 << 20, File::create(&temporary).map_err(io)?),
            hasher: blake3::Hasher::new(),
        };
        out.write_all(&(header.len() as u64).to_le_bytes())
            .map_err(io)?;
        out.write_all(&header).map_err(io)?;
        let mut bytes = Vec::new();
        for (name, shape) in tensors {
            let values = read(name);
            let expected = shape.iter().product::<usize>();
            if values.len() != expected {
                return Err(WriteError::Size {
                    name: name.to_string(),
                    expected,
                    got: values.len(),
                });
            }
            bytes.clear();
            bytes.extend(values.iter().flat_map(|v| v.to_le_bytes()));
            out.write_all(&bytes).map_err(io)?;
        }
        out.inner.flush().map_err(io)?;
        out.inner.get_ref().sync_all().map_err(io)?;
        std::fs::rename(&temporary, path).map_err(io)?;
        Ok(out.hasher.finalize().to_hex().to_string())
    })();
    if result.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    result
}

struct Hashing<W> {
    inner: W,
    hasher: blake3::Hasher,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
