//! A path in user space: a bottleneck with a queue, a delay and random loss, between two UDP ports.

use std::{
    collections::VecDeque,
    net::{SocketAddr, UdpSocket as StdSocket},
    thread,
    time::Duration,
};

use anyhow::Result;
use tokio::{
    net::UdpSocket,
    sync::oneshot,
    time::{Instant, sleep_until},
};

/// What the path does to packets, each way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Profile {
    /// Bytes per second.
    pub(crate) rate: f64,
    pub(crate) delay: Duration,
    /// Longest wait for the bottleneck; later packets are dropped.
    pub(crate) queue: Duration,
    pub(crate) loss: f64,
}

/// A running path with a port for each side; it ends when dropped. It runs on a thread of its own so that the streams
/// it carries do not slow it down.
pub(crate) struct Route {
    /// Where the left side sends to. What the right side receives comes from another port, to which it answers.
    pub(crate) left: u16,
    _stop: oneshot::Sender<()>,
}

impl Route {
    /// A path between whoever first speaks to its left port and the right side at `right_peer`. With the same `seed` it loses the
    /// same packets.
    pub(crate) fn start(profile: Profile, right_peer: u16, seed: u64) -> Result<Self> {
        let bind = || -> std::io::Result<StdSocket> {
            let socket = StdSocket::bind("127.0.0.1:0")?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        let (left, right) = (bind()?, bind()?);
        let (stop, stopped) = oneshot::channel();
        let route = Self {
            left: left.local_addr()?.port(),
            _stop: stop,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        thread::spawn(move || {
            runtime.block_on(async move {
                tokio::select! {
                    _ = stopped => {}
                    result = carry([Direction::new(profile, seed), Direction::new(profile, !seed)], left, right, right_peer) => {
                        if let Err(error) = result { eprintln!("the path broke: {error}"); }
                    }
                }
            });
        });
        Ok(route)
    }
}

struct Direction {
    profile: Profile,
    free_at: Instant,
    flying: VecDeque<(Instant, Vec<u8>)>,
    random: u64,
}

impl Direction {
    fn new(profile: Profile, seed: u64) -> Self {
        Self {
            profile,
            free_at: Instant::now(),
            flying: VecDeque::new(),
            random: seed,
        }
    }

    fn take(&mut self, datagram: &[u8]) {
        // splitmix64: any seed will do, also for the first packets.
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        let chance = f64::from((mixed >> 32) as u32) / f64::from(u32::MAX);
        let now = Instant::now();
        let start = self.free_at.max(now);
        if chance < self.profile.loss || start - now > self.profile.queue {
            return;
        }
        let bits = f64::from(u32::try_from(datagram.len() + 28).unwrap_or(u32::MAX));
        self.free_at = start + Duration::from_secs_f64(bits / self.profile.rate);
        self.flying
            .push_back((self.free_at + self.profile.delay, datagram.to_vec()));
    }

    fn next(&self) -> Option<Instant> {
        self.flying.front().map(|(at, _)| *at)
    }

    fn arrived(&mut self) -> Option<Vec<u8>> {
        self.next().filter(|at| *at <= Instant::now())?;
        self.flying.pop_front().map(|(_, datagram)| datagram)
    }
}

async fn carry(
    directions: [Direction; 2],
    left: StdSocket,
    right: StdSocket,
    right_peer: u16,
) -> std::io::Result<()> {
    let (left, right) = (UdpSocket::from_std(left)?, UdpSocket::from_std(right)?);
    let right_peer = SocketAddr::from(([127, 0, 0, 1], right_peer));
    let mut left_peer = None;
    let [mut to_right, mut to_left] = directions;
    let (mut from_left, mut from_right) = (vec![0; 2048], vec![0; 2048]);
    loop {
        let next = to_right.next().into_iter().chain(to_left.next()).min();
        tokio::select! {
            received = left.recv_from(&mut from_left) => {
                let (len, peer) = received?;
                left_peer = Some(peer);
                to_right.take(&from_left[..len]);
            }
            received = right.recv_from(&mut from_right) => {
                let (len, _) = received?;
                to_left.take(&from_right[..len]);
            }
            () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
        }
        while let Some(datagram) = to_right.arrived() {
            drop(right.send_to(&datagram, right_peer).await);
        }
        while let (Some(peer), Some(datagram)) = (left_peer, to_left.arrived()) {
            drop(left.send_to(&datagram, peer).await);
        }
    }
}
