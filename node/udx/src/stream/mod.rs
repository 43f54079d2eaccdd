//! One reliable stream as a sans-IO state machine.
//!
//! Use: after every input (`receive`, `write`, `finish`, `connect`, `on_timeout`, …) call [`Stream::poll_transmit`] until it
//! returns `None`, then [`Stream::poll_timeout`]. Acknowledgements are prepared by `receive` and leave with the next
//! `poll_transmit`: whoever wants one per packet polls after every packet.
//!
//! Life: created (its id is known, packets may arrive) → connected (it may send) → ended on both sides, destroyed,
//! reset or timed out. A stream that ended cleanly lingers, so that a peer whose last acknowledgement was
//! lost hears it again instead of timing out.
//!
//! Not here: whether a packet may come in at all (the firewall), forwarding (`relay_to`), waking anyone.

mod input;
mod loss;
mod output;

use std::{collections::VecDeque, net::SocketAddr, time::Duration};

use bytes::Bytes;

pub use crate::clock::Micros;
use crate::{
    bbr::{Bbr, Lost, RateSample, Recovery},
    clock::{RttEstimator, SECOND},
    mtu::MtuSearch,
    pacer::Pacer,
    packet::extended,
    receive::Receiver,
    send::{Scoreboard, SendBuffer},
};

/// Window that libudx advertises: 4 MiB, one second of 32 Mbit/s at 1 s, or of 320 Mbit/s at 100 ms.
pub const DEFAULT_RECEIVE_WINDOW: u32 = 4 * 1024 * 1024;
/// The window we assume before the peer said one.
const INITIAL_SEND_WINDOW: u32 = 4 * 1024 * 1024;
/// Bytes that may wait behind the window, as libudx's high watermark: enough to keep sending while the writer sleeps.
const BACKLOG: usize = 256 * 1024;
/// Most bytes that are ever in flight, whatever window a peer claims.
const MAX_IN_FLIGHT_BYTES: usize = 16 * 1024 * 1024;
/// Most packets between the peer's acknowledgement and our next number; a libudx receiver looks no farther than 65,536.
const MAX_OUTSTANDING: u64 = 32_768;
/// Timeouts of one packet after which the peer is gone.
const MAX_TIMEOUTS: u8 = 6;
/// How long a cleanly ended stream still answers: as long as a peer repeats its END, with a timeout of a second.
const LINGER: Micros = 14 * SECOND;
/// How long a stream whose owner left after END waits for the peer's END.
const DETACHED: Micros = 10 * SECOND;
/// Messages that wait to be read or sent, each way: they are unreliable, more of them are worth dropping.
const MAX_MESSAGES: usize = 256;
/// Older remotes that are remembered for retransmissions.
const MAX_OLD_REMOTES: usize = 4;

/// Names a socket of the endpoint; the state machine only carries it around.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketId(pub u64);

/// Where packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// Socket of ours.
    pub socket: SocketId,
    /// The remote address.
    pub address: SocketAddr,
}

/// A packet to send, appended to the buffer given to [`Stream::poll_transmit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Where to.
    pub path: Path,
    /// Its bytes: the last `len` of the buffer.
    pub len: usize,
    /// Larger than the path is known to carry: must not share a segmented send with others, which would fail with it.
    pub probe: bool,
}

/// How a stream is made.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Our id.
    pub local_id: u32,
    /// First number we send.
    pub initial_seq: u32,
    /// First number we expect.
    pub initial_ack: u32,
    /// Most received bytes held, and so the window advertised.
    pub receive_window: u32,
    /// Send a HEARTBEAT after this long without anything in flight.
    pub keep_alive: Option<Duration>,
}

impl Config {
    /// hyperdht's settings for the stream `local_id`.
    pub fn new(local_id: u32) -> Self {
        Self {
            local_id,
            initial_seq: 0,
            initial_ack: 0,
            receive_window: DEFAULT_RECEIVE_WINDOW,
            keep_alive: None,
        }
    }
}

/// Why a stream is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// Both sides ended and have each other's END.
    Ended,
    /// Destroyed by us.
    Destroyed,
    /// Destroyed by the peer.
    Reset,
    /// The peer stopped answering.
    TimedOut,
}

/// What may become possible for the application after an input; the driver wakes readers and writers by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadState {
    /// Bytes can be read.
    Readable,
    /// Nothing yet.
    Pending,
    /// The peer ended and everything was read.
    End,
    /// The stream broke and everything was read.
    Broken(Closed),
}

