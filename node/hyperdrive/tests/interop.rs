//! Against the real JavaScript package. Needs Node.js and `npm ci` in `interop/data`.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::io::Write;
use std::process::{Command, Stdio};

use bytes::Bytes;
use cumulet_hyperbee::{Bee, Blocks, MemoryBlocks};
use cumulet_hypercore::crypto::Key;
use cumulet_hypercore::manifest::{Manifest, Signer};
use cumulet_hyperdrive::plan::Selection;
use cumulet_hyperdrive::{Drive, DriveWriter, FileOptions, content};
use futures::executor::block_on;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

type MemoryDrive = Drive<MemoryBlocks, MemoryBlocks>;

fn archives(arguments: &[&str], input: &Value) -> Value {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../../interop/data");
    let mut child = Command::new("node")
        .arg("archives.js")
        .args(arguments)
        .current_dir(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.to_string().as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "is `npm ci` done in interop/data?");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn key(value: &Value) -> Key {
    hex::decode(value.as_str().unwrap()).unwrap().try_into().unwrap()
}

fn blocks(value: &Value) -> MemoryBlocks {
    let blocks = value.as_array().unwrap().iter();
    MemoryBlocks::new(blocks.map(|block| Bytes::from(hex::decode(block.as_str().unwrap()).unwrap())))
}

/// The manifest of a drive that JavaScript made: version 1, as it has no prologue and one signer.
fn manifest(value: &Value) -> Manifest {
    let signer = &value["signers"][0];
    let signer = Signer {
        namespace: key(&signer["namespace"]),
        public_key: key(&signer["publicKey"]),
    };
    let single = Manifest::single(signer.public_key);
    Manifest {
        version: u8::try_from(value["version"].as_u64().unwrap()).unwrap(),
        signers: vec![signer],
        ..single
    }
}

/// What the script's `describe` says, from our side.
fn describe(drive: &MemoryDrive) -> Value {
    let mut files = Vec::new();
    let mut list = drive.files.list("/").unwrap();
    let mut middle = 0;
    while let Some(file) = block_on(list.next()).unwrap() {
        let metadata: Value = file
            .entry
            .metadata
            .as_ref()
            .map_or(Value::Null, |raw| raw.get().parse().unwrap());
        let mut described = json!({
            "key": file.path, "seq": file.seq, "linkname": file.entry.linkname,
            "executable": file.entry.executable, "metadata": metadata,
        });
        middle = middle.max(file.seq);
        if file.entry.blob.is_some() {
            let data = block_on(async {
                drive
                    .read(&file, None)
                    .await?
                    .to_vec(1 << 20)
                    .await
                    .map_err(Into::into)
            });
            let data: Vec<u8> = data
                .map_err(|error: cumulet_hyperdrive::DriveError| error)
                .unwrap();
            described["size"] = data.len().into();
            described["sha256"] = hex::encode(Sha256::digest(&data)).into();
            if data.len() > 3 {
                let part = data.len() as u64 / 3..data.len() as u64 - 1;
                let part =
                    block_on(async { drive.read(&file, Some(part)).await.unwrap().to_vec(1 << 20).await });
                let part = hex::encode(part.unwrap());
                described["part"] = if part.len() > 200 {
                    Value::Null
                } else {
                    part.into()
                };
            }
        }
        files.push(described);
    }
    let middle = if files.is_empty() { 1 } else { middle };
    let mut diff = Vec::new();
    let mut changes = drive.files.diff(middle, "/").unwrap();
    while let Some(change) = block_on(changes.next()).unwrap() {
        diff.push(json!([
            change.path,
            change.left.map(|left| left.0),
            change.right.map(|right| right.0)
        ]));
    }
    json!({ "version": drive.files.version(), "files": files, "middle": middle, "diff": diff })
}

fn assert_same(ours: &Value, theirs: &Value) {
    for field in ["version", "middle", "diff"] {
        assert_eq!(ours[field], theirs[field]);
    }
    for (ours, theirs) in ours["files"]
        .as_array()
        .unwrap()
        .iter()
        .zip(theirs["files"].as_array().unwrap())
    {
        assert_eq!(ours, theirs);
    }
    assert_eq!(
        ours["files"].as_array().unwrap().len(),
        theirs["files"].as_array().unwrap().len()
    );
}

#[test]
fn random_drives_of_the_js_package_read_as_it_reads_them() {
    let seed: u32 = std::env::var("CUMULET_SEED").map_or(1, |seed| seed.parse().unwrap());
    for seed in seed..seed + 4 {
        let written = archives(&["write-drive", &seed.to_string()], &Value::Null);
        let bee = Bee::new(blocks(&written["db"]));
        let manifest = manifest(&written["manifest"]);
        assert_eq!(manifest.key(), key(&written["key"]));
        let header = block_on(bee.header()).unwrap();
        assert!(content::is_drive(&header));
        let content = content::content(&header, &key(&written["key"]), &manifest).unwrap();
        assert_eq!(content.key, key(&written["contentKey"]), "seed {seed}");
        let drive = Drive::new(&bee, blocks(&written["blobs"]));
        assert_same(&describe(&drive), &written);

        // Everything that the plan names is enough: what it leaves out can go.
        let plan = block_on(drive.plan(&Selection::default())).unwrap();
        assert_eq!(plan.unreadable, 0);
        let kept = drive
            .blobs
            .core()
            .to_vec()
            .into_iter()
            .enumerate()
            .map(|(index, block)| {
                let wanted = plan.blocks.iter().any(|range| range.contains(&(index as u64)));
                // Same length, so that bytes are still found at their places.
                if wanted {
                    block
                } else {
                    Bytes::from(vec![0; block.len()])
                }
            });
        assert_same(&describe(&Drive::new(&bee, MemoryBlocks::new(kept))), &written);
        assert!(
            plan.blocks
                .last()
                .is_none_or(|last| last.end <= drive.blobs.core().length())
        );
    }
}

#[test]
fn our_drives_read_in_the_js_package_as_we_read_them() {
    let (db, blobs) = (MemoryBlocks::default(), MemoryBlocks::default());
    let mut writer = DriveWriter::new(db.clone(), blobs.clone());
    block_on(async {
        let metadata = || serde_json::value::to_raw_value(&json!({ "å": [1, null], "s": "\u{1}\"" })).ok();
        for (number, size) in [0, 1, 65_535, 65_536, 65_537, 300_000].into_iter().enumerate() {
            let data: Vec<u8> = (0..size).map(|at| (at % 251 + number) as u8).collect();
            let options = FileOptions {
                executable: number % 2 == 0,
                metadata: metadata(),
            };
            writer
                .put(&format!("folder {number}/ü.bin"), &data, options)
                .await
                .unwrap();
        }
        let mut batch = writer.batch();
        for number in 0..100 {
            let name = format!("/many/{number}/a");
            batch
                .put(&name, name.as_bytes(), FileOptions::default())
                .await
                .unwrap();
            if number % 3 == 0 {
                batch.del(&format!("/many/{}/a", number / 2)).await.unwrap();
            }
        }
        batch.flush().await.unwrap();
        writer.symlink("/link", "../folder 3/ü.bin").await.unwrap();
        writer.del("/folder 2/ü.bin").await.unwrap();
    });
    let hex = |blocks: MemoryBlocks| blocks.to_vec().iter().map(hex::encode).collect::<Vec<_>>();
    let seen = archives(&["read-drive"], &json!({ "db": hex(db), "blobs": hex(blobs) }));
    assert_eq!(seen["files"].as_array().unwrap().len(), 5 + 66 + 1);
    assert_same(&describe(&writer.drive()), &seen);
}
