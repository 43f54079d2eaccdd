//! `verify` finds every changed byte of a stored block, and says which block and which file.

#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)] // tests

mod support;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;
use support::{User, files_below, json_lines, noise, until};

/// Runs a verify that must find damage; returns what it said.
#[track_caller]
fn damaged(user: &User, args: &[&str]) -> Value {
    let args: Vec<&str> = args.iter().copied().chain(["--json"]).collect();
    let output = user.run(&args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{stderr}");
    json_lines(&String::from_utf8(output.stdout).unwrap()).remove(0)
}

/// Where some bytes lie in the files below a directory.
fn find(directory: &Path, bytes: &[u8]) -> (PathBuf, usize) {
    let mut found = files_below(directory).into_iter().filter_map(|file| {
        let content = std::fs::read(&file).unwrap();
        let at = content.windows(bytes.len()).position(|part| part == bytes)?;
        Some((file, at))
    });
    let first = found.next().unwrap();
    assert!(found.next().is_none(), "twice");
    first
}

fn flip(file: &Path, at: usize) {
    let mut bytes = std::fs::read(file).unwrap();
    bytes[at] ^= 0x10;
    std::fs::write(file, bytes).unwrap();
}

#[test]
fn every_flipped_byte_of_a_block_in_the_log_is_found_and_named() {
    let user = User::new();
    user.ok(&["core", "create", "a"]);
    let blocks = [noise(1, 20), noise(2, 7), noise(3, 12)];
    for block in &blocks {
        user.ok_fed(&["core", "append", "a"], block);
    }
    // What a crash could have torn ends before the mark of the last sync: one more append lies behind all of them.
    user.ok_fed(&["core", "append", "a"], b"last");
    for (index, block) in blocks.iter().enumerate() {
        let (file, start) = find(&user.store(), block);
        for at in start..start + block.len() {
            flip(&file, at);
            let said = damaged(&user, &["core", "verify", "a"]);
            assert_eq!(said["damagedCount"], 1, "{said}");
            assert_eq!(said["damaged"][0]["block"], index, "{said}");
            assert_eq!(said["damaged"][0]["file"], file.display().to_string());
            flip(&file, at);
        }
    }
    assert_eq!(user.json(&["core", "verify"])["damagedCount"], 0);
}

#[test]
fn a_flipped_byte_in_a_segment_is_found_and_named_and_the_other_blocks_are_sound() {
    let user = User::new();
    user.ok(&["core", "create", "a"]);
    let big = noise(4, 24_000_000);
    // Segments are written when nothing was appended for a moment, and leave the log then: the command stays for more until
    // that is done.
    let mut append = user
        .command(&["core", "append", "a"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = append.stdin.take().unwrap();
    input.write_all(&big).unwrap();
    let is_segment = |file: &PathBuf| file.extension().is_some_and(|end| end == "seg");
    until("the log does not shrink", || {
        let files = files_below(&user.store());
        let (segments, others): (Vec<_>, Vec<_>) = files.into_iter().partition(is_segment);
        let sizes = others.iter().filter_map(|file| std::fs::metadata(file).ok());
        !segments.is_empty() && sizes.map(|metadata| metadata.len()).sum::<u64>() < 12 << 20
    });
    drop(input);
    assert!(append.wait().unwrap().success());
    let segments: Vec<PathBuf> = files_below(&user.store())
        .into_iter()
        .filter(is_segment)
        .collect();
    assert!(!segments.is_empty());
    for index in [0_usize, 5, 77] {
        let block = &big[index * 65_536..][..65_536];
        let (file, start) = find(&user.store(), &block[..64]);
        assert!(segments.contains(&file), "{}", file.display());
        for at in [start, start + 30_000, start + 65_535] {
            flip(&file, at);
            let said = damaged(&user, &["core", "verify"]);
            assert_eq!(said["damagedCount"], 1, "{said}");
            assert_eq!(said["damaged"][0]["block"], index, "{said}");
            assert_eq!(said["damaged"][0]["file"], file.display().to_string());
            flip(&file, at);
        }
    }
    assert!(user.ok(&["core", "verify"]).contains("sound"));
}

#[test]
fn a_damaged_tree_node_is_found_too() {
    let user = User::new();
    user.ok(&["core", "create", "a"]);
    for text in ["one", "two", "three", "four"] {
        user.ok_fed(&["core", "append", "a"], text.as_bytes());
    }
    let log = files_below(&user.store())
        .into_iter()
        .find(|file| file.ends_with("head.log"))
        .unwrap();
    let sound = std::fs::read(&log).unwrap();
    let last = sound.windows(4).position(|part| part == b"four").unwrap();
    // Whatever byte changes before the last block: it is found, or it was of no importance to any block.
    let mut found = 0;
    for at in (64..last - 24).step_by(5) {
        flip(&log, at);
        let output = user.run(&["core", "verify"]);
        found += usize::from(output.status.code() == Some(4));
        if output.status.success() {
            assert_eq!(
                user.bytes(&["core", "cat", "a"]),
                b"onetwothreefour",
                "byte {at} was missed"
            );
        }
        std::fs::write(&log, &sound).unwrap();
    }
    assert!(found > 50, "{found}");
}

#[test]
fn verifying_a_bee_walks_its_tree_and_names_its_damaged_block() {
    let user = User::new();
    for number in 0..30 {
        user.ok(&["bee", "put", "b", &format!("key {number}"), "some value"]);
    }
    let sound = user.json(&["bee", "verify", "b"]);
    assert_eq!(
        (&sound["entries"], &sound["damagedCount"]),
        (&30.into(), &0.into())
    );
    let (file, at) = find(&user.store(), b"key 7");
    flip(&file, at);
    let said = damaged(&user, &["bee", "verify", "b"]);
    assert_eq!(said["damaged"][0]["block"], 8, "{said}");
}

#[test]
fn verifying_a_drive_names_the_damaged_file_and_counts_what_is_not_here() {
    let user = User::new();
    let (first, second) = (noise(5, 100_000), noise(6, 200_000));
    user.ok_fed(&["drive", "put", "d", "/first"], &first);
    user.ok_fed(&["drive", "put", "d", "/second"], &second);
    let sound = user.json(&["drive", "verify", "d"]);
    assert_eq!(
        (&sound["files"], &sound["incompleteFiles"]),
        (&2.into(), &0.into())
    );
    let blobs = user.json(&["drive", "info", "d"])["blobsKey"]
        .as_str()
        .unwrap()
        .to_owned();
    let (file, at) = find(&user.store(), &second[70_000..70_064]);
    flip(&file, at);
    let said = damaged(&user, &["drive", "verify", "d"]);
    assert_eq!(said["damagedFiles"], serde_json::json!(["/second"]), "{said}");
    assert_eq!(said["blobs"]["damaged"][0]["block"], 3);
    flip(&file, at);
    user.ok(&["core", "clear", &blobs, "0"]);
    let said = user.json(&["drive", "verify", "d"]);
    assert_eq!(said["incompleteFiles"], 1);
}
