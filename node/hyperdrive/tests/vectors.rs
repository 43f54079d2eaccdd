//! The shared vectors: drives, blobs, names, keys and links that the JS packages made.

#![allow(clippy::unwrap_used, clippy::panic)]

use bytes::Bytes;
use cumulet_encoding::Reader;
use cumulet_hyperbee::{Bee, Blocks, ErrorKind, MemoryBlocks};
use cumulet_hypercore::crypto::{self, Key};
use cumulet_hypercore::encryption::BlockCipher;
use cumulet_hypercore::manifest::Manifest;
use cumulet_hyperdrive::blobs::{MapEntry, decode_map, encode_map};
use cumulet_hyperdrive::link::Link;
use cumulet_hyperdrive::{
    BlobPointer, BlobWriter, Blobs, Drive, DriveError, DriveWriter, FileOptions, content, path,
};
use futures::executor::block_on;
use serde_json::Value;

const BLOBS: &str = include_str!("../../../vectors/data/hyperblobs.json");
const DRIVES: &str = include_str!("../../../vectors/data/hyperdrive.json");
const KEYS: &str = include_str!("../../../vectors/data/keys.json");

fn cases(file: &str, kind: &str) -> Vec<Value> {
    let file: Value = serde_json::from_str(file).unwrap();
    let cases: Vec<Value> = file["cases"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|case| case["kind"] == kind)
        .cloned()
        .collect();
    assert!(!cases.is_empty(), "{kind}");
    cases
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap()
}

fn bytes(value: &Value) -> Bytes {
    Bytes::from(hex::decode(text(value)).unwrap())
}

fn key(value: &Value) -> Key {
    bytes(value).as_ref().try_into().unwrap()
}

fn manifest(value: &Value) -> Manifest {
    Manifest::decode(&mut Reader::new(&bytes(value))).unwrap()
}

/// The bytes that the vectors' generator made of a label: hashes of it and a counter.
fn stream(value: &Value) -> Vec<u8> {
    let length = usize::try_from(number(&value["length"])).unwrap();
    let label = text(&value["seedLabel"]).as_bytes();
    let mut data = Vec::new();
    for counter in 0_u32.. {
        if data.len() >= length {
            break;
        }
        data.extend(crypto::hash(&[label, &counter.to_le_bytes()]));
    }
    data.truncate(length);
    data
}

/// Long blocks are given by length and hash.
fn assert_block(ours: &[u8], expected: &Value) {
    let hex = expected.as_str().or(expected["hex"].as_str());
    if let Some(hex) = hex {
        assert_eq!(hex::encode(ours), hex);
    } else {
        assert_eq!(ours.len() as u64, number(&expected["length"]));
        assert_eq!(hex::encode(crypto::hash(&[ours])), text(&expected["hash"]));
    }
}

fn pointer(value: &Value) -> BlobPointer {
    serde_json::from_value(value.clone()).unwrap()
}

#[test]
fn names_are_normalised_and_refused_as_in_js() {
    for case in cases(DRIVES, "path") {
        let expected = case["path"].as_str().map(str::to_owned);
        assert_eq!(path::normalize(text(&case["input"])).ok(), expected, "{case}");
    }
    for case in cases(DRIVES, "symlink-resolve") {
        let expected = case["resolved"].as_str().map(str::to_owned);
        let resolved = path::resolve(text(&case["entryKey"]), text(&case["linkname"]));
        assert_eq!(resolved.ok(), expected, "{case}");
    }
}

#[test]
fn the_blob_core_is_derived_from_the_manifest() {
    for case in cases(DRIVES, "content-key") {
        let db = manifest(&case["dbManifest"]);
        let derived = content::content_manifest(&key(&case["dbKey"]), &db).unwrap();
        assert_eq!(hex::encode(derived.to_bytes()), text(&case["contentManifest"]));
        assert_eq!(derived.key(), key(&case["contentKey"]));
    }
}

