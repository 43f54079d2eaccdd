//! Many simulated peers around the programs that are tried: real nodes with real sockets, which join a topic, look it up, connect,
//! and come and go. For load tests of apps, and of the network itself.
//!
//! Peers of one [`Household`] share a thread and a namespace; [`Topology::add_peers`](crate::Topology::add_peers) says where they
//! are. Each has a DHT node and a swarm of its own. Over its connections it says nothing but that it is there, and reads what it is
//! told: it speaks no app's protocol.
//!
//! The seed decides which peers go, when, how, and under which keys they come. What nodes draw for themselves (transaction ids, ports,
//! order of dialling) it does not decide: two runs are alike, not the same.
//!
//! Invariants
//! - A peer sends nothing into the machine's own network: it is bound in its namespace.
//! - At any time there are at most twice as many as were asked for: those that are there, and those that say goodbye. Who would be
//!   one too many leaves without.

mod churn;
mod peer;
mod tally;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cumulet_hyperdht::SpawnError;
use cumulet_hyperswarm::{Mode, SwarmError};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};

use self::peer::Life;
use self::tally::{Tally, millis};
use crate::impairment::mix;
use crate::lab::Lab;
use crate::namespace::Namespace;
use crate::topology::{Household, Nat, Topology};
use crate::usage::Carried;

pub use self::churn::{Churn, Departure};
pub use self::peer::Peer;
pub use self::tally::{Connections, Lookups, Spread, Summary};

/// Most peers of a run: some hundred namespaces, and as much memory as a machine of this kind has.
pub const MAX_PEERS: usize = 2_000;
/// Peers of a household that join at a time: more make each other slow, and none of them arrives sooner.
const ARRIVING: usize = 8;
/// While others arrive, one is waited for; for so long after the last one. An announcement takes ten seconds where nodes are silent,
/// and a machine that is too busy for its peers takes a multiple of that.
const ARRIVAL_WAIT: Duration = Duration::from_mins(2);
/// Files that a peer may need: two sockets, and those of a hole punch that few do at a time.
const FILES_PER_PEER: u64 = 4;
/// Files that all else needs: services, programs, and the 256 sockets of some hole punches.
const FILES: u64 = 2_048;

/// What each peer does.
#[derive(Debug, Clone)]
pub struct Behaviour {
    /// Nodes to join the DHT through, `host:port`.
    pub bootstrap: Vec<String>,
    /// Blind relays to dial through where there is no other way, by public key.
    pub relays: Vec<[u8; 32]>,
    /// What they meet under.
    pub topic: [u8; 32],
    /// Whether they announce themselves, look for others, or both.
    pub mode: Mode,
    /// Connections that each has at most.
    pub links: usize,
    /// How long one stays, on average; for ever if absent. From the moment when all are in.
    pub stay: Option<Duration>,
    /// See the module.
    pub seed: u64,
}

/// Why there are no peers.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeersError {
    /// No thread.
    #[error("failed to start simulated peers")]
    Io(#[from] io::Error),
    /// No node.
    #[error("failed to start a simulated peer")]
    Spawn(#[from] SpawnError),
    /// No swarm.
    #[error("failed to start a simulated peer")]
    Swarm(#[from] SwarmError),
    /// One of the first ones did not start.
    #[error("failed to start a simulated peer: {0}")]
    Failed(String),
    /// Not enough files.
    #[error(
        "failed to start simulated peers: they need {needed} open files, and this process may have {limit}"
    )]
    Files {
        /// For so many peers.
        needed: u64,
        /// The hard limit.
        limit: u64,
    },
    /// They do not come in.
    #[error("only {arrived} of {all} simulated peers are in, and no further one came for {waited_s} seconds")]
    Late {
        /// So many have joined, looked up and announced.
        arrived: u64,
        /// So many there are.
        all: u64,
        /// Since the last one had, or since the start.
        waited_s: u64,
    },
    /// Too many, or none.
    #[error("failed to start {0} simulated peers: there may be 1 to {MAX_PEERS}")]
    Count(usize),
}

