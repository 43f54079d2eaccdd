//! Reading a log from its start: which of its records count, and where a tear or damage begins.
//!
//! A batch counts whole or not at all. Records after the last whole batch are a torn tail, unless a later `Synced` record
//! proves that they had been durable: then the file was damaged. Memory is bounded by the largest record, a window, and
//! the batches that were not known to be durable.

use std::path::Path;

use super::files::Files;
use super::log::{BlockPlace, Frame, HEADER_BYTES, Kind, LogHeader, RECORD_BYTES, Record, decode_header};
use crate::crypto::Hash;
use crate::storage::StorageError;

/// Bytes read at once while a log is scanned.
const WINDOW: usize = 256 * 1024;

/// What reading a log told, besides its records.
pub(super) struct Scan {
    pub(super) version: u8,
    pub(super) generation: u64,
    /// Where the last whole batch ends.
    pub(super) end: u64,
    /// Bytes in the file.
    pub(super) file_length: u64,
    /// Where damage begins; the records are those before it.
    pub(super) damage: Option<u64>,
}

/// Reads a log: every header, and every payload but those of blocks that are known to have been durable. The records of
/// all whole batches that begin before `limit` are given to `take`, in order, with where their batch begins if it is not known to
/// have been durable.
///
/// Twice: which records count is known at the end only, and to keep them until then would take several times the memory
/// that the index needs.
pub(super) fn scan(
    files: &Files,
    path: &Path,
    discovery_key: &Hash,
    limit: u64,
    take: impl FnMut(Record, Option<u64>),
) -> Result<Scan, StorageError> {
    let file_length = files.length(path)?;
    let LogHeader {
        version, generation, ..
    } = read_header(files, path, file_length, discovery_key)?;
    let generation_crc = crc32c::crc32c(&generation.to_le_bytes());
    let mut window = Window::new(files, path, file_length);
    let mut survey = survey(&mut window, generation_crc)?;
    let damaged = survey.bad < file_length && synced_after(&mut window, survey.bad, generation_crc)?;
    survey.whole = survey.whole.min(limit);
    let end = take_batches(&mut window, generation_crc, &survey, take)?;
    Ok(Scan {
        version,
        generation,
        end,
        file_length,
        damage: damaged.then_some(survey.bad),
    })
}

/// Reads and checks the header.
fn read_header(
    files: &Files,
    path: &Path,
    file_length: u64,
    discovery_key: &Hash,
) -> Result<LogHeader, StorageError> {
    let foreign = |what| StorageError::Foreign {
        what,
        path: path.to_path_buf(),
    };
    if file_length < HEADER_BYTES {
        return Err(foreign("it is too short for a head log"));
    }
    let mut header = [0; HEADER_BYTES as usize];
    files.read_at(path, 0, &mut header)?;
    let header = decode_header(&header).map_err(foreign)?;
    if header.discovery_key == *discovery_key {
        Ok(header)
    } else {
        Err(foreign("it belongs to another core"))
    }
}

/// A record, where the next one begins, and whether it ends a batch.
struct Found {
    record: Record,
    next: u64,
    last: bool,
}

/// How far a log can be read.
struct Survey {
    /// The length that was durable by the word of its records.
    durable: u64,
    /// Where the last batch ends whose records are whole, but maybe not the bytes of its blocks.
    whole: u64,
    /// Where the first record begins that is not whole.
    bad: u64,
}

fn survey(window: &mut Window<'_>, generation_crc: u32) -> Result<Survey, StorageError> {
    let mut survey = Survey {
        durable: HEADER_BYTES,
        whole: HEADER_BYTES,
        bad: HEADER_BYTES,
    };
    while let Some(found) = read_record(window, survey.bad, generation_crc)? {
        if let Record::Synced(durable) = found.record {
            survey.durable = survey.durable.max(durable);
        }
        survey.bad = found.next;
        if found.last {
            survey.whole = found.next;
        }
    }
    Ok(survey)
}

