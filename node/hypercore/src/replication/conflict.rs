//! Two signed trees of one fork: how it is found out, and what then becomes of the core.
//!
//! A proof that doesn't verify may come from a liar, from a damaged disk, or from a peer whose copy the writer has signed
//! differently. So a peer that sent one is asked to prove its tree from nothing, and nothing else until it did. If what it proves
//! is signed and is not ours, the writer has forked without saying so: the core is frozen, for good, and our proof goes to all
//! peers, who so find out too. A peer that cannot prove its tree is given up, and so is one whose proofs are false again and again.
//!
//! Source: npm hypercore 11.37 `lib/replicator.js` (`_checkIfConflict`, `_onconflict`), `lib/core.js` (`checkConflict`). JS leaves a
//! liar connected and asks nothing of it; here it loses the channel.

use std::time::Instant;

use super::{ApplyError, Event, MAX_BAD_PROOFS, PeerFault, PeerId, Replica, Replicator};
use crate::core::Conflict;
use crate::messages::{self, Data, Message, Request, RequestUpgrade};

/// Unasked proofs of one peer that are looked at: each may cost the check of a signature.
const MAX_UNASKED_PROOFS: u32 = 16;
/// Request number of conflict proofs and of what is pushed.
pub(super) const UNASKED: u64 = 0;

impl Replicator {
    /// A peer's proof is false: asks for its tree.
    pub(super) fn on_false_proof(
        &mut self,
        id: PeerId,
        reason: &str,
        core: &mut impl Replica,
        now: Instant,
    ) -> Result<(), PeerFault> {
        let Some(peer) = self.peers.get_mut(&id) else {
            return Ok(());
        };
        if peer.doubted.is_some() {
            // What it sent along with the first false proof.
            return Ok(());
        }
        peer.bad_proofs += 1;
        let (fork, length) = (peer.remote.fork, peer.remote.length.min(core.length()));
        if peer.bad_proofs >= MAX_BAD_PROOFS || length == 0 || fork != core.fork() {
            return self.refuse(id, reason);
        }
        peer.doubted = Some(now);
        let asked: Vec<u64> = self
            .in_flight
            .iter()
            .filter(|(_, asked)| asked.peer == id)
            .map(|(request, _)| *request)
            .collect();
        for request in asked {
            self.give_up(request);
            self.send(id, Message::Cancel(messages::Cancel { request }));
        }
        let upgrade = Some(RequestUpgrade { start: 0, length });
        self.send(
            id,
            Message::Request(Request {
                id: UNASKED,
                fork,
                upgrade,
                ..Request::default()
            }),
        );
        Ok(())
    }

    /// Data that answers nothing: the proof of a tree, or a block that is pushed.
    pub(super) fn on_unasked(
        &mut self,
        id: PeerId,
        data: Data,
        core: &mut impl Replica,
        now: Instant,
    ) -> Result<(), PeerFault> {
        let Some(peer) = self.peers.get_mut(&id) else {
            return Ok(());
        };
        let proof = data.proof;
        if proof.upgrade.as_ref().is_some_and(|upgrade| upgrade.start == 0) {
            let doubted = peer.doubted.is_some();
            peer.unasked_proofs += 1;
            if !doubted && !self.taking.pushes && peer.unasked_proofs > MAX_UNASKED_PROOFS {
                return Ok(());
            }
            match core.conflict(&proof) {
                Ok(Some(conflict)) => {
                    self.freeze(conflict, core);
                    return Ok(());
                }
                Ok(None) => {
                    if let Some(peer) = self.peers.get_mut(&id) {
                        peer.doubted = None;
                    }
                }
                Err(ApplyError::Storage(error)) => return Err(PeerFault::Storage(error)),
                Err(error) if doubted => return self.refuse(id, &error.to_string()),
                Err(_) => {}
            }
        }
        if !self.taking.pushes || !self.downloading || proof.fork != core.fork() {
            return Ok(());
        }
        let before = (core.length(), core.has_manifest());
        match core.apply(proof) {
            Ok(applied) => {
                self.pushed(&applied);
                self.applied(id, applied, before, core);
                Ok(())
            }
            Err(ApplyError::Storage(error)) => Err(PeerFault::Storage(error)),
            // What is pushed and what was asked for overtake each other.
            Err(ApplyError::Stale) => Ok(()),
            Err(ApplyError::Invalid(reason)) => self.on_false_proof(id, &reason, core, now),
        }
    }

    /// Nothing is asked, told or answered any more, except to every peer our side of the evidence.
    fn freeze(&mut self, conflict: Conflict, core: &mut impl Replica) {
        self.frozen = true;
        self.outputs.clear();
        let peers: Vec<(PeerId, u64)> = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.remote.fork == core.fork())
            .map(|(id, peer)| (*id, peer.remote.length.min(core.length())))
            .collect();
        for (id, length) in peers.into_iter().filter(|(_, length)| *length > 0) {
            let upgrade = Some(RequestUpgrade { start: 0, length });
            let request = Request {
                fork: core.fork(),
                upgrade,
                ..Request::default()
            };
            if let Ok(proof) = core.prove(&request) {
                let request = UNASKED;
                self.send(id, Message::Data(Data { request, proof }));
            }
        }
        self.events.push_back(Event::Conflict(Box::new(conflict)));
    }

    /// Nothing is ever asked of this peer again, and its channel is to be closed.
    pub(super) fn refuse(&mut self, id: PeerId, reason: &str) -> Result<(), PeerFault> {
        let fault = PeerFault::BadProof(reason.to_owned());
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.fault = Some(fault.clone());
        }
        Err(fault)
    }
}
