//! The secret stream: messages in, bytes out, and back; sans-IO.
//!
//! Invariants: nothing is delivered that did not authenticate, in order; after an error the stream is dead and gives nothing more.
//! Time enters only through [`SecretStream::handle_timeout`]. It does not open or close transports: the end of the stream is the end
//! of the transport.

use std::time::{Duration, Instant};

use blake2::Blake2bMac;
use blake2::digest::consts::U32;
use blake2::digest::{FixedOutput, Mac, Update};
use bytes::{Buf, Bytes, BytesMut};
use zeroize::Zeroize;

use crate::cipher::{Cipher, HEADER_BYTES, MAC_BYTES, OVERHEAD_BYTES, TAG_BYTES};
use crate::frame::{self, FrameReader, MAX_FRAME_BYTES, TooLong};
use crate::noise::{Handshake, HandshakeResult, KeyPair, MAX_MESSAGE_BYTES, NoiseError};

/// The largest message: a frame less the cipher's overhead, 16,777,198 bytes.
pub const MAX_PLAINTEXT_BYTES: usize = MAX_FRAME_BYTES - OVERHEAD_BYTES;
/// How long a stream may be quiet before an empty message is sent. Hypercore and HyperDHT use the same.
pub const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// How long a peer may be silent before it counts as dead: six of its keep-alives, so that a lossy path does not look like death.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes of an unfinished frame that must arrive within [`IDLE_TIMEOUT`]: a path that carries less carries no block in any useful time.
pub const PROGRESS_BYTES: usize = 4096;

/// Keep-alives that are taken within half an interval of ours: an honest peer sends a handful.
pub const MAX_KEEP_ALIVES: u32 = 10_000;

const STREAM_ID_BYTES: usize = 32;
/// Ticks per keep-alive interval; a quiet stream sends after 1 to 1.5 intervals.
const TICKS_PER_KEEP_ALIVE: u32 = 2;

/// Why a stream died.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// The Noise handshake failed.
    #[error("failed to shake hands")]
    Handshake(#[from] NoiseError),
    /// The first frame after the handshake was not the header of this session's other side.
    #[error("failed to start stream: the header is not that of this session")]
    Header,
    /// A frame did not authenticate.
    #[error("failed to authenticate message")]
    Forged,
    /// A frame was announced that is longer than allowed at this point.
    #[error("failed to read frame: {announced} bytes announced, {limit} allowed")]
    FrameTooLong {
        /// What the frame's head says, in bytes.
        announced: usize,
        /// The limit, in bytes.
        limit: usize,
    },
    /// No frame, and no [`PROGRESS_BYTES`] of one, arrived for [`IDLE_TIMEOUT`].
    #[error("failed to hear from the peer: silent for too long")]
    Silent,
    /// More keep-alives came than [`MAX_KEEP_ALIVES`].
    #[error("failed to keep up with the peer: it floods the stream with keep-alives")]
    Flood,
    /// The stream died before.
    #[error("failed to use stream: it is closed")]
    Closed,
}

/// Why a message was not sent. The stream lives on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The handshake has not ended yet ([`Event::Open`] has not been seen).
    #[error("failed to send message: the handshake has not ended")]
    NotOpen,
    /// The message is longer than [`MAX_PLAINTEXT_BYTES`].
    #[error("failed to send message: {bytes} bytes are more than a frame holds")]
    TooLong {
        /// The message's size in bytes.
        bytes: usize,
    },
}

/// What a stream has to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The keys are known and messages may be sent; the peer may still be a replay.
    Open,
    /// The peer's header was right: it holds the keys now, so it is live.
    Connected,
    /// One message, as the peer sent it.
    Message(Bytes),
    /// A keep-alive, which carries nothing. It is an event so that a flood of them can't keep a driver from its other work.
    KeepAlive,
}

