//! What goes out: frames, and batches under construction.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use cumulet_encoding::{buffer_len, uint_len};

/// The largest frame that is built: the largest message of a secret stream.
pub const FRAME_LIMIT_BYTES: usize = 16_777_198;
/// A batch that has reached this is closed before the next message, as in JavaScript.
const BATCH_FLUSH_BYTES: usize = 8 * 1024 * 1024;
/// Most bytes that an item can add in front of its payload: a channel switch (1 + 9), its length (9), its type (9).
const ITEM_HEAD_BYTES: usize = 28;

/// The message is larger than a frame; it was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("failed to send message: {bytes} bytes are more than a frame holds")]
pub struct SendError {
    /// The message's size in bytes.
    pub bytes: usize,
}

struct Batch {
    frame: BytesMut,
    /// The channel of the last item; none yet in an empty batch.
    current: Option<u64>,
}

#[derive(Default)]
pub(crate) struct Output {
    frames: VecDeque<Bytes>,
    queued_bytes: usize,
    corked: usize,
    batch: Option<Batch>,
}

impl Output {
    pub(crate) fn cork(&mut self) {
        self.corked += 1;
    }

    pub(crate) fn uncork(&mut self) {
        self.corked = self.corked.saturating_sub(1);
        if self.corked == 0 {
            self.flush_batch();
        }
    }

    pub(crate) fn pop(&mut self) -> Option<Bytes> {
        let frame = self.frames.pop_front()?;
        self.queued_bytes -= frame.len();
        Some(frame)
    }

    pub(crate) fn queued_bytes(&self) -> usize {
        self.queued_bytes + self.batch.as_ref().map_or(0, |batch| batch.frame.len())
    }

    /// Appends a message whose payload lies in `parts`.
    pub(crate) fn push(&mut self, channel: u64, kind: u64, parts: &[&[u8]]) -> Result<(), SendError> {
        let payload = parts.iter().map(|part| part.len()).sum::<usize>();
        if uint_len(channel) + uint_len(kind) + payload > FRAME_LIMIT_BYTES {
            return Err(SendError { bytes: payload });
        }
        let full = |frame: usize| {
            frame >= BATCH_FLUSH_BYTES || frame + ITEM_HEAD_BYTES + payload > FRAME_LIMIT_BYTES
        };
        if self.batch.as_ref().is_some_and(|batch| full(batch.frame.len())) {
            self.flush_batch();
        }
        if self.corked == 0 || payload + 2 * ITEM_HEAD_BYTES > FRAME_LIMIT_BYTES {
            let mut frame = BytesMut::with_capacity(ITEM_HEAD_BYTES + payload);
            put_uint(&mut frame, channel);
            put_uint(&mut frame, kind);
            for part in parts {
                frame.extend_from_slice(part);
            }
            self.push_frame(frame);
        } else {
            let batch = self.batch.get_or_insert_with(|| Batch {
                frame: BytesMut::from(&[0, 0][..]),
                current: None,
            });
            batch.frame.reserve(ITEM_HEAD_BYTES + payload);
            match batch.current {
                Some(current) if current == channel => {}
                Some(_) => {
                    put_uint(&mut batch.frame, 0);
                    put_uint(&mut batch.frame, channel);
                }
                None => put_uint(&mut batch.frame, channel),
            }
            batch.current = Some(channel);
            put_uint(&mut batch.frame, (uint_len(kind) + payload) as u64);
            put_uint(&mut batch.frame, kind);
            for part in parts {
                batch.frame.extend_from_slice(part);
            }
        }
        Ok(())
    }

    pub(crate) fn flush_batch(&mut self) {
        if let Some(batch) = self.batch.take() {
            self.push_frame(batch.frame);
        }
    }

    fn push_frame(&mut self, frame: BytesMut) {
        self.queued_bytes += frame.len();
        self.frames.push_back(frame.freeze());
    }
}

fn put_uint(out: &mut BytesMut, value: u64) {
    match uint_len(value) {
        1 => out.extend_from_slice(&[value as u8]),
        3 => {
            out.extend_from_slice(&[0xfd]);
            out.extend_from_slice(&(value as u16).to_le_bytes());
        }
        5 => {
            out.extend_from_slice(&[0xfe]);
            out.extend_from_slice(&(value as u32).to_le_bytes());
        }
        _ => {
            out.extend_from_slice(&[0xff]);
            out.extend_from_slice(&value.to_le_bytes());
        }
    }
}

/// The payload of an Open.
pub(crate) fn encode_open(local_id: u64, protocol: &str, id: &[u8], handshake: &[u8]) -> BytesMut {
    let bytes = uint_len(local_id) + buffer_len(protocol.len()) + buffer_len(id.len()) + handshake.len();
    let mut out = BytesMut::with_capacity(bytes);
    put_uint(&mut out, local_id);
    put_uint(&mut out, protocol.len() as u64);
    out.extend_from_slice(protocol.as_bytes());
    put_uint(&mut out, id.len() as u64);
    out.extend_from_slice(id);
    out.extend_from_slice(handshake);
    out
}

/// The payload of a Reject or a Close.
pub(crate) fn encode_id(id: u64) -> BytesMut {
    let mut out = BytesMut::with_capacity(9);
    put_uint(&mut out, id);
    out
}
