//! A storage that forgets when it is dropped.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use super::{Changes, Head, Storage, StorageError};
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
}

impl MemoryStorage {
    /// An empty storage.
    pub fn new() -> Self {
        Self::default()
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
            self.blocks.split_off(&length);
            self.bitfield.clear_range(length..u64::MAX);
            self.nodes
                .retain(|index, _| flat_tree::end_block(*index) <= length);
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
}
