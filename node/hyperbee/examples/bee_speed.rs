//! How fast a bee in a corestore is: `bee_speed [KEYS] [SINGLE] [blocks|memory|disk|unsynced]`.
//!
//! Puts KEYS keys in batches of 1000 and SINGLE more one by one, then reads random keys and the whole range through a
//! cold cache. Prints operations per second.

#![allow(clippy::unwrap_used, clippy::cast_precision_loss, missing_docs)]

use std::time::Instant;

use cumulet_hyperbee::{AppendBlocks, Bee, BeeWriter, MemoryBlocks, Range, WriteOptions};
use cumulet_hypercore::corestore::{Corestore, CorestoreConfig};
use cumulet_hypercore::crypto::KeyPair;
use cumulet_hypercore::manifest::Manifest;
use cumulet_hypercore::storage::{DiskOptions, Durability};

fn key(number: u64) -> String {
    format!("key/{:010}", number * 2_654_435_761 % 4_294_967_296)
}

fn report(name: &str, count: u64, since: Instant) {
    println!(
        "{name:12} {:>9.0}/s",
        count as f64 / since.elapsed().as_secs_f64()
    );
}

async fn run<B: AppendBlocks + Clone + 'static>(core: B, keys: u64, single: u64) {
    let mut writer = BeeWriter::new(core.clone(), WriteOptions::default());
    let start = Instant::now();
    for from in (0..keys).step_by(1000) {
        let mut batch = writer.batch();
        for number in from..(from + 1000).min(keys) {
            batch
                .put(key(number), Some(format!("value {number}").as_bytes()))
                .await
                .unwrap();
        }
        batch.flush().await.unwrap();
    }
    report("batch put", keys, start);
    let start = Instant::now();
    for number in keys..keys + single {
        writer
            .put(key(number), Some(format!("value {number}").as_bytes()))
            .await
            .unwrap();
    }
    report("single put", single, start);
    let all = keys + single;
    let bee = Bee::new(core.clone());
    let start = Instant::now();
    for number in 0..all.min(50_000) {
        assert!(bee.get(key(number * 7919 % all)).await.unwrap().is_some());
    }
    report("get", all.min(50_000), start);
    for (name, range) in [("range", Range::all()), ("range back", Range::all().reverse())] {
        let start = Instant::now();
        let mut cursor = Bee::new(core.clone()).range(range);
        let mut count = 0;
        while cursor.next().await.unwrap().is_some() {
            count += 1;
        }
        assert_eq!(count, all);
        report(name, count, start);
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let keys = arguments.next().map_or(100_000, |text| text.parse().unwrap());
    let single = arguments.next().map_or(10_000, |text| text.parse().unwrap());
    let place = arguments.next().unwrap_or_else(|| "disk".to_owned());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        match place.as_str() {
            "blocks" => run(MemoryBlocks::default(), keys, single).await,
            place => {
                let directory = tempfile::tempdir().unwrap();
                let durability = match place {
                    "unsynced" => Durability::Unsynced,
                    _ => Durability::Synced,
                };
                let config = CorestoreConfig {
                    disk: DiskOptions {
                        durability,
                        ..DiskOptions::default()
                    },
                    ..CorestoreConfig::default()
                };
                let store = match place {
                    "memory" => Corestore::in_memory(CorestoreConfig::default()),
                    _ => Corestore::open(directory.path(), config).unwrap(),
                };
                let pair = KeyPair::from_seed(&[7; 32]);
                let core = store
                    .create(Manifest::single(pair.public_key()), Some(pair))
                    .await
                    .unwrap();
                run(core, keys, single).await;
                store.close().await.unwrap();
            }
        }
    });
}
