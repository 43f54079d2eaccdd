//! One pinned archive: finds out what it is, wants the blocks that the pin selects, follows the writer, and tells how
//! it is doing.
//!
//! The task of an archive owns its wishes (topic, downloads); dropping them takes them back. What the archive is and has
//! is read from its cores at the moment somebody asks: no second set of numbers to keep in step.

use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use cumulet_api::{ArchiveSpec, ArchiveStatus, ArchiveType, Condition, ConditionStatus, SyncMode};
use cumulet_hyperbee::{Bee, BeeCache};
use cumulet_hypercore::corestore::{CoreHandle, CoreState, Corestore, Download};
use cumulet_hypercore::crypto::discovery_key;
use cumulet_hyperdrive::Drive;
use cumulet_hyperdrive::content::{content, is_drive};
use cumulet_hyperdrive::plan::Selection;
use cumulet_hyperswarm::{Join, Mode, Swarm};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::backup::{Backup, BackupState};
use crate::pins::Key;

/// How long to wait before an archive is looked at again when nothing happens: peers come without telling, and the blocks
/// of its files as well.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// The same for an archive that has all that is wanted: a change of its own core says when there is more. Thousands of
/// archives at rest must not wake the machine all the time.
const REST: Duration = Duration::from_mins(1);
/// What an archive keeps of its tree, for the gateway and for itself: some thousand names. Bounds the memory of a node that
/// serves many archives; one that nobody reads keeps next to nothing.
const TREE_CACHE_BYTES: usize = 1 << 20;
/// How long to wait before a core that can't be opened is tried again: somebody may have mended the disk.
const OPEN_AGAIN: Duration = Duration::from_secs(10);

/// Cores of an archive, as far as it is known what it is.
#[derive(Debug, Clone)]
pub enum Contents {
    /// Block 0 or the manifest isn't here yet.
    Unknown,
    /// A plain core.
    Core,
    /// Keys and values.
    Bee,
    /// Files; the bytes are in this core.
    Drive(CoreHandle),
}

/// A pinned archive.
#[derive(Debug)]
pub struct Archive {
    key: Key,
    /// The archive's own core, once it is restored and open.
    core: OnceLock<CoreHandle>,
    /// Nodes of its tree, shared by all that reads it.
    tree: BeeCache,
    spec: watch::Sender<ArchiveSpec>,
    seen: RwLock<Seen>,
}

#[derive(Debug)]
struct Seen {
    contents: Contents,
    /// Blocks that the pin wants of the blob core; none: all of it.
    wanted_blobs: Option<u64>,
    /// Wanted blocks were all held once.
    complete: bool,
    /// What keeps the archive from being read.
    problem: Option<String>,
    /// Why the restore from the backup did not work at all.
    restore: Option<String>,
}

/// What an archive's task works with.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// Where cores live.
    pub store: Corestore,
    /// Where peers come from.
    pub swarm: Swarm,
    /// Where backups go.
    pub backup: Arc<Backup>,
    /// Ends the task.
    pub cancel: CancellationToken,
}

impl Archive {
    /// An archive that [`Archive::run`] opens.
    pub fn new(key: Key, spec: ArchiveSpec) -> Self {
        let seen = Seen {
            contents: Contents::Unknown,
            wanted_blobs: None,
            complete: false,
            problem: None,
            restore: None,
        };
        Self {
            key,
            core: OnceLock::new(),
            tree: BeeCache::new(TREE_CACHE_BYTES),
            spec: watch::Sender::new(spec),
            seen: RwLock::new(seen),
        }
    }

    /// The key.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// The archive's own core, once it is restored and open.
    pub fn core(&self) -> Option<&CoreHandle> {
        self.core.get()
    }

    /// The archive's own core read as a bee, which it is unless [`Archive::contents`] says otherwise.
    pub fn bee(&self, core: &CoreHandle) -> Bee<CoreHandle> {
        Bee::with_cache(core.clone(), self.tree.clone())
    }

    /// The pin.
    pub fn spec(&self) -> ArchiveSpec {
        self.spec.borrow().clone()
    }

