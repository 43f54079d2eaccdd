//! Streams: every byte on the transport, and what is refused.

use cumulet_secret_stream::noise::{Handshake, HandshakeResult, KeyPair};
use cumulet_secret_stream::{
    Event, HEADER_BYTES, IDLE_TIMEOUT, KEEP_ALIVE, MAX_PLAINTEXT_BYTES, SecretStream, Seeds, SendError,
    StreamError,
};
use serde_json::Value;
use std::time::Instant;

use crate::{bytes, cases, fixed};

fn pair_from(case: &Value) -> [SecretStream; 2] {
    let key = |name: &str| KeyPair::from_seed(fixed(&case[name]));
    let (initiator, responder) = (key("initiatorStaticSeed"), key("responderStaticSeed"));
    let (e1, e2) = (
        fixed(&case["initiatorEphemeralSeed"]),
        fixed(&case["responderEphemeralSeed"]),
    );
    let handshakes = if case["pattern"] == "XX" {
        [
            Handshake::xx(true, initiator, e1, &[]),
            Handshake::xx(false, responder, e2, &[]),
        ]
    } else {
        let remote = *responder.public_key();
        [
            Handshake::ik_initiator(initiator, e1, remote, &[]),
            Handshake::ik_responder(responder, e2, &[]),
        ]
    };
    let headers = [fixed(&case["initiatorHeader"]), fixed(&case["responderHeader"])];
    let [a, b] = handshakes;
    [
        SecretStream::begin(a, headers[0]).unwrap(),
        SecretStream::begin(b, headers[1]).unwrap(),
    ]
}

fn pair() -> [SecretStream; 2] {
    let side = |initiator, n: u8| {
        let seeds = Seeds {
            ephemeral: [n; 32],
            header: [n; HEADER_BYTES],
        };
        SecretStream::xx(initiator, KeyPair::from_seed([n + 1; 32]), &seeds).unwrap()
    };
    [side(true, 10), side(false, 20)]
}

/// Carries bytes until both are quiet; returns all bytes and events of each side.
fn converse(sides: &mut [SecretStream; 2], chunk: usize) -> [(Vec<u8>, Vec<Event>); 2] {
    let mut heard: [(Vec<u8>, Vec<Event>); 2] = Default::default();
    loop {
        let mut quiet = true;
        for from in 0..2 {
            let out = sides[from].take_output();
            heard[from].0.extend_from_slice(&out);
            for piece in out.chunks(chunk) {
                sides[1 - from].receive(piece);
                quiet = false;
                while let Some(event) = sides[1 - from].poll_event().unwrap() {
                    heard[1 - from].1.push(event);
                }
            }
        }
        if quiet {
            return heard;
        }
    }
}

#[test]
fn streams_write_the_bytes_that_javascript_writes_whatever_the_segments() {
    for case in cases("data/secret-stream.json")
        .iter()
        .filter(|case| case["kind"] == "stream")
    {
        for chunk in [1, 7, 100_000] {
            let mut sides = pair_from(case);
            let opening = converse(&mut sides, chunk);
            for (side, name) in sides.iter_mut().zip(["initiatorMessages", "responderMessages"]) {
                for message in case[name].as_array().unwrap() {
                    side.send(&bytes(message)).unwrap();
                }
            }
            let rest = converse(&mut sides, chunk);
            for (index, name) in ["initiator", "responder"].iter().enumerate() {
                let wire = [&opening[index].0[..], &rest[index].0[..]].concat();
                assert_eq!(hex::encode(wire), case[format!("{name}Bytes")].as_str().unwrap());
                assert_eq!(opening[index].1, [Event::Open, Event::Connected]);
                let messages: Vec<_> = case[format!("{name}Messages")]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(bytes)
                    .collect();
                let events: Vec<_> = messages.into_iter().map(|m| Event::Message(m.into())).collect();
                assert_eq!(rest[1 - index].1, events);
                let session = sides[index].session().unwrap();
                assert_eq!(session.handshake_hash.to_vec(), bytes(&case["handshakeHash"]));
            }
        }
    }
}

#[test]
fn streams_over_finished_handshakes_write_the_bytes_of_the_network_vectors() {
    for case in cases("network/secret-stream.json") {
        let is_initiator = case["sender_is_initiator"].as_bool().unwrap();
        let session = |is_initiator, tx, rx| HandshakeResult {
            tx,
            rx,
            handshake_hash: fixed(&case["handshake_hash"]),
            remote_public_key: [0; 32],
            is_initiator,
        };
        let key = fixed(&case["tx_key"]);
        let sender = session(is_initiator, key, [1; 32]);
        let mut sender = SecretStream::from_handshake(sender, fixed(&case["header"]));
        let mut receiver =
            SecretStream::from_handshake(session(!is_initiator, [1; 32], key), [2; HEADER_BYTES]);
        assert_eq!(sender.poll_event(), Ok(Some(Event::Open)));
        assert_eq!(receiver.poll_event(), Ok(Some(Event::Open)));
        let mut wire = sender.take_output().to_vec();
        assert_eq!(wire, bytes(&case["id_header_frame"]));
        receiver.receive(&wire);
        assert_eq!(receiver.poll_event(), Ok(Some(Event::Connected)));
        for frame in case["frames"].as_array().unwrap() {
            sender.send(&bytes(&frame["plain"])).unwrap();
            let sealed = sender.take_output();
            assert_eq!(sealed, bytes(&frame["frame"]));
            wire.extend_from_slice(&sealed);
            receiver.receive(&sealed);
            assert_eq!(
                receiver.poll_event(),
                Ok(Some(Event::Message(bytes(&frame["plain"]).into())))
            );
        }
        assert_eq!(wire, bytes(&case["wire"]));
    }
}

