//! A storage that forgets when it is dropped.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use super::{Changes, Head, Remains, Storage, StorageError};
use crate::bitfield::Bitfield;
use crate::flat_tree;
use crate::manifest::Manifest;
use crate::node::Node;

/// Keeps everything in maps.
#[derive(Debug, Clone, Default)]
pub struct MemoryStorage {
    manifest: Option<Manifest>,
    head: Head,
    bitfield: Bitfield,
    nodes: HashMap<u64, Node>,
    blocks: BTreeMap<u64, Bytes>,
    user_data: BTreeMap<String, Bytes>,
    /// Blocks below this are read as they are.
    read_below: u64,
    /// What truncations took that was not asked for yet.
    remains: VecDeque<Arc<MemoryRemains>>,
}

/// Truncations whose remains wait to be asked for.
const MAX_UNTAKEN: usize = 16;

/// What a truncation took.
#[derive(Debug)]
struct MemoryRemains {
    from: u64,
    nodes: HashMap<u64, Node>,
    blocks: BTreeMap<u64, Bytes>,
}

impl Remains for MemoryRemains {
    fn block(&self, index: u64) -> Result<Option<Bytes>, StorageError> {
        Ok(self.blocks.get(&index).cloned())
    }

    fn node(&self, index: u64) -> Result<Option<Node>, StorageError> {
        Ok(self.nodes.get(&index).copied())
    }
}

impl MemoryStorage {
    /// An empty storage.
    pub fn new() -> Self {
        Self::default()
    }

    fn truncate(&mut self, from: u64) {
        let mut blocks = self.blocks.split_off(&from);
        self.bitfield.clear_range(from..u64::MAX);
        let nodes = self
            .nodes
            .extract_if(|index, _| flat_tree::end_block(*index) > from)
            .collect();
        if from < self.read_below {
            blocks.split_off(&self.read_below);
            if self.remains.len() >= MAX_UNTAKEN {
                self.remains.pop_front();
            }
            self.remains
                .push_back(Arc::new(MemoryRemains { from, nodes, blocks }));
        }
    }
}

impl Storage for MemoryStorage {
    fn manifest(&self) -> Option<&Manifest> {
        self.manifest.as_ref()
    }

    fn head(&self) -> &Head {
        &self.head
    }

    fn bitfield(&self) -> &Bitfield {
        &self.bitfield
    }

    fn user_data(&self) -> &BTreeMap<String, Bytes> {
        &self.user_data
    }

    fn node(&self, index: u64) -> Result<Option<Node>, StorageError> {
        Ok(self.nodes.get(&index).copied())
    }

    fn block(&self, index: u64) -> Result<Option<Bytes>, StorageError> {
        Ok(self.blocks.get(&index).cloned())
    }

    fn apply(&mut self, changes: Changes) -> Result<(), StorageError> {
        if changes.manifest.is_some() {
            self.manifest = changes.manifest;
        }
        if let Some(length) = changes.truncate {
            self.truncate(length);
        }
        for range in changes.clear {
            let cleared: Vec<u64> = self
                .blocks
                .range(range.clone())
                .map(|(index, _)| *index)
                .collect();
            for index in cleared {
                self.blocks.remove(&index);
            }
            self.bitfield.clear_range(range);
        }
        self.nodes
            .extend(changes.nodes.into_iter().map(|node| (node.index, node)));
        for (index, block) in changes.blocks {
            self.bitfield.set(index);
            self.blocks.insert(index, block);
        }
        if let Some(head) = changes.head {
            self.head = head;
        }
        for (name, value) in changes.user_data {
            match value {
                Some(value) => self.user_data.insert(name, value),
                None => self.user_data.remove(&name),
            };
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), StorageError> {
        Ok(())
    }

    fn keep_remains(&mut self, below: u64) {
        self.read_below = below;
    }

    fn take_remains(&mut self, from: u64) -> Option<Arc<dyn Remains>> {
        let at = self.remains.iter().position(|remains| remains.from == from)?;
        let remains = self.remains.drain(..=at).next_back()?;
        Some(remains)
    }
}
