//! What leaves: acknowledgements, probes, messages, lost packets, new packets, in this order.

use super::{MAX_OUTSTANDING, Micros, Remote, Stream, Transmit};
use crate::{
    clock::SECOND,
    packet::{Flags, HEADER_LEN, Header, MAX_SACK_BLOCKS},
    send::{Fate, Sent},
};

/// The window of a stream that is written to before it has a round trip estimate may be probed this soon.
const WINDOW_PROBE_INITIAL: Micros = SECOND;

impl Stream {
    /// Appends the next packet to `out`. `None`: nothing may leave now.
    pub fn poll_transmit(&mut self, now: Micros, out: &mut Vec<u8>) -> Option<Transmit> {
        let remote = self.remote?;
        if std::mem::take(&mut self.destroy_needed) {
            return Some(self.emit(remote, Flags::DESTROY, out));
        }
        self.settle(now);
        if std::mem::take(&mut self.ack_needed) {
            return Some(self.emit_ack(remote, out));
        }
        if self.closed.is_some() {
            return None;
        }
        if std::mem::take(&mut self.heartbeat_needed) {
            return Some(self.emit(remote, Flags::HEARTBEAT, out));
        }
        if let Some(message) = self.messages_out.pop_front() {
            let header = self.header(remote, Flags::MESSAGE);
            out.extend_from_slice(&header.encode());
            out.extend_from_slice(&message);
            return Some(self.sent_packet(remote, HEADER_LEN + message.len()));
        }
        if std::mem::take(&mut self.tail_probe.due)
            && let Some(transmit) = self.emit_tail_probe(now, remote, out)
        {
            return Some(transmit);
        }
        self.emit_lost(now, out)
            .or_else(|| self.emit_new(now, remote, out))
    }

    fn header(&mut self, remote: Remote, flags: Flags) -> Header {
        Header {
            flags,
            data_offset: 0,
            stream_id: remote.id,
            window: self.receiver.advertise(),
            seq: self.board.next() as u32,
            ack: self.receiver.next() as u32,
        }
    }

    fn emit(&mut self, remote: Remote, flags: Flags, out: &mut Vec<u8>) -> Transmit {
        let header = self.header(remote, flags);
        out.extend_from_slice(&header.encode());
        self.sent_packet(remote, HEADER_LEN)
    }

    fn sent_packet(&mut self, remote: Remote, len: usize) -> Transmit {
        self.counters.packets_sent += 1;
        self.counters.bytes_sent += len as u64;
        Transmit {
            path: remote.path,
            len,
            probe: false,
        }
    }

    fn emit_ack(&mut self, remote: Remote, out: &mut Vec<u8>) -> Transmit {
        self.unacknowledged = 0;
        if !self.receiver.has_gaps() {
            return self.emit(remote, Flags::ACK, out);
        }
        let header = self.header(remote, Flags::SACK);
        let start = out.len();
        out.extend_from_slice(&header.encode());
        for range in self.receiver.held_ranges(MAX_SACK_BLOCKS) {
            out.extend_from_slice(&(range.start as u32).to_le_bytes());
            out.extend_from_slice(&(range.end as u32).to_le_bytes());
        }
        self.sent_packet(remote, out.len() - start)
    }

    /// Probes the tail with new bytes if there are any, else with the last packet; during repair with the oldest packet that
    /// flies. No window holds it back.
    fn emit_tail_probe(&mut self, now: Micros, remote: Remote, out: &mut Vec<u8>) -> Option<Transmit> {
        self.counters.tail_probes += 1;
        if self.is_repairing() {
            let oldest = self
                .board
                .packets()
                .find(|(_, sent)| sent.fate == Fate::InFlight)?
                .0;
            self.tail_probe.in_flight_until = Some(oldest + 1);
            self.tail_probe.retransmission = true;
            self.tail_probe.permitted = false;
            return Some(self.emit_again(now, oldest, out));
        }
        if self.has_new() {
            let transmit = self.push_new(now, remote, false, out);
            self.tail_probe.in_flight_until = Some(self.board.next());
            self.tail_probe.retransmission = false;
            self.tail_probe.permitted = false;
            return Some(transmit);
        }
        let last = self.board.next().checked_sub(1)?;
        if self
            .board
            .get(last)
            .is_none_or(|sent| sent.fate != Fate::InFlight)
        {
            return None;
        }
        self.tail_probe.in_flight_until = Some(last + 1);
        self.tail_probe.retransmission = true;
        self.tail_probe.permitted = false;
        Some(self.emit_again(now, last, out))
    }

