//! Networks to try programs in, made of Linux network namespaces: NATs of every kind, networks that block UDP or keep their
//! hosts apart, and links that lose, delay or squeeze.
//!
//! A [`Topology`] says which sites there are. [`plan`](Topology::plan) turns it into the list of steps, without doing anything;
//! [`Lab::up`] takes them, by running `ip` and `nft`, and dropping the [`Lab`] takes everything back. What a killed process left
//! is removed by the next `Lab::up`. Impairments are done in user space ([`Lane`]), so that they need nothing of the kernel and are
//! the same for the same seed.
//!
//! Invariants
//! - Nothing is made or changed in the namespace of the host: every interface, address, route and rule lives in a namespace whose
//!   name begins with [`PREFIX`] and the process id.
//! - The namespaces reach nothing but each other.
//! - A host's programs see only their own namespace; whoever can reach a public address of the lab is told by the rules of the
//!   site, never by this crate's forwarding.
//!
//! [`Services`] runs what a network needs on public addresses of the lab: DHT nodes to join through, and a blind relay. [`probe`] has
//! two programs to connect: an echo server and a client that measures. [`peers`] has many that come and go around them.
//!
//! Not here: IPv6 (the DHT has none), port mapping protocols (UPnP, NAT-PMP), NATs that rewrite payloads.

mod checksum;
mod forwarder;
mod impairment;
mod lab;
mod namespace;
mod parse;
pub mod peers;
mod plan;
pub mod probe;
mod rules;
mod services;
mod tools;
mod topology;
mod usage;

pub use self::impairment::{Fate, Lane, Link};
pub use self::lab::{Lab, LabError, Traffic};
pub use self::namespace::Namespace;
pub use self::parse::{PRESETS, ParseError, Preset};
pub use self::plan::{Plan, Step, Wire};
pub use self::services::{Services, ServicesError};
pub use self::tools::{Missing, missing};
pub use self::topology::{Household, Nat, SERVICES, Site, Topology};
pub use self::usage::{Carried, Usage};

/// What the names of all namespaces begin with.
pub const PREFIX: &str = "cumulab";
