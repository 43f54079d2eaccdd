//! Every case of `vectors/data/keys.json`.
#![allow(clippy::panic)]

mod support;

use cumulet_encoding::Reader;
use cumulet_hypercore::crypto::{KeyPair, capability, discovery_key, hash, namespace, verify};
use cumulet_hypercore::key;
use cumulet_hypercore::manifest::{Manifest, Prologue, Signer};
use cumulet_hypercore::verifier::{compat_signable, signable};
use serde_json::Value;
use support::{bytes, cases, fixed, text, uint, unhex};

fn key_pair(case: &Value) {
    let pair = KeyPair::from_seed(&fixed(case, "seed"));
    assert_eq!(pair.public_key(), fixed(case, "publicKey"));
    assert_eq!(pair.secret_key(), fixed(case, "secretKey"));
    assert_eq!(discovery_key(&pair.public_key()), fixed(case, "discoveryKey"));
    let (message, signature) = (bytes(case, "message"), bytes(case, "signature"));
    assert_eq!(pair.sign(&message).to_vec(), signature);
    assert!(verify(&pair.public_key(), &message, &signature));
    assert!(!verify(&pair.public_key(), b"other", &signature));
    assert!(!verify(&pair.public_key(), &message, &signature[..63]));
    assert_eq!(key::to_z32(&pair.public_key()), text(case, "id"));
}

/// The manifest that the fields of a case describe, with the defaults of a locally made one. None where the field
/// types alone make it impossible.
fn described(fields: &Value) -> Option<Manifest> {
    let signers: Vec<Value> = fields["signers"].as_array().expect("signers").clone();
    let quorum = match &fields["quorum"] {
        Value::Null => None,
        quorum => Some(quorum.as_u64()?),
    };
    let public_keys = signers.iter().map(|signer| fixed(signer, "publicKey")).collect();
    let mut manifest = Manifest::of_signers(public_keys, quorum);
    manifest.allow_patch = fields["allowPatch"] == true;
    for (made, given) in manifest.signers.iter_mut().zip(&signers) {
        if given["namespace"].is_string() {
            *made = Signer {
                namespace: fixed(given, "namespace"),
                public_key: fixed(given, "publicKey"),
            };
        }
    }
    if let Value::Object(prologue) = &fields["prologue"] {
        let hash = unhex(&prologue["hash"]).try_into().ok()?;
        manifest.prologue = Some(Prologue {
            hash,
            length: prologue["length"].as_u64()?,
        });
    }
    if let Value::Array(linked) = &fields["linked"] {
        manifest.linked = Some(
            linked
                .iter()
                .map(|key| unhex(key).try_into().expect("a key"))
                .collect(),
        );
    }
    if fields["userData"].is_string() {
        manifest.user_data = Some(bytes(fields, "userData"));
    }
    let implied = if manifest.linked.is_some() || manifest.user_data.is_some() {
        2
    } else {
        1
    };
    manifest.version = fields["version"].as_u64().unwrap_or(implied) as u8;
    Some(manifest)
}

fn manifest(case: &Value) {
    let encoded = bytes(case, "encoded");
    let manifest = Manifest::decode(&mut Reader::new(&encoded)).expect("a manifest");
    assert_eq!(Some(&manifest), described(&case["manifest"]).as_ref(), "{case}");
    assert_eq!(manifest.to_bytes(), encoded);
    assert_eq!(hash(&[&bytes(case, "preimage")]), manifest.key());
    assert_eq!(manifest.key(), fixed(case, "key"));
    assert_eq!(discovery_key(&manifest.key()), fixed(case, "discoveryKey"));
    assert_eq!(key::to_z32(&manifest.key()), text(case, "id"));
    assert_eq!(manifest.check(), Ok(()));
}

#[test]
fn every_shared_vector_is_reproduced() {
    let cases = cases("keys");
    assert!(cases.len() >= 77);
    for case in &cases {
        match text(case, "kind") {
            "namespace" => {
                assert_eq!(
                    namespace(text(case, "name"), uint(case, "index") as u8),
                    fixed(case, "value")
                );
            }
            "keypair" => key_pair(case),
            "capability" => {
                let (key, handshake_hash) = (fixed(case, "key"), fixed(case, "handshakeHash"));
                assert_eq!(capability(&key, &handshake_hash, true), fixed(case, "initiator"));
                assert_eq!(capability(&key, &handshake_hash, false), fixed(case, "responder"));
            }
            "signable" => {
                let tree_hash = fixed(case, "treeHash");
                let (length, fork) = (uint(case, "length"), uint(case, "fork"));
                let message = signable(&fixed(case, "manifestHash"), &tree_hash, length, fork);
                assert_eq!(message.to_vec(), bytes(case, "signable"));
                assert_eq!(
                    compat_signable(&tree_hash, length, fork).to_vec(),
                    bytes(case, "compat")
                );
            }
            "manifest" => manifest(case),
            "compat-core" => {
                let key = fixed(case, "key");
                assert_eq!(discovery_key(&key), fixed(case, "discoveryKey"));
                assert!(Manifest::single(fixed(case, "publicKey")).is_compat(&key));
                assert!(Manifest::compat(key).belongs_to(&key));
            }
            "manifest-refuse" => {
                assert!(
                    Manifest::decode(&mut Reader::new(&bytes(case, "hex"))).is_err(),
                    "{case}"
                );
            }
            "manifest-create-refuse" => {
                let refused = described(&case["manifest"]).is_none_or(|manifest| manifest.check().is_err());
                assert!(refused, "{case}");
            }
            "z32" => {
                let expected = fixed(case, "key");
                assert_eq!(key::to_z32(&expected), text(case, "id"));
                assert_eq!(key::to_hex(&expected), text(case, "key"));
                for form in case["accepted"].as_array().expect("forms") {
                    assert_eq!(key::parse(form.as_str().expect("text")), Ok(expected));
                }
            }
            "z32-refuse" => {
                // Years of published links say hyper://; this project takes them where JS does not.
                let taken_here = text(case, "input").starts_with("hyper://");
                assert_eq!(key::parse(text(case, "input")).is_ok(), taken_here, "{case}");
            }
            kind => panic!("unknown case kind {kind}"),
        }
    }
}

#[test]
fn dat_links_are_taken_and_letters_with_stray_bits_are_not() {
    let text = "dat://66805539462145a3287ab522bf8124cd64b0aeaec80ff01aa961f3062ba9aa3b/path";
    assert_eq!(key::parse(text).map(|key| key[0]), Ok(0x66));
    assert!(key::parse("c4yfkqkgrfn4gkd4swtm9yjr3i1mbmiq3y89ygijc83ock7jie7b").is_err());
}
