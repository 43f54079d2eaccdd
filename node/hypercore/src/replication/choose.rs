//! Which block is asked of a peer next.

use std::time::Instant;

use super::ask::Asked;
use super::{MAX_ASKED, PeerId, Replica, Replicator};

/// Runs of blocks that are looked at for one that no other peer has, before any block will do.
const LOOKED_AT: usize = 32;
/// Requests in flight at others that are looked at for one that takes too long, the oldest first.
const SWAPS_LOOKED_AT: usize = 64;

impl Replicator {
    pub(super) fn ask_block(&mut self, id: PeerId, core: &mut impl Replica, now: Instant) -> bool {
        match self.choose_block(id, core) {
            Some(chosen) => self.ask_for_block(id, chosen, core, now),
            None => false,
        }
    }

    /// As [`Replicator::ask_block`], of what somebody waits for only.
    pub(super) fn ask_urgent(&mut self, id: PeerId, core: &mut impl Replica, now: Instant) -> bool {
        let Some(limit) = self.provable_length(id, core) else {
            return false;
        };
        let Some(peer) = self.peers.get(&id) else {
            return false;
        };
        let may_ask = |block: &u64| !self.taking.only_pushes || self.taking.forced.contains(block);
        let open = self.urgent_open.range(..limit).copied().filter(may_ask);
        if let Some(block) = open.clone().find(|block| peer.blocks.contains(*block)) {
            return self.ask_for_block(id, (block, 1), core, now);
        }
        if let Some(unknown) = open.clone().next() {
            self.ask_about(id, unknown);
        }
        false
    }

    /// The block to ask of a peer next, with its priority: one that somebody waits for, one whose request failed, one that nobody
    /// else has, or the next wanted one.
    fn choose_block(&mut self, id: PeerId, core: &mut impl Replica) -> Option<(u64, u64)> {
        let limit = self.provable_length(id, core)?;
        let first = self.urgent_open.iter().map(|block| (*block, 1));
        let first = first.chain(self.again.iter().map(|block| (*block, 0)));
        let mut unknown = None;
        for (block, priority) in first {
            if block >= limit || core.has(block) {
                continue;
            }
            let peer = self.peers.get(&id)?;
            if peer.blocks.contains(block) {
                return Some((block, priority));
            }
            unknown = unknown.or(Some(block));
        }
        let found = self
            .scan_alone(id, limit, core)
            .or_else(|| self.scan_wanted(id, limit, core, &mut unknown));
        if let (None, Some(block)) = (found, unknown) {
            self.ask_about(id, block);
        }
        found.map(|block| (block, 0))
    }

    /// Whether a block is neither held nor asked for, nor looked at before all others anyway.
    fn is_open(&self, block: u64, core: &impl Replica) -> bool {
        !core.has(block) && !self.blocks_in_flight.contains_key(&block) && !self.again.contains(&block)
    }

    /// The next wanted block that this peer has and no other that is asked: it may be gone with the peer.
    fn scan_alone(&mut self, id: PeerId, limit: u64, core: &impl Replica) -> Option<u64> {
        let others: Vec<PeerId> = self
            .peers
            .iter()
            .filter(|(other, peer)| **other != id && peer.is_useful() && peer.remote.fork == core.fork())
            .map(|(other, _)| *other)
            .collect();
        if others.is_empty() {
            return None;
        }
        let mut block = self.peers.get(&id)?.scanned_alone;
        let mut found = None;
        for _ in 0..LOOKED_AT {
            let peer = self.peers.get(&id)?;
            let next = self.wanted.next(core.next_missing(block));
            let next = next.filter(|next| *next < limit);
            let Some(next) = next
                .and_then(|next| peer.blocks.next(next))
                .filter(|next| *next < limit)
            else {
                block = block.max(limit);
                break;
            };
            block = next;
            let held = |other: &PeerId| {
                self.peers
                    .get(other)
                    .and_then(|peer| peer.blocks.end_of_run(next))
            };
            if let Some(end) = others.iter().filter_map(held).max() {
                block = end;
            } else if !self.wanted.contains(next) || !self.is_open(next, core) {
                block += 1;
            } else {
                (block, found) = (next + 1, Some(next));
                break;
            }
        }
        self.peers.get_mut(&id)?.scanned_alone = block;
        found
    }

    /// Goes on from where the last scan for this peer ended. What the peer isn't known to have goes into `unknown`.
    fn scan_wanted(
        &mut self,
        id: PeerId,
        limit: u64,
        core: &mut impl Replica,
        unknown: &mut Option<u64>,
    ) -> Option<u64> {
        let peer = self.peers.get(&id)?;
        let mut block = peer.scanned;
        let (scanned, found) = loop {
            let wanted = self.wanted.next(core.next_missing(block));
            let Some(next) = wanted.filter(|next| *next < limit) else {
                // Blocks that come to exist later are looked at again when the tree grows.
                break (peer.scanned.max(block.min(limit)), None);
            };
            block = next;
            if !self.is_open(block, core) {
                block += 1;
                continue;
            }
            if peer.blocks.contains(block) {
                break (block + 1, Some(block));
            }
            *unknown = unknown.or(Some(block));
            match peer.blocks.next(block) {
                Some(next) => block = next,
                None => break (block, None),
            }
        };
        // What the peer isn't known to have is looked at again.
        self.peers.get_mut(&id)?.scanned = unknown.map_or(scanned, |first| first.min(scanned));
        found
    }

    /// Asks an idle peer for a block that another takes too long for; whoever answers first, with a valid block, wins.
    pub(super) fn swap_block(&mut self, id: PeerId, core: &mut impl Replica, now: Instant) -> bool {
        let Some(peer) = self.peers.get(&id) else {
            return false;
        };
        if self.peers.len() < 2 || !peer.may_swap() {
            return false;
        }
        let Some(limit) = self.provable_length(id, core) else {
            return false;
        };
        let after = self.swap_after(id);
        let late = self
            .in_flight
            .values()
            .take_while(|asked| asked.sent + after <= now);
        let slow = |asked: &super::InFlight| match asked.asked {
            Asked::Block(block) if asked.peer != id && block < limit && peer.blocks.contains(block) => {
                let requests = self.blocks_in_flight.get(&block)?;
                let of = |request: &u64| self.in_flight.get(request).map(|asked| asked.peer);
                let free = requests.len() < MAX_ASKED && requests.iter().all(|other| of(other) != Some(id));
                free.then_some(block)
            }
            _ => None,
        };
        let Some(block) = late.take(SWAPS_LOOKED_AT).find_map(slow) else {
            return false;
        };
        let priority = u64::from(self.urgent.contains(&block));
        self.ask_for_block(id, (block, priority), core, now)
    }
}
