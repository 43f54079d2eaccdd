//! The matrix of NATs: every kind of client to every kind of server, JavaScript (hyperdht 6.34.0) and ours, in network namespaces.
//!
//! JavaScript to JavaScript is measured in the same run: where it connects directly, every other pair must; where it can't,
//! our blind relay must connect all of them within 5 s. Swarms that know that relay must meet there under a topic, behind symmetric NATs
//! within 5 s as well. Needs root, `ip`, `nft`, Node.js and `npm ci` in `interop/dht`.
//! `CUMULET_INTEROP_ROUNDS` says how often.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cumulet_net_lab::probe::Joining;
use cumulet_net_lab::{Lab, Link, Nat, Services, Site, Topology};
use support::{Came, Js, Program, can_run};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

const KINDS: [Nat; 5] = [
    Nat::Open,
    Nat::FullCone,
    Nat::Restricted,
    Nat::PortRestricted,
    Nat::Symmetric,
];
/// Longer than the longest punching of both: 1750 guesses, 20 ms each, and what comes before.
const DIRECT: Duration = Duration::from_secs(50);
/// What a relay has.
const RELAYED: Duration = Duration::from_secs(5);
/// Connections being made at a time: more would measure the machine.
const AT_ONCE: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Maker {
    Js,
    Ours,
}

/// How two programs meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// The client dials the server's key, without a relay.
    Direct,
    /// The same, with our relay offered at once by both.
    Relay,
    /// Under a topic, by swarms that know our relay.
    Swarm,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Role {
    Client,
    Server,
}

/// Where a program is: `Some(kind)` at a site of its own, `None` on the campus that all of those share.
type Place = Option<Nat>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Cell {
    client: Place,
    server: Place,
    makers: (Maker, Maker),
}

const PAIRS: [(Maker, Maker); 4] = [
    (Maker::Js, Maker::Js),
    (Maker::Js, Maker::Ours),
    (Maker::Ours, Maker::Js),
    (Maker::Ours, Maker::Ours),
];

struct Bench {
    programs: HashMap<(Place, Role, Maker), Program>,
    relay: [u8; 32],
    _services: Services,
    /// Last: the programs end before their namespaces.
    _lab: Lab,
}

impl Bench {
    async fn start() -> Self {
        let mut sites = Vec::new();
        let mut places = Vec::new();
        for kind in KINDS {
            for role in [Role::Client, Role::Server] {
                for maker in [Maker::Js, Maker::Ours] {
                    places.push(((Some(kind), role, maker), (sites.len(), 0)));
                    sites.push(Site::new(kind, Link::default()));
                }
            }
        }
        for (host, (role, maker)) in [
            (Role::Client, Maker::Js),
            (Role::Client, Maker::Ours),
            (Role::Server, Maker::Js),
            (Role::Server, Maker::Ours),
        ]
        .into_iter()
        .enumerate()
        {
            places.push(((None, role, maker), (sites.len(), host)));
        }
        sites.push(Site {
            hosts: 4,
            ..Site::new(Nat::Campus, Link::default())
        });
        let begun = Instant::now();
        let lab = Lab::up(Topology { sites, seed: 1 }).unwrap();
        let services = Services::start(&lab).await.unwrap();
        eprintln!("the network took {} ms", begun.elapsed().as_millis());
        let programs = places.into_iter().map(|(name, (site, host))| {
            let program = match name.2 {
                Maker::Js => Program::Js(Box::new(Js::start(&lab, site, host))),
                Maker::Ours => Program::Ours(lab.host(site, host)),
            };
            (name, program)
        });
        Self {
            programs: programs.collect(),
            relay: services.relay_key(),
            _services: services,
            _lab: lab,
        }
    }

    async fn connect(&self, cell: Cell, how: How) -> Result<Came, String> {
        let joining = Joining {
            bootstrap: Services::bootstrap(),
            relays: if how == How::Direct {
                Vec::new()
            } else {
                vec![self.relay]
            },
            never_punch: false,
            topic: (how == How::Swarm).then(fresh_topic),
        };
        let at_server = &self.programs[&(cell.server, Role::Server, cell.makers.1)];
        let at_client = &self.programs[&(cell.client, Role::Client, cell.makers.0)];
        let server = at_server.serve(&joining).await?;
        let came = at_client.dial(&joining, server.public_key, DIRECT).await;
        at_server.close(server).await;
        came
    }

