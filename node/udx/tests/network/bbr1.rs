//! Version 1 of BBR as libudx has it (Cardwell et al., ACM Queue 2016), as far as it shares a bottleneck: it never gives way to a loss.

use super::SECOND;

const HIGH_GAIN: f64 = 2.88539;
const GAINS: [f64; 8] = [1.25, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0];
const ROUNDS: u64 = 10;
const MIN_RTT_SECONDS: f64 = 10.0;
const PROBE_RTT_SECONDS: f64 = 0.2;

/// Packets and seconds.
#[derive(Debug)]
pub(crate) struct Model {
    delivered: u64,
    round: u64,
    round_ends: u64,
    samples: Vec<(u64, f64)>,
    min_rtt: f64,
    min_rtt_at: f64,
    probes_rtt_until: Option<f64>,
    full: (f64, u32),
    started: bool,
    drained: bool,
    phase: usize,
    phase_at: f64,
    tokens: f64,
    refilled_at: f64,
    initial_rate: f64,
    by_the_millisecond: bool,
}

impl Model {
    /// What libudx makes of it: its pacing lets a packet leave in every millisecond, however low the rate.
    pub(crate) fn by_the_millisecond() -> Self {
        Self {
            by_the_millisecond: true,
            ..Self::new()
        }
    }

    pub(crate) fn new() -> Self {
        Self {
            delivered: 0,
            round: 0,
            round_ends: 0,
            samples: vec![],
            min_rtt: f64::INFINITY,
            min_rtt_at: 0.0,
            probes_rtt_until: None,
            full: (0.0, 0),
            started: false,
            drained: false,
            phase: 3,
            phase_at: 0.0,
            tokens: 10.0,
            refilled_at: 0.0,
            initial_rate: 1000.0,
            by_the_millisecond: false,
        }
    }

    fn bandwidth(&self) -> f64 {
        self.samples.iter().map(|(_, rate)| *rate).fold(0.0, f64::max)
    }

    pub(crate) fn delivered(&self) -> u64 {
        self.delivered
    }

    fn gain(&self) -> f64 {
        match (self.started, self.drained) {
            (false, _) => HIGH_GAIN,
            (true, false) => 1.0 / HIGH_GAIN,
            _ if self.probes_rtt_until.is_some() => 1.0,
            _ => GAINS[self.phase],
        }
    }

    pub(crate) fn window(&self) -> f64 {
        if self.probes_rtt_until.is_some() {
            return 4.0;
        }
        let fill = self.bandwidth() * self.min_rtt;
        let gain = if self.drained { 2.0 } else { HIGH_GAIN };
        if fill.is_finite() {
            (fill * gain).max(if self.started { 4.0 } else { 10.0 })
        } else {
            10.0
        }
    }

    fn rate(&self) -> f64 {
        let rate = self.bandwidth() * self.gain() * 0.99;
        if self.started {
            rate.max(1.0)
        } else {
            rate.max(self.initial_rate)
        }
    }

    /// When the next packet may leave.
    pub(crate) fn paced_until(&mut self, now: u64) -> Option<u64> {
        let at = now as f64 / SECOND;
        let rate = self.rate();
        if self.by_the_millisecond {
            let passed = at.mul_add(1e3, 1e-6).floor() - self.refilled_at.mul_add(1e3, 1e-6).floor();
            if passed >= 1.0 {
                self.tokens = passed * rate * 1e-3;
                self.refilled_at = at;
            }
            return (self.tokens <= 0.0).then(|| (now / 1000 + 1) * 1000);
        }
        self.tokens = (self.tokens + (at - self.refilled_at) * rate).min((rate * 0.001).max(2.0));
        self.refilled_at = at;
        (self.tokens < 1.0).then(|| now + 1 + ((1.0 - self.tokens) / rate * SECOND) as u64)
    }

    pub(crate) fn on_sent(&mut self) {
        self.tokens -= 1.0;
        if self.by_the_millisecond {
            self.tokens = self.tokens.max(0.0);
        }
    }

    /// A packet arrived that was sent when `delivered` others had.
    pub(crate) fn on_ack(
        &mut self,
        now: u64,
        rtt: f64,
        (delivered, delivered_at): (u64, u64),
        in_flight: usize,
    ) {
        let at = now as f64 / SECOND;
        self.delivered += 1;
        let round_start = delivered >= self.round_ends;
        if round_start {
            self.round += 1;
            self.round_ends = self.delivered;
        }
        let interval = (now - delivered_at) as f64 / SECOND;
        let limited = self.probes_rtt_until.is_some();
        let rate = (self.delivered - delivered) as f64 / interval.max(1e-4);
        if !limited || rate > self.bandwidth() {
            let oldest = self.round.saturating_sub(ROUNDS);
            self.samples
                .retain(|(round, best)| *round >= oldest && *best > rate);
            self.samples.push((self.round, rate));
        }
        let expired = at - self.min_rtt_at > MIN_RTT_SECONDS;
        if rtt <= self.min_rtt || expired {
            (self.min_rtt, self.min_rtt_at) = (rtt, at);
        }
        if expired && self.probes_rtt_until.is_none() {
            self.probes_rtt_until = Some(f64::INFINITY);
        }
        if let Some(until) = self.probes_rtt_until {
            if until.is_infinite() && in_flight <= 4 {
                self.probes_rtt_until = Some(at + PROBE_RTT_SECONDS);
            } else if at > until {
                (self.min_rtt_at, self.probes_rtt_until) = (at, None);
            }
        }
        if !self.started && round_start {
            if self.bandwidth() >= self.full.0 * 1.25 {
                self.full = (self.bandwidth(), 0);
            } else {
                self.full.1 += 1;
                self.started = self.full.1 >= 3;
            }
        }
        let fill = self.bandwidth() * self.min_rtt;
        self.drained |= self.started && in_flight as f64 <= fill;
        let long = at - self.phase_at > self.min_rtt;
        let next = match GAINS[self.phase] {
            gain if gain > 1.0 => long && in_flight as f64 > gain * fill,
            gain if gain < 1.0 => long || in_flight as f64 <= fill,
            _ => long,
        };
        if next {
            self.phase = (self.phase + 1) % GAINS.len();
            self.phase_at = at;
        }
    }
}
