//! The node in a simulated network.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_precision_loss,
    reason = "tests"
)]

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use bytes::Bytes;
use cumulet_secret_stream::noise::KeyPair;

use super::client::ConnectRequest;
use super::simulation::{NatKind, Sim};
use super::{ConnectId, Event, Goal, ServerId, ServerOptions};
use crate::messages::{Handshake, mode};
use crate::recorded::{bytes, cases};
use crate::{ConnectError, Entropy};

fn key_pair(byte: u8) -> KeyPair {
    KeyPair::from_seed([byte; 32])
}

fn listen(sim: &mut Sim, host: usize, byte: u8) -> ServerId {
    let now = sim.now;
    let server = sim.hosts[host]
        .node
        .listen(now, key_pair(byte), ServerOptions::default())
        .unwrap();
    let announced = sim.run_until(Duration::from_secs(20), |sim| {
        sim.hosts[host]
            .events
            .iter()
            .any(|event| matches!(event, Event::Announced { .. }))
    });
    assert!(announced);
    server
}

fn connect(sim: &mut Sim, host: usize, byte: u8) -> ConnectId {
    let request = ConnectRequest {
        public_key: *key_pair(byte).public_key(),
        key_pair: key_pair(200),
        relay_addresses: vec![],
        relay_through: vec![],
        never_punch: false,
    };
    let now = sim.now;
    sim.hosts[host].node.connect(now, request)
}

fn failure(sim: &Sim, host: usize) -> Option<ConnectError> {
    sim.hosts[host].events.iter().find_map(|event| match event {
        Event::ConnectFailed { error, .. } => Some(error.clone()),
        _ => None,
    })
}

/// Connects and waits until packets of the stream have arrived on both sides.
fn meet(sim: &mut Sim, client: usize, server: usize, time: Duration) -> Result<(), Option<ConnectError>> {
    listen(sim, server, 1);
    let before = (sim.live_streams(client), sim.live_streams(server));
    connect(sim, client, 1);
    let met = sim.run_until(time, |sim| {
        sim.live_streams(client) > before.0 && sim.live_streams(server) > before.1 && sim.accepted(server) > 0
    });
    if met { Ok(()) } else { Err(failure(sim, client)) }
}

const SOON: Duration = Duration::from_secs(5);

#[test]
fn nodes_of_every_kind_meet_through_the_dht() {
    for seed in 0..4 {
        let mut sim = Sim::dht(seed, 12);
        let (open, unaware) = (sim.public(), sim.unaware());
        let behind = [sim.behind(NatKind::Consistent), sim.behind(NatKind::Consistent)];
        assert!(
            !sim.hosts[unaware].node.is_firewalled(),
            "it found out that it can be reached"
        );
        assert!(
            sim.hosts[behind[0]].node.is_firewalled(),
            "and this one that it can not"
        );
        let pairs = [
            (open, unaware),
            (unaware, open),
            (behind[0], open),
            (open, behind[0]),
            (behind[0], behind[1]),
        ];
        for (client, server) in pairs {
            let mut sim = Sim::dht(seed, 12);
            let hosts = [
                sim.public(),
                sim.unaware(),
                sim.behind(NatKind::Consistent),
                sim.behind(NatKind::Consistent),
            ];
            assert_eq!(hosts, [open, unaware, behind[0], behind[1]]);
            let met = meet(&mut sim, client, server, SOON);
            assert_eq!(met, Ok(()), "seed {seed}: {client} to {server}");
        }
    }
}

#[test]
fn a_random_nat_is_guessed_from_either_side_and_two_random_ones_fail_with_words() {
    for client_random in [true, false] {
        let mut sim = Sim::dht(7, 12);
        let (random, consistent) = (sim.behind(NatKind::Random), sim.behind(NatKind::Consistent));
        let (client, server) = if client_random {
            (random, consistent)
        } else {
            (consistent, random)
        };
        let met = meet(&mut sim, client, server, Duration::from_mins(1));
        assert_eq!(met, Ok(()), "client random: {client_random}");
        assert_eq!(sim.hosts[client].node.counters().punched, 1);
    }
    let mut sim = Sim::dht(8, 12);
    let (client, server) = (sim.behind(NatKind::Random), sim.behind(NatKind::Random));
    let error = meet(&mut sim, client, server, Duration::from_mins(1)).unwrap_err();
    assert!(
        matches!(error, Some(ConnectError::HolepunchFailed { .. })),
        "{error:?}"
    );
}

