//! The values of HyperDHT's commands (npm `hyperdht` 6.34 `lib/messages.js`).
//!
//! Flag bits we do not know are ignored: formats grow at their end only. Decoders take slices from strangers, keep
//! no more than the bounds named here, and never panic.

mod noise_payload;
mod plain;
mod signed;

use std::net::SocketAddrV4;

use bytes::Bytes;
use cumulet_encoding::{DecodeError, Reader, Writer};

use crate::Hash;
use crate::address;

pub use self::noise_payload::{Firewall, NoisePayload, RelayThrough};
pub(crate) use self::noise_payload::{Holepunch, Relay, Udx};
pub use self::plain::{PluginRequest, SharedAddress};
#[cfg(feature = "vectors")]
pub(crate) use self::signed::mutable_signable;
pub(crate) use self::signed::{
    announce_signable, sign_announce, sign_mutable, unannounce_signable, verify_mutable,
};

/// Commands of the user layer.
pub(crate) mod command {
    pub(crate) const PEER_HANDSHAKE: u64 = 0;
    pub(crate) const PEER_HOLEPUNCH: u64 = 1;
    pub(crate) const FIND_PEER: u64 = 2;
    pub(crate) const LOOKUP: u64 = 3;
    pub(crate) const ANNOUNCE: u64 = 4;
    pub(crate) const UNANNOUNCE: u64 = 5;
    pub(crate) const MUTABLE_PUT: u64 = 6;
    pub(crate) const MUTABLE_GET: u64 = 7;
    pub(crate) const IMMUTABLE_PUT: u64 = 8;
    pub(crate) const IMMUTABLE_GET: u64 = 9;
}

/// Error codes inside payloads and responses.
pub(crate) mod error_code {
    pub(crate) const NONE: u64 = 0;
    pub(crate) const ABORTED: u64 = 1;
    pub(crate) const VERSION_MISMATCH: u64 = 2;
    pub(crate) const TRY_LATER: u64 = 3;
    pub(crate) const SEQ_REUSED: u64 = 16;
    pub(crate) const SEQ_TOO_LOW: u64 = 17;
}

/// Way of a handshake or hole punch message.
pub(crate) mod mode {
    pub(crate) const FROM_CLIENT: u64 = 0;
    pub(crate) const FROM_SERVER: u64 = 1;
    pub(crate) const FROM_RELAY: u64 = 2;
    pub(crate) const FROM_SECOND_RELAY: u64 = 3;
    pub(crate) const REPLY: u64 = 4;
}

/// Most relay addresses of one record that are kept; nodes store no more than 3.
const MAX_RELAY_ADDRESSES: usize = 8;

/// Most records read from one lookup reply; nodes send at most 20 and their own.
const MAX_LOOKUP_PEERS: usize = 32;

fn option<T>(present: bool, read: impl FnOnce() -> Result<T, DecodeError>) -> Result<Option<T>, DecodeError> {
    if present { read().map(Some) } else { Ok(None) }
}

fn bit(set: bool, bit: u64) -> u64 {
    if set { bit } else { 0 }
}

/// Value of PEER_HANDSHAKE, asked and answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Handshake {
    pub(crate) mode: u64,
    pub(crate) noise: Option<Bytes>,
    pub(crate) peer_address: Option<SocketAddrV4>,
    pub(crate) relay_address: Option<SocketAddrV4>,
}

impl Handshake {
    pub(crate) fn decode(value: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(value);
        let flags = reader.uint()?;
        Ok(Self {
            mode: reader.uint()?,
            noise: reader.optional_buffer()?.map(Bytes::copy_from_slice),
            peer_address: option(flags & 1 != 0, || address::read(&mut reader))?,
            relay_address: option(flags & 2 != 0, || address::read(&mut reader))?,
        })
    }

    pub(crate) fn encode(&self) -> Bytes {
        let mut writer = Writer::new();
        writer
            .uint(bit(self.peer_address.is_some(), 1) | bit(self.relay_address.is_some(), 2))
            .uint(self.mode);
        writer.optional_buffer(self.noise.as_deref());
        for address in [self.peer_address, self.relay_address].into_iter().flatten() {
            address::write(&mut writer, address);
        }
        writer.into_vec().into()
    }
}