    /// Retransmissions ignore the peer's window: it may have shrunk under packets it allowed.
    fn emit_lost(&mut self, now: Micros, out: &mut Vec<u8>) -> Option<Transmit> {
        let seq = self.board.next_lost()?;
        let over = self.board.in_flight() >= self.bbr.window();
        if (over && self.blind_acks == 0) || !self.pace(now) {
            return None;
        }
        if over {
            self.blind_acks -= 1;
        }
        Some(self.emit_again(now, seq, out))
    }

    fn pace(&mut self, now: Micros) -> bool {
        let rate = self.bbr.pacing_rate();
        if self.pacer.may_send(now, rate, u32::from(self.mtu.mtu())) {
            self.timers.pacing = None;
            return true;
        }
        self.timers.pacing = Some(self.pacer.ready_at(rate));
        false
    }

    fn emit_again(&mut self, now: Micros, seq: u64, out: &mut Vec<u8>) -> Transmit {
        let idle = self.board.in_flight() == 0;
        let (delivery, app_limited) = (self.rate_state(now), self.delivery.app_limited_until.is_some());
        self.board.resend(seq, |sent| {
            sent.sent_at = now;
            (sent.delivered, sent.delivered_at, sent.first_sent_at) = delivery;
            sent.app_limited = app_limited;
        });
        self.counters.retransmits += 1;
        self.after_transmission(now, idle);
        let Some(sent) = self.board.get(seq).copied() else {
            return Transmit {
                path: self.fallback_remote().path,
                len: 0,
                probe: false,
            };
        };
        let remote = self.remote_of(&sent);
        self.emit_data(remote, seq, &sent, out)
    }

    /// A packet goes again to where it first went, as the peer's relay may still be the only way; but every
    /// other timeout it tries where we moved to, in case the old place is dead.
    fn remote_of(&self, sent: &Sent) -> Remote {
        let current = self.fallback_remote();
        let age = self.remote_epoch.wrapping_sub(sent.remote) as usize;
        if age == 0 || sent.timeouts % 2 == 1 {
            return current;
        }
        let known = self.old_remotes.len();
        known
            .checked_sub(age)
            .and_then(|index| self.old_remotes.get(index))
            .copied()
            .unwrap_or(current)
    }

    fn fallback_remote(&self) -> Remote {
        let nowhere = Remote {
            path: super::Path {
                socket: super::SocketId(0),
                address: std::net::SocketAddr::from(([0, 0, 0, 0], 0)),
            },
            id: 0,
        };
        self.remote.unwrap_or(nowhere)
    }

    /// Packets in flight that the peer's window allows: at least one unless it is shut.
    fn peer_window_packets(&self) -> u64 {
        match self.peer_window {
            0 => 0,
            bytes => (u64::from(bytes) / self.mtu.payload() as u64).max(1),
        }
    }

    fn has_new(&self) -> bool {
        (self.buffer.unsent() > 0 || self.may_end())
            && self.board.next() - self.board.acked() < MAX_OUTSTANDING
    }

    /// Once the peer has ended, our END is its leave to forget the stream: it waits until our bytes are acknowledged,
    /// so that nobody has to wonder about them.
    fn may_end(&self) -> bool {
        self.finishing && !self.end_sent && (self.board.is_empty() || !self.receiver.ended())
    }

