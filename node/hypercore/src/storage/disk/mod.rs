//! A core on disk: a directory with a head log and sealed segments.
//!
//! New blocks and nodes go into the head log (`head.log`), one checksummed record for each [`Changes`]: that makes them
//! atomic. A run of blocks whose segment can't grow any more is sealed into a segment file, the same bytes that a backup
//! ships, and leaves the log when the log is compacted. Formats: `docs/format/{head-log,segment}.md`.
//!
//! Invariants: what [`Storage::flush`] covered survives a crash; a segment file counts only once the log says so; the log
//! is replaced by renaming, never rewritten in place; bytes that are cut from a torn log are kept beside it.
//! Memory: the bits held, where the log's blocks lie, and the nodes that no segment file has.

mod files;
mod record;
mod seal;
mod sealed;

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::{Changes, Head, Storage, StorageError};
use crate::bitfield::Bitfield;
use crate::crypto::Hash;
use crate::flat_tree;
use crate::manifest::Manifest;
use crate::node::Node;
use crate::segment::{ContentCipher, Place, SegmentId};

pub use files::{DEFAULT_OPEN_FILES, Files};

use files::{io_error, sync_dir};
use record::{FILE_HEADER_BYTES, FILE_MAGIC, Found, RECORD_HEADER_BYTES, Record, Tail};
use sealed::Sealed;

/// Where a block lies in the log: its index; offset and length of its bytes.
type Placed = (u64, (u64, u32));

/// What the cores of a store share.
#[derive(Debug, Clone, Default)]
pub struct DiskOptions {
    /// Open files.
    pub files: Files,
    /// Encrypts sealed segments; without it they are plain.
    pub cipher: Option<ContentCipher>,
}

/// A core on disk.
#[derive(Debug)]
pub struct DiskStorage {
    dir: PathBuf,
    discovery_key: Hash,
    options: DiskOptions,
    manifest: Option<Manifest>,
    head: Head,
    bitfield: Bitfield,
    /// Nodes that no sealed segment has.
    nodes: HashMap<u64, Node>,
    /// Where the log's blocks lie: offset and length.
    log_blocks: BTreeMap<u64, (u64, u32)>,
    /// Sealed segments by first block.
    sealed: BTreeMap<u64, Sealed>,
    log_bytes: u64,
    /// Bytes of the log that are synced.
    durable_bytes: u64,
    /// Bytes of the log that belong to blocks which are sealed or gone.
    stale_bytes: u64,
    /// Block bytes in the log when sealing was tried last.
    tried_at: u64,
    /// The log while it has bytes that are not synced: kept open, so that a failed write-back is reported here.
    dirty: Option<Arc<File>>,
    closed: bool,
    /// Bytes that were cut from a torn log when it was opened.
    cut_bytes: u64,
}

