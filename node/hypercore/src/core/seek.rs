//! Byte positions: which node or block holds a byte.
//!
//! Positions are counted without padding: a node's unpadded size is its size less `padding` for each block below.

use super::{Core, ProveError};
use crate::flat_tree;
use crate::node::Node;
use crate::storage::{Storage, StorageError};

/// Where a byte position lies, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeekResult {
    /// In that block, that many bytes from its start. The end of the core is (length, 0).
    Found {
        /// Number of the block.
        block: u64,
        /// Bytes into it, not counting padding.
        offset: u64,
    },
    /// Somewhere in blocks `start..end`; the nodes that would tell more are not held.
    Within {
        /// First block.
        start: u64,
        /// Block after the last.
        end: u64,
    },
    /// Beyond the end of the core.
    Beyond,
}

fn unpadded(node: &Node, padding: u64) -> u64 {
    node.size
        .saturating_sub(padding.saturating_mul(flat_tree::leaf_count(node.index)))
}

/// As [`Core::seek`], in the tree of these roots whose other nodes are told by `node`.
pub(crate) fn seek_below(
    roots: &[Node],
    bytes: u64,
    padding: u64,
    node: impl Fn(u64) -> Result<Option<Node>, StorageError>,
) -> Result<SeekResult, StorageError> {
    if bytes == 0 {
        return Ok(SeekResult::Found { block: 0, offset: 0 });
    }
    let (mut rest, mut length) = (bytes, 0);
    let mut at = None;
    for root in roots {
        let size = unpadded(root, padding);
        if rest < size {
            at = Some(root.index);
            break;
        }
        rest -= size;
        length = flat_tree::end_block(root.index);
    }
    let Some(mut at) = at else {
        return Ok(if rest == 0 {
            SeekResult::Found {
                block: length,
                offset: 0,
            }
        } else {
            SeekResult::Beyond
        });
    };
    while let Some((left, right)) = flat_tree::children(at) {
        let Some(node) = node(left)? else {
            return Ok(SeekResult::Within {
                start: flat_tree::first_block(at),
                end: flat_tree::end_block(at),
            });
        };
        let size = unpadded(&node, padding);
        if rest < size {
            at = left;
        } else {
            rest -= size;
            at = right;
        }
    }
    Ok(SeekResult::Found {
        block: at / 2,
        offset: rest,
    })
}

impl<S: Storage> Core<S> {
    /// Where the byte at `bytes` lies, with `padding` bytes at the front of every block not counted (8 if encrypted).
    /// Byte 0 is before everything, empty first blocks included, as in JavaScript.
    pub fn seek(&self, bytes: u64, padding: u64) -> Result<SeekResult, StorageError> {
        seek_below(self.roots.nodes(), bytes, padding, |index| {
            self.storage.node(index)
        })
    }

    /// Byte offset of a block's start, padding not counted; none if a node on the way is not held. The offset of
    /// `length` is the core's unpadded byte length.
    pub fn byte_offset(&self, block: u64, padding: u64) -> Result<Option<u64>, StorageError> {
        let mut offset = 0;
        for root in self.roots.nodes() {
            if flat_tree::end_block(root.index) <= block {
                offset += unpadded(root, padding);
                continue;
            }
            let mut at = root.index;
            while let Some((left, right)) = flat_tree::children(at) {
                if block < flat_tree::end_block(left) {
                    at = left;
                    continue;
                }
                let Some(node) = self.storage.node(left)? else {
                    return Ok(None);
                };
                offset += unpadded(&node, padding);
                at = right;
            }
            return Ok(Some(offset));
        }
        Ok((block == self.length()).then_some(offset))
    }
}

/// The node below the roots of the first `length` blocks that tells where `bytes` lies; none past the end.
pub(super) fn from_roots<S: Storage>(
    core: &Core<S>,
    length: u64,
    bytes: u64,
    padding: u64,
) -> Result<Option<u64>, ProveError> {
    let mut rest = bytes;
    for root in flat_tree::roots(length) {
        let node = core.node(root)?.ok_or(ProveError::MissingNode { index: root })?;
        let size = unpadded(&node, padding);
        if rest == size {
            return Ok(Some(root));
        }
        if rest < size {
            return descend(core, root, rest, padding).map(Some);
        }
        rest -= size;
    }
    Ok(None)
}

/// The node below `top` that tells where `bytes`, counted from the start of the core, lies.
pub(super) fn below<S: Storage>(
    core: &Core<S>,
    top: u64,
    bytes: u64,
    padding: u64,
) -> Result<u64, ProveError> {
    const OUTSIDE: ProveError = ProveError::Invalid("the byte position lies outside the subtree");
    let first = flat_tree::first_block(top);
    let offset = core
        .byte_offset(first, padding)?
        .ok_or(ProveError::MissingNode { index: top })?;
    let rest = bytes.checked_sub(offset).ok_or(OUTSIDE)?;
    if rest == 0 {
        return Ok(top);
    }
    let node = core.node(top)?.ok_or(ProveError::MissingNode { index: top })?;
    if unpadded(&node, padding) <= rest {
        return Err(OUTSIDE);
    }
    descend(core, top, rest, padding)
}

fn descend<S: Storage>(core: &Core<S>, top: u64, bytes: u64, padding: u64) -> Result<u64, ProveError> {
    let (mut at, mut rest) = (top, bytes);
    if rest == 0 {
        return Ok(at);
    }
    while let Some((left, right)) = flat_tree::children(at) {
        let Some(node) = core.node(left)? else {
            return Ok(at);
        };
        let size = unpadded(&node, padding);
        if size == rest {
            return Ok(left);
        }
        if size > rest {
            at = left;
        } else {
            rest -= size;
            at = right;
        }
    }
    Ok(at)
}
