//! A DHT of sixteen nodes on loopback, half JavaScript and half ours, of which one is replaced every few seconds, half of them without
//! a goodbye. What is announced must be found all the time, also after the JavaScript bootstrap node was killed. Needs Node.js and
//! `npm ci` in `interop/dht`. `CUMULET_CHURN_SECONDS` says how long.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests"
)]

mod support;

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use cumulet_hyperdht::{Dht, DhtConfig, LookupError};
use cumulet_net_lab::peers::{Churn, Lookups, Peer};
use cumulet_secret_stream::noise::KeyPair;
use serde_json::{Value, json};
use support::{Js, has_packages, key};

/// Where all nodes are: an address of loopback that no other test uses. The nodes ask those that are gone for a while, at ports that
/// are free again. Where another test got one of them for a DHT of its own, the two would grow into one, and that test would wait
/// for our dead.
const HERE: Ipv4Addr = Ipv4Addr::new(127, 0, 99, 1);
/// Of a run in CI.
const SECONDS: u64 = 30;
/// Nodes of each kind; one of the JavaScript ones is the bootstrap node, which is not replaced after its end.
const EACH: usize = 8;
/// A node is replaced this often: on average one lives fifteen times as long.
const REPLACE_EVERY: Duration = Duration::from_secs(3);
/// Whoever announced does it again so long after it was done. A node that came since knows nothing. It takes six seconds while
/// dead nodes are known, as in JavaScript: that long they are asked again.
const ANNOUNCE_EVERY: Duration = Duration::from_secs(4);
/// All topics are looked up this often, by our side.
const LOOK_UP_EVERY: Duration = Duration::from_secs(6);
/// The JavaScript side does both half as often, and knows one bootstrap node where ours knows five. It asks each node that is dead
/// six times in every query, bootstrap nodes too, and bounds what it asks in all: at our pace it would use all of that up on the
/// dead, and its announcements would not get out any more.
const JS_SPARES: u32 = 2;
/// A lookup that takes longer counts as not answered; the JavaScript side has the same bound.
const PATIENCE: Duration = Duration::from_secs(30);
/// Of the JavaScript announcer's key pair.
const JS_SEED: u8 = 9;
/// Topics of each announcer.
const TOPICS: u8 = 4;
/// Decides which nodes are replaced.
const SEED: u64 = 1;
/// Of a thousand lookups this many may fail.
const MAY_FAIL: u64 = 1;

/// A node that comes and goes.
enum Member {
    Ours(Peer),
    Js { handle: Value, address: String },
}

impl Member {
    fn address(&self) -> String {
        match self {
            Self::Ours(peer) => peer.dht().local_address().to_string(),
            Self::Js { address, .. } => address.clone(),
        }
    }
}

fn on_loopback(bootstrap: Vec<String>) -> DhtConfig {
    DhtConfig {
        bind: HERE,
        bootstrap,
        firewalled: Some(false),
        ..DhtConfig::default()
    }
}

async fn ours(bootstrap: Vec<String>, wait: bool) -> Member {
    let config = DhtConfig {
        ephemeral: Some(false),
        ..on_loopback(bootstrap)
    };
    let peer = Peer::start(config, None).await.unwrap();
    if wait {
        peer.dht().bootstrapped().await;
    }
    Member::Ours(peer)
}

async fn theirs(js: &Js, bootstrap: Vec<String>, wait: bool) -> Member {
    let wanted = json!({ "bootstrap": bootstrap, "firewalled": false, "ephemeral": false, "wait": wait });
    let answer = js.call("node", wanted).await.unwrap();
    Member::Js {
        handle: answer["handle"].clone(),
        address: format!("{HERE}:{}", answer["port"]),
    }
}

/// The nodes, and what replaces them.
struct Network {
    /// A process of its own, to be killed.
    bootstrap: Option<Js>,
    bootstrap_names: Vec<String>,
    js: Js,
    /// And how many came before.
    members: Vec<(usize, Member)>,
    replaced: usize,
}

