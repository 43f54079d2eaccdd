//! Replication of one core with many peers, without IO: messages and time in, messages, timers and events out.
//!
//! A [`Replicator`] is told of each peer whose channel opened and whose capability was checked, fed with that peer's
//! messages, and asked for what to send. It decides what to ask of whom (`ask`, `choose`) and how much of it at once
//! (`window`), takes the answers (`download`) and answers what peers ask (`upload`); what a peer has is kept in `have`. The
//! core itself sits behind [`Replica`], which verifies everything before it stores it.
//!
//! Invariants: memory is bounded whatever a peer says: claims are intervals or windows that were asked for, queues have
//! limits, and nothing is sized by a claimed length. A peer that proves something false is never asked again. Blocks are
//! announced to others only after [`Replicator::committed`] said that they are durable.
//!
//! What it does not do: open channels, frame messages, sync to disk, or decide which blocks are wanted.
//!
//! Source: npm hypercore 11.37 `lib/replicator.js`, `lib/wants.js`.

mod ask;
mod choose;
mod conflict;
mod core_replica;
mod download;
mod extension;
mod have;
mod peer;
mod push;
mod replica;
mod upload;
mod uploads;
mod window;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ops::Range;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::core::Conflict;
use crate::messages::{self, Message};

pub use core_replica::CoreReplica;
pub use extension::MAX_EXTENSION_BYTES;
pub use have::BlockSet;
pub use replica::{Applied, ApplyError, ProveError, Reorganized, Replica};
pub use window::{FIRST_IN_FLIGHT, MAX_IN_FLIGHT, MAX_WINDOW_BYTES, MIN_IN_FLIGHT, MIN_WINDOW_BYTES};

use ask::{InFlight, Reorganization};
use peer::{Peer, Proven};
use push::Taking;

/// One connection's channel of this core; the driver chooses the numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(pub u64);

/// Requests of one peer that wait for an answer here: JS never has more than 512 in flight, we [`MAX_IN_FLIGHT`].
pub const MAX_QUEUED_REQUESTS: usize = 2048;
/// Requests that can't be proven before the peer is given up (JS: 64).
pub const MAX_INVALID_REQUESTS: u32 = 64;
/// Refusals before nothing more is asked of a peer until it announces something new (JS: 32).
pub const MAX_REFUSALS: u32 = 32;
/// Blocks at the end of a core that are announced to everyone as they arrive (JS `LAST_BLOCKS`).
pub const ANNOUNCED_TAIL: u64 = 256;
/// Longest a peer may leave requests unanswered, from the last answer it gave, before others are asked: well above the
/// round trip of a satellite.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
/// Timeouts in a row before nothing more is asked of a peer.
pub const MAX_TIMEOUTS: u32 = 3;

/// False proofs after which a peer is given up, also if it proves after each that its tree is ours (a damaged disk may do that).
pub const MAX_BAD_PROOFS: u32 = 3;
/// Peers that one block is asked of at a time (JS: 3).
pub const MAX_ASKED: usize = 3;
/// Shortest time after which an idle peer is asked for what another was asked for already: well above the time that a busy
/// process takes to answer.
pub const HOT_SWAP_AFTER: Duration = Duration::from_millis(250);

/// How long a peer that refused a seek is not asked for one again.
pub const SEEK_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Why a peer's channel must be closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerFault {
    /// It proved something that isn't so.
    #[error("the peer sent a proof that doesn't verify: {0}")]
    BadProof(String),
    /// It asks for impossible things, or for too many at once.
    #[error("the peer's requests are invalid or too many")]
    BadRequests,
    /// The message is for a peer that isn't there (any more).
    #[error("no such peer")]
    Unknown,
    /// Our own storage failed; the peer is not to blame.
    #[error("failed to use the core's storage: {0}")]
    Storage(String),
}

