//! The 28 messages.

use std::net::{Ipv4Addr, SocketAddrV4};

use bytes::Bytes;
use cumulet_encoding::{DecodeError, Reader, Writer};
use thiserror::Error;

use crate::{Key, array, encoded, flag, given};

/// Failed to decode a message.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum DhtRelayError {
    /// The bytes are none.
    #[error("failed to decode a message of the relayed DHT: {0}")]
    Decode(#[from] DecodeError),
    /// The number is that of no message.
    #[error("failed to decode message {0} of the relayed DHT: there is none of that number")]
    Number(u64),
}

/// A client's identity, and whether the relay acts in its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Custody {
    /// The client's public key.
    pub public_key: Key,
    /// Its secret key, in custodial mode.
    pub secret_key: Option<[u8; 64]>,
}

/// What identifies a finished handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handshaken {
    /// Its hash: the relay did it (custodial).
    Hash([u8; 64]),
    /// Its number: the client did it.
    Id(u32),
}

/// What the relay wants signed for an announcement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signee {
    /// Number of the request.
    pub id: u32,
    /// Which announcement.
    pub signee: u32,
    /// Token of the node that is asked to keep it.
    pub token: Key,
    /// Id of that node.
    pub peer_id: Bytes,
    /// Relays to be named.
    pub relay_addresses: Vec<SocketAddrV4>,
}

/// A message. `alias` is the sender's name of the thing, `remote_alias` the receiver's; C is the client, R the relay.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "fields are named as in the protocol; what they are stands above and with each message"
)]
pub enum Message {
    /// C: who I am.
    Handshake { custody: Custody },
    /// Answer me.
    Ping,
    /// The answer.
    Pong,
    /// C: connect me with a peer.
    Connect {
        alias: u32,
        custody: Custody,
        remote_public_key: Key,
    },
    /// R: a peer connected to your server.
    Connection {
        alias: u32,
        server_alias: u32,
        remote_public_key: Key,
        handshake: Handshaken,
    },
    /// C: I have taken that connection.
    Connected { alias: u32, remote_alias: u32 },
    /// R: may this peer connect? (custodial)
    Incoming {
        id: u32,
        server_alias: u32,
        remote_public_key: Key,
        payload: Bytes,
    },
    /// C: no.
    Deny { id: u32 },
    /// C: yes.
    Accept { id: u32 },
    /// A stream is gone: ours by our alias if it was paired, else by the other's.
    Destroy {
        alias: Option<u32>,
        remote_alias: Option<u32>,
        error: Option<String>,
    },
    /// C: listen for me.
    Listen { alias: u32, custody: Custody },
    /// R: done, at this address.
    Listening {
        alias: u32,
        remote_alias: u32,
        address: SocketAddrV4,
    },
    /// C: stop listening.
    Close { alias: u32 },
    /// R: done.
    Closed { alias: u32 },
    /// R: your stream is open.
    Open {
        alias: u32,
        remote_alias: u32,
        handshake: Handshaken,
    },
    /// No more data comes.
    End { alias: u32 },
    /// Data of a stream.
    Data { alias: u32, data: Vec<Bytes> },
    /// R: announcers that were found.
    Result { id: u32, data: Bytes },
    /// R: no more come.
    Finished { id: u32 },
    /// C: look a topic up.
    Lookup { id: u32, topic: Key },
    /// C: announce a topic.
    Announce { id: u32, topic: Key, custody: Custody },
    /// C: withdraw it.
    Unannounce { id: u32, topic: Key, custody: Custody },
    /// R: sign an announcement.
    SignAnnounce(Signee),
    /// R: sign a withdrawal.
    SignUnannounce(Signee),
    /// C: the signature.
    Signature { id: u32, signature: Bytes },
    /// R: make the handshake message for this payload. The alias is there for the initiator.
    NoiseSend {
        id: u32,
        remote_stream_alias: Option<u32>,
        payload: Bytes,
    },
    /// R: here is the peer's handshake message. The alias is there for the responder.
    NoiseReceive {
        id: u32,
        server_alias: Option<u32>,
        payload: Bytes,
    },
    /// C: what came of it.
    NoiseReply {
        is_initiator: bool,
        id: u32,
        payload: Bytes,
        /// A responder's peer, before the handshake is complete.
        remote_public_key: Option<Key>,
        /// Remote id and hole punch secret, once it is complete.
        complete: Option<(Key, Key)>,
    },
}

