//! Appending to a core and reading it.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Result, bail};
use cumulet_hypercore::blocks::Blocks;
use cumulet_hypercore::corestore::{CoreHandle, Corestore};
use cumulet_hypercore::crypto::KeyPair;
use cumulet_hypercore::manifest::Manifest;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use super::{amount, open};
use crate::content::{Content, Random};
use crate::measure::Measure;

/// The core that is measured.
pub(super) const CORE: u32 = 1;
/// The core that is only warmed up with.
const WARMUP: u32 = 2;
/// The first of many cores.
const FIRST: u32 = 1000;

/// `count` blocks of `size` bytes in batches of `batch`, each awaited, by `lanes` appenders at once.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Append {
    pub(crate) dir: PathBuf,
    pub(crate) size: usize,
    pub(crate) count: u32,
    pub(crate) batch: u32,
    pub(crate) warmup: u32,
    pub(crate) lanes: u32,
    /// Whether an append is on the disk when it returns.
    pub(crate) synced: bool,
    /// Of the row.
    pub(crate) unit: String,
}

impl Append {
    pub(super) async fn run(self, measure: &mut Measure) -> Result<()> {
        let content = Arc::new(Content::new());
        let store = open(&self.dir, self.synced)?;
        let warmup = writer(&store, WARMUP).await?;
        self.append(&content, &warmup, self.warmup).await?;
        let core = writer(&store, CORE).await?;
        let amount = amount(&self.unit, self.size, self.count);
        measure
            .time(amount, self.append(&content, &core, self.count))
            .await?;
        if core.state().length != u64::from(self.count) {
            bail!("{} blocks instead of {}", core.state().length, self.count);
        }
        if self.lanes == 1 {
            for index in [0, self.count / 2, self.count - 1] {
                content.check(&core.get(index.into()).await?, index, self.size)?;
            }
        }
        Ok(store.close().await?)
    }

    async fn append(&self, content: &Arc<Content>, core: &CoreHandle, count: u32) -> Result<()> {
        let mut lanes = JoinSet::new();
        for lane in 0..self.lanes {
            let (content, core, size, batch) = (content.clone(), core.clone(), self.size, self.batch);
            let (from, to) = (count / self.lanes * lane, count / self.lanes * (lane + 1));
            let end = if lane + 1 == self.lanes { count } else { to };
            lanes.spawn(async move {
                for start in (from..end).step_by(batch as usize) {
                    let blocks = start..end.min(start + batch);
                    core.append(blocks.map(|index| content.block(index, size)).collect())
                        .await?;
                }
                anyhow::Ok(())
            });
        }
        join(lanes).await
    }
}

/// `gets` random blocks out of `count`, by `lanes` readers at once.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Get {
    pub(crate) dir: PathBuf,
    pub(crate) size: usize,
    pub(crate) count: u32,
    pub(crate) gets: u32,
    pub(crate) lanes: u32,
    pub(crate) warmup: u32,
}

impl Get {
    pub(super) async fn run(self, measure: &mut Measure) -> Result<()> {
        let content = Arc::new(Content::new());
        let store = open(&self.dir, false)?;
        let core = writer(&store, CORE).await?;
        if core.state().length != u64::from(self.count) {
            bail!("{} blocks instead of {}", core.state().length, self.count);
        }
        self.read(&content, &core, 1, self.warmup).await?;
        let each = self.gets.div_ceil(self.lanes);
        let reads = async {
            let mut lanes = JoinSet::new();
            for lane in 0..self.lanes {
                let (get, content, core) = (self.clone(), content.clone(), core.clone());
                lanes.spawn(async move { get.read(&content, &core, lane + 2, each).await });
            }
            join(lanes).await
        };
        measure.time(f64::from(each * self.lanes), reads).await?;
        Ok(store.close().await?)
    }

    async fn read(&self, content: &Content, core: &CoreHandle, seed: u32, gets: u32) -> Result<()> {
        let mut random = Random::new(seed);
        for _ in 0..gets {
            let index = random.next() % self.count;
            content.check(&core.get(index.into()).await?, index, self.size)?;
        }
        Ok(())
    }
}

/// Opens a store that has `count` cores and reads a block of each; with `make` it makes them instead.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Cores {
    pub(crate) dir: PathBuf,
    pub(crate) count: u32,
    pub(crate) make: bool,
}

impl Cores {
    pub(super) async fn run(self, measure: &mut Measure) -> Result<()> {
        const SIZE: usize = 1024;
        let content = Content::new();
        let touch = async {
            let store = open(&self.dir, false)?;
            let mut cores = Vec::new();
            for index in 0..self.count {
                let core = writer(&store, FIRST + index).await?;
                if self.make {
                    core.append(vec![content.block(index, SIZE)]).await?;
                } else {
                    content.check(&core.get(0).await?, index, SIZE)?;
                }
                cores.push(core);
            }
            Ok((store, cores))
        };
        let (store, cores) = measure.time(f64::from(self.count), touch).await?;
        measure.count_descriptors()?;
        drop(cores);
        Ok(store.close().await?)
    }
}

/// The writable core of a number, made if the store does not hold it.
pub(super) async fn writer(store: &Corestore, number: u32) -> Result<CoreHandle> {
    let mut seed = [0; 32];
    if let Some(start) = seed.first_chunk_mut::<4>() {
        *start = number.to_le_bytes();
    }
    let pair = KeyPair::from_seed(&seed);
    Ok(store
        .create(Manifest::single(pair.public_key()), Some(pair))
        .await?)
}

/// Waits for all tasks, or for the first that fails.
async fn join(mut tasks: JoinSet<Result<()>>) -> Result<()> {
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}
