//! `cumulet bee` and `cumulet drive` on a store of its own.

#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)] // tests

mod support;

use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};
use support::{User, noise};

fn field(lines: &[Value], name: &str) -> Vec<String> {
    lines
        .iter()
        .map(|line| line[name].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn a_bee_gives_back_what_was_put_in_the_order_and_range_asked_for() {
    let user = User::new();
    for key in ["b", "a/2", "a/1", "c"] {
        user.ok(&["bee", "put", "b", key, &format!("value of {key}")]);
    }
    user.ok_fed(&["bee", "put", "b", "raw"], &[0, 255, 7]);
    assert_eq!(user.ok(&["bee", "get", "b", "a/1"]), "value of a/1");
    assert_eq!(user.bytes(&["bee", "get", "b", "raw"]), [0, 255, 7]);
    let raw = user.json(&["bee", "get", "b", "raw"]);
    assert_eq!(
        raw,
        json!({"seq": 5, "key": "raw", "keyEncoding": "utf-8", "value": "AP8H", "valueEncoding": "base64"})
    );
    let keys = |args: &[&str]| {
        let args: Vec<&str> = ["bee", "ls", "b"].iter().chain(args).copied().collect();
        field(&user.lines(&args), "key")
    };
    assert_eq!(keys(&[]), ["a/1", "a/2", "b", "c", "raw"]);
    assert_eq!(keys(&["--prefix", "a/"]), ["a/1", "a/2"]);
    assert_eq!(
        keys(&["--gt", "a/1", "--lte", "c", "--reverse"]),
        ["c", "b", "a/2"]
    );
    assert_eq!(keys(&["--gte", "b", "--limit", "1"]), ["b"]);
    assert_eq!(keys(&["--version", "3"]), ["a/2", "b"]);
    user.fails(&["bee", "ls", "b", "--version", "99"], 3);
    user.fails(&["bee", "get", "b", "nothing"], 3);
    user.fails(&["bee", "del", "b", "nothing"], 3);
    user.fails(&["bee", "put", "b", "--prefix", "x"], 2);
}

#[test]
fn differences_and_history_of_a_bee_tell_every_change() {
    let user = User::new();
    user.ok(&["bee", "put", "b", "kept", "1"]);
    user.ok(&["bee", "put", "b", "gone", "2"]);
    user.ok(&["bee", "put", "b", "kept", "3"]);
    user.ok(&["bee", "del", "b", "gone"]);
    user.ok(&["bee", "put", "b", "new", "4"]);
    assert_eq!(
        user.ok(&["bee", "diff", "b", "3"]),
        "- gone\t2\n~ kept\t3\n+ new\t4\n"
    );
    let changes = user.lines(&["bee", "diff", "b", "3", "4"]);
    assert_eq!(changes.len(), 1);
    assert_eq!(
        (&changes[0]["old"]["value"], &changes[0]["new"]["value"]),
        (&json!("1"), &json!("3"))
    );
    let history = user.lines(&["bee", "history", "b", "--reverse", "--limit", "2"]);
    assert_eq!(field(&history, "operation"), ["put", "del"]);
    assert_eq!(field(&history, "key"), ["new", "gone"]);
    assert_eq!(user.lines(&["bee", "history", "b"]).len(), 5);
}

#[test]
fn a_bee_a_drive_and_a_core_are_not_taken_for_one_another() {
    let user = User::new();
    user.ok(&["core", "create", "c"]);
    user.ok_fed(&["core", "append", "c"], b"no bee at all");
    user.ok(&["bee", "put", "b", "k", "v"]);
    user.ok_fed(&["drive", "put", "d", "/x"], b"x");
    assert!(user.fails(&["bee", "ls", "c"], 1).contains("not a bee"));
    assert!(
        user.fails(&["bee", "put", "c", "k", "v"], 1)
            .contains("not a bee")
    );
    user.fails(&["bee", "put", "d", "k", "v"], 1);
    user.fails(&["drive", "put", "b", "/x"], 1);
    user.fails(&["drive", "ls", "b"], 1);
    user.fails(&["drive", "del", "nothing", "/x"], 3);
}

#[test]
fn files_of_a_drive_come_back_whole_in_part_and_as_they_were() {
    let user = User::new();
    let big = noise(1, 700_000);
    let path = user.file("big.bin", &big);
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    let put = user.json(&["drive", "put", "d", "/in/a folder/big.bin", &path]);
    assert_eq!(put["bytes"], 700_000);
    user.ok_fed(
        &["drive", "put", "d", "now.txt", "--metadata", r#"{"n": 1}"#],
        b"first",
    );
    let version = user.json(&["drive", "info", "d"])["version"].to_string();
    user.ok_fed(&["drive", "put", "d", "now.txt"], b"second");
    user.ok(&["drive", "symlink", "d", "/newest", "/now.txt"]);

    assert_eq!(user.bytes(&["drive", "cat", "d", "/in/a folder/big.bin"]), big);
    assert_eq!(
        user.bytes(&[
            "drive",
            "cat",
            "d",
            "/in/a folder/big.bin",
            "--range",
            "65530..200001"
        ]),
        big[65_530..200_001]
    );
    assert_eq!(user.ok(&["drive", "cat", "d", "newest"]), "second");
    assert_eq!(
        user.ok(&["drive", "cat", "d", "now.txt", "--version", &version]),
        "first"
    );
    let key = put["key"].as_str().unwrap();
    let link = format!("dat://{key}+{version}/now.txt");
    assert_eq!(user.ok(&["drive", "cat", &link]), "first");
    user.ok(&["drive", "get", "d", "/in/a folder/big.bin", "-o", "copy"]);
    assert_eq!(std::fs::read(user.path("copy")).unwrap(), big);
    let mode = std::fs::metadata(user.path("copy")).unwrap().permissions().mode();
    assert_eq!(mode & 0o100, 0o100);

    assert_eq!(
        user.ok(&["drive", "ls", "d"]),
        "/in/\n/newest -> /now.txt\n/now.txt\t6\n"
    );
    let all = user.lines(&["drive", "ls", "d", "--recursive"]);
    assert_eq!(
        field(&all, "path"),
        ["/in/a folder/big.bin", "/newest", "/now.txt"]
    );
    assert_eq!(
        (&all[0]["executable"], &all[0]["size"]),
        (&json!(true), &json!(700_000))
    );
    let old = user.lines(&["drive", "ls", "d", "-r", "--version", &version]);
    assert_eq!(old[1]["metadata"], json!({"n": 1}));
    assert_eq!(
        user.ok(&["drive", "diff", "d", &version]),
        "+ /newest\n~ /now.txt\n"
    );

    user.ok(&["drive", "del", "d", "now.txt"]);
    user.fails(&["drive", "cat", "d", "now.txt"], 3);
    user.fails(&["drive", "ls", "d", "nowhere"], 3);
    user.fails(&["drive", "del", "d", "now.txt"], 3);
    user.fails(&["drive", "put", "d", "/../x"], 1);
    user.fails(&["drive", "cat", "d"], 2);
    assert!(user.fails(&["drive", "cat", "d", "/in"], 3).contains("drive ls"));
}

#[test]
fn a_union_of_bees_shows_the_first_ones_entries_over_those_of_the_next() {
    let user = User::new();
    for (bee, key, value) in [("a", "x", "a's"), ("b", "x", "b's"), ("b", "y", "b's")] {
        user.ok(&["bee", "put", bee, key, value]);
    }
    assert_eq!(
        user.ok(&["bee", "union", "a", "b", "ls"]),
        "x\ta's\ta\ny\tb's\tb\n"
    );
    assert_eq!(user.ok(&["bee", "union", "b", "a", "get", "x"]), "b's");
    let found = user.json(&["bee", "union", "a", "b", "get", "y"]);
    assert_eq!((&found["source"], &found["value"]), (&json!("b"), &json!("b's")));
    user.fails(&["bee", "union", "a", "b", "get", "z"], 3);
    user.fails(&["bee", "union", "a"], 2);
}
