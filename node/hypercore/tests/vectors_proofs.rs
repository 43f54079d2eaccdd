//! Every case of `vectors/data/proofs.json`: what JS accepts, ignores and refuses, and that our proofs are its proofs
//! byte for byte.
#![allow(clippy::panic)]

mod support;

use bytes::Bytes;
use cumulet_encoding::Reader;
use cumulet_hypercore::core::{Core, Reorg};
use cumulet_hypercore::crypto::{KeyPair, hash};
use cumulet_hypercore::manifest::Manifest;
use cumulet_hypercore::messages::{Data, Message, Request};
use cumulet_hypercore::storage::{MemoryStorage, Storage};
use serde_json::{Value, json};
use support::{bytes, cases, fixed, text, uint, unhex};

type MemoryCore = Core<MemoryStorage>;

/// The file's seed: BLAKE2b-256("seed:proofs" ‖ u32le(0)).
fn key_pair() -> KeyPair {
    KeyPair::from_seed(&hash(&[b"seed:proofs", &[0; 4]]))
}

/// The seeder of a case with its first `length` blocks, if the file's key pair alone can sign it.
fn source(case: &Value, length: u64) -> Option<MemoryCore> {
    let pair = key_pair();
    let mut core = if case["manifest"].is_null() {
        Core::create_compat(MemoryStorage::new(), pair).ok()?
    } else {
        let manifest = Manifest::decode(&mut Reader::new(&bytes(case, "manifest"))).ok()?;
        if manifest.prologue.is_some() || manifest.signers.len() != 1 {
            return None;
        }
        Core::create(MemoryStorage::new(), manifest, Some(pair)).ok()?
    };
    assert_eq!(
        *core.key(),
        fixed(case, "key"),
        "the case's key is that of its manifest"
    );
    for fork in 0..uint(case, "sourceFork") {
        core.truncate(0, Some(fork + 1)).expect("a higher fork");
    }
    let blocks = case["blocks"]
        .as_array()?
        .iter()
        .take(length as usize)
        .map(|block| Bytes::from(unhex(block)))
        .collect();
    core.append_batch(blocks).expect("an append");
    Some(core)
}

fn state(core: &MemoryCore) -> Value {
    let tree_hash = (core.length() > 0).then(|| hex::encode(core.roots().tree_hash()));
    json!({
        "fork": core.fork(), "length": core.length(), "byteLength": core.byte_length(), "treeHash": tree_hash,
        "has": core.bitfield().runs().flatten().collect::<Vec<_>>(), "hasManifest": core.manifest().is_some(),
    })
}

fn request(payload: Vec<u8>) -> Request {
    match Message::decode(1, &payload.into()) {
        Ok(Message::Request(request)) => request,
        other => panic!("no request: {other:?}"),
    }
}

/// Takes a Data message as the replicator would; gives the result in the words of the vectors.
fn receive(core: &mut MemoryCore, reorg: &mut Option<Reorg>, payload: Vec<u8>) -> String {
    let Ok(Message::Data(Data { proof, .. })) = Message::decode(3, &payload.into()) else {
        return "refused".into();
    };
    let fork = proof.fork;
    let started = match reorg.take() {
        Some(mut known) => match core.continue_reorg(&mut known, &proof) {
            Ok(()) => Some(known),
            Err(_) => return "refused".into(),
        },
        None if fork > core.fork() => core.begin_reorg(&proof).ok(),
        None => None,
    };
    let Some(started) = started else {
        return match core.verify_and_apply(proof) {
            Ok(applied) if applied.other_fork => "ignored".into(),
            Ok(_) => "accepted".into(),
            Err(_) => "refused".into(),
        };
    };
    let Some(want) = started.want().cloned() else {
        core.apply_reorg(started).expect("a finished reorganisation");
        return "reorg-finished".into();
    };
    *reorg = Some(started);
    format!(
        r#"reorg-want {{"nodes":{},"start":{},"end":{}}}"#,
        want.nodes, want.blocks.start, want.blocks.end
    )
}

