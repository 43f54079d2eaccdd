//! Tree nodes in memory, densely.
//!
//! Neighbours by flat-tree index share a page, so a node of blocks that follow each other takes little more than its 40 bytes (a hash
//! map takes twice that, and three times while it grows), and one that stands alone less than 200.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::RangeInclusive;

use crate::crypto::Hash;
use crate::node::Node;

/// Flat-tree indexes of a page: a bit for each fits a word.
const PAGE: u64 = 64;

#[derive(Debug, Default)]
struct Page {
    /// A bit for each index whose node is here, lowest first.
    present: u64,
    /// Their sizes and hashes, by index.
    nodes: Vec<(u64, Hash)>,
}

impl Page {
    /// The bit of an index, and the place of its node among those that are here.
    fn place(&self, index: u64) -> (u64, usize) {
        let bit = 1 << (index % PAGE);
        (bit, (self.present & (bit - 1)).count_ones() as usize)
    }

    fn get(&self, index: u64) -> Option<(u64, Hash)> {
        let (bit, place) = self.place(index);
        (self.present & bit != 0).then(|| self.nodes[place])
    }

    /// Returns whether the node is new.
    fn put(&mut self, node: &Node) -> bool {
        let (bit, place) = self.place(node.index);
        let (is_new, value) = (self.present & bit == 0, (node.size, node.hash));
        if is_new {
            self.present |= bit;
            self.nodes.insert(place, value);
        } else {
            self.nodes[place] = value;
        }
        is_new
    }

    /// Keeps the nodes whose bits are in `kept`; returns how many went.
    fn keep(&mut self, kept: u64) -> usize {
        let before = self.nodes.len();
        let mut left = self.present;
        self.nodes.retain(|_| {
            let bit = left & left.wrapping_neg();
            left ^= bit;
            kept & bit != 0
        });
        self.present &= kept;
        // Of a sealed subtree only the top stays.
        if 4 * self.nodes.len() <= self.nodes.capacity() {
            self.nodes.shrink_to(2 * self.nodes.len());
        }
        before - self.nodes.len()
    }
}

/// Nodes by flat-tree index.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    pages: HashMap<u64, Page>,
    count: usize,
}

impl Nodes {
    pub(super) fn get(&self, index: u64) -> Option<Node> {
        let (size, hash) = self.pages.get(&(index / PAGE))?.get(index)?;
        Some(Node { index, size, hash })
    }

    pub(super) fn put(&mut self, node: &Node) {
        let page = self.pages.entry(node.index / PAGE).or_default();
        self.count += usize::from(page.put(node));
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// All of them, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = Node> + '_ {
        self.pages.iter().flat_map(|(number, page)| {
            let bits = (0..PAGE).filter(|bit| page.present & (1 << bit) != 0);
            bits.zip(&page.nodes).map(move |(bit, (size, hash))| Node {
                index: number * PAGE + bit,
                size: *size,
                hash: *hash,
            })
        })
    }

    /// Keeps those that `keep` says.
    pub(super) fn retain(&mut self, keep: impl Fn(u64) -> bool) {
        let count = &mut self.count;
        self.pages.retain(|number, page| {
            let kept = (0..PAGE).filter(|bit| keep(number * PAGE + bit));
            *count -= page.keep(kept.fold(0, |kept, bit| kept | 1 << bit));
            page.present != 0
        });
    }

    /// Forgets those of a range but one, by whichever way touches fewer pages.
    pub(super) fn forget(&mut self, range: &RangeInclusive<u64>, but: u64) {
        let (first, last) = (range.start() / PAGE, range.end() / PAGE);
        if last - first >= self.pages.len() as u64 {
            self.retain(|index| index == but || !range.contains(&index));
            return;
        }
        for number in first..=last {
            let Entry::Occupied(mut page) = self.pages.entry(number) else {
                continue;
            };
            let kept = (0..PAGE).filter(|bit| {
                let index = number * PAGE + bit;
                index == but || !range.contains(&index)
            });
            self.count -= page.get_mut().keep(kept.fold(0, |kept, bit| kept | 1 << bit));
            if page.get().present == 0 {
                page.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Put(u64, u8),
        Forget(u64, u64, u64),
        Truncate(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let index = || prop_oneof![0u64..300, 0u64..100_000];
        prop_oneof![
            8 => (index(), any::<u8>()).prop_map(|(index, fill)| Step::Put(index, fill)),
            1 => (index(), 0u64..500, 0u64..500).prop_map(|(at, count, but)| Step::Forget(at, count, but)),
            1 => index().prop_map(Step::Truncate),
        ]
    }

    proptest! {
        #[test]
        fn nodes_in_pages_equal_nodes_in_a_map(steps in proptest::collection::vec(step(), 1..200)) {
            let (mut nodes, mut model) = (Nodes::default(), BTreeMap::new());
            for step in steps {
                match step {
                    Step::Put(index, fill) => {
                        let node = Node { index, size: u64::from(fill), hash: [fill; 32] };
                        nodes.put(&node);
                        model.insert(index, node);
                    }
                    Step::Forget(at, count, but) => {
                        let (range, but) = (at..=at + count, at + but);
                        nodes.forget(&range, but);
                        model.retain(|index, _| *index == but || !range.contains(index));
                    }
                    Step::Truncate(end) => {
                        nodes.retain(|index| index < end);
                        model.retain(|index, _| *index < end);
                    }
                }
                let mut all: Vec<Node> = nodes.iter().collect();
                all.sort_unstable_by_key(|node| node.index);
                prop_assert_eq!(&all, &model.values().copied().collect::<Vec<_>>());
                prop_assert_eq!(nodes.len(), model.len());
                for node in &all {
                    prop_assert_eq!(nodes.get(node.index), Some(*node));
                    prop_assert_eq!(nodes.get(node.index + 1), model.get(&(node.index + 1)).copied());
                }
            }
        }
    }

    #[test]
    fn a_page_of_which_only_the_top_is_left_takes_little_memory() {
        let mut nodes = Nodes::default();
        for index in 0..PAGE {
            nodes.put(&Node {
                index,
                size: 1,
                hash: [1; 32],
            });
        }
        nodes.forget(&(0..=62), 31);
        let page = nodes.pages.values().next().unwrap();
        assert_eq!(page.nodes.len(), 2);
        assert!(page.nodes.capacity() <= 4, "{}", page.nodes.capacity());
    }
}
