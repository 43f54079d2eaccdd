//! A core in memory, with a real tree and real signatures, that can be shipped and restored.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that can't go on shall say where"
)]

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use cumulet_backup::error::ErrorKind;
use cumulet_backup::head::{ProvenHead, SignedHead};
use cumulet_backup::held::{Tree, cut};
use cumulet_backup::plan::ChangeMark;
use cumulet_backup::restore::{Found, RestoreProgress, RestoreReport, Restorer, Until};
use cumulet_backup::retry::Patience;
use cumulet_backup::sealing::ContentKey;
use cumulet_backup::ship::{Progress, ShipConfig, Shipper};
use cumulet_backup::source::{BackupSource, CoreError, HeldCore, RestoreTarget};
use cumulet_backup::store::{
    Capabilities, ObjectInfo, ObjectStore, Page, Put, StoreError, StoreFuture, list_all,
};
use cumulet_hypercore::crypto::{Hash, Key, KeyPair, discovery_key};
use cumulet_hypercore::manifest::Manifest;
use cumulet_hypercore::node::Node;
use cumulet_hypercore::roots::Roots;
use cumulet_hypercore::segment::{ContentCipher, Decoded, Held, Place, encode};
use cumulet_hypercore::verifier::Verifier;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub fn content_key() -> ContentKey {
    ContentKey::new([42; 32])
}

/// A core whose blocks, tree and signature are in memory.
pub struct ModelCore {
    key: Key,
    manifest: Manifest,
    state: Mutex<State>,
}

#[derive(Clone, Default)]
pub struct State {
    pub fork: u64,
    pub roots: Roots,
    pub signature: Vec<u8>,
    pub blocks: Vec<Option<Bytes>>,
    nodes: HashMap<u64, Node>,
    changes: u64,
}

impl State {
    fn held_in(&self, range: Range<u64>) -> Held {
        let blocks = &self.blocks[range.start as usize..range.end as usize];
        match blocks.iter().flatten().count() {
            0 => Held::None,
            n if n == blocks.len() => Held::All,
            _ => Held::Some,
        }
    }
}

impl Tree for State {
    fn node(&self, index: u64) -> Result<Option<Node>, CoreError> {
        Ok(self.nodes.get(&index).copied())
    }

    fn held(&self, blocks: Range<u64>) -> Held {
        self.held_in(blocks)
    }
}

fn key_pair(seed: u8) -> KeyPair {
    KeyPair::from_seed(&[seed; 32])
}

impl ModelCore {
    /// An empty core of the writer with this seed; its copies hold what is imported.
    pub fn new(seed: u8) -> Arc<Self> {
        let manifest = Manifest::single(key_pair(seed).public_key());
        Arc::new(Self {
            key: manifest.key(),
            manifest,
            state: Mutex::new(State::default()),
        })
    }

    pub fn with_blocks(seed: u8, sizes: impl IntoIterator<Item = usize>) -> Arc<Self> {
        let core = Self::new(seed);
        core.append(seed, sizes);
        core
    }

    /// Another replica's copy, in the same state.
    pub fn copy(&self) -> Arc<Self> {
        Arc::new(Self {
            key: self.key,
            manifest: self.manifest.clone(),
            state: Mutex::new(self.state()),
        })
    }

    /// An empty copy.
    pub fn bare(&self) -> Arc<Self> {
        Arc::new(Self {
            key: self.key,
            manifest: self.manifest.clone(),
            state: Mutex::default(),
        })
    }

    pub fn state(&self) -> State {
        self.state.lock().unwrap().clone()
    }

    pub fn discovery_key(&self) -> Hash {
        discovery_key(&self.key)
    }

    pub fn blocks(&self) -> Vec<Option<Bytes>> {
        self.state().blocks
    }

    /// Appends blocks of these sizes, with contents that follow from their index, and signs.
    pub fn append(&self, seed: u8, sizes: impl IntoIterator<Item = usize>) {
        let mut state = self.state.lock().unwrap();
        for size in sizes {
            let index = state.blocks.len() as u64;
            let block: Bytes = (0..size)
                .map(|i| (i as u64 * 31 + index * 7 + 3 + state.fork) as u8)
                .collect();
            let leaf = Node::leaf(index, &block);
            let mut produced = vec![leaf];
            state.roots.push(leaf, &mut produced).unwrap();
            state
                .nodes
                .extend(produced.into_iter().map(|node| (node.index, node)));
            state.blocks.push(Some(block));
        }
        let verifier = Verifier::new(self.key, self.manifest.clone()).unwrap();
        state.signature = verifier.sign(&state.roots, state.fork, &key_pair(seed)).unwrap();
        state.changes += 1;
    }

