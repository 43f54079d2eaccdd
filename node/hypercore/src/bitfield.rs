//! Which blocks are held: pages of bits, and runs of full pages as two numbers each.
//!
//! Memory is bounded by what was set, not by how far: a run of any length costs at most two pages of
//! [`PAGE_BITS`] bits and one entry, so `set_range(1..1 << 40)` is as cheap as it is short to say.

use std::collections::BTreeMap;
use std::ops::Range;

/// Bits in a page: small enough that a lone bit costs little, large enough that a map entry is not the main cost.
pub const PAGE_BITS: u64 = 4096;
const PAGE_WORDS: usize = 64;

type Page = [u64; PAGE_WORDS];

/// A set of block numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bitfield {
    /// Runs of pages with every bit set: first page -> page after the last. Neither overlapping nor touching.
    full: BTreeMap<u64, u64>,
    /// Pages with some bits set, never all and never none.
    partial: BTreeMap<u64, Box<Page>>,
}

impl Bitfield {
    /// An empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        self.full.is_empty() && self.partial.is_empty()
    }

    /// Whether the block is in the set.
    pub fn get(&self, index: u64) -> bool {
        let (page, bit) = (index / PAGE_BITS, index % PAGE_BITS);
        match self.partial.get(&page) {
            Some(words) => words[(bit / 64) as usize] >> (bit % 64) & 1 == 1,
            None => self.run_of(page).is_some(),
        }
    }

    /// Adds one block.
    pub fn set(&mut self, index: u64) {
        self.set_range(index..index + 1);
    }

    /// Adds a range of blocks.
    pub fn set_range(&mut self, blocks: Range<u64>) {
        self.change(blocks, true);
    }

    /// Removes a range of blocks.
    pub fn clear_range(&mut self, blocks: Range<u64>) {
        self.change(blocks, false);
    }

    /// Number of blocks in the set.
    pub fn count(&self) -> u64 {
        let full: u64 = self
            .full
            .iter()
            .map(|(start, end)| (end - start) * PAGE_BITS)
            .sum();
        let partial: u64 = self.partial.values().map(|words| ones(words)).sum();
        full + partial
    }

    /// Whether every block of the range is in the set.
    pub fn contains_range(&self, blocks: Range<u64>) -> bool {
        blocks.is_empty() || self.first_unset(blocks.start) >= blocks.end
    }

    /// Whether any block of the range is in the set.
    pub fn intersects(&self, blocks: Range<u64>) -> bool {
        !blocks.is_empty()
            && self
                .first_set(blocks.start)
                .is_some_and(|first| first < blocks.end)
    }

    /// The first block at or after `from` that is in the set.
    pub fn first_set(&self, from: u64) -> Option<u64> {
        let page = from / PAGE_BITS;
        if self.run_of(page).is_some() {
            return Some(from);
        }
        if let Some(bit) = self
            .partial
            .get(&page)
            .and_then(|words| next_bit(words, from % PAGE_BITS, true))
        {
            return Some(page * PAGE_BITS + bit);
        }
        let full = self
            .full
            .range(page + 1..)
            .next()
            .map(|(start, _)| start * PAGE_BITS);
        let partial = self.partial.range(page + 1..).next();
        let partial = partial.and_then(|(page, words)| Some(page * PAGE_BITS + next_bit(words, 0, true)?));
        full.into_iter().chain(partial).min()
    }

    /// The first block at or after `from` that is not in the set.
    pub fn first_unset(&self, from: u64) -> u64 {
        let mut at = from;
        loop {
            let page = at / PAGE_BITS;
            if let Some((_, end)) = self.run_of(page) {
                at = end * PAGE_BITS;
            } else if let Some(words) = self.partial.get(&page) {
                match next_bit(words, at % PAGE_BITS, false) {
                    Some(bit) => return page * PAGE_BITS + bit,
                    None => at = (page + 1) * PAGE_BITS,
                }
            } else {
                return at;
            }
        }
    }

    /// `count` 32-bit words of the set from bit `start` on, which is a multiple of 32: the body of a Bitfield message.
    pub fn words(&self, start: u64, count: usize) -> Vec<u32> {
        let word = |at: u64| {
            let (page, bit) = (at / PAGE_BITS, at % PAGE_BITS);
            match self.partial.get(&page) {
                Some(words) => (words[(bit / 64) as usize] >> (bit % 64 / 32 * 32)) as u32,
                None if self.run_of(page).is_some() => u32::MAX,
                None => 0,
            }
        };
        (0..count as u64).map(|i| word(start + 32 * i)).collect()
    }

    /// Replaces the bits from `start` (a multiple of 32) on by those of a Bitfield message.
    pub fn replace_words(&mut self, start: u64, words: &[u32]) {
        self.clear_range(start..start + 32 * words.len() as u64);
        let mut at = start;
        for word in words {
            let mut rest = *word;
            while rest != 0 {
                let first = rest.trailing_zeros();
                let run = (rest >> first).trailing_ones();
                self.set_range(at + u64::from(first)..at + u64::from(first + run));
                rest &= !(((1u64 << run) - 1) << first) as u32;
            }
            at += 32;
        }
    }

    /// Runs of blocks in the set, left to right.
    pub fn runs(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        let mut at = 0;
        std::iter::from_fn(move || {
            let start = self.first_set(at)?;
            at = self.first_unset(start);
            Some(start..at)
        })
    }

    fn run_of(&self, page: u64) -> Option<(u64, u64)> {
        let (start, end) = self.full.range(..=page).next_back()?;
        (*end > page).then_some((*start, *end))
    }

    fn change(&mut self, blocks: Range<u64>, value: bool) {
        if blocks.is_empty() {
            return;
        }
        let (first, last) = (blocks.start / PAGE_BITS, (blocks.end - 1) / PAGE_BITS);
        let head_whole = blocks.start.is_multiple_of(PAGE_BITS);
        let tail_whole = blocks.end.is_multiple_of(PAGE_BITS);
        if first == last && !(head_whole && tail_whole) {
            let bits = blocks.start % PAGE_BITS..(blocks.end - 1) % PAGE_BITS + 1;
            return self.change_page(first, bits, value);
        }
        if !head_whole {
            self.change_page(first, blocks.start % PAGE_BITS..PAGE_BITS, value);
        }
        if !tail_whole {
            self.change_page(last, 0..blocks.end % PAGE_BITS, value);
        }
        let pages = first + u64::from(!head_whole)..last + u64::from(tail_whole);
        if !pages.is_empty() {
            self.change_pages(pages, value);
        }
    }

    fn change_pages(&mut self, pages: Range<u64>, value: bool) {
        let inside: Vec<u64> = self.partial.range(pages.clone()).map(|(page, _)| *page).collect();
        for page in inside {
            self.partial.remove(&page);
        }
        self.cut_runs(pages.clone());
        if value {
            self.add_run(pages);
        }
    }

    /// Takes the pages out of the runs.
    fn cut_runs(&mut self, pages: Range<u64>) {
        if let Some((start, end)) = self.run_of(pages.start) {
            self.full.remove(&start);
            if start < pages.start {
                self.full.insert(start, pages.start);
            }
            if end > pages.end {
                self.full.insert(pages.end, end);
            }
        }
        let inside: Vec<(u64, u64)> = self
            .full
            .range(pages.clone())
            .map(|(start, end)| (*start, *end))
            .collect();
        for (start, end) in inside {
            self.full.remove(&start);
            if end > pages.end {
                self.full.insert(pages.end, end);
            }
        }
    }

    /// Adds a run of pages that are in no run yet, joining neighbours.
    fn add_run(&mut self, pages: Range<u64>) {
        let (mut start, mut end) = (pages.start, pages.end);
        if let Some((left, _)) = start.checked_sub(1).and_then(|page| self.run_of(page)) {
            start = left;
        }
        if let Some(right) = self.full.remove(&end) {
            end = right;
        }
        self.full.insert(start, end);
    }

    fn change_page(&mut self, page: u64, bits: Range<u64>, value: bool) {
        let full = self.run_of(page).is_some();
        if full == value && (full || !self.partial.contains_key(&page)) {
            return;
        }
        if full {
            self.cut_runs(page..page + 1);
        }
        let blank = if full { u64::MAX } else { 0 };
        let words = self
            .partial
            .entry(page)
            .or_insert_with(|| Box::new([blank; PAGE_WORDS]));
        for (at, word) in words.iter_mut().enumerate() {
            let base = 64 * at as u64;
            let (from, to) = (bits.start.max(base), bits.end.min(base + 64));
            if from >= to {
                continue;
            }
            let mask = (u64::MAX >> (64 - (to - from))) << (from - base);
            if value {
                *word |= mask;
            } else {
                *word &= !mask;
            }
        }
        match ones(words) {
            0 => {
                self.partial.remove(&page);
            }
            PAGE_BITS => {
                self.partial.remove(&page);
                self.add_run(page..page + 1);
            }
            _ => {}
        }
    }
}

