//! One open core: the core, its replication and those who wait for it, behind one lock.
//!
//! Invariants: every change of the core ends in [`Cell::pump`], which carries what it caused to connections, waiters and
//! watchers; blocks are announced to peers, and shown by `durable`, only after a flush that began after they were stored.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex as StdMutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{Mutex, Notify, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::extension::Extensions;
use super::outbox::Outbox;
use super::snapshot::Kept;
use super::turn::Turn;
use super::{CoreState, CoreStats, CorestoreConfig, CorestoreError};
use crate::core::{Conflict, Core};
use crate::crypto::{Hash, Key};
use crate::replication::{CoreReplica, Event, PeerId, Replicator};
use crate::storage::{Durability, Storage, StorageError};

/// A core of a store, wherever its state lives.
pub type BoxedCore = Core<Box<dyn Storage>>;
pub(crate) type Guard<'a> = super::turn::Guard<'a, Cell>;

/// Received bytes after which a commit does not wait for its interval: what a loss of power may cost to fetch again.
pub(crate) const COMMIT_BYTES: u64 = 8 << 20;

/// A core that was not changed for so long is quiet: its blocks are sealed then, not while they come in.
const QUIET: Duration = Duration::from_millis(250);
/// A core that is never quiet is sealed nevertheless after so long, so that its log stays short.
const LONGEST_BUSY: Duration = Duration::from_secs(2);
/// Something that nobody waits for any more; noted without the lock, because it is noted while dropping.
pub(crate) enum Abandoned {
    Block(u64),
    Download(u64),
    /// The peer of a connection that was dropped instead of ended.
    Peer(PeerId),
}

/// A core with its replication.
pub(crate) struct Cell {
    pub(crate) replica: CoreReplica<Box<dyn Storage>>,
    pub(crate) replicator: Replicator,
    pub(crate) stats: CoreStats,
    /// Whether something was changed since the last flush began.
    pub(crate) dirty: bool,
    pub(crate) uncommitted_bytes: u64,
    /// The evidence, once the core is frozen.
    pub(crate) conflict: Option<Box<Conflict>>,
    pub(crate) extensions: Extensions,
    pub(crate) links: HashMap<PeerId, Arc<Outbox>>,
    /// The owner's changes that peers were not told of.
    local: Vec<Changed>,
    /// Whether a task does the storage's work.
    has_worker: bool,
    waiters: HashMap<u64, Vec<oneshot::Sender<()>>>,
    downloads: BTreeMap<u64, Range<u64>>,
    next_download: u64,
    held_blocks: u64,
    generation: u64,
    snapshots: Vec<Weak<Kept>>,
}

/// What all handles and connections of a core share.
pub(crate) struct Shared {
    pub(crate) key: Key,
    pub(crate) discovery_key: Hash,
    pub(crate) config: CorestoreConfig,
    pub(crate) state: watch::Sender<CoreState>,
    pub(crate) durable: watch::Sender<CoreState>,
    /// Wakes those who wait for an answer whenever peers said something about their lengths.
    pub(crate) activity: Notify,
    pub(crate) closed: CancellationToken,
    /// Whether connections open a channel for it unasked.
    pub(crate) wanted: AtomicBool,
    cell: Arc<Turn<Cell>>,
    /// The generation up to which the core is durable; locked while a flush runs.
    committed: Mutex<Option<u64>>,
    abandoned: StdMutex<Vec<Abandoned>>,
    /// The storage's work, and who waits for some of it to end.
    work: TaskTracker,
    worked: Arc<Notify>,
}

impl Cell {
    fn new(core: BoxedCore) -> Self {
        Self {
            held_blocks: core.bitfield().count(),
            replica: CoreReplica::new(core),
            replicator: Replicator::new(),
            stats: CoreStats::default(),
            dirty: false,
            uncommitted_bytes: 0,
            conflict: None,
            extensions: Extensions::default(),
            local: Vec::new(),
            has_worker: false,
            links: HashMap::new(),
            waiters: HashMap::new(),
            downloads: BTreeMap::new(),
            next_download: 0,
            generation: 0,
            snapshots: Vec::new(),
        }
    }

    pub(crate) fn snapshot(&self) -> CoreState {
        let core = self.replica.core();
        CoreState {
            fork: core.fork(),
            length: core.length(),
            byte_length: core.byte_length(),
            contiguous_length: core.contiguous_length().min(core.length()),
            held_blocks: self.held_blocks,
            generation: self.generation,
        }
    }

