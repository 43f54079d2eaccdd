//! `net lab`: two programs in a network of namespaces, connected and measured.

use std::fmt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use clap::Args;
use cumulet_net_lab::probe::{Dialled, Joining, ProbeError};
use cumulet_net_lab::{Lab, LabError, Namespace, Nat, PRESETS, Services, Topology, Traffic, probe};
use serde::Serialize;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::failure::{Context, Failure, Kind, Result};
use crate::output::Output;
use crate::session::Session;

pub(crate) const EXAMPLES: &str = "\
A topology is two sites with a colon between them, client first; each is a kind of network and, after +, what its line does
to packets. One kind alone has both programs at the same site. --list names them all.

Examples:
  Two of our own peers, whose connection is measured:
    sudo cumulet net lab --topology port-restricted:symmetric
    sudo cumulet net lab --topology full-cone+satellite:symmetric+loss=2%+rate=256kbit
    sudo cumulet net lab --topology campus --no-relay
  Programs of yours, which find bootstrap nodes in $CUMULET_BOOTSTRAP (host:port, separated by commas) and the public key
  of a blind relay in $CUMULET_RELAY; the client has connected when it prints the text:
    sudo cumulet net lab --topology open:symmetric --server 'node server.js' --client 'node client.js' --until connected

Everything happens in network namespaces made for the run; the machine's own network stays as it is.";

/// Bytes of a line of a program that are shown.
const MAX_LINE: usize = 4_096;

/// What to try.
#[derive(Debug, Args)]
pub(crate) struct LabOptions {
    /// The network: CLIENT:SERVER, or one kind for both.
    #[arg(long, value_name = "SITE:SITE", required_unless_present = "list")]
    topology: Option<String>,
    /// Names the kinds of networks and lines, and does nothing.
    #[arg(long)]
    list: bool,
    /// What the server's side runs, in a shell, instead of our own peer.
    #[arg(long, value_name = "COMMAND", requires = "client")]
    server: Option<String>,
    /// What the client's side runs.
    #[arg(long, value_name = "COMMAND", requires = "server")]
    client: Option<String>,
    /// The client has connected when it prints a line with this text [default: when it ends with code 0].
    #[arg(long, value_name = "TEXT", requires = "client")]
    until: Option<String>,
    /// Offers our own peers no relay: only direct ways remain.
    #[arg(long)]
    no_relay: bool,
    /// Decides which packets bad lines lose.
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
    /// What our own peers send to and fro once they are connected.
    #[arg(long, value_name = "BYTES", default_value_t = 65_536)]
    bytes: u64,
}

/// One kind, for `--list`.
#[derive(Debug, Serialize)]
struct Listed {
    name: &'static str,
    description: &'static str,
}

impl fmt::Display for Listed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:16} {}", self.name, self.description)
    }
}

/// What came of it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    topology: String,
    connected: bool,
    /// `direct`, `relayed`, `local`; null if not connected, or nothing went either way.
    way: Option<&'static str>,
    connected_ms: Option<u64>,
    /// What our own client measured.
    measured: Option<Dialled>,
    client_received: Received,
    server_received: Received,
    error: Option<String>,
}

/// Bytes of IP packets that a side received.
#[derive(Debug, Default, Serialize)]
struct Received {
    /// From the other side, directly.
    peer: u64,
    /// From bootstrap nodes and the relay.
    services: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "topology    {}", self.topology)?;
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
        writeln!(
            f,
            "client got  {} bytes from the server itself, {} from services",
            self.client_received.peer, self.client_received.services
        )?;
        write!(
            f,
            "server got  {} bytes from the client itself, {} from services",
            self.server_received.peer, self.server_received.services
        )
    }
}

