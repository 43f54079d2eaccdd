//! The node: its store, its swarm, its pins, and the tasks that hold them together.
//!
//! Everything that changes goes through [`Node::pin`], [`Node::unpin`], [`Node::set_devices`] and [`Node::set_bans`], which return when the change is on
//! disk. Every task runs on one tracker and ends with [`Node::shutdown`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use cumulet_api::{ArchiveSpec, ArchiveStatus, Condition, ConditionStatus, NodeStatus};
use cumulet_hypercore::corestore::{Corestore, CorestoreConfig, CorestoreError};
use cumulet_hypercore::driver::{Session, replicate};
use cumulet_hypercore::segment::ContentCipher;
use cumulet_hypercore::storage::DiskOptions;
use cumulet_hyperdht::Dht;
use cumulet_hyperdrive::plan::Selection;
use cumulet_hyperswarm::{Connection, Swarm, SwarmStats};
use cumulet_secret_stream::noise::KeyPair;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, debug, info_span, warn};

use crate::archive::{Archive, Surroundings, short};
use crate::backup::{Backup, BackupError};
use crate::bans::{Bans, BansError};
use crate::config::{Config, DeviceSeed};
use crate::members::{Members, MembersError};
use crate::pins::{Key, PinError, PinStore};
use crate::secrets::{self, SecretError};
use crate::services::{self, ServiceCounters, ServiceError, Services};
use crate::swarm;

/// How long the last goodbyes may take.
const GOODBYE: Duration = Duration::from_secs(8);

