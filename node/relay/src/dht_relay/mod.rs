//! A DHT for clients without UDP, such as browsers (npm `@hyperswarm/dht-relay` 0.4).
//!
//! One Protomux channel over a WebSocket or a secret stream. The client names what it opens by an alias of its own, the
//! relay answers with one of its own, and each message carries the sender's. In custodial mode the relay has the client's
//! secret key and does all cryptography; otherwise the client does, and the relay sees ciphertext only.

mod messages;

pub use self::messages::{Custody, DhtRelayError, Handshaken, Message, Signee};

/// The protocol's name in Protomux. The channel has no id and no handshake.
pub const PROTOCOL: &str = "@hyperswarm/dht-relay";