    fn emit_new(&mut self, now: Micros, remote: Remote, out: &mut Vec<u8>) -> Option<Transmit> {
        let in_flight = self.board.in_flight();
        if !self.has_new() {
            if in_flight < self.bbr.window() && self.board.next_lost().is_none() {
                // The application, not the path, is the limit.
                self.delivery.app_limited_until = Some(self.delivery.delivered + u64::from(in_flight));
            }
            return None;
        }
        if u64::from(in_flight) >= self.peer_window_packets() {
            self.arm_window_probe(now);
            return None;
        }
        let partial = self.buffer.unsent() < self.mtu.payload() && !self.finishing;
        if in_flight >= self.bbr.window() || (partial && self.hold_partial) || !self.pace(now) {
            return None;
        }
        Some(self.push_new(now, remote, true, out))
    }

    fn arm_window_probe(&mut self, now: Micros) {
        if self.peer_window == 0 && self.board.is_empty() && self.timers.window_probe.is_none() {
            let wait = self
                .rtt
                .smoothed()
                .map_or(WINDOW_PROBE_INITIAL, |_| self.rtt.rto());
            self.timers.window_probe = Some(now + wait);
        }
    }

    fn rate_state(&mut self, now: Micros) -> (u64, Micros, Micros) {
        if self.board.in_flight() == 0 {
            self.delivery.first_sent_at = now;
            self.delivery.delivered_at = now;
        }
        (
            self.delivery.delivered,
            self.delivery.delivered_at,
            self.delivery.first_sent_at,
        )
    }

    fn push_new(&mut self, now: Micros, remote: Remote, may_probe: bool, out: &mut Vec<u8>) -> Transmit {
        let len = self.buffer.unsent().min(self.mtu.payload());
        let idle = self.board.in_flight() == 0;
        let padding = if may_probe && self.moving_until.is_none() {
            self.mtu.probe_padding(len)
        } else {
            None
        };
        if padding.is_some() {
            self.mtu.on_probe_sent();
        }
        let (delivered, delivered_at, first_sent_at) = self.rate_state(now);
        let offset = self.buffer.take(len);
        // Alone, see `only_end_unanswered`.
        let end = self.finishing && len == 0;
        self.end_sent |= end;
        let seq = self.board.next();
        let sent = Sent {
            fate: Fate::InFlight,
            offset,
            len: len as u16,
            end,
            probe: padding.is_some(),
            padding: padding.unwrap_or(0),
            retransmitted: false,
            timeouts: 0,
            remote: self.remote_epoch,
            sent_at: now,
            first_sent_at,
            delivered_at,
            delivered,
            app_limited: self.delivery.app_limited_until.is_some(),
            flew: 0,
            lost_before: 0,
        };
        let transmit = self.emit_data(remote, seq, &sent, out);
        self.board.push(sent);
        self.after_transmission(now, idle);
        self.arm_tail_probe_after_new(now, may_probe);
        transmit
    }

    fn arm_tail_probe_after_new(&mut self, now: Micros, not_itself_a_probe: bool) {
        if not_itself_a_probe {
            self.arm_tail_probe(now);
        }
    }

    fn after_transmission(&mut self, now: Micros, idle: bool) {
        if self.timers.retransmit.is_none() {
            self.timers.retransmit = Some(now + self.rtt.rto());
        }
        if idle && self.delivery.app_limited_until.is_some() {
            self.bbr.on_restart_from_idle(now, self.mtu.payload() as u32);
        }
    }

    fn emit_data(&mut self, remote: Remote, seq: u64, sent: &Sent, out: &mut Vec<u8>) -> Transmit {
        let mut flags = if sent.len > 0 { Flags::DATA } else { Flags::ACK };
        if sent.end {
            flags = flags.with(Flags::END);
        }
        let mut header = self.header(remote, flags);
        header.seq = seq as u32;
        header.data_offset = sent.padding;
        let start = out.len();
        out.extend_from_slice(&header.encode());
        out.resize(out.len() + usize::from(sent.padding), 0);
        self.buffer.copy(sent.offset, usize::from(sent.len), out);
        let len = out.len() - start;
        self.pacer.on_sent(len);
        Transmit {
            probe: sent.padding > 0,
            ..self.sent_packet(remote, len)
        }
    }
}
