//! What becomes of the answers to requests.

use std::time::Instant;

use super::ask::{Asked, InFlight, Reorganization};
use super::conflict::UNASKED;
use super::{
    Applied, ApplyError, Event, PeerFault, PeerId, Reorganized, Replica, Replicator, SEEK_AGAIN_AFTER,
};
use crate::messages::{Data, NoData};
use crate::proof::Proof;

impl Replicator {
    pub(super) fn on_no_data(&mut self, id: PeerId, no_data: &NoData, now: Instant) -> Result<(), PeerFault> {
        let doubted = self.peers.get(&id).is_some_and(|peer| peer.doubted.is_some());
        if no_data.request == UNASKED && doubted {
            return self.refuse(id, "it doesn't prove its tree either");
        }
        let request = self.in_flight.get(&no_data.request);
        if request.is_none_or(|asked| asked.peer != id) {
            return Ok(());
        }
        let asked = self.settle(no_data.request).map(|in_flight| in_flight.asked);
        let Some(peer) = self.peers.get_mut(&id) else {
            return Ok(());
        };
        peer.refusals += 1;
        peer.debt = peer.debt.saturating_add(1);
        match asked {
            Some(Asked::Block(index)) => peer.blocks.remove(index..index + 1),
            Some(Asked::Seek(..)) => peer.seek_after = Some(now + SEEK_AGAIN_AFTER),
            // Its next Sync says what it can prove now.
            _ => {
                peer.remote.can_upgrade = false;
                // Nothing more is known about the fork that it refused to tell about.
                self.reorganization = None;
            }
        }
        if let Some(asked) = asked {
            self.put_back(asked);
        }
        Ok(())
    }