impl DiskStorage {
    /// Opens the directory of a core, making it when it isn't there. A torn tail of the log, which never was
    /// acknowledged, is cut and kept in a file beside it; damage to durable bytes is an error that names the place.
    pub fn open(dir: &Path, discovery_key: Hash, options: DiskOptions) -> Result<Self, StorageError> {
        let segments = dir.join("segments");
        fs::create_dir_all(&segments).map_err(io_error("make", &segments))?;
        let mut storage = Self {
            dir: dir.to_owned(),
            discovery_key,
            options,
            manifest: None,
            head: Head::default(),
            bitfield: Bitfield::default(),
            nodes: HashMap::new(),
            log_blocks: BTreeMap::new(),
            sealed: BTreeMap::new(),
            log_bytes: 0,
            durable_bytes: 0,
            stale_bytes: 0,
            tried_at: 0,
            dirty: None,
            closed: false,
            cut_bytes: 0,
        };
        let log = storage.log_path();
        match fs::read(&log) {
            Ok(bytes) => storage.replay(&bytes.into())?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                files::write_whole(&log, &storage.file_header())?;
                if let Some(parent) = dir.parent() {
                    sync_dir(parent)?;
                }
                storage.log_bytes = FILE_HEADER_BYTES as u64;
                storage.durable_bytes = storage.log_bytes;
            }
            Err(error) => return Err(io_error("read", &log)(error)),
        }
        storage.delete_strangers()?;
        Ok(storage)
    }

    /// Bytes that were cut from the end of a torn log when it was opened; they lie in `head.log.torn`.
    pub fn cut_bytes(&self) -> u64 {
        self.cut_bytes
    }

    /// Bytes on disk: the log and the sealed segments' blocks.
    pub fn log_bytes(&self) -> u64 {
        self.log_bytes
    }

    /// The sealed segments.
    pub fn sealed_segments(&self) -> impl Iterator<Item = SegmentId> + '_ {
        self.sealed.values().map(|sealed| sealed.id)
    }

    /// The bytes of a sealed segment as they lie on disk, if there is one with this name whose blocks are all held and
    /// whose fork is the core's.
    pub fn sealed_bytes(&self, id: SegmentId) -> Result<Option<Bytes>, StorageError> {
        match self.sealed.get(&id.blocks().start) {
            Some(sealed)
                if sealed.id == id
                    && sealed.fork == self.head.fork
                    && self.bitfield.contains_range(id.blocks()) =>
            {
                sealed.bytes().map(Some)
            }
            _ => Ok(None),
        }
    }

    fn log_path(&self) -> PathBuf {
        self.dir.join("head.log")
    }

    fn segments_dir(&self) -> PathBuf {
        self.dir.join("segments")
    }

    fn file_header(&self) -> Vec<u8> {
        [&FILE_MAGIC[..], &self.discovery_key].concat()
    }

    fn replay(&mut self, bytes: &Bytes) -> Result<(), StorageError> {
        let path = self.log_path();
        let foreign = |what| StorageError::Foreign {
            what,
            path: path.clone(),
        };
        let header = bytes
            .get(..FILE_HEADER_BYTES)
            .ok_or_else(|| foreign("it is no head log"))?;
        if header[..8] != FILE_MAGIC {
            return Err(foreign("it is no head log, or a newer program wrote it"));
        }
        if header[8..] != self.discovery_key {
            return Err(foreign("it belongs to another core"));
        }
        let mut found = Vec::new();
        let tail = record::scan(bytes, |record| found.push(record));
        for Found {
            record,
            payload_at,
            payload,
        } in found
        {
            match record {
                Record::Changes(changes) => {
                    let base = payload.as_ptr() as usize;
                    let places = changes.blocks.iter().map(|(index, block)| {
                        let offset = if block.is_empty() {
                            0
                        } else {
                            (block.as_ptr() as usize - base) as u64
                        };
                        (*index, (payload_at + offset, block.len() as u32))
                    });
                    let places: Vec<_> = places.collect();
                    self.change(changes, &places);
                }
                Record::Sealed { id, fork } => self.take_over(Sealed::new(&self.segments_dir(), id, fork)),
            }
        }
        // Only now: a later record may have truncated a segment away, and its file with it.
        if let Some(missing) = self.sealed.values().find(|sealed| !sealed.path().exists()) {
            return Err(missing.damaged("the segment file is missing", 0));
        }
        self.log_bytes = bytes.len() as u64;
        match tail {
            Tail::Clean => {}
            Tail::Damaged(offset) => {
                return Err(StorageError::Damaged {
                    what: "a record",
                    path,
                    offset,
                });
            }
            Tail::Torn(offset) => self.cut_tail(bytes, offset)?,
        }
        self.durable_bytes = self.log_bytes;
        Ok(())
    }

    fn cut_tail(&mut self, bytes: &Bytes, offset: u64) -> Result<(), StorageError> {
        let path = self.log_path();
        files::write_whole(&self.dir.join("head.log.torn"), &bytes[offset as usize..])?;
        let file = OpenOptions::new()
            .write(true)
            .open(&path)
            .map_err(io_error("open", &path))?;
        file.set_len(offset)
            .and_then(|()| file.sync_all())
            .map_err(io_error("cut", &path))?;
        self.cut_bytes = bytes.len() as u64 - offset;
        self.log_bytes = offset;
        Ok(())
    }

    /// Deletes segment files that the log doesn't know: left over from a crash while sealing or truncating.
    fn delete_strangers(&self) -> Result<(), StorageError> {
        let dir = self.segments_dir();
        let known: Vec<&Path> = self.sealed.values().map(Sealed::path).collect();
        for entry in fs::read_dir(&dir).map_err(io_error("list", &dir))? {
            let path = entry.map_err(io_error("list", &dir))?.path();
            if !known.contains(&path.with_extension("seg").as_path())
                || path.extension().is_some_and(|e| e == "partial")
            {
                fs::remove_file(&path).map_err(io_error("delete", &path))?;
            }
        }
        Ok(())
    }

    /// Makes changes in memory. `places` says where the blocks lie in the log.
    fn change(&mut self, changes: Changes, places: &[Placed]) {
        if changes.manifest.is_some() {
            self.manifest = changes.manifest;
        }
        if let Some(length) = changes.truncate {
            let gone = self.log_blocks.split_off(&length);
            self.stale_bytes += gone.values().map(|(_, bytes)| u64::from(*bytes)).sum::<u64>();
            self.bitfield.clear_range(length..u64::MAX);
            self.nodes
                .retain(|index, _| flat_tree::end_block(*index) <= length);
            self.sealed.retain(|_, sealed| sealed.id.blocks().end <= length);
        }
        for range in changes.clear {
            let cleared: Vec<u64> = self
                .log_blocks
                .range(range.clone())
                .map(|(index, _)| *index)
                .collect();
            for index in cleared {
                if let Some((_, bytes)) = self.log_blocks.remove(&index) {
                    self.stale_bytes += u64::from(bytes);
                }
            }
            self.bitfield.clear_range(range);
        }
        for node in changes.nodes {
            if self.sealed_with_node(node.index).is_none() {
                self.nodes.insert(node.index, node);
            }
        }
        for (index, place) in places {
            self.bitfield.set(*index);
            if let Some((_, bytes)) = self.log_blocks.insert(*index, *place) {
                self.stale_bytes += u64::from(bytes);
            }
        }
        if let Some(head) = changes.head {
            self.head = head;
        }
    }

    /// The sealed segment that holds a block's bytes, cleared or not.
    fn sealed_with_block(&self, index: u64) -> Option<&Sealed> {
        self.sealed
            .range(..=index)
            .next_back()
            .map(|(_, sealed)| sealed)
            .filter(|s| s.id.blocks().contains(&index))
    }

    fn sealed_with_node(&self, index: u64) -> Option<&Sealed> {
        self.sealed_with_block(flat_tree::first_block(index))
            .filter(|sealed| flat_tree::contains(sealed.id.node(), index))
    }

    /// Blocks of a sealed segment that a truncation cuts through go back to the log, with the nodes that remain.
    fn rescue(&self, length: u64, changes: &mut Changes) -> Result<(), StorageError> {
        let Some(sealed) = length
            .checked_sub(1)
            .and_then(|last| self.sealed_with_block(last))
        else {
            return Ok(());
        };
        if sealed.id.blocks().end <= length {
            return Ok(());
        }
        for index in sealed.id.blocks().start..length {
            if self.bitfield.get(index) && !changes.clear.iter().any(|range| range.contains(&index)) {
                let block = self.read_sealed(sealed, index)?;
                changes.blocks.push((index, block));
            }
        }
        let node = sealed.id.node();
        for index in flat_tree::left_span(node)..=flat_tree::right_span(node) {
            if flat_tree::end_block(index) <= length {
                changes
                    .nodes
                    .push(sealed.node(index, &self.options.files, self.options.cipher.as_ref())?);
            }
        }
        Ok(())
    }

    fn read_sealed(&self, sealed: &Sealed, index: u64) -> Result<Bytes, StorageError> {
        let place = Place {
            discovery_key: self.discovery_key,
            fork: sealed.fork,
            id: sealed.id,
        };
        if !sealed.belongs_to(&place, &self.options.files)? {
            return Err(sealed.damaged("the segment belongs to another core", 0));
        }
        sealed.block(index, &self.options.files, self.options.cipher.as_ref())
    }

    /// Appends a record; returns where its blocks lie. After a failure the storage is closed: what lies at the end of the
    /// file isn't known any more.
    fn append(&mut self, record: &Record) -> Result<Vec<Placed>, StorageError> {
        if self.closed {
            return Err(StorageError::Closed);
        }
        let path = self.log_path();
        let file = match &self.dirty {
            Some(file) => Arc::clone(file),
            None => self.options.files.get(&path)?,
        };
        let mut bytes = Vec::new();
        let places = record::encode(record, self.durable_bytes, &mut bytes);
        debug_assert!(bytes.len() >= RECORD_HEADER_BYTES);
        if let Err(source) = file.write_all_at(&bytes, self.log_bytes) {
            // Half a record is harmless when it is cut off again; if that fails too, only opening anew can tell.
            self.closed = file.set_len(self.log_bytes).is_err();
            return Err(io_error("write", &path)(source));
        }
        let base = self.log_bytes;
        self.log_bytes += bytes.len() as u64;
        self.dirty = Some(file);
        let place = |place: std::ops::Range<usize>| (base + place.start as u64, place.len() as u32);
        Ok(places
            .into_iter()
            .map(|(index, range)| (index, place(range)))
            .collect())
    }
}

