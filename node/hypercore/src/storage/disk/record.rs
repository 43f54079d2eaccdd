//! Records of the head log, version 1 (`docs/format/head-log.md`): their codec, and the scan that opens a log.
//!
//! A record is `magic 4 ‖ payload length u32 ‖ CRC-32C u32 of all that follows ‖ durable u64 ‖ payload`, little endian.
//! `durable` is the length of the log that was known to be synced when the record was written: so a scan can tell a torn
//! tail, which never was acknowledged and is cut, from damage to bytes that were, which is an error.

use std::ops::Range;

use bytes::Bytes;
use cumulet_encoding::{DecodeError, MAX_UINT, Reader, Writer};

use crate::manifest::Manifest;
use crate::node::Node;
use crate::segment::SegmentId;
use crate::storage::{Changes, Head};

/// Bytes at the beginning of a log: magic and version, then the discovery key.
pub(super) const FILE_HEADER_BYTES: usize = 40;
pub(super) const FILE_MAGIC: [u8; 8] = *b"CMLTLOG\x01";
const RECORD_MAGIC: [u8; 4] = *b"CLR\x01";
/// Bytes of a record before its payload.
pub(super) const RECORD_HEADER_BYTES: usize = 20;

const MANIFEST: u64 = 1;
const TRUNCATE: u64 = 2;
const HEAD: u64 = 4;
const SIGNATURE: u64 = 8;

/// What a record says.
#[expect(
    clippy::large_enum_variant,
    reason = "records are made and used one at a time"
)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Record {
    /// Changes, to be made whole.
    Changes(Changes),
    /// A segment file is complete and durable: its blocks and nodes are there, whatever the log says of them.
    Sealed { id: SegmentId, fork: u64 },
}

/// Appends a record to `out`. Returns, for each block of the record, where its bytes lie in `out`.
pub(super) fn encode(record: &Record, durable: u64, out: &mut Vec<u8>) -> Vec<(u64, Range<usize>)> {
    let start = out.len();
    let mut writer = Writer::new();
    let mut places = Vec::new();
    match record {
        Record::Changes(changes) => encode_changes(changes, &mut writer, &mut places),
        Record::Sealed { id, fork } => {
            writer.u8(1).uint(u64::from(id.level)).uint(id.index).uint(*fork);
        }
    }
    let payload = writer.as_slice();
    out.extend_from_slice(&RECORD_MAGIC);
    out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&durable.to_le_bytes()), payload);
    out.extend_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(&durable.to_le_bytes());
    out.extend_from_slice(payload);
    let shift = start + RECORD_HEADER_BYTES;
    places
        .into_iter()
        .map(|(index, place)| (index, place.start + shift..place.end + shift))
        .collect()
}

fn encode_changes(changes: &Changes, writer: &mut Writer, places: &mut Vec<(u64, Range<usize>)>) {
    let flags = [
        (changes.manifest.is_some(), MANIFEST),
        (changes.truncate.is_some(), TRUNCATE),
        (changes.head.is_some(), HEAD),
        (
            changes.head.as_ref().is_some_and(|head| head.signature.is_some()),
            SIGNATURE,
        ),
    ];
    writer
        .u8(0)
        .uint(flags.iter().filter(|(set, _)| *set).map(|(_, bit)| bit).sum());
    if let Some(manifest) = &changes.manifest {
        writer.buffer(&manifest.to_bytes());
    }
    if let Some(length) = changes.truncate {
        writer.uint(length);
    }
    if let Some(head) = &changes.head {
        writer.uint(head.fork).uint(head.length);
        if let Some(signature) = &head.signature {
            writer.buffer(signature);
        }
    }
    writer.array_len(changes.clear.len());
    for range in &changes.clear {
        writer
            .uint(range.start.min(MAX_UINT))
            .uint(range.end.min(MAX_UINT));
    }
    Node::encode_array(&changes.nodes, writer);
    writer.array_len(changes.blocks.len());
    for (index, block) in &changes.blocks {
        writer.uint(*index).buffer(block);
        places.push((*index, writer.len() - block.len()..writer.len()));
    }
}

