//! The tokio half: the store, the journal and the connections; [`actor`] is the one task that carries out what the keeper decides.

mod actor;

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use cumulet_hypercore::corestore::{CoreHandle, Corestore};
use cumulet_hypercore::driver::{ReplicateError, Session, replicate_beside};
use cumulet_relay::Key;
use cumulet_relay::blind_peer::CoreRecord;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::actor::Actor;
use crate::journal::{Journal, JournalError};
use crate::keeper::{Announced, Keeper, Limits, Policy};
use crate::service::{Job, Outbox, PeerService};

/// Requests of all connections that wait for the task; those beyond are refused.
const JOB_QUEUE: usize = 1_024;
/// How often a draining peer looks whether its connections have ended.
const DRAIN_LOOK: Duration = Duration::from_millis(50);

/// How a blind peer is run.
#[derive(Clone)]
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
    /// Who is told of open cores.
    pub companion: Option<Arc<dyn Companion>>,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("journal", &self.journal)
            .finish_non_exhaustive()
    }
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
            companion: None,
        }
    }
}

/// Told of kept cores as they are opened and closed, in the blind peer's own task: a node backs them up. Must return at once.
pub trait Companion: Send + Sync + 'static {
    /// The core is open and downloaded, for this owner.
    fn opened(&self, core: &CoreHandle, owner: &Key);
    /// The blind peer has closed the core, and keeps what it has of it.
    fn closed(&self, key: &Key);
    /// The core is about to be deleted.
    fn deleted(&self, key: &Key);
}

/// A blind peer could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Its journal is unusable.
    #[error("failed to open the blind peer")]
    Journal(#[from] JournalError),
}

/// A record could not be restored.
#[derive(Debug, thiserror::Error)]
#[error("failed to restore a record: the blind peer's journal can't be written, or it has ended")]
#[non_exhaustive]
pub struct RestoreError;

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
    /// Counts the writes of records.
    written: watch::Sender<u64>,
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
            written: watch::Sender::new(0),
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

    /// All records, each with its owner; some may be a few seconds ahead of the disk.
    pub fn records(&self) -> Vec<(Key, CoreRecord)> {
        let keeper = lock(&self.shared.keeper);
        let records = keeper.records();
        records.map(|(record, owner)| (*owner, record.clone())).collect()
    }

    /// Changes with every write of records.
    pub fn written(&self) -> watch::Receiver<u64> {
        self.shared.written.subscribe()
    }

    /// Keeps a core as an earlier run did, from a backup of its [`BlindPeer::records`]; returns when that is on disk. Does nothing
    /// to a core that is kept.
    ///
    /// # Errors
    /// [`RestoreError`].
    pub async fn restore(&self, owner: Key, record: CoreRecord) -> Result<(), RestoreError> {
        let (done, kept) = oneshot::channel();
        let job = Job::Restore { owner, record, done };
        self.shared.jobs.send(job).await.map_err(|_| RestoreError)?;
        match kept.await {
            Ok(true) => Ok(()),
            _ => Err(RestoreError),
        }
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