/// The random bytes of one XX stream, fresh for each.
pub struct Seeds {
    /// Seed of the ephemeral key pair.
    pub ephemeral: [u8; 32],
    /// Header of the sending direction.
    pub header: [u8; HEADER_BYTES],
}

enum State {
    /// Boxed: a handshake is large and lives for a moment only.
    Handshaking(Box<Handshake>, [u8; HEADER_BYTES]),
    Open {
        send: Cipher,
        receive: Option<Cipher>,
    },
    Closed,
}

#[derive(Debug, Clone, Copy)]
struct Liveness {
    /// Zero means that no keep-alives are sent and none are expected.
    tick: Duration,
    next: Option<Instant>,
    ticks_since_sent: u32,
    ticks_since_received: u32,
    /// Bytes of an unfinished frame that were there when the peer counted as heard.
    heard_bytes: usize,
    /// Keep-alives received since the last tick.
    keep_alives: u32,
}

/// One encrypted, authenticated stream of messages over a reliable byte stream.
pub struct SecretStream {
    state: State,
    session: Option<HandshakeResult>,
    input: FrameReader,
    output: BytesMut,
    opened: bool,
    liveness: Liveness,
}

impl SecretStream {
    /// A stream whose handshake was made elsewhere (IK in the DHT); `header_seed` is 24 fresh random bytes.
    /// It is open at once.
    pub fn from_handshake(session: HandshakeResult, header_seed: [u8; HEADER_BYTES]) -> Self {
        let mut stream = Self::new(State::Closed);
        stream.open(session, &header_seed);
        stream
    }

    /// A stream that begins with an XX handshake, as over TCP.
    ///
    /// # Errors
    /// None for valid key pairs; the initiator's first message is written here.
    pub fn xx(is_initiator: bool, key_pair: KeyPair, seeds: &Seeds) -> Result<Self, StreamError> {
        Self::begin(
            Handshake::xx(is_initiator, key_pair, seeds.ephemeral, &[]),
            seeds.header,
        )
    }

    /// A stream that begins with `handshake`, whose payloads are empty; `header_seed` is 24 fresh random bytes.
    ///
    /// # Errors
    /// [`StreamError::Handshake`] if the first message can't be written: the other side's key is unusable.
    pub fn begin(mut handshake: Handshake, header_seed: [u8; HEADER_BYTES]) -> Result<Self, StreamError> {
        let first = if handshake.is_my_turn() {
            Some(handshake.write(&[])?)
        } else {
            None
        };
        let mut stream = Self::new(State::Handshaking(Box::new(handshake), header_seed));
        if let Some(message) = first {
            stream.write_frame(&message);
        }
        Ok(stream)
    }

    fn new(state: State) -> Self {
        Self {
            state,
            session: None,
            input: FrameReader::default(),
            output: BytesMut::new(),
            opened: false,
            liveness: Liveness {
                tick: Duration::ZERO,
                next: None,
                ticks_since_sent: 0,
                ticks_since_received: 0,
                heard_bytes: 0,
                keep_alives: 0,
            },
        }
    }

    /// Sends an empty message after about `interval` without others, takes those received for [`Event::KeepAlive`], and counts a peer that is silent for
    /// [`IDLE_TIMEOUT`] as dead. Timers start at the next [`handle_timeout`](Self::handle_timeout).
    pub fn set_keep_alive(&mut self, interval: Duration) {
        self.liveness.tick = interval / TICKS_PER_KEEP_ALIVE;
    }

    /// The session's keys and names, once the handshake has ended.
    pub fn session(&self) -> Option<&HandshakeResult> {
        self.session.as_ref()
    }

    /// Takes bytes from the transport.
    pub fn receive(&mut self, bytes: &[u8]) {
        self.input.buffer().extend_from_slice(bytes);
        self.note_received();
    }

    /// Where a driver may append received bytes directly; it must only append, and call [`note_received`](Self::note_received)
    /// when it has.
    pub fn receive_buffer(&mut self) -> &mut BytesMut {
        self.input.buffer()
    }