/// Counters of one stream.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    /// UDP payload bytes sent and received, headers included.
    pub bytes_sent: u64,
    /// See `bytes_sent`.
    pub bytes_received: u64,
    /// Packets sent.
    pub packets_sent: u64,
    /// Packets received.
    pub packets_received: u64,
    /// Packets sent again.
    pub retransmits: u64,
    /// Retransmission timeouts.
    pub timeouts: u64,
    /// Tail loss probes.
    pub tail_probes: u64,
    /// Selective-ack blocks that made no sense.
    pub invalid_sacks: u64,
    /// Messages dropped because nobody read them.
    pub dropped_messages: u64,
}

/// The network's view of a stream, now.
#[derive(Clone, Copy, Debug)]
pub struct Estimates {
    /// Smoothed round trip time.
    pub rtt: Option<Micros>,
    /// Smallest round trip time.
    pub min_rtt: Option<Micros>,
    /// Congestion window, packets.
    pub congestion_window: u32,
    /// Packets in flight.
    pub in_flight: u32,
    /// Bytes per second.
    pub pacing_rate: u64,
    /// Largest IP packet in use.
    pub mtu: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Remote {
    path: Path,
    id: u32,
}

/// RACK's memory (RFC 8985): the newest delivered transmission.
#[derive(Debug, Default)]
struct Rack {
    rtt: Micros,
    sent_at: Micros,
    end_seq: u64,
    highest: u64,
    reordering: bool,
}

/// Tail loss probe.
#[derive(Debug, Default)]
struct TailProbe {
    in_flight_until: Option<u64>,
    retransmission: bool,
    /// Something must be delivered between two probes.
    permitted: bool,
    /// To be sent by the next `poll_transmit`.
    due: bool,
}

#[derive(Debug, Default)]
struct Timers {
    retransmit: Option<Micros>,
    tail_probe: Option<Micros>,
    reordering: Option<Micros>,
    window_probe: Option<Micros>,
    keep_alive: Option<Micros>,
    pacing: Option<Micros>,
    linger: Option<Micros>,
}

/// Delivery-rate state (draft-cheng-iccrg-delivery-rate-estimation).
#[derive(Debug, Default)]
struct Delivery {
    delivered: u64,
    delivered_at: Micros,
    first_sent_at: Micros,
    /// Packets below this count were sent without enough data to fill the path.
    app_limited_until: Option<u64>,
}

/// What the acknowledgements since the last `poll_transmit` said.
#[derive(Debug, Default)]
struct AckBatch {
    dirty: bool,
    packets: u32,
    delivered: u32,
    lost: u32,
    worst: Option<Lost>,
    rtt: Option<Micros>,
    newest: Option<RateSample>,
    newest_delivered_at: Micros,
    newest_order: (Micros, u64),
}

/// One reliable stream.
#[derive(Debug)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "independent facts about the life of both directions"
)]
pub struct Stream {
    config: Config,
    remote: Option<Remote>,
    /// Earlier remotes, oldest first, and how many were forgotten; packets are sent again to where they first went.
    old_remotes: VecDeque<Remote>,
    remote_epoch: u32,
    /// Moved with packets in flight: no probes until this number is acknowledged.
    moving_until: Option<u64>,

    receiver: Receiver,
    ack_needed: bool,
    /// Data packets since the last acknowledgement left.
    unacknowledged: u32,
    messages_in: VecDeque<Bytes>,

    buffer: SendBuffer,
    board: Scoreboard,
    messages_out: VecDeque<Bytes>,
    /// The application will write no more; `end_sent`: the END has its number.
    finishing: bool,
    end_sent: bool,
    end_acked: bool,
    hold_partial: bool,
    heartbeat_needed: bool,
    destroy_needed: bool,

    peer_window: u32,
    window_seq: u64,
    window_ack: u64,

    rtt: RttEstimator,
    rack: Rack,
    tail_probe: TailProbe,
    recovery: Recovery,
    recovery_until: u64,
    bbr: Bbr,
    pacer: Pacer,
    mtu: MtuSearch,
    delivery: Delivery,
    batch: AckBatch,
    /// Acknowledgements that told nothing new while losses wait for the window: each stands for a packet that left the network
    /// but lies behind more gaps than the peer's blocks can tell, so each may release one retransmission.
    blind_acks: u32,
    timers: Timers,

    closed: Option<Closed>,
    detached: bool,
    counters: Counters,
}

