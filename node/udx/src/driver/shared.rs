//! What a stream's handles, its timer task and the receiving tasks share.

use std::{
    cell::RefCell,
    collections::VecDeque,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    task::Waker,
};

use tokio::sync::Notify;

use super::{ConnectError, Firewall, Socket, Source, endpoint::EndpointInner};
use crate::{
    packet::{self, Flags, Packet},
    stream::{Config, Micros, Path, ReadState, SocketId, Stream},
};

/// Most bytes of one segmented send: what an IP packet may be before the kernel cuts it.
const MAX_SEGMENTED: usize = 65_000;

/// Decides whether a packet may be forwarded.
pub(super) type Allow = Arc<dyn Fn(&[u8]) -> bool + Send + Sync>;

pub(super) struct StreamShared {
    id: u32,
    endpoint: Arc<EndpointInner>,
    state: Mutex<State>,
    /// Wakes the timer task.
    kick: Notify,
    /// Wakes whoever waits for a message, for packets from elsewhere, or for the end, and looks then.
    pub(super) changed: Notify,
    /// Not in the state: two streams that relay into each other look at it, each holding its own lock.
    is_closed: AtomicBool,
    me: Weak<Self>,
}

pub(super) struct State {
    pub(super) stream: Stream,
    firewall: Firewall,
    /// Sockets that packets of this stream may leave by: the current one last.
    sockets: Vec<Socket>,
    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
    pub(super) closer: Option<Waker>,
    /// Packets that the socket had no room for: two runs at most.
    parked: VecDeque<Parked>,
    /// When the timer task will look by itself.
    armed: Micros,
    /// Where the newest accepted packet came from.
    pub(super) source: Option<Source>,
    /// Of streams at a relay only.
    relaying: Option<Box<Relaying>>,
}

/// What a stream is at a relay.
#[derive(Default)]
struct Relaying {
    /// Where its packets go.
    relay: Option<Arc<Relay>>,
    /// Streams that relay into this one; they end with it.
    from: Vec<Weak<StreamShared>>,
    packets: u64,
    bytes: u64,
}

struct Parked {
    path: Path,
    segment: usize,
    contents: Vec<u8>,
}

/// What became of a packet.
pub(super) enum Arrival {
    Handled,
    Dropped,
    Relayed(Arc<Relay>),
}

/// Where a stream's packets are forwarded to.
pub(super) struct Relay {
    from: Weak<StreamShared>,
    to: Weak<StreamShared>,
    allow: Option<Allow>,
}

impl Relay {
    /// Sends packets on, under the other side's id, in one system call where the system can: those of `run`, each `stride` long and the
    /// last perhaps shorter, as they arrived. Dropped while the other side is not connected, or its socket is full: the end points
    /// send them again.
    pub(super) fn forward(&self, run: &mut [u8], stride: usize) {
        let Some(to) = self.to.upgrade() else { return };
        let mut destroys = false;
        let target = to.lock().target();
        let (mut kept, mut at) = (0, 0);
        while at < run.len() {
            let end = (at + stride).min(run.len());
            let last =
                Packet::decode(&run[at..end]).is_ok_and(|packet| packet.header.flags.has(Flags::DESTROY));
            destroys |= last;
            // Asked for packets that will leave only: what is dropped for want of a target is not to be charged.
            if let Some((_, remote_id, _)) = target
                && (last || self.allow.as_ref().is_none_or(|allow| allow(&run[at..end])))
            {
                packet::rewrite_stream_id(&mut run[at..end], remote_id);
                run.copy_within(at..end, kept);
                kept += end - at;
            }
            at = end;
        }
        if let Some((path, _, socket)) = target {
            let most = socket.max_segments().min(MAX_SEGMENTED / stride).max(1);
            for batch in run[..kept].chunks(most * stride) {
                let sent = socket.try_send(path.address, batch, stride).is_ok();
                if let (true, Some(from)) = (sent, self.from.upgrade()) {
                    let mut state = from.lock();
                    let relaying = state.relaying.get_or_insert_default();
                    relaying.packets += batch.len().div_ceil(stride) as u64;
                    relaying.bytes += batch.len() as u64;
                }
            }
        }
        if let (true, Some(from)) = (destroys, self.from.upgrade()) {
            from.with(|state| state.stream.reset());
        }
    }
}

