//! The messages of the `hypercore/alpha` channel.
//!
//! Each type knows its number in the channel; [`Message`] is all of them. Bytes after a complete message are ignored
//! (room for growth), unknown flag bits too. Nothing is allocated by a number from the wire: item counts are bounded
//! by the bytes left, ranges stay two numbers. Source: npm hypercore 11.37 `lib/messages.js`.

use bytes::Bytes;
use cumulet_encoding::{DecodeError, Reader, Writer};

use crate::crypto::Hash;
use crate::proof::{self, Proof};

/// Name of the protocol whose channels carry these messages.
pub const PROTOCOL: &str = "hypercore/alpha";

/// What a side puts into its Open for a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handshake {
    /// Whether the sender answers seek requests.
    pub seeks: bool,
    /// Proof that the sender knows the key, see [`crate::crypto::capability`].
    pub capability: Hash,
}

impl Handshake {
    /// Reads the tail of an Open.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        Ok(Self {
            seeks: reader.uint()? & 1 != 0,
            capability: reader.fixed()?,
        })
    }

    /// Writes the tail of an Open.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::with_capacity(33);
        writer.uint(u64::from(self.seeks)).fixed(&self.capability);
        writer.into_vec()
    }
}

/// The sender's state, and how much of the receiver's it has seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // the wire has five flags
pub struct Sync {
    /// The sender's fork.
    pub fork: u64,
    /// The sender's length.
    pub length: u64,
    /// The receiver's length as last seen by the sender; 0 if their forks differ.
    pub remote_length: u64,
    /// The sender can prove an upgrade from the receiver's last known length to its own.
    pub can_upgrade: bool,
    /// The sender answers requests.
    pub uploading: bool,
    /// The sender wants data now.
    pub downloading: bool,
    /// The sender has a manifest that it may send.
    pub has_manifest: bool,
    /// The sender takes Data that it did not ask for.
    pub allow_push: bool,
}

/// A block asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestBlock {
    /// Number of the block.
    pub index: u64,
    /// Levels of the tree that the asker is missing, the leaf included.
    pub nodes: u64,
}

/// A tree node asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestHash {
    /// Flat-tree index.
    pub index: u64,
    /// Levels that the asker is missing.
    pub nodes: u64,
}

/// A byte position asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestSeek {
    /// Byte position, not counting padding.
    pub bytes: u64,
    /// Padding at the front of every block, in bytes (8 on encrypted cores).
    pub padding: u64,
}

/// A longer tree asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestUpgrade {
    /// The asker's length.
    pub start: u64,
    /// Blocks it wants beyond that.
    pub length: u64,
}

/// Asks for parts of a proof.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Request {
    /// Number that the answer will carry; unique among those in flight.
    pub id: u64,
    /// Fork that the asker has (or, for a reorg, wants).
    pub fork: u64,
    /// A block.
    pub block: Option<RequestBlock>,
    /// A tree node.
    pub hash: Option<RequestHash>,
    /// A byte position.
    pub seek: Option<RequestSeek>,
    /// A longer tree.
    pub upgrade: Option<RequestUpgrade>,
    /// The manifest.
    pub manifest: bool,
    /// Above 0: answered before others.
    pub priority: u64,
}

/// Withdraws a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cancel {
    /// Number of the request.
    pub request: u64,
}

/// A proof: an answer, or with request 0 unasked (a push, or a conflict proof).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Data {
    /// Number of the request it answers.
    pub request: u64,
    /// What is proven.
    pub proof: Proof,
}

/// Says that a request will not be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoData {
    /// Number of the request.
    pub request: u64,
    /// 0 none given, 1 not available, 2 invalid request.
    pub reason: u64,
}

/// Asks to be told which blocks of a range the receiver has, now and later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Want {
    /// First block.
    pub start: u64,
    /// Number of blocks.
    pub length: u64,
    /// Any one block of the range is enough.
    pub any: bool,
}

/// Takes a [`Want`] back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unwant {
    /// First block.
    pub start: u64,
    /// Number of blocks.
    pub length: u64,
    /// As in the Want.
    pub any: bool,
}

/// Which blocks the sender has in a window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BitfieldMessage {
    /// Number of the first bit, a multiple of 32 when well made.
    pub start: u64,
    /// The bits, lowest first.
    pub words: Vec<u32>,
}

/// Says that the sender has, or no longer has, a range of blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// No longer has.
    pub drop: bool,
    /// First block.
    pub start: u64,
    /// Number of blocks, as claimed: never allocate by it.
    pub length: u64,
}

/// A message of an extension of the channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extension {
    /// Name; empty means the one of the sender's previous extension message on this channel.
    pub name: String,
    /// The rest of the message.
    pub payload: Bytes,
}

