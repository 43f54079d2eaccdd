//! Files of the data plane: what is written in cores, and what cores say to each other.

mod bee_reads;
pub(super) mod corestore;
pub(super) mod encoding;
pub(super) mod encryption;
pub(super) mod hyperbee;
pub(super) mod hyperblobs;
pub(super) mod hyperdrive;
pub(super) mod keys;
pub(super) mod merkle;
pub(super) mod messages;
pub(super) mod proofs;
pub(super) mod protomux;
pub(super) mod secret_stream;
pub(super) mod transcripts;
pub(super) mod wakeup;
