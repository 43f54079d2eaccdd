//! The records on disk; the format is described at the crate.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use cumulet_encoding::{Reader, Writer};
use cumulet_relay::Key;
use cumulet_relay::blind_peer::CoreRecord;

const MAGIC: &[u8; 4] = b"CBPJ";
const VERSION: u32 = 1;
const HEAD_BYTES: usize = 8;
/// Longest body: a record of today takes less than 200 bytes.
const MAX_BODY_BYTES: usize = 1_024;
/// The file is not written anew before it has this many entries.
const MIN_ENTRIES: usize = 1_024;

/// The journal can't be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file can't be read or written.
    #[error("failed to use the journal {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is not one of ours, or a later version's.
    #[error(
        "failed to read the journal {path}: it is not of version {VERSION}; hint: was it written by a later version?"
    )]
    Format {
        /// Which.
        path: PathBuf,
    },
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Entry {
    Record(Key, CoreRecord),
    End(Key),
}

#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    entries: usize,
}

fn frame(entry: &Entry, out: &mut Vec<u8>) {
    let mut body = Writer::new();
    match entry {
        Entry::Record(owner, record) => body.u8(0).fixed(owner).raw(&record.encode()),
        Entry::End(key) => body.u8(1).fixed(key),
    };
    let body = body.into_vec();
    out.extend_from_slice(&(body.len() as u32).to_le_bytes());
    out.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
    out.extend_from_slice(&body);
}

fn parse(body: &[u8]) -> Option<Entry> {
    let mut reader = Reader::new(body);
    match reader.u8().ok()? {
        0 => {
            let owner = reader.fixed().ok()?;
            CoreRecord::decode(reader.rest())
                .ok()
                .map(|record| Entry::Record(owner, record))
        }
        1 => reader.fixed().ok().map(Entry::End),
        _ => None,
    }
}

/// The next entry of `bytes`, and what follows it.
fn next(bytes: &[u8]) -> Option<(Entry, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (sum, rest) = rest.split_first_chunk::<4>()?;
    let length = u32::from_le_bytes(*length) as usize;
    if length > MAX_BODY_BYTES {
        return None;
    }
    let (body, rest) = rest.split_at_checked(length)?;
    (crc32c::crc32c(body) == u32::from_le_bytes(*sum)).then_some(())?;
    Some((parse(body)?, rest))
}

fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => Ok(()),
    }
}

impl Journal {
    /// Opens or makes the file; returns what counts of it: owners and records.
    pub(crate) fn open(path: &Path) -> Result<(Self, Vec<(Key, CoreRecord)>), JournalError> {
        let failed = |source| JournalError::File {
            path: path.to_owned(),
            source,
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(failed)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() < HEAD_BYTES {
            // New, or torn before anything was in it.
            bytes = [&MAGIC[..], &VERSION.to_le_bytes()].concat();
            file.set_len(0).map_err(failed)?;
            file.rewind().map_err(failed)?;
            file.write_all(&bytes).map_err(failed)?;
            file.sync_all().map_err(failed)?;
            sync_folder(path).map_err(failed)?;
        }
        if bytes[..4] != MAGIC[..] || bytes[4..HEAD_BYTES] != VERSION.to_le_bytes() {
            return Err(JournalError::Format {
                path: path.to_owned(),
            });
        }
        let mut records = HashMap::new();
        let (mut rest, mut entries) = (&bytes[HEAD_BYTES..], 0);
        while let Some((entry, following)) = next(rest) {
            rest = following;
            entries += 1;
            match entry {
                Entry::Record(owner, record) => drop(records.insert(record.key, (owner, record))),
                Entry::End(key) => drop(records.remove(&key)),
            }
        }
        let whole = (bytes.len() - rest.len()) as u64;
        file.set_len(whole).map_err(failed)?;
        file.seek(SeekFrom::Start(whole)).map_err(failed)?;
        let journal = Self {
            path: path.to_owned(),
            file,
            entries,
        };
        Ok((journal, records.into_values().collect()))
    }

    /// Makes changes durable.
    pub(crate) fn append(&mut self, changes: &[Entry]) -> Result<(), JournalError> {
        let mut bytes = Vec::new();
        for entry in changes {
            frame(entry, &mut bytes);
        }
        let written = self.file.write_all(&bytes).and_then(|()| self.file.sync_data());
        self.entries += changes.len();
        written.map_err(|source| self.failed(source))
    }

    /// Whether the file should be written anew when this many records count.
    pub(crate) fn is_wasteful(&self, records: usize) -> bool {
        self.entries > MIN_ENTRIES && self.entries > 2 * records
    }

    /// Writes the file anew with what counts. A crash leaves the old one or the new one.
    pub(crate) fn rewrite(&mut self, records: &[Entry]) -> Result<(), JournalError> {
        let mut bytes = [&MAGIC[..], &VERSION.to_le_bytes()].concat();
        for entry in records {
            frame(entry, &mut bytes);
        }
        let next = self.path.with_extension("next");
        let write = || {
            let mut file = File::create(&next)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&next, &self.path)?;
            sync_folder(&self.path)?;
            Ok(file)
        };
        self.file = write().map_err(|source| self.failed(source))?;
        self.entries = records.len();
        Ok(())
    }

