//! Building a corpus.
//!
//! A reader thread cuts the inputs into chunks of documents, a pool tokenizes each chunk in parallel, and this thread packs
//! the result in input order, so the shards do not depend on the number of threads; a few chunks are in memory at a time,
//! whatever the size of the input. A document is held out when the hash of its text and the seed falls below the share, so
//! equal documents land on the same side and adding files moves no document.
//!
//! Everything is written into a sibling folder, the manifest last, and the folder is renamed when it is whole. A corpus that
//! is replaced stays until then. What a killed build leaves is cleared by the next one.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;

use super::manifest::{FORMAT, Input, Manifest, Settings, hash_file};
use super::pack::{SplitWriter, write_error};
use super::{CorpusError, MANIFEST, Split, TOKENIZER};
use crate::data::text::{self, Documents, TextError, TextFile};
use crate::data::tokenizer::Tokenizer;
use crate::seed::{Stream, derive};

/// Chunks end at the first document after this many bytes.
const CHUNK_BYTES: usize = 4 << 20;

/// Chunks that may wait for the tokenizer.
const CHUNKS_AHEAD: usize = 2;

/// What to build.
#[derive(Clone, Debug)]
pub struct Options {
    /// Files and folders, see [`text::find`].
    pub inputs: Vec<PathBuf>,
    /// The corpus folder.
    pub out: PathBuf,
    /// The settings that decide the contents.
    pub settings: Settings,
    /// Threads that tokenize; 0 for one per core.
    pub threads: usize,
    /// Build even if nothing changed.
    pub force: bool,
}

/// How far a build is, for a progress display.
#[derive(Clone, Copy, Debug)]
pub enum Progress {
    /// Bytes of the input hashed, of all bytes.
    Hash(u64, u64),
    /// Bytes of the input read, of all bytes.
    Read(u64, u64),
}

/// What [`build`] did.
#[derive(Clone, Debug)]
pub enum Built {
    /// The corpus there is already what was asked for.
    UpToDate(Manifest),
    /// The corpus was written.
    Written(Manifest),
}

/// Builds the corpus, unless inputs, tokenizer and settings are those of the corpus already there.
pub fn build(
    options: &Options,
    tokenizer: &Tokenizer,
    progress: &mut dyn FnMut(Progress),
) -> Result<Built, CorpusError> {
    options.settings.validate()?;
    let files = text::find(&options.inputs)?;
    let total: u64 = files.iter().map(|f| f.bytes).sum();
    let mut inputs = Vec::new();
    let mut hashed = 0;
    for file in &files {
        let path = file.path.to_string_lossy().into_owned();
        inputs.push(Input {
            path,
            bytes: file.bytes,
            blake3: hash_file(&file.path)?,
        });
        hashed += file.bytes;
        progress(Progress::Hash(hashed, total));
    }
    let mut manifest = Manifest {
        format: FORMAT,
        tokenizer_hash: tokenizer.hash().to_owned(),
        vocab_size: tokenizer.vocab_size(),
        special: tokenizer.special(),
        settings: options.settings.clone(),
        inputs,
        train: Default::default(),
        held_out: Default::default(),
    };
    recover(&options.out)?;
    if !options.force
        && let Ok(corpus) = super::Corpus::open(&options.out)
        && corpus.manifest().same_origin(&manifest)
        && corpus.tokenizer().is_ok()
    {
        return Ok(Built::UpToDate(corpus.manifest().clone()));
    }
    let occupied = fs::read_dir(&options.out).is_ok_and(|mut entries| entries.next().is_some());
    if options.out.is_file() || (occupied && !options.out.join(MANIFEST).is_file()) {
        return Err(CorpusError::Occupied {
            path: options.out.clone(),
        });
    }

    let workplace = Workplace::new(&options.out)?;
    let writer = |split| {
        SplitWriter::new(
            &workplace.dir,
            split,
            &options.settings,
            manifest.special,
            manifest.vocab_size,
        )
    };
    let mut writers = [writer(Split::Train), writer(Split::HeldOut)];
    tokenize(options, &files, tokenizer, &mut writers, &mut |read| {
        progress(Progress::Read(read, total))
    })?;
    let [train, held_out] = writers;
    manifest.train = train.finish()?;
    manifest.held_out = held_out.finish()?;
    let names = || {
        options
            .inputs
            .iter()
            .map(|p| format!("`{}`", p.display()))
            .collect::<Vec<_>>()
            .join(", ")
    };
    if manifest.train.documents + manifest.held_out.documents == 0 {
        let hint = "give files that hold text";
        return Err(CorpusError::Empty {
            what: "no documents",
            inputs: names(),
            hint,
        });
    }
    if manifest.train.rows == 0 {
        let hint = "lower `--held-out`, change `--seed`, or give more documents";
        return Err(CorpusError::Empty {
            what: "no documents for training",
            inputs: names(),
            hint,
        });
    }
    workplace.commit(&manifest, tokenizer, &options.out)?;
    Ok(Built::Written(manifest))
}

