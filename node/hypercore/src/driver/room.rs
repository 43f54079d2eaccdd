//! Memory that all connections of one store share, so that what hostile peers cost does not grow with their number.
//!
//! Each connection has a little of its own, with which it always gets on. What is more comes out of a common room: output that
//! waits for a slow transport, and frames that are large. A large frame gets its room whole, before its bytes are read, so that
//! whoever has room can finish; a peer that sends it too slowly while others wait is given up.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};

/// Encrypted bytes that may wait for the transport before blocks for it are read: enough to keep a long path busy between two
/// turns of the loop.
pub(crate) const OUTPUT_BUDGET_BYTES: usize = 4 << 20;
/// What of it each connection has for itself: a turn's worth on a short path.
const OWN_OUTPUT_BYTES: usize = 32 << 10;
/// What all connections may have waiting beyond that: one at full speed on a long path and some on shorter ones.
const SHARED_OUTPUT_BYTES: usize = 5 << 20;
/// Frames up to this size need no room: those of all usual blocks.
const OWN_INPUT_BYTES: usize = 128 << 10;
/// What all larger frames that are being received may take: one of the largest, and some of usual large blocks.
const SHARED_INPUT_BYTES: u32 = 20 << 20;
/// How long a peer may take for a large frame, however slow it is.
const GRACE: Duration = Duration::from_secs(5);
/// How fast it must be after that, in bytes per second since it got the room, while others wait.
const SLOWEST: u64 = 64 << 10;

/// The common room of a store's connections.
#[derive(Debug)]
pub(crate) struct Room {
    output: AtomicUsize,
    input: Arc<Semaphore>,
    /// Connections that wait for input room.
    waiting: AtomicUsize,
}

impl Default for Room {
    fn default() -> Self {
        Self {
            output: AtomicUsize::new(0),
            input: Arc::new(Semaphore::new(SHARED_INPUT_BYTES as usize)),
            waiting: AtomicUsize::new(0),
        }
    }
}

/// A large frame that has room.
#[derive(Debug)]
struct Frame {
    since: Instant,
    /// Whether all of it is there. It keeps its room until its messages are handled.
    is_whole: bool,
    _room: OwnedSemaphorePermit,
}

/// What one connection has of the room; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Share {
    room: Arc<Room>,
    output: usize,
    frame: Option<Frame>,
    waits: bool,
}

impl Share {
    pub(super) fn new(room: Arc<Room>) -> Self {
        Self {
            room,
            output: 0,
            frame: None,
            waits: false,
        }
    }

    /// Whether more may be added to the output when `pending` bytes of it wait.
    pub(super) fn has_output_room(&mut self, pending: usize) -> bool {
        let shared = pending.saturating_sub(OWN_OUTPUT_BYTES);
        let before = std::mem::replace(&mut self.output, shared);
        if shared > before {
            self.room.output.fetch_add(shared - before, Ordering::Relaxed);
        } else if before > shared {
            self.room.output.fetch_sub(before - shared, Ordering::Relaxed);
        }
        let is_room_free = || self.room.output.load(Ordering::Relaxed) < SHARED_OUTPUT_BYTES;
        pending < OWN_OUTPUT_BYTES || (pending < OUTPUT_BUDGET_BYTES && is_room_free())
    }

    /// Whether the rest of an unfinished frame, of this many bytes in all, may be received.
    pub(super) fn has_input_room(&mut self, frame: Option<usize>, now: Instant) -> bool {
        let Some(bytes) = frame.filter(|bytes| *bytes > OWN_INPUT_BYTES) else {
            self.frame.take_if(|frame| !frame.is_whole);
            self.set_waiting(false);
            return true;
        };
        if self.frame.as_ref().is_some_and(|frame| frame.is_whole) {
            return false;
        }
        if self.frame.is_none() {
            let bytes =
                u32::try_from(bytes).map_or(SHARED_INPUT_BYTES, |bytes| bytes.min(SHARED_INPUT_BYTES));
            match self.room.input.clone().try_acquire_many_owned(bytes) {
                Ok(room) => {
                    self.frame = Some(Frame {
                        since: now,
                        is_whole: false,
                        _room: room,
                    });
                }
                Err(TryAcquireError::NoPermits | TryAcquireError::Closed) => {}
            }
        }
        self.set_waiting(self.frame.is_none());
        self.frame.is_some()
    }

    /// A frame has been received.
    pub(super) fn on_frame(&mut self) {
        if let Some(frame) = &mut self.frame {
            frame.is_whole = true;
        }
    }

    /// All messages of received frames have been handled.
    pub(super) fn on_handled(&mut self) {
        self.frame.take_if(|frame| frame.is_whole);
    }

    /// Whether the peer takes too long for a large frame of which `received` bytes are there, while others wait for its room.
    pub(super) fn is_too_slow(&self, received: usize, now: Instant) -> bool {
        let Some(frame) = self.frame.as_ref().filter(|frame| !frame.is_whole) else {
            return false;
        };
        let taken = now.saturating_duration_since(frame.since);
        let others_wait = self.room.waiting.load(Ordering::Relaxed) > 0;
        others_wait && taken > GRACE && (received as u64) < SLOWEST * taken.as_secs()
    }

    fn set_waiting(&mut self, waits: bool) {
        match (std::mem::replace(&mut self.waits, waits), waits) {
            (false, true) => drop(self.room.waiting.fetch_add(1, Ordering::Relaxed)),
            (true, false) => drop(self.room.waiting.fetch_sub(1, Ordering::Relaxed)),
            _ => {}
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set_waiting(false);
        self.room.output.fetch_sub(self.output, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_beyond_a_connections_own_comes_out_of_what_all_share_and_goes_back() {
        let room = Arc::new(Room::default());
        let mut hoarders: Vec<Share> = (0..2).map(|_| Share::new(room.clone())).collect();
        for hoarder in &mut hoarders {
            assert!(hoarder.has_output_room(OWN_OUTPUT_BYTES));
            hoarder.has_output_room(OUTPUT_BUDGET_BYTES);
        }
        let mut honest = Share::new(room.clone());
        assert!(honest.has_output_room(OWN_OUTPUT_BYTES - 1) && !honest.has_output_room(OWN_OUTPUT_BYTES));
        hoarders.pop();
        assert!(honest.has_output_room(OWN_OUTPUT_BYTES));
        assert!(!honest.has_output_room(OUTPUT_BUDGET_BYTES));
        drop((hoarders, honest));
        assert_eq!(room.output.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn large_frames_wait_for_room_small_ones_do_not_and_the_slow_one_that_has_it_gives_way() {
        let room = Arc::new(Room::default());
        let (mut slow, mut next) = (Share::new(room.clone()), Share::new(room.clone()));
        let now = Instant::now();
        let later = now + Duration::from_secs(10);
        assert!(slow.has_input_room(Some(16 << 20), now));
        assert!(!slow.is_too_slow(1000, later), "nobody waits");
        assert!(!next.has_input_room(Some(16 << 20), now));
        assert!(next.has_input_room(Some(OWN_INPUT_BYTES), now) && !slow.is_too_slow(1000, later));
        assert!(!next.has_input_room(Some(16 << 20), now));
        assert!(slow.is_too_slow(1000, later) && !slow.is_too_slow(2 << 20, later));
        drop(slow);
        assert!(next.has_input_room(Some(16 << 20), later));
        next.on_frame();
        assert_eq!(room.input.available_permits(), 4 << 20);
        next.on_handled();
        assert_eq!(room.input.available_permits(), SHARED_INPUT_BYTES as usize);
    }
}
