//! Other protocols on the same connection: one stream carries one multiplexer, and the cores are not alone on it.

use std::sync::Arc;

use cumulet_protomux::{Event, Mux, Request};
use cumulet_secret_stream::noise::HandshakeResult;
use tokio::sync::Notify;

/// Speaks protocols that are not Hypercore's on one connection. It is called inside the connection's future, so each call
/// must return at once; work of its own goes elsewhere and comes back by [`Service::wake`].
pub trait Service: Send {
    /// Notified when [`Service::on_wake`] has something to say.
    fn wake(&self) -> Arc<Notify>;

    /// The secret stream is open: who the remote is, and what both sides know. Once, before anything else.
    fn on_open(&mut self, session: &HandshakeResult, mux: &mut Mux);

    /// The remote opened a channel that is no core's. Accept it in `mux` and return true, or return false to have it rejected.
    fn on_requested(&mut self, request: &Request, mux: &mut Mux) -> bool;

    /// A channel that is no core's was opened or closed, or got a message.
    ///
    /// # Errors
    /// In words, why the connection must end.
    fn on_event(&mut self, event: Event, mux: &mut Mux) -> Result<(), String>;

    /// Says what there is to say. Called after each wake.
    ///
    /// # Errors
    /// In words, why the connection must end.
    fn on_wake(&mut self, mux: &mut Mux) -> Result<(), String>;
}