pub(crate) async fn run(session: &mut Session, options: &LabOptions) -> Result {
    if options.list {
        return list(&session.out);
    }
    let text = options.topology.clone().unwrap_or_default();
    let topology = Topology::parse(&text, options.seed).map_err(|error| {
        Failure::usage(error.to_string()).hint("`cumulet net lab --list` names all kinds")
    })?;
    let sides = sides(&topology)?;
    let lab = Lab::up(topology).map_err(refused)?;
    let services = Services::start(&lab).await?;
    let timeout = Duration::from_secs(session.options.timeout);
    let outcome = match (&options.server, &options.client) {
        (Some(server), Some(client)) => {
            let programs = Programs {
                out: &session.out,
                client: lab.host(sides[0].0, sides[0].1),
                server: lab.host(sides[1].0, sides[1].1),
                relay: hex::encode(services.relay_key()),
                until: options.until.as_deref(),
            };
            programs.run(client, server, timeout).await?
        }
        _ => our_own(&lab, &services, sides, options, timeout).await?,
    };
    let report = report(&lab, sides, text, outcome)?;
    session.out.show(&report)?;
    match &report.error {
        None => Ok(()),
        Some(error) => Err(Failure::new(Kind::Failed, error.clone())
            .hint("with --timeout it may take longer; CUMULET_LOG=debug shows what is tried")),
    }
}

fn list(out: &Output) -> Result {
    for nat in Nat::ALL {
        out.show(&Listed {
            name: nat.name(),
            description: nat.description(),
        })?;
    }
    for preset in PRESETS {
        out.show(&Listed {
            name: preset.name,
            description: preset.means,
        })?;
    }
    for (name, description) in [
        ("loss=2%", "each packet may get lost"),
        ("delay=300ms", "each packet takes so much longer, one way"),
        (
            "jitter=20ms",
            "up to so much longer, at random: packets overtake each other",
        ),
        ("rate=256kbit", "bits per second, each way"),
    ] {
        out.show(&Listed { name, description })?;
    }
    Ok(())
}

/// Site and host of client and server.
fn sides(topology: &Topology) -> Result<[(usize, usize); 2]> {
    match topology.sites.as_slice() {
        [only] if only.hosts == 2 => Ok([(0, 0), (0, 1)]),
        [_, _] => Ok([(0, 0), (1, 0)]),
        sites => Err(Failure::usage(format!(
            "failed to place two programs: the topology has {} sites",
            sites.len()
        ))
        .hint("name two, CLIENT:SERVER, or one for both")),
    }
}

fn refused(error: LabError) -> Failure {
    let hint = match &error {
        LabError::Missing(missing) => Some(missing.hint()),
        _ => None,
    };
    let failure = Failure::from(error);
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

/// How a run ended.
struct Outcome {
    connected: Option<Duration>,
    measured: Option<Dialled>,
    error: Option<String>,
}

async fn our_own(
    lab: &Lab,
    services: &Services,
    [client, server]: [(usize, usize); 2],
    options: &LabOptions,
    timeout: Duration,
) -> Result<Outcome> {
    let joining = Joining {
        bootstrap: Services::bootstrap(),
        relays: if options.no_relay {
            Vec::new()
        } else {
            vec![services.relay_key()]
        },
        never_punch: false,
    };
    let cancel = CancellationToken::new();
    let _end = cancel.clone().drop_guard();
    let (ready, key) = oneshot::channel();
    let serving = joining.clone();
    let server = lab
        .host(server.0, server.1)
        .spawn(cancel.clone(), move || probe::serve(serving, ready))?;
    let key = tokio::select! {
        key = tokio::time::timeout(timeout, key) => key,
        ended = server => return Ok(failed(match ended {
            Ok(Ok(Err(error))) => describe(&error),
            _ => "the server ended".to_owned(),
        })),
    };
    let Ok(Ok(key)) = key else {
        return Ok(failed("the server did not get into the DHT in time".to_owned()));
    };
    let bytes = options.bytes;
    let client = lab
        .host(client.0, client.1)
        .spawn(cancel, move || probe::dial(joining, key, bytes, timeout))?;
    Ok(match client.await {
        Ok(Ok(Ok(dialled))) => Outcome {
            connected: Some(Duration::from_millis(dialled.connected_ms)),
            measured: Some(dialled),
            error: None,
        },
        Ok(Ok(Err(error))) => failed(describe(&error)),
        Ok(Err(error)) => return Err(error.into()),
        Err(_) => failed("the client ended".to_owned()),
    })
}

fn failed(error: String) -> Outcome {
    Outcome {
        connected: None,
        measured: None,
        error: Some(error),
    }
}

fn describe(error: &ProbeError) -> String {
    let source = std::error::Error::source(error).map(|source| format!(": {source}"));
    format!("{error}{}", source.unwrap_or_default())
}

fn report(lab: &Lab, sides: [(usize, usize); 2], topology: String, outcome: Outcome) -> Result<Report> {
    let [client, server] = sides;
    let received = |(site, host): (usize, usize), other: usize| -> Result<(Received, bool)> {
        let traffic: Traffic = lab.traffic(site, host)?;
        let (same_site, direct) = (site == other, traffic.sites.get(&other).copied().unwrap_or(0));
        let peer = if same_site { traffic.neighbours } else { direct };
        let services = traffic.services;
        Ok((Received { peer, services }, same_site))
    };
    let (client_received, same_site) = received(client, server.0)?;
    let (server_received, _) = received(server, client.0)?;
    let both = client_received.peer > 0 && server_received.peer > 0;
    let way = outcome.connected.map(|_| match &outcome.measured {
        Some(measured) if measured.relayed && !measured.moved => "relayed",
        // What our own peers say; of others only the packets are known.
        Some(_) if same_site => "local",
        Some(_) => "direct",
        None if both && same_site => "local",
        None if both => "direct",
        None => "relayed",
    });
    Ok(Report {
        topology,
        connected: outcome.connected.is_some(),
        way,
        connected_ms: outcome
            .connected
            .map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
        measured: outcome.measured,
        client_received,
        server_received,
        error: outcome.error,
    })
}

/// Programs of the user's, one in each place.
struct Programs<'a> {
    out: &'a Output,
    client: Namespace,
    server: Namespace,
    relay: String,
    until: Option<&'a str>,
}

