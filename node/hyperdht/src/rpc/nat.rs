//! Which address do others see us at? A vote over the last samples (npm `nat-sampler` 1.0.1).

use std::net::{Ipv4Addr, SocketAddrV4};

/// Votes kept: 16 samples, each a vote for host and port and one for the host alone.
const VOTES: usize = 32;

/// How far back a sample looks for its like, in samples of the same kind.
const LOOK_BACK: usize = 4;

#[derive(Debug, Clone, Copy)]
struct Candidate {
    host: Ipv4Addr,
    port: u16,
    hits: i32,
}

/// The vote. Start with `default()`.
#[derive(Debug, Default, Clone)]
pub(crate) struct NatSampler {
    candidates: Vec<Candidate>,
    /// Indices into `candidates`, in pairs (host and port, host alone).
    votes: Vec<usize>,
    top: usize,
    threshold: i32,
    size: i32,
    best_full: Option<usize>,
    best_host: Option<usize>,
    host: Option<Ipv4Addr>,
    port: u16,
}

impl NatSampler {
    /// Our host, once enough samples agree.
    pub(crate) fn host(&self) -> Option<Ipv4Addr> {
        self.host
    }

    /// Our port; 0 while unknown, or when it differs per destination.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Samples that vote, at most 16.
    pub(crate) fn samples(&self) -> u8 {
        u8::try_from(self.votes.len() / 2).unwrap_or(u8::MAX)
    }

    /// Counts one sample and returns how often it was seen lately.
    pub(crate) fn add(&mut self, seen: SocketAddrV4) -> i32 {
        let full = self.bump(*seen.ip(), seen.port(), 2, None);
        let host = self.bump(*seen.ip(), 0, 1, Some(full));
        self.store(full, host);
        if self
            .best_full
            .is_none_or(|best| self.hits(best) < self.hits(full))
        {
            self.best_full = Some(full);
        }
        if self
            .best_host
            .is_none_or(|best| self.hits(best) < self.hits(host))
        {
            self.best_host = Some(host);
        }
        self.decide();
        self.hits(full)
    }

    fn hits(&self, index: usize) -> i32 {
        self.candidates.get(index).map_or(0, |candidate| candidate.hits)
    }

    fn store(&mut self, full: usize, host: usize) {
        if self.votes.len() < VOTES {
            self.size += 1;
            let tolerated = match self.size {
                ..4 => 0,
                4..8 => 1,
                8..12 => 2,
                _ => 3,
            };
            self.threshold = self.size - tolerated;
            self.votes.extend([full, host]);
            self.top += 2;
            return;
        }
        if self.top == VOTES {
            self.top = 0;
        }
        for vote in [full, host] {
            if let Some(slot) = self.votes.get_mut(self.top) {
                let old = std::mem::replace(slot, vote);
                if let Some(candidate) = self.candidates.get_mut(old) {
                    candidate.hits -= 1;
                }
            }
            self.top += 1;
        }
    }

    fn decide(&mut self) {
        let reached = |index: Option<usize>| {
            index
                .and_then(|index| self.candidates.get(index))
                .filter(|c| c.hits >= self.threshold)
                .copied()
        };
        (self.host, self.port) = match (reached(self.best_full), reached(self.best_host)) {
            (Some(full), _) => (Some(full.host), full.port),
            (None, Some(host)) => (Some(host.host), 0),
            (None, None) => (None, 0),
        };
    }

    fn bump(&mut self, host: Ipv4Addr, port: u16, offset: usize, in_use: Option<usize>) -> usize {
        for step in 0..LOOK_BACK {
            let position = (self.top + 4 * VOTES - offset - 2 * step) % VOTES;
            let Some(index) = self.votes.get(position).copied() else {
                break;
            };
            if let Some(candidate) = self.candidates.get_mut(index)
                && candidate.host == host
                && candidate.port == port
            {
                candidate.hits += 1;
                return index;
            }
        }
        self.fresh(Candidate { host, port, hits: 1 }, in_use)
    }

    /// A place for a new candidate: one nobody refers to any more, or a new one. So there are never many more than
    /// the votes and the two best. `in_use` is the sample's other half, not stored yet.
    fn fresh(&mut self, candidate: Candidate, in_use: Option<usize>) -> usize {
        let kept = [self.best_full, self.best_host, in_use];
        let free = (0..self.candidates.len())
            .find(|index| !kept.contains(&Some(*index)) && !self.votes.contains(index));
        if let Some((index, slot)) = free.and_then(|index| Some((index, self.candidates.get_mut(index)?))) {
            *slot = candidate;
            return index;
        }
        self.candidates.push(candidate);
        self.candidates.len() - 1
    }
}
