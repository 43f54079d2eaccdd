//! `cumulet core` on a store of its own.

#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)] // tests

mod support;

use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use serde_json::{Value, json};
use support::{User, files_below, interrupt, noise, until};

#[test]
fn what_is_appended_from_files_lines_and_stdin_comes_back_byte_for_byte() {
    let user = User::new();
    let made = user.json(&["core", "create", "notes"]);
    assert_eq!(made["length"], 0);
    assert_eq!(made["writable"], true);
    let big = noise(1, 3_000_000);
    let path = user.file("big.bin", &big);
    let appended = user.json(&["core", "append", "notes", &path]);
    assert_eq!((&appended["start"], &appended["length"]), (&json!(0), &json!(46)));
    assert_eq!(appended["key"], made["key"]);
    assert_eq!(user.bytes(&["core", "cat", "notes"]), big);

    user.json(&["core", "create", "log"]);
    user.ok_fed(&["core", "append", "log", "--lines"], b"one\n\nthree\nfour");
    assert_eq!(
        user.ok(&["core", "cat", "log", "--lines"]),
        "one\n\nthree\nfour\n"
    );
    assert_eq!(user.ok(&["core", "cat", "log", "--range", "2..3"]), "three");
    assert_eq!(user.ok(&["core", "get", "log", "3"]), "four");
    user.ok_fed(
        &["core", "append", "log", "-", &path, "--block-size", "1000000"],
        b"five",
    );
    let info = user.json(&["core", "info", "log"]);
    assert_eq!((&info["length"], &info["heldBlocks"]), (&json!(8), &json!(8)));
    assert_eq!(info["byteLength"], json!(16 + big.len()));
    let blocks = user.lines(&["core", "cat", "log", "--range", "0..1"]);
    assert_eq!(blocks, [json!({"index": 0, "length": 3, "data": "b25l"})]);
}

#[test]
fn a_core_is_found_by_its_name_in_hex_in_letters_and_by_every_kind_of_link() {
    let user = User::new();
    let made = user.json(&["core", "create", "notes"]);
    user.ok_fed(&["core", "append", "notes"], b"hello");
    let text = |field: &str| made[field].as_str().unwrap().to_owned();
    let letters = text("link").strip_prefix("pear://").unwrap().to_owned();
    for name in [
        text("key"),
        text("key").to_uppercase(),
        letters.clone(),
        text("link"),
        format!("hyper://{letters}/some/path"),
        format!("dat://{}", text("key")),
    ] {
        assert_eq!(user.ok(&["core", "cat", &name]), "hello", "{name}");
        // By key it is our own as well.
        assert_eq!(user.json(&["core", "info", &name])["name"], "notes");
    }
}

#[test]
fn names_lead_to_the_keys_that_the_javascript_store_derives() {
    let vectors = include_str!("../../../vectors/data/corestore.json");
    let vectors: Value = serde_json::from_str(vectors).unwrap();
    let mut checked = 0;
    for case in vectors["cases"].as_array().unwrap() {
        if case["kind"] != "keypair" || case["manifestVersion"] != 1 {
            continue;
        }
        let names: Vec<&str> = case["namespaces"]
            .as_array()
            .unwrap()
            .iter()
            .chain([&case["name"]])
            .map(|name| name.as_str().unwrap())
            .collect();
        if names
            .iter()
            .any(|name| name.trim().is_empty() || name.contains('/'))
        {
            continue;
        }
        let user = User::new();
        std::fs::create_dir(user.store()).unwrap();
        std::fs::write(
            user.store().join("primary-key"),
            case["primaryKey"].as_str().unwrap(),
        )
        .unwrap();
        let made = user.json(&["core", "create", &names.join("/")]);
        assert_eq!(made["key"], case["key"], "{case}");
        assert_eq!(made["discoveryKey"], case["discoveryKey"]);
        checked += 1;
    }
    assert!(checked >= 4, "{checked}");
}

