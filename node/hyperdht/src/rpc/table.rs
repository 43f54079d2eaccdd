//! The Kademlia routing table: 256 rows by common prefix length, at most 20 nodes each.
//!
//! Order is that of npm `kademlia-routing-table` 1.0.6: rows are sorted by id, and `closest` walks from the target's
//! row down to row 0 and only then upwards. It is close, not exact, XOR order; queries sort for themselves.

use std::collections::BTreeMap;
use std::net::SocketAddrV4;

use crate::Hash;

/// Nodes per row and results of `closest`: Kademlia's k.
pub(crate) const K: usize = 20;

const ROWS: usize = 256;

/// A node that answered or asked us under a valid id. Times are in ticks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) id: Hash,
    pub(crate) address: SocketAddrV4,
    /// When its view of our address was last counted; 0 is never.
    pub(crate) sampled: u64,
    pub(crate) added: u64,
    pub(crate) pinged: u64,
    pub(crate) seen: u64,
    pub(crate) down_hints: u32,
    /// Position in the order of last contact.
    recency: u64,
}

impl Node {
    pub(crate) fn new(id: Hash, address: SocketAddrV4, tick: u64) -> Self {
        Self {
            id,
            address,
            sampled: 0,
            added: tick,
            pinged: tick,
            seen: tick,
            down_hints: 0,
            recency: 0,
        }
    }
}

/// What became of an insertion.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Inserted {
    Added,
    /// Our own id, or known already.
    Ignored,
    /// The row is full; the caller may challenge the row's stalest node.
    RowFull,
}

#[derive(Debug)]
pub(crate) struct Table {
    id: Hash,
    rows: Vec<Vec<Node>>,
    by_recency: BTreeMap<u64, Hash>,
    next_recency: u64,
}

impl Table {
    pub(crate) fn new(id: Hash) -> Self {
        Self {
            id,
            rows: vec![Vec::new(); ROWS],
            by_recency: BTreeMap::new(),
            next_recency: 1,
        }
    }

    pub(crate) fn id(&self) -> &Hash {
        &self.id
    }

    pub(crate) fn len(&self) -> usize {
        self.by_recency.len()
    }

    fn row_of(&self, id: &Hash) -> usize {
        for (index, (a, b)) in self.id.iter().zip(id).enumerate() {
            if a != b {
                return index * 8 + (a ^ b).leading_zeros() as usize;
            }
        }
        ROWS - 1
    }

    pub(crate) fn insert(&mut self, mut node: Node) -> Inserted {
        if node.id == self.id {
            return Inserted::Ignored;
        }
        let row_index = self.row_of(&node.id);
        let Some(row) = self.rows.get_mut(row_index) else {
            return Inserted::Ignored;
        };
        match row.binary_search_by(|known| known.id.cmp(&node.id)) {
            Ok(_) => Inserted::Ignored,
            Err(_) if row.len() >= K => Inserted::RowFull,
            Err(position) => {
                node.recency = self.next_recency;
                self.next_recency += 1;
                self.by_recency.insert(node.recency, node.id);
                row.insert(position, node);
                Inserted::Added
            }
        }
    }

    pub(crate) fn get(&self, id: &Hash) -> Option<&Node> {
        let row = self.rows.get(self.row_of(id))?;
        row.binary_search_by(|known| known.id.cmp(id))
            .ok()
            .and_then(|position| row.get(position))
    }

    pub(crate) fn get_mut(&mut self, id: &Hash) -> Option<&mut Node> {
        let index = self.row_of(id);
        let row = self.rows.get_mut(index)?;
        match row.binary_search_by(|known| known.id.cmp(id)) {
            Ok(position) => row.get_mut(position),
            Err(_) => None,
        }
    }

    /// Moves a node to the newest place of the order of contact.
    pub(crate) fn touch(&mut self, id: &Hash) {
        let recency = self.next_recency;
        let Some(node) = self.get_mut(id) else { return };
        let old = std::mem::replace(&mut node.recency, recency);
        self.by_recency.remove(&old);
        self.by_recency.insert(recency, *id);
        self.next_recency += 1;
    }

    pub(crate) fn remove(&mut self, id: &Hash) -> Option<Node> {
        let index = self.row_of(id);
        let row = self.rows.get_mut(index)?;
        let position = row.binary_search_by(|known| known.id.cmp(id)).ok()?;
        let node = row.remove(position);
        self.by_recency.remove(&node.recency);
        Some(node)
    }

    pub(crate) fn closest(&self, target: &Hash, limit: usize) -> Vec<&Node> {
        let start = self.row_of(target);
        (0..=start)
            .rev()
            .chain(start + 1..ROWS)
            .filter_map(|index| self.rows.get(index))
            .flatten()
            .take(limit)
            .collect()
    }

    /// Nodes by last contact, stalest first.
    pub(crate) fn oldest(&self) -> impl Iterator<Item = &Node> {
        self.by_recency.values().filter_map(|id| self.get(id))
    }

    /// Nodes by last contact, newest first.
    pub(crate) fn latest(&self) -> impl Iterator<Item = &Node> {
        self.by_recency.values().rev().filter_map(|id| self.get(id))
    }

    /// The row a new id would fall in.
    pub(crate) fn row(&self, id: &Hash) -> &[Node] {
        self.rows.get(self.row_of(id)).map_or(&[], Vec::as_slice)
    }

    /// The same nodes around another own id. Nodes that find their new row full are dropped.
    pub(crate) fn rebuilt(&self, id: Hash) -> Self {
        let mut table = Self::new(id);
        for node in self.oldest() {
            let _ = table.insert(node.clone());
        }
        table
    }
}
