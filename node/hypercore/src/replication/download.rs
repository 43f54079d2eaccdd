//! Asking peers: what is asked of whom, and what becomes of the answers.

use std::time::Instant;

use std::ops::Range;

use super::{Applied, ApplyError, Event, PeerFault, PeerId, Reorganized, Replica, Replicator};
use crate::messages::{
    self, Data, Message, NoData, Request, RequestBlock, RequestHash, RequestSeek, RequestUpgrade,
};

/// A request that was not answered yet.
#[derive(Debug)]
pub(super) struct InFlight {
    pub peer: PeerId,
    pub sent: Instant,
    pub asked: Asked,
    pub fork: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    Block(u64),
    Upgrade,
    /// The tree of a higher fork, from its beginning.
    Reorganization,
    /// Where the higher fork left ours.
    ForkPoint,
    /// A byte position, with the padding per block.
    Seek(u64, u64),
    Manifest,
}

/// A higher fork whose tree was proven, while its fork point is looked for.
#[derive(Debug)]
pub(super) struct Reorganization {
    pub fork: u64,
    pub blocks: Range<u64>,
    pub nodes: u64,
}

impl Replicator {
    /// Asks of every peer as much as it may be asked.
    pub(super) fn schedule(&mut self, core: &mut impl Replica, now: Instant) {
        if !self.downloading {
            return;
        }
        for id in self.peers.keys().copied().collect::<Vec<_>>() {
            while self.peers.get(&id).is_some_and(super::Peer::may_ask) {
                if !(self.ask_tree(id, core, now)
                    || self.ask_seek(id, core, now)
                    || self.ask_block(id, core, now))
                {
                    break;
                }
            }
        }
    }

    /// Asks for a higher fork, a longer tree, or the manifest. Returns whether it asked.
    fn ask_tree(&mut self, id: PeerId, core: &mut impl Replica, now: Instant) -> bool {
        let Some(peer) = self.peers.get(&id) else {
            return false;
        };
        let remote = &peer.remote;
        if self.upgrade_in_flight.is_some() {
            return false;
        }
        let (fork, length) = (core.fork(), core.length());
        let manifest = remote.has_manifest && !core.has_manifest();
        let base = Request {
            manifest,
            ..Request::default()
        };
        if remote.fork > fork && remote.length > 0 {
            if self
                .reorganization
                .as_ref()
                .is_some_and(|open| open.fork == remote.fork)
            {
                return self.ask_fork_point(id, now);
            }
            let upgrade = Some(RequestUpgrade {
                start: 0,
                length: remote.length,
            });
            let request = Request {
                fork: remote.fork,
                upgrade,
                ..base
            };
            return self.ask(id, request, Asked::Reorganization, now);
        }
        let acknowledged = remote.remote_length == length;
        if remote.fork == fork && remote.can_upgrade && remote.length > length && acknowledged {
            let upgrade = Some(RequestUpgrade {
                start: length,
                length: remote.length - length,
            });
            return self.ask(
                id,
                Request {
                    fork,
                    upgrade,
                    ..base
                },
                Asked::Upgrade,
                now,
            );
        }
        if remote.fork == fork && remote.length == 0 && manifest {
            return self.ask(id, Request { fork, ..base }, Asked::Manifest, now);
        }
        false
    }

    /// Goes on looking for the fork point, with any block that the peer has.
    fn ask_fork_point(&mut self, id: PeerId, now: Instant) -> bool {
        let (Some(peer), Some(open)) = (self.peers.get(&id), &self.reorganization) else {
            return false;
        };
        let (fork, first, nodes) = (open.fork, open.blocks.start, open.nodes);
        let Some(block) = peer.blocks.next(first).filter(|block| *block < open.blocks.end) else {
            self.ask_about(id, first);
            return false;
        };
        let hash = Some(RequestHash {
            index: 2 * block,
            nodes,
        });
        self.ask(
            id,
            Request {
                fork,
                hash,
                ..Request::default()
            },
            Asked::ForkPoint,
            now,
        )
    }