    /// Takes answers, in their order. Blocks that follow each other are verified and stored together.
    pub(super) fn on_data(
        &mut self,
        id: PeerId,
        answers: Vec<Data>,
        core: &mut impl Replica,
        now: Instant,
    ) -> Result<(), PeerFault> {
        let (mut asked, mut proofs) = (Vec::new(), Vec::new());
        for data in answers {
            if data.request == UNASKED {
                self.on_blocks(std::mem::take(&mut asked), std::mem::take(&mut proofs), core, now)?;
                self.on_unasked(id, data, core, now)?;
                continue;
            }
            // Late answers to cancelled requests go nowhere.
            let request = self.in_flight.get(&data.request);
            if self.frozen || request.is_none_or(|asked| asked.peer != id) {
                continue;
            }
            let Some(in_flight) = self.settle(data.request) else {
                continue;
            };
            let proof = data.proof;
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.answered = Some(now);
                peer.window
                    .on_answer(in_flight.mark, proof.size_hint() as u64, now);
            }
            match in_flight.asked {
                Asked::Block(index) if is_block_alone(&proof, index) && in_flight.fork == core.fork() => {
                    asked.push(in_flight);
                    proofs.push(proof);
                }
                _ => {
                    self.on_blocks(std::mem::take(&mut asked), std::mem::take(&mut proofs), core, now)?;
                    self.on_proof(id, &in_flight, proof, core, now)?;
                }
            }
        }
        self.on_blocks(asked, proofs, core, now)
    }

    /// Takes blocks that were asked for.
    fn on_blocks(
        &mut self,
        asked: Vec<InFlight>,
        proofs: Vec<Proof>,
        core: &mut impl Replica,
        now: Instant,
    ) -> Result<(), PeerFault> {
        if proofs.is_empty() {
            return Ok(());
        }
        let before = (core.length(), core.has_manifest());
        let mut result = Ok(());
        for (in_flight, applied) in asked.into_iter().zip(core.apply_blocks(proofs)) {
            // The first error counts, but what was stored is noted.
            result = result.and(self.on_applied(&in_flight, applied, before, core, now));
        }
        result
    }

    /// Takes an answer other than a block alone.
    fn on_proof(
        &mut self,
        id: PeerId,
        in_flight: &InFlight,
        proof: Proof,
        core: &mut impl Replica,
        now: Instant,
    ) -> Result<(), PeerFault> {
        let answers = match in_flight.asked {
            Asked::Block(index) => proof.block.as_ref().is_some_and(|block| block.index == index),
            Asked::Upgrade | Asked::Reorganization => proof.upgrade.is_some() || proof.manifest.is_some(),
            Asked::Manifest => proof.manifest.is_some(),
            Asked::ForkPoint => proof.hash.is_some() && proof.upgrade.is_none(),
            Asked::Seek(..) => proof.seek.is_some() || proof.hash.is_some(),
        };
        // A manifest that nobody asked for is not looked at, and not paid for again and again.
        let unasked = proof.manifest.is_some() && !in_flight.manifest;
        if !answers || unasked || (proof.fork != in_flight.fork && proof.upgrade.is_some()) {
            self.put_back(in_flight.asked);
            return self.refuse(id, "it doesn't answer what was asked");
        }
        let before = (core.length(), core.has_manifest());
        let applied = match in_flight.asked {
            Asked::ForkPoint => self.reorganize(in_flight.fork, proof, core),
            Asked::Reorganization if proof.upgrade.is_some() => self.reorganize(in_flight.fork, proof, core),
            _ if in_flight.fork == core.fork() || proof.manifest.is_some() => core.apply(proof),
            _ => {
                self.put_back(in_flight.asked);
                return Ok(());
            }
        };
        self.on_applied(in_flight, applied, before, core, now)
    }

    fn on_applied(
        &mut self,
        in_flight: &InFlight,
        applied: Result<Applied, ApplyError>,
        before: (u64, bool),
        core: &mut impl Replica,
        now: Instant,
    ) -> Result<(), PeerFault> {
        let (id, asked) = (in_flight.peer, in_flight.asked);
        match applied {
            Ok(applied) => {
                match asked {
                    Asked::Block(index) => {
                        if let Some(others) = self.blocks_in_flight.remove(&index) {
                            self.cancel(others);
                        }
                        self.again.remove(&index);
                        self.urgent.remove(&index);
                        self.urgent_open.remove(&index);
                    }
                    Asked::Seek(..) => {}
                    _ => {
                        let others = std::mem::take(&mut self.tree_in_flight);
                        self.cancel(others);
                    }
                }
                self.applied(id, applied, before, core);
                Ok(())
            }
            Err(ApplyError::Stale) => {
                // Happens to honest peers when the core changes meanwhile, but not for ever.
                if let Some(peer) = self.peers.get_mut(&id) {
                    peer.refusals += 1;
                }
                self.put_back(asked);
                Ok(())
            }
            Err(ApplyError::Storage(error)) => {
                self.put_back(asked);
                Err(PeerFault::Storage(error))
            }
            Err(ApplyError::Invalid(reason)) => {
                self.put_back(asked);
                self.on_false_proof(id, &reason, core, now)
            }
        }
    }

    fn reorganize(
        &mut self,
        fork: u64,
        proof: Proof,
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

    /// Takes requests back whose answer was pushed.
    pub(super) fn pushed(&mut self, applied: &Applied) {
        if let Some(requests) = applied
            .block
            .and_then(|(index, _)| self.blocks_in_flight.remove(&index))
        {
            self.cancel(requests);
        }
        if applied.upgraded_from.is_some() {
            let requests = std::mem::take(&mut self.tree_in_flight);
            self.cancel(requests);
        }
    }

    pub(super) fn applied(
        &mut self,
        id: PeerId,
        applied: Applied,
        before: (u64, bool),
        core: &mut impl Replica,
    ) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.timeouts = 0;
            peer.debt = peer.debt.saturating_sub(1);
        }
        if let Some((index, bytes)) = applied.block {
            self.urgent.remove(&index);
            self.urgent_open.remove(&index);
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
        self.urgent_open.retain(|block| !core.has(*block));
        self.again.retain(|block| !core.has(*block));
        for peer in self.peers.values_mut() {
            peer.rescan_from(0);
        }
    }
}

/// Whether a proof is what a request for a block gets, unless more was asked for with it.
fn is_block_alone(proof: &Proof, index: u64) -> bool {
    proof.block.as_ref().is_some_and(|block| block.index == index)
        && proof.upgrade.is_none()
        && proof.manifest.is_none()
        && proof.hash.is_none()
        && proof.seek.is_none()
}
