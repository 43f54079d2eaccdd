//! The responder's side of hole punching: PEER_HOLEPUNCH messages for a handshake of ours (npm `hyperdht`
//! `lib/server.js`).

use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::puncher::{PunchOwner, PuncherId};
use super::{Node, ServerId};
use crate::SocketId;
use crate::messages::{Firewall, HolepunchMessage, HolepunchPayload, error_code, mode};
use crate::rpc::Incoming;

/// Messages of one client that wait for the analysis of our NAT. They are repeats of one or two.
const MAX_PENDING: usize = 8;
/// How long a slot waits once punching began: the longest strategy and some.
const PUNCH_WAIT: Duration = Duration::from_secs(40);

/// A client's message that waits for the analysis of our NAT.
#[derive(Debug)]
pub(super) struct PendingPunch {
    incoming: Incoming,
    payload: HolepunchPayload,
    client: SocketAddrV4,
    through_our_relay: bool,
}

impl Node {
    /// A client's hole punch message arrived through a relay.
    pub(super) fn on_server_holepunch(
        &mut self,
        now: Instant,
        server: ServerId,
        incoming: &Incoming,
        (id, sealed): (u64, &Bytes),
        client: SocketAddrV4,
    ) {
        let Ok(slot) = usize::try_from(id) else { return };
        let Some(entry) = self.servers.get_mut(&server) else {
            return;
        };
        let through_our_relay = entry.announcer.is_relay(incoming.from);
        let Some(state) = entry.slots.get_mut(slot).and_then(Option::as_mut) else {
            return;
        };
        let (Some(secure), Some(puncher_id)) = (&state.secure, state.puncher) else {
            return;
        };
        let Some(payload) = secure.open(sealed) else {
            return;
        };
        let token = secure.token(*client.ip());
        if payload.error != error_code::NONE {
            self.abort_punch(now, server, slot, incoming, (client, error_code::ABORTED));
            return;
        }
        let Some(puncher) = self.punchers.get_mut(&puncher_id) else {
            return;
        };
        if incoming.socket == puncher.socket() {
            puncher.nat.add(incoming.to, incoming.from);
        }
        if payload.round >= state.round {
            state.round = payload.round;
            let echoed = through_our_relay && payload.remote_token == Some(token);
            let verified = echoed.then(|| *client.ip());
            puncher.update_remote(
                payload.firewall,
                payload.punching,
                payload.addresses.as_ref(),
                verified,
            );
        }
        if state.pending_punches.len() < MAX_PENDING {
            let incoming = incoming.clone();
            state.pending_punches.push(PendingPunch {
                incoming,
                payload,
                client,
                through_our_relay,
            });
        }
        self.continue_holepunch(now, server, slot);
    }

    /// Answers the waiting messages, if our NAT is known now.
    pub(super) fn continue_holepunch(&mut self, now: Instant, server: ServerId, slot: usize) {
        let state = self
            .servers
            .get_mut(&server)
            .and_then(|entry| entry.slots.get_mut(slot)?.as_mut());
        let Some((state, id)) = state.and_then(|state| state.puncher.map(|id| (state, id))) else {
            return;
        };
        let Some(puncher) = self.punchers.get_mut(&id).filter(|puncher| puncher.is_settled()) else {
            return;
        };
        if state.pending_punches.is_empty() {
            return;
        }
        if !puncher.remote.punching && puncher.is_unstable() && !puncher.has_reopened() {
            self.reopen(now, id);
            return;
        }
        for pending in std::mem::take(&mut state.pending_punches) {
            self.answer_holepunch(now, server, slot, id, &pending);
        }
    }

