//! The tokio half: control connections, relayed streams and the clock around one [`Server`].

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cumulet_protomux::{ChannelId, Event};
use cumulet_udx::{Endpoint, StreamControl, StreamOptions, UdxStream};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::control::{Control, ControlError, Peer};
use super::meter::{Meter, PacketHook};
use super::orders::Orders;
use super::policy::Policy;
use super::server::{Counters, Limits, LinkId, Output, Refusal, Server, SessionId};
use super::{PAIR, PROTOCOL, Pair, UNPAIR, Unpair};
use crate::Key;

/// How long a peer may take to open its channel.
const OPEN_WAIT: Duration = Duration::from_secs(15);

/// How a relay is run.
#[derive(Clone, Default)]
pub struct RelayOptions {
    /// Its bounds.
    pub limits: Limits,
    /// Sees every packet: for audits and for tests of loss. It runs on the tasks that receive.
    pub inspect: Option<PacketHook>,
}

impl fmt::Debug for RelayOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RelayOptions")
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// Why a connection was not, or is not any more, served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// Not admitted.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The connection broke.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The peer opened no channel of this protocol.
    #[error("failed to serve relay client: it opened no channel in time")]
    Silent,
}

struct State {
    server: Server,
    sessions: HashMap<SessionId, Arc<Orders>>,
    links: BTreeMap<LinkId, [StreamControl; 2]>,
}

struct Shared {
    state: Mutex<State>,
    endpoint: Endpoint,
    tasks: TaskTracker,
    cancel: CancellationToken,
    /// Something may be due earlier than the clock's task knows.
    kick: Notify,
    /// A link ended.
    quiet: Notify,
}

/// A blind relay. Clones share it.
#[derive(Clone)]
pub struct Relay {
    shared: Arc<Shared>,
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relay")
            .field("counters", &self.counters())
            .finish_non_exhaustive()
    }
}

impl Relay {
    /// A relay whose streams live on `endpoint`: that of the DHT node at which its clients arrive, since they send
    /// relayed packets to the address of their control connection. Its tasks run on `tasks` and end when `cancel` is cancelled.
    /// Must be called inside a tokio runtime.
    pub fn new(
        endpoint: Endpoint,
        policy: Arc<dyn Policy>,
        options: RelayOptions,
        tasks: &TaskTracker,
        cancel: CancellationToken,
    ) -> Self {
        let state = State {
            server: Server::new(options.limits, policy, options.inspect, Instant::now()),
            sessions: HashMap::new(),
            links: BTreeMap::new(),
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            endpoint,
            tasks: tasks.clone(),
            cancel,
            kick: Notify::new(),
            quiet: Notify::new(),
        });
        tasks.spawn(clock(shared.clone()));
        Self { shared }
    }

    /// Whether a connection of this identity would be served now: for the firewall in front.
    pub fn admits(&self, identity: &Key) -> bool {
        self.shared.lock().server.admits(identity)
    }

    /// Counters and gauges, now.
    pub fn counters(&self) -> Counters {
        self.shared.lock().server.counters()
    }

    /// Serves one control connection until it ends.
    ///
    /// # Errors
    /// [`ServeError::Refused`] at once if it is not admitted. The peer's own way of ending is an error too, and no
    /// reason for alarm.
    pub async fn serve(&self, peer: Peer) -> Result<(), ServeError> {
        let orders = Arc::new(Orders::default());
        let identity = peer.identity;
        let session = {
            let mut state = self.shared.lock();
            let session = state.server.open(identity)?;
            state.sessions.insert(session, orders.clone());
            session
        };
        // However this ends, also by being dropped, the session does.
        let _closing = Closing {
            shared: &self.shared,
            session,
        };
        let mut control = Control::new(peer)?;
        let mut channel = None;
        let opening = tokio::time::sleep(OPEN_WAIT);
        tokio::pin!(opening);
        loop {
            tokio::select! {
                () = self.shared.cancel.cancelled() => break,
                answer = orders.next() => match (answer, channel) {
                    (Some(pair), Some(channel)) => control.send(channel, PAIR, &pair.encode()),
                    (Some(_), None) => {}
                    (None, _) => break,
                },
                event = control.next() => {
                    if self.on_event(session, &identity, event?, (&mut control, &mut channel)) {
                        break;
                    }
                }
                () = &mut opening, if channel.is_none() => return Err(ServeError::Silent),
            }
        }
        control.end(channel).await;
        Ok(())
    }

    /// True: the peer closed its channel.
    fn on_event(
        &self,
        session: SessionId,
        identity: &Key,
        event: Event,
        (control, channel): (&mut Control, &mut Option<ChannelId>),
    ) -> bool {
        match event {
            Event::Requested(request) => {
                let ours = request.protocol == PROTOCOL && request.id[..] == identity[..];
                if ours && channel.is_none() {
                    *channel = control.accept(&request);
                } else {
                    control.reject(&request);
                }
            }
            Event::Message {
                channel: heard,
                kind,
                payload,
            } if Some(heard) == *channel => {
                let mut state = self.shared.lock();
                match kind {
                    PAIR => {
                        if let Ok(pair) = Pair::decode(&payload) {
                            state.server.pair(Instant::now(), session, &pair);
                        }
                    }
                    UNPAIR => {
                        if let Ok(unpair) = Unpair::decode(&payload) {
                            state.server.unpair(session, unpair);
                        }
                    }
                    _ => {}
                }
                self.shared.carry_out(&mut state);
                self.shared.kick.notify_one();
            }
            Event::Closed { channel: closed, .. } if Some(closed) == *channel => return true,
            Event::Opened { .. } | Event::Message { .. } | Event::Closed { .. } => {}
        }
        false
    }

    /// Asks the policy about everybody again: what was revoked ends now, new limits hold from now.
    pub fn review(&self) {
        let mut state = self.shared.lock();
        state.server.review(Instant::now());
        self.shared.carry_out(&mut state);
    }

    /// Takes nobody in any more, waits for the links to end, for `patience` at most, then ends the rest.
    pub async fn drain(&self, patience: Duration) {
        {
            let mut state = self.shared.lock();
            state.server.drain();
            self.shared.carry_out(&mut state);
        }
        let quiet = async {
            loop {
                let ended = self.shared.quiet.notified();
                tokio::pin!(ended);
                ended.as_mut().enable();
                if self.shared.lock().server.is_quiet() {
                    return;
                }
                ended.await;
            }
        };
        let _ = tokio::time::timeout(patience, quiet).await;
        let mut state = self.shared.lock();
        state.server.cut();
        self.shared.carry_out(&mut state);
    }
}

