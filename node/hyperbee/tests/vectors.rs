//! The shared vectors: what the JS package wrote and read must be what we write and read.

#![allow(clippy::unwrap_used, clippy::panic, clippy::needless_pass_by_value)]

mod scripts;

use bytes::Bytes;
use cumulet_hyperbee::extension::Message;
use cumulet_hyperbee::message::{ChildPointer, Header, Level, Node};
use cumulet_hyperbee::{Bee, Change, Entry, MemoryBlocks, Operation, Range};
use futures::executor::block_on;
use scripts::{assert_writes, bytes, list, metadata, numbers, optional_bytes};
use serde_json::Value;

fn cases() -> Vec<Value> {
    let file: Value = serde_json::from_str(include_str!("../../../vectors/data/hyperbee.json")).unwrap();
    file["cases"].as_array().unwrap().clone()
}

fn scripts() -> Vec<Value> {
    let scripts: Vec<Value> = cases()
        .into_iter()
        .filter(|case| case["ops"].is_array())
        .collect();
    assert!(scripts.len() >= 18);
    scripts
}

fn entry(value: &Value) -> Entry {
    Entry {
        seq: value["seq"].as_u64().unwrap(),
        key: bytes(&value["key"]),
        value: optional_bytes(&value["value"]),
    }
}

fn blocks(case: &Value) -> MemoryBlocks {
    MemoryBlocks::new(list(&case["blocks"]).iter().map(bytes))
}

#[test]
fn every_script_writes_the_same_blocks_as_the_js_package() {
    for case in scripts() {
        assert_writes(&case);
    }
}

#[test]
fn every_block_decodes_to_its_fields_and_encodes_back() {
    for case in scripts() {
        for (seq, (block, decoded)) in list(&case["blocks"])
            .iter()
            .zip(list(&case["decoded"]))
            .enumerate()
        {
            let block = bytes(block);
            if seq == 0 {
                let header = Header::decode(&block).unwrap();
                assert_eq!(header, Header::new(metadata(&case)));
                assert_eq!(header.encode(), block);
                continue;
            }
            let node = Node::decode(&block).unwrap();
            let levels: Vec<Level> = list(&decoded["levels"])
                .iter()
                .map(|level| Level {
                    keys: numbers(&level["keys"]),
                    children: numbers(&level["children"])
                        .chunks(2)
                        .map(|pair| ChildPointer {
                            seq: pair[0],
                            offset: pair[1],
                        })
                        .collect(),
                })
                .collect();
            assert_eq!(node.levels, levels, "{} block {seq}", case["tag"]);
            assert_eq!(
                (&node.key, &node.value),
                (&bytes(&decoded["key"]), &optional_bytes(&decoded["value"]))
            );
            assert_eq!(node.encode(), block);
        }
    }
}

fn range(value: &Value) -> Range {
    let mut range = Range::all();
    for (name, key) in value.as_object().unwrap() {
        let key = bytes(key);
        range = match name.as_str() {
            "gt" => range.gt(key),
            "gte" => range.gte(key),
            "lt" => range.lt(key),
            "lte" => range.lte(key),
            other => panic!("unknown bound {other}"),
        };
    }
    range
}

fn keys(bee: &Bee<MemoryBlocks>, range: Range) -> Vec<Bytes> {
    let entries = block_on(bee.range(range).collect(usize::MAX)).unwrap();
    entries.into_iter().map(|entry| entry.key).collect()
}

fn key_list(value: &Value) -> Vec<Bytes> {
    list(value).iter().map(bytes).collect()
}