    /// Starts over at the next fork, with these blocks.
    pub fn rewrite(&self, seed: u8, sizes: impl IntoIterator<Item = usize>) {
        let (fork, changes) = (self.state().fork + 1, self.state().changes + 1);
        *self.state.lock().unwrap() = State {
            fork,
            changes,
            ..State::default()
        };
        self.append(seed, sizes);
    }

    pub fn clear(&self, range: Range<usize>) {
        let mut state = self.state.lock().unwrap();
        let end = range.end.min(state.blocks.len());
        state.blocks[range.start.min(end)..end].fill(None);
        state.changes += 1;
    }
}

impl BackupSource for ModelCore {
    fn key(&self) -> Key {
        self.key
    }

    fn mark(&self) -> ChangeMark {
        let state = self.state.lock().unwrap();
        ChangeMark {
            fork: state.fork,
            length: state.roots.length(),
            changes: state.changes,
        }
    }

    fn held(&self) -> Result<Option<HeldCore>, CoreError> {
        let mark = self.mark();
        let state = self.state();
        if state.signature.is_empty() {
            return Ok(None);
        }
        let cut = cut(&state.roots, &state)?;
        let signed = SignedHead {
            key: self.key,
            manifest: self.manifest.clone(),
            fork: state.fork,
            roots: state.roots,
            signature: state.signature,
        };
        Ok(Some(HeldCore { mark, signed, cut }))
    }

    fn segment(&self, place: &Place, cipher: &ContentCipher) -> Result<Option<Bytes>, CoreError> {
        let state = self.state.lock().unwrap();
        let range = place.id.blocks();
        if state.fork != place.fork || range.end as usize > state.blocks.len() {
            return Ok(None);
        }
        let blocks = &state.blocks[range.start as usize..range.end as usize];
        let blocks: Option<Vec<Bytes>> = blocks.iter().cloned().collect();
        let Some(blocks) = blocks else { return Ok(None) };
        Ok(Some(encode(place, Some(cipher), &blocks)?.bytes))
    }
}

impl RestoreTarget for ModelCore {
    fn import_head(&self, head: &ProvenHead) -> Result<(), CoreError> {
        let signed = &head.head.signed;
        assert_eq!(signed.key, self.key);
        signed.verify()?;
        let mut state = self.state.lock().unwrap();
        if signed.fork > state.fork || signed.length() > state.roots.length() {
            if signed.fork > state.fork {
                *state = State::default();
            }
            state.fork = signed.fork;
            state.roots = signed.roots.clone();
            state.signature.clone_from(&signed.signature);
            state.blocks.resize(signed.length() as usize, None);
            state.changes += 1;
        }
        state
            .nodes
            .extend(head.nodes.iter().map(|node| (node.index, *node)));
        Ok(())
    }

    fn holds(&self, blocks: Range<u64>) -> bool {
        let state = self.state.lock().unwrap();
        blocks.end as usize <= state.blocks.len() && state.held_in(blocks) == Held::All
    }

    fn import_segment(&self, place: &Place, _object: &Bytes, segment: Decoded) -> Result<(), CoreError> {
        let mut state = self.state.lock().unwrap();
        assert_eq!(
            state.nodes.get(&segment.root.index),
            Some(&segment.root),
            "only proven segments are imported"
        );
        assert_eq!(state.fork, place.fork);
        state
            .nodes
            .extend(segment.nodes.iter().map(|node| (node.index, *node)));
        for (index, block) in place.id.blocks().zip(segment.blocks) {
            state.blocks[index as usize] = Some(block);
        }
        state.changes += 1;
        Ok(())
    }

    fn flush(&self) -> Result<(), CoreError> {
        Ok(())
    }
}

/// A shipper with a lifetime of its own.
pub struct Ship {
    pub shipper: Shipper,
    tracker: TaskTracker,
    cancel: CancellationToken,
}

impl Ship {
    pub fn new(store: Arc<dyn ObjectStore>, max_lag: Duration) -> Self {
        let (tracker, cancel) = (TaskTracker::new(), CancellationToken::new());
        let config = ShipConfig {
            max_lag,
            seed: 7,
            clock: Arc::new(|| SystemTime::UNIX_EPOCH),
        };
        let shipper = Shipper::new(store, content_key(), config, tracker.clone(), cancel.clone());
        Self {
            shipper,
            tracker,
            cancel,
        }
    }

    /// Ships all that a core holds, and stops.
    pub async fn once(store: &Arc<dyn ObjectStore>, core: &Arc<ModelCore>) -> Progress {
        let ship = Self::new(Arc::clone(store), Duration::from_secs(5));
        ship.shipper.add(core.clone());
        ship.shipper.flush().await.unwrap();
        ship.stop().await
    }

