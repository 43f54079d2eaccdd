//! Finding the largest packet that the path carries (after RFC 8899), by padding ordinary data packets.
//!
//! A packet that was sent can not be cut again, since numbers count packets: so data is sized by what is known to pass,
//! and only the padding of a probe goes beyond it. A lost probe costs its padding, never its data.

use std::net::SocketAddr;

/// Size that every path is taken to carry, IP header included.
pub(crate) const BASE: u16 = 1200;
/// Largest size that is tried: Ethernet.
pub(crate) const MAX: u16 = 1500;
const STEP: u16 = 32;
const TRIES: u8 = 3;
const IPV4_HEADERS: u16 = 20 + 8 + 20;
const IPV6_HEADERS: u16 = 40 + 8 + 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing was acknowledged yet.
    Base,
    /// Trying `probe_size`.
    Search,
    /// Found.
    Complete,
}

#[derive(Debug, Clone)]
pub(crate) struct MtuSearch {
    state: State,
    headers: u16,
    mtu: u16,
    probe_size: u16,
    tries: u8,
    /// A probe should be sent with the next full packet.
    wanted: bool,
}

impl MtuSearch {
    pub(crate) fn new(remote: Option<SocketAddr>) -> Self {
        let headers = if remote.is_some_and(|remote| remote.is_ipv6()) {
            IPV6_HEADERS
        } else {
            IPV4_HEADERS
        };
        Self {
            state: State::Base,
            headers,
            mtu: BASE,
            probe_size: BASE,
            tries: 0,
            wanted: false,
        }
    }

    /// Size of a full IP packet, bytes.
    pub(crate) fn mtu(&self) -> u16 {
        self.mtu
    }

    /// Most payload of one packet, bytes.
    pub(crate) fn payload(&self) -> usize {
        usize::from(self.mtu - self.headers)
    }

    /// The padding that makes a packet of `payload` bytes the wanted probe.
    pub(crate) fn probe_padding(&self, payload: usize) -> Option<u8> {
        if !self.wanted || payload != self.payload() {
            return None;
        }
        u8::try_from(self.probe_size - self.mtu).ok()
    }

    pub(crate) fn on_probe_sent(&mut self) {
        self.wanted = false;
        self.tries += 1;
    }

    /// Any packet was acknowledged; `probe`: one that was padded as a probe.
    pub(crate) fn on_acked(&mut self, probe: bool) {
        match self.state {
            State::Base => {
                self.state = State::Search;
                self.wanted = true;
            }
            State::Search if probe && self.tries > 0 => {
                self.tries = 0;
                self.mtu = self.probe_size;
                if self.mtu >= MAX {
                    self.state = State::Complete;
                } else {
                    self.probe_size = (self.mtu + STEP).min(MAX);
                    self.wanted = true;
                }
            }
            State::Search | State::Complete => {}
        }
    }

    pub(crate) fn on_probe_lost(&mut self) {
        if self.state == State::Search {
            if self.tries >= TRIES {
                self.state = State::Complete;
            } else {
                self.wanted = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe_until_complete(limit: u16) -> (u16, u32) {
        let mut search = MtuSearch::new(None);
        search.on_acked(false);
        let mut probes = 0;
        while let Some(padding) = search.probe_padding(search.payload()) {
            search.on_probe_sent();
            probes += 1;
            if search.mtu() + u16::from(padding) <= limit {
                search.on_acked(true);
            } else {
                search.on_probe_lost();
            }
        }
        (search.mtu(), probes)
    }

    #[test]
    fn the_search_ends_at_the_largest_step_that_passes() {
        assert_eq!(probe_until_complete(1500), (1500, 11));
        assert_eq!(probe_until_complete(1400), (1392, 7 + 3));
        assert_eq!(probe_until_complete(1200), (1200, 1 + 3));
    }

    #[test]
    fn nothing_is_probed_before_the_first_acknowledgement_or_with_a_short_packet() {
        let mut search = MtuSearch::new(None);
        assert_eq!(search.probe_padding(search.payload()), None);
        search.on_acked(false);
        assert_eq!(search.probe_padding(search.payload() - 1), None);
        assert_eq!(search.probe_padding(search.payload()), Some(0));
    }
}
