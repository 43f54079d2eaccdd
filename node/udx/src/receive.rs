//! The receiving half of a stream: puts packets in order, holds what the application has not read, and says how
//! much more it can hold.
//!
//! Memory: unread bytes and packets held out of order together stay within [`Receiver::limit`], two windows and some slack.
//! Beyond it only the packet next in order comes in, while unread bytes are below the window, since packets held out of order
//! must not block the one that releases them. So another window is the hard bound, whatever a peer sends.
//!
//! Two windows, because a lost packet holds up all that was sent in the round trip that its repair takes: were that
//! taken off the window, as unread bytes are, a path that loses something in every round trip would stand still half of
//! the time. (libudx takes off nothing and holds whatever comes.)

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
};

use crate::{ranges::RangeSet, send::is_given_back};

/// What is held besides the window, twice: once so that a reader which keeps up advertises a window that stands still (as
/// libudx does), once for packets sent before the window shrank. Never more than the window itself.
const SLACK: usize = 64 * 1024;
/// Farthest ahead of the expected number that a packet is held; as far as libudx looks when it builds blocks.
const MAX_AHEAD: u64 = 65_536;
/// Bookkeeping of one held packet, counted like bytes so that many tiny packets are bounded too.
const HELD_OVERHEAD: usize = 96;

#[derive(Debug)]
struct Held {
    data: Box<[u8]>,
    end: bool,
}

#[derive(Debug)]
pub(crate) struct Receiver {
    /// The number expected next.
    next: u64,
    unread: VecDeque<u8>,
    held: BTreeMap<u64, Held>,
    held_numbers: RangeSet,
    held_bytes: usize,
    /// The packet held last.
    newest: u64,
    window: usize,
    advertised: usize,
    ended: bool,
    discard: bool,
}

impl Receiver {
    pub(crate) fn new(next: u64, window: usize) -> Self {
        Self {
            next,
            unread: VecDeque::new(),
            held: BTreeMap::new(),
            held_numbers: RangeSet::default(),
            held_bytes: 0,
            newest: 0,
            window,
            advertised: window,
            ended: false,
            discard: false,
        }
    }

    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// Takes a packet that carries DATA or END. Returns how many bytes became readable.
    pub(crate) fn accept(&mut self, seq: u64, data: &[u8], end: bool) -> usize {
        if seq < self.next || self.ended {
            return 0;
        }
        let before = self.unread.len();
        if seq == self.next {
            let room = self.unread.len() < self.window || self.used() + data.len() <= self.limit();
            if !room {
                return 0;
            }
            self.deliver(data, end);
            self.release_held();
        } else if self.may_hold(seq, data.len()) {
            self.held_bytes += data.len() + HELD_OVERHEAD;
            self.newest = seq;
            self.held_numbers.insert(seq..seq + 1);
            self.held.insert(
                seq,
                Held {
                    data: data.into(),
                    end,
                },
            );
        }
        self.unread.len() - before
    }

    fn may_hold(&self, seq: u64, len: usize) -> bool {
        seq - self.next <= MAX_AHEAD
            && !self.held.contains_key(&seq)
            && self.used() + len + HELD_OVERHEAD <= self.limit()
    }

    fn used(&self) -> usize {
        self.unread.len() + self.held_bytes
    }

    fn deliver(&mut self, data: &[u8], end: bool) {
        self.next += 1;
        if !self.discard {
            self.unread.extend(data);
        }
        self.ended |= end;
    }

    fn release_held(&mut self) {
        while let Some(entry) = self.held.first_entry() {
            if *entry.key() != self.next || self.ended {
                break;
            }
            let held = entry.remove();
            self.held_bytes -= held.data.len() + HELD_OVERHEAD;
            self.deliver(&held.data, held.end);
        }
        if self.ended {
            // Nothing can follow an END; a peer that says otherwise is not listened to.
            self.held.clear();
            self.held_bytes = 0;
        }
        self.held_numbers
            .remove_below(if self.ended { u64::MAX } else { self.next });
    }

    /// Copies unread bytes out.
    pub(crate) fn read(&mut self, into: &mut [u8]) -> usize {
        let (front, back) = self.unread.as_slices();
        let first = front.len().min(into.len());
        into[..first].copy_from_slice(&front[..first]);
        let second = back.len().min(into.len() - first);
        into[first..first + second].copy_from_slice(&back[..second]);
        self.unread.drain(..first + second);
        if self.unread.is_empty() && is_given_back(self.unread.capacity()) {
            self.unread = VecDeque::new();
        }
        first + second
    }

    pub(crate) fn unread(&self) -> usize {
        self.unread.len()
    }

    /// Whether the peer's END was reached: after the unread bytes comes the end of the stream.
    pub(crate) fn ended(&self) -> bool {
        self.ended
    }

    /// From now on bytes are acknowledged and thrown away.
    pub(crate) fn discard(&mut self) {
        self.discard = true;
        self.unread = VecDeque::new();
    }

