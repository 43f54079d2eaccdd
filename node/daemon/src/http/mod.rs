//! The node's HTTP listeners: the owner's API, and health and metrics.
//!
//! Each listener is a router built from a [`Node`](crate::node::Node) and a driver that serves it until the
//! node stops. The gateway, which is for the world, is a room of its own: [`crate::gateway`].

pub mod api;
pub mod ops;
pub mod problem;