impl StreamShared {
    pub(super) fn new(endpoint: &Arc<EndpointInner>, config: Config, firewall: Firewall) -> Arc<Self> {
        let state = State {
            stream: Stream::new(config, endpoint.now()),
            firewall,
            sockets: Vec::new(),
            reader: None,
            writer: None,
            closer: None,
            parked: VecDeque::new(),
            armed: Micros::MAX,
            source: None,
            relaying: None,
        };
        Arc::new_cyclic(|me| Self {
            id: config.local_id,
            endpoint: endpoint.clone(),
            state: Mutex::new(state),
            kick: Notify::new(),
            changed: Notify::new(),
            is_closed: AtomicBool::new(false),
            me: me.clone(),
        })
    }

    pub(super) fn id(&self) -> u32 {
        self.id
    }

    pub(super) fn now(&self) -> Micros {
        self.endpoint.now()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the stream, then sends what may leave and wakes who waits.
    pub(super) fn with<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.lock();
        let result = change(&mut state);
        self.flush(&mut state);
        self.publish(&mut state);
        result
    }

    /// As [`with`](Self::with), but a packet that is not full waits for the timer task's turn: more may be written.
    pub(super) fn with_writer<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.lock();
        let result = change(&mut state);
        state.stream.hold_partial(true);
        self.flush(&mut state);
        state.stream.hold_partial(false);
        if state.stream.has_partial() {
            self.kick.notify_one();
        }
        self.publish(&mut state);
        result
    }

    /// Takes a packet that names this stream.
    pub(super) fn handle_packet(&self, source: &Source, datagram: &[u8]) -> Arrival {
        let Ok(packet) = Packet::decode(datagram) else {
            return Arrival::Dropped;
        };
        let now = self.now();
        let mut state = self.lock();
        let connected = state.stream.remote().map(|(path, _)| path.socket);
        if connected != Some(source.socket.id()) && !state.firewall.admits(source) {
            return Arrival::Dropped;
        }
        if state.source.as_ref() != Some(source) {
            state.source = Some(source.clone());
            self.changed.notify_waiters();
        }
        if let Some(relay) = state.relay() {
            return Arrival::Relayed(relay.clone());
        }
        state.stream.receive(now, &packet, datagram.len());
        if packet.header.flags.has(Flags::MESSAGE) {
            self.changed.notify_waiters();
        }
        if state.stream.acknowledgement_is_due() {
            self.flush(&mut state);
        }
        Arrival::Handled
    }

    /// All packets of a batch were handled.
    pub(super) fn after_batch(&self) {
        self.with(|_| ());
    }

    /// The socket has room again.
    pub(super) fn flush_blocked(&self) {
        self.with(|_| ());
    }

    fn flush(&self, state: &mut State) {
        let now = self.now();
        let more = SCRATCH.with_borrow_mut(|buffer| state.flush(now, buffer));
        if let Some(blocked) = more {
            blocked.add_blocked(self.me.clone());
        }
    }

    /// Wakes whoever can go on, and the timer task when its next moment moved ahead.
    fn publish(&self, state: &mut State) {
        let closed = state.stream.closed();
        let wake = |waker: &mut Option<Waker>, when: bool| {
            if when && let Some(waker) = waker.take() {
                waker.wake();
            }
        };
        wake(&mut state.reader, state.stream.read_state() != ReadState::Pending);
        wake(&mut state.writer, closed.is_some() || state.stream.is_writable());
        wake(&mut state.closer, closed.is_some() || state.stream.is_finished());
        let just_closed = closed.is_some() && !self.is_closed.swap(true, Ordering::AcqRel);
        if just_closed {
            self.changed.notify_waiters();
            let from = state
                .relaying
                .as_mut()
                .map(|relaying| std::mem::take(&mut relaying.from));
            for stream in from.into_iter().flatten().filter_map(|stream| stream.upgrade()) {
                // Its lock may be held by whoever closes us; its own task does it.
                stream.kick.notify_one();
            }
        }
        if just_closed || state.stream.poll_timeout().is_some_and(|at| at < state.armed) {
            self.kick.notify_one();
        }
    }

    pub(super) fn connect(
        &self,
        socket: &Socket,
        remote_id: u32,
        address: SocketAddr,
    ) -> Result<(), ConnectError> {
        check_address(address)?;
        let now = self.now();
        self.with(|state| {
            if state.stream.closed().is_some() {
                return Err(ConnectError::Closed);
            }
            let path = Path {
                socket: socket.id(),
                address,
            };
            if !state.stream.connect(now, path, remote_id) {
                return Err(ConnectError::AlreadyConnected);
            }
            state.sockets = vec![socket.clone()];
            Ok(())
        })
    }

    pub(super) fn change_remote(
        &self,
        socket: &Socket,
        remote_id: u32,
        address: SocketAddr,
    ) -> Result<(), ConnectError> {
        check_address(address)?;
        self.with(|state| {
            if state.stream.closed().is_some() {
                return Err(ConnectError::Closed);
            }
            if !state.stream.change_remote(
                Path {
                    socket: socket.id(),
                    address,
                },
                remote_id,
            ) {
                return Err(ConnectError::NotConnected);
            }
            state.add_socket(socket);
            Ok(())
        })
    }

    /// Has the timer task look at everything again.
    pub(super) fn kick(&self) {
        self.kick.notify_one();
    }

    pub(super) fn relay_to(&self, to: &Arc<Self>, allow: Option<Allow>) {
        let relay = Relay {
            from: self.me.clone(),
            to: Arc::downgrade(to),
            allow,
        };
        to.lock()
            .relaying
            .get_or_insert_default()
            .from
            .push(self.me.clone());
        self.lock().relaying.get_or_insert_default().relay = Some(Arc::new(relay));
        self.kick.notify_one();
    }

    pub(super) fn destroy(&self) {
        self.with(|state| {
            if state.relay().is_some() {
                // The end points speak for themselves.
                state.stream.destroy_silently();
            } else {
                state.stream.destroy();
            }
        });
    }
}

