//! One client: what it asks, and what it is told. In: its messages, what happened on the DHT, time. Out: [`Command`]s, to be
//! carried out in order.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cumulet_encoding::Writer;
use cumulet_hyperdht::PeerRecord;
use cumulet_relay::Key;
use cumulet_relay::blind_relay::MemberLimits;
use cumulet_relay::dht_relay::{Custody, DhtRelayError, Handshaken, Message};
use cumulet_secret_stream::noise::KeyPair;

use crate::accounts::{Accounts, Refusal};

/// How often we say that we live. JavaScript's clients wait for three times as long.
const PING_EVERY: Duration = Duration::from_secs(15);
/// A client that says nothing for this long is gone: it answers pings.
const SILENCE: Duration = Duration::from_secs(45);
/// How long a client may take to say who it is, and to answer whether it takes a connection.
const ANSWER_WAIT: Duration = Duration::from_secs(15);
/// Version 1, and nothing else: what we pass on of what a peer says of itself. How to reach it is our business.
const EMPTY_NOISE_PAYLOAD: &[u8] = &[1, 0, 0, 0];
/// Peers told in one message: a lookup's answers come as the nodes name them.
const PEERS_PER_RESULT: usize = 64;

/// A stream between a client and a peer: our alias of it.
pub(crate) type StreamId = u32;

/// Why a client's session ends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SessionEnd {
    /// A message that does not decode, or that nobody but us may send.
    #[error("failed to serve a client of the relayed DHT: {0}")]
    Message(#[from] DhtRelayError),
    /// The client used a name twice, or spoke before it said who it is.
    #[error("failed to serve a client of the relayed DHT: {0}")]
    Protocol(&'static str),
    /// It keeps its secret key to itself, or has none that fits.
    #[error(
        "failed to serve a client of the relayed DHT: custodial clients only; hint: leave `custodial` at its default"
    )]
    NotCustodial,
    /// Not admitted.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It was silent, or did not say who it is.
    #[error("failed to serve a client of the relayed DHT: it was silent for too long")]
    Silent,
}

/// What to ask the DHT.
#[derive(Debug)]
pub(crate) enum Query {
    Lookup(Key),
    Announce(Key, KeyPair),
    Unannounce(Key, KeyPair),
}

/// What the driver must do.
#[derive(Debug)]
pub(crate) enum Command {
    Send(Message),
    Dial {
        stream: StreamId,
        key_pair: KeyPair,
        remote: Key,
    },
    Listen {
        server: u32,
        key_pair: KeyPair,
    },
    CloseServer(u32),
    Query(u32, Query),
    /// The connection that was offered is taken.
    Start(StreamId),
    Write(StreamId, Vec<Bytes>),
    /// The client has said all.
    Finish(StreamId),
    /// Forget the stream, its dial or its offer, at once.
    Destroy(StreamId),
}

/// What happened on the DHT.
#[derive(Debug)]
pub(crate) enum Occurrence {
    Connected(StreamId, [u8; 64]),
    DialFailed(StreamId, String),
    Listening(u32, SocketAddrV4),
    /// The server could not be opened, or has ended.
    ServerClosed(u32),
    Data(StreamId, Bytes),
    /// The peer has said all.
    Ended(StreamId),
    Closed(StreamId, Option<String>),
    Found(u32, Vec<PeerRecord>),
    Finished(u32),
}

enum Phase {
    Dialling,
    /// The client was asked whether it takes the connection.
    Offered {
        offer: u32,
        server: u32,
        remote: Key,
        hash: [u8; 64],
        until: Instant,
    },
    Open,
}

struct Stream {
    /// The client's name for it, once it has told one.
    theirs: Option<u32>,
    phase: Phase,
    /// The client knows that the peer has said all.
    ended: bool,
    until: Option<Instant>,
}

pub(crate) struct Session {
    accounts: Arc<Mutex<Accounts>>,
    member: Option<(Key, MemberLimits)>,
    streams: BTreeMap<StreamId, Stream>,
    by_theirs: HashMap<u32, StreamId>,
    /// Ours, and the client's name.
    servers: BTreeMap<u32, u32>,
    queries: BTreeMap<u32, u32>,
    next_id: u32,
    identify_until: Instant,
    heard_at: Instant,
    ping_at: Instant,
    commands: VecDeque<Command>,
}