/// Something that happened, for whoever waits for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A block was verified and stored (not yet synced).
    BlockStored {
        /// Which.
        index: u64,
        /// Its bytes.
        bytes: u64,
        /// Who sent it.
        from: PeerId,
    },
    /// The tree grew.
    Upgraded {
        /// Blocks before.
        from: u64,
        /// Blocks now.
        length: u64,
    },
    /// The core was rewritten from a block on; what came after is gone.
    Reorganized {
        /// First block that changed.
        from: u64,
        /// Blocks now.
        length: u64,
        /// Fork now.
        fork: u64,
    },
    /// Two signed trees of one fork and length exist. The core is frozen: nothing more is asked or answered. What the
    /// replicator still has to say, our side of the evidence, is to be said before the channels are closed.
    Conflict(Box<Conflict>),
    /// A message of an extension that was registered.
    Extension {
        /// Who sent it.
        from: PeerId,
        /// The extension's name.
        name: String,
        /// The message.
        payload: Bytes,
    },
    /// A block was sent.
    BlockSent {
        /// Which.
        index: u64,
        /// Its bytes.
        bytes: u64,
        /// To whom.
        to: PeerId,
    },
}

/// The replication state of one core. See the module.
#[derive(Debug)]
pub struct Replicator {
    /// In boxes: a node of this map has room for eleven of them, and most cores have one peer or none.
    peers: BTreeMap<PeerId, Box<Peer>>,
    downloading: bool,
    next_request: u64,
    /// By number, so oldest first.
    in_flight: BTreeMap<u64, InFlight>,
    /// Blocks being asked for, with the requests, at most [`MAX_ASKED`].
    blocks_in_flight: HashMap<u64, Vec<u64>>,
    /// Requests about the tree, at most [`MAX_ASKED`].
    tree_in_flight: Vec<u64>,
    /// Blocks that somebody waits for, and those of them that are not asked for now.
    urgent: BTreeSet<u64>,
    urgent_open: BTreeSet<u64>,
    /// Blocks that are wanted without hurry.
    wanted: BlockSet,
    /// Wanted blocks whose request failed: looked at before every peer's own scan.
    again: BTreeSet<u64>,
    /// Byte positions that somebody waits for, with the padding per block, and the request that asks.
    seeks: BTreeMap<(u64, u64), Option<u64>>,
    reorganization: Option<Reorganization>,
    /// Blocks that were stored and are not durable yet, so not announced.
    uncommitted: BlockSet,
    /// Whether a conflict was proven.
    frozen: bool,
    /// When requests were last looked at for being late.
    looked: Option<Instant>,
    taking: Taking,
    /// Names of extensions whose messages are given out.
    extensions: BTreeSet<String>,
    /// Blocks of a commit that began and has not ended.
    committing: BlockSet,
    outputs: VecDeque<(PeerId, Message)>,
    events: VecDeque<Event>,
}

impl Default for Replicator {
    fn default() -> Self {
        Self::new()
    }
}

