//! Sets of blocks: as intervals, and as what a peer says that it has.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

/// Bits in the window that a reader asks about (JS's default want).
pub(super) const WINDOW: u64 = 2_097_152;
/// Windows remembered per peer: with their bits 512 KiB at most.
const MAX_WINDOWS: usize = 2;
/// Intervals remembered per peer: a peer that announces more, in a scattered order, is asked again by window.
const MAX_INTERVALS: usize = 4096;

/// A set of blocks as disjoint intervals.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BlockSet {
    /// Start to end; neither empty nor touching.
    intervals: BTreeMap<u64, u64>,
}

impl BlockSet {
    /// Adds a range.
    pub fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let (mut start, mut end) = (range.start, range.end);
        while let Some((&from, &to)) = self.intervals.range(..=end).next_back() {
            if to < start {
                break;
            }
            (start, end) = (start.min(from), end.max(to));
            self.intervals.remove(&from);
        }
        self.intervals.insert(start, end);
    }

    /// Takes a range away.
    pub fn remove(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        while let Some((&from, &to)) = self.intervals.range(..range.end).next_back() {
            if to <= range.start {
                break;
            }
            self.intervals.remove(&from);
            if from < range.start {
                self.intervals.insert(from, range.start);
            }
            if to > range.end {
                self.intervals.insert(range.end, to);
            }
        }
    }

    /// Whether a block is in the set.
    pub fn contains(&self, block: u64) -> bool {
        self.intervals
            .range(..=block)
            .next_back()
            .is_some_and(|(_, &end)| block < end)
    }

    /// The first block of the set from `from` on.
    pub fn next(&self, from: u64) -> Option<u64> {
        if self.contains(from) {
            return Some(from);
        }
        self.intervals.range(from..).next().map(|(&start, _)| start)
    }

    /// The intervals, left to right.
    pub fn iter(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.intervals.iter().map(|(&start, &end)| start..end)
    }

    /// Whether no block is in the set.
    pub fn is_empty(&self) -> bool {
        self.intervals.is_empty()
    }

    /// Takes everything out.
    pub(super) fn take(&mut self) -> Vec<Range<u64>> {
        std::mem::take(&mut self.intervals)
            .into_iter()
            .map(|(start, end)| start..end)
            .collect()
    }

    fn len(&self) -> usize {
        self.intervals.len()
    }

    fn pop_last(&mut self) {
        self.intervals.pop_last();
    }
}

/// What a peer says it has. Bounded: intervals from announcements, and the bits of the few windows that we asked about.
#[derive(Debug, Default)]
pub(super) struct PeerBlocks {
    known: BlockSet,
    windows: VecDeque<Window>,
}

#[derive(Debug)]
struct Window {
    index: u64,
    words: Vec<u32>,
}

impl PeerBlocks {
    pub(super) fn contains(&self, block: u64) -> bool {
        self.known.contains(block) || self.window(block).is_some_and(|window| window.contains(block))
    }

    /// If the peer has a block: the end of what it surely has from there on.
    pub(super) fn end_of_run(&self, block: u64) -> Option<u64> {
        let known = self.known.intervals.range(..=block).next_back();
        let end = known.map(|(_, end)| *end).filter(|end| block < *end);
        end.or_else(|| self.contains(block).then_some(block + 1))
    }

    /// Whether the peer has told of all of a range. Says no for a range in window bits: it costs one message at most.
    pub(super) fn contains_range(&self, range: &Range<u64>) -> bool {
        let end = self
            .known
            .intervals
            .range(..=range.start)
            .next_back()
            .map(|(_, end)| *end);
        end.is_some_and(|end| range.end <= end)
            || (range.end - range.start == 1 && self.contains(range.start))
    }

    /// The first block from `from` on that the peer has.
    pub(super) fn next(&self, from: u64) -> Option<u64> {
        let in_windows = self.windows.iter().filter_map(|window| window.next(from)).min();
        [self.known.next(from), in_windows].into_iter().flatten().min()
    }

    pub(super) fn insert(&mut self, range: Range<u64>) {
        self.known.insert(range);
        while self.known.len() > MAX_INTERVALS {
            self.known.pop_last();
        }
    }

    pub(super) fn remove(&mut self, range: Range<u64>) {
        self.known.remove(range.clone());
        for window in &mut self.windows {
            window.clear(&range);
        }
    }

    /// Whether the window of a block was asked about.
    pub(super) fn asked(&self, block: u64) -> bool {
        self.window(block).is_some()
    }

    /// Remembers that the window of a block is asked about; returns its start, and the window that is forgotten for it.
    pub(super) fn ask(&mut self, block: u64) -> (u64, Option<u64>) {
        let forgotten = if self.windows.len() == MAX_WINDOWS {
            self.windows.pop_front()
        } else {
            None
        };
        self.windows.push_back(Window {
            index: block / WINDOW,
            words: Vec::new(),
        });
        (
            block / WINDOW * WINDOW,
            forgotten.map(|window| window.index * WINDOW),
        )
    }