impl Network {
    async fn start() -> Self {
        let bootstrap = Js::on_loopback(HERE);
        let names = strings(&bootstrap.call("testnet", json!({ "size": 1 })).await.unwrap()["bootstrap"]);
        let js = Js::on_loopback(HERE);
        let mut members = Vec::new();
        for number in 0..EACH {
            members.push((members.len(), ours(names.clone(), true).await));
            if number > 0 {
                members.push((members.len(), theirs(&js, names.clone(), true).await));
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

    /// What a newcomer is told: the bootstrap node, dead or alive, and four of the latest nodes but two, as it may know them from
    /// before.
    fn names(&self) -> Vec<String> {
        let mut latest: Vec<_> = self.members.iter().collect();
        latest.sort_by_key(|(came, _)| std::cmp::Reverse(*came));
        let known = latest.iter().skip(2).take(4).map(|(_, member)| member.address());
        self.bootstrap_names.iter().cloned().chain(known).collect()
    }

    /// A node goes, and one of its kind comes.
    async fn replace(&mut self, place: usize, goodbye: bool) {
        let came = self.members.len() + self.replaced;
        let names = self.names();
        let newcomer = match self.members.remove(place).1 {
            Member::Ours(peer) => {
                peer.leave(goodbye).await;
                ours(names, false).await
            }
            Member::Js { handle, .. } => {
                let close = json!({ "handle": handle, "force": !goodbye });
                self.js.call("close", close).await.unwrap();
                theirs(&self.js, names, false).await
            }
        };
        self.members.insert(place, (came, newcomer));
        self.replaced += 1;
    }

    async fn churn(mut self, until: Instant) -> Self {
        let begun = Instant::now();
        let mut kill_at = Some(begun + (until - begun) / 4);
        for departure in Churn::every(REPLACE_EVERY, self.members.len(), SEED) {
            let at = begun + departure.at;
            if at > until {
                break;
            }
            tokio::time::sleep_until(at.into()).await;
            if kill_at.is_some_and(|at| at <= Instant::now()) {
                // At once, as by a power cut.
                (self.bootstrap, kill_at) = (None, None);
            }
            self.replace(departure.place, departure.goodbye).await;
        }
        self
    }
}

fn strings(value: &Value) -> Vec<String> {
    let items = value.as_array().unwrap().iter();
    items.map(|item| item.as_str().unwrap().to_owned()).collect()
}

fn topic(announcer: u8, number: u8) -> [u8; 32] {
    cumulet_hyperdht::hash(&[b"churn", &[announcer, number]])
}

fn topics(announcer: u8) -> Vec<[u8; 32]> {
    (0..TOPICS).map(|number| topic(announcer, number)).collect()
}

/// What became of lookups, and what was answered to those that found nothing.
#[derive(Debug, Default)]
struct Tally {
    lookups: Lookups,
    failed: Vec<String>,
}

/// All topics. Where lookups take so long that a node's token is not valid any more when it is used, an announcement is not kept: then it
/// is repeated, as a swarm does.
async fn announce_ours(dht: &Dht, key_pair: &KeyPair) {
    let announcements = topics(0)
        .into_iter()
        .map(|topic| dht.announce(topic, key_pair, Vec::new()));
    for announced in futures::future::join_all(announcements).await {
        if announced != Err(LookupError::NotStored) {
            announced.unwrap();
        }
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
                let looked_up = tokio::time::timeout(PATIENCE, dht.lookup(topic)).await;
                let peers = looked_up.map_err(|_| "no answer in time".to_owned());
                let peers = peers.and_then(|peers| peers.map_err(|error| error.to_string()));
                (begun - start, begun.elapsed(), (topic, key), peers)
            });
        }
        tokio::time::sleep(LOOK_UP_EVERY).await;
    }
    let mut tally = Tally::default();
    for (begun, took, (topic, key), peers) in lookups.join_all().await {
        let answer = peers.as_deref().ok();
        if !tally.lookups.count(took, answer, |peer| peer.public_key == key) {
            tally
                .failed
                .push(format!("{begun:?}: {}: {peers:?}", hex::encode(topic)));
        }
    }
    assert!(tasks.try_join_next().is_none(), "an announcement failed");
    tally
}

