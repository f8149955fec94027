//! TensorBoard event files, written by hand.
//!
//! A file is a row of TFRecords: length (u64, little endian), masked CRC-32C of the length, the bytes, masked CRC-32C of the
//! bytes (tensorflow `core/lib/io/record_writer.h`). The bytes are protobuf `Event` messages (tensorflow
//! `core/util/event.proto`, `core/framework/summary.proto`):
//! `Event { 1: wall_time double, 2: step int64, 3: file_version string, 5: summary, 7: session_log }`,
//! `Summary { 1: repeated Value { 1: tag string, 2: simple_value float } }`, `SessionLog { 1: status enum, START = 1 }`.
//! TensorBoard reads a directory's files by name and, on meeting a `START` at a step, hides all earlier events at that step
//! or later: so a resumed run opens a new file and touches no old one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

const PREFIX: &str = "events.out.tfevents.";

/// Appends to one event file.
#[derive(Debug)]
pub struct EventWriter {
    file: File,
}

/// What an event says.
enum What<'a> {
    FileVersion,
    Scalars(&'a [(String, f64)]),
    SessionStart,
}

impl EventWriter {
    /// Opens a new event file in `dir`, named by the time and the host and later than every event file there. With
    /// `purge_from`, events of earlier files at that step or later are hidden.
    pub fn create(dir: &Path, wall_time: f64, purge_from: Option<u64>) -> io::Result<Self> {
        let mut seconds = wall_time.max(0.0) as u64;
        for entry in fs::read_dir(dir)? {
            let name = entry?.file_name();
            let time = name
                .to_str()
                .and_then(|n| n.strip_prefix(PREFIX))
                .and_then(|n| n.split('.').next());
            if let Some(time) = time.and_then(|t| t.parse::<u64>().ok()) {
                // Names are read in order, so a second file of the same second, or of a clock set back, comes later too.
                seconds = seconds.max(time.saturating_add(1));
            }
        }
        let path = dir.join(format!("{PREFIX}{seconds:010}.{}.tcd", host()));
        let file = OpenOptions::new()
            .append(true)
            .create_new(true)
            .open(path)?;
        let mut writer = Self { file };
        writer.write(wall_time, 0, &What::FileVersion)?;
        if let Some(step) = purge_from {
            writer.write(wall_time, step, &What::SessionStart)?;
        }
        Ok(writer)
    }

    /// Writes one event with a value for each tag.
    pub fn scalars(
        &mut self,
        wall_time: f64,
        step: u64,
        values: &[(String, f64)],
    ) -> io::Result<()> {
        self.write(wall_time, step, &What::Scalars(values))
    }

    /// Waits until what was written is on the disk.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write(&mut self, wall_time: f64, step: u64, what: &What) -> io::Result<()> {
        // One write a record: a killed process leaves whole records, or one torn at the end, which readers skip.
        self.file.write_all(&record(&event(wall_time, step, what)))
    }
}

/// The name of this machine, as far as a file name bears it.
fn host() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name: String = name
        .trim()
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || *c == '-')
        .take(64)
        .collect();
    if name.is_empty() {
        "localhost".to_owned()
    } else {
        name
    }
}

/// Frames bytes as a TFRecord.
fn record(bytes: &[u8]) -> Vec<u8> {
    let length = (bytes.len() as u64).to_le_bytes();
    let mut out = Vec::with_capacity(bytes.len() + 16);
    out.extend_from_slice(&length);
    out.extend_from_slice(&masked_crc(&length).to_le_bytes());
    out.extend_from_slice(bytes);
    out.extend_from_slice(&masked_crc(bytes).to_le_bytes());
    out
}

/// CRC-32C, rotated and shifted so that the sum of bytes that hold sums stays a good sum.
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
        .rotate_right(15)
        .wrapping_add(0xa282_ead8)
}

