//! Where blocks lie in sealed segments: pages of sidecars that were read, so that a block is one read of the disk.
//!
//! Shared by all cores of a store and bounded: [`PAGES`] pages of at most about 4 KiB. It holds nothing that the disk does
//! not say.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use super::log::Sealed;
use super::sidecar;
use crate::crypto::Hash;
use crate::segment::SegmentId;

/// Blocks whose places are read at once: one page of the page cache.
const PAGE_BLOCKS: u64 = 512;
/// Pages kept, in two generations: 4 MiB, the places of half a million blocks.
const PAGES: usize = 1024;

/// A segment and a page in it.
pub(super) type Key = (Hash, SegmentId, u64, bool, u64);

pub(super) fn key(discovery_key: &Hash, sealed: &Sealed, block: u64) -> Key {
    let page = block / PAGE_BLOCKS;
    (*discovery_key, sealed.id, sealed.fork, sealed.encrypted, page)
}

/// The bytes of the sidecar that tell the places of the block's page.
pub(super) fn page_range(id: SegmentId, block: u64) -> Range<u64> {
    let start = block / PAGE_BLOCKS * PAGE_BLOCKS;
    let blocks = id.blocks();
    let (first, last) = (start.max(blocks.start), (start + PAGE_BLOCKS).min(blocks.end) - 1);
    sidecar::block_entry(id, first).start..sidecar::block_entry(id, last).end
}

/// A page, and the segment it is about.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) segment: Arc<Path>,
    start: u64,
    bytes: Vec<u8>,
}

impl Page {
    pub(super) fn new(segment: Arc<Path>, start: u64, bytes: Vec<u8>) -> Self {
        Self {
            segment,
            start,
            bytes,
        }
    }

    /// Where the block lies in the segment, and its checksum.
    pub(super) fn block(&self, id: SegmentId, block: u64) -> Option<(Range<u64>, u32)> {
        let entry = sidecar::block_entry(id, block);
        let from = entry.start.checked_sub(self.start)? as usize;
        let to = entry.end.checked_sub(self.start)? as usize;
        sidecar::decode_block(id, self.bytes.get(from..to)?)
    }

    /// Where the last block of the page of `block` ends, if the page makes sense.
    pub(super) fn end(&self, id: SegmentId, block: u64) -> Option<u64> {
        let start = block / PAGE_BLOCKS * PAGE_BLOCKS;
        let blocks = start.max(id.blocks().start)..(start + PAGE_BLOCKS).min(id.blocks().end);
        let mut end = 0;
        for block in blocks {
            let (range, _) = self.block(id, block)?;
            end = range.end;
        }
        Some(end)
    }
}

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<Key, Arc<Page>>,
    old: HashMap<Key, Arc<Page>>,
}

/// The pages that were used lately.
#[derive(Debug, Default)]
pub(super) struct Places {
    pages: Mutex<Generations>,
}

impl Places {
    pub(super) fn get(&self, key: &Key) -> Option<Arc<Page>> {
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(page) = pages.young.get(key) {
            return Some(page.clone());
        }
        let page = pages.old.remove(key)?;
        pages.put(*key, page.clone());
        Some(page)
    }

    pub(super) fn put(&self, key: Key, page: Arc<Page>) {
        self.pages
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .put(key, page);
    }

    /// Forgets everything: what was read is not what the disk should say.
    pub(super) fn forget(&self) {
        *self.pages.lock().unwrap_or_else(PoisonError::into_inner) = Generations::default();
    }
}

impl Generations {
    fn put(&mut self, key: Key, page: Arc<Page>) {
        if self.young.len() >= PAGES / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, page);
    }
}
