//! What arrives: acknowledgements, data, messages, the end.

use bytes::Bytes;

use super::{AckBatch, Closed, MAX_MESSAGES, Micros, Stream, extended};
use crate::{
    bbr::{AckSample, RateSample, Recovery},
    packet::{Flags, Packet, expand},
    send::{Fate, Sent},
};

/// Packets acknowledged together at most. libudx acknowledges each; its senders pace and measure by packets delivered, so a few
/// at once change nothing, and a lost acknowledgement is followed by another soon.
const ACK_EVERY: u32 = 16;
/// The first packets of a stream, each of which is acknowledged for itself: nothing but the acknowledgements of its first flight
/// moves the peer on, and it has no estimate of the round trip time yet to notice soon that the only one was lost. (TCP's receivers do
/// so too at the beginning of a connection.)
const ACKED_SINGLY: u64 = 64;

impl Stream {
    /// Takes a packet for this stream; `datagram_len` is its whole length.
    pub fn receive(&mut self, now: Micros, packet: &Packet<'_>, datagram_len: usize) {
        self.counters.packets_received += 1;
        self.counters.bytes_received += datagram_len as u64;
        let flags = packet.header.flags;
        if self.closed.is_some() {
            self.answer_after_close(flags);
            return;
        }
        self.arm_keep_alive(now);
        if flags.has(Flags::HEARTBEAT) {
            self.ack_needed = true;
            return;
        }
        let seq = expand(packet.header.seq, self.receiver.next());
        if flags.has(Flags::DESTROY) && seq >= self.receiver.next() {
            self.close(Closed::Reset);
            return;
        }
        if flags.has(Flags::DATA.with(Flags::END)) {
            self.receive_data(seq, packet);
            if self.closed.is_some() {
                return;
            }
        }
        if flags.has(Flags::MESSAGE) {
            if self.messages_in.len() < MAX_MESSAGES && !self.detached {
                self.messages_in.push_back(Bytes::copy_from_slice(packet.payload));
            } else {
                self.counters.dropped_messages += 1;
            }
        }
        self.receive_ack(now, seq, packet);
        self.close_if_ended(now);
    }

    /// Lingering: a peer that repeats its last packets missed our acknowledgement.
    fn answer_after_close(&mut self, flags: Flags) {
        if self.closed == Some(Closed::Ended) {
            if flags.has(Flags::DESTROY) {
                self.timers.linger = None;
            } else if flags.has(Flags::DATA.with(Flags::END).with(Flags::HEARTBEAT)) {
                self.ack_needed = true;
            }
        }
    }

    fn receive_data(&mut self, seq: u64, packet: &Packet<'_>) {
        let flags = packet.header.flags;
        let payload = if flags.has(Flags::DATA) {
            packet.payload
        } else {
            &[]
        };
        if self.detached && !payload.is_empty() && seq >= self.receiver.next() {
            // Nobody will read it: say so instead of taking it.
            self.destroy();
            return;
        }
        self.receiver.accept(seq, payload, flags.has(Flags::END));
        self.ack_needed = true;
        self.unacknowledged += 1;
    }

    /// Whether an acknowledgement should leave before more packets are taken, also when they arrived together: whoever hands in
    /// a batch calls [`poll_transmit`](Self::poll_transmit) whenever this says so, and at the end.
    pub fn acknowledgement_is_due(&self) -> bool {
        self.unacknowledged >= if self.acknowledges_singly() { 1 } else { ACK_EVERY }
    }

    fn acknowledges_singly(&self) -> bool {
        self.receiver.next() - extended(self.config.initial_ack) <= ACKED_SINGLY
    }

    fn receive_ack(&mut self, now: Micros, seq: u64, packet: &Packet<'_>) {
        let ack = expand(packet.header.ack, self.board.next());
        if ack > self.board.next() {
            return; // acknowledges what was never sent
        }
        let prior_acked = self.board.acked();
        self.update_peer_window(seq, ack, packet.header.window);
        if self.moving_until.is_some_and(|until| ack >= until) {
            self.moving_until = None;
            self.old_remotes.clear();
        }
        self.note_tail_probe_acked(ack);
        if self.recovery != Recovery::Open && ack >= self.recovery_until {
            self.recovery = Recovery::Open;
        }
        if self.board.is_empty() {
            return;
        }
        self.batch.dirty = true;
        self.batch.packets += 1;
        let mut number = prior_acked;
        let mut release_to = None;
        while let Some(sent) = self.board.pop_acked(ack) {
            release_to = Some(sent.offset + u64::from(sent.len));
            if sent.fate != Fate::Sacked {
                self.on_delivered(now, number, &sent);
            }
            if sent.end {
                self.end_acked = true;
                self.ack_needed = true; // one more, so that the peer knows its own END arrived
            }
            number += 1;
        }
        if let Some(offset) = release_to {
            self.board.finish_ack();
            self.buffer.release(offset);
        }
        for (start, end) in packet.sacks.iter() {
            self.receive_sack(now, prior_acked, start, end);
        }
        if ack > prior_acked {
            self.on_ack_advanced(now);
        } else if self.batch.delivered > 0 {
            self.arm_tail_probe(now);
        }
    }

