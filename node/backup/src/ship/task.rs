//! The task of one core: carries out what its plan says.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cumulet_hypercore::segment::{Place, SegmentId};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::sync::oneshot;

use super::{CoreProgress, Failure, Shared, ShipError, Wish, Wishes};
use crate::head::{Head, segment_name};
use crate::names::{CoreNames, HeadName, SegmentName};
use crate::plan::{CorePlan, Snapshot, Step};
use crate::source::BackupSource;
use crate::store::{Put, list_all};

/// Most objects of one core that are listed: heads of years and the segments of 8 TiB.
pub(crate) const MAX_LISTED: usize = 4_000_000;

/// What one snapshot puts into the store.
struct Shipment {
    snapshot: Snapshot,
    head: Bytes,
    places: HashMap<SegmentName, Place>,
    bytes: u64,
}

enum Done {
    Listed(Vec<(SegmentName, u8)>, Vec<(HeadName, u8)>),
    Snapshot(Option<Box<Shipment>>),
    Segment(SegmentName),
    Head(HeadName),
    Failed(Option<SegmentName>, ShipError),
}

pub(super) struct CoreTask {
    shared: Arc<Shared>,
    source: Arc<dyn BackupSource>,
    wishes: Arc<Wishes>,
    names: CoreNames,
    plan: CorePlan,
    /// Until it is in the store.
    shipment: Option<Box<Shipment>>,
    durable_bytes: u64,
    failure: Option<Failure>,
    /// Who waits for everything until a time to be in the store.
    flushes: Vec<(Duration, oneshot::Sender<()>)>,
}

type Jobs = FuturesUnordered<BoxFuture<'static, Done>>;

impl CoreTask {
    pub(super) fn new(
        shared: Arc<Shared>,
        source: Arc<dyn BackupSource>,
        wishes: Arc<Wishes>,
        names: CoreNames,
        plan: CorePlan,
    ) -> Self {
        Self {
            shared,
            source,
            wishes,
            names,
            plan,
            shipment: None,
            durable_bytes: 0,
            failure: None,
            flushes: Vec::new(),
        }
    }

    /// Runs until it is dropped. Whatever is on its way then is whole in the store or not at all.
    ///
    /// In a box: a future holds its arguments twice, so does each future around it, and there is one for every core.
    pub(super) async fn run(mut self: Box<Self>) {
        let mut jobs = Jobs::new();
        let wishes = Arc::clone(&self.wishes);
        let mut changed = self.source.changed();
        loop {
            self.plan.changed(self.source.mark(), self.shared.now());
            let wake = self.start(&jobs);
            self.publish();
            let look_again = (self.shared.config.max_lag / 2).max(Duration::from_millis(10));
            let look_again = changed.is_none().then_some(look_again);
            let wake = wake.map(|at| at.saturating_sub(self.shared.now()));
            tokio::select! {
                Some(done) = jobs.next(), if !jobs.is_empty() => self.done(done),
                // Before the mark is looked at again, so that no change is missed.
                () = if_any(changed.as_mut()) => changed = self.source.changed(),
                told = wishes.next() => told.into_iter().for_each(|wish| self.take(wish)),
                () = if_any(wake.into_iter().chain(look_again).min().map(tokio::time::sleep)) => {}
            }
        }
    }

