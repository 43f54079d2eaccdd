//! BBR version 1 in packets: a model of the path (bottleneck bandwidth, smallest round trip time) sets how fast
//! (pacing rate) and how much (congestion window) a stream sends.
//!
//! Sources: Cardwell et al., "BBR: Congestion-Based Congestion Control" (ACM Queue 2016); draft-cardwell-iccrg-bbr-00;
//! draft-cheng-iccrg-delivery-rate-estimation for the samples. Gains and windows are those of libudx, so that
//! both behave alike on a shared bottleneck. Three things differ:
//! - Startup neither holds still nor shrinks for losses; it ends when more than a tenth of a round is lost.
//! - `ProbeRTT` goes down to half of what fills the path, as version 3 does, not to four packets.
//! - Where a queue overflows, the bounds of version 3 apply, see [`bounds`].
//!
//! It sees only numbers: no packets, no clock. It does not decide what is lost.

#![allow(
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "estimates: all values are far below 2^52 and not negative"
)]

mod bounds;

pub(crate) use bounds::Lost;
use bounds::{Bounds, Path, Phase, is_queued};

use crate::clock::{MILLISECOND, Micros, SECOND, WindowedMax};

/// Packets that may leave before anything is known about the path.
pub(crate) const INITIAL_WINDOW: u32 = 10;
const MIN_WINDOW: u32 = 4;
const HIGH_GAIN: f64 = 2.88539; // 2/ln 2: doubles the rate each round
const WINDOW_GAIN: f64 = 2.0;
const PROBE_GAINS: [f64; 8] = [1.25, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0];
/// The first phase of PROBE_BW: neither above nor below the estimate.
const FIRST_PROBE_PHASE: usize = 4;
/// Pace a little below the estimate so that queues drain.
const PACING_MARGIN: f64 = 0.99;
const BANDWIDTH_ROUNDS: u32 = 10;
const MIN_RTT_WINDOW: Micros = 10 * SECOND;
/// As in version 3 (draft-ietf-ccwg-bbr). Version 1 goes down to four packets, which on a path of 600 ms costs a quarter of all time.
const PROBE_RTT_GAIN: f64 = 0.5;
const PROBE_RTT_TIME: Micros = 200 * MILLISECOND;
const FULL_PIPE_GROWTH: f64 = 1.25;
const FULL_PIPE_ROUNDS: u32 = 3;
/// Losses in one round that end Startup: so many, and such a share. Far above random loss, which BBR must ignore.
const STARTUP_LOST: u32 = 8;
const STARTUP_LOSS_SHARE: f64 = 0.1;
const AGGREGATION_ROUNDS: u32 = 5;
const AGGREGATION_MAX: Micros = 100 * MILLISECOND;
/// Round trips below this count as this long: timers fire once a millisecond, so a smaller window could never
/// keep a fast path busy (libudx measures in whole milliseconds and rounds up).
const TIMER_GRANULARITY: Micros = MILLISECOND;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Startup,
    Drain,
    ProbeBandwidth,
    ProbeRtt,
}

/// State of loss recovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recovery {
    /// Nothing lost.
    Open,
    /// Losses found by RACK are being repaired.
    Fast,
    /// A retransmission timeout happened.
    Loss,
}

/// What one batch of acknowledgements says about the path.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AckSample {
    pub(crate) now: Micros,
    /// Packets delivered since the stream began.
    pub(crate) total_delivered: u64,
    /// Packets newly delivered by this batch, and newly found lost.
    pub(crate) acked: u32,
    pub(crate) lost: u32,
    /// About the packet with the most losses since it was sent, of those newly found lost.
    pub(crate) worst: Option<Lost>,
    /// Packets in flight after it.
    pub(crate) in_flight: u32,
    /// Delivery rate, if the batch allows a sample.
    pub(crate) rate: Option<RateSample>,
    pub(crate) rtt: Option<Micros>,
    pub(crate) smoothed_rtt: Option<Micros>,
    pub(crate) recovery: Recovery,
    /// Payload bytes of a full packet.
    pub(crate) packet_len: u32,
}

/// A delivery rate sample: `delivered` packets in `interval`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RateSample {
    pub(crate) delivered: u64,
    pub(crate) interval: Micros,
    /// `total_delivered` when the newest of these packets was sent: marks rounds.
    pub(crate) prior_delivered: u64,
    pub(crate) app_limited: bool,
}

