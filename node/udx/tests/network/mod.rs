//! A network that exists only in a heap of events: loss, duplication, reordering, delay, a bottleneck with a queue,
//! a largest packet, outages. Same seed, same run.

use std::{cmp::Reverse, collections::BinaryHeap, net::SocketAddr};

use cumulet_udx::{
    packet::Packet,
    stream::{Closed, Config, Path, ReadState, SocketId, Stream},
};

const SECOND: f64 = 1e6;
/// IP and UDP headers, which count against the path's MTU.
const IP_UDP: usize = 28;
/// A run that lasts longer has failed.
const LONGEST_SECONDS: u64 = 900;

/// What the network does to packets, each way.
#[derive(Clone, Debug)]
pub(crate) struct Profile {
    pub(crate) loss: f64,
    pub(crate) duplicate: f64,
    /// Chance to be held back by another delay, so that later packets overtake.
    pub(crate) reorder: f64,
    pub(crate) delay_ms: f64,
    pub(crate) jitter_ms: f64,
    /// Bottleneck, bytes per second.
    pub(crate) rate: f64,
    /// Packets that wait for the bottleneck; more are dropped.
    pub(crate) queue: usize,
    /// Larger IP packets vanish.
    pub(crate) mtu: usize,
    pub(crate) outage_ms: Option<(f64, f64)>,
    pub(crate) receive_window: u32,
    /// Bytes per second the application takes; `None`: all at once.
    pub(crate) read_rate: Option<f64>,
    /// The application does not read before this moment.
    pub(crate) read_pause_ms: Option<f64>,
}

impl Default for Profile {
    fn default() -> Self {
        Self {
            loss: 0.0,
            duplicate: 0.0,
            reorder: 0.0,
            delay_ms: 1.0,
            jitter_ms: 0.0,
            rate: 1e9,
            queue: usize::MAX,
            mtu: 1500,
            outage_ms: None,
            receive_window: 4 << 20,
            read_rate: None,
            read_pause_ms: None,
        }
    }
}

/// How a run went.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "independent observations")]
pub(crate) struct Outcome {
    pub(crate) intact: bool,
    pub(crate) clean: bool,
    pub(crate) timed_out: bool,
    pub(crate) seconds: f64,
    pub(crate) peak_memory: usize,
    pub(crate) peak_unread: usize,
    pub(crate) packets: u64,
    pub(crate) retransmits: u64,
    pub(crate) timeouts: u64,
    pub(crate) mtu: u16,
}

impl Outcome {
    /// Bytes per second.
    pub(crate) fn goodput(&self, bytes: usize) -> f64 {
        bytes as f64 / self.seconds
    }
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// One direction: a bottleneck with a queue, then the delay.
#[derive(Default)]
struct Link {
    /// When the bottleneck is free again.
    free_at: u64,
}

struct End {
    stream: Stream,
    to_send: Vec<u8>,
    written: usize,
    received: Vec<u8>,
    eof: bool,
    read_credit: f64,
    read_at: u64,
}

/// (arrival, serial, end, datagram)
type Flying = (u64, u64, usize, Vec<u8>);

/// Both ends and everything between them.
pub(crate) struct Network {
    profile: Profile,
    random: Random,
    /// Print every packet (`UDX_SIM_TRACE`): how a failing seed is looked at.
    trace: bool,
    now: u64,
    flying: BinaryHeap<Reverse<Flying>>,
    serial: u64,
    links: [Link; 2],
    ends: Vec<End>,
}

fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut random = Random(seed ^ 0x5eed);
    let mut bytes = vec![0; len];
    for chunk in bytes.chunks_mut(8) {
        chunk.copy_from_slice(&random.next().to_le_bytes()[..chunk.len()]);
    }
    bytes
}