impl Storage for DiskStorage {
    fn manifest(&self) -> Option<&Manifest> {
        self.manifest.as_ref()
    }

    fn head(&self) -> &Head {
        &self.head
    }

    fn bitfield(&self) -> &Bitfield {
        &self.bitfield
    }

    fn node(&self, index: u64) -> Result<Option<Node>, StorageError> {
        if let Some(node) = self.nodes.get(&index) {
            return Ok(Some(*node));
        }
        match self.sealed_with_node(index) {
            Some(sealed) => sealed
                .node(index, &self.options.files, self.options.cipher.as_ref())
                .map(Some),
            None => Ok(None),
        }
    }

    fn block(&self, index: u64) -> Result<Option<Bytes>, StorageError> {
        if !self.bitfield.get(index) {
            return Ok(None);
        }
        if let Some((offset, length)) = self.log_blocks.get(&index) {
            let path = self.log_path();
            let file = self.options.files.get(&path)?;
            let mut block = vec![0; *length as usize];
            file.read_exact_at(&mut block, *offset)
                .map_err(io_error("read", &path))?;
            return Ok(Some(block.into()));
        }
        match self.sealed_with_block(index) {
            Some(sealed) => self.read_sealed(sealed, index).map(Some),
            None => Ok(None),
        }
    }