    pub async fn stop(self) -> Progress {
        self.cancel.cancel();
        self.tracker.close();
        self.tracker.wait().await;
        self.shipper.progress().borrow().clone()
    }

    /// Waits until the progress is so.
    pub async fn until(&self, is_so: impl FnMut(&Progress) -> bool) -> Progress {
        let mut progress = self.shipper.progress();
        let waited = tokio::time::timeout(Duration::from_mins(5), progress.wait_for(is_so)).await;
        waited.expect("the shipper got stuck").unwrap().clone()
    }
}

pub fn restorer(store: &Arc<dyn ObjectStore>) -> Restorer {
    Restorer::new(
        Arc::clone(store),
        content_key(),
        Patience {
            tries: 2,
            first_pause: Duration::from_millis(1),
        },
    )
}

pub async fn find(store: &Arc<dyn ObjectStore>, core: &ModelCore) -> Found {
    restorer(store)
        .find(&core.discovery_key(), Until::Newest)
        .await
        .unwrap()
}

/// Restores what the store has into a target.
pub async fn restore_into(store: &Arc<dyn ObjectStore>, target: &Arc<ModelCore>) -> RestoreReport {
    let found = find(store, target).await;
    let progress = watch::Sender::new(RestoreProgress::default());
    let report = restorer(store)
        .restore(&found, target.clone(), &progress)
        .await
        .unwrap();
    let progress = *progress.borrow();
    assert_eq!(progress.done, progress.segments);
    assert_eq!(progress.bytes, report.restored_bytes);
    report
}

/// All objects with their bytes, without the probe of S3.
pub async fn contents(store: &dyn ObjectStore) -> HashMap<String, Bytes> {
    let mut contents = HashMap::new();
    for ObjectInfo { name, .. } in list_all(store, "v1/cores/", 100_000).await.unwrap() {
        let bytes = store.get(&name).await.unwrap().unwrap();
        contents.insert(name, bytes);
    }
    contents
}

pub fn is_head(name: &str) -> bool {
    name.contains("/heads/")
}

/// Whether a request, by verb and name, fails.
type Fails = Box<dyn FnMut(&str, &str) -> bool + Send>;

/// A store that fails when it is told to, and counts what is written.
pub struct Faulty {
    inner: Arc<dyn ObjectStore>,
    fails: Mutex<Fails>,
    pub puts: AtomicUsize,
}

impl Faulty {
    pub fn new(inner: Arc<dyn ObjectStore>) -> Arc<Self> {
        Arc::new(Self {
            inner,
            fails: Mutex::new(Box::new(|_, _| false)),
            puts: AtomicUsize::new(0),
        })
    }

    /// From now on these requests fail: verb and name.
    pub fn fail(&self, fails: impl FnMut(&str, &str) -> bool + Send + 'static) {
        *self.fails.lock().unwrap() = Box::new(fails);
    }

    pub fn puts(&self) -> usize {
        self.puts.load(Ordering::SeqCst)
    }

    fn check(&self, verb: &'static str, name: &str) -> Result<(), StoreError> {
        if (self.fails.lock().unwrap())(verb, name) {
            return Err(StoreError {
                verb,
                object: name.into(),
                reason: "the test says so".into(),
                kind: ErrorKind::Retry,
                hint: None,
                source: None,
            });
        }
        Ok(())
    }
}

impl ObjectStore for Faulty {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn capabilities(&self) -> StoreFuture<'_, Capabilities> {
        self.inner.capabilities()
    }

    fn put_if_absent<'a>(&'a self, name: &'a str, bytes: Bytes) -> StoreFuture<'a, Put> {
        Box::pin(async move {
            self.check("write", name)?;
            let put = self.inner.put_if_absent(name, bytes).await?;
            self.puts.fetch_add(1, Ordering::SeqCst);
            // The answer may get lost after the object was made.
            self.check("answer", name)?;
            Ok(put)
        })
    }

    fn get<'a>(&'a self, name: &'a str) -> StoreFuture<'a, Option<Bytes>> {
        Box::pin(async move {
            self.check("read", name)?;
            self.inner.get(name).await
        })
    }

    fn get_range<'a>(&'a self, name: &'a str, range: Range<u64>) -> StoreFuture<'a, Option<Bytes>> {
        self.inner.get_range(name, range)
    }

    fn list<'a>(&'a self, prefix: &'a str, after: &'a str) -> StoreFuture<'a, Page> {
        Box::pin(async move {
            self.check("list", prefix)?;
            self.inner.list(prefix, after).await
        })
    }

    fn delete<'a>(&'a self, name: &'a str) -> StoreFuture<'a, ()> {
        self.inner.delete(name)
    }
}
