//! How fast a folder gets into a drive on disk and out again: `mirror_speed [FILES] [MIB] [unsynced]`.
//!
//! Mirrors FILES files of 1 KiB, then one file of MIB mebibytes, and prints files and bytes per second. Every append is
//! synced, or with `unsynced` none, as in JS.

#![allow(clippy::unwrap_used, clippy::cast_precision_loss, missing_docs)]

use std::fs;
use std::path::Path;
use std::time::Instant;

use cumulet_hyperbee::Bee;
use cumulet_hypercore::corestore::{CoreHandle, Corestore, CorestoreConfig};
use cumulet_hypercore::crypto::KeyPair;
use cumulet_hypercore::manifest::Manifest;
use cumulet_hypercore::storage::{DiskOptions, Durability};
use cumulet_hyperdrive::mirror::{MirrorOptions, export, import};
use cumulet_hyperdrive::{Drive, DriveWriter, content};

async fn cores(store: &Corestore, seed: u8) -> (CoreHandle, CoreHandle) {
    let pair = || KeyPair::from_seed(&[seed; 32]);
    let manifest = Manifest::single(pair().public_key());
    let derived = content::content_manifest(&manifest.key(), &manifest).unwrap();
    let db = store.create(manifest, Some(pair())).await.unwrap();
    (db, store.create(derived, Some(pair())).await.unwrap())
}

fn report(name: &str, files: u64, bytes: u64, since: Instant) {
    let seconds = since.elapsed().as_secs_f64();
    let mib = bytes as f64 / seconds / f64::from(1 << 20);
    println!(
        "{name:16} {:>8.0} files/s {mib:>8.1} MiB/s",
        files as f64 / seconds
    );
}

async fn run(name: &str, store: &Corestore, seed: u8, from: &Path, to: &Path) {
    let options = MirrorOptions::default();
    let (db, blobs) = cores(store, seed).await;
    let mut writer = DriveWriter::new(db.clone(), blobs.clone());
    let start = Instant::now();
    let summary = import(from, &mut writer, &options, &mut |_| {}).await.unwrap();
    report(&format!("{name} in"), summary.added, summary.bytes, start);
    let start = Instant::now();
    let again = import(from, &mut writer, &options, &mut |_| {}).await.unwrap();
    report(&format!("{name} in again"), again.equal, summary.bytes, start);
    let drive = Drive::new(&Bee::new(db), blobs);
    let start = Instant::now();
    let out = export(&drive, to, &options, &mut |_| {}).await.unwrap();
    report(&format!("{name} out"), out.added, out.bytes, start);
}

fn rss_mib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or_default() / 1024
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let files: u64 = arguments.next().map_or(10_000, |text| text.parse().unwrap());
    let mib: u64 = arguments.next().map_or(1024, |text| text.parse().unwrap());
    let durability = match arguments.next().as_deref() {
        Some("unsynced") => Durability::Unsynced,
        _ => Durability::Synced,
    };
    let directory = tempfile::tempdir().unwrap();
    let (small, large) = (directory.path().join("small"), directory.path().join("large"));
    for number in 0..files {
        let path = small.join(format!("{}/{number}.txt", number % 100));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, number.to_le_bytes().repeat(128)).unwrap();
    }
    fs::create_dir_all(&large).unwrap();
    if mib > 0 {
        let mut file = fs::File::create(large.join("large.bin")).unwrap();
        let mut state = 1_u64;
        for _ in 0..mib {
            let chunk: Vec<u8> = (0..1 << 17)
                .flat_map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    state.to_le_bytes()
                })
                .collect();
            std::io::Write::write_all(&mut file, &chunk).unwrap();
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let config = CorestoreConfig {
            disk: DiskOptions {
                durability,
                ..DiskOptions::default()
            },
            ..CorestoreConfig::default()
        };
        let store = Corestore::open(&directory.path().join("store"), config).unwrap();
        run("small", &store, 1, &small, &directory.path().join("small.out")).await;
        if mib > 0 {
            run("large", &store, 2, &large, &directory.path().join("large.out")).await;
        }
        store.close().await.unwrap();
    });
    println!("most resident memory {} MiB", rss_mib());
}
