//! Both sides of a case, from nothing to nothing.

use anyhow::Result;

use super::Run;
use super::js::{IdlePeers, JsPeer};
use super::node::{Connection, Node};
use super::random::Random;

/// A JavaScript peer and our node, both empty, and the numbers of the case.
pub(super) struct Meeting {
    pub(super) js: JsPeer,
    pub(super) node: Node,
    pub(super) random: Random,
}

impl Meeting {
    /// Connects the two; the seed decides who dials.
    pub(super) async fn connect(&mut self) -> Result<Connection> {
        self.node.connect(&mut self.js, &mut self.random).await
    }
}

/// Runs a case, and clears both sides away. That both can be closed is part of every case.
pub(super) async fn run(
    idle: &IdlePeers,
    random: Random,
    case: impl for<'a> FnOnce(&'a mut Meeting) -> Run<'a>,
) -> Result<()> {
    let mut meeting = Meeting {
        js: idle.take()?,
        node: Node::new()?,
        random,
    };
    case(&mut meeting).await?;
    meeting.node.close().await?;
    idle.give_back(meeting.js).await
}