fn decode(payload: &Bytes) -> Result<Record, DecodeError> {
    let mut reader = Reader::new(payload);
    if reader.u8()? == 1 {
        let (level, index) = (reader.uint()? as u32, reader.uint()?);
        return Ok(Record::Sealed {
            id: SegmentId { level, index },
            fork: reader.uint()?,
        });
    }
    let flags = reader.uint()?;
    let mut changes = Changes::default();
    if flags & MANIFEST != 0 {
        changes.manifest = Some(Manifest::decode(&mut Reader::new(reader.buffer()?))?);
    }
    if flags & TRUNCATE != 0 {
        changes.truncate = Some(reader.uint()?);
    }
    if flags & HEAD != 0 {
        let (fork, length) = (reader.uint()?, reader.uint()?);
        let signature = if flags & SIGNATURE == 0 {
            None
        } else {
            Some(Bytes::copy_from_slice(reader.buffer()?))
        };
        changes.head = Some(Head {
            fork,
            length,
            signature,
        });
    }
    for _ in 0..reader.array_len(2)? {
        changes.clear.push(reader.uint()?..reader.uint()?);
    }
    changes.nodes = Node::decode_array(&mut reader)?;
    for _ in 0..reader.array_len(2)? {
        changes
            .blocks
            .push((reader.uint()?, payload.slice_ref(reader.buffer()?)));
    }
    Ok(Record::Changes(changes))
}

/// A record that was found in a log.
#[derive(Debug)]
pub(super) struct Found {
    pub record: Record,
    /// Where the payload begins in the file.
    pub payload_at: u64,
    /// The payload; blocks of the record are slices of it.
    pub payload: Bytes,
}

/// What a scan found behind the last good record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tail {
    /// Nothing: the log ends with a record.
    Clean,
    /// Bytes from here on never were acknowledged.
    Torn(u64),
    /// Bytes here were durable once and have changed.
    Damaged(u64),
}

/// Walks the records of a log, file header included, and says what its end is like.
pub(super) fn scan(log: &Bytes, mut found: impl FnMut(Found)) -> Tail {
    let mut at = FILE_HEADER_BYTES;
    let mut durable = 0;
    while at < log.len() {
        let Some((next, acknowledged)) = read(log, at).and_then(|(payload, acknowledged)| {
            let next = payload.end;
            let (payload_at, payload) = (payload.start as u64, log.slice(payload));
            let record = decode(&payload).ok()?;
            found(Found {
                record,
                payload_at,
                payload,
            });
            Some((next, acknowledged))
        }) else {
            return tail(log, at, durable);
        };
        durable = durable.max(acknowledged);
        at = next;
    }
    Tail::Clean
}

/// The payload's place and the durable length of a record whose checksum is right.
fn read(log: &Bytes, at: usize) -> Option<(Range<usize>, u64)> {
    let header = log.get(at..at.checked_add(RECORD_HEADER_BYTES)?)?;
    if header[..4] != RECORD_MAGIC {
        return None;
    }
    let (length, mut rest) = (number(&header[4..8]), Reader::new(&header[8..]));
    let crc = rest.u32().ok()?;
    let start = at + RECORD_HEADER_BYTES;
    let end = start.checked_add(length as usize)?;
    let payload = log.get(start..end)?;
    let right = crc32c::crc32c_append(crc32c::crc32c(&header[12..20]), payload) == crc;
    right.then(|| (start..end, number(&header[12..20])))
}

/// Bytes at `at` are no record. They were durable once if a good record, before or behind, says so.
fn tail(log: &Bytes, at: usize, durable: u64) -> Tail {
    let behind = (at + 1..log.len().saturating_sub(RECORD_HEADER_BYTES))
        .filter(|position| log[*position..].starts_with(&RECORD_MAGIC))
        .filter_map(|position| read(log, position))
        .map(|(_, acknowledged)| acknowledged);
    if behind.fold(durable, u64::max) > at as u64 {
        Tail::Damaged(at as u64)
    } else {
        Tail::Torn(at as u64)
    }
}

fn number(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}
