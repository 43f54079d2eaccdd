//! What the owner of a node asks of the network: look up, announce, put, get. Each is one query and, for those that
//! store something, a commit to the closest nodes that answered.

use std::collections::HashSet;
use std::net::SocketAddrV4;
use std::time::Instant;

use bytes::Bytes;
use cumulet_encoding::Writer;
use ed25519_dalek::SigningKey;

use super::{Event, Node, OperationId, Purpose, QueryPurpose};
use crate::Hash;
use crate::crypto::hash;
use crate::messages::{
    LookupReply, MutablePut, MutableRecord, PeerRecord, command, sign_announce, sign_mutable, verify_mutable,
};
use crate::rpc::{Ask, QueryId, QuerySpec, Reply};

/// Peers handed over per operation. A topic's nodes name at most 20 x 21.
const MAX_PEERS: usize = 1_024;

/// A lookup reply this full may hide our own record: unannounce there too.
const FULL_REPLY: usize = 20;

/// What is asked.
#[derive(Debug, Clone)]
pub(crate) enum Goal {
    Lookup {
        topic: Hash,
    },
    Announce {
        topic: Hash,
        key: SigningKey,
        relay_addresses: Vec<SocketAddrV4>,
    },
    Unannounce {
        topic: Hash,
        key: SigningKey,
    },
    MutablePut {
        key: SigningKey,
        seq: u64,
        value: Bytes,
    },
    /// The newest record of at least this sequence number.
    MutableGet {
        public_key: Hash,
        seq: u64,
    },
    ImmutablePut {
        value: Bytes,
    },
    ImmutableGet {
        target: Hash,
    },
}

impl Goal {
    fn query(&self) -> QuerySpec {
        let seq_value = |seq: u64| {
            let mut writer = Writer::new();
            writer.uint(seq);
            Some(Bytes::from(writer.into_vec()))
        };
        match self {
            Self::Lookup { topic } | Self::Announce { topic, .. } | Self::Unannounce { topic, .. } => {
                QuerySpec::new(*topic, command::LOOKUP)
            }
            Self::MutablePut { key, .. } => {
                let target = hash(&[&key.verifying_key().to_bytes()]);
                QuerySpec {
                    value: seq_value(0),
                    ..QuerySpec::new(target, command::MUTABLE_GET)
                }
            }
            Self::MutableGet { public_key, seq } => QuerySpec {
                value: seq_value(*seq),
                ..QuerySpec::new(hash(&[public_key]), command::MUTABLE_GET)
            },
            Self::ImmutablePut { value } => QuerySpec::new(hash(&[value]), command::IMMUTABLE_GET),
            Self::ImmutableGet { target } => QuerySpec::new(*target, command::IMMUTABLE_GET),
        }
    }

    /// What to send to one of the closest nodes at the end; `None`: nothing.
    fn commit(&self, target: Hash, reply: &Reply) -> Option<Ask> {
        let token = reply.token?;
        let (command, value) = match self {
            Self::Announce {
                key, relay_addresses, ..
            } => {
                let node = (&reply.from_id?, &token);
                (
                    command::ANNOUNCE,
                    sign_announce(key, true, &target, node, relay_addresses).encode(),
                )
            }
            Self::Unannounce { key, .. } => {
                let node = (&reply.from_id?, &token);
                (
                    command::UNANNOUNCE,
                    sign_announce(key, false, &target, node, &[]).encode(),
                )
            }
            Self::MutablePut { key, seq, value } => {
                let public_key = key.verifying_key().to_bytes();
                (
                    command::MUTABLE_PUT,
                    MutablePut {
                        public_key,
                        record: sign_mutable(key, *seq, value),
                    }
                    .encode(),
                )
            }
            Self::ImmutablePut { value } => (command::IMMUTABLE_PUT, value.clone()),
            Self::Lookup { .. } | Self::MutableGet { .. } | Self::ImmutableGet { .. } => return None,
        };
        let (target, token, value) = (Some(target), Some(token), Some(value));
        Some(Ask {
            target,
            token,
            value,
            ..Ask::new(reply.from, command)
        })
    }
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Nodes near the target that answered.
    pub(crate) replies: usize,
    /// Nodes that confirmed the commit.
    pub(crate) stored: usize,
    pub(crate) mutable: Option<MutableRecord>,
    pub(crate) immutable: Option<Bytes>,
}

