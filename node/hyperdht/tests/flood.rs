//! Random datagrams at the socket of a node that serves the DHT: it must stay small, answer others meanwhile, and not flood
//! those whose address was forged. `CUMULET_FLOOD_DATAGRAMS` says how many; a million take minutes.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests"
)]

mod support;

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use cumulet_hyperdht::{Dht, DhtConfig};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Datagrams of a run as in CI.
const DATAGRAMS: u64 = 20_000;
/// Memory that the node may grow by, whatever the number: its bounded stores and queues, and the allocator's slack.
const GROWTH_KIB: u64 = 64 * 1024;
/// Longer replies than three times the request are allowed up to this many bytes per host, and 16 KiB per second after it.
const BURST_BYTES: u64 = 128 * 1024;
const REFILL_BYTES_PER_SECOND: u64 = 16 * 1024;

/// A small generator with a fixed seed: the same datagrams every time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        // xorshift64* (Vigna, "An experimental exploration of Marsaglia's xorshift generators, scrambled").
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn fill(&mut self, bytes: &mut Vec<u8>, length: usize) {
        bytes.extend((0..length).map(|_| self.next() as u8));
    }

    /// Noise, or the layout of a request or a response with noise in it.
    fn datagram(&mut self, to: SocketAddrV4) -> Vec<u8> {
        let mut bytes = Vec::new();
        let choice = self.next() % 8;
        if choice == 0 {
            let length = self.next() as usize % 1_400;
            self.fill(&mut bytes, length);
            return bytes;
        }
        let is_request = choice < 7;
        bytes.push(if is_request { 0x03 } else { 0x13 });
        let flags = self.next() as u8 & 0x1f;
        bytes.push(flags);
        self.fill(&mut bytes, 2);
        bytes.extend_from_slice(&to.ip().octets());
        bytes.extend_from_slice(&to.port().to_le_bytes());
        for (flag, length) in [(1, 32), (2, 32)] {
            if flags & flag != 0 {
                self.fill(&mut bytes, length);
            }
        }
        if is_request {
            bytes.push((self.next() % 12) as u8);
        }
        if flags & 8 != 0 {
            self.fill(&mut bytes, 32);
        }
        if flags & 16 != 0 {
            let length = self.next() as usize % 250;
            bytes.push(length as u8);
            self.fill(&mut bytes, length);
        }
        bytes
    }
}

fn resident_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Bytes that came back so far.
fn drain(socket: &UdpSocket) -> u64 {
    let mut buffer = [0; 2_048];
    let mut bytes = 0;
    while let Ok(length) = socket.recv(&mut buffer) {
        bytes += length as u64;
    }
    bytes
}

async fn serving() -> Dht {
    let port = {
        let probe = UdpSocket::bind("127.0.0.1:0").unwrap();
        probe.local_addr().unwrap().port()
    };
    let config = DhtConfig {
        bind: Ipv4Addr::LOCALHOST,
        port,
        public_address: Some(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)),
        ephemeral: Some(false),
        ..DhtConfig::default()
    };
    Dht::spawn(config, &TaskTracker::new(), CancellationToken::new())
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn random_datagrams_leave_memory_bounded_the_node_answering_and_forged_addresses_in_peace() {
    let count = std::env::var("CUMULET_FLOOD_DATAGRAMS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(DATAGRAMS);
    let node = serving().await;
    let at = node.local_address();
    let names = vec![at.to_string()];
    let other = support::node(&names, Some(false)).await;
    let key_pair = support::fresh_key_pair();
    other.mutable_put(&key_pair, 1, b"before").await.unwrap();

    let before = resident_kib();
    let begun = Instant::now();
    let flood = tokio::task::spawn_blocking(move || {
        // From another host of the loopback network, whose ration is not the peer's.
        let socket = UdpSocket::bind("127.0.0.2:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let mut random = Random(0x5eed);
        let (mut sent, mut returned) = (0, 0);
        for number in 0..count {
            let datagram = random.datagram(at);
            if socket.send_to(&datagram, at).is_ok() {
                sent += datagram.len() as u64;
            }
            if number % 64 == 0 {
                returned += drain(&socket);
            }
            if number % 256 == 0 {
                std::thread::yield_now();
            }
        }
        std::thread::sleep(Duration::from_millis(300));
        (sent, returned + drain(&socket))
    });
    // Asked while it lasts, and after it.
    let mut asked = 0;
    while !flood.is_finished() || asked == 0 {
        let found = tokio::time::timeout(
            Duration::from_secs(20),
            other.mutable_get(*key_pair.public_key(), 0),
        );
        let value = found.await.unwrap().unwrap().unwrap().value;
        assert_eq!(value[..], b"before"[..]);
        asked += 1;
    }
    let (sent, returned) = flood.await.unwrap();
    let seconds = begun.elapsed().as_secs() + 1;
    let allowed = 3 * sent + BURST_BYTES + REFILL_BYTES_PER_SECOND * seconds;
    eprintln!(
        "{count} datagrams, {sent} bytes sent, {returned} returned, {asked} answers meanwhile, {seconds} s"
    );
    assert!(returned <= allowed, "{returned} bytes came back for {sent}");
    if let (Some(before), Some(after)) = (before, resident_kib()) {
        eprintln!("resident: {before} KiB before, {after} KiB after");
        assert!(after < before + GROWTH_KIB, "{before} KiB became {after} KiB");
    }
    let counters = node.counters().await;
    assert!(counters.rpc.malformed > 0, "{counters:?}");
    node.close().await;
}
