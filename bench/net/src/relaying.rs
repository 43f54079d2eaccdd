//! A blind relay of ours, and the clients of whichever relay is measured: pairs of streams that meet there.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use cumulet_hyperdht::{ConnectOptions, Dht, ListenOptions};
use cumulet_relay::Key;
use cumulet_relay::blind_relay::{
    Admission, AllowList, Limits, MemberLimits, Pair, Peer, Relay, RelayOptions, pair,
};
use cumulet_secret_stream::noise::KeyPair;
use cumulet_udx::{StreamOptions, UdxStream};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::crowd::AT_ONCE;
use crate::side::{CHUNK, Clients, node, processor_seconds, random, resident};

/// A link whose streams say nothing must outlast the row.
const LINK_IDLE: Duration = Duration::from_mins(10);
const HELLO: [u8; 5] = *b"hello";

/// A relay for everybody: prints its public key, then, for every line on stdin, `{"cpu", "rss"}`.
pub(crate) async fn serve(bootstrap: String) -> Result<()> {
    let dht = node(bootstrap).await?;
    let member = MemberLimits {
        links: usize::MAX,
        ..MemberLimits::default()
    };
    // JavaScript's relay has no limits; these are beyond what the row asks for.
    let limits = Limits {
        sessions: 8_192,
        links: 4_096,
        link_idle: LINK_IDLE,
        ..Limits::default()
    };
    let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
    let relay = Relay::new(
        dht.endpoint().clone(),
        Arc::new(AllowList::with_others(Admission::Member(member))),
        RelayOptions {
            limits,
            ..RelayOptions::default()
        },
        &tasks,
        cancel,
    );
    let key_pair = KeyPair::from_seed(random()?);
    let mut server = dht.listen(key_pair.clone(), ListenOptions::default()).await?;
    server.announced().await;
    println!("{}", json!(hex::encode(key_pair.public_key())));
    tasks.spawn(async move {
        let mut clients = JoinSet::new();
        while let Some(connection) = server.accept().await {
            let relay = relay.clone();
            clients.spawn(async move {
                let _ = relay
                    .serve(Peer {
                        identity: connection.remote_public_key,
                        handshake: connection.handshake,
                        stream: connection.stream,
                    })
                    .await;
            });
        }
    });
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while lines.next_line().await?.is_some() {
        println!("{}", json!({ "cpu": processor_seconds()?, "rss": resident()? }));
    }
    Ok(())
}

/// Both ends of a link. The relay keeps it while the connections behind `kept` live.
struct Link {
    ends: [UdxStream; 2],
}

/// Makes links at the relay and prints `{"open"}`; then, for every number on stdin, sends as many bytes over the first of them and
/// prints `{"seconds"}`.
pub(crate) async fn clients(clients: Clients) -> Result<()> {
    let dht = node(clients.bootstrap.clone()).await?;
    let key = clients.key()?;
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    let mut tasks = JoinSet::new();
    for _ in 0..clients.count {
        let turn = turns.clone().acquire_owned().await?;
        let dht = dht.clone();
        tasks.spawn(async move {
            let link = Link::open(&dht, key).await;
            drop(turn);
            link
        });
    }
    let mut links = Vec::with_capacity(clients.count);
    while let Some(link) = tasks.join_next().await {
        links.push(link??);
    }
    println!("{}", json!({ "open": links.len() }));
    let mut input = BufReader::new(tokio::io::stdin()).lines();
    while let Some(amount) = input.next_line().await? {
        let bytes = amount.trim().parse().context("not a number of bytes")?;
        let seconds = links.first_mut().context("no link")?.carry(bytes).await?;
        println!("{}", json!({ "seconds": seconds }));
    }
    Ok(())
}

impl Link {
    async fn open(dht: &Dht, relay: Key) -> Result<Self> {
        let token = random()?;
        let (a, b) = tokio::try_join!(end(dht, relay, token, true), end(dht, relay, token, false))?;
        let mut link = Self { ends: [a, b] };
        // A relay learns where a stream is from its first packet.
        let [a, b] = &mut link.ends;
        tokio::try_join!(greet(a), greet(b))?;
        Ok(link)
    }

    async fn carry(&mut self, bytes: usize) -> Result<f64> {
        let [from, to] = &mut self.ends;
        let started = Instant::now();
        let sending = async {
            let chunk = vec![7; CHUNK];
            for _ in 0..bytes / CHUNK {
                from.write_all(&chunk).await?;
            }
            anyhow::Ok(())
        };
        let receiving = async {
            let (mut chunk, mut left) = (vec![0; 4 * CHUNK], bytes / CHUNK * CHUNK);
            while left > 0 {
                let read = to.read(&mut chunk).await?;
                if read == 0 {
                    bail!("the link ended with {left} bytes to come");
                }
                left -= read;
            }
            anyhow::Ok(())
        };
        tokio::try_join!(sending, receiving)?;
        Ok(started.elapsed().as_secs_f64())
    }
}

async fn greet(stream: &mut UdxStream) -> Result<()> {
    stream.write_all(&HELLO).await?;
    let mut heard = [0; HELLO.len()];
    stream.read_exact(&mut heard).await?;
    if heard == HELLO {
        Ok(())
    } else {
        Err(anyhow!("the relay brought {heard:?}"))
    }
}

async fn end(dht: &Dht, relay: Key, token: Key, is_initiator: bool) -> Result<UdxStream> {
    let key_pair = KeyPair::from_seed(random()?);
    let identity = *key_pair.public_key();
    let connection = dht.connect(relay, ConnectOptions::new(key_pair)).await?;
    let source = connection.stream.remote().context("not connected")?;
    let stream = dht.endpoint().create_stream(StreamOptions::default())?;
    let request = Pair {
        is_initiator,
        token,
        id: u64::from(stream.id()),
        seq: 0,
    };
    let peer = Peer {
        identity: connection.remote_public_key,
        handshake: connection.handshake,
        stream: connection.stream,
    };
    let pairing = pair(peer, &identity, request).await?;
    stream.connect(&source.socket, pairing.remote_id(), source.address)?;
    // The program's end is the link's.
    TaskTracker::new().spawn(pairing.hold(std::future::pending()));
    Ok(stream)
}
