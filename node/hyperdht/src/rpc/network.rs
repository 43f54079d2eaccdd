//! Joining the network and staying in it: bootstrap, the periodic tick, and the test whether our server socket can
//! be reached from outside.

use std::net::SocketAddrV4;
use std::time::Instant;

use bytes::Bytes;

use super::nat::NatSampler;
use super::query::QuerySpec;
use super::{
    Ask, FIND_NODE, Hash, K, MORE_STABLE_TICKS, OLD_NODE, Owner, PING_NAT, QueryId, RECENT_NODE,
    REFRESH_TICKS, Reply, Rpc, RpcEvent, SLEEPING, STABLE_TICKS, SocketId, TICK,
};
use crate::address::node_id;

/// Nodes asked whether they reach us.
const NETWORK_CHECK_NODES: usize = 5;

/// Passes of bootstrap: one from the client socket and, once found reachable, one from the server socket.
const PASSES: u32 = 2;

/// How far joining has come.
#[derive(Debug)]
pub(super) enum Bootstrap {
    NotStarted,
    /// A FIND_NODE query for our own id runs.
    Pass {
        number: u32,
        query: QueryId,
        /// The first reply was used to ask whether our server port is open.
        asked_quick: bool,
        /// And it is, so the full test is worth its time.
        quick_ok: bool,
    },
    /// The full test runs.
    Checking {
        number: u32,
    },
    Done,
}

/// The test whether strangers reach our server socket.
#[derive(Debug)]
pub(super) struct NetworkCheck {
    only_firewall: bool,
    asked: usize,
    pending: usize,
    /// Answers that arrived on the server socket.
    reached: usize,
    sampler: NatSampler,
    /// What we believed when the test began.
    before: (Option<std::net::Ipv4Addr>, u16),
}

impl Rpc {
    /// Nodes to ask when the table knows too few. They may be replaced at any time.
    pub(crate) fn set_bootstrap_nodes(&mut self, nodes: Vec<SocketAddrV4>) {
        self.bootstrap_nodes = nodes;
    }

    /// Joins the network; [`RpcEvent::Bootstrapped`] follows, also when nobody answers. May be called again, for as long
    /// as no node is known.
    pub(crate) fn bootstrap(&mut self, now: Instant) {
        let again = matches!(self.bootstrap, Bootstrap::Done) && self.table.len() == 0;
        if again || matches!(self.bootstrap, Bootstrap::NotStarted) {
            self.start_pass(now, 1);
        }
    }

    fn start_pass(&mut self, now: Instant, number: u32) {
        let query = self.allocate_query();
        self.bootstrap = Bootstrap::Pass {
            number,
            query,
            asked_quick: false,
            quick_ok: false,
        };
        let target = *self.table.id();
        self.start_background(now, query, target);
    }

    /// Looks for nodes near a random known one, so that the table stays full.
    pub(crate) fn refresh(&mut self, now: Instant) {
        let position = self.entropy.below(self.table.len().max(1));
        let target = self
            .table
            .oldest()
            .nth(position)
            .map_or(*self.table.id(), |node| node.id);
        let query = self.allocate_query();
        self.start_background(now, query, target);
    }

    fn start_background(&mut self, now: Instant, query: QueryId, target: Hash) {
        self.refresh_in = REFRESH_TICKS;
        self.background.push(query);
        let spec = QuerySpec {
            internal: true,
            concurrency: 2,
            ..QuerySpec::new(target, FIND_NODE)
        };
        self.start_query(now, query, spec);
    }

    pub(super) fn on_background_reply(&mut self, now: Instant, id: QueryId, reply: &Reply) {
        let wanted = self.firewalled && self.config.firewalled.is_none() && !self.forced_persistent();
        if let Bootstrap::Pass {
            query, asked_quick, ..
        } = &mut self.bootstrap
            && *query == id
            && !*asked_quick
            && wanted
        {
            *asked_quick = true;
            let ask = self.ping_nat(reply.from);
            self.send(now, ask, None, Owner::QuickNat);
        }
    }

    pub(super) fn on_quick_nat(&mut self, _now: Instant, socket: SocketId) {
        if let Bootstrap::Pass { quick_ok, .. } = &mut self.bootstrap {
            *quick_ok = socket == SocketId::SERVER;
        }
    }

    pub(super) fn on_background_done(&mut self, now: Instant, id: QueryId) {
        let Bootstrap::Pass {
            number,
            query,
            quick_ok,
            ..
        } = self.bootstrap
        else {
            return;
        };
        if query != id {
            return;
        }
        if number >= PASSES || !(quick_ok || self.forced_persistent()) {
            self.finish_bootstrap();
            return;
        }
        self.bootstrap = Bootstrap::Checking { number };
        self.start_network_check(now, !self.forced_persistent());
    }

    fn finish_bootstrap(&mut self) {
        self.last_host = self.nat.host();
        self.bootstrap = Bootstrap::Done;
        self.events.push_back(RpcEvent::Bootstrapped);
    }

    fn forced_persistent(&self) -> bool {
        self.config.ephemeral == Some(false)
    }

    fn ping_nat(&self, to: SocketAddrV4) -> Ask {
        let value = Bytes::copy_from_slice(&self.config.server_port.to_le_bytes());
        Ask {
            internal: true,
            value: Some(value),
            ..Ask::new(to, PING_NAT)
        }
    }

