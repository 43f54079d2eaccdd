//! `net lab`: two programs in a network of namespaces, connected and measured, with simulated peers around them if asked for.

mod load;
mod programs;
mod report;

use std::fmt;
use std::time::Duration;

use clap::Args;
use cumulet_net_lab::probe::{Joining, ProbeError};
use cumulet_net_lab::{Lab, LabError, Nat, PRESETS, Services, Topology, probe};
use serde::Serialize;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use self::load::LoadOptions;
use self::programs::Programs;
use self::report::{Outcome, Report};
use crate::failure::{Failure, Kind, Result};
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
  The same among 300 simulated peers, in the topic $CUMULET_TOPIC, which stay two minutes each, for ten minutes:
    sudo cumulet net lab --topology open:symmetric --server 'node server.js' --client 'node client.js' --until connected \
      --peers 300 --peers-at open:port-restricted+lossy --churn 120 --seconds 600 --seed 7
  All load of 100 clients on whoever announces the app's own topic:
    sudo cumulet net lab --topology open:open --server 'node server.js' --client 'sleep 60' --peers 100 --peers-as clients --topic <hex>

Everything happens in network namespaces made for the run; the machine's own network stays as it is.";

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
    /// Offers our own peers, the simulated ones too, no relay: only direct ways remain.
    #[arg(long)]
    no_relay: bool,
    /// Decides which packets bad lines lose, and which simulated peers leave.
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
    /// What our own peers send to and fro once they are connected.
    #[arg(long, value_name = "BYTES", default_value_t = 65_536)]
    bytes: u64,
    #[command(flatten)]
    load: LoadOptions,
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

pub(crate) async fn run(session: &mut Session, options: &LabOptions) -> Result {
    if options.list {
        return list(&session.out);
    }
    let text = options.topology.clone().unwrap_or_default();
    let mut topology = Topology::parse(&text, options.seed).map_err(|error| {
        Failure::usage(error.to_string()).hint("`cumulet net lab --list` names all kinds")
    })?;
    let sides = sides(&topology)?;
    let own_sites = topology.sites.len();
    let households = options.load.place(&mut topology)?;
    let lab = Lab::up(topology).map_err(refused)?;
    let services = Services::start(&lab).await?;
    let relays = if options.no_relay {
        Vec::new()
    } else {
        vec![services.relay_key()]
    };
    let out = &session.out;
    let load = options
        .load
        .start(&lab, &households, (out, relays.clone()))
        .await?;
    let over = async {
        if let Some(load) = &load {
            load.over(out).await;
        }
    };
    let timeout = Duration::from_secs(session.options.timeout);
    let outcome = if let (Some(server), Some(client)) = (&options.server, &options.client) {
        let programs = Programs {
            out,
            client: lab.host(sides[0].0, sides[0].1),
            server: lab.host(sides[1].0, sides[1].1),
            relay: hex::encode(services.relay_key()),
            topic: load.as_ref().map(load::Load::topic),
            until: options.until.as_deref(),
        };
        programs.run(client, server, timeout, over).await?
    } else {
        let (outcome, ()) = tokio::join!(our_own(&lab, relays, sides, options, timeout), over);
        outcome?
    };
    let peers = load.as_ref().map(load::Load::report).transpose()?;
    let report = Report::new(&lab, sides, (text, own_sites), outcome, peers)?;
    out.show(&report)?;
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
        (
            "queue=40ms",
            "beside a rate: what would wait longer than this is dropped, instead of 500 ms",
        ),
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

async fn our_own(
    lab: &Lab,
    relays: Vec<[u8; 32]>,
    [client, server]: [(usize, usize); 2],
    options: &LabOptions,
    timeout: Duration,
) -> Result<Outcome> {
    let joining = Joining {
        bootstrap: Services::bootstrap(),
        relays,
        never_punch: false,
        topic: None,
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
        ended = server => return Ok(Outcome::failed(match ended {
            Ok(Ok(Err(error))) => describe(&error),
            _ => "the server ended".to_owned(),
        })),
    };
    let Ok(Ok(key)) = key else {
        return Ok(Outcome::failed(
            "the server did not get into the DHT in time".to_owned(),
        ));
    };
    let bytes = options.bytes;
    let client = lab
        .host(client.0, client.1)
        .spawn(cancel, move || probe::dial(joining, key, bytes, timeout))?;
    Ok(match client.await {
        Ok(Ok(Ok(dialled))) => Outcome {
            connected_ms: Some(dialled.connected_ms),
            measured: Some(dialled),
            ..Outcome::default()
        },
        Ok(Ok(Err(error))) => Outcome::failed(describe(&error)),
        Ok(Err(error)) => return Err(error.into()),
        Err(_) => Outcome::failed("the client ended"),
    })
}

fn describe(error: &ProbeError) -> String {
    let source = std::error::Error::source(error).map(|source| format!(": {source}"));
    format!("{error}{}", source.unwrap_or_default())
}