impl Message {
    /// The message's number in the channel.
    pub fn number(&self) -> u64 {
        match self {
            Self::Handshake { .. } => 0,
            Self::Ping => 1,
            Self::Pong => 2,
            Self::Connect { .. } => 3,
            Self::Connection { .. } => 4,
            Self::Connected { .. } => 5,
            Self::Incoming { .. } => 6,
            Self::Deny { .. } => 7,
            Self::Accept { .. } => 8,
            Self::Destroy { .. } => 9,
            Self::Listen { .. } => 10,
            Self::Listening { .. } => 11,
            Self::Close { .. } => 12,
            Self::Closed { .. } => 13,
            Self::Open { .. } => 14,
            Self::End { .. } => 15,
            Self::Data { .. } => 16,
            Self::Result { .. } => 17,
            Self::Finished { .. } => 18,
            Self::Lookup { .. } => 19,
            Self::Announce { .. } => 20,
            Self::Unannounce { .. } => 21,
            Self::SignAnnounce(_) => 22,
            Self::SignUnannounce(_) => 23,
            Self::Signature { .. } => 24,
            Self::NoiseSend { .. } => 25,
            Self::NoiseReceive { .. } => 26,
            Self::NoiseReply { .. } => 27,
        }
    }

    /// Reads message `number`.
    pub fn decode(number: u64, bytes: &[u8]) -> Result<Self, DhtRelayError> {
        let r = &mut Reader::new(bytes);
        Ok(match number {
            1 => Self::Ping,
            2 => Self::Pong,
            5 => Self::Connected {
                alias: r.u32()?,
                remote_alias: r.u32()?,
            },
            7 => Self::Deny { id: r.u32()? },
            8 => Self::Accept { id: r.u32()? },
            11 => Self::Listening {
                alias: r.u32()?,
                remote_alias: r.u32()?,
                address: read_address(r)?,
            },
            12 => Self::Close { alias: r.u32()? },
            13 => Self::Closed { alias: r.u32()? },
            15 => Self::End { alias: r.u32()? },
            16 => Self::Data {
                alias: r.u32()?,
                data: array(r, 1, read_buffer)?,
            },
            17 => Self::Result {
                id: r.u32()?,
                data: read_buffer(r)?,
            },
            18 => Self::Finished { id: r.u32()? },
            19 => Self::Lookup {
                id: r.u32()?,
                topic: r.fixed()?,
            },
            22 => Self::SignAnnounce(read_signee(r)?),
            23 => Self::SignUnannounce(read_signee(r)?),
            24 => Self::Signature {
                id: r.u32()?,
                signature: read_buffer(r)?,
            },
            6 => Self::Incoming {
                id: r.u32()?,
                server_alias: r.u32()?,
                remote_public_key: r.fixed()?,
                payload: read_buffer(r)?,
            },
            0 | 3 | 4 | 9 | 10 | 14 | 20 | 21 | 25..=27 => Self::decode_flagged(number, r)?,
            other => return Err(DhtRelayError::Number(other)),
        })
    }

