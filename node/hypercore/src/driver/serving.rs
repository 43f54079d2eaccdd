//! What a connection sends for its cores: what they have to say, and the answers to requests, as far as there is room.

use std::time::Instant;

use cumulet_protomux::ChannelId;

use super::OUTPUT_BUDGET_BYTES;
use super::connection::Connection;
use crate::corestore::cell::Cell;
use crate::messages::Message;

/// Messages of this size go into frames of their own: a batch is read only when all of it has arrived.
const LONE_FRAME_BYTES: usize = 16 * 1024;
/// Uploads of one core before the next core's turn.
const UPLOADS_PER_TURN: usize = 32;

impl Connection {
    /// Takes what cores have to say, while there is room.
    pub(super) fn say(&mut self, unwritten: usize) {
        for core in self.outbox.take_attach() {
            if !self.refused.contains(&core.discovery_key) {
                self.open_channel(core);
            }
        }
        for peer in self.outbox.take_serve() {
            if self.peers.contains_key(&peer) && !self.uploads.contains(&peer) {
                self.uploads.push_back(peer);
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
    pub(super) async fn upload(&mut self, unwritten: usize) {
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
            let now = Instant::now();
            let mut cell = core.lock().await;
            let Cell {
                replicator, replica, ..
            } = &mut *cell;
            let mut result = Ok(());
            for _ in 0..UPLOADS_PER_TURN {
                match replicator.next_upload(peer, replica, now) {
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
            let more = replicator.has_uploads(peer, now);
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
}