#[test]
fn connections_opened_at_once_wait_for_answers_and_not_for_a_clock() {
    let mut sim = Sim::dht(11, 12);
    let (client, server) = (sim.public(), sim.public());
    listen(&mut sim, server, 1);
    let (begun, many) = (sim.now, 64);
    for number in 0..many {
        let request = ConnectRequest {
            public_key: *key_pair(1).public_key(),
            key_pair: key_pair(100 + number),
            relay_addresses: vec![],
            relay_through: vec![],
            never_punch: false,
        };
        sim.hosts[client].node.connect(begun, request);
    }
    // More requests than may be under way. A search and a handshake take three round trips of 60 ms each at most.
    let all = usize::from(many);
    let met = sim.run_until(SOON, |sim| {
        sim.accepted(server) == all && sim.live_streams(client) == all
    });
    assert!(met, "{:?}", failure(&sim, client));
    let took = sim.now - begun;
    assert!(took < Duration::from_millis(700), "{took:?}");
}

#[test]
fn a_fifth_of_all_datagrams_may_be_lost() {
    let mut met = 0;
    for seed in 0..10 {
        let mut sim = Sim::dht(seed, 12);
        let (client, server) = (sim.behind(NatKind::Consistent), sim.public());
        sim.loss = 51;
        met += usize::from(meet(&mut sim, client, server, Duration::from_secs(30)).is_ok());
    }
    assert!(met >= 9, "{met} of 10");
}

/// The Noise bytes of a handshake message with this mode, in a request or response.
fn noise_of(datagram: &[u8], wanted: u64) -> Option<Bytes> {
    use crate::rpc::sniff_value;
    let message = Handshake::decode(&sniff_value(datagram)?).ok()?;
    (message.mode == wanted)
        .then_some(message.noise)
        .flatten()
        .filter(|noise| noise.len() > 40)
}

/// Connects once more and waits for it; returns whom the client's first messages went to, and how long it took.
fn meet_again(sim: &mut Sim, client: usize, server: usize) -> (Vec<SocketAddrV4>, Duration) {
    let (begun, before) = (sim.now, sim.accepted(server));
    let connected = |sim: &Sim| {
        let events = sim.hosts[client].events.iter();
        events
            .filter(|event| matches!(event, Event::Connected { .. }))
            .count()
    };
    // The server may have spoken before its reply is here.
    let number = connected(sim);
    sim.hosts[client].sent.clear();
    connect(sim, client, 1);
    let met = sim.run_until(SOON, |sim| {
        sim.accepted(server) > before && connected(sim) > number
    });
    assert!(met, "{:?}", failure(sim, client));
    let sent = sim.hosts[client].sent.iter();
    let asked = sent.filter(|transmit| noise_of(&transmit.data, mode::FROM_CLIENT).is_some());
    (asked.map(|transmit| transmit.to).collect(), sim.now - begun)
}

#[test]
fn the_way_that_led_to_a_peer_before_is_tried_alone_and_when_it_is_gone_another_soon() {
    for seed in 0..4 {
        let mut sim = Sim::dht(seed, 12);
        let (client, open, hidden) = (sim.public(), sim.public(), sim.behind(NatKind::Consistent));
        meet(&mut sim, client, open, SOON).unwrap();
        sim.run(SOON);
        let itself = sim.hosts[open].address;
        assert_eq!(meet_again(&mut sim, client, open).0, [itself], "seed {seed}");

        let mut sim = Sim::dht(seed, 12);
        assert_eq!((sim.public(), sim.public()), (client, open));
        assert_eq!(sim.behind(NatKind::Consistent), hidden);
        meet(&mut sim, client, hidden, SOON).unwrap();
        sim.run(SOON);
        let (asked, took) = meet_again(&mut sim, client, hidden);
        assert_eq!(asked.len(), 1, "seed {seed}: {asked:?}");
        assert!(took < Duration::from_millis(250), "seed {seed}: {took:?}");
        let relay = sim.hosts.iter().position(|host| host.address == asked[0]);
        sim.leave(relay.unwrap());
        let (around, took) = meet_again(&mut sim, client, hidden);
        assert!(
            around.len() > 1 && around[0] == asked[0],
            "seed {seed}: {around:?}"
        );
        assert!(took < Duration::from_millis(600), "seed {seed}: {took:?}");
        let (then, _) = meet_again(&mut sim, client, hidden);
        assert!(then.len() == 1 && then != asked, "seed {seed}: {then:?}");
    }
}

