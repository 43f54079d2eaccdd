//! Those who read a core as it was, while it is cut below them.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use cumulet_hypercore::core::Core;
use cumulet_hypercore::storage::{Remains, Storage};
use proptest::sample::Index;

/// Blocks that a truncation took, and what is left of them.
type Taken = (Range<u64>, Vec<Option<Bytes>>, Arc<dyn Remains>, Arc<dyn Remains>);

/// Somebody who reads a core as it was.
struct Reader {
    /// Shortest length since.
    kept: u64,
    taken: Vec<Taken>,
}

/// Those who read, of the core and of its model.
#[derive(Default)]
pub(crate) struct Readers(Vec<Reader>);

impl Readers {
    /// Somebody reads the core from now on, as it is.
    pub(crate) fn begin(&mut self, kept: u64) {
        let taken = Vec::new();
        self.0.push(Reader { kept, taken });
    }

    /// One of them is done.
    pub(crate) fn end(&mut self, which: Index) {
        if !self.0.is_empty() {
            self.0.swap_remove(which.index(self.0.len()));
        }
    }

    /// Tells the storages what is read.
    pub(crate) fn tell<A: Storage, B: Storage>(&self, core: &mut Core<A>, model: &mut Core<B>) {
        let below = self.0.iter().map(|reader| reader.kept).max().unwrap_or(0);
        core.storage_mut().keep_remains(below);
        model.storage_mut().keep_remains(below);
    }

    /// The core, which had these blocks, was cut.
    pub(crate) fn cut<A: Storage, B: Storage>(
        &mut self,
        (core, model): (&mut Core<A>, &mut Core<B>),
        length: u64,
        before: &[Option<Bytes>],
    ) {
        let remains = core.storage_mut().take_remains(length);
        let modelled = model.storage_mut().take_remains(length);
        for reader in self.0.iter_mut().filter(|reader| reader.kept > length) {
            let blocks = length..reader.kept;
            let held = before[length as usize..reader.kept as usize].to_vec();
            let (left, modelled) = (remains.clone().unwrap(), modelled.clone().unwrap());
            reader.taken.push((blocks, held, left, modelled));
            reader.kept = length;
        }
        self.tell(core, model);
    }

    /// What truncations took is still there.
    pub(crate) fn check(&self) {
        for (blocks, held, remains, model) in self.0.iter().flat_map(|reader| &reader.taken) {
            for (index, expected) in blocks.clone().zip(held) {
                assert_eq!(&remains.block(index).unwrap(), expected);
                assert_eq!(&model.block(index).unwrap(), expected);
                let leaf = remains.node(2 * index).unwrap();
                assert!(leaf.is_some() || expected.is_none());
            }
            assert_eq!(remains.block(blocks.start.wrapping_sub(1)).unwrap(), None);
            for index in 2 * blocks.start..2 * blocks.end - 1 {
                if let Some(node) = remains.node(index).unwrap() {
                    let same = model.node(index).unwrap().is_none_or(|modelled| modelled == node);
                    assert!(same, "{node:?}");
                }
            }
        }
    }
}
