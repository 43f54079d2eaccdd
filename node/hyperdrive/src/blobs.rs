//! Hyperblobs: runs of blocks of one core, named by a pointer that is kept elsewhere.
//!
//! Two kinds. A plain blob is the blocks `block_offset..+block_length` joined. A *mapped* one (`blockMap`) has those blocks
//! hold a list of other blocks, which are its bytes, so that equal blocks are stored once.
//!
//! A pointer comes from the drive's writer and may lie: a read never yields more than the pointer's length, and
//! a pointer that its blocks contradict is an error. The format is that of the JS package `hyperblobs` 2.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use cumulet_encoding::{Reader, Writer};
use cumulet_hyperbee::{Blocks, BlocksError, ErrorKind};
use futures::stream::{Stream, unfold};
use serde::{Deserialize, Serialize};

/// Bytes of a blob's blocks, except the last, as JS cuts them.
pub const BLOCK_SIZE: usize = 65_536;

/// Most blocks that a block map is read from, as in JS.
const MAX_MAP_BLOCKS: u64 = 64;
/// Most entries of one map block, as in JS. With the above, a map takes at most 8 MiB of memory.
const MAX_MAP_ENTRIES: usize = 8192;
/// Blocks announced ahead of the one being read: 1 MiB of the default size hides a round trip of 100 ms at 10 MiB/s.
const PREFETCH_BLOCKS: u64 = 16;
/// Largest number in a pointer: JS numbers are exact up to here.
const MAX_INTEGER: u64 = (1 << 53) - 1;

/// Where a blob is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BlobPointer {
    /// First block.
    pub block_offset: u64,
    /// Bytes of the core before it, without encryption padding.
    pub byte_offset: u64,
    /// Number of blocks; 0 for an empty blob.
    pub block_length: u64,
    /// Bytes in those blocks. Not the blob's length if it is mapped.
    pub byte_length: u64,
    /// Whether the blocks are a map of the blob's blocks.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub block_map: bool,
}

impl BlobPointer {
    /// Whether a core can hold it: no number above 2^53 - 1, in sum either.
    pub fn is_possible(&self) -> bool {
        let sum = |offset: u64, length: u64| offset.checked_add(length).is_some_and(|end| end <= MAX_INTEGER);
        sum(self.block_offset, self.block_length) && sum(self.byte_offset, self.byte_length)
    }

    /// The blocks it points at (the map's, for a mapped blob).
    pub fn blocks(&self) -> Range<u64> {
        self.block_offset..self.block_offset.saturating_add(self.block_length)
    }
}

/// One block of a mapped blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapEntry {
    /// Block of the core.
    pub index: u64,
    /// Its bytes.
    pub byte_length: u64,
}

/// Reads one block of a map.
pub fn decode_map(block: &[u8], map: &mut Vec<MapEntry>) -> Result<(), BlobError> {
    let damaged = |_| BlobError::Damaged {
        what: "its block map can't be read",
    };
    let mut reader = Reader::new(block);
    if reader.uint().map_err(damaged)? != 0 {
        return Err(BlobError::Damaged {
            what: "its block map has an unknown version",
        });
    }
    // Two numbers of at least one byte each.
    let count = reader.array_len(2).map_err(damaged)?;
    if count > MAX_MAP_ENTRIES {
        return Err(BlobError::Damaged {
            what: "its block map has too many entries",
        });
    }
    for _ in 0..count {
        let (index, byte_length) = (reader.uint().map_err(damaged)?, reader.uint().map_err(damaged)?);
        map.push(MapEntry { index, byte_length });
    }
    Ok(())
}

/// One block of a map, of at most 8192 entries.
pub fn encode_map(entries: &[MapEntry]) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.uint(0);
    writer.uint(entries.len() as u64);
    for entry in entries {
        writer.uint(entry.index);
        writer.uint(entry.byte_length);
    }
    writer.into_vec()
}

/// Why a blob can't be read.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The core did not give a block.
    #[error("failed to read block {index} of the blob core")]
    Block {
        /// Number of the block.
        index: u64,
        /// What the core said.
        #[source]
        source: BlocksError,
    },
    /// The core could not find a byte.
    #[error("failed to find byte {byte_offset} of the blob core")]
    Seek {
        /// Byte of the core.
        byte_offset: u64,
        /// What the core said.
        #[source]
        source: BlocksError,
    },
    /// Pointer and blocks contradict each other.
    #[error("the blob is damaged: {what}")]
    Damaged {
        /// How.
        what: &'static str,
    },
    /// The part asked for is not inside the blob.
    #[error("bytes {start} to {end} are outside of the blob's {length}")]
    OutOfRange {
        /// First byte asked for.
        start: u64,
        /// One past the last.
        end: u64,
        /// The blob's length.
        length: u64,
    },
}

