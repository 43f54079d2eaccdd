//! Several changes appended at once.

use bytes::Bytes;

use super::tree::{ChildId, Key, NodeId, Place, Tree};
use super::{AppendBlocks, BeeWriter, MAX_KEPT_NODES};
use crate::entry::{BeeError, Entry};

/// Changes that are appended together by [`Batch::flush`].
///
/// Memory grows with the changes and the tree nodes they touch. After an error nothing more can be added and nothing
/// can be flushed.
#[derive(Debug)]
pub struct Batch<'a, B> {
    writer: &'a mut BeeWriter<B>,
    tree: Option<Opened<B>>,
    entries: Vec<Pending>,
    broken: bool,
}

/// The tree at the core's end, as far as it is loaded.
#[derive(Debug)]
pub(super) struct Opened<B> {
    tree: Tree<B>,
    root: Option<NodeId>,
    /// Block number of the batch's first entry.
    start: u64,
    fork: u64,
    /// Nodes marked by puts that wrote nothing, after the last one that wrote: the marks end with the batch.
    marked: Vec<NodeId>,
}

#[derive(Debug)]
struct Pending {
    key: Bytes,
    value: Option<Bytes>,
    placed: Vec<ChildId>,
}

impl<'a, B: AppendBlocks> Batch<'a, B> {
    pub(super) fn new(writer: &'a mut BeeWriter<B>) -> Self {
        Self {
            writer,
            tree: None,
            entries: Vec::new(),
            broken: false,
        }
    }

    /// Number of changes so far.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Sets a key. Returns the block number it will have, or none if nothing will be written.
    pub async fn put(
        &mut self,
        key: impl AsRef<[u8]>,
        value: Option<&[u8]>,
    ) -> Result<Option<u64>, BeeError> {
        self.put_asking(key.as_ref(), value, None::<fn(&Entry) -> bool>)
            .await
    }

    /// Sets a key if it is new, or if `replace` agrees to replace the entry it has.
    pub async fn put_if(
        &mut self,
        key: impl AsRef<[u8]>,
        value: Option<&[u8]>,
        replace: impl FnOnce(&Entry) -> bool + Send,
    ) -> Result<Option<u64>, BeeError> {
        self.put_asking(key.as_ref(), value, Some(replace)).await
    }

    async fn put_asking(
        &mut self,
        key: &[u8],
        value: Option<&[u8]>,
        replace: Option<impl FnOnce(&Entry) -> bool + Send>,
    ) -> Result<Option<u64>, BeeError> {
        self.begin().await?;
        let key = Bytes::copy_from_slice(key);
        let value = value.map(Bytes::copy_from_slice);
        let root = self.put_root(&key, value.as_ref(), replace).await?;
        Ok(self.finish(root, key, value))
    }

    /// Removes a key. Returns the block number of the delete, or none if the key is not there.
    pub async fn del(&mut self, key: impl AsRef<[u8]>) -> Result<Option<u64>, BeeError> {
        self.begin().await?;
        let key = Bytes::copy_from_slice(key.as_ref());
        let root = self.del_root(&key, |_| true).await?;
        Ok(self.finish(root, key, None))
    }

    /// Removes a key if `remove` agrees to remove the entry it has.
    pub async fn del_if(
        &mut self,
        key: impl AsRef<[u8]>,
        remove: impl FnOnce(&Entry) -> bool + Send,
    ) -> Result<Option<u64>, BeeError> {
        self.begin().await?;
        let key = Bytes::copy_from_slice(key.as_ref());
        let root = self.del_root(&key, remove).await?;
        Ok(self.finish(root, key, None))
    }

    /// The entry of a key as it will be after the changes so far.
    pub async fn get(&mut self, key: impl AsRef<[u8]>) -> Result<Option<Entry>, BeeError> {
        self.begin().await?;
        let found = self.find(key.as_ref()).await?;
        self.broken = false;
        match found {
            Some((_, node, index)) => {
                let seq = self.tree.as_ref().map(|opened| opened.tree.key_seq(node, index));
                self.entry(seq.unwrap_or_default()).await.map(Some)
            }
            None => Ok(None),
        }
    }

    /// Appends the changes.
    pub async fn flush(mut self) -> Result<(), BeeError> {
        if self.broken {
            return Err(BeeError::BrokenBatch);
        }
        let Some(mut opened) = self.tree.take() else {
            return Ok(());
        };
        opened.tree.unmark(std::mem::take(&mut opened.marked));
        if let Some(last) = self.entries.len().checked_sub(1) {
            let mut blocks = Vec::with_capacity(self.entries.len());
            for (index, entry) in self.entries.iter_mut().enumerate() {
                if index < last {
                    opened.tree.prune(&mut entry.placed, opened.start + index as u64);
                }
                // Encoded in this order, each after its own pruning only, as the JS package does.
                let block = opened
                    .tree
                    .encode(&entry.placed, &entry.key, entry.value.as_deref());
                blocks.push(block);
            }
            opened.start += blocks.len() as u64;
            self.writer.append(blocks).await?;
        }
        if opened.tree.len() < MAX_KEPT_NODES {
            self.writer.opened = Some(opened);
        }
        Ok(())
    }

