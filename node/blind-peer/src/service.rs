//! What one connection asks and is told: the RPC, the message `cores`, and groups that are woken up.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use cumulet_hypercore::crypto::discovery_key;
use cumulet_hypercore::driver::Service;
use cumulet_protomux::{ChannelId, Event, Mux, Request as Opening};
use cumulet_relay::Key;
use cumulet_relay::blind_peer::{AddCore, CoreRecord, Cores, DeleteCore, MUXER_PROTOCOL, method};
use cumulet_relay::protomux_rpc::{self as rpc, Cause, RemoteError, Request, Response};
use cumulet_relay::wakeup::{self, CoreHint, Handshake};
use cumulet_secret_stream::noise::HandshakeResult;
use tokio::sync::{Notify, mpsc, oneshot};

use crate::keeper::Keeper;

/// Requests of one connection that wait for their answers; a further one is refused.
const MAX_WAITING: usize = 64;
/// Groups that one connection is told about.
const MAX_GROUPS: usize = 256;
/// Cores taken of one message; JavaScript sends 12 at most.
const MAX_CORES: usize = 256;
/// Hints that wait for one group: they replace each other, and are hints.
const MAX_HINTS: usize = 32;

/// What is wanted of the server.
#[derive(Debug)]
pub(crate) enum Job {
    /// By a connection.
    Ask {
        identity: Key,
        outbox: Arc<Outbox>,
        wish: Wish,
    },
    /// By the node: a record of a backup. The answer is whether it is on disk.
    Restore {
        owner: Key,
        record: CoreRecord,
        done: oneshot::Sender<bool>,
    },
}

#[derive(Debug, Clone)]
pub(crate) enum Wish {
    /// The request's id, 0 for none.
    Add(u64, AddCore),
    Delete(u64, Key),
    Cores(Cores),
}

#[derive(Debug, Default)]
struct Waiting {
    responses: Vec<Response>,
    /// Requests that have been handed over and not been answered.
    asked: usize,
    groups: BTreeMap<Key, BTreeMap<Key, u64>>,
    /// Groups that have a channel, or are about to.
    followed: HashSet<Key>,
}

/// What the server tells a connection.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    waiting: Mutex<Waiting>,
    wake: Arc<Notify>,
}

impl Outbox {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn respond(&self, response: Response) {
        self.lock().responses.push(response);
        self.wake.notify_one();
    }

    /// Whether the connection is to hear of this group.
    pub(crate) fn follows(&self, group: &Key) -> bool {
        self.lock().followed.contains(group)
    }

    /// The group has news; without a hint, the peer only gets to hear from now on.
    pub(crate) fn tell(&self, group: Key, hint: Option<CoreHint>) {
        let mut waiting = self.lock();
        if waiting.groups.len() < MAX_GROUPS || waiting.groups.contains_key(&group) {
            if waiting.followed.len() < MAX_GROUPS {
                waiting.followed.insert(group);
            }
            let hints = waiting.groups.entry(group).or_default();
            if let Some(hint) = hint
                && (hints.len() < MAX_HINTS || hints.contains_key(&hint.key))
            {
                hints.insert(hint.key, hint.length);
            }
        }
        drop(waiting);
        self.wake.notify_one();
    }
}

/// A failure as JavaScript's peers tell one.
pub(crate) fn failure(id: u64, cause: &str) -> Response {
    let error = RemoteError {
        message: "REQUEST_ERROR: Request failed".to_owned(),
        code: Some("REQUEST_ERROR".to_owned()),
        cause: Some(Cause {
            message: cause.to_owned(),
            code: None,
            context: None,
        }),
    };
    Response {
        id,
        result: Err(error),
    }
}

fn malformed(id: u64, code: &str, what: &str) -> Response {
    let error = RemoteError {
        message: format!("{code}: {what}"),
        code: Some(code.to_owned()),
        cause: None,
    };
    Response {
        id,
        result: Err(error),
    }
}

struct Group {
    key: Key,
    is_open: bool,
}

