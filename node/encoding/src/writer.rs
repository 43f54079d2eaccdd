//! Writing: always the shortest form.

use crate::MAX_UINT;

/// Bytes that [`Writer::uint`] takes for `value`.
pub fn uint_len(value: u64) -> usize {
    match value {
        0..=0xfc => 1,
        0xfd..=0xffff => 3,
        0x1_0000..=0xffff_ffff => 5,
        _ => 9,
    }
}

/// Bytes that [`Writer::buffer`] takes for a buffer of `length` bytes.
pub fn buffer_len(length: usize) -> usize {
    uint_len(length as u64) + length
}

/// Encodes compact-encoding at the end of a vector. Methods return the writer, so that fields can be chained.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// An empty writer.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty writer with room for `bytes` bytes.
    pub fn with_capacity(bytes: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(bytes),
        }
    }

    /// Number of bytes written.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// What was written.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes
    }

    /// The vector with what was written.
    pub fn into_vec(self) -> Vec<u8> {
        self.bytes
    }

    /// Bytes as they are, without a length (codecs `raw`, `fixed32`, `fixed64`).
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// `N` bytes as they are.
    pub fn fixed<const N: usize>(&mut self, bytes: &[u8; N]) -> &mut Self {
        self.raw(bytes)
    }

    /// One byte.
    pub fn u8(&mut self, value: u8) -> &mut Self {
        self.bytes.push(value);
        self
    }

    /// Two bytes, little endian.
    pub fn u16(&mut self, value: u16) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    /// Four bytes, little endian.
    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    /// Eight bytes, little endian. All 64 bits are written; a reader refuses values above 2^53 - 1 unless it
    /// asks for `u64_any`.
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    /// The lowest `bytes` (at most 8) bytes of `value`, little endian: `uint24`, `uint40`, `uint48`, `uint56`.
    pub fn uint_of(&mut self, bytes: usize, value: u64) -> &mut Self {
        self.raw(&value.to_le_bytes()[..bytes.min(8)])
    }

    /// Variable-width unsigned integer, shortest form. Values above 2^53 - 1 are outside the protocols and a
    /// mistake of the caller: every value that came through a reader is below.
    pub fn uint(&mut self, value: u64) -> &mut Self {
        debug_assert!(value <= MAX_UINT, "{value} is above 2^53 - 1");
        match value {
            0..=0xfc => self.u8(value as u8),
            0xfd..=0xffff => self.u8(0xfd).u16(value as u16),
            0x1_0000..=0xffff_ffff => self.u8(0xfe).u32(value as u32),
            _ => self.u8(0xff).u64(value),
        }
    }

    /// Zigzag signed integer.
    pub fn int(&mut self, value: i64) -> &mut Self {
        self.uint(((value << 1) ^ (value >> 63)).cast_unsigned())
    }

    /// One byte, 1 or 0.
    pub fn bool(&mut self, value: bool) -> &mut Self {
        self.u8(u8::from(value))
    }

    /// A length and the bytes.
    pub fn buffer(&mut self, bytes: &[u8]) -> &mut Self {
        self.uint(bytes.len() as u64).raw(bytes)
    }

    /// As [`Writer::buffer`]; none is a length of zero, which reads back as none (an empty buffer does too).
    pub fn optional_buffer(&mut self, bytes: Option<&[u8]>) -> &mut Self {
        self.buffer(bytes.unwrap_or_default())
    }

    /// A length in bytes and the UTF-8.
    pub fn string(&mut self, text: &str) -> &mut Self {
        self.buffer(text.as_bytes())
    }

    /// The item count of an array; the items follow.
    pub fn array_len(&mut self, items: usize) -> &mut Self {
        self.uint(items as u64)
    }

    /// A word count and the words, 32-bit little endian (codec `uint32array`).
    pub fn words(&mut self, words: &[u32]) -> &mut Self {
        self.array_len(words.len());
        self.bytes.reserve(words.len() * 4);
        for word in words {
            self.u32(*word);
        }
        self
    }

    /// A message with its length in front (codec `frame`).
    pub fn frame(&mut self, write: impl FnOnce(&mut Writer)) -> &mut Self {
        let mut inner = Writer::new();
        write(&mut inner);
        self.buffer(&inner.bytes)
    }
}
