//! Sealing subtrees into segment files, reading them, and writing the log anew when most of it is dead.

use std::path::Path;

use bytes::Bytes;

use super::log::{self, Batch, BlockPlace, Record, Sealed};
use super::sidecar;
use super::work::{FAR_BEHIND_BYTES, PIECE_BYTES};
use super::{DiskStorage, Storage, StorageError};
use crate::node::Node;
use crate::segment::cut::is_settled;
use crate::segment::{Header, Held, SegmentId, cut, decode};

/// Nodes that go into one record of a new log: it is decoded as a whole when the log is read.
const NODES_OF_RECORD: usize = 4096;

impl DiskStorage {
    /// Seals and compacts as the limits say, unless that was left to others who keep up. Failures do not touch what was
    /// stored; they are kept for [`DiskStorage::maintenance_error`], and it is tried again when the log has grown further.
    pub(super) fn maintain(&mut self) {
        if (self.deferred && !self.is_far_behind(FAR_BEHIND_BYTES)) || self.waits_after_failure() {
            return;
        }
        let ended = self.try_maintain();
        self.note_failure(ended.err());
    }

    pub(super) fn waits_after_failure(&self) -> bool {
        self.maintenance
            .as_ref()
            .is_some_and(|(_, retry_at)| self.log_bytes < *retry_at)
    }

    pub(super) fn note_failure(&mut self, error: Option<StorageError>) {
        let retry_at = self.log_bytes + self.limits.seal_bytes;
        self.maintenance = error.map(|error| (error, retry_at));
    }

    /// The segments that the limits say should be sealed now.
    pub(super) fn due_segments(&mut self) -> Result<Vec<SegmentId>, StorageError> {
        if !self.should_seal() {
            return Ok(Vec::new());
        }
        self.look_again_at = self.log_bytes + self.limits.seal_bytes / 8;
        self.sealable(self.index.live_block_bytes > self.limits.spill_bytes)
    }

    /// Whether the log is full. What could not be sealed then is not looked at again with every change.
    pub(super) fn should_seal(&self) -> bool {
        let full = self.index.live_block_bytes > self.limits.seal_bytes
            || self.index.node_count() > self.limits.seal_nodes;
        full && self.log_bytes >= self.look_again_at
    }

    fn try_maintain(&mut self) -> Result<(), StorageError> {
        for id in self.due_segments()? {
            self.seal(id)?;
        }
        let live = self.index.live_bytes();
        if self.log_bytes > 2 * live + self.limits.dead_bytes {
            self.compact()?;
        }
        Ok(())
    }

    /// Seals every segment that is held whole and stays as it is however the core grows, whatever the limits say.
    pub fn seal_settled(&mut self) -> Result<(), StorageError> {
        for id in self.sealable(false)? {
            self.seal(id)?;
        }
        Ok(())
    }

    /// The subtrees that are held whole and have blocks in the log: the finished ones, or with `spill` all that are large
    /// enough.
    fn sealable(&self, spill: bool) -> Result<Vec<SegmentId>, StorageError> {
        let failure = std::cell::RefCell::new(None);
        let size_of = |node: u64| match self.node(node) {
            Ok(node) => node.map(|node| node.size),
            Err(error) => {
                failure.replace(Some(error));
                None
            }
        };
        let held = |blocks: std::ops::Range<u64>| {
            if self.index.blocks.range(blocks.clone()).next().is_none() {
                Held::None
            } else if self.index.bitfield.contains_range(blocks) {
                Held::All
            } else {
                Held::Some
            }
        };
        let length = self.index.head.length;
        let mut ids = cut(length, held, size_of);
        ids.retain(|id| {
            is_settled(*id, length, size_of)
                || (spill && size_of(id.node()).is_some_and(|size| size >= self.limits.spill_min_bytes))
        });
        failure.into_inner().map_or(Ok(ids), Err)
    }

    /// Writes a subtree as a segment, and says so in the log.
    pub(super) fn seal(&mut self, id: SegmentId) -> Result<(), StorageError> {
        let job = self.seal_job(id)?;
        job.write_durable()?;
        self.files.sync_dir(&self.dir.join("segments"))?;
        self.count_segment(job.sealed, &job.top)
    }

