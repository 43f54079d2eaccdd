//! Appends that complete a segment go straight into it: their bytes are written once.
//!
//! The segment's files are written and named before the batch of records that says *sealed* is, and neither waits for the
//! disk; a flush makes the files durable before it does so with the log. Invariants: whatever a flush acknowledged names
//! segments that are durable; a segment that counts by the log alone is held against its hash at the next opening
//! ([`first_torn`]), and a batch whose segment a loss of power took is cut from the log with all that came after it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::files::Files;
use super::index::Index;
use super::log::{Record, Sealed};
use super::scan::{self, Scan};
use super::work::{SealJob, Source};
use super::{Changes, DiskStorage, StorageError, segment_path};
use crate::crypto::Hash;
use crate::node::Node;
use crate::segment::cut::MAX_LEVEL;
use crate::segment::{Held, Place, SegmentId, cut, decode};

/// Segments that may be written and not durable: about 2 GiB that an opening after a crash reads. Beyond that blocks go to the
/// log, which waits for its sealing.
const MOST_UNSYNCED: usize = 256;
/// Segments from which on making them durable does not wait for a quiet moment.
const PRESSING_UNSYNCED: usize = 16;

/// A segment that an append completes.
pub(super) struct Direct {
    pub(super) sealed: Sealed,
    job: SealJob,
}

/// Where the files of segments lie that are to be made durable.
#[derive(Debug, Default)]
pub(super) struct Unsynced {
    pub(super) segments: Vec<Sealed>,
    files: Vec<PathBuf>,
    dir: PathBuf,
}

impl Unsynced {
    /// Waits for the disk.
    pub(super) fn sync(&self, files: &Files) -> Result<(), StorageError> {
        for path in &self.files {
            match files.sync(path) {
                // Dropped meanwhile: files go only after the log that no longer needs them is durable.
                Err(StorageError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {}
                other => other?,
            }
        }
        if self.files.is_empty() {
            return Ok(());
        }
        files.sync_dir(&self.dir)
    }
}

impl DiskStorage {
    /// The blocks that changes append, if appending in bulk is all they do.
    fn bulk(&self, changes: &Changes) -> Option<Range<u64>> {
        let (head, (first, _)) = (changes.head.as_ref()?, changes.blocks.first()?);
        let length = self.index.head.length;
        let bytes: usize = changes.blocks.iter().map(|(_, block)| block.len()).sum();
        let in_order = (length..)
            .zip(&changes.blocks)
            .all(|(at, (index, _))| at == *index);
        let appends = *first == length
            && in_order
            && length + changes.blocks.len() as u64 == head.length
            && changes.truncate.is_none()
            && changes.clear.is_empty();
        // What is encrypted is made with the whole segment at hand.
        let fits = self.cipher.is_none() && self.unsynced.len() < MOST_UNSYNCED;
        let is_bulk = (bytes as u64).saturating_mul(2) > self.limits.direct_bytes;
        (appends && fits && is_bulk).then_some(length..head.length)
    }

    /// The segments that changes complete and that should not pass through the log: large ones, of which the larger part
    /// comes now.
    pub(super) fn direct(&self, changes: &Changes) -> Result<Vec<Direct>, StorageError> {
        let Some(added) = self.bulk(changes) else {
            return Ok(Vec::new());
        };
        let given: HashMap<u64, Node> = changes.nodes.iter().map(|node| (node.index, *node)).collect();
        let node = |index: u64| match given.get(&index) {
            Some(node) => Ok(Some(*node)),
            None => self.node_of(index),
        };
        let mut found = Vec::new();
        for id in self.completed(&added, &node)? {
            let block = |index: u64| match index.checked_sub(added.start) {
                Some(at) => Ok(changes.blocks.get(at as usize).map(|(_, block)| block.clone())),
                None => self.block_of(index),
            };
            let source = |index: u64| match self.index.blocks.get(&index) {
                Some(place) => Ok(Some(Source::Log(*place))),
                None => Ok(block(index)?.map(Source::Held)),
            };
            let job = self.job_of(id, source, node)?;
            found.push(Direct {
                sealed: job.sealed,
                job,
            });
        }
        Ok(found)
    }

    fn completed(
        &self,
        added: &Range<u64>,
        node: &dyn Fn(u64) -> Result<Option<Node>, StorageError>,
    ) -> Result<Vec<SegmentId>, StorageError> {
        let failure = RefCell::new(None);
        let size_of = |index: u64| match node(index) {
            Ok(node) => node.map(|node| node.size),
            Err(error) => {
                failure.replace(Some(error));
                None
            }
        };
        let held = |blocks: Range<u64>| {
            if blocks.end <= added.start {
                Held::None
            } else if blocks.end - blocks.start > 1 << MAX_LEVEL {
                Held::Some
            } else if blocks.start >= added.start
                || self.index.bitfield.contains_range(blocks.start..added.start)
            {
                Held::All
            } else {
                Held::Some
            }
        };
        let mut ids = cut(added.end, held, size_of);
        ids.retain(|id| {
            let blocks = id.blocks();
            let new = blocks.end - blocks.start.max(added.start);
            let same = |gone: &Sealed| gone.id == *id;
            2 * new > blocks.end - blocks.start
                && size_of(id.node()).is_some_and(|size| size > self.limits.direct_bytes)
                && self.index.segments_in(&blocks).is_empty()
                && !self.index.dropped.iter().any(same)
        });
        failure.into_inner().map_or(Ok(ids), Err)
    }