/// Any message of the channel.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::large_enum_variant)] // the large ones are the common ones
#[allow(missing_docs)] // each variant is the type of its name
pub enum Message {
    Sync(Sync),
    Request(Request),
    Cancel(Cancel),
    Data(Data),
    NoData(NoData),
    Want(Want),
    Unwant(Unwant),
    Bitfield(BitfieldMessage),
    Range(Range),
    Extension(Extension),
}

impl Message {
    /// The message's number in the channel.
    pub fn kind(&self) -> u64 {
        match self {
            Self::Sync(_) => 0,
            Self::Request(_) => 1,
            Self::Cancel(_) => 2,
            Self::Data(_) => 3,
            Self::NoData(_) => 4,
            Self::Want(_) => 5,
            Self::Unwant(_) => 6,
            Self::Bitfield(_) => 7,
            Self::Range(_) => 8,
            Self::Extension(_) => 9,
        }
    }

    /// Reads the payload of message number `kind`. A block's bytes share `payload`'s memory.
    pub fn decode(kind: u64, payload: &Bytes) -> Result<Self, DecodeError> {
        let reader = &mut Reader::new(payload);
        Ok(match kind {
            0 => Self::Sync(decode_sync(reader)?),
            1 => Self::Request(decode_request(reader)?),
            2 => Self::Cancel(Cancel {
                request: reader.uint()?,
            }),
            3 => {
                let (flags, request, fork) = (reader.uint()?, reader.uint()?, reader.uint()?);
                let proof = Proof::decode_parts(flags, fork, payload, reader)?;
                Self::Data(Data { request, proof })
            }
            4 => Self::NoData(decode_no_data(reader)?),
            5 => {
                let (start, length, any) = decode_want(reader)?;
                Self::Want(Want { start, length, any })
            }
            6 => {
                let (start, length, any) = decode_want(reader)?;
                Self::Unwant(Unwant { start, length, any })
            }
            7 => Self::Bitfield(BitfieldMessage {
                start: reader.uint()?,
                words: reader.words()?.collect(),
            }),
            8 => {
                let (flags, start) = (reader.uint()?, reader.uint()?);
                let length = if flags & RANGE_SINGLE != 0 {
                    1
                } else {
                    reader.uint()?
                };
                Self::Range(Range {
                    drop: flags & RANGE_DROP != 0,
                    start,
                    length,
                })
            }
            9 => {
                let name = reader.string()?.into_owned();
                Self::Extension(Extension {
                    name,
                    payload: payload.slice_ref(reader.rest()),
                })
            }
            _ => {
                return Err(DecodeError::Invalid(
                    "unknown message of the hypercore/alpha channel",
                ));
            }
        })
    }

    /// The payload.
    pub fn encode(&self) -> Vec<u8> {
        let capacity = match self {
            Self::Data(data) => 27 + data.proof.size_hint(),
            Self::Bitfield(bitfield) => 18 + 4 * bitfield.words.len(),
            _ => 32,
        };
        let mut writer = Writer::with_capacity(capacity);
        self.encode_into(&mut writer);
        writer.into_vec()
    }

    /// The payload in three pieces, of which the second is a block's bytes as they lie in the proof: for who would only copy them.
    /// A message without a block is the first piece.
    pub fn encode_in_pieces(&self) -> (Vec<u8>, Bytes, Vec<u8>) {
        let Self::Data(data) = self else {
            return (self.encode(), Bytes::new(), Vec::new());
        };
        let Some(block) = &data.proof.block else {
            return (self.encode(), Bytes::new(), Vec::new());
        };
        let mut head = Writer::with_capacity(45);
        encode_data_head(data, &mut head);
        head.uint(block.index).uint(block.value.len() as u64);
        let mut tail = Writer::with_capacity(data.proof.size_hint() - block.value.len());
        data.proof.encode_behind_value(&mut tail);
        (head.into_vec(), block.value.clone(), tail.into_vec())
    }

    /// Appends the payload.
    pub fn encode_into(&self, writer: &mut Writer) {
        match self {
            Self::Sync(sync) => encode_sync(sync, writer),
            Self::Request(request) => encode_request(request, writer),
            Self::Cancel(cancel) => {
                writer.uint(cancel.request);
            }
            Self::Data(data) => {
                encode_data_head(data, writer);
                data.proof.encode_parts(writer);
            }
            Self::NoData(no_data) => {
                writer.uint(no_data.request).uint(u64::from(no_data.reason != 0));
                if no_data.reason != 0 {
                    writer.uint(no_data.reason);
                }
            }
            Self::Want(want) => encode_want(want.start, want.length, want.any, writer),
            Self::Unwant(unwant) => encode_want(unwant.start, unwant.length, unwant.any, writer),
            Self::Bitfield(bitfield) => {
                writer.uint(bitfield.start).words(&bitfield.words);
            }
            Self::Range(range) => {
                let drop = if range.drop { RANGE_DROP } else { 0 };
                if range.length == 1 {
                    writer.uint(drop | RANGE_SINGLE).uint(range.start);
                } else {
                    writer.uint(drop).uint(range.start).uint(range.length);
                }
            }
            Self::Extension(extension) => {
                writer.string(&extension.name).raw(&extension.payload);
            }
        }
    }
}