#[test]
fn copies_of_one_handshake_get_one_reply_and_one_stream() {
    let mut sim = Sim::dht(3, 12);
    let (client, server) = (sim.behind(NatKind::Consistent), sim.public());
    meet(&mut sim, client, server, SOON).unwrap();
    sim.run(Duration::from_secs(2));
    let counters = sim.hosts[server].node.counters();
    assert!(counters.handshakes_received >= 2, "{counters:?}");
    assert_eq!(counters.handshakes_repeated, counters.handshakes_received - 1);
    assert_eq!(
        sim.sent_values(server, |data| noise_of(data, mode::FROM_SERVER))
            .len(),
        1,
        "one reply"
    );
    assert_eq!((sim.hosts[server].created, sim.accepted(server)), (1, 1));
}

#[test]
fn a_client_that_never_comes_is_forgotten_with_its_stream() {
    let mut sim = Sim::dht(4, 12);
    let (client, server) = (sim.behind(NatKind::Consistent), sim.public());
    listen(&mut sim, server, 1);
    connect(&mut sim, client, 1);
    sim.run_until(SOON, |sim| sim.hosts[server].created == 1);
    sim.loss = 255;
    sim.run(Duration::from_secs(25));
    assert!(sim.hosts[server].streams.is_empty());
    assert_eq!(sim.hosts[server].node.counters().abandoned, 1);
    assert_eq!(sim.accepted(server), 0);
}

#[test]
fn an_attempt_that_is_given_up_leaves_nothing_behind_however_far_it_came() {
    for far in [0, 30, 60, 90, 120, 200, 400] {
        let mut sim = Sim::dht(7, 12);
        let [server, client] = [sim.behind(NatKind::Consistent), sim.behind(NatKind::Consistent)];
        listen(&mut sim, server, 1);
        sim.run(SOON);
        let streams = sim.hosts[client].streams.len();
        let attempt = connect(&mut sim, client, 1);
        sim.run(Duration::from_millis(far));
        let connected = |sim: &Sim| {
            let events = sim.hosts[client].events.iter();
            events
                .filter(|event| matches!(event, Event::Connected { .. } | Event::ConnectFailed { .. }))
                .count()
        };
        let before = connected(&sim);
        let now = sim.now;
        sim.hosts[client].node.cancel_connect(now, attempt);
        sim.run(Duration::from_secs(40));
        assert_eq!(
            connected(&sim),
            before,
            "{far} ms: nothing is heard of it any more"
        );
        assert_eq!(sim.hosts[client].streams.len(), streams + before, "{far} ms");
        let node = &sim.hosts[client].node;
        assert!(node.connects.is_empty() && node.punchers.is_empty(), "{far} ms");
        assert!(node.punch_sockets.is_empty(), "{far} ms");
    }
}

#[test]
fn a_closed_server_is_withdrawn_and_announces_again_elsewhere_when_its_nodes_die() {
    let mut sim = Sim::dht(5, 16);
    let (client, server) = (sim.public(), sim.behind(NatKind::Consistent));
    let id = listen(&mut sim, server, 1);
    let relays = |sim: &Sim| {
        let last = sim.hosts[server]
            .events
            .iter()
            .rev()
            .find_map(|event| match event {
                Event::Announced { relay_addresses, .. } => Some(relay_addresses.clone()),
                _ => None,
            });
        last.unwrap()
    };
    let first = relays(&sim);
    assert_eq!(first.len(), 3);
    let dead = sim
        .hosts
        .iter()
        .position(|host| host.address == first[0])
        .unwrap();
    sim.hosts[dead].address = SocketAddrV4::new(Ipv4Addr::new(80, 9, 9, 9), 1); // out of reach
    let moved = sim.run_until(Duration::from_secs(30), |sim| {
        !relays(sim).contains(&first[0]) && relays(sim).len() == 3
    });
    assert!(moved, "a new third relay was found");
    let now = sim.now;
    sim.hosts[server].node.close_server(now, id);
    let closed = sim.run_until(Duration::from_secs(10), |sim| {
        sim.hosts[server]
            .events
            .iter()
            .any(|event| matches!(event, Event::ServerClosed { .. }))
    });
    assert!(closed);
    connect(&mut sim, client, 1);
    sim.run(Duration::from_secs(30));
    assert_eq!(failure(&sim, client), Some(ConnectError::PeerNotFound));
}

