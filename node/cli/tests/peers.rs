//! Two users' command lines exchange archives over TCP on loopback.

#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)] // tests

mod support;

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use serde_json::json;
use support::{User, interrupt, noise};

fn key_of(user: &User, kind: &str, name: &str) -> String {
    user.json(&[kind, "info", name])["key"]
        .as_str()
        .unwrap()
        .to_owned()
}

#[test]
fn cores_bees_and_drives_are_read_from_a_serving_peer_and_held_afterwards() {
    let (alice, bob) = (User::new(), User::new());
    let big = noise(1, 1_000_000);
    alice.ok(&["core", "create", "notes"]);
    alice.ok_fed(&["core", "append", "notes"], &big);
    alice.ok(&["bee", "put", "settings", "colour", "blue"]);
    alice.ok(&["bee", "put", "settings", "shape", "round"]);
    alice.ok_fed(&["drive", "put", "files", "/a/big.bin"], &big);
    alice.ok_fed(&["drive", "put", "files", "/b.txt"], b"small");
    let [notes, settings, files] = [("core", "notes"), ("bee", "settings"), ("drive", "files")]
        .map(|(kind, name)| key_of(&alice, kind, name));

    let mut server = alice.serve(&["core", "serve", "--listen", "127.0.0.1:0", "--no-announce"]);
    let peer = server.listen();
    assert_eq!(server.said["announced"], json!([]));
    let part = bob.bytes(&["core", "cat", &notes, "--range", "3..5", "--peer", &peer]);
    assert_eq!(part, big[3 * 65_536..5 * 65_536]);
    assert_eq!(bob.json(&["core", "info", &notes, "--offline"])["heldBlocks"], 2);
    assert_eq!(bob.bytes(&["core", "cat", &notes, "--peer", &peer]), big);
    assert_eq!(
        bob.ok(&["bee", "get", &settings, "shape", "--peer", &peer]),
        "round"
    );
    assert_eq!(bob.lines(&["bee", "ls", &settings, "--peer", &peer]).len(), 2);
    let link = format!("hyper://{files}/a/big.bin");
    assert_eq!(bob.bytes(&["drive", "cat", &link, "--peer", &peer]), big);
    assert_eq!(
        bob.ok(&[
            "drive", "cat", &files, "/b.txt", "--peer", &peer, "--range", "1..3"
        ]),
        "ma"
    );
    bob.ok(&["drive", "get", &link, "--peer", &peer]);
    assert_eq!(std::fs::read(bob.path("big.bin")).unwrap(), big);
    assert_eq!(server.interrupt(), Some(130));

    // Nobody is there any more: what was read is.
    assert_eq!(bob.bytes(&["core", "cat", &notes, "--offline"]), big);
    assert_eq!(bob.ok(&["bee", "get", &settings, "shape", "--offline"]), "round");
    assert_eq!(bob.ok(&["drive", "cat", &files, "b.txt", "--offline"]), "small");
    assert!(bob.ok(&["core", "verify"]).contains("sound"));
    // It can be read, not written.
    let said = bob.fails(&["core", "append", &notes], 1);
    assert!(said.contains("read only"), "{said}");
}

#[test]
fn a_reader_sees_what_was_appended_since_when_it_asks_again() {
    let (alice, bob) = (User::new(), User::new());
    alice.ok(&["core", "create", "a"]);
    alice.ok_fed(&["core", "append", "a"], b"one");
    let key = key_of(&alice, "core", "a");
    let read = |text: &str| {
        let mut server = alice.serve(&["core", "serve", "--listen", "127.0.0.1:0", "--no-announce"]);
        let peer = server.listen();
        assert_eq!(bob.ok(&["core", "cat", &key, "--peer", &peer]), text);
        assert_eq!(server.interrupt(), Some(130));
    };
    read("one");
    alice.ok_fed(&["core", "append", "a"], b" two");
    assert_eq!(bob.ok(&["core", "cat", &key, "--offline"]), "one");
    read("one two");
    alice.ok(&["core", "truncate", "a", "1"]);
    alice.ok_fed(&["core", "append", "a"], b" three");
    read("one three");
}

