//! How fast a core appends, reads, proves and verifies on this machine: `cargo run --release --example core_speed [DIR]`.
#![allow(clippy::cast_precision_loss, clippy::unwrap_used)]

use std::path::Path;
use std::time::Instant;

use bytes::Bytes;
use cumulet_hypercore::core::Core;
use cumulet_hypercore::crypto::{KeyPair, discovery_key};
use cumulet_hypercore::manifest::Manifest;
use cumulet_hypercore::messages::{Request, RequestBlock, RequestUpgrade};
use cumulet_hypercore::storage::{DiskOptions, DiskStorage};

fn timed<T>(name: &str, items: usize, bytes: usize, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = work();
    let seconds = start.elapsed().as_secs_f64();
    let (rate, megabytes) = (items as f64 / seconds, bytes as f64 / seconds / 1e6);
    println!("{name:<44} {rate:>12.0} /s {megabytes:>10.1} MB/s");
    result
}

fn disk(dir: &Path, name: &str, key: [u8; 32]) -> DiskStorage {
    DiskStorage::open(&dir.join(name), discovery_key(&key), DiskOptions::default()).unwrap()
}

fn run(dir: &Path, size: usize, count: usize, batch: usize) {
    let pair = KeyPair::from_seed(&[7; 32]);
    let manifest = Manifest::single(pair.public_key());
    let key = manifest.key();
    let name = format!("{size} bytes x {count}, batches of {batch}");
    let mut writer = Core::create(disk(dir, &format!("w{size}-{batch}"), key), manifest, Some(pair)).unwrap();
    let blocks: Vec<Bytes> = (0..count).map(|i| Bytes::from(vec![i as u8; size])).collect();
    timed(&format!("append {name}"), count, count * size, || {
        for blocks in blocks.chunks(batch) {
            writer.append_batch(blocks.to_vec()).unwrap();
        }
        writer.flush().unwrap();
    });
    timed(&format!("get {name}"), count, count * size, || {
        for index in 0..count as u64 {
            assert_eq!(writer.get(index).unwrap().unwrap().len(), size);
        }
    });
    let mut reader = Core::open(disk(dir, &format!("r{size}-{batch}"), key), key).unwrap();
    let upgrade = Some(RequestUpgrade {
        start: 0,
        length: count as u64,
    });
    let request = Request {
        upgrade,
        manifest: true,
        ..Request::default()
    };
    reader
        .verify_and_apply(writer.create_proof(&request).unwrap())
        .unwrap();
    let mut proofs = Vec::with_capacity(count);
    timed(&format!("prove {name}"), count, count * size, || {
        // What a reader that asks in order is missing: as many levels as the block's number has trailing zeros, less one.
        for index in 0..count as u64 {
            let full = if index == 0 {
                64 - (count as u64 - 1).leading_zeros()
            } else {
                index.trailing_zeros()
            };
            let nodes = u64::from(full.min((count as u64).ilog2()));
            let block = Some(RequestBlock { index, nodes });
            proofs.push(
                writer
                    .create_proof(&Request {
                        block,
                        ..Request::default()
                    })
                    .unwrap(),
            );
        }
    });
    timed(&format!("verify and store {name}"), count, count * size, || {
        for proof in proofs {
            reader.verify_and_apply(proof).unwrap();
        }
        reader.flush().unwrap();
    });
    assert_eq!(reader.contiguous_length(), count as u64);
    for core in [&writer, &reader] {
        assert!(core.storage().maintenance_error().is_none());
    }
    timed(&format!("open {name}"), 1, 0, || {
        drop(disk(dir, &format!("w{size}-{batch}"), key));
    });
}

fn main() {
    let dir = std::env::args()
        .nth(1)
        .map_or_else(std::env::temp_dir, Into::into)
        .join("core-speed");
    let _ = std::fs::remove_dir_all(&dir);
    run(&dir, 65_536, 8192, 16);
    run(&dir, 65_536, 2048, 1);
    run(&dir, 128, 262_144, 128);
    run(&dir, 128, 16_384, 1);
    std::fs::remove_dir_all(&dir).unwrap();
}