#[test]
fn values_and_announcements_are_kept_by_the_nodes_near_them() {
    let mut sim = Sim::dht(6, 24);
    let (writer, reader) = (sim.behind(NatKind::Consistent), sim.behind(NatKind::Random));
    let key = ed25519_dalek::SigningKey::from_bytes(&[9; 32]);
    let put = Goal::MutablePut {
        key: key.clone(),
        seq: 4,
        value: Bytes::from_static(b"four"),
    };
    let now = sim.now;
    sim.hosts[writer].node.operate(now, put);
    sim.hosts[writer].node.operate(
        now,
        Goal::Announce {
            topic: [8; 32],
            key: key.clone(),
            relay_addresses: vec![],
        },
    );
    sim.run(Duration::from_secs(10));
    let now = sim.now;
    let public_key = key.verifying_key().to_bytes();
    sim.hosts[reader]
        .node
        .operate(now, Goal::MutableGet { public_key, seq: 0 });
    sim.hosts[reader]
        .node
        .operate(now, Goal::Lookup { topic: [8; 32] });
    sim.run(Duration::from_secs(10));
    let events = &sim.hosts[reader].events;
    assert!(events.iter().any(|event| matches!(
        event,
        Event::Finished { outcome, .. } if outcome.mutable.as_ref().is_some_and(|record| record.value == "four")
    )));
    assert!(events.iter().any(|event| matches!(
        event,
        Event::Peers { peers, .. } if peers.iter().any(|peer| peer.public_key == public_key)
    )));
}

#[test]
fn no_datagram_makes_a_node_panic_or_answer_without_bound() {
    let mut sim = Sim::dht(11, 3);
    listen(&mut sim, 0, 1);
    let mut entropy = Entropy::seeded(12);
    let files = ["dht-rpc-requests", "dht-rpc-responses", "router"];
    let seeds: Vec<Bytes> = files
        .iter()
        .flat_map(|name| cases(name))
        .map(|case| {
            bytes(if case["hex"].is_string() {
                &case["hex"]
            } else {
                &case["value_hex"]
            })
        })
        .collect();
    let from = SocketAddrV4::new(Ipv4Addr::new(9, 9, 9, 9), 999);
    for round in 0..30_000_usize {
        let mut data = seeds[round % seeds.len()].to_vec();
        for _ in 0..entropy.below(6) {
            let (at, byte) = (entropy.below(data.len().max(1)), entropy.array::<1>()[0]);
            if let Some(target) = data.get_mut(at) {
                *target = byte;
            }
        }
        data.truncate(1 + entropy.below(data.len().max(1)));
        sim.inject(0, from, &data);
    }
    let answered = sim.hosts[0]
        .sent
        .iter()
        .filter(|transmit| transmit.to == from)
        .count();
    assert!(answered > 100, "some of it was understood");
    sim.run(Duration::from_secs(30));
    assert!(sim.hosts[0].node.is_persistent());
}

#[test]
fn no_unproven_question_brings_more_than_three_times_its_bytes_beyond_the_ration() {
    use crate::messages::command;
    use crate::rpc::{EXCESS_RATION, WireRequest};
    let mut sim = Sim::dht(71, 24);
    let value = Bytes::from(vec![7; 1_000]);
    let target = crate::hash(&[&value]);
    let now = sim.now;
    let put = Goal::ImmutablePut { value: value.clone() };
    sim.hosts[1].node.operate(now, put);
    let _server = listen(&mut sim, 0, 1);
    sim.run(Duration::from_secs(10));
    let holder = (0..sim.hosts.len())
        .find(|index| sim.hosts[*index].node.store.immutable_get(&target).is_some())
        .unwrap();
    let own = crate::hash(&[key_pair(1).public_key()]);
    let cases = [
        ("PING", true, 0, holder, target),
        ("FIND_NODE", true, 2, holder, target),
        ("unknown command", true, 99, holder, target),
        ("FIND_PEER", false, command::FIND_PEER, 0, own),
        ("LOOKUP", false, command::LOOKUP, 0, own),
        ("IMMUTABLE_GET", false, command::IMMUTABLE_GET, holder, target),
        ("PEER_HANDSHAKE", false, command::PEER_HANDSHAKE, holder, target),
    ];
    let handshake = Handshake {
        mode: mode::FROM_CLIENT,
        noise: Some(Bytes::from_static(&[0; 48])),
        peer_address: None,
        relay_address: None,
    };
    for (number, (name, internal, command, host, target)) in (0_u8..).zip(cases) {
        let victim = SocketAddrV4::new(Ipv4Addr::new(9, 9, 9, number), 999);
        let request = WireRequest {
            tid: 1,
            to: sim.hosts[host].address,
            id: None,
            token: None,
            internal,
            command,
            target: (command != 0 || !internal).then_some(target),
            value: (command == command::PEER_HANDSHAKE && !internal).then(|| handshake.encode()),
        };
        let data = request.encode();
        let (mut asked, mut first) = (0, None);
        let before = sim.hosts[host].sent.len();
        for _ in 0..20_000 {
            sim.inject(host, victim, &data);
            asked += data.len();
        }
        let mut answered = 0;
        for transmit in &sim.hosts[host].sent[before..] {
            if transmit.to == victim {
                answered += transmit.data.len();
                first.get_or_insert(transmit.data.len());
            }
        }
        let first = first.unwrap_or(0);
        let factor = answered as f64 / asked as f64;
        eprintln!(
            "{name}: request {}, first reply {first} bytes, all in all x {factor:.2}",
            data.len()
        );
        let allowed = 3 * asked + EXCESS_RATION.0 as usize;
        assert!(answered <= allowed, "{name}: {answered} bytes for {asked}");
        if name == "IMMUTABLE_GET" {
            assert!(first > value.len(), "an ordinary question is answered in full");
        }
    }
}

