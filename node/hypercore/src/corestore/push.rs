//! Blocks that come, or go, unasked.

use std::time::Instant;

use bytes::Bytes;

use super::CoreHandle;
use super::cell::Cell;
use crate::blocks::BlocksError;

impl CoreHandle {
    /// Sends a block, unasked, to all peers that take such and lack it. Returns how many they are.
    pub async fn push(&self, index: u64) -> usize {
        let mut cell = self.shared.lock().await;
        let Cell {
            replicator, replica, ..
        } = &mut *cell;
        let peers = replicator.push(index, replica);
        for peer in &peers {
            if let Some(outbox) = cell.links.get(peer) {
                outbox.serve(*peer);
            }
        }
        peers.len()
    }

    /// Whether blocks are taken that nobody asked for; peers are told. At first they are not.
    pub async fn set_allow_push(&self, allow: bool) {
        let mut cell = self.shared.lock().await;
        let Cell {
            replicator, replica, ..
        } = &mut *cell;
        replicator.set_allow_push(allow, replica);
        cell.pump(&self.shared);
    }

    /// Whether nothing is asked of peers, neither blocks nor a longer tree, as `pushOnly` of JS: what the core gets is pushed
    /// ([`set_allow_push`](Self::set_allow_push)), or read with [`get_forced`](Self::get_forced). For all handles of the core.
    pub async fn set_push_only(&self, push_only: bool) {
        let mut cell = self.shared.lock().await;
        let Cell {
            replicator, replica, ..
        } = &mut *cell;
        replicator.set_push_only(push_only, replica, Instant::now());
        cell.pump(&self.shared);
    }

    /// As [`Blocks::get`](crate::blocks::Blocks::get), and asks for the block also where the core asks for nothing (`force` of JS).
    ///
    /// # Errors
    /// Those of [`Blocks::get`](crate::blocks::Blocks::get).
    pub async fn get_forced(&self, index: u64) -> Result<Bytes, BlocksError> {
        self.read(index, true).await
    }
}