/// Why a node can't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data folder can't be used.
    #[error("failed to use the data folder {path}: {source}")]
    DataDir {
        /// The folder.
        path: std::path::PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another process uses the data folder.
    #[error("the data folder {path} is used by another process")]
    InUse {
        /// The folder.
        path: std::path::PathBuf,
    },
    /// A secret can't be had.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The pins can't be read.
    #[error(transparent)]
    Pins(#[from] PinError),
    /// The cores can't be opened.
    #[error("failed to open the store: {0}")]
    Store(#[from] CorestoreError),
    /// The bans can't be read, or are of those whom the node is to serve.
    #[error(transparent)]
    Bans(#[from] BansError),
    /// Peers can't be listened for.
    #[error(
        "failed to listen for peers on TCP port {port}: {source}; hint: the swarm uses one port number for UDP and TCP; \
         free this one, or give another with --swarm-port (0: any)"
    )]
    SwarmTcp {
        /// The port.
        port: u16,
        /// What the system said.
        source: std::io::Error,
    },
    /// There is no TLS for WebSockets.
    #[error("failed to set up TLS for replicas at wss:// addresses")]
    Tls(#[source] rustls::Error),
    /// The network can't be used.
    #[error("failed to start the swarm on UDP port {port}: {reason}")]
    Swarm {
        /// The port.
        port: u16,
        /// Why.
        reason: String,
    },
    /// A service can't be started.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// The backup store can't be used at all.
    #[error(transparent)]
    Backup(#[from] BackupError),
}

/// Why a pin can't be changed.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The pin makes no sense.
    #[error("{field}: {problem}")]
    Spec {
        /// Which field.
        field: &'static str,
        /// Why.
        problem: String,
    },
    /// It can't be kept.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// The devices can't be kept.
    #[error(transparent)]
    Devices(#[from] MembersError),
    /// The bans can't be kept, or are of those whom the node is to serve.
    #[error(transparent)]
    Bans(#[from] BansError),
    /// The archive's core can't be used.
    #[error(transparent)]
    Store(#[from] CorestoreError),
    /// The node is on its way out.
    #[error("the node is stopping")]
    Stopping,
}

/// A running node.
#[derive(Debug)]
pub struct Node {
    store: Corestore,
    dht: Dht,
    swarm: Swarm,
    services: Services,
    members: Arc<Members>,
    backup: Arc<Backup>,
    pins: PinStore,
    archives: RwLock<BTreeMap<Key, Pinned>>,
    /// One change of the pins at a time.
    changing: tokio::sync::Mutex<()>,
    tasks: TaskTracker,
    cancel: CancellationToken,
    started: AtomicBool,
    damaged_pins: Vec<String>,
    /// Held while the process runs.
    _lock: std::fs::File,
}

#[derive(Debug)]
struct Pinned {
    archive: Arc<Archive>,
    cancel: CancellationToken,
}

impl Node {
    /// Opens the data folder and starts everything but the HTTP listeners.
    pub async fn start(config: &Config) -> Result<Arc<Self>, StartError> {
        let data_dir = |source| StartError::DataDir {
            path: config.data_dir.clone(),
            source,
        };
        std::fs::create_dir_all(&config.data_dir).map_err(data_dir)?;
        let lock = std::fs::File::create(config.data_dir.join("lock")).map_err(data_dir)?;
        lock.try_lock().map_err(|_| StartError::InUse {
            path: config.data_dir.clone(),
        })?;
        let seed = device_seed(config)?;
        let content_key = content_key(config)?;
        let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
        // Sealed segments are encrypted as in the backup, so that backing up and restoring copy files.
        let disk = DiskOptions {
            cipher: Some(ContentCipher::new(&content_key)),
            ..DiskOptions::default()
        };
        let store_config = CorestoreConfig {
            disk,
            ..CorestoreConfig::default()
        };
        let store = Corestore::open(&config.data_dir.join("cores"), store_config.clone())?;
        let backup = Arc::new(Backup::start(config, content_key, tasks.clone(), cancel.clone())?);
        let bans = Bans::open(&config.data_dir, config.bans.iter().copied())?;
        let members = members(config, *KeyPair::from_seed(seed).public_key(), bans)?;
        let (dht, swarm) = swarm::start(config, &seed, members.bans(), &tasks, &cancel).await?;
        let around = services::Surroundings {
            dht: &dht,
            swarm: &swarm,
            device_seed: &seed,
            data_dir: &config.data_dir,
            store: &store_config,
            backup: &backup,
            members: &members,
            tasks: &tasks,
            cancel: &cancel,
        };
        let services = Services::start(config, &around).await?;
        let pins = PinStore::open(&config.data_dir.join("pins"))?;
        let (known, damaged) = pins.load()?;
        for error in &damaged {
            warn!(%error, "a pin can't be read and is left alone");
        }
        let node = Arc::new(Self {
            store,
            dht,
            swarm,
            services,
            members,
            backup,
            pins,
            archives: RwLock::default(),
            changing: tokio::sync::Mutex::new(()),
            tasks,
            cancel,
            started: AtomicBool::new(false),
            damaged_pins: damaged.iter().map(ToString::to_string).collect(),
            _lock: lock,
        });
        node.tasks.spawn(Arc::clone(&node).accept_connections());
        for replica in config
            .replicas
            .iter()
            .filter(|replica| replica.public_key != *node.swarm.public_key())
        {
            let (swarm, cancel) = (node.swarm.clone(), node.cancel.clone());
            node.tasks
                .spawn(swarm::keep_replica(swarm, replica.clone(), cancel));
        }
        for (key, spec) in known {
            node.start_archive(key, spec);
        }
        node.started.store(true, Ordering::Release);
        Ok(node)
    }

    /// Our public key on the swarm.
    pub fn public_key(&self) -> &[u8; 32] {
        self.swarm.public_key()
    }

    /// What the swarm has done and does now.
    pub fn swarm_stats(&self) -> SwarmStats {
        self.swarm.stats()
    }

    /// The port on which the swarm is, for UDP and for TCP.
    pub fn swarm_port(&self) -> u16 {
        self.dht.local_address().port()
    }

    /// What the services have done and do now.
    pub fn service_counters(&self) -> ServiceCounters {
        self.services.counters()
    }

    /// Why the node isn't ready to be used, if it isn't.
    pub fn not_ready(&self) -> Option<&'static str> {
        if self.cancel.is_cancelled() {
            return Some("stopping");
        }
        (!self.started.load(Ordering::Acquire)).then_some("starting")
    }

    /// Keeps an archive; returns when the pin is on disk. Doing it again changes the pin.
    pub async fn pin(&self, key: Key, spec: ArchiveSpec) -> Result<ArchiveStatus, NodeError> {
        check(&spec)?;
        let _one = self.changing.lock().await;
        if self.cancel.is_cancelled() {
            return Err(NodeError::Stopping);
        }
        self.pins.put(&key, &spec)?;
        let archive = match self.find(&key) {
            Some(archive) => {
                archive.set_spec(spec);
                archive
            }
            None => self.start_archive(key, spec),
        };
        Ok(archive.status(&self.backup).await)
    }

    /// Forgets a pin. With `delete` the blocks go too; otherwise they stay on the volume. The backup always stays.
    pub async fn unpin(&self, key: &Key, delete: bool) -> Result<(), NodeError> {
        let _one = self.changing.lock().await;
        self.pins.remove(key)?;
        let pinned = self
            .archives
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(key);
        let Some(Pinned { archive, cancel }) = pinned else {
            return Ok(());
        };
        cancel.cancel();
        for core in archive.cores() {
            self.backup.forget(core.discovery_key());
            if delete {
                self.store.remove(core.discovery_key()).await?;
            }
        }
        Ok(())
    }

    /// The owner's devices.
    pub fn devices(&self) -> Vec<Key> {
        self.members.devices()
    }

    /// Makes these the owner's devices, and only these; returns when they are on disk. One that is left out may use nothing from
    /// then on, and what the services do for it now ends.
    pub async fn set_devices(&self, devices: BTreeSet<Key>) -> Result<(), NodeError> {
        let _one = self.changing.lock().await;
        if self.cancel.is_cancelled() {
            return Err(NodeError::Stopping);
        }
        if self.members.set_devices(devices)? {
            self.services.review();
        }
        Ok(())
    }

    /// The owner's bans.
    pub fn bans(&self) -> Vec<Key> {
        self.members.bans().live()
    }

    /// Makes these the owner's bans, and only these, beside those of the configuration; returns when they are on disk. Connections with
    /// those who are banned end, and what the services do for them.
    pub async fn set_bans(&self, bans: BTreeSet<Key>) -> Result<(), NodeError> {
        let _one = self.changing.lock().await;
        if self.cancel.is_cancelled() {
            return Err(NodeError::Stopping);
        }
        let changed = self.members.set_bans(bans)?;
        swarm::change_bans(&self.swarm, &changed);
        self.services.change_bans(&changed);
        Ok(())
    }

    fn start_archive(&self, key: Key, spec: ArchiveSpec) -> Arc<Archive> {
        let archive = Arc::new(Archive::new(key, spec));
        let cancel = self.cancel.child_token();
        let around = Surroundings {
            store: self.store.clone(),
            swarm: self.swarm.clone(),
            backup: Arc::clone(&self.backup),
            cancel: cancel.clone(),
        };
        let span = info_span!("archive", key = %short(&key));
        self.tasks
            .spawn(Arc::clone(&archive).run(around).instrument(span));
        let pinned = Pinned {
            archive: Arc::clone(&archive),
            cancel,
        };
        self.archives
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(key, pinned);
        archive
    }

    /// A pinned archive.
    pub fn find(&self, key: &Key) -> Option<Arc<Archive>> {
        let archives = self.archives.read().unwrap_or_else(PoisonError::into_inner);
        archives.get(key).map(|pinned| Arc::clone(&pinned.archive))
    }

    /// All pinned archives.
    pub fn all(&self) -> Vec<Arc<Archive>> {
        let archives = self.archives.read().unwrap_or_else(PoisonError::into_inner);
        archives
            .values()
            .map(|pinned| Arc::clone(&pinned.archive))
            .collect()
    }

    /// How an archive is doing.
    pub async fn archive(&self, key: &Key) -> Option<ArchiveStatus> {
        match self.find(key) {
            Some(archive) => Some(archive.status(&self.backup).await),
            None => None,
        }
    }

    /// How all archives are doing.
    pub async fn archives(&self) -> Vec<ArchiveStatus> {
        let mut statuses = Vec::new();
        for archive in self.all() {
            statuses.push(archive.status(&self.backup).await);
        }
        statuses
    }

    /// How the node is doing.
    pub async fn status(&self) -> NodeStatus {
        let archives = self.archives().await;
        let stats = self.swarm.stats();
        let health = if self.damaged_pins.is_empty() {
            (
                ConditionStatus::True,
                "Healthy",
                "the data folder is read and written".to_owned(),
            )
        } else {
            (
                ConditionStatus::False,
                "DamagedPins",
                self.damaged_pins.join("; "),
            )
        };
        let backed_up = self.backup.condition();
        NodeStatus {
            version: env!("CARGO_PKG_VERSION").into(),
            public_key: hex::encode(self.public_key()),
            relay_public_key: self.services.relay_key().map(hex::encode),
            blind_peer_public_key: self.services.blind_peer_key().map(hex::encode),
            peers: u32::try_from(stats.client_connections + stats.server_connections).unwrap_or(u32::MAX),
            bytes_stored: archives.iter().map(|archive| archive.stored_bytes).sum(),
            devices: self.members.devices().iter().map(hex::encode).collect(),
            bans: self.members.bans().live().iter().map(hex::encode).collect(),
            archives: archives.len() as u32,
            durable_lag_seconds: self.backup.lag().as_secs(),
            last_backup_time: self.backup.last_time(),
            conditions: vec![
                Condition {
                    kind: "StorageHealthy".into(),
                    status: health.0,
                    reason: health.1.into(),
                    message: health.2,
                },
                backed_up,
            ],
        }
    }

    async fn accept_connections(self: Arc<Self>) {
        loop {
            let connection = tokio::select! {
                () = self.cancel.cancelled() => return,
                connection = self.swarm.next_connection() => connection,
            };
            let Some(connection) = connection else { return };
            self.tasks
                .spawn(serve(self.store.clone(), connection, self.cancel.child_token()));
        }
    }

    /// Stops everything: withdraws announcements, ships what waits for its backup, syncs and closes the cores. Bounded.
    pub async fn shutdown(&self) {
        let goodbyes = async {
            tokio::join!(self.backup.flush(), self.services.drain());
            self.swarm.shutdown().await;
            self.dht.close().await;
        };
        if tokio::time::timeout(GOODBYE, goodbyes).await.is_err() {
            warn!("goodbyes took too long and were cut short");
        }
        self.cancel.cancel();
        if let Err(error) = self.store.close().await {
            warn!(%error, "failed to close the store");
        }
        self.tasks.close();
        if tokio::time::timeout(GOODBYE, self.tasks.wait()).await.is_err() {
            warn!("some tasks did not end in time");
        }
    }
}

/// What every key pair of this node is made from.
fn device_seed(config: &Config) -> Result<[u8; 32], SecretError> {
    match &config.device_seed {
        DeviceSeed::File(path) => secrets::read_key(path),
        DeviceSeed::MadeOnce(path) => Ok(secrets::read_or_make_key(path)?.0),
    }
}

/// Who may use the node's services: itself, the cloud's other replicas, the configuration's members, and the owner's devices.
fn members(config: &Config, own: Key, bans: Bans) -> Result<Arc<Members>, BansError> {
    let replicas = config.replicas.iter().map(|replica| replica.public_key);
    let fixed = replicas.chain([own]).chain(config.members.iter().copied());
    let (members, damaged) = Members::open(&config.data_dir, fixed, bans)?;
    if let Some(error) = damaged {
        warn!(%error, "there are no devices until they are set again");
    }
    Ok(Arc::new(members))
}

/// The key under which blocks are encrypted; made once where the configuration names none.
fn content_key(config: &Config) -> Result<[u8; 32], SecretError> {
    if !config.make_content_key {
        return secrets::read_key(&config.content_key_file);
    }
    let (key, made) = secrets::read_or_make_key(&config.content_key_file)?;
    if made {
        warn!(file = %config.content_key_file.display(), "made a content key: keep a copy, the backup can't be read without it");
    }
    Ok(key)
}

async fn serve(store: Corestore, connection: Connection, cancel: CancellationToken) {
    let peer = short(&connection.remote_public_key);
    let mut header_seed = [0; cumulet_secret_stream::HEADER_BYTES];
    if let Err(error) = getrandom::fill(&mut header_seed) {
        warn!(%peer, %error, "no random bytes");
        return;
    }
    debug!(%peer, dialled = connection.is_initiator, "connected");
    let session = Session::Established {
        handshake: connection.handshake,
        header_seed,
    };
    match replicate(store, connection.stream, session, cancel).await {
        Ok(()) => debug!(%peer, "disconnected"),
        Err(error) => debug!(%peer, %error, "disconnected"),
    }
}

/// A pin that can't work is refused before it is kept.
fn check(spec: &ArchiveSpec) -> Result<(), NodeError> {
    for (field, patterns) in [
        ("sync.include", &spec.sync.include),
        ("sync.exclude", &spec.sync.exclude),
    ] {
        if let Some(pattern) = patterns.iter().find(|pattern| pattern.starts_with('/')) {
            let problem = format!("{pattern:?} is absolute; write paths relative to the archive");
            return Err(NodeError::Spec { field, problem });
        }
        Selection::new(patterns, &[]).map_err(|error| NodeError::Spec {
            field,
            problem: error.to_string(),
        })?;
    }
    Ok(())
}