    /// Opens the tree. Marks the batch broken until [`Batch::finish`]: a step that fails or is dropped half way leaves a
    /// tree between two states.
    async fn begin(&mut self) -> Result<(), BeeError> {
        if self.broken {
            return Err(BeeError::BrokenBatch);
        }
        self.broken = true;
        if self.tree.is_none() {
            self.writer.ensure_header().await?;
            let blocks = self.writer.bee.blocks();
            let (start, fork) = (blocks.length(), blocks.fork());
            let kept = self.writer.opened.take();
            // Somebody else may have truncated the core, or appended to it in spite of the contract.
            let kept = kept.filter(|opened| opened.start == start && opened.fork == fork);
            self.tree = if kept.is_some() {
                kept
            } else {
                let mut tree = Tree::new(self.writer.bee.clone());
                let root = tree.load_root().await?;
                Some(Opened {
                    tree,
                    root,
                    start,
                    fork,
                    marked: Vec::new(),
                })
            };
        }
        Ok(())
    }

    fn next_seq(&self) -> u64 {
        self.tree.as_ref().map_or(0, |opened| opened.start) + self.entries.len() as u64
    }

    /// Finds the place of a key and puts it there. Returns the new root, none if nothing is to be written.
    async fn put_root(
        &mut self,
        key: &Bytes,
        value: Option<&Bytes>,
        replace: Option<impl FnOnce(&Entry) -> bool + Send>,
    ) -> Result<Option<NodeId>, BeeError> {
        let target = Key {
            seq: self.next_seq(),
            bytes: Some(key.clone()),
        };
        let skip_equal = self.writer.options.skip_equal;
        let Some(opened) = &mut self.tree else {
            return Ok(None);
        };
        let tree = &mut opened.tree;
        let mut node = match opened.root {
            Some(root) => root,
            None => tree.add_node(),
        };
        let mut path = Vec::new();
        loop {
            if path.len() >= crate::MAX_DEPTH {
                let what = "lies deeper than a tree can be";
                return Err(BeeError::Damaged {
                    seq: opened.start.saturating_sub(1),
                    what,
                });
            }
            let leaf = tree.is_leaf(node);
            if !leaf {
                // Marked on the way down, even if nothing is written then: the batch's next entry writes them.
                path.push(node);
                tree.mark_changed(node);
            }
            match tree.search(node, key).await? {
                Place::Found(index) => {
                    let seq = tree.key_seq(node, index);
                    let root = path.first().copied().unwrap_or(node);
                    // The old entry is read only if somebody wants to see it.
                    let refused = if replace.is_some() || skip_equal {
                        let previous = self.entry(seq).await?;
                        let agreed = replace.is_none_or(|replace| replace(&previous));
                        !agreed || (skip_equal && previous.value.as_ref() == value)
                    } else {
                        false
                    };
                    let Some(opened) = &mut self.tree else {
                        return Ok(None);
                    };
                    if refused {
                        opened.marked.extend(path);
                        return Ok(None);
                    }
                    opened.tree.set_key(node, index, target);
                    return Ok(Some(root));
                }
                Place::Between(index) if leaf => {
                    return tree.insert(path, node, index, target).await.map(Some);
                }
                Place::Between(index) => node = tree.child(node, index).await?,
            }
        }
    }

    async fn del_root(
        &mut self,
        key: &Bytes,
        remove: impl FnOnce(&Entry) -> bool + Send,
    ) -> Result<Option<NodeId>, BeeError> {
        let Some((path, node, index)) = self.find(key).await? else {
            return Ok(None);
        };
        let seq = self.tree.as_ref().map(|opened| opened.tree.key_seq(node, index));
        if !remove(&self.entry(seq.unwrap_or_default()).await?) {
            return Ok(None);
        }
        match &mut self.tree {
            Some(opened) => opened.tree.remove(path, index).await,
            None => Ok(None),
        }
    }

    /// The nodes from the root down to the one that holds a key, that node, and the key's index in it.
    async fn find(&mut self, key: &[u8]) -> Result<Option<(Vec<NodeId>, NodeId, usize)>, BeeError> {
        let Some(opened) = &mut self.tree else {
            return Ok(None);
        };
        let tree = &mut opened.tree;
        let Some(mut node) = opened.root else {
            return Ok(None);
        };
        let mut path = Vec::new();
        while path.len() < crate::MAX_DEPTH {
            path.push(node);
            match tree.search(node, key).await? {
                Place::Found(index) => return Ok(Some((path, node, index))),
                Place::Between(_) if tree.is_leaf(node) => return Ok(None),
                Place::Between(index) => node = tree.child(node, index).await?,
            }
        }
        let what = "lies deeper than a tree can be";
        Err(BeeError::Damaged {
            seq: opened.start.saturating_sub(1),
            what,
        })
    }

    /// Records the entry, if there is a new root. Returns its block number.
    fn finish(&mut self, root: Option<NodeId>, key: Bytes, value: Option<Bytes>) -> Option<u64> {
        self.broken = false;
        let seq = self.next_seq();
        let opened = self.tree.as_mut()?;
        let root = root?;
        opened.root = Some(root);
        // What was marked in vain is written now, as the JS package does.
        opened.marked.clear();
        let placed = opened.tree.place_changes(root, seq);
        self.entries.push(Pending { key, value, placed });
        Some(seq)
    }

    /// An entry, of this batch or stored.
    async fn entry(&self, seq: u64) -> Result<Entry, BeeError> {
        let start = self.tree.as_ref().map_or(0, |opened| opened.start);
        let pending = seq
            .checked_sub(start)
            .and_then(|index| self.entries.get(usize::try_from(index).ok()?));
        if let Some(pending) = pending {
            return Ok(Entry {
                seq,
                key: pending.key.clone(),
                value: pending.value.clone(),
            });
        }
        self.writer.bee.block(seq).await.map(|block| block.entry())
    }
}
