//! Frames on the raw byte stream: `u24 little endian length || that many bytes`.
//!
//! The reader never allocates by an announced length: it holds what has arrived, and refuses lengths above its limit.

use bytes::{Buf, BytesMut};

/// Bytes of the length in front of each frame.
pub(crate) const LENGTH_BYTES: usize = 3;
/// The largest body that the length can express.
pub const MAX_FRAME_BYTES: usize = 0xff_ffff;

/// A frame longer than the limit was announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooLong {
    pub(crate) announced: usize,
}

/// Cuts received bytes into frames.
#[derive(Debug, Default)]
pub(crate) struct FrameReader {
    buffer: BytesMut,
}

impl FrameReader {
    pub(crate) fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    pub(crate) fn buffered(&self) -> usize {
        self.buffer.len()
    }

    /// The whole length of a frame that has begun to arrive, its head included.
    pub(crate) fn announced(&self) -> Option<usize> {
        let &[a, b, c] = self.buffer.first_chunk::<LENGTH_BYTES>()?;
        Some(LENGTH_BYTES + u32::from_le_bytes([a, b, c, 0]) as usize)
    }

    /// The next whole frame's body, if it has arrived.
    pub(crate) fn next(&mut self, limit: usize) -> Result<Option<BytesMut>, TooLong> {
        let Some(&[a, b, c]) = self.buffer.first_chunk::<LENGTH_BYTES>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes([a, b, c, 0]) as usize;
        if length > limit {
            return Err(TooLong { announced: length });
        }
        if self.buffer.len() < LENGTH_BYTES + length {
            return Ok(None);
        }
        self.buffer.advance(LENGTH_BYTES);
        Ok(Some(self.buffer.split_to(length)))
    }
}

/// Appends a frame whose body is `body_bytes` zeros to `out`, and returns the body.
///
/// `body_bytes` is at most [`MAX_FRAME_BYTES`].
pub(crate) fn append(out: &mut BytesMut, body_bytes: usize) -> &mut [u8] {
    debug_assert!(
        body_bytes <= MAX_FRAME_BYTES,
        "frame bodies are checked by the callers"
    );
    let [a, b, c, ..] = body_bytes.to_le_bytes();
    out.reserve(LENGTH_BYTES + body_bytes);
    out.extend_from_slice(&[a, b, c]);
    let start = out.len();
    out.resize(start + body_bytes, 0);
    &mut out[start..]
}
