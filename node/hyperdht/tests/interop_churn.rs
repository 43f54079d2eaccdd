//! A DHT of sixteen nodes, half JavaScript and half ours, of which one is replaced every few seconds, mostly without a goodbye. What is
//! announced must be found all the time, also after the JavaScript bootstrap node was killed. Needs Node.js and `npm ci` in
//! `interop/dht`. `CUMULET_CHURN_SECONDS` says how long.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests"
)]

mod support;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use cumulet_hyperdht::{Dht, DhtConfig};
use cumulet_secret_stream::noise::KeyPair;
use serde_json::{Value, json};
use support::{Js, fresh_key_pair, key};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Of a run in CI.
const SECONDS: u64 = 30;
/// Nodes of each kind; one of the JavaScript ones is the bootstrap node, which is not replaced after its end.
const EACH: usize = 8;
/// A node is replaced this often: a whole generation lives sixteen times as long.
const REPLACE_EVERY: Duration = Duration::from_secs(3);
/// Whoever announced does it again so long after it was done. A node that came since knows nothing. It takes six seconds while
/// dead nodes are known, as in JavaScript: that long they are asked again.
const ANNOUNCE_EVERY: Duration = Duration::from_secs(4);
/// All topics are looked up this often, by each side: JavaScript bounds what a node asks at a time, and lookups wait six seconds
/// for dead nodes.
const LOOK_UP_EVERY: Duration = Duration::from_secs(2);
/// Of the JavaScript announcer's key pair.
const JS_SEED: u8 = 9;
/// Topics of each announcer.
const TOPICS: u8 = 4;
/// Of a thousand lookups this many may fail.
const MAY_FAIL: usize = 1;

/// A node that comes and goes.
enum Member {
    Ours { dht: Dht, end: CancellationToken },
    Js { handle: Value, address: String },
}

impl Member {
    fn address(&self) -> String {
        match self {
            Self::Ours { dht, .. } => dht.local_address().to_string(),
            Self::Js { address, .. } => address.clone(),
        }
    }
}

async fn ours(bootstrap: Vec<String>, wait: bool) -> Member {
    let config = DhtConfig {
        bind: std::net::Ipv4Addr::LOCALHOST,
        bootstrap,
        ephemeral: Some(false),
        firewalled: Some(false),
        ..DhtConfig::default()
    };
    let end = CancellationToken::new();
    let dht = Dht::spawn(config, &TaskTracker::new(), end.clone())
        .await
        .unwrap();
    if wait {
        dht.bootstrapped().await;
    }
    Member::Ours { dht, end }
}

async fn theirs(js: &mut Js, bootstrap: Vec<String>, wait: bool) -> Member {
    let wanted = json!({ "bootstrap": bootstrap, "firewalled": false, "ephemeral": false, "wait": wait });
    let answer = js.call("node", wanted).await;
    Member::Js {
        handle: answer["handle"].clone(),
        address: format!("127.0.0.1:{}", answer["port"]),
    }
}

/// The nodes, and what replaces them.
struct Network {
    /// A process of its own, to be killed.
    bootstrap: Option<Js>,
    bootstrap_names: Vec<String>,
    js: Js,
    members: VecDeque<Member>,
    replaced: usize,
}

impl Network {
    async fn start() -> Self {
        let mut bootstrap = Js::start();
        let names = bootstrap.testnet(1).await;
        let mut js = Js::start();
        let mut members = VecDeque::new();
        for number in 0..EACH {
            members.push_back(ours(names.clone(), true).await);
            if number > 0 {
                members.push_back(theirs(&mut js, names.clone(), true).await);
            }
        }
        Self {
            bootstrap: Some(bootstrap),
            bootstrap_names: names,
            js,
            members,
            replaced: 0,
        }
    }

    /// What a newcomer is told: the bootstrap node, dead or alive, and four nodes as it may know them from before.
    fn names(&self) -> Vec<String> {
        let known = self.members.iter().rev().skip(2).take(4).map(Member::address);
        self.bootstrap_names.iter().cloned().chain(known).collect()
    }

    /// The oldest node goes, every fourth with a goodbye, and one of its kind comes.
    async fn replace_one(&mut self) {
        let polite = self.replaced.is_multiple_of(4);
        let newcomer = match self.members.pop_front().unwrap() {
            Member::Ours { dht, end } => {
                if polite {
                    dht.close().await;
                } else {
                    end.cancel();
                }
                drop(dht);
                ours(self.names(), false).await
            }
            Member::Js { handle, .. } => {
                let names = self.names();
                let close = json!({ "handle": handle, "force": !polite });
                self.js.call("close", close).await;
                theirs(&mut self.js, names, false).await
            }
        };
        self.members.push_back(newcomer);
        self.replaced += 1;
    }

    async fn churn(mut self, until: Instant) -> Self {
        let mut kill_at = Some(Instant::now() + (until - Instant::now()) / 4);
        while Instant::now() < until {
            let next = Instant::now() + REPLACE_EVERY;
            if kill_at.is_some_and(|at| at <= Instant::now()) {
                // At once, as by a power cut.
                (self.bootstrap, kill_at) = (None, None);
            }
            self.replace_one().await;
            tokio::time::sleep_until(next.into()).await;
        }
        self
    }
}