#[derive(Debug)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "independent facts of the published algorithm"
)]
pub(crate) struct Bbr {
    mode: Mode,
    window: u32,
    prior_window: u32,
    /// Bytes per microsecond.
    pacing_rate: f64,
    pacing_gain: f64,
    window_gain: f64,
    has_rtt: bool,
    /// Packets per microsecond.
    bandwidth: WindowedMax,
    /// Rounds, as the filter of bandwidths counts them.
    bandwidth_age: u32,
    round_start: bool,
    next_round_delivered: u64,
    min_rtt: Option<Micros>,
    min_rtt_at: Micros,
    probe_rtt_done_at: Option<Micros>,
    probe_rtt_round_done: bool,
    full_bandwidth: f64,
    full_bandwidth_rounds: u32,
    pipe_full: bool,
    round_delivered: u32,
    last_round_delivered: u32,
    round_lost: u32,
    phase: usize,
    phase_at: Micros,
    idle_restart: bool,
    last_recovery: Recovery,
    packet_conservation: bool,
    aggregation: Aggregation,
    bounds: Bounds,
}

/// How far acknowledgements run ahead of the estimated rate: the window grows by that much, so that a path
/// which acknowledges in bursts stays full.
#[derive(Debug, Default)]
struct Aggregation {
    epoch_at: Micros,
    epoch_acked: u64,
    extra: [u32; 2],
    index: usize,
    rounds: u32,
}

impl Bbr {
    pub(crate) fn new(now: Micros, packet_len: u32) -> Self {
        let mut bbr = Self {
            mode: Mode::Startup,
            window: INITIAL_WINDOW,
            prior_window: 0,
            pacing_rate: 0.0,
            pacing_gain: HIGH_GAIN,
            window_gain: HIGH_GAIN,
            has_rtt: false,
            bandwidth: WindowedMax::default(),
            bandwidth_age: 0,
            round_start: false,
            next_round_delivered: 0,
            min_rtt: None,
            min_rtt_at: now,
            probe_rtt_done_at: None,
            probe_rtt_round_done: false,
            full_bandwidth: 0.0,
            full_bandwidth_rounds: 0,
            pipe_full: false,
            round_delivered: 0,
            last_round_delivered: 0,
            round_lost: 0,
            phase: 0,
            phase_at: now,
            idle_restart: false,
            last_recovery: Recovery::Open,
            packet_conservation: false,
            aggregation: Aggregation {
                epoch_at: now,
                ..Aggregation::default()
            },
            bounds: Bounds::new(),
        };
        bbr.pacing_rate = pacing(
            f64::from(INITIAL_WINDOW) / MILLISECOND as f64,
            HIGH_GAIN,
            packet_len,
        );
        bbr
    }

    /// Congestion window, packets.
    pub(crate) fn window(&self) -> u32 {
        self.window
    }

    /// Bytes per microsecond.
    pub(crate) fn pacing_rate(&self) -> f64 {
        self.pacing_rate
    }

    pub(crate) fn is_probing_rtt(&self) -> bool {
        self.mode == Mode::ProbeRtt
    }

    /// Sending starts again after an idle time that was the application's, not the network's.
    pub(crate) fn on_restart_from_idle(&mut self, now: Micros, packet_len: u32) {
        self.idle_restart = true;
        self.aggregation.epoch_at = now;
        self.aggregation.epoch_acked = 0;
        match self.mode {
            Mode::ProbeBandwidth => self.set_pacing_rate(1.0, None, packet_len),
            Mode::ProbeRtt => self.leave_probe_rtt(now),
            Mode::Startup | Mode::Drain => {}
        }
    }

    /// Packets got larger (or smaller): the same bytes are fewer packets, so estimates in packets must follow.
    pub(crate) fn on_packet_len_change(&mut self, from: u32, to: u32) {
        if from != to {
            let factor = f64::from(from) / f64::from(to);
            self.bandwidth.scale(factor);
            self.full_bandwidth *= factor;
            self.bounds.scale(factor);
        }
    }

