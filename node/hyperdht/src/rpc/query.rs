//! One iterative query: walk towards a target, keep the 20 closest that answered.
//!
//! Pure: it says whom to visit and is told what came of it. Addresses are visited once. Behaviour is that of
//! dht-rpc 6.27 `lib/query.js`; what a caller does with the closest nodes afterwards (the commit) is the caller's.

use std::collections::HashMap;
use std::net::SocketAddrV4;

use super::{Reply, table::K};
use crate::Hash;
use crate::address::node_id;

/// Requests at a time.
pub(crate) const CONCURRENCY: usize = 10;

/// Requests at a time while a query started from remembered nodes waits for its first answers.
const CONCURRENCY_SLOW: usize = 3;

/// Most addresses one query remembers. Honest walks end after a few hundred.
const MAX_SEEN: usize = 4_096;

/// What to ask, and how.
#[derive(Debug, Clone)]
pub(crate) struct QuerySpec {
    pub(crate) target: Hash,
    pub(crate) internal: bool,
    pub(crate) command: u64,
    pub(crate) value: Option<bytes::Bytes>,
    /// Start here instead of at the routing table.
    pub(crate) nodes: Vec<SocketAddrV4>,
    /// Ask only `nodes`, follow no referrals.
    pub(crate) only_nodes: bool,
    pub(crate) concurrency: usize,
    pub(crate) retries: u32,
}

impl QuerySpec {
    pub(crate) fn new(target: Hash, command: u64) -> Self {
        Self {
            target,
            internal: false,
            command,
            value: None,
            nodes: Vec::new(),
            only_nodes: false,
            concurrency: CONCURRENCY,
            retries: 5,
        }
    }
}

#[derive(Debug)]
enum Seen {
    /// Told of by these nodes; asked, or about to be.
    Pending(Vec<SocketAddrV4>),
    Done,
    Down,
}

/// What a query wants done.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    pub(crate) visit: Vec<SocketAddrV4>,
    /// Tell the first that the second does not answer.
    pub(crate) down_hints: Vec<(SocketAddrV4, SocketAddrV4)>,
    /// The query would like the routing table's closest nodes, given through [`Query::add_from_table`].
    pub(crate) wants_table: bool,
    pub(crate) done: bool,
}

#[derive(Debug)]
pub(crate) struct Query {
    pub(crate) spec: QuerySpec,
    own_id: Hash,
    seen: HashMap<SocketAddrV4, Seen>,
    pending: Vec<SocketAddrV4>,
    closest: Vec<(Hash, Reply)>,
    inflight: usize,
    slow: Vec<SocketAddrV4>,
    slowed_down: bool,
    from_table: bool,
    successes: usize,
    errors: usize,
}

impl Query {
    pub(crate) fn new(spec: QuerySpec, own_id: Hash) -> Self {
        let mut query = Self {
            own_id,
            seen: HashMap::new(),
            pending: Vec::new(),
            closest: Vec::new(),
            inflight: 0,
            slow: Vec::new(),
            slowed_down: false,
            from_table: false,
            successes: 0,
            errors: 0,
            spec,
        };
        let nodes = std::mem::take(&mut query.spec.nodes);
        // Visited from the back: the first node given is asked first.
        for node in nodes.into_iter().rev() {
            query.add_pending(node, None);
        }
        query
    }

    /// How many more nodes the query could use from the table before it starts.
    pub(crate) fn room(&self) -> usize {
        if self.spec.only_nodes {
            0
        } else {
            K.saturating_sub(self.pending.len())
        }
    }

    /// Adds nodes of the routing table (closest first) or bootstrap nodes; they are asked after those added before.
    pub(crate) fn add_from_table(&mut self, nodes: &[SocketAddrV4]) {
        self.from_table = true;
        let before = std::mem::take(&mut self.pending);
        for node in nodes.iter().rev() {
            self.add_pending(*node, None);
        }
        self.pending.extend(before);
    }

    pub(crate) fn closest_replies(self) -> Vec<Reply> {
        self.closest.into_iter().map(|(_, reply)| reply).collect()
    }

    fn distance(&self, id: &Hash) -> Hash {
        let mut distance = self.spec.target;
        distance.iter_mut().zip(id).for_each(|(a, b)| *a ^= b);
        distance
    }

