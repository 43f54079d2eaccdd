//! What happens to a core while it is read: it grows, is cut, loses blocks, or the connection ends.

use anyhow::{Context, Result, ensure};
use cumulet_hypercore::blocks::Blocks;
use cumulet_hypercore::corestore::CoreHandle;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::cells::{compare, create};
use super::meeting::Meeting;
use super::node::{MOMENT, append, block, until};
use super::{Direction, Load};

/// A course of events.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Course {
    TruncatedTwice,
    Cleared,
    Sparse,
    LiveAppend,
    Reconnect,
}

impl Course {
    pub(super) const ALL: [Self; 5] = [
        Self::TruncatedTwice,
        Self::Cleared,
        Self::Sparse,
        Self::LiveAppend,
        Self::Reconnect,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::TruncatedTwice => "truncated twice",
            Self::Cleared => "cleared",
            Self::Sparse => "sparse",
            Self::LiveAppend => "live append",
            Self::Reconnect => "reconnect",
        }
    }

    pub(super) async fn run(self, meeting: &mut Meeting, direction: Direction, load: Load) -> Result<()> {
        let sizes = load.sizes(&mut meeting.random);
        let mut scene = Scene::new(direction, meeting).await?;
        match self {
            Self::TruncatedTwice => scene.truncated_twice(&sizes).await,
            Self::Cleared => scene.cleared(&sizes).await,
            Self::Sparse => scene.sparse(&sizes).await,
            Self::LiveAppend => scene.live_append(&sizes).await,
            Self::Reconnect => scene.reconnect(&sizes).await,
        }
    }
}

/// The core's name in JavaScript, of which its blocks are made.
const NAME: &str = "core";

/// One core on both sides.
struct Scene<'a> {
    direction: Direction,
    meeting: &'a mut Meeting,
    core: CoreHandle,
}

impl<'a> Scene<'a> {
    async fn new(direction: Direction, meeting: &'a mut Meeting) -> Result<Self> {
        let core = match direction {
            Direction::JsWrites => {
                let key = meeting.js.create(NAME, "default").await?;
                meeting.node.store.get(key).await?
            }
            Direction::WeWrite => {
                let core = create(&meeting.node, &mut meeting.random).await?;
                meeting.js.open(NAME, core.key(), "default").await?;
                core
            }
        };
        Ok(Self {
            direction,
            meeting,
            core,
        })
    }

    async fn append(&mut self, sizes: &[usize]) -> Result<()> {
        match self.direction {
            Direction::JsWrites => self.meeting.js.append(NAME, sizes).await,
            Direction::WeWrite => append(&self.core, NAME, sizes, false).await,
        }
    }

    async fn truncate(&mut self, length: u64) -> Result<()> {
        match self.direction {
            Direction::JsWrites => {
                let arguments = json!({"name": NAME, "length": length});
                self.meeting.js.ask("truncate", arguments).await.map(drop)
            }
            Direction::WeWrite => Ok(self.core.truncate(length).await?),
        }
    }

    /// Waits until we know the writer's length and fork and have all blocks; then both sides must be the same.
    async fn settle(&mut self, length: u64, fork: u64) -> Result<()> {
        until(&self.core, "the writer's last state", |state| {
            state.fork == fork && state.length == length && state.contiguous_length == length
        })
        .await?;
        compare(&mut self.meeting.js, NAME, &self.core, false).await
    }

    /// Two forks, the second before or within the first one's new blocks.
    async fn truncated_twice(&mut self, sizes: &[usize]) -> Result<()> {
        let length = sizes.len() as u64;
        let _download = self.core.download(0..u64::MAX).await;
        self.append(sizes).await?;
        self.append(&[1, 2, 3]).await?;
        self.meeting.connect().await?;
        self.settle(length + 3, 0).await?;
        let first = length + self.meeting.random.below(3) as u64;
        self.truncate(first).await?;
        self.append(&[77, 78]).await?;
        self.settle(first + 2, 1).await?;
        let second = if self.meeting.random.flip() {
            first + 1
        } else {
            self.meeting.random.below(sizes.len() + 1) as u64
        };
        self.truncate(second).await?;
        self.append(&[99]).await?;
        self.settle(second + 1, 2).await
    }

    /// The writer lost some blocks: the reader gets all others.
    async fn cleared(&mut self, sizes: &[usize]) -> Result<()> {
        self.append(sizes).await?;
        let mut start = self.meeting.random.below(sizes.len());
        if self.direction == Direction::JsWrites {
            // Clearing from an odd block on, JavaScript deletes the hash of the block before too, which it holds, and can
            // prove it to nobody any more.
            start &= !1;
        }
        let end = (start + 1 + self.meeting.random.below(sizes.len() / 3 + 1)).min(sizes.len());
        let (start, end) = (start as u64, end as u64);
        if end > start {
            let arguments = json!({"name": NAME, "start": start, "end": end});
            match self.direction {
                Direction::JsWrites => drop(self.meeting.js.ask("clear", arguments).await?),
                Direction::WeWrite => self.core.clear(start..end).await?,
            }
        }
        let length = sizes.len() as u64;
        let left = length - (end - start);
        let _download = self.core.download(0..u64::MAX).await;
        let mut connection = self.meeting.connect().await?;
        if self.direction == Direction::JsWrites {
            // Of a core whose blocks are all gone only the length is to be had.
            self.core.update().await?;
            // A JavaScript seeder that cleared blocks may throw on an honest request, and end the stream: then we come again.
            for _ in 0..RETRIES {
                let core = self.core.clone();
                let done = until(&core, "all blocks that are left", |state| {
                    state.length == length && state.held_blocks == left
                });
                tokio::select! {
                    done = done => { done?; break; }
                    _ = &mut connection => connection = self.meeting.connect().await?,
                }
            }
        }
        compare(&mut self.meeting.js, NAME, &self.core, false).await
    }

