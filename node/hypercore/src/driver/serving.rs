//! What a connection sends for its cores: what they have to say, and the answers to requests, as far as there is room.

use std::time::Instant;

use cumulet_protomux::ChannelId;

use super::connection::Connection;
use crate::corestore::cell::Cell;
use crate::messages::Message;

/// Messages of this size go into frames of their own: a batch is read only when all of it has arrived.
const LONE_FRAME_BYTES: usize = 16 * 1024;
/// Messages that go into one batch, in bytes: what is read early is answered early.
const BATCH_BYTES: usize = 64 * 1024;
/// Uploads of one core before the next core's turn.
const UPLOADS_PER_TURN: usize = 32;
/// Output after which what there is of it is written before more is read: the peer works on it meanwhile.
const WRITE_AFTER_BYTES: usize = 256 * 1024;

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
        while self.has_output_room(unwritten) {
            let Some((peer, message)) = self.outbox.pop() else {
                return;
            };
            if let Some(channel) = self.peers.get(&peer) {
                let channel = *channel;
                self.send(channel, &message);
            }
        }
    }

    fn has_output_room(&mut self, unwritten: usize) -> bool {
        let pending = self.pending(unwritten);
        self.share.has_output_room(pending)
    }

    fn send(&mut self, channel: ChannelId, message: &Message) {
        let (head, value, tail) = message.encode_in_pieces();
        let length = head.len() + value.len() + tail.len();
        let alone = length >= LONE_FRAME_BYTES;
        self.batched += length;
        if alone || self.batched > BATCH_BYTES {
            self.mux.flush();
            self.batched = length;
        }
        let pieces: [&[u8]; 3] = [&head, &value, &tail];
        if let Err(error) = self.mux.send_parts(channel, message.kind(), &pieces) {
            // A block that no frame can carry: we would not have taken it from a peer either.
            tracing::warn!(%error, "message not sent");
        }
        if alone {
            self.mux.flush();
        }
    }

    /// Answers requests while there is room, one core after the other. Returns whether it stopped only so that what it made is
    /// written meanwhile.
    pub(super) async fn upload(&mut self, unwritten: usize) -> bool {
        let enough = self.pending(unwritten) + WRITE_AFTER_BYTES;
        while self.has_output_room(unwritten) {
            if self.pending(unwritten) >= enough {
                return !self.uploads.is_empty();
            }
            let Some(peer) = self.uploads.pop_front() else {
                return false;
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
                if self.pending(unwritten) >= enough || !self.has_output_room(unwritten) {
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
        false
    }
}