impl BlobError {
    /// What can be done about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Block { source, .. } | Self::Seek { source, .. } => ErrorKind::of_blocks(source),
            Self::Damaged { .. } => ErrorKind::Damaged,
            Self::OutOfRange { .. } => ErrorKind::Invalid,
        }
    }
}

/// The blob core of a drive. Clones share it.
#[derive(Debug)]
pub struct Blobs<B> {
    core: Arc<B>,
}

impl<B> Clone for Blobs<B> {
    fn clone(&self) -> Self {
        Self {
            core: Arc::clone(&self.core),
        }
    }
}

impl<B: Blocks> Blobs<B> {
    /// Blobs in this core.
    pub fn new(core: B) -> Self {
        Self { core: Arc::new(core) }
    }

    /// The core.
    pub fn core(&self) -> &B {
        &self.core
    }

    /// The blocks of a mapped blob, in order. Reads the map's blocks.
    pub async fn map(&self, pointer: &BlobPointer) -> Result<Vec<MapEntry>, BlobError> {
        if pointer.block_length > MAX_MAP_BLOCKS {
            return Err(BlobError::Damaged {
                what: "its block map is too long",
            });
        }
        self.core.prefetch(pointer.blocks());
        let mut map = Vec::new();
        for index in pointer.blocks() {
            decode_map(&self.block(index).await?, &mut map)?;
        }
        let mut sum = Some(0_u64);
        for entry in &map {
            sum = sum
                .and_then(|sum| sum.checked_add(entry.byte_length))
                .filter(|&sum| sum <= MAX_INTEGER);
        }
        if sum.is_none() {
            return Err(BlobError::Damaged {
                what: "its block map adds up to more than a core can hold",
            });
        }
        Ok(map)
    }

    /// Bytes of the blob. Reads the map of a mapped one.
    pub async fn byte_length(&self, pointer: &BlobPointer) -> Result<u64, BlobError> {
        if pointer.block_map {
            Ok(self
                .map(pointer)
                .await?
                .iter()
                .map(|entry| entry.byte_length)
                .sum())
        } else {
            Ok(pointer.byte_length)
        }
    }

    /// A reader of the whole blob.
    pub async fn read(&self, pointer: &BlobPointer) -> Result<BlobReader<B>, BlobError> {
        let length = self.byte_length(pointer).await?;
        self.read_part(pointer, 0..length).await
    }

    /// A reader of some bytes. Finds the first block by its place in the core, and touches no block outside of the part.
    pub async fn read_part(
        &self,
        pointer: &BlobPointer,
        part: Range<u64>,
    ) -> Result<BlobReader<B>, BlobError> {
        let map = if pointer.block_map {
            Some(self.map(pointer).await?)
        } else {
            None
        };
        let length = map.as_ref().map_or(pointer.byte_length, |map| {
            map.iter().map(|entry| entry.byte_length).sum()
        });
        if part.start > part.end || part.end > length {
            return Err(BlobError::OutOfRange {
                start: part.start,
                end: part.end,
                length,
            });
        }
        let left = part.end - part.start;
        let (run, skip) = if let Some(map) = map {
            let (mut next, mut skip) = (0, part.start);
            while let Some(entry) = map
                .get(next)
                .filter(|entry| left > 0 && skip >= entry.byte_length)
            {
                skip -= entry.byte_length;
                next += 1;
            }
            (
                Run::Mapped {
                    map: map.into(),
                    next,
                },
                skip,
            )
        } else {
            let first = (pointer.block_offset, 0);
            let (next, skip) = if left == 0 {
                first
            } else {
                self.locate(pointer, part.start).await?
            };
            (
                Run::Plain {
                    next,
                    end: pointer.blocks().end,
                },
                skip,
            )
        };
        Ok(BlobReader {
            core: self.clone(),
            run,
            skip,
            left,
            announced: 0,
        })
    }

    /// The exact blocks that a part of a blob needs, ascending; a mapped blob's without the map's own.
    pub async fn blocks_of(
        &self,
        pointer: &BlobPointer,
        part: Range<u64>,
    ) -> Result<Vec<Range<u64>>, BlobError> {
        let reader = self.read_part(pointer, part.clone()).await?;
        if reader.left == 0 {
            return Ok(Vec::new());
        }
        match &reader.run {
            Run::Plain { next, .. } => {
                let (last, _) = self.locate_held(pointer, part.end - 1).await?;
                Ok(std::iter::once(*next..last + 1).collect())
            }
            Run::Mapped { map, next } => {
                let mut left = reader.left + reader.skip;
                let mut indexes = Vec::new();
                for entry in map.iter().skip(*next) {
                    if left == 0 {
                        break;
                    }
                    left = left.saturating_sub(entry.byte_length);
                    indexes.push(entry.index);
                }
                indexes.sort_unstable();
                indexes.dedup();
                Ok(merge(indexes.into_iter().map(|index| index..index + 1)))
            }
        }
    }

