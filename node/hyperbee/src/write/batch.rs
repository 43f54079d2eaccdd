//! Several changes appended at once.

use bytes::Bytes;

use super::tree::{ChildId, Key, NodeId, Place, Tree};
use super::{AppendBlocks, BeeWriter};
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

#[derive(Debug)]
struct Opened<B> {
    tree: Tree<B>,
    root: Option<NodeId>,
    /// Block number of the batch's first entry.
    start: u64,
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
        self.put_if(key, value, |_| true).await
    }

    /// Sets a key if it is new, or if `replace` agrees to replace the entry it has.
    pub async fn put_if(
        &mut self,
        key: impl AsRef<[u8]>,
        value: Option<&[u8]>,
        replace: impl FnOnce(&Entry) -> bool + Send,
    ) -> Result<Option<u64>, BeeError> {
        self.begin().await?;
        let key = Bytes::copy_from_slice(key.as_ref());
        let value = value.map(Bytes::copy_from_slice);
        let root = self.put_root(&key, value.as_ref(), replace).await?;
        Ok(self.finish(root, key, value))
    }

    /// Removes a key. Returns the block number of the delete, or none if the key is not there.
    pub async fn del(&mut self, key: impl AsRef<[u8]>) -> Result<Option<u64>, BeeError> {
        self.begin().await?;
        let key = Bytes::copy_from_slice(key.as_ref());
        let root = self.del_root(&key).await?;
        Ok(self.finish(root, key, None))
    }

    /// Appends the changes.
    pub async fn flush(mut self) -> Result<(), BeeError> {
        if self.broken {
            return Err(BeeError::BrokenBatch);
        }
        let Some(opened) = &mut self.tree else {
            return Ok(());
        };
        let Some(last) = self.entries.len().checked_sub(1) else {
            return Ok(());
        };
        let mut blocks = Vec::with_capacity(self.entries.len());
        for (index, entry) in self.entries.iter_mut().enumerate() {
            if index < last {
                opened.tree.prune(&mut entry.placed, opened.start + index as u64);
            }
            // Encoded in this order, each after its own pruning only, as the JS package does.
            blocks.push(
                opened
                    .tree
                    .encode(&entry.placed, entry.key.clone(), entry.value.clone()),
            );
        }
        self.writer.append(blocks).await
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
            let mut tree = Tree::new(self.writer.bee.clone());
            let root = tree.load_root().await?;
            self.tree = Some(Opened {
                tree,
                root,
                start: self.writer.bee.blocks().length(),
            });
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
        replace: impl FnOnce(&Entry) -> bool + Send,
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
                    let previous = self.entry(seq).await?;
                    if !replace(&previous) || (skip_equal && previous.value.as_ref() == value) {
                        return Ok(None);
                    }
                    let Some(opened) = &mut self.tree else {
                        return Ok(None);
                    };
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

    async fn del_root(&mut self, key: &Bytes) -> Result<Option<NodeId>, BeeError> {
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
                Place::Found(index) => return tree.remove(path, index).await,
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
        let block = self.writer.bee.block(seq).await?;
        Ok(Entry {
            seq,
            key: block.node.key.clone(),
            value: block.node.value.clone(),
        })
    }
}
