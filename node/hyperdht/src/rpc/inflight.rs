//! Requests on their way: transaction ids, retries, timeouts, and the queue in front of the congestion window.
//!
//! A response is matched by its transaction id and by its source: ids are 16 bits, and a stranger may guess them.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::window::CongestionWindow;
use crate::{Hash, SocketId, Transmit};

/// Time per try.
pub(crate) const TRY_TIMEOUT: Duration = Duration::from_secs(1);

/// Between drains of the queue.
pub(crate) const DRAIN: Duration = Duration::from_millis(750);

/// Most requests under way or queued: a fifth of the transaction ids, so a free one is found quickly.
const MAX_REQUESTS: usize = 12_000;

/// A request under way. `O` says who asked.
#[derive(Debug)]
pub(crate) struct Entry<O> {
    pub(crate) to: SocketAddrV4,
    /// The destination's id, where it came from our table; such a node is dropped when it does not answer.
    pub(crate) to_id: Option<Hash>,
    pub(crate) owner: O,
    pub(crate) socket: SocketId,
    pub(crate) retries: u32,
    pub(crate) timeout: Duration,
    datagram: Bytes,
    /// How often.
    pub(crate) sent: u32,
    /// `None` while queued.
    deadline: Option<Instant>,
}

/// What time did to requests.
#[derive(Debug)]
pub(crate) enum Expiry<O> {
    /// The first try timed out; told once.
    Slow { to: SocketAddrV4, owner: O },
    /// The last try timed out.
    TimedOut(Entry<O>),
}

/// How to send a request.
#[derive(Debug, Clone)]
pub(crate) struct Sending<O> {
    pub(crate) to: SocketAddrV4,
    pub(crate) to_id: Option<Hash>,
    pub(crate) owner: O,
    pub(crate) socket: SocketId,
    /// Sends after the first.
    pub(crate) retries: u32,
    pub(crate) timeout: Duration,
    /// Skip the congestion window.
    pub(crate) force: bool,
}

#[derive(Debug)]
pub(crate) struct Inflight<O> {
    entries: HashMap<u16, Entry<O>>,
    queued: VecDeque<u16>,
    window: CongestionWindow,
    next_tid: u16,
    drain_at: Option<Instant>,
}

impl<O: Clone> Inflight<O> {
    pub(crate) fn new(first_tid: u16) -> Self {
        Self {
            entries: HashMap::new(),
            queued: VecDeque::new(),
            window: CongestionWindow::default(),
            next_tid: first_tid,
            drain_at: None,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// A free transaction id, or `None` when too many requests are under way.
    pub(crate) fn allocate(&mut self) -> Option<u16> {
        if self.entries.len() >= MAX_REQUESTS {
            return None;
        }
        loop {
            let tid = self.next_tid;
            self.next_tid = self.next_tid.wrapping_add(1);
            if !self.entries.contains_key(&tid) {
                return Some(tid);
            }
        }
    }

    /// Sends the datagram made for `tid`, or queues it. Returns what to transmit now.
    pub(crate) fn send(
        &mut self,
        now: Instant,
        tid: u16,
        datagram: Bytes,
        how: Sending<O>,
    ) -> Option<Transmit> {
        let Sending {
            to,
            to_id,
            owner,
            socket,
            retries,
            timeout,
            force,
        } = how;
        let entry = Entry {
            to,
            to_id,
            owner,
            socket,
            retries,
            timeout,
            datagram,
            sent: 0,
            deadline: None,
        };
        self.entries.insert(tid, entry);
        if self.drain_at.is_none() {
            self.drain_at = Some(now + DRAIN);
        }
        if !force && self.window.is_full() {
            self.queued.push_back(tid);
            return None;
        }
        self.transmit(now, tid)
    }

    fn transmit(&mut self, now: Instant, tid: u16) -> Option<Transmit> {
        let entry = self.entries.get_mut(&tid)?;
        entry.sent += 1;
        entry.deadline = Some(now + entry.timeout);
        self.window.sent();
        Some(Transmit {
            socket: entry.socket,
            to: entry.to,
            data: entry.datagram.clone(),
            ttl: None,
        })
    }

    /// Takes the request that this response answers.
    pub(crate) fn settle(&mut self, tid: u16, from: SocketAddrV4) -> Option<Entry<O>> {
        if self.entries.get(&tid)?.to != from {
            return None;
        }
        let entry = self.entries.remove(&tid)?;
        self.window.settled();
        Some(entry)
    }

    /// Forgets all requests of which `wanted` says no; their owners are not told.
    pub(crate) fn retain(&mut self, mut wanted: impl FnMut(&O) -> bool) {
        let (entries, window) = (&mut self.entries, &mut self.window);
        entries.retain(|_, entry| {
            let wanted = wanted(&entry.owner);
            if !wanted && entry.sent > 0 {
                window.settled();
            }
            wanted
        });
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let deadlines = self.entries.values().filter_map(|entry| entry.deadline);
        deadlines.chain(self.drain_at).min()
    }

    /// Lets time pass: expired tries are repeated or given up, queued requests leave.
    pub(crate) fn handle_timeout(&mut self, now: Instant, out: &mut VecDeque<Transmit>) -> Vec<Expiry<O>> {
        let mut expiries = Vec::new();
        let due: Vec<u16> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.deadline.is_some_and(|deadline| deadline <= now))
            .map(|(tid, _)| *tid)
            .collect();
        for tid in due {
            let Some(entry) = self.entries.get_mut(&tid) else {
                continue;
            };
            entry.deadline = None;
            if entry.sent == 1 {
                expiries.push(Expiry::Slow {
                    to: entry.to,
                    owner: entry.owner.clone(),
                });
            }
            if entry.sent > entry.retries {
                self.window.settled();
                expiries.extend(self.entries.remove(&tid).map(Expiry::TimedOut));
            } else if self.window.is_full() {
                self.queued.push_back(tid);
            } else {
                out.extend(self.transmit(now, tid));
            }
        }
        self.drain(now, out);
        expiries
    }

    /// Sends queued requests for which there is room. Called whenever others may have ended: without that they wait for the next drain
    /// while later ones overtake them.
    pub(crate) fn release(&mut self, now: Instant, out: &mut VecDeque<Transmit>) {
        while !self.window.is_full() {
            let Some(tid) = self.queued.pop_front() else { break };
            out.extend(self.transmit(now, tid));
        }
    }

    fn drain(&mut self, now: Instant, out: &mut VecDeque<Transmit>) {
        if self.drain_at.is_none_or(|at| at > now) {
            return;
        }
        self.window.advance();
        self.release(now, out);
        let idle = self.queued.is_empty() && self.entries.is_empty() && self.window.is_idle();
        self.drain_at = if idle { None } else { Some(now + DRAIN) };
    }
}
