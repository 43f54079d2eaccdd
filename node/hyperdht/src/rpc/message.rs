//! The two datagrams of dht-rpc: request (first byte 0x03) and response (0x13).
//!
//! Decoding never trusts an id: the caller compares it with the hash of the datagram's source. Bytes after the
//! known fields are ignored, so that newer peers may append.

use std::net::SocketAddrV4;

use bytes::Bytes;
use cumulet_encoding::{DecodeError, Reader, Writer};

use crate::Hash;
use crate::address;

pub(crate) const REQUEST: u8 = 0x03;
pub(crate) const RESPONSE: u8 = 0x13;

const FLAG_ID: u64 = 1;
const FLAG_TOKEN: u64 = 2;
const FLAG_INTERNAL: u64 = 4;
const FLAG_CLOSER: u64 = 4;
const FLAG_TARGET: u64 = 8;
const FLAG_ERROR: u64 = 8;
const FLAG_VALUE: u64 = 16;

/// A request as it is on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) tid: u16,
    /// The address the datagram is sent to, as its sender thinks.
    pub(crate) to: SocketAddrV4,
    pub(crate) id: Option<Hash>,
    pub(crate) token: Option<Hash>,
    /// True for the commands of dht-rpc itself, false for those of the layer above.
    pub(crate) internal: bool,
    pub(crate) command: u64,
    pub(crate) target: Option<Hash>,
    pub(crate) value: Option<Bytes>,
}

/// A response as it is on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) tid: u16,
    /// The requester's address as the responder saw it.
    pub(crate) to: SocketAddrV4,
    pub(crate) id: Option<Hash>,
    pub(crate) token: Option<Hash>,
    pub(crate) closer_nodes: Vec<SocketAddrV4>,
    /// 0 is success.
    pub(crate) error: u64,
    pub(crate) value: Option<Bytes>,
}

/// Either datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Message {
    Request(Request),
    Response(Response),
}

fn flag(set: bool, bit: u64) -> u64 {
    if set { bit } else { 0 }
}

fn value_of(reader: &mut Reader<'_>) -> Result<Option<Bytes>, DecodeError> {
    Ok(reader.optional_buffer()?.map(Bytes::copy_from_slice))
}

/// Decodes a datagram; `None` when it is neither a request nor a response, or damaged.
pub(crate) fn decode(datagram: &[u8]) -> Option<Message> {
    let (first, rest) = datagram.split_first()?;
    let mut reader = Reader::new(rest);
    match *first {
        REQUEST => decode_request(&mut reader).ok().map(Message::Request),
        RESPONSE => decode_response(&mut reader).ok().map(Message::Response),
        _ => None,
    }
}

fn decode_request(reader: &mut Reader<'_>) -> Result<Request, DecodeError> {
    let flags = reader.uint()?;
    Ok(Request {
        tid: reader.u16()?,
        to: address::read(reader)?,
        id: if flags & FLAG_ID != 0 {
            Some(reader.fixed()?)
        } else {
            None
        },
        token: if flags & FLAG_TOKEN != 0 {
            Some(reader.fixed()?)
        } else {
            None
        },
        internal: flags & FLAG_INTERNAL != 0,
        command: reader.uint()?,
        target: if flags & FLAG_TARGET != 0 {
            Some(reader.fixed()?)
        } else {
            None
        },
        value: if flags & FLAG_VALUE != 0 {
            value_of(reader)?
        } else {
            None
        },
    })
}

fn decode_response(reader: &mut Reader<'_>) -> Result<Response, DecodeError> {
    let flags = reader.uint()?;
    Ok(Response {
        tid: reader.u16()?,
        to: address::read(reader)?,
        id: if flags & FLAG_ID != 0 {
            Some(reader.fixed()?)
        } else {
            None
        },
        token: if flags & FLAG_TOKEN != 0 {
            Some(reader.fixed()?)
        } else {
            None
        },
        closer_nodes: if flags & FLAG_CLOSER != 0 {
            address::read_array(reader)?
        } else {
            Vec::new()
        },
        error: if flags & FLAG_ERROR != 0 {
            reader.uint()?
        } else {
            0
        },
        value: if flags & FLAG_VALUE != 0 {
            value_of(reader)?
        } else {
            None
        },
    })
}

impl Request {
    pub(crate) fn encode(&self) -> Bytes {
        let mut writer = Writer::new();
        let flags = flag(self.id.is_some(), FLAG_ID)
            | flag(self.token.is_some(), FLAG_TOKEN)
            | flag(self.internal, FLAG_INTERNAL)
            | flag(self.target.is_some(), FLAG_TARGET)
            | flag(self.value.is_some(), FLAG_VALUE);
        writer.u8(REQUEST).uint(flags).u16(self.tid);
        address::write(&mut writer, self.to);
        for field in [&self.id, &self.token].into_iter().flatten() {
            writer.fixed(field);
        }
        writer.uint(self.command);
        if let Some(target) = &self.target {
            writer.fixed(target);
        }
        if let Some(value) = &self.value {
            writer.buffer(value);
        }
        writer.into_vec().into()
    }
}

impl Response {
    pub(crate) fn encode(&self) -> Bytes {
        let mut writer = Writer::new();
        let flags = flag(self.id.is_some(), FLAG_ID)
            | flag(self.token.is_some(), FLAG_TOKEN)
            | flag(!self.closer_nodes.is_empty(), FLAG_CLOSER)
            | flag(self.error > 0, FLAG_ERROR)
            | flag(self.value.is_some(), FLAG_VALUE);
        writer.u8(RESPONSE).uint(flags).u16(self.tid);
        address::write(&mut writer, self.to);
        for field in [&self.id, &self.token].into_iter().flatten() {
            writer.fixed(field);
        }
        if !self.closer_nodes.is_empty() {
            address::write_array(&mut writer, &self.closer_nodes);
        }
        if self.error > 0 {
            writer.uint(self.error);
        }
        if let Some(value) = &self.value {
            writer.buffer(value);
        }
        writer.into_vec().into()
    }
}

/// The value of any request or response: for tests that look at what is sent.
#[cfg(test)]
pub(crate) fn sniff_value(datagram: &[u8]) -> Option<Bytes> {
    match decode(datagram)? {
        Message::Request(request) => request.value,
        Message::Response(response) => response.value,
    }
}
