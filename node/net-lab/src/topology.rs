//! What a network looks like: sites around one internet.
//!
//! Every site has one public address. Hosts behind a gateway all use the same private network, as homes do.

use std::net::Ipv4Addr;

use serde::Serialize;

use crate::impairment::Link;
use crate::parse::ParseError;

/// Public addresses of the internet itself, for bootstrap nodes, relays and clouds.
pub const SERVICES: u8 = 12;

/// Most sites of one topology: one /24 each.
pub(crate) const MAX_SITES: usize = 250;
/// Most hosts of one site.
pub(crate) const MAX_HOSTS: usize = 200;
/// Most public addresses of an open site: what a /24 has beside the router.
pub(crate) const MAX_ADDRESSES: usize = 250;
/// Peers at one open host with a perfect line. They share a thread, and a namespace costs more than a thread.
const OPEN_HOUSEHOLD: usize = 64;
/// Peers that share a NAT's public address, or a line. More on one address would use up what DHT nodes ration by address, and more
/// on one line would measure the line.
const HOUSEHOLD: usize = 16;

/// What is between a site's hosts and the internet. UDP, unless something else is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Nat {
    /// Nothing: the host has the public address, and everybody reaches it.
    Open,
    /// One public port per private one; whoever knows it reaches the host once it has sent anything from there.
    FullCone,
    /// One public port per private one; only hosts that were sent something from there get through.
    Restricted,
    /// One public port per private one; only the very address and port that was sent something gets through.
    PortRestricted,
    /// Another random public port for each destination, and only that destination gets through.
    Symmetric,
    /// UDP does not get through in either direction; TCP goes out.
    UdpBlocked,
    /// As `PortRestricted`, and the hosts of the site do not reach each other, nor each other's public ports.
    Campus,
}

impl Nat {
    /// All kinds.
    pub const ALL: [Self; 7] = [
        Self::Open,
        Self::FullCone,
        Self::Restricted,
        Self::PortRestricted,
        Self::Symmetric,
        Self::UdpBlocked,
        Self::Campus,
    ];

    /// Its name in a topology's text.
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::FullCone => "full-cone",
            Self::Restricted => "restricted",
            Self::PortRestricted => "port-restricted",
            Self::Symmetric => "symmetric",
            Self::UdpBlocked => "udp-blocked",
            Self::Campus => "campus",
        }
    }

    /// What it does, in one line.
    pub fn description(self) -> &'static str {
        match self {
            Self::Open => "a public address: everybody gets in",
            Self::FullCone => "NAT, one port for all; everybody gets in at a port that was used",
            Self::Restricted => "NAT, one port for all; hosts that were written to get in",
            Self::PortRestricted => "NAT, one port for all; addresses and ports that were written to get in",
            Self::Symmetric => "NAT, a random port for each destination, which alone gets in",
            Self::UdpBlocked => "NAT, no UDP at all; TCP goes out",
            Self::Campus => "as port-restricted, and hosts of the site don't reach each other",
        }
    }

    pub(crate) fn has_gateway(self) -> bool {
        self != Self::Open
    }
}

/// A network with one public address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// What is between its hosts and the internet.
    pub nat: Nat,
    /// Its connection to the internet.
    pub link: Link,
    /// How many hosts it has. An open site has one.
    pub hosts: usize,
    /// Public addresses of an open site's host, the first of them its own; at most 250. Every other site has one.
    pub addresses: usize,
}

impl Site {
    /// A site with one host and one public address.
    pub fn new(nat: Nat, link: Link) -> Self {
        Self {
            nat,
            link,
            hosts: 1,
            addresses: 1,
        }
    }
}

/// Where some of many peers are: all at one host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Household {
    /// Which site's first host.
    pub site: usize,
    /// How many they are. At an open site each has a public address of its own.
    pub peers: usize,
}

/// Sites around one internet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    /// The sites.
    pub sites: Vec<Site>,
    /// Decides what the impairments do.
    pub seed: u64,
}

impl Topology {
    /// The public address of a site.
    pub fn public_address(site: usize) -> Ipv4Addr {
        Ipv4Addr::new(45, 64, octet(site), 2)
    }

