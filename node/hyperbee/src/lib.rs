//! Hyperbee: an ordered key-value tree on a Hypercore, compatible with the JS package `hyperbee` 2.
//!
//! A bee is a core whose block 0 is a header and whose every other block is one put or delete together with the
//! B-tree nodes that changed with it. Reading needs a handful of blocks per lookup; any earlier length of the core
//! is an earlier version of the tree.
//!
//! - [`Bee`] reads: [`Bee::get`], [`Bee::range`], [`Bee::history`], [`Bee::diff`], [`Bee::checkout`], [`Bee::sub`].
//! - [`BeeWriter`] writes, alone or in a [`Batch`], the same bytes as the JS package.
//! - [`Bee::watch`] and [`Bee::get_and_watch`] wait for changes; [`union`] reads many bees as one.
//! - [`message`] is the format of the blocks, [`extension`] that of the read-ahead hints JS peers broadcast.
//!
//! ```
//! # futures::executor::block_on(async {
//! use cumulet_hyperbee::{Bee, BeeWriter, MemoryBlocks, Range, WriteOptions};
//!
//! // With the feature `corestore` a handle on a core stands where these blocks do, and its store replicates it.
//! let blocks = MemoryBlocks::default();
//! let mut writer = BeeWriter::new(blocks.clone(), WriteOptions::default());
//! writer.put("apple", Some(b"red")).await?;
//! let mut batch = writer.batch();
//! batch.put("pear", Some(b"green")).await?;
//! batch.put("plum", Some(b"blue")).await?;
//! batch.flush().await?;
//! let version = writer.bee().version();
//! writer.del("apple").await?;
//!
//! // Whoever has the blocks reads the same.
//! let bee = Bee::new(MemoryBlocks::new(blocks.to_vec()));
//! assert!(bee.get("apple").await?.is_none());
//! assert!(bee.checkout(version).get("apple").await?.is_some());
//! assert_eq!(bee.range(Range::all().gte("p").lt("pf")).collect(10).await?.len(), 1);
//! let mut changes = bee.diff(version, Range::all());
//! assert_eq!(changes.next().await?.unwrap().right.unwrap().key, "apple");
//!
//! // Cut back to where the apple was.
//! blocks.truncate(version);
//! assert!(writer.bee().get("apple").await?.is_some());
//! # Ok::<(), cumulet_hyperbee::BeeError>(())
//! # }).unwrap();
//! ```
//!
//! Invariants: blocks come from a verified core, but its writer may be hostile. Whatever an index says, a lookup
//! ends after [`MAX_DEPTH`] nodes and a walk after as many nodes as the core has blocks; anything that is not a tree
//! is an error. Memory is bounded by the cache and the depth.
//!
//! Not here: replication, waiting for blocks (the [`Blocks`] given does that), value encodings.

mod any;
mod bee;
mod cache;
#[cfg(feature = "corestore")]
mod corestore;
mod diff;
mod entry;
pub mod extension;
mod history;
mod memory;
pub mod message;
mod protobuf;
mod range;
mod stored;
pub mod union;
mod walk;
mod watch;
mod write;

pub use any::AnyBlocks;
pub use bee::{Bee, MAX_DEPTH};
pub use cache::BeeCache;
pub use cumulet_hypercore::blocks::{Blocks, BlocksError};
pub use diff::{Change, Diff};
pub use entry::{BeeError, Entry, ErrorKind};
pub use history::{History, HistoryEntry, Operation};
pub use memory::MemoryBlocks;
pub use protobuf::DecodeError;
pub use range::{Cursor, Range};
pub use stored::LocalBlocks;
pub use watch::{EntryWatcher, Seen, WatchBlocks, WatchedChange, Watcher};
pub use write::{AppendBlocks, Batch, BeeWriter, WriteOptions};
