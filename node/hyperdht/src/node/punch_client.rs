//! The initiator's side of hole punching: ask the server through its relay, let both sides open their NATs, probe
//! (npm `hyperdht` `lib/connect.js`).

use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use super::puncher::{PunchOwner, PuncherId};
use super::secure_payload::SecurePayload;
use super::{ConnectId, Node, Purpose};
use crate::ConnectError;
use crate::messages::{Firewall, HolepunchMessage, HolepunchPayload, Relay, command, error_code, mode};
use crate::rpc::{Ask, Reply};

/// A server that does not know its NAT yet is given this long: its fast probe may come first.
const UNKNOWN_PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Round 0 is on its way.
    Asking,
    /// The server did not know its NAT; its probe may still come.
    Pausing(Instant),
    /// Waiting for the analysis of our own NAT.
    Analysing,
    /// Round 1 is on its way.
    Agreeing,
    /// Probes fly.
    Punching,
}

/// One attempt to punch through to a server.
pub(super) struct ClientPunch {
    pub(super) puncher: PuncherId,
    secure: SecurePayload,
    /// The server's slot.
    slot: u64,
    /// The relay that the server chose, and the one through which our handshake went.
    server_relay: Relay,
    client_relay: SocketAddrV4,
    server_address: SocketAddrV4,
    round: u64,
    step: Step,
    /// The server's proof of receiving through its relay, to be sent back.
    token: Option<[u8; 32]>,
    may_repeat: bool,
}

impl ClientPunch {
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        if let Step::Pausing(until) = self.step {
            Some(until)
        } else {
            None
        }
    }
}

/// What the handshake told about how to punch.
pub(super) struct PunchPlan {
    pub(super) handshake_hash: [u8; 64],
    pub(super) remote_firewall: Firewall,
    pub(super) slot: u64,
    pub(super) relays: Vec<Relay>,
    pub(super) client_relay: SocketAddrV4,
    pub(super) server_address: SocketAddrV4,
}

impl Node {
    /// Starts punching; false when there is no room for a puncher.
    pub(super) fn start_client_punch(&mut self, now: Instant, connect: ConnectId, plan: &PunchPlan) -> bool {
        let chosen = plan
            .relays
            .iter()
            .find(|relay| relay.relay_address == plan.client_relay);
        let Some(server_relay) = chosen.or(plan.relays.first()).copied() else {
            return false;
        };
        let Some(puncher) = self.new_puncher(now, PunchOwner::Connect(connect), true, plan.remote_firewall)
        else {
            return false;
        };
        let secure = SecurePayload::new(&plan.handshake_hash, self.entropy.array());
        let punch = ClientPunch {
            puncher,
            secure,
            slot: plan.slot,
            server_relay,
            client_relay: plan.client_relay,
            server_address: plan.server_address,
            round: 0,
            step: Step::Asking,
            token: None,
            may_repeat: true,
        };
        let Some(entry) = self.connects.get_mut(&connect) else {
            return false;
        };
        entry.punch = Some(punch);
        self.counters.punches += 1;
        self.ask_server(now, connect);
        true
    }

    /// Round 0: open our NAT towards the server, and ask it about its own.
    fn ask_server(&mut self, now: Instant, connect: ConnectId) {
        let Some(punch) = self.connects.get(&connect).and_then(|entry| entry.punch.as_ref()) else {
            return;
        };
        let (puncher, server_address, relay) = (punch.puncher, punch.server_address, punch.server_relay);
        self.open_session(puncher, server_address);
        let payload = HolepunchPayload {
            remote_address: Some(server_address),
            ..HolepunchPayload::default()
        };
        self.send_punch(
            now,
            connect,
            (relay.relay_address, relay.peer_address),
            payload,
            Step::Asking,
        );
    }

    /// Sends a round to the server through a relay, from the puncher's socket: its NAT entry is the one that counts.
    fn send_punch(
        &mut self,
        now: Instant,
        connect: ConnectId,
        (relay, peer): (SocketAddrV4, SocketAddrV4),
        mut payload: HolepunchPayload,
        step: Step,
    ) {
        let nonce = self.entropy.array();
        let Some(entry) = self.connects.get_mut(&connect) else {
            return;
        };
        let target = entry.target;
        let Some(punch) = &mut entry.punch else { return };
        let Some(puncher) = self.punchers.get(&punch.puncher) else {
            return;
        };
        if payload.error == error_code::NONE {
            payload.firewall = puncher.nat.firewall();
            payload.addresses = puncher.nat.addresses().cloned();
        }
        // Giving up closes the puncher's socket, so that message takes another.
        let socket = (payload.error == error_code::NONE).then(|| puncher.socket());
        payload.round = punch.round;
        punch.round += 1;
        punch.step = step;
        let message = HolepunchMessage {
            mode: mode::FROM_CLIENT,
            id: punch.slot,
            payload: Some(punch.secure.seal(&payload, nonce)),
            peer_address: Some(peer),
        };
        let ask = Ask {
            socket,
            target: Some(target),
            value: Some(message.encode()),
            ..Ask::new(relay, command::PEER_HOLEPUNCH)
        };
        let request = self.rpc.request(now, ask);
        self.requests
            .insert(request, Purpose::Holepunch { connect, peer });
    }

