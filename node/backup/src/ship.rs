//! The shipper: keeps the backup of many cores no more than the allowed lag behind.
//!
//! One task per core follows its [`CorePlan`]; all of them share a bound on transfers. The tasks hang on the tracker and
//! end with the token that were passed in. A store that fails makes the plan wait and try again, and shows in [`Progress`]
//! until it works again; nothing is lost by it, because what to ship is always derived from the core.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use cumulet_hypercore::crypto::{Hash, discovery_key};
use cumulet_hypercore::segment::ContentCipher;
use tokio::sync::{Notify, Semaphore, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::error::{ErrorKind, Hint};
use crate::names::CoreNames;
use crate::plan::{CorePlan, Durable};
use crate::sealing::ContentKey;
use crate::source::BackupSource;
use crate::store::{Capabilities, ObjectStore, StoreError};

mod task;
pub(crate) use task::MAX_LISTED;

/// Transfers at once over all cores. Each holds one segment, so this bounds memory to 4 times 16 MiB at the worst, and
/// four streams fill most uplinks.
const PARALLEL_TRANSFERS: usize = 4;
/// Tells the time of day, for progress reports only.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// How to ship.
#[derive(Clone)]
pub struct ShipConfig {
    /// How far the backup may be behind: half of it is for collecting changes, half for shipping them.
    pub max_lag: Duration,
    /// Random bits that spread this node's retries.
    pub seed: u64,
    /// The clock.
    pub clock: Clock,
}

/// Something that did not work, for a status and a metric.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What failed, in plain words.
    pub message: String,
    /// How to go on.
    pub kind: ErrorKind,
    /// What a person can do.
    pub hint: Option<Hint>,
    /// When it failed.
    pub at: SystemTime,
}

/// How far the backup of one core is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CoreProgress {
    /// The largest signed length whose held blocks are all in the store, and its fork.
    pub durable: Durable,
    /// Bytes of blocks that the newest head in the store names.
    pub durable_bytes: u64,
    /// Segments that wait or are on their way.
    pub backlog: usize,
    /// How long the oldest change waits that is not in the store; zero when everything is.
    pub lag: Duration,
    /// Everything that is held is in the store.
    pub settled: bool,
    /// What failed last, until a step works again.
    pub failure: Option<Failure>,
}

/// How far the backup is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Progress {
    /// By discovery key.
    pub cores: BTreeMap<Hash, CoreProgress>,
    /// Objects made since the start.
    pub objects: u64,
    /// Bytes of these objects.
    pub bytes: u64,
    /// When the last object was made.
    pub last_object_at: Option<SystemTime>,
    /// What the store can do, once it was asked.
    pub capabilities: Option<Capabilities>,
}

impl Progress {
    /// How long the oldest change waits, over all cores.
    pub fn lag(&self) -> Duration {
        self.cores.values().map(|core| core.lag).max().unwrap_or_default()
    }

    /// The newest failure that is not over.
    pub fn failure(&self) -> Option<&Failure> {
        self.cores
            .values()
            .filter_map(|core| core.failure.as_ref())
            .max_by_key(|failure| failure.at)
    }
}

/// The shipper was stopped, or the core removed, before the wish was fulfilled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the backup was stopped before everything was in the store")]
pub struct Stopped;

/// Ships cores until its token is cancelled.
#[derive(Clone)]
pub struct Shipper {
    shared: Arc<Shared>,
    tracker: TaskTracker,
    cancel: CancellationToken,
}

struct Shared {
    store: Arc<dyn ObjectStore>,
    key: ContentKey,
    cipher: ContentCipher,
    config: ShipConfig,
    start: Instant,
    transfers: Semaphore,
    progress: watch::Sender<Progress>,
    cores: Mutex<HashMap<Hash, Core>>,
}

struct Core {
    wishes: Arc<Wishes>,
    cancel: CancellationToken,
}

enum Wish {
    Flush(oneshot::Sender<()>),
    Damaged(String),
}

/// What one core's task is asked for. There is one for every core, and a channel takes more than a kilobyte. Whoever flushes waits, and
/// an object is refused once, so few wait here.
struct Wishes {
    /// None once the task has ended.
    waiting: Mutex<Option<Vec<Wish>>>,
    wake: Notify,
}

