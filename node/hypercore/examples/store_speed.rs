//! How fast a corestore appends and reads:
//! `cargo run --release -p cumulet-hypercore --features tokio --example store_speed -- [DIR] [large]`.
#![allow(clippy::cast_precision_loss, clippy::unwrap_used)]

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cumulet_hypercore::blocks::Blocks;
use cumulet_hypercore::corestore::{CoreHandle, Corestore, CorestoreConfig};
use cumulet_hypercore::crypto::{KeyPair, leaf_hash, leaf_hashes};
use cumulet_hypercore::manifest::Manifest;
use cumulet_hypercore::storage::{DiskOptions, Durability};
use tokio::task::JoinSet;

fn report(name: &str, items: usize, bytes: usize, took: Duration) {
    let seconds = took.as_secs_f64();
    let (rate, mebibytes) = (items as f64 / seconds, bytes as f64 / seconds / 1024.0 / 1024.0);
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or(" ?").trim().to_owned()
    };
    let files = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    println!(
        "{name:<40} {rate:>10.0} /s {mebibytes:>8.1} MiB/s  RSS {} (most {}), {files} files",
        field("VmRSS:"),
        field("VmHWM:")
    );
}

fn store(dir: &Path, durability: Durability) -> Corestore {
    let config = CorestoreConfig {
        disk: DiskOptions {
            durability,
            ..DiskOptions::default()
        },
        ..CorestoreConfig::default()
    };
    Corestore::open(dir, config).unwrap()
}

async fn writer(store: &Corestore, number: u32) -> CoreHandle {
    let mut seed = [7; 32];
    seed[..4].copy_from_slice(&number.to_le_bytes());
    let pair = KeyPair::from_seed(&seed);
    let manifest = Manifest::single(pair.public_key());
    store.create(manifest, Some(pair)).await.unwrap()
}

#[derive(Clone, Copy)]
struct Shape {
    size: usize,
    count: usize,
    batch: usize,
    lanes: usize,
}

async fn append(core: &CoreHandle, shape: Shape) {
    let mut lanes = JoinSet::new();
    for lane in 0..shape.lanes {
        let core = core.clone();
        lanes.spawn(async move {
            for number in 0..shape.count / shape.batch / shape.lanes {
                let block = Bytes::from(vec![(number ^ lane) as u8; shape.size]);
                core.append(vec![block; shape.batch]).await.unwrap();
            }
        });
    }
    lanes.join_all().await;
}

async fn appends(dir: &Path, number: u32, durability: Durability, shape: Shape) {
    let store = store(dir, durability);
    let core = writer(&store, number).await;
    let start = Instant::now();
    append(&core, shape).await;
    let name = format!(
        "append {} B, batches of {}, {} lanes, {durability:?}",
        shape.size, shape.batch, shape.lanes
    );
    report(&name, shape.count, shape.count * shape.size, start.elapsed());
    drop(core);
    let start = Instant::now();
    store.close().await.unwrap();
    println!("    closed after {:.3} s", start.elapsed().as_secs_f64());
}

async fn gets(dir: &Path, number: u32, lanes: u64, count: u64) {
    let store = store(dir, Durability::Unsynced);
    let core = writer(&store, number).await;
    let length = core.state().length;
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for lane in 0..lanes {
        let core = core.clone();
        tasks.spawn(async move {
            let mut random = lane * 7919 + 1;
            for _ in 0..count / lanes {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                core.get((random >> 33) % length).await.unwrap();
            }
        });
    }
    tasks.join_all().await;
    report(
        &format!("random get, {lanes} lanes"),
        count as usize,
        count as usize * 1024,
        start.elapsed(),
    );
    store.close().await.unwrap();
}

fn hashes() {
    let blocks: Vec<Vec<u8>> = (0..64).map(|i| vec![i; 65_536]).collect();
    let start = Instant::now();
    for block in blocks.iter().cycle().take(4096) {
        std::hint::black_box(leaf_hash(block));
    }
    report(
        "hash 64 KiB blocks, one by one",
        4096,
        4096 * 65_536,
        start.elapsed(),
    );
    let start = Instant::now();
    for _ in 0..64 {
        std::hint::black_box(leaf_hashes(blocks.iter().map(Vec::as_slice)));
    }
    report(
        "hash 64 KiB blocks, several at a time",
        4096,
        4096 * 65_536,
        start.elapsed(),
    );
}

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let dir = arguments
        .next()
        .map_or_else(std::env::temp_dir, Into::into)
        .join("store-speed");
    let _ = std::fs::remove_dir_all(&dir);
    if arguments.next().as_deref() == Some("large") {
        let large = Shape {
            size: 65_536,
            count: 4096,
            batch: 1,
            lanes: 1,
        };
        appends(&dir, 2, Durability::Unsynced, large).await;
        appends(&dir, 3, Durability::Unsynced, Shape { batch: 16, ..large }).await;
        return;
    }
    hashes();
    let one = Shape {
        size: 1024,
        count: 10_000,
        batch: 1,
        lanes: 1,
    };
    let large = Shape {
        size: 65_536,
        count: 4096,
        ..one
    };
    appends(&dir, 0, Durability::Unsynced, one).await;
    appends(
        &dir,
        1,
        Durability::Unsynced,
        Shape {
            count: 100_000,
            batch: 1000,
            ..one
        },
    )
    .await;
    gets(&dir, 1, 1, 100_000).await;
    gets(&dir, 1, 64, 400_000).await;
    appends(&dir, 2, Durability::Unsynced, large).await;
    appends(&dir, 3, Durability::Unsynced, Shape { batch: 16, ..large }).await;
    appends(&dir, 4, Durability::Synced, Shape { count: 500, ..one }).await;
    appends(
        &dir,
        5,
        Durability::Synced,
        Shape {
            count: 4000,
            lanes: 8,
            ..one
        },
    )
    .await;
    appends(
        &dir,
        6,
        Durability::Synced,
        Shape {
            count: 16_000,
            lanes: 64,
            ..one
        },
    )
    .await;
    appends(&dir, 7, Durability::Synced, Shape { count: 512, ..large }).await;
    std::fs::remove_dir_all(&dir).unwrap();
}
