//! The sending half's memory: bytes that wait or fly ([`SendBuffer`]) and the packets that carry them
//! ([`Scoreboard`]). It records; the stream decides.

use std::{collections::VecDeque, ops::Range};

use crate::{bbr::Lost, clock::Micros, ranges::RangeSet};

/// Buffers larger than this are given back when they run empty.
const KEEP_CAPACITY: usize = 64 * 1024;
/// An empty queue of at most this many bytes, or packets, is given back as well: thousands of streams say little, and seldom.
const FEW_BYTES: usize = 1024;
const FEW_PACKETS: usize = 8;

/// Whether an empty buffer of this capacity is not kept for what comes next.
pub(crate) fn is_given_back(capacity: usize) -> bool {
    capacity > KEEP_CAPACITY || capacity <= FEW_BYTES
}

/// Written bytes, from the first unacknowledged one on. Offsets count from the stream's first byte.
#[derive(Debug, Default)]
pub(crate) struct SendBuffer {
    bytes: VecDeque<u8>,
    start: u64,
    /// Offset of the first byte that was never sent.
    unsent: u64,
}

impl SendBuffer {
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn unsent(&self) -> usize {
        self.bytes.len() - (self.unsent - self.start) as usize
    }

    /// Takes the next `len` unsent bytes into a packet; returns their offset.
    pub(crate) fn take(&mut self, len: usize) -> u64 {
        let at = self.unsent;
        self.unsent += len as u64;
        at
    }

    pub(crate) fn copy(&self, offset: u64, len: usize, out: &mut Vec<u8>) {
        let at = (offset - self.start) as usize;
        let (front, back) = self.bytes.as_slices();
        if at < front.len() {
            let first = len.min(front.len() - at);
            out.extend_from_slice(&front[at..at + first]);
            out.extend_from_slice(&back[..len - first]);
        } else {
            let at = at - front.len();
            out.extend_from_slice(&back[at..at + len]);
        }
    }

    /// Everything below `offset` arrived.
    pub(crate) fn release(&mut self, offset: u64) {
        let n = offset.saturating_sub(self.start) as usize;
        self.bytes.drain(..n);
        self.start += n as u64;
        if self.bytes.is_empty() && is_given_back(self.bytes.capacity()) {
            self.bytes = VecDeque::new();
        }
    }

    pub(crate) fn clear(&mut self) {
        self.start += self.bytes.len() as u64;
        self.unsent = self.start;
        self.bytes = VecDeque::new();
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    InFlight,
    Lost,
    Sacked,
}

/// A packet that was sent and not yet acknowledged with all before it.
#[derive(Clone, Copy, Debug)]
#[allow(
    clippy::struct_excessive_bools,
    clippy::struct_field_names,
    reason = "independent facts about one packet"
)]
pub(crate) struct Sent {
    pub(crate) fate: Fate,
    /// Its bytes in the [`SendBuffer`].
    pub(crate) offset: u64,
    pub(crate) len: u16,
    pub(crate) end: bool,
    /// Padded to find the MTU.
    pub(crate) probe: bool,
    pub(crate) padding: u8,
    pub(crate) retransmitted: bool,
    /// Retransmission timeouts that named this packet.
    pub(crate) timeouts: u8,
    /// Which remote it was first sent to.
    pub(crate) remote: u32,
    /// Last transmission.
    pub(crate) sent_at: Micros,
    /// Delivery rate sampling: the state of the stream when it was sent.
    pub(crate) first_sent_at: Micros,
    pub(crate) delivered_at: Micros,
    pub(crate) delivered: u64,
    pub(crate) app_limited: bool,
    /// Packets in flight with it, and lost before it (modulo 2^32).
    pub(crate) flew: u32,
    pub(crate) lost_before: u32,
}

/// Every packet between the peer's acknowledgement and our next number.
#[derive(Debug)]
pub(crate) struct Scoreboard {
    first: u64,
    sent: VecDeque<Sent>,
    /// Transmissions in order of time. Entries whose packet was sent again or delivered are stale and skipped.
    order: VecDeque<(u64, Micros)>,
    /// Lost packets in the order to send them again; stale entries are skipped.
    lost: VecDeque<u64>,
    sacked: RangeSet,
    in_flight: u32,
    sacked_count: u32,
    sacked_bytes: usize,
    /// Losses of packets that were no probes, modulo 2^32.
    lost_count: u32,
}

