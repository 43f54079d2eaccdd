//! A node of the Merkle tree.

use cumulet_encoding::{DecodeError, Reader, Writer};

use crate::crypto::{Hash, leaf_hash, parent_hash};
use crate::flat_tree;

/// Fewest bytes that an encoded node takes; bounds how many a message can announce.
pub const MIN_NODE_BYTES: usize = 34;

/// A hash of the tree with the number of block bytes it covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node {
    /// Flat-tree index.
    pub index: u64,
    /// Bytes of all blocks below, as stored (with encryption padding).
    pub size: u64,
    /// Leaf or parent hash.
    pub hash: Hash,
}

impl Node {
    /// The leaf of a block.
    pub fn leaf(block_index: u64, block: &[u8]) -> Self {
        Self {
            index: 2 * block_index,
            size: block.len() as u64,
            hash: leaf_hash(block),
        }
    }

    /// The parent of two siblings, in either order.
    pub fn parent(a: &Self, b: &Self) -> Self {
        let (left, right) = if a.index <= b.index { (a, b) } else { (b, a) };
        Self {
            index: flat_tree::parent(left.index),
            size: left.size.saturating_add(right.size),
            hash: parent_hash(left, right),
        }
    }

    /// Reads `uint index, uint size, 32 bytes hash`.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            index: reader.uint()?,
            size: reader.uint()?,
            hash: reader.fixed()?,
        })
    }

    /// Writes what [`Node::decode`] reads.
    pub fn encode(&self, writer: &mut Writer) {
        writer.uint(self.index).uint(self.size).fixed(&self.hash);
    }

    /// Reads an array of nodes, at most as many as the bytes left can hold.
    pub fn decode_array(reader: &mut Reader<'_>) -> Result<Vec<Self>, DecodeError> {
        let count = reader.array_len(MIN_NODE_BYTES)?;
        (0..count).map(|_| Self::decode(reader)).collect()
    }

    /// Writes an array of nodes.
    pub fn encode_array(nodes: &[Self], writer: &mut Writer) {
        writer.array_len(nodes.len());
        for node in nodes {
            node.encode(writer);
        }
    }
}
