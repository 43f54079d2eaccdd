//! Every case of `vectors/data/merkle.json`, and the key and block cases of `vectors/data/encryption.json`.
#![allow(clippy::panic)]

mod support;

use cumulet_hypercore::crypto::KeyPair;
use cumulet_hypercore::encryption::BlockCipher;
use cumulet_hypercore::flat_tree;
use cumulet_hypercore::manifest::Manifest;
use cumulet_hypercore::node::Node;
use cumulet_hypercore::roots::Roots;
use cumulet_hypercore::verifier::{Verifier, compat_signable, signable};
use serde_json::Value;
use support::{bytes, cases, fixed, text, uint, unhex};

/// The file's seed: BLAKE2b-256("seed:merkle" ‖ u32le(0)).
fn key_pair() -> KeyPair {
    KeyPair::from_seed(&cumulet_hypercore::crypto::hash(&[b"seed:merkle", &[0; 4]]))
}

fn tree(case: &Value) {
    let pair = key_pair();
    let verifier =
        Verifier::new(fixed(case, "key"), Manifest::single(pair.public_key())).expect("the core's manifest");
    let compat =
        Verifier::new(pair.public_key(), Manifest::compat(pair.public_key())).expect("a compat core");
    let (mut roots, mut nodes) = (Roots::new(), Vec::new());
    for (index, block) in case["blocks"].as_array().expect("blocks").iter().enumerate() {
        // The generator left one offset open (null).
        if !case["byteOffsets"][index].is_null() {
            assert_eq!(case["byteOffsets"][index], roots.byte_length());
        }
        roots
            .push(Node::leaf(index as u64, &unhex(block)), &mut nodes)
            .expect("a tree");
    }
    let length = uint(case, "length");
    assert_eq!(roots.length(), length);
    assert_eq!(roots.byte_length(), uint(case, "byteLength"));
    assert_eq!(roots.tree_hash(), fixed(case, "treeHash"));
    nodes.sort_by_key(|node| node.index);
    let nodes: Vec<Value> = nodes
        .iter()
        .map(|node| serde_json::json!([node.index, node.size, hex::encode(node.hash)]))
        .collect();
    assert_eq!(Value::from(nodes), case["nodes"], "{}", text(case, "tag"));
    let root_indexes: Vec<u64> = roots.nodes().iter().map(|root| root.index).collect();
    assert_eq!(Value::from(root_indexes), case["fullRoots"]);
    let (tree_hash, key) = (roots.tree_hash(), fixed(case, "key"));
    assert_eq!(
        signable(&key, &tree_hash, length, 0).to_vec(),
        bytes(case, "signable")
    );
    assert_eq!(
        compat_signable(&tree_hash, length, 0).to_vec(),
        bytes(case, "compatSignable")
    );
    let signature = verifier.sign(&roots, 0, &pair).expect("a signature");
    if !case["signature"].is_null() {
        assert_eq!(signature, bytes(case, "signature"));
    }
    assert_eq!(verifier.verify(&roots, 0, Some(&signature)), Ok(()));
    assert!(verifier.verify(&roots, 1, Some(&signature)).is_err());
    let signature = compat.sign(&roots, 0, &pair).expect("a signature");
    assert_eq!(signature, bytes(case, "compatSignature"));
    assert_eq!(compat.verify(&roots, 0, Some(&signature)), Ok(()));
}

fn flat(case: &Value) {
    let index = uint(case, "index");
    assert_eq!(u64::from(flat_tree::depth(index)), uint(case, "depth"));
    assert_eq!(flat_tree::offset(index), uint(case, "offset"));
    assert_eq!(
        flat_tree::index(flat_tree::depth(index), flat_tree::offset(index)),
        index
    );
    assert_eq!(flat_tree::parent(index), uint(case, "parent"));
    assert_eq!(flat_tree::sibling(index), uint(case, "sibling"));
    let children = flat_tree::children(index).map_or(Value::Null, |(left, right)| vec![left, right].into());
    assert_eq!(children, case["children"]);
    let spans = vec![flat_tree::left_span(index), flat_tree::right_span(index)];
    assert_eq!(Value::from(spans), case["spans"]);
    assert_eq!(flat_tree::leaf_count(index), uint(case, "countLeaves"));
}

#[test]
fn every_merkle_vector_is_reproduced() {
    let cases = cases("merkle");
    assert!(cases.len() >= 103);
    for case in &cases {
        match text(case, "kind") {
            "tree" | "tree-large" => tree(case),
            "flat" => flat(case),
            "fullRoots" => {
                let roots: Vec<u64> = flat_tree::roots(uint(case, "length")).collect();
                assert_eq!(Value::from(roots), case["roots"]);
            }
            kind => panic!("unknown case kind {kind}"),
        }
    }
}

fn cipher_keys(case: &Value) {
    let (core_key, encryption_key) = (fixed(case, "hypercoreKey"), fixed(case, "encryptionKey"));
    let check = |cipher: &BlockCipher, keys: &Value| {
        assert_eq!(*cipher.block_key(), fixed(keys, "block"));
        assert_eq!(*cipher.blinding_key(), fixed(keys, "blinding"));
    };
    check(
        &BlockCipher::new(&core_key, &encryption_key, false),
        &case["normal"],
    );
    check(
        &BlockCipher::new(&core_key, &encryption_key, true),
        &case["compat"],
    );
    check(&BlockCipher::from_block_key(encryption_key), &case["isBlockKey"]);
}

/// An encrypted core's tree is made of the encrypted blocks.
fn encrypted_core(case: &Value, compat: bool) {
    let cipher = BlockCipher::new(&fixed(case, "key"), &fixed(case, "encryptionKey"), compat);
    let mut roots = Roots::new();
    for (index, plaintext) in case["plaintext"].as_array().expect("blocks").iter().enumerate() {
        let fork = case["forkPerBlock"][index].as_u64().expect("a fork");
        let stored = cipher.encrypt(index as u64, fork, &unhex(plaintext));
        assert_eq!(stored, unhex(&case["encrypted"][index]));
        assert_eq!(
            cipher.decrypt(index as u64, &stored).expect("a block"),
            unhex(plaintext)
        );
        roots
            .push(Node::leaf(index as u64, &stored), &mut Vec::new())
            .expect("a tree");
    }
    assert_eq!(roots.tree_hash(), fixed(case, "treeHash"));
    assert_eq!(roots.byte_length(), uint(case, "byteLengthOnWire"));
}

#[test]
fn every_encryption_vector_is_reproduced() {
    let cases = cases("encryption");
    assert!(cases.len() >= 22);
    for case in &cases {
        match text(case, "kind") {
            "keys" => cipher_keys(case),
            "block" => {
                let cipher = BlockCipher::from_keys(fixed(case, "blockKey"), fixed(case, "blindingKey"));
                let stored =
                    cipher.encrypt(uint(case, "index"), uint(case, "fork"), &bytes(case, "plaintext"));
                assert_eq!(stored, bytes(case, "encrypted"));
                let plaintext = cipher.decrypt(uint(case, "index"), &stored).expect("a block");
                assert_eq!(plaintext, bytes(case, "plaintext"));
            }
            "core" => encrypted_core(case, false),
            "compat-core" => encrypted_core(case, true),
            kind => panic!("unknown case kind {kind}"),
        }
    }
    assert!(BlockCipher::from_block_key([1; 32]).decrypt(0, &[0; 7]).is_err());
}