    pub(super) fn on_holepunch_reply(
        &mut self,
        now: Instant,
        connect: ConnectId,
        peer: SocketAddrV4,
        reply: Option<Reply>,
    ) {
        let Some(punch) = self
            .connects
            .get_mut(&connect)
            .and_then(|entry| entry.punch.as_mut())
        else {
            return;
        };
        let Some(reply) = reply else {
            self.punch_failed(now, connect, "the server did not answer through its relay");
            return;
        };
        let message = reply
            .value
            .as_deref()
            .and_then(|value| HolepunchMessage::decode(value).ok());
        let Some(message) = message.filter(|message| message.mode == mode::REPLY) else {
            self.punch_failed(now, connect, "the relay does not know the server");
            return;
        };
        let Some(payload) = message
            .payload
            .as_deref()
            .and_then(|sealed| punch.secure.open(sealed))
        else {
            self.punch_failed(now, connect, "the server's answer does not open");
            return;
        };
        if payload.error != error_code::NONE {
            self.punch_failed(now, connect, "the server gave up");
            return;
        }
        let echoed =
            payload.remote_token == Some(punch.secure.token(*peer.ip())) && punch.step == Step::Agreeing;
        let Some(puncher) = self.punchers.get_mut(&punch.puncher) else {
            return;
        };
        let verified = echoed.then(|| *peer.ip());
        puncher.update_remote(
            payload.firewall,
            payload.punching,
            payload.addresses.as_ref(),
            verified,
        );
        match punch.step {
            Step::Asking => {
                puncher.nat.add(reply.to, reply.from);
                punch.token = payload.token;
                let moved = message.peer_address.filter(|address| {
                    punch.server_relay.relay_address == punch.client_relay && *address != punch.server_address
                });
                let unknown = payload.firewall == Firewall::Unknown;
                punch.step = if unknown {
                    Step::Pausing(now + UNKNOWN_PAUSE)
                } else {
                    Step::Analysing
                };
                if let Some(address) = moved {
                    punch.server_address = address;
                    let id = punch.puncher;
                    self.open_session(id, address);
                }
                self.continue_client_punch(now, connect);
            }
            Step::Agreeing => {
                let (id, willing) = (punch.puncher, puncher.remote.punching);
                punch.step = Step::Punching;
                if !willing {
                    self.punch_failed(now, connect, "the server does not punch");
                } else if !self.start_punching(now, id) {
                    self.punch_failed(now, connect, "no strategy fits the two networks");
                }
            }
            Step::Pausing(_) | Step::Analysing | Step::Punching => {}
        }
    }

    /// Goes on to round 1, if both NATs are known.
    pub(super) fn continue_client_punch(&mut self, now: Instant, connect: ConnectId) {
        let Some(punch) = self
            .connects
            .get_mut(&connect)
            .and_then(|entry| entry.punch.as_mut())
        else {
            return;
        };
        if punch.step != Step::Analysing {
            return;
        }
        let Some(puncher) = self
            .punchers
            .get_mut(&punch.puncher)
            .filter(|puncher| puncher.is_settled())
        else {
            return;
        };
        let id = punch.puncher;
        if puncher.is_unstable() && !puncher.has_reopened() {
            self.reopen(now, id);
            return;
        }
        let (own, remote) = (puncher.nat.firewall(), puncher.remote.firewall);
        let vague = remote == Firewall::Unknown || punch.token.is_none() || puncher.has_reopened();
        if vague && std::mem::take(&mut punch.may_repeat) {
            self.ask_server(now, connect);
            return;
        }
        let reason = match (own, remote) {
            (Firewall::Unknown, _) => Some("our own network could not be classified"),
            (_, Firewall::Unknown) => Some("the server could not classify its network"),
            (Firewall::Random, Firewall::Random) => Some("both networks use a random port per destination"),
            _ if puncher.is_random() && !self.random_punch_allowed(now, id) => {
                Some("another punch with a random network runs or just ran")
            }
            _ => None,
        };
        if let Some(reason) = reason {
            self.give_up(now, connect, reason);
            return;
        }
        let Some(punch) = self.connects.get(&connect).and_then(|entry| entry.punch.as_ref()) else {
            return;
        };
        let payload = HolepunchPayload {
            punching: true,
            token: Some(punch.secure.token(*punch.server_address.ip())),
            remote_token: punch.token,
            ..HolepunchPayload::default()
        };
        let way = (punch.client_relay, punch.server_address);
        if let Some(puncher) = self.punchers.get_mut(&id) {
            puncher.nat.freeze();
        }
        self.send_punch(now, connect, way, payload, Step::Agreeing);
    }

    /// Tells the server that we stop, and stops.
    fn give_up(&mut self, now: Instant, connect: ConnectId, reason: &'static str) {
        let punch = self.connects.get(&connect).and_then(|entry| entry.punch.as_ref());
        if let Some(relay) = punch.map(|punch| punch.server_relay) {
            let payload = HolepunchPayload {
                error: error_code::ABORTED,
                ..HolepunchPayload::default()
            };
            self.send_punch(
                now,
                connect,
                (relay.relay_address, relay.peer_address),
                payload,
                Step::Punching,
            );
        }
        self.punch_failed(now, connect, reason);
    }

    pub(super) fn client_punch_timeout(&mut self, now: Instant, connect: ConnectId) {
        let Some(punch) = self
            .connects
            .get_mut(&connect)
            .and_then(|entry| entry.punch.as_mut())
        else {
            return;
        };
        if punch.poll_timeout().is_some_and(|until| until <= now) {
            punch.step = Step::Analysing;
            self.continue_client_punch(now, connect);
        }
    }

    /// Punching ended without success; another way may still be open.
    pub(super) fn punch_failed(&mut self, now: Instant, connect: ConnectId, reason: &'static str) {
        let Some(entry) = self.connects.get_mut(&connect) else {
            return;
        };
        if let Some(punch) = entry.punch.take() {
            self.close_puncher(now, punch.puncher);
        }
        self.way_failed(now, connect, ConnectError::HolepunchFailed { reason });
    }
}