#[test]
fn secrets_are_the_owners_alone_and_shown_only_when_asked_for() {
    let user = User::new();
    let made = user.json(&["core", "create", "notes"]);
    assert!(made.get("secretKey").is_none());
    let shown = user.json(&["core", "info", "notes", "--show-secret"]);
    let secret = shown["secretKey"].as_str().unwrap();
    assert_eq!(secret.len(), 128);
    assert_eq!(json!(&secret[64..]), shown["manifest"]["signers"][0]);
    assert!(!user.ok(&["core", "info", "notes"]).contains(&secret[..64]));
    let rights = std::fs::metadata(user.store().join("primary-key"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(rights & 0o777, 0o600);
}

#[test]
fn an_encrypted_core_is_read_with_its_key_and_never_written_without() {
    let user = User::new();
    user.ok(&["keygen", "diary.key"]);
    user.fails(&["keygen", "diary.key"], 1);
    let with_key = |args: &[&'static str]| {
        let mut all = args.to_vec();
        all.extend(["--encryption-key-file", "diary.key"]);
        all
    };
    user.ok(&with_key(&["core", "create", "diary"]));
    user.ok_fed(&with_key(&["core", "append", "diary"]), b"nobody shall read this");
    assert_eq!(
        user.ok(&with_key(&["core", "cat", "diary"])),
        "nobody shall read this"
    );
    assert_eq!(user.json(&with_key(&["core", "info", "diary"]))["byteLength"], 22);
    for file in files_below(&user.store()) {
        let bytes = std::fs::read(&file).unwrap();
        assert!(
            !bytes.windows(6).any(|part| part == b"nobody"),
            "{}",
            file.display()
        );
    }
    let said = user.fails(&["core", "append", "diary"], 2);
    assert!(said.contains("--encryption-key-file"), "{said}");
    user.fails(&["core", "cat", "diary"], 2);
    let said = user.fails(&["core", "cat", "diary", "--encryption-key-file", "none.key"], 3);
    assert!(said.contains("keygen"), "{said}");
    user.ok(&["core", "create", "open"]);
    user.fails(&with_key(&["core", "append", "open"]), 2);
}

#[test]
fn cutting_and_clearing_change_what_is_there_and_what_is_held() {
    let user = User::new();
    user.ok(&["core", "create", "a"]);
    user.ok_fed(&["core", "append", "a", "--lines"], b"0\n1\n2\n3\n4\n");
    let cut = user.json(&["core", "truncate", "a", "3"]);
    assert_eq!((&cut["length"], &cut["fork"]), (&json!(3), &json!(1)));
    user.fails(&["core", "truncate", "a", "9"], 3);
    user.ok_fed(&["core", "append", "a"], b"new");
    assert_eq!(user.ok(&["core", "cat", "a"]), "012new");
    let cleared = user.json(&["core", "clear", "a", "1"]);
    assert_eq!(
        (
            &cleared["length"],
            &cleared["heldBlocks"],
            &cleared["contiguousLength"]
        ),
        (&json!(4), &json!(3), &json!(1))
    );
    let said = user.fails(&["core", "get", "a", "1", "--timeout", "0"], 5);
    assert!(said.contains("block 1"), "{said}");
    assert_eq!(user.ok(&["core", "get", "a", "2"]), "2");
    assert!(user.ok(&["core", "verify", "a"]).contains("sound"));
}

#[test]
fn failures_have_a_code_a_sentence_and_a_hint() {
    let user = User::new();
    let key = "ab".repeat(32);
    user.fails(&["core", "ls"], 3);
    user.fails(&["core", "nonsense"], 2);
    user.fails(&["core", "get", "x", "not-a-number"], 2);
    user.ok(&["core", "create", "a"]);
    user.ok_fed(&["core", "append", "a"], b"x");
    let said = user.fails(&["core", "cat", "missing"], 3);
    assert!(said.contains("missing") && said.contains("hint: "), "{said}");
    user.fails(&["core", "cat", "pear://short"], 2);
    user.fails(&["core", "cat", &key, "--offline"], 3);
    user.fails(&["core", "cat", "a", "--range", "0..9"], 3);
    user.fails(&["core", "cat", "a", "--range", "9..0"], 2);
    user.fails(&["core", "get", "a", "1"], 3);
    user.fails(&["core", "append", "a", "no-such-file"], 3);
    user.fails(&["core", "create", "a"], 1);
    user.fails(&["core", "create", "a//b"], 2);
    user.fails(&["core", "create", &key], 2);
    let said = user.fails(&["core", "cat", "missing", "--json"], 3);
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(said["code"], 3);
    assert!(said["error"].is_string() && said["hint"].is_string(), "{said}");
    // The replica that was asked for in vain left nothing behind.
    assert_eq!(user.lines(&["core", "ls"]).len(), 1);
}

#[test]
fn the_list_names_every_core_and_what_it_was_made_as() {
    let user = User::new();
    user.ok(&["core", "create", "a"]);
    user.ok(&["bee", "put", "b", "k", "v"]);
    user.ok_fed(&["drive", "put", "c", "/x"], b"bytes");
    let mut listed: Vec<(String, String, u64)> = user
        .lines(&["core", "ls"])
        .iter()
        .map(|core| {
            (
                core["name"].as_str().unwrap_or_default().to_owned(),
                core["kind"].as_str().unwrap().to_owned(),
                core["length"].as_u64().unwrap(),
            )
        })
        .collect();
    listed.sort();
    let of = |name: &str, kind: &str, length| (name.to_owned(), kind.to_owned(), length);
    // The blobs of a drive have no name of their own.
    assert_eq!(
        listed,
        [
            of("", "core", 1),
            of("a", "core", 0),
            of("b", "bee", 2),
            of("c", "drive", 2)
        ]
    );
}

#[test]
fn an_interrupted_append_keeps_the_lines_that_came() {
    let user = User::new();
    user.ok(&["core", "create", "log"]);
    let mut child = user
        .command(&["core", "append", "log", "--lines"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut stdin, b"one\ntwo\nthr").unwrap();
    // Appended as they come: visible on disk while stdin is still open.
    let on_disk = || {
        let core = user.store().join("cores");
        core.is_dir()
            && files_below(&core).iter().any(|file| {
                let bytes = std::fs::read(file).unwrap_or_default();
                file.ends_with("head.log") && bytes.windows(3).any(|part| part == b"two")
            })
    };
    until("the lines are on disk", on_disk);
    assert_eq!(interrupt(&mut child), Some(130));
    assert_eq!(user.ok(&["core", "cat", "log", "--lines"]), "one\ntwo\n");
}

#[test]
fn completions_and_manual_pages_are_made() {
    let user = User::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = user.ok(&["completions", shell]);
        assert!(
            script.contains("cumulet") && script.contains("truncate"),
            "{shell}"
        );
    }
    std::fs::create_dir(user.path("man")).unwrap();
    user.ok(&["man", "man"]);
    let page = std::fs::read_to_string(user.path("man/cumulet-drive-put.1")).unwrap();
    assert!(page.contains("metadata"));
    assert!(!user.store().exists());
}
