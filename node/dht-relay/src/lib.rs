//! A DHT for clients without UDP, such as pages in a browser (server of npm `@hyperswarm/dht-relay` 0.4, over WebSockets).
//!
//! A client says who it is, listens, looks up, announces and connects; this side does it on a [`cumulet_hyperdht::Dht`] for
//! it, under the client's key pair, and carries the bytes of its connections. The messages are
//! [`cumulet_relay::dht_relay`]'s.
//!
//! Invariants
//! - Whoever can't show the secret key of the identity it claims, or has no admission, gets nothing done.
//! - `session` decides without IO; [`Relay`] owns WebSockets, streams and the clock.
//! - Connections, bytes and time are counted per identity ([`MemberLimits`]), and bounded for all together ([`Limits`]).
//! - A slow side slows the other down; nothing is queued without bound: see the constants.
//!
//! Custodial clients only, which is JavaScript's default: the client gives us its secret key and trusts us with the plaintext
//! of its connections (what Hypercore sends is signed all the same). So a page should use a cloud of its own, over TLS. Clients
//! that keep their secret key are turned away with words. An answer to `incoming` (JavaScript's asynchronous firewall) is
//! waited for after the handshake, not before: a denied peer sees its connection end.

mod accounts;
mod client;
mod driver;
mod session;
#[cfg(test)]
mod session_tests;
mod stream;

pub use accounts::{Counters, Limits, Refusal};
pub use cumulet_relay::blind_relay::{Admission, MemberLimits, Policy};
pub use driver::{Relay, RelayOptions, ServeError};
pub use session::SessionEnd;
