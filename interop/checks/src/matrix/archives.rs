//! Bees and drives, written on one side and read on the other, with their differences between versions.

use anyhow::{Context, Result, ensure};
use cumulet_hyperbee::{Bee, BeeWriter, Entry, Range, WriteOptions};
use cumulet_hypercore::corestore::CoreHandle;
use cumulet_hypercore::crypto::KeyPair;
use cumulet_hypercore::manifest::Manifest;
use cumulet_hyperdrive::{Drive, DriveWriter, FileOptions, content};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::Direction;
use super::cells::{compare, create};
use super::js::key_of;
use super::meeting::Meeting;
use super::node::until;
use super::random::Random;

fn shape(entry: &Entry) -> Result<Value> {
    let value = entry.value.as_deref().unwrap_or_default();
    Ok(json!([
        entry.seq,
        std::str::from_utf8(&entry.key)?,
        std::str::from_utf8(value)?
    ]))
}

/// What the JavaScript peer's `readBee` says, from our side.
async fn read_bee(bee: &Bee<CoreHandle>, middle: u64) -> Result<Value> {
    let entries = bee.range(Range::all()).collect(usize::MAX).await?;
    let entries = entries.iter().map(shape).collect::<Result<Vec<_>>>()?;
    let mut diff = Vec::new();
    for change in bee.diff(middle, Range::all()).collect(usize::MAX).await? {
        let side = |entry: Option<Entry>| entry.map(|entry| shape(&entry)).transpose();
        diff.push(json!([side(change.left)?, side(change.right)?]));
    }
    Ok(json!({"version": bee.version(), "entries": entries, "middle": middle, "diff": diff}))
}

fn same(ours: &Value, theirs: &Value) -> Result<()> {
    for (field, value) in ours.as_object().into_iter().flatten() {
        let place = cumulet_vectors::difference(&theirs[field], value);
        ensure!(place.is_none(), "{field}: {}", place.unwrap_or_default());
    }
    Ok(())
}

/// A bee of random batches.
pub(super) async fn bee(meeting: &mut Meeting, direction: Direction, count: usize) -> Result<()> {
    match direction {
        Direction::JsWrites => {
            let seed = meeting.random.below(1 << 31);
            let written = meeting
                .js
                .ask("writeBee", json!({"name": "bee", "seed": seed, "count": count}))
                .await?;
            let core = meeting.node.store.get(key_of(&written)?).await?;
            meeting.connect().await?;
            let length = written["length"].as_u64().context("no length")?;
            if length > 0 {
                ensure!(core.update().await?, "the writer's length is not learnt");
            }
            let middle = written["middle"].as_u64().context("no middle")?;
            same(&read_bee(&Bee::new(core.clone()), middle).await?, &written)?;
            let _download = core.download(0..u64::MAX).await;
            until(&core, "all blocks", |state| state.contiguous_length == length).await?;
            compare(&mut meeting.js, "bee", &core, false).await?;
        }
        Direction::WeWrite => {
            let core = create(&meeting.node, &mut meeting.random).await?;
            let middle = write_bee(&core, count, &mut meeting.random).await?;
            meeting.js.open("bee", core.key(), "default").await?;
            meeting.connect().await?;
            let arguments = json!({"name": "bee", "length": core.state().length, "middle": middle});
            let seen = meeting.js.ask("readBee", arguments).await?;
            same(&read_bee(&Bee::new(core.clone()), middle).await?, &seen)?;
            compare(&mut meeting.js, "bee", &core, false).await?;
        }
    }
    Ok(())
}

/// Writes batches of puts and deletes; returns a version between two of them.
async fn write_bee(core: &CoreHandle, count: usize, random: &mut Random) -> Result<u64> {
    let mut writer = BeeWriter::new(core.clone(), WriteOptions::default());
    let (mut left, mut versions) = (count, vec![1]);
    while left > 0 {
        let mut batch = writer.batch();
        for _ in 0..(1 + random.below(50)).min(left) {
            left -= 1;
            let key = format!("k{}", random.below(count * 2 + 1));
            if random.below(4) == 0 {
                batch.del(&key).await?;
            } else {
                let value = format!("{}{left}", "v".repeat(random.below(40)));
                batch.put(&key, Some(value.as_bytes())).await?;
            }
        }
        batch.flush().await?;
        versions.push(core.state().length.max(1));
    }
    Ok(versions[versions.len() / 2])
}

type CoreDrive = Drive<CoreHandle, CoreHandle>;

