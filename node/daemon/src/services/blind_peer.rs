//! Keeping cores for apps (npm `blind-peer`): on a store of its own, so that what apps delete or what is given back is never
//! a pinned archive's.

use std::sync::Arc;

use cumulet_blind_peer::{Admission, BlindPeer, Counters, Options, Quota};
use cumulet_hypercore::corestore::Corestore;
use cumulet_hypercore::driver::Session;
use cumulet_hyperdht::{ListenOptions, Server};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::archive::short;
use crate::config::BlindPeerConfig;

use super::{PATIENCE, Surroundings};

/// Separates the blind peer's seed from everything else that is made from a device's seed.
const SEED_CONTEXT: &[u8] = b"cumulet/blind-peer/1";
/// Folder of its cores and its journal.
const FOLDER: &str = "blind-peer";

#[derive(Debug)]
pub(super) struct BlindPeerService {
    peer: BlindPeer,
    store: Corestore,
    public_key: [u8; 32],
}

impl BlindPeerService {
    /// Opens what earlier runs kept, announces the blind peer's key and serves whoever dials it.
    pub(super) async fn start(around: &Surroundings<'_>, config: &BlindPeerConfig) -> Result<Self, String> {
        let words = |error: &dyn std::fmt::Display| error.to_string();
        let folder = around.data_dir.join(FOLDER);
        let store =
            Corestore::open(&folder.join("cores"), around.store.clone()).map_err(|error| words(&error))?;
        let key_pair = around.key_pair(SEED_CONTEXT);
        let public_key = *key_pair.public_key();
        let (members, open) = (around.members.clone(), config.open);
        let policy = move |identity: &[u8; 32]| {
            if members.contains(identity) {
                Admission::Trusted(Quota::default())
            } else if open {
                Admission::Member(Quota::default())
            } else {
                Admission::Reader
            }
        };
        let options = Options::new(public_key, folder.join("journal"));
        let peer = BlindPeer::open(
            store.clone(),
            Arc::new(policy),
            options,
            around.tasks,
            around.cancel,
        )
        .map_err(|error| words(&error))?;
        let server = around
            .dht
            .listen(key_pair, ListenOptions::default())
            .await
            .map_err(|error| words(&error))?;
        let accepting = accept(server, peer.clone(), around.tasks.clone(), around.cancel.clone());
        around.tasks.spawn(accepting);
        Ok(Self {
            peer,
            store,
            public_key,
        })
    }

    /// What apps give as the key of their blind peer.
    pub(super) fn public_key(&self) -> &[u8; 32] {
        &self.public_key
    }

    pub(super) fn counters(&self) -> Counters {
        self.peer.counters()
    }

    /// Ends the connections and closes the store.
    pub(super) async fn drain(&self) {
        self.peer.drain(PATIENCE).await;
        if let Err(error) = self.store.close().await {
            warn!(%error, "failed to close the blind peer's store");
        }
    }
}

async fn accept(mut server: Server, peer: BlindPeer, tasks: TaskTracker, cancel: CancellationToken) {
    loop {
        let connection = tokio::select! {
            () = cancel.cancelled() => return,
            connection = server.accept() => connection,
        };
        let Some(connection) = connection else { return };
        let mut header_seed = [0; cumulet_secret_stream::HEADER_BYTES];
        if let Err(error) = getrandom::fill(&mut header_seed) {
            warn!(%error, "no random bytes");
            continue;
        }
        let peer = peer.clone();
        tasks.spawn(async move {
            let identity = connection.remote_public_key;
            let session = Session::Established {
                handshake: connection.handshake,
                header_seed,
            };
            if let Err(error) = peer.serve(connection.stream, identity, session).await {
                debug!(peer = %short(&identity), %error, "app");
            }
        });
    }
}