fn ones(words: &Page) -> u64 {
    words.iter().map(|word| u64::from(word.count_ones())).sum()
}

/// The first bit at or after `from` that has the value.
fn next_bit(words: &Page, from: u64, value: bool) -> Option<u64> {
    let first = (from / 64) as usize;
    for (at, word) in words.iter().enumerate().skip(first) {
        let mut word = if value { *word } else { !*word };
        if at == first {
            word &= u64::MAX << (from % 64);
        }
        if word != 0 {
            return Some(64 * at as u64 + u64::from(word.trailing_zeros()));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_claimed_range_of_a_trillion_blocks_costs_two_pages() {
        let mut bits = Bitfield::new();
        bits.set_range(1..1 << 40);
        assert_eq!((bits.full.len(), bits.partial.len()), (1, 1));
        assert_eq!(bits.count(), (1 << 40) - 1);
        assert_eq!(bits.first_unset(1), 1 << 40);
        bits.clear_range(5..(1 << 40) - 5);
        assert_eq!(bits.count(), 9);
    }

    fn ranges() -> impl Strategy<Value = Range<u64>> {
        (
            0..6u64,
            0..4096u64,
            prop_oneof![1..70u64, Just(4096), 4000..9000u64],
            any::<bool>(),
        )
            .prop_map(|(page, bit, length, aligned)| {
                let start = page * PAGE_BITS + if aligned { 0 } else { bit };
                start..start + length
            })
    }

    proptest! {
        #[test]
        fn it_is_a_set(changes in proptest::collection::vec((ranges(), any::<bool>()), 1..12), probe in 0..40_000u64) {
            let (mut bits, mut model) = (Bitfield::new(), BTreeSet::new());
            for (range, add) in changes {
                if add {
                    bits.set_range(range.clone());
                    model.extend(range);
                } else {
                    bits.clear_range(range.clone());
                    model.retain(|block| !range.contains(block));
                }
            }
            let listed: Vec<u64> = bits.runs().flatten().collect();
            prop_assert_eq!(&listed, &model.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(bits.count(), model.len() as u64);
            prop_assert_eq!(bits.get(probe), model.contains(&probe));
            prop_assert_eq!(bits.first_set(probe), model.range(probe..).next().copied());
            let first_unset = (probe..60_000).find(|block| !model.contains(block));
            prop_assert_eq!(Some(bits.first_unset(probe)), first_unset);
            let start = probe / 32 * 32;
            let words = bits.words(start, 200);
            let mut copy = Bitfield::new();
            copy.set_range(0..50_000);
            copy.replace_words(start, &words);
            let in_window = |bits: &Bitfield| (start..start + 6400).filter(|at| bits.get(*at)).collect::<Vec<_>>();
            prop_assert_eq!(in_window(&copy), in_window(&bits));
            prop_assert!(bits.partial.values().all(|page| !matches!(ones(page), 0 | PAGE_BITS)));
        }
    }
}