#[test]
fn an_encrypted_drive_is_served_unread_and_read_with_the_key() {
    let (alice, bob) = (User::new(), User::new());
    alice.ok(&["keygen", "key"]);
    std::fs::copy(alice.path("key"), bob.path("key")).unwrap();
    let with_key = ["--encryption-key-file", "key"];
    let put = ["drive", "put", "d", "/x", "-"];
    alice.ok_fed(&[&put[..], &with_key].concat(), b"secret words");
    let keys: Vec<String> = alice
        .lines(&["core", "ls"])
        .iter()
        .filter(|core| core["kind"] == "drive")
        .map(|core| core["key"].as_str().unwrap().to_owned())
        .collect();
    let server = alice.serve(&["drive", "serve", "--listen", "127.0.0.1:0", "--no-announce"]);
    let peer = server.listen();
    let cat = ["drive", "cat", &keys[0], "/x", "--peer", &peer];
    assert_eq!(bob.ok(&[&cat[..], &with_key].concat()), "secret words");
    let said = bob.fails(&cat, 1);
    assert!(
        said.contains("not a drive") && said.contains("--encryption-key-file"),
        "{said}"
    );
}

#[test]
fn a_store_that_is_in_use_is_left_alone_with_a_hint() {
    let user = User::new();
    user.ok(&["core", "create", "a"]);
    let server = user.serve(&["core", "serve", "--listen", "127.0.0.1:0", "--no-announce"]);
    let said = user.fails(&["core", "ls"], 6);
    assert!(said.contains("in use") && said.contains("hint: "), "{said}");
    drop(server);
    user.ok(&["core", "ls"]);
    // A node holds the lock of its data directory as this test does.
    let lock = std::fs::File::create(user.store().join("lock")).unwrap();
    lock.try_lock().unwrap();
    user.fails(&["core", "append", "a"], 6);
    drop(lock);
    // And that of the cores, if only they are opened.
    let lock = std::fs::File::create(user.store().join("cores/lock")).unwrap();
    lock.try_lock().unwrap();
    user.fails(&["core", "ls"], 6);
}

#[test]
fn a_peer_that_is_not_there_or_has_not_got_it_is_said_in_time() {
    let (alice, bob) = (User::new(), User::new());
    let key = "ab".repeat(32);
    // A port that nobody listens on: it was free a moment ago.
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let said = bob.fails(&["core", "cat", &key, "--peer", &free.to_string()], 5);
    assert!(said.contains("failed to connect"), "{said}");
    alice.ok(&["core", "create", "a"]);
    let server = alice.serve(&["core", "serve", "--listen", "127.0.0.1:0", "--no-announce"]);
    let said = bob.fails(
        &["core", "cat", &key, "--peer", &server.listen(), "--timeout", "1"],
        5,
    );
    assert!(said.contains("no peer that has"), "{said}");
    assert_eq!(bob.lines(&["core", "ls"]).len(), 0);
}

#[test]
fn a_watch_tells_of_changes_that_come_by_way_of_another_peer() {
    let [alice, bob, carol] = [User::new(), User::new(), User::new()];
    alice.ok(&["bee", "put", "b", "old", "1"]);
    let key = key_of(&alice, "bee", "b");
    let server = alice.serve(&["bee", "serve", "--listen", "127.0.0.1:0", "--no-announce"]);
    bob.ok(&["bee", "ls", &key, "--peer", &server.listen()]);
    drop(server);
    alice.ok(&["bee", "put", "b", "new", "2"]);

    // Carol watches bob, who has the old version and follows.
    let follow = [
        "bee",
        "serve",
        &key,
        "--follow",
        "--listen",
        "127.0.0.1:0",
        "--no-announce",
    ];
    let mut bob = bob.serve(&follow);
    let peer = bob.listen();
    let mut watching = carol
        .command(&["bee", "watch", &key, "--json", "--peer", &peer])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut stderr = BufReader::new(watching.stderr.take().unwrap());
    stderr.read_line(&mut line).unwrap();
    assert!(line.contains("at version 2"), "{line}");

    // Then alice comes to bob with the new one.
    let alice = alice.serve(&[
        "bee",
        "serve",
        "--peer",
        &peer,
        "--listen",
        "127.0.0.1:0",
        "--no-announce",
    ]);
    let mut stdout = BufReader::new(watching.stdout.take().unwrap());
    line.clear();
    stdout.read_line(&mut line).unwrap();
    let change: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(
        (&change["new"]["key"], &change["old"]),
        (&json!("new"), &json!(null))
    );
    assert_eq!(interrupt(&mut watching), Some(130));
    drop(alice);
    assert_eq!(bob.interrupt(), Some(130));
}
