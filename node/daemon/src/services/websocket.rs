//! A DHT for pages in a browser (npm `@hyperswarm/dht-relay`), over WebSockets without TLS: put a TLS proxy or an Ingress before
//! it. The page trusts the node with its key pair, so this is for the owner's own pages. On the same listener peers come in whose
//! network lets only HTTP through: they ask for a subprotocol, and are the swarm's, as who comes over UDP and TCP.

use cumulet_dht_relay::{Counters, Relay, RelayOptions};
use cumulet_relay::blind_relay::{Admission, MemberLimits};
use tokio::net::TcpListener;

use crate::config::WebSocketConfig;

use super::{PATIENCE, Surroundings};

#[derive(Debug)]
pub(super) struct WebSocketService(Relay);

impl WebSocketService {
    /// Listens, and serves whoever the configuration admits until it is drained.
    pub(super) async fn start(around: &Surroundings<'_>, config: &WebSocketConfig) -> Result<Self, String> {
        let others = if config.open {
            Admission::Member(MemberLimits::default())
        } else {
            Admission::Refused
        };
        let listener = TcpListener::bind(config.listen)
            .await
            .map_err(|error| format!("failed to listen on {}: {error}", config.listen))?;
        let relay = Relay::new(
            around.dht.clone(),
            around.members.policy(others),
            RelayOptions::default(),
            around.tasks,
            around.cancel,
        );
        let (listening, swarm) = (relay.clone(), around.swarm.clone());
        around
            .tasks
            .spawn(async move { listening.listen(listener, Some(swarm)).await });
        Ok(Self(relay))
    }

    pub(super) fn counters(&self) -> Counters {
        self.0.counters()
    }

    /// Ends the connections of those who are not admitted any more.
    pub(super) fn review(&self) {
        self.0.review();
    }

    pub(super) async fn drain(&self) {
        self.0.drain(PATIENCE).await;
    }
}
