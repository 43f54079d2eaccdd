//! What one connection knows: its channels and the cores behind them. What cores are told is in `receiving`, what they say and
//! serve in `serving`.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use cumulet_protomux::{ChannelId, Event as MuxEvent, Mux, Request as OpenRequest};
use cumulet_secret_stream::{Event as StreamEvent, SecretStream};
use tokio::sync::Notify;
use tokio::task::{JoinError, JoinSet};

use super::receiving::Batch;
use super::room::Share;
use super::{OUTPUT_LIMIT_BYTES, ReplicateError, Service};
use crate::corestore::cell::{Abandoned, Cell, Shared};
use crate::corestore::outbox::{OUTBOX_BUDGET_BYTES, Outbox};
use crate::corestore::{Corestore, CorestoreError};
use crate::crypto::{Hash, capability};
use crate::messages::{Handshake, PROTOCOL};
use crate::replication::PeerId;
use crate::storage::StorageError;

/// Events after which other tasks have their turn.
const EVENTS_BEFORE_OTHERS: usize = 32;
/// Output that is left to be written as it is: what follows goes to another place. One place for all would be grown, and copied,
/// again and again.
const CHUNK_BYTES: usize = 16 * 1024;
/// About what encryption adds: 20 bytes to each frame, of which few are smaller than this many of them.
const FRAME_OVERHEAD_SHARE: usize = 64;
const FRAME_OVERHEAD_BYTES: usize = 256;
/// Events handled before what they caused is sent.
const EVENTS_PER_TURN: usize = 1024;

/// A channel of a core.
pub(super) struct Channel {
    pub(super) core: Arc<Shared>,
    /// Known since the remote proved that it has the core's key.
    pub(super) peer: Option<PeerId>,
}

pub(super) struct Connection {
    pub(super) stream: SecretStream,
    /// Output of the stream, older than what it still holds, and its bytes.
    encrypted: VecDeque<Bytes>,
    encrypted_bytes: usize,
    pub(super) outbox: Arc<Outbox>,
    pub(super) commits: JoinSet<(Arc<Shared>, Result<(), StorageError>)>,
    pub(super) store: Corestore,
    pub(super) mux: Mux,
    pub(super) channels: HashMap<ChannelId, Channel>,
    pub(super) peers: HashMap<PeerId, ChannelId>,
    /// Peers of this connection that wait for answers, each once.
    pub(super) uploads: VecDeque<PeerId>,
    /// Cores that the remote has misused: not opened again on this connection.
    pub(super) refused: HashSet<Hash>,
    pub(super) dirty: HashMap<Hash, Arc<Shared>>,
    pub(super) commit_at: Option<Instant>,
    /// Whether the handshake is done and the cores have been offered.
    open: bool,
    /// Messages for one core that were received and not handled yet: its lock is taken once for all of them.
    pub(super) batch: Batch,
    /// Whether the last turn stopped before it had handled everything that was received.
    unfinished: bool,
    /// Other protocols on the connection, and what tells that they have something to say.
    service: Option<Box<dyn Service>>,
    pub(super) wake: Arc<Notify>,
    /// Bytes of messages in the batch that is being made, about.
    pub(super) batched: usize,
    pub(super) share: Share,
}

impl Connection {
    pub(super) async fn new(
        store: Corestore,
        stream: SecretStream,
        service: Option<Box<dyn Service>>,
    ) -> Result<Self, CorestoreError> {
        let wake = service.as_ref().map(|service| service.wake()).unwrap_or_default();
        let outbox = Arc::new(Outbox::default());
        for core in store.join(&outbox).await? {
            outbox.attach(core);
        }
        let share = Share::new(store.room());
        Ok(Self {
            stream,
            encrypted: VecDeque::new(),
            encrypted_bytes: 0,
            share,
            batched: 0,
            outbox,
            commits: JoinSet::new(),
            store,
            mux: Mux::new(),
            channels: HashMap::new(),
            peers: HashMap::new(),
            uploads: VecDeque::new(),
            refused: HashSet::new(),
            dirty: HashMap::new(),
            commit_at: None,
            open: false,
            batch: Batch::default(),
            unfinished: false,
            service,
            wake,
        })
    }

