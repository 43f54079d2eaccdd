//! `serve`: lets peers have what the store holds, until Ctrl-C.
//!
//! Whoever connects can have every core whose key they know; nobody learns of others. Announced are the archives that are named,
//! or all.

use std::fmt;
use std::net::SocketAddr;

use clap::Args;
use cumulet_hypercore::crypto::discovery_key;
use cumulet_hypercore::key::to_hex;
use serde::Serialize;

use crate::failure::{Failure, Result};
use crate::session::Session;

pub(crate) const EXAMPLES: &str = "\
Examples:
  cumulet drive serve photos
  cumulet core serve --listen 0.0.0.0:4977 --no-announce
  cumulet core serve pear://<key> --follow
Peers connect to HOST:PORT over TCP, or find the archives on the DHT. It runs until Ctrl-C.";

/// How to serve.
#[derive(Debug, Args)]
pub(crate) struct ServeOptions {
    /// The archives to announce: names, keys or links; none: all that the store holds.
    archives: Vec<String>,
    /// Takes peers on this TCP address; port 0 is any free one.
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<SocketAddr>,
    /// Stays off the DHT: only TCP peers find us.
    #[arg(long, requires = "listen")]
    no_announce: bool,
    /// Fetches the archives' blocks from peers too, now and as they grow.
    #[arg(long, requires = "archives")]
    follow: bool,
}

/// Said once peers can come.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Serving {
    public_key: String,
    listen: Option<String>,
    announced: Vec<String>,
}

impl fmt::Display for Serving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "public key  {}", self.public_key)?;
        if let Some(address) = &self.listen {
            writeln!(f, "listening   {address}")?;
        }
        write!(f, "announced   {} archives", self.announced.len())?;
        for key in &self.announced {
            write!(f, "\n  {key}")?;
        }
        Ok(())
    }
}

/// Serves until the command is interrupted.
pub(crate) async fn run(session: &mut Session, options: ServeOptions) -> Result {
    if session.options.offline && options.listen.is_none() {
        return Err(Failure::usage("--offline leaves nobody to serve").hint("add --listen HOST:PORT"));
    }
    let store = session.existing_store()?;
    let mut keys = Vec::new();
    for text in &options.archives {
        keys.push(session.target(text)?.key);
    }
    if keys.is_empty() {
        for topic in store.cores.list().await? {
            keys.extend(store.cores.find(&topic).await?.map(|core| *core.key()));
        }
    }
    let announce = !options.no_announce && !session.options.offline;
    let network = session.new_network(announce).await?;
    for address in session.options.peer.clone() {
        network
            .dial(&address, std::time::Duration::from_secs(session.options.timeout))
            .await?;
    }
    let mut wishes = Vec::new();
    if options.follow {
        for text in &options.archives {
            wishes.extend(follow(session, text).await?);
        }
    }
    let listen = match options.listen {
        Some(address) => Some(network.listen(address).await?),
        None => None,
    };
    if announce {
        for key in &keys {
            network.join(discovery_key(key), true).await?;
        }
        network.flushed().await;
    }
    session.out.show(&Serving {
        public_key: to_hex(&network.public_key()),
        listen: listen.map(|address| address.to_string()),
        announced: if announce {
            keys.iter().map(to_hex).collect()
        } else {
            Vec::new()
        },
    })?;
    session.out.flush()?;
    // Until a signal drops this future.
    std::future::pending().await
}

/// Wants all blocks of an archive, of a drive those of both cores once the second is known.
async fn follow(session: &mut Session, text: &str) -> Result<Vec<cumulet_hypercore::corestore::Download>> {
    let target = session.target(text)?;
    if target.own.is_some() {
        return Ok(Vec::new());
    }
    let core = session.core(&target).await?;
    let mut wishes = vec![core.handle().download(0..u64::MAX).await];
    if let Ok(drive) = session.drive(&target).await {
        wishes.push(drive.blobs.handle().download(0..u64::MAX).await);
    }
    Ok(wishes)
}
