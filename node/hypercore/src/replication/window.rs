//! How much may be in flight to one peer: twice what its path holds, by its round trip and the rate at which it answers.
//!
//! Twice, so that the peer always has something to answer, and so that the rate, which what is in flight limits at first, can show
//! that it is higher: from a small start the window doubles with each round trip until the path or the peer is at its limit.

// Estimates: nothing depends on the last bits, and none is negative.
#![allow(clippy::cast_precision_loss, clippy::cast_sign_loss)]

use std::time::{Duration, Instant};

/// Fewest requests in flight that a peer is held to: how many JS has on a short path.
pub const MIN_IN_FLIGHT: usize = 16;
/// Most requests in flight to one peer: with blocks of 4 KiB, 40 MB/s over a round trip of 100 ms. Half of
/// [`super::MAX_QUEUED_REQUESTS`], which the other side may hold us to.
pub const MAX_IN_FLIGHT: usize = 1024;
/// Requests in flight before anything is known of a peer (JS: 48).
pub const FIRST_IN_FLIGHT: usize = 48;
/// Bytes that may always be in flight: on a short path the round trip is mostly the time that both sides take to wake up.
pub const MIN_WINDOW_BYTES: u64 = 1 << 20;
/// Bytes that are never exceeded by more than [`MIN_IN_FLIGHT`] requests: 1 Gbit/s over 250 ms.
pub const MAX_WINDOW_BYTES: u64 = 32 << 20;
/// What in flight is a multiple of what the path holds.
const GAIN: f64 = 2.0;
/// Weight of a new rate that is lower than the one before, and of a new block size.
const FADE: f64 = 1.0 / 32.0;
/// Weight of a longer round trip that was measured with nothing else in flight.
const RTT_FADE: f64 = 1.0 / 8.0;

/// What an answer is compared with when it comes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark {
    sent: Instant,
    delivered: u64,
    alone: bool,
}

/// The window of one peer.
#[derive(Debug)]
pub(super) struct Window {
    cap: usize,
    delivered: u64,
    /// Seconds; none before the first answer.
    round_trip: Option<f64>,
    /// Bytes per second.
    rate: f64,
    block_bytes: f64,
}

impl Window {
    pub(super) fn new() -> Self {
        Self {
            cap: MAX_IN_FLIGHT,
            delivered: 0,
            round_trip: None,
            rate: 0.0,
            block_bytes: 0.0,
        }
    }

    /// Never allows more than `cap` requests.
    pub(super) fn set_cap(&mut self, cap: usize) {
        self.cap = cap.min(MAX_IN_FLIGHT);
    }

    /// A request is sent while `in_flight` others are.
    pub(super) fn mark(&self, now: Instant, in_flight: usize) -> Mark {
        Mark {
            sent: now,
            delivered: self.delivered,
            alone: in_flight == 0,
        }
    }

    /// A request was answered with this many bytes.
    pub(super) fn on_answer(&mut self, mark: Mark, bytes: u64, now: Instant) {
        let seconds = now.saturating_duration_since(mark.sent).as_secs_f64().max(1e-6);
        self.delivered = self.delivered.saturating_add(bytes);
        self.round_trip = Some(match self.round_trip {
            Some(known) if seconds < known => seconds,
            Some(known) if mark.alone => known + (seconds - known) * RTT_FADE,
            Some(known) => known,
            None => seconds,
        });
        let rate = (self.delivered - mark.delivered) as f64 / seconds;
        self.rate = if rate > self.rate {
            rate
        } else {
            self.rate + (rate - self.rate) * FADE
        };
        self.block_bytes = if self.block_bytes == 0.0 {
            bytes as f64
        } else {
            self.block_bytes + (bytes as f64 - self.block_bytes) * FADE
        };
    }

    /// Requests that may be in flight.
    pub(super) fn limit(&self) -> usize {
        let Some(round_trip) = self.round_trip else {
            return FIRST_IN_FLIGHT.min(self.cap);
        };
        let bytes = (GAIN * self.rate * round_trip).clamp(MIN_WINDOW_BYTES as f64, MAX_WINDOW_BYTES as f64);
        let requests = (bytes / self.block_bytes.max(1.0)) as usize;
        requests.clamp(MIN_IN_FLIGHT, MAX_IN_FLIGHT).min(self.cap)
    }

    /// How long an answer takes when nothing is in its way; none before the first.
    pub(super) fn round_trip(&self) -> Option<Duration> {
        self.round_trip.map(Duration::from_secs_f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Requests in flight after `seconds` of a path with this round trip and rate, for blocks of `block` bytes.
    fn settle(round_trip: f64, rate: f64, block: u64, seconds: f64) -> usize {
        let start = Instant::now();
        let at = |seconds: f64| start + Duration::from_secs_f64(seconds);
        let mut window = Window::new();
        let mut in_flight = std::collections::VecDeque::new();
        let (mut now, mut free) = (0.0_f64, 0.0_f64);
        while now < seconds {
            while in_flight.len() < window.limit() {
                free = free.max(now + round_trip) + block as f64 / rate;
                in_flight.push_back((free, window.mark(at(now), in_flight.len())));
            }
            let Some((arrives, mark)) = in_flight.pop_front() else {
                break;
            };
            now = arrives;
            window.on_answer(mark, block, at(now));
        }
        window.limit()
    }

    #[test]
    fn a_long_fast_path_is_filled_and_a_slow_one_is_not_flooded() {
        // 100 ms at 40 MB/s hold 4 MB: 62 blocks of 64 KiB. A fixed number of 48 would leave a quarter of it empty.
        let long = settle(0.1, 40e6, 65_536, 5.0);
        assert!((80..=160).contains(&long), "{long}");
        // 20 ms at 1 MB/s hold 20 kB; what is in flight beyond that waits at the peer.
        assert_eq!(settle(0.02, 1e6, 65_536, 20.0), MIN_IN_FLIGHT);
        // Blocks that are small and many are asked for in numbers, up to the bound.
        assert_eq!(settle(0.1, 100e6, 1024, 5.0), MAX_IN_FLIGHT);
    }

    #[test]
    fn a_peer_that_answers_with_nothing_does_not_break_the_numbers() {
        let mut window = Window::new();
        let now = Instant::now();
        for _ in 0..100 {
            window.on_answer(window.mark(now, 0), 0, now);
            assert!((MIN_IN_FLIGHT..=MAX_IN_FLIGHT).contains(&window.limit()));
        }
    }
}
