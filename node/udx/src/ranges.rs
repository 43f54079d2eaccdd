//! A set of numbers kept as disjoint half-open ranges: what arrived out of order, what was acknowledged
//! out of order. Cost follows the number of gaps, not the number of packets.

use std::{collections::BTreeMap, ops::Range};

/// Disjoint, non-adjacent ranges.
#[derive(Debug, Default)]
pub(crate) struct RangeSet {
    ranges: BTreeMap<u64, u64>,
}

impl RangeSet {
    pub(crate) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Adds a range, merging with its neighbours.
    pub(crate) fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let Range { mut start, mut end } = range;
        if let Some((&before, &before_end)) = self.ranges.range(..=start).next_back() {
            if before_end >= end {
                return;
            }
            if before_end >= start {
                start = before;
            }
        }
        while let Some((&next, &next_end)) = self.ranges.range(start..).next() {
            if next > end {
                break;
            }
            end = end.max(next_end);
            self.ranges.remove(&next);
        }
        self.ranges.insert(start, end);
    }

    /// Forgets everything below `to`.
    pub(crate) fn remove_below(&mut self, to: u64) {
        while let Some((&start, &end)) = self.ranges.first_key_value() {
            if start >= to {
                break;
            }
            self.ranges.remove(&start);
            if end > to {
                self.ranges.insert(to, end);
            }
        }
    }

    /// The lowest parts of `range` that are not in the set, one by one: call until `None`, inserting what it returns.
    pub(crate) fn first_gap(&self, range: Range<u64>) -> Option<Range<u64>> {
        let mut start = range.start;
        if let Some((_, &end)) = self.ranges.range(..=start).next_back() {
            start = start.max(end);
        }
        if start >= range.end {
            return None;
        }
        let end = self
            .ranges
            .range(start..)
            .next()
            .map_or(range.end, |(&next, _)| next.min(range.end));
        Some(start..end)
    }

    /// How many ranges.
    pub(crate) fn len(&self) -> usize {
        self.ranges.len()
    }

    /// The range that holds `number` (or the one before it), and those below, descending.
    pub(crate) fn iter_down_from(&self, number: u64) -> impl Iterator<Item = Range<u64>> + '_ {
        self.ranges
            .range(..=number)
            .rev()
            .map(|(&start, &end)| start..end)
    }

    /// The ranges, ascending.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.ranges.iter().map(|(&start, &end)| start..end)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    use super::*;

    proptest! {
        #[test]
        fn ranges_hold_exactly_the_numbers_that_were_put_in(
            inserts in prop::collection::vec((0u64..200, 0u64..30), 0..40), cut in 0u64..230, probe in 0u64..230, width in 0u64..50,
        ) {
            let (mut set, mut model) = (RangeSet::default(), BTreeSet::new());
            for (start, len) in inserts {
                set.insert(start..start + len);
                model.extend(start..start + len);
            }
            set.remove_below(cut);
            model.retain(|n| *n >= cut);
            let flat: Vec<u64> = set.iter().flatten().collect();
            prop_assert_eq!(&flat, &model.iter().copied().collect::<Vec<_>>());
            let ranges: Vec<_> = set.iter().collect();
            prop_assert!(ranges.windows(2).all(|pair| pair[0].end < pair[1].start));
            let missing: Vec<u64> = (probe..probe + width).filter(|n| !model.contains(n)).collect();
            let mut found = Vec::new();
            while let Some(gap) = set.first_gap(probe..probe + width) {
                found.extend(gap.clone());
                set.insert(gap);
            }
            prop_assert_eq!(found, missing);
        }
    }
}