    /// Changes the pin; the task follows.
    pub fn set_spec(&self, spec: ArchiveSpec) {
        self.spec.send_if_modified(|old| {
            let changed = *old != spec;
            *old = spec;
            changed
        });
    }

    /// What the archive is.
    pub fn contents(&self) -> Contents {
        self.read(|seen| seen.contents.clone())
    }

    /// All cores that are known.
    pub fn cores(&self) -> Vec<CoreHandle> {
        let blobs = if let Contents::Drive(blobs) = self.contents() {
            Some(blobs)
        } else {
            None
        };
        self.core.get().cloned().into_iter().chain(blobs).collect()
    }

    fn read<T>(&self, read: impl FnOnce(&Seen) -> T) -> T {
        read(&self.seen.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write(&self, write: impl FnOnce(&mut Seen)) {
        write(&mut self.seen.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// Runs until cancelled.
    pub async fn run(self: Arc<Self>, around: Surroundings) {
        let cancel = around.cancel.clone();
        tokio::select! {
            () = cancel.cancelled() => {}
            () = self.follow(around) => {}
        }
    }

    async fn follow(&self, around: Surroundings) {
        let mut spec = self.spec.subscribe();
        let core = loop {
            match self.open(self.key, &around).await {
                Ok(core) => break self.core.get_or_init(|| core),
                Err(problem) => {
                    warn!(%problem, "the archive can't be opened");
                    self.write(|seen| seen.problem = Some(problem));
                }
            }
            tokio::time::sleep(OPEN_AGAIN).await;
        };
        let mut wishes = Wishes::default();
        let mut state = core.watch();
        loop {
            let now = spec.borrow_and_update().clone();
            wishes.topic(core, now.announce, &around.swarm).await;
            let was_complete = self.is_complete(&now);
            let looked = self.look(core, &now, &mut wishes, &around).await;
            if let Err(problem) = &looked {
                debug!(%problem, "archive");
            }
            // Complete before the look as well: what is to be done once all is there, as mending a backup, is done.
            let rests = was_complete && looked.is_ok() && self.is_complete(&now);
            self.write(|seen| seen.problem = looked.err());
            tokio::select! {
                changed = state.changed() => if changed.is_err() { return },
                changed = spec.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(if rests { REST } else { LOOK_AGAIN }) => {}
            }
        }
    }

    /// Opens a core; an empty one is filled from the backup first, before peers are asked.
    async fn open(&self, key: Key, around: &Surroundings) -> Result<CoreHandle, String> {
        if !self.spec().backup {
            return around.store.get(key).await.map_err(|error| error.to_string());
        }
        let opened = around
            .backup
            .open_core(&around.store, key)
            .await
            .map_err(|error| error.to_string())?;
        match opened.restored {
            Some(Ok(length)) if length > 0 => info!(core = %short(&key), length, "restored from the backup"),
            Some(Err(error)) => {
                warn!(core = %short(&key), %error, "failed to restore");
                let hint = error.hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
                self.write(|seen| seen.restore = Some(format!("{error}{hint}")));
            }
            _ => {}
        }
        Ok(opened.core)
    }

    /// Finds out what the archive is, as far as that is possible now, and wants what the pin selects.
    async fn look(
        &self,
        core: &CoreHandle,
        spec: &ArchiveSpec,
        wishes: &mut Wishes,
        around: &Surroundings,
    ) -> Result<(), String> {
        if spec.sync.mode == SyncMode::Full {
            wishes.whole_core(core).await;
        } else {
            wishes.core = None;
        }
        if spec.backup {
            around.backup.follow(core);
            for core in self.cores() {
                around.backup.heal(&core).await;
            }
        }
        if matches!(self.contents(), Contents::Unknown) {
            let contents = self.find_out(core, spec, around).await?;
            self.write(|seen| seen.contents = contents);
        }
        if let Contents::Drive(blobs) = self.contents() {
            if spec.backup {
                around.backup.follow(&blobs);
            }
            self.want_blobs(core, spec, &blobs, wishes).await?;
        }
        let complete = self.is_complete(spec);
        self.write(|seen| seen.complete |= complete);
        Ok(())
    }

    async fn find_out(
        &self,
        core: &CoreHandle,
        spec: &ArchiveSpec,
        around: &Surroundings,
    ) -> Result<Contents, String> {
        if spec.kind == ArchiveType::Core {
            return Ok(Contents::Core);
        }
        if core.state().length == 0 {
            return Ok(Contents::Unknown);
        }
        let bee = self.bee(core);
        let header = match bee.header().await {
            Ok(header) => header,
            Err(error)
                if error.kind() == cumulet_hyperbee::ErrorKind::Damaged && spec.kind == ArchiveType::Auto =>
            {
                return Ok(Contents::Core);
            }
            Err(error) => return Err(error.to_string()),
        };
        if spec.kind == ArchiveType::Bee || (spec.kind == ArchiveType::Auto && !is_drive(&header)) {
            return Ok(Contents::Bee);
        }
        let manifest = core
            .manifest()
            .await
            .ok_or("the archive's manifest isn't known yet")?;
        let content = content(&header, self.key(), &manifest).map_err(|error| error.to_string())?;
        Ok(Contents::Drive(self.open(content.key, around).await?))
    }

    async fn want_blobs(
        &self,
        core: &CoreHandle,
        spec: &ArchiveSpec,
        blobs: &CoreHandle,
        wishes: &mut Wishes,
    ) -> Result<(), String> {
        let selection =
            Selection::new(&spec.sync.include, &spec.sync.exclude).map_err(|error| error.to_string())?;
        let everything = selection.is_everything();
        if spec.sync.mode == SyncMode::Sparse && spec.sync.include.is_empty() {
            wishes.blobs.clear();
            self.write(|seen| seen.wanted_blobs = Some(0));
            return Ok(());
        }
        if everything {
            if wishes.planned != Some(Planned::Everything) {
                wishes.blobs = vec![blobs.download(0..u64::MAX).await];
                wishes.planned = Some(Planned::Everything);
                self.write(|seen| seen.wanted_blobs = None);
            }
            return Ok(());
        }
        let planned = Planned::Version(core.state().length, spec.sync.clone());
        if wishes.planned.as_ref() == Some(&planned) {
            return Ok(());
        }
        let drive = Drive::new(&self.bee(core), blobs.clone());
        let mut plan = drive.plan(&selection).await.map_err(|error| error.to_string())?;
        let length = blobs.state().length;
        if length > 0 {
            plan.clamp(length);
        }
        let mut downloads = Vec::with_capacity(plan.blocks.len());
        for blocks in &plan.blocks {
            downloads.push(blobs.download(blocks.clone()).await);
        }
        self.write(|seen| seen.wanted_blobs = Some(plan.block_count()));
        (wishes.blobs, wishes.planned) = (downloads, Some(planned).filter(|_| length > 0));
        Ok(())
    }

    fn own_state(&self) -> CoreState {
        self.core.get().map(CoreHandle::state).unwrap_or_default()
    }

    /// Blocks wanted and held over all cores.
    fn blocks(&self, spec: &ArchiveSpec) -> (u64, u64) {
        let own = self.own_state();
        let (contents, wanted_blobs) = self.read(|seen| (seen.contents.clone(), seen.wanted_blobs));
        let wanted_own = if spec.sync.mode == SyncMode::Full {
            own.length
        } else {
            0
        };
        let Contents::Drive(blobs) = contents else {
            return (wanted_own, own.held_blocks);
        };
        let blobs = blobs.state();
        (
            wanted_own + wanted_blobs.unwrap_or(blobs.length),
            own.held_blocks + blobs.held_blocks,
        )
    }

    fn is_complete(&self, spec: &ArchiveSpec) -> bool {
        let own = self.own_state();
        let own_complete =
            own.length > 0 && (spec.sync.mode == SyncMode::Sparse || own.held_blocks >= own.length);
        let (contents, wanted) = self.read(|seen| (seen.contents.clone(), seen.wanted_blobs));
        own_complete
            && match contents {
                Contents::Unknown => false,
                Contents::Core | Contents::Bee => true,
                Contents::Drive(blobs) => {
                    let state = blobs.state();
                    // A drive whose blob core nobody has shown yet may still have files.
                    let empty = state.length == 0 && own.length <= 1;
                    match wanted {
                        Some(wanted) => (empty || state.length > 0) && state.held_blocks >= wanted,
                        None => empty || (state.length > 0 && state.held_blocks >= state.length),
                    }
                }
            }
    }

    /// How the archive is doing.
    pub async fn status(&self, backup: &Backup) -> ArchiveStatus {
        let spec = self.spec();
        let own = self.own_state();
        let (wanted, held) = self.blocks(&spec);
        let complete = self.is_complete(&spec);
        let mut status = ArchiveStatus {
            key: hex::encode(self.key()),
            discovery_key: hex::encode(discovery_key(&self.key)),
            kind: self.kind(&spec),
            length: own.length,
            byte_length: own.byte_length,
            fork: own.fork,
            stored_blocks: held,
            stored_bytes: 0,
            wanted_blocks: wanted,
            progress: progress(wanted, held, complete),
            peers: 0,
            uploaded_bytes: 0,
            downloaded_bytes: 0,
            downloaded_blocks: 0,
            durable_length: 0,
            durable_bytes: 0,
            conditions: Vec::new(),
        };
        let mut backups = Vec::new();
        for core in self.cores() {
            let traffic = core.stats().await;
            status.peers = status.peers.max(traffic.peers as u32);
            status.uploaded_bytes += traffic.uploaded_bytes;
            status.downloaded_bytes += traffic.downloaded_bytes;
            status.downloaded_blocks += traffic.downloaded_blocks;
            status.stored_bytes += stored_bytes(&core.state());
            if spec.backup {
                let state = backup.state(core.discovery_key());
                status.durable_bytes += state.bytes;
                backups.push((core.state(), state));
            }
        }
        status.durable_length = backups.first().map_or(0, |(_, state)| state.durable_length);
        let synced = self.synced(&status, &spec, complete);
        status.conditions = vec![
            self.ready(&synced, &status),
            synced,
            self.backed_up(&spec, &backups),
        ];
        status
    }

    fn kind(&self, spec: &ArchiveSpec) -> ArchiveType {
        match self.contents() {
            Contents::Unknown => spec.kind,
            Contents::Core => ArchiveType::Core,
            Contents::Bee => ArchiveType::Bee,
            Contents::Drive(_) => ArchiveType::Drive,
        }
    }

    fn synced(&self, status: &ArchiveStatus, spec: &ArchiveSpec, complete: bool) -> Condition {
        let problem = self.read(|seen| seen.problem.clone());
        let (holds, reason, message) = if self.core.get().is_none() {
            let text = problem.unwrap_or_else(|| "the backup is looked at first".to_owned());
            (false, "Restoring", text)
        } else if status.length == 0 && status.peers == 0 {
            (
                false,
                "NoPeers",
                "nobody who has this archive was found yet".to_owned(),
            )
        } else if status.length == 0 {
            (
                false,
                "Connecting",
                "a peer is connected and has not shown the archive yet".to_owned(),
            )
        } else if complete && spec.sync.mode == SyncMode::Sparse {
            (
                true,
                "OnDemand",
                format!(
                    "version {} is known; blocks are fetched when they are read",
                    status.length
                ),
            )
        } else if complete {
            (
                true,
                "Complete",
                format!(
                    "all {} wanted blocks of version {} are here",
                    status.wanted_blocks, status.length
                ),
            )
        } else if status.peers == 0 {
            let text = format!(
                "{} of {} blocks are here and no peer is online",
                status.stored_blocks, status.wanted_blocks
            );
            (false, "NoPeers", text)
        } else {
            let progress = format!(
                "{} of {} blocks are here",
                status.stored_blocks, status.wanted_blocks
            );
            (
                false,
                "Downloading",
                problem.map_or(progress.clone(), |problem| format!("{progress}; {problem}")),
            )
        };
        condition("Synced", holds, reason, message)
    }

    fn ready(&self, synced: &Condition, status: &ArchiveStatus) -> Condition {
        if self.read(|seen| seen.complete) {
            return condition(
                "Ready",
                true,
                "Serving",
                format!("version {} is served", status.length),
            );
        }
        condition("Ready", false, &synced.reason, synced.message.clone())
    }

    fn backed_up(&self, spec: &ArchiveSpec, backups: &[(CoreState, BackupState)]) -> Condition {
        let refused = self.read(|seen| seen.restore.clone());
        if !spec.backup {
            return condition(
                "BackedUp",
                false,
                "Disabled",
                "this archive's backup is switched off".to_owned(),
            );
        }
        let damaged = backups.iter().find_map(|(_, state)| state.damaged.clone());
        if let Some(damaged) = damaged {
            return condition("BackedUp", false, "Damaged", damaged);
        }
        if let Some(failed) = refused {
            return condition("BackedUp", false, "RestoreFailed", failed);
        }
        if let Some(error) = backups.iter().find_map(|(_, state)| state.error.clone()) {
            return condition("BackedUp", false, "StoreFailed", error);
        }
        let behind = backups
            .iter()
            .find(|(core, state)| !state.settled || state.durable_length < core.length);
        match behind {
            None if backups.iter().any(|(core, _)| core.length > 0) => {
                let length = backups.first().map_or(0, |(_, state)| state.durable_length);
                condition(
                    "BackedUp",
                    true,
                    "UpToDate",
                    format!("everything up to length {length} is in the store"),
                )
            }
            None => condition("BackedUp", false, "Nothing", "nothing was stored yet".to_owned()),
            Some((core, state)) => {
                let text = format!(
                    "length {} of {} is in the store",
                    state.durable_length, core.length
                );
                condition("BackedUp", false, "Shipping", text)
            }
        }
    }
}

/// What a task wants; dropping it takes the wishes back.
#[derive(Debug, Default)]
struct Wishes {
    topic: Option<(bool, Join)>,
    core: Option<Download>,
    blobs: Vec<Download>,
    planned: Option<Planned>,
}

#[derive(Debug, PartialEq, Eq)]
enum Planned {
    Everything,
    Version(u64, cumulet_api::SyncSpec),
}

impl Wishes {
    async fn topic(&mut self, core: &CoreHandle, announce: bool, swarm: &Swarm) {
        if self
            .topic
            .as_ref()
            .is_some_and(|(announced, _)| *announced == announce)
        {
            return;
        }
        let mode = if announce { Mode::BOTH } else { Mode::CLIENT };
        match swarm.join(*core.discovery_key(), mode).await {
            Ok(join) => self.topic = Some((announce, join)),
            Err(error) => warn!(key = %short(core.key()), %error, "join"),
        }
    }

    async fn whole_core(&mut self, core: &CoreHandle) {
        if self.core.is_none() {
            self.core = Some(core.download(0..u64::MAX).await);
        }
    }
}

fn condition(kind: &str, holds: bool, reason: &str, message: String) -> Condition {
    let status = if holds {
        ConditionStatus::True
    } else {
        ConditionStatus::False
    };
    Condition {
        kind: kind.to_owned(),
        status,
        reason: reason.to_owned(),
        message,
    }
}

#[expect(clippy::cast_precision_loss, reason = "a fraction for people")]
fn progress(wanted: u64, held: u64, complete: bool) -> f64 {
    if complete {
        1.0
    } else if wanted == 0 {
        0.0
    } else {
        (held as f64 / wanted as f64).min(0.999)
    }
}

/// Bytes held: exact for a core that is held whole, in proportion otherwise.
fn stored_bytes(state: &CoreState) -> u64 {
    let share =
        u128::from(state.byte_length) * u128::from(state.held_blocks) / u128::from(state.length.max(1));
    u64::try_from(share).unwrap_or(u64::MAX)
}

/// The first digits of a key: enough to tell archives apart in a log, not enough to read one.
pub fn short(key: &Key) -> String {
    hex::encode(&key[..4])
}
