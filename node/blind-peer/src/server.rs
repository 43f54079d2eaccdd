//! The tokio half: the store, the journal, the connections, and one task that carries out what the keeper decides.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use cumulet_hypercore::corestore::{CoreHandle, Corestore, CorestoreError, Download};
use cumulet_hypercore::crypto::discovery_key;
use cumulet_hypercore::driver::{ReplicateError, Session, replicate_beside};
use cumulet_relay::Key;
use cumulet_relay::blind_peer::{AddCore, CoreRecord, Cores, Deleted};
use cumulet_relay::protomux_rpc::Response;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::journal::{Entry, Journal, JournalError};
use crate::keeper::{Announced, CoreSize, Keeper, Limits, Order, Policy};
use crate::service::{Job, Outbox, PeerService, Wish, failure};

/// Requests of all connections that wait for the task; those beyond are refused.
const JOB_QUEUE: usize = 1_024;
/// Requests handled together: their records share one write to the disk.
const JOBS_AT_ONCE: usize = 256;
/// Changes of cores that wait for the task. What watches a core waits with it.
const SIZE_QUEUE: usize = 256;
/// How often sizes and activity, which nobody waits for, are made durable.
const FLUSH_EVERY: Duration = Duration::from_secs(10);
/// How often a draining peer looks whether its connections have ended.
const DRAIN_LOOK: Duration = Duration::from_millis(50);

/// How a blind peer is run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Our Ed25519 public key: what clients dial, and the id of the RPC's channel.
    pub public_key: Key,
    /// The file of records; made if it is missing. One blind peer at a time.
    pub journal: PathBuf,
    /// Its bounds.
    pub limits: Limits,
    /// Cores that are open because they are followed. Beyond, those that were asked for longest ago are closed; peers still
    /// read them, but they are not downloaded before somebody asks again.
    pub open_cores: usize,
    /// Connections at a time.
    pub connections: usize,
}

impl Options {
    /// Default bounds: 1024 open cores, 512 connections.
    pub fn new(public_key: Key, journal: PathBuf) -> Self {
        Self {
            public_key,
            journal,
            limits: Limits::default(),
            open_cores: 1_024,
            connections: 512,
        }
    }
}

/// A blind peer could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Its journal is unusable.
    #[error("failed to open the blind peer")]
    Journal(#[from] JournalError),
}

/// Counters since the start, and gauges, for metrics. No label: identities are unbounded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connections now.
    pub connections: u64,
    /// Connections turned away: too many, or draining.
    pub connections_refused: u64,
    /// Cores kept.
    pub cores: u64,
    /// Of them, those to be announced.
    pub announced: u64,
    /// Of them, those that are followed and lack blocks.
    pub behind: u64,
    /// Bytes of their blocks, had or promised.
    pub bytes: u64,
    /// Cores asked to be kept, those that were kept already included.
    pub added: u64,
    /// Cores refused: by quotas, bounds or the policy.
    pub refused: u64,
    /// Cores deleted.
    pub deleted: u64,
    /// Requests to delete that were refused.
    pub deletes_refused: u64,
    /// Bytes given back.
    pub cleared_bytes: u64,
    /// Times that a connection was told of news of a group.
    pub woken: u64,
}

#[derive(Default)]
struct Tally {
    connections: AtomicUsize,
    connections_refused: AtomicU64,
    added: AtomicU64,
    refused: AtomicU64,
    deleted: AtomicU64,
    deletes_refused: AtomicU64,
    woken: AtomicU64,
}

struct Shared {
    options: Options,
    store: Corestore,
    keeper: Arc<Mutex<Keeper>>,
    jobs: mpsc::Sender<Job>,
    outboxes: Mutex<Vec<Weak<Outbox>>>,
    tally: Tally,
    announced: watch::Sender<Vec<Announced>>,
    cancel: CancellationToken,
    draining: CancellationToken,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn now_ms() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0)
}

/// A blind peer. Clones share it.
#[derive(Clone)]
pub struct BlindPeer {
    shared: Arc<Shared>,
}

impl fmt::Debug for BlindPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlindPeer")
            .field("counters", &self.counters())
            .finish_non_exhaustive()
    }
}

