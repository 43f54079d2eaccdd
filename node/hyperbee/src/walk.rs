//! An in-order walk over the B-tree, forwards or backwards, one position at a time. Ranges and diffs are made of it.
//!
//! A node with k keys has positions 0 to 2k: even ones are its children, odd ones its keys; a leaf has only the odd ones.
//! Every step either ends, yields or goes deeper, depth is bounded, and no walk may enter more nodes than the core has
//! blocks (each real node holds a key of its own): a cyclic index is an error, not a loop.
//! Steps change the walk only after their last await, so a dropped step can be asked for again.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use crate::Blocks;
use crate::bee::{Bee, MAX_DEPTH};
use crate::entry::{BeeError, Block, Entry, TreeNode};
use crate::message::ChildPointer;

/// What lies at the walk's position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Item {
    /// A subtree not yet entered.
    Child(ChildPointer),
    /// A key, by the block that holds it.
    Key(u64),
}

#[derive(Debug)]
struct Frame {
    node: Arc<TreeNode>,
    /// Next position, none when the node is done.
    position: Option<usize>,
    /// Whether the walk's start lies inside this node's subtree, so that the next child must be searched for it.
    seeking: bool,
}

#[derive(Debug)]
pub(crate) struct Walk<B> {
    bee: Bee<B>,
    start: Bound<Bytes>,
    reverse: bool,
    opened: bool,
    stack: Vec<Frame>,
    /// Key last yielded: the next must lie beyond it.
    last: Option<Bytes>,
    entered: u64,
}

impl<B: Blocks> Walk<B> {
    /// A walk over a fixed view from `start` (a stored key, with prefix) on.
    pub(crate) fn new(bee: Bee<B>, start: Bound<Bytes>, reverse: bool) -> Self {
        Self {
            bee,
            start,
            reverse,
            opened: false,
            stack: Vec::new(),
            last: None,
            entered: 0,
        }
    }

    pub(crate) fn bee(&self) -> &Bee<B> {
        &self.bee
    }

    /// The item at the current position, none at the end.
    pub(crate) async fn peek(&mut self) -> Result<Option<Item>, BeeError> {
        if !self.opened {
            if let Some(root) = self.bee.root(self.bee.version()).await? {
                self.enter(root, true).await?;
            }
            self.opened = true;
        }
        while let Some(frame) = self.stack.last() {
            if let Some(item) = frame.item() {
                return Ok(Some(item));
            }
            self.stack.pop();
        }
        Ok(None)
    }

    /// Goes past the current item.
    pub(crate) fn skip(&mut self) {
        let reverse = self.reverse;
        if let Some(frame) = self.stack.last_mut() {
            frame.seeking = false;
            frame.advance(reverse);
        }
    }

    /// Enters the subtree at the current position; nothing if there is none.
    pub(crate) async fn descend(&mut self) -> Result<(), BeeError> {
        let Some(frame) = self.stack.last() else {
            return Ok(());
        };
        let Some(Item::Child(pointer)) = frame.item() else {
            return Ok(());
        };
        let (seeking, depth) = (frame.seeking, self.stack.len());
        let damaged = |what| {
            Err(BeeError::Damaged {
                seq: pointer.seq,
                what,
            })
        };
        if depth >= MAX_DEPTH {
            return damaged("lies deeper than a tree can be");
        }
        if self.entered >= self.bee.version() {
            return damaged("is part of an index that leads around in circles");
        }
        let node = self.bee.child(pointer).await?;
        self.enter(node, seeking).await?;
        // The parent goes on only after the child is in place: see the module's word on dropped steps.
        let reverse = self.reverse;
        if let Some(parent) = self.stack.get_mut(depth - 1) {
            parent.seeking = false;
            parent.advance(reverse);
        }
        Ok(())
    }

    /// Yields the key at the current position and goes past it; none if there is no key.
    pub(crate) async fn take_key(&mut self) -> Result<Option<Entry>, BeeError> {
        let Some(Item::Key(seq)) = self.stack.last().and_then(Frame::item) else {
            return Ok(None);
        };
        let block = self.bee.block(seq).await?;
        self.take(&block).map(Some)
    }

    /// Yields the block of the key at the current position, which the caller has loaded, and goes past it.
    pub(crate) fn take(&mut self, block: &Block) -> Result<Entry, BeeError> {
        let entry = block.entry();
        let in_order = self.last.as_ref().is_none_or(|last| {
            if self.reverse {
                entry.key < last
            } else {
                entry.key > last
            }
        });
        if !in_order {
            return Err(BeeError::Damaged {
                seq: block.seq,
                what: "holds a key that is out of order",
            });
        }
        self.last = Some(entry.key.clone());
        self.skip();
        Ok(entry)
    }

    /// The smallest key that bounds the current item from above (the key itself, for a key); none if nothing does.
    /// For forward walks.
    pub(crate) async fn upper_key(&self) -> Result<Option<Bytes>, BeeError> {
        for frame in self.stack.iter().rev() {
            let Some(position) = frame.position else { continue };
            if let Some(slot) = frame.node.keys().get(position / 2) {
                return self
                    .bee
                    .block(slot.seq)
                    .await
                    .map(|block| Some(block.key().clone()));
            }
        }
        Ok(None)
    }

    /// Fetches the blocks of the top node's keys and children at once, for walks that will read them all.
    pub(crate) async fn fetch_top(&self) {
        if let Some(frame) = self.stack.last() {
            let keys = frame.node.keys().iter().map(|slot| slot.seq);
            let children = frame.node.children().iter().map(|child| child.seq);
            self.bee.fetch(keys.chain(children).collect()).await;
        }
    }

    async fn enter(&mut self, node: Arc<TreeNode>, seeking: bool) -> Result<(), BeeError> {
        let end = node.keys().len() * 2;
        let start = match &self.start {
            Bound::Included(key) | Bound::Excluded(key) if seeking => Some(key),
            _ => None,
        };
        let (position, seeking) = match start {
            None => (if self.reverse { end } else { 0 }, false),
            Some(key) => match self.bee.search(&node, key).await? {
                Ok(index) if matches!(self.start, Bound::Included(_)) => (2 * index + 1, false),
                Ok(index) if self.reverse => (2 * index, false),
                Ok(index) => (2 * index + 2, false),
                Err(index) => (2 * index, true),
            },
        };
        let mut frame = Frame {
            node,
            position: Some(position),
            seeking,
        };
        frame.settle(self.reverse);
        self.entered += 1;
        self.stack.push(frame);
        Ok(())
    }
}

impl Frame {
    fn item(&self) -> Option<Item> {
        let position = self.position?;
        if position % 2 == 1 {
            self.node.keys().get(position / 2).map(|slot| Item::Key(slot.seq))
        } else {
            self.node.children().get(position / 2).copied().map(Item::Child)
        }
    }

    fn advance(&mut self, reverse: bool) {
        self.position = match self.position {
            Some(position) if reverse => position.checked_sub(1),
            Some(position) => Some(position + 1),
            None => None,
        };
        self.settle(reverse);
    }

    /// Steps over the child positions of a leaf, and ends behind the last position.
    fn settle(&mut self, reverse: bool) {
        if self.node.children().is_empty() && self.position.is_some_and(|position| position % 2 == 0) {
            self.position = self
                .position
                .and_then(|at| if reverse { at.checked_sub(1) } else { Some(at + 1) });
        }
        if self
            .position
            .is_some_and(|position| position > self.node.keys().len() * 2)
        {
            self.position = None;
        }
    }
}