impl Network {
    /// `pairs` pairs of streams: ends 0 and 1 talk, ends 2 and 3, and so on. Even ends share one link, odd ends the other.
    fn new(seed: u64, profile: Profile, bytes: &[usize]) -> Self {
        let mut random = Random(seed);
        let ends = bytes
            .iter()
            .enumerate()
            .map(|(index, len)| {
                let config = Config {
                    receive_window: profile.receive_window,
                    ..Config::new(index as u32)
                };
                let mut stream = Stream::new(config, 0);
                let address = SocketAddr::from(([10, 0, 0, 1], 1000));
                stream.connect(
                    0,
                    Path {
                        socket: SocketId(0),
                        address,
                    },
                    index as u32 ^ 1,
                );
                let to_send = pattern(*len, random.next());
                End {
                    stream,
                    to_send,
                    written: 0,
                    received: Vec::new(),
                    eof: false,
                    read_credit: 0.0,
                    read_at: 0,
                }
            })
            .collect();
        Self {
            profile,
            random,
            trace: std::env::var_os("UDX_SIM_TRACE").is_some(),
            now: 0,
            flying: BinaryHeap::new(),
            serial: 0,
            links: [Link::default(), Link::default()],
            ends,
        }
    }

    fn send(&mut self, from: usize, datagram: &[u8]) {
        let profile = &self.profile;
        let outage = profile
            .outage_ms
            .is_some_and(|(start, end)| (start..end).contains(&(self.now as f64 / 1e3)));
        if self.trace {
            let header = Packet::decode(datagram).expect("our own packets decode").header;
            eprintln!("{:>9} from {from}: {header:?} {} bytes", self.now, datagram.len());
        }
        if outage || datagram.len() + IP_UDP > profile.mtu || self.random.unit() < profile.loss {
            if self.trace {
                eprintln!("          dropped");
            }
            return;
        }
        let copies = if self.random.unit() < profile.duplicate {
            2
        } else {
            1
        };
        for _ in 0..copies {
            let service = (datagram.len() + IP_UDP) as f64 / profile.rate * SECOND;
            let link = &mut self.links[from % 2];
            let start = link.free_at.max(self.now);
            let waiting = (start - self.now) as f64 / service;
            if waiting > profile.queue as f64 {
                continue;
            }
            link.free_at = start + service.max(1.0) as u64;
            let mut delay = profile.delay_ms + self.random.unit() * profile.jitter_ms;
            if self.random.unit() < profile.reorder {
                delay += self.random.unit() * profile.delay_ms;
            }
            let arrival = link.free_at + (delay * 1e3) as u64;
            self.serial += 1;
            self.flying
                .push(Reverse((arrival, self.serial, from ^ 1, datagram.to_vec())));
        }
    }

    /// Lets the application of an end act and its packets leave.
    fn turn(&mut self, index: usize) {
        let end = &mut self.ends[index];
        end.write();
        end.read(self.now, &self.profile);
        let mut buffer = Vec::new();
        loop {
            buffer.clear();
            if self.ends[index]
                .stream
                .poll_transmit(self.now, &mut buffer)
                .is_none()
            {
                break;
            }
            self.send(index, &buffer);
            self.ends[index].write();
        }
    }

    /// Moves to the next event. `false` when nothing will ever happen again.
    fn step(&mut self) -> bool {
        let arrival = self.flying.peek().map(|Reverse((at, ..))| *at);
        let timer = self
            .ends
            .iter()
            .filter_map(|end| end.next_moment(&self.profile, self.now))
            .min();
        let Some(next) = arrival.into_iter().chain(timer).min() else {
            return false;
        };
        self.now = self.now.max(next);
        while let Some(Reverse((at, ..))) = self.flying.peek() {
            if *at > self.now {
                break;
            }
            let Some(Reverse((_, _, to, datagram))) = self.flying.pop() else {
                break;
            };
            let packet = Packet::decode(&datagram).expect("our own packets decode");
            assert_eq!(packet.header.stream_id, to as u32);
            self.ends[to].stream.receive(self.now, &packet, datagram.len());
            self.turn(to);
        }
        for index in 0..self.ends.len() {
            let stream = &mut self.ends[index].stream;
            if stream.poll_timeout().is_some_and(|at| at <= self.now) {
                stream.on_timeout(self.now);
            }
            self.turn(index);
        }
        true
    }

