//! The task of a blind peer: takes requests, has the keeper decide, and carries out its orders.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use cumulet_hypercore::corestore::{CoreHandle, CorestoreError, Download};
use cumulet_hypercore::crypto::discovery_key;
use cumulet_relay::Key;
use cumulet_relay::blind_peer::{AddCore, CoreRecord, Cores, Deleted};
use cumulet_relay::protomux_rpc::Response;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;

use super::{Shared, lock, now_ms};
use crate::journal::{Entry, Journal};
use crate::keeper::{Announced, CoreSize, Order};
use crate::service::{Job, Outbox, Wish, failure};

/// Requests handled together: their records share one write to the disk.
const JOBS_AT_ONCE: usize = 256;
/// Changes of cores that wait for the task. What watches a core waits with it.
const SIZE_QUEUE: usize = 256;
/// How often sizes and activity, which nobody waits for, are made durable.
const FLUSH_EVERY: Duration = Duration::from_secs(10);

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
enum Answer {
    Peer(Arc<Outbox>, Response),
    Restored(oneshot::Sender<bool>),
}

impl Answer {
    fn give(self, is_written: bool) {
        match self {
            Self::Peer(outbox, answer) if is_written => outbox.respond(answer),
            Self::Peer(outbox, answer) => {
                outbox.respond(failure(answer.id, "The record could not be written"));
            }
            // Whoever asked may have gone.
            Self::Restored(done) => drop(done.send(is_written)),
        }
    }
}

pub(super) struct Actor {
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
    pub(super) fn new(shared: Arc<Shared>, journal: Journal) -> Self {
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

    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Job>, pinned: Vec<Announced>) {
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
            for answer in answers {
                answer.give(kept);
            }
        }
        self.flush().await;
    }

    /// Decides about a request; the answer, if it wants one.
    fn handle(&self, job: Job) -> Option<Answer> {
        let (identity, outbox, wish) = match job {
            Job::Ask {
                identity,
                outbox,
                wish,
            } => (identity, outbox, wish),
            Job::Restore { owner, record, done } => {
                lock(&self.shared.keeper).revive(owner, record);
                return Some(Answer::Restored(done));
            }
        };
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
        (id != 0).then_some(Answer::Peer(outbox, answer))
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
                    if let Some(companion) = &self.shared.options.companion {
                        companion.deleted(&key);
                    }
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
                self.shared.written.send_modify(|count| *count += 1);
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
        if let Some(companion) = &self.shared.options.companion
            && let Some((_, owner)) = lock(&self.shared.keeper).record(&key)
        {
            companion.opened(&core, owner);
        }
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
            if let Some(companion) = &self.shared.options.companion {
                companion.closed(&oldest);
            }
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
