//! A core's state in a directory: a head log that is appended to, and sealed segment files (`docs/format/head-log.md`).
//!
//! Changes go to the log as one batch of records; a batch that a crash tore is cut when the storage is opened, and told by
//! [`DiskStorage::torn_tail`]. When enough blocks lie in the log, whole subtrees are written as segments (temporary file,
//! sync, rename, sync of the directory, only then a record in the log), and when most of the log is dead it is written
//! anew. What an append in bulk fills goes straight into a segment ([`direct`]). So an open core costs memory for its head and a small entry per segment, not for its blocks.
//!
//! Invariants: a block or node is findable either in the log or in a segment at any moment of any crash; files are removed
//! only after the log that no longer needs them is durable; descriptors are bounded by the shared [`Files`].
//!
//! What it does not do: it verifies no hash paths (the core does), and the log is not encrypted (segments are, when a
//! content key is given).

mod direct;
mod faults;
mod files;
mod flush;
mod index;
mod log;
mod nodes;
mod places;
mod remains;
mod scan;
mod seal;
mod sidecar;
mod stored;
mod work;

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;

use self::direct::Direct;
use self::files::{Held, failed};
use self::index::Index;
use self::log::{Batch, BlockPlace, Record, Sealed};
use self::remains::Readers;
use self::stored::{At, Segments};
use super::{Changes, Head, ImportedSegment, Located, Remains, Storage, StorageError};
use crate::bitfield::Bitfield;
use crate::crypto::Hash;
use crate::flat_tree;
use crate::manifest::Manifest;
use crate::node::Node;
use crate::segment::{ContentCipher, Place, SegmentId};

pub use faults::{Fault, Faults, FileOperation};
pub use files::{DEFAULT_OPEN_FILES, Files};
pub use flush::PendingFlush;
pub use stored::StoredBlock;
pub use work::Work;

/// Name of the log in a core's directory.
const LOG_NAME: &str = "head.log";
/// Name of what was cut from a torn log.
const TORN_NAME: &str = "head.log.torn";

/// When the log is sealed and compacted. The defaults keep the log of a full core within a few segments; tests use
/// smaller ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Block bytes in the log above which finished segments are sealed.
    pub seal_bytes: u64,
    /// Block bytes in the log above which unfinished subtrees are sealed as well, so that a sparse core stays bounded.
    pub spill_bytes: u64,
    /// Smallest subtree that is sealed unfinished: smaller ones would make too many files.
    pub spill_min_bytes: u64,
    /// Nodes in memory above which finished segments are sealed: many tiny blocks.
    pub seal_nodes: usize,
    /// Dead log bytes that are tolerated on top of the live ones before the log is written anew.
    pub dead_bytes: u64,
    /// A subtree of more bytes than this goes straight into a segment, if an append brings the larger part of it. A smaller
    /// one will probably be part of a larger segment.
    pub direct_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            seal_bytes: 8 << 20,
            spill_bytes: 64 << 20,
            spill_min_bytes: 64 << 10,
            seal_nodes: 1 << 16,
            dead_bytes: 4 << 20,
            direct_bytes: 4 << 20,
        }
    }
}

/// When a change that its owner made returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// When it is on the disk (`fdatasync`). Those who change a core at the same time share one sync.
    #[default]
    Synced,
    /// When the operating system has it, as in JS hypercore: it survives the process, but a loss of power may take the
    /// newest changes (never an older one without all that came after it). What is received from peers is still made
    /// durable at the commit interval, and closing the store or an explicit flush still syncs.
    Unsynced,
}

/// How a core's directory is opened.
#[derive(Debug, Clone, Default)]
pub struct DiskOptions {
    /// Open files, shared by all cores of a store.
    pub files: Files,
    /// Encrypts sealed segments; without it they are plain.
    pub cipher: Option<ContentCipher>,
    /// When to seal and compact.
    pub limits: Limits,
    /// When an append through a handle of a corestore returns. A [`DiskStorage`] used directly
    /// is synced by whoever calls [`Storage::flush`].
    pub durability: Durability,
    /// Open a damaged log for reading what lies before the damage; changes are refused then.
    pub salvage: bool,
}