    /// Bytes per second that each of `streams` gets when all send without end over one bottleneck.
    pub(crate) fn shared_bottleneck(seed: u64, profile: &Profile, streams: usize, seconds: f64) -> Vec<f64> {
        let plenty = (profile.rate * seconds) as usize;
        let bytes: Vec<usize> = (0..streams * 2)
            .map(|index| if index % 2 == 0 { plenty } else { 0 })
            .collect();
        let mut network = Self::new(seed, profile.clone(), &bytes);
        (0..network.ends.len()).for_each(|index| network.turn(index));
        while (network.now as f64) < seconds * SECOND && network.step() {}
        network
            .ends
            .iter()
            .skip(1)
            .step_by(2)
            .map(|end| end.received.len() as f64 / seconds)
            .collect()
    }
}

impl End {
    fn write(&mut self) {
        self.written += self.stream.write(&self.to_send[self.written..]);
        if self.written == self.to_send.len() {
            self.stream.finish();
        }
    }

    fn read(&mut self, now: u64, profile: &Profile) {
        if profile
            .read_pause_ms
            .is_some_and(|pause| (now as f64) < pause * 1e3)
        {
            return;
        }
        let mut limit = usize::MAX;
        if let Some(rate) = profile.read_rate {
            self.read_credit =
                (self.read_credit + (now - self.read_at) as f64 / SECOND * rate).min(rate / 10.0);
            limit = self.read_credit as usize;
        }
        self.read_at = now;
        let mut chunk = vec![0; 65_536];
        while limit > 0 {
            let most = limit.min(chunk.len());
            let n = self.stream.read(&mut chunk[..most]);
            if n == 0 {
                break;
            }
            limit -= n;
            self.read_credit -= n as f64;
            self.received.extend_from_slice(&chunk[..n]);
        }
        self.eof |= self.stream.read_state() == ReadState::End;
    }

    fn next_moment(&self, profile: &Profile, now: u64) -> Option<u64> {
        let wants_read = self.stream.read_state() == ReadState::Readable;
        let read = match (profile.read_pause_ms, profile.read_rate) {
            (Some(pause), _) if wants_read && (now as f64) < pause * 1e3 => Some((pause * 1e3) as u64),
            (_, Some(_)) if wants_read => Some(now + 10_000),
            _ => None,
        };
        self.stream.poll_timeout().into_iter().chain(read).min()
    }
}

/// One transfer between two ends.
pub(crate) struct Run {
    network: Network,
    receiver_is_limited: bool,
}

impl Run {
    pub(crate) fn new(seed: u64, profile: Profile, bytes: [usize; 2]) -> Self {
        let receiver_is_limited = profile.read_rate.is_some() || profile.read_pause_ms.is_some();
        Self {
            network: Network::new(seed, profile, &bytes),
            receiver_is_limited,
        }
    }

    pub(crate) fn run(mut self) -> Outcome {
        let network = &mut self.network;
        let (mut peak_memory, mut peak_unread) = (0, 0);
        let mut finished_at = None;
        network.turn(0);
        network.turn(1);
        while network.now < LONGEST_SECONDS * 1_000_000 && network.step() {
            for (index, end) in network.ends.iter().enumerate() {
                peak_memory = peak_memory.max(end.stream.memory());
                if index == 1 {
                    peak_unread = peak_unread.max(end.stream.memory());
                }
            }
            let over = network.ends.iter().all(|end| end.stream.closed().is_some());
            if over && finished_at.is_none() {
                finished_at = Some(network.now);
            }
            if network.ends.iter().all(|end| end.stream.is_done()) {
                break;
            }
            if self.receiver_is_limited {
                assert!(network.now < LONGEST_SECONDS * 1_000_000, "stuck");
            }
        }
        let [left, right] = &network.ends[..] else {
            unreachable!("two ends")
        };
        let counters = left.stream.counters();
        Outcome {
            intact: left.received == right.to_send && right.received == left.to_send && left.eof && right.eof,
            clean: [left, right]
                .iter()
                .all(|end| end.stream.closed() == Some(Closed::Ended)),
            timed_out: left.stream.closed() == Some(Closed::TimedOut),
            seconds: finished_at.unwrap_or(network.now) as f64 / SECOND,
            peak_memory,
            peak_unread,
            packets: counters.packets_sent,
            retransmits: counters.retransmits,
            timeouts: counters.timeouts,
            mtu: left.stream.estimates().mtu,
        }
    }
}