#[test]
fn keys_are_read_in_every_form_and_nothing_else_is() {
    for case in cases(KEYS, "z32") {
        let expected = key(&case["key"]);
        for accepted in list(&case["accepted"]) {
            let link: Link = text(accepted).parse().unwrap();
            assert_eq!(link.key, expected);
            let path = if text(accepted).ends_with("/a/b") {
                "/a/b"
            } else {
                ""
            };
            assert_eq!((link.path.as_str(), link.version), (path, None));
        }
        let (id, hex) = (text(&case["id"]), text(&case["key"]));
        for (address, version, path) in [
            (format!("hyper://{id}"), None, ""),
            (format!("dat://{hex}/x?y#z"), None, "/x"),
            (format!("hyper://{hex}+17/x"), Some(17), "/x"),
            (format!("  pear://{id}/\n"), None, "/"),
            (hex.to_uppercase(), None, ""),
            (format!("{id}/only/a+b"), None, "/only/a+b"),
        ] {
            let link: Link = address
                .parse()
                .unwrap_or_else(|error| panic!("{address}: {error}"));
            assert_eq!(
                (link.key, link.version, link.path.as_str()),
                (expected, version, path),
                "{address}"
            );
        }
        assert_eq!(id.parse::<Link>().unwrap().to_string(), format!("hyper://{id}"));
    }
    for case in cases(KEYS, "z32-refuse") {
        // JS refuses links of the older form; ours are to be opened with them.
        let refused = text(&case["input"]).parse::<Link>().is_err();
        assert_eq!(refused, !text(&case["input"]).starts_with("hyper://"), "{case}");
    }
    let id = "c4yfkqkgrfn4gkd4swtm9yjr3i1mbmiq3y89ygijc83ock7jie7o";
    for refused in [
        format!("http://{id}"),
        format!("{id}+"),
        format!("{id}+x"),
        format!("pear://0.1.{id}"),
    ] {
        assert!(refused.parse::<Link>().is_err(), "{refused}");
    }
}

#[test]
fn blobs_are_cut_and_read_back_as_in_js() {
    for case in cases(BLOBS, "blobs") {
        let core = MemoryBlocks::default();
        let blobs = Blobs::new(core.clone());
        let block_size = usize::try_from(number(&case["blockSize"])).unwrap();
        for put in list(&case["puts"]) {
            let data = stream(put);
            assert_eq!(hex::encode(crypto::hash(&[&data])), text(&put["dataHash"]));
            let mut writer = BlobWriter::new(&core, block_size);
            for piece in data.chunks(7777) {
                block_on(writer.write(piece)).unwrap();
            }
            let written = block_on(writer.finish()).unwrap();
            assert_eq!(written, pointer(&put["id"]));
            let all = block_on(async { blobs.read(&written).await?.to_vec(1 << 20).await }).unwrap();
            assert!(all == data);
            for partial in list(&put["partial"]) {
                let start = number(&partial["start"]);
                let end = partial["length"].as_u64().map(|length| start + length);
                let end = end.unwrap_or_else(|| number(&partial["end"]) + 1);
                let part =
                    block_on(async { blobs.read_part(&written, start..end).await?.to_vec(1 << 20).await });
                assert_eq!(hex::encode(part.unwrap()), text(&partial["data"]));
            }
        }
        let blocks = core.to_vec();
        assert_eq!(blocks.len(), list(&case["blocks"]).len());
        for (ours, expected) in blocks.iter().zip(list(&case["blocks"])) {
            assert_block(ours, expected);
        }
    }
}