    /// Starts what the plan says; when to ask it again at the latest.
    fn start(&mut self, jobs: &Jobs) -> Option<Duration> {
        loop {
            match self.plan.poll(self.shared.now()) {
                Step::Wait => return None,
                Step::WaitUntil(at) => return Some(at),
                Step::List => jobs.push(Box::pin(list(Arc::clone(&self.shared), self.names))),
                Step::Snapshot { everything } => {
                    jobs.push(Box::pin(snapshot(
                        Arc::clone(&self.shared),
                        Arc::clone(&self.source),
                        everything,
                    )));
                }
                Step::PutSegment(name, repair) => {
                    let place = self
                        .shipment
                        .as_ref()
                        .and_then(|shipment| shipment.places.get(&name))
                        .copied();
                    let object = self.names.segment(&name, repair);
                    let (shared, source) = (Arc::clone(&self.shared), Arc::clone(&self.source));
                    jobs.push(Box::pin(async move {
                        match put_segment(&shared, source, place, &object).await {
                            Ok(()) => Done::Segment(name),
                            Err(error) => Done::Failed(Some(name), error),
                        }
                    }));
                }
                Step::PutHead(name, repair) => {
                    let head = self
                        .shipment
                        .as_ref()
                        .filter(|shipment| shipment.snapshot.head == name);
                    let head = head.map(|shipment| shipment.head.clone());
                    let object = self.names.head(&name, repair);
                    let shared = Arc::clone(&self.shared);
                    jobs.push(Box::pin(async move {
                        match put_head(&shared, head, &object).await {
                            Ok(()) => Done::Head(name),
                            Err(error) => Done::Failed(None, error),
                        }
                    }));
                }
            }
        }
    }

    fn done(&mut self, done: Done) {
        let failed = matches!(done, Done::Failed(..));
        match done {
            Done::Listed(segments, heads) => self.plan.listed(segments, heads),
            Done::Snapshot(shipment) => {
                self.plan
                    .snapshot(shipment.as_ref().map(|shipment| shipment.snapshot.clone()));
                self.shipment = shipment;
            }
            Done::Segment(name) => self.plan.segment_put(name),
            Done::Head(name) => self.plan.head_put(name),
            Done::Failed(segment, error) => {
                let failure = self.shared.failure(&error);
                if !matches!(error, ShipError::Changed) {
                    tracing::warn!(core = self.names.prefix(), kind = %failure.kind, error = failure.message, "backup step failed");
                    self.failure = Some(failure);
                }
                self.plan.failed(segment, self.shared.now());
            }
        }
        if !failed {
            self.failure = None;
        }
    }

    fn take(&mut self, wish: Wish) {
        let now = self.shared.now();
        match wish {
            Wish::Flush(done) => {
                // The mark may have changed since the task last looked.
                self.plan.changed(self.source.mark(), now);
                self.plan.flush(now);
                self.flushes.push((now, done));
            }
            Wish::Damaged(object) => {
                if let Some((name, repair)) = self.names.parse_segment(&object) {
                    self.plan.damaged_segment(name, repair, now);
                } else if let Some((name, repair)) = self.names.parse_head(&object) {
                    self.plan.damaged_head(name, repair, now);
                }
            }
        }
    }

    fn publish(&mut self) {
        let settled = self.plan.is_settled();
        if let Some(shipment) = &self.shipment
            && self.plan.durable()
                == (crate::plan::Durable {
                    fork: shipment.snapshot.head.fork,
                    length: shipment.snapshot.head.length,
                })
        {
            self.durable_bytes = shipment.bytes;
        }
        if settled {
            // What is to be mended later is looked for in the core again.
            self.shipment = None;
        }
        let progress = CoreProgress {
            durable: self.plan.durable(),
            durable_bytes: self.durable_bytes,
            backlog: self.plan.backlog(),
            lag: self.plan.lag(self.shared.now()),
            settled,
            failure: self.failure.clone(),
        };
        let discovery = self.names.discovery_key();
        self.shared.progress.send_if_modified(|all| {
            if all.cores.get(&discovery) == Some(&progress) {
                return false;
            }
            all.cores.insert(discovery, progress);
            true
        });
        for (_, done) in self
            .flushes
            .extract_if(.., |(until, _)| self.plan.has_shipped_until(*until))
        {
            let _ = done.send(());
        }
    }
}

