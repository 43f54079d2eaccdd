//! What a core's log and segments say, in memory: enough to find every block and node with one read.
//!
//! Memory is bounded by the unsealed head (its blocks and nodes) and by one small entry per segment; nodes inside a sealed
//! segment are read from its sidecar.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;

use super::log::{BlockPlace, NODE_BYTES, RECORD_BYTES, Record, Sealed};
use super::nodes::Nodes;
use crate::bitfield::Bitfield;
use crate::flat_tree;
use crate::manifest::Manifest;
use crate::node::Node;
use crate::segment::SegmentId;
use crate::storage::Head;

#[derive(Debug, Default)]
pub(super) struct Index {
    pub(super) manifest: Option<Manifest>,
    pub(super) head: Head,
    pub(super) bitfield: Bitfield,
    pub(super) user_data: BTreeMap<String, Bytes>,
    /// Blocks whose newest copy lies in the log.
    pub(super) blocks: BTreeMap<u64, BlockPlace>,
    /// Nodes that no sealed segment holds, and the tops of those that are sealed.
    nodes: Nodes,
    /// By first block; they never overlap.
    pub(super) segments: BTreeMap<u64, Sealed>,
    /// Segments that were superseded or dropped; their files may go once the log that says so is durable.
    pub(super) dropped: Vec<Sealed>,
    /// Segments of which only the nodes are needed any more; their block files may go likewise.
    pub(super) hollowed: Vec<Sealed>,
    /// Counts truncations and clearings: what was prepared before one may be wrong behind it.
    pub(super) upheavals: u64,
    /// Counts what was sealed.
    pub(super) seals: u64,
    /// Bytes of the log's records that would be written again by a compaction.
    pub(super) live_block_bytes: u64,
}

impl Index {
    pub(super) fn node(&self, index: u64) -> Option<Node> {
        self.nodes.get(index)
    }

    pub(super) fn nodes(&self) -> impl Iterator<Item = Node> + '_ {
        self.nodes.iter()
    }

    pub(super) fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// The segment that covers a block.
    pub(super) fn segment_of_block(&self, block: u64) -> Option<&Sealed> {
        let (_, sealed) = self.segments.range(..=block).next_back()?;
        sealed.id.blocks().contains(&block).then_some(sealed)
    }

    /// The segment whose subtree contains a node.
    pub(super) fn segment_of_node(&self, node: u64) -> Option<&Sealed> {
        let sealed = self.segment_of_block(flat_tree::first_block(node))?;
        flat_tree::contains(sealed.id.node(), node).then_some(sealed)
    }

    /// The segments that reach into a range of blocks.
    pub(super) fn segments_in(&self, blocks: &Range<u64>) -> Vec<Sealed> {
        let before = self.segment_of_block(blocks.start).copied();
        let inside = self.segments.range(blocks.clone()).map(|(_, sealed)| *sealed);
        let before = before.filter(|sealed| sealed.id.blocks().start < blocks.start);
        before.into_iter().chain(inside).collect()
    }

    /// Bytes of the log that a compaction would keep.
    pub(super) fn live_bytes(&self) -> u64 {
        self.live_block_bytes
            + (self.nodes.len() * NODE_BYTES) as u64
            + self.live_user_bytes()
            + self.segments.len() as u64 * (RECORD_BYTES + 16)
    }

    fn live_user_bytes(&self) -> u64 {
        let records = self.user_data.iter();
        records
            .map(|(name, value)| RECORD_BYTES + (name.len() + value.len()) as u64)
            .sum()
    }

    /// Takes a record's effect; the same for a log that is read and for one that is written.
    pub(super) fn take(&mut self, record: Record) {
        match record {
            Record::Manifest(manifest) => self.manifest = Some(manifest),
            Record::Truncate(length) => self.truncate(length),
            Record::Clear(blocks) => self.clear(&blocks),
            Record::Nodes(nodes) => {
                for node in nodes {
                    self.put_node(&node);
                }
            }
            Record::Block { index, place } => self.put_block(index, place),
            Record::Head(head) => self.head = head,
            Record::Seal(sealed) => self.seal(sealed),
            Record::UserData { name, value } => match value {
                Some(value) => drop(self.user_data.insert(name, value)),
                None => drop(self.user_data.remove(&name)),
            },
            Record::Synced(_) => {}
        }
    }

    pub(super) fn put_node(&mut self, node: &Node) {
        self.nodes.put(node);
    }

    pub(super) fn put_block(&mut self, index: u64, place: BlockPlace) {
        self.forget_block(index);
        self.live_block_bytes += RECORD_BYTES + u64::from(place.length);
        self.blocks.insert(index, place);
        self.bitfield.set(index);
    }

    fn forget_block(&mut self, index: u64) {
        if let Some(place) = self.blocks.remove(&index) {
            self.live_block_bytes -= RECORD_BYTES + u64::from(place.length);
        }
    }

    fn forget_blocks(&mut self, blocks: Range<u64>) {
        let gone: Vec<u64> = self.blocks.range(blocks).map(|(index, _)| *index).collect();
        for index in gone {
            self.forget_block(index);
        }
    }

    fn drop_segment(&mut self, sealed: Sealed) {
        self.segments.remove(&sealed.id.blocks().start);
        self.dropped.push(sealed);
    }

    /// A segment that reaches over the new end goes as a whole; what it held below the end is in the same batch again.
    fn truncate(&mut self, length: u64) {
        self.upheavals += 1;
        for sealed in self.segments_in(&(length..u64::MAX)) {
            self.bitfield.clear_range(sealed.id.blocks());
            self.drop_segment(sealed);
        }
        for index in self.blocks.keys().copied().collect::<Vec<_>>() {
            self.bitfield.set(index);
        }
        self.forget_blocks(length..u64::MAX);
        self.bitfield.clear_range(length..u64::MAX);
        self.nodes.retain(|index| flat_tree::end_block(index) <= length);
    }

    fn clear(&mut self, blocks: &Range<u64>) {
        self.upheavals += 1;
        self.forget_blocks(blocks.clone());
        self.bitfield.clear_range(blocks.clone());
        for sealed in self.segments_in(blocks) {
            let covered = sealed.id.blocks();
            if !self.bitfield.intersects(covered.clone())
                && let Some(sealed) = self.segments.get_mut(&covered.start)
            {
                sealed.hollow = true;
                self.hollowed.push(*sealed);
            }
        }
    }

    /// Forgets the nodes of a subtree except its top.
    fn forget_nodes_below(&mut self, top: u64) {
        let below = flat_tree::left_span(top)..=flat_tree::right_span(top);
        self.nodes.forget(&below, top);
    }

    fn seal(&mut self, sealed: Sealed) {
        self.seals += 1;
        let blocks = sealed.id.blocks();
        for older in self.segments_in(&blocks) {
            if (older.id, older.fork) != (sealed.id, sealed.fork) {
                self.drop_segment(older);
            }
        }
        self.forget_blocks(blocks.clone());
        self.forget_nodes_below(sealed.id.node());
        let same = |gone: &Sealed| (gone.id, gone.fork) == (sealed.id, sealed.fork);
        self.dropped.retain(|gone| !same(gone));
        self.hollowed.retain(|gone| !same(gone));
        self.bitfield.set_range(blocks.clone());
        self.segments.insert(blocks.start, sealed);
    }

    /// The segment of this name, if it still has every block.
    pub(super) fn whole_segment(&self, id: SegmentId) -> Option<&Sealed> {
        let sealed = self.segments.get(&id.blocks().start)?;
        (sealed.id == id && !sealed.hollow && self.bitfield.contains_range(id.blocks())).then_some(sealed)
    }
}
