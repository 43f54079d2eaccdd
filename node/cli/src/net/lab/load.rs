//! Simulated peers around the two programs.

use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use cumulet_hyperswarm::Mode;
use cumulet_net_lab::peers::{Behaviour, MAX_PEERS, Peers, PeersError};
use cumulet_net_lab::{Carried, Household, Lab, Services, Topology, Usage};

use super::report::PeersReport;
use crate::failure::{Failure, Result};
use crate::output::{Output, Unit};

/// The longest run, a week.
const MAX_SECONDS: u64 = 7 * 86_400;
/// How often a progress line is brought up to date.
const TICK: Duration = Duration::from_secs(1);

/// What simulated peers do.
#[derive(Debug, Args)]
#[command(next_help_heading = "Simulated peers")]
pub(super) struct LoadOptions {
    /// So many simulated peers beside the two programs: they join a topic, look it up, and connect with all who joined it
    /// [at most: 2000].
    #[arg(long, value_name = "N", value_parser = count)]
    peers: Option<usize>,
    /// The kinds of networks they are in, spread evenly.
    #[arg(long, value_name = "SITE:SITE…", default_value = "open", requires = "peers")]
    peers_at: String,
    /// What they do in the topic.
    #[arg(long, value_enum, value_name = "ROLE", default_value_t = Role::Both, requires = "peers")]
    peers_as: Role,
    /// Each stays so long on average, and another one comes in its place; half leave without a goodbye [default: all stay].
    #[arg(long, value_name = "SECONDS", requires = "peers", value_parser = clap::value_parser!(u64).range(1..=MAX_SECONDS))]
    churn: Option<u64>,
    /// How long the run lasts once all peers are in.
    #[arg(long, value_name = "SECONDS", requires = "peers", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=MAX_SECONDS))]
    seconds: u64,
    /// The topic they join, 64 hex digits; programs find it in $CUMULET_TOPIC [default: one of the seed's].
    #[arg(long, value_name = "TOPIC", requires = "peers", value_parser = topic)]
    topic: Option<[u8; 32]>,
    /// Connections that each peer has at most.
    #[arg(long, value_name = "N", requires = "peers", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=64))]
    links: u16,
}

/// What simulated peers do in the topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Role {
    /// They announce themselves and dial whom they find.
    Both,
    /// They only dial whom they find: all load is on the programs that announce themselves.
    Clients,
    /// They only announce themselves: programs find and dial them.
    Servers,
}

fn count(text: &str) -> std::result::Result<usize, String> {
    match text.parse() {
        Ok(count) if (1..=MAX_PEERS).contains(&count) => Ok(count),
        _ => Err(format!("there may be 1 to {MAX_PEERS} peers")),
    }
}

fn topic(text: &str) -> std::result::Result<[u8; 32], String> {
    let mut topic = [0; 32];
    hex::decode_to_slice(text, &mut topic).map_err(|error| format!("a topic is 64 hex digits: {error}"))?;
    Ok(topic)
}

impl LoadOptions {
    /// Adds places for the peers to the network.
    pub(super) fn place(&self, topology: &mut Topology) -> Result<Vec<Household>> {
        let Some(peers) = self.peers else {
            return Ok(Vec::new());
        };
        let added = Topology::parse_kinds(&self.peers_at).and_then(|kinds| topology.add_peers(peers, &kinds));
        added.map_err(|error| {
            Failure::usage(format!("--peers-at: {error}")).hint("`cumulet net lab --list` names all kinds")
        })
    }

    /// Starts the peers, if there are to be any, and waits until all are in.
    pub(super) async fn start(
        &self,
        lab: &Lab,
        households: &[Household],
        (out, relays): (&Output, Vec<[u8; 32]>),
    ) -> Result<Option<Load>> {
        let Some(count) = self.peers else {
            return Ok(None);
        };
        let seed = lab.topology().seed;
        let of_seed = || cumulet_hyperdht::hash(&[b"lab topic", &seed.to_le_bytes()]);
        let topic = self.topic.unwrap_or_else(of_seed);
        let behaviour = Behaviour {
            bootstrap: Services::bootstrap(),
            relays,
            topic,
            mode: match self.peers_as {
                Role::Both => Mode::BOTH,
                Role::Clients => Mode::CLIENT,
                Role::Servers => Mode::SERVER,
            },
            links: self.links.into(),
            stay: self.churn.map(Duration::from_secs),
            seed,
        };
        let before = Usage::own()?;
        let peers = Peers::start(lab, households, behaviour).map_err(refused)?;
        let bar = out.progress(Some(count as u64), Unit::Peers);
        let mut ticks = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                all_in = peers.all_in() => break all_in.map_err(refused)?,
                _ = ticks.tick() => bar.set_position(peers.arrived()),
            }
        }
        bar.finish_and_clear();
        let in_ms = peers.summary().in_ms.unwrap_or_default();
        out.note(format_args!(
            "seed {seed}: {count} simulated peers are in after {in_ms} ms"
        ));
        let begun = Instant::now();
        Ok(Some(Load {
            peers,
            topic,
            before,
            begun,
            until: begun + Duration::from_secs(self.seconds),
        }))
    }
}

fn refused(error: PeersError) -> Failure {
    let hint = match &error {
        PeersError::Files { .. } => "raise the limit of open files (`ulimit -n`), or take fewer peers",
        _ => "with fewer --peers it may work; CUMULET_LOG=debug shows what is tried",
    };
    Failure::from(error).hint(hint)
}

/// Running peers.
pub(super) struct Load {
    peers: Peers,
    topic: [u8; 32],
    /// What this process used before they came.
    before: Usage,
    begun: Instant,
    until: Instant,
}

impl Load {
    /// The topic in hex.
    pub(super) fn topic(&self) -> String {
        hex::encode(self.topic)
    }

    /// Returns when the run is over.
    pub(super) async fn over(&self, out: &Output) {
        let seconds = self.until.saturating_duration_since(self.begun).as_secs();
        let bar = out.progress(Some(seconds), Unit::Seconds);
        let mut ticks = tokio::time::interval(TICK);
        let end = tokio::time::sleep_until(self.until.into());
        tokio::pin!(end);
        loop {
            tokio::select! {
                () = &mut end => break,
                _ = ticks.tick() => {
                    bar.set_position(self.begun.elapsed().as_secs());
                    let now = self.peers.summary();
                    bar.set_message(format!(
                        "{} came, {} left; {} of {} lookups answered; {} links",
                        now.came, now.left, now.lookups.answered, now.lookups.asked,
                        now.connections.dialled + now.connections.accepted,
                    ));
                }
            }
        }
        bar.finish_and_clear();
    }

    pub(super) fn report(&self) -> Result<PeersReport> {
        let carried: Carried = self.peers.carried().map_err(refused)?;
        let now = Usage::own()?;
        Ok(PeersReport {
            summary: self.peers.summary(),
            seconds: self.begun.elapsed().as_secs(),
            carried,
            used: Usage {
                cpu_ms: now.cpu_ms.saturating_sub(self.before.cpu_ms),
                rss_bytes: now.rss_bytes.saturating_sub(self.before.rss_bytes),
            },
        })
    }
}
