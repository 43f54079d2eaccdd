//! A network that exists only in a heap of events: loss, duplication, reordering, delay, a bottleneck with a queue,
//! a largest packet, outages. Same seed, same run.

mod bbr1;
pub(crate) mod rival;

use std::{cmp::Reverse, collections::BinaryHeap, net::SocketAddr};

use cumulet_udx::{
    packet::Packet,
    stream::{Closed, Config, Path, ReadState, SocketId, Stream},
};
use rival::{Law, Rival};

const SECOND: f64 = 1e6;
/// IP and UDP headers, which count against the path's MTU.
const IP_UDP: usize = 28;
/// Bytes of the packets that a queue's length is counted in.
const FULL_PACKET: f64 = 1500.0;
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

/// UDP payload of a rival's packet, and of its acknowledgement.
const RIVAL_PACKET: usize = 1472;
const RIVAL_ACK: usize = 20;
/// What an end without end writes, again and again.
static ENDLESS: [u8; 32_768] = [7; 32_768];

struct End {
    stream: Stream,
    to_send: Vec<u8>,
    written: usize,
    received: Vec<u8>,
    /// Writes without end.
    endless: bool,
    /// What it reads is kept, not only counted.
    keeps: bool,
    read_bytes: u64,
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
    /// Sends beside the even ends; its indices are those after the last end.
    rival: Option<Rival>,
    rival_bytes: u64,
    chunk: Vec<u8>,
}

/// What streams that share a bottleneck got of it, bytes per second.
#[derive(Debug)]
pub(crate) struct Shares {
    pub(crate) ours: Vec<f64>,
    pub(crate) rival: f64,
}

impl Shares {
    pub(crate) fn total(&self) -> f64 {
        self.ours.iter().sum::<f64>() + self.rival
    }
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
                    endless: false,
                    keeps: true,
                    read_bytes: 0,
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
            rival: None,
            rival_bytes: 0,
            chunk: vec![0; 65_536],
        }
    }

    fn send(&mut self, from: usize, datagram: &[u8]) {
        let profile = &self.profile;
        let outage = profile
            .outage_ms
            .is_some_and(|(start, end)| (start..end).contains(&(self.now as f64 / 1e3)));
        if self.trace && from < self.ends.len() {
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
            // In full packets, whatever the size of this one. Chance decides about the last place: otherwise streams fall into step,
            // and the one that always comes a moment too late gets nothing.
            let waiting = (start - self.now) as f64 / (FULL_PACKET / profile.rate * SECOND);
            if waiting + self.random.unit() > profile.queue as f64 {
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
        end.read(self.now, &self.profile, &mut self.chunk);
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
        let rival = self.rival.as_ref().and_then(Rival::next_moment);
        let Some(next) = arrival.into_iter().chain(timer).chain(rival).min() else {
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
            if to >= self.ends.len() {
                self.rival_receives(to, &datagram);
                continue;
            }
            let packet = Packet::decode(&datagram).expect("our own packets decode");
            assert_eq!(packet.header.stream_id, to as u32);
            self.ends[to].stream.receive(self.now, &packet, datagram.len());
            self.turn(to);
        }
        for index in 0..self.ends.len() {
            let end = &mut self.ends[index];
            let due = end.stream.poll_timeout().is_some_and(|at| at <= self.now);
            if due {
                end.stream.on_timeout(self.now);
            }
            let reads_slowly = self.profile.read_rate.is_some() || self.profile.read_pause_ms.is_some();
            if due || reads_slowly {
                self.turn(index);
            }
        }
        if let Some(rival) = &mut self.rival {
            rival.on_timeout(self.now);
            self.rival_turn();
        }
        true
    }

    fn rival_receives(&mut self, to: usize, datagram: &[u8]) {
        let number = u64::from_le_bytes(datagram[..8].try_into().expect("eight bytes"));
        if to % 2 == 1 {
            self.rival_bytes += datagram.len() as u64;
            let mut answer = number.to_le_bytes().to_vec();
            answer.resize(RIVAL_ACK, 0);
            self.send(to, &answer);
        } else if let Some(rival) = &mut self.rival {
            rival.acknowledged(number, self.now);
            self.rival_turn();
        }
    }

    fn rival_turn(&mut self) {
        while let Some(number) = self.rival.as_mut().and_then(|rival| rival.send(self.now)) {
            let mut packet = number.to_le_bytes().to_vec();
            packet.resize(RIVAL_PACKET, 0);
            self.send(self.ends.len(), &packet);
        }
    }

    /// What `streams` of ours, and a rival, get of one bottleneck when all send without end; measured `between` two moments, seconds.
    pub(crate) fn shared_bottleneck(
        seed: u64,
        profile: &Profile,
        (streams, rival): (usize, Option<Law>),
        between: (f64, f64),
    ) -> Shares {
        let mut network = Self::new(seed, profile.clone(), &vec![0; streams * 2]);
        network.rival = rival.map(Rival::new);
        for (index, end) in network.ends.iter_mut().enumerate() {
            end.endless = index % 2 == 0;
            end.keeps = false;
        }
        (0..network.ends.len()).for_each(|index| network.turn(index));
        network.rival_turn();
        let before = network.run_until(between.0);
        let after = network.run_until(between.1);
        let mut rates = before
            .iter()
            .zip(&after)
            .map(|(before, after)| (after - before) as f64 / (between.1 - between.0));
        let rival = rates.next_back().unwrap_or(0.0);
        Shares {
            ours: rates.collect(),
            rival,
        }
    }

    /// Bytes that each receiver has read by then, the rival's last.
    fn run_until(&mut self, seconds: f64) -> Vec<u64> {
        while (self.now as f64) < seconds * SECOND && self.step() {}
        let receivers = self.ends.iter().skip(1).step_by(2);
        receivers
            .map(|end| end.read_bytes)
            .chain([self.rival_bytes])
            .collect()
    }
}

impl End {
    fn write(&mut self) {
        if self.endless {
            while self.stream.write(&ENDLESS) > 0 {}
            return;
        }
        self.written += self.stream.write(&self.to_send[self.written..]);
        if self.written == self.to_send.len() {
            self.stream.finish();
        }
    }

    fn read(&mut self, now: u64, profile: &Profile, chunk: &mut [u8]) {
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
        while limit > 0 {
            let most = limit.min(chunk.len());
            let n = self.stream.read(&mut chunk[..most]);
            if n == 0 {
                break;
            }
            limit -= n;
            self.read_credit -= n as f64;
            self.read_bytes += n as u64;
            if self.keeps {
                self.received.extend_from_slice(&chunk[..n]);
            }
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
