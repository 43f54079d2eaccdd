//! Files of the network plane that are about public parts of the crates. Those about private ones are rebuilt by the
//! crates themselves.

mod blind_peer;
mod dht_relay;
pub(super) mod noise;
pub(super) mod protomux;
pub(super) mod relay;
pub(super) mod secret_stream;
pub(super) mod udx;
