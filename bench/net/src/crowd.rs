//! Many at once: connections and lookups, a fixed number of them always under way.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, anyhow};
use cumulet_hyperdht::{ConnectOptions, Dht, hash};
use cumulet_secret_stream::noise::KeyPair;
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::side::{Clients, Talk, node, random, until_input_ends};

/// As the goals say, and as `interop/dht/bench.js`.
pub(crate) const AT_ONCE: usize = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// From the call to the first byte that comes back, each with a fresh key pair.
    Connect,
    /// Until the nodes near the server's key have answered.
    LookUp,
}

/// Prints `{"seconds": [each], "elapsed"}`.
pub(crate) async fn run(clients: Clients, work: Work) -> Result<()> {
    let dht = node(clients.bootstrap.clone()).await?;
    let key = clients.key()?;
    let topic = hash(&[&key]);
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    let mut tasks = JoinSet::new();
    let started = Instant::now();
    for _ in 0..clients.count {
        let turn = turns.clone().acquire_owned().await?;
        let dht = dht.clone();
        tasks.spawn(async move {
            let begun = Instant::now();
            match work {
                Work::Connect => connect(&dht, key).await?,
                Work::LookUp => {
                    if dht.lookup(topic).await?.is_empty() {
                        return Err(anyhow!("the server's announcement was not found"));
                    }
                }
            }
            drop(turn);
            Ok(begun.elapsed().as_secs_f64())
        });
    }
    let mut seconds = Vec::with_capacity(clients.count);
    while let Some(ended) = tasks.join_next().await {
        seconds.push(ended??);
    }
    let elapsed = started.elapsed().as_secs_f64();
    println!("{}", json!({ "seconds": seconds, "elapsed": elapsed }));
    until_input_ends().await
}

async fn connect(dht: &Dht, key: [u8; 32]) -> Result<()> {
    let options = ConnectOptions::new(KeyPair::from_seed(random()?));
    let mut talk = Talk::new(dht.connect(key, options).await?);
    talk.ask().await
}
