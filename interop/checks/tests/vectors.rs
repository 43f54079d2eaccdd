//! The shipped vectors pass, and what was changed in a vector, or is not known, fails by name.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are tests

use std::fs;
use std::path::{Path, PathBuf};

use cumulet_interop::vectors::{Report, check};
use serde_json::{Value, json};

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../vectors")
}

fn read(file: &str) -> Value {
    serde_json::from_slice(&fs::read(shipped().join(file)).unwrap()).unwrap()
}

/// Checks one file under this name.
fn check_one(name: &str, file: &Value) -> Report {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(name), file.to_string()).unwrap();
    check(folder.path(), |_| ()).unwrap()
}

#[test]
fn every_shipped_vector_passes() {
    let report = check(&shipped(), |_| ()).unwrap();
    let failures: Vec<String> = report.failures.iter().map(ToString::to_string).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(report.passed >= 2093, "{} passed", report.passed);
}

/// Changes the leaf at a place of a value, whatever it is.
fn change(leaf: &mut Value) {
    *leaf = match leaf.take() {
        Value::Null => json!("00"),
        Value::Bool(flag) => json!(!flag),
        Value::Number(number) => json!(number.as_i64().unwrap_or(0) + 1),
        Value::String(text) => match text.strip_prefix('0') {
            Some(rest) => json!(format!("1{rest}")),
            None => json!(format!("0{}", text.chars().skip(1).collect::<String>())),
        },
        other => panic!("no leaf: {other}"),
    };
}

/// Fields that a case may say anything in.
const INFORMATIVE: [&str; 7] = ["note", "tag", "name", "error", "jsError", "rule", "what"];

fn leaves(value: &Value, path: String, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if !INFORMATIVE.contains(&name.as_str()) {
                    leaves(value, format!("{path}/{name}"), found);
                }
            }
        }
        Value::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                leaves(value, format!("{path}/{index}"), found);
            }
        }
        _ => found.push(path),
    }
}

#[test]
fn a_changed_expected_value_fails_in_every_file() {
    // A field that our code computes, per file and case.
    let computed = [
        ("data/corestore.json", 0, "/publicKey"),
        ("data/encoding.json", 3, "/hex"),
        ("data/encryption.json", 8, "/encrypted"),
        ("data/hyperbee.json", 0, "/entries/0/seq"),
        ("data/hyperblobs.json", 0, "/puts/0/id/byteOffset"),
        ("data/hyperdrive.json", 0, "/path"),
        ("data/keys.json", 0, "/value"),
        ("data/merkle.json", 5, "/treeHash"),
        ("data/messages.json", 8, "/hex"),
        ("data/proofs.json", 4, "/steps/0/after/length"),
        ("data/protomux.json", 30, "/outBeforeInput"),
        ("data/secret-stream.json", 0, "/handshakeHash"),
        (
            "data/transcripts.json",
            0,
            "/frames/0/messages/0/handshake/capability",
        ),
        ("data/wakeup.json", 0, "/initiator"),
        ("network/announce-signatures.json", 2, "/signature"),
        ("network/blind-peer.json", 9, "/hex"),
        ("network/blind-relay.json", 0, "/decoded/id"),
        ("network/dht-relay.json", 20, "/hex"),
        ("network/dht-rpc-ids.json", 0, "/id"),
        ("network/dht-rpc-requests.json", 7, "/command"),
        ("network/dht-rpc-responses.json", 7, "/hex"),
        ("network/dht-rpc-tokens.json", 1, "/token_secret1"),
        ("network/holepunch-secure-payload.json", 1, "/token"),
        ("network/hyperdht-address.json", 1, "/hex"),
        ("network/hyperdht-constants.json", 0, "/values/LOOKUP"),
        ("network/hyperdht-messages.json", 2, "/decoded/round"),
        ("network/hyperswarm-rules.json", 60, "/may_queue"),
        ("network/lan-match.json", 1, "/match"),
        ("network/mutable-immutable.json", 0, "/target"),
        ("network/nat-classify.json", 1, "/steps/2/firewall"),
        ("network/nat-sampler.json", 1, "/steps/3/port"),
        ("network/noise-dh.json", 1, "/shared"),
        ("network/noise-ik.json", 1, "/messages/0/receiver_ck_after"),
        ("network/noise-payload.json", 1, "/decoded/firewall"),
        ("network/noise-xx.json", 1, "/derived/stream_id_responder"),
        ("network/protomux-rpc.json", 1, "/hex"),
        ("network/protomux.json", 1, "/writes/4/hex"),
        ("network/router.json", 4, "/value_hex"),
        ("network/routing-table.json", 1, "/accepted/3"),
        ("network/secret-stream-datagrams.json", 1, "/messages/0/hex"),
        ("network/secret-stream.json", 1, "/stream_id"),
        ("network/udx.json", 5, "/decoded/seq"),
    ];
    for (path, case, field) in computed {
        let mut file = read(path);
        let name = path.split('/').next_back().unwrap();
        file["cases"] = json!(file["cases"].as_array().unwrap()[..=case]);
        let before = check_one(name, &file);
        let place = format!("/cases/{case}{field}");
        let leaf = file
            .pointer_mut(&place)
            .unwrap_or_else(|| panic!("{path} has no {place}"));
        if leaf.is_object() {
            *leaf = Value::Null;
        } else {
            change(leaf);
        }
        let after = check_one(name, &file);
        assert_eq!(after.failures.len(), before.failures.len() + 1, "{path}{place}");
        assert_eq!(after.passed + 1, before.passed, "{path}{place}");
    }
}

