//! What many cores in one store cost: how long it takes to open them all, and the memory and descriptors while all are open.
//!
//! `cargo run --release -p cumulet-hypercore --features tokio --example open_cores -- [--cores N] [--blocks N] [--dir DIR] [--json]`
//!
//! Another process makes the store, so that what is measured has opened it only; the files may still be in the page cache.
//! Without `--dir` they lie in a temporary directory; they are deleted in the end.
#![allow(clippy::cast_precision_loss, clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use bytes::Bytes;
use cumulet_hypercore::blocks::Blocks;
use cumulet_hypercore::corestore::{Corestore, CorestoreConfig};
use cumulet_hypercore::crypto::KeyPair;
use cumulet_hypercore::manifest::Manifest;
use cumulet_hypercore::storage::{DiskOptions, Durability};
use serde_json::json;

struct Arguments {
    cores: u32,
    blocks: usize,
    dir: PathBuf,
    json: bool,
    make: bool,
}

fn arguments() -> Result<Arguments, String> {
    let mut arguments = Arguments {
        cores: 10_000,
        blocks: 4,
        dir: std::env::temp_dir(),
        json: false,
        make: false,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} needs a value"));
        match word.as_str() {
            "--cores" => arguments.cores = value()?.parse().map_err(|error| format!("--cores: {error}"))?,
            "--blocks" => {
                arguments.blocks = value()?.parse().map_err(|error| format!("--blocks: {error}"))?;
            }
            "--dir" => arguments.dir = value()?.into(),
            "--json" => arguments.json = true,
            "--make" => arguments.make = true,
            _ => return Err(format!("{word} is not known")),
        }
    }
    Ok(arguments)
}

fn config() -> CorestoreConfig {
    CorestoreConfig {
        disk: DiskOptions {
            // Making the store is not what is measured.
            durability: Durability::Unsynced,
            ..DiskOptions::default()
        },
        ..CorestoreConfig::default()
    }
}

async fn make(dir: &Path, cores: u32, blocks: usize) {
    let store = Corestore::open(dir, config()).unwrap();
    for number in 0..cores {
        let mut seed = [7; 32];
        seed[..4].copy_from_slice(&number.to_le_bytes());
        let pair = KeyPair::from_seed(&seed);
        let manifest = Manifest::single(pair.public_key());
        let core = store.create(manifest, Some(pair)).await.unwrap();
        core.append(vec![Bytes::from(vec![7; 1024]); blocks])
            .await
            .unwrap();
    }
    store.close().await.unwrap();
}

/// RSS in MiB and open descriptors of this process.
fn cost() -> (f64, usize) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let rss = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    let kibibytes: f64 = rss.trim().trim_end_matches(" kB").parse().unwrap();
    let descriptors = std::fs::read_dir("/proc/self/fd").unwrap().count();
    (kibibytes / 1024.0, descriptors)
}

#[tokio::main]
async fn main() {
    let arguments = arguments().unwrap_or_else(|error| {
        eprintln!("{error}");
        std::process::exit(2)
    });
    if arguments.make {
        return make(&arguments.dir, arguments.cores, arguments.blocks).await;
    }
    let dir = arguments.dir.join(format!("open-cores-{}", std::process::id()));
    let made = Command::new(std::env::current_exe().unwrap())
        .args(["--make", "--cores", &arguments.cores.to_string()])
        .args(["--blocks", &arguments.blocks.to_string(), "--dir"])
        .arg(&dir)
        .status()
        .unwrap();
    assert!(made.success(), "the store was not made");

    let before = cost();
    let start = Instant::now();
    let store = Corestore::open(&dir, config()).unwrap();
    let mut cores = Vec::new();
    for discovery_key in store.list().await.unwrap() {
        cores.push(store.find(&discovery_key).await.unwrap().unwrap());
    }
    let opened = start.elapsed().as_secs_f64();
    let open = cost();
    assert_eq!(cores.len() as u32, arguments.cores);
    for core in &cores {
        assert_eq!(core.state().length, arguments.blocks as u64);
        if arguments.blocks > 0 {
            core.get(0).await.unwrap();
        }
    }
    let read = cost();
    store.close().await.unwrap();
    std::fs::remove_dir_all(&dir).unwrap();

    let count = arguments.cores;
    if arguments.json {
        let report = json!({
            "cores": count, "blocks": arguments.blocks, "openSeconds": opened,
            "rssMib": open.0, "rssMibBefore": before.0, "rssMibRead": read.0,
            "descriptors": open.1, "descriptorsRead": read.1,
        });
        println!("{report}");
    } else {
        println!(
            "{count} cores of {} blocks: opened in {opened:.3} s",
            arguments.blocks
        );
        println!(
            "RSS {:.1} MiB before, {:.1} MiB open, {:.1} MiB after a block of each was read",
            before.0, open.0, read.0
        );
        println!(
            "descriptors: {} open, {} after a block of each was read",
            open.1, read.1
        );
    }
}
