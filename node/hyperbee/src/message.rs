//! The blocks of a Hyperbee: protocol-buffers messages (proto2 wire format), read and written.
//!
//! Block 0 is a [`Header`], every other block a [`Node`]. The format is that of the JS package `hyperbee` 2
//! (`lib/messages.js`): fields in number order, packed integer lists left out when empty.
//!
//! Decoding is strict where a mistake would be silent (wire types of known fields, lengths past the end) and lenient
//! where the format is: unknown fields are skipped, the last of a repeated single field counts. A missing required
//! field is an error. The general libraries for this format turn a missing required field into its default and
//! take unpacked lists as well, which is why the hundred lines are here.

use bytes::Bytes;

use crate::protobuf::{DecodeError, Fields, Value, Writer, field_length, varint_length};

/// What the header's `protocol` says in a bee.
pub const PROTOCOL: &str = "hyperbee";

/// Block 0 of a bee.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Name of the format: [`PROTOCOL`] in a bee.
    pub protocol: String,
    /// What the application wrote beside it; a Hyperdrive has it, empty or with its content feed.
    pub metadata: Option<Metadata>,
}

/// The optional part of a [`Header`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Key of the core that holds the content (old Hyperdrives: the first 32 bytes are the blobs key).
    pub content_feed: Option<Bytes>,
    /// Free bytes of the application.
    pub user_data: Option<Bytes>,
}

impl Header {
    /// The header of a bee with this metadata.
    pub fn new(metadata: Option<Metadata>) -> Self {
        Self {
            protocol: PROTOCOL.to_owned(),
            metadata,
        }
    }

    /// Reads a header block. Bytes after the last field can't exist: the message is the whole block.
    pub fn decode(block: &Bytes) -> Result<Self, DecodeError> {
        let mut protocol = None;
        let mut metadata = None;
        let mut fields = Fields::new(block);
        while let Some((tag, value)) = fields.next()? {
            match tag {
                1 => {
                    let text = std::str::from_utf8(value.bytes(tag)?)
                        .map_err(|_| DecodeError::BadText { field: tag })?;
                    protocol = Some(text.to_owned());
                }
                2 => metadata = Some(Metadata::decode(&block.slice_ref(value.bytes(tag)?))?),
                _ => {}
            }
        }
        let protocol = protocol.ok_or(DecodeError::MissingField { field: 1 })?;
        Ok(Self { protocol, metadata })
    }

    /// The header block.
    pub fn encode(&self) -> Bytes {
        let mut out = Writer::default();
        out.bytes(1, self.protocol.as_bytes());
        if let Some(metadata) = &self.metadata {
            let mut inner = Writer::default();
            inner.optional_bytes(1, metadata.content_feed.as_deref());
            inner.optional_bytes(2, metadata.user_data.as_deref());
            out.bytes(2, &inner.finish());
        }
        out.finish()
    }
}

impl Metadata {
    fn decode(message: &Bytes) -> Result<Self, DecodeError> {
        let mut metadata = Self::default();
        let mut fields = Fields::new(message);
        while let Some((tag, value)) = fields.next()? {
            match tag {
                1 => metadata.content_feed = Some(message.slice_ref(value.bytes(tag)?)),
                2 => metadata.user_data = Some(message.slice_ref(value.bytes(tag)?)),
                _ => {}
            }
        }
        Ok(metadata)
    }
}

/// One node of the B-tree as a block stores it: a *level* of that block's index.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Level {
    /// For each key, in order, the block that holds it.
    pub keys: Vec<u64>,
    /// One more than the keys, or none in a leaf.
    pub children: Vec<ChildPointer>,
}

/// Where a child node of the B-tree is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChildPointer {
    /// Block of the core.
    pub seq: u64,
    /// Number of the level in that block's index.
    pub offset: u64,
}

/// A block of a bee after the header: one put or delete, and the tree nodes it changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The changed tree nodes; the first is the root after this entry (except inside a batch, where it is left out).
    pub levels: Vec<Level>,
    /// The key put or deleted.
    pub key: Bytes,
    /// The value; none for a delete and for a put of null. An empty value is a value.
    pub value: Option<Bytes>,
}

