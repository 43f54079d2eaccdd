//! What a bad link does to each packet: loses it, holds it back, lets it wait for its turn.
//!
//! Whether the n-th packet of a direction is lost, and how much longer it takes than others, depends on the seed and on n alone.

use std::time::Duration;

use serde::Serialize;

/// How long packets may wait for their turn on a link with a rate that says nothing else, before later ones are dropped: what home
/// routers buffer.
const MAX_WAIT: Duration = Duration::from_millis(500);

/// A link's quality, the same in both directions. `default()` is a perfect one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Link {
    /// Of a million packets, so many get lost.
    pub loss_ppm: u32,
    /// How long each packet takes, one way.
    pub delay: Duration,
    /// Up to so much longer, per packet at random; packets may overtake each other.
    pub jitter: Duration,
    /// Bits per second, if there is a limit.
    pub rate: Option<u64>,
    /// How long packets may wait for their turn, where there is a rate; half a second without it.
    pub queue: Option<Duration>,
}

impl Link {
    /// Whether it does nothing to packets.
    pub fn is_perfect(&self) -> bool {
        *self == Self::default()
    }
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It arrives at this time.
    Arrives(Duration),
    /// It is lost.
    Lost,
    /// Too many wait already.
    Dropped,
}

/// One direction of a link.
#[derive(Debug, Clone)]
pub struct Lane {
    link: Link,
    seed: u64,
    packets: u64,
    free_at: Duration,
}

impl Lane {
    /// A direction that has carried nothing yet.
    pub fn new(link: Link, seed: u64) -> Self {
        Self {
            link,
            seed,
            packets: 0,
            free_at: Duration::ZERO,
        }
    }

    /// A packet of `bytes` enters at `now` (since any start; never decreasing).
    pub fn admit(&mut self, now: Duration, bytes: usize) -> Fate {
        let draw = mix(self.seed ^ mix(self.packets));
        self.packets += 1;
        if (draw >> 32) % 1_000_000 < u64::from(self.link.loss_ppm) {
            return Fate::Lost;
        }
        let mut leaves = now;
        if let Some(rate) = self.link.rate {
            let begins = self.free_at.max(now);
            if begins.saturating_sub(now) > self.link.queue.unwrap_or(MAX_WAIT) {
                return Fate::Dropped;
            }
            let bits = u64::try_from(bytes).unwrap_or(u64::MAX).saturating_mul(8);
            let nanos = u128::from(bits) * 1_000_000_000 / u128::from(rate.max(1));
            leaves = begins + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
            self.free_at = leaves;
        }
        let share = u32::try_from(draw & 0xffff_ffff).unwrap_or(u32::MAX);
        let extra = self.link.jitter.mul_f64(f64::from(share) / f64::from(u32::MAX));
        Fate::Arrives(leaves + self.link.delay + extra)
    }
}

/// The finaliser of SplitMix64: every bit of the result depends on every bit of the argument.
pub(crate) fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fates(link: Link, seed: u64) -> Vec<Fate> {
        let mut lane = Lane::new(link, seed);
        (0..100_000)
            .map(|n| lane.admit(Duration::from_millis(n), 1_000))
            .collect()
    }

    #[test]
    fn losses_are_as_many_as_asked_for_and_the_same_for_the_same_seed() {
        let link = Link {
            loss_ppm: 20_000,
            ..Link::default()
        };
        let lost = |seed| {
            fates(link, seed)
                .iter()
                .filter(|fate| **fate == Fate::Lost)
                .count()
        };
        assert!((1_800..2_200).contains(&lost(1)), "{}", lost(1));
        assert_eq!(fates(link, 1), fates(link, 1));
        assert_ne!(fates(link, 1), fates(link, 2));
    }

    #[test]
    fn delay_and_jitter_bound_when_a_packet_arrives_and_packets_overtake_each_other() {
        let link = Link {
            delay: Duration::from_millis(300),
            jitter: Duration::from_millis(20),
            ..Link::default()
        };
        let mut overtaken = 0;
        let mut last = Duration::ZERO;
        for (sent, fate) in fates(link, 3).into_iter().enumerate() {
            let sent = Duration::from_millis(sent as u64);
            let Fate::Arrives(at) = fate else {
                panic!("lost without loss")
            };
            assert!(at >= sent + link.delay && at <= sent + link.delay + link.jitter);
            overtaken += u32::from(at < last);
            last = at;
        }
        assert!(overtaken > 10_000, "{overtaken}");
    }

    #[test]
    fn a_rate_spaces_packets_out_and_what_would_wait_too_long_is_dropped() {
        let link = Link {
            rate: Some(256_000),
            ..Link::default()
        };
        let mut lane = Lane::new(link, 0);
        let arrivals: Vec<_> = (0..100).map(|_| lane.admit(Duration::ZERO, 1_000)).collect();
        assert_eq!(arrivals[0], Fate::Arrives(Duration::from_micros(31_250)));
        assert_eq!(arrivals[9], Fate::Arrives(Duration::from_micros(312_500)));
        let through = arrivals.iter().filter(|fate| **fate != Fate::Dropped).count();
        assert_eq!(through, 17);
        // A queue of its own length instead of the half second.
        let queue = Some(Duration::from_millis(100));
        let mut short = Lane::new(Link { queue, ..link }, 0);
        let through = (0..100).filter(|_| short.admit(Duration::ZERO, 1_000) != Fate::Dropped);
        assert_eq!(through.count(), 4);
        // A second later the line is free again.
        assert!(matches!(
            lane.admit(Duration::from_secs(1), 1_000),
            Fate::Arrives(at) if at < Duration::from_millis(1_100)
        ));
    }
}
