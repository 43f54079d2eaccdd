//! Keeping cores for apps (npm `blind-peer`): on a store of its own, so that what apps delete or what is given back is never
//! a pinned archive's; and on a swarm of its own, whose key is the blind peer's: who finds an announced core on the DHT
//! comes to this store.

mod safekeeping;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use cumulet_blind_peer::{Admission, Announced, BlindPeer, Counters, Options, Quota};
use cumulet_hypercore::corestore::Corestore;
use cumulet_hypercore::crypto::discovery_key;
use cumulet_hypercore::driver::Session;
use cumulet_hyperswarm::{Connection, Join, Mode, Swarm, SwarmConfig, SwarmError, SwarmLimits};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::archive::short;
use crate::bans::Changed;
use crate::config::BlindPeerConfig;
use crate::pins::Key;
use crate::swarm::change_bans;

use self::safekeeping::Safekeeping;
use super::{PATIENCE, Surroundings};

/// Separates the blind peer's seed from everything else that is made from a device's seed.
const SEED_CONTEXT: &[u8] = b"cumulet/blind-peer/1";
/// Folder of its cores and its journal.
const FOLDER: &str = "blind-peer";

#[derive(Debug)]
pub(super) struct BlindPeerService {
    peer: BlindPeer,
    store: Corestore,
    swarm: Swarm,
    /// Ends the announcements.
    leaving: CancellationToken,
}

impl BlindPeerService {
    /// Opens what earlier runs kept, announces the blind peer's key and what is to be announced, and serves whoever dials it.
    pub(super) async fn start(around: &Surroundings<'_>, config: &BlindPeerConfig) -> Result<Self, String> {
        let words = |error: &dyn std::fmt::Display| error.to_string();
        let folder = around.data_dir.join(FOLDER);
        let store =
            Corestore::open(&folder.join("cores"), around.store.clone()).map_err(|error| words(&error))?;
        let key_pair = around.key_pair(SEED_CONTEXT);
        let (members, open) = (Arc::clone(around.members), config.open);
        let policy = move |identity: &[u8; 32]| {
            if members.contains(identity) {
                Admission::Trusted(Quota::default())
            } else if open && !members.bans().contains(identity) {
                Admission::Member(Quota::default())
            } else {
                Admission::Reader
            }
        };
        let mut options = Options::new(*key_pair.public_key(), folder.join("journal"));
        let safekeeping = Safekeeping::new(
            around.backup,
            key_pair.public_key(),
            around.members,
            &folder,
            &options.journal,
        );
        let safekeeping = Arc::new(safekeeping.map_err(|error| words(&error))?);
        options.companion = Some(safekeeping.clone());
        let swarm = SwarmConfig {
            key_pair,
            // As many as the blind peer takes.
            limits: SwarmLimits {
                max_peers: options.connections,
                max_server_connections: options.connections,
                ..SwarmLimits::default()
            },
            firewall: None,
        };
        let peer = BlindPeer::open(
            store.clone(),
            Arc::new(policy),
            options,
            around.tasks,
            around.cancel,
        )
        .map_err(|error| words(&error))?;
        let swarm = Swarm::spawn(around.dht.clone(), swarm, around.tasks, around.cancel.clone());
        change_bans(&swarm, &around.members.bans().at_start());
        let leaving = around.cancel.child_token();
        let serving = Serving {
            swarm: swarm.clone(),
            peer: peer.clone(),
            store: store.clone(),
            safekeeping,
            tasks: around.tasks.clone(),
            cancel: around.cancel.clone(),
            leaving: leaving.clone(),
        };
        if serving.safekeeping.is_restoring() {
            around
                .tasks
                .spawn(around.cancel.clone().run_until_cancelled_owned(serving.restore()));
        } else {
            serving.begin(None).await.map_err(|error| words(&error))?;
        }
        Ok(Self {
            peer,
            store,
            swarm,
            leaving,
        })
    }

    /// What apps give as the key of their blind peer.
    pub(super) fn public_key(&self) -> &[u8; 32] {
        self.swarm.public_key()
    }

    pub(super) fn counters(&self) -> Counters {
        self.peer.counters()
    }

    /// Who is banned is not even a reader.
    pub(super) fn change_bans(&self, changed: &Changed) {
        change_bans(&self.swarm, changed);
    }

