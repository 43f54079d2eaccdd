use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::message::{Message, Request, Response, decode};
use super::nat::NatSampler;
use super::table::{Inserted, K, Node, Table};
use super::token::{ROTATION, Tokens};
use super::{Ask, OLD_NODE, PING, QuerySpec, Rpc, RpcConfig, SLEEPING, TICK};
use crate::address::{match_local, node_id};
use crate::recorded::{address, bytes, cases, fixed};
use crate::{Entropy, SocketId, Transmit};

fn addresses(value: &Value) -> Vec<SocketAddrV4> {
    value.as_array().unwrap().iter().map(address).collect()
}

#[test]
fn node_ids_are_those_of_js() {
    for case in cases("dht-rpc-ids") {
        assert_eq!(node_id(address(&case)), fixed(&case["id"]));
    }
}

#[test]
fn requests_decode_and_encode_as_in_js() {
    for case in cases("dht-rpc-requests") {
        let hex = bytes(&case["hex"]);
        let Some(Message::Request(request)) = decode(&hex) else {
            panic!("{case}")
        };
        assert_eq!(u64::from(request.tid), case["tid"].as_u64().unwrap());
        assert_eq!(request.to, address(&case["to"]));
        assert_eq!(request.command, case["command"].as_u64().unwrap());
        assert_eq!(request.id.is_some(), case["sender"]["id"].is_string());
        assert_eq!(request.encode(), hex, "{case}");
        for end in 0..hex.len() {
            let _ = decode(&hex[..end]);
        }
    }
}

#[test]
fn responses_decode_and_encode_as_in_js() {
    for case in cases("dht-rpc-responses") {
        let hex = bytes(&case["hex"]);
        let Some(Message::Response(response)) = decode(&hex) else {
            panic!("{case}")
        };
        assert_eq!(response.error, case["error"].as_u64().unwrap());
        assert_eq!(response.closer_nodes, addresses(&case["closer_nodes"]));
        assert_eq!(
            response.token,
            case["token"].is_string().then(|| fixed(&case["token"]))
        );
        assert_eq!(response.encode(), hex, "{case}");
        for end in 0..hex.len() {
            let _ = decode(&hex[..end]);
        }
    }
}

#[test]
fn tokens_are_those_of_js_and_die_after_two_rotations() {
    let now = Instant::now();
    for case in cases("dht-rpc-tokens") {
        let host = case["host"].as_str().unwrap().parse().unwrap();
        let secrets = case["secrets"].as_array().unwrap();
        let mut tokens = Tokens::new([fixed(&secrets[0]), fixed(&secrets[1])], now);
        let token = fixed(&case["token_secret1"]);
        assert_eq!(tokens.create(host), token);
        assert!(tokens.is_valid(host, &fixed(&case["token_secret0"])));
        tokens.advance(now + ROTATION);
        let after = case["secrets_after_rotation"].as_array().unwrap();
        assert_eq!(tokens.secrets(), [fixed(&after[0]), fixed(&after[1])]);
        assert_eq!(tokens.create(host), fixed(&case["reply_token_after_rotation"]));
        assert!(tokens.is_valid(host, &token));
        tokens.advance(now + 2 * ROTATION);
        assert!(!tokens.is_valid(host, &token));
    }
}

#[test]
fn the_table_accepts_and_orders_nodes_as_js_does() {
    for case in cases("routing-table") {
        let mut table = Table::new(fixed(&case["self_id"]));
        let accepted = case["accepted"].as_array().unwrap();
        for (node, accepted) in addresses(&case["nodes_in_order"]).into_iter().zip(accepted) {
            let inserted = table.insert(Node::new(node_id(node), node, 1));
            assert_eq!(inserted == Inserted::Added, accepted.as_bool().unwrap());
        }
        let target = fixed(&case["target"]);
        let closest: Vec<_> = table
            .closest(&target, K)
            .iter()
            .map(|node| node.address)
            .collect();
        assert_eq!(closest, addresses(&case["closest"]));
        let len = table.len();
        let oldest = table.oldest().next().unwrap().id;
        table.touch(&oldest);
        assert_eq!(table.latest().next().unwrap().id, oldest);
        assert!(table.remove(&oldest).is_some() && table.get(&oldest).is_none());
        assert_eq!(table.len(), len - 1);
    }
}