/// An entry block taken apart, its index not yet read: most blocks are only asked for their key.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) index: Bytes,
    pub(crate) key: Bytes,
    pub(crate) value: Option<Bytes>,
}

impl Parts {
    /// All parts share the block's memory.
    pub(crate) fn decode(block: &Bytes) -> Result<Self, DecodeError> {
        let (mut index, mut key, mut value) = (None, None, None);
        let mut fields = Fields::new(block);
        while let Some((tag, field)) = fields.next()? {
            match tag {
                1 => index = Some(field.bytes(tag)?),
                2 => key = Some(field.bytes(tag)?),
                3 => value = Some(field.bytes(tag)?),
                _ => {}
            }
        }
        Ok(Self {
            index: block.slice_ref(index.ok_or(DecodeError::MissingField { field: 1 })?),
            key: block.slice_ref(key.ok_or(DecodeError::MissingField { field: 2 })?),
            value: value.map(|value| block.slice_ref(value)),
        })
    }

    /// One level of the index, read alone; none if there are fewer.
    pub(crate) fn level(&self, offset: u64) -> Result<Option<Level>, DecodeError> {
        let mut number = 0;
        let mut fields = Fields::new(&self.index);
        while let Some((tag, value)) = fields.next()? {
            if tag == 1 {
                let level = value.bytes(tag)?;
                if number == offset {
                    return decode_level(level).map(Some);
                }
                number += 1;
            }
        }
        Ok(None)
    }

    /// Whether this entry, stored as block `seq`, is a delete: as [`Node::is_deletion`].
    pub(crate) fn is_deletion(&self, seq: u64) -> Result<bool, DecodeError> {
        if self.value.is_some() {
            return Ok(false);
        }
        let levels = decode_index(&self.index)?;
        Ok(!levels.iter().any(|level| level.keys.contains(&seq)))
    }
}

/// A tree node on its way into a block, however it is kept.
pub(crate) trait LevelSource {
    fn keys(&self) -> impl Iterator<Item = u64>;
    /// Block and level of each child, flat.
    fn children(&self) -> impl Iterator<Item = u64>;
}

impl LevelSource for &Level {
    fn keys(&self) -> impl Iterator<Item = u64> {
        self.keys.iter().copied()
    }
    fn children(&self) -> impl Iterator<Item = u64> {
        self.children.iter().flat_map(|child| [child.seq, child.offset])
    }
}

/// The block of an entry with these nodes: sizes first, then one buffer.
pub(crate) fn encode_entry<L: LevelSource>(
    levels: impl Iterator<Item = L> + Clone,
    key: &[u8],
    value: Option<&[u8]>,
) -> Bytes {
    let list_length = |list: u64| if list == 0 { 0 } else { field_length(list) };
    let sizes = |level: &L| {
        let keys: u64 = level.keys().map(varint_length).sum();
        let children: u64 = level.children().map(varint_length).sum();
        (keys, children, list_length(keys) + list_length(children))
    };
    let index: u64 = levels.clone().map(|level| field_length(sizes(&level).2)).sum();
    let total = field_length(index)
        + field_length(key.len() as u64)
        + value.map_or(0, |value| field_length(value.len() as u64));
    let mut out = Writer::with_capacity(total as usize);
    out.prefix(1, index);
    for level in levels {
        let (keys, children, length) = sizes(&level);
        out.prefix(1, length);
        for (field, length) in [(1, keys), (2, children)] {
            if length == 0 {
                continue;
            }
            out.prefix(field, length);
            if field == 1 {
                level.keys().for_each(|seq| out.raw_varint(seq));
            } else {
                level.children().for_each(|number| out.raw_varint(number));
            }
        }
    }
    out.bytes(2, key);
    out.optional_bytes(3, value);
    out.finish()
}

