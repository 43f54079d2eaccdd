//! Relayed connections (npm `hyperdht` option `relayThrough`): a stream that begins through a blind relay, while the direct
//! way is still looked for, and moves to that way when it opens.
//!
//! Either side may name a relay in its Noise payload; the server's choice counts, and who named it is the pairing's
//! initiator. Both connect to the relay as to any server, and ask it to pair the stream that the handshake advertised. The
//! stream then runs through the relay under the keys of its own handshake. A direct packet on it, or a punch that gets
//! through, moves it; the relay is let go when packets arrive directly and the peer had time to get its last ones through.

use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use cumulet_secret_stream::noise::HandshakeResult;

use super::client::ConnectRequest;
use super::{ConnectId, Event, Node, Output, StreamOwner};
use crate::messages::RelayThrough;
use crate::{Hash, SocketId};

/// How long connecting to the relay and waiting for the peer there may take together: as JavaScript.
const RELAY_WAIT: Duration = Duration::from_secs(15);
/// After the first direct packet the relay is kept this long: what the peer had sent through it and has to send again
/// still goes that way.
const LINGER: Duration = Duration::from_secs(3);
/// Connections that begin or run through relays. A stranger can make us dial a relay of its choice, so this is what
/// such strangers can cost us in searches; the rations per host bound how fast.
const MAX_RELAYED: usize = 256;

/// One relayed connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RelayId(u64);

pub(super) struct Relayed {
    /// Who still looks for the direct way.
    owner: Option<StreamOwner>,
    relay: Hash,
    stream: u32,
    is_initiator: bool,
    token: Hash,
    dial: Option<ConnectId>,
    /// Until when it must be paired; later: when to let the relay go.
    until: Option<Instant>,
    /// Where the relay is.
    path: Option<(SocketId, SocketAddrV4)>,
    paired: bool,
    moved: bool,
}

/// What the driver needs to ask the relay for the pairing.
#[derive(Debug)]
pub(crate) struct PairOrder {
    /// Our own key on the control connection.
    pub(crate) identity: Hash,
    pub(crate) is_initiator: bool,
    pub(crate) token: Hash,
    pub(crate) stream: u32,
}

impl Node {
    pub(super) fn relay_timeout(&self) -> Option<Instant> {
        self.relayed.values().filter_map(|relayed| relayed.until).min()
    }

    /// One of the relays to offer, with a token for this connection.
    pub(super) fn choose_relay(&mut self, relays: &[Hash]) -> Option<RelayThrough> {
        let public_key = *relays.get(self.entropy.below(relays.len()))?;
        Some(RelayThrough {
            public_key,
            token: self.entropy.array(),
        })
    }

    /// Starts connecting through a relay beside everything else that is tried.
    pub(super) fn start_relaying(
        &mut self,
        now: Instant,
        owner: StreamOwner,
        stream: u32,
        (through, is_initiator): (RelayThrough, bool),
    ) -> Option<RelayId> {
        if self.relayed.len() >= MAX_RELAYED {
            return None;
        }
        let id = RelayId(self.fresh_id());
        let request = ConnectRequest {
            public_key: through.public_key,
            key_pair: self.config.key_pair.clone(),
            relay_addresses: Vec::new(),
            relay_through: Vec::new(),
            never_punch: false,
        };
        let relayed = Relayed {
            owner: Some(owner),
            relay: through.public_key,
            stream,
            is_initiator,
            token: through.token,
            dial: None,
            until: Some(now + RELAY_WAIT),
            path: None,
            paired: false,
            moved: false,
        };
        let dial = self.begin_connect(now, request, Some(id))?;
        self.counters.relays_tried += 1;
        self.relayed.insert(
            id,
            Relayed {
                dial: Some(dial),
                ..relayed
            },
        );
        Some(id)
    }

    /// The connection to the relay is there.
    pub(super) fn relay_reached(
        &mut self,
        id: RelayId,
        (control, handshake): (u32, HandshakeResult),
        path: (SocketId, SocketAddrV4),
    ) {
        let identity = *self.config.key_pair.public_key();
        let Some(relayed) = self.relayed.get_mut(&id) else {
            self.outputs.push_back(Output::DestroyStream(control));
            return;
        };
        relayed.dial = None;
        relayed.path = Some(path);
        let order = PairOrder {
            identity,
            is_initiator: relayed.is_initiator,
            token: relayed.token,
            stream: relayed.stream,
        };
        self.outputs.push_back(Output::PairAtRelay {
            relay: id,
            control,
            handshake,
            order,
        });
    }

