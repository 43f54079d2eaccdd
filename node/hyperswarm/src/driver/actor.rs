//! The task that owns the swarm: runs lookups, dials, accepts, and resolves doubles.

mod gate;
mod suspend;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cumulet_hyperdht::{ConnectError, ConnectOptions, Dht, ListenError, ListenOptions, Server};
use cumulet_secret_stream::noise::KeyPair;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_rustls::rustls::ClientConfig;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::gate::Gate;
use super::lookup::{Found, Lookup, LookupDone};
use super::rounds::{Rounds, SinceJoin};
use super::{Mode, PeerStatus, SwarmConfig, SwarmStats, Topic, short};
use crate::accept::Door;
use crate::connection::{Connection, Control, Transport};
use crate::direct::{Dialler, KnownHost, MeetError};
use crate::peers::{Admission, Dial, Peers};
use crate::topics::{Left, Outcome, Topics};

/// Peers remembered as reachable through relays only. When full all are forgotten, at the price of one more failing dial each.
const MAX_UNPUNCHABLE: usize = 4_096;
/// A dial that took longer will not come: hole punching is the slowest and ends within 35 s.
const DIAL_TIMEOUT: Duration = Duration::from_secs(45);
/// How long a second connection of a connected peer may take to its first packet.
const PROOF_WAIT: Duration = Duration::from_secs(5);
/// Such connections at a time.
const MAX_PROVING: usize = 64;
/// How long withdrawing announcements may take at the end.
const SHUTDOWN_WAIT: Duration = Duration::from_secs(3);
/// Random bytes are drawn this many at a time.
const POOL: usize = 64;

/// What the handles ask of the task.
pub(super) enum Command {
    Listen {
        announce: bool,
        done: oneshot::Sender<Result<(), ListenError>>,
    },
    Join {
        topic: Topic,
        mode: Mode,
        done: oneshot::Sender<Result<SinceJoin, ListenError>>,
    },
    Release {
        topic: Topic,
        mode: Mode,
    },
    Leave {
        topic: Topic,
    },
    Refresh {
        topic: Topic,
    },
    SetTls(Arc<ClientConfig>),
    JoinPeer(KnownHost),
    LeavePeer {
        public_key: [u8; 32],
    },
    Ban {
        public_key: [u8; 32],
        banned: bool,
    },
    SetRelays(Vec<[u8; 32]>),
    Suspend(oneshot::Sender<()>),
    Resume(oneshot::Sender<()>),
    Peers(oneshot::Sender<Vec<PeerStatus>>),
    Shutdown(oneshot::Sender<()>),
}

type DialDone = ([u8; 32], u64, Result<Connection, MeetError>);
/// A connection that is alive, and whether the one it meets was outdated when it came.
type Proven = (Option<Connection>, bool);

struct Link {
    public_key: [u8; 32],
    control: Control,
}

pub(super) struct Actor {
    dht: Dht,
    key_pair: KeyPair,
    tls: Option<Arc<ClientConfig>>,
    gate: Gate,
    peers: Peers,
    topics: Topics,
    server: Option<Server>,
    announced: bool,
    /// What is not of this task runs here.
    tasks: TaskTracker,
    cancel: CancellationToken,
    /// Cancelled at the end: closes the listeners.
    listening: CancellationToken,
    /// Where those come in who do not come over UDP, while there is a server.
    door: Door,
    newcomers: mpsc::Receiver<Connection>,
    /// Connections by number.
    links: HashMap<u64, Link>,
    /// Connections that wait for the one they replace to be gone: old number to new number and connection.
    replacing: HashMap<u64, (u64, Connection)>,
    closed: FuturesUnordered<BoxFuture<'static, u64>>,
    dials: FuturesUnordered<BoxFuture<'static, DialDone>>,
    lookups: FuturesUnordered<BoxFuture<'static, LookupDone>>,
    /// Second connections of connected peers, until they show a sign of life; with whether the first was outdated then.
    proving: FuturesUnordered<BoxFuture<'static, Proven>>,
    /// Announcements of left topics being withdrawn.
    withdrawals: FuturesUnordered<BoxFuture<'static, ()>>,
    found: mpsc::Receiver<Found>,
    found_tx: mpsc::Sender<Found>,
    rounds: HashMap<Topic, Rounds>,
    /// Whether it is listened again after a pause, announced or not.
    listen_on_resume: Option<bool>,
    relays: Vec<[u8; 32]>,
    /// Peers that only a relay can help with, as earlier dials have shown.
    unpunchable: HashSet<[u8; 32]>,
    commands: mpsc::UnboundedReceiver<Command>,
    connections: mpsc::Sender<Connection>,
    stats: watch::Sender<SwarmStats>,
    counters: SwarmStats,
    random: Vec<u8>,
}