    /// One of the public addresses of an open site's host, `0..`[`Site::addresses`]; the first is [`Topology::public_address`].
    pub fn address_of_open(site: usize, index: usize) -> Ipv4Addr {
        Ipv4Addr::new(45, 64, octet(site), octet(index).saturating_add(2))
    }

    /// Adds sites for so many peers, spread evenly over these kinds of sites, of which only NAT and line matter. Each site has one
    /// host; neighbours are like programs on one machine.
    ///
    /// # Errors
    /// [`ParseError::TooManySites`], and [`ParseError::NoUdp`] for a kind behind which there can be no peer.
    pub fn add_peers(&mut self, peers: usize, kinds: &[Site]) -> Result<Vec<Household>, ParseError> {
        let mut households = Vec::new();
        for (index, kind) in kinds.iter().enumerate() {
            if kind.nat == Nat::UdpBlocked {
                return Err(ParseError::NoUdp);
            }
            let most = if kind.nat == Nat::Open && kind.link.is_perfect() {
                OPEN_HOUSEHOLD
            } else {
                HOUSEHOLD
            };
            let mut left = peers / kinds.len() + usize::from(index < peers % kinds.len());
            while left > 0 {
                if self.sites.len() >= MAX_SITES {
                    return Err(ParseError::TooManySites);
                }
                let here = left.min(most);
                left -= here;
                households.push(Household {
                    site: self.sites.len(),
                    peers: here,
                });
                let addresses = if kind.nat == Nat::Open { here } else { 1 };
                self.sites.push(Site {
                    addresses,
                    ..Site::new(kind.nat, kind.link)
                });
            }
        }
        Ok(households)
    }

    /// The far end of a site's line.
    pub(crate) fn router_address(site: usize) -> Ipv4Addr {
        Ipv4Addr::new(45, 64, octet(site), 1)
    }

    /// A public address of the internet, `0..`[`SERVICES`].
    pub fn service_address(service: u8) -> Ipv4Addr {
        Ipv4Addr::new(45, 32, service, 1)
    }

    /// The address that a host has itself: the public one at an open site.
    pub fn host_address(&self, site: usize, host: usize) -> Ipv4Addr {
        match self.sites.get(site) {
            Some(Site { nat: Nat::Open, .. }) => Self::public_address(site),
            _ => Ipv4Addr::new(192, 168, 1, octet(host).saturating_add(10)),
        }
    }
}

/// Counts are checked when a plan is made.
fn octet(number: usize) -> u8 {
    u8::try_from(number).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Vec<Site> {
        Topology::parse_kinds(text).unwrap()
    }

    #[test]
    fn peers_are_spread_evenly_and_each_open_one_has_an_address_of_its_own() {
        let mut topology = Topology::parse("open:symmetric", 1).unwrap();
        let households = topology
            .add_peers(201, &kinds("open:port-restricted:open+lossy"))
            .unwrap();
        let mut of_kind = [0; 3];
        for household in &households {
            let site = &topology.sites[household.site];
            let kind = usize::from(site.nat != Nat::Open) + 2 * usize::from(!site.link.is_perfect());
            of_kind[kind] += household.peers;
            let (most, addresses) = match kind {
                0 => (OPEN_HOUSEHOLD, household.peers),
                1 => (HOUSEHOLD, 1),
                _ => (HOUSEHOLD, household.peers),
            };
            assert!(household.peers <= most && site.addresses == addresses, "{site:?}");
        }
        assert_eq!(of_kind, [67, 67, 67]);
        assert_eq!(topology.sites.len(), 2 + households.len());
        assert_eq!(
            topology.sites[..2],
            Topology::parse("open:symmetric", 1).unwrap().sites
        );
    }

    #[test]
    fn where_no_udp_gets_through_or_no_site_is_left_there_are_no_peers() {
        let mut topology = Topology::parse("open:open", 1).unwrap();
        let refused = topology.add_peers(1, &kinds("udp-blocked"));
        assert_eq!(refused, Err(ParseError::NoUdp));
        let refused = topology.add_peers(16 * MAX_SITES, &kinds("symmetric"));
        assert_eq!(refused, Err(ParseError::TooManySites));
    }
}
