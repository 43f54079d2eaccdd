//! The payload inside both Noise messages of a handshake.

use std::net::{Ipv6Addr, SocketAddrV4, SocketAddrV6};

use cumulet_encoding::{DecodeError, Reader, Writer};

use super::{bit, option};
use crate::Hash;
use crate::address;

/// Most entries kept of any list in a payload.
const MAX_ENTRIES: usize = 16;

const FLAG_HOLEPUNCH: u64 = 1;
const FLAG_ADDRESSES4: u64 = 2;
const FLAG_ADDRESSES6: u64 = 4;
const FLAG_UDX: u64 = 8;
const FLAG_SECRET_STREAM: u64 = 16;
const FLAG_RELAY_THROUGH: u64 = 32;
const FLAG_RELAY_ADDRESSES: u64 = 64;

/// How a node can be reached, as far as it knows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Firewall {
    /// Not known yet, or not told.
    #[default]
    Unknown,
    /// Anybody can send to its server port.
    Open,
    /// Behind a NAT that maps it to the same address for every destination.
    Consistent,
    /// Behind a NAT that maps it to another port per destination.
    Random,
}

impl Firewall {
    pub(crate) fn code(self) -> u64 {
        match self {
            Self::Unknown => 0,
            Self::Open => 1,
            Self::Consistent => 2,
            Self::Random => 3,
        }
    }

    /// Codes we do not know count as the least helpful class.
    pub(crate) fn from_code(code: u64) -> Self {
        match code {
            0 => Self::Unknown,
            1 => Self::Open,
            2 => Self::Consistent,
            _ => Self::Random,
        }
    }
}

/// One relay of a firewalled server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Relay {
    pub(crate) relay_address: SocketAddrV4,
    /// The SERVER's address as that relay sees it.
    pub(crate) peer_address: SocketAddrV4,
}

/// What a client needs to start hole punching.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Holepunch {
    pub(crate) id: u64,
    pub(crate) relays: Vec<Relay>,
}

/// The sender's UDX stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Udx {
    pub(crate) reusable_socket: bool,
    pub(crate) id: u32,
    pub(crate) seq: u64,
}

/// A blind relay to meet at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelayThrough {
    /// The relay's public key.
    pub public_key: Hash,
    /// What both sides pair under.
    pub token: Hash,
}

/// What a peer says of itself in its Noise message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NoisePayload {
    /// 1, or the rest is empty.
    pub version: u64,
    pub(crate) error: u64,
    /// How the peer can be reached.
    pub firewall: Firewall,
    pub(crate) holepunch: Option<Holepunch>,
    /// Where it may be reached directly: its public address first, then local ones.
    pub addresses4: Vec<SocketAddrV4>,
    pub(crate) addresses6: Vec<SocketAddrV6>,
    pub(crate) udx: Option<Udx>,
    pub(crate) secret_stream: bool,
    /// Wants to meet at this relay.
    pub relay_through: Option<RelayThrough>,
    pub(crate) relay_addresses: Option<Vec<SocketAddrV4>>,
}

fn read_address6(reader: &mut Reader<'_>) -> Result<SocketAddrV6, DecodeError> {
    let host = Ipv6Addr::from(reader.fixed::<16>()?);
    Ok(SocketAddrV6::new(host, reader.u16()?, 0, 0))
}

