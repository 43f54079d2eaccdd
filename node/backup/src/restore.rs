//! The restorer: brings a core back from the store.
//!
//! In two steps, so that whoever restores can make the core when its key and manifest are known: [`Restorer::find`] reads the
//! heads, newest first, until one is proven; [`Restorer::restore`] imports it and then its segments, a few at a time. A segment is
//! imported only after its blocks gave the hash that the head's signed tree says.
//!
//! Bytes that are not what they should be are refused, recorded and skipped; the rest is restored, and the report says
//! exactly what is not. What the target holds already is not fetched, so a restore that was broken off goes on where it was.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use cumulet_hypercore::crypto::Hash;
use cumulet_hypercore::node::Node;
use cumulet_hypercore::segment::{ContentCipher, Decoded, Place, SegmentId, decode};
use futures::StreamExt;
use futures::stream;
use tokio::sync::watch;

use crate::error::ErrorKind;
use crate::head::{Head, HeadError, ProvenHead, segment_name};
use crate::held::blocks;
use crate::names::{CORES, CoreNames, HeadName, core_of};
use crate::retry::Patience;
use crate::sealing::{ContentKey, OpenError};
use crate::ship::MAX_LISTED;
use crate::source::{CoreError, RestoreTarget};
use crate::store::{ObjectStore, StoreError, list_all};

/// Segments fetched at once: with the one being imported this bounds memory to about 5 times 16 MiB.
const PARALLEL_FETCHES: usize = 4;
/// Most damaged heads that are looked at before giving up: an hour of heads at one every five seconds.
const MAX_DAMAGED_HEADS: usize = 720;

/// An object that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damaged {
    /// Its name in the store.
    pub object: String,
    /// What is wrong with it.
    pub reason: String,
}

/// Which head to restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Until {
    /// The newest.
    #[default]
    Newest,
    /// The newest of at most this many blocks, of any fork.
    Length(u64),
}

/// A core that can be restored.
#[derive(Debug, Clone)]
pub struct Found {
    names: CoreNames,
    /// The head, proven.
    pub head: ProvenHead,
    /// Other heads of the same fork and length: replicas may have held other parts.
    pub siblings: Vec<ProvenHead>,
    /// The head's object.
    pub object: String,
    /// Heads that were refused.
    pub damaged: Vec<Damaged>,
}

/// How far a restore is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RestoreProgress {
    /// Segments that are to be looked at.
    pub segments: usize,
    /// Segments that are restored, were there already, or are refused.
    pub done: usize,
    /// Bytes of blocks restored.
    pub bytes: u64,
}

/// What was restored, and what was not.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RestoreReport {
    /// Fork of the restored head.
    pub fork: u64,
    /// Signed length of the restored head.
    pub length: u64,
    /// Segments restored.
    pub restored: usize,
    /// Bytes of their blocks.
    pub restored_bytes: u64,
    /// Segments that the target held already.
    pub present: usize,
    /// Objects that were refused: heads and segments.
    pub damaged: Vec<Damaged>,
    /// Blocks that heads name and that no good object was found for, to be fetched from peers.
    pub missing: Vec<Range<u64>>,
}

impl RestoreReport {
    /// Every block that the restored heads name is in the target.
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty()
    }
}

/// Why a core could not be restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The store failed for longer than the restorer's patience.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No head of the core is in the store.
    #[error("there is no backup of this core, or none as short as asked for")]
    NoHead,
    /// There are heads, but they were encrypted under another content key.
    #[error("the backup was encrypted under another content key")]
    OtherKey,
    /// There are heads, and all that were tried are damaged.
    #[error("none of the {} newest heads of the core could be read", .0.len())]
    AllDamaged(Vec<Damaged>),
    /// The target did not take it.
    #[error("failed to store what was restored: {0}")]
    Target(#[source] CoreError),
    /// The program is shutting down.
    #[error("the restore was stopped")]
    Closed,
}

impl RestoreError {
    /// How to go on.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Store(error) => error.kind,
            Self::NoHead | Self::OtherKey => ErrorKind::Invalid,
            Self::AllDamaged(_) => ErrorKind::Damaged,
            Self::Target(_) => ErrorKind::Retry,
            Self::Closed => ErrorKind::Closed,
        }
    }

    /// What a person can do.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Store(error) => error.hint,
            Self::NoHead => Some("check bucket and prefix, and that the core was ever backed up"),
            Self::OtherKey => Some("give the content key of the cloud that made this backup"),
            Self::AllDamaged(_) => {
                Some("fetch the core from its peers; another copy of the bucket may be intact")
            }
            Self::Target(_) => Some("look at this node's disk"),
            Self::Closed => None,
        }
    }
}

/// Reads the backup of one cloud.
#[derive(Clone)]
pub struct Restorer {
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) key: ContentKey,
    pub(crate) cipher: ContentCipher,
    pub(crate) patience: Patience,
}

