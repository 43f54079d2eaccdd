//! Blocks that are sent unasked, to peers that say that they take them (`allowPush`), and cores that live of such (`pushOnly`).
//!
//! Who pushes says which blocks; nothing is pushed by itself. A pushed block comes with the growth of the tree that it needs, from
//! the length that the peer said or that was sent to it before, whichever is longer: so blocks may be pushed one after the other
//! without waiting for what the peer says. What it asks for meanwhile is answered from that length as well.
//!
//! Source: npm hypercore 11.37 `lib/replicator.js` (`push`, `_handleRequest`, `setAllowPush`, `setPushOnly`). There, the first answer
//! about the tree to a peer that takes pushes begins at 0 where nothing was pushed before, which only a peer without blocks can use;
//! here it begins where the peer asked.

use std::collections::BTreeSet;
use std::time::Instant;

use super::conflict::UNASKED;
use super::peer::Peer;
use super::{PeerId, Replica, Replicator};
use crate::flat_tree;
use crate::messages::{Request, RequestBlock, RequestUpgrade};

/// Runs of blocks that wait to be pushed to one peer; the oldest are dropped, the peer asks for them when it wants them. Blocks
/// that are pushed in their order are one run.
const MAX_PUSHES: usize = 256;

/// What this side takes of others.
#[derive(Debug, Default)]
pub(super) struct Taking {
    /// Whether it takes what is pushed.
    pub(super) pushes: bool,
    /// Whether it asks for nothing but what was forced.
    pub(super) only_pushes: bool,
    /// Blocks that somebody waits for and that are asked for nevertheless; some may have come.
    pub(super) forced: BTreeSet<u64>,
}

impl Replicator {
    /// Whether this side takes blocks that it did not ask for, while it downloads; tells every peer.
    pub fn set_allow_push(&mut self, allow: bool, core: &mut impl Replica) {
        if std::mem::replace(&mut self.taking.pushes, allow) != allow {
            self.broadcast_sync(core);
        }
    }

    /// Whether this side asks for nothing, neither blocks nor a longer tree, but what is [forced](Self::force_block). What it
    /// asked for already still counts.
    pub fn set_push_only(&mut self, push_only: bool, core: &mut impl Replica, now: Instant) {
        self.taking.only_pushes = push_only;
        self.schedule(core, now);
    }

    /// As [`Replicator::want_block`], also of a core that [asks for nothing](Self::set_push_only).
    pub fn force_block(&mut self, index: u64, core: &mut impl Replica, now: Instant) {
        let Self { taking, urgent, .. } = self;
        taking.forced.retain(|block| urgent.contains(block));
        taking.forced.insert(index);
        self.want_block(index, core, now);
    }

    /// Sends a block to all peers that take such and lack it. Returns to whom.
    pub fn push(&mut self, index: u64, core: &impl Replica) -> Vec<PeerId> {
        if self.frozen || !core.has(index) {
            return Vec::new();
        }
        let mut pushed = Vec::new();
        for (id, peer) in &mut self.peers {
            let remote = &peer.remote;
            let takes = peer.synced && remote.allow_push && remote.downloading && remote.fork == core.fork();
            if takes && !peer.blocks.contains(index) {
                peer.push(index);
                pushed.push(*id);
            }
        }
        pushed
    }

    /// What a peer would have asked for to get the next block that is to be pushed to it.
    pub(super) fn next_push(&mut self, id: PeerId, core: &impl Replica) -> Option<Request> {
        let peer = self.peers.get_mut(&id)?;
        while let Some(index) = peer.pop_push() {
            let (remote, length) = (&peer.remote, core.length());
            let gone = !remote.allow_push || remote.fork != core.fork() || !core.has(index);
            if gone || peer.blocks.contains(index) {
                continue;
            }
            let known = remote.length.max(peer.pushed_length).min(length);
            let root = flat_tree::root_of(index, known);
            let upgrade = RequestUpgrade {
                start: known,
                length: length - known,
            };
            return Some(Request {
                fork: core.fork(),
                block: Some(RequestBlock {
                    index,
                    nodes: root.map_or(0, |root| u64::from(root.trailing_ones())),
                }),
                upgrade: (index >= known).then_some(upgrade),
                manifest: remote.length == 0,
                ..Request::default()
            });
        }
        None
    }
}

impl Peer {
    fn push(&mut self, index: u64) {
        if let Some(last) = self.pushes.back_mut().filter(|last| last.end == index) {
            last.end += 1;
            return;
        }
        if self.pushes.len() >= MAX_PUSHES {
            self.pushes.pop_front();
        }
        self.pushes.push_back(index..index + 1);
    }

    fn pop_push(&mut self) -> Option<u64> {
        let first = self.pushes.front_mut()?;
        let index = first.next();
        if first.is_empty() {
            self.pushes.pop_front();
        }
        index
    }

    /// Has a request about the growth of the tree begin where the last push ends, which will be with the peer before the answer.
    pub(super) fn follow_pushes(&self, request: &mut Request, fork: u64) {
        let takes = self.remote.allow_push && self.remote.fork == fork && request.fork == fork;
        let (Some(upgrade), true) = (&mut request.upgrade, takes && request.id != UNASKED) else {
            return;
        };
        let end = upgrade.start.saturating_add(upgrade.length);
        if (upgrade.start..end).contains(&self.pushed_length) {
            upgrade.start = self.pushed_length;
            upgrade.length = end - self.pushed_length;
        }
    }
}
