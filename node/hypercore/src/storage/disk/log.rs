//! The bytes of a head log, version 2 (`docs/format/head-log.md`): records that are appended, and how a log is read.
//!
//! A log of version 1 is read and appended to as it is; it can't hold user data, and becomes one of version 2 when it is
//! written anew, at the latest before the first user data.
//!
//! Header, 64 bytes: magic `CMLTLOG` and the version; u64 generation; 32 bytes discovery key; u32 CRC-32C of those 48 bytes; zero.
//!
//! Record, 24 bytes and a payload:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | payload length |
//! | 4 | 1 | kind |
//! | 5 | 1 | 1 on the last record of a batch, else 0 |
//! | 6 | 2 | zero |
//! | 8 | 8 | argument, by kind |
//! | 16 | 4 | CRC-32C of the payload |
//! | 20 | 4 | CRC-32C of the generation (8 bytes) and bytes 0 to 19 |
//!
//! A batch counts whole or not at all. Records after the last whole batch are a torn tail and are cut, unless a later
//! `Synced` record proves that they had been durable: then the file was damaged, and that is an error.

use std::path::Path;

use bytes::Bytes;
use cumulet_encoding::{Reader, Writer};

use super::files::Files;
use crate::crypto::Hash;
use crate::manifest::Manifest;
use crate::node::Node;
use crate::segment::SegmentId;
use crate::segment::cut::MAX_LEVEL;
use crate::storage::{Head, StorageError};

pub(super) const HEADER_BYTES: u64 = 64;
pub(super) const RECORD_BYTES: u64 = 24;
pub(super) const NODE_BYTES: usize = 48;
const MAGIC: [u8; 7] = *b"CMLTLOG";
/// What is written.
pub(super) const VERSION: u8 = 2;
/// The first that may hold user data.
pub(super) const USER_DATA_VERSION: u8 = 2;
/// Bytes read at once while a log is scanned.
const WINDOW: usize = 256 * 1024;

/// What a record says. The numbers are those on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Manifest = 1,
    Truncate = 2,
    Clear = 3,
    Nodes = 4,
    Block = 5,
    Head = 6,
    Seal = 7,
    Synced = 8,
    UserData = 9,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        use Kind::{Block, Clear, Head, Manifest, Nodes, Seal, Synced, Truncate, UserData};
        [
            Manifest, Truncate, Clear, Nodes, Block, Head, Seal, Synced, UserData,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == byte)
    }
}

/// A segment file that takes the place of what the log says about its blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sealed {
    pub(super) id: SegmentId,
    /// The fork in the segment's header and name.
    pub(super) fork: u64,
    pub(super) encrypted: bool,
    /// All its blocks were cleared since: only its nodes are left.
    pub(super) hollow: bool,
}

/// A decoded record.
#[derive(Debug, Clone)]
pub(super) enum Record {
    Manifest(Manifest),
    Truncate(u64),
    Clear(std::ops::Range<u64>),
    Nodes(Vec<Node>),
    Block { index: u64, place: BlockPlace },
    Head(Head),
    Seal(Sealed),
    Synced,
    UserData { name: String, value: Option<Bytes> },
}

/// Where a block's payload lies in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BlockPlace {
    pub(super) offset: u64,
    pub(super) length: u32,
    pub(super) crc: u32,
}

pub(super) fn encode_header(generation: u64, discovery_key: &Hash) -> [u8; HEADER_BYTES as usize] {
    let mut header = [0; HEADER_BYTES as usize];
    header[..7].copy_from_slice(&MAGIC);
    header[7] = VERSION;
    header[8..16].copy_from_slice(&generation.to_le_bytes());
    header[16..48].copy_from_slice(discovery_key);
    let crc = crc32c::crc32c(&header[..48]);
    header[48..52].copy_from_slice(&crc.to_le_bytes());
    header
}

/// What the header of a log says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LogHeader {
    pub(super) version: u8,
    pub(super) generation: u64,
    pub(super) discovery_key: Hash,
}

pub(super) fn decode_header(header: &[u8; HEADER_BYTES as usize]) -> Result<LogHeader, &'static str> {
    if header[..7] != MAGIC {
        return Err("it is no head log");
    }
    let version = header[7];
    if !(1..=VERSION).contains(&version) {
        return Err("it was written by a later version");
    }
    let mut reader = Reader::new(&header[8..]);
    let decoded =
        (|| Ok::<_, cumulet_encoding::DecodeError>((reader.u64_any()?, reader.fixed()?, reader.u32()?)))();
    match decoded {
        Ok((generation, discovery_key, crc)) if crc == crc32c::crc32c(&header[..48]) => Ok(LogHeader {
            version,
            generation,
            discovery_key,
        }),
        _ => Err("its header is damaged"),
    }
}

