//! The bytes of a segment, version 1 (`docs/format/segment.md`). All integers are little endian.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 8 | magic `CMLTSEG` and the version, 1 |
//! | 8 | 8 | fork |
//! | 16 | 8 | index of the subtree among those of its level |
//! | 24 | 8 | block bytes in all, before encryption: the subtree's size in the Merkle tree |
//! | 32 | 1 | level |
//! | 33 | 1 | cipher: 0 none, 1 XChaCha20-Poly1305 |
//! | 34 | 6 | zero |
//! | 40 | 32 | discovery key |
//! | 72 | 32 | hash of the subtree's top |
//! | 104 | 4·2^level | for each block, where its stored bytes end, counted from the end of this table |
//! | … | | the stored blocks, one behind the other; nothing follows |

use std::ops::Range;

use bytes::Bytes;

use super::cipher::{ContentCipher, OVERHEAD};
use super::cut::{MAX_LEVEL, SegmentId};
use crate::crypto::Hash;
use crate::node::Node;

const MAGIC: [u8; 8] = *b"CMLTSEG\x01";
/// Bytes before the offset table.
pub const HEADER_BYTES: usize = 104;

/// Whose blocks a segment holds, and which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place {
    /// The core's discovery key.
    pub discovery_key: Hash,
    /// The core's fork when the blocks were signed.
    pub fork: u64,
    /// Which subtree.
    pub id: SegmentId,
}

/// Why bytes are not the segment that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SegmentError {
    /// The bytes end too early or go on too long, or an offset in the table is impossible.
    #[error("the segment is torn: {what}")]
    Torn {
        /// What doesn't fit.
        what: &'static str,
    },
    /// Not a segment, or one of a later version.
    #[error("the segment has an unknown magic or version; a newer program may be needed")]
    UnknownVersion,
    /// A well-formed segment of something else.
    #[error("the segment belongs to another core, fork or place")]
    WrongPlace,
    /// The segment is encrypted and there is no content key, or the other way round.
    #[error("the segment's cipher is {found}, expected {expected}")]
    WrongCipher {
        /// Cipher number in the header.
        found: u8,
        /// Cipher number that the keys at hand ask for.
        expected: u8,
    },
    /// A block doesn't open: changed bytes or another content key.
    #[error("block {index} doesn't open under this content key: it was changed, or belongs to another cloud")]
    DoesNotOpen {
        /// The block.
        index: u64,
    },
    /// The blocks don't have the hash or size that the header promises.
    #[error("the blocks don't have the hash that the segment's header promises")]
    WrongHash,
    /// The blocks to encode are not 2^level, or too many bytes for the format.
    #[error("a segment of level {level} can't hold these blocks")]
    DoesNotFit {
        /// The level.
        level: u32,
    },
}

/// A segment's bytes and the top of its subtree.
#[derive(Debug, Clone)]
pub struct Encoded {
    /// What is written to disk or to a store.
    pub bytes: Bytes,
    /// The top of the subtree.
    pub root: Node,
}

/// A segment that was read whole: its blocks have the subtree hash of the header.
#[derive(Debug, Clone)]
pub struct Decoded {
    /// The blocks, in order.
    pub blocks: Vec<Bytes>,
    /// Every node of the subtree, leaves and top included, in no particular order.
    pub nodes: Vec<Node>,
    /// The top of the subtree. It is worth something only when a signature covers a node of this index and hash.
    pub root: Node,
}

/// Encodes the blocks of a place. The same blocks, place and key always give the same bytes.
pub fn encode(
    place: &Place,
    cipher: Option<&ContentCipher>,
    blocks: &[Bytes],
) -> Result<Encoded, SegmentError> {
    let level = place.id.level;
    if level > MAX_LEVEL || blocks.len() != 1 << level {
        return Err(SegmentError::DoesNotFit { level });
    }
    let first = place.id.blocks().start;
    let leaves: Vec<Node> = (first..)
        .zip(blocks)
        .map(|(index, block)| Node::leaf(index, block))
        .collect();
    let root = top(leaves.clone(), &mut Vec::new());
    encode_hashed(place, cipher, blocks, &leaves, root)
}

