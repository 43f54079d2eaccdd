//! `hyperdrive.json`: names, links, the keys of drives, and whole drives written and read.

use bytes::Bytes;
use cumulet_encoding::Reader;
use cumulet_hyperbee::{Bee, Blocks, MemoryBlocks};
use cumulet_hypercore::crypto::{Key, discovery_key, hash};
use cumulet_hypercore::derivation::{ROOT_NAMESPACE, named_key_pair};
use cumulet_hypercore::encryption::BlockCipher;
use cumulet_hypercore::key;
use cumulet_hypercore::manifest::Manifest;
use cumulet_hyperdrive::{Drive, DriveWriter, File, FileOptions, content, path};
use cumulet_vectors::{Fields, Reason, Rebuilt, ensure, hexed, keep, unknown};
use futures::executor::block_on;
use serde_json::{Value, json};

use super::hyperblobs::{block_shapes, stream, tree_of};

/// Longest file read at once; the vectors' longest is far shorter.
const READ_LIMIT: usize = 1 << 24;

/// The version from which `diffFrom5` counts.
const DIFF_FROM: u64 = 5;

type MemoryDrive = Drive<MemoryBlocks, MemoryBlocks>;

pub(crate) fn rebuild(case: &Value) -> Rebuilt {
    match case.text("kind")? {
        "path" => {
            let mut ours = keep(case, &["kind", "input", "error"]);
            ours["path"] = path::normalize(case.text("input")?).ok().into();
            ensure(
                ours["path"].is_null() != case.at("error")?.is_null(),
                "refused here or there, not in both",
            )?;
            Ok(ours)
        }
        "symlink-resolve" => {
            let mut ours = keep(case, &["kind", "entryKey", "linkname", "error"]);
            ours["resolved"] = path::resolve(case.text("entryKey")?, case.text("linkname")?)
                .ok()
                .into();
            ensure(
                ours["resolved"].is_null() != case.at("error")?.is_null(),
                "refused here or there, not in both",
            )?;
            Ok(ours)
        }
        "content-key" => {
            let db = manifest(case, "dbManifest")?;
            let derived =
                content::content_manifest(&db.key(), &db).ok_or_else(|| Reason::new("no content core"))?;
            let mut ours = keep(case, &["kind"]);
            ours["dbManifest"] = hexed(db.to_bytes());
            ours["dbKey"] = hexed(db.key());
            ours["contentManifest"] = hexed(derived.to_bytes());
            ours["contentKey"] = hexed(derived.key());
            Ok(ours)
        }
        "drive" | "drive-encrypted" => block_on(drive(case)),
        kind => unknown("kind", kind),
    }
}

fn manifest(case: &Value, field: &str) -> Result<Manifest, Reason> {
    Ok(Manifest::decode(&mut Reader::new(&case.bytes(field)?))?)
}

async fn drive(case: &Value) -> Rebuilt {
    let (db, blobs) = (MemoryBlocks::default(), MemoryBlocks::default());
    let mut writer = DriveWriter::new(db.clone(), blobs.clone());
    let mut ops = Vec::new();
    for op in case.list("ops")? {
        ops.push(replay(op, &mut writer).await?);
    }
    let mut ours = keep(case, &["kind", "primaryKey", "encryptionKey"]);
    ours["ops"] = ops.into();
    let content = keys(case, &db, &mut ours).await?;
    let encryption_key = case.optional_fixed("encryptionKey")?;
    let stored = encrypted(&db, &content.db_key, encryption_key.as_ref());
    ours["dbBlocks"] = stored.iter().map(hexed).collect();
    ours["dbTreeHash"] = hexed(tree_of(&stored)?.tree_hash());
    let stored = encrypted(&blobs, &content.blobs_key, encryption_key.as_ref());
    ours["blobsLength"] = stored.len().into();
    ours["blobTreeHash"] = hexed(tree_of(&stored)?.tree_hash());
    ours["blobBlocks"] = block_shapes(&stored, &case["blobBlocks"]);
    let drive = Drive::new(&Bee::new(db), blobs);
    ours["version"] = drive.files.version().into();
    reads(case, &drive, &mut ours).await?;
    Ok(ours)
}

struct Keys {
    db_key: Key,
    blobs_key: Key,
}

async fn keys(case: &Value, db: &MemoryBlocks, ours: &mut Value) -> Result<Keys, Reason> {
    let pair = named_key_pair(&case.fixed("primaryKey")?, &ROOT_NAMESPACE, "db");
    let manifest = Manifest::single(pair.public_key());
    let db_key = manifest.key();
    let header = Bee::new(db.clone()).header().await?;
    ensure(content::is_drive(&header), "the header is not that of a drive")?;
    let content = content::content(&header, &db_key, &manifest)?;
    let derived =
        content::content_manifest(&db_key, &manifest).ok_or_else(|| Reason::new("no content core"))?;
    ours["signerPublicKey"] = hexed(pair.public_key());
    ours["dbManifest"] = hexed(manifest.to_bytes());
    ours["key"] = hexed(db_key);
    ours["id"] = key::to_z32(&db_key).into();
    ours["url"] = format!("hyper://{}", key::to_z32(&db_key)).into();
    ours["discoveryKey"] = hexed(discovery_key(&db_key));
    ours["contentManifest"] = hexed(derived.to_bytes());
    ours["contentKey"] = hexed(content.key);
    ours["contentDiscoveryKey"] = hexed(discovery_key(&content.key));
    Ok(Keys {
        db_key,
        blobs_key: content.key,
    })
}