impl Restorer {
    /// A restorer for the backup that was encrypted under this key. It gives the store some tries before it gives up.
    pub fn new(store: Arc<dyn ObjectStore>, key: ContentKey, patience: Patience) -> Self {
        let cipher = ContentCipher::new(key.as_bytes());
        Self {
            store,
            key,
            cipher,
            patience,
        }
    }

    /// The discovery keys of all cores in the store, in order. Asks for one page per core.
    pub async fn cores(&self) -> Result<Vec<Hash>, StoreError> {
        let mut cores = Vec::new();
        let mut after = String::new();
        loop {
            let page = self.patience.wait(|| self.store.list(CORES, &after)).await?;
            let Some(first) = page.objects.first() else {
                return Ok(cores);
            };
            match core_of(&first.name) {
                Some(core) => {
                    cores.push(core);
                    // No character of a name sorts after this one.
                    after = format!("{}~", CoreNames::new(core).prefix());
                }
                None => after.clone_from(&first.name),
            }
        }
    }

    /// The newest proven head that is not too long, and others of the same length.
    pub async fn find(&self, discovery: &Hash, until: Until) -> Result<Found, RestoreError> {
        let names = CoreNames::new(*discovery);
        let mut heads = self.heads(&names).await?;
        if let Until::Length(length) = until {
            heads.retain(|(name, _)| name.length <= length);
        }
        let mut damaged = Vec::new();
        let mut other_keys = 0;
        let mut found: Option<Found> = None;
        for (name, repair) in heads {
            if let Some(found) = &found {
                let signed = &found.head.head.signed;
                if (name.fork, name.length) != (signed.fork, signed.length()) {
                    break;
                }
            }
            let object = names.head(&name, repair);
            match self.read_head(discovery, &name, &object).await? {
                Ok(head) => match &mut found {
                    None => {
                        found = Some(Found {
                            names,
                            head,
                            siblings: Vec::new(),
                            object,
                            damaged: Vec::new(),
                        });
                    }
                    Some(found) if found.head == head || found.siblings.contains(&head) => {}
                    Some(found) => found.siblings.push(head),
                },
                Err(error) => {
                    other_keys += usize::from(matches!(error, Some(HeadError::Open(OpenError::OtherKey))));
                    let reason = error.map_or_else(|| "it is gone".to_owned(), |error| explain(&error));
                    damaged.push(Damaged { object, reason });
                }
            }
            if found.is_none() && damaged.len() >= MAX_DAMAGED_HEADS {
                break;
            }
        }
        match found {
            Some(found) => Ok(Found { damaged, ..found }),
            None if damaged.is_empty() => Err(RestoreError::NoHead),
            None if other_keys == damaged.len() => Err(RestoreError::OtherKey),
            None => Err(RestoreError::AllDamaged(damaged)),
        }
    }

    /// The names of a core's heads, newest first.
    pub(crate) async fn heads(&self, names: &CoreNames) -> Result<Vec<(HeadName, u8)>, StoreError> {
        let prefix = names.heads();
        let listed = self
            .patience
            .wait(|| list_all(self.store.as_ref(), &prefix, MAX_LISTED))
            .await?;
        let mut heads: Vec<_> = listed
            .iter()
            .filter_map(|object| names.parse_head(&object.name))
            .collect();
        heads.sort_unstable_by(|a, b| b.cmp(a));
        Ok(heads)
    }

    /// Reads and proves one head. `Err(None)`: it is not there.
    pub(crate) async fn read_head(
        &self,
        discovery: &Hash,
        name: &HeadName,
        object: &str,
    ) -> Result<Result<ProvenHead, Option<HeadError>>, RestoreError> {
        let bytes = match self.patience.wait(|| self.store.get(object)).await {
            Ok(bytes) => bytes,
            Err(error) if error.kind == ErrorKind::Damaged => return Ok(Err(None)),
            Err(error) => return Err(error.into()),
        };
        let Some(bytes) = bytes else { return Ok(Err(None)) };
        let (key, discovery, name) = (self.key.clone(), *discovery, *name);
        let opened = tokio::task::spawn_blocking(move || Head::open(&key, &discovery, &name, &bytes)).await;
        Ok(opened.map_err(|_| RestoreError::Closed)?.map_err(Some))
    }

    /// Imports a head that was found, and all of its segments that the target does not hold.
    pub async fn restore(
        &self,
        found: &Found,
        target: Arc<dyn RestoreTarget>,
        progress: &watch::Sender<RestoreProgress>,
    ) -> Result<RestoreReport, RestoreError> {
        let signed = &found.head.head.signed;
        let mut report = RestoreReport {
            fork: signed.fork,
            length: signed.length(),
            damaged: found.damaged.clone(),
            ..RestoreReport::default()
        };
        let heads = || std::iter::once(&found.head).chain(&found.siblings);
        let segments: usize = heads().map(|head| head.head.selection.segments.len()).sum();
        progress.send_modify(|progress| progress.segments += segments);
        for head in heads() {
            let (into, import) = (Arc::clone(&target), head.clone());
            blocking(move || into.import_head(&import)).await?;
            self.restore_segments(found.names, head, &target, progress, &mut report)
                .await?;
        }
        // A later head may have brought what an earlier one lacked.
        let mut missing = std::mem::take(&mut report.missing);
        report.missing = blocking(move || {
            target.flush()?;
            missing.retain(|blocks| !target.holds(blocks.clone()));
            missing.sort_unstable_by_key(|blocks| blocks.start);
            missing.dedup();
            Ok(missing)
        })
        .await?;
        Ok(report)
    }