    fn failed(&self, source: io::Error) -> JournalError {
        JournalError::File {
            path: self.path.clone(),
            source,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn record(number: u8, length: u64) -> Entry {
        let record = CoreRecord {
            key: [number; 32],
            length,
            referrer: Some([9; 32]),
            ..CoreRecord::default()
        };
        Entry::Record([7; 32], record)
    }

    fn lengths(records: &[(Key, CoreRecord)]) -> Vec<(u8, u64)> {
        let mut lengths: Vec<_> = records
            .iter()
            .map(|(_, record)| (record.key[0], record.length))
            .collect();
        lengths.sort_unstable();
        lengths
    }

    #[test]
    fn records_come_back_the_last_of_each_and_none_that_ended_whatever_was_torn() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let (mut journal, records) = Journal::open(&path).unwrap();
        assert!(records.is_empty());
        journal
            .append(&[record(1, 5), record(2, 1), record(1, 6)])
            .unwrap();
        journal.append(&[Entry::End([2; 32]), record(3, 3)]).unwrap();
        let whole = fs::read(&path).unwrap();
        let kept = lengths(&Journal::open(&path).unwrap().1);
        assert_eq!(kept, [(1, 6), (3, 3)]);
        for cut in HEAD_BYTES..whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let (mut journal, _) = Journal::open(&path).unwrap();
            journal.append(&[record(4, 4)]).unwrap();
            let (_, records) = Journal::open(&path).unwrap();
            assert!(lengths(&records).contains(&(4, 4)), "cut at {cut}");
        }
        // A flipped bit in the last entry costs that entry alone.
        let mut damaged = whole.clone();
        *damaged.last_mut().unwrap() ^= 1;
        fs::write(&path, &damaged).unwrap();
        assert_eq!(lengths(&Journal::open(&path).unwrap().1), [(1, 6)]);
        fs::write(&path, b"something else").unwrap();
        assert!(matches!(Journal::open(&path), Err(JournalError::Format { .. })));
    }

    #[test]
    fn a_journal_that_was_written_anew_holds_the_same_and_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let (mut journal, _) = Journal::open(&path).unwrap();
        let changes: Vec<_> = (0..2_000).map(|length| record(1, length)).collect();
        journal.append(&changes).unwrap();
        assert!(journal.is_wasteful(1));
        let before = fs::metadata(&path).unwrap().len();
        journal.rewrite(&[record(1, 1_999)]).unwrap();
        assert!(fs::metadata(&path).unwrap().len() < before / 100 && !journal.is_wasteful(1));
        journal.append(&[record(2, 2)]).unwrap();
        let (_, records) = Journal::open(&path).unwrap();
        assert_eq!(lengths(&records), [(1, 1_999), (2, 2)]);
    }
}
