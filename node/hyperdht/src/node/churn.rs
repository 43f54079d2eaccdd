//! A small network whose nodes all come and go, in virtual time: what is announced is found all the time, and the nodes that are gone do
//! not cost more and more.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use ed25519_dalek::SigningKey;

use super::simulation::Sim;
use super::{Event, Goal, OperationId};
use crate::crypto::hash;
use crate::{Entropy, Hash};

/// Nodes that serve, at any time: fewer than a row of the table holds, so that every node asks all others, dead or alive.
const SERVING: usize = 15;
/// One of them is replaced this often.
const REPLACE_EVERY: Duration = Duration::from_secs(3);
/// The clients look up all topics this often.
const LOOK_UP_EVERY: Duration = Duration::from_secs(6);
/// And announce so long after the last announcement ended.
const ANNOUNCE_EVERY: Duration = Duration::from_secs(4);
/// Topics of each client.
const TOPICS: u8 = 4;
/// A lookup that takes longer has failed, whatever it brings.
const PATIENCE: Duration = Duration::from_secs(30);
/// Those that serve none, and stay.
const CLIENTS: usize = 2;
const STEP: Duration = Duration::from_millis(500);

fn key(client: usize) -> SigningKey {
    SigningKey::from_bytes(&[u8::try_from(client).unwrap() + 1; 32])
}

fn topics(client: usize) -> impl Iterator<Item = Hash> {
    (0..TOPICS).map(move |number| hash(&[b"churn", &[u8::try_from(client).unwrap(), number]]))
}

struct Lookup {
    operation: OperationId,
    begun: Instant,
    wanted: Hash,
    is_found: bool,
}

struct Client {
    host: usize,
    lookups: Vec<Lookup>,
    announcing: Vec<OperationId>,
    announce_at: Instant,
    asked: usize,
    found: usize,
    longest: Duration,
}

impl Client {
    fn new(sim: &mut Sim, bootstrap: Vec<SocketAddrV4>) -> Self {
        Self {
            host: sim.arrive(false, bootstrap),
            lookups: Vec::new(),
            announcing: Vec::new(),
            announce_at: sim.now,
            asked: 0,
            found: 0,
            longest: Duration::ZERO,
        }
    }

    fn look_up(&mut self, sim: &mut Sim) {
        let now = sim.now;
        let node = &mut sim.hosts[self.host].node;
        for client in 0..CLIENTS {
            let wanted = key(client).verifying_key().to_bytes();
            for topic in topics(client) {
                self.lookups.push(Lookup {
                    operation: node.operate(now, Goal::Lookup { topic }),
                    begun: now,
                    wanted,
                    is_found: false,
                });
                self.asked += 1;
            }
        }
    }

    fn announce(&mut self, sim: &mut Sim, client: usize) {
        let now = sim.now;
        if !self.announcing.is_empty() || now < self.announce_at {
            return;
        }
        let node = &mut sim.hosts[self.host].node;
        for topic in topics(client) {
            let goal = Goal::Announce {
                topic,
                key: key(client),
                relay_addresses: Vec::new(),
            };
            self.announcing.push(node.operate(now, goal));
        }
    }

    /// Takes note of what was found and what has ended.
    fn harvest(&mut self, sim: &mut Sim) {
        let now = sim.now;
        for event in std::mem::take(&mut sim.hosts[self.host].events) {
            match event {
                Event::Peers { operation, peers } => {
                    let lookup = self
                        .lookups
                        .iter_mut()
                        .find(|lookup| lookup.operation == operation);
                    if let Some(lookup) = lookup {
                        lookup.is_found |= peers.iter().any(|peer| peer.public_key == lookup.wanted);
                    }
                }
                Event::Finished { operation, .. } => {
                    self.announcing.retain(|known| *known != operation);
                    let ended = self
                        .lookups
                        .iter()
                        .position(|lookup| lookup.operation == operation);
                    if let Some(lookup) = ended.map(|index| self.lookups.swap_remove(index)) {
                        let took = now - lookup.begun;
                        self.longest = self.longest.max(took);
                        self.found += usize::from(lookup.is_found && took <= PATIENCE);
                    } else if self.announcing.is_empty() {
                        self.announce_at = now + ANNOUNCE_EVERY;
                    }
                }
                _ => {}
            }
        }
    }
}

/// Nodes that a newcomer is told of: the first one, dead or alive, and four of the latest but two.
fn known(sim: &Sim, serving: &[usize]) -> Vec<SocketAddrV4> {
    let mut latest = serving.to_vec();
    latest.sort_unstable_by_key(|index| std::cmp::Reverse(*index));
    let known = std::iter::once(0).chain(latest.into_iter().skip(2).take(4));
    let known = known.filter_map(|index| sim.hosts.get(index));
    known.map(|host| host.address).collect()
}

/// Churns for so long, and returns the clients once their lookups have ended.
fn churn(seed: u64, time: Duration) -> [Client; CLIENTS] {
    let mut sim = Sim::new(seed);
    let mut entropy = Entropy::seeded(seed);
    let mut serving = Vec::new();
    for _ in 0..=SERVING {
        let bootstrap = known(&sim, &serving);
        let index = sim.arrive(true, bootstrap);
        sim.run(Duration::from_secs(2));
        if index > 0 {
            serving.push(index);
        }
    }
    let bootstrap = known(&sim, &serving);
    let mut clients = [(); CLIENTS].map(|()| Client::new(&mut sim, bootstrap.clone()));
    sim.run(Duration::from_secs(3));
    for (number, client) in clients.iter_mut().enumerate() {
        client.announce(&mut sim, number);
    }
    sim.run(Duration::from_secs(3));
    let begun = sim.now;
    let (mut replace_at, mut look_up_at) = (begun + REPLACE_EVERY, begun);
    while sim.now < begun + time + PATIENCE {
        let (now, is_over) = (sim.now, sim.now >= begun + time);
        if now >= begun + time / 4 {
            sim.leave(0);
        }
        if now >= replace_at {
            replace_at += REPLACE_EVERY;
            let place = entropy.below(serving.len());
            let bootstrap = known(&sim, &serving);
            sim.leave(serving.remove(place));
            serving.push(sim.arrive(true, bootstrap));
        }
        if now >= look_up_at && !is_over {
            look_up_at += LOOK_UP_EVERY;
            for client in &mut clients {
                client.look_up(&mut sim);
            }
        }
        for (number, client) in clients.iter_mut().enumerate() {
            client.harvest(&mut sim);
            client.announce(&mut sim, number);
        }
        for host in &mut sim.hosts {
            host.sent.clear();
        }
        sim.run(STEP);
    }
    clients
}

#[test]
fn what_is_announced_is_found_while_all_nodes_come_and_go() {
    for client in churn(1, Duration::from_secs(150)) {
        let Client {
            asked,
            found,
            longest,
            ..
        } = client;
        assert!(
            found * 1_000 >= asked * 999,
            "{found} of {asked} found, {longest:?}"
        );
    }
}