    async fn restore_segments(
        &self,
        names: CoreNames,
        head: &ProvenHead,
        target: &Arc<dyn RestoreTarget>,
        progress: &watch::Sender<RestoreProgress>,
        report: &mut RestoreReport,
    ) -> Result<(), RestoreError> {
        let fork = head.head.signed.fork;
        let (asked, segments) = (Arc::clone(target), head.head.selection.segments.clone());
        let all = segments.len();
        let wanted: Vec<Node> = blocking(move || {
            Ok(segments
                .into_iter()
                .filter(|node| !asked.holds(blocks(node)))
                .collect())
        })
        .await?;
        report.present += all - wanted.len();
        progress.send_modify(|progress| progress.done += all - wanted.len());
        let fetches = wanted
            .into_iter()
            .map(|node| async move { (node, self.fetch(names, fork, &node).await) });
        let mut arriving = stream::iter(fetches).buffer_unordered(PARALLEL_FETCHES);
        while let Some((node, segment)) = arriving.next().await {
            let Fetched { segment, damaged } = segment?;
            report.damaged.extend(damaged);
            match segment {
                None => report.missing.push(blocks(&node)),
                Some((place, object, decoded)) => {
                    let into = Arc::clone(target);
                    blocking(move || into.import_segment(&place, &object, decoded)).await?;
                    report.restored += 1;
                    report.restored_bytes += node.size;
                    progress.send_modify(|progress| progress.bytes += node.size);
                }
            }
            progress.send_modify(|progress| progress.done += 1);
        }
        Ok(())
    }

    /// Fetches and proves one segment; tries its repaired copies when the first is missing or damaged.
    pub(crate) async fn fetch(
        &self,
        names: CoreNames,
        fork: u64,
        node: &Node,
    ) -> Result<Fetched, RestoreError> {
        let name = segment_name(fork, node);
        let place = Place {
            discovery_key: names.discovery_key(),
            fork,
            id: SegmentId::from_node(node.index),
        };
        let first = names.segment(&name, 0);
        let mut damaged = Vec::new();
        let mut tried = HashSet::new();
        let mut copies = vec![first.clone()];
        while let Some(object) = copies.pop() {
            match self.read_segment(&object, &place, *node).await? {
                Ok((bytes, decoded)) => {
                    return Ok(Fetched {
                        segment: Some((place, bytes, decoded)),
                        damaged,
                    });
                }
                Err(None) => {}
                Err(Some(reason)) => damaged.push(Damaged {
                    object: object.clone(),
                    reason,
                }),
            }
            tried.insert(object);
            if tried.len() == 1 {
                let listed = self
                    .patience
                    .wait(|| list_all(self.store.as_ref(), &first, MAX_LISTED))
                    .await?;
                let copy = |object: &str| names.parse_segment(object).is_some_and(|(copy, _)| copy == name);
                copies = listed
                    .into_iter()
                    .map(|object| object.name)
                    .filter(|o| copy(o) && *o != first)
                    .collect();
            }
        }
        Ok(Fetched {
            segment: None,
            damaged,
        })
    }

    /// `Err(None)`: it is not there.
    async fn read_segment(
        &self,
        object: &str,
        place: &Place,
        node: Node,
    ) -> Result<Result<(Bytes, Decoded), Option<String>>, RestoreError> {
        let bytes = match self.patience.wait(|| self.store.get(object)).await {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ok(Err(None)),
            Err(error) if error.kind == ErrorKind::Damaged => return Ok(Err(Some(error.reason))),
            Err(error) => return Err(error.into()),
        };
        let (cipher, place) = (self.cipher.clone(), *place);
        let proven = tokio::task::spawn_blocking(move || match decode(&bytes, &place, Some(&cipher)) {
            Ok(decoded) if decoded.root == node => Ok((bytes, decoded)),
            Ok(_) => Err(Some(
                "its blocks are not those that the core's tree has there".to_owned(),
            )),
            Err(error) => Err(Some(explain(&error))),
        });
        proven.await.map_err(|_| RestoreError::Closed)
    }
}

/// What [`Restorer::fetch`] found of one segment.
pub(crate) struct Fetched {
    pub(crate) segment: Option<(Place, Bytes, Decoded)>,
    pub(crate) damaged: Vec<Damaged>,
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CoreError> + Send + 'static,
) -> Result<T, RestoreError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| RestoreError::Closed)?
        .map_err(RestoreError::Target)
}

/// An error with those below it, in one line.
pub(crate) fn explain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut below = error.source();
    while let Some(cause) = below {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        below = cause.source();
    }
    text
}