    pub(crate) fn add_peer(&mut self, peer: PeerId, outbox: Arc<Outbox>, now: Instant) {
        self.links.insert(peer, outbox);
        self.replicator.add_peer(peer, &mut self.replica, now);
        self.stats.peers = self.links.len();
    }

    pub(crate) fn remove_peer(&mut self, peer: PeerId, now: Instant) {
        self.links.remove(&peer);
        if self.links.is_empty() {
            self.links = HashMap::new();
        }
        self.replicator.remove_peer(peer, &mut self.replica, now);
        self.stats.peers = self.links.len();
    }

    /// Waits for a block, also in a core that asks for nothing if it is `forced`.
    pub(crate) fn wait_for_block(&mut self, index: u64, forced: bool, now: Instant) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        self.waiters.entry(index).or_default().push(sender);
        if forced {
            self.replicator.force_block(index, &mut self.replica, now);
        } else {
            self.replicator.want_block(index, &mut self.replica, now);
        }
        receiver
    }

    pub(crate) fn add_download(&mut self, blocks: Range<u64>, now: Instant) -> u64 {
        let id = self.next_download;
        self.next_download += 1;
        self.downloads.insert(id, blocks.clone());
        self.replicator.want_range(blocks, &mut self.replica, now);
        id
    }

    fn forget(&mut self, abandoned: Vec<Abandoned>, now: Instant) {
        let mut rebuild = false;
        for item in abandoned {
            match item {
                Abandoned::Block(index) => {
                    let Some(waiters) = self.waiters.get_mut(&index) else {
                        continue;
                    };
                    waiters.retain(|waiter| !waiter.is_closed());
                    if waiters.is_empty() {
                        self.waiters.remove(&index);
                        self.replicator.cancel_block(index);
                    }
                }
                Abandoned::Peer(peer) => self.remove_peer(peer, now),
                Abandoned::Download(id) => rebuild |= self.downloads.remove(&id).is_some(),
            }
        }
        if rebuild {
            self.replicator.clear_wanted();
            for blocks in self.downloads.values().cloned().collect::<Vec<_>>() {
                self.replicator.want_range(blocks, &mut self.replica, now);
            }
        }
    }

    /// Carries what the last change caused to where it belongs.
    pub(crate) fn pump(&mut self, shared: &Shared) {
        while let Some((peer, message)) = self.replicator.poll_output() {
            if let Some(outbox) = self.links.get(&peer) {
                outbox.push(peer, message);
            }
        }
        let mut changed = false;
        while let Some(event) = self.replicator.poll_event() {
            match event {
                Event::BlockStored { index, bytes, .. } => {
                    self.stats.downloaded_blocks += 1;
                    self.stats.downloaded_bytes += bytes;
                    self.held_blocks += 1;
                    self.uncommitted_bytes += bytes;
                    for waiter in self.waiters.remove(&index).into_iter().flatten() {
                        // The reader may have given up.
                        let _ = waiter.send(());
                    }
                }
                Event::BlockSent { bytes, .. } => {
                    self.stats.uploaded_blocks += 1;
                    self.stats.uploaded_bytes += bytes;
                    continue;
                }
                Event::Upgraded { .. } => {}
                Event::Conflict(conflict) => {
                    let (fork, length) = (conflict.fork, conflict.length);
                    tracing::error!(
                        fork,
                        length,
                        "the core's writer signed two trees; the core is frozen"
                    );
                    self.conflict = Some(conflict);
                    // Connections say what is left to say, and close its channels when they next look.
                    shared.closed.cancel();
                    continue;
                }
                Event::Extension { from, name, payload } => {
                    self.extensions.deliver(from, &name, payload);
                    continue;
                }
                Event::Reorganized { from, .. } => {
                    self.note_cut(from);
                    self.held_blocks = self.replica.core().bitfield().count();
                }
            }
            changed = true;
        }
        if changed {
            self.dirty = true;
            self.note_change(shared);
        }
    }

    /// Tells it of every truncation, and what that took, as long as somebody has it.
    pub(super) fn watch_cuts(&mut self, kept: &Arc<Kept>) {
        self.snapshots.push(Arc::downgrade(kept));
        self.note_readers();
    }

    /// The core was cut to a length: hands what that took to those who read it.
    fn note_cut(&mut self, length: u64) {
        let remains = self.replica.core_mut().storage_mut().take_remains(length);
        for kept in self.snapshots.iter().filter_map(Weak::upgrade) {
            kept.cut(length, remains.as_ref());
        }
        self.note_readers();
    }

    /// Tells the storage which blocks snapshots read.
    fn note_readers(&mut self) {
        self.snapshots.retain(|kept| kept.strong_count() > 0);
        let kept = self.snapshots.iter().filter_map(Weak::upgrade);
        let below = kept.map(|kept| kept.length()).max().unwrap_or(0);
        self.replica.core_mut().storage_mut().keep_remains(below);
    }

    /// Shows watchers that the core changed.
    pub(crate) fn note_change(&mut self, shared: &Shared) {
        self.generation += 1;
        shared.state.send_replace(self.snapshot());
    }

    /// Tells peers what is durable now: received blocks, and the first `local` of the owner's changes.
    fn announce(&mut self, local: usize) {
        let Self {
            replicator, replica, ..
        } = self;
        replicator.end_commit(replica);
        self.announce_local(local);
    }

    /// Tells peers of the first `count` of the owner's changes.
    fn announce_local(&mut self, count: usize) {
        let count = count.min(self.local.len());
        if count == 0 {
            return;
        }
        let Self {
            replicator,
            replica,
            local,
            ..
        } = self;
        let length = replica.core().length();
        // Appends that follow one another are one announcement.
        let mut added = 0..0;
        for changed in local.drain(..count) {
            replicator.dropped(&changed.dropped);
            if changed.added.start == added.end && !added.is_empty() {
                added.end = changed.added.end;
            } else if !changed.added.is_empty() {
                let before = std::mem::replace(&mut added, changed.added);
                let before = before.start..before.end.min(length);
                if !before.is_empty() {
                    replicator.local_change(before, replica, Instant::now());
                }
            }
        }
        // Also when nothing was added: peers are told the new length.
        let added = added.start.min(length)..added.end.min(length);
        replicator.local_change(added, replica, Instant::now());
    }

    pub(crate) fn recount(&mut self) {
        self.held_blocks = self.replica.core().bitfield().count();
    }
}