/// Batches of found peers on their way to the task.
const FOUND_QUEUE: usize = 64;

enum Input {
    Command(Option<Command>),
    Accepted(Option<Connection>),
    Dialled(DialDone),
    LookedUp(LookupDone),
    Found(Found),
    Closed(u64),
    Withdrawn,
    Proven(Proven),
    Time,
    Cancelled,
}

async fn accept(server: &mut Option<Server>) -> Option<Connection> {
    match server {
        Some(server) => server.accept().await.map(Connection::from),
        None => std::future::pending().await,
    }
}

impl Actor {
    pub(super) fn new(
        dht: Dht,
        config: SwarmConfig,
        (commands, connections): (mpsc::UnboundedReceiver<Command>, mpsc::Sender<Connection>),
        (tasks, cancel): (TaskTracker, CancellationToken),
    ) -> (Self, watch::Receiver<SwarmStats>, Door) {
        let (stats, seen) = watch::channel(SwarmStats::default());
        let (found_tx, found) = mpsc::channel(FOUND_QUEUE);
        let gate = Gate::new(config.firewall, config.limits.max_server_connections);
        let (key_pair, listening) = (config.key_pair, cancel.child_token());
        let (door, newcomers) = Door::new(
            key_pair.clone(),
            gate.over_tcp(),
            tasks.clone(),
            listening.clone(),
        );
        let actor = Self {
            dht,
            peers: Peers::new(*key_pair.public_key(), config.limits),
            key_pair,
            tls: None,
            gate,
            topics: Topics::default(),
            server: None,
            announced: false,
            tasks,
            listening,
            cancel,
            door: door.clone(),
            newcomers,
            links: HashMap::new(),
            replacing: HashMap::new(),
            closed: FuturesUnordered::new(),
            dials: FuturesUnordered::new(),
            lookups: FuturesUnordered::new(),
            withdrawals: FuturesUnordered::new(),
            proving: FuturesUnordered::new(),
            found,
            found_tx,
            rounds: HashMap::new(),
            listen_on_resume: None,
            relays: Vec::new(),
            unpunchable: HashSet::new(),
            commands,
            connections,
            stats,
            counters: SwarmStats::default(),
            random: Vec::new(),
        };
        (actor, seen, door)
    }

    pub(super) async fn run(mut self) {
        let cancel = self.cancel.clone();
        let done = loop {
            if !self.is_suspended() {
                self.start_lookups();
                self.start_dials();
            }
            self.publish();
            let wake = self.next_wake();
            let input = tokio::select! {
                () = cancel.cancelled() => Input::Cancelled,
                command = self.commands.recv() => Input::Command(command),
                connection = accept(&mut self.server) => Input::Accepted(connection),
                Some(connection) = self.newcomers.recv() => Input::Accepted(Some(connection)),
                Some(done) = self.dials.next() => Input::Dialled(done),
                Some(done) = self.lookups.next() => Input::LookedUp(done),
                Some(found) = self.found.recv() => Input::Found(found),
                Some(number) = self.closed.next() => Input::Closed(number),
                Some(()) = self.withdrawals.next() => Input::Withdrawn,
                Some(proven) = self.proving.next() => Input::Proven(proven),
                () = sleep_until(wake) => Input::Time,
            };
            match input {
                Input::Command(Some(Command::Shutdown(done))) => break Some(done),
                Input::Command(None) | Input::Cancelled => break None,
                input => self.handle(input).await,
            }
        };
        self.listening.cancel();
        if !cancel.is_cancelled() {
            self.shut_down().await;
        }
        if let Some(done) = done {
            let _ = done.send(());
        }
    }