    /// Asks for tree nodes that tell where a byte lies, through any block near it that the peer has.
    fn ask_seek(&mut self, id: PeerId, core: &mut impl Replica, now: Instant) -> bool {
        let Some(limit) = self.provable_length(id, core) else {
            return false;
        };
        let open = self.seeks.iter().filter(|(_, asked)| asked.is_none());
        let open: Vec<(u64, u64)> = open.map(|(seek, _)| *seek).collect();
        for (bytes, padding) in open {
            let Some(range) = core.seek_range(bytes, padding) else {
                continue;
            };
            let Some(peer) = self.peers.get(&id) else {
                return false;
            };
            let Some(block) = peer
                .blocks
                .next(range.start)
                .filter(|block| *block < range.end.min(limit))
            else {
                self.ask_about(id, range.start);
                continue;
            };
            let request = Request {
                fork: core.fork(),
                hash: Some(RequestHash {
                    index: 2 * block,
                    nodes: core.missing_nodes(block),
                }),
                seek: Some(RequestSeek { bytes, padding }),
                priority: 1,
                ..Request::default()
            };
            return self.ask(id, request, Asked::Seek(bytes, padding), now);
        }
        false
    }

    /// Blocks below this can be asked of a peer: its tree is ours, or a beginning of ours whose roots we hold, so that
    /// the levels we are missing end inside its tree.
    fn provable_length(&self, id: PeerId, core: &impl Replica) -> Option<u64> {
        let remote = &self.peers.get(&id)?.remote;
        if remote.fork != core.fork() {
            None
        } else if remote.length >= core.length() {
            Some(core.length())
        } else {
            core.can_prove_from(remote.length).then_some(remote.length)
        }
    }

    fn ask_block(&mut self, id: PeerId, core: &mut impl Replica, now: Instant) -> bool {
        let Some((index, priority)) = self.choose_block(id, core) else {
            return false;
        };
        let block = Some(RequestBlock {
            index,
            nodes: core.missing_nodes(index),
        });
        let request = Request {
            fork: core.fork(),
            block,
            priority,
            ..Request::default()
        };
        self.again.remove(&index);
        self.ask(id, request, Asked::Block(index), now)
    }

    /// The block to ask of a peer next: one that somebody waits for, one whose request failed, or the next wanted one.
    fn choose_block(&mut self, id: PeerId, core: &mut impl Replica) -> Option<(u64, u64)> {
        let limit = self.provable_length(id, core)?;
        let first = self
            .urgent
            .iter()
            .map(|block| (*block, 1))
            .chain(self.again.iter().map(|block| (*block, 0)));
        let mut unknown = None;
        for (block, priority) in first {
            if block >= limit || self.blocks_in_flight.contains_key(&block) || core.has(block) {
                continue;
            }
            let peer = self.peers.get(&id)?;
            if peer.blocks.contains(block) {
                return Some((block, priority));
            }
            unknown = unknown.or(Some(block));
        }
        let found = self.scan_wanted(id, limit, core, &mut unknown);
        if let (None, Some(block)) = (found, unknown) {
            self.ask_about(id, block);
        }
        found.map(|block| (block, 0))
    }

    /// Goes on from where the last scan for this peer ended. What the peer isn't known to have goes into `unknown`.
    fn scan_wanted(
        &mut self,
        id: PeerId,
        limit: u64,
        core: &mut impl Replica,
        unknown: &mut Option<u64>,
    ) -> Option<u64> {
        let peer = self.peers.get_mut(&id)?;
        let mut block = peer.scanned;
        loop {
            let wanted = self
                .wanted
                .next(core.next_missing(block))
                .filter(|next| *next < limit);
            let Some(next) = wanted else {
                // Blocks that come to exist later are looked at again when the tree grows.
                peer.scanned = peer.scanned.max(block.min(limit));
                return None;
            };
            block = next;
            if core.has(block) || self.blocks_in_flight.contains_key(&block) || self.again.contains(&block) {
                block += 1;
                continue;
            }
            if peer.blocks.contains(block) {
                peer.scanned = block + 1;
                return Some(block);
            }
            *unknown = unknown.or(Some(block));
            peer.scanned = block;
            match peer.blocks.next(block) {
                Some(next) => block = next,
                None => return None,
            }
        }
    }

