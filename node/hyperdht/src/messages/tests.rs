use std::net::SocketAddrV4;

use bytes::Bytes;
use serde_json::Value;

use super::*;
use crate::recorded::{address as addr, bytes, cases, fixed, optional_address};

fn addresses(value: &Value) -> Vec<SocketAddrV4> {
    value.as_array().unwrap().iter().map(addr).collect()
}

fn peer_of(value: &Value) -> PeerRecord {
    PeerRecord {
        public_key: fixed(&value["publicKey"]),
        relay_addresses: addresses(&value["relayAddresses"]),
    }
}

fn optional_fixed<const N: usize>(value: &Value) -> Option<[u8; N]> {
    (!value.is_null()).then(|| fixed(value))
}

fn mutable_of(value: &Value) -> MutableRecord {
    MutableRecord {
        seq: value["seq"].as_u64().unwrap(),
        value: bytes(&value["value"]),
        signature: fixed(&value["signature"]),
    }
}

/// Decodes and encodes one case; the first must give `decoded`, the second the same bytes again.
fn check(case: &Value) {
    let (hex, want) = (bytes(&case["hex"]), &case["decoded"]);
    let encoded: Bytes = match case["kind"].as_str().unwrap() {
        "handshake" => {
            let message = Handshake::decode(&hex).unwrap();
            assert_eq!(message.mode, want["mode"].as_u64().unwrap());
            assert_eq!(
                message.noise,
                (!want["noise"].is_null()).then(|| bytes(&want["noise"]))
            );
            assert_eq!(message.peer_address, optional_address(&want["peerAddress"]));
            assert_eq!(message.relay_address, optional_address(&want["relayAddress"]));
            message.encode()
        }
        "holepunch" => {
            let message = HolepunchMessage::decode(&hex).unwrap();
            assert_eq!(message.id, want["id"].as_u64().unwrap());
            assert_eq!(message.peer_address, optional_address(&want["peerAddress"]));
            message.encode()
        }
        "holepunchPayload" => {
            let message = HolepunchPayload::decode(&hex).unwrap();
            assert_eq!(message.error, want["error"].as_u64().unwrap());
            assert_eq!(message.firewall.code(), want["firewall"].as_u64().unwrap());
            assert_eq!(message.punching, want["punching"].as_bool().unwrap());
            assert_eq!(message.token, optional_fixed(&want["token"]));
            assert_eq!(message.remote_token, optional_fixed(&want["remoteToken"]));
            message.encode().into()
        }
        "peer" => {
            let record = PeerRecord::decode(&hex).unwrap();
            assert_eq!(record, peer_of(want));
            record.encode()
        }
        "lookupRawReply" => {
            let reply = LookupReply::decode(&hex).unwrap();
            assert_eq!(reply.bump, want["bump"].as_u64().unwrap());
            let records: Vec<Bytes> = case["input"]["peers"]
                .as_array()
                .unwrap()
                .iter()
                .map(bytes)
                .collect();
            assert_eq!(
                reply.peers.iter().map(PeerRecord::encode).collect::<Vec<_>>(),
                records
            );
            LookupReply::encode(&records, reply.bump)
        }
        "announce" => {
            let message = Announce::decode(&hex).unwrap();
            assert_eq!(
                message.peer,
                (!want["peer"].is_null()).then(|| peer_of(&want["peer"]))
            );
            assert_eq!(message.signature, optional_fixed(&want["signature"]));
            assert_eq!(message.bump, want["bump"].as_u64().unwrap());
            message.encode()
        }
        "mutablePutRequest" => {
            let message = MutablePut::decode(&hex).unwrap();
            assert_eq!(message.public_key, fixed(&want["publicKey"]));
            assert_eq!(message.record, mutable_of(want));
            message.encode()
        }
        "mutableGetResponse" => {
            let record = MutableRecord::decode(&hex).unwrap();
            assert_eq!(record, mutable_of(want));
            record.encode()
        }
        _ => return,
    };
    assert_eq!(encoded, hex, "{case}");
}

#[test]
fn every_value_decodes_and_encodes_as_in_js() {
    let cases = cases("hyperdht-messages");
    assert!(cases.len() >= 100);
    cases.iter().for_each(check);
}

#[test]
fn noise_payloads_decode_and_encode_as_in_js() {
    for case in cases("noise-payload") {
        let (hex, want) = (bytes(&case["hex"]), &case["decoded"]);
        let payload = NoisePayload::decode(&hex).unwrap();
        assert_eq!(payload.version, want["version"].as_u64().unwrap());
        assert_eq!(payload.error, want["error"].as_u64().unwrap_or(0), "{case}");
        assert_eq!(payload.udx.is_some(), want["udx"].is_object());
        assert_eq!(
            payload.udx.map(|udx| u64::from(udx.id)),
            want["udx"]["id"].as_u64()
        );
        assert_eq!(
            payload.addresses4,
            want["addresses4"]
                .as_array()
                .map_or(Vec::new(), |a| a.iter().map(addr).collect())
        );
        assert_eq!(payload.secret_stream, !want["secretStream"].is_null());
        if payload.version == 1 {
            assert_eq!(payload.encode(), hex, "{case}");
        }
    }
}

#[test]
fn a_truncated_value_is_refused_and_never_panics() {
    for case in cases("hyperdht-messages").iter().chain(&cases("noise-payload")) {
        let hex = bytes(&case["hex"]);
        for end in 0..hex.len() {
            let cut = &hex[..end];
            let _ = (
                Handshake::decode(cut),
                HolepunchMessage::decode(cut),
                HolepunchPayload::decode(cut),
            );
            let _ = (
                LookupReply::decode(cut),
                Announce::decode(cut),
                MutablePut::decode(cut),
            );
            let _ = (
                NoisePayload::decode(cut),
                PeerRecord::decode(cut),
                MutableRecord::decode(cut),
            );
        }
    }
}

#[test]
fn announcements_sign_what_js_signs() {
    for case in cases("announce-signatures") {
        let key = ed25519_dalek::SigningKey::from_bytes(&fixed(&case["seed"]));
        let peer = peer_of(&case["peer"]);
        let announcing = case["kind"] == "announce";
        let (target, id, token) = (
            fixed(&case["target"]),
            fixed(&case["node_id"]),
            fixed(&case["token"]),
        );
        let unsigned = Announce {
            peer: Some(peer),
            refresh: optional_fixed(&case["refresh"]),
            signature: None,
            bump: 0,
        };
        let signable = if announcing {
            announce_signable
        } else {
            unannounce_signable
        };
        let signable = signable(&target, &id, &token, &unsigned);
        let signature: [u8; 64] = fixed(&case["signature"]);
        assert_eq!(crate::crypto::sign(&key, &signable), signature, "{case}");
        assert!(crate::crypto::verify(
            &fixed(&case["public_key"]),
            &signable,
            &signature
        ));
    }
}

#[test]
fn mutable_values_sign_what_js_signs_and_a_changed_one_is_refused() {
    for case in cases("mutable-immutable")
        .iter()
        .filter(|case| case["kind"] == "mutable")
    {
        let key = ed25519_dalek::SigningKey::from_bytes(&fixed(&case["seed"]));
        let mut record = sign_mutable(&key, case["seq"].as_u64().unwrap(), &bytes(&case["value"]));
        assert_eq!(record.signature, fixed(&case["signature"]));
        let public_key = fixed(&case["public_key"]);
        assert!(verify_mutable(&public_key, &record));
        record.seq += 1;
        assert!(!verify_mutable(&public_key, &record));
    }
}