    async fn connect_all(self: &Arc<Self>, cells: &[Cell], how: How) -> BTreeMap<Cell, Result<Came, String>> {
        let slots = Arc::new(Semaphore::new(AT_ONCE));
        let mut running = JoinSet::new();
        for cell in cells.iter().copied() {
            let (bench, slots) = (Arc::clone(self), Arc::clone(&slots));
            running.spawn(async move {
                let _slot = slots.acquire_owned().await.unwrap();
                (cell, bench.connect(cell, how).await)
            });
        }
        running.join_all().await.into_iter().collect()
    }
}

fn fresh_topic() -> [u8; 32] {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    cumulet_hyperdht::hash(&[b"matrix", &number.to_le_bytes()])
}

fn name(place: Place) -> &'static str {
    place.map_or("same campus", Nat::name)
}

fn print(title: &str, results: &BTreeMap<Cell, Result<Came, String>>) {
    let mut text = format!("{title}\n{:34}", "client -> server");
    for (client, server) in PAIRS {
        let _ = write!(text, "{:>22}", format!("{client:?} -> {server:?}"));
    }
    let mut rows: BTreeMap<(Place, Place), String> = BTreeMap::new();
    for (cell, result) in results {
        let shown = match result {
            Ok(came) if came.relayed => format!("relay {} ms", came.ms),
            Ok(came) => format!("{} ms", came.ms),
            Err(error) => error
                .trim_start_matches("failed to connect: ")
                .chars()
                .take(20)
                .collect(),
        };
        let row = rows.entry((cell.client, cell.server)).or_default();
        let _ = write!(row, "{shown:>22}");
    }
    for ((client, server), row) in rows {
        let _ = write!(
            text,
            "\n{:34}{row}",
            format!("{} -> {}", name(client), name(server))
        );
    }
    eprintln!("{text}");
}

/// Whether a connection with the relay came as it must. Swarms punch first, as JavaScript's do: on the campus that takes long. Those
/// of JavaScript alone are here to be compared with.
fn is_right(how: How, cell: Cell, result: &Result<Came, String>) -> bool {
    if how == How::Swarm && cell.makers == (Maker::Js, Maker::Js) {
        return true;
    }
    let may_take = if how == How::Swarm && cell.client.is_none() {
        DIRECT
    } else {
        RELAYED
    };
    let in_time = |came: &Came| came.ms <= may_take.as_millis() as u64;
    result.as_ref().is_ok_and(in_time)
}

fn rounds() -> usize {
    let asked = std::env::var("CUMULET_INTEROP_ROUNDS");
    asked.ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

#[tokio::test(flavor = "multi_thread")]
async fn where_javascript_connects_so_do_we_and_elsewhere_our_relay_does_within_5_s() {
    if !can_run(true) {
        return;
    }
    let bench = Arc::new(Bench::start().await);
    let places: Vec<(Place, Place)> = KINDS
        .iter()
        .flat_map(|client| KINDS.map(|server| (Some(*client), Some(server))))
        .chain([(None, None)])
        .collect();
    let cells = |places: &[(Place, Place)]| -> Vec<Cell> {
        let with = |(client, server): &(Place, Place)| {
            let (client, server) = (*client, *server);
            PAIRS.map(|makers| Cell {
                client,
                server,
                makers,
            })
        };
        places.iter().flat_map(with).collect()
    };
    let mut wrong = Vec::new();
    for round in 0..rounds() {
        let begun = Instant::now();
        let direct = bench.connect_all(&cells(&places), How::Direct).await;
        print(
            &format!("round {round}: without a relay, {} s", begun.elapsed().as_secs()),
            &direct,
        );
        let reference = |client, server| {
            direct[&Cell {
                client,
                server,
                makers: (Maker::Js, Maker::Js),
            }]
                .is_ok()
        };
        for (cell, result) in &direct {
            if reference(cell.client, cell.server)
                && let Err(error) = result
            {
                wrong.push(format!(
                    "round {round}: {cell:?}: JavaScript connects, but: {error}"
                ));
            }
        }
        let impossible: Vec<_> = places
            .iter()
            .copied()
            .filter(|(client, server)| !reference(*client, *server))
            .collect();
        for (how, name) in [
            (How::Relay, "with our relay"),
            (How::Swarm, "by swarms with our relay"),
        ] {
            let begun = Instant::now();
            let met = bench.connect_all(&cells(&impossible), how).await;
            print(
                &format!("round {round}: {name}, {} s", begun.elapsed().as_secs()),
                &met,
            );
            let late = met.iter().filter(|(cell, result)| !is_right(how, **cell, result));
            wrong.extend(late.map(|(cell, result)| format!("round {round}: {cell:?} {name}: {result:?}")));
        }
        let symmetric = Some(Nat::Symmetric);
        assert!(
            impossible.contains(&(symmetric, symmetric)) && impossible.contains(&(None, None)),
            "the lab's symmetric NATs and its campus are none: {impossible:?}"
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
