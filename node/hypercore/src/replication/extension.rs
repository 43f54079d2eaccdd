//! Messages of extensions: named, opaque, between the two ends of a core's channel.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::{Event, PeerId, Replicator};
use crate::messages::{Extension, Message};

/// Longest extension message that is taken or sent: JS has no bound, known extensions stay far below.
pub const MAX_EXTENSION_BYTES: usize = 1 << 20;
/// Longest name of an extension.
const MAX_NAME_BYTES: usize = 256;

impl Replicator {
    /// Gives out the messages of an extension from now on.
    pub fn register_extension(&mut self, name: &str) {
        if name.len() <= MAX_NAME_BYTES {
            self.extensions.insert(name.to_owned());
        }
    }

    /// Drops the messages of an extension from now on.
    pub fn unregister_extension(&mut self, name: &str) {
        self.extensions.remove(name);
    }

    /// Sends a message of an extension to a peer, or to all. Returns to how many; none if the message is too long.
    pub fn send_extension(&mut self, to: Option<PeerId>, name: &str, payload: &Bytes) -> usize {
        if payload.len() > MAX_EXTENSION_BYTES || name.is_empty() || name.len() > MAX_NAME_BYTES {
            return 0;
        }
        let peers = self.peers.keys().filter(|id| to.is_none_or(|to| to == **id));
        let peers: BTreeSet<PeerId> = peers.copied().collect();
        for id in &peers {
            let message = Extension {
                name: name.to_owned(),
                payload: payload.clone(),
            };
            self.send(*id, Message::Extension(message));
        }
        peers.len()
    }

    /// Without a name it is another message of the extension that the peer's last message named.
    pub(super) fn on_extension(&mut self, id: PeerId, message: Extension) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        if message.name.len() > MAX_NAME_BYTES {
            peer.extension.clear();
            return;
        }
        if !message.name.is_empty() {
            peer.extension = message.name;
        }
        if self.extensions.contains(&peer.extension) && message.payload.len() <= MAX_EXTENSION_BYTES {
            self.events.push_back(Event::Extension {
                from: id,
                name: peer.extension.clone(),
                // A slice would keep the frame alive that it came in.
                payload: Bytes::copy_from_slice(&message.payload),
            });
        }
    }
}
