//! The node's backup: ships the cores of pinned archives, and of the blind peer, to one store, and fills empty cores from it.
//!
//! What is shipped and how is decided in `cumulet_backup`; here cores are handed to it, and its progress becomes words.
//! A damaged object is remembered until its blocks were fetched from peers; then a good copy is shipped beside it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use cumulet_api::{Condition, ConditionStatus};
use cumulet_backup::core::{CoreSource, CoreTarget, LockedCore};
use cumulet_backup::pins::Pins;
use cumulet_backup::restore::{RestoreError, RestoreProgress, Restorer, Until};
use cumulet_backup::retry::Patience;
use cumulet_backup::sealing::ContentKey;
use cumulet_backup::ship::{ShipConfig, Shipper};
use cumulet_backup::store::{self, ObjectStore, S3Access, StoreError};
use cumulet_hypercore::core::Core;
use cumulet_hypercore::corestore::{BoxedCore, Claim, CoreHandle, Corestore, CorestoreError};
use cumulet_hypercore::crypto::{Hash, Key, discovery_key};
use cumulet_hypercore::segment::ContentCipher;
use cumulet_hypercore::storage::Storage;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::config::Config;

/// Why the backup can't be used at all.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The store's address or credentials make no sense.
    #[error("failed to open the backup store {url}: {source}")]
    Open {
        /// The URL, as configured.
        url: String,
        /// Why.
        source: Box<StoreError>,
    },
    /// A variable with credentials is missing.
    #[error("the backup store {url} needs {variable} in the environment")]
    Credentials {
        /// The URL, as configured.
        url: String,
        /// What is missing.
        variable: &'static str,
    },
    /// The operating system gave no random bytes.
    #[error("failed to get random bytes from the operating system: {0}")]
    Random(getrandom::Error),
}

/// How far the backup of one core is, in words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BackupState {
    /// The largest signed length whose held blocks are all in the store.
    pub durable_length: u64,
    /// Bytes that the newest head in the store names.
    pub bytes: u64,
    /// Everything held is in the store.
    pub settled: bool,
    /// What failed last.
    pub error: Option<String>,
    /// Objects that were refused and whose blocks are not here yet.
    pub damaged: Option<String>,
}

/// Objects of a core that were refused.
#[derive(Debug, Clone)]
struct Refused {
    objects: Vec<String>,
    text: String,
    missing: Vec<Range<u64>>,
}

/// A core that was opened, and what came of its restore: the restored length (0 without a backup), if one was tried.
#[derive(Debug)]
pub struct Opened {
    /// The core.
    pub core: CoreHandle,
    /// The restore.
    pub restored: Option<Result<u64, RestoreError>>,
}

/// The backup of a node.
pub struct Backup {
    url: String,
    shipper: Shipper,
    restorer: Restorer,
    pins: Pins,
    cipher: ContentCipher,
    refused: Mutex<BTreeMap<Hash, Refused>>,
    /// Folder with an empty file for each core whose restore is under way.
    restoring: PathBuf,
}

