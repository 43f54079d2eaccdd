//! One lookup of a topic: a task that asks the DHT and says what it finds.

use std::net::SocketAddrV4;
use std::time::Duration;

use cumulet_hyperdht::{Dht, LookupError, PeerRecord, Search};
use cumulet_secret_stream::noise::KeyPair;
use tokio::sync::{mpsc, watch};

use super::{Topic, short};
use crate::topics::Task;

/// How long the first announcement of a topic waits for that of the key, whose relay addresses it carries.
const ANNOUNCE_WAIT: Duration = Duration::from_secs(5);

/// What a lookup says while it runs.
pub(super) struct Found {
    pub(super) topic: Topic,
    pub(super) peers: Vec<PeerRecord>,
}

/// A topic, the peers found under it, and the nodes that keep our announcement.
pub(super) type LookupDone = (Topic, usize, usize);

/// One refresh of a topic.
pub(super) struct Lookup {
    pub(super) dht: Dht,
    pub(super) key_pair: KeyPair,
    pub(super) relays: Option<watch::Receiver<Option<Vec<SocketAddrV4>>>>,
    pub(super) found: mpsc::Sender<Found>,
    pub(super) topic: Topic,
}

impl Lookup {
    pub(super) async fn run(self, task: Task) -> LookupDone {
        let topic = self.topic;
        match self.look(task).await {
            Ok((found, stored)) => (topic, found, stored),
            Err(error) => {
                tracing::debug!(topic = %short(&topic), %error, "lookup failed");
                (topic, 0, 0)
            }
        }
    }

    async fn look(mut self, task: Task) -> Result<(usize, usize), LookupError> {
        let mut search: Search = match task {
            Task::Announce => {
                let relays = self.relay_addresses().await;
                self.dht
                    .announce_and_search(self.topic, &self.key_pair, relays)
                    .await?
            }
            Task::LookUp => self.dht.search(self.topic).await?,
            Task::Withdraw => {
                self.dht.unannounce(self.topic, &self.key_pair).await?;
                self.dht.search(self.topic).await?
            }
        };
        let mut count = 0;
        while let Some(mut peers) = search.next().await {
            peers.retain(|peer| peer.public_key != *self.key_pair.public_key());
            count += peers.len();
            if self
                .found
                .send(Found {
                    topic: self.topic,
                    peers,
                })
                .await
                .is_err()
            {
                return Err(LookupError::Closed);
            }
        }
        Ok((count, search.stored().await?))
    }

    /// Where the key is announced; waits a little for the first announcement.
    async fn relay_addresses(&mut self) -> Vec<SocketAddrV4> {
        let Some(relays) = &mut self.relays else {
            return Vec::new();
        };
        let known = tokio::time::timeout(ANNOUNCE_WAIT, relays.wait_for(Option::is_some)).await;
        known
            .ok()
            .and_then(Result::ok)
            .and_then(|relays| relays.clone())
            .unwrap_or_default()
    }
}
