//! Hints about which cores of a group have news (npm `protomux-wakeup` 2.9).
//!
//! A Protomux channel `wakeup` whose id is the discovery key of a capability key, usually that of an Autobase. A peer that
//! has news announces cores and lengths; what comes of it is the receiver's policy, for hints are not proven.

use cumulet_encoding::{DecodeError, Reader};
use cumulet_hypercore::crypto::{hash, namespace};
use thiserror::Error;

use crate::{Key, array, encoded, flag, given};

/// The protocol's name in Protomux.
pub const PROTOCOL: &str = "wakeup";

/// The only version of the handshake.
pub const VERSION: u64 = 0;

/// Most hints kept of one announcement. JavaScript sends far fewer; hints are not proven, so a list is no more than a
/// peer's wish for our attention.
pub const MAX_HINTS: usize = 1024;

/// Failed to decode a wakeup message.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum WakeupError {
    /// The bytes are none.
    #[error("failed to decode a wakeup message: {0}")]
    Decode(#[from] DecodeError),
    /// The number is that of no message.
    #[error("failed to decode wakeup message {0}: there is none of that number")]
    Number(u64),
}

/// Proof, sent when the channel opens, that a side knows the capability key: H(namespace ‖ key ‖ handshake hash), with
/// the namespace of the sender's role in the stream.
pub fn capability(key: &Key, handshake_hash: &[u8; 64], is_initiator: bool) -> Key {
    let role = namespace(PROTOCOL, u8::from(!is_initiator));
    hash(&[&role, key, handshake_hash])
}

/// What each side says when it opens the channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handshake {
    /// [`VERSION`], or another peer's.
    pub version: u64,
    /// See [`capability`].
    pub capability: Key,
    /// Whether the side has sessions that want news.
    pub active: bool,
}

impl Handshake {
    /// Reads a handshake.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        Ok(Self {
            version: reader.uint()?,
            capability: reader.fixed()?,
            active: reader.uint()? & 1 != 0,
        })
    }

    /// The handshake's bytes.
    pub fn encode(&self) -> Vec<u8> {
        encoded(|writer| {
            writer
                .uint(self.version)
                .fixed(&self.capability)
                .uint(flag(self.active, 1));
        })
    }
}

/// A core that has news.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CoreHint {
    /// The core's key.
    pub key: Key,
    /// A length that it has reached, in blocks.
    pub length: u64,
}

impl CoreHint {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            key: reader.fixed()?,
            length: reader.uint()?,
        })
    }
}

/// A message of the channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Is there news?
    Lookup {
        /// What the asker has already, if it says so.
        hash: Option<Key>,
    },
    /// There is news in these cores; at most [`MAX_HINTS`] are kept.
    Announce(Vec<CoreHint>),
    /// Whether the sender's sessions are active.
    Info {
        /// They are.
        active: bool,
    },
}

impl Message {
    /// The message's number in the channel.
    pub fn number(&self) -> u64 {
        match self {
            Self::Lookup { .. } => 0,
            Self::Announce(_) => 1,
            Self::Info { .. } => 2,
        }
    }

    /// Reads message `number`.
    pub fn decode(number: u64, bytes: &[u8]) -> Result<Self, WakeupError> {
        let mut reader = Reader::new(bytes);
        Ok(match number {
            0 => {
                let flags = reader.uint()?;
                Self::Lookup {
                    hash: given(flags & 1 != 0, || reader.fixed())?,
                }
            }
            1 => {
                let mut hints = array(&mut reader, 33, CoreHint::read)?;
                hints.truncate(MAX_HINTS);
                Self::Announce(hints)
            }
            2 => Self::Info {
                active: reader.uint()? & 1 != 0,
            },
            other => return Err(WakeupError::Number(other)),
        })
    }

    /// The message's bytes.
    pub fn encode(&self) -> Vec<u8> {
        encoded(|writer| match self {
            Self::Lookup { hash } => {
                writer.uint(flag(hash.is_some(), 1));
                if let Some(hash) = hash {
                    writer.fixed(hash);
                }
            }
            Self::Announce(hints) => {
                writer.array_len(hints.len());
                for hint in hints {
                    writer.fixed(&hint.key).uint(hint.length);
                }
            }
            Self::Info { active } => {
                writer.uint(flag(*active, 1));
            }
        })
    }
}
