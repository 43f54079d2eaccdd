//! The read side: a view of a bee at a version.

use std::cmp::Ordering;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::cache::Cache;
use crate::entry::{BeeError, Block, Entry, TreeNode};
use crate::message::{ChildPointer, Header, PROTOCOL};
use crate::{Blocks, Cursor, Diff, History, Range};

/// Most nodes from the root to a leaf. A tree of 2^53 keys with the least fan-out of five has 23.
pub const MAX_DEPTH: usize = 32;

/// The default separator between a sub-bee's name and its keys.
const SEPARATOR: &[u8] = &[0];

/// A view of a bee: the whole or a sub-bee, following the core or at a fixed version. Cheap to clone; clones share
/// the cache.
#[derive(Debug)]
pub struct Bee<B> {
    source: Arc<Source<B>>,
    checkout: Option<u64>,
    prefix: Bytes,
}

#[derive(Debug)]
struct Source<B> {
    blocks: B,
    cache: Cache,
}

impl<B> Clone for Bee<B> {
    fn clone(&self) -> Self {
        Self {
            source: Arc::clone(&self.source),
            checkout: self.checkout,
            prefix: self.prefix.clone(),
        }
    }
}

impl<B: Blocks> Bee<B> {
    /// The bee stored in these blocks, at their newest version.
    pub fn new(blocks: B) -> Self {
        Self {
            source: Arc::new(Source {
                blocks,
                cache: Cache::new(),
            }),
            checkout: None,
            prefix: Bytes::new(),
        }
    }

    /// The blocks it reads from.
    pub fn blocks(&self) -> &B {
        &self.source.blocks
    }

    /// Forgets all decoded blocks: to be called when the core was truncated or forked.
    pub fn clear_cache(&self) {
        self.source.cache.clear();
    }

    /// The version read: the core's length, at least 1.
    pub fn version(&self) -> u64 {
        self.checkout
            .unwrap_or_else(|| self.source.blocks.length())
            .max(1)
    }

    /// The tree as it was when the core had this length. A length inside a batch has no tree; reading it is an error.
    #[must_use]
    pub fn checkout(&self, version: u64) -> Self {
        Self {
            checkout: Some(version.max(1)),
            ..self.clone()
        }
    }

    /// The tree as it is now, unmoved by later appends.
    #[must_use]
    pub fn snapshot(&self) -> Self {
        self.checkout(self.version())
    }

    /// The part of the bee whose keys begin with `name` and a zero byte. Keys of the sub-bee are without both.
    #[must_use]
    pub fn sub(&self, name: impl AsRef<[u8]>) -> Self {
        self.sub_separated(name, SEPARATOR)
    }

    /// [`Bee::sub`] with another separator, which may be empty.
    #[must_use]
    pub fn sub_separated(&self, name: impl AsRef<[u8]>, separator: impl AsRef<[u8]>) -> Self {
        let mut prefix = BytesMut::from(self.prefix.as_ref());
        prefix.extend_from_slice(name.as_ref());
        prefix.extend_from_slice(separator.as_ref());
        Self {
            prefix: prefix.freeze(),
            ..self.clone()
        }
    }

    /// What all keys of this view begin with in the core.
    pub fn prefix(&self) -> &Bytes {
        &self.prefix
    }

    /// The header, block 0.
    pub async fn header(&self) -> Result<Header, BeeError> {
        let block = self.raw(0).await?;
        Header::decode(&block).map_err(|source| BeeError::Decode { seq: 0, source })
    }

    /// Whether block 0 is a bee's header. Any bytes are answered; only a block that can't be had is an error.
    pub async fn is_bee(&self) -> Result<bool, BeeError> {
        let block = self.raw(0).await?;
        Ok(Header::decode(&block).is_ok_and(|header| header.protocol == PROTOCOL))
    }

    /// The entry of a key, or none.
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Entry>, BeeError> {
        let key = self.prefixed(key.as_ref());
        let Some(mut node) = self.root(self.version()).await? else {
            return Ok(None);
        };
        for _ in 0..MAX_DEPTH {
            let index = match self.search(&node, &key).await? {
                Ok(index) => {
                    let seq = node.keys().get(index).copied().unwrap_or_default();
                    return self.block(seq).await.map(|block| Some(self.strip(block.entry())));
                }
                Err(index) => index,
            };
            let Some(&child) = node.children().get(index) else {
                return Ok(None);
            };
            node = self.child(child).await?;
        }
        Err(BeeError::Damaged {
            seq: node.block.seq,
            what: "lies deeper than a tree can be",
        })
    }