/// What `describe` of `archives.js` says, from our side.
async fn describe(drive: &CoreDrive, middle: u64) -> Result<Value> {
    let mut files = Vec::new();
    let mut list = drive.files.list("/")?;
    while let Some(file) = list.next().await? {
        let metadata = match &file.entry.metadata {
            Some(raw) => serde_json::from_str(raw.get())?,
            None => Value::Null,
        };
        let mut described = json!({
            "key": file.path, "seq": file.seq, "linkname": file.entry.linkname,
            "executable": file.entry.executable, "metadata": metadata,
        });
        if file.entry.blob.is_some() {
            let data = drive.read(&file, None).await?.to_vec(1 << 24).await?;
            described["size"] = data.len().into();
            described["sha256"] = hex::encode(Sha256::digest(&data)).into();
            if data.len() > 3 {
                let part = data.len() as u64 / 3..data.len() as u64 - 1;
                let part = hex::encode(drive.read(&file, Some(part)).await?.to_vec(1 << 24).await?);
                described["part"] = if part.len() > 200 {
                    Value::Null
                } else {
                    part.into()
                };
            }
        }
        files.push(described);
    }
    let mut diff = Vec::new();
    let mut changes = drive.files.diff(middle, "/")?;
    while let Some(change) = changes.next().await? {
        let (left, right) = (change.left.map(|left| left.0), change.right.map(|right| right.0));
        diff.push(json!([change.path, left, right]));
    }
    Ok(json!({"version": drive.files.version(), "files": files, "middle": middle, "diff": diff}))
}

/// A drive of random files, links and deletions.
pub(super) async fn drive(meeting: &mut Meeting, direction: Direction) -> Result<()> {
    match direction {
        Direction::JsWrites => {
            let seed = meeting.random.below(1 << 31);
            let written = meeting
                .js
                .ask("writeDrive", json!({"name": "drive", "seed": seed}))
                .await?;
            let key = key_of(&written)?;
            let db = meeting.node.store.get(key).await?;
            meeting.connect().await?;
            ensure!(db.update().await?, "the drive is not found");
            let bee = Bee::new(db.clone());
            let header = bee.header().await?;
            let manifest = db.manifest().await.context("a core without manifest")?;
            let content = content::content(&header, &key, &manifest)?;
            let blobs = meeting.node.store.get(content.key).await?;
            blobs.update().await?;
            let middle = written["middle"].as_u64().context("no middle")?;
            same(&describe(&Drive::new(&bee, blobs), middle).await?, &written)?;
        }
        Direction::WeWrite => {
            let pair = KeyPair::from_seed(&meeting.random.bytes());
            let manifest = Manifest::single(pair.public_key());
            let key = manifest.key();
            let derived = content::content_manifest(&key, &manifest).context("no content core")?;
            let db = meeting.node.store.create(manifest, Some(pair.clone())).await?;
            let blobs = meeting.node.store.create(derived, Some(pair)).await?;
            let mut writer = DriveWriter::new(db, blobs);
            let middle = fill(&mut writer, &mut meeting.random).await?;
            meeting.connect().await?;
            let ours = describe(&writer.drive(), middle).await?;
            let arguments = json!({
                "name": "drive", "key": hex::encode(key), "version": ours["version"], "middle": middle,
            });
            same(&ours, &meeting.js.ask("readDrive", arguments).await?)?;
        }
    }
    Ok(())
}

pub(super) const NAMES: [&str; 6] = ["a", "b", "ü", "x y", "c.txt", "d.bin"];
pub(super) const SIZES: [usize; 8] = [0, 1, 10, 100, 65_535, 65_536, 65_537, 200_000];

pub(super) fn name(random: &mut Random) -> String {
    let depth = 1 + random.below(3);
    let parts = (0..depth).flat_map(|_| ["/", NAMES[random.below(NAMES.len())]]);
    parts.collect()
}

fn data(random: &mut Random) -> Vec<u8> {
    let (size, start) = (SIZES[random.below(SIZES.len())], random.below(256));
    (0..size).map(|at| (at % 251 + start) as u8).collect()
}

/// Returns a version between two of the changes: those inside a batch can't be read.
async fn fill(writer: &mut DriveWriter<CoreHandle, CoreHandle>, random: &mut Random) -> Result<u64> {
    let mut versions = Vec::new();
    for _ in 0..20 + random.below(30) {
        let metadata = match random.below(3) {
            0 => Some(serde_json::value::to_raw_value(
                &json!({"n": random.below(9), "s": "å\n"}),
            )?),
            _ => None,
        };
        let options = FileOptions {
            executable: random.flip(),
            metadata,
        };
        let name = name(random);
        match random.below(6) {
            0 => {
                writer.del(&name).await?;
            }
            1 => {
                writer.symlink(&name, NAMES[random.below(NAMES.len())]).await?;
            }
            2 => {
                let mut batch = writer.batch();
                batch.put(&name, &data(random), options).await?;
                for _ in 0..random.below(8) {
                    batch
                        .put(&self::name(random), &data(random), FileOptions::default())
                        .await?;
                }
                batch.flush().await?;
            }
            _ => {
                writer.put(&name, &data(random), options).await?;
            }
        }
        versions.push(writer.version());
    }
    Ok(versions[versions.len() / 2])
}
