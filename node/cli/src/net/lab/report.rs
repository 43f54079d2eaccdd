//! What came of it.

use std::fmt;

use cumulet_net_lab::peers::Summary;
use cumulet_net_lab::probe::Dialled;
use cumulet_net_lab::{Carried, Lab, Traffic, Usage};
use serde::Serialize;

use crate::failure::Result;

/// What came of a run.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    topology: String,
    seed: u64,
    connected: bool,
    /// `direct`, `relayed`, `local`; null if not connected, or nothing went either way.
    way: Option<&'static str>,
    connected_ms: Option<u64>,
    /// What our own client measured.
    measured: Option<Dialled>,
    client_received: Received,
    server_received: Received,
    /// What the user's own programs used.
    client_used: Option<Usage>,
    server_used: Option<Usage>,
    /// What came of the simulated peers.
    peers: Option<PeersReport>,
    pub(super) error: Option<String>,
}

/// Bytes of IP packets that a side received.
#[derive(Debug, Default, Serialize)]
struct Received {
    /// From the other side, directly.
    peer: u64,
    /// From bootstrap nodes and the relay.
    services: u64,
    /// From simulated peers, directly.
    simulated: u64,
}

/// What came of the simulated peers.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PeersReport {
    #[serde(flatten)]
    pub(super) summary: Summary,
    /// How long the run took once all were in, seconds.
    pub(super) seconds: u64,
    /// Bytes of frames, also to and from each other.
    pub(super) carried: Carried,
    /// What this process used for them: time since before they came, and by how much its memory grew.
    pub(super) used: Usage,
}

/// How a run ended.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) connected_ms: Option<u64>,
    pub(super) measured: Option<Dialled>,
    /// Of the user's programs: the client's and the server's.
    pub(super) used: Option<[Usage; 2]>,
    pub(super) error: Option<String>,
}

impl Outcome {
    pub(super) fn failed(error: impl Into<String>) -> Self {
        Self {
            error: Some(error.into()),
            ..Self::default()
        }
    }
}

impl Report {
    /// `sides`: site and host of client and server. Sites from `first_simulated` on are those of simulated peers.
    pub(super) fn new(
        lab: &Lab,
        sides: [(usize, usize); 2],
        (topology, first_simulated): (String, usize),
        outcome: Outcome,
        peers: Option<PeersReport>,
    ) -> Result<Self> {
        let [client, server] = sides;
        let same_site = client.0 == server.0;
        let received = |(site, host): (usize, usize), other: usize| -> Result<Received> {
            let traffic: Traffic = lab.traffic(site, host)?;
            let direct = traffic.sites.get(&other).copied().unwrap_or(0);
            Ok(Received {
                peer: if same_site { traffic.neighbours } else { direct },
                services: traffic.services,
                simulated: traffic
                    .sites
                    .range(first_simulated..)
                    .map(|(_, bytes)| bytes)
                    .sum(),
            })
        };
        let client_received = received(client, server.0)?;
        let server_received = received(server, client.0)?;
        let both = client_received.peer > 0 && server_received.peer > 0;
        let way = outcome.connected_ms.map(|_| match &outcome.measured {
            Some(measured) if measured.relayed && !measured.moved => "relayed",
            // What our own peers say; of others only the packets are known.
            Some(_) if same_site => "local",
            Some(_) => "direct",
            None if both && same_site => "local",
            None if both => "direct",
            None => "relayed",
        });
        let [client_used, server_used] = match outcome.used {
            Some(used) => used.map(Some),
            None => [None, None],
        };
        Ok(Self {
            topology,
            seed: lab.topology().seed,
            connected: outcome.connected_ms.is_some(),
            way,
            connected_ms: outcome.connected_ms,
            measured: outcome.measured,
            client_received,
            server_received,
            client_used,
            server_used,
            peers,
            error: outcome.error,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "topology    {}, seed {}", self.topology, self.seed)?;
        match self.connected_ms {
            Some(ms) => writeln!(f, "connected   in {ms} ms")?,
            None => writeln!(f, "connected   no")?,
        }
        writeln!(f, "way         {}", self.way.unwrap_or("none"))?;
        if let Some(measured) = &self.measured {
            writeln!(f, "joined      in {} ms", measured.joined_ms)?;
            writeln!(f, "round trip  {} ms", measured.round_trip_ms)?;
            writeln!(
                f,
                "transfer    {} bytes there and back in {} ms",
                measured.bytes, measured.transfer_ms
            )?;
        }
        let sides = [
            ("client", "server", &self.client_received, &self.client_used),
            ("server", "client", &self.server_received, &self.server_used),
        ];
        for (index, (side, other, got, used)) in sides.into_iter().enumerate() {
            let end = if index == 0 { "" } else { "\n" };
            write!(
                f,
                "{end}{side} got  {} bytes from the {other} itself, {} from services",
                got.peer, got.services
            )?;
            if self.peers.is_some() {
                write!(f, ", {} from simulated peers", got.simulated)?;
            }
            if let Some(used) = used {
                write!(f, "\n{side} used {used}", used = Used(used))?;
            }
        }
        match &self.peers {
            Some(peers) => write!(f, "\n{peers}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for PeersReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Summary {
            peers,
            in_ms,
            came,
            left,
            goodbyes,
            failed,
            lookups,
            connections,
            first_connection_ms,
            unconnected,
        } = &self.summary;
        let joined = in_ms.map_or_else(|| "not all in".to_owned(), |ms| format!("all in after {ms} ms"));
        writeln!(
            f,
            "peers       {peers} at a time, {joined}; watched for {} s",
            self.seconds
        )?;
        writeln!(
            f,
            "churn       {came} came, {left} left, {goodbyes} of them with a goodbye, {failed} could not start"
        )?;
        writeln!(
            f,
            "lookups     {} of {} answered, {} found a peer, the longest took {} ms",
            lookups.answered, lookups.asked, lookups.found, lookups.longest_ms
        )?;
        write!(
            f,
            "links       {} dialled, {} accepted, {} of them relayed",
            connections.dialled, connections.accepted, connections.relayed
        )?;
        match connections.with_others {
            Some(others) => writeln!(f, ", {others} with the programs")?,
            None => writeln!(f)?,
        }
        match first_connection_ms {
            Some(first) => write!(
                f,
                "first link  after {} ms at least, {} median, {} p99",
                first.min, first.median, first.p99
            )?,
            None => write!(f, "first link  none")?,
        }
        writeln!(f, "; {unconnected} peers had none")?;
        writeln!(
            f,
            "carried     {} bytes sent by the peers, {} received",
            self.carried.sent, self.carried.received
        )?;
        write!(f, "simulation  used {}", Used(&self.used))
    }
}

/// For people.
struct Used<'a>(&'a Usage);

impl fmt::Display for Used<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Usage { cpu_ms, rss_bytes } = self.0;
        write!(
            f,
            "{cpu_ms} ms of processor time and {} KiB of memory",
            rss_bytes / 1_024
        )
    }
}
