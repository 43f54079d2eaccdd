//! What is known of one peer.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, Instant};

use super::have::{PeerBlocks, Wants};
use super::uploads::Uploads;
use super::window::{MIN_IN_FLIGHT, Window};
use super::{MAX_REFUSALS, MAX_TIMEOUTS, PeerFault};
use crate::messages;

/// Requests beyond the window for blocks that somebody waits for.
const URGENT_RESERVE: usize = 16;

/// How often a peer is reminded of one upgrade; the last time of the length it has if it took the proof.
const REMINDERS: u32 = 13;
/// Wait before the third reminder; each later one waits longer.
const REMIND_AFTER: Duration = Duration::from_millis(500);
/// Longest wait between two reminders.
const REMIND_EVERY: Duration = Duration::from_secs(15);

/// An upgrade that was proven to a peer, which has not said since that it has grown.
#[derive(Debug, Clone, Copy)]
pub(super) struct Proven {
    /// The length it had when it asked; it has that still if the proof came too late, or was not taken.
    pub from: u64,
    /// The length it has if it took the proof.
    to: u64,
    /// Reminders sent.
    reminders: u32,
    /// When the next may be sent; at once if none.
    due: Option<Instant>,
}

impl Proven {
    pub(super) fn new(from: u64, to: u64) -> Self {
        Self {
            from,
            to,
            reminders: 0,
            due: None,
        }
    }

    /// The length that it is said to have: in turns what it has if it took the proof, and what it has otherwise.
    pub(super) fn length(&self) -> u64 {
        if self.reminders > 0 && self.reminders.is_multiple_of(2) {
            self.from
        } else {
            self.to
        }
    }

    /// Whether it is to be told now; counts that it was.
    pub(super) fn remind(&mut self, now: Instant) -> bool {
        if self.reminders == REMINDERS || self.due.is_some_and(|due| now < due) {
            return false;
        }
        self.reminders += 1;
        self.due = Some(now + (REMIND_AFTER * (1 << (self.reminders / 2))).min(REMIND_EVERY));
        true
    }

    /// Another length of ours is told with it: all is to be said again.
    pub(super) fn restart(&mut self) {
        (self.reminders, self.due) = (0, None);
    }
}

#[derive(Debug)]
pub(super) struct Peer {
    /// Its last Sync.
    pub remote: messages::Sync,
    /// Whether it sent one.
    pub synced: bool,
    /// The last upgrade that we proved to it, while it has not said a length that it did not have before.
    pub proven: Option<Proven>,
    pub blocks: PeerBlocks,
    /// What it wants to be told about.
    pub wants: Wants,
    /// Requests that wait for an answer, in order.
    pub uploads: Uploads,
    pub invalid_requests: u32,
    pub refusals: u32,
    pub timeouts: u32,
    /// Refusals and timeouts beyond the answers it gave: the peer with fewer is asked first. Announcements don't mend it, so one that
    /// refuses what it announces, again and again, does not keep others from being asked.
    pub debt: u32,
    /// When it last answered something: what is still queued behind that answer is not late yet.
    pub answered: Option<Instant>,
    /// How much it may have in flight, and how many requests it has.
    pub window: Window,
    pub in_flight: usize,
    /// The fully contiguous length that it was told last.
    pub told_contiguous: u64,
    /// Wanted blocks before this were looked at: held, asked for, queued again, or not available here.
    pub scanned: u64,
    /// As `scanned`, when looking for blocks that no other peer has.
    pub scanned_alone: u64,
    /// Proofs from it that were false.
    pub bad_proofs: u32,
    /// Since when it is to prove that its tree is ours, after a false proof. Nothing else is asked of it meanwhile.
    pub doubted: Option<Instant>,
    /// Unasked proofs from it that were looked at.
    pub unasked_proofs: u32,
    /// What it did that makes it useless; nothing is asked of it and its channel is to be closed.
    pub fault: Option<PeerFault>,
    /// Requests that are refused later, and when; at most [`super::MAX_INVALID_REQUESTS`].
    pub delayed: VecDeque<(Instant, u64)>,
    /// No seek is asked of it until then.
    pub seek_after: Option<Instant>,
    /// Blocks to be pushed to it, in their order.
    pub pushes: VecDeque<Range<u64>>,
    /// The length that was sent to it, asked for or not, of the fork that it has; it may have been lost to it.
    pub pushed_length: u64,
    /// Name of its last extension message.
    pub extension: String,
}

impl Peer {
    pub(super) fn new() -> Self {
        Self {
            remote: messages::Sync::default(),
            synced: false,
            proven: None,
            blocks: PeerBlocks::default(),
            wants: Wants::default(),
            uploads: Uploads::default(),
            invalid_requests: 0,
            refusals: 0,
            timeouts: 0,
            debt: 0,
            answered: None,
            window: Window::new(),
            in_flight: 0,
            told_contiguous: 0,
            scanned: 0,
            scanned_alone: 0,
            bad_proofs: 0,
            doubted: None,
            unasked_proofs: 0,
            fault: None,
            delayed: VecDeque::new(),
            seek_after: None,
            pushes: VecDeque::new(),
            pushed_length: 0,
            extension: String::new(),
        }
    }

    /// Whether anything more may be asked of it now.
    pub(super) fn may_ask(&self) -> bool {
        self.is_useful() && self.in_flight < self.window.limit()
    }

    /// Whether a block that somebody waits for may be asked of it although its window is full.
    pub(super) fn may_ask_urgent(&self) -> bool {
        self.is_useful() && self.in_flight < self.window.limit() + URGENT_RESERVE
    }

    /// Whether it has so little to do that it may be asked for what others are asked for (as in JS).
    pub(super) fn may_swap(&self) -> bool {
        self.is_useful() && self.in_flight < (self.window.limit() / 2).max(MIN_IN_FLIGHT)
    }

    /// Whether it is asked at all.
    pub(super) fn is_useful(&self) -> bool {
        self.synced
            && self.fault.is_none()
            && self.doubted.is_none()
            && self.refusals < MAX_REFUSALS
            && self.timeouts < MAX_TIMEOUTS
    }

    pub(super) fn rescan_from(&mut self, block: u64) {
        self.scanned = self.scanned.min(block);
        self.scanned_alone = self.scanned_alone.min(block);
    }

    pub(super) fn on_range(&mut self, range: &messages::Range) {
        let Some(end) = range.start.checked_add(range.length) else {
            return;
        };
        if range.drop {
            self.blocks.remove(range.start..end);
        } else {
            self.blocks.insert(range.start..end);
            self.refusals = 0;
            self.timeouts = 0;
            self.rescan_from(range.start);
        }
    }

    pub(super) fn on_bitfield(&mut self, bitfield: &messages::BitfieldMessage) {
        self.blocks.copy_bits(bitfield.start, &bitfield.words);
        self.refusals = 0;
        self.rescan_from(bitfield.start);
    }
}