impl Shared {
    pub(crate) fn new(core: BoxedCore, config: CorestoreConfig) -> Self {
        let (key, discovery_key) = (*core.key(), *core.discovery_key());
        let cell = Cell::new(core);
        let state = cell.snapshot();
        Self {
            key,
            discovery_key,
            config,
            state: watch::Sender::new(state),
            durable: watch::Sender::new(state),
            activity: Notify::new(),
            closed: CancellationToken::new(),
            wanted: AtomicBool::new(false),
            cell: Arc::new(Turn::new(cell)),
            committed: Mutex::new(None),
            abandoned: StdMutex::default(),
            work: TaskTracker::new(),
            worked: Arc::default(),
        }
    }

    /// The core, as soon as it is free. Held for short times only, never while a flush runs.
    pub(crate) async fn lock(&self) -> Guard<'_> {
        let mut cell = self.cell.lock().await;
        let abandoned = std::mem::take(&mut *self.abandoned());
        if !abandoned.is_empty() {
            cell.forget(abandoned, Instant::now());
            cell.pump(self);
        }
        cell
    }

    pub(crate) fn abandon(&self, what: Abandoned) {
        self.abandoned().push(what);
    }

    fn abandoned(&self) -> std::sync::MutexGuard<'_, Vec<Abandoned>> {
        self.abandoned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes everything stored so far durable, and tells peers and watchers.
    pub(crate) async fn commit(&self) -> Result<(), StorageError> {
        let cell = self.lock().await;
        if !cell.dirty && cell.local.is_empty() {
            return Ok(());
        }
        let through = cell.generation;
        drop(cell);
        self.commit_through(through).await
    }

    /// Makes the core durable up to a generation. Whoever comes while another's flush runs waits for the next one, and
    /// all who wait share it.
    async fn commit_through(&self, generation: u64) -> Result<(), StorageError> {
        let mut committed = self.committed.lock().await;
        if committed.is_some_and(|committed| committed >= generation) {
            return Ok(());
        }
        let mut cell = self.lock().await;
        let (state, local) = (cell.snapshot(), cell.local.len());
        let pending = cell.replica.core_mut().storage_mut().begin_flush()?;
        cell.replicator.begin_commit();
        cell.dirty = false;
        cell.uncommitted_bytes = 0;
        if let Some(mut pending) = pending {
            drop(cell);
            // Off the runtime's threads, and not stopped when the one who waits gives up. Cancelled only when the
            // runtime ends, panicked only on a defect of ours: the storage is not to be used on.
            let ran = tokio::task::spawn_blocking(move || {
                pending.run();
                pending
            });
            let ran = ran.await.map_err(|_| StorageError::Closed)?;
            cell = self.lock().await;
            cell.replica.core_mut().storage_mut().end_flush(ran)?;
        }
        *committed = Some(state.generation);
        self.durable.send_replace(state);
        cell.announce(local);
        cell.pump(self);
        cell.replicator.give_room_back();
        self.start_work(&mut cell);
        Ok(())
    }

    /// The core, when its sealing has not fallen behind, or when it is closed.
    async fn lock_when_kept_up(&self) -> Guard<'_> {
        loop {
            let worked = self.worked.notified();
            let cell = self.lock().await;
            if !cell.replica.core().storage().is_behind() {
                return cell;
            }
            drop(cell);
            tokio::select! {
                () = worked => {}
                // Nobody does the rest: it is done when the core is opened the next time.
                () = self.closed.cancelled() => return self.lock().await,
            }
        }
    }

    /// Has the storage's work done, if there is any, at the next quiet moment or when it presses.
    fn start_work(&self, cell: &mut Cell) {
        if cell.has_worker || !cell.replica.core().storage().has_work() {
            return;
        }
        cell.has_worker = true;
        let worker = Worker {
            cell: Arc::downgrade(&self.cell),
            worked: self.worked.clone(),
            closed: self.closed.clone(),
        };
        self.work.spawn(worker.run(cell.generation));
    }

    /// Returns when no work of the storage is left.
    pub(crate) async fn finish_work(&self) {
        self.work.close();
        self.work.wait().await;
    }

    /// Changes the core as its owner does, and tells peers; durable as the store's configuration says. `change` returns
    /// what it did and a result of its own.
    pub(crate) async fn change<R, E: Into<CorestoreError>>(
        &self,
        change: impl FnOnce(&mut BoxedCore) -> Result<(Changed, R), E>,
    ) -> Result<R, CorestoreError> {
        let mut cell = self.lock_when_kept_up().await;
        if self.closed.is_cancelled() {
            return Err(CorestoreError::Closed);
        }
        let (fork, result) = {
            let core = cell.replica.core_mut();
            (core.fork(), change(core).map_err(Into::into)?)
        };
        let (changed, result) = result;
        if cell.replica.core().fork() != fork {
            cell.note_cut(changed.dropped.start);
        }
        cell.dirty = true;
        cell.recount();
        cell.note_change(self);
        cell.local.push(changed);
        match self.config.disk.durability {
            Durability::Synced => {
                let generation = cell.generation;
                drop(cell);
                self.commit_through(generation).await?;
            }
            Durability::Unsynced => {
                let local = cell.local.len();
                cell.announce_local(local);
                cell.pump(self);
                self.start_work(&mut cell);
            }
        }
        Ok(result)
    }
}