#[test]
fn nat_samples_are_counted_as_in_js() {
    for case in cases("nat-sampler") {
        let mut sampler = NatSampler::default();
        for (index, step) in case["steps"].as_array().unwrap().iter().enumerate() {
            let hits = sampler.add(address(&step["add"]));
            let host = step["host"].as_str().map(|host| host.parse().unwrap());
            assert_eq!(sampler.host(), host, "step {index} of {}", case["name"]);
            assert_eq!(u64::from(sampler.port()), step["port"].as_u64().unwrap());
            assert_eq!(i64::from(hits), step["hits"].as_i64().unwrap());
        }
    }
}

#[test]
fn local_addresses_match_as_in_js() {
    for case in cases("lan-match") {
        let matched = match_local(&addresses(&case["local"]), &addresses(&case["remote"]));
        assert_eq!(
            matched,
            case["match"].is_object().then(|| address(&case["match"])),
            "{case}"
        );
    }
}

fn rpc(now: Instant) -> Rpc {
    let config = RpcConfig {
        server_port: 1,
        firewalled: None,
        ephemeral: None,
        public_address: None,
    };
    Rpc::new(config, Entropy::new(|target| target.fill(7)), now)
}

fn transmits(rpc: &mut Rpc) -> Vec<Transmit> {
    std::iter::from_fn(|| rpc.poll_transmit()).collect()
}

/// A response of a node to a datagram of ours.
fn response(to: &Transmit) -> Vec<u8> {
    let Some(Message::Request(request)) = decode(&to.data) else {
        panic!("a request")
    };
    let response = Response {
        tid: request.tid,
        to: "80.1.1.1:1".parse().unwrap(),
        id: Some(node_id(to.to)),
        token: None,
        closer_nodes: Vec::new(),
        error: 0,
        value: None,
    };
    response.encode().to_vec()
}

/// How often queries send to a node that does not answer, one after the other.
fn tries(rpc: &mut Rpc, now: &mut Instant, node: SocketAddrV4) -> usize {
    rpc.query(
        *now,
        QuerySpec {
            nodes: vec![node],
            only_nodes: true,
            ..QuerySpec::new([1; 32], 0)
        },
    );
    let mut count = 0;
    for _ in 0..20 {
        count += transmits(rpc).iter().filter(|sent| sent.to == node).count();
        *now += Duration::from_secs(1);
        rpc.handle_timeout(*now);
    }
    count
}

#[test]
fn a_node_that_never_answered_is_asked_once_by_a_query_until_it_is_heard() {
    let mut now = Instant::now();
    let node: SocketAddrV4 = "80.1.1.2:2".parse().unwrap();
    let mut rpc = rpc(now);
    assert_eq!(tries(&mut rpc, &mut now, node), 6, "as in JavaScript");
    assert_eq!(tries(&mut rpc, &mut now, node), 1);
    assert_eq!(tries(&mut rpc, &mut now, node), 1);
    let ping = Request {
        tid: 1,
        to: node,
        id: None,
        token: None,
        internal: true,
        command: PING,
        target: None,
        value: None,
    };
    rpc.handle_datagram(now, SocketId::SERVER, node, &ping.encode());
    transmits(&mut rpc);
    assert_eq!(tries(&mut rpc, &mut now, node), 6);
    rpc.request(
        now,
        Ask {
            retries: 0,
            ..Ask::ping("80.1.1.3:3".parse().unwrap())
        },
    );
    transmits(&mut rpc);
    now += Duration::from_secs(1);
    rpc.handle_timeout(now);
    let other = "80.1.1.3:3".parse().unwrap();
    assert_eq!(
        tries(&mut rpc, &mut now, other),
        6,
        "a datagram that is lost proves nothing"
    );
}

#[test]
fn a_node_that_answers_in_the_tick_in_which_it_was_said_to_be_down_stays() {
    let now = Instant::now();
    let node: SocketAddrV4 = "80.1.1.2:2".parse().unwrap();
    let mut rpc = rpc(now);
    rpc.request(now, Ask::ping(node));
    let asked = transmits(&mut rpc);
    rpc.handle_datagram(now, SocketId::CLIENT, node, &response(&asked[0]));
    assert_eq!(rpc.table_len(), 1);
    rpc.check(now, &node_id(node));
    let asked = transmits(&mut rpc);
    rpc.handle_datagram(now, SocketId::CLIENT, node, &response(&asked[0]));
    assert_eq!(rpc.table_len(), 1);
}

#[test]
fn a_node_that_slept_pings_in_two_ticks_whichever_tick_it_was() {
    let now = Instant::now();
    for tick in 1..=16 {
        let mut rpc = rpc(now);
        rpc.tick = tick;
        rpc.on_tick(now + TICK + 2 * SLEEPING);
        assert_eq!(rpc.tick % 8, 6, "from {tick}");
        assert!(rpc.tick + 1 >= tick + 2 * OLD_NODE);
    }
}