impl BlindPeer {
    /// Opens a blind peer that keeps cores in `store`, with the records of its last run. Its tasks run on `tasks` and end when
    /// `cancel` is cancelled; the store stays open. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(
        store: Corestore,
        policy: Arc<dyn Policy>,
        options: Options,
        tasks: &TaskTracker,
        cancel: &CancellationToken,
    ) -> Result<Self, OpenError> {
        let (journal, records) = Journal::open(&options.journal)?;
        let mut keeper = Keeper::new(options.limits, policy);
        for (owner, record) in records {
            keeper.restore(owner, record);
        }
        let (jobs, queue) = mpsc::channel(JOB_QUEUE);
        let pinned: Vec<Announced> = keeper.announced().collect();
        let shared = Arc::new(Shared {
            options,
            store,
            keeper: Arc::new(Mutex::new(keeper)),
            jobs,
            outboxes: Mutex::default(),
            tally: Tally::default(),
            announced: watch::Sender::new(pinned.clone()),
            cancel: cancel.child_token(),
            draining: CancellationToken::new(),
        });
        tasks.spawn(Actor::new(shared.clone(), journal).run(queue, pinned));
        Ok(Self { shared })
    }

    /// Serves one connection, with replication of the store on it, until it ends. `identity` is the peer's public key,
    /// authenticated.
    ///
    /// # Errors
    /// Those of replication; [`ReplicateError::Service`] if there is no room for the connection.
    pub async fn serve<Io>(&self, io: Io, identity: Key, session: Session) -> Result<(), ReplicateError>
    where
        Io: AsyncRead + AsyncWrite + Send + Unpin,
    {
        let _place = Place::take(&self.shared).ok_or_else(|| {
            ReplicateError::Service(
                "this blind peer has as many connections as it can, or is about to stop".to_owned(),
            )
        })?;
        let outbox = Arc::new(Outbox::default());
        {
            let mut outboxes = lock(&self.shared.outboxes);
            outboxes.retain(|outbox| outbox.strong_count() > 0);
            outboxes.push(Arc::downgrade(&outbox));
        }
        let service = PeerService::new(
            (self.shared.options.public_key, identity),
            self.shared.keeper.clone(),
            self.shared.jobs.clone(),
            outbox,
        );
        let cancel = self.shared.cancel.child_token();
        replicate_beside(
            self.shared.store.clone(),
            io,
            session,
            Some(Box::new(service)),
            cancel,
        )
        .await
    }

    /// The cores to be announced on the DHT, under the key that this peer is dialled by; it changes as trusted identities ask
    /// and as blocks come.
    pub fn announced(&self) -> watch::Receiver<Vec<Announced>> {
        self.shared.announced.subscribe()
    }

    /// A core's record.
    pub fn record(&self, key: &Key) -> Option<CoreRecord> {
        lock(&self.shared.keeper)
            .record(key)
            .map(|(record, _)| record.clone())
    }

    /// Counters and gauges, now.
    pub fn counters(&self) -> Counters {
        let keeper = lock(&self.shared.keeper);
        let tally = &self.shared.tally;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counters {
            connections: tally.connections.load(Ordering::Relaxed) as u64,
            connections_refused: read(&tally.connections_refused),
            cores: keeper.len() as u64,
            announced: keeper.announced().count() as u64,
            behind: keeper.behind() as u64,
            bytes: keeper.bytes(),
            added: read(&tally.added),
            refused: read(&tally.refused),
            deleted: read(&tally.deleted),
            deletes_refused: read(&tally.deletes_refused),
            cleared_bytes: keeper.cleared_bytes(),
            woken: read(&tally.woken),
        }
    }

    /// Takes no connection any more, waits for those that are there for `patience` at most, and ends the rest.
    pub async fn drain(&self, patience: Duration) {
        self.shared.draining.cancel();
        let quiet = async {
            while self.shared.tally.connections.load(Ordering::Relaxed) > 0 {
                tokio::time::sleep(DRAIN_LOOK).await;
            }
        };
        let _ = tokio::time::timeout(patience, quiet).await;
        self.shared.cancel.cancel();
    }
}

/// A place among the connections.
struct Place<'a>(&'a Shared);