/// The storage of one core in one directory.
#[derive(Debug)]
pub struct DiskStorage {
    dir: PathBuf,
    log: Arc<Path>,
    discovery_key: Hash,
    files: Files,
    cipher: Option<ContentCipher>,
    limits: Limits,
    index: Index,
    /// Format of the log, as its header says.
    version: u8,
    generation: u64,
    log_bytes: u64,
    /// Bytes of the log that are synced.
    durable_bytes: u64,
    /// The log while it has bytes that are not synced, held open unless too many are.
    dirty: Option<Held>,
    /// Set by a sync that failed, wherever it ran.
    sync_failed: Arc<AtomicBool>,
    /// Bytes that were cut from a torn log when it was opened.
    cut_bytes: u64,
    closed: bool,
    /// Whether others do the sealing and compacting, and whether they are at it.
    deferred: bool,
    working: bool,
    /// Log length below which it is not worth looking for something to seal.
    look_again_at: u64,
    /// Why the last sealing or compaction failed, and the log length at which it is tried again.
    maintenance: Option<(StorageError, u64)>,
    readers: Readers,
    /// What reads blocks of segments, here and wherever somebody has a [`StoredBlock`].
    sources: Arc<Segments>,
    /// Segments that count, and whose files may not be durable.
    unsynced: Vec<Sealed>,
}