    /// RACK or a timeout found losses: remember the window to come back to.
    pub(crate) fn on_losses_begin(&mut self) {
        if self.last_recovery == Recovery::Open && self.mode != Mode::ProbeRtt {
            self.prior_window = self.window;
        } else {
            self.prior_window = self.prior_window.max(self.window);
        }
    }

    /// A retransmission timeout: start again from what is in flight, and learn the pipe anew.
    pub(crate) fn on_timeout(&mut self, in_flight: u32) {
        self.last_recovery = Recovery::Loss;
        self.full_bandwidth = 0.0;
        self.full_bandwidth_rounds = 0;
        self.round_start = true;
        self.packet_conservation = false;
        self.window = (in_flight + 1).max(MIN_WINDOW.min(self.window));
    }

    pub(crate) fn on_ack(&mut self, sample: &AckSample) {
        self.update_bandwidth(sample);
        self.update_aggregation(sample);
        self.update_bounds(sample);
        self.update_phase(sample);
        self.update_pipe_full(sample);
        self.update_drain(sample);
        self.update_min_rtt(sample);
        self.update_gains();
        self.set_pacing_rate(self.pacing_gain, sample.smoothed_rtt, sample.packet_len);
        self.set_window(sample);
    }

    fn update_bandwidth(&mut self, sample: &AckSample) {
        self.round_start = false;
        let Some(rate) = sample.rate else { return };
        if rate.prior_delivered >= self.next_round_delivered {
            self.next_round_delivered = sample.total_delivered;
            if !self.bounds.apply() {
                self.bandwidth_age = self.bandwidth_age.wrapping_add(1);
            }
            self.round_start = true;
            self.packet_conservation = false;
        }
        let bandwidth = rate.delivered as f64 / rate.interval as f64;
        if !rate.app_limited || bandwidth >= self.bandwidth.get() {
            self.bandwidth
                .update(BANDWIDTH_ROUNDS, self.bandwidth_age, bandwidth);
        }
    }

    fn update_aggregation(&mut self, sample: &AckSample) {
        if sample.acked == 0 || sample.rate.is_none() {
            return;
        }
        let aggregation = &mut self.aggregation;
        if self.round_start {
            aggregation.rounds += 1;
            if aggregation.rounds >= AGGREGATION_ROUNDS {
                aggregation.rounds = 0;
                aggregation.index ^= 1;
                aggregation.extra[aggregation.index] = 0;
            }
        }
        let elapsed = sample.now.saturating_sub(aggregation.epoch_at);
        let mut expected = (self.bandwidth.get() * elapsed as f64) as u64;
        if aggregation.epoch_acked <= expected {
            aggregation.epoch_acked = 0;
            aggregation.epoch_at = sample.now;
            expected = 0;
        }
        aggregation.epoch_acked += u64::from(sample.acked);
        let extra = (aggregation.epoch_acked - expected).min(u64::from(self.window)) as u32;
        let slot = &mut aggregation.extra[aggregation.index];
        *slot = extra.max(*slot);
    }

    fn update_bounds(&mut self, sample: &AckSample) {
        let (Some(min), Some(smoothed)) = (self.model_rtt(), sample.smoothed_rtt) else {
            return;
        };
        let path = Path {
            now: sample.now,
            round_start: self.round_start,
            in_flight: sample.in_flight,
            acked: sample.acked,
            delivered: self.last_round_delivered,
            window: self.window,
            full: self.bdp(1.0),
            over_full: self.bdp(PROBE_GAINS[0]),
            rtt: min,
        };
        let queued = is_queued(smoothed, min, self.bandwidth.get());
        if self.round_start {
            self.bounds
                .note_round(self.round_lost, self.round_delivered, queued);
        }
        let before = self.bounds.phase;
        if let Some(worst) = sample.worst
            && self.pipe_full
            && self.bounds.is_congestion(worst, queued)
        {
            self.bounds.on_congestion(worst, &path);
        }
        if self.mode == Mode::ProbeBandwidth {
            self.bounds.update(&path);
        }
        if before == Phase::Up && self.bounds.phase == Phase::Down {
            // The filter holds what two looks found.
            self.bandwidth_age = self.bandwidth_age.wrapping_add(BANDWIDTH_ROUNDS / 2);
        }
    }