    /// Writes and names the files of segments; all of them, or none.
    pub(super) fn write_direct(&self, direct: &[Direct]) -> Result<(), StorageError> {
        let written = direct
            .iter()
            .try_for_each(|segment| segment.job.write()?.put_in_place());
        if written.is_err() {
            self.remove_direct(direct);
        }
        written
    }

    /// Removes the files of segments that will not be in the log. What cannot be removed is a stray for the next opening.
    pub(super) fn remove_direct(&self, direct: &[Direct]) {
        for segment in direct {
            let _ = self.files.remove(&self.segment_path(&segment.sealed));
            let _ = self.files.remove(&self.sidecar_path(&segment.sealed));
        }
    }

    /// The segments that are to be made durable before the log is.
    pub(super) fn take_unsynced(&self) -> Unsynced {
        let segments = self.unsynced.clone();
        let files = segments
            .iter()
            .flat_map(|sealed| [self.segment_path(sealed), self.sidecar_path(sealed)]);
        Unsynced {
            files: files.collect(),
            dir: self.dir.join("segments"),
            segments,
        }
    }

    /// Takes note of segments that are durable.
    pub(super) fn note_synced(&mut self, synced: &Unsynced) {
        self.unsynced.retain(|sealed| !synced.segments.contains(sealed));
    }

    /// Whether segments should be made durable at a quiet moment, or now.
    pub(super) fn should_sync(&self, quiet: bool) -> bool {
        self.unsynced.len() >= if quiet { 1 } else { PRESSING_UNSYNCED }
    }
}

/// Leaves of changes what does not lie in these segments: their tops, and other blocks and nodes.
pub(super) fn leave_rest(changes: &mut Changes, direct: &[Direct]) {
    let covers = |block: u64| {
        let mut ids = direct.iter().map(|segment| segment.sealed.id);
        ids.find(|id| id.blocks().contains(&block))
    };
    changes.blocks.retain(|(index, _)| covers(*index).is_none());
    changes.nodes.retain(|node| {
        covers(node.index / 2).is_none_or(|id| {
            let inside = crate::flat_tree::contains(id.node(), node.index);
            !inside || node.index == id.node()
        })
    });
}

/// What a log says, and the segments that count by it and may not be durable.
pub(super) fn read_log(
    files: &Files,
    dir: &Path,
    log: &Path,
    discovery_key: &Hash,
) -> Result<(Index, Scan, Vec<Sealed>), StorageError> {
    let place = |sealed: &Sealed| {
        let place = Place {
            discovery_key: *discovery_key,
            fork: sealed.fork,
            id: sealed.id,
        };
        (segment_path(dir, sealed), place)
    };
    let mut limit = u64::MAX;
    loop {
        let (mut index, mut sealed) = (Index::default(), Vec::new());
        let scan = scan::scan(files, log, discovery_key, limit, |record, batch| {
            if let (Record::Seal(segment), Some(batch)) = (&record, batch) {
                sealed.push((batch, *segment));
            }
            index.take(record);
        })?;
        let Some(batch) = first_torn(files, &index, &sealed, place)? else {
            sealed.retain(|(_, segment)| counts(&index, segment));
            let sealed = sealed.into_iter().map(|(_, segment)| segment);
            return Ok((index, scan, sealed.collect()));
        };
        // Without it and what came after it, others may count again.
        limit = batch;
    }
}

/// Of segments that count by the end of a log that was not known to be durable, each with where its batch begins: the
/// beginning of the first whose file is not what the log says.
fn first_torn(
    files: &Files,
    index: &Index,
    sealed: &[(u64, Sealed)],
    place: impl Fn(&Sealed) -> (PathBuf, Place),
) -> Result<Option<u64>, StorageError> {
    for (batch, sealed) in sealed {
        // Those that were encrypted were durable first.
        if counts(index, sealed) && !sealed.encrypted {
            let (path, place) = place(sealed);
            if !is_whole(files, &path, &place, index.node(sealed.id.node()))? {
                return Ok(Some(*batch));
            }
        }
    }
    Ok(None)
}

/// Whether the blocks of a segment are read from its file.
fn counts(index: &Index, sealed: &Sealed) -> bool {
    index.segments.get(&sealed.id.blocks().start) == Some(sealed)
}

fn is_whole(files: &Files, path: &Path, place: &Place, top: Option<Node>) -> Result<bool, StorageError> {
    let bytes = match files.read(path) {
        Ok(bytes) => Bytes::from(bytes),
        Err(StorageError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let whole = decode(&bytes, place, None).is_ok_and(|decoded| top.is_none_or(|top| top == decoded.root));
    Ok(whole)
}