impl DiskStorage {
    /// Opens the directory of a core, making it when it isn't there. A torn tail of the log, which never was
    /// acknowledged, is cut and kept in a file beside it; damage to durable bytes is an error that names the place.
    pub fn open(dir: &Path, discovery_key: Hash, options: DiskOptions) -> Result<Self, StorageError> {
        let (log, segments) = (Arc::<Path>::from(dir.join(LOG_NAME)), dir.join("segments"));
        let files = options.files;
        fs::create_dir_all(&segments).map_err(failed("create", &segments))?;
        if !log.exists() {
            files.write_whole(&log, &[&log::encode_header(1, &discovery_key)])?;
            files.sync_dir(dir)?;
            if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                files.sync_dir(parent)?;
            }
        }
        files.forget(&log);
        let (index, scan, unsynced) = direct::read_log(&files, dir, &log, &discovery_key)?;
        if let Some(offset) = scan.damage.filter(|_| !options.salvage) {
            return Err(StorageError::Damaged {
                what: "a record",
                path: log.to_path_buf(),
                offset,
            });
        }
        let sources = Arc::new(Segments {
            dir: dir.to_path_buf(),
            discovery_key,
            files: files.clone(),
            cipher: options.cipher.clone(),
        });
        let mut storage = Self {
            dir: dir.to_path_buf(),
            log,
            discovery_key,
            files,
            cipher: options.cipher,
            limits: options.limits,
            index,
            version: scan.version,
            generation: scan.generation,
            log_bytes: scan.end,
            durable_bytes: scan.end,
            dirty: None,
            sync_failed: Arc::default(),
            cut_bytes: 0,
            closed: scan.damage.is_some(),
            deferred: false,
            working: false,
            look_again_at: 0,
            maintenance: None,
            readers: Readers::default(),
            sources,
            unsynced,
        };
        if !storage.closed {
            storage.cut_tail(scan.file_length)?;
            storage.remove_strays()?;
        }
        Ok(storage)
    }

    /// Cuts what lies behind the last whole batch, keeping it beside the log for whoever wants to look.
    fn cut_tail(&mut self, file_length: u64) -> Result<(), StorageError> {
        self.cut_bytes = file_length - self.log_bytes;
        if self.cut_bytes > 0 {
            let mut torn = vec![0; self.cut_bytes as usize];
            self.files.read_at(&self.log, self.log_bytes, &mut torn)?;
            self.files.write_whole(&self.dir.join(TORN_NAME), &[&torn])?;
            self.files.cut(&self.log, self.log_bytes)?;
            // Bytes before the cut may be in the page cache alone (the process died, not the machine).
            self.files.sync(&self.log)?;
        }
        Ok(())
    }

    /// Bytes that were cut from the end of a torn log when it was opened; they lie in `head.log.torn`.
    pub fn cut_bytes(&self) -> u64 {
        self.cut_bytes
    }

    /// Why sealing or compacting failed last, if it did. The core works on; its log grows until it succeeds.
    pub fn maintenance_error(&self) -> Option<&StorageError> {
        self.maintenance.as_ref().map(|(error, _)| error)
    }

    /// Length of the log in bytes.
    pub fn log_bytes(&self) -> u64 {
        self.log_bytes
    }

    /// The sealed segments whose blocks are on disk (some of them may have been cleared).
    pub fn sealed_segments(&self) -> impl Iterator<Item = SegmentId> + '_ {
        self.index
            .segments
            .values()
            .filter(|sealed| !sealed.hollow)
            .map(|sealed| sealed.id)
    }

    /// The bytes of a sealed segment as they lie on disk, if there is one with this name whose blocks are all held.
    pub fn sealed_bytes(&self, id: SegmentId) -> Result<Option<Bytes>, StorageError> {
        self.index
            .whole_segment(id)
            .map(|sealed| self.segment_bytes(sealed))
            .transpose()
    }

    fn place(&self, sealed: &Sealed) -> Place {
        Place {
            discovery_key: self.discovery_key,
            fork: sealed.fork,
            id: sealed.id,
        }
    }

    fn segment_path(&self, sealed: &Sealed) -> PathBuf {
        segment_path(&self.dir, sealed)
    }

    fn sidecar_path(&self, sealed: &Sealed) -> PathBuf {
        self.segment_path(sealed).with_extension("tree")
    }

    /// Removes files that the log does not name, left by a crash between two steps of sealing; a segment that it does
    /// name and that is gone is damage.
    fn remove_strays(&mut self) -> Result<(), StorageError> {
        (self.index.dropped, self.index.hollowed) = (Vec::new(), Vec::new());
        let whole = self.index.segments.values().filter(|sealed| !sealed.hollow);
        let mut missing: HashSet<PathBuf> = whole.map(|sealed| self.segment_path(sealed)).collect();
        let trees: HashSet<PathBuf> = self
            .index
            .segments
            .values()
            .map(|sealed| self.sidecar_path(sealed))
            .collect();
        let dir = self.dir.join("segments");
        for entry in fs::read_dir(&dir).map_err(failed("list", &dir))? {
            let path = entry.map_err(failed("list", &dir))?.path();
            if !missing.remove(&path) && !trees.contains(&path) {
                self.files.remove(&path)?;
            }
        }
        match missing.into_iter().next() {
            Some(path) => Err(StorageError::Damaged {
                what: "a segment file that is missing",
                path,
                offset: 0,
            }),
            None => Ok(()),
        }
    }

    fn log_block(&self, place: &BlockPlace) -> Result<StoredBlock, StorageError> {
        let file = self.files.hold(&self.log)?;
        Ok(StoredBlock(At::Log(file, self.log.clone(), *place)))
    }

    /// The blocks and nodes below `length` of the segment that reaches over it: truncating drops the file, so they go
    /// back to the log.
    fn rescue(&self, length: u64, changes: &mut Changes) -> Result<(), StorageError> {
        let Some(sealed) = self
            .index
            .segment_of_block(length)
            .filter(|sealed| sealed.id.blocks().start < length)
        else {
            return Ok(());
        };
        let start = sealed.id.blocks().start;
        let (mut blocks, mut nodes) = (Vec::new(), Vec::new());
        for block in start..length {
            if self.index.bitfield.get(block)
                && !self.index.blocks.contains_key(&block)
                && let Some(bytes) = self.block(block)?
            {
                blocks.push((block, bytes));
            }
        }
        for index in flat_tree::left_span(sealed.id.node())..2 * length - 1 {
            if flat_tree::end_block(index) <= length
                && let Some(node) = self.node(index)?
            {
                nodes.push(node);
            }
        }
        blocks.append(&mut changes.blocks);
        nodes.append(&mut changes.nodes);
        (changes.blocks, changes.nodes) = (blocks, nodes);
        Ok(())
    }

    /// Writes a batch at the end of the log: all of it, or nothing.
    fn append(&mut self, batch: &Batch) -> Result<(), StorageError> {
        if self.dirty.is_none() {
            self.dirty = Some(self.files.hold_unsynced(&self.log)?);
        }
        if let Err(error) = self.files.write_at(&self.log, self.log_bytes, &batch.bytes) {
            // A log whose torn end cannot be cut must not be appended to.
            self.closed = self.files.cut(&self.log, self.log_bytes).is_err();
            return Err(error);
        }
        self.log_bytes += batch.bytes.len() as u64;
        Ok(())
    }

    fn node_of(&self, index: u64) -> Result<Option<Node>, StorageError> {
        if let Some(node) = self.index.node(index) {
            return Ok(Some(node));
        }
        match self.index.segment_of_node(index) {
            Some(sealed) => self.sealed_node(sealed, index),
            None => Ok(None),
        }
    }

    fn block_of(&self, index: u64) -> Result<Option<Bytes>, StorageError> {
        let read = || self.stored_block(index)?.map(StoredBlock::read).transpose();
        read().or_else(|error| {
            let sealed = self.index.segment_of_block(index);
            match sealed.filter(|_| !self.index.blocks.contains_key(&index)) {
                Some(sealed) => {
                    self.files.places().forget();
                    self.repair_sidecar(sealed)?;
                    read()
                }
                None => Err(error),
            }
        })
    }

    fn stored_block(&self, index: u64) -> Result<Option<StoredBlock>, StorageError> {
        if let Some(place) = self.index.blocks.get(&index) {
            return self.log_block(place).map(Some);
        }
        if !self.index.bitfield.get(index) {
            return Ok(None);
        }
        let sealed = self.index.segment_of_block(index);
        Ok(sealed.map(|sealed| StoredBlock(At::Segment(self.sources.clone(), *sealed, index))))
    }

    /// Writes changes to the log, and gives the records that the index takes when they are written.
    fn write(&mut self, changes: Changes, direct: &[Direct]) -> Result<Vec<Record>, StorageError> {
        let mut batch = Batch::with_buffer(self.generation, self.files.buffer());
        let bytes: usize = changes.blocks.iter().map(|(_, block)| block.len()).sum();
        let records = changes.blocks.len() + 8;
        batch
            .bytes
            .reserve(bytes + records * log::RECORD_BYTES as usize + changes.nodes.len() * log::NODE_BYTES);
        let mut records = Vec::with_capacity(records);
        if let Some(manifest) = changes.manifest {
            batch.manifest(&manifest);
            records.push(Record::Manifest(manifest));
        }
        if let Some(length) = changes.truncate {
            batch.truncate(length);
            records.push(Record::Truncate(length));
        }
        for blocks in changes.clear {
            batch.clear(&blocks);
            records.push(Record::Clear(blocks));
        }
        let mut nodes = changes.nodes;
        if changes.truncate.is_none() {
            nodes.retain(|node| self.index.node(node.index) != Some(*node));
        }
        batch.nodes(&nodes);
        records.push(Record::Nodes(nodes));
        for (index, block) in changes.blocks {
            let place = batch.block(self.log_bytes, index, &block);
            records.push(Record::Block { index, place });
        }
        for segment in direct {
            batch.seal(&segment.sealed);
            records.push(Record::Seal(segment.sealed));
        }
        if let Some(head) = changes.head {
            batch.head(&head);
            records.push(Record::Head(head));
        }
        for (name, value) in changes.user_data {
            batch.user_data(&name, value.as_deref());
            records.push(Record::UserData { name, value });
        }
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        batch.finish();
        self.append(&batch)?;
        self.files.give_back(batch.bytes);
        Ok(records)
    }
}

