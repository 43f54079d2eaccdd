//! One measured task in a process of its own, as `bench/js/work.mjs` is for JavaScript: same tasks, same options, same
//! answers.

mod bee;
mod core;
mod drive;
mod processor;
mod replication;
mod swarm;

use std::path::Path;

use anyhow::{Context, Result};
use cumulet_hypercore::corestore::{Corestore, CorestoreConfig};
use cumulet_hypercore::storage::Durability;
use serde::{Deserialize, Serialize};

use crate::measure::Measure;

pub(crate) use self::core::{Append, Cores, Get};
pub(crate) use bee::{BeeGet, BeePut, BeeRange};
pub(crate) use drive::{BLOCK_BYTES, Mirror, write_file};
pub(crate) use processor::Work;
pub(crate) use replication::{Fetch, Ready, Serve};
pub(crate) use swarm::{Bootstrap, Follow, Seed};

/// The unit of rows about bytes; others count what there is.
pub(crate) const MIB: &str = "MiB";

/// What to do. `dir` is the store's folder; blocks are those of [`crate::content::Content`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "task", rename_all = "kebab-case")]
pub(crate) enum Task {
    /// Appends to a core.
    Append(Append),
    /// Reads random blocks of the core that an append left.
    Get(Get),
    /// Opens many cores, or makes them.
    Cores(Cores),
    /// Serves the core that an append left.
    Serve(Serve),
    /// Gets a served core.
    Fetch(Fetch),
    /// Writes keys.
    BeePut(BeePut),
    /// Looks keys up.
    BeeGet(BeeGet),
    /// Lists keys.
    BeeRange(BeeRange),
    /// Mirrors a folder into a drive.
    Mirror(Mirror),
    /// Runs a DHT of this many nodes. JavaScript only.
    Testnet { nodes: u32 },
    /// Serves a drive on a DHT. JavaScript only.
    Seed(Seed),
    /// Gets a drive over a DHT. JavaScript only.
    Follow(Follow),
    /// Hashes.
    Hash(Work),
    /// Encrypts.
    Encrypt(Work),
}

/// Runs a task and prints its report as one line of JSON.
pub(crate) fn run(task: &str) -> Result<()> {
    let task = serde_json::from_str(task).context("failed to understand the task")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("failed to start the runtime")?;
    let mut measure = Measure::new()?;
    runtime.block_on(async {
        match task {
            Task::Append(append) => append.run(&mut measure).await,
            Task::Get(get) => get.run(&mut measure).await,
            Task::Cores(cores) => cores.run(&mut measure).await,
            Task::Serve(serve) => serve.run().await,
            Task::Fetch(fetch) => fetch.run(&mut measure).await,
            Task::BeePut(put) => put.run(&mut measure).await,
            Task::BeeGet(get) => get.run(&mut measure).await,
            Task::BeeRange(range) => range.run(&mut measure).await,
            Task::Mirror(mirror) => mirror.run(&mut measure).await,
            Task::Testnet { .. } | Task::Seed(_) | Task::Follow(_) => {
                anyhow::bail!("this task is JavaScript's; ours is the node itself")
            }
            Task::Hash(work) => work.hash(&mut measure).await,
            Task::Encrypt(work) => work.encrypt(&mut measure).await,
        }
    })?;
    println!("{}", serde_json::to_string(&measure.report()?)?);
    Ok(())
}

/// The store of a task. JavaScript's appends return when the operating system has them; ours do if they are not `synced`.
fn open(dir: &Path, synced: bool) -> Result<Corestore> {
    let mut config = CorestoreConfig::default();
    if !synced {
        config.disk.durability = Durability::Unsynced;
    }
    Ok(Corestore::open(dir, config)?)
}

/// How much `count` blocks or files of `size` bytes are, in `MiB` or else in number.
fn amount(unit: &str, size: usize, count: u32) -> f64 {
    if unit == MIB {
        f64::from(count) * size as f64 / f64::from(1 << 20)
    } else {
        f64::from(count)
    }
}