fn read_list<T>(
    reader: &mut Reader<'_>,
    item_len: usize,
    mut read: impl FnMut(&mut Reader<'_>) -> Result<T, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    let count = reader.array_len(item_len)?;
    let mut list = Vec::with_capacity(count.min(MAX_ENTRIES));
    for _ in 0..count {
        let item = read(reader)?;
        if list.len() < MAX_ENTRIES {
            list.push(item);
        }
    }
    Ok(list)
}

fn read_relay(reader: &mut Reader<'_>) -> Result<Relay, DecodeError> {
    Ok(Relay {
        relay_address: address::read(reader)?,
        peer_address: address::read(reader)?,
    })
}

fn read_udx(reader: &mut Reader<'_>) -> Result<Udx, DecodeError> {
    let _version = reader.uint()?;
    let features = reader.uint()?;
    let id = reader.uint()?;
    Ok(Udx {
        reusable_socket: features & 1 != 0,
        id: id as u32,
        seq: reader.uint()?,
    })
}

fn read_relay_through(reader: &mut Reader<'_>) -> Result<RelayThrough, DecodeError> {
    let _version = reader.uint()?;
    let _flags = reader.uint()?;
    Ok(RelayThrough {
        public_key: reader.fixed()?,
        token: reader.fixed()?,
    })
}

impl NoisePayload {
    pub(crate) fn decode(value: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(value);
        let version = reader.uint()?;
        if version != 1 {
            // Another layout follows: nothing of it may be read as ours.
            return Ok(Self {
                version,
                ..Self::default()
            });
        }
        let flags = reader.uint()?;
        let has = |flag: u64| flags & flag != 0;
        let r = &mut reader;
        Ok(Self {
            version,
            error: r.uint()?,
            firewall: Firewall::from_code(r.uint()?),
            holepunch: option(has(FLAG_HOLEPUNCH), || {
                Ok(Holepunch {
                    id: r.uint()?,
                    relays: read_list(r, 12, read_relay)?,
                })
            })?,
            addresses4: option(has(FLAG_ADDRESSES4), || read_list(r, 6, address::read))?.unwrap_or_default(),
            addresses6: option(has(FLAG_ADDRESSES6), || read_list(r, 18, read_address6))?.unwrap_or_default(),
            udx: option(has(FLAG_UDX), || read_udx(r))?,
            secret_stream: option(has(FLAG_SECRET_STREAM), || r.uint())?.is_some(),
            relay_through: option(has(FLAG_RELAY_THROUGH), || read_relay_through(r))?,
            relay_addresses: option(has(FLAG_RELAY_ADDRESSES), || read_list(r, 6, address::read))?,
        })
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        let w = &mut writer;
        w.uint(1)
            .uint(
                bit(self.holepunch.is_some(), FLAG_HOLEPUNCH)
                    | bit(!self.addresses4.is_empty(), FLAG_ADDRESSES4)
                    | bit(!self.addresses6.is_empty(), FLAG_ADDRESSES6)
                    | bit(self.udx.is_some(), FLAG_UDX)
                    | bit(self.secret_stream, FLAG_SECRET_STREAM)
                    | bit(self.relay_through.is_some(), FLAG_RELAY_THROUGH)
                    | bit(self.relay_addresses.is_some(), FLAG_RELAY_ADDRESSES),
            )
            .uint(self.error)
            .uint(self.firewall.code());
        if let Some(holepunch) = &self.holepunch {
            w.uint(holepunch.id).array_len(holepunch.relays.len());
            for relay in &holepunch.relays {
                address::write(w, relay.relay_address);
                address::write(w, relay.peer_address);
            }
        }
        if !self.addresses4.is_empty() {
            address::write_array(w, &self.addresses4);
        }
        if !self.addresses6.is_empty() {
            w.array_len(self.addresses6.len());
            for address in &self.addresses6 {
                w.fixed(&address.ip().octets()).u16(address.port());
            }
        }
        if let Some(udx) = &self.udx {
            w.uint(1)
                .uint(bit(udx.reusable_socket, 1))
                .uint(udx.id.into())
                .uint(udx.seq);
        }
        if self.secret_stream {
            w.uint(1);
        }
        if let Some(relay) = &self.relay_through {
            w.uint(1).uint(0).fixed(&relay.public_key).fixed(&relay.token);
        }
        if let Some(addresses) = &self.relay_addresses {
            address::write_array(w, addresses);
        }
        writer.into_vec()
    }
}