/// The same for JavaScript.
async fn ask_js((js, node): (Js, Value), (our_key, js_key): ([u8; 32], [u8; 32]), seconds: u64) -> Tally {
    let wanted: Vec<[String; 2]> = [(0, our_key), (1, js_key)]
        .into_iter()
        .flat_map(|(announcer, key)| {
            let named = move |topic: [u8; 32]| [hex::encode(topic), hex::encode(key)];
            topics(announcer).into_iter().map(named)
        })
        .collect();
    let order = json!({
        "node": node, "topics": topics(1).iter().map(hex::encode).collect::<Vec<_>>(), "seed": JS_SEED, "wanted": wanted,
        "seconds": seconds, "announceEvery": (ANNOUNCE_EVERY * JS_SPARES).as_millis() as u64,
        "lookUpEvery": (LOOK_UP_EVERY * JS_SPARES).as_millis() as u64,
    });
    let limit = Duration::from_secs(seconds + 60);
    let answer = tokio::time::timeout(limit, js.call("ask", order)).await;
    let answer = answer.expect("an answer in time").unwrap();
    let failed = strings(&answer["failed"]);
    let asked = answer["asked"].as_u64().unwrap();
    Tally {
        lookups: Lookups {
            asked,
            // It does not tell those apart that found nothing.
            answered: asked - failed.len() as u64,
            found: asked - failed.len() as u64,
            longest_ms: answer["longest"].as_u64().unwrap(),
        },
        failed,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_announced_is_found_while_all_nodes_come_and_go_and_the_bootstrap_node_is_killed() {
    if !has_packages() {
        return;
    }
    let seconds = std::env::var("CUMULET_CHURN_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(SECONDS);
    let network = Network::start().await;
    let names = network.names();
    let staying = Peer::start(on_loopback(names.clone()), None).await.unwrap();
    let dht = staying.dht().clone();
    dht.bootstrapped().await;
    let js = Js::on_loopback(HERE);
    let node = json!({ "bootstrap": network.bootstrap_names, "firewalled": false });
    let node = js.call("node", node).await.unwrap()["handle"].clone();
    let key_pair = KeyPair::from_seed(topic(0, TOPICS));
    announce_ours(&dht, &key_pair).await;
    let topics: Vec<String> = topics(1).iter().map(hex::encode).collect();
    let announce = json!({ "node": node, "topics": topics, "seed": JS_SEED });
    let js_key = key(&js.call("announceAll", announce).await.unwrap()["publicKey"]).unwrap();
    let start = Instant::now();
    let until = start + Duration::from_secs(seconds);
    let our_key = *key_pair.public_key();
    let (network, ours, js_asked) = tokio::join!(
        network.churn(until),
        ask_ours(dht, (key_pair, js_key), (start, until)),
        ask_js((js, node), (our_key, js_key), seconds),
    );
    for (who, tally) in [("we", &ours), ("JavaScript", &js_asked)] {
        let Lookups {
            asked,
            found,
            longest_ms,
            ..
        } = tally.lookups;
        eprintln!("{who} asked: {found} of {asked} found, longest {longest_ms} ms");
    }
    eprintln!("{} nodes replaced in {seconds} s", network.replaced);
    assert!(network.bootstrap.is_none(), "it was killed");
    assert!(
        network.replaced as u64 * 4 >= seconds,
        "{} replaced",
        network.replaced
    );
    for tally in [&ours, &js_asked] {
        let Lookups { asked, found, .. } = tally.lookups;
        assert!(asked > 0);
        assert!((asked - found) * 1_000 <= asked * MAY_FAIL, "{:#?}", tally.failed);
    }
}