    fn update_peer_window(&mut self, seq: u64, ack: u64, window: u32) {
        let newer = self.window_seq < seq || (self.window_seq == seq && self.window_ack <= ack);
        if ack >= self.board.acked() && newer {
            self.peer_window = window;
            self.window_seq = seq;
            self.window_ack = ack;
            if window > 0 {
                self.timers.window_probe = None;
            }
        }
    }

    fn receive_sack(&mut self, now: Micros, prior_acked: u64, start: u32, end: u32) {
        let next = self.board.next();
        let (start, end) = (expand(start, next), expand(end, next));
        if end > next || start >= end || start < prior_acked {
            self.counters.invalid_sacks += 1;
            return;
        }
        let start = start.max(self.board.acked());
        while let Some(news) = self.board.sack(start..end) {
            for number in news {
                if let Some(sent) = self.board.mark_sacked(number) {
                    self.on_delivered(now, number, &sent);
                }
            }
        }
    }

    fn on_delivered(&mut self, now: Micros, seq: u64, sent: &Sent) {
        let packet_len = self.mtu.payload() as u32;
        self.mtu.on_acked(sent.probe);
        self.bbr
            .on_packet_len_change(packet_len, self.mtu.payload() as u32);
        self.batch.delivered += 1;
        self.delivery.delivered += 1;
        self.note_rate_sample(now, seq, sent);
        let rtt = self.rtt.clamp(now.saturating_sub(sent.sent_at));
        if !sent.retransmitted {
            self.rtt.sample(now, rtt);
        }
        self.tail_probe.permitted = true; // something got through: another probe is worth it
        // A retransmission acknowledged faster than the path allows was spurious: the first one arrived.
        if !sent.retransmitted || self.rtt.min().is_none_or(|min| rtt >= min) {
            self.rack.rtt = rtt;
            self.batch.rtt = Some(rtt);
            if (sent.sent_at, seq + 1) > (self.rack.sent_at, self.rack.end_seq) {
                self.rack.sent_at = sent.sent_at;
                self.rack.end_seq = seq + 1;
            }
        }
        if seq + 1 > self.rack.highest {
            self.rack.highest = seq + 1;
        } else if !sent.retransmitted {
            self.rack.reordering |= seq + 1 < self.rack.highest;
        }
    }

    /// Keeps the sample of the most recently sent of the packets that one batch delivers.
    fn note_rate_sample(&mut self, now: Micros, seq: u64, sent: &Sent) {
        let batch = &mut self.batch;
        if batch.newest.is_some() && (sent.sent_at, seq) <= batch.newest_order {
            return;
        }
        batch.newest_order = (sent.sent_at, seq);
        batch.newest_delivered_at = sent.delivered_at;
        self.delivery.first_sent_at = sent.sent_at;
        batch.newest = Some(RateSample {
            delivered: 0,
            interval: sent
                .sent_at
                .saturating_sub(sent.first_sent_at)
                .max(now.saturating_sub(sent.delivered_at)),
            prior_delivered: sent.delivered,
            app_limited: sent.app_limited,
        });
    }

