//! What one connection knows: its channels and the cores behind them.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use cumulet_protomux::{ChannelId, Event as MuxEvent, Mux, Request as OpenRequest};
use cumulet_secret_stream::{Event as StreamEvent, SecretStream};
use tokio::task::{JoinError, JoinSet};

use super::{OUTPUT_BUDGET_BYTES, OUTPUT_LIMIT_BYTES, ReplicateError};
use crate::corestore::cell::{COMMIT_BYTES, Cell, Shared};
use crate::corestore::outbox::{OUTBOX_BUDGET_BYTES, Outbox};
use crate::corestore::{Corestore, CorestoreError};
use crate::crypto::{Hash, capability};
use crate::messages::{Handshake, Message, PROTOCOL};
use crate::replication::{PeerFault, PeerId};
use crate::storage::StorageError;

/// Messages of this size go into frames of their own: a batch is read only when all of it has arrived.
const LONE_FRAME_BYTES: usize = 16 * 1024;
/// Uploads of one core before the next core's turn.
const UPLOADS_PER_TURN: usize = 32;
/// Events handled before what they caused is sent.
const EVENTS_PER_TURN: usize = 1024;

/// A channel of a core.
struct Channel {
    core: Arc<Shared>,
    /// Known since the remote proved that it has the core's key.
    peer: Option<PeerId>,
}

pub(super) struct Connection {
    pub(super) stream: SecretStream,
    pub(super) outbox: Arc<Outbox>,
    pub(super) commits: JoinSet<(Arc<Shared>, Result<(), StorageError>)>,
    store: Corestore,
    mux: Mux,
    channels: HashMap<ChannelId, Channel>,
    peers: HashMap<PeerId, ChannelId>,
    /// Peers of this connection that wait for answers, each once.
    uploads: VecDeque<PeerId>,
    /// Cores that the remote has misused: not opened again on this connection.
    refused: HashSet<Hash>,
    dirty: HashMap<Hash, Arc<Shared>>,
    commit_at: Option<Instant>,
    /// Whether the handshake is done and the cores have been offered.
    open: bool,
    /// Whether the last turn stopped before it had handled everything that was received.
    unfinished: bool,
}

impl Connection {
    pub(super) async fn new(store: Corestore, stream: SecretStream) -> Result<Self, CorestoreError> {
        let outbox = Arc::new(Outbox::default());
        for core in store.join(&outbox).await? {
            outbox.attach(core);
        }
        Ok(Self {
            stream,
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
            unfinished: false,
        })
    }

    /// Whether more may be read: all that was read has been handled, and the peer takes what we say.
    pub(super) fn is_listening(&self, unwritten: usize) -> bool {
        !self.unfinished && !self.is_over_budget(unwritten)
    }

    fn is_over_budget(&self, unwritten: usize) -> bool {
        self.outbox.bytes() > OUTBOX_BUDGET_BYTES || self.pending(unwritten) > OUTPUT_LIMIT_BYTES
    }

    pub(super) fn next_commit(&self) -> Option<Instant> {
        self.commit_at
    }

    fn pending(&self, unwritten: usize) -> usize {
        unwritten + self.stream.pending_output() + self.mux.queued_bytes()
    }

    /// Handles what has been received and turns what is to be said into output. `unwritten` bytes of earlier output still wait.
    pub(super) async fn turn(&mut self, unwritten: usize) -> Result<(), ReplicateError> {
        let mut handled = 0;
        self.mux.cork();
        while handled < EVENTS_PER_TURN && !self.is_over_budget(unwritten) && self.next_event().await? {
            handled += 1;
        }
        self.unfinished = handled == EVENTS_PER_TURN;
        if self.outbox.overflowed() {
            return Err(ReplicateError::Deaf);
        }
        if self.open {
            self.say(unwritten);
            self.upload(unwritten).await;
        }
        self.mux.uncork();
        // A received batch may not be read to its end yet: the mux gathers the answers to it until then.
        self.mux.flush();
        self.encrypt();
        if self.unfinished {
            // The rest has its turn after others had theirs.
            tokio::task::yield_now().await;
            self.outbox.nudge();
        }
        Ok(())
    }

    fn encrypt(&mut self) {
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
        let Some(event) = self.stream.poll_event()? else {
            return Ok(false);
        };
        match event {
            StreamEvent::Open => self.open = true,
            StreamEvent::Connected => {}
            StreamEvent::Message(frame) => self.mux.receive(frame),
        }
        Ok(true)
    }

