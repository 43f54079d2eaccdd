//! Decoded blocks and tree nodes, so that they are not fetched and decoded again for every comparison.
//!
//! Bounded by bytes, least recently used first out. Everything kept belongs to one fork of one core: a reader that sees a
//! later fork empties it, and one that still reads an earlier fork finds nothing and keeps nothing.

use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;

use crate::entry::{Block, TreeNode};
use crate::message::ChildPointer;

/// Bytes that a cache keeps by default: the tree nodes of a bee with some 10^5 small entries. Not a limit on what can be
/// read.
const DEFAULT_BYTES: usize = 16 << 20;
/// What an item takes beside its own bytes, roughly; keeps a bee of tiny blocks from being free.
const OVERHEAD_BYTES: usize = 256;

/// Decoded blocks and nodes of **one core**, to be shared by any number of [`crate::Bee`]s over it: a server that opens
/// a bee anew for every request keeps one of these per core and gives it to [`crate::Bee::with_cache`]. Clones share it.
///
/// Never give one cache to bees over different cores: blocks are kept by number alone.
#[derive(Debug, Clone)]
pub struct BeeCache(Arc<Mutex<State>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Name {
    Block(u64),
    Node(ChildPointer),
}

#[derive(Debug)]
enum Item {
    Block(Arc<Block>),
    Node(Arc<TreeNode>),
}

impl Item {
    fn bytes(&self) -> usize {
        OVERHEAD_BYTES
            + match self {
                Self::Block(block) => block.size,
                Self::Node(node) => node.bytes(),
            }
    }
}

#[derive(Debug)]
struct State {
    items: LruCache<Name, Item>,
    fork: u64,
    bytes: usize,
    capacity: usize,
}

impl State {
    fn clear(&mut self) {
        self.items.clear();
        self.bytes = 0;
    }

    /// Whether what is kept is of this fork. A later one empties the cache first.
    fn enter(&mut self, fork: u64) -> bool {
        if fork > self.fork {
            self.clear();
            self.fork = fork;
        }
        fork == self.fork
    }

    fn insert(&mut self, fork: u64, name: Name, item: Item) {
        if !self.enter(fork) {
            return;
        }
        self.bytes += item.bytes();
        if let Some(old) = self.items.put(name, item) {
            self.bytes -= old.bytes();
        }
        while self.bytes > self.capacity {
            let Some((_, old)) = self.items.pop_lru() else {
                break;
            };
            self.bytes -= old.bytes();
        }
    }
}

impl Default for BeeCache {
    /// 16 MiB.
    fn default() -> Self {
        Self::new(DEFAULT_BYTES)
    }
}

impl BeeCache {
    /// A cache that keeps at most so many bytes.
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(Mutex::new(State {
            items: LruCache::unbounded(),
            fork: 0,
            bytes: 0,
            capacity: bytes,
        })))
    }

    /// Forgets everything.
    pub fn clear(&self) {
        self.lock().clear();
    }

    /// Bytes kept now.
    pub fn bytes(&self) -> usize {
        self.lock().bytes
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // The state is consistent between statements, so a poisoned lock holds a usable cache.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn block(&self, fork: u64, seq: u64) -> Option<Arc<Block>> {
        let mut state = self.lock();
        if !state.enter(fork) {
            return None;
        }
        match state.items.get(&Name::Block(seq)) {
            Some(Item::Block(block)) => Some(Arc::clone(block)),
            _ => None,
        }
    }

    pub(crate) fn node(&self, fork: u64, pointer: ChildPointer) -> Option<Arc<TreeNode>> {
        let mut state = self.lock();
        if !state.enter(fork) {
            return None;
        }
        match state.items.get(&Name::Node(pointer)) {
            Some(Item::Node(node)) => Some(Arc::clone(node)),
            _ => None,
        }
    }

    /// Those of these blocks that are not kept.
    pub(crate) fn missing(&self, fork: u64, mut seqs: Vec<u64>) -> Vec<u64> {
        let mut state = self.lock();
        if state.enter(fork) {
            seqs.retain(|&seq| !state.items.contains(&Name::Block(seq)));
        }
        seqs
    }

    pub(crate) fn insert_block(&self, fork: u64, block: &Arc<Block>) {
        self.lock()
            .insert(fork, Name::Block(block.seq), Item::Block(Arc::clone(block)));
    }

    pub(crate) fn insert_node(&self, fork: u64, pointer: ChildPointer, node: &Arc<TreeNode>) {
        self.lock()
            .insert(fork, Name::Node(pointer), Item::Node(Arc::clone(node)));
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::message::Node;

    fn block(seq: u64) -> Arc<Block> {
        let node = Node {
            levels: vec![],
            key: Bytes::new(),
            value: Some(Bytes::from(vec![0; 1 << 20])),
        };
        Arc::new(Block::decode(seq, &node.encode()).unwrap())
    }

    #[test]
    fn the_cache_forgets_the_oldest_when_its_bytes_are_used_up() {
        let cache = BeeCache::new(4 << 20);
        for seq in 1..=8 {
            cache.insert_block(0, &block(seq));
            assert!(cache.block(0, seq).is_some());
        }
        assert!(cache.block(0, 1).is_none() && cache.block(0, 8).is_some());
        assert!(cache.bytes() <= 4 << 20);
        // The same block twice counts once.
        let before = cache.bytes();
        cache.insert_block(0, &block(8));
        assert_eq!(cache.bytes(), before);
        cache.clear();
        assert_eq!(cache.bytes(), 0);
    }

    #[test]
    fn a_later_fork_empties_the_cache_and_an_earlier_one_can_not_use_it() {
        let cache = BeeCache::default();
        cache.insert_block(0, &block(1));
        assert!(cache.block(1, 1).is_none(), "kept across a fork");
        cache.insert_block(0, &block(1));
        assert!(
            cache.block(1, 1).is_none(),
            "an old reader wrote into the new fork"
        );
        assert!(cache.block(0, 1).is_none());
        cache.insert_block(1, &block(1));
        assert!(cache.block(1, 1).is_some());
    }
}
