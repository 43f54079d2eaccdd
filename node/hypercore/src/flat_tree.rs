//! The numbering of a binary tree in which blocks are even numbers and parents lie between their children.
//!
//! Node `n` has depth = number of its trailing one bits, and offset = `n >> (depth + 1)`; block `i` is node
//! `2 * i`. Everything else follows from these two. Source: npm flat-tree 1.13.
//!
//! All functions are total for indexes below 2^62; node indexes of the protocol are below 2^54.

/// Node index at `depth` and `offset`.
pub const fn index(depth: u32, offset: u64) -> u64 {
    (1 + 2 * offset) * (1 << depth) - 1
}

/// Levels above the leaves.
pub const fn depth(index: u64) -> u32 {
    index.trailing_ones()
}

/// Position from the left among the nodes of its depth.
pub const fn offset(index: u64) -> u64 {
    index >> (depth(index) + 1)
}

/// The node above.
pub const fn parent(node: u64) -> u64 {
    index(depth(node) + 1, offset(node) >> 1)
}

/// The other child of the parent.
pub const fn sibling(node: u64) -> u64 {
    index(depth(node), offset(node) ^ 1)
}

/// Whether the node is the left child of its parent.
pub const fn is_left(node: u64) -> bool {
    offset(node) & 1 == 0
}

/// The two nodes below; a leaf has none.
pub const fn children(node: u64) -> Option<(u64, u64)> {
    let depth = depth(node);
    if depth == 0 {
        return None;
    }
    let offset = offset(node) * 2;
    Some((index(depth - 1, offset), index(depth - 1, offset + 1)))
}

/// Node index of the leftmost leaf below (or at) the node.
pub const fn left_span(node: u64) -> u64 {
    node + 1 - (1 << depth(node))
}

/// Node index of the rightmost leaf below (or at) the node.
pub const fn right_span(node: u64) -> u64 {
    node + (1 << depth(node)) - 1
}

/// Number of blocks below (or at) the node.
pub const fn leaf_count(node: u64) -> u64 {
    1 << depth(node)
}

/// Number of the first block below (or at) the node.
pub const fn first_block(node: u64) -> u64 {
    left_span(node) / 2
}

/// Number of the block after the last one below (or at) the node.
pub const fn end_block(node: u64) -> u64 {
    right_span(node) / 2 + 1
}

/// Whether `other` lies in the subtree of `node`, which contains itself.
pub const fn contains(node: u64, other: u64) -> bool {
    left_span(node) <= other && other <= right_span(node)
}

/// The roots of a tree of `length` blocks, left to right: its powers of two, largest first.
pub fn roots(length: u64) -> impl Iterator<Item = u64> + Clone {
    let mut rest = length;
    let mut start = 0;
    std::iter::from_fn(move || {
        if rest == 0 {
            return None;
        }
        let depth = rest.ilog2();
        let root = index(depth, start >> depth);
        rest -= 1 << depth;
        start += 1 << depth;
        Some(root)
    })
}

/// The root of a tree of `length` blocks that covers `block`, if the tree has that block.
pub fn root_of(block: u64, length: u64) -> Option<u64> {
    if block >= length {
        return None;
    }
    roots(length).find(|root| block < end_block(*root))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_of_a_block_is_the_root_that_contains_its_leaf() {
        for length in 0..70 {
            for block in 0..80 {
                let found = root_of(block, length);
                assert_eq!(found, roots(length).find(|root| contains(*root, 2 * block)));
                assert_eq!(found.is_some(), block < length);
            }
        }
    }
}