impl Replicator {
    /// A core without peers. It says that it downloads until [`Replicator::set_downloading`] says otherwise.
    pub fn new() -> Self {
        Self {
            peers: BTreeMap::new(),
            downloading: true,
            next_request: 1,
            in_flight: BTreeMap::new(),
            blocks_in_flight: HashMap::new(),
            tree_in_flight: Vec::new(),
            urgent: BTreeSet::new(),
            urgent_open: BTreeSet::new(),
            wanted: BlockSet::default(),
            again: BTreeSet::new(),
            seeks: BTreeMap::new(),
            reorganization: None,
            uncommitted: BlockSet::default(),
            frozen: false,
            looked: None,
            taking: Taking::default(),
            extensions: BTreeSet::new(),
            committing: BlockSet::default(),
            outputs: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// A peer's channel opened and its capability was right. Says hello and begins to ask.
    pub fn add_peer(&mut self, id: PeerId, core: &mut impl Replica, now: Instant) {
        if self.frozen {
            return;
        }
        self.peers.insert(id, Box::new(Peer::new()));
        self.send_sync(id, core);
        let contiguous = core.contiguous_length();
        if contiguous > 0 {
            self.send(
                id,
                Message::Range(messages::Range {
                    drop: false,
                    start: 0,
                    length: contiguous,
                }),
            );
        }
        self.schedule(core, now);
    }

    /// A peer is gone; what was asked of it is asked of others.
    pub fn remove_peer(&mut self, id: PeerId, core: &mut impl Replica, now: Instant) {
        if self.peers.remove(&id).is_none() {
            return;
        }
        let requests: Vec<u64> = self
            .in_flight
            .iter()
            .filter(|(_, asked)| asked.peer == id)
            .map(|(request, _)| *request)
            .collect();
        for request in requests {
            self.give_up(request);
        }
        for peer in self.peers.values_mut() {
            // What only two had, only one has now.
            peer.scanned_alone = 0;
        }
        if self
            .peers
            .values()
            .all(|peer| Some(peer.remote.fork) != self.reorganization.as_ref().map(|r| r.fork))
        {
            self.reorganization = None;
        }
        self.outputs.retain(|(to, _)| *to != id);
        self.schedule(core, now);
        self.give_room_back();
    }

    /// When nothing is asked for: what grew meanwhile and is empty would stay as it is, in each of thousands of cores that are open for
    /// when somebody comes. Not to be called for every message.
    pub fn give_room_back(&mut self) {
        if !self.in_flight.is_empty() {
            return;
        }
        // Maps keep room for eleven entries when the last one goes.
        self.in_flight = BTreeMap::new();
        if self.peers.is_empty() {
            self.peers = BTreeMap::new();
        }
        for set in [&mut self.urgent, &mut self.urgent_open, &mut self.again] {
            if set.is_empty() {
                *set = BTreeSet::new();
            }
        }
        for set in [&mut self.wanted, &mut self.uncommitted, &mut self.committing] {
            if set.is_empty() {
                *set = BlockSet::default();
            }
        }
        self.blocks_in_flight.shrink_to_fit();
        self.tree_in_flight.shrink_to_fit();
        self.outputs.shrink_to_fit();
        self.events.shrink_to_fit();
    }

    /// Peers whose channel is open.
    pub fn peers(&self) -> impl ExactSizeIterator<Item = PeerId> + '_ {
        self.peers.keys().copied()
    }

    /// The longest core that any peer claims, proven or not (`u64::MAX` for a higher fork); none before a peer said anything.
    pub fn claimed_length(&self, core: &impl Replica) -> Option<u64> {
        let said = self.peers.values().filter(|peer| peer.synced);
        said.map(|peer| match peer.remote.fork.cmp(&core.fork()) {
            std::cmp::Ordering::Less => 0,
            std::cmp::Ordering::Equal => peer.remote.length,
            // Whatever its length, we are behind it.
            std::cmp::Ordering::Greater => u64::MAX,
        })
        .max()
    }

    /// Requests that a peer may have in flight now, by its round trip and the rate at which it answers.
    pub fn in_flight_limit(&self, id: PeerId) -> Option<usize> {
        self.peers.get(&id).map(|peer| peer.window.limit())
    }

    /// Most requests that a peer may ever have in flight, at most [`MAX_IN_FLIGHT`].
    pub fn set_in_flight_limit(&mut self, id: PeerId, limit: usize) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.window.set_cap(limit.max(1));
        }
    }

    /// Whether a conflict was proven, so that the core is not replicated any more.
    pub fn is_frozen(&self) -> bool {
        self.frozen
    }

    /// What a peer did, after which it must be removed and its channel closed.
    pub fn fault(&self, id: PeerId) -> Option<PeerFault> {
        self.peers.get(&id).and_then(|peer| peer.fault.clone())
    }

    /// Whether this side wants data at all; tells every peer.
    pub fn set_downloading(&mut self, downloading: bool, core: &mut impl Replica) {
        if std::mem::replace(&mut self.downloading, downloading) != downloading {
            self.broadcast_sync(core);
        }
    }

    /// Somebody waits for a block. It is asked for before all others, once it is below the core's length.
    pub fn want_block(&mut self, index: u64, core: &mut impl Replica, now: Instant) {
        if !core.has(index) {
            self.urgent.insert(index);
            if !self.blocks_in_flight.contains_key(&index) {
                self.urgent_open.insert(index);
            }
            self.schedule(core, now);
        }
    }

    /// Nobody waits for a block any more.
    pub fn cancel_block(&mut self, index: u64) {
        self.urgent.remove(&index);
        self.urgent_open.remove(&index);
    }

    /// Somebody waits to know which block holds a byte position, counted without `padding` bytes per block.
    pub fn want_seek(&mut self, bytes: u64, padding: u64, core: &mut impl Replica, now: Instant) {
        self.seeks.entry((bytes, padding)).or_insert(None);
        self.schedule(core, now);
    }

    /// Nobody waits for a byte position any more.
    pub fn cancel_seek(&mut self, bytes: u64, padding: u64) {
        self.seeks.remove(&(bytes, padding));
    }

    /// Everything stored so far is durable: tells peers about it.
    pub fn committed(&mut self, core: &impl Replica) {
        self.begin_commit();
        self.end_commit(core);
    }

    /// What was stored so far is about to be made durable; more may be stored before [`Replicator::end_commit`].
    pub fn begin_commit(&mut self) {
        for blocks in self.uncommitted.take() {
            self.committing.insert(blocks);
        }
    }

    /// What was stored before [`Replicator::begin_commit`] is durable: tells peers about it.
    pub fn end_commit(&mut self, core: &impl Replica) {
        for blocks in self.committing.take() {
            for id in self.peers.keys().copied().collect::<Vec<_>>() {
                self.announce_to(id, &blocks, core);
            }
        }
    }

    /// Whether something was stored that [`Replicator::committed`] has not been told about.
    pub fn has_uncommitted(&self) -> bool {
        !self.uncommitted.is_empty()
    }

    /// Wants the blocks of a range, those beyond the core's length as soon as they exist. `u64::MAX` as end means for ever.
    pub fn want_range(&mut self, range: Range<u64>, core: &mut impl Replica, now: Instant) {
        self.wanted.insert(range.clone());
        for peer in self.peers.values_mut() {
            peer.rescan_from(range.start);
        }
        self.schedule(core, now);
    }

    /// Wants nothing but what somebody waits for.
    pub fn clear_wanted(&mut self) {
        self.wanted = BlockSet::default();
        self.again.clear();
    }

    /// Blocks were forgotten here: tells every peer, whatever it knew.
    pub fn dropped(&mut self, blocks: &Range<u64>) {
        if blocks.is_empty() {
            return;
        }
        for id in self.peers.keys().copied().collect::<Vec<_>>() {
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.told_contiguous = 0;
            }
            let (start, length) = (blocks.start, blocks.end.saturating_sub(blocks.start));
            self.send(
                id,
                Message::Range(messages::Range {
                    drop: true,
                    start,
                    length,
                }),
            );
        }
    }

    /// The core changed by other means than a peer's message (append, import), durably: tells peers and asks on.
    pub fn local_change(&mut self, changed: Range<u64>, core: &mut impl Replica, now: Instant) {
        for id in self.peers.keys().copied().collect::<Vec<_>>() {
            if !changed.is_empty() {
                self.announce_to(id, &changed, core);
            }
        }
        self.broadcast_sync(core);
        self.settle_blocks(core);
        self.schedule(core, now);
    }

    /// Handles a message. After an error the peer must be removed and its channel closed, unless the error is
    /// [`PeerFault::Storage`].
    pub fn on_message(
        &mut self,
        id: PeerId,
        message: Message,
        core: &mut impl Replica,
        now: Instant,
    ) -> Result<(), PeerFault> {
        self.on_messages(id, [message], core, now)
    }

    /// Handles messages of one peer in their order, blocks that follow each other together; new requests are made once, at the
    /// end. Stops at the first error, which means what it means in [`Replicator::on_message`].
    pub fn on_messages(
        &mut self,
        id: PeerId,
        messages: impl IntoIterator<Item = Message>,
        core: &mut impl Replica,
        now: Instant,
    ) -> Result<(), PeerFault> {
        if !self.peers.contains_key(&id) {
            return Err(PeerFault::Unknown);
        }
        if self.frozen {
            return Ok(());
        }
        let (mut data, mut asks) = (Vec::new(), false);
        for message in messages {
            if let Message::Data(answer) = message {
                data.push(answer);
                continue;
            }
            if !data.is_empty() {
                self.on_data(id, std::mem::take(&mut data), core, now)?;
                asks = true;
            }
            asks |= self.on_other(id, message, core, now)?;
        }
        if !data.is_empty() {
            self.on_data(id, data, core, now)?;
            asks = true;
        }
        if asks {
            self.schedule(core, now);
        }
        Ok(())
    }

    /// Handles a message that is no Data. Returns whether there may be more to ask for.
    fn on_other(
        &mut self,
        id: PeerId,
        message: Message,
        core: &mut impl Replica,
        now: Instant,
    ) -> Result<bool, PeerFault> {
        let peer = self.peers.get_mut(&id).ok_or(PeerFault::Unknown)?;
        match message {
            Message::Sync(sync) => self.on_sync(id, &sync, core),
            Message::Request(request) => {
                peer.uploads.push(request)?;
                return Ok(false);
            }
            Message::Cancel(cancel) => {
                peer.uploads.remove(cancel.request);
                peer.delayed.retain(|(_, request)| *request != cancel.request);
                return Ok(false);
            }
            Message::NoData(no_data) => {
                peer.answered = Some(now);
                self.on_no_data(id, &no_data, now)?;
            }
            Message::Want(want) => {
                self.on_want(id, &want, core)?;
                return Ok(false);
            }
            Message::Unwant(unwant) => {
                peer.wants.remove(unwant.start, unwant.length);
                return Ok(false);
            }
            Message::Bitfield(bitfield) => peer.on_bitfield(&bitfield),
            Message::Range(range) => {
                peer.on_range(&range);
                if !range.drop && peer.proven.is_some() {
                    self.send_sync(id, core);
                }
            }
            Message::Extension(message) => {
                self.on_extension(id, message);
                return Ok(false);
            }
            Message::Data(_) => {}
        }
        Ok(true)
    }

    /// When [`Replicator::on_timeout`] has something to do: an answer is late, or a peer may be asked for what is asked of another.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let late = self.in_flight.values().map(|asked| self.due(asked)).min();
        let doubted = self.peers.values().filter(|peer| peer.fault.is_none());
        let doubted = doubted.filter_map(|peer| peer.doubted);
        let doubted = doubted.map(|since| since + REQUEST_TIMEOUT).min();
        let oldest = self.in_flight.values().next().filter(|_| self.peers.len() > 1);
        // What no other peer could be asked for is looked at again later, not at once.
        let swap = oldest
            .map(|asked| self.looked.map_or(asked.sent, |looked| looked.max(asked.sent)) + HOT_SWAP_AFTER);
        [late, doubted, swap].into_iter().flatten().min()
    }

    fn due(&self, asked: &InFlight) -> Instant {
        let answered = self.peers.get(&asked.peer).and_then(|peer| peer.answered);
        answered.map_or(asked.sent, |answered| answered.max(asked.sent)) + REQUEST_TIMEOUT
    }

    /// Takes back requests that were not answered in time, and asks others. Peers that could have used the time to defend
    /// themselves, and did not, have a [`fault`](Self::fault) afterwards.
    pub fn on_timeout(&mut self, core: &mut impl Replica, now: Instant) {
        self.looked = Some(now);
        let late = self.in_flight.iter().filter(|(_, asked)| self.due(asked) <= now);
        let late: Vec<(u64, PeerId)> = late.map(|(request, asked)| (*request, asked.peer)).collect();
        let silent: BTreeSet<PeerId> = late.iter().map(|(_, id)| *id).collect();
        for (request, id) in late {
            self.give_up(request);
            self.send(id, Message::Cancel(messages::Cancel { request }));
        }
        for id in silent {
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.timeouts += 1;
                peer.debt = peer.debt.saturating_add(1);
            }
        }
        for peer in self.peers.values_mut() {
            if peer.doubted.is_some_and(|since| since + REQUEST_TIMEOUT <= now) {
                peer.fault = Some(PeerFault::BadProof("it doesn't prove its tree either".to_owned()));
            }
        }
        self.schedule(core, now);
    }

    /// Tells peers again which length we know that they have, after an upgrade was proven to them: JavaScript asks for nothing more
    /// until it is told its own length, and may fail to say it when the proof overtakes the Syncs of several appends. Nor does it
    /// say so when it dropped the proof, so both lengths are told in turns, ever more rarely, until it says one.
    pub fn remind(&mut self, core: &mut impl Replica, now: Instant) {
        let forgotten = self.peers.iter_mut().filter_map(|(id, peer)| {
            let proven = peer.proven.as_mut()?;
            proven.remind(now).then_some(*id)
        });
        for id in forgotten.collect::<Vec<_>>() {
            self.send_sync(id, core);
        }
    }

    /// The next message to send, other than the uploads of [`Replicator::next_upload`].
    pub fn poll_output(&mut self) -> Option<(PeerId, Message)> {
        self.outputs.pop_front()
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn send(&mut self, to: PeerId, message: Message) {
        self.outputs.push_back((to, message));
    }

    fn broadcast_sync(&mut self, core: &mut impl Replica) {
        for proven in self.peers.values_mut().filter_map(|peer| peer.proven.as_mut()) {
            proven.restart();
        }
        for id in self.peers.keys().copied().collect::<Vec<_>>() {
            self.send_sync(id, core);
        }
    }

    fn send_sync(&mut self, id: PeerId, core: &mut impl Replica) {
        let Some(peer) = self.peers.get(&id) else { return };
        let (fork, length) = (core.fork(), core.length());
        let remote_length = if peer.remote.fork == fork {
            peer.proven.map_or(peer.remote.length, |proven| proven.length())
        } else {
            0
        };
        let can_upgrade = length > remote_length && core.can_prove_from(remote_length);
        let sync = messages::Sync {
            fork,
            length,
            remote_length,
            can_upgrade,
            uploading: true,
            downloading: self.downloading,
            has_manifest: core.has_manifest(),
            allow_push: self.taking.pushes && self.downloading,
        };
        self.send(id, Message::Sync(sync));
    }

    fn on_sync(&mut self, id: PeerId, sync: &messages::Sync, core: &mut impl Replica) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let first_or_new = peer.remote.length != sync.length || peer.remote.fork != sync.fork || !peer.synced;
        // What it was sent while it took nothing is lost to it; of another tree it says itself what it has.
        let takes_again = sync.allow_push && !peer.remote.allow_push;
        if takes_again || sync.fork != peer.remote.fork || sync.length < peer.remote.length {
            peer.pushed_length = 0;
        }
        peer.remote = *sync;
        peer.synced = true;
        // What it said before a proof reached it is no answer to the proof.
        let is_older = |proven: &Proven| sync.fork == core.fork() && sync.length <= proven.from;
        peer.proven = peer.proven.filter(is_older);
        if first_or_new {
            peer.rescan_from(0);
        }
        // A reader upgrades only when the last Sync it got showed its own length back.
        if first_or_new && sync.fork == core.fork() && core.length() > sync.length {
            self.send_sync(id, core);
        }
    }
}

#[cfg(test)]
mod tests;