/// A client and a server behind NATs, and the relay that the server names; returns the hosts once both sides are relayed.
fn relayed(sim: &mut Sim) -> (usize, usize) {
    let relay = sim.public();
    listen(sim, relay, 9);
    let (server, client) = (sim.behind(NatKind::Consistent), sim.behind(NatKind::Consistent));
    let options = ServerOptions {
        relay_through: vec![*key_pair(9).public_key()],
        ..ServerOptions::default()
    };
    let now = sim.now;
    sim.hosts[server].node.listen(now, key_pair(1), options).unwrap();
    sim.run(Duration::from_secs(20));
    sim.loses_probes = true;
    connect(sim, client, 1);
    let reached = sim.run_until(Duration::from_secs(10), |sim| {
        [server, client]
            .iter()
            .all(|host| !sim.hosts[*host].pair_orders.is_empty())
    });
    assert!(reached, "both sides come to the relay");
    let [ours, theirs] = [server, client].map(|host| &sim.hosts[host].pair_orders[0].1);
    assert_eq!(ours.token, theirs.token);
    assert_eq!((ours.is_initiator, theirs.is_initiator), (true, false));
    for host in [server, client] {
        let (now, id) = (sim.now, sim.hosts[host].pair_orders[0].0);
        sim.hosts[host].node.on_relay_paired(now, id, 77);
    }
    let named = Some(*key_pair(9).public_key());
    let handed_over = sim.run_until(Duration::from_millis(1), |sim| {
        let has = |host: usize| {
            sim.hosts[host].events.iter().any(|event| {
                matches!(event, Event::Accepted { relay, .. } | Event::Connected { relay, .. } if *relay == named)
            })
        };
        has(server) && has(client)
    });
    assert!(handed_over, "the application need not wait for the punch");
    (server, client)
}

#[test]
fn a_relayed_connection_moves_when_the_punch_gets_through_and_then_lets_the_relay_go() {
    let mut sim = Sim::dht(81, 6);
    let (server, client) = relayed(&mut sim);
    sim.run(Duration::from_secs(2));
    assert!(sim.hosts[client].moved.is_empty());
    sim.loses_probes = false;
    let moved = sim.run_until(Duration::from_secs(15), |sim| {
        [server, client]
            .iter()
            .all(|host| !sim.hosts[*host].moved.is_empty())
    });
    assert!(moved);
    sim.run(Duration::from_secs(10));
    for host in [server, client] {
        assert!(
            sim.hosts[host].released.is_empty(),
            "nothing arrived directly yet"
        );
        let (now, id) = (sim.now, sim.hosts[host].moved[0]);
        sim.hosts[host].node.on_direct_confirmed(now, id);
    }
    sim.run(Duration::from_secs(10));
    for host in [server, client] {
        assert_eq!(sim.hosts[host].moved.len(), 1);
        assert_eq!(sim.hosts[host].released, sim.hosts[host].moved);
        assert_eq!(sim.hosts[host].node.counters().relayed_upgraded, 1);
    }
    assert_eq!(failure(&sim, client), None);
}

#[test]
fn a_relayed_connection_stays_when_no_punch_gets_through_and_breaks_with_its_relay() {
    let mut sim = Sim::dht(82, 6);
    let (server, client) = relayed(&mut sim);
    sim.run(Duration::from_mins(3));
    for host in [server, client] {
        assert!(sim.hosts[host].moved.is_empty() && sim.hosts[host].released.is_empty());
    }
    assert_eq!(failure(&sim, client), None);
    let before = sim.hosts[client].streams.len();
    let (now, id) = (sim.now, sim.hosts[client].pair_orders[0].0);
    sim.hosts[client].node.on_relay_lost(now, id);
    sim.run(Duration::from_secs(1));
    assert_eq!(
        sim.hosts[client].streams.len(),
        before - 1,
        "its stream is destroyed"
    );
}