impl<'a> Place<'a> {
    fn take(shared: &'a Shared) -> Option<Self> {
        let tally = &shared.tally;
        let place = Self(shared);
        let before = tally.connections.fetch_add(1, Ordering::Relaxed);
        let has_room = before < shared.options.connections && !shared.draining.is_cancelled();
        if has_room {
            return Some(place);
        }
        tally.connections_refused.fetch_add(1, Ordering::Relaxed);
        None
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.tally.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A core that is open because it is followed.
struct Followed {
    core: CoreHandle,
    download: Download,
    watcher: AbortHandle,
    used: u64,
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}

/// An answer that waits until the disk has what it says.
type Answer = (Arc<Outbox>, Response);

struct Actor {
    shared: Arc<Shared>,
    /// None while it is being written, and after that failed badly.
    journal: Option<Journal>,
    followed: HashMap<Key, Followed>,
    watchers: tokio::task::JoinSet<()>,
    sizes: mpsc::Sender<(Key, CoreSize)>,
    changed: mpsc::Receiver<(Key, CoreSize)>,
    /// Records to be written with the next flush.
    dirty: BTreeSet<Key>,
    uses: u64,
}

impl Actor {
    fn new(shared: Arc<Shared>, journal: Journal) -> Self {
        let (sizes, changed) = mpsc::channel(SIZE_QUEUE);
        Self {
            shared,
            journal: Some(journal),
            followed: HashMap::new(),
            watchers: tokio::task::JoinSet::new(),
            sizes,
            changed,
            dirty: BTreeSet::new(),
            uses: 0,
        }
    }

    async fn run(mut self, mut queue: mpsc::Receiver<Job>, pinned: Vec<Announced>) {
        for Announced { key, .. } in pinned {
            let from = lock(&self.shared.keeper)
                .record(&key)
                .map_or(0, |(record, _)| record.blocks_cleared);
            self.follow(key, from).await;
        }
        let cancel = self.shared.cancel.clone();
        let mut flush = tokio::time::interval(FLUSH_EVERY);
        let mut jobs = Vec::new();
        loop {
            let count = tokio::select! {
                () = cancel.cancelled() => break,
                count = queue.recv_many(&mut jobs, JOBS_AT_ONCE) => count,
                Some((key, size)) = self.changed.recv() => {
                    lock(&self.shared.keeper).on_size(now_ms(), &key, size);
                    self.carry_out(false).await;
                    continue;
                }
                _ = flush.tick() => {
                    self.flush().await;
                    continue;
                }
                Some(_) = self.watchers.join_next(), if !self.watchers.is_empty() => continue,
            };
            if count == 0 {
                break;
            }
            let answers: Vec<Answer> = jobs.drain(..).filter_map(|job| self.handle(job)).collect();
            let kept = self.carry_out(true).await;
            for (outbox, answer) in answers {
                let answer = if kept {
                    answer
                } else {
                    failure(answer.id, "The record could not be written")
                };
                outbox.respond(answer);
            }
        }
        self.flush().await;
    }

    /// Decides about a request; the answer, if it wants one.
    fn handle(
        &self,
        Job {
            identity,
            outbox,
            wish,
        }: Job,
    ) -> Option<Answer> {
        let tally = &self.shared.tally;
        let mut keeper = lock(&self.shared.keeper);
        let (id, result) = match wish {
            Wish::Add(id, request) => {
                let added = keeper.add(now_ms(), identity, &request);
                let counter = if added.is_ok() {
                    &tally.added
                } else {
                    &tally.refused
                };
                counter.fetch_add(1, Ordering::Relaxed);
                if let (Ok(_), Some(group)) = (&added, request.referrer) {
                    outbox.tell(group, None);
                }
                (id, added.map(|record| record.encode()))
            }
            Wish::Delete(id, key) => {
                let deleted = keeper.delete(&identity, &key);
                let counter = match deleted {
                    Ok(_) => &tally.deleted,
                    Err(_) => &tally.deletes_refused,
                };
                counter.fetch_add(1, Ordering::Relaxed);
                (id, deleted.map(|existed| Deleted { existed }.encode()))
            }
            Wish::Cores(cores) => {
                drop(keeper);
                self.keep_all(&identity, &outbox, &cores);
                return None;
            }
        };
        let answer = match result {
            Ok(value) => Response {
                id,
                result: Ok(value.into()),
            },
            Err(refusal) => failure(id, &refusal.to_string()),
        };
        (id != 0).then_some((outbox, answer))
    }

    fn keep_all(&self, identity: &Key, outbox: &Arc<Outbox>, cores: &Cores) {
        let tally = &self.shared.tally;
        let mut keeper = lock(&self.shared.keeper);
        let mut kept_one = false;
        for hint in &cores.cores {
            if !keeper.is_behind(&hint.key, hint.length) {
                kept_one = true;
                continue;
            }
            let request = AddCore {
                key: hint.key,
                referrer: cores.referrer,
                priority: cores.priority,
                announce: cores.announce,
                ..AddCore::default()
            };
            let added = keeper.add(now_ms(), *identity, &request).is_ok();
            let counter = if added { &tally.added } else { &tally.refused };
            counter.fetch_add(1, Ordering::Relaxed);
            kept_one |= added;
        }
        if let (true, Some(group)) = (kept_one, cores.referrer) {
            outbox.tell(group, None);
        }
    }

    /// Carries out the keeper's orders. What is to be written is written first, at once if somebody waits for it; false if it
    /// could not be.
    async fn carry_out(&mut self, at_once: bool) -> bool {
        let orders: Vec<Order> = {
            let mut keeper = lock(&self.shared.keeper);
            std::iter::from_fn(|| keeper.poll_order()).collect()
        };
        for order in &orders {
            if let Order::Persist(key) | Order::Forget(key) = order {
                self.dirty.insert(*key);
            }
        }
        let written = !at_once || self.flush().await;
        let mut is_announced_changed = false;
        for order in orders {
            match order {
                Order::Persist(_) | Order::Forget(_) => {}
                Order::Follow(key, from) => self.follow(key, from).await,
                Order::Clear(key, upto) => self.clear(key, upto).await,
                Order::Delete(key) => {
                    self.followed.remove(&key);
                    if let Err(error) = self.shared.store.remove(&discovery_key(&key)).await {
                        tracing::error!(%error, "failed to delete a core of a blind peer's");
                    }
                }
                Order::Wake(group, hint) => {
                    let outboxes = lock(&self.shared.outboxes);
                    for outbox in outboxes.iter().filter_map(Weak::upgrade) {
                        if outbox.follows(&group) {
                            outbox.tell(group, Some(hint));
                            self.shared.tally.woken.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
                Order::Announced => is_announced_changed = true,
            }
        }
        if is_announced_changed {
            let pinned = lock(&self.shared.keeper).announced().collect();
            self.shared.announced.send_replace(pinned);
        }
        written
    }

    /// Makes durable what has changed; false if it can't be.
    async fn flush(&mut self) -> bool {
        if self.dirty.is_empty() {
            return true;
        }
        let Some(mut journal) = self.journal.take() else {
            return false;
        };
        let entry = |owner: &Key, record: &CoreRecord| Entry::Record(*owner, record.clone());
        let (changes, all) = {
            let keeper = lock(&self.shared.keeper);
            let changes: Vec<Entry> = self
                .dirty
                .iter()
                .map(|key| match keeper.record(key) {
                    Some((record, owner)) => entry(owner, record),
                    None => Entry::End(*key),
                })
                .collect();
            let all: Option<Vec<Entry>> = journal.is_wasteful(keeper.len()).then(|| {
                keeper
                    .records()
                    .map(|(record, owner)| entry(owner, record))
                    .collect()
            });
            (changes, all)
        };
        let writing = tokio::task::spawn_blocking(move || {
            let written = match &all {
                Some(all) => journal.rewrite(all),
                None => journal.append(&changes),
            };
            (journal, written)
        });
        let Ok((journal, written)) = writing.await else {
            return false;
        };
        self.journal = Some(journal);
        match written {
            Ok(()) => {
                self.dirty.clear();
                true
            }
            Err(error) => {
                tracing::error!(%error, "failed to write a blind peer's records");
                false
            }
        }
    }

    async fn follow(&mut self, key: Key, from: u64) {
        self.uses += 1;
        if let Some(followed) = self.followed.get_mut(&key) {
            followed.used = self.uses;
            return;
        }
        let core = match self.shared.store.get(key).await {
            Ok(core) => core,
            Err(CorestoreError::Closed) => return,
            Err(error) => {
                tracing::warn!(%error, "failed to open a core of a blind peer's");
                return;
            }
        };
        let download = core.download(from..u64::MAX).await;
        let watcher = self
            .watchers
            .spawn(watch_size(core.clone(), key, self.sizes.clone()));
        let used = self.uses;
        self.followed.insert(
            key,
            Followed {
                core,
                download,
                watcher,
                used,
            },
        );
        if self.followed.len() > self.shared.options.open_cores
            && let Some(oldest) = self
                .followed
                .iter()
                .min_by_key(|(_, followed)| followed.used)
                .map(|(key, _)| *key)
        {
            self.followed.remove(&oldest);
        }
    }

    async fn clear(&mut self, key: Key, upto: u64) {
        let core = match self.followed.get_mut(&key) {
            Some(followed) => {
                followed.download = followed.core.download(upto..u64::MAX).await;
                followed.core.clone()
            }
            None => match self.shared.store.find(&discovery_key(&key)).await {
                Ok(Some(core)) => core,
                _ => return,
            },
        };
        if let Err(error) = core.clear(0..upto).await {
            tracing::error!(%error, "failed to give back blocks of a blind peer's core");
        }
    }
}

/// Tells the actor of the core's size, now and whenever it changes.
async fn watch_size(core: CoreHandle, key: Key, sizes: mpsc::Sender<(Key, CoreSize)>) {
    let mut states = core.watch();
    loop {
        let state = *states.borrow_and_update();
        let size = CoreSize {
            length: state.length,
            byte_length: state.byte_length,
            contiguous_length: state.contiguous_length,
            held_blocks: state.held_blocks,
        };
        if sizes.send((key, size)).await.is_err() || states.changed().await.is_err() {
            return;
        }
    }
}
