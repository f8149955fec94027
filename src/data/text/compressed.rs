//! Readers of plain, gzip and zstd files, chosen by the end of the name.
//!
//! Both formats may hold several members or frames one after the other, as parallel compressors and log rotation write
//! them; all are read. Zstandard is RFC 8878: skippable frames are passed over.

use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

const BUFFER: usize = 1 << 18;

/// The name of the file in lower case, without `.gz` or `.zst`.
pub(super) fn plain_name(path: &Path) -> String {
    let name = path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .to_lowercase();
    name.strip_suffix(".gz")
        .or_else(|| name.strip_suffix(".zst"))
        .unwrap_or(&name)
        .to_owned()
}

/// The decompressed stream of `file`, which lies at `path`.
pub(super) fn open(path: &Path, file: impl Read + Send + 'static) -> Box<dyn BufRead + Send> {
    let end = path.extension().map(|e| e.to_ascii_lowercase());
    let file = BufReader::with_capacity(BUFFER, file);
    match end.as_ref().and_then(|e| e.to_str()) {
        Some("gz") => Box::new(BufReader::with_capacity(
            BUFFER,
            Gzip {
                inner: Some(GzipState::Start(file)),
            },
        )),
        Some("zst") => Box::new(BufReader::with_capacity(
            BUFFER,
            Zstd {
                source: file,
                frame: None,
            },
        )),
        _ => Box::new(file),
    }
}

/// A gzip file of any number of members. An empty file has none, and is empty text.
struct Gzip<R: BufRead> {
    inner: Option<GzipState<R>>,
}

enum GzipState<R: BufRead> {
    Start(R),
    Members(flate2::bufread::MultiGzDecoder<R>),
}

impl<R: BufRead> Read for Gzip<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if let Some(GzipState::Start(mut source)) =
            self.inner.take_if(|s| matches!(s, GzipState::Start(_)))
        {
            if source.fill_buf()?.is_empty() {
                return Ok(0);
            }
            self.inner = Some(GzipState::Members(flate2::bufread::MultiGzDecoder::new(
                source,
            )));
        }
        match &mut self.inner {
            Some(GzipState::Members(decoder)) => decoder.read(buf),
            _ => Ok(0),
        }
    }
}

/// A zstd file of any number of frames.
struct Zstd<R: BufRead> {
    source: R,
    /// The frame being read; `None` between frames.
    frame: Option<Box<FrameDecoder>>,
}

impl<R: BufRead> Zstd<R> {
    /// Begins the next frame, passing over skippable ones; false at the end of the file.
    fn next_frame(&mut self) -> io::Result<bool> {
        while !self.source.fill_buf()?.is_empty() {
            let mut decoder = FrameDecoder::new();
            match decoder.init(&mut self.source) {
                Ok(()) => {
                    self.frame = Some(Box::new(decoder));
                    return Ok(true);
                }
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    let length = u64::from(length);
                    if io::copy(&mut (&mut self.source).take(length), &mut io::sink())? < length {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            }
        }
        Ok(false)
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            let Some(decoder) = &mut self.frame else {
                if buf.is_empty() || !self.next_frame()? {
                    return Ok(0);
                }
                continue;
            };
            while decoder.can_collect() == 0 && !decoder.is_finished() {
                decoder
                    .decode_blocks(&mut self.source, BlockDecodingStrategy::UptoBlocks(1))
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            }
            let n = decoder.read(buf)?;
            if n > 0 || buf.is_empty() {
                return Ok(n);
            }
            self.frame = None;
        }
    }
}