    fn answer_holepunch(
        &mut self,
        now: Instant,
        server: ServerId,
        slot: usize,
        id: PuncherId,
        pending: &PendingPunch,
    ) {
        let PendingPunch {
            incoming,
            payload,
            client,
            through_our_relay,
        } = pending;
        let Some(puncher) = self.punchers.get(&id) else {
            return;
        };
        let consistent = matches!(puncher.nat.firewall(), Firewall::Open | Firewall::Consistent);
        if !puncher.remote.punching && puncher.is_unstable() {
            self.abort_punch(now, server, slot, incoming, (*client, error_code::ABORTED));
            return;
        }
        let is_ours =
            |address: &SocketAddrV4| puncher.nat.addresses().is_some_and(|own| own.contains(address));
        let fast = consistent && payload.remote_address.as_ref().is_some_and(is_ours);
        let (punching, random) = (puncher.remote.punching, puncher.is_random());
        if fast {
            // The client's NAT is open towards exactly this socket: one probe may be all it takes.
            self.knock(id, *client);
        }
        if punching {
            if random && !self.random_punch_allowed(now, id) {
                self.abort_punch(now, server, slot, incoming, (*client, error_code::TRY_LATER));
                return;
            }
            if !self.start_punching(now, id) {
                self.abort_punch(now, server, slot, incoming, (*client, error_code::ABORTED));
                return;
            }
            self.extend_slot(server, slot, now + PUNCH_WAIT);
        }
        let nonce = self.entropy.array();
        let Some(puncher) = self.punchers.get_mut(&id) else {
            return;
        };
        if puncher.nat.firewall() != Firewall::Unknown {
            puncher.nat.freeze();
        }
        let state = self
            .servers
            .get(&server)
            .and_then(|entry| entry.slots.get(slot)?.as_ref());
        let Some((state, secure)) =
            state.and_then(|state| state.secure.as_ref().map(|secure| (state, secure)))
        else {
            return;
        };
        let answer = HolepunchPayload {
            error: error_code::NONE,
            firewall: puncher.nat.firewall(),
            round: state.round,
            connected: false,
            punching: puncher.is_punching(),
            addresses: puncher.nat.addresses().cloned(),
            remote_address: None,
            token: through_our_relay.then(|| secure.token(*client.ip())),
            remote_token: payload.token,
        };
        let sealed = secure.seal(&answer, nonce);
        let socket = puncher.socket();
        self.send_holepunch_answer(incoming, sealed, *client, socket);
    }

    fn send_holepunch_answer(
        &mut self,
        incoming: &Incoming,
        sealed: Bytes,
        client: SocketAddrV4,
        socket: SocketId,
    ) {
        let message = HolepunchMessage {
            mode: mode::FROM_SERVER,
            id: 0,
            payload: Some(sealed),
            peer_address: Some(client),
        };
        self.rpc
            .relay(incoming, message.encode(), incoming.from, Some(socket));
    }

    /// Tells the client that it will not work, and gives its handshake up.
    fn abort_punch(
        &mut self,
        now: Instant,
        server: ServerId,
        slot: usize,
        incoming: &Incoming,
        (client, error): (SocketAddrV4, u64),
    ) {
        let nonce = self.entropy.array();
        let state = self
            .servers
            .get(&server)
            .and_then(|entry| entry.slots.get(slot)?.as_ref());
        let sealed = state.and_then(|state| {
            let answer = HolepunchPayload {
                error,
                round: state.round,
                ..HolepunchPayload::default()
            };
            Some(state.secure.as_ref()?.seal(&answer, nonce))
        });
        if let Some(sealed) = sealed {
            let socket = self.rpc.socket();
            self.send_holepunch_answer(incoming, sealed, client, socket);
        }
        self.abandon_slot(now, server, slot);
    }

    /// The puncher of a handshake that just was made; true if the reply must leave from its socket.
    pub(super) fn prepare_punch(
        &mut self,
        now: Instant,
        server: ServerId,
        slot: usize,
        remote: Firewall,
    ) -> Option<SocketId> {
        let id = self.new_puncher(now, PunchOwner::Slot { server, slot }, false, remote)?;
        let secret = self.entropy.array();
        let state = self
            .servers
            .get_mut(&server)
            .and_then(|entry| entry.slots.get_mut(slot)?.as_mut());
        let socket = self.punchers.get(&id)?.socket();
        if state.and_then(|state| state.open_secure(secret, id)).is_none() {
            self.close_puncher(now, id);
            return None;
        }
        Some(socket)
    }
}
