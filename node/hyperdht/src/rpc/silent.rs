//! Addresses that let every try of a request go unanswered. Queries ask them once, not six times: they are told of them again and
//! again, by nodes that do not know yet and by our own list of bootstrap nodes, and each time they cost the window that all requests
//! share and the time of whoever waits. In a small network they would use all of it up, and requests to living nodes would wait
//! behind theirs.
//!
//! They are not passed over: nobody is silent for ever, and whoever lost the network for a while would otherwise know nobody.

use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use crate::expiring::Expiring;

/// Addresses remembered. A lookup in the public network meets a few dozen.
const MAX_SILENT: usize = 1_024;

/// How long they are: by then nobody tells of a node that is gone.
const MAX_AGE: Duration = Duration::from_mins(10);

/// Fewer tries prove nothing: datagrams get lost.
const PROOF: u32 = 3;

#[derive(Debug)]
pub(super) struct Silent(Expiring<SocketAddrV4, ()>);

impl Silent {
    pub(super) fn new() -> Self {
        Self(Expiring::new(MAX_SILENT, MAX_AGE))
    }

    pub(super) fn contains(&self, address: SocketAddrV4) -> bool {
        self.0.get(&address).is_some()
    }

    /// A request was not answered, which was sent so often.
    pub(super) fn unanswered(&mut self, now: Instant, address: SocketAddrV4, sent: u32) {
        if sent >= PROOF || self.contains(address) {
            self.0.insert(now, address, ());
        }
    }

    pub(super) fn heard(&mut self, address: SocketAddrV4) {
        self.0.remove(&address);
    }
}