/// Running peers; dropping them ends them without a goodbye.
#[derive(Debug)]
pub struct Peers {
    count: usize,
    begun: Instant,
    tally: Arc<watch::Sender<Tally>>,
    places: Vec<Namespace>,
    /// One task per household, which ends with it.
    running: JoinSet<()>,
    _end: DropGuard,
}

impl Peers {
    /// Starts them, as the lab's topology has places for them. They come by and by: see [`Peers::all_in`].
    pub fn start(lab: &Lab, households: &[Household], behaviour: Behaviour) -> Result<Self, PeersError> {
        let count = households.iter().map(|household| household.peers).sum();
        if !(1..=MAX_PEERS).contains(&count) {
            return Err(PeersError::Count(count));
        }
        allow_files(FILES + FILES_PER_PEER * count as u64)?;
        let cancel = CancellationToken::new();
        let mut peers = Self {
            count,
            begun: Instant::now(),
            tally: Arc::new(watch::Sender::new(Tally::default())),
            places: Vec::new(),
            running: JoinSet::new(),
            _end: cancel.clone().drop_guard(),
        };
        let behaviour = Arc::new(behaviour);
        let mut first = 0;
        for household in households {
            let place = Place {
                behaviour: Arc::clone(&behaviour),
                household: *household,
                is_open: lab.topology().sites[household.site].nat == Nat::Open,
                first,
                all: count as u64,
                tally: Arc::clone(&peers.tally),
            };
            first += household.peers as u64;
            let namespace = lab.host(household.site, 0);
            let ended = namespace.spawn(cancel.clone(), move || place.run())?;
            let tally = Arc::clone(&peers.tally);
            let ending = cancel.clone();
            peers.running.spawn(async move {
                let why = match ended.await {
                    Ok(Ok(())) => return,
                    Ok(Err(error)) => error.to_string(),
                    Err(_) => "its thread ended".to_owned(),
                };
                if !ending.is_cancelled() {
                    tally.send_modify(|tally| tally.fail(why));
                }
            });
            peers.places.push(namespace);
        }
        Ok(peers)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// How many have joined the DHT and looked the topic up (and announced themselves) so far.
    pub fn arrived(&self) -> u64 {
        self.tally.borrow().arrived
    }

    /// Waits until all have, one of them could not be started, or none came for two minutes. Cancel safe: another call goes on
    /// waiting where this one ended.
    pub async fn all_in(&self) -> Result<(), PeersError> {
        self.all_in_within(ARRIVAL_WAIT).await
    }

    async fn all_in_within(&self, wait: Duration) -> Result<(), PeersError> {
        let all = self.count as u64;
        let mut news = self.tally.subscribe();
        loop {
            let (arrived, late_at) = {
                let tally = news.borrow_and_update();
                if let Some(failure) = &tally.failure {
                    return Err(PeersError::Failed(failure.clone()));
                }
                (tally.arrived, tally.last_arrival.unwrap_or(self.begun) + wait)
            };
            if arrived >= all {
                let took = millis(self.begun.elapsed());
                self.tally.send_modify(|tally| tally.in_ms = Some(took));
                return Ok(());
            }
            // Other news come all the time: they must not keep it waiting.
            let is_late = Instant::now() >= late_at;
            if is_late
                || tokio::time::timeout_at(late_at.into(), news.changed())
                    .await
                    .is_err()
            {
                let waited_s = wait.as_secs();
                return Err(PeersError::Late {
                    arrived,
                    all,
                    waited_s,
                });
            }
        }
    }

    /// What came of them so far.
    pub fn summary(&self) -> Summary {
        self.tally.borrow().summary(self.count)
    }

    /// What they sent and received so far, also to and from each other: bytes of frames.
    pub fn carried(&self) -> Result<Carried, PeersError> {
        let mut all = Carried::default();
        for place in &self.places {
            let here = place.carried()?;
            all.sent += here.sent;
            all.received += here.received;
        }
        Ok(all)
    }
}

/// Raises the number of files that this process may have open, if it must be.
fn allow_files(needed: u64) -> Result<(), PeersError> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(io::Error::from)?;
    if hard < needed {
        return Err(PeersError::Files { needed, limit: hard });
    }
    if soft < needed {
        setrlimit(Resource::RLIMIT_NOFILE, needed, hard).map_err(io::Error::from)?;
    }
    Ok(())
}