fn check_address(address: SocketAddr) -> Result<(), ConnectError> {
    if address.port() == 0 || address.ip().is_unspecified() {
        return Err(ConnectError::InvalidAddress(address));
    }
    Ok(())
}

impl Firewall {
    fn admits(&mut self, source: &Source) -> bool {
        match self {
            Self::Accept => true,
            Self::Reject => false,
            Self::Ask(ask) => ask(source),
        }
    }
}

thread_local! {
    /// Packets on their way into a system call; empty between two uses.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(64 * 1024));
}

impl State {
    /// Where the stream's packets are forwarded to, if they are.
    pub(super) fn relay(&self) -> Option<&Arc<Relay>> {
        self.relaying.as_ref()?.relay.as_ref()
    }

    /// Packets and bytes that were forwarded.
    pub(super) fn relayed(&self) -> (u64, u64) {
        self.relaying
            .as_ref()
            .map_or((0, 0), |relaying| (relaying.packets, relaying.bytes))
    }

    fn socket(&self, id: SocketId) -> Option<&Socket> {
        self.sockets.iter().find(|socket| socket.id() == id)
    }

    fn add_socket(&mut self, socket: &Socket) {
        /// Sockets of earlier remotes that retransmissions may still need.
        const MAX_SOCKETS: usize = 5;
        self.sockets.retain(|known| known != socket);
        self.sockets.push(socket.clone());
        if self.sockets.len() > MAX_SOCKETS {
            self.sockets.remove(0);
        }
    }

    pub(super) fn target(&self) -> Option<(Path, u32, Socket)> {
        let (path, remote_id) = self.stream.remote()?;
        Some((path, remote_id, self.socket(path.socket)?.clone()))
    }

