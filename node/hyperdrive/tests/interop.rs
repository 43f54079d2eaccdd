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

/// All files of a drive or of a checkout, in the words of the script's `filesOf`.
fn files_of(drive: &MemoryDrive) -> Vec<Value> {
    let sha256 = |bytes: &[u8]| hex::encode(Sha256::digest(bytes));
    let mut files = Vec::new();
    let mut list = drive.files.list("/").unwrap();
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
        if file.entry.blob.is_some() {
            let read = |range| {
                block_on(async { drive.read(&file, range).await.unwrap().to_vec(1 << 20).await }).unwrap()
            };
            let data = read(None);
            described["size"] = data.len().into();
            described["sha256"] = sha256(&data).into();
            if data.len() > 3 {
                let part = data.len() as u64 / 3..data.len() as u64 - 1;
                described["part"] = sha256(&read(Some(part))).into();
            }
        }
        files.push(described);
    }
    files
}

/// What the script's `describe` says, from our side.
fn describe(drive: &MemoryDrive, middle: u64) -> Value {
    let files = files_of(drive);
    let old = files_of(&drive.checkout(middle));
    let mut diff = Vec::new();
    let mut changes = drive.files.diff(middle, "/").unwrap();
    while let Some(change) = block_on(changes.next()).unwrap() {
        diff.push(json!([
            change.path,
            change.left.map(|left| left.0),
            change.right.map(|right| right.0)
        ]));
    }
    json!({ "version": drive.files.version(), "files": files, "middle": middle, "old": old, "diff": diff })
}

fn assert_same(ours: &Value, theirs: &Value) {
    for field in ["version", "middle", "diff"] {
        assert_eq!(ours[field], theirs[field]);
    }
    for field in ["files", "old"] {
        assert_same_files(ours[field].as_array().unwrap(), theirs[field].as_array().unwrap());
    }
}

fn assert_same_files(ours: &[Value], theirs: &[Value]) {
    for (ours, theirs) in ours.iter().zip(theirs) {
        assert_eq!(ours, theirs);
    }
    assert_eq!(ours.len(), theirs.len());
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
        let middle = written["middle"].as_u64().unwrap();
        assert_same(&describe(&drive, middle), &written);

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
        let files = files_of(&Drive::new(&bee, MemoryBlocks::new(kept)));
        assert_same_files(&files, written["files"].as_array().unwrap());
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
    let middle = block_on(async {
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
        let middle = writer.version();
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
        middle
    });
    let hex = |blocks: MemoryBlocks| blocks.to_vec().iter().map(hex::encode).collect::<Vec<_>>();
    let input = json!({ "db": hex(db), "blobs": hex(blobs), "middle": middle });
    let seen = archives(&["read-drive"], &input);
    assert_eq!(seen["old"].as_array().unwrap().len(), 6);
    assert_eq!(seen["files"].as_array().unwrap().len(), 5 + 66 + 1);
    assert_same(&describe(&writer.drive(), middle), &seen);
}