/// One connection.
pub(crate) struct PeerService {
    public_key: Key,
    identity: Key,
    keeper: Arc<Mutex<Keeper>>,
    jobs: mpsc::Sender<Job>,
    outbox: Arc<Outbox>,
    session: Option<([u8; 64], bool)>,
    rpc: Option<ChannelId>,
    muxer: Option<ChannelId>,
    groups: HashMap<ChannelId, Group>,
}

impl PeerService {
    pub(crate) fn new(
        (public_key, identity): (Key, Key),
        keeper: Arc<Mutex<Keeper>>,
        jobs: mpsc::Sender<Job>,
        outbox: Arc<Outbox>,
    ) -> Self {
        Self {
            public_key,
            identity,
            keeper,
            jobs,
            outbox,
            session: None,
            rpc: None,
            muxer: None,
            groups: HashMap::new(),
        }
    }

    fn keeper(&self) -> MutexGuard<'_, Keeper> {
        self.keeper.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands a wish over; false if there is no room.
    fn ask(&self, wish: Wish) -> bool {
        let job = Job::Ask {
            identity: self.identity,
            outbox: self.outbox.clone(),
            wish,
        };
        self.jobs.try_send(job).is_ok()
    }

    fn on_rpc(&self, payload: &Bytes) {
        let Ok(Request { id, method, value }) = Request::decode(payload) else {
            return;
        };
        // Whatever has an id gets one answer.
        let waiting = {
            let mut waiting = self.outbox.lock();
            waiting.asked += usize::from(id != 0);
            waiting.asked
        };
        let wish = match method.as_str() {
            method::ADD_CORE => AddCore::decode(&value).map(|request| Wish::Add(id, request)),
            method::DELETE_CORE => DeleteCore::decode(&value).map(|request| Wish::Delete(id, request.key)),
            _ => {
                let response = malformed(id, "UNKNOWN_METHOD", &format!("Unknown method '{method}'"));
                return self.answer(id, response);
            }
        };
        match wish {
            Ok(wish) if waiting <= MAX_WAITING && self.ask(wish.clone()) => {}
            Ok(_) => self.answer(id, failure(id, "Too many requests at a time")),
            Err(error) => self.answer(id, malformed(id, "DECODE_ERROR", &error.to_string())),
        }
    }

    /// An event, of id 0, gets no answer.
    fn answer(&self, id: u64, response: Response) {
        if id != 0 {
            self.outbox.respond(response);
        }
    }

    fn on_cores(&self, payload: &Bytes) -> Result<(), String> {
        let mut cores =
            Cores::decode(payload).map_err(|error| format!("its cores do not decode: {error}"))?;
        cores.cores.truncate(MAX_CORES);
        // There is no answer that could say so: JavaScript's clients connect anew and ask again.
        if self.ask(Wish::Cores(cores)) {
            Ok(())
        } else {
            Err("too much is asked for at a time".to_owned())
        }
    }

    fn handshake(&self, group: &Key) -> Option<Vec<u8>> {
        let (hash, is_initiator) = self.session?;
        let handshake = Handshake {
            version: wakeup::VERSION,
            capability: wakeup::capability(group, &hash, is_initiator),
            active: true,
        };
        Some(handshake.encode())
    }

    /// Whether the remote's opening proves that it knows the group's key.
    fn is_capable(&self, group: &Key, handshake: &[u8]) -> bool {
        self.session.is_some_and(|(hash, is_initiator)| {
            let expected = wakeup::capability(group, &hash, !is_initiator);
            Handshake::decode(handshake).is_ok_and(|handshake| handshake.capability == expected)
        })
    }

    fn announce(&self, channel: ChannelId, group: &Key, mux: &mut Mux) {
        let hints = self.keeper().hints(group);
        send_hints(channel, hints, mux);
    }
}

fn send_hints(channel: ChannelId, hints: Vec<CoreHint>, mux: &mut Mux) {
    if !hints.is_empty() {
        let message = wakeup::Message::Announce(hints);
        // Far below the frame limit.
        let _ = mux.send(channel, message.number(), &message.encode());
    }
}

impl Service for PeerService {
    fn wake(&self) -> Arc<Notify> {
        self.outbox.wake.clone()
    }

    fn on_open(&mut self, session: &HandshakeResult, mux: &mut Mux) {
        self.session = Some((session.handshake_hash, session.is_initiator));
        // What was told before, if anything.
        let _ = self.on_wake(mux);
    }

