//! One run of the command: the store, the peers, and the archives that were named.
//!
//! When peers are asked: `--offline` never; for our own archives never, nobody else can write them; with `--peer` those, for
//! news and for blocks; otherwise the network, for news if the archive is not held at all (or with `--update`), and for blocks
//! if some are missing.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cumulet_hyperbee::Bee;
use cumulet_hypercore::corestore::CoreHandle;
use cumulet_hypercore::crypto::{Hash, Key, KeyPair, discovery_key};
use cumulet_hypercore::key::to_hex;
use cumulet_hypercore::manifest::Manifest;
use cumulet_hyperdrive::content::{content, content_manifest, is_drive};
use cumulet_hyperdrive::link::Link;

use crate::cli::Global;
use crate::failure::{Context, Failure, Kind, Result};
use crate::names::{self, ArchiveKind, Named};
use crate::network::Network;
use crate::output::Output;
use crate::plain::PlainCore;
use crate::secrets::{self, Secret};
use crate::store::Store;

/// What a command works with.
pub(crate) struct Session {
    pub(crate) out: Output,
    pub(crate) options: Global,
    store: Option<Arc<Store>>,
    network: Option<Arc<Network>>,
    /// Whether the network is asked for news of archives that are held whole: for commands that wait for them.
    pub(crate) follow_news: bool,
    /// Cores that were made for this command and hold nothing yet: forgotten again if that stays so.
    empty: Vec<Hash>,
}

/// An archive as it was named.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// As the user wrote it.
    pub(crate) text: String,
    pub(crate) key: Key,
    /// If we made it: its name and what is known of it.
    pub(crate) own: Option<(String, Named)>,
    /// What a link says behind the key.
    pub(crate) version: Option<u64>,
    pub(crate) path: Option<String>,
}

/// An open drive's cores.
#[derive(Debug, Clone)]
pub(crate) struct DriveCores {
    pub(crate) db: PlainCore,
    pub(crate) blobs: PlainCore,
}

impl Session {
    pub(crate) fn new(options: Global) -> Self {
        Self {
            out: Output::new(options.json, options.quiet),
            options,
            store: None,
            network: None,
            follow_news: false,
            empty: Vec::new(),
        }
    }

    fn timeout(&self) -> Duration {
        Duration::from_secs(self.options.timeout)
    }

    fn directory(&self) -> Result<PathBuf> {
        if let Some(directory) = &self.options.store {
            return Ok(directory.clone());
        }
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        set("XDG_DATA_HOME")
            .map(PathBuf::from)
            .or_else(|| set("HOME").map(|home| PathBuf::from(home).join(".local/share")))
            .map(|data| data.join("cumulet"))
            .ok_or_else(|| Failure::usage("where is the store?").hint("name it with --store DIR"))
    }

    /// The store, made if it is not there.
    pub(crate) fn store(&mut self) -> Result<Arc<Store>> {
        self.open_store(true)
    }

    /// The store, if it is there.
    pub(crate) fn existing_store(&mut self) -> Result<Arc<Store>> {
        self.open_store(false)
    }

    fn open_store(&mut self, make: bool) -> Result<Arc<Store>> {
        if let Some(store) = &self.store {
            return Ok(Arc::clone(store));
        }
        let store = Arc::new(Store::open(&self.directory()?, make, self.timeout())?);
        self.store = Some(Arc::clone(&store));
        Ok(store)
    }

    /// Finds out which archive a text names.
    pub(crate) fn target(&mut self, text: &str) -> Result<Target> {
        let names = self.store()?.names()?;
        if let Ok(link) = text.parse::<Link>() {
            let own = names::of_key(&names, &link.key).map(|(name, named)| (name.to_owned(), named.clone()));
            return Ok(Target {
                text: text.to_owned(),
                key: link.key,
                own,
                version: link.version,
                path: Some(link.path).filter(|path| !path.is_empty()),
            });
        }
        if text.contains("://") {
            return Err(Failure::usage(format!("{text} is not a link to an archive"))
                .hint("a link is pear://, hyper:// or dat:// and a key of 64 hex digits or 52 letters"));
        }
        let Some(known) = names.get(text) else {
            return Err(
                Failure::not_found(format!("no archive of this store has the name {text}"))
                    .hint("`cumulet core ls` lists what there is; keys and links work as well"),
            );
        };
        let key = cumulet_hypercore::key::parse(&known.key).context("failed to read names.json")?;
        Ok(Target {
            text: text.to_owned(),
            key,
            own: Some((text.to_owned(), known.clone())),
            version: None,
            path: None,
        })
    }

