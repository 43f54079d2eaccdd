//! Pairing two streams at a relay that sees ciphertext only (npm `blind-relay` 1.6).
//!
//! Two peers that agreed on a token (in the Noise handshake of their own connection) each connect to a relay and ask it,
//! over a Protomux channel, to pair the stream that they name. The relay makes one UDX stream for each, tells each the id
//! of its own, and from then on rewrites ids: what arrives for one leaves towards the other. The peers' secret stream runs
//! end to end; the relay holds no key of it.
//!
//! - [`Server`] decides: who may pair, what is paired, when it ends. It does no IO and reads no clock.
//! - [`Relay`] is its tokio half: it serves control connections and joins the streams.
//! - [`pair`] is the client.
//!
//! Invariants
//! - A link has at least one member; what it carries, both ways, is charged to each member of it and to the whole relay.
//! - Everything a peer can make grow is bounded by [`Limits`], and every wait by an expiry.
//! - A refusal says nothing: the protocol has no words for it. The channel closes, or the request is left to expire.
//!
//! The relay accepts the first packet of a stream from any address, as JavaScript does: its 32-bit id is the only secret,
//! and what arrives is authenticated end to end. Not here: finding the relay and connecting to it (the DHT does).

mod client;
mod control;
mod driver;
mod messages;
mod meter;
mod orders;
mod policy;
mod server;
#[cfg(test)]
mod tests;

pub use self::client::{PairError, Pairing, pair};
pub use self::control::{ControlError, Peer};
pub use self::driver::{Relay, RelayOptions, ServeError};
pub use self::messages::{Pair, Unpair};
pub use self::meter::{Meter, PacketHook};
pub use self::policy::{Admission, AllowList, MemberLimits, Policy};
pub use self::server::{Counters, Limits, LinkId, Output, Refusal, Server, SessionId};

/// The protocol's name in Protomux. The channel's id is the client's public key; there is no handshake.
pub const PROTOCOL: &str = "blind-relay";

/// Types of the two messages.
const PAIR: u64 = 0;
const UNPAIR: u64 = 1;
