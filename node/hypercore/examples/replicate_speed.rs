//! How fast one process replicates a core to another over TCP on loopback, Noise and encryption included:
//! `cargo run --release --all-features --example replicate_speed -- [COUNT SIZE [memory|DIR]]`.
//!
//! The process that is started reads; it starts the one that serves. Without a directory both keep the core in memory.
#![allow(clippy::cast_precision_loss, clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cumulet_hypercore::corestore::{Corestore, CorestoreConfig};
use cumulet_hypercore::crypto::KeyPair;
use cumulet_hypercore::driver::{Session, replicate};
use cumulet_hypercore::manifest::Manifest;
use cumulet_secret_stream::{Event as StreamEvent, SecretStream, Seeds, noise};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).unwrap();
    bytes
}

fn session(is_initiator: bool) -> Session {
    Session::Xx {
        is_initiator,
        key_pair: noise::KeyPair::from_seed(random()),
        seeds: Seeds {
            ephemeral: random(),
            header: random(),
        },
    }
}

/// Processor time of this process so far.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    ticks / 100.0
}

fn store(place: &str, role: &str) -> Corestore {
    let config = CorestoreConfig::default();
    if place == "memory" {
        return Corestore::in_memory(config);
    }
    let directory = std::path::Path::new(place).join(role);
    let _ = std::fs::remove_dir_all(&directory);
    Corestore::open(&directory, config).unwrap()
}

async fn serve(count: u64, size: usize, place: &str) {
    let store = store(place, "replicate-speed-writer");
    let pair = KeyPair::from_seed(&random());
    let core = store
        .create(Manifest::single(pair.public_key()), Some(pair))
        .await
        .unwrap();
    let mut block = vec![0; size];
    let mut at = 0;
    while at < count {
        let batch: Vec<Bytes> = (at..count.min(at + 1000))
            .map(|index| {
                let stamp = index.to_le_bytes();
                let length = size.min(8);
                block[..length].copy_from_slice(&stamp[..length]);
                Bytes::copy_from_slice(&block)
            })
            .collect();
        at += batch.len() as u64;
        core.append(batch).await.unwrap();
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{} {}", listener.local_addr().unwrap(), hex::encode(core.key()));
    let (io, _) = listener.accept().await.unwrap();
    io.set_nodelay(true).unwrap();
    let before = cpu_seconds();
    let _ = replicate(store, io, session(false), CancellationToken::new()).await;
    println!("{}", cpu_seconds() - before);
}

async fn read(count: u64, size: usize, place: &str) {
    let mut server = Command::new(std::env::current_exe().unwrap())
        .args(["serve", &count.to_string(), &size.to_string(), place])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let line = lines.next().unwrap().unwrap();
    let (address, key) = line.split_once(' ').unwrap();
    let key = hex::decode(key).unwrap().try_into().unwrap();
    let store = store(place, "replicate-speed-reader");
    let core = store.get(key).await.unwrap();
    let (start, before) = (Instant::now(), cpu_seconds());
    let io = TcpStream::connect(address).await.unwrap();
    io.set_nodelay(true).unwrap();
    let cancel = CancellationToken::new();
    let tasks = tokio_util::task::TaskTracker::new();
    tasks.spawn(replicate(store.clone(), io, session(true), cancel.clone()));
    let _download = core.download(0..u64::MAX).await;
    let mut state = core.watch();
    state
        .wait_for(|state| state.contiguous_length == count)
        .await
        .unwrap();
    let seconds = start.elapsed().as_secs_f64();
    let cpu = cpu_seconds() - before;
    cancel.cancel();
    tasks.close();
    tasks.wait().await;
    let serving: f64 = lines.next().unwrap().unwrap().parse().unwrap();
    server.wait().unwrap();
    println!(
        "{count} x {size} bytes, {place}: {seconds:.3} s, {:.0} blocks/s, {:.1} MiB/s; processor {cpu:.2} s reading, {serving:.2} s serving",
        count as f64 / seconds,
        count as f64 * size as f64 / seconds / f64::from(1 << 20),
    );
}

/// What one core decrypts and hashes, and nothing else: MiB per second of frames of 64 KiB.
fn limit() -> f64 {
    const FRAMES: usize = 500;
    let end = |is_initiator| {
        let seeds = Seeds {
            ephemeral: random(),
            header: random(),
        };
        SecretStream::xx(is_initiator, noise::KeyPair::from_seed(random()), &seeds).unwrap()
    };
    let (mut a, mut b) = (end(true), end(false));
    for _ in 0..4 {
        b.receive(&a.take_output());
        while b.poll_event().unwrap().is_some() {}
        a.receive(&b.take_output());
        while a.poll_event().unwrap().is_some() {}
    }
    let (block, mut seconds) = (vec![7; 1 << 16], 0.0);
    for _ in 0..FRAMES {
        a.send(&block).unwrap();
        b.receive(&a.take_output());
        let start = Instant::now();
        while let Some(event) = b.poll_event().unwrap() {
            if let StreamEvent::Message(message) = event {
                std::hint::black_box(cumulet_hypercore::crypto::leaf_hash(&message));
            }
        }
        seconds += start.elapsed().as_secs_f64();
    }
    FRAMES as f64 / 16.0 / seconds
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let number = |text: &str| text.parse::<u64>().unwrap();
    match arguments[..] {
        ["serve", count, size, place] => {
            runtime.block_on(serve(number(count), number(size) as usize, place));
        }
        [] => {
            println!("one core decrypts and hashes {:.0} MiB/s", limit());
            runtime.block_on(read(20_000, 1 << 10, "memory"));
            runtime.block_on(read(1_000, 1 << 16, "memory"));
        }
        [count, size] => runtime.block_on(read(number(count), number(size) as usize, "memory")),
        [count, size, place] => runtime.block_on(read(number(count), number(size) as usize, place)),
        _ => println!("usage: replicate_speed [COUNT SIZE [memory|DIR]]"),
    }
    runtime.shutdown_timeout(Duration::from_secs(1));
}
