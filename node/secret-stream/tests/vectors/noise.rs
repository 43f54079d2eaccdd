//! Noise handshakes and Diffie-Hellman.

use cumulet_secret_stream::noise::{Handshake, HandshakeResult, KeyPair, NoiseError};

use crate::{bytes, cases, fixed as key};

struct Exchange {
    pattern: &'static str,
    prologue: Vec<u8>,
    statics: [[u8; 32]; 2],
    ephemerals: [[u8; 32]; 2],
    messages: Vec<(Vec<u8>, Vec<u8>)>,
}

fn run(exchange: &Exchange) -> [HandshakeResult; 2] {
    let [initiator, responder] = exchange.statics.map(KeyPair::from_seed);
    let [e1, e2] = exchange.ephemerals;
    let prologue = &exchange.prologue;
    let mut sides = if exchange.pattern == "XX" {
        [
            Handshake::xx(true, initiator, e1, prologue),
            Handshake::xx(false, responder, e2, prologue),
        ]
    } else {
        let remote = *responder.public_key();
        [
            Handshake::ik_initiator(initiator, e1, remote, prologue),
            Handshake::ik_responder(responder, e2, prologue),
        ]
    };
    for (index, (payload, message)) in exchange.messages.iter().enumerate() {
        let from = index % 2;
        assert_eq!(sides[1 - from].write(payload), Err(NoiseError::OutOfTurn));
        assert_eq!(
            hex::encode(sides[from].write(payload).unwrap()),
            hex::encode(message)
        );
        assert_eq!(&sides[1 - from].read(message).unwrap(), payload);
    }
    sides.map(|side| side.finish().unwrap())
}

#[test]
fn handshakes_of_the_network_vectors_give_the_same_bytes_and_keys() {
    for (file, pattern) in [("network/noise-xx.json", "XX"), ("network/noise-ik.json", "IK")] {
        for case in cases(file) {
            let side = |name: &str, field: &str| key(&case[name][field]);
            let messages = case["messages"].as_array().unwrap();
            let [a, b] = run(&Exchange {
                pattern,
                prologue: bytes(&case["prologue"]),
                statics: ["initiator", "responder"].map(|s| side(s, "static_seed")),
                ephemerals: ["initiator", "responder"].map(|s| side(s, "ephemeral_seed")),
                messages: messages
                    .iter()
                    .map(|m| (bytes(&m["payload"]), bytes(&m["hex"])))
                    .collect(),
            });
            assert_eq!(a.handshake_hash.to_vec(), bytes(&case["handshake_hash"]));
            assert_eq!(a.handshake_hash, b.handshake_hash);
            assert_eq!(
                (a.tx, a.rx),
                (key(&case["initiator_tx"]), key(&case["initiator_rx"]))
            );
            assert_eq!((b.rx, b.tx), (a.tx, a.rx));
            assert_eq!(a.remote_public_key, side("responder", "static_public"));
            assert_eq!(b.remote_public_key, side("initiator", "static_public"));
        }
    }
}

#[test]
fn handshakes_of_the_data_vectors_give_the_same_bytes_and_keys() {
    let mut count = 0;
    for case in cases("data/secret-stream.json") {
        let pattern = match case["kind"].as_str() {
            Some("noise-XX") => "XX",
            Some("noise-IK") => "IK",
            _ => continue,
        };
        count += 1;
        let messages = case["messages"].as_array().unwrap();
        let [a, b] = run(&Exchange {
            pattern,
            prologue: bytes(&case["prologue"]),
            statics: ["initiatorStatic", "responderStatic"].map(|s| key(&case[s]["seed"])),
            ephemerals: ["initiatorEphemeral", "responderEphemeral"].map(|s| key(&case[s]["seed"])),
            messages: messages
                .iter()
                .map(|m| (bytes(&m["payload"]), bytes(&m["message"])))
                .collect(),
        });
        assert_eq!(a.handshake_hash.to_vec(), bytes(&case["handshakeHash"]));
        assert_eq!(
            (a.tx, a.rx),
            (key(&case["initiatorTx"]), key(&case["initiatorRx"]))
        );
        assert_eq!((b.rx, b.tx), (a.tx, a.rx));
    }
    assert_eq!(count, 6);
}

#[test]
fn diffie_hellman_agrees_with_the_vectors_from_both_ends() {
    for case in cases("network/noise-dh.json") {
        let (a, b) = (
            KeyPair::from_seed(key(&case["a_seed"])),
            KeyPair::from_seed(key(&case["b_seed"])),
        );
        assert_eq!(*a.public_key(), key(&case["a_public"]));
        assert_eq!(*a.dh(b.public_key()).unwrap(), key(&case["shared"]));
        assert_eq!(*b.dh(a.public_key()).unwrap(), key(&case["shared"]));
    }
}

#[test]
fn points_of_small_order_or_outside_the_subgroup_or_not_canonical_are_refused() {
    let pair = KeyPair::from_seed([7; 32]);
    let mut refused = 0;
    for case in cases("data/secret-stream.json") {
        match case["kind"].as_str() {
            Some("dh") => {
                let own = KeyPair::from_seed(key(&case["a"]));
                assert_eq!(*own.dh(&key(&case["bPublic"])).unwrap(), key(&case["shared"]));
            }
            Some("dh-refuse") => {
                assert_eq!(
                    pair.dh(&key(&case["publicKey"])).err(),
                    Some(NoiseError::PublicKey)
                );
                refused += 1;
            }
            _ => {}
        }
    }
    assert_eq!(refused, 2);
    // y = p + 3, a non-canonical encoding of y = 3.
    let mut not_canonical = [0xff; 32];
    not_canonical[0] = 0xf0;
    not_canonical[31] = 0x7f;
    assert_eq!(pair.dh(&not_canonical).err(), Some(NoiseError::PublicKey));
}

#[test]
fn every_changed_bit_of_a_message_makes_the_handshake_fail() {
    let (client, server) = (KeyPair::from_seed([1; 32]), KeyPair::from_seed([2; 32]));
    let mut initiator = Handshake::ik_initiator(client, [3; 32], *server.public_key(), b"p");
    let message = initiator.write(b"hello").unwrap();
    for bit in 0..message.len() * 8 {
        let mut changed = message.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(
            Handshake::ik_responder(server.clone(), [4; 32], b"p")
                .read(&changed)
                .is_err(),
            "bit {bit}"
        );
    }
    for length in 0..message.len() {
        let mut responder = Handshake::ik_responder(server.clone(), [4; 32], b"p");
        assert!(responder.read(&message[..length]).is_err(), "cut to {length}");
    }
    assert!(
        Handshake::ik_responder(server, [4; 32], b"q")
            .read(&message)
            .is_err()
    );
}
