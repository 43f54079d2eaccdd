//! A core's segments, for backup and restore: where they are cut, their bytes, and taking them back in.

use std::ops::Range;

use bytes::Bytes;

use super::Core;
use crate::segment::cut::is_settled;
use crate::segment::{ContentCipher, Held, Place, SegmentError, SegmentId, cut, decode, encode};
use crate::storage::{ImportedSegment, Storage, StorageError};

/// Why a segment could not be read from a core or taken into it.
#[derive(Debug, thiserror::Error)]
pub enum CoreSegmentError {
    /// The bytes are not a whole segment of this core.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// The top of the segment is not a node of the tree that is held: take a head over first that connects it.
    #[error("tree node {index}, the top of the segment, is not held, so nothing proves the segment")]
    NotConnected {
        /// Flat-tree index.
        index: u64,
    },
    /// The tree has another hash or size at that place: another fork, or a segment that nobody signed.
    #[error("the segment is not the one that the core's signed tree has at node {index}")]
    WrongTree {
        /// Flat-tree index.
        index: u64,
    },
    /// The storage failed.
    #[error("failed to read or store a segment")]
    Storage(#[from] StorageError),
}

impl<S: Storage> Core<S> {
    /// The segments into which what is held is cut, left to right. Every replica that holds the same cuts the same.
    pub fn canonical_cut(&self) -> Result<Vec<SegmentId>, StorageError> {
        let failure = std::cell::Cell::new(None);
        let size_of = |node| self.size_of(node, &failure);
        let held = |blocks: Range<u64>| {
            if self.bitfield().contains_range(blocks.clone()) {
                Held::All
            } else if self.bitfield().intersects(blocks) {
                Held::Some
            } else {
                Held::None
            }
        };
        let segments = cut(self.length(), held, size_of);
        failure.into_inner().map_or(Ok(segments), Err)
    }

    /// Whether a segment of the cut stays as it is however the core grows at this fork. Others may be shipped too; a
    /// larger one takes their place later.
    pub fn is_segment_settled(&self, id: SegmentId) -> Result<bool, StorageError> {
        let failure = std::cell::Cell::new(None);
        let settled = is_settled(id, self.length(), |node| self.size_of(node, &failure));
        failure.into_inner().map_or(Ok(settled), Err)
    }

    fn size_of(&self, node: u64, failure: &std::cell::Cell<Option<StorageError>>) -> Option<u64> {
        self.storage
            .node(node)
            .unwrap_or_else(|error| {
                failure.set(Some(error));
                None
            })
            .map(|node| node.size)
    }

    /// A segment's bytes and place (its fork may be an earlier one, if it was sealed then), encrypted by the cipher; none
    /// if not all its blocks are held. The bytes were checked against the tree, so damage on the disk is not passed on.
    pub fn read_segment(
        &self,
        id: SegmentId,
        cipher: Option<&ContentCipher>,
    ) -> Result<Option<(Place, Bytes)>, CoreSegmentError> {
        if !self.bitfield().contains_range(id.blocks()) {
            return Ok(None);
        }
        let index = id.node();
        let top = self
            .storage
            .node(index)?
            .ok_or(CoreSegmentError::NotConnected { index })?;
        if self.storage.content_cipher() == cipher
            && let Some((fork, bytes)) = self.storage.sealed_segment(id)?
        {
            let place = Place {
                discovery_key: self.discovery_key,
                fork,
                id,
            };
            if decode(&bytes, &place, cipher)?.root != top {
                return Err(CoreSegmentError::WrongTree { index });
            }
            return Ok(Some((place, bytes)));
        }
        let mut blocks = Vec::with_capacity(1 << id.level);
        for block in id.blocks() {
            match self.storage.block(block)? {
                Some(bytes) => blocks.push(bytes),
                None => return Ok(None),
            }
        }
        let place = Place {
            discovery_key: self.discovery_key,
            fork: self.fork(),
            id,
        };
        let encoded = encode(&place, cipher, &blocks)?;
        if encoded.root != top {
            return Err(CoreSegmentError::WrongTree { index });
        }
        Ok(Some((place, encoded.bytes)))
    }

    /// Takes a segment in, if its blocks have the hash that the held tree has at its top. Blocks that are held already
    /// stay. Returns the segment's place.
    pub fn import_segment(
        &mut self,
        bytes: Bytes,
        cipher: Option<&ContentCipher>,
    ) -> Result<Place, CoreSegmentError> {
        let place = crate::segment::Header::decode(&bytes)?.place;
        if place.discovery_key != self.discovery_key {
            return Err(SegmentError::WrongPlace.into());
        }
        let index = place.id.node();
        if place.id.blocks().end > self.length() {
            return Err(CoreSegmentError::NotConnected { index });
        }
        let top = self
            .storage
            .node(index)?
            .ok_or(CoreSegmentError::NotConnected { index })?;
        let decoded = decode(&bytes, &place, cipher)?;
        if decoded.root != top {
            return Err(CoreSegmentError::WrongTree { index });
        }
        if self.bitfield().contains_range(place.id.blocks()) {
            return Ok(place);
        }
        let same_cipher = self.storage.content_cipher() == cipher;
        self.storage.import(ImportedSegment {
            place,
            bytes: same_cipher.then_some(bytes),
            decoded,
        })?;
        Ok(place)
    }
}
