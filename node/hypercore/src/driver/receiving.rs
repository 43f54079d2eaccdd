//! What a connection tells its cores: messages of one channel that follow each other are handled together, under one lock, with
//! one look at what is to be asked next and one wake-up of those who wait.

use std::time::Instant;

use bytes::Bytes;
use cumulet_protomux::ChannelId;

use super::connection::{Channel, Connection};
use crate::corestore::cell::{COMMIT_BYTES, Cell};
use crate::messages::Message;
use crate::replication::{MAX_EXTENSION_BYTES, PeerFault};

/// Bytes of messages that are handled together: they keep what they were received in alive.
const BATCH_BYTES: usize = 1 << 20;
/// Messages that are handled together: how long a core is kept from others.
const BATCH_MESSAGES: usize = 256;
/// The highest message type that is known.
const LAST_KIND: u64 = 9;
/// The type of Data, the one that carries blocks.
const DATA_KIND: u64 = 3;
/// Longest message that is not Data: a Bitfield of the largest window has 256 KiB, an extension's message is bounded alike.
const MAX_MESSAGE_BYTES: usize = MAX_EXTENSION_BYTES + 1024;

/// Messages of one channel.
#[derive(Default)]
pub(super) struct Batch {
    channel: Option<ChannelId>,
    messages: Vec<Message>,
    bytes: usize,
}

impl Connection {
    pub(super) async fn on_message(&mut self, channel: ChannelId, kind: u64, payload: &Bytes) {
        if self.batch.channel != Some(channel) {
            self.hand_over().await;
        }
        if self
            .channels
            .get(&channel)
            .is_none_or(|channel| channel.peer.is_none())
        {
            return;
        }
        if payload.len() > MAX_MESSAGE_BYTES && kind != DATA_KIND {
            self.hand_over().await;
            return self.refuse(channel).await;
        }
        let answer_first;
        match Message::decode(kind, payload) {
            Ok(message) => {
                answer_first = matches!(message, Message::Want(_));
                self.batch.channel = Some(channel);
                self.batch.messages.push(message);
                self.batch.bytes += payload.len();
            }
            // Types of the future are ignored, damaged messages are not.
            Err(_) if kind > LAST_KIND => return,
            Err(error) => {
                tracing::debug!(%error, kind, "undecodable message");
                self.hand_over().await;
                return self.refuse(channel).await;
            }
        }
        // The answer to a Want may be large: it counts before the next is looked at.
        if answer_first || self.batch.bytes >= BATCH_BYTES || self.batch.messages.len() >= BATCH_MESSAGES {
            self.hand_over().await;
        }
    }

    /// Gives the gathered messages to their core.
    pub(super) async fn hand_over(&mut self) {
        let Batch {
            channel, messages, ..
        } = std::mem::take(&mut self.batch);
        let Some((
            id,
            Channel {
                core,
                peer: Some(peer),
            },
        )) = channel.and_then(|id| Some((id, self.channels.get(&id)?)))
        else {
            return;
        };
        let (core, peer) = (core.clone(), *peer);
        let says = |message: &Message| matches!(message, Message::Sync(_) | Message::Data(_));
        let is_sync = messages.iter().any(says);
        let now = Instant::now();
        let mut cell = core.lock().await;
        let Cell {
            replicator, replica, ..
        } = &mut *cell;
        let result = replicator.on_messages(peer, messages, replica, now);
        let uploads = replicator.has_uploads(peer, now);
        cell.pump(&core);
        let (dirty, large) = (cell.dirty, cell.uncommitted_bytes >= COMMIT_BYTES);
        drop(cell);
        if is_sync || dirty {
            core.activity.notify_waiters();
        }
        if dirty && !self.dirty.contains_key(&core.discovery_key) {
            self.dirty.insert(core.discovery_key, core.clone());
            self.commit_at
                .get_or_insert_with(|| now + core.config.commit_interval);
        }
        if large {
            self.commit_at = Some(now);
        }
        if uploads && !self.uploads.contains(&peer) {
            self.uploads.push_back(peer);
        }
        match result {
            Ok(()) | Err(PeerFault::Unknown) => {}
            Err(PeerFault::Storage(error)) => {
                tracing::error!(%error, "storage failed while replicating; the core's channel is closed");
                self.give_up(id).await;
            }
            Err(fault) => {
                tracing::warn!(%fault, "peer given up");
                self.refuse(id).await;
            }
        }
    }
}