fn segment_path(dir: &Path, sealed: &Sealed) -> PathBuf {
    let (id, fork) = (sealed.id, sealed.fork);
    dir.join(format!("segments/{}-{}-{fork}.seg", id.level, id.index))
}

impl Storage for DiskStorage {
    fn manifest(&self) -> Option<&Manifest> {
        self.index.manifest.as_ref()
    }

    fn head(&self) -> &Head {
        &self.index.head
    }

    fn bitfield(&self) -> &Bitfield {
        &self.index.bitfield
    }

    fn user_data(&self) -> &BTreeMap<String, Bytes> {
        &self.index.user_data
    }

    fn node(&self, index: u64) -> Result<Option<Node>, StorageError> {
        self.node_of(index)
    }

    fn block(&self, index: u64) -> Result<Option<Bytes>, StorageError> {
        self.block_of(index)
    }

    fn locate(&self, index: u64) -> Result<Option<Located>, StorageError> {
        Ok(self.stored_block(index)?.map(Located::OnDisk))
    }

    fn apply(&mut self, mut changes: Changes) -> Result<(), StorageError> {
        self.check_open()?;
        let mut remains = None;
        if let Some(length) = changes.truncate {
            self.rescue(length, &mut changes)?;
            remains = self.remains_of(length)?;
        }
        if !changes.user_data.is_empty() && self.version < log::USER_DATA_VERSION {
            self.compact()?;
        }
        let direct = self.direct(&changes)?;
        self.write_direct(&direct)?;
        direct::leave_rest(&mut changes, &direct);
        let records = self
            .write(changes, &direct)
            .inspect_err(|_| self.remove_direct(&direct))?;
        for record in records {
            self.index.take(record);
        }
        self.unsynced.extend(direct.iter().map(|segment| segment.sealed));
        if let Some(remains) = remains {
            self.readers.add(remains);
        }
        self.maintain();
        Ok(())
    }

