//! The few parts of the protocol-buffers wire format that Hyperbee uses: varints, length-delimited fields, packed lists.
//!
//! Groups (wire types 3 and 4) are skipped without nesting, as no Hyperbee message has them: an unknown field of
//! such a type is refused. No length is trusted before it is compared with the bytes left.

use bytes::{BufMut, Bytes, BytesMut};

/// Largest integer the format can carry: JS numbers are exact up to here.
const MAX_INTEGER: u64 = (1 << 53) - 1;

/// Why bytes are not a Hyperbee message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A length or a number runs past the end of the message.
    #[error("the message ends inside a field")]
    OutOfBounds,
    /// A number above 2^53 - 1, or a varint of more than ten bytes.
    #[error("a number is larger than 2^53 - 1")]
    TooLarge,
    /// A known field has another wire type than the format gives it.
    #[error("field {field} has wire type {wire_type}")]
    WireType {
        /// Field number.
        field: u64,
        /// Wire type found.
        wire_type: u8,
    },
    /// A required field is missing.
    #[error("required field {field} is missing")]
    MissingField {
        /// Field number.
        field: u64,
    },
    /// A text field is not UTF-8.
    #[error("field {field} is not UTF-8")]
    BadText {
        /// Field number.
        field: u64,
    },
    /// A list of children is not pairs.
    #[error("the list of children has an odd length")]
    OddChildren,
}

/// One field's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    /// Wire type 0.
    Varint(u64),
    /// Wire type 2.
    Bytes(&'a [u8]),
    /// Wire types 1 and 5: fixed-width numbers, which no Hyperbee message uses.
    Fixed(u8),
}

impl<'a> Value<'a> {
    pub(crate) fn bytes(self, field: u64) -> Result<&'a [u8], DecodeError> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::Varint(_) => Err(DecodeError::WireType { field, wire_type: 0 }),
            Self::Fixed(wire_type) => Err(DecodeError::WireType { field, wire_type }),
        }
    }

    pub(crate) fn varint(self, field: u64) -> Result<u64, DecodeError> {
        match self {
            Self::Varint(value) => Ok(value),
            Self::Bytes(_) => Err(DecodeError::WireType { field, wire_type: 2 }),
            Self::Fixed(wire_type) => Err(DecodeError::WireType { field, wire_type }),
        }
    }

    /// Appends the numbers of a packed list.
    pub(crate) fn unpack(mut packed: &[u8], out: &mut Vec<u64>) -> Result<(), DecodeError> {
        while !packed.is_empty() {
            out.push(read_varint(&mut packed)?);
        }
        Ok(())
    }
}

/// The fields of one message, in the order they are written.
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(crate) fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    /// The next field's number and value, or none at the end.
    pub(crate) fn next(&mut self) -> Result<Option<(u64, Value<'a>)>, DecodeError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let prefix = read_varint(&mut self.rest)?;
        let (field, wire_type) = (prefix >> 3, (prefix & 7) as u8);
        let value = match wire_type {
            0 => Value::Varint(read_varint(&mut self.rest)?),
            1 => self.take(8).map(|_| Value::Fixed(1))?,
            2 => {
                let length = read_varint(&mut self.rest)?;
                Value::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_| Value::Fixed(5))?,
            _ => return Err(DecodeError::WireType { field, wire_type }),
        };
        Ok(Some((field, value)))
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], DecodeError> {
        let length = usize::try_from(length).map_err(|_| DecodeError::OutOfBounds)?;
        let (taken, rest) = self
            .rest
            .split_at_checked(length)
            .ok_or(DecodeError::OutOfBounds)?;
        self.rest = rest;
        Ok(taken)
    }
}

fn read_varint(input: &mut &[u8]) -> Result<u64, DecodeError> {
    let mut value = 0_u64;
    for shift in (0..).step_by(7) {
        let (&byte, rest) = input.split_first().ok_or(DecodeError::OutOfBounds)?;
        *input = rest;
        let bits = u64::from(byte & 0x7f);
        // Zero bits above the limit are only a long way to write a small number; JS reads up to ten bytes.
        if shift >= 70 || (bits != 0 && (shift >= 56 || bits << shift > MAX_INTEGER)) {
            return Err(DecodeError::TooLarge);
        }
        if bits != 0 {
            value |= bits << shift;
        }
        if byte & 0x80 == 0 {
            break;
        }
    }
    if value > MAX_INTEGER {
        Err(DecodeError::TooLarge)
    } else {
        Ok(value)
    }
}

/// Writes one message.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    out: BytesMut,
}

/// Bytes of a number on the wire.
pub(crate) fn varint_length(value: u64) -> u64 {
    u64::from((64 - value.leading_zeros()).max(1).div_ceil(7))
}

/// Bytes of a field with a number below 16 and `length` bytes in it.
pub(crate) fn field_length(length: u64) -> u64 {
    1 + varint_length(length) + length
}

impl Writer {
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        Self {
            out: BytesMut::with_capacity(bytes),
        }
    }

    /// What stands before the bytes of a field.
    pub(crate) fn prefix(&mut self, field: u64, length: u64) {
        self.raw_varint(field << 3 | 2);
        self.raw_varint(length);
    }

    pub(crate) fn raw_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.out.put_u8((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.out.put_u8(value as u8);
    }

    pub(crate) fn varint(&mut self, field: u64, value: u64) {
        self.raw_varint(field << 3);
        self.raw_varint(value);
    }

    pub(crate) fn bytes(&mut self, field: u64, value: &[u8]) {
        self.prefix(field, value.len() as u64);
        self.out.put_slice(value);
    }

    pub(crate) fn optional_bytes(&mut self, field: u64, value: Option<&[u8]>) {
        if let Some(value) = value {
            self.bytes(field, value);
        }
    }

    /// A packed list, left out when empty.
    pub(crate) fn packed(&mut self, field: u64, values: impl Iterator<Item = u64>) {
        let mut list = Self::default();
        values.for_each(|value| list.raw_varint(value));
        if !list.out.is_empty() {
            self.bytes(field, &list.out);
        }
    }

    pub(crate) fn finish(self) -> Bytes {
        self.out.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_up_to_the_limit_survive_and_larger_ones_are_refused() {
        for value in [0, 1, 127, 128, 16_383, 16_384, u64::from(u32::MAX), MAX_INTEGER] {
            let mut writer = Writer::default();
            writer.raw_varint(value);
            let bytes = writer.finish();
            assert_eq!(varint_length(value), bytes.len() as u64);
            let mut input = bytes.as_ref();
            assert_eq!(read_varint(&mut input), Ok(value));
            assert!(input.is_empty());
        }
        for value in [MAX_INTEGER + 1, u64::MAX] {
            let mut writer = Writer::default();
            writer.raw_varint(value);
            assert_eq!(
                read_varint(&mut writer.finish().as_ref()),
                Err(DecodeError::TooLarge)
            );
        }
        assert_eq!(read_varint(&mut &[0xff_u8; 20][..]), Err(DecodeError::TooLarge));
        assert_eq!(read_varint(&mut &[0x80_u8; 20][..]), Err(DecodeError::TooLarge));
        assert_eq!(read_varint(&mut &[0x80_u8][..]), Err(DecodeError::OutOfBounds));
    }
}
