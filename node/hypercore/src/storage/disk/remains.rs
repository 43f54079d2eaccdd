//! What truncations took, while somebody still reads it.
//!
//! A snapshot reads blocks that a truncation took from the core. They are not copied, the bytes stay where they lie: in the log,
//! which is held open also when a compaction has put another in its place, and in segments, whose files are not removed meanwhile.
//!
//! Invariants: no record tells of remains, so after a crash or a restart their bytes are dead like others and their files are
//! strays that the opening removes; files go at the first flush after the last who read them is gone.
//!
//! Bounds: on disk the blocks of the snapshots themselves (a log that is held open counts as a whole); in memory a place and two
//! nodes for each of them that was not sealed, a bit for each block, and the segment that was read last (8 MiB); in number
//! [`MAX_REMAINS`].

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;

use super::files::{Files, failed};
use super::log::{BlockPlace, Sealed};
use super::seal::damaged;
use super::{DiskStorage, StorageError};
use crate::bitfield::Bitfield;
use crate::crypto::Hash;
use crate::flat_tree;
use crate::node::Node;
use crate::segment::{ContentCipher, Decoded, Place, decode};
use crate::storage::Remains;

/// Truncations of a core whose remains are kept; those of the oldest are given up for a new one. Each may hold a descriptor.
const MAX_REMAINS: usize = 16;

/// What one truncation took.
#[derive(Debug)]
pub(super) struct DiskRemains {
    /// The length that the core was cut to.
    from: u64,
    /// None once they were given up.
    left: Mutex<Option<Left>>,
}

#[derive(Debug)]
struct Left {
    discovery_key: Hash,
    files: Files,
    cipher: Option<ContentCipher>,
    log: Option<Arc<File>>,
    log_path: Arc<Path>,
    /// Of blocks in the log, by number.
    places: Vec<(u64, BlockPlace)>,
    /// Of those outside of segments, by index.
    nodes: Vec<Node>,
    segments: Vec<(Sealed, PathBuf)>,
    held: Bitfield,
    /// The segment that was read last.
    last: Option<(Sealed, Decoded)>,
}

impl Left {
    fn log_block(&self, place: &BlockPlace) -> Result<Bytes, StorageError> {
        let mut bytes = vec![0; place.length as usize];
        if let Some(log) = &self.log {
            log.read_exact_at(&mut bytes, place.offset)
                .map_err(failed("read", &self.log_path))?;
        }
        if crc32c::crc32c(&bytes) == place.crc {
            Ok(bytes.into())
        } else {
            Err(damaged("a block", &self.log_path, place.offset))
        }
    }

    /// The content of the segment whose subtree contains a node.
    fn segment_of(&mut self, node: u64) -> Result<Option<&(Sealed, Decoded)>, StorageError> {
        let covers = |sealed: &Sealed| flat_tree::contains(sealed.id.node(), node);
        let Some((sealed, path)) = self.segments.iter().find(|(sealed, _)| covers(sealed)) else {
            return Ok(None);
        };
        if self.last.as_ref().is_none_or(|(last, _)| last != sealed) {
            let decoded = self.decode(sealed, path)?;
            self.last = Some((*sealed, decoded));
        }
        Ok(self.last.as_ref())
    }

    fn decode(&self, sealed: &Sealed, path: &Path) -> Result<Decoded, StorageError> {
        let bytes = Bytes::from(self.files.read(path)?);
        let place = Place {
            discovery_key: self.discovery_key,
            fork: sealed.fork,
            id: sealed.id,
        };
        let cipher = self.cipher.as_ref().filter(|_| sealed.encrypted);
        decode(&bytes, &place, cipher).map_err(|_| damaged("a segment", path, 0))
    }
}

impl DiskRemains {
    fn left(&self) -> MutexGuard<'_, Option<Left>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reads(&self, sealed: &Sealed) -> bool {
        let reads = |left: &Left| left.segments.iter().any(|(segment, _)| segment == sealed);
        self.left().as_ref().is_some_and(reads)
    }
}

