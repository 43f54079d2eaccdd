//! What the node does for others beside keeping archives: relaying, a DHT for browsers, keeping cores for apps. Each is off
//! unless it was asked for, and each knows the same [`Members`].

mod blind_peer;
mod relay;
mod websocket;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cumulet_hypercore::corestore::CorestoreConfig;
use cumulet_hyperdht::Dht;
use cumulet_hyperswarm::Swarm;
use cumulet_secret_stream::noise::KeyPair;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::info;

use self::blind_peer::BlindPeerService;
use self::relay::RelayService;
use self::websocket::WebSocketService;
use crate::backup::Backup;
use crate::bans::Changed;
use crate::config::Config;
use crate::members::Members;

/// How long what others use may go on once the node is told to stop; they then have moved, or come back to another replica.
const PATIENCE: Duration = Duration::from_secs(5);

/// What services work with.
#[derive(Debug)]
pub struct Surroundings<'a> {
    /// Where peers come from.
    pub dht: &'a Dht,
    /// Where those go that come in WebSockets.
    pub swarm: &'a Swarm,
    /// What every key pair of this node is made from.
    pub device_seed: &'a [u8; 32],
    /// Folder of what outlives the process.
    pub data_dir: &'a Path,
    /// How cores are kept on the volume.
    pub store: &'a CorestoreConfig,
    /// Where backups go.
    pub backup: &'a Arc<Backup>,
    /// Who may use everything.
    pub members: &'a Arc<Members>,
    /// Where tasks run.
    pub tasks: &'a TaskTracker,
    /// Ends them.
    pub cancel: &'a CancellationToken,
}

impl Surroundings<'_> {
    /// A key pair of its own for one service, the same after every restart.
    fn key_pair(&self, context: &[u8]) -> KeyPair {
        KeyPair::from_seed(cumulet_hyperdht::hash(&[context, self.device_seed]))
    }
}

/// A service can't be started.
#[derive(Debug, thiserror::Error)]
#[error("failed to start the {service}: {reason}")]
pub struct ServiceError {
    service: &'static str,
    reason: String,
}

/// The services that run.
#[derive(Debug)]
pub struct Services {
    relay: Option<RelayService>,
    websocket: Option<WebSocketService>,
    blind_peer: Option<BlindPeerService>,
}

/// Counters of the services that run.
#[derive(Debug, Clone, Copy)]
pub struct ServiceCounters {
    /// Of the relay.
    pub relay: Option<cumulet_relay::blind_relay::Counters>,
    /// Of the DHT for browsers.
    pub websocket: Option<cumulet_dht_relay::Counters>,
    /// Of the blind peer.
    pub blind_peer: Option<cumulet_blind_peer::Counters>,
}

impl Services {
    /// Starts what the configuration asks for.
    ///
    /// # Errors
    /// [`ServiceError`], if any of them can't be started.
    pub async fn start(config: &Config, around: &Surroundings<'_>) -> Result<Self, ServiceError> {
        let failed = |service| move |reason| ServiceError { service, reason };
        let mut services = Self {
            relay: None,
            websocket: None,
            blind_peer: None,
        };
        if let Some(relay) = &config.relay {
            let relay = RelayService::start(around, relay)
                .await
                .map_err(failed("relay"))?;
            info!(public_key = %hex::encode(relay.public_key()), "relaying");
            services.relay = Some(relay);
        }
        if let Some(websocket) = &config.websocket {
            let started = WebSocketService::start(around, websocket).await;
            services.websocket = Some(started.map_err(failed("DHT for browsers"))?);
            info!(listen = %websocket.listen, "a DHT for browsers");
        }
        if let Some(blind_peer) = &config.blind_peer {
            let started = BlindPeerService::start(around, blind_peer).await;
            let blind_peer = started.map_err(failed("blind peer"))?;
            info!(public_key = %hex::encode(blind_peer.public_key()), "keeping cores for apps");
            services.blind_peer = Some(blind_peer);
        }
        Ok(services)
    }

    /// The relay's key.
    pub fn relay_key(&self) -> Option<&[u8; 32]> {
        self.relay.as_ref().map(RelayService::public_key)
    }

    /// The blind peer's key.
    pub fn blind_peer_key(&self) -> Option<&[u8; 32]> {
        self.blind_peer.as_ref().map(BlindPeerService::public_key)
    }

    /// What they have done and do now.
    pub fn counters(&self) -> ServiceCounters {
        ServiceCounters {
            relay: self.relay.as_ref().map(RelayService::counters),
            websocket: self.websocket.as_ref().map(WebSocketService::counters),
            blind_peer: self.blind_peer.as_ref().map(BlindPeerService::counters),
        }
    }

    /// Members have changed: who is none any more loses what it has. The blind peer asks at every request.
    pub fn review(&self) {
        if let Some(relay) = &self.relay {
            relay.review();
        }
        if let Some(websocket) = &self.websocket {
            websocket.review();
        }
    }

    /// Bans have changed: who is banned loses what it has.
    pub fn change_bans(&self, changed: &Changed) {
        if let Some(blind_peer) = &self.blind_peer {
            blind_peer.change_bans(changed);
        }
        self.review();
    }

    /// Takes nobody in any more, waits a little for those that are there, and ends the rest.
    pub async fn drain(&self) {
        let relay = async {
            if let Some(relay) = &self.relay {
                relay.drain().await;
            }
        };
        let websocket = async {
            if let Some(websocket) = &self.websocket {
                websocket.drain().await;
            }
        };
        let blind_peer = async {
            if let Some(blind_peer) = &self.blind_peer {
                blind_peer.drain().await;
            }
        };
        tokio::join!(relay, websocket, blind_peer);
    }
}