    /// Writes the files of a segment whose content was checked, then the record that makes them count.
    pub(super) fn put_segment(
        &mut self,
        sealed: Sealed,
        bytes: &Bytes,
        nodes: Vec<Node>,
        top: &Node,
    ) -> Result<(), StorageError> {
        self.files.write_whole(&self.segment_path(&sealed), &[bytes])?;
        self.write_sidecar(&sealed, bytes, nodes)?;
        self.files.sync_dir(&self.dir.join("segments"))?;
        self.count_segment(sealed, top)
    }

    /// Says in the log that a segment, whose files are durable, counts from now on.
    pub(super) fn count_segment(&mut self, sealed: Sealed, top: &Node) -> Result<(), StorageError> {
        let mut batch = Batch::new(self.generation);
        batch.nodes([top]);
        batch.seal(&sealed);
        batch.finish();
        self.append(&batch)?;
        self.index.put_node(top);
        self.index.take(Record::Seal(sealed));
        Ok(())
    }

    fn write_sidecar(&self, sealed: &Sealed, bytes: &Bytes, nodes: Vec<Node>) -> Result<(), StorageError> {
        let broken = || damaged("a segment", &self.segment_path(sealed), 0);
        let header = Header::decode(bytes).map_err(|_| broken())?;
        let side = sidecar::encode(bytes, &header, nodes).ok_or_else(broken)?;
        self.files.write_whole(&self.sidecar_path(sealed), &[&side])
    }

    /// Makes a missing or damaged sidecar again; an error means that the segment itself is damaged.
    pub(super) fn repair_sidecar(&self, sealed: &Sealed) -> Result<(), StorageError> {
        let path = self.segment_path(sealed);
        let bytes = self.segment_bytes(sealed)?;
        let cipher = self.cipher.as_ref().filter(|_| sealed.encrypted);
        let decoded =
            decode(&bytes, &self.place(sealed), cipher).map_err(|_| damaged("a segment", &path, 0))?;
        if self
            .index
            .node(sealed.id.node())
            .is_some_and(|top| top != decoded.root)
        {
            return Err(damaged("a segment of another tree", &path, 0));
        }
        self.write_sidecar(sealed, &bytes, decoded.nodes)
    }

    pub(super) fn segment_bytes(&self, sealed: &Sealed) -> Result<Bytes, StorageError> {
        self.files.read(&self.segment_path(sealed)).map(Bytes::from)
    }

    /// A node out of a segment's sidecar.
    pub(super) fn sealed_node(&self, sealed: &Sealed, index: u64) -> Result<Option<Node>, StorageError> {
        let path = self.sidecar_path(sealed);
        let offset = sidecar::node_offset(sealed.id, index);
        let read = || {
            let mut entry = [0; sidecar::ENTRY_BYTES];
            self.files.read_at(&path, offset, &mut entry)?;
            sidecar::decode_node(index, &entry).ok_or_else(|| damaged("a tree node", &path, offset))
        };
        match read() {
            Ok(node) => Ok(Some(node)),
            // Its blocks are gone, so its nodes can't be computed again; they come again with the blocks.
            Err(_) if sealed.hollow => Ok(None),
            Err(_) => {
                self.repair_sidecar(sealed)?;
                read().map(Some)
            }
        }
    }

