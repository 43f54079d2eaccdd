//! The node as a blind relay (npm `blind-relay`): it forwards the encrypted packets of two peers that can't reach each other.
//!
//! The relay is a server of its own on the DHT, with a key pair that is derived from the device's, so that a restart, or a
//! restore with the same device seed, keeps its address. Who may use it is [`RelayConfig`]'s; strangers may be the other side
//! of a member's link and nothing else, unless the relay is open on purpose.

use std::sync::Arc;

use cumulet_hyperdht::{ListenOptions, Server};
use cumulet_relay::blind_relay::{Admission, Counters, Limits, MemberLimits, Peer, Relay, RelayOptions};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use crate::archive::short;
use crate::config::RelayConfig;

use super::{PATIENCE, Surroundings};

/// Separates the relay's seed from everything else that is made from a device's seed.
const SEED_CONTEXT: &[u8] = b"cumulet/relay/1";

/// A running relay.
#[derive(Debug)]
pub(super) struct RelayService {
    relay: Relay,
    public_key: [u8; 32],
}

impl RelayService {
    /// Announces the relay's key and serves whoever the configuration admits, on `tasks`, until `cancel`.
    ///
    /// # Errors
    /// The DHT's, in words.
    pub(super) async fn start(around: &Surroundings<'_>, config: &RelayConfig) -> Result<Self, String> {
        let Surroundings {
            dht, tasks, cancel, ..
        } = around;
        let others = if config.open {
            Admission::Member(MemberLimits::default())
        } else {
            Admission::Guest
        };
        let options = RelayOptions {
            limits: Limits {
                links: config.max_links,
                bytes_per_second: config.max_bytes_per_second,
                ..Limits::default()
            },
            ..RelayOptions::default()
        };
        let relay = Relay::new(
            dht.endpoint().clone(),
            around.members.policy(others),
            options,
            tasks,
            (*cancel).clone(),
        );
        let key_pair = around.key_pair(SEED_CONTEXT);
        let public_key = *key_pair.public_key();
        let firewall = relay.clone();
        let listening = ListenOptions {
            firewall: Some(Arc::new(move |identity, _, _| firewall.admits(identity))),
            ..ListenOptions::default()
        };
        let server = dht
            .listen(key_pair, listening)
            .await
            .map_err(|error| error.to_string())?;
        tasks.spawn(accept(server, relay.clone(), (*tasks).clone(), (*cancel).clone()));
        Ok(Self { relay, public_key })
    }

    /// What peers give as `relayThrough`.
    pub(super) fn public_key(&self) -> &[u8; 32] {
        &self.public_key
    }

    /// What it has done and does now.
    pub(super) fn counters(&self) -> Counters {
        self.relay.counters()
    }

    /// Ends the sessions and links of those who are not admitted any more.
    pub(super) fn review(&self) {
        self.relay.review();
    }

    /// Takes nobody in any more and lets links end, for a while.
    pub(super) async fn drain(&self) {
        self.relay.drain(PATIENCE).await;
    }
}

async fn accept(mut server: Server, relay: Relay, tasks: TaskTracker, cancel: CancellationToken) {
    loop {
        let connection = tokio::select! {
            () = cancel.cancelled() => return,
            connection = server.accept() => connection,
        };
        let Some(connection) = connection else { return };
        let relay = relay.clone();
        tasks.spawn(async move {
            let peer = short(&connection.remote_public_key);
            let client = Peer {
                identity: connection.remote_public_key,
                handshake: connection.handshake,
                stream: connection.stream,
            };
            if let Err(error) = relay.serve(client).await {
                debug!(%peer, %error, "relay client");
            }
        });
    }
}