/// Value of PEER_HOLEPUNCH, asked and answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HolepunchMessage {
    pub(crate) mode: u64,
    /// The server's slot, from its handshake reply.
    pub(crate) id: u64,
    /// Sealed [`HolepunchPayload`].
    pub(crate) payload: Option<Bytes>,
    pub(crate) peer_address: Option<SocketAddrV4>,
}

impl HolepunchMessage {
    pub(crate) fn decode(value: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(value);
        let flags = reader.uint()?;
        Ok(Self {
            mode: reader.uint()?,
            id: reader.uint()?,
            payload: reader.optional_buffer()?.map(Bytes::copy_from_slice),
            peer_address: option(flags & 1 != 0, || address::read(&mut reader))?,
        })
    }

    pub(crate) fn encode(&self) -> Bytes {
        let mut writer = Writer::new();
        writer
            .uint(bit(self.peer_address.is_some(), 1))
            .uint(self.mode)
            .uint(self.id);
        writer.optional_buffer(self.payload.as_deref());
        if let Some(address) = self.peer_address {
            address::write(&mut writer, address);
        }
        writer.into_vec().into()
    }
}

/// What the two ends of a hole punch tell each other, sealed from the relays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct HolepunchPayload {
    pub(crate) error: u64,
    pub(crate) firewall: Firewall,
    pub(crate) round: u64,
    pub(crate) connected: bool,
    pub(crate) punching: bool,
    pub(crate) addresses: Option<Vec<SocketAddrV4>>,
    pub(crate) remote_address: Option<SocketAddrV4>,
    pub(crate) token: Option<Hash>,
    pub(crate) remote_token: Option<Hash>,
}

impl HolepunchPayload {
    pub(crate) fn decode(value: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(value);
        let flags = reader.uint()?;
        Ok(Self {
            connected: flags & 1 != 0,
            punching: flags & 2 != 0,
            error: reader.uint()?,
            firewall: Firewall::from_code(reader.uint()?),
            round: reader.uint()?,
            addresses: option(flags & 4 != 0, || address::read_array(&mut reader))?,
            remote_address: option(flags & 8 != 0, || address::read(&mut reader))?,
            token: option(flags & 16 != 0, || reader.fixed())?,
            remote_token: option(flags & 32 != 0, || reader.fixed())?,
        })
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        let flags = bit(self.connected, 1)
            | bit(self.punching, 2)
            | bit(self.addresses.is_some(), 4)
            | bit(self.remote_address.is_some(), 8)
            | bit(self.token.is_some(), 16)
            | bit(self.remote_token.is_some(), 32);
        writer
            .uint(flags)
            .uint(self.error)
            .uint(self.firewall.code())
            .uint(self.round);
        if let Some(addresses) = &self.addresses {
            address::write_array(&mut writer, addresses);
        }
        if let Some(address) = self.remote_address {
            address::write(&mut writer, address);
        }
        for token in [&self.token, &self.remote_token].into_iter().flatten() {
            writer.fixed(token);
        }
        writer.into_vec()
    }
}

/// A record: who, and through whom to reach them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerRecord {
    /// The peer's Ed25519 public key.
    pub public_key: Hash,
    /// Nodes that relay handshakes to it; hints, at most a few.
    pub relay_addresses: Vec<SocketAddrV4>,
}

impl PeerRecord {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let public_key = reader.fixed()?;
        let mut relay_addresses = address::read_array(reader)?;
        relay_addresses.truncate(MAX_RELAY_ADDRESSES);
        Ok(Self {
            public_key,
            relay_addresses,
        })
    }

    pub(crate) fn decode(value: &[u8]) -> Result<Self, DecodeError> {
        Self::read(&mut Reader::new(value))
    }

    pub(crate) fn write(&self, writer: &mut Writer) {
        writer.fixed(&self.public_key);
        address::write_array(writer, &self.relay_addresses);
    }

    pub(crate) fn encode(&self) -> Bytes {
        let mut writer = Writer::new();
        self.write(&mut writer);
        writer.into_vec().into()
    }
}