#[derive(Debug)]
pub(super) struct Operation {
    goal: Goal,
    target: Hash,
    query: Option<QueryId>,
    seen: HashSet<Hash>,
    pending: usize,
    outcome: Outcome,
}

impl Node {
    /// Starts an operation; [`Event::Peers`] may follow, and [`Event::Finished`] will.
    pub(crate) fn operate(&mut self, now: Instant, goal: Goal) -> OperationId {
        let id = OperationId(self.fresh_id());
        let spec = goal.query();
        let target = spec.target;
        let query = self.rpc.query(now, spec);
        let (seen, outcome) = (HashSet::new(), Outcome::default());
        self.operations.insert(
            id,
            Operation {
                goal,
                target,
                query: Some(query),
                seen,
                pending: 0,
                outcome,
            },
        );
        self.queries.insert(query, QueryPurpose::Operation(id));
        self.pump(now);
        id
    }

    pub(super) fn on_operation_reply(&mut self, now: Instant, id: OperationId, reply: &Reply) {
        let Some(operation) = self.operations.get_mut(&id) else {
            return;
        };
        let value = reply.value.as_deref();
        match &operation.goal {
            Goal::Lookup { .. } | Goal::Announce { .. } => {
                let Some(Ok(found)) = value.map(LookupReply::decode) else {
                    return;
                };
                let room = MAX_PEERS.saturating_sub(operation.seen.len());
                let mut peers: Vec<PeerRecord> = found.peers;
                peers.retain(|peer| operation.seen.insert(peer.public_key));
                peers.truncate(room);
                if !peers.is_empty() {
                    self.event(Event::Peers { operation: id, peers });
                }
            }
            Goal::Unannounce { key, .. } => {
                let own = key.verifying_key().to_bytes();
                let Some(Ok(found)) = value.map(LookupReply::decode) else {
                    return;
                };
                let named = found.peers.iter().any(|peer| peer.public_key == own);
                if let Some(ask) = operation.goal.commit(operation.target, reply)
                    && (named || found.peers.len() >= FULL_REPLY)
                {
                    operation.pending += 1;
                    let request = self.rpc.request(now, ask);
                    self.requests.insert(request, Purpose::Operation(id));
                }
            }
            Goal::MutableGet { public_key, .. } => {
                let Some(Ok(record)) = value.map(MutableRecord::decode) else {
                    return;
                };
                let newer = operation
                    .outcome
                    .mutable
                    .as_ref()
                    .is_none_or(|known| known.seq < record.seq);
                if newer && verify_mutable(public_key, &record) {
                    operation.outcome.mutable = Some(record);
                }
            }
            Goal::ImmutableGet { target } => {
                if let Some(value) = &reply.value
                    && hash(&[value]) == *target
                {
                    operation.outcome.immutable = Some(value.clone());
                    let query = operation.query.take();
                    if let Some(query) = query {
                        self.rpc.cancel_query(query);
                        self.queries.remove(&query);
                    }
                    self.finish_operation(id);
                }
            }
            Goal::MutablePut { .. } | Goal::ImmutablePut { .. } => {}
        }
    }

    pub(super) fn on_operation_nodes(&mut self, now: Instant, id: OperationId, closest: &[Reply]) {
        let Some(operation) = self.operations.get_mut(&id) else {
            return;
        };
        operation.query = None;
        operation.outcome.replies = closest.len();
        let commits_at_end = !matches!(operation.goal, Goal::Unannounce { .. });
        let asks: Vec<Ask> = if commits_at_end {
            closest
                .iter()
                .filter_map(|reply| operation.goal.commit(operation.target, reply))
                .collect()
        } else {
            Vec::new()
        };
        operation.pending += asks.len();
        let idle = operation.pending == 0;
        for ask in asks {
            let request = self.rpc.request(now, ask);
            self.requests.insert(request, Purpose::Operation(id));
        }
        if idle {
            self.finish_operation(id);
        }
    }

    pub(super) fn on_operation_commit(&mut self, id: OperationId, stored: bool) {
        let Some(operation) = self.operations.get_mut(&id) else {
            return;
        };
        operation.pending = operation.pending.saturating_sub(1);
        operation.outcome.stored += usize::from(stored);
        if operation.pending == 0 && operation.query.is_none() {
            self.finish_operation(id);
        }
    }

    fn finish_operation(&mut self, id: OperationId) {
        if let Some(operation) = self.operations.remove(&id) {
            self.event(Event::Finished {
                operation: id,
                outcome: operation.outcome,
            });
        }
    }
}
