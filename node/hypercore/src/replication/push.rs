//! Blocks that are sent unasked, to peers that say that they take them (`allowPush`).

use super::{PeerId, Replica, Replicator};
use crate::flat_tree;
use crate::messages::{Request, RequestBlock, RequestUpgrade};

/// Blocks that wait to be pushed to one peer; the oldest are dropped, the peer asks for them when it wants them.
const MAX_PUSHES: usize = 256;

impl Replicator {
    /// Whether this side takes blocks that it did not ask for, while it downloads; tells every peer.
    pub fn set_allow_push(&mut self, allow: bool, core: &mut impl Replica) {
        if std::mem::replace(&mut self.allow_push, allow) != allow {
            self.broadcast_sync(core);
        }
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
                if peer.pushes.len() >= MAX_PUSHES {
                    peer.pushes.pop_front();
                }
                peer.pushes.push_back(index);
                pushed.push(*id);
            }
        }
        pushed
    }

    /// What a peer would have asked for to get the next block that is to be pushed to it.
    pub(super) fn next_push(&mut self, id: PeerId, core: &impl Replica) -> Option<Request> {
        let peer = self.peers.get_mut(&id)?;
        while let Some(index) = peer.pushes.pop_front() {
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