/// Answer of LOOKUP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LookupReply {
    pub(crate) peers: Vec<PeerRecord>,
    pub(crate) bump: u64,
}

impl LookupReply {
    pub(crate) fn decode(value: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(value);
        let count = reader.array_len(33)?;
        let mut peers = Vec::with_capacity(count.min(MAX_LOOKUP_PEERS));
        for _ in 0..count {
            let peer = PeerRecord::read(&mut reader)?;
            if peers.len() < MAX_LOOKUP_PEERS {
                peers.push(peer);
            }
        }
        let bump = if reader.is_empty() { 0 } else { reader.uint()? };
        Ok(Self { peers, bump })
    }

    /// Encodes from records as they are stored.
    pub(crate) fn encode(records: &[Bytes], bump: u64) -> Bytes {
        let mut writer = Writer::new();
        writer.array_len(records.len());
        for record in records {
            writer.raw(record);
        }
        writer.uint(bump);
        writer.into_vec().into()
    }
}

/// Value of ANNOUNCE and UNANNOUNCE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Announce {
    pub(crate) peer: Option<PeerRecord>,
    pub(crate) refresh: Option<Hash>,
    pub(crate) signature: Option<[u8; 64]>,
    /// Unix milliseconds; not signed.
    pub(crate) bump: u64,
}

impl Announce {
    pub(crate) fn decode(value: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(value);
        let flags = reader.uint()?;
        Ok(Self {
            peer: option(flags & 1 != 0, || PeerRecord::read(&mut reader))?,
            refresh: option(flags & 2 != 0, || reader.fixed())?,
            signature: option(flags & 4 != 0, || reader.fixed())?,
            bump: option(flags & 8 != 0, || reader.uint())?.unwrap_or(0),
        })
    }

    pub(crate) fn encode(&self) -> Bytes {
        let mut writer = Writer::new();
        writer.uint(
            bit(self.peer.is_some(), 1)
                | bit(self.refresh.is_some(), 2)
                | bit(self.signature.is_some(), 4)
                | bit(self.bump > 0, 8),
        );
        if let Some(peer) = &self.peer {
            peer.write(&mut writer);
        }
        if let Some(refresh) = &self.refresh {
            writer.fixed(refresh);
        }
        if let Some(signature) = &self.signature {
            writer.fixed(signature);
        }
        if self.bump > 0 {
            writer.uint(self.bump);
        }
        writer.into_vec().into()
    }
}

/// Value of MUTABLE_PUT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MutablePut {
    pub(crate) public_key: Hash,
    pub(crate) record: MutableRecord,
}

impl MutablePut {
    pub(crate) fn decode(value: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(value);
        Ok(Self {
            public_key: reader.fixed()?,
            record: MutableRecord::read(&mut reader)?,
        })
    }

    pub(crate) fn encode(&self) -> Bytes {
        let mut writer = Writer::new();
        writer.fixed(&self.public_key);
        self.record.write(&mut writer);
        writer.into_vec().into()
    }
}

/// A signed value that its owner may replace by one with a higher sequence number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MutableRecord {
    /// Sequence number, below 2^53.
    pub seq: u64,
    /// The value, at most about 1,000 bytes (one datagram).
    pub value: Bytes,
    /// Ed25519 over the namespace and the hash of sequence number and value.
    pub signature: [u8; 64],
}

impl MutableRecord {
    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            seq: reader.uint()?,
            value: Bytes::copy_from_slice(reader.buffer()?),
            signature: reader.fixed()?,
        })
    }

    fn write(&self, writer: &mut Writer) {
        writer.uint(self.seq).buffer(&self.value).fixed(&self.signature);
    }

    pub(crate) fn decode(value: &[u8]) -> Result<Self, DecodeError> {
        Self::read(&mut Reader::new(value))
    }

    pub(crate) fn encode(&self) -> Bytes {
        let mut writer = Writer::new();
        self.write(&mut writer);
        writer.into_vec().into()
    }
}

#[cfg(test)]
mod tests;
