//! Token bucket of the pacing rate, refilled by elapsed time: a timer that fires late loses nothing, up to the burst.

#![allow(
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "estimates: all values are far below 2^52 and not negative"
)]

use crate::clock::{MILLISECOND, Micros, SECOND};

/// Bytes that may leave, and since when.
#[derive(Debug)]
pub(crate) struct Pacer {
    tokens: f64,
    refilled_at: Micros,
}

/// Bytes that may leave before the first refill.
const INITIAL_TOKENS: f64 = 25_000.0;
/// Time whose bytes may leave at once: timers and schedulers are late by a few milliseconds.
const BURST_TIME: Micros = 5 * MILLISECOND;
/// Burst allowed at any rate, packets.
const BURST_PACKETS: f64 = 16.0;

impl Pacer {
    pub(crate) fn new(now: Micros) -> Self {
        Self {
            tokens: INITIAL_TOKENS,
            refilled_at: now,
        }
    }

    /// Whether a packet may leave now; it may overdraw the bucket.
    pub(crate) fn may_send(&mut self, now: Micros, rate: f64, packet_len: u32) -> bool {
        let elapsed = now.saturating_sub(self.refilled_at);
        self.refilled_at = now.max(self.refilled_at);
        let burst = (rate * BURST_TIME as f64)
            .max(BURST_PACKETS * f64::from(packet_len))
            .max(self.tokens);
        self.tokens = (self.tokens + elapsed as f64 * rate).min(burst);
        self.tokens > 0.0
    }

    pub(crate) fn on_sent(&mut self, bytes: usize) {
        self.tokens -= bytes as f64;
    }

    /// When a millisecond's worth, and at least one packet, is there again.
    pub(crate) fn ready_at(&self, rate: f64) -> Micros {
        let wait = (-self.tokens / rate).max(0.0) as Micros;
        self.refilled_at + wait.clamp(MILLISECOND, SECOND)
    }
}