#[test]
fn a_changed_bit_anywhere_kills_the_stream_for_good() {
    let mut sides = pair();
    converse(&mut sides, 1000);
    let [a, mut b] = sides;
    let mut a = a;
    a.send(b"hello").unwrap();
    let mut wire = a.take_output().to_vec();
    let last = wire.len() - 1;
    wire[last] ^= 1;
    b.receive(&wire);
    assert_eq!(b.poll_event(), Err(StreamError::Forged));
    assert_eq!(b.poll_event(), Err(StreamError::Closed));
    assert_eq!(b.send(b"x"), Err(SendError::NotOpen));
    b.receive(&wire);
    assert_eq!(b.poll_event(), Err(StreamError::Closed));
}

#[test]
fn messages_can_be_neither_dropped_nor_swapped() {
    for order in [[1, 0], [1, 1]] {
        let mut sides = pair();
        converse(&mut sides, 1000);
        let [mut a, mut b] = sides;
        let frames = [b"one", b"two"].map(|text| {
            a.send(text).unwrap();
            a.take_output()
        });
        for index in order {
            b.receive(&frames[index]);
        }
        assert_eq!(b.poll_event(), Err(StreamError::Forged));
    }
}

#[test]
fn a_header_of_another_session_or_of_ourselves_is_refused() {
    let [mut a, mut b] = pair();
    let reflected = {
        b.receive(&a.take_output());
        assert_eq!(b.poll_event(), Ok(None));
        a.receive(&b.take_output());
        assert_eq!(a.poll_event(), Ok(Some(Event::Open)));
        a.take_output()
    };
    // Message 3 (67 bytes), then a's own header comes back to it.
    a.receive(&reflected[67..]);
    assert_eq!(a.poll_event(), Err(StreamError::Header));
}

#[test]
fn before_the_handshake_ends_frames_above_65535_bytes_are_refused_without_waiting_for_them() {
    let [mut a, mut b] = pair();
    b.receive(&[0x00, 0x00, 0x01]);
    assert_eq!(
        b.poll_event(),
        Err(StreamError::FrameTooLong {
            announced: 65_536,
            limit: 65_535
        })
    );
    a.receive(&[0xff, 0xff, 0x00]);
    assert_eq!(a.poll_event(), Ok(None));
    let [mut c, mut d] = pair();
    d.receive(&c.take_output());
    assert_eq!(d.poll_event(), Ok(None));
    c.receive(&d.take_output());
    assert_eq!(c.poll_event(), Ok(Some(Event::Open)));
    c.receive(&[57, 0, 0]);
    assert_eq!(
        c.poll_event(),
        Err(StreamError::FrameTooLong {
            announced: 57,
            limit: 56
        })
    );
}

#[test]
fn the_largest_message_passes_and_a_byte_more_is_not_sent() {
    let mut sides = pair();
    assert_eq!(sides[0].send(b"early"), Err(SendError::NotOpen));
    converse(&mut sides, 1000);
    let big = vec![7; MAX_PLAINTEXT_BYTES + 1];
    assert_eq!(sides[0].send(&big), Err(SendError::TooLong { bytes: big.len() }));
    sides[0].send_parts(&[&big[1..1000], &big[1000..]]).unwrap();
    let heard = converse(&mut sides, 1 << 20);
    assert_eq!(heard[1].1, [Event::Message(big[1..].to_vec().into())]);
}

#[test]
fn a_quiet_stream_keeps_itself_alive_and_a_dead_peer_is_noticed() {
    let mut sides = pair();
    converse(&mut sides, 1000);
    let start = Instant::now();
    for side in &mut sides {
        side.set_keep_alive(KEEP_ALIVE);
        side.handle_timeout(start).unwrap();
    }
    let mut now = start;
    // A minute of silence from above: the keep-alives cross, and nothing else does.
    while now < start + IDLE_TIMEOUT * 2 {
        now = sides[0].poll_timeout().unwrap();
        for side in &mut sides {
            side.handle_timeout(now).unwrap();
        }
        let heard = converse(&mut sides, 1000);
        let quiet = |event: &Event| *event == Event::KeepAlive;
        assert!(heard.iter().all(|(_, events)| events.iter().all(quiet)));
    }
    let [mut a, mut b] = sides;
    let silence = now;
    let died = loop {
        now = a.poll_timeout().unwrap();
        if a.handle_timeout(now).is_err() {
            break now;
        }
        a.take_output();
    };
    assert!(died - silence >= IDLE_TIMEOUT && died - silence <= IDLE_TIMEOUT + KEEP_ALIVE);
    assert_eq!(a.poll_event(), Err(StreamError::Closed));
    // The first keep-alive comes between 1 and 1.5 intervals after the last message.
    b.send(b"last").unwrap();
    b.take_output();
    let sent = b.poll_timeout().unwrap();
    let mut at = sent;
    while b.pending_output() == 0 {
        b.receive(&[]);
        at = b.poll_timeout().unwrap();
        b.handle_timeout(at).unwrap();
    }
    assert!(at - sent <= KEEP_ALIVE + KEEP_ALIVE / 2);
}