impl Node {
    /// Reads an entry block. `key` and `value` share the block's memory.
    pub fn decode(block: &Bytes) -> Result<Self, DecodeError> {
        let parts = Parts::decode(block)?;
        Ok(Self {
            levels: decode_index(&parts.index)?,
            key: parts.key,
            value: parts.value,
        })
    }

    /// The entry block.
    pub fn encode(&self) -> Bytes {
        encode_entry(self.levels.iter(), &self.key, self.value.as_deref())
    }

    /// Whether this entry, stored as block `seq`, is a delete: no value, and its own block is in none of its levels.
    pub fn is_deletion(&self, seq: u64) -> bool {
        self.value.is_none() && !self.levels.iter().any(|level| level.keys.contains(&seq))
    }
}

fn decode_index(index: &[u8]) -> Result<Vec<Level>, DecodeError> {
    let mut levels = Vec::new();
    let mut fields = Fields::new(index);
    while let Some((tag, value)) = fields.next()? {
        if tag == 1 {
            levels.push(decode_level(value.bytes(tag)?)?);
        }
    }
    Ok(levels)
}

fn decode_level(message: &[u8]) -> Result<Level, DecodeError> {
    let mut level = Level::default();
    let mut children = Vec::new();
    let mut fields = Fields::new(message);
    while let Some((tag, value)) = fields.next()? {
        match tag {
            1 => Value::unpack(value.bytes(tag)?, &mut level.keys)?,
            2 => Value::unpack(value.bytes(tag)?, &mut children)?,
            _ => {}
        }
    }
    let pairs = children.chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return Err(DecodeError::OddChildren);
    }
    level.children = pairs
        .map(|pair| ChildPointer {
            seq: pair[0],
            offset: pair[1],
        })
        .collect();
    Ok(level)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_fields_are_skipped_and_missing_ones_refused() {
        // 4: varint 7, 5: fixed64, 6: bytes, 7: fixed32 around key and index.
        let mut block = vec![0x20, 7, 0x29, 0, 0, 0, 0, 0, 0, 0, 0, 0x0a, 0];
        block.extend([0x12, 1, b'a', 0x32, 2, 1, 2, 0x3d, 1, 2, 3, 4]);
        let node = Node::decode(&Bytes::from(block)).unwrap();
        assert_eq!((node.key.as_ref(), node.value), (&b"a"[..], None));
        assert_eq!(
            Node::decode(&Bytes::from_static(&[0x0a, 0])),
            Err(DecodeError::MissingField { field: 2 })
        );
        assert_eq!(
            Node::decode(&Bytes::from_static(&[0x12, 0])),
            Err(DecodeError::MissingField { field: 1 })
        );
        assert_eq!(
            Header::decode(&Bytes::new()),
            Err(DecodeError::MissingField { field: 1 })
        );
    }

    #[test]
    fn lengths_past_the_end_are_refused_at_every_depth() {
        for block in [
            &[0x0a_u8, 5, 0][..],
            &[0x0a, 2, 0x0a, 9, 0x12, 0],
            &[0x0a, 3, 0x0a, 1, 0x0a, 0x12, 0],
        ] {
            assert_eq!(
                Node::decode(&Bytes::copy_from_slice(block)),
                Err(DecodeError::OutOfBounds),
                "{block:?}"
            );
        }
    }

    #[test]
    fn an_odd_list_of_children_is_refused() {
        let block = Bytes::from_static(&[0x0a, 5, 0x0a, 3, 0x12, 1, 1, 0x12, 0]);
        assert_eq!(Node::decode(&block), Err(DecodeError::OddChildren));
    }

    #[test]
    fn an_emptied_tree_and_a_pruned_index_are_different_bytes() {
        let emptied = Node {
            levels: vec![Level::default()],
            key: Bytes::new(),
            value: None,
        };
        assert_eq!(emptied.encode().as_ref(), &[0x0a, 2, 0x0a, 0, 0x12, 0]);
        let pruned = Node {
            levels: vec![],
            ..emptied
        };
        assert_eq!(pruned.encode().as_ref(), &[0x0a, 0, 0x12, 0]);
    }
}