impl Stream {
    /// A stream that may receive at once and send after [`connect`](Self::connect).
    pub fn new(config: Config, now: Micros) -> Self {
        let (seq, ack) = (extended(config.initial_seq), extended(config.initial_ack));
        let mtu = MtuSearch::new(None);
        Self {
            config,
            remote: None,
            old_remotes: VecDeque::new(),
            remote_epoch: 0,
            moving_until: None,
            receiver: Receiver::new(ack, config.receive_window as usize),
            ack_needed: false,
            unacknowledged: 0,
            messages_in: VecDeque::new(),
            buffer: SendBuffer::default(),
            board: Scoreboard::new(seq),
            messages_out: VecDeque::new(),
            finishing: false,
            end_sent: false,
            end_acked: false,
            hold_partial: false,
            heartbeat_needed: false,
            destroy_needed: false,
            peer_window: INITIAL_SEND_WINDOW,
            window_seq: ack,
            window_ack: seq,
            rtt: RttEstimator::default(),
            rack: Rack {
                highest: seq,
                ..Rack::default()
            },
            tail_probe: TailProbe {
                permitted: true,
                ..TailProbe::default()
            },
            recovery: Recovery::Open,
            recovery_until: seq,
            bbr: Bbr::new(now, mtu.payload() as u32),
            pacer: Pacer::new(now),
            mtu,
            delivery: Delivery::default(),
            batch: AckBatch::default(),
            blind_acks: 0,
            timers: Timers::default(),
            closed: None,
            detached: false,
            counters: Counters::default(),
        }
    }

    /// Our id.
    pub fn local_id(&self) -> u32 {
        self.config.local_id
    }

    /// Where we send to, and the peer's id.
    pub fn remote(&self) -> Option<(Path, u32)> {
        self.remote.map(|remote| (remote.path, remote.id))
    }

    /// Sets where to send. Written bytes and owed acknowledgements leave with the next `poll_transmit`.
    /// Returns `false` if the stream was connected before.
    pub fn connect(&mut self, now: Micros, path: Path, remote_id: u32) -> bool {
        if self.remote.is_some() {
            return false;
        }
        self.remote = Some(Remote { path, id: remote_id });
        self.mtu = MtuSearch::new(Some(path.address));
        self.arm_keep_alive(now);
        true
    }

    /// Moves to another path: new packets go there at once, first retransmissions of old ones to where they went.
    /// Returns `false` if the stream is not connected.
    pub fn change_remote(&mut self, path: Path, remote_id: u32) -> bool {
        let Some(old) = self.remote.replace(Remote { path, id: remote_id }) else {
            self.remote = None;
            return false;
        };
        self.old_remotes.push_back(old);
        if self.old_remotes.len() > MAX_OLD_REMOTES {
            self.old_remotes.pop_front();
        }
        self.remote_epoch += 1;
        self.mtu = MtuSearch::new(Some(path.address));
        self.moving_until = (!self.board.is_empty()).then(|| self.board.next());
        true
    }

    /// Whether packets sent to an earlier remote are still unacknowledged.
    pub fn is_moving(&self) -> bool {
        self.moving_until.is_some()
    }

