//! Sealing and compacting off the path of those who change the core.
//!
//! A storage whose work was deferred gives it out: it is run without the storage, which may be changed meanwhile, and
//! handed back. Invariants: a segment counts only from the record in the log on, which is written when the work is handed
//! back and nothing was truncated or cleared since it began; work that is never handed back leaves stray files that the
//! next opening removes, never a wrong one.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};

use bytes::Bytes;

use super::direct::Unsynced;
use super::files::{Files, Unfinished, failed};
use super::log::{BlockPlace, Sealed};
use super::seal::damaged;
use super::{DiskStorage, StorageError, sidecar};
use crate::flat_tree;
use crate::node::Node;
use crate::segment::format::{encode_hashed, encode_start};
use crate::segment::{ContentCipher, Header, Place, SegmentId};

/// Segments that are sealed in one go: what a disk writes in about a second.
const SEALED_AT_ONCE: usize = 16;
/// Blocks of the segments that are sealed in one go: their nodes and places are in memory twice meanwhile, about 130 bytes each.
const BLOCKS_SEALED_AT_ONCE: u64 = 1 << 15;
/// Block bytes and nodes in the log above which sealing does not wait for a quiet moment: a burst up to this size is
/// written once while it lasts. The nodes are what it may cost in memory, about 11 MiB, and the places of as many blocks as half of them.
const PRESSING_BYTES: u64 = 128 << 20;
const PRESSING_NODES: usize = 1 << 18;
/// Bytes that a segment, or a new log, is written in.
pub(super) const PIECE_BYTES: usize = 256 << 10;
/// Blocks of this size are written as they are: copying them costs more than a call for each.
const LONE_BYTES: usize = 32 << 10;
/// Dead log bytes that are tolerated while there is always something to seal: the log of a core that is written faster
/// than it is sealed is written anew this seldom.
const BUSY_DEAD_BYTES: u64 = 512 << 20;
/// Block bytes in the log above which owners wait for the sealing.
const BEHIND_BYTES: u64 = 256 << 20;
/// Block bytes in the log above which a change seals by itself, whoever does the work otherwise.
pub(super) const FAR_BEHIND_BYTES: u64 = 2 * BEHIND_BYTES;

/// What a storage has to do at some time: run it, then hand it back.
#[derive(Debug)]
pub struct Work {
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Seal {
        jobs: Vec<SealJob>,
        upheavals: u64,
        ran: Option<Result<(), StorageError>>,
    },
    /// Make segments durable that were written straight away.
    Sync {
        files: Files,
        unsynced: Unsynced,
        sync_failed: Arc<AtomicBool>,
        ran: bool,
    },
    Compact,
}

impl Work {
    /// Does what can be done without the storage; waits for the disk.
    pub fn run(&mut self) {
        match &mut self.kind {
            Kind::Seal { jobs, ran, .. } => *ran = Some(write_segments(jobs)),
            Kind::Sync {
                files,
                unsynced,
                sync_failed,
                ran,
            } => match unsynced.sync(files) {
                Ok(()) => *ran = true,
                // As with the log, what was written cannot be trusted any more.
                Err(_) => sync_failed.store(true, Ordering::SeqCst),
            },
            Kind::Compact => {}
        }
    }
}

fn write_segments(jobs: &[SealJob]) -> Result<(), StorageError> {
    match jobs {
        [job] => job.write_durable()?,
        jobs => write_overlapped(jobs)?,
    }
    // One sync makes all names durable.
    jobs.first().map_or(Ok(()), |job| match job.segment.parent() {
        Some(dir) => job.files.sync_dir(dir),
        None => Ok(()),
    })
}

/// Waits for the disk to have one segment while the next one is read and written: either takes about as long.
fn write_overlapped(jobs: &[SealJob]) -> Result<(), StorageError> {
    std::thread::scope(|scope| {
        let (written, to_finish) = sync_channel::<Written<'_>>(0);
        let finishing = scope.spawn(move || to_finish.into_iter().try_for_each(Written::finish));
        let filled = fill(jobs, &written);
        drop(written);
        let finished = finishing
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        finished.and(filled)
    })
}

/// Writes one segment after the other for as long as somebody makes them durable.
fn fill<'a>(jobs: &'a [SealJob], written: &SyncSender<Written<'a>>) -> Result<(), StorageError> {
    for job in jobs {
        if written.send(job.write()?).is_err() {
            // Making one durable failed, which is reported. A full disk is not filled with more.
            break;
        }
    }
    Ok(())
}

/// A segment and its sidecar, written and not yet durable.
pub(super) struct Written<'a> {
    segment: Unfinished<'a>,
    sidecar: Unfinished<'a>,
}

