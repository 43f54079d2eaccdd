//! What is measured.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::path::{Profile, Route};
use crate::process::{Places, Program, Side, number};
use crate::shares::{Crossing, Times};

/// Bytes of a stream over loopback, over a long path, and through a relay.
const LOOPBACK_BYTES: u32 = 512 << 20;
const PATH_BYTES: u32 = 32 << 20;
const RELAYED_BYTES: u32 = 256 << 20;
const MIB: f64 = 1_048_576.0;
const MIB_PER_GIB: f64 = 1_024.0;
/// Connections opened one after the other.
const CONNECTIONS: usize = 50;
/// Connections, and lookups, 16 at once. A node of ours admits 512 handshakes of one host in a row, and 128 per second from there on;
/// the row is to measure the work, not that ration.
const CROWD: usize = 400;
/// Connections kept.
const IDLE: usize = 1_000;
/// Links kept at a relay: two connections each, within the same ration.
const LINKS: usize = 200;
/// Cores that a blind peer announces.
const ANNOUNCED: [(usize, &str); 2] = [
    (100, "blind peer's RSS with 100 announced cores"),
    (1_000, "the same with 1000"),
];
/// How long a blind peer is left alone before memory is looked at: its app has gone.
const LEFT_ALONE: Duration = Duration::from_secs(5);
/// How long they are left alone before memory is looked at.
const REST: Duration = Duration::from_secs(2);

/// 100 Mbit/s, round trip time 100 ms, a queue as long, and a share of packets lost each way.
const fn long_path(loss: f64) -> Profile {
    Profile {
        rate: 100.0 * 125_000.0,
        delay: Duration::from_millis(50),
        queue: Duration::from_millis(100),
        loss,
    }
}

/// Which way a value is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Better {
    More,
    Less,
}

/// One value of one side.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) name: String,
    pub(crate) unit: &'static str,
    pub(crate) better: Better,
    pub(crate) value: f64,
}

/// A kind of measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Row {
    Loopback,
    LongPath,
    LosingPath,
    BadPath,
    SetUp,
    Crowd,
    Lookups,
    Relay,
    Idle,
    Announced,
    Shares(Crossing),
}

impl Row {
    pub(crate) const ALL: [Self; 16] = [
        Self::Loopback,
        Self::LongPath,
        Self::LosingPath,
        Self::BadPath,
        Self::SetUp,
        Self::Crowd,
        Self::Lookups,
        Self::Relay,
        Self::Idle,
        Self::Announced,
        Self::Shares(Crossing::ALL[0]),
        Self::Shares(Crossing::ALL[1]),
        Self::Shares(Crossing::ALL[2]),
        Self::Shares(Crossing::ALL[3]),
        Self::Shares(Crossing::ALL[4]),
        Self::Shares(Crossing::ALL[5]),
    ];

    /// Whether it is measured in network namespaces.
    pub(crate) fn needs_lab(&self) -> bool {
        matches!(self, Self::Shares(_))
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Loopback => "stream over loopback",
            Self::LongPath => "stream, 100 ms RTT",
            Self::LosingPath => "stream, 1 % loss, 100 ms RTT",
            Self::BadPath => "stream, 2 % loss, 100 ms RTT",
            Self::SetUp => "connection set-up",
            Self::Crowd => "fresh connections",
            Self::Lookups => "lookups",
            Self::Relay => "blind relay",
            Self::Idle => "idle connections",
            Self::Announced => "announced cores",
            Self::Shares(crossing) => crossing.row,
        }
    }
}

pub(crate) fn more(name: impl Into<String>, unit: &'static str, value: f64) -> Measured {
    let better = Better::More;
    Measured {
        name: name.into(),
        unit,
        better,
        value,
    }
}

fn less(name: impl Into<String>, unit: &'static str, value: f64) -> Measured {
    let better = Better::Less;
    Measured {
        name: name.into(),
        unit,
        better,
        value,
    }
}

/// What a lossy path loses depends on the round: in one round both sides lose the same of their packets, in the next others.
pub(crate) async fn measure(
    places: &Places,
    row: Row,
    side: Side,
    round: u64,
    times: Times,
) -> Result<Vec<Measured>> {
    let path = match row {
        Row::Loopback => return loopback(places, side).await,
        Row::SetUp => return set_up(places, side).await,
        Row::Crowd => return crowd(places, side).await,
        Row::Lookups => return lookups(places, side).await,
        Row::Relay => return relay(places, side).await,
        Row::Idle => return idle(places, side).await,
        Row::Announced => return announced(places, side).await,
        Row::Shares(crossing) => return crossing.measure(places, side, times, round).await,
        Row::LongPath => long_path(0.0),
        Row::LosingPath => long_path(0.01),
        Row::BadPath => long_path(0.02),
    };
    let stream = stream(places, side, PATH_BYTES, Some((path, round))).await?;
    Ok(vec![more(row.name(), "MiB/s", stream.speed)])
}