struct Closing<'a> {
    shared: &'a Arc<Shared>,
    session: SessionId,
}

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.sessions.remove(&self.session);
        state.server.close(self.session);
        self.shared.carry_out(&mut state);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn carry_out(self: &Arc<Self>, state: &mut State) {
        while let Some(output) = state.server.poll_output() {
            match output {
                Output::Link {
                    link,
                    remote_ids,
                    meter,
                } => match self.join(link, remote_ids, &meter) {
                    Some(streams) => {
                        let ids = [streams[0].id(), streams[1].id()];
                        state.links.insert(link, streams);
                        state.server.linked(link, ids);
                    }
                    None => state.server.link_ended(link),
                },
                Output::Answer { session, pair } => {
                    if let Some(orders) = state.sessions.get(&session)
                        && !orders.answer(pair)
                    {
                        // It reads nothing.
                        orders.close();
                        state.sessions.remove(&session);
                    }
                }
                Output::Unlink(link) => {
                    for stream in state.links.remove(&link).into_iter().flatten() {
                        stream.destroy();
                    }
                    self.quiet.notify_waiters();
                }
                Output::Close(session) => {
                    if let Some(orders) = state.sessions.remove(&session) {
                        orders.close();
                    }
                }
            }
        }
    }

    /// Makes the two streams of a link, and the task that owns them.
    fn join(
        self: &Arc<Self>,
        link: LinkId,
        remote_ids: [u32; 2],
        meter: &Arc<Meter>,
    ) -> Option<[StreamControl; 2]> {
        let create = || self.endpoint.create_stream(StreamOptions::default());
        let (responder, initiator) = match (create(), create()) {
            (Ok(responder), Ok(initiator)) => (responder, initiator),
            (Err(error), _) | (_, Err(error)) => {
                tracing::debug!(%error, "no streams for a link");
                return None;
            }
        };
        let allow = |from_initiator: bool| {
            let meter = meter.clone();
            Some(Arc::new(move |packet: &[u8]| meter.take(from_initiator, packet)) as PacketHook)
        };
        responder.relay_to(&initiator, allow(false));
        initiator.relay_to(&responder, allow(true));
        let controls = [responder.control().clone(), initiator.control().clone()];
        let shared = self.clone();
        self.tasks.spawn(async move {
            let streams = [&responder, &initiator];
            tokio::select! {
                () = shared.cancel.cancelled() => {}
                () = run_side(streams[0], remote_ids[0]) => {}
                () = run_side(streams[1], remote_ids[1]) => {}
            }
            let mut state = shared.lock();
            state.server.link_ended(link);
            shared.carry_out(&mut state);
        });
        Some(controls)
    }
}

/// Connects a side to wherever its first packet comes from, and waits for its end.
async fn run_side(stream: &UdxStream, remote_id: u32) {
    if let Some(source) = stream.first_packet().await
        && let Err(error) = stream.connect(&source.socket, remote_id, source.address)
    {
        tracing::debug!(%error, "a relayed stream can not be connected");
        return;
    }
    let _ = stream.closed().await;
}

/// Tells the server the time.
async fn clock(shared: Arc<Shared>) {
    loop {
        let wake = {
            let mut state = shared.lock();
            let now = Instant::now();
            state.server.handle_timeout(now);
            shared.carry_out(&mut state);
            state.server.poll_timeout(now)
        };
        let timer = async {
            match wake {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = shared.cancel.cancelled() => break,
            () = shared.kick.notified() => {}
            () = timer => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_future<'a, F: Future>(_: impl Fn(&'a Relay, Peer) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn serving_a_connection_that_says_nothing_holds_no_buffer() {
        let size = size_of_future(Relay::serve);
        assert!(size <= 3_072, "{size} bytes for each connection");
    }
}
