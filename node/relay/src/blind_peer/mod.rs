//! Asking an always-on peer to keep cores (npm `blind-peer` 3.8, `blind-peer-encodings` 3.3, `blind-peer-muxer` 1.2).
//!
//! Requests travel over [`protomux_rpc`](crate::protomux_rpc) on a channel whose id is the peer's public key; the message
//! [`Cores`] has a channel of its own.

mod messages;
mod records;

pub use self::messages::{
    AddCore, Cores, DeleteCore, Deleted, PostToMailbox, ResolvePeers, ResolvedPeer, ResolvedPeers,
};
pub use self::records::{CoreRecord, Count, Mailbox, TopK};

/// The muxer's name in Protomux. Its channel has no id; message 0 is [`Cores`].
pub const MUXER_PROTOCOL: &str = "blind-peer";

/// Methods of the RPC.
pub mod method {
    /// [`AddCore`](super::AddCore), answered by a [`CoreRecord`](super::CoreRecord).
    pub const ADD_CORE: &str = "add-core";
    /// [`DeleteCore`](super::DeleteCore), answered by [`Deleted`](super::Deleted).
    pub const DELETE_CORE: &str = "delete-core";
    /// Without request, answered by a [`TopK`](super::TopK); on the admin channel alone.
    pub const QUERY_TOP_K: &str = "query-top-k";
}