    fn is_closer(&self, id: &Hash) -> bool {
        self.closest.len() < K
            || self
                .closest
                .last()
                .is_some_and(|(last, _)| self.distance(id) < self.distance(last))
    }

    /// False when the node is not interesting, or no longer.
    fn add_pending(&mut self, node: SocketAddrV4, referrer: Option<SocketAddrV4>) -> bool {
        if node.port() == 0 {
            return true;
        }
        let closer = self.is_closer(&node_id(node));
        let full = self.seen.len() >= MAX_SEEN;
        match self.seen.get_mut(&node) {
            Some(Seen::Pending(referrers)) => {
                if referrers.len() < K {
                    referrers.extend(referrer);
                }
                closer
            }
            Some(Seen::Done | Seen::Down) => closer,
            None if !closer || full => false,
            None => {
                self.seen
                    .insert(node, Seen::Pending(referrer.into_iter().collect()));
                self.pending.push(node);
                true
            }
        }
    }

    /// Visits what may be visited now. Call after every change.
    pub(crate) fn advance(&mut self) -> Steps {
        let mut steps = Steps::default();
        let concurrency = if self.slowed_down {
            CONCURRENCY_SLOW
        } else {
            self.spec.concurrency
        };
        while self.inflight < concurrency + self.slow.len() {
            let Some(next) = self.pending.pop() else { break };
            if !self.is_closer(&node_id(next)) {
                continue;
            }
            self.inflight += 1;
            steps.visit.push(next);
        }
        // Give remembered nodes a chance to answer before going broad.
        if !self.from_table && self.successes == 0 && self.errors == 0 {
            self.slowed_down = true;
        }
        if !self.pending.is_empty() {
            return steps;
        }
        let only_slow = self.slow.len() == self.inflight && self.closest.len() >= K;
        if self.inflight == 0 || only_slow {
            if !self.from_table && !self.spec.only_nodes && self.successes < K / 4 {
                self.from_table = true;
                steps.wants_table = true;
            } else {
                steps.done = true;
            }
        }
        steps
    }

    fn settled(&mut self, node: SocketAddrV4) {
        self.inflight = self.inflight.saturating_sub(1);
        self.slow.retain(|slow| *slow != node);
    }

    /// A visited node answered. Returns down hints for nodes it told of that are known to be down.
    pub(crate) fn on_reply(&mut self, reply: &Reply) -> Steps {
        let mut hints = Vec::new();
        self.settled(reply.from);
        self.seen.insert(reply.from, Seen::Done);
        if reply.error == 0 {
            self.successes += 1;
            if let Some(id) = reply.from_id.filter(|id| self.is_closer(id)) {
                self.keep(id, reply.clone());
            }
        } else {
            self.errors += 1;
        }
        for node in &reply.closer_nodes {
            if node_id(*node) == self.own_id {
                continue;
            }
            if self.spec.only_nodes {
                break;
            }
            if matches!(self.seen.get(node), Some(Seen::Down)) {
                hints.push((reply.from, *node));
            }
            if !self.add_pending(*node, Some(reply.from)) {
                break;
            }
        }
        if !self.from_table && self.successes + self.errors >= self.spec.concurrency {
            self.slowed_down = false;
        }
        let mut steps = self.advance();
        steps.down_hints = hints;
        steps
    }

    fn keep(&mut self, id: Hash, reply: Reply) {
        let distance = self.distance(&id);
        let position = self
            .closest
            .partition_point(|(known, _)| self.distance(known) < distance);
        if self.closest.get(position).is_some_and(|(known, _)| *known == id) {
            return;
        }
        self.closest.insert(position, (id, reply));
        self.closest.truncate(K);
    }

    /// A visited node did not answer at all.
    pub(crate) fn on_timeout(&mut self, node: SocketAddrV4) -> Steps {
        self.settled(node);
        self.errors += 1;
        let referrers = match self.seen.insert(node, Seen::Down) {
            Some(Seen::Pending(referrers)) => referrers,
            _ => Vec::new(),
        };
        let mut steps = self.advance();
        steps.down_hints = referrers.into_iter().map(|referrer| (referrer, node)).collect();
        steps
    }

    /// A visited node let its first try time out.
    pub(crate) fn on_slow(&mut self, node: SocketAddrV4) -> Steps {
        self.slow.push(node);
        self.advance()
    }
}