    /// Whether more may be read: all that was read has been handled, the peer takes what we say, and there is room for the frame
    /// that is being received.
    pub(super) fn is_listening(&mut self, unwritten: usize, now: Instant) -> bool {
        let is_room = self.share.has_input_room(self.stream.unfinished_frame(), now);
        is_room && !self.unfinished && !self.is_over_budget(unwritten)
    }

    fn is_over_budget(&self, unwritten: usize) -> bool {
        self.outbox.bytes() > OUTBOX_BUDGET_BYTES || self.pending(unwritten) > OUTPUT_LIMIT_BYTES
    }

    pub(super) fn next_commit(&self) -> Option<Instant> {
        self.commit_at
    }

    pub(super) fn pending(&self, unwritten: usize) -> usize {
        unwritten + self.encrypted_bytes + self.stream.pending_output() + self.mux.queued_bytes()
    }

    /// The next bytes to write to the transport; empty if there are none.
    pub(super) fn take_output(&mut self) -> Bytes {
        let Some(chunk) = self.encrypted.pop_front() else {
            return self.stream.take_output();
        };
        self.encrypted_bytes -= chunk.len();
        chunk
    }

    /// Handles what has been received and turns what is to be said into output. `unwritten` bytes of earlier output still wait.
    pub(super) async fn turn(&mut self, unwritten: usize) -> Result<(), ReplicateError> {
        let mut handled = 0;
        self.mux.cork();
        while handled < EVENTS_PER_TURN && !self.is_over_budget(unwritten) && self.next_event().await? {
            handled += 1;
        }
        self.hand_over().await;
        self.unfinished = handled == EVENTS_PER_TURN;
        if self.outbox.overflowed() {
            return Err(ReplicateError::Deaf);
        }
        let mut more = self.unfinished;
        if self.open {
            self.say(unwritten);
            more |= self.upload(unwritten).await;
        }
        self.mux.uncork();
        // A received batch may not be read to its end yet: the mux gathers the answers to it until then.
        self.mux.flush();
        self.encrypt();
        if handled >= EVENTS_BEFORE_OTHERS {
            // A transport that is always ready to be read must not keep other connections from their turns.
            tokio::task::yield_now().await;
        }
        if more {
            self.outbox.nudge();
        }
        Ok(())
    }

    fn encrypt(&mut self) {
        if !self.open || self.mux.queued_bytes() == 0 {
            return;
        }
        if self.stream.pending_output() > CHUNK_BYTES {
            let chunk = self.stream.take_output();
            self.encrypted_bytes += chunk.len();
            self.encrypted.push_back(chunk);
        }
        let queued = self.mux.queued_bytes();
        self.stream
            .reserve_output(queued + queued / FRAME_OVERHEAD_SHARE + FRAME_OVERHEAD_BYTES);
        while self.open
            && let Some(frame) = self.mux.poll_transmit()
        {
            // The mux makes no frame that is too large, and the stream is open.
            let _ = self.stream.send(&frame);
        }
    }

    /// Handles one event of what was received; false if there is none.
    async fn next_event(&mut self) -> Result<bool, ReplicateError> {
        if let Some(event) = self.mux.poll_event()? {
            self.on_mux_event(event).await?;
            return Ok(true);
        }
        if !self.mux.wants_input() {
            return Ok(false);
        }
        self.share.on_handled();
        let Some(event) = self.stream.poll_event()? else {
            return Ok(false);
        };
        match event {
            StreamEvent::Open => self.on_stream_open(),
            StreamEvent::Connected | StreamEvent::KeepAlive => {}
            StreamEvent::Message(frame) => {
                self.share.on_frame();
                self.mux.receive(frame);
            }
        }
        Ok(true)
    }