impl Programs<'_> {
    async fn run(&self, client: &str, server: &str, timeout: Duration) -> Result<Outcome> {
        let mut serving = self
            .start(&self.server, server)
            .context("failed to start the server")?;
        let mut dialling = self
            .start(&self.client, client)
            .context("failed to start the client")?;
        let begun = Instant::now();
        let (server_output, client_output) = (serving.stdout.take(), dialling.stdout.take());
        let ended = tokio::select! {
            ended = self.connected(&mut dialling, client_output) => ended,
            () = self.show("server", server_output) => Err("the server closed its output".to_owned()),
            () = tokio::time::sleep(timeout) => Err(format!("no connection in {} s", timeout.as_secs())),
        };
        Ok(match ended {
            Ok(()) => Outcome {
                connected: Some(begun.elapsed()),
                measured: None,
                error: None,
            },
            Err(error) => failed(format!("failed to connect: {error}")),
        })
    }

    fn start(&self, place: &Namespace, command: &str) -> Result<Child> {
        let mut shell = place.command("sh");
        shell.args(["-c", command]);
        shell.env("CUMULET_BOOTSTRAP", Services::bootstrap().join(","));
        shell.env("CUMULET_RELAY", &self.relay);
        let mut shell = Command::from(shell);
        Ok(shell
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?)
    }

    /// Waits until the client has connected; why not, else.
    async fn connected(
        &self,
        client: &mut Child,
        output: Option<impl AsyncRead + Unpin>,
    ) -> std::result::Result<(), String> {
        let Some(output) = output else {
            return Err("the client has no output".to_owned());
        };
        let mut lines = BufReader::new(output).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            self.note("client", &line);
            if self.until.is_some_and(|text| line.contains(text)) {
                return Ok(());
            }
        }
        match client.wait().await {
            Ok(status) if status.success() && self.until.is_none() => Ok(()),
            Ok(status) => Err(format!("the client ended ({status})")),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn show(&self, side: &str, output: Option<impl AsyncRead + Unpin>) {
        let Some(output) = output else { return };
        let mut lines = BufReader::new(output).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            self.note(side, &line);
        }
    }

    fn note(&self, side: &str, line: &str) {
        let shown: String = line.chars().take(MAX_LINE).collect();
        self.out.note(format_args!("{side}: {shown}"));
    }
}