/// Never ends without a future.
async fn if_any(future: Option<impl Future<Output = ()>>) {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

impl Drop for CoreTask {
    fn drop(&mut self) {
        self.wishes.close();
    }
}

async fn list(shared: Arc<Shared>, names: CoreNames) -> Done {
    let listing = async {
        let _transfer = shared.transfers.acquire().await.map_err(|_| ShipError::Closed)?;
        let capabilities = shared.store.capabilities().await?;
        shared
            .progress
            .send_if_modified(|progress| progress.capabilities.replace(capabilities) != Some(capabilities));
        let segments = list_all(shared.store.as_ref(), &names.segments(), MAX_LISTED).await?;
        let heads = list_all(shared.store.as_ref(), &names.heads(), MAX_LISTED).await?;
        Ok((segments, heads))
    };
    match listing.await {
        Ok((segments, heads)) => Done::Listed(
            segments
                .iter()
                .filter_map(|object| names.parse_segment(&object.name))
                .collect(),
            heads
                .iter()
                .filter_map(|object| names.parse_head(&object.name))
                .collect(),
        ),
        Err(error) => Done::Failed(None, error),
    }
}

async fn snapshot(shared: Arc<Shared>, source: Arc<dyn BackupSource>, everything: bool) -> Done {
    let key = shared.key.clone();
    let taken = tokio::task::spawn_blocking(move || {
        let Some(held) = source.held().map_err(ShipError::Core)? else {
            return Ok(None);
        };
        let selection = held.cut.select(everything);
        // A head that could not be restored must not reach the store.
        held.signed.verify()?;
        selection
            .check(&held.signed.roots)
            .map_err(crate::head::HeadError::from)?;
        let (fork, discovery_key) = (held.signed.fork, held.signed.discovery_key());
        let place = |node| Place {
            discovery_key,
            fork,
            id: SegmentId::from_node(node),
        };
        let places: HashMap<_, _> = selection
            .segments
            .iter()
            .map(|node| (segment_name(fork, node), place(node.index)))
            .collect();
        let bytes = selection.segments.iter().map(|node| node.size).sum();
        let (segments, held_back) = (places.keys().copied().collect(), selection.held_back);
        let (name, object) = Head {
            signed: held.signed,
            selection,
        }
        .seal(&key);
        let snapshot = Snapshot {
            mark: held.mark,
            segments,
            head: name,
            held_back,
        };
        Ok(Some(Box::new(Shipment {
            snapshot,
            head: object,
            places,
            bytes,
        })))
    });
    match taken.await {
        Ok(Ok(shipment)) => Done::Snapshot(shipment),
        Ok(Err(error)) => Done::Failed(None, error),
        Err(_) => Done::Failed(None, ShipError::Closed),
    }
}

async fn put_segment(
    shared: &Arc<Shared>,
    source: Arc<dyn BackupSource>,
    place: Option<Place>,
    object: &str,
) -> Result<(), ShipError> {
    let place = place.ok_or(ShipError::Changed)?;
    let _transfer = shared.transfers.acquire().await.map_err(|_| ShipError::Closed)?;
    let reader = Arc::clone(shared);
    let read = tokio::task::spawn_blocking(move || source.segment(&place, &reader.cipher));
    let bytes = read
        .await
        .map_err(|_| ShipError::Closed)?
        .map_err(ShipError::Core)?;
    let bytes = bytes.ok_or(ShipError::Changed)?;
    if shared.store.put_if_absent(object, bytes.clone()).await? == Put::Created {
        shared.made(&bytes);
        tracing::debug!(object, bytes = bytes.len(), blocks = ?place.id.blocks(), "segment shipped");
    }
    Ok(())
}

async fn put_head(shared: &Arc<Shared>, head: Option<Bytes>, object: &str) -> Result<(), ShipError> {
    let bytes = head.ok_or(ShipError::Changed)?;
    let _transfer = shared.transfers.acquire().await.map_err(|_| ShipError::Closed)?;
    if shared.store.put_if_absent(object, bytes.clone()).await? == Put::Created {
        shared.made(&bytes);
        tracing::debug!(object, bytes = bytes.len(), "head shipped");
    }
    Ok(())
}
