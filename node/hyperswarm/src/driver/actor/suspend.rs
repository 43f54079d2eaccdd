//! Sleeping and waking, for devices that do: nothing is sent meanwhile, and nothing that was joined is forgotten.

use std::time::Instant;

use cumulet_hyperdht::Server;
use futures::stream::{FuturesUnordered, StreamExt};

use super::{Actor, SHUTDOWN_WAIT};
use crate::Topic;

impl Actor {
    pub(super) fn is_suspended(&self) -> bool {
        self.gate.is_suspended()
    }

    /// Ends connections and attempts, and withdraws what was announced.
    pub(super) async fn suspend(&mut self) {
        if self.gate.set_suspended(true) {
            return;
        }
        self.dials.clear();
        self.lookups.clear();
        self.proving.clear();
        self.replacing.clear();
        self.peers.suspend();
        for link in self.links.values() {
            link.control.destroy();
        }
        self.door.set_open(false);
        let server = self.server.take();
        self.listen_on_resume = server.is_some().then_some(self.announced);
        let topics = self.topics.suspend();
        self.withdraw(topics, server).await;
    }

    /// Goes on where [`Actor::suspend`] stopped. The DHT node looks for nodes anew: the network may be another.
    pub(super) async fn resume(&mut self, now: Instant) {
        if !self.gate.set_suspended(false) {
            return;
        }
        self.dht.refresh().await;
        if let Some(announce) = self.listen_on_resume.take()
            && let Err(error) = self.listen(announce).await
        {
            tracing::warn!(%error, "nobody can connect to us after the pause");
        }
        self.topics.resume(now);
        self.peers.resume();
    }

    /// Takes announcements back, within 3 s.
    pub(super) async fn withdraw(&mut self, topics: Vec<Topic>, server: Option<Server>) {
        let topics: FuturesUnordered<_> = topics
            .into_iter()
            .map(|topic| {
                let (dht, key_pair) = (self.dht.clone(), self.key_pair.clone());
                async move { dht.unannounce(topic, &key_pair).await }
            })
            .collect();
        let withdraw = async {
            let topics = topics.for_each(|_| std::future::ready(()));
            let key = async {
                if let Some(server) = server {
                    server.close().await;
                }
            };
            futures::future::join(topics, key).await;
        };
        // What is not withdrawn expires.
        let _ = tokio::time::timeout(SHUTDOWN_WAIT, withdraw).await;
    }
}