    /// Tests reachability; `only_firewall` leaves the node ephemeral whatever comes out.
    fn start_network_check(&mut self, now: Instant, only_firewall: bool) {
        let (host, port) = (self.nat.host(), self.nat.port());
        if !only_firewall {
            self.stable_in = MORE_STABLE_TICKS;
            self.last_host = host;
        }
        let pointless = !self.ephemeral || (only_firewall && !self.firewalled) || host.is_none() || port == 0;
        if pointless || self.network_check.is_some() {
            self.after_network_check(now, false);
            return;
        }
        let must_ask = self.firewalled;
        let sampler = if must_ask {
            NatSampler::default()
        } else {
            self.nat.clone()
        };
        let mut nodes: Vec<SocketAddrV4> = Vec::new();
        if must_ask && self.config.firewalled.is_none() {
            nodes = self.latest_nodes().take(NETWORK_CHECK_NODES).collect();
            if nodes.len() < NETWORK_CHECK_NODES {
                nodes.extend(
                    self.bootstrap_nodes
                        .iter()
                        .filter(|b| !nodes.contains(b))
                        .copied()
                        .collect::<Vec<_>>(),
                );
            }
        }
        let asked = nodes.len();
        self.network_check = Some(NetworkCheck {
            only_firewall,
            asked,
            pending: asked,
            reached: 0,
            sampler,
            before: (host, port),
        });
        if asked == 0 {
            self.judge_network(now);
            return;
        }
        for node in nodes {
            let ask = self.ping_nat(node);
            self.send(now, ask, None, Owner::NetworkCheck);
        }
    }

    pub(super) fn on_network_pong(&mut self, now: Instant, reply: Option<&Reply>) {
        let Some(check) = &mut self.network_check else {
            return;
        };
        check.pending = check.pending.saturating_sub(1);
        if let Some(reply) = reply.filter(|reply| reply.socket == SocketId::SERVER) {
            check.reached += 1;
            check.sampler.add(reply.to);
        }
        if check.pending == 0 {
            self.judge_network(now);
        }
    }

    fn judge_network(&mut self, now: Instant) {
        let Some(check) = self.network_check.take() else {
            return;
        };
        if self.firewalled {
            let enough = if check.asked >= NETWORK_CHECK_NODES { 3 } else { 1 };
            let same_host = check.sampler.host().is_some() && check.sampler.host() == self.nat.host();
            let open =
                check.reached >= enough && same_host && check.sampler.port() == self.config.server_port;
            if !open {
                self.after_network_check(now, false);
                return;
            }
            self.firewalled = false;
        }
        let (host, port) = check.before;
        let changed = (host, port) != (self.nat.host(), self.nat.port());
        let (Some(sampled), sampled_port) = (check.sampler.host(), check.sampler.port()) else {
            self.after_network_check(now, false);
            return;
        };
        if !self.ephemeral || changed || Some(sampled) != host || sampled_port == 0 {
            self.after_network_check(now, false);
            return;
        }
        if !check.only_firewall {
            self.ephemeral = false;
        }
        self.idless_samples.clear();
        self.nat = check.sampler;
        let id = node_id(SocketAddrV4::new(sampled, sampled_port));
        if id != *self.table.id() {
            self.table = self.table.rebuilt(id);
            if self.is_bootstrapped() {
                self.refresh(now);
            }
        }
        self.after_network_check(now, true);
    }

    fn after_network_check(&mut self, now: Instant, passed: bool) {
        let Bootstrap::Checking { number } = self.bootstrap else {
            return;
        };
        if passed {
            self.start_pass(now, number + 1);
        } else {
            self.finish_bootstrap();
        }
    }

    pub(super) fn on_tick(&mut self, now: Instant) {
        if now.duration_since(self.tick_at) > SLEEPING {
            self.on_wakeup();
        } else {
            self.tick += 1;
        }
        self.tick_at = now + TICK;
        self.down_hints = 0;
        if !self.is_bootstrapped() {
            return;
        }
        self.reconsider_persistence(now);
        if self.tick.is_multiple_of(8) {
            self.ping_some(now);
        }
        self.refresh_in = self.refresh_in.saturating_sub(1);
        if self.refresh_in == 0 || (self.tick.is_multiple_of(64) && self.table.len() < K) {
            self.refresh(now);
        }
    }

    fn reconsider_persistence(&mut self, now: Instant) {
        // A node told to be persistent tries again soon: perhaps the network was not there when it started.
        let waits = match self.config.ephemeral {
            Some(true) => return,
            Some(false) => self.ephemeral && self.nat.host().is_some() && self.nat.port() != 0,
            None => false,
        };
        if waits {
            self.start_network_check(now, false);
            return;
        }
        if !self.ephemeral {
            return;
        }
        self.stable_in = self.stable_in.saturating_sub(1);
        if self.stable_in == 0 {
            self.stable_in = MORE_STABLE_TICKS;
            if self.last_host != self.nat.host() {
                self.start_network_check(now, false);
            }
        }
    }

    fn on_wakeup(&mut self) {
        // Everything looks old now; pings follow in two ticks, a refresh in the next.
        self.tick += 2 * OLD_NODE;
        self.tick = self.tick + 6 - (self.tick & 7);
        self.stable_in = STABLE_TICKS.max(MORE_STABLE_TICKS);
        self.refresh_in = 1;
        self.last_host = None;
        if self.config.ephemeral.is_none() {
            self.ephemeral = true;
        }
    }

    fn ping_some(&mut self, now: Instant) {
        let tick = self.tick;
        let Some(oldest) = self.table.oldest().next() else {
            self.refresh(now);
            return;
        };
        let count = match () {
            () if tick - oldest.pinged < RECENT_NODE => 2,
            () if self.inflight.len() > 2 => 3,
            () => 5,
        };
        let stale: Vec<Hash> = self
            .table
            .oldest()
            .take(count)
            .filter(|node| node.pinged != tick)
            .map(|node| node.id)
            .collect();
        for id in stale {
            self.check(now, &id);
        }
    }
}