impl std::fmt::Debug for Backup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Backup")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Backup {
    /// Opens the store that the configuration names. Nothing is read or written yet.
    pub fn start(
        config: &Config,
        content_key: [u8; 32],
        tasks: TaskTracker,
        cancel: CancellationToken,
    ) -> Result<Self, BackupError> {
        let store = open(config)?;
        let mut seed = [0; 8];
        getrandom::fill(&mut seed).map_err(BackupError::Random)?;
        let ship = ShipConfig {
            max_lag: config.backup_max_lag,
            seed: u64::from_le_bytes(seed),
            clock: Arc::new(now),
        };
        let key = ContentKey::new(content_key);
        let shipper = Shipper::new(Arc::clone(&store), key.clone(), ship, tasks, cancel);
        let restorer = Restorer::new(Arc::clone(&store), key.clone(), Patience::default());
        let pins = Pins::new(store, key, Patience::default());
        Ok(Self {
            url: config.backup_url.clone(),
            shipper,
            restorer,
            pins,
            cipher: ContentCipher::new(&content_key),
            refused: Mutex::default(),
            restoring: config.data_dir.join("restoring"),
        })
    }

    /// What the cloud keeps, in the store.
    pub fn pins(&self) -> Pins {
        self.pins.clone()
    }

    /// Ships a core from now on; a core that is shipped already stays as it is.
    pub fn follow(&self, core: &CoreHandle) {
        self.shipper.add(Arc::new(CoreSource(core.clone())));
    }

    /// Stops shipping a core. What is in the store stays.
    pub fn forget(&self, discovery_key: &Hash) {
        self.shipper.remove(discovery_key);
        lock(&self.refused).remove(discovery_key);
    }

    /// Fills a core that is not open from the object store, and opens it. A restore that was broken off is done again.
    /// When it fails the core is opened all the same, for peers to fill; the error says why.
    pub async fn open_core(&self, store: &Corestore, key: Key) -> Result<Opened, CorestoreError> {
        let discovery_key = discovery_key(&key);
        let mark = self.restoring.join(hex::encode(discovery_key));
        if !mark.exists() && store.list().await?.contains(&discovery_key) {
            return Ok(Opened {
                core: store.get(key).await?,
                restored: None,
            });
        }
        let restored = match store.claim(key).await? {
            Some(storage) => Some(self.restore(key, storage, &mark).await),
            None => None,
        };
        Ok(Opened {
            core: store.get(key).await?,
            restored,
        })
    }

    async fn restore(&self, key: Key, claim: Claim, mark: &Path) -> Result<u64, RestoreError> {
        let discovery_key = discovery_key(&key);
        let found = match self.restorer.find(&discovery_key, Until::Newest).await {
            Ok(found) => found,
            Err(RestoreError::NoHead) => return Ok(0),
            Err(error) => return Err(error),
        };
        if let Err(error) = std::fs::create_dir_all(&self.restoring).and_then(|()| std::fs::write(mark, [])) {
            return Err(RestoreError::Target(error.into()));
        }
        let progress = watch::Sender::new(RestoreProgress::default());
        let storage: Box<dyn Storage> = Box::new(claim);
        let core = Core::open(storage, key).map_err(|error| RestoreError::Target(error.into()))?;
        let target = Arc::new(CoreTarget(Arc::new(LockedCore::new(core)), self.cipher.clone()));
        let report = self.restorer.restore(&found, target, &progress).await?;
        if let Err(error) = std::fs::remove_file(mark) {
            return Err(RestoreError::Target(error.into()));
        }
        if !report.damaged.is_empty() || !report.missing.is_empty() {
            let objects: Vec<String> = report
                .damaged
                .iter()
                .map(|damaged| damaged.object.clone())
                .collect();
            let lines = report
                .damaged
                .iter()
                .map(|damaged| format!("{} was refused: {}", damaged.object, damaged.reason));
            let text = lines.collect::<Vec<_>>().join("; ");
            warn!(%text, missing = ?report.missing, "damaged backup");
            let refused = Refused {
                objects,
                text,
                missing: report.missing,
            };
            lock(&self.refused).insert(discovery_key, refused);
        }
        Ok(report.length)
    }

    /// When the blocks of damaged objects are here again, ships good copies of them.
    pub async fn heal(&self, core: &CoreHandle) {
        let discovery_key = core.discovery_key();
        let healed = {
            let refused = lock(&self.refused);
            let Some(refused) = refused.get(discovery_key) else {
                return;
            };
            refused.clone()
        };
        let missing = healed.missing;
        let all = |core: &BoxedCore| {
            missing
                .iter()
                .all(|range| core.bitfield().contains_range(range.clone()))
        };
        if core.with_core(all).await {
            let objects = healed.objects;
            info!(
                ?objects,
                "the blocks of damaged objects are here again and are shipped anew"
            );
            self.shipper.damaged(objects);
            lock(&self.refused).remove(discovery_key);
        }
    }

    /// How far the backup of a core is.
    pub fn state(&self, discovery_key: &Hash) -> BackupState {
        let damaged = lock(&self.refused)
            .get(discovery_key)
            .map(|refused| refused.text.clone());
        let progress = self.shipper.progress();
        let progress = progress.borrow();
        let Some(core) = progress.cores.get(discovery_key) else {
            return BackupState {
                damaged,
                ..BackupState::default()
            };
        };
        BackupState {
            durable_length: core.durable.length,
            bytes: core.durable_bytes,
            settled: core.settled,
            error: core.failure.as_ref().map(describe),
            damaged,
        }
    }

    /// How long the oldest change waits that is not in the store.
    pub fn lag(&self) -> Duration {
        self.shipper.progress().borrow().lag()
    }

    /// When the last object was made, RFC 3339.
    pub fn last_time(&self) -> Option<String> {
        let made = self.shipper.progress().borrow().last_object_at?;
        jiff::Timestamp::try_from(made).ok().map(|time| time.to_string())
    }

    /// How the store is doing.
    pub fn condition(&self) -> Condition {
        let progress = self.shipper.progress();
        let progress = progress.borrow();
        let (status, reason, message) =
            if let Some(text) = lock(&self.refused).values().next().map(|r| r.text.clone()) {
                (ConditionStatus::False, "Damaged", text)
            } else if let Some(failure) = progress.failure() {
                (ConditionStatus::False, "StoreFailed", describe(failure))
            } else if progress.cores.values().all(|core| core.settled) {
                (
                    ConditionStatus::True,
                    "UpToDate",
                    format!("everything held is in {}", self.url),
                )
            } else {
                (
                    ConditionStatus::False,
                    "Shipping",
                    format!("blocks are on their way to {}", self.url),
                )
            };
        Condition {
            kind: "BackedUp".into(),
            status,
            reason: reason.into(),
            message,
        }
    }

    /// Ships everything that waits; returns when it is in the store or the backup is stopped.
    pub async fn flush(&self) {
        if self.shipper.flush().await.is_err() {
            warn!("the node stops before everything was in the backup");
        }
    }
}

