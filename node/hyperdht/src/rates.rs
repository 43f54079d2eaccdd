//! Rations per source host, for what costs us more than it costs the asker.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

/// Hosts tracked. When full, hosts whose ration is whole again are forgotten; if none is, newcomers share one ration.
const MAX_HOSTS: usize = 8_192;

/// How often the table is searched for hosts to forget, at most: the search looks at every host.
const PURGE_EVERY: Duration = Duration::from_secs(1);

/// A token bucket per host.
#[derive(Debug)]
pub(crate) struct Rations {
    purged_at: Option<Instant>,
    hosts: HashMap<Ipv4Addr, (f64, Instant)>,
    burst: f64,
    per_second: f64,
}

impl Rations {
    pub(crate) fn new(burst: u32, per_second: u32) -> Self {
        Self {
            purged_at: None,
            hosts: HashMap::new(),
            burst: burst.into(),
            per_second: per_second.into(),
        }
    }

    /// Takes one unit; false when the host has none left.
    pub(crate) fn take(&mut self, now: Instant, host: Ipv4Addr) -> bool {
        self.take_many(now, host, 1)
    }

    /// Takes so many units, or none; false when the host has not so many left.
    pub(crate) fn take_many(&mut self, now: Instant, host: Ipv4Addr, units: u32) -> bool {
        let units = f64::from(units);
        let (burst, per_second) = (self.burst, self.per_second);
        let filled = |(left, at): (f64, Instant)| {
            (left + now.saturating_duration_since(at).as_secs_f64() * per_second).min(burst)
        };
        let due = self
            .purged_at
            .is_none_or(|at| now.saturating_duration_since(at) >= PURGE_EVERY);
        if due && self.hosts.len() >= MAX_HOSTS && !self.hosts.contains_key(&host) {
            self.purged_at = Some(now);
            self.hosts.retain(|_, bucket| filled(*bucket) < burst);
        }
        let crowded = self.hosts.len() >= MAX_HOSTS && !self.hosts.contains_key(&host);
        let host = if crowded { Ipv4Addr::UNSPECIFIED } else { host };
        let bucket = self.hosts.entry(host).or_insert((burst, now));
        let left = filled(*bucket);
        let enough = left >= units;
        *bucket = (if enough { left - units } else { left }, now);
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_gets_its_burst_then_its_rate_and_others_are_not_touched() {
        let now = Instant::now();
        let (a, b) = (Ipv4Addr::new(1, 1, 1, 1), Ipv4Addr::new(2, 2, 2, 2));
        let mut rations = Rations::new(3, 2);
        assert!((0..3).all(|_| rations.take(now, a)));
        assert!(!rations.take(now, a) && rations.take(now, b));
        let later = now + Duration::from_secs(1);
        assert!(rations.take(later, a) && rations.take(later, a) && !rations.take(later, a));
    }

    #[test]
    fn many_hosts_do_not_grow_the_table_without_bound() {
        let now = Instant::now();
        let mut rations = Rations::new(2, 1);
        for number in 0..100_000_u32 {
            rations.take(now, Ipv4Addr::from(number + 1));
        }
        assert!(rations.hosts.len() <= MAX_HOSTS + 1);
    }
}
