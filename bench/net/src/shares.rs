//! What a stream leaves to another one on the same bottleneck: a line of a lab of network namespaces, whose queue both share.
//!
//! The measured stream is ours or libudx's; beside it runs TCP of the kernel, or libudx. Shares are of what arrived at both
//! programs, without what was sent twice.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use cumulet_net_lab::{Lab, Namespace, Topology};
use tokio::task::JoinSet;

use crate::process::{Places, Program, Side, number};
use crate::rows::{Measured, more};

/// What TCP can do here.
const CONTROLS: &str = "/proc/sys/net/ipv4/tcp_available_congestion_control";
/// What runs beside the measured stream.
const RIVALS: [(&str, Transport); 3] = [
    ("CUBIC", Transport::Tcp("cubic")),
    ("Reno", Transport::Tcp("reno")),
    ("libudx", Transport::Udx(Side::Js)),
];

/// How long two streams run before, and while, their shares are measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    pub(crate) before: Duration,
    pub(crate) measured: Duration,
}

/// A bottleneck, in the direction in which both streams send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Crossing {
    pub(crate) row: &'static str,
    mbit: u64,
    round_trip_ms: u64,
    /// How long the queue is, of which four fill the path.
    queue_quarters: u64,
}

const fn crossing(row: &'static str, mbit: u64, round_trip_ms: u64, queue_quarters: u64) -> Crossing {
    Crossing {
        row,
        mbit,
        round_trip_ms,
        queue_quarters,
    }
}

impl Crossing {
    pub(crate) const ALL: [Self; 6] = [
        crossing("shares, 10 Mbit/s, 40 ms, queue 1/4", 10, 40, 1),
        crossing("shares, 10 Mbit/s, 40 ms, queue 1", 10, 40, 4),
        crossing("shares, 10 Mbit/s, 40 ms, queue 4", 10, 40, 16),
        crossing("shares, 20 Mbit/s, 100 ms, queue 1/4", 20, 100, 1),
        crossing("shares, 20 Mbit/s, 100 ms, queue 1", 20, 100, 4),
        crossing("shares, 20 Mbit/s, 100 ms, queue 4", 20, 100, 16),
    ];

    /// The line of the senders; that of the receivers is perfect.
    fn topology(&self) -> String {
        format!(
            "open+rate={}Mbit+delay={}ms+queue={}ms:open",
            self.mbit,
            self.round_trip_ms / 2,
            self.round_trip_ms * self.queue_quarters / 4
        )
    }

    /// The side's stream beside each rival, each pair on a bottleneck of its own, at the same time.
    pub(crate) async fn measure(
        &self,
        places: &Places,
        side: Side,
        times: Times,
        round: u64,
    ) -> Result<Vec<Measured>> {
        let controls = fs::read_to_string(CONTROLS).unwrap_or_default();
        let mut pairs = JoinSet::new();
        for (place, (name, rival)) in RIVALS.into_iter().enumerate() {
            if let Transport::Tcp(control) = rival
                && !controls.split_whitespace().any(|available| available == control)
            {
                continue;
            }
            let topology = Topology::parse(&self.topology(), round)?;
            let places = places.clone();
            pairs.spawn(async move {
                let shares = beside(&places, topology, Transport::Udx(side), rival, times).await;
                (place, shares.with_context(|| format!("beside {name}")))
            });
        }
        let path = self.row.strip_prefix("shares, ").unwrap_or(self.row);
        let mut shared = pairs.join_all().await;
        shared.sort_by_key(|(place, _)| *place);
        let mut measured = Vec::new();
        for (place, shares) in shared {
            let (name, _) = RIVALS[place];
            let Shares { rival, both } = shares?;
            measured.push(more(format!("{name}'s share, {path}"), "", rival));
            measured.push(more(format!("both with {name}, {path}"), "Mbit/s", both));
        }
        Ok(measured)
    }
}

/// Who makes a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    Udx(Side),
    /// The kernel's, with this congestion control.
    Tcp(&'static str),
}

/// A stream that runs.
struct Flow {
    sender: Program,
    receiver: Program,
}

impl Flow {
    async fn start(places: &Places, lab: &Lab, transport: Transport) -> Result<Self> {
        let (side, tcp) = match transport {
            Transport::Udx(side) => (side, None),
            Transport::Tcp(control) => (Side::Ours, Some(control)),
        };
        let start = |namespace: &Namespace, arguments: &[&str]| {
            Program::start_within(namespace, places, side, "udx", arguments)
        };
        let host = lab.public_address(1).to_string();
        let mut arguments = vec!["take", &host];
        arguments.extend(tcp.map(|_| "--tcp"));
        let mut receiver = start(&lab.host(1, 0), &arguments)?;
        let port = receiver.next().await?.to_string();
        let mut arguments = vec!["pour", &host, &port];
        arguments.extend(tcp.into_iter().flat_map(|control| ["--tcp", control]));
        let mut sender = start(&lab.host(0, 0), &arguments)?;
        sender.next().await?;
        Ok(Self { sender, receiver })
    }

    /// What has arrived.
    async fn bytes(&mut self) -> Result<f64> {
        number(&self.receiver.ask("").await?, "bytes")
    }

    async fn end(self) -> Result<()> {
        self.sender.end().await?;
        self.receiver.end().await
    }
}

/// How a bottleneck was shared.
struct Shares {
    /// What the rival got of what both got.
    rival: f64,
    /// Payload of both, Mbit/s.
    both: f64,
}

async fn beside(
    places: &Places,
    topology: Topology,
    measured: Transport,
    rival: Transport,
    times: Times,
) -> Result<Shares> {
    let lab = Lab::up(topology)?;
    let (measured, rival) = tokio::join!(
        Flow::start(places, &lab, measured),
        Flow::start(places, &lab, rival)
    );
    let mut flows = [measured?, rival?];
    tokio::time::sleep(times.before).await;
    let started = Instant::now();
    let mut arrived = [0.0; 2];
    for (flow, arrived) in flows.iter_mut().zip(&mut arrived) {
        *arrived -= flow.bytes().await?;
    }
    tokio::time::sleep(times.measured).await;
    for (flow, arrived) in flows.iter_mut().zip(&mut arrived) {
        *arrived += flow.bytes().await?;
    }
    let seconds = started.elapsed().as_secs_f64();
    for flow in flows {
        flow.end().await?;
    }
    let [measured, rival] = arrived;
    let both = measured + rival;
    if both <= 0.0 {
        bail!("nothing arrived");
    }
    Ok(Shares {
        rival: rival / both,
        both: both * 8.0 / 1e6 / seconds,
    })
}
