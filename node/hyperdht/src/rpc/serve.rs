//! Answering: the commands of dht-rpc itself, replies and relayed messages of the layer above, and what is learnt
//! about nodes on the way.

use bytes::Bytes;

use super::{
    AMPLIFICATION, Answer, Ask, DELAYED_PING, DOWN_HINT, Duration, ERROR_INVALID_TOKEN,
    ERROR_UNKNOWN_COMMAND, FIND_NODE, Hash, Incoming, Inserted, Instant, K, MAX_CHECKS, MAX_DELAYED_PING,
    MAX_DELAYED_PINGS, MAX_REPINGS, Node, OLD_NODE, Owner, PING, PING_NAT, RECENT_NODE, Request, Response,
    Rpc, RpcEvent, SocketAddrV4, SocketId, Tokens, Transmit, address, node_id,
};

impl Rpc {
    pub(super) fn on_request(
        &mut self,
        now: Instant,
        socket: SocketId,
        (from, length): (SocketAddrV4, usize),
        request: Request,
    ) {
        let incoming = Incoming {
            tid: request.tid,
            from,
            to: request.to,
            socket,
            token: request.token,
            internal: request.internal,
            command: request.command,
            target: request.target,
            value: request.value,
            length,
        };
        if let Some(token) = &incoming.token
            && !self.tokens(now).is_valid(*from.ip(), token)
        {
            let answer = Answer {
                error: ERROR_INVALID_TOKEN,
                token: true,
                closer_nodes: true,
                ..Answer::default()
            };
            self.answer(now, &incoming, answer);
            return;
        }
        if let Some(id) = request.id.filter(|id| *id == node_id(from)) {
            self.note_node(now, socket, from, Some(id), request.to);
        }
        if incoming.internal {
            self.serve(now, &incoming);
        } else {
            self.events.push_back(RpcEvent::Request(incoming));
        }
    }

    fn serve(&mut self, now: Instant, incoming: &Incoming) {
        match incoming.command {
            PING => self.answer(now, incoming, Answer::default()),
            PING_NAT => {
                let Some(&[low, high]) = incoming.value.as_deref().and_then(|value| value.first_chunk())
                else {
                    return;
                };
                let port = u16::from_le_bytes([low, high]);
                if port != 0 {
                    let to = Some(SocketAddrV4::new(*incoming.from.ip(), port));
                    self.answer(
                        now,
                        incoming,
                        Answer {
                            to,
                            ..Answer::default()
                        },
                    );
                }
            }
            FIND_NODE if incoming.target.is_some() => {
                self.answer(
                    now,
                    incoming,
                    Answer {
                        closer_nodes: true,
                        ..Answer::default()
                    },
                );
            }
            FIND_NODE => {}
            DOWN_HINT => {
                let Some(hint) = incoming.value.as_deref().and_then(|value| value.first_chunk()) else {
                    return;
                };
                self.on_down_hint(now, address::decode(*hint));
                self.answer(now, incoming, Answer::default());
            }
            DELAYED_PING => {
                let Some(delay) = incoming.value.as_deref().and_then(|value| value.first_chunk()) else {
                    return;
                };
                let delay = Duration::from_millis(u32::from_le_bytes(*delay).into());
                if delay <= MAX_DELAYED_PING && self.delayed.len() < MAX_DELAYED_PINGS {
                    self.delayed.push((now + delay, incoming.clone()));
                }
            }
            _ => self.decline(now, incoming),
        }
    }

    pub(super) fn answer_delayed(&mut self, now: Instant) {
        let (due, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut self.delayed)
            .into_iter()
            .partition(|(at, _)| *at <= now);
        self.delayed = waiting;
        for (_, incoming) in due {
            self.answer(now, &incoming, Answer::default());
        }
    }

    fn on_down_hint(&mut self, now: Instant, down: SocketAddrV4) {
        let tick = self.tick;
        let id = node_id(down);
        if self.checks >= MAX_CHECKS {
            return;
        }
        let Some(node) = self
            .table
            .get_mut(&id)
            .filter(|node| node.pinged < tick || node.down_hints == 0)
        else {
            return;
        };
        node.down_hints += 1;
        self.check(now, &id);
    }

    /// Pings a node of the table and drops it if it does not answer.
    pub(super) fn check(&mut self, now: Instant, id: &Hash) {
        let tick = self.tick;
        let Some(node) = self.table.get_mut(id) else {
            return;
        };
        node.pinged = tick;
        let (to, seen) = (node.address, node.seen);
        self.checks += 1;
        self.send(now, Ask::ping(to), None, Owner::Check { id: *id, seen });
    }

    /// Removes a node that was not heard under its id since `seen`.
    pub(super) fn remove_stale(&mut self, id: &Hash, seen: u64) -> bool {
        self.table.get(id).is_some_and(|node| node.seen <= seen) && self.table.remove(id).is_some()
    }

    fn tokens(&mut self, now: Instant) -> &Tokens {
        let entropy = &mut self.entropy;
        let tokens = self
            .tokens
            .get_or_insert_with(|| Tokens::new([entropy.array(), entropy.array()], now));
        tokens.advance(now);
        tokens
    }

