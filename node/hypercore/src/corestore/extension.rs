//! Extensions of a core's channel: named messages between those who have it open.

use std::collections::HashMap;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::CoreHandle;
use crate::replication::PeerId;

/// Messages of one extension that wait to be taken; more are dropped, as on a network that loses them.
const WAITING_MESSAGES: usize = 64;

/// Where a core's extension messages go.
#[derive(Debug, Default)]
pub(crate) struct Extensions {
    takers: HashMap<String, mpsc::Sender<(PeerId, Bytes)>>,
}

impl Extensions {
    pub(crate) fn deliver(&mut self, from: PeerId, name: &str, payload: Bytes) {
        if let Some(taker) = self.takers.get(name) {
            // Full or gone: dropped.
            let _ = taker.try_send((from, payload));
        }
    }
}

/// One extension of one core, as `registerExtension` of JS. Messages are neither repeated nor acknowledged. They are bytes as they
/// are: JS with its default encoding puts their length, a compact uint, in front.
#[derive(Debug)]
pub struct Extension {
    core: CoreHandle,
    name: String,
    messages: mpsc::Receiver<(PeerId, Bytes)>,
}

impl Extension {
    /// The next message that a peer sent; none when the extension was registered again.
    pub async fn receive(&mut self) -> Option<(PeerId, Bytes)> {
        self.messages.recv().await
    }

    /// Sends a message to a peer; returns whether there is one to send it to. Messages above
    /// [`MAX_EXTENSION_BYTES`](crate::replication::MAX_EXTENSION_BYTES) are not sent.
    pub async fn send(&self, to: PeerId, message: &Bytes) -> bool {
        self.send_to(Some(to), message).await == 1
    }

    /// Sends a message to all peers; returns how many they are.
    pub async fn broadcast(&self, message: &Bytes) -> usize {
        self.send_to(None, message).await
    }

    async fn send_to(&self, to: Option<PeerId>, message: &Bytes) -> usize {
        let mut cell = self.core.shared.lock().await;
        let sent = cell.replicator.send_extension(to, &self.name, message);
        cell.pump(&self.core.shared);
        sent
    }
}

impl CoreHandle {
    /// Takes the messages of an extension, instead of whoever did so before, and can send such.
    pub async fn extension(&self, name: &str) -> Extension {
        let (taker, messages) = mpsc::channel(WAITING_MESSAGES);
        let mut cell = self.shared.lock().await;
        cell.replicator.register_extension(name);
        // Those whose owner is gone are not delivered to any more.
        let gone: Vec<String> = cell
            .extensions
            .takers
            .extract_if(|_, taker| taker.is_closed())
            .map(|(name, _)| name)
            .collect();
        for name in gone.iter().filter(|gone| *gone != name) {
            cell.replicator.unregister_extension(name);
        }
        cell.extensions.takers.insert(name.to_owned(), taker);
        Extension {
            core: self.clone(),
            name: name.to_owned(),
            messages,
        }
    }

    /// The evidence that the core's writer signed two different trees. The core is frozen then: its handles are closed.
    pub async fn conflict(&self) -> Option<crate::core::Conflict> {
        self.shared.lock().await.conflict.as_deref().cloned()
    }
}
