//! Many drives as one.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use cumulet_hyperbee::MemoryBlocks;
use cumulet_hyperbee::union::{Found, OnFailure, Rule};
use cumulet_hyperdrive::union::{UnionDrive, UnionDriveError, UnionOptions};
use cumulet_hyperdrive::{Drive, DriveWriter, FileEntry, FileOptions};
use futures::executor::block_on;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

type MemoryDrive = Drive<MemoryBlocks>;

fn drive(files: &[(&str, &str)]) -> MemoryDrive {
    let mut writer = DriveWriter::new(MemoryBlocks::default(), MemoryBlocks::default());
    for (name, data) in files {
        if let Some(target) = data.strip_prefix("-> ") {
            block_on(writer.symlink(name, target)).unwrap();
        } else {
            let metadata = Some(serde_json::value::to_raw_value(data).unwrap());
            let options = FileOptions {
                executable: false,
                metadata,
            };
            block_on(writer.put(name, data.as_bytes(), options)).unwrap();
        }
    }
    writer.drive()
}

fn union(drives: Vec<MemoryDrive>, options: UnionOptions) -> UnionDrive<MemoryBlocks> {
    let named = drives.into_iter().enumerate();
    UnionDrive::new(
        named.map(|(number, drive)| (format!("drive {number}"), drive)),
        options,
    )
}

fn list(union: &UnionDrive<MemoryBlocks>, folder: &str) -> Vec<(String, usize)> {
    let mut list = union.list(folder).unwrap();
    let mut files = Vec::new();
    while let Some(found) = block_on(list.next()).unwrap() {
        files.push((found.file.path, found.source));
    }
    files
}

#[test]
fn files_links_and_folders_of_several_drives_are_one_tree() {
    let union = union(
        vec![
            drive(&[("/a/one", "1"), ("/shared", "from 0")]),
            drive(&[
                ("/a/two", "22"),
                ("/link", "-> /a/one"),
                ("/shared", "from 1"),
                ("/a", "file"),
            ]),
            drive(&[("/a/b/c", "3")]),
        ],
        UnionOptions::default(),
    );
    assert_eq!(
        list(&union, "/a"),
        [
            ("/a/b/c".to_owned(), 2),
            ("/a/one".to_owned(), 0),
            ("/a/two".to_owned(), 1)
        ]
    );
    assert_eq!(block_on(union.get("/shared", 10)).unwrap().unwrap(), b"from 0");
    // A link of one drive leads into another.
    assert_eq!(block_on(union.get("/link", 10)).unwrap().unwrap(), b"1");
    assert!(block_on(union.get("/missing", 10)).unwrap().is_none());
    let names = block_on(union.folder("/", 100)).unwrap();
    let expected = [("a", true), ("link", false), ("shared", false)];
    assert_eq!(
        names,
        expected.map(|(name, folder)| (name.to_owned(), folder)).into()
    );
    assert_eq!(block_on(union.folder("/a", 2)).unwrap().len(), 2);
    let two = block_on(union.entry("/a/two")).unwrap().file.unwrap();
    let part = block_on(union.read(&two, Some(1..2))).unwrap();
    assert_eq!(block_on(part.to_vec(9)).unwrap(), b"2");
}

#[test]
fn the_newest_by_the_callers_rule_wins_and_a_tombstone_hides() {
    let stamp = |found: &Found| -> u64 {
        let entry = FileEntry::decode(found.entry.value.as_deref()).unwrap();
        let text: String = serde_json::from_str(entry.metadata.unwrap().get()).unwrap();
        text.parse().unwrap()
    };
    let newer = move |a: &Found, b: &Found| -> Ordering { stamp(a).cmp(&stamp(b)) };
    let drives = || {
        vec![
            drive(&[("/x", "5"), ("/y", "1")]),
            drive(&[("/x", "7"), ("/y", "0")]),
        ]
    };
    let options = UnionOptions {
        rule: Rule::Newest(Arc::new(newer)),
        ..UnionOptions::default()
    };
    assert_eq!(
        list(&union(drives(), options.clone()), "/"),
        [("/x".to_owned(), 1), ("/y".to_owned(), 0)]
    );
    let options = UnionOptions {
        hiding: Some(Arc::new(|entry| {
            let entry = FileEntry::decode(entry.value.as_deref()).unwrap();
            entry.metadata.is_some_and(|metadata| metadata.get() == "\"7\"")
        })),
        ..options
    };
    assert_eq!(list(&union(drives(), options), "/"), [("/y".to_owned(), 0)]);
    let all = UnionOptions {
        rule: Rule::All,
        ..UnionOptions::default()
    };
    let found = block_on(union(drives(), all).entry("/x")).unwrap().file.unwrap();
    assert_eq!(found.others.len(), 1);
    assert_eq!(found.others[0].0, 1);
}

#[test]
fn a_drive_that_has_not_arrived_is_named_or_skipped_and_listed() {
    let nothing = || {
        Drive::new(
            &cumulet_hyperbee::Bee::new(MemoryBlocks::default()),
            MemoryBlocks::default(),
        )
    };
    let drives = || vec![nothing(), drive(&[("/x", "1")])];
    let strict = union(drives(), UnionOptions::default());
    let error = block_on(strict.entry("/x")).unwrap_err();
    assert!(matches!(error, UnionDriveError::Names(_)) && error.to_string().contains("drive 0"));
    assert!(block_on(strict.list("/").unwrap().next()).is_err());
    let lenient = UnionOptions {
        on_failure: OnFailure::Skip,
        ..UnionOptions::default()
    };
    let lenient = union(drives(), lenient);
    let answer = block_on(lenient.entry("/x")).unwrap();
    assert_eq!((answer.file.unwrap().source, answer.skipped.len()), (1, 1));
    let empty = UnionOptions {
        may_be_empty: true,
        ..UnionOptions::default()
    };
    assert_eq!(list(&union(drives(), empty), "/").len(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn a_union_of_drives_lists_the_merge_of_their_files(
        drives in vec(btree_map("[a-c](/[a-c.]{1,2}){0,2}", Just(()), 0..12), 0..5),
    ) {
        let mut merged = BTreeMap::new();
        let mut made = Vec::new();
        for (number, files) in drives.iter().enumerate() {
            let mut writer = DriveWriter::new(MemoryBlocks::default(), MemoryBlocks::default());
            for name in files.keys() {
                let data = number.to_string();
                // Some of the names lead above the root or to the same one.
                if block_on(writer.put(name, data.as_bytes(), FileOptions::default())).is_ok() {
                    merged.entry(cumulet_hyperdrive::path::normalize(name).unwrap()).or_insert(number);
                }
            }
            made.push(writer.drive());
        }
        let options = UnionOptions { may_be_empty: true, ..UnionOptions::default() };
        let union = union(made, options);
        prop_assert_eq!(list(&union, "/"), merged.clone().into_iter().collect::<Vec<_>>());
        for (path, source) in merged {
            prop_assert_eq!(block_on(union.get(&path, 9)).unwrap().unwrap(), source.to_string().into_bytes());
        }
    }
}
