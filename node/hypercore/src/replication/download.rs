//! Asking peers: what is asked of whom, and what becomes of the answers.

use std::time::Instant;

use super::{Applied, ApplyError, Event, PeerFault, PeerId, Replica, Replicator};
use crate::messages::{self, Data, Message, NoData, Request, RequestBlock, RequestUpgrade};

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
    Manifest,
}

impl Replicator {
    /// Asks of every peer as much as it may be asked.
    pub(super) fn schedule(&mut self, core: &mut impl Replica, now: Instant) {
        if !self.downloading {
            return;
        }
        for id in self.peers.keys().copied().collect::<Vec<_>>() {
            while self.peers.get(&id).is_some_and(super::Peer::may_ask) {
                if !(self.ask_tree(id, core, now) || self.ask_block(id, core, now)) {
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
        let limit = {
            let peer = self.peers.get(&id)?;
            let same_tree = peer.remote.fork == core.fork();
            if same_tree { core.length() } else { 0 }
        };
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
            // Its next Sync says what it can prove now.
            _ => peer.remote.can_upgrade = false,
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
        let Data { proof, .. } = data;
        let answers = match in_flight.asked {
            Asked::Block(index) => proof.block.as_ref().is_some_and(|block| block.index == index),
            Asked::Upgrade | Asked::Reorganization => proof.upgrade.is_some() || proof.manifest.is_some(),
            Asked::Manifest => proof.manifest.is_some(),
        };
        if !answers || (proof.fork != in_flight.fork && proof.upgrade.is_some()) {
            return self.refuse(id, "it doesn't answer what was asked");
        }
        let before = (core.length(), core.has_manifest());
        let applied = if in_flight.asked == Asked::Reorganization && proof.upgrade.is_some() {
            if in_flight.fork <= core.fork() {
                return Ok(());
            }
            core.reorganize(proof)
        } else if in_flight.fork == core.fork() || proof.manifest.is_some() {
            core.apply(proof)
        } else {
            return Ok(());
        };
        match applied {
            Ok(applied) => {
                self.applied(id, applied, before, core, now);
                Ok(())
            }
            Err(ApplyError::Stale) => Ok(()),
            Err(ApplyError::Storage(error)) => Err(PeerFault::Storage(error)),
            Err(ApplyError::Invalid(reason)) => self.refuse(id, &reason),
        }
    }

    fn refuse(&mut self, id: PeerId, reason: &str) -> Result<(), PeerFault> {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.limit = 0;
        }
        Err(PeerFault::BadProof(reason.to_owned()))
    }

    fn applied(
        &mut self,
        id: PeerId,
        applied: Applied,
        before: (u64, bool),
        core: &mut impl Replica,
        _now: Instant,
    ) {
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
            self.announce(&(index..index + 1), core, id);
        }
        let (length, fork) = (core.length(), core.fork());
        if let Some(from) = applied.reorganized_from {
            for peer in self.peers.values_mut() {
                peer.told_contiguous = 0;
                peer.rescan_from(from);
            }
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