    /// Key and value that block `seq` put, with the key as stored (sub-bees do not shorten it).
    pub async fn get_by_seq(&self, seq: u64) -> Result<Entry, BeeError> {
        self.block(seq).await.map(|block| block.entry())
    }

    /// Entries in key order. The view is fixed when the cursor is made.
    pub fn range(&self, range: Range) -> Cursor<B> {
        Cursor::new(&self.snapshot(), range)
    }

    /// The first entry of a range, or none.
    pub async fn peek(&self, range: Range) -> Result<Option<Entry>, BeeError> {
        self.range(range.limit(1)).next().await
    }

    /// All puts and deletes from block `from` (at least 1) to this version, oldest first, of the whole bee.
    pub fn history(&self, from: u64) -> History<B> {
        History::forward(self.clone(), from.max(1), self.version())
    }

    /// All puts and deletes of the whole bee up to this version, newest first.
    pub fn history_reverse(&self) -> History<B> {
        History::reverse(self.clone(), 1, self.version())
    }

    /// What differs between this view and an older one of the same core, in key order, inside `range` (its direction
    /// is ignored).
    pub fn diff(&self, older: u64, range: Range) -> Diff<B> {
        Diff::new(&self.snapshot(), &self.checkout(older), range)
    }

    /// The root at `version`, none for an empty tree.
    pub(crate) async fn root(&self, version: u64) -> Result<Option<TreeNode>, BeeError> {
        if version < 2 {
            return Ok(None);
        }
        let block = self.block(version - 1).await?;
        if block.node.levels.is_empty() {
            return Err(BeeError::InsideBatch { version });
        }
        TreeNode::new(
            block,
            ChildPointer {
                seq: version - 1,
                offset: 0,
            },
        )
        .map(Some)
    }

    /// The node a pointer leads to. Only a root may be without keys; this is what makes every walk end.
    pub(crate) async fn child(&self, pointer: ChildPointer) -> Result<TreeNode, BeeError> {
        let node = TreeNode::new(self.block(pointer.seq).await?, pointer)?;
        if node.keys().is_empty() {
            return Err(BeeError::Damaged {
                seq: pointer.seq,
                what: "has an inner node without keys",
            });
        }
        Ok(node)
    }

    /// Where `key` is among the node's keys: its index, or that of the child to descend into.
    pub(crate) async fn search(&self, node: &TreeNode, key: &[u8]) -> Result<Result<usize, usize>, BeeError> {
        self.prefetch(node.keys().iter().copied());
        let (mut start, mut end) = (0, node.keys().len());
        while start < end {
            let middle = usize::midpoint(start, end);
            let seq = node.keys().get(middle).copied().unwrap_or_default();
            match key.cmp(&self.block(seq).await?.node.key) {
                Ordering::Equal => return Ok(Ok(middle)),
                Ordering::Less => end = middle,
                Ordering::Greater => start = middle + 1,
            }
        }
        Ok(Err(start))
    }

    /// Announces blocks that will be read soon, those that are not in the cache.
    pub(crate) fn prefetch(&self, seqs: impl Iterator<Item = u64>) {
        for seq in seqs.filter(|&seq| !self.source.cache.contains(seq)) {
            self.source.blocks.prefetch(seq..seq + 1);
        }
    }

    /// A decoded and checked block, from the cache if it is there.
    pub(crate) async fn block(&self, seq: u64) -> Result<Arc<Block>, BeeError> {
        if let Some(block) = self.source.cache.get(seq) {
            return Ok(block);
        }
        let raw = self.raw(seq).await?;
        let block = Arc::new(Block::decode(seq, &raw)?);
        self.source.cache.insert(&block);
        Ok(block)
    }

    async fn raw(&self, seq: u64) -> Result<Bytes, BeeError> {
        self.source
            .blocks
            .get(seq)
            .await
            .map_err(|source| BeeError::Block { seq, source })
    }

    pub(crate) fn prefixed(&self, key: &[u8]) -> Bytes {
        let mut prefixed = BytesMut::with_capacity(self.prefix.len() + key.len());
        prefixed.extend_from_slice(&self.prefix);
        prefixed.extend_from_slice(key);
        prefixed.freeze()
    }

    /// Takes this view's prefix off an entry's key; the caller has made sure that it is there.
    pub(crate) fn strip(&self, entry: Entry) -> Entry {
        if entry.key.starts_with(&self.prefix) {
            Entry {
                key: entry.key.slice(self.prefix.len()..),
                ..entry
            }
        } else {
            entry
        }
    }
}
