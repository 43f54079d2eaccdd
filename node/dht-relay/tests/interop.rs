//! Pages: clients of `@hyperswarm/dht-relay` 0.4.3 on WebSockets (`ws`), which meet JavaScript peers on UDP through us. Needs
//! Node.js and `npm ci` in `interop/relay`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests"
)]

#[path = "../../hyperdht/tests/support/mod.rs"]
mod support;

use std::sync::Arc;
use std::time::Duration;

use cumulet_dht_relay::{Admission, Limits, MemberLimits, Relay, RelayOptions};
use cumulet_hyperdht::Dht;
use cumulet_secret_stream::noise::KeyPair;
use serde_json::{Value, json};
use support::{Js, node};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const BLOCKS: usize = 8;
const BYTES: usize = 60_000;

struct Relaying {
    relay: Relay,
    url: String,
    _dht: Dht,
    _end: tokio_util::sync::DropGuard,
}

async fn relaying(bootstrap: &[String], options: RelayOptions, member: MemberLimits) -> Relaying {
    // Identities whose seed is 9 are strangers.
    let stranger = *KeyPair::from_seed([9; 32]).public_key();
    let policy = move |identity: &[u8; 32]| {
        if *identity == stranger {
            Admission::Refused
        } else {
            Admission::Member(member)
        }
    };
    let dht = node(bootstrap, Some(false)).await;
    let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
    let relay = Relay::new(dht.clone(), Arc::new(policy), options, &tasks, &cancel);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    let serving = relay.clone();
    tasks.spawn(async move { serving.listen(listener, None).await });
    Relaying {
        relay,
        url,
        _dht: dht,
        _end: cancel.drop_guard(),
    }
}

fn expected() -> Value {
    let blocks = (0..BLOCKS).map(|block| hex::encode(vec![block as u8 + 1; BYTES]));
    blocks.collect::<Vec<_>>().into()
}