fn lock(accounts: &Mutex<Accounts>) -> MutexGuard<'_, Accounts> {
    accounts.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The key pair of a custodial client; it must be one.
fn key_pair(custody: &Custody) -> Result<KeyPair, SessionEnd> {
    let secret_key = custody.secret_key.as_ref().ok_or(SessionEnd::NotCustodial)?;
    let seed = secret_key.first_chunk().ok_or(SessionEnd::NotCustodial)?;
    let key_pair = KeyPair::from_seed(*seed);
    if key_pair.public_key() == &custody.public_key {
        Ok(key_pair)
    } else {
        Err(SessionEnd::NotCustodial)
    }
}

/// What JavaScript's lookups yield: token, node asked, our address as it saw it, peers. The first three mean nothing to a client
/// that can not send datagrams, and are zeros.
fn announcers(peers: &[PeerRecord]) -> Bytes {
    let nobody = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
    let address = |writer: &mut Writer, address: SocketAddrV4| {
        writer.fixed(&address.ip().octets()).u16(address.port());
    };
    let mut writer = Writer::new();
    writer.fixed(&[0; 32]);
    for _ in 0..2 {
        writer.buffer(&[]);
        address(&mut writer, nobody);
    }
    writer.array_len(peers.len());
    for peer in peers {
        writer
            .fixed(&peer.public_key)
            .array_len(peer.relay_addresses.len());
        for relay in &peer.relay_addresses {
            address(&mut writer, *relay);
        }
    }
    writer.into_vec().into()
}

impl Session {
    pub(crate) fn new(accounts: Arc<Mutex<Accounts>>, now: Instant) -> Self {
        Self {
            accounts,
            member: None,
            streams: BTreeMap::new(),
            by_theirs: HashMap::new(),
            servers: BTreeMap::new(),
            queries: BTreeMap::new(),
            next_id: 1,
            identify_until: now + ANSWER_WAIT,
            heard_at: now,
            ping_at: now + PING_EVERY,
            commands: VecDeque::new(),
        }
    }

    pub(crate) fn identity(&self) -> Option<&Key> {
        self.member.as_ref().map(|(identity, _)| identity)
    }

    pub(crate) fn has_streams(&self) -> bool {
        !self.streams.is_empty()
    }

    pub(crate) fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    fn send(&mut self, message: Message) {
        self.commands.push_back(Command::Send(message));
    }

