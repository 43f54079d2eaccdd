//! What a network looks like: sites around one internet.
//!
//! Every site has one public address. Hosts behind a gateway all use the same private network, as homes do.

use std::net::Ipv4Addr;

use serde::Serialize;

use crate::impairment::Link;

/// Public addresses of the internet itself, for bootstrap nodes, relays and clouds.
pub const SERVICES: u8 = 12;

/// Most sites of one topology: one /24 each.
pub(crate) const MAX_SITES: usize = 250;
/// Most hosts of one site.
pub(crate) const MAX_HOSTS: usize = 200;

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
