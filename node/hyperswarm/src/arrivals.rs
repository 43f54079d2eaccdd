//! Who may begin a handshake with a listener, by where it comes from. Pure: time is passed in.
//!
//! Over UDP a stranger has to answer from its address before it costs anything; over TCP a handshake has a place and time. So
//! that one source does not take all places, each has a few, and a rate ("generic cell rate algorithm": one instant a source).
//! A source is an IPv4 address, or the 64 bits that an IPv6 network gives to one household.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Handshakes of one source at a time: a quarter of all.
const MAX_UNDER_WAY: usize = 16;
/// Handshakes that one source may begin at once after a rest, and how long each takes to be forgotten. Hosts that were lost
/// together come back together; each of them waits for a second or more between its attempts.
const BURST: u32 = 16;
const FORGOTTEN_AFTER: Duration = Duration::from_millis(250);
/// Sources remembered, each some 50 bytes. While all of them are at it, newcomers are refused.
const MAX_SOURCES: usize = 1_024;

/// Where somebody comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Source(IpAddr);

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                Self(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into())
            }
            address @ IpAddr::V4(_) => Self(address),
        }
    }
}

#[derive(Debug)]
struct Attempts {
    under_way: usize,
    /// When all that were begun are forgotten.
    forgotten_at: Instant,
}

/// What is remembered of those who came.
#[derive(Debug, Default)]
pub(crate) struct Arrivals {
    sources: HashMap<Source, Attempts>,
}

impl Arrivals {
    /// Whether a handshake may begin. If so, [`Arrivals::ended`] is to be called when it is over.
    pub(crate) fn begin(&mut self, now: Instant, source: Source) -> bool {
        if !self.sources.contains_key(&source) && self.sources.len() >= MAX_SOURCES {
            self.sources
                .retain(|_, attempts| attempts.under_way > 0 || attempts.forgotten_at > now);
            if self.sources.len() >= MAX_SOURCES {
                return false;
            }
        }
        let attempts = self.sources.entry(source).or_insert(Attempts {
            under_way: 0,
            forgotten_at: now,
        });
        let remembered = attempts.forgotten_at.saturating_duration_since(now);
        if attempts.under_way >= MAX_UNDER_WAY || remembered > FORGOTTEN_AFTER * (BURST - 1) {
            return false;
        }
        attempts.under_way += 1;
        attempts.forgotten_at = attempts.forgotten_at.max(now) + FORGOTTEN_AFTER;
        true
    }

    /// A handshake that may begin is over, either way.
    pub(crate) fn ended(&mut self, source: Source) {
        if let Some(attempts) = self.sources.get_mut(&source) {
            attempts.under_way = attempts.under_way.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(number: u32) -> Source {
        IpAddr::V4(number.into()).into()
    }

    #[test]
    fn a_source_has_a_burst_and_then_a_rate_and_others_have_theirs() {
        let (mut arrivals, start) = (Arrivals::default(), Instant::now());
        let attempt = |arrivals: &mut Arrivals, now, from| {
            let may = arrivals.begin(now, from);
            if may {
                arrivals.ended(from);
            }
            may
        };
        for number in 0..BURST {
            assert!(attempt(&mut arrivals, start, source(1)), "{number}");
        }
        assert!(!attempt(&mut arrivals, start, source(1)));
        assert!(attempt(&mut arrivals, start, source(2)));
        let soon = start + FORGOTTEN_AFTER;
        assert!(attempt(&mut arrivals, soon, source(1)));
        assert!(!attempt(&mut arrivals, soon, source(1)));
        let rested = soon + FORGOTTEN_AFTER * BURST;
        let begun = (0..2 * BURST).filter(|_| attempt(&mut arrivals, rested, source(1)));
        assert_eq!(begun.count(), BURST as usize);
    }

    #[test]
    fn handshakes_that_do_not_end_take_no_more_than_the_places_of_their_source() {
        let (mut arrivals, mut now) = (Arrivals::default(), Instant::now());
        for _ in 0..MAX_UNDER_WAY {
            assert!(arrivals.begin(now, source(1)));
            now += FORGOTTEN_AFTER;
        }
        now += FORGOTTEN_AFTER * BURST;
        assert!(!arrivals.begin(now, source(1)));
        assert!(arrivals.begin(now, source(2)));
        arrivals.ended(source(1));
        assert!(arrivals.begin(now, source(1)));
    }

    #[test]
    fn a_network_of_ipv6_is_one_source_and_an_ipv4_address_is_one_however_it_is_written() {
        let of = |text: &str| Source::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(of("2001:db8:1:2::3"), of("2001:db8:1:2:ffff::4"));
        assert_ne!(of("2001:db8:1:2::3"), of("2001:db8:1:3::3"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
        assert_ne!(of("::ffff:10.0.0.2"), of("10.0.0.1"));
    }

    #[test]
    fn sources_are_forgotten_when_they_rest_and_refused_while_too_many_do_not() {
        let (mut arrivals, start) = (Arrivals::default(), Instant::now());
        for number in 0..MAX_SOURCES as u32 {
            assert!(arrivals.begin(start, source(number)));
        }
        assert!(!arrivals.begin(start, source(u32::MAX)));
        arrivals.ended(source(7));
        assert!(
            !arrivals.begin(start, source(u32::MAX)),
            "it was here a moment ago"
        );
        assert!(arrivals.begin(start + FORGOTTEN_AFTER, source(u32::MAX)));
        assert_eq!(arrivals.sources.len(), MAX_SOURCES);
    }
}
