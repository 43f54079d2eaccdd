//! Writing, looking up and listing keys.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use cumulet_hyperbee::{Bee, BeeWriter, Blocks, Range, WriteOptions};
use cumulet_hypercore::corestore::{CoreHandle, Corestore};
use serde::{Deserialize, Serialize};

use super::core::writer;
use super::open;
use crate::content::{Content, Random, key};
use crate::measure::Measure;

/// The bee's core.
const BEE: u32 = 3;
/// Bytes of a value.
const VALUE_BYTES: usize = 64;

/// `count` keys, in batches of `batch`; batches of 1 are puts.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct BeePut {
    pub(crate) dir: PathBuf,
    pub(crate) count: u32,
    pub(crate) batch: u32,
}

impl BeePut {
    pub(super) async fn run(self, measure: &mut Measure) -> Result<()> {
        let content = Content::new();
        let (store, core) = open_bee(&self.dir).await?;
        let mut bee = BeeWriter::new(core, WriteOptions::default());
        let put = async {
            for start in (0..self.count).step_by(self.batch as usize) {
                let range = start..self.count.min(start + self.batch);
                if self.batch == 1 {
                    bee.put(key(start), Some(&content.block(start, VALUE_BYTES)))
                        .await?;
                    continue;
                }
                let mut batch = bee.batch();
                for index in range {
                    batch
                        .put(key(index), Some(&content.block(index, VALUE_BYTES)))
                        .await?;
                }
                batch.flush().await?;
            }
            Ok(())
        };
        measure.time(f64::from(self.count), put).await?;
        for index in [0, self.count / 2, self.count - 1] {
            check(&content, bee.bee(), index).await?;
        }
        Ok(store.close().await?)
    }
}

/// `gets` random ones of `count` keys, one after the other.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct BeeGet {
    pub(crate) dir: PathBuf,
    pub(crate) count: u32,
    pub(crate) gets: u32,
    pub(crate) warmup: u32,
}

impl BeeGet {
    pub(super) async fn run(self, measure: &mut Measure) -> Result<()> {
        let content = Content::new();
        let (store, core) = open_bee(&self.dir).await?;
        let bee = Bee::new(core);
        self.read(&content, &bee, 1, self.warmup).await?;
        measure
            .time(f64::from(self.gets), self.read(&content, &bee, 2, self.gets))
            .await?;
        Ok(store.close().await?)
    }

    async fn read(&self, content: &Content, bee: &Bee<CoreHandle>, seed: u32, gets: u32) -> Result<()> {
        let mut random = Random::new(seed);
        for _ in 0..gets {
            check(content, bee, random.next() % self.count).await?;
        }
        Ok(())
    }
}

/// All of `count` keys in order.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct BeeRange {
    pub(crate) dir: PathBuf,
    pub(crate) count: u32,
}

impl BeeRange {
    pub(super) async fn run(self, measure: &mut Measure) -> Result<()> {
        let content = Content::new();
        let (store, core) = open_bee(&self.dir).await?;
        let bee = Bee::new(core);
        let list = async {
            let mut cursor = bee.range(Range::all());
            let (mut seen, mut before) = (0, bytes::Bytes::new());
            while let Some(entry) = cursor.next().await? {
                if entry.key <= before {
                    bail!("keys are not in order");
                }
                before = entry.key;
                let value = entry.value.context("a key has no value")?;
                let number = value.first_chunk().copied().map(u32::from_le_bytes);
                let index = number.context("a value is too short")?;
                if before != key(index) {
                    bail!("a value is at another's key");
                }
                content.check(&value, index, VALUE_BYTES)?;
                seen += 1;
            }
            if seen != self.count {
                bail!("{seen} keys instead of {}", self.count);
            }
            Ok(())
        };
        measure.time(f64::from(self.count), list).await?;
        Ok(store.close().await?)
    }
}

async fn open_bee(dir: &Path) -> Result<(Corestore, CoreHandle)> {
    let store = open(dir, false)?;
    let core = writer(&store, BEE).await?;
    Ok((store, core))
}

async fn check<B: Blocks>(content: &Content, bee: &Bee<B>, index: u32) -> Result<()> {
    let entry = bee.get(key(index)).await?;
    let value = entry.and_then(|entry| entry.value);
    let value = value.with_context(|| format!("key {index} is not there"))?;
    content.check(&value, index, VALUE_BYTES)
}
