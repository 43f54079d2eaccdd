//! Waiting for a bee to change: a range of it, or one key.
//!
//! As the `watch` and `getAndWatch` of the JS package: changes are found by comparing versions, so several appends that
//! come while nobody asks are one change, and an append outside of the range is none. Watching starts no task; time
//! passes only inside the futures.

use crate::entry::{BeeError, Entry};
use crate::{Bee, Blocks, BlocksError, Range};

/// A core at one moment, as far as its readers care.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Fork number.
    pub fork: u64,
    /// Number of blocks.
    pub length: u64,
}

/// A core that says when it has changed.
pub trait WatchBlocks: Blocks {
    /// Waits until fork or length are others than these; returns at once if they are.
    fn changed(&self, seen: Seen) -> impl Future<Output = Result<(), BlocksError>> + Send;
}

impl<B: Blocks> Bee<B> {
    /// The core's fork and length now.
    pub fn seen(&self) -> Seen {
        let blocks = self.blocks();
        Seen {
            fork: blocks.fork(),
            length: blocks.length(),
        }
    }
}

impl<B: WatchBlocks> Bee<B> {
    /// Waits until the core's fork or length are others than these.
    pub async fn changed(&self, seen: Seen) -> Result<(), BeeError> {
        let waited = self.blocks().changed(seen).await;
        waited.map_err(|source| BeeError::Block {
            seq: seen.length,
            source,
        })
    }

    /// Watches a range from now on. Of the range only the bounds count.
    pub fn watch(&self, range: Range) -> Watcher<B> {
        Watcher {
            seen: self.seen(),
            current: self.snapshot(),
            bee: self.clone(),
            range,
        }
    }

    /// The entry of a key, and a watcher of it.
    pub async fn get_and_watch(&self, key: impl AsRef<[u8]>) -> Result<EntryWatcher<B>, BeeError> {
        let seen = self.seen();
        let entry = self.snapshot().get(&key).await?;
        Ok(EntryWatcher {
            bee: self.clone(),
            key: key.as_ref().to_vec(),
            seen,
            entry,
        })
    }
}

/// What [`Watcher::next`] found.
#[derive(Debug)]
pub struct WatchedChange<B> {
    /// The bee as it is now.
    pub current: Bee<B>,
    /// The bee as the watcher last saw it; after a truncation it may not be readable any more.
    pub previous: Bee<B>,
    /// Whether the core was truncated or replaced between: a change always, whatever it did to the range.
    pub forked: bool,
}

/// Waits for changes in a range of keys.
#[derive(Debug)]
pub struct Watcher<B> {
    bee: Bee<B>,
    range: Range,
    seen: Seen,
    current: Bee<B>,
}

impl<B: WatchBlocks> Watcher<B> {
    /// Waits for the next change. A step that fails or is dropped loses none: the next one compares with the same version.
    pub async fn next(&mut self) -> Result<WatchedChange<B>, BeeError> {
        loop {
            self.bee.changed(self.seen).await?;
            let seen = self.bee.seen();
            let current = self.bee.snapshot();
            let forked = seen.fork != self.seen.fork || seen.length < self.seen.length;
            let differs = forked || {
                let range = self.range.clone().limit(1);
                let older = self.current.version();
                current.diff(older, range).next().await?.is_some()
            };
            self.seen = seen;
            let previous = std::mem::replace(&mut self.current, current.clone());
            if differs {
                return Ok(WatchedChange {
                    current,
                    previous,
                    forked,
                });
            }
        }
    }
}

/// Waits for changes of one key.
#[derive(Debug)]
pub struct EntryWatcher<B> {
    bee: Bee<B>,
    key: Vec<u8>,
    seen: Seen,
    entry: Option<Entry>,
}

impl<B: WatchBlocks> EntryWatcher<B> {
    /// The entry as last seen, none if the key is not there.
    pub fn entry(&self) -> Option<&Entry> {
        self.entry.as_ref()
    }

    /// Waits until another block holds the key, or none does, or the core was truncated. Returns the entry then.
    pub async fn changed(&mut self) -> Result<Option<&Entry>, BeeError> {
        loop {
            self.bee.changed(self.seen).await?;
            let seen = self.bee.seen();
            let entry = self.bee.snapshot().get(&self.key).await?;
            let seq = |entry: &Option<Entry>| entry.as_ref().map(|entry| entry.seq);
            let differs = seen.fork != self.seen.fork || seq(&entry) != seq(&self.entry);
            self.seen = seen;
            if differs {
                self.entry = entry;
                return Ok(self.entry.as_ref());
            }
        }
    }
}