    fn flush(&mut self) -> Result<(), StorageError> {
        match self.begin_flush()? {
            Some(mut pending) => {
                pending.run();
                self.end_flush(pending)
            }
            None => Ok(()),
        }
    }

    fn begin_flush(&mut self) -> Result<Option<PendingFlush>, StorageError> {
        self.begin_sync()
    }

    fn end_flush(&mut self, ran: PendingFlush) -> Result<(), StorageError> {
        self.end_sync(ran)
    }

    fn has_work(&self) -> bool {
        self.may_have_work()
    }

    fn take_work(&mut self, quiet: bool) -> Option<Work> {
        self.give_out_work(quiet)
    }

    fn end_work(&mut self, ran: Work) {
        self.take_back_work(ran);
    }

    fn is_behind(&self) -> bool {
        self.owners_wait()
    }

    fn keep_remains(&mut self, below: u64) {
        self.readers.below = below;
    }

    fn take_remains(&mut self, from: u64) -> Option<Arc<dyn Remains>> {
        let remains = self.readers.take(from)?;
        Some(remains)
    }

    fn content_cipher(&self) -> Option<&ContentCipher> {
        self.cipher.as_ref()
    }

    fn sealed_segment(&self, id: SegmentId) -> Result<Option<(u64, Bytes)>, StorageError> {
        // A plain file of a storage that encrypts by now is not what the cipher would make.
        let same = |sealed: &&Sealed| sealed.encrypted == self.cipher.is_some();
        let Some(sealed) = self.index.whole_segment(id).filter(same) else {
            return Ok(None);
        };
        Ok(Some((sealed.fork, self.segment_bytes(sealed)?)))
    }

    fn import(&mut self, segment: ImportedSegment) -> Result<(), StorageError> {
        self.check_open()?;
        let (place, blocks) = (segment.place, segment.place.id.blocks());
        // As a file only if it covers no larger segment's place; otherwise what is missing goes to the log.
        let fits = self
            .index
            .segment_of_block(blocks.start)
            .is_none_or(|sealed| sealed.id.level < place.id.level);
        match &segment.bytes {
            Some(bytes) if fits => {
                let encrypted = self.cipher.is_some();
                let sealed = Sealed {
                    id: place.id,
                    fork: place.fork,
                    encrypted,
                    hollow: false,
                };
                self.put_segment(sealed, bytes, segment.decoded.nodes, &segment.decoded.root)
            }
            _ => {
                let changes = segment.into_changes(&self.index.bitfield);
                self.apply(changes)
            }
        }
    }
}

#[cfg(test)]
mod tests;
