//! Answering peers: what they are told about our blocks, and the proofs they ask for.

use std::ops::Range;
use std::time::{Duration, Instant};

use super::conflict::UNASKED;
use super::have::WINDOW;
use super::peer::{Peer, Proven};
use super::{
    ANNOUNCED_TAIL, Event, MAX_INVALID_REQUESTS, PeerFault, PeerId, ProveError, Replica, Replicator,
};
use crate::messages::{self, Message, Request};
use crate::proof::Proof;

/// NoData reason: not stored here, or another fork.
const NOT_AVAILABLE: u64 = 1;
/// NoData reason: no proof of that shape exists.
const INVALID_REQUEST: u64 = 2;

impl Replicator {
    /// Whether a peer waits for answers, or is to be pushed something.
    pub fn has_uploads(&self, id: PeerId, now: Instant) -> bool {
        let waits = |peer: &Peer| {
            let refused = peer.delayed.front().is_some_and(|(due, _)| *due <= now);
            refused || !peer.uploads.is_empty() || !peer.pushes.is_empty()
        };
        !self.frozen && self.peers.get(&id).is_some_and(|peer| waits(peer))
    }

    /// The answer to the next request of a peer. The driver asks when the peer's connection has room: that is what
    /// bounds the memory of uploads.
    pub fn next_upload(
        &mut self,
        id: PeerId,
        core: &mut impl Replica,
        now: Instant,
    ) -> Result<Option<Message>, PeerFault> {
        let Some(peer) = self.peers.get_mut(&id) else {
            return Err(PeerFault::Unknown);
        };
        if self.frozen {
            return Ok(None);
        }
        if let Some((_, request)) = peer.delayed.pop_front_if(|(due, _)| *due <= now) {
            let reason = INVALID_REQUEST;
            return Ok(Some(Message::NoData(messages::NoData { request, reason })));
        }
        let Some(mut request) = peer.uploads.pop() else {
            return Ok(self.upload_push(id, core));
        };
        peer.follow_pushes(&mut request, core.fork());
        let no_data = |reason| {
            Message::NoData(messages::NoData {
                request: request.id,
                reason,
            })
        };
        if request.fork != core.fork() {
            return Ok(Some(
                manifest_only(&request, core).unwrap_or_else(|| no_data(NOT_AVAILABLE)),
            ));
        }
        match core.prove(&request) {
            Ok(proof) => {
                if let Some(upgrade) = request.upgrade.filter(|_| request.id != UNASKED) {
                    // Whatever was asked for, the proof leads to the whole tree.
                    peer.proven = Some(Proven::new(upgrade.start, core.length()));
                    // It was asked before something was pushed that reaches further: it can't be used by then.
                    if upgrade.start >= peer.pushed_length {
                        peer.pushed_length = core.length();
                    }
                }
                if let Some(block) = &proof.block {
                    let (index, bytes) = (block.index, block.value.len() as u64);
                    self.events.push_back(Event::BlockSent { index, bytes, to: id });
                }
                Ok(Some(Message::Data(messages::Data {
                    request: request.id,
                    proof,
                })))
            }
            Err(ProveError::NotHere) => Ok(Some(
                manifest_only(&request, core).unwrap_or_else(|| no_data(NOT_AVAILABLE)),
            )),
            Err(ProveError::Storage(error)) => Err(PeerFault::Storage(error)),
            Err(ProveError::Invalid(_)) => {
                peer.invalid_requests += 1;
                if peer.invalid_requests >= MAX_INVALID_REQUESTS {
                    return Err(PeerFault::BadRequests);
                }
                let due = now + back_off(peer.invalid_requests);
                peer.delayed.push_back((due, request.id));
                self.next_upload(id, core, now)
            }
        }
    }

    /// The next block that is to be pushed to a peer. One that can't be proven is left out: the peer asks for it when it wants it.
    fn upload_push(&mut self, id: PeerId, core: &mut impl Replica) -> Option<Message> {
        loop {
            let request = self.next_push(id, core)?;
            let Ok(proof) = core.prove(&request) else { continue };
            if proof.upgrade.is_some() {
                self.peers.get_mut(&id)?.pushed_length = core.length();
            }
            if let Some(block) = &proof.block {
                let (index, bytes) = (block.index, block.value.len() as u64);
                self.events.push_back(Event::BlockSent { index, bytes, to: id });
            }
            let request = UNASKED;
            return Some(Message::Data(messages::Data { request, proof }));
        }
    }

    pub(super) fn on_want(
        &mut self,
        id: PeerId,
        want: &messages::Want,
        core: &mut impl Replica,
    ) -> Result<(), PeerFault> {
        let Some(end) = want
            .start
            .checked_add(want.length)
            .filter(|_| want.length <= WINDOW)
        else {
            return Err(PeerFault::BadRequests);
        };
        let Some(peer) = self.peers.get_mut(&id) else {
            return Ok(());
        };
        peer.wants.insert(want.start, want.length);
        let (contiguous, length) = (core.contiguous_length(), core.length());
        if contiguous > 0
            && (contiguous == length || end < contiguous || (want.any && want.start < contiguous))
        {
            self.send(
                id,
                Message::Range(messages::Range {
                    drop: false,
                    start: 0,
                    length: contiguous,
                }),
            );
            return Ok(());
        }
        let end = end.min(length);
        if want.any {
            if let Some(start) = core.first_held(want.start).filter(|block| *block < end) {
                self.send(
                    id,
                    Message::Range(messages::Range {
                        drop: false,
                        start,
                        length: 1,
                    }),
                );
            }
            return Ok(());
        }
        let start = want.start / 32 * 32;
        if start < end {
            // At most WINDOW / 32 + 1 words: the length was checked above.
            let words = core.words(start, (end - start).div_ceil(32) as usize);
            self.send(id, Message::Bitfield(messages::BitfieldMessage { start, words }));
        }
        Ok(())
    }

    /// Tells a peer about blocks that are held now, unless it need not know.
    pub(super) fn announce_to(&mut self, id: PeerId, blocks: &Range<u64>, core: &impl Replica) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let length = core.length();
        let range = if core.contiguous_length() == length {
            if peer.told_contiguous == length {
                return;
            }
            peer.told_contiguous = length;
            0..length
        } else {
            let known = peer.blocks.contains_range(blocks);
            let tail = blocks.start + ANNOUNCED_TAIL >= length;
            if known || !(tail || peer.wants.cover(blocks)) {
                return;
            }
            blocks.clone()
        };
        let length = range.end - range.start;
        self.send(
            id,
            Message::Range(messages::Range {
                drop: false,
                start: range.start,
                length,
            }),
        );
    }
}

/// How long a peer waits to be told that a request makes no sense, as in JS.
fn back_off(times: u32) -> Duration {
    Duration::from_millis(match times {
        0..=1 => 200,
        2..=4 => 500,
        5..=39 => 1000,
        _ => 5000,
    })
}

/// The manifest alone, for a peer that asked for it along with something we don't have.
fn manifest_only(request: &Request, core: &mut impl Replica) -> Option<Message> {
    if !request.manifest || !core.has_manifest() {
        return None;
    }
    let manifest = Request {
        id: request.id,
        fork: core.fork(),
        manifest: true,
        ..Request::default()
    };
    let proof: Proof = core.prove(&manifest).ok()?;
    Some(Message::Data(messages::Data {
        request: request.id,
        proof,
    }))
}
