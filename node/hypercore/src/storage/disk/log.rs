//! The bytes of a head log, version 2 (`docs/format/head-log.md`): its header, and the records that are appended.
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
//! A batch counts whole or not at all.

use bytes::Bytes;
use cumulet_encoding::{Reader, Writer};

use crate::crypto::Hash;
use crate::manifest::Manifest;
use crate::node::Node;
use crate::segment::SegmentId;
use crate::segment::cut::MAX_LEVEL;
use crate::storage::Head;

pub(super) const HEADER_BYTES: u64 = 64;
pub(super) const RECORD_BYTES: u64 = 24;
pub(super) const NODE_BYTES: usize = 48;
const MAGIC: [u8; 7] = *b"CMLTLOG";
/// What is written.
pub(super) const VERSION: u8 = 2;
/// The first that may hold user data.
pub(super) const USER_DATA_VERSION: u8 = 2;

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
    Block {
        index: u64,
        place: BlockPlace,
    },
    Head(Head),
    Seal(Sealed),
    /// Bytes of the log that were known to be durable.
    Synced(u64),
    UserData {
        name: String,
        value: Option<Bytes>,
    },
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
pub(super) struct Frame {
    pub(super) kind: Kind,
    pub(super) last: bool,
    pub(super) argument: u64,
    pub(super) length: u32,
    pub(super) crc: u32,
}

impl Frame {
    pub(super) fn decode(bytes: &[u8], generation_crc: u32) -> Option<Self> {
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

    pub(super) fn record(&self, payload: &[u8]) -> Option<Record> {
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
            Kind::Synced => Record::Synced(self.argument),
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
