//! The read side: a view of a bee at a version.

use std::cmp::Ordering;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use futures::future::join_all;
use futures::stream::{FuturesUnordered, Stream};

use crate::cache::BeeCache;
use crate::entry::{BeeError, Block, Entry, TreeNode};
use crate::message::{ChildPointer, Header, PROTOCOL};
use crate::{Blocks, Cursor, Diff, History, Range};

/// Most nodes from the root to a leaf. A tree of 2^53 keys with the least fan-out of five has 23.
pub const MAX_DEPTH: usize = 32;

/// The default separator between a sub-bee's name and its keys.
const SEPARATOR: &[u8] = &[0];

/// A view of a bee: the whole or a sub-bee, following the core or at a fixed version. Cheap to clone; clones share
/// the cache.
///
/// ```
/// # futures::executor::block_on(async {
/// use cumulet_hyperbee::{BeeWriter, MemoryBlocks, Range, WriteOptions};
///
/// let mut writer = BeeWriter::new(MemoryBlocks::default(), WriteOptions::default());
/// writer.put("apple", Some(b"red")).await?;
/// let before = writer.bee().snapshot();
/// writer.put("pear", Some(b"green")).await?;
///
/// let bee = writer.bee();
/// assert_eq!(bee.get("apple").await?.unwrap().value.as_deref(), Some(&b"red"[..]));
/// let from_b = bee.range(Range::all().gte("b")).collect(10).await?;
/// assert_eq!(from_b[0].key, "pear");
/// // Earlier versions stay readable.
/// assert!(before.get("pear").await?.is_none());
/// # Ok::<(), cumulet_hyperbee::BeeError>(())
/// # }).unwrap();
/// ```
#[derive(Debug)]
pub struct Bee<B> {
    source: Arc<Source<B>>,
    checkout: Option<u64>,
    prefix: Bytes,
}