#[test]
fn every_read_gives_what_the_js_package_reads() {
    for case in scripts() {
        let tag = &case["tag"];
        let bee = Bee::new(blocks(&case));
        assert_eq!(bee.version(), case["version"].as_u64().unwrap());
        let expected: Vec<Entry> = list(&case["entries"]).iter().map(entry).collect();
        assert_eq!(
            block_on(bee.range(Range::all()).collect(usize::MAX)).unwrap(),
            expected,
            "{tag}"
        );
        assert_eq!(
            keys(&bee, Range::all().reverse().limit(5)),
            key_list(&case["reverse5"]),
            "{tag}"
        );
        for expected in list(&case["ranges"]) {
            let range = range(&expected["range"]);
            assert_eq!(
                keys(&bee, range.clone()),
                key_list(&expected["keys"]),
                "{tag} {range:?}"
            );
            assert_eq!(
                keys(&bee, range.clone().reverse()),
                key_list(&expected["reverse"]),
                "{tag} {range:?}"
            );
            assert_eq!(
                keys(&bee, range.clone().limit(3)),
                key_list(&expected["limit3"]),
                "{tag} {range:?}"
            );
        }
        for get in list(&case["gets"]) {
            let expected = (!get["entry"].is_null()).then(|| entry(&get["entry"]));
            assert_eq!(block_on(bee.get(bytes(&get["key"]))).unwrap(), expected, "{tag}");
        }
        for wanted in &expected {
            assert_eq!(
                block_on(bee.get(&wanted.key)).unwrap().as_ref(),
                Some(wanted),
                "{tag}"
            );
            assert_eq!(&block_on(bee.get_by_seq(wanted.seq)).unwrap(), wanted, "{tag}");
        }
    }
}

#[test]
fn every_history_tells_puts_from_deletes() {
    for case in scripts() {
        let bee = Bee::new(blocks(&case));
        let (mut forward, mut backward) = (bee.history(1), bee.history_reverse());
        let expected = list(&case["history"]);
        for (wanted, wanted_back) in expected.iter().zip(expected.iter().rev()) {
            for (history, wanted) in [(&mut forward, wanted), (&mut backward, wanted_back)] {
                let got = block_on(history.next()).unwrap().unwrap();
                let operation = if wanted["type"] == "del" {
                    Operation::Delete
                } else {
                    Operation::Put
                };
                let entry = entry(wanted);
                assert_eq!(
                    (got.operation, got.seq, got.key, got.value),
                    (operation, entry.seq, entry.key, entry.value),
                    "{}",
                    case["tag"]
                );
            }
        }
        assert_eq!(block_on(forward.next()).unwrap(), None);
        assert_eq!(block_on(backward.next()).unwrap(), None);
    }
}

#[test]
fn every_checkout_shows_its_version_and_its_difference_to_now() {
    let mut seen = 0;
    for case in scripts() {
        let bee = Bee::new(blocks(&case));
        for checkout in list(&case["checkouts"]) {
            let version = checkout["version"].as_u64().unwrap();
            let expected: Vec<Entry> = list(&checkout["entries"])
                .iter()
                .map(|entry| Entry {
                    key: bytes(&entry[0]),
                    value: optional_bytes(&entry[1]),
                    seq: entry[2].as_u64().unwrap(),
                })
                .collect();
            let old = bee.checkout(version);
            assert_eq!(
                block_on(old.range(Range::all()).collect(usize::MAX)).unwrap(),
                expected
            );
            let side = |value: &Value| (!value.is_null()).then(|| entry(value));
            let expected: Vec<Change> = list(&checkout["diffToNow"])
                .iter()
                .map(|change| Change {
                    left: side(&change["left"]),
                    right: side(&change["right"]),
                })
                .collect();
            let changes = block_on(bee.diff(version, Range::all()).collect(usize::MAX)).unwrap();
            assert_eq!(changes, expected, "{} at {version}", case["tag"]);
            seen += 1;
        }
    }
    assert!(seen > 30, "{seen}");
}

#[test]
fn extension_messages_survive_both_ways() {
    let mut seen = 0;
    for case in cases().iter().filter(|case| case["kind"] == "extension") {
        let hex = bytes(&case["hex"]);
        let message = Message::decode(&hex).unwrap().unwrap();
        assert_eq!(message.encode(), hex);
        let kind = match &message {
            Message::Cache(cache) => {
                assert_eq!(cache.blocks, numbers(&case["value"]["cache"]["blocks"]));
                "cache"
            }
            Message::Get { version, .. } => {
                assert_eq!(Some(*version), case["value"]["get"]["version"].as_u64());
                "get"
            }
            Message::Iterator(iterator) => {
                assert_eq!(
                    Some(iterator.reverse),
                    case["value"]["iterator"]["reverse"].as_bool()
                );
                assert_eq!(iterator.lt, optional_bytes(&case["value"]["iterator"]["lt"]));
                "iterator"
            }
        };
        assert!(case["value"][kind].is_object());
        seen += 1;
    }
    assert_eq!(seen, 20);
}