    fn apply(&mut self, mut changes: Changes) -> Result<(), StorageError> {
        if let Some(length) = changes.truncate {
            self.rescue(length, &mut changes)?;
        }
        let record = Record::Changes(changes);
        let places = self.append(&record)?;
        if let Record::Changes(changes) = record {
            let gone: Vec<u64> = match changes.truncate {
                Some(length) => {
                    let gone = self
                        .sealed
                        .iter()
                        .filter(|(_, sealed)| sealed.id.blocks().end > length);
                    gone.map(|(first, _)| *first).collect()
                }
                None => Vec::new(),
            };
            let gone: Vec<Sealed> = gone
                .iter()
                .filter_map(|first| self.sealed.remove(first))
                .collect();
            self.change(changes, &places);
            if !gone.is_empty() {
                // The files may go only when the log that no longer needs them can't be lost.
                self.flush()?;
                for sealed in gone {
                    sealed.delete(&self.options.files)?;
                }
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), StorageError> {
        if self.closed {
            return Err(StorageError::Closed);
        }
        if let Some(file) = self.dirty.take() {
            let path = self.log_path();
            if let Err(source) = file.sync_data() {
                // The kernel may have dropped the pages: nothing that was written since the last sync can be trusted.
                self.closed = true;
                return Err(io_error("sync", &path)(source));
            }
            self.durable_bytes = self.log_bytes;
        }
        self.seal_if_worth_it()
    }
}

#[cfg(test)]
mod tests;