    /// Takes the bits of a Bitfield message, as far as they were asked for.
    pub(super) fn copy_bits(&mut self, start: u64, words: &[u32]) {
        let bits = words.len() as u64 * 32;
        let Some(end) = start.checked_add(bits).filter(|_| start.is_multiple_of(32)) else {
            return;
        };
        self.known.remove(start..end);
        for window in &mut self.windows {
            let from = window.index * WINDOW;
            for (position, word) in (start / 32..).zip(words) {
                if (from / 32..(from + WINDOW) / 32).contains(&position) {
                    window.set_word((position - from / 32) as usize, *word);
                }
            }
        }
    }

    fn window(&self, block: u64) -> Option<&Window> {
        self.windows.iter().find(|window| window.index == block / WINDOW)
    }
}

impl Window {
    fn contains(&self, block: u64) -> bool {
        let bit = block % WINDOW;
        self.words
            .get((bit / 32) as usize)
            .is_some_and(|word| word >> (bit % 32) & 1 == 1)
    }

    fn set_word(&mut self, position: usize, word: u32) {
        if self.words.len() <= position {
            if word == 0 {
                return;
            }
            self.words.resize(position + 1, 0);
        }
        self.words[position] = word;
    }

    fn next(&self, from: u64) -> Option<u64> {
        let start = self.index * WINDOW;
        let skip = from.saturating_sub(start);
        for position in (skip / 32) as usize..self.words.len() {
            let mut word = self.words[position];
            if position as u64 == skip / 32 {
                word &= u32::MAX << (skip % 32);
            }
            if word != 0 {
                return Some(start + position as u64 * 32 + u64::from(word.trailing_zeros()));
            }
        }
        None
    }

    fn clear(&mut self, range: &Range<u64>) {
        let start = self.index * WINDOW;
        let end = start + self.words.len() as u64 * 32;
        let (from, to) = (range.start.max(start), range.end.min(end));
        if from >= to {
            return;
        }
        let (from, to) = (from - start, to - start);
        for position in from / 32..to.div_ceil(32) {
            let first = from.saturating_sub(position * 32);
            let last = (to - position * 32).min(32);
            let bits = ((1_u64 << last) - (1_u64 << first.min(32))) as u32;
            self.words[position as usize] &= !bits;
        }
    }
}

/// The windows a peer wants to be told about (JS: at most 512, in at most four sizes; beyond that: everything).
#[derive(Debug, Default)]
pub(super) struct Wants {
    windows: std::collections::HashSet<(u64, u64)>,
    everything: bool,
}

/// Windows remembered per peer.
const MAX_WANTS: usize = 512;

impl Wants {
    pub(super) fn insert(&mut self, start: u64, length: u64) {
        let shaped =
            length.is_power_of_two() && (32..=WINDOW).contains(&length) && start.is_multiple_of(length);
        if shaped && self.windows.len() < MAX_WANTS {
            self.windows.insert((start, length));
        } else {
            self.everything = true;
        }
    }

    pub(super) fn remove(&mut self, start: u64, length: u64) {
        self.windows.remove(&(start, length));
    }

    pub(super) fn cover(&self, range: &Range<u64>) -> bool {
        self.everything
            || self
                .windows
                .iter()
                .any(|(start, length)| *start < range.end && range.start < start + length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_claim_of_2_to_the_40_blocks_is_one_interval() {
        let mut peer = PeerBlocks::default();
        peer.insert(1..1 << 40);
        assert!(!peer.contains(0) && peer.contains((1 << 40) - 1));
        assert_eq!(peer.known.len(), 1);
    }

    #[test]
    fn bits_that_were_not_asked_for_are_not_kept() {
        let mut peer = PeerBlocks::default();
        peer.copy_bits(0, &[u32::MAX; 8]);
        assert!(!peer.contains(0));
        peer.ask(5);
        peer.copy_bits(64, &[0b100]);
        assert!(peer.contains(66) && !peer.contains(65));
        assert_eq!(peer.next(0), Some(66));
    }

    #[test]
    fn the_bits_of_a_window_beside_are_not_taken_for_those_of_this_one() {
        let mut peer = PeerBlocks::default();
        peer.ask(WINDOW);
        peer.copy_bits(WINDOW - 32, &[u32::MAX, 1]);
        assert!(!peer.contains(WINDOW - 1) && peer.contains(WINDOW) && !peer.contains(WINDOW + 1));
    }

    #[test]
    fn scattered_announcements_are_bounded() {
        let mut peer = PeerBlocks::default();
        for block in 0..100_000 {
            peer.insert(block * 2..block * 2 + 1);
        }
        assert!(peer.known.len() <= MAX_INTERVALS);
    }

    proptest! {
        #[test]
        fn a_block_set_equals_a_plain_list(steps in proptest::collection::vec((any::<bool>(), 0u64..60, 0u64..12), 0..40)) {
            let (mut set, mut plain) = (BlockSet::default(), [false; 80]);
            for (insert, start, length) in steps {
                let range = start..start + length;
                plain[start as usize..(start + length) as usize].fill(insert);
                if insert { set.insert(range) } else { set.remove(range) }
            }
            for from in 0..80 {
                prop_assert_eq!(set.contains(from), plain[from as usize]);
                prop_assert_eq!(set.next(from), (from..80).find(|i| plain[*i as usize]));
            }
        }
    }
}
