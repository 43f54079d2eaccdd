//! Hyperswarm: topics to connections (npm `hyperswarm` 4.17).
//!
//! A [`Swarm`] has one key pair. Join a topic as client to look for its members, as server to be found; connections of
//! both kinds come out of [`Swarm::next_connection`], at most one per peer. It has no wire format of its own: it drives
//! HyperDHT.
//!
//! Private by default: a client-only join asks the nodes near the topic and announces nothing; only a join as server (or
//! [`Swarm::listen`]) makes the key and the topic public.
//!
//! Peers whose key and addresses are known, such as the replicas of one cloud, need no DHT: [`Swarm::join_host`] races UDP with
//! TCP and WebSockets to them; [`Swarm::listen_tcp`], [`Swarm::listen_websocket`] and [`Swarm::accept_websocket`] let them in.
//! Without a swarm: [`direct`].

mod accept;
mod arrivals;
mod connection;
pub mod direct;
mod driver;
mod peers;
mod race;
mod topics;
#[cfg(feature = "vectors")]
pub mod vectors;
mod watched;
pub mod websocket;

pub use self::connection::{Connection, Control, Transport};
pub use self::driver::{
    Join, Mode, PeerStatus, Swarm, SwarmConfig, SwarmError, SwarmLimits, SwarmStats, Topic,
};
pub use self::watched::{Watched, WatchedControl};