    /// Single blocks, and the places of bytes; what is not asked for does not come.
    async fn sparse(&mut self, sizes: &[usize]) -> Result<()> {
        self.append(sizes).await?;
        self.meeting.connect().await?;
        let length = sizes.len();
        if length == 0 {
            return self.settle(0, 0).await;
        }
        if self.direction == Direction::JsWrites {
            ensure!(self.core.update().await?, "the writer's length is not learnt");
        }
        let total: u64 = sizes.iter().map(|size| *size as u64).sum();
        let mut wanted = Vec::new();
        for _ in 0..20.min(length) {
            let index = self.meeting.random.below(length);
            wanted.push(index as u64);
            self.get_one(index as u64, sizes[index]).await?;
        }
        wanted.sort_unstable();
        wanted.dedup();
        let position = self.meeting.random.below(usize::try_from(total)? + 1) as u64;
        let expected = place(sizes, position);
        let found = match self.direction {
            Direction::JsWrites => self.core.seek(position).await?,
            Direction::WeWrite => {
                let found = self
                    .meeting
                    .js
                    .ask("seek", json!({"name": NAME, "bytes": position}))
                    .await?;
                let number = |name: &str| found[name].as_u64().context("no place");
                (number("index")?, number("offset")?)
            }
        };
        ensure!(
            found == expected,
            "byte {position} is at {found:?}, should be at {expected:?}"
        );
        self.holds_only(&wanted).await
    }

    async fn get_one(&mut self, index: u64, size: usize) -> Result<()> {
        let expected = block(NAME, index, size);
        match self.direction {
            Direction::JsWrites => {
                ensure!(
                    self.core.get(index).await? == expected,
                    "block {index} is another one"
                );
            }
            Direction::WeWrite => {
                let got = self
                    .meeting
                    .js
                    .ask("get", json!({"name": NAME, "index": index}))
                    .await?;
                ensure!(
                    got["sha256"] == hex::encode(Sha256::digest(&expected)),
                    "block {index} is another one"
                );
            }
        }
        Ok(())
    }

    async fn holds_only(&mut self, wanted: &[u64]) -> Result<()> {
        // Blocks that were not asked for would have been on their way already.
        tokio::time::sleep(MOMENT).await;
        match self.direction {
            Direction::JsWrites => {
                let state = self.core.state();
                let all = state.held_blocks == wanted.len() as u64;
                ensure!(
                    all,
                    "{} blocks are held, {} were asked for",
                    state.held_blocks,
                    wanted.len()
                );
            }
            Direction::WeWrite => {
                let held = self.meeting.js.ask("held", json!({"name": NAME})).await?["held"].take();
                ensure!(
                    held == json!(wanted),
                    "JavaScript holds {held}, asked for {wanted:?}"
                );
            }
        }
        Ok(())
    }

    /// Appends while the reader is connected, in batches of random sizes.
    async fn live_append(&mut self, sizes: &[usize]) -> Result<()> {
        let _download = self.core.download(0..u64::MAX).await;
        self.meeting.connect().await?;
        let mut left = sizes;
        while !left.is_empty() {
            let count = 1 + self
                .meeting
                .random
                .below(sizes.len() / 20 + 1)
                .min(left.len() - 1);
            let (batch, rest) = left.split_at(count);
            self.append(batch).await?;
            left = rest;
        }
        self.settle(sizes.len() as u64, 0).await
    }

    /// The connection ends in the middle; meanwhile the writer goes on.
    async fn reconnect(&mut self, sizes: &[usize]) -> Result<()> {
        self.append(sizes).await?;
        let _download = self.core.download(0..u64::MAX).await;
        let connection = self.meeting.connect().await?;
        let part = self.meeting.random.below(sizes.len() / 2 + 1) as u64;
        match self.direction {
            Direction::JsWrites => until(&self.core, "a part", |state| state.held_blocks >= part).await?,
            Direction::WeWrite => drop(
                self.meeting
                    .js
                    .ask("want", json!({"name": NAME, "count": part}))
                    .await?,
            ),
        }
        self.meeting.js.ask("disconnect", json!({})).await?;
        // However it ends: JavaScript resets the transport.
        let _ = connection.await?;
        self.append(&[5, 6, 7]).await?;
        self.meeting.connect().await?;
        self.settle(sizes.len() as u64 + 3, 0).await?;
        if self.direction == Direction::JsWrites {
            let fetched = self.core.stats().await.downloaded_blocks;
            ensure!(fetched == sizes.len() as u64 + 3, "{fetched} blocks were fetched");
        }
        Ok(())
    }
}

/// Connections to a JavaScript seeder that ends them; each brings what the ones before did not.
const RETRIES: usize = 20;

/// The block in which a byte is, and where in it; empty blocks hold none.
fn place(sizes: &[usize], position: u64) -> (u64, u64) {
    // Before everything, and not behind empty blocks (hypercore 11, `lib/merkle-tree.js`).
    if position == 0 {
        return (0, 0);
    }
    let mut start = 0;
    for (index, size) in (0..).zip(sizes) {
        let size = *size as u64;
        if position < start + size {
            return (index, position - start);
        }
        start += size;
    }
    (sizes.len() as u64, 0)
}
