//! What kind of NAT is a fresh socket behind? Classified from what other nodes see (npm `hyperdht` `lib/nat.js`).

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddrV4};

use crate::messages::Firewall;

/// Samples after which the answer is final.
const ENOUGH: usize = 4;

/// Sources counted. Later ones change nothing any more.
const MAX_SOURCES: usize = 64;

/// Samples of one socket's public address.
#[derive(Debug)]
pub(crate) struct NatClass {
    /// The node as a whole can be reached: nothing to classify.
    open: bool,
    hosts: Vec<(Ipv4Addr, u32)>,
    addresses: Vec<(SocketAddrV4, u32)>,
    sources: HashSet<SocketAddrV4>,
    sampled: usize,
    frozen: bool,
    firewall: Firewall,
    told: Option<Vec<SocketAddrV4>>,
}

fn count<T: PartialEq>(samples: &mut Vec<(T, u32)>, sample: T) {
    match samples.iter().position(|(known, _)| *known == sample) {
        None => samples.push((sample, 1)),
        Some(mut index) => {
            samples[index].1 += 1;
            while index > 0 && samples[index - 1].1 < samples[index].1 {
                samples.swap(index - 1, index);
                index -= 1;
            }
        }
    }
}

impl NatClass {
    pub(crate) fn new(open: bool) -> Self {
        Self {
            open,
            hosts: Vec::new(),
            addresses: Vec::new(),
            sources: HashSet::new(),
            sampled: 0,
            frozen: false,
            firewall: if open { Firewall::Open } else { Firewall::Unknown },
            told: None,
        }
    }

    pub(crate) fn firewall(&self) -> Firewall {
        self.firewall
    }

    /// Addresses to tell the other side: with a random NAT the host alone (port 0).
    pub(crate) fn addresses(&self) -> Option<&Vec<SocketAddrV4>> {
        self.told.as_ref()
    }

    #[cfg(any(test, feature = "vectors"))]
    pub(crate) fn sampled(&self) -> usize {
        self.sampled
    }

    /// The answer will not get better by more samples.
    pub(crate) fn is_settled(&self) -> bool {
        matches!(self.firewall, Firewall::Open | Firewall::Consistent) || self.sampled >= ENOUGH
    }

    /// The other side was told: do not change it any more.
    pub(crate) fn freeze(&mut self) {
        self.frozen = true;
    }

    /// `from` sees us at `seen_as`. Each source counts once.
    pub(crate) fn add(&mut self, seen_as: SocketAddrV4, from: SocketAddrV4) {
        if self.sources.len() >= MAX_SOURCES || !self.sources.insert(from) {
            return;
        }
        count(&mut self.hosts, *seen_as.ip());
        count(&mut self.addresses, seen_as);
        self.sampled += 1;
        if (self.sampled >= 3 || self.open) && !self.frozen {
            self.classify();
        }
    }

    fn classify(&mut self) {
        if self.open {
            self.firewall = Firewall::Open;
            return;
        }
        let second = self.addresses.get(1).map_or(0, |(_, hits)| *hits);
        match self.addresses.first().map_or(0, |(_, hits)| *hits) {
            3.. => self.firewall = Firewall::Consistent,
            0 | 1 => self.firewall = Firewall::Random,
            // Two of a kind: one host and two bad samples, two hosts with two each, or too many others.
            2 if self.hosts.len() == 1 && self.sampled > 3 => self.firewall = Firewall::Random,
            2 if self.hosts.len() > 1 && second > 1 => self.firewall = Firewall::Consistent,
            2 if self.sampled > ENOUGH => self.firewall = Firewall::Random,
            2 => {}
        }
        match self.firewall {
            Firewall::Unknown | Firewall::Open => self.told = None,
            Firewall::Random => {
                self.told = self
                    .hosts
                    .first()
                    .map(|(host, _)| vec![SocketAddrV4::new(*host, 0)]);
            }
            Firewall::Consistent => {
                let mut told = Vec::new();
                for (address, hits) in &self.addresses {
                    if *hits >= 2 || told.len() < 2 {
                        told.push(*address);
                    }
                }
                self.told = Some(told);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recorded::{address, cases};

    #[test]
    fn nats_are_classified_as_in_js() {
        for case in cases("nat-classify") {
            let mut class = NatClass::new(!case["dht_firewalled"].as_bool().unwrap());
            for step in case["steps"].as_array().unwrap() {
                class.add(address(&step["observed"]), address(&step["from"]));
                assert_eq!(
                    class.firewall().code(),
                    step["firewall"].as_u64().unwrap(),
                    "{step}"
                );
                assert_eq!(class.sampled() as u64, step["sampled"].as_u64().unwrap());
                let want: Option<Vec<_>> = step["addresses"]
                    .as_array()
                    .map(|list| list.iter().map(address).collect());
                assert_eq!(class.addresses(), want.as_ref(), "{step}");
            }
        }
    }
}