    /// Acts on the acknowledgements since the last call: finds losses, updates the model of the path.
    pub(super) fn settle(&mut self, now: Micros) {
        if !self.batch.dirty || self.closed.is_some() {
            return;
        }
        if self.batch.delivered > 0 {
            self.detect_losses(now);
        }
        let batch = std::mem::take(&mut self.batch);
        self.blind_acks = match (self.recovery, batch.delivered) {
            (Recovery::Open, _) => 0,
            (_, 0) => (self.blind_acks + batch.packets).min(self.board.in_flight()),
            _ => self.blind_acks,
        };
        if self
            .delivery
            .app_limited_until
            .is_some_and(|until| self.delivery.delivered > until)
        {
            self.delivery.app_limited_until = None;
        }
        if batch.delivered > 0 {
            self.delivery.delivered_at = now;
        }
        let sample = AckSample {
            now,
            total_delivered: self.delivery.delivered,
            acked: batch.delivered,
            lost: batch.lost,
            worst: batch.worst,
            in_flight: self.board.in_flight(),
            rate: self.rate_sample(now, &batch),
            rtt: batch.rtt,
            smoothed_rtt: self.rtt.smoothed(),
            recovery: self.recovery,
            packet_len: self.mtu.payload() as u32,
        };
        self.bbr.on_ack(&sample);
        if self.bbr.is_probing_rtt() {
            // The small window says nothing about the path's bandwidth.
            self.delivery.app_limited_until =
                Some(self.delivery.delivered + u64::from(self.board.in_flight()));
        }
    }

    fn rate_sample(&self, now: Micros, batch: &AckBatch) -> Option<RateSample> {
        let newest = batch.newest?;
        let delivered = self.delivery.delivered - newest.prior_delivered;
        let interval = newest.interval.max(now.saturating_sub(batch.newest_delivered_at));
        // Faster than the path's own delay: a compressed burst, or a spurious retransmission. Not a measurement.
        let plausible = interval > 0 && self.rtt.min().is_none_or(|min| interval >= min);
        plausible.then_some(RateSample {
            delivered,
            interval,
            ..newest
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::{Config, Path, SocketId};

    const RTT: Micros = 100_000;

    /// Two connected ends, and the datagrams that the first sends at once.
    fn first_flight() -> (Stream, Stream, Vec<Vec<u8>>) {
        let connected = |id: u32| {
            let mut stream = Stream::new(Config::new(id), 0);
            let address = std::net::SocketAddr::from(([10, 0, 0, 1], 1));
            let socket = SocketId(0);
            assert!(stream.connect(0, Path { socket, address }, id ^ 1));
            stream
        };
        let (mut sender, receiver) = (connected(0), connected(1));
        assert_eq!(sender.write(&vec![7; 60_000]), 60_000);
        let flight = drain(&mut sender, 0);
        (sender, receiver, flight)
    }

    fn drain(stream: &mut Stream, now: Micros) -> Vec<Vec<u8>> {
        let mut datagrams = Vec::new();
        loop {
            let mut datagram = Vec::new();
            if stream.poll_transmit(now, &mut datagram).is_none() {
                return datagrams;
            }
            datagrams.push(datagram);
        }
    }

    /// What a receiver answers to datagrams that it gets together, as the driver hands them in.
    fn answers(receiver: &mut Stream, now: Micros, datagrams: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let mut answers = Vec::new();
        for datagram in datagrams {
            receiver.receive(now, &Packet::decode(datagram).unwrap(), datagram.len());
            if receiver.acknowledgement_is_due() {
                answers.extend(drain(receiver, now));
            }
        }
        answers.extend(drain(receiver, now));
        answers
    }

    #[test]
    fn a_stream_goes_on_after_a_round_trip_although_the_first_acknowledgement_is_lost() {
        let (mut sender, mut receiver, flight) = first_flight();
        let answers = answers(&mut receiver, RTT / 2, &flight);
        assert!(answers.len() >= flight.len(), "{} answers", answers.len());
        for answer in &answers[1..] {
            sender.receive(RTT, &Packet::decode(answer).unwrap(), answer.len());
        }
        assert!(drain(&mut sender, RTT).len() >= flight.len());
    }

    #[test]
    fn later_packets_that_arrive_together_are_acknowledged_together() {
        let (mut sender, mut receiver, mut flight) = first_flight();
        let (mut now, mut sent, mut answered) = (0, 0, 0);
        while !flight.is_empty() {
            now += RTT;
            let answers = answers(&mut receiver, now, &flight);
            if !receiver.acknowledges_singly() {
                sent += flight.len();
                answered += answers.len();
            }
            for answer in &answers {
                sender.receive(now, &Packet::decode(answer).unwrap(), answer.len());
            }
            sender.write(&vec![7; 60_000]);
            flight = if sent < 1000 {
                drain(&mut sender, now)
            } else {
                Vec::new()
            };
        }
        assert!(
            answered * 8 < sent,
            "{answered} acknowledgements of {sent} packets"
        );
    }
}
