//! What is measured.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::path::{Profile, Route};
use crate::process::{Places, Program, Side, number};

/// Bytes of a stream over loopback, and over the long path.
const LOOPBACK_BYTES: u32 = 128 << 20;
const PATH_BYTES: u32 = 4 << 20;
const MIB: f64 = 1_048_576.0;
/// Connections opened one after the other.
const CONNECTIONS: usize = 50;
/// Connections kept.
const IDLE: usize = 1_000;
/// How long they are left alone before memory is looked at.
const REST: Duration = Duration::from_secs(2);

/// Round trip time 100 ms, of a hundred packets two are lost, each way.
const LONG_PATH: Profile = Profile {
    rate: 100.0 * 125_000.0,
    delay: Duration::from_millis(50),
    queue: Duration::from_millis(100),
    loss: 0.02,
};

/// Which way a value is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Better {
    More,
    Less,
}

/// One value of one side.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) better: Better,
    pub(crate) value: f64,
}

/// A kind of measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Row {
    Loopback,
    LongPath,
    SetUp,
    Idle,
}

impl Row {
    pub(crate) const ALL: [Self; 4] = [Self::Loopback, Self::LongPath, Self::SetUp, Self::Idle];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Loopback => "stream over loopback",
            Self::LongPath => "stream, 2 % loss, 100 ms RTT",
            Self::SetUp => "connection set-up",
            Self::Idle => "idle connections",
        }
    }
}

pub(crate) async fn measure(places: &Places, row: Row, side: Side) -> Result<Vec<Measured>> {
    match row {
        Row::Loopback => {
            let (speed, cpu) = stream(places, side, LOOPBACK_BYTES, None).await?;
            Ok(vec![
                Measured {
                    name: row.name(),
                    unit: "MiB/s",
                    better: Better::More,
                    value: speed,
                },
                Measured {
                    name: "CPU of both sides of it",
                    unit: "ms per MiB",
                    better: Better::Less,
                    value: cpu,
                },
            ])
        }
        Row::LongPath => {
            let (speed, _) = stream(places, side, PATH_BYTES, Some(LONG_PATH)).await?;
            Ok(vec![Measured {
                name: row.name(),
                unit: "MiB/s",
                better: Better::More,
                value: speed,
            }])
        }
        Row::SetUp => set_up(places, side).await,
        Row::Idle => idle(places, side).await,
    }
}

/// MiB/s until everything is acknowledged, and milliseconds of processor time per MiB of both processes.
async fn stream(places: &Places, side: Side, bytes: u32, path: Option<Profile>) -> Result<(f64, f64)> {
    let mut receiver = Program::start(places, side, "udx", &["receive"])?;
    let port = u16::try_from(receiver.next().await?.as_u64().context("no port")?)?;
    let route = path.map(|profile| Route::start(profile, port)).transpose()?;
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
    let cpu = number(&sent, "cpu")? + number(&arrived, "cpu")?;
    let speed = mib / number(&sent, "seconds")?;
    sender.end().await?;
    receiver.end().await?;
    Ok((speed, cpu * 1_000.0 / mib))
}

/// A DHT, and a server of this side in it.
struct Served {
    dht: Program,
    bootstrap: String,
    server: Program,
    key: String,
}

impl Served {
    async fn start(places: &Places, side: Side) -> Result<Self> {
        let mut dht = Program::start_peer(places)?;
        let testnet = dht
            .ask(&json!({ "id": 1, "cmd": "testnet", "size": 4 }).to_string())
            .await?;
        let bootstrap = testnet["bootstrap"][0].as_str().context("no DHT")?.to_owned();
        let mut server = Program::start(places, side, "dht", &["serve", &bootstrap])?;
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
    let times = answer["seconds"].as_array().context("no times")?;
    let mut times: Vec<f64> = times.iter().filter_map(serde_json::Value::as_f64).collect();
    if times.len() != CONNECTIONS {
        bail!("{} of {CONNECTIONS} connections", times.len());
    }
    times.sort_by(f64::total_cmp);
    client.end().await?;
    served.end().await?;
    let line = |name, seconds: f64| Measured {
        name,
        unit: "ms",
        better: Better::Less,
        value: seconds * 1_000.0,
    };
    Ok(vec![
        line("connection set-up, median of 50", times[CONNECTIONS / 2]),
        line("connection set-up, slowest of 50", times[CONNECTIONS - 1]),
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
    Ok(vec![Measured {
        name: "server's RSS per 1000 idle connections",
        unit: "MiB",
        better: Better::Less,
        value: grown,
    }])
}