/// Header and table of a plain segment whose blocks have these lengths; the blocks follow, one behind the other.
pub(crate) fn encode_start(
    place: &Place,
    lengths: impl ExactSizeIterator<Item = usize>,
    root: &Node,
) -> Result<Vec<u8>, SegmentError> {
    let level = place.id.level;
    if level > MAX_LEVEL || lengths.len() != 1 << level {
        return Err(SegmentError::DoesNotFit { level });
    }
    start_of(place, false, lengths, root)
}

fn start_of(
    place: &Place,
    encrypted: bool,
    lengths: impl ExactSizeIterator<Item = usize>,
    root: &Node,
) -> Result<Vec<u8>, SegmentError> {
    let level = place.id.level;
    let mut out = Vec::with_capacity(HEADER_BYTES + 4 * lengths.len());
    out.extend_from_slice(&MAGIC);
    for number in [place.fork, place.id.index, root.size] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(&[level as u8, u8::from(encrypted), 0, 0, 0, 0, 0, 0]);
    out.extend_from_slice(&place.discovery_key);
    out.extend_from_slice(&root.hash);
    let mut end = 0_usize;
    for length in lengths {
        end += length;
        let end = u32::try_from(end).map_err(|_| SegmentError::DoesNotFit { level })?;
        out.extend_from_slice(&end.to_le_bytes());
    }
    Ok(out)
}

/// As [`encode`], for blocks whose leaves and top are known, so that nothing is hashed again. The caller has checked
/// that these are the blocks that were hashed.
pub(crate) fn encode_hashed(
    place: &Place,
    cipher: Option<&ContentCipher>,
    blocks: &[Bytes],
    leaves: &[Node],
    root: Node,
) -> Result<Encoded, SegmentError> {
    let level = place.id.level;
    let does_not_fit = SegmentError::DoesNotFit { level };
    if level > MAX_LEVEL || blocks.len() != 1 << level || leaves.len() != blocks.len() {
        return Err(does_not_fit);
    }
    let overhead = if cipher.is_some() { OVERHEAD } else { 0 };
    let lengths = blocks.iter().map(|block| block.len() + overhead);
    let stored_bytes: usize = lengths.clone().sum();
    let start = start_of(place, cipher.is_some(), lengths, &root)?;
    let mut out = Vec::with_capacity(start.len() + stored_bytes);
    out.extend_from_slice(&start);
    for (leaf, block) in leaves.iter().zip(blocks) {
        match cipher {
            None => out.extend_from_slice(block),
            Some(cipher) => cipher
                .seal(place, leaf.index / 2, &leaf.hash, block, &mut out)
                .map_err(|_| does_not_fit.clone())?,
        }
    }
    Ok(Encoded {
        bytes: out.into(),
        root,
    })
}

/// Joins leaves to the top of their subtree; every node is appended to `nodes`.
fn top(mut row: Vec<Node>, nodes: &mut Vec<Node>) -> Node {
    while row.len() > 1 {
        nodes.extend_from_slice(&row);
        row = row
            .chunks_exact(2)
            .map(|pair| Node::parent(&pair[0], &pair[1]))
            .collect();
    }
    let root = row[0];
    nodes.push(root);
    root
}

/// The first [`HEADER_BYTES`] of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Whose blocks, and which.
    pub place: Place,
    /// Whether the blocks are encrypted.
    pub encrypted: bool,
    /// The top of the subtree, as promised.
    pub root: Node,
}

impl Header {
    /// Reads a header. Only its shape is checked here.
    pub fn decode(bytes: &[u8]) -> Result<Self, SegmentError> {
        let header = bytes.get(..HEADER_BYTES).ok_or(SegmentError::Torn {
            what: "it ends inside the header",
        })?;
        if header[..8] != MAGIC || header[34..40] != [0; 6] {
            return Err(SegmentError::UnknownVersion);
        }
        let (level, cipher) = (u32::from(header[32]), header[33]);
        if level > MAX_LEVEL || cipher > 1 {
            return Err(SegmentError::UnknownVersion);
        }
        let index = number(&header[16..24]);
        if index >= crate::roots::MAX_LENGTH >> level {
            return Err(SegmentError::Torn {
                what: "its index is beyond any core",
            });
        }
        let id = SegmentId { level, index };
        Ok(Self {
            place: Place {
                discovery_key: array(&header[40..72]),
                fork: number(&header[8..16]),
                id,
            },
            encrypted: cipher == 1,
            root: Node {
                index: id.node(),
                size: number(&header[24..32]),
                hash: array(&header[72..104]),
            },
        })
    }