#[test]
fn block_maps_are_read_and_written_as_in_js() {
    let entries = |value: &Value| -> Vec<MapEntry> {
        let entry = |entry: &Value| MapEntry {
            index: number(&entry["index"]),
            byte_length: number(&entry["byteLength"]),
        };
        list(value).iter().map(entry).collect()
    };
    for case in cases(BLOBS, "blockmap-encoding") {
        if case["hex"].is_null() {
            continue;
        }
        let (block, expected) = (bytes(&case["hex"]), entries(&case["blocks"]));
        let mut map = Vec::new();
        decode_map(&block, &mut map).unwrap();
        assert_eq!(map, expected);
        assert_eq!(encode_map(&map), block);
    }
    for case in cases(BLOBS, "blockmap") {
        let blobs = Blobs::new(MemoryBlocks::new(list(&case["blocks"]).iter().map(bytes)));
        for blob in list(&case["blobs"]) {
            let (pointer, data) = (pointer(&blob["id"]), bytes(&blob["data"]));
            assert_eq!(block_on(blobs.map(&pointer)).unwrap(), entries(&blob["blocks"]));
            assert_eq!(
                block_on(blobs.byte_length(&pointer)).unwrap(),
                number(&blob["byteLength"])
            );
            for start in 0..=data.len() {
                for end in start..=data.len() {
                    let part = blobs.read_part(&pointer, start as u64..end as u64);
                    let part = block_on(async { part.await?.to_vec(1000).await }).unwrap();
                    assert_eq!(part, &data[start..end]);
                }
            }
            let json = serde_json::to_string(&pointer).unwrap();
            assert_eq!(serde_json::from_str::<Value>(&json).unwrap(), blob["id"]);
        }
    }
}

type MemoryDrive = Drive<MemoryBlocks, MemoryBlocks>;

async fn replay(case: &Value, writer: &mut DriveWriter<MemoryBlocks, MemoryBlocks>) {
    for op in list(&case["ops"]) {
        let name = op["name"].as_str().unwrap_or_default();
        match text(&op["op"]) {
            "put" => {
                let metadata = &op["metadata"];
                let options = FileOptions {
                    executable: op["executable"].as_bool().unwrap_or_default(),
                    metadata: (!metadata.is_null())
                        .then(|| serde_json::value::to_raw_value(metadata).unwrap()),
                };
                writer.put(name, &stream(op), options).await.map(drop).unwrap();
            }
            "symlink" => writer
                .symlink(name, text(&op["linkname"]))
                .await
                .map(drop)
                .unwrap(),
            "del" => assert!(writer.del(name).await.unwrap().is_some()),
            "batch" => {
                let mut batch = writer.batch();
                for put in list(&op["puts"]) {
                    batch
                        .put(text(&put["name"]), &stream(put), FileOptions::default())
                        .await
                        .unwrap();
                }
                batch.flush().await.unwrap();
            }
            other => panic!("unknown op {other}"),
        }
        assert_eq!(writer.version(), number(&op["version"]), "{op}");
    }
}

fn encrypted(core: &MemoryBlocks, core_key: &Key, encryption_key: Option<&Key>) -> Vec<Bytes> {
    let Some(encryption_key) = encryption_key else {
        return core.to_vec();
    };
    let cipher = BlockCipher::new(core_key, encryption_key, false);
    let blocks = core.to_vec();
    blocks
        .iter()
        .enumerate()
        .map(|(index, block)| cipher.encrypt(index as u64, 0, block).into())
        .collect()
}

#[test]
fn whole_drives_are_written_and_read_as_in_js() {
    let mut drives = cases(DRIVES, "drive");
    drives.extend(cases(DRIVES, "drive-encrypted"));
    for case in drives {
        let (db, blobs) = (MemoryBlocks::default(), MemoryBlocks::default());
        let mut writer = DriveWriter::new(db.clone(), blobs.clone());
        block_on(replay(&case, &mut writer));

        let encryption_key = (!case["encryptionKey"].is_null()).then(|| key(&case["encryptionKey"]));
        let db_key = key(&case["key"]);
        let manifest = manifest(&case["dbManifest"]);
        assert_eq!(manifest.key(), db_key);
        let bee = Bee::new(db.clone());
        let header = block_on(bee.header()).unwrap();
        assert!(content::is_drive(&header));
        let content = content::content(&header, &db_key, &manifest).unwrap();
        assert_eq!(content.key, key(&case["contentKey"]));

        let stored = encrypted(&db, &db_key, encryption_key.as_ref());
        assert_eq!(stored.len(), list(&case["dbBlocks"]).len());
        for (ours, expected) in stored.iter().zip(list(&case["dbBlocks"])) {
            assert_block(ours, expected);
        }
        let stored = encrypted(&blobs, &content.key, encryption_key.as_ref());
        assert_eq!(stored.len() as u64, number(&case["blobsLength"]));
        for (ours, expected) in stored.iter().zip(list(&case["blobBlocks"])) {
            assert_block(ours, expected);
        }
        check_reads(&case, &Drive::new(&bee, blobs));
    }
}

