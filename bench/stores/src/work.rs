//! The tasks. Nothing is hashed for a signature or signed: only what keeps the bytes is measured.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use cumulet_hypercore::crypto::KeyPair;
use cumulet_hypercore::manifest::Manifest;
use cumulet_hypercore::node::Node;
use cumulet_hypercore::roots::Roots;
use cumulet_hypercore::storage::{Changes, Head};

use crate::{Kind, Store, open};

/// In the order in which they run: `read` reads what `append` wrote, `open` opens what `make` made.
pub(crate) const TASKS: [&str; 6] = ["append", "read", "synced", "synced-64", "make", "open"];

const BLOCK_BYTES: usize = 1024;
const APPENDS: u64 = 30_000;
const READS: u64 = 50_000;
const SYNCED: u64 = 200;
const SHARED_ROUNDS: u64 = 20;
/// Length of each of the many cores.
const MANY_BLOCKS: u64 = 4;

fn block(core: u32, index: u64) -> Bytes {
    let mut block = vec![0; BLOCK_BYTES];
    for (place, byte) in block.iter_mut().enumerate() {
        *byte = (u64::from(core) * 31 + index * 7 + place as u64 * 13) as u8;
    }
    block.into()
}

/// What appending one block changes, with a signature that only looks like one.
fn append(core: u32, roots: &mut Roots) -> Result<Changes> {
    let index = roots.length();
    let block = block(core, index);
    let mut nodes = Vec::new();
    roots.push(Node::leaf(index, &block), &mut nodes)?;
    let manifest = (index == 0).then(|| Manifest::single(KeyPair::from_seed(&[1; 32]).public_key()));
    let signature = Some(Bytes::from(vec![index as u8; 67]));
    Ok(Changes {
        manifest,
        nodes,
        blocks: vec![(index, block)],
        head: Some(Head {
            fork: 0,
            length: roots.length(),
            signature,
        }),
        ..Changes::default()
    })
}

/// Memory in use in MiB, and bytes that this process had written in MiB.
fn cost() -> Result<(f64, f64)> {
    let find = |file: &str, name: &str| {
        let text = std::fs::read_to_string(file)?;
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|line| line.split_whitespace().next());
        Ok::<f64, anyhow::Error>(number.context("a process says what it uses")?.parse()?)
    };
    let written = find("/proc/self/io", "write_bytes:")? / 1024.0 / 1024.0;
    Ok((find("/proc/self/status", "VmRSS:")? / 1024.0, written))
}

fn disk_bytes(dir: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let about = entry.metadata()?;
        bytes += if about.is_dir() {
            disk_bytes(&entry.path())?
        } else {
            about.len()
        };
    }
    Ok(bytes)
}

type Measured = BTreeMap<String, f64>;

pub(crate) fn run(kind: Kind, task: &str, cores: u32, dir: &Path) -> Result<Measured> {
    let group = match task {
        "append" | "read" => "one",
        "make" | "open" => "many",
        other => other,
    };
    let dir = dir.join(format!("{kind:?}-{group}"));
    std::fs::create_dir_all(&dir)?;
    match task {
        "append" => appends(kind, &dir),
        "read" => reads(kind, &dir),
        "synced" => synced(kind, &dir, 1, SYNCED),
        "synced-64" => synced(kind, &dir, 64, SHARED_ROUNDS),
        "make" => make(kind, &dir, cores),
        "open" => open_all(kind, &dir, cores),
        _ => bail!("{task} is not known"),
    }
}

fn appends(kind: Kind, dir: &Path) -> Result<Measured> {
    let mut store = open(kind, dir)?;
    store.open_core(0)?;
    let mut roots = Roots::new();
    let start = Instant::now();
    for _ in 0..APPENDS {
        store.apply(0, append(0, &mut roots)?)?;
    }
    store.sync(&[0])?;
    let took = start.elapsed().as_secs_f64();
    let (rss, written) = cost()?;
    drop(store);
    let mut measured = Measured::new();
    measured.insert(
        "thousand appends of 1 KiB per second, unsynced, one sync at the end".into(),
        APPENDS as f64 / took / 1e3,
    );
    measured.insert("RSS, MiB".into(), rss);
    measured.insert("MiB written".into(), written);
    measured.insert("MiB on disk".into(), disk_bytes(dir)? as f64 / 1024.0 / 1024.0);
    Ok(measured)
}