    /// As [`Session::target`]; a name that is not taken yet is taken for a new archive of this kind.
    pub(crate) fn target_or_new(&mut self, text: &str, kind: ArchiveKind) -> Result<Target> {
        let is_new = text.parse::<Link>().is_err()
            && !text.contains("://")
            && !self.store()?.names()?.contains_key(text);
        if !is_new {
            return self.target(text);
        }
        let target = self.create(text, kind)?;
        self.out.note(format_args!(
            "made the {} {text}, key {}",
            kind.as_str(),
            to_hex(&target.key)
        ));
        Ok(target)
    }

    /// Takes a name for a new archive.
    pub(crate) fn create(&mut self, name: &str, kind: ArchiveKind) -> Result<Target> {
        let encrypted = self.encryption_file()?.is_some();
        self.store()?.take_name(name, kind, encrypted)?;
        self.target(name)
    }

    fn encryption_file(&self) -> Result<Option<Secret>> {
        let Some(path) = &self.options.encryption_key_file else {
            return Ok(None);
        };
        match secrets::read(path)? {
            Some(secret) => Ok(Some(secret)),
            None => Err(
                Failure::not_found(format!("there is no encryption key in {}", path.display()))
                    .hint(format!("`cumulet keygen {}` makes one", path.display())),
            ),
        }
    }

    /// The encryption key for an archive. Of our own ones it is known whether they have one.
    fn encryption_key(&self, target: &Target) -> Result<Option<Secret>> {
        let secret = self.encryption_file()?;
        match (&target.own, &secret) {
            (Some((name, named)), None) if named.encrypted => {
                Err(Failure::usage(format!("{name} is encrypted"))
                    .hint("name the file with its key with --encryption-key-file"))
            }
            (Some((name, named)), Some(_)) if !named.encrypted => {
                Err(Failure::usage(format!("{name} is not encrypted"))
                    .hint("leave --encryption-key-file out"))
            }
            _ => Ok(secret),
        }
    }

    /// The key pair of an own archive.
    fn key_pair(&mut self, target: &Target) -> Result<Option<KeyPair>> {
        match &target.own {
            Some((name, named)) => self.store()?.key_pair(name, named.kind).map(Some),
            None => Ok(None),
        }
    }

    /// The core of an archive; for a drive that of its names.
    pub(crate) async fn core(&mut self, target: &Target) -> Result<PlainCore> {
        let secret = self.encryption_key(target)?;
        let handle = match self.key_pair(target)? {
            Some(pair) => {
                let manifest = Manifest::single(pair.public_key());
                self.store()?.cores.create(manifest, Some(pair)).await?
            }
            None => self.replica(target.key, &target.text, true).await?,
        };
        Ok(PlainCore::new(handle, secret).await)
    }

    /// The core of an archive that this store may write.
    pub(crate) async fn writable(&mut self, target: &Target) -> Result<PlainCore> {
        if target.own.is_none() {
            let text = format!("{} can be read only: this store did not make it", target.text);
            return Err(Failure::new(Kind::Failed, text)
                .hint("write to an archive of your own: a name that `cumulet core create` made"));
        }
        self.core(target).await
    }

    /// The cores of a drive.
    pub(crate) async fn drive(&mut self, target: &Target) -> Result<DriveCores> {
        if let Some((name, named)) = &target.own
            && named.kind != ArchiveKind::Drive
        {
            let kind = named.kind.as_str();
            return Err(
                Failure::new(Kind::Failed, format!("{name} is a {kind}, not a drive"))
                    .hint(format!("`cumulet {kind} --help` shows what can be done with it")),
            );
        }
        let db = self.core(target).await?;
        let secret = self.encryption_key(target)?;
        let blobs = if let Some(pair) = self.key_pair(target)? {
            let manifest = Manifest::single(pair.public_key());
            let manifest = content_manifest(&target.key, &manifest)
                .ok_or_else(|| Failure::new(Kind::Failed, "the drive's manifest has no blobs"))?;
            self.store()?.cores.create(manifest, Some(pair)).await?
        } else {
            let key = self.blob_key(target, &db).await?;
            self.replica(key, &format!("the blobs of {}", target.text), false)
                .await?
        };
        Ok(DriveCores {
            db,
            blobs: PlainCore::new(blobs, secret).await,
        })
    }