    /// Answers a question.
    pub(crate) fn answer(&mut self, now: Instant, incoming: &Incoming, answer: Answer) {
        let to = answer.to.unwrap_or(incoming.from);
        let socket = answer.socket.unwrap_or(incoming.socket);
        let token = answer.token.then(|| self.tokens(now).create(*to.ip()));
        let closer_nodes = match &incoming.target {
            Some(target) if answer.closer_nodes => self
                .table
                .closest(target, K)
                .iter()
                .map(|node| node.address)
                .collect(),
            _ => Vec::new(),
        };
        let id = self.id_on(socket);
        let mut response = Response {
            tid: incoming.tid,
            to,
            id,
            token,
            closer_nodes,
            error: answer.error,
            value: answer.value,
        };
        let mut data = response.encode();
        let limit = incoming.length * AMPLIFICATION;
        if data.len() > limit && incoming.token.is_none() {
            let excess = u32::try_from(data.len() - limit).unwrap_or(u32::MAX);
            if !self.excess_rations.take_many(now, *to.ip(), excess) {
                self.counters.shortened += 1;
                // Fewer nodes still lead on. An answer without its value would be a lie: then rather none.
                let fewer = (data.len() - limit).div_ceil(address::ENCODED_LEN);
                let left = response.closer_nodes.len().saturating_sub(fewer);
                response.closer_nodes.truncate(left);
                data = response.encode();
                if data.len() > limit {
                    return;
                }
            }
        }
        self.transmits.push_back(Transmit {
            socket,
            to,
            data,
            ttl: None,
        });
    }

    /// Answers that the command is not served here.
    pub(crate) fn decline(&mut self, now: Instant, incoming: &Incoming) {
        let answer = Answer {
            error: ERROR_UNKNOWN_COMMAND,
            closer_nodes: true,
            ..Answer::default()
        };
        self.answer(now, incoming, answer);
    }

    /// Passes a question on to another node under the same transaction id, with a new value.
    pub(crate) fn relay(
        &mut self,
        incoming: &Incoming,
        value: Bytes,
        to: SocketAddrV4,
        socket: Option<SocketId>,
    ) {
        let socket = socket.unwrap_or(incoming.socket);
        let request = Request {
            tid: incoming.tid,
            to,
            id: self.id_on(socket),
            token: None,
            internal: incoming.internal,
            command: incoming.command,
            target: incoming.target,
            value: Some(value),
        };
        self.transmits.push_back(Transmit {
            socket,
            to,
            data: request.encode(),
            ttl: None,
        });
    }

    /// Learns from a message: that the node lives, and which address it sees us at.
    pub(super) fn note_node(
        &mut self,
        now: Instant,
        socket: SocketId,
        from: SocketAddrV4,
        id: Option<Hash>,
        seen_as: SocketAddrV4,
    ) {
        // A message on the other socket tells nothing about the mapping of this one.
        let samples = socket == self.socket();
        let tick = self.tick;
        let Some(id) = id else {
            self.sample_idless(from, seen_as);
            return;
        };
        if let Some(node) = self.table.get_mut(&id) {
            node.pinged = tick;
            node.seen = tick;
            if samples && (node.sampled == 0 || tick - node.sampled >= OLD_NODE) {
                node.sampled = tick;
                self.nat.add(seen_as);
            }
            self.table.touch(&id);
            return;
        }
        let mut node = Node::new(id, from, tick);
        if samples {
            node.sampled = tick;
        }
        match self.table.insert(node.clone()) {
            Inserted::Added if samples => {
                self.nat.add(seen_as);
            }
            Inserted::RowFull => self.challenge(now, node),
            Inserted::Added | Inserted::Ignored => {}
        }
    }

    /// Bootstrap nodes may be ephemeral; a few samples of nodes without id are taken so that a lone one counts.
    fn sample_idless(&mut self, from: SocketAddrV4, seen_as: SocketAddrV4) {
        let limit = self.bootstrap_nodes.len().max(1);
        if self.idless_samples.len() < limit && !self.idless_samples.contains(&from) {
            self.idless_samples.push(from);
            self.nat.add(seen_as);
        }
    }

    /// A newcomer found its row full: ping the row's stalest node, and let the newcomer have its place if silent.
    fn challenge(&mut self, now: Instant, challenger: Node) {
        if !self.is_bootstrapped() || self.repings >= MAX_REPINGS {
            return;
        }
        let tick = self.tick;
        let stalest = self
            .table
            .row(&challenger.id)
            .iter()
            .filter(|n| n.pinged != tick)
            .min_by_key(|n| (n.pinged, n.added));
        let Some(stalest) = stalest else { return };
        if tick - stalest.pinged < RECENT_NODE && tick - stalest.added > OLD_NODE {
            return;
        }
        let (id, to, seen) = (stalest.id, stalest.address, stalest.seen);
        if let Some(node) = self.table.get_mut(&id) {
            node.pinged = tick;
        }
        self.repings += 1;
        self.send(
            now,
            Ask::ping(to),
            None,
            Owner::Challenge {
                id,
                seen,
                challenger: Box::new(challenger),
            },
        );
    }
}
