//! Sealed segments on disk, each with a file of its inner tree nodes beside it.
//!
//! The segment (`<level>-<index>-<fork>.seg`) is the truth, in the format that backups use. The tree file (`.tree`) is
//! derived: every node of the subtree, so that a proof costs a small read and not hashing the segment. It is made again
//! when it is missing, torn or wrong; each entry carries a checksum.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use bytes::Bytes;

use super::files::{Files, io_error, write_whole};
use crate::flat_tree;
use crate::node::Node;
use crate::segment::format::HEADER_BYTES;
use crate::segment::{self, ContentCipher, Header, Place, SegmentId};
use crate::storage::StorageError;

/// Bytes of a node in the tree file: u64 size, hash, u32 CRC-32C of both.
const ENTRY_BYTES: usize = 44;

/// A segment file of a core.
#[derive(Debug)]
pub(super) struct Sealed {
    pub id: SegmentId,
    pub fork: u64,
    path: PathBuf,
    /// Header and offset table, read once.
    head: OnceLock<(Header, Bytes)>,
}

impl Sealed {
    pub(super) fn new(dir: &Path, id: SegmentId, fork: u64) -> Self {
        let path = dir.join(format!("{}-{}-{fork}.seg", id.level, id.index));
        Self {
            id,
            fork,
            path,
            head: OnceLock::new(),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn tree_path(&self) -> PathBuf {
        self.path.with_extension("tree")
    }

    /// Writes both files; when it returns they are durable.
    pub(super) fn write(&self, bytes: &[u8], nodes: &[Node]) -> Result<(), StorageError> {
        write_whole(&self.tree_path(), &tree_bytes(self.id, nodes))?;
        write_whole(&self.path, bytes)
    }

    pub(super) fn delete(&self, files: &Files) -> Result<(), StorageError> {
        for path in [self.path.clone(), self.tree_path()] {
            files.forget(&path);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(io_error("delete", &path)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The whole file, as it is.
    pub(super) fn bytes(&self) -> Result<Bytes, StorageError> {
        fs::read(&self.path)
            .map(Bytes::from)
            .map_err(io_error("read", &self.path))
    }

    pub(super) fn block(
        &self,
        index: u64,
        files: &Files,
        cipher: Option<&ContentCipher>,
    ) -> Result<Bytes, StorageError> {
        let file = files.get(&self.path)?;
        let (header, table) = self.head(files)?;
        let range = header
            .block_range(table, index)
            .map_err(|_| self.damaged("the offset table", 104))?;
        let length =
            usize::try_from(range.end - range.start).map_err(|_| self.damaged("the offset table", 104))?;
        if range.end > file.metadata().map_err(io_error("read", &self.path))?.len() {
            return Err(self.damaged("the end is missing", range.start));
        }
        let mut stored = vec![0; length];
        file.read_exact_at(&mut stored, range.start)
            .map_err(io_error("read", &self.path))?;
        segment::open_block(header, cipher, index, stored.into())
            .map_err(|_| self.damaged("a block doesn't open", range.start))
    }

    /// A node of the subtree.
    pub(super) fn node(
        &self,
        index: u64,
        files: &Files,
        cipher: Option<&ContentCipher>,
    ) -> Result<Node, StorageError> {
        if let Some(node) = self.stored_node(index, files) {
            return Ok(node);
        }
        // The derived file is missing or wrong: make it again from the segment.
        files.forget(&self.tree_path());
        let (header, _) = self.head(files)?;
        let decoded = segment::decode(&self.bytes()?, &header.place, cipher)
            .map_err(|_| self.damaged("the segment doesn't have its hash", 0))?;
        write_whole(&self.tree_path(), &tree_bytes(self.id, &decoded.nodes))?;
        let node = decoded.nodes.iter().find(|node| node.index == index).copied();
        node.ok_or_else(|| self.damaged("a node outside the segment was asked for", 0))
    }

    fn stored_node(&self, index: u64, files: &Files) -> Option<Node> {
        let offset = position(self.id, index) * ENTRY_BYTES;
        let mut entry = [0; ENTRY_BYTES];
        files
            .get(&self.tree_path())
            .ok()?
            .read_exact_at(&mut entry, offset as u64)
            .ok()?;
        let (body, crc) = entry.split_at(40);
        if crc32c::crc32c(body).to_le_bytes() != crc {
            return None;
        }
        Some(Node {
            index,
            size: u64::from_le_bytes(body[..8].try_into().ok()?),
            hash: body[8..].try_into().ok()?,
        })
    }

    fn head(&self, files: &Files) -> Result<&(Header, Bytes), StorageError> {
        if let Some(head) = self.head.get() {
            return Ok(head);
        }
        let file = files.get(&self.path)?;
        let mut bytes = vec![0; HEADER_BYTES + (4 << self.id.level)];
        file.read_exact_at(&mut bytes, 0)
            .map_err(|_| self.damaged("the header is torn", 0))?;
        let header = Header::decode(&bytes).map_err(|_| self.damaged("the header", 0))?;
        if header.place.id != self.id || header.place.fork != self.fork {
            return Err(self.damaged("the header names another segment", 0));
        }
        let table = Bytes::from(bytes).slice(HEADER_BYTES..);
        Ok(self.head.get_or_init(|| (header, table)))
    }

    pub(super) fn damaged(&self, what: &'static str, offset: u64) -> StorageError {
        StorageError::Damaged {
            what,
            path: self.path.clone(),
            offset,
        }
    }

    /// Whether the header belongs to this core.
    pub(super) fn belongs_to(&self, place: &Place, files: &Files) -> Result<bool, StorageError> {
        Ok(self.head(files)?.0.place.discovery_key == place.discovery_key)
    }
}

/// Where a node of the subtree stands in the tree file: in flat-tree order.
fn position(id: SegmentId, index: u64) -> usize {
    (index - flat_tree::left_span(id.node())) as usize
}

fn tree_bytes(id: SegmentId, nodes: &[Node]) -> Vec<u8> {
    let mut bytes = vec![0; nodes.len() * ENTRY_BYTES];
    for node in nodes {
        let start = position(id, node.index) * ENTRY_BYTES;
        if let Some(entry) = bytes.get_mut(start..start + ENTRY_BYTES) {
            entry[..8].copy_from_slice(&node.size.to_le_bytes());
            entry[8..40].copy_from_slice(&node.hash);
            let crc = crc32c::crc32c(&entry[..40]);
            entry[40..].copy_from_slice(&crc.to_le_bytes());
        }
    }
    bytes
}
