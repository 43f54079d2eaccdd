//! From a topology to the steps that build it. Nothing is done here.
//!
//! | namespace | what is in it |
//! |---|---|
//! | `…-net` | the internet: a router with one line per site, and the services' addresses on `lo` |
//! | `…-g0` | the gateway of site 0: `wan`, and `lan`, a bridge |
//! | `…-s0h0` | host 0 of site 0: `eth0` |
//! | `…-w0` | the wire of site 0, if its link is impaired: `near` (the site) and `far` (the internet), joined by a forwarder |

use crate::PREFIX;
use crate::rules;
use crate::topology::{MAX_ADDRESSES, MAX_HOSTS, MAX_SITES, Nat, SERVICES, Topology};

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// `ip netns add`.
    Namespace(String),
    /// One command of `ip` inside a namespace (`ip -n <namespace> <arguments>`).
    Ip {
        /// Where.
        namespace: String,
        /// Without the program's name.
        arguments: String,
    },
    /// A setting of the kernel for a namespace, below `/proc/sys/net/`.
    Setting {
        /// Where.
        namespace: String,
        /// The file.
        path: &'static str,
        /// What to write.
        value: &'static str,
    },
    /// Rules for `nft -f -` inside a namespace.
    Rules {
        /// Where.
        namespace: String,
        /// The rules.
        rules: String,
    },
}

/// Two interfaces to join by a forwarder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wire {
    /// Of which site.
    pub site: usize,
    /// Where its interfaces `near` (towards the site) and `far` are.
    pub namespace: String,
}

/// All that is to be done for a topology.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// In this order.
    pub steps: Vec<Step>,
    /// Afterwards.
    pub wires: Vec<Wire>,
    name: String,
}

impl Plan {
    /// The internet's namespace.
    pub fn internet(&self) -> String {
        format!("{}-net", self.name)
    }

    /// A host's namespace.
    pub fn host(&self, site: usize, host: usize) -> String {
        format!("{}-s{site}h{host}", self.name)
    }

    /// All namespaces, in the order they are made.
    pub fn namespaces(&self) -> impl Iterator<Item = &str> {
        self.steps.iter().filter_map(|step| match step {
            Step::Namespace(name) => Some(name.as_str()),
            _ => None,
        })
    }

    fn namespace(&mut self, name: &str, forwards: bool) {
        self.steps.push(Step::Namespace(name.to_owned()));
        let mut set = |path, value| {
            self.steps.push(Step::Setting {
                namespace: name.to_owned(),
                path,
                value,
            });
        };
        for path in ["ipv6/conf/all/disable_ipv6", "ipv6/conf/default/disable_ipv6"] {
            set(path, "1");
        }
        for path in ["ipv4/conf/all/rp_filter", "ipv4/conf/default/rp_filter"] {
            set(path, "0");
        }
        if forwards {
            set("ipv4/ip_forward", "1");
        }
        self.ip(name, "link set lo up");
    }

    fn ip(&mut self, namespace: &str, arguments: impl Into<String>) {
        self.steps.push(Step::Ip {
            namespace: namespace.to_owned(),
            arguments: arguments.into(),
        });
    }

    fn rules(&mut self, namespace: &str, rules: String) {
        self.steps.push(Step::Rules {
            namespace: namespace.to_owned(),
            rules,
        });
    }

    /// Gives `interface` of `edge` (a gateway, or an open host) a line to the internet, through a wire if it is impaired.
    fn line(&mut self, topology: &Topology, site: usize, (edge, interface): (&str, &str)) {
        let (internet, far) = (self.internet(), format!("s{site}"));
        if topology.sites[site].link.is_perfect() {
            let pair = format!("link add {interface} type veth peer name {far} netns {internet}");
            self.ip(edge, pair);
        } else {
            let wire = format!("{}-w{site}", self.name);
            self.namespace(&wire, false);
            self.ip(
                &wire,
                format!("link add near type veth peer name {interface} netns {edge}"),
            );
            self.ip(
                &wire,
                format!("link add far type veth peer name {far} netns {internet}"),
            );
            for end in ["near", "far"] {
                self.ip(&wire, format!("link set {end} up"));
            }
            // What a forwarder reads must fit what it may write.
            self.ip(edge, format!("link set {interface} gso_max_segs 1"));
            self.ip(&internet, format!("link set {far} gso_max_segs 1"));
            self.wires.push(Wire {
                site,
                namespace: wire,
            });
        }
        let (near_address, far_address) = (Topology::public_address(site), Topology::router_address(site));
        self.ip(edge, format!("address add {near_address}/24 dev {interface}"));
        self.ip(edge, format!("link set {interface} up"));
        self.ip(&internet, format!("address add {far_address}/24 dev {far}"));
        self.ip(&internet, format!("link set {far} up"));
        self.ip(edge, format!("route add default via {far_address}"));
    }