    /// Drops everything that is held out of order.
    pub(crate) fn clear(&mut self) {
        self.held.clear();
        self.held_bytes = 0;
        self.held_numbers = RangeSet::default();
    }

    /// Bytes we can take now: what the application has not read counts against the window, what is held out of order
    /// only against the memory behind it.
    fn free(&self) -> usize {
        let unread = (self.window + self.slack()).saturating_sub(self.unread.len());
        let held = (2 * self.window + self.slack()).saturating_sub(self.used());
        unread.min(held).min(self.window)
    }

    fn slack(&self) -> usize {
        SLACK.min(self.window)
    }

    fn limit(&self) -> usize {
        2 * (self.window + self.slack())
    }

    /// The window to write into a packet; remembered, so that its opening can be told.
    pub(crate) fn advertise(&mut self) -> u32 {
        self.advertised = self.free();
        u32::try_from(self.advertised).unwrap_or(u32::MAX)
    }

    /// Whether reading opened the window so much that a sender waiting for it should hear now, not at its next probe.
    pub(crate) fn should_announce_window(&self) -> bool {
        let step = (self.window / 4).min(SLACK);
        self.advertised < self.window / 2 && self.free() >= self.advertised + step
    }

    pub(crate) fn has_gaps(&self) -> bool {
        !self.held_numbers.is_empty()
    }

    /// At most `limit` ranges held out of order: the lowest, whose gaps are to be repaired first, and those around the newest
    /// packet. libudx tells the lowest only: with more gaps than blocks its senders never learn what arrived
    /// behind them and stall until a timeout.
    pub(crate) fn held_ranges(&self, limit: usize) -> impl Iterator<Item = Range<u64>> + '_ {
        let few = self.held_numbers.len() <= limit;
        let lowest = if few { limit } else { limit - limit / 3 };
        let around = if few { 0 } else { limit / 3 };
        let last_low = self
            .held_numbers
            .iter()
            .nth(lowest - 1)
            .map_or(u64::MAX, |range| range.start);
        let newest = self.held_numbers.iter_down_from(self.newest).take(around);
        self.held_numbers
            .iter()
            .take(lowest)
            .chain(newest.filter(move |range| range.start > last_low))
    }

    /// Bytes of memory that a peer made us hold.
    pub(crate) fn memory(&self) -> usize {
        self.used()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn packets_in_any_order_come_out_in_order_and_once() {
        let mut receiver = Receiver::new(10, 1 << 20);
        for seq in [12, 13, 12, 15, 10, 10, 14, 11, 9] {
            receiver.accept(seq, &[seq as u8], seq == 15);
        }
        let mut out = [0; 16];
        let n = receiver.read(&mut out);
        assert_eq!(&out[..n], &[10, 11, 12, 13, 14, 15]);
        assert!(receiver.ended() && !receiver.has_gaps());
        assert_eq!(receiver.accept(16, b"late", false), 0, "nothing follows the end");
    }

    #[test]
    fn the_window_shrinks_with_what_is_held_and_opens_with_reading() {
        let mut receiver = Receiver::new(0, 256 * 1024);
        for seq in 0..60 {
            receiver.accept(seq, &[0; 1000], false);
        }
        assert_eq!(receiver.advertise(), 256 * 1024, "a reader that keeps up");
        for seq in 60..320 {
            receiver.accept(seq, &[0; 1000], false);
        }
        assert_eq!(receiver.advertise(), 320 * 1024 - 320_000);
        assert!(!receiver.should_announce_window());
        let mut out = vec![0; 70_000];
        receiver.read(&mut out);
        assert!(receiver.should_announce_window());
        receiver.advertise();
        assert!(!receiver.should_announce_window());
    }

    #[test]
    fn with_more_gaps_than_blocks_the_lowest_and_the_newest_are_told() {
        let mut receiver = Receiver::new(0, 1 << 20);
        (1..=40).for_each(|n| {
            receiver.accept(n * 2, b"x", false);
        });
        receiver.accept(62, b"x", false);
        let told: Vec<u64> = receiver.held_ranges(9).map(|range| range.start).collect();
        assert_eq!(told, [2, 4, 6, 8, 10, 12, 80, 78, 76], "a duplicate is not news");
        receiver.accept(101, b"x", false);
        let told: Vec<u64> = receiver.held_ranges(9).map(|range| range.start).collect();
        assert_eq!(told[6..], [101, 80, 78]);
        assert_eq!(receiver.held_ranges(100).count(), 41);
    }

    proptest! {
        #[test]
        fn a_peer_can_not_make_us_hold_more_than_three_windows_and_slack(
            packets in prop::collection::vec((0u64..3000, 0usize..1400), 0..3000), window in 1usize..200_000,
        ) {
            let mut receiver = Receiver::new(0, window);
            for (seq, len) in packets {
                receiver.accept(seq, &vec![0; len], false);
                prop_assert!(receiver.memory() <= receiver.limit() + window + 1400);
            }
        }
    }
}