async fn settled(relay: &Relay) {
    let quiet = async {
        while relay.counters().clients > 0 || relay.counters().streams > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), quiet)
        .await
        .unwrap_or_else(|_| panic!("still there: {:?}", relay.counters()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_joins_a_topic_and_replicates_a_core_of_a_peer_on_udp() {
    let (mut js, mut page) = (
        Js::start_script("relay", "page.js"),
        Js::start_script("relay", "page.js"),
    );
    let bootstrap = js.testnet(4).await;
    let relaying = relaying(&bootstrap, RelayOptions::default(), MemberLimits::default()).await;
    let served = js
        .call(
            "serve",
            json!({ "bootstrap": bootstrap, "blocks": BLOCKS, "bytes": BYTES }),
        )
        .await;
    let read = page
        .call(
            "read",
            json!({ "url": relaying.url, "key": served["key"], "blocks": BLOCKS }),
        )
        .await;
    assert_eq!(read["blocks"], expected());
    settled(&relaying.relay).await;
    let counters = relaying.relay.counters();
    assert!(
        counters.bytes_to_clients > (BLOCKS * BYTES) as u64,
        "{counters:?}"
    );
    assert!(
        counters.queries > 0 && counters.streams_opened > 0,
        "{counters:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_announces_a_topic_and_serves_a_core_to_a_peer_on_udp_and_to_another_page() {
    let (mut js, mut page) = (
        Js::start_script("relay", "page.js"),
        Js::start_script("relay", "page.js"),
    );
    let bootstrap = js.testnet(4).await;
    let relaying = relaying(&bootstrap, RelayOptions::default(), MemberLimits::default()).await;
    let served = page
        .call(
            "serve",
            json!({ "url": relaying.url, "blocks": BLOCKS, "bytes": BYTES }),
        )
        .await;
    let on_udp = json!({ "bootstrap": bootstrap, "key": served["key"], "blocks": BLOCKS });
    assert_eq!(js.call("read", on_udp).await["blocks"], expected());
    let on_page = json!({ "url": relaying.url, "key": served["key"], "blocks": BLOCKS });
    assert_eq!(js.call("read", on_page).await["blocks"], expected());
    page.call("close", json!({ "handle": served["handle"] })).await;
    settled(&relaying.relay).await;
    let counters = relaying.relay.counters();
    assert!(
        counters.bytes_to_peers > 2 * (BLOCKS * BYTES) as u64,
        "{counters:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_and_clients_that_keep_their_secret_key_are_told_why_they_go() {
    let mut js = Js::start_script("relay", "page.js");
    let bootstrap = js.testnet(3).await;
    let relaying = relaying(&bootstrap, RelayOptions::default(), MemberLimits::default()).await;
    let url = &relaying.url;
    let refused = js.call("closed", json!({ "url": url, "seed": 9 })).await;
    assert_eq!(refused["code"], 1008);
    assert!(refused["reason"].as_str().unwrap().contains("not admitted"));
    let kept = js.call("closed", json!({ "url": url, "custodial": false })).await;
    assert!(
        kept["reason"]
            .as_str()
            .unwrap()
            .contains("custodial clients only")
    );
    settled(&relaying.relay).await;
    assert_eq!(relaying.relay.counters().clients_refused, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_beyond_a_members_number_and_bytes_beyond_its_quota_are_refused_and_others_go_on() {
    let mut js = Js::start_script("relay", "page.js");
    let bootstrap = js.testnet(4).await;
    let member = MemberLimits {
        links: 2,
        quota_bytes: Some(100_000),
        ..MemberLimits::default()
    };
    let relaying = relaying(&bootstrap, RelayOptions::default(), member).await;
    let served = js
        .call(
            "serve",
            json!({ "bootstrap": bootstrap, "blocks": 1, "bytes": BYTES }),
        )
        .await;
    let many = json!({ "url": relaying.url, "publicKey": served["publicKey"], "count": 4 });
    let dialled = js.call("dial", many).await;
    let outcomes = support::strings(&dialled["outcomes"]);
    let count = |what: &str| outcomes.iter().filter(|outcome| outcome.contains(what)).count();
    assert_eq!(count("no room for another stream"), 2, "{outcomes:?}");
    // A swarm keeps one connection per key, and may end the other one before anything came of it.
    assert!(outcomes.iter().any(|outcome| outcome == "open"), "{outcomes:?}");
    settled(&relaying.relay).await;
    // One block fits the quota, for each identity again.
    for _ in 0..2 {
        let read = json!({ "url": relaying.url, "key": served["key"], "blocks": 1 });
        js.call("read", read).await;
    }
    let flood = js
        .call(
            "serve",
            json!({ "bootstrap": bootstrap, "blocks": BLOCKS, "bytes": BYTES }),
        )
        .await;
    let greedy = json!({ "url": relaying.url, "key": flood["key"], "blocks": BLOCKS });
    let reading = tokio::time::timeout(Duration::from_secs(4), js.call("read", greedy)).await;
    assert!(reading.is_err(), "more than the quota came through");
    let counters = relaying.relay.counters();
    assert!(counters.streams_exhausted > 0, "{counters:?}");
    assert_eq!(counters.streams_refused, 2, "{counters:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_relay_lets_idle_clients_go_takes_nobody_in_and_ends_in_time() {
    let mut js = Js::start_script("relay", "page.js");
    let bootstrap = js.testnet(3).await;
    let limits = Limits {
        clients: 1,
        ..Limits::default()
    };
    let relaying = relaying(&bootstrap, RelayOptions { limits }, MemberLimits::default()).await;
    let relay = relaying.relay.clone();
    let url = relaying.url.clone();
    let idle = tokio::spawn(async move { js.call("closed", json!({ "url": url })).await });
    while relay.counters().clients_opened == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::timeout(Duration::from_secs(5), relay.drain(Duration::from_secs(30)))
        .await
        .unwrap();
    idle.await.unwrap();
    assert_eq!(relay.counters().clients, 0);
    let (end, _other) = tokio::io::duplex(64);
    assert!(relay.accept(end).await.is_err());
    assert_eq!(relay.counters().clients_refused, 1);
}
