//! Keeps cores for the apps of others (server of npm `blind-peer` 3.8): an app names cores and goes off, and whoever comes
//! later reads them here. We hold what was signed and can read none of it that is encrypted.
//!
//! Apps ask over the connection on which they replicate: by the message `cores` (npm `blind-peering` 2) or by the methods
//! `add-core` and `delete-core` of an RPC. Groups of cores, such as an Autobase, have a referrer; peers that wake it up are
//! told which of its cores have news. The messages are [`cumulet_relay::blind_peer`]'s and [`cumulet_relay::wakeup`]'s.
//!
//! Invariants
//! - [`Keeper`] decides without IO; [`BlindPeer`] owns the store, the journal and the connections.
//! - `add-core` is answered when the record is on disk; records outlive the process ([`journal`](self#the-journal)).
//! - Whoever first named a core pays for it ([`Quota`]). A quota bounds cores by refusal and bytes by giving back the blocks of
//!   one's own cores, those first that nobody asked for or wrote to for the longest time; the whole peer's bound likewise, over
//!   everybody's. Announced cores are pinned: they keep their blocks.
//! - Only trusted identities delete cores and have them announced. Announced cores look for peers only while they are empty or far
//!   behind.
//!
//! # The journal
//! One file: the magic bytes `CBPJ`, version 1 as u32, then entries: length of the body u32, CRC-32C of the body u32, body.
//! Numbers are little-endian. The body is one byte, 0 for a record and 1 for its end; for a record the owner (32 bytes) and the
//! core record as `blind-peer` encodes it, for an end the core's key (32 bytes). The last entry of a key counts; a torn end is cut
//! off. The file is written anew when it holds more than twice what counts.
//!
//! Not here: the swarm, which announces what [`BlindPeer::announced`] says and brings the connections; bans by address,
//! mailboxes, routers and the administrators' channel of JavaScript's.

mod journal;
mod keeper;
mod server;
mod service;

pub use journal::JournalError;
pub use keeper::{Admission, Announced, Keeper, Limits, Order, Policy, Quota, Refusal};
pub use server::{BlindPeer, Companion, Counters, OpenError, Options, RestoreError};