/// The peers of one household.
struct Place {
    behaviour: Arc<Behaviour>,
    household: Household,
    is_open: bool,
    /// The number of its first peer, among all.
    first: u64,
    /// How many there are in all households.
    all: u64,
    tally: Arc<watch::Sender<Tally>>,
}

impl Place {
    /// Until it is dropped.
    async fn run(self) {
        let arriving = Arc::new(Semaphore::new(ARRIVING));
        let places = self.household.peers;
        let mut lives = JoinSet::new();
        let mut leave = Vec::new();
        let mut generation = 0_u64;
        let come = |lives: &mut JoinSet<_>, place: usize, generation: u64| {
            let (leaving, when) = oneshot::channel();
            let life = Life {
                behaviour: Arc::clone(&self.behaviour),
                number: self.first + place as u64 + generation * self.all,
                address: self
                    .is_open
                    .then(|| Topology::address_of_open(self.household.site, place)),
                tally: Arc::clone(&self.tally),
                arriving: Arc::clone(&arriving),
            };
            lives.spawn(life.live(when));
            leaving
        };
        for place in 0..places {
            leave.push(come(&mut lives, place, generation));
        }
        let stay = self.behaviour.stay;
        let seed = mix(self.behaviour.seed ^ mix(self.first));
        let mut churn = stay.map(|stay| Churn::staying(stay, places, seed));
        let mut begun = None;
        let mut next: Option<Departure> = None;
        let mut news = self.tally.subscribe();
        loop {
            if begun.is_some() && next.is_none() {
                next = churn.as_mut().and_then(Iterator::next);
            }
            let due = begun.zip(next).map(|(begun, next)| begun + next.at);
            tokio::select! {
                all_in = news.wait_for(|tally| tally.arrived >= self.all), if begun.is_none() => {
                    if all_in.is_ok() {
                        begun = Some(tokio::time::Instant::now());
                    }
                }
                () = at(due) => {
                    let Some(departure) = next.take() else { continue };
                    generation += 1;
                    let goodbye = departure.goodbye && lives.len() < 2 * places;
                    let newcomer = come(&mut lives, departure.place, generation);
                    let leaving = std::mem::replace(&mut leave[departure.place], newcomer);
                    // Who could not be started is gone already.
                    let _ = leaving.send(goodbye);
                }
                Some(ended) = lives.join_next() => {
                    if let Ok(Err(error)) = ended {
                        self.tally.send_modify(|tally| tally.fail(describe(&error)));
                    }
                }
            }
        }
    }
}

fn describe(error: &PeersError) -> String {
    let source = std::error::Error::source(error).map(|source| format!(": {source}"));
    format!("{error}{}", source.unwrap_or_default())
}

async fn at(when: Option<tokio::time::Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "tests")]

    use super::*;

    fn two() -> Peers {
        Peers {
            count: 2,
            begun: Instant::now(),
            tally: Arc::new(watch::Sender::new(Tally::default())),
            places: Vec::new(),
            running: JoinSet::new(),
            _end: CancellationToken::new().drop_guard(),
        }
    }

    #[tokio::test]
    async fn peers_that_do_not_come_in_are_not_waited_for_for_ever() {
        let peers = two();
        let late = peers.all_in_within(Duration::ZERO).await;
        assert!(matches!(
            late,
            Err(PeersError::Late {
                arrived: 0,
                all: 2,
                ..
            })
        ));
        let soon = Instant::now() + Duration::from_hours(1);
        peers.tally.send_modify(|tally| tally.arrived(soon));
        let waiting = peers.all_in_within(Duration::ZERO);
        assert!(
            tokio::time::timeout(Duration::from_millis(10), waiting)
                .await
                .is_err(),
            "after each that came it waits anew"
        );
        peers.tally.send_modify(|tally| tally.arrived(soon));
        assert!(peers.all_in_within(Duration::ZERO).await.is_ok());
        assert!(peers.summary().in_ms.is_some());
    }
}
