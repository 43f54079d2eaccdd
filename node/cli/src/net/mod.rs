//! The network itself: is it as it should be here, and how do programs fare in worse ones.

mod check;
mod lab;
mod sntp;

use clap::Subcommand;

use crate::failure::Result;
use crate::session::Session;

/// What can be asked about networks.
#[derive(Debug, Subcommand)]
pub(crate) enum NetCommand {
    /// Says how this machine is connected: bootstrap nodes, NAT, reachability, relay, clock; and what to do about it.
    #[command(after_help = check::EXAMPLES)]
    Check(check::CheckOptions),
    /// Runs two programs in a network made for them: NATs, firewalls, bad links.
    #[command(after_help = lab::EXAMPLES)]
    Lab(lab::LabOptions),
}

pub(crate) async fn run(session: &mut Session, command: NetCommand) -> Result {
    match command {
        NetCommand::Check(options) => check::run(session, options).await,
        NetCommand::Lab(options) => lab::run(session, &options).await,
    }
}
