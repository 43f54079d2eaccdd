//! What one link has carried and may carry still. Asked for every packet, on the tasks that receive, so without locks.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Sees each packet before it is forwarded; `false` drops it.
pub type PacketHook = Arc<dyn Fn(&[u8]) -> bool + Send + Sync>;

/// Bytes that may still be spent.
#[derive(Debug)]
pub(super) struct Allowance {
    left: AtomicU64,
}

impl Allowance {
    /// `None`: more than anybody spends.
    pub(super) fn new(bytes: Option<u64>) -> Arc<Self> {
        Arc::new(Self {
            left: AtomicU64::new(bytes.unwrap_or(u64::MAX)),
        })
    }

    pub(super) fn set(&self, bytes: Option<u64>) {
        self.left.store(bytes.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(super) fn left(&self) -> u64 {
        self.left.load(Ordering::Relaxed)
    }

    /// Adds, up to `most`.
    pub(super) fn refill(&self, bytes: u64, most: u64) {
        let add = |left: u64| Some(left.saturating_add(bytes).min(most));
        let _ = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    fn take(&self, bytes: u64) -> bool {
        let take = |left: u64| left.checked_sub(bytes);
        self.left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .is_ok()
    }
}

/// What all links together have carried.
#[derive(Debug, Default)]
pub(super) struct Totals {
    pub(super) packets: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) dropped: AtomicU64,
}

/// The meter of one link.
pub struct Meter {
    /// Index 0 counts what came from the responder, 1 from the initiator.
    bytes: [AtomicU64; 2],
    packets: AtomicU64,
    spent: AtomicBool,
    pub(super) link: Arc<Allowance>,
    pub(super) members: Vec<Arc<Allowance>>,
    pub(super) relay: Arc<Allowance>,
    pub(super) totals: Arc<Totals>,
    pub(super) inspect: Option<PacketHook>,
}

impl fmt::Debug for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meter")
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

impl Meter {
    pub(super) fn new(
        link: Arc<Allowance>,
        members: Vec<Arc<Allowance>>,
        (relay, totals): (Arc<Allowance>, Arc<Totals>),
        inspect: Option<PacketHook>,
    ) -> Self {
        Self {
            bytes: [AtomicU64::new(0), AtomicU64::new(0)],
            packets: AtomicU64::new(0),
            spent: AtomicBool::new(false),
            link,
            members,
            relay,
            totals,
            inspect,
        }
    }

    /// Takes a packet that arrived from the side `from_initiator`; `false`: it must not be forwarded. A used-up rate drops it; a
    /// used-up quota ends the link at the next [`Server::handle_timeout`](super::Server::handle_timeout).
    pub fn take(&self, from_initiator: bool, packet: &[u8]) -> bool {
        let length = packet.len() as u64;
        let inspected = self.inspect.as_ref().is_none_or(|inspect| inspect(packet));
        if self.spent.load(Ordering::Relaxed) || !inspected || !self.relay.take(length) {
            self.totals.dropped.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        if !(self.link.take(length) && self.members.iter().all(|member| member.take(length))) {
            self.spent.store(true, Ordering::Relaxed);
            self.totals.dropped.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        self.bytes[usize::from(from_initiator)].fetch_add(length, Ordering::Relaxed);
        self.packets.fetch_add(1, Ordering::Relaxed);
        self.totals.packets.fetch_add(1, Ordering::Relaxed);
        self.totals.bytes.fetch_add(length, Ordering::Relaxed);
        true
    }

    /// Bytes forwarded that came from the initiator (`true`) or the responder.
    pub fn bytes(&self, from_initiator: bool) -> u64 {
        self.bytes[usize::from(from_initiator)].load(Ordering::Relaxed)
    }

    pub(super) fn packets(&self) -> u64 {
        self.packets.load(Ordering::Relaxed)
    }

    pub(super) fn is_spent(&self) -> bool {
        self.spent.load(Ordering::Relaxed)
    }
}