fn describe(failure: &cumulet_backup::ship::Failure) -> String {
    match &failure.hint {
        Some(hint) => format!("{} ({hint})", failure.message),
        None => failure.message.clone(),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one clock of the process, handed to whoever needs the time of day"
)]
fn now() -> SystemTime {
    SystemTime::now()
}

/// The store of the configuration. Credentials come from the environment only: what is in a file or on a command line is read by others.
fn open(config: &Config) -> Result<Arc<dyn ObjectStore>, BackupError> {
    let variable = |variable: &'static str| std::env::var(variable).ok();
    let (access_key, secret_key) = (variable("AWS_ACCESS_KEY_ID"), variable("AWS_SECRET_ACCESS_KEY"));
    if config.backup_url.starts_with("s3://") && (access_key.is_none() || secret_key.is_none()) {
        let variable = access_key.map_or("AWS_ACCESS_KEY_ID", |_| "AWS_SECRET_ACCESS_KEY");
        return Err(BackupError::Credentials {
            url: config.backup_url.clone(),
            variable,
        });
    }
    let access = S3Access {
        endpoint: config.s3_endpoint.clone(),
        region: config.s3_region.clone(),
        force_path_style: config.s3_force_path_style,
        access_key,
        secret_key: secret_key.map(Into::into),
        session_token: variable("AWS_SESSION_TOKEN").map(Into::into),
    };
    store::open(&config.backup_url, access).map_err(|source| BackupError::Open {
        url: config.backup_url.clone(),
        source: Box::new(source),
    })
}
