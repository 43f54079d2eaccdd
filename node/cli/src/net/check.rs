//! `net check`: how this machine is connected, and what to do about it.
//!
//! All is measured by a DHT node of our own: which bootstrap nodes answer, at which addresses they see us, whether a stranger's
//! packet arrives. What can't be known is said to be unknown.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use clap::Args;
use cumulet_hypercore::key;
use cumulet_hyperdht::{ConnectOptions, Dht, DhtConfig, DhtStatus};
use cumulet_secret_stream::noise::KeyPair;
use serde::Serialize;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::sntp;
use crate::failure::{Context, Failure, Kind, Result};
use crate::secrets;
use crate::session::Session;

pub(crate) const EXAMPLES: &str = "\
Examples:
  cumulet net check
  cumulet net check --relay <key> --ntp pool.ntp.org:123
  cumulet net check --bootstrap 10.0.0.5:49737 --port 49737 --json
It ends with 1 if something is wrong, and says what.";

/// Nodes that must have seen us before their votes say what kind of NAT there is.
const ENOUGH: u8 = 3;
/// How long one bootstrap node has to answer.
const PATIENCE: Duration = Duration::from_secs(6);
/// How long the tests of our own address may take after that: three requests, each repeated three times.
const SETTLING: Duration = Duration::from_secs(10);
/// Beyond this offset timestamps confuse people, and certificates may look expired or not valid yet.
const CLOCK_TOLERANCE_MS: i64 = 5_000;

/// What to check.
#[derive(Debug, Args)]
pub(crate) struct CheckOptions {
    /// The public key of a blind relay that should be reachable.
    #[arg(long, value_name = "KEY")]
    relay: Option<String>,
    /// A time server to compare the clock with; none is asked by itself.
    #[arg(long, value_name = "HOST:PORT", value_parser = sntp::parse_server)]
    ntp: Option<String>,
    /// The UDP port whose reachability matters, such as one that a router forwards [default: any].
    #[arg(long, value_name = "PORT", default_value_t = 0, hide_default_value = true)]
    port: u16,
}

/// One bootstrap node.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Bootstrap {
    node: String,
    answers: bool,
    /// How long joining the DHT through it alone took.
    ms: Option<u64>,
    /// Whether the name leads to an address.
    resolves: bool,
}

/// The kind of NAT, as the nodes of the DHT see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
enum NatKind {
    /// Strangers reach us.
    Open,
    /// All see the same port: holes can be punched.
    Consistent,
    /// Each sees another port.
    Random,
    /// Too few have seen us.
    Unknown,
}

/// The relay that was named.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Relay {
    key: String,
    reachable: bool,
    ms: Option<u64>,
    error: Option<String>,
}

/// The clock.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Clock {
    server: String,
    /// How far the server's clock is ahead of ours.
    offset_ms: Option<i64>,
    error: Option<String>,
}

/// All that was found.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    bootstrap: Vec<Bootstrap>,
    /// Whether the nodes were named by the user.
    named: bool,
    nat: NatKind,
    /// How many nodes' answers say so.
    nat_samples: u8,
    seen_host: Option<Ipv4Addr>,
    seen_port: Option<u16>,
    /// Where strangers reach us, if that was proven.
    reachable_at: Option<SocketAddrV4>,
    relay: Option<Relay>,
    clock: Option<Clock>,
    /// What is wrong.
    problems: Vec<String>,
    /// What to know or to do.
    advice: Vec<String>,
}

impl Report {
    /// Draws the conclusions.
    fn conclude(&mut self) {
        let answering = self.bootstrap.iter().filter(|node| node.answers).count();
        if answering == 0 {
            self.nothing_answers();
        } else {
            self.silent_nodes();
            self.reachability();
        }
        match &self.relay {
            Some(Relay {
                reachable: false,
                error,
                ..
            }) => {
                let why = error.as_deref().unwrap_or("no connection");
                self.problems.push(format!("the relay does not answer: {why}"));
                self.advice.push(
                    "check the relay's public key, and that it runs and is announced in the same DHT"
                        .to_owned(),
                );
            }
            None if self.nat == NatKind::Random => self.advice.push(
                "name a relay: it carries the connections for which no direct way can be opened".to_owned(),
            ),
            Some(_) | None => {}
        }
        self.time();
    }