/// Reads, tokenizes and packs all documents.
fn tokenize(
    options: &Options,
    files: &[TextFile],
    tokenizer: &Tokenizer,
    writers: &mut [SplitWriter; 2],
    progress: &mut dyn FnMut(u64),
) -> Result<(), CorpusError> {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(options.threads)
        .build()
        .map_err(|e| CorpusError::Io {
            action: "start threads for",
            path: options.out.clone(),
            source: std::io::Error::other(e),
        })?;
    let read = Arc::new(AtomicU64::new(0));
    let settings = &options.settings;
    std::thread::scope(|scope| {
        let (sender, receiver) = sync_channel::<Result<Vec<String>, TextError>>(CHUNKS_AHEAD);
        let counter = Arc::clone(&read);
        scope.spawn(move || {
            // A failed send means that the packer gave up, with an error of its own.
            let outcome = chunks(files, &settings.text_field, &counter, |chunk| {
                sender.send(Ok(chunk)).is_ok()
            });
            if let Err(error) = outcome {
                let _ = sender.send(Err(error));
            }
        });
        for chunk in receiver {
            let documents = chunk?;
            for (text, ids) in documents
                .iter()
                .zip(pool.install(|| tokenizer.encode_batch(&documents))?)
            {
                writers[usize::from(is_held_out(text, settings))].add(&ids)?;
            }
            progress(read.load(Ordering::Relaxed));
        }
        Ok(())
    })
}

/// Hands out the documents in chunks until `take` says false.
fn chunks(
    files: &[TextFile],
    text_field: &str,
    read: &Arc<AtomicU64>,
    mut take: impl FnMut(Vec<String>) -> bool,
) -> Result<(), TextError> {
    let (mut chunk, mut bytes) = (Vec::new(), 0);
    for file in files {
        for document in Documents::open(&file.path, text_field, Arc::clone(read))? {
            let document = document?;
            bytes += document.len();
            chunk.push(document);
            if bytes >= CHUNK_BYTES {
                bytes = 0;
                if !take(std::mem::take(&mut chunk)) {
                    return Ok(());
                }
            }
        }
    }
    if !chunk.is_empty() {
        take(chunk);
    }
    Ok(())
}

fn is_held_out(text: &str, settings: &Settings) -> bool {
    let hash = blake3::hash(text.as_bytes());
    let mut words = hash
        .as_bytes()
        .chunks_exact(8)
        .map(|b| b.iter().fold(0, |n, &b| (n << 8) | u64::from(b)));
    let position = [words.next().unwrap_or(0), words.next().unwrap_or(0)];
    // The upper 53 bits are exact as a fraction of one.
    let fraction =
        (derive(settings.seed, Stream::Data, &position) >> 11) as f64 / (1u64 << 53) as f64;
    fraction < settings.held_out
}

fn sibling(out: &Path, end: &str) -> PathBuf {
    // A path such as `.` or `corpus/` has no last name of its own until it is resolved.
    let out = std::path::absolute(out).unwrap_or_else(|_| out.to_owned());
    let mut name = out.file_name().unwrap_or_default().to_owned();
    name.push(end);
    out.with_file_name(name)
}

