//! Relayed streams: the connections to relays, and what of the streams is still ours once the application has them.

use std::collections::HashMap;
use std::net::{SocketAddr, SocketAddrV4};
use std::time::Duration;

use cumulet_relay::blind_relay::{Pair, Peer, pair};
use cumulet_secret_stream::noise::HandshakeResult;
use cumulet_udx::{Socket, Source, StreamControl, UdxStream};
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::node::{PairOrder, RelayId};

/// News of relay connections: two of each, and the node bounds how many there are.
const NEWS_QUEUE: usize = 64;
/// How often to look whether a moved stream has got everything through that it had sent to the relay.
const SETTLE_EVERY: Duration = Duration::from_millis(50);

/// What happened to a relayed stream.
#[derive(Debug)]
pub(super) enum RelayNews {
    /// The relay joined the streams.
    Paired { relay: RelayId, remote_id: u32 },
    /// The connection to the relay ended, or never led to a pairing.
    Lost { relay: RelayId },
    /// The stream's packets arrive directly, after it was moved.
    Direct { relay: RelayId },
    /// The stream is closed.
    Closed { relay: RelayId },
    /// A packet of the stream came another way than through the relay.
    Heard { stream: u32, source: Source },
}

struct Entry {
    release: CancellationToken,
    /// The stream, once it runs through the relay, and where that is.
    stream: Option<(StreamControl, SocketAddr)>,
}

pub(super) struct Relays {
    entries: HashMap<RelayId, Entry>,
    tasks: JoinSet<()>,
    news: mpsc::Receiver<RelayNews>,
    tell: mpsc::Sender<RelayNews>,
    watched: FuturesUnordered<BoxFuture<'static, Option<RelayNews>>>,
}

impl Relays {
    pub(super) fn new() -> Self {
        let (tell, news) = mpsc::channel(NEWS_QUEUE);
        Self {
            entries: HashMap::new(),
            tasks: JoinSet::new(),
            news,
            tell,
            watched: FuturesUnordered::new(),
        }
    }

    /// The next news. Cancel safe.
    pub(super) async fn next(&mut self) -> RelayNews {
        loop {
            tokio::select! {
                Some(news) = self.news.recv() => return news,
                Some(news) = self.watched.next() => if let Some(news) = news {
                    return news;
                },
                Some(_) = self.tasks.join_next() => {}
                else => std::future::pending().await,
            }
        }
    }

    /// Asks a relay that was reached for the pairing, and keeps the connection until it is released.
    pub(super) fn pair(
        &mut self,
        relay: RelayId,
        (stream, handshake): (UdxStream, HandshakeResult),
        order: &PairOrder,
    ) {
        let peer = Peer {
            identity: handshake.remote_public_key,
            handshake,
            stream,
        };
        let request = Pair {
            is_initiator: order.is_initiator,
            token: order.token,
            id: order.stream.into(),
            seq: 0,
        };
        let release = CancellationToken::new();
        let entry = Entry {
            release: release.clone(),
            stream: None,
        };
        self.entries.insert(relay, entry);
        let (tell, identity) = (self.tell.clone(), order.identity);
        self.tasks.spawn(async move {
            let pairing = tokio::select! {
                () = release.cancelled() => return,
                pairing = pair(peer, &identity, request) => pairing,
            };
            match pairing {
                Ok(pairing) => {
                    let remote_id = pairing.remote_id();
                    let _ = tell.send(RelayNews::Paired { relay, remote_id }).await;
                    pairing.hold(release.cancelled()).await;
                }
                Err(error) => tracing::debug!(%error, "no pairing at the relay"),
            }
            let _ = tell.send(RelayNews::Lost { relay }).await;
        });
    }

    /// Sends a stream through the relay, and watches it from now on.
    pub(super) fn connect(
        &mut self,
        relay: RelayId,
        control: StreamControl,
        (socket, remote_id, to): (&Socket, u32, SocketAddrV4),
    ) {
        let to = SocketAddr::V4(to);
        if let Err(error) = control.connect(socket, remote_id, to) {
            tracing::debug!(%error, "stream can not be connected through the relay");
            return;
        }
        // The relay drops what goes to a side that it has not heard.
        let _ = control.send_message(&[]);
        let watched = control.clone();
        self.watched.push(Box::pin(async move {
            let _ = watched.closed().await;
            Some(RelayNews::Closed { relay })
        }));
        let watched = control.clone();
        self.watched.push(Box::pin(async move {
            let source = heard_elsewhere(&watched, to).await?;
            Some(RelayNews::Heard {
                stream: watched.id(),
                source,
            })
        }));
        if let Some(entry) = self.entries.get_mut(&relay) {
            entry.stream = Some((control, to));
        }
    }

    /// Sends a relayed stream the direct way. The peer learns it by an empty message there, once everything sent through
    /// the relay has arrived; its packets on that way confirm it.
    pub(super) fn change_remote(
        &mut self,
        relay: RelayId,
        (socket, remote_id, to): (&Socket, u32, SocketAddrV4),
    ) {
        let stream = self.entries.get(&relay).and_then(|entry| entry.stream.clone());
        let Some((control, relay_address)) = stream else {
            return;
        };
        if let Err(error) = control.change_remote(socket, remote_id, to.into()) {
            tracing::debug!(%error, "stream can not be moved");
            return;
        }
        self.watched.push(Box::pin(async move {
            while control.is_moving() {
                tokio::time::sleep(SETTLE_EVERY).await;
            }
            let _ = control.send_message(&[]);
            heard_elsewhere(&control, relay_address).await?;
            Some(RelayNews::Direct { relay })
        }));
    }

    /// Ends the connection to a relay.
    pub(super) fn release(&mut self, relay: RelayId) {
        if let Some(entry) = self.entries.remove(&relay) {
            entry.release.cancel();
        }
    }

    /// Destroys a relayed stream that the application has.
    pub(super) fn destroy(&mut self, stream: u32) {
        for (control, _) in self.entries.values().filter_map(|entry| entry.stream.as_ref()) {
            if control.id() == stream {
                control.destroy();
            }
        }
    }
}

/// Waits for a packet of the stream from elsewhere than the relay; `None` if it closes first.
async fn heard_elsewhere(control: &StreamControl, relay: SocketAddr) -> Option<Source> {
    control.heard(|source| source.address != relay).await
}