    /// Those that begin with a byte of flags.
    fn decode_flagged(number: u64, r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let flags = r.u8()?;
        let (first, second) = (flags & 1 != 0, flags & 2 != 0);
        Ok(match number {
            0 => Self::Handshake {
                custody: read_custody(r, first)?,
            },
            3 => Self::Connect {
                alias: r.u32()?,
                custody: read_custody(r, first)?,
                remote_public_key: r.fixed()?,
            },
            4 => Self::Connection {
                alias: r.u32()?,
                server_alias: r.u32()?,
                remote_public_key: r.fixed()?,
                handshake: read_handshaken(r, first)?,
            },
            9 => Self::Destroy {
                alias: given(first, || r.u32())?,
                remote_alias: given(!first, || r.u32())?,
                error: given(second, || Ok(r.string()?.into_owned()))?,
            },
            10 => Self::Listen {
                alias: r.u32()?,
                custody: read_custody(r, first)?,
            },
            14 => Self::Open {
                alias: r.u32()?,
                remote_alias: r.u32()?,
                handshake: read_handshaken(r, first)?,
            },
            20 => Self::Announce {
                id: r.u32()?,
                topic: r.fixed()?,
                custody: read_custody(r, first)?,
            },
            21 => Self::Unannounce {
                id: r.u32()?,
                topic: r.fixed()?,
                custody: read_custody(r, first)?,
            },
            25 => Self::NoiseSend {
                id: r.u32()?,
                remote_stream_alias: given(first, || r.u32())?,
                payload: read_buffer(r)?,
            },
            26 => Self::NoiseReceive {
                id: r.u32()?,
                server_alias: given(!first, || r.u32())?,
                payload: read_buffer(r)?,
            },
            _ => Self::NoiseReply {
                is_initiator: first,
                id: r.u32()?,
                payload: read_buffer(r)?,
                remote_public_key: given(!first && !second, || r.fixed())?,
                complete: given(second, || Ok((r.fixed()?, r.fixed()?)))?,
            },
        })
    }

    /// The message's bytes.
    pub fn encode(&self) -> Vec<u8> {
        encoded(|w| match self {
            Self::Ping | Self::Pong => {}
            Self::Connected { alias, remote_alias } => {
                w.u32(*alias).u32(*remote_alias);
            }
            Self::Incoming {
                id,
                server_alias,
                remote_public_key,
                payload,
            } => {
                w.u32(*id)
                    .u32(*server_alias)
                    .fixed(remote_public_key)
                    .buffer(payload);
            }
            Self::Deny { id } | Self::Accept { id } | Self::Finished { id } => {
                w.u32(*id);
            }
            Self::Close { alias } | Self::Closed { alias } | Self::End { alias } => {
                w.u32(*alias);
            }
            Self::Listening {
                alias,
                remote_alias,
                address,
            } => {
                w.u32(*alias).u32(*remote_alias);
                write_address(w, *address);
            }
            Self::Data { alias, data } => {
                w.u32(*alias).array_len(data.len());
                for part in data {
                    w.buffer(part);
                }
            }
            Self::Result { id, data } | Self::Signature { id, signature: data } => {
                w.u32(*id).buffer(data);
            }
            Self::Lookup { id, topic } => {
                w.u32(*id).fixed(topic);
            }
            Self::SignAnnounce(signee) | Self::SignUnannounce(signee) => write_signee(w, signee),
            flagged => flagged.encode_flagged(w),
        })
    }

    fn encode_flagged(&self, w: &mut Writer) {
        match self {
            Self::Handshake { custody } => write_custody(w.u8(custody.flag()), custody),
            Self::Connect {
                alias,
                custody,
                remote_public_key,
            } => {
                write_custody(w.u8(custody.flag()).u32(*alias), custody);
                w.fixed(remote_public_key);
            }
            Self::Connection {
                alias,
                server_alias,
                remote_public_key,
                handshake,
            } => {
                w.u8(handshake.flag())
                    .u32(*alias)
                    .u32(*server_alias)
                    .fixed(remote_public_key);
                write_handshaken(w, handshake);
            }
            Self::Destroy {
                alias,
                remote_alias,
                error,
            } => write_destroy(w, *alias, *remote_alias, error.as_deref()),
            Self::Listen { alias, custody } => write_custody(w.u8(custody.flag()).u32(*alias), custody),
            Self::Open {
                alias,
                remote_alias,
                handshake,
            } => {
                w.u8(handshake.flag()).u32(*alias).u32(*remote_alias);
                write_handshaken(w, handshake);
            }
            Self::Announce { id, topic, custody } | Self::Unannounce { id, topic, custody } => {
                write_custody(w.u8(custody.flag()).u32(*id).fixed(topic), custody);
            }
            Self::NoiseSend {
                id,
                remote_stream_alias: alias,
                payload,
            } => {
                write_noise(w, alias.is_some(), *id, *alias, payload);
            }
            Self::NoiseReceive {
                id,
                server_alias: alias,
                payload,
            } => {
                write_noise(w, alias.is_none(), *id, *alias, payload);
            }
            Self::NoiseReply {
                is_initiator,
                id,
                payload,
                remote_public_key,
                complete,
            } => {
                w.u8((flag(*is_initiator, 1) | flag(complete.is_some(), 2)) as u8);
                w.u32(*id).buffer(payload);
                if let Some((remote_id, secret)) = complete {
                    w.fixed(remote_id).fixed(secret);
                } else if let (false, Some(key)) = (is_initiator, remote_public_key) {
                    w.fixed(key);
                }
            }
            _ => {}
        }
    }
}