    fn next_wake(&self) -> Option<Instant> {
        if self.is_suspended() {
            return None;
        }
        [self.peers.poll_timeout(), self.topics.poll_timeout()]
            .into_iter()
            .flatten()
            .min()
    }

    fn byte(&mut self) -> u8 {
        if self.random.is_empty() {
            let mut pool = [0; POOL];
            // Jitter only: if the system has no randomness now, zeros do.
            let _ = getrandom::fill(&mut pool);
            self.random.extend(pool);
        }
        self.random.pop().unwrap_or(0)
    }

    async fn handle(&mut self, input: Input) {
        let now = Instant::now();
        match input {
            Input::Command(Some(command)) => self.command(now, command).await,
            Input::Accepted(Some(connection)) => self.on_newcomer(now, connection),
            Input::Proven((Some(connection), outdated)) => self.on_accepted(now, connection, true, outdated),
            Input::Accepted(None) => {
                self.server = None;
                self.door.set_open(false);
            }
            Input::Dialled((public_key, number, result)) => self.on_dialled(now, &public_key, number, result),
            Input::LookedUp((topic, found, stored)) => {
                let random = self.byte();
                let connected = self.peers.is_connected_under(&topic);
                self.topics.finished(
                    now,
                    &topic,
                    Outcome {
                        found,
                        stored,
                        connected,
                    },
                    random,
                );
                if let Some(rounds) = self.rounds.get(&topic) {
                    rounds.count_one();
                }
            }
            Input::Found(Found { topic, peers }) => {
                if self.topics.is_client(&topic) {
                    for peer in peers {
                        self.peers.found(peer.public_key, topic, &peer.relay_addresses);
                    }
                }
            }
            Input::Closed(number) => self.on_closed(now, number),
            Input::Time => self.peers.handle_timeout(now),
            Input::Command(None) | Input::Withdrawn | Input::Proven((None, _)) | Input::Cancelled => {}
        }
    }

    async fn command(&mut self, now: Instant, command: Command) {
        match command {
            Command::Listen { announce, done } => {
                let _ = done.send(self.listen(announce).await);
            }
            Command::Join { topic, mode, done } => {
                if mode.server
                    && let Err(error) = self.listen(true).await
                {
                    let _ = done.send(Err(error));
                    return;
                }
                self.topics.join(now, topic, mode);
                let rounds = self.rounds.entry(topic).or_default();
                // Counted from here: when the caller comes to look, the lookup it waits for may be over already.
                let _ = done.send(Ok(rounds.after_now()));
            }
            Command::Release { topic, mode } => {
                let left = self.topics.release(now, &topic, mode);
                self.after_leaving(topic, left);
            }
            Command::Leave { topic } => {
                let left = self.topics.leave(&topic);
                self.after_leaving(topic, left);
            }
            Command::Refresh { topic } => self.topics.refresh(now, &topic),
            Command::SetTls(tls) => self.tls = Some(tls),
            Command::JoinPeer(host) => self.peers.join_peer(host),
            Command::LeavePeer { public_key } => self.peers.leave_peer(&public_key),
            Command::SetRelays(relays) => self.relays = relays,
            Command::Ban { public_key, banned } => {
                self.gate.ban(public_key, banned);
                if let Some(link) = self
                    .peers
                    .ban(public_key, banned)
                    .and_then(|number| self.links.get(&number))
                {
                    link.control.destroy();
                }
            }
            Command::Peers(done) => {
                let _ = done.send(self.peers.statuses());
            }
            Command::Suspend(done) => {
                self.suspend().await;
                self.publish();
                let _ = done.send(());
            }
            Command::Resume(done) => {
                self.resume(now).await;
                let _ = done.send(());
            }
            Command::Shutdown(_) => {}
        }
    }

