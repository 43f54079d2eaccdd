//! The UDX packet: a 20 byte header, then selective-ack blocks or padding, then payload.
//!
//! ```text
//! 0 magic 0xff | 1 version 1 | 2 flags | 3 data offset | 4 stream id | 8 window | 12 seq | 16 ack | 20 …
//! ```
//! Integers are little endian. The stream id is the receiver's. Decoding borrows the datagram, allocates nothing
//! and accepts whatever libudx accepts; what is no UDX packet is somebody else's datagram on the same socket.

/// Bytes of the header.
pub const HEADER_LEN: usize = 20;
/// First byte of every packet.
pub const MAGIC: u8 = 0xff;
/// Second byte of every packet.
pub const VERSION: u8 = 1;
/// Most selective-ack blocks that are sent in one packet, as libudx: with the header they fit the smallest MTU.
pub const MAX_SACK_BLOCKS: usize = 50;
const SACK_BLOCK_LEN: usize = 8;

/// What a packet carries: a bit set. Unknown bits are kept and ignored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub u8);

impl Flags {
    /// A plain acknowledgement.
    pub const ACK: Self = Self(0);
    /// Stream bytes; consumes a sequence number.
    pub const DATA: Self = Self(1);
    /// The sender's last packet; consumes a sequence number.
    pub const END: Self = Self(2);
    /// Selective-ack blocks follow the header.
    pub const SACK: Self = Self(4);
    /// One unreliable message.
    pub const MESSAGE: Self = Self(8);
    /// The sender is gone.
    pub const DESTROY: Self = Self(16);
    /// Asks for an acknowledgement.
    pub const HEARTBEAT: Self = Self(32);

    /// Whether any bit of `other` is set.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Both sets together.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The fixed part of a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// What it carries.
    pub flags: Flags,
    /// Bytes between the header and the payload: padding of an MTU probe, or selective-ack blocks.
    pub data_offset: u8,
    /// The receiver's id for the stream.
    pub stream_id: u32,
    /// Bytes the sender is ready to receive.
    pub window: u32,
    /// Number of this packet, or the next number the sender would use.
    pub seq: u32,
    /// The next number the sender expects.
    pub ack: u32,
}

impl Header {
    /// The 20 bytes of the header.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[0] = MAGIC;
        bytes[1] = VERSION;
        bytes[2] = self.flags.0;
        bytes[3] = self.data_offset;
        bytes[4..8].copy_from_slice(&self.stream_id.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.window.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.seq.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.ack.to_le_bytes());
        bytes
    }
}

/// Why a datagram is no usable packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Too short, another magic byte or version: the datagram belongs to someone else (the DHT).
    #[error("failed to decode packet: it is not a UDX packet")]
    NotUdx,
    /// The data offset points past the end: a UDX packet, to be dropped.
    #[error("failed to decode packet: the data offset points past its end")]
    DataOffset,
}

/// A decoded packet; borrows the datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// The fixed part.
    pub header: Header,
    /// Selective-ack blocks; empty without [`Flags::SACK`].
    pub sacks: SackBlocks<'a>,
    /// Stream bytes or the message; empty in every other packet.
    pub payload: &'a [u8],
}

impl<'a> Packet<'a> {
    /// Decodes a datagram.
    pub fn decode(datagram: &'a [u8]) -> Result<Self, DecodeError> {
        let header = decode_header(datagram).ok_or(DecodeError::NotUdx)?;
        let rest = datagram.get(HEADER_LEN..).unwrap_or_default();
        let offset = usize::from(header.data_offset);
        if offset > rest.len() {
            return Err(DecodeError::DataOffset);
        }
        let sacks = if header.flags.has(Flags::SACK) {
            // A pure ack leaves the offset 0 and its blocks fill the packet.
            let area = if offset > 0 && offset < rest.len() {
                &rest[..offset]
            } else {
                rest
            };
            SackBlocks(area)
        } else {
            SackBlocks(&[])
        };
        let payload = if header.flags.has(Flags::DATA.with(Flags::MESSAGE)) {
            &rest[offset..]
        } else {
            &[]
        };
        Ok(Self {
            header,
            sacks,
            payload,
        })
    }
}

