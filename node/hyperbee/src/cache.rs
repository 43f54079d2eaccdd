//! Decoded blocks by number, so that keys are not fetched and decoded again for every comparison.
//!
//! Bounded by bytes, least recently used first out. The core's blocks never change under one fork; a reader of a
//! core that was truncated calls [`Cache::clear`].

use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;

use crate::entry::Block;

/// Bytes of blocks kept: the inner nodes of a bee with some 10^5 small entries. Not a limit on what can be read.
const CAPACITY_BYTES: usize = 4 << 20;
/// What an entry takes beside its block's bytes, roughly; keeps a bee of tiny blocks from being free.
const OVERHEAD_BYTES: usize = 256;

#[derive(Debug)]
pub(crate) struct Cache(Mutex<State>);

#[derive(Debug)]
struct State {
    blocks: LruCache<u64, Arc<Block>>,
    bytes: usize,
}

impl Cache {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(State {
            blocks: LruCache::unbounded(),
            bytes: 0,
        }))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // The state is consistent between statements, so a poisoned lock holds a usable cache.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self, seq: u64) -> Option<Arc<Block>> {
        self.lock().blocks.get(&seq).cloned()
    }

    pub(crate) fn contains(&self, seq: u64) -> bool {
        self.lock().blocks.contains(&seq)
    }

    pub(crate) fn insert(&self, block: &Arc<Block>) {
        let mut state = self.lock();
        if let Some(old) = state.blocks.put(block.seq, Arc::clone(block)) {
            state.bytes -= old.size + OVERHEAD_BYTES;
        }
        state.bytes += block.size + OVERHEAD_BYTES;
        while state.bytes > CAPACITY_BYTES {
            let Some((_, old)) = state.blocks.pop_lru() else {
                break;
            };
            state.bytes -= old.size + OVERHEAD_BYTES;
        }
    }

    pub(crate) fn clear(&self) {
        let mut state = self.lock();
        state.blocks.clear();
        state.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::message::Node;

    #[test]
    fn the_cache_forgets_the_oldest_when_its_bytes_are_used_up() {
        let cache = Cache::new();
        let node = Node {
            levels: vec![],
            key: Bytes::new(),
            value: Some(Bytes::from(vec![0; 1 << 20])),
        };
        let raw = node.encode();
        for seq in 1..=8 {
            cache.insert(&Arc::new(Block::decode(seq, &raw).unwrap()));
            assert!(cache.get(seq).is_some());
        }
        assert!(cache.get(1).is_none() && cache.get(8).is_some());
        assert!(cache.lock().bytes <= CAPACITY_BYTES);
        // The same block twice counts once.
        let before = cache.lock().bytes;
        cache.insert(&Arc::new(Block::decode(8, &raw).unwrap()));
        assert_eq!(cache.lock().bytes, before);
        cache.clear();
        assert_eq!(cache.lock().bytes, 0);
    }
}