fn topic(announcer: u8, number: u8) -> [u8; 32] {
    cumulet_hyperdht::hash(&[b"churn", &[announcer, number]])
}

fn topics(announcer: u8) -> Vec<[u8; 32]> {
    (0..TOPICS).map(|number| topic(announcer, number)).collect()
}

/// What became of lookups.
#[derive(Debug, Default)]
struct Tally {
    asked: usize,
    failed: Vec<String>,
    longest: Duration,
}

async fn announce_ours(dht: &Dht, key_pair: &KeyPair) {
    let announcements = topics(0)
        .into_iter()
        .map(|topic| dht.announce(topic, key_pair, Vec::new()));
    for announced in futures::future::join_all(announcements).await {
        announced.unwrap();
    }
}

/// A node of ours that stays, announces, and looks up what it and the JavaScript one announced.
async fn ask_ours(
    dht: Dht,
    (key_pair, js_key): (KeyPair, [u8; 32]),
    (start, until): (Instant, Instant),
) -> Tally {
    let (announcer, announcing) = (dht.clone(), key_pair.clone());
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move {
        loop {
            announce_ours(&announcer, &announcing).await;
            tokio::time::sleep(ANNOUNCE_EVERY).await;
        }
    });
    let mut lookups = tokio::task::JoinSet::new();
    while Instant::now() < until {
        let ours = topics(0).into_iter().map(|topic| (topic, *key_pair.public_key()));
        let theirs = topics(1).into_iter().map(|topic| (topic, js_key));
        for (topic, key) in ours.chain(theirs) {
            let dht = dht.clone();
            lookups.spawn(async move {
                let begun = Instant::now();
                let peers = dht.lookup(topic).await;
                let found = matches!(&peers, Ok(peers) if peers.iter().any(|peer| peer.public_key == key));
                (begun, begun.elapsed(), found, peers)
            });
        }
        tokio::time::sleep(LOOK_UP_EVERY).await;
    }
    let mut tally = Tally::default();
    for (begun, took, found, peers) in lookups.join_all().await {
        tally.asked += 1;
        tally.longest = tally.longest.max(took);
        if !found {
            tally.failed.push(format!("{:?}: {peers:?}", begun - start));
        }
    }
    assert!(tasks.try_join_next().is_none(), "an announcement failed");
    tally
}

/// The same for JavaScript.
async fn ask_js((mut js, node): (Js, Value), (our_key, js_key): ([u8; 32], [u8; 32]), seconds: u64) -> Tally {
    let wanted: Vec<[String; 2]> = [(0, our_key), (1, js_key)]
        .into_iter()
        .flat_map(|(announcer, key)| {
            let named = move |topic: [u8; 32]| [hex::encode(topic), hex::encode(key)];
            topics(announcer).into_iter().map(named)
        })
        .collect();
    let order = json!({
        "node": node, "topics": topics(1).iter().map(hex::encode).collect::<Vec<_>>(), "seed": JS_SEED, "wanted": wanted,
        "seconds": seconds, "announceEvery": ANNOUNCE_EVERY.as_millis() as u64,
        "lookUpEvery": LOOK_UP_EVERY.as_millis() as u64,
    });
    let limit = Duration::from_secs(seconds + 60);
    let answer = js.call_within(limit, "ask", order).await;
    Tally {
        asked: usize::try_from(answer["asked"].as_u64().unwrap()).unwrap(),
        failed: support::strings(&answer["failed"]),
        longest: Duration::from_millis(answer["longest"].as_u64().unwrap()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_announced_is_found_while_all_nodes_come_and_go_and_the_bootstrap_node_is_killed() {
    let seconds = std::env::var("CUMULET_CHURN_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(SECONDS);
    let network = Network::start().await;
    let names = network.names();
    let dht = support::node(&names, Some(false)).await;
    let mut js = Js::start();
    let node = js
        .call("node", json!({ "bootstrap": names, "firewalled": false }))
        .await["handle"]
        .clone();
    let key_pair = fresh_key_pair();
    announce_ours(&dht, &key_pair).await;
    let topics: Vec<String> = topics(1).iter().map(hex::encode).collect();
    let announce = json!({ "node": node, "topics": topics, "seed": JS_SEED });
    let js_key = key(&js.call("announceAll", announce).await["publicKey"]);
    let start = Instant::now();
    let until = start + Duration::from_secs(seconds);
    let our_key = *key_pair.public_key();
    let (network, ours, js_asked) = tokio::join!(
        network.churn(until),
        ask_ours(dht, (key_pair, js_key), (start, until)),
        ask_js((js, node), (our_key, js_key), seconds),
    );
    for (who, tally) in [("we", &ours), ("JavaScript", &js_asked)] {
        let found = tally.asked - tally.failed.len();
        eprintln!(
            "{who} asked: {found} of {} found, longest {:?}",
            tally.asked, tally.longest
        );
    }
    eprintln!("{} nodes replaced in {seconds} s", network.replaced);
    assert!(network.bootstrap.is_none(), "it was killed");
    assert!(
        network.replaced as u64 * 4 >= seconds,
        "{} replaced",
        network.replaced
    );
    for tally in [&ours, &js_asked] {
        assert!(tally.asked > 0);
        assert!(
            tally.failed.len() * 1_000 <= tally.asked * MAY_FAIL,
            "{:#?}",
            tally.failed
        );
    }
}