fn reads(kind: Kind, dir: &Path) -> Result<Measured> {
    let mut store = open(kind, dir)?;
    let length = store.open_core(0)?;
    ensure!(length == APPENDS, "the core has {length} blocks");
    let mut random = 1u64;
    let mut next = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (random >> 33) % APPENDS
    };
    let start = Instant::now();
    for _ in 0..READS {
        let index = next();
        let found = store.block(0, index)?.context("a block is missing")?;
        ensure!(found[..16] == block(0, index)[..16], "block {index} is wrong");
    }
    let blocks = READS as f64 / start.elapsed().as_secs_f64() / 1e3;
    let start = Instant::now();
    for _ in 0..READS {
        let found = store.node(0, 2 * next())?.context("a node is missing")?;
        ensure!(found.0 == BLOCK_BYTES as u64, "a node is wrong");
    }
    let nodes = READS as f64 / start.elapsed().as_secs_f64() / 1e3;
    let mut measured = Measured::new();
    measured.insert("thousand blocks per second, random".into(), blocks);
    measured.insert("thousand nodes per second, random".into(), nodes);
    measured.insert("RSS, MiB".into(), cost()?.0);
    Ok(measured)
}

/// Rounds of one append to each core, all durable at the end of a round.
fn synced(kind: Kind, dir: &Path, cores: u32, rounds: u64) -> Result<Measured> {
    let mut store = open(kind, dir)?;
    let all: Vec<u32> = (0..cores).collect();
    let mut roots = vec![Roots::new(); all.len()];
    for core in &all {
        store.open_core(*core)?;
    }
    let before = cost()?.1;
    let start = Instant::now();
    for _ in 0..rounds {
        for (core, roots) in all.iter().zip(&mut roots) {
            store.apply(*core, append(*core, roots)?)?;
        }
        store.sync(&all)?;
    }
    let took = start.elapsed().as_secs_f64();
    let mut measured = Measured::new();
    let count = (rounds * u64::from(cores)) as f64;
    measured.insert("durable appends per second".into(), count / took);
    measured.insert(
        "KiB written for each append".into(),
        (cost()?.1 - before) * 1024.0 / count,
    );
    Ok(measured)
}

fn make(kind: Kind, dir: &Path, cores: u32) -> Result<Measured> {
    let mut store = open(kind, dir)?;
    let start = Instant::now();
    for core in 0..cores {
        store.open_core(core)?;
        let mut roots = Roots::new();
        for _ in 0..MANY_BLOCKS {
            store.apply(core, append(core, &mut roots)?)?;
        }
    }
    let took = start.elapsed().as_secs_f64();
    store.sync(&[0])?;
    drop(store);
    let mut measured = Measured::new();
    measured.insert("seconds".into(), took);
    measured.insert("MiB on disk".into(), disk_bytes(dir)? as f64 / 1024.0 / 1024.0);
    Ok(measured)
}

fn open_all(kind: Kind, dir: &Path, cores: u32) -> Result<Measured> {
    let start = Instant::now();
    let mut store: Box<dyn Store> = open(kind, dir)?;
    for core in 0..cores {
        let length = store.open_core(core)?;
        ensure!(length == MANY_BLOCKS, "core {core} has {length} blocks");
    }
    let took = start.elapsed().as_secs_f64();
    let last = store.block(cores - 1, 3)?.context("a block is missing")?;
    ensure!(last == block(cores - 1, 3), "a block is wrong");
    let mut measured = Measured::new();
    measured.insert("seconds".into(), took);
    measured.insert("RSS, MiB".into(), cost()?.0);
    Ok(measured)
}
