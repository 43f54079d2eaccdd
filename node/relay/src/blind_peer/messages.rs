//! What clients ask.

use bytes::Bytes;
use cumulet_encoding::{DecodeError, Reader};

use crate::wakeup::CoreHint;
use crate::{Key, array, encoded, flag, given};

/// Keep this core.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AddCore {
    /// The core's key.
    pub key: Key,
    /// The group that it belongs to, woken up when the core has news.
    pub referrer: Option<Key>,
    /// No longer used.
    pub deprecated_autobase: Option<Key>,
    /// No longer used.
    pub deprecated_autobase_block_key: Option<Key>,
    /// 0 low, 1 normal, 2 high; requests are capped to 1.
    pub priority: u64,
    /// Announce the core on the DHT; for trusted clients alone.
    pub announce: bool,
}

impl AddCore {
    /// Reads the request.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let flags = reader.uint()?;
        Ok(Self {
            announce: flags & 16 != 0,
            key: reader.fixed()?,
            referrer: given(flags & 1 != 0, || reader.fixed())?,
            deprecated_autobase: given(flags & 2 != 0, || reader.fixed())?,
            deprecated_autobase_block_key: given(flags & 4 != 0, || reader.fixed())?,
            priority: given(flags & 8 != 0, || reader.uint())?.unwrap_or(0),
        })
    }

    /// The request's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let keys = [
            &self.referrer,
            &self.deprecated_autobase,
            &self.deprecated_autobase_block_key,
        ];
        let present = keys
            .iter()
            .zip([1, 2, 4])
            .map(|(key, bit)| flag(key.is_some(), bit))
            .sum::<u64>();
        encoded(|writer| {
            let flags = present | flag(self.priority != 0, 8) | flag(self.announce, 16);
            writer.uint(flags).fixed(&self.key);
            for key in keys.into_iter().flatten() {
                writer.fixed(key);
            }
            if self.priority != 0 {
                writer.uint(self.priority);
            }
        })
    }
}

/// Forget this core; for trusted clients alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeleteCore {
    /// The core's key.
    pub key: Key,
}

impl DeleteCore {
    /// Reads the request.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let key = Reader::new(bytes).fixed()?;
        Ok(Self { key })
    }

    /// The request's bytes.
    pub fn encode(&self) -> Vec<u8> {
        self.key.to_vec()
    }
}

/// Answer of [`DeleteCore`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deleted {
    /// Whether it was there.
    pub existed: bool,
}

impl Deleted {
    /// Reads the answer.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let existed = Reader::new(bytes).bool()?;
        Ok(Self { existed })
    }

    /// The answer's bytes.
    pub fn encode(&self) -> Vec<u8> {
        encoded(|writer| {
            writer.bool(self.existed);
        })
    }
}

/// The muxer's message: keep these cores of one group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cores {
    /// The group that they belong to.
    pub referrer: Option<Key>,
    /// As in [`AddCore`].
    pub priority: u64,
    /// As in [`AddCore`].
    pub announce: bool,
    /// The cores and the sender's lengths of them.
    pub cores: Vec<CoreHint>,
}

impl Cores {
    /// Reads the message.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let flags = reader.uint()?;
        Ok(Self {
            announce: flags & 4 != 0,
            referrer: given(flags & 1 != 0, || reader.fixed())?,
            priority: given(flags & 2 != 0, || reader.uint())?.unwrap_or(0),
            cores: array(&mut reader, 33, CoreHint::read)?,
        })
    }

    /// The message's bytes.
    pub fn encode(&self) -> Vec<u8> {
        encoded(|writer| {
            writer.uint(
                flag(self.referrer.is_some(), 1) | flag(self.priority != 0, 2) | flag(self.announce, 4),
            );
            if let Some(referrer) = &self.referrer {
                writer.fixed(referrer);
            }
            if self.priority != 0 {
                writer.uint(self.priority);
            }
            writer.array_len(self.cores.len());
            for core in &self.cores {
                writer.fixed(&core.key).uint(core.length);
            }
        })
    }
}

/// Leave a message in a mailbox. Peers of version 3.8 know the encoding, not the method.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostToMailbox {
    /// The mailbox's id.
    pub mailbox: Bytes,
    /// The message.
    pub message: Bytes,
}

impl PostToMailbox {
    /// Reads the request.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        Ok(Self {
            mailbox: Bytes::copy_from_slice(reader.buffer()?),
            message: Bytes::copy_from_slice(reader.buffer()?),
        })
    }

    /// The request's bytes.
    pub fn encode(&self) -> Vec<u8> {
        encoded(|writer| {
            writer.buffer(&self.mailbox).buffer(&self.message);
        })
    }
}

/// Which blind peers are for this core? Asked of a router.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResolvePeers {
    /// The core's key.
    pub key: Key,
}

impl ResolvePeers {
    /// Reads the request.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let key = Reader::new(bytes).fixed()?;
        Ok(Self { key })
    }

    /// The request's bytes.
    pub fn encode(&self) -> Vec<u8> {
        self.key.to_vec()
    }
}

/// A blind peer that a router names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedPeer {
    /// Its public key.
    pub key: Key,
    /// Where it is, in the router's words.
    pub location: Option<String>,
}

/// Answer of [`ResolvePeers`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResolvedPeers {
    /// The peers.
    pub peers: Vec<ResolvedPeer>,
}

impl ResolvedPeers {
    /// Reads the answer.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let peers = array(&mut Reader::new(bytes), 34, |reader| {
            let mut frame = reader.frame()?;
            let key = frame.fixed()?;
            let flags = frame.uint()?;
            let location = given(flags & 1 != 0, || frame.string())?;
            Ok(ResolvedPeer {
                key,
                location: location.map(std::borrow::Cow::into_owned),
            })
        })?;
        Ok(Self { peers })
    }

    /// The answer's bytes.
    pub fn encode(&self) -> Vec<u8> {
        encoded(|writer| {
            writer.array_len(self.peers.len());
            for peer in &self.peers {
                writer.frame(|writer| {
                    writer.fixed(&peer.key).uint(flag(peer.location.is_some(), 1));
                    if let Some(location) = &peer.location {
                        writer.string(location);
                    }
                });
            }
        })
    }
}