async fn loopback(places: &Places, side: Side) -> Result<Vec<Measured>> {
    let stream = stream(places, side, LOOPBACK_BYTES, None).await?;
    Ok(vec![
        more(Row::Loopback.name(), "MiB/s", stream.speed),
        less("its sender's CPU", "s per GiB", stream.sender_cpu),
        less("its receiver's CPU", "s per GiB", stream.receiver_cpu),
    ])
}

/// How a stream went: MiB/s until everything was acknowledged, and each process's CPU seconds per GiB.
struct Streamed {
    speed: f64,
    sender_cpu: f64,
    receiver_cpu: f64,
}

async fn stream(places: &Places, side: Side, bytes: u32, path: Option<(Profile, u64)>) -> Result<Streamed> {
    let mut receiver = Program::start(places, side, "udx", &["receive"])?;
    let port = u16::try_from(receiver.next().await?.as_u64().context("no port")?)?;
    let route = path
        .map(|(profile, seed)| Route::start(profile, port, seed))
        .transpose()?;
    let port = route.as_ref().map_or(port, |route| route.left);
    let arguments = ["send", &port.to_string(), &bytes.to_string()];
    let mut sender = Program::start(places, side, "udx", &arguments)?;
    sender.next().await?;
    let sent = sender.next().await?;
    let arrived = receiver.next().await?;
    if arrived["bytes"].as_u64() != Some(u64::from(bytes)) {
        bail!("{arrived} of {bytes} bytes arrived");
    }
    let mib = f64::from(bytes) / MIB;
    let cpu = |value: &Value| Ok::<f64, anyhow::Error>(number(value, "cpu")? * MIB_PER_GIB / mib);
    let streamed = Streamed {
        speed: mib / number(&sent, "seconds")?,
        sender_cpu: cpu(&sent)?,
        receiver_cpu: cpu(&arrived)?,
    };
    sender.end().await?;
    receiver.end().await?;
    Ok(streamed)
}

/// A DHT, and a server of this side in it.
struct Served {
    dht: Program,
    bootstrap: String,
    server: Program,
    key: String,
}

impl Served {
    /// An echo server.
    async fn start(places: &Places, side: Side) -> Result<Self> {
        Self::serving(places, side, "dht", "serve").await
    }

    async fn serving(places: &Places, side: Side, folder: &str, mode: &str) -> Result<Self> {
        let mut dht = Program::start_peer(places)?;
        let testnet = dht
            .ask(&json!({ "id": 1, "cmd": "testnet", "size": 4 }).to_string())
            .await?;
        let bootstrap = testnet["bootstrap"][0].as_str().context("no DHT")?.to_owned();
        let mut server = Program::start(places, side, folder, &[mode, &bootstrap])?;
        let key = server.next().await?.as_str().context("no key")?.to_owned();
        Ok(Self {
            dht,
            bootstrap,
            server,
            key,
        })
    }

    fn client(&self, places: &Places, side: Side, mode: &str, count: usize) -> Result<Program> {
        let arguments = [mode, &self.bootstrap, &self.key, &count.to_string()];
        Program::start(places, side, "dht", &arguments)
    }

    async fn end(self) -> Result<()> {
        self.server.end().await?;
        self.dht.end().await
    }
}

/// From the call to the first byte that comes back.
async fn set_up(places: &Places, side: Side) -> Result<Vec<Measured>> {
    let served = Served::start(places, side).await?;
    let mut client = served.client(places, side, "connect", CONNECTIONS)?;
    let answer = client.next().await?;
    let times = sorted_seconds(&answer, CONNECTIONS)?;
    client.end().await?;
    served.end().await?;
    Ok(vec![
        less(
            "connection set-up, median of 50",
            "ms",
            times[CONNECTIONS / 2] * 1_000.0,
        ),
        less(
            "connection set-up, slowest of 50",
            "ms",
            times[CONNECTIONS - 1] * 1_000.0,
        ),
    ])
}

fn sorted_seconds(answer: &Value, count: usize) -> Result<Vec<f64>> {
    let times = answer["seconds"].as_array().context("no times")?;
    let mut times: Vec<f64> = times.iter().filter_map(Value::as_f64).collect();
    if times.len() != count {
        bail!("{} of {count}", times.len());
    }
    times.sort_by(f64::total_cmp);
    Ok(times)
}