    async fn blob_key(&self, target: &Target, db: &PlainCore) -> Result<Key> {
        let not_a_drive = |why: String| {
            let failure = Failure::new(Kind::Failed, format!("{} is not a drive: {why}", target.text));
            failure.hint("`cumulet core info` and `cumulet bee ls` look at it as what it may be; an encrypted one needs --encryption-key-file")
        };
        if db.handle().state().length == 0 {
            return Err(not_a_drive("it is empty".to_owned()));
        }
        let header = match Bee::new(db.clone()).header().await {
            Ok(header) => header,
            Err(error) if error.kind() == cumulet_hyperbee::ErrorKind::Damaged => {
                return Err(not_a_drive("it does not begin as one".to_owned()));
            }
            Err(error) => return Err(error.into()),
        };
        if !is_drive(&header) {
            return Err(not_a_drive("it is a bee".to_owned()));
        }
        let manifest = db.handle().manifest().await;
        let manifest = manifest.ok_or_else(|| not_a_drive("its manifest is not known".to_owned()))?;
        Ok(content(&header, &target.key, &manifest)?.key)
    }

    /// A core that others write. Asks peers as the module's head says; `must_exist` if an archive without it is none.
    async fn replica(&mut self, key: Key, shown: &str, must_exist: bool) -> Result<CoreHandle> {
        let store = self.store()?;
        let topic = discovery_key(&key);
        let found = store.cores.find(&topic).await?;
        let state = found.as_ref().map(CoreHandle::state).unwrap_or_default();
        let is_whole = state.length > 0 && state.contiguous_length == state.length;
        let online = !self.options.offline
            && (!is_whole
                || self.follow_news
                || self.options.update
                || !self.options.peer.is_empty()
                || self.network.is_some());
        if must_exist && !online && state.length == 0 {
            return Err(
                Failure::not_found(format!("the store does not hold {shown}")).hint(
                    if self.options.offline {
                        "leave out --offline to ask the network, or name a peer with --peer HOST:PORT"
                    } else {
                        "name a peer with --peer HOST:PORT"
                    },
                ),
            );
        }
        if found.is_none() {
            self.empty.push(topic);
        }
        drop(found);
        let handle = store.cores.get(key).await?;
        if online {
            let network = self.network().await?;
            // The blobs of a drive are found with the drive.
            if must_exist {
                network.join(topic, false).await?;
            }
            let asks = state.length == 0 || self.options.update || !self.options.peer.is_empty();
            if must_exist && asks {
                handle.update().await?;
            }
            if must_exist && handle.state().length == 0 && handle.stats().await.peers == 0 {
                let text = format!(
                    "no peer that has {shown} answered within {} s; {} connected",
                    self.options.timeout,
                    network.peers()
                );
                return Err(Failure::new(Kind::Unavailable, text).hint(
                    "is somebody serving it? name a peer with --peer HOST:PORT, or wait longer with --timeout",
                ));
            }
        }
        Ok(handle)
    }

    /// The peers that the options name, or else those of the network.
    pub(crate) async fn network(&mut self) -> Result<Arc<Network>> {
        if let Some(network) = &self.network {
            return Ok(Arc::clone(network));
        }
        let swarm = self.options.peer.is_empty();
        let network = self.new_network(swarm).await?;
        let mut failed = None;
        for address in &self.options.peer {
            if let Err(failure) = network.dial(address, self.timeout()).await {
                self.out.note(format_args!("cumulet: {}", failure.text));
                failed = Some(failure);
            }
        }
        match failed {
            Some(failure) if network.peers() == 0 && !swarm => Err(failure),
            _ => Ok(network),
        }
    }

    /// A network without peers, on the DHT or not.
    pub(crate) async fn new_network(&mut self, swarm: bool) -> Result<Arc<Network>> {
        let store = self.store()?;
        let mut network = Network::new(store.cores.clone(), store.network_seed()?);
        if swarm {
            network.join_dht(&self.options.bootstrap).await?;
        }
        let network = Arc::new(network);
        if swarm {
            network.accept_swarm();
        }
        self.network = Some(Arc::clone(&network));
        Ok(network)
    }

    /// Whether peers are asked for what is missing.
    pub(crate) fn is_online(&self) -> bool {
        self.network.is_some()
    }

    /// Makes sure that the blob core is known up to this block, as far as peers tell.
    pub(crate) async fn know_blobs(&self, blobs: &PlainCore, end: u64) -> Result {
        if self.is_online() && blobs.handle().state().length < end {
            blobs.handle().update().await?;
        }
        Ok(())
    }

    /// Leaves the peers and closes the store.
    pub(crate) async fn close(mut self) -> Result {
        if let Some(network) = self.network.take() {
            network.close().await;
        }
        let Some(store) = self.store.take() else {
            return Ok(());
        };
        for topic in &self.empty {
            let found = store.cores.find(topic).await?;
            if found.is_some_and(|core| core.state().length == 0) {
                store.cores.remove(topic).await?;
            }
        }
        Ok(store.cores.close().await?)
    }
}