    fn update_phase(&mut self, sample: &AckSample) {
        if self.mode != Mode::ProbeBandwidth || self.bounds.apply() {
            return;
        }
        let full_length = sample.now.saturating_sub(self.phase_at) > self.model_rtt().unwrap_or(0);
        let next = if self.pacing_gain > 1.0 {
            full_length && (sample.lost > 0 || sample.in_flight > self.bdp(self.pacing_gain))
        } else if self.pacing_gain < 1.0 {
            full_length || sample.in_flight <= self.bdp(1.0)
        } else {
            full_length
        };
        if next {
            self.phase = (self.phase + 1) % PROBE_GAINS.len();
            self.phase_at = sample.now;
        }
    }

    fn update_pipe_full(&mut self, sample: &AckSample) {
        self.round_delivered += sample.acked;
        self.round_lost += sample.lost;
        if self.round_start {
            self.last_round_delivered = self.round_delivered;
            // Startup sends nearly three times the path's rate; when a queue overflows there is nothing more to find.
            let losses =
                f64::from(self.round_lost) / f64::from((self.round_lost + self.round_delivered).max(1));
            self.pipe_full |= self.round_lost >= STARTUP_LOST && losses > STARTUP_LOSS_SHARE;
            self.round_delivered = 0;
            self.round_lost = 0;
        }
        if self.pipe_full || !self.round_start || sample.rate.is_none_or(|rate| rate.app_limited) {
            return;
        }
        let bandwidth = self.bandwidth.get();
        if bandwidth >= self.full_bandwidth * FULL_PIPE_GROWTH {
            self.full_bandwidth = bandwidth;
            self.full_bandwidth_rounds = 0;
            return;
        }
        self.full_bandwidth_rounds += 1;
        self.pipe_full = self.full_bandwidth_rounds >= FULL_PIPE_ROUNDS;
    }

    fn update_drain(&mut self, sample: &AckSample) {
        if self.mode == Mode::Startup && self.pipe_full {
            self.mode = Mode::Drain;
        }
        if self.mode == Mode::Drain && sample.in_flight <= self.bdp(1.0) {
            self.enter_probe_bandwidth(sample.now);
        }
    }

    fn update_min_rtt(&mut self, sample: &AckSample) {
        let expired = sample.now.saturating_sub(self.min_rtt_at) > MIN_RTT_WINDOW;
        if let Some(rtt) = sample.rtt
            && (expired || self.min_rtt.is_none_or(|min| rtt < min))
        {
            self.min_rtt = Some(rtt);
            self.min_rtt_at = sample.now;
        }
        if expired && !self.idle_restart && self.mode != Mode::ProbeRtt {
            self.on_losses_begin(); // keeps the window to come back to
            self.mode = Mode::ProbeRtt;
            self.probe_rtt_done_at = None;
        }
        if self.mode == Mode::ProbeRtt {
            match self.probe_rtt_done_at {
                None if sample.in_flight <= self.probe_rtt_window() => {
                    self.probe_rtt_done_at = Some(sample.now + PROBE_RTT_TIME);
                    self.probe_rtt_round_done = false;
                    self.next_round_delivered = sample.total_delivered;
                }
                None => {}
                Some(_) => {
                    self.probe_rtt_round_done |= self.round_start;
                    if self.probe_rtt_round_done {
                        self.leave_probe_rtt(sample.now);
                    }
                }
            }
        }
        if sample.rate.is_some_and(|rate| rate.delivered > 0) {
            self.idle_restart = false;
        }
    }

    fn leave_probe_rtt(&mut self, now: Micros) {
        if self.probe_rtt_done_at.is_none_or(|at| now <= at) {
            return;
        }
        self.min_rtt_at = now;
        self.window = self.window.max(self.prior_window);
        if self.pipe_full {
            self.enter_probe_bandwidth(now);
        } else {
            self.mode = Mode::Startup;
        }
    }

    fn enter_probe_bandwidth(&mut self, now: Micros) {
        self.mode = Mode::ProbeBandwidth;
        self.phase = FIRST_PROBE_PHASE;
        self.phase_at = now;
    }

