//! The parts of a proof as they travel in a Data message, and their codec.
//!
//! Nothing in a [`Proof`] is verified: it becomes true only by `Core::verify_and_apply`.

use bytes::Bytes;
use cumulet_encoding::{DecodeError, Reader, Writer, buffer_len};

use crate::manifest::Manifest;
use crate::node::Node;

pub(crate) const BLOCK: u64 = 1;
pub(crate) const HASH: u64 = 2;
pub(crate) const SEEK: u64 = 4;
pub(crate) const UPGRADE: u64 = 8;
pub(crate) const MANIFEST: u64 = 16;

/// A block with the siblings that lead from its leaf to a node that the asker has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockProof {
    /// Number of the block.
    pub index: u64,
    /// Its bytes as stored. Empty is a legal block.
    pub value: Bytes,
    /// Siblings from the leaf upwards.
    pub nodes: Vec<Node>,
}

/// A tree node with the siblings that lead upwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HashProof {
    /// Flat-tree index asked for.
    pub index: u64,
    /// The node itself, then siblings.
    pub nodes: Vec<Node>,
}

/// The nodes that tell where a byte position lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeekProof {
    /// Byte position asked for.
    pub bytes: u64,
    /// The node that holds it, then siblings.
    pub nodes: Vec<Node>,
}

/// The nodes and the signature that make a tree longer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpgradeProof {
    /// Length of the tree it starts from.
    pub start: u64,
    /// Number of blocks that `nodes` add.
    pub length: u64,
    /// Nodes in the order in which the verifier takes them.
    pub nodes: Vec<Node>,
    /// Nodes from `start + length` to the length that is signed.
    pub additional_nodes: Vec<Node>,
    /// Signature of the whole tree; none only within a prologue.
    pub signature: Option<Bytes>,
}

/// Everything a Data message may prove.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proof {
    /// Fork of the tree that the proof belongs to.
    pub fork: u64,
    /// A block.
    pub block: Option<BlockProof>,
    /// A tree node.
    pub hash: Option<HashProof>,
    /// A byte position.
    pub seek: Option<SeekProof>,
    /// A longer tree.
    pub upgrade: Option<UpgradeProof>,
    /// The core's manifest.
    pub manifest: Option<Manifest>,
}

impl Proof {
    pub(crate) fn flags(&self) -> u64 {
        [
            (self.block.is_some(), BLOCK),
            (self.hash.is_some(), HASH),
            (self.seek.is_some(), SEEK),
            (self.upgrade.is_some(), UPGRADE),
            (self.manifest.is_some(), MANIFEST),
        ]
        .into_iter()
        .filter_map(|(set, bit)| set.then_some(bit))
        .sum()
    }

    /// Upper bound of the encoded parts' length, so that a writer allocates once.
    pub(crate) fn size_hint(&self) -> usize {
        const NODE: usize = 50;
        let block = self.block.as_ref().map_or(0, |part| {
            9 + buffer_len(part.value.len()) + NODE * part.nodes.len()
        });
        let hash = self.hash.as_ref().map_or(0, |part| 9 + NODE * part.nodes.len());
        let seek = self.seek.as_ref().map_or(0, |part| 9 + NODE * part.nodes.len());
        let upgrade = self.upgrade.as_ref().map_or(0, |part| {
            let signature = part.signature.as_ref().map_or(0, Bytes::len);
            27 + NODE * (part.nodes.len() + part.additional_nodes.len()) + signature
        });
        64 + block
            + hash
            + seek
            + upgrade
            + self
                .manifest
                .as_ref()
                .map_or(0, |part| 128 + 65 * part.signers.len())
    }

    /// Reads the parts that `flags` names. `whole` is the message that the reader walks, so that a block's bytes can
    /// be shared instead of copied.
    pub(crate) fn decode_parts(
        flags: u64,
        fork: u64,
        whole: &Bytes,
        reader: &mut Reader<'_>,
    ) -> Result<Self, DecodeError> {
        let mut proof = Self {
            fork,
            ..Self::default()
        };
        if flags & BLOCK != 0 {
            let index = reader.uint()?;
            let value = whole.slice_ref(reader.buffer()?);
            proof.block = Some(BlockProof {
                index,
                value,
                nodes: Node::decode_array(reader)?,
            });
        }
        if flags & HASH != 0 {
            proof.hash = Some(HashProof {
                index: reader.uint()?,
                nodes: Node::decode_array(reader)?,
            });
        }
        if flags & SEEK != 0 {
            proof.seek = Some(SeekProof {
                bytes: reader.uint()?,
                nodes: Node::decode_array(reader)?,
            });
        }
        if flags & UPGRADE != 0 {
            proof.upgrade = Some(UpgradeProof {
                start: reader.uint()?,
                length: reader.uint()?,
                nodes: Node::decode_array(reader)?,
                additional_nodes: Node::decode_array(reader)?,
                signature: reader.optional_buffer()?.map(|bytes| whole.slice_ref(bytes)),
            });
        }
        if flags & MANIFEST != 0 {
            proof.manifest = Some(Manifest::decode(reader)?);
        }
        Ok(proof)
    }

    /// Writes the parts, in the order of their flags.
    pub(crate) fn encode_parts(&self, writer: &mut Writer) {
        if let Some(block) = &self.block {
            writer.uint(block.index).buffer(&block.value);
        }
        self.encode_behind_value(writer);
    }

    /// What [`Proof::encode_parts`] writes behind the block's bytes.
    pub(crate) fn encode_behind_value(&self, writer: &mut Writer) {
        if let Some(block) = &self.block {
            Node::encode_array(&block.nodes, writer);
        }
        if let Some(hash) = &self.hash {
            writer.uint(hash.index);
            Node::encode_array(&hash.nodes, writer);
        }
        if let Some(seek) = &self.seek {
            writer.uint(seek.bytes);
            Node::encode_array(&seek.nodes, writer);
        }
        if let Some(upgrade) = &self.upgrade {
            writer.uint(upgrade.start).uint(upgrade.length);
            Node::encode_array(&upgrade.nodes, writer);
            Node::encode_array(&upgrade.additional_nodes, writer);
            writer.optional_buffer(upgrade.signature.as_deref());
        }
        if let Some(manifest) = &self.manifest {
            manifest.encode(writer);
        }
    }
}
