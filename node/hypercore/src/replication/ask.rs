//! Asking peers: the requests, and the order in which they are made.

use std::ops::Range;
use std::time::{Duration, Instant};

use super::peer::Peer;
use super::window::Mark;
use super::{HOT_SWAP_AFTER, MAX_ASKED, PeerId, Replica, Replicator};
use crate::messages::{self, Message, Request, RequestBlock, RequestHash, RequestSeek, RequestUpgrade};

/// Requests to one peer before the next peer's turn: what several have is asked of all of them.
const ASKED_PER_TURN: usize = 16;

/// A request that was not answered yet.
#[derive(Debug)]
pub(super) struct InFlight {
    pub peer: PeerId,
    pub sent: Instant,
    pub asked: Asked,
    pub fork: u64,
    /// Whether the manifest was asked for too.
    pub manifest: bool,
    pub mark: Mark,
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
        if !self.downloading || self.frozen {
            return;
        }
        let mut open: Vec<PeerId> = self.peers.keys().copied().collect();
        open.sort_by_key(|id| self.peers.get(id).map_or(0, |peer| peer.debt));
        while !open.is_empty() {
            open.retain(|id| self.ask_some(*id, core, now));
        }
    }

    /// Makes some requests to a peer. Returns whether there may be more to ask of it.
    fn ask_some(&mut self, id: PeerId, core: &mut impl Replica, now: Instant) -> bool {
        for _ in 0..ASKED_PER_TURN {
            let Some(peer) = self.peers.get(&id).filter(|peer| peer.is_useful()) else {
                return false;
            };
            let asked = if self.taking.only_pushes {
                peer.may_ask_urgent() && self.ask_urgent(id, core, now)
            } else if peer.may_ask() {
                self.ask_tree(id, core, now)
                    || self.ask_seek(id, core, now)
                    || self.ask_block(id, core, now)
                    || self.swap_block(id, core, now)
            } else {
                peer.may_ask_urgent() && self.ask_urgent(id, core, now)
            };
            if !asked {
                return false;
            }
        }
        true
    }

    /// How long others are given before an idle peer is asked for the same.
    pub(super) fn swap_after(&self, id: PeerId) -> Duration {
        let round_trip = self.peers.get(&id).and_then(|peer| peer.window.round_trip());
        round_trip.map_or(HOT_SWAP_AFTER, |round_trip| HOT_SWAP_AFTER.max(2 * round_trip))
    }

    /// Whether a peer may be asked about the tree: nobody is, or those who are take long.
    fn may_ask_tree(&self, id: PeerId, now: Instant) -> bool {
        let after = self.swap_after(id);
        let asked = self
            .tree_in_flight
            .iter()
            .filter_map(|request| self.in_flight.get(request));
        self.tree_in_flight.len() < MAX_ASKED
            && asked
                .into_iter()
                .all(|asked| asked.peer != id && asked.sent + after <= now)
    }

    /// Asks for a higher fork, a longer tree, or the manifest. Returns whether it asked.
    fn ask_tree(&mut self, id: PeerId, core: &mut impl Replica, now: Instant) -> bool {
        let Some(peer) = self.peers.get(&id) else {
            return false;
        };
        let remote = &peer.remote;
        if !self.may_ask_tree(id, now) {
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
        let early = |peer: &Peer| peer.seek_after.is_some_and(|after| now < after);
        if self.seeks.is_empty() || self.peers.get(&id).is_none_or(|peer| early(peer)) {
            return false;
        }
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
    pub(super) fn provable_length(&self, id: PeerId, core: &impl Replica) -> Option<u64> {
        let remote = &self.peers.get(&id)?.remote;
        if remote.fork != core.fork() {
            None
        } else if remote.length >= core.length() {
            Some(core.length())
        } else {
            core.can_prove_from(remote.length).then_some(remote.length)
        }
    }

    pub(super) fn ask_for_block(
        &mut self,
        id: PeerId,
        (index, priority): (u64, u64),
        core: &impl Replica,
        now: Instant,
    ) -> bool {
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
        self.urgent_open.remove(&index);
        self.ask(id, request, Asked::Block(index), now)
    }

    /// Asks a peer what it has around a block, once.
    pub(super) fn ask_about(&mut self, id: PeerId, block: u64) {
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
        let mark = peer.window.mark(now, peer.in_flight);
        peer.in_flight += 1;
        match asked {
            Asked::Block(index) => self.blocks_in_flight.entry(index).or_default().push(request.id),
            Asked::Seek(bytes, padding) => drop(self.seeks.insert((bytes, padding), Some(request.id))),
            _ => self.tree_in_flight.push(request.id),
        }
        self.in_flight.insert(
            request.id,
            InFlight {
                peer: id,
                sent: now,
                asked,
                fork: request.fork,
                manifest: request.manifest,
                mark,
            },
        );
        self.send(id, Message::Request(request));
        true
    }

    /// Forgets a request that was answered or is not waited for any more.
    pub(super) fn settle(&mut self, request: u64) -> Option<InFlight> {
        let in_flight = self.in_flight.remove(&request)?;
        if let Some(peer) = self.peers.get_mut(&in_flight.peer) {
            peer.in_flight = peer.in_flight.saturating_sub(1);
        }
        match in_flight.asked {
            Asked::Block(index) => {
                if let Some(requests) = self.blocks_in_flight.get_mut(&index) {
                    requests.retain(|other| *other != request);
                    if requests.is_empty() {
                        self.blocks_in_flight.remove(&index);
                    }
                }
            }
            Asked::Seek(bytes, padding) => {
                if let Some(seek) = self.seeks.get_mut(&(bytes, padding)) {
                    *seek = None;
                }
            }
            _ => self.tree_in_flight.retain(|other| *other != request),
        }
        Some(in_flight)
    }

    /// A block that was asked for did not come: it goes to the front of what is asked next, unless another peer was asked too.
    pub(super) fn put_back(&mut self, asked: Asked) {
        let Asked::Block(index) = asked else { return };
        if self.blocks_in_flight.contains_key(&index) {
            return;
        }
        if self.urgent.contains(&index) {
            self.urgent_open.insert(index);
        } else if self.wanted.contains(index) {
            self.again.insert(index);
        }
    }

    /// Forgets a request without an answer.
    pub(super) fn give_up(&mut self, request: u64) -> Option<InFlight> {
        let in_flight = self.settle(request)?;
        self.put_back(in_flight.asked);
        Some(in_flight)
    }

    /// Takes requests back whose answer came from elsewhere.
    pub(super) fn cancel(&mut self, requests: Vec<u64>) {
        for request in requests {
            if let Some(in_flight) = self.settle(request) {
                self.send(in_flight.peer, Message::Cancel(messages::Cancel { request }));
            }
        }
    }
}
