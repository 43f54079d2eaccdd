//! The backup of what the blind peer keeps for members: their cores are shipped as pinned archives' are, and which they are is
//! kept in the store beside them. A node with nothing but its keys learns it again, and fills the cores before it serves them.
//!
//! What a device had kept stays when the device is taken off. What strangers have kept is not backed up: they may come with ever new cores, and the store forgets nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cumulet_backup::pins::{Pin, Pins};
use cumulet_blind_peer::{BlindPeer, Companion};
use cumulet_hypercore::corestore::{CoreHandle, Corestore};
use cumulet_hypercore::crypto::discovery_key;
use cumulet_relay::blind_peer::CoreRecord;
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use crate::archive::short;
use crate::backup::Backup;
use crate::members::Members;
use crate::pins::Key;

/// Between two writes of the list, so that a flood of requests is one.
const LIST_PAUSE: Duration = Duration::from_secs(1);
/// How often cores are looked after when nothing happens; also the wait before a store that fails is asked again.
const TEND_EVERY: Duration = Duration::from_mins(1);
/// Cores that are filled from the store at a time.
const RESTORES: usize = 4;
/// File that is there while a restore is under way.
const RESTORING: &str = "restoring";

/// An open core that is backed up.
#[derive(Debug)]
struct Followed {
    core: CoreHandle,
    /// The blind peer has closed it; it is followed until everything is in the store.
    is_closed: bool,
}

/// Backs up what one blind peer keeps.
pub(super) struct Safekeeping {
    backup: Arc<Backup>,
    pins: Pins,
    members: Arc<Members>,
    mark: PathBuf,
    cores: Mutex<BTreeMap<Key, Followed>>,
}

/// What became of a core of the store's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// The blind peer keeps it, with all that the store has of it.
    Filled,
    /// The blind peer keeps it, and lacks something that the store has.
    Kept,
    /// The blind peer does not know it.
    Failed,
}

/// What is kept in the store of one core; numbers that change with every block are not: the core itself tells them.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    owner: String,
    priority: u64,
    announce: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    referrer: Option<String>,
    #[serde(default, skip_serializing_if = "is_zero")]
    blocks_cleared: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    bytes_cleared: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde asks")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn write(owner: &Key, record: &CoreRecord) -> String {
    let listed = Listed {
        owner: hex::encode(owner),
        priority: record.priority,
        announce: record.announce,
        referrer: record.referrer.map(hex::encode),
        blocks_cleared: record.blocks_cleared,
        bytes_cleared: record.bytes_cleared,
    };
    // Numbers and text always serialise.
    serde_json::to_string(&listed).unwrap_or_default()
}

fn read(key: Key, spec: &str) -> Option<(Key, CoreRecord)> {
    let parse = |text: &str| {
        let mut key = [0; 32];
        hex::decode_to_slice(text, &mut key).ok().map(|()| key)
    };
    let listed: Listed = serde_json::from_str(spec).ok()?;
    let referrer = match &listed.referrer {
        Some(text) => Some(parse(text)?),
        None => None,
    };
    let record = CoreRecord {
        key,
        priority: listed.priority,
        announce: listed.announce,
        referrer,
        blocks_cleared: listed.blocks_cleared,
        bytes_cleared: listed.bytes_cleared,
        ..CoreRecord::default()
    };
    Some((parse(&listed.owner)?, record))
}

impl Safekeeping {
    /// For the blind peer with this public key, its files in `folder`. Nothing is read or written of the store yet. A blind peer without
    /// a journal is one to be restored.
    pub(super) fn new(
        backup: &Arc<Backup>,
        public_key: &Key,
        members: &Arc<Members>,
        folder: &Path,
        journal: &Path,
    ) -> std::io::Result<Self> {
        let mark = folder.join(RESTORING);
        if !journal.exists() {
            std::fs::create_dir_all(folder)?;
            std::fs::write(&mark, [])?;
        }
        Ok(Self {
            backup: Arc::clone(backup),
            pins: backup.pins().of_blind_peer(public_key),
            members: Arc::clone(members),
            mark,
            cores: Mutex::default(),
        })
    }

