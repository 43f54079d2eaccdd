//! A network of nodes in memory: virtual time, latency, loss, NATs of both kinds. Seeded, so a failure repeats.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cumulet_secret_stream::noise::KeyPair;

use super::{Event, Node, NodeConfig, Output, PairOrder, RelayId};
use crate::rpc::RpcConfig;
use crate::{Entropy, SocketId, Transmit};

/// Stands for the first byte of every packet of a stream.
const STREAM: u8 = 0xff;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NatKind {
    /// One public port per socket, whatever the destination.
    Consistent,
    /// Another public port for every destination.
    Random,
}

/// A NAT that lets in only answers: from an address and port that was sent to.
struct Nat {
    kind: NatKind,
    public: Ipv4Addr,
    mappings: HashMap<(u16, Option<SocketAddrV4>), u16>,
    /// Public port to local port and the addresses let in.
    ports: HashMap<u16, (u16, HashSet<SocketAddrV4>)>,
}

pub(super) struct Host {
    pub(super) node: Node,
    pub(super) address: SocketAddrV4,
    sockets: BTreeMap<SocketId, u16>,
    next_port: u16,
    nat: Option<Nat>,
    /// Streams of ours that are registered, with what was received on them.
    pub(super) streams: HashMap<u32, usize>,
    pub(super) created: usize,
    /// Relays reached, and the pairings to ask for there.
    pub(super) pair_orders: Vec<(RelayId, PairOrder)>,
    /// Relayed streams that took the direct way, and relays let go.
    pub(super) moved: Vec<RelayId>,
    pub(super) released: Vec<RelayId>,
    pub(super) events: Vec<Event>,
    /// Every datagram that the node sent.
    pub(super) sent: Vec<Transmit>,
    /// It has left, without a word.
    is_gone: bool,
}

pub(super) struct Sim {
    pub(super) now: Instant,
    pub(super) hosts: Vec<Host>,
    wire: BTreeMap<(Instant, u64), (SocketAddrV4, SocketAddrV4, Bytes)>,
    sequence: u64,
    entropy: Entropy,
    /// Of 256.
    pub(super) loss: u8,
    /// Hole punching gets nowhere.
    pub(super) loses_probes: bool,
}