    fn nothing_answers(&mut self) {
        if self.bootstrap.iter().all(|node| !node.resolves) {
            self.problems
                .push("the names of the bootstrap nodes lead nowhere: DNS does not work here, or there is no network".to_owned());
            self.advice.push(
                "check that the machine is online; numeric addresses go with --bootstrap HOST:PORT"
                    .to_owned(),
            );
            return;
        }
        self.problems.push(
            "no bootstrap node answers: UDP does not get out of this network, or the nodes are down"
                .to_owned(),
        );
        self.advice.push(
            "let UDP out in the firewall; without it peers that listen on TCP still work, with --peer HOST:PORT".to_owned(),
        );
    }

    fn silent_nodes(&mut self) {
        for node in self.bootstrap.iter().filter(|node| !node.answers) {
            let why = if node.resolves {
                "does not answer"
            } else {
                "has a name that leads nowhere"
            };
            let text = format!("the bootstrap node {} {why}", node.node);
            if self.named {
                self.problems.push(text);
            } else {
                self.advice
                    .push(format!("{text}; the others do, so nothing is lost"));
            }
        }
    }

    fn reachability(&mut self) {
        self.advice.push(match self.nat {
            NatKind::Open => "everybody reaches this machine: it can serve, and be a bootstrap node or a relay".to_owned(),
            NatKind::Consistent => "nobody reaches this machine uninvited, but holes can be punched: peers connect directly, \
                 save those behind a NAT that draws random ports where the punching takes long or fails; to be reached by all, \
                 forward a UDP port in the router and check it with --port"
                .to_owned(),
            NatKind::Random => "this network gives every destination another port: direct connections to peers in the same \
                 situation are impossible, to others slow; forward a UDP port in the router and check it with --port"
                .to_owned(),
            NatKind::Unknown => format!(
                "too few nodes have seen this machine to say what kind of NAT it is behind ({} of {ENOUGH}); \
                 name more with --bootstrap",
                self.nat_samples
            ),
        });
    }