/// Places of all objects in a value, the value itself among them.
fn objects(value: &Value, path: String, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                objects(
                    value,
                    format!("{path}/{}", name.replace('~', "~0").replace('/', "~1")),
                    found,
                );
            }
            found.push(path);
        }
        Value::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                objects(value, format!("{path}/{index}"), found);
            }
        }
        _ => {}
    }
}

/// The shipped files, as `data/keys.json`.
fn shipped_files() -> Vec<String> {
    let mut files = Vec::new();
    for plane in ["data", "network"] {
        for entry in fs::read_dir(shipped().join(plane)).unwrap() {
            files.push(format!(
                "{plane}/{}",
                entry.unwrap().file_name().to_str().unwrap()
            ));
        }
    }
    files.sort();
    assert!(files.len() >= 42, "{} files", files.len());
    files
}

/// Numbers of the first cases of every kind of a file.
fn samples(file: &Value) -> Vec<usize> {
    let mut seen = std::collections::HashSet::new();
    let cases = file["cases"].as_array().unwrap();
    let is_new = |index: &usize| {
        let case = &cases[*index];
        let fields: Vec<&String> = case.as_object().unwrap().keys().collect();
        seen.insert(format!("{} {} {fields:?}", case["kind"], case["type"]))
    };
    (0..cases.len()).filter(is_new).take(6).collect()
}

#[test]
fn a_field_that_is_not_known_fails_in_every_file_and_wherever_it_stands() {
    let mut unnoticed = Vec::new();
    for path in shipped_files() {
        let name = path.split('/').next_back().unwrap();
        let mut head = read(&path);
        head["surprise"] = json!(1);
        let report = check_one(name, &head);
        assert_eq!((report.passed, report.failures.len()), (0, 1), "{path}");
        assert!(
            report.failures[0]
                .to_string()
                .contains("unknown field surprise of the head")
        );
        let file = read(&path);
        for index in samples(&file) {
            let mut places = Vec::new();
            objects(&file["cases"][index], String::new(), &mut places);
            // Long scripts repeat themselves.
            let step = places.len() / 12 + 1;
            places.reverse();
            for place in places.iter().step_by(step) {
                let mut changed = file.clone();
                changed["cases"] = json!(file["cases"].as_array().unwrap()[..=index]);
                let before = check_one(name, &changed).failures.len();
                let object = changed["cases"][index].pointer_mut(place).unwrap();
                object["surprise"] = json!(1);
                if check_one(name, &changed).failures.len() == before {
                    unnoticed.push(format!("{path} case {index} {place}"));
                }
            }
        }
    }
    assert!(unnoticed.is_empty(), "{}", unnoticed.join("\n"));
}

