//! Sealing segments and compacting the head log.

use bytes::Bytes;

use super::DiskStorage;
use super::files::write_whole;
use super::record::{self, Record};
use super::sealed::Sealed;
use crate::flat_tree;
use crate::segment::cut::{MAX_SEGMENT_BYTES, is_settled};
use crate::segment::{self, Held, Place, SegmentError, SegmentId};
use crate::storage::{Changes, Storage, StorageError};

/// Block bytes that the log gathers before segments are looked for: two segments, so that looking is rare and the log
/// stays small.
const SEAL_BYTES: u64 = 2 * MAX_SEGMENT_BYTES;
/// Bytes of the log that must be stale before it is rewritten, and at least half of it.
const COMPACT_BYTES: u64 = MAX_SEGMENT_BYTES;

impl DiskStorage {
    /// Seals what can't grow any more, when the log has gathered enough; then compacts the log, when that frees half of it.
    pub(super) fn seal_if_worth_it(&mut self) -> Result<(), StorageError> {
        let live = self.log_bytes.saturating_sub(self.stale_bytes);
        if live.saturating_sub(self.tried_at) >= SEAL_BYTES {
            self.seal_settled()?;
            self.tried_at = self.log_bytes.saturating_sub(self.stale_bytes);
        }
        if self.stale_bytes >= COMPACT_BYTES && self.stale_bytes * 2 >= self.log_bytes {
            self.compact()?;
        }
        Ok(())
    }

    /// Seals every segment that the log holds whole and that stays as it is however the core grows.
    pub fn seal_settled(&mut self) -> Result<(), StorageError> {
        let length = self.head.length;
        let size_of = |node| self.node(node).ok().flatten().map(|node| node.size);
        let cut = segment::cut(
            length,
            |blocks| {
                if self.bitfield.contains_range(blocks.clone()) {
                    Held::All
                } else if self.bitfield.intersects(blocks) {
                    Held::Some
                } else {
                    Held::None
                }
            },
            size_of,
        );
        let settled: Vec<SegmentId> = cut
            .into_iter()
            .filter(|id| {
                self.sealed_with_block(id.blocks().start).is_none() && is_settled(*id, length, size_of)
            })
            .collect();
        for id in settled {
            self.seal(id)?;
        }
        Ok(())
    }

    fn seal(&mut self, id: SegmentId) -> Result<(), StorageError> {
        let blocks: Vec<Bytes> = id
            .blocks()
            .map_while(|index| self.block(index).transpose())
            .collect::<Result<_, _>>()?;
        let place = Place {
            discovery_key: self.discovery_key,
            fork: self.head.fork,
            id,
        };
        let sealed = Sealed::new(&self.segments_dir(), id, self.head.fork);
        let encoded = match segment::encode(&place, self.options.cipher.as_ref(), &blocks) {
            Ok(encoded) => encoded,
            // A block so large that the format can't hold it stays in the log.
            Err(SegmentError::DoesNotFit { .. }) => return Ok(()),
            Err(_) => return Err(sealed.damaged("the segment can't be made", 0)),
        };
        // What the log holds was verified when it came; if it changed since, it must not become a segment.
        if self.node(id.node())? != Some(encoded.root) {
            return Err(sealed.damaged("the log's blocks don't have their hash any more", 0));
        }
        let mut nodes = Vec::with_capacity(2 * blocks.len());
        for index in flat_tree::left_span(id.node())..=flat_tree::right_span(id.node()) {
            nodes.extend(self.node(index)?);
        }
        if nodes.len() + 1 != 2 * blocks.len() {
            nodes = match segment::decode(&encoded.bytes, &place, self.options.cipher.as_ref()) {
                Ok(decoded) => decoded.nodes,
                Err(_) => return Err(sealed.damaged("the segment can't be read back", 0)),
            };
        }
        sealed.write(&encoded.bytes, &nodes)?;
        self.append(&Record::Sealed {
            id,
            fork: sealed.fork,
        })?;
        self.take_over(sealed);
        Ok(())
    }

    /// From now on the segment file has the blocks and nodes.
    pub(super) fn take_over(&mut self, sealed: Sealed) {
        let blocks = sealed.id.blocks();
        let mut rest = self.log_blocks.split_off(&blocks.start);
        let mut behind = rest.split_off(&blocks.end);
        self.stale_bytes += rest.values().map(|(_, bytes)| u64::from(*bytes)).sum::<u64>();
        self.log_blocks.append(&mut behind);
        let top = sealed.id.node();
        for index in flat_tree::left_span(top)..=flat_tree::right_span(top) {
            self.nodes.remove(&index);
        }
        self.bitfield.set_range(blocks.clone());
        self.sealed.insert(blocks.start, sealed);
    }

    /// Rewrites the log with what is still needed of it.
    pub fn compact(&mut self) -> Result<(), StorageError> {
        let mut bytes = self.file_header();
        for sealed in self.sealed.values() {
            record::encode(
                &Record::Sealed {
                    id: sealed.id,
                    fork: sealed.fork,
                },
                0,
                &mut bytes,
            );
        }
        let indexes: Vec<u64> = self.log_blocks.keys().copied().collect();
        let mut places = Vec::with_capacity(indexes.len());
        for index in indexes {
            if let Some(block) = self.block(index)? {
                let changes = Changes {
                    blocks: vec![(index, block)],
                    ..Changes::default()
                };
                places.extend(record::encode(&Record::Changes(changes), 0, &mut bytes));
            }
        }
        let mut nodes: Vec<_> = self.nodes.values().copied().collect();
        nodes.sort_unstable_by_key(|node| node.index);
        let clear = self.cleared_in_segments();
        let head = Some(self.head.clone());
        let state = Changes {
            manifest: self.manifest.clone(),
            clear,
            nodes,
            head,
            ..Changes::default()
        };
        // The file counts only once it is synced and renamed, so all before this last record is durable by then.
        let durable = bytes.len() as u64;
        record::encode(&Record::Changes(state), durable, &mut bytes);
        let path = self.log_path();
        write_whole(&path, &bytes)?;
        self.options.files.forget(&path);
        self.dirty = None;
        self.log_blocks = places
            .into_iter()
            .map(|(index, range)| (index, (range.start as u64, range.len() as u32)))
            .collect();
        self.log_bytes = bytes.len() as u64;
        self.durable_bytes = self.log_bytes;
        self.stale_bytes = 0;
        self.tried_at = self.log_bytes;
        Ok(())
    }

    /// Blocks that segment files have but that were cleared.
    fn cleared_in_segments(&self) -> Vec<std::ops::Range<u64>> {
        let mut cleared = Vec::new();
        for sealed in self.sealed.values() {
            let blocks = sealed.id.blocks();
            let mut start = self.bitfield.first_unset(blocks.start);
            while start < blocks.end {
                let end = self
                    .bitfield
                    .first_set(start)
                    .unwrap_or(blocks.end)
                    .min(blocks.end);
                cleared.push(start..end);
                start = self.bitfield.first_unset(end);
            }
        }
        cleared
    }
}
