//! The sidecar of a segment: its tree nodes and block places, kept beside it so that a proof or a block is a few small
//! reads instead of hashing eight megabytes.
//!
//! It holds nothing that the segment does not tell: a missing or damaged sidecar is made again. Layout (little endian):
//! magic `CMLTNOD` and version 1; for each node of the subtree in flat-tree order: u64 size, 32 bytes hash, u32 CRC-32C of
//! those 40; then for each block: u32 end of its stored bytes (as in the segment's table), u32 CRC-32C of its stored bytes.

use std::ops::Range;

use crate::flat_tree;
use crate::node::Node;
use crate::segment::format::HEADER_BYTES as SEGMENT_HEADER_BYTES;
use crate::segment::{Header, SegmentId};

const MAGIC: [u8; 8] = *b"CMLTNOD\x01";
/// Bytes of a node entry.
pub(super) const ENTRY_BYTES: usize = 44;
const BLOCK_BYTES: u64 = 8;

/// Where the node's entry lies in the sidecar of a segment that covers it.
pub(super) fn node_offset(id: SegmentId, node: u64) -> u64 {
    let place = node - flat_tree::left_span(id.node());
    MAGIC.len() as u64 + place * ENTRY_BYTES as u64
}

/// Where a block's entry lies.
fn block_offset(id: SegmentId, block: u64) -> u64 {
    let nodes = (2u64 << id.level) - 1;
    MAGIC.len() as u64 + nodes * ENTRY_BYTES as u64 + (block - id.blocks().start) * BLOCK_BYTES
}

/// The bytes to read for a block: the end of the one before (unless it is the first) and its own entry.
pub(super) fn block_entry(id: SegmentId, block: u64) -> Range<u64> {
    let offset = block_offset(id, block);
    let before = if block == id.blocks().start {
        0
    } else {
        BLOCK_BYTES
    };
    offset - before..offset + BLOCK_BYTES
}

/// Where a block's stored bytes lie in the segment file, and their CRC, from the bytes of [`block_entry`].
pub(super) fn decode_block(id: SegmentId, entry: &[u8]) -> Option<(Range<u64>, u32)> {
    let word = |at: usize| {
        entry.get(at..at + 4).map(|bytes| {
            bytes
                .iter()
                .rev()
                .fold(0u32, |sum, byte| sum << 8 | u32::from(*byte))
        })
    };
    let own = entry.len().checked_sub(BLOCK_BYTES as usize)?;
    let start = if own == 0 { 0 } else { word(0)? };
    let (end, crc) = (word(own)?, word(own + 4)?);
    let base = SEGMENT_HEADER_BYTES as u64 + (4u64 << id.level);
    (start <= end).then(|| (base + u64::from(start)..base + u64::from(end), crc))
}

/// A node from its entry; none if the entry is damaged.
pub(super) fn decode_node(index: u64, entry: &[u8; ENTRY_BYTES]) -> Option<Node> {
    let (body, crc) = entry.split_last_chunk::<4>()?;
    if crc32c::crc32c(body) != u32::from_le_bytes(*crc) {
        return None;
    }
    let (size, hash) = body.split_first_chunk::<8>()?;
    Some(Node {
        index,
        size: u64::from_le_bytes(*size),
        hash: hash.try_into().ok()?,
    })
}

/// The sidecar of an encoded segment with these nodes (in any order, all of them).
pub(super) fn encode(segment: &[u8], header: &Header, nodes: Vec<Node>) -> Option<Vec<u8>> {
    let id = header.place.id;
    let table = segment.get(SEGMENT_HEADER_BYTES..SEGMENT_HEADER_BYTES + header.table_bytes())?;
    let base = (SEGMENT_HEADER_BYTES + header.table_bytes()) as u64;
    let mut places = Vec::with_capacity(1 << id.level);
    for block in id.blocks() {
        let range = header.block_range(table, block).ok()?;
        let stored = segment.get(range.start as usize..range.end as usize)?;
        places.push(((range.end - base) as u32, crc32c::crc32c(stored)));
    }
    encode_places(id, nodes, places)
}

/// The sidecar of a segment with these nodes, whose stored blocks end there (counted from the end of the table) and have
/// these checksums.
pub(super) fn encode_places(id: SegmentId, mut nodes: Vec<Node>, places: Vec<(u32, u32)>) -> Option<Vec<u8>> {
    nodes.sort_unstable_by_key(|node| node.index);
    let blocks = 1usize << id.level;
    if nodes.len() != 2 * blocks - 1 || places.len() != blocks {
        return None;
    }
    let mut out = Vec::with_capacity(MAGIC.len() + nodes.len() * ENTRY_BYTES + blocks * BLOCK_BYTES as usize);
    out.extend_from_slice(&MAGIC);
    for node in &nodes {
        let from = out.len();
        out.extend_from_slice(&node.size.to_le_bytes());
        out.extend_from_slice(&node.hash);
        let crc = crc32c::crc32c(&out[from..]);
        out.extend_from_slice(&crc.to_le_bytes());
    }
    for (end, crc) in places {
        out.extend_from_slice(&end.to_le_bytes());
        out.extend_from_slice(&crc.to_le_bytes());
    }
    Some(out)
}
