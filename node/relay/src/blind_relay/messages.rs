//! The two messages: 0 pairs, 1 takes it back.

use cumulet_encoding::{DecodeError, Reader};

use crate::{Key, encoded, flag};

/// Message 0: connect my stream with that of whoever pairs under the same token in the other role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair {
    /// The role in the pairing; the relay's answer repeats it.
    pub is_initiator: bool,
    /// What both sides agreed on.
    pub token: Key,
    /// The UDX stream id of the message's sender.
    pub id: u64,
    /// Always 0.
    pub seq: u64,
}

impl Pair {
    /// Reads the message.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        Ok(Self {
            is_initiator: reader.u8()? & 1 != 0,
            token: reader.fixed()?,
            id: reader.uint()?,
            seq: reader.uint()?,
        })
    }

    /// The message's bytes.
    pub fn encode(&self) -> Vec<u8> {
        encoded(|writer| {
            writer
                .u8(flag(self.is_initiator, 1) as u8)
                .fixed(&self.token)
                .uint(self.id)
                .uint(self.seq);
        })
    }
}

/// Message 1: forget a pairing, or end it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unpair {
    /// Of which pairing.
    pub token: Key,
}

impl Unpair {
    /// Reads the message; its flags are all reserved.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        reader.u8()?;
        Ok(Self {
            token: reader.fixed()?,
        })
    }

    /// The message's bytes.
    pub fn encode(&self) -> Vec<u8> {
        encoded(|writer| {
            writer.u8(0).fixed(&self.token);
        })
    }
}