    /// The relay joined our stream with the peer's; `remote_id` is that of the relay's stream for us.
    pub(crate) fn on_relay_paired(&mut self, now: Instant, id: RelayId, remote_id: u32) {
        let Some(relayed) = self.relayed.get_mut(&id) else {
            return;
        };
        let (Some((socket, to)), Some(owner), false) = (relayed.path, relayed.owner, relayed.paired) else {
            return;
        };
        relayed.paired = true;
        relayed.until = None;
        let (stream, relay) = (relayed.stream, relayed.relay);
        self.counters.relayed_connections += 1;
        self.outputs.push_back(Output::ConnectRelayed {
            relay: id,
            stream,
            socket,
            remote_id,
            to,
        });
        match owner {
            StreamOwner::Connect(connect) => self.connected_relayed(connect, relay),
            StreamOwner::Slot { server, slot } => self.accepted_relayed(now, server, slot, relay),
        }
        self.pump(now);
    }

    /// A packet came the way of the relay: that is no direct way.
    pub(super) fn is_from_relay(&self, stream: u32, from: SocketAddrV4) -> bool {
        self.relayed
            .values()
            .any(|relayed| relayed.stream == stream && relayed.path.is_some_and(|(_, relay)| relay == from))
    }

    /// A direct way opened for a stream that runs through the relay.
    pub(super) fn move_relayed(&mut self, id: RelayId, socket: SocketId, remote_id: u32, to: SocketAddrV4) {
        let Some(relayed) = self.relayed.get_mut(&id) else {
            return;
        };
        relayed.owner = None;
        relayed.moved = true;
        self.streams.remove(&relayed.stream);
        self.counters.relayed_upgraded += 1;
        self.outputs.push_back(Output::MoveStream {
            relay: id,
            socket,
            remote_id,
            to,
        });
    }

    /// Packets of the peer arrive directly.
    pub(crate) fn on_direct_confirmed(&mut self, now: Instant, id: RelayId) {
        if let Some(relayed) = self.relayed.get_mut(&id).filter(|relayed| relayed.moved) {
            relayed.until.get_or_insert(now + LINGER);
        }
    }

    /// Nobody looks for a direct way any more; the stream stays where it is.
    pub(super) fn stay_relayed(&mut self, id: RelayId) {
        if let Some(relayed) = self.relayed.get_mut(&id) {
            relayed.owner = None;
            self.streams.remove(&relayed.stream);
        }
    }

    /// The direct way was faster, or everything is given up: the relay is not needed.
    pub(super) fn cancel_relaying(&mut self, now: Instant, id: RelayId) {
        let Some(relayed) = self.relayed.remove(&id) else {
            return;
        };
        if let Some(dial) = relayed.dial {
            self.abandon_dial(now, dial);
        }
        self.outputs.push_back(Output::ReleaseRelay(id));
    }

    /// The relay can't be reached, does not pair us, or ended the link.
    pub(crate) fn on_relay_lost(&mut self, now: Instant, id: RelayId) {
        self.relay_failed(now, id);
        self.pump(now);
    }

    pub(super) fn relay_failed(&mut self, now: Instant, id: RelayId) {
        let Some(relayed) = self.relayed.remove(&id) else {
            return;
        };
        if let Some(dial) = relayed.dial {
            self.abandon_dial(now, dial);
        }
        if !relayed.paired {
            self.counters.relay_failures += 1;
        } else if !relayed.moved {
            // Without a link nothing arrives any more: let the application know now rather than by silence.
            self.outputs.push_back(Output::DestroyStream(relayed.stream));
        }
        self.outputs.push_back(Output::ReleaseRelay(id));
        match relayed.owner {
            Some(StreamOwner::Connect(connect)) => self.connect_lost_relay(now, connect, relayed.paired),
            Some(StreamOwner::Slot { server, slot }) => {
                self.slot_lost_relay(now, (server, slot), relayed.paired);
            }
            None => {}
        }
    }

    /// The relayed stream was closed by the application or its peer.
    pub(crate) fn on_relayed_closed(&mut self, now: Instant, id: RelayId) {
        let Some(relayed) = self.relayed.get_mut(&id) else {
            return;
        };
        match relayed.owner.take() {
            Some(StreamOwner::Connect(connect)) => self.connect_lost_relay(now, connect, true),
            Some(StreamOwner::Slot { server, slot }) => self.slot_lost_relay(now, (server, slot), true),
            None => {}
        }
        self.cancel_relaying(now, id);
        self.pump(now);
    }

    pub(super) fn relay_timeouts(&mut self, now: Instant) {
        let due: Vec<(RelayId, bool)> = self
            .relayed
            .iter()
            .filter(|(_, relayed)| relayed.until.is_some_and(|until| until <= now))
            .map(|(id, relayed)| (*id, relayed.paired))
            .collect();
        for (id, paired) in due {
            if paired {
                self.cancel_relaying(now, id);
            } else {
                self.relay_failed(now, id);
            }
        }
    }

    /// Hands a relayed connection to the application that dialled.
    fn connected_relayed(&mut self, connect: ConnectId, relay: Hash) {
        let Some((stream, handshake, alone)) = self.open_relayed(connect) else {
            return;
        };
        self.event(Event::Connected {
            connect,
            stream,
            handshake,
            relay: Some(relay),
        });
        if alone {
            self.end_relayed_connect(connect);
        }
    }
}
