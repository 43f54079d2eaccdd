//! A core's state in a directory: a head log that is appended to, and sealed segment files (`docs/format/head-log.md`).
//!
//! Changes go to the log as one batch of records; a batch that a crash tore is cut when the storage is opened, and told by
//! [`DiskStorage::torn_tail`]. When enough blocks lie in the log, whole subtrees are written as segments (temporary file,
//! sync, rename, sync of the directory, only then a record in the log), and when most of the log is dead it is written
//! anew. So an open core costs memory for its head and a small entry per segment, not for its blocks.
//!
//! Invariants: a block or node is findable either in the log or in a segment at any moment of any crash; files are removed
//! only after the log that no longer needs them is durable; descriptors are bounded by the shared [`Files`].
//!
//! What it does not do: it verifies no hash paths (the core does), and the log is not encrypted (segments are, when a
//! content key is given).

mod files;
mod index;
mod log;
mod seal;
mod sidecar;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use self::files::failed;
use self::index::Index;
use self::log::{Batch, BlockPlace, HEADER_BYTES, Record, Sealed};
use super::{Changes, Head, Storage, StorageError};
use crate::bitfield::Bitfield;
use crate::crypto::{Hash, Key, discovery_key};
use crate::flat_tree;
use crate::manifest::Manifest;
use crate::node::Node;
use crate::segment::{ContentCipher, Place};

pub use files::{DEFAULT_OPEN_FILES, Faults, Files};

/// Name of the log in a core's directory.
pub const LOG_NAME: &str = "head.log";

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
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            seal_bytes: 8 << 20,
            spill_bytes: 64 << 20,
            spill_min_bytes: 64 << 10,
            seal_nodes: 1 << 16,
            dead_bytes: 4 << 20,
        }
    }
}

/// How a core's directory is opened.
#[derive(Debug, Clone)]
pub struct DiskOptions {
    /// Descriptors, shared by all cores of a store.
    pub files: Arc<Files>,
    /// Key that segments are encrypted with; none writes them in the clear.
    pub content_key: Option<[u8; 32]>,
    /// When to seal and compact.
    pub limits: Limits,
    /// Open a damaged log for reading what lies before the damage; changes are refused then.
    pub salvage: bool,
}

impl Default for DiskOptions {
    fn default() -> Self {
        Self {
            files: Files::new(DEFAULT_OPEN_FILES),
            content_key: None,
            limits: Limits::default(),
            salvage: false,
        }
    }
}

/// What was cut from the end of a log when it was opened: the changes of a crash that nobody was told were safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TornTail {
    /// Where the log ends now.
    pub offset: u64,
    /// Bytes that were cut.
    pub bytes: u64,
}

/// The storage of one core in one directory.
#[derive(Debug)]
pub struct DiskStorage {
    dir: PathBuf,
    log: PathBuf,
    key: Key,
    discovery_key: Hash,
    files: Arc<Files>,
    cipher: Option<ContentCipher>,
    limits: Limits,
    index: Index,
    generation: u64,
    end: u64,
    synced: u64,
    torn: Option<TornTail>,
    closed: bool,
    /// Why the last sealing or compaction failed, and the log length at which it is tried again.
    maintenance: Option<(StorageError, u64)>,
}