fn paths(drive: &MemoryDrive, folder: &str) -> Vec<String> {
    let mut list = drive.files.list(folder).unwrap();
    let mut paths = Vec::new();
    while let Some(file) = block_on(list.next()).unwrap() {
        paths.push(file.path);
    }
    paths
}

fn strings(value: &Value) -> Vec<String> {
    list(value).iter().map(|value| text(value).to_owned()).collect()
}

fn check_reads(case: &Value, drive: &MemoryDrive) {
    assert_eq!(drive.files.version(), number(&case["version"]));
    for expected in list(&case["entries"]) {
        let file = block_on(drive.files.entry(text(&expected["key"])))
            .unwrap()
            .unwrap();
        assert_eq!(file.seq, number(&expected["seq"]));
        let json: Value = serde_json::from_slice(&file.entry.encode().unwrap()).unwrap();
        assert_eq!(json, expected["value"]);
    }
    for file in list(&case["files"]) {
        let data = block_on(drive.get(text(&file["key"]), 1 << 20)).unwrap().unwrap();
        assert_eq!(data.len() as u64, number(&file["length"]));
        assert_eq!(hex::encode(crypto::hash(&[&data])), text(&file["hash"]));
    }
    for listing in list(&case["lists"]) {
        let folder = text(&listing["folder"]);
        assert_eq!(paths(drive, folder), strings(&listing["list"]));
        let names = block_on(drive.files.folder(folder, 100)).unwrap();
        assert!(!names.truncated);
        assert_eq!(
            names.items.into_keys().collect::<Vec<_>>(),
            strings(&listing["readdir"])
        );
        assert_eq!(
            block_on(drive.files.is_folder(folder)).unwrap(),
            !list(&listing["list"]).is_empty()
        );
    }
    for follow in list(&case["follow"]) {
        let target = block_on(drive.files.follow(text(&follow["name"])))
            .unwrap()
            .map(|file| file.path);
        assert_eq!(target.as_deref(), follow["target"].as_str(), "{follow}");
    }
    for checkout in list(&case["checkouts"]) {
        let old = drive.checkout(number(&checkout["version"]));
        assert_eq!(paths(&old, "/"), strings(&checkout["keys"]));
        let hello = block_on(old.get("/hello.txt", 1000)).unwrap().unwrap();
        assert_eq!(hex::encode(hello), text(&checkout["hello"]));
    }
    let mut diff = drive.files.diff(5, "/").unwrap();
    for expected in list(&case["diffFrom5"]) {
        let change = block_on(diff.next()).unwrap().unwrap();
        let seq = |side: &Value| side["seq"].as_u64();
        assert_eq!(
            change.left.map(|(at, _)| at),
            seq(&expected["left"]),
            "{expected}"
        );
        assert_eq!(
            change.right.map(|(at, _)| at),
            seq(&expected["right"]),
            "{expected}"
        );
    }
    assert!(block_on(diff.next()).unwrap().is_none());
    assert!(block_on(drive.get("/dir", 10)).unwrap().is_none());
    let root = block_on(drive.files.entry("/")).unwrap_err();
    assert!(matches!(root, DriveError::Path(_)) && root.kind() == ErrorKind::Invalid);
    assert_eq!(drive.blobs.core().length(), number(&case["blobsLength"]));
}
