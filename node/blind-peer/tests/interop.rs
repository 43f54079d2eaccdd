//! Apps of today that store with us: `blind-peering` 2.0.1 with Autobase 7.28, and the RPC of `blind-peer-encodings` 3.3, on
//! loopback. Needs Node.js and `npm ci` in `interop/relay`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests"
)]

#[path = "../../hyperdht/tests/support/mod.rs"]
mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cumulet_blind_peer::{Admission, BlindPeer, Options, Quota};
use cumulet_hypercore::corestore::{Corestore, CorestoreConfig};
use cumulet_hypercore::crypto::discovery_key;
use cumulet_hypercore::driver::Session;
use cumulet_hyperdht::{Dht, ListenOptions};
use cumulet_secret_stream::noise::KeyPair;
use serde_json::{Value, json};
use support::{Js, key, node};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const VALUES: usize = 12;
/// Seed of the key pair that is trusted.
const TRUSTED: u8 = 8;
const QUOTA: Quota = Quota {
    cores: 40,
    bytes: 1 << 30,
};

struct Cloud {
    peer: BlindPeer,
    store: Corestore,
    public_key: String,
    tasks: TaskTracker,
    cancel: CancellationToken,
    _dht: Dht,
}

impl Cloud {
    async fn start(folder: &Path, bootstrap: &[String], seed: u8) -> Self {
        let trusted = *KeyPair::from_seed([TRUSTED; 32]).public_key();
        let policy = move |identity: &[u8; 32]| {
            if *identity == trusted {
                Admission::Trusted(QUOTA)
            } else {
                Admission::Member(QUOTA)
            }
        };
        let store = Corestore::open(&folder.join("cores"), CorestoreConfig::default()).unwrap();
        let key_pair = KeyPair::from_seed([seed; 32]);
        let options = Options::new(*key_pair.public_key(), folder.join("journal"));
        let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
        let peer = BlindPeer::open(store.clone(), Arc::new(policy), options, &tasks, &cancel).unwrap();
        let dht = node(bootstrap, Some(false)).await;
        let public_key = hex::encode(key_pair.public_key());
        let mut server = dht.listen(key_pair, ListenOptions::default()).await.unwrap();
        server.announced().await;
        let (serving, more, ending) = (peer.clone(), tasks.clone(), cancel.clone());
        tasks.spawn(async move {
            while let Some(Some(connection)) = ending.run_until_cancelled(server.accept()).await {
                let peer = serving.clone();
                more.spawn(async move {
                    let mut header_seed = [0; 24];
                    getrandom::fill(&mut header_seed).unwrap();
                    let session = Session::Established {
                        handshake: connection.handshake,
                        header_seed,
                    };
                    let _ = peer
                        .serve(connection.stream, connection.remote_public_key, session)
                        .await;
                });
            }
        });
        Self {
            peer,
            store,
            public_key,
            tasks,
            cancel,
            _dht: dht,
        }
    }

    async fn stop(self) {
        self.cancel.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.store.close().await.unwrap();
    }

    /// Waits until these cores are held here whole.
    async fn holds(&self, cores: &Value) {
        for core in cores.as_array().unwrap() {
            let (core_key, length) = (key(&core["key"]), core["length"].as_u64().unwrap());
            let held = async {
                loop {
                    if let Some(core) = self.store.find(&discovery_key(&core_key)).await.unwrap()
                        && core.state().contiguous_length >= length
                    {
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(20), held)
                .await
                .unwrap_or_else(|_| panic!("not held: {core} {:?}", self.peer.counters()));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_writers_of_an_autobase_go_off_and_a_third_device_reads_everything_from_us_also_after_a_restart()
{
    let folder = tempfile::tempdir().unwrap();
    let mut js = Js::start_script("relay", "app.js");
    let bootstrap = js.testnet(4).await;
    let cloud = Cloud::start(folder.path(), &bootstrap, 1).await;
    let mut writers = Js::start_script("relay", "app.js");
    let at = json!({ "bootstrap": bootstrap, "peer": cloud.public_key, "values": VALUES });
    let written = writers.call("write", at.clone()).await;
    assert_eq!(written["values"].as_array().unwrap().len(), 2 * VALUES);
    cloud.holds(&written["cores"]).await;
    drop(writers); // The process ends.

    let read = |cloud: &Cloud| {
        let mut wanted = at.clone();
        wanted["key"] = written["key"].clone();
        wanted["values"] = (2 * VALUES).into();
        wanted["peer"] = cloud.public_key.clone().into();
        wanted
    };
    let third = js.call("read", read(&cloud)).await;
    assert_eq!(third["values"], written["values"]);
    let before = cloud.peer.counters();
    assert!(before.cores >= 2 && before.bytes > 0, "{before:?}");

    let records = |cloud: &Cloud| -> Vec<_> {
        let cores = written["cores"].as_array().unwrap();
        cores
            .iter()
            .map(|core| cloud.peer.record(&key(&core["key"])).unwrap())
            .collect()
    };
    let kept = records(&cloud);
    assert!(
        kept.iter()
            .all(|record| record.length > 0 && record.referrer.is_some())
    );
    cloud.stop().await;
    let cloud = Cloud::start(folder.path(), &bootstrap, 2).await;
    assert_eq!(records(&cloud), kept);
    let mut fourth = Js::start_script("relay", "app.js");
    let fourth = fourth.call("read", read(&cloud)).await;
    assert_eq!(fourth["values"], written["values"]);
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_untrusted_key_can_not_delete_and_a_trusted_one_can() {
    let folder = tempfile::tempdir().unwrap();
    let mut js = Js::start_script("relay", "app.js");
    let bootstrap = js.testnet(3).await;
    let cloud = Cloud::start(folder.path(), &bootstrap, 3).await;
    let at = json!({ "bootstrap": bootstrap, "peer": cloud.public_key, "values": 1 });
    let written = js.call("write", at.clone()).await;
    cloud.holds(&written["cores"]).await;
    let mut order = at.clone();
    order["key"] = written["cores"][0]["key"].clone();
    let refused = js.call("delete", order.clone()).await;
    assert_eq!(refused["failure"], "Only trusted peers can delete cores");
    assert!(cloud.peer.record(&key(&order["key"])).is_some());
    order["seed"] = TRUSTED.into();
    assert_eq!(js.call("delete", order.clone()).await["answer"], true);
    assert!(cloud.peer.record(&key(&order["key"])).is_none());
    assert_eq!(js.call("delete", order).await["answer"], false);
    let counters = cloud.peer.counters();
    assert_eq!((counters.deleted, counters.deletes_refused), (2, 1));
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_add_core_stays_within_its_quota_and_the_others_keep_working() {
    let folder = tempfile::tempdir().unwrap();
    let mut js = Js::start_script("relay", "app.js");
    let bootstrap = js.testnet(3).await;
    let cloud = Cloud::start(folder.path(), &bootstrap, 4).await;
    let at =
        json!({ "bootstrap": bootstrap, "peer": cloud.public_key, "values": 2, "count": 200, "seed": 7 });
    let flood = js.call("flood", at.clone()).await;
    assert_eq!(flood["added"], QUOTA.cores);
    assert_eq!(flood["failures"], json!(["The quota of cores is used up"]));
    let mut others = at;
    others["seed"] = Value::Null;
    let written = js.call("write", others).await;
    cloud.holds(&written["cores"]).await;
    let counters = cloud.peer.counters();
    assert_eq!(counters.refused, 200 - QUOTA.cores as u64);
    cloud.stop().await;
}