impl DiskStorage {
    /// Opens a core's directory, making it if it does not exist.
    pub fn open(dir: &Path, key: Key, options: &DiskOptions) -> Result<Self, StorageError> {
        let log = dir.join(LOG_NAME);
        let files = options.files.clone();
        if !log.exists() {
            fs::create_dir_all(dir).map_err(failed("create", dir))?;
            files.write_whole(&log, &[&log::encode_header(1, &key)])?;
            files.sync_dir(dir)?;
            if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                files.sync_dir(parent)?;
            }
        }
        files.forget(&log);
        let scan = log::scan(&files, &log, &key)?;
        if let Some(offset) = scan.damage.filter(|_| !options.salvage) {
            return Err(StorageError::Damaged { what: "a record", path: log, offset });
        }
        let mut index = Index::default();
        for record in scan.records {
            index.take(record);
        }
        let torn = TornTail { offset: scan.end, bytes: scan.file_length - scan.end };
        let mut storage = Self {
            dir: dir.to_path_buf(),
            log,
            key,
            discovery_key: discovery_key(&key),
            files,
            cipher: options.content_key.as_ref().map(ContentCipher::new),
            limits: options.limits,
            index,
            generation: scan.generation,
            end: scan.end,
            synced: 0,
            torn: (torn.bytes > 0 && scan.damage.is_none()).then_some(torn),
            closed: scan.damage.is_some(),
            maintenance: None,
        };
        if !storage.closed {
            if storage.torn.is_some() {
                storage.files.cut(&storage.log, storage.end)?;
            }
            storage.remove_strays()?;
        }
        Ok(storage)
    }

    /// The key of the core in a directory, without opening it; none if there is no core.
    pub fn read_key(dir: &Path) -> Result<Option<Key>, StorageError> {
        let path = dir.join(LOG_NAME);
        let mut header = [0; HEADER_BYTES as usize];
        let read = fs::File::open(&path).and_then(|mut file| std::io::Read::read_exact(&mut file, &mut header));
        match read {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read", &path)(error)),
            Ok(()) => {
                log::decode_header(&header).map(|(_, key)| Some(key)).map_err(|what| StorageError::Foreign { what, path })
            }
        }
    }

    /// The core's key.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// What was cut from the log when it was opened, if anything.
    pub fn torn_tail(&self) -> Option<TornTail> {
        self.torn
    }

    /// Why sealing or compacting failed last, if it did. The core works on; its log grows until it succeeds.
    pub fn maintenance_error(&self) -> Option<&StorageError> {
        self.maintenance.as_ref().map(|(error, _)| error)
    }

    /// Length of the log in bytes.
    pub fn log_bytes(&self) -> u64 {
        self.end
    }

    /// Number of sealed segments.
    pub fn segment_count(&self) -> usize {
        self.index.segments.len()
    }

    fn place(&self, sealed: &Sealed) -> Place {
        Place { discovery_key: self.discovery_key, fork: sealed.fork, id: sealed.id }
    }

    fn segment_path(&self, sealed: &Sealed) -> PathBuf {
        let SegmentIdName(name) = SegmentIdName::of(sealed);
        self.dir.join(format!("{name}.seg"))
    }

    fn sidecar_path(&self, sealed: &Sealed) -> PathBuf {
        let SegmentIdName(name) = SegmentIdName::of(sealed);
        self.dir.join(format!("{name}.nodes"))
    }

    /// Removes files that the log does not name: left by a crash between two steps of sealing.
    fn remove_strays(&mut self) -> Result<(), StorageError> {
        let known: std::collections::HashSet<PathBuf> = self
            .index
            .segments
            .values()
            .flat_map(|sealed| [self.segment_path(sealed), self.sidecar_path(sealed)])
            .chain([self.log.clone()])
            .collect();
        self.index.dropped.clear();
        for entry in fs::read_dir(&self.dir).map_err(failed("list", &self.dir))? {
            let path = entry.map_err(failed("list", &self.dir))?.path();
            let ours = path.extension().is_some_and(|extension| {
                extension == "seg" || extension == "nodes" || extension == "tmp"
            });
            if ours && !known.contains(&path) {
                self.files.remove(&path)?;
            }
        }
        Ok(())
    }

    fn log_block(&self, place: &BlockPlace) -> Result<Bytes, StorageError> {
        let mut bytes = vec![0; place.length as usize];
        self.files.read_at(&self.log, place.offset, &mut bytes)?;
        if crc32c::crc32c(&bytes) != place.crc {
            let (path, offset) = (self.log.clone(), place.offset);
            return Err(StorageError::Damaged { what: "a block", path, offset });
        }
        Ok(bytes.into())
    }

    /// The blocks and nodes below `length` of the segment that reaches over it: truncating drops the file, so they go
    /// back to the log.
    fn rescue(&self, length: u64, changes: &mut Changes) -> Result<(), StorageError> {
        let Some(sealed) = self.index.segment_of_block(length).filter(|sealed| sealed.id.blocks().start < length) else {
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
        if let Err(error) = self.files.write_at(&self.log, self.end, &batch.bytes) {
            // A log whose torn end cannot be cut must not be appended to.
            self.closed = self.files.cut(&self.log, self.end).is_err();
            return Err(error);
        }
        self.end += batch.bytes.len() as u64;
        Ok(())
    }

    /// Writes changes to the log, and gives the records that the index takes when they are written.
    fn write(&mut self, changes: Changes) -> Result<Vec<Record>, StorageError> {
        let mut batch = Batch::new(self.generation);
        let mut records = Vec::new();
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
            let place = batch.block(self.end, index, &block);
            records.push(Record::Block { index, place });
        }
        if let Some(head) = changes.head {
            batch.head(&head);
            records.push(Record::Head(head));
        }
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        batch.finish();
        self.append(&batch)?;
        Ok(records)
    }
}

/// File name of a segment, without its extension: level, index and fork in hexadecimal.
struct SegmentIdName(String);

impl SegmentIdName {
    fn of(sealed: &Sealed) -> Self {
        Self(format!("{:02x}-{:014x}-{:x}", sealed.id.level, sealed.id.index, sealed.fork))
    }
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

    fn node(&self, index: u64) -> Result<Option<Node>, StorageError> {
        if let Some(node) = self.index.node(index) {
            return Ok(Some(node));
        }
        match self.index.segment_of_node(index) {
            Some(sealed) => self.sealed_node(sealed, index).map(Some),
            None => Ok(None),
        }
    }

    fn block(&self, index: u64) -> Result<Option<Bytes>, StorageError> {
        if let Some(place) = self.index.blocks.get(&index) {
            return self.log_block(place).map(Some);
        }
        if !self.index.bitfield.get(index) {
            return Ok(None);
        }
        match self.index.segment_of_block(index) {
            Some(sealed) => self.sealed_block(sealed, index).map(Some),
            None => Ok(None),
        }
    }

    fn apply(&mut self, mut changes: Changes) -> Result<(), StorageError> {
        if self.closed {
            return Err(StorageError::Closed);
        }
        if let Some(length) = changes.truncate {
            self.rescue(length, &mut changes)?;
        }
        for record in self.write(changes)? {
            self.index.take(record);
        }
        self.maintain();
        Ok(())
    }

    fn flush(&mut self) -> Result<(), StorageError> {
        if self.closed {
            return Err(StorageError::Closed);
        }
        if self.synced == self.end {
            return Ok(());
        }
        self.files.sync(&self.log)?;
        // Tells a later reader of the log which bytes were durable; it need not be durable itself.
        let mut batch = Batch::new(self.generation);
        batch.synced(self.end);
        batch.finish();
        let written = self.append(&batch);
        self.synced = self.end;
        self.remove_dropped();
        written
    }
}