    /// Writes the log anew with what is still needed of it. The new log is durable before it takes the old one's name.
    ///
    /// In pieces: what is live may be more than fits the memory well.
    pub fn compact(&mut self) -> Result<(), StorageError> {
        // The new log is durable as a whole.
        let unsynced = self.take_unsynced();
        if let Err(error) = unsynced.sync(&self.files) {
            self.closed = true;
            return Err(error);
        }
        self.note_synced(&unsynced);
        let generation = self.generation + 1;
        let header = log::encode_header(generation, &self.discovery_key);
        let mut unfinished = self.files.begin_whole(&self.log)?;
        unfinished.write(&header)?;
        let mut base = header.len() as u64;
        let mut batch = Batch::with_buffer(generation, self.files.buffer());
        self.live_state(&mut batch);
        let mut places: Vec<(u64, BlockPlace)> = Vec::with_capacity(self.index.blocks.len());
        for (index, place) in &self.index.blocks {
            if batch.bytes.len() >= PIECE_BYTES {
                unfinished.write(batch.settled())?;
                base += batch.forget_settled();
            }
            let block = self.log_block(place)?.read()?;
            places.push((*index, batch.block(base, *index, &block)));
        }
        batch.head(&self.index.head);
        for (name, value) in &self.index.user_data {
            batch.user_data(name, Some(value));
        }
        batch.finish();
        unfinished.write(&batch.bytes)?;
        let end = base + batch.bytes.len() as u64;
        let mut synced = Batch::new(generation);
        synced.synced(end);
        synced.finish();
        unfinished.write(&synced.bytes)?;
        unfinished.finish()?;
        self.files.give_back(batch.bytes);
        // From the rename on the new log is the one that counts, whatever happens next.
        (self.version, self.generation) = (log::VERSION, generation);
        self.log_bytes = end + synced.bytes.len() as u64;
        for (index, place) in places {
            self.index.blocks.insert(index, place);
        }
        self.dirty = None;
        self.look_again_at = self.log_bytes + self.limits.seal_bytes / 8;
        if let Err(error) = self.files.sync_dir(&self.dir) {
            // After a loss of power either log may be found, so nothing may be acknowledged on the new one.
            self.closed = true;
            return Err(error);
        }
        self.durable_bytes = self.log_bytes;
        let (dropped, hollowed) = (self.index.dropped.clone(), self.index.hollowed.clone());
        self.remove_dropped(&dropped, &hollowed);
        Ok(())
    }

    /// What a new log begins with: everything but blocks, head and user data.
    fn live_state(&self, batch: &mut Batch) {
        if let Some(manifest) = &self.index.manifest {
            batch.manifest(manifest);
        }
        for sealed in self.index.segments.values() {
            batch.seal(sealed);
            self.clear_holes(sealed, batch);
        }
        let mut nodes: Vec<Node> = self.index.nodes().collect();
        nodes.sort_unstable_by_key(|node| node.index);
        for nodes in nodes.chunks(NODES_OF_RECORD) {
            batch.nodes(nodes);
        }
    }

    /// Says which blocks of a segment are not held: they were cleared after it was sealed.
    fn clear_holes(&self, sealed: &Sealed, batch: &mut Batch) {
        let blocks = sealed.id.blocks();
        let mut at = self.index.bitfield.first_unset(blocks.start);
        while at < blocks.end {
            let end = self
                .index
                .bitfield
                .first_set(at)
                .unwrap_or(blocks.end)
                .min(blocks.end);
            batch.clear(&(at..end));
            at = self.index.bitfield.first_unset(end);
        }
    }

    /// Removes the files of segments whose dropping is durable, unless they are needed again or still read. What cannot be removed now
    /// is a stray for the next opening.
    pub(super) fn remove_dropped(&mut self, dropped: &[Sealed], hollowed: &[Sealed]) {
        for sealed in dropped {
            if self.readers.read(sealed) {
                continue;
            }
            if let Some(at) = self.index.dropped.iter().position(|gone| gone == sealed) {
                self.index.dropped.swap_remove(at);
                let _ = self.files.remove(&self.segment_path(sealed));
                let _ = self.files.remove(&self.sidecar_path(sealed));
            }
        }
        for sealed in hollowed {
            if let Some(at) = self.index.hollowed.iter().position(|gone| gone == sealed) {
                self.index.hollowed.swap_remove(at);
                let _ = self.files.remove(&self.segment_path(sealed));
            }
        }
    }
}

pub(super) fn damaged(what: &'static str, path: &Path, offset: u64) -> StorageError {
    StorageError::Damaged {
        what,
        path: path.to_path_buf(),
        offset,
    }
}
