//! Packet filter rules, as `nft` reads them.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use crate::topology::{MAX_ADDRESSES, Nat, SERVICES, Topology};

/// Rules of a site's gateway, whose interfaces are `lan` and `wan`.
///
/// What is not let in is dropped before the connection tracker keeps it: an early packet of a peer must not take the port
/// that a later one of ours would be given.
pub(crate) fn gateway(nat: Nat) -> String {
    let keeps_ports = matches!(nat, Nat::FullCone | Nat::Restricted);
    let mut sets = String::new();
    let mut forward = String::new();
    if keeps_ports {
        sets +=
            "  map cone { type inet_service : ipv4_addr; flags dynamic,timeout; timeout 5m; size 65535; }\n";
        forward +=
            "    iifname \"lan\" oifname \"wan\" meta l4proto udp update @cone { udp sport : ip saddr }\n";
    }
    if nat == Nat::Restricted {
        sets +=
            "  set met { type ipv4_addr . inet_service; flags dynamic,timeout; timeout 5m; size 65535; }\n";
        forward +=
            "    iifname \"lan\" oifname \"wan\" meta l4proto udp update @met { ip daddr . udp sport }\n";
    }
    if nat == Nat::UdpBlocked {
        forward += "    oifname \"wan\" meta l4proto udp drop\n    iifname \"wan\" meta l4proto udp drop\n";
    }
    // Frames between hosts of the site pass here as well where the kernel shows bridged frames to the packet filter.
    forward += "    iifname \"lan\" oifname \"lan\" accept\n";
    forward += "    iifname \"lan\" oifname \"wan\" accept\n";
    forward += "    iifname \"wan\" oifname \"lan\" ct state established,related accept\n";
    match nat {
        Nat::FullCone => forward += "    iifname \"wan\" oifname \"lan\" ct status dnat accept\n",
        Nat::Restricted => {
            forward +=
                "    iifname \"wan\" oifname \"lan\" ct status dnat ip saddr . udp dport @met accept\n";
        }
        _ => {}
    }
    let inbound = if keeps_ports {
        "  chain inbound { type nat hook prerouting priority dstnat; iifname \"wan\" meta l4proto udp dnat to udp dport map @cone; }\n"
    } else {
        ""
    };
    let masquerade = if nat == Nat::Symmetric {
        "meta l4proto udp masquerade fully-random; oifname \"wan\" masquerade"
    } else {
        "masquerade"
    };
    format!(
        "table ip lab {{\n{sets}  chain forward {{\n    type filter hook forward priority filter; policy drop;\n{forward}  }}\n  \
         chain input {{\n    type filter hook input priority filter; policy drop;\n    iifname \"lo\" accept\n    \
         ct state established,related accept\n    meta l4proto icmp accept\n  }}\n{inbound}  \
         chain outbound {{ type nat hook postrouting priority srcnat; oifname \"wan\" {masquerade}; }}\n}}\n"
    )
}

/// Counters of what a host receives: from each other site, from the internet's services, and from its own network.
pub(crate) fn host(topology: &Topology, site: usize) -> String {
    let mut counters = String::new();
    let mut rules = String::new();
    let mut count = |name: &str, from: &str| {
        let _ = writeln!(counters, "  counter {name} {{ }}");
        let _ = writeln!(rules, "    ip saddr {from} counter name {name}");
    };
    for other in 0..topology.sites.len() {
        if other != site {
            count(&site_counter(other), &addresses(topology, other));
        }
    }
    count(SERVICES_COUNTER, &services());
    count(NEIGHBOURS_COUNTER, "192.168.1.0/24");
    format!(
        "table ip lab {{\n{counters}  chain input {{\n    type filter hook input priority filter; policy accept;\n{rules}  }}\n}}\n"
    )
}

/// What came from the services.
pub(crate) const SERVICES_COUNTER: &str = "services";
/// What came from the host's own network.
pub(crate) const NEIGHBOURS_COUNTER: &str = "neighbours";

/// What came from a site.
pub(crate) fn site_counter(site: usize) -> String {
    format!("site{site}")
}

/// A site's public addresses.
fn addresses(topology: &Topology, site: usize) -> String {
    let first = Topology::public_address(site);
    match topology.sites[site].addresses.min(MAX_ADDRESSES) {
        0 | 1 => first.to_string(),
        several => format!("{first}-{}", Topology::address_of_open(site, several - 1)),
    }
}

/// The services' addresses, as a set.
fn services() -> String {
    let all: Vec<String> = (0..SERVICES)
        .map(Topology::service_address)
        .map(|address: Ipv4Addr| address.to_string())
        .collect();
    format!("{{ {} }}", all.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_symmetric_nat_draws_ports_and_only_the_cones_let_strangers_in() {
        for nat in Nat::ALL.into_iter().filter(|nat| nat.has_gateway()) {
            let rules = gateway(nat);
            assert_eq!(rules.contains("fully-random"), nat == Nat::Symmetric, "{nat:?}");
            assert_eq!(
                rules.contains("dnat"),
                matches!(nat, Nat::FullCone | Nat::Restricted),
                "{nat:?}"
            );
            assert_eq!(rules.contains("udp drop"), nat == Nat::UdpBlocked, "{nat:?}");
            assert_eq!(rules.matches('{').count(), rules.matches('}').count());
        }
    }
}