impl Sim {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            now: Instant::now(),
            hosts: Vec::new(),
            wire: BTreeMap::new(),
            sequence: 0,
            entropy: Entropy::seeded(seed),
            loss: 0,
            loses_probes: false,
        }
    }

    /// A host with a public address that serves the DHT.
    pub(super) fn public(&mut self) -> usize {
        let address = self.address();
        self.add(address, Some(false), Some(address), None)
    }

    /// A host behind a NAT of its own.
    pub(super) fn behind(&mut self, kind: NatKind) -> usize {
        let public = *self.address().ip();
        let number = u8::try_from(self.hosts.len()).unwrap();
        let address = SocketAddrV4::new(Ipv4Addr::new(10, 0, number, 2), 49_737);
        let nat = Nat {
            kind,
            public,
            mappings: HashMap::new(),
            ports: HashMap::new(),
        };
        self.add(address, None, None, Some(nat))
    }

    /// A host that anybody can reach, but does not know it yet.
    pub(super) fn unaware(&mut self) -> usize {
        let address = self.address();
        self.add(address, None, None, None)
    }

    fn address(&self) -> SocketAddrV4 {
        let [high, low] = u16::try_from(self.hosts.len() + 1).unwrap().to_be_bytes();
        SocketAddrV4::new(Ipv4Addr::new(80, 1 + high, low, 1), 49_737)
    }

    fn add(
        &mut self,
        address: SocketAddrV4,
        firewalled: Option<bool>,
        public_address: Option<SocketAddrV4>,
        nat: Option<Nat>,
    ) -> usize {
        let public = self.hosts.iter().filter(|host| host.nat.is_none());
        let bootstrap = public.take(3).map(|host| host.address).collect();
        let index = self.place(address, (firewalled, public_address), nat, bootstrap);
        self.run(Duration::from_secs(3));
        index
    }

    /// A host that anybody can reach joins by these nodes; nothing happens yet. It serves the DHT, or only uses it.
    pub(super) fn arrive(&mut self, serves: bool, bootstrap: Vec<SocketAddrV4>) -> usize {
        let address = self.address();
        self.place(address, (Some(false), serves.then_some(address)), None, bootstrap)
    }

    /// A host is gone, as by a power cut.
    pub(super) fn leave(&mut self, index: usize) {
        self.hosts[index].is_gone = true;
    }

    fn place(
        &mut self,
        address: SocketAddrV4,
        (firewalled, public_address): (Option<bool>, Option<SocketAddrV4>),
        nat: Option<Nat>,
        bootstrap: Vec<SocketAddrV4>,
    ) -> usize {
        let ephemeral = public_address.map(|_| false);
        let rpc = RpcConfig {
            server_port: address.port(),
            firewalled,
            ephemeral,
            public_address,
        };
        let config = NodeConfig {
            rpc,
            local_addresses: vec![address],
            unix_ms: 1_800_000_000_000,
            key_pair: KeyPair::from_seed(self.entropy.array()),
        };
        let mut node = Node::new(config, self.entropy.fork(), self.now);
        node.set_bootstrap_nodes(bootstrap);
        node.bootstrap(self.now);
        let sockets = BTreeMap::from([(SocketId::SERVER, address.port()), (SocketId::CLIENT, 50_000)]);
        self.hosts.push(Host {
            node,
            address,
            sockets,
            next_port: 50_001,
            nat,
            streams: HashMap::new(),
            created: 0,
            pair_orders: Vec::new(),
            moved: Vec::new(),
            released: Vec::new(),
            events: Vec::new(),
            sent: Vec::new(),
            is_gone: false,
        });
        self.hosts.len() - 1
    }

    /// A DHT of this many public nodes.
    pub(super) fn dht(seed: u64, size: usize) -> Self {
        let mut sim = Self::new(seed);
        for _ in 0..size {
            sim.public();
        }
        sim
    }

    pub(super) fn run(&mut self, time: Duration) {
        self.run_until(time, |_| false);
    }

    /// Runs until the condition holds, at most for `time`. Returns whether it held.
    pub(super) fn run_until(&mut self, time: Duration, done: impl Fn(&Self) -> bool) -> bool {
        let end = self.now + time;
        loop {
            for index in 0..self.hosts.len() {
                if !self.hosts[index].is_gone {
                    self.carry_out(index);
                }
            }
            if done(self) {
                return true;
            }
            let there = self.hosts.iter().filter(|host| !host.is_gone);
            let timers = there.map(|host| host.node.poll_timeout());
            let wire = self.wire.keys().next().map(|(at, _)| *at);
            let next = timers.chain(wire).min().unwrap_or(end);
            if next > end {
                self.now = end;
                return false;
            }
            self.now = self.now.max(next);
            while let Some(entry) = self.wire.first_entry() {
                if entry.key().0 > self.now {
                    break;
                }
                let (to, from, data) = entry.remove();
                self.deliver(to, from, &data);
            }
            for host in &mut self.hosts {
                if !host.is_gone && host.node.poll_timeout() <= self.now {
                    host.node.handle_timeout(self.now);
                }
            }
        }
    }

    fn carry_out(&mut self, index: usize) {
        while let Some(output) = self.hosts[index].node.poll_output() {
            let host = &mut self.hosts[index];
            match output {
                Output::Transmit(transmit) => {
                    host.sent.push(transmit.clone());
                    self.send(index, &transmit);
                }
                Output::CreateStream(stream) => {
                    host.created += 1;
                    host.streams.insert(stream, 0);
                }
                Output::DestroyStream(stream) => {
                    host.streams.remove(&stream);
                }
                Output::ConnectStream {
                    stream,
                    socket,
                    remote_id,
                    to,
                } => {
                    assert!(
                        host.streams.contains_key(&stream),
                        "a stream exists before it is connected"
                    );
                    // The secret stream's header leaves at once, and again while it is not acknowledged.
                    let data = Bytes::from([&[STREAM][..], &remote_id.to_le_bytes()].concat());
                    let transmit = Transmit {
                        socket,
                        to,
                        data,
                        ttl: None,
                    };
                    for _ in 0..6 {
                        self.send(index, &transmit);
                    }
                }
                Output::OpenSocket(socket) => {
                    host.next_port += 1;
                    host.sockets.insert(socket, host.next_port);
                }
                Output::PairAtRelay { relay, order, .. } => host.pair_orders.push((relay, order)),
                // What goes through the relay is tested with real ones.
                Output::ConnectRelayed { stream, .. } => {
                    assert!(host.streams.contains_key(&stream));
                }
                Output::MoveStream {
                    relay,
                    socket,
                    remote_id,
                    to,
                } => {
                    host.moved.push(relay);
                    let data = Bytes::from([&[STREAM][..], &remote_id.to_le_bytes()].concat());
                    let transmit = Transmit {
                        socket,
                        to,
                        data,
                        ttl: None,
                    };
                    self.send(index, &transmit);
                }
                Output::ReleaseRelay(relay) => host.released.push(relay),
                // A socket lives on while a stream uses it; in here all do.
                Output::CloseSocket(_) => {}
                Output::Event(event) => host.events.push(event),
            }
        }
    }

    fn send(&mut self, index: usize, transmit: &Transmit) {
        let host = &mut self.hosts[index];
        let port = host.sockets[&transmit.socket];
        let (to, mut from) = (transmit.to, SocketAddrV4::new(*host.address.ip(), port));
        if let Some(nat) = &mut host.nat {
            let key = (port, (nat.kind == NatKind::Random).then_some(to));
            let fresh = 1_000 + u16::from_le_bytes(self.entropy.array()) % 64_000;
            let public = *nat.mappings.entry(key).or_insert(fresh);
            nat.ports
                .entry(public)
                .or_insert((port, HashSet::new()))
                .1
                .insert(to);
            from = SocketAddrV4::new(nat.public, public);
        }
        let [lost, jitter] = self.entropy.array();
        let probe_lost = self.loses_probes && transmit.data.len() == 1;
        if transmit.ttl.is_some_and(|ttl| ttl <= 5) || lost < self.loss || probe_lost {
            return;
        }
        self.sequence += 1;
        let at = self.now + Duration::from_millis(20 + u64::from(jitter % 10));
        self.wire
            .insert((at, self.sequence), (to, from, transmit.data.clone()));
    }

    fn deliver(&mut self, to: SocketAddrV4, from: SocketAddrV4, data: &[u8]) {
        let now = self.now;
        for host in self.hosts.iter_mut().filter(|host| !host.is_gone) {
            let port = match &host.nat {
                Some(nat) if nat.public == *to.ip() => nat
                    .ports
                    .get(&to.port())
                    .filter(|(_, allowed)| allowed.contains(&from))
                    .map(|(port, _)| *port),
                None if host.address.ip() == to.ip() => Some(to.port()),
                _ => None,
            };
            let socket = host
                .sockets
                .iter()
                .find(|(_, known)| Some(**known) == port)
                .map(|(id, _)| *id);
            let Some(socket) = socket else { continue };
            match data.split_first() {
                Some((&STREAM, id)) if id.len() == 4 => {
                    let id = u32::from_le_bytes(id.try_into().unwrap());
                    if let Some(received) = host.streams.get_mut(&id) {
                        *received += 1;
                        host.node.handle_stream_packet(now, id, socket, from);
                    }
                }
                _ => host.node.handle_datagram(now, socket, from, data),
            }
        }
    }

    /// Sends a datagram to a host's server socket from nowhere in particular.
    pub(super) fn inject(&mut self, index: usize, from: SocketAddrV4, data: &[u8]) {
        let now = self.now;
        self.hosts[index]
            .node
            .handle_datagram(now, SocketId::SERVER, from, data);
        self.carry_out(index);
    }

    /// Streams on which something was received.
    pub(super) fn live_streams(&self, index: usize) -> usize {
        self.hosts[index]
            .streams
            .values()
            .filter(|received| **received > 0)
            .count()
    }

    pub(super) fn accepted(&self, index: usize) -> usize {
        self.hosts[index]
            .events
            .iter()
            .filter(|event| matches!(event, Event::Accepted { .. }))
            .count()
    }

    /// The distinct payload bytes sent by a host that satisfy a condition.
    pub(super) fn sent_values(
        &self,
        index: usize,
        wanted: impl Fn(&[u8]) -> Option<Bytes>,
    ) -> BTreeSet<Bytes> {
        self.hosts[index]
            .sent
            .iter()
            .filter_map(|transmit| wanted(&transmit.data))
            .collect()
    }
}
