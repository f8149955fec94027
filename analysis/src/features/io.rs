//! Positioned reads and writes, and the header of a safetensors file.

use std::fs::File;
use std::path::Path;

use super::{FeaturesError, Metadata, SafeTensors};

/// Reads the header; gives the offset of the first tensor's bytes and the checked metadata.
pub(super) fn header(file: &File, path: &Path) -> Result<(u64, Metadata), FeaturesError> {
    let io = |source| FeaturesError::Io {
        action: "read",
        path: path.to_path_buf(),
        source,
    };
    // An empty map is an error of its own; such a file has no header.
    if file.metadata().map_err(io)?.len() == 0 {
        let source = safetensors::SafeTensorError::HeaderTooSmall;
        return Err(FeaturesError::Header {
            path: path.to_path_buf(),
            source,
        });
    }
    // SAFETY: the map lives for this call only and is read as plain bytes; a file that another process cuts short
    // meanwhile is outside of what any reader can guard against.
    #[allow(unsafe_code)]
    let map = unsafe { memmap2::Mmap::map(file) }.map_err(io)?;
    let (length, metadata) =
        SafeTensors::read_metadata(&map).map_err(|source| FeaturesError::Header {
            path: path.to_path_buf(),
            source,
        })?;
    Ok((8 + length as u64, metadata))
}

#[cfg(unix)]
pub(super) fn read_at(file: &File, offset: u64, into: &mut [u8]) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, into, offset)
}

#[cfg(unix)]
pub(super) fn write_at(file: &File, offset: u64, bytes: &[u8]) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

#[cfg(windows)]
pub(super) fn read_at(file: &File, mut offset: u64, mut into: &mut [u8]) -> std::io::Result<()> {
    while !into.is_empty() {
        let read = std::os::windows::fs::FileExt::seek_read(file, into, offset)?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        into = &mut into[read..];
        offset += read as u64;
    }
    Ok(())
}

#[cfg(windows)]
pub(super) fn write_at(file: &File, mut offset: u64, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        let written = std::os::windows::fs::FileExt::seek_write(file, bytes, offset)?;
        bytes = &bytes[written..];
        offset += written as u64;
    }
    Ok(())
}