    async fn listen(&mut self, announce: bool) -> Result<(), ListenError> {
        if self.is_suspended() {
            let before = self.listen_on_resume.unwrap_or(false);
            self.listen_on_resume = Some(announce || before);
            return Ok(());
        }
        if let Some(server) = &self.server {
            if announce && !self.announced {
                self.announced = true;
                server.announce().await;
            }
            return Ok(());
        }
        let options = ListenOptions {
            firewall: Some(self.gate.over_udp()),
            private: !announce,
            ..ListenOptions::default()
        };
        self.server = Some(self.dht.listen(self.key_pair.clone(), options).await?);
        self.announced = announce;
        self.door.set_open(true);
        Ok(())
    }

    fn after_leaving(&mut self, topic: Topic, left: Option<Left>) {
        let Some(left) = left else { return };
        self.rounds.remove(&topic);
        self.peers.forget_topic(&topic);
        if left.announced {
            let (dht, key_pair) = (self.dht.clone(), self.key_pair.clone());
            self.withdrawals.push(Box::pin(async move {
                // What is not withdrawn expires.
                let _ = dht.unannounce(topic, &key_pair).await;
            }));
        }
    }

    fn start_lookups(&mut self) {
        let now = Instant::now();
        while let Some((topic, task)) = self.topics.next_task(now) {
            let lookup = Lookup {
                dht: self.dht.clone(),
                key_pair: self.key_pair.clone(),
                relays: self.server.as_ref().map(Server::watch_relay_addresses),
                found: self.found_tx.clone(),
                topic,
            };
            self.lookups.push(Box::pin(lookup.run(task)));
        }
    }

    fn start_dials(&mut self) {
        loop {
            let random = u64::from(self.byte()) << 8 | u64::from(self.byte());
            let Some(dial) = self.peers.next_dial(random) else {
                return;
            };
            let Dial { number, host } = dial;
            let relay_through = if self.unpunchable.contains(&host.public_key) {
                self.relays.clone()
            } else {
                Vec::new()
            };
            let dialler = Dialler {
                dht: self.dht.clone(),
                key_pair: self.key_pair.clone(),
                tls: self.tls.clone(),
                tasks: self.tasks.clone(),
            };
            self.dials.push(Box::pin(async move {
                let options = ConnectOptions {
                    relay_addresses: host.udx.clone(),
                    relay_through,
                    ..ConnectOptions::new(dialler.key_pair.clone())
                };
                let race = dialler.race(Some(options), &host);
                let result = tokio::time::timeout(DIAL_TIMEOUT, race).await;
                let result = result.unwrap_or(Err(MeetError::Timeout));
                (host.public_key, number, result)
            }));
        }
    }

    fn on_dialled(
        &mut self,
        now: Instant,
        public_key: &[u8; 32],
        number: u64,
        result: Result<Connection, MeetError>,
    ) {
        match result {
            Ok(connection) => match self.peers.dialled(now, public_key, number) {
                Some(number) => {
                    self.counters.dialled += 1;
                    self.admit(number, connection);
                }
                // Dropping it ends it.
                None => drop(connection),
            },
            Err(error) => {
                tracing::debug!(peer = %short(public_key), %error, "dial failed");
                self.counters.dial_failures += 1;
                let unpunchable = matches!(
                    error,
                    MeetError::AllFailed {
                        udx: Some(ConnectError::HolepunchFailed { .. } | ConnectError::CannotHolepunch),
                        ..
                    }
                );
                if unpunchable && !self.relays.is_empty() {
                    if self.unpunchable.len() >= MAX_UNPUNCHABLE {
                        self.unpunchable.clear();
                    }
                    if self.unpunchable.insert(*public_key) {
                        self.peers.failed_without_relay(public_key, number);
                        return;
                    }
                }
                let random = self.byte();
                self.peers.failed(now, public_key, number, random);
            }
        }
    }