/// The stream id of a datagram, if it looks like a UDX packet.
pub fn stream_id(datagram: &[u8]) -> Option<u32> {
    decode_header(datagram).map(|header| header.stream_id)
}

/// Replaces the stream id, as a relay does. A datagram too short to be a packet is left alone.
pub fn rewrite_stream_id(datagram: &mut [u8], id: u32) {
    if let Some(field) = datagram.get_mut(4..8) {
        field.copy_from_slice(&id.to_le_bytes());
    }
}

fn decode_header(datagram: &[u8]) -> Option<Header> {
    let bytes: &[u8; HEADER_LEN] = datagram.first_chunk()?;
    let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    (bytes[0] == MAGIC && bytes[1] == VERSION).then(|| Header {
        flags: Flags(bytes[2]),
        data_offset: bytes[3],
        stream_id: word(4),
        window: word(8),
        seq: word(12),
        ack: word(16),
    })
}

/// Half-open ranges `[start, end)` of sequence numbers that the sender holds out of order, straight from the wire:
/// nothing about them has been checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SackBlocks<'a>(&'a [u8]);

impl SackBlocks<'_> {
    /// The blocks in the packet's order. A trailing part of a block is ignored.
    pub fn iter(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.0.chunks_exact(SACK_BLOCK_LEN).map(|block| {
            let start = u32::from_le_bytes([block[0], block[1], block[2], block[3]]);
            let end = u32::from_le_bytes([block[4], block[5], block[6], block[7]]);
            (start, end)
        })
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.len() < SACK_BLOCK_LEN
    }
}

/// The 64-bit number nearest to `near` whose low 32 bits are `seq`: sequence arithmetic modulo 2^32 with a signed
/// difference, done once at the border so that the rest compares plain integers. `near` stays above 2^31 because
/// streams start counting at 2^32 + their initial number.
pub(crate) fn expand(seq: u32, near: u64) -> u64 {
    let difference = seq.wrapping_sub(near as u32).cast_signed();
    near.saturating_add_signed(i64::from(difference))
}

/// Where counting starts for an initial 32-bit number, see [`expand`].
pub(crate) const fn extended(initial: u32) -> u64 {
    (1 << 32) + initial as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequence_numbers_expand_to_the_nearest_number_across_the_wrap() {
        let near = (5 << 32) + 3;
        assert_eq!(expand(3, near), near);
        assert_eq!(expand(u32::MAX, near), near - 4);
        assert_eq!(expand(10, near - 8), near + 7);
        assert_eq!(
            expand(3 ^ 0x8000_0000, near),
            near - (1 << 31),
            "half way counts as older"
        );
    }

    #[test]
    fn a_data_offset_past_the_end_is_refused() {
        let mut packet = Header {
            data_offset: 1,
            flags: Flags::DATA,
            ..Header::default()
        }
        .encode()
        .to_vec();
        assert_eq!(Packet::decode(&packet), Err(DecodeError::DataOffset));
        packet.push(0);
        assert_eq!(Packet::decode(&packet).map(|p| p.payload.len()), Ok(0));
    }

    #[test]
    fn a_relayed_packet_differs_in_its_id_only() {
        let header = Header {
            stream_id: 7,
            seq: 9,
            ack: 11,
            window: 13,
            ..Header::default()
        };
        let mut packet = header.encode();
        rewrite_stream_id(&mut packet, 0xdead_beef);
        let decoded = Packet::decode(&packet).map(|p| p.header);
        assert_eq!(
            decoded,
            Ok(Header {
                stream_id: 0xdead_beef,
                ..header
            })
        );
    }
}