#[derive(Debug)]
struct Source<B> {
    blocks: B,
    cache: BeeCache,
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
        Self::with_cache(blocks, BeeCache::default())
    }

    /// [`Bee::new`] with a cache that other bees over the **same core** may use as well.
    pub fn with_cache(blocks: B, cache: BeeCache) -> Self {
        Self {
            source: Arc::new(Source { blocks, cache }),
            checkout: None,
            prefix: Bytes::new(),
        }
    }

    /// The blocks it reads from.
    pub fn blocks(&self) -> &B {
        &self.source.blocks
    }

    /// The decoded blocks, to be shared with other bees over the same core.
    pub fn cache(&self) -> &BeeCache {
        &self.source.cache
    }

    /// Forgets all decoded blocks. A new fork of the core does so by itself.
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
                    let seq = node.keys().get(index).map_or(0, |slot| slot.seq);
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
            seq: self.version() - 1,
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
        History::new(self.clone(), from.max(1), self.version(), false)
    }

    /// All puts and deletes of the whole bee up to this version, newest first.
    pub fn history_reverse(&self) -> History<B> {
        History::new(self.clone(), 1, self.version(), true)
    }

    /// The puts and deletes in some of the blocks, of the whole bee, oldest first or newest first. Blocks outside of
    /// this version are left out. JS `gt`, `gte`, `lt`, `lte` are the ends of such a range.
    pub fn history_between(&self, blocks: std::ops::Range<u64>, reverse: bool) -> History<B> {
        let end = blocks.end.min(self.version());
        History::new(self.clone(), blocks.start.max(1), end, reverse)
    }

    /// What differs between this view and an older one of the same core, in key order, inside `range` and
    /// at most its limit. Its direction is ignored: as in JS, differences come in ascending order only.
    pub fn diff(&self, older: u64, range: Range) -> Diff<B> {
        Diff::new(&self.snapshot(), &self.checkout(older), range)
    }

    /// The root at `version`, none for an empty tree.
    pub(crate) async fn root(&self, version: u64) -> Result<Option<Arc<TreeNode>>, BeeError> {
        if version < 2 {
            return Ok(None);
        }
        let pointer = ChildPointer {
            seq: version - 1,
            offset: 0,
        };
        match self.node(pointer).await? {
            Some(node) => Ok(Some(node)),
            None => Err(BeeError::InsideBatch { version }),
        }
    }

    /// The node a pointer leads to. Only a root may be without keys; this is what makes every walk end.
    pub(crate) async fn child(&self, pointer: ChildPointer) -> Result<Arc<TreeNode>, BeeError> {
        let damaged = |what| BeeError::Damaged {
            seq: pointer.seq,
            what,
        };
        let node = self.node(pointer).await?;
        let node = node.ok_or_else(|| damaged("has fewer nodes than a pointer to it says"))?;
        if node.keys().is_empty() {
            return Err(damaged("has an inner node without keys"));
        }
        Ok(node)
    }

    async fn node(&self, pointer: ChildPointer) -> Result<Option<Arc<TreeNode>>, BeeError> {
        let fork = self.source.blocks.fork();
        if let Some(node) = self.source.cache.node(fork, pointer) {
            return Ok(Some(node));
        }
        let block = self.block(pointer.seq).await?;
        let Some(node) = TreeNode::new(&block, pointer.offset)?.map(Arc::new) else {
            return Ok(None);
        };
        self.source.cache.insert_node(fork, pointer, &node);
        Ok(Some(node))
    }

    /// Where `key` is among the node's keys: its index, or that of the child to descend into.
    ///
    /// Keys are fetched when they are compared. If one has to be waited for, the others are asked for beside it: a
    /// node then costs one round trip instead of three.
    pub(crate) async fn search(&self, node: &TreeNode, key: &[u8]) -> Result<Result<usize, usize>, BeeError> {
        let (mut start, mut end) = (0, node.keys().len());
        let mut beside = FuturesUnordered::new();
        while start < end {
            let middle = usize::midpoint(start, end);
            let Some(slot) = node.keys().get(middle) else {
                break;
            };
            let order = if let Some(bytes) = slot.bytes() {
                key.cmp(bytes)
            } else {
                let mut needed = pin!(self.block(slot.seq));
                let block = if let Poll::Ready(block) = futures::poll!(needed.as_mut()) {
                    block?
                } else {
                    if beside.is_empty() {
                        let others = node.keys().iter().filter(|slot| slot.bytes().is_none());
                        let others = self.missing(others.map(|slot| slot.seq).collect());
                        beside.extend(others.into_iter().map(|seq| self.block(seq)));
                    }
                    std::future::poll_fn(|context| {
                        if let Poll::Ready(block) = needed.as_mut().poll(context) {
                            return Poll::Ready(block);
                        }
                        // Their answers lie in the cache, their failures will be met again if they matter.
                        while let Poll::Ready(Some(_)) = pin!(&mut beside).poll_next(context) {}
                        Poll::Pending
                    })
                    .await?
                };
                slot.learn(block.key());
                key.cmp(block.key())
            };
            match order {
                Ordering::Equal => return Ok(Ok(middle)),
                Ordering::Less => end = middle,
                Ordering::Greater => start = middle + 1,
            }
        }
        Ok(Err(start))
    }

    fn missing(&self, seqs: Vec<u64>) -> Vec<u64> {
        self.source.cache.missing(self.source.blocks.fork(), seqs)
    }

    /// Fetches the blocks of a walk's next keys or nodes all at once. Failures are met again by whoever needs the block.
    pub(crate) async fn fetch(&self, seqs: Vec<u64>) {
        let missing = self.missing(seqs);
        if missing.len() > 1 {
            for &seq in &missing {
                self.source.blocks.prefetch(seq..seq + 1);
            }
            join_all(missing.into_iter().map(|seq| self.block(seq))).await;
        }
    }

    /// A decoded and checked block, from the cache if it is there.
    pub(crate) async fn block(&self, seq: u64) -> Result<Arc<Block>, BeeError> {
        let fork = self.source.blocks.fork();
        if let Some(block) = self.source.cache.block(fork, seq) {
            return Ok(block);
        }
        let raw = self.raw(seq).await?;
        let block = Arc::new(Block::decode(seq, &raw)?);
        self.source.cache.insert_block(fork, &block);
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