    /// A peer dialled us. If it is connected already, the newcomer must show a sign of life first: it may be a dial that its
    /// side gave up in the same moment in favour of the existing connection, and must not replace that. Other than over UDP it
    /// must in any case: it may be the attempt of a race that another one won.
    fn on_newcomer(&mut self, now: Instant, connection: Connection) {
        if self.is_suspended() {
            return;
        }
        let existing = self.peers.open_link(&connection.remote_public_key);
        if existing.is_none() && matches!(connection.stream, Transport::Udx(_)) {
            self.on_accepted(now, connection, false, false);
            return;
        }
        let outdated = existing
            .and_then(|number| self.links.get(&number))
            .is_some_and(|link| link.control.carried_both_ways());
        if self.proving.len() >= MAX_PROVING {
            return;
        }
        self.proving.push(Box::pin(async move {
            let alive = tokio::time::timeout(PROOF_WAIT, connection.stream.heard()).await;
            (alive.unwrap_or(false).then_some(connection), outdated)
        }));
    }

    fn on_accepted(&mut self, now: Instant, connection: Connection, alive: bool, outdated: bool) {
        match self
            .peers
            .accepted(now, connection.remote_public_key, alive, |_| outdated)
        {
            Admission::Admit(number) => {
                self.counters.accepted += 1;
                self.admit(number, connection);
            }
            Admission::Refuse => {}
            Admission::RefuseDouble => self.counters.duplicates += 1,
            Admission::Replace { old, new } => {
                self.counters.duplicates += 1;
                self.counters.accepted += 1;
                match self.links.get(&old) {
                    Some(link) => {
                        // Handed over when the old one is gone, so that nobody sees two.
                        link.control.destroy();
                        self.replacing.insert(old, (new, connection));
                    }
                    // It was still being dialled; the dial is dropped when it ends.
                    None => match self.replacing.values_mut().find(|(waiting, _)| *waiting == old) {
                        Some(waiting) => *waiting = (new, connection),
                        None => self.admit(new, connection),
                    },
                }
            }
        }
    }

    fn admit(&mut self, number: u64, connection: Connection) {
        let control = connection.stream.control();
        let public_key = connection.remote_public_key;
        match connection.stream {
            Transport::Udx(_) => {}
            Transport::Tcp(_) => self.counters.over_tcp += 1,
            Transport::WebSocket(_) => self.counters.over_websocket += 1,
        }
        let watched = control.clone();
        self.closed.push(Box::pin(async move {
            watched.closed().await;
            number
        }));
        // Before it is given out: whoever takes it finds it counted.
        self.publish();
        if self.connections.try_send(connection).is_err() {
            tracing::warn!(peer = %short(&public_key), "connection dropped: nobody takes connections fast enough");
            control.destroy();
        }
        self.links.insert(number, Link { public_key, control });
    }

    fn on_closed(&mut self, now: Instant, number: u64) {
        let Some(link) = self.links.remove(&number) else {
            return;
        };
        let random = self.byte();
        self.peers.closed(now, &link.public_key, number, random);
        if let Some((number, connection)) = self.replacing.remove(&number) {
            self.admit(number, connection);
        }
    }

    fn publish(&self) {
        let (connecting, client_connections, server_connections) = self.peers.count();
        self.gate.set_accepted(server_connections);
        let stats = SwarmStats {
            client_connections,
            server_connections,
            connecting,
            known_peers: self.peers.len(),
            topics: self.topics.len(),
            ..self.counters
        };
        self.stats
            .send_if_modified(|seen| std::mem::replace(seen, stats) != stats);
    }

    async fn shut_down(&mut self) {
        let announced = self.topics.drain().into_iter().filter(|(_, left)| left.announced);
        let topics = announced.map(|(topic, _)| topic).collect();
        let server = self.server.take();
        self.withdraw(topics, server).await;
        for link in self.links.values() {
            link.control.destroy();
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