/// Does a storage's work off the runtime's threads, until there is none or the core is closed. It does not keep the core
/// open; work that was not handed back is done again when the core is opened the next time.
struct Worker {
    cell: Weak<Turn<Cell>>,
    worked: Arc<Notify>,
    closed: CancellationToken,
}

impl Worker {
    async fn run(self, mut generation: u64) {
        let mut busy_since = Instant::now();
        loop {
            tokio::select! {
                () = tokio::time::sleep(QUIET) => {}
                () = self.closed.cancelled() => return,
            }
            loop {
                let Some(cell) = self.cell.upgrade() else { return };
                let mut cell = cell.lock().await;
                let quiet = cell.generation == generation || busy_since.elapsed() >= LONGEST_BUSY;
                generation = cell.generation;
                let storage = cell.replica.core_mut().storage_mut();
                let Some(mut work) = storage.take_work(quiet) else {
                    if storage.has_work() {
                        break;
                    }
                    cell.has_worker = false;
                    return;
                };
                drop(cell);
                let ran = tokio::task::spawn_blocking(move || {
                    work.run();
                    work
                });
                let (Ok(ran), Some(cell)) = (ran.await, self.cell.upgrade()) else {
                    return;
                };
                // A log that is written anew is synced: not on a thread of the runtime.
                let runtime = Handle::current();
                let ended = tokio::task::spawn_blocking(move || {
                    let mut cell = runtime.block_on(cell.lock());
                    cell.replica.core_mut().storage_mut().end_work(ran);
                });
                if ended.await.is_err() {
                    return;
                }
                self.worked.notify_waiters();
                busy_since = Instant::now();
                if self.closed.is_cancelled() {
                    return;
                }
            }
        }
    }
}

/// What a local change did.
#[derive(Debug, Clone)]
pub(crate) struct Changed {
    pub(crate) added: Range<u64>,
    pub(crate) dropped: Range<u64>,
}