    fn update_gains(&mut self) {
        (self.pacing_gain, self.window_gain) = match self.mode {
            Mode::Startup => (HIGH_GAIN, HIGH_GAIN),
            Mode::Drain => (1.0 / HIGH_GAIN, HIGH_GAIN),
            Mode::ProbeBandwidth if self.bounds.apply() => (self.bounds.gain(), WINDOW_GAIN),
            Mode::ProbeBandwidth => (PROBE_GAINS[self.phase], WINDOW_GAIN),
            Mode::ProbeRtt => (1.0, 1.0),
        };
    }

    fn set_pacing_rate(&mut self, gain: f64, smoothed_rtt: Option<Micros>, packet_len: u32) {
        if let (false, Some(rtt)) = (self.has_rtt, smoothed_rtt) {
            self.has_rtt = true;
            let bandwidth = f64::from(self.window) / rtt.max(TIMER_GRANULARITY) as f64;
            self.pacing_rate = pacing(bandwidth, HIGH_GAIN, packet_len);
        }
        let rate = pacing(self.bandwidth.get(), gain, packet_len);
        if self.pipe_full || rate > self.pacing_rate {
            self.pacing_rate = rate;
        }
    }

    fn set_window(&mut self, sample: &AckSample) {
        if sample.acked > 0 {
            self.window = self.next_window(sample);
        }
        if self.mode == Mode::ProbeRtt {
            self.window = self.window.min(self.probe_rtt_window());
        }
        if self.pipe_full {
            self.window = self.window.min(self.bounds.most());
        }
    }

    /// Half of what fills the path leaves no queue of ours, and the path not empty.
    fn probe_rtt_window(&self) -> u32 {
        self.bdp(PROBE_RTT_GAIN).max(MIN_WINDOW)
    }

    fn next_window(&mut self, sample: &AckSample) -> u32 {
        let last = std::mem::replace(&mut self.last_recovery, sample.recovery);
        if !self.pipe_full && sample.recovery != Recovery::Loss {
            // A packet that the path loses at random says nothing about how much it carries, and holding still for it
            // would look as if the pipe were full. Losses of a full pipe end Startup, see `update_pipe_full`.
            self.packet_conservation = false;
            return self.grown_window(self.window, sample);
        }
        let mut window = self.window.saturating_sub(sample.lost).max(1);
        if sample.recovery == Recovery::Fast && last != Recovery::Fast {
            // First round of recovery: send a packet per packet delivered, no more.
            self.packet_conservation = true;
            self.next_round_delivered = sample.total_delivered;
            window = sample.in_flight + sample.acked;
        } else if sample.recovery == Recovery::Open && last != Recovery::Open {
            window = window.max(self.prior_window);
            self.packet_conservation = false;
        }
        if self.packet_conservation {
            // Never so few that a lost retransmission leaves nothing behind it to be found out by.
            return window.max(sample.in_flight + sample.acked).max(MIN_WINDOW);
        }
        self.grown_window(window, sample)
    }

    fn grown_window(&self, mut window: u32, sample: &AckSample) -> u32 {
        let target = self.bdp(self.window_gain) + self.aggregation_allowance();
        if self.pipe_full {
            window = (window + sample.acked).min(target);
        } else if window < target || sample.total_delivered < u64::from(INITIAL_WINDOW) {
            window += sample.acked;
        }
        window.max(MIN_WINDOW)
    }

    fn aggregation_allowance(&self) -> u32 {
        if !self.pipe_full {
            return 0;
        }
        let most = (self.bandwidth.get() * AGGREGATION_MAX as f64) as u32;
        self.aggregation.extra[0].max(self.aggregation.extra[1]).min(most)
    }

    fn model_rtt(&self) -> Option<Micros> {
        self.min_rtt.map(|rtt| rtt.max(TIMER_GRANULARITY))
    }

    /// Packets that fill the path, times `gain`.
    fn bdp(&self, gain: f64) -> u32 {
        match self.model_rtt() {
            None => INITIAL_WINDOW,
            Some(rtt) => (self.bandwidth.get() * rtt as f64 * gain) as u32,
        }
    }
}

fn pacing(bandwidth: f64, gain: f64, packet_len: u32) -> f64 {
    // One byte per millisecond at least, so that no rate is zero.
    (bandwidth * gain * PACING_MARGIN * f64::from(packet_len)).max(1.0 / MILLISECOND as f64)
}
