//! The `hyperbee` extension message: hints that let a reader ask for all blocks of a lookup at once.
//!
//! A JS reader broadcasts [`Message::Get`] or [`Message::Iterator`] when it would have to wait; a peer that has the
//! version may answer [`Message::Cache`] with the block numbers the lookup touches. It only saves round trips, so
//! ignoring it is correct. The format is that of `hyperbee` 2 (`lib/messages.js`, `Extension`).

use bytes::Bytes;

use crate::protobuf::{DecodeError, Fields, Value, Writer};

/// Name under which peers announce the extension.
pub const NAME: &str = "hyperbee";

/// Most block numbers taken from one message: a JS peer flushes every 128.
pub const MAX_BLOCKS: usize = 2048;

/// A hint or the answer to one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Blocks worth having.
    Cache(Cache),
    /// A lookup of one key.
    Get {
        /// Version of the tree.
        version: u64,
        /// The key as stored.
        key: Bytes,
    },
    /// A walk over a range.
    Iterator(Iterator),
}

/// Blocks `start..end` that a lookup touched.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cache {
    /// First entry of the answer.
    pub start: u64,
    /// One past its last entry.
    pub end: u64,
    /// Block numbers, at most [`MAX_BLOCKS`].
    pub blocks: Vec<u64>,
}

/// A range walk, possibly under way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Iterator {
    /// Version of the tree.
    pub version: u64,
    /// Lower bound, included.
    pub gte: Option<Bytes>,
    /// Lower bound, excluded.
    pub gt: Option<Bytes>,
    /// Upper bound, included.
    pub lte: Option<Bytes>,
    /// Upper bound, excluded.
    pub lt: Option<Bytes>,
    /// Most entries; 0 means no limit.
    pub limit: u64,
    /// Whether from the greatest key down.
    pub reverse: bool,
    /// Where the walk stands: triples of block, level and position, root first.
    pub checkpoint: Vec<u64>,
}

impl Message {
    /// Reads a message; none for one without a field we know.
    pub fn decode(message: &Bytes) -> Result<Option<Self>, DecodeError> {
        let mut decoded = None;
        let mut fields = Fields::new(message);
        while let Some((tag, value)) = fields.next()? {
            let inner = |value: Value<'_>| value.bytes(tag).map(|inner| message.slice_ref(inner));
            match tag {
                1 => decoded = Some(Self::Cache(decode_cache(&inner(value)?)?)),
                2 => decoded = Some(decode_get(&inner(value)?)?),
                3 => decoded = Some(Self::Iterator(decode_iterator(&inner(value)?)?)),
                _ => {}
            }
        }
        Ok(decoded)
    }

    /// The message's bytes.
    pub fn encode(&self) -> Bytes {
        let mut inner = Writer::default();
        let tag = match self {
            Self::Cache(cache) => {
                inner.varint(1, cache.start);
                inner.varint(2, cache.end);
                inner.packed(3, cache.blocks.iter().copied());
                1
            }
            Self::Get { version, key } => {
                inner.varint(1, *version);
                inner.bytes(2, key);
                2
            }
            Self::Iterator(iterator) => {
                encode_iterator(iterator, &mut inner);
                3
            }
        };
        let mut out = Writer::default();
        out.bytes(tag, &inner.finish());
        out.finish()
    }
}

fn encode_iterator(iterator: &Iterator, out: &mut Writer) {
    out.varint(1, iterator.version);
    out.optional_bytes(2, iterator.gte.as_deref());
    out.optional_bytes(3, iterator.gt.as_deref());
    out.optional_bytes(4, iterator.lte.as_deref());
    out.optional_bytes(5, iterator.lt.as_deref());
    out.varint(6, iterator.limit);
    out.varint(7, u64::from(iterator.reverse));
    out.packed(8, iterator.checkpoint.iter().copied());
}

fn unpack_bounded(packed: &[u8], out: &mut Vec<u64>) -> Result<(), DecodeError> {
    // A number takes at least a byte, so this bounds the memory before anything is read.
    Value::unpack(packed.get(..MAX_BLOCKS * 10).unwrap_or(packed), out)?;
    out.truncate(MAX_BLOCKS);
    Ok(())
}

fn decode_cache(message: &Bytes) -> Result<Cache, DecodeError> {
    let (mut start, mut end, mut blocks) = (None, None, Vec::new());
    let mut fields = Fields::new(message);
    while let Some((tag, value)) = fields.next()? {
        match tag {
            1 => start = Some(value.varint(tag)?),
            2 => end = Some(value.varint(tag)?),
            3 => unpack_bounded(value.bytes(tag)?, &mut blocks)?,
            _ => {}
        }
    }
    let start = start.ok_or(DecodeError::MissingField { field: 1 })?;
    let end = end.ok_or(DecodeError::MissingField { field: 2 })?;
    Ok(Cache { start, end, blocks })
}

fn decode_get(message: &Bytes) -> Result<Message, DecodeError> {
    let (mut version, mut key) = (None, None);
    let mut fields = Fields::new(message);
    while let Some((tag, value)) = fields.next()? {
        match tag {
            1 => version = Some(value.varint(tag)?),
            2 => key = Some(message.slice_ref(value.bytes(tag)?)),
            _ => {}
        }
    }
    let version = version.ok_or(DecodeError::MissingField { field: 1 })?;
    let key = key.ok_or(DecodeError::MissingField { field: 2 })?;
    Ok(Message::Get { version, key })
}

fn decode_iterator(message: &Bytes) -> Result<Iterator, DecodeError> {
    let mut iterator = Iterator::default();
    let mut version = None;
    let mut fields = Fields::new(message);
    while let Some((tag, value)) = fields.next()? {
        let bytes = |value: Value<'_>| value.bytes(tag).map(|bytes| Some(message.slice_ref(bytes)));
        match tag {
            1 => version = Some(value.varint(tag)?),
            2 => iterator.gte = bytes(value)?,
            3 => iterator.gt = bytes(value)?,
            4 => iterator.lte = bytes(value)?,
            5 => iterator.lt = bytes(value)?,
            6 => iterator.limit = value.varint(tag)?,
            7 => iterator.reverse = value.varint(tag)? != 0,
            8 => unpack_bounded(value.bytes(tag)?, &mut iterator.checkpoint)?,
            _ => {}
        }
    }
    iterator.version = version.ok_or(DecodeError::MissingField { field: 1 })?;
    Ok(iterator)
}