const RANGE_DROP: u64 = 1;
const RANGE_SINGLE: u64 = 2;
const PRIORITY: u64 = 32;

fn decode_sync(reader: &mut Reader<'_>) -> Result<Sync, DecodeError> {
    let flags = reader.uint()?;
    Ok(Sync {
        fork: reader.uint()?,
        length: reader.uint()?,
        remote_length: reader.uint()?,
        can_upgrade: flags & 1 != 0,
        uploading: flags & 2 != 0,
        downloading: flags & 4 != 0,
        has_manifest: flags & 8 != 0,
        allow_push: flags & 16 != 0,
    })
}

fn encode_data_head(data: &Data, writer: &mut Writer) {
    writer
        .uint(data.proof.flags())
        .uint(data.request)
        .uint(data.proof.fork);
}

fn encode_sync(sync: &Sync, writer: &mut Writer) {
    let flags = u64::from(sync.can_upgrade)
        | u64::from(sync.uploading) << 1
        | u64::from(sync.downloading) << 2
        | u64::from(sync.has_manifest) << 3
        | u64::from(sync.allow_push) << 4;
    writer
        .uint(flags)
        .uint(sync.fork)
        .uint(sync.length)
        .uint(sync.remote_length);
}

fn decode_request(reader: &mut Reader<'_>) -> Result<Request, DecodeError> {
    let flags = reader.uint()?;
    let mut request = Request {
        id: reader.uint()?,
        fork: reader.uint()?,
        ..Request::default()
    };
    if flags & proof::BLOCK != 0 {
        request.block = Some(RequestBlock {
            index: reader.uint()?,
            nodes: reader.uint()?,
        });
    }
    if flags & proof::HASH != 0 {
        request.hash = Some(RequestHash {
            index: reader.uint()?,
            nodes: reader.uint()?,
        });
    }
    if flags & proof::SEEK != 0 {
        request.seek = Some(RequestSeek {
            bytes: reader.uint()?,
            padding: reader.uint()?,
        });
    }
    if flags & proof::UPGRADE != 0 {
        request.upgrade = Some(RequestUpgrade {
            start: reader.uint()?,
            length: reader.uint()?,
        });
    }
    request.manifest = flags & proof::MANIFEST != 0;
    if flags & PRIORITY != 0 {
        request.priority = reader.uint()?;
    }
    Ok(request)
}

fn encode_request(request: &Request, writer: &mut Writer) {
    let flag = |set: bool, bit| if set { bit } else { 0 };
    let flags = flag(request.block.is_some(), proof::BLOCK)
        | flag(request.hash.is_some(), proof::HASH)
        | flag(request.seek.is_some(), proof::SEEK)
        | flag(request.upgrade.is_some(), proof::UPGRADE)
        | flag(request.manifest, proof::MANIFEST)
        | flag(request.priority != 0, PRIORITY);
    writer.uint(flags).uint(request.id).uint(request.fork);
    if let Some(block) = request.block {
        writer.uint(block.index).uint(block.nodes);
    }
    if let Some(hash) = request.hash {
        writer.uint(hash.index).uint(hash.nodes);
    }
    if let Some(seek) = request.seek {
        writer.uint(seek.bytes).uint(seek.padding);
    }
    if let Some(upgrade) = request.upgrade {
        writer.uint(upgrade.start).uint(upgrade.length);
    }
    if request.priority != 0 {
        writer.uint(request.priority);
    }
}

/// Older peers send only the request number.
fn decode_no_data(reader: &mut Reader<'_>) -> Result<NoData, DecodeError> {
    let request = reader.uint()?;
    let flags = if reader.is_empty() { 0 } else { reader.uint()? };
    let reason = if flags & 1 != 0 { reader.uint()? } else { 0 };
    Ok(NoData { request, reason })
}

/// The flags stand only in messages of newer peers, and only when they are not zero.
fn decode_want(reader: &mut Reader<'_>) -> Result<(u64, u64, bool), DecodeError> {
    let (start, length) = (reader.uint()?, reader.uint()?);
    let flags = if reader.is_empty() { 0 } else { reader.uint()? };
    Ok((start, length, flags & 1 != 0))
}

fn encode_want(start: u64, length: u64, any: bool, writer: &mut Writer) {
    writer.uint(start).uint(length);
    if any {
        writer.uint(1);
    }
}