    fn time(&mut self) {
        match &self.clock {
            None => {}
            Some(Clock {
                offset_ms: Some(offset),
                ..
            }) if offset.abs() <= CLOCK_TOLERANCE_MS => {}
            Some(Clock {
                offset_ms: Some(offset),
                ..
            }) => {
                self.problems.push(format!(
                    "the clock is wrong by {} s",
                    (offset.abs() + 500) / 1_000
                ));
                self.advice
                    .push("let the system set the clock (systemd-timesyncd, chrony)".to_owned());
            }
            Some(Clock { server, error, .. }) => {
                let why = error.as_deref().unwrap_or("no answer");
                self.problems
                    .push(format!("the clock can't be checked: {server}: {why}"));
            }
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for node in &self.bootstrap {
            match (node.ms, node.resolves) {
                (Some(ms), _) => writeln!(f, "bootstrap  {} answers, joined in {ms} ms", node.node)?,
                (None, true) => writeln!(f, "bootstrap  {} does not answer", node.node)?,
                (None, false) => writeln!(f, "bootstrap  {}: no such name", node.node)?,
            }
        }
        let kind = match self.nat {
            NatKind::Open => "open",
            NatKind::Consistent => "consistent: all see the same port",
            NatKind::Random => "random: each sees another port",
            NatKind::Unknown => "unknown",
        };
        writeln!(f, "NAT        {kind} ({} answers)", self.nat_samples)?;
        match (self.seen_host, self.seen_port) {
            (Some(host), Some(port)) => writeln!(f, "seen as    {host}:{port}")?,
            (Some(host), None) => writeln!(f, "seen as    {host}")?,
            _ => writeln!(f, "seen as    unknown")?,
        }
        match self.reachable_at {
            Some(address) => writeln!(f, "reachable  by everybody, at {address}")?,
            None => writeln!(f, "reachable  not by strangers")?,
        }
        match &self.relay {
            Some(Relay { ms: Some(ms), .. }) => writeln!(f, "relay      answers in {ms} ms")?,
            Some(_) => writeln!(f, "relay      does not answer")?,
            None => writeln!(f, "relay      none named")?,
        }
        match &self.clock {
            Some(Clock {
                offset_ms: Some(offset),
                ..
            }) => write!(f, "clock      {offset} ms behind the server's")?,
            Some(_) => write!(f, "clock      unknown: the time server does not answer")?,
            None => write!(
                f,
                "clock      unknown: the DHT carries no time; name a time server with --ntp"
            )?,
        }
        for problem in &self.problems {
            write!(f, "\nproblem    {problem}")?;
        }
        for advice in &self.advice {
            write!(f, "\nadvice     {advice}")?;
        }
        Ok(())
    }
}

pub(crate) async fn run(session: &mut Session, options: CheckOptions) -> Result {
    if session.options.offline {
        return Err(Failure::usage("--offline leaves nothing to check").hint("leave it out"));
    }
    let relay = options.relay.as_deref().map(key::parse).transpose();
    let relay = relay.map_err(|error| Failure::usage(format!("failed to read the relay's key: {error}")))?;
    let named: Vec<String> = session
        .options
        .bootstrap
        .iter()
        .filter(|node| !node.is_empty())
        .cloned()
        .collect();
    let is_named = !named.is_empty();
    let nodes = if is_named {
        named
    } else {
        DhtConfig::public_bootstrap()
    };
    let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
    let _end = cancel.clone().drop_guard();
    let around = Around { tasks, cancel };
    let (bootstrap, (status, relay), clock) = tokio::join!(
        around.ask_each(&nodes),
        around.look_at_us(&nodes, options.port, relay),
        ask_the_time(options.ntp),
    );
    let status = status?;
    let mut report = Report {
        bootstrap: bootstrap?,
        named: is_named,
        nat: kind(&status),
        nat_samples: status.seen_as.map_or(0, |seen| seen.samples),
        seen_host: status.seen_as.map(|seen| seen.host),
        seen_port: status.seen_as.and_then(|seen| seen.port),
        reachable_at: status.remote_address,
        relay,
        clock,
        problems: Vec::new(),
        advice: Vec::new(),
    };
    report.conclude();
    session.out.show(&report)?;
    match report.problems.first() {
        None => Ok(()),
        Some(first) => Err(Failure::new(Kind::Failed, first.clone())),
    }
}

fn kind(status: &DhtStatus) -> NatKind {
    match status.seen_as {
        _ if status.remote_address.is_some() => NatKind::Open,
        Some(seen) if seen.samples >= ENOUGH && seen.port.is_some() => NatKind::Consistent,
        Some(seen) if seen.samples >= ENOUGH => NatKind::Random,
        _ => NatKind::Unknown,
    }
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// Where our nodes' tasks run.
struct Around {
    tasks: TaskTracker,
    cancel: CancellationToken,
}

impl Around {
    async fn node(&self, bootstrap: Vec<String>, port: u16) -> Result<Dht> {
        let config = DhtConfig {
            bootstrap,
            port,
            ephemeral: Some(true),
            ..DhtConfig::default()
        };
        Ok(Dht::spawn(config, &self.tasks, self.cancel.clone()).await?)
    }

    /// Each bootstrap node, by a node of ours that knows no other.
    async fn ask_each(&self, nodes: &[String]) -> Result<Vec<Bootstrap>> {
        let mut asking = JoinSet::new();
        for (index, name) in nodes.iter().cloned().enumerate() {
            let node = self.node(vec![name.clone()], 0).await?;
            asking.spawn(async move { (index, ask(name, node).await) });
        }
        let mut answers = asking.join_all().await;
        answers.sort_by_key(|(index, _)| *index);
        Ok(answers.into_iter().map(|(_, answer)| answer).collect())
    }

    /// What the DHT sees of us, and whether the relay answers.
    async fn look_at_us(
        &self,
        nodes: &[String],
        port: u16,
        relay: Option<[u8; 32]>,
    ) -> (Result<DhtStatus>, Option<Relay>) {
        let node = match self.node(nodes.to_vec(), port).await {
            Ok(node) => node,
            Err(failure) => return (Err(failure).context("failed to start a DHT node"), None),
        };
        let settling = async {
            node.bootstrapped().await;
            // Nodes met on the way to anywhere vote on our address, too.
            let target = secrets::random()?;
            let _ = node.lookup(target).await;
            Ok::<_, Failure>(())
        };
        let _ = tokio::time::timeout(SETTLING, settling).await;
        let status = node.status();
        let relay = match relay {
            Some(key) => Some(reach(&node, key).await),
            None => None,
        };
        node.close().await;
        (Ok(status), relay)
    }
}

/// `node` knows `name` alone.
async fn ask(name: String, node: Dht) -> Bootstrap {
    let begun = Instant::now();
    let resolves = tokio::net::lookup_host(&name)
        .await
        .is_ok_and(|mut addresses| addresses.any(|address| address.is_ipv4()));
    let _ = tokio::time::timeout(PATIENCE, node.bootstrapped()).await;
    let answers = node.status().nodes > 0;
    let ms = answers.then(|| millis(begun));
    node.close().await;
    Bootstrap {
        node: name,
        answers,
        ms,
        resolves,
    }
}

async fn reach(node: &Dht, relay: [u8; 32]) -> Relay {
    let begun = Instant::now();
    let seed = secrets::random();
    let outcome = match seed {
        Ok(seed) => {
            let options = ConnectOptions::new(KeyPair::from_seed(seed));
            let connecting = node.connect(relay, options);
            match tokio::time::timeout(SETTLING, connecting).await {
                Ok(outcome) => outcome.map(|_| ()).map_err(|error| error.to_string()),
                Err(_) => Err(format!("no connection in {} s", SETTLING.as_secs())),
            }
        }
        Err(failure) => Err(failure.text),
    };
    Relay {
        key: key::to_hex(&relay),
        reachable: outcome.is_ok(),
        ms: outcome.is_ok().then(|| millis(begun)),
        error: outcome.err(),
    }
}

async fn ask_the_time(server: Option<String>) -> Option<Clock> {
    let server = server?;
    let now = || jiff::Timestamp::now().as_millisecond();
    let outcome = sntp::offset_ms(&server, now).await;
    Some(Clock {
        server,
        offset_ms: outcome.as_ref().ok().copied(),
        error: outcome.err().map(|error| error.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(answers: &[bool], named: bool, nat: NatKind) -> Report {
        let bootstrap = answers.iter().enumerate().map(|(index, answers)| Bootstrap {
            node: format!("node{index}:1"),
            answers: *answers,
            ms: answers.then_some(1),
            resolves: true,
        });
        let mut report = Report {
            bootstrap: bootstrap.collect(),
            named,
            nat,
            nat_samples: 3,
            seen_host: None,
            seen_port: None,
            reachable_at: None,
            relay: None,
            clock: None,
            problems: Vec::new(),
            advice: Vec::new(),
        };
        report.conclude();
        report
    }

    #[test]
    fn silence_of_all_nodes_is_a_problem_and_of_one_only_where_the_user_named_it() {
        assert_eq!(report(&[false, false], false, NatKind::Unknown).problems.len(), 1);
        assert!(report(&[true, false], false, NatKind::Open).problems.is_empty());
        let named = report(&[true, false], true, NatKind::Open);
        assert_eq!(named.problems, ["the bootstrap node node1:1 does not answer"]);
    }

    #[test]
    fn whoever_is_behind_a_random_nat_is_told_to_name_a_relay() {
        let told = |nat| {
            report(&[true], true, nat)
                .advice
                .join(" ")
                .contains("name a relay")
        };
        assert!(told(NatKind::Random));
        assert!(!told(NatKind::Consistent) && !told(NatKind::Open));
    }

    #[test]
    fn a_clock_far_off_is_a_problem_and_one_that_was_not_asked_about_is_not() {
        let with = |offset| {
            let mut report = report(&[true], true, NatKind::Open);
            report.clock = Some(Clock {
                server: "time:123".to_owned(),
                offset_ms: offset,
                error: None,
            });
            report.conclude();
            report.problems
        };
        assert!(with(Some(-4_000)).is_empty());
        assert_eq!(with(Some(-90_000)), ["the clock is wrong by 90 s"]);
        assert_eq!(with(None).len(), 1);
        let unasked = report(&[true], true, NatKind::Open);
        assert!(
            unasked.problems.is_empty() && unasked.to_string().contains("unknown: the DHT carries no time")
        );
    }
}