/// What 16 at once do: each's milliseconds, sorted, and how many per second.
async fn at_once(places: &Places, side: Side, mode: &str) -> Result<(Vec<f64>, f64)> {
    let served = Served::start(places, side).await?;
    let mut client = served.client(places, side, mode, CROWD)?;
    let answer = client.next().await?;
    let times = sorted_seconds(&answer, CROWD)?;
    #[expect(clippy::cast_precision_loss, reason = "some hundreds")]
    let rate = CROWD as f64 / number(&answer, "elapsed")?;
    client.end().await?;
    served.end().await?;
    Ok((times.into_iter().map(|seconds| seconds * 1_000.0).collect(), rate))
}

async fn crowd(places: &Places, side: Side) -> Result<Vec<Measured>> {
    let (times, rate) = at_once(places, side, "crowd").await?;
    Ok(vec![
        more("fresh connections, 16 at once", "per second", rate),
        less("the same, median", "ms", times[CROWD / 2]),
        less("the same, 99th percentile", "ms", times[CROWD * 99 / 100]),
    ])
}

async fn lookups(places: &Places, side: Side) -> Result<Vec<Measured>> {
    let (times, _) = at_once(places, side, "lookups").await?;
    Ok(vec![
        less("lookup, 16 at once, median", "ms", times[CROWD / 2]),
        less(
            "lookup, 16 at once, 99th percentile",
            "ms",
            times[CROWD * 99 / 100],
        ),
    ])
}

/// The relay is measured; its clients are ours in both cases.
async fn relay(places: &Places, side: Side) -> Result<Vec<Measured>> {
    let mut relay = Served::serving(places, side, "relay", "relay").await?;
    let empty = relay.server.ask("").await?;
    let mut clients = relay.client(places, Side::Ours, "links", LINKS)?;
    clients.next().await?;
    tokio::time::sleep(REST).await;
    let before = relay.server.ask("").await?;
    clients.ask(&RELAYED_BYTES.to_string()).await?;
    let after = relay.server.ask("").await?;
    clients.end().await?;
    relay.end().await?;
    #[expect(clippy::cast_precision_loss, reason = "some hundreds")]
    let thousands = LINKS as f64 / 1_000.0;
    let cpu = number(&after, "cpu")? - number(&before, "cpu")?;
    let grown = (number(&before, "rss")? - number(&empty, "rss")?) / MIB;
    Ok(vec![
        more(
            "blind relay, MiB per second of a core",
            "MiB/s",
            f64::from(RELAYED_BYTES) / MIB / cpu,
        ),
        less(
            "blind relay's RSS per 1000 links (of 200)",
            "MiB",
            grown / thousands,
        ),
    ])
}

/// What a server's memory grows by.
async fn idle(places: &Places, side: Side) -> Result<Vec<Measured>> {
    let mut served = Served::start(places, side).await?;
    let before = number(&served.server.ask("").await?, "rss")?;
    let mut client = served.client(places, side, "hold", IDLE)?;
    client.next().await?;
    tokio::time::sleep(REST).await;
    let after = served.server.ask("").await?;
    #[expect(clippy::cast_precision_loss, reason = "a thousand")]
    let wanted = IDLE as f64;
    if number(&after, "open")? < wanted {
        bail!("{after}: not all connections are open");
    }
    client.end().await?;
    let grown = (number(&after, "rss")? - before) / MIB;
    served.end().await?;
    Ok(vec![less("server's RSS per 1000 idle connections", "MiB", grown)])
}

/// All of a blind peer's memory. Ours is the whole node; the app is JavaScript's in both cases.
async fn announced(places: &Places, side: Side) -> Result<Vec<Measured>> {
    let mut measured = Vec::new();
    for (count, name) in ANNOUNCED {
        let mut served = Served::serving(places, side, "relay", "keep").await?;
        let arguments = ["store", &served.bootstrap, &served.key, &count.to_string()];
        let mut app = Program::start(places, Side::Js, "relay", &arguments)?;
        let stored = app.next().await?;
        if stored["announced"].as_u64() != Some(count as u64) {
            bail!("{stored} of {count} cores are announced");
        }
        app.end().await?;
        tokio::time::sleep(LEFT_ALONE).await;
        let after = served.server.ask("").await?;
        served.end().await?;
        measured.push(less(name, "MiB", number(&after, "rss")? / MIB));
    }
    Ok(measured)
}
