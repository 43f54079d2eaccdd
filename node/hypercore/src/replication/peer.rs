//! What is known of one peer.

use std::collections::VecDeque;
use std::time::Instant;

use super::have::{PeerBlocks, Wants};
use super::{MAX_QUEUED_REQUESTS, MAX_REFUSALS, MAX_TIMEOUTS, PeerFault};
use crate::messages::{self, Request};

#[derive(Debug)]
pub(super) struct Peer {
    /// Its last Sync.
    pub remote: messages::Sync,
    /// Whether it sent one.
    pub synced: bool,
    /// The length that we proved to it since; it has that length, unless it refused the proof.
    pub proven: Option<u64>,
    /// Whether it was told so once more.
    pub reminded: bool,
    pub blocks: PeerBlocks,
    /// What it wants to be told about.
    pub wants: Wants,
    /// Requests that wait for an answer, in order.
    pub uploads: VecDeque<Request>,
    pub invalid_requests: u32,
    pub refusals: u32,
    pub timeouts: u32,
    /// When it last answered something: what is still queued behind that answer is not late yet.
    pub answered: Option<Instant>,
    /// Requests it may have in flight, and has.
    pub limit: usize,
    pub in_flight: usize,
    /// The fully contiguous length that it was told last.
    pub told_contiguous: u64,
    /// Wanted blocks before this were looked at: held, asked for, queued again, or not available here.
    pub scanned: u64,
}

impl Peer {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            remote: messages::Sync::default(),
            synced: false,
            proven: None,
            reminded: false,
            blocks: PeerBlocks::default(),
            wants: Wants::default(),
            uploads: VecDeque::new(),
            invalid_requests: 0,
            refusals: 0,
            timeouts: 0,
            answered: None,
            limit,
            in_flight: 0,
            told_contiguous: 0,
            scanned: 0,
        }
    }

    /// Whether anything more may be asked of it now.
    pub(super) fn may_ask(&self) -> bool {
        self.synced
            && self.in_flight < self.limit
            && self.refusals < MAX_REFUSALS
            && self.timeouts < MAX_TIMEOUTS
    }

    pub(super) fn rescan_from(&mut self, block: u64) {
        self.scanned = self.scanned.min(block);
    }

    pub(super) fn enqueue(&mut self, request: Request) -> Result<(), PeerFault> {
        self.uploads.retain(|queued| queued.id != request.id);
        if self.uploads.len() >= MAX_QUEUED_REQUESTS {
            return Err(PeerFault::BadRequests);
        }
        if request.priority > 0 {
            self.uploads.push_front(request);
        } else {
            self.uploads.push_back(request);
        }
        Ok(())
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