impl Custody {
    fn flag(&self) -> u8 {
        u8::from(self.secret_key.is_some())
    }
}

impl Handshaken {
    fn flag(self) -> u8 {
        u8::from(matches!(self, Self::Hash(_)))
    }
}

fn read_buffer(r: &mut Reader<'_>) -> Result<Bytes, DecodeError> {
    r.buffer().map(Bytes::copy_from_slice)
}

fn read_custody(r: &mut Reader<'_>, is_custodial: bool) -> Result<Custody, DecodeError> {
    Ok(Custody {
        public_key: r.fixed()?,
        secret_key: given(is_custodial, || r.fixed())?,
    })
}

fn write_custody(w: &mut Writer, custody: &Custody) {
    w.fixed(&custody.public_key);
    if let Some(secret_key) = &custody.secret_key {
        w.fixed(secret_key);
    }
}

fn read_handshaken(r: &mut Reader<'_>, is_custodial: bool) -> Result<Handshaken, DecodeError> {
    if is_custodial {
        r.fixed().map(Handshaken::Hash)
    } else {
        r.u32().map(Handshaken::Id)
    }
}

fn write_handshaken(w: &mut Writer, handshake: &Handshaken) {
    match handshake {
        Handshaken::Hash(hash) => {
            w.fixed(hash);
        }
        Handshaken::Id(id) => {
            w.u32(*id);
        }
    }
}

fn write_destroy(w: &mut Writer, alias: Option<u32>, remote_alias: Option<u32>, error: Option<&str>) {
    w.u8((flag(alias.is_some(), 1) | flag(error.is_some(), 2)) as u8);
    w.u32(alias.or(remote_alias).unwrap_or(0));
    if let Some(error) = error {
        w.string(error);
    }
}

fn write_noise(w: &mut Writer, is_initiator: bool, id: u32, alias: Option<u32>, payload: &Bytes) {
    w.u8(u8::from(is_initiator)).u32(id);
    if let Some(alias) = alias {
        w.u32(alias);
    }
    w.buffer(payload);
}

fn read_address(r: &mut Reader<'_>) -> Result<SocketAddrV4, DecodeError> {
    let host = Ipv4Addr::from(r.fixed::<4>()?);
    Ok(SocketAddrV4::new(host, r.u16()?))
}

fn write_address(w: &mut Writer, address: SocketAddrV4) {
    w.fixed(&address.ip().octets()).u16(address.port());
}

fn read_signee(r: &mut Reader<'_>) -> Result<Signee, DecodeError> {
    Ok(Signee {
        id: r.u32()?,
        signee: r.u32()?,
        token: r.fixed()?,
        peer_id: read_buffer(r)?,
        relay_addresses: array(r, 6, read_address)?,
    })
}

fn write_signee(w: &mut Writer, signee: &Signee) {
    w.u32(signee.id)
        .u32(signee.signee)
        .fixed(&signee.token)
        .buffer(&signee.peer_id);
    w.array_len(signee.relay_addresses.len());
    for address in &signee.relay_addresses {
        write_address(w, *address);
    }
}
