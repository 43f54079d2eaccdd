//! Where a block lies on the disk, for those who read it without the storage.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::files::{Files, failed};
use super::log::{BlockPlace, Sealed};
use super::places::{self, Page};
use super::seal::damaged;
use super::segment_path;
use crate::crypto::Hash;
use crate::node::Node;
use crate::segment::{ContentCipher, Header, Place, open_block};
use crate::storage::StorageError;

/// A block on the disk. It can be read while the storage that gave it is changed, as long as that does not take the block
/// away: bytes that are not the block's any more do not fit the checksum.
#[derive(Debug)]
pub struct StoredBlock(pub(super) At);

#[derive(Debug)]
pub(super) enum At {
    /// In the log, which is held open: another one may get its name.
    Log(Arc<File>, Arc<Path>, BlockPlace),
    Segment(Arc<Segments>, Sealed, u64),
}

impl StoredBlock {
    /// Reads the block.
    ///
    /// # Errors
    /// [`StorageError::Damaged`] if the bytes on the disk are not the block's, also because it is not held any more;
    /// [`StorageError::Io`]. The storage may know how to mend it: ask it for the block.
    pub fn read(self) -> Result<Bytes, StorageError> {
        match self.0 {
            At::Log(file, path, place) => read(&file, &path, place.offset, place.length.into(), place.crc),
            At::Segment(segments, sealed, index) => segments.block(&sealed, index),
        }
    }
}

/// The segments of a core, as far as reading their blocks goes.
#[derive(Debug)]
pub(super) struct Segments {
    pub(super) dir: PathBuf,
    pub(super) discovery_key: Hash,
    pub(super) files: Files,
    pub(super) cipher: Option<ContentCipher>,
}

impl Segments {
    /// A block, where the sidecar says that it is.
    pub(super) fn block(&self, sealed: &Sealed, index: u64) -> Result<Bytes, StorageError> {
        let key = places::key(&self.discovery_key, sealed, index);
        let page = match self.files.places().get(&key) {
            Some(page) => page,
            None => self.load_places(sealed, index, key)?,
        };
        let place = page.block(sealed.id, index);
        let (range, crc) = place.ok_or_else(|| damaged("a block", &page.segment, 0))?;
        let file = self.files.hold(&page.segment)?;
        let stored = read(&file, &page.segment, range.start, range.end - range.start, crc)?;
        if !sealed.encrypted {
            return Ok(stored);
        }
        open_block(&self.header(sealed), self.cipher.as_ref(), index, stored).map_err(|_| {
            damaged(
                "a block that does not open under this content key",
                &page.segment,
                0,
            )
        })
    }

    fn header(&self, sealed: &Sealed) -> Header {
        Header {
            place: Place {
                discovery_key: self.discovery_key,
                fork: sealed.fork,
                id: sealed.id,
            },
            encrypted: true,
            root: Node {
                index: sealed.id.node(),
                size: 0,
                hash: [0; 32],
            },
        }
    }

    fn load_places(&self, sealed: &Sealed, index: u64, key: places::Key) -> Result<Arc<Page>, StorageError> {
        let range = places::page_range(sealed.id, index);
        let mut bytes = vec![0; (range.end - range.start) as usize];
        let segment = segment_path(&self.dir, sealed);
        self.files
            .read_at(&segment.with_extension("tree"), range.start, &mut bytes)?;
        let page = Arc::new(Page::new(segment.into(), range.start, bytes));
        // Where the segment claims more than its file has, the bytes must not be asked for.
        let length = self.files.length(&page.segment)?;
        if page.end(sealed.id, index).is_none_or(|end| end > length) {
            return Err(damaged("a block", &page.segment, 0));
        }
        self.files.places().put(key, page.clone());
        Ok(page)
    }
}

fn read(file: &File, path: &Path, offset: u64, length: u64, crc: u32) -> Result<Bytes, StorageError> {
    let mut stored = vec![0; length as usize];
    match file.read_exact_at(&mut stored, offset) {
        Ok(()) if crc32c::crc32c(&stored) == crc => Ok(stored.into()),
        Err(error) if error.kind() != ErrorKind::UnexpectedEof => Err(failed("read", path)(error)),
        _ => Err(damaged("a block", path, offset)),
    }
}
