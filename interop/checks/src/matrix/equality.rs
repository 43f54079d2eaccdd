//! The same operations on both sides: the blocks that they leave must be equal, byte for byte.
//!
//! A script is made from the seed, run by our writers and by the JavaScript packages, and every block is compared by its
//! hash. So is what a script must not depend on: which side's key signs.

use anyhow::{Context, Result, ensure};
use cumulet_hyperbee::{BeeWriter, WriteOptions};
use cumulet_hypercore::corestore::CoreHandle;
use cumulet_hypercore::crypto::KeyPair;
use cumulet_hypercore::manifest::Manifest;
use cumulet_hyperdrive::{DriveWriter, FileOptions, content};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::archives::{NAMES, SIZES, name};
use super::cells::create;
use super::meeting::Meeting;
use super::random::Random;

/// One operation on a bee.
enum BeeOp {
    Put(String, String),
    /// Compare and swap: replaces only another value.
    PutIf(String, String),
    Del(String),
    /// Puts, and deletes where there is no value.
    Batch(Vec<(String, Option<String>)>),
}

impl BeeOp {
    fn new(count: usize, random: &mut Random) -> Self {
        // Few enough keys that they meet again.
        let key = |random: &mut Random| format!("k{:04}", random.below(count / 2 + 2));
        let value = |random: &mut Random| "v".repeat(random.below(4));
        match random.below(8) {
            0 => Self::Del(key(random)),
            1 => Self::PutIf(key(random), value(random)),
            2 => {
                let mut change = |_| (key(random), (random.below(4) > 0).then(|| value(random)));
                Self::Batch((0..20).map(&mut change).collect())
            }
            _ => Self::Put(key(random), value(random)),
        }
    }

    /// For the JavaScript peer's `applyBee`.
    fn shape(&self) -> Value {
        match self {
            Self::Put(key, value) => json!(["put", key, value]),
            Self::PutIf(key, value) => json!(["putIf", key, value]),
            Self::Del(key) => json!(["del", key]),
            Self::Batch(changes) => json!(["batch", changes]),
        }
    }

    async fn apply(&self, writer: &mut BeeWriter<CoreHandle>) -> Result<()> {
        match self {
            Self::Put(key, value) => {
                writer.put(key, Some(value.as_bytes())).await?;
            }
            Self::PutIf(key, value) => {
                let value = value.as_bytes();
                let is_other = |old: &cumulet_hyperbee::Entry| old.value.as_deref() != Some(value);
                writer.put_if(key, Some(value), is_other).await?;
            }
            Self::Del(key) => {
                writer.del(key).await?;
            }
            Self::Batch(changes) => {
                let mut batch = writer.batch();
                for (key, value) in changes {
                    if let Some(value) = value {
                        batch.put(key, Some(value.as_bytes())).await?;
                    } else {
                        batch.del(key).await?;
                    }
                }
                batch.flush().await?;
            }
        }
        Ok(())
    }
}

/// A bee that many operations made.
pub(super) async fn bee(meeting: &mut Meeting, count: usize) -> Result<()> {
    let ops: Vec<BeeOp> = (0..count)
        .map(|_| BeeOp::new(count, &mut meeting.random))
        .collect();
    let core = create(&meeting.node, &mut meeting.random).await?;
    let mut writer = BeeWriter::new(core.clone(), WriteOptions::default());
    for op in &ops {
        op.apply(&mut writer).await?;
    }
    let shapes: Vec<Value> = ops.iter().map(BeeOp::shape).collect();
    let theirs = meeting
        .js
        .ask("applyBee", json!({"name": "bee", "ops": shapes}))
        .await?;
    ensure!(
        count < 100 || core.state().length > count as u64 / 2,
        "the script left only {} blocks",
        core.state().length
    );
    equal(&core, &theirs["blocks"]).await
}

/// One file of a drive.
struct Put {
    name: String,
    size: usize,
    start: usize,
    executable: bool,
    metadata: Option<usize>,
}

impl Put {
    fn new(random: &mut Random) -> Self {
        Self {
            name: name(random),
            size: SIZES[random.below(SIZES.len())],
            start: random.below(256),
            executable: random.flip(),
            metadata: random.flip().then(|| random.below(9)),
        }
    }