    /// Asks a peer what it has around a block, once.
    fn ask_about(&mut self, id: PeerId, block: u64) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        if peer.blocks.asked(block) || block >= peer.remote.length {
            return;
        }
        let (start, forgotten) = peer.blocks.ask(block);
        let length = super::have::WINDOW;
        if let Some(start) = forgotten {
            self.send(
                id,
                Message::Unwant(messages::Unwant {
                    start,
                    length,
                    any: false,
                }),
            );
        }
        self.send(
            id,
            Message::Want(messages::Want {
                start,
                length,
                any: false,
            }),
        );
    }

    fn ask(&mut self, id: PeerId, mut request: Request, asked: Asked, now: Instant) -> bool {
        let Some(peer) = self.peers.get_mut(&id) else {
            return false;
        };
        request.id = self.next_request;
        self.next_request += 1;
        peer.in_flight += 1;
        match asked {
            Asked::Block(index) => drop(self.blocks_in_flight.insert(index, request.id)),
            Asked::Seek(bytes, padding) => drop(self.seeks.insert((bytes, padding), Some(request.id))),
            _ => self.upgrade_in_flight = Some(request.id),
        }
        self.in_flight.insert(
            request.id,
            InFlight {
                peer: id,
                sent: now,
                asked,
                fork: request.fork,
            },
        );
        self.send(id, Message::Request(request));
        true
    }

    /// Forgets a request; a block goes to the front of what is asked next.
    pub(super) fn give_up(&mut self, request: u64) -> Option<InFlight> {
        let in_flight = self.in_flight.remove(&request)?;
        if let Some(peer) = self.peers.get_mut(&in_flight.peer) {
            peer.in_flight = peer.in_flight.saturating_sub(1);
        }
        match in_flight.asked {
            Asked::Block(index) => {
                self.blocks_in_flight.remove(&index);
                if self.wanted.contains(index) {
                    self.again.insert(index);
                }
            }
            Asked::Seek(bytes, padding) => {
                if let Some(seek) = self.seeks.get_mut(&(bytes, padding)) {
                    *seek = None;
                }
            }
            _ if self.upgrade_in_flight == Some(request) => self.upgrade_in_flight = None,
            _ => {}
        }
        Some(in_flight)
    }

    pub(super) fn on_no_data(&mut self, id: PeerId, no_data: &NoData) {
        if self
            .in_flight
            .get(&no_data.request)
            .is_none_or(|asked| asked.peer != id)
        {
            return;
        }
        let asked = self.give_up(no_data.request).map(|in_flight| in_flight.asked);
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        peer.refusals += 1;
        match asked {
            Some(Asked::Block(index)) => peer.blocks.remove(index..index + 1),
            Some(Asked::Seek(..)) => {}
            // Its next Sync says what it can prove now.
            _ => {
                peer.remote.can_upgrade = false;
                // Nothing more is known about the fork that it refused to tell about.
                self.reorganization = None;
            }
        }
    }

    pub(super) fn on_data(
        &mut self,
        id: PeerId,
        data: Data,
        core: &mut impl Replica,
        now: Instant,
    ) -> Result<(), PeerFault> {
        // Late answers to cancelled requests, and pushes, which we never allow.
        if self
            .in_flight
            .get(&data.request)
            .is_none_or(|asked| asked.peer != id)
        {
            return Ok(());
        }
        let Some(in_flight) = self.give_up(data.request) else {
            return Ok(());
        };
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.answered = Some(now);
        }
        let Data { proof, .. } = data;
        let answers = match in_flight.asked {
            Asked::Block(index) => proof.block.as_ref().is_some_and(|block| block.index == index),
            Asked::Upgrade | Asked::Reorganization => proof.upgrade.is_some() || proof.manifest.is_some(),
            Asked::Manifest => proof.manifest.is_some(),
            Asked::ForkPoint => proof.hash.is_some() && proof.upgrade.is_none(),
            Asked::Seek(..) => proof.seek.is_some() || proof.hash.is_some(),
        };
        if !answers || (proof.fork != in_flight.fork && proof.upgrade.is_some()) {
            return self.refuse(id, "it doesn't answer what was asked");
        }
        let before = (core.length(), core.has_manifest());
        let applied = match in_flight.asked {
            Asked::ForkPoint => self.reorganize(in_flight.fork, proof, core),
            Asked::Reorganization if proof.upgrade.is_some() => self.reorganize(in_flight.fork, proof, core),
            _ if in_flight.fork == core.fork() || proof.manifest.is_some() => core.apply(proof),
            _ => return Ok(()),
        };
        match applied {
            Ok(applied) => {
                self.applied(id, applied, before, core);
                Ok(())
            }
            Err(ApplyError::Stale) => {
                // Happens to honest peers when the core changes meanwhile, but not for ever.
                if let Some(peer) = self.peers.get_mut(&id) {
                    peer.refusals += 1;
                }
                Ok(())
            }
            Err(ApplyError::Storage(error)) => Err(PeerFault::Storage(error)),
            Err(ApplyError::Invalid(reason)) => self.refuse(id, &reason),
        }
    }

    fn reorganize(
        &mut self,
        fork: u64,
        proof: crate::proof::Proof,
        core: &mut impl Replica,
    ) -> Result<Applied, ApplyError> {
        self.reorganization = None;
        if fork <= core.fork() {
            return Ok(Applied::default());
        }
        match core.reorganize(proof)? {
            Reorganized::Done(applied) => Ok(applied),
            Reorganized::Wants { blocks, nodes } => {
                self.reorganization = Some(Reorganization { fork, blocks, nodes });
                Ok(Applied::default())
            }
        }
    }

    fn refuse(&mut self, id: PeerId, reason: &str) -> Result<(), PeerFault> {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.limit = 0;
        }
        Err(PeerFault::BadProof(reason.to_owned()))
    }

    fn applied(&mut self, id: PeerId, applied: Applied, before: (u64, bool), core: &mut impl Replica) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.timeouts = 0;
        }
        if let Some((index, bytes)) = applied.block {
            self.urgent.remove(&index);
            self.again.remove(&index);
            self.events.push_back(Event::BlockStored {
                index,
                bytes,
                from: id,
            });
            self.uncommitted.insert(index..index + 1);
        }
        let (length, fork) = (core.length(), core.fork());
        if let Some(from) = applied.reorganized_from {
            for peer in self.peers.values_mut() {
                peer.told_contiguous = 0;
                peer.rescan_from(from);
            }
            self.uncommitted.remove(from..u64::MAX);
            self.committing.remove(from..u64::MAX);
            self.dropped(&(from..applied.upgraded_from.unwrap_or(from).max(from)));
            self.again.split_off(&from);
            self.events.push_back(Event::Reorganized { from, length, fork });
        } else if let Some(from) = applied.upgraded_from {
            self.events.push_back(Event::Upgraded { from, length });
            for peer in self.peers.values_mut() {
                peer.rescan_from(from);
            }
        }
        if before != (length, core.has_manifest()) || applied.reorganized_from.is_some() {
            self.broadcast_sync(core);
        }
    }

    /// Forgets what is asked for and was stored by other means.
    pub(super) fn settle_blocks(&mut self, core: &impl Replica) {
        self.urgent.retain(|block| !core.has(*block));
        self.again.retain(|block| !core.has(*block));
        for peer in self.peers.values_mut() {
            peer.scanned = 0;
        }
    }
}