/// Gives away the records of whole batches; returns where the last of them ends.
fn take_batches(
    window: &mut Window<'_>,
    generation_crc: u32,
    survey: &Survey,
    mut take: impl FnMut(Record, Option<u64>),
) -> Result<u64, StorageError> {
    let (mut at, mut end) = (HEADER_BYTES, HEADER_BYTES);
    // Of the batch that may turn out not to be whole.
    let mut unsure = Vec::new();
    while at < survey.whole {
        let Some(found) = read_record(window, at, generation_crc)? else {
            break;
        };
        let durable = at < survey.durable;
        // A block that was not known to be durable may have reached the disk in part, with its header and later records
        // whole: look at its bytes.
        if let Record::Block { place, .. } = &found.record
            && !durable
            && !block_is_whole(window.files, window.path, place)?
        {
            break;
        }
        at = found.next;
        if durable {
            take(found.record, None);
        } else {
            unsure.push(found.record);
        }
        if found.last {
            for record in unsure.drain(..) {
                take(record, Some(end));
            }
            end = at;
        }
    }
    Ok(end)
}

/// The record that begins at `at`; none if it is not whole. Blocks' bytes are not looked at.
fn read_record(window: &mut Window<'_>, at: u64, generation_crc: u32) -> Result<Option<Found>, StorageError> {
    let frame = window
        .get(at, RECORD_BYTES)?
        .and_then(|bytes| Frame::decode(bytes, generation_crc));
    let Some(frame) = frame else {
        return Ok(None);
    };
    let (offset, length) = (at + RECORD_BYTES, u64::from(frame.length));
    let record = if frame.kind == Kind::Block {
        let place = BlockPlace {
            offset,
            length: frame.length,
            crc: frame.crc,
        };
        let inside = offset + length <= window.file_length;
        inside.then_some(Record::Block {
            index: frame.argument,
            place,
        })
    } else {
        let payload = window
            .get(offset, length)?
            .filter(|payload| crc32c::crc32c(payload) == frame.crc);
        payload.and_then(|payload| frame.record(payload))
    };
    Ok(record.map(|record| Found {
        record,
        next: offset + length,
        last: frame.last,
    }))
}

fn block_is_whole(files: &Files, path: &Path, place: &BlockPlace) -> Result<bool, StorageError> {
    let mut bytes = vec![0; place.length as usize];
    files.read_at(path, place.offset, &mut bytes)?;
    Ok(crc32c::crc32c(&bytes) == place.crc)
}

/// Whether a `Synced` record behind `bad` says that the bytes at `bad` were durable.
fn synced_after(window: &mut Window<'_>, bad: u64, generation_crc: u32) -> Result<bool, StorageError> {
    for at in bad..window.file_length.saturating_sub(RECORD_BYTES - 1) {
        let Some(bytes) = window.get(at, RECORD_BYTES)? else {
            break;
        };
        // The cheap look first: a Synced record has no payload.
        if bytes[..8] == [0, 0, 0, 0, Kind::Synced as u8, 1, 0, 0]
            && Frame::decode(bytes, generation_crc).is_some_and(|frame| frame.argument > bad)
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A moving view of a file, so that scanning needs few reads.
struct Window<'a> {
    files: &'a Files,
    path: &'a Path,
    file_length: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl<'a> Window<'a> {
    fn new(files: &'a Files, path: &'a Path, file_length: u64) -> Self {
        Self {
            files,
            path,
            file_length,
            start: 0,
            bytes: Vec::new(),
        }
    }

    /// `length` bytes at `offset`, or none where the file ends earlier.
    fn get(&mut self, offset: u64, length: u64) -> Result<Option<&[u8]>, StorageError> {
        let Some(end) = offset.checked_add(length).filter(|end| *end <= self.file_length) else {
            return Ok(None);
        };
        if offset < self.start || end > self.start + self.bytes.len() as u64 {
            let wanted = (WINDOW as u64).max(length).min(self.file_length - offset);
            self.bytes.resize(wanted as usize, 0);
            self.files.read_at(self.path, offset, &mut self.bytes)?;
            self.start = offset;
        }
        let from = (offset - self.start) as usize;
        Ok(self.bytes.get(from..from + length as usize))
    }
}