#[test]
fn a_case_of_no_known_kind_fails_in_every_file() {
    for path in shipped_files() {
        let name = path.split('/').next_back().unwrap();
        let mut file = read(&path);
        let first = file["cases"][0].clone();
        file["cases"] = json!([first, {"kind": "surprise", "name": "surprise"}]);
        let report = check_one(name, &file);
        assert_eq!((report.passed, report.failures.len()), (1, 1), "{path}");
        let failed = report.failures[0].case.as_deref().unwrap_or_default();
        assert!(failed.starts_with("case 1"), "{path}: {failed}");
    }
}

#[test]
fn a_file_that_is_not_known_fails_beside_those_that_are() {
    let folder = tempfile::tempdir().unwrap();
    for plane in ["data", "network"] {
        fs::create_dir(folder.path().join(plane)).unwrap();
    }
    let keys = fs::read(shipped().join("data/keys.json")).unwrap();
    fs::write(folder.path().join("data/keys.json"), &keys).unwrap();
    let passed = check(folder.path(), |_| ()).unwrap().passed;
    let router = fs::read_to_string(shipped().join("network/router.json")).unwrap();
    let renamed = router.replace("\"router\"", "\"rooter\"");
    fs::write(folder.path().join("network/rooter.json"), renamed).unwrap();
    fs::write(folder.path().join("network/notes.txt"), "notes").unwrap();
    fs::write(folder.path().join("network/broken.json"), "{").unwrap();
    let report = check(folder.path(), |_| ()).unwrap();
    assert_eq!((report.passed, report.failures.len()), (passed, 3));
}

#[test]
fn a_renamed_field_an_unknown_kind_and_a_renamed_file_fail() {
    let mut file = read("data/keys.json");
    let cases = file["cases"].as_array_mut().unwrap();
    cases.truncate(2);
    let value = cases[0]["value"].take();
    let fields = cases[0].as_object_mut().unwrap();
    fields.remove("value");
    fields.insert("values".into(), value);
    cases[1]["kind"] = json!("something else");
    let report = check_one("keys.json", &file);
    assert_eq!((report.passed, report.failures.len()), (0, 2));
    assert_eq!(
        report.failures[0].case.as_deref(),
        Some("case 0 (namespace, hypercore)")
    );

    let mut file = read("data/keys.json");
    assert_eq!(check_one("key.json", &file).passed, 0);
    file["name"] = json!("key");
    assert!(
        check_one("key.json", &file).failures[0]
            .to_string()
            .contains("unknown file")
    );
    assert_eq!(check_one("keys.txt", &read("data/keys.json")).failures.len(), 1);
}

#[test]
fn a_folder_without_cases_does_not_pass() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(check(folder.path(), |_| ()).unwrap().failures.len(), 1);
    let mut file = read("data/keys.json");
    file["cases"] = json!([]);
    assert_eq!(check_one("keys.json", &file).failures.len(), 1);
    assert!(check(&folder.path().join("missing"), |_| ()).is_err());
}

#[test]
fn every_leaf_of_an_accepted_case_matters() {
    let mut unnoticed = Vec::new();
    for path in [
        "data/messages.json",
        "network/dht-rpc-requests.json",
        "network/hyperdht-messages.json",
    ] {
        let file = read(path);
        let name = path.split('/').next_back().unwrap();
        for case in file["cases"].as_array().unwrap().iter().step_by(17) {
            // Other bytes than those may be refused as well, or be read as the same message.
            if case["kind"] == "refuse"
                || case["kind"] == "noData-legacy"
                || case["kind"] == "trailing-bytes-ignored"
            {
                continue;
            }
            let mut found = Vec::new();
            leaves(case, String::new(), &mut found);
            for place in found {
                let mut changed = case.clone();
                change(changed.pointer_mut(&place).unwrap());
                let mut file = file.clone();
                file["cases"] = json!([changed]);
                if check_one(name, &file).failures.is_empty() {
                    unnoticed.push(format!("{path} {place} of {}", case["kind"]));
                }
            }
        }
    }
    assert!(unnoticed.is_empty(), "{}", unnoticed.join("\n"));
}
