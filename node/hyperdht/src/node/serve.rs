//! What others ask of this node: routing of handshakes (every node does it) and storage (persistent nodes do).

use std::time::Instant;

use bytes::Bytes;
use cumulet_encoding::Reader;

use super::router::{ReplyPath, Role, Route, route_handshake, route_holepunch};
use super::store::Signed;
use super::{Node, ServerId};
use crate::messages::{Handshake, HolepunchMessage, command};
use crate::rpc::{Answer, Incoming};
use crate::{Hash, SocketId};

impl Node {
    pub(super) fn on_request(&mut self, now: Instant, incoming: &Incoming) {
        if !self.answer_rations.take(now, *incoming.from.ip()) {
            self.counters.rationed += 1;
            return;
        }
        match incoming.command {
            command::PEER_HANDSHAKE => self.on_peer_handshake(now, incoming),
            command::PEER_HOLEPUNCH => self.on_peer_holepunch(now, incoming),
            command::FIND_PEER..=command::IMMUTABLE_GET if self.rpc.id().is_some() => {
                self.on_storage(now, incoming);
            }
            _ => self.rpc.decline(now, incoming),
        }
    }

    fn role(&self, target: &Hash) -> (Role, Option<ServerId>) {
        if let Some(server) = self.targets.get(target) {
            return (Role::Server, Some(*server));
        }
        let role = self
            .store
            .forward(target)
            .map_or(Role::Unknown, |forward| Role::Relay(forward.relay));
        (role, None)
    }

    fn on_peer_handshake(&mut self, now: Instant, incoming: &Incoming) {
        let (Some(target), Some(value)) = (&incoming.target, &incoming.value) else {
            return;
        };
        let Ok(message) = Handshake::decode(value) else {
            return;
        };
        let (role, server) = self.role(target);
        match (route_handshake(role, incoming.from, &message), server) {
            (
                Route::Serve {
                    payload,
                    peer_address,
                    reply,
                },
                Some(server),
            ) => {
                self.counters.handshakes_received += 1;
                let client = peer_address.unwrap_or(incoming.from);
                self.on_server_handshake(now, server, incoming, &payload, (client, reply));
            }
            (route, _) => self.pass_on(now, incoming, route),
        }
    }

    fn on_peer_holepunch(&mut self, now: Instant, incoming: &Incoming) {
        let (Some(target), Some(value)) = (&incoming.target, &incoming.value) else {
            return;
        };
        let Ok(message) = HolepunchMessage::decode(value) else {
            return;
        };
        let (role, server) = self.role(target);
        match (route_holepunch(role, incoming.from, &message), server) {
            (
                Route::Serve {
                    payload,
                    peer_address: Some(client),
                    ..
                },
                Some(server),
            ) => {
                self.on_server_holepunch(now, server, incoming, (message.id, &payload), client);
            }
            (route, _) => self.pass_on(now, incoming, route),
        }
    }

    fn pass_on(&mut self, now: Instant, incoming: &Incoming, route: Route) {
        match route {
            Route::CloserNodes => {
                self.rpc.answer(
                    now,
                    incoming,
                    Answer {
                        closer_nodes: true,
                        ..Answer::default()
                    },
                );
            }
            Route::Relay { to, value } if to.port() != 0 => {
                self.counters.relayed += 1;
                self.rpc.relay(incoming, value, to, None);
            }
            Route::Respond { to, value } if to.port() != 0 => {
                self.counters.relayed += 1;
                let answer = Answer {
                    value: Some(value),
                    to: Some(to),
                    ..Answer::default()
                };
                self.rpc.answer(now, incoming, answer);
            }
            Route::Drop | Route::Serve { .. } | Route::Relay { .. } | Route::Respond { .. } => {}
        }
    }

    /// Sends a server's handshake reply by the way its request came.
    pub(super) fn reply_handshake(
        &mut self,
        now: Instant,
        incoming: &Incoming,
        (noise, socket): (Bytes, Option<SocketId>),
        path: ReplyPath,
    ) {
        use crate::messages::mode;
        let message = |mode, peer_address| {
            Handshake {
                mode,
                noise: Some(noise.clone()),
                peer_address,
                relay_address: None,
            }
            .encode()
        };
        match path {
            ReplyPath::Direct => {
                let value = Some(message(mode::REPLY, None));
                self.rpc.answer(
                    now,
                    incoming,
                    Answer {
                        value,
                        ..Answer::default()
                    },
                );
            }
            ReplyPath::Through { relay, client } => {
                self.rpc
                    .relay(incoming, message(mode::FROM_SERVER, Some(client)), relay, socket);
            }
        }
    }

    fn on_storage(&mut self, now: Instant, incoming: &Incoming) {
        let Some(target) = &incoming.target else { return };
        let value = incoming.value.as_ref();
        let found = |value: Option<Bytes>| Answer {
            value,
            token: true,
            closer_nodes: true,
            ..Answer::default()
        };
        let failed = |error: u64| Answer {
            error,
            closer_nodes: true,
            ..Answer::default()
        };
        let answer = match incoming.command {
            command::FIND_PEER => {
                let own = self.own_record(target);
                found(own.or_else(|| self.store.forward(target).map(|forward| forward.record.clone())))
            }
            command::LOOKUP => {
                let (random, own) = (self.entropy.below(usize::MAX), self.own_record(target));
                found(self.store.lookup(target, random, own))
            }
            command::MUTABLE_GET => {
                let Some(Ok(seq)) = value.map(|value| Reader::new(value).uint()) else {
                    return;
                };
                found(self.store.mutable_get(target, seq))
            }
            command::IMMUTABLE_GET => found(self.store.immutable_get(target)),
            command::ANNOUNCE | command::UNANNOUNCE => {
                if !self.store_announcement(now, incoming, target) {
                    return;
                }
                Answer::default()
            }
            command::MUTABLE_PUT => {
                let (Some(value), Some(_)) = (value, incoming.token) else {
                    return;
                };
                if !self.signature_rations.take(now, *incoming.from.ip()) {
                    self.counters.rationed += 1;
                    return;
                }
                match self.store.mutable_put(now, target, value) {
                    Ok(0) => found(None),
                    Ok(error) => failed(error),
                    Err(()) => return,
                }
            }
            command::IMMUTABLE_PUT => {
                let (Some(value), Some(_)) = (value, incoming.token) else {
                    return;
                };
                if !self.store.immutable_put(now, target, value.clone()) {
                    return;
                }
                found(None)
            }
            _ => return,
        };
        self.rpc.answer(now, incoming, answer);
    }

    fn store_announcement(&mut self, now: Instant, incoming: &Incoming, target: &Hash) -> bool {
        let (Some(token), Some(value), Some(node_id)) =
            (&incoming.token, &incoming.value, self.rpc.id().copied())
        else {
            return false;
        };
        // The token proved the source, so a ration can not be used up in somebody else's name.
        if !self.signature_rations.take(now, *incoming.from.ip()) {
            self.counters.rationed += 1;
            return false;
        }
        let unix_ms = self.unix_ms(now);
        let request = Signed {
            from: incoming.from,
            target,
            token,
            node_id: &node_id,
            value,
            unix_ms,
        };
        match incoming.command {
            command::ANNOUNCE => self.store.announce(now, request),
            _ => self.store.unannounce(request),
        }
    }
}