    fn open_site(&mut self, topology: &Topology, site: usize) {
        let host = self.host(site, 0);
        self.namespace(&host, false);
        self.line(topology, site, (&host, "eth0"));
        for index in 1..topology.sites[site].addresses.min(MAX_ADDRESSES) {
            let address = Topology::address_of_open(site, index);
            self.ip(&host, format!("address add {address}/24 dev eth0"));
        }
        self.rules(&host, rules::host(topology, site));
    }

    fn gateway_site(&mut self, topology: &Topology, site: usize) {
        let gateway = format!("{}-g{site}", self.name);
        let nat = topology.sites[site].nat;
        self.namespace(&gateway, true);
        self.ip(&gateway, "link add lan type bridge");
        self.ip(&gateway, "address add 192.168.1.1/24 dev lan");
        self.ip(&gateway, "link set lan up");
        self.line(topology, site, (&gateway, "wan"));
        self.rules(&gateway, rules::gateway(nat));
        for host in 0..topology.sites[site].hosts.min(MAX_HOSTS) {
            let name = self.host(site, host);
            self.namespace(&name, false);
            self.ip(
                &name,
                format!("link add eth0 type veth peer name h{host} netns {gateway}"),
            );
            self.ip(&gateway, format!("link set h{host} master lan up"));
            if nat == Nat::Campus {
                self.ip(
                    &gateway,
                    format!("link set h{host} type bridge_slave isolated on"),
                );
            }
            let address = topology.host_address(site, host);
            self.ip(&name, format!("address add {address}/24 dev eth0"));
            self.ip(&name, "link set eth0 up");
            self.ip(&name, "route add default via 192.168.1.1");
            self.rules(&name, rules::host(topology, site));
        }
    }
}

impl Topology {
    /// What is to be done to have this network, in namespaces named after the process and a number that is unique in it. At most
    /// 250 sites of 200 hosts; those beyond are left out.
    pub fn plan(&self, process: u32, number: u32) -> Plan {
        let mut plan = Plan {
            steps: Vec::new(),
            wires: Vec::new(),
            name: format!("{PREFIX}{process}n{number}"),
        };
        let internet = plan.internet();
        plan.namespace(&internet, true);
        for service in 0..SERVICES {
            let address = Self::service_address(service);
            plan.ip(&internet, format!("address add {address}/32 dev lo"));
        }
        for site in 0..self.sites.len().min(MAX_SITES) {
            if self.sites[site].nat.has_gateway() {
                plan.gateway_site(self, site);
            } else {
                plan.open_site(self, site);
            }
        }
        plan
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_happens_in_a_namespace_that_was_made_before_and_none_on_the_host() {
        let topology = Topology::parse("open:full-cone:symmetric+satellite:campus:udp-blocked", 1).unwrap();
        let plan = topology.plan(42, 3);
        let mut made = Vec::new();
        for step in &plan.steps {
            let used = match step {
                Step::Namespace(name) => {
                    assert!(
                        name.starts_with("cumulab42n3-") && !made.contains(&name),
                        "{name}"
                    );
                    made.push(name);
                    continue;
                }
                Step::Ip { namespace, arguments } => {
                    if let Some((_, peer)) = arguments.split_once(" netns ") {
                        assert!(made.iter().any(|name| *name == peer), "{arguments}");
                    }
                    namespace
                }
                Step::Setting { namespace, .. } | Step::Rules { namespace, .. } => namespace,
            };
            assert!(made.contains(&used), "{step:?}");
        }
        assert_eq!(made.len(), plan.namespaces().count());
        assert!(made.contains(&&plan.host(4, 0)) && made.contains(&&plan.internet()));
    }

    #[test]
    fn only_an_impaired_link_has_a_wire() {
        let topology = Topology::parse("open+lossy:full-cone", 1).unwrap();
        let wires = topology.plan(1, 1).wires;
        assert_eq!(wires.len(), 1);
        assert_eq!((wires[0].site, wires[0].namespace.as_str()), (0, "cumulab1n1-w0"));
    }

    #[test]
    fn hosts_are_isolated_on_a_campus_and_nowhere_else() {
        for (text, isolated) in [("campus", 2), ("port-restricted", 0)] {
            let plan = Topology::parse(text, 1).unwrap().plan(1, 1);
            let count = plan.steps.iter().filter(
                |step| matches!(step, Step::Ip { arguments, .. } if arguments.contains("isolated on")),
            );
            assert_eq!(count.count(), isolated, "{text}");
        }
    }
}