impl Written<'_> {
    /// Makes them durable, but for their names.
    fn finish(self) -> Result<(), StorageError> {
        self.segment.finish()?;
        self.sidecar.finish()
    }

    /// Gives them their names, without waiting for the disk.
    pub(super) fn put_in_place(self) -> Result<(), StorageError> {
        self.segment.put_in_place()?;
        self.sidecar.put_in_place()
    }
}

#[derive(Debug)]
pub(super) enum Source {
    Log(BlockPlace),
    Held(Bytes),
}

/// One subtree on its way from the log to a segment.
#[derive(Debug)]
pub(super) struct SealJob {
    pub(super) sealed: Sealed,
    pub(super) top: Node,
    files: Files,
    cipher: Option<ContentCipher>,
    place: Place,
    log: Arc<Path>,
    log_file: Arc<File>,
    segment: PathBuf,
    blocks: Vec<Source>,
    nodes: Vec<Node>,
}

impl SealJob {
    /// Writes the segment and its sidecar.
    pub(super) fn write(&self) -> Result<Written<'_>, StorageError> {
        let (segment, side) = match &self.cipher {
            None => self.write_plain()?,
            Some(cipher) => self.write_sealed(cipher)?,
        };
        let mut sidecar = self.files.begin_whole(&self.segment.with_extension("tree"))?;
        sidecar.write(&side)?;
        Ok(Written { segment, sidecar })
    }

    /// Writes both, durable but for their names.
    pub(super) fn write_durable(&self) -> Result<(), StorageError> {
        self.write()?.finish()
    }

    /// In pieces, so that eight megabytes neither pass through the memory at once nor leave the processor's cache.
    fn write_plain(&self) -> Result<(Unfinished<'_>, Vec<u8>), StorageError> {
        let unfit = || damaged("blocks that do not fit a segment", &self.log, 0);
        let lengths = self.blocks.iter().map(Source::length);
        let start = encode_start(&self.place, lengths, &self.top).map_err(|_| unfit())?;
        let mut unfinished = self.files.begin_whole(&self.segment)?;
        let mut piece = self.files.buffer();
        piece.extend_from_slice(&start);
        let mut places = Vec::with_capacity(self.blocks.len());
        let mut end = 0;
        for source in &self.blocks {
            let at = piece.len();
            let crc = match source {
                Source::Held(bytes) if bytes.len() >= LONE_BYTES => {
                    unfinished.write(&piece)?;
                    piece.clear();
                    unfinished.write(bytes)?;
                    crc32c::crc32c(bytes)
                }
                Source::Held(bytes) => {
                    piece.extend_from_slice(bytes);
                    crc32c::crc32c(bytes)
                }
                Source::Log(place) => {
                    piece.resize(at + place.length as usize, 0);
                    self.read_into(place, &mut piece[at..])?;
                    place.crc
                }
            };
            end += source.length() as u32;
            places.push((end, crc));
            if piece.len() >= PIECE_BYTES {
                unfinished.write(&piece)?;
                piece.clear();
            }
        }
        unfinished.write(&piece)?;
        self.files.give_back(piece);
        let side = sidecar::encode_places(self.sealed.id, self.nodes.clone(), places).ok_or_else(unfit)?;
        Ok((unfinished, side))
    }

    fn write_sealed(&self, cipher: &ContentCipher) -> Result<(Unfinished<'_>, Vec<u8>), StorageError> {
        let mut blocks = Vec::with_capacity(self.blocks.len());
        for source in &self.blocks {
            blocks.push(match source {
                Source::Held(bytes) => bytes.clone(),
                Source::Log(place) => {
                    let mut bytes = vec![0; place.length as usize];
                    self.read_into(place, &mut bytes)?;
                    bytes.into()
                }
            });
        }
        // Each block was hashed when it came, and its checksum was right just now.
        let leaves: Vec<Node> = self.nodes.iter().step_by(2).copied().collect();
        let encoded = encode_hashed(&self.place, Some(cipher), &blocks, &leaves, self.top)
            .map_err(|_| damaged("blocks that do not fit a segment", &self.log, 0))?;
        drop(blocks);
        let mut unfinished = self.files.begin_whole(&self.segment)?;
        unfinished.write(&encoded.bytes)?;
        let broken = || damaged("a segment", &self.segment, 0);
        let header = Header::decode(&encoded.bytes).map_err(|_| broken())?;
        let side = sidecar::encode(&encoded.bytes, &header, self.nodes.clone()).ok_or_else(broken)?;
        Ok((unfinished, side))
    }

    fn read_into(&self, place: &BlockPlace, bytes: &mut [u8]) -> Result<(), StorageError> {
        self.log_file
            .read_exact_at(bytes, place.offset)
            .map_err(failed("read", &self.log))?;
        if crc32c::crc32c(bytes) == place.crc {
            Ok(())
        } else {
            Err(damaged("a block", &self.log, place.offset))
        }
    }
}

