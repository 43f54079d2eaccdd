//! Time as the state machines see it, and the estimates made from it.

/// Microseconds since a moment that the caller chose; never goes backwards.
pub type Micros = u64;

/// One millisecond.
pub const MILLISECOND: Micros = 1_000;
/// One second.
pub const SECOND: Micros = 1_000_000;

const RTO_MIN: Micros = SECOND;
const RTO_INITIAL: Micros = SECOND;
const RTO_MAX: Micros = 30 * SECOND;
/// Samples above this are suspect (a suspended laptop) and clamped when they are outliers too.
const SUSPECT_RTT: Micros = 5 * SECOND;
/// How long a minimum stays valid (RFC 8985 leaves it open; libudx uses this).
const MIN_RTT_WINDOW: Micros = 300 * SECOND;

/// Round trip estimation and the retransmission timeout (RFC 6298, with libudx's gains).
#[derive(Debug, Clone)]
pub(crate) struct RttEstimator {
    smoothed: Option<Micros>,
    variance: Micros,
    min: Option<(Micros, Micros)>,
    rto: Micros,
}

impl Default for RttEstimator {
    fn default() -> Self {
        Self {
            smoothed: None,
            variance: 0,
            min: None,
            rto: RTO_INITIAL,
        }
    }
}

impl RttEstimator {
    /// A sample after the treatment of outliers: time spent suspended must not become a timeout of minutes.
    pub(crate) fn clamp(&self, sample: Micros) -> Micros {
        let Some(smoothed) = self.smoothed else {
            return sample.min(RTO_MAX);
        };
        let outlier = smoothed + 5 * self.variance;
        if sample > outlier && sample > SUSPECT_RTT {
            outlier.min(RTO_MAX)
        } else {
            sample
        }
    }

    /// Takes a sample of a packet that was sent once only.
    pub(crate) fn sample(&mut self, now: Micros, rtt: Micros) {
        match self.min {
            Some((min, at)) if rtt > min && now.saturating_sub(at) < MIN_RTT_WINDOW => {}
            _ => self.min = Some((rtt, now)),
        }
        let smoothed = match self.smoothed {
            None => {
                self.variance = rtt / 2;
                rtt
            }
            Some(smoothed) => {
                self.variance = (3 * self.variance + smoothed.abs_diff(rtt)) / 4;
                (7 * smoothed + rtt) / 8
            }
        };
        self.smoothed = Some(smoothed);
        self.rto = (smoothed + 4 * self.variance).clamp(RTO_MIN, RTO_MAX);
    }

    pub(crate) fn smoothed(&self) -> Option<Micros> {
        self.smoothed
    }

    /// How long a round trip takes at most, as far as is known.
    pub(crate) fn patient(&self) -> Micros {
        self.smoothed
            .map_or(RTO_INITIAL, |smoothed| smoothed + 4 * self.variance)
    }

    pub(crate) fn min(&self) -> Option<Micros> {
        self.min.map(|(min, _)| min)
    }

    pub(crate) fn rto(&self) -> Micros {
        self.rto
    }
}

/// Running maximum over a window of rounds, from the three best samples of successive thirds of it
/// (Kathleen Nichols' algorithm).
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct WindowedMax {
    best: [(u32, f64); 3],
}

impl WindowedMax {
    pub(crate) fn get(&self) -> f64 {
        self.best[0].1
    }

    /// Changes the unit of all samples.
    pub(crate) fn scale(&mut self, factor: f64) {
        self.best.iter_mut().for_each(|(_, value)| *value *= factor);
    }

    pub(crate) fn update(&mut self, window: u32, round: u32, value: f64) {
        let sample = (round, value);
        let age = |at: u32| round.wrapping_sub(at);
        if value >= self.best[0].1 || age(self.best[2].0) > window {
            self.best = [sample; 3];
            return;
        }
        if value >= self.best[1].1 {
            self.best[1] = sample;
            self.best[2] = sample;
        } else if value >= self.best[2].1 {
            self.best[2] = sample;
        }
        if age(self.best[0].0) > window {
            self.best = [self.best[1], self.best[2], sample];
            if age(self.best[0].0) > window {
                self.best = [self.best[1], self.best[2], sample];
            }
        } else if self.best[1].0 == self.best[0].0 && age(self.best[1].0) > window / 4 {
            self.best[1] = sample;
            self.best[2] = sample;
        } else if self.best[2].0 == self.best[1].0 && age(self.best[2].0) > window / 2 {
            self.best[2] = sample;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timeout_starts_at_a_second_and_stays_within_its_bounds() {
        let mut rtt = RttEstimator::default();
        assert_eq!(rtt.rto(), SECOND);
        rtt.sample(0, 10 * MILLISECOND);
        assert_eq!((rtt.smoothed(), rtt.rto()), (Some(10 * MILLISECOND), SECOND));
        for _ in 0..20 {
            rtt.sample(0, 4 * SECOND);
        }
        assert!(rtt.rto() > 4 * SECOND && rtt.rto() <= 30 * SECOND);
    }

    #[test]
    fn time_spent_suspended_does_not_count_as_round_trip() {
        let mut rtt = RttEstimator::default();
        rtt.sample(0, 100 * MILLISECOND);
        assert_eq!(rtt.clamp(3600 * SECOND), 350 * MILLISECOND);
        assert_eq!(rtt.clamp(4 * SECOND), 4 * SECOND);
    }

    #[test]
    fn the_minimum_is_forgotten_after_its_window() {
        let mut rtt = RttEstimator::default();
        rtt.sample(0, 10);
        rtt.sample(299 * SECOND, 50);
        assert_eq!(rtt.min(), Some(10));
        rtt.sample(300 * SECOND, 40);
        assert_eq!(rtt.min(), Some(40));
    }

    #[test]
    fn the_maximum_outlives_lower_samples_for_its_window_only() {
        let mut max = WindowedMax::default();
        max.update(10, 0, 9.0);
        for round in 1..=10 {
            max.update(10, round, 5.0);
            assert!((max.get() - 9.0).abs() < f64::EPSILON, "round {round}");
        }
        max.update(10, 11, 5.0);
        assert!((max.get() - 5.0).abs() < f64::EPSILON);
    }
}