    fn shape(&self) -> Value {
        json!({
            "name": self.name, "size": self.size, "start": self.start, "executable": self.executable,
            "metadata": self.metadata.map(metadata),
        })
    }

    /// The bytes, which the JavaScript peer makes as well.
    fn data(&self) -> Vec<u8> {
        (0..self.size).map(|at| (at % 251 + self.start) as u8).collect()
    }

    fn options(&self) -> Result<FileOptions> {
        let metadata = self
            .metadata
            .map(|n| serde_json::value::to_raw_value(&metadata(n)));
        Ok(FileOptions {
            executable: self.executable,
            metadata: metadata.transpose()?,
        })
    }
}

fn metadata(n: usize) -> Value {
    json!({"n": n, "s": "å\n"})
}

/// One operation on a drive.
enum DriveOp {
    Put(Put),
    Del(String),
    Symlink(String, &'static str),
    Batch(Vec<Put>),
}

impl DriveOp {
    fn new(random: &mut Random) -> Self {
        match random.below(6) {
            0 => Self::Del(name(random)),
            1 => Self::Symlink(name(random), NAMES[random.below(NAMES.len())]),
            2 => Self::Batch((0..=random.below(8)).map(|_| Put::new(random)).collect()),
            _ => Self::Put(Put::new(random)),
        }
    }

    /// For the JavaScript peer's `applyDrive`.
    fn shape(&self) -> Value {
        match self {
            Self::Put(put) => json!(["put", put.shape()]),
            Self::Del(name) => json!(["del", name]),
            Self::Symlink(name, target) => json!(["symlink", name, target]),
            Self::Batch(puts) => json!(["batch", puts.iter().map(Put::shape).collect::<Value>()]),
        }
    }

    async fn apply(&self, writer: &mut DriveWriter<CoreHandle, CoreHandle>) -> Result<()> {
        match self {
            Self::Put(put) => {
                writer.put(&put.name, &put.data(), put.options()?).await?;
            }
            Self::Del(name) => {
                writer.del(name).await?;
            }
            Self::Symlink(name, target) => {
                writer.symlink(name, target).await?;
            }
            Self::Batch(puts) => {
                let mut batch = writer.batch();
                for put in puts {
                    batch.put(&put.name, &put.data(), put.options()?).await?;
                }
                batch.flush().await?;
            }
        }
        Ok(())
    }
}

/// A drive that many operations made: the cores of its names and of its bytes.
pub(super) async fn drive(meeting: &mut Meeting) -> Result<()> {
    let count = 30 + meeting.random.below(40);
    let ops: Vec<DriveOp> = (0..count).map(|_| DriveOp::new(&mut meeting.random)).collect();
    let pair = KeyPair::from_seed(&meeting.random.bytes());
    let manifest = Manifest::single(pair.public_key());
    let derived = content::content_manifest(&manifest.key(), &manifest).context("no content core")?;
    let db = meeting.node.store.create(manifest, Some(pair.clone())).await?;
    let blobs = meeting.node.store.create(derived, Some(pair)).await?;
    let mut writer = DriveWriter::new(db.clone(), blobs.clone());
    for op in &ops {
        op.apply(&mut writer).await?;
    }
    let shapes: Vec<Value> = ops.iter().map(DriveOp::shape).collect();
    let theirs = meeting
        .js
        .ask("applyDrive", json!({"name": "drive", "ops": shapes}))
        .await?;
    equal(&db, &theirs["db"]).await.context("names")?;
    equal(&blobs, &theirs["blobs"]).await.context("bytes")?;
    Ok(())
}

/// Holds the hashes of a core's blocks against those of the JavaScript peer's.
async fn equal(core: &CoreHandle, theirs: &Value) -> Result<()> {
    let theirs = theirs.as_array().context("no blocks")?;
    let length = core.state().length;
    for (index, digest) in (0..length).zip(theirs) {
        let block = core.get_local(index).await?.context("a block is missing")?;
        ensure!(
            *digest == hex::encode(Sha256::digest(&block)),
            "block {index} differs"
        );
    }
    ensure!(
        length == theirs.len() as u64,
        "{length} blocks here, {} in JavaScript",
        theirs.len()
    );
    Ok(())
}