impl Source {
    fn length(&self) -> usize {
        match self {
            Self::Log(place) => place.length as usize,
            Self::Held(bytes) => bytes.len(),
        }
    }
}

impl DiskStorage {
    /// Leaves sealing and compacting to whoever calls [`Storage::take_work`](crate::storage::Storage::take_work); until
    /// now each change did what was due.
    #[must_use]
    pub fn defer_work(mut self) -> Self {
        self.deferred = true;
        self
    }

    /// What sealing a subtree needs, so that it can be done without the storage.
    pub(super) fn seal_job(&self, id: SegmentId) -> Result<SealJob, StorageError> {
        let source = |index: u64| match self.index.blocks.get(&index) {
            Some(place) => Ok(Some(Source::Log(*place))),
            None => Ok(self.block_of(index)?.map(Source::Held)),
        };
        self.job_of(id, source, |index| self.node_of(index))
    }

    /// As [`DiskStorage::seal_job`], with blocks and nodes from elsewhere.
    pub(super) fn job_of(
        &self,
        id: SegmentId,
        source: impl Fn(u64) -> Result<Option<Source>, StorageError>,
        node: impl Fn(u64) -> Result<Option<Node>, StorageError>,
    ) -> Result<SealJob, StorageError> {
        let mut blocks = Vec::with_capacity(1 << id.level);
        for index in id.blocks() {
            let missing = || damaged("a block that should be held is missing", &self.log, 0);
            blocks.push(source(index)?.ok_or_else(missing)?);
        }
        let mut nodes = Vec::with_capacity(2 << id.level);
        for index in flat_tree::left_span(id.node())..=flat_tree::right_span(id.node()) {
            nodes.extend(node(index)?);
        }
        let top = nodes.iter().find(|node| node.index == id.node()).copied();
        let unproven = || damaged("blocks without their subtree's nodes", &self.log, 0);
        let top = top
            .filter(|_| nodes.len() + 1 == 2 << id.level)
            .ok_or_else(unproven)?;
        let sealed = Sealed {
            id,
            fork: self.index.head.fork,
            encrypted: self.cipher.is_some(),
            hollow: false,
        };
        Ok(SealJob {
            sealed,
            top,
            files: self.files.clone(),
            cipher: self.cipher.clone(),
            place: self.place(&sealed),
            log: self.log.clone(),
            log_file: self.files.hold(&self.log)?,
            segment: self.segment_path(&sealed),
            blocks,
            nodes,
        })
    }

    /// Whether there may be something to do at a quiet moment. Cheap: it is asked after every change.
    pub(super) fn may_have_work(&self) -> bool {
        self.deferred
            && !self.working
            && !self.waits_after_failure()
            && (self.should_seal() || self.should_sync(true) || self.wasted_bytes() > self.limits.dead_bytes)
    }

    fn wasted_bytes(&self) -> u64 {
        self.log_bytes.saturating_sub(2 * self.index.live_bytes())
    }

    pub(super) fn give_out_work(&mut self, quiet: bool) -> Option<Work> {
        if !self.may_have_work() || self.check_open().is_err() {
            return None;
        }
        let pressing = self.is_far_behind(PRESSING_BYTES) || self.index.node_count() > PRESSING_NODES;
        match self.due_work(quiet, pressing) {
            Ok(work) => {
                self.working = work.is_some();
                work
            }
            Err(error) => {
                self.note_failure(Some(error));
                None
            }
        }
    }

    fn due_work(&mut self, quiet: bool, pressing: bool) -> Result<Option<Work>, StorageError> {
        if self.should_sync(quiet) {
            let kind = Kind::Sync {
                files: self.files.clone(),
                unsynced: self.take_unsynced(),
                sync_failed: self.sync_failed.clone(),
                ran: false,
            };
            return Ok(Some(Work { kind }));
        }
        let wasted = self.wasted_bytes();
        if wasted > BUSY_DEAD_BYTES {
            return Ok(Some(Work { kind: Kind::Compact }));
        }
        if !quiet && !pressing {
            return Ok(None);
        }
        let mut ids = self.due_segments()?;
        let mut blocks = 0;
        ids.retain(|id| {
            let first = blocks == 0;
            blocks += 1 << id.level;
            first || blocks <= BLOCKS_SEALED_AT_ONCE
        });
        ids.truncate(SEALED_AT_ONCE);
        if !ids.is_empty() {
            // More may be due than is done at once.
            self.look_again_at = 0;
            let jobs = ids.into_iter().map(|id| self.seal_job(id));
            let kind = Kind::Seal {
                jobs: jobs.collect::<Result<_, _>>()?,
                upheavals: self.index.upheavals,
                ran: None,
            };
            return Ok(Some(Work { kind }));
        }
        let compact = quiet && wasted > self.limits.dead_bytes;
        Ok(compact.then_some(Work { kind: Kind::Compact }))
    }