    /// Bytes arrived. The peer counts as heard with every whole frame, and with every [`PROGRESS_BYTES`] of a large one: a peer that
    /// sends its frames byte by byte is as dead as a silent one.
    pub fn note_received(&mut self) {
        if self.input.buffered() >= self.liveness.heard_bytes + PROGRESS_BYTES {
            self.note_heard();
        }
    }

    fn note_heard(&mut self) {
        self.liveness.ticks_since_received = 0;
        self.liveness.heard_bytes = self.input.buffered();
    }

    /// Bytes received and not yet given out as messages.
    pub fn buffered_input(&self) -> usize {
        self.input.buffered()
    }

    /// How many bytes the next frame has in all, by its head, if that has arrived: a driver may wait with reading a large one.
    pub fn unfinished_frame(&self) -> Option<usize> {
        self.input.announced()
    }

    /// The next event, if the received bytes hold one.
    ///
    /// # Errors
    /// Any [`StreamError`]; the stream is dead then.
    pub fn poll_event(&mut self) -> Result<Option<Event>, StreamError> {
        let event = self.next_event();
        if event.is_err() {
            self.state = State::Closed;
            *self.input.buffer() = BytesMut::new();
        }
        event
    }

    fn next_event(&mut self) -> Result<Option<Event>, StreamError> {
        loop {
            if self.opened {
                self.opened = false;
                return Ok(Some(Event::Open));
            }
            let limit = self.frame_limit()?;
            let frame = self
                .input
                .next(limit)
                .map_err(|TooLong { announced }| StreamError::FrameTooLong { announced, limit })?;
            let Some(frame) = frame else { return Ok(None) };
            self.note_heard();
            if let Some(event) = self.on_frame(frame)? {
                return Ok(Some(event));
            }
        }
    }

    /// Encrypts one message into the output.
    ///
    /// # Errors
    /// [`SendError::NotOpen`] before [`Event::Open`], [`SendError::TooLong`] above [`MAX_PLAINTEXT_BYTES`].
    pub fn send(&mut self, message: &[u8]) -> Result<(), SendError> {
        self.send_parts(&[message])
    }

    /// Like [`send`](Self::send), for one message that lies in several places.
    ///
    /// # Errors
    /// Those of [`send`](Self::send).
    pub fn send_parts(&mut self, parts: &[&[u8]]) -> Result<(), SendError> {
        let State::Open { send, .. } = &mut self.state else {
            return Err(SendError::NotOpen);
        };
        let bytes = parts.iter().map(|part| part.len()).sum::<usize>();
        if bytes > MAX_PLAINTEXT_BYTES {
            return Err(SendError::TooLong { bytes });
        }
        let body = frame::append(&mut self.output, bytes + OVERHEAD_BYTES);
        let mut at = TAG_BYTES;
        for part in parts {
            body[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        send.seal(body);
        self.liveness.ticks_since_sent = 0;
        Ok(())
    }

    /// Makes room for `bytes` more of output at once: growing step by step would take up to twice the memory.
    pub fn reserve_output(&mut self, bytes: usize) {
        self.output.reserve(bytes);
    }

    /// Bytes that wait to be written to the transport.
    pub fn pending_output(&self) -> usize {
        self.output.len()
    }

    /// All bytes to be written to the transport now; may be empty.
    pub fn take_output(&mut self) -> Bytes {
        self.output.split().freeze()
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) next; `None` until its first call, or without keep-alive.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.liveness.next
    }

    /// Tells the time: sends a keep-alive if the stream was quiet.
    ///
    /// # Errors
    /// [`StreamError::Silent`] if the peer was silent for too long; the stream is dead then.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), StreamError> {
        let tick = self.liveness.tick;
        if tick.is_zero() || self.liveness.next.is_some_and(|next| now < next) {
            return Ok(());
        }
        let started = self.liveness.next.replace(now + tick).is_some();
        if !started {
            return Ok(());
        }
        self.liveness.keep_alives = 0;
        self.liveness.ticks_since_sent += 1;
        self.liveness.ticks_since_received += 1;
        if tick * self.liveness.ticks_since_received > IDLE_TIMEOUT {
            self.state = State::Closed;
            return Err(StreamError::Silent);
        }
        if self.liveness.ticks_since_sent > TICKS_PER_KEEP_ALIVE {
            // Before the handshake ends there is nothing to keep alive.
            let _ = self.send(&[]);
        }
        Ok(())
    }