impl Wishes {
    fn new() -> Self {
        Self {
            waiting: Mutex::new(Some(Vec::new())),
            wake: Notify::new(),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Vec<Wish>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A wish that comes too late is dropped, which is what the one who waits sees.
    fn tell(&self, wish: Wish) {
        if let Some(waiting) = self.lock().as_mut() {
            waiting.push(wish);
        }
        self.wake.notify_one();
    }

    async fn next(&self) -> Vec<Wish> {
        self.wake.notified().await;
        self.lock().as_mut().map(std::mem::take).unwrap_or_default()
    }

    fn close(&self) {
        drop(self.lock().take());
    }
}

impl Shipper {
    /// A shipper without cores. Its tasks run on `tracker` until `cancel`.
    pub fn new(
        store: Arc<dyn ObjectStore>,
        key: ContentKey,
        config: ShipConfig,
        tracker: TaskTracker,
        cancel: CancellationToken,
    ) -> Self {
        let shared = Shared {
            store,
            cipher: ContentCipher::new(key.as_bytes()),
            key,
            config,
            start: Instant::now(),
            transfers: Semaphore::new(PARALLEL_TRANSFERS),
            progress: watch::Sender::new(Progress::default()),
            cores: Mutex::new(HashMap::new()),
        };
        Self {
            shared: Arc::new(shared),
            tracker,
            cancel,
        }
    }

    /// Starts to back up a core; a core that is backed up already stays as it is.
    pub fn add(&self, source: Arc<dyn BackupSource>) {
        let discovery = discovery_key(&source.key());
        let mut cores = self.shared.cores();
        if cores.contains_key(&discovery) {
            return;
        }
        let wishes = Arc::new(Wishes::new());
        let cancel = self.cancel.child_token();
        cores.insert(
            discovery,
            Core {
                wishes: Arc::clone(&wishes),
                cancel: cancel.clone(),
            },
        );
        drop(cores);
        let first = u64::from_le_bytes(discovery.first_chunk().copied().unwrap_or_default());
        let plan = CorePlan::new(self.shared.config.max_lag, self.shared.config.seed ^ first);
        let names = CoreNames::new(discovery);
        let task = task::CoreTask::new(Arc::clone(&self.shared), source, wishes, names, plan);
        self.tracker
            .spawn(cancel.run_until_cancelled_owned(Box::new(task).run()));
    }

    /// Stops to back up a core. What is in the store stays there.
    pub fn remove(&self, discovery: &Hash) {
        if let Some(core) = self.shared.cores().remove(discovery) {
            core.cancel.cancel();
        }
        self.shared
            .progress
            .send_modify(|progress| drop(progress.cores.remove(discovery)));
    }

    /// Reports objects that a restore or a verification refused: good copies are put beside them, if their cores are backed up
    /// here and hold the blocks.
    pub fn damaged(&self, objects: impl IntoIterator<Item = String>) {
        for object in objects {
            let Some(discovery) = crate::names::core_of(&object) else {
                continue;
            };
            if let Some(core) = self.shared.cores().get(&discovery) {
                core.wishes.tell(Wish::Damaged(object));
            }
        }
    }

    /// Ships everything that the cores hold now, at once, and waits until it is in the store: however long that takes, so
    /// put a timeout around it.
    pub async fn flush(&self) -> Result<(), Stopped> {
        let waiting: Vec<_> = {
            let cores = self.shared.cores();
            let wishes = cores.values().map(|core| &core.wishes);
            let tell = |wishes: &Arc<Wishes>| {
                let (done, wait) = oneshot::channel();
                wishes.tell(Wish::Flush(done));
                wait
            };
            wishes.map(tell).collect()
        };
        for wait in waiting {
            wait.await.map_err(|_| Stopped)?;
        }
        Ok(())
    }

    /// How far the backup is, now and whenever it changes.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.shared.progress.subscribe()
    }
}

impl Shared {
    fn cores(&self) -> std::sync::MutexGuard<'_, HashMap<Hash, Core>> {
        self.cores.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// Counts an object that was made.
    fn made(&self, bytes: &Bytes) {
        let at = (self.config.clock)();
        self.progress.send_modify(|progress| {
            progress.objects += 1;
            progress.bytes += bytes.len() as u64;
            progress.last_object_at = Some(at);
        });
    }

    fn failure(&self, error: &ShipError) -> Failure {
        Failure {
            message: error.to_string(),
            kind: error.kind(),
            hint: error.hint(),
            at: (self.config.clock)(),
        }
    }
}

/// A step of shipping that failed.
#[derive(Debug, thiserror::Error)]
enum ShipError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("failed to read the core: {0}")]
    Core(crate::source::CoreError),
    #[error("the core's own head is not provable, so it is not shipped: {0}")]
    Unprovable(#[from] crate::head::HeadError),
    #[error("the core changed while it was shipped")]
    Changed,
    #[error("the program is shutting down")]
    Closed,
}

impl ShipError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Store(error) => error.kind,
            Self::Core(_) | Self::Changed => ErrorKind::Retry,
            Self::Unprovable(_) => ErrorKind::Damaged,
            Self::Closed => ErrorKind::Closed,
        }
    }

    fn hint(&self) -> Option<Hint> {
        match self {
            Self::Store(error) => error.hint,
            Self::Core(_) | Self::Unprovable(_) => Some("look at this node's disk and its log"),
            Self::Changed | Self::Closed => None,
        }
    }
}