    fn fresh_id(&mut self) -> u32 {
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1).max(1);
        id
    }

    /// Takes a message of the client.
    pub(crate) fn on_message(&mut self, now: Instant, number: u64, bytes: &[u8]) -> Result<(), SessionEnd> {
        self.heard_at = now;
        let message = match Message::decode(number, bytes) {
            // A later version's.
            Err(DhtRelayError::Number(_)) => return Ok(()),
            decoded => decoded?,
        };
        match (message, &self.member) {
            (Message::Ping, _) => self.send(Message::Pong),
            (Message::Pong, _) => {}
            (Message::Handshake { custody }, None) => {
                let identity = *key_pair(&custody)?.public_key();
                let limits = lock(&self.accounts).admit(now, identity)?;
                self.member = Some((identity, limits));
            }
            (Message::Handshake { .. }, Some(_)) => {
                return Err(SessionEnd::Protocol("it said twice who it is"));
            }
            (_, None) => return Err(SessionEnd::Protocol("it did not say who it is")),
            (message, Some(_)) => self.on_request(now, message)?,
        }
        Ok(())
    }

    fn on_request(&mut self, now: Instant, message: Message) -> Result<(), SessionEnd> {
        match message {
            Message::Connect {
                alias,
                custody,
                remote_public_key,
            } => self.dial(now, alias, &custody, remote_public_key)?,
            Message::Listen { alias, custody } => self.listen(alias, &custody)?,
            Message::Close { alias } => {
                let found = self.servers.iter().find(|(_, theirs)| **theirs == alias);
                if let Some(server) = found.map(|(server, _)| *server) {
                    self.commands.push_back(Command::CloseServer(server));
                }
            }
            Message::Accept { id } => self.answer_offer(now, id, true),
            Message::Deny { id } => self.answer_offer(now, id, false),
            Message::Connected { alias, remote_alias } => self.name_stream(alias, remote_alias)?,
            Message::Data { alias, data } => self.write(now, alias, data),
            Message::End { alias } => {
                if let Some(stream) = self.by_theirs.get(&alias) {
                    self.commands.push_back(Command::Finish(*stream));
                }
            }
            Message::Destroy { alias, .. } => {
                if let Some(stream) = alias.and_then(|alias| self.by_theirs.get(&alias).copied()) {
                    self.forget(stream);
                    self.commands.push_back(Command::Destroy(stream));
                }
            }
            Message::Lookup { id, topic } => self.query(id, Query::Lookup(topic)),
            Message::Announce { id, topic, custody } => {
                let key_pair = key_pair(&custody)?;
                self.query(id, Query::Announce(topic, key_pair));
            }
            Message::Unannounce { id, topic, custody } => {
                let key_pair = key_pair(&custody)?;
                self.query(id, Query::Unannounce(topic, key_pair));
            }
            // What a relay says, or what clients say that keep their secret keys.
            _ => {
                return Err(SessionEnd::Protocol(
                    "it sent a message that is not a custodial client's",
                ));
            }
        }
        Ok(())
    }

    fn dial(&mut self, now: Instant, alias: u32, custody: &Custody, remote: Key) -> Result<(), SessionEnd> {
        let key_pair = key_pair(custody)?;
        if self.by_theirs.contains_key(&alias) {
            return Err(SessionEnd::Protocol("it gave two streams one name"));
        }
        let Some(stream) = self.add_stream(now, Phase::Dialling) else {
            self.send(Message::Destroy {
                alias: None,
                remote_alias: Some(alias),
                error: Some("the relay has no room for another stream of yours".to_owned()),
            });
            return Ok(());
        };
        self.name(stream, alias);
        self.commands.push_back(Command::Dial {
            stream,
            key_pair,
            remote,
        });
        Ok(())
    }

    fn add_stream(&mut self, now: Instant, phase: Phase) -> Option<StreamId> {
        let (identity, limits) = self.member.as_ref()?;
        if !lock(&self.accounts).take_stream(identity, limits) {
            return None;
        }
        let until = limits.link_duration.map(|duration| now + duration);
        let id = self.fresh_id();
        let stream = Stream {
            theirs: None,
            phase,
            ended: false,
            until,
        };
        self.streams.insert(id, stream);
        Some(id)
    }

    fn name(&mut self, stream: StreamId, theirs: u32) {
        if let Some(entry) = self.streams.get_mut(&stream) {
            entry.theirs = Some(theirs);
            self.by_theirs.insert(theirs, stream);
        }
    }

    fn name_stream(&mut self, theirs: u32, stream: StreamId) -> Result<(), SessionEnd> {
        if self.by_theirs.contains_key(&theirs) {
            return Err(SessionEnd::Protocol("it gave two streams one name"));
        }
        let nameless = |stream: &Stream| stream.theirs.is_none() && matches!(stream.phase, Phase::Open);
        if self.streams.get(&stream).is_some_and(nameless) {
            self.name(stream, theirs);
        }
        Ok(())
    }

    /// Takes a stream out of the books; whoever calls tells the sides.
    fn forget(&mut self, stream: StreamId) -> Option<Stream> {
        let entry = self.streams.remove(&stream)?;
        if let Some(theirs) = entry.theirs {
            self.by_theirs.remove(&theirs);
        }
        if let Some((identity, _)) = &self.member {
            lock(&self.accounts).return_stream(identity);
        }
        Some(entry)
    }

    /// Ends a stream and tells the client why.
    fn end_stream(&mut self, stream: StreamId, error: Option<String>) {
        let Some(entry) = self.forget(stream) else { return };
        let message = match (entry.phase, entry.theirs) {
            (Phase::Open, _) => (Some(stream), None),
            (Phase::Dialling, Some(theirs)) => (None, Some(theirs)),
            _ => return,
        };
        self.send(Message::Destroy {
            alias: message.0,
            remote_alias: message.1,
            error,
        });
    }

    fn listen(&mut self, alias: u32, custody: &Custody) -> Result<(), SessionEnd> {
        let key_pair = key_pair(custody)?;
        if self.servers.values().any(|theirs| *theirs == alias) {
            return Err(SessionEnd::Protocol("it gave two servers one name"));
        }
        if self.servers.len() >= lock(&self.accounts).limits.servers_per_client {
            return Err(SessionEnd::Protocol("it listens on too many keys"));
        }
        let server = self.fresh_id();
        self.servers.insert(server, alias);
        self.commands.push_back(Command::Listen { server, key_pair });
        Ok(())
    }

    /// A peer connected to a server of the client's. `None`: there is no room; drop it. Otherwise keep it until
    /// [`Command::Start`] or [`Command::Destroy`].
    pub(crate) fn on_incoming(
        &mut self,
        now: Instant,
        server: u32,
        remote: Key,
        hash: [u8; 64],
    ) -> Option<StreamId> {
        if !self.servers.contains_key(&server) {
            return None;
        }
        let offer = self.fresh_id();
        let phase = Phase::Offered {
            offer,
            server,
            remote,
            hash,
            until: now + ANSWER_WAIT,
        };
        let stream = self.add_stream(now, phase)?;
        self.send(Message::Incoming {
            id: offer,
            server_alias: server,
            remote_public_key: remote,
            payload: Bytes::from_static(EMPTY_NOISE_PAYLOAD),
        });
        Some(stream)
    }

    fn answer_offer(&mut self, now: Instant, id: u32, taken: bool) {
        let found = self
            .streams
            .iter_mut()
            .find_map(|(stream, entry)| match entry.phase {
                Phase::Offered {
                    offer,
                    server,
                    remote,
                    hash,
                    until,
                } if offer == id && now <= until => Some((*stream, entry, server, remote, hash)),
                _ => None,
            });
        let Some((stream, entry, server, remote, hash)) = found else {
            return;
        };
        if taken {
            entry.phase = Phase::Open;
            self.send(Message::Connection {
                alias: stream,
                server_alias: server,
                remote_public_key: remote,
                handshake: Handshaken::Hash(hash),
            });
            self.commands.push_back(Command::Start(stream));
        } else {
            self.forget(stream);
            self.commands.push_back(Command::Destroy(stream));
        }
    }

    /// Charges the client for bytes; a used-up quota ends the stream.
    fn charge(&mut self, now: Instant, stream: StreamId, bytes: usize, to_peer: bool) -> bool {
        let Some((identity, limits)) = &self.member else {
            return false;
        };
        let paid = {
            let mut accounts = lock(&self.accounts);
            let paid = accounts.charge(now, (identity, limits), bytes as u64, to_peer);
            if !paid {
                accounts.counters.streams_exhausted += 1;
            }
            paid
        };
        if !paid {
            self.end_stream(stream, Some("the quota of bytes is used up".to_owned()));
            self.commands.push_back(Command::Destroy(stream));
        }
        paid
    }

    fn write(&mut self, now: Instant, alias: u32, data: Vec<Bytes>) {
        let Some(stream) = self.by_theirs.get(&alias).copied() else {
            return;
        };
        let bytes = data.iter().map(Bytes::len).sum();
        if self.charge(now, stream, bytes, true) {
            self.commands.push_back(Command::Write(stream, data));
        }
    }

    fn query(&mut self, theirs: u32, query: Query) {
        {
            let mut accounts = lock(&self.accounts);
            accounts.counters.queries += 1;
            if self.queries.len() >= accounts.limits.queries_per_client {
                drop(accounts);
                self.send(Message::Finished { id: theirs });
                return;
            }
        }
        let id = self.fresh_id();
        self.queries.insert(id, theirs);
        self.commands.push_back(Command::Query(id, query));
    }

    /// Takes what happened. What is about streams that are gone is ignored.
    pub(crate) fn on_occurrence(&mut self, now: Instant, occurrence: Occurrence) {
        match occurrence {
            Occurrence::Connected(stream, hash) => {
                let Some(entry) = self.streams.get_mut(&stream) else {
                    return;
                };
                entry.phase = Phase::Open;
                let Some(theirs) = entry.theirs else { return };
                self.send(Message::Open {
                    alias: stream,
                    remote_alias: theirs,
                    handshake: Handshaken::Hash(hash),
                });
            }
            Occurrence::DialFailed(stream, error) => self.end_stream(stream, Some(error)),
            // A clean end: to destroy the client's side would take from it what it has not read yet.
            Occurrence::Closed(stream, None) => {
                self.on_ended(stream);
                self.forget(stream);
            }
            Occurrence::Closed(stream, error) => self.end_stream(stream, error),
            Occurrence::Data(stream, data) => {
                if self.streams.contains_key(&stream) && self.charge(now, stream, data.len(), false) {
                    self.send(Message::Data {
                        alias: stream,
                        data: vec![data],
                    });
                }
            }
            Occurrence::Ended(stream) => self.on_ended(stream),
            Occurrence::Listening(server, address) => {
                if let Some(theirs) = self.servers.get(&server).copied() {
                    self.send(Message::Listening {
                        alias: server,
                        remote_alias: theirs,
                        address,
                    });
                }
            }
            Occurrence::ServerClosed(server) => {
                if self.servers.remove(&server).is_some() {
                    self.send(Message::Closed { alias: server });
                }
            }
            Occurrence::Found(query, peers) => {
                if let Some(theirs) = self.queries.get(&query).copied() {
                    for peers in peers.chunks(PEERS_PER_RESULT) {
                        self.send(Message::Result {
                            id: theirs,
                            data: announcers(peers),
                        });
                    }
                }
            }
            Occurrence::Finished(query) => {
                if let Some(theirs) = self.queries.remove(&query) {
                    self.send(Message::Finished { id: theirs });
                }
            }
        }
    }

    fn on_ended(&mut self, stream: StreamId) {
        if let Some(entry) = self.streams.get_mut(&stream)
            && !std::mem::replace(&mut entry.ended, true)
        {
            self.send(Message::End { alias: stream });
        }
    }

    pub(crate) fn poll_timeout(&self) -> Instant {
        let streams = self.streams.values().filter_map(|stream| match stream.phase {
            Phase::Offered { until, .. } => Some(until),
            _ => stream.until,
        });
        let identify = self.member.is_none().then_some(self.identify_until);
        streams
            .chain(identify)
            .fold(self.ping_at.min(self.heard_at + SILENCE), Instant::min)
    }

    /// `is_heard`: whether the client's messages are being read; if not, its silence is ours.
    pub(crate) fn handle_timeout(&mut self, now: Instant, is_heard: bool) -> Result<(), SessionEnd> {
        if !is_heard {
            self.heard_at = now;
        }
        if now >= self.heard_at + SILENCE || (self.member.is_none() && now >= self.identify_until) {
            return Err(SessionEnd::Silent);
        }
        if now >= self.ping_at {
            self.ping_at = now + PING_EVERY;
            self.send(Message::Ping);
        }
        let due: Vec<StreamId> = self
            .streams
            .iter()
            .filter(|(_, stream)| match stream.phase {
                Phase::Offered { until, .. } => until <= now,
                _ => stream.until.is_some_and(|until| until <= now),
            })
            .map(|(id, _)| *id)
            .collect();
        for stream in due {
            lock(&self.accounts).counters.streams_exhausted += 1;
            self.end_stream(stream, Some("the stream has lasted as long as it may".to_owned()));
            self.commands.push_back(Command::Destroy(stream));
        }
        Ok(())
    }

    /// Asks the policy again, and takes its new limits.
    pub(crate) fn review(&mut self) -> Result<(), SessionEnd> {
        if let Some((identity, limits)) = &mut self.member {
            *limits = lock(&self.accounts)
                .limits_of(identity)
                .ok_or(SessionEnd::Refused(Refusal::NotAdmitted))?;
        }
        Ok(())
    }

    /// Gives back everything that the client held.
    pub(crate) fn end(&mut self) {
        while let Some(stream) = self.streams.keys().next().copied() {
            self.forget(stream);
        }
        lock(&self.accounts).leave(self.identity());
    }
}