fn big_block(case: &Value) {
    let mut data = bytes(case, "dataPrefix");
    data.resize(uint(case, "dataLength") as usize, 1);
    let tail = bytes(case, "dataTail");
    let at = data.len() - tail.len();
    data[at..].copy_from_slice(&tail);
    assert_eq!(hash(&[&data]), fixed(case, "dataHash"));
    let mut core = Core::open(MemoryStorage::new(), fixed(case, "key")).expect("a core");
    assert_eq!(receive(&mut core, &mut None, data), "accepted");
    assert_eq!(state(&core), case["after"]);
    assert_eq!(
        core.get(0).expect("memory").map(|block| block.len()),
        Some(65_536)
    );
}

#[test]
fn what_js_accepts_ignores_and_refuses_is_accepted_ignored_and_refused() {
    let cases = cases("proofs");
    assert!(cases.len() >= 274);
    for case in &cases {
        let kind = text(case, "kind");
        if kind == "big-block" {
            big_block(case);
            continue;
        }
        let mut core = Core::open(MemoryStorage::new(), fixed(case, "key")).expect("a core");
        let mut reorg = None;
        for (at, step) in case["steps"].as_array().expect("steps").iter().enumerate() {
            let before = core.clone_state();
            let result = receive(&mut core, &mut reorg, bytes(step, "data"));
            let context = format!("{kind} {} step {at}: {}", text(case, "tag"), step["note"]);
            // A plain "reorg" may end at once; "ignored" is about verification alone, which a lower or higher fork skips.
            let expected = match text(step, "result") {
                "reorg" => "reorg-finished",
                "ignored" if result == "reorg-finished" || result == "refused" => result.as_str(),
                expected => expected,
            };
            assert_eq!(result, expected, "{context}");
            if text(step, "result") == "ignored" {
                core = before;
            }
            assert_eq!(state(&core), step["after"], "{context}");
        }
    }
}

trait CloneState {
    fn clone_state(&self) -> Self;
}

impl CloneState for MemoryCore {
    fn clone_state(&self) -> Self {
        Core::open(self.storage().clone(), *self.key()).expect("the same core")
    }
}

#[test]
fn our_proofs_are_those_of_js_byte_for_byte() {
    let mut compared = 0;
    for case in &cases("proofs") {
        let kind = text(case, "kind");
        if kind.starts_with("bad") || !case["blocks"].is_array() {
            continue;
        }
        for step in case["steps"].as_array().expect("steps") {
            // A seeder proves all it has, so the asker ends at the seeder's length (some seeders are shorter).
            let Some(source) = source(case, uint(&step["after"], "length")) else {
                continue;
            };
            let request = request(bytes(step, "request"));
            if request.fork != source.fork() {
                continue;
            }
            let context = format!("{kind} {}: {}", text(case, "tag"), step["note"]);
            let proof = source
                .create_proof(&request)
                .unwrap_or_else(|error| panic!("{context}: {error}"));
            let data = Message::Data(Data {
                request: request.id,
                proof,
            })
            .encode();
            assert_eq!(hex::encode(data), text(step, "data"), "{context}");
            compared += 1;
        }
    }
    assert!(compared >= 200, "only {compared} proofs were compared");
}

#[test]
fn a_refused_proof_leaves_no_trace_in_the_storage() {
    for case in cases("proofs")
        .iter()
        .filter(|case| text(case, "kind").contains("bad"))
    {
        let mut core = Core::open(MemoryStorage::new(), fixed(case, "key")).expect("a core");
        for step in case["steps"].as_array().expect("steps") {
            let before = core.storage().clone();
            if receive(&mut core, &mut None, bytes(step, "data")) == "refused" {
                assert_eq!(core.storage().head(), before.head());
                assert_eq!(core.storage().bitfield(), before.bitfield());
                let nodes = |storage: &MemoryStorage| {
                    (0..64)
                        .map(|at| storage.node(at).expect("memory"))
                        .collect::<Vec<_>>()
                };
                assert_eq!(nodes(core.storage()), nodes(&before));
            }
        }
    }
}