    /// Sends all that may leave; returns the socket that had no room for more.
    fn flush(&mut self, now: Micros, buffer: &mut Vec<u8>) -> Option<Socket> {
        while let Some(parked) = self.parked.front() {
            if let Some(blocked) = self.send(parked.path, &parked.contents, parked.segment) {
                return Some(blocked);
            }
            self.parked.pop_front();
        }
        buffer.clear();
        let mut run: Option<(Path, usize, usize)> = None; // path, segment length, most segments
        let mut segments = 0;
        while let Some(transmit) = self.stream.poll_transmit(now, buffer) {
            let start = buffer.len() - transmit.len;
            if let Some((path, segment, most)) = run {
                let fits = transmit.path == path
                    && transmit.len <= segment
                    && segments < most
                    && buffer.len() <= MAX_SEGMENTED
                    && !transmit.probe;
                if !fits {
                    let full = self.send(path, &buffer[..start], segment);
                    if full.is_some() {
                        self.park(path, &buffer[..start], segment);
                        self.park(transmit.path, &buffer[start..], transmit.len);
                        return full;
                    }
                    buffer.drain(..start);
                    run = None;
                }
            }
            let (path, segment, most) = run.unwrap_or_else(|| {
                segments = 0;
                let most = self.socket(transmit.path.socket).map_or(1, Socket::max_segments);
                (transmit.path, transmit.len, most)
            });
            segments += 1;
            run = Some((path, segment, most));
            if transmit.len < segment || transmit.probe || segments >= most {
                run = None;
                if let Some(full) = self.send(path, buffer, segment) {
                    self.park(path, buffer, segment);
                    return Some(full);
                }
                buffer.clear();
            }
        }
        let (path, segment, _) = run?;
        let full = self.send(path, buffer, segment)?;
        self.park(path, buffer, segment);
        Some(full)
    }

    fn park(&mut self, path: Path, contents: &[u8], segment: usize) {
        self.parked.push_back(Parked {
            path,
            segment,
            contents: contents.to_vec(),
        });
    }

    /// Returns the socket when it had no room.
    fn send(&self, path: Path, contents: &[u8], segment: usize) -> Option<Socket> {
        let socket = self.socket(path.socket)?;
        match socket.try_send(path.address, contents, segment) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Some(socket.clone()),
            _ => None,
        }
    }

    /// The target of our relay is gone.
    fn relay_broken(&self) -> bool {
        self.relay().is_some_and(|relay| {
            relay
                .to
                .upgrade()
                .is_none_or(|to| to.is_closed.load(Ordering::Acquire))
        })
    }
}

/// The stream's timer task: ends when its id can be forgotten.
pub(super) async fn run(shared: Arc<StreamShared>) {
    let sleep = tokio::time::sleep_until(shared.endpoint.instant(0));
    tokio::pin!(sleep);
    loop {
        let (deadline, done) = shared.tick();
        if done {
            break;
        }
        if shared.endpoint.cancel.is_cancelled() {
            shared.destroy();
            break;
        }
        if let Some(at) = deadline {
            sleep.as_mut().reset(shared.endpoint.instant(at));
        }
        tokio::select! {
            () = shared.kick.notified() => {}
            () = sleep.as_mut(), if deadline.is_some() => {}
        }
    }
    shared.endpoint.forget(shared.id);
}

impl StreamShared {
    /// Runs due timers; returns the next and whether the stream is done.
    fn tick(&self) -> (Option<Micros>, bool) {
        let mut state = self.lock();
        if state.relay_broken() {
            state.stream.destroy_silently();
        }
        state.stream.on_timeout(self.now());
        self.flush(&mut state);
        let deadline = state.stream.poll_timeout();
        state.armed = deadline.unwrap_or(Micros::MAX);
        let done = state.stream.is_done() && state.parked.is_empty();
        self.publish(&mut state);
        (deadline, done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_at_rest_is_a_block_of_less_than_two_kilobytes() {
        // Allocators hand out 1,792 bytes, and then 2,048.
        let counts = 2 * size_of::<usize>();
        assert!(
            size_of::<StreamShared>() + counts <= 1_792,
            "{}",
            size_of::<StreamShared>()
        );
    }
}