    pub(super) fn take_back_work(&mut self, work: Work) {
        self.working = false;
        let ended = self.check_open().and_then(|()| match work.kind {
            Kind::Compact => self.compact(),
            Kind::Sync { unsynced, ran, .. } => {
                if ran {
                    self.note_synced(&unsynced);
                }
                Ok(())
            }
            Kind::Seal {
                ran: Some(Err(error)),
                ..
            } => Err(error),
            // What was cut or cleared meanwhile must not come back; the files are strays, or overwritten later.
            Kind::Seal { upheavals, .. } if upheavals != self.index.upheavals => Ok(()),
            Kind::Seal {
                jobs,
                ran: Some(Ok(())),
                ..
            } => jobs.iter().try_for_each(|job| {
                // An append may have completed a larger one meanwhile.
                let covering = self.index.segment_of_block(job.sealed.id.blocks().start);
                if covering.is_some_and(|sealed| sealed.id.level > job.sealed.id.level) {
                    return Ok(());
                }
                self.count_segment(job.sealed, &job.top)
            }),
            Kind::Seal { ran: None, .. } => Ok(()),
        });
        self.note_failure(ended.err());
    }

    pub(super) fn is_far_behind(&self, bytes: u64) -> bool {
        self.index.live_block_bytes > bytes
    }

    pub(super) fn owners_wait(&self) -> bool {
        self.working && self.is_far_behind(BEHIND_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::super::tests::{append, everything, open, truncate};
    use super::*;
    use crate::storage::Storage;

    const BLOCKS: u64 = 64;

    /// 16 MiB in blocks of 256 KiB: two settled segments.
    fn written() -> (TempDir, DiskStorage) {
        let dir = TempDir::new().unwrap();
        let mut storage = open(&dir).defer_work();
        for index in 0..BLOCKS {
            append(&mut storage, 0, &[vec![index as u8; 256 << 10]]);
        }
        (dir, storage)
    }

    #[test]
    fn deferred_work_waits_for_a_quiet_moment_and_goes_on_while_the_core_grows() {
        let (dir, mut storage) = written();
        assert_eq!(storage.sealed_segments().count(), 0);
        assert!(storage.has_work());
        assert!(storage.take_work(false).is_none(), "nothing presses");
        let mut work = storage.take_work(true).unwrap();
        assert!(storage.take_work(true).is_none(), "one at a time");
        append(&mut storage, 0, &[b"meanwhile".to_vec()]);
        work.run();
        let before = everything(&storage, BLOCKS + 1);
        storage.end_work(work);
        assert_eq!(storage.sealed_segments().count(), 2);
        assert_eq!(everything(&storage, BLOCKS + 1), before);
        while let Some(mut work) = storage.take_work(true) {
            work.run();
            storage.end_work(work);
        }
        assert!(storage.maintenance_error().is_none());
        assert!(storage.log_bytes() < 9 << 20, "{}", storage.log_bytes());
        storage.flush().unwrap();
        drop(storage);
        assert_eq!(everything(&open(&dir), BLOCKS + 1), before);
    }

    #[test]
    fn a_segment_of_blocks_that_were_cut_meanwhile_never_counts() {
        let (dir, mut storage) = written();
        let mut work = storage.take_work(true).unwrap();
        truncate(&mut storage, 3);
        append(&mut storage, 1, &[b"other".to_vec()]);
        work.run();
        let before = everything(&storage, BLOCKS);
        storage.end_work(work);
        assert_eq!(storage.sealed_segments().count(), 0);
        assert_eq!(everything(&storage, BLOCKS), before);
        storage.flush().unwrap();
        drop(storage);
        assert_eq!(everything(&open(&dir), BLOCKS), before);
    }

    #[test]
    fn work_that_ends_after_its_storage_was_opened_anew_harms_nothing() {
        let (dir, mut storage) = written();
        let before = everything(&storage, BLOCKS);
        storage.flush().unwrap();
        let mut work = storage.take_work(true).unwrap();
        drop(storage);
        let mut storage = open(&dir);
        work.run();
        storage.seal_settled().unwrap();
        storage.flush().unwrap();
        assert_eq!(everything(&storage, BLOCKS), before);
        drop(storage);
        assert_eq!(everything(&open(&dir), BLOCKS), before);
    }
}