    fn frame_limit(&self) -> Result<usize, StreamError> {
        match &self.state {
            // Nobody has proved anything yet, so nobody may make us hold more than a handshake message.
            State::Handshaking(..) => Ok(MAX_MESSAGE_BYTES),
            State::Open { receive: None, .. } => Ok(STREAM_ID_BYTES + HEADER_BYTES),
            State::Open { receive: Some(_), .. } => Ok(MAX_FRAME_BYTES),
            State::Closed => Err(StreamError::Closed),
        }
    }

    fn on_frame(&mut self, mut frame: BytesMut) -> Result<Option<Event>, StreamError> {
        match &mut self.state {
            State::Handshaking(handshake, _) => {
                handshake.read(&frame)?;
                self.continue_handshake()?;
                Ok(None)
            }
            State::Open {
                receive: receive @ None,
                ..
            } => {
                let session = self.session.as_ref().ok_or(StreamError::Closed)?;
                let (id, header) = frame
                    .split_first_chunk::<STREAM_ID_BYTES>()
                    .ok_or(StreamError::Header)?;
                let header: &[u8; HEADER_BYTES] = header.try_into().map_err(|_| StreamError::Header)?;
                if *id != stream_id(&session.handshake_hash, !session.is_initiator) {
                    return Err(StreamError::Header);
                }
                *receive = Some(Cipher::new(&session.rx, header));
                Ok(Some(Event::Connected))
            }
            State::Open {
                receive: Some(receive),
                ..
            } => {
                receive.open(&mut frame).map_err(|_| StreamError::Forged)?;
                frame.advance(TAG_BYTES);
                frame.truncate(frame.len() - MAC_BYTES);
                let is_keep_alive = frame.is_empty() && !self.liveness.tick.is_zero();
                Ok(Some(if is_keep_alive {
                    self.liveness.keep_alives += 1;
                    if self.liveness.keep_alives > MAX_KEEP_ALIVES {
                        return Err(StreamError::Flood);
                    }
                    Event::KeepAlive
                } else {
                    Event::Message(frame.freeze())
                }))
            }
            State::Closed => Err(StreamError::Closed),
        }
    }

    fn continue_handshake(&mut self) -> Result<(), StreamError> {
        let State::Handshaking(handshake, _) = &mut self.state else {
            return Ok(());
        };
        if handshake.is_my_turn() {
            let message = handshake.write(&[])?;
            self.write_frame(&message);
        }
        let finished = matches!(&self.state, State::Handshaking(handshake, _) if handshake.is_finished());
        if finished
            && let State::Handshaking(handshake, mut seed) = std::mem::replace(&mut self.state, State::Closed)
        {
            self.open(handshake.finish()?, &seed);
            seed.zeroize();
        }
        Ok(())
    }

    fn open(&mut self, session: HandshakeResult, header: &[u8; HEADER_BYTES]) {
        let id = stream_id(&session.handshake_hash, session.is_initiator);
        let body = frame::append(&mut self.output, STREAM_ID_BYTES + HEADER_BYTES);
        body[..STREAM_ID_BYTES].copy_from_slice(&id);
        body[STREAM_ID_BYTES..].copy_from_slice(header);
        self.state = State::Open {
            send: Cipher::new(&session.tx, header),
            receive: None,
        };
        self.session = Some(session);
        self.opened = true;
    }

    fn write_frame(&mut self, body: &[u8]) {
        frame::append(&mut self.output, body.len()).copy_from_slice(body);
    }
}