    async fn on_mux_event(&mut self, event: MuxEvent) -> Result<(), ReplicateError> {
        if !matches!(event, MuxEvent::Message { .. }) {
            self.hand_over().await;
        }
        match event {
            MuxEvent::Requested(request) => self.on_requested(&request).await?,
            MuxEvent::Opened { channel, .. }
            | MuxEvent::Message { channel, .. }
            | MuxEvent::Closed { channel, .. }
                if !self.channels.contains_key(&channel) =>
            {
                if let Some(service) = &mut self.service {
                    service
                        .on_event(event, &mut self.mux)
                        .map_err(ReplicateError::Service)?;
                }
            }
            MuxEvent::Opened { channel, handshake } => self.on_opened(channel, &handshake).await,
            MuxEvent::Message {
                channel,
                kind,
                payload,
            } => self.on_message(channel, kind, &payload).await,
            MuxEvent::Closed { channel, .. } => self.forget(channel).await,
        }
        Ok(())
    }

    fn on_stream_open(&mut self) {
        self.open = true;
        if let (Some(service), Some(session)) = (&mut self.service, self.stream.session()) {
            service.on_open(session, &mut self.mux);
        }
    }

    /// Lets the other protocols say what they have to say.
    pub(super) fn wake_service(&mut self) -> Result<(), ReplicateError> {
        match &mut self.service {
            Some(service) if self.open => service.on_wake(&mut self.mux).map_err(ReplicateError::Service),
            _ => Ok(()),
        }
    }

    /// The capability of one side of this stream for a core.
    fn capability(&self, core: &Shared, ours: bool) -> Option<Hash> {
        let session = self.stream.session()?;
        Some(capability(
            &core.key,
            &session.handshake_hash,
            session.is_initiator == ours,
        ))
    }

    /// Whether the remote's Open proves that it knows the core's key.
    fn is_capable(&self, core: &Shared, handshake: &[u8]) -> bool {
        let expected = self.capability(core, false);
        Handshake::decode(handshake).is_ok_and(|handshake| Some(handshake.capability) == expected)
    }

    async fn on_requested(&mut self, request: &OpenRequest) -> Result<(), ReplicateError> {
        if request.protocol != PROTOCOL {
            let taken = match &mut self.service {
                Some(service) => service.on_requested(request, &mut self.mux),
                None => false,
            };
            if !taken {
                self.mux.reject(request);
            }
            return Ok(());
        }
        let discovery_key: Option<Hash> = (&request.id[..]).try_into().ok();
        let discovery_key = discovery_key.filter(|key| !self.refused.contains(key));
        let core = match discovery_key {
            Some(discovery_key) => match self.store.find_shared(&discovery_key).await {
                Ok(core) => core,
                Err(CorestoreError::Closed) => return Err(CorestoreError::Closed.into()),
                Err(error) => {
                    // A core that can't be opened is to this peer one that we don't have.
                    tracing::warn!(%error, "core not opened for a peer");
                    None
                }
            },
            None => None,
        };
        match core.filter(|core| self.is_capable(core, &request.handshake)) {
            Some(core) => self.open_channel(core),
            None => self.mux.reject(request),
        }
        Ok(())
    }

    /// Opens a channel for a core, which pairs with the remote's if it has one open.
    pub(super) fn open_channel(&mut self, core: Arc<Shared>) {
        let Some(capability) = self.capability(&core, true) else {
            return;
        };
        let handshake = Handshake {
            seeks: true,
            capability,
        }
        .encode();
        // It may be open already: a core is offered when it is first asked for here, also if a peer came before.
        if let Ok(channel) = self.mux.open(PROTOCOL, &core.discovery_key, &handshake) {
            self.channels.insert(channel, Channel { core, peer: None });
        }
    }

    async fn on_opened(&mut self, channel: ChannelId, handshake: &[u8]) {
        let Some(core) = self.channels.get(&channel).map(|channel| channel.core.clone()) else {
            return;
        };
        if !self.is_capable(&core, handshake) || core.closed.is_cancelled() {
            self.give_up(channel).await;
            return;
        }
        let peer = self.store.next_peer();
        let mut cell = core.lock().await;
        cell.add_peer(peer, self.outbox.clone(), Instant::now());
        cell.pump(&core);
        drop(cell);
        self.peers.insert(peer, channel);
        if let Some(channel) = self.channels.get_mut(&channel) {
            channel.peer = Some(peer);
        }
    }