impl Scoreboard {
    pub(crate) fn new(first: u64) -> Self {
        Self {
            first,
            sent: VecDeque::new(),
            order: VecDeque::new(),
            lost: VecDeque::new(),
            sacked: RangeSet::default(),
            in_flight: 0,
            sacked_count: 0,
            sacked_bytes: 0,
            lost_count: 0,
        }
    }

    /// The peer has everything below.
    pub(crate) fn acked(&self) -> u64 {
        self.first
    }

    /// The number of the next new packet.
    pub(crate) fn next(&self) -> u64 {
        self.first + self.sent.len() as u64
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.sent.is_empty()
    }

    /// Packets on their way.
    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight
    }

    pub(crate) fn sacked(&self) -> u32 {
        self.sacked_count
    }

    /// Bytes that arrived behind a gap: we still keep them, the network does not.
    pub(crate) fn sacked_bytes(&self) -> usize {
        self.sacked_bytes
    }

    pub(crate) fn get(&self, seq: u64) -> Option<&Sent> {
        self.sent.get(seq.checked_sub(self.first)? as usize)
    }

    fn get_mut(&mut self, seq: u64) -> Option<&mut Sent> {
        self.sent.get_mut(seq.checked_sub(self.first)? as usize)
    }

    pub(crate) fn push(&mut self, packet: Sent) {
        self.order.push_back((self.next(), packet.sent_at));
        self.in_flight += 1;
        self.sent.push_back(Sent {
            flew: self.in_flight,
            lost_before: self.lost_count,
            ..packet
        });
    }

    /// A packet that was lost (or, for a tail loss probe, still flies) leaves again.
    pub(crate) fn resend(&mut self, seq: u64, update: impl FnOnce(&mut Sent)) {
        let (lost_before, flew) = (self.lost_count, self.in_flight + 1);
        let Some(packet) = self.get_mut(seq) else { return };
        let was = packet.fate;
        packet.fate = Fate::InFlight;
        packet.retransmitted = true;
        packet.lost_before = lost_before;
        packet.flew = flew;
        update(packet);
        let at = packet.sent_at;
        if was != Fate::InFlight {
            self.in_flight += 1;
        }
        self.order.push_back((seq, at));
    }

    /// Removes the oldest packet: the peer has it. `None` when nothing below `ack` is left.
    pub(crate) fn pop_acked(&mut self, ack: u64) -> Option<Sent> {
        if self.first >= ack {
            return None;
        }
        let packet = self.sent.pop_front()?;
        self.first += 1;
        match packet.fate {
            Fate::InFlight => self.in_flight -= 1,
            Fate::Sacked => {
                self.sacked_count -= 1;
                self.sacked_bytes -= usize::from(packet.len);
            }
            Fate::Lost => {}
        }
        Some(packet)
    }

    /// Call after the last `pop_acked` of an acknowledgement.
    pub(crate) fn finish_ack(&mut self) {
        self.sacked.remove_below(self.first);
        if self.sent.is_empty() {
            self.order.clear();
            self.lost.clear();
            if self.sent.capacity() <= FEW_PACKETS {
                self.sent = VecDeque::new();
                self.order = VecDeque::new();
                self.lost = VecDeque::new();
            }
        }
    }

    /// The next part of a selectively acknowledged range that is news; marks it. `range` must lie between
    /// [`acked`](Self::acked) and [`next`](Self::next).
    pub(crate) fn sack(&mut self, range: Range<u64>) -> Option<Range<u64>> {
        let gap = self.sacked.first_gap(range)?;
        self.sacked.insert(gap.clone());
        Some(gap)
    }

    /// Marks one packet of a range from [`sack`](Self::sack) and returns it as it was.
    pub(crate) fn mark_sacked(&mut self, seq: u64) -> Option<Sent> {
        let packet = self.get_mut(seq)?;
        let was = *packet;
        packet.fate = Fate::Sacked;
        match was.fate {
            Fate::InFlight => self.in_flight -= 1,
            Fate::Lost => {}
            Fate::Sacked => return None,
        }
        self.sacked_count += 1;
        self.sacked_bytes += usize::from(was.len);
        Some(was)
    }

    /// The oldest transmission of a packet still in flight.
    pub(crate) fn oldest_in_flight(&mut self) -> Option<(u64, Micros)> {
        while let Some(&(seq, at)) = self.order.front() {
            if self
                .get(seq)
                .is_some_and(|packet| packet.fate == Fate::InFlight && packet.sent_at == at)
            {
                return Some((seq, at));
            }
            self.order.pop_front();
        }
        None
    }

    /// Marks a packet lost; it waits to be sent again. Its padding is dropped. Returns what was lost since it was sent, and nothing if
    /// it was a probe.
    pub(crate) fn mark_lost(&mut self, seq: u64) -> Option<Lost> {
        let packet = self.get_mut(seq)?;
        if packet.fate != Fate::InFlight {
            return None;
        }
        packet.fate = Fate::Lost;
        let probe = std::mem::take(&mut packet.probe);
        packet.padding = 0;
        let (flew, lost_before) = (packet.flew, packet.lost_before);
        self.in_flight -= 1;
        self.lost.push_back(seq);
        if probe {
            return None;
        }
        self.lost_count = self.lost_count.wrapping_add(1);
        Some(Lost {
            since_sent: self.lost_count.wrapping_sub(lost_before),
            flew,
        })
    }

    /// Counts a retransmission timeout of a packet; returns how many it had before.
    pub(crate) fn count_timeout(&mut self, seq: u64) -> u8 {
        self.get_mut(seq).map_or(0, |packet| {
            packet.timeouts = packet.timeouts.saturating_add(1);
            packet.timeouts - 1
        })
    }

    /// The next lost packet to send again.
    pub(crate) fn next_lost(&mut self) -> Option<u64> {
        while let Some(&seq) = self.lost.front() {
            if self.get(seq).is_some_and(|packet| packet.fate == Fate::Lost) {
                return Some(seq);
            }
            self.lost.pop_front();
        }
        None
    }

    /// Sorts the lost packets by number, as after a timeout, when the oldest matters most.
    pub(crate) fn sort_lost(&mut self) {
        self.lost.make_contiguous().sort_unstable();
    }

    /// Numbers of all packets, with what they are now.
    pub(crate) fn packets(&self) -> impl Iterator<Item = (u64, &Sent)> {
        (self.first..).zip(self.sent.iter())
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::new(self.next());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(sent_at: Micros) -> Sent {
        Sent {
            fate: Fate::InFlight,
            offset: 0,
            len: 1,
            end: false,
            probe: false,
            padding: 0,
            retransmitted: false,
            timeouts: 0,
            remote: 0,
            sent_at,
            first_sent_at: 0,
            delivered_at: 0,
            delivered: 0,
            app_limited: false,
            flew: 0,
            lost_before: 0,
        }
    }

    #[test]
    fn a_packet_is_counted_once_whatever_happens_to_it() {
        let mut board = Scoreboard::new(100);
        (0..4).for_each(|at| board.push(packet(at)));
        assert_eq!((board.next(), board.in_flight()), (104, 4));
        assert_eq!(board.sack(102..104), Some(102..104));
        assert_eq!(board.sack(102..104), None, "the same block again is no news");
        assert!(board.mark_sacked(102).is_some() && board.mark_sacked(102).is_none());
        assert_eq!(board.oldest_in_flight(), Some((100, 0)));
        board.mark_lost(100);
        assert_eq!(
            (board.next_lost(), board.oldest_in_flight()),
            (Some(100), Some((101, 1)))
        );
        board.resend(100, |packet| packet.sent_at = 9);
        assert_eq!(
            (board.next_lost(), board.in_flight(), board.sacked()),
            (None, 3, 1)
        );
        while board.pop_acked(104).is_some() {}
        board.finish_ack();
        assert_eq!((board.in_flight(), board.sacked(), board.acked()), (0, 0, 104));
        assert!(board.oldest_in_flight().is_none());
    }

    #[test]
    fn bytes_are_read_back_across_the_end_of_the_ring() {
        let mut buffer = SendBuffer::default();
        let (mut expected, mut out) = (0u8, Vec::new());
        for round in 0..50 {
            buffer.write(&(0..37).map(|n: u8| n.wrapping_add(expected)).collect::<Vec<_>>());
            expected = expected.wrapping_add(37);
            let at = buffer.take(37);
            assert_eq!(at, round * 37);
            buffer.copy(at, 37, &mut out);
            if round > 2 {
                buffer.release(at - 37);
            }
        }
        assert!(out.iter().enumerate().all(|(i, byte)| *byte == i as u8));
        assert_eq!((buffer.len(), buffer.unsent()), (74, 0));
    }
}