    /// Where reading a plain blob from byte `at` starts: a block, and the place in it. For byte 0 no search is needed.
    async fn locate(&self, pointer: &BlobPointer, at: u64) -> Result<(u64, u64), BlobError> {
        if at == 0 {
            return Ok((pointer.block_offset, 0));
        }
        self.locate_held(pointer, at).await
    }

    /// As [`Self::locate`], for byte 0 too: the first block may be empty, and byte 0 in a later one.
    async fn locate_held(&self, pointer: &BlobPointer, at: u64) -> Result<(u64, u64), BlobError> {
        if pointer.block_length == 1 {
            return Ok((pointer.block_offset, at));
        }
        let byte_offset = pointer.byte_offset.saturating_add(at);
        let (block, skip) = self
            .core
            .seek(byte_offset)
            .await
            .map_err(|source| BlobError::Seek { byte_offset, source })?;
        if !pointer.blocks().contains(&block) {
            return Err(BlobError::Damaged {
                what: "its byte offset lies outside of its blocks",
            });
        }
        Ok((block, skip))
    }

    async fn block(&self, index: u64) -> Result<Bytes, BlobError> {
        self.core
            .get(index)
            .await
            .map_err(|source| BlobError::Block { index, source })
    }
}

/// Joins ascending ranges that touch or overlap.
pub(crate) fn merge(ranges: impl Iterator<Item = Range<u64>>) -> Vec<Range<u64>> {
    let mut merged: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

#[derive(Debug)]
enum Run {
    Plain { next: u64, end: u64 },
    Mapped { map: Arc<[MapEntry]>, next: usize },
}

/// Reads a blob block by block. Holds one block at a time.
#[derive(Debug)]
pub struct BlobReader<B> {
    core: Blobs<B>,
    run: Run,
    /// Bytes of the next block that lie before the part.
    skip: u64,
    left: u64,
    /// Plain blobs: blocks below were announced to the core.
    announced: u64,
}

impl<B: Blocks> BlobReader<B> {
    /// Bytes not read yet.
    pub fn remaining(&self) -> u64 {
        self.left
    }

    /// The next bytes, none at the end. After an error the same step can be tried again; a dropped step has read nothing.
    pub async fn next(&mut self) -> Result<Option<Bytes>, BlobError> {
        while self.left > 0 {
            let block = self.next_block().await?;
            let length = block.len() as u64;
            if self.skip > length {
                return Err(BlobError::Damaged {
                    what: "its byte offset lies outside of its blocks",
                });
            }
            let end = length.min(self.skip.saturating_add(self.left));
            let bytes = block.slice(self.skip as usize..end as usize);
            match &mut self.run {
                Run::Plain { next, .. } => *next += 1,
                Run::Mapped { next, .. } => *next += 1,
            }
            self.left -= end - self.skip;
            self.skip = 0;
            if !bytes.is_empty() {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }

    async fn next_block(&mut self) -> Result<Bytes, BlobError> {
        const SHORT: BlobError = BlobError::Damaged {
            what: "its blocks hold fewer bytes than its length",
        };
        match &self.run {
            Run::Plain { next, end } => {
                let next = *next;
                if next >= *end {
                    return Err(SHORT);
                }
                if self.announced <= next {
                    self.announced = end.min(&next.saturating_add(PREFETCH_BLOCKS)).to_owned();
                    self.core.core.prefetch(next..self.announced);
                }
                self.core.block(next).await
            }
            Run::Mapped { map, next } => {
                let entry = *map.get(*next).ok_or(SHORT)?;
                let block = self.core.block(entry.index).await?;
                if block.len() as u64 != entry.byte_length {
                    return Err(BlobError::Damaged {
                        what: "a mapped block has another length than its map says",
                    });
                }
                Ok(block)
            }
        }
    }

    /// The bytes as a stream, which ends after its first error.
    pub fn into_stream(self) -> impl Stream<Item = Result<Bytes, BlobError>> + Send
    where
        B: 'static,
    {
        unfold(Some(self), |reader| async {
            let mut reader = reader?;
            match reader.next().await {
                Ok(Some(bytes)) => Some((Ok(bytes), Some(reader))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        })
    }

    /// All bytes, if they are at most `limit`.
    pub async fn to_vec(mut self, limit: usize) -> Result<Vec<u8>, BlobError> {
        if self.left > limit as u64 {
            return Err(BlobError::OutOfRange {
                start: 0,
                end: self.left,
                length: limit as u64,
            });
        }
        // Grows with what arrives, not with what the pointer claims.
        let mut all = Vec::new();
        while let Some(bytes) = self.next().await? {
            all.extend_from_slice(&bytes);
        }
        Ok(all)
    }
}