    /// Closes a channel whose peer broke the rules, and opens none for the core again.
    pub(super) async fn refuse(&mut self, channel: ChannelId) {
        if let Some(channel) = self.channels.get(&channel) {
            self.refused.insert(channel.core.discovery_key);
        }
        self.give_up(channel).await;
    }

    pub(super) async fn give_up(&mut self, channel: ChannelId) {
        self.mux.close(channel);
        self.forget(channel).await;
    }

    async fn forget(&mut self, channel: ChannelId) {
        let Some(Channel { core, peer }) = self.channels.remove(&channel) else {
            return;
        };
        if let Some(peer) = peer {
            self.peers.remove(&peer);
            self.uploads.retain(|waiting| *waiting != peer);
            let mut cell = core.lock().await;
            cell.remove_peer(peer, Instant::now());
            cell.pump(&core);
        }
        self.dirty.remove(&core.discovery_key);
        if let Err(error) = self.store.release(core).await {
            tracing::error!(%error, "failed to make received blocks durable");
        }
    }

    /// Starts making what was received durable.
    pub(super) fn commit(&mut self) {
        self.commit_at = None;
        for (_, core) in self.dirty.drain() {
            self.commits.spawn(async move {
                let result = core.commit().await;
                (core, result)
            });
        }
    }

    pub(super) fn committed(ended: Result<(Arc<Shared>, Result<(), StorageError>), JoinError>) {
        match ended {
            Ok((_, Ok(()))) => {}
            Ok((_, Err(error))) => tracing::error!(%error, "failed to make received blocks durable"),
            Err(error) => tracing::error!(%error, "commit ended early"),
        }
    }

    /// Looks at requests without an answer, at answers that are due, at cores that were closed, and at a large frame that comes too
    /// slowly.
    pub(super) async fn tick(&mut self) -> Result<(), ReplicateError> {
        let now = Instant::now();
        if self.share.is_too_slow(self.stream.buffered_input(), now) {
            return Err(ReplicateError::TooSlow);
        }
        let (mut closed, mut faulty) = (Vec::new(), Vec::new());
        for (id, channel) in &self.channels {
            if channel.core.closed.is_cancelled() {
                closed.push(*id);
                continue;
            }
            let Some(peer) = channel.peer else { continue };
            let mut cell = channel.core.lock().await;
            let Cell {
                replicator, replica, ..
            } = &mut *cell;
            replicator.remind(replica, now);
            if replicator.poll_timeout().is_some_and(|due| due <= now) {
                replicator.on_timeout(replica, now);
            }
            if let Some(fault) = replicator.fault(peer) {
                faulty.push((*id, fault));
            }
            if replicator.has_uploads(peer, now) && !self.uploads.contains(&peer) {
                self.uploads.push_back(peer);
            }
            cell.pump(&channel.core);
        }
        for channel in closed {
            self.give_up(channel).await;
        }
        for (channel, fault) in faulty {
            tracing::warn!(%fault, "peer given up");
            self.refuse(channel).await;
        }
        Ok(())
    }

    /// Leaves all cores, and makes durable what was received.
    pub(super) async fn leave(&mut self) {
        while let Some(ended) = self.commits.join_next().await {
            Self::committed(ended);
        }
        for channel in self.channels.keys().copied().collect::<Vec<_>>() {
            self.forget(channel).await;
        }
    }
}

impl Drop for Connection {
    /// What [`Connection::leave`] did not come to do, because the future was dropped: cores must not wait for a peer that is gone.
    fn drop(&mut self) {
        for channel in self.channels.values() {
            if let Some(peer) = channel.peer {
                channel.core.abandon(Abandoned::Peer(peer));
            }
        }
    }
}
