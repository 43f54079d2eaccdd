//! Where segments begin and end: a pure function of the Merkle node sizes and of what is held.

use std::ops::Range;

use crate::flat_tree;

/// Most block bytes in a segment of more than one block: large enough for few objects, small enough to be held in
/// memory and sent again after a failure.
pub const MAX_SEGMENT_BYTES: u64 = 8 * 1024 * 1024;
/// Highest level of a segment: 16,384 blocks, so that the offset table stays within 64 KiB.
pub const MAX_LEVEL: u32 = 14;

/// Which subtree a segment is: blocks [index·2^level, (index+1)·2^level).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SegmentId {
    /// Height of the subtree, 0 for a single block; at most [`MAX_LEVEL`].
    pub level: u32,
    /// Position from the left among the subtrees of that level.
    pub index: u64,
}

impl SegmentId {
    /// The segment whose subtree has its top at the flat-tree node.
    pub const fn from_node(node: u64) -> Self {
        Self {
            level: flat_tree::depth(node),
            index: flat_tree::offset(node),
        }
    }

    /// Flat-tree index of the subtree's top.
    pub const fn node(self) -> u64 {
        flat_tree::index(self.level, self.index)
    }

    /// The blocks.
    pub const fn blocks(self) -> Range<u64> {
        flat_tree::first_block(self.node())..flat_tree::end_block(self.node())
    }
}

/// How much of a range of blocks is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// Every block.
    All,
    /// Some blocks, or it isn't known cheaply.
    Some,
    /// No block.
    None,
}

/// Cuts what is held of a core of `length` blocks into segments, left to right: the largest aligned subtrees that are
/// held whole, lie within the length, and respect [`MAX_SEGMENT_BYTES`] and [`MAX_LEVEL`]. A single larger block is a
/// segment too. `size_of` gives a node's byte size; it is asked only for subtrees that are held whole, and a node that
/// it doesn't know is cut further.
pub fn cut(
    length: u64,
    held: impl Fn(Range<u64>) -> Held,
    size_of: impl Fn(u64) -> Option<u64>,
) -> Vec<SegmentId> {
    let mut segments = Vec::new();
    let mut stack: Vec<u64> = flat_tree::roots(length).collect();
    stack.reverse();
    while let Some(node) = stack.pop() {
        let id = SegmentId::from_node(node);
        let all = match held(id.blocks()) {
            Held::None => continue,
            Held::All => true,
            Held::Some => false,
        };
        match flat_tree::children(node) {
            None if all => segments.push(id),
            None => {}
            Some(_) if all && fits(id.level, size_of(node)) => segments.push(id),
            Some((left, right)) => stack.extend([right, left]),
        }
    }
    segments
}

/// Whether a segment of [`cut`] stays as it is however the core grows (at this fork): its parent is complete and too
/// large, or would be too high. Others may be superseded by a larger one.
pub fn is_settled(id: SegmentId, length: u64, size_of: impl Fn(u64) -> Option<u64>) -> bool {
    let parent = flat_tree::parent(id.node());
    id.level == MAX_LEVEL
        || size_of(id.node()).is_some_and(|size| size > MAX_SEGMENT_BYTES)
        || (flat_tree::end_block(parent) <= length
            && size_of(parent).is_some_and(|size| size > MAX_SEGMENT_BYTES))
}

fn fits(level: u32, size: Option<u64>) -> bool {
    level <= MAX_LEVEL && size.is_some_and(|size| size <= MAX_SEGMENT_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn size_with(block_bytes: u64) -> impl Fn(u64) -> Option<u64> {
        move |node| Some(flat_tree::leaf_count(node) * block_bytes)
    }

    #[test]
    fn a_short_core_is_cut_at_its_roots() {
        let segments = cut(37, |_| Held::All, size_with(10));
        let levels: Vec<_> = segments.iter().map(|id| (id.level, id.blocks())).collect();
        assert_eq!(levels, [(5, 0..32), (2, 32..36), (0, 36..37)]);
    }

    #[test]
    fn blocks_of_64_kib_make_segments_of_8_mib() {
        let segments = cut(300, |_| Held::All, size_with(65_536));
        assert_eq!(segments[0].blocks(), 0..128);
        assert_eq!(segments[1].blocks(), 128..256);
        assert!(is_settled(segments[0], 300, size_with(65_536)));
        assert!(!is_settled(*segments.last().unwrap(), 300, size_with(65_536)));
    }

    #[test]
    fn a_block_larger_than_a_segment_is_a_segment_alone() {
        let segments = cut(2, |_| Held::All, size_with(MAX_SEGMENT_BYTES + 1));
        assert_eq!(
            segments,
            [SegmentId { level: 0, index: 0 }, SegmentId { level: 0, index: 1 }]
        );
        assert!(is_settled(segments[1], 2, size_with(MAX_SEGMENT_BYTES + 1)));
    }

    #[test]
    fn empty_blocks_stop_at_the_highest_level() {
        let segments = cut(3 << MAX_LEVEL, |_| Held::All, size_with(0));
        assert_eq!(segments.len(), 3);
        assert!(
            segments
                .iter()
                .all(|id| id.level == MAX_LEVEL && is_settled(*id, 3 << MAX_LEVEL, size_with(0)))
        );
    }

    proptest! {
        #[test]
        fn every_held_block_is_in_exactly_one_segment(
            held in proptest::collection::vec(any::<bool>(), 0..200),
            block_bytes in prop_oneof![Just(1), Just(MAX_SEGMENT_BYTES / 8), Just(MAX_SEGMENT_BYTES)],
        ) {
            let of = |range: Range<u64>| {
                let blocks = &held[range.start as usize..range.end as usize];
                match blocks.iter().filter(|held| **held).count() {
                    0 => Held::None,
                    n if n == blocks.len() => Held::All,
                    _ => Held::Some,
                }
            };
            let segments = cut(held.len() as u64, of, size_with(block_bytes));
            let mut covered = vec![false; held.len()];
            for id in &segments {
                for block in id.blocks() {
                    prop_assert!(!std::mem::replace(&mut covered[block as usize], true));
                }
            }
            prop_assert_eq!(covered, held);
        }
    }
}