fn event(wall_time: f64, step: u64, what: &What) -> Vec<u8> {
    let mut out = Vec::new();
    out.push(1 << 3 | 1);
    out.extend_from_slice(&wall_time.to_le_bytes());
    if step > 0 {
        out.push(2 << 3);
        varint(&mut out, step);
    }
    match what {
        What::FileVersion => field(&mut out, 3, b"brain.Event:2"),
        What::Scalars(values) => {
            let mut summary = Vec::new();
            for (tag, value) in *values {
                let mut item = Vec::new();
                field(&mut item, 1, tag.as_bytes());
                item.push(2 << 3 | 5);
                item.extend_from_slice(&(*value as f32).to_le_bytes());
                field(&mut summary, 1, &item);
            }
            field(&mut out, 5, &summary);
        }
        What::SessionStart => field(&mut out, 7, &[1 << 3, 1]),
    }
    out
}

/// A length-delimited protobuf field.
fn field(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    out.push(number << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn crc_agrees_with_published_vectors() {
        // RFC 3720 (iSCSI), appendix B.4.
        assert_eq!(crc32c::crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c::crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
        // tensorboard.summary.writer.record_writer.masked_crc32c(b"123456789"), tensorboard 2.x
        assert_eq!(masked_crc(b"123456789"), 0xc78a_b0e5);
    }

    #[test]
    fn an_event_is_byte_for_byte_what_tensorboard_writes() {
        // from tensorboard.compat.proto.event_pb2 import Event; from tensorboard.compat.proto.summary_pb2 import Summary
        // w = tensorboard.summary.writer.record_writer.RecordWriter(f)
        // w.write(Event(wall_time=1700.5, step=300, summary=Summary(value=[
        //     Summary.Value(tag="train/loss", simple_value=2.5),
        //     Summary.Value(tag="train/lr", simple_value=0.001)])).SerializeToString())
        // f.getvalue().hex()
        let golden = "3200000000000000241956ec090000000000929a4010ac022a240a110a0a747261696e2f6c6f737315000020400a0f0a08\
                      747261696e2f6c72156f12833a43475958";
        let values = [
            ("train/loss".to_owned(), 2.5),
            ("train/lr".to_owned(), 0.001),
        ];
        let bytes = record(&event(1700.5, 300, &What::Scalars(&values)));
        assert_eq!(
            bytes.iter().map(|b| format!("{b:02x}")).collect::<String>(),
            golden
        );
    }

    /// The payloads of a file, with framing and sums checked.
    fn payloads(mut bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        while !bytes.is_empty() {
            let n = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            assert_eq!(
                u32::from_le_bytes(bytes[8..12].try_into().unwrap()),
                masked_crc(&bytes[..8])
            );
            assert_eq!(
                u32::from_le_bytes(bytes[12 + n..16 + n].try_into().unwrap()),
                masked_crc(&bytes[12..12 + n])
            );
            out.push(bytes[12..12 + n].to_vec());
            bytes = &bytes[16 + n..];
        }
        out
    }

    #[test]
    fn files_follow_each_other_by_name_and_start_with_the_version() {
        let dir = tempfile::tempdir().unwrap();
        EventWriter::create(dir.path(), 1700.5, None).unwrap();
        EventWriter::create(dir.path(), 1700.5, Some(300)).unwrap();
        EventWriter::create(dir.path(), 12.0, Some(1)).unwrap();
        let mut files: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().path())
            .collect();
        files.sort();
        let starts: Vec<_> = files
            .iter()
            .map(|p| p.file_name().unwrap().to_str().unwrap()[20..30].to_owned())
            .collect();
        assert_eq!(starts, ["0000001700", "0000001701", "0000001702"]);
        let second = payloads(&fs::read(&files[1]).unwrap());
        assert!(second[0].ends_with(b"\x1a\x0dbrain.Event:2"));
        // step 300 = 0xac 0x02, then field 7 holding status START.
        assert_eq!(&second[1][9..], b"\x10\xac\x02\x3a\x02\x08\x01");
        assert_eq!(second.len(), 2);
    }
}