impl std::fmt::Debug for SecretStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SecretStream")
            .field("session", &self.session)
            .field("buffered_input", &self.buffered_input())
            .field("pending_output", &self.pending_output())
            .finish_non_exhaustive()
    }
}

/// The id that a side names itself by in its header: keyed BLAKE2b-256 of the role's namespace, key = handshake hash.
fn stream_id(handshake_hash: &[u8; 64], is_initiator: bool) -> [u8; STREAM_ID_BYTES] {
    let namespace = namespace(u8::from(!is_initiator));
    let mut mac = keyed_blake2b(handshake_hash);
    Update::update(&mut mac, &namespace);
    mac.finalize_fixed().into()
}

/// Namespace `index` of `hyperswarm/secret-stream`: `H(H(name) || index)`, unkeyed BLAKE2b-256.
fn namespace(index: u8) -> [u8; 32] {
    use blake2::{Blake2b, Digest};
    let name = Blake2b::<U32>::digest(b"hyperswarm/secret-stream");
    <Blake2b<U32> as Digest>::new()
        .chain_update(name)
        .chain_update([index])
        .finalize()
        .into()
}

fn keyed_blake2b(key: &[u8; 64]) -> Blake2bMac<U32> {
    Mac::new(key.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two open ends of one stream.
    fn pair() -> (SecretStream, SecretStream) {
        let end = |is_initiator: bool, number: u8| {
            let seeds = Seeds {
                ephemeral: [number; 32],
                header: [number; HEADER_BYTES],
            };
            SecretStream::xx(is_initiator, KeyPair::from_seed([number + 9; 32]), &seeds).unwrap()
        };
        let (mut a, mut b) = (end(true, 1), end(false, 2));
        for _ in 0..4 {
            b.receive(&a.take_output());
            while b.poll_event().unwrap().is_some() {}
            a.receive(&b.take_output());
            while a.poll_event().unwrap().is_some() {}
        }
        (a, b)
    }

    /// How long a stream lives whose peer sends `bytes` bytes of a 64 KiB frame each second, at most two minutes.
    fn life(bytes: usize) -> Duration {
        let (mut a, mut b) = pair();
        b.set_keep_alive(KEEP_ALIVE);
        a.send(&vec![7; 65_536]).unwrap();
        let frame = a.take_output();
        let start = Instant::now();
        b.handle_timeout(start).unwrap();
        for second in 0..120 {
            let from = (second as usize * bytes).min(frame.len());
            b.receive(&frame[from..(from + bytes).min(frame.len())]);
            while b.poll_event().unwrap().is_some() {}
            let past = Duration::from_secs(second);
            if b.handle_timeout(start + past) == Err(StreamError::Silent) {
                return past;
            }
        }
        Duration::from_mins(2)
    }

    #[test]
    fn keep_alives_by_the_thousands_end_the_stream_and_those_of_an_honest_peer_do_not() {
        let start = Instant::now();
        let run = |per_second: u32| {
            let (mut a, mut b) = pair();
            b.set_keep_alive(KEEP_ALIVE);
            for second in 0..60 {
                b.handle_timeout(start + Duration::from_secs(second))?;
                for _ in 0..per_second {
                    a.send(&[]).unwrap();
                }
                b.receive(&a.take_output());
                while b.poll_event()?.is_some() {}
            }
            Ok(())
        };
        assert_eq!(run(1000), Ok(()));
        assert_eq!(run(MAX_KEEP_ALIVES), Err(StreamError::Flood));
    }

    #[test]
    fn a_frame_that_comes_byte_by_byte_is_silence_and_one_that_comes_slowly_is_not() {
        let dead = IDLE_TIMEOUT..IDLE_TIMEOUT + 2 * KEEP_ALIVE;
        assert!(dead.contains(&life(1)), "{:?}", life(1));
        assert_eq!(life(500), Duration::from_mins(2));
    }
}