async fn replay(op: &Value, writer: &mut DriveWriter<MemoryBlocks, MemoryBlocks>) -> Rebuilt {
    let known: &[&str] = match op.text("op")? {
        "put" => {
            let options = FileOptions {
                executable: op.given("executable").is_some_and(|flag| *flag == true),
                metadata: op
                    .given("metadata")
                    .map(serde_json::value::to_raw_value)
                    .transpose()?,
            };
            writer.put(op.text("name")?, &stream(op)?, options).await?;
            &["op", "name", "length", "seedLabel", "executable", "metadata"]
        }
        "symlink" => {
            writer.symlink(op.text("name")?, op.text("linkname")?).await?;
            &["op", "name", "linkname"]
        }
        "del" => {
            ensure(
                writer.del(op.text("name")?).await?.is_some(),
                "nothing was there to be deleted",
            )?;
            &["op", "name"]
        }
        "batch" => {
            let mut batch = writer.batch();
            for put in op.list("puts")? {
                batch
                    .put(put.text("name")?, &stream(put)?, FileOptions::default())
                    .await?;
            }
            batch.flush().await?;
            &["op", "puts"]
        }
        other => return unknown("operation", other),
    };
    let mut ours = keep(op, known);
    ours["version"] = writer.version().into();
    Ok(ours)
}

/// The blocks as they are stored and sent.
fn encrypted(core: &MemoryBlocks, core_key: &Key, encryption_key: Option<&Key>) -> Vec<Bytes> {
    let Some(encryption_key) = encryption_key else {
        return core.to_vec();
    };
    let cipher = BlockCipher::new(core_key, encryption_key, false);
    let blocks = core.to_vec().into_iter().zip(0..);
    blocks
        .map(|(block, index)| cipher.encrypt(index, 0, &block).into())
        .collect()
}

async fn files(drive: &MemoryDrive, folder: &str) -> Result<Vec<File>, Reason> {
    let (mut list, mut files) = (drive.files.list(folder)?, Vec::new());
    while let Some(file) = list.next().await? {
        files.push(file);
    }
    Ok(files)
}

fn paths(files: &[File]) -> Value {
    files.iter().map(|file| Value::from(file.path.as_str())).collect()
}

async fn reads(case: &Value, drive: &MemoryDrive, ours: &mut Value) -> Result<(), Reason> {
    let all = files(drive, "/").await?;
    let (mut entries, mut contents) = (Vec::new(), Vec::new());
    for file in &all {
        let value: Value = serde_json::from_slice(&file.entry.encode()?)?;
        entries.push(json!({"seq": file.seq, "key": file.path, "value": value}));
        if file.entry.blob.is_some() {
            let data = drive
                .get(&file.path, READ_LIMIT)
                .await?
                .ok_or_else(|| Reason::new("a file is not there"))?;
            contents.push(json!({"key": file.path, "length": data.len(), "hash": hexed(hash(&[&data]))}));
        }
    }
    ours["entries"] = entries.into();
    ours["files"] = contents.into();
    let mut lists = Vec::new();
    for recorded in case.list("lists")? {
        lists.push(listing(drive, recorded.text("folder")?).await?);
    }
    ours["lists"] = lists.into();
    let mut follow = Vec::new();
    for recorded in case.list("follow")? {
        let target = drive
            .files
            .follow(recorded.text("name")?)
            .await?
            .map(|file| file.path);
        follow.push(json!({"name": recorded["name"], "target": target}));
    }
    ours["follow"] = follow.into();
    let mut checkouts = Vec::new();
    for recorded in case.list("checkouts")? {
        let version = recorded.uint("version")?;
        let old = drive.checkout(version);
        let hello = old.get("/hello.txt", READ_LIMIT).await?;
        let hello = hello.ok_or_else(|| Reason::new("/hello.txt is not in the older version"))?;
        checkouts.push(
            json!({"version": version, "keys": paths(&files(&old, "/").await?), "hello": hexed(hello)}),
        );
    }
    ours["checkouts"] = checkouts.into();
    let mut diff = drive.files.diff(DIFF_FROM, "/")?;
    let mut changes = Vec::new();
    while let Some(change) = diff.next().await? {
        let side = |is_there: Option<u64>| is_there.map(|seq| json!({"seq": seq, "key": change.path}));
        let (left, right) = (
            change.left.as_ref().map(|side| side.0),
            change.right.as_ref().map(|side| side.0),
        );
        changes.push(json!({"left": side(left), "right": side(right)}));
    }
    ours["diffFrom5"] = changes.into();
    ensure(
        drive.blobs.core().length() == ours["blobsLength"].as_u64().unwrap_or(0),
        "another length of the blobs",
    )
}

async fn listing(drive: &MemoryDrive, folder: &str) -> Rebuilt {
    let all = files(drive, folder).await?;
    let names = drive.files.folder(folder, usize::MAX).await?.items;
    // JS lists a folder shallowly by the first file of each of its folders.
    let prefix = if folder.ends_with('/') {
        folder.to_owned()
    } else {
        format!("{folder}/")
    };
    let mut shallow = Vec::new();
    for name in names.keys() {
        let inside = format!("{prefix}{name}");
        let is_of = |file: &&File| {
            let rest = file.path.strip_prefix(&inside);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        shallow.extend(all.iter().find(is_of).map(|file| file.path.clone()));
    }
    Ok(json!({
        "folder": folder, "list": paths(&all), "shallow": shallow, "readdir": names.into_keys().collect::<Vec<_>>(),
    }))
}