impl Remains for DiskRemains {
    fn block(&self, index: u64) -> Result<Option<Bytes>, StorageError> {
        let mut left = self.left();
        let Some(left) = left.as_mut().filter(|left| left.held.get(index)) else {
            return Ok(None);
        };
        if let Ok(at) = left.places.binary_search_by_key(&index, |(block, _)| *block) {
            return left.log_block(&left.places[at].1).map(Some);
        }
        let block = |(sealed, decoded): &(Sealed, Decoded)| {
            let at = (index - sealed.id.blocks().start) as usize;
            // Not the whole segment with it.
            decoded.blocks.get(at).map(|block| Bytes::copy_from_slice(block))
        };
        Ok(left.segment_of(2 * index)?.and_then(block))
    }

    fn node(&self, index: u64) -> Result<Option<Node>, StorageError> {
        let mut left = self.left();
        let Some(left) = left.as_mut() else {
            return Ok(None);
        };
        if let Ok(at) = left.nodes.binary_search_by_key(&index, |node| node.index) {
            return Ok(Some(left.nodes[at]));
        }
        let node = |(_, decoded): &(Sealed, Decoded)| {
            let nodes = decoded.nodes.iter();
            nodes.copied().find(|node| node.index == index)
        };
        Ok(left.segment_of(index)?.and_then(node))
    }
}

/// Who reads a core's blocks as they were.
#[derive(Debug, Default)]
pub(super) struct Readers {
    /// Blocks below this are read.
    pub(super) below: u64,
    /// Remains that were not taken yet.
    untaken: VecDeque<Arc<DiskRemains>>,
    /// Those that somebody may have.
    taken: VecDeque<Weak<DiskRemains>>,
}

impl Readers {
    /// Keeps what a truncation took until it is asked for.
    pub(super) fn add(&mut self, remains: DiskRemains) {
        self.taken.retain(|remains| remains.strong_count() > 0);
        if self.taken.len() >= MAX_REMAINS
            && let Some(oldest) = self.taken.pop_front().and_then(|oldest| oldest.upgrade())
        {
            *oldest.left() = None;
        }
        let remains = Arc::new(remains);
        self.taken.push_back(Arc::downgrade(&remains));
        if self.untaken.len() >= MAX_REMAINS {
            self.untaken.pop_front();
        }
        self.untaken.push_back(remains);
    }

    /// What the truncation to `from` left; what earlier ones left that nobody asked for goes.
    pub(super) fn take(&mut self, from: u64) -> Option<Arc<DiskRemains>> {
        let at = self.untaken.iter().position(|remains| remains.from == from)?;
        self.untaken.drain(..=at).next_back()
    }

    /// Whether a segment that was dropped is still read.
    pub(super) fn read(&self, sealed: &Sealed) -> bool {
        let mut taken = self.taken.iter().filter_map(Weak::upgrade);
        taken.any(|remains| remains.reads(sealed))
    }
}

impl DiskStorage {
    /// What a truncation to `from` is about to take from those who read it.
    pub(super) fn remains_of(&self, from: u64) -> Result<Option<DiskRemains>, StorageError> {
        let below = self.readers.below;
        if from >= below {
            return Ok(None);
        }
        let index = &self.index;
        let places: Vec<(u64, BlockPlace)> = index
            .blocks
            .range(from..below)
            .map(|(block, place)| (*block, *place))
            .collect();
        let cut = |node: &Node| {
            flat_tree::end_block(node.index) > from && flat_tree::first_block(node.index) < below
        };
        let mut nodes: Vec<Node> = index.nodes().filter(cut).collect();
        nodes.sort_unstable_by_key(|node| node.index);
        let segments = index.segments_in(&(from..below)).into_iter();
        let segments = segments.filter(|sealed| !sealed.hollow);
        let segments = segments.map(|sealed| (sealed, self.segment_path(&sealed)));
        let mut held = index.bitfield.clone();
        held.clear_range(0..from);
        held.clear_range(below..u64::MAX);
        let left = Left {
            discovery_key: self.discovery_key,
            files: self.files.clone(),
            cipher: self.cipher.clone(),
            log: (!places.is_empty())
                .then(|| self.files.hold(&self.log))
                .transpose()?,
            log_path: self.log.clone(),
            places,
            nodes,
            segments: segments.collect(),
            held,
            last: None,
        };
        Ok(Some(DiskRemains {
            from,
            left: Mutex::new(Some(left)),
        }))
    }
}