    /// Withdraws the announcements, ends the connections and closes the store.
    pub(super) async fn drain(&self) {
        self.leaving.cancel();
        self.peer.drain(PATIENCE).await;
        self.swarm.shutdown().await;
        if let Err(error) = self.store.close().await {
            warn!(%error, "failed to close the blind peer's store");
        }
    }
}

/// Announces what the blind peer says, for as long as it says so.
async fn announce(swarm: Swarm, mut announced: watch::Receiver<Vec<Announced>>) {
    let mut topics: HashMap<Key, Topic> = HashMap::new();
    loop {
        let wanted = announced.borrow_and_update().clone();
        let mut kept = HashMap::with_capacity(wanted.len());
        for core in wanted {
            let before = topics.remove(&core.key);
            match Topic::follow(&swarm, core, before).await {
                Ok(topic) => drop(kept.insert(core.key, topic)),
                // The swarm ends with the node.
                Err(error) => return debug!(%error, "announcements end"),
            }
        }
        // Those that are left over are withdrawn.
        topics = kept;
        if announced.changed().await.is_err() {
            return;
        }
    }
}

/// An announced core's topic; dropping it leaves the topic.
struct Topic {
    announced: Join,
    /// While the core looks for peers itself.
    seeking: Option<Join>,
}

impl Topic {
    async fn follow(swarm: &Swarm, core: Announced, before: Option<Self>) -> Result<Self, SwarmError> {
        let topic = discovery_key(&core.key);
        let Self { announced, seeking } = match before {
            Some(before) => before,
            None => Self {
                announced: swarm.join(topic, Mode::SERVER).await?,
                seeking: None,
            },
        };
        let seeking = match seeking {
            Some(join) if core.seeks_peers => Some(join),
            None if core.seeks_peers => Some(swarm.join(topic, Mode::CLIENT).await?),
            _ => None,
        };
        Ok(Self { announced, seeking })
    }
}

/// What begins when the blind peer knows what it keeps.
struct Serving {
    swarm: Swarm,
    peer: BlindPeer,
    store: Corestore,
    safekeeping: Arc<Safekeeping>,
    tasks: TaskTracker,
    cancel: CancellationToken,
    leaving: CancellationToken,
}

impl Serving {
    /// Fills the cores first: nobody must find one empty that the backup has.
    async fn restore(self) {
        let list = self.safekeeping.list().await;
        let known = self.safekeeping.restore(list, &self.peer, &self.store).await;
        if let Err(error) = self.begin(Some(known)).await {
            warn!(%error, "the blind peer can't be reached");
        }
    }

    /// Announces, serves and backs up. `list`: what the backup has that the blind peer is to answer for, if it was read.
    async fn begin(self, list: Option<BTreeMap<Key, String>>) -> Result<(), SwarmError> {
        let Self {
            swarm,
            peer,
            safekeeping,
            tasks,
            cancel,
            leaving,
            ..
        } = self;
        swarm.listen(true).await?;
        let announcing = announce(swarm.clone(), peer.announced());
        tasks.spawn(leaving.run_until_cancelled_owned(announcing));
        tasks.spawn(serve_all(swarm, peer.clone(), tasks.clone(), cancel.clone()));
        tasks.spawn(cancel.run_until_cancelled_owned(async move {
            let known = match list {
                Some(list) => list,
                None => safekeeping.list().await,
            };
            safekeeping.run(peer, known).await;
        }));
        Ok(())
    }
}

async fn serve_all(swarm: Swarm, peer: BlindPeer, tasks: TaskTracker, cancel: CancellationToken) {
    loop {
        let connection = tokio::select! {
            () = cancel.cancelled() => return,
            connection = swarm.next_connection() => connection,
        };
        let Some(connection) = connection else { return };
        tasks.spawn(serve(connection, peer.clone()));
    }
}

async fn serve(connection: Connection, peer: BlindPeer) {
    let identity = connection.remote_public_key;
    let mut header_seed = [0; cumulet_secret_stream::HEADER_BYTES];
    if let Err(error) = getrandom::fill(&mut header_seed) {
        return warn!(%error, "no random bytes");
    }
    let session = Session::Established {
        handshake: connection.handshake,
        header_seed,
    };
    if let Err(error) = peer.serve(connection.stream, identity, session).await {
        debug!(peer = %short(&identity), %error, "app");
    }
}
