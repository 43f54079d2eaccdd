//! IPv4 addresses as the DHT writes them, and the node ids derived from them.
//!
//! An address is four bytes and a little-endian port. A node id is the hash of those six bytes, so nobody chooses
//! their place in the id space freely, and a receiver can recompute the id from the datagram's source.

use std::net::{Ipv4Addr, SocketAddrV4};

use cumulet_encoding::{DecodeError, Reader, Writer};

use crate::Hash;
use crate::crypto::hash;

/// Bytes of an encoded address.
pub(crate) const ENCODED_LEN: usize = 6;

/// Most addresses a decoder keeps from one array. The longest list an honest node sends is the 20 closest nodes.
const MAX_ADDRESSES: usize = 64;

/// The node id of an address: BLAKE2b-256 over its six encoded bytes.
pub fn node_id(address: SocketAddrV4) -> Hash {
    hash(&[&encode(address)])
}

pub(crate) fn encode(address: SocketAddrV4) -> [u8; ENCODED_LEN] {
    let [a, b, c, d] = address.ip().octets();
    let [low, high] = address.port().to_le_bytes();
    [a, b, c, d, low, high]
}

pub(crate) fn decode(bytes: [u8; ENCODED_LEN]) -> SocketAddrV4 {
    let [a, b, c, d, low, high] = bytes;
    SocketAddrV4::new(Ipv4Addr::new(a, b, c, d), u16::from_le_bytes([low, high]))
}

pub(crate) fn write(writer: &mut Writer, address: SocketAddrV4) {
    writer.fixed(&encode(address));
}

pub(crate) fn read(reader: &mut Reader<'_>) -> Result<SocketAddrV4, DecodeError> {
    Ok(decode(reader.fixed()?))
}

pub(crate) fn write_array(writer: &mut Writer, addresses: &[SocketAddrV4]) {
    writer.array_len(addresses.len());
    for address in addresses {
        write(writer, *address);
    }
}

/// Reads an array of addresses; those beyond a bound are read over and dropped.
pub(crate) fn read_array(reader: &mut Reader<'_>) -> Result<Vec<SocketAddrV4>, DecodeError> {
    let length = reader.array_len(ENCODED_LEN)?;
    let mut addresses = Vec::with_capacity(length.min(MAX_ADDRESSES));
    for _ in 0..length {
        let address = read(reader)?;
        if addresses.len() < MAX_ADDRESSES {
            addresses.push(address);
        }
    }
    Ok(addresses)
}

/// True for hosts that no remote peer on the public network can mean (npm `bogon` 1.3).
pub(crate) fn is_bogon(host: Ipv4Addr) -> bool {
    is_private(host) || is_reserved(host)
}

/// True for private, carrier-grade, loopback and link-local hosts.
pub(crate) fn is_private(host: Ipv4Addr) -> bool {
    let [a, b, ..] = host.octets();
    host.is_private() || host.is_loopback() || host.is_link_local() || (a == 100 && b & 0xc0 == 64)
}

/// True for hosts that are reachable nowhere: documentation, benchmark, multicast and future ranges.
pub(crate) fn is_reserved(host: Ipv4Addr) -> bool {
    let [a, b, c, _] = host.octets();
    a == 0
        || (a == 192 && b == 0 && (c == 0 || c == 2))
        || (a == 198 && (b & 0xfe == 18 || (b == 51 && c == 100)))
        || (a == 203 && b == 0 && c == 113)
        || a >= 224
}

/// The remote local address that shares most leading octets with one of ours, at least one.
pub(crate) fn match_local(ours: &[SocketAddrV4], remote: &[SocketAddrV4]) -> Option<SocketAddrV4> {
    // Three octets win at once; before that, the first address of a better class stays.
    let mut best: Option<(u8, SocketAddrV4)> = None;
    for own in ours {
        let a = own.ip().octets();
        for candidate in remote {
            let b = candidate.ip().octets();
            if a[0] != b[0] {
                continue;
            }
            if best.is_none() {
                best = Some((1, *candidate));
            }
            if a[1] != b[1] {
                continue;
            }
            if best.is_some_and(|(octets, _)| octets == 1) {
                best = Some((2, *candidate));
            }
            if a[2] == b[2] {
                return Some(*candidate);
            }
        }
    }
    best.map(|(_, address)| address)
}