    /// Takes bytes to send; returns how many fit. Nothing fits after [`finish`](Self::finish) or when closed.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        if self.finishing || self.closed.is_some() {
            return 0;
        }
        let n = bytes.len().min(self.write_capacity());
        self.buffer.write(&bytes[..n]);
        n
    }

    /// Bytes that [`write`](Self::write) would take.
    pub fn write_capacity(&self) -> usize {
        // What arrived behind a gap is kept until the gap is closed, but is nobody's turn any more.
        let waiting = self.buffer.len() - self.board.sacked_bytes();
        let memory = (BACKLOG + MAX_IN_FLIGHT_BYTES).saturating_sub(self.buffer.len());
        self.write_limit().saturating_sub(waiting).min(memory)
    }

    /// Whether so much fits again that waking a writer pays.
    pub fn is_writable(&self) -> bool {
        self.write_capacity() >= self.write_limit() / 4
    }

    fn write_limit(&self) -> usize {
        // Twice the window: while a loss is repaired, another window's worth is sent and arrives behind it.
        let window = 2 * self.bbr.window() as usize * self.mtu.payload();
        BACKLOG + window.min(self.peer_window as usize).min(MAX_IN_FLIGHT_BYTES)
    }

    /// While held, a packet that is not full waits for more bytes (or for `hold_partial(false)`).
    pub fn hold_partial(&mut self, hold: bool) {
        self.hold_partial = hold;
    }

    /// Whether an acknowledgement waits to leave.
    pub fn owes_ack(&self) -> bool {
        self.ack_needed
    }

    /// Whether a packet that is not full waits to leave.
    pub fn has_partial(&self) -> bool {
        self.buffer.unsent() > 0 || (self.finishing && !self.end_sent)
    }

    /// Ends our side: END follows the bytes written so far.
    pub fn finish(&mut self) {
        self.finishing = true;
    }

    /// Whether [`finish`](Self::finish) was called.
    pub fn is_finishing(&self) -> bool {
        self.finishing
    }

    /// Whether the peer has everything we wrote, and our END (or it said nothing about the END alone, after its own).
    pub fn is_finished(&self) -> bool {
        self.end_acked || (self.closed.is_none() && self.only_end_unanswered())
    }

    /// Copies received bytes out, in order.
    pub fn read(&mut self, into: &mut [u8]) -> usize {
        let n = self.receiver.read(into);
        if self.receiver.should_announce_window() && self.remote.is_some() && self.closed.is_none() {
            self.ack_needed = true;
        }
        n
    }

    /// What a reader can expect now.
    pub fn read_state(&self) -> ReadState {
        if self.receiver.unread() > 0 {
            return ReadState::Readable;
        }
        match self.closed {
            _ if self.receiver.ended() => ReadState::End,
            Some(Closed::Ended) => ReadState::End,
            Some(reason) => ReadState::Broken(reason),
            None => ReadState::Pending,
        }
    }

    /// Queues an unreliable message of at most [`message_limit`](Self::message_limit) bytes. Returns `false` when the queue is full.
    pub fn send_message(&mut self, message: Bytes) -> bool {
        if self.messages_out.len() >= MAX_MESSAGES {
            return false;
        }
        self.messages_out.push_back(message);
        true
    }

    /// Longest message, bytes.
    pub fn message_limit(&self) -> usize {
        self.mtu.payload()
    }

    /// The next received message.
    pub fn recv_message(&mut self) -> Option<Bytes> {
        self.messages_in.pop_front()
    }

    /// Closes at once; a connected peer gets one DESTROY.
    pub fn destroy(&mut self) {
        if self.closed.is_none() {
            self.destroy_needed = self.remote.is_some();
            self.close(Closed::Destroyed);
        }
    }

    /// Closes without a word: a relayed stream's peers speak for themselves.
    pub fn destroy_silently(&mut self) {
        if self.closed.is_none() {
            self.close(Closed::Destroyed);
        }
    }

    /// Closes as if the peer had sent DESTROY.
    pub fn reset(&mut self) {
        if self.closed.is_none() {
            self.close(Closed::Reset);
        }
    }

    /// The application left. If the peer has our END already we wait for its END a while,
    /// otherwise the stream is destroyed.
    pub fn detach(&mut self, now: Micros) {
        if self.closed.is_some() || self.detached {
            return;
        }
        if self.is_finished() && self.receiver.unread() == 0 {
            self.detached = true;
            self.receiver.discard();
            self.timers.linger = Some(now + DETACHED);
        } else {
            self.destroy();
        }
    }

    /// Why the stream is closed, if it is.
    pub fn closed(&self) -> Option<Closed> {
        self.closed
    }

    /// Whether the id can be forgotten: closed, nothing left to say, done lingering.
    pub fn is_done(&self) -> bool {
        self.closed.is_some() && !self.destroy_needed && !self.ack_needed && self.timers.linger.is_none()
    }

    /// Counters so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Estimates now.
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "a rate to look at"
    )]
    pub fn estimates(&self) -> Estimates {
        Estimates {
            rtt: self.rtt.smoothed(),
            min_rtt: self.rtt.min(),
            congestion_window: self.bbr.window(),
            in_flight: self.board.in_flight(),
            pacing_rate: (self.bbr.pacing_rate() * SECOND as f64) as u64,
            mtu: self.mtu.mtu(),
        }
    }

    /// Bytes held for the application and for the network, both ways.
    pub fn memory(&self) -> usize {
        self.receiver.memory() + self.buffer.len()
    }

    fn close(&mut self, reason: Closed) {
        self.closed = Some(reason);
        self.timers = Timers::default();
        self.buffer.clear();
        self.board.clear();
        self.receiver.clear();
        self.messages_out.clear();
        self.heartbeat_needed = false;
        self.tail_probe.due = false;
        if reason != Closed::Ended {
            self.ack_needed = false;
        }
    }

    fn close_if_ended(&mut self, now: Micros) {
        if self.closed.is_none() && self.end_acked && self.receiver.ended() {
            self.close(Closed::Ended);
            self.timers.linger = Some(now + LINGER);
        }
    }

    fn arm_keep_alive(&mut self, now: Micros) {
        // A zero interval would send heartbeats without pause, as libudx does; it means never.
        let interval = self
            .config
            .keep_alive
            .map_or(0, |interval| interval.as_micros() as Micros);
        self.timers.keep_alive =
            (interval > 0 && self.remote.is_some() && self.closed.is_none()).then(|| now + interval);
    }
}