/// Puts back a corpus that a process killed between the two renames of a replacement left aside.
fn recover(out: &Path) -> Result<(), CorpusError> {
    let old = sibling(out, ".old.tmp");
    if !old.exists() {
        return Ok(());
    }
    let mend = if out.exists() {
        fs::remove_dir_all(&old)
    } else {
        fs::rename(&old, out)
    };
    mend.map_err(|e| write_error(&old, e))
}

/// Swaps two folders in one step, so that no moment has neither.
#[cfg(target_os = "linux")]
fn exchange(a: &Path, b: &Path) -> std::io::Result<()> {
    use std::os::unix::ffi::OsStrExt;
    let a = std::ffi::CString::new(a.as_os_str().as_bytes())?;
    let b = std::ffi::CString::new(b.as_os_str().as_bytes())?;
    // Safety: both pointers are to strings that end in NUL and outlive the call.
    let code = unsafe {
        libc::renameat2(
            libc::AT_FDCWD,
            a.as_ptr(),
            libc::AT_FDCWD,
            b.as_ptr(),
            libc::RENAME_EXCHANGE,
        )
    };
    if code == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error())
    }
}

/// Other systems take the way over two renames, which [`recover`] mends.
#[cfg(not(target_os = "linux"))]
fn exchange(_: &Path, _: &Path) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}

/// The temporary folder of a build, removed unless the build ends well.
struct Workplace {
    dir: PathBuf,
    /// Held as long as the build runs; the system lets go of it when the process dies.
    _lock: File,
    lock_path: PathBuf,
}

impl Workplace {
    fn new(out: &Path) -> Result<Workplace, CorpusError> {
        let dir = sibling(out, ".building.tmp");
        let lock_path = sibling(out, ".lock.tmp");
        if let Some(parent) = dir.parent() {
            fs::create_dir_all(parent).map_err(|e| write_error(parent, e))?;
        }
        let lock = File::create(&lock_path).map_err(|e| write_error(&lock_path, e))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(CorpusError::Busy { path: dir }),
            Err(fs::TryLockError::Error(e)) => return Err(write_error(&lock_path, e)),
        }
        if dir.exists() {
            fs::remove_dir_all(&dir).map_err(|e| write_error(&dir, e))?;
        }
        fs::create_dir(&dir).map_err(|e| write_error(&dir, e))?;
        Ok(Workplace {
            dir,
            _lock: lock,
            lock_path,
        })
    }

    /// Writes tokenizer and manifest and puts the folder in its place.
    fn commit(
        self,
        manifest: &Manifest,
        tokenizer: &Tokenizer,
        out: &Path,
    ) -> Result<(), CorpusError> {
        tokenizer.save(&self.dir.join(TOKENIZER))?;
        let path = self.dir.join(MANIFEST);
        let text =
            serde_json::to_string_pretty(manifest).map_err(|source| CorpusError::Malformed {
                path: path.clone(),
                source,
            })?;
        fs::write(&path, text + "\n")
            .and_then(|()| File::open(&path)?.sync_all())
            .map_err(|e| write_error(&path, e))?;
        let old = sibling(out, ".old.tmp");
        if out.exists() {
            // One step where the system has it; the old corpus then lies in the temporary folder, which is removed.
            if exchange(&self.dir, out).is_ok() {
                return Ok(());
            }
            fs::rename(out, &old).map_err(|e| write_error(out, e))?;
        }
        if let Err(error) = fs::rename(&self.dir, out) {
            recover(out)?;
            return Err(write_error(out, error));
        }
        recover(out)
    }
}

impl Drop for Workplace {
    fn drop(&mut self) {
        // After a commit the folder is gone from here; clearing up is no reason to fail.
        let _ = fs::remove_dir_all(&self.dir);
        let _ = fs::remove_file(&self.lock_path);
    }
}

#[cfg(test)]
#[path = "build_tests.rs"]
mod tests;