    /// Bytes of the offset table.
    pub fn table_bytes(&self) -> usize {
        4 << self.place.id.level
    }

    /// Where in the file the stored bytes of a block lie. `table` is the offset table; the block is one of the segment's.
    pub fn block_range(&self, table: &[u8], block_index: u64) -> Result<Range<u64>, SegmentError> {
        let torn = SegmentError::Torn {
            what: "its offset table is impossible",
        };
        let blocks = self.place.id.blocks();
        if !blocks.contains(&block_index) || table.len() != self.table_bytes() {
            return Err(SegmentError::WrongPlace);
        }
        let position = 4 * (block_index - blocks.start) as usize;
        let end = number(&table[position..position + 4]);
        let start = if position == 0 {
            0
        } else {
            number(&table[position - 4..position])
        };
        if start > end {
            return Err(torn);
        }
        let base = (HEADER_BYTES + self.table_bytes()) as u64;
        Ok(base + start..base + end)
    }
}

/// One block out of its stored bytes. The caller checks its leaf hash if it doesn't trust where they come from.
pub fn open_block(
    header: &Header,
    cipher: Option<&ContentCipher>,
    block_index: u64,
    stored: Bytes,
) -> Result<Bytes, SegmentError> {
    match (header.encrypted, cipher) {
        (false, _) => Ok(stored),
        (true, None) => Err(SegmentError::WrongCipher {
            found: 1,
            expected: 0,
        }),
        (true, Some(cipher)) => cipher
            .open(&header.place, block_index, &stored)
            .map(Bytes::from)
            .map_err(|_| SegmentError::DoesNotOpen { index: block_index }),
    }
}

/// Reads a whole segment and recomputes its subtree. Any changed bit is an error: in the header because it must be
/// `expected`, in the table and the blocks because the hash no longer fits.
pub fn decode(
    bytes: &Bytes,
    expected: &Place,
    cipher: Option<&ContentCipher>,
) -> Result<Decoded, SegmentError> {
    let header = Header::decode(bytes)?;
    if header.place != *expected {
        return Err(SegmentError::WrongPlace);
    }
    if header.encrypted != cipher.is_some() {
        let (found, expected) = (u8::from(header.encrypted), u8::from(cipher.is_some()));
        return Err(SegmentError::WrongCipher { found, expected });
    }
    let table = bytes
        .get(HEADER_BYTES..HEADER_BYTES + header.table_bytes())
        .ok_or(SegmentError::Torn {
            what: "it ends inside the offset table",
        })?;
    let mut blocks = Vec::with_capacity(1 << expected.id.level);
    let mut end = (HEADER_BYTES + table.len()) as u64;
    for index in expected.id.blocks() {
        let range = header.block_range(table, index)?;
        end = range.end;
        if end > bytes.len() as u64 {
            return Err(SegmentError::Torn {
                what: "it ends inside a block",
            });
        }
        let stored = bytes.slice(range.start as usize..range.end as usize);
        blocks.push(open_block(&header, cipher, index, stored)?);
    }
    if end != bytes.len() as u64 {
        return Err(SegmentError::Torn {
            what: "bytes follow the last block",
        });
    }
    let mut nodes = Vec::with_capacity(2 << expected.id.level);
    let leaves = expected
        .id
        .blocks()
        .zip(&blocks)
        .map(|(index, block)| Node::leaf(index, block))
        .collect();
    let root = top(leaves, &mut nodes);
    if root != header.root {
        return Err(SegmentError::WrongHash);
    }
    Ok(Decoded { blocks, nodes, root })
}

/// A little-endian number of at most eight bytes.
fn number(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

fn array(bytes: &[u8]) -> Hash {
    let mut out = [0; 32];
    out.copy_from_slice(bytes);
    out
}