/// Collects the records of batches.
#[derive(Debug)]
pub(super) struct Batch {
    generation_crc: u32,
    pub(super) bytes: Vec<u8>,
    last: Option<usize>,
}

impl Batch {
    pub(super) fn new(generation: u64) -> Self {
        Self {
            generation_crc: crc32c::crc32c(&generation.to_le_bytes()),
            bytes: Vec::new(),
            last: None,
        }
    }

    /// As [`Batch::new`], in a buffer that was used before.
    pub(super) fn with_buffer(generation: u64, bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            ..Self::new(generation)
        }
    }

    /// Appends a record; gives the position of its payload in the batch and the payload's CRC.
    fn record(&mut self, kind: Kind, argument: u64, payload: &[u8]) -> (usize, u32) {
        let crc = crc32c::crc32c(payload);
        self.last = Some(self.bytes.len());
        self.bytes.reserve(RECORD_BYTES as usize + payload.len());
        self.bytes
            .extend_from_slice(&(payload.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(&[kind as u8, 0, 0, 0]);
        self.bytes.extend_from_slice(&argument.to_le_bytes());
        self.bytes.extend_from_slice(&crc.to_le_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.close(self.bytes.len() - RECORD_BYTES as usize);
        let at = self.bytes.len();
        self.bytes.extend_from_slice(payload);
        (at, crc)
    }

    fn close(&mut self, record: usize) {
        let crc = crc32c::crc32c_append(self.generation_crc, &self.bytes[record..record + 20]);
        self.bytes[record + 20..record + 24].copy_from_slice(&crc.to_le_bytes());
    }

    pub(super) fn is_empty(&self) -> bool {
        self.last.is_none()
    }

    /// Marks the last record as the end of the batch.
    pub(super) fn finish(&mut self) {
        if let Some(record) = self.last {
            self.bytes[record + 5] = 1;
            self.close(record);
        }
    }

    /// The records that no later one changes: all but the last, which may become the end of the batch.
    pub(super) fn settled(&self) -> &[u8] {
        &self.bytes[..self.last.unwrap_or(0)]
    }

    /// Forgets the settled records, which were written; gives their bytes.
    pub(super) fn forget_settled(&mut self) -> u64 {
        let Some(last) = &mut self.last else {
            return 0;
        };
        let settled = std::mem::take(last);
        self.bytes.drain(..settled);
        settled as u64
    }

    pub(super) fn manifest(&mut self, manifest: &Manifest) {
        self.record(Kind::Manifest, 0, &manifest.to_bytes());
    }

    pub(super) fn truncate(&mut self, length: u64) {
        self.record(Kind::Truncate, length, &[]);
    }

    pub(super) fn clear(&mut self, blocks: &std::ops::Range<u64>) {
        self.record(Kind::Clear, blocks.start, &blocks.end.to_le_bytes());
    }

    pub(super) fn nodes<'a>(&mut self, nodes: impl IntoIterator<Item = &'a Node>) {
        let mut payload = Writer::new();
        for node in nodes {
            payload.u64(node.index).u64(node.size).fixed(&node.hash);
        }
        if !payload.is_empty() {
            self.record(Kind::Nodes, 0, payload.as_slice());
        }
    }

    /// Appends a block; `base` is the file offset at which this batch will start.
    pub(super) fn block(&mut self, base: u64, index: u64, block: &[u8]) -> BlockPlace {
        let (at, crc) = self.record(Kind::Block, index, block);
        BlockPlace {
            offset: base + at as u64,
            length: block.len() as u32,
            crc,
        }
    }

    pub(super) fn head(&mut self, head: &Head) {
        let mut payload = Writer::new();
        payload
            .u64(head.length)
            .bool(head.signature.is_some())
            .raw(head.signature.as_deref().unwrap_or_default());
        self.record(Kind::Head, head.fork, payload.as_slice());
    }

    pub(super) fn seal(&mut self, sealed: &Sealed) {
        let mut payload = Writer::new();
        payload
            .u64(sealed.fork)
            .u8(sealed.id.level as u8)
            .bool(sealed.encrypted);
        self.record(Kind::Seal, sealed.id.index, payload.as_slice());
    }

    /// Keeps a value under a name, or forgets it.
    pub(super) fn user_data(&mut self, name: &str, value: Option<&[u8]>) {
        let mut payload = Writer::with_capacity(1 + name.len() + value.map_or(0, <[u8]>::len));
        payload
            .bool(value.is_some())
            .raw(name.as_bytes())
            .raw(value.unwrap_or_default());
        self.record(Kind::UserData, name.len() as u64, payload.as_slice());
    }

    pub(super) fn synced(&mut self, offset: u64) {
        self.record(Kind::Synced, offset, &[]);
    }
}

/// A record's header.
struct Frame {
    kind: Kind,
    last: bool,
    argument: u64,
    length: u32,
    crc: u32,
}

impl Frame {
    fn decode(bytes: &[u8], generation_crc: u32) -> Option<Self> {
        let (header, _) = bytes.split_first_chunk::<{ RECORD_BYTES as usize }>()?;
        let word =
            |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        if word(20) != crc32c::crc32c_append(generation_crc, &header[..20]) || header[5] > 1 {
            return None;
        }
        let argument = u64::from(word(8)) | u64::from(word(12)) << 32;
        Some(Self {
            kind: Kind::from_byte(header[4])?,
            last: header[5] == 1,
            argument,
            length: word(0),
            crc: word(16),
        })
    }

    fn record(&self, payload: &[u8]) -> Option<Record> {
        let mut reader = Reader::new(payload);
        Some(match self.kind {
            Kind::Manifest => Record::Manifest(Manifest::decode(&mut reader).ok()?),
            Kind::Truncate => Record::Truncate(self.argument),
            Kind::Clear => Record::Clear(self.argument..reader.u64_any().ok()?),
            Kind::Nodes => {
                let mut nodes = Vec::with_capacity(payload.len() / NODE_BYTES);
                while !reader.is_empty() {
                    let (index, size) = (reader.u64().ok()?, reader.u64().ok()?);
                    nodes.push(Node {
                        index,
                        size,
                        hash: reader.fixed().ok()?,
                    });
                }
                Record::Nodes(nodes)
            }
            Kind::Head => {
                let (length, signed) = (reader.u64().ok()?, reader.bool().ok()?);
                let signature = signed.then(|| reader.rest().to_vec().into());
                Record::Head(Head {
                    fork: self.argument,
                    length,
                    signature,
                })
            }
            Kind::Seal => {
                let (fork, level, encrypted) = (reader.u64().ok()?, reader.u8().ok()?, reader.bool().ok()?);
                let id = SegmentId {
                    level: u32::from(level),
                    index: self.argument,
                };
                let fits = id.level <= MAX_LEVEL && id.index < crate::roots::MAX_LENGTH >> id.level;
                Record::Seal(Sealed {
                    id: fits.then_some(id)?,
                    fork,
                    encrypted,
                    hollow: false,
                })
            }
            Kind::Synced => Record::Synced,
            Kind::UserData => {
                let held = reader.bool().ok()?;
                let length = usize::try_from(self.argument).ok()?;
                let (name, value) = reader.rest().split_at_checked(length)?;
                Record::UserData {
                    name: std::str::from_utf8(name).ok()?.to_owned(),
                    value: held.then(|| Bytes::copy_from_slice(value)),
                }
            }
            Kind::Block => return None,
        })
    }
}

/// A log as it was read.
pub(super) struct Scan {
    pub(super) version: u8,
    pub(super) generation: u64,
    /// The records of all whole batches, in order.
    pub(super) records: Vec<Record>,
    /// Where the last whole batch ends.
    pub(super) end: u64,
    /// Bytes in the file.
    pub(super) file_length: u64,
    /// Where damage begins; the records are those before it.
    pub(super) damage: Option<u64>,
}

/// Reads a log: every header, and every payload but those of blocks that are known to have been durable.
pub(super) fn scan(files: &Files, path: &Path, discovery_key: &Hash) -> Result<Scan, StorageError> {
    let file_length = files.length(path)?;
    let LogHeader {
        version, generation, ..
    } = read_header(files, path, file_length, discovery_key)?;
    let generation_crc = crc32c::crc32c(&generation.to_le_bytes());
    let mut window = Window::new(files, path, file_length);
    let (mut found, durable, bad) = read_records(&mut window, generation_crc)?;
    let damaged = bad < file_length && synced_after(&mut window, bad, generation_crc)?;
    // A block that was not known to be durable may have reached the disk in part, with its header and later records
    // whole: look at its bytes.
    let mut keep = found.len();
    for (number, (start, _, record)) in found.iter().enumerate() {
        if let Record::Block { place, .. } = record
            && *start >= durable
            && !block_is_whole(files, path, place)?
        {
            keep = number;
            break;
        }
    }
    let whole = found[..keep]
        .iter()
        .rposition(|(_, last, _)| *last)
        .map_or(0, |last| last + 1);
    let end = found.get(whole).map_or(bad, |(start, _, _)| *start);
    found.truncate(whole);
    let records = found.into_iter().map(|(_, _, record)| record).collect();
    Ok(Scan {
        version,
        generation,
        records,
        end,
        file_length,
        damage: damaged.then_some(bad),
    })
}

/// Reads and checks the header.
fn read_header(
    files: &Files,
    path: &Path,
    file_length: u64,
    discovery_key: &Hash,
) -> Result<LogHeader, StorageError> {
    let foreign = |what| StorageError::Foreign {
        what,
        path: path.to_path_buf(),
    };
    if file_length < HEADER_BYTES {
        return Err(foreign("it is too short for a head log"));
    }
    let mut header = [0; HEADER_BYTES as usize];
    files.read_at(path, 0, &mut header)?;
    let header = decode_header(&header).map_err(foreign)?;
    if header.discovery_key == *discovery_key {
        Ok(header)
    } else {
        Err(foreign("it belongs to another core"))
    }
}

/// A record with where it starts and whether it ends a batch.
type Found = (u64, bool, Record);

/// Reads records up to the first that is not whole. Gives them, the length that was durable by their word, and where
/// the rest begins.
fn read_records(
    window: &mut Window<'_>,
    generation_crc: u32,
) -> Result<(Vec<Found>, u64, u64), StorageError> {
    let (mut at, mut durable) = (HEADER_BYTES, HEADER_BYTES);
    let mut found = Vec::new();
    while let Some(frame) = window
        .get(at, RECORD_BYTES)?
        .and_then(|bytes| Frame::decode(bytes, generation_crc))
    {
        let (offset, length) = (at + RECORD_BYTES, u64::from(frame.length));
        let record = if frame.kind == Kind::Block {
            let place = BlockPlace {
                offset,
                length: frame.length,
                crc: frame.crc,
            };
            let inside = offset + length <= window.file_length;
            inside.then_some(Record::Block {
                index: frame.argument,
                place,
            })
        } else {
            let payload = window
                .get(offset, length)?
                .filter(|payload| crc32c::crc32c(payload) == frame.crc);
            payload.and_then(|payload| frame.record(payload))
        };
        let Some(record) = record else { break };
        if frame.kind == Kind::Synced {
            durable = durable.max(frame.argument);
        }
        found.push((at, frame.last, record));
        at = offset + length;
    }
    Ok((found, durable, at))
}

fn block_is_whole(files: &Files, path: &Path, place: &BlockPlace) -> Result<bool, StorageError> {
    let mut bytes = vec![0; place.length as usize];
    files.read_at(path, place.offset, &mut bytes)?;
    Ok(crc32c::crc32c(&bytes) == place.crc)
}

/// Whether a `Synced` record behind `bad` says that the bytes at `bad` were durable.
fn synced_after(window: &mut Window<'_>, bad: u64, generation_crc: u32) -> Result<bool, StorageError> {
    for at in bad..window.file_length.saturating_sub(RECORD_BYTES - 1) {
        let Some(bytes) = window.get(at, RECORD_BYTES)? else {
            break;
        };
        // The cheap look first: a Synced record has no payload.
        if bytes[..8] == [0, 0, 0, 0, Kind::Synced as u8, 1, 0, 0]
            && Frame::decode(bytes, generation_crc).is_some_and(|frame| frame.argument > bad)
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A moving view of a file, so that scanning needs few reads.
struct Window<'a> {
    files: &'a Files,
    path: &'a Path,
    file_length: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl<'a> Window<'a> {
    fn new(files: &'a Files, path: &'a Path, file_length: u64) -> Self {
        Self {
            files,
            path,
            file_length,
            start: 0,
            bytes: Vec::new(),
        }
    }

    /// `length` bytes at `offset`, or none where the file ends earlier.
    fn get(&mut self, offset: u64, length: u64) -> Result<Option<&[u8]>, StorageError> {
        let Some(end) = offset.checked_add(length).filter(|end| *end <= self.file_length) else {
            return Ok(None);
        };
        if offset < self.start || end > self.start + self.bytes.len() as u64 {
            let wanted = (WINDOW as u64).max(length).min(self.file_length - offset);
            self.bytes.resize(wanted as usize, 0);
            self.files.read_at(self.path, offset, &mut self.bytes)?;
            self.start = offset;
        }
        let from = (offset - self.start) as usize;
        Ok(self.bytes.get(from..from + length as usize))
    }
}
