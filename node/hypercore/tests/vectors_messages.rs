//! Every case of `vectors/data/messages.json`.
#![allow(clippy::panic)]

mod support;

use bytes::Bytes;
use cumulet_hypercore::crypto::{hash, leaf_hash};
use cumulet_hypercore::manifest::Manifest;
use cumulet_hypercore::messages::{Data, Handshake, Message};
use cumulet_hypercore::node::Node;
use cumulet_hypercore::proof::{BlockProof, Proof};
use serde_json::{Value, json};
use support::{bytes, cases, text, uint};

const NAMES: [&str; 10] = [
    "sync",
    "request",
    "cancel",
    "data",
    "noData",
    "want",
    "unwant",
    "bitfield",
    "range",
    "extension",
];

fn nodes(nodes: &[Node]) -> Value {
    nodes
        .iter()
        .map(|node| json!({"index": node.index, "size": node.size, "hash": hex::encode(node.hash)}))
        .collect()
}

fn manifest(manifest: &Manifest) -> Value {
    let signers: Vec<Value> = manifest
        .signers
        .iter()
        .map(|signer| {
            json!({"signature": "ed25519", "namespace": hex::encode(signer.namespace), "publicKey": hex::encode(signer.public_key)})
        })
        .collect();
    json!({
        "version": manifest.version, "hash": "blake2b", "allowPatch": manifest.allow_patch, "quorum": manifest.quorum,
        "signers": signers,
        "prologue": manifest.prologue.map(|prologue| json!({"hash": hex::encode(prologue.hash), "length": prologue.length})),
        "linked": manifest.linked.as_ref().map(|linked| linked.iter().map(hex::encode).collect::<Vec<_>>()),
        "userData": manifest.user_data.as_ref().map(hex::encode),
    })
}

fn data(data: &Data) -> Value {
    let proof = &data.proof;
    json!({
        "request": data.request, "fork": proof.fork,
        "block": proof.block.as_ref().map(|part| json!({"index": part.index, "value": hex::encode(&part.value), "nodes": nodes(&part.nodes)})),
        "hash": proof.hash.as_ref().map(|part| json!({"index": part.index, "nodes": nodes(&part.nodes)})),
        "seek": proof.seek.as_ref().map(|part| json!({"bytes": part.bytes, "nodes": nodes(&part.nodes)})),
        "upgrade": proof.upgrade.as_ref().map(|part| json!({
            "start": part.start, "length": part.length, "nodes": nodes(&part.nodes),
            "additionalNodes": nodes(&part.additional_nodes), "signature": part.signature.as_ref().map(hex::encode),
        })),
        "manifest": proof.manifest.as_ref().map(manifest),
    })
}

/// The message in the JSON shape of the vectors.
fn shape(message: &Message) -> Value {
    match message {
        Message::Sync(sync) => json!({
            "fork": sync.fork, "length": sync.length, "remoteLength": sync.remote_length,
            "canUpgrade": sync.can_upgrade, "uploading": sync.uploading, "downloading": sync.downloading,
            "hasManifest": sync.has_manifest, "allowPush": sync.allow_push,
        }),
        Message::Request(request) => json!({
            "id": request.id, "fork": request.fork, "manifest": request.manifest, "priority": request.priority,
            "block": request.block.map(|part| json!({"index": part.index, "nodes": part.nodes})),
            "hash": request.hash.map(|part| json!({"index": part.index, "nodes": part.nodes})),
            "seek": request.seek.map(|part| json!({"bytes": part.bytes, "padding": part.padding})),
            "upgrade": request.upgrade.map(|part| json!({"start": part.start, "length": part.length})),
        }),
        Message::Cancel(cancel) => json!({"request": cancel.request}),
        Message::Data(message) => data(message),
        Message::NoData(no_data) => json!({"request": no_data.request, "reason": no_data.reason}),
        Message::Want(want) => json!({"start": want.start, "length": want.length, "any": want.any}),
        Message::Unwant(want) => json!({"start": want.start, "length": want.length, "any": want.any}),
        Message::Bitfield(bitfield) => json!({"start": bitfield.start, "bitfield": bitfield.words}),
        Message::Range(range) => json!({"drop": range.drop, "start": range.start, "length": range.length}),
        Message::Extension(extension) => {
            json!({"name": extension.name, "message": hex::encode(&extension.payload)})
        }
    }
}

fn big_block(case: &Value) {
    let value = vec![
        u8::from_str_radix(text(case, "valueByte"), 16).expect("a byte");
        uint(case, "valueLength") as usize
    ];
    let node = &case["nodes"][0];
    let node = Node {
        index: uint(node, "index"),
        size: uint(node, "size"),
        hash: support::fixed(node, "hash"),
    };
    assert_eq!(leaf_hash(&value).to_vec(), bytes(case, "leafHash"));
    let block = BlockProof {
        index: uint(case, "index"),
        value: value.into(),
        nodes: vec![node],
    };
    let proof = Proof {
        fork: uint(case, "fork"),
        block: Some(block),
        ..Proof::default()
    };
    let message = Message::Data(Data {
        request: uint(case, "request"),
        proof,
    });
    let encoded = message.encode();
    assert_eq!(encoded.len() as u64, uint(case, "encodedLength"));
    assert!(encoded.starts_with(&bytes(case, "prefix")));
    assert_eq!(hash(&[&encoded]).to_vec(), bytes(case, "encodedHash"));
    assert_eq!(Message::decode(3, &encoded.into()), Ok(message));
}

#[test]
fn every_shared_vector_is_reproduced() {
    let cases = cases("messages");
    assert!(cases.len() >= 130);
    for case in &cases {
        let kind = text(case, "kind");
        let named = |name: &str| {
            NAMES
                .iter()
                .position(|known| *known == name)
                .expect("a known message") as u64
        };
        match kind {
            "handshake" => {
                let handshake = Handshake::decode(&bytes(case, "hex")).expect("a handshake");
                assert_eq!(handshake.seeks, case["value"]["seeks"], "{case}");
                assert_eq!(handshake.capability.to_vec(), bytes(&case["value"], "capability"));
                assert_eq!(handshake.encode(), bytes(case, "hex"));
            }
            "data-big-block" => big_block(case),
            "refuse" => {
                let payload = Bytes::from(bytes(case, "hex"));
                assert!(
                    Message::decode(named(text(case, "message")), &payload).is_err(),
                    "{case}"
                );
            }
            "noData-legacy" | "trailing-bytes-ignored" => {
                let number = if kind == "noData-legacy" {
                    4
                } else {
                    named(text(case, "message"))
                };
                let message = Message::decode(number, &bytes(case, "hex").into()).expect("a message");
                assert_eq!(shape(&message), case["value"], "{case}");
            }
            name => {
                assert_eq!(case["type"], named(name), "{case}");
                let message = Message::decode(named(name), &bytes(case, "hex").into()).expect("a message");
                assert_eq!(shape(&message), case["value"], "{case}");
                assert_eq!(message.encode(), bytes(case, "hex"), "{case}");
                assert_eq!(message.kind(), named(name));
            }
        }
    }
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_decoding_panic(kind in 0..11u64, bytes: Vec<u8>) {
        let _ = Message::decode(kind, &bytes.into());
    }
}