    async fn on_mux_event(&mut self, event: MuxEvent) -> Result<(), ReplicateError> {
        match event {
            MuxEvent::Requested(request) => self.on_requested(&request).await?,
            MuxEvent::Opened { channel, handshake } => self.on_opened(channel, &handshake).await,
            MuxEvent::Message {
                channel,
                kind,
                payload,
            } => self.on_message(channel, kind, payload).await,
            MuxEvent::Closed { channel, .. } => self.forget(channel).await,
        }
        Ok(())
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
        let discovery_key: Option<Hash> = (&request.id[..]).try_into().ok();
        let discovery_key =
            discovery_key.filter(|key| request.protocol == PROTOCOL && !self.refused.contains(key));
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
    fn open_channel(&mut self, core: Arc<Shared>) {
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

    async fn on_message(&mut self, channel: ChannelId, kind: u64, payload: Bytes) {
        let Some(Channel {
            core,
            peer: Some(peer),
        }) = self.channels.get(&channel)
        else {
            return;
        };
        let (core, peer) = (core.clone(), *peer);
        let message = match Message::decode(kind, &payload) {
            Ok(message) => message,
            // Types of the future are ignored, damaged messages are not.
            Err(_) if kind > LAST_KIND => return,
            Err(error) => {
                tracing::debug!(%error, kind, "undecodable message");
                return self.refuse(channel).await;
            }
        };
        let is_sync = matches!(message, Message::Sync(_) | Message::Data(_));
        let mut cell = core.lock().await;
        let Cell {
            replicator, replica, ..
        } = &mut *cell;
        let result = replicator.on_message(peer, message, replica, Instant::now());
        let uploads = replicator.has_uploads(peer);
        cell.pump(&core);
        let (dirty, large) = (cell.dirty, cell.uncommitted_bytes >= COMMIT_BYTES);
        drop(cell);
        if is_sync || dirty {
            core.activity.send_modify(|count| *count += 1);
        }
        if dirty && !self.dirty.contains_key(&core.discovery_key) {
            self.dirty.insert(core.discovery_key, core.clone());
            self.commit_at
                .get_or_insert_with(|| Instant::now() + core.config.commit_interval);
        }
        if large {
            self.commit_at = Some(Instant::now());
        }
        if uploads && !self.uploads.contains(&peer) {
            self.uploads.push_back(peer);
        }
        match result {
            Ok(()) | Err(PeerFault::Unknown) => {}
            Err(PeerFault::Storage(error)) => {
                tracing::error!(%error, "storage failed while replicating; the core's channel is closed");
                self.give_up(channel).await;
            }
            Err(fault) => {
                tracing::warn!(%fault, "peer given up");
                self.refuse(channel).await;
            }
        }
    }

    /// Takes what cores have to say, while there is room.
    fn say(&mut self, unwritten: usize) {
        for core in self.outbox.take_attach() {
            if !self.refused.contains(&core.discovery_key) {
                self.open_channel(core);
            }
        }
        while self.pending(unwritten) < OUTPUT_BUDGET_BYTES {
            let Some((peer, message)) = self.outbox.pop() else {
                return;
            };
            if let Some(channel) = self.peers.get(&peer) {
                let channel = *channel;
                self.send(channel, &message);
            }
        }
    }

    fn send(&mut self, channel: ChannelId, message: &Message) {
        let payload = message.encode();
        let alone = payload.len() >= LONE_FRAME_BYTES;
        if alone {
            self.mux.flush();
        }
        if let Err(error) = self.mux.send(channel, message.kind(), &payload) {
            // A block that no frame can carry: we would not have taken it from a peer either.
            tracing::warn!(%error, "message not sent");
        }
        if alone {
            self.mux.flush();
        }
    }

    /// Answers requests while there is room, one core after the other.
    async fn upload(&mut self, unwritten: usize) {
        while self.pending(unwritten) < OUTPUT_BUDGET_BYTES {
            let Some(peer) = self.uploads.pop_front() else {
                return;
            };
            let Some(&channel) = self.peers.get(&peer) else {
                continue;
            };
            let Some(core) = self.channels.get(&channel).map(|channel| channel.core.clone()) else {
                continue;
            };
            let mut cell = core.lock().await;
            let Cell {
                replicator, replica, ..
            } = &mut *cell;
            let mut result = Ok(());
            for _ in 0..UPLOADS_PER_TURN {
                match replicator.next_upload(peer, replica) {
                    Ok(Some(message)) => self.send(channel, &message),
                    Ok(None) => break,
                    Err(fault) => {
                        result = Err(fault);
                        break;
                    }
                }
                if self.pending(unwritten) >= OUTPUT_BUDGET_BYTES {
                    break;
                }
            }
            let more = replicator.has_uploads(peer);
            cell.pump(&core);
            drop(cell);
            match result {
                Ok(()) if more => self.uploads.push_back(peer),
                Ok(()) => {}
                Err(fault) => {
                    tracing::warn!(%fault, "peer given up");
                    self.refuse(channel).await;
                }
            }
        }
    }

    /// Closes a channel whose peer broke the rules, and opens none for the core again.
    async fn refuse(&mut self, channel: ChannelId) {
        if let Some(channel) = self.channels.get(&channel) {
            self.refused.insert(channel.core.discovery_key);
        }
        self.give_up(channel).await;
    }

    async fn give_up(&mut self, channel: ChannelId) {
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

    /// Looks at requests without an answer, and at cores that were closed.
    pub(super) async fn tick(&mut self) {
        let now = Instant::now();
        let mut closed = Vec::new();
        for (id, channel) in &self.channels {
            if channel.core.closed.is_cancelled() {
                closed.push(*id);
                continue;
            }
            let mut cell = channel.core.lock().await;
            let Cell {
                replicator, replica, ..
            } = &mut *cell;
            replicator.remind(replica);
            if replicator.poll_timeout().is_some_and(|due| due <= now) {
                replicator.on_timeout(replica, now);
            }
            cell.pump(&channel.core);
        }
        for channel in closed {
            self.give_up(channel).await;
        }
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

/// The highest message type that is known.
const LAST_KIND: u64 = 9;