    /// Whether what was kept is to be learnt from the store.
    pub(super) fn is_restoring(&self) -> bool {
        self.mark.exists()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Followed>> {
        self.cores.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the store has, once it answers.
    pub(super) async fn list(&self) -> BTreeMap<Key, String> {
        let list = loop {
            match self.pins.list().await {
                Ok(list) => break list,
                Err(error) => warn!(%error, "failed to read what the blind peer keeps; trying again"),
            }
            tokio::time::sleep(TEND_EVERY).await;
        };
        for damaged in &list.damaged {
            warn!(object = %damaged.object, reason = %damaged.reason, "damaged backup of what the blind peer keeps");
        }
        let pins = list.pins.into_iter();
        pins.filter_map(|pin| pin.spec.map(|spec| (pin.key, spec)))
            .collect()
    }

    /// Fills the listed cores and has the blind peer keep them; gives what it keeps of the list. What fails is tried again at the
    /// next start, and stays in the store's list until then: that the blind peer lacks it does not mean that it was deleted.
    pub(super) async fn restore(
        &self,
        list: BTreeMap<Key, String>,
        peer: &BlindPeer,
        store: &Corestore,
    ) -> BTreeMap<Key, String> {
        let listed = list.len();
        let owners = list.iter().filter_map(|(key, spec)| read(*key, spec));
        if let Err(error) = self.members.remember(owners.map(|(owner, _)| owner)) {
            warn!(%error, "whose cores these were is not kept");
        }
        let done: Vec<_> = futures::stream::iter(list)
            .map(|(key, spec)| async move {
                let outcome = self.restore_one(key, &spec, peer, store).await;
                (key, spec, outcome)
            })
            .buffer_unordered(RESTORES)
            .collect()
            .await;
        let restored = done
            .iter()
            .filter(|(.., outcome)| *outcome == Outcome::Filled)
            .count();
        if restored == listed
            && let Err(error) = std::fs::remove_file(&self.mark)
        {
            warn!(%error, "failed to note that the blind peer is restored");
        }
        if listed > 0 {
            info!(restored, listed, "restored what the blind peer keeps");
        }
        let kept = done
            .into_iter()
            .filter(|(.., outcome)| *outcome != Outcome::Failed);
        kept.map(|(key, spec, _)| (key, spec)).collect()
    }

    async fn restore_one(&self, key: Key, spec: &str, peer: &BlindPeer, store: &Corestore) -> Outcome {
        let Some((owner, record)) = read(key, spec) else {
            warn!(core = %short(&key), "what was kept of a core can't be read");
            return Outcome::Failed;
        };
        // Open until the blind peer has opened it.
        let opened = match self.backup.open_core(store, key).await {
            Ok(opened) => opened,
            Err(error) => {
                warn!(core = %short(&key), %error, "failed to open a core to be restored");
                return Outcome::Failed;
            }
        };
        let is_filled = match opened.restored {
            Some(Err(error)) => {
                warn!(core = %short(&key), %error, "failed to restore a core");
                false
            }
            _ => true,
        };
        if record.blocks_cleared > 0
            && let Err(error) = opened.core.clear(0..record.blocks_cleared).await
        {
            warn!(core = %short(&key), %error, "failed to give back what was given back before");
        }
        if let Err(error) = peer.restore(owner, record).await {
            warn!(core = %short(&key), %error, "the core is restored and not kept");
            return Outcome::Failed;
        }
        if is_filled { Outcome::Filled } else { Outcome::Kept }
    }

    /// Keeps the store's list true, from what it is known to be.
    pub(super) async fn run(self: Arc<Self>, peer: BlindPeer, mut known: BTreeMap<Key, String>) {
        let mut written = peer.written();
        loop {
            written.mark_unchanged();
            self.ship_list(&peer, &mut known).await;
            self.tend().await;
            tokio::time::sleep(LIST_PAUSE).await;
            if let Ok(Err(_)) = tokio::time::timeout(TEND_EVERY, written.changed()).await {
                return;
            }
        }
    }

    async fn ship_list(&self, peer: &BlindPeer, known: &mut BTreeMap<Key, String>) {
        let kept: BTreeMap<Key, String> = peer
            .records()
            .iter()
            .filter(|(owner, _)| self.members.knew(owner))
            .map(|(owner, record)| (record.key, write(owner, record)))
            .collect();
        let gone = known.keys().filter(|key| !kept.contains_key(*key));
        let gone = gone.map(|key| (*key, None));
        let changed = kept.iter().filter(|(key, spec)| known.get(*key) != Some(*spec));
        let changed = changed.map(|(key, spec)| (*key, Some(spec.clone())));
        let pins: Vec<Pin> = gone.chain(changed).map(|(key, spec)| Pin { key, spec }).collect();
        for pin in pins {
            if let Err(error) = self.pins.put(&pin).await {
                return warn!(%error, "failed to back up what the blind peer keeps; trying again");
            }
            match pin.spec {
                Some(spec) => drop(known.insert(pin.key, spec)),
                None => drop(known.remove(&pin.key)),
            }
        }
    }

    /// Lets go of closed cores that are in the store whole; sees to it that the others are shipped, also those that a pin of
    /// the same core let go of; mends.
    async fn tend(&self) {
        let mut open = Vec::new();
        self.lock().retain(|_, followed| {
            let discovery_key = followed.core.discovery_key();
            if followed.is_closed && self.backup.state(discovery_key).settled {
                self.backup.forget(discovery_key);
                return false;
            }
            open.push(followed.core.clone());
            true
        });
        for core in open {
            self.backup.follow(&core);
            self.backup.heal(&core).await;
        }
    }
}

impl Companion for Safekeeping {
    fn opened(&self, core: &CoreHandle, owner: &Key) {
        if self.members.knew(owner) {
            self.backup.follow(core);
            let followed = Followed {
                core: core.clone(),
                is_closed: false,
            };
            self.lock().insert(*core.key(), followed);
        }
    }

    fn closed(&self, key: &Key) {
        if let Some(followed) = self.lock().get_mut(key) {
            followed.is_closed = true;
        }
    }

    fn deleted(&self, key: &Key) {
        if self.lock().remove(key).is_some() {
            self.backup.forget(&discovery_key(key));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn what_is_listed_of_a_core_is_read_again_and_what_its_blocks_tell_is_not_listed() {
        let record = CoreRecord {
            key: [1; 32],
            length: 9,
            bytes_allocated: 90,
            updated: 1,
            active: 2,
            priority: 1,
            announce: true,
            referrer: Some([3; 32]),
            blocks_cleared: 4,
            bytes_cleared: 40,
        };
        let text = write(&[2; 32], &record);
        let (owner, read_again) = read([1; 32], &text).unwrap();
        assert_eq!(owner, [2; 32]);
        let expected = CoreRecord {
            length: 0,
            bytes_allocated: 0,
            updated: 0,
            active: 0,
            ..record.clone()
        };
        assert_eq!(read_again, expected);
        let grown = CoreRecord { length: 10, ..record };
        assert_eq!(
            write(&[2; 32], &grown),
            text,
            "a block more is no news for the list"
        );
        assert!(read([1; 32], "{}").is_none());
        assert!(read([1; 32], &text.replace("0202", "xx02")).is_none());
    }
}