    fn on_requested(&mut self, request: &Opening, mux: &mut Mux) -> bool {
        match request.protocol.as_str() {
            rpc::PROTOCOL if request.id[..] == self.public_key[..] && self.rpc.is_none() => {
                self.rpc = mux.accept(request, &[]).ok();
                self.rpc.is_some()
            }
            MUXER_PROTOCOL if request.id.is_empty() && self.muxer.is_none() => {
                self.muxer = mux.accept(request, &[]).ok();
                self.muxer.is_some()
            }
            wakeup::PROTOCOL if self.groups.len() < MAX_GROUPS => {
                let group = request.id[..]
                    .try_into()
                    .ok()
                    .and_then(|id| self.keeper().group(&id));
                let Some(key) = group.filter(|group| self.is_capable(group, &request.handshake)) else {
                    return false;
                };
                let Some(handshake) = self.handshake(&key) else {
                    return false;
                };
                let Ok(channel) = mux.accept(request, &handshake) else {
                    return false;
                };
                self.groups.insert(channel, Group { key, is_open: false });
                self.outbox.lock().followed.insert(key);
                true
            }
            _ => false,
        }
    }

    fn on_event(&mut self, event: Event, mux: &mut Mux) -> Result<(), String> {
        match event {
            Event::Opened { channel, handshake } => {
                let Some(key) = self.groups.get(&channel).map(|group| group.key) else {
                    return Ok(());
                };
                if !self.is_capable(&key, &handshake) {
                    self.groups.remove(&channel);
                    mux.close(channel);
                    return Ok(());
                }
                if let Some(group) = self.groups.get_mut(&channel) {
                    group.is_open = true;
                }
                self.announce(channel, &key, mux);
            }
            Event::Message {
                channel,
                kind: 0,
                payload,
            } if self.rpc == Some(channel) => self.on_rpc(&payload),
            Event::Message {
                channel,
                kind: 0,
                payload,
            } if self.muxer == Some(channel) => self.on_cores(&payload)?,
            Event::Message {
                channel,
                kind,
                payload,
            } => {
                let lookup = matches!(
                    wakeup::Message::decode(kind, &payload),
                    Ok(wakeup::Message::Lookup { .. })
                );
                if let Some(key) = self
                    .groups
                    .get(&channel)
                    .filter(|_| lookup)
                    .map(|group| group.key)
                {
                    self.announce(channel, &key, mux);
                }
            }
            Event::Closed { channel, .. } => {
                if let Some(group) = self.groups.remove(&channel) {
                    self.outbox.lock().followed.remove(&group.key);
                }
                for own in [&mut self.rpc, &mut self.muxer] {
                    own.take_if(|own| *own == channel);
                }
            }
            Event::Requested(_) => {}
        }
        Ok(())
    }

    fn on_wake(&mut self, mux: &mut Mux) -> Result<(), String> {
        if self.session.is_none() {
            return Ok(());
        }
        let (responses, groups) = {
            let mut waiting = self.outbox.lock();
            let responses = std::mem::take(&mut waiting.responses);
            waiting.asked = waiting.asked.saturating_sub(responses.len());
            (responses, std::mem::take(&mut waiting.groups))
        };
        if let Some(rpc) = self.rpc {
            for response in responses {
                // Far below the frame limit.
                let _ = mux.send(rpc, 1, &response.encode());
            }
        }
        for (group, hints) in groups {
            let open = self.groups.iter().find(|(_, known)| known.key == group);
            if let Some((channel, known)) = open {
                if known.is_open {
                    let hints = hints.into_iter().map(|(key, length)| CoreHint { key, length });
                    send_hints(*channel, hints.collect(), mux);
                }
            } else if self.groups.len() < MAX_GROUPS
                && let Some(handshake) = self.handshake(&group)
                && let Ok(channel) = mux.open(wakeup::PROTOCOL, &discovery_key(&group), &handshake)
            {
                let group = Group {
                    key: group,
                    is_open: false,
                };
                self.groups.insert(channel, group);
            }
        }
        Ok(())
    }
}
