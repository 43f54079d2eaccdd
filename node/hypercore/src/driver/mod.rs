//! Runs connections: bytes of a transport through secret stream and mux to the cores of a store, and back.

use cumulet_secret_stream::noise::{HandshakeResult, KeyPair};
use cumulet_secret_stream::{HEADER_BYTES, Seeds, StreamError};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use crate::corestore::Corestore;

/// How the secret stream of a connection begins. Seeds are fresh random bytes for each connection.
pub enum Session {
    /// With a Noise XX handshake on the transport, as over TCP.
    Xx {
        /// Whether we connected.
        is_initiator: bool,
        /// Our static keys.
        key_pair: KeyPair,
        /// Randomness.
        seeds: Seeds,
    },
    /// The handshake has been made, as by the DHT.
    Established {
        /// Its result.
        handshake: HandshakeResult,
        /// Randomness.
        header_seed: [u8; HEADER_BYTES],
    },
}

/// Why a connection ended, other than by its end.
#[derive(Debug, thiserror::Error)]
pub enum ReplicateError {
    /// The transport failed.
    #[error("failed to carry bytes")]
    Transport(#[from] std::io::Error),
    /// The peer broke the secret stream.
    #[error("failed to keep the secret stream")]
    Stream(#[from] StreamError),
    /// This is not built yet.
    #[error("the driver is not built yet")]
    NotBuilt,
}

/// Runs one connection until it ends or `cancel` is cancelled, replicating all cores of `store` that both sides know.
///
/// # Errors
/// [`ReplicateError`]; all of a connection's state is gone then, the store is unharmed.
pub async fn replicate<Io>(
    _store: Corestore,
    _io: Io,
    _session: Session,
    _cancel: CancellationToken,
) -> Result<(), ReplicateError>
where
    Io: AsyncRead + AsyncWrite + Send + Unpin,
{
    Err(ReplicateError::NotBuilt)
}
