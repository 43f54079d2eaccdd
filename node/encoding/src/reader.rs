//! Reading: every method takes its bytes from the front of the slice or leaves the reader where it was.

use std::borrow::Cow;

use crate::{MAX_ARRAY_LEN, MAX_UINT};

/// Why bytes could not be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The message ends before the value does.
    #[error("out of bounds: the message is shorter than its content says")]
    OutOfBounds,
    /// An integer above 2^53 - 1.
    #[error("integer above 2^53 - 1")]
    IntegerTooLarge,
    /// An array announces more items than the protocol allows or the remaining bytes can hold.
    #[error("array is too big: {announced} items announced")]
    ArrayTooBig {
        /// Number of items the message announced.
        announced: u64,
    },
    /// The bytes are well formed, but a value in them is outside the protocol.
    #[error("invalid value: {0}")]
    Invalid(&'static str),
}

/// Decodes compact-encoding from the front of a slice.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the front of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// Number of bytes not read yet.
    pub fn remaining(&self) -> usize {
        self.bytes.len()
    }

    /// Whether all bytes were read.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Takes the next `length` bytes, without a length prefix.
    pub fn take(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self
            .bytes
            .split_at_checked(length)
            .ok_or(DecodeError::OutOfBounds)?;
        self.bytes = rest;
        Ok(taken)
    }

    /// Takes all remaining bytes (codec `raw`).
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.bytes)
    }

    /// Takes the next `N` bytes as an array (codecs `fixed32`, `fixed64`).
    pub fn fixed<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self
            .bytes
            .split_first_chunk::<N>()
            .ok_or(DecodeError::OutOfBounds)?;
        self.bytes = rest;
        Ok(*taken)
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        self.fixed::<1>().map(|[byte]| byte)
    }

    /// Two bytes, little endian.
    pub fn u16(&mut self) -> Result<u16, DecodeError> {
        self.fixed().map(u16::from_le_bytes)
    }

    /// Four bytes, little endian.
    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        self.fixed().map(u32::from_le_bytes)
    }

    /// Eight bytes, little endian, at most 2^53 - 1.
    pub fn u64(&mut self) -> Result<u64, DecodeError> {
        let before = self.bytes;
        let value = self.u64_any()?;
        if value > MAX_UINT {
            self.bytes = before;
            return Err(DecodeError::IntegerTooLarge);
        }
        Ok(value)
    }

    /// Eight bytes, little endian, with all 64 bits (codec `biguint64`).
    pub fn u64_any(&mut self) -> Result<u64, DecodeError> {
        self.fixed().map(u64::from_le_bytes)
    }

    /// `bytes` (at most 7) bytes, little endian: the codecs `uint24`, `uint40`, `uint48`, `uint56`. The result
    /// of seven bytes is still held to 2^53 - 1.
    pub fn uint_of(&mut self, bytes: usize) -> Result<u64, DecodeError> {
        if bytes > 7 {
            return Err(DecodeError::Invalid("integer width above seven bytes"));
        }
        let before = self.bytes;
        let mut wide = [0; 8];
        wide[..bytes].copy_from_slice(self.take(bytes)?);
        let value = u64::from_le_bytes(wide);
        if value > MAX_UINT {
            self.bytes = before;
            return Err(DecodeError::IntegerTooLarge);
        }
        Ok(value)
    }

    /// Variable-width unsigned integer: 1, 3, 5 or 9 bytes, at most 2^53 - 1. Forms longer than needed are
    /// accepted, as JS does.
    pub fn uint(&mut self) -> Result<u64, DecodeError> {
        let before = self.bytes;
        let value = match self.u8()? {
            0xfd => self.u16().map(u64::from),
            0xfe => self.u32().map(u64::from),
            0xff => self.u64(),
            small => return Ok(u64::from(small)),
        };
        if value.is_err() {
            self.bytes = before;
        }
        value
    }

    /// Zigzag signed integer: even codes are `n / 2`, odd codes `-(n + 1) / 2`.
    pub fn int(&mut self) -> Result<i64, DecodeError> {
        let code = self.uint()?;
        // Below 2^53, so both halves fit an i64 without loss.
        let half = (code >> 1).cast_signed();
        Ok(if code & 1 == 0 { half } else { -half - 1 })
    }

    /// One byte; true only if it is 1.
    pub fn bool(&mut self) -> Result<bool, DecodeError> {
        self.u8().map(|byte| byte == 1)
    }

    /// A length and that many bytes; a length of zero is an empty buffer.
    pub fn buffer(&mut self) -> Result<&'a [u8], DecodeError> {
        let before = self.bytes;
        let length = self.uint()?;
        let taken = usize::try_from(length)
            .map_err(|_| DecodeError::OutOfBounds)
            .and_then(|length| self.take(length));
        if taken.is_err() {
            self.bytes = before;
        }
        taken
    }

    /// As [`Reader::buffer`], but a length of zero means that there is none.
    pub fn optional_buffer(&mut self) -> Result<Option<&'a [u8]>, DecodeError> {
        self.buffer().map(|bytes| (!bytes.is_empty()).then_some(bytes))
    }

    /// A length and that many bytes of UTF-8. Invalid sequences become U+FFFD, as in JS.
    pub fn string(&mut self) -> Result<Cow<'a, str>, DecodeError> {
        self.buffer().map(String::from_utf8_lossy)
    }

    /// A length-prefixed message inside this one (codec `frame`), as a reader of its own.
    pub fn frame(&mut self) -> Result<Reader<'a>, DecodeError> {
        self.buffer().map(Reader::new)
    }

    /// The item count of an array whose items take at least `min_item_bytes` each. Refuses counts above
    /// [`MAX_ARRAY_LEN`] and counts that the remaining bytes cannot hold, so the result is safe to reserve by.
    pub fn array_len(&mut self, min_item_bytes: usize) -> Result<usize, DecodeError> {
        let before = self.bytes;
        let announced = self.uint()?;
        let needed = announced.saturating_mul(min_item_bytes as u64);
        if announced > MAX_ARRAY_LEN {
            self.bytes = before;
            return Err(DecodeError::ArrayTooBig { announced });
        }
        if needed > self.bytes.len() as u64 {
            self.bytes = before;
            return Err(DecodeError::OutOfBounds);
        }
        Ok(announced as usize)
    }

    /// A word count and that many 32-bit little-endian words (codec `uint32array`). The bytes may be unaligned.
    pub fn words(&mut self) -> Result<impl ExactSizeIterator<Item = u32> + use<'a>, DecodeError> {
        let before = self.bytes;
        let taken = self.uint().and_then(|count| {
            let bytes = count.checked_mul(4).and_then(|bytes| usize::try_from(bytes).ok());
            self.take(bytes.ok_or(DecodeError::OutOfBounds)?)
        });
        if taken.is_err() {
            self.bytes = before;
        }
        let (words, _) = taken?.as_chunks::<4>();
        Ok(words.iter().map(|word| u32::from_le_bytes(*word)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_read_leaves_the_reader_where_it_was() {
        for bytes in [
            &b"\xfd\x01"[..],
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\x05ab",
            b"\xfe\x01\x00\x10\x00",
        ] {
            let mut reader = Reader::new(bytes);
            assert!(reader.buffer().is_err());
            assert!(reader.array_len(1).is_err());
            assert!(reader.words().is_err());
            assert_eq!(reader.remaining(), bytes.len());
        }
    }

    #[test]
    fn an_array_count_is_bounded_by_the_bytes_that_are_left() {
        assert_eq!(Reader::new(&[2, 0, 0]).array_len(1), Ok(2));
        assert_eq!(
            Reader::new(&[3, 0, 0]).array_len(1),
            Err(DecodeError::OutOfBounds)
        );
        assert_eq!(
            Reader::new(&[2, 0, 0]).array_len(usize::MAX),
            Err(DecodeError::OutOfBounds)
        );
        assert_eq!(Reader::new(&[252]).array_len(0), Ok(252));
    }

    #[test]
    fn invalid_utf8_reads_as_replacement_characters() {
        assert_eq!(Reader::new(b"\x03a\xffb").string().unwrap(), "a\u{fffd}b");
    }
}
