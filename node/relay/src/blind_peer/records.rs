//! What a blind peer keeps and tells.

use cumulet_encoding::{DecodeError, Reader, Writer};

use crate::{Key, array, encoded, flag, given};

/// What a peer knows of a core that it keeps; times are Unix milliseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CoreRecord {
    /// The core's key.
    pub key: Key,
    /// Its length, in blocks.
    pub length: u64,
    /// Bytes that it takes.
    pub bytes_allocated: u64,
    /// When it last grew.
    pub updated: u64,
    /// When somebody last wanted it.
    pub active: u64,
    /// 0 low, 1 normal, 2 high.
    pub priority: u64,
    /// Announced on the DHT.
    pub announce: bool,
    /// The group that it belongs to.
    pub referrer: Option<Key>,
    /// Blocks cleared to save space: those before this one.
    pub blocks_cleared: u64,
    /// Bytes cleared.
    pub bytes_cleared: u64,
}

impl CoreRecord {
    /// Reads a record.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let mut record = Self {
            key: reader.fixed()?,
            length: reader.uint()?,
            bytes_allocated: reader.uint()?,
            updated: reader.uint()?,
            active: reader.uint()?,
            priority: reader.uint()?,
            ..Self::default()
        };
        let flags = reader.uint()?;
        record.announce = flags & 1 != 0;
        record.referrer = given(flags & 2 != 0, || reader.fixed())?;
        record.blocks_cleared = given(flags & 4 != 0, || reader.uint())?.unwrap_or(0);
        record.bytes_cleared = given(flags & 8 != 0, || reader.uint())?.unwrap_or(0);
        Ok(record)
    }

    /// The record's bytes.
    pub fn encode(&self) -> Vec<u8> {
        encoded(|writer| {
            writer.fixed(&self.key);
            for number in [
                self.length,
                self.bytes_allocated,
                self.updated,
                self.active,
                self.priority,
            ] {
                writer.uint(number);
            }
            writer.uint(
                flag(self.announce, 1)
                    | flag(self.referrer.is_some(), 2)
                    | flag(self.blocks_cleared != 0, 4)
                    | flag(self.bytes_cleared != 0, 8),
            );
            if let Some(referrer) = &self.referrer {
                writer.fixed(referrer);
            }
            for number in [self.blocks_cleared, self.bytes_cleared] {
                if number != 0 {
                    writer.uint(number);
                }
            }
        })
    }
}

/// A mailbox that a peer keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mailbox {
    /// Version of the record.
    pub version: u64,
    /// Seed of its core's key pair.
    pub seed: Key,
    /// The group that it belongs to.
    pub referrer: Option<Key>,
    /// Key under which its blocks are encrypted.
    pub block_encryption_key: Option<Key>,
}

impl Mailbox {
    /// Reads a mailbox.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let (version, seed, flags) = (reader.uint()?, reader.fixed()?, reader.uint()?);
        Ok(Self {
            version,
            seed,
            referrer: given(flags & 1 != 0, || reader.fixed())?,
            block_encryption_key: given(flags & 2 != 0, || reader.fixed())?,
        })
    }

    /// The mailbox's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let keys = [&self.referrer, &self.block_encryption_key];
        encoded(|writer| {
            writer
                .uint(self.version)
                .fixed(&self.seed)
                .uint(flag(keys[0].is_some(), 1) | flag(keys[1].is_some(), 2));
            for key in keys.into_iter().flatten() {
                writer.fixed(key);
            }
        })
    }
}

/// How often something asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count {
    /// Who or what, in words.
    pub key: String,
    /// How often.
    pub count: u64,
}

/// Who asks most; for administrators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopK {
    /// Version of the answer: 1.
    pub version: u64,
    /// By address.
    pub ip: Vec<Count>,
    /// By group.
    pub referrer: Vec<Count>,
    /// By public key.
    pub peer_public_key: Vec<Count>,
}

fn read_counts(reader: &mut Reader<'_>) -> Result<Vec<Count>, DecodeError> {
    array(reader, 3, |reader| {
        let mut frame = reader.frame()?;
        Ok(Count {
            key: frame.string()?.into_owned(),
            count: frame.uint()?,
        })
    })
}

fn write_counts(writer: &mut Writer, counts: &[Count]) {
    writer.array_len(counts.len());
    for count in counts {
        writer.frame(|writer| {
            writer.string(&count.key).uint(count.count);
        });
    }
}

impl TopK {
    /// Reads the answer.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        Ok(Self {
            version: reader.uint()?,
            ip: read_counts(&mut reader)?,
            referrer: read_counts(&mut reader)?,
            peer_public_key: read_counts(&mut reader)?,
        })
    }

    /// The answer's bytes.
    pub fn encode(&self) -> Vec<u8> {
        encoded(|writer| {
            writer.uint(self.version);
            for counts in [&self.ip, &self.referrer, &self.peer_public_key] {
                write_counts(writer, counts);
            }
        })
    }
}
